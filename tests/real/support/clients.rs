//! Real mail clients, each fetching the whole mailbox; they delete nothing, but for [`Deleting`]. Their homes are temporary
//! folders.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use regex::bytes::Regex;
use tempfile::TempDir;

use super::dovecot::Mode;
use super::process::{describe, run, run_unchecked};
use super::{PASSWORD, USER, mailbox, scratch};

/// A program that fetches mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    Curl,
    Poplib,
    Fetchmail,
    Mpop,
    Getmail,
    Mutt,
}

/// All of them.
pub(crate) const CLIENTS: [Client; 6] =
    [Client::Curl, Client::Poplib, Client::Fetchmail, Client::Mpop, Client::Getmail, Client::Mutt];

impl Client {
    /// Fetch every message, in order, as this client delivers them, without TLS.
    pub(crate) fn fetch(self, address: SocketAddr) -> Vec<Vec<u8>> {
        self.fetch_over(Mode::Plain, address, Path::new("/nonexistent"))
    }

    /// As [`Self::fetch`], with STLS between this client and whoever answers it; the certificate must be signed by `authority`.
    pub(crate) fn fetch_with_stls(self, address: SocketAddr, authority: &Path) -> Vec<Vec<u8>> {
        self.fetch_over(Mode::Stls, address, authority)
    }

    /// Whether this client starts TLS on such a hop. getmail6 knows no STLS: it stays in clear.
    pub(crate) fn speaks_tls(self, hop: Mode) -> bool {
        hop == Mode::Implicit || hop == Mode::Stls && self != Self::Getmail
    }

    /// As [`Self::fetch`], over a hop of this kind. Where there is TLS, this client demands it, and a certificate that
    /// `authority` signed for whom it has connected to.
    pub(crate) fn fetch_over(self, hop: Mode, address: SocketAddr, authority: &Path) -> Vec<Vec<u8>> {
        let ca = authority.to_str().unwrap();
        if self == Self::Mutt {
            return mutt(hop, address, ca);
        }
        collect(|inbox, home| match self {
            Self::Curl => curl(hop, address, inbox, home, ca),
            Self::Poplib => poplib(address, inbox, home, hop.name(), authority),
            Self::Fetchmail => drop(run(&mut fetchmail(hop, address, inbox, home, ca, Then::Keep))),
            Self::Mpop => drop(run(&mut mpop(hop, address, inbox, home, ca, Then::Keep))),
            Self::Getmail => drop(run(&mut getmail(hop, address, inbox, home, ca, Then::Keep))),
            Self::Mutt => unreachable!("it delivers by itself"),
        })
    }
}

/// What a client does with what it has fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Keep,
    Delete,
}

/// A client that deletes what it has fetched, with a home and an inbox that last.
pub(crate) struct Deleting {
    client: Client,
    home: TempDir,
}

impl Deleting {
    /// Those that can be told to.
    pub(crate) const CLIENTS: [Client; 3] = [Client::Fetchmail, Client::Mpop, Client::Getmail];

    /// One of [`Self::CLIENTS`], with nothing fetched yet.
    pub(crate) fn new(client: Client) -> Self {
        let home = scratch();
        fs::create_dir(home.path().join("inbox")).unwrap();
        Self { client, home }
    }

    /// Fetch all there is and delete it, in clear; the client must call that a success.
    pub(crate) fn poll(&self, address: SocketAddr) {
        let (home, inbox, no_ca) = (self.home.path(), self.home.path().join("inbox"), "/nonexistent");
        let mut command = match self.client {
            Client::Fetchmail => fetchmail(Mode::Plain, address, &inbox, home, no_ca, Then::Delete),
            Client::Mpop => mpop(Mode::Plain, address, &inbox, home, no_ca, Then::Delete),
            Client::Getmail => getmail(Mode::Plain, address, &inbox, home, no_ca, Then::Delete),
            other => unreachable!("{other:?} is not told to delete"),
        };
        let output = run_unchecked(&mut command);
        // 1 is fetchmail's word for a success without new mail.
        let nothing_new = self.client == Client::Fetchmail && output.status.code() == Some(1);
        assert!(output.status.success() || nothing_new, "{}", describe(&command, &output));
    }

