//! Whole configurations: files and flags together.

mod handed_over;
mod intercept;
mod listener_tls;
mod rules;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser;
use rcgen::{CertifiedKey, generate_simple_self_signed};

use super::{store::Environment, *};
use crate::cli::{Cli, Command, RunArgs};

/// Loads `poptap run ARGUMENTS`, with the file's text as `--config` when there is one.
fn load_words(file: Option<&str>, arguments: &str) -> Result<Loaded, String> {
    let directory = tempfile::tempdir().unwrap();
    let mut words: Vec<String> = ["poptap", "run"].into_iter().chain(arguments.split_whitespace()).map(str::to_owned).collect();
    if let Some(text) = file {
        let path = directory.path().join("p.toml");
        fs::write(&path, text).unwrap();
        words.extend(["--config".to_owned(), path.display().to_string()]);
    }
    let Command::Run(args) = Cli::try_parse_from(words).unwrap().command else { panic!("run was asked for") };
    load_args(&args).map_err(|faults| faults.replace(&format!("{}/", directory.path().display()), ""))
}

fn load_args(args: &RunArgs) -> Result<Loaded, String> {
    let environment = Environment { xdg_state_home: Some("/xdg".into()), ..Environment::default() };
    resolve::load_in(args, &environment).map_err(|faults| faults.to_string())
}

fn config(file: Option<&str>, arguments: &str) -> Config {
    load_words(file, arguments).unwrap().config
}

/// The first line of each fault.
fn faults(file: &str, arguments: &str) -> Vec<String> {
    let said = load_words(Some(file), arguments).unwrap_err();
    said.split("\n\n").map(|fault| fault.lines().next().unwrap_or_default().to_owned()).collect()
}

const UPSTREAM: &str = "[[upstream]]\nurl = \"pop3s://mail\"\n";

#[test]
fn one_url_is_a_whole_configuration() {
    let Loaded { config, warnings } = load_words(None, "pop3s://mail").unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(config.listeners.len(), 1);
    let listener = &config.listeners[0];
    assert_eq!((listener.address.to_string().as_str(), &listener.allow_from), ("127.0.0.1:1110", &AllowFrom::Loopback));
    assert_eq!((listener.upstream_names().as_str(), listener.upstreams[0].port), ("pop3s://mail", 995));
    let transcript = config.transcript.unwrap();
    assert_eq!(transcript.place, Place::Directory("/xdg/poptap".into()));
    assert_eq!((transcript.rotate_size, transcript.buffer), (64 << 20, 8 << 20));
    assert_eq!(transcript.wait_limit, Some(Duration::from_secs(5)));
    assert_eq!(config.timeouts.idle, Duration::from_secs(660));
    assert_eq!((config.limits.connections, config.limits.outstanding), (1000, 1000));
    let limits = &config.limits;
    let off = (limits.sessions_per_client, limits.sessions_per_user, limits.login_failures, limits.login_delay);
    assert_eq!((off, limits.commands, limits.octets), ((None, None, None, None), None, None));
    assert!(limits.exempt.is_empty() && listener.deny_from.is_empty());
    assert_eq!((config.limits.command_line, config.limits.sasl_line), (512, 64 << 10));
    assert_eq!(config.rules, []);
    assert_eq!(config.shield, Shield { remember: true, keep: Duration::from_secs(90 * 86_400), dir: None });
}

