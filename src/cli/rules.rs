//! What `rules test` takes.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use crate::config::{Argument, CommandWord, ListenAddress, MessageSize};

const EXAMPLES: &str = "\
Examples:
  poptap rules test --config poptap.toml --user archive@example.net 'DELE 1'
      what would become of a DELE of this user's
  poptap rules test --shield 'DELE 1' STAT QUIT
      a session, line after line
  poptap rules test --config poptap.toml --session 7k2m
      a recorded session: which of its commands would be decided otherwise
  poptap rules test --config poptap.toml --expect answer 'TOP 1 0'
      for a script: fails unless TOP is refused or answered

Exit codes:
  0 every line would go on as it came, every command of a recorded session be decided as it was then,
    or, with --expect, all be decided as expected; 1 not so,
  64 wrong usage, 69 no such session, 78 fault in the configuration";

/// About rules.
#[derive(Debug, Subcommand)]
pub enum RulesCommand {
    /// Tell what rules would do to command lines, or to a recorded session. Nothing is connected to.
    ///
    /// For each line: the rule that decides and those that would in a dry run, what the client would get, and what the server
    /// would. The lines are those of one session with an obliging server; where a user or a stage is given, somebody has logged
    /// in before them. A recorded session is played again as far as the record tells it.
    #[command(after_help = EXAMPLES)]
    Test(Box<RulesTestArgs>),
}

/// What `rules test` takes.
#[derive(Args, Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "flags that have nothing to do with each other")]
pub struct RulesTestArgs {
    /// Command lines, in the order in which the client says them.
    #[arg(value_name = "LINE", value_parser = one_line, required_unless_present = "session", conflicts_with = "session")]
    pub lines: Vec<String>,
    /// The configuration file with the rules.
    #[arg(short, long, value_name = "FILE", env = "POPTAP_CONFIG")]
    pub config: Option<PathBuf>,
    /// As of `run`: refuse this command.
    #[arg(long, value_name = "WORD", value_parser = Argument::<CommandWord>::new())]
    pub deny: Vec<CommandWord>,
    /// As of `run`: keep every deletion from the server.
    #[arg(long)]
    pub shield: bool,
    /// As of `run`: let no rule act.
    #[arg(long)]
    pub dry_run: bool,

    /// Who has logged in; whether rules let them does not matter.
    #[arg(long, value_name = "NAME", value_parser = one_line, conflicts_with = "session")]
    pub user: Option<String>,
    /// Before the login or behind it [default: behind it where --user is given].
    #[arg(long, value_name = "STAGE", conflicts_with = "session")]
    pub stage: Option<At>,
    /// The client's address.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1", conflicts_with = "session")]
    pub client: IpAddr,
    /// The listener, its address as configured [default: the first].
    #[arg(long, value_name = "ADDR", value_parser = Argument::<ListenAddress>::new(), conflicts_with = "session")]
    pub listener: Option<ListenAddress>,
    /// The mail server's name or URL, as configured [default: the listener's].
    #[arg(long, value_name = "NAME", conflicts_with = "session")]
    pub upstream: Option<String>,
    /// The client's hop is TLS.
    #[arg(long, conflicts_with = "session")]
    pub tls: bool,
    /// A message in the mailbox and its size, such as `3=10 MiB`; may be given several times [default: as many as the lines speak of, 9 at least, 1000 octets each].
    #[arg(long, value_name = "N=SIZE", value_parser = Argument::<MessageSize>::new(), conflicts_with = "session")]
    pub message: Vec<MessageSize>,

    /// A recorded session, by its id or the beginning of it.
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// The directory with the transcripts [default: found as `sessions` finds it].
    #[arg(short, long, value_name = "DIR", requires = "session")]
    pub transcript: Option<PathBuf>,

    /// Succeed only if this is decided of every line.
    #[arg(long, value_name = "DECISION")]
    pub expect: Option<Expected>,
    /// Print one JSON object for each line.
    #[arg(long)]
    pub json: bool,
}

/// A text that is one line of a session.
fn one_line(text: &str) -> Result<String, String> {
    if text.contains('\n') {
        return Err("it holds a line feed, and would be more than one line: give each line as an argument of its own".to_owned());
    }
    Ok(text.to_owned())
}

/// Before the login or behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum At {
    /// Before it.
    Authorization,
    /// Behind it.
    Transaction,
}

/// What is decided of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Expected {
    /// Nothing: it goes on as it came.
    Forward,
    /// It goes on, and a rule has said so.
    Allow,
    /// It is refused, or answered otherwise, without the server.
    Answer,
    /// Another line goes on in its place.
    Rewrite,
    /// It is a deletion that is kept from the server.
    Shield,
    /// The session is closed.
    Close,
}

impl Expected {
    /// The name in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Allow => "allow",
            Self::Answer => "answer",
            Self::Rewrite => "rewrite",
            Self::Shield => "shield",
            Self::Close => "close",
        }
    }
}
