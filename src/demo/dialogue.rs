//! What the sample server says: one line in, one reply out, no sockets.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::mailbox::{Mailbox, Message, stuff};
use crate::pop3::{Command, Keyword};

/// The only user of a sample mailbox.
pub const USER: &str = "demo";
/// That user's password. It is no secret.
pub const PASSWORD: &str = "demo";

/// The server's first line; it offers no APOP.
pub(super) const GREETING: &[u8] = b"+OK sample mailbox ready\r\n";

const CAPABILITIES: &[u8] =
    b"TOP\r\nUSER\r\nUIDL\r\nRESP-CODES\r\nPIPELINING\r\nAUTH-RESP-CODE\r\nSASL PLAIN\r\nIMPLEMENTATION poptap-demo\r\n";
const MECHANISMS: &[u8] = b"PLAIN\r\n";
const WRONG_LOGIN: &str = "[AUTH] the user is `demo`, and so is the password";

/// One session of the server's, from its greeting to QUIT.
pub(super) struct Dialogue {
    mailbox: Arc<Mailbox>,
    stage: Stage,
}

/// Where the session stands; a stage is named for what it awaits.
enum Stage {
    /// USER or AUTH (RFC 1939 §4).
    Login,
    /// PASS; whether USER named the one that exists.
    Password { known: bool },
    /// The client's answer to the empty challenge of AUTH PLAIN (RFC 5034 §4).
    SaslResponse,
    /// Commands on messages (RFC 1939 §5).
    Transaction(Maildrop),
    /// Nothing: QUIT was answered.
    Over,
}

/// A whole reply, or the text of an `-ERR`.
type Reply = Result<Vec<u8>, &'static str>;

impl Dialogue {
    pub(super) fn new(mailbox: Arc<Mailbox>) -> Self {
        Self { mailbox, stage: Stage::Login }
    }

    /// Whether the session is over, so that the connection is to be closed.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// The whole reply to a line that comes without its line end.
    pub(super) fn answer(&mut self, line: &[u8]) -> Vec<u8> {
        self.try_answer(line).unwrap_or_else(|text| format!("-ERR {text}\r\n").into_bytes())
    }

    fn try_answer(&mut self, line: &[u8]) -> Reply {
        if matches!(self.stage, Stage::SaslResponse) {
            return self.sasl_response(line);
        }
        if line.contains(&0) || line.contains(&b'\r') {
            return Err("a command line holds no NUL and no CR");
        }
        let command = Command::parse(line);
        let arguments: Vec<&[u8]> = command.arguments().collect();
        match (command.keyword, &arguments[..], &mut self.stage) {
            (Keyword::Capa, [], _) => Ok(multi_line("what this server can do", CAPABILITIES)),
            (Keyword::Quit, [], _) => {
                self.stage = Stage::Over;
                ok("goodbye; the sample mailbox keeps all its messages")
            }
            (keyword, arguments, Stage::Transaction(maildrop)) => maildrop.answer(keyword, arguments),
            (keyword, arguments, _) => self.log_in(keyword, command.rest, arguments),
        }
    }

    /// A command before the login. PASS takes the whole `rest` of its line, blanks included (RFC 1939 §7).
    fn log_in(&mut self, keyword: Keyword, rest: &[u8], arguments: &[&[u8]]) -> Reply {
        match (keyword, arguments) {
            (Keyword::User, [name]) => {
                self.stage = Stage::Password { known: *name == USER.as_bytes() };
                ok("and the password?")
            }
            (Keyword::Pass, _) => self.password(rest),
            (Keyword::Auth, []) => Ok(multi_line("mechanisms", MECHANISMS)),
            (Keyword::Auth, [mechanism, response @ ..]) if mechanism.eq_ignore_ascii_case(b"PLAIN") => match response {
                [] => {
                    self.stage = Stage::SaslResponse;
                    Ok(b"+ \r\n".to_vec())
                }
                [response] => self.enter(is_plain_login(response)),
                _ => Err("AUTH PLAIN takes one initial response"),
            },
            (Keyword::Auth, _) => Err("PLAIN is the only mechanism here"),
            (keyword, _) => Err(refusal(keyword)),
        }
    }