#[test]
fn flags_override_the_file() {
    let ca = tempfile::tempdir().unwrap();
    let ca_file = ca.path().join("ca.pem");
    let CertifiedKey { cert, .. } = generate_simple_self_signed(["mail".to_owned()]).unwrap();
    fs::write(&ca_file, cert.pem()).unwrap();
    let file = "
        [[listener]]
        address = '127.0.0.1:1'
        stls = 'refuse'
        [[upstream]]
        name = 'main'
        url = 'pop3+stls://mail'
        apop = 'strip'
        [transcript]
        enabled = false
        dir = '/from/file'
        content = 'headers'
        [log]
        format = 'text'
    ";
    let flags = format!(
        "--listen 2110 --listen 192.0.2.1:2110 --allow-from 192.0.2.0/24 --apop pass --xclient pass --upstream-ca {} \
         --transcript - --content full --log-format json",
        ca_file.display()
    );
    let config = config(Some(file), &flags);
    let addresses: Vec<_> = config.listeners.iter().map(|listener| listener.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1:2110", "192.0.2.1:2110"]);
    for listener in &config.listeners {
        assert_eq!(listener.stls, StlsPolicy::Refuse, "the file's listener lends its other settings");
        assert_eq!(listener.allow_from, AllowFrom::Networks(vec!["192.0.2.0/24".parse().unwrap()]));
        let [upstream] = &listener.upstreams[..] else { panic!("{:?}", listener.upstreams) };
        assert_eq!((upstream.name.as_str(), upstream.apop), ("main", ApopPolicy::Pass));
        assert_eq!((upstream.xclient, &upstream.ca_file), (XclientPolicy::Pass, &Some(ca_file.clone())));
    }
    let transcript = config.transcript.unwrap();
    assert_eq!((transcript.place, transcript.content), (Place::Stdout, ContentPolicy::Full));
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn a_url_on_the_command_line_serves_every_listener() {
    let file =
        format!("{UPSTREAM}ca_file = '/nowhere.pem'\n[[listener]]\naddress = '1'\n[[listener]]\naddress = '2'\nupstream = 'x'\n");
    let said = faults(&file, "pop3://other");
    assert_eq!(said.len(), 1, "what is wrong with an upstream is told, used or not: {said:?}");
    let config = config(Some(&file.replace("ca_file = '/nowhere.pem'\n", "xclient = 'pass'\n")), "POP3S://mail:995");
    let reached = config.listeners.iter().flat_map(|listener| &listener.upstreams);
    let names: Vec<_> = reached.map(|upstream| (upstream.name.as_str(), upstream.xclient)).collect();
    assert_eq!(names, [("pop3s://mail", XclientPolicy::Pass); 2], "the file's upstream with that URL is meant");
}

#[test]
fn what_does_not_fit_together_is_told_with_its_place() {
    let file = "
[[upstream]]
name = 'one'
url = 'pop3://a'
ca_file = '/nowhere.pem'
[[upstream]]
name = 'one'
url = 'pop3://b'
[[upstream]]
name = 'has blank'
[[listener]]
address = '127.0.0.1:1'
upstream = 'onee'
[[listener]]
address = '127.0.0.1:1'
upstream = 'pop3://joe:hunter2@b'
[[listener]]
address = ':2'
[transcript]
dir = ''
[log]
filter = 'poptap=loud'
file = '/nowhere/poptap.log'
";
    assert_eq!(
        faults(file, ""),
        [
            "p.toml:5:11: cannot read certificates from `/nowhere.pem`: No such file or directory (os error 2)",
            "p.toml:7:8: there are two upstreams `one`",
            "p.toml:9:1: this upstream has no `url`",
            "p.toml:10:8: this is not a name for an upstream",
            "p.toml:13:12: no upstream is named `onee`",
            "p.toml:16:12: a server's URL cannot hold a user name or password",
            "p.toml:17:1: this listener does not say which upstream it means",
            "p.toml:18:11: the listener [::]:2 would let everybody log in without encryption",
            "p.toml:20:7: the transcript's directory has an empty name",
            "p.toml:22:10: `poptap=loud` is not a log filter",
            "p.toml:23:8: the log file's directory `/nowhere` does not exist",
        ]
    );
    assert!(!load_words(Some(file), "").unwrap_err().contains("hunter2"));
}

#[test]
fn a_listener_leads_to_several_upstreams_in_the_order_of_its_list() {
    let file = "
[[upstream]]
name = 'a'
url = 'pop3s://a'
[[upstream]]
name = 'b'
url = 'pop3s://b'
[[listener]]
upstream = ['b', 'pop3://c', 'a']
";
    let loaded = config(Some(file), "--no-transcript");
    assert_eq!(loaded.listeners[0].upstream_names(), "b, pop3://c, a");
    let again = config(Some(&effective(&loaded).unwrap()), "");
    assert_eq!(again.listeners, loaded.listeners);
    assert_eq!(config(Some(file), "pop3://d").listeners[0].upstream_names(), "pop3://d", "the command line's takes their place");
    for (list, fault) in [
        ("['b', 'a', 'b']", "p.toml:9:12: `b` is named twice"),
        ("['b', 'pop3s://b']", "p.toml:9:12: `b` is named twice"),
        ("['b', 'x']", "p.toml:9:12: no upstream is named `x`"),
        ("[]", "p.toml:9:12: this list is empty"),
    ] {
        let file = file.replace("['b', 'pop3://c', 'a']", list);
        assert_eq!(faults(&file, "").first().map(String::as_str), Some(fault), "{list}");
    }
}

#[test]
fn over_a_unix_socket_a_certificate_needs_a_name() {
    let nameless = "`pop3+stls+unix:///run/x` does not say for which name the server's certificate is";
    let file = |more: &str| format!("[[upstream]]\nurl = 'pop3+stls+unix:///run/x'\n{more}");
    assert_eq!(faults(&file(""), ""), [format!("p.toml:2:7: {nameless}")]);
    assert_eq!(faults("[[listener]]\nupstream = 'pop3+stls+unix:///run/x'\n", ""), [format!("p.toml:2:12: {nameless}")]);
    assert!(load_words(None, "pop3+stls+unix:///run/x").unwrap_err().starts_with(nameless));
    let pin = "pin = 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'\n";
    for (text, arguments) in
        [(file("server_name = 'pop.example.net'\n"), ""), (file(pin), ""), (String::new(), "pop3+unix:///run/x")]
    {
        let loaded = config(Some(&text), arguments);
        assert_eq!(config(Some(&effective(&loaded).unwrap()), "").listeners, loaded.listeners);
        assert_eq!(loaded.listeners[0].upstreams[0].socket.as_deref(), Some(Path::new("/run/x")));
    }
}

#[test]
fn a_rest_has_a_limit_that_is_not_shorter() {
    let said = faults("[timeouts]\nrest = '1m'\nlongest_rest = '59s'\n", "pop3://mail");
    assert_eq!(said, ["p.toml:3:16: `timeouts.longest_rest` is shorter than `timeouts.rest`, which is 1m"]);
    let timeouts = config(Some("[timeouts]\nrest = '1h'\n"), "pop3://mail").timeouts;
    assert_eq!((timeouts.rest, timeouts.longest_rest), (Duration::from_secs(3600), Duration::from_secs(3600)));
    let timeouts = config(None, "pop3://mail").timeouts;
    assert_eq!((timeouts.rest, timeouts.longest_rest), (Duration::from_secs(10), Duration::from_secs(300)));
}

#[test]
fn limits_that_make_no_sense_are_told_with_their_place() {
    let file =
        format!("{UPSTREAM}[[listener]]\ndeny_from = ['192.0.2.1', 'any']\n[limits]\nlogin_failures = 101\nexempt = ['any']\n");
    assert_eq!(
        faults(&file, ""),
        [
            "p.toml:4:13: `deny_from` would turn everybody away",
            "p.toml:6:18: `limits.login_failures` is 101, and no more than 100 are remembered",
            "p.toml:7:10: `limits.exempt` would exempt everybody",
        ]
    );
    for wrong in ["sessions_per_client = 0", "login_window = '0s'", "octets = 5", "exempt = ['bogus']", "login_failures = 0"] {
        assert_eq!(faults(&format!("[limits]\n{wrong}\n"), "pop3://mail").len(), 1, "{wrong}");
    }
    let warnings = load_words(Some("[limits]\nlogin_delay = '1m'"), "pop3s://mail").unwrap().warnings;
    assert_eq!(warnings, ["`limits.login_delay` is 1m: no reply is held back for longer than 30s"]);
}

#[test]
fn two_listeners_cannot_share_an_address() {
    let file = format!("{UPSTREAM}[[listener]]\naddress = '1'\n[[listener]]\naddress = '127.0.0.1:1'\n");
    assert_eq!(faults(&file, ""), ["p.toml:6:11: two listeners have the address 127.0.0.1:1"]);
    assert_eq!(config(None, "pop3://mail --listen 0 --listen 0").listeners.len(), 2, "port 0 is another one each time");
}

#[test]
fn one_fault_does_not_cause_others() {
    for file in [
        "[[upstream]]\nurl = 'mail'\n",
        "[[upstream]]\nname = 'a'\n",
        "[upstream]\nurl = 'pop3://mail'\n",
        "[[upstream]]\nname = 5\nurl = 'pop3://a'\n[[upstream]]\nurl = 'pop3://b'\n[[listener]]\nupstream = 'x'\n",
        "[[upstream]]\nurl = 'pop3://a'\n[[listener]]\naddress = ':1'\nallow_from = ['bogus']\n",
        "[[upstream]]\nurl = 'pop3://a'\n[[listener]]\nadress = ':1'\n[[listener]]\naddress = '2'\n",
    ] {
        assert_eq!(faults(file, "").len(), 1, "{file}");
    }
    assert_eq!(load_words(None, "--listen 1 --listen 2").unwrap_err().matches("no mail server").count(), 1);
}

#[test]
fn a_file_of_certificates_must_hold_some() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let load_with = |text: &str| {
        fs::write(&file, text).unwrap();
        load_words(None, &format!("pop3s://mail --upstream-ca {}", file.display())).map(|_| ())
    };
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["mail".to_owned()]).unwrap();
    assert_eq!(load_with(&cert.pem()), Ok(()));
    for (text, said) in [
        ("", "no certificate"),
        (signing_key.serialize_pem().as_str(), "no certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is damaged"),
        ("-----BEGIN CERTIFICATE-----\n", "cannot read"),
    ] {
        let refused = load_with(text).unwrap_err();
        assert!(refused.contains(said) && !refused.contains("PRIVATE"), "{refused}");
    }
}

