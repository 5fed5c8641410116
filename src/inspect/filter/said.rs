//! A command with its reply, kept for longer than the lines that told of them.

use serde::Deserialize;

use super::Exchange;

/// A command with its reply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Said {
    /// The command's number in its session.
    pub n: u64,
    /// Microseconds from the opening of the session to the command.
    pub at_us: u64,
    /// The command's keyword.
    pub verb: Box<str>,
    /// The line as it is recorded; `None` where it is withheld.
    pub line: Option<Box<str>>,
    /// The reply's status; empty where there is no reply.
    pub status: Box<str>,
    /// The reply's first line as it is recorded; `None` where it is withheld.
    pub reply: Option<Box<str>>,
    /// Microseconds from the command to the reply.
    pub latency_us: Option<u64>,
    /// Octets of the reply's body.
    pub size: Option<u64>,
}

impl Said {
    /// What an expression may ask about.
    #[must_use]
    pub fn exchange(&self) -> Exchange<'_> {
        Exchange {
            n: self.n,
            verb: &self.verb,
            line: self.line.as_deref(),
            status: &self.status,
            reply: self.reply.as_deref(),
            latency_us: self.latency_us,
            size: self.size,
        }
    }

    /// Octets of memory that it takes.
    #[must_use]
    pub fn octets(&self) -> usize {
        let texts = self.line.iter().chain(&self.reply).map(|text| text.len());
        size_of::<Self>() + self.verb.len() + self.status.len() + texts.sum::<usize>()
    }
}
