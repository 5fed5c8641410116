//! Records as lines: what `serde` makes of a [`schema::Record`](super::schema::Record), octet for octet.
//!
//! A busy session makes two records of every exchange, a command and its reply. These two are written straight from what
//! is known of the line that passes, without the record between: that takes a sixth of the time. All others go through
//! `serde`. A test holds both ways together.

use serde::Serialize;

use super::{
    redact::Written,
    schema::{self, Body, StatusWord},
};
use crate::tap::Ordinal;

/// What every line begins with.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) session: &'a str,
    pub(super) time: &'a str,
    pub(super) at_us: u64,
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
pub(super) fn record(lines: &mut Vec<u8>, head: Head<'_>, body: &Body) -> serde_json::Result<()> {
    #[derive(Serialize)]
    struct Borrowed<'a> {
        v: u32,
        session: &'a str,
        time: &'a str,
        at_us: u64,
        #[serde(flatten)]
        body: &'a Body,
    }
    let Head { session, time, at_us } = head;
    let begun = lines.len();
    let written = serde_json::to_writer(&mut *lines, &Borrowed { v: schema::VERSION, session, time, at_us, body });
    match written {
        Ok(()) => lines.push(b'\n'),
        Err(_) => lines.truncate(begun),
    }
    written
}

/// Appends a line with a command.
pub(super) fn command(lines: &mut Vec<u8>, head: Head<'_>, command: Command<'_>) {
    let mut object = Object::begin(lines, head, "command");
    object.number("n", command.n);
    object.text("keyword", command.keyword);
    object.line(command.line);
    object.text_if("mechanism", command.mechanism);
    object.text_if("user", command.user);
    object.plain("forwarded", if command.forwarded { "true" } else { "false" });
    object.end();
}

/// Appends a line with a reply.
pub(super) fn reply(lines: &mut Vec<u8>, head: Head<'_>, reply: Reply<'_>) {
    let mut object = Object::begin(lines, head, "reply");
    object.number("n", reply.n);
    object.text("keyword", reply.keyword);
    object.text("status", reply.status.word());
    object.line(reply.line);
    object.number("latency_us", reply.latency_us);
    object.set("multi_line", reply.multi_line);
    object.set("local", reply.local);
    object.end();
}

/// One object on its way.
struct Object<'a>(&'a mut Vec<u8>);

impl<'a> Object<'a> {
    fn begin(lines: &'a mut Vec<u8>, head: Head<'_>, event: &str) -> Self {
        lines.extend_from_slice(b"{\"v\":");
        let mut object = Self(lines);
        object.digits(schema::VERSION.into());
        object.text("session", head.session);
        object.text("time", head.time);
        object.number("at_us", head.at_us);
        object.text("event", event);
        object
    }

    fn end(self) {
        self.0.extend_from_slice(b"}\n");
    }

    /// [`schema::Text`].
    fn line(&mut self, line: &Written<'_>) {
        self.text_if("text", line.text.as_deref());
        self.text_if("redacted", line.redacted);
        self.number("octets", line.octets);
        self.number("offset", line.offset);
        self.text_if("line_end", line.line_end);
        self.set("cut", line.cut);
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        // What is escaped in JSON and stands in our texts: quotes, and the backslashes of escapes.
        if value.bytes().any(|octet| octet < b' ' || octet == b'"' || octet == b'\\') {
            // A string always has a form, and a vector always takes it.
            let _ = serde_json::to_writer(&mut *self.0, value);
        } else {
            self.0.push(b'"');
            self.0.extend_from_slice(value.as_bytes());
            self.0.push(b'"');
        }
    }

    fn text_if(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        self.digits(value);
    }

    fn digits(&mut self, value: u64) {
        self.0.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// A switch that is left out when it is off.
    fn set(&mut self, name: &str, value: bool) {
        if value {
            self.plain(name, "true");
        }
    }

    fn plain(&mut self, name: &str, value: &str) {
        self.name(name);
        self.0.extend_from_slice(value.as_bytes());
    }

    fn name(&mut self, name: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }
}

#[cfg(test)]
mod tests {
    use proptest::{option, prelude::*};

    use super::*;
    use crate::{escape::escaped, record::schema::Record};

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
    fn expected(head: Head<'_>, body: Body) -> Vec<u8> {
        let record =
            Record { v: schema::VERSION, session: head.session.into(), time: head.time.into(), at_us: head.at_us, body };
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
            let (head, line) = (Head { session: "5e4wenz43n1d", time: "2026-11-23T06:30:01.000042Z", at_us }, written(&drawn));
            let mut lines = Vec::new();
            command(&mut lines, head, Command { n, keyword: "NOOP", line: &line, mechanism, user: user.as_deref(), forwarded: one });
            reply(&mut lines, head, Reply { n, keyword: "NOOP", status, line: &line, latency_us, multi_line: one, local: other });
            let a_command = Body::Command(schema::Command {
                n,
                keyword: "NOOP".into(),
                line: line.to_text(),
                mechanism: mechanism.map(str::to_owned),
                user: user.clone(),
                forwarded: one,
            });
            let a_reply = Body::Reply(schema::Reply {
                n, keyword: "NOOP".into(), status, line: line.to_text(), latency_us, multi_line: one, local: other,
            });
            let mut through_serde = Vec::new();
            record(&mut through_serde, head, &a_command).unwrap();
            record(&mut through_serde, head, &a_reply).unwrap();
            let both = [expected(head, a_command), expected(head, a_reply)].concat();
            prop_assert_eq!(String::from_utf8(lines), String::from_utf8(both.clone()));
            prop_assert_eq!(through_serde, both);
        }
    }
}