    /// What it has delivered in all its polls, in order.
    pub(crate) fn delivered(&self) -> Vec<Vec<u8>> {
        delivered(&self.home.path().join("inbox"))
    }
}

/// Fetch with poplib, logging in with APOP.
pub(crate) fn fetch_with_apop(address: SocketAddr) -> Vec<Vec<u8>> {
    collect(|inbox, home| poplib(address, inbox, home, "apop", Path::new("/nonexistent")))
}

/// Log in with SCRAM-SHA-256 over such a hop, with a certificate by `authority` where there is TLS, and leave again.
pub(crate) fn log_in_with_scram(hop: Mode, address: SocketAddr, authority: &Path) {
    let home = scratch();
    let text = format!(
        "account tap\nhost 127.0.0.1\nport {}\nuser {USER}\npassword {PASSWORD}\nauth scram-sha-256\n{}\ntimeout 60\n\
         delivery mda /bin/true\n",
        address.port(),
        mpop_tls(hop, authority.to_str().unwrap()),
    );
    let file = private_file(home.path(), "mpoprc", &text);
    run(isolated("mpop", home.path()).arg(format!("--file={}", file.display())).args(["--auth-only", "tap"]));
}

/// What became of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    /// It was accepted.
    Accepted,
    /// There was none: the client does not trust the certificate that it was shown.
    Distrusted,
    /// The server wants none so.
    Refused,
}

/// Let curl log in and ask for STAT, from that local address if there is one.
pub(crate) fn curl_stat(hop: Mode, address: SocketAddr, from: Option<&str>, authority: &Path) -> Login {
    let home = scratch();
    let mut command = isolated("curl", home.path());
    command.args(["--silent", "--show-error", "--user", &format!("{USER}:{PASSWORD}")]);
    command.args(from.iter().flat_map(|address| ["--interface", address]));
    if hop != Mode::Plain {
        command.arg("--ssl-reqd").arg("--cacert").arg(authority);
    }
    let scheme = if hop == Mode::Implicit { "pop3s" } else { "pop3" };
    let output = run_unchecked(command.args(["--request", "STAT", "--head", &format!("{scheme}://{address}/")]));
    match output.status.code() {
        Some(0) => Login::Accepted,
        Some(60) => Login::Distrusted,
        Some(67) => Login::Refused,
        _ => panic!("{}", describe(&command, &output)),
    }
}

/// A command that finds nothing of the person's own set-up.
pub(crate) fn isolated(program: &str, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("HOME", home).env("XDG_CONFIG_HOME", home).env("XDG_DATA_HOME", home).env("XDG_STATE_HOME", home);
    command.env_remove("http_proxy").env_remove("all_proxy").env_remove("ALL_PROXY").current_dir(home);
    command
}

/// Let curl fetch all messages over one connection, into `inbox`.
fn curl(hop: Mode, address: SocketAddr, inbox: &Path, home: &Path, ca: &str) {
    let mut command = isolated("curl", home);
    command.args(["--silent", "--show-error", "--fail-early", "--user", &format!("{USER}:{PASSWORD}")]);
    let scheme = if hop == Mode::Implicit { "pop3s" } else { "pop3" };
    if hop != Mode::Plain {
        command.args(["--ssl-reqd", "--cacert", ca]);
    }
    for number in 1..=mailbox::messages().len() {
        command.arg(format!("{scheme}://{address}/{number}")).arg("--output").arg(inbox.join(format!("{number:04}")));
    }
    run(&mut command);
}

/// Python's poplib returns lines without their ends; joined with CR LF they are the message.
const POPLIB: &str = r#"
import pathlib, poplib, ssl, sys
host, port, user, password, inbox, how, authority = sys.argv[1:]
# poplib gives up on lines of more than 2,048 octets, which real messages have.
poplib._MAXLINE = 1 << 20
if how == "implicit":
    client = poplib.POP3_SSL(host, int(port), timeout=60, context=ssl.create_default_context(cafile=authority))
else:
    client = poplib.POP3(host, int(port), timeout=60)
