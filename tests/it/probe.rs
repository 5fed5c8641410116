//! `poptap probe`, against scripted servers.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Arc, mpsc::channel},
    thread,
};

use poptap::{
    commands::exit,
    tls::{Authority, Certificate, Issued, Validity, server_config},
};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustls::ServerConfig;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use time::macros::datetime;

use super::support::outside::{PATIENCE, SECRET, Server, command, listen, read_line, run, tls};

const CAPABILITIES: &[u8] = b"+OK\r\nTOP\r\nUSER\r\nSASL PLAIN X-\x1b[31m\r\n.\r\n";

/// A folder with an authority's certificate, and a server's configuration.
struct Lab {
    folder: TempDir,
    authority: Authority,
}

impl Lab {
    fn new() -> Self {
        let (folder, authority) = (TempDir::with_prefix("poptap-it-").unwrap(), Authority::new("Lab CA").unwrap());
        fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        fs::write(folder.path().join("password"), format!("{SECRET}\n")).unwrap();
        Self { folder, authority }
    }

    fn issue(&self, validity: Validity) -> Issued {
        self.authority.issue(&["127.0.0.1"], validity).unwrap()
    }

    fn good(&self) -> Arc<ServerConfig> {
        config(self.issue(Validity::days(61)))
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn probe(&self, arguments: &[&str]) -> Output {
        run(command(self.folder.path()).arg("probe").args(arguments))
    }

    /// Probes with the authority trusted, as JSON.
    fn findings(&self, url: &str, arguments: &[&str]) -> (i32, Value) {
        let ca = self.path("ca.pem");
        let arguments = [&[url, "--json", "--upstream-ca", ca.as_str()], arguments].concat();
        let output = self.probe(&arguments);
        let printed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(printed.lines().count(), 1, "{printed}{}", String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), serde_json::from_str(&printed).unwrap())
    }

    /// Arguments for a login with the password in a file.
    fn login(&self) -> [String; 4] {
        ["--user".to_owned(), "joe".to_owned(), "--password-file".to_owned(), self.path("password")]
    }
}

fn config(issued: Issued) -> Arc<ServerConfig> {
    server_config(issued.chain, issued.key).unwrap()
}

/// Greets with an escape sequence, answers CAPA, STAT and all else; refuses PASS when told to, and repeats the password then.
fn answer(mut stream: impl Read + Write, greets: bool, refuses: bool) -> Vec<u8> {
    let mut heard = Vec::new();
    if greets && stream.write_all(b"+OK \x1b[2J[XCLIENT] ready <1@x>\r\n").and_then(|()| stream.flush()).is_err() {
        return heard;
    }
    while let Some(line) = read_line(&mut stream) {
        heard.extend_from_slice(&line);
        let refusal = [b"-ERR no such password: ", &line[5.min(line.len())..]].concat();
        let reply = match line.get(..4) {
            Some(b"CAPA") => CAPABILITIES,
            Some(b"STAT") => b"+OK 2 320\r\n",
            Some(b"PASS") if refuses => &refusal,
            Some(b"STLS") => {
                stream.write_all(b"+OK\r\n").unwrap();
                return heard;
            }
            _ => b"+OK\r\n",
        };
        if stream.write_all(reply).and_then(|()| stream.flush()).is_err() || line.starts_with(b"QUIT") {
            break;
        }
    }
    heard
}

fn over_tls(config: Arc<ServerConfig>, refuses: bool) -> Server {
    Server::once(move |stream| answer(tls(stream, &config), true, refuses))
}

/// Serves plain sessions, and goes on inside TLS behind STLS.
fn over_stls(config: Arc<ServerConfig>) -> Server {
    Server::times(2, move |mut stream: TcpStream| {
        let mut heard = answer(&mut stream, true, false);
        if heard.ends_with(b"STLS\r\n") {
            heard.extend(answer(tls(stream, &config), false, false));
        }
        heard
    })
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}")).iter().map(|text| text.as_str().unwrap()).collect()
}

