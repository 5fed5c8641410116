//! Which upstream serves a session: they are tried in the listener's order until one has greeted.

use std::sync::Arc;

use super::{Client, connect};
use crate::{
    net::{ConnectError, Connected},
    record::{Recorder, schema},
    server::{
        Led, Terms, Way,
        health::{Stage, Try},
    },
};

/// Connects to where the client is led, or else to the first upstream that can serve.
///
/// Where there is one alone, its connection is all that is waited for. Where there are several, the greeting is, too, so that
/// the next one can be tried while the client has heard nothing and nothing of the client's was read.
///
/// # Errors
///
/// None can serve: the last error that may pass by itself, or else the last.
pub(super) async fn reach(
    client: &Client,
    led: Option<Led>,
    terms: &Terms,
    ways: &[Arc<Way>],
    recorder: &mut Recorder,
) -> Result<(Arc<Way>, Connected), ConnectError> {
    if let Some(Led { way, .. }) = led {
        let connected = alone(client, terms, &way).await?;
        return Ok((way, connected));
    }
    if let [only] = ways {
        return Ok((Arc::clone(only), alone(client, terms, only).await?));
    }
    let mut search = Search { client, terms, ways, recorder, tried: Vec::new(), error: None };
    for way in ways {
        if let Some(attempt) = way.health.try_it()
            && let Some(connected) = search.go(way, attempt).await
        {
            return Ok((Arc::clone(way), connected));
        }
    }
    // All that were not tried rest. Who has rested the longest may be there again.
    let resting = ways.iter().filter(|way| !search.has_tried(way));
    if let Some(way) = resting.min_by_key(|way| way.health.down_since())
        && let Some(connected) = search.go(way, way.health.try_anyway()).await
    {
        return Ok((Arc::clone(way), connected));
    }
    Err(search.error.unwrap_or(ConnectError::Nowhere))
}

/// What became of a session tells of its upstream, where nobody waited for the greeting.
pub(super) fn settle(way: &Way, ungreeted: Option<&ConnectError>, is_greeted: bool) {
    match ungreeted {
        Some(error) => way.failed(error, way.health.try_anyway()),
        None if is_greeted && !way.health.is_up() => way.came_to(Stage::Greeted, way.health.try_anyway()),
        None => {}
    }
}

async fn alone(client: &Client, terms: &Terms, way: &Way) -> Result<Connected, ConnectError> {
    let attempt = way.health.try_anyway();
    let result = connect(client, terms, way).await;
    match &result {
        Ok(connected) if connected.received.is_empty() => way.came_to(Stage::Connected, attempt),
        Ok(_) => way.came_to(Stage::Greeted, attempt),
        Err(error) => way.failed(error, attempt),
    }
    result
}

/// One session's search for an upstream.
struct Search<'s> {
    client: &'s Client,
    terms: &'s Terms,
    ways: &'s [Arc<Way>],
    recorder: &'s mut Recorder,
    tried: Vec<&'s Arc<Way>>,
    /// What the client is told if none serves.
    error: Option<ConnectError>,
}

impl<'s> Search<'s> {
    /// Connects, and waits for the greeting where one can be read; `None` where that failed.
    async fn go(&mut self, way: &'s Arc<Way>, attempt: Try<'_>) -> Option<Connected> {
        let connected = async {
            let mut connected = connect(self.client, self.terms, way).await?;
            if way.connector.reads_greetings() {
                way.connector.await_greeting(&mut connected).await?;
            }
            Ok(connected)
        };
        match connected.await {
            Ok(connected) => {
                way.came_to(if way.connector.reads_greetings() { Stage::Greeted } else { Stage::Connected }, attempt);
                self.reached(way);
                Some(connected)
            }
            Err(error) => {
                way.failed(&error, attempt);
                self.failed(way, error);
                None
            }
        }
    }

    fn has_tried(&self, way: &Arc<Way>) -> bool {
        self.tried.iter().any(|tried| Arc::ptr_eq(tried, way))
    }

    fn failed(&mut self, way: &'s Arc<Way>, error: ConnectError) {
        let (upstream, reason, detail) = (way.upstream.name.clone(), error.reason().to_owned(), error.detail());
        tracing::debug!(session = self.recorder.id(), upstream, "{detail}");
        self.recorder.unreached(schema::Unreached { upstream, reason, detail });
        self.tried.push(way);
        if error.is_temporary() || !self.error.as_ref().is_some_and(ConnectError::is_temporary) {
            self.error = Some(error);
        }
    }

    /// The transcript says which one, unless it is the one that comes first.
    fn reached(&mut self, way: &Arc<Way>) {
        let before = self.ways.iter().take_while(|other| !Arc::ptr_eq(other, way));
        let resting: Vec<_> = before.filter(|other| !self.has_tried(other)).map(|other| other.upstream.name.clone()).collect();
        if self.ways.first().is_none_or(|first| !Arc::ptr_eq(first, way)) {
            let upstream = way.upstream.name.clone();
            tracing::info!(session = self.recorder.id(), upstream, "carried to another upstream than the first");
            self.recorder.reached(schema::Reached { upstream, resting });
        }
    }
}
