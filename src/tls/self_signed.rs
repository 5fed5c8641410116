//! Certificates that nobody but their own key vouches for: what else there is to judge in one.

use rustls::{
    CertificateError, Error,
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use std::time::Duration;
use x509_parser::prelude::{ASN1Time, X509Certificate};

use super::provider;

/// Whether subject and issuer are the same, and the signature is its own key's. It may be an authority's certificate:
/// `openssl req -x509` makes such.
pub(super) fn is_self_signed(certificate: &X509Certificate<'_>) -> bool {
    let key = &certificate.tbs_certificate.subject_pki.subject_public_key.data;
    let signed = certificate.tbs_certificate.as_ref();
    let is_own = || {
        // A key fits few algorithms, and a signature that any of them finds good is its key's.
        let algorithms = provider().signature_verification_algorithms.all;
        algorithms.iter().any(|algorithm| algorithm.verify_signature(key, signed, &certificate.signature_value.data).is_ok())
    };
    certificate.subject() == certificate.issuer() && is_own()
}

/// # Errors
///
/// When its time has not come, or is over.
pub(super) fn judge_dates(certificate: &X509Certificate<'_>, time: UnixTime) -> Result<(), Error> {
    let (not_before, not_after) = (moment(certificate.validity().not_before), moment(certificate.validity().not_after));
    if time < not_before {
        return Err(CertificateError::NotValidYetContext { time, not_before }.into());
    }
    if time > not_after {
        return Err(CertificateError::ExpiredContext { time, not_after }.into());
    }
    Ok(())
}

/// # Errors
///
/// When it says what it is for, and a server's authentication is not among that (RFC 5280 §4.2.1.12).
pub(super) fn judge_purpose(certificate: &X509Certificate<'_>) -> Result<(), Error> {
    match certificate.extended_key_usage() {
        Ok(None) => Ok(()),
        Ok(Some(usage)) if usage.value.any || usage.value.server_auth => Ok(()),
        Ok(Some(_)) => Err(CertificateError::InvalidPurpose.into()),
        Err(_) => Err(CertificateError::BadEncoding.into()),
    }
}

/// # Errors
///
/// When it is for other names, or cannot be read.
pub(super) fn judge_name(end_entity: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)
}

/// Before 1970 nothing was certified.
fn moment(time: ASN1Time) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or_default()))
}
