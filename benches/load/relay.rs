//! The relays to compare with: they copy, and know nothing of POP3.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, copy_bidirectional_with_sizes, split},
    net::TcpListener,
};

use crate::transport::{self, Acceptor, Connector, Stream};

/// Of the two that each connection has.
const BUFFER: usize = 64 * 1024;

/// Says where it listens, and goes on for ever. With a file, every octet of either direction is written there first.
pub(crate) async fn run(acceptor: Acceptor, connector: Connector, file: Option<PathBuf>) -> Result<()> {
    let listener = transport::listen().await?;
    println!("listening on {}", listener.local_addr()?);
    let file = file.map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
    serve(listener, acceptor, connector, file.map(Arc::new)).await
}

pub(crate) async fn serve(
    listener: TcpListener,
    acceptor: Acceptor,
    connector: Connector,
    file: Option<Arc<File>>,
) -> Result<()> {
    loop {
        let (client, _) = listener.accept().await?;
        let (acceptor, connector, file) = (acceptor.clone(), connector.clone(), file.clone());
        tokio::spawn(async move {
            let mut client = acceptor.accept(client).await?;
            let mut server = connector.connect().await?;
            match file {
                None => copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await.map(|_| ()),
                Some(file) => {
                    let (client, server) = (split(client), split(server));
                    tokio::try_join!(keep(client.0, server.1, &file), keep(server.0, client.1, &file)).map(|_| ())
                }
            }
        });
    }
}

async fn keep(mut from: ReadHalf<Stream>, mut to: WriteHalf<Stream>, mut file: &File) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        file.write_all(&buffer[..count])?;
        to.write_all(&buffer[..count]).await?;
        to.flush().await?;
    }
}
