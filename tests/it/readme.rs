//! The documents keep their promises: what they tell people to type is understood, and what they show is what happens.
//! The questions that they answer with `jq` are asked in `tests/real/questions.rs`.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output},
};

use clap::{CommandFactory as _, Parser as _};
use poptap::{cli::Cli, commands::exit, config::UpstreamUrl};
use regex::Regex;
use serde_json::Value;

const DOCUMENTS: &[&str] = &[
    "README.md",
    "DESIGN.md",
    "CONTRIBUTING.md",
    "docs/anomalies.md",
    "docs/audit.md",
    "docs/export.md",
    "docs/filters.md",
    "docs/interception.md",
    "docs/limits.md",
    "docs/listeners.md",
    "docs/metrics.md",
    "docs/policy.md",
    "docs/probe.md",
    "docs/replay.md",
    "docs/service.md",
    "docs/transcript.md",
    "docs/routing.md",
    "docs/upgrade.md",
    "docs/upstreams.md",
    "docs/web.md",
    "certs/README.md",
    "packaging/README.md",
    "tests/README.md",
];

#[test]
fn every_command_line_is_understood() {
    let help: String = all_commands().iter().filter_map(|command| Some(command.get_after_help()?.to_string())).collect();
    let printed = help.lines().map(|line| line.trim().to_owned());
    let lines: Vec<_> = DOCUMENTS.iter().flat_map(|path| code(&read(path))).chain(printed).collect();
    let lines: Vec<_> = lines.iter().filter(|line| line.starts_with("poptap ")).collect();
    assert!(lines.len() > 20, "{lines:?}");
    for line in lines {
        // What follows is a pipe, a redirection, or an explanation behind some blanks.
        let words = [" | ", " > ", "   "].iter().fold(line.as_str(), |line, end| line.split(end).next().unwrap_or(line));
        if let Err(error) = Cli::try_parse_from(split(words)) {
            panic!("{line}\n{error}");
        }
    }
}

/// A command line as a shell takes it apart, as far as single quotes go.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, piece) in line.split('\'').enumerate() {
        if at % 2 == 1 { words.push(piece.to_owned()) } else { words.extend(piece.split_whitespace().map(str::to_owned)) }
    }
    words
}

#[test]
fn every_flag_exists() {
    let ours: BTreeSet<String> = all_commands()
        .iter()
        .flat_map(clap::Command::get_arguments)
        .filter_map(|flag| Some(flag.get_long()?.to_owned()))
        .collect();
    // Of cargo, cargo-deny, the test runner, curl, systemctl and benches/compare.
    let others = [
        "release",
        "offline",
        "path",
        "lib",
        "test",
        "all-targets",
        "locked",
        "version",
        "cacert",
        "ssl-reqd",
        "now",
        "install",
        "kill-whom",
    ];
    let flag = Regex::new(r"(?:^|[\s`(])--([a-z][a-z-]+)").unwrap();
    for path in DOCUMENTS {
        for found in flag.captures_iter(&read(path)) {
            assert!(ours.contains(&found[1]) || others.contains(&&found[1]), "{path} names --{}", &found[1]);
        }
    }
}

