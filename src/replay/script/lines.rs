//! Lines as the server said them, out of what the record tells of them.

use super::{Answer, Exchange, MADE_UP};
use crate::{
    escape::unescape,
    pop3::Command,
    record::schema::{self, StatusWord, Text},
};

/// The size of a message of which the record does not tell.
const SIZE: u64 = 1000;

/// Octets to which a line that was cut in the record is filled up.
const LINE: usize = 64 * 1024;

/// What a line of a listing takes beside its text.
const OVERHEAD: usize = 32;

/// The lines that were kept, and where that are not all, numbered ones in the place of the rest.
pub(super) fn listing(content: &schema::Content, made_up: &mut usize) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = content.listing.iter().filter_map(|line| unescape(line)).collect();
    let kept = content.listing.len() as u64;
    let number = |line: &Vec<u8>| std::str::from_utf8(line).ok()?.split(' ').next()?.parse::<u64>().ok();
    let first = lines.last().and_then(number).unwrap_or(0).saturating_add(1);
    for number in first..first.saturating_add(content.lines.saturating_sub(kept)) {
        let line = match content.keyword.as_str() {
            "LIST" => format!("{number} {SIZE}").into_bytes(),
            "UIDL" => format!("{number} replayed-{number}").into_bytes(),
            _ => b"X-NOT-IN-THIS-RECORDING".to_vec(),
        };
        // A line takes more memory than its octets.
        *made_up += line.len() + OVERHEAD;
        if *made_up > MADE_UP {
            break;
        }
        lines.push(line);
    }
    let mut out = Vec::new();
    for line in lines {
        out.extend_from_slice(if line.starts_with(b".") { b"." } else { b"" });
        out.extend_from_slice(&line);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(if content.complete { b".\r\n" } else { b"" });
    out
}

/// Whether a line of CAPA's is STLS.
pub(super) fn is_stls(line: &[u8]) -> bool {
    line.trim_ascii().eq_ignore_ascii_case(b"STLS")
}

pub(super) fn without_stls(listing: &[u8]) -> Vec<u8> {
    listing.split_inclusive(|&octet| octet == b'\n').filter(|line| !is_stls(line)).flatten().copied().collect()
}

/// STLS stays where it is, or is the last line of a listing that ends.
pub(super) fn with_stls(listing: &[u8]) -> Vec<u8> {
    let is_there = listing.split(|&octet| octet == b'\n').any(is_stls);
    match listing.strip_suffix(b".\r\n") {
        Some(lines) if !is_there => [lines, b"STLS\r\n.\r\n"].concat(),
        _ => listing.to_vec(),
    }
}

/// The challenges now: one more, or one less, where the client sends an initial response that it did not send then.
pub(super) fn challenges(exchange: &Exchange, command: &Command<'_>) -> Vec<Vec<u8>> {
    let mut challenges = exchange.challenges.clone();
    if exchange.keyword != "AUTH" || exchange.was_cancelled {
        return challenges;
    }
    let has_initial_response = command.arguments().nth(1).is_some();
    match (exchange.has_initial_response, has_initial_response) {
        (true, false) => challenges.insert(0, b"+ \r\n".to_vec()),
        (false, true) if !challenges.is_empty() => drop(challenges.remove(0)),
        _ => {}
    }
    challenges
}

/// A challenge: as it was where that is told, or else one of the same length.
pub(super) fn challenge(sasl: &schema::Sasl, number: usize, made_up: &mut usize) -> Vec<u8> {
    if let Some(text) = sasl.revealed.as_ref().and_then(|text| unescape(text)) {
        return [&text[..], b"\r\n"].concat();
    }
    // `+ `, the text, CR LF.
    let text = usize::try_from(sasl.octets.saturating_sub(4)).unwrap_or(LINE).min(LINE).min(room(*made_up));
    *made_up += text;
    let prompt = ["VXNlcm5hbWU6", "UGFzc3dvcmQ6"].get(number).filter(|prompt| prompt.len() == text);
    let text = prompt.map_or_else(|| "eHh4".repeat(text / 4), |prompt| (*prompt).to_owned());
    format!("+ {text}\r\n").into_bytes()
}

/// The line as far as it is told, with the end that it had.
pub(super) fn status(status: StatusWord, line: &Text, made_up: &mut usize) -> Vec<u8> {
    let word = if status == StatusWord::Err { "-ERR" } else { "+OK" };
    let told = line.text.as_ref().filter(|_| line.redacted.is_none()).and_then(|text| unescape(text));
    let mut text = told.unwrap_or_else(|| format!("{word} (withheld in the recording)").into_bytes());
    let end: &[u8] = match line.line_end.as_deref() {
        Some("lf") => b"\n",
        Some("none") => b"",
        _ => b"\r\n",
    };
    if line.cut {
        let octets = usize::try_from(line.octets).unwrap_or(LINE).min(LINE).saturating_sub(end.len());
        let more = octets.saturating_sub(text.len()).min(room(*made_up));
        *made_up += more;
        text.resize(text.len() + more, b'x');
    }
    text.extend_from_slice(end);
    text
}

pub(super) fn line(text: &str) -> Answer {
    Answer { status: format!("{text}\r\n").into_bytes(), ..Answer::default() }
}

fn room(made_up: usize) -> usize {
    MADE_UP.saturating_sub(made_up)
}
