//! What a person may type: clap structs only. Help, man page and completions come from here.

mod anomalies;
mod export;
mod http;
mod intercept;
mod replay;
mod rules;
mod sessions;
mod sums;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, builder::RangedU64ValueParser};
use clap_complete::Shell;

use crate::config::{
    ApopPolicy, Argument, CommandWord, ContentPolicy, ListenPlace, LogFormat, Network, StlsPolicy, UpstreamUrl, XclientPolicy,
};

pub use anomalies::AnomalyArgs;
pub use export::{ExportArgs, ScrubArgs};
pub use http::HttpArgs;
pub use intercept::{InterceptCommand, ShowRulesArgs};
pub use replay::{DiffArgs, ReplayArgs, ReplayTiming};
pub use rules::{At, Expected, RulesCommand, RulesTestArgs};
pub use sessions::{FollowArgs, GrepArgs, ListArgs, ShowArgs, WhichArgs};
pub use sums::{AuditArgs, By, StatsArgs};

const EXAMPLES: &str = "\
Examples:
  poptap demo                           a whole session at once, no network needed
  poptap run pop3s://pop.example.net    then set the client to 127.0.0.1, port 1110, no encryption
  poptap sessions show --last           read what was said

Exit codes:
  0 success, 1 not as expected (rules test, sessions diff, run --exit-on-anomaly) or nothing found (sessions grep),
  64 wrong usage, 69 server or address unavailable, 70 fault inside poptap,
  73 a file exists or cannot be made, 74 input or output failed, 77 login refused (probe),
  78 fault in the configuration";

const RUN_EXAMPLES: &str = "\
Examples:
  poptap run pop3s://pop.example.net
      listens on 127.0.0.1:1110 and speaks TLS to the server
  poptap run pop3+stls://mail.example.net --listen 2110 --transcript ./t
      listens on loopback only, requires STLS of the server, keeps the transcript in ./t
  poptap run pop3s://pop.example.net --listen :1110 --allow-from 192.0.2.0/24
      lets old clients of one network speak to a server that wants TLS
  poptap run pop3://192.0.2.7 --listen pop3s://:995 --cert pop.pem --key pop.key
      adds TLS in front of a server that has none
  poptap run pop3s://pop.example.net --deny DELE --dry-run
      changes nothing, and records each DELE that would be refused
  poptap run --config /etc/poptap/poptap.toml";

const PROBE_EXAMPLES: &str = "\
Examples:
  poptap probe pop3s://pop.example.net
  poptap probe pop3+stls://mail.example.net --upstream-ca ca.pem --json
  poptap probe pop3s://pop.example.net --user joe --password-file ./password";

/// Watch POP3 sessions as they pass, unchanged, and keep a transcript that is safe to share.
///
/// poptap stands between mail clients and a mail server. It carries every octet unchanged unless told otherwise,
/// adds TLS to a hop that lacks it, and records the whole session without passwords.
#[derive(Debug, Parser)]
#[command(name = "poptap", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How much is logged.
    #[command(flatten)]
    pub verbosity: Verbosity,
}

/// How much is logged.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Verbosity {
    /// Log more; twice for still more. `POPTAP_LOG` and `RUST_LOG` take precedence.
    #[arg(short, long, action = ArgAction::Count, global = true, conflicts_with = "quiet", display_order = 900)]
    pub verbose: u8,
    /// Log less: warnings and errors only; twice for errors only, three times for nothing.
    #[arg(short, long, action = ArgAction::Count, global = true, display_order = 901)]
    pub quiet: u8,
}

