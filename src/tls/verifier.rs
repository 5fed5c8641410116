//! The verdict on a server's certificate, and what was presented when it was refused.

use std::{cell::Cell, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{certificate::sha256, presented::Presented, provider, self_signed};
use crate::config::{Accept, Pin};

/// By what a certificate is judged.
#[derive(Debug)]
pub(super) enum Rule {
    /// By who issued it, its dates and its names.
    Authorities(Authorities),
    /// By its digest, or its key's. Issuer, dates and names are not looked at.
    Pin(Pin),
}

/// Who may have issued a certificate, and which faults are let pass.
#[derive(Debug)]
pub(super) struct Authorities {
    /// Knows the authorities. It has to name a wrong name last, when all else is good; webpki does.
    pub(super) verifier: Arc<dyn ServerCertVerifier>,
    /// The faults; each stands for itself alone.
    pub(super) accept: Vec<Accept>,
    /// When the first of the revocation lists is out of date.
    pub(super) lists_end: Option<UnixTime>,
}

/// The certificate is not the one that was pinned.
#[derive(Debug, thiserror::Error)]
#[error("its certificate is not the pinned one")]
pub(super) struct NotPinned;

tokio::task_local! {
    /// What was refused in this handshake.
    ///
    /// It is not in the verifier, since that is shared by all connections to a server: rustls resumes sessions only
    /// under the very same verifier. It is not in the error either, since the error decides which alert the server is sent.
    pub(super) static REFUSED: Cell<Option<Presented>>;
}

/// Judges by a rule; remembers what was presented when it refused. Whatever the rule, the server has to sign the handshake
/// with the certificate's key.
#[derive(Debug)]
pub(super) struct Verifier {
    rule: Rule,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(rule: Rule) -> Self {
        Self { rule, algorithms: provider().signature_verification_algorithms }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = Chain { end_entity, intermediates, name: server_name };
        let verdict = match &self.rule {
            Rule::Authorities(authorities) => authorities.judge(&chain, now),
            Rule::Pin(pin) => judge_by_pin(pin, end_entity),
        };
        if verdict.is_err() {
            let presented = Presented::new(std::iter::once(end_entity).chain(intermediates), server_name);
            // Outside a handshake of ours there is no place for it, and nobody who would ask.
            let _ = REFUSED.try_with(|refused| refused.set(Some(presented)));
        }
        verdict.map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What a server presents, and the name that it was asked for.
struct Chain<'a> {
    end_entity: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    name: &'a ServerName<'a>,
}

impl Authorities {
    fn judge(&self, chain: &Chain<'_>, now: UnixTime) -> Result<(), Error> {
        match self.judge_chain(chain, now) {
            Err(fault) if self.accepts(Accept::WrongName) && is_wrong_name(&fault) => Ok(()),
            Err(fault) if self.accepts(Accept::SelfSigned) && is_without_issuer(&fault) => {
                self.judge_self_signed(chain, now).unwrap_or(Err(fault))
            }
            verdict => verdict,
        }
    }

    /// Where an expired certificate is accepted, the chain is judged once more as of the moment at which that one expired;
    /// and so on, when another one had expired by then.
    ///
    /// A chain that was valid at no time, since one certificate expired before another one was made, is refused.
    fn judge_chain(&self, chain: &Chain<'_>, now: UnixTime) -> Result<(), Error> {
        let verdict = self.judge_at(chain, now);
        let (mut at, mut latest) = (now, verdict.clone());
        for _ in 0..=chain.intermediates.len() {
            match expired(&latest).filter(|end| self.accepts(Accept::Expired) && *end < at) {
                Some(end) => (at, latest) = (end, self.judge_at(chain, end)),
                None => break,
            }
        }
        if at < now && self.lists_end.is_some_and(|end| end <= now) {
            // As of an earlier moment even an old list is current.
            return verdict;
        }
        if is_not_yet_valid(&latest) { verdict } else { latest }
    }

    fn judge_at(&self, chain: &Chain<'_>, now: UnixTime) -> Result<(), Error> {
        self.verifier.verify_server_cert(chain.end_entity, chain.intermediates, chain.name, &[], now).map(|_| ())
    }

    /// `None` when it is not self-signed.
    fn judge_self_signed(&self, chain: &Chain<'_>, now: UnixTime) -> Option<Result<(), Error>> {
        let (_, certificate) = X509Certificate::from_der(chain.end_entity).ok()?;
        if !self_signed::is_self_signed(&certificate) {
            return None;
        }
        let dates = match self_signed::judge_dates(&certificate, now) {
            Err(fault) if self.accepts(Accept::Expired) && expired(&Err(fault.clone())).is_some() => Ok(()),
            verdict => verdict,
        };
        let names = || match self_signed::judge_name(chain.end_entity, chain.name) {
            Err(fault) if self.accepts(Accept::WrongName) && is_wrong_name(&fault) => Ok(()),
            verdict => verdict,
        };
        Some(dates.and_then(|()| self_signed::judge_purpose(&certificate)).and_then(|()| names()))
    }

    fn accepts(&self, fault: Accept) -> bool {
        self.accept.contains(&fault)
    }
}

fn judge_by_pin(pin: &Pin, end_entity: &CertificateDer<'_>) -> Result<(), Error> {
    let (_, certificate) = X509Certificate::from_der(end_entity).map_err(|_| CertificateError::BadEncoding)?;
    let is_pinned = sha256(end_entity) == pin.0 || sha256(certificate.tbs_certificate.subject_pki.raw) == pin.0;
    if is_pinned { Ok(()) } else { Err(CertificateError::Other(OtherError(Arc::new(NotPinned))).into()) }
}

fn is_wrong_name(fault: &Error) -> bool {
    matches!(
        fault,
        Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })
    )
}

/// The faults that a self-signed certificate has when its issuer is looked for. A certificate that was taken back, or made
/// for another purpose, is not among them.
fn is_without_issuer(fault: &Error) -> bool {
    match fault {
        Error::InvalidCertificate(CertificateError::Other(other)) => is_authority(other),
        Error::InvalidCertificate(fault) => matches!(
            fault,
            CertificateError::UnknownIssuer
                | CertificateError::BadSignature
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYetContext { .. }
        ),
        _ => false,
    }
}

/// Whether the fault is that an authority's certificate stands in a server's place. rustls does not show webpki's type.
pub(super) fn is_authority(other: &OtherError) -> bool {
    format!("{other:?}").contains("CaUsedAsEndEntity")
}

fn expired(verdict: &Result<(), Error>) -> Option<UnixTime> {
    match verdict {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => Some(*not_after),
        _ => None,
    }
}

fn is_not_yet_valid(verdict: &Result<(), Error>) -> bool {
    matches!(verdict, Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { .. })))
}