#[test]
fn every_setting_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let setting = Regex::new(r#"`([a-z_]+ = "[^"`]*")`"#).unwrap();
    let mut settings = BTreeSet::new();
    for path in DOCUMENTS {
        settings.extend(setting.captures_iter(&read(path)).map(|found| found[1].to_owned()));
    }
    assert!(settings.len() > 5, "{settings:?}");
    for setting in settings {
        let upstream = "[[upstream]]\nurl = \"pop3://192.0.2.1\"\n";
        let rule = "[[rule]]\nname = 'r'\naction = 'tag'\n";
        let section = match setting.split(' ').next().unwrap() {
            "apop" | "proxy_protocol" | "xclient" => String::new(),
            "mode" => rule.to_owned(),
            "transparent" | "source" => "[[listener]]\n".to_owned(),
            "upstream" => "[[listener]]\ntransparent = 'redirect'\notherwise = 'plain'\n".to_owned(),
            "otherwise" => "[[listener]]\ntransparent = 'redirect'\nupstream = 'original'\n".to_owned(),
            "tls" => "[[listener]]\nupstream = 'pop3s://192.0.2.1'\n".to_owned(),
            "stage" => format!("{rule}[rule.when]\n"),
            _ => "[transcript]\n".to_owned(),
        };
        let file = folder.path().join("poptap.toml");
        fs::write(&file, format!("{upstream}{section}{setting}\n")).unwrap();
        let checked = poptap(&["check", "--config", text(&file), "--transcript", text(&folder.path().join("t"))]);
        assert!(checked.status.success(), "{setting}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn every_rule_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let page = read("docs/policy.md");
    let examples: Vec<_> = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() > 3, "{examples:?}");
    for example in examples {
        let file = folder.path().join("poptap.toml");
        fs::write(&file, example).unwrap();
        let mut check = Command::new(env!("CARGO_BIN_EXE_poptap"));
        check.args(["check", "pop3://192.0.2.1", "--config", text(&file), "--no-transcript"]);
        let checked = check.env("STATE_DIRECTORY", folder.path()).output().unwrap();
        assert!(checked.status.success(), "{example}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

/// Times, ids, ports and dates differ from run to run; all else is as README shows it, in that order.
#[test]
fn the_demo_prints_what_readme_shows() {
    let shown = blocks(&read("README.md")).into_iter().find(|block| block.contains("-- session")).unwrap();
    let demo = poptap(&["demo"]);
    assert!(demo.status.success(), "{}", String::from_utf8_lossy(&demo.stderr));
    let printed = String::from_utf8(demo.stdout).unwrap();
    let mut printed = printed.lines().map(timeless);
    for line in shown.lines().filter(|line| line.trim() != "…") {
        let line = timeless(line);
        assert!(printed.any(|printed| printed == line), "the demo does not print `{line}`, or elsewhere");
    }
}

fn timeless(line: &str) -> String {
    let differing = Regex::new(r"^ *\+[0-9.]+|session [0-9a-z]{12}|127\.0\.0\.1:[0-9]+|until \S+|  \(after .*\)").unwrap();
    differing.replace_all(line, "").into_owned()
}

#[test]
fn exit_codes_are_those_of_the_table() {
    let row = Regex::new(r"(?m)^\| ([0-9]+) \| [a-z]").unwrap();
    let rows: Vec<u8> = row.captures_iter(&read("README.md")).map(|found| found[1].parse().unwrap()).collect();
    let codes = [exit::UNAVAILABLE, exit::SOFTWARE, exit::CANT_CREATE, exit::IO, exit::NO_PERMISSION, exit::CONFIG];
    assert_eq!(rows, [&[0, exit::DIFFERENT, exit::USAGE][..], &codes].concat());
    let help = Cli::command().get_after_help().unwrap().to_string();
    let codes = Regex::new(r"[0-9]+").unwrap();
    let (_, listed) = help.split_once("Exit codes:").unwrap();
    assert_eq!(codes.find_iter(listed).map(|code| code.as_str().parse().unwrap()).collect::<Vec<u8>>(), rows);
}

#[test]
fn urls_have_the_ports_of_the_table() {
    let row = Regex::new(r"(?m)^\| `([a-z3+]+://host)` \| ([0-9]+) \|").unwrap();
    let readme = read("README.md");
    let rows: Vec<_> = row.captures_iter(&readme).collect();
    assert_eq!(rows.len(), 3);
    for found in rows {
        let url: UpstreamUrl = found[1].parse().unwrap();
        assert_eq!(url.port.to_string(), found[2], "{}", &found[1]);
    }
}

#[test]
fn links_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)]+)\)").unwrap();
    for path in DOCUMENTS.iter().copied().chain(["CHANGELOG.md"]) {
        let document = read(path);
        for found in link.captures_iter(&document).filter(|found| !found[1].contains("://")) {
            let (file, heading) = found[1].split_once('#').unwrap_or((&found[1], ""));
            let target = if file.is_empty() { path.to_owned() } else { text(&Path::new(path).with_file_name(file)).to_owned() };
            let there = read(&target);
            let known = heading.is_empty() || there.lines().any(|line| line.starts_with('#') && slug(line) == heading);
            assert!(known, "{path} links to {}", &found[1]);
        }
    }
}

