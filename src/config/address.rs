//! Addresses as people type them: where to listen, which server to reach, who may come.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use ipnet::IpNet;

use super::{TlsMode, fault::Malformed};

/// A mail server's URL: `pop3://host[:110]`, `pop3s://host[:995]` or `pop3+stls://host[:110]`; over a Unix socket of this host
/// `pop3+unix:///path` or `pop3+stls+unix:///path`.
///
/// The aliases `pop://`, `pops://` and `pop+stls://` are read too, in any case (RFC 2384 has the first).
/// Displayed, the port is left out where it is the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// How the hop is protected.
    pub tls: TlsMode,
    /// Host name or address literal as written; an IPv6 literal without its brackets.
    pub host: String,
    /// TCP port, never 0 but for a Unix socket.
    pub port: u16,
    /// The path of a Unix socket, in place of host and port; absolute. The host is then [`UpstreamUrl::THIS_HOST`].
    pub socket: Option<PathBuf>,
}

impl UpstreamUrl {
    /// Where the server behind a Unix socket is.
    pub const THIS_HOST: &'static str = "localhost";

    fn of_socket(tls: TlsMode, path: &str) -> Result<Self, Malformed> {
        let fault = |message: &str, hint: &str| Err(Malformed::new(message, hint));
        match path {
            _ if !path.starts_with('/') => {
                fault("the path of a Unix socket begins with `/`", "write `pop3+unix:///run/pop3.sock`")
            }
            _ if path.len() > SOCKET_PATH => {
                fault("the path of a Unix socket has at most 107 octets", "put it into another directory")
            }
            _ if path.contains('\0') || path.ends_with('/') => {
                fault("this is not the path of a socket", "write `pop3+unix:///run/pop3.sock`")
            }
            _ => Ok(Self { tls, host: Self::THIS_HOST.to_owned(), port: 0, socket: Some(path.into()) }),
        }
    }
}

/// Octets of a Unix socket's path, at most: Linux has room for 108 with a NUL behind them.
const SOCKET_PATH: usize = 107;

impl FromStr for UpstreamUrl {
    type Err = Malformed;

    /// # Errors
    ///
    /// When the text is no such URL. What stands before an `@` may be a password, so it is never repeated.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.contains('@') {
            return Err(Malformed::new(
                "a server's URL cannot hold a user name or password",
                "leave them out: the mail client logs in by itself",
            ));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| not_a_url(text))?;
        if let Some(tls) = scheme.to_ascii_lowercase().strip_suffix("+unix").and_then(scheme_mode) {
            return match tls {
                TlsMode::Implicit => Err(Malformed::new(
                    "TLS from the first octet is not spoken over a Unix socket",
                    "use `pop3+unix://` (plain) or `pop3+stls+unix://` (STLS)",
                )),
                TlsMode::Plain | TlsMode::Stls => Self::of_socket(tls, rest),
            };
        }
        let tls = scheme_mode(scheme).ok_or_else(|| unknown_scheme(scheme))?;
        let (host, port) = split_host(without_path(rest)?)?;
        Ok(Self { tls, host: host.to_owned(), port: port.unwrap_or_else(|| default_port(tls)), socket: None })
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.tls.scheme();
        if let Some(path) = &self.socket {
            return write!(out, "{scheme}+unix://{}", path.display());
        }
        if self.host.contains(':') {
            write!(out, "{scheme}://[{}]", self.host)?;
        } else {
            write!(out, "{scheme}://{}", self.host)?;
        }
        if self.port == default_port(self.tls) { Ok(()) } else { write!(out, ":{}", self.port) }
    }
}

/// Where to listen: `ADDR:PORT`, `[v6]:PORT`, `PORT` (loopback), `:PORT` (all interfaces), behind `pop3s://` (TLS),
/// `pop3+stls://` (STLS is offered), or `pop3://` or nothing (plain).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// How the clients' hop is protected.
    pub tls: TlsMode,
    /// The address; `:PORT` is `[::]:PORT`, meant for both IPv6 and IPv4. Port 0 lets the system choose.
    pub address: SocketAddr,
}

impl ListenAddress {
    /// `127.0.0.1:1110`, where poptap listens when nothing else is said.
    pub const DEFAULT: Self = Self { tls: TlsMode::Plain, address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1110) };
}

