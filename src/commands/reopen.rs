//! What `run` does at SIGUSR1: files that something else moved away are opened anew.

use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, exit};
use crate::{server::Reloader, telemetry::LogFile};

/// Opens files anew at each SIGUSR1, for as long as the runtime lives. The transcript is none of them: it finishes its segments
/// by itself.
pub(super) fn watch(reloader: Reloader, log: Option<LogFile>) -> Result<(), Failure> {
    let mut asked = signal(SignalKind::user_defined1())
        .map_err(|error| Failure::new(exit::SOFTWARE, format!("cannot catch signals: {error}")))?;
    tokio::spawn(async move {
        while asked.recv().await.is_some() {
            let (reloader, log) = (reloader.clone(), log.clone());
            let done = tokio::task::spawn_blocking(move || reopen(&reloader, log.as_ref())).await;
            if let Err(error) = done {
                tracing::error!("files were not reopened: {error}");
            }
        }
    });
    Ok(())
}

fn reopen(reloader: &Reloader, log: Option<&LogFile>) {
    let log = log.map(|file| (format!("`{}`", file.path().display()), file.reopen().map_err(|error| error.to_string())));
    let key_log =
        reloader.reopen_key_log().map(|done| ("the TLS secrets' file".to_owned(), done.map_err(|error| error.to_string())));
    let mut none = true;
    for (name, done) in log.into_iter().chain(key_log) {
        none = false;
        match done {
            Ok(()) => tracing::info!("reopened {name}"),
            Err(error) => tracing::error!("{name} was not reopened, and the old file stays in use: {error}"),
        }
    }
    if none {
        tracing::info!("there is no file to reopen");
    }
}
