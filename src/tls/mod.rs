//! TLS: who is trusted, how a handshake is done and why it failed, in words, and what the transcript says of a peer.
//!
//! Types of rustls stay in here and in [`net::Stream`](crate::net::Stream).

mod acceptor;
mod authority;
mod certificate;
mod client;
mod client_auth;
mod failure;
mod hello;
mod identity;
mod keylog;
mod mint;
pub mod pem;
mod presented;
mod refusal;
mod resolver;
mod self_signed;
mod server;
mod trust;
mod verifier;

use std::sync::Arc;

use rustls::{
    ClientConnection, CommonState, ServerConnection,
    crypto::{CryptoProvider, aws_lc_rs},
};
use time::OffsetDateTime;

use crate::{
    escape::escape,
    record::schema::{self, Hop},
};

pub use acceptor::{Acceptor, AcceptorError, Expiry};
pub use authority::{Authority, AuthorityError, Issued, Validity};
pub use certificate::Certificate;
pub(crate) use certificate::rfc3339;
pub use client::{Client, ClientError, NameError, check_name};
pub use failure::{CertificateFault, HandshakeError, hint_behind_handshake};
pub use hello::{Begun, ClientHello, ServerHello};
pub use identity::{Identity, IdentityError};
pub use keylog::{KeyLog, KeyLogError};
pub use presented::Presented;
pub use refusal::AcceptError;
pub use server::{ServerConfigError, server_config};
pub use trust::{Trust, TrustError};

/// Makes aws-lc-rs the cryptography of the whole process; a second call changes nothing.
///
/// poptap's own configurations name their provider, so this is for libraries that ask for the default: with two
/// providers in one build, rustls would panic at that moment. Call it first thing in `main`.
pub fn install_provider() {
    // The error only says that there is one already.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// What the transcript says of TLS with a server: `mode` is `implicit` or `stls`.
#[must_use]
pub fn describe_upstream(connection: &ClientConnection, mode: &str) -> schema::Tls {
    describe(connection, Hop::Upstream, mode)
}

/// What the transcript says of TLS with a client: `mode` is `implicit` or `stls`.
#[must_use]
pub fn describe_client(connection: &ServerConnection, mode: &str) -> schema::Tls {
    let sni = connection.server_name().map(|name| escape(name.as_bytes()));
    schema::Tls { sni, ..describe(connection, Hop::Client, mode) }
}

fn describe(connection: &CommonState, hop: Hop, mode: &str) -> schema::Tls {
    let chain = connection.peer_certificates().unwrap_or_default();
    let peer = chain.first().and_then(|end_entity| Certificate::parse(end_entity));
    schema::Tls {
        hop,
        mode: mode.to_owned(),
        version: connection.protocol_version().map_or_else(String::new, |version| format!("{version:?}").replace('_', ".")),
        cipher: connection.negotiated_cipher_suite().map_or_else(String::new, |suite| format!("{:?}", suite.suite())),
        offered: Vec::new(),
        alpn: Vec::new(),
        sni: None,
        trust: None,
        accept: Vec::new(),
        subject: peer.as_ref().map(|peer| peer.subject.clone()),
        issuer: peer.as_ref().map(|peer| peer.issuer.clone()),
        not_after: peer.as_ref().map(|peer| certificate::rfc3339(peer.not_after)),
        fingerprint: chain.first().map(|end_entity| certificate::fingerprint(end_entity)),
    }
}

/// Whole days from `now` until the certificate in `tls` expires, rounded down: 0 on its last day, negative afterwards.
/// `None` where the certificate could not be read.
#[must_use]
pub fn days_left(tls: &schema::Tls, now: OffsetDateTime) -> Option<i64> {
    let end = OffsetDateTime::parse(tls.not_after.as_deref()?, &time::format_description::well_known::Rfc3339).ok()?;
    Some((end - now).whole_seconds().div_euclid(24 * 60 * 60))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// TLS 1.2 is the floor: rustls speaks nothing older, and nothing newer than 1.3 exists.
const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn until(not_after: &str) -> schema::Tls {
        schema::Tls { hop: Hop::Upstream, not_after: Some(not_after.to_owned()), ..schema::Tls::default() }
    }

    #[test]
    fn days_are_rounded_down() {
        let now = datetime!(2026-03-01 12:00 UTC);
        assert_eq!(days_left(&until("2026-03-01T12:00:01Z"), now), Some(0));
        assert_eq!(days_left(&until("2026-03-01T11:59:59Z"), now), Some(-1));
        assert_eq!(days_left(&until("2026-05-01T12:00:00Z"), now), Some(61));
        assert_eq!(days_left(&until("soon"), now), None);
    }

    #[test]
    fn the_provider_can_be_installed_twice() {
        install_provider();
        install_provider();
        assert!(CryptoProvider::get_default().is_some());
    }
}
