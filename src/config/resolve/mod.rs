//! Flags and file → the validated [`Config`], or every fault.

mod handed_over;
mod http;
mod intercept;
mod limits;
mod listener;
mod probe;
mod process;
mod routing;
mod rules;
mod server_tls;
mod shield;
mod socket;
mod transcript;
mod trust;
mod upstream;

use std::{
    collections::BTreeSet,
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use toml::Spanned;
use tracing_subscriber::EnvFilter;

use crate::cli::RunArgs;

use super::{
    Anomalies, Config, Log, Timeouts,
    fault::{Fault, Faults, Place, Source},
    file::{File, LogSection, PolicySection, TimeoutsSection},
    reading,
    store::Environment,
    values::Period,
};

/// A configuration that holds, and what should be said about it nevertheless.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What poptap is told to do.
    pub config: Config,
    /// What is allowed but deserves a second thought, one sentence each.
    pub warnings: Vec<String>,
}

pub use probe::{Probed, probed};

/// Reads the configuration file, if there is one, lets the flags override it, and validates the whole.
///
/// # Errors
///
/// Every fault that there is: unreadable values, unknown keys, and what does not fit together.
pub fn load(args: &RunArgs) -> Result<Loaded, Faults> {
    load_in(args, &Environment::of_process())
}

pub(super) fn load_in(args: &RunArgs, environment: &Environment) -> Result<Loaded, Faults> {
    let mut resolver = Resolver::new(args, environment);
    let file = match &args.config {
        Some(path) => resolver.take(reading::read(path)?),
        None => File::default(),
    };
    let config = resolver.config(&file);
    if resolver.faults.is_empty() {
        return Ok(Loaded { config, warnings: resolver.warnings });
    }
    Err(resolver.into_faults())
}

/// Turns raw sections into validated ones, and gathers what is wrong or odd on the way.
struct Resolver<'a> {
    args: &'a RunArgs,
    environment: &'a Environment,
    source: Option<Source>,
    broken: BTreeSet<String>,
    /// That there is no server to reach has been said, or follows from what has been said.
    server_is_missed: bool,
    faults: Vec<Fault>,
    warnings: Vec<String>,
}

