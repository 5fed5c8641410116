//! The validated configuration → the file that says the same.

mod intercept;
mod rules;

use std::{
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    sync::Arc,
};

use ipnet::IpNet;
use toml::Spanned;

use super::{
    AllowFrom, Anomalies, Config, HttpAddress, Limits, ListenPlace, Listener, Log, MetricsEndpoint, Network, PageEndpoint, Place,
    Process, Retention, Routing, Rule, ServerTls, Shield, Timeouts, TlsDemand, TlsMode, Transcript, Upstream, UserRoute,
    address::ListenAddress,
    file::{
        File, KeepSection, KeyPairSection, LimitsSection, ListenerSection, LogSection, MintSection, PolicySection, ShieldSection,
        TimeoutsSection, TranscriptSection, UpstreamSection,
    },
    http::{MetricsSection, WebSection},
    process::ProcessSection,
    routing::RouteSection,
    rule::OneOrMany,
    values::{Period, Size, WaitLimit},
};

/// The configuration as TOML with every key that has a value; loaded again, it is the same configuration.
///
/// What only the command line can ask for (`--reveal-credentials`, `--keylog`) stands there as a comment.
///
/// # Errors
///
/// When a value cannot be said in TOML: a path that is not UTF-8.
pub fn effective(config: &Config) -> Result<String, toml::ser::Error> {
    let toml = toml::to_string_pretty(&to_file(config))?;
    let revealed = config.transcript.as_ref().is_some_and(|transcript| transcript.reveal_credentials);
    let mut text = String::new();
    if let Some(file) = &config.keylog {
        text = format!("# with --keylog {} on the command line\n", file.display());
    }
    if revealed {
        text += "# with --reveal-credentials on the command line\n";
    }
    Ok(text + &toml)
}

fn to_file(config: &Config) -> File {
    File {
        listener: config.listeners.iter().map(|listener| unplaced(listener_section(listener))).collect(),
        upstream: distinct_upstreams(&config.listeners)
            .into_iter()
            .map(|upstream| unplaced(upstream_section(upstream)))
            .collect(),
        rule: config.rules.iter().map(|rule| unplaced(rules::section(rule))).collect(),
        policy: policy_section(&config.rules, &config.anomalies),
        shield: shield_section(&config.shield),
        transcript: config.transcript.as_ref().map_or_else(disabled, transcript_section),
        limits: limits_section(&config.limits),
        timeouts: timeouts_section(&config.timeouts),
        log: log_section(&config.log),
        metrics: config.metrics.as_ref().map(metrics_section).unwrap_or_default(),
        web: config.page.as_ref().map(web_section).unwrap_or_default(),
        process: process_section(&config.process),
    }
}

/// What is serialised needs no place.
fn unplaced<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

fn distinct_upstreams(listeners: &[Listener]) -> Vec<&Upstream> {
    let mut distinct: Vec<&Arc<Upstream>> = Vec::new();
    for upstream in listeners.iter().flat_map(Listener::all_upstreams) {
        if !upstream.is_original() && !distinct.contains(&upstream) {
            distinct.push(upstream);
        }
    }
    distinct.into_iter().map(|upstream| &**upstream).collect()
}

fn listener_section(listener: &Listener) -> ListenerSection {
    ListenerSection {
        address: Some(unplaced(place(listener))),
        upstream: Some(unplaced(intercept::upstream_names(listener))).filter(|_| !listener.upstreams.is_empty()),
        route: listener.routing.as_ref().and_then(routes).map(unplaced),
        map: listener.routing.as_ref().and_then(Routing::map_file).map(|file| unplaced(file.to_owned())),
        capabilities: listener.routing.as_ref().map(|routing| unplaced(routing.capabilities.clone())),
        allow_from: Some(allowed(&listener.allow_from)),
        deny_from: some_networks(&listener.deny_from),
        proxy_from: some_networks(&listener.proxy_from),
        backlog: Some(unplaced(listener.socket.backlog)),
        device: listener.socket.device.clone().map(unplaced),
        freebind: Some(listener.socket.freebind),
        v6only: listener.socket.v6only.map(unplaced),
        stls: Some(listener.stls),
        tls: Some(listener.demand).filter(|demand| listener.tls == TlsMode::Stls || *demand == TlsDemand::Pass),
        transparent: listener.interception.as_ref().map(|interception| unplaced(interception.how)),
        allow_to: listener.interception.as_ref().and_then(|interception| some_networks(&interception.allow_to)),
        destinations: intercept::destinations(listener),
        otherwise: intercept::table(listener).map(|table| unplaced(table.otherwise)),
        source: Some(unplaced(listener.source)),
        ..listener.server_tls.as_ref().map(server_tls).unwrap_or_default()
    }
}

