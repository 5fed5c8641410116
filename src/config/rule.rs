//! Rules: what clients may do, and what is changed on its way. How they are written in the file is told by `section`.

mod checked;
mod pattern;
mod section;
mod wire;

use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pop3::Stage;

pub use checked::{CommandWord, SizeBound};
pub use pattern::Pattern;
pub(super) use section::{ActionSection, ActionTable, ActionWord, OneOrMany, RuleMode, RuleSection, StageName, WhenSection};
pub(super) use {
    checked::{LONGEST_NAME, Line, MessageRange, Name, NamePattern, OctetPattern, Text, Word},
    wire::{multi_line, refusal, reply, single_line, to_text},
};

/// One rule. Rules are asked in order, and the first whose conditions all hold decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, unlike that of any other; at most 64 characters, none of them a control character.
    pub name: Arc<str>,
    /// Whether it acts; one that does not only has it recorded that it would.
    pub enforced: bool,
    /// What has to hold.
    pub when: When,
    /// What is done then.
    pub action: RuleAction,
    /// The shape of the replies to the unknown commands that it allows.
    pub reply_shape: Option<ReplyShape>,
}

/// The conditions of a rule: all of them have to hold. An empty list and `None` hold for everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct When {
    /// Command words, in upper case.
    pub commands: Vec<Box<[u8]>>,
    /// A pattern in the line as [`normalise`](crate::policy::normalise) makes it, see [`Pattern::octets`].
    pub line: Option<Pattern>,
    /// Before or after the login.
    pub stage: Option<Stage>,
    /// A pattern for the whole user name, see [`Pattern::name`].
    pub user: Option<Pattern>,
    /// Networks that the client is in one of.
    pub clients: Vec<IpNet>,
    /// Listeners that it came to, as their addresses are configured.
    pub listeners: Vec<SocketAddr>,
    /// Names of the mail servers that it is carried to.
    pub upstreams: Vec<String>,
    /// Whether the client's hop is TLS.
    pub tls: Option<bool>,
    /// Numbers of messages, each range from 1 upwards.
    pub messages: Vec<RangeInclusive<u64>>,
    /// The size of the message.
    pub size: Option<SizeBound>,
}

impl When {
    /// Whether the rule holds for everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a rule does. Texts in octets are whole replies as they are sent, line ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Forwards the command.
    Allow,
    /// Answers with this `-ERR` line.
    Deny(Arc<[u8]>),
    /// Answers with this: a status line, or a `+OK` line and a dot-stuffed body with its terminator.
    Reply(Arc<[u8]>),
    /// Replaces what `line` matches in the line. `$1` and `${name}` are its groups.
    Rewrite(String),
    /// Answers a DELE as if the message were deleted.
    Shield,
    /// Answers with this `-ERR` line, and closes the session.
    Close(Arc<[u8]>),
    /// Has it recorded, with this word.
    Tag(Option<String>),
    /// Edits the text of the replies' status lines.
    RewriteReply {
        /// What is replaced, see [`Pattern::octets`].
        matching: Pattern,
        /// What by. `$1` and `${name}` are groups.
        with: String,
    },
    /// Edits the text of the greeting.
    RewriteGreeting {
        /// What is replaced, see [`Pattern::octets`].
        matching: Pattern,
        /// What by. `$1` and `${name}` are groups.
        with: String,
    },
    /// Leaves these capabilities out of what CAPA lists: tags in upper case.
    RemoveCapability(Vec<String>),
    /// Adds these lines, without line ends, to what CAPA lists.
    AddCapability(Vec<String>),
}

impl RuleAction {
    /// The action's word, as it is written in the file.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny(_) => "deny",
            Self::Reply(_) => "reply",
            Self::Rewrite(_) => "rewrite",
            Self::Shield => "shield",
            Self::Close(_) => "close",
            Self::Tag(_) => "tag",
            Self::RewriteReply { .. } => "rewrite_reply",
            Self::RewriteGreeting { .. } => "rewrite_greeting",
            Self::RemoveCapability(_) => "remove_capability",
            Self::AddCapability(_) => "add_capability",
        }
    }

    /// Whether it settles what becomes of the command, so that no later rule is asked.
    #[must_use]
    pub fn decides(&self) -> bool {
        self.restricts() || matches!(self, Self::Allow | Self::Rewrite(_))
    }

    /// Whether it keeps the command from the server. Such a rule holds for a user who is not known yet.
    #[must_use]
    pub fn restricts(&self) -> bool {
        matches!(self, Self::Deny(_) | Self::Reply(_) | Self::Shield | Self::Close(_))
    }
}

/// The shape of the reply to a command that poptap does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReplyShape {
    /// A status line.
    SingleLine,
    /// A status line, and behind `+OK` lines up to `.` alone on a line.
    MultiLine,
}

/// What is remembered of messages that a `shield` rule kept from being deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shield {
    /// Whether they stay hidden in later sessions.
    pub remember: bool,
    /// For how long after they were last seen on the server.
    pub keep: Duration,
    /// Where. There is one whenever a rule shields and `remember` is set.
    pub dir: Option<PathBuf>,
}
