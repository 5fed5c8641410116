//! `poptap demo`: a sample mailbox, the proxy in front of it, one client session, and the live transcript of it.

use std::{
    fs,
    io::{self, IsTerminal, Write as _},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    signal::ctrl_c,
};

use super::{Failure, exit, run};
use crate::{
    cli::{RunArgs, Verbosity},
    config::{self, Config, ListenPlace, TlsMode},
    demo::{Invitation, Mailbox, converse, serve_listener},
    server::Stop,
    telemetry,
    tls::{Authority, Validity, server_config},
};
use zeroize::Zeroizing;

/// How long the end of the demo waits for what is still to be shown.
const FINISH: Duration = Duration::from_secs(5);

pub(super) fn demo(verbosity: Verbosity) -> Result<(), Failure> {
    let folder = tempfile::tempdir().map_err(|error| failed("make a folder for the demo's transcript", error))?;
    run::runtime()?.block_on(show(folder.path(), verbosity))
}

async fn show(folder: &Path, verbosity: Verbosity) -> Result<(), Failure> {
    let server = start_server(folder).await?;
    let config = configure(server, folder)?;
    // The conversation is the show; the log speaks only of trouble.
    let _guard = telemetry::start(&config.log, verbosity.level() - 1, io::stderr().is_terminal())?;
    say("A sample mailbox is served over TLS, poptap stands in front of it, and a client without TLS reads it:\n\n");
    one_session(&config).await?;
    if io::stdout().is_terminal() { stay(&config, &folder.join("ca.pem")).await } else { Ok(()) }
}

/// Serves the sample mailbox over TLS, and leaves its certificate, with which the proxy serves clients too, and the authority
/// to trust in the folder, which nobody else can read.
async fn start_server(folder: &Path) -> Result<SocketAddr, Failure> {
    let made = Authority::new("poptap demo")
        .and_then(|authority| Ok((authority.issue(&["localhost", "127.0.0.1"], Validity::days(7))?, authority)));
    let (issued, authority) = made.map_err(|error| failed("make a certificate", error))?;
    let both = Zeroizing::new(format!("{}{}", *issued.key_pem(), issued.chain_pem));
    fs::write(folder.join("ca.pem"), authority.pem())
        .and_then(|()| fs::write(folder.join("pop.pem"), both.as_bytes()))
        .map_err(|error| failed("write the demo's certificate", error))?;
    let tls = server_config(issued.chain, issued.key).map_err(|error| failed("use the demo's certificate", error))?;
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| failed("listen on 127.0.0.1", error))?;
    let address = listener.local_addr().map_err(|error| failed("listen on 127.0.0.1", error))?;
    tokio::spawn(serve_listener(listener, Some(tls), Arc::new(Mailbox::sample())));
    Ok(address)
}

fn configure(server: SocketAddr, folder: &Path) -> Result<Config, Failure> {
    let url = format!("pop3s://{server}").parse().map_err(|error| failed("name the demo's server", error))?;
    let schemes = [TlsMode::Plain, TlsMode::Stls, TlsMode::Implicit].map(TlsMode::scheme);
    let listen: Result<Vec<ListenPlace>, _> = schemes.iter().map(|scheme| format!("{scheme}://127.0.0.1:0").parse()).collect();
    let args = RunArgs {
        url: Some(url),
        listen: listen.map_err(|error| failed("name the demo's address", error))?,
        cert: Some(folder.join("pop.pem")),
        upstream_ca: Some(folder.join("ca.pem")),
        transcript: Some(folder.join("transcript")),
        ..RunArgs::default()
    };
    Ok(config::load(&args)?.config)
}

/// One scripted session; returns when all of it was shown.
async fn one_session(config: &Config) -> Result<(), Failure> {
    let stop = Stop::default();
    let (server, store) = run::open(config, true, stop.clone())?;
    let address =
        server.served().next().map(|served| served.address).ok_or_else(|| failed("find the proxy", "it is not bound"))?;
    let serving = tokio::spawn(server.run());
    let mailbox = Mailbox::sample();
    let client = TcpStream::connect(address).await.map_err(|error| failed("connect to the proxy", error))?;
    let conversed = converse(client, &mailbox).await;
    stop.drain.cancel();
    // The server waits for the session, and the store for its last line.
    let _cut_short = serving.await;
    run::report(store.finish(FINISH).await);
    conversed.map_err(|error| failed("hold the demo's session", error))?;
    Ok(())
}

/// The mailbox and the proxy stay up until Ctrl-C.
async fn stay(config: &Config, ca_file: &Path) -> Result<(), Failure> {
    let stop = Stop::default();
    let (server, store) = run::open(config, true, stop.clone())?;
    let addresses: Vec<_> = server.served().map(|served| served.address).collect();
    if let [plain, stls, implicit] = addresses[..] {
        say(&format!("\n{}\n", Invitation { plain, stls, implicit, ca_file }));
    }
    let serving = tokio::spawn(server.run());
    ctrl_c().await.map_err(|error| failed("wait for Ctrl-C", error))?;
    stop.drain.cancel();
    stop.close.cancel();
    let _cut_short = serving.await;
    run::report(store.finish(FINISH).await);
    Ok(())
}

fn say(text: &str) {
    // A reader who has gone is no reason to fail.
    let _ = write!(io::stdout(), "{text}");
}

fn failed(what: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(exit::SOFTWARE, format!("cannot {what}: {why}"))
}