fn has(value: &Value, part: &str) -> bool {
    texts(value).iter().any(|text| text.contains(part))
}

#[test]
fn a_good_server_is_described_and_left_politely() {
    let lab = Lab::new();
    let server = over_tls(lab.good(), false);
    let (code, found) = lab.findings(&server.url("pop3s"), &[]);
    assert_eq!(code, 0, "{found:#}");
    assert_eq!(server.heard(), b"CAPA\r\nQUIT\r\n");
    assert_eq!(found["ok"], true);
    assert_eq!(found["address"], server.address.to_string());
    assert!(found["connect_ms"].is_u64() && found["tls_ms"].is_u64());
    assert_eq!((&found["tls"]["version"], &found["tls"]["trust"]), (&"TLSv1.3".into(), &"ca_file".into()));
    assert_eq!((&found["server_name"], &found["name_matches"]), (&"127.0.0.1".into(), &true.into()));
    assert_eq!(found["chain"][0]["days_left"], 60);
    assert_eq!((&found["chain"][0]["issuer"], &found["chain"][1]["subject"]), (&"CN=Lab CA".into(), &"CN=Lab CA".into()));
    assert_eq!(found["greeting"], r"+OK \x1b[2J[XCLIENT] ready <1@x>");
    assert_eq!((&found["apop"], &found["xclient"]), (&true.into(), &true.into()));
    assert_eq!(texts(&found["capabilities_tls"]), ["TOP", "USER", r"SASL PLAIN X-\x1b[31m"]);
    assert!(found.get("capabilities_plain").is_none());
    assert_eq!(texts(&found["mechanisms"]), ["PLAIN", r"X-\x1b[31m"]);
    assert!(has(&found["warnings"], "APOP") && has(&found["warnings"], "XCLIENT"), "{found:#}");
}

