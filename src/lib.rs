//! poptap
#![allow(unused_imports)]
pub mod config;
pub mod policy;
pub mod pop3;
pub mod record;
pub mod relay;
pub mod tap;
