//! Rules: of files and of flags.

use std::{fs, path::PathBuf, time::Duration};

use super::{UPSTREAM, config, faults, in_repository, load_words};
use crate::{
    cli::{Cli, Command},
    config::{Pattern, ReplyShape, Rule, RuleAction, Shield, SizeBound, When, effective, resolve, store::Environment},
    pop3::Stage,
};
use clap::Parser as _;

/// Every condition and every action, none with its default.
pub(super) const EVERYTHING: &str = r#"
[[listener]]
address = "127.0.0.1:1110"
upstream = "main"
[[upstream]]
name = "main"
url = "pop3s://mail"

[[rule]]
name = "all conditions"
mode = "dry-run"
when = { command = ["dele", "X-1"], line = '^DELE \d+', stage = "transaction", user = "archive@.*", client = ["10.1.2.3/16", "::1"], listener = "1110", upstream = "pop3s://mail", tls = false, message = [5, "1-10", "20-"], size = ">=10 MiB" }
action = { deny = "read-only" }
[[rule]]
name = "one of each"
when = { command = "XFOO", client = "192.0.2.1", message = 3, size = "<1 KiB", stage = "authorization" }
action = "allow"
reply_shape = "multi-line"
[[rule]]
name = "deny"
when.command = "TOP"
action = "deny"
[[rule]]
name = "close"
when.command = "XTND"
action = "close"
[[rule]]
name = "close with a text"
when.command = "RPOP"
action.close = "+ go away"
[[rule]]
name = "reply"
when.command = "LAST"
action = { reply = "-ERR no" }
[[rule]]
name = "lines"
when.command = "XHELP"
action = { reply = ["here it is", "line", ".dotted", "Ünicode \"quoted\""] }
[[rule]]
name = "no lines"
when.command = "XHELP"
action = { reply = ["+OK"] }
[[rule]]
name = "rewrite"
when = { line = '^(USER|APOP) (\S+)@old\.example' }
action = { rewrite = '$1 ${2}@new.example' }
[[rule]]
name = "shield"
when.user = 'archive@.*'
action = "shield"
[[rule]]
name = "tag"
action = "tag"
[[rule]]
name = "tag with a word"
action.tag = "seen"
[[rule]]
name = "reply's text"
when.command = ["PASS"]
action = { rewrite_reply = "logged in", matching = "^Logged .*$" }
[[rule]]
name = "greeting's text"
when.tls = true
action = { rewrite_greeting = "", matching = "Dovecot.*" }
[[rule]]
name = "fewer"
when.stage = "authorization"
action.remove_capability = ["top", "X-1"]
[[rule]]
name = "more"
action.add_capability = "X-FOO bar"

[shield]
keep = "1h"
dir = "./shield"
"#;

fn rule<'a>(rules: &'a [Rule], name: &str) -> &'a Rule {
    rules.iter().find(|rule| &*rule.name == name).unwrap()
}

#[test]
fn conditions_are_read() {
    let rules = config(Some(EVERYTHING), "").rules;
    let all = rule(&rules, "all conditions");
    let when = When {
        commands: vec![b"DELE"[..].into(), b"X-1"[..].into()],
        line: Some(Pattern::octets(r"^DELE \d+").unwrap()),
        stage: Some(Stage::Transaction),
        user: Some(Pattern::name("archive@.*").unwrap()),
        clients: vec!["10.1.0.0/16".parse().unwrap(), "::1/128".parse().unwrap()],
        listeners: vec!["127.0.0.1:1110".parse().unwrap()],
        upstreams: vec!["main".to_owned()],
        tls: Some(false),
        messages: vec![5..=5, 1..=10, 20..=u64::MAX],
        size: Some(SizeBound::AtLeast(10 << 20)),
    };
    assert_eq!((&all.when, all.enforced), (&when, false));
    let one = rule(&rules, "one of each");
    assert_eq!((one.when.messages.as_slice(), one.when.stage), (&[3..=3][..], Some(Stage::Authorization)));
    assert_eq!((one.enforced, one.reply_shape), (true, Some(ReplyShape::MultiLine)));
    assert!(rule(&rules, "tag").when.is_empty());
}

