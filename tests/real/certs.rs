//! From nothing to a TLS listener that curl accepts: `poptap certs`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::clients::{Login, curl_stat};
use crate::support::dovecot::{Dovecot, Mode};
use crate::support::process::{describe, run, run_unchecked};
use crate::support::proxy::{Proxy, poptap};
use crate::support::{certificates, scratch};

#[test]
fn curl_accepts_what_poptap_certs_has_made() {
    let home = scratch();
    let path = home.path();
    run(poptap(path).args(["certs", "ca"]));
    run(poptap(path).args(["certs", "issue", "localhost", "127.0.0.1"]));
    for key in ["ca.key", "localhost.key"] {
        assert_eq!(fs::metadata(path.join(key)).unwrap().permissions().mode() & 0o777, 0o600, "{key}");
    }
    let before = fs::read(path.join("localhost.key")).unwrap();
    let mut again = poptap(path);
    let output = run_unchecked(again.args(["certs", "issue", "localhost"]));
    assert!(!output.status.success(), "a key was replaced: {}", describe(&again, &output));
    assert_eq!(fs::read(path.join("localhost.key")).unwrap(), before);

    let dovecot = Dovecot::start();
    let text = format!(
        "[[upstream]]\nurl = '{}'\n[[listener]]\naddress = 'pop3s://127.0.0.1:0'\ncert = '{}'\nkey = '{}'\n",
        dovecot.url(Mode::Plain),
        path.join("localhost.pem").display(),
        path.join("localhost.key").display(),
    );
    fs::write(path.join("poptap.toml"), text).unwrap();
    let other = scratch();
    certificates::make_for_listener(other.path());
    let proxy = Proxy::start_from_file(home, 1, &[]);
    let authority = proxy.home().join("ca.pem");
    assert_eq!(curl_stat(Mode::Implicit, proxy.address(), None, &authority), Login::Accepted);
    let stranger = other.path().join(certificates::AUTHORITY);
    assert_eq!(curl_stat(Mode::Implicit, proxy.address(), None, &stranger), Login::Distrusted);
    proxy.stop();
}
