//! The recorder and the store together.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Write},
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;

use super::{
    Beside, LiveView, Recorder, Store,
    archive::Archivist,
    clock::{Clock, Moment, tests::ManualClock},
    directory::{self, Named},
    recorder::Full,
    schema::{self, Body, Closed, Opened, Record, Summary},
    segment::{Output, Storage, Stream},
};
use crate::{
    anomaly::Anomaly,
    config::{ContentPolicy, HashPolicy, ListingPolicy, OnError, OnFull, Place, Retention, Streams, Transcript, UserPolicy},
    pop3::{Command, Keyword, LineEnd, Peer, Shape, Stage, Status},
    tap::{Action, Decision, Event, Line, Observer, OpaqueReason, Violation, ViolationKind},
};

const LIMIT: Duration = Duration::from_secs(60);

fn transcript(place: Place) -> Transcript {
    let keep = Retention { age: Duration::from_secs(86_400), octets: u64::MAX, segments: u64::MAX };
    Transcript {
        place,
        record: Streams::Events,
        content: ContentPolicy::None,
        hash: HashPolicy::Sha256,
        listings: ListingPolicy::Brief,
        user: UserPolicy::Plain,
        reveal_credentials: false,
        rotate_size: 1 << 30,
        rotate_age: Duration::from_secs(86_400),
        compress: false,
        keep_events: keep,
        keep_sessions: keep,
        audit_rows: 0,
        audit_keep: Duration::from_secs(86_400),
        buffer: 1 << 20,
        on_full: OnFull::Wait,
        wait_limit: Some(Duration::from_secs(5)),
        on_error: OnError::Continue,
    }
}

fn in_directory(path: &Path) -> Transcript {
    transcript(Place::Directory(path.to_owned()))
}

fn opened() -> Opened {
    Opened {
        client: "127.0.0.1:4000".into(),
        listener: "127.0.0.1:1110".into(),
        upstream: "pop3://mail".into(),
        ..Opened::default()
    }
}

fn closed(reason: &str) -> Closed {
    Closed { by: "client".into(), reason: reason.into(), ..Closed::default() }
}

fn finish(store: &Store) -> super::Loss {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(store.finish(LIMIT))
}

/// Plays a session into a recorder.
struct Player {
    recorder: Recorder,
    n: u64,
    stage: Stage,
}

impl Player {
    fn new(store: &Store) -> Self {
        Self { recorder: store.recorder(opened()), n: 0, stage: Stage::Authorization }
    }

    fn command(&mut self, text: &[u8]) -> u64 {
        self.n += 1;
        let event = Event::Command {
            n: self.n,
            keyword: Command::parse(text).keyword,
            line: line(text),
            stage: self.stage,
            forwarded: true,
            own: false,
        };
        self.recorder.on(&event);
        self.n
    }

    fn response(&mut self, auth: u64, text: &[u8]) {
        self.n += 1;
        self.recorder.on(&Event::SaslResponse { n: self.n, auth, line: line(text) });
    }

    fn reply(&mut self, n: u64, keyword: Keyword, text: &[u8]) {
        self.answer(n, keyword, text, Shape::SingleLine);
    }

    fn body(&mut self, n: u64, keyword: Keyword, body: &[u8]) {
        self.answer(n, keyword, b"+OK follows", Shape::MultiLine);
        for octets in body.chunks(1000) {
            self.recorder.on(&Event::Content { n, keyword, octets });
        }
        self.recorder.on(&Event::ReplyEnd { n, keyword, octets: body.len() as u64 + 3, complete: true });
    }

    fn answer(&mut self, n: u64, keyword: Keyword, text: &[u8], shape: Shape) {
        let status = Status::of(text);
        if matches!(keyword, Keyword::Pass | Keyword::Auth | Keyword::Apop) && status == Some(Status::Ok) {
            self.stage = Stage::Transaction;
        }
        self.recorder.on(&Event::Reply { n, keyword, status, shape, line: line(text), stage: self.stage });
    }

    fn login(&mut self) {
        self.command(b"USER bob");
        let n = self.command(b"PASS hunter2");
        self.reply(n - 1, Keyword::User, b"+OK");
        self.reply(n, Keyword::Pass, b"+OK logged in");
    }

    fn retrieve(&mut self, body: &[u8]) {
        let n = self.command(b"RETR 1");
        self.body(n, Keyword::Retr, body);
    }

