//! A recorded session, tried again: what would be decided otherwise than it was?

use std::{collections::BTreeMap, collections::BTreeSet, io, net::SocketAddr, sync::Arc};

use super::{
    Count, Scene, decision, print,
    recorded::{Recorded, Step, Was},
    report::{Before, Judged, Report},
    warn,
};
use crate::{
    cli::{RulesTestArgs, StoreArgs},
    commands::{Failure, exit},
    config::{self, Config, Listener, TlsMode, Upstream},
    escape::escape_line,
    inspect::{self, Which},
    policy::{BUILT_IN_EDITS, ListenerHop, Outcome, Rules, Trial, message_in},
    tap::Action,
};

pub(super) fn session(args: &RulesTestArgs, id: &str, config: &Config, rules: &Arc<Rules>) -> Result<(), Failure> {
    let recorded = read(args, id)?;
    let (listener, server) = listener(&recorded, config)?;
    let scene = scene(&recorded, listener, server, config, rules);
    let greeting = recorded.greeting.as_ref().and_then(|step| step.script.as_ref()).map(|script| script.status.as_slice());
    let mut trial = scene.begin(recorded.tls, sizes(&recorded), greeting.unwrap_or(b"+OK\r\n"));
    let (mut report, mut count, mut withheld) = (Report::new(args.json), Count::default(), 0);
    report.greeting(&trial);
    for step in &recorded.steps {
        match step.line.as_deref().filter(|_| !is_beyond_rules(&step.was)) {
            None => withheld += 1,
            Some(line) if trial.is_over() => count.line(said(&mut report, step, line, &Outcome::default(), args)?),
            Some(line) => {
                let outcome = ask(&mut trial, step, line);
                count.line(said(&mut report, step, line, &outcome, args)?);
            }
        }
        if step.then_tls {
            // The client's TLS did start, whatever becomes of its STLS now.
            trial.secure(scene.policy(true));
        }
    }
    if withheld > 0 {
        report.remark(&format!("{withheld} of the commands could not be judged: the record does not tell enough of them"));
    }
    print(&report.finish())?;
    count.verdict(args.expect, "commands", "would be decided otherwise than they were")
}

fn read(args: &RulesTestArgs, id: &str) -> Result<Recorded, Failure> {
    let store = config::store(&StoreArgs { transcript: args.transcript.clone(), config: args.config.clone() })?;
    let mut recorded = Recorded::default();
    inspect::each_record(&store, &Which::Id(id.to_owned()), &mut |record| recorded.take(record), &mut io::stderr().lock())?;
    if recorded.steps.is_empty() && recorded.greeting.is_none() {
        let why = "there is nothing to judge: of this session only the summary is left, or nothing was said in it";
        return Err(Failure::new(exit::UNAVAILABLE, format!("{why}\n  hint: `record = \"events\"` keeps what is said")));
    }
    if recorded.hashed {
        warn("user names are digests in this record: no pattern for a user can be judged");
    }
    Ok(recorded)
}

/// The listener that the record names where it is configured, or else one that leads to the same server, or else the first; and
/// the one of its upstreams that the record names, or else the first.
fn listener<'a>(recorded: &Recorded, config: &'a Config) -> Result<(&'a Listener, &'a Upstream), Failure> {
    let named = |listener: &'a Listener| listener.upstreams.iter().find(|upstream| upstream.name == recorded.upstream);
    let at = |address: SocketAddr| config.listeners.iter().find(|listener| listener.address == address);
    let to_server = || config.listeners.iter().find(|listener| named(listener).is_some());
    let exactly = recorded.listener.and_then(at);
    if exactly.is_none() && config.rules.iter().any(|rule| !rule.when.listeners.is_empty()) {
        warn("the listener of this session is not configured: rules for a listener do not hold in it");
    }
    let similar = exactly.or_else(to_server).or(config.listeners.first());
    let found = similar.and_then(|listener| Some((listener, &**named(listener).or(listener.upstreams.first())?)));
    found.ok_or_else(|| Failure::new(exit::CONFIG, "no listener is configured"))
}

