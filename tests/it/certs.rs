//! `poptap certs`: what it writes, whom that convinces, and what it leaves alone.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Output},
    thread,
};

use poptap::tls::{Certificate, Client, Trust, pem, server_config};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::support::outside::{self, command, run};

/// What it said, when all went well.
fn certs(folder: &Path, arguments: &str) -> String {
    let output = attempt(folder, arguments);
    assert!(output.status.success(), "{arguments}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn attempt(folder: &Path, arguments: &str) -> Output {
    run(command(folder).current_dir(folder).arg("certs").args(arguments.split(' ')))
}

/// The exit code and what was said.
fn refusal(folder: &Path, arguments: &str) -> (i32, String) {
    let output = attempt(folder, arguments);
    assert!(output.stdout.is_empty(), "{arguments}: {}", text(&output.stdout));
    (output.status.code().unwrap(), text(&output.stderr))
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// A folder with an authority in it.
fn with_authority(options: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    certs(folder.path(), format!("ca {options}").trim_end());
    folder
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn certificate(path: &Path) -> Certificate {
    Certificate::parse(&pem::certificates(path).unwrap()[0]).unwrap()
}

fn in_days(days: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc() + Duration::days(days)
}

fn is_about(moment: OffsetDateTime, other: OffsetDateTime) -> bool {
    (moment - other).abs() < Duration::MINUTE
}

/// Whether a client that trusts this authority accepts a server with this certificate under this name.
fn accepts(ca: &Path, cert: &Path, key: &Path, name: &str) -> Result<(), String> {
    let config = server_config(pem::certificates(cert).unwrap(), pem::private_key(key).unwrap()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || outside::listen(outside::tls(listener.accept().unwrap().0, &config)));
    let client = Client::new(&Trust::file(ca).unwrap(), name).unwrap();
    let handshake = async {
        let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        tokio::time::timeout(outside::PATIENCE, client.handshake(tcp)).await.expect("the handshake did not end")
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = runtime.block_on(handshake).map(drop).map_err(|error| error.to_string());
    server.join().unwrap();
    result
}

// ── what is made ──

#[test]
fn an_authority_is_one_and_may_sign_servers_only() {
    let folder = tempfile::tempdir().unwrap();
    let said = certs(folder.path(), "ca --name Ours --days 20");
    assert_eq!(files(folder.path()), ["ca.key", "ca.pem"]);
    let made = certificate(&folder.path().join("ca.pem"));
    assert_eq!((&*made.subject, made.self_signed), ("CN=Ours", true));
    assert!(is_about(made.not_after, in_days(20)) && made.not_before < OffsetDateTime::now_utc(), "{made}");
    let der = pem::certificates(&folder.path().join("ca.pem")).unwrap();
    let (_, parsed) = X509Certificate::from_der(&der[0]).unwrap();
    let constraints = parsed.basic_constraints().unwrap().unwrap().value;
    assert!(constraints.ca && constraints.path_len_constraint == Some(0));
    let day = made.not_after.date().to_string();
    assert!(said.contains(&format!("wrote ca.pem: the authority `Ours`, valid until {day}")), "{said}");
    assert!(said.contains("\n  poptap certs issue pop.example.net --ca ca.pem\n"), "{said}");
}

#[test]
fn a_certificate_has_the_names_and_dates_that_were_asked_for() {
    let folder = with_authority("");
    let said = certs(folder.path(), "issue POP.Example.NET. 192.0.2.7 2001:db8:0::7 *.example.net pop.example.net --days 30");
    let (pem, key) = (folder.path().join("pop.example.net.pem"), folder.path().join("pop.example.net.key"));
    let made = certificate(&pem);
    assert_eq!(made.subject, "CN=pop.example.net");
    assert_eq!(made.issuer, "CN=poptap private CA");
    assert_eq!(made.names, ["pop.example.net", "192.0.2.7", "2001:db8::7", "*.example.net"]);
    assert!(is_about(made.not_after, in_days(30)), "{made}");
    let chain = pem::certificates(&pem).unwrap();
    assert_eq!(chain[1..], pem::certificates(&folder.path().join("ca.pem")).unwrap());
    for line in [
        format!("wrote pop.example.net.pem: for {}, valid until {}\n", made.names.join(", "), made.not_after.date()),
        "\n  poptap run URL --listen pop3s://:995 --cert pop.example.net.pem --key pop.example.net.key\n".to_owned(),
        "\n  curl --cacert ca.pem pop3s://pop.example.net\n".to_owned(),
    ] {
        assert!(said.contains(&line), "{line} in {said}");
    }
    assert!(key.exists());
}

#[test]
fn two_certificates_of_one_authority_differ_in_key_and_serial_number() {
    let folder = with_authority("");
    certs(folder.path(), "issue one.example");
    certs(folder.path(), "issue two.example");
    let [one, two] = ["one", "two"].map(|name| pem::certificates(&folder.path().join(format!("{name}.example.pem"))).unwrap());
    let [one, two] = [&one, &two].map(|chain| X509Certificate::from_der(&chain[0]).unwrap().1);
    assert_ne!(one.raw_serial(), two.raw_serial());
    assert_ne!(one.public_key(), two.public_key());
}

#[test]
fn clients_that_trust_the_authority_accept_the_server_under_its_names_only() {
    let folder = with_authority("");
    certs(folder.path(), "issue pop.example.net *.home.example 127.0.0.1 --cert server.crt --key private.pem");
    let [ca, cert, key] = ["ca.pem", "server.crt", "private.pem"].map(|name| folder.path().join(name));
    for name in ["pop.example.net", "any.home.example", "127.0.0.1"] {
        accepts(&ca, &cert, &key, name).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for name in ["mail.example.net", "home.example", "a.b.home.example", "127.0.0.2"] {
        accepts(&ca, &cert, &key, name).expect_err(name);
    }
    let other = with_authority("");
    accepts(&other.path().join("ca.pem"), &cert, &key, "pop.example.net").expect_err("another authority of the same name");
}

/// What rustls does here, OpenSSL and curl do too.
#[test]
fn a_wildcard_that_no_client_accepts_is_warned_of() {
    let folder = with_authority("");
    let output = attempt(folder.path(), "issue *.lan");
    assert!(output.status.success());
    assert!(text(&output.stderr).starts_with("warning: most clients refuse `*.lan`"), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("curl --cacert ca.pem pop3s://mail.lan\n"));
    let [ca, cert, key] = ["ca.pem", "_.lan.pem", "_.lan.key"].map(|name| folder.path().join(name));
    accepts(&ca, &cert, &key, "mail.lan").expect_err("then the warning is wrong");
    let silent = attempt(folder.path(), "issue *.home.lan");
    assert_eq!(text(&silent.stderr), "");
}

#[test]
fn no_certificate_outlives_its_authority() {
    let folder = with_authority("--days 10");
    let said = certs(folder.path(), "issue pop.example.net");
    let [authority, made] = ["ca.pem", "pop.example.net.pem"].map(|name| certificate(&folder.path().join(name)));
    assert_eq!(made.not_after, authority.not_after);
    assert!(said.contains(&format!("valid until {}, when the authority ends\n", authority.not_after.date())), "{said}");
}

// ── files ──

/// As wide as the umask allows them to be.
#[test]
fn keys_are_their_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        "ca --out new/folder",
        "issue a.example --ca new/folder/ca.pem",
        "issue b.example --ca new/folder/ca.pem --cert b --key k/k",
    ] {
        let script = format!("umask 000 && exec {} certs {arguments}", env!("CARGO_BIN_EXE_poptap"));
        let output = run(Command::new("sh").args(["-c", &script]).current_dir(folder.path()));
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    for (name, mode) in
        [("new/folder/ca.key", 0o600), ("a.example.key", 0o600), ("k/k", 0o600), ("new/folder/ca.pem", 0o644), ("b", 0o644)]
    {
        let found = fs::metadata(folder.path().join(name)).unwrap();
        assert_eq!((found.permissions().mode() & 0o7777, found.nlink()), (mode, 1), "{name}");
    }
}

#[test]
fn nothing_is_overwritten() {
    for (taken, free) in [("ca.pem", "ca.key"), ("ca.key", "ca.pem")] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(taken), "mine").unwrap();
        let (code, said) = refusal(folder.path(), "ca");
        assert!(code == 73 && said.contains(&format!("cannot write `{taken}`: it exists\n  hint: ")), "{code} {said}");
        assert_eq!(fs::read_to_string(folder.path().join(taken)).unwrap(), "mine");
        assert!(!folder.path().join(free).exists());
    }
    let folder = with_authority("");
    certs(folder.path(), "issue pop.example.net");
    let before: Vec<_> = files(folder.path()).iter().map(|name| fs::read(folder.path().join(name)).unwrap()).collect();
    for again in ["ca", "issue pop.example.net", "issue x --cert ca.pem --key x.key", "issue x --cert x.pem --key ca.key"] {
        assert_eq!(refusal(folder.path(), again).0, 73, "{again}");
    }
    let after: Vec<_> = files(folder.path()).iter().map(|name| fs::read(folder.path().join(name)).unwrap()).collect();
    assert_eq!(before, after);
}

/// Who can plant a link must not choose where the key goes.
#[test]
fn a_link_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    symlink(folder.path().join("elsewhere"), folder.path().join("ca.key")).unwrap();
    assert_eq!(refusal(folder.path(), "ca").0, 73);
    assert_eq!(files(folder.path()), ["ca.key"]);
}

/// Nothing may be written where more than this number of octets would be in a file: as on a disk that is full.
#[test]
fn a_disk_without_room_is_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    // `ulimit -f` counts blocks of 512 octets: with one, the key fits and the certificate does not.
    for blocks in [0, 1] {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec {} certs ca", env!("CARGO_BIN_EXE_poptap"));
        let output = run(Command::new("dash").args(["-c", &script]).current_dir(folder.path()));
        assert_eq!(output.status.code(), Some(73), "{}", text(&output.stderr));
        let file = if blocks == 0 { "ca.key" } else { "ca.pem" };
        let said = text(&output.stderr);
        assert!(said.contains(&format!("cannot write `{file}`: File too large")) && said.contains("hint:"), "{said}");
        assert_eq!(files(folder.path()), Vec::<String>::new());
    }
}

