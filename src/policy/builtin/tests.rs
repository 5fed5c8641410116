use super::*;
use crate::pop3::Stage;

/// STLS is never forwarded.
fn with(client: ClientHop, upstream_tls: bool) -> Builtin {
    Builtin::new(Settings { client, upstream_tls, refuse_stls: true, strip_apop: true, ..Settings::default() })
}

fn refusing() -> Builtin {
    with(ClientHop::Plain, false)
}

#[test]
fn holds_only_what_may_become_of_interest() {
    let filter = refusing();
    for (beginning, expected) in [
        (&b"S"[..], Hold::More),
        (b" \tst", Hold::More),
        (b"STLS", Hold::More),
        (b"STLS ", Hold::More),
        (b"STLS\n", Hold::More),
        (b"\r\n", Hold::Stream),
        (b"STLSX", Hold::Stream),
        (b"STA", Hold::Stream),
        (b"ST A", Hold::Stream),
        (b"CAPA", Hold::More),
        (b"XCLI", Hold::More),
        (b"xoip\t", Hold::More),
        (b"AUTH", Hold::More),
        (b"AUTHX", Hold::Stream),
        (b"R", Hold::Stream),
        (b"GET", Hold::Stream),
        (b"\x16", Hold::Stream),
    ] {
        assert_eq!(filter.hold(beginning, false), expected, "{}", beginning.escape_ascii());
    }
    assert_eq!(filter.hold(b"\x16", true), Hold::More);
    assert_eq!(filter.hold(b"\x16\x03", true), Hold::Decide);
    assert_eq!(filter.hold(b"\x16A", true), Hold::Stream);
    assert_eq!(Builtin::new(Settings::default()).hold(b"STLS", false), Hold::Stream);
    assert_eq!(filter.hold(b"GE", true), Hold::More);
    assert_eq!(filter.hold(b"GET / HTTP/1.1", true), Hold::More);
    assert_eq!(filter.hold(b"GETX", true), Hold::Stream);
    assert_eq!(with(ClientHop::Stls { required: false }, false).hold(b"RETR", false), Hold::More);
}

#[test]
fn xclient_is_refused_until_the_greeting_says_that_nobody_would_believe_it() {
    let context = Context { n: 1, stage: Stage::Authorization, first: true, idle: true };
    let xclient = Command::parse(b"XCLIENT ADDR=192.0.2.1");
    for (greeting, refused) in [(&b"+OK [XCLIENT] Dovecot ready."[..], true), (b"+OK Dovecot ready.", false)] {
        let mut filter = Builtin::new(Settings::default());
        assert!(matches!(filter.command(&xclient, context), Verdict::Answer { .. }));
        filter.greeting(greeting);
        assert_eq!(matches!(filter.command(&xclient, context), Verdict::Answer { .. }), refused);
    }
}

#[test]
fn every_timestamp_goes() {
    for (greeting, expected) in [
        (&b"+OK ready <1.2@host>\r\n"[..], Some(&b"+OK ready\r\n"[..])),
        (b"+OK <1@a> then <2@b> ready\r\n", Some(b"+OK then ready\r\n")),
        (b"+OK <x<1@a>@b>\r\n", Some(b"+OK\r\n")),
        (b"+OK ready\r\n", None),
    ] {
        assert_eq!(without_timestamps(greeting).as_deref(), expected, "{}", greeting.escape_ascii());
    }
}

const PLAIN: ClientHop = ClientHop::Plain;
const OPTIONAL: ClientHop = ClientHop::Stls { required: false };
const REQUIRED: ClientHop = ClientHop::Stls { required: true };
const TLS: ClientHop = ClientHop::Tls;

fn judged(filter: &mut Builtin, line: &[u8], stage: Stage) -> String {
    match filter.command(&Command::parse(line), Context { n: 2, stage, first: false, idle: true }) {
        Verdict::Forward(Wants { body: false, .. }) => "forward".to_owned(),
        Verdict::Forward(_) => "edit".to_owned(),
        Verdict::Answer { text, .. } => String::from_utf8_lossy(&text).trim_end().to_owned(),
        Verdict::StartTls { .. } => "start".to_owned(),
        other @ (Verdict::Rewrite { .. } | Verdict::Dismiss { .. } | Verdict::Wait) => panic!("{other:?}"),
        Verdict::Login { .. } => "login".to_owned(),
        Verdict::Close(violation) => violation.kind.describe().0.to_owned(),
    }
}