impl Verbosity {
    /// Steps above (or, negative, below) the usual.
    #[must_use]
    pub fn level(self) -> i8 {
        let steps = i16::from(self.verbose) - i16::from(self.quiet);
        i8::try_from(steps.clamp(-3, 3)).unwrap_or_default()
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Carry POP3 sessions between clients and a server, and record them.
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Validate the configuration, list every fault, and print what would hold.
    ///
    /// Takes what `run` takes. Certificates are read and directories tried, but nothing listens. The effective
    /// configuration goes to standard output as TOML that loads again, warnings and faults to standard error.
    Check(Box<RunArgs>),
    /// Show a whole session: a sample mailbox, the proxy in front of it, a client, and the live transcript.
    Demo,
    /// Look at a mail server: addresses, TLS, certificates, capabilities; log in where asked to.
    ///
    /// In plain words, or as one JSON object. The exit code is that of a health check: 0 when all is well, 69 when the
    /// server cannot be reached or TLS or its greeting fails, 77 when it refuses the login.
    #[command(after_help = PROBE_EXAMPLES)]
    Probe(ProbeArgs),
    /// Read the transcripts of past sessions.
    #[command(subcommand)]
    Sessions(SessionsCommand),
    /// Play the server's side of a recorded session, so that what a client did wrong is seen again without the mailbox.
    ///
    /// Each command gets the answer that was recorded to it, whoever logs in; what was not recorded is refused. Messages are
    /// those that were kept, or are made up at their recorded size.
    Replay(ReplayArgs),
    /// Try out rules.
    #[command(subcommand)]
    Rules(RulesCommand),
    /// Make an authority of your own, and certificates that it vouches for.
    #[command(subcommand)]
    Certs(CertsCommand),
    /// Lead connections here that are meant for others.
    #[command(subcommand)]
    Intercept(InterceptCommand),
    /// Print the completion script of a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Print the manual page, as troff.
    Man,
    /// What there is to know about the configuration file.
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// What `run` and `check` take.
#[derive(Args, Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag that is there or not")]
pub struct RunArgs {
    /// The mail server: `pop3s://HOST` (TLS), `pop3+stls://HOST` (STLS, required) or `pop3://HOST` (plain).
    #[arg(value_name = "URL", conflicts_with = "upstream", value_parser = Argument::<UpstreamUrl>::new())]
    pub url: Option<UpstreamUrl>,
    /// The configuration file; flags override it.
    #[arg(short, long, value_name = "FILE", env = "POPTAP_CONFIG")]
    pub config: Option<PathBuf>,

    /// Where to listen: `ADDR:PORT`, `PORT` for loopback, `:PORT` for all interfaces [default: 127.0.0.1:1110].
    ///
    /// With `pop3s://` in front, clients speak TLS from the first octet; with `pop3+stls://` they may start it with STLS.
    /// `systemd:NAME` takes a socket that the service manager hands over. May be given several times. Port 0 lets the system choose; the choice is printed. On addresses other than
    /// loopback, say who may come with `--allow-from` where logins may cross that network in clear.
    #[arg(short, long, value_name = "ADDR", value_parser = Argument::<ListenPlace>::new(), help_heading = "Client side")]
    pub listen: Vec<ListenPlace>,
    /// Who may connect besides this host: a network such as 192.0.2.0/24, or `any`; may be given several times.
    #[arg(long, value_name = "CIDR|any", value_parser = Argument::<Network>::new(), help_heading = "Client side")]
    pub allow_from: Vec<Network>,
    /// PEM file with the certificate for clients, and those that lead from it to its authority.
    #[arg(long, value_name = "FILE", help_heading = "Client side")]
    pub cert: Option<PathBuf>,
    /// PEM file with its private key [default: the certificate's file].
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = "Client side")]
    pub key: Option<PathBuf>,
    /// Where STLS is offered, refuse logins before it.
    #[arg(long, help_heading = "Client side")]
    pub require_tls: bool,
    /// What becomes of a client's STLS where both hops are plain [default: pass].
    #[arg(long, value_name = "WHAT", help_heading = "Client side")]
    pub stls: Option<StlsPolicy>,

