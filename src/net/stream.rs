//! A connection, plain or inside TLS.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsStream;

use crate::{
    record::schema,
    relay::Hop,
    tls::{self, AcceptError, HandshakeError},
};

/// After so long without a word from the peer its system is asked whether it is still there: before routers forget the
/// connection, and before a login that a server has forgotten holds its mailbox for long.
const KEEPALIVE: Duration = Duration::from_secs(300);
/// How long an answer to that is waited for before it is asked again.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is asked.
const QUESTIONS: u32 = 6;

/// A connection to a client or a server.
///
/// When the peer ends TLS without `close_notify`, reading fails with [`io::ErrorKind::UnexpectedEof`]: the stream was cut,
/// by whomever. A read of zero octets is an end that the peer meant (RFC 8446 §6.1); in plain text the two look alike.
#[derive(Debug)]
pub enum Stream {
    /// As it comes, over TCP or over a Unix socket.
    Plain(TcpStream),
    /// Inside TLS; boxed, since TLS state is large.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// A plain TCP connection, with Nagle's delay off and keep-alive on: after `KEEPALIVE` without a word the peer's system is
    /// asked, and a connection is given up when that has not answered `QUESTIONS` times.
    #[must_use]
    pub fn new(tcp: TcpStream) -> Self {
        // A socket whose peer has gone already may refuse its options; the first read tells, and better.
        let _ = tcp.set_nodelay(true);
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(PATIENCE).with_retries(QUESTIONS);
        let _ = SockRef::from(&tcp).set_tcp_keepalive(&keepalive);
        Self::Plain(tcp)
    }

    /// A connection over a Unix socket: no delay and no keep-alive are to be set there.
    ///
    /// It goes on as what tokio calls a TCP stream. A socket of either kind is read, written, looked at and shut down by the
    /// same calls; they differ in how they are connected, and in that this one has no addresses.
    ///
    /// # Errors
    ///
    /// When the runtime cannot watch it.
    pub fn of_unix(unix: UnixStream) -> io::Result<Self> {
        let socket = OwnedFd::from(unix.into_std()?);
        TcpStream::from_std(socket.into()).map(Self::Plain)
    }

    /// Starts TLS as the client. The plain stream is consumed, so that nobody can go on with it.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`]; the connection is closed then. TLS inside TLS is one.
    pub async fn upgrade(self, client: &tls::Client) -> Result<Self, HandshakeError> {
        let tls = client.handshake(self.plain().map_err(HandshakeError::Io)?).await?;
        Ok(Self::Tls(Box::new(TlsStream::Client(tls))))
    }

    /// Starts TLS as the server. The plain stream is consumed, so that nobody can go on with it.
    ///
    /// # Errors
    ///
    /// [`AcceptError`]; the connection is closed then, unless the error holds it. TLS inside TLS is one.
    pub async fn accept(self, acceptor: &tls::Acceptor) -> Result<Self, AcceptError> {
        let tls = acceptor.handshake(self.plain().map_err(AcceptError::Io)?).await?;
        Ok(Self::Tls(Box::new(TlsStream::Server(tls))))
    }

    /// The peer's address.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().peer_addr()
    }

    /// This side's address.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().local_addr()
    }

    /// What the transcript says of TLS with this peer; `None` where there is none. `mode` is `implicit` or `stls`.
    pub(crate) fn describe(&self, mode: &str) -> Option<schema::Tls> {
        match self {
            Self::Tls(tls) => Some(match &**tls {
                TlsStream::Client(tls) => tls::describe_upstream(tls.get_ref().1, mode),
                TlsStream::Server(tls) => tls::describe_client(tls.get_ref().1, mode),
            }),
            Self::Plain(_) => None,
        }
    }

    /// What the server presented to `client`; `None` where there is no TLS with a server.
    pub(crate) fn presented(&self, client: &tls::Client) -> Option<tls::Presented> {
        match self {
            Self::Tls(tls) => match &**tls {
                TlsStream::Client(tls) => Some(client.presented(tls.get_ref().1)),
                TlsStream::Server(_) => None,
            },
            Self::Plain(_) => None,
        }
    }

    /// The socket below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    fn plain(self) -> io::Result<TcpStream> {
        match self {
            Self::Plain(tcp) => Ok(tcp),
            Self::Tls(_) => Err(io::Error::other("cannot start TLS inside TLS")),
        }
    }
}