    fn close(self, reason: &str) -> Summary {
        self.recorder.close(closed(reason))
    }
}

fn line(text: &[u8]) -> Line<'_> {
    let text_kept = &text[..text.len().min(crate::tap::REMEMBERED)];
    Line { text: text_kept, octets: text.len() as u64 + 2, offset: 7, end: LineEnd::CrLf }
}

/// Everything that a recorder can be told.
fn busy_session(player: &mut Player) {
    let recorder = &mut player.recorder;
    recorder.on(&Event::Greeting { status: Some(Status::Ok), line: line(b"+OK <1@x> ready") });
    recorder.tls(schema::Tls {
        hop: schema::Hop::Upstream,
        mode: "implicit".into(),
        version: "TLSv1.3".into(),
        cipher: "TLS13_AES_256_GCM_SHA384".into(),
        subject: Some("CN=x".into()),
        ..schema::Tls::default()
    });
    let n = player.command(b"CAPA");
    player.body(n, Keyword::Capa, b"TOP\r\nSASL PLAIN\r\n");
    let auth = player.command(b"AUTH LOGIN");
    player.recorder.on(&Event::SaslChallenge { auth, line: line(b"+ VXNlcm5hbWU6") });
    player.response(auth, b"Ym9i");
    player.response(auth, b"*");
    player.reply(auth, Keyword::Auth, b"-ERR cancelled");
    player.login();
    player.recorder.turn();
    player.retrieve(b"Subject: x\r\n\r\nbody\r\n");
    let n = player.command(b"TOP 1 0");
    player.body(n, Keyword::Top, b"Subject: x\r\n\r\n");
    let n = player.command(b"LIST");
    player.body(n, Keyword::List, b"1 10\r\n2 20\r\n3 30\r\n4 40\r\n");
    let n = player.command(b"STLS");
    let recorder = &mut player.recorder;
    recorder.on(&Event::Decision(Decision::of(Some(n), Action::Answer, "stls-refuse")));
    recorder.on(&Event::LocalReply { n, text: b"-ERR not here\r\n" });
    recorder.on(&Event::Unsolicited { status: None, line: line(b"Goodbye") });
    recorder.on(&Event::ClientData { n, octets: 10, last: true });
    recorder.on(&Event::Resolved { n, keyword: Keyword::Noop });
    recorder.on(&Event::Unfinished { from: Peer::Client, line: Line { end: LineEnd::None, ..line(b"PASS hunt") } });
    recorder.on(&Event::Violation(Violation { fault: Peer::Upstream, kind: ViolationKind::PlaintextBehindStlsReply }));
    recorder.anomaly(Anomaly::BareLf, Peer::Client, 1);
    recorder.on(&Event::Opaque { reason: OpaqueReason::StartTls, dropped_replies: 1 });
    recorder.on(&Event::OpaqueOctets { from: Peer::Client, octets: 100 });
}

/// All files of a directory whose names begin so, decompressed, in order.
fn contents(path: &Path, prefix: &str) -> Vec<u8> {
    let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let mut found = Vec::new();
    for name in names.iter().filter(|name| name.file_name().unwrap().to_str().unwrap().starts_with(prefix)) {
        let octets = fs::read(name).unwrap();
        let zstd = name.extension().is_some_and(|extension| extension == "zst");
        found.extend(if zstd { zstd::stream::decode_all(&octets[..]).unwrap() } else { octets });
    }
    found
}