fn routes(routing: &Routing) -> Option<Vec<RouteSection>> {
    let section = |route: &UserRoute| RouteSection {
        user: unplaced(route.pattern.as_str().to_owned()),
        upstream: unplaced(route.upstream.to_string()),
        rewrite: route.rewrite.clone().map(unplaced),
    };
    Some(routing.routes.iter().map(section).collect()).filter(|routes: &Vec<_>| !routes.is_empty())
}

fn one_or_many<T: Clone>(values: Vec<T>) -> OneOrMany<T> {
    if let [only] = &values[..] { OneOrMany::One(only.clone()) } else { OneOrMany::Many(values) }
}

fn place(listener: &Listener) -> ListenPlace {
    let (tls, address) = (listener.tls, listener.address);
    let handed_over = listener.handed_over.clone().map(|name| ListenPlace::HandedOver { tls, name });
    handed_over.unwrap_or(ListenPlace::Address(ListenAddress { tls, address }))
}

fn allowed(allow_from: &AllowFrom) -> Vec<Network> {
    match allow_from {
        AllowFrom::Loopback => Vec::new(),
        AllowFrom::Networks(networks) => sections_of(networks),
        AllowFrom::Any => vec![Network::Any],
    }
}

fn server_tls(settings: &ServerTls) -> ListenerSection {
    let (first, more) = settings.chains.split_first().map_or((None, &[][..]), |(first, more)| (Some(first), more));
    ListenerSection {
        cert: first.map(|pair| unplaced(pair.cert.clone())),
        key: first.map(|pair| pair.key.clone()),
        certs: Some(more.iter().map(|pair| KeyPairSection { cert: pair.cert.clone(), key: Some(pair.key.clone()) }).collect())
            .filter(|certs: &Vec<_>| !certs.is_empty()),
        mint: settings.mint.as_ref().map(|pair| MintSection { ca: pair.cert.clone(), key: Some(pair.key.clone()) }),
        min_tls: Some(settings.min_version),
        client_ca: settings.client_ca.clone(),
        client_cert: settings.client_ca.as_ref().map(|_| settings.client_cert),
        ..ListenerSection::default()
    }
}

fn upstream_section(upstream: &Upstream) -> UpstreamSection {
    let url = upstream.url();
    UpstreamSection {
        name: Some(upstream.name.clone()).filter(|name| *name != url.to_string()).map(unplaced),
        url: Some(unplaced(url)),
        ca_file: upstream.ca_file.clone().map(unplaced),
        crl_file: upstream.crl_file.clone().map(unplaced),
        pin: upstream.pin.map(unplaced),
        accept: Some(upstream.accept.clone()).filter(|accept| !accept.is_empty()).map(unplaced),
        cert: upstream.client.as_ref().map(|pair| unplaced(pair.cert.clone())),
        key: upstream.client.as_ref().map(|pair| unplaced(pair.key.clone())),
        server_name: upstream.server_name.clone().map(unplaced),
        proxy_protocol: Some(upstream.proxy_protocol),
        apop: Some(upstream.apop),
        xclient: Some(upstream.xclient),
    }
}

/// Where no rule acts, somebody asked for that.
fn policy_section(rules: &[Rule], anomalies: &Anomalies) -> PolicySection {
    PolicySection {
        dry_run: Some(!rules.is_empty() && rules.iter().all(|rule| !rule.enforced)),
        strict: Some(anomalies.strict.iter().collect()),
        slow_reply: Some(Period(anomalies.slow_reply)),
    }
}

fn shield_section(shield: &Shield) -> ShieldSection {
    ShieldSection { remember: Some(shield.remember), keep: Some(Period(shield.keep)), dir: shield.dir.clone().map(unplaced) }
}

fn disabled() -> TranscriptSection {
    TranscriptSection { enabled: Some(false), ..TranscriptSection::default() }
}

