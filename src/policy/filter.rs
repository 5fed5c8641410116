//! The filter of a session: the built-in handling, behind it the user's rules where there are any.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{
    builtin::{Builtin, Settings},
    front::{Front, FrontTerms, local},
    guard::Guard,
    rules::Applicable,
    shield::Change,
    terms::Terms,
};
use crate::{
    config::Routed,
    pop3::{Command, Keyword, Ordinal, Plain, Stage, Status},
    tap::{
        Addition, After, Asked, Caps, Context, Edit, Filter, Hold, Note, Question, Replied, Replying, SaslVerdict, Told, Verdict,
        ViolationKind,
    },
};

/// What decides in a session. Without rules and without limits on logins it is the built-in handling alone.
pub struct Policy {
    builtin: Builtin,
    /// Boxed, since it is large and most sessions have none.
    guard: Option<Box<Guard>>,
    /// There until somebody is logged in, where users are routed.
    front: Option<Box<Front>>,
}

impl Policy {
    /// The handling of one session, or of the part of it before or after the client's STLS.
    #[must_use]
    pub fn new(settings: Settings, terms: Option<Terms>) -> Self {
        let guard = terms.map(Guard::new).map(Box::new);
        // What is end to end inside TLS, nobody can hold to any rule.
        let strict = guard.as_ref().is_some_and(|guard| guard.caps().is_some());
        let settings = Settings { refuse_stls: settings.refuse_stls || strict, ..settings };
        Self { builtin: Builtin::new(settings), guard, front: None }
    }

    /// The same for a client whose server is known only when it logs in.
    pub(crate) fn routing(self, terms: FrontTerms) -> Self {
        Self { front: Some(Box::new(Front::new(terms))), ..self }
    }

    /// Where the login that is due leads.
    pub(crate) fn routed(&self) -> Option<&Routed> {
        self.front.as_ref()?.routed()
    }

    /// A server was reached for the login, which is to greet.
    pub(crate) fn reached(&mut self, settings: Settings) {
        self.builtin = Builtin::new(Settings { drop_greeting: true, ..settings });
    }

    /// Logins that were refused in this session before the one that is under way.
    pub(crate) fn refused(&self) -> usize {
        self.front.as_ref().map_or(0, |front| front.refused())
    }

    /// The login was refused by poptap itself.
    pub(crate) fn login_refused(&mut self, reply: Replied<'_>) -> After {
        self.guard.as_mut().map_or(After::GoOn, |guard| guard.replied(reply))
    }

    /// What the built-in handling, the rules and the limits make of a command.
    fn judged(&mut self, command: &Command<'_>, context: Context) -> Verdict {
        let Some(guard) = &mut self.guard else { return self.builtin.command(command, context) };
        if let Some(violation) = Builtin::turns_away(command, context) {
            return Verdict::Close(violation);
        }
        let builtin = &mut self.builtin;
        if guard.caps().is_some() {
            return guard.judge(command, context, |command, context| builtin.command(command, context));
        }
        match builtin.command(command, context) {
            Verdict::Forward(wants) => match guard.login(command, context) {
                Ok(more) => Verdict::Forward(wants.or(more)),
                Err(denied) => denied,
            },
            other => other,
        }
    }

    /// What becomes of a command while there is no server.
    fn answered(&mut self, command: &Command<'_>, context: Context) -> Verdict {
        self.aim_for(Front::named(command));
        let verdict = self.judged(command, context);
        let (line, wants) = match &verdict {
            Verdict::Forward(wants) => (command.line, *wants),
            Verdict::Rewrite { text, wants, .. } => (text.trim_ascii_end(), *wants),
            _ => return verdict,
        };
        let line = Zeroizing::new(line.to_vec());
        if self.guard.as_ref().is_some_and(|guard| guard.caps().is_none()) {
            self.passed(command, context);
        }
        let sent = Command::parse(&line);
        if sent.keyword == Keyword::Capa && !sent.has_argument() {
            return self.capabilities(context);
        }
        self.front.as_mut().map_or(verdict, |front| front.answer(&sent, wants))
    }

    /// The rules of the upstream that `user` belongs to hold from here on.
    fn aim_for(&mut self, user: Option<String>) {
        if let (Some(user), Some(front), Some(guard)) = (user, &self.front, &mut self.guard) {
            let (rules, upstream) = front.rules_for(&user);
            guard.aim(rules, upstream);
        }
    }

    /// CAPA's listing, edited as a server's would be.
    fn capabilities(&mut self, context: Context) -> Verdict {
        let reply = Replying { n: context.n, keyword: Some(Keyword::Capa), stage: context.stage };
        let mut text = b"+OK\r\n".to_vec();
        let lines = self.front.as_ref().map(|front| front.capabilities()).unwrap_or_default();
        for line in lines {
            match self.response_line(reply, line.as_bytes()) {
                Edit::Keep => text.extend_from_slice(line.as_bytes()),
                Edit::Remove { .. } => {}
                Edit::Replace { text: other, .. } => text.extend_from_slice(&other),
            }
        }
        while let Some(Addition { text: line, .. }) = self.last_line(reply) {
            text.extend_from_slice(&line);
        }
        text.extend_from_slice(b".\r\n");
        local(&text)
    }

    /// What becomes of a SASL response while there is no server.
    fn response(&mut self, auth: Ordinal, line: &[u8], whole: bool) -> SaslVerdict {
        self.aim_for(Plain::read(line).map(|plain| plain.user().to_owned()));
        let verdict = self.guard.as_mut().map_or(SaslVerdict::Forward, |guard| guard.sasl(auth, line, whole));
        match (verdict, &mut self.front) {
            (SaslVerdict::Forward, Some(front)) => front.response(line, whole),
            (SaslVerdict::Cancel { rule }, _) => {
                let text = self.guard.as_mut().and_then(|guard| guard.replies.take_text(auth));
                SaslVerdict::Refuse { text: text.unwrap_or_else(|| Arc::from(&b"-ERR not allowed here\r\n"[..])), rule }
            }
            (verdict, _) => verdict,
        }
    }

