//! Copies of stores made by hand.
