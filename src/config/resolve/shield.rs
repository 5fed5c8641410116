//! Where the messages are remembered that rules keep from being deleted.

use std::{path::PathBuf, time::Duration};

use toml::Spanned;

use crate::config::{Rule, RuleAction, Shield, fault::Fault, file::ShieldSection};

use super::Resolver;

const KEEP: Duration = Duration::from_secs(90 * 86_400);

impl Resolver<'_> {
    pub(super) fn shield(&mut self, section: &ShieldSection, rules: &[Rule]) -> Shield {
        let remember = section.remember.unwrap_or(true);
        let is_needed = remember && rules.iter().any(|rule| rule.action == RuleAction::Shield);
        let dir = match &section.dir {
            Some(dir) => Some(self.shield_dir(dir)),
            None if is_needed => self.default_shield_dir(),
            None => None,
        };
        Shield { remember, keep: section.keep.map_or(KEEP, |keep| keep.0), dir }
    }

    fn shield_dir(&mut self, dir: &Spanned<PathBuf>) -> PathBuf {
        if dir.get_ref().as_os_str().is_empty() {
            let fault =
                Fault::new("the shield's directory has an empty name", "name a directory, or leave it out for the default place");
            self.fault(fault, Some(dir.span()));
        }
        dir.get_ref().clone()
    }

    fn default_shield_dir(&mut self) -> Option<PathBuf> {
        let place = self.environment.shield();
        if place.is_none() && !self.is_broken(&["shield", "dir"]) {
            let message =
                "there is no place to remember shielded messages: STATE_DIRECTORY, XDG_STATE_HOME and HOME are all unset";
            let hint = "name one with `dir` under `[shield]`, or set `remember = false` there";
            self.fault(Fault::new(message, hint), None);
        }
        place
    }
}
