//! Which steps of two sessions are the same step, and in which lines they differ.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use similar::{Algorithm, DiffOp, capture_diff_slices_deadline};

use super::{
    Timing,
    steps::{Side, Step},
};

/// Beyond this the alignment of two long sessions becomes coarser; what is shown stays true.
const DEADLINE: Duration = Duration::from_secs(5);

/// Latencies that differ by less, in microseconds, say nothing.
const NOISE: u64 = 100_000;

/// Where latencies are told of without being asked for: one is twice the other.
const TWICE: u32 = 100;

/// What was found.
pub(super) struct Found {
    /// The steps of both sessions, in order.
    pub(super) pairs: Vec<Pair>,
    /// Latencies that differ.
    pub(super) slower: Vec<Slower>,
    /// Whether these make a difference.
    pub(super) timing_counts: bool,
}

/// A step of either session, or the same step of both; indexes into their lists.
pub(super) struct Pair {
    pub(super) places: [Option<usize>; 2],
    pub(super) rows: Vec<Row>,
}

/// A line: of both sessions, or of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// An index into the first one's facts: as good as the other's.
    Same(usize),
    /// Only the first has it.
    Removed(usize),
    /// Only the second has it.
    Added(usize),
}

/// A reply, or its body, that took longer in one of the sessions; microseconds.
pub(super) struct Slower {
    pub(super) pair: usize,
    pub(super) what: &'static str,
    pub(super) took: [u64; 2],
}

impl Found {
    /// Whether nothing that counts differs.
    pub(super) fn is_same(&self) -> bool {
        (self.slower.is_empty() || !self.timing_counts) && !self.pairs.iter().any(Pair::differs)
    }
}

impl Pair {
    /// Whether any of its lines is in one session only.
    pub(super) fn differs(&self) -> bool {
        self.rows.iter().any(|row| !matches!(row, Row::Same(_)))
    }
}

/// Compares two sessions.
pub(super) fn compare(sides: &[Side; 2], timing: Timing) -> Found {
    let steps = [&sides[0].steps, &sides[1].steps];
    let keys = steps.map(|steps| steps.iter().map(|step| step.key.as_str()).collect());
    let pairs: Vec<Pair> = aligned(&keys).into_iter().map(|places| pair(steps, places)).collect();
    let percent = match timing {
        Timing::Ignored => None,
        Timing::Told => Some(TWICE),
        Timing::Counts(percent) => Some(percent),
    };
    let slower = percent.map_or_else(Vec::new, |percent| slower(steps, &pairs, percent));
    Found { pairs, slower, timing_counts: matches!(timing, Timing::Counts(_)) }
}

fn pair(steps: [&Vec<Step>; 2], places: [Option<usize>; 2]) -> Pair {
    let facts = |side: usize| places[side].map(|place| steps[side][place].facts.as_slice()).unwrap_or_default();
    let essences = [facts(0), facts(1)].map(|facts| facts.iter().map(super::steps::Fact::essence).collect());
    let rows = aligned(&essences).into_iter().filter_map(|row| match row {
        [Some(place), Some(_)] => Some(Row::Same(place)),
        [Some(place), None] => Some(Row::Removed(place)),
        [None, Some(place)] => Some(Row::Added(place)),
        [None, None] => None,
    });
    Pair { places, rows: rows.collect() }
}

/// The longest common subsequence of two lists, and what is between.
fn aligned(lists: &[Vec<&str>; 2]) -> Vec<[Option<usize>; 2]> {
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    let [one, other] = lists.each_ref().map(|list| {
        let mut number = |text| {
            let next = numbers.len();
            *numbers.entry(text).or_insert(next)
        };
        list.iter().map(|text| number(*text)).collect::<Vec<_>>()
    });
    let deadline = Instant::now().checked_add(DEADLINE);
    let ops = capture_diff_slices_deadline(Algorithm::Myers, &one, &other, deadline);
    ops.into_iter().flat_map(places).collect()
}

fn places(op: DiffOp) -> Vec<[Option<usize>; 2]> {
    let (_, old, new) = op.as_tag_tuple();
    if let DiffOp::Equal { .. } = op {
        return old.zip(new).map(|(one, other)| [Some(one), Some(other)]).collect();
    }
    old.map(|one| [Some(one), None]).chain(new.map(|other| [None, Some(other)])).collect()
}

fn slower(steps: [&Vec<Step>; 2], pairs: &[Pair], percent: u32) -> Vec<Slower> {
    let mut slower = Vec::new();
    for (number, pair) in pairs.iter().enumerate() {
        let [Some(one), Some(other)] = pair.places else { continue };
        let both = [&steps[0][one], &steps[1][other]];
        for (what, [one, other]) in [("reply", both.map(|step| step.reply_us)), ("body", both.map(|step| step.body_us))] {
            let took = one.zip(other).map(|(one, other)| [one, other]);
            slower.extend(took.filter(|took| is_slower(*took, percent)).map(|took| Slower { pair: number, what, took }));
        }
    }
    slower
}

fn is_slower(took: [u64; 2], percent: u32) -> bool {
    let (short, long) = (took[0].min(took[1]), took[0].max(took[1]));
    let bound = u128::from(short) * (100 + u128::from(percent));
    long - short >= NOISE && u128::from(long) * 100 > bound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_not_slow() {
        for (took, percent, expected) in [
            ([1_000, 90_000], 100, false),
            ([1_000, 101_000], 100, true),
            ([101_000, 1_000], 100, true),
            ([1_000_000, 2_000_000], 100, false),
            ([1_000_000, 2_000_001], 100, true),
            ([1_000_000, 1_200_000], 10, true),
            ([0, u64::MAX], u32::MAX, true),
        ] {
            assert_eq!(is_slower(took, percent), expected, "{took:?} {percent}");
        }
    }

    #[test]
    fn the_longest_common_subsequence() {
        let places = aligned(&[vec!["a", "b", "c", "d"], vec!["a", "x", "c", "d", "e"]]);
        let expected =
            [[Some(0), Some(0)], [Some(1), None], [None, Some(1)], [Some(2), Some(2)], [Some(3), Some(3)], [None, Some(4)]];
        assert_eq!(places, expected);
    }

    #[test]
    fn nothing_in_common_at_length_ends_in_time() {
        let [one, other] = ["a", "b"].map(|letter| (0..20_000).map(|number| format!("{letter}{number}")).collect::<Vec<_>>());
        let lists = [&one, &other].map(|list| list.iter().map(String::as_str).collect());
        assert_eq!(aligned(&lists).len(), 40_000);
    }
}
