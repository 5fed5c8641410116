//! The DELE shield: the client is told that its messages are deleted, and the server keeps them.
//!
//! The maildrop is listed when the login was accepted, before the client hears of it. From then on a shielded DELE is
//! answered from that listing; what it deleted is gone for the rest of the session as after a real deletion (RFC 1939 §5),
//! and RSET brings it back. With a memory it stays gone: QUIT writes it there, and later sessions number the rest from 1.

use std::sync::Arc;

use tokio::runtime::{Handle, RuntimeFlavor};

use super::maildrop::{LIST, MOST_MESSAGES, Maildrop, Message, Sight, UIDL, Unusable, number_at_start};
use super::memory::{Account, Memory};
use crate::{
    pop3::{Command, Keyword, Status, Wants},
    tap::{Asked, Edit, Question, Rule, Told},
};

/// The shield of one session.
pub(super) struct Shield {
    maildrop: Maildrop,
    memory: Option<(Arc<Memory>, Account)>,
    survey: Survey,
}

/// The listing that is being received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Survey {
    List(Progress),
    /// So many lines of it have come.
    Uidl(usize, Progress),
    Done,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Asked,
    Answered,
    Refused,
    Unusable(Unusable),
}

/// What becomes of a command in a shielded session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// It goes on as it is.
    Forward(Wants, Change),
    /// It goes on with the server's number for the message.
    Renumber(Vec<u8>, Wants, Change),
    /// The client is told that there is no such message, or no such command.
    Refuse(&'static [u8]),
}

/// What is to be changed in the reply to a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Change {
    #[default]
    Nothing,
    /// STAT.
    Totals,
    /// LIST or UIDL of one message, with the client's number.
    Number(u64),
    /// LIST or UIDL of all.
    Listing,
    /// LAST.
    Last,
    /// Another reply that may tell counts: RSET.
    Counts,
}

impl Shield {
    /// Before the first question. Without a memory nothing stays hidden behind QUIT.
    pub(super) fn new(memory: Option<(Arc<Memory>, Account)>) -> (Self, Question) {
        (Self { maildrop: Maildrop::default(), memory, survey: Survey::List(Progress::Asked) }, LIST)
    }

    // ── the listing at login ──

    /// What the server said to the last question.
    pub(super) fn told(&mut self, told: Told<'_>) {
        let progress = match (told, &mut self.survey) {
            (Told::Status(Some(Status::Ok)), Survey::List(progress) | Survey::Uidl(_, progress)) => {
                *progress = Progress::Answered;
                return;
            }
            (Told::Status(_), Survey::List(progress) | Survey::Uidl(_, progress)) => {
                *progress = Progress::Refused;
                return;
            }
            (Told::Line(line), Survey::List(progress @ Progress::Answered)) => (self.maildrop.listed(line), progress),
            (Told::Line(line), Survey::Uidl(place, progress @ Progress::Answered)) => {
                let identified = self.maildrop.identified(*place, line).map(|(uid, mark)| {
                    if let Some((_, account)) = &self.memory {
                        *mark = Some(account.mark(uid));
                    }
                });
                *place += 1;
                (identified, progress)
            }
            _ => return,
        };
        if let (Err(unusable), progress) = progress {
            *progress = Progress::Unusable(unusable);
        }
    }

    /// The answer is complete.
    pub(super) fn next(&mut self) -> Asked {
        let (question, progress) = match self.survey {
            Survey::List(progress) => ("LIST", progress),
            Survey::Uidl(lines, Progress::Answered) if lines != self.maildrop.len() => {
                ("UIDL", Progress::Unusable(Unusable::Malformed))
            }
            Survey::Uidl(_, progress) => ("UIDL", progress),
            Survey::Done => return Asked::Enough,
        };
        match (progress, &self.survey) {
            (Progress::Answered, Survey::List(_)) if self.memory.is_some() => {
                self.survey = Survey::Uidl(0, Progress::Asked);
                return Asked::Next(UIDL);
            }
            (Progress::Answered, _) => {
                self.survey = Survey::Done;
                return self.begin();
            }
            _ => {}
        }
        Asked::Dismiss { text: Arc::from(refusal(question, progress).as_bytes()), rule: RULE }
    }