impl FromStr for ListenAddress {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (tls, place) = match text.split_once("://") {
            Some((scheme, rest)) => {
                (scheme_mode(scheme).ok_or_else(|| unknown_scheme(scheme))?, rest.strip_suffix('/').unwrap_or(rest))
            }
            None => (TlsMode::Plain, text),
        };
        let address = if is_number(place) {
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), parse_port(place)?)
        } else if let Some(port) = place.strip_prefix(':').filter(|port| is_number(port)) {
            SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), parse_port(port)?)
        } else {
            place.parse().map_err(|_| not_an_address(place))?
        };
        Ok(Self { tls, address })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tls {
            TlsMode::Plain => self.address.fmt(out),
            tls => write!(out, "{}://{}", tls.scheme(), self.address),
        }
    }
}

/// Who may connect: a network (`192.0.2.0/24`, `2001:db8::/32`), one address, or `any`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Everybody.
    Any,
    /// The addresses of one network.
    Of(IpNet),
}

impl FromStr for Network {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.eq_ignore_ascii_case("any") {
            return Ok(Self::Any);
        }
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(|network| Self::Of(canonical(network).trunc())).map_err(|_| {
            Malformed::new(format!("`{text}` is not a network"), "write `192.0.2.0/24`, `2001:db8::/32`, one address, or `any`")
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => out.write_str("any"),
            Self::Of(network) => network.fmt(out),
        }
    }
}

/// IPv4 addresses that are written as IPv6 (`::ffff:192.0.2.0/120`) are IPv4 addresses, as those of clients are.
fn canonical(network: IpNet) -> IpNet {
    let IpAddr::V4(address) = network.addr().to_canonical() else { return network };
    let bits = if network.max_prefix_len() == 128 { network.prefix_len().checked_sub(96) } else { Some(network.prefix_len()) };
    bits.and_then(|bits| IpNet::new(address.into(), bits).ok()).unwrap_or(network)
}

pub(super) fn scheme_mode(scheme: &str) -> Option<TlsMode> {
    match scheme.to_ascii_lowercase().as_str() {
        "pop3" | "pop" => Some(TlsMode::Plain),
        "pop3s" | "pops" => Some(TlsMode::Implicit),
        "pop3+stls" | "pop+stls" => Some(TlsMode::Stls),
        _ => None,
    }
}

fn default_port(tls: TlsMode) -> u16 {
    if tls == TlsMode::Implicit { 995 } else { 110 }
}

pub(super) fn unknown_scheme(scheme: &str) -> Malformed {
    let hint = "use `pop3s://` (TLS), `pop3+stls://` (STLS) or `pop3://` (plain); `pop3+unix://` for a Unix socket";
    Malformed::new(format!("`{scheme}://` is not a scheme that poptap knows"), hint)
}

/// Says what to type: the port tells which of the schemes is the likely one.
fn not_a_url(text: &str) -> Malformed {
    let hint = match split_host(text) {
        Ok((host, Some(110))) => format!("type `pop3+stls://{host}` (STLS) or `pop3://{host}` (plain)"),
        Ok((_, _)) => format!("type `pop3s://{text}` (TLS), `pop3+stls://{text}` (STLS) or `pop3://{text}` (plain)"),
        Err(_) => "a URL looks like `pop3s://pop.example.net`".to_owned(),
    };
    Malformed::new(format!("`{text}` is not a URL: it does not say whether TLS is spoken"), hint)
}

/// The authority alone. One slash behind it is let pass, since curl's users type it.
fn without_path(rest: &str) -> Result<&str, Malformed> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    match rest.find(['/', '?', '#']) {
        None => Ok(rest),
        Some(end) => Err(Malformed::new(
            "a server's URL ends with its host and port",
            format!("leave out `{}`: clients choose the messages", &rest[end..]),
        )),
    }
}

fn split_host(authority: &str) -> Result<(&str, Option<u16>), Malformed> {
    if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']').ok_or_else(|| bad_host(authority))?;
        host.parse::<Ipv6Addr>().map_err(|_| bad_host(authority))?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(upstream_port(port)?))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(bad_host(authority)),
        };
    }
    if authority.parse::<Ipv6Addr>().is_ok() {
        return Err(Malformed::new(
            format!("`{authority}` lacks its brackets"),
            format!("an IPv6 address is written `[{authority}]`"),
        ));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(upstream_port(port)?)),
        None => (authority, None),
    };
    if is_host(host) { Ok((host, port)) } else { Err(bad_host(host)) }
}

