//! Connections that were meant for others: whom a client wanted to reach, and its address towards the server. Linux only.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::is_own_address;
use crate::config::Transparent;

/// Why a connection cannot be carried to whom its client wanted to reach.
#[derive(Debug, thiserror::Error)]
pub enum Misdirected {
    /// Nobody led it here: the client wanted to reach poptap itself.
    #[error("the connection was not redirected: its client connected to poptap itself")]
    NotRedirected {
        /// How it should have come here.
        how: Transparent,
    },
    /// The destination is poptap itself.
    #[error("the connection was meant for {destination}, which is poptap itself: that would be a loop")]
    Loop {
        /// The address.
        destination: SocketAddr,
    },
    /// The destination is not in `allow_to`.
    #[error("the connection was meant for {destination}, which is not in `allow_to`")]
    NotAllowed {
        /// The address.
        destination: SocketAddr,
    },
    /// The destination has no entry.
    #[error("the connection was meant for {destination}, and `destinations` has no entry for that")]
    Unlisted {
        /// The address.
        destination: SocketAddr,
    },
    /// The system does not tell.
    #[error("cannot find out for whom the connection was meant: {0}")]
    Unknown(io::Error),
}

impl Misdirected {
    /// A fixed short name, for the transcript's `closed`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotRedirected { .. } | Self::Unknown(_) => "not-redirected",
            Self::Loop { .. } => "loop",
            Self::NotAllowed { .. } | Self::Unlisted { .. } => "destination-refused",
        }
    }

    /// Everything, for the log: with what to do.
    #[must_use]
    pub fn detail(&self) -> String {
        let hint = match self {
            Self::NotRedirected { how: Transparent::Redirect } => {
                "the firewall's rule is missing, or does not hold for this client; `poptap intercept show-rules` prints it"
            }
            Self::NotRedirected { how: Transparent::Tproxy } | Self::Unknown(_) => {
                "the firewall's rules and the route are missing, or do not hold for this client; `poptap intercept show-rules` prints them"
            }
            Self::Loop { .. } => {
                "leave poptap's own connections out of the firewall's rules, as `poptap intercept show-rules` does"
            }
            Self::NotAllowed { .. } => "add its network to `allow_to`, or leave it out of the firewall's rules",
            Self::Unlisted { .. } => "add an entry for it to `destinations`, or `otherwise = \"plain\"`",
        };
        format!("{self}; hint: {hint}")
    }

    /// The one line that the client gets in place of a greeting. Where it wanted to go, it knows.
    #[must_use]
    pub fn client_line(&self) -> &'static str {
        match self {
            Self::NotRedirected { .. } | Self::Loop { .. } => "-ERR [SYS/PERM] there is no mail server at this address\r\n",
            Self::NotAllowed { .. } | Self::Unlisted { .. } => {
                "-ERR [SYS/PERM] connections to this server are not allowed here\r\n"
            }
            Self::Unknown(_) => "-ERR [SYS/TEMP] the server that you want to reach is not known here, try again later\r\n",
        }
    }

    /// Where it was meant to go, as far as that is known.
    #[must_use]
    pub fn destination(&self) -> Option<SocketAddr> {
        match self {
            Self::Loop { destination } | Self::NotAllowed { destination } | Self::Unlisted { destination } => Some(*destination),
            Self::NotRedirected { .. } | Self::Unknown(_) => None,
        }
    }
}

/// Whom the client of an accepted connection wanted to reach; `own` are the addresses that poptap listens on.
///
/// # Errors
///
/// [`Misdirected`]: nobody led it here, or it is poptap itself.
pub(crate) fn destination(tcp: &TcpStream, how: Transparent, own: &[SocketAddr]) -> Result<SocketAddr, Misdirected> {
    let here = canonical(tcp.local_addr().map_err(Misdirected::Unknown)?);
    let wanted = match how {
        Transparent::Tproxy => here,
        Transparent::Redirect => match original(tcp, here) {
            Ok(wanted) => canonical(wanted),
            // The system tracks no connections, or did not see this one begin.
            Err(error) if is_absent(&error) => return Err(Misdirected::NotRedirected { how }),
            Err(error) => return Err(Misdirected::Unknown(error)),
        },
    };
    check(wanted, here, how, own)
}