#[test]
fn actions_are_read() {
    let rules = config(Some(EVERYTHING), "").rules;
    let octets = |text: &str| text.as_bytes().into();
    for (name, action) in [
        ("all conditions", RuleAction::Deny(octets("-ERR read-only\r\n"))),
        ("deny", RuleAction::Deny(octets("-ERR not allowed here\r\n"))),
        ("close with a text", RuleAction::Close(octets("-ERR + go away\r\n"))),
        ("reply", RuleAction::Reply(octets("-ERR no\r\n"))),
        ("lines", RuleAction::Reply(octets("+OK here it is\r\nline\r\n..dotted\r\nÜnicode \"quoted\"\r\n.\r\n"))),
        ("no lines", RuleAction::Reply(octets("+OK\r\n.\r\n"))),
        ("rewrite", RuleAction::Rewrite("$1 ${2}@new.example".to_owned())),
        ("shield", RuleAction::Shield),
        ("tag", RuleAction::Tag(None)),
        ("tag with a word", RuleAction::Tag(Some("seen".to_owned()))),
        ("fewer", RuleAction::RemoveCapability(vec!["TOP".to_owned(), "X-1".to_owned()])),
        ("more", RuleAction::AddCapability(vec!["X-FOO bar".to_owned()])),
        ("greeting's text", RuleAction::RewriteGreeting { matching: Pattern::octets("Dovecot.*").unwrap(), with: String::new() }),
    ] {
        assert_eq!(rule(&rules, name).action, action, "{name}");
    }
    for name in ["allow", "close", "reply", "rewrite_reply"] {
        assert!(rules.iter().any(|rule| rule.action.name() == name), "{name}");
    }
}

#[test]
fn the_longest_texts_are_written_as_they_are_read() {
    let text = "x".repeat(500);
    for action in
        [format!("{{ deny = '{text}' }}"), format!("{{ reply = '{text}' }}"), format!("{{ reply = ['{text}', '{text}'] }}")]
    {
        let loaded = config(Some(&format!("{UPSTREAM}[[rule]]\nname = 'r'\naction = {action}\n")), "");
        let again = config(Some(&effective(&loaded).unwrap()), "");
        assert_eq!(again, loaded);
    }
}

#[test]
fn flags_come_first() {
    let rules = config(Some(EVERYTHING), "--deny dele --deny XFOO --deny DELE --shield").rules;
    let names: Vec<&str> = rules.iter().map(|rule| &*rule.name).take(4).collect();
    assert_eq!(names, ["--deny DELE", "--deny XFOO", "--shield", "all conditions"]);
    assert!(rules[..3].iter().all(|rule| rule.enforced));
    let only_dele = When { commands: vec![b"DELE"[..].into()], ..When::default() };
    assert_eq!((&rules[0].when, rules[0].action.name()), (&only_dele, "deny"));
    let longest = config(None, &format!("pop3://mail --deny {}", "x".repeat(255))).rules;
    assert_eq!(longest[0].name.len(), 64, "a name that can be written in a file");
}

#[test]
fn a_dry_run_is_for_all_rules() {
    for (file, flags) in [(EVERYTHING, "--dry-run --deny NOOP"), (&format!("{EVERYTHING}[policy]\ndry_run = true\n"), "--shield")]
    {
        let rules = config(Some(file), flags).rules;
        assert!(rules.len() > 15 && rules.iter().all(|rule| !rule.enforced), "{flags}");
    }
}

/// The first line of each fault of these keys under `[[rule]]`; the rule has a name.
fn faults_of(keys: &str) -> Vec<String> {
    faults(&format!("{UPSTREAM}[[rule]]\nname = 'r'\n{keys}\n"), "")
}

