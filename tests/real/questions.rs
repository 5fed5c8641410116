//! What the documents answer with `jq`, `zstdcat` and `DuckDB`, asked of a real transcript.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::support::PATIENCE;
use crate::support::clients::isolated;
use crate::support::dovecot::{Dovecot, Mode};
use crate::support::process::run;
use crate::support::proxy::Proxy;
use crate::support::wire::Wire;

#[test]
fn the_documents_questions_have_answers() {
    let dovecot = Dovecot::start();
    let proxy = Proxy::start_with(&dovecot, Mode::Implicit, &["--content", "full"]);
    // One session deletes and breaks off, another does a little of everything.
    let mut wire = Wire::log_in(proxy.address());
    wire.ask_for_body("RETR 1");
    assert!(wire.ask("DELE 1").starts_with("+OK"));
    drop(wire);
    wait_for_summaries(&proxy.folder(), 1);
    let mut wire = Wire::log_in(proxy.address());
    wire.ask_for_lines("CAPA");
    let message = wire.ask_for_body("RETR 1");
    assert!(wire.ask("RETR 99").starts_with("-ERR"));
    wire.quit();
    let last = wait_for_summaries(&proxy.folder(), 2);

    let readme = questions("README.md");
    assert!(readme.len() >= 7, "{readme:?}");
    for question in readme {
        let question = question.replace("./t ", "\"$STORE\" ").replace("/var/lib/poptap ", "\"$STORE\" ");
        assert!(!answer(&proxy.folder(), &question).is_empty(), "no answer to {question}");
    }
    let (finished, open): (Vec<_>, Vec<_>) = questions("docs/transcript.md").into_iter().partition(|line| line.contains(".zst"));
    assert!(finished.len() == 1 && open.len() >= 4, "{open:?}");
    for question in open {
        let said = answer(&proxy.folder(), &question.replace("k3f9x0q7w2ab", &last));
        // Nothing is slow here.
        assert!(!said.is_empty() || question.contains("latency_us"), "no answer to {question}");
        if question.contains(".kept[]") {
            assert!(message.starts_with(&said[..20]), "another message came from {question}");
        }
    }
    for question in statements("docs/transcript.md") {
        assert!(rows(&proxy.folder(), &question) > 0, "no row for {question}");
    }
    let store = proxy.stop_and_keep();
    for question in statements("docs/transcript.md") {
        assert!(rows(&store.path().join("transcript"), &question) > 0, "no row for {question}, compressed");
    }
    let said = answer(&store.path().join("transcript"), &finished[0]);
    assert_eq!(String::from_utf8_lossy(&said).lines().count(), 2, "two ways to end");
}

/// Wait until so many sessions have ended, and return the id of the last. Each turn waits for a program to end.
fn wait_for_summaries(folder: &Path, number: usize) -> String {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        let listed = answer(folder, "poptap sessions list --json | jq -r 'select(.event == \"session\") | .session'");
        let listed = String::from_utf8(listed).unwrap();
        if listed.lines().count() == number {
            return listed.lines().last().unwrap().to_owned();
        }
    }
    panic!("{number} sessions did not end within {PATIENCE:?}");
}

/// What a shell prints for a line of a document. `poptap` is the built one, and finds the store at `folder`.
fn answer(folder: &Path, question: &str) -> Vec<u8> {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("poptap.toml");
    let text = format!("[[upstream]]\nurl = 'pop3://192.0.2.1'\n[transcript]\ndir = '{}'\n", folder.display());
    fs::write(&config, text).unwrap();
    let mut path = vec![Path::new(env!("CARGO_BIN_EXE_poptap")).parent().unwrap().to_owned()];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap()));
    let mut command: Command = isolated("bash", home.path());
    command.args(["-euo", "pipefail", "-c", question]).current_dir(folder);
    command.env("PATH", env::join_paths(path).unwrap()).env("POPTAP_CONFIG", config).env("STORE", folder);
    run(&mut command).stdout
}

/// How many rows `DuckDB` has for a statement, asked in the store.
fn rows(folder: &Path, statement: &str) -> usize {
    let home = tempfile::tempdir().unwrap();
    let mut command = isolated("python3", home.path());
    command.args(["-c", "import duckdb, sys; print(len(duckdb.sql(sys.argv[1]).fetchall()))", statement]);
    command.current_dir(folder).env("PYTHONPATH", [env!("CARGO_MANIFEST_DIR"), "target/python"].iter().collect::<PathBuf>());
    String::from_utf8(run(&mut command).stdout).unwrap().trim().parse().unwrap()
}

/// The statements in a document's blocks of SQL.
fn statements(document: &str) -> Vec<String> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), document].iter().collect();
    let text = fs::read_to_string(path).unwrap();
    let blocks: String = text.split("```sql\n").skip(1).map(|block| block.split("```").next().unwrap_or_default()).collect();
    let statements: Vec<_> = blocks.split(';').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect();
    assert!(statements.len() >= 4, "{statements:?}");
    statements
}

/// The lines of a document's blocks that call `jq`, each with those that it goes on in.
fn questions(document: &str) -> Vec<String> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), document].iter().collect();
    let text = fs::read_to_string(path).unwrap().replace("|\n", "| ");
    let blocks = text.split("```").skip(1).step_by(2);
    blocks.flat_map(str::lines).filter(|line| line.contains("jq ") && !line.starts_with('#')).map(str::to_owned).collect()
}
