//! Decisions that are taken again and again: a listing of a million lines that are left out is two records.

use super::schema::Decision;
use crate::tap::{Action, Ordinal};

/// The last decision, and how often it was taken again since it was recorded.
#[derive(Default)]
pub(super) struct Decided {
    last: Option<Decision>,
}

impl Decided {
    /// What to record when a decision is taken: nothing when it is the last one again.
    pub(super) fn take(&mut self, n: Option<Ordinal>, action: Action, rule: &str) -> impl Iterator<Item = Decision> + use<> {
        let action = name(action);
        match &mut self.last {
            Some(last) if last.n == n && last.action == action && last.rule == rule => {
                last.again += 1;
                None.into_iter().chain(None)
            }
            _ => {
                let before = self.finish();
                let decision = Decision { n, action: action.to_owned(), rule: rule.to_owned(), again: 0 };
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

fn name(action: Action) -> &'static str {
    match action {
        Action::Answer => "answer",
        Action::RemoveLine => "remove-line",
        Action::EditLine => "edit-line",
        Action::AddLine => "add-line",
        Action::Close => "close",
    }
}
