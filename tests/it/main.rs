//! poptap's integration tests: one binary, a module for each concern.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod architecture;
mod dialogues;
mod properties;
mod readme;
mod relay;
mod support;
