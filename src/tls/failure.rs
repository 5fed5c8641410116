//! Why a handshake failed, in words that people can act on.

use std::{fmt, io};

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
use time::OffsetDateTime;

use super::{
    Certificate, Presented,
    certificate::{list_names, rfc3339},
    verifier::{NotPinned, is_authority},
};
use crate::escape::{escape, escape_line};

/// Why TLS with a server does not stand.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Its certificate was refused.
    #[error("its certificate {fault}")]
    Certificate {
        /// What is wrong with it.
        fault: CertificateFault,
        /// All that was presented; nothing when that was not seen.
        presented: Box<Presented>,
    },
    /// It answered in plain text.
    #[error("it speaks plain text, not TLS{}", quoted(first))]
    PlainText {
        /// The beginning of what it said, escaped; empty when that was not seen.
        first: String,
    },
    /// It refused, with an alert (RFC 8446 §6.2).
    #[error("it refused the handshake: {0}")]
    Alert(String),
    /// It speaks nothing as new as TLS 1.2.
    #[error("it offers no TLS version from 1.2 on")]
    TooOld,
    /// It closed the connection before TLS stood.
    #[error("it closed the connection during the handshake")]
    Closed,
    /// The connection failed before TLS stood.
    #[error("the connection failed during the handshake: {0}")]
    Io(io::Error),
    /// It broke the protocol.
    #[error("the handshake failed: {0}")]
    Protocol(String),
}

impl HandshakeError {
    /// From tokio-rustls' error, the first octets of the answer, and the certificate that the verifier refused.
    pub(super) fn new(error: io::Error, first: &[u8], refused: Option<Presented>) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::InvalidCertificate(fault)) => {
                let presented = refused.unwrap_or_default();
                Self::Certificate { fault: CertificateFault::new(fault, presented.chain.first()), presented: presented.into() }
            }
            Some(Error::InvalidCertRevocationList(fault)) => Self::Certificate {
                fault: CertificateFault::UnusableList(escape(format!("{fault:?}").as_bytes())),
                presented: refused.unwrap_or_default().into(),
            },
            // Even when the connection then ended or was reset: less plain text than a record's header is no message yet.
            _ if !first.is_empty() && !begins_like_tls(first) => Self::PlainText { first: escape_line(first) },
            Some(error) => Self::protocol(error),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Closed,
            None => Self::Io(error),
        }
    }

    /// What to do about it; `None` where that depends on things out of sight.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Certificate { fault, .. } => fault.hint()?,
            Self::PlainText { .. } => "use `pop3://` (no TLS) or `pop3+stls://` (TLS after STLS) for this port",
            Self::TooOld => "the server needs a newer TLS library; poptap speaks TLS 1.2 and 1.3 only",
            Self::Closed => "see whether this port is for TLS: 995 as a rule; `pop3+stls://` is for port 110",
            Self::Alert(words) if words.contains(CLIENT_CERTIFICATE) => CERTIFICATE_REQUIRED,
            Self::Alert(_) | Self::Io(_) | Self::Protocol(_) => return None,
        })
    }

    /// The certificate that was refused.
    #[must_use]
    pub fn certificate(&self) -> Option<&Certificate> {
        self.presented()?.chain.first()
    }

    /// All that was presented, when a certificate was refused.
    #[must_use]
    pub fn presented(&self) -> Option<&Presented> {
        match self {
            Self::Certificate { presented, .. } => Some(presented),
            _ => None,
        }
    }

    fn protocol(error: &Error) -> Self {
        match error {
            Error::AlertReceived(alert) => Self::Alert(words(*alert)),
            Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => Self::PlainText { first: String::new() },
            Error::PeerIncompatible(
                PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled,
            ) => Self::TooOld,
            _ => Self::Protocol(escape(error.to_string().as_bytes())),
        }
    }
}

/// What is wrong with a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateFault {
    /// Its time is over.
    Expired {
        /// When it ended.
        not_after: OffsetDateTime,
        /// Whether it is another certificate of the chain that expired.
        in_chain: bool,
    },
    /// Its time has not come.
    NotYetValid {
        /// When it begins.
        not_before: OffsetDateTime,
    },
    /// It is for other names.
    WrongName {
        /// The name or address that was asked for.
        expected: String,
        /// Those it has.
        names: Vec<String>,
    },
    /// Nobody but its own key vouches for it.
    SelfSigned,
    /// Nobody who is trusted vouches for it.
    UnknownIssuer {
        /// Who signed it.
        issuer: String,
    },
    /// It names an authority that is trusted, but the signature is not that one's: it may have a new key.
    ForeignSignature {
        /// Who is said to have signed it.
        issuer: String,
    },
    /// It is an authority's, and so cannot be a server's (RFC 5280 §4.2.1.9).
    Authority,
    /// Its authority took it, or one that it depends on, back.
    Revoked,
    /// No revocation list says whether it, or one that it depends on, was taken back.
    UnknownStatus,
    /// The revocation list that would tell is out of date.
    ListExpired {
        /// When the next one should have come.
        next_update: OffsetDateTime,
    },
    /// The revocation list that would tell cannot be used: it is not signed by whom it should be, or of an unknown kind.
    UnusableList(String),
    /// It is not the one that was pinned.
    NotPinned {
        /// The SHA-256 of the one that came, in hexadecimal.
        certificate: String,
        /// The SHA-256 of its public key.
        key: String,
    },
    /// Anything else.
    Other(String),
}

