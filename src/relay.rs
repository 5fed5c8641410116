//! The poll loop: moves octets between two streams while the tap allows.
//!
//! Why it cannot deadlock: the two directions share no buffer and no lock, and neither awaits inside the other. From server
//! to client nothing waits for the direction from client to server, except while STLS is handed over, when the server has
//! nothing to say. From client to server may wait for the server (a gate, the cap on outstanding commands), never the other
//! way round, and waiting in one direction has no cycle. Both may wait for the transcript's writer, the writer for neither.
//! So the proxy stands still only when a peer stopped reading or answering, and the timer ends that.

mod timer;

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use timer::{Due, Timer};

use crate::{
    config::Timeouts,
    pop3::Peer,
    tap::{Filter, Observer, Tap, Violation},
};

/// An observer that keeps a record: the only thing besides the peers that the relay waits for.
pub trait Recording: Observer {
    /// A turn begins, the loop was woken: read the clock.
    fn turn(&mut self);
    /// The turn is over: nothing may be kept back for a next one, which may be long in coming.
    fn rest(&mut self);
    /// Waits until [`Observer::ready`]; an error ends the session.
    ///
    /// # Errors
    /// [`RecordFull`] where the record is full and the session is to be closed for it.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), RecordFull>>;
}

/// The record takes nothing more, and the session is to be closed for that: it is full, or it holds what nobody is to get past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordFull;

/// Why the relay returned.
#[derive(Debug)]
pub enum Outcome {
    /// The streams have ended.
    Closed {
        /// Who ended first; a server that fails behind the client's orderly end counts as the first.
        by: Peer,
        /// How.
        how: Ending,
    },
    /// The server left before it said anything; the client has not been told.
    NoGreeting,
    /// The client was told to start TLS with us, and nothing else is on its way to it: its handshake is due.
    StartTls,
    /// A login is due: its server has to be reached, and the client waits for nothing else.
    Login,
    /// A login was refused, and the client has been told: it may try another one, with another server.
    LoginRefused,
    /// A time limit expired.
    TimedOut(Limit),
    /// The client has got the last that it gets: a rule or a limit has ended the session.
    Dismissed,
    /// A peer did what is not safe to pass on.
    Violation(Violation),
    /// The record is full.
    RecordFull,
}

/// How a peer ended its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In order.
    Eof,
    /// TLS without `close_notify`: there may have been more.
    Truncated,
    /// With a reset, or another failure of the connection.
    Reset,
}

/// The limits that the relay watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Until the greeting.
    Greeting,
    /// From the greeting to a successful login, with what the shield asks behind it.
    Login,
    /// Without an octet.
    Idle,
    /// Without an octet, when one side has ended its stream.
    HalfClosed,
}

/// When the end of the client's stream is passed on to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfClose {
    /// At once: over TCP, servers go on to answer what they have.
    AtOnce,
    /// When all replies have come: over TLS the end is a `close_notify`, and servers (Dovecot) drop what they have
    /// not answered.
    AfterReplies,
}

/// A stream of which one can let go in two ways: by an end that is meant, and as if the line were cut.
pub trait Hop: AsyncRead + AsyncWrite + Unpin {
    /// Ends this side without saying that the end is meant; where the stream knows no such difference, as by a shutdown.
    ///
    /// # Errors
    /// The stream's.
    fn poll_cut(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_shutdown(context)
    }
}

impl Hop for tokio::net::TcpStream {}
impl Hop for tokio::io::DuplexStream {}
impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Hop for tokio::io::Join<R, W> {}

/// Relays until both streams have ended, one failed, or a limit expired.
///
/// What the outcome leaves undelivered stands in the tap. The future may be dropped at any time.
pub async fn relay<C, U, R, F>(
    client: &mut C,
    upstream: &mut U,
    tap: &mut Tap<R, F>,
    timeouts: &Timeouts,
    half_close: HalfClose,
) -> Outcome
where
    C: Hop,
    U: Hop,
    R: Recording,
    F: Filter,
{
    let timer = Timer::new(timeouts);
    let mut relay = Relay { client: End::new(client), upstream: End::new(upstream), tap, first: None, timer, half_close };
    poll_fn(|context| relay.poll(context)).await
}

struct Relay<'a, C, U, R, F> {
    client: End<'a, C>,
    upstream: End<'a, U>,
    tap: &'a mut Tap<R, F>,
    /// Who ended the session, and how.
    first: Option<(Peer, Ending)>,
    timer: Timer<'a>,
    half_close: HalfClose,
}

/// One peer's stream, and what was done to it.
struct End<'a, S> {
    stream: &'a mut S,
    /// How it ended: nothing more can be read from it.
    ended: Option<Ending>,
    /// Its writing half: octets may be written, wait to be flushed, were followed by our end, or can no longer be.
    writing: Writing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Writing {
    Clean,
    Unflushed,
    ShutDown,
    Failed,
}

