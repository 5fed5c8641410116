//! The messages of the server, known to the loads as well.

/// Three messages. As on the wire, the listings in front of them are part of what passes.
pub(crate) struct Maildrop {
    /// Of some 3 KB, of as many MiB as was asked for, and of 16 MiB.
    messages: [Message; 3],
}

/// The number of the message that sessions fetch.
pub(crate) const SMALL: usize = 1;
/// The number of the message whose size is chosen.
pub(crate) const LARGE: usize = 2;
/// The number of the message of 16 MiB.
pub(crate) const BURST: usize = 3;

/// A block that stays in a processor's cache, and how many of them make a MiB.
const BLOCK: usize = 128 * 1024;
const BLOCKS: usize = 8;

impl Maildrop {
    pub(crate) fn new(mib: usize) -> Self {
        Self { messages: [Message::new(3000, 1), Message::new(BLOCK, BLOCKS * mib), Message::new(BLOCK, BLOCKS * 16)] }
    }

    /// A message by its number in the session, from 1.
    pub(crate) fn message(&self, number: usize) -> Option<&Message> {
        self.messages.get(number.checked_sub(1)?)
    }

    pub(crate) fn stat(&self) -> String {
        format!("+OK {} {}\r\n", self.messages.len(), self.messages.iter().map(Message::size).sum::<usize>())
    }

    pub(crate) fn list(&self) -> String {
        let lines = (1..).zip(&self.messages).map(|(number, message)| format!("{number} {}\r\n", message.size()));
        format!("+OK {} messages\r\n{}.\r\n", self.messages.len(), lines.collect::<String>())
    }

    pub(crate) fn uidl(&self) -> String {
        let lines = (1..=self.messages.len()).map(|number| format!("{number} bench-{number:06}\r\n"));
        format!("+OK\r\n{}.\r\n", lines.collect::<String>())
    }
}

/// A message as it is on the wire: one block of whole lines, over and over, then the terminator.
pub(crate) struct Message {
    block: Vec<u8>,
    times: usize,
    /// Dots that are doubled in the block.
    doubled: usize,
}

pub(crate) const TERMINATOR: &[u8] = b".\r\n";

impl Message {
    /// `times` blocks of at least `least` octets: headers, and lines of 60 to 80 octets; every fiftieth begins with a dot, which is
    /// doubled on the wire.
    fn new(least: usize, times: usize) -> Self {
        let mut block = Vec::with_capacity(least + 100);
        block.extend_from_slice(b"From: somebody@example.net\r\nSubject: a message for measuring\r\n\r\n");
        let mut doubled = 0;
        for number in 0_usize.. {
            if block.len() >= least {
                break;
            }
            let start = if number.is_multiple_of(50) { ".." } else { "" };
            doubled += usize::from(!start.is_empty());
            let filling = "The quick brown fox jumps over the lazy dog, and so on and on and on.";
            let line = format!("{start}{number:06} {}\r\n", &filling[..52 + number % 17]);
            block.extend_from_slice(line.as_bytes());
        }
        Self { block, times, doubled }
    }

    /// What LIST says: without the terminator, and with dots that are not doubled.
    fn size(&self) -> usize {
        (self.block.len() - self.doubled) * self.times
    }

    pub(crate) fn status(&self) -> String {
        format!("+OK {} octets\r\n", self.size())
    }

    /// Octets on the wire, the terminator included.
    pub(crate) fn octets(&self) -> usize {
        self.block.len() * self.times + TERMINATOR.len()
    }

    /// The pieces that go onto the wire.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::repeat_n(&*self.block, self.times).chain([TERMINATOR])
    }

    /// Whether `octets` are what stands `at` octets into the message.
    pub(crate) fn is_at(&self, mut at: usize, mut octets: &[u8]) -> bool {
        let body = self.block.len() * self.times;
        while at < body && !octets.is_empty() {
            let expected = &self.block[at % self.block.len()..];
            let (here, rest) = octets.split_at(octets.len().min(expected.len()));
            if here != &expected[..here.len()] {
                return false;
            }
            at += here.len();
            octets = rest;
        }
        octets.is_empty() || TERMINATOR[at - body..].starts_with(octets)
    }
}
