use super::{super::testing::*, *};

const EVENTS: &str = "events-20261123T063000Z-100-1.jsonl";

/// What is printed when a session is compared with itself after a change: whether nothing differs, and the text.
fn compared(change: impl Fn(String) -> String, comparison: Comparison, json: bool) -> (bool, String) {
    let shelf = Shelf::new().with(EVENTS, conversation("aa") + &change(conversation("bb")));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let [one, other] = ["aa", "bb"].map(|id| Which::Id(id.to_owned()));
    let same = diff(shelf.path(), [&one, &other], comparison, View { json, ..View::default() }, &mut out, &mut err).unwrap();
    assert_eq!(String::from_utf8(err).unwrap(), "");
    (same, String::from_utf8(out).unwrap())
}

fn usual(from: &str, to: &str) -> (bool, String) {
    let change = |text: String| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    };
    compared(change, Comparison::default(), false)
}

#[test]
fn a_session_is_as_itself() {
    for exact in [false, true] {
        let (same, text) = compared(|text| text, Comparison { exact, timing: Timing::Counts(0) }, false);
        assert_eq!((same, text.as_str()), (true, "== no difference: 6 commands in both\n"));
    }
}

#[test]
fn what_makes_a_difference() {
    for (from, to, removed, added) in [
        ("\"TOP\",\"UIDL\"", "\"TOP\",\"STLS\"", "-S: UIDL", "+S: STLS"),
        ("+OK Logged in.", "-ERR no", "-S: +OK Logged in.  (after 328 ms)", "+S: -ERR no"),
        ("\"size\":34400", "\"size\":34401", "-S: [message: 512 lines, 34400 octets]", "+S: [message: 512 lines, 34401 octets]"),
        ("1a2b3c4d5e6f", "1a2b3c4d5e60", "-S: [sha256 1a2b3c4d5e6f…]", "+S: [sha256 1a2b3c4d5e60…]"),
        ("TLSv1.3", "TLSv1.2", "--- TLS with", "+-- TLS with"),
        ("+OK ready", "+OK welcome", "-S: +OK ready", "+S: +OK welcome"),
        ("RETR 1", "RETR 2", "-C: RETR 1", "+C: RETR 2"),
        ("USER bob", "USER eve", "-C: USER bob", "+C: USER eve"),
        (
            "\"by\":\"client\",\"reason\":\"quit\"",
            "\"by\":\"upstream\",\"reason\":\"eof\"",
            "--- closed by the client (quit)",
            "+-- closed by the server (eof)",
        ),
    ] {
        let (same, text) = usual(from, to);
        let has = |wanted: &str| text.lines().any(|line| line.starts_with(wanted.split("  (after").next().unwrap_or(wanted)));
        assert!(!same && has(removed) && has(added), "{from} → {to}:\n{text}");
        assert!(text.starts_with("--- aa  2026-11-23 06:30:00\n+++ bb  2026-11-23 06:30:00\n@@ "), "{text}");
        assert!(text.lines().last().unwrap().starts_with("== different: "), "{text}");
    }
}

#[test]
fn what_makes_none_unless_all_is_compared() {
    for (from, to) in [
        ("+OK 34400 octets", "+OK 7 octets"),
        ("\"octets\":17", "\"octets\":19"),
        ("\"TOP\",\"UIDL\"", "\"UIDL\",\"TOP\""),
        ("2027-01-23", "2028-01-23"),
        ("+OK ready", "+OK ready"),
    ] {
        assert!(usual(from, to).0, "{from} → {to}");
        let exact = Comparison { exact: true, timing: Timing::Ignored };
        assert_eq!(compared(|text| text.replace(from, to), exact, false).0, from == to, "{from} → {to}");
    }
}

#[test]
fn a_hunk_has_its_surroundings_and_names_its_command() {
    let longer =
        |text: String| text.replace("\"TOP\",\"UIDL\"", "\"TOP\",\"SASL PLAIN\",\"UIDL\"").replace("\"lines\":2", "\"lines\":3");
    let (_, text) = compared(longer, Comparison::default(), false);
    let hunk: Vec<_> = text.lines().skip(2).collect();
    let expected = [
        "@@ -1 +1 @@ CAPA",
        " C: CAPA",
        " S: +OK",
        " -- command 1: poptap leaves a line out of the server's answer (rule stls-upstream)",
        "+S: SASL PLAIN",
        " S: TOP",
        " S: UIDL",
        " C: USER bob",
        "== different: 6 commands in both, 1 with differences",
    ];
    assert_eq!(hunk, expected);
}

#[test]
fn timing_counts_where_it_is_asked_for() {
    let slow = |text: String| text.replace("\"latency_us\":328000", "\"latency_us\":1900000");
    for (timing, same, told) in [
        (
            Timing::Told,
            true,
            "~ PASS: reply after 328 ms, and after 1.9 s\n== no difference: 6 commands in both, 1 latency otherwise (not counted)",
        ),
        (Timing::Ignored, true, "== no difference: 6 commands in both"),
        (
            Timing::Counts(50),
            false,
            "~ PASS: reply after 328 ms, and after 1.9 s\n== different: 6 commands in both, 1 latency otherwise",
        ),
        (Timing::Counts(600), true, "== no difference: 6 commands in both"),
    ] {
        let (is_same, text) = compared(slow, Comparison { exact: false, timing }, false);
        assert!(is_same == same && text.trim_end().ends_with(told), "{timing:?}: {text}");
    }
}

#[test]
fn as_json() {
    let (same, text) = compared(|text| text.replace("RETR 1", "RETR 2"), Comparison::default(), true);
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(!same && found["same"] == false && found["sessions"][1] == "bb", "{text}");
    let steps: Vec<_> = found["differences"].as_array().unwrap().iter().map(|one| one["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["RETR 1", "RETR 2"]);
    assert_eq!(found["differences"][0]["n"], serde_json::json!([4, null]));
    assert_eq!(found["differences"][1]["added"][0], "C: RETR 2");
}

#[test]
fn digests_count_only_where_both_have_them() {
    assert!(usual("\"sha256\":\"1a2b3c4d5e6f\",", "").0);
}

#[test]
fn only_a_summary_is_nothing_to_compare() {
    let shelf = Shelf::new().with("sessions-20261123T063000Z-100-1.jsonl", summary("aa", 0, "bob", "complete"));
    let which = Which::Id("aa".to_owned());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let error = diff(shelf.path(), [&which, &which], Comparison::default(), TEXT, &mut out, &mut err).unwrap_err();
    assert!(error.to_string().starts_with("there is nothing to compare: of session aa only"), "{error}");
}

#[test]
fn a_session_without_end_is_refused() {
    let commands = (0..=MOST as u64).map(|n| command("aa", 0, n, "NOOP", r#""text":"NOOP","octets":6"#)).collect::<String>();
    let shelf = Shelf::new().with(EVENTS, commands);
    let which = Which::Id("aa".to_owned());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let error = diff(shelf.path(), [&which, &which], Comparison::default(), TEXT, &mut out, &mut err).unwrap_err();
    assert_eq!(error.to_string(), "session aa has more than 1000 commands, and no more are compared");
}

#[test]
fn a_greeting_that_came_late_is_still_the_greeting() {
    let late = |text: String| {
        let (greeting, rest): (Vec<_>, Vec<_>) = text.split_inclusive('\n').partition(|line| line.contains("\"greeting\""));
        let (before, after) = rest.split_at(8);
        [before, &greeting[..], after].concat().concat()
    };
    let (same, text) = compared(late, Comparison::default(), false);
    assert!(same, "{text}");
}
