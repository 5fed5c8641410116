//! poptap
pub mod cli;
pub mod commands;
pub mod config;
pub mod demo;
pub mod inspect;
pub mod net;
pub mod policy;
pub mod pop3;
pub mod record;
pub mod relay;
pub mod server;
mod session;
pub mod tap;
pub mod telemetry;
pub mod tls;