impl<'a> Resolver<'a> {
    fn new(args: &'a RunArgs, environment: &'a Environment) -> Self {
        Self {
            args,
            environment,
            source: None,
            broken: BTreeSet::new(),
            server_is_missed: false,
            faults: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Every fault, in the order of the file.
    fn into_faults(mut self) -> Faults {
        self.faults.sort_by_key(|fault| fault.place.as_ref().map_or((usize::MAX, 0), |place| (place.line, place.column)));
        Faults(self.faults)
    }

    fn take(&mut self, reading: reading::Reading) -> File {
        self.faults = reading.faults;
        self.broken = reading.broken;
        self.source = Some(reading.source);
        reading.file
    }

    /// The configuration; of no use when there is a fault.
    fn config(&mut self, file: &File) -> Config {
        let upstreams = self.upstreams(&file.upstream);
        let listeners = self.listeners(&file.listener, &upstreams);
        let rules = self.rules(&file.rule, file.policy.dry_run.unwrap_or_default(), &listeners);
        self.warn_of_unread(&rules, &listeners);
        let anomalies = self.anomalies(&file.policy);
        let shield = self.shield(&file.shield, &rules);
        let transcript = self.transcript(&file.transcript);
        let timeouts = self.timeouts(&file.timeouts);
        let limits = self.limits(&file.limits);
        let log = self.log(&file.log);
        let (metrics, page) = (self.metrics(&file.metrics), self.page(&file.web));
        let (limits, process) = (Arc::new(limits), self.process(&file.process));
        let keylog = self.keylog();
        Config { listeners, rules, anomalies, shield, transcript, limits, timeouts, log, metrics, page, process, keylog }
    }

    fn anomalies(&self, section: &PolicySection) -> Anomalies {
        let strict = self.args.anomalies.strict.iter().chain(section.strict.iter().flatten()).copied().collect();
        let default = Anomalies::default();
        Anomalies { strict, slow_reply: section.slow_reply.map_or(default.slow_reply, |period| period.0) }
    }

    fn keylog(&mut self) -> Option<PathBuf> {
        let file = self.args.keylog.clone()?;
        self.warnings.push(format!(
            "the secrets of every TLS connection are written to `{}`: whoever has it can read them all",
            file.display()
        ));
        Some(file)
    }

    fn within<T: Copy + PartialOrd>(
        &mut self,
        value: Option<&Spanned<T>>,
        range: RangeInclusive<T>,
        default: T,
        shown: &str,
    ) -> T {
        let Some(value) = value else { return default };
        if !range.contains(value.get_ref()) {
            self.fault(Fault::new("this limit is out of its range", format!("it may be {shown}")), Some(value.span()));
        }
        *value.get_ref()
    }

    fn timeouts(&mut self, section: &TimeoutsSection) -> Timeouts {
        let or = |period: Option<Period>, seconds: u64| period.map_or(Duration::from_secs(seconds), |period| period.0);
        let idle = or(section.idle, 660);
        if idle < Duration::from_secs(600) {
            let shown = Period(idle);
            self.warnings
                .push(format!("`timeouts.idle` is {shown}: RFC 1939 §3 asks for 10 minutes at least, and clients count on it"));
        }
        let rest = or(section.rest, 10);
        let longest_rest = section.longest_rest.as_ref().map_or(rest.max(Duration::from_secs(300)), |period| period.get_ref().0);
        if longest_rest < rest {
            let message = format!("`timeouts.longest_rest` is shorter than `timeouts.rest`, which is {}", Period(rest));
            let span = section.longest_rest.as_ref().map(Spanned::span);
            self.fault(Fault::new(message, "give it the same length or more"), span);
        }
        Timeouts {
            connect: or(section.connect, 30),
            handshake: or(section.handshake, 30),
            greeting: or(section.greeting, 60),
            login: or(section.login, 600),
            idle,
            half_closed: or(section.half_closed, 60),
            reply: or(section.reply, 30),
            drain: or(section.drain, 30),
            rest,
            longest_rest,
        }
    }

    fn log(&mut self, section: &LogSection) -> Log {
        let filter = section.filter.as_ref().map_or("info", |filter| filter.get_ref());
        if let (Err(_), Some(spanned)) = (EnvFilter::try_new(filter), &section.filter) {
            let fault = Fault::new(format!("`{filter}` is not a log filter"), "write `info`, `debug` or `poptap=debug,warn`");
            self.fault(fault, Some(spanned.span()));
        }
        let in_file = section.file.as_ref().map(|file| (file.get_ref(), Some(file.span())));
        let chosen = self.args.log_file.as_ref().map(|file| (file, None)).or(in_file);
        if let Some((file, span)) = chosen.clone() {
            self.log_file(file, span);
        }
        Log {
            file: chosen.map(|(file, _)| file.clone()),
            rotation: section.rotation.unwrap_or_default(),
            format: self.args.log_format.or(section.format).unwrap_or_default(),
            filter: filter.to_owned(),
        }
    }

    fn log_file(&mut self, file: &Path, span: Option<Range<usize>>) {
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let wrong = if file.file_name().is_none() || file.is_dir() {
            Fault::new(format!("the log file `{}` is a directory", file.display()), "name a file within it")
        } else if !parent.is_dir() {
            let message = format!("the log file's directory `{}` does not exist", parent.display());
            Fault::new(message, "create it, or name another file")
        } else {
            return;
        };
        self.fault(wrong, span);
    }

    fn fault(&mut self, fault: Fault, span: Option<Range<usize>>) {
        let place = span.and_then(|span| self.place(&span));
        self.faults.push(fault.at(place));
    }

    fn place(&self, span: &Range<usize>) -> Option<Place> {
        self.source.as_ref().map(|source| source.place(span))
    }

    /// Whether something was told of what stands there, so that it is not all that was written.
    fn has_fault_within(&self, span: &Range<usize>) -> bool {
        let at = |place: Place| (place.line, place.column);
        let (start, end) = (self.place(span).map(at), self.place(&(span.end..span.end)).map(at));
        self.faults.iter().filter_map(|fault| fault.place.clone()).any(|place| (start..end).contains(&Some(at(place))))
    }

    /// Whether one of these keys was unreadable, so that its absence means nothing.
    fn is_broken(&self, keys: &[&str]) -> bool {
        keys.iter().any(|key| self.broken.contains(*key))
    }
}
