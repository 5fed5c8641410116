use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    sync::atomic::AtomicU64,
};

use super::*;
use platter::{CRASHES, Crash, Op, Platter};

mod crashes;
mod model;
mod platter;
mod sharing;

/// A day in 2026.
const TODAY: u64 = 20_700;

const KEEP: u64 = 30;

/// Never compacts by itself.
const LAZY: Limits = Limits { entries: 1000, small: u64::MAX };

/// Compacts whenever more than half is superseded.
const EAGER: Limits = Limits { entries: 1000, small: 0 };

/// A clock that says what day it is told.
#[derive(Clone)]
struct Calendar(Arc<AtomicU64>);

impl Calendar {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(TODAY)))
    }

    fn set(&self, day: u64) {
        self.0.store(day, Ordering::SeqCst);
    }

    fn now(&self) -> impl Fn() -> SystemTime + Send + Sync + 'static {
        let day = Arc::clone(&self.0);
        move || UNIX_EPOCH + Duration::from_secs(day.load(Ordering::SeqCst) * DAY + DAY / 2)
    }
}

fn days(days: u64) -> Duration {
    Duration::from_secs(days * DAY)
}

fn on(platter: &Platter, calendar: &Calendar, limits: Limits) -> Result<Memory, MemoryError> {
    Memory::assemble(Box::new(platter.clone()), days(KEEP), Box::new(calendar.now()), limits)
}

fn open(directory: &Path) -> Result<Memory, MemoryError> {
    Memory::open(directory, days(KEEP), Calendar::new().now())
}

/// A memory whose disk is full.
pub(in crate::policy) fn full() -> Memory {
    let platter = Platter::default();
    let memory = on(&platter, &Calendar::new(), LAZY).unwrap();
    platter.fail(&[Op::Append, Op::SyncData]);
    memory
}

/// The mark of a number. Not spread as hashes are, which does not matter here.
fn mark(number: u8) -> Mark {
    Mark([number; 16])
}

fn marks(numbers: &[u8]) -> Vec<Mark> {
    numbers.iter().copied().map(mark).collect()
}

/// Which numbers' marks are remembered.
fn remembered(memory: &Memory) -> Vec<u8> {
    let numbers: Vec<_> = (0..=u8::MAX).filter(|number| memory.remembers(&mark(*number))).collect();
    assert_eq!(memory.len(), numbers.len());
    assert_eq!(memory.is_empty(), numbers.is_empty());
    numbers
}

/// Waits for the thread that writes the file anew.
fn settle(memory: &Memory) {
    join(&mut lock(&memory.compaction));
}

#[test]
fn a_mark_is_of_one_message_in_one_mailbox_and_shows_none_of_its_names() {
    let directory = tempfile::tempdir().unwrap();
    let memory = open(directory.path()).unwrap();
    let own = memory.account("work", "Jürgen@Example.org").mark(b"UID-4711");
    for (upstream, user, uid, same) in [
        ("work", "Jürgen@Example.org", "UID-4711", true),
        ("work", "JÜRGEN@example.ORG", "UID-4711", true),
        ("Work", "Jürgen@Example.org", "UID-4711", false),
        ("work", "jurgen@example.org", "UID-4711", false),
        ("work", "Jürgen@Example.org", "uid-4711", false),
        ("work", "Jürgen@Example.org", "", false),
        ("", "work", "Jürgen@Example.org\0UID-4711", false),
    ] {
        assert_eq!(memory.account(upstream, user).mark(uid.as_bytes()) == own, same, "{upstream} {user} {uid}");
    }
    let whole = aws_lc_rs::digest::digest(&SHA256, "work\0jürgen@example.org\0UID-4711".as_bytes());
    assert_eq!(own.0, whole.as_ref()[..16]);

    memory.remember(&[own]).unwrap();
    let written = fs::read(directory.path().join("shield.marks")).unwrap().to_ascii_lowercase();
    for name in ["work", "rgen", "example", "4711"] {
        assert!(memchr::memmem::find(&written, name.as_bytes()).is_none(), "{name}");
    }
    assert!(memchr::memmem::find(&written, &own.0.to_ascii_lowercase()).is_some());
}

