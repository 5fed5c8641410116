//! Loads for a POP3 proxy, a server to stand behind it, and bare relays to compare it with; `benches/compare` runs them.
//!
//! ```text
//! cargo bench -p poptap-benches --bench load -- serve --mib 64                   the server; it says where it listens
//! cargo bench -p poptap-benches --bench load -- retr 127.0.0.1:1110 --mib 64     a load, through a proxy
//! cargo bench -p poptap-benches --bench load                                     a small round of everything, to see that it works
//! ```
//!
//! A load prints one JSON object. It compares what it receives with what the server has to send, and fails where that
//! differs; it is bounded in number and in time, and goes to loopback addresses only.
#![allow(clippy::print_stdout, missing_docs, reason = "a bench prints its numbers")]

mod client;
mod loads;
mod maildrop;
mod relay;
mod selfcheck;
mod server;
mod transport;

use std::{future::Future, io, net::SocketAddr, path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use tokio::{runtime, sync::oneshot};

use crate::{
    maildrop::Maildrop,
    transport::{Acceptor, Connector},
};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Said by `cargo bench`.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Make a certification authority and a server's certificate, as PEM.
    Certs { folder: PathBuf },
    /// Be the mail server, until standard input ends.
    Serve {
        #[command(flatten)]
        mail: Mail,
        #[command(flatten)]
        tls: ServerTls,
    },
    /// Be a relay that does nothing but copy, until standard input ends.
    Relay {
        upstream: SocketAddr,
        /// Write every octet to this file, too.
        #[arg(long)]
        write: Option<PathBuf>,
        #[command(flatten)]
        client: ServerTls,
        #[command(flatten)]
        server: ClientTls,
    },
    /// Fetch the large message, over and over in one session.
    Retr {
        #[command(flatten)]
        to: To,
        #[command(flatten)]
        mail: Mail,
        #[arg(long, default_value_t = 4)]
        count: usize,
        /// Compare every octet, instead of counting them.
        #[arg(long)]
        check: bool,
    },
    /// Whole sessions: connect, login, STAT, LIST, RETR of the small message, QUIT.
    Sessions {
        #[command(flatten)]
        to: To,
        /// More than 8 find no TLS session to resume now and then: a client keeps so many for a server.
        #[arg(long, default_value_t = 8)]
        parallel: usize,
        #[command(flatten)]
        until: Until,
    },
    /// NOOP, and the next when it is answered.
    Ping {
        #[command(flatten)]
        to: To,
        #[command(flatten)]
        until: Until,
    },
    /// NOOPs as fast as they are taken.
    Pipeline {
        #[command(flatten)]
        to: To,
        #[command(flatten)]
        until: Until,
    },
    /// Log in, print the result, and hold the connections until standard input ends; then QUIT.
    Idle {
        #[command(flatten)]
        to: To,
        #[arg(long, default_value_t = 2000)]
        connections: usize,
    },
    /// Many sessions that fetch a message of 16 MiB at once, and then QUIT.
    Burst {
        #[command(flatten)]
        to: To,
        #[arg(long, default_value_t = 200)]
        connections: usize,
    },
}

#[derive(Args)]
struct Mail {
    /// The size of the large message.
    #[arg(long, default_value_t = 64)]
    mib: usize,
}

/// Where a load goes.
#[derive(Args)]
struct To {
    address: SocketAddr,
    #[command(flatten)]
    tls: ClientTls,
    /// A load that takes longer fails.
    #[arg(long, default_value_t = 300)]
    deadline: u64,
}

/// When a load is over: at whichever comes first.
#[derive(Args, Clone, Copy)]
struct Until {
    #[arg(long, default_value_t = 1_000_000)]
    count: usize,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

#[derive(Args)]
struct ServerTls {
    /// Certificate for clients (PEM): they speak TLS from the first octet then.
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
}

#[derive(Args)]
struct ClientTls {
    /// Authority to trust (PEM): TLS is spoken from the first octet then.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// The name in the server's certificate.
    #[arg(long, default_value = "localhost")]
    name: String,
}

impl ServerTls {
    fn acceptor(&self) -> Result<Acceptor> {
        self.cert.as_deref().zip(self.key.as_deref()).map_or(Ok(Acceptor::plain()), |(cert, key)| Acceptor::tls(cert, key))
    }
}

impl ClientTls {
    fn connector(&self, address: SocketAddr) -> Result<Connector> {
        self.ca.as_deref().map_or(Ok(Connector::plain(address)), |ca| Connector::tls(address, ca, &self.name))
    }
}

fn main() -> Result<()> {
    let Some(command) = Arguments::parse().command else { return selfcheck::run() };
    match command {
        Command::Certs { folder } => transport::certs(&folder),
        Command::Serve { mail, tls } => {
            let acceptor = tls.acceptor()?;
            one_thread()?.block_on(until_end_of_input(server::run(acceptor, Maildrop::new(mail.mib))))
        }
        Command::Relay { upstream, write, client, server } => {
            let (acceptor, connector) = (client.acceptor()?, server.connector(upstream)?);
            let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
            let served = runtime.block_on(until_end_of_input(relay::run(acceptor, connector, write)));
            runtime.shutdown_background();
            served
        }
        Command::Retr { to, mail, count, check } => {
            measure(&to, |to| async move { loads::retr(&to, &Maildrop::new(mail.mib), count, check).await })
        }
        Command::Sessions { to, parallel, until } => measure(&to, |to| async move { loads::sessions(to, parallel, until).await }),
        Command::Ping { to, until } => measure(&to, |to| async move { loads::ping(&to, until).await }),
        Command::Pipeline { to, until } => measure(&to, |to| async move { loads::pipeline(&to, until).await }),
        Command::Idle { to, connections } => measure(&to, |to| loads::idle(to, connections, end_of_input())),
        Command::Burst { to, connections } => measure(&to, |to| async move { loads::burst(to, connections).await }),
    }
}

/// Runs a load within its deadline, and prints what it found.
fn measure<F>(to: &To, load: impl FnOnce(Connector) -> F) -> Result<()>
where
    F: Future<Output = Result<serde_json::Value>>,
{
    anyhow::ensure!(to.address.ip().is_loopback(), "{} is not a loopback address", to.address);
    let connector = to.tls.connector(to.address)?;
    let deadline = Duration::from_secs(to.deadline);
    let found = one_thread()?.block_on(async { tokio::time::timeout(deadline, load(connector)).await });
    println!("{}", found.context("the load took too long")??);
    Ok(())
}

fn one_thread() -> io::Result<runtime::Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

async fn until_end_of_input(served: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        served = served => served,
        _ = end_of_input() => Ok(()),
    }
}

/// Comes when standard input ends, and so when whoever started this has.
fn end_of_input() -> oneshot::Receiver<()> {
    let (ended, end) = oneshot::channel();
    thread::spawn(move || {
        // One that cannot be read has ended, too.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = ended.send(());
    });
    end
}
