//! How a hop is protected: certificates and keys, whom to trust, and how far.

use std::path::PathBuf;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a hop is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// `pop3://`: not at all.
    Plain,
    /// `pop3s://`: TLS from the first octet (RFC 8314).
    Implicit,
    /// `pop3+stls://`: STLS (RFC 2595 §4). On the server's hop it is required; a listener offers it, or requires it.
    Stls,
}

impl TlsMode {
    /// Whether a client may log in without encryption on such a listener.
    #[must_use]
    pub fn may_be_plain(self, demand: TlsDemand) -> bool {
        match self {
            Self::Plain => true,
            Self::Stls => demand == TlsDemand::Optional,
            Self::Implicit => false,
        }
    }

    /// The scheme of a URL that says so.
    #[must_use]
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Plain => "pop3",
            Self::Implicit => "pop3s",
            Self::Stls => "pop3+stls",
        }
    }
}

/// A certificate chain and its private key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// The certificate, and those that lead from it to its authority.
    pub cert: PathBuf,
    /// The private key (PKCS #8, PKCS #1 or SEC1); may be the same file.
    pub key: PathBuf,
}

/// What a listener needs for TLS with its clients. There is a chain, or an authority to mint from, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// The chains, chosen by the name that the client asks for (SNI, RFC 6066 §3); the first is for all other names.
    pub chains: Vec<KeyPair>,
    /// An authority that issues a certificate for each name that no chain has.
    pub mint: Option<KeyPair>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// Authorities whose certificates clients may present, as a PEM file.
    pub client_ca: Option<PathBuf>,
    /// Whether clients must present one; of no account without `client_ca`.
    pub client_cert: ClientCert,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246): the oldest that poptap speaks.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    Tls13,
}

/// Whether clients must present a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientCert {
    /// The handshake fails without one.
    #[default]
    Required,
    /// One that is presented is verified.
    Optional,
}

/// Whether clients must start TLS before they log in, where a listener offers STLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TlsDemand {
    /// They may.
    #[default]
    Optional,
    /// USER, PASS, APOP and AUTH are answered with `-ERR` before.
    Required,
}

/// What is wrong with a server's certificate, and accepted nevertheless. Each stands for itself alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Accept {
    /// Its time is over.
    Expired,
    /// Nobody but its own key vouches for it.
    SelfSigned,
    /// It is for other names.
    WrongName,
}

impl Accept {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::SelfSigned => "self-signed",
            Self::WrongName => "wrong-name",
        }
    }
}

/// The SHA-256 of a certificate, or of its public key (`SubjectPublicKeyInfo`, RFC 5280 §4.1.2.7), in DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin(
    /// The digest.
    pub [u8; 32],
);

/// Whether the server is told of the client by a PROXY protocol header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// It is not.
    #[default]
    Off,
    /// By version 2, the binary one; whether the client's hop is TLS goes along.
    V2,
}
