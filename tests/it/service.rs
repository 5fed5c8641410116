//! Life under a service manager: what it is told, the sockets that it hands over, and what poptap gives up.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{PermissionsExt as _, chown},
            net::UnixDatagram,
        },
    },
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{Signal, geteuid};
use tempfile::TempDir;

use crate::support::outside::{Client, PATIENCE, Poptap, Server, command, converse, run};

/// A service manager's socket, and what has come out of it.
struct Manager(UnixDatagram, TempDir);

impl Manager {
    fn new() -> Self {
        let folder = folder();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket, folder)
    }

    fn hears(&self) -> String {
        let mut message = [0; 4096];
        let length = self.0.recv(&mut message).expect("the service manager was told nothing");
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    /// The next message with a line that begins so.
    fn hears_of(&self, wanted: &str) -> String {
        loop {
            let message = self.hears();
            if message.lines().any(|line| line.starts_with(wanted)) {
                return message;
            }
        }
    }
}

fn folder() -> TempDir {
    TempDir::with_prefix("poptap-it-").unwrap()
}

/// `poptap run` as it is typed, with a transcript in `folder`.
fn poptap(folder: &Path) -> Command {
    let mut command = command(folder);
    command.args(["run", "-vv", "--config"]).arg(folder.join("poptap.toml"));
    command.arg("--transcript").arg(folder.join("transcript")).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn managed(configuration: &str, variables: &[(&str, &str)]) -> (Server, Poptap, Manager) {
    let (server, folder) = (Server::times(9, converse), folder());
    let manager = Manager::new();
    let mut command = poptap(folder.path());
    command.args(["--listen", "127.0.0.1:0", "--upstream", &server.url("pop3")]);
    command.env("NOTIFY_SOCKET", manager.1.path().join("notify")).envs(variables.iter().copied());
    (server, Poptap::launch_by(folder, configuration, command), manager)
}

#[test]
fn the_manager_hears_of_readiness_reloads_sessions_and_the_end() {
    let (_server, poptap, manager) = managed("", &[]);
    assert_eq!(manager.hears(), "READY=1\nSTATUS=1 listener, 0 sessions\n");
    let mut client = Client::to(poptap.address);
    client.log_in();

    poptap.signal(Signal::HUP);
    let reloading = manager.hears_of("RELOADING=1");
    assert!(reloading.lines().any(|line| line.starts_with("MONOTONIC_USEC=")), "{reloading}");
    assert_eq!(manager.hears_of("READY=1"), "READY=1\nSTATUS=1 listener, 1 session\n");
    poptap.reconfigure("[limits]\ncommand_line = 5\n");
    poptap.signal(Signal::HUP);
    manager.hears_of("RELOADING=1");
    let failed = manager.hears_of("READY=1");
    assert!(failed.contains("the last reload failed"), "{failed}");

    poptap.signal(Signal::TERM);
    assert_eq!(manager.hears_of("STOPPING=1"), "STOPPING=1\n");
    let draining = manager.hears_of("STATUS=");
    assert!(draining.contains("EXTEND_TIMEOUT_USEC=") && draining.contains("STATUS=draining: 1 session left"), "{draining}");
    client.say(b"QUIT\r\n");
    assert_eq!(client.rest(), "+OK\r\n");
    assert!(poptap.wait().status.success());
}

#[test]
fn the_watchdog_is_pinged_while_the_runtime_turns() {
    let (_server, poptap, manager) = managed("", &[("WATCHDOG_USEC", "100000")]);
    manager.hears_of("READY=1");
    for _ in 0..5 {
        manager.hears_of("WATCHDOG=1");
    }
    poptap.signal(Signal::TERM);
    manager.hears_of("STOPPING=1");
    assert!(poptap.wait().status.success());
}

#[test]
fn a_manager_that_is_gone_stops_nobody() {
    let (server, folder) = (Server::times(1, converse), folder());
    let mut command = poptap(folder.path());
    command.args(["--listen", "127.0.0.1:0", "--upstream", &server.url("pop3")]);
    command.env("NOTIFY_SOCKET", folder.path().join("nobody"));
    let mut poptap = Poptap::launch_by(folder, "", command);
    poptap.said("cannot tell the service manager");
    Client::to(poptap.address).log_in();
    poptap.stop();
}

/// Runs `command` with these sockets as descriptors 3 and 4, as a service manager does. Standard input and output carry them to
/// the shell, so that no other child of this process inherits them.
fn handed_over(command: &Command, names: &str, first: OwnedFd, second: Option<OwnedFd>) -> Command {
    let count = 1 + u8::from(second.is_some());
    let script =
        format!("exec 3<&0 4<&1 0</dev/null 1>/dev/null; LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names} exec \"$@\"");
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &script, "sh"]).arg(command.get_program()).args(command.get_args()).env_clear();
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.stdin(first).stdout(second.map_or_else(Stdio::null, Stdio::from));
    shell
}

