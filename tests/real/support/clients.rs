//! Real mail clients, each fetching the whole mailbox and deleting nothing. Their homes are temporary folders.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::process::{run, run_unchecked};
use super::{PASSWORD, USER, mailbox, scratch};

/// A program that fetches mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    Curl,
    Poplib,
    Fetchmail,
    Mpop,
    Getmail,
}

/// All of them.
pub(crate) const CLIENTS: [Client; 5] = [Client::Curl, Client::Poplib, Client::Fetchmail, Client::Mpop, Client::Getmail];

impl Client {
    /// Fetch every message, in order, as this client delivers them.
    pub(crate) fn fetch(self, address: SocketAddr) -> Vec<Vec<u8>> {
        collect(|inbox, home| match self {
            Self::Curl => curl(address, inbox, home, &[]),
            Self::Poplib => poplib(address, inbox, home, "plain", Path::new("/nonexistent")),
            Self::Fetchmail => fetchmail(address, inbox, home, "sslproto ''"),
            Self::Mpop => mpop(address, inbox, home),
            Self::Getmail => getmail(address, inbox, home),
        })
    }

    /// As [`Self::fetch`], with STLS between this client and whoever answers it; the certificate must be signed by `authority`.
    pub(crate) fn fetch_with_stls(self, address: SocketAddr, authority: &Path) -> Vec<Vec<u8>> {
        let file = authority.to_str().unwrap();
        collect(|inbox, home| match self {
            Self::Curl => curl(address, inbox, home, &["--ssl-reqd", "--cacert", file]),
            Self::Poplib => poplib(address, inbox, home, "stls", authority),
            // fetchmail's default is STLS where the server offers it. It knows names in certificates, but no addresses.
            Self::Fetchmail => {
                let tls = format!("sslproto 'auto' sslcertck sslcertfile '{file}' sslcommonname 'localhost'");
                fetchmail(address, inbox, home, &tls);
            }
            Self::Mpop | Self::Getmail => unreachable!("not needed so far"),
        })
    }
}

/// Fetch with poplib, logging in with APOP.
pub(crate) fn fetch_with_apop(address: SocketAddr) -> Vec<Vec<u8>> {
    collect(|inbox, home| poplib(address, inbox, home, "apop", Path::new("/nonexistent")))
}

/// A command that finds nothing of the person's own set-up.
pub(crate) fn isolated(program: &str, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("HOME", home).env("XDG_CONFIG_HOME", home).env("XDG_DATA_HOME", home).env("XDG_STATE_HOME", home);
    command.env_remove("http_proxy").env_remove("all_proxy").env_remove("ALL_PROXY").current_dir(home);
    command
}

/// The URLs and options with which curl fetches all messages over one connection, into `inbox`.
fn curl(address: SocketAddr, inbox: &Path, home: &Path, options: &[&str]) {
    let mut command = isolated("curl", home);
    command.args(["--silent", "--show-error", "--fail-early", "--user", &format!("{USER}:{PASSWORD}")]).args(options);
    for number in 1..=mailbox::messages().len() {
        command.arg(format!("pop3://{address}/{number}")).arg("--output").arg(inbox.join(format!("{number:04}")));
    }
    run(&mut command);
}

/// Python's poplib returns lines without their ends; joined with CR LF they are the message.
const POPLIB: &str = r#"
import pathlib, poplib, ssl, sys
host, port, user, password, inbox, how, authority = sys.argv[1:]
# poplib gives up on lines of more than 2,048 octets, which real messages have.
poplib._MAXLINE = 1 << 20
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
    run_unchecked(&mut fetchmail_command(address, &inbox, home.path(), ""))
}

fn fetchmail(address: SocketAddr, inbox: &Path, home: &Path, tls: &str) {
    run(&mut fetchmail_command(address, inbox, home, tls));
}

fn fetchmail_command(address: SocketAddr, inbox: &Path, home: &Path, tls: &str) -> Command {
    let deliver = deliverer(inbox, home);
    let local = String::from_utf8(run(Command::new("id").arg("-un")).stdout).unwrap();
    let text = format!(
        "set invisible\nset no syslog\nset no bouncemail\n\
         poll 127.0.0.1 protocol pop3 port {} timeout 60\n\
         user '{USER}' password '{PASSWORD}' is '{}' here {tls} keep fetchall no rewrite mda '{}'\n",
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

fn mpop(address: SocketAddr, inbox: &Path, home: &Path) {
    let text = format!(
        "account tap\nhost 127.0.0.1\nport {}\nuser {USER}\npassword {PASSWORD}\nauth user\ntls off\ntimeout 60\n\
         pipelining on\nkeep on\nonly_new off\nuidls_file {}\nreceived_header off\ndelivery mda {}\n",
        address.port(),
        home.join("uidls").display(),
        deliverer(inbox, home).display(),
    );
    let file = private_file(home, "mpoprc", &text);
    run(isolated("mpop", home).arg(format!("--file={}", file.display())).args(["--quiet", "tap"]));
}

fn getmail(address: SocketAddr, inbox: &Path, home: &Path) {
    let text = format!(
        "[retriever]\ntype = SimplePOP3Retriever\nserver = 127.0.0.1\nport = {}\nusername = {USER}\npassword = {PASSWORD}\n\
         timeout = 60\n[destination]\ntype = MDA_external\npath = {}\nallow_root_commands = true\n\
         [options]\ndelete = false\nread_all = true\ndelivered_to = false\nreceived = false\nverbose = 0\n",
        address.port(),
        deliverer(inbox, home).display(),
    );
    private_file(home, "getmailrc", &text);
    let mut command = isolated("getmail", home);
    run(command.arg(format!("--getmaildir={}", home.display())).arg("--rcfile=getmailrc"));
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

fn private_file(home: &Path, name: &str, text: &str) -> PathBuf {
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
    let mut paths: Vec<PathBuf> = fs::read_dir(&inbox).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().filter(|path| !path.ends_with("0000")).map(|path| fs::read(path).unwrap()).collect()
}
