use std::{cell::Cell, sync::atomic::AtomicU64, sync::atomic::Ordering::SeqCst};

use super::*;

/// An [`Admission`] whose clock stands still until it is told to go on.
struct House {
    admission: Arc<Admission>,
    clock: Arc<AtomicU64>,
    limits: Cell<Option<Arc<Limits>>>,
}

impl House {
    fn new(limits: Limits) -> Self {
        Self::tracking(1000, limits)
    }

    fn tracking(tracked: usize, limits: Limits) -> Self {
        let (clock, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let hand = Arc::clone(&clock);
        let now = move || start + Duration::from_secs(hand.load(SeqCst));
        Self { admission: Arc::new(Admission::with_clock(tracked, now)), clock, limits: Cell::new(Some(Arc::new(limits))) }
    }

    fn pass(&self, seconds: u64) {
        self.clock.fetch_add(seconds, SeqCst);
    }

    fn reload(&self, limits: Limits) {
        self.limits.set(Some(Arc::new(limits)));
    }

    fn arrive(&self, client: &str) -> Result<Visit, Denied> {
        let limits = self.limits.take().unwrap();
        self.limits.set(Some(Arc::clone(&limits)));
        self.admission.arrive(client.parse().unwrap(), &limits)
    }

    fn refusal(&self, client: &str) -> &'static str {
        self.arrive(client).map_or_else(|denied| denied.reason(), |_visit| "")
    }

    /// One session in which one login is refused.
    fn fail(&self, client: &str, user: &str) -> Failed {
        let mut visit = self.arrive(client).unwrap();
        visit.attempt(Some(user)).unwrap();
        visit.failed(Some(user))
    }

    /// Entries in the two tables.
    fn sizes(&self) -> (usize, usize) {
        let tables = self.admission.tables();
        (tables.clients.len(), tables.users.len())
    }
}

fn limits() -> Limits {
    let config = crate::config::load(&crate::cli::RunArgs {
        url: Some("pop3://mail".parse().unwrap()),
        no_transcript: true,
        ..Default::default()
    });
    (*config.unwrap().config.limits).clone()
}

fn blocking(failures: usize) -> Limits {
    Limits { login_failures: Some(failures), ..limits() }
}

fn reason(result: Result<(), Denied>) -> &'static str {
    result.map_or_else(|denied| denied.reason(), |()| "")
}

const A: &str = "192.0.2.1";
const B: &str = "192.0.2.2";

#[test]
fn an_address_has_so_many_sessions_and_no_more() {
    let house = House::new(Limits { sessions_per_client: Some(2), ..limits() });
    for (client, same, other) in [
        (A, A, B),
        (A, "::ffff:192.0.2.1", B),
        ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1"),
    ] {
        let _first = house.arrive(client).unwrap();
        let second = house.arrive(same).unwrap();
        assert_eq!(house.arrive(client).unwrap_err(), Denied::TooManyFromClient { limit: 2 }, "{client}");
        assert_eq!(house.refusal(other), "", "{other} is another one");
        drop(second);
        assert_eq!(house.refusal(same), "", "{client} has one place again");
    }
    assert_eq!(house.sizes(), (0, 0), "nothing is left of those who left");
}

#[test]
fn who_is_exempt_is_not_counted_by_address() {
    let exempt = vec!["192.0.2.0/31".parse().unwrap()];
    let house = House::new(Limits { sessions_per_client: Some(1), exempt, ..blocking(2) });
    let _visits = [house.arrive(A).unwrap(), house.arrive(A).unwrap()];
    assert_eq!(house.fail(A, "eve").denied, None);
    assert_eq!(house.refusal(A), "");
    assert_eq!(house.fail(A, "eve").denied.unwrap().reason(), "user-blocked", "users are");
    let _visit = house.arrive(B).unwrap();
    assert_eq!(house.refusal(B), "too-many-from-client");
}

#[test]
fn refused_logins_block_an_address() {
    let house = House::new(blocking(3));
    assert_eq!(house.fail(A, "u1").denied, None);
    assert_eq!(house.fail(A, "u2").denied, None);
    let mut witness = house.arrive(A).unwrap();
    assert_eq!(house.fail(A, "u3").denied, Some(Denied::ClientBlocked { left: Duration::from_secs(600) }));
    house.pass(1);
    assert_eq!(house.arrive(A).unwrap_err(), Denied::ClientBlocked { left: Duration::from_secs(599) });
    assert_eq!(reason(witness.attempt(Some("u4"))), "client-blocked", "a session that was there may not try either");
    assert_eq!(witness.failed(Some("u4")).denied.unwrap().reason(), "client-blocked", "nor one whose attempt was under way");
    assert_eq!(house.refusal(B), "");
    house.pass(598);
    assert_eq!(house.refusal(A), "client-blocked", "who tried meanwhile has not prolonged it, nor shortened it");
    house.pass(1);
    assert_eq!(house.refusal(A), "");
}

