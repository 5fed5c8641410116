//! Certificates that clients present, by Python's `ssl`.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use crate::support::clients::{isolated, private_file};
use crate::support::dovecot::{Dovecot, Mode};
use crate::support::process::run_unchecked;
use crate::support::proxy::Proxy;
use crate::support::{PASSWORD, USER, certificates, scratch};

/// Who a client says that it is.
#[derive(Clone, Copy, Debug)]
enum Presents {
    Nothing,
    /// A certificate by the authority that poptap asks for.
    Known,
    /// One by another authority.
    Unknown,
}

#[test]
fn a_certificate_is_asked_for_or_demanded_and_its_subject_recorded() {
    let dovecot = Dovecot::start();
    for hop in [Mode::Implicit, Mode::Stls] {
        for (demand, presents, enters) in [
            ("required", Presents::Known, true),
            ("required", Presents::Nothing, false),
            ("required", Presents::Unknown, false),
            ("optional", Presents::Known, true),
            ("optional", Presents::Nothing, true),
            ("optional", Presents::Unknown, false),
        ] {
            let what = format!("{demand}, {presents:?}, over {hop:?}");
            let proxy = start(&dovecot, hop, demand);
            assert_eq!(log_in(&proxy, hop, presents), enters, "{what}");
            let transcript = proxy.stop();
            let session = transcript.only_session();
            assert_eq!(session["logged_in"], enters, "{what}: {session:#}");
            let logins = transcript.keywords().into_iter().filter(|keyword| ["USER", "PASS"].contains(keyword)).count();
            assert_eq!(logins, if enters { 2 } else { 0 }, "{what}");
            let subjects: Vec<_> =
                transcript.of_kind("tls").filter(|tls| tls["hop"] == "client").map(|tls| &tls["subject"]).collect();
            match (enters, presents) {
                (true, Presents::Known) => assert_eq!(subjects, ["CN=tim's laptop"], "{what}"),
                (true, _) => assert!(subjects.len() == 1 && subjects[0].is_null(), "{what}: {subjects:?}"),
                (false, _) => {
                    assert!(subjects.is_empty(), "{what}: {subjects:?}");
                    assert!(!session["verdict"].as_str().unwrap().is_empty(), "{what}: {session:#}");
                }
            }
        }
    }
}

/// One listener with TLS that knows an authority for clients.
fn start(dovecot: &Dovecot, hop: Mode, demand: &str) -> Proxy {
    let home = scratch();
    let path = home.path();
    certificates::make_for_listener(path);
    fs::write(path.join("clients.pem"), make_client(path, "known")).unwrap();
    make_client(path, "unknown");
    let text = format!(
        "[[upstream]]\nurl = '{}'\n[[listener]]\naddress = '{}://127.0.0.1:0'\nclient_ca = '{}'\nclient_cert = '{demand}'\n{}",
        dovecot.url(Mode::Plain),
        hop.scheme(),
        path.join("clients.pem").display(),
        certificates::settings(path),
    );
    fs::write(path.join("poptap.toml"), text).unwrap();
    Proxy::start_from_file(home, 1, &[])
}

/// Make an authority for clients, and a client's certificate and key in one file; return the authority's certificate.
fn make_client(directory: &Path, name: &str) -> String {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, format!("{name} authority for clients"));
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut client = CertificateParams::default();
    client.distinguished_name = rcgen::DistinguishedName::new();
    client.distinguished_name.push(DnType::CommonName, "tim's laptop");
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = client.signed_by(&key, &Issuer::from_params(&authority, &authority_key)).unwrap();
    private_file(directory, name, &format!("{}{}", certificate.pem(), key.serialize_pem()));
    authority_certificate.pem()
}

/// Log in and out. With TLS 1.3 a client learns only behind the handshake that its certificate is refused.
const LOGIN: &str = r#"
import poplib, ssl, sys
host, port, user, password, how, authority, certificate = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
if certificate:
    context.load_cert_chain(certificate)
try:
    if how == "implicit":
        client = poplib.POP3_SSL(host, int(port), timeout=60, context=context)
    else:
        client = poplib.POP3(host, int(port), timeout=60)
        client.stls(context)
        client.capa()
except (ssl.SSLError, ConnectionError, poplib.error_proto) as error:
    print("turned away:", error)
    sys.exit(3)
client.user(user)
client.pass_(password)
client.stat()
client.quit()
"#;

/// Whether the login works; anything but that and a refusal by TLS fails.
fn log_in(proxy: &Proxy, hop: Mode, presents: Presents) -> bool {
    let certificate = match presents {
        Presents::Nothing => String::new(),
        Presents::Known => proxy.home().join("known").display().to_string(),
        Presents::Unknown => proxy.home().join("unknown").display().to_string(),
    };
    let home = scratch();
    let mut command = isolated("python3", home.path());
    let address = proxy.address();
    command.args(["-c", LOGIN, &address.ip().to_string(), &address.port().to_string(), USER, PASSWORD, hop.name()]);
    let output = run_unchecked(command.arg(proxy.authority()).arg(certificate));
    match output.status.code() {
        Some(0) => true,
        Some(3) => false,
        _ => panic!("{}", crate::support::process::describe(&command, &output)),
    }
}
