//! The transcript: events → redacted records → the store.
pub mod schema;
