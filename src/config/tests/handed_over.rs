//! Sockets that are handed over, and who the process becomes.

use crate::config::{AllowFrom, Config, HandedOver, Loaded, Process, SandboxPolicy, effective, resolve, store::Environment};

/// Loads a configuration where these sockets were handed over.
fn load(file: &str, arguments: &str, sockets: Option<&[(&str, Option<&str>)]>) -> Result<Loaded, String> {
    use clap::Parser as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.toml");
    std::fs::write(&path, file).unwrap();
    let words = format!("poptap run --no-transcript {arguments} --config {}", path.display());
    let cli = crate::cli::Cli::try_parse_from(words.split_whitespace()).unwrap();
    let crate::cli::Command::Run(args) = cli.command else { panic!("run was asked for") };
    let handed_over = sockets.map(|sockets| {
        let socket = |(name, address): &(&str, Option<&str>)| HandedOver {
            name: (*name).to_owned(),
            address: address.map(|address| address.parse().unwrap()),
        };
        sockets.iter().map(socket).collect()
    });
    let environment = Environment { handed_over, ..Environment::default() };
    resolve::load_in(&args, &environment).map_err(|faults| faults.to_string())
}

fn addresses(config: &Config) -> Vec<String> {
    config.listeners.iter().map(|listener| listener.address.to_string()).collect()
}

#[test]
fn sockets_are_found_by_name_by_number_and_in_their_order() {
    let sockets: &[_] =
        &[("pop3", Some("127.0.0.1:110")), ("pop3", Some("[::1]:110")), ("3", Some("127.0.0.1:3")), ("4", Some("127.0.0.1:4"))];
    let listen = "--listen systemd:pop3 --listen systemd:3 --listen systemd:pop3 --listen 127.0.0.1:5 --listen systemd:";
    let loaded = load("", &format!("pop3://mail {listen}"), Some(sockets)).unwrap();
    assert_eq!(addresses(&loaded.config), ["127.0.0.1:110", "127.0.0.1:3", "[::1]:110", "127.0.0.1:5", "127.0.0.1:4"]);
    let text = effective(&loaded.config).unwrap();
    assert!(text.contains("address = \"systemd:pop3\"") && text.contains("address = \"127.0.0.1:5\""), "{text}");
}

#[test]
fn a_socket_that_is_not_there_is_a_fault_with_its_place() {
    let file = "[[listener]]\naddress = 'systemd:pop3s'\n";
    for (sockets, said) in [
        (&[][..], "no socket named `pop3s` was handed over"),
        (&[("pop3", Some("127.0.0.1:1"))], "there are `pop3`"),
        (&[("pop3s", None)], "is a Unix socket"),
    ] {
        let refused = load(file, "pop3://mail", Some(sockets)).unwrap_err();
        assert!(refused.contains(said) && refused.contains("p.toml:2"), "{refused}");
    }
}

#[test]
fn who_may_come_is_asked_for_the_address_that_the_socket_really_has() {
    let sockets: &[_] = &[("pop3", Some("0.0.0.0:110"))];
    let refused = load("", "pop3://mail --listen systemd:pop3", Some(sockets)).unwrap_err();
    assert!(refused.contains("the listener 0.0.0.0:110 would let everybody log in without encryption"), "{refused}");
    let allowed = load("", "pop3://mail --listen systemd:pop3 --allow-from 192.0.2.0/24", Some(sockets)).unwrap();
    assert!(matches!(allowed.config.listeners[0].allow_from, AllowFrom::Networks(_)));
    // `check` knows of no sockets, and does not invent faults.
    let unknown = load("", "pop3://mail --listen systemd:pop3", None).unwrap();
    assert!(unknown.warnings[0].contains("a socket for `systemd:pop3`"), "{:?}", unknown.warnings);
}

#[test]
fn who_the_process_becomes() {
    let process =
        |file: &str, arguments: &str| load(file, &format!("pop3://mail {arguments}"), None).map(|loaded| loaded.config.process);
    assert_eq!(process("", "").unwrap(), Process::default());
    let file = "[process]\nuser = 'poptap'\ngroup = 'mail'\nsandbox = 'required'\ncore_dumps = true\n";
    let expected = Process {
        user: Some("nobody".to_owned()),
        group: Some("mail".to_owned()),
        sandbox: SandboxPolicy::Required,
        core_dumps: true,
    };
    assert_eq!(process(file, "--user nobody").unwrap(), expected);
    for (file, said) in [
        ("[process]\ngroup = 'mail'\n", "`group` without `user`"),
        ("[process]\nuser = ''\n", "`user` is not the name of an account"),
        ("[process]\nuser = 'a:b'\n", "`user` is not the name of an account"),
    ] {
        let refused = process(file, "").unwrap_err();
        assert!(refused.contains(said) && refused.contains("p.toml:2"), "{refused}");
    }
}
