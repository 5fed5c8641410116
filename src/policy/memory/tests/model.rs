//! Random lives beside a model of them.

use std::collections::HashMap;

use proptest::{collection::vec, prelude::*};

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Remember(Vec<u8>),
    Seen(Vec<u8>),
    /// The clock moves, forth or back.
    Days(i64),
    Compact,
    Reopen,
    Crash(Crash),
}

fn step() -> impl Strategy<Value = Step> {
    let numbers = || vec(0..NUMBERS, 0..8);
    prop_oneof![
        4 => numbers().prop_map(Step::Remember),
        4 => numbers().prop_map(Step::Seen),
        2 => (-40..45_i64).prop_map(Step::Days),
        2 => (0..5_i64).prop_map(Step::Days),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
        2 => proptest::sample::select(&CRASHES[..]).prop_map(Step::Crash),
    ]
}

const NUMBERS: u8 = 24;

const LIMIT: usize = 16;

/// What is known of an entry. Of its day, two bounds: which clock readings a crash has made the memory forget is not modelled.
#[derive(Clone, Copy, Default)]
struct Entry {
    low: u64,
    high: u64,
    /// As `low`, after the worst crash.
    synced: u64,
    /// It has never been past its time, so it is there.
    sure: bool,
}

struct Model {
    entries: HashMap<u8, Entry>,
    today: u64,
    /// The latest that the clock has been.
    latest: u64,
}

impl Model {
    fn stamp(&self) -> (u64, u64) {
        let known = self.entries.values().filter(|entry| entry.sure).map(|entry| entry.synced).max().unwrap_or(0);
        (self.today.max(known), self.latest)
    }

    fn days(&mut self, days: i64) -> u64 {
        self.today = self.today.saturating_add_signed(days);
        self.latest = self.latest.max(self.today);
        self.doubt();
        self.today
    }

    /// What is past its time may go whenever the file is written anew.
    fn doubt(&mut self) {
        for entry in self.entries.values_mut() {
            entry.sure &= self.today <= entry.low + KEEP;
        }
    }

    fn remembered(&mut self, numbers: &[u8], synced: bool) {
        let (low, high) = self.stamp();
        for number in numbers {
            let entry = self.entries.entry(*number).or_default();
            (entry.low, entry.high, entry.sure) = (entry.low.max(low), high, true);
        }
        if synced {
            self.entries.values_mut().for_each(|entry| entry.synced = entry.low);
        }
    }

    fn seen(&mut self, numbers: &[u8]) {
        let (low, high) = self.stamp();
        for number in numbers {
            let entry = self.entries.get_mut(number).unwrap();
            (entry.low, entry.high, entry.sure) = (entry.low.max(low), high, true);
        }
    }

    /// The file is read again, after a crash or not.
    fn reopened(&mut self, worst: bool) {
        for entry in self.entries.values_mut() {
            if worst {
                entry.low = entry.synced;
                // What it was raised to is lost, and the clock has been past the rest.
                entry.sure &= self.latest <= entry.low + KEEP;
            }
            entry.synced = entry.low;
        }
        self.doubt();
    }

    /// Whether so many may be refused for want of room.
    fn may_be_full(&self, numbers: &[u8]) -> bool {
        let there = |number: &u8| self.entries.get(number).is_some_and(|entry| self.today <= entry.high + KEEP);
        (0..NUMBERS).filter(|number| there(number) || numbers.contains(number)).count() > LIMIT
    }

    fn check(&self, memory: &Memory) {
        let found = remembered(memory);
        assert!(found.len() <= LIMIT);
        assert!(found.iter().all(|number| self.entries.contains_key(number)), "{found:?}");
        for (number, entry) in &self.entries {
            assert!(!entry.sure || found.contains(number), "{number} is in {found:?}");
        }
    }

    fn check_opened(&self, memory: &Memory) {
        for (number, entry) in &self.entries {
            let expired = self.today > entry.high + KEEP;
            assert!(!expired || !memory.remembers(&mark(*number)), "{number} has expired");
        }
    }
}

fn live(steps: Vec<Step>, small: u64) {
    let limits = Limits { entries: LIMIT, small };
    let (mut platter, calendar) = (Platter::default(), Calendar::new());
    let mut model = Model { entries: HashMap::new(), today: TODAY, latest: TODAY };
    let mut memory = on(&platter, &calendar, limits).unwrap();
    for step in steps {
        match step {
            Step::Remember(numbers) => {
                let synced = numbers.iter().any(|number| !memory.remembers(&mark(*number)));
                match memory.remember(&marks(&numbers)) {
                    Ok(()) => model.remembered(&numbers, synced),
                    Err(error) => assert!(model.may_be_full(&numbers), "{error}"),
                }
            }
            Step::Seen(mut numbers) => {
                numbers.retain(|number| memory.remembers(&mark(*number)));
                memory.seen(&marks(&numbers));
                model.seen(&numbers);
            }
            Step::Days(days) => calendar.set(model.days(days)),
            Step::Compact => memory.shared.compact(),
            Step::Reopen => {
                drop(memory);
                memory = on(&platter, &calendar, limits).unwrap();
                model.reopened(false);
                model.check_opened(&memory);
            }
            Step::Crash(crash) => {
                settle(&memory);
                platter = platter.after(crash);
                memory = on(&platter, &calendar, limits).unwrap();
                model.reopened(!matches!(crash, Crash::Process));
                model.check_opened(&memory);
            }
        }
        settle(&memory);
        model.check(&memory);
    }
}

proptest! {
    #[test]
    fn any_life_is_as_the_model_has_it(steps in vec(step(), 0..60), small in prop_oneof![Just(0), Just(400), Just(u64::MAX)]) {
        live(steps, small);
    }
}
