//! A scripted server with a mailbox of two messages, which knows who may log in.

use std::io::{Read, Write};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::outside::{MESSAGE, SECRET, read_line};

/// Its greeting, with a timestamp for APOP.
pub const GREETING: &str = "+OK ready <1.2@mail>\r\n";
/// What it says to a login that it refuses.
pub const WRONG: &str = "-ERR [AUTH] wrong\r\n";
/// An APOP digest that it accepts; it accepts no other.
pub const DIGEST: &str = "c4c9334bac560ecc979e58001b3e22fb";

/// Serves one client until QUIT, or until nothing more comes; returns what it heard. Everybody's password is [`SECRET`].
pub fn mailbox(mut stream: impl Read + Write) -> Vec<u8> {
    let mut heard = Vec::new();
    let mut said = stream.write_all(GREETING.as_bytes());
    let mut exchange = "";
    while let (Ok(()), Some(line)) = (said, read_line(&mut stream)) {
        heard.extend_from_slice(&line);
        let line = String::from_utf8_lossy(&line).into_owned();
        let reply = match exchange {
            "" => reply(&line, &mut exchange),
            _ => response(line.trim_end(), &mut exchange),
        };
        said = stream.write_all(&reply).and_then(|()| stream.flush());
        if line.starts_with("QUIT") {
            break;
        }
    }
    heard
}

fn reply(line: &str, exchange: &mut &'static str) -> Vec<u8> {
    let words: Vec<_> = line.split_whitespace().collect();
    let text = match words[..] {
        ["CAPA"] => "+OK\r\nTOP\r\nUIDL\r\nUSER\r\nSASL PLAIN LOGIN\r\n.\r\n",
        ["STAT"] => "+OK 2 30000100\r\n",
        ["LIST"] => "+OK\r\n1 100\r\n2 30000000\r\n.\r\n",
        ["UIDL"] => "+OK\r\n1 uid-a\r\n2 uid-b\r\n.\r\n",
        ["RETR" | "TOP", ..] => return MESSAGE.to_vec(),
        ["PASS", password] => judged(password == SECRET),
        ["APOP", _, digest] => judged(digest == DIGEST),
        ["AUTH", "PLAIN", credentials] => judged(holds_secret(credentials)),
        ["AUTH", "PLAIN"] => {
            *exchange = "credentials";
            "+ \r\n"
        }
        ["AUTH", "LOGIN"] => {
            *exchange = "user";
            "+ VXNlcm5hbWU6\r\n"
        }
        _ => "+OK\r\n",
    };
    text.as_bytes().to_vec()
}

fn response(line: &str, exchange: &mut &'static str) -> Vec<u8> {
    let (next, text) = match *exchange {
        _ if line == "*" => ("", "-ERR cancelled\r\n"),
        "user" => ("credentials", "+ UGFzc3dvcmQ6\r\n"),
        _ => ("", judged(holds_secret(line))),
    };
    *exchange = next;
    text.as_bytes().to_vec()
}

fn judged(is_right: bool) -> &'static str {
    if is_right { "+OK logged in\r\n" } else { WRONG }
}

fn holds_secret(base64: &str) -> bool {
    STANDARD.decode(base64).is_ok_and(|octets| octets.ends_with(SECRET.as_bytes()))
}
