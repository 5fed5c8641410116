//! What a listener knows of connections that were meant for others → its keys.

use toml::Spanned;

use super::{one_or_many, unplaced};
use crate::config::{Destination, Listener, Table, Upstream, intercept::DestinationSection, rule::OneOrMany};

/// The table, where there is one.
pub(super) fn table(listener: &Listener) -> Option<&Table> {
    listener.interception.as_ref()?.table.as_ref()
}

/// What the listener's `upstream` is.
pub(super) fn upstream_names(listener: &Listener) -> OneOrMany<String> {
    match table(listener) {
        Some(_) => OneOrMany::One(Upstream::ORIGINAL.to_owned()),
        None => one_or_many(listener.upstreams.iter().map(|upstream| upstream.name.clone()).collect()),
    }
}

pub(super) fn destinations(listener: &Listener) -> Option<Spanned<Vec<DestinationSection>>> {
    let entries = &table(listener)?.destinations;
    Some(entries).filter(|entries| !entries.is_empty()).map(|entries| unplaced(entries.iter().map(section).collect()))
}

fn section(entry: &Destination) -> DestinationSection {
    let Destination { to, port, upstream, dial } = entry;
    DestinationSection { to: *to, port: *port, upstream: unplaced(upstream.name.clone()), dial: Some(*dial) }
}
