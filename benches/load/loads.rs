//! The loads. Each gives a JSON object, in seconds, octets, and numbers of things.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
    sync::{Barrier, Semaphore, oneshot},
    task::JoinSet,
};

use crate::{
    Until,
    client::Client,
    maildrop::{BURST, LARGE, Maildrop, SMALL},
    transport::{Connector, Stream},
};

/// Read at a time where much comes.
const LARGE_READ: usize = 64 * 1024;
/// Read at a time where little comes.
const SMALL_READ: usize = 4096;
/// Sessions that are opened at the same time, where many are to be open.
const OPENING: usize = 32;

impl Until {
    fn end(self) -> Instant {
        Instant::now() + Duration::from_secs_f64(self.seconds)
    }
}

pub(crate) async fn retr(to: &Connector, mail: &Maildrop, count: usize, check: bool) -> Result<Value> {
    let mut client = Client::login(&to.reading_ahead(LARGE_READ), LARGE_READ).await?;
    let start = Instant::now();
    for _ in 0..count {
        client.retr(mail, LARGE, check).await?;
    }
    let seconds = start.elapsed().as_secs_f64();
    client.quit().await?;
    let octets = count * mail.message(LARGE).map_or(0, crate::maildrop::Message::octets);
    Ok(json!({"load": "retr", "octets": octets, "seconds": seconds, "mb_per_s": per_second(octets, seconds) / 1e6}))
}

pub(crate) async fn sessions(to: Connector, parallel: usize, until: Until) -> Result<Value> {
    let mail = Arc::new(Maildrop::new(1));
    let begun = Arc::new(AtomicUsize::new(0));
    let (start, end) = (Instant::now(), until.end());
    let mut tasks = JoinSet::new();
    for _ in 0..parallel {
        let (to, mail, begun) = (to.clone(), Arc::clone(&mail), Arc::clone(&begun));
        tasks.spawn(async move {
            let mut took = Vec::new();
            while Instant::now() < end && begun.fetch_add(1, Ordering::Relaxed) < until.count {
                let start = Instant::now();
                session(&to, &mail).await?;
                took.push(start.elapsed());
            }
            anyhow::Ok(took)
        });
    }
    let mut took = Vec::new();
    while let Some(done) = tasks.join_next().await {
        took.extend(done??);
    }
    let seconds = start.elapsed().as_secs_f64();
    let count = took.len();
    Ok(json!({
        "load": "sessions", "sessions": count, "resumed": to.resumed(), "parallel": parallel, "seconds": seconds,
        "per_second": per_second(count, seconds),
        "p50_us": quantile(&mut took, 50), "p99_us": quantile(&mut took, 99),
    }))
}

async fn session(to: &Connector, mail: &Maildrop) -> Result<()> {
    let mut client = Client::login(to, SMALL_READ).await?;
    client.command("STAT").await?;
    client.listing("LIST").await?;
    client.retr(mail, SMALL, true).await?;
    client.quit().await
}

pub(crate) async fn ping(to: &Connector, until: Until) -> Result<Value> {
    let mut client = Client::login(to, SMALL_READ).await?;
    let mut took = Vec::with_capacity(until.count);
    let end = until.end();
    let mut now = Instant::now();
    while took.len() < until.count && now < end {
        client.expect("NOOP", "+OK\r\n").await?;
        let answered = Instant::now();
        took.push(answered - now);
        now = answered;
    }
    client.quit().await?;
    let count = took.len();
    Ok(json!({
        "load": "ping", "count": count,
        "p50_us": quantile(&mut took, 50), "p90_us": quantile(&mut took, 90), "p99_us": quantile(&mut took, 99),
    }))
}

pub(crate) async fn pipeline(to: &Connector, until: Until) -> Result<Value> {
    let client = Client::login(&to.reading_ahead(LARGE_READ), LARGE_READ).await?;
    let (reading, writing) = split(client.into_stream()?);
    let start = Instant::now();
    let (wrote, read) = tokio::join!(write_noops(writing, until), read_answers(reading));
    let (count, octets) = (wrote?, read?);
    let seconds = start.elapsed().as_secs_f64();
    let answered = (octets - GOODBYE.len()) / ANSWER.len();
    ensure!(count == answered, "{count} commands, {answered} replies");
    Ok(json!({"load": "pipeline", "count": count, "seconds": seconds, "per_second": per_second(count, seconds)}))
}

