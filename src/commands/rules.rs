//! `poptap rules test`: what rules would do, to lines or to a recorded session.

mod lines;
mod recorded;
mod replay;
mod report;

use std::{collections::BTreeMap, net::IpAddr, net::SocketAddr, sync::Arc};

use super::{Failure, exit, print, warn};
use crate::{
    cli::{Expected, RulesCommand, RulesTestArgs, RunArgs},
    config::{self, Config, Loaded, Upstream},
    policy::{Facts, ListenerHop, Outcome, Policy, Rules, Settings, Terms, Trial},
    tap::Caps,
};

pub(super) fn rules(command: &RulesCommand) -> Result<(), Failure> {
    let RulesCommand::Test(args) = command;
    let config = load(args)?;
    let rules = Arc::new(Rules::new(&config.rules).map_err(|error| Failure::new(exit::CONFIG, error))?);
    match &args.session {
        Some(id) => replay::session(args, id, &config, &rules),
        None => lines::lines(args, &config, &rules),
    }
}

/// Without a file there are the flags' rules alone, and a server has to have some name; it never resolves (RFC 6761 §6.4).
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

/// Where a client came to, and where it is carried.
struct Scene<'a> {
    config: &'a Config,
    rules: &'a Arc<Rules>,
    client: IpAddr,
    listener: SocketAddr,
    hop: ListenerHop,
    /// The upstream's name, as rules know it.
    upstream: &'a str,
    server: &'a Upstream,
}

impl Scene<'_> {
    /// What decides in the session, or in the part of it before or after STLS.
    fn policy(&self, tls: bool) -> Policy {
        let Self { config, client, listener, upstream, .. } = *self;
        let caps = Caps { command: config.limits.command_line, sasl: config.limits.sasl_line };
        let terms = Terms::of_rules(self.rules.for_session(&Facts { client, listener, upstream, tls }), caps);
        Policy::new(Settings::of_hops(self.hop, self.server, tls), Some(terms))
    }

    fn begin(&self, tls: bool, sizes: BTreeMap<u64, u64>, greeting: &[u8]) -> Trial {
        Trial::new(self.policy(tls), sizes, greeting)
    }
}

/// What was decided of a line, in a word.
fn decision(outcome: &Outcome) -> &'static str {
    outcome.decision().map_or("forward", |decided| decided.action.name())
}

/// How many lines were decided, and how many of them otherwise than they should have been.
#[derive(Clone, Copy, Default)]
struct Count {
    judged: usize,
    failed: usize,
}

impl Count {
    fn line(&mut self, is_failure: bool) {
        self.judged += 1;
        self.failed += usize::from(is_failure);
    }

    /// The exit code's say; `otherwise` is what a failure is without `--expect`.
    fn verdict(self, expected: Option<Expected>, noun: &str, otherwise: &str) -> Result<(), Failure> {
        let Self { judged, failed } = self;
        if failed == 0 {
            return Ok(());
        }
        let what = expected
            .map_or_else(|| otherwise.to_owned(), |expected| format!("were not decided as expected: {}", expected.name()));
        Err(Failure::new(exit::DIFFERENT, format!("{failed} of {judged} {noun} {what}")))
    }
}
