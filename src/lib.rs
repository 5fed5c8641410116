//! poptap
#![allow(unused_imports)]
pub mod config;
pub mod net;
pub mod pop3;
pub mod record;
pub mod tap;
pub mod tls;
