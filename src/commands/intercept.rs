//! `poptap intercept`: the firewall's rules that lead clients here.

mod rules;

use super::{Failure, exit, print};
use crate::{
    cli::{InterceptCommand, RunArgs, ShowRulesArgs},
    config::{self, Config, Listener, Otherwise, Source, TlsDemand, TlsMode, Transparent},
};

use rules::{Rules, Trap};

pub(super) fn intercept(command: &InterceptCommand) -> Result<(), Failure> {
    let InterceptCommand::ShowRules(args) = command;
    let rules = wanted(args)?;
    print(&if args.undo { rules.undo() } else { rules.script() })
}

fn wanted(args: &ShowRulesArgs) -> Result<Rules, Failure> {
    let (traps, from_clients) = match args.transparent {
        Some(how) => (of_flags(how, args), args.source_client),
        None => of_config(args)?,
    };
    let is_redirected = traps.iter().any(|trap| trap.how == Transparent::Redirect);
    if args.local.is_some() && !is_redirected {
        let text = "this host's own connections can only be redirected, and no listener has `transparent = \"redirect\"`\n  \
                    hint: add one, or leave out `--local`";
        return Err(Failure::new(exit::USAGE, text));
    }
    Ok(Rules {
        traps,
        from_clients,
        interfaces: args.interface.clone(),
        spared: args.local.clone(),
        mark: args.mark,
        table: args.table,
    })
}

fn of_flags(how: Transparent, args: &ShowRulesArgs) -> Vec<Trap> {
    let trap = |listen: &config::ListenAddress| Trap {
        how,
        address: listen.address,
        ports: ports(args, || vec![usual_port(listen.tls, TlsDemand::Optional)]),
    };
    args.listen.iter().map(trap).collect()
}

fn of_config(args: &ShowRulesArgs) -> Result<(Vec<Trap>, bool), Failure> {
    let Some(file) = &args.config else {
        let text = "there is no configuration to show rules for\n  hint: name its file with `--config`, or give `--transparent` and \
                    `--listen`";
        return Err(Failure::new(exit::USAGE, text));
    };
    let Config { listeners, .. } = config::load(&RunArgs { config: Some(file.clone()), ..RunArgs::default() })?.config;
    let trap = |listener: &Listener| {
        let how = listener.interception.as_ref()?.how;
        Some(Trap { how, address: listener.address, ports: ports(args, || ports_of(listener)) })
    };
    let traps: Vec<Trap> = listeners.iter().filter_map(trap).collect();
    let from_clients = listeners.iter().any(|listener| listener.source == Source::Client);
    if traps.is_empty() && !from_clients {
        let text = "no listener is transparent, so that no rules are needed\n  hint: add `transparent = \"redirect\"` to one";
        return Err(Failure::new(exit::CONFIG, text));
    }
    Ok((traps, from_clients))
}

fn ports(args: &ShowRulesArgs, otherwise: impl Fn() -> Vec<u16>) -> Vec<u16> {
    let mut ports = if args.port.is_empty() { otherwise() } else { args.port.iter().map(|port| port.get()).collect() };
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Where every destination has its port, these; else the usual one.
fn ports_of(listener: &Listener) -> Vec<u16> {
    let table = listener.interception.as_ref().and_then(|interception| interception.table.as_ref());
    let named = table.filter(|table| table.otherwise == Otherwise::Refuse).and_then(|table| {
        table.destinations.iter().map(|entry| entry.port.map(std::num::NonZeroU16::get)).collect::<Option<Vec<u16>>>()
    });
    named.unwrap_or_else(|| vec![usual_port(listener.tls, listener.demand)])
}

fn usual_port(tls: TlsMode, demand: TlsDemand) -> u16 {
    if tls == TlsMode::Implicit || demand == TlsDemand::Pass { 995 } else { 110 }
}
