//! What the server has told of itself and of its messages: capabilities, sizes and unique-ids.

use memchr::memchr;

use crate::pop3::{Capability, Keyword, Stage};

/// Messages of which size and unique-id are remembered: 16 octets each.
const MESSAGES: usize = 4096;

/// Octets of a line of a listing that are looked at: a number, and a unique-id of at most 70 (RFC 1939 §7).
const LINE: usize = 128;

/// Up to so many messages each is compared with each; beyond that, sorting is less work.
const FEW: usize = 32;

/// Words in a refusal that do not speak of a message or of a user, but of the command.
const REFUSALS: [&str; 12] = [
    "unknown command",
    "command unknown",
    "no such command",
    "invalid command",
    "bad command",
    "illegal command",
    "unrecogni",
    "not implemented",
    "unimplemented",
    "not supported",
    "unsupported",
    "not enabled",
];

/// Grows with what is listed.
#[derive(Default)]
pub(super) struct Mailbox {
    announced: u8,
    messages: Vec<Message>,
    /// A line that was cut by the end of a read.
    begun: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Message {
    /// [`UNKNOWN`] until it is told.
    size: u64,
    /// A hash; 0 until it is told.
    uidl: u64,
}

const UNKNOWN: u64 = u64::MAX;

/// What is odd about unique-ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Odd {
    /// This message had another.
    Changed(u64),
    /// These two have the same.
    Same(u64, u64),
}

impl Mailbox {
    pub(super) fn announces_anything(&self) -> bool {
        self.announced != 0
    }

    pub(super) fn announces_pipelining(&self) -> bool {
        self.announced & PIPELINING != 0
    }

    /// What the last LIST told.
    pub(super) fn size(&self, number: u64) -> Option<u64> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        Some(self.messages.get(index)?.size).filter(|size| *size != UNKNOWN)
    }

    /// A listing begins; that of CAPA takes the place of an older one.
    pub(super) fn listing_begins(&mut self, keyword: Keyword) {
        self.begun.clear();
        if keyword == Keyword::Capa {
            self.announced = 0;
        }
    }

    /// Takes lines of a listing up to the first that is odd, or all; `rest` is what is left to be taken.
    pub(super) fn lines(&mut self, keyword: Keyword, rest: &mut &[u8]) -> Option<Odd> {
        while let Some(end) = memchr(b'\n', rest) {
            let (line, behind) = rest.split_at(end + 1);
            *rest = behind;
            let odd = if self.begun.is_empty() {
                self.entry(keyword, line)
            } else {
                self.begin(line);
                let whole = std::mem::take(&mut self.begun);
                let odd = self.entry(keyword, &whole);
                self.begun = whole;
                self.begun.clear();
                odd
            };
            if odd.is_some() {
                return odd;
            }
        }
        let begun = std::mem::take(rest);
        if !begun.is_empty() {
            self.begin(begun);
        }
        None
    }

    fn begin(&mut self, piece: &[u8]) {
        let room = LINE - self.begun.len();
        self.begun.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    /// One line of a listing, or of a reply that tells of one message.
    pub(super) fn entry(&mut self, keyword: Keyword, line: &[u8]) -> Option<Odd> {
        if keyword == Keyword::Capa {
            self.announced |= bit(Capability::parse(line).tag());
            return None;
        }
        let (number, rest) = number(line)?;
        let index = usize::try_from(number).ok()?.checked_sub(1).filter(|index| *index < MESSAGES)?;
        if keyword == Keyword::List {
            let size = self::number(rest)?.0;
            self.message(index).size = size;
            return None;
        }
        let uidl = hash(&rest.trim_ascii_end()[..rest.trim_ascii_end().len().min(LINE)])?;
        let before = std::mem::replace(&mut self.message(index).uidl, uidl);
        (before != 0 && before != uidl).then_some(Odd::Changed(number))
    }

    fn message(&mut self, index: usize) -> &mut Message {
        if index >= self.messages.len() {
            self.messages.resize(index + 1, Message { size: UNKNOWN, uidl: 0 });
        }
        &mut self.messages[index]
    }

    /// Messages that have the same unique-id, at most `most` of them.
    pub(super) fn duplicates(&self, most: usize) -> Vec<Odd> {
        let known = || self.messages.iter().zip(1_u64..).filter(|(message, _)| message.uidl != 0);
        if self.messages.len() <= FEW {
            let pairs = known().flat_map(|(one, at)| {
                let later = known().filter(move |(other, place)| *place > at && other.uidl == one.uidl);
                later.take(1).map(move |(_, place)| Odd::Same(at, place))
            });
            return pairs.take(most).collect();
        }
        let mut all: Vec<_> = known().map(|(message, at)| (message.uidl, at)).collect();
        all.sort_unstable();
        let pairs = all.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| Odd::Same(pair[0].1, pair[1].1));
        pairs.take(most).collect()
    }

    /// Whether an `-ERR` with this text refuses a command that was announced, and not what was asked of it.
    pub(super) fn is_refused(&self, keyword: Keyword, stage: Stage, text: &[u8]) -> bool {
        let announced = self.announced & bit(keyword.name().as_bytes()) != 0;
        let text = || String::from_utf8_lossy(text).to_ascii_lowercase();
        let speaks_of_the_command = || REFUSALS.iter().any(|words| text().contains(words));
        announced
            && match (keyword, stage) {
                (Keyword::Stls, Stage::Authorization) => !text().contains("[sys/temp]"),
                (Keyword::Top | Keyword::Uidl, Stage::Transaction) | (Keyword::User, Stage::Authorization) => {
                    speaks_of_the_command()
                }
                (Keyword::Lang | Keyword::Utf8, _) => speaks_of_the_command(),
                _ => false,
            }
    }
}

