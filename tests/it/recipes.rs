//! `config/recipes/*.toml`: each is loaded as it stands, but for addresses and the place of its certificate, and a dialogue
//! through it shows that it does what it says.

use std::{collections::BTreeSet, fs, net::SocketAddr, path::Path, thread};

use serde_json::{Value, json};

use crate::support::{
    mailbox::{GREETING, WRONG, mailbox},
    outside::{Client, Left, Poptap, SECRET, Server},
    secure::{AGREED, Papers, Secure},
};

/// Plays the dialogue of a recipe.
type Play = fn(&Recipe);

/// A file without a dialogue fails the test, and so does a dialogue without a file.
const DIALOGUES: [(&str, Play); 8] = [
    ("audit-old-clients", who_would_be_hit),
    ("brute-force", guesses_are_blocked),
    ("hide-top", top_is_not_there),
    ("no-large-messages", a_large_message_stays),
    ("no-plain-logins", a_login_waits_for_tls),
    ("read-only", nothing_is_changed),
    ("router", who_was_not_redirected_is_told),
    ("ticket-system", nothing_is_deleted),
];

#[test]
fn each_recipe_does_what_it_says() {
    let folder = folder();
    let files: BTreeSet<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let recipes: Vec<_> = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    let names: Vec<_> = recipes.iter().map(|path| path.file_stem().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, DIALOGUES.map(|(name, _)| name));
    thread::scope(|scope| {
        for (name, dialogue) in DIALOGUES {
            // A panic names the thread.
            let play = move || dialogue(&Recipe::read(name));
            thread::Builder::new().name(format!("recipe {name}")).spawn_scoped(scope, play).unwrap();
        }
    });
}

#[test]
fn each_recipe_is_listed_and_packaged() {
    let read = |path: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let (list, packaged) = (read("config/recipes/README.md"), read("packaging/debian/files"));
    for (name, _) in DIALOGUES {
        assert!(list.contains(&format!("| [{name}.toml]({name}.toml) |")), "{name} is not listed");
        assert!(packaged.contains(&format!("/usr/share/doc/poptap/examples/recipes/{name}.toml\n")), "{name} is not packaged");
    }
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/recipes")
}

// ── how one is started ──

struct Recipe {
    text: String,
    server: Server,
    papers: Papers,
}

impl Recipe {
    fn read(name: &str) -> Self {
        let text = fs::read_to_string(folder().join(name).with_extension("toml")).unwrap();
        Self { text, server: Server::times(100, mailbox), papers: Papers::new() }
    }

    /// Its addresses become loopback's: 192.0.2.1 and 127.0.0.1 those of a listener, 192.0.2.20 that of a client.
    fn start(&self) -> Poptap {
        let mut text = self.text.clone();
        for (theirs, ours) in [
            ("pop3s://pop.example.net", self.server.url("pop3").as_str()),
            ("127.0.0.1:1110", "127.0.0.1:0"),
            ("\":1110\"", "\"127.0.0.1:0\""),
            ("192.0.2.1:110", "127.0.0.1:0"),
            ("192.0.2.1:995", "127.0.0.1:0"),
            ("192.0.2.20", "127.0.0.2"),
            ("/etc/poptap/pop.pem", &self.papers.path("cert.pem")),
            ("/etc/poptap/pop.key", &self.papers.path("key.pem")),
        ] {
            text = text.replace(theirs, ours);
        }
        Poptap::as_configured(&text)
    }

    fn heard(&self) -> String {
        String::from_utf8(self.server.heard()).unwrap()
    }
}

/// Somebody who has logged in, from 127.0.0.`host`.
fn logged_in(host: u8, address: SocketAddr, user: &str) -> Client {
    let mut client = Client::from(host, address);
    assert_eq!(client.line(), GREETING);
    for line in [format!("USER {user}"), format!("PASS {SECRET}")] {
        assert!(client.ask(&line).starts_with("+OK"), "{line}");
    }
    client
}

fn quit(mut client: Client) {
    client.say(b"QUIT\r\n");
    assert_eq!(client.rest(), "+OK\r\n");
}

fn login(user: &str) -> String {
    format!("USER {user}\r\nPASS {SECRET}\r\n")
}

/// How often each rule decided, and would have, over all sessions.
fn counts(left: &Left, field: &str, rule: &str) -> u64 {
    left.sessions.iter().filter_map(|session| session[field][rule].as_u64()).sum()
}

// ── the dialogues ──

