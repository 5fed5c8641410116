//! POP3 on a bare socket, or inside TLS: what is sent and received, octet for octet.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;

use super::connection::Connection;
use super::dovecot::Mode;
use super::{PASSWORD, PATIENCE, USER};

/// A connection whose greeting has been read.
pub(crate) struct Wire {
    reader: BufReader<Connection>,
    greeting: String,
}

impl Wire {
    /// Connect and read the greeting.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::greeted(Connection::Plain(connected(address)))
    }

    /// Connect over such a hop, with a certificate by `authority` where there is TLS, and read the greeting.
    pub(crate) fn connect_over(hop: Mode, address: SocketAddr, authority: &Path) -> Self {
        match hop {
            Mode::Plain => Self::connect(address),
            Mode::Stls => Self::connect(address).start_tls(authority),
            Mode::Implicit => Self::greeted(Connection::Plain(connected(address)).secure(authority)),
        }
    }

    fn greeted(connection: Connection) -> Self {
        let mut wire = Self { reader: BufReader::new(connection), greeting: String::new() };
        wire.greeting = wire.line();
        wire
    }

    /// Send STLS, which must be agreed to, and do the handshake.
    pub(crate) fn start_tls(mut self, authority: &Path) -> Self {
        let reply = self.ask("STLS");
        assert!(reply.starts_with("+OK"), "STLS was answered with {reply:?}");
        assert_eq!(self.reader.buffer(), b"", "plain text behind the reply to STLS");
        Self { reader: BufReader::new(self.reader.into_inner().secure(authority)), ..self }
    }

    /// Connect and log in with USER and PASS.
    pub(crate) fn log_in(address: SocketAddr) -> Self {
        Self::connect(address).logged_in()
    }

    /// Log in with USER and PASS.
    pub(crate) fn logged_in(mut self) -> Self {
        for command in [format!("USER {USER}"), format!("PASS {PASSWORD}")] {
            let reply = self.ask(&command);
            assert!(reply.starts_with("+OK"), "the login was answered with {reply:?}");
        }
        self
    }

    /// The server's first line.
    pub(crate) fn greeting(&self) -> &str {
        &self.greeting
    }

    /// Send octets as they are, in one write.
    pub(crate) fn send(&mut self, octets: &[u8]) {
        self.try_send(octets).unwrap();
    }

    /// As [`Self::send`], to somebody who may have gone.
    pub(crate) fn try_send(&mut self, octets: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(octets)
    }

    /// Read this many octets.
    pub(crate) fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut octets = vec![0; count];
        self.reader.read_exact(&mut octets).unwrap();
        octets
    }

    /// Send a command and read one line.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n").as_bytes());
        self.line()
    }

    /// Read one line, its end included.
    pub(crate) fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).unwrap();
        String::from_utf8(line).unwrap()
    }

    /// Send a command and read its multi-line reply, which must be `+OK`: the body as on the wire, terminator included.
    pub(crate) fn ask_for_body(&mut self, command: &str) -> Vec<u8> {
        let status = self.ask(command);
        assert!(status.starts_with("+OK"), "{command} was answered with {status:?}");
        let mut body = Vec::new();
        loop {
            let start = body.len();
            let read = self.reader.read_until(b'\n', &mut body).unwrap();
            assert!(read > 0, "the connection ended in the middle of the reply to {command}");
            if &body[start..] == b".\r\n" {
                return body;
            }
        }
    }

    /// Send a command and read its multi-line reply as lines, without their ends and the terminator.
    pub(crate) fn ask_for_lines(&mut self, command: &str) -> Vec<String> {
        let body = String::from_utf8(self.ask_for_body(command)).unwrap();
        body.strip_suffix(".\r\n").unwrap().split_terminator("\r\n").map(str::to_owned).collect()
    }

    /// End the session with QUIT; the server must agree, say nothing more and close.
    pub(crate) fn quit(mut self) {
        let reply = self.ask("QUIT");
        assert!(reply.starts_with("+OK"), "QUIT was answered with {reply:?}");
        assert_eq!(self.rest(), b"", "something came behind the reply to QUIT");
    }

    /// Close our side for writing.
    pub(crate) fn finish_writing(&mut self) {
        self.reader.get_ref().tcp().shutdown(Shutdown::Write).unwrap();
    }

    /// As [`Self::finish_writing`], where the other side may have gone.
    pub(crate) fn try_finish_writing(&mut self) -> io::Result<()> {
        self.reader.get_ref().tcp().shutdown(Shutdown::Write)
    }

    /// Read all that comes until the other side closes, in whatever way.
    pub(crate) fn all_that_comes(mut self) -> Vec<u8> {
        let mut octets = Vec::new();
        match self.reader.read_to_end(&mut octets) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                panic!("it did not close: {:?}", String::from_utf8_lossy(&octets))
            }
            _ => octets,
        }
    }

    /// Read all that comes until the other side closes.
    pub(crate) fn rest(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).unwrap();
        rest
    }
}

fn connected(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// All messages of the mailbox, fetched with RETR, dot-stuffing removed.
pub(crate) fn retrieve_all(address: SocketAddr) -> Vec<Vec<u8>> {
    let mut wire = Wire::log_in(address);
    let count = wire.ask_for_lines("LIST").len();
    let messages = (1..=count).map(|number| unstuff(&wire.ask_for_body(&format!("RETR {number}")))).collect();
    wire.quit();
    messages
}

/// A body without its terminator and its dot-stuffing (RFC 1939 §3).
pub(crate) fn unstuff(body: &[u8]) -> Vec<u8> {
    let body = body.strip_suffix(b".\r\n").expect("a body that ends with its terminator");
    let mut message = Vec::with_capacity(body.len());
    for line in body.split_inclusive(|octet| *octet == b'\n') {
        message.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    message
}