fn records(octets: &[u8]) -> Vec<Record> {
    let lines = octets.split(|&octet| octet == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn events(path: &Path) -> Vec<Record> {
    records(&contents(path, "events-"))
}

fn kinds(records: &[Record]) -> Vec<String> {
    let kind = |record| serde_json::to_value(record).unwrap()["event"].as_str().unwrap().to_owned();
    records.iter().map(kind).collect()
}

#[test]
fn the_schema_in_docs_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/transcript.schema.json");
    let schema = serde_json::to_string_pretty(&schemars::schema_for!(Record)).unwrap() + "\n";
    if std::env::var_os("POPTAP_WRITE_SCHEMA").is_some() {
        fs::write(path, &schema).unwrap();
    }
    assert!(fs::read_to_string(path).unwrap() == schema, "write it anew: POPTAP_WRITE_SCHEMA=1 cargo test the_schema_in_docs");
}

#[test]
fn every_line_fits_the_schema() {
    let schema = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/transcript.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(Some(&Transcript { content: ContentPolicy::Full, ..in_directory(directory.path()) }), None).unwrap();
    let mut player = Player::new(&store);
    busy_session(&mut player);
    let _ = player.close("eof");
    assert!(finish(&store).is_none());
    let mut seen = BTreeSet::new();
    for line in contents(directory.path(), "").split(|&octet| octet == b'\n').filter(|line| line.starts_with(b"{")) {
        let value: serde_json::Value = serde_json::from_slice(line).unwrap();
        validator.validate(&value).unwrap_or_else(|error| panic!("{error}: {value}"));
        seen.insert(value["event"].as_str().unwrap().to_owned());
    }
    // All but `gap`, which has tests of its own.
    assert_eq!(seen.len(), 14, "{seen:?}");
    assert!(
        validator.validate(&serde_json::json!({"v": 1, "session": "x", "time": "", "at_us": 0, "event": "nonsense"})).is_err()
    );
}

#[test]
fn a_session_from_beginning_to_end() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let transcript = Transcript { content: ContentPolicy::Headers, ..in_directory(directory.path()) };
    let storage = Box::new(directory::open(directory.path(), &transcript).unwrap());
    let store =
        Store::assemble(Some(&transcript), Beside::default(), Some(storage), Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    let mut player = Player::new(&store);
    let id = player.recorder.id().to_owned();
    assert!(id.len() == 12 && id.bytes().all(|digit| digit.is_ascii_digit() || digit.is_ascii_lowercase()), "{id}");
    player.login();
    let n = player.command(b"RETR 2");
    clock.advance(Duration::from_micros(1500));
    player.recorder.turn();
    player.body(n, Keyword::Retr, b"a: b\r\n\r\nbody");
    player.retrieve(b"c: d\r\n\r\nmore");
    let n = player.command(b"QUIT");
    player.reply(n, Keyword::Quit, b"+OK bye");
    let summary = player.close("quit");
    assert_eq!(summary.verdict, "complete: 2 messages, 24 octets");
    assert_eq!((summary.user.as_deref(), summary.logged_in, summary.commands, summary.duration_us), (Some("bob"), true, 5, 1500));
    assert!(finish(&store).is_none());
    let found = events(directory.path());
    assert_eq!(found[0].time, "2026-11-23T06:30:00.000000Z");
    assert!(found.iter().all(|record| record.session == id));
    let reply = found
        .iter()
        .find_map(|record| if let Body::Reply(reply) = &record.body { reply.multi_line.then_some(reply) } else { None });
    assert_eq!(reply.unwrap().latency_us, 1500);
    let kept: Vec<_> =
        found.iter().filter_map(|record| if let Body::Content(body) = &record.body { Some(&body.kept) } else { None }).collect();
    assert_eq!(
        kept.iter().map(|pieces| (pieces.len(), pieces[0].offset, pieces[0].length)).collect::<Vec<_>>(),
        [(1, 0, 8), (1, 8, 8)]
    );
    assert_eq!(fs::read(directory.path().join(&kept[0][0].file)).unwrap(), b"a: b\r\n\r\nc: d\r\n\r\n");
    let sessions = records(&contents(directory.path(), "sessions-"));
    assert!(matches!(&sessions[..], [Record { body: Body::Session(written), .. }] if **written == summary));
}

#[test]
fn a_recorder_that_is_dropped_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(Some(&in_directory(directory.path())), None).unwrap();
    let mut player = Player::new(&store);
    player.command(b"NOOP");
    drop(player);
    assert!(finish(&store).is_none());
    let found = events(directory.path());
    assert_eq!(kinds(&found), ["opened", "command", "closed"]);
    assert!(matches!(&found[2].body, Body::Closed(closed) if closed.reason == "abandoned" && closed.client_octets == 13));
    assert_eq!(kinds(&records(&contents(directory.path(), "sessions-"))), ["session"]);
}

#[test]
fn sessions_with_revealed_credentials_are_marked() {
    let directory = tempfile::tempdir().unwrap();
    let transcript = Transcript { reveal_credentials: true, ..in_directory(directory.path()) };
    let store = Store::open(Some(&transcript), None).unwrap();
    let mut player = Player::new(&store);
    player.login();
    assert!(player.close("eof").credentials_revealed);
    assert!(finish(&store).is_none());
    let found = events(directory.path());
    assert!(matches!(&found[0].body, Body::Opened(opened) if opened.credentials_revealed));
    assert!(String::from_utf8(contents(directory.path(), "events-")).unwrap().contains("PASS hunter2"));
}

