//! An observer that writes down every event, in a form that does not depend on how the octets were cut.

use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use poptap::{
    pop3::Peer,
    record::Recorder,
    relay::{RecordFull, Recording},
    tap::{Decision, Event, Line, Observer},
};

/// What was seen, a line each.
#[derive(Default)]
pub struct Witness {
    lines: Vec<String>,
    /// A run of pieces that is not written down yet: its key, its text or count.
    open: Option<(String, Vec<u8>, u64)>,
    /// Events in all.
    pub events: u64,
    /// Octets that the events account for, from the client and from the server.
    pub accounted: (u64, u64),
    /// Asked to be silent for so many more `ready` calls, to try the waiting.
    pub stall: std::cell::Cell<u32>,
    /// A recorder that is told the same.
    pub recorder: Option<Recorder>,
    /// Whether there is room for what it writes down; shared, so that a test can make some meanwhile.
    pub room: Arc<Room>,
}

/// Room in a record.
#[derive(Default)]
pub struct Room(Mutex<(Space, Option<Waker>)>);

/// How much of it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Space {
    #[default]
    Enough,
    None,
    /// None, and the session is to be closed for it.
    Full,
}

impl Room {
    pub fn set(&self, space: Space) {
        let mut state = self.0.lock().unwrap();
        state.0 = space;
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }

    fn space(&self) -> Space {
        self.0.lock().unwrap().0
    }
}

impl Witness {
    /// All that was seen.
    pub fn seen(&mut self) -> Vec<String> {
        self.close_run();
        self.lines.clone()
    }

    fn write(&mut self, line: String) {
        self.close_run();
        self.lines.push(line);
    }

    fn run(&mut self, key: String, text: &[u8], octets: u64) {
        match &mut self.open {
            Some((open, kept, count)) if *open == key => {
                kept.extend_from_slice(text);
                *count += octets;
            }
            _ => {
                self.close_run();
                self.open = Some((key, text.to_vec(), octets));
            }
        }
    }

    fn close_run(&mut self) {
        if let Some((key, text, octets)) = self.open.take() {
            let text = if text.len() > 200 { format!("{} octets", text.len()) } else { text.escape_ascii().to_string() };
            self.lines.push(if text.is_empty() { format!("{key} {octets}") } else { format!("{key} {text}") });
        }
    }
}

impl Observer for Witness {
    fn ready(&self) -> bool {
        let stall = self.stall.get();
        self.stall.set(stall.saturating_sub(1));
        stall == 0 && self.room.space() == Space::Enough
    }

    fn on(&mut self, event: &Event<'_>) {
        self.events += 1;
        self.account(event);
        if let Some(recorder) = &mut self.recorder {
            recorder.on(event);
        }
        match event {
            Event::Content { n, keyword, octets } => self.run(format!("    content {n} {}:", keyword.name()), octets, 0),
            Event::OpaqueOctets { from, octets } => self.run(format!("    opaque octets {from:?}:"), b"", *octets),
            Event::ClientData { n, octets, last } => {
                self.run(format!("    client data {n}:"), b"", *octets);
                if *last {
                    self.write(format!("    client data {n} over"));
                }
            }
            other => self.write(describe(other)),
        }
    }
}

impl Witness {
    /// Each octet is accounted for once, by exactly one event.
    fn account(&mut self, event: &Event<'_>) {
        match event {
            Event::Command { line, .. } | Event::SaslResponse { line, .. } | Event::Unfinished { from: Peer::Client, line } => {
                self.accounted.0 += line.octets;
            }
            Event::ClientData { octets, .. } | Event::OpaqueOctets { from: Peer::Client, octets } => self.accounted.0 += octets,
            Event::Greeting { line, .. }
            | Event::SaslChallenge { line, .. }
            | Event::Reply { line, .. }
            | Event::Unsolicited { line, .. }
            | Event::Unfinished { from: Peer::Upstream, line } => self.accounted.1 += line.octets,
            Event::ReplyEnd { octets, .. } | Event::OpaqueOctets { from: Peer::Upstream, octets } => self.accounted.1 += octets,
            _ => {}
        }
    }
}

impl Recording for Witness {
    fn turn(&mut self) {}

    fn rest(&mut self) {}

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), RecordFull>> {
        let mut state = self.room.0.lock().unwrap();
        match state.0 {
            Space::Enough => drop(state),
            Space::None => {
                state.1 = Some(context.waker().clone());
                return Poll::Pending;
            }
            Space::Full => return Poll::Ready(Err(RecordFull)),
        }
        if self.stall.get() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.stall.set(self.stall.get() - 1);
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

fn describe(event: &Event<'_>) -> String {
    match event {
        Event::Greeting { status, line } => format!("S greeting {status:?} {}", text(line)),
        Event::Command { n, keyword, line, stage, forwarded, own } => {
            let (who, refused) = (if *own { "P asks" } else { "C" }, if *forwarded { "" } else { " refused" });
            format!("{who} {n} {} {stage:?}{refused} {}", keyword.name(), text(line))
        }
        Event::SaslResponse { n, auth, line } => format!("C {n} sasl response to {auth} {}", text(line)),
        Event::SaslChallenge { auth, line } => format!("S sasl challenge of {auth} {}", text(line)),
        Event::Resolved { n, keyword } => format!("  {n} was a command: {}", keyword.name()),
        Event::Reply { n, keyword, status, shape, line, stage } => {
            format!("S reply to {n} {} {status:?} {shape:?} {stage:?} {}", keyword.name(), text(line))
        }
        Event::ReplyEnd { n, octets, complete, .. } => format!("S reply to {n} over: {octets} octets, complete {complete}"),
        Event::LfDot { n, offset } => format!("S bare-LF dot in the reply to {n} at {offset}"),
        Event::Unsolicited { status, line } => format!("S unsolicited {status:?} {}", text(line)),
        Event::Decision(Decision { n, action, rule, enforced, line, tag }) => {
            let dry = if *enforced { "" } else { " dry" };
            let line = line.map_or_else(String::new, |line| format!(" \"{}\"", line.escape_ascii()));
            let tag = tag.map_or_else(String::new, |tag| format!(" #{tag}"));
            format!("P {action:?} {n:?} {rule}{dry}{line}{tag}")
        }
        Event::LocalReply { n, text } => format!("P reply to {n} {}", text.escape_ascii()),
        Event::Opaque { reason, dropped_replies } => format!("P opaque {reason:?} dropped {dropped_replies}"),
        Event::Unfinished { from, line } => format!("  unfinished {from:?} {}", text(line)),
        Event::Violation(violation) => format!("P violation by {:?} {:?}", violation.fault, violation.kind),
        other => format!("{other:?}"),
    }
}

fn text(line: &Line<'_>) -> String {
    let shown = if line.text.len() > 200 { format!("{} octets", line.text.len()) } else { line.text.escape_ascii().to_string() };
    format!("\"{shown}\" {} at {} {:?}", line.octets, line.offset, line.end)
}
