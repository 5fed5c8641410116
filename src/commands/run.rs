//! `poptap run`: from a configuration to a server that runs until it is told to stop.

use std::{
    io::{self, IsTerminal, Write as _},
    net::{SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    Failure, exit,
    notify::Manager,
    reload, reopen,
    start::{self, Prepared},
    upgrade::{self, Program, Upgrade},
};
use crate::{
    cli::{Live, RunArgs, Verbosity},
    config::{self, AllowFrom, Config, ContentPolicy, Loaded, Log, Period, Place, TlsMode, Transcript, Upstream},
    inspect::{Terminal, human},
    net::{ConnectError, Report, is_own_address},
    record::{Beside, LiveView, Loss, Noticed, Store},
    server::{Inherited, Served, Server, StartError, Stop, Succession, Way},
    telemetry::{self, LogFile},
    web::Web,
};

/// How long exit waits for the transcript's writer.
const FINISH: Duration = Duration::from_secs(5);

pub(super) fn run(args: &RunArgs, verbosity: Verbosity) -> Result<(), Failure> {
    let origin = Origin::of_process()?;
    let done = run_from(&origin, args, verbosity);
    if let (Some(succession), Err(failure)) = (&origin.succession, &done) {
        succession.failed(&failure.message);
    }
    done
}

/// How the process came to be.
struct Origin {
    program: Program,
    /// There where it replaces another one.
    succession: Option<Succession>,
}

impl Origin {
    fn of_process() -> Result<Self, Failure> {
        let failed = |error| Failure::new(exit::SOFTWARE, format!("cannot take over from another process: {error}"));
        Ok(Self { program: Program::of_process(), succession: Succession::of_process().map_err(failed)? })
    }
}

fn run_from(origin: &Origin, args: &RunArgs, verbosity: Verbosity) -> Result<(), Failure> {
    let sockets = start::inherit(origin.succession.as_ref())?;
    let Loaded { config, warnings } = config::load(args)?;
    let live = is_live(args.live, &config)?;
    let on_terminal = io::stderr().is_terminal();
    let log = if live && on_terminal { beside_the_view(&config.log) } else { config.log.clone() };
    // Before the log, which has a thread of its own.
    let prepared = start::prepare(args, &config, sockets)?;
    let guard = telemetry::start(&log, verbosity.level(), on_terminal)?;
    for warning in warnings.iter().chain(&same_host_warnings(&config)) {
        tracing::warn!("{warning}");
    }
    prepared.announce();
    let runtime = runtime()?;
    let done = runtime.block_on(serve(origin, args, &config, live, prepared, guard.file()));
    // A name lookup that hangs in the system's resolver would hold up the exit.
    runtime.shutdown_background();
    drop(guard);
    done
}

/// The log where it shares a terminal with the live view: that shows each session already, and better. Whoever chose a
/// filter gets what it says.
fn beside_the_view(log: &Log) -> Log {
    let concise = log.file.is_none() && log.filter == "info";
    let filter = if concise { "info,poptap::session=error,poptap::admission=error" } else { &log.filter };
    Log { filter: filter.to_owned(), ..log.clone() }
}

/// Where the server is on this host, it sees every client of ours as a local one: plain logins that it refuses from elsewhere
/// are then accepted.
pub(super) fn same_host_warnings(config: &Config) -> Vec<String> {
    let remote = config.listeners.iter().filter(|listener| listener.allow_from != AllowFrom::Loopback && listener.may_be_plain());
    let pairs = remote.flat_map(|listener| listener.all_upstreams().map(move |upstream| (listener, upstream)));
    let local = pairs.filter(|(_, upstream)| !upstream.is_original() && is_on_this_host(upstream));
    local
        .map(|(listener, upstream)| {
            format!(
                "`{}` is on this host, and `{}` takes plain logins from other hosts: the server will regard them as local \
                 and secure, whatever it demands of others",
                upstream.name, listener.address
            )
        })
        .collect()
}

fn is_on_this_host(upstream: &Upstream) -> bool {
    // A name that cannot be resolved is reported by whoever connects to it.
    let addresses = (upstream.host.as_str(), upstream.port).to_socket_addrs();
    addresses.is_ok_and(|mut addresses| addresses.any(|address| is_own_address(address.ip())))
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::SOFTWARE, format!("cannot start the runtime: {error}")))
}

