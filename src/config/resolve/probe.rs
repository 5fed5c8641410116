//! The one server that `poptap probe` looks at.

use crate::{
    cli::{ProbeArgs, RunArgs},
    config::{Timeouts, Upstream, fault::Faults, file::File, reading, store::Environment},
};

use super::Resolver;

/// The server to look at, and how.
#[derive(Clone, Debug)]
pub struct Probed {
    /// The server.
    pub upstream: Upstream,
    /// Bounds in time.
    pub timeouts: Timeouts,
    /// What weakens trust in it.
    pub warnings: Vec<String>,
}

/// Finds the server by its URL, or by the name or URL of an `[[upstream]]` of the file, which lends its other settings.
///
/// # Errors
///
/// When there is no such server, and every fault of the file's servers. What is wrong elsewhere in it does not matter.
pub fn probed(args: &ProbeArgs) -> Result<Probed, Faults> {
    let as_run = RunArgs { upstream_ca: args.upstream_ca.clone(), ..RunArgs::default() };
    let environment = Environment::default();
    let mut resolver = Resolver::new(&as_run, &environment);
    let file = match &args.config {
        Some(path) => resolver.take(reading::read(path)?),
        None => File::default(),
    };
    let upstreams = resolver.upstreams(&file.upstream);
    let found = resolver.by_reference(&args.server, &upstreams);
    if let Ok(upstream) = found.as_ref()
        && !upstreams.contains(upstream)
    {
        resolver.nameless(upstream, None);
    }
    let warnings = std::mem::take(&mut resolver.warnings);
    let timeouts = resolver.timeouts(&file.timeouts);
    match found {
        Ok(upstream) if resolver.faults.is_empty() => {
            let own = format!("`{}`: ", upstream.name);
            let warnings = warnings.into_iter().filter(|warning| warning.starts_with(&own)).collect();
            Ok(Probed { upstream: (*upstream).clone(), timeouts, warnings })
        }
        Ok(_) => Err(resolver.into_faults()),
        Err(fault) => {
            resolver.fault(fault, None);
            Err(resolver.into_faults())
        }
    }
}