#[test]
fn sessions_only() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(Some(&Transcript { record: Streams::Sessions, ..in_directory(directory.path()) }), None).unwrap();
    let mut player = Player::new(&store);
    player.login();
    assert!(player.close("eof").logged_in);
    assert!(finish(&store).is_none());
    assert!(contents(directory.path(), "events-").is_empty());
    assert_eq!(records(&contents(directory.path(), "sessions-")).len(), 1);
}

#[test]
fn a_decision_that_is_taken_a_thousand_times_is_two_records() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(Some(&in_directory(directory.path())), None).unwrap();
    let mut player = Player::new(&store);
    let n = player.command(b"CAPA");
    player.answer(n, Keyword::Capa, b"+OK", Shape::MultiLine);
    for _ in 0..1000 {
        player.recorder.on(&Event::Decision(Decision::of(Some(n), Action::RemoveLine, "stls-capability")));
    }
    player.recorder.on(&Event::ReplyEnd { n, keyword: Keyword::Capa, octets: 6003, complete: true });
    let _summary = player.close("quit");
    assert!(finish(&store).is_none());
    let decisions: Vec<_> = events(directory.path())
        .into_iter()
        .filter_map(|record| if let Body::Decision(decision) = record.body { Some(decision.again) } else { None })
        .collect();
    assert_eq!(decisions, [0, 999]);
}

#[test]
fn without_a_store_the_summary_remains() {
    let store = Store::open(None, None).unwrap();
    let mut player = Player::new(&store);
    player.login();
    player.retrieve(b"x");
    assert_eq!(player.close("quit").verdict, "complete: 1 message, 1 octet");
    assert!(finish(&store).is_none());
}

#[test]
fn two_stores_share_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let transcript = Transcript { user: UserPolicy::Hash, compress: true, ..in_directory(directory.path()) };
    let stores = [(); 2].map(|()| Store::open(Some(&transcript), None).unwrap());
    let users: BTreeSet<_> = stores
        .iter()
        .map(|store| {
            let mut player = Player::new(store);
            player.login();
            player.close("quit").user.unwrap()
        })
        .collect();
    assert_eq!(users.len(), 1, "one key for both: {users:?}");
    assert!(stores.iter().all(|store| finish(store).is_none()));
    let found = events(directory.path());
    assert_eq!(found.iter().map(|record| &record.session).collect::<BTreeSet<_>>().len(), 2);
    assert_eq!(found.len(), 12);
    assert!(!String::from_utf8(contents(directory.path(), "events-")).unwrap().contains("bob"));
}

#[test]
fn rotation_compression_and_retention() {
    let directory = tempfile::tempdir().unwrap();
    let keep = Retention { age: LIMIT, octets: u64::MAX, segments: 3 };
    let transcript = Transcript { rotate_size: 64 * 1024, compress: true, keep_events: keep, ..in_directory(directory.path()) };
    let store = Store::open(Some(&transcript), None).unwrap();
    let mut player = Player::new(&store);
    for _ in 0..4000 {
        player.command(b"NOOP");
    }
    let _ = player.close("eof");
    assert!(finish(&store).is_none());
    let names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names.iter().filter(|name| name.starts_with("events-")).count(), 3, "{names:?}");
    assert!(names.iter().all(|name| name.ends_with(".jsonl.zst")), "{names:?}");
    let found = events(directory.path());
    assert!(matches!(found.last().unwrap().body, Body::Closed(_)));
}

#[test]
fn an_old_segment_is_finished_even_when_idle() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let transcript = Transcript { rotate_age: Duration::from_secs(10), ..in_directory(directory.path()) };
    let storage = Box::new(directory::open(directory.path(), &transcript).unwrap());
    let health = Arc::default();
    let plan = super::writer::Plan::of(&transcript);
    let mut writer = super::writer::Writer::new(plan, Some(storage), None, Arc::clone(&clock) as Arc<dyn Clock>, health);
    for _ in 0..2 {
        let body = Body::Closed(Closed::default());
        writer.take(super::queue::Message::Record(Box::new(Record {
            v: 1,
            session: "s".into(),
            time: String::new(),
            at_us: 0,
            body,
        })));
        writer.flush();
        clock.advance(Duration::from_secs(10));
        writer.tick();
    }
    writer.finish();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}

