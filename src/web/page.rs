//! The live page: its files, the stream of records, and single sessions out of the store.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Router,
    body::Bytes,
    extract::{self, DefaultBodyLimit, Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    filtering,
    gate::{Gate, guard},
    stream,
};
use crate::{
    config::{Config, Place, Streams},
    inspect::{self, InspectError, Which},
    record::Broadcast,
};

/// The page's files. They are part of the program, and ask for nothing from elsewhere.
const FILES: [(&str, &str, &str); 5] = [
    ("/", "text/html; charset=utf-8", include_str!("assets/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("assets/style.css")),
    ("/app.js", "text/javascript; charset=utf-8", include_str!("assets/app.js")),
    ("/conversation.js", "text/javascript; charset=utf-8", include_str!("assets/conversation.js")),
    ("/plots.js", "text/javascript; charset=utf-8", include_str!("assets/plots.js")),
];

const JSON: &str = "application/json";

/// Octets of one session's records that are sent; a conversation that is longer is cut.
const LONGEST: usize = 4 * 1024 * 1024;

/// Sessions of before that a page begins with.
const RECENT: usize = 100;

/// What the answers are made from.
pub(super) struct Page {
    broadcast: Arc<Broadcast>,
    /// The store, where events are kept in a directory.
    store: Option<PathBuf>,
    /// The same where there may be summaries alone.
    summaries: Option<PathBuf>,
    /// One session is looked up at a time: the store may be large, and the disk is the transcript's.
    looking: Semaphore,
    stop: CancellationToken,
}

impl Page {
    pub(super) fn new(config: &Config, broadcast: Arc<Broadcast>, stop: CancellationToken) -> Self {
        let transcript = config.transcript.as_ref();
        let summaries = transcript.and_then(|transcript| match &transcript.place {
            Place::Directory(directory) => Some(directory.clone()),
            Place::Stdout => None,
        });
        let has_events = transcript.is_some_and(|transcript| transcript.record == Streams::Events);
        let store = summaries.clone().filter(|_| has_events);
        Self { broadcast, store, summaries, looking: Semaphore::new(1), stop }
    }
}

/// All of it, behind the gate.
pub(super) fn router(page: Page, gate: Gate) -> Router {
    let files = FILES
        .into_iter()
        .fold(Router::new(), |router, (path, kind, text)| router.route(path, get(async move || ([(CONTENT_TYPE, kind)], text))));
    files
        .route("/api/events", get(events))
        .route("/api/recent", get(recent))
        .route("/api/session/{id}", get(session))
        .route("/api/filter", post(filter).layer(DefaultBodyLimit::max(filtering::LARGEST)))
        .fallback(async || StatusCode::NOT_FOUND)
        .with_state(Arc::new(page))
        .layer(middleware::from_fn_with_state(Arc::new(gate), guard))
}

async fn events(State(page): State<Arc<Page>>) -> Response {
    let body = stream::body(page.broadcast.subscribe(), page.stop.clone());
    ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
}

/// Which of the sessions that the page knows are meant by an expression.
async fn filter(question: Bytes) -> Response {
    match filtering::answer(&question) {
        Ok(answer) => ([(CONTENT_TYPE, JSON)], answer).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("this is no question about sessions: {error}")).into_response(),
    }
}

/// The summaries of the sessions that ended last, one a line.
async fn recent(State(page): State<Arc<Page>>) -> Response {
    let Some(store) = page.summaries.clone() else { return no("no summaries are kept in a directory") };
    let Ok(_turn) = page.looking.acquire().await else { return no("poptap is stopping") };
    match tokio::task::spawn_blocking(move || inspect::recent(&store, RECENT)).await {
        Ok(Ok(lines)) => ([(CONTENT_TYPE, "application/x-ndjson")], lines.join("\n")).into_response(),
        Ok(Err(error)) => no(&error.to_string()),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Narrows the look-up.
#[derive(Deserialize)]
struct Since {
    /// When the session began: files that were not written to since then are left out.
    since: Option<String>,
}

async fn session(
    State(page): State<Arc<Page>>,
    extract::Path(id): extract::Path<String>,
    Query(Since { since }): Query<Since>,
) -> Response {
    let Some(store) = page.store.clone() else {
        return no("no events are kept in a directory: only what passed meanwhile is known");
    };
    let is_id = (1..=12).contains(&id.len()) && id.bytes().all(|octet| octet.is_ascii_alphanumeric());
    let is_time = |text: &String| text.len() <= 40 && text.bytes().all(|octet| b"0123456789-:.TZ".contains(&octet));
    if !is_id || !since.as_ref().is_none_or(is_time) {
        return no("this is no session's id");
    }
    let Ok(_turn) = page.looking.acquire().await else { return no("poptap is stopping") };
    let found = tokio::task::spawn_blocking(move || records(&store, id, since.as_deref())).await;
    match found {
        Ok(Ok(text)) => ([(CONTENT_TYPE, JSON)], text).into_response(),
        Ok(Err(error)) => no(&error.to_string()),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn no(why: &str) -> Response {
    (StatusCode::NOT_FOUND, why.to_owned()).into_response()
}

/// `{"cut":false,"records":[…]}`
fn records(store: &Path, id: String, since: Option<&str>) -> Result<String, InspectError> {
    let (mut text, mut cut) = (String::new(), false);
    let mut visit = |record| {
        let Ok(line) = serde_json::to_string(&record) else { return };
        cut |= text.len() + line.len() > LONGEST;
        if !cut {
            text.push_str(if text.is_empty() { "" } else { "," });
            text.push_str(&line);
        }
    };
    // What had to be skipped is told by `sessions show`.
    inspect::each_record_since(store, &Which::Id(id), since, &mut visit, &mut io::sink())?;
    Ok(format!(r#"{{"cut":{cut},"records":[{text}]}}"#))
}