/// A listing as the client gets it; each answers a command of its own.
fn listed(filter: &mut Builtin, keyword: Keyword, stage: Stage, lines: &[&str]) -> Vec<String> {
    let reply = Replying { n: filter.stls_listed.unwrap_or(0) + 1, keyword: Some(keyword), stage };
    let mut shown = Vec::new();
    for line in lines {
        let line = format!("{line}\r\n");
        match filter.response_line(reply, line.as_bytes()) {
            Edit::Keep => shown.push(line),
            Edit::Replace { text, .. } => shown.push(String::from_utf8_lossy(&text).into_owned()),
            Edit::Remove { .. } => {}
        }
    }
    while let Some(addition) = filter.last_line(reply) {
        shown.push(String::from_utf8_lossy(&addition.text).into_owned());
    }
    shown.iter().map(|line| line.trim_end().to_owned()).collect()
}

#[test]
fn stls_is_agreed_to_while_nothing_was_said_that_the_server_could_keep() {
    let authorization = Stage::Authorization;
    for before in ["CAPA", "NOOP", "AUTH", "XYZZY", "LANG de", ""] {
        let mut filter = with(OPTIONAL, true);
        judged(&mut filter, before.as_bytes(), authorization);
        assert_eq!(judged(&mut filter, b"STLS", authorization), "start", "behind {before}");
    }
    let long = "x".repeat(511);
    for before in ["USER tim", "user", "PASS x", "APOP a b", "AUTH PLAIN", "RPOP x", "US\0ER x", "NOOP\rUSER x", "AUTH\0", &long]
    {
        let mut filter = with(OPTIONAL, true);
        assert_eq!(judged(&mut filter, b"stls ", authorization), "start");
        judged(&mut filter, before.as_bytes(), authorization);
        assert!(judged(&mut filter, b"STLS", authorization).starts_with("-ERR STLS has to come before"), "behind {before}");
    }
    assert!(judged(&mut with(OPTIONAL, true), b"STLS", Stage::Transaction).starts_with("-ERR STLS has to come before"));
    assert_eq!(judged(&mut with(OPTIONAL, true), b"STLS now", authorization), "-ERR STLS takes no argument");
    assert_eq!(judged(&mut with(OPTIONAL, true), b"STLS\0", authorization), "-ERR STLS takes no argument");
    assert_eq!(judged(&mut with(TLS, false), b"STLS", authorization), "-ERR TLS is active already");
    assert_eq!(judged(&mut with(PLAIN, true), b"STLS", authorization), "-ERR STLS is not available here");
    assert_eq!(judged(&mut Builtin::new(Settings::default()), b"STLS", authorization), "forward");
}

#[test]
fn no_login_passes_before_tls_where_it_is_required() {
    for line in ["USER tim", "pass x", " APOP a b", "AUTH PLAIN AGEAYg==", "AUTH", "US\0ER x", "NOOP\rUSER x", &"x".repeat(600)] {
        let mut filter = with(REQUIRED, false);
        assert!(judged(&mut filter, line.as_bytes(), Stage::Authorization).contains("turn on STLS"), "{line}");
        assert_eq!(judged(&mut filter, b"STLS", Stage::Authorization), "start", "nothing of it reached the server");
    }
    for line in ["CAPA", "NOOP", "QUIT", "UTF8"] {
        assert!(!judged(&mut with(REQUIRED, false), line.as_bytes(), Stage::Authorization).starts_with('-'), "{line}");
    }
    assert_eq!(with(REQUIRED, false).bears_opaque(), Err(ViolationKind::UnreadableBeforeTls));
    assert_eq!((with(OPTIONAL, false).bears_opaque(), with(TLS, true).bears_opaque()), (Ok(()), Ok(())));
}

