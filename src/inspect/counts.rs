//! Counts by name, of which there may be any number, in bounded memory.

use std::collections::HashMap;

use serde::Serialize;

/// Names that are never forgotten, those with the largest counts.
const KEPT: usize = 20_000;

/// Counts by name. At most twice [`KEPT`] names are in it; when there are more, the half with the smaller counts is forgotten.
#[derive(Debug, Default)]
pub(super) struct Counts {
    names: HashMap<Box<str>, u64>,
    total: u64,
    /// What a name can have been counted less, for having been forgotten.
    short_by: u64,
}

/// The names with the largest counts.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Top {
    /// Largest first, and then by name.
    #[serde(rename = "top")]
    pub(super) first: Vec<Named>,
    /// Sessions of all the others together.
    pub(super) others: u64,
    /// How many names there are; `None` where some were forgotten.
    pub(super) distinct: Option<usize>,
    /// Counts may be too small by so many, and not by more; then `others` is too large by them.
    pub(super) short_by: u64,
}

/// One of them.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Named {
    pub(super) name: Box<str>,
    pub(super) sessions: u64,
}

impl Counts {
    /// Counts one more of `name`.
    pub(super) fn add(&mut self, name: &str) {
        self.total += 1;
        if let Some(count) = self.names.get_mut(name) {
            *count += 1;
            return;
        }
        if self.names.len() >= 2 * KEPT {
            self.forget();
        }
        self.names.insert(name.into(), 1);
    }

    /// The `most` names with the largest counts.
    pub(super) fn top(&self, most: usize) -> Top {
        let mut names: Vec<_> = self.names.iter().collect();
        names.sort_unstable_by(|one, other| other.1.cmp(one.1).then_with(|| one.0.cmp(other.0)));
        let first: Vec<_> =
            names.into_iter().take(most).map(|(name, &sessions)| Named { name: name.clone(), sessions }).collect();
        let others = self.total - first.iter().map(|named| named.sessions).sum::<u64>();
        let distinct = (self.short_by == 0).then_some(self.names.len());
        Top { first, others, distinct, short_by: self.short_by }
    }

    fn forget(&mut self) {
        let mut counts: Vec<_> = self.names.values().copied().collect();
        let (_, &mut least, _) = counts.select_nth_unstable_by(KEPT, |one, other| other.cmp(one));
        // Of those with this very count as many go as must.
        let mut room = KEPT - counts[..KEPT].iter().filter(|&&count| count > least).count();
        self.names.retain(|_, count| {
            let last = *count == least && room > 0;
            room -= usize::from(last);
            *count > least || last
        });
        self.short_by += least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(top: &Top) -> Vec<(&str, u64)> {
        top.first.iter().map(|named| (&*named.name, named.sessions)).collect()
    }

    #[test]
    fn the_largest_come_first() {
        let mut counts = Counts::default();
        for name in ["b", "a", "c", "a", "c", "d"] {
            counts.add(name);
        }
        let top = counts.top(3);
        assert_eq!(named(&top), [("a", 2), ("c", 2), ("b", 1)]);
        assert_eq!((top.others, top.distinct, top.short_by), (1, Some(4), 0));
    }

    #[test]
    fn names_without_number_cost_a_bounded_amount_and_the_frequent_ones_stay() {
        let mut counts = Counts::default();
        for number in 0..200_000_u64 {
            counts.add(&number.to_string());
            if number % 10 == 0 {
                counts.add("frequent");
            }
            assert!(counts.names.len() <= 2 * KEPT);
        }
        let top = counts.top(1);
        assert_eq!(named(&top), [("frequent", 20_000)]);
        assert_eq!((top.others, top.distinct), (200_000, None));
        assert!(top.short_by > 0 && top.short_by < 20, "{}", top.short_by);
    }
}
