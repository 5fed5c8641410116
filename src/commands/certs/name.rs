//! The names and addresses that a certificate is for.

use std::{fmt, net::IpAddr};

use crate::{
    commands::{Failure, exit},
    escape::escape,
};

/// A DNS name in lower case and without a final dot, perhaps with `*` as its first label, or an IP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(String);

impl Name {
    /// Reads what was typed.
    ///
    /// # Errors
    ///
    /// When no certificate can be made for it, with a hint.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(address.to_string()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        match fault(name) {
            Some((problem, hint)) => Err(refused(text, problem, hint)),
            None => Ok(Self(name.to_ascii_lowercase())),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Without an ending; letters, digits, `.`, `-` and `_` only, and no dot in front.
    pub(super) fn file_name(&self) -> String {
        self.0.replace(|letter: char| !letter.is_ascii_alphanumeric() && !".-".contains(letter), "_")
    }

    /// A host that has this name: itself, or one of those that a wildcard stands for.
    pub(super) fn example(&self) -> String {
        self.0.replacen("*.", "mail.", 1)
    }

    /// Whether it is a wildcard with a single label behind it. The rules for certificates leave that to the verifier, and
    /// OpenSSL, rustls and curl refuse it, since `*.com` would have the same form.
    pub(super) fn is_too_wide(&self) -> bool {
        self.0.strip_prefix("*.").is_some_and(|rest| !rest.contains('.'))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What is wrong with it and what to do, in the order in which people go wrong.
fn fault(name: &str) -> Option<(&'static str, &'static str)> {
    if name.contains('/') {
        Some(("it is a URL or a path", "give the name of the server alone, such as `pop.example.net`"))
    } else if name.contains('@') {
        Some(("it is an address of mail", "give the name of the server, such as `pop.example.net`"))
    } else if name.starts_with('[') {
        Some(("it has brackets", "give an IPv6 address without them, such as `2001:db8::7`"))
    } else if name.contains(':') {
        Some(("it is no address, and names have no colon", "leave out the port: a certificate is for all of them"))
    } else if !name.is_ascii() {
        Some(("it is not ASCII", "give its form for the DNS, which begins with `xn--`"))
    } else if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|octet| octet.is_ascii_digit()) && !last.is_empty()) {
        Some(("it ends in a number, and is no IPv4 address", "an IPv4 address has four numbers from 0 to 255"))
    } else if name.len() > LONGEST || !name.strip_prefix("*.").unwrap_or(name).split('.').all(is_label) {
        Some((
            "it is no DNS name",
            "labels of up to 63 letters, digits and hyphens, with dots between; `*` as the whole first one",
        ))
    } else {
        None
    }
}

/// RFC 1123 §2.1, and the underscore, which some names within houses have.
fn is_label(label: &str) -> bool {
    let allowed = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_';
    (1..=63).contains(&label.len()) && label.bytes().all(allowed) && !label.starts_with('-') && !label.ends_with('-')
}

fn refused(text: &str, problem: &str, hint: &str) -> Failure {
    Failure::new(exit::USAGE, format!("cannot make a certificate for `{}`: {problem}\n  hint: {hint}", escape(text.as_bytes())))
}

/// Octets in a name (RFC 1035 §2.3.4, without the length octets on the wire).
const LONGEST: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_taken_in_one_form() {
        for (typed, kept, file) in [
            ("POP.Example.NET.", "pop.example.net", "pop.example.net"),
            ("localhost", "localhost", "localhost"),
            ("*.lan", "*.lan", "_.lan"),
            ("my_box", "my_box", "my_box"),
            ("xn--mller-kva.example", "xn--mller-kva.example", "xn--mller-kva.example"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
            ("2001:DB8:0::7", "2001:db8::7", "2001_db8__7"),
            ("3com.example", "3com.example", "3com.example"),
        ] {
            let name = Name::parse(typed).unwrap();
            assert_eq!((name.as_str(), &*name.file_name()), (kept, file));
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_a_way_out() {
        let long_label = format!("{}.net", "a".repeat(64));
        let long = "a.".repeat(126) + "aa";
        for (typed, said) in [
            ("", "no DNS name"),
            (".", "no DNS name"),
            ("..", "no DNS name"),
            ("a..b", "no DNS name"),
            (".example.net", "no DNS name"),
            ("*", "no DNS name"),
            ("*.", "no DNS name"),
            ("a.*.net", "no DNS name"),
            ("mail*.example.net", "no DNS name"),
            ("*.*.net", "no DNS name"),
            ("-a.net", "no DNS name"),
            ("a b", "no DNS name"),
            ("a\nb", "a\\x0ab"),
            (&long_label, "no DNS name"),
            (&long, "no DNS name"),
            ("pop3s://pop.example.net", "URL"),
            ("../../etc/passwd", "path"),
            ("joe@example.net", "mail"),
            ("pop.example.net:995", "port"),
            ("[::1]", "without them"),
            ("müller.example", "xn--"),
            ("192.0.2.256", "four numbers"),
            ("10.1", "four numbers"),
        ] {
            let failure = Name::parse(typed).unwrap_err();
            assert!(failure.code == exit::USAGE && failure.message.contains(said), "{typed:?}: {failure}");
        }
        assert!(Name::parse(&("a.".repeat(126) + "a")).is_ok(), "253 octets are allowed");
    }

    #[test]
    fn wildcards_stand_for_names_below_them() {
        let wide = Name::parse("*.lan").unwrap();
        assert!(wide.is_too_wide() && !Name::parse("*.home.lan").unwrap().is_too_wide());
        assert_eq!(wide.example(), "mail.lan");
    }
}