#[test]
fn words_say_the_same_and_drive_no_terminal() {
    let lab = Lab::new();
    let server = over_tls(config(lab.issue(Validity::days(10))), false);
    let output = lab.probe(&[&server.url("pop3s"), "--upstream-ca", &lab.path("ca.pem")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let words = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "TLS              TLSv1.3, TLS13_",
        "from the first octet, after ",
        "verified         by the authorities in the given file",
        "issuer         CN=Lab CA",
        ", 9 days left",
        "the certificate is for `127.0.0.1`",
        "CAPA inside TLS  TOP, USER, SASL PLAIN",
        "XCLIENT          offered to this host",
        "warning: the certificate of `CN=127.0.0.1` expires on ",
        "all is well",
    ] {
        assert!(words.contains(expected), "{expected} in\n{words}");
    }
    assert!(!words.contains('\x1b'), "{words}");
}

#[test]
fn stls_is_looked_at_from_both_sides() {
    let lab = Lab::new();
    let server = over_stls(lab.good());
    let (code, found) = lab.findings(&server.url("pop3+stls"), &[]);
    assert_eq!(code, 0, "{found:#}");
    let heard = BTreeSet::from([server.heard(), server.heard()]);
    assert_eq!(heard, BTreeSet::from([b"STLS\r\nCAPA\r\nQUIT\r\n".to_vec(), b"CAPA\r\nQUIT\r\n".to_vec()]));
    assert_eq!(found["tls"]["mode"], "stls");
    assert_eq!(texts(&found["capabilities_plain"]), texts(&found["capabilities_tls"]));
    assert!(has(&found["warnings"], "plain logins before TLS"), "{found:#}");
}

#[test]
fn a_certificate_that_is_refused_is_shown_and_nobody_logs_in() {
    let lab = Lab::new();
    let past = Validity { from: datetime!(2020-01-01 0:00 UTC), to: datetime!(2021-01-01 0:00 UTC) };
    for (issued, words, matches) in [
        (lab.issue(past), "expired on 2021-01-01", true),
        (lab.authority.issue(&["other.example"], Validity::days(1)).unwrap(), "only for `other.example`", false),
        (Authority::self_signed(&["127.0.0.1"], Validity::days(1)).unwrap(), "is self-signed", true),
    ] {
        let facts = Certificate::parse(&issued.chain[0]).unwrap();
        let server = over_tls(config(issued), false);
        let login = lab.login();
        let (code, found) = lab.findings(&server.url("pop3s"), &login.each_ref().map(String::as_str));
        assert_eq!((code, &found["ok"]), (i32::from(exit::UNAVAILABLE), &false.into()));
        assert_eq!(server.heard(), b"");
        assert_eq!(found["error"]["code"], "upstream-tls");
        assert!(found["error"]["message"].as_str().unwrap().contains(words), "{found:#}");
        assert_eq!(found["chain"][0]["fingerprint"], facts.fingerprint);
        assert_eq!(found["name_matches"], matches);
        assert!(found.get("greeting").is_none() && found.get("login").is_none());
    }
}

#[test]
fn after_stls_fails_what_came_before_it_is_still_told() {
    let lab = Lab::new();
    let server = over_stls(config(Authority::self_signed(&["127.0.0.1"], Validity::days(1)).unwrap()));
    let (code, found) = lab.findings(&server.url("pop3+stls"), &[]);
    assert_eq!(code, i32::from(exit::UNAVAILABLE));
    assert_eq!(found["chain"].as_array().unwrap().len(), 1);
    assert!(has(&found["capabilities_plain"], "SASL PLAIN"));
    assert!(found.get("capabilities_tls").is_none());
}

#[test]
fn a_login_counts_the_messages_and_shows_no_password() {
    let lab = Lab::new();
    let server = over_tls(lab.good(), false);
    let login = lab.login();
    let (code, found) = lab.findings(&server.url("pop3s"), &login.each_ref().map(String::as_str));
    assert_eq!(code, 0, "{found:#}");
    let expected = format!("CAPA\r\nUSER joe\r\nPASS {SECRET}\r\nSTAT\r\nQUIT\r\n");
    assert_eq!(server.heard(), expected.as_bytes());
    assert_eq!(found["login"], serde_json::json!({ "user": "joe", "messages": 2, "octets": 320 }));
    assert!(!found.to_string().contains(SECRET));
}

#[test]
fn a_refused_login_has_its_own_exit_code_and_an_echo_is_withheld() {
    let lab = Lab::new();
    let server = over_tls(lab.good(), true);
    let ca = lab.path("ca.pem");
    let login = lab.login();
    let url = server.url("pop3s");
    let arguments = [&[url.as_str(), "--upstream-ca", &ca], login.each_ref().map(String::as_str).as_slice()].concat();
    let output = lab.probe(&arguments);
    assert_eq!(output.status.code(), Some(i32::from(exit::NO_PERMISSION)));
    assert!(server.heard().ends_with(format!("PASS {SECRET}\r\nQUIT\r\n").as_bytes()));
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(said.contains("cannot log in as `joe`") && said.contains("withheld"), "{said}");
    assert!(!said.contains(SECRET), "{said}");
}

#[test]
fn a_password_comes_from_standard_input() {
    let lab = Lab::new();
    let server = over_tls(lab.good(), false);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "exec \"$@\" < \"$0\"", &lab.path("password"), env!("CARGO_BIN_EXE_poptap"), "probe"]);
    shell.args([&server.url("pop3s"), "--upstream-ca", &lab.path("ca.pem"), "--user", "joe", "--password-file", "-"]);
    let output = run(&mut shell);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8(server.heard()).unwrap().contains(&format!("PASS {SECRET}\r\n")));
}

