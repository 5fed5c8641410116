//! The sessions that ended last, read off the end of the store.

use std::{collections::VecDeque, path::Path};

use super::{
    InspectError,
    filter::Facts,
    scan::Outline,
    store::{Store, Stream},
};

/// Octets that are read at most, of all files.
const OCTETS: u64 = 64 * 1024 * 1024;

/// Octets that are read of a file that is not compressed: its end.
const END: u64 = 2 * 1024 * 1024;

/// The summaries of the sessions that ended last, `limit` of them at most, the newest last. Where the newest files are large, they may
/// be fewer: 64 MiB of lines are read and no more.
///
/// # Errors
///
/// When the directory is missing or unreadable.
pub fn recent(directory: &Path, limit: usize) -> Result<Vec<String>, InspectError> {
    let store = Store::new(directory);
    let (mut newest, mut left, outline) = (Vec::new(), OCTETS, Outline::new());
    for segment in store.segments(Stream::Sessions)?.iter().rev() {
        if newest.len() >= limit || left == 0 {
            break;
        }
        let Some(mut lines) = store.open_end(segment, END) else { continue };
        let mut last = VecDeque::new();
        while left > 0 && lines.advance() {
            left = left.saturating_sub(lines.line().len() as u64);
            if outline.kind(lines.line()) == Some(b"session") {
                last.push_back(String::from_utf8_lossy(lines.line()).into_owned());
                if last.len() > limit {
                    last.pop_front();
                }
            }
        }
        newest.extend(last.into_iter().filter_map(|line| Some((ended(&line)?, line))));
    }
    // Several processes may write at the same time.
    newest.sort();
    let surplus = newest.len().saturating_sub(limit);
    Ok(newest.into_iter().skip(surplus).map(|(_, line)| line).collect())
}

/// When it ended; `None` where it is no summary after all.
fn ended(line: &str) -> Option<String> {
    let facts = serde_json::from_str::<Facts<'_>>(line).ok()?;
    (facts.are_whole() && facts.event == "session").then(|| facts.recorded().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Shelf, summary};
    use super::*;

    fn ids(shelf: &Shelf, limit: usize) -> String {
        let id = |line: String| line.split('"').nth(5).unwrap().to_owned();
        recent(shelf.path(), limit).unwrap().into_iter().map(id).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_newest_of_all_files_and_the_newest_last() {
        let old = zstd::encode_all((summary("a", 1, "x", "y") + &summary("b", 2, "x", "y")).as_bytes(), 1).unwrap();
        let shelf = Shelf::new()
            .with("sessions-20261122T063000Z-100-1.jsonl.zst", old)
            .with("sessions-20261123T063000Z-100-2.jsonl", summary("d", 5, "x", "y") + "{\"event\":\"session\"}\n{torn")
            .with("sessions-20261123T063000Z-200-1.jsonl.open", summary("c", 4, "x", "y") + &summary("e", 6, "x", "y"));
        assert_eq!(ids(&shelf, 9), "a b c d e");
        assert_eq!(ids(&shelf, 3), "c d e");
        assert_eq!(ids(&shelf, 0), "");
    }

    #[test]
    fn of_a_large_file_the_end_is_read() {
        let lines: String = (0..6000).map(|at| summary(&format!("s{at}"), at % 60, "x", "y").replace(":30:", ":31:")).collect();
        assert!(lines.len() as u64 > END);
        let shelf = Shelf::new().with("sessions-20261123T063000Z-100-1.jsonl", lines);
        assert_eq!(ids(&shelf, 5000).split(' ').count() as u64, recent(shelf.path(), 9999).unwrap().len() as u64);
        assert!(ids(&shelf, 9999).contains("s5999") && !ids(&shelf, 9999).contains("s0 "));
    }
}