/// What the record says of addresses, names and TLS holds, whatever is configured.
fn scene<'a>(
    recorded: &'a Recorded,
    listener: &Listener,
    server: &'a Upstream,
    config: &'a Config,
    rules: &'a Arc<Rules>,
) -> Scene<'a> {
    let tls = match (recorded.stls, recorded.tls) {
        (true, _) => TlsMode::Stls,
        (false, true) => TlsMode::Implicit,
        (false, false) => listener.tls,
    };
    Scene {
        config,
        rules,
        client: recorded.client.map_or_else(|| [127, 0, 0, 1].into(), |client| client.ip()),
        listener: recorded.listener.unwrap_or(listener.address),
        hop: ListenerHop { tls, demand: listener.demand, stls: listener.stls },
        upstream: &recorded.upstream,
        server,
    }
}

/// The messages that were spoken of, and those whose size is known.
fn sizes(recorded: &Recorded) -> BTreeMap<u64, u64> {
    let spoken_of = recorded.steps.iter().filter_map(|step| message_in(step.line.as_deref()?)).filter(|number| *number > 0);
    let mut sizes: BTreeMap<u64, u64> = spoken_of.map(|number| (number, 0)).collect();
    sizes.extend(&recorded.sizes);
    sizes
}

/// A command with the responses to its challenges.
fn ask(trial: &mut Trial, step: &Step, line: &[u8]) -> Outcome {
    let script = step.script.clone().map(|script| crate::policy::Script { challenges: step.responses.len(), ..script });
    let mut outcome = trial.say(line, script);
    for response in &step.responses {
        if trial.is_over() || !trial.awaits_response() {
            break;
        }
        let more = trial.say(response, None);
        outcome.decisions.extend(more.decisions);
        outcome.client.extend(more.client);
        outcome.server.extend(more.server);
        outcome.closed = more.closed;
    }
    outcome
}

/// Tells of a command that rules decide upon, or did. Returns whether that is a failure.
fn said(report: &mut Report, step: &Step, line: &[u8], outcome: &Outcome, args: &RulesTestArgs) -> Result<bool, Failure> {
    let otherwise = is_otherwise(&step.was, outcome);
    let then = step.was.decision.as_ref();
    if otherwise || then.is_some() || !outcome.decisions.is_empty() {
        let (decision, rule) = then.map_or(("forward", None), |(action, rule)| (action.as_str(), Some(rule.as_str())));
        let before = Some(Before { decision, rule, otherwise });
        report.line(&Judged { n: Some(step.n), line, is_response: false, is_withheld: step.is_withheld, outcome, before })?;
    }
    Ok(args.expect.map_or(otherwise, |expected| decision(outcome) != expected.name()))
}

/// Limits close sessions, too, and are not tried.
fn is_beyond_rules(was: &Was) -> bool {
    let limits = ["client-blocked", "user-blocked", "too-many-from-client", "too-many-of-user"];
    was.decision.as_ref().is_some_and(|(_, rule)| limits.contains(&rule.as_str()))
}

fn is_otherwise(was: &Was, outcome: &Outcome) -> bool {
    // To let something pass is no other decision than to have none.
    let then = was.decision.as_ref().map(|(action, _)| action.as_str()).filter(|action| *action != "allow");
    let now = outcome.decision().map(|decided| decided.action).filter(|action| *action != Action::Allow);
    if then != now.map(Action::name) || was.edits != edits(outcome) {
        return true;
    }
    let first = |octets: &[u8]| octets.split_inclusive(|&octet| octet == b'\n').next().map(escape_line);
    let differs = |was: &Option<String>, now: &[u8]| was.as_ref().zip(first(now)).is_some_and(|(was, now)| *was != now);
    match now {
        Some(Action::Answer | Action::Shield | Action::Close) => differs(&was.reply, &outcome.client),
        Some(Action::Rewrite) => differs(&was.line, &outcome.server),
        _ => false,
    }
}

/// The rules that edit the reply.
fn edits(outcome: &Outcome) -> BTreeSet<String> {
    let is_edit = |action| matches!(action, Action::EditLine | Action::RemoveLine | Action::AddLine);
    let edits = outcome.decisions.iter().filter(|decided| decided.enforced && is_edit(decided.action));
    edits.map(|decided| decided.rule.clone()).filter(|rule| !BUILT_IN_EDITS.contains(&rule.as_str())).collect()
}