if how == "stls":
    client.stls(ssl.create_default_context(cafile=authority))
if how == "apop":
    client.apop(user, password)
else:
    client.user(user)
    client.pass_(password)
for number in range(1, client.stat()[0] + 1):
    lines = client.retr(number)[1]
    pathlib.Path(inbox, "%04d" % number).write_bytes(b"".join(line + b"\r\n" for line in lines))
client.quit()
"#;

fn poplib(address: SocketAddr, inbox: &Path, home: &Path, how: &str, authority: &Path) {
    let mut command = isolated("python3", home);
    command.args(["-c", POPLIB, &address.ip().to_string(), &address.port().to_string(), USER, PASSWORD]);
    run(command.arg(inbox).arg(how).arg(authority));
}

/// Run fetchmail with what it does about TLS by default; return how it ended and what it printed.
pub(crate) fn fetchmail_by_default(address: SocketAddr) -> Output {
    let home = scratch();
    let inbox = home.path().join("inbox");
    fs::create_dir(&inbox).unwrap();
    run_unchecked(&mut fetchmail_command(address, &inbox, home.path(), "", Then::Keep))
}

/// What it does by default is STLS wherever that is tried with success; to stay in clear it has to be told.
fn fetchmail(hop: Mode, address: SocketAddr, inbox: &Path, home: &Path, ca: &str, then: Then) -> Command {
    // It knows names in certificates, but no addresses.
    let trust = format!("sslcertck sslcertfile '{ca}' sslcommonname 'localhost'");
    let tls = match hop {
        Mode::Plain => "sslproto ''".to_owned(),
        Mode::Stls => trust,
        Mode::Implicit => format!("ssl {trust}"),
    };
    fetchmail_command(address, inbox, home, &tls, then)
}

fn fetchmail_command(address: SocketAddr, inbox: &Path, home: &Path, tls: &str, then: Then) -> Command {
    let keep = if then == Then::Keep { "keep" } else { "nokeep" };
    let deliver = deliverer(inbox, home);
    let local = String::from_utf8(run(Command::new("id").arg("-un")).stdout).unwrap();
    let text = format!(
        "set invisible\nset no syslog\nset no bouncemail\n\
         poll 127.0.0.1 protocol pop3 port {} timeout 60\n\
         user '{USER}' password '{PASSWORD}' is '{}' here {tls} {keep} fetchall no rewrite mda '{}'\n",
        address.port(),
        local.trim(),
        deliver.display(),
    );
    let file = private_file(home, "fetchmailrc", &text);
    let mut command = isolated("fetchmail", home);
    command.env("FETCHMAILHOME", home).arg("--fetchmailrc").arg(file).args(["--nodetach", "--nosyslog"]);
    command.arg("--pidfile").arg(home.join("fetchmail.pid"));
    command
}

fn mpop(hop: Mode, address: SocketAddr, inbox: &Path, home: &Path, ca: &str, then: Then) -> Command {
    let tls = mpop_tls(hop, ca);
    let keep = if then == Then::Keep { "on" } else { "off" };
    let text = format!(
        "account tap\nhost 127.0.0.1\nport {}\nuser {USER}\npassword {PASSWORD}\nauth user\n{tls}\ntimeout 60\n\
         pipelining on\nkeep {keep}\nonly_new off\nuidls_file {}\nreceived_header off\ndelivery mda {}\n",
        address.port(),
        home.join("uidls").display(),
        deliverer(inbox, home).display(),
    );
    let file = private_file(home, "mpoprc", &text);
    let mut command = isolated("mpop", home);
    command.arg(format!("--file={}", file.display())).args(["--quiet", "tap"]);
    command
}

fn mpop_tls(hop: Mode, ca: &str) -> String {
    match hop {
        Mode::Plain => "tls off".to_owned(),
        Mode::Stls => format!("tls on\ntls_starttls on\ntls_trust_file {ca}"),
        Mode::Implicit => format!("tls on\ntls_starttls off\ntls_trust_file {ca}"),
    }
}

