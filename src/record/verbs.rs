//! What became of a session's commands, by keyword: how many, how many were refused, and how long replies took.

use std::{borrow::Cow, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::pop3::{Keyword, Status};

/// How many classes of latency there are.
pub(crate) const CLASSES: usize = 22;

/// Latencies below so many microseconds are in the first class; each further class ends at twice where the one before ends.
const FIRST: u64 = 1 << FIRST_BITS;
const FIRST_BITS: u32 = 6;

/// The class that a latency, in microseconds, belongs to: 0 below 64 µs, `n` below 64 µs · 2ⁿ, the last one from 67.1 s on.
#[must_use]
pub(crate) fn class_of(latency_us: u64) -> usize {
    let bits = u64::BITS - latency_us.leading_zeros();
    (bits.saturating_sub(FIRST_BITS) as usize).min(CLASSES - 1)
}

/// Where a class ends, in microseconds; for the last one, where it begins.
#[must_use]
pub(crate) fn end_of(class: usize) -> u64 {
    FIRST << class.min(CLASSES - 2)
}

/// The commands with one keyword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verb {
    /// The keyword.
    pub keyword: Keyword,
    /// Commands.
    pub count: u32,
    /// `-ERR` replies.
    pub errors: u32,
    /// Replies in each class of latency, to their first line: [`class_of`].
    pub latency: [u32; CLASSES],
}

impl Verb {
    fn new(keyword: Keyword) -> Self {
        Self { keyword, count: 0, errors: 0, latency: [0; CLASSES] }
    }
}

/// The commands of one session that is over, in the order in which their keywords came. A copy shares them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verbs(Arc<Vec<Verb>>);

impl Verbs {
    /// None at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One for each keyword.
    pub fn iter(&self) -> impl Iterator<Item = &Verb> {
        self.0.iter()
    }

    /// Octets that they take in memory.
    pub(super) fn octets(&self) -> usize {
        self.0.capacity() * size_of::<Verb>()
    }
}

/// Counts the commands of a session that goes on. One entry for each keyword that came, at most 24 of 100 octets.
#[derive(Default)]
pub(super) struct Counted(Vec<Verb>);

impl Counted {
    /// A command came.
    pub(super) fn asked(&mut self, keyword: Keyword) {
        let verb = self.of(keyword);
        verb.count = verb.count.saturating_add(1);
    }

    /// It was answered.
    pub(super) fn answered(&mut self, keyword: Keyword, status: Option<Status>, latency_us: u64) {
        let verb = self.of(keyword);
        verb.errors = verb.errors.saturating_add(u32::from(status == Some(Status::Err)));
        let class = &mut verb.latency[class_of(latency_us)];
        *class = class.saturating_add(1);
    }

    /// All of them; none is left.
    pub(super) fn take(&mut self) -> Verbs {
        Verbs(Arc::new(std::mem::take(&mut self.0)))
    }

    fn of(&mut self, keyword: Keyword) -> &mut Verb {
        let place = self.0.iter().position(|verb| verb.keyword == keyword).unwrap_or_else(|| {
            self.0.push(Verb::new(keyword));
            self.0.len() - 1
        });
        &mut self.0[place]
    }
}

/// A verb as it is written.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Verb")]
struct Written<'a> {
    /// The keyword in upper case; `?` for all that are unknown.
    #[serde(borrow)]
    keyword: Cow<'a, str>,
    /// Command lines with it.
    count: u32,
    /// `-ERR` replies to them.
    errors: u32,
    /// Replies by latency, to their first line: below 64 µs, below 128 µs, and so on, each class to twice the one before; the
    /// 22nd from 67.1 s on. Classes behind the last that holds any are left out.
    latency: Vec<u32>,
}

impl Serialize for Verbs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|verb| {
            let length = verb.latency.iter().rposition(|&replies| replies > 0).map_or(0, |last| last + 1);
            Written {
                keyword: verb.keyword.name().into(),
                count: verb.count,
                errors: verb.errors,
                latency: verb.latency[..length].to_vec(),
            }
        }))
    }
}

impl<'de> Deserialize<'de> for Verbs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut counted = Counted::default();
        for written in Vec::<Written<'_>>::deserialize(deserializer)? {
            let verb = counted.of(Keyword::parse(written.keyword.as_bytes()));
            verb.count = verb.count.saturating_add(written.count);
            verb.errors = verb.errors.saturating_add(written.errors);
            for (class, replies) in verb.latency.iter_mut().zip(written.latency) {
                *class = class.saturating_add(replies);
            }
        }
        Ok(counted.take())
    }
}

impl JsonSchema for Verbs {
    fn schema_name() -> Cow<'static, str> {
        "Verbs".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Vec::<Written<'static>>::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_end_where_they_say() {
        for (latency_us, class) in [(0, 0), (63, 0), (64, 1), (127, 1), (128, 2), (1_000, 4), (67_108_863, 20), (67_108_864, 21)]
        {
            assert_eq!(class_of(latency_us), class, "{latency_us}");
        }
        assert_eq!(class_of(u64::MAX), CLASSES - 1);
        for class in 0..CLASSES - 1 {
            assert_eq!((class_of(end_of(class) - 1), class_of(end_of(class))), (class, class + 1));
        }
        assert_eq!(end_of(CLASSES - 1), 67_108_864);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut counted = Counted::default();
        for (keyword, status, latency_us) in
            [(Keyword::Retr, Some(Status::Ok), 100), (Keyword::Retr, Some(Status::Err), 0), (Keyword::Unknown, None, u64::MAX)]
        {
            counted.asked(keyword);
            counted.answered(keyword, status, latency_us);
        }
        counted.asked(Keyword::Quit);
        let verbs = counted.take();
        let text = serde_json::to_string(&verbs).unwrap();
        assert!(text.starts_with(r#"[{"keyword":"RETR","count":2,"errors":1,"latency":[1,1]},{"keyword":"?","#), "{text}");
        assert!(text.ends_with(r#",{"keyword":"QUIT","count":1,"errors":0,"latency":[]}]"#), "{text}");
        assert_eq!(serde_json::from_str::<Verbs>(&text).unwrap(), verbs);
        assert!(counted.take().is_empty());
    }

    /// Such as a later version of poptap knows.
    #[test]
    fn keywords_and_classes_that_nobody_knows_are_no_fault() {
        let text = format!(r#"[{{"keyword":"XNEW","count":1,"errors":0,"latency":[{}7]}}]"#, "0,".repeat(CLASSES));
        let verbs: Verbs = serde_json::from_str(&text).unwrap();
        assert_eq!(verbs.iter().map(|verb| (verb.keyword, verb.latency)).collect::<Vec<_>>(), [(Keyword::Unknown, [0; CLASSES])]);
    }
}
