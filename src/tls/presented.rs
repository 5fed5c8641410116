//! What a server presented.

use rustls::pki_types::{CertificateDer, ServerName};

use super::{Certificate, self_signed::judge_name};

/// The certificates that a server presented, whether they were accepted or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presented {
    /// In the server's order, its own first; those that cannot be read are left out.
    pub chain: Vec<Certificate>,
    /// Whether the first is for the name that was asked for.
    pub is_for_host: bool,
}

impl Presented {
    pub(super) fn new<'a>(chain: impl Iterator<Item = &'a CertificateDer<'a>> + Clone, name: &ServerName<'_>) -> Self {
        let is_for_host = chain.clone().next().is_some_and(|end_entity| judge_name(end_entity, name).is_ok());
        Self { chain: chain.filter_map(|certificate| Certificate::parse(certificate)).collect(), is_for_host }
    }
}
