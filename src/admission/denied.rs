//! Why somebody is turned away, for the transcript and for the client.

use std::time::Duration;

use crate::config::Period;

/// Why a client may not come, or a user may not log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Too many logins from the address were refused.
    ClientBlocked {
        /// How long the block lasts from now on.
        left: Duration,
    },
    /// Too many logins of the user were refused.
    UserBlocked {
        /// How long the block lasts from now on.
        left: Duration,
    },
    /// The address has as many sessions as it may have.
    TooManyFromClient {
        /// How many that are.
        limit: usize,
    },
    /// The user has as many sessions as they may have.
    TooManyOfUser {
        /// How many that are.
        limit: usize,
    },
}

impl Denied {
    /// The short name in the transcript and in the log.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ClientBlocked { .. } => "client-blocked",
            Self::UserBlocked { .. } => "user-blocked",
            Self::TooManyFromClient { .. } => "too-many-from-client",
            Self::TooManyOfUser { .. } => "too-many-of-user",
        }
    }

    /// What the client is told, with a response code where one fits (RFC 2449 §8, RFC 3206 §4): no password would help, so
    /// `AUTH` does not. It is the same whether the user exists or not.
    #[must_use]
    pub fn client_line(&self) -> &'static str {
        match self {
            Self::ClientBlocked { .. } => "-ERR [SYS/TEMP] too many failed logins from your address, try again later\r\n",
            Self::UserBlocked { .. } => "-ERR [SYS/TEMP] too many failed logins, try again later\r\n",
            Self::TooManyFromClient { .. } => "-ERR [SYS/TEMP] too many sessions from your address, try again later\r\n",
            Self::TooManyOfUser { .. } => "-ERR [IN-USE] too many sessions of this user, end one or try again later\r\n",
        }
    }

    /// What stands in the transcript beside the reason.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::ClientBlocked { left } | Self::UserBlocked { left } => format!("for {} more", whole(*left)),
            Self::TooManyFromClient { limit } | Self::TooManyOfUser { limit } => format!("no more than {limit} at one time"),
        }
    }
}

/// In seconds, rounded up.
fn whole(left: Duration) -> Period {
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    Period(Duration::from_secs(seconds))
}