#[test]
fn off_loopback_somebody_must_say_who_may_come() {
    for listen in ["192.0.2.1:110", ":110", "0.0.0.0:0", "[2001:db8::1]:110"] {
        let refused = load_words(None, &format!("pop3s://mail --listen {listen}")).unwrap_err();
        assert!(refused.contains("without encryption") && refused.contains("--allow-from"), "{refused}");
        assert!(
            load_words(None, &format!("pop3s://mail --listen {listen} --allow-from 192.0.2.0/24")).unwrap().warnings.is_empty()
        );
    }
    for listen in ["127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        assert_eq!(
            config(None, &format!("pop3s://mail --listen {listen}")).listeners[0].allow_from,
            AllowFrom::Loopback,
            "{listen}"
        );
    }
}

#[test]
fn what_is_risky_is_warned_of() {
    for (arguments, said) in [
        ("pop3s://mail --listen :1 --allow-from any", "lets everybody in"),
        ("pop3s://mail --listen :1 --allow-from 0.0.0.0/0", "lets everybody in"),
        ("pop3s://mail --reveal-credentials", "passwords"),
        ("pop3s://mail --transcript - --content full", "no message content"),
    ] {
        let warnings = load_words(None, arguments).unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(said), "{arguments}: {warnings:?}");
    }
    let Loaded { config, warnings } = load_words(Some("[timeouts]\nidle = '9m'"), "pop3s://mail").unwrap();
    assert!(config.timeouts.idle == Duration::from_secs(540) && warnings[0].contains("10 minutes"), "{warnings:?}");
    assert!(load_words(None, "pop3s://localhost").unwrap().warnings.is_empty());
    let unused = load_words(Some(UPSTREAM), "pop3://other").unwrap().warnings;
    assert_eq!(unused, ["no listener leads to the upstream `pop3s://mail`"]);
}