impl CertificateFault {
    pub(super) fn new(error: &CertificateError, certificate: Option<&Certificate>) -> Self {
        match (error, certificate) {
            (CertificateError::ExpiredContext { not_after, .. }, _) => {
                let not_after = moment(not_after.as_secs());
                Self::Expired { not_after, in_chain: certificate.is_some_and(|one| one.not_after != not_after) }
            }
            (CertificateError::NotValidYetContext { not_before, .. }, _) => {
                Self::NotYetValid { not_before: moment(not_before.as_secs()) }
            }
            (CertificateError::NotValidForNameContext { expected, .. }, Some(certificate)) => {
                Self::WrongName { expected: escape(expected.to_str().as_bytes()), names: certificate.names.clone() }
            }
            (CertificateError::UnknownIssuer, Some(certificate)) if certificate.self_signed => Self::SelfSigned,
            (CertificateError::UnknownIssuer, Some(certificate)) => Self::UnknownIssuer { issuer: certificate.issuer.clone() },
            (CertificateError::BadSignature, Some(certificate)) => Self::ForeignSignature { issuer: certificate.issuer.clone() },
            (CertificateError::Revoked, _) => Self::Revoked,
            (CertificateError::UnknownRevocationStatus, _) => Self::UnknownStatus,
            (CertificateError::ExpiredRevocationListContext { next_update, .. }, _) => {
                Self::ListExpired { next_update: moment(next_update.as_secs()) }
            }
            (CertificateError::Other(other), Some(certificate)) if other.0.is::<NotPinned>() => {
                Self::NotPinned { certificate: certificate.fingerprint.clone(), key: certificate.key_fingerprint.clone() }
            }
            (CertificateError::Other(other), _) if is_authority(other) => Self::Authority,
            _ => Self::Other(escape(error.to_string().as_bytes())),
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Expired { .. } => "the server's operator has to renew it; see whether this machine's clock is right",
            Self::NotYetValid { .. } => "see whether this machine's clock is right",
            Self::WrongName { .. } => "use one of the certificate's names in the URL, or as `server_name`",
            Self::SelfSigned => {
                "if this is your own server, name a file with this certificate: `--upstream-ca FILE`; or `pin` it"
            }
            Self::UnknownIssuer { .. } => {
                "if you trust its issuer, name a file with the issuer's certificate: `--upstream-ca FILE`; \
                 a server that leaves out its intermediate certificates fails like this, too"
            }
            Self::ForeignSignature { .. } => {
                "see whether the trusted certificate of that name is the current one: `--upstream-ca FILE`"
            }
            Self::Authority => {
                "the server needs a certificate without `CA:TRUE` in its basic constraints; until then, `pin` it, or accept it \
                 with `accept = [\"self-signed\"]`"
            }
            Self::Revoked => "the server's operator has to get a new one; until then, do not send passwords there",
            Self::UnknownStatus => "`crl_file` needs a current list of every authority in the chain",
            Self::ListExpired { .. } => "fetch the authority's current list, and put it in `crl_file`",
            Self::UnusableList(_) => "`crl_file` needs whole lists (no delta lists), each signed by the authority itself",
            Self::NotPinned { .. } => {
                "if the server's operator confirms that it is the right one, write one of the two into `pin`"
            }
            Self::Other(_) => return None,
        })
    }
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired { not_after, in_chain: false } => write!(out, "expired on {}", rfc3339(*not_after)),
            Self::Expired { not_after, in_chain: true } => {
                write!(out, "depends on another one that expired on {}", rfc3339(*not_after))
            }
            Self::NotYetValid { not_before } => write!(out, "is not valid before {}", rfc3339(*not_before)),
            Self::WrongName { expected, names } if names.is_empty() => write!(out, "is not for `{expected}`: it names no host"),
            Self::WrongName { expected, names } => write!(out, "is not for `{expected}`, only for {}", list_names(names)),
            Self::SelfSigned => write!(out, "is self-signed, and not among those trusted"),
            Self::UnknownIssuer { issuer } => write!(out, "was issued by `{issuer}`, who is not trusted"),
            Self::ForeignSignature { issuer } => write!(out, "names `{issuer}` as its issuer, but that one did not sign it"),
            Self::Authority => write!(out, "is a certificate authority's, not a server's"),
            Self::Revoked => write!(out, "was revoked by its issuer, or one that it depends on was"),
            Self::UnknownStatus => write!(out, "may have been revoked: no revocation list of its issuer's says that it is not"),
            Self::ListExpired { next_update } => {
                write!(out, "may have been revoked: the revocation list ended on {}", rfc3339(*next_update))
            }
            Self::UnusableList(words) => write!(out, "may have been revoked: the revocation list cannot be used: {words}"),
            Self::NotPinned { certificate, key } => {
                write!(out, "is not the pinned one: it is `sha256:{certificate}`, and its public key `sha256:{key}`")
            }
            Self::Other(words) => write!(out, "was refused: {words}"),
        }
    }
}

