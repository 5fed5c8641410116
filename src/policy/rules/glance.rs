//! A first glance at each rule: most do not hold for most commands, and these few octets tell.

use super::Compiled;

/// What of a rule can be seen without looking at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Glance {
    /// Its place among all rules.
    pub(super) rule: usize,
    /// A bit for each of its command words; all bits where it has none.
    words: u64,
    needs: Needs,
}

/// Patterns, any of which has to be found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    pub(super) line: bool,
    pub(super) user: bool,
}

impl Glance {
    pub(super) fn of(rule: usize, compiled: &Compiled) -> Self {
        let bits = compiled.commands().iter().fold(0, |bits, word| bits | bit(word));
        let words = if compiled.commands().is_empty() { u64::MAX } else { bits };
        Self { rule, words, needs: Needs { line: compiled.has_line(), user: compiled.has_user() } }
    }

    /// Whether the rule may hold: for a command word with this [`bit`], where these patterns were found.
    pub(super) fn may_hold(&self, word: u64, found: Needs) -> bool {
        self.words & word != 0 && (found.line || !self.needs.line) && (found.user || !self.needs.user)
    }
}

/// One of 64 bits; the same for a word in any case.
pub(super) fn bit(word: &[u8]) -> u64 {
    let mix = |mixed: u64, octet: &u8| (mixed ^ u64::from(octet.to_ascii_uppercase())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    1 << (word.iter().take(8).fold(0, mix) >> 58)
}
