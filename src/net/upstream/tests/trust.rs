//! Trust in degrees: every fault of a certificate against every set of faults that is accepted, pins, revocation.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevocationReason, RevokedCertParams, SerialNumber,
};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};

use super::*;
use crate::{
    config::{Accept, KeyPair as KeyFiles, Pin},
    tls::Certificate,
};

const PAST: Validity = Validity { from: datetime!(2020-01-01 0:00 UTC), to: datetime!(2021-01-01 0:00 UTC) };
const OTHER_NAME: &str = "mail.example.net";

/// The same server, with other settings.
fn with(ca: Option<&tempfile::NamedTempFile>, settings: impl FnOnce(&mut Upstream)) -> Connector {
    let mut upstream = upstream(NAME, 995, TlsMode::Implicit, ca.map(|ca| ca.path().to_owned()));
    settings(&mut upstream);
    Connector::new(&upstream, &TIMEOUTS, None).unwrap()
}

async fn outcome(connector: &Connector, config: Arc<ServerConfig>) -> Result<Connected, ConnectError> {
    // Kept until the end, since a closed connection would look like a refusal.
    let (result, _server) = against(connector, async move |tcp| accept(config, tcp).await).await;
    result
}

async fn outcome_of(connector: &Connector, issued: Issued) -> Result<Connected, ConnectError> {
    outcome(connector, config(issued)).await
}

fn all_sets() -> Vec<Vec<Accept>> {
    let faults = [Accept::Expired, Accept::SelfSigned, Accept::WrongName];
    let of = |set: usize| faults.iter().enumerate().filter(|(at, _)| set >> at & 1 == 1).map(|(_, fault)| *fault).collect();
    (0..8).map(of).collect()
}

fn certificate_with(faults: &[Accept], authority: &Authority) -> Issued {
    let validity = if faults.contains(&Accept::Expired) { PAST } else { Validity::days(1) };
    let names = [if faults.contains(&Accept::WrongName) { OTHER_NAME } else { NAME }];
    let issued = if faults.contains(&Accept::SelfSigned) {
        Authority::self_signed(&names, validity)
    } else {
        authority.issue(&names, validity)
    };
    issued.unwrap()
}

#[tokio::test]
async fn a_certificate_needs_every_word_for_its_faults_and_no_other() {
    let lab = Lab::new();
    for accepted in all_sets() {
        let connector = with(Some(&lab.ca), |upstream| upstream.accept.clone_from(&accepted));
        for faults in all_sets() {
            let result = outcome_of(&connector, certificate_with(&faults, &lab.authority)).await;
            let is_covered = faults.iter().all(|fault| accepted.contains(fault));
            assert_eq!(result.is_ok(), is_covered, "{faults:?} with {accepted:?}: {result:?}");
            let Err(error) = result else { continue };
            let said = error.to_string();
            let words = [
                (Accept::Expired, "expired on 2021"),
                (Accept::SelfSigned, "is self-signed"),
                (Accept::WrongName, "is not for `pop.example.net`, only for `mail"),
            ];
            let remaining = words.iter().filter(|(fault, _)| faults.contains(fault) && !accepted.contains(fault));
            assert!(remaining.into_iter().any(|(_, words)| said.contains(words)), "{faults:?} with {accepted:?}: {said}");
        }
    }
}

#[tokio::test]
async fn what_is_accepted_of_a_private_authority_holds_for_the_systems_too() {
    // A self-signed certificate needs no authority, so that it does not matter which ones the system has.
    let connector = with(None, |upstream| upstream.accept = vec![Accept::SelfSigned]);
    let issued = |names| Authority::self_signed(names, Validity::days(1)).unwrap();
    let tls = outcome_of(&connector, issued(&[NAME])).await.unwrap().tls.unwrap();
    assert_eq!((tls.trust.as_deref(), tls.accept.as_slice()), (Some("system"), ["self-signed".to_owned()].as_slice()));
    assert!(outcome_of(&connector, issued(&[OTHER_NAME])).await.is_err());
}

#[tokio::test]
async fn an_authoritys_own_certificate_is_self_signed_too() {
    let maker = Authority::new("pop.example.net").unwrap();
    let key = file(&maker.key_pem());
    let lab = Lab::new();
    // It names no host, which is a fault of its own.
    for (accept, is_accepted) in [
        (vec![Accept::SelfSigned, Accept::WrongName], true),
        (vec![Accept::SelfSigned], false),
        (vec![Accept::WrongName, Accept::Expired], false),
    ] {
        let connector = with(Some(&lab.ca), |upstream| upstream.accept.clone_from(&accept));
        let config = server_config(vec![maker.certificate()], tls::pem::private_key(key.path()).unwrap()).unwrap();
        assert_eq!(outcome(&connector, config).await.is_ok(), is_accepted, "{accept:?}");
    }
}

