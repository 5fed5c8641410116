//! Whom a client wanted to reach, and what becomes of it where that cannot be.

use std::net::SocketAddr;

use super::closing::{close, ended, last_words};
use crate::{
    config::Upstream,
    net::{Misdirected, Stream},
    record::{Recorder, schema},
    server::{Led, Terms},
};

/// Where a client is carried to.
pub(super) struct Whither {
    /// Whom it wanted to reach, where the connection was meant for another.
    pub(super) destination: Option<SocketAddr>,
    /// The way that follows from that; `None` where none does.
    pub(super) led: Result<Option<Led>, Misdirected>,
}

impl Whither {
    /// Asks the system, where connections are led to this listener.
    pub(super) fn of(client: &Stream, terms: &Terms) -> Self {
        let Some(interception) = &terms.interception else { return Self::nowhere() };
        match interception.destination(client.tcp(), terms.address) {
            Ok(destination) => Self { destination: Some(destination), led: interception.way(destination) },
            Err(error) => Self { destination: error.destination(), led: Err(error) },
        }
    }

    /// Of a client that is carried nowhere, and not asked.
    pub(super) fn nowhere() -> Self {
        Self { destination: None, led: Ok(None) }
    }

    /// The name of the upstream that follows, as far as is known.
    pub(super) fn upstream<'a>(&'a self, terms: &'a Terms) -> &'a str {
        match &self.led {
            Ok(Some(led)) => &led.way.upstream.name,
            Ok(None) => terms.first_choice(),
            Err(_) => Upstream::ORIGINAL,
        }
    }
}

/// Closes a connection that cannot be carried to where it was meant to go.
pub(super) async fn turn_away<T>(client: Stream, error: &Misdirected, terms: &Terms, recorder: Recorder) -> Option<T> {
    tracing::warn!(session = recorder.id(), listener = %terms.address, "{}", error.detail());
    last_words(client, if terms.begins_with_tls() { "" } else { error.client_line() }).await;
    close(recorder, schema::Closed { detail: Some(error.detail()), ..ended("poptap", error.reason()) });
    None
}