    /// The mail server, as a flag.
    #[arg(short, long, value_name = "URL", value_parser = Argument::<UpstreamUrl>::new(), help_heading = "Server side")]
    pub upstream: Option<UpstreamUrl>,
    /// PEM file with the certificates to trust instead of the system's roots.
    #[arg(long, value_name = "FILE", help_heading = "Server side")]
    pub upstream_ca: Option<PathBuf>,
    /// What becomes of an APOP timestamp that came before TLS [default: strip].
    #[arg(long, value_name = "WHAT", help_heading = "Server side")]
    pub apop: Option<ApopPolicy>,
    /// What becomes of XCLIENT and XOIP from clients, where the server would believe them [default: refuse].
    #[arg(long, value_name = "WHAT", help_heading = "Server side")]
    pub xclient: Option<XclientPolicy>,

    /// Refuse this command, such as DELE, with `-ERR`; may be given several times. Asked before the rules of the file.
    #[arg(long, value_name = "WORD", value_parser = Argument::<CommandWord>::new(), help_heading = "Rules")]
    pub deny: Vec<CommandWord>,
    /// Let no client delete a message: DELE is answered as if it were done, and the server does not hear of it.
    #[arg(long, help_heading = "Rules")]
    pub shield: bool,
    /// Let no rule act, and record what each would do.
    #[arg(long, help_heading = "Rules")]
    pub dry_run: bool,

    /// What becomes of anomalies.
    #[command(flatten)]
    pub anomalies: AnomalyArgs,

    /// The directory for transcripts, or `-` for JSON Lines on standard output.
    ///
    /// Without it: the file's `dir`, `$STATE_DIRECTORY/transcript`, `$XDG_STATE_HOME/poptap`, `~/.local/state/poptap`.
    #[arg(short, long, value_name = "DIR|-", help_heading = "Transcript")]
    pub transcript: Option<PathBuf>,
    /// Keep no transcript.
    #[arg(long, conflicts_with_all = ["transcript", "content", "reveal_credentials"], help_heading = "Transcript")]
    pub no_transcript: bool,
    /// How much of each message is kept: `none`, `headers`, `lines:N` or `full` [default: none].
    #[arg(long, value_name = "HOW MUCH", value_parser = Argument::<ContentPolicy>::new(), help_heading = "Transcript")]
    pub content: Option<ContentPolicy>,
    /// Write passwords into the transcript, and mark every session so. Think twice.
    #[arg(long, help_heading = "Transcript")]
    pub reveal_credentials: bool,
    /// When the conversation is printed as it passes; `auto` does so on a terminal.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, help_heading = "Transcript")]
    pub live: Live,

    /// What is served over HTTP.
    #[command(flatten)]
    pub http: HttpArgs,

    /// Become this user when everything is bound. poptap must have been started as root.
    #[arg(long, value_name = "USER", help_heading = "Process")]
    pub user: Option<String>,
    /// Become this group [default: the user's own].
    #[arg(long, value_name = "GROUP", help_heading = "Process")]
    pub group: Option<String>,

    /// Write the secrets of every TLS connection to a file, so that Wireshark can decrypt a capture. Think twice.
    #[arg(long, value_name = "FILE", help_heading = "Log")]
    pub keylog: Option<PathBuf>,
    /// A file for the log in place of standard error; its directory must exist.
    #[arg(long, value_name = "FILE", help_heading = "Log")]
    pub log_file: Option<PathBuf>,
    /// The form of the log [default: text].
    #[arg(long, value_name = "FORM", help_heading = "Log")]
    pub log_format: Option<LogFormat>,
}

/// What `probe` takes.
#[derive(Args, Clone, Debug, Default)]
pub struct ProbeArgs {
    /// The mail server: `pop3s://HOST`, `pop3+stls://HOST` or `pop3://HOST`; with `--config`, also an upstream's name.
    #[arg(value_name = "URL")]
    pub server: String,
    /// A configuration file with an upstream of this name or URL: what it says of trust and time limits holds.
    #[arg(short, long, value_name = "FILE", env = "POPTAP_CONFIG")]
    pub config: Option<PathBuf>,
    /// PEM file with the certificates to trust instead of the system's roots.
    #[arg(long, value_name = "FILE")]
    pub upstream_ca: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Log in as this user, count the messages, and leave. The password is asked for on the terminal.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Read the password from the only line of a file, or of standard input: `-`.
    #[arg(long, value_name = "FILE|-", requires = "user")]
    pub password_file: Option<PathBuf>,
    /// Log in even where whoever is on the way can read the password.
    #[arg(long, requires = "user")]
    pub allow_plain_login: bool,
}

