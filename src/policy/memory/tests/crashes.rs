//! Torn and damaged files, disks that fail, and crashes between any two steps.

use super::*;

/// A file with three batches, and where each ends.
fn three_batches() -> (Vec<u8>, [usize; 3]) {
    let batches = [&[1, 2, 3][..], &[4], &[5, 6]].map(|numbers| {
        let day = Day::try_from(TODAY).unwrap();
        format::batch(&numbers.iter().map(|number| (mark(*number), day)).collect::<Vec<_>>())
    });
    let octets = [&format::header(0)[..], &batches.concat()].concat();
    let mut end = format::HEADER;
    let ends = batches.map(|batch| {
        end += batch.len();
        end
    });
    (octets, ends)
}

/// That the memory, whatever befell it, goes on: what it remembers next is there after the worst crash.
fn goes_on(platter: &Platter, memory: Memory) {
    let before = remembered(&memory);
    memory.remember(&marks(&[90, 91])).unwrap();
    drop(memory);
    let memory = on(&platter.after(Crash::Nothing), &Calendar::new(), LAZY).unwrap();
    assert_eq!(remembered(&memory), [&before[..], &[90, 91]].concat());
    assert_eq!(memory.dropped(), 0);
}

#[test]
fn a_file_cut_at_any_octet_has_the_batches_that_are_whole() {
    let (octets, ends) = three_batches();
    for length in 0..=octets.len() {
        let platter = Platter::holding(&octets[..length]);
        if length < format::HEADER {
            let error = on(&platter, &Calendar::new(), LAZY).err().unwrap();
            assert!(matches!(error, MemoryError::Foreign { .. }), "{length}: {error}");
            assert_eq!(platter.octets(), octets[..length]);
            continue;
        }
        let memory = on(&platter, &Calendar::new(), LAZY).unwrap();
        let whole = ends.iter().filter(|end| **end <= length).count();
        let expected: &[u8] = [&[][..], &[1, 2, 3], &[1, 2, 3, 4], &[1, 2, 3, 4, 5, 6]][whole];
        assert_eq!(remembered(&memory), expected, "{length}");
        let end = ends.into_iter().rfind(|end| *end <= length).unwrap_or(format::HEADER);
        assert_eq!(memory.dropped(), (length - end) as u64, "{length}");
        goes_on(&platter, memory);
    }
}

#[test]
fn a_bit_that_flips_costs_its_batch_and_no_other() {
    let (octets, ends) = three_batches();
    let left: [&[u8]; 3] = [&[4, 5, 6], &[1, 2, 3, 5, 6], &[1, 2, 3, 4]];
    for bit in format::HEADER * 8..octets.len() * 8 {
        let mut damaged = octets.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let platter = Platter::holding(&damaged);
        let memory = on(&platter, &Calendar::new(), LAZY).unwrap();
        let batch = ends.iter().position(|end| bit / 8 < *end).unwrap();
        let start = if batch == 0 { format::HEADER } else { ends[batch - 1] };
        assert_eq!(remembered(&memory), left[batch], "bit {bit}");
        assert_eq!(memory.dropped(), (ends[batch] - start) as u64, "bit {bit}");
        goes_on(&platter, memory);
    }
}

#[test]
fn a_write_that_fails_leaves_nothing_and_harms_nothing() {
    for failing in [
        &[Op::Append][..],
        &[Op::Append, Op::Truncate],
        &[Op::SyncData],
        &[Op::SyncData, Op::Truncate],
        &[Op::SyncData, Op::Draft],
        &[Op::SyncData, Op::SyncNames],
    ] {
        let (platter, calendar) = (Platter::default(), Calendar::new());
        let memory = on(&platter, &calendar, LAZY).unwrap();
        memory.remember(&marks(&[1, 2])).unwrap();
        platter.fail(failing);
        for _ in 0..2 {
            let error = memory.remember(&marks(&[2, 3, 4])).unwrap_err().to_string();
            settle(&memory);
            assert!(error.starts_with("cannot write"), "{failing:?}: {error}");
            assert!(error.contains("`/platter/shield.marks`: no storage space; nothing new is remembered"), "{error}");
            assert_eq!(remembered(&memory), [1, 2], "{failing:?}");
        }
        platter.fail(&[]);
        memory.remember(&marks(&[5])).unwrap();
        assert_eq!(remembered(&memory), [1, 2, 5], "{failing:?}");
        for crash in CRASHES {
            let memory = on(&platter.after(crash), &calendar, LAZY).unwrap();
            assert_eq!(remembered(&memory), [1, 2, 5], "{failing:?} {crash:?}");
            assert_eq!(memory.dropped(), 0, "{failing:?} {crash:?}");
        }
    }
}

