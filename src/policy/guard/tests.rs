//! Rules in a session.
