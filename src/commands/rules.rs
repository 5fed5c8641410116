//! `poptap rules test`: what rules would do.

mod replay;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use serde::Serialize;

use super::{Failure, exit, print, warn};
use crate::{
    cli::{At, Expected, RulesCommand, RulesTestArgs, RunArgs},
    config::{self, Config, Loaded, TlsMode},
    escape::escape,
    policy::{ClientHop, Facts, Outcome, Policy, Rules, Settings, Terms, Trial},
    pop3::{Command, Keyword},
    tap::Caps,
};

pub(super) fn rules(command: &RulesCommand) -> Result<(), Failure> {
    let RulesCommand::Test(args) = command;
    let config = load(args)?;
    let rules = Arc::new(Rules::new(&config.rules).map_err(|error| Failure::new(exit::CONFIG, error))?);
    let judged = match &args.session {
        Some(id) => replay::judge(args, id, &config, &rules)?,
        None => lines(args, &config, &rules),
    };
    print(&shown(&judged, args.json)?)?;
    verdict(&judged, args.expect)
}

/// Without a file there are the flags' rules alone, and a server has to have some name.
fn load(args: &RulesTestArgs) -> Result<Config, Failure> {
    let run = RunArgs {
        config: args.config.clone(),
        url: if args.config.is_some() { None } else { "pop3://server.invalid".parse().ok() },
        deny: args.deny.clone(),
        shield: args.shield,
        dry_run: args.dry_run,
        no_transcript: true,
        ..RunArgs::default()
    };
    let Loaded { config, warnings } = config::load(&run)?;
    for warning in warnings {
        warn(&warning);
    }
    Ok(config)
}

/// A line, and what becomes of it.
pub(super) struct Judged {
    /// As it may be shown.
    pub(super) line: String,
    pub(super) outcome: Outcome,
    /// What was decided when it was recorded, where that is known.
    pub(super) then: Option<String>,
}

/// Who speaks, and to whom.
pub(super) struct Scene<'a> {
    pub(super) facts: Facts<'a>,
    pub(super) sizes: BTreeMap<u64, u64>,
}

impl Scene<'_> {
    /// A session of which nothing was said yet.
    pub(super) fn begin(self, config: &Config, rules: &Arc<Rules>) -> Trial {
        let caps = Caps { command: config.limits.command_line, sasl: config.limits.sasl_line };
        let terms = Terms::of_rules(rules.for_session(&self.facts), caps);
        let client = if self.facts.tls { ClientHop::Tls } else { ClientHop::Plain };
        let settings = Settings { client, pass_xclient: true, ..Settings::default() };
        Trial::new(Policy::new(settings, Some(terms)), self.sizes)
    }
}

/// The lines of the command line, as one session.
fn lines(args: &RulesTestArgs, config: &Config, rules: &Arc<Rules>) -> Vec<Judged> {
    let listener = config.listeners.first();
    let address = args.listener.map(|listener| listener.address).or(listener.map(|listener| listener.address));
    let of_address = config.listeners.iter().find(|listener| Some(listener.address) == address).or(listener);
    let upstream = args.upstream.clone().or(of_address.map(|listener| listener.upstream.name.clone())).unwrap_or_default();
    let implicit = of_address.is_some_and(|listener| listener.tls == TlsMode::Implicit);
    let facts = Facts {
        client: args.client,
        listener: address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 1110))),
        upstream: &upstream,
        tls: args.tls || implicit,
    };
    let told = args.message.iter().map(|message| (message.number, message.octets));
    let sizes = if args.message.is_empty() { (1..10).map(|number| (number, 1000)).collect() } else { told.collect() };
    let mut trial = Scene { facts, sizes }.begin(config, rules);
    let mut judged = login(args, &mut trial);
    judged.extend(args.lines.iter().map(|line| judge(&mut trial, line.as_bytes())));
    judged
}

/// Logs in where that is asked for. What the rules make of it is told only where it does not simply pass.
fn login(args: &RulesTestArgs, trial: &mut Trial) -> Vec<Judged> {
    let user = args.user.as_deref();
    let is_behind = args.stage.unwrap_or(if user.is_some() { At::Transaction } else { At::Authorization }) == At::Transaction;
    let mut judged = Vec::new();
    if let Some(user) = user {
        judged.push(judge(trial, format!("USER {user}").as_bytes()));
    }
    if is_behind {
        let line = if user.is_some() { "PASS (secret)" } else { "AUTH GSSAPI" };
        judged.push(judge(trial, line.as_bytes()));
    }
    judged.retain(|judged| judged.outcome.is_changed());
    judged
}

