//! A summary as far as sums need it: read in one go from its line, without what the other fields would take.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;

use crate::record::schema::Verbs;

/// Of the line of a summary; other lines leave all but `v` and `event` at nothing.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Brief<'a> {
    pub(super) v: u32,
    #[serde(borrow)]
    pub(super) event: Cow<'a, str>,
    /// When the session ended.
    #[serde(borrow)]
    pub(super) time: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) start: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) client: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) upstream: Cow<'a, str>,
    pub(super) user: Option<Box<str>>,
    pub(super) logged_in: bool,
    pub(super) mechanism: Option<Box<str>>,
    pub(super) login_failures: u64,
    pub(super) client_tls: Option<Box<str>>,
    pub(super) upstream_tls: Option<Box<str>>,
    pub(super) commands: u64,
    pub(super) errors: u64,
    pub(super) verbs: Verbs,
    pub(super) messages: u64,
    pub(super) message_octets: u64,
    pub(super) client_octets: u64,
    pub(super) upstream_octets: u64,
    pub(super) rules: BTreeMap<String, u64>,
    pub(super) rules_dry: BTreeMap<String, u64>,
}