#[test]
fn several_listeners_cannot_be_replaced_by_a_flag() {
    let file = format!("{UPSTREAM}[[listener]]\naddress = '1'\n[[listener]]\naddress = '2'\n");
    assert_eq!(
        faults(&file, "--listen 3"),
        ["p.toml:5:1: `--listen` cannot replace 2 listeners: it is unclear whose settings hold"]
    );
}

#[test]
fn who_comes_by_a_proxy_may_be_anywhere() {
    let listener = |settings: &str| format!("{UPSTREAM}[[listener]]\naddress = '{settings}\n");
    let proxied = listener("1110'\nproxy_from = ['127.0.0.1']");
    assert_eq!(faults(&proxied, ""), ["p.toml:4:11: the listener 127.0.0.1:1110 would let everybody log in without encryption"]);
    let hint = load_words(Some(&proxied), "").unwrap_err();
    assert!(hint.contains("which of the proxies' clients may come"), "{hint}");
    let anybody = listener("1110'\nproxy_from = ['127.0.0.1']\nallow_from = ['any']");
    let warnings = load_words(Some(&anybody), "").unwrap().warnings;
    assert_eq!(warnings, ["the listener 127.0.0.1:1110 lets everybody in, and logins come from its proxies without encryption"]);
    for everybody in ["any", "0.0.0.0/0", "::/0"] {
        let file = listener(&format!("1110'\nallow_from = ['192.0.2.0/24']\nproxy_from = ['{everybody}']"));
        assert_eq!(faults(&file, ""), ["p.toml:6:14: `proxy_from` would let everybody claim any address"]);
    }
}

