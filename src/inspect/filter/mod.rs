//! The filter language of `sessions list`, `sessions grep` and `sessions follow`; `docs/filters.md` explains it to users.
//!
//! An expression is about one command with its reply (an *exchange*) and the session around it. A session matches when there is
//! an exchange in it for which the expression holds; where the expression asks only about sessions, exchanges do not matter.

mod error;
mod eval;
mod field;
mod lexer;
mod parse;
mod said;
#[cfg(test)]
mod tests;

use std::{str::FromStr, sync::LazyLock};

pub use error::FilterError;
pub use eval::{Exchange, Facts};
pub use field::{FIELDS, Field, FieldInfo, Kind, Scope};
pub use said::Said;

use eval::Known;
use parse::Node;

/// A session of which nothing is known.
static NOBODY: LazyLock<Facts<'static>> = LazyLock::new(Facts::default);

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Filter {
    root: Node,
    about_exchanges: bool,
}

impl Filter {
    /// Compiles an expression.
    ///
    /// # Errors
    ///
    /// What is wrong with it, at which column, and what could be meant.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        parse::parse(text).map(Self::of)
    }

    /// One that holds where all of these do; without any, always.
    #[must_use]
    pub fn all(filters: impl IntoIterator<Item = Self>) -> Self {
        Self::of(Node::All(filters.into_iter().map(|filter| filter.root).collect()))
    }

    /// `field` is `value`, which is no expression but the very text.
    ///
    /// # Errors
    ///
    /// Where the field takes no such value.
    pub fn is(field: Field, value: &str) -> Result<Self, FilterError> {
        parse::is(field, value).map(Self::of)
    }

    /// `field`, which holds text, is this text, whatever it says.
    #[must_use]
    pub fn text(field: Field, value: &str) -> Self {
        Self::of(Node::test(field, parse::Check::Is(value.to_owned())))
    }

    /// `field` is there: not zero, not empty, true.
    #[must_use]
    pub fn has(field: Field) -> Self {
        Self::of(Node::test(field, parse::Check::IsThere))
    }

    /// The session began at `time` (as the transcript writes it) or later.
    #[must_use]
    pub fn since(time: &str) -> Self {
        let check = parse::Check::Time(parse::Comparison::AtLeast, time.to_owned());
        Self::of(Node::test(Field::Start, check))
    }

    fn of(root: Node) -> Self {
        let about_exchanges = root.asks(&|test| test.field.info().scope == Scope::Exchange);
        Self { root, about_exchanges }
    }

    /// Whether it asks about commands or replies: then a session alone does not settle it.
    #[must_use]
    pub fn is_about_exchanges(&self) -> bool {
        self.about_exchanges
    }

    /// What is left to be asked of the exchanges of one session.
    #[must_use]
    pub fn given(&self, session: &Facts<'_>) -> Self {
        Self::of(self.root.given(session))
    }

    /// What each question about the session is answered. Sessions with the same answers have the same left to be asked, see
    /// [`Filter::given`].
    #[must_use]
    pub fn answers(&self, session: &Facts<'_>) -> Vec<bool> {
        let mut answers = Vec::new();
        self.root.answers(session, &mut answers);
        answers
    }

    /// Whether it holds for an exchange where nothing else is left to be asked, see [`Filter::given`].
    #[must_use]
    pub fn holds_for(&self, exchange: Option<&Exchange<'_>>) -> bool {
        self.holds(&NOBODY, exchange)
    }

    /// The same while the reply is not known: whether it may hold then.
    #[must_use]
    pub fn may_hold_for_command(&self, command: &Exchange<'_>) -> bool {
        self.root.holds(&NOBODY, Known::Command(command)) != Some(false)
    }

    /// The same while everything is known but the size of the reply's body.
    #[must_use]
    pub fn may_hold_for_reply(&self, exchange: &Exchange<'_>) -> bool {
        self.root.holds(&NOBODY, Known::AllButSize(exchange)) != Some(false)
    }

    /// What is settled by what is known of the session alone; `None` where its exchanges decide.
    #[must_use]
    pub fn settled(&self, session: &Facts<'_>) -> Option<bool> {
        self.root.holds(session, Known::Unknown)
    }

    /// Whether it holds for an exchange of the session, or, without one, for a session that has none.
    #[must_use]
    pub fn holds(&self, session: &Facts<'_>, exchange: Option<&Exchange<'_>>) -> bool {
        self.root.holds(session, Known::Exchange(exchange)).unwrap_or(false)
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::parse(text)
    }
}
