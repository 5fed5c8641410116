//! A reply that waits: until the server has answered what the proxy itself wants to know first, or until a delay is over.

use std::sync::Arc;

use super::{Action, After, Asked, Decision, Edit, Event, Filter, Observer, Ordinal, Rule, Tap, Told, cut::whole, noted};
use crate::pop3::{Command, Keyword, Stage, Status};

/// A status line that was taken out of the server's stream. While there is one, nothing behind it goes to the client, and in a
/// session that fails closed no command goes to the server.
#[derive(Debug)]
pub(super) struct Stash {
    /// The command that it answers.
    n: Ordinal,
    text: Arc<[u8]>,
    /// Milliseconds that it is to wait; `None` where it waits for answers.
    delay: Option<u64>,
}

impl<O: Observer, F: Filter> Tap<O, F> {
    // ── delays ──

    /// How long, in milliseconds, whoever runs the tap has to wait before [`Tap::delay_is_over`].
    #[must_use]
    pub fn delay(&self) -> Option<u64> {
        self.stash.as_ref()?.delay
    }

    /// The delay is over: the reply goes out.
    pub fn delay_is_over(&mut self) {
        if self.delay().is_some() {
            self.release_stash();
        }
    }

    /// Whether the client is not told of its login yet, since the server is asked something first.
    #[must_use]
    pub fn asks_first(&self) -> bool {
        self.stash.as_ref().is_some_and(|stash| stash.delay.is_none())
    }

    /// Puts the reply that waited into its place. Nothing was inserted since it was taken out.
    fn release_stash(&mut self) {
        if let Some(stash) = self.stash.take() {
            self.upstream.insert(stash.text);
        }
    }

    /// What becomes of the status line of command `n`, `count` octets, that the filter wanted whole.
    pub(super) fn wanted_status_line(&mut self, n: Ordinal, keyword: Keyword, count: usize, after: After) {
        if let After::Dismiss { text, rule } = after {
            self.upstream.skip(count);
            return self.dismiss_instead(n, text, &rule);
        }
        let stage = self.tracker.stage();
        let edit =
            self.filter.status_line(super::Replying { n, keyword: Some(keyword), stage }, &self.upstream.unlabelled()[..count]);
        let question = if logs_in(keyword) && stage == Stage::Transaction { self.filter.ask_first() } else { None };
        let delay = if let After::Delay(delay) = after { Some(delay) } else { None };
        if question.is_none() && delay.is_none() {
            return self.apply(edit, Some(n), count);
        }
        if let Some(_delay) = delay {
            self.observer.on(&Event::Decision(Decision::of(Some(n), Action::Delay, LOGIN_DELAY)));
        }
        let text = self.take_out(edit, n, count);
        self.stash = Some(Stash { n, text, delay });
        self.question = question;
    }

    /// Takes a line out of the server's stream, edited.
    fn take_out(&mut self, edit: Edit, n: Ordinal, count: usize) -> Arc<[u8]> {
        let line = &self.upstream.unlabelled()[..count];
        let text = match edit {
            Edit::Keep => Arc::from(line),
            Edit::Remove { .. } => Arc::from([]),
            Edit::Replace { text, rule } => {
                self.observer.on(&Event::Decision(edited(Some(n), &text, &rule)));
                text
            }
        };
        self.upstream.skip(count);
        text
    }

    /// The client gets this in place of the reply to `n`, and nothing more.
    fn dismiss_instead(&mut self, n: Ordinal, text: Arc<[u8]>, rule: &Rule) {
        self.observer.on(&Event::Decision(Decision::of(Some(n), Action::Close, rule)));
        noted(&mut self.observer, &mut self.filter, Some(n));
        self.observer.on(&Event::LocalReply { n, text: &text });
        self.dismissal = Some(rule.clone());
        self.stash = None;
        self.tracker.dismissed();
        self.upstream.insert(text);
    }

    // ── questions ──

    /// Sends what is to be asked next. Nothing else is on its way to the server: it has answered a login.
    pub(super) fn put_question(&mut self) -> bool {
        let Some(question) = self.question.filter(|_| self.client.may_insert()) else { return false };
        self.question = None;
        let line = whole(question, self.client.labelled(), question.len());
        let command = Command::parse(line.text);
        let stage = self.tracker.stage();
        let n = self.tracker.ask(&command);
        self.observer.on(&Event::Command { n, keyword: command.keyword, line, stage, forwarded: true, own: true });
        self.client.insert(Arc::from(question));
        true
    }

    /// The status line of the answer to a question.
    pub(super) fn own_status_line(&mut self, status: Option<Status>, count: usize) {
        self.upstream.skip(count);
        self.filter.told(Told::Status(status));
        if self.tracker.receiving().is_none() {
            self.ask_next();
        }
    }

    /// A line of the answer's body; `ended` says that it was the terminator.
    pub(super) fn own_line(&mut self, count: usize, ended: bool) {
        if !ended {
            self.filter.told(Told::Line(&self.upstream.unlabelled()[..count]));
        }
        self.upstream.skip(count);
        if ended {
            self.ask_next();
        }
    }

    /// Whether the server has gone away before it answered a question.
    pub(super) fn asks_in_vain(&self) -> bool {
        self.asks_first() && self.upstream.is_ended() && memchr::memchr(b'\n', self.upstream.unlabelled()).is_none()
    }

    /// The login fails; what there is of an answer is not for the client. Returns whether there was room to say so.
    pub(super) fn dismiss_unanswered(&mut self) -> bool {
        let Some(n) = self.stash.as_ref().map(|stash| stash.n).filter(|_| self.upstream.may_insert()) else { return false };
        if let Some(receiving) = self.tracker.receiving() {
            let (n, keyword, octets) = (receiving.n, receiving.keyword, receiving.body.octets());
            self.tracker.body_ended();
            self.observer.on(&Event::ReplyEnd { n, keyword, octets, complete: false });
        }
        self.upstream.skip(self.upstream.unlabelled().len());
        self.question = None;
        self.dismiss_instead(n, Arc::from(GONE), &Rule::BuiltIn("server-gone"));
        true
    }

    fn ask_next(&mut self) {
        match self.filter.ask_next() {
            Asked::Next(question) => self.question = Some(question),
            Asked::Enough => self.release_stash(),
            Asked::Dismiss { text, rule } => {
                let n = self.stash.as_ref().map_or(0, |stash| stash.n);
                self.dismiss_instead(n, text, &rule);
            }
        }
    }

    /// Whether a reply waits for a delay to be over.
    pub(super) fn is_delayed(&self) -> bool {
        self.delay().is_some()
    }
}

const GONE: &[u8] = b"-ERR [SYS/TEMP] the server went away before it had told what is in the mailbox\r\n";
const LOGIN_DELAY: &str = "login-delay";

/// A line that was replaced by `text`.
pub(super) fn edited<'a>(n: Option<Ordinal>, text: &'a [u8], rule: &'a Rule) -> Decision<'a> {
    Decision { line: Some(text.trim_ascii_end()), ..Decision::of(n, Action::EditLine, rule) }
}

/// Whether a keyword's `+OK` may be a login.
pub(super) fn logs_in(keyword: Keyword) -> bool {
    matches!(keyword, Keyword::Pass | Keyword::Apop | Keyword::Auth)
}