fn nothing_is_changed(recipe: &Recipe) {
    let poptap = recipe.start();
    let mut client = logged_in(1, poptap.address, "tim");
    assert_eq!(client.ask("dele 1"), "-ERR this mailbox is read-only\r\n");
    assert_eq!(client.ask("XDELALL"), "-ERR this mailbox is read-only\r\n");
    assert_eq!(client.ask("STAT"), "+OK 2 30000100\r\n");
    quit(client);
    assert_eq!(recipe.heard(), login("tim") + "STAT\r\nQUIT\r\n");
    let left = poptap.stop();
    assert_eq!((counts(&left, "rules", "read-only"), counts(&left, "rules", "reading")), (2, 2));
    assert_eq!(left.count("decision", "action", "answer"), 2);
}

/// What happens behind a firewall's rules, tests/real shows.
fn who_was_not_redirected_is_told(recipe: &Recipe) {
    let poptap = recipe.start();
    let client = Client::from(1, poptap.address);
    assert_eq!(client.rest(), "-ERR [SYS/PERM] there is no mail server at this address\r\n");
    assert_eq!(poptap.stop().session()["reason"], "not-redirected");
}

fn nothing_is_deleted(recipe: &Recipe) {
    let poptap = recipe.start();
    let mut client = logged_in(1, poptap.address, "Tickets@example.net");
    assert!(client.ask("DELE 1").starts_with("+OK"));
    assert_eq!(client.ask("STAT"), "+OK 1 30000000\r\n");
    assert!(client.ask("RETR 1").starts_with("-ERR"));
    quit(client);
    let heard = recipe.heard();
    assert!(heard.ends_with("LIST\r\nUIDL\r\nSTAT\r\nQUIT\r\n") && !heard.contains("DELE"), "{heard}");
    let mut later = logged_in(1, poptap.address, "tickets@example.net");
    assert!(later.ask("UIDL").starts_with("+OK"));
    assert_eq!(later.body(), ["1 uid-b"], "what was deleted stays out of sight");
    quit(later);
    let mut person = logged_in(1, poptap.address, "tim");
    assert_eq!(person.ask("STAT"), "+OK 2 30000100\r\n");
    assert!(person.ask("DELE 1").starts_with("+OK"));
    quit(person);
    recipe.heard();
    assert_eq!(recipe.heard(), login("tim") + "STAT\r\nDELE 1\r\nQUIT\r\n");
    let left = poptap.stop();
    assert_eq!((left.count("decision", "action", "shield"), counts(&left, "rules", "ticket system")), (1, 1));
    let kept: Vec<_> =
        left.sessions.iter().map(|session| [&session["deleted"], &session["shielded"]].map(Clone::clone)).collect();
    assert!(kept.contains(&[json!(1), json!(1)]) && kept.contains(&[json!(1), Value::Null]), "{kept:?}");
}

fn a_login_waits_for_tls(recipe: &Recipe) {
    const REFUSED: &str = "-ERR [SYS/PERM] logins need TLS: turn STARTTLS on in your mail program\r\n";
    let poptap = recipe.start();
    let mut client = Client::to(poptap.address);
    assert_eq!(client.line(), GREETING);
    assert!(client.ask("CAPA").starts_with("+OK"));
    assert_eq!(client.body(), ["TOP", "UIDL", "STLS"]);
    for line in ["USER tim", &format!("PASS {SECRET}"), "AUTH PLAIN", "APOP tim x"] {
        assert_eq!(client.ask(line), REFUSED, "{line}");
    }
    assert_eq!(client.ask("STLS"), AGREED);
    let mut client = Secure::over(client.0, &recipe.papers.trust).unwrap();
    for line in ["USER tim".to_owned(), format!("PASS {SECRET}")] {
        assert!(client.ask(&line).starts_with("+OK"));
    }
    assert!(client.ask("CAPA").starts_with("+OK"));
    let listed: Vec<_> = std::iter::from_fn(|| Some(client.line()).filter(|line| line != ".\r\n")).collect();
    assert!(listed.concat().contains("USER\r\n"), "{listed:?}");
    client.say(b"QUIT\r\n");
    client.rest();
    assert_eq!(recipe.heard(), format!("CAPA\r\n{}CAPA\r\nQUIT\r\n", login("tim")));
    quit(logged_in(2, poptap.address, "scanner"));
    assert_eq!(recipe.heard(), login("scanner") + "QUIT\r\n");
    let left = poptap.stop();
    assert_eq!(counts(&left, "rules", "TLS before the login"), 4);
    assert_eq!(left.count("decision", "action", "remove-line"), 2);
}

