//! Who logs in: the identity inside SASL messages, and which of their octets are secret.
//!
//! Only the identity is ever kept. What cannot be read for certain (bad base64, a line cut short before the identity's end,
//! control characters in it) names nobody.

use base64::{Engine, alphabet, engine::GeneralPurpose, engine::general_purpose::GeneralPurposeConfig};
use zeroize::Zeroizing;

/// SASL mechanisms by name: those that a record may name in full. Another name may be a mistyped password.
const MECHANISMS: [&str; 24] = [
    "ANONYMOUS",
    "CRAM-MD5",
    "DIGEST-MD5",
    "EXTERNAL",
    "GS2-KRB5",
    "GS2-KRB5-PLUS",
    "GSS-SPNEGO",
    "GSSAPI",
    "KERBEROS_V4",
    "LOGIN",
    "MSN",
    "NTLM",
    "OAUTHBEARER",
    "OTP",
    "PLAIN",
    "SCRAM-SHA-1",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-256",
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-512",
    "SCRAM-SHA-512-PLUS",
    "SKEY",
    "XOAUTH",
    "XOAUTH2",
];

/// What a SASL message of the client's holds.
#[derive(Default)]
pub(crate) struct Said {
    /// The identity.
    pub(crate) user: Option<String>,
    /// Whose mailbox is asked for, where that is said to be another's (RFC 4616: the authorization identity).
    pub(crate) acts_as: Option<String>,
    /// What must not be seen again in a server's text.
    pub(crate) secret: Option<Zeroizing<Vec<u8>>>,
}

/// The mechanism's name as registered, when `word` names one that is known.
pub(crate) fn mechanism(word: &[u8]) -> Option<&'static str> {
    MECHANISMS.into_iter().find(|name| word.eq_ignore_ascii_case(name.as_bytes()))
}

/// Reads the client's message number `step` (from 0) of an exchange. `whole` says that the line was not cut.
pub(crate) fn read(mechanism: &str, step: usize, line: &[u8], whole: bool) -> Said {
    let Some(message) = decode(line, whole) else { return Said::default() };
    let (user, secret) = match (mechanism, step) {
        ("PLAIN", 0) => plain(&message),
        ("LOGIN", 0) => (whole.then_some(&message[..]), None),
        ("XOAUTH2", 0) => (field(&message, b"user="), after(&message, b"\x01auth=")),
        ("OAUTHBEARER", 0) => (gs2(&message).map(|(acts_as, _)| acts_as), after(&message, b"\x01auth=")),
        ("CRAM-MD5", 0) if whole => cram(&message),
        (name, 0) if name.starts_with("SCRAM-") => (gs2(&message).and_then(|(_, rest)| scram(rest)), Some(&message[..])),
        _ => (None, Some(&message[..])),
    };
    let asked_for = match (mechanism, step) {
        ("PLAIN", 0) => message.split(|&octet| octet == 0).next(),
        (name, 0) if name.starts_with("SCRAM-") => gs2(&message).map(|(acts_as, _)| acts_as),
        _ => None,
    };
    let asked_for = asked_for.filter(|name| !name.is_empty());
    let acts_as = asked_for.and_then(|name| readable(mechanism, name));
    // Where another's mailbox is asked for and cannot be told, it is not that of whoever asks.
    let user = user.filter(|_| asked_for.is_some() == acts_as.is_some()).and_then(|user| readable(mechanism, user));
    Said { user, acts_as, secret: secret.map(|secret| Zeroizing::new(secret.to_vec())) }
}

/// RFC 4616: authorization identity, NUL, authentication identity, NUL, password.
fn plain(message: &[u8]) -> (Option<&[u8]>, Option<&[u8]>) {
    let mut parts = message.splitn(3, |&octet| octet == 0);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(user), Some(password)) => (Some(user), Some(password)),
        _ => (None, Some(message)),
    }
}

/// RFC 2195: the name, a blank, the digest.
fn cram(message: &[u8]) -> (Option<&[u8]>, Option<&[u8]>) {
    match message.iter().rposition(|&octet| octet == b' ') {
        Some(at) => (Some(&message[..at]), Some(&message[at + 1..])),
        None => (None, Some(message)),
    }
}

/// A field of an OAuth message, up to its ^A; none when the end is not there.
fn field<'a>(message: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = message.strip_prefix(name)?;
    Some(&value[..memchr::memchr(1, value)?])
}

fn after<'a>(message: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    memchr::memmem::find(message, name).map_or(Some(message), |at| Some(&message[at + name.len()..]))
}

/// The authorization identity of a GS2 header, empty where there is none, and what stands behind the header (RFC 5801 §4). An
/// `a=` anywhere else is none: the server does not look for it there.
fn gs2(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = message.splitn(3, |&octet| octet == b',');
    let (_flag, acts_as, rest) = (parts.next()?, parts.next()?, parts.next()?);
    if acts_as.is_empty() { Some((acts_as, rest)) } else { Some((acts_as.strip_prefix(b"a=")?, rest)) }
}

/// The name that a SCRAM message begins with, behind its header (RFC 5802 §5.1).
fn scram(message: &[u8]) -> Option<&[u8]> {
    let name = message.strip_prefix(b"n=")?;
    Some(&name[..memchr::memchr(b',', name)?])
}

