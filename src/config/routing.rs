//! Which server a user belongs to.

mod map;

use std::{fmt, path::Path, sync::Arc};

use regex::bytes::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

pub use map::{MapFault, UserMap};

use super::{Upstream, rule::Pattern};

/// Of a listener whose clients are carried to the server of whoever logs in.
///
/// Asked in this order: the map, the routes from the first, and then the listener's own upstreams where it names any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routing {
    /// Users one by one.
    pub map: Option<Arc<UserMap>>,
    /// Users by pattern.
    pub routes: Vec<UserRoute>,
    /// Those that map and routes name, each once.
    pub targets: Vec<Arc<Upstream>>,
    /// What CAPA says before the login, besides STLS.
    pub capabilities: Vec<String>,
}

/// Users whose whole name matches, without regard to case.
#[derive(Clone)]
pub struct UserRoute {
    /// What the name matches.
    pub pattern: Pattern,
    /// The name of their upstream.
    pub upstream: Arc<str>,
    /// The name that the server is told in place of the client's; `$1` is what a group matched.
    pub rewrite: Option<String>,
    regex: Regex,
}

/// Where a user belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    /// The name of the upstream; `None` where the listener's own are meant.
    pub upstream: Option<Arc<str>>,
    /// The name that the server is told, where it is another one.
    pub name: Option<String>,
    /// What decided: `route-map`, `route-pattern` or `route-fallback`.
    pub rule: &'static str,
}

impl Routing {
    /// Where `user` belongs: the map, the first route that matches, else the fallback.
    #[must_use]
    pub fn of(&self, user: &str) -> Routed {
        if let Some(entry) = self.map.as_ref().and_then(|map| map.get(user)) {
            return Routed { upstream: Some(entry.upstream), name: entry.name, rule: "route-map" };
        }
        let found = self.routes.iter().find_map(|route| Some((route, route.regex.captures(user.as_bytes())?)));
        let Some((route, captures)) = found else { return Routed { upstream: None, name: None, rule: "route-fallback" } };
        let name = route.rewrite.as_ref().map(|rewrite| {
            let mut name = Vec::new();
            captures.expand(rewrite.as_bytes(), &mut name);
            String::from_utf8_lossy(&name).into_owned()
        });
        Routed { upstream: Some(Arc::clone(&route.upstream)), name, rule: "route-pattern" }
    }

    /// The upstream of this name, of those that map and routes name.
    #[must_use]
    pub fn target(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.targets.iter().find(|upstream| upstream.name == name)
    }

    /// The map's file.
    #[must_use]
    pub fn map_file(&self) -> Option<&Path> {
        self.map.as_ref().map(|map| map.path())
    }
}

impl UserRoute {
    /// Compiles the pattern; `None` where it does not compile.
    pub(super) fn new(pattern: Pattern, upstream: &str, rewrite: Option<String>) -> Option<Self> {
        let regex = pattern.name_regex().ok()?;
        Some(Self { pattern, upstream: upstream.into(), rewrite, regex })
    }
}

impl PartialEq for UserRoute {
    fn eq(&self, other: &Self) -> bool {
        (&self.pattern, &self.upstream, &self.rewrite) == (&other.pattern, &other.upstream, &other.rewrite)
    }
}

impl Eq for UserRoute {}

impl fmt::Debug for UserRoute {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("UserRoute").field("pattern", &self.pattern).field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

/// What CAPA says before the login where nothing else is configured.
pub(super) const CAPABILITIES: [&str; 7] = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "USER", "SASL PLAIN"];

/// Users that are carried to one upstream.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteSection {
    /// A regular expression for the whole name, without regard to case.
    #[schemars(with = "String")]
    pub(super) user: Spanned<String>,
    /// The name of an `[[upstream]]`, or a URL.
    #[schemars(with = "String")]
    pub(super) upstream: Spanned<String>,
    /// The name that the server is told in place of the client's; `$1` is what the first group matched.
    #[schemars(with = "Option<String>")]
    pub(super) rewrite: Option<Spanned<String>>,
}