#[test]
fn a_sync_that_fails_is_made_good_at_once_if_the_disk_lets_it() {
    let (platter, calendar) = (Platter::default(), Calendar::new());
    let memory = on(&platter, &calendar, LAZY).unwrap();
    memory.remember(&marks(&[1])).unwrap();
    platter.fail(&[Op::SyncData, Op::Truncate]);
    assert!(memory.remember(&marks(&[2])).is_err());
    settle(&memory);
    for crash in CRASHES {
        assert_eq!(remembered(&on(&platter.after(crash), &calendar, LAZY).unwrap()), [1], "{crash:?}");
    }
}

#[test]
fn what_a_failed_sync_has_given_up_is_written_again() {
    let (platter, calendar) = (Platter::default(), Calendar::new());
    let memory = on(&platter, &calendar, LAZY).unwrap();
    memory.remember(&marks(&[1])).unwrap();
    calendar.set(TODAY + KEEP);
    memory.seen(&marks(&[1]));
    // Nor can the file be written anew at once.
    platter.fail(&[Op::SyncData, Op::Draft]);
    assert!(memory.remember(&marks(&[2])).is_err());
    settle(&memory);
    platter.fail(&[]);
    memory.remember(&marks(&[3])).unwrap();
    calendar.set(TODAY + KEEP + 1);
    let memory = on(&platter.after(Crash::Nothing), &calendar, LAZY).unwrap();
    assert_eq!(remembered(&memory), [1, 3]);
    assert_eq!(memory.dropped(), 0);
}

#[test]
fn a_file_that_cannot_be_written_anew_is_used_on() {
    for failing in [Op::Draft, Op::Append, Op::SyncAll, Op::Replace, Op::SyncNames] {
        let (platter, calendar) = (Platter::default(), Calendar::new());
        let memory = on(&platter, &calendar, LAZY).unwrap();
        memory.remember(&marks(&[1, 2])).unwrap();
        platter.fail(&[failing]);
        memory.shared.compact();
        assert!(!platter.has_draft(), "{failing:?}");
        assert_eq!(remembered(&memory), [1, 2], "{failing:?}");
        if failing == Op::SyncNames {
            assert!(memory.remember(&marks(&[3])).is_err(), "after a crash the old file may be back");
        }
        platter.fail(&[]);
        memory.remember(&marks(&[3])).unwrap();
        for crash in CRASHES {
            let memory = on(&platter.after(crash), &calendar, LAZY).unwrap();
            assert_eq!(remembered(&memory), [1, 2, 3], "{failing:?} {crash:?}");
        }
    }
}

#[test]
fn what_was_seen_and_could_not_be_written_is_written_later() {
    let (platter, calendar) = (Platter::default(), Calendar::new());
    let memory = on(&platter, &calendar, LAZY).unwrap();
    memory.remember(&marks(&[1, 2])).unwrap();
    calendar.set(TODAY + KEEP);
    platter.fail(&[Op::Append]);
    memory.seen(&marks(&[1]));
    settle(&memory);
    platter.fail(&[]);
    // More than it waits for before it tries again.
    for number in 3..=104 {
        memory.remember(&marks(&[number])).unwrap();
    }
    settle(&memory);
    calendar.set(TODAY + KEEP + 1);
    let memory = on(&platter.after(Crash::Nothing), &calendar, LAZY).unwrap();
    assert!(memory.remembers(&mark(1)) && !memory.remembers(&mark(2)));
}

