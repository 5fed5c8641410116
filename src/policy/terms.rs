//! What holds a session to the rules, and to the limits on logins, before it begins.

use std::sync::{Arc, Mutex};

use super::{memory::Memory, rules::Applicable};
use crate::{admission::Visit, tap::Caps};

/// What a guard starts with.
pub struct Terms {
    /// The rules that can apply in this session.
    pub rules: Applicable,
    /// How long lines may be where a rule is enforced.
    pub caps: Caps,
    /// What was shielded before; `None` where nothing is remembered.
    pub memory: Option<Arc<Memory>>,
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The client's stay; without one there are no limits on logins.
    pub(crate) visit: Option<Arc<Mutex<Visit>>>,
}

impl Terms {
    /// Rules alone: nothing is remembered, and nothing counted.
    #[must_use]
    pub fn of_rules(rules: Applicable, caps: Caps) -> Self {
        Self { rules, caps, memory: None, upstream: Arc::from(""), visit: None }
    }

    /// What was shielded on this upstream before is hidden, and what is shielded now will be.
    #[must_use]
    pub fn remembering(self, memory: Arc<Memory>, upstream: &str) -> Self {
        Self { memory: Some(memory), upstream: Arc::from(upstream), ..self }
    }
}
