//! The maildrop as the client is shown it: what LIST and UIDL told at login, and which messages are out of sight.
//!
//! A maildrop is locked for the length of a session (RFC 1939 §4), so what was listed at its beginning holds to its end.

use super::memory::Mark;
use crate::tap::Question;

/// More messages than this in one maildrop are not shielded: 40 octets each are kept for the length of the session.
pub(super) const MOST_MESSAGES: usize = 500_000;

/// No message is larger than this, a TiB: the octets of all of them can be added up.
const LARGEST_SIZE: u64 = 1 << 40;

/// The messages of a maildrop, in the server's order.
#[derive(Debug, Default)]
pub(super) struct Maildrop {
    messages: Vec<Message>,
    /// Where there are hidden messages: the others, which the client counts from 1.
    shown: Option<Vec<u32>>,
    /// Messages that are out of sight, and their octets.
    absent: (u64, u64),
}

/// One message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    /// The server's number for it.
    pub(super) number: u64,
    /// Its octets, as LIST says.
    pub(super) size: u64,
    /// Where UIDL was asked.
    pub(super) mark: Option<Mark>,
    pub(super) sight: Sight,
}

/// Whether the client can see a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    Shown,
    /// Deleted in an earlier session, as the client believes: it has no number.
    Hidden,
    /// Deleted in this session, as the client believes: it has a number, which nothing answers to.
    Gone,
}

/// Why a listing is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// A line is not what RFC 1939 §5 and §7 say, or the two listings differ.
    Malformed,
    /// There are more than [`MOST_MESSAGES`].
    TooMany,
}

impl Maildrop {
    /// A line of the answer to LIST.
    pub(super) fn listed(&mut self, line: &[u8]) -> Result<(), Unusable> {
        let (number, rest) = number_at_start(line).ok_or(Unusable::Malformed)?;
        let (size, _) = number_at_start(rest).ok_or(Unusable::Malformed)?;
        if self.messages.len() >= MOST_MESSAGES {
            return Err(Unusable::TooMany);
        }
        let in_order = self.messages.last().is_none_or(|last| last.number < number);
        if !in_order || number == 0 || size > LARGEST_SIZE {
            return Err(Unusable::Malformed);
        }
        self.messages.push(Message { number, size, mark: None, sight: Sight::Shown });
        Ok(())
    }

    /// A line of the answer to UIDL, which was asked behind LIST: `place` counts the lines from 0. Returns the UIDL.
    pub(super) fn identified<'a>(&mut self, place: usize, line: &'a [u8]) -> Result<(&'a [u8], &mut Option<Mark>), Unusable> {
        let (number, rest) = number_at_start(line).ok_or(Unusable::Malformed)?;
        let uid = rest.trim_ascii();
        let message = self.messages.get_mut(place).filter(|message| message.number == number && !uid.is_empty());
        message.map(|message| (uid, &mut message.mark)).ok_or(Unusable::Malformed)
    }

    /// How many messages were listed.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// The digests of all messages.
    pub(super) fn marks(&self) -> impl Iterator<Item = Mark> {
        self.messages.iter().filter_map(|message| message.mark)
    }

    /// Puts messages out of sight, and numbers the others anew.
    pub(super) fn hide(&mut self, is_hidden: impl Fn(&Mark) -> bool) {
        for message in self.messages.iter_mut().filter(|message| message.mark.as_ref().is_some_and(&is_hidden)) {
            message.sight = Sight::Hidden;
            self.absent.0 += 1;
            self.absent.1 += message.size;
        }
        if self.absent.0 > 0 {
            let places = (0..).zip(&self.messages).filter(|(_, message)| message.sight != Sight::Hidden);
            self.shown = Some(places.map(|(place, _)| place).collect());
        }
    }

    /// Whether the client's numbers are not the server's.
    pub(super) fn is_renumbered(&self) -> bool {
        self.shown.is_some()
    }

    /// Whether anything is out of sight.
    pub(super) fn has_absent(&self) -> bool {
        self.absent.0 > 0
    }

    /// The message that has this number for the client.
    pub(super) fn get(&self, number: u64) -> Option<&Message> {
        self.place(number).map(|place| &self.messages[place])
    }

    /// The client's number for a message that it can see or could see at login; `None` for others.
    pub(super) fn number_for_client(&self, servers: u64) -> Option<u64> {
        let place = self.messages.binary_search_by_key(&servers, |message| message.number).ok()?;
        match &self.shown {
            None => Some(servers),
            Some(shown) => shown.binary_search(&u32::try_from(place).ok()?).ok().map(|at| at as u64 + 1),
        }
    }

    /// The message with the server's number.
    pub(super) fn of_server(&self, number: u64) -> Option<&Message> {
        let place = self.messages.binary_search_by_key(&number, |message| message.number).ok()?;
        self.messages.get(place)
    }

    /// How many of the client's messages have a server's number up to this.
    pub(super) fn shown_up_to(&self, servers: u64) -> u64 {
        let upto = self.messages.iter().take_while(|message| message.number <= servers);
        upto.filter(|message| message.sight != Sight::Hidden).count() as u64
    }

    /// The client deleted a message that it can see.
    pub(super) fn delete(&mut self, number: u64) {
        if let Some(place) = self.place(number)
            && self.messages[place].sight == Sight::Shown
        {
            self.messages[place].sight = Sight::Gone;
            self.absent.0 += 1;
            self.absent.1 += self.messages[place].size;
        }
    }

    /// RSET: what was deleted in this session is back.
    pub(super) fn restore(&mut self) {
        for message in self.messages.iter_mut().filter(|message| message.sight == Sight::Gone) {
            message.sight = Sight::Shown;
            self.absent.0 -= 1;
            self.absent.1 -= message.size;
        }
    }

    /// The digests of what was deleted in this session.
    pub(super) fn gone(&self) -> Vec<Mark> {
        self.messages.iter().filter(|message| message.sight == Sight::Gone).filter_map(|message| message.mark).collect()
    }

    /// STAT's count and octets, without what is out of sight.
    pub(super) fn without_absent(&self, (count, octets): (u64, u64)) -> (u64, u64) {
        (count.saturating_sub(self.absent.0), octets.saturating_sub(self.absent.1))
    }

    /// STAT's count and octets at login, without what is out of sight.
    pub(super) fn totals(&self) -> (u64, u64) {
        self.without_absent((self.messages.len() as u64, self.messages.iter().map(|message| message.size).sum()))
    }

    fn place(&self, number: u64) -> Option<usize> {
        match &self.shown {
            None => self.messages.binary_search_by_key(&number, |message| message.number).ok(),
            Some(shown) => {
                let at = usize::try_from(number.checked_sub(1)?).ok()?;
                shown.get(at).map(|&place| place as usize)
            }
        }
    }
}

