//! poptap between real servers and real clients.
//!
//! Nothing here is scripted: Dovecot serves an awkward mailbox, and curl, Python's poplib, fetchmail, mpop, getmail6
//! and mutt fetch it, once directly and once through the built `poptap`. `tests/README.md` says what must be installed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test that cannot set itself up fails on the spot"
)]

mod announced;
mod apop;
mod authentication;
mod capabilities;
mod certs;
mod client_certificates;
mod deletions;
mod evasions;
mod export;
mod fail2ban;
mod fetch;
mod haproxy;
mod harness;
mod intercept;
mod keylog;
mod limits;
mod matrix;
mod pipeline;
mod questions;
mod reload;
mod replay;
mod routing;
mod shield;
mod stls;
mod support;
mod unreachable;
mod web;