fn top_is_not_there(recipe: &Recipe) {
    let poptap = recipe.start();
    for (host, is_there) in [(1, true), (2, false)] {
        let mut client = logged_in(host, poptap.address, "tim");
        assert!(client.ask("CAPA").starts_with("+OK"));
        assert_eq!(client.body().contains(&"TOP".to_owned()), is_there);
        assert_eq!(client.ask("TOP 1 0") == "-ERR command not implemented\r\n", !is_there);
        if is_there {
            client.body();
        }
        quit(client);
        assert_eq!(recipe.heard().contains("TOP 1 0\r\n"), is_there);
    }
    let left = poptap.stop();
    assert_eq!((counts(&left, "rules", "TOP is not listed"), counts(&left, "rules", "no TOP")), (1, 1));
}

fn a_large_message_stays(recipe: &Recipe) {
    let poptap = recipe.start();
    let mut client = logged_in(1, poptap.address, "tim");
    assert_eq!(client.ask("RETR 2"), "-ERR this message is too large to be fetched from here\r\n");
    for line in ["TOP 2 0", "RETR 1"] {
        assert!(client.ask(line).starts_with("+OK"), "{line}");
        client.body();
    }
    quit(client);
    assert_eq!(recipe.heard(), login("tim") + "LIST\r\nTOP 2 0\r\nRETR 1\r\nQUIT\r\n");
    let left = poptap.stop();
    assert_eq!(left.count("decision", "rule", "no large messages"), 1);
    assert_eq!(left.session()["messages"], 1);
}

fn who_would_be_hit(recipe: &Recipe) {
    let poptap = recipe.start();
    let mut old = logged_in(1, poptap.address, "tim");
    assert!(old.ask("TOP 1 0").starts_with("+OK"));
    old.body();
    assert!(old.ask("DELE 1").starts_with("+OK"));
    quit(old);
    assert_eq!(recipe.heard(), login("tim") + "TOP 1 0\r\nDELE 1\r\nQUIT\r\n", "nothing is changed");
    let mut modern = Client::to(poptap.address);
    assert_eq!(modern.line(), GREETING);
    assert_eq!(modern.ask("STLS"), AGREED);
    let mut modern = Secure::over(modern.0, &recipe.papers.trust).unwrap();
    for line in ["USER eve".to_owned(), format!("PASS {SECRET}")] {
        assert!(modern.ask(&line).starts_with("+OK"));
    }
    modern.say(b"QUIT\r\n");
    modern.rest();
    let left = poptap.stop();
    let dry = |user: &str| left.sessions.iter().find(|session| session["user"] == user).unwrap()["rules_dry"].clone();
    assert_eq!(dry("tim"), serde_json::json!({ "deletes": 1, "login without TLS": 1, "uses TOP": 1 }));
    assert_eq!(dry("eve"), Value::Null);
    assert_eq!(left.events.len(), 0, "summaries only");
}

fn guesses_are_blocked(recipe: &Recipe) {
    const BLOCKED: &str = "-ERR [SYS/TEMP] too many failed logins from your address, try again later\r\n";
    let mut poptap = recipe.start();
    let secure = |host| Secure::over(Client::from(host, poptap.address).0, &recipe.papers.trust).unwrap();
    let mut guesses: Vec<_> = (0..5).map(|_| secure(1)).collect();
    let mut other = secure(2);
    for (failures, client) in (1..).zip(&mut guesses) {
        assert_eq!((client.line().as_str(), client.ask("USER tim").as_str()), (GREETING, "+OK\r\n"));
        client.say(b"PASS guess\r\n");
        let line = poptap.log_line("login failed");
        assert!(line.ends_with(&format!("login failed client=127.0.0.1 failures={failures}")), "{line}");
    }
    assert_eq!(guesses[4].line(), BLOCKED);
    let reached = recipe.server.accepted();
    Client::to(poptap.address).rest();
    let line = poptap.log_line("client refused");
    assert!(line.contains("client refused client=127.0.0.1 reason=client-blocked listener=127.0.0.1:"), "{line}");
    assert_eq!(recipe.server.accepted(), reached, "no connection was made for a blocked address");
    // The user is blocked, too, wherever from.
    assert_eq!((other.line().as_str(), other.ask("USER tim").as_str()), (GREETING, "+OK\r\n"));
    assert_eq!(other.ask(&format!("PASS {SECRET}")), "-ERR [SYS/TEMP] too many failed logins, try again later\r\n");
    poptap.log_line("login refused client=127.0.0.2 reason=user-blocked");
    for client in guesses {
        crate::support::outside::reset(client.0.sock);
    }
    drop(other);
    let left = poptap.stop();
    assert!(left.count("decision", "action", "delay") == 4 && !left.log.contains(WRONG), "{:#?}", left.sessions);
    for reason in ["client-blocked", "user-blocked"] {
        assert!(left.has_event("closed", "reason", reason), "{reason}");
    }
}
