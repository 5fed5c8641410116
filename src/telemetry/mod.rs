//! The operational log: what happened to poptap itself; and the counts for a monitoring system. Transcripts are another thing,
//! kept elsewhere.

mod counts;
mod exposition;
mod file;
mod tally;

use std::{
    env,
    io::{self, BufWriter, Write},
    path::PathBuf,
    thread,
    time::Duration,
};

use tracing::{Dispatch, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{LevelFilter, ParseError},
    fmt,
    layer::SubscriberExt,
    registry,
    util::SubscriberInitExt,
};

use crate::config::{Log, LogFormat};

pub use counts::Counts;
pub(crate) use exposition::{constant, counters, gauge, gauges};
pub use file::LogFile;
pub(crate) use tally::Tally;

/// Starts logging, for the whole process and until the guard is dropped.
///
/// `verbosity` counts the steps of `-v` above the usual, or of `-q` below it. The filter is `POPTAP_LOG`, else `RUST_LOG`,
/// else `verbosity` when it is not 0, else the configuration's. Colours need a terminal and no `NO_COLOR`.
///
/// # Errors
///
/// When a filter cannot be read, the log file cannot be opened, or logging was started before.
pub fn start(log: &Log, verbosity: i8, stderr_is_terminal: bool) -> Result<Guard, StartError> {
    let (dispatch, guard) = prepare(log, verbosity, stderr_is_terminal)?;
    dispatch.try_init().map_err(|_| StartError::Twice)?;
    Ok(guard)
}

/// What [`start`] starts, for a thread that is to log by itself (`tracing::dispatcher::with_default`).
///
/// # Errors
///
/// When a filter cannot be read, or the log file cannot be opened.
pub fn prepare(log: &Log, verbosity: i8, stderr_is_terminal: bool) -> Result<(Dispatch, Guard), StartError> {
    let filter = choose_filter(|name| env::var(name).ok(), verbosity, &log.filter)?;
    let colour = log.file.is_none() && stderr_is_terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (writer, guard) = open(log)?;
    Ok((Dispatch::new(subscriber(filter, log.format, colour, writer)), guard))
}

/// Keeps the log running; dropped, it writes out what is still waiting, for up to a second.
#[derive(Debug)]
pub struct Guard {
    worker: Option<WorkerGuard>,
    lost: ErrorCounter,
    file: Option<LogFile>,
}

impl Guard {
    /// The log's file, where it goes to one.
    #[must_use]
    pub fn file(&self) -> Option<LogFile> {
        self.file.clone()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.worker.take());
        let lost = self.lost.dropped_lines();
        if lost > 0 {
            // Where it was lost there is no log to tell it, and nobody to tell when stderr is gone too.
            let _ =
                writeln!(io::stderr(), "poptap: {lost} lines of the log were lost, since they could not be written fast enough");
        }
    }
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A filter is malformed.
    #[error(
        "cannot read the log filter `{filter}` from {origin}: {source}\n  hint: write `info`, `debug` or `poptap=debug,warn`"
    )]
    Filter {
        /// The filter.
        filter: String,
        /// The variable, or what else it came from.
        origin: &'static str,
        /// What is wrong.
        source: ParseError,
    },
    /// A filter holds a word that is no level.
    #[error(
        "cannot read the log filter from {origin}: `{word}` is no level\n  hint: write `info`, `debug` or `poptap=debug,warn`"
    )]
    Level {
        /// The word.
        word: String,
        /// The variable, or what else it came from.
        origin: &'static str,
    },
    /// The log file cannot be opened.
    #[error("cannot open the log file `{}`: {source}\n  hint: its directory must exist, and this user must be able to write there", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// Something has started logging before.
    #[error("logging was started before")]
    Twice,
}

impl StartError {
    /// Whether it is the configuration's fault, rather than that of a file.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Filter { .. } | Self::Level { .. })
    }
}

