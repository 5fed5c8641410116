//! A small round of everything.

use anyhow::Result;

use crate::{
    Until, loads,
    maildrop::Maildrop,
    one_thread, relay, server,
    transport::{self, Acceptor, Connector},
};

const MIB: usize = 1;

/// Runs each load through a relay that writes what passes, plain and with TLS on both hops.
pub(crate) fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    transport::certs(folder.path())?;
    let (ca, cert, key) = (folder.path().join("ca.pem"), folder.path().join("server.pem"), folder.path().join("server.key"));
    one_thread()?.block_on(async {
        round(Acceptor::plain, |address| Ok(Connector::plain(address))).await?;
        let acceptor = Acceptor::tls(&cert, &key)?;
        round(|| acceptor.clone(), |address| Connector::tls(address, &ca, "localhost")).await
    })
}

async fn round(acceptor: impl Fn() -> Acceptor, connector: impl Fn(std::net::SocketAddr) -> Result<Connector>) -> Result<()> {
    let listener = transport::listen().await?;
    let upstream = connector(listener.local_addr()?)?;
    tokio::spawn(server::serve(listener, acceptor(), Maildrop::new(MIB)));
    let listener = transport::listen().await?;
    let to = connector(listener.local_addr()?)?;
    let file = tempfile::tempfile()?;
    tokio::spawn(relay::serve(listener, acceptor(), upstream, Some(file.into())));

    let until = Until { count: 20_000, seconds: 0.2 };
    println!("{}", loads::retr(&to, &Maildrop::new(MIB), 2, true).await?);
    println!("{}", loads::sessions(to.clone(), 4, until).await?);
    println!("{}", loads::ping(&to, until).await?);
    println!("{}", loads::pipeline(&to, until).await?);
    println!("{}", loads::burst(to.clone(), 3).await?);
    let (ended, end) = tokio::sync::oneshot::channel();
    drop(ended);
    println!("{}", loads::idle(to, 10, end).await?);
    Ok(())
}
