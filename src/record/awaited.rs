//! The commands that await their reply, and when they were sent.

use std::collections::VecDeque;

use crate::{
    pop3::{Command, Keyword},
    tap::Ordinal,
};

/// In the order in which they were sent.
#[derive(Default)]
pub(super) struct Awaited(VecDeque<Asked>);

/// A command that awaits its reply.
pub(super) struct Asked {
    pub(super) n: Ordinal,
    pub(super) keyword: Keyword,
    pub(super) at_us: u64,
    /// poptap asked it on its own account.
    pub(super) own: bool,
    /// The number in its argument: the message, for RETR and TOP.
    pub(super) message: Option<u64>,
    /// The same as the server was asked for it.
    pub(super) at_server: Option<u64>,
    /// Whether the server owes a reply to it.
    owed: bool,
}

impl Awaited {
    /// Command `n` was sent.
    pub(super) fn ask(&mut self, n: Ordinal, keyword: Keyword, at_us: u64, line: &[u8]) {
        let message = message(keyword, line);
        self.0.push_back(Asked { n, keyword, at_us, own: false, message, at_server: message, owed: true });
    }

    /// The last one is poptap's own.
    pub(super) fn own(&mut self) {
        if let Some(asked) = self.0.back_mut() {
            asked.own = true;
        }
    }

    /// The server owes no reply to the command that was asked last.
    pub(super) fn spare(&mut self) {
        if let Some(asked) = self.0.back_mut() {
            asked.owed = false;
        }
    }

    /// Another line went to the server in place of command `n`.
    pub(super) fn rewritten(&mut self, n: Ordinal, line: &[u8]) {
        if let Some(asked) = self.0.iter_mut().rev().find(|asked| asked.n == n) {
            asked.at_server = message(asked.keyword, line);
        }
    }

    /// The commands behind this one that the server has not answered.
    pub(super) fn outstanding(&self, answered: Ordinal) -> impl Iterator<Item = &Asked> {
        self.0.iter().filter(move |asked| asked.owed && asked.n > answered)
    }

    /// A line that was taken for another thing is a command with this keyword.
    pub(super) fn resolve(&mut self, n: Ordinal, keyword: Keyword) {
        if let Some(asked) = self.0.iter_mut().find(|asked| asked.n == n) {
            (asked.keyword, asked.owed) = (keyword, true);
        }
    }

    /// The command that a reply answers; those before it await none any more. It stays, since it may be answered again.
    pub(super) fn answered(&mut self, n: Ordinal) -> Option<&Asked> {
        while self.0.front().is_some_and(|asked| asked.n < n) {
            self.0.pop_front();
        }
        self.0.front().filter(|asked| asked.n == n)
    }

    /// Nothing can be matched any more.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

fn message(keyword: Keyword, line: &[u8]) -> Option<u64> {
    if !matches!(keyword, Keyword::Retr | Keyword::Top) {
        return None;
    }
    std::str::from_utf8(Command::parse(line).arguments().next()?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_find_their_command() {
        let mut awaited = Awaited::default();
        for n in 1..=3 {
            awaited.ask(n, Keyword::Retr, n * 10, format!("RETR {n}").as_bytes());
        }
        awaited.resolve(3, Keyword::Quit);
        for _ in 0..2 {
            assert_eq!(awaited.answered(2).map(|asked| (asked.at_us, asked.message)), Some((20, Some(2))));
        }
        assert!(awaited.answered(1).is_none());
        assert_eq!(awaited.answered(3).map(|asked| asked.keyword), Some(Keyword::Quit));
        assert!(awaited.answered(4).is_none());
    }

    #[test]
    fn what_the_server_owes() {
        let mut awaited = Awaited::default();
        for n in 1..=4 {
            awaited.ask(n, Keyword::Retr, 0, b"RETR 1");
        }
        awaited.spare();
        awaited.rewritten(2, b"RETR 5");
        assert_eq!(awaited.outstanding(1).map(|asked| asked.n).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(awaited.answered(2).map(|asked| (asked.message, asked.at_server)), Some((Some(1), Some(5))));
        awaited.resolve(4, Keyword::Stat);
        assert_eq!(awaited.outstanding(3).count(), 1);
    }
}
