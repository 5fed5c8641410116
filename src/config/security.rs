//! How a hop is protected: certificates and keys, whom to trust, and how far.

use std::{fmt, path::PathBuf, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fault::Malformed;
use crate::escape::hex;

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
            Self::Plain => demand != TlsDemand::Pass,
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

/// Whether clients must start TLS before they log in, where a listener offers STLS; or that it is none of poptap's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TlsDemand {
    /// They may.
    #[default]
    Optional,
    /// USER, PASS, APOP and AUTH are answered with `-ERR` before.
    Required,
    /// Clients speak TLS with the server, from the first octet, and poptap carries it unread.
    Pass,
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
///
/// Written `sha256:` and 64 hexadecimal digits, with or without colons between octets, or 32 octets in base64, which is how
/// other programs print the digest of a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin(
    /// The digest.
    pub [u8; 32],
);

impl FromStr for Pin {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let digest = text.strip_prefix("sha256:").or_else(|| text.strip_prefix("sha256//"));
        digest.and_then(octets).map(Self).ok_or_else(|| {
            let hint = "write `sha256:` and 64 hexadecimal digits, or 32 octets in base64; `poptap probe URL` prints them";
            Malformed::new(format!("`{text}` is not a pin"), hint)
        })
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "sha256:{}", hex(&self.0))
    }
}

fn octets(digest: &str) -> Option<[u8; 32]> {
    let digits: String = digest.chars().filter(|&letter| letter != ':').collect();
    if digits.len() == 64 {
        let octet = |at: usize| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let found: Option<Vec<u8>> = (0..64).step_by(2).map(octet).collect();
        return found?.try_into().ok().filter(|_| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    }
    STANDARD.decode(digest).ok()?.try_into().ok()
}

/// Whether the server is told of the client by a PROXY protocol header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// It is not.
    #[default]
    Off,
    /// By version 1, a line of text: the addresses alone, and nothing of TLS.
    V1,
    /// By version 2, the binary one; whether the client's hop is TLS goes along.
    V2,
}

impl ProxyProtocol {
    /// Whether the server learns if the client's hop is TLS, so that it has to be told anew when that changes.
    #[must_use]
    pub fn tells_tls(self) -> bool {
        self == Self::V2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_pin_is_read_in_every_form_and_written_in_one() {
        let colons: Vec<_> = DIGITS.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect();
        for form in [
            format!("sha256:{DIGITS}"),
            format!("sha256:{}", colons.join(":").to_uppercase()),
            "sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".to_owned(),
            "sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".to_owned(),
        ] {
            assert_eq!(form.parse::<Pin>().unwrap().to_string(), format!("sha256:{DIGITS}"), "{form}");
        }
    }

    #[test]
    fn what_is_no_pin_is_refused() {
        let signed = format!("sha256:+{}", &DIGITS[1..]);
        let short = format!("sha256:{}", &DIGITS[2..]);
        for wrong in [DIGITS, "sha256:", "sha256:xyz", "sha1:47DE", &signed, &short, "sha256:47DEQpj8HBSa"] {
            let refused = wrong.parse::<Pin>().unwrap_err();
            assert!(refused.to_string().contains("is not a pin"), "{wrong}: {refused}");
        }
    }
}