fn choose_filter(variable: impl Fn(&str) -> Option<String>, verbosity: i8, configured: &str) -> Result<EnvFilter, StartError> {
    let by_variable = ["POPTAP_LOG", "RUST_LOG"].into_iter().find_map(|name| {
        let filter = variable(name).filter(|filter| !filter.is_empty())?;
        Some((filter, name))
    });
    let (filter, origin) = by_variable.unwrap_or_else(|| match verbosity {
        0 => (configured.to_owned(), "the configuration"),
        steps => (filter_for(steps).to_owned(), "the command line"),
    });
    // RUST_LOG may be meant for other programs too.
    let unreadable = filter.split(',').map(str::trim).find(|part| origin != "RUST_LOG" && !is_directive(part));
    if let Some(word) = unreadable {
        return Err(StartError::Level { word: word.to_owned(), origin });
    }
    // It logs on its own what we log better: each certificate that is refused.
    let all = format!("rustls_platform_verifier=off,{filter}");
    EnvFilter::try_new(all).map_err(|source| StartError::Filter { filter, origin, source })
}

/// A lone word that is no level would be taken for a target of that name, and silence everything else.
fn is_directive(part: &str) -> bool {
    part.is_empty() || part.contains(['=', '[']) || part.parse::<LevelFilter>().is_ok()
}

/// `-v` speaks of poptap first, and of the libraries under it only when asked three times.
fn filter_for(verbosity: i8) -> &'static str {
    match verbosity {
        ..=-3 => "off",
        -2 => "error",
        -1 => "warn",
        0 => "info",
        1 => "info,poptap=debug",
        2 => "info,poptap=trace",
        3.. => "trace",
    }
}

/// Lines that may wait to be written. Room for each is taken at the start, 32 octets a line: the crate's own limit of 128,000
/// would be 4 MiB.
const WAITING_LINES: usize = 4096;

/// The destination, behind a thread of its own.
///
/// Lossy on purpose: a log that cannot be written (a full disk, a terminal on hold, a journal that is down) must not stop
/// anybody's mail, and nothing of a session depends on it, as the record of what passed is the transcript. What was lost
/// is counted and told at the end.
fn open(log: &Log) -> Result<(NonBlocking, Guard), StartError> {
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING_LINES).thread_name("poptap-log");
    let file = log.file.as_ref().map(|path| LogFile::new(path, log.rotation));
    let (writer, worker) = match &file {
        Some(file) => builder.finish(Batches::new(file.writer()?)),
        None => builder.finish(Batches::new(io::stderr())),
    };
    let guard = Guard { worker: Some(worker), lost: writer.error_counter(), file };
    Ok((writer, guard))
}

/// Lines are written at most a hundred times a second, the first of them at once. To wake the log's thread for each line would
/// cost a busy proxy more than the line.
struct Batches<W: Write>(BufWriter<W>);

/// How long lines may be collected.
const BATCH: Duration = Duration::from_millis(10);

impl<W: Write> Batches<W> {
    fn new(writer: W) -> Self {
        Self(BufWriter::new(writer))
    }
}

impl<W: Write> Write for Batches<W> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.write(octets)
    }

    /// Called by the log's thread when no line waits any more.
    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.0.flush();
        thread::sleep(BATCH);
        flushed
    }
}

