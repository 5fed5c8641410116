//! Sockets that listen.

use std::{io, net::SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that may wait to be accepted, where nothing else is said.
const BACKLOG: i32 = 1024;

/// A wildcard IPv6 address takes IPv4 clients too.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    listen_as(address, |_socket| Ok(()))
}

/// The same, with what `prepare` does before it is bound.
pub(super) fn listen_as(address: SocketAddr, prepare: impl FnOnce(&Socket) -> io::Result<()>) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    prepare(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

pub(super) fn bind_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; hint: something listens there already; choose another port with `--listen`",
        io::ErrorKind::PermissionDenied => "; hint: ports below 1024 need a privilege; choose a higher one with `--listen`",
        io::ErrorKind::AddrNotAvailable => "; hint: this host does not have that address",
        _ => "",
    }
}
