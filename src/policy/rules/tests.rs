//! Rules and commands: what holds, and what one at a time would have told.

use proptest::prelude::*;

use super::*;
use crate::{
    config::{ReplyShape, SizeBound, When},
    pop3::{Command, Shape},
};

fn deny() -> RuleAction {
    RuleAction::Deny(b"-ERR no\r\n"[..].into())
}

fn rule(name: &str, when: When, action: RuleAction) -> Rule {
    Rule { name: name.into(), enforced: true, when, action, reply_shape: None }
}

fn dry(rule: Rule) -> Rule {
    Rule { enforced: false, ..rule }
}

fn command(word: &str) -> When {
    When { commands: vec![word.as_bytes().into()], ..When::default() }
}

fn line(pattern: &str) -> When {
    When { line: Some(Pattern::octets(pattern).unwrap()), ..When::default() }
}

fn user(pattern: &str) -> When {
    When { user: Some(Pattern::name(pattern).unwrap()), ..When::default() }
}

const FACTS: Facts<'static> = Facts {
    client: IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 3)),
    listener: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1110),
    upstream: "main",
    tls: false,
};

fn applicable(rules: &[Rule]) -> Applicable {
    Arc::new(Rules::new(rules).unwrap()).for_session(&FACTS)
}

fn question(line: &[u8]) -> Question<'_> {
    let word = Command::parse(line).word;
    Question { line, word, stage: Stage::Transaction, user: Some("joe"), user_pending: false, message: None, size: None }
}

/// Names: the one that decides, those beside it, those that would.
type Names = (Option<String>, Vec<String>, Vec<String>);

fn names(findings: &Findings<'_>) -> Names {
    let all = |rules: &[&Arc<Compiled>]| rules.iter().map(|rule| rule.name.to_string()).collect();
    (findings.decides.map(|rule| rule.name.to_string()), all(&findings.beside), all(&findings.would))
}

/// Whether a rule with these conditions holds for a line.
fn holds(when: &When, line: &[u8]) -> bool {
    applicable(&[rule("r", when.clone(), deny())]).judge(&question(line)).decides.is_some()
}

#[test]
fn no_spelling_evades_a_rule() {
    for spelling in [
        &b"DELE 1"[..],
        b"dele 1",
        b"DeLe 1",
        b"  DELE 1",
        b"\tDELE 1",
        b" \t DELE\t 1 \t",
        b"DELE\t1",
        b"DELE\r1",
        b"DELE\x001",
        b"DELE   1\r\n",
        b"DELE 1 \xff",
    ] {
        for when in [command("DELE"), line("^DELE 1( .*)?$"), line("^dele "), line("LE 1")] {
            assert!(holds(&when, spelling), "{when:?}: {}", spelling.escape_ascii());
        }
    }
    for other in [&b"DELEX 1"[..], b"XDELE 1", b"RETR 1", b"", b" ", b"DEL E"] {
        for when in [command("DELE"), line("^DELE 1( .*)?$")] {
            assert!(!holds(&when, other), "{when:?}: {}", other.escape_ascii());
        }
    }
}

#[test]
fn every_condition_has_to_hold() {
    let when = When {
        commands: vec![b"RETR"[..].into(), b"TOP"[..].into()],
        stage: Some(Stage::Transaction),
        messages: vec![1..=10, 20..=u64::MAX],
        size: Some(SizeBound::Over(100)),
        ..line("^(retr|top) ")
    };
    let all = Question { message: Some(20), size: Some(101), ..question(b"RETR 20") };
    let rules = applicable(&[rule("r", when, deny())]);
    for (question, expected) in [
        (all, true),
        (Question { stage: Stage::Update, ..all }, true),
        (Question { stage: Stage::Authorization, ..all }, false),
        (Question { message: Some(11), ..all }, false),
        (Question { message: Some(10), ..all }, true),
        (Question { message: None, ..all }, false),
        (Question { size: Some(100), ..all }, false),
        (Question { size: None, ..all }, false),
        (Question { word: b"top", ..all }, true),
        (Question { word: b"DELE", ..all }, false),
        (Question { line: b"XRETR 20", ..all }, false),
    ] {
        assert_eq!(rules.judge(&question).decides.is_some(), expected, "{question:?}");
    }
}