fn getmail(hop: Mode, address: SocketAddr, inbox: &Path, home: &Path, ca: &str, then: Then) -> Command {
    // It checks names in certificates, but no addresses.
    let (kind, tls) = match hop {
        Mode::Plain | Mode::Stls => ("SimplePOP3Retriever\nserver = 127.0.0.1", String::new()),
        Mode::Implicit => ("SimplePOP3SSLRetriever\nserver = localhost", format!("ca_certs = {ca}\n")),
    };
    let text = format!(
        "[retriever]\ntype = {kind}\nport = {}\nusername = {USER}\npassword = {PASSWORD}\n{tls}\
         timeout = 60\n[destination]\ntype = MDA_external\npath = {}\nallow_root_commands = true\n\
         [options]\ndelete = {}\nread_all = true\ndelivered_to = false\nreceived = false\nverbose = 0\n",
        address.port(),
        deliverer(inbox, home).display(),
        then == Then::Delete,
    );
    private_file(home, "getmailrc", &text);
    let mut command = isolated("getmail", home);
    command.arg(format!("--getmaildir={}", home.display())).arg("--rcfile=getmailrc");
    command
}

/// mutt wants a terminal: `script` gives it one, and the keys are in its configuration.
fn mutt(hop: Mode, address: SocketAddr, ca: &str) -> Vec<Vec<u8>> {
    let home = scratch();
    let home = home.path();
    let (scheme, tls) = match hop {
        Mode::Plain => ("pop", "ssl_starttls=no ssl_force_tls=no".to_owned()),
        Mode::Stls => ("pop", format!("ssl_starttls=yes ssl_force_tls=yes ssl_ca_certificates_file={ca}")),
        Mode::Implicit => ("pops", format!("ssl_starttls=no ssl_force_tls=yes ssl_ca_certificates_file={ca}")),
    };
    let text = format!(
        "set pop_host={scheme}://{address} pop_user={USER} pop_pass={PASSWORD} pop_delete=no pop_last=no timeout=60\n\
         set {tls} ssl_usesystemcerts=no ssl_verify_host=yes ssl_verify_dates=yes\n\
         set folder={home} tmpdir={home} spoolfile={home}/mbox mbox_type=mbox quit=yes sleep_time=0 wait_key=no\n\
         push '<fetch-mail><quit>'\n",
        home = home.display()
    );
    private_file(home, "muttrc", &text);
    fs::write(home.join("empty"), b"").unwrap();
    let mut command = isolated("script", home);
    run(command.env("TERM", "xterm").args(["-qec", "mutt -n -F muttrc -f empty", "/dev/null"]));
    let mbox = fs::read(home.join("mbox")).unwrap_or_default();
    // It keeps lines that begin with `From ` as they are; these ones end in the time of the delivery.
    let separator = Regex::new(r"(?m)^From \S+ \w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}\n").unwrap();
    separator.split(&mbox).skip(1).map(<[u8]>::to_vec).collect()
}

/// A program that writes each message that it is given to the next numbered file in `inbox`.
fn deliverer(inbox: &Path, home: &Path) -> PathBuf {
    let text = format!("#!/bin/sh\nset -- '{0}'/*\ncat >\"$(printf '%s/%04d' '{0}' \"$#\")\"\n", inbox.display());
    // The pattern stays as it is while the folder is empty; a first, empty file makes the count right.
    fs::write(inbox.join("0000"), b"").unwrap();
    let path = home.join("deliver");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Write a file that only its owner may read.
pub(crate) fn private_file(home: &Path, name: &str, text: &str) -> PathBuf {
    let path = home.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// Let a client fetch into a new inbox, with a new home, and return what it delivered, in order.
fn collect(fetch: impl FnOnce(&Path, &Path)) -> Vec<Vec<u8>> {
    let home = scratch();
    let inbox = home.path().join("inbox");
    fs::create_dir(&inbox).unwrap();
    fetch(&inbox, home.path());
    delivered(&inbox)
}

/// What a [`deliverer`] wrote, in order.
fn delivered(inbox: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(inbox).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().filter(|path| !path.ends_with("0000")).map(|path| fs::read(path).unwrap()).collect()
}