#[tokio::test]
async fn a_name_in_common_makes_nothing_self_signed() {
    // Subject and issuer are the same; the signature is another key's.
    let issued = Authority::new(NAME).unwrap().issue(&[NAME], Validity::days(1)).unwrap();
    assert!(Certificate::parse(&issued.chain[0]).unwrap().self_signed);
    let lab = Lab::new();
    let connector = with(Some(&lab.ca), |upstream| upstream.accept = vec![Accept::SelfSigned]);
    assert!(outcome_of(&connector, issued).await.is_err());
}

#[tokio::test]
async fn what_has_not_begun_is_never_accepted() {
    let lab = Lab::new();
    let future = Validity { from: datetime!(2100-01-01 0:00 UTC), to: datetime!(2101-01-01 0:00 UTC) };
    let everything = all_sets().pop().unwrap();
    let connector = with(Some(&lab.ca), |upstream| upstream.accept.clone_from(&everything));
    for issued in [Authority::self_signed(&[NAME], future), lab.authority.issue(&[NAME], future)] {
        let error = outcome_of(&connector, issued.unwrap()).await.unwrap_err();
        assert!(error.to_string().ends_with("is not valid before 2100-01-01T00:00:00Z"), "{error}");
    }
}

#[tokio::test]
async fn a_pin_takes_the_place_of_everything_else() {
    let worst = || Authority::self_signed(&[OTHER_NAME], PAST).unwrap();
    let issued = worst();
    let facts = Certificate::parse(&issued.chain[0]).unwrap();
    let config = config(issued);
    for digest in [&facts.fingerprint, &facts.key_fingerprint] {
        let pin: Pin = format!("sha256:{digest}").parse().unwrap();
        let connector = with(None, |upstream| upstream.pin = Some(pin));
        let tls = outcome(&connector, config.clone()).await.unwrap().tls.unwrap();
        assert_eq!((tls.trust.as_deref(), tls.accept.len()), (Some("pin"), 0));

        let other = worst();
        let facts = Certificate::parse(&other.chain[0]).unwrap();
        let error = outcome_of(&connector, other).await.unwrap_err();
        let words = format!(
            "its certificate is not the pinned one: it is `sha256:{}`, and its public key `sha256:{}`",
            facts.fingerprint, facts.key_fingerprint
        );
        assert!(error.to_string().ends_with(&words), "{error}");
        assert!(error.hint().unwrap().contains("`pin`"));
    }
}

/// Presents a certificate and signs with a key that is not its own.
#[derive(Debug)]
struct Thief(Arc<CertifiedKey>);

impl ResolvesServerCert for Thief {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[tokio::test]
async fn whoever_presents_the_pinned_certificate_must_have_its_key() {
    let pinned = Authority::self_signed(&[NAME], Validity::days(1)).unwrap();
    let other = Authority::self_signed(&[NAME], Validity::days(1)).unwrap();
    let pin = format!("sha256:{}", Certificate::parse(&pinned.chain[0]).unwrap().fingerprint).parse().unwrap();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = provider.key_provider.load_private_key(other.key.clone_key()).unwrap();
        let stolen = Thief(Arc::new(CertifiedKey::new(pinned.chain.clone(), key)));
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(stolen));
        let lab = Lab::new();
        let pinning = with(None, |upstream| upstream.pin = Some(pin));
        let lenient = with(Some(&lab.ca), |upstream| upstream.accept = all_sets().pop().unwrap());
        for connector in [pinning, lenient] {
            let result = outcome(&connector, Arc::new(server.clone())).await;
            assert!(result.is_err(), "{version:?}: {result:?}");
        }
    }
}

/// An authority with one below it, which issues, and their revocation lists.
struct Hierarchy {
    root: CertifiedIssuer<'static, KeyPair>,
    middle: CertifiedIssuer<'static, KeyPair>,
}

impl Hierarchy {
    fn new(middle_ends: OffsetDateTime) -> Self {
        let root = CertifiedIssuer::self_signed(authority_params("Root", datetime!(2100-01-01 0:00 UTC)), key()).unwrap();
        let middle = CertifiedIssuer::signed_by(authority_params("Middle", middle_ends), key(), &root).unwrap();
        Self { root, middle }
    }

