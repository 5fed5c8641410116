//! `tests/dialogues/*.pop3`: conversations with real servers' habits, replayed in every chunking against a golden transcript.
//!
//! A playbook's lines: `C: text` and `S: text` say a line that ends in CR LF; `C- text` and `S- text` one that ends in a bare
//! LF; `C. text` and `S. text` octets without any line end. `\xNN`, `\r`, `\n`, `\\` are escapes, `*N` at the end of the text
//! repeats its last octet N times. Lines of one side that follow each other arrive in one segment when the cuts allow it;
//! `--` alone parts them. `C!` and `S!` end a side's stream; at `T!` TLS stands on
//! the client's hop. `# option` sets an option of the built-in handling, and lines that begin with `#|` are a part of the
//! configuration file: rules. With `# slow` every reply is a slow one, and every silence a long one.
//! What a recorder finds odd stands at the end of the golden transcript.
//! With `POPTAP_BLESS=1` the golden transcripts are written anew.

use std::{fmt::Write as _, fs, path::Path, sync::Arc, time::Duration};

use poptap::{
    policy::{ClientHop, Facts, Policy, Rules, Settings, Terms},
    pop3::Peer,
    tap::Caps,
};

use crate::support::{
    play::{Cuts, Played, Step, pieces_of, play_recorded, random_pieces},
    rules,
};

#[test]
fn dialogues_in_every_chunking() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
    let mut count = 0;
    let mut failures = String::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "pop3") {
            count += 1;
            if let Err(difference) = replay(&path) {
                write!(failures, "\n── {}\n{difference}", path.display()).unwrap();
            }
        }
    }
    assert!(count >= 20, "only {count} playbooks in {}", folder.display());
    assert!(failures.is_empty(), "{failures}");
}

fn replay(path: &Path) -> Result<(), String> {
    let playbook = fs::read_to_string(path).unwrap();
    let (settings, steps) = parse(&playbook);
    let rules = rules_in(&playbook);
    let slow = if playbook.lines().any(|line| line == "# slow") { Duration::ZERO } else { Duration::from_secs(10) };
    let golden_path = path.with_extension("golden");
    let replayed = |cuts: Cuts<'_>| {
        let inside_tls = Settings { client: ClientHop::Tls, ..settings };
        let (outside, inside) = (policy(settings, rules.as_ref(), false), policy(inside_tls, rules.as_ref(), true));
        render(&play_recorded(outside, Some(inside), &steps, slow, cuts))
    };
    let whole = replayed(&mut pieces_of(usize::MAX));
    if std::env::var_os("POPTAP_BLESS").is_some() {
        fs::write(&golden_path, &whole).unwrap();
    }
    let golden = fs::read_to_string(&golden_path).map_err(|error| format!("{}: {error}", golden_path.display()))?;
    same(&golden, &whole, "in whole segments")?;
    for size in [1, 2, 3, 5, 7, 16, 100, 511, 512, 513] {
        let played = replayed(&mut pieces_of(size));
        same(&golden, &played, &format!("in pieces of {size}"))?;
    }
    for seed in 1..60 {
        let played = replayed(&mut random_pieces(seed, 40));
        same(&golden, &played, &format!("cut at random with seed {seed}"))?;
    }
    Ok(())
}

fn rules_in(playbook: &str) -> Option<Arc<Rules>> {
    let lines: Vec<&str> = playbook.lines().filter_map(|line| line.strip_prefix("#| ")).collect();
    (!lines.is_empty()).then(|| rules::compiled(&lines.join("\n")))
}

pub(crate) fn policy(settings: Settings, rules: Option<&Arc<Rules>>, tls: bool) -> Policy {
    let facts = Facts { client: [127, 0, 0, 1].into(), listener: ([127, 0, 0, 1], 1110).into(), upstream: "server", tls };
    let caps = Caps { command: 512, sasl: 2048 };
    Policy::new(settings, rules.map(|rules| Terms::of_rules(rules.for_session(&facts), caps)))
}

fn same(golden: &str, played: &str, how: &str) -> Result<(), String> {
    if golden == played {
        return Ok(());
    }
    let mut difference = format!("{how}:\n");
    let (golden, played): (Vec<_>, Vec<_>) = (golden.lines().collect(), played.lines().collect());
    for at in 0..golden.len().max(played.len()) {
        let (expected, got) = (golden.get(at).unwrap_or(&""), played.get(at).unwrap_or(&""));
        if expected == got {
            writeln!(difference, "  {expected}").unwrap();
        } else {
            writeln!(difference, "- {expected}\n+ {got}").unwrap();
        }
    }
    Err(difference)
}