const CLIENT_CERTIFICATE: &str = "client certificate";

/// What to do when a server wants a certificate of ours.
const CERTIFICATE_REQUIRED: &str = "name one, and its key: `cert` and `key` of the `[[upstream]]`";

/// What to do when a connection fails behind the handshake: with TLS 1.3 a server says only then that it wants a certificate.
#[must_use]
pub fn hint_behind_handshake(error: &io::Error) -> Option<&'static str> {
    let alert = AlertDescription::CertificateRequired;
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    (cause == Some(&Error::AlertReceived(alert))).then_some(CERTIFICATE_REQUIRED)
}

fn quoted(first: &str) -> String {
    if first.is_empty() { String::new() } else { format!(": `{first}`") }
}

fn moment(seconds: u64) -> OffsetDateTime {
    let known = i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    known.unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// An alert or a handshake record: all that a server can begin with.
fn begins_like_tls(octets: &[u8]) -> bool {
    matches!(octets, [0x15 | 0x16] | [0x15 | 0x16, 3, ..])
}

fn words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::HandshakeFailure => "it accepts none of the ciphers and parameters offered (handshake_failure)",
        AlertDescription::ProtocolVersion => "it accepts neither TLS 1.2 nor TLS 1.3 (protocol_version)",
        AlertDescription::InsufficientSecurity => "it wants stronger ciphers than those offered (insufficient_security)",
        AlertDescription::UnrecognisedName => "it serves no host of this name (unrecognized_name)",
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            return format!("it wants a {CLIENT_CERTIFICATE} (certificate_required)");
        }
        AlertDescription::AccessDenied => "it denies access (access_denied)",
        AlertDescription::InternalError => "it has a fault of its own (internal_error)",
        _ => return format!("{alert:?}"),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::UnixTime;
    use time::macros::datetime;

    use super::*;
    use crate::tls::{Authority, Validity};

    fn certificate() -> Certificate {
        let validity = Validity { from: datetime!(2020-01-01 0:00 UTC), to: datetime!(2100-01-01 0:00 UTC) };
        let names: Vec<_> = (0..10).map(|n| format!("pop{n}.example.net")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let issued = Authority::new("Test CA").unwrap().issue(&names, validity).unwrap();
        Certificate::parse(&issued.chain[0]).unwrap()
    }

    #[test]
    fn an_expired_issuer_is_told_from_an_expired_server() {
        let over = |seconds| CertificateError::ExpiredContext {
            time: UnixTime::now(),
            not_after: UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)),
        };
        let certificate = certificate();
        let own = u64::try_from(certificate.not_after.unix_timestamp()).unwrap();
        assert_eq!(CertificateFault::new(&over(own), Some(&certificate)).to_string(), "expired on 2100-01-01T00:00:00Z");
        assert_eq!(
            CertificateFault::new(&over(0), Some(&certificate)).to_string(),
            "depends on another one that expired on 1970-01-01T00:00:00Z"
        );
    }

    #[test]
    fn a_long_list_of_names_is_cut() {
        let fault = CertificateFault::WrongName { expected: "pop.example.net".into(), names: certificate().names };
        let words = fault.to_string();
        assert!(words.starts_with("is not for `pop.example.net`, only for `pop0.example.net`, `pop1."), "{words}");
        assert!(words.ends_with("`pop7.example.net` and 2 more"), "{words}");
    }

    #[test]
    fn faults_without_words_of_their_own_are_named_anyway() {
        let fault = CertificateFault::new(&CertificateError::BadEncoding, None);
        assert_eq!((fault.to_string().as_str(), fault.hint()), ("was refused: BadEncoding", None));
        let reset = HandshakeError::new(io::ErrorKind::ConnectionReset.into(), b"", None);
        assert_eq!(reset.to_string(), "the connection failed during the handshake: connection reset");
        let plain = HandshakeError::new(io::ErrorKind::ConnectionReset.into(), b"+OK", None);
        assert_eq!(plain.to_string(), "it speaks plain text, not TLS: `+OK`");
    }
}
