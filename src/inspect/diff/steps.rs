//! A session as the steps that are compared.

use std::collections::HashMap;

use super::{
    super::{human, render},
    MOST,
    normal::normalised,
};
use crate::record::schema::{Body, Command, Content, Record, Reply};

/// One session.
pub(super) struct Side {
    /// Its id.
    pub(super) id: String,
    /// When it was opened, as far as that is told.
    pub(super) start: String,
    /// Its opening, its commands in order, its end.
    pub(super) steps: Vec<Step>,
    exact: bool,
    commands: usize,
    /// The steps of commands, and of responses in a SASL exchange.
    places: HashMap<u64, usize>,
}

/// A command with all that belongs to it; or the opening, or the end.
pub(super) struct Step {
    /// The command's number; `None` for the opening and the end.
    pub(super) n: Option<u64>,
    /// Steps with the same key are the same step of two sessions.
    pub(super) key: String,
    /// The lines that were said and what there is to remark, in order.
    pub(super) facts: Vec<Fact>,
    /// Microseconds from the command to the reply.
    pub(super) reply_us: Option<u64>,
    /// Microseconds from the reply to the end of its body.
    pub(super) body_us: Option<u64>,
}

/// One line of a conversation.
pub(super) struct Fact {
    /// As it is shown.
    pub(super) text: String,
    /// As it is compared, where that is not the text.
    normal: Option<String>,
    is_digest: bool,
}

impl Fact {
    fn exactly(text: String) -> Self {
        Self { text, normal: None, is_digest: false }
    }

    /// What is compared.
    pub(super) fn essence(&self) -> &str {
        self.normal.as_ref().unwrap_or(&self.text)
    }
}

impl Side {
    /// Nothing is known of it yet.
    pub(super) fn new(exact: bool) -> Self {
        Self { id: String::new(), start: String::new(), steps: Vec::new(), exact, commands: 0, places: HashMap::new() }
    }

    /// Its command lines, those beyond the limit included.
    pub(super) fn commands(&self) -> usize {
        self.commands
    }

    /// Whether nothing was said in it.
    pub(super) fn is_silent(&self) -> bool {
        self.steps.iter().all(|step| step.facts.is_empty())
    }

    /// Digests are compared where both sessions have some.
    pub(super) fn forget_what_one_lacks(sides: &mut [Self; 2]) {
        let has = |side: &Self| side.steps.iter().any(|step| step.facts.iter().any(|fact| fact.is_digest));
        if !sides.iter().all(has) {
            sides.iter_mut().flat_map(|side| &mut side.steps).for_each(|step| step.facts.retain(|fact| !fact.is_digest));
        }
    }

    /// The next record of the session.
    pub(super) fn take(&mut self, record: Record) {
        self.id = record.session;
        match record.body {
            Body::Opened(_) => {
                self.start = record.time;
                self.last();
            }
            Body::Session(summary) => self.start = summary.start,
            Body::Command(command) => self.command(command),
            _ if self.commands > MOST => {}
            // A client may speak before it was greeted.
            Body::Greeting(greeting) => {
                self.last();
                self.said(Some(0), &Body::Greeting(greeting));
            }
            Body::Decision(decision) => {
                let place = decision.n.and_then(|n| self.places.get(&n).copied());
                self.said(place, &Body::Decision(decision));
            }
            Body::Sasl(sasl) => {
                let place = self.places.get(&sasl.auth).copied();
                if let Some((n, place)) = sasl.n.zip(place) {
                    self.places.insert(n, place);
                }
                self.said(place, &Body::Sasl(sasl));
            }
            Body::Reply(reply) => self.reply(reply),
            Body::Content(content) => self.content(&content),
            Body::ClientData(data) => {
                let cut = if data.complete { "" } else { "; cut short" };
                self.push(Some(data.n), Fact::exactly(format!("C: [message: {} octets{cut}]", data.octets)));
            }
            Body::Closed(closed) => {
                self.steps.push(Step::new(None, "end".to_owned()));
                self.said(None, &Body::Closed(closed));
            }
            other => self.said(None, &other),
        }
    }

    fn command(&mut self, command: Command) {
        self.commands += 1;
        if self.commands > MOST {
            return;
        }
        self.places.insert(command.n, self.steps.len());
        self.steps.push(Step::new(Some(command.n), key(&command)));
        let is_withheld = command.line.redacted.is_some();
        let body = Body::Command(command);
        for text in lines(&body) {
            let said = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let normal = if is_withheld { normalised(&text) } else { said };
            self.push(None, Fact { normal: (!self.exact).then_some(normal), ..Fact::exactly(text) });
        }
    }