#[test]
fn a_faulty_rule_is_told_with_its_place() {
    for (keys, said) in [
        ("when = { command = 'DELE 1' }\naction = 'deny'", "5:20: this is not a command's word"),
        ("when = { command = ['DELE', ''] }\naction = 'deny'", "5:29: this is not a command's word"),
        ("when = { command = [] }\naction = 'deny'", "5:20: this list is empty"),
        ("when = { comand = 'DELE' }\naction = 'deny'", "5:10: unknown key `comand`"),
        ("when = ['DELE']\naction = 'deny'", "5:8: `when` is not a section here"),
        ("when = { line = '(' }\naction = 'deny'", "5:17: this pattern cannot be read: unclosed group"),
        (
            "when = { user = 'a{1000}{1000}' }\naction = 'deny'",
            "5:17: this pattern is too large: compiled, it takes more than 1 MiB",
        ),
        ("when = { stage = 'update' }\naction = 'deny'", "5:18: unknown value `update`"),
        ("when = { client = '10.0.0.0/40' }\naction = 'deny'", "5:19: `10.0.0.0/40` is not a network"),
        ("when = { client = ['any'] }\naction = 'deny'", "5:19: a condition that holds for any client is none"),
        ("when = { listener = '1111' }\naction = 'deny'", "5:21: there is no listener on 127.0.0.1:1111"),
        ("when = { upstream = 'pop3://mail' }\naction = 'deny'", "5:21: no listener leads to an upstream of this name"),
        ("when = { tls = 'yes' }\naction = 'deny'", "5:16: invalid type: string \"yes\", expected a boolean"),
        ("when = { message = 0 }\naction = 'deny'", "5:20: these are not numbers of messages"),
        ("when = { message = ['5', '9-1'] }\naction = 'deny'", "5:26: these are not numbers of messages"),
        ("when = { size = '10 MiB' }\naction = 'deny'", "5:17: it is not said whether messages are to be larger or smaller"),
        ("", "3:1: this rule has no `action`"),
        ("action = 'reject'", "5:10: unknown value `reject`"),
        ("action = 5", "5:10: invalid type: integer `5`, expected an action such as \"allow\" or { deny = \"text\" }"),
        ("action = { denny = 'x' }", "5:12: unknown key `denny`"),
        ("action = {}", "5:10: there is no action in this table"),
        ("action = { deny = 'x', tag = 'y' }", "5:10: a rule has one action, and here are several"),
        ("action = { deny = \"a\\nb\" }", "5:19: there is a control character in this text"),
        ("action = { deny = '-ERR no' }", "5:19: this text begins with a status of its own"),
        (&format!("action = {{ close = '{}' }}", "x".repeat(501)), "5:20: this text has 501 octets, and 500 fit into a line"),
        ("action = { reply = ['-ERR no', 'line'] }", "5:10: a reply that begins with `-ERR` has one line"),
        ("action = { reply = ['ok', \"a\\r\"] }", "5:27: there is a control character in this text"),
        ("action = { rewrite = 'x' }", "5:10: it is not said what is replaced: there is no `line`"),
        ("when.line = 'a'\naction = { rewrite = '$1' }", "6:10: there is no group `1` in the pattern under `line`"),
        ("action = { rewrite_reply = 'x' }", "5:10: it is not said what is replaced: there is no `matching`"),
        ("action = { deny = 'x', matching = 'y' }", "5:10: `matching` goes with `rewrite_reply` and `rewrite_greeting` alone"),
        ("action = { tag = 'two words' }", "5:18: this is not one word"),
        ("action = { add_capability = '.' }", "5:10: a capability begins with its tag"),
        ("when.command = 'CAPA'\naction = { add_capability = 'X' }", "5:16: `command` does not go with `add_capability`"),
        ("when.size = '>1'\naction = { remove_capability = 'X' }", "5:13: `size` does not go with `remove_capability`"),
        (
            "when.user = 'x'\naction = { rewrite_greeting = '', matching = 'x' }",
            "5:13: `user` does not go with `rewrite_greeting`",
        ),
        ("when.command = ['DELE', 'RETR']\naction = 'shield'", "5:16: `shield` is for DELE alone"),
        ("reply_shape = 'multi-line'\naction = 'deny'", "5:15: `reply_shape` is for commands that are allowed"),
        ("reply_shape = 'multi-line'\naction = 'allow'", "5:15: it is not said whose replies have this `reply_shape`"),
        (
            "reply_shape = 'multi-line'\nwhen.command = 'list'\naction = 'allow'",
            "5:15: poptap knows the shape of the replies to LIST",
        ),
        ("mode = 'dry'\naction = 'allow'", "5:8: unknown value `dry`"),
    ] {
        assert_eq!(faults_of(keys), [format!("p.toml:{said}")], "{keys}");
    }
}

#[test]
fn a_rule_has_a_name_of_its_own() {
    let rules = "[[rule]]\naction = 'tag'\n[[rule]]\nname = ''\naction = 'tag'\n";
    assert_eq!(faults(&format!("{UPSTREAM}{rules}"), ""), ["p.toml:6:8: this is not a name for a rule"], "one breeds no others");
    let found = faults(&format!("{UPSTREAM}[[rule]]\naction = 'tag'\n[[rule]]\nname = '--shield'\naction = 'tag'\n"), "--shield");
    assert_eq!(found, ["p.toml:3:1: this rule has no `name`", "p.toml:6:8: there are two rules `--shield`"]);
}

#[test]
fn one_fault_elsewhere_does_not_cause_others() {
    for file in [
        "[[upstream]]\nurl = 'mail'\n[[rule]]\nname = 'r'\nwhen = { upstream = 'x', listener = '5' }\naction = 'deny'\n",
        "[[upstream]]\nurl = 'pop3://a'\n[[listener]]\naddress = 5\n[[rule]]\nname = 'r'\nwhen.listener = '5'\naction = 'deny'\n",
        "[[upstream]]\nurl = 'pop3://a'\n[rule]\nname = 'r'\n",
        "[[upstream]]\nurl = 'pop3://a'\n[[rule]]\nname = 'r'\nwhen.line = '('\naction.rewrite = 'x'\n",
        "[[upstream]]\nurl = 'pop3://a'\n[[rule]]\nname = 'r'\naction.deny = 5\n",
        "[[upstream]]\nurl = 'pop3://a'\n[limits]\ncommand_line = 63\n",
        "[[upstream]]\nurl = 'pop3://a'\n[limits]\nsasl_line = '2 MiB'\n",
        "[[upstream]]\nurl = 'pop3://a'\n[shield]\ndir = ''\n",
    ] {
        assert_eq!(faults(file, "").len(), 1, "{file}: {:?}", faults(file, ""));
    }
}

