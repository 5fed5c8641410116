//! What the modules share.

pub mod http;
pub mod mailbox;
pub mod odd;
pub mod outside;
pub mod play;
pub mod process;
pub mod rules;
pub mod secure;
pub mod sockets;
pub mod witness;
