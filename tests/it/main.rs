//! poptap's integration tests: one binary, a module for each concern.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod architecture;
mod dialogues;
mod endurance;
mod properties;
mod relay;
mod support;
