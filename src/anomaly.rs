//! What sessions may show that is odd or unsafe: the catalogue. `docs/anomalies.md` has a section for each.

use crate::{
    pop3::Peer,
    tap::{OpaqueReason, ViolationKind},
};

/// One kind of anomaly. The ids of those that close a session, or its record, are the tap's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Anomaly {
    /// A line ended in LF alone (RFC 1939 §3 asks for CR LF).
    BareLf,
    /// A lone dot ended in LF alone within a body.
    BareLfDot,
    /// The last line of a body did not end in CR LF.
    MissingFinalCrLf,
    /// A message has another size than LIST told (RFC 1939 §11).
    SizeDiffers,
    /// Two messages have one unique-id (RFC 1939 §7).
    DuplicateUidl,
    /// A message changed its unique-id.
    ChangedUidl,
    /// A command line over [`LONGEST_COMMAND`].
    LongCommand,
    /// A status line over [`LONGEST_REPLY`].
    LongReply,
    /// A NUL in a command line.
    NulInCommand,
    /// A line that is no status line, while no command awaited a reply.
    UnsolicitedLine,
    /// A status line, while no command awaited one.
    ReplyWithoutCommand,
    /// The session ended without a reply to its last command.
    CommandWithoutReply,
    /// What CAPA announced was refused (RFC 2449 §5).
    CapabilityRefused,
    /// Commands behind others that were answered got no reply.
    CommandsLost,
    /// The server ended in the middle of a message.
    TruncatedMessage,
    /// The same in the middle of a listing.
    TruncatedListing,
    /// The server let a command wait.
    SlowReply,
    /// A line was begun and never ended.
    UnfinishedLine,
    /// [`OpaqueReason::UnexpectedLine`]
    UnexpectedLine,
    /// [`OpaqueReason::TooManyReplies`]
    TooManyReplies,
    /// [`OpaqueReason::AmbiguousCommand`]
    AmbiguousCommand,
    /// [`OpaqueReason::RepliesMissing`]
    RepliesMissing,
    /// [`ViolationKind::PlaintextBehindStls`]
    PlaintextBehindStls,
    /// [`ViolationKind::PlaintextBehindStlsReply`]
    PlaintextBehindStlsReply,
    /// [`ViolationKind::TlsOnPlainPort`]
    TlsOnPlainPort,
    /// [`ViolationKind::HttpRequest`]
    HttpRequest,
    /// [`ViolationKind::PlaintextOnTlsPort`]
    PlaintextOnTlsPort,
    /// [`ViolationKind::UnreadableBeforeTls`]
    UnreadableBeforeTls,
    /// [`ViolationKind::UnreadableUnderRules`]
    UnreadableUnderRules,
    /// [`ViolationKind::ReplyLineTooLong`]
    ReplyLineTooLong,
    /// [`ViolationKind::MalformedData`]
    MalformedData,
    /// [`ViolationKind::TooManyOctets`]
    TooManyOctets,
}

/// Octets of the longest command line, its line end included (RFC 2449 §4).
pub const LONGEST_COMMAND: u64 = 255;

/// Octets of the longest status line, its line end included (RFC 1939 §3, RFC 2449 §4).
pub const LONGEST_REPLY: u64 = 512;