fn check(wanted: SocketAddr, here: SocketAddr, how: Transparent, own: &[SocketAddr]) -> Result<SocketAddr, Misdirected> {
    if how == Transparent::Redirect && wanted == here {
        return Err(Misdirected::NotRedirected { how });
    }
    let is_listened_on = |listener: &SocketAddr| {
        let listener = canonical(*listener);
        listener == wanted || listener.port() == wanted.port() && is_own_address(wanted.ip())
    };
    match (own.iter().any(is_listened_on), how) {
        (false, _) => Ok(wanted),
        (true, Transparent::Tproxy) => Err(Misdirected::NotRedirected { how }),
        (true, Transparent::Redirect) => Err(Misdirected::Loop { destination: wanted }),
    }
}

#[cfg(target_os = "linux")]
fn original(tcp: &TcpStream, here: SocketAddr) -> io::Result<SocketAddr> {
    let socket = SockRef::from(tcp);
    let original = if here.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() }?;
    original.as_socket().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(not(target_os = "linux"))]
fn original(_tcp: &TcpStream, _here: SocketAddr) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

/// `ENOENT`: no such connection is tracked. `ENOPROTOOPT`: none is, since nothing asks for it.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ENOPROTOOPT)
}

const ENOPROTOOPT: i32 = 92;

/// Lets a socket take, or use, addresses that are not this host's.
///
/// # Errors
///
/// The system's; without `CAP_NET_ADMIN` it says so, with a hint.
#[cfg(target_os = "linux")]
pub(crate) fn use_any_address(socket: &Socket, family: IpAddr) -> io::Result<()> {
    let set = if family.is_ipv4() { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) };
    set.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let text = "addresses of others need CAP_NET_ADMIN (systemd: `AmbientCapabilities=CAP_NET_ADMIN`)";
            io::Error::other(text)
        }
        _ => error,
    })
}

/// # Errors
///
/// Always: only Linux can.
#[cfg(not(target_os = "linux"))]
pub(crate) fn use_any_address(_socket: &Socket, _family: IpAddr) -> io::Result<()> {
    Err(io::Error::other("only Linux lets a program use addresses of others"))
}

/// Connects to `address` from the client's address, with a port of the system's choice.
///
/// # Errors
///
/// The system's; that the two are of different families, or that `CAP_NET_ADMIN` is missing.
pub(super) async fn connect_from(client: IpAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let client = client.to_canonical();
    if client.is_ipv4() != address.ip().to_canonical().is_ipv4() {
        return Err(io::Error::other(format!("cannot be reached from {client}, which is of the other family of addresses")));
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    use_any_address(&socket, address.ip())?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(client, 0).into())?;
    TcpSocket::from_std_stream(socket.into()).connect(address).await
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "127.0.0.1:1110";

    fn checked(wanted: &str, how: Transparent) -> Result<SocketAddr, Misdirected> {
        let own: Vec<SocketAddr> = ["[::]:1110", "192.0.2.1:1995"].iter().map(|address| address.parse().unwrap()).collect();
        check(wanted.parse().unwrap(), HERE.parse().unwrap(), how, &own)
    }

    #[test]
    fn poptap_itself_is_no_destination() {
        for (wanted, reason) in [
            (HERE, Some("not-redirected")),
            ("127.0.0.2:1110", Some("loop")),
            ("[::1]:1110", Some("loop")),
            ("192.0.2.1:1995", Some("loop")),
            ("127.0.0.1:110", None),
            ("192.0.2.1:1110", None),
            ("198.51.100.1:110", None),
        ] {
            let checked = checked(wanted, Transparent::Redirect);
            assert_eq!(checked.as_ref().err().map(Misdirected::reason), reason, "{wanted}: {checked:?}");
        }
        assert_eq!(checked(HERE, Transparent::Tproxy).unwrap_err().reason(), "not-redirected");
        assert_eq!(checked("192.0.2.9:1110", Transparent::Tproxy).unwrap(), "192.0.2.9:1110".parse().unwrap());
    }

    #[tokio::test]
    async fn a_connection_that_nobody_redirected_is_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        for how in [Transparent::Redirect, Transparent::Tproxy] {
            let misdirected = destination(&accepted.as_ref().unwrap().0, how, &[address]).unwrap_err();
            assert_eq!(misdirected.reason(), "not-redirected");
            assert!(misdirected.detail().contains("`poptap intercept show-rules` prints"), "{}", misdirected.detail());
        }
    }

    #[tokio::test]
    async fn families_are_not_mixed() {
        let error = connect_from("192.0.2.1".parse().unwrap(), "[2001:db8::1]:110".parse().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("other family"), "{error}");
    }
}
