//! poptap
#![allow(unused_imports)]
pub mod cli;
pub mod commands;
pub mod config;
pub mod pop3;
pub mod record;
pub mod tap;
pub mod telemetry;
