//! The user's rules in one session, with the shield and the limits on logins: what they make of each line.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    login::{self, Login, Response},
    memory::Memory,
    replies::{Replies, ReplyEdits, rewrite_text},
    rules::{Applicable, Compiled, Question},
    ruling::{Decided, Onward, Ruling, decide, has_odd_number, message_number, named, note, refuse, refuse_as},
    shield::{self, Change, Course, Shield},
    terms::Terms,
};
use crate::{
    admission::Visit,
    config::RuleAction,
    pop3::{Command, Keyword, Ordinal, Stage, Status, Wants},
    tap::{
        Action, After, Asked, Caps, Context, Edit, LINE_TOO_LONG, MALFORMED_LINE, Note, Replied, Rule, SaslVerdict, Told,
        Verdict, is_malformed,
    },
};

/// What holds a session to the rules; there only where there are some, or limits on logins.
pub(super) struct Guard {
    rules: Applicable,
    /// There where any rule is enforced, so that the session fails closed.
    closed: Option<Caps>,
    caps: Caps,
    has_rules: bool,
    watches_logins: bool,
    login: Login,
    memory: Option<Arc<Memory>>,
    /// The upstream's name, for the memory.
    upstream: Arc<str>,
    /// There from the login on, where messages are shielded or their sizes are needed.
    shield: Option<Shield>,
    visit: Option<Arc<Mutex<Visit>>>,
    pub(super) replies: Replies,
    notes: VecDeque<Note>,
    /// An AUTH whose exchange is still to tell who it is for: its line, to be judged then.
    undecided: Option<Vec<u8>>,
}

impl Guard {
    pub(super) fn new(terms: Terms) -> Self {
        let Terms { rules, caps, memory, upstream, visit } = terms;
        let watches = |visit: &Arc<Mutex<Visit>>| visit.lock().unwrap_or_else(PoisonError::into_inner).watches_logins();
        Self {
            closed: rules.is_enforced().then_some(caps),
            has_rules: !rules.is_empty(),
            watches_logins: visit.as_ref().is_some_and(watches),
            rules,
            caps,
            login: Login::default(),
            memory,
            upstream,
            shield: None,
            visit,
            replies: Replies::default(),
            notes: VecDeque::new(),
            undecided: None,
        }
    }

    /// There where any rule is enforced, so that the session fails closed.
    pub(super) fn caps(&self) -> Option<Caps> {
        self.closed
    }

    /// Whether the limits on logins have to see each.
    pub(super) fn watches_logins(&self) -> bool {
        self.watches_logins
    }

    /// Whether a command, or its reply, is of interest: where there are no rules, only what belongs to a login.
    pub(super) fn watches(&self, keyword: Keyword) -> bool {
        use Keyword::{Apop, Auth, Pass, Rpop, User};
        self.has_rules || matches!(keyword, Apop | Auth | Pass | Rpop | User)
    }

    /// Puts other rules in place of those that are there; whether the session fails closed stays as it is.
    pub(super) fn swap_rules(&mut self, rules: Applicable) -> Applicable {
        std::mem::replace(&mut self.rules, rules)
    }

    /// The session leads to this upstream: other rules may hold.
    pub(super) fn aim(&mut self, rules: Applicable, upstream: Arc<str>) {
        self.closed = rules.is_enforced().then_some(self.caps);
        self.has_rules = !rules.is_empty();
        (self.rules, self.upstream) = (rules, upstream);
    }

    /// None of the rules.
    pub(super) fn no_rules(&self) -> Applicable {
        self.rules.none()
    }

    pub(super) fn note(&mut self) -> Option<Note> {
        self.notes.pop_front()
    }

    // ── commands ──

