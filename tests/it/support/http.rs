//! A small client for HTTP/1.1.

use std::{fmt::Write as _, net::SocketAddr};

use super::outside::Client;

/// What came back.
pub struct Answer {
    pub status: u16,
    /// The status line and the headers.
    pub head: String,
    pub body: String,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Asks for a page, with these further headers; without a `Host` among them, the address is it.
pub fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    answer(ask(address, path, headers, "Connection: close\r\n"))
}

fn answer(mut client: Client) -> Answer {
    let (mut head, mut line) = (client.line(), client.line());
    while line != "\r\n" && !line.is_empty() {
        head.push_str(&line);
        line = client.line();
    }
    let status = head.split(' ').nth(1).unwrap_or_default().parse().unwrap_or_else(|_| panic!("no status: {head}"));
    let body = String::from_utf8(client.last()).unwrap();
    Answer { status, head, body }
}

/// Asks with something to be read, of type JSON.
pub fn post(address: SocketAddr, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request =
        format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n");
    for (name, value) in headers {
        write!(request, "{name}: {value}\r\n").unwrap();
    }
    let mut client = Client::to(address);
    client.say(format!("{request}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    answer(client)
}

/// Asks, and leaves the answer to be read.
pub fn ask(address: SocketAddr, path: &str, headers: &[(&str, &str)], more: &str) -> Client {
    let mut request = format!("GET {path} HTTP/1.1\r\n{more}");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        write!(request, "Host: {address}\r\n").unwrap();
    }
    for (name, value) in headers {
        write!(request, "{name}: {value}\r\n").unwrap();
    }
    let mut client = Client::to(address);
    client.say(format!("{request}\r\n").as_bytes());
    client
}
