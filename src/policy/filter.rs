//! The filter of a session: the built-in handling, behind it the user's rules where there are any.

use super::{
    builtin::{Builtin, Settings},
    guard::{Guard, Terms},
    rules::Applicable,
    shield::Change,
};
use crate::{
    pop3::{Command, Keyword, Ordinal, Status},
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
}

impl Policy {
    /// The handling of one session, or of the part of it before or after the client's STLS.
    #[must_use]
    pub fn new(settings: Settings, terms: Option<Terms>) -> Self {
        let guard = terms.map(Guard::new).map(Box::new);
        // What is end to end inside TLS, nobody can hold to any rule.
        let strict = guard.as_ref().is_some_and(|guard| guard.caps().is_some());
        let settings = Settings { refuse_stls: settings.refuse_stls || strict, ..settings };
        Self { builtin: Builtin::new(settings), guard }
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
        self.guard.as_ref()?.caps()
    }

    fn hold(&self, beginning: &[u8], first: bool) -> Hold {
        match self.builtin.hold(beginning, first) {
            Hold::Stream if self.holds_login(beginning) => Hold::More,
            hold => hold,
        }
    }

    fn command(&mut self, command: &Command<'_>, context: Context) -> Verdict {
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

    fn passed(&mut self, command: &Command<'_>, context: Context) {
        if let Some(guard) = &mut self.guard
            && guard.watches(command.keyword)
        {
            guard.watched(command, context);
        }
    }

    fn sasl(&mut self, auth: Ordinal, line: &[u8], whole: bool) -> SaslVerdict {
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