#[test]
fn a_place_that_cannot_be_written_to_is_named() {
    let folder = with_authority("");
    for (arguments, place) in [
        ("ca --out /proc/nowhere", "/proc/nowhere/ca.key"),
        ("ca --out ca.pem/below", "ca.pem/below/ca.key"),
        ("issue x --cert x.pem --key /proc/nowhere/x.key", "/proc/nowhere/x.key"),
        ("issue x --cert /proc/nowhere/x.pem --key x.key", "/proc/nowhere/x.pem"),
    ] {
        let (code, said) = refusal(folder.path(), arguments);
        assert!(code == 73 && said.contains(&format!("cannot write `{place}`: ")), "{arguments}: {code} {said}");
    }
    assert_eq!(files(folder.path()), ["ca.key", "ca.pem"]);
}

// ── mistakes ──

#[test]
fn what_is_no_name_leaves_nothing_behind() {
    let folder = with_authority("");
    for name in ["pop3s://pop.example.net", "pop.example.net:995", "../x", "a..b", "192.0.2.256", "m\u{fc}ller.example", "*"] {
        let (code, said) = refusal(folder.path(), &format!("issue good.example {name}"));
        assert!(code == 64 && said.contains(name) && said.contains("\n  hint: "), "{code} {said}");
    }
    let (code, said) = refusal(folder.path(), "issue x --cert same --key same");
    assert!(code == 64 && said.contains("same file"), "{said}");
    assert_eq!(refusal(folder.path(), &format!("ca --out new --name {}", "x".repeat(65))).0, 64);
    assert_eq!(files(folder.path()), ["ca.key", "ca.pem"]);
}

#[test]
fn an_authority_that_cannot_issue_is_named() {
    let folder = with_authority("");
    certs(folder.path(), "issue leaf.example");
    certs(folder.path(), "ca --out other");
    fs::write(folder.path().join("rubbish.pem"), "rubbish").unwrap();
    for (authority, named) in [
        ("--ca nowhere.pem", "nowhere.pem"),
        ("--ca rubbish.pem --ca-key ca.key", "rubbish.pem"),
        ("--ca-key rubbish.pem", "rubbish.pem"),
        ("--ca-key nowhere.key", "nowhere.key"),
        ("--ca-key other/ca.key", "ca.pem"),
        ("--ca leaf.example.pem", "leaf.example.pem"),
    ] {
        let (code, said) = refusal(folder.path(), &format!("issue pop.example.net {authority}"));
        assert!(code == 78 && said.contains(named) && said.contains("\n  hint: "), "{authority}: {code} {said}");
    }
    assert!(!folder.path().join("pop.example.net.pem").exists() && !folder.path().join("pop.example.net.key").exists());
}
