//! poptap: a transparent, logging POP3 proxy.
//!
//! It stands between mail clients and a mail server, carries every octet unchanged unless it was told otherwise,
//! understands the whole session while it passes, and keeps a transcript that is safe to share. The binary `poptap` is made
//! of this library; the library is public for its tests and for the curious, and promises no stable interface.
//!
//! # The picture
//!
//! ```text
//!                ┌───────────────────── session ──────────────────────┐
//!                │                       relay                        │
//!            ───►│ read ─► ┌──────────── tap ─────────────┐ ─► write  │───►
//!   client       │         │  flow · tracker · filter     │           │      server
//!            ◄───│ write ◄─└──────────────┬───────────────┘ ◄─ read   │◄───
//!                └────────────────────────┼───────────────────────────┘
//!                                         ▼ events
//!                                      record ─► the transcript ─► inspect
//! ```
//!
//! A pure core speaks POP3 and owns the buffers ([`pop3`], [`tap`]); a thin shell owns the sockets and the time ([`relay`],
//! the sessions, [`server`], [`net`], [`tls`]); observers ([`record`]) and filters ([`policy`]) plug into the core.
//!
//! # The path of an octet
//!
//! 1. [`server`] accepts a client, gives it a place under the caps ([`admission`]), and starts its session: one task.
//! 2. The session dials the server through [`net`]; TLS stands before the client's first octet is looked at.
//! 3. [`relay::relay`] reads into a [`tap::Flow`], while the tap wants more from that side. Not to read is all the
//!    back-pressure there is.
//! 4. [`tap::Tap::advance`] labels: it cuts lines, lets the [`pop3::Tracker`] match replies with commands, and asks the
//!    [`tap::Filter`].
//! 5. What is labelled is released: an index moves, nothing is copied, nothing is written again from what was understood.
//! 6. The relay writes it to the other side, and flushes when that direction runs dry.
//! 7. The [`tap::Observer`] was told in an [`tap::Event`], a borrowed view of the same octets; [`record`] redacts it by its
//!    kind and hands it to the writer's thread.
//!
//! No step goes back, and no step waits for a later one, but for the writer, and for that only so long as was configured.
//!
//! # The map
//!
//! | module | what it knows |
//! |---|---|
//! | [`cli`], [`config`] | what a person may type; the same, resolved and validated once |
//! | [`commands`] | what each command does, and its exit code |
//! | [`confine`] | what the process gives up once its sockets are bound |
//! | [`server`], `session` | listeners, draining; one client's life from accept to close |
//! | [`admission`] | how many sessions and refused logins an address or a user has, and what is too much |
//! | [`relay`] | the poll loop, how streams end, time limits |
//! | [`net`], [`tls`] | the way to a server; trust, handshakes, certificates |
//! | [`tap`] | two flows, events, filters: what may pass, and when |
//! | [`pop3`] | lines, commands, replies, bodies, the tracker; it has never heard of proxies |
//! | [`policy`] | the filters: the built-in handling, the user's rules, the shield |
//! | [`anomaly`] | what sessions may show that is odd: the catalogue |
//! | [`record`], [`inspect`] | the transcript: written, and read |
//! | [`escape`] | text from strangers, made safe to show |
//! | [`replay`] | a recorded session's server, played to a client |
//! | [`probe`] | one look at a server: what it is found to be |
//! | [`demo`], [`telemetry`] | a sample mailbox; the operational log and the counts |
//! | [`web`] | HTTP: the counts for a monitoring system, the live page |
//!
//! Dependencies point inward, `pop3 ← tap ← relay ← session ← server`, and a test scans the sources for it. `DESIGN.md`
//! answers why things are as they are.

pub mod admission;
pub mod anomaly;
pub mod cli;
pub mod commands;
pub mod config;
pub mod confine;
pub mod demo;
pub mod escape;
pub mod inspect;
pub mod net;
pub mod policy;
pub mod pop3;
pub mod probe;
pub mod record;
pub mod relay;
pub mod replay;
pub mod server;
mod session;
pub mod tap;
pub mod telemetry;
pub mod tls;
pub mod web;
