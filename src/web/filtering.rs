//! The filter box: what an expression says of the sessions that a page knows. The page asks, and nothing is kept here.

use serde::{Deserialize, Serialize};

use crate::inspect::filter::{Facts, Filter, Said};

/// Octets of a question: some hundred sessions, with their exchanges where the expression asks about these.
pub(super) const LARGEST: usize = 8 * 1024 * 1024;

/// An expression, and the sessions that it is about.
#[derive(Deserialize)]
struct Question<'a> {
    filter: String,
    #[serde(borrow)]
    sessions: Vec<Session<'a>>,
}

#[derive(Deserialize)]
struct Session<'a> {
    /// A summary, or how the session was opened.
    #[serde(borrow)]
    facts: Facts<'a>,
    /// Its commands with their replies, as the page knows them.
    #[serde(default)]
    exchanges: Vec<Said>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    /// Of each session, in the order of the question, whether it is meant. `exchanges` says that the expression asks about them.
    Judged { exchanges: bool, holds: Vec<bool> },
    /// The expression cannot be read.
    Wrong { wrong: Wrong },
}

#[derive(Serialize)]
struct Wrong {
    /// In characters, from 1.
    column: usize,
    message: String,
    hint: String,
}

/// Answers a question in JSON with one.
///
/// # Errors
///
/// When it cannot be read; an expression that cannot be is answered.
pub(super) fn answer(question: &[u8]) -> serde_json::Result<String> {
    let Question { filter, sessions } = serde_json::from_slice(question)?;
    let answer = match Filter::parse(&filter) {
        Ok(filter) => Answer::Judged {
            exchanges: filter.is_about_exchanges(),
            holds: sessions.iter().map(|session| session.is_meant(&filter)).collect(),
        },
        Err(error) => {
            let (column, message, hint) = (error.column(), error.message().to_owned(), error.hint().to_owned());
            Answer::Wrong { wrong: Wrong { column, message, hint } }
        }
    };
    serde_json::to_string(&answer)
}

impl Session<'_> {
    fn is_meant(&self, filter: &Filter) -> bool {
        let exchanges = || match &*self.exchanges {
            // It said something that the page was not sent.
            [] if self.facts.has_spoken() => false,
            [] => filter.holds(&self.facts, None),
            some => some.iter().any(|said| filter.holds(&self.facts, Some(&said.exchange()))),
        };
        filter.settled(&self.facts).unwrap_or_else(exchanges)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn asked(filter: &str) -> Value {
        let summary = json!({"v": 1, "event": "session", "session": "ab12", "start": "2026-11-24T18:00:00.000000Z", "duration_us": 5,
            "client": "192.0.2.1:5", "user": "Anna <script>", "logged_in": true, "commands": 3, "reason": "quit", "closed_by": "client",
            "client_octets": 20_000_000, "some_later_field": 1});
        let running =
            json!({"event": "opened", "session": "cd34", "time": "2026-11-24T18:00:00.000000Z", "client": "192.0.2.9:5"});
        let exchanges =
            json!([{"n": 1, "verb": "RETR", "line": "RETR 1", "status": "+OK", "latency_us": 6_000_000}, {"verb": "QUIT"}]);
        let sessions = json!([{"facts": summary, "exchanges": exchanges}, {"facts": running}]);
        let question = json!({"filter": filter, "sessions": sessions}).to_string();
        serde_json::from_str(&answer(question.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn sessions_are_judged_in_order() {
        for (filter, exchanges, holds) in [
            ("user ~ anna", false, [true, false]),
            ("client = 192.0.2.0/24", false, [true, true]),
            ("running", false, [false, true]),
            ("octets > 10MiB", false, [true, false]),
            ("user ~ anna and verb = RETR and latency > 5s", true, [true, false]),
            ("verb = DELE", true, [false, false]),
            ("not verb = DELE", true, [true, true]),
        ] {
            assert_eq!(asked(filter), json!({"exchanges": exchanges, "holds": holds}), "{filter}");
        }
    }

    #[test]
    fn nothing_is_said_of_commands_that_the_page_was_not_sent() {
        let question =
            r#"{"filter":"not verb = DELE","sessions":[{"facts":{"session":"a","commands":3}},{"facts":{"session":"b"}}]}"#;
        assert_eq!(answer(question.as_bytes()).unwrap(), r#"{"exchanges":true,"holds":[false,true]}"#);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_column() {
        let wrong = asked("user ~ anna and")["wrong"].clone();
        assert!(wrong["column"].as_u64() > Some(10) && wrong["message"].is_string(), "{wrong}");
        assert!(answer(b"{").is_err() && answer(b"{\"filter\": 1}").is_err());
    }
}