/// Whether the conversation is printed: standard output can carry that or the transcript, but not both.
fn is_live(live: Live, config: &Config) -> Result<bool, Failure> {
    let is_taken = config.transcript.as_ref().is_some_and(|transcript| transcript.place == Place::Stdout);
    match live {
        Live::Always if is_taken => Err(Failure::new(
            exit::USAGE,
            "cannot print the conversation where the transcript goes\n  hint: leave out `--live always`, or name a directory for the transcript",
        )),
        Live::Always => Ok(true),
        Live::Auto => Ok(!is_taken && io::stdout().is_terminal()),
        Live::Never => Ok(false),
    }
}

async fn serve(
    origin: &Origin,
    args: &RunArgs,
    config: &Config,
    live: bool,
    prepared: Prepared,
    log: Option<LogFile>,
) -> Result<(), Failure> {
    let Prepared { mut sockets, confinement, .. } = prepared;
    let stop = Stop::default();
    watch_signals(stop.clone())?;
    let upgrades = upgrade::signals()?;
    let web = Web::bind(config, &mut sockets).map_err(|error| Failure::new(exit::UNAVAILABLE, error))?;
    let (server, store) = open_beside(config, live, stop.clone(), &web, &mut sockets)?;
    if args.anomalies.exit_on_anomaly {
        tokio::spawn(stop_at_anomaly(store.clone(), stop.clone()));
    }
    let manager = Manager::of_process(server.reloader(), stop.clone());
    reload::watch(server.reloader(), args.clone(), manager.clone(), confinement)?;
    reopen::watch(server.reloader(), log)?;
    let on_terminal = io::stderr().is_terminal();
    if on_terminal {
        introduce(&server, config);
    }
    if !on_terminal || config.log.file.is_some() {
        server.served().for_each(|served| announce(&served));
        tracing::info!("{}", where_transcripts_go(config.transcript.as_ref()));
    }
    tell_of(&web);
    if let Some(succession) = &origin.succession {
        // Before that nobody is accepted, since it might be for nothing.
        tokio::select! {
            () = succession.ready() => {}
            () = stop.drain.cancelled() => {}
        }
    }
    let serving = web.serve(config, &server.reloader());
    let (program, reloader) = (origin.program.clone(), server.reloader());
    upgrade::watch(upgrades, Upgrade { program, reloader, web: serving.handing(), stop, manager: manager.clone() });
    // Their sockets listen: whoever comes now waits until `run` gets to them.
    manager.ready();
    let cut_short = server.run().await;
    if cut_short > 0 {
        tracing::warn!(sessions = cut_short, "sessions were closed before they had finished");
    }
    report(store.finish(FINISH).await);
    serving.stop().await;
    let noticed = store.noticed().filter(|_| args.anomalies.exit_on_anomaly);
    noticed.map_or(Ok(()), |noticed| Err(odd(&noticed)))
}

/// The session is over. Others are not waited for: whoever asked for this wants to know at once.
async fn stop_at_anomaly(store: Store, stop: Stop) {
    store.first_anomaly().await;
    stop.drain.cancel();
    stop.close.cancel();
}

fn odd(noticed: &Noticed) -> Failure {
    let Noticed { session, anomaly } = noticed;
    let (id, anchor) = (anomaly.id(), anomaly.anchor());
    Failure::new(
        exit::DIFFERENT,
        format!(
            "stopped at the first anomaly: {id} in session {session}\n  hint: `poptap sessions show {session}` shows where; {anchor} says what it means"
        ),
    )
}

/// Opens the store and binds the listeners.
pub(super) fn open(config: &Config, live: bool, stop: Stop) -> Result<(Server, Store), Failure> {
    open_beside(config, live, stop, &Web::default(), &mut Inherited::default())
}

fn open_beside(config: &Config, live: bool, stop: Stop, web: &Web, sockets: &mut Inherited) -> Result<(Server, Store), Failure> {
    let live = live.then(|| Box::new(Terminal::stdout()) as Box<dyn LiveView>);
    let beside = Beside { live, counts: web.counts(), broadcast: web.broadcast() };
    let store = Store::open_beside(config.transcript.as_ref(), beside).map_err(|error| Failure::new(exit::IO, error))?;
    let server = Server::bind(config, store.clone(), stop, sockets)?;
    Ok((server, store))
}

fn watch_signals(stop: Stop) -> Result<(), Failure> {
    let catch = |kind| signal(kind).map_err(|error| Failure::new(exit::SOFTWARE, format!("cannot catch signals: {error}")));
    let (mut terminate, mut interrupt) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        tracing::info!("stopping: no more clients are accepted");
        stop.drain.cancel();
        either(&mut terminate, &mut interrupt).await;
        stop.close.cancel();
    });
    Ok(())
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