#[test]
fn what_is_remembered_is_remembered_by_the_next_process() {
    let directory = tempfile::tempdir().unwrap();
    let memory = open(directory.path()).unwrap();
    assert!(remembered(&memory).is_empty());
    memory.remember(&marks(&[1, 2, 2, 1])).unwrap();
    memory.remember(&marks(&[3, 2])).unwrap();
    memory.remember(&[]).unwrap();
    assert_eq!(remembered(&memory), [1, 2, 3]);
    drop(memory);
    let memory = open(directory.path()).unwrap();
    assert_eq!(remembered(&memory), [1, 2, 3]);
    assert_eq!(memory.dropped(), 0);
}

#[test]
fn directory_and_files_are_for_their_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b");
    let memory = open(&path).unwrap();
    memory.remember(&marks(&[1])).unwrap();
    memory.shared.compact();
    for (name, mode) in [("", 0o700), ("..", 0o700), ("shield.marks", 0o600), ("shield.lock", 0o600)] {
        assert_eq!(fs::metadata(path.join(name)).unwrap().mode() & 0o777, mode, "{name}");
    }
    assert_eq!(fs::read_dir(&path).unwrap().count(), 2);
}

#[test]
fn one_memory_at_a_time_has_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let memory = open(directory.path()).unwrap();
    let error = open(directory.path()).err().unwrap();
    assert!(matches!(error, MemoryError::Held { .. }), "{error}");
    assert!(error.to_string().contains("is in use; hint: is another poptap running?"), "{error}");
    memory.remember(&marks(&[1])).unwrap();
    drop(memory);
    assert_eq!(remembered(&open(directory.path()).unwrap()), [1]);
}

#[test]
fn directories_that_will_not_do() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    fs::write(place("file"), "").unwrap();
    fs::create_dir(place("shared")).unwrap();
    fs::set_permissions(place("shared"), fs::Permissions::from_mode(0o770)).unwrap();
    fs::create_dir_all(place("blocked/shield.marks.new")).unwrap();
    fs::create_dir_all(place("folder/shield.marks")).unwrap();
    for (path, expected) in [
        (place("file"), "cannot create the shield's directory"),
        (place("file/below"), "cannot create the shield's directory"),
        (place("shared"), "may be written to by others; hint: `chmod 700` it"),
        (place("blocked"), "cannot write to the shield's directory"),
        (place("folder"), "cannot open"),
        // Ours, and not even root may create a file in it.
        (PathBuf::from("/proc/self/task"), "cannot make a lock in the shield's directory `/proc/self/task`"),
    ] {
        let error = open(&path).err().unwrap().to_string();
        assert!(error.contains(expected), "{}: {error}", path.display());
    }
}