#[test]
fn a_disk_that_fails_while_it_is_opened() {
    let (octets, _) = three_batches();
    let torn = [&octets[..], b"torn"].concat();
    for (octets, failing, expected) in [
        (&octets, Op::Open, "cannot open `/platter/shield.marks`"),
        (&octets, Op::Read, "cannot read `/platter/shield.marks`"),
        (&octets, Op::SyncAll, "cannot bring to the disk what was found in"),
        (&octets, Op::SyncNames, "cannot bring to the disk what was found in"),
        (&torn, Op::Truncate, "cannot bring to the disk what was found in"),
    ] {
        let platter = Platter::holding(octets);
        platter.fail(&[failing]);
        let error = on(&platter, &Calendar::new(), LAZY).err().unwrap().to_string();
        assert!(error.contains(expected), "{failing:?}: {error}");
        assert_eq!(platter.octets(), *octets);
        platter.fail(&[]);
        assert_eq!(remembered(&on(&platter, &Calendar::new(), LAZY).unwrap()), [1, 2, 3, 4, 5, 6]);
    }
}

/// What a life came to, as its clients know it.
#[derive(Default)]
struct Life {
    /// Told that it is remembered.
    sure: Vec<u8>,
    /// Told that it is not, with the others beside it.
    refused: Vec<Vec<u8>>,
}

impl Life {
    fn remember(&mut self, memory: &Memory, numbers: &[u8]) {
        match memory.remember(&marks(numbers)) {
            Ok(()) => self.sure.extend(numbers),
            Err(_) => self.refused.push(numbers.to_vec()),
        }
        settle(memory);
    }

    /// A bit of everything.
    fn lead(&mut self, platter: &Platter) {
        let calendar = Calendar::new();
        let Ok(memory) = on(platter, &calendar, LAZY) else { return };
        self.remember(&memory, &[1, 2, 3]);
        self.remember(&memory, &[4]);
        calendar.set(TODAY + 1);
        memory.seen(&marks(&[1, 4]));
        settle(&memory);
        memory.shared.compact();
        self.remember(&memory, &[5, 6]);
        self.remember(&memory, &[7, 8]);
        memory.seen(&marks(&[1, 2]));
        drop(memory);
        let Ok(memory) = on(platter, &calendar, LAZY) else { return };
        self.remember(&memory, &[9, 10, 11]);
    }

    fn check(&self, memory: &Memory, what: &str) {
        let found = remembered(memory);
        assert!(self.sure.iter().all(|number| found.contains(number)), "{what}: {:?} in {found:?}", self.sure);
        for batch in &self.refused {
            let there = batch.iter().filter(|number| found.contains(number)).count();
            assert!(there == 0 || there == batch.len(), "{what}: all or none of {batch:?} in {found:?}");
        }
        let known: Vec<_> = self.refused.iter().flatten().chain(&self.sure).collect();
        assert!(found.iter().all(|number| known.contains(&number)), "{what}: {found:?}");
    }
}

#[test]
fn a_crash_between_any_two_steps_loses_nothing_that_was_promised() {
    let whole = Platter::default();
    Life::default().lead(&whole);
    let steps = whole.done();
    assert!(steps > 20, "{steps}");
    for step in 0..=steps {
        let (platter, mut life) = (Platter::default(), Life::default());
        platter.stop_after(step);
        life.lead(&platter);
        assert_eq!(step == steps, life.refused.is_empty() && life.sure.len() == 11, "{step}");
        for crash in CRASHES {
            let what = format!("step {step}, {crash:?}");
            let platter = platter.after(crash);
            let mut life = Life { sure: life.sure.clone(), refused: life.refused.clone() };
            let memory = on(&platter, &Calendar::new(), LAZY).unwrap_or_else(|error| panic!("{what}: {error}"));
            life.check(&memory, &what);
            life.remember(&memory, &[12, 13]);
            // What it found it has, whoever was told what.
            life.sure = remembered(&memory);
            drop(memory);
            for crash in CRASHES {
                let memory = on(&platter.after(crash), &Calendar::new(), LAZY).unwrap();
                life.check(&memory, &format!("{what}, {crash:?}"));
            }
        }
    }
}