/// What is asked at login.
pub(super) const LIST: Question = b"LIST\r\n";
/// What is asked behind it where messages are remembered.
pub(super) const UIDL: Question = b"UIDL\r\n";

/// A decimal number at the start of a text, blanks before it left out, and what stands behind it.
pub(super) fn number_at_start(text: &[u8]) -> Option<(u64, &[u8])> {
    let text = text.trim_ascii_start();
    let digits = text.iter().position(|octet| !octet.is_ascii_digit()).unwrap_or(text.len());
    let number = std::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
    Some((number, &text[digits..]))
}

#[cfg(test)]
mod tests {
    use super::{super::memory::Memory, *};

    fn maildrop(sizes: &[u64]) -> Maildrop {
        let mut maildrop = Maildrop::default();
        for (number, size) in (1..).zip(sizes) {
            maildrop.listed(format!("{number} {size}\r\n").as_bytes()).unwrap();
            let line = format!("{number} uid{number}\r\n");
            let (uid, mark) = maildrop.identified(number - 1, line.as_bytes()).unwrap();
            *mark = Some(mark_of(uid));
        }
        maildrop
    }

    fn mark_of(uid: &[u8]) -> Mark {
        Memory::account_of("server", "bob").mark(uid)
    }

    fn hides(numbers: &'static [u64]) -> impl Fn(&Mark) -> bool {
        |mark| numbers.iter().any(|number| *mark == mark_of(format!("uid{number}").as_bytes()))
    }

    #[test]
    fn what_is_hidden_has_no_number() {
        let mut maildrop = maildrop(&[10, 20, 30, 40]);
        assert!(!maildrop.is_renumbered() && maildrop.totals() == (4, 100));
        maildrop.hide(hides(&[1, 3]));
        assert!(maildrop.is_renumbered());
        assert_eq!([1, 2, 3, 0].map(|number| maildrop.get(number).map(|message| message.number)), [Some(2), Some(4), None, None]);
        assert_eq!([1, 2, 3, 4, 5].map(|number| maildrop.number_for_client(number)), [None, Some(1), None, Some(2), None]);
        assert_eq!((maildrop.totals(), maildrop.without_absent((3, 90))), ((2, 60), (1, 50)));
        assert_eq!([0, 1, 2, 3, 4].map(|number| maildrop.shown_up_to(number)), [0, 0, 1, 1, 2]);
    }

    #[test]
    fn what_is_deleted_keeps_its_number_and_comes_back() {
        let mut maildrop = maildrop(&[10, 20, 30]);
        maildrop.hide(hides(&[1]));
        maildrop.delete(2);
        maildrop.delete(2);
        assert_eq!(maildrop.get(2).map(|message| message.sight), Some(Sight::Gone));
        assert_eq!((maildrop.totals(), maildrop.gone().len()), ((1, 20), 1));
        maildrop.restore();
        assert_eq!((maildrop.totals(), maildrop.gone().len()), ((2, 50), 0));
    }

    #[test]
    fn listings_that_are_none() {
        let mut maildrop = Maildrop::default();
        for line in ["", "x 1", "1", "1 x", "0 5", "1 18446744073709551615"] {
            assert_eq!(maildrop.listed(line.as_bytes()), Err(Unusable::Malformed), "{line}");
        }
        maildrop.listed(b"2 5").unwrap();
        assert_eq!(maildrop.listed(b"2 5"), Err(Unusable::Malformed), "not in order");
        for line in ["1 a", "2", "2 ", "x"] {
            assert!(maildrop.identified(0, line.as_bytes()).is_err(), "{line}");
        }
        assert!(maildrop.identified(1, b"2 a").is_err() && maildrop.identified(0, b"2 a").is_ok());
    }
}