fn bound() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn a_socket_that_was_handed_over_is_taken_for_its_address_and_another_one_is_closed() {
    let (server, folder) = (Server::times(1, converse), folder());
    let ((wanted, address), (other, unasked)) = (bound(), bound());
    let mut command = poptap(folder.path());
    command.args(["--listen", &address.to_string(), "--upstream", &server.url("pop3")]);
    let command = handed_over(&command, "pop3:spare", wanted.into(), Some(other.into()));
    let mut poptap = Poptap::launch_by(folder, "", command);
    assert_eq!(poptap.address, address, "binding it would have failed: the socket is bound");
    let warning = poptap.said("was handed over, and no listener asks for it");
    assert!(warning.contains(&format!("`spare` ({unasked})")), "{warning}");
    Client::to(address).log_in();
    poptap.stop();
    assert!(TcpStream::connect(unasked).is_err(), "it was closed");
}

#[test]
fn sockets_are_named_and_a_reload_finds_them_again() {
    let (server, folder) = (Server::times(2, converse), folder());
    let ((first, plain), (second, other)) = (bound(), bound());
    let mut command = poptap(folder.path());
    command.args(["--upstream", &server.url("pop3")]);
    let command = handed_over(&command, "other:pop3", second.into(), Some(first.into()));
    let listeners = "[[listener]]\naddress = 'systemd:pop3'\n[[listener]]\naddress = 'pop3://systemd:other'\n";
    let mut poptap = Poptap::launch_by(folder, listeners, command);
    assert_eq!(poptap.address, plain, "the first listener has the socket that it named");
    poptap.signal(Signal::HUP);
    poptap.log_line("reloaded: ");
    for address in [plain, other] {
        Client::to(address).log_in();
    }
    poptap.stop();
}

#[test]
fn a_socket_that_is_missing_and_one_that_everybody_reaches_are_faults() {
    for (names, listen, said) in [
        ("pop3", "systemd:pop3s", "no socket named `pop3s` was handed over"),
        ("pop3", "systemd:pop3", "would let everybody log in without encryption"),
    ] {
        let folder = folder();
        fs::write(folder.path().join("poptap.toml"), "").unwrap();
        let mut command = poptap(folder.path());
        command.args(["--listen", listen, "--upstream", "pop3://127.0.0.1:1"]);
        let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
        let output = handed_over(&command, names, everywhere.into(), None).stderr(Stdio::piped()).output().unwrap();
        let said_of_it = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(78) && said_of_it.contains(said), "{said_of_it}");
    }
}

#[test]
fn a_descriptor_that_does_not_listen_is_refused() {
    let folder = folder();
    fs::write(folder.path().join("poptap.toml"), "").unwrap();
    let (listener, address) = bound();
    let connected = TcpStream::connect(address).unwrap();
    let mut command = poptap(folder.path());
    command.args(["--listen", "127.0.0.1:0", "--upstream", "pop3://127.0.0.1:1"]);
    let mut command = handed_over(&command, "pop3", connected.into(), None);
    let output = command.stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("cannot listen on the inherited socket `pop3`: it does not listen"), "{said}");
    drop(listener);
}

/// A port that only root may bind, where such ports exist.
fn privileged_port() -> u16 {
    let free = (600..1024).find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    free.expect("a port below 1024 is free")
}

#[test]
fn root_binds_and_becomes_the_user() {
    let folder = folder();
    if !geteuid().is_root() {
        let mut command = command(folder.path());
        command.args(["run", "pop3://127.0.0.1:1", "--listen", "0", "--no-transcript", "--user", "daemon"]);
        let output = run(&mut command);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(78) && said.contains("not started as root"), "{said}");
        return;
    }
    let (server, store) = (Server::times(1, converse), folder.path().join("transcript"));
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(&store).unwrap();
    chown(&store, Some(65534), Some(65534)).unwrap();
    let mut command = poptap(folder.path());
    let listen = format!("127.0.0.1:{}", privileged_port());
    command.args(["--listen", &listen, "--upstream", &server.url("pop3"), "--user", "nobody"]);
    let mut poptap = Poptap::launch_by(folder, "", command);
    poptap.said("runs as nobody from here on");
    for (field, expected) in [
        ("Uid", "65534 65534 65534 65534"),
        ("Gid", "65534 65534 65534 65534"),
        ("Groups", "65534"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("NoNewPrivs", "1"),
    ] {
        assert_eq!(poptap.status(field), expected, "{field}");
    }
    Client::to(poptap.address).log_in();
    // What it needs at a reload it can still read.
    poptap.signal(Signal::HUP);
    poptap.log_line("reloaded: ");
    assert_eq!(poptap.stop().sessions.len(), 1, "the transcript is the user's");
}

