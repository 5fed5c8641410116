use super::*;

/// A script of records of which only the bodies matter; `at` counts milliseconds.
fn script(bodies: &[&str]) -> Script {
    let mut script = Script::default();
    for (at, body) in bodies.iter().enumerate() {
        let line =
            format!("{{\"v\":1,\"session\":\"s\",\"time\":\"2026-11-23T06:30:00.000000Z\",\"at_us\":{},{body}}}", at * 1000);
        script.take(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}")));
    }
    script
}

fn command(n: u64, text: &str) -> String {
    let keyword = text.split(' ').next().unwrap();
    let (text, more) = match keyword {
        "PASS" => ("PASS", r#","redacted":"secret""#),
        _ => (text, ""),
    };
    format!(r#""event":"command","n":{n},"keyword":"{keyword}","text":"{text}"{more},"octets":9,"offset":0,"forwarded":true"#)
}

fn reply(n: u64, keyword: &str, text: &str) -> String {
    let status = text.split(' ').next().unwrap();
    format!(
        r#""event":"reply","n":{n},"keyword":"{keyword}","status":"{status}","text":"{text}","octets":9,"offset":0,"latency_us":5000"#
    )
}

fn played(bodies: &[String]) -> Script {
    script(&bodies.iter().map(String::as_str).collect::<Vec<_>>())
}

fn closed(by: &str) -> String {
    format!(
        r#""event":"closed","by":"{by}","reason":"eof","client_octets":1,"upstream_octets":1,"client_undelivered":0,"upstream_undelivered":0"#
    )
}

/// What is said to a line, and whether it was recorded.
fn said(cursor: &mut Cursor<'_>, line: &str) -> (bool, String) {
    match cursor.answer(line.as_bytes()) {
        Found::Recorded(_, answer) => (true, text(&answer)),
        Found::Unrecorded(answer) => (false, text(&answer)),
        Found::Unanswered { n, closed } => (true, format!("{n} {closed}")),
    }
}

fn text(answer: &Answer) -> String {
    let whole = [&answer.challenges.concat()[..], &answer.status, answer.listing.as_deref().unwrap_or_default()].concat();
    String::from_utf8(whole).unwrap().replace("\r\n", "|")
}

fn mailbox() -> Script {
    played(&[
        r#""event":"greeting","status":"+OK","text":"+OK ready","octets":11,"offset":0"#.to_owned(),
        command(1, "USER tim"),
        reply(1, "USER", "+OK"),
        command(2, "PASS x"),
        reply(2, "PASS", "+OK logged in"),
        command(3, "STAT"),
        reply(3, "STAT", "+OK 2 200"),
        command(4, "DELE 1"),
        reply(4, "DELE", "+OK deleted"),
        command(5, "STAT"),
        reply(5, "STAT", "+OK 1 100"),
        command(6, "QUIT"),
        reply(6, "QUIT", "+OK bye"),
        closed("client"),
    ])
}

#[test]
fn answers_come_in_the_recorded_order_and_elsewhere_too() {
    let script = mailbox();
    assert_eq!(text(&script.greeting_line()), "+OK ready|");
    let mut cursor = Cursor::new(&script);
    for (line, recorded, answer) in [
        ("USER anybody", true, "+OK|"),
        ("pass  whatever it is", true, "+OK logged in|"),
        ("DELE 1", true, "+OK deleted|"),
        ("STAT", true, "+OK 1 100|"),
        ("stat ", true, "+OK 1 100|"),
        ("DELE 2", false, "-ERR not in this recording|"),
        ("CAPA", false, "-ERR not in this recording|"),
        ("NOOP", false, "+OK|"),
        ("APOP tim 0123", false, "+OK logged in|"),
        ("AUTH PLAIN", false, "+ |+OK logged in|"),
        ("AUTH PLAIN AHRpbQB4", false, "+OK logged in|"),
        ("AUTH LOGIN", false, "+ VXNlcm5hbWU6|+ UGFzc3dvcmQ6|+OK logged in|"),
        ("AUTH NTLM", false, "-ERR mechanism not in this recording|"),
        ("AUTH", false, "-ERR not in this recording|"),
        ("", false, "-ERR not in this recording|"),
        ("QUIT", true, "+OK bye|"),
    ] {
        assert_eq!(said(&mut cursor, line), (recorded, answer.to_owned()), "{line}");
    }
    let mut cursor = Cursor::new(&script);
    assert_eq!(said(&mut cursor, "STAT").1, "+OK 2 200|");
    assert_eq!(said(&mut cursor, "STAT").1, "+OK 1 100|");
}

#[test]
fn the_end_is_that_of_the_recording() {
    let bodies = |by| [command(1, "NOOP"), reply(1, "NOOP", "-ERR go away"), closed(by)];
    for (by, expected) in [("upstream", true), ("poptap", true), ("client", false)] {
        let script = played(&bodies(by));
        let Found::Recorded(1, answer) = Cursor::new(&script).answer(b"NOOP") else { panic!("{by}") };
        assert_eq!(answer.then_close, expected, "{by}");
    }
    for (by, expected) in [("upstream", "1 true"), ("client", "1 false")] {
        let script = played(&[command(1, "RETR 1"), closed(by)]);
        assert_eq!(said(&mut Cursor::new(&script), "RETR 1").1, expected);
    }
    let script = mailbox();
    let Found::Recorded(6, answer) = Cursor::new(&script).answer(b"QUIT") else { panic!() };
    assert!(answer.then_close);
}

#[test]
fn listings() {
    let capa = r#""event":"content","n":1,"keyword":"CAPA","octets":1,"size":1,"lines":3,"complete":true,"total_us":1,"listing":["STLS","TOP",".x"]"#;
    let list = r#""event":"content","n":2,"keyword":"LIST","octets":1,"size":1,"lines":4,"complete":true,"total_us":1,"listing":["3 120"]"#;
    let uidl = r#""event":"content","n":3,"keyword":"UIDL","octets":1,"size":1,"lines":2,"complete":false,"total_us":1"#;
    let script = played(&[
        command(1, "CAPA"),
        reply(1, "CAPA", "+OK"),
        capa.to_owned(),
        command(2, "LIST"),
        reply(2, "LIST", "+OK"),
        list.to_owned(),
        command(3, "UIDL"),
        reply(3, "UIDL", "+OK"),
        uidl.to_owned(),
    ]);
    let mut cursor = Cursor::new(&script);
    assert_eq!(said(&mut cursor, "CAPA").1, "+OK|TOP|..x|.|");
    assert_eq!(said(&mut cursor, "LIST").1, "+OK|3 120|4 1000|5 1000|6 1000|.|");
    let Found::Recorded(3, answer) = cursor.answer(b"UIDL") else { panic!() };
    assert_eq!((text(&answer).as_str(), answer.then_close), ("+OK|1 replayed-1|2 replayed-2|", true));
}

#[test]
fn sasl_has_its_steps_whether_or_not_the_client_begins_as_it_did() {
    let auth = |mechanism: &str, more: &str| {
        let fields =
            format!(r#""event":"command","n":1,"keyword":"AUTH","text":"AUTH {mechanism}","mechanism":"{mechanism}"{more}"#);
        format!(r#"{fields},"octets":9,"offset":0,"forwarded":true"#)
    };
    let challenge = |octets| format!(r#""event":"sasl","from":"upstream","auth":1,"octets":{octets},"offset":0"#);
    let response = r#""event":"sasl","from":"client","auth":1,"n":2,"octets":9,"offset":0"#.to_owned();
    let login = [auth("LOGIN", ""), challenge(16), response.clone(), challenge(16), response.clone(), reply(1, "AUTH", "+OK in")];
    let initial = [auth("PLAIN", r#","redacted":"secret""#), reply(1, "AUTH", "-ERR no")];
    let md5 = [auth("CRAM-MD5", ""), challenge(12), response, reply(1, "AUTH", "+OK in")];
    for (script, line, expected) in [
        (&login[..], "AUTH login", "+ VXNlcm5hbWU6|+ UGFzc3dvcmQ6|+OK in|"),
        (&login, "AUTH LOGIN dGlt", "+ UGFzc3dvcmQ6|+OK in|"),
        (&initial, "AUTH PLAIN AHRpbQB4", "-ERR no|"),
        (&initial, "AUTH PLAIN", "+ |-ERR no|"),
        (&md5, "AUTH CRAM-MD5", "+ eHh4eHh4|+OK in|"),
    ] {
        assert_eq!(said(&mut Cursor::new(&played(script)), line), (true, expected.to_owned()), "{line}");
    }
}

#[test]
fn lines_are_said_as_far_as_they_are_told() {
    let reply = |fields: &str| {
        let line = format!(r#""event":"reply","n":1,"keyword":"NOOP",{fields},"offset":0,"latency_us":1"#);
        let script = played(&[command(1, "NOOP"), line]);
        said(&mut Cursor::new(&script), "NOOP").1
    };
    assert_eq!(reply(r#""status":"+OK","text":"+OK \\x01é","octets":9"#), "+OK \u{1}é|");
    assert_eq!(reply(r#""status":"-ERR","redacted":"echo","octets":9"#), "-ERR (withheld in the recording)|");
    assert_eq!(reply(r#""status":"+OK","text":"+OK bare","line_end":"lf","octets":9"#), "+OK bare\n");
    assert_eq!(reply(r#""status":"+OK","text":"+OK long","cut":true,"octets":12"#), "+OK longxx|");
}

#[test]
fn what_a_client_cannot_have_here() {
    let script = played(&[command(1, "STLS"), reply(1, "STLS", "+OK begin TLS")]);
    assert_eq!(said(&mut Cursor::new(&script), "STLS").1, "-ERR TLS is not replayed|");
    let script = played(&[command(1, "STLS"), reply(1, "STLS", "-ERR no")]);
    assert_eq!(said(&mut Cursor::new(&script), "STLS").1, "-ERR no|");
}

#[test]
fn what_poptap_asked_on_its_own_account_is_not_played() {
    let own = command(1, "LIST").replace("\"forwarded\":true", "\"forwarded\":true,\"own\":true");
    let script = played(&[own, reply(1, "LIST", "+OK")]);
    assert!(script.is_empty());
}

#[test]
fn answers_know_how_late_they_came() {
    let script = played(&[command(1, "NOOP"), closed("client"), reply(1, "NOOP", "+OK")]);
    let Found::Recorded(1, answer) = Cursor::new(&script).answer(b"NOOP") else { panic!() };
    assert_eq!(answer.delay_us, 2000, "no later than the record's clock says");
}

#[test]
fn the_greeting_and_replies_are_those_that_the_client_got() {
    let greeting = |text: &str| format!(r#""event":"greeting","status":"+OK","text":"{text}","octets":11,"offset":0"#);
    let edited = |n: &str, line: &str| format!(r#""event":"decision"{n},"action":"edit-line","rule":"r","line":"{line}""#);
    let script = played(&[
        greeting("+OK <1@x>"),
        edited("", "+OK stripped"),
        command(1, "NOOP"),
        edited(r#","n":1"#, "+OK other"),
        reply(1, "NOOP", "+OK this"),
        greeting("+OK second"),
        edited("", "+OK third"),
    ]);
    assert_eq!(text(&script.greeting_line()), "+OK stripped|");
    assert_eq!(said(&mut Cursor::new(&script), "NOOP").1, "+OK other|");
}

#[test]
fn stls_is_listed_and_accepted_where_it_can_be_had() {
    let capa = r#""event":"content","n":1,"keyword":"CAPA","octets":1,"size":1,"lines":2,"complete":true,"total_us":1,"listing":["STLS","TOP"]"#;
    let asked = [command(1, "CAPA"), reply(1, "CAPA", "+OK"), capa.to_owned()];
    let unlisted =
        [command(1, "CAPA"), reply(1, "CAPA", "+OK"), capa.replace("\"STLS\",", "").replace("\"lines\":2", "\"lines\":1")];
    let refused = [&asked[..], &[command(2, "STLS"), reply(2, "STLS", "-ERR no")]].concat();
    let accepted = [&asked[..], &[command(2, "STLS"), reply(2, "STLS", "+OK go")]].concat();
    for (bodies, begin, tls, listed, said) in [
        (&asked[..], Begin::Offered, TlsMode::Stls, "+OK|STLS|TOP|.|", "+OK begin TLS|"),
        (&unlisted, Begin::Offered, TlsMode::Plain, "+OK|TOP|STLS|.|", "+OK begin TLS|"),
        (&refused, Begin::Never, TlsMode::Plain, "+OK|STLS|TOP|.|", "-ERR no|"),
        (&refused, Begin::Offered, TlsMode::Plain, "+OK|STLS|TOP|.|", "+OK begin TLS|"),
        (&accepted, Begin::Offered, TlsMode::Stls, "+OK|STLS|TOP|.|", "+OK go|"),
        (&accepted, Begin::Never, TlsMode::Stls, "+OK|TOP|.|", "-ERR TLS is not replayed|"),
        (&accepted, Begin::Stands, TlsMode::Stls, "+OK|TOP|.|", "-ERR TLS stands already|"),
    ] {
        let script = played(bodies);
        assert_eq!(script.tls(), tls);
        let mut cursor = Cursor::new(&script);
        cursor.begin = begin;
        let capa = self::said(&mut cursor, "CAPA").1;
        assert_eq!((capa.as_str(), self::said(&mut cursor, "STLS").1.as_str()), (listed, said), "{begin:?}");
    }
}

#[test]
fn what_is_made_up_has_a_bound() {
    let huge = 1_u64 << 60;
    let list = |n| {
        format!(r#""event":"content","n":{n},"keyword":"LIST","octets":1,"size":1,"lines":{huge},"complete":true,"total_us":1"#)
    };
    let cut = |n| reply(n, "NOOP", "+OK").replace("\"octets\":9", &format!("\"cut\":true,\"octets\":{huge}"));
    let mut bodies = vec![command(1, "LIST"), reply(1, "LIST", "+OK"), list(1)];
    for n in 2..100 {
        bodies.extend([command(n, "NOOP"), cut(n), list(n)]);
    }
    let script = played(&bodies);
    let octets = |answer: &Answer| answer.status.len() + answer.listing.as_ref().map_or(0, |listing| listing.len());
    let all: usize = script.exchanges.iter().filter_map(|exchange| exchange.answer.as_ref()).map(octets).sum();
    assert!(all < MADE_UP, "{all}");
}
