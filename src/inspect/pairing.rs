//! Which reply belongs to which command, made visible where commands are pipelined.

use crate::record::schema::Body;

/// Decides which lines bear their command's number: those of commands that are outstanding together.
///
/// The numbers of a session only grow, so four of them are all the state there is.
#[derive(Clone, Debug, Default)]
pub(super) struct Pairing {
    /// The last command.
    last: u64,
    /// The last line of a SASL exchange; the reply to its AUTH settles it.
    last_response: u64,
    /// All commands up to this one have their reply, as far as they will get one.
    answered: u64,
    /// Commands up to this one were shown with their number, or are older than those that were.
    numbered: u64,
}

impl Pairing {
    /// The number to show with `body`. `next` is what follows it, where that is known already (it is not in a live view).
    pub(super) fn number(&mut self, body: &Body, next: Option<&Body>) -> Option<u64> {
        match body {
            Body::Command(command) => self.command(command.n, matches!(next, Some(Body::Command(_)))),
            Body::Sasl(sasl) => {
                self.last_response = self.last_response.max(sasl.n.unwrap_or(0));
                None
            }
            Body::Reply(reply) => self.reply(reply.n),
            // A body follows its reply at once and bears the same number.
            Body::Content(content) => self.is_numbered(content.n).then_some(content.n),
            _ => None,
        }
    }

    fn command(&mut self, n: u64, another_follows: bool) -> Option<u64> {
        let outstanding = self.answered + 1 < n;
        self.last = n;
        if outstanding || another_follows {
            self.numbered = n;
        }
        self.is_numbered(n).then_some(n)
    }

    fn reply(&mut self, n: u64) -> Option<u64> {
        self.answered = self.answered.max(n);
        if self.last <= n {
            self.answered = self.answered.max(self.last_response);
        }
        self.is_numbered(n).then_some(n)
    }

    fn is_numbered(&self, n: u64) -> bool {
        n <= self.numbered || n < self.last
    }
}
