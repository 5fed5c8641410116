//! From a command line to the code that does what it says, and the exit code.

mod certs;
mod demo;
mod diff;
mod export;
mod intercept;
mod notify;
mod pager;
mod probe;
mod reload;
mod reopen;
mod replay;
mod rules;
mod run;
mod sessions;
mod start;
mod sums;
mod upgrade;

use std::{
    fmt,
    io::{self, Write as _},
};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{
    cli::{Cli, Command, ConfigCommand, RunArgs, SessionsCommand},
    config::{self, Loaded},
    inspect,
    telemetry::StartError,
    tls,
};

/// Exit codes, as sysexits.h has them.
pub mod exit {
    /// Something is not as it was expected to be: said by `rules test`, and by `sessions diff`.
    pub const DIFFERENT: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
    /// A server or a listening address is not available.
    pub const UNAVAILABLE: u8 = 69;
    /// Something inside poptap failed.
    pub const SOFTWARE: u8 = 70;
    /// A file that was to be made exists, or cannot be made.
    pub const CANT_CREATE: u8 = 73;
    /// Input or output failed.
    pub const IO: u8 = 74;
    /// A server refused a login.
    pub const NO_PERMISSION: u8 = 77;
    /// The configuration has a fault.
    pub const CONFIG: u8 = 78;
}

/// What a command failed with: the exit code, and what to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One of [`exit`].
    pub code: u8,
    /// What was attempted on what, and a hint.
    pub message: String,
}

impl Failure {
    /// A failure with its code.
    pub fn new(code: u8, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl From<config::Faults> for Failure {
    fn from(faults: config::Faults) -> Self {
        Self::new(exit::CONFIG, faults)
    }
}

impl From<inspect::InspectError> for Failure {
    fn from(error: inspect::InspectError) -> Self {
        Self::new(if matches!(error, inspect::InspectError::Write { .. }) { exit::IO } else { exit::UNAVAILABLE }, error)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::new(if error.is_configuration() { exit::CONFIG } else { exit::IO }, error)
    }
}

/// Does what the command line says.
///
/// # Errors
///
/// What to tell the user, and the exit code.
pub fn dispatch(cli: Cli) -> Result<(), Failure> {
    tls::install_provider();
    match cli.command {
        Command::Run(args) => run::run(&args, cli.verbosity),
        Command::Check(args) => check(&args),
        Command::Demo => demo::demo(cli.verbosity),
        Command::Probe(args) => probe::probe(&args),
        Command::Sessions(SessionsCommand::List(args)) => sessions::list(&args),
        Command::Sessions(SessionsCommand::Grep(args)) => sessions::grep(&args),
        Command::Sessions(SessionsCommand::Follow(args)) => sessions::follow(&args),
        Command::Sessions(SessionsCommand::Show(args)) => sessions::show(&args),
        Command::Sessions(SessionsCommand::Diff(args)) => diff::diff(&args),
        Command::Sessions(SessionsCommand::Stats(args)) => sums::stats(&args),
        Command::Sessions(SessionsCommand::Audit(args)) => sums::audit(&args),
        Command::Sessions(SessionsCommand::Export(args)) => export::export(&args),
        Command::Sessions(SessionsCommand::Scrub(args)) => export::scrub(&args),
        Command::Replay(args) => replay::replay(&args, cli.verbosity),
        Command::Rules(command) => rules::rules(&command),
        Command::Certs(command) => certs::certs(&command),
        Command::Intercept(command) => intercept::intercept(&command),
        Command::Completions { shell } => completions(shell),
        Command::Man => man(),
        Command::Config(ConfigCommand::Schema) => print(&config::schema()),
    }
}

fn check(args: &RunArgs) -> Result<(), Failure> {
    let Loaded { config, warnings } = config::load(args)?;
    config::provision(&config)?;
    for warning in warnings.iter().chain(&run::same_host_warnings(&config)) {
        warn(warning);
    }
    let effective = config::effective(&config).map_err(|error| {
        Failure::new(
            exit::CONFIG,
            format!("cannot write the configuration as TOML: {error}\n  hint: paths must be UTF-8 for this"),
        )
    })?;
    print(&effective)
}

fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "poptap", &mut script);
    print(&String::from_utf8_lossy(&script))
}

fn man() -> Result<(), Failure> {
    let page = manual_page().map_err(|error| Failure::new(exit::IO, format!("cannot write the manual page: {error}")))?;
    print(&page)
}

