//! Records as lines: what `serde` makes of a [`schema::Record`](super::schema::Record), octet for octet.
//!
//! A busy session makes two records of every exchange, a command and its reply. These two are written straight from what
//! is known of the line that passes, without the record between. All others go through `serde`. A test holds both ways together.

use super::{
    clock::{Moment, Stamp},
    redact::Written,
    schema::{self, Body, StatusWord},
};
use crate::tap::Ordinal;

/// What every line of a session begins with: `{"v":1,"session":"…","time":"…","at_us":…`. Made once a turn.
pub(super) struct Head {
    text: String,
    /// Octets before the time, which change with nothing.
    session: usize,
    stamp: Stamp,
}

impl Head {
    pub(super) fn new(session: &str) -> Self {
        let text = format!(r#"{{"v":{},"session":"{session}","time":""#, schema::VERSION);
        Self { session: text.len(), text, stamp: Stamp::default() }
    }

    /// What is recorded from now on happens at this moment, so long after the session was opened.
    pub(super) fn turn(&mut self, now: &Moment, at_us: u64) {
        self.text.truncate(self.session);
        self.text.push_str(self.stamp.of(now));
        self.text.push_str(r#"","at_us":"#);
        self.text.push_str(itoa::Buffer::new().format(at_us));
    }
}

/// [`schema::Command`], borrowed.
#[derive(Clone, Copy)]
pub(super) struct Command<'a> {
    pub(super) n: Ordinal,
    pub(super) keyword: &'static str,
    pub(super) line: &'a Written<'a>,
    pub(super) mechanism: Option<&'static str>,
    pub(super) user: Option<&'a str>,
    pub(super) forwarded: bool,
    pub(super) own: bool,
}

/// [`schema::Reply`], borrowed.
#[derive(Clone, Copy)]
pub(super) struct Reply<'a> {
    pub(super) n: Ordinal,
    pub(super) keyword: &'static str,
    pub(super) status: StatusWord,
    pub(super) line: &'a Written<'a>,
    pub(super) latency_us: u64,
    pub(super) multi_line: bool,
    pub(super) local: bool,
}

/// Appends a line with any record.
pub(super) fn record(lines: &mut Vec<u8>, head: &Head, body: &Body) -> serde_json::Result<()> {
    let begun = lines.len();
    lines.extend_from_slice(head.text.as_bytes());
    let place = lines.len();
    let written = serde_json::to_writer(&mut *lines, body);
    match written {
        // The object goes on where the head's breaks off.
        Ok(()) => {
            lines[place] = b',';
            lines.push(b'\n');
        }
        Err(_) => lines.truncate(begun),
    }
    written
}

