//! Listeners that speak TLS.

use std::path::Path;

use super::*;
use crate::tls::{Authority, Validity};

/// A certificate with its key, and the key of another.
fn certificates(days: u32) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("Test CA").unwrap();
    for name in ["pop", "other"] {
        let issued = authority.issue(&[&format!("{name}.example.net")], Validity::days(days)).unwrap();
        fs::write(directory.path().join(format!("{name}.pem")), &issued.chain_pem).unwrap();
        fs::write(directory.path().join(format!("{name}.key")), &*issued.key_pem()).unwrap();
        fs::write(directory.path().join(format!("{name}.both")), format!("{}{}", *issued.key_pem(), issued.chain_pem)).unwrap();
    }
    fs::write(directory.path().join("ca.pem"), authority.pem()).unwrap();
    fs::write(directory.path().join("ca.key"), &*authority.key_pem()).unwrap();
    directory
}

fn path(directory: &tempfile::TempDir, name: &str) -> PathBuf {
    directory.path().join(name)
}

fn first(config: &Config) -> (&Listener, &ServerTls) {
    (&config.listeners[0], config.listeners[0].server_tls.as_ref().unwrap())
}

fn flags(listen: &str, cert: &Path, key: Option<&Path>) -> String {
    let key = key.map(|key| format!("--key {}", key.display())).unwrap_or_default();
    format!("pop3://192.0.2.1 --listen {listen} --cert {} {key}", cert.display())
}

#[test]
fn a_certificate_and_its_key_come_from_one_file_or_two() {
    let directory = certificates(30);
    let (cert, key, both) = (path(&directory, "pop.pem"), path(&directory, "pop.key"), path(&directory, "pop.both"));
    for (arguments, expected) in [
        (flags("pop3s://995", &cert, Some(&key)), KeyPair { cert: cert.clone(), key: key.clone() }),
        (flags("pop3s://995", &both, None), KeyPair { cert: both.clone(), key: both.clone() }),
    ] {
        let config = config(None, &arguments);
        let (listener, tls) = first(&config);
        assert_eq!((listener.tls, &tls.chains), (TlsMode::Implicit, &vec![expected]));
    }
}

#[test]
fn a_login_that_cannot_be_plain_needs_nobodys_word() {
    let directory = certificates(30);
    let both = path(&directory, "pop.both");
    for (listen, more, allowed) in [
        ("pop3s://:995", "", Some(AllowFrom::Any)),
        ("pop3+stls://:110", "--require-tls", Some(AllowFrom::Any)),
        ("pop3+stls://:110", "", None),
        ("pop3+stls://:110", "--allow-from any", Some(AllowFrom::Any)),
        ("pop3+stls://110", "", Some(AllowFrom::Loopback)),
    ] {
        let loaded = load_words(None, &format!("{} {more}", flags(listen, &both, None)));
        match (loaded, allowed) {
            (Ok(loaded), Some(allowed)) => {
                assert_eq!(loaded.config.listeners[0].allow_from, allowed, "{listen} {more}");
                assert_eq!(loaded.warnings.len(), usize::from(more.contains("any")), "{listen} {more}: {:?}", loaded.warnings);
            }
            (Err(said), None) => assert!(said.contains("would let everybody log in without encryption"), "{said}"),
            (loaded, _) => panic!("{listen} {more}: {loaded:?}"),
        }
    }
}

#[test]
fn everything_of_the_file_is_read_and_written_again() {
    let directory = certificates(30);
    let file = |name| format!("{:?}", path(&directory, name));
    let text = format!(
        "{UPSTREAM}[[listener]]\naddress = 'pop3+stls://2110'\ntls = 'required'\ncert = {}\nkey = {}\ncerts = [{{ cert = {} }}]\n\
         mint = {{ ca = {}, key = {} }}\nmin_tls = '1.3'\nclient_ca = {}\nclient_cert = 'optional'\n",
        file("pop.pem"),
        file("pop.key"),
        file("other.both"),
        file("ca.pem"),
        file("ca.key"),
        file("ca.pem"),
    );
    let loaded = config(Some(&text), "");
    let (listener, tls) = first(&loaded);
    assert_eq!(
        (listener.demand, tls.min_version, tls.client_cert),
        (TlsDemand::Required, TlsVersion::Tls13, ClientCert::Optional)
    );
    assert_eq!((tls.chains.len(), &tls.chains[1].key), (2, &path(&directory, "other.both")));
    assert_eq!(tls.mint, Some(KeyPair { cert: path(&directory, "ca.pem"), key: path(&directory, "ca.key") }));
    assert_eq!(config(Some(&effective(&loaded).unwrap()), ""), loaded);
}

#[test]
fn what_does_not_fit_a_listeners_tls_is_told() {
    let directory = certificates(30);
    let (cert, other, both) = (path(&directory, "pop.pem"), path(&directory, "other.key"), path(&directory, "pop.both"));
    for (arguments, said) in [
        ("pop3://mail --listen pop3s://995".to_owned(), "has no certificate"),
        (flags("pop3s://995", &cert, Some(&other)), "key"),
        (flags("pop3s://995", &cert, None), "private key"),
        (flags("pop3s://995", Path::new("/nowhere.pem"), None), "/nowhere.pem"),
        (flags("995", &both, None), "every listener is plain"),
        ("pop3://mail --require-tls".to_owned(), "cannot require TLS"),
    ] {
        let fault = load_words(None, &arguments).unwrap_err();
        assert!(fault.contains(said) && fault.contains("hint"), "{arguments}: {fault}");
    }
    let plain = format!("{UPSTREAM}[[listener]]\naddress = '2110'\ncert = '/nowhere.pem'\n");
    assert_eq!(faults(&plain, ""), ["p.toml:4:11: the listener 127.0.0.1:2110 is plain, and has no use for `cert`"]);
    let trusting = format!("{UPSTREAM}[[listener]]\naddress = 'pop3s://995'\ncert = {both:?}\nclient_cert = 'optional'\n");
    assert!(faults(&trusting, "")[0].ends_with("and trusts nobody's"));
}

#[test]
fn secrets_on_a_file_are_warned_of_and_only_the_command_line_asks_for_them() {
    let loaded = load_words(None, "pop3s://mail --keylog k.log").unwrap();
    assert!(loaded.warnings[0].contains("`k.log`"), "{:?}", loaded.warnings);
    assert!(effective(&loaded.config).unwrap().starts_with("# with --keylog k.log on the command line\n"));
    assert!(load_words(Some(&format!("keylog = 'k.log'\n{UPSTREAM}")), "").is_err());
}
