//! Clients that know nothing of poptap, on a router between them and Dovecot: by redirect, by TPROXY, over IPv4 and IPv6.
//!
//! The firewall's rules are those that `poptap intercept show-rules` prints, and no others, unless it says so.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::support::dovecot::Dovecot;
use crate::support::network::{FAMILIES, Host, Network, ROUTER, authority};
use crate::support::process::run_unchecked;
use crate::support::proxy::{Proxy, poptap_in};
use crate::support::transcript::Transcript;
use crate::support::{PASSWORD, USER, scratch};

#[test]
fn redirected_clients_reach_whom_they_wanted() {
    let lab = Lab::new();
    let proxy = lab.proxy(1, "address = ':1110'\ntransparent = 'redirect'\nupstream = 'original'\notherwise = 'plain'\n", &[]);
    for [_, router, server] in FAMILIES {
        lab.fetches(&format!("pop3://{}", authority(server, 110)), &[]);
        // The server sees the router: the redirect alone does not keep the client's address.
        lab.dovecot.wait_for_log(&["Login: ", &format!("rip={router},")]);
    }
    let transcript = proxy.stop();
    for ([client, _, server], session) in FAMILIES.into_iter().zip(sessions(&transcript, 2)) {
        assert_eq!(session["destination"], authority(server, 110), "{session:#}");
        assert!(session["client"].as_str().unwrap().contains(client), "{session:#}");
        assert_eq!((&session["logged_in"], &session["reason"]), (&Value::Bool(true), &Value::from("quit")), "{session:#}");
        let host = if server.contains(':') { format!("[{server}]") } else { server.to_owned() };
        assert_eq!(session["upstream"], format!("pop3://{host}"), "{session:#}");
    }
    let opened: Vec<_> = transcript.of_kind("opened").map(|event| event["destination"].clone()).collect();
    assert_eq!(opened, FAMILIES.map(|[_, _, server]| authority(server, 110)));
}

#[test]
fn tls_is_added_and_the_name_verified_at_the_address_that_was_wanted() {
    let lab = Lab::new();
    let upstreams = format!(
        "[[upstream]]\nname = 'there'\nurl = 'pop3+stls://localhost'\nca_file = '{0}'\n[[upstream]]\nname = 'secure'\nurl = \
         'pop3s://10.77.2.2'\nserver_name = 'localhost'\nca_file = '{0}'\n[[upstream]]\nname = 'wrong'\nurl = \
         'pop3+stls://pop.example.net'\nca_file = '{0}'\n",
        lab.dovecot.authority().display()
    );
    let listener = "address = ':1110'\ntransparent = 'redirect'\nupstream = 'original'\ndestinations = [\
                    { to = '10.77.2.2', port = 110, upstream = 'there', dial = 'original' },\
                    { to = 'fd77:2::/64', port = 110, upstream = 'secure' },\
                    { to = '10.77.2.3', upstream = 'wrong', dial = 'original' },\
                    ]\n";
    lab.network.sh(Host::Server, "ip addr add 10.77.2.3/24 dev net0");
    let proxy = lab.proxy_with(1, &format!("{upstreams}[[listener]]\n{listener}"), &["--port", "110"]);
    for [_, _, server] in FAMILIES {
        lab.fetches(&format!("pop3://{}", authority(server, 110)), &[]);
    }
    // Its certificate is not for that name: no login goes there, in clear or otherwise.
    assert!(!lab.curl("pop3://10.77.2.3:110", &[]).status.success());
    let transcript = proxy.stop();
    let sessions = sessions(&transcript, 3);
    assert_eq!((&sessions[0]["upstream"], &sessions[1]["upstream"]), (&Value::from("there"), &Value::from("secure")));
    for session in &sessions[..2] {
        assert_eq!((&session["logged_in"], session["client_tls"].is_null()), (&Value::Bool(true), true), "{session:#}");
        assert!(session["upstream_tls"].is_string(), "{session:#}");
    }
    assert_eq!((&sessions[2]["reason"], &sessions[2]["commands"]), (&Value::from("upstream-tls"), &Value::from(0)));
}

