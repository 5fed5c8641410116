//! Why TLS with a client failed, in words that people can act on.

use std::io;

use rustls::{AlertDescription, Error, PeerIncompatible};
use tokio::net::TcpStream;

use super::{Certificate, CertificateFault};
use crate::{
    config::TlsVersion,
    escape::escape,
    pop3::{Command, Keyword},
};

/// Why TLS with a client does not stand.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// It spoke plain text. All of that is still unread on the connection.
    #[error("it speaks plain text, not TLS{}", quoted(first))]
    PlainText {
        /// Its first word, where that is a command of POP3 or a method of HTTP; otherwise empty, since it may be a secret.
        first: String,
        /// Whether that is an HTTP request.
        http: bool,
        /// The connection, to say so on.
        tcp: TcpStream,
    },
    /// It closed the connection before TLS stood.
    #[error("it closed the connection during the handshake")]
    Closed,
    /// The connection failed before TLS stood.
    #[error("the connection failed during the handshake: {0}")]
    Io(io::Error),
    /// It refused what it was shown, with an alert (RFC 8446 §6.2).
    #[error("it refused our certificate: {0}")]
    CertificateDoubted(&'static str),
    /// It refused, with another alert.
    #[error("it refused the handshake: {0}")]
    Alert(String),
    /// It speaks nothing as new as TLS 1.2.
    #[error("it offers no TLS version from 1.2 on")]
    TooOld,
    /// It speaks nothing as new as this listener demands.
    #[error("it offers no TLS version from 1.3 on, which this listener demands")]
    BelowFloor,
    /// It offers nothing that poptap could use.
    #[error("it offers no {0} that poptap accepts")]
    NothingInCommon(&'static str),
    /// It has to present a certificate, and presented none.
    #[error("it presented no certificate, which this listener demands")]
    CertificateMissing,
    /// Its certificate was refused.
    #[error("its certificate {fault}")]
    Certificate {
        /// What is wrong with it.
        fault: CertificateFault,
        /// The certificate; `None` when it cannot be read.
        certificate: Option<Box<Certificate>>,
    },
    /// There was none to present to it; the log says why.
    #[error("poptap has no certificate for it")]
    Unserved,
    /// It broke the protocol.
    #[error("the handshake failed: {0}")]
    Protocol(String),
}

impl AcceptError {
    /// From tokio-rustls' error.
    pub(super) fn new(error: io::Error, circumstances: Circumstances<'_>) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(_) if circumstances.ancient => Self::TooOld,
            Some(_) if circumstances.unserved => Self::Unserved,
            Some(Error::InvalidCertificate(fault)) => {
                let certificate = circumstances.refused.and_then(Certificate::parse).map(Box::new);
                Self::Certificate { fault: CertificateFault::new(fault, certificate.as_deref()), certificate }
            }
            Some(error) => Self::protocol(error, circumstances.floor),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Closed,
            None => Self::Io(error),
        }
    }

    /// From the beginning of what was said, as far as it has come.
    pub(super) fn plain_text(octets: &[u8], tcp: TcpStream) -> Self {
        let line = octets.split(|&octet| octet == b'\n').next().unwrap_or_default();
        let command = Command::parse(line);
        let http = HTTP_METHODS.iter().find(|method| command.word.eq_ignore_ascii_case(method.as_bytes()));
        let first = match (http, command.keyword) {
            (Some(method), _) => (*method).to_owned(),
            (None, Keyword::Unknown) => String::new(),
            (None, keyword) => keyword.name().to_owned(),
        };
        Self::PlainText { first, http: http.is_some(), tcp }
    }

    /// A fixed short name, for the transcript.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::PlainText { .. } => "violation",
            _ => "client-tls",
        }
    }

    /// What to do about it; `None` where that depends on things out of sight.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::PlainText { http: true, .. } => "this is a POP3 server's port, not a web server's",
            Self::PlainText { .. } => "choose SSL/TLS in the client, and never plain text, for this port",
            Self::CertificateDoubted(_) => {
                "the client has to trust the authority that signed it, and to ask for a name that stands in it; the file \
                 needs the intermediate certificates, too"
            }
            Self::TooOld => {
                "poptap speaks TLS 1.2 and 1.3 only; let such a client use a plain listener (`pop3://`) on the local network"
            }
            Self::BelowFloor => "allow TLS 1.2 on this listener (`min_tls = \"1.2\"`), or update the client",
            Self::NothingInCommon(_) => "update the client, or let it use a plain listener (`pop3://`) on the local network",
            Self::CertificateMissing => {
                "give the client a certificate of an authority in `client_ca`, or set `client_cert = \"optional\"`"
            }
            Self::Certificate { fault, .. } => return certificate_hint(fault),
            Self::Unserved => "the log names the reason; see whether the authority in `mint` has expired",
            Self::Closed | Self::Io(_) | Self::Alert(_) | Self::Protocol(_) => return None,
        })
    }

    /// The certificate that was refused.
    #[must_use]
    pub fn certificate(&self) -> Option<&Certificate> {
        match self {
            Self::Certificate { certificate, .. } => certificate.as_deref(),
            _ => None,
        }
    }

    /// Whether the client may still be reading, so that an alert can reach it.
    pub(super) fn leaves_the_client_there(&self) -> bool {
        !matches!(self, Self::Closed | Self::Io(_))
    }

    fn protocol(error: &Error, floor: TlsVersion) -> Self {
        match error {
            Error::AlertReceived(alert) => Self::alert(*alert),
            Error::NoCertificatesPresented => Self::CertificateMissing,
            Error::PeerIncompatible(lack) => {
                Self::incompatible(lack, floor).unwrap_or_else(|| Self::Protocol(escape(error.to_string().as_bytes())))
            }
            _ => Self::Protocol(escape(error.to_string().as_bytes())),
        }
    }

    fn incompatible(lack: &PeerIncompatible, floor: TlsVersion) -> Option<Self> {
        Some(match lack {
            PeerIncompatible::Tls12NotOfferedOrEnabled | PeerIncompatible::SupportedVersionsExtensionRequired
                if floor == TlsVersion::Tls13 =>
            {
                Self::BelowFloor
            }
            PeerIncompatible::Tls12NotOffered | PeerIncompatible::Tls12NotOfferedOrEnabled => Self::TooOld,
            PeerIncompatible::NoCipherSuitesInCommon => Self::NothingInCommon("cipher"),
            PeerIncompatible::NoKxGroupsInCommon
            | PeerIncompatible::NamedGroupsExtensionRequired
            | PeerIncompatible::KeyShareExtensionRequired
            | PeerIncompatible::NoEcPointFormatsInCommon
            | PeerIncompatible::UncompressedEcPointsRequired => Self::NothingInCommon("key exchange"),
            PeerIncompatible::NoSignatureSchemesInCommon | PeerIncompatible::SignatureAlgorithmsExtensionRequired => {
                Self::NothingInCommon("kind of signature")
            }
            _ => return None,
        })
    }

    fn alert(alert: AlertDescription) -> Self {
        Self::CertificateDoubted(match alert {
            AlertDescription::UnknownCA => "it does not know the authority (unknown_ca)",
            AlertDescription::BadCertificate => "it finds it bad, or made for another name (bad_certificate)",
            AlertDescription::CertificateExpired => "it finds it expired; its clock may be wrong (certificate_expired)",
            AlertDescription::CertificateRevoked => "it knows it to be revoked (certificate_revoked)",
            AlertDescription::CertificateUnknown => "it does not say why (certificate_unknown)",
            AlertDescription::UnsupportedCertificate => "it cannot use one of this kind (unsupported_certificate)",
            _ => return Self::Alert(words(alert)),
        })
    }
}

