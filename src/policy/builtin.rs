//! The built-in handling: STLS and its capability, XCLIENT, the APOP timestamp, TLS on a plain port. It refuses nothing else.

use std::sync::Arc;

use crate::{
    pop3::{Capability, Command, Keyword, Peer, apop_timestamp},
    tap::{Context, Edit, Filter, Hold, Verdict, Violation, ViolationKind},
};

/// What the built-in handling does in one session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Answer STLS with `-ERR` and leave it out of CAPA; otherwise it is forwarded.
    pub refuse_stls: bool,
    /// Forward XCLIENT and XOIP whatever the greeting says.
    pub pass_xclient: bool,
    /// Remove the APOP timestamp from the greeting.
    pub strip_apop: bool,
}

/// The filter that every session has.
#[derive(Debug)]
pub struct Builtin {
    settings: Settings,
    /// Whether the server believes XCLIENT, as its greeting says; until then, that it may.
    xclient_believed: bool,
}

impl Builtin {
    /// The handling of one session.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, xclient_believed: true }
    }

    fn refuses(&self, keyword: Keyword) -> Option<(&'static [u8], &'static str)> {
        match keyword {
            Keyword::Stls if self.settings.refuse_stls => Some((STLS_REFUSED, "stls-refuse")),
            Keyword::Xclient | Keyword::Xoip if self.xclient_believed && !self.settings.pass_xclient => {
                Some((XCLIENT_REFUSED, "xclient-refuse"))
            }
            _ => None,
        }
    }

    fn wants(&self, keyword: Keyword) -> bool {
        self.refuses(keyword).is_some() || keyword == Keyword::Capa && self.settings.refuse_stls
    }
}

const STLS_REFUSED: &[u8] = b"-ERR STLS is not available here\r\n";
const XCLIENT_REFUSED: &[u8] = b"-ERR not available here\r\n";
/// The keywords that [`Builtin::refuses`] or edits may want.
const KEYWORDS: [(Keyword, &[u8]); 4] =
    [(Keyword::Stls, b"STLS"), (Keyword::Capa, b"CAPA"), (Keyword::Xclient, b"XCLIENT"), (Keyword::Xoip, b"XOIP")];
/// The start of a TLS handshake record (RFC 8446 §5.1).
const CLIENT_HELLO: [u8; 2] = [0x16, 0x03];

impl Filter for Builtin {
    fn hold(&self, beginning: &[u8], first: bool) -> Hold {
        if first && beginning.first() == Some(&CLIENT_HELLO[0]) {
            return match beginning.get(1) {
                None => Hold::More,
                Some(&second) if second == CLIENT_HELLO[1] => Hold::Decide,
                Some(_) => Hold::Stream,
            };
        }
        let text = beginning.strip_suffix(b"\n").unwrap_or(beginning);
        let word = Command::parse(text).word;
        let complete = text.len() < beginning.len() || text.trim_ascii_start().len() > word.len();
        let could_be = |name: &[u8]| word.len() <= name.len() && name[..word.len()].eq_ignore_ascii_case(word);
        match KEYWORDS.iter().find(|(keyword, name)| self.wants(*keyword) && could_be(name)) {
            Some((_, name)) if word.len() == name.len() || !complete => Hold::More,
            _ => Hold::Stream,
        }
    }

    fn command(&mut self, command: &Command<'_>, context: Context) -> Verdict {
        if context.first && command.word.starts_with(&CLIENT_HELLO) {
            return Verdict::Close(Violation { fault: Peer::Client, kind: ViolationKind::TlsOnPlainPort });
        }
        match self.refuses(command.keyword) {
            Some((text, rule)) => Verdict::Answer { text: Arc::from(text), rule },
            None if self.wants(command.keyword) => Verdict::ForwardAndEdit,
            None => Verdict::Forward,
        }
    }

    fn greeting(&mut self, line: &[u8]) -> bool {
        self.xclient_believed = line.to_ascii_uppercase().windows(9).any(|window| window == b"[XCLIENT]");
        self.settings.strip_apop && apop_timestamp(line).is_some()
    }

    fn response_line(&mut self, keyword: Option<Keyword>, line: &[u8]) -> Edit {
        match keyword {
            None => without_timestamps(line).map_or(Edit::Keep, |text| Edit::Replace { text, rule: "apop-strip" }),
            Some(Keyword::Capa) if self.settings.refuse_stls && Capability::parse(line).is("STLS") => {
                Edit::Remove { rule: "stls-capability" }
            }
            Some(_) => Edit::Keep,
        }
    }
}

/// The greeting without anything that a client could take for a timestamp, and without the blank before it.
fn without_timestamps(line: &[u8]) -> Option<Arc<[u8]>> {
    let mut text = line.to_vec();
    while let Some(mut range) = apop_timestamp(&text) {
        if range.start > 0 && text[range.start - 1] == b' ' {
            range.start -= 1;
        }
        text.drain(range);
    }
    (text != line).then(|| Arc::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pop3::Stage;

    fn refusing() -> Builtin {
        Builtin::new(Settings { refuse_stls: true, strip_apop: true, ..Settings::default() })
    }

    #[test]
    fn holds_only_what_may_become_of_interest() {
        let filter = refusing();
        for (beginning, expected) in [
            (&b"S"[..], Hold::More),
            (b" \tst", Hold::More),
            (b"STLS", Hold::More),
            (b"STLS ", Hold::More),
            (b"STLS\n", Hold::More),
            (b"\r\n", Hold::Stream),
            (b"STLSX", Hold::Stream),
            (b"STA", Hold::Stream),
            (b"ST A", Hold::Stream),
            (b"CAPA", Hold::More),
            (b"XCLI", Hold::More),
            (b"xoip\t", Hold::More),
            (b"R", Hold::Stream),
            (b"\x16", Hold::Stream),
        ] {
            assert_eq!(filter.hold(beginning, false), expected, "{}", beginning.escape_ascii());
        }
        assert_eq!(filter.hold(b"\x16", true), Hold::More);
        assert_eq!(filter.hold(b"\x16\x03", true), Hold::Decide);
        assert_eq!(filter.hold(b"\x16A", true), Hold::Stream);
        assert_eq!(Builtin::new(Settings::default()).hold(b"STLS", false), Hold::Stream);
    }

    #[test]
    fn xclient_is_refused_until_the_greeting_says_that_nobody_would_believe_it() {
        let context = Context { stage: Stage::Authorization, first: true };
        let xclient = Command::parse(b"XCLIENT ADDR=192.0.2.1");
        for (greeting, refused) in [(&b"+OK [XCLIENT] Dovecot ready."[..], true), (b"+OK Dovecot ready.", false)] {
            let mut filter = Builtin::new(Settings::default());
            assert!(matches!(filter.command(&xclient, context), Verdict::Answer { .. }));
            filter.greeting(greeting);
            assert_eq!(matches!(filter.command(&xclient, context), Verdict::Answer { .. }), refused);
        }
    }

    #[test]
    fn every_timestamp_goes() {
        for (greeting, expected) in [
            (&b"+OK ready <1.2@host>\r\n"[..], Some(&b"+OK ready\r\n"[..])),
            (b"+OK <1@a> then <2@b> ready\r\n", Some(b"+OK then ready\r\n")),
            (b"+OK <x<1@a>@b>\r\n", Some(b"+OK\r\n")),
            (b"+OK ready\r\n", None),
        ] {
            assert_eq!(without_timestamps(greeting).as_deref(), expected, "{}", greeting.escape_ascii());
        }
    }
}
