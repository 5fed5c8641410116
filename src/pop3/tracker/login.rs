//! A login that the proxy leads to its server itself.

use std::sync::Arc;

use super::{Ordinal, Tracker};
use crate::pop3::{
    Command,
    pending::{Kind, Pending, Wants},
};

impl Tracker {
    /// The proxy asks on its own account, ahead of what is outstanding: nothing of that has been sent.
    pub fn ask_before(&mut self, command: &Command<'_>) -> Ordinal {
        self.last += 1;
        self.pending.push_front(Pending::own(self.last, command));
        self.last
    }

    /// Whether the reply to `n` is the next that the client gets.
    #[must_use]
    pub fn is_next(&self, n: Ordinal) -> bool {
        self.body.is_none() && self.pending.front().is_some_and(|pending| pending.n == n)
    }

    /// Command `n` has not been answered by the server, and is not going to be; `text` is its reply, to be sent in its turn. What the
    /// proxy asked is not going to be answered either.
    pub fn answer_instead(&mut self, n: Ordinal, text: Arc<[u8]>) {
        self.pending.retain(|pending| !pending.is_own());
        if self.auth == Some(n) {
            (self.auth, self.responses_due) = (None, 0);
        }
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.n == n) {
            (pending.kind, pending.wants) = (Kind::Local(text), Wants::default());
        }
        self.greeted = true;
    }

    /// The client is asked for a SASL response on the proxy's own account.
    pub fn challenged(&mut self) {
        self.responses_due += 1;
    }

    /// The response to the server's challenge is there already.
    pub fn responded(&mut self) {
        self.responses_due = 0;
    }

    /// Another connection to a server takes the old one's place, and is to greet.
    pub fn greets_anew(&mut self) {
        self.greeted = false;
    }
}