#[test]
fn what_a_crash_left_is_finished() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| fs::write(directory.path().join(name), text).unwrap();
    write("events-20260101T000000Z-1-0001.jsonl", b"{\"whole\":1}\n{\"torn");
    write("content-20260101T000000Z-1-0001.bin", b"kept");
    write("events-20260101T000001Z-1-0002.jsonl", b"");
    write("events-20260101T000001Z-1-0003.jsonl.zst.tmp", b"half");
    write("events-20260101T000002Z-2-0001.jsonl", b"somebody writes this\n");
    write("notes.txt", b"not ours");
    let alive = fs::File::open(directory.path().join("events-20260101T000002Z-2-0001.jsonl")).unwrap();
    directory::lock(&alive).unwrap();
    let transcript = Transcript { compress: true, ..in_directory(directory.path()) };
    Archivist::new(directory.path(), &transcript).recover().unwrap();
    let mut names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "content-20260101T000000Z-1-0001.bin.zst",
            "events-20260101T000000Z-1-0001.jsonl.zst",
            "events-20260101T000002Z-2-0001.jsonl",
            "notes.txt",
        ]
    );
    assert_eq!(contents(directory.path(), "events-20260101T000000Z"), b"{\"whole\":1}\n{\"torn");
    let keep = Retention { age: Duration::ZERO, octets: 0, segments: 0 };
    let none = Transcript { keep_events: keep, ..transcript };
    Archivist::new(directory.path(), &none).sweep(std::time::SystemTime::now()).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "what is written, and what is not ours, stays");
}

/// A disk that can be filled, stopped and mended.
#[derive(Clone, Default)]
struct Disk(Arc<Bench>);

#[derive(Default)]
struct Bench {
    files: Mutex<Vec<(Stream, Vec<u8>)>>,
    /// Octets that fit on it; set by `AtomicU64::MAX` for no limit.
    free: AtomicU64,
    hung: Mutex<bool>,
    wake: Condvar,
}

impl Disk {
    fn with_free(octets: u64) -> Self {
        let disk = Self::default();
        disk.0.free.store(octets, Ordering::SeqCst);
        disk
    }

    fn hang(&self, hung: bool) {
        *self.0.hung.lock().unwrap() = hung;
        self.0.wake.notify_all();
    }

    fn written(&self, stream: Stream) -> Vec<u8> {
        let files = self.0.files.lock().unwrap();
        files.iter().filter(|(found, _)| *found == stream).flat_map(|(_, octets)| octets.clone()).collect()
    }
}

impl Storage for Disk {
    fn rotates(&self) -> bool {
        true
    }

    fn open(&mut self, stream: Stream, _: &Moment) -> io::Result<(String, Box<dyn Output>)> {
        let mut files = self.0.files.lock().unwrap();
        files.push((stream, Vec::new()));
        Ok((String::new(), Box::new(DiskFile(self.clone(), files.len() - 1))))
    }

    fn open_side(&mut self, _: &str) -> io::Result<(String, Box<dyn Output>)> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn discard(&mut self, _: Stream, _: &str) {}

    fn finished(&mut self, _: Stream, _: &str) {}

    fn sweep(&mut self) {}

    fn close(&mut self) {}
}

struct DiskFile(Disk, usize);

