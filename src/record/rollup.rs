//! The roll-up: who logged in from where, over what, how often, first and last. Bounded in rows; the row that was seen last
//! longest ago goes first.
//!
//! It is what `sessions audit` reads. No files here, and no clock: times are those of the summaries.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::SocketAddr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

/// The version of the roll-up's lines.
pub(crate) const VERSION: u32 = 1;

/// A second of the transcript's time: RFC 3339 in UTC. They sort as times do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Second([u8; LENGTH]);

const LENGTH: usize = "2026-11-23T06:30:00".len();

impl Second {
    /// The second of a time in a transcript; `None` where it is not one.
    pub(crate) fn of(stamp: &str) -> Option<Self> {
        let octets: [u8; LENGTH] = stamp.as_bytes().get(..LENGTH)?.try_into().ok()?;
        let fits = |(octet, model): (&u8, &u8)| if *model == b'0' { octet.is_ascii_digit() } else { octet == model };
        octets.iter().zip(b"0000-00-00T00:00:00").all(fits).then_some(Self(octets))
    }
}

impl fmt::Display for Second {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Digits and signs, as `of` has seen to.
        write!(out, "{}Z", String::from_utf8_lossy(&self.0))
    }
}

impl From<Second> for String {
    fn from(second: Second) -> Self {
        second.to_string()
    }
}

impl TryFrom<String> for Second {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::of(&text).ok_or("this is no time in RFC 3339, UTC")
    }
}

/// A time that nothing comes after.
pub(crate) const NEVER: &str = "9999-12-31T23:59:59.999999Z";

/// What makes a row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Key {
    /// Who, in the form that summaries have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<Box<str>>,
    /// The client's address, without its port.
    pub(crate) client: Box<str>,
    /// TLS version on the client's hop; absent when plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client_tls: Option<Box<str>>,
    /// TLS version on the server's hop; absent when plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) upstream_tls: Option<Box<str>>,
    /// How the login was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mechanism: Option<Box<str>>,
}

/// The address in `client`, which has its port behind it.
pub(crate) fn address(client: &str) -> Box<str> {
    match client.parse::<SocketAddr>() {
        Ok(address) => address.ip().to_string().into(),
        Err(_) => client.rsplit_once(':').map_or(client, |(address, _)| address).into(),
    }
}

/// One row. With `&Key` or `Key` it is a line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row<K = Arc<Key>> {
    /// Who, whence, over what, how.
    #[serde(flatten)]
    pub(crate) key: K,
    /// How often.
    #[serde(flatten)]
    pub(crate) seen: Seen,
}

/// Sessions of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// How many.
    pub(crate) sessions: u64,
    /// When the first of them began.
    pub(crate) first: Second,
    /// When the last of them began.
    pub(crate) last: Second,
}

impl Seen {
    /// A single session.
    pub(crate) fn once(start: Second) -> Self {
        Self { sessions: 1, first: start, last: start }
    }

    fn add(&mut self, other: Self) {
        self.sessions = self.sessions.saturating_add(other.sessions);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

/// The first line of the file: how far back it reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reach {
    /// [`VERSION`].
    pub(crate) v: u32,
    /// Sessions that ended before this were not counted: a time of the transcript, to the microsecond.
    pub(crate) since: String,
    /// Rows that went for want of room.
    #[serde(default)]
    pub(crate) dropped: u64,
    /// Rows that went since they were too old.
    #[serde(default)]
    pub(crate) expired: u64,
    /// No row that went was seen after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gone_until: Option<Second>,
}

impl Reach {
    /// Nothing is counted yet, and nothing is gone.
    pub(crate) fn from(since: &str) -> Self {
        Self { v: VERSION, since: since.to_owned(), dropped: 0, expired: 0, gone_until: None }
    }

    fn add(&mut self, other: &Self) {
        if other.since < self.since {
            self.since.clone_from(&other.since);
        }
        self.dropped = self.dropped.saturating_add(other.dropped);
        self.expired = self.expired.saturating_add(other.expired);
        self.gone_until = self.gone_until.max(other.gone_until);
    }
}

/// Rows, and how far back they reach. About 300 octets for each row.
#[derive(Debug)]
pub(crate) struct Rollup {
    limit: usize,
    reach: Reach,
    rows: HashMap<Arc<Key>, (Seen, u64)>,
    /// Rows by when they were seen last; the number tells apart those of one second.
    order: BTreeMap<(Second, u64), Arc<Key>>,
    number: u64,
}

impl Rollup {
    /// Without rows, and never with more than `limit` of them.
    pub(crate) fn new(limit: usize, since: &str) -> Self {
        Self { limit, reach: Reach::from(since), rows: HashMap::new(), order: BTreeMap::new(), number: 0 }
    }

    /// How far back it reaches.
    pub(crate) fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Takes over what another one says of its reach, whose rows are added.
    pub(crate) fn reaches(&mut self, other: &Reach) {
        self.reach.add(other);
    }