/// RFC 1123 §2.1, and the underscore that real names have.
fn is_host(host: &str) -> bool {
    let labels = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'))
    };
    host.len() <= 253 && labels.split('.').all(is_label)
}

fn bad_host(host: &str) -> Malformed {
    match host {
        "" => Malformed::new("the host name is missing", "a URL looks like `pop3s://pop.example.net`"),
        host if !host.is_ascii() => {
            Malformed::new(format!("`{host}` is not a host name"), "write an international name in its `xn--` form")
        }
        _ => Malformed::new(
            format!("`{host}` is not a host name"),
            "write a name, an IPv4 address, or an IPv6 address in brackets",
        ),
    }
}

fn upstream_port(text: &str) -> Result<u16, Malformed> {
    match parse_port(text)? {
        0 => Err(Malformed::new(
            "a server cannot have port 0",
            "leave the port out for the usual one: 110, or 995 with `pop3s://`",
        )),
        port => Ok(port),
    }
}

fn parse_port(text: &str) -> Result<u16, Malformed> {
    let port = if is_number(text) { text.parse().ok() } else { None };
    port.ok_or_else(|| Malformed::new(format!("`{text}` is not a port"), "a port is a number up to 65535"))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit())
}

fn not_an_address(place: &str) -> Malformed {
    let message = format!("`{place}` is not an address to listen on");
    if let Ok(address) = place.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Malformed::new(message, format!("add a port: `{}`", SocketAddr::new(address, 1110)));
    }
    match place.rsplit_once(':') {
        Some(("localhost", port)) => Malformed::new(message, format!("write `127.0.0.1:{port}` or `[::1]:{port}`")),
        Some(("*", port)) => Malformed::new(message, format!("write `:{port}` for all interfaces")),
        _ => Malformed::new(message, "write `ADDR:PORT`, `PORT` for loopback, or `:PORT` for all interfaces"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<UpstreamUrl, Malformed> {
        text.parse()
    }

    #[test]
    fn urls_are_read_and_written_in_one_form() {
        for (text, tls, host, port, canonical) in [
            ("pop3://mail", TlsMode::Plain, "mail", 110, "pop3://mail"),
            ("POP://Mail.Example.NET:2110", TlsMode::Plain, "Mail.Example.NET", 2110, "pop3://Mail.Example.NET:2110"),
            ("pop3s://mail/", TlsMode::Implicit, "mail", 995, "pop3s://mail"),
            ("PopS://mail:110", TlsMode::Implicit, "mail", 110, "pop3s://mail:110"),
            ("pop3+stls://192.0.2.1:110", TlsMode::Stls, "192.0.2.1", 110, "pop3+stls://192.0.2.1"),
            ("pop+STLS://[2001:db8::1]:995", TlsMode::Stls, "2001:db8::1", 995, "pop3+stls://[2001:db8::1]:995"),
            ("pop3://[::1]", TlsMode::Plain, "::1", 110, "pop3://[::1]"),
            ("pop3://my_host.", TlsMode::Plain, "my_host.", 110, "pop3://my_host."),
        ] {
            let parsed = url(text).unwrap();
            assert_eq!(parsed, UpstreamUrl { tls, host: host.to_owned(), port, socket: None }, "{text}");
            assert_eq!(parsed.to_string(), canonical);
            assert_eq!(url(canonical).unwrap(), parsed, "{canonical} reads back");
        }
    }

    #[test]
    fn a_unix_socket_has_a_path_in_place_of_a_host() {
        for (text, tls, path, canonical) in [
            ("pop3+unix:///run/pop3.sock", TlsMode::Plain, "/run/pop3.sock", "pop3+unix:///run/pop3.sock"),
            ("POP+STLS+Unix:///a b#c", TlsMode::Stls, "/a b#c", "pop3+stls+unix:///a b#c"),
        ] {
            let parsed = url(text).unwrap();
            assert_eq!((parsed.tls, parsed.socket.as_deref(), parsed.port), (tls, Some(path.as_ref()), 0), "{text}");
            assert_eq!((parsed.to_string(), url(canonical).unwrap()), (canonical.to_owned(), parsed));
        }
        let long = format!("pop3+unix:///{}", "x".repeat(107));
        for (text, said) in [
            ("pop3s+unix:///run/x", "TLS from the first octet"),
            ("pop3+unix://run/x", "begins with `/`"),
            ("pop3+unix:///run/", "not the path of a socket"),
            (&long, "at most 107 octets"),
            ("imap+unix:///run/x", "`imap+unix://`"),
        ] {
            let refused = url(text).unwrap_err();
            assert!(format!("{refused} {}", refused.hint).contains(said), "{text}: {refused}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused_with_a_way_out() {
        for (text, said) in [
            ("mail.example.net", "pop3s://mail.example.net"),
            ("mail.example.net:995", "pop3s://mail.example.net:995"),
            ("mail.example.net:110", "pop3+stls://mail.example.net"),
            ("imap://mail", "`imap://`"),
            ("pop3://", "host name is missing"),
            ("pop3://:110", "host name is missing"),
            ("pop3://mail:0", "port 0"),
            ("pop3://mail:", "not a port"),
            ("pop3://mail:+110", "not a port"),
            ("pop3://mail:65536", "not a port"),
            ("pop3://mail/1", "`/1`"),
            ("pop3://mail?x", "`?x`"),
            ("pop3://mail#x", "`#x`"),
            ("pop3://::1", "`[::1]`"),
            ("pop3://[::1", "not a host name"),
            ("pop3://[::1]110", "not a host name"),
            ("pop3://[mail]", "not a host name"),
            ("pop3://a..b", "not a host name"),
            ("pop3://a b", "not a host name"),
            ("pop3://bücher.example", "`xn--`"),
            ("", "pop3s://pop.example.net"),
        ] {
            let refused = url(text).unwrap_err().to_string();
            assert!(refused.contains(said), "{text}: {refused}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_never_repeated() {
        for text in [
            "pop3://joe:hunter2@mail",
            "joe:hunter2@mail",
            "imap://joe:hunter2@mail/x?y",
            "pop3://joe:hunter2@mail:0",
            "hunter2@://",
        ] {
            let refused = url(text).unwrap_err().to_string();
            assert!(!refused.contains("hunter2") && !refused.contains("joe"), "{refused}");
        }
    }

    #[test]
    fn places_to_listen() {
        for (text, expected) in [
            ("192.0.2.1:110", "192.0.2.1:110"),
            ("[2001:db8::1]:110", "[2001:db8::1]:110"),
            ("pop3://127.0.0.1:2110", "127.0.0.1:2110"),
            ("POP://[::1]:2110/", "[::1]:2110"),
            ("pop3://:2110", "[::]:2110"),
            ("2110", "127.0.0.1:2110"),
            (":2110", "[::]:2110"),
            ("0", "127.0.0.1:0"),
            ("pop3s://192.0.2.1:995", "pop3s://192.0.2.1:995"),
            ("POPS://:995/", "pop3s://[::]:995"),
            ("pop3+stls://2110", "pop3+stls://127.0.0.1:2110"),
            ("127.0.0.1:0", "127.0.0.1:0"),
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn places_where_nothing_can_listen() {
        for (text, said) in [
            ("http://127.0.0.1:80", "`http://`"),
            ("127.0.0.1", "`127.0.0.1:1110`"),
            ("::1", "`[::1]:1110`"),
            ("[::1]", "`[::1]:1110`"),
            ("localhost:2110", "`127.0.0.1:2110`"),
            ("*:2110", "`:2110`"),
            ("99999", "not a port"),
            (":99999", "not a port"),
            ("pop3s://localhost:995", "`127.0.0.1:995`"),
            ("", "not an address"),
        ] {
            let refused = text.parse::<ListenAddress>().unwrap_err().to_string();
            assert!(refused.contains(said), "{text}: {refused}");
        }
    }

    #[test]
    fn networks() {
        for (text, expected) in [
            ("any", "any"),
            ("ANY", "any"),
            ("192.0.2.7/24", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("::1", "::1/128"),
            ("::ffff:192.0.2.7/120", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::ffff:192.0.2.7/80", "::/80"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), expected, "{text}");
        }
        for text in ["", "192.0.2.0/33", "all", "192.0.2.0/255.255.255.0"] {
            assert!(text.parse::<Network>().unwrap_err().to_string().contains("not a network"), "{text}");
        }
    }
}