#[test]
fn what_must_not_be_carried_is_refused_and_said() {
    let lab = Lab::new();
    let entries =
        "destinations = [{ to = '10.77.2.0/24', port = 995, upstream = 'pop3://10.77.2.2' }]\nallow_to = ['10.77.0.0/16']\n";
    let text = format!(
        "[[listener]]\naddress = ':1110'\nallow_from = ['any']\ntransparent = 'redirect'\nupstream = 'original'\n{entries}\
         [[listener]]\naddress = ':2110'\nallow_from = ['any']\nupstream = 'pop3://10.77.2.2'\n"
    );
    let mut proxy = lab.proxy_with(2, &text, &["--port", "110"]);
    for (rules, url, reason, said) in [
        ("", "pop3://10.77.2.2:110", "destination-refused", "`destinations` has no entry"),
        ("", "pop3://[fd77:2::2]:110", "destination-refused", "not in `allow_to`"),
        ("", "pop3://10.77.1.1:1110", "not-redirected", "the firewall's rule is missing"),
        // Rules that lead poptap's own listener to another one of its own.
        (LOOP, "pop3://10.77.1.1:2110", "loop", "that would be a loop"),
    ] {
        lab.network.sh(Host::Router, &format!("nft -f - <<'RULES'\n{rules}\nRULES"));
        let refused = lab.curl(url, &[]);
        assert!(!refused.status.success(), "{url}");
        let line = proxy.wait_for_log(&[said]);
        assert!(line.contains("WARN"), "{line}");
        proxy.wait_for_log(&[reason]);
    }
    let transcript = proxy.stop();
    for session in sessions(&transcript, 4) {
        assert_eq!((&session["commands"], &session["closed_by"]), (&Value::from(0), &Value::from("poptap")), "{session:#}");
    }
}

const LOOP: &str = "table inet astray {
    chain astray {
        type nat hook prerouting priority -101; policy accept;
        tcp dport 2110 redirect to :1110
    }
}";

#[test]
fn by_tproxy_the_server_sees_the_client_itself() {
    let lab = Lab::new();
    let listener = "address = ':1110'\ntransparent = 'tproxy'\nupstream = 'original'\notherwise = 'plain'\nsource = 'client'\n";
    let mut proxy = lab.proxy(1, listener, &["--interface", "lan0"]);
    for [client, _, server] in FAMILIES {
        lab.fetches(&format!("pop3://{}", authority(server, 110)), &[]);
        lab.dovecot.wait_for_log(&["Login: ", &format!("rip={client},"), &format!("lip={server}")]);
    }
    // Who connects to the router itself is told so.
    assert!(!lab.curl(&format!("pop3://{}", authority(ROUTER[0], 1110)), &[]).status.success());
    proxy.wait_for_log(&["the firewall's rules and the route are missing"]);
    let transcript = proxy.stop();
    for ([_, _, server], session) in FAMILIES.into_iter().zip(sessions(&transcript, 3)) {
        assert_eq!((&session["destination"], &session["logged_in"]), (&authority(server, 110).into(), &Value::Bool(true)));
    }
}

#[test]
fn a_redirect_can_keep_the_client_s_address_too() {
    let lab = Lab::new();
    let listener = "address = ':1110'\ntransparent = 'redirect'\nupstream = 'original'\notherwise = 'plain'\nsource = 'client'\n";
    let proxy = lab.proxy(1, listener, &[]);
    for [client, _, server] in FAMILIES {
        lab.fetches(&format!("pop3://{}", authority(server, 110)), &[]);
        lab.dovecot.wait_for_log(&["Login: ", &format!("rip={client},")]);
    }
    sessions(&proxy.stop(), 2);
}

#[test]
fn the_rules_are_taken_back() {
    let lab = Lab::new();
    let listener = "address = ':1110'\ntransparent = 'tproxy'\nupstream = 'original'\notherwise = 'plain'\n";
    let before = lab.firewall();
    let proxy = lab.proxy(1, listener, &[]);
    // Made twice, they are there once.
    lab.rules(&[]);
    assert_ne!(lab.firewall(), before);
    lab.rules(&["--undo"]);
    assert_eq!(lab.firewall(), before);
    let [client, _, server] = FAMILIES[0];
    lab.fetches(&format!("pop3://{}", authority(server, 110)), &[]);
    lab.dovecot.wait_for_log(&["Login: ", &format!("rip={client},")]);
    assert!(proxy.stop_for_log().lines().all(|line| !line.contains("session opened")));
}