const PIPELINING: u8 = 1 << 6;

/// Of a capability, 0 where it is none that a command may be refused of.
fn bit(tag: &[u8]) -> u8 {
    match Keyword::parse(tag) {
        Keyword::Top => 1,
        Keyword::Uidl => 1 << 1,
        Keyword::User => 1 << 2,
        Keyword::Stls => 1 << 3,
        Keyword::Lang => 1 << 4,
        Keyword::Utf8 => 1 << 5,
        _ if tag.eq_ignore_ascii_case(b"PIPELINING") => PIPELINING,
        _ => 0,
    }
}

/// The number that a text begins with, and what stands behind it and blanks.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let end = text.iter().position(|octet| !octet.is_ascii_digit()).unwrap_or(text.len());
    let digits = &text[..end];
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some((number, text[end..].trim_ascii_start()))
}

/// FNV-1a; `None` of nothing.
fn hash(text: &[u8]) -> Option<u64> {
    let hash = text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, octet| (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3));
    (!text.is_empty()).then_some(hash.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(mailbox: &mut Mailbox, keyword: Keyword, listing: &[u8], cut: usize) -> Vec<Odd> {
        mailbox.listing_begins(keyword);
        let mut odd = Vec::new();
        for mut piece in listing.chunks(cut) {
            odd.extend(std::iter::from_fn(|| mailbox.lines(keyword, &mut piece)));
        }
        odd
    }

    #[test]
    fn listings_are_read_in_every_chunking() {
        let long = format!("2 {}\r\n", "x".repeat(300));
        for cut in 1..12 {
            let mut mailbox = Mailbox::default();
            assert_eq!(listed(&mut mailbox, Keyword::List, b"1 120\r\n3 7 extra\n0 5\r\nx\r\n99999999 1\r\n", cut), []);
            assert_eq!([1, 2, 3, 0, 99_999_999].map(|number| mailbox.size(number)), [Some(120), None, Some(7), None, None]);
            assert_eq!(listed(&mut mailbox, Keyword::Uidl, b"1 a\r\n2 b\r\n3 a \r\n", cut), []);
            assert_eq!(mailbox.duplicates(16), [Odd::Same(1, 3)]);
            assert_eq!(listed(&mut mailbox, Keyword::Uidl, b"1 a\r\n2 c\r\n3 d\r\n", cut), [Odd::Changed(2), Odd::Changed(3)]);
            assert_eq!(mailbox.duplicates(16), []);
            assert_eq!(listed(&mut mailbox, Keyword::Uidl, long.as_bytes(), cut), [Odd::Changed(2)]);
            assert!(mailbox.begun.capacity() <= LINE);
        }
    }

    #[test]
    fn many_are_compared_as_few_are() {
        let mut mailbox = Mailbox::default();
        for number in 1..=2 * FEW {
            let line = format!("{number} u{}\r\n", number % 60);
            assert_eq!(listed(&mut mailbox, Keyword::Uidl, line.as_bytes(), usize::MAX), []);
        }
        let mut found = mailbox.duplicates(16);
        found.sort_by_key(|odd| if let Odd::Same(one, _) = odd { *one } else { 0 });
        assert_eq!(found, [Odd::Same(1, 61), Odd::Same(2, 62), Odd::Same(3, 63), Odd::Same(4, 64)]);
        assert_eq!(mailbox.duplicates(2).len(), 2);
    }

    #[test]
    fn a_refusal_of_a_command_is_told_from_one_of_its_argument() {
        let mut mailbox = Mailbox::default();
        assert_eq!(listed(&mut mailbox, Keyword::Capa, b"top\r\nUIDL\r\nSTLS\r\nPIPELINING\r\nUSER\r\nSASL PLAIN\r\n", 3), []);
        assert!(mailbox.announces_pipelining());
        for (keyword, stage, text, refused) in [
            (Keyword::Top, Stage::Transaction, "-ERR Unknown command.", true),
            (Keyword::Top, Stage::Transaction, "-ERR no such message", false),
            (Keyword::Top, Stage::Transaction, "-ERR Unknown message", false),
            (Keyword::Top, Stage::Authorization, "-ERR Unknown command.", false),
            (Keyword::Uidl, Stage::Transaction, "-ERR UIDL not implemented", true),
            (Keyword::Uidl, Stage::Transaction, "-ERR", false),
            (Keyword::User, Stage::Authorization, "-ERR user unknown", false),
            (Keyword::User, Stage::Authorization, "-ERR command unknown", true),
            (Keyword::Stls, Stage::Authorization, "-ERR", true),
            (Keyword::Stls, Stage::Authorization, "-ERR [SYS/TEMP] later", false),
            (Keyword::Lang, Stage::Authorization, "-ERR unsupported", false),
            (Keyword::Retr, Stage::Transaction, "-ERR unknown command", false),
        ] {
            assert_eq!(mailbox.is_refused(keyword, stage, text.as_bytes()), refused, "{keyword:?} {text}");
        }
        listed(&mut mailbox, Keyword::Capa, b"UIDL\r\n", 9);
        assert!(!mailbox.is_refused(Keyword::Top, Stage::Transaction, b"-ERR unknown command"), "an old listing counts no more");
    }
}
