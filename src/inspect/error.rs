//! Why a transcript could not be read or shown.

use std::{io, path::PathBuf};

use super::paint::harmless;

/// Why `sessions list` or `sessions show` could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// The directory does not exist.
    #[error(
        "no transcripts to read: the directory `{place}` does not exist; `poptap run --transcript {place} URL` \
         makes one, and `--transcript DIR` names another to read",
        place = .0.display()
    )]
    Missing(PathBuf),
    /// The directory could not be read.
    #[error("could not read the transcripts in `{}`: {cause}; only the user that poptap runs as may read them", directory.display())]
    Directory {
        /// Where it looked.
        directory: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// There is no session at all.
    #[error("no session is recorded in `{place}` yet; `poptap run --transcript {place} URL` records there", place = .0.display())]
    Empty(PathBuf),
    /// No session's id begins like that.
    #[error("no session in `{}` has an id that begins with `{}`; `poptap sessions list` shows them all", directory.display(), harmless(id))]
    Unknown {
        /// Where it looked.
        directory: PathBuf,
        /// What was asked for.
        id: String,
    },
    /// Several sessions' ids begin like that.
    #[error("several sessions have an id that begins with `{}`: {}; give more of it", harmless(id), candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        id: String,
        /// The ids that begin with it, and `…` when there are more of them.
        candidates: Vec<String>,
    },
    /// Of the session there are no events.
    #[error(
        "there is nothing to compare: of session {} only the summary is left, or nothing was said in it; \
         `record = \"events\"` keeps what is said", harmless(.0)
    )]
    NothingSaid(String),
    /// The session has more commands than are compared.
    #[error("session {} has more than {most} commands, and no more are compared", harmless(id))]
    TooLong {
        /// Which.
        id: String,
        /// The limit.
        most: usize,
    },
    /// The output could not be written. A reader that went away is no error: see [`is_closed_pipe`](Self::is_closed_pipe).
    #[error("could not write the output: {0}")]
    Write(io::Error),
}

impl From<io::Error> for InspectError {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

impl InspectError {
    /// Whether only the reader of the output went away, as `head` does; that ends a command quietly.
    #[must_use]
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Write(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
