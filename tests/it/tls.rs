//! Hostile and awkward peers around TLS on the client's hop: what crosses, what the transcript says of it, and how it ends.

mod endings;
mod flood;
mod handover;
mod handshakes;
mod injection;
mod states;
mod strangers;
mod vanishing;

use std::{
    io::Write as _,
    net::TcpStream,
    sync::{Mutex, mpsc::Receiver},
};

use crate::support::{
    outside::{PATIENCE, read_line},
    secure::GREETING,
};

/// A configuration with a small limit on handshakes, and others that nobody reaches.
fn short_handshakes() -> String {
    let mut text = "[timeouts]\nhandshake = \"300ms\"\n".to_owned();
    for limit in ["greeting", "login", "idle", "half_closed", "reply", "drain"] {
        text.extend([limit, " = \"60s\"\n"]);
    }
    text
}

/// Greets, and answers `count` lines with `+OK`, but none before it is told to.
fn answering_when_told(mut stream: TcpStream, count: usize, go: &Mutex<Receiver<()>>) -> (TcpStream, Vec<u8>) {
    stream.write_all(GREETING.as_bytes()).unwrap();
    let heard = (0..count).flat_map(|_| read_line(&mut stream).unwrap()).collect();
    go.lock().unwrap().recv_timeout(PATIENCE).unwrap();
    stream.write_all("+OK\r\n".repeat(count).as_bytes()).unwrap();
    (stream, heard)
}