#[test]
fn tls_is_carried_unread() {
    let lab = Lab::new();
    let listener = "address = ':1995'\ntls = 'pass'\ntransparent = 'redirect'\nupstream = 'original'\notherwise = 'plain'\n";
    let proxy = lab.proxy(1, listener, &[]);
    let ca = lab.dovecot.authority().to_str().unwrap();
    for [_, _, server] in FAMILIES {
        let server = if server.contains(':') { format!("[{server}]") } else { server.to_owned() };
        lab.fetches("pop3s://localhost:995", &["--cacert", ca, "--connect-to", &format!("localhost:995:{server}:995")]);
    }
    let transcript = proxy.stop();
    for session in sessions(&transcript, 2) {
        assert_eq!(session["opaque"], "tls-passed", "{session:#}");
        assert!(session["client_octets"].as_u64() > Some(500) && session["upstream_octets"].as_u64() > Some(500), "{session:#}");
        assert_eq!((&session["client_tls"], &session["upstream_tls"]), (&"TLSv1.3".into(), &"TLSv1.3".into()), "{session:#}");
    }
    let hops: Vec<_> = transcript.of_kind("tls").filter(|event| event["hop"] == "client").collect();
    assert_eq!(hops.len(), 2);
    for tls in hops {
        assert_eq!((&tls["mode"], &tls["sni"]), (&"pass".into(), &"localhost".into()), "{tls:#}");
        assert!(tls["offered"].as_array().unwrap().contains(&"TLSv1.2".into()), "{tls:#}");
    }
}

#[test]
fn without_the_right_to_it_tproxy_does_not_start() {
    let lab = Lab::new();
    let home = configured(
        "[[listener]]\naddress = ':1110'\nallow_from = ['any']\ntransparent = 'tproxy'\nupstream = 'original'\notherwise = 'plain'\n[transcript]\nenabled = false\n",
    );
    // Nobody in particular has to read it.
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = lab.network.command(Host::Router, "setpriv", home.path());
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", env!("CARGO_BIN_EXE_poptap"), "run", "--config"]);
    let output = run_unchecked(command.arg(home.path().join("poptap.toml")));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("CAP_NET_ADMIN"), "{said}");
}

/// The network, with Dovecot at its end.
struct Lab {
    // Stopped before its host goes.
    dovecot: Dovecot,
    network: Network,
    home: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let network = Network::new();
        let dovecot = Dovecot::start_on(&network, Host::Server);
        Self { dovecot, network, home: scratch() }
    }

    /// poptap on the router with one listener that takes everybody, and its rules.
    fn proxy(&self, listeners: usize, listener: &str, rules: &[&str]) -> Proxy {
        self.proxy_with(listeners, &format!("[[listener]]\n{listener}"), rules)
    }

    fn proxy_with(&self, listeners: usize, text: &str, rules: &[&str]) -> Proxy {
        let text = if text.contains("allow_from") {
            text.to_owned()
        } else {
            text.replace("transparent", "allow_from = ['any']\ntransparent")
        };
        let home = configured(&text);
        fs::copy(home.path().join("poptap.toml"), self.home.path().join("poptap.toml")).unwrap();
        self.rules(rules);
        Proxy::start_on(&self.network, Host::Router, home, listeners)
    }

    /// Does on the router what `poptap intercept show-rules` prints.
    fn rules(&self, options: &[&str]) {
        let mut command = poptap_in(&self.network, Host::Router, self.home.path());
        command.args(["intercept", "show-rules", "--config"]).arg(self.home.path().join("poptap.toml")).args(options);
        let printed = run_unchecked(&mut command);
        assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        self.network.sh(Host::Router, &String::from_utf8(printed.stdout).unwrap());
    }

    fn firewall(&self) -> String {
        self.network
            .sh(Host::Router, "nft list ruleset; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all")
    }

    /// Lets the client list its mailbox, which has to work.
    fn fetches(&self, url: &str, options: &[&str]) {
        let output = self.curl(url, options);
        assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.stdout.is_empty(), "{url}: an empty listing");
    }

    fn curl(&self, url: &str, options: &[&str]) -> Output {
        let mut command = self.network.command(Host::Client, "curl", Path::new("/"));
        command.args(["--silent", "--show-error", "--max-time", "30", "--user", &format!("{USER}:{PASSWORD}"), url]);
        run_unchecked(command.args(options))
    }
}

/// The summaries, in their order.
fn sessions(transcript: &Transcript, count: usize) -> Vec<Value> {
    assert_eq!(transcript.sessions.len(), count, "{:#?}", transcript.sessions);
    transcript.sessions.clone()
}

fn configured(text: &str) -> tempfile::TempDir {
    let home = scratch();
    fs::write(home.path().join("poptap.toml"), text).unwrap();
    home
}