#[test]
fn capabilities_are_true_for_the_clients_hop() {
    let server = ["TOP", "USER", "SASL PLAIN EXTERNAL SCRAM-SHA-1 SCRAM-SHA-1-PLUS", "stls", "X-UNKNOWN 1"];
    let (authorization, transaction) = (Stage::Authorization, Stage::Transaction);
    for (client, upstream_tls, stage, expected) in [
        (PLAIN, true, authorization, &["TOP", "USER", "SASL PLAIN EXTERNAL SCRAM-SHA-1", "X-UNKNOWN 1"][..]),
        (OPTIONAL, false, authorization, &["TOP", "USER", "SASL PLAIN SCRAM-SHA-1", "stls", "X-UNKNOWN 1"]),
        (OPTIONAL, true, transaction, &["TOP", "USER", "SASL PLAIN SCRAM-SHA-1", "X-UNKNOWN 1"]),
        (REQUIRED, true, authorization, &["TOP", "stls", "X-UNKNOWN 1"]),
        (TLS, false, authorization, &["TOP", "USER", "SASL PLAIN SCRAM-SHA-1", "X-UNKNOWN 1"]),
        (TLS, true, authorization, &["TOP", "USER", "SASL PLAIN", "X-UNKNOWN 1"]),
    ] {
        assert_eq!(listed(&mut with(client, upstream_tls), Keyword::Capa, stage, &server), expected, "{client:?} {upstream_tls}");
    }
    assert_eq!(judged(&mut Builtin::new(Settings::default()), b"CAPA", authorization), "forward", "byte for byte");
    assert_eq!(judged(&mut Builtin::new(Settings::default()), b"AUTH", authorization), "forward", "byte for byte");
}

#[test]
fn stls_is_added_once_and_only_while_it_can_be_used() {
    let mut filter = with(OPTIONAL, true);
    for _ in 0..2 {
        assert_eq!(listed(&mut filter, Keyword::Capa, Stage::Authorization, &["TOP"]), ["TOP", "STLS"]);
    }
    assert_eq!(listed(&mut filter, Keyword::Capa, Stage::Authorization, &["STLS", "TOP", "STLS"]), ["STLS", "TOP"]);
    assert_eq!(listed(&mut filter, Keyword::Capa, Stage::Transaction, &["STLS", "TOP"]), ["TOP"]);
    assert_eq!(listed(&mut filter, Keyword::Auth, Stage::Authorization, &["PLAIN", "EXTERNAL"]), ["PLAIN"]);
    judged(&mut filter, b"USER tim", Stage::Authorization);
    assert_eq!(listed(&mut filter, Keyword::Capa, Stage::Authorization, &["TOP"]), ["TOP"]);
    assert_eq!(listed(&mut with(TLS, true), Keyword::Capa, Stage::Authorization, &["TOP"]), ["TOP"]);
}

#[test]
fn http_is_told_from_pop3_by_its_version() {
    for (line, closed) in [
        ("GET / HTTP/1.1", true),
        ("get /x HTTP/1.0", true),
        ("PRI * HTTP/2.0", true),
        ("GET", false),
        ("POST office", false),
        ("RETR HTTP/1.1", false),
    ] {
        let context = Context { n: 1, stage: Stage::Authorization, first: true, idle: true };
        let verdict = Builtin::new(Settings::default()).command(&Command::parse(line.as_bytes()), context);
        assert_eq!(matches!(verdict, Verdict::Close(_)), closed, "{line}");
    }
    assert_eq!(judged(&mut Builtin::new(Settings::default()), b"GET / HTTP/1.1", Stage::Authorization), "forward", "not first");
}

#[test]
fn a_second_greeting_is_left_out() {
    let mut filter = Builtin::new(Settings { drop_greeting: true, ..Settings::default() });
    let reply = Replying { n: 0, keyword: None, stage: Stage::Authorization };
    assert!(filter.greeting(b"+OK ready") && matches!(filter.response_line(reply, b"+OK ready\r\n"), Edit::Remove { .. }));
}
