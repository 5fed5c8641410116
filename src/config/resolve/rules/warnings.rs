//! Rules that are valid, and hardly what was meant.

use crate::config::{Rule, RuleAction, When, resolve::Resolver};

impl Resolver<'_> {
    pub(super) fn warn_of_rules(&mut self, rules: &[Rule]) {
        for rule in rules.iter().filter(|rule| denies_until_login(rule)) {
            self.warnings.push(format!(
                "the rule `{}` holds for everything until the user is known, and so nobody can log in: add `command` or `stage`",
                rule.name
            ));
        }
        let last = rules.iter().position(|rule| rule.enforced && rule.action.decides() && holds_always(rule));
        let Some((last, behind)) = last.and_then(|last| rules[last..].split_first()) else { return };
        for rule in behind.iter().filter(|rule| !matches!(rule.action, RuleAction::RewriteGreeting { .. })) {
            self.warnings
                .push(format!("the rule `{}` is never asked: `{}` before it holds for everything", rule.name, last.name));
        }
    }
}

/// A user who is not known yet may be the one that is meant. Without a command, `shield` is for DELE.
fn denies_until_login(rule: &Rule) -> bool {
    let When { commands, line, stage, user, messages, size, .. } = &rule.when;
    let is_narrow = !commands.is_empty() || line.is_some() || stage.is_some() || !messages.is_empty() || size.is_some();
    rule.enforced && user.is_some() && !is_narrow && rule.action.restricts() && rule.action != RuleAction::Shield
}

fn holds_always(rule: &Rule) -> bool {
    rule.when.is_empty() && rule.action != RuleAction::Shield
}