impl Write for DiskFile {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let bench = &self.0.0;
        drop(bench.wake.wait_while(bench.hung.lock().unwrap(), |hung| *hung).unwrap());
        let free = bench.free.load(Ordering::SeqCst);
        let fits = octets.len().min(usize::try_from(free).unwrap());
        if fits == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        bench.free.fetch_sub(fits as u64, Ordering::SeqCst);
        bench.files.lock().unwrap()[self.1].1.extend_from_slice(&octets[..fits]);
        Ok(fits)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output for DiskFile {
    fn truncate(&mut self, octets: u64) -> io::Result<()> {
        self.0.0.files.lock().unwrap()[self.1].1.truncate(usize::try_from(octets).unwrap());
        Ok(())
    }
}

fn on(disk: &Disk, transcript: &Transcript) -> (Store, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let store =
        Store::assemble(Some(transcript), Beside::default(), Some(Box::new(disk.clone())), Arc::clone(&clock) as Arc<dyn Clock>);
    (store.unwrap(), clock)
}

fn anywhere() -> Transcript {
    in_directory(Path::new("/nowhere"))
}

#[test]
fn a_full_disk_is_survived_and_said() {
    let disk = Disk::with_free(1_000);
    let transcript = Transcript { on_error: OnError::Refuse, buffer: 1 << 30, ..anywhere() };
    let (store, _) = on(&disk, &transcript);
    assert!(store.accepts_sessions());
    let mut player = Player::new(&store);
    for _ in 0..5_000 {
        player.command(b"NOOP");
    }
    while store.accepts_sessions() {
        std::thread::yield_now();
    }
    disk.0.free.store(1 << 30, Ordering::SeqCst);
    let _ = player.close("eof");
    let loss = finish(&store);
    let found = records(&disk.written(Stream::Events));
    let gaps: Vec<_> =
        found.iter().filter_map(|record| if let Body::Gap(gap) = &record.body { Some(gap) } else { None }).collect();
    let missing: u64 = gaps.iter().map(|gap| gap.events).sum();
    assert!(missing > 0 && gaps.iter().all(|gap| gap.reason == "error"), "{gaps:?}");
    assert_eq!(missing, loss.events);
    let commands = kinds(&found).iter().filter(|kind| *kind != "gap").count() as u64;
    assert_eq!(commands + missing, 5_002, "what is not there is counted");
    assert_eq!((loss.unwritten, records(&disk.written(Stream::Sessions)).len()), (0, 1));
}

#[test]
fn a_disk_that_stays_full_ends_in_a_stated_loss() {
    let (store, _) = on(&Disk::with_free(0), &anywhere());
    let mut player = Player::new(&store);
    player.login();
    let _ = player.close("quit");
    let loss = finish(&store);
    assert_eq!((loss.events, loss.summaries), (6, 1));
}

#[tokio::test]
async fn a_hung_disk_holds_nobody_up_for_ever() {
    let disk = Disk::with_free(1 << 30);
    disk.hang(true);
    let (store, _) = on(&disk, &anywhere());
    let mut player = Player::new(&store);
    player.login();
    let _ = player.close("quit");
    let stuck = |store: &Store| store.queue().is_stuck(Duration::ZERO);
    assert!(stuck(&store));
    let loss = store.finish(Duration::from_millis(1)).await;
    assert_eq!(loss.unwritten, 7);
    disk.hang(false);
    assert!(store.finish(LIMIT).await.is_none());
    assert!(!stuck(&store));
}

#[test]
fn pieces_of_a_message_whose_record_was_lost_are_not_the_next_ones() {
    let directory = tempfile::tempdir().unwrap();
    let transcript = Transcript { content: ContentPolicy::Full, ..in_directory(directory.path()) };
    let storage = Box::new(directory::open(directory.path(), &transcript).unwrap());
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
    let mut writer = super::writer::Writer::new(super::writer::Plan::of(&transcript), Some(storage), None, clock, Arc::default());
    for n in [1, 2] {
        writer.take(super::queue::Message::Kept { session: "s".into(), n, octets: vec![b'x'; 10] });
    }
    let body = Body::Content(schema::Content { n: 2, ..schema::Content::default() });
    writer.take(super::queue::Message::Record(Box::new(Record {
        v: 1,
        session: "s".into(),
        time: String::new(),
        at_us: 0,
        body,
    })));
    writer.finish();
    let found = events(directory.path());
    let Body::Content(content) = &found[0].body else { panic!("{found:?}") };
    assert_eq!(content.kept.iter().map(|piece| (piece.offset, piece.length)).collect::<Vec<_>>(), [(10, 10)]);
}

fn poll(recorder: &mut Recorder) -> Poll<Result<(), Full>> {
    recorder.poll_ready(&mut Context::from_waker(Waker::noop()))
}

/// Plays until the buffer is full.
fn fill(player: &mut Player) -> u64 {
    let mut sent = 0;
    while player.recorder.ready() {
        player.command(b"NOOP");
        sent += 1;
        assert!(sent < 10_000, "it is never full");
    }
    sent
}

#[tokio::test(start_paused = true)]
async fn a_session_waits_up_to_the_limit_and_then_goes_on_with_a_gap() {
    let disk = Disk::with_free(1 << 30);
    disk.hang(true);
    let (store, _) = on(&disk, &Transcript { buffer: 50_000, ..anywhere() });
    let mut player = Player::new(&store);
    let sent = fill(&mut player);
    let begun = tokio::time::Instant::now();
    assert!(poll(&mut player.recorder).is_pending());
    std::future::poll_fn(|cx| player.recorder.poll_ready(cx)).await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 5);
    assert!(player.recorder.ready(), "it goes on");
    for _ in 0..100 {
        player.command(b"NOOP");
    }
    disk.hang(false);
    let summary = player.close("eof");
    assert_eq!(summary.events_lost, 100);
    tokio::time::resume();
    assert_eq!(store.finish(LIMIT).await.events, 100);
    let found = records(&disk.written(Stream::Events));
    assert_eq!(found.len() as u64, sent + 3);
    let gap = found.iter().find_map(|record| if let Body::Gap(gap) = &record.body { Some(gap) } else { None }).unwrap();
    assert_eq!((gap.reason.as_str(), gap.events, gap.client_octets), ("full", 100, 600));
}

