//! Exports of stores made by hand.
