//! `poptap probe`: a look at a mail server, for people and for health checks.

use super::{Failure, exit, print, run, warn};
use crate::{
    cli::ProbeArgs,
    config::{self, Upstream, UpstreamUrl},
    probe::{self, Findings, Login, Problem, password},
};

pub(super) fn probe(args: &ProbeArgs) -> Result<(), Failure> {
    if args.config.is_none() {
        let parsed = args.server.parse::<UpstreamUrl>();
        parsed.map_err(|malformed| usage(format!("{}\n  hint: {}", malformed.message, malformed.hint)))?;
    }
    let config::Probed { upstream, timeouts, warnings } = config::probed(args)?;
    let login = login(args, &upstream)?;
    let runtime = run::runtime()?;
    let findings = runtime.block_on(probe::probe(&upstream, &timeouts, login.as_ref()));
    // A name lookup that hangs in the system's resolver would hold up the exit.
    runtime.shutdown_background();
    let mut findings = findings.map_err(|error| Failure::new(exit::CONFIG, format!("{error}\n  hint: {}", error.hint())))?;
    findings.warnings.splice(0..0, warnings);
    print(&shown(&findings, args.json)?)?;
    findings.error.as_ref().map_or(Ok(()), |problem| Err(failure(problem)))
}

fn login(args: &ProbeArgs, upstream: &Upstream) -> Result<Option<Login>, Failure> {
    let Some(user) = args.user.clone() else { return Ok(None) };
    if user.is_empty() || user.contains(char::is_control) {
        return Err(usage("the user name is empty, or holds control characters".to_owned()));
    }
    if !args.allow_plain_login && probe::is_plain_off_loopback(upstream) {
        return Err(failure(&Problem::plain_login()));
    }
    let password = match &args.password_file {
        Some(file) => {
            if password::is_readable_by_others(file) {
                warn(&format!("others may read `{}`: `chmod 600` it", file.display()));
            }
            password::from_file(file)
        }
        None => password::from_prompt(&user),
    };
    let password = password.map_err(|error| Failure::new(exit::IO, error))?;
    Ok(Some(Login { user, password, allow_plain: args.allow_plain_login }))
}

fn shown(findings: &Findings, json: bool) -> Result<String, Failure> {
    if !json {
        return Ok(findings.to_string());
    }
    let json = serde_json::to_string(findings);
    json.map(|json| json + "\n").map_err(|error| Failure::new(exit::SOFTWARE, format!("cannot write JSON: {error}")))
}

fn failure(problem: &Problem) -> Failure {
    let code = match problem {
        _ if problem.is_login_refused() => exit::NO_PERMISSION,
        _ if problem.is_plain_login() => exit::USAGE,
        _ => exit::UNAVAILABLE,
    };
    let hint = problem.hint.as_ref().map(|hint| format!("\n  hint: {hint}")).unwrap_or_default();
    Failure::new(code, format!("{}{hint}", problem.message))
}

fn usage(message: String) -> Failure {
    Failure::new(exit::USAGE, message)
}
