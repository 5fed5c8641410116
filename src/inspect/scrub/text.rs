//! Lines of a session and sentences of poptap's → the same with other words.

use std::{collections::HashSet, sync::LazyLock};

use super::names::Names;
use crate::{
    escape::{escape, unescape},
    pop3::{Keyword, identity},
};

/// Digits that a number has at most; a longer one is a name.
const NUMBER: usize = 10;

/// Response codes in brackets: those that are registered (RFC 2449 §8, RFC 3206, RFC 6856), and Dovecot's.
const CODES: [&str; 8] = ["IN-USE", "LOGIN-DELAY", "SYS/TEMP", "SYS/PERM", "AUTH", "UTF8", "EXPIRED", "OVERQUOTA"];

/// What stays of a line: words of the protocol, capability tags, and those that come with numbers.
const OF_THE_PROTOCOL: &str = "\
    apop auth capa dele lang last list noop pass quit retr rpop rset stat stls top uidl user utf8 xclient xoip xsender xtnd xmit xlst \
    sasl resp-codes auth-resp-code pipelining expire never login-delay implementation imap4 \
    ok octets octet bytes messages message msgs";

/// What stays of a sentence: the words of poptap's own.
const OF_POPTAP: &str = "\
    a about above abandoned account accept address addresses after again ahead all allow allowed already ambiguous an and another answer \
    answered answers any arrived as ask asked at authority away back bad be because been before begin beginning begun behind being blocked body \
    bound broke buffer but by bytes call came can cannot capability carried certificate certificates change changed changes chars clear clearly \
    client clients close closed command commands complete config configured connect connected connecting connection connections content could \
    cr crlf cut data day days deadline decode defines deletion deletions denied desynchronised did differ differs digest disk distinct do does dot down \
    dry due during each early earlier echo either elsewhere empty end ended ends enforced enough eof error errors even event events every everything \
    exactly exchange expect expected expired extra failed failing false far few file final find first five follow followed follows for force forever \
    form found four from full get gets give given go goes gone good got greeting grew had half half-closed handshake happened has have having header \
    headers held here hidden hint hold holds hop host hour hours how http idle ids if in incomplete inside instead into is issuer issued it itself \
    judged kept key known last late later lay least leave leaves left length less lf like limit line lines list listed listing logged logging login \
    logins long longer longest lost made mailbox malformed mark marked match matched may mean means mechanism memory message messages middle minute minutes \
    missing mode more most moved much must name named names neither never next no nobody none nor not nothing now nul null number numbers octet octets odd of \
    off offered offers on once one only opaque open opened operator or other others out outstanding over own pair parse part pass passed password \
    peer perhaps period pinned pipelined plain plaintext policy pop3 port ports presented protocol proxy quit quits ran rate reach reached read reading \
    reason received record recorded recorder refused refuses refusing rejected relay removed repeated replies reply request requested required reset \
    response retrieved rule rules said same sasl say says second seconds security seen send sends sent sequence server session sessions short should \
    side signed silent since size slow so some sooner space speak spoke stage start started starts starttls stat state status still stls stopped store \
    stream strict system take taken takes tcp text than that the their them then there these they this those three through time timed timeout times tls \
    to too took top transcript transient tried truncated trust trusted try turned two uidl uidls under undelivered unexpected unique unknown unless unreachable \
    unreadable unsolicited until unusable up upstream use used user uses valid verify version violation waited waiting was way went were what when where \
    whether which while who whole will with within without word would write written wrong your \
    b kb mb gb tb kib mib gib tib ms us s min h d µs";

static PROTOCOL: LazyLock<HashSet<&str>> = LazyLock::new(|| OF_THE_PROTOCOL.split_whitespace().collect());
static POPTAP: LazyLock<HashSet<&str>> = LazyLock::new(|| OF_POPTAP.split_whitespace().collect());

/// Replaces names in an escaped text.
pub(super) fn name(text: &str, names: &mut Names) -> String {
    with_octets(text, |octets| names.name(octets))
}

