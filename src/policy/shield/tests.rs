//! The shield.