fn transcript_section(transcript: &Transcript) -> TranscriptSection {
    let dir = match &transcript.place {
        Place::Directory(directory) => directory.clone(),
        Place::Stdout => "-".into(),
    };
    TranscriptSection {
        enabled: Some(true),
        dir: Some(unplaced(dir)),
        record: Some(transcript.record),
        content: Some(transcript.content),
        hash: Some(transcript.hash),
        listings: Some(transcript.listings),
        user: Some(transcript.user),
        rotate_size: Some(Size(transcript.rotate_size)),
        rotate_age: Some(Period(transcript.rotate_age)),
        compress: Some(transcript.compress),
        audit_rows: u32::try_from(transcript.audit_rows).ok(),
        audit_keep: Some(Period(transcript.audit_keep)),
        buffer: Some(Size(transcript.buffer)),
        on_full: Some(transcript.on_full),
        wait_limit: Some(WaitLimit(transcript.wait_limit)),
        on_error: Some(transcript.on_error),
        keep_events: keep_section(&transcript.keep_events),
        keep_sessions: keep_section(&transcript.keep_sessions),
    }
}

fn keep_section(retention: &Retention) -> KeepSection {
    KeepSection {
        age: Some(Period(retention.age)),
        size: Some(Size(retention.octets)),
        segments: NonZeroU64::new(retention.segments),
    }
}

fn limits_section(limits: &Limits) -> LimitsSection {
    let failures = limits.login_failures.and_then(|failures| u32::try_from(failures).ok()).and_then(NonZeroU32::new);
    LimitsSection {
        connections: NonZeroUsize::new(limits.connections),
        sessions_per_client: limits.sessions_per_client.and_then(NonZeroUsize::new),
        sessions_per_user: limits.sessions_per_user.and_then(NonZeroUsize::new),
        login_failures: failures.map(unplaced),
        login_window: Some(Period(limits.login_window)),
        login_block: Some(Period(limits.login_block)),
        login_delay: limits.login_delay.map(|delay| unplaced(Period(delay))),
        commands: limits.commands.and_then(NonZeroU64::new),
        octets: limits.octets.map(Size),
        tracked_addresses: NonZeroUsize::new(limits.tracked_addresses),
        exempt: some_networks(&limits.exempt),
        outstanding: NonZeroUsize::new(limits.outstanding),
        command_line: Some(unplaced(limits.command_line)),
        sasl_line: Some(unplaced(Size(limits.sasl_line))),
    }
}

fn sections_of(networks: &[IpNet]) -> Vec<Network> {
    networks.iter().copied().map(Network::Of).collect()
}

fn some_networks(networks: &[IpNet]) -> Option<Spanned<Vec<Network>>> {
    Some(networks).filter(|networks| !networks.is_empty()).map(|networks| unplaced(sections_of(networks)))
}

fn timeouts_section(timeouts: &Timeouts) -> TimeoutsSection {
    TimeoutsSection {
        connect: Some(Period(timeouts.connect)),
        handshake: Some(Period(timeouts.handshake)),
        greeting: Some(Period(timeouts.greeting)),
        login: Some(Period(timeouts.login)),
        idle: Some(Period(timeouts.idle)),
        half_closed: Some(Period(timeouts.half_closed)),
        reply: Some(Period(timeouts.reply)),
        drain: Some(Period(timeouts.drain)),
        rest: Some(Period(timeouts.rest)),
        longest_rest: Some(unplaced(Period(timeouts.longest_rest))),
    }
}

fn log_section(log: &Log) -> LogSection {
    LogSection {
        file: log.file.clone().map(unplaced),
        rotation: Some(log.rotation),
        format: Some(log.format),
        filter: Some(unplaced(log.filter.clone())),
    }
}

fn metrics_section(endpoint: &MetricsEndpoint) -> MetricsSection {
    MetricsSection { listen: Some(unplaced(HttpAddress(endpoint.address))), allow_from: Some(allowed(&endpoint.allow_from)) }
}

fn process_section(process: &Process) -> ProcessSection {
    ProcessSection {
        user: process.user.clone().map(unplaced),
        group: process.group.clone().map(unplaced),
        sandbox: Some(process.sandbox),
        core_dumps: Some(process.core_dumps),
    }
}

fn web_section(endpoint: &PageEndpoint) -> WebSection {
    WebSection { listen: Some(unplaced(HttpAddress(endpoint.address))), allow_remote: Some(endpoint.allow_remote) }
}