    /// Counts sessions.
    pub(crate) fn add(&mut self, key: Key, seen: Seen) {
        self.number += 1;
        let (key, seen) = match self.rows.get_key_value(&key) {
            Some((known, &(before, number))) => {
                let (key, mut all) = (Arc::clone(known), before);
                self.order.remove(&(before.last, number));
                all.add(seen);
                (key, all)
            }
            None => (Arc::new(key), seen),
        };
        self.order.insert((seen.last, self.number), Arc::clone(&key));
        self.rows.insert(key, (seen, self.number));
        while self.rows.len() > self.limit && self.drop_first() {
            self.reach.dropped += 1;
        }
    }

    /// Removes the rows that were not seen since `before`; says whether there were any.
    pub(crate) fn expire(&mut self, before: Second) -> bool {
        let expired = self.reach.expired;
        while self.order.first_key_value().is_some_and(|((last, _), _)| *last < before) && self.drop_first() {
            self.reach.expired += 1;
        }
        self.reach.expired > expired
    }

    /// All rows, that which was seen last longest ago first.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let row = |key: &Arc<Key>| self.rows.get(key).map(|&(seen, _)| Row { key: Arc::clone(key), seen });
        self.order.values().filter_map(row).collect()
    }

    fn drop_first(&mut self) -> bool {
        let Some(((last, _), key)) = self.order.pop_first() else { return false };
        self.rows.remove(&key);
        self.reach.gone_until = self.reach.gone_until.max(Some(last));
        true
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The beginning of [`second`] 0.
    pub(crate) const SINCE: &str = "2026-11-23T06:00:00.000000Z";

    pub(crate) fn second(number: u32) -> Second {
        Second::of(&format!("2026-11-23T06:{:02}:{:02}.123456Z", number / 60, number % 60)).unwrap()
    }

    pub(crate) fn key(user: &str) -> Key {
        Key { user: Some(user.into()), client: "192.0.2.1".into(), ..Key::default() }
    }

    fn users(rollup: &Rollup) -> Vec<(String, u64)> {
        rollup.rows().iter().map(|row| (row.key.user.clone().unwrap().into(), row.seen.sessions)).collect()
    }

    #[test]
    fn seconds() {
        assert_eq!(second(61).to_string(), "2026-11-23T06:01:01Z");
        for wrong in ["", "2026-11-23T06:01", "2026-11-23 06:01:01", "2026-11-23T06:01:é1", "yesterday, at some time"] {
            assert_eq!(Second::of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn addresses_lose_their_port() {
        for (client, expected) in [
            ("192.0.2.1:4000", "192.0.2.1"),
            ("[2001:db8::1]:4000", "2001:db8::1"),
            ("client.example:4000", "client.example"),
            ("odd", "odd"),
        ] {
            assert_eq!(&*address(client), expected);
        }
    }

    #[test]
    fn the_row_that_was_seen_last_longest_ago_goes() {
        let mut rollup = Rollup::new(2, SINCE);
        for (user, at) in [("anna", 1), ("bob", 2), ("anna", 3), ("carol", 4)] {
            rollup.add(key(user), Seen::once(second(at)));
        }
        assert_eq!(users(&rollup), [("anna".to_owned(), 2), ("carol".to_owned(), 1)]);
        assert_eq!(rollup.rows()[0].seen, Seen { sessions: 2, first: second(1), last: second(3) });
        assert_eq!((rollup.reach().dropped, rollup.reach().gone_until), (1, Some(second(2))));
        rollup.add(key("dan"), Seen::once(second(0)));
        assert_eq!(users(&rollup).len(), 2);
        assert_eq!((rollup.reach().dropped, rollup.reach().gone_until), (2, Some(second(2))), "the new one was the oldest");
    }

    #[test]
    fn rows_expire() {
        let mut rollup = Rollup::new(10, SINCE);
        for (user, at) in [("anna", 1), ("bob", 2), ("carol", 2), ("dan", 3)] {
            rollup.add(key(user), Seen::once(second(at)));
        }
        assert!(rollup.expire(second(3)) && !rollup.expire(second(3)));
        assert_eq!(users(&rollup), [("dan".to_owned(), 1)]);
        let reach = rollup.reach();
        assert_eq!((reach.expired, reach.dropped, reach.gone_until), (3, 0, Some(second(2))));
    }

    #[test]
    fn lines_are_flat_and_read_again() {
        let row = Row { key: Key { client_tls: Some("TLSv1.3".into()), ..key("anna") }, seen: Seen::once(second(1)) };
        let text = serde_json::to_string(&row).unwrap();
        assert_eq!(
            text,
            r#"{"user":"anna","client":"192.0.2.1","client_tls":"TLSv1.3","sessions":1,"first":"2026-11-23T06:00:01Z","last":"2026-11-23T06:00:01Z"}"#
        );
        assert_eq!(serde_json::from_str::<Row<Key>>(&text).unwrap(), row);
        let reach = Reach { dropped: 3, gone_until: Some(second(9)), ..Reach::from(SINCE) };
        assert_eq!(serde_json::from_str::<Reach>(&serde_json::to_string(&reach).unwrap()).unwrap(), reach);
    }
}