#[test]
fn an_account_that_does_not_exist_is_a_fault() {
    let folder = folder();
    let mut command = command(folder.path());
    command.args(["run", "pop3://127.0.0.1:1", "--listen", "0", "--no-transcript", "--user", "no-such-user"]);
    let output = run(&mut command);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(78) && said.contains("no user `no-such-user` on this host"), "{said}");
}

#[test]
fn a_reload_that_needs_files_outside_of_the_sandbox_is_refused_and_within_it_is_not() {
    let (server, elsewhere) = (Server::times(9, converse), folder());
    let mut poptap = Poptap::start("", &["--upstream", &server.url("pop3")]);
    let sandbox = poptap.said("sandbox: ");
    let log = elsewhere.path().join("poptap.log");
    let outside = format!("[log]\nfile = '{}'\n", log.display());
    poptap.reconfigure(&outside);
    poptap.signal(Signal::HUP);
    if sandbox.contains("no sandbox") {
        assert!(sandbox.contains("no Landlock"), "{sandbox}");
        poptap.log_line("reloaded: ");
    } else {
        let refused = poptap.log_line("reload failed, and everything stays as it was");
        let place = elsewhere.path().display().to_string();
        assert!(refused.contains(&place) && refused.contains("outside of the sandbox"), "{refused}");
    }
    poptap.reconfigure("[limits]\ncommands = 3\n");
    poptap.signal(Signal::HUP);
    poptap.log_line("reloaded: ");
    assert_eq!(poptap.status("CoreDumping"), "0");
    poptap.stop();
}

fn packaged(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// A root with the units and one drop-in, or none.
fn units(drop_in: Option<&str>) -> TempDir {
    let root = folder();
    let units = root.path().join("etc/systemd/system");
    fs::create_dir_all(units.join("poptap.service.d")).unwrap();
    for unit in ["poptap.service", "poptap.socket", "poptap-tls.socket"] {
        // The program has to exist, and this one has not been installed.
        let text = packaged(&format!("systemd/{unit}")).replace("/usr/bin/poptap", env!("CARGO_BIN_EXE_poptap"));
        fs::write(units.join(unit), text).unwrap();
    }
    if let Some(name) = drop_in {
        fs::write(units.join("poptap.service.d").join(name), packaged(&format!("systemd/{name}"))).unwrap();
    }
    root
}

/// Needs the Debian package systemd, which tests/run installs.
#[test]
fn the_units_are_sound_and_locked_away() {
    for drop_in in [None, Some("sockets.conf"), Some("transparent.conf")] {
        let root = units(drop_in);
        let place = root.path().join("etc/systemd/system");
        let mut verify = Command::new("systemd-analyze");
        verify
            .args(["--man=no", "verify"])
            .args(["poptap.service", "poptap.socket", "poptap-tls.socket"].map(|unit| place.join(unit)));
        let output = run(verify.env("SYSTEMD_UNIT_PATH", format!("{}:", place.display())));
        let said = String::from_utf8(output.stderr).unwrap();
        let problems: Vec<_> = said.lines().filter(|line| line.contains("poptap")).collect();
        assert!(problems.is_empty(), "{drop_in:?}: {problems:#?}");

        let mut security = Command::new("systemd-analyze");
        security.arg(format!("--root={}", root.path().display()));
        // In tenths: 20 is 2.0.
        security.args(["--offline=true", "--threshold=20", "--no-pager", "security", "poptap.service"]);
        let output = run(&mut security);
        let table = String::from_utf8(output.stdout).unwrap();
        let last = table.lines().last().unwrap_or_default();
        assert!(output.status.success(), "{drop_in:?}: {table}");
        let exposure = last.split_whitespace().find(|word| word.parse::<f32>().is_ok()).unwrap();
        let told = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/service.md")).unwrap();
        let name = drop_in.unwrap_or("poptap.service");
        let row = told.lines().find(|line| line.starts_with('|') && line.contains(name) && line.contains("1.")).unwrap();
        assert!(row.contains(&format!("| {exposure} |")), "{row}\n{last}");
    }
}

/// No container engine is at hand in tests, so this is all that is known of it.
#[test]
fn the_container_file_copies_what_exists_and_runs_what_is_understood() {
    let text = packaged("container/Containerfile");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copies = text.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|copy| !copy.starts_with("--from"));
    for copy in copies {
        let (sources, _) = copy.rsplit_once(' ').unwrap();
        for source in sources.split(' ') {
            assert!(root.join(source).exists(), "{source}");
        }
    }
    let command = text.lines().find_map(|line| line.strip_prefix("CMD ")).unwrap();
    let words: Vec<String> = serde_json::from_str(command).unwrap();
    assert!(<poptap::cli::Cli as clap::Parser>::try_parse_from([vec!["poptap".to_owned()], words].concat()).is_ok());
    assert!(text.contains("\nUSER poptap\n") && text.contains("\nVOLUME /var/lib/poptap\n"));
}
