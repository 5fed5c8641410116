//! Decisions that are taken again and again: a listing of a million lines that are left out is two records.

use super::schema::Decision;
use crate::tap;

/// The last decision, and how often it was taken again since it was recorded.
#[derive(Default)]
pub(super) struct Decided {
    last: Option<Decision>,
}

impl Decided {
    /// What to record when a decision is taken, with what may be shown of the line that it made: nothing when it is the last
    /// one again.
    pub(super) fn take(&mut self, taken: &tap::Decision<'_>, line: Option<String>) -> impl Iterator<Item = Decision> + use<> {
        let action = taken.action.name();
        match &mut self.last {
            Some(last) if last.n == taken.n && last.action == action && last.rule == taken.rule => {
                last.again += 1;
                None.into_iter().chain(None)
            }
            _ => {
                let before = self.finish();
                let (rule, enforced) = (taken.rule.to_owned(), taken.enforced);
                let tag = taken.tag.map(str::to_owned);
                let decision = Decision { n: taken.n, action: action.to_owned(), rule, enforced, tag, line, again: 0 };
                self.last = Some(decision.clone());
                before.into_iter().chain(Some(decision))
            }
        }
    }

    /// What to record when it can be taken no more: how often it was taken again, if it was.
    pub(super) fn finish(&mut self) -> Option<Decision> {
        self.last.take().filter(|decision| decision.again > 0)
    }
}