pub(super) fn report(loss: Loss) {
    if !loss.is_none() {
        tracing::warn!(
            events = loss.events,
            summaries = loss.summaries,
            content_octets = loss.content_octets,
            unwritten = loss.unwritten,
            "the transcript is incomplete"
        );
    }
}

/// Says in the log what a terminal is told by [`introduce`].
pub(super) fn announce(served: &Served) {
    let Served { address, tls, ways } = served;
    let names = ways.iter().map(|way| way.upstream.name.as_str()).collect::<Vec<_>>().join(", ");
    tracing::info!(upstream = names, tls = protection(*tls), "listening on {address}");
}

/// Says on the terminal what to do next, and tests each upstream meanwhile: clients need not wait for that.
fn introduce(server: &Server, config: &Config) {
    for served in server.served() {
        say(&format!("{}\n", next_step(served.address, served.tls)));
    }
    say(&format!("{}\n", where_transcripts_go(config.transcript.as_ref())));
    let is_one_server = |way: &Arc<Way>| !way.upstream.is_original() && way.connector.reads_greetings();
    for way in server.ways().into_iter().filter(is_one_server) {
        tokio::spawn(async move { say(&findings(&way.upstream, way.connector.probe().await.as_ref())) });
    }
}

/// Says where HTTP is served. The log may be read by others, so the page's token is told to standard error alone.
fn tell_of(web: &Web) {
    if let Some(url) = web.metrics_url() {
        tracing::info!("metrics are served at {url}");
    }
    if let Some(url) = web.page_url() {
        say(&format!("watch sessions at {url}\n"));
    }
}

fn protection(tls: TlsMode) -> &'static str {
    match tls {
        TlsMode::Plain => "none",
        TlsMode::Implicit => "implicit",
        TlsMode::Stls => "stls",
    }
}

fn next_step(address: SocketAddr, tls: TlsMode) -> String {
    let host = if address.ip().is_unspecified() { "this host's address".to_owned() } else { address.ip().to_string() };
    let encryption = match tls {
        TlsMode::Plain => "no encryption",
        TlsMode::Implicit => "SSL/TLS",
        TlsMode::Stls => "STARTTLS",
    };
    format!("set your client to {host}, port {}, {encryption}", address.port())
}

/// What the test of an upstream found.
fn findings(upstream: &Upstream, test: Result<&Report, &ConnectError>) -> String {
    match test {
        Ok(report) => {
            let note = if report.xclient && upstream.xclient == config::XclientPolicy::Refuse {
                "note: the server would believe XCLIENT from this host; poptap refuses it to clients\n"
            } else {
                ""
            };
            format!("{} answers at {}{}\n{note}", upstream.url(), report.address, security(report))
        }
        Err(error) => format!("{} does not answer as it should: {}\n", upstream.url(), error.detail()),
    }
}

fn security(report: &Report) -> String {
    let Some(tls) = &report.tls else { return ", without TLS".to_owned() };
    let validity = report.days_left.map(|days| format!(", certificate valid {}", human::plural(days.unsigned_abs(), "more day")));
    format!(", {}{}", tls.version, validity.unwrap_or_default())
}

fn where_transcripts_go(transcript: Option<&Transcript>) -> String {
    let Some(transcript) = transcript else { return "no transcript is kept".to_owned() };
    let content = match transcript.content {
        ContentPolicy::None => "no message content".to_owned(),
        ContentPolicy::Headers => "message headers".to_owned(),
        ContentPolicy::Lines(lines) => format!("the first {} of each message", human::plural(lines, "line")),
        ContentPolicy::Full => "whole messages".to_owned(),
    };
    let secrets = if transcript.reveal_credentials { "PASSWORDS INCLUDED" } else { "no passwords" };
    match &transcript.place {
        Place::Stdout => format!("the transcript goes to standard output: {secrets}, no message content"),
        Place::Directory(path) => format!(
            "transcripts go to {}: {secrets}, {content}; events are kept for {}, summaries for {}{}",
            path.display(),
            Period(transcript.keep_events.age),
            Period(transcript.keep_sessions.age),
            roll_up(transcript),
        ),
    }
}

/// Names and addresses that are kept for longer than all else.
fn roll_up(transcript: &Transcript) -> String {
    match transcript.audit_rows {
        0 => String::new(),
        _ => format!(", who logged in for {}", Period(transcript.audit_keep)),
    }
}