    /// What becomes of a command of a session that fails closed; `onward` is asked about what goes on.
    pub(super) fn judge(
        &mut self,
        command: &Command<'_>,
        context: Context,
        onward: impl FnOnce(&Command<'_>, Context) -> Verdict,
    ) -> Verdict {
        if has_odd_number(command) {
            return refuse(MALFORMED, "malformed-number");
        }
        if self.waits(command, context) {
            return Verdict::Wait;
        }
        let pending = Login::will_tell(command);
        let ruling = self.ruling(command, context.stage, pending);
        let verdict = match ruling.decision {
            Decided::Refused(verdict) => verdict,
            Decided::Shielded(name) => self.shielded(command, name),
            Decided::Onward(onwards) => self.onward(command, context, onwards, ruling.edits, onward),
        };
        if let Verdict::Forward(_) | Verdict::Rewrite { .. } = &verdict {
            self.login.forwarded(context.n, command);
            if command.keyword == Keyword::Auth {
                self.undecided = pending.then(|| command.line.to_vec());
            }
        }
        verdict
    }

    /// A shielded DELE changes what earlier replies are to say, and so does a RSET: these come first. So does the reply to a USER
    /// that may be refused, and leaves another name for PASS.
    fn waits(&self, command: &Command<'_>, context: Context) -> bool {
        let changes = self.shield.is_some() && matches!(command.keyword, Keyword::Dele | Keyword::Rset);
        !context.idle && (changes || self.login.awaits_name(command))
    }

    /// What the rules say. Notes what is to be recorded besides.
    fn ruling(&mut self, command: &Command<'_>, stage: Stage, user_pending: bool) -> Ruling {
        let user = self.login.subject(command);
        let message = message_number(command);
        let size = message.and_then(|number| self.size(number));
        let (line, word) = (command.line, command.word);
        let question = Question { line, word, stage, user: user.as_deref(), user_pending, message, size };
        let findings = self.rules.judge(&question);
        for rule in &findings.would {
            self.notes.push_back(note(rule));
        }
        let mut edits = ReplyEdits::default();
        for rule in &findings.beside {
            match &rule.action {
                RuleAction::Tag(_) => self.notes.push_back(note(rule)),
                _ => edits.add(rule),
            }
        }
        let decision = match findings.decides {
            None => Decided::Onward(Onward::default()),
            Some(rule) => decide(rule, command, &mut self.notes),
        };
        Ruling { decision, edits }
    }

    fn size(&self, number: u64) -> Option<u64> {
        match &self.shield {
            Some(shield) => shield.size(number),
            None => self.replies.size(number),
        }
    }

    /// A command that a rule shields. Only a DELE behind a login is one.
    fn shielded(&mut self, command: &Command<'_>, name: Rule) -> Verdict {
        match &mut self.shield {
            Some(shield) => match shield.delete(command) {
                Ok(text) => Verdict::Answer { text, action: Action::Shield, rule: name },
                Err(text) => refuse_as(text, name),
            },
            // Not logged in: there is nothing to delete.
            None => Verdict::Answer { text: Arc::from(NOT_NOW), action: Action::Answer, rule: name },
        }
    }

    /// A command that goes on, perhaps as another.
    fn onward(
        &mut self,
        command: &Command<'_>,
        context: Context,
        Onward { rewritten, is_allowed, wants }: Onward,
        edits: ReplyEdits,
        onward: impl FnOnce(&Command<'_>, Context) -> Verdict,
    ) -> Verdict {
        let sent = rewritten.as_ref().map_or(*command, |(line, _)| Command::parse(line.trim_ascii_end()));
        let (renumbered, change, wanted) = match self.course(&sent, context, is_allowed) {
            Course::Refuse(text) => return refuse(text, "shield"),
            Course::Forward(wants, change) => (None, change, wants),
            Course::Renumber(line, wants, change) => (Some((line, shield::RULE)), change, wants),
        };
        if let Some(denied) = self.attempts(&sent) {
            return denied;
        }
        let own = edits.wants(sent.keyword).or(wants).or(wanted).or(self.wants_of_login(&sent));
        match onward(&sent, context) {
            Verdict::Forward(wants) => {
                let wants = wants.or(own);
                self.replies.expect(context.n, edits, change);
                match renumbered.or(rewritten) {
                    None => Verdict::Forward(wants),
                    Some((text, rule)) => Verdict::Rewrite { text: text.into(), rule, wants },
                }
            }
            other => other,
        }
    }

    fn course(&mut self, command: &Command<'_>, context: Context, is_allowed: bool) -> Course {
        let user = self.login.current();
        let Some(shield) = self.shield.as_mut().filter(|_| context.stage == Stage::Transaction) else {
            return Course::Forward(Wants::default(), Change::Nothing);
        };
        if !is_allowed && !shield::bears(command.keyword) && self.rules.may_shield(user) {
            return Course::Refuse(NOT_KNOWN);
        }
        if command.keyword == Keyword::Rset {
            shield.reset();
        }
        shield.course(command)
    }

    /// A login, or a part of one that names somebody, which the limits refuse.
    fn attempts(&mut self, command: &Command<'_>) -> Option<Verdict> {
        if !login::begins(command) || Login::will_tell(command) {
            return None;
        }
        let user = self.login.subject(command);
        let denied = self.visit()?.attempt(user.as_deref()).err()?;
        let (text, rule) = (Arc::from(denied.client_line().as_bytes()), Rule::BuiltIn(denied.reason()));
        Some(Verdict::Dismiss { text, rule })
    }

    /// The reply to a login is held: what follows from it comes first.
    fn wants_of_login(&self, command: &Command<'_>) -> Wants {
        let decides = login::begins(command) && (self.watches_logins || self.closed.is_some());
        Wants { status: decides, ..Wants::default() }
    }

    /// A command went on that was not judged, since no rule is enforced: what would have become of it?
    pub(super) fn watched(&mut self, command: &Command<'_>, context: Context) {
        if self.closed.is_some() {
            return;
        }
        self.login.forwarded(context.n, command);
        if self.has_rules {
            self.would_refuse(command);
            let pending = Login::will_tell(command);
            let _ruling = self.ruling(command, context.stage, pending);
            if command.keyword == Keyword::Auth {
                self.undecided = pending.then(|| command.line.to_vec());
            }
            self.replies.asked(context.n, message_number(command));
        }
    }

    /// Notes a line that would not even be judged if a rule were enforced.
    fn would_refuse(&mut self, command: &Command<'_>) {
        let (action, rule) = if command.line.len() + 2 > self.caps.command {
            (Action::Close, LINE_TOO_LONG)
        } else if is_malformed(command.line) {
            (Action::Answer, MALFORMED_LINE)
        } else {
            return;
        };
        self.notes.push_back(Note { action, rule: Rule::BuiltIn(rule), enforced: false, tag: None });
    }

    /// A login in a session without enforced rules: the limits only. One waits for another, or all that a client sends at once
    /// would be let through before the first of them counts.
    pub(super) fn login(&mut self, command: &Command<'_>, context: Context) -> Result<Wants, Verdict> {
        let is_early = self.login.is_trying() && login::begins(command) || self.login.awaits_name(command);
        if self.watches_logins && is_early && !context.idle {
            return Err(Verdict::Wait);
        }
        match self.attempts(command) {
            Some(denied) => Err(denied),
            None => Ok(self.wants_of_login(command)),
        }
    }

    // ── SASL ──

    /// A response in a session without enforced rules or limits.
    pub(super) fn responded(&mut self, auth: Ordinal, line: &[u8], whole: bool) {
        let response = self.login.response(auth, line, whole);
        let _ruling = self.ruling_of_login(response);
    }

    /// A response in a session that fails closed, or whose logins are limited.
    pub(super) fn sasl(&mut self, auth: Ordinal, line: &[u8], whole: bool) -> SaslVerdict {
        let response = self.login.response(auth, line, whole);
        let user = self.login.current().filter(|_| response == Response::Named).map(str::to_owned);
        let is_telling = response == Response::Named || response == Response::Nameless && self.undecided.is_some();
        if is_telling && let Some(denied) = self.visit().and_then(|mut visit| visit.attempt(user.as_deref()).err()) {
            let (text, rule) = (Arc::from(denied.client_line().as_bytes()), Rule::BuiltIn(denied.reason()));
            return SaslVerdict::Dismiss { text, rule };
        }
        let is_cut = response == Response::Nameless && !whole;
        let (text, rule) = match self.ruling_of_login(response) {
            Some((RuleAction::Deny(text) | RuleAction::Reply(text), rule)) if whole => {
                self.login.cancel(auth);
                self.replies.replace(auth, text, rule.clone());
                return SaslVerdict::Cancel { rule };
            }
            // Who it is for would be known only when it has gone on.
            Some((RuleAction::Close(_) | RuleAction::Deny(_) | RuleAction::Reply(_), _)) if is_cut => {
                (Arc::from(NOBODY), UNKNOWN)
            }
            Some((RuleAction::Close(text) | RuleAction::Deny(text) | RuleAction::Reply(text), rule)) => (text, rule),
            _ => return SaslVerdict::Forward,
        };
        SaslVerdict::Dismiss { text, rule }
    }

    /// What the rules say of an AUTH when its exchange has told who it is for, or is found not to tell it. Notes what the rules
    /// about users have to say besides.
    fn ruling_of_login(&mut self, response: Response) -> Option<(RuleAction, Rule)> {
        if matches!(response, Response::Astray | Response::Cancels) {
            return None;
        }
        let line = self.undecided.take()?;
        let command = Command::parse(&line);
        let user = self.login.current().filter(|_| response == Response::Named);
        let (line, word, stage) = (command.line, command.word, Stage::Authorization);
        let question = Question { line, word, stage, user, user_pending: false, message: None, size: None };
        let before = self.rules.judge(&Question { user: None, user_pending: true, ..question });
        let findings = self.rules.judge(&question);
        let tags = findings.beside.iter().filter(|rule| matches!(rule.action, RuleAction::Tag(_)));
        let is_new = |rule: &&&Arc<Compiled>| !before.would.iter().chain(&before.beside).any(|known| Arc::ptr_eq(known, rule));
        self.notes.extend(findings.would.iter().chain(tags).filter(is_new).map(|rule| note(rule)));
        findings.decides.map(|rule| (rule.action.clone(), named(rule)))
    }

    // ── replies ──

    pub(super) fn replied(&mut self, reply: Replied<'_>) -> After {
        self.replies.seen(reply);
        let told = self.login.replied(reply.n, reply.keyword, reply.status, reply.stage);
        match told {
            login::Told::LoggedIn => self.logged_in(),
            login::Told::Refused(user) => self.refused(user.as_deref()),
            login::Told::Nothing if reply.keyword == Keyword::Quit && reply.status == Some(Status::Ok) => self.quit(),
            login::Told::Nothing => After::GoOn,
        }
    }

    /// A piece of a listing of sizes, which tells something where nothing was asked at login.
    pub(super) fn listed(&mut self, octets: &[u8]) {
        if self.has_rules && self.closed.is_none() {
            self.replies.listed(octets);
        }
    }

    fn logged_in(&mut self) -> After {
        let user = self.login.current().map(str::to_owned);
        let Some(mut visit) = self.visit() else { return After::GoOn };
        // Who it is may have been told only in the exchange.
        match visit.attempt(user.as_deref()).and_then(|()| visit.logged_in(user.as_deref())) {
            Ok(()) => After::GoOn,
            Err(denied) => {
                After::Dismiss { text: Arc::from(denied.client_line().as_bytes()), rule: Rule::BuiltIn(denied.reason()) }
            }
        }
    }

    fn refused(&self, user: Option<&str>) -> After {
        let Some(failed) = self.visit().map(|mut visit| visit.failed(user)) else { return After::GoOn };
        match failed.denied {
            Some(denied) => {
                After::Dismiss { text: Arc::from(denied.client_line().as_bytes()), rule: Rule::BuiltIn(denied.reason()) }
            }
            None if failed.delay.is_zero() => After::GoOn,
            None => After::Delay(u64::try_from(failed.delay.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    fn quit(&mut self) -> After {
        match self.shield.as_mut().map_or(Ok(()), Shield::commit) {
            Ok(()) => After::GoOn,
            Err(text) => After::Dismiss { text: Arc::from(text), rule: shield::RULE },
        }
    }

    // ── the listing at login ──

    pub(super) fn ask_first(&mut self) -> Option<crate::tap::Question> {
        // Another PASS behind the login is no other login: what was listed and deleted still holds.
        if self.shield.is_some() {
            return None;
        }
        let user = self.login.current();
        let shields = self.rules.may_shield(user);
        if !shields && !self.rules.enforces_sizes() {
            return None;
        }
        let account = match (&self.memory, user) {
            (Some(memory), Some(user)) if shields => Some((Arc::clone(memory), memory.account(&self.upstream, user))),
            _ => None,
        };
        let (shield, question) = Shield::new(account);
        self.shield = Some(shield);
        Some(question)
    }

    pub(super) fn told(&mut self, told: Told<'_>) {
        if let Some(shield) = &mut self.shield {
            shield.told(told);
        }
    }

    pub(super) fn ask_next(&mut self) -> Asked {
        let nobody = self.memory.is_some() && self.login.current().is_none();
        match &mut self.shield {
            Some(_) if nobody && self.rules.may_shield(None) => Asked::Dismiss { text: Arc::from(NOBODY), rule: shield::RULE },
            Some(shield) => shield.next(),
            None => Asked::Enough,
        }
    }

    // ── the greeting ──

    pub(super) fn edits_greeting(&mut self, line: &[u8]) -> bool {
        if self.rules.greeting().next().is_none() {
            return false;
        }
        if self.closed.is_none() {
            // Only for what it notes.
            let _nothing = self.greeting_line(line);
        }
        self.closed.is_some()
    }

    /// What the rules make of the greeting. Its status stays, and a timestamp (RFC 1939 §7) is theirs to keep or to break.
    pub(super) fn greeting_line(&mut self, line: &[u8]) -> Edit {
        let mut text = line.to_vec();
        let mut by = None;
        for rule in self.rules.greeting() {
            match rewrite_text(rule, &text) {
                Some(changed) if rule.enforced => (text, by) = (changed, Some(named(rule))),
                Some(_) => self.notes.push_back(note(rule)),
                None => {}
            }
        }
        by.map_or(Edit::Keep, |rule| Edit::Replace { text: text.into(), rule })
    }

    pub(super) fn shield(&self) -> Option<&Shield> {
        self.shield.as_ref()
    }

    fn visit(&self) -> Option<MutexGuard<'_, Visit>> {
        self.visit.as_ref().map(|visit| visit.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A login that does not tell its user where a rule has to know.
const UNKNOWN: Rule = Rule::BuiltIn("unknown-user");
const MALFORMED: &[u8] = b"-ERR the message number is malformed\r\n";
const NOT_NOW: &[u8] = b"-ERR log in first\r\n";
const NOT_KNOWN: &[u8] = b"-ERR not available here\r\n";
const NOBODY: &[u8] = b"-ERR [SYS/PERM] rules are in force that need the user's name, and this login does not tell it\r\n";