const NOOP: &[u8] = b"NOOP\r\n";
const ANSWER: &[u8] = b"+OK\r\n";
const GOODBYE: &[u8] = b"+OK goodbye\r\n";
/// NOOPs that are written at once: as many as fit into 64 KiB.
const BATCH: usize = 64 * 1024 / NOOP.len();

/// Writes NOOPs and a QUIT; gives the number of NOOPs.
async fn write_noops(mut to: WriteHalf<Stream>, until: Until) -> Result<usize> {
    let batch = NOOP.repeat(BATCH);
    let end = until.end();
    let mut count = 0;
    while count < until.count && Instant::now() < end {
        let now = BATCH.min(until.count - count);
        to.write_all(&batch[..now * NOOP.len()]).await?;
        count += now;
    }
    to.write_all(b"QUIT\r\n").await?;
    to.flush().await?;
    Ok(count)
}

/// Reads to the end of the connection, and compares every octet; gives their number.
async fn read_answers(mut from: ReadHalf<Stream>) -> Result<usize> {
    let expected = ANSWER.repeat(LARGE_READ / ANSWER.len() + 2);
    let mut buffer = vec![0; LARGE_READ];
    let mut octets = 0;
    let mut kept = 0;
    loop {
        // The last octets of the last read may be those of the goodbye.
        let count = match from.read(&mut buffer[kept..]).await {
            Ok(count) => count,
            Err(_) if buffer[..kept] == *GOODBYE => 0,
            Err(error) => return Err(error.into()),
        };
        if count == 0 {
            ensure!(buffer[..kept] == *GOODBYE, "the connection ended after {octets} octets of replies");
            return Ok(octets + kept);
        }
        let filled = kept + count;
        kept = filled.min(GOODBYE.len());
        let sure = filled - kept;
        let phase = octets % ANSWER.len();
        ensure!(buffer[..sure] == expected[phase..phase + sure], "another reply, {octets} octets into them");
        octets += sure;
        buffer.copy_within(sure..filled, 0);
    }
}

/// Prints how many connections there are, holds them until `end`, and gives the same once more.
pub(crate) async fn idle(to: Connector, connections: usize, end: oneshot::Receiver<()>) -> Result<Value> {
    let start = Instant::now();
    let clients = open(&to, connections, |client| async { Ok(client) }).await?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{}", json!({"load": "idle", "ready": clients.len(), "seconds": seconds}));
    let _ = end.await;
    for client in clients {
        client.quit().await?;
    }
    Ok(json!({"load": "idle", "connections": connections}))
}

pub(crate) async fn burst(to: Connector, connections: usize) -> Result<Value> {
    let mail = Arc::new(Maildrop::new(1));
    let all = Arc::new(Barrier::new(connections));
    let start = Instant::now();
    let done = open(&to, connections, move |mut client| {
        let (mail, all) = (Arc::clone(&mail), Arc::clone(&all));
        async move {
            all.wait().await;
            client.retr(&mail, BURST, false).await?;
            all.wait().await;
            client.quit().await
        }
    });
    let connections = done.await?.len();
    Ok(json!({"load": "burst", "connections": connections, "seconds": start.elapsed().as_secs_f64()}))
}

/// Opens sessions, a few at a time, and does something in each that has logged in.
async fn open<T, F>(to: &Connector, connections: usize, work: impl Fn(Client) -> F + Clone + Send + 'static) -> Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send,
{
    let opening = Arc::new(Semaphore::new(OPENING));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let permit = Arc::clone(&opening).acquire_owned().await?;
        let (to, work) = (to.clone(), work.clone());
        tasks.spawn(async move {
            let client = Client::login(&to, SMALL_READ).await?;
            drop(permit);
            work(client).await
        });
    }
    let mut done = Vec::with_capacity(connections);
    while let Some(one) = tasks.join_next().await {
        done.push(one??);
    }
    Ok(done)
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn per_second(count: usize, seconds: f64) -> f64 {
    count as f64 / seconds
}

/// In microseconds.
fn quantile(took: &mut [Duration], percent: usize) -> f64 {
    took.sort_unstable();
    took.get(took.len() * percent / 100).map_or(f64::NAN, |took| took.as_secs_f64() * 1e6)
}