/// Appends a line with a command.
pub(super) fn command(lines: &mut Vec<u8>, head: &Head, command: Command<'_>) {
    let mut object = Object::begin(lines, head);
    object.number(r#","event":"command","n":"#, command.n);
    object.word(r#","keyword":"#, command.keyword);
    object.line(command.line);
    if let Some(mechanism) = command.mechanism {
        object.word(r#","mechanism":"#, mechanism);
    }
    if let Some(user) = command.user {
        object.text(r#","user":"#, user);
    }
    object.put(match (command.forwarded, command.own) {
        (true, false) => ",\"forwarded\":true}\n",
        (false, false) => ",\"forwarded\":false}\n",
        (true, true) => ",\"forwarded\":true,\"own\":true}\n",
        (false, true) => ",\"forwarded\":false,\"own\":true}\n",
    });
}

/// Appends a line with a reply.
pub(super) fn reply(lines: &mut Vec<u8>, head: &Head, reply: Reply<'_>) {
    let mut object = Object::begin(lines, head);
    object.number(r#","event":"reply","n":"#, reply.n);
    object.word(r#","keyword":"#, reply.keyword);
    object.word(r#","status":"#, reply.status.word());
    object.line(reply.line);
    object.number(r#","latency_us":"#, reply.latency_us);
    object.put(if reply.multi_line { r#","multi_line":true"# } else { "" });
    object.put(if reply.local { ",\"local\":true}\n" } else { "}\n" });
}

/// One object on its way. What goes before a value is written with it, in one piece.
struct Object<'a>(&'a mut Vec<u8>);

impl<'a> Object<'a> {
    fn begin(lines: &'a mut Vec<u8>, head: &Head) -> Self {
        let mut object = Self(lines);
        object.put(&head.text);
        object
    }

    /// [`schema::Text`].
    fn line(&mut self, line: &Written<'_>) {
        if let Some(text) = &line.text {
            self.text(r#","text":"#, text);
        }
        if let Some(redacted) = line.redacted {
            self.word(r#","redacted":"#, redacted);
        }
        self.number(r#","octets":"#, line.octets);
        self.number(r#","offset":"#, line.offset);
        if let Some(line_end) = line.line_end {
            self.word(r#","line_end":"#, line_end);
        }
        self.put(if line.cut { r#","cut":true"# } else { "" });
    }

    /// A text of any kind.
    fn text(&mut self, before: &str, value: &str) {
        // What is escaped in JSON and stands in our texts: quotes, and the backslashes of escapes.
        if value.bytes().any(|octet| octet < b' ' || octet == b'"' || octet == b'\\') {
            self.put(before);
            // A string always has a form, and a vector always takes it.
            let _ = serde_json::to_writer(&mut *self.0, value);
        } else {
            self.word(before, value);
        }
    }

    /// A text of ours, in which nothing has to be escaped.
    fn word(&mut self, before: &str, value: &str) {
        self.put(before);
        self.put("\"");
        self.put(value);
        self.put("\"");
    }

    fn number(&mut self, before: &str, value: u64) {
        self.put(before);
        self.put(itoa::Buffer::new().format(value));
    }

    #[inline]
    fn put(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::{option, prelude::*};

    use super::*;
    use crate::{
        escape::escaped,
        record::{
            clock::{Clock, tests::ManualClock},
            schema::Record,
        },
    };

    type Drawn = (Option<Vec<u8>>, Option<&'static str>, u64, u64, Option<&'static str>, bool);

    fn a_line() -> impl Strategy<Value = Drawn> {
        (
            option::of(prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                any::<String>().prop_map(String::into_bytes),
                "[ -~]{0,40}".prop_map(String::into_bytes),
            ]),
            option::of(Just("secret")),
            any::<u64>(),
            any::<u64>(),
            option::of(prop_oneof![Just("lf"), Just("none")]),
            any::<bool>(),
        )
    }

    fn written((text, redacted, octets, offset, line_end, cut): &Drawn) -> Written<'_> {
        let text = text.as_deref().map(escaped);
        Written { text, redacted: *redacted, octets: *octets, offset: *offset, line_end: *line_end, cut: *cut }
    }

    /// What `serde` makes of it.
    fn expected(at_us: u64, body: Body) -> Vec<u8> {
        let (session, time) = ("5e4wenz43n1d".to_owned(), ManualClock::default().now().stamp());
        let record = Record { v: schema::VERSION, session, time, at_us, body };
        [serde_json::to_vec(&record).unwrap(), b"\n".to_vec()].concat()
    }

    proptest! {
        #[test]
        fn lines_are_those_of_serde(
            drawn in a_line(),
            (n, at_us, latency_us) in any::<(u64, u64, u64)>(),
            (one, other) in any::<(bool, bool)>(),
            user in option::of(any::<String>()),
            mechanism in option::of(Just("PLAIN")),
            status in prop_oneof![Just(StatusWord::Ok), Just(StatusWord::Err), Just(StatusWord::Other)],
        ) {
            let line = written(&drawn);
            let mut head = Head::new("5e4wenz43n1d");
            for at_us in [0, at_us] {
                head.turn(&ManualClock::default().now(), at_us);
            }
            let mut lines = Vec::new();
            command(&mut lines, &head, Command { n, keyword: "NOOP", line: &line, mechanism, user: user.as_deref(), forwarded: one, own: other });
            reply(&mut lines, &head, Reply { n, keyword: "NOOP", status, line: &line, latency_us, multi_line: one, local: other });
            let a_command = Body::Command(schema::Command {
                n,
                keyword: "NOOP".into(),
                line: line.to_text(),
                mechanism: mechanism.map(str::to_owned),
                user: user.clone(),
                forwarded: one,
                own: other,
            });
            let a_reply = Body::Reply(schema::Reply {
                n, keyword: "NOOP".into(), status, line: line.to_text(), latency_us, multi_line: one, local: other,
            });
            let mut through_serde = Vec::new();
            record(&mut through_serde, &head, &a_command).unwrap();
            record(&mut through_serde, &head, &a_reply).unwrap();
            let both = [expected(at_us, a_command), expected(at_us, a_reply)].concat();
            prop_assert_eq!(String::from_utf8(lines), String::from_utf8(both.clone()));
            prop_assert_eq!(String::from_utf8(through_serde), String::from_utf8(both));
        }
    }
}
