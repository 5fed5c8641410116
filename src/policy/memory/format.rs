//! Octets of the file: written and read. [`super`] has the format.

use std::io;

use aws_lc_rs::digest::{SHA256, digest};
use memchr::memmem;

use super::{Day, Mark, disk::Marks};

/// Octets of the file's header.
pub(super) const HEADER: usize = 16;

/// Octets of an entry.
pub(super) const ENTRY: usize = 18;

/// Entries that a batch may hold: what has to be in memory at once to write or to check one is below 19 MB.
pub(super) const BATCH: usize = 1 << 20;

/// The format that is written, and the only one that is read.
const VERSION: u16 = 1;

/// The file's first octets; the first of them is in no text.
const MAGIC: [u8; 8] = *b"\x89PTSHLD\n";

/// A batch's first octets, looked for behind damage.
const TAG: [u8; 4] = *b"\xb5mrk";

/// Octets of a batch before its entries.
const BATCH_HEADER: usize = 16;

/// How much of the file is read at a time.
const CHUNK: usize = 1 << 20;

/// A header, which says the latest day that the clock was known to have reached.
pub(super) fn header(latest: Day) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header[10..12].copy_from_slice(&latest.to_le_bytes());
    let check = check(&header[..12]);
    header[12..].copy_from_slice(&check[..4]);
    header
}

/// The latest day that a header says, or why it is none.
pub(super) fn latest_in(header: &[u8]) -> Result<Day, &'static str> {
    match header {
        [] => Err("it is empty"),
        _ if !header.starts_with(&MAGIC) => Err("it begins otherwise"),
        _ if header.len() < HEADER => Err("it ends within its header"),
        _ if check(&header[..12])[..4] != header[12..HEADER] => Err("its header is damaged"),
        _ if number(&header[8..10]) != usize::from(VERSION) => {
            Err("another version of poptap has written it, in a format of its own")
        }
        _ => Ok(Day::from_le_bytes([header[10], header[11]])),
    }
}

/// A batch: all of its entries are read again, or none. At least one, at most [`BATCH`].
pub(super) fn batch(entries: &[(Mark, Day)]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(BATCH_HEADER + entries.len() * ENTRY);
    octets.extend(TAG);
    octets.extend(u32::try_from(entries.len()).unwrap_or(0).to_le_bytes());
    octets.extend([0; 8]);
    for (mark, day) in entries {
        octets.extend(mark.0);
        octets.extend(day.to_le_bytes());
    }
    let check = check_of_batch(&octets);
    octets[8..BATCH_HEADER].copy_from_slice(&check);
    octets
}

/// What a file was found to hold behind its header.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Where the last batch that is whole ends.
    pub(super) end: u64,
    /// Octets that belong to no such batch.
    pub(super) dropped: u64,
}

/// Reads all batches and gives out their entries. What is no batch is passed over.
pub(super) fn scan(file: &dyn Marks, length: u64, each: impl FnMut(Mark, Day)) -> io::Result<Found> {
    scan_from(file, HEADER as u64, length, each)
}

/// The same from `at` on, where a batch begins or the file ends.
pub(super) fn scan_from(file: &dyn Marks, mut at: u64, length: u64, mut each: impl FnMut(Mark, Day)) -> io::Result<Found> {
    let mut window = Window { file, length, start: 0, octets: Vec::new() };
    let mut found = Found { end: at, dropped: 0 };
    while at < length {
        if let Some(entries) = window.batch(at)? {
            entries.chunks_exact(ENTRY).for_each(|entry| {
                let (mark, day) = entry.split_at(ENTRY - 2);
                each(Mark::of(mark), Day::from_le_bytes([day[0], day[1]]));
            });
            at += (BATCH_HEADER + entries.len()) as u64;
            found.end = at;
        } else {
            let next = window.tag(at + 1)?;
            found.dropped += next - at;
            at = next;
        }
    }
    Ok(found)
}

/// A part of the file in memory.
struct Window<'a> {
    file: &'a dyn Marks,
    length: u64,
    start: u64,
    octets: Vec<u8>,
}

impl Window<'_> {
    /// So many octets; fewer at the end of the file.
    fn get(&mut self, at: u64, wanted: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.length.saturating_sub(at)).unwrap_or(usize::MAX);
        let wanted = wanted.min(left);
        let offset = at.checked_sub(self.start).and_then(|offset| usize::try_from(offset).ok());
        let held = offset.filter(|offset| offset.saturating_add(wanted) <= self.octets.len());
        let offset = if let Some(offset) = held {
            offset
        } else {
            self.octets.resize(wanted.max(CHUNK).min(left), 0);
            self.file.read_at(&mut self.octets, at)?;
            self.start = at;
            0
        };
        Ok(&self.octets[offset..offset + wanted])
    }

    /// The entries of the batch that begins here, if a whole one does.
    fn batch(&mut self, at: u64) -> io::Result<Option<&[u8]>> {
        let header = self.get(at, BATCH_HEADER)?;
        if header.len() < BATCH_HEADER || !header.starts_with(&TAG) {
            return Ok(None);
        }
        let count = number(&header[4..8]);
        if !(1..=BATCH).contains(&count) {
            return Ok(None);
        }
        let size = BATCH_HEADER + count * ENTRY;
        let octets = self.get(at, size)?;
        let whole = octets.len() == size && octets[8..BATCH_HEADER] == check_of_batch(octets);
        Ok(whole.then(|| &octets[BATCH_HEADER..]))
    }

    /// Where the next batch may begin; the end of the file when none does.
    fn tag(&mut self, mut at: u64) -> io::Result<u64> {
        loop {
            let octets = self.get(at, CHUNK)?;
            if let Some(offset) = memmem::find(octets, &TAG) {
                return Ok(at + offset as u64);
            }
            if octets.len() < CHUNK {
                return Ok(self.length);
            }
            at += (CHUNK - TAG.len() + 1) as u64;
        }
    }
}

fn check_of_batch(octets: &[u8]) -> [u8; 8] {
    let (header, entries) = octets.split_at(BATCH_HEADER);
    let mut context = aws_lc_rs::digest::Context::new(&SHA256);
    context.update(&header[..8]);
    context.update(entries);
    first_eight(context.finish().as_ref())
}

fn check(octets: &[u8]) -> [u8; 8] {
    first_eight(digest(&SHA256, octets).as_ref())
}

fn first_eight(octets: &[u8]) -> [u8; 8] {
    std::array::from_fn(|index| octets[index])
}

/// Little-endian, four octets at most.
fn number(octets: &[u8]) -> usize {
    octets.iter().rev().fold(0, |number, &octet| number << 8 | usize::from(octet))
}