/// When the conversation is printed as it passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Live {
    /// When standard output is a terminal.
    #[default]
    Auto,
    /// Even when it is not.
    Always,
    /// Not at all.
    Never,
}

/// Reading transcripts.
#[derive(Debug, Subcommand)]
pub enum SessionsCommand {
    /// List the recorded sessions, newest last.
    List(ListArgs),
    /// Find sessions, and commands in them, by an expression.
    Grep(GrepArgs),
    /// Watch sessions as a running poptap records them.
    Follow(FollowArgs),
    /// Print one session as text that can be pasted into a bug report.
    Show(ShowArgs),
    /// Compare two sessions, command by command. The exit code is that of diff: 0 no difference, 1 some, more is trouble.
    Diff(DiffArgs),
    /// Sum up the recorded sessions: who, over what, commands and how long they took, and what rules did, or would have done.
    Stats(StatsArgs),
    /// List who logged in, from where and over what: whom to call before plain text is switched off.
    ///
    /// Kept for longer than the sessions themselves, in a roll-up beside them; it says how far back it reaches.
    Audit(AuditArgs),
    /// Write one session for other programs: text, JSON Lines, packets, messages.
    ///
    /// Packets hold the client's hop in clear text, with the addresses, ports and times of the session. Secrets, and what was
    /// not kept, are filled up to their size. Files are readable by their owner alone.
    #[command(after_help = export::EXAMPLES)]
    Export(ExportArgs),
    /// Copy sessions without what names anybody, so that they may be published.
    ///
    /// Addresses, names and hosts, words of the server's and everything of messages are replaced, the same by the same; sizes,
    /// numbers, times, status, response codes and words of the protocol stay. So do the names and tags of rules.
    #[command(after_help = export::SCRUB_EXAMPLES)]
    Scrub(ScrubArgs),
}

/// Which transcript store is read: found as `run` finds it.
#[derive(Args, Clone, Debug, Default)]
pub struct StoreArgs {
    /// The directory with the transcripts.
    #[arg(short, long, value_name = "DIR")]
    pub transcript: Option<PathBuf>,
    /// The configuration file that names the directory.
    #[arg(short, long, value_name = "FILE", env = "POPTAP_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Making certificates. No file is ever overwritten, and keys are readable by their owner alone.
#[derive(Debug, Subcommand)]
pub enum CertsCommand {
    /// Make an authority: `ca.pem`, which clients have to trust, and its key `ca.key`, which nobody else may have.
    Ca(CertsCaArgs),
    /// Issue a server's certificate, and make its key.
    ///
    /// They go to `NAME.pem`, with the authority's certificate behind the server's, and `NAME.key`. The certificate never
    /// outlives the authority's.
    Issue(CertsIssueArgs),
}

/// What `certs ca` takes.
#[derive(Args, Clone, Debug)]
pub struct CertsCaArgs {
    /// What the authority is called.
    #[arg(long, default_value = "poptap private CA")]
    pub name: String,
    /// The directory for the files; it is made where it is missing.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
    /// For how many days from now it is valid.
    #[arg(long, value_name = "N", default_value_t = 3650, value_parser = days())]
    pub days: u32,
}

/// What `certs issue` takes.
#[derive(Args, Clone, Debug)]
pub struct CertsIssueArgs {
    /// The server's names and addresses, as clients have them in their settings; `*.example.net` is for all names below.
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// PEM file with the authority's certificate.
    #[arg(long, value_name = "FILE", default_value = "ca.pem")]
    pub ca: PathBuf,
    /// PEM file with the authority's key [default: that of the certificate, ending in `.key`].
    #[arg(long, value_name = "FILE")]
    pub ca_key: Option<PathBuf>,
    /// The directory for the files, named after the first NAME; it is made where it is missing.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
    /// The file for the certificate, in place of the directory.
    #[arg(long, value_name = "FILE", requires = "key", conflicts_with = "out")]
    pub cert: Option<PathBuf>,
    /// The file for its key.
    #[arg(long, value_name = "FILE", requires = "cert", conflicts_with = "out")]
    pub key: Option<PathBuf>,
    /// For how many days from now it is valid; some clients accept no more than 397.
    #[arg(long, value_name = "N", default_value_t = 397, value_parser = days())]
    pub days: u32,
}

/// A hundred years are enough, and keep the year within four digits.
fn days() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(1..=36_500)
}

