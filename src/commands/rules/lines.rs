//! Lines of the command line, tried one after the other as one session.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Count, Scene, decision, print,
    report::{Judged, Report},
};
use crate::{
    cli::{At, RulesTestArgs},
    commands::{Failure, exit},
    config::{Config, Listener, TlsDemand, TlsMode, Upstream},
    policy::{ListenerHop, Rules, message_in},
};

pub(super) fn lines(args: &RulesTestArgs, config: &Config, rules: &Arc<Rules>) -> Result<(), Failure> {
    let (listener, server) = listener(args, config)?;
    let hop = ListenerHop { tls: listener.tls, demand: listener.demand, stls: listener.stls };
    let upstream = server.name.as_str();
    let scene = Scene { config, rules, client: args.client, listener: listener.address, hop, upstream, server };
    let logged_in =
        args.stage.unwrap_or(if args.user.is_some() { At::Transaction } else { At::Authorization }) == At::Transaction;
    // Whoever has named a user where TLS is demanded has started it.
    let is_demanded = hop.tls == TlsMode::Stls && hop.demand == TlsDemand::Required;
    let tls = args.tls || hop.tls == TlsMode::Implicit || is_demanded && (logged_in || args.user.is_some());
    let mut trial = scene.begin(tls, sizes(args), b"+OK ready\r\n");
    let mut report = Report::new(args.json);
    report.greeting(&trial);
    let user = args.user.as_deref();
    if (logged_in || user.is_some()) && !trial.presume(user, logged_in) {
        let who = user.map_or_else(String::new, |user| format!(" as `{}`", crate::escape::escape(user.as_bytes())));
        return Err(Failure::new(
            exit::USAGE,
            format!("nobody could log in{who} before the lines: the name is no part of a POP3 line"),
        ));
    }
    let mut count = Count::default();
    for line in &args.lines {
        let is_response = trial.awaits_response();
        let outcome = trial.say(line.as_bytes(), None);
        if trial.starts_tls() {
            trial.secure(scene.policy(true));
        }
        count.line(match args.expect {
            Some(expected) => decision(&outcome) != expected.name(),
            None => outcome.is_changed(),
        });
        report.line(&Judged {
            n: None,
            line: line.as_bytes(),
            is_response,
            is_withheld: false,
            outcome: &outcome,
            before: None,
        })?;
    }
    print(&report.finish())?;
    count.verdict(args.expect, "lines", "would not pass as they are")
}

/// The listener and the one of its upstreams that are meant; the first where none is.
fn listener<'a>(args: &RulesTestArgs, config: &'a Config) -> Result<(&'a Listener, &'a Upstream), Failure> {
    let is_meant = |upstream: &Upstream| {
        args.upstream.as_ref().is_none_or(|wanted| *wanted == upstream.name || *wanted == upstream.url().to_string())
    };
    let mut at = config.listeners.iter().filter(|listener| args.listener.is_none_or(|wanted| wanted.address == listener.address));
    let found = at.find_map(|listener| {
        let upstream = listener.upstreams.iter().find(|upstream| is_meant(upstream))?;
        Some((listener, &**upstream))
    });
    found.ok_or_else(|| {
        let there = config.listeners.iter().map(|listener| format!("{} to `{}`", listener.address, listener.upstream_names()));
        let there = there.collect::<Vec<_>>().join(", ");
        Failure::new(exit::USAGE, format!("no listener is configured so\n  hint: there is {there}"))
    })
}

/// The messages in the mailbox.
fn sizes(args: &RulesTestArgs) -> BTreeMap<u64, u64> {
    if !args.message.is_empty() {
        return args.message.iter().map(|message| (message.number, message.octets)).collect();
    }
    let spoken_of = args.lines.iter().filter_map(|line| message_in(line.as_bytes()));
    let last = spoken_of.filter(|number| *number <= MOST_MESSAGES).max().unwrap_or(0).max(FEWEST_MESSAGES);
    (1..=last).map(|number| (number, 1000)).collect()
}

/// As many messages there are, and more if a line is about one behind them.
const FEWEST_MESSAGES: u64 = 9;
const MOST_MESSAGES: u64 = 10_000;