impl Anomaly {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 32] = [
        Self::BareLf,
        Self::BareLfDot,
        Self::MissingFinalCrLf,
        Self::SizeDiffers,
        Self::DuplicateUidl,
        Self::ChangedUidl,
        Self::LongCommand,
        Self::LongReply,
        Self::NulInCommand,
        Self::UnsolicitedLine,
        Self::ReplyWithoutCommand,
        Self::CommandWithoutReply,
        Self::CapabilityRefused,
        Self::CommandsLost,
        Self::TruncatedMessage,
        Self::TruncatedListing,
        Self::SlowReply,
        Self::UnfinishedLine,
        Self::UnexpectedLine,
        Self::TooManyReplies,
        Self::AmbiguousCommand,
        Self::RepliesMissing,
        Self::PlaintextBehindStls,
        Self::PlaintextBehindStlsReply,
        Self::TlsOnPlainPort,
        Self::HttpRequest,
        Self::PlaintextOnTlsPort,
        Self::UnreadableBeforeTls,
        Self::UnreadableUnderRules,
        Self::ReplyLineTooLong,
        Self::MalformedData,
        Self::TooManyOctets,
    ];

    /// Its id: a fixed short name, which is also its anchor in `docs/anomalies.md`.
    #[must_use]
    pub fn id(self) -> &'static str {
        self.describe().0
    }

    /// One sentence that speaks of whose fault it is as "it".
    #[must_use]
    pub fn sentence(self) -> &'static str {
        self.describe().1
    }

    /// Where to read on.
    #[must_use]
    pub fn anchor(self) -> String {
        format!("docs/anomalies.md#{}", self.id())
    }

    /// Whose fault it always or nearly always is; `None` where either peer may be.
    #[must_use]
    pub fn usual_fault(self) -> Option<Peer> {
        match self {
            Self::BareLf | Self::UnfinishedLine | Self::TooManyOctets => None,
            Self::LongCommand
            | Self::NulInCommand
            | Self::AmbiguousCommand
            | Self::PlaintextBehindStls
            | Self::TlsOnPlainPort
            | Self::HttpRequest
            | Self::PlaintextOnTlsPort
            | Self::MalformedData => Some(Peer::Client),
            _ => Some(Peer::Upstream),
        }
    }

    /// The kind with this id.
    #[must_use]
    pub fn of(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|anomaly| anomaly.id() == id)
    }

    /// What a session is closed for.
    #[must_use]
    pub fn of_violation(kind: ViolationKind) -> Self {
        match kind {
            ViolationKind::PlaintextBehindStls => Self::PlaintextBehindStls,
            ViolationKind::PlaintextBehindStlsReply => Self::PlaintextBehindStlsReply,
            ViolationKind::TlsOnPlainPort => Self::TlsOnPlainPort,
            ViolationKind::HttpRequest => Self::HttpRequest,
            ViolationKind::PlaintextOnTlsPort => Self::PlaintextOnTlsPort,
            ViolationKind::UnreadableBeforeTls => Self::UnreadableBeforeTls,
            ViolationKind::UnreadableUnderRules => Self::UnreadableUnderRules,
            ViolationKind::ReplyLineTooLong => Self::ReplyLineTooLong,
            ViolationKind::MalformedData => Self::MalformedData,
            ViolationKind::TooManyOctets => Self::TooManyOctets,
        }
    }

    /// What ends the reading of a session; `None` where nothing is odd about that.
    #[must_use]
    pub fn of_opaque(reason: OpaqueReason) -> Option<Self> {
        match reason {
            OpaqueReason::StartTls | OpaqueReason::TlsPassed | OpaqueReason::SecurityLayer => None,
            OpaqueReason::UnexpectedLine => Some(Self::UnexpectedLine),
            OpaqueReason::TooManyReplies => Some(Self::TooManyReplies),
            OpaqueReason::AmbiguousCommand => Some(Self::AmbiguousCommand),
            OpaqueReason::RepliesMissing => Some(Self::RepliesMissing),
        }
    }

    fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::BareLf => ("bare-lf", "it ended a line in a bare LF, not in CR LF"),
            Self::BareLfDot => {
                ("bare-lf-dot", "within a body it sent a lone dot that a bare LF ends: some clients take it for the end")
            }
            Self::MissingFinalCrLf => ("missing-final-crlf", "the last line of its body does not end in CR LF"),
            Self::SizeDiffers => ("size-differs", "it sent a message of another size than its LIST had told"),
            Self::DuplicateUidl => ("duplicate-uidl", "it gave two messages the same unique-id"),
            Self::ChangedUidl => ("changed-uidl", "it changed the unique-id of a message within the session"),
            Self::LongCommand => ("long-command", "it sent a command line of more than 255 octets"),
            Self::LongReply => ("long-reply", "it sent a status line of more than 512 octets"),
            Self::NulInCommand => ("nul-in-command", "it sent a NUL in a command line"),
            Self::UnsolicitedLine => ("unsolicited-line", "it sent a line that is no reply, while nothing was asked"),
            Self::ReplyWithoutCommand => ("reply-without-command", "it sent a reply to which there is no command"),
            Self::CommandWithoutReply => ("command-without-reply", "it never answered the last command"),
            Self::CapabilityRefused => ("capability-refused", "it refused what its CAPA had announced"),
            Self::CommandsLost => ("commands-lost", "it never answered commands that were sent behind others without waiting"),
            Self::TruncatedMessage => ("truncated-message", "it ended the connection in the middle of a message"),
            Self::TruncatedListing => ("truncated-listing", "it ended the connection in the middle of a listing"),
            Self::SlowReply => ("slow-reply", "it let a command wait for its reply"),
            Self::UnfinishedLine => ("unfinished-line", "it began a line and never ended it"),
            Self::UnexpectedLine => OpaqueReason::UnexpectedLine.describe(),
            Self::TooManyReplies => OpaqueReason::TooManyReplies.describe(),
            Self::AmbiguousCommand => OpaqueReason::AmbiguousCommand.describe(),
            Self::RepliesMissing => OpaqueReason::RepliesMissing.describe(),
            Self::PlaintextBehindStls => ViolationKind::PlaintextBehindStls.describe(),
            Self::PlaintextBehindStlsReply => ViolationKind::PlaintextBehindStlsReply.describe(),
            Self::TlsOnPlainPort => ViolationKind::TlsOnPlainPort.describe(),
            Self::HttpRequest => ViolationKind::HttpRequest.describe(),
            Self::PlaintextOnTlsPort => ViolationKind::PlaintextOnTlsPort.describe(),
            Self::UnreadableBeforeTls => ViolationKind::UnreadableBeforeTls.describe(),
            Self::UnreadableUnderRules => ViolationKind::UnreadableUnderRules.describe(),
            Self::ReplyLineTooLong => ViolationKind::ReplyLineTooLong.describe(),
            Self::MalformedData => ViolationKind::MalformedData.describe(),
            Self::TooManyOctets => ViolationKind::TooManyOctets.describe(),
        }
    }
}