#[test]
fn who_is_not_known_can_be_denied_and_not_allowed() {
    let replacing = || Pattern::octets("x").unwrap();
    for (action, when_unknown) in [
        (deny(), true),
        (RuleAction::Close(b"-ERR\r\n"[..].into()), true),
        (RuleAction::Reply(b"+OK\r\n"[..].into()), true),
        (RuleAction::Shield, true),
        (RuleAction::Allow, false),
        (RuleAction::Rewrite("x".to_owned()), false),
        (RuleAction::Tag(None), false),
        (RuleAction::RewriteReply { matching: replacing(), with: String::new() }, false),
    ] {
        let when = When { line: Some(Pattern::octets("dele").unwrap()), ..user("archive@.*") };
        for rules in [vec![rule("r", when.clone(), action.clone())], vec![dry(rule("r", when, action.clone()))]] {
            let rules = applicable(&rules);
            for (user, expected) in
                [(None, when_unknown), (Some("Archive@example.net"), true), (Some("joe"), false), (Some("xarchive@"), false)]
            {
                let findings = rules.judge(&Question { user, ..question(b"DELE 1") });
                let found = findings.decides.is_some() || !findings.beside.is_empty() || !findings.would.is_empty();
                assert_eq!(found, expected, "{action:?} {user:?}");
            }
        }
    }
}

#[test]
fn the_first_that_decides_ends_it() {
    let rules = [
        dry(rule("dry deny", command("DELE"), deny())),
        rule("tag", When::default(), RuleAction::Tag(None)),
        rule("never", command("RETR"), deny()),
        rule("edit", line("dele"), RuleAction::RewriteReply { matching: Pattern::octets("a").unwrap(), with: String::new() }),
        rule(
            "greeting",
            When::default(),
            RuleAction::RewriteGreeting { matching: Pattern::octets("a").unwrap(), with: String::new() },
        ),
        rule("allow", command("DELE"), RuleAction::Allow),
        dry(rule("dry behind", When::default(), deny())),
        rule("behind", When::default(), RuleAction::Tag(None)),
        rule("last", When::default(), deny()),
    ];
    let rules = applicable(&rules);
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        names(&rules.judge(&question(b"DELE 1"))),
        (Some("allow".to_owned()), owned(&["tag", "edit"]), owned(&["dry deny"]))
    );
    assert_eq!(
        names(&rules.judge(&question(b"NOOP"))),
        (Some("last".to_owned()), owned(&["tag", "behind"]), owned(&["dry behind"]))
    );
    assert_eq!(rules.greeting().map(|rule| &*rule.name).collect::<Vec<_>>(), ["greeting"]);
}

#[test]
fn some_actions_are_for_one_command() {
    for (action, own) in [
        (RuleAction::Shield, &b"dele 1"[..]),
        (RuleAction::RemoveCapability(vec!["TOP".to_owned()]), b"CAPA"),
        (RuleAction::AddCapability(vec!["X".to_owned()]), b"capa"),
    ] {
        let rules = applicable(&[rule("r", When::default(), action)]);
        let is_empty = |line| names(&rules.judge(&question(line))) == (None, Vec::new(), Vec::new());
        assert!(!is_empty(own) && is_empty(b"NOOP"), "{}", own.escape_ascii());
    }
}

#[test]
fn what_is_settled_when_a_session_begins() {
    let only = |when: When| Arc::new(Rules::new(&[rule("r", when, deny())]).unwrap());
    let none = When::default;
    for (when, facts, expected) in [
        (none(), FACTS, true),
        (When { clients: vec!["10.1.0.0/16".parse().unwrap()], ..none() }, FACTS, true),
        (
            When { clients: vec!["10.1.0.0/16".parse().unwrap()], ..none() },
            Facts { client: "::ffff:10.1.9.9".parse().unwrap(), ..FACTS },
            true,
        ),
        (When { clients: vec!["10.2.0.0/16".parse().unwrap(), "::1/128".parse().unwrap()], ..none() }, FACTS, false),
        (When { listeners: vec!["127.0.0.1:1110".parse().unwrap()], ..none() }, FACTS, true),
        (When { listeners: vec!["127.0.0.1:1111".parse().unwrap()], ..none() }, FACTS, false),
        (When { upstreams: vec!["other".to_owned(), "main".to_owned()], ..none() }, FACTS, true),
        (When { upstreams: vec!["Main".to_owned()], ..none() }, FACTS, false),
        (When { tls: Some(true), ..none() }, FACTS, false),
        (When { tls: Some(true), ..none() }, Facts { tls: true, ..FACTS }, true),
        (When { tls: Some(false), ..none() }, FACTS, true),
    ] {
        let session = only(when.clone()).for_session(&facts);
        assert_eq!((!session.is_empty(), session.judge(&question(b"NOOP")).decides.is_some()), (expected, expected), "{when:?}");
    }
}