/// How a heading is named in a link.
fn slug(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().chars().filter(|letter| letter.is_alphanumeric() || " -".contains(*letter));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn the_stated_rust_is_the_one_that_cargo_asks_for() {
    let version = Regex::new(r"Rust \(?([0-9.]+[0-9])").unwrap();
    for path in ["README.md", "CONTRIBUTING.md"] {
        assert_eq!(&version.captures(&read(path)).unwrap()[1], env!("CARGO_PKG_RUST_VERSION"), "{path}");
    }
}

/// Both ways: what is written is described, and what is described is written.
#[test]
fn the_transcript_s_fields_are_described() {
    let schema: Value = serde_json::from_str(&read("docs/transcript.schema.json")).unwrap();
    let (mut fields, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    collect(&schema, &mut fields, &mut kinds);
    assert!(fields.len() > 60 && kinds.len() > 15, "{fields:?} {kinds:?}");
    let page = read("docs/transcript.md");
    for name in fields.union(&kinds) {
        assert!(page.contains(&format!("`{name}`")), "docs/transcript.md does not name `{name}`");
    }
    let (tables, _) = page.split_once("Values of `reason`").unwrap();
    let (_, tables) = tables.split_once("## Every line").unwrap();
    let first_column = Regex::new(r"(?m)^\| ((?:`[a-z0-9_-]+`(?:, )?)+) \|").unwrap();
    let name = Regex::new(r"`([a-z0-9_-]+)`").unwrap();
    for row in first_column.captures_iter(tables) {
        for found in name.captures_iter(&row[1]).filter(|found| &found[1] != "event") {
            assert!(fields.contains(&found[1]) || kinds.contains(&found[1]), "the schema does not know `{}`", &found[1]);
        }
    }
}

/// The names of properties, and of the kinds of event, in a JSON Schema.
fn collect(schema: &Value, fields: &mut BTreeSet<String>, kinds: &mut BTreeSet<String>) {
    match schema {
        Value::Object(entries) => {
            for (key, value) in entries {
                match (key.as_str(), value) {
                    ("properties", Value::Object(properties)) => fields.extend(properties.keys().cloned()),
                    ("const", Value::String(kind)) => drop(kinds.insert(kind.clone())),
                    _ => {}
                }
                collect(value, fields, kinds);
            }
        }
        Value::Array(elements) => elements.iter().for_each(|element| collect(element, fields, kinds)),
        _ => {}
    }
}

/// The ends that a session can have are listed where a reader looks for them.
#[test]
fn the_reasons_of_ends_are_listed() {
    let page = read("docs/transcript.md");
    let (_, listed) = page.split_once("Values of `reason`").unwrap();
    let listed = listed.split("##").next().unwrap();
    let reason = Regex::new(r#"(?:ended|closed)\("[a-z]+", "([a-z-]+)"|Refusal::[A-Za-z]+ => \("([a-z-]+)"|(?:Ending|Limit)::[A-Za-z]+ => "([a-z-]+)"|=> "((?:upstream|timeout)-[a-z-]+)""#).unwrap();
    let sources: String = [
        "src/session.rs",
        "src/session/announced.rs",
        "src/session/closing.rs",
        "src/session/secure.rs",
        "src/net/error.rs",
        "src/record/recorder.rs",
    ]
    .map(read)
    .concat();
    let found: BTreeSet<_> =
        reason.captures_iter(&sources).map(|found| found.iter().skip(1).flatten().next().unwrap().as_str()).collect();
    assert!(found.len() > 15, "{found:?}");
    for reason in found {
        assert!(listed.contains(&format!("`{reason}`")), "docs/transcript.md does not list the reason `{reason}`");
    }
}

#[test]
fn the_house_has_every_room() {
    let design = read("DESIGN.md");
    let house = blocks(&design).into_iter().find(|block| block.starts_with("main ")).unwrap();
    let shown: BTreeSet<_> =
        house.lines().filter(|line| !line.starts_with('─')).filter_map(|line| line.split(' ').next()).collect();
    let rooms = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let rooms: BTreeSet<_> = rooms.map(|room| room.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(shown, rooms.iter().map(String::as_str).filter(|room| *room != "lib").collect());
}

#[test]
fn the_archived_crate_is_called_from_one_file() {
    let users =
        Command::new("grep").args(["-rl", "rustls_pemfile", "src"]).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert_eq!(String::from_utf8(users.stdout).unwrap(), "src/tls/pem.rs\n");
}

#[test]
fn nothing_is_left_to_be_filled_in() {
    for path in DOCUMENTS {
        assert!(!read(path).contains("<!--"), "{path} has a place that was to be filled in");
    }
}

/// Every command and subcommand.
fn all_commands() -> Vec<clap::Command> {
    fn gather(command: clap::Command, into: &mut Vec<clap::Command>) {
        command.get_subcommands().for_each(|inner| gather(inner.clone(), into));
        into.push(command);
    }
    let mut commands = Vec::new();
    gather(Cli::command(), &mut commands);
    commands
}

fn poptap(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_poptap"));
    for variable in ["POPTAP_CONFIG", "POPTAP_LOG", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command.args(arguments).output().unwrap()
}

/// The lines of the fenced blocks.
fn code(document: &str) -> Vec<String> {
    blocks(document).iter().flat_map(|block| block.lines().map(str::to_owned)).collect()
}

fn blocks(document: &str) -> Vec<String> {
    document.split("```").skip(1).step_by(2).filter_map(|block| Some(block.split_once('\n')?.1.to_owned())).collect()
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