#[tokio::test]
async fn a_waiting_session_is_woken_by_the_writer() {
    let disk = Disk::with_free(1 << 30);
    disk.hang(true);
    let (store, _) = on(&disk, &Transcript { buffer: 50_000, wait_limit: None, ..anywhere() });
    let mut player = Player::new(&store);
    fill(&mut player);
    assert!(poll(&mut player.recorder).is_pending());
    disk.hang(false);
    let begun = std::time::Instant::now();
    tokio::time::timeout(LIMIT, std::future::poll_fn(|cx| player.recorder.poll_ready(cx))).await.unwrap().unwrap();
    assert!(begun.elapsed() < LIMIT / 2, "it was woken, not polled again at the limit");
    assert_eq!(player.close("eof").events_lost, 0);
    assert!(store.finish(LIMIT).await.is_none());
}

#[test]
fn mark_and_close() {
    let disk = Disk::with_free(1 << 30);
    disk.hang(true);
    let (store, _) = on(&disk, &Transcript { buffer: 50_000, on_full: OnFull::Close, ..anywhere() });
    let mut player = Player::new(&store);
    fill(&mut player);
    assert_eq!(poll(&mut player.recorder), Poll::Ready(Err(Full)));
    let (store, _) = on(&disk, &Transcript { buffer: 50_000, on_full: OnFull::Mark, ..anywhere() });
    let mut marked = Player::new(&store);
    for _ in 0..1_000 {
        assert!(marked.recorder.ready());
        marked.command(b"NOOP");
    }
    assert!(marked.close("eof").events_lost > 0);
    disk.hang(false);
}

/// A live view that remembers what it was shown.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u8>>>);

impl LiveView for Seen {
    fn show(&mut self, record: &Record) {
        serde_json::to_writer(&mut *self.0.lock().unwrap(), record).unwrap();
    }

    fn lost(&mut self, _: u64) {}
}

#[test]
fn a_live_view_alone() {
    let seen = Seen::default();
    let store = Store::open(None, Some(Box::new(seen.clone()))).unwrap();
    let mut player = Player::new(&store);
    player.login();
    let _ = player.close("quit");
    assert!(finish(&store).is_none());
    let text = String::from_utf8(seen.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("USER bob") && text.contains("verdict") && !text.contains("hunter2"));
}

