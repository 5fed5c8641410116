//! poptap
#![allow(unused_imports)]
pub mod config;
pub mod inspect;
pub mod pop3;
pub mod record;
pub mod tap;
