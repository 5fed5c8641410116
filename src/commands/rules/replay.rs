//! A recorded session through the rules: its commands as far as the record has them, its server's answers, its sizes.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{Judged, Scene};
use crate::{
    cli::{RulesTestArgs, StoreArgs},
    commands::Failure,
    config::{self, Config},
    escape::unescape,
    inspect::{self, Which},
    policy::{Facts, Outcome, Rules},
    pop3::{Command, Keyword, Status},
    record::schema::{self, Body, Hop, Record, StatusWord},
};

/// What of the record counts.
#[derive(Default)]
struct Recorded {
    opened: Option<schema::Opened>,
    client_tls: bool,
    user: Option<String>,
    commands: Vec<schema::Command>,
    /// By the command's number.
    statuses: HashMap<u64, StatusWord>,
    /// Which message a RETR was about.
    asked: HashMap<u64, u64>,
    sizes: BTreeMap<u64, u64>,
    /// Commands that a rule decided upon when they were recorded.
    decided: HashMap<u64, String>,
}

pub(super) fn judge(args: &RulesTestArgs, id: &str, config: &Config, rules: &Arc<Rules>) -> Result<Vec<Judged>, Failure> {
    let place = config::store(&StoreArgs { transcript: args.transcript.clone(), config: args.config.clone() })?;
    let recorded = read(&place, id)?;
    let opened = recorded.opened.as_ref();
    let address = |text: Option<&String>| text.and_then(|text| text.parse::<SocketAddr>().ok());
    let facts = Facts {
        client: address(opened.map(|opened| &opened.client)).map_or(IpAddr::from([127, 0, 0, 1]), |client| client.ip()),
        listener: address(opened.map(|opened| &opened.listener)).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 1110))),
        upstream: opened.map_or("", |opened| opened.upstream.as_str()),
        tls: recorded.client_tls,
    };
    let mut trial = Scene { facts, sizes: recorded.sizes.clone() }.begin(config, rules);
    let mut judged = Vec::new();
    for command in recorded.commands.iter().filter(|command| !command.own) {
        let status = recorded.statuses.get(&command.n).filter(|word| **word == StatusWord::Err).map(|_| Status::Err);
        let shown = command.line.text.clone().unwrap_or_else(|| command.keyword.clone());
        let outcome = if trial.is_over() { Outcome::default() } else { trial.say(&line(command, &recorded), status) };
        let then = recorded.decided.get(&command.n).cloned();
        if outcome.is_changed() || !outcome.decisions.is_empty() || then.is_some() {
            // What stands in for a secret is nobody's business.
            let outcome = Outcome { server: shown_to_server(&outcome, command), ..outcome };
            judged.push(Judged { line: shown, outcome, then });
        }
    }
    Ok(judged)
}

fn read(place: &Path, id: &str) -> Result<Recorded, Failure> {
    let mut recorded = Recorded::default();
    let mut visit = |record: Record| recorded.take(record.body);
    inspect::each_record(place, &Which::Id(id.to_owned()), &mut visit, &mut io::stderr().lock())?;
    Ok(recorded)
}

impl Recorded {
    fn take(&mut self, body: Body) {
        match body {
            Body::Opened(opened) => self.opened = Some(opened),
            Body::Tls(tls) => self.client_tls |= tls.hop == Hop::Client,
            Body::Command(command) => {
                let text = command.line.text.as_deref().unwrap_or_default();
                let number = text.split_whitespace().nth(1).and_then(|word| word.parse().ok());
                if command.keyword == "RETR"
                    && let Some(number) = number
                {
                    self.asked.insert(command.n, number);
                }
                self.user = command.user.clone().or(self.user.take());
                self.commands.push(command);
            }
            Body::Sasl(sasl) => self.user = sasl.user.or(self.user.take()),
            Body::Reply(reply) => drop(self.statuses.insert(reply.n, reply.status)),
            Body::Content(content) => self.sizes_in(&content),
            Body::Decision(decision) if decision.enforced => {
                if let Some(n) = decision.n {
                    self.decided.insert(n, format!("{} ({})", decision.rule, decision.action));
                }
            }
            _ => {}
        }
    }

    fn sizes_in(&mut self, content: &schema::Content) {
        match (content.keyword.as_str(), self.asked.get(&content.n)) {
            ("RETR", Some(&number)) => drop(self.sizes.insert(number, content.size)),
            ("LIST", _) => {
                let lines = content.listing.iter().filter_map(|line| line.split_once(' '));
                self.sizes.extend(
                    lines.filter_map(|(number, size)| Some((number.parse::<u64>().ok()?, size.trim().parse::<u64>().ok()?))),
                );
            }
            _ => {}
        }
    }
}

/// The line that a client would have said, with something else for what the record withholds.
fn line(command: &schema::Command, recorded: &Recorded) -> Vec<u8> {
    let text = command.line.text.as_deref().and_then(unescape).unwrap_or_else(|| command.keyword.clone().into_bytes());
    let user = command.user.as_deref().or(recorded.user.as_deref()).unwrap_or_default();
    match (Command::parse(&text).keyword, command.mechanism.as_deref()) {
        (Keyword::Pass, _) => b"PASS x".to_vec(),
        (Keyword::Apop, _) => format!("APOP {user} x").into_bytes(),
        (Keyword::Auth, Some(mechanism)) => match response(mechanism, user) {
            Some(response) => format!("AUTH {mechanism} {}", STANDARD.encode(response)).into_bytes(),
            None => format!("AUTH {mechanism}").into_bytes(),
        },
        _ => text,
    }
}

/// An initial response that names the user as the exchange did. The rest of it is of no interest to rules.
fn response(mechanism: &str, user: &str) -> Option<String> {
    match mechanism {
        "PLAIN" => Some(format!("\0{user}\0x")),
        "LOGIN" => Some(user.to_owned()),
        "XOAUTH2" => Some(format!("user={user}\x01auth=x\x01\x01")),
        "OAUTHBEARER" => Some(format!("n,a={user},\x01auth=x\x01\x01")),
        "CRAM-MD5" => Some(format!("{user} x")),
        name if name.starts_with("SCRAM-") => Some(format!("n,,n={user},r=x")),
        _ => None,
    }
}

fn shown_to_server(outcome: &Outcome, command: &schema::Command) -> Vec<u8> {
    let is_secret = command.line.redacted.is_some();
    match (outcome.server.is_empty(), is_secret) {
        (false, true) => b"(the line, with what the record withholds)\r\n".to_vec(),
        _ => outcome.server.clone(),
    }
}