/// About the configuration file.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the JSON Schema of the configuration file.
    Schema,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn refusal(arguments: &[&str]) -> String {
        Cli::try_parse_from(arguments).unwrap_err().to_string()
    }

    #[test]
    fn clap_finds_no_fault() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_of_run_is_read() {
        let arguments = "poptap -vv run pop3s://mail --listen 2110 --listen [::1]:0 --allow-from 192.0.2.0/24 --stls refuse --apop pass \
                         --xclient pass --upstream-ca ca.pem --transcript - --content lines:5 --reveal-credentials --live never \
                         --log-file x.log --log-format json --config p.toml --listen pop3s://:995 --cert c.pem --key c.key --require-tls \
                         --keylog k.log --deny dele --deny XFOO --shield --dry-run";
        let cli = Cli::try_parse_from(arguments.split_whitespace()).unwrap();
        assert_eq!(cli.verbosity.level(), 2);
        let Command::Run(args) = cli.command else { panic!("run was asked for") };
        assert_eq!(args.url.unwrap().to_string(), "pop3s://mail");
        assert_eq!(
            args.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["127.0.0.1:2110", "[::1]:0", "pop3s://[::]:995"]
        );
        assert_eq!(args.content, Some(ContentPolicy::Lines(5)));
        assert_eq!(
            (args.stls, args.apop, args.xclient),
            (Some(StlsPolicy::Refuse), Some(ApopPolicy::Pass), Some(XclientPolicy::Pass))
        );
        assert_eq!(args.deny.iter().map(CommandWord::as_str).collect::<Vec<_>>(), ["DELE", "XFOO"]);
        assert!(args.shield && args.dry_run);
        assert_eq!((args.live, args.log_format), (Live::Never, Some(LogFormat::Json)));
    }

    #[test]
    fn a_refused_url_comes_with_a_way_out_and_without_its_password() {
        let said = refusal(&["poptap", "run", "mail.example.net"]);
        assert!(said.contains("[URL]") && said.contains("hint: type `pop3s://mail.example.net`"), "{said}");
        let said = refusal(&["poptap", "run", "--upstream", "pop3://joe:hunter2@mail"]);
        assert!(said.contains("--upstream") && !said.contains("hunter2"), "{said}");
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        for arguments in [
            &["poptap", "run", "pop3://a", "--upstream", "pop3://b"][..],
            &["poptap", "run", "--no-transcript", "--transcript", "t"],
            &["poptap", "run", "-v", "-q"],
            &["poptap", "sessions", "show"],
            &["poptap", "sessions", "show", "ab", "--last"],
            &["poptap", "certs", "issue"],
            &["poptap", "certs", "issue", "mail", "--cert", "mail.pem"],
            &["poptap", "certs", "issue", "mail", "--cert", "mail.pem", "--key", "mail.key", "--out", "."],
            &["poptap", "certs", "ca", "--days", "0"],
            &["poptap", "certs", "ca", "--days", "36501"],
        ] {
            assert!(Cli::try_parse_from(arguments).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn quiet_counts_down() {
        assert_eq!(Cli::try_parse_from(["poptap", "demo", "-qq"]).unwrap().verbosity.level(), -2);
    }
}