/// Plays every kind of event that may carry a secret.
fn secretive_session(player: &mut Player, words: &[String]) {
    let [one, two] = words else { panic!("two words") };
    let secret = format!("{one} {two}");
    let base64 = |text: String| STANDARD.encode(text).into_bytes();
    let echoes = |player: &mut Player, n: u64, keyword: Keyword, sent: &[u8]| {
        player.recorder.on(&Event::Unsolicited { status: Some(Status::Ok), line: line(&[b"+OK note ", sent].concat()) });
        player.recorder.on(&Event::Unsolicited { status: None, line: line(sent) });
        player.reply(n, keyword, &[b"-ERR bad: ", sent, b" ", secret.as_bytes()].concat());
        player.reply(n, keyword, &[b"-ERR once more: ", &sent.to_ascii_uppercase()[..]].concat());
    };
    player.command(b"USER somebody");
    for command in [
        format!("PASS {secret}"),
        format!(" pass\t{secret}"),
        format!("APOP somebody {secret}"),
        format!("APOP {one}"),
        format!("AUTH {one}"),
        format!("XCLIENT FORWARD={secret}"),
        format!("XOIP {secret}"),
        secret.clone(),
        format!("{one}\0{two}"),
        format!("PASS {secret}{}", "x".repeat(600)),
    ] {
        let n = player.command(command.as_bytes());
        echoes(player, n, Command::parse(command.as_bytes()).keyword, command.as_bytes());
    }
    for (mechanism, messages) in [
        ("PLAIN", vec![format!("\0somebody\0{secret}")]),
        ("LOGIN", vec!["somebody".to_owned(), secret.clone()]),
        ("CRAM-MD5", vec![format!("somebody {one}{two}")]),
        ("XOAUTH2", vec![format!("user=somebody\x01auth=Bearer {one}\x01\x01")]),
        ("OAUTHBEARER", vec![format!("n,a=somebody,\x01auth=Bearer {one}\x01\x01")]),
        ("SCRAM-SHA-256", vec![format!("n,,n=somebody,r={one}"), format!("c=biws,p={two}")]),
        ("NTLM", vec![secret.clone()]),
    ] {
        let auth = player.command(format!("AUTH {mechanism}").as_bytes());
        player.recorder.on(&Event::SaslChallenge { auth, line: line(&base64(secret.clone())) });
        for message in messages {
            player.response(auth, &base64(message.clone()));
        }
        echoes(player, auth, Keyword::Auth, secret.as_bytes());
    }
    let initial = [b"AUTH PLAIN ".to_vec(), base64(format!("\0somebody\0{secret}"))].concat();
    let n = player.command(&initial);
    let pipelined = format!("PASS {secret}");
    player.response(n, pipelined.as_bytes());
    echoes(player, n, Keyword::Auth, &initial[b"AUTH PLAIN ".len()..]);
    player.recorder.on(&Event::Resolved { n: n + 1, keyword: Keyword::Pass });
    echoes(player, n + 1, Keyword::Pass, secret.as_bytes());
    let n = player.command(secret.as_bytes());
    player.body(n, Keyword::Capa, format!("TOP\r\n{secret}\r\n").as_bytes());
    player.recorder.on(&Event::Unfinished { from: Peer::Client, line: Line { end: LineEnd::None, ..line(secret.as_bytes()) } });
    player.recorder.on(&Event::Unfinished { from: Peer::Upstream, line: Line { end: LineEnd::None, ..line(secret.as_bytes()) } });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_secret_reaches_any_sink(words in proptest::collection::vec("[a-zA-Z0-9!%&=+/@.-]{6,20}Q7z", 2), after_login: bool) {
        let directory = tempfile::tempdir().unwrap();
        let seen = Seen::default();
        let transcript = Transcript { content: ContentPolicy::Full, ..in_directory(directory.path()) };
        let store = Store::open(Some(&transcript), Some(Box::new(seen.clone()))).unwrap();
        let mut player = Player::new(&store);
        if after_login {
            player.login();
        }
        secretive_session(&mut player, &words);
        let summary = player.close("eof");
        prop_assert!(finish(&store).is_none());
        let mut sinks = contents(directory.path(), "");
        sinks.extend_from_slice(&seen.0.lock().unwrap());
        sinks.extend(serde_json::to_vec(&summary).unwrap());
        let text = String::from_utf8(sinks).unwrap().to_ascii_lowercase();
        prop_assert!(text.contains("somebody"), "identities are kept");
        let secret = words.join(" ");
        let encoded = STANDARD.encode(&secret);
        for needle in [&words[0], &words[1], &encoded, &STANDARD.encode(format!("\0somebody\0{secret}"))] {
            let needle = needle.to_ascii_lowercase();
            let at = text.find(&needle);
            prop_assert!(at.is_none(), "{needle} in …{}", &text[at.unwrap_or(0).saturating_sub(300)..][..400]);
        }
    }
}

#[test]
fn a_device_that_is_always_full() {
    let mut output = Named(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let (done, result) = super::lane::write_counted(&mut output, b"line\n");
    assert_eq!((done, result.unwrap_err().kind()), (0, io::ErrorKind::StorageFull));
}

#[test]
fn a_torn_line_is_cut_back_or_ended() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut output = Named(file.reopen().unwrap());
    super::lane::write_counted(&mut output, b"whole\nto").1.unwrap();
    output.truncate(6).unwrap();
    let mut found = String::new();
    file.reopen().unwrap().read_to_string(&mut found).unwrap();
    assert_eq!(found, "whole\n");
}

#[test]
fn a_file_without_a_name_takes_nothing() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut output = Named(file.reopen().unwrap());
    output.write_all(b"kept\n").unwrap();
    file.close().unwrap();
    assert_eq!(output.write_all(b"lost\n").unwrap_err().kind(), io::ErrorKind::NotFound);
}