    /// Hides what is remembered. Whoever cannot find out what that is lets nobody in.
    fn begin(&mut self) -> Asked {
        if let Some((memory, _)) = &self.memory {
            // Another process may have remembered something, while one replaces the other.
            if memory.is_shared()
                && let Err(error) = blocking(|| memory.refresh())
            {
                tracing::error!("cannot tell which messages are shielded: {error}");
                return Asked::Dismiss { text: Arc::from(UNKNOWN), rule: RULE };
            }
            let marks: Vec<_> = self.maildrop.marks().filter(|mark| memory.remembers(mark)).collect();
            memory.seen(&marks);
            self.maildrop.hide(|mark| memory.remembers(mark));
        }
        Asked::Enough
    }

    // ── commands ──

    /// The octets of a message.
    pub(super) fn size(&self, number: u64) -> Option<u64> {
        self.maildrop.get(number).map(|message| message.size)
    }

    /// What becomes of a command that is not a shielded DELE.
    pub(super) fn course(&self, command: &Command<'_>) -> Course {
        let sees_less = self.maildrop.has_absent();
        let status = Wants { status: true, ..Wants::default() };
        match command.keyword {
            Keyword::Retr | Keyword::Top | Keyword::Dele => self.one(command, Wants::default()),
            Keyword::List | Keyword::Uidl if command.has_argument() => self.one(command, status),
            Keyword::List | Keyword::Uidl if sees_less => {
                Course::Forward(Wants { status: true, body: true, shape: None }, Change::Listing)
            }
            Keyword::Stat if sees_less => Course::Forward(status, Change::Totals),
            Keyword::Last if self.maildrop.is_renumbered() => Course::Forward(status, Change::Last),
            Keyword::Rset if self.maildrop.is_renumbered() => Course::Forward(status, Change::Counts),
            Keyword::Quit => Course::Forward(status, Change::Nothing),
            _ => Course::Forward(Wants::default(), Change::Nothing),
        }
    }

    /// A command that names a message.
    fn one(&self, command: &Command<'_>, wants: Wants) -> Course {
        let Some((number, rest)) = number_at_start(command.rest) else {
            return Course::Refuse(NO_SUCH_MESSAGE);
        };
        match self.maildrop.get(number) {
            Some(Message { sight: Sight::Gone, .. }) => Course::Refuse(DELETED),
            Some(message) if message.number == number => Course::Forward(Wants::default(), Change::Nothing),
            Some(message) => {
                let servers = message.number.to_string();
                let line = [command.keyword.name().as_bytes(), b" ", servers.as_bytes(), rest.trim_ascii_end(), b"\r\n"].concat();
                let change = if wants.status { Change::Number(number) } else { Change::Nothing };
                Course::Renumber(line, wants, change)
            }
            None if self.maildrop.is_renumbered() => Course::Refuse(NO_SUCH_MESSAGE),
            None => Course::Forward(Wants::default(), Change::Nothing),
        }
    }

    /// A DELE that is kept from the server: its reply.
    ///
    /// # Errors
    ///
    /// The reply where there is no such message, or no more.
    pub(super) fn delete(&mut self, command: &Command<'_>) -> Result<Arc<[u8]>, &'static [u8]> {
        let (number, rest) = number_at_start(command.rest).ok_or(NO_SUCH_MESSAGE)?;
        match self.maildrop.get(number) {
            Some(message) if message.sight == Sight::Gone => return Err(DELETED),
            Some(_) if rest.trim_ascii().is_empty() => {}
            _ => return Err(NO_SUCH_MESSAGE),
        }
        self.maildrop.delete(number);
        Ok(Arc::from(format!("+OK message {number} deleted\r\n").as_bytes()))
    }

    /// RSET goes to the server.
    pub(super) fn reset(&mut self) {
        self.maildrop.restore();
    }

    /// QUIT was answered with `+OK`: what was deleted stays so.
    ///
    /// # Errors
    ///
    /// What the client is told where it cannot be remembered.
    pub(super) fn commit(&mut self) -> Result<(), &'static [u8]> {
        let Some((memory, _)) = &self.memory else { return Ok(()) };
        let gone = self.maildrop.gone();
        if gone.is_empty() {
            return Ok(());
        }
        blocking(|| memory.remember(&gone)).map_err(|error| {
            tracing::error!("cannot remember {} shielded messages: {error}", gone.len());
            NOT_REMEMBERED
        })
    }