/// An identity that may be written: UTF-8 without controls, with `=2C` and `=3D` read back where names are written so.
fn readable(mechanism: &str, user: &[u8]) -> Option<String> {
    let user = std::str::from_utf8(user).ok().filter(|user| !user.is_empty() && !user.contains(char::is_control))?;
    let encoded = mechanism == "OAUTHBEARER" || mechanism.starts_with("SCRAM-");
    Some(if encoded { user.replace("=2C", ",").replace("=3D", "=") } else { user.to_owned() })
}

/// Base64, padded or not; of a cut line, the whole groups of four.
pub(super) fn decode(line: &[u8], whole: bool) -> Option<Zeroizing<Vec<u8>>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    let line = line.trim_ascii();
    let line = if whole { line } else { &line[..line.len() / 4 * 4] };
    LENIENT.decode(line).ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn said(mechanism: &str, step: usize, message: &[u8]) -> (Option<String>, Option<Vec<u8>>) {
        let said = read(mechanism, step, STANDARD.encode(message).as_bytes(), true);
        (said.user, said.secret.map(|secret| secret.to_vec()))
    }

    #[test]
    fn identities() {
        for (mechanism, step, message, user, secret) in [
            ("PLAIN", 0, &b"\0bob\0hunter2"[..], Some("bob"), Some(&b"hunter2"[..])),
            ("PLAIN", 0, b"admin\0bob\0hunter2", Some("bob"), Some(b"hunter2")),
            ("PLAIN", 0, b"bob hunter2", None, Some(b"bob hunter2")),
            ("LOGIN", 0, b"bob", Some("bob"), None),
            ("LOGIN", 1, b"hunter2", None, Some(b"hunter2")),
            ("XOAUTH2", 0, b"user=bob@x\x01auth=Bearer t0k\x01\x01", Some("bob@x"), Some(b"Bearer t0k\x01\x01")),
            ("OAUTHBEARER", 0, b"n,a=b=2Cb,\x01host=h\x01auth=Bearer t\x01\x01", Some("b,b"), Some(b"Bearer t\x01\x01")),
            ("CRAM-MD5", 0, b"bob smith 0123ab", Some("bob smith"), Some(b"0123ab")),
            ("SCRAM-SHA-256", 0, b"n,,n=bob,r=abc", Some("bob"), Some(b"n,,n=bob,r=abc")),
            ("SCRAM-SHA-256", 0, b"n,,n=bob,r=abc,a=eve,", Some("bob"), Some(b"n,,n=bob,r=abc,a=eve,")),
            ("SCRAM-SHA-256", 0, b"n,,m=x,n=bob,r=abc", None, Some(b"n,,m=x,n=bob,r=abc")),
            ("OAUTHBEARER", 0, b"n,,\x01x=,a=eve,\x01auth=Bearer t\x01\x01", None, Some(b"Bearer t\x01\x01")),
            ("PLAIN", 0, b"ad\x01min\0bob\0hunter2", None, Some(b"hunter2")),
            ("SCRAM-SHA-256", 1, b"c=biws,r=abc,p=x", None, Some(b"c=biws,r=abc,p=x")),
            ("NTLM", 0, b"NTLMSSP", None, Some(b"NTLMSSP")),
            ("LOGIN", 0, b"b\x1bob", None, None),
            ("LOGIN", 0, b"", None, None),
        ] {
            let expected = (user.map(str::to_owned), secret.map(<[u8]>::to_vec));
            assert_eq!(said(mechanism, step, message), expected, "{mechanism} {}", message.escape_ascii());
        }
    }

    #[test]
    fn another_mailbox_that_is_asked_for() {
        for (mechanism, message, expected) in [
            ("PLAIN", &b"\0bob\0hunter2"[..], None),
            ("PLAIN", b"archive\0bob\0hunter2", Some("archive")),
            ("SCRAM-SHA-256", b"n,,n=bob,r=abc", None),
            ("SCRAM-SHA-256", b"n,a=arc=2Chive,n=bob,r=abc", Some("arc,hive")),
            ("SCRAM-SHA-1-PLUS", b"p=tls-unique,a=archive,n=bob,r=abc", Some("archive")),
            ("SCRAM-SHA-256", b"n,,n=bob,r=abc,a=archive,", None),
        ] {
            let said = read(mechanism, 0, STANDARD.encode(message).as_bytes(), true);
            assert_eq!(said.acts_as.as_deref(), expected, "{mechanism} {}", message.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_base64_names_nobody() {
        let said = read("LOGIN", 0, b"bob smith!", true);
        assert!(said.user.is_none() && said.secret.is_none());
    }

    #[test]
    fn a_cut_token_still_names_its_user() {
        let message = [&b"user=bob\x01auth=Bearer "[..], &[b'x'; 600]].concat();
        let line = STANDARD.encode(message);
        assert_eq!(read("XOAUTH2", 0, &line.as_bytes()[..511], false).user.as_deref(), Some("bob"));
        assert_eq!(read("LOGIN", 0, &line.as_bytes()[..511], false).user, None);
    }

    #[test]
    fn mechanisms() {
        assert_eq!(mechanism(b"plain"), Some("PLAIN"));
        assert_eq!(mechanism(b"hunter2"), None);
    }
}
