//! Any octets from both sides under rules of every kind: no panic, a denied command never reaches the server, a dry run
//! changes nothing, and whatever is recorded holds no password.
#![no_main]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, LazyLock},
    time::Duration,
};

use libfuzzer_sys::fuzz_target;
use poptap::{
    policy::{Facts, Policy, Rules, Settings, Terms},
    tap::Caps,
};
use poptap_fuzz::{
    Conversation,
    play::{play, play_recorded, random_pieces},
    rules,
};

const CAPS: Caps = Caps { command: 512, sasl: 2048 };
const FACTS: Facts<'static> = Facts {
    client: IpAddr::V4(Ipv4Addr::LOCALHOST),
    listener: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1110),
    upstream: "server",
    tls: false,
};

static DENY: LazyLock<Arc<Rules>> =
    LazyLock::new(|| rules::compiled("[[rule]]\nname = 'keep'\nwhen = { command = 'DELE' }\naction = 'deny'"));

const EVERY_ACTION: &str = r#"
[[rule]]
name = "deny"
when = { command = "DELE", line = '^dele 1$' }
action = "deny"
[[rule]]
name = "shield"
when = { command = "DELE" }
action = "shield"
[[rule]]
name = "reply"
when = { command = "NOOP" }
action = { reply = "+OK mine" }
[[rule]]
name = "rewrite"
when = { line = '^retr ([0-9]+)$' }
action = { rewrite = "TOP $1 0" }
[[rule]]
name = "no root"
when = { user = "root" }
action = "deny"
[[rule]]
name = "close"
when = { command = "XTND" }
action = "close"
"#;
static EVERYTHING: LazyLock<Arc<Rules>> = LazyLock::new(|| rules::compiled(EVERY_ACTION));
static DRY: LazyLock<Arc<Rules>> = LazyLock::new(|| rules::compiled(&format!("[policy]\ndry_run = true\n{EVERY_ACTION}")));

fuzz_target!(|octets: &[u8]| {
    let Some(conversation) = Conversation::of(octets) else { return };
    let settings = Settings { refuse_stls: conversation.setting % 2 == 0, ..Settings::default() };
    let cuts = || random_pieces(u64::from(conversation.setting), usize::from(conversation.cuts) + 1);
    let denied = play(policy(&DENY, settings), &conversation.steps, &mut cuts());
    assert!(denied.to_upstream.split(|&octet| octet == b'\n').all(|line| !is_dele(line)) || has_messages(&denied.to_upstream));
    let bare = play(Policy::new(settings, None), &conversation.steps, &mut cuts());
    let dry = play(policy(&DRY, settings), &conversation.steps, &mut cuts());
    assert_eq!((&bare.to_upstream, &bare.to_client), (&dry.to_upstream, &dry.to_client), "a dry run changes nothing");
    play_recorded(policy(&EVERYTHING, settings), None, &conversation.steps, Duration::from_secs(1), &mut cuts());
});

fn policy(rules: &Arc<Rules>, settings: Settings) -> Policy {
    Policy::new(settings, Some(Terms::of_rules(rules.for_session(&FACTS), CAPS)))
}

/// As a server reads it.
fn is_dele(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
    line.len() > 4 && line[..4].eq_ignore_ascii_case(b"DELE") && line[4] == b' '
}

/// SASL responses and a message of XTND XMIT are no commands, whatever stands in them; nor is what is opaque.
fn has_messages(sent: &[u8]) -> bool {
    let upper = sent.to_ascii_uppercase();
    [&b"AUTH"[..], b"XTND", b"STLS", b"\x16"].iter().any(|word| upper.windows(word.len()).any(|window| window == *word))
}
