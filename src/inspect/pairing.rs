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
            Body::Gap(gap) if gap.events > 0 => {
                // What was outstanding may have been answered in it.
                *self = Self::default();
                None
            }
            _ => None,
        }
    }

    fn command(&mut self, n: u64, another_follows: bool) -> Option<u64> {
        if self.last == 0 {
            // The first that we see; its forerunners, if any, are not in the record.
            self.answered = self.answered.max(n.saturating_sub(1));
        }
        let outstanding = self.answered.saturating_add(1) < n;
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

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    /// The numbers that lines bear: `c` a command, `r` a reply, `s` a SASL response, each with its number.
    fn numbers(script: &str, look_ahead: bool) -> String {
        let bodies: Vec<Body> = script.split(' ').map(body).collect();
        let mut pairing = Pairing::default();
        let shown = bodies.iter().enumerate().map(|(at, body)| {
            let next = bodies.get(at + 1).filter(|_| look_ahead);
            pairing.number(body, next).map_or_else(|| "-".to_owned(), |number| number.to_string())
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    fn body(step: &str) -> Body {
        let n = step[1..].parse().unwrap();
        let sasl = format!(r#""event":"sasl","from":"client","auth":1,"n":{n},"octets":3,"offset":0"#);
        record(&match &step[..1] {
            "c" => command("x", 0, n, "NOOP", r#""octets":6"#),
            "g" => line("x", 0, r#""event":"gap","reason":"full","events":1,"client_octets":0,"upstream_octets":0"#),
            "r" => reply("x", 0, n, "NOOP", "+OK", 0),
            _ => line("x", 0, &sasl),
        })
        .body
    }

    #[test]
    fn only_pipelined_commands_are_numbered() {
        assert_eq!(numbers("c1 r1 c2 r2", true), "- - - -");
        assert_eq!(numbers("c1 c2 c3 r1 r2 r3 c4 r4", true), "1 2 3 1 2 3 - -");
        assert_eq!(numbers("c1 r1 c2 c3 r2 c4 r3 r4 c5 r5", true), "- - 2 3 2 4 3 4 - -");
    }

    #[test]
    fn a_live_view_cannot_number_the_first() {
        assert_eq!(numbers("c1 c2 r1 r2 c3 r3", false), "- 2 1 2 - -");
    }

    #[test]
    fn sasl_responses_have_numbers_and_no_replies() {
        assert_eq!(numbers("c1 s2 s3 r1 c4 r4", true), "- - - - - -");
    }

    #[test]
    fn what_is_not_in_the_record_is_not_outstanding() {
        assert_eq!(numbers("c7 r7 c8 r8", true), "- - - -");
        assert_eq!(numbers("c1 r1 c2 g0 c9 r9", true), "- - - - - -");
    }

    #[test]
    fn a_reply_that_never_comes_does_not_number_the_rest() {
        assert_eq!(numbers("c1 c2 r2 c3 r3", true), "1 2 2 - -");
    }
}