#[test]
fn rules_that_are_hardly_meant_are_warned_of() {
    let warnings = |rules: &str| load_words(Some(&format!("{UPSTREAM}{rules}")), "").unwrap().warnings;
    let with_user = |rest: &str| warnings(&format!("[[rule]]\nname = 'r'\nwhen.user = 'x'\n{rest}"));
    for action in ["action = 'deny'", "action = 'close'", "action.reply = 'x'"] {
        let found = with_user(action);
        assert!(found.len() == 1 && found[0].contains("`r` holds for everything until the user is known"), "{action}: {found:?}");
        for narrower in ["when.command = 'DELE'", "when.stage = 'transaction'", "when.line = 'x'", "mode = 'dry-run'"] {
            assert_eq!(with_user(&format!("{narrower}\n{action}")), Vec::<String>::new());
        }
    }
    for action in ["action = 'shield'", "action = 'allow'", "action = 'tag'"] {
        assert_eq!(with_user(action), Vec::<String>::new(), "{action}");
    }
    let behind =
        "[[rule]]\nname = 'b'\naction = 'tag'\n[[rule]]\nname = 'c'\naction = { rewrite_greeting = '', matching = 'x' }\n";
    let found = warnings(&format!("[[rule]]\nname = 'a'\naction = 'allow'\n{behind}"));
    assert_eq!(found, ["the rule `b` is never asked: `a` before it holds for everything"]);
    for first in
        ["action = 'tag'", "action = 'shield'", "action = 'allow'\nmode = 'dry-run'", "action = 'allow'\nwhen.tls = true"]
    {
        assert_eq!(warnings(&format!("[[rule]]\nname = 'a'\n{first}\n{behind}")), Vec::<String>::new(), "{first}");
    }
}

fn loaded_with_state_in(state: Option<&str>, words: &str) -> Result<Shield, String> {
    let environment = Environment { state_directory: state.map(Into::into), ..Environment::default() };
    let words = format!("poptap run pop3://mail --no-transcript {words}");
    let Command::Run(args) = Cli::try_parse_from(words.split_whitespace()).unwrap().command else { panic!("run was asked for") };
    resolve::load_in(&args, &environment).map(|loaded| loaded.config.shield).map_err(|faults| faults.to_string())
}

#[test]
fn the_shield_has_a_place_when_it_is_needed() {
    let keep = Duration::from_secs(90 * 86_400);
    let shield = |dir: Option<&str>| Ok(Shield { remember: true, keep, dir: dir.map(PathBuf::from) });
    assert_eq!(loaded_with_state_in(Some("/var/lib/poptap"), "--shield"), shield(Some("/var/lib/poptap/shield")));
    assert_eq!(loaded_with_state_in(Some("/var/lib/poptap"), ""), shield(None));
    assert_eq!(loaded_with_state_in(None, ""), shield(None));
    assert!(loaded_with_state_in(None, "--shield").unwrap_err().contains("no place to remember shielded messages"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.toml");
    for (section, dir) in [("remember = false", None), ("dir = '/elsewhere'", Some("/elsewhere"))] {
        fs::write(&file, format!("[shield]\n{section}\n")).unwrap();
        let found = loaded_with_state_in(None, &format!("--shield --config {}", file.display())).unwrap();
        assert_eq!((found.dir, found.remember), (dir.map(PathBuf::from), dir.is_some()), "{section}");
    }
}

/// What is commented out in the example would be accepted.
#[test]
fn the_example_s_rule_is_valid() {
    let example = fs::read_to_string(in_repository("config/poptap.toml")).unwrap();
    let start = example.find("# [[rule]]").unwrap();
    let end = start + example[start..].find("\n\n").unwrap();
    let is_setting =
        |line: &&str| line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains([' ', '{', '"']));
    let settings: Vec<&str> = example[start..end].lines().map(|line| line.trim_start_matches("# ")).filter(is_setting).collect();
    assert!(settings.len() > 14, "{settings:?}");
    let allowing: Vec<&str> = settings.iter().copied().filter(|line| !line.starts_with("reply_shape")).collect();
    let loaded = load_words(Some(&allowing.join("\n")), "pop3s://pop.example.net").unwrap();
    assert_eq!((loaded.config.rules.len(), loaded.warnings), (1, Vec::new()));
}