fn render(played: &Played) -> String {
    // How the two directions' events interleave may depend on the cuts; the order within each may not.
    let (client, upstream): (Vec<&str>, Vec<&str>) =
        played.events.iter().map(String::as_str).partition(|event| is_of_client(event));
    let mut text = [client, upstream].concat().join("\n");
    write!(text, "\n\nreached the server:\n{}", shown(&played.to_upstream)).unwrap();
    write!(text, "\nreached the client:\n{}", shown(&played.to_client)).unwrap();
    write!(text, "\nends passed on: client {}, server {}\n", played.ended.0, played.ended.1).unwrap();
    if !played.anomalies.is_empty() {
        let anomalies: Vec<_> = played.anomalies.iter().map(|(id, count)| format!("{id} {count}")).collect();
        writeln!(text, "anomalies: {}", anomalies.join(", ")).unwrap();
    }
    text
}

fn is_of_client(event: &str) -> bool {
    event.starts_with("C ")
        || ["P Answer", "P Allow", "P Rewrite", "P Shield", "P Tag"].iter().any(|start| event.starts_with(start))
        || event.starts_with("P Close") && event.contains("of client")
        || event.contains("Client:")
        || event.contains("client data")
        || event.contains("unfinished Client")
}

fn shown(octets: &[u8]) -> String {
    let mut text = String::new();
    for line in octets.split_inclusive(|&octet| octet == b'\n') {
        if line.len() > 300 {
            writeln!(text, "  {}…{} octets", line[..20].escape_ascii(), line.len()).unwrap();
        } else {
            writeln!(text, "  {}", line.escape_ascii()).unwrap();
        }
    }
    text
}

pub(crate) fn parse(playbook: &str) -> (Settings, Vec<Step>) {
    let (mut settings, mut steps, mut apart) = (Settings::default(), Vec::new(), true);
    for line in playbook.lines() {
        let (mark, text) = line.split_at(line.len().min(2));
        let text = text.strip_prefix(' ').unwrap_or(text);
        let peer = if mark.starts_with('C') { Peer::Client } else { Peer::Upstream };
        match mark {
            "# " => option(&mut settings, text),
            "#|" => {}
            "--" => apart = true,
            "T!" => steps.push(Step::Secured),
            "C!" | "S!" => steps.push(Step::Ends(peer)),
            "C:" | "S:" => say(&mut steps, peer, octets(text), b"\r\n", &mut apart),
            "C-" | "S-" => say(&mut steps, peer, octets(text), b"\n", &mut apart),
            "C." | "S." => say(&mut steps, peer, octets(text), b"", &mut apart),
            _ => assert!(line.trim().is_empty(), "unknown playbook line: {line}"),
        }
    }
    (settings, steps)
}

fn option(settings: &mut Settings, text: &str) {
    match text {
        "refuse-stls" => settings.refuse_stls = true,
        "pass-xclient" => settings.pass_xclient = true,
        "strip-apop" => settings.strip_apop = true,
        "upstream-tls" => settings.upstream_tls = true,
        "offer-stls" => settings.client = ClientHop::Stls { required: false },
        "require-stls" => settings.client = ClientHop::Stls { required: true },
        "client-tls" => settings.client = ClientHop::Tls,
        _ => {}
    }
}

fn say(steps: &mut Vec<Step>, peer: Peer, text: Vec<u8>, end: &[u8], apart: &mut bool) {
    let octets = [text, end.to_vec()].concat();
    match steps.last_mut() {
        Some(Step::Says(last, said)) if *last == peer && !*apart => said.extend(octets),
        _ => steps.push(Step::Says(peer, octets)),
    }
    *apart = false;
}

fn octets(text: &str) -> Vec<u8> {
    let (text, times) = match text.rsplit_once('*').and_then(|(text, times)| Some((text, times.parse::<usize>().ok()?))) {
        Some((text, times)) => (text, times),
        None => (text, 1),
    };
    let mut octets = Vec::new();
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(if octet == b'\\' { escaped(&mut rest) } else { octet });
    }
    let last = octets.last().copied();
    octets.extend(last.into_iter().cycle().take(if last.is_some() { times - 1 } else { 0 }));
    octets
}

fn escaped(rest: &mut impl Iterator<Item = u8>) -> u8 {
    match rest.next() {
        Some(b'r') => b'\r',
        Some(b'n') => b'\n',
        Some(b'\\') => b'\\',
        Some(b'x') => {
            let digits = [rest.next().unwrap(), rest.next().unwrap()];
            u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
        }
        other => panic!("unknown escape {other:?}"),
    }
}