    fn reply(&mut self, reply: Reply) {
        let place = self.places.get(&reply.n).copied();
        if let Some(step) = place.and_then(|place| self.steps.get_mut(place)) {
            step.reply_us = step.reply_us.or(Some(reply.latency_us));
        }
        // What STAT and LIST of one message answer is numbers.
        let is_number = matches!(reply.keyword.as_str(), "STAT" | "LIST" | "UIDL" | "LAST") && !reply.multi_line;
        let (n, body) = (reply.n, Body::Reply(Reply { latency_us: 0, ..reply }));
        if is_number {
            for text in lines(&body) {
                self.push(Some(n), Fact::exactly(text));
            }
        } else {
            self.said(place, &body);
        }
    }

    fn content(&mut self, content: &Content) {
        let place = self.places.get(&content.n).copied();
        if let Some(step) = place.and_then(|place| self.steps.get_mut(place)) {
            step.body_us = Some(content.total_us.saturating_sub(step.reply_us.unwrap_or_default()));
        }
        let mut listing: Vec<_> = content.listing.iter().map(|line| format!("S: {line}")).collect();
        // RFC 2449 §5 gives no order to capabilities.
        if content.keyword == "CAPA" && !self.exact {
            listing.sort_unstable();
        }
        for line in listing {
            self.push(Some(content.n), Fact::exactly(line));
        }
        let is_whole = content.listing.len() as u64 == content.lines && content.sha256.is_none() && content.policy.is_none();
        if !is_whole {
            let (what, lines) = (kind(&content.keyword), human::plural(content.lines, "line"));
            // In all digits: `34 kB` would hide a missing octet.
            let size = human::plural(content.size, "octet");
            self.push(Some(content.n), Fact::exactly(format!("S: [{what}: {lines}, {size}]")));
        }
        if let Some(digest) = &content.sha256 {
            let text = format!("S: [sha256 {}…]", digest.chars().take(16).collect::<String>());
            self.push(Some(content.n), Fact { normal: Some(digest.clone()), is_digest: true, ..Fact::exactly(text) });
        }
        if !content.complete {
            self.push(Some(content.n), Fact::exactly("!! cut short: the server went away before the end".to_owned()));
        }
    }

    /// A record that is shown as `sessions show` does.
    fn said(&mut self, place: Option<usize>, body: &Body) {
        let body = &self.essential(body);
        let is_tls = matches!(body, Body::Tls(_));
        for text in lines(body) {
            let normal = (!self.exact && !is_tls).then(|| normalised(&text));
            let place = place.unwrap_or_else(|| self.last());
            self.steps[place].facts.push(Fact { normal, ..Fact::exactly(text) });
        }
    }

    /// Without what a server changes by itself: certificates are renewed.
    fn essential(&self, body: &Body) -> Body {
        match body.clone() {
            Body::Tls(mut tls) if !self.exact => {
                tls.not_after = None;
                Body::Tls(tls)
            }
            other => other,
        }
    }

    fn push(&mut self, n: Option<u64>, fact: Fact) {
        let place = n.and_then(|n| self.places.get(&n).copied()).unwrap_or_else(|| self.last());
        self.steps[place].facts.push(fact);
    }

    /// The step that is under way; the opening, when there is none yet.
    fn last(&mut self) -> usize {
        if self.steps.is_empty() {
            self.steps.push(Step::new(None, "opening".to_owned()));
        }
        self.steps.len() - 1
    }
}

impl Step {
    fn new(n: Option<u64>, key: String) -> Self {
        Self { n, key, facts: Vec::new(), reply_us: None, body_us: None }
    }
}

/// What makes two commands the same: the keyword and its arguments; of logins the way alone, since names and secrets differ.
fn key(command: &Command) -> String {
    let said = command.line.text.as_deref().unwrap_or_default();
    let mut words = said.split_whitespace();
    words.next();
    let own = if command.own { "own " } else { "" };
    let arguments = match command.keyword.as_str() {
        "USER" | "PASS" | "APOP" => String::new(),
        "AUTH" => command.mechanism.clone().or_else(|| words.next().map(str::to_uppercase)).unwrap_or_default(),
        "?" => said.to_owned(),
        _ => words.collect::<Vec<_>>().join(" "),
    };
    format!("{own}{} {arguments}", command.keyword).trim_end().to_owned()
}

fn kind(keyword: &str) -> &'static str {
    match keyword {
        "RETR" => "message",
        "TOP" => "top of a message",
        _ => "listing",
    }
}

fn lines(body: &Body) -> Vec<String> {
    render::body("", body, None, false).iter().map(super::super::paint::Line::text).collect()
}