    fn password(&mut self, password: &[u8]) -> Reply {
        match self.stage {
            Stage::Password { known } => self.enter(known && password == PASSWORD.as_bytes()),
            _ => Err("USER comes first"),
        }
    }

    fn sasl_response(&mut self, line: &[u8]) -> Reply {
        self.stage = Stage::Login;
        if line == b"*" { Err("cancelled as you wished") } else { self.enter(is_plain_login(line)) }
    }

    /// A login is decided.
    fn enter(&mut self, welcome: bool) -> Reply {
        if !welcome {
            self.stage = Stage::Login;
            return Err(WRONG_LOGIN);
        }
        let maildrop = Maildrop::new(Arc::clone(&self.mailbox));
        let (count, size) = maildrop.totals();
        self.stage = Stage::Transaction(maildrop);
        ok(&format!("{count} messages, {size} octets"))
    }
}

/// The mailbox as one session sees it.
struct Maildrop {
    mailbox: Arc<Mailbox>,
    /// One for each message: whether this session deleted it.
    deleted: Vec<bool>,
}

impl Maildrop {
    fn new(mailbox: Arc<Mailbox>) -> Self {
        let deleted = vec![false; mailbox.messages().len()];
        Self { mailbox, deleted }
    }

    fn answer(&mut self, keyword: Keyword, arguments: &[&[u8]]) -> Reply {
        match (keyword, arguments) {
            (Keyword::Stat, []) => self.stat(),
            (Keyword::List, []) => Ok(self.list(|message| message.size().to_string())),
            (Keyword::List, [number]) => self.list_one(number, |message| message.size().to_string()),
            (Keyword::Uidl, []) => Ok(self.list(|message| message.uid().to_owned())),
            (Keyword::Uidl, [number]) => self.list_one(number, |message| message.uid().to_owned()),
            (Keyword::Retr, [number]) => self.retrieve(number),
            (Keyword::Top, [number, lines]) => self.top(number, lines),
            (Keyword::Dele, [number]) => self.delete(number),
            (Keyword::Rset, []) => self.reset(),
            (Keyword::Noop, []) => ok("still here"),
            (keyword, _) => Err(refusal(keyword)),
        }
    }

    fn stat(&self) -> Reply {
        let (count, size) = self.totals();
        ok(&format!("{count} {size}"))
    }

    fn list(&self, column: impl Fn(&Message) -> String) -> Vec<u8> {
        let rows: Vec<String> = self.present().map(|(number, message)| format!("{number} {}\r\n", column(message))).collect();
        multi_line(&format!("{} messages", self.totals().0), rows.concat().as_bytes())
    }

    fn list_one(&self, number: &[u8], column: impl Fn(&Message) -> String) -> Reply {
        let (index, message) = self.find(number)?;
        ok(&format!("{} {}", index + 1, column(message)))
    }

    fn retrieve(&self, number: &[u8]) -> Reply {
        let (_, message) = self.find(number)?;
        Ok(multi_line(&format!("{} octets", message.size()), message.octets()))
    }

    fn top(&self, number: &[u8], lines: &[u8]) -> Reply {
        let (_, message) = self.find(number)?;
        let lines = decimal(lines).ok_or("how many lines? Give a number")?;
        Ok(multi_line("the top of it", message.top(lines)))
    }

    fn delete(&mut self, number: &[u8]) -> Reply {
        let (index, _) = self.find(number)?;
        self.deleted[index] = true;
        ok("deleted, for this session")
    }

    fn reset(&mut self) -> Reply {
        self.deleted.fill(false);
        self.stat()
    }

    /// How many messages this session did not delete, and their octets.
    fn totals(&self) -> (usize, usize) {
        self.present().fold((0, 0), |(count, size), (_, message)| (count + 1, size + message.size()))
    }

    /// The messages that this session did not delete, with their numbers.
    fn present(&self) -> impl Iterator<Item = (usize, &Message)> {
        (1..).zip(self.mailbox.messages()).zip(&self.deleted).filter(|&(_, &deleted)| !deleted).map(|(numbered, _)| numbered)
    }

    /// A message by its number, and its place in the mailbox.
    fn find(&self, number: &[u8]) -> Result<(usize, &Message), &'static str> {
        let index = decimal(number).and_then(|number| number.checked_sub(1)).ok_or("messages are numbered from 1")?;
        let message = self.mailbox.messages().get(index).ok_or("there is no such message")?;
        if self.deleted[index] { Err("that message is deleted") } else { Ok((index, message)) }
    }
}

