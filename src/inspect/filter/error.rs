//! What is wrong with an expression, and where.

use std::fmt;

use super::super::paint::harmless;

/// Why an expression could not be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    expression: String,
    /// Octets of the expression before the fault.
    start: usize,
    /// Octets that are at fault; none where something is missing.
    length: usize,
    message: String,
    hint: String,
}

impl FilterError {
    pub(super) fn new(expression: &str, place: std::ops::Range<usize>, message: String, hint: &str) -> Self {
        let (start, length) = (place.start, place.end - place.start);
        Self { expression: expression.to_owned(), start, length, message, hint: hint.to_owned() }
    }

    /// The column of the fault, in characters, from 1.
    #[must_use]
    pub fn column(&self) -> usize {
        self.expression[..self.start].chars().count() + 1
    }

    /// What is wrong, without the place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What could be done about it.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, width) = (harmless, |text: &str| text.chars().count());
        let before = shown(&self.expression[..self.start]);
        let fault = shown(&self.expression[self.start..self.start + self.length]);
        let (blanks, marks) = (" ".repeat(width(&before)), "^".repeat(width(&fault).max(1)));
        writeln!(out, "column {}: {}", self.column(), shown(&self.message))?;
        writeln!(out, "  {}", shown(&self.expression))?;
        writeln!(out, "  {blanks}{marks}")?;
        write!(out, "  hint: {}", shown(&self.hint))
    }
}

impl std::error::Error for FilterError {}
