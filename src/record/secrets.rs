//! The secrets that a client sent and whose echo a server may still send back.

use std::collections::VecDeque;

use memchr::memmem;
use zeroize::Zeroizing;

use crate::tap::Ordinal;

/// A secret is looked for by this many octets of its beginning, so that an echo that was cut short is found too.
const PREFIX: usize = 12;

/// Words of a secret shorter than this are not looked for on their own.
const WORD: usize = 4;

/// Octets of memory that a session's secrets may take, about. With more outstanding, every text of the server's is withheld.
const HELD: usize = 32 * 1024;

/// Secrets whose command is unanswered, and those of the command that was answered last.
#[derive(Default)]
pub(super) struct Secrets {
    held: VecDeque<Held>,
    octets: usize,
    /// Command lines up to this one may hold secrets that did not fit, or that were not seen.
    blind_until: Ordinal,
    last_answered: Ordinal,
}

struct Held {
    n: Ordinal,
    answered: bool,
    octets: usize,
    needles: Vec<Zeroizing<Vec<u8>>>,
}

impl Secrets {
    /// Holds `text` and its words as secrets of command `n`.
    pub(super) fn hold(&mut self, n: Ordinal, text: &[u8]) {
        let mut needles: Vec<_> = needle(text).into_iter().collect();
        needles.extend(words(text).filter(|word| word.len() >= WORD).filter_map(needle));
        let octets = needles.iter().map(|needle| needle.len() + size_of::<Zeroizing<Vec<u8>>>()).sum();
        if self.octets + octets > HELD {
            return self.miss(n);
        }
        self.octets += octets;
        self.held.push_back(Held { n, answered: false, octets, needles });
    }

    /// Command `n` may hold a secret that is not known.
    pub(super) fn miss(&mut self, n: Ordinal) {
        self.blind_until = self.blind_until.max(n);
    }

    /// Whether `text`, sent by the server, holds a secret that it was just sent.
    pub(super) fn are_echoed_in(&self, text: &[u8]) -> bool {
        if self.blind_until > self.last_answered {
            return true;
        }
        if self.held.is_empty() {
            return false;
        }
        let text = Zeroizing::new(text.to_ascii_lowercase());
        self.held.iter().flat_map(|held| &held.needles).any(|needle| memmem::find(&text, needle).is_some())
    }

    /// Command `n` was answered: what was sent before it is dropped, and its own secrets at the next answer.
    pub(super) fn answered(&mut self, n: Ordinal) {
        self.last_answered = self.last_answered.max(n);
        if self.held.is_empty() {
            return;
        }
        let last = self.held.iter().map(|held| held.n).filter(|&held| held <= n).max();
        self.held.retain(|held| !held.answered && (held.n > n || Some(held.n) == last));
        for held in self.held.iter_mut().filter(|held| held.n <= n) {
            held.answered = true;
        }
        self.octets = self.held.iter().map(|held| held.octets).sum();
        if self.held.is_empty() {
            // After a login there are none any more.
            self.held = VecDeque::new();
        }
    }
}

fn needle(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let text = text.trim_ascii();
    (!text.is_empty()).then(|| Zeroizing::new(text[..text.len().min(PREFIX)].to_ascii_lowercase()))
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|octet| octet.is_ascii_whitespace() || octet.is_ascii_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_found() {
        let mut secrets = Secrets::default();
        secrets.hold(1, b" Correct horse  battery-staple of my own");
        for echo in [&b"-ERR unknown: CORRECT HORSE"[..], b"xhorsex", b"-ERR battery-stap...", b"correct horse  b"] {
            assert!(secrets.are_echoed_in(echo), "{}", echo.escape_ascii());
        }
        for other in [&b"-ERR of my"[..], b"+OK", b""] {
            assert!(!secrets.are_echoed_in(other), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn a_short_password_is_found() {
        let mut secrets = Secrets::default();
        secrets.hold(1, b"pw");
        assert!(secrets.are_echoed_in(b"-ERR bad pw"));
    }

    #[test]
    fn secrets_are_dropped_one_answer_late() {
        let mut secrets = Secrets::default();
        secrets.hold(1, b"first");
        secrets.hold(2, b"second");
        secrets.hold(3, b"third");
        secrets.answered(2);
        assert!(!secrets.are_echoed_in(b"first"));
        assert!(secrets.are_echoed_in(b"second"));
        assert!(secrets.are_echoed_in(b"third"));
        secrets.answered(3);
        assert!(!secrets.are_echoed_in(b"second"));
        assert!(secrets.are_echoed_in(b"third"));
        secrets.answered(4);
        assert!(!secrets.are_echoed_in(b"third"));
        assert_eq!(secrets.octets, 0);
    }

    #[test]
    fn too_many_secrets_blind() {
        let mut secrets = Secrets::default();
        for n in 1..=3000 {
            secrets.hold(n, &[b'x'; 400]);
        }
        assert!(secrets.octets <= HELD);
        assert!(secrets.are_echoed_in(b"+OK"));
        secrets.answered(2999);
        assert!(secrets.are_echoed_in(b"+OK"));
        secrets.answered(3000);
        assert!(!secrets.are_echoed_in(b"+OK"));
    }
}