#[test]
fn a_file_that_is_none_of_ours_is_left_as_it_is() {
    let mut newer = format::header(7);
    newer[8] = 2;
    let check = aws_lc_rs::digest::digest(&SHA256, &newer[..12]);
    newer[12..].copy_from_slice(&check.as_ref()[..4]);
    let mut damaged = format::header(7);
    damaged[10] ^= 1;
    for (octets, problem) in [
        (&b""[..], "it is empty"),
        (b"Dear diary", "it begins otherwise"),
        (b"a longer text than any header would be", "it begins otherwise"),
        (&format::header(7)[..8], "it ends within its header"),
        (&format::header(7)[..15], "it ends within its header"),
        (&newer, "another version of poptap"),
        (&damaged, "its header is damaged"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shield.marks");
        fs::write(&path, octets).unwrap();
        let error = open(directory.path()).err().unwrap();
        assert!(matches!(error, MemoryError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains(problem), "{problem}: {error}");
        assert!(error.to_string().ends_with("hint: move it away to begin with an empty one"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), octets, "{problem}");
    }
}

#[test]
fn the_file_is_as_it_is_described() {
    let platter = Platter::default();
    let memory = on(&platter, &Calendar::new(), LAZY).unwrap();
    memory.remember(&marks(&[2, 1])).unwrap();
    let day = [0xdc, 0x50]; // 20,700
    let check = |octets: &[u8], length: usize| aws_lc_rs::digest::digest(&SHA256, octets).as_ref()[..length].to_vec();
    let header = [&b"\x89PTSHLD\n\x01\0"[..], &[0, 0]].concat();
    let entries = [&[1; 16][..], &day, &[2; 16], &day].concat();
    let number = [2, 0, 0, 0];
    let expected = [
        &header[..],
        &check(&header, 4),
        b"\xb5mrk",
        &number,
        &check(&[&b"\xb5mrk"[..], &number, &entries].concat(), 8),
        &entries,
    ];
    assert_eq!(platter.octets(), expected.concat());
    memory.shared.compact();
    assert_eq!(platter.octets()[10..12], day);
}

#[test]
fn entries_expire_when_they_were_not_seen_for_long_enough() {
    for (keep, seen, opened, expected) in [
        (days(30), None, 30, true),
        (days(30), None, 31, false),
        (days(30), Some(10), 40, true),
        (days(30), Some(10), 41, false),
        (days(30) + Duration::from_nanos(1), None, 31, true),
        (Duration::ZERO, None, 0, true),
        (Duration::ZERO, None, 1, false),
        (Duration::MAX, None, 1_000_000, true),
    ] {
        let (platter, calendar) = (Platter::default(), Calendar::new());
        let open = || Memory::assemble(Box::new(platter.clone()), keep, Box::new(calendar.now()), LAZY).unwrap();
        let memory = open();
        memory.remember(&marks(&[1])).unwrap();
        if let Some(day) = seen {
            calendar.set(TODAY + day);
            memory.seen(&marks(&[1, 2]));
            assert_eq!(remembered(&memory), [1]);
        }
        calendar.set(TODAY + opened);
        drop(memory);
        assert_eq!(open().remembers(&mark(1)), expected, "opened again: {keep:?} {seen:?} {opened}");
        calendar.set(TODAY);
        let memory = open();
        calendar.set(TODAY + opened);
        memory.shared.compact();
        assert_eq!(memory.remembers(&mark(1)), expected, "compacted: {keep:?} {seen:?} {opened}");
    }
}

#[test]
fn what_was_seen_today_already_is_not_written_again() {
    let (platter, calendar) = (Platter::default(), Calendar::new());
    let memory = on(&platter, &calendar, LAZY).unwrap();
    memory.remember(&marks(&[1, 2])).unwrap();
    let before = platter.done();
    memory.seen(&marks(&[1, 2, 3]));
    memory.remember(&marks(&[2, 1])).unwrap();
    assert_eq!(platter.done(), before);
    calendar.set(TODAY + 1);
    memory.seen(&marks(&[1, 2]));
    assert_eq!(platter.done(), before + 1, "one write, no sync");
    memory.seen(&marks(&[2, 1]));
    assert_eq!(platter.done(), before + 1);
}

#[test]
fn what_is_seen_while_the_file_is_in_use_is_written_by_the_next_call() {
    let (platter, calendar) = (Platter::default(), Calendar::new());
    let memory = on(&platter, &calendar, LAZY).unwrap();
    memory.remember(&marks(&[1])).unwrap();
    calendar.set(TODAY + KEEP);
    let file = memory.shared.file();
    memory.seen(&marks(&[1]));
    drop(file);
    memory.remember(&marks(&[2])).unwrap();
    calendar.set(TODAY + 2 * KEEP);
    assert_eq!(remembered(&on(&platter.after(Crash::Process), &calendar, LAZY).unwrap()), [1, 2]);
}

#[test]
fn a_clock_that_goes_back_expires_nothing() {
    let (platter, calendar) = (Platter::default(), Calendar::new());
    let memory = on(&platter, &calendar, LAZY).unwrap();
    memory.remember(&marks(&[1])).unwrap();
    calendar.set(0);
    memory.remember(&marks(&[2])).unwrap();
    memory.seen(&marks(&[1]));
    memory.shared.compact();
    drop(memory);
    let memory = on(&platter, &calendar, LAZY).unwrap();
    memory.remember(&marks(&[3])).unwrap();
    calendar.set(TODAY + KEEP);
    memory.shared.compact();
    assert_eq!(remembered(&memory), [1, 2, 3]);
}

#[test]
fn the_latest_day_outlives_the_entries_that_it_is_known_from() {
    let (platter, calendar) = (Platter::default(), Calendar::new());
    let memory = on(&platter, &calendar, LAZY).unwrap();
    memory.remember(&marks(&[1])).unwrap();
    calendar.set(TODAY + KEEP + 1);
    memory.shared.compact();
    assert!(remembered(&memory).is_empty());
    drop(memory);
    calendar.set(3);
    let memory = on(&platter, &calendar, LAZY).unwrap();
    memory.remember(&marks(&[2])).unwrap();
    calendar.set(TODAY + KEEP + 1);
    memory.shared.compact();
    assert_eq!(remembered(&memory), [2]);
}

#[test]
fn a_full_memory_says_so_and_drops_nothing() {
    let limits = Limits { entries: 3, small: u64::MAX };
    let (platter, calendar) = (Platter::default(), Calendar::new());
    let memory = on(&platter, &calendar, limits).unwrap();
    memory.remember(&marks(&[1, 2])).unwrap();
    let error = memory.remember(&marks(&[3, 4])).unwrap_err();
    assert!(matches!(error, MemoryError::Full { limit: 3, .. }), "{error}");
    assert_eq!(remembered(&memory), [1, 2]);
    memory.remember(&marks(&[3, 1, 3, 2])).unwrap();
    memory.remember(&marks(&[1, 2, 3])).unwrap();
    assert!(memory.remember(&marks(&[4])).is_err());
    drop(memory);
    let memory = on(&platter, &calendar, limits).unwrap();
    assert_eq!(remembered(&memory), [1, 2, 3]);
    calendar.set(TODAY + KEEP);
    memory.seen(&marks(&[2]));
    calendar.set(TODAY + KEEP + 1);
    memory.remember(&marks(&[4, 5])).unwrap();
    assert_eq!(remembered(&memory), [2, 4, 5], "what has expired makes room");
    drop(memory);
    calendar.set(TODAY);
    let memory = on(&platter, &calendar, limits).unwrap();
    assert_eq!(remembered(&memory), [2, 4, 5], "a clock that goes back does not bring back what had to make room");
    drop(memory);
    let error = on(&platter, &calendar, Limits { entries: 2, ..limits }).err().unwrap();
    assert!(matches!(error, MemoryError::Full { limit: 2, .. }), "{error}");
}

#[test]
fn too_many_at_once() {
    let memory = on(&Platter::default(), &Calendar::new(), LAZY).unwrap();
    let error = memory.remember(&vec![mark(1); format::BATCH + 1]).unwrap_err();
    assert_eq!(error.to_string(), "cannot remember 1048577 messages at once, 1048576 at most");
    assert!(remembered(&memory).is_empty());
}

#[test]
fn the_file_is_written_anew_when_more_than_half_of_it_is_superseded() {
    let (platter, calendar) = (Platter::default(), Calendar::new());
    let memory = on(&platter, &calendar, EAGER).unwrap();
    let numbers: Vec<_> = (0..100).collect();
    memory.remember(&marks(&numbers)).unwrap();
    let length = platter.octets().len();
    calendar.set(TODAY + 1);
    for numbers in [&numbers[..50], &numbers[50..95]] {
        memory.seen(&marks(numbers));
        settle(&memory);
        assert!(platter.octets().len() > length, "less than half is superseded");
    }
    calendar.set(TODAY + 2);
    memory.seen(&marks(&numbers[..20]));
    settle(&memory);
    assert_eq!(platter.octets().len(), length);
    assert_eq!(remembered(&memory), numbers);
    calendar.set(TODAY + KEEP + 2);
    memory.seen(&marks(&numbers[..10]));
    settle(&memory);
    assert_eq!(remembered(&memory), numbers[..20], "what has expired is superseded too");
    drop(memory);
    assert_eq!(remembered(&on(&platter, &calendar, EAGER).unwrap()), numbers[..20]);
}

#[test]
fn a_file_of_many_batches_is_read_piece_by_piece() {
    let entry = |number: u32| {
        let mut octets = [7; 16];
        octets[..4].copy_from_slice(&number.to_le_bytes());
        (Mark(octets), 20_700)
    };
    let mut octets = format::header(0).to_vec();
    let mut number = 0;
    for size in [1, 60_000, 3, 20_000, 100_000, 1, 1, 50_000] {
        octets.extend(format::batch(&(number..number + size).map(entry).collect::<Vec<_>>()));
        number += size;
    }
    octets.extend(vec![0xb5; 3_000_000]);
    octets.extend(format::batch(&[entry(number)]));
    let limits = Limits { entries: 1_000_000, small: u64::MAX };
    let memory = on(&Platter::holding(&octets), &Calendar::new(), limits).unwrap();
    assert_eq!(memory.len(), usize::try_from(number).unwrap() + 1);
    assert!((0..=number).all(|number| memory.remembers(&entry(number).0)));
    assert_eq!(memory.dropped(), 3_000_000);
}

#[test]
fn a_file_that_somebody_removes_is_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shield.marks");
    let memory = open(directory.path()).unwrap();
    memory.remember(&marks(&[1])).unwrap();
    fs::remove_file(&path).unwrap();
    memory.remember(&marks(&[1])).unwrap();
    assert!(path.exists());
    fs::remove_file(&path).unwrap();
    memory.remember(&marks(&[2])).unwrap();
    drop(memory);
    assert_eq!(remembered(&open(directory.path()).unwrap()), [1, 2]);
}

#[test]
fn who_has_lost_the_lock_replaces_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path()).unwrap();
    first.remember(&marks(&[1])).unwrap();
    fs::remove_file(directory.path().join("shield.lock")).unwrap();
    let second = open(directory.path()).unwrap();
    second.remember(&marks(&[2])).unwrap();
    first.shared.compact();
    fs::remove_file(directory.path().join("shield.marks")).unwrap();
    let error = first.remember(&marks(&[3])).unwrap_err().to_string();
    assert!(error.contains("its lock was removed or replaced"), "{error}");
    second.remember(&marks(&[4])).unwrap();
    drop((first, second));
    assert_eq!(remembered(&open(directory.path()).unwrap()), [1, 2, 4]);
}

#[test]
fn many_sessions_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let calendar = Calendar::new();
    let disk = Box::new(Directory::open(directory.path(), Tenure::Alone).unwrap());
    let memory = Memory::assemble(disk, days(KEEP), Box::new(calendar.now()), EAGER).unwrap();
    memory.remember(&marks(&[255])).unwrap();
    thread::scope(|scope| {
        for session in 0..4 {
            let (memory, calendar) = (&memory, &calendar);
            scope.spawn(move || {
                for message in 0..20 {
                    let own = mark(session * 20 + message);
                    memory.remember(&[own, mark(200 + message)]).unwrap();
                    calendar.set(TODAY + u64::from(message) / 4);
                    memory.seen(&[own, mark(session * 20), mark(255)]);
                    assert!(memory.remembers(&own) && memory.remembers(&mark(255)));
                }
            });
        }
    });
    let expected: Vec<_> = (0..80).chain(200..220).chain([255]).collect();
    assert_eq!(remembered(&memory), expected);
    drop(memory);
    assert_eq!(remembered(&open(directory.path()).unwrap()), expected);
}