impl<C, U, R, F> Relay<'_, C, U, R, F>
where
    C: Hop,
    U: Hop,
    R: Recording,
    F: Filter,
{
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        self.tap.observer().turn();
        self.timer.wake();
        let poll = self.run(context);
        self.tap.observer().rest();
        poll
    }

    /// Until nothing moves.
    fn run(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        while self.turn(context) {
            if let Some(violation) = self.tap.violation() {
                return Poll::Ready(Outcome::Violation(violation));
            }
        }
        let client_gone = self.client.writing == Writing::Failed || self.client.ended == Some(Ending::Reset);
        if self.tap.is_login_refused() && self.client.writing == Writing::Clean && !client_gone {
            return Poll::Ready(Outcome::LoginRefused);
        }
        if let Some(outcome) = self.outcome() {
            return Poll::Ready(outcome);
        }
        if self.tap.is_login_due() && self.client.writing == Writing::Clean {
            return Poll::Ready(Outcome::Login);
        }
        if self.is_handing_over() {
            return Poll::Ready(Outcome::StartTls);
        }
        if self.tap.is_dismissed() && self.client.writing != Writing::Unflushed {
            return Poll::Ready(Outcome::Dismissed);
        }
        if let Some(Err(RecordFull)) = self.wait_for_record(context) {
            return Poll::Ready(Outcome::RecordFull);
        }
        self.tap.rest();
        self.poll_timer(context).map(Outcome::TimedOut)
    }

    /// Not before all that was said in clear has gone out, in both directions.
    fn is_handing_over(&self) -> bool {
        self.tap.is_handing_over() && self.client.writing == Writing::Clean && self.upstream.writing == Writing::Clean
    }

    /// One attempt at everything; whether anything moved.
    fn turn(&mut self, context: &mut Context<'_>) -> bool {
        let mut moved = false;
        if !self.is_upstream_dead() {
            moved |= self.read(Peer::Client, context);
        }
        moved |= self.read(Peer::Upstream, context);
        moved |= self.tap.advance();
        moved |= self.write(Peer::Client, context);
        moved |= self.write(Peer::Upstream, context);
        moved |= self.record_is_ready_again(context);
        moved
    }

    fn read(&mut self, peer: Peer, context: &mut Context<'_>) -> bool {
        let ended = if peer == Peer::Client { self.client.ended } else { self.upstream.ended };
        if ended.is_some() || !self.tap.wants_read(peer) {
            return false;
        }
        let mut space = ReadBuf::new(self.tap.space(peer));
        let poll = match peer {
            Peer::Client => Pin::new(&mut *self.client.stream).poll_read(context, &mut space),
            Peer::Upstream => Pin::new(&mut *self.upstream.stream).poll_read(context, &mut space),
        };
        let count = space.filled().len();
        match poll {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) if count > 0 => {
                self.tap.filled(peer, count);
                self.timer.has_read(peer);
            }
            Poll::Ready(Ok(())) => self.ended(peer, Ending::Eof),
            Poll::Ready(Err(error)) => self.ended(peer, ending(&error)),
        }
        true
    }

    fn ended(&mut self, peer: Peer, how: Ending) {
        if peer == Peer::Upstream && how != Ending::Eof && self.first == Some((Peer::Client, Ending::Eof)) {
            self.first = None;
        }
        self.first.get_or_insert((peer, how));
        self.tap.finish(peer);
        match peer {
            Peer::Client => self.client.ended = Some(how),
            Peer::Upstream => self.upstream.ended = Some(how),
        }
    }

    /// Writes what is released from `from` to its other peer; flushes when it runs dry; passes the end on.
    fn write(&mut self, from: Peer, context: &mut Context<'_>) -> bool {
        let result = match from {
            Peer::Client => {
                let finished = self.half_close == HalfClose::AtOnce || !self.tap.awaits_server() || self.upstream.ended.is_some();
                let end = self.client.ended.filter(|_| finished);
                self.upstream.drain(self.tap, from, end, context)
            }
            Peer::Upstream => {
                let broken_off = self.tap.has_broken_off();
                let as_it_was = |how| if broken_off && how == Ending::Eof { Ending::Truncated } else { how };
                let end = self.upstream.ended.filter(|_| !self.is_server_mute()).map(as_it_was);
                self.client.drain(self.tap, from, end, context)
            }
        };
        let moved = result.unwrap_or_else(|error| {
            self.first.get_or_insert((from.other(), ending(&error)));
            true
        });
        if moved {
            self.timer.has_written();
        }
        moved
    }

    /// The server went away with a failure: nothing can reach it any more, but what it sent is delivered.
    fn is_upstream_dead(&self) -> bool {
        self.upstream.writing == Writing::Failed || matches!(self.upstream.ended, Some(Ending::Reset | Ending::Truncated))
    }

    /// The server was the first to leave, and had said nothing: whoever runs the relay can still tell the client why.
    fn is_server_mute(&self) -> bool {
        let left_first = matches!(self.first, Some((Peer::Upstream, _))) && self.upstream.ended.is_some();
        left_first && self.tap.totals(Peer::Upstream).0 == 0
    }

    fn outcome(&mut self) -> Option<Outcome> {
        if self.is_server_mute() {
            return Some(Outcome::NoGreeting);
        }
        let (by, how) = self.first?;
        let client_gone = self.client.writing == Writing::Failed || self.client.ended == Some(Ending::Reset);
        let to_client_done = self.client.writing == Writing::ShutDown;
        let to_upstream_done = self.upstream.writing == Writing::ShutDown || self.is_upstream_dead() || self.is_held_for_ever();
        (client_gone || to_client_done && to_upstream_done).then_some(Outcome::Closed { by, how })
    }

    /// What is left of the client's waits for a reply of the server's, who has ended its stream: behind STLS, or over the cap.
    fn is_held_for_ever(&mut self) -> bool {
        self.client.ended.is_some()
            && self.upstream.ended.is_some()
            && self.tap.output(Peer::Client).is_empty()
            && self.tap.observer().ready()
    }

    fn record_is_ready_again(&mut self, context: &mut Context<'_>) -> bool {
        !self.tap.observer().ready() && matches!(self.wait_for_record(context), Some(Ok(())))
    }

    fn wait_for_record(&mut self, context: &mut Context<'_>) -> Option<Result<(), RecordFull>> {
        if self.tap.observer().ready() {
            return None;
        }
        match self.tap.observer().poll_ready(context) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<Limit> {
        let one_sided = self.first.is_some();
        let (deadline, due) = self.timer.next(self.tap, one_sided);
        ready!(self.timer.poll(deadline, context));
        match due {
            Due::Limit(limit) => Poll::Ready(limit),
            Due::Replies => {
                self.tap.give_up_on_replies();
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Due::DelayOver => {
                self.timer.delayed = None;
                self.tap.delay_is_over();
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

impl<'a, S: Hop> End<'a, S> {
    fn new(stream: &'a mut S) -> Self {
        Self { stream, ended: None, writing: Writing::Clean }
    }

    fn drain<R: Observer, F: Filter>(
        &mut self,
        tap: &mut Tap<R, F>,
        from: Peer,
        end: Option<Ending>,
        context: &mut Context<'_>,
    ) -> io::Result<bool> {
        if matches!(self.writing, Writing::ShutDown | Writing::Failed) {
            return Ok(false);
        }
        let result = self.try_drain(tap, from, end, context);
        if result.is_err() {
            self.writing = Writing::Failed;
        }
        result
    }

    fn try_drain<R: Observer, F: Filter>(
        &mut self,
        tap: &mut Tap<R, F>,
        from: Peer,
        end: Option<Ending>,
        context: &mut Context<'_>,
    ) -> io::Result<bool> {
        let mut moved = false;
        while !tap.output(from).is_empty() {
            let Poll::Ready(written) = Pin::new(&mut *self.stream).poll_write(context, tap.output(from)) else {
                return Ok(moved);
            };
            let count = written?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            tap.wrote(from, count);
            self.writing = Writing::Unflushed;
            moved = true;
        }
        if self.writing == Writing::Unflushed && Pin::new(&mut *self.stream).poll_flush(context)?.is_ready() {
            self.writing = Writing::Clean;
        }
        Ok(moved | self.pass_on_end(end.filter(|_| tap.is_finished(from)), context)?)
    }

    /// An end is passed on as what it was: a cut stays one, and does not become an end that somebody meant. One in the middle
    /// of a reply counts as a cut, since without TLS the two look alike.
    fn pass_on_end(&mut self, end: Option<Ending>, context: &mut Context<'_>) -> io::Result<bool> {
        let stream = Pin::new(&mut *self.stream);
        let done = match end {
            None => return Ok(false),
            Some(Ending::Eof) => stream.poll_shutdown(context)?.is_ready(),
            Some(Ending::Truncated | Ending::Reset) => stream.poll_cut(context)?.is_ready(),
        };
        if done {
            self.writing = Writing::ShutDown;
        }
        Ok(done)
    }
}

fn ending(error: &io::Error) -> Ending {
    if error.kind() == io::ErrorKind::UnexpectedEof { Ending::Truncated } else { Ending::Reset }
}