fn say(text: &str) {
    // Nobody reads on when stderr is gone.
    let _ = write!(anstream::stderr(), "{text}");
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let code = match error {
            StartError::Bind { .. } | StartError::Tls { .. } => exit::UNAVAILABLE,
            StartError::Acceptor { .. } | StartError::Rules(_) => exit::CONFIG,
            StartError::KeyLog(_) | StartError::Memory(_) => exit::IO,
        };
        Self::new(code, error)
    }
}

impl<W: io::Write + Send> LiveView for Terminal<W> {
    fn show(&mut self, record: &crate::record::schema::Record) {
        Terminal::show(self, record);
    }

    fn lost(&mut self, records: u64) {
        Terminal::lost(self, records);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        net::Endpoint,
        record::schema,
    };

    fn warnings(words: &str) -> Vec<String> {
        let Command::Check(args) = Cli::try_parse_from(words.split_whitespace()).unwrap().command else { panic!("check") };
        same_host_warnings(&config::load(&args).unwrap().config)
    }

    #[test]
    fn a_server_on_this_host_is_warned_of_where_others_may_connect() {
        for server in ["pop3://localhost", "pop3://127.0.0.1", "pop3s://[::1]"] {
            let remote = warnings(&format!("poptap check {server} --listen :1 --allow-from 192.0.2.0/24 --no-transcript"));
            assert!(remote.len() == 1 && remote[0].contains("on this host"), "{server}: {remote:?}");
            assert_eq!(warnings(&format!("poptap check {server} --no-transcript")), Vec::<String>::new());
        }
        assert!(warnings("poptap check pop3://192.0.2.7 --listen :1 --allow-from any --no-transcript").is_empty());
    }

    #[test]
    fn what_is_kept_is_said_in_days() {
        let Command::Run(args) = Cli::try_parse_from(["poptap", "run", "pop3://mail", "-t", "/nowhere/t"]).unwrap().command
        else {
            panic!("run")
        };
        let mut transcript = config::load(&args).unwrap().config.transcript.unwrap();
        assert_eq!(
            where_transcripts_go(Some(&transcript)),
            "transcripts go to /nowhere/t: no passwords, no message content; events are kept for 7 days, summaries for 90 days, who logged in for 400 days"
        );
        (transcript.content, transcript.reveal_credentials) = (ContentPolicy::Lines(5), true);
        let said = where_transcripts_go(Some(&transcript));
        assert!(said.contains("PASSWORDS INCLUDED, the first 5 lines of each message"), "{said}");
    }

    #[test]
    fn the_view_is_not_cut_in_two_by_the_log_unless_that_was_asked_for() {
        let log = |filter: &str, file: Option<&str>| Log {
            file: file.map(Into::into),
            rotation: config::LogRotation::Never,
            format: config::LogFormat::Text,
            filter: filter.to_owned(),
        };
        assert_eq!(beside_the_view(&log("info", None)).filter, "info,poptap::session=error,poptap::admission=error");
        assert_eq!(beside_the_view(&log("debug", None)).filter, "debug");
        assert_eq!(beside_the_view(&log("info", Some("x.log"))).filter, "info");
    }

    #[test]
    fn the_introduction_says_what_to_do_next() {
        let upstream = Upstream::at(&"pop3s://pop.example.net".parse().unwrap());
        let report = Report {
            address: Endpoint::Address("192.0.2.1:995".parse().unwrap()),
            tls: None,
            days_left: Some(61),
            greeting: "+OK".to_owned(),
            xclient: false,
        };
        let address = "127.0.0.1:1110".parse().unwrap();
        assert_eq!(next_step(address, TlsMode::Plain), "set your client to 127.0.0.1, port 1110, no encryption");
        assert_eq!(next_step(address, TlsMode::Stls), "set your client to 127.0.0.1, port 1110, STARTTLS");
        assert_eq!(findings(&upstream, Ok(&report)), "pop3s://pop.example.net answers at 192.0.2.1:995, without TLS\n");
        let tls = schema::Tls {
            hop: schema::Hop::Upstream,
            mode: "implicit".to_owned(),
            version: "TLSv1.3".to_owned(),
            ..schema::Tls::default()
        };
        let found = findings(&upstream, Ok(&Report { tls: Some(tls), ..report }));
        assert!(found.ends_with(":995, TLSv1.3, certificate valid 61 more days\n"), "{found}");
    }
}