#[test]
fn a_password_that_is_typed_is_not_shown() {
    let lab = Lab::new();
    let server = over_tls(lab.good(), false);
    let (mut keyboard, terminal) = terminal();
    let mut probe = Command::new("setsid");
    probe.args(["--ctty", "--wait", env!("CARGO_BIN_EXE_poptap"), "probe", &server.url("pop3s"), "--user", "joe"]);
    probe.args(["--upstream-ca", &lab.path("ca.pem")]).env_clear().env("PATH", "/usr/bin:/bin");
    let mut child = probe.stdin(terminal).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (sender, screen) = channel();
    let mut display = keyboard.try_clone().unwrap();
    thread::spawn(move || {
        let mut some = [0; 256];
        // The terminal is gone with the last one who has it open.
        while let Ok(count) = display.read(&mut some) {
            let _ = sender.send(some[..count].to_vec());
        }
    });
    let mut seen = Vec::new();
    while !seen.ends_with(b"password for joe: ") {
        seen.extend(screen.recv_timeout(PATIENCE).expect("the password was asked for"));
    }
    keyboard.write_all(format!("{SECRET}\n").as_bytes()).unwrap();
    assert!(String::from_utf8(server.heard()).unwrap().contains(&format!("PASS {SECRET}\r\n")));
    while !seen.ends_with(b"\r\n") {
        seen.extend(screen.recv_timeout(PATIENCE).expect("the line was ended"));
    }
    let (sender, ended) = channel();
    thread::spawn(move || sender.send(child.wait()));
    assert!(ended.recv_timeout(PATIENCE).expect("the program ended").unwrap().success());
    assert_eq!(seen, b"password for joe: \r\n");
}

/// The two ends of a terminal: what a person types and sees, and what a program has.
fn terminal() -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = File::options()
        .read(true)
        .write(true)
        .custom_flags(OpenptFlags::NOCTTY.bits().cast_signed())
        .open(name.to_str().unwrap())
        .unwrap();
    (File::from(ours), theirs)
}

#[test]
fn a_file_that_others_may_read_is_warned_of() {
    let lab = Lab::new();
    for (mode, is_warned) in [(0o600, false), (0o640, true), (0o604, true)] {
        fs::set_permissions(lab.path("password"), fs::Permissions::from_mode(mode)).unwrap();
        let server = over_tls(lab.good(), false);
        let (ca, url, login) = (lab.path("ca.pem"), server.url("pop3s"), lab.login());
        let arguments = [&[url.as_str(), "--upstream-ca", &ca], login.each_ref().map(String::as_str).as_slice()].concat();
        let output = lab.probe(&arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && said.contains("others may read") == is_warned, "{mode:o}: {said}");
    }
}

#[test]
fn without_a_terminal_nobody_is_asked_for_a_password() {
    let lab = Lab::new();
    let server = over_tls(lab.good(), false);
    // In a session of its own the program has no terminal, wherever the tests run.
    let mut probe = Command::new("setsid");
    probe.args(["--wait", env!("CARGO_BIN_EXE_poptap"), "probe", &server.url("pop3s"), "--user", "joe"]);
    let output = run(&mut probe);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(i32::from(exit::IO)), "{said}");
    assert!(said.contains("--password-file"), "{said}");
}

#[test]
fn a_plain_login_off_loopback_is_not_even_tried() {
    let lab = Lab::new();
    let login = lab.login();
    let arguments = [&["pop3://192.0.2.1"], login.each_ref().map(String::as_str).as_slice()].concat();
    let output = lab.probe(&arguments);
    assert_eq!(output.status.code(), Some(i32::from(exit::USAGE)));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("--allow-plain-login") && output.stdout.is_empty(), "{said}");
}

#[test]
fn a_plain_login_on_loopback_is_tried() {
    let lab = Lab::new();
    let server = Server::once(|stream| answer(stream, true, false));
    let login = lab.login();
    let (code, found) = lab.findings(&server.url("pop3"), &login.each_ref().map(String::as_str));
    assert_eq!((code, &found["login"]["messages"]), (0, &2.into()), "{found:#}");
    assert!(found.get("tls").is_none() && has(&found["capabilities_plain"], "TOP"));
}

