//! Where a listener is: an address of its own, or a socket that is handed over.

use std::{fmt, str::FromStr};

use super::{
    TlsMode,
    address::{ListenAddress, scheme_mode, unknown_scheme},
    fault::Malformed,
};

/// What an `[[listener]]` or `--listen` names: a [`ListenAddress`], or `systemd:NAME`, with the same schemes in front of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenPlace {
    /// An address to bind.
    Address(ListenAddress),
    /// A socket that the service manager hands over.
    HandedOver {
        /// How the clients' hop is protected.
        tls: TlsMode,
        /// The socket's name (`FileDescriptorName=`), or its number, from 1 on, where it has none; empty for the first one that no
        /// listener before took.
        name: String,
    },
}

impl ListenPlace {
    /// Where poptap listens when nothing else is said.
    pub const DEFAULT: Self = Self::Address(ListenAddress::DEFAULT);

    /// How the clients' hop is protected.
    #[must_use]
    pub fn tls(&self) -> TlsMode {
        match self {
            Self::Address(address) => address.tls,
            Self::HandedOver { tls, .. } => *tls,
        }
    }
}

impl FromStr for ListenPlace {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (scheme, place) = text.split_once("://").map_or((None, text), |(scheme, place)| (Some(scheme), place));
        let Some(name) = place.strip_prefix(PREFIX) else { return text.parse().map(Self::Address) };
        let tls = scheme.map_or(Some(TlsMode::Plain), scheme_mode);
        let tls = tls.ok_or_else(|| unknown_scheme(scheme.unwrap_or_default()))?;
        // What systemd.socket(5) allows.
        if name.len() > 255 || !name.bytes().all(|octet| octet.is_ascii_graphic() && octet != b':') {
            let message = format!("`{name}` is not the name of a socket");
            return Err(Malformed::new(message, "write what the socket unit says behind `FileDescriptorName=`"));
        }
        Ok(Self::HandedOver { tls, name: name.to_owned() })
    }
}

impl fmt::Display for ListenPlace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(out),
            Self::HandedOver { tls: TlsMode::Plain, name } => write!(out, "{PREFIX}{name}"),
            Self::HandedOver { tls, name } => write!(out, "{}://{PREFIX}{name}", tls.scheme()),
        }
    }
}

const PREFIX: &str = "systemd:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_have_schemes_as_addresses_have() {
        for (text, expected) in [
            ("systemd:pop3", Ok("systemd:pop3")),
            ("systemd:", Ok("systemd:")),
            ("systemd:1", Ok("systemd:1")),
            ("pop3://systemd:pop3", Ok("systemd:pop3")),
            ("POPS://systemd:poptap.socket", Ok("pop3s://systemd:poptap.socket")),
            ("pop3+stls://systemd:pop3", Ok("pop3+stls://systemd:pop3")),
            ("2110", Ok("127.0.0.1:2110")),
            ("imap://systemd:x", Err("`imap://`")),
            ("systemd:a:b", Err("not the name of a socket")),
            ("systemd:a b", Err("`FileDescriptorName=`")),
        ] {
            match (text.parse::<ListenPlace>(), expected) {
                (Ok(place), Ok(expected)) => assert_eq!(place.to_string(), expected),
                (Err(error), Err(said)) => assert!(error.to_string().contains(said), "{error}"),
                (parsed, _) => panic!("{text}: {parsed:?}"),
            }
        }
    }
}