/// A command line: its keyword stays, numbers where the command takes any, and SASL mechanisms.
pub(super) fn command(text: &str, names: &mut Names) -> String {
    with_octets(text, |octets| {
        let end = octets.iter().position(u8::is_ascii_whitespace).unwrap_or(octets.len());
        let (word, rest) = octets.split_at(end);
        let keyword = Keyword::parse(word);
        let mut line = if keyword == Keyword::Unknown { names.name(word) } else { word.to_owned() };
        line.extend(arguments(keyword, rest, names));
        line
    })
}

fn arguments(keyword: Keyword, rest: &[u8], names: &mut Names) -> Vec<u8> {
    use Keyword::{Auth, Dele, List, Retr, Top, Uidl};
    match keyword {
        Dele | List | Retr | Top | Uidl => tokens(rest, names, is_number),
        Auth => tokens(rest, names, |_, token| identity::mechanism(token).is_some()),
        _ => names.name(rest),
    }
}

/// A line of a server's: its status, response code, numbers and words of the protocol stay.
pub(super) fn server(text: &str, names: &mut Names) -> String {
    with_octets(text, |octets| {
        let (status, rest) = status(octets);
        let (code, rest) = code(rest);
        let mut line = [status, code].concat();
        line.extend(tokens(rest, names, is_of_the_protocol));
        line
    })
}

/// A line with a number and a UIDL behind it, with or without a status.
pub(super) fn uidl(text: &str, names: &mut Names) -> String {
    with_octets(text, |octets| {
        let (status, rest) = status(octets);
        let blanks = rest.len() - rest.trim_ascii_start().len();
        let end = rest[blanks..].iter().position(|octet| *octet == b' ').map_or(0, |end| blanks + end);
        let number = if is_number(names, &rest[blanks..end.max(blanks)]) { end } else { 0 };
        let mut line = [status, &rest[..number]].concat();
        line.extend(names.name(&rest[number..]));
        line
    })
}

/// A sentence of poptap's, in which there may be words of others'.
pub(super) fn sentence(text: &str, names: &mut Names) -> String {
    with_octets(text, |octets| {
        tokens(octets, names, |names, token| {
            let decimal = token.iter().all(|octet| octet.is_ascii_digit() || *octet == b'.') && token.len() <= NUMBER;
            let known = POPTAP.contains(&*lower(token)) && !names.is_name(token);
            known
                || decimal && memchr::memchr_iter(b'.', token).count() < 2 && is_no_name(names, token)
                || is_of_the_protocol(names, token)
        })
    })
}

/// The names of a certificate: the kinds of its attributes stay.
pub(super) fn distinguished(text: &str, names: &mut Names) -> String {
    const KINDS: [&str; 12] = ["CN", "O", "OU", "C", "L", "ST", "DC", "UID", "SERIALNUMBER", "EMAILADDRESS", "STREET", "SN"];
    let parts = text.split_inclusive([',', '+']);
    let part = |part: &str| {
        let kind = part.split_once('=').filter(|(kind, _)| KINDS.contains(&kind.trim().to_ascii_uppercase().as_str()));
        match kind {
            Some((kind, value)) => format!("{kind}={}", name(value, names)),
            None => name(part, names),
        }
    };
    parts.map(part).collect()
}

fn with_octets(text: &str, change: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let octets = unescape(text).unwrap_or_else(|| text.as_bytes().to_vec());
    escape(&change(&octets))
}

fn status(line: &[u8]) -> (&[u8], &[u8]) {
    let known = ["+OK", "-ERR", "+"].into_iter().find(|word| {
        let (begins, behind) = (line.get(..word.len()), line.get(word.len()));
        begins.is_some_and(|begins| begins.eq_ignore_ascii_case(word.as_bytes())) && behind.is_none_or(u8::is_ascii_whitespace)
    });
    line.split_at(known.map_or(0, str::len))
}

