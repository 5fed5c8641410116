//! Which finished segments are removed.

use std::time::Duration;

use crate::config::Retention;

/// A segment with its side file, whatever is there of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) stem: String,
    pub(super) octets: u64,
    pub(super) age: Duration,
}

/// The segments that are too old, or too many, or too large together: from the oldest on. `segments` has the oldest first.
pub(super) fn doomed<'a>(segments: &'a [Segment], keep: &Retention) -> Vec<&'a Segment> {
    let (mut count, mut octets) = (0_u64, 0_u64);
    let excess = |segment: &&Segment| {
        count += 1;
        octets = octets.saturating_add(segment.octets);
        count > keep.segments || octets > keep.octets || segment.age > keep.age
    };
    let mut doomed: Vec<_> = segments.iter().rev().filter(excess).collect();
    doomed.reverse();
    doomed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stems(sizes: &[(u64, u64)], keep: Retention) -> Vec<String> {
        let segments: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(at, &(octets, age))| Segment { stem: at.to_string(), octets, age: Duration::from_secs(age) })
            .collect();
        doomed(&segments, &keep).into_iter().map(|segment| segment.stem.clone()).collect()
    }

    #[test]
    fn the_oldest_go() {
        let sizes = [(10, 40), (10, 30), (10, 20), (10, 10)];
        let all = Retention { age: Duration::from_secs(100), octets: 100, segments: 100 };
        assert!(stems(&sizes, all).is_empty());
        assert_eq!(stems(&sizes, Retention { age: Duration::from_secs(25), ..all }), ["0", "1"]);
        assert_eq!(stems(&sizes, Retention { octets: 25, ..all }), ["0", "1"]);
        assert_eq!(stems(&sizes, Retention { segments: 3, ..all }), ["0"]);
    }
}
