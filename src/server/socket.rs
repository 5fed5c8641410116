//! Sockets that listen.

use std::{io, net::SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::SocketOptions;

/// A wildcard IPv6 address takes IPv4 clients too.
pub(crate) fn listen(address: SocketAddr) -> io::Result<Socket> {
    listen_with(address, &SocketOptions::default())
}

fn listen_with(address: SocketAddr, options: &SocketOptions) -> io::Result<Socket> {
    listen_prepared(address, options, |_socket| Ok(()))
}

/// `prepare` is done before it is bound. What is accepted here gets its options (no Nagle, keep-alive) from [`crate::net::Stream`].
pub(super) fn listen_prepared(
    address: SocketAddr,
    options: &SocketOptions,
    prepare: impl FnOnce(&Socket) -> io::Result<()>,
) -> io::Result<Socket> {
    let SocketOptions { backlog, device, freebind, v6only } = options;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Always said: `net.ipv6.bindv6only` must not decide who can connect.
        socket.set_only_v6(v6only.unwrap_or(!address.ip().is_unspecified()))?;
        socket.set_freebind_v6(*freebind)?;
    } else {
        socket.set_freebind_v4(*freebind)?;
    }
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    prepare(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(*backlog).unwrap_or(i32::MAX))?;
    Ok(socket)
}

pub(super) fn bind_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; hint: something listens there already; choose another port with `--listen`",
        io::ErrorKind::PermissionDenied => "; hint: ports below 1024 need a privilege; choose a higher one with `--listen`",
        io::ErrorKind::AddrNotAvailable => {
            "; hint: this host does not have that address; `freebind = true` listens on it all the same"
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
            "; hint: `ip link` lists the names for `device`"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};

    use socket2::SockRef;

    use super::*;

    fn any(address: impl Into<std::net::IpAddr>) -> SocketAddr {
        SocketAddr::new(address.into(), 0)
    }

    #[tokio::test]
    async fn an_ipv6_address_takes_whom_it_is_said_to_take() {
        for (address, v6only, takes_both) in [
            (any(Ipv6Addr::UNSPECIFIED), None, true),
            (any(Ipv6Addr::UNSPECIFIED), Some(false), true),
            (any(Ipv6Addr::UNSPECIFIED), Some(true), false),
            (any(Ipv6Addr::LOCALHOST), None, false),
        ] {
            let listener = listen_with(address, &SocketOptions { v6only, ..SocketOptions::default() }).unwrap();
            let port = listener.local_addr().unwrap().as_socket().unwrap().port();
            assert_eq!(SockRef::from(&listener).only_v6().unwrap(), !takes_both, "{address} {v6only:?}");
            assert_eq!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok(), takes_both, "{address} {v6only:?}");
            assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, port)).is_ok());
        }
    }

    #[tokio::test]
    async fn an_address_of_nobody_s_can_be_listened_on_if_that_is_wanted() {
        for address in ["192.0.2.99:0", "[2001:db8::99]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            let refused = listen(address).unwrap_err();
            assert!(bind_hint(&refused).contains("`freebind = true`"), "{refused}");
            let free = SocketOptions { freebind: true, ..SocketOptions::default() };
            assert_eq!(listen_with(address, &free).unwrap().local_addr().unwrap().as_socket().unwrap().ip(), address.ip());
        }
    }

    #[tokio::test]
    async fn connections_have_to_come_in_by_the_device() {
        let by = |device: &str| {
            let options = SocketOptions { device: Some(device.to_owned()), ..SocketOptions::default() };
            listen_with(any(Ipv4Addr::LOCALHOST), &options)
        };
        let listener = by("lo").unwrap();
        assert_eq!(SockRef::from(&listener).device().unwrap().as_deref(), Some(&b"lo"[..]));
        assert!(TcpStream::connect(listener.local_addr().unwrap().as_socket().unwrap()).is_ok());
        let refused = by("no-such-device").unwrap_err();
        assert!(bind_hint(&refused).contains("`ip link`"), "{refused}");
    }
}
