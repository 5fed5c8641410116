//! `poptap sessions diff`: two sessions, command by command.
//!
//! `steps` makes of each session a list of steps: its opening, each command with all that belongs to it, its end. `align` pairs the
//! steps of both, and then the lines of each pair; `page` shows what is left.

mod align;
mod normal;
mod page;
mod steps;

use std::{io::Write, path::Path};

use super::{InspectError, View, Which, each_record};
use steps::Side;

/// Commands of a session that are compared; the two sessions are in memory.
const MOST: usize = if cfg!(test) { 1000 } else { 200_000 };

/// What counts as a difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Whether numbers, times and ids inside of replies count, too.
    pub exact: bool,
    /// How far latencies count.
    pub timing: Timing,
}

/// How far latencies count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timing {
    /// Replies that took twice as long are told of, but make no difference.
    #[default]
    Told,
    /// They make a difference where one took so many per cent longer than the other.
    Counts(u32),
    /// Not at all.
    Ignored,
}

/// Compares two sessions of the store in `directory`. Returns whether they are the same.
///
/// Memory: that of the events of both sessions.
///
/// # Errors
///
/// As [`show`](super::show()); and when a session has more than 200,000 commands, or no events.
pub fn diff(
    directory: &Path,
    sessions: [&Which; 2],
    comparison: Comparison,
    view: View,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<bool, InspectError> {
    let [one, other] = sessions;
    let mut sides = [side(directory, one, comparison, err)?, side(directory, other, comparison, err)?];
    Side::forget_what_one_lacks(&mut sides);
    let found = align::compare(&sides, comparison.timing);
    let written = if view.json { page::json(&sides, &found, out) } else { page::text(&sides, &found, view.colour, out) };
    match written.and_then(|()| Ok(out.flush()?)) {
        Err(error) if !error.is_closed_pipe() => Err(error),
        _ => Ok(found.is_same()),
    }
}

fn side(directory: &Path, which: &Which, comparison: Comparison, err: &mut dyn Write) -> Result<Side, InspectError> {
    let mut side = Side::new(comparison.exact);
    each_record(directory, which, &mut |record| side.take(record), err)?;
    if side.commands() > MOST {
        return Err(InspectError::TooLong { id: side.id, most: MOST });
    }
    if side.is_silent() {
        return Err(InspectError::NothingSaid(side.id));
    }
    Ok(side)
}

#[cfg(test)]
mod tests;
