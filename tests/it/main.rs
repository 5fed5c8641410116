//! poptap's integration tests: one binary, a module for each concern.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test that cannot set itself up fails on the spot"
)]
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod admission;
mod anomalies;
mod architecture;
mod binary;
mod certs;
mod dialogues;
mod endurance;
mod export;
mod find;
mod harmless;
mod hostile;
mod listeners;
mod log;
mod logins;
mod metrics;
mod probe;
mod properties;
mod proxied;
mod readme;
mod recipes;
mod relay;
mod reload;
mod replay;
mod replay_tls;
mod routing;
mod rules;
mod secrets;
mod service;
mod sums;
mod support;
mod tls;
mod trial;
mod upgrade;
mod upstreams;
mod web;