    // ── replies ──

    /// What becomes of a `+OK` line.
    pub(super) fn status_line(&self, change: Change, line: &[u8]) -> Edit {
        let text = line.get(3..).unwrap_or_default();
        let said = match change {
            Change::Nothing => return Edit::Keep,
            Change::Totals => {
                let (count, octets) =
                    pair(text).map_or_else(|| self.maildrop.totals(), |said| self.maildrop.without_absent(said));
                format!("+OK {count} {octets}\r\n").into_bytes()
            }
            Change::Number(number) => {
                let rest = number_at_start(text).map_or(&b""[..], |(_, rest)| rest.trim_ascii_end());
                [b"+OK ", number.to_string().as_bytes(), rest, b"\r\n"].concat()
            }
            Change::Listing => b"+OK listing follows\r\n".to_vec(),
            Change::Last => {
                let last = number_at_start(text).map_or(0, |(servers, _)| self.maildrop.shown_up_to(servers));
                format!("+OK {last}\r\n").into_bytes()
            }
            Change::Counts => b"+OK\r\n".to_vec(),
        };
        Edit::Replace { text: said.into(), rule: RULE }
    }

    /// What becomes of a line of a listing.
    pub(super) fn listing_line(&self, line: &[u8]) -> Edit {
        let Some((servers, rest)) = number_at_start(line) else { return Edit::Keep };
        let shown = self.maildrop.of_server(servers).filter(|message| message.sight == Sight::Shown);
        match shown.and_then(|_| self.maildrop.number_for_client(servers)) {
            Some(number) if number == servers => Edit::Keep,
            Some(number) => Edit::Replace { text: [number.to_string().as_bytes(), rest].concat().into(), rule: RULE },
            None => Edit::Remove { rule: RULE },
        }
    }
}

/// Whether a command may go on in a shielded session. One that is unknown, or that names messages in a way of its own, could
/// delete, or name the wrong message.
pub(super) fn bears(keyword: Keyword) -> bool {
    !matches!(keyword, Keyword::Unknown | Keyword::Xtnd | Keyword::Xsender)
}

/// What the shield does is recorded under this name.
pub(super) const RULE: Rule = Rule::BuiltIn("shield");

const NO_SUCH_MESSAGE: &[u8] = b"-ERR no such message\r\n";
const DELETED: &[u8] = b"-ERR message is deleted\r\n";
const UNKNOWN: &[u8] = b"-ERR [SYS/TEMP] the mailbox cannot be shown now, try again later\r\n";
const NOT_REMEMBERED: &[u8] = b"-ERR [SYS/TEMP] some deleted messages not removed\r\n";

fn refusal(question: &str, progress: Progress) -> String {
    let why = match progress {
        Progress::Unusable(Unusable::TooMany) => format!("has more than {MOST_MESSAGES} messages"),
        Progress::Unusable(Unusable::Malformed) => format!("gives a {question} that cannot be understood"),
        _ => format!("has no {question}"),
    };
    format!("-ERR [SYS/PERM] rules are in force that need the mailbox's {question}, and the server {why}\r\n")
}

/// Does what waits for the disk, and lets other sessions go on meanwhile.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    let threads = Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if threads { tokio::task::block_in_place(work) } else { work() }
}

/// STAT's two numbers.
fn pair(text: &[u8]) -> Option<(u64, u64)> {
    let (count, rest) = number_at_start(text)?;
    Some((count, number_at_start(rest)?.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::memory::tests::full;

    #[test]
    fn quit_is_refused_where_nothing_can_be_remembered() {
        let memory = Arc::new(full());
        let account = memory.account("server", "bob");
        let (mut shield, question) = Shield::new(Some((memory, account)));
        assert_eq!(question, LIST);
        for (line, next) in [(&b"1 10\r\n"[..], Asked::Next(UIDL)), (b"1 a\r\n", Asked::Enough)] {
            shield.told(Told::Status(Some(Status::Ok)));
            shield.told(Told::Line(line));
            assert_eq!(shield.next(), next);
        }
        assert_eq!(shield.commit(), Ok(()), "there is nothing to remember");
        assert!(shield.delete(&Command::parse(b"DELE 1")).is_ok());
        assert_eq!(shield.commit(), Err(NOT_REMEMBERED));
    }
}