fn judge(trial: &mut Trial, line: &[u8]) -> Judged {
    let mut outcome = trial.say(line, None);
    let command = Command::parse(line);
    let is_secret = matches!(command.keyword, Keyword::Pass | Keyword::Apop | Keyword::Auth) && command.has_argument();
    if !is_secret {
        return Judged { line: escape(line), outcome, then: None };
    }
    // What somebody typed may be a password all the same.
    if !outcome.server.is_empty() {
        outcome.server = b"(the line, which may hold a secret)\r\n".to_vec();
    }
    Judged { line: format!("{} (withheld)", escape(command.word)), outcome, then: None }
}

/// The exit code's say.
fn verdict(judged: &[Judged], expected: Option<Expected>) -> Result<(), Failure> {
    let lines = judged.len();
    if let Some(expected) = expected {
        let otherwise = judged.iter().filter(|judged| decision(&judged.outcome) != expected.name()).count();
        let message = format!("{otherwise} of {lines} lines were not decided as expected: {}", expected.name());
        return if otherwise == 0 { Ok(()) } else { Err(Failure::new(exit::DIFFERENT, message)) };
    }
    let changed = judged.iter().filter(|judged| judged.outcome.is_changed()).count();
    let message = format!("{changed} of {lines} lines would not pass as they are");
    if changed == 0 { Ok(()) } else { Err(Failure::new(exit::DIFFERENT, message)) }
}

fn decision(outcome: &Outcome) -> &'static str {
    outcome.decision().map_or("forward", |decided| decided.action.name())
}

// ── output ──

/// One line as JSON.
#[derive(Serialize)]
struct Told<'a> {
    line: &'a str,
    decision: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    rules: Vec<Applied<'a>>,
    client: Vec<String>,
    server: Vec<String>,
    closed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    then: Option<&'a str>,
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

fn shown(judged: &[Judged], json: bool) -> Result<String, Failure> {
    if !json {
        return Ok(judged.iter().map(text).collect());
    }
    let line = |judged: &Judged| Ok(serde_json::to_string(&told(judged))? + "\n");
    let lines: serde_json::Result<String> = judged.iter().map(line).collect();
    lines.map_err(|error| Failure::new(exit::SOFTWARE, format!("cannot write the result as JSON: {error}")))
}

fn told(judged: &Judged) -> Told<'_> {
    let Outcome { decisions, client, server, closed } = &judged.outcome;
    let rules = decisions.iter().map(|decided| Applied {
        rule: &decided.rule,
        action: decided.action.name(),
        enforced: decided.enforced,
        tag: decided.tag.as_deref(),
    });
    Told {
        line: &judged.line,
        decision: decision(&judged.outcome),
        rule: judged.outcome.decision().map(|decided| decided.rule.as_str()),
        rules: rules.collect(),
        client: lines_of(client),
        server: lines_of(server),
        closed: *closed,
        then: judged.then.as_deref(),
    }
}

fn text(judged: &Judged) -> String {
    let Outcome { decisions, client, server, closed } = &judged.outcome;
    let mut lines = vec![format!("{}\n", judged.line)];
    let mut entry = |name: &str, value: &str| {
        let named = |(at, line)| format!("  {:8}{line}\n", if at == 0 { name } else { "" });
        lines.extend(value.lines().enumerate().map(named));
    };
    for decided in decisions {
        let would = if decided.enforced { "" } else { ", in a dry run" };
        let tag = decided.tag.as_ref().map_or_else(String::new, |tag| format!(": {tag}"));
        entry("rule", &format!("{} ({}{would}){tag}", decided.rule, decided.action.name()));
    }
    if decisions.is_empty() {
        entry("rule", "none");
    }
    entry("client", &or_nothing(client));
    entry("server", &or_nothing(server));
    if *closed {
        entry("", "the session is closed");
    }
    if let Some(then) = &judged.then {
        entry("then", then);
    }
    lines.concat()
}

fn or_nothing(octets: &[u8]) -> String {
    if octets.is_empty() { "nothing".to_owned() } else { lines_of(octets).join("\n") }
}

/// What one side gets, a line each.
fn lines_of(octets: &[u8]) -> Vec<String> {
    octets.split_inclusive(|&octet| octet == b'\n').map(crate::escape::escape_line).collect()
}