#[test]
fn refused_logins_block_a_user_wherever_they_come_from() {
    let house = House::new(blocking(3));
    for (client, user) in [(A, "Eve"), (B, "eve"), ("2001:db8::1", "EVE")] {
        let failed = house.fail(client, user);
        assert_eq!(failed.denied.is_some(), client == "2001:db8::1", "{failed:?}");
    }
    let mut visit = house.arrive("192.0.2.9").unwrap();
    assert_eq!(reason(visit.attempt(Some("eve"))), "user-blocked");
    assert_eq!(reason(visit.attempt(Some("tim"))), "");
    assert_eq!(reason(visit.attempt(None)), "");
    house.pass(600);
    assert_eq!(reason(visit.attempt(Some("eve"))), "");
}

#[test]
fn a_name_that_cannot_be_read_counts_for_the_address() {
    let house = House::new(blocking(2));
    let mut visit = house.arrive(A).unwrap();
    assert_eq!(visit.failed(None).denied, None);
    assert_eq!(visit.failed(None).denied.unwrap().reason(), "client-blocked");
    assert_eq!(house.sizes(), (1, 0));
}

#[test]
fn a_refused_login_counts_until_the_window_is_over() {
    let house = House::new(Limits { login_window: Duration::from_secs(60), ..blocking(3) });
    house.fail(A, "u1");
    house.pass(59);
    house.fail(A, "u2");
    house.pass(1);
    assert_eq!(house.fail(A, "u3").denied, None, "the first is 60 s old");
    assert!(house.fail(A, "u4").denied.is_some());
}

#[test]
fn a_login_that_succeeds_takes_back_its_own_users_failures_only() {
    let house = House::new(blocking(3));
    let succeed = |user| house.arrive(A).unwrap().logged_in(Some(user)).unwrap();
    house.fail(A, "tim");
    house.fail(B, "tim");
    house.fail(A, "eve");
    succeed("TIM");
    assert_eq!(house.fail(A, "tim").denied, None, "tim's first is forgiven, for the address and for tim");
    assert_eq!(house.fail("192.0.2.3", "tim").denied, None);
    assert_eq!(house.fail(A, "mallory").denied.unwrap().reason(), "client-blocked", "eve, tim, mallory");
    house.pass(601);
    // An attacker with an account.
    for (tried, blocked) in [("u1", false), ("u2", false), ("u3", true)] {
        assert_eq!(house.fail(A, tried).denied.is_some(), blocked, "{tried}");
        if !blocked {
            succeed("mallory");
        }
    }
}

#[test]
fn a_login_that_was_under_way_lifts_no_block() {
    let house = House::new(blocking(1));
    let mut visit = house.arrive(A).unwrap();
    visit.attempt(Some("tim")).unwrap();
    house.fail(B, "tim");
    visit.logged_in(Some("tim")).unwrap();
    assert_eq!(reason(house.arrive("192.0.2.3").unwrap().attempt(Some("tim"))), "user-blocked");
    assert_eq!(house.refusal(B), "client-blocked");
}

#[test]
fn a_user_has_so_many_sessions_and_no_more() {
    let house = House::new(Limits { sessions_per_user: Some(1), ..limits() });
    let (mut one, mut two, mut three) = (house.arrive(A).unwrap(), house.arrive(B).unwrap(), house.arrive(B).unwrap());
    assert!(one.attempt(Some("tim")).is_ok() && two.attempt(Some("tim")).is_ok(), "nobody has logged in yet");
    one.logged_in(Some("tim")).unwrap();
    one.logged_in(Some("tim")).unwrap();
    assert_eq!(two.logged_in(Some("Tim")), Err(Denied::TooManyOfUser { limit: 1 }), "the other was first");
    assert_eq!(reason(three.attempt(Some("tim"))), "too-many-of-user");
    assert!(three.attempt(Some("tom")).is_ok() && three.logged_in(None).is_ok());
    drop(two);
    assert_eq!(reason(three.attempt(Some("tim"))), "too-many-of-user", "who was not let in has no place to give back");
    drop(one);
    assert_eq!(reason(three.logged_in(Some("tim"))), "");
}

#[test]
fn replies_are_held_back_ever_longer_up_to_a_limit() {
    let house = House::new(Limits { login_delay: Some(Duration::from_secs(4)), ..limits() });
    let delays: Vec<_> = (0..9).map(|_| house.fail(A, "eve").delay.as_secs()).collect();
    assert_eq!(delays, [4, 8, 12, 16, 20, 24, 28, 30, 30]);
    assert_eq!(house.fail(B, "eve").delay.as_secs(), 30, "for the user");
    assert_eq!(house.fail(B, "tim").delay.as_secs(), 8, "for the address");
    house.reload(limits());
    assert_eq!(house.fail(A, "eve"), Failed { delay: Duration::ZERO, denied: None });
}