/// Whether this is base64 of `[authzid] NUL authcid NUL passwd` (RFC 4616 §2) with the right user and password.
fn is_plain_login(response: &[u8]) -> bool {
    let decoded = STANDARD.decode(response).unwrap_or_default();
    let parts: Vec<&[u8]> = decoded.split(|&octet| octet == 0).collect();
    matches!(parts[..], [acting, user, password]
        if (acting.is_empty() || acting == user) && user == USER.as_bytes() && password == PASSWORD.as_bytes())
}

/// A number in plain digits, without a sign.
fn decimal(word: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(word).ok()?;
    digits.bytes().all(|octet| octet.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Why a command was not carried out: it is none of this server's, or it came at the wrong time or in the wrong form.
fn refusal(keyword: Keyword) -> &'static str {
    use Keyword::{Auth, Capa, Dele, List, Noop, Pass, Quit, Retr, Rset, Stat, Top, Uidl, User};
    match keyword {
        Auth | Capa | Dele | List | Noop | Pass | Quit | Retr | Rset | Stat | Top | Uidl | User => {
            "not at this stage, or not with these arguments"
        }
        _ => "unknown command",
    }
}

#[expect(clippy::unnecessary_wraps, reason = "handlers return it as it is")]
fn ok(text: &str) -> Reply {
    Ok(format!("+OK {text}\r\n").into_bytes())
}

/// A multi-line reply; the lines of `body` are not stuffed yet.
fn multi_line(text: &str, body: &[u8]) -> Vec<u8> {
    [format!("+OK {text}\r\n").as_bytes(), &stuff(body)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> Dialogue {
        let messages = vec![Message::new("uid-a", b"S: a\n\none\n.\n"), Message::new("uid-b", b"S: b\n\nx\ny\n")];
        Dialogue::new(Arc::new(Mailbox::new(messages)))
    }

    fn logged_in() -> Dialogue {
        let mut dialogue = fresh();
        dialogue.answer(b"USER demo");
        assert_eq!(dialogue.answer(b"PASS demo"), b"+OK 2 messages, 30 octets\r\n");
        dialogue
    }

    /// Plays a conversation. An expected reply that ends in `…` names only the beginning of its line.
    fn play(mut dialogue: Dialogue, conversation: &[(&str, &str)]) -> Dialogue {
        for (line, expected) in conversation {
            let reply = String::from_utf8(dialogue.answer(line.as_bytes())).unwrap();
            match expected.strip_suffix('…') {
                Some(start) => assert!(reply.starts_with(start) && reply.lines().count() == 1, "{line}: {reply}"),
                None => assert_eq!(reply, *expected, "{line}"),
            }
            assert!(reply.ends_with("\r\n"), "{line}: {reply}");
        }
        dialogue
    }

    #[test]
    fn each_command_on_messages() {
        play(
            logged_in(),
            &[
                ("STAT", "+OK 2 30\r\n"),
                ("LIST", "+OK 2 messages\r\n1 16\r\n2 14\r\n.\r\n"),
                ("LIST ", "+OK 2 messages\r\n1 16\r\n2 14\r\n.\r\n"),
                ("list 02", "+OK 2 14\r\n"),
                ("UIDL", "+OK 2 messages\r\n1 uid-a\r\n2 uid-b\r\n.\r\n"),
                ("UIDL\t2", "+OK 2 uid-b\r\n"),
                ("RETR 1", "+OK 16 octets\r\nS: a\r\n\r\none\r\n..\r\n.\r\n"),
                ("TOP 2 1", "+OK the top of it\r\nS: b\r\n\r\nx\r\n.\r\n"),
                ("TOP 2 0", "+OK the top of it\r\nS: b\r\n\r\n.\r\n"),
                ("TOP 2 99999999", "+OK the top of it\r\nS: b\r\n\r\nx\r\ny\r\n.\r\n"),
                ("NOOP", "+OK…"),
                ("CAPA", &format!("+OK what this server can do\r\n{}.\r\n", str::from_utf8(CAPABILITIES).unwrap())),
            ],
        );
    }

    #[test]
    fn deletions_count_for_the_session_only() {
        let dialogue = play(
            logged_in(),
            &[
                ("DELE 1", "+OK deleted…"),
                ("DELE 1", "-ERR that message is deleted\r\n"),
                ("RETR 1", "-ERR that message is deleted\r\n"),
                ("STAT", "+OK 1 14\r\n"),
                ("LIST", "+OK 1 messages\r\n2 14\r\n.\r\n"),
                ("RSET", "+OK 2 30\r\n"),
                ("DELE 2", "+OK deleted…"),
                ("UIDL", "+OK 1 messages\r\n1 uid-a\r\n.\r\n"),
                ("QUIT", "+OK goodbye…"),
            ],
        );
        assert!(dialogue.is_over());
        play(Dialogue::new(dialogue.mailbox), &[("USER demo", "+OK…"), ("PASS demo", "+OK 2 messages, 30 octets\r\n")]);
    }

    #[test]
    fn logins() {
        let plain = STANDARD.encode("\0demo\0demo");
        let acting = STANDARD.encode("demo\0demo\0demo");
        let in_one = format!("AUTH PLAIN {plain}");
        let entered = "+OK 2 messages, 30 octets\r\n";
        play(fresh(), &[(&in_one, entered), ("STAT", "+OK 2 30\r\n")]);
        play(fresh(), &[("auth plain", "+ \r\n"), (&plain, entered), ("STAT", "+OK 2 30\r\n")]);
        play(fresh(), &[("AUTH PLAIN", "+ \r\n"), (&acting, entered)]);
        play(fresh(), &[("AUTH", "+OK mechanisms\r\nPLAIN\r\n.\r\n"), ("AUTH ", "+OK mechanisms\r\nPLAIN\r\n.\r\n")]);
    }

    #[test]
    fn failed_logins() {
        let wrong = format!("AUTH PLAIN {}", STANDARD.encode("\0demo\0wrong"));
        let other = format!("AUTH PLAIN {}", STANDARD.encode("other\0demo\0demo"));
        play(
            fresh(),
            &[
                ("PASS demo", "-ERR USER comes first\r\n"),
                ("USER demo", "+OK…"),
                ("PASS demo ", "-ERR [AUTH]…"),
                ("PASS demo", "-ERR USER comes first\r\n"),
                ("USER somebody", "+OK…"),
                ("PASS demo", "-ERR [AUTH]…"),
                (&wrong, "-ERR [AUTH]…"),
                (&other, "-ERR [AUTH]…"),
                ("AUTH PLAIN =", "-ERR [AUTH]…"),
                ("AUTH PLAIN !!", "-ERR [AUTH]…"),
                ("AUTH PLAIN", "+ \r\n"),
                ("*", "-ERR cancelled…"),
                ("AUTH PLAIN", "+ \r\n"),
                ("QUIT", "-ERR [AUTH]…"),
                ("AUTH CRAM-MD5", "-ERR PLAIN is the only…"),
                ("STAT", "-ERR not at this stage…"),
            ],
        );
    }

    #[test]
    fn refusals_leave_the_session_standing() {
        let dialogue = play(
            logged_in(),
            &[
                ("", "-ERR unknown command\r\n"),
                ("XYZZY", "-ERR unknown command\r\n"),
                ("QUIT now", "-ERR not at this stage…"),
                ("NOOP\0x", "-ERR a command line holds…"),
                ("NOOP\rSTAT", "-ERR a command line holds…"),
                ("RETR 0", "-ERR messages are numbered…"),
                ("RETR -1", "-ERR messages are numbered…"),
                ("RETR +1", "-ERR messages are numbered…"),
                ("RETR 99999999999999999999999", "-ERR messages are numbered…"),
                ("RETR 3", "-ERR there is no such message\r\n"),
                ("RETR", "-ERR not at this stage…"),
                ("TOP 1", "-ERR not at this stage…"),
                ("TOP 1 -1", "-ERR how many lines…"),
                ("USER demo", "-ERR not at this stage…"),
                ("AUTH", "-ERR not at this stage…"),
                ("STLS", "-ERR unknown command\r\n"),
                ("LAST", "-ERR unknown command\r\n"),
                ("STAT", "+OK 2 30\r\n"),
            ],
        );
        assert!(!dialogue.is_over());
    }
}