/// What is known of a handshake that failed, beside the error.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Circumstances<'a> {
    /// Whether the client began as SSL 2 did, or offers no version from 1.2 on.
    pub(super) ancient: bool,
    /// Whether there was no certificate to present.
    pub(super) unserved: bool,
    /// The client's certificate, where that was refused.
    pub(super) refused: Option<&'a [u8]>,
    /// The oldest version that is spoken.
    pub(super) floor: TlsVersion,
}

fn certificate_hint(fault: &CertificateFault) -> Option<&'static str> {
    Some(match fault {
        CertificateFault::Expired { .. } => "issue a new one to the client; see whether this machine's clock is right",
        CertificateFault::NotYetValid { .. } => "see whether this machine's clock is right",
        CertificateFault::SelfSigned | CertificateFault::UnknownIssuer { .. } => {
            "`client_ca` names the file of the authorities whose certificates clients may present"
        }
        CertificateFault::ForeignSignature { .. } => "see whether the authority in `client_ca` is the current one of that name",
        CertificateFault::Authority => "give the client a certificate of its own, not the authority's",
        _ => return None,
    })
}

fn words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::HandshakeFailure => "it accepts none of the ciphers and parameters chosen (handshake_failure)",
        AlertDescription::ProtocolVersion => "it does not accept the TLS version chosen (protocol_version)",
        AlertDescription::InsufficientSecurity => "it wants stronger ciphers (insufficient_security)",
        AlertDescription::DecryptError => "a signature or a key did not fit (decrypt_error)",
        AlertDescription::AccessDenied => "it denies access (access_denied)",
        AlertDescription::UserCanceled => "its user cancelled it (user_canceled)",
        AlertDescription::InternalError => "it has a fault of its own (internal_error)",
        _ => return format!("{alert:?}"),
    }
    .to_owned()
}

fn quoted(first: &str) -> String {
    if first.is_empty() { String::new() } else { format!(": `{first}`") }
}

/// The methods of HTTP (RFC 9110 §9.3, RFC 5789), and the word that HTTP/2 begins with (RFC 9113 §3.4).
const HTTP_METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PRI"];