#[test]
fn a_socket_is_made_as_it_makes_sense() {
    let file = |settings: &str| format!("{UPSTREAM}[[listener]]\nallow_from = ['192.0.2.0/24']\n{settings}\n");
    for (settings, said) in [
        ("backlog = 0", "p.toml:5:11: this limit is out of its range"),
        ("backlog = 65536", "p.toml:5:11: this limit is out of its range"),
        ("device = ''", "p.toml:5:10: this is not the name of a network interface"),
        ("device = 'an-interface-with-a-long-name'", "p.toml:5:10: this is not the name of a network interface"),
        ("device = 'eth0/1'", "p.toml:5:10: this is not the name of a network interface"),
        ("v6only = true", "p.toml:5:10: `v6only` is about IPv6, and this listener's address is not"),
        ("v6only = false\naddress = '[::1]:1110'", "p.toml:5:10: one IPv6 address cannot take IPv4 clients"),
    ] {
        assert_eq!(faults(&file(settings), ""), [said], "{settings}");
    }
    for settings in
        ["v6only = true\naddress = ':1110'", "v6only = false\naddress = '[::]:1110'", "v6only = true\naddress = '[::1]:1'"]
    {
        let listener = config(Some(&file(settings)), "").listeners.remove(0);
        assert_eq!(listener.socket.v6only, Some(settings.contains("true")), "{settings}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let refused = load_words(None, "--config /nowhere/p.toml").unwrap_err();
    assert!(refused.contains("/nowhere/p.toml"), "{refused}");
}

/// Almost every key, none with its default.
const EVERYTHING: &str = "
    [[listener]]
    address = ':2110'
    upstream = 'main'
    allow_from = ['192.0.2.0/24', '::1']
    deny_from = ['192.0.2.66', '127.0.0.2']
    proxy_from = ['198.51.100.0/24', '127.0.0.1']
    backlog = 7
    device = 'eth1'
    freebind = true
    v6only = true
    stls = 'refuse'
    [[listener]]
    address = '[::1]:0'
    upstream = 'pop3://[2001:db8::1]:2110'
    [[listener]]
    address = '192.0.2.1:0'
    upstream = 'main'
    allow_from = ['any']
    [[upstream]]
    name = 'main'
    url = 'pop+stls://mail'
    apop = 'pass'
    xclient = 'pass'
    [transcript]
    dir = '-'
    record = 'sessions'
    content = 'lines:7'
    hash = 'none'
    listings = 'full'
    user = 'hash'
    rotate_size = '1025'
    rotate_age = '1h 1s'
    compress = false
    buffer = '1.5 MiB'
    on_full = 'close'
    wait_limit = '0'
    on_error = 'refuse'
    keep_events = { age = '1h', size = '1 GB', segments = 3 }
    audit_rows = 14
    audit_keep = '15 days'
    keep_sessions = { age = '1500ms' }
    [limits]
    connections = 7
    sessions_per_client = 9
    sessions_per_user = 10
    login_failures = 11
    login_window = '12m'
    login_block = '13m'
    login_delay = '14ms'
    commands = 15
    octets = '16 KiB'
    tracked_addresses = 17
    exempt = ['192.0.2.8', '::1']
    outstanding = 8
    command_line = 4000
    sasl_line = '1025'
    [timeouts]
    connect = '1s'
    handshake = '2s'
    greeting = '3s'
    login = '4s'
    idle = '1 day'
    half_closed = '5s'
    reply = '6s'
    drain = '7s'
    [log]
    file = './poptap.log'
    rotation = 'never'
    format = 'json'
    filter = 'poptap=debug,warn'
";

#[test]
fn the_effective_configuration_loads_again_to_the_same() {
    for loaded in [
        config(None, "pop3s://mail"),
        config(Some(EVERYTHING), ""),
        config(Some(rules::EVERYTHING), "--deny NOOP --shield"),
        config(Some(rules::EVERYTHING), "--dry-run"),
        config(Some("[transcript]\nenabled = false"), "pop3://mail"),
        config(None, "pop3://mail --no-transcript"),
    ] {
        let toml = effective(&loaded).unwrap();
        assert_eq!(config(Some(&toml), ""), loaded, "{toml}");
    }
    let revealed = effective(&config(None, "pop3://mail --reveal-credentials")).unwrap();
    assert!(revealed.starts_with("# with --reveal-credentials"));
    config(Some(&revealed), "");
}

fn in_repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn the_example_says_the_defaults() {
    let path = in_repository("config/poptap.toml");
    let from_file = load_args(&RunArgs { config: Some(path), ..RunArgs::default() }).unwrap();
    assert_eq!(from_file.config, config(None, "pop3s://pop.example.net"));
    assert_eq!(from_file.warnings, Vec::<String>::new());
}

#[test]
fn the_example_names_every_key() {
    let text = fs::read_to_string(in_repository("config/poptap.toml")).unwrap();
    assert_eq!(keys_of_example(&text), keys_of_schema());
}

/// `section.key`, both set or commented out.
fn keys_of_example(text: &str) -> BTreeSet<String> {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in text.lines().map(|line| line.trim_start_matches("# ")) {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, _)) = line.split_once(" = ")
            && key.bytes().all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'_')
        {
            keys.insert(format!("{section}.{key}"));
        }
    }
    keys
}

