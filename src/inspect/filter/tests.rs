use super::*;
use crate::inspect::testing::{opened, record, summary};
use crate::record::schema::Body;

const EXPRESSIONS: [(&str, bool); 46] = [
    ("user = bob", true),
    ("user = BOB", true),
    ("user = bo", false),
    ("user ~ ^b", true),
    ("user !~ ^b", false),
    ("user != bob", false),
    ("user != anna", true),
    ("user", true),
    ("tls.client = none", true),
    ("tls.client", false),
    ("tls.upstream = TLSv1.3", true),
    ("client = 127.0.0.0/8", true),
    ("client = 127.0.0.1", true),
    ("client = 10.0.0.0/8", false),
    ("client ~ :50312$", true),
    ("octets > 35kB", true),
    ("octets > 10MiB", false),
    ("octets.client = 64", true),
    ("commands >= 6 and commands <= 6", true),
    ("commands < 6 or errors > 1", false),
    ("lasted > 1s", true),
    ("lasted > 1250ms", false),
    ("lasted = 1250ms", true),
    ("start = 2026-11-23", true),
    ("start > 2026-11-23", false),
    ("start >= 2026-11-23T06:30:05", true),
    ("start < 2026-11-23T06:30:05", false),
    ("logged-in and not failed", true),
    ("failed", false),
    ("running", false),
    ("anomaly", false),
    ("anomaly = slow-reply", false),
    ("not anomaly = slow-reply", true),
    ("rule = none", true),
    ("reason = quit and by = client", true),
    ("verdict ~ 'complete'", true),
    ("verdict = \"complete: 1 \\\"message\\\"\"", true),
    ("(user = anna or user = bob) and not (commands = 0)", true),
    ("user = anna or user = bob and commands = 0", false),
    ("NOT user = anna", true),
    ("refused", false),
    ("messages", true),
    ("mechanism = user", true),
    ("listener ~ 1110", true),
    ("session ~ ^ab", true),
    ("opaque or revealed or lost", false),
];

fn line() -> String {
    summary("ab12cd34ef56", 5, "bob", "complete: 1 \\\"message\\\"")
}

fn facts(line: &str) -> Facts<'_> {
    serde_json::from_str(line).unwrap()
}

#[test]
fn what_holds_of_a_session() {
    let line = line();
    let Body::Session(summary) = record(&line).body else { unreachable!() };
    for (expression, expected) in EXPRESSIONS {
        let filter = Filter::parse(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
        assert!(!filter.is_about_exchanges(), "{expression}");
        assert_eq!(filter.settled(&facts(&line)), Some(expected), "{expression}");
        assert_eq!(filter.holds(&Facts::of_summary("ab12cd34ef56", &summary), None), expected, "{expression}");
    }
}

#[test]
fn what_holds_of_a_session_that_is_running() {
    let line = opened("ab12", 5000);
    for (expression, expected) in [
        ("running", true),
        ("failed", false),
        ("commands = 0", false),
        ("start = 2026-11-23T06:30:05", true),
        ("user = none", true),
    ] {
        assert_eq!(Filter::parse(expression).unwrap().settled(&facts(&line)), Some(expected), "{expression}");
    }
}

#[test]
fn what_holds_of_an_exchange() {
    let line = line();
    let exchange = Exchange {
        n: 7,
        verb: "RETR",
        line: Some("RETR 3"),
        status: "+OK",
        reply: Some("+OK 12 octets"),
        latency_us: Some(6_000_000),
        size: Some(12),
    };
    for (expression, settled, expected, without) in [
        ("user ~ bob and verb = RETR and latency > 5s", None, true, false),
        ("user ~ anna and verb = RETR and latency > 5s", Some(false), false, false),
        ("user ~ bob or verb = RETR", Some(true), true, true),
        ("verb = retr", None, true, false),
        ("not verb = retr", None, false, true),
        ("status = -ERR", None, false, false),
        ("status = +OK and size = 12 and n = 7", None, true, false),
        ("line ~ '^RETR [0-9]+$' and reply ~ octets", None, true, false),
        ("latency < 5s", None, false, false),
    ] {
        let filter = Filter::parse(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
        let facts = facts(&line);
        assert!(filter.is_about_exchanges(), "{expression}");
        let found = (filter.settled(&facts), filter.holds(&facts, Some(&exchange)), filter.holds(&facts, None));
        assert_eq!(found, (settled, expected, without), "{expression}");
        let left = filter.given(&facts);
        assert_eq!((left.holds_for(Some(&exchange)), left.holds_for(None)), (expected, without), "{expression}");
    }
    assert!(!Filter::parse("latency >= 0s").unwrap().holds(&facts(&line), Some(&Exchange { latency_us: None, ..exchange })));
}

#[test]
fn errors_point_at_the_column() {
    for (expression, column, said, hint) in [
        ("user ~ anna and latencyy > 5s", 17, "`latencyy` is no field", "did you mean `latency`?"),
        ("", 1, "here a condition is missing", "a condition is"),
        ("user = ", 8, "a value is missing behind `=`", "a condition is"),
        ("user = é and = 4", 14, "here a field should stand", "a condition is"),
        ("user == bob", 6, "`==` is no operator", "operators are"),
        ("user > bob", 6, "`>` does not go with `user`, which is text", "use `=`"),
        ("octets ~ 5", 8, "`~` does not go with `octets`, which is a number", "use `=`"),
        ("octets > many", 10, "`many` is no number of octets", "64KiB"),
        ("latency > 5", 11, "`5` is no duration", "250ms"),
        ("failed = yes", 8, "`failed` takes no value", "write it alone"),
        ("user = bob anna", 12, "there is something behind the end", "put `and` or `or`"),
        ("(user = bob", 1, "this parenthesis is not closed", "put a `)`"),
        ("(user = bob anna)", 13, "here `and`, `or` or a closing parenthesis", "put `and`"),
        ("user ~ '(", 8, "the text in quotes has no end", "close the quotes"),
        ("user ~ '('", 8, "`(` is no pattern: unclosed group", "put a backslash"),
        ("client = anna", 10, "`anna` is no address", "192.0.2.0/24"),
        ("start > yesterday", 9, "`yesterday` is no time", "2026-11-23"),
        ("user && failed", 6, "there is something behind the end", "put `and`"),
        ("user = (bob)", 8, "here a value should stand", "quotes"),
    ] {
        let error = Filter::parse(expression).unwrap_err();
        assert_eq!(error.column(), column, "{expression}: {error}");
        assert!(error.message().starts_with(said), "{expression}: {error}");
        assert!(error.hint().contains(hint), "{expression}: {error}");
    }
    let error = Filter::parse("user ~ anna and latencyy > 5s").unwrap_err();
    let expected = "column 17: `latencyy` is no field\n  user ~ anna and latencyy > 5s\n                  ^^^^^^^^\n  hint: did you mean `latency`?";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn depth_is_bounded() {
    for text in ["(".repeat(100_000), "not ".repeat(100_000)] {
        assert!(Filter::parse(&text).unwrap_err().message().contains("levels"));
    }
    let flat = vec!["user = a"; 10_000].join(" or ");
    assert!(Filter::parse(&flat).is_ok());
}

#[test]
fn the_table_is_in_order_and_the_document_has_it_all() {
    let document = include_str!("../../../docs/filters.md");
    for (index, info) in FIELDS.iter().enumerate() {
        assert_eq!(info.field as usize, index, "{}", info.name);
        assert!(document.contains(&format!("| `{}` |", info.name)), "{} is not in the document", info.name);
        assert!(document.contains(&format!("{} |\n", info.about)), "{}: the document says something else", info.name);
    }
}