#[test]
fn what_a_session_has_to_care_for() {
    let size = || When { size: Some(SizeBound::Over(1)), ..command("RETR") };
    let capability = || RuleAction::RemoveCapability(vec!["TOP".to_owned()]);
    let edit = || RuleAction::RewriteReply { matching: Pattern::octets("a").unwrap(), with: String::new() };
    let cares = |rules: &[Rule]| {
        let found = applicable(rules);
        let answers = [
            found.is_empty(),
            found.is_enforced(),
            found.wants_sizes(),
            found.enforces_sizes(),
            found.edits_capabilities(),
            found.edits_replies(),
            found.may_shield(None),
            found.may_shield(Some("archive@a")),
            found.may_shield(Some("joe")),
        ];
        answers.map(u8::from)
    };
    for (rules, expected) in [
        (vec![], [1, 0, 0, 0, 0, 0, 0, 0, 0]),
        (vec![rule("r", size(), deny())], [0, 1, 1, 1, 0, 0, 0, 0, 0]),
        (vec![dry(rule("r", size(), deny())), rule("s", When::default(), deny())], [0, 1, 1, 0, 0, 0, 0, 0, 0]),
        (vec![dry(rule("r", size(), deny()))], [0, 0, 1, 0, 0, 0, 0, 0, 0]),
        (vec![rule("r", When::default(), capability())], [0, 1, 0, 0, 1, 0, 0, 0, 0]),
        (vec![dry(rule("r", When::default(), capability())), dry(rule("s", When::default(), edit()))], [0; 9]),
        (vec![rule("r", When::default(), edit())], [0, 1, 0, 0, 0, 1, 0, 0, 0]),
        (vec![rule("r", user("archive@.*"), RuleAction::Shield)], [0, 1, 0, 0, 0, 0, 1, 1, 0]),
        (vec![rule("r", When::default(), RuleAction::Shield)], [0, 1, 0, 0, 0, 0, 1, 1, 1]),
        (vec![dry(rule("r", When::default(), RuleAction::Shield))], [0; 9]),
    ] {
        assert_eq!(cares(&rules), expected, "{rules:?}");
    }
}

#[test]
fn texts_are_made_of_groups() {
    let made = |when: When, action: RuleAction, text: &[u8]| {
        let rules = Rules::new(&[rule("r", when, action)]).unwrap();
        let [line, text] = [rules.all[0].rewrite(text), rules.all[0].rewrite_text(text)];
        [line, text].map(|made| made.map(|made| made.escape_ascii().to_string()))
    };
    let replacing = |pattern: &str, with: &str| RuleAction::RewriteReply {
        matching: Pattern::octets(pattern).unwrap(),
        with: with.to_owned(),
    };
    let some = |text: &str| Some(text.to_owned());
    let rewrite = |with: &str| RuleAction::Rewrite(with.to_owned());
    for (when, action, text, expected) in [
        (line("^(user) (.*)@old$"), rewrite("$1 ${2}@new"), &b"USER joe@old"[..], [some("USER joe@new"), None]),
        (line("^(user) (.*)@old$"), rewrite("$1 ${2}@new"), b"USER joe@other", [None, None]),
        (line("a"), rewrite("$$"), b"XA aa", [some("X$ aa"), None]),
        (line("noop"), rewrite("NOOP"), b"NOOP", [None, None]),
        (line("\\xff"), rewrite("-"), b"XFOO \xff\xfe", [some("XFOO -\\xfe"), None]),
        (When::default(), replacing("dovecot (?<v>.*)", "ready $v"), b"Dovecot 2.3", [None, some("ready 2.3")]),
        (When::default(), replacing(".*", ""), b"Dovecot", [None, some("")]),
        (When::default(), deny(), b"USER", [None, None]),
    ] {
        assert_eq!(made(when, action.clone(), text), expected, "{action:?}");
    }
    let shaped = Rule { reply_shape: Some(ReplyShape::MultiLine), ..rule("r", command("XFOO"), RuleAction::Allow) };
    assert_eq!(Rules::new(&[shaped]).unwrap().all[0].shape, Some(Shape::MultiLine));
}

/// An engine that backtracks would not come to an end.
#[test]
fn no_line_takes_for_ever() {
    let mut rules: Vec<Rule> =
        ["(a*)*b", "(a|a)*b", "(a|aa)+$", "(.*a){20}b"].map(|pattern| rule(pattern, line(pattern), deny())).into();
    rules.push(rule("(a*)*b", When { user: Some(Pattern::name("(a*)*b").unwrap()), ..When::default() }, deny()));
    let rules = applicable(&rules[..]);
    let hostile = "a".repeat(1 << 20);
    let question = Question { user: Some(&hostile), ..question(hostile.as_bytes()) };
    assert_eq!(rules.judge(&question).decides.map(|rule| &*rule.name), Some("(a|aa)+$"));
    assert!(normalise(&b"a \t".repeat(1 << 18)).len() < 1 << 20);
}