fn subscriber(filter: EnvFilter, format: LogFormat, colour: bool, writer: NonBlocking) -> impl Subscriber + Send + Sync {
    let lines = fmt::layer().with_writer(writer).with_ansi(colour);
    let layer = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    registry().with(filter).with(layer)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::LogRotation;

    fn log(file: PathBuf, format: LogFormat) -> Log {
        Log { file: Some(file), rotation: LogRotation::Never, format, filter: "info".to_owned() }
    }

    #[test]
    fn the_first_filter_wins() {
        let choose = |poptap: &str, rust: &str, verbosity| {
            let variables = [("POPTAP_LOG", poptap.to_owned()), ("RUST_LOG", rust.to_owned())];
            let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
            choose_filter(variable, verbosity, "warn").map(|filter| filter.to_string()).map_err(|error| error.to_string())
        };
        let verifier = "rustls_platform_verifier=off";
        assert_eq!(choose("debug", "trace", 2).unwrap(), format!("{verifier},debug"));
        assert_eq!(choose("", "trace", 2).unwrap(), format!("{verifier},trace"));
        assert_eq!(choose("", "", 2).unwrap(), format!("{verifier},poptap=trace,info"));
        assert_eq!(choose("", "", -1).unwrap(), format!("{verifier},warn"));
        assert_eq!(choose("", "", -3).unwrap(), format!("{verifier},off"));
        assert_eq!(choose("", "", 0).unwrap(), format!("{verifier},warn"));
        let no_level = choose("loud", "", 0).unwrap_err();
        assert!(no_level.contains("POPTAP_LOG") && no_level.contains("`loud`"), "{no_level}");
        assert_eq!(choose("", "someone_else", 0).unwrap(), format!("{verifier},someone_else=trace"));
        let refused = choose("poptap=loud", "", 0).unwrap_err();
        assert!(refused.contains("POPTAP_LOG") && refused.contains("poptap=loud"), "{refused}");
    }

    #[test]
    fn the_guard_writes_out_what_waits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("poptap.log");
        for (format, expected) in
            [(LogFormat::Text, "hello session=\"s1\""), (LogFormat::Json, r#""message":"hello","session":"s1""#)]
        {
            let (writer, guard) = open(&log(path.clone(), format)).unwrap();
            let subscriber = subscriber(EnvFilter::new("info"), format, false, writer);
            tracing::subscriber::with_default(subscriber, || {
                tracing::info!(session = "s1", "hello");
                tracing::debug!("unheard");
            });
            drop(guard);
            let written = fs::read_to_string(&path).unwrap();
            assert!(written.contains(expected) && !written.contains("unheard"), "{written}");
        }
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew_and_no_line_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("poptap.log"), directory.path().join("poptap.log.1"));
        let (writer, guard) = open(&log(path.clone(), LogFormat::Text)).unwrap();
        tracing::subscriber::with_default(subscriber(EnvFilter::new("info"), LogFormat::Text, false, writer), || {
            tracing::info!("one");
            fs::rename(&path, &old).unwrap();
            guard.file().unwrap().reopen().unwrap();
            tracing::info!("two");
            // The lines before it are behind the writer when the new file is the one that it writes to.
            while fs::read_to_string(&path).unwrap().is_empty() {
                tracing::info!("three");
                thread::yield_now();
            }
        });
        let file = guard.file().unwrap();
        drop(guard);
        let [before, after] = [&old, &path].map(|path| fs::read_to_string(path).unwrap());
        assert!(before.contains("one") && !after.contains("one"), "{before} {after}");
        assert_eq!((before + &after).matches("two").count(), 1);
        fs::remove_dir_all(directory.path()).unwrap();
        assert!(file.reopen().unwrap_err().to_string().contains("poptap.log"));
    }

    /// Each write, by itself.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl Write for Writes {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.push(octets.to_vec());
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_wait_together_are_written_together() {
        let mut batches = Batches::new(Writes::default());
        for line in ["one\n", "two\n"] {
            batches.write_all(line.as_bytes()).unwrap();
        }
        assert!(batches.0.get_ref().0.is_empty());
        batches.flush().unwrap();
        batches.write_all(b"three\n").unwrap();
        batches.flush().unwrap();
        assert_eq!(batches.0.get_ref().0, [b"one\ntwo\n".to_vec(), b"three\n".to_vec()]);
    }

    #[test]
    fn a_missing_directory_is_not_created() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing/poptap.log");
        let refused = open(&log(path, LogFormat::Text)).unwrap_err();
        assert!(refused.to_string().contains("missing/poptap.log") && !refused.is_configuration());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