#[test]
fn a_session_keeps_its_limits_and_is_counted_under_new_ones() {
    let house = House::new(limits());
    let mut old = house.arrive(A).unwrap();
    old.failed(Some("eve"));
    house.reload(Limits { sessions_per_client: Some(1), ..blocking(2) });
    assert_eq!(house.refusal(A), "too-many-from-client");
    assert_eq!((old.watches_logins(), old.failed(Some("eve")).denied), (false, None));
    drop(old);
    assert!(house.arrive(A).unwrap().watches_logins());
    assert!(house.fail(A, "eve").denied.is_some(), "what came before counts");
}

#[test]
fn what_watches_logins() {
    for (limits, expected) in [
        (limits(), false),
        (Limits { sessions_per_client: Some(1), commands: Some(1), octets: Some(1), ..limits() }, false),
        (blocking(1), true),
        (Limits { sessions_per_user: Some(1), ..limits() }, true),
        (Limits { login_delay: Some(Duration::from_secs(1)), ..limits() }, true),
    ] {
        assert_eq!(House::new(limits.clone()).arrive(A).unwrap().watches_logins(), expected, "{limits:?}");
    }
}

#[test]
fn however_many_addresses_and_users_the_tables_stay_small() {
    let house = House::tracking(10, blocking(3));
    for number in 0..1000_u32 {
        house.fail(&format!("198.18.{}.{}", number / 256, number % 256), &format!("u{number}"));
        let (clients, users) = house.sizes();
        assert!(clients <= 11 && users <= 10, "{clients} {users}: ten, and who has a session");
    }
    house.pass(600);
    for _ in 0..3 {
        house.fail(A, "eve");
    }
    assert_eq!(house.sizes(), (1, 1), "what counts no longer does not stay");
}

#[test]
fn a_block_outlives_any_number_of_other_failures_and_blocks() {
    let house = House::tracking(10, blocking(2));
    for _ in 0..2 {
        house.fail(A, "eve");
    }
    for number in 0..1000_u32 {
        let client = format!("198.18.{}.{}", number / 256, number % 256);
        house.fail(&client, &format!("u{number}"));
        house.fail(&client, &format!("u{number}"));
        assert_eq!(house.refusal(A), "client-blocked", "behind {number} others");
        assert_eq!(reason(house.arrive(B).unwrap().attempt(Some("eve"))), "user-blocked");
    }
    house.pass(600);
    assert_eq!(house.fail("203.0.113.1", "u").denied, None);
    assert!(house.fail("203.0.113.1", "u").denied.is_some(), "there is room again");
    assert_eq!(house.refusal("203.0.113.1"), "client-blocked");
}

#[test]
fn who_failed_least_recently_is_forgotten_first() {
    let house = House::tracking(2, blocking(2));
    for client in [A, B, "192.0.2.3"] {
        assert_eq!(house.fail(client, client).denied, None);
        house.pass(1);
    }
    assert!(house.fail(B, "u1").denied.is_some(), "there was room for the second and the third");
    assert!(house.fail(A, "u2").denied.is_none(), "the first went");
}

#[test]
fn more_failures_than_are_remembered_do_no_harm() {
    let house = House::new(limits());
    for _ in 0..2 * Limits::FAILURES {
        house.fail(A, "eve");
    }
    house.reload(blocking(Limits::FAILURES));
    assert!(house.fail(A, "tim").denied.is_some());
}

#[test]
fn a_block_may_last_for_ever() {
    let house = House::new(Limits { login_block: Duration::MAX, login_window: Duration::MAX, ..blocking(1) });
    let denied = house.fail(A, "eve").denied.unwrap();
    house.pass(1_000_000_000);
    assert_eq!(house.refusal(A), "client-blocked", "{denied:?}");
}

#[test]
fn what_is_said_of_it() {
    let left = Duration::from_millis(59_001);
    for (denied, reason, code, detail) in [
        (Denied::ClientBlocked { left }, "client-blocked", "[SYS/TEMP]", "for 1m more"),
        (Denied::UserBlocked { left }, "user-blocked", "[SYS/TEMP]", "for 1m more"),
        (Denied::TooManyFromClient { limit: 3 }, "too-many-from-client", "[SYS/TEMP]", "no more than 3 at one time"),
        (Denied::TooManyOfUser { limit: 3 }, "too-many-of-user", "[IN-USE]", "no more than 3 at one time"),
    ] {
        let line = denied.client_line();
        assert!(line.starts_with(&format!("-ERR {code} ")) && line.ends_with("\r\n") && line.len() <= 512, "{line}");
        assert_eq!((denied.reason(), denied.detail().as_str()), (reason, detail));
    }
}