    fn issue(&self, serial: u64, ends: OffsetDateTime) -> Arc<ServerConfig> {
        let (mut params, key) = (CertificateParams::new([NAME.to_owned()]).unwrap(), key());
        params.serial_number = Some(SerialNumber::from(serial));
        (params.not_before, params.not_after) = (datetime!(2020-01-01 0:00 UTC), ends);
        let certificate = params.signed_by(&key, &self.middle).unwrap();
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone(), self.middle.der().clone()];
        server_config(chain, PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()))).unwrap()
    }

    /// The lists of both, in one file; `revoked` are serial numbers of the lower one's.
    fn lists(&self, revoked: &[u64], until: OffsetDateTime) -> tempfile::NamedTempFile {
        file(&(list(&self.root, &[], until) + &list(&self.middle, revoked, until)))
    }

    fn connector(&self, lists: &tempfile::NamedTempFile, accept: Vec<Accept>) -> Connector {
        let ca = file(&self.root.pem());
        with(Some(&ca), |upstream| (upstream.crl_file, upstream.accept) = (Some(lists.path().to_owned()), accept))
    }
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn authority_params(name: &str, ends: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (datetime!(2020-01-01 0:00 UTC), ends);
    params
}

fn list(issuer: &CertifiedIssuer<'static, KeyPair>, revoked: &[u64], until: OffsetDateTime) -> String {
    let revoked = revoked.iter().map(|&serial| RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: datetime!(2020-06-01 0:00 UTC),
        reason_code: Some(RevocationReason::KeyCompromise),
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: datetime!(2020-06-01 0:00 UTC),
        next_update: until,
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap().pem().unwrap()
}

const LATER: OffsetDateTime = datetime!(2099-01-01 0:00 UTC);

#[tokio::test]
async fn a_revoked_certificate_is_refused_and_its_neighbour_is_not() {
    let hierarchy = Hierarchy::new(LATER);
    let connector = hierarchy.connector(&hierarchy.lists(&[7], LATER), Vec::new());
    assert!(outcome(&connector, hierarchy.issue(8, LATER)).await.is_ok());
    let error = outcome(&connector, hierarchy.issue(7, LATER)).await.unwrap_err();
    assert!(error.to_string().contains("its certificate was revoked by its issuer"), "{error}");
    // No word accepts that.
    let lenient = hierarchy.connector(&hierarchy.lists(&[7], LATER), all_sets().pop().unwrap());
    for ends in [LATER, PAST.to] {
        let error = outcome(&lenient, hierarchy.issue(7, ends)).await.unwrap_err();
        assert!(error.to_string().contains("was revoked"), "{error}");
    }
}

#[tokio::test]
async fn a_certificate_of_which_no_list_tells_is_refused() {
    let hierarchy = Hierarchy::new(LATER);
    for lists in [list(&hierarchy.root, &[], LATER), list(&hierarchy.middle, &[], LATER)] {
        let error = outcome(&hierarchy.connector(&file(&lists), Vec::new()), hierarchy.issue(8, LATER)).await.unwrap_err();
        assert!(error.to_string().contains("no revocation list of its issuer's says that it is not"), "{error}");
    }
}

#[tokio::test]
async fn an_old_list_is_refused_even_where_old_certificates_are_accepted() {
    let hierarchy = Hierarchy::new(LATER);
    let lists = hierarchy.lists(&[], datetime!(2022-01-01 0:00 UTC));
    let error = outcome(&hierarchy.connector(&lists, Vec::new()), hierarchy.issue(8, LATER)).await.unwrap_err();
    assert!(error.to_string().ends_with("the revocation list ended on 2022-01-01T00:00:00Z"), "{error}");
    let lenient = hierarchy.connector(&lists, vec![Accept::Expired]);
    assert!(outcome(&lenient, hierarchy.issue(8, PAST.to)).await.is_err());
    let current = hierarchy.connector(&hierarchy.lists(&[], LATER), vec![Accept::Expired]);
    assert!(outcome(&current, hierarchy.issue(8, PAST.to)).await.is_ok());
}

#[tokio::test]
async fn expired_is_said_of_the_whole_chain() {
    for (middle_ends, ends) in [(PAST.to, LATER), (LATER, PAST.to), (PAST.to, datetime!(2022-01-01 0:00 UTC))] {
        let hierarchy = Hierarchy::new(middle_ends);
        let ca = file(&hierarchy.root.pem());
        let lenient = with(Some(&ca), |upstream| upstream.accept = vec![Accept::Expired]);
        let strict = with(Some(&ca), |_| {});
        assert!(outcome(&lenient, hierarchy.issue(1, ends)).await.is_ok(), "{middle_ends} {ends}");
        assert!(outcome(&strict, hierarchy.issue(1, ends)).await.is_err(), "{middle_ends} {ends}");
    }
}

#[tokio::test]
async fn another_name_is_asked_for_and_verified() {
    let lab = Lab::new();
    let connector = with(Some(&lab.ca), |upstream| upstream.server_name = Some(OTHER_NAME.to_owned()));
    let config = config(lab.authority.issue(&[OTHER_NAME], Validity::days(1)).unwrap());
    let (result, sni) = against(&connector, async move |tcp| {
        let tls = accept(config, tcp).await.unwrap();
        tls.get_ref().1.server_name().map(str::to_owned)
    })
    .await;
    assert_eq!(sni.as_deref(), Some(OTHER_NAME));
    let connected = result.unwrap();
    let presented = connector.presented(&connected).unwrap();
    assert!(presented.is_for_host);
    assert_eq!(presented.chain.len(), 2);
    let error = outcome(&connector, lab.good()).await.unwrap_err();
    assert!(error.to_string().contains("is not for `mail.example.net`, only for `pop.example.net`"), "{error}");
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_gets_ours() {
    let lab = Lab::new();
    let clients = CertifiedIssuer::self_signed(authority_params("Clients", LATER), key()).unwrap();
    let own_key = key();
    let mut params = CertificateParams::new(["client.example.net".to_owned()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let ours = params.signed_by(&own_key, &clients).unwrap();
    let (cert, key) = (file(&ours.pem()), file(&own_key.serialize_pem()));
    let files = KeyFiles { cert: cert.path().to_owned(), key: key.path().to_owned() };
    let config = demanding(&lab, clients.der(), &rustls::version::TLS13);
    let connector = with(Some(&lab.ca), |upstream| upstream.client = Some(files.clone()));
    let expiry = connector.expiries().pop().unwrap();
    assert_eq!(expiry.what, format!("the client certificate in `{}`", files.cert.display()));
    assert_eq!(expiry.not_after, Certificate::parse(ours.der()).unwrap().not_after);
    let (result, presented) = against(&connector, async move |tcp| {
        let tls = accept(config, tcp).await.unwrap();
        tls.get_ref().1.peer_certificates().unwrap()[0].clone()
    })
    .await;
    assert!(result.is_ok());
    assert_eq!(&presented, ours.der());
}

/// Demands a certificate of this authority.
fn demanding(
    lab: &Lab,
    clients: &CertificateDer<'static>,
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<ServerConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(clients.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let issued = lab.authority.issue(&[NAME, "127.0.0.1"], Validity::days(1)).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(issued.chain, issued.key)
        .unwrap();
    Arc::new(config)
}

#[tokio::test]
async fn a_server_that_asks_in_vain_is_understood() {
    let lab = Lab::new();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = demanding(&lab, &lab.authority.certificate(), version);
        let (address, server) = serve(async move |tcp| accept(config, tcp).await.is_ok()).await;
        let error = connector("127.0.0.1", address.port(), TlsMode::Implicit, Some(lab.ca.path().to_owned()));
        let error = error.probe().await.unwrap_err();
        assert!(error.hint().unwrap().contains("`cert` and `key`"), "{version:?}: {}", error.detail());
        assert!(!server.await.unwrap());
    }
}

#[test]
fn a_certificate_without_its_key_is_refused_at_once() {
    let lab = Lab::new();
    let issue = || lab.authority.issue(&["client.example.net"], Validity::days(5)).unwrap();
    let (cert, key) = (file(&issue().chain_pem), file(&issue().key_pem()));
    let mut upstream = upstream(NAME, 995, TlsMode::Implicit, Some(lab.ca.path().to_owned()));
    upstream.client = Some(KeyFiles { cert: cert.path().to_owned(), key: key.path().to_owned() });
    let error = Connector::new(&upstream, &TIMEOUTS, None).unwrap_err();
    let expected =
        format!("cannot use the certificate in `{}` with the key in `{}`: ", cert.path().display(), key.path().display());
    assert!(error.to_string().starts_with(&expected), "{error}");
    upstream.client = Some(KeyFiles { cert: cert.path().to_owned(), key: cert.path().to_owned() });
    let error = Connector::new(&upstream, &TIMEOUTS, None).unwrap_err();
    assert!(error.to_string().starts_with("there is no private key in `"), "{error}");
}
