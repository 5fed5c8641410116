//! What people want to know of a certificate.

use std::{fmt, net::IpAddr};

use aws_lc_rs::digest::{SHA256, digest};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
    time::ASN1Time,
};

use crate::escape::{escape, hex};

/// How many names of a certificate are shown: some have hundreds.
const NAMES_SHOWN: usize = 8;

/// The fields of a certificate that a log or a transcript shows. All text is escaped: whoever made the certificate chose it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is: `CN=pop.example.net`.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// When its validity begins.
    pub not_before: OffsetDateTime,
    /// When its validity ends.
    pub not_after: OffsetDateTime,
    /// DNS names and addresses in its subjectAltName, in its order.
    pub names: Vec<String>,
    /// Whether subject and issuer are the same.
    pub self_signed: bool,
    /// The SHA-256 of all of it, in lower-case hexadecimal.
    pub fingerprint: String,
    /// The SHA-256 of its public key (`SubjectPublicKeyInfo`, RFC 5280 §4.1.2.7), in lower-case hexadecimal.
    pub key_fingerprint: String,
}

impl Certificate {
    /// Reads a DER certificate; `None` when it is not one. Nothing is verified.
    #[must_use]
    pub fn parse(der: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        Some(Self {
            subject: escape(parsed.subject().to_string().as_bytes()),
            issuer: escape(parsed.issuer().to_string().as_bytes()),
            not_before: moment(parsed.validity().not_before)?,
            not_after: moment(parsed.validity().not_after)?,
            names: names(&parsed),
            self_signed: parsed.subject() == parsed.issuer(),
            fingerprint: fingerprint(der),
            key_fingerprint: fingerprint(parsed.tbs_certificate.subject_pki.raw),
        })
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (rfc3339(self.not_before), rfc3339(self.not_after));
        write!(out, "subject `{}`, issuer `{}`, valid from {from} to {to}", self.subject, self.issuer)?;
        match &*self.names {
            [] => write!(out, ", no names"),
            names => write!(out, ", names {}", list_names(names)),
        }
    }
}

/// A moment in RFC 3339, UTC, whole seconds.
pub(crate) fn rfc3339(moment: OffsetDateTime) -> String {
    // A certificate's year has four digits, so that this cannot fail.
    moment.format(&Rfc3339).unwrap_or_else(|_| moment.to_string())
}

/// The SHA-256 of a DER certificate, in lower-case hexadecimal.
pub(super) fn fingerprint(der: &[u8]) -> String {
    hex(&sha256(der))
}

/// The SHA-256.
pub(super) fn sha256(octets: &[u8]) -> [u8; 32] {
    let mut found = [0; 32];
    found.copy_from_slice(digest(&SHA256, octets).as_ref());
    found
}

/// Names in words, the first few of them.
pub(super) fn list_names(names: &[String]) -> String {
    let shown: Vec<_> = names.iter().take(NAMES_SHOWN).map(|name| format!("`{name}`")).collect();
    let rest = names.len() - shown.len();
    if rest == 0 { shown.join(", ") } else { format!("{} and {rest} more", shown.join(", ")) }
}

fn moment(time: ASN1Time) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(time.timestamp()).ok()
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    extension.value.general_names.iter().filter_map(name).collect()
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(escape(name.as_bytes())),
        GeneralName::IPAddress(octets) => address(octets).map(|address| address.to_string()),
        _ => None,
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(octets).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::tls::{Authority, Validity};

    #[test]
    fn fields_are_read_and_escaped() {
        let authority = Authority::new("Sly\x1b[31m CA").unwrap();
        let validity = Validity { from: datetime!(2020-01-02 03:04:05 UTC), to: datetime!(2021-01-02 03:04:05 UTC) };
        let issued = authority.issue(&["pop.example.net", "192.0.2.7", "2001:db8::7"], validity).unwrap();
        let certificate = Certificate::parse(&issued.chain[0]).unwrap();
        assert_eq!(certificate.subject, "CN=pop.example.net");
        assert_eq!(certificate.issuer, "CN=Sly\\x1b[31m CA");
        assert_eq!(certificate.names, ["pop.example.net", "192.0.2.7", "2001:db8::7"]);
        assert_eq!(rfc3339(certificate.not_after), "2021-01-02T03:04:05Z");
        assert!(!certificate.self_signed);
        assert!(Certificate::parse(&authority.certificate()).unwrap().self_signed);
    }

    #[test]
    fn rubbish_is_no_certificate() {
        assert_eq!(Certificate::parse(b"+OK"), None);
        assert_eq!(fingerprint(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
