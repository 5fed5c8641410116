//! Rules as they are written in the file. `config/poptap.toml` and `docs/policy.md` explain them to users.

use std::{fmt, marker::PhantomData};

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{
        self,
        value::{I64Deserializer, MapAccessDeserializer, SeqAccessDeserializer, StrDeserializer},
    },
};
use toml::Spanned;

use super::{CommandWord, Line, MessageRange, Name, NamePattern, OctetPattern, ReplyShape, SizeBound, Text, Word};
use crate::config::{
    address::{ListenAddress, Network},
    fault::Malformed,
};

/// What clients may do. The first rule whose conditions all hold decides.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RuleSection {
    /// Its name in transcripts, unlike that of any other rule.
    #[schemars(with = "Option<Name>")]
    pub(in crate::config) name: Option<Spanned<Name>>,
    /// Whether it acts.
    pub(in crate::config) mode: Option<RuleMode>,
    /// The shape of the replies to the unknown commands that it allows.
    #[schemars(with = "Option<ReplyShape>")]
    pub(in crate::config) reply_shape: Option<Spanned<ReplyShape>>,
    /// What is done.
    #[schemars(with = "Option<ActionSection>")]
    pub(in crate::config) action: Option<Spanned<ActionSection>>,
    /// What has to hold, all of it. Without any condition the rule holds for everything.
    #[serde(default)]
    pub(in crate::config) when: WhenSection,
}

/// Whether a rule acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum RuleMode {
    /// It does.
    #[default]
    Enforce,
    /// It is recorded what it would do.
    DryRun,
}

/// The conditions of a rule.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct WhenSection {
    /// The first word of the command, or several to choose from; in any case.
    #[schemars(with = "Option<OneOrMany<CommandWord>>")]
    pub(in crate::config) command: Option<Spanned<OneOrMany<CommandWord>>>,
    /// A pattern that is found in the line, blanks put in order; in any case.
    #[schemars(with = "Option<OctetPattern>")]
    pub(in crate::config) line: Option<Spanned<OctetPattern>>,
    /// Before the login or after it.
    #[schemars(with = "Option<StageName>")]
    pub(in crate::config) stage: Option<Spanned<StageName>>,
    /// A pattern for the whole name of the user; in any case.
    #[schemars(with = "Option<NamePattern>")]
    pub(in crate::config) user: Option<Spanned<NamePattern>>,
    /// The client's address, or a network that it is in.
    #[schemars(with = "Option<OneOrMany<Network>>")]
    pub(in crate::config) client: Option<Spanned<OneOrMany<Network>>>,
    /// The listener that the client came to, by its address.
    #[schemars(with = "Option<OneOrMany<ListenAddress>>")]
    pub(in crate::config) listener: Option<Spanned<OneOrMany<ListenAddress>>>,
    /// The name or URL of the upstream that it is carried to.
    #[schemars(with = "Option<OneOrMany<String>>")]
    pub(in crate::config) upstream: Option<Spanned<OneOrMany<String>>>,
    /// Whether the client's hop is TLS.
    pub(in crate::config) tls: Option<bool>,
    /// The number of the message.
    #[schemars(with = "Option<OneOrMany<MessageRange>>")]
    pub(in crate::config) message: Option<Spanned<OneOrMany<MessageRange>>>,
    /// The size of the message.
    #[schemars(with = "Option<SizeBound>")]
    pub(in crate::config) size: Option<Spanned<SizeBound>>,
}

/// The states of a session (RFC 1939 §3) that have commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum StageName {
    /// Before the login.
    Authorization,
    /// After it.
    Transaction,
}

/// One value, or a list of some.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "{T}OrList")]
pub(in crate::config) enum OneOrMany<T> {
    /// One.
    One(T),
    /// At least one.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub(in crate::config) fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("one value, or a list of some")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany<T>, E> {
                T::deserialize(StrDeserializer::new(text)).map(OneOrMany::One)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<OneOrMany<T>, E> {
                T::deserialize(I64Deserializer::new(number)).map(OneOrMany::One)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<OneOrMany<T>, A::Error> {
                let many = Vec::deserialize(SeqAccessDeserializer::new(list))?;
                let fault = || Malformed::new("this list is empty", "leave the key out, or name at least one");
                if many.is_empty() { Err(de::Error::custom(fault())) } else { Ok(OneOrMany::Many(many)) }
            }
        }
        deserializer.deserialize_any(Visitor(PhantomData))
    }
}

/// What a rule does: a word, or a table with what belongs to it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum ActionSection {
    /// Alone.
    Word(ActionWord),
    /// With a value.
    Table(Box<ActionTable>),
}

/// Actions that need no value.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum ActionWord {
    /// Forward the command.
    Allow,
    /// Answer `-ERR`.
    Deny,
    /// Keep the message, and behave as if it were deleted.
    Shield,
    /// Answer `-ERR`, and close the session.
    Close,
    /// Record that the rule held, and ask the next one.
    Tag,
}

/// An action with its value: exactly one of these, and `matching` where it is needed.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ActionTable {
    /// Answer `-ERR` and this text.
    pub(in crate::config) deny: Option<Text>,
    /// Answer this: one line, or the lines of a multi-line reply.
    pub(in crate::config) reply: Option<OneOrMany<Line>>,
    /// Put this in place of what `line` matches.
    pub(in crate::config) rewrite: Option<Line>,
    /// Answer `-ERR` and this text, and close the session.
    pub(in crate::config) close: Option<Text>,
    /// Record this word, and ask the next rule.
    pub(in crate::config) tag: Option<Word>,
    /// Put this in place of what `matching` matches in the status lines of the replies.
    pub(in crate::config) rewrite_reply: Option<Line>,
    /// Put this in place of what `matching` matches in the greeting.
    pub(in crate::config) rewrite_greeting: Option<Line>,
    /// What is replaced in a reply or a greeting.
    pub(in crate::config) matching: Option<OctetPattern>,
    /// Leave these capabilities out of what CAPA lists.
    pub(in crate::config) remove_capability: Option<OneOrMany<Word>>,
    /// Add these lines to what CAPA lists.
    pub(in crate::config) add_capability: Option<OneOrMany<Line>>,
}

impl<'de> Deserialize<'de> for ActionSection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = ActionSection;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an action such as \"allow\" or { deny = \"text\" }")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ActionSection, E> {
                ActionWord::deserialize(StrDeserializer::new(text)).map(ActionSection::Word)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, table: A) -> Result<ActionSection, A::Error> {
                ActionTable::deserialize(MapAccessDeserializer::new(table)).map(|table| ActionSection::Table(Box::new(table)))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
