//! Which server a listener's users belong to: `route`, `map`, `capabilities`.

use std::sync::Arc;

use toml::Spanned;

use super::Resolver;
use crate::config::{
    Routing, TlsDemand, Upstream, UserMap, UserRoute,
    fault::Fault,
    file::ListenerSection,
    routing::{CAPABILITIES, RouteSection},
    rule::Pattern,
};

/// Whether a listener's clients are carried to the server of whoever logs in.
pub(super) fn is_routed(section: &Spanned<ListenerSection>) -> bool {
    section.get_ref().route.is_some() || section.get_ref().map.is_some()
}

impl Resolver<'_> {
    pub(super) fn routing(&mut self, section: Option<&Spanned<ListenerSection>>, upstreams: &[Arc<Upstream>]) -> Option<Routing> {
        let section = section?;
        let raw = section.get_ref();
        if !is_routed(section) {
            if let Some(capabilities) = &raw.capabilities {
                let fault =
                    Fault::new("`capabilities` is of no use here: the server says its own", "it goes with `route` or `map`");
                self.fault(fault, Some(capabilities.span()));
            }
            return None;
        }
        if self.args.url.is_some() || self.args.upstream.is_some() {
            let message = "a server on the command line is for all users, and this listener routes them";
            self.fault(Fault::new(message, "leave out the URL, or `route` and `map`"), Some(section.span()));
        }
        if raw.transparent.is_some() || raw.tls == Some(TlsDemand::Pass) {
            let message = "users cannot be routed here: the client has chosen its server, or is carried unread";
            self.fault(
                Fault::new(message, "leave out `transparent` and `tls = \"pass\"`, or `route` and `map`"),
                Some(section.span()),
            );
        }
        let mut targets = Vec::new();
        let map = self.map(raw, upstreams, &mut targets);
        let sections = raw.route.as_ref().map(Spanned::get_ref);
        let routes = sections.into_iter().flatten().filter_map(|route| self.route(route, upstreams, &mut targets)).collect();
        Some(Routing { map, routes, targets, capabilities: self.capabilities(raw.capabilities.as_ref()) })
    }

    fn route(
        &mut self,
        route: &RouteSection,
        upstreams: &[Arc<Upstream>],
        targets: &mut Vec<Arc<Upstream>>,
    ) -> Option<UserRoute> {
        let pattern = Pattern::name(route.user.get_ref()).map_err(|why| self.fault(why.into(), Some(route.user.span()))).ok();
        let found = self.by_reference(route.upstream.get_ref(), upstreams);
        let upstream = found.map_err(|fault| self.fault(fault, Some(route.upstream.span()))).ok();
        if let (Some(pattern), Some(rewrite)) = (&pattern, &route.rewrite)
            && let Some(group) = pattern.missing_group(rewrite.get_ref())
        {
            let message = format!("`user` has no group `{group}`");
            let hint = "groups are counted from `$1`; write `${1}x` where a letter or digit follows, and `$$` for a dollar";
            self.fault(Fault::new(message, hint), Some(rewrite.span()));
        }
        let (pattern, upstream) = (pattern?, upstream?);
        let name = upstream.name.clone();
        take_in(targets, upstream);
        UserRoute::new(pattern, &name, route.rewrite.as_ref().map(|rewrite| rewrite.get_ref().clone()))
    }

    fn map(
        &mut self,
        raw: &ListenerSection,
        upstreams: &[Arc<Upstream>],
        targets: &mut Vec<Arc<Upstream>>,
    ) -> Option<Arc<UserMap>> {
        let file = raw.map.as_ref()?;
        let map = match UserMap::read(file.get_ref()) {
            Ok(map) => map,
            Err(fault) => {
                let hint = "a line is `user upstream`, `user upstream newname`, or `@domain upstream`; `#` begins a comment";
                self.fault(Fault::new(fault.to_string(), hint), Some(file.span()));
                return None;
            }
        };
        for (name, line) in map.upstreams() {
            let Some(upstream) = upstreams.iter().find(|upstream| upstream.name == name) else {
                let message = format!("{}:{line}: no upstream is named `{name}`", file.get_ref().display());
                self.fault(Fault::new(message, "a map names an `[[upstream]]` by its `name`"), Some(file.span()));
                continue;
            };
            take_in(targets, Arc::clone(upstream));
        }
        Some(Arc::new(map))
    }

    fn capabilities(&mut self, configured: Option<&Spanned<Vec<String>>>) -> Vec<String> {
        let Some(configured) = configured else { return CAPABILITIES.map(str::to_owned).into() };
        for line in configured.get_ref() {
            if let Some(fault) = unfit(line) {
                self.fault(fault, Some(configured.span()));
            }
        }
        configured.get_ref().clone()
    }
}

/// Why a capability cannot be offered before the server is known.
fn unfit(line: &str) -> Option<Fault> {
    let tag = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
    let is_printable =
        !tag.is_empty() && line.bytes().all(|octet| octet == b' ' || octet.is_ascii_graphic()) && line.len() <= 510;
    match &*tag {
        _ if !is_printable => Some(Fault::new("this is not a capability", "write one such as `TOP` or `EXPIRE NEVER`")),
        "STLS" => Some(Fault::new("`STLS` is listed where it is offered", "leave it out")),
        "UTF8" | "LANG" => Some(Fault::new(
            format!("`{tag}` cannot be offered before the server is known"),
            "leave it out: behind the login the server lists its own",
        )),
        "SASL" if !line.eq_ignore_ascii_case("SASL PLAIN") => {
            Some(Fault::new("PLAIN is the one mechanism that tells the user and can be passed on", "write `SASL PLAIN`"))
        }
        _ => None,
    }
}

fn take_in(targets: &mut Vec<Arc<Upstream>>, upstream: Arc<Upstream>) {
    if !targets.contains(&upstream) {
        targets.push(upstream);
    }
}