    /// Takes the rules out, until they are put back: what passes meanwhile is presumed.
    pub(super) fn suspend_rules(&mut self) -> Option<Applicable> {
        let guard = self.guard.as_mut()?;
        let none = guard.no_rules();
        Some(guard.swap_rules(none))
    }

    /// Puts the rules back.
    pub(super) fn resume_rules(&mut self, rules: Option<Applicable>) {
        if let (Some(guard), Some(rules)) = (&mut self.guard, rules) {
            guard.swap_rules(rules);
        }
    }

    fn holds_login(&self, beginning: &[u8]) -> bool {
        let watches = self.guard.as_ref().is_some_and(|guard| guard.watches_logins());
        watches && super::builtin::may_become(beginning, &LOGINS)
    }
}

const LOGINS: [&[u8]; 3] = [b"PASS", b"APOP", b"AUTH"];

impl Filter for Policy {
    fn caps(&self) -> Option<Caps> {
        if self.front.is_some() {
            return Some(Front::CAPS);
        }
        self.guard.as_ref()?.caps()
    }

    fn hold(&self, beginning: &[u8], first: bool) -> Hold {
        match self.builtin.hold(beginning, first) {
            Hold::Stream if self.holds_login(beginning) => Hold::More,
            hold => hold,
        }
    }

    fn command(&mut self, command: &Command<'_>, context: Context) -> Verdict {
        if self.front.is_some() { self.answered(command, context) } else { self.judged(command, context) }
    }

    fn passed(&mut self, command: &Command<'_>, context: Context) {
        if let Some(guard) = &mut self.guard
            && guard.watches(command.keyword)
        {
            guard.watched(command, context);
        }
    }

    fn sasl(&mut self, auth: Ordinal, line: &[u8], whole: bool) -> SaslVerdict {
        if self.front.is_some() {
            return self.response(auth, line, whole);
        }
        self.guard.as_mut().map_or(SaslVerdict::Forward, |guard| guard.sasl(auth, line, whole))
    }

    fn hears_responses(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.watches_logins())
    }

    fn responded(&mut self, auth: Ordinal, line: &[u8], whole: bool) {
        if let Some(guard) = &mut self.guard {
            guard.responded(auth, line, whole);
        }
    }

    fn replied(&mut self, reply: Replied<'_>) -> After {
        if reply.stage == Stage::Transaction {
            self.front = None;
        }
        match &mut self.guard {
            Some(guard) if guard.watches(reply.keyword) => guard.replied(reply),
            _ => After::GoOn,
        }
    }

    fn listed(&mut self, _n: Ordinal, octets: &[u8]) {
        if let Some(guard) = &mut self.guard {
            guard.listed(octets);
        }
    }

    fn ask_first(&mut self) -> Option<Question> {
        self.guard.as_mut()?.ask_first()
    }

    fn told(&mut self, told: Told<'_>) {
        if let Some(guard) = &mut self.guard {
            guard.told(told);
        }
    }

    fn ask_next(&mut self) -> Asked {
        self.guard.as_mut().map_or(Asked::Enough, |guard| guard.ask_next())
    }

    fn greeting(&mut self, line: &[u8]) -> bool {
        let builtin = self.builtin.greeting(line);
        builtin | self.guard.as_mut().is_some_and(|guard| guard.edits_greeting(line))
    }

    fn status_line(&mut self, reply: Replying, line: &[u8]) -> Edit {
        let Some(guard) = &mut self.guard else { return Edit::Keep };
        let change = if Status::of(line) == Some(Status::Ok) { guard.replies.change(reply.n) } else { Change::Nothing };
        let shown = guard.shield().map_or(Edit::Keep, |shield| shield.status_line(change, line));
        behind(shown, line, |line| guard.replies.status_line(reply.n, line))
    }

    fn response_line(&mut self, reply: Replying, line: &[u8]) -> Edit {
        let builtin = self.builtin.response_line(reply, line);
        let Some(guard) = &mut self.guard else { return builtin };
        match reply.keyword {
            None => behind(builtin, line, |line| guard.greeting_line(line)),
            Some(Keyword::Capa) => behind(builtin, line, |line| guard.replies.capability(reply.n, line)),
            Some(Keyword::List | Keyword::Uidl) => guard.shield().map_or(builtin, |shield| shield.listing_line(line)),
            Some(_) => builtin,
        }
    }

    fn last_line(&mut self, reply: Replying) -> Option<Addition> {
        let builtin = self.builtin.last_line(reply);
        builtin.or_else(|| self.guard.as_mut()?.replies.addition(reply.n))
    }

    fn note(&mut self) -> Option<Note> {
        self.guard.as_mut()?.note()
    }

    fn bears_opaque(&self) -> Result<(), ViolationKind> {
        self.builtin.bears_opaque()?;
        if self.caps().is_some() { Err(ViolationKind::UnreadableUnderRules) } else { Ok(()) }
    }
}

/// What two edits make of a line, one behind the other.
fn behind(first: Edit, line: &[u8], second: impl FnOnce(&[u8]) -> Edit) -> Edit {
    match first {
        Edit::Keep => second(line),
        Edit::Remove { .. } => first,
        Edit::Replace { text, rule } => match second(&text) {
            Edit::Keep => Edit::Replace { text, rule },
            other => other,
        },
    }
}