/// One page: the main command, and behind it each subcommand as a section with subsections.
fn manual_page() -> io::Result<String> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let man = clap_mangen::Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    for subcommand in command.get_subcommands() {
        subcommand_sections(subcommand, &mut page)?;
    }
    man.render_extra_section(&mut page)?;
    Ok(examples(&String::from_utf8_lossy(&page), ".SH"))
}

fn subcommand_sections(command: &clap::Command, page: &mut Vec<u8>) -> io::Result<()> {
    if command.has_subcommands() {
        return command.get_subcommands().try_for_each(|subcommand| subcommand_sections(subcommand, page));
    }
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_uppercase();
    let man = clap_mangen::Man::new(command.clone());
    let mut sections = Vec::new();
    man.render_synopsis_section(&mut sections)?;
    man.render_description_section(&mut sections)?;
    man.render_options_section(&mut sections)?;
    if command.get_after_help().is_some() {
        man.render_extra_section(&mut sections)?;
    }
    let sections = examples(&String::from_utf8_lossy(&sections).replace(".SH ", ".SS "), ".SS");
    writeln!(page, ".SH \"{name}\"\n{}", sections.trim_end())
}

/// What help prints last stands under its own names in the page, its lines as they are.
fn examples(page: &str, heading: &str) -> String {
    let Some((before, after)) = page.split_once(&format!("{heading} EXTRA\nExamples:\n")) else { return page.to_owned() };
    let after = after.replace("\nExit codes:\n", &format!("\n.fi\n{heading} \"EXIT CODES\"\n.nf\n"));
    format!("{before}{heading} EXAMPLES\n.nf\n{}\n.fi\n", after.trim_end())
}

/// Writes to standard output. That nobody reads on (`poptap man | head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(exit::IO, format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

fn warn(warning: &str) {
    // There is nobody left to tell when stderr is gone.
    let _ = writeln!(anstream::stderr(), "{}: {warning}", yellow("warning"));
}

fn yellow(word: &str) -> String {
    let style = anstyle::AnsiColor::Yellow.on_default().bold();
    format!("{style}{word}{style:#}")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn failure(words: &str) -> Failure {
        dispatch(Cli::try_parse_from(words.split_whitespace()).unwrap()).unwrap_err()
    }

    #[test]
    fn failures_have_their_exit_codes() {
        for (words, code, said) in [
            ("poptap check --config /nowhere.toml", exit::CONFIG, "/nowhere.toml"),
            ("poptap check pop3://mail --listen :1", exit::CONFIG, "without encryption"),
            ("poptap check pop3://mail --log-file /nowhere/x.log", exit::CONFIG, "/nowhere"),
            ("poptap run pop3://mail --transcript /dev/null/t --upstream-ca /nowhere.pem", exit::CONFIG, "/nowhere.pem"),
            ("poptap check pop3://mail --transcript /dev/null/t", exit::CONFIG, "/dev/null"),
            ("poptap run pop3://mail --transcript - --live always", exit::USAGE, "--live always"),
            ("poptap sessions list --transcript -", exit::CONFIG, "standard output"),
        ] {
            let failure = failure(words);
            assert!(failure.code == code && failure.message.contains(said), "{words}: {failure:?}");
        }
    }

    #[test]
    fn the_manual_page_has_every_command() {
        let page = manual_page().unwrap();
        for expected in [".TH poptap 1", ".SH \"POPTAP RUN\"", ".SH \"POPTAP SESSIONS SHOW\"", ".SH \"POPTAP CONFIG SCHEMA\""] {
            assert!(page.contains(expected), "{expected} in\n{page}");
        }
        assert!(page.contains("reveal\\-credentials"));
        assert_eq!(page.matches(".TH ").count(), 1);
        assert!(page.contains(".SH \"EXIT CODES\"\n") && !page.contains("EXTRA"), "{page}");
        let blocks = blocks(&Cli::command());
        assert_eq!((page.matches("\n.nf\n").count(), page.matches("\n.fi\n").count()), (blocks, blocks), "no example is filled");
        assert!(!page.contains("run(1)"), "there is one page only");
    }

    /// Examples and lists of exit codes in the help of a command and those below it.
    fn blocks(command: &clap::Command) -> usize {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let own = help.lines().filter(|line| matches!(*line, "Examples:" | "Exit codes:")).count();
        own + command.get_subcommands().map(blocks).sum::<usize>()
    }
}