/// Some kinds of anomaly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chosen(u64);

impl Chosen {
    /// Whether this is one of them.
    #[must_use]
    pub fn contains(self, anomaly: Anomaly) -> bool {
        self.0 & 1 << anomaly as u32 != 0
    }

    /// All of them, in order.
    pub fn iter(self) -> impl Iterator<Item = Anomaly> {
        Anomaly::ALL.into_iter().filter(move |anomaly| self.contains(*anomaly))
    }
}

impl FromIterator<Anomaly> for Chosen {
    fn from_iter<I: IntoIterator<Item = Anomaly>>(anomalies: I) -> Self {
        Self(anomalies.into_iter().fold(0, |all, anomaly| all | 1 << anomaly as u32))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_unlike_each_other_and_lead_back() {
        let ids: BTreeSet<_> = Anomaly::ALL.iter().map(|anomaly| anomaly.id()).collect();
        assert_eq!(ids.len(), Anomaly::ALL.len());
        for (number, anomaly) in Anomaly::ALL.into_iter().enumerate() {
            assert_eq!((Anomaly::of(anomaly.id()), anomaly as usize), (Some(anomaly), number));
            assert!(anomaly.id().bytes().all(|octet| octet.is_ascii_lowercase() || octet == b'-'), "{}", anomaly.id());
        }
    }

    #[test]
    fn what_closes_a_session_keeps_its_name() {
        for kind in [ViolationKind::HttpRequest, ViolationKind::PlaintextBehindStls, ViolationKind::TooManyOctets] {
            assert_eq!(Anomaly::of_violation(kind).id(), kind.describe().0);
        }
        assert_eq!(Anomaly::of_opaque(OpaqueReason::TooManyReplies).map(Anomaly::id), Some("too-many-replies"));
        assert_eq!(Anomaly::of_opaque(OpaqueReason::StartTls), None);
    }

    #[test]
    fn chosen_ones_are_told_from_others() {
        let chosen: Chosen = [Anomaly::TooManyOctets, Anomaly::BareLf].into_iter().collect();
        assert_eq!(chosen.iter().collect::<Vec<_>>(), [Anomaly::BareLf, Anomaly::TooManyOctets]);
        assert!(!chosen.contains(Anomaly::BareLfDot));
    }
}
