//! What all listeners' terms have in common: limits, rules, and what the shield remembers.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use super::StartError;
use crate::{
    config::{Anomalies, Config, Limits, RuleAction},
    policy::{Memory, MemoryError, Rules},
};

/// Made anew at a reload.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) limits: Arc<Limits>,
    pub(super) rules: Arc<Rules>,
    pub(super) anomalies: Anomalies,
    /// Where poptap listens, as configured.
    pub(super) own: Arc<[SocketAddr]>,
    /// There where a rule shields and messages are remembered.
    pub(super) memory: Option<Arc<Memory>>,
}

/// The memory that is open. One process holds a directory once, so it outlives a reload.
pub(super) struct OpenMemory {
    memory: Mutex<Option<(PathBuf, Arc<Memory>)>>,
    /// Whether the process that this one replaces may have it too.
    joins: bool,
}

impl Common {
    /// Compiles the rules, and opens the memory where one is needed and not open yet.
    pub(super) fn new(config: &Config, open: &OpenMemory) -> Result<Self, StartError> {
        let rules = Rules::new(&config.rules).map_err(StartError::Rules)?;
        Ok(Self {
            limits: Arc::clone(&config.limits),
            rules: Arc::new(rules),
            anomalies: config.anomalies,
            own: config.listeners.iter().map(|listener| listener.address).collect(),
            memory: open.of(config)?,
        })
    }
}

impl OpenMemory {
    /// None is open. With `joins`, beside the process that this one replaces.
    pub(super) fn new(joins: bool) -> Self {
        Self { memory: Mutex::default(), joins }
    }

    /// Lets the process in that is to replace this one.
    pub(super) fn share(&self) -> Result<(), MemoryError> {
        let open = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().map_or(Ok(()), |(_, memory)| memory.share())
    }

    fn of(&self, config: &Config) -> Result<Option<Arc<Memory>>, StartError> {
        let shields = config.rules.iter().any(|rule| rule.enforced && rule.action == RuleAction::Shield);
        let Some(dir) = config.shield.dir.as_ref().filter(|_| shields && config.shield.remember) else { return Ok(None) };
        let mut open = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, memory)) = open.as_ref().filter(|(place, _)| place == dir) {
            return Ok(Some(Arc::clone(memory)));
        }
        let keep = config.shield.keep;
        let memory = if self.joins { Memory::join(dir, keep, SystemTime::now) } else { Memory::open(dir, keep, SystemTime::now) };
        let memory = Arc::new(memory?);
        *open = Some((dir.clone(), Arc::clone(&memory)));
        Ok(Some(memory))
    }
}
