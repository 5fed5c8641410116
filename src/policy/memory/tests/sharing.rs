//! Two processes with one directory, as while one replaces the other. Locks of one process hold off those of another memory in it, too.

use std::sync::Barrier;

use super::*;

fn join(directory: &Path) -> Memory {
    Memory::join(directory, days(KEEP), Calendar::new().now()).unwrap()
}

/// One that was there, and one that is to replace it.
fn pair(directory: &Path) -> (Memory, Memory) {
    let old = open(directory).unwrap();
    old.remember(&marks(&[1])).unwrap();
    old.share().unwrap();
    let new = join(directory);
    (old, new)
}

fn known(memory: &Memory) -> Vec<u8> {
    memory.refresh().unwrap();
    remembered(memory)
}

#[test]
fn each_finds_what_the_other_has_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = pair(directory.path());
    assert_eq!(remembered(&new), [1]);
    new.remember(&marks(&[2])).unwrap();
    old.remember(&marks(&[3])).unwrap();
    new.remember(&marks(&[4])).unwrap();
    assert_eq!((known(&old), known(&new)), (vec![1, 2, 3, 4], vec![1, 2, 3, 4]));
    let third = join(directory.path());
    third.remember(&marks(&[5])).unwrap();
    drop(new);
    assert_eq!((known(&old), known(&third)), (vec![1, 2, 3, 4, 5], vec![1, 2, 3, 4, 5]));
    drop((old, third));
    assert_eq!(remembered(&open(directory.path()).unwrap()), [1, 2, 3, 4, 5]);
}

#[test]
fn a_file_that_one_writes_anew_is_found_by_the_other_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = pair(directory.path());
    new.remember(&marks(&[2])).unwrap();
    // It does not know of 2 before its turn.
    old.shared.compact();
    assert_eq!(known(&new), [1, 2]);
    new.remember(&marks(&[3])).unwrap();
    new.shared.compact();
    new.shared.compact();
    old.remember(&marks(&[4])).unwrap();
    assert_eq!((known(&old), known(&new)), (vec![1, 2, 3, 4], vec![1, 2, 3, 4]));
    drop((old, new));
    assert_eq!(remembered(&open(directory.path()).unwrap()), [1, 2, 3, 4]);
}

#[test]
fn strangers_stay_out_as_long_as_one_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let alone = open(directory.path()).unwrap();
    let refused = Memory::join(directory.path(), days(KEEP), Calendar::new().now()).err().unwrap();
    assert!(matches!(refused, MemoryError::Held { .. }), "nobody let it in: {refused}");
    drop(alone);
    let (old, new) = pair(directory.path());
    drop(old);
    assert!(matches!(open(directory.path()).err().unwrap(), MemoryError::Held { .. }));
    drop(new);
    open(directory.path()).unwrap();
}

#[test]
fn what_another_process_tore_in_its_crash_is_cut_off_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = pair(directory.path());
    let path = directory.path().join("shield.marks");
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    let batch = format::batch(&[(mark(2), 20_700)]);
    io::Write::write_all(&mut file, &batch).unwrap();
    io::Write::write_all(&mut file, &batch[..20]).unwrap();
    new.remember(&marks(&[3])).unwrap();
    assert_eq!((known(&old), known(&new)), (vec![1, 2, 3], vec![1, 2, 3]));
    drop((old, new));
    let memory = open(directory.path()).unwrap();
    assert_eq!((remembered(&memory), memory.dropped()), (vec![1, 2, 3], 0));
}

#[test]
fn days_are_those_of_whoever_saw_it_last() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (Calendar::new(), Calendar::new());
    let at = |calendar: &Calendar| Memory::join(directory.path(), days(KEEP), calendar.now()).unwrap();
    let (old, new) = (at(&first), at(&second));
    old.remember(&marks(&[1, 2])).unwrap();
    new.refresh().unwrap();
    second.set(TODAY + KEEP);
    new.seen(&marks(&[1]));
    first.set(TODAY + KEEP + 1);
    // 2 has expired, and 1 was seen by the other.
    old.shared.compact();
    drop((old, new));
    let calendar = Calendar::new();
    calendar.set(TODAY + KEEP + 1);
    assert_eq!(remembered(&at(&calendar)), [1]);
}

#[test]
fn many_at_a_time_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let memories: Vec<_> = (0..4).map(|_| join(directory.path())).collect();
    let barrier = Barrier::new(memories.len());
    thread::scope(|scope| {
        for (at, memory) in memories.iter().enumerate() {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                for step in 0..20_u8 {
                    memory.remember(&marks(&[u8::try_from(at).unwrap() * 20 + step])).unwrap();
                    if step % 5 == 0 {
                        memory.shared.compact();
                    }
                    memory.seen(&marks(&[step]));
                }
            });
        }
    });
    let all: Vec<u8> = (0..80).collect();
    for memory in &memories {
        assert_eq!(known(memory), all);
    }
    drop(memories);
    assert_eq!(remembered(&open(directory.path()).unwrap()), all);
}