fn keys_of_schema() -> BTreeSet<String> {
    let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
    let mut keys = BTreeSet::new();
    collect_keys(&schema, &schema, "", &mut keys);
    keys
}

fn collect_keys(root: &serde_json::Value, table: &serde_json::Value, path: &str, keys: &mut BTreeSet<String>) {
    for (name, property) in table["properties"].as_object().unwrap() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        // An array that may be left out is written in one line, and is one key.
        let tables = property["items"]["$ref"].as_str().filter(|_| property["type"] == "array");
        let reference = property["$ref"].as_str().or(tables);
        let target = reference.and_then(|reference| root.pointer(reference.trim_start_matches('#')));
        match target.filter(|target| target["properties"].is_object()) {
            Some(section) => collect_keys(root, section, &path, keys),
            None => _ = keys.insert(path),
        }
    }
}

#[test]
fn the_schema_is_up_to_date() {
    let committed = fs::read_to_string(in_repository("config/poptap.schema.json")).unwrap_or_default();
    assert_eq!(committed, schema(), "write it again with `cargo run -- config schema > config/poptap.schema.json`");
}

#[test]
fn the_schema_accepts_the_example_and_refuses_what_is_wrong() {
    let validator = jsonschema::validator_for(&serde_json::from_str(&schema()).unwrap()).unwrap();
    let json = |text: &str| serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap();
    assert!(validator.is_valid(&json(&fs::read_to_string(in_repository("config/poptap.toml")).unwrap())));
    assert!(validator.is_valid(&json(&effective(&config(None, "pop3s://mail --no-transcript")).unwrap())));
    assert!(validator.is_valid(&json(rules::EVERYTHING)));
    assert!(validator.is_valid(&json(&effective(&config(Some(rules::EVERYTHING), "--shield")).unwrap())));
    for wrong in [
        "lisener = 1",
        "[[rule]]\naction = 'alow'",
        "[[rule]]\nwhen = { message = 0 }",
        "[limits]\ncommand_line = 63",
        "[limits]\nconnections = 0",
        "[transcript]\ncontent = 'all'",
        "[[upstream]]\nurl = 'mail'",
    ] {
        assert!(!validator.is_valid(&json(wrong)), "{wrong}");
    }
}

/// What an upstream's files hold: an authority, two certificates with their keys, and revocation lists.
struct Pems {
    folder: tempfile::TempDir,
}

impl Pems {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        for name in ["a", "b"] {
            let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["client".to_owned()]).unwrap();
            write(&format!("{name}.pem"), &cert.pem());
            write(&format!("{name}.key"), &signing_key.serialize_pem());
            write(&format!("{name}.both"), &(cert.pem() + &signing_key.serialize_pem()));
        }
        write("bad.crl", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
        Self { folder }
    }

    /// A configuration with these settings of its upstream; `@x` is the file `x`.
    fn file(&self, scheme: &str, settings: &str) -> String {
        let settings = settings.replace('@', &format!("{}/", self.folder.path().display()));
        format!("[[upstream]]\nurl = '{scheme}://mail'\n{settings}\n")
    }

    fn faults(&self, scheme: &str, settings: &str) -> Vec<String> {
        let folder = format!("{}/", self.folder.path().display());
        faults(&self.file(scheme, settings), "").into_iter().map(|fault| fault.replace(&folder, "@")).collect()
    }
}