/// The response code, with the blanks before it.
fn code(rest: &[u8]) -> (&[u8], &[u8]) {
    let blanks = rest.len() - rest.trim_ascii_start().len();
    let code = CODES.into_iter().find(|code| {
        let begins = rest[blanks..].strip_prefix(b"[").and_then(|rest| rest.split_at_checked(code.len()));
        begins.is_some_and(|(begins, behind)| begins.eq_ignore_ascii_case(code.as_bytes()) && behind.starts_with(b"]"))
    });
    rest.split_at(code.map_or(0, |code| blanks + code.len() + 2))
}

/// Replaces the words of those tokens between blanks that may not stay; punctuation around a token is none of it.
fn tokens(text: &[u8], names: &mut Names, stays: impl Fn(&Names, &[u8]) -> bool) -> Vec<u8> {
    let mut line = Vec::with_capacity(text.len());
    for piece in text.chunk_by(|one, other| one.is_ascii_whitespace() == other.is_ascii_whitespace()) {
        let token = bare(piece);
        if piece[0].is_ascii_whitespace() || stays(names, token) {
            line.extend_from_slice(piece);
        } else {
            line.extend(names.name(piece));
        }
    }
    line
}

fn bare(token: &[u8]) -> &[u8] {
    let is_around = |octet: &u8| b"()[]{}<>,;:.!?'\"`".contains(octet);
    let start = token.iter().position(|octet| !is_around(octet)).unwrap_or(token.len());
    let end = token.iter().rposition(|octet| !is_around(octet)).map_or(start, |at| at + 1);
    &token[start..end]
}

fn is_of_the_protocol(names: &Names, token: &[u8]) -> bool {
    let known = PROTOCOL.contains(&*lower(token)) || identity::mechanism(token).is_some();
    known && !names.is_name(token) || is_number(names, token)
}

fn is_number(names: &Names, token: &[u8]) -> bool {
    !token.is_empty() && token.len() <= NUMBER && token.iter().all(u8::is_ascii_digit) && is_no_name(names, token)
}

fn is_no_name(names: &Names, token: &[u8]) -> bool {
    !token.is_empty() && !names.is_name(token)
}

fn lower(token: &[u8]) -> String {
    String::from_utf8_lossy(token).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_of_lines() {
        let mut names = Names::default();
        names.learn(b"list@4711.example");
        for (line, expected) in [
            ("+OK 2 messages (320 octets)", "+OK 2 messages (320 octets)"),
            ("-ERR [AUTH] no such user: anna.", "-ERR [AUTH] xa xxxa user: xxxb."),
            ("-ERR [ANNA] x", "-ERR [xxxb] a"),
            ("+OK 4711 messages for 12345678901", "+OK xxxc messages xxa xxxxxxxxxxa"),
            ("SASL PLAIN CRAM-MD5 XFOO", "SASL PLAIN CRAM-MD5 xxxd"),
            ("+OK List \\x1b10.1.2.3", "+OK xxxe \\x1bxb.b.c.d"),
            ("+OKAY", "+xxxf"),
        ] {
            assert_eq!(server(line, &mut names), expected);
        }
        for (line, expected) in [
            ("RETR 12", "RETR 12"),
            ("user anna", "user xxxb"),
            ("AUTH plain AGFubmE=", "AUTH plain xxxxxxa="),
            ("ANNA 1", "xxxb b"),
        ] {
            assert_eq!(command(line, &mut names), expected);
        }
        for (line, expected) in [("+OK 1 anna", "+OK 1 xxxb"), ("12 34", "12 xc"), ("34", "xc"), ("7 a b", "7 e f")] {
            assert_eq!(uidl(line, &mut names), expected);
        }
    }

    #[test]
    fn what_stays_of_sentences_and_certificates() {
        let mut names = Names::default();
        let said = "could not reach the server: mail.example.net (10.0.0.1): timed out after 2.5 s";
        assert_eq!(sentence(said, &mut names), "could not reach the server: xxxa.xxxxxxa.xxa (xa.a.a.b): timed out after 2.5 s");
        assert_eq!(distinguished("CN=mail.example.net, O=Example, X=y", &mut names), "CN=xxxa.xxxxxxa.xxa, O=xxxxxxa, c=d");
    }
}
