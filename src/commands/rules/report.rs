//! What a trial found, for people and for machines. Passwords that somebody typed are not repeated.

use std::fmt::Write as _;

use serde::Serialize;

use crate::{
    commands::{Failure, exit},
    escape::{escape, escape_line},
    policy::{Decided, Outcome, Trial},
    pop3::{Command, Keyword, identity},
};

/// What is written, line by line.
pub(super) struct Report {
    json: bool,
    text: String,
}

/// A line, and what becomes of it.
pub(super) struct Judged<'a> {
    /// Its number in a recorded session; `None` for a line of the command line.
    pub(super) n: Option<u64>,
    pub(super) line: &'a [u8],
    /// Whether it is a SASL response.
    pub(super) is_response: bool,
    /// Whether a record withholds a part of it.
    pub(super) is_withheld: bool,
    pub(super) outcome: &'a Outcome,
    /// How it was decided when it was recorded.
    pub(super) before: Option<Before<'a>>,
}

/// How a command was decided when it was recorded.
pub(super) struct Before<'a> {
    pub(super) decision: &'a str,
    pub(super) rule: Option<&'a str>,
    /// Whether that is otherwise now.
    pub(super) otherwise: bool,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self { json, text: String::new() }
    }

    /// What rules make of the greeting, where they do anything with it.
    pub(super) fn greeting(&mut self, trial: &Trial) {
        let outcome = trial.greeting();
        if self.json || outcome.decisions.is_empty() {
            return;
        }
        self.text += "(the greeting)\n";
        self.decisions(&outcome.decisions);
        self.entry("client", &lines_of(&outcome.client));
    }

    pub(super) fn line(&mut self, judged: &Judged<'_>) -> Result<(), Failure> {
        let shown = Shown::of(judged);
        if self.json {
            let object = serde_json::to_string(&told(judged, &shown))
                .map_err(|error| Failure::new(exit::SOFTWARE, format!("cannot write the result as JSON: {error}")))?;
            self.text += &object;
            self.text.push('\n');
        } else {
            self.paragraph(judged, &shown);
        }
        Ok(())
    }

    /// Adds a paragraph of its own.
    pub(super) fn remark(&mut self, text: &str) {
        if !self.json {
            self.text += text;
            self.text.push('\n');
        }
    }

    /// All that was written.
    pub(super) fn finish(self) -> String {
        self.text
    }

    fn paragraph(&mut self, judged: &Judged<'_>, shown: &Shown) {
        let number = judged.n.map_or_else(String::new, |n| format!("[{n}] "));
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{number}{}", shown.line);
        self.decisions(&judged.outcome.decisions);
        if judged.outcome.decisions.is_empty() {
            self.entry("rule", &["none".to_owned()]);
        }
        self.entry("client", &lines_of(&judged.outcome.client));
        self.entry("server", &shown.server);
        if judged.outcome.closed {
            self.entry("", &["the session is closed".to_owned()]);
        }
        if let Some(Before { decision, rule, .. }) = &judged.before {
            let by = rule.map_or_else(String::new, |rule| format!("{rule} "));
            self.entry("then", &[format!("{by}({decision})")]);
        }
    }

    fn decisions(&mut self, decisions: &[Decided]) {
        for decided in decisions {
            let would = if decided.enforced { "" } else { ", in a dry run" };
            let tag = decided.tag.as_ref().map_or_else(String::new, |tag| format!(": {tag}"));
            self.entry("rule", &[format!("{} ({}{would}){tag}", decided.rule, decided.action.name())]);
        }
    }

    fn entry(&mut self, name: &str, lines: &[String]) {
        if lines.is_empty() {
            return self.entry(name, &["nothing".to_owned()]);
        }
        for (at, line) in lines.iter().enumerate() {
            let _ = writeln!(self.text, "  {:8}{line}", if at == 0 { name } else { "" });
        }
    }
}

/// What may be shown of a line, and of what the server gets.
struct Shown {
    line: String,
    server: Vec<String>,
}

impl Shown {
    fn of(judged: &Judged<'_>) -> Self {
        let command = Command::parse(judged.line);
        let server = &judged.outcome.server;
        // A rule may have made a login of it.
        let mut lines = server.split(|&octet| octet == b'\n').chain([judged.line]);
        let is_secret = lines.any(|line| holds_secret(&Command::parse(line.trim_ascii_end())));
        if !judged.is_response && !judged.is_withheld && !is_secret {
            return Self { line: escape(judged.line), server: lines_of(server) };
        }
        let withheld = if server.is_empty() { vec![] } else { vec!["(the line, which may hold a secret)".to_owned()] };
        // What somebody typed may be a password all the same.
        let line = if judged.is_response { "(a response)".to_owned() } else { escape(command.word) };
        Self { line: format!("{line} (withheld)"), server: withheld }
    }
}

fn holds_secret(command: &Command<'_>) -> bool {
    let mut arguments = command.arguments();
    let (first, second) = (arguments.next(), arguments.next());
    match command.keyword {
        Keyword::Pass | Keyword::Apop => first.is_some(),
        // A mechanism alone is none.
        Keyword::Auth => second.is_some() || first.is_some_and(|word| identity::mechanism(word).is_none()),
        _ => false,
    }
}

/// One line as JSON.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<u64>,
    line: &'a str,
    decision: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    rules: Vec<Applied<'a>>,
    client: Vec<String>,
    server: &'a [String],
    closed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    then: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    then_rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    otherwise: Option<bool>,
}

/// A rule that did something, or would have.
#[derive(Serialize)]
struct Applied<'a> {
    rule: &'a str,
    action: &'static str,
    enforced: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<&'a str>,
}

fn told<'a>(judged: &'a Judged<'_>, shown: &'a Shown) -> Told<'a> {
    let Outcome { decisions, client, closed, .. } = judged.outcome;
    let rules = decisions.iter().map(|decided| Applied {
        rule: &decided.rule,
        action: decided.action.name(),
        enforced: decided.enforced,
        tag: decided.tag.as_deref(),
    });
    let before = judged.before.as_ref();
    Told {
        n: judged.n,
        line: &shown.line,
        decision: super::decision(judged.outcome),
        rule: judged.outcome.decision().map(|decided| decided.rule.as_str()),
        rules: rules.collect(),
        client: lines_of(client),
        server: &shown.server,
        closed: *closed,
        then: before.map(|before| before.decision),
        then_rule: before.and_then(|before| before.rule),
        otherwise: before.map(|before| before.otherwise),
    }
}

/// What one side gets, a line each.
fn lines_of(octets: &[u8]) -> Vec<String> {
    octets.split_inclusive(|&octet| octet == b'\n').map(escape_line).collect()
}
