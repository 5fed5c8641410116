//! Rules of the house that a scan of the sources can hold.

use std::{fs, path::Path};

#[test]
fn the_core_is_deaf_and_blind() {
    for folder in ["src/pop3", "src/tap"] {
        for (path, source) in sources(folder) {
            for forbidden in ["tokio", "async ", "std::net", "std::fs", "std::time", "tracing", "println!", "eprintln!", "rustls"]
            {
                for (number, line) in source.lines().enumerate() {
                    let code = line.split("//").next().unwrap_or("");
                    assert!(!code.contains(forbidden), "{path}:{}: the core may not name `{forbidden}`: {line}", number + 1);
                }
            }
        }
    }
}

#[test]
fn arrows_point_inward() {
    let above: [(&str, &[&str]); 4] = [
        (
            "src/pop3",
            &["crate::tap", "crate::relay", "crate::session", "crate::server", "crate::record", "crate::policy", "crate::config"],
        ),
        ("src/tap", &["crate::relay", "crate::session", "crate::server", "crate::record", "crate::policy", "crate::config"]),
        ("src/relay.rs", &["crate::session", "crate::server", "crate::record", "crate::policy", "crate::net", "crate::tls"]),
        ("src/relay", &["crate::session", "crate::server", "crate::record", "crate::policy", "crate::net", "crate::tls"]),
    ];
    for (place, outer) in above {
        for (path, source) in sources(place) {
            for name in outer {
                assert!(!source.contains(name), "{path} may not use {name}");
            }
        }
    }
}

#[test]
fn files_fit_in_a_head() {
    for (path, source) in sources("src").into_iter().filter(|(path, _)| !path.ends_with("tests.rs")) {
        let code = source.split("#[cfg(test)]").next().unwrap_or("");
        let lines = code.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("//")).count();
        assert!(lines <= 400, "{path} has {lines} lines of code: split it");
    }
}

#[test]
fn only_one_file_reads_pem() {
    let users: Vec<_> =
        sources("src").into_iter().filter(|(_, source)| source.contains("rustls_pemfile::")).map(|(path, _)| path).collect();
    assert_eq!(users.len(), 1, "rustls-pemfile is called from one file: {users:?}");
}

/// Every Rust file of a folder, or the file itself.
fn sources(place: &str) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(place);
    let mut found = Vec::new();
    collect(&path, &mut found);
    assert!(!found.is_empty(), "no sources in {place}");
    found
}

fn collect(path: &Path, found: &mut Vec<(String, String)>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        found.push((path.display().to_string(), fs::read_to_string(path).unwrap()));
    }
}