#[test]
fn what_keeps_a_server_from_answering_is_told_by_the_exit_code() {
    let lab = Lab::new();
    // Bound and not listening: nobody else can take the port meanwhile.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let nobody = socket.local_addr().unwrap().as_socket().unwrap();
    let (code, found) = lab.findings(&format!("pop3s://{nobody}"), &[]);
    assert_eq!((code, &found["error"]["code"]), (69, &"unreachable".into()), "{found:#}");

    let refusing = Server::once(|mut stream| {
        stream.write_all(b"-ERR [SYS/TEMP] full\r\n").unwrap();
        listen(stream)
    });
    let (code, found) = lab.findings(&refusing.url("pop3"), &[]);
    assert_eq!((code, &found["error"]["code"]), (69, &"upstream-refused".into()), "{found:#}");

    let wrong = lab.probe(&["mail.example.net"]);
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(wrong.status.code() == Some(i32::from(exit::USAGE)) && said.contains("pop3s://mail.example.net"), "{said}");
    let secret = lab.probe(&[&format!("pop3://joe:{SECRET}@mail")]);
    let said = String::from_utf8(secret.stderr).unwrap();
    assert!(secret.status.code() == Some(i32::from(exit::USAGE)) && !said.contains(SECRET), "{said}");
}

#[test]
fn a_file_lends_its_trust_to_the_server_that_is_named() {
    let lab = Lab::new();
    let issued = Authority::self_signed(&["other.example"], Validity::days(30)).unwrap();
    let facts = Certificate::parse(&issued.chain[0]).unwrap();
    let config = config(issued);
    let file = lab.folder.path().join("poptap.toml");
    for (settings, warned) in
        [(format!("pin = 'sha256:{}'", facts.key_fingerprint), 0), ("accept = ['self-signed', 'wrong-name']".to_owned(), 2)]
    {
        for by_name in [true, false] {
            let server = over_tls(Arc::clone(&config), false);
            let url = server.url("pop3s");
            // What is wrong with the listener does not matter here.
            let listener = "[[listener]]\naddress = ':1'\nupstream = 'nobody'\n";
            fs::write(&file, format!("[[upstream]]\nname = 'main'\nurl = '{url}'\n{settings}\n{listener}")).unwrap();
            let named = if by_name { "main" } else { &url };
            let output = lab.probe(&[named, "--json", "--config", file.to_str().unwrap()]);
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(output.status.success(), "{found:#}");
            assert_eq!(found["name_matches"], false);
            let accepted = texts(&found["warnings"]).iter().filter(|warning| warning.contains("are accepted")).count();
            assert_eq!(accepted, warned, "{found:#}");
        }
    }
    let output = lab.probe(&["mian", "--config", file.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(i32::from(exit::CONFIG)) && said.contains("did you mean `main`?"), "{said}");
}

/// Every key that is printed is described.
#[test]
fn the_keys_are_described() {
    let lab = Lab::new();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/probe.md")).unwrap();
    let mut keys = BTreeSet::new();
    let (good, bad) = (over_stls(lab.good()), over_tls(config(lab.issue(Validity::days(1))), true));
    let login = lab.login();
    let login = login.each_ref().map(String::as_str);
    gather(&lab.findings(&good.url("pop3+stls"), &login).1, &mut keys);
    gather(&lab.findings(&bad.url("pop3s"), &login).1, &mut keys);
    assert!(keys.len() > 35, "{keys:?}");
    for key in keys {
        assert!(page.contains(&format!("`{key}`")), "docs/probe.md does not name `{key}`");
    }
}

fn gather(value: &Value, keys: &mut BTreeSet<String>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                keys.insert(key.clone());
                gather(value, keys);
            }
        }
        Value::Array(elements) => elements.iter().for_each(|element| gather(element, keys)),
        _ => {}
    }
}