impl Hop for Stream {
    fn poll_cut(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(match self.get_mut() {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_mut().0,
        })
        .poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Hop for TlsStream<S> {
    fn poll_cut(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(self.get_mut().get_mut().0).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Tls(tls) => {
                let read = Pin::new(&mut **tls).poll_read(cx, buffer);
                // What TLS itself answers, such as that it refuses a renegotiation, does not wait for a word of ours.
                if read.is_pending() && tls.get_ref().1.wants_write() {
                    let _ = Pin::new(tls).poll_flush(cx);
                }
                read
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, octets),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, octets),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::tls::{Authority, Client, Trust, Validity, server_config};

    async fn tcp_pair() -> (Stream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (Stream::new(client.unwrap()), Stream::new(server.unwrap().0))
    }

    fn client(authority: &Authority) -> Client {
        let ca = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(ca.path(), authority.pem()).unwrap();
        Client::new(&Trust::file(ca.path()).unwrap(), "pop.example.net").unwrap()
    }

    fn acceptor(issued: tls::Issued) -> tls::Acceptor {
        server_config(issued.chain, issued.key).unwrap().into()
    }

    async fn tls_pair() -> (Stream, Stream) {
        let authority = Authority::new("Test CA").unwrap();
        let issued = authority.issue(&["pop.example.net"], Validity::days(1)).unwrap();
        let client = client(&authority);
        let (ours, theirs) = tcp_pair().await;
        let acceptor = acceptor(issued);
        let server = theirs.accept(&acceptor);
        let (ours, theirs) = tokio::join!(ours.upgrade(&client), server);
        (ours.unwrap(), theirs.unwrap())
    }

    fn unix_pair() -> (Stream, Stream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Stream::of_unix(ours).unwrap(), Stream::of_unix(theirs).unwrap())
    }

    async fn truncate(stream: &mut Stream) {
        poll_fn(|cx| Pin::new(&mut *stream).poll_cut(cx)).await.unwrap();
    }

    #[tokio::test]
    async fn a_cut_is_told_from_an_end_inside_tls() {
        let (mut ours, mut theirs) = tls_pair().await;
        theirs.write_all(b"+OK").await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut heard = Vec::new();
        assert_eq!(ours.read_to_end(&mut heard).await.unwrap(), 3);

        let (mut ours, mut theirs) = tls_pair().await;
        theirs.write_all(b"+OK").await.unwrap();
        truncate(&mut theirs).await;
        let mut heard = Vec::new();
        assert_eq!(ours.read_to_end(&mut heard).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(heard, b"+OK");
    }

    #[tokio::test]
    async fn one_side_may_end_while_the_other_goes_on() {
        for (mut ours, mut theirs) in [tcp_pair().await, unix_pair(), tls_pair().await] {
            ours.shutdown().await.unwrap();
            assert_eq!(theirs.read(&mut [0; 1]).await.unwrap(), 0);
            theirs.write_all(b"+OK bye\r\n").await.unwrap();
            truncate(&mut theirs).await;
            let mut heard = Vec::new();
            let _ = ours.read_to_end(&mut heard).await;
            assert_eq!(heard, b"+OK bye\r\n");
        }
    }

    #[tokio::test]
    async fn slices_are_written_at_once() {
        for (mut ours, mut theirs) in [tcp_pair().await, unix_pair(), tls_pair().await] {
            assert!(ours.is_write_vectored());
            let slices = [IoSlice::new(b"RETR "), IoSlice::new(b"1\r\n")];
            assert_eq!(ours.write_vectored(&slices).await.unwrap(), 8);
            ours.flush().await.unwrap();
            let mut heard = [0; 8];
            theirs.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"RETR 1\r\n");
        }
    }

    #[tokio::test]
    async fn the_socket_has_its_options_and_addresses() {
        for (ours, theirs) in [tcp_pair().await, tls_pair().await] {
            assert!(ours.tcp().nodelay().unwrap());
            let socket = SockRef::from(ours.tcp());
            assert!(socket.keepalive().unwrap());
            assert_eq!((socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap()), (KEEPALIVE, PATIENCE));
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), QUESTIONS);
            assert_eq!(ours.peer_addr().unwrap(), theirs.local_addr().unwrap());
        }
    }

    #[tokio::test]
    async fn there_is_no_tls_inside_tls() {
        let (ours, theirs) = tls_pair().await;
        let issued = Authority::self_signed(&["pop.example.net"], Validity::days(1)).unwrap();
        let error = theirs.accept(&acceptor(issued)).await.unwrap_err();
        assert!(error.to_string().ends_with("cannot start TLS inside TLS"));
        let client = client(&Authority::new("Test CA").unwrap());
        assert!(matches!(ours.upgrade(&client).await, Err(HandshakeError::Io(_))));
    }
}
