//! `poptap replay`: a recorded session's server, for a client whose fault is to be seen again.

use std::{
    fmt::Display,
    fs::File,
    io::{self, IsTerminal, Write as _},
    net::SocketAddr,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use tokio::{net::TcpListener, signal::ctrl_c};

use super::{Failure, exit, run};
use crate::{
    cli::{ReplayArgs, ReplayTiming, Verbosity},
    config::{self, ClientCert, KeyPair, ListenAddress, ServerTls, TlsMode, TlsVersion},
    inspect::{self, Which},
    replay::{Heard, Pace, Script, Security, Stage, Tell, serve},
    tls::{Acceptor, Authority, Validity, server_config},
};

pub(super) fn replay(args: &ReplayArgs, verbosity: Verbosity) -> Result<(), Failure> {
    let address = address(args)?;
    let stage = Arc::new(stage(args)?);
    let runtime = run::runtime()?;
    let played = runtime.block_on(play(address, &stage, args.once, tell(verbosity)));
    // A client that waits for an answer would hold up the exit.
    runtime.shutdown_background();
    played?;
    if verbosity.level() >= 0 {
        say(&summary(&stage.heard));
    }
    Ok(())
}

fn address(args: &ReplayArgs) -> Result<SocketAddr, Failure> {
    if !args.listen.address.ip().is_loopback() {
        let why = "cannot replay to other hosts: whoever connects could read the messages\n  hint: listen on 127.0.0.1";
        return Err(Failure::new(exit::USAGE, why));
    }
    Ok(args.listen.address)
}

fn stage(args: &ReplayArgs) -> Result<Stage, Failure> {
    let which = match (args.as_server.clone().flatten(), args.last) {
        (Some(id), false) => Which::Id(id),
        (None, true) => Which::Last,
        _ => return Err(Failure::new(exit::USAGE, "say which session to replay: either its id, or --last")),
    };
    let directory = config::store(&args.store)?;
    let mut script = Script::default();
    inspect::each_record(&directory, &which, &mut |record| script.take(record), &mut io::stderr().lock())?;
    if script.is_empty() {
        let why = "there is nothing to replay: of this session only the summary is left, or nothing was said in it";
        return Err(Failure::new(exit::UNAVAILABLE, format!("{why}\n  hint: `record = \"events\"` keeps what is said")));
    }
    let pace = match args.timing {
        ReplayTiming::Fast => Pace::Fast,
        ReplayTiming::Recorded => Pace::Recorded { most: args.max_delay.0 },
    };
    let security = security(args, script.tls())?;
    Ok(Stage { script, directory, pace, security, made_up: args.max_octets.0, heard: Heard::default() })
}

/// As the address says, or else as it was in the session, where there is a certificate for it.
fn security(args: &ReplayArgs, recorded: TlsMode) -> Result<Security, Failure> {
    let wanted = if args.listen.tls == TlsMode::Plain { recorded } else { args.listen.tls };
    let acceptor = match (&args.cert, &args.self_signed) {
        (Some(cert), _) => own_certificate(cert, args.key.as_deref().unwrap_or(cert))?,
        (None, Some(file)) => made_certificate(file.as_deref())?,
        (None, None) if args.listen.tls != TlsMode::Plain => {
            let why = "cannot replay over TLS without a certificate";
            let hint = "name one with --cert FILE and --key FILE, or let one be made: --self-signed FILE";
            return Err(Failure::new(exit::USAGE, format!("{why}\n  hint: {hint}")));
        }
        (None, None) => return Ok(Security::Clear),
    };
    Ok(match wanted {
        TlsMode::Plain => Security::Clear,
        TlsMode::Implicit => Security::Implicit(acceptor),
        TlsMode::Stls => Security::Stls(acceptor),
    })
}

fn own_certificate(cert: &Path, key: &Path) -> Result<Acceptor, Failure> {
    let tls = ServerTls {
        chains: vec![KeyPair { cert: cert.to_owned(), key: key.to_owned() }],
        mint: None,
        min_version: TlsVersion::default(),
        client_ca: None,
        client_cert: ClientCert::default(),
    };
    Acceptor::new(&tls, None).map_err(|error| Failure::new(exit::CONFIG, format!("{error}\n  hint: {}", error.hint())))
}

/// A new one each time; no file is overwritten.
fn made_certificate(file: Option<&Path>) -> Result<Acceptor, Failure> {
    let failed = |error: &dyn Display| Failure::new(exit::SOFTWARE, format!("cannot make a certificate: {error}"));
    let issued = Authority::self_signed(&NAMES, Validity::days(1)).map_err(|error| failed(&error))?;
    if let Some(file) = file {
        let written = File::create_new(file).and_then(|mut file| file.write_all(issued.chain_pem.as_bytes()));
        written.map_err(|error| {
            let why = format!("cannot write the certificate to `{}`: {error}", file.display());
            Failure::new(exit::CANT_CREATE, format!("{why}\n  hint: no file is overwritten; choose another name"))
        })?;
    }
    Ok(server_config(issued.chain, issued.key).map_err(|error| failed(&error))?.into())
}

/// For whom a certificate is made.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// What is otherwise than in the session.
fn remark(is: TlsMode, recorded: TlsMode) -> Option<&'static str> {
    match (recorded, is) {
        (TlsMode::Implicit, TlsMode::Plain) => {
            Some("the session was inside TLS: it is played in clear, since there is no certificate")
        }
        (TlsMode::Stls, TlsMode::Plain) => Some("the session had STLS: it is refused here, since there is no certificate"),
        _ => None,
    }
}

async fn play(address: SocketAddr, stage: &Arc<Stage>, once: bool, tell: Arc<Tell>) -> Result<(), Failure> {
    let failed =
        |error| Failure::new(exit::UNAVAILABLE, format!("cannot listen on {address}: {error}\n  hint: choose another port"));
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let tls = match stage.security {
        Security::Clear => TlsMode::Plain,
        Security::Implicit(_) => TlsMode::Implicit,
        Security::Stls(_) => TlsMode::Stls,
    };
    let listen = ListenAddress { tls, address };
    say(&format!("replaying {} commands, listening on {listen}", stage.script.commands()));
    if let Some(remark) = remark(tls, stage.script.tls()) {
        say(remark);
    }
    tokio::select! {
        served = serve(listener, Arc::clone(stage), once, tell) => served.map_err(failed),
        stopped = ctrl_c() => stopped.map_err(|error| Failure::new(exit::SOFTWARE, format!("cannot wait for Ctrl-C: {error}"))),
    }
}

/// Tells what clients do where somebody looks on, or where that is asked for.
fn tell(verbosity: Verbosity) -> Arc<Tell> {
    let tells = verbosity.level() > 0 || verbosity.level() == 0 && io::stderr().is_terminal();
    Arc::new(move |line| {
        if tells {
            say(line);
        }
    })
}

fn summary(heard: &Heard) -> String {
    let [clients, commands, unrecorded] =
        [&heard.clients, &heard.commands, &heard.unrecorded].map(|count| count.load(Ordering::Relaxed));
    let plural = inspect::human::plural;
    format!("{}, {}, {unrecorded} of them not in the recording", plural(clients, "client"), plural(commands, "command"))
}

fn say(line: &str) {
    // There is nobody left to tell when stderr is gone.
    let _ = writeln!(anstream::stderr(), "{line}");
}