const PIN: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn trust_that_does_not_fit_together_is_refused_with_its_place() {
    let pems = Pems::new();
    for (settings, said) in [
        ("crl_file = '@bad.crl'", "p.toml:3:12: there is a `crl_file`, and no `ca_file`".to_owned()),
        (
            "ca_file = '@a.pem'\ncrl_file = '@bad.crl'",
            "p.toml:4:12: cannot use the certificate revocation lists in `@bad.crl`: one of them is damaged".to_owned(),
        ),
        (
            "ca_file = '@a.pem'\ncrl_file = '@none'",
            "p.toml:4:12: cannot use the certificate revocation lists in `@none`: ".to_owned(),
        ),
        (
            &format!("ca_file = '@a.pem'\npin = '{PIN}'"),
            "p.toml:4:7: `pin` takes the place of everything else, `ca_file` too".to_owned(),
        ),
        (
            &format!("accept = ['expired']\npin = '{PIN}'"),
            "p.toml:4:7: `pin` takes the place of everything else, `accept` too".to_owned(),
        ),
        ("pin = 'sha256:12'", "p.toml:3:7: `sha256:12` is not a pin".to_owned()),
        ("accept = ['expird']", "p.toml:3:11: unknown value `expird`".to_owned()),
        ("key = '@a.key'", "p.toml:3:7: there is a `key`, and no `cert`".to_owned()),
        ("cert = '@a.pem'", "p.toml:3:8: there is no private key in `@a.pem`".to_owned()),
        ("cert = '@none'", "p.toml:3:8: cannot read `@none`: No such file".to_owned()),
        (
            "cert = '@a.pem'\nkey = '@b.key'",
            "p.toml:3:8: cannot use the certificate in `@a.pem` with the key in `@b.key`: ".to_owned(),
        ),
        ("server_name = 'no name'", "p.toml:3:15: cannot use `no name` as the name of a TLS server".to_owned()),
        ("proxy_protocol = 'v3'", "p.toml:3:18: unknown value `v3`".to_owned()),
    ] {
        let found = pems.faults("pop3s", settings);
        assert!(found.len() == 1 && found[0].starts_with(&said), "{settings}: {found:?}");
    }
}

#[test]
fn a_plain_upstream_has_nothing_to_verify() {
    let pems = Pems::new();
    for (key, value) in [
        ("crl_file", "'@bad.crl'"),
        ("pin", &format!("'{PIN}'")),
        ("accept", "['expired']"),
        ("cert", "'@a.both'"),
        ("server_name", "'pop.example.net'"),
    ] {
        let found = pems.faults("pop3", &format!("{key} = {value}"));
        let said = format!("the upstream `pop3://mail` is plain, and has no use for `{key}`");
        assert!(found.len() == 1 && found[0].ends_with(&said), "{found:?}");
    }
    assert!(load_words(Some(&pems.file("pop3", "proxy_protocol = 'v2'")), "").is_ok());
}

#[test]
fn whatever_weakens_trust_is_warned_of() {
    let pems = Pems::new();
    let settings = "accept = ['wrong-name', 'expired', 'wrong-name', 'self-signed']";
    let Loaded { config, warnings } = load_words(Some(&pems.file("pop3+stls", settings)), "").unwrap();
    let accept = &config.listeners[0].upstreams[0].accept;
    assert_eq!(accept.iter().map(|fault| fault.name()).collect::<Vec<_>>(), ["expired", "self-signed", "wrong-name"]);
    for (warning, said) in warnings.iter().zip(["have expired", "self-signed", "other names"]) {
        assert!(warning.starts_with("`pop3+stls://mail`: ") && warning.contains(said), "{warning}");
    }
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    let pinned = load_words(Some(&pems.file("pop3s", &format!("pin = '{PIN}'"))), "").unwrap();
    assert_eq!(pinned.warnings, Vec::<String>::new());
}

#[test]
fn what_an_upstream_says_of_trust_loads_again_to_the_same() {
    let pems = Pems::new();
    for settings in [
        "ca_file = '@a.pem'\naccept = ['expired']\ncert = '@b.both'\nserver_name = 'other'\nproxy_protocol = 'v2'".to_owned(),
        format!("pin = '{PIN}'\ncert = '@b.pem'\nkey = '@b.key'"),
    ] {
        let loaded = config(Some(&pems.file("pop3s", &settings)), "");
        let toml = effective(&loaded).unwrap();
        assert_eq!(config(Some(&toml), ""), loaded, "{toml}");
    }
}