/// What [`Applicable::judge`] has to find, by conditions looked at one at a time.
fn one_at_a_time(rules: &[Rule], question: &Question<'_>) -> Names {
    let (mut beside, mut would) = (Vec::new(), Vec::new());
    for rule in rules {
        let When { commands, line, stage, user, messages, size, .. } = &rule.when;
        let word = question.word.to_ascii_uppercase();
        let is_user = |pattern: &Pattern| match question.user {
            Some(user) => regex::Regex::new(&format!("(?is)^(?:{})$", pattern.as_str())).unwrap().is_match(user),
            None => !question.user_pending && matches!(rule.action.name(), "deny" | "reply" | "close" | "shield"),
        };
        let holds = (commands.is_empty() || commands.iter().any(|command| **command == *word))
            && line.as_ref().is_none_or(|pattern| pattern.regex().unwrap().is_match(&normalise(question.line)))
            && stage.is_none_or(|stage| stage == question.stage)
            && user.as_ref().is_none_or(is_user)
            && (messages.is_empty()
                || question.message.is_some_and(|number| messages.iter().any(|range| range.contains(&number))))
            && size.is_none_or(|bound| question.size.is_some_and(|size| bound.holds(size)))
            && (rule.action != RuleAction::Shield || word == b"DELE");
        match (holds, rule.enforced, rule.action.name()) {
            (false, ..) => {}
            (true, false, _) => would.push(rule.name.to_string()),
            (true, true, "tag" | "rewrite_reply") => beside.push(rule.name.to_string()),
            (true, true, _) => return (Some(rule.name.to_string()), beside, would),
        }
    }
    (None, beside, would)
}

fn some_rule() -> impl Strategy<Value = Rule> {
    use proptest::{option::weighted, sample::select};
    let patterns = vec!["^DELE", "1", ".", "^(noop|retr) ?", "[^ ]+ [0-9]+$", "x"];
    let actions = vec![
        deny(),
        RuleAction::Allow,
        RuleAction::Shield,
        RuleAction::Tag(None),
        RuleAction::Tag(None),
        RuleAction::Close(b"-ERR\r\n"[..].into()),
        RuleAction::RewriteReply { matching: Pattern::octets("a").unwrap(), with: String::new() },
    ];
    let when = (
        proptest::collection::vec(select(vec!["DELE", "RETR", "NOOP"]), 0..3),
        weighted(0.6, select(patterns)),
        weighted(0.3, select(vec![Stage::Authorization, Stage::Transaction])),
        weighted(0.4, select(vec!["joe", "a.*", "joe|ann"])),
        weighted(0.2, (1..4_u64, 1..4_u64)),
        weighted(0.2, select(vec![SizeBound::Over(10), SizeBound::AtMost(10)])),
    );
    (when, select(actions), any::<bool>()).prop_map(|((commands, line, stage, user, messages, size), action, enforced)| {
        // The configuration refuses any other for `shield`.
        let commands = if action == RuleAction::Shield { Vec::new() } else { commands };
        let when = When {
            commands: commands.iter().map(|word| word.as_bytes().into()).collect(),
            line: line.map(|line| Pattern::octets(line).unwrap()),
            stage,
            user: user.map(|user| Pattern::name(user).unwrap()),
            messages: messages.map(|(first, last)| first..=first.max(last)).into_iter().collect(),
            size,
            ..When::default()
        };
        Rule { enforced, ..rule("", when, action) }
    })
}

proptest! {
    #[test]
    fn all_at_once_is_as_one_at_a_time(
        mut rules in proptest::collection::vec(some_rule(), 0..12),
        line in "[ \t]{0,2}([Dd][Ee]LE|retr|NOOP|XFOO)?[ \t]{0,3}[0-9x]{0,2}[ \t]?(\r\n)?",
        is_in in any::<bool>(),
        user in proptest::option::of("joe|JOE|ann|bob"),
        user_pending in any::<bool>(),
        message in proptest::option::of(1..4_u64),
        size in proptest::option::of(9..12_u64),
    ) {
        for (number, rule) in rules.iter_mut().enumerate() {
            rule.name = number.to_string().into();
        }
        let stage = if is_in { Stage::Transaction } else { Stage::Authorization };
        let question = Question { stage, user: user.as_deref(), user_pending, message, size, ..question(line.as_bytes()) };
        prop_assert_eq!(names(&applicable(&rules).judge(&question)), one_at_a_time(&rules, &question));
    }
}
