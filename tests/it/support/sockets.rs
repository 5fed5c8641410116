//! Sockets that hold little, so that a side which stands still makes the other one stand still, too.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Octets of each buffer of a socket; Linux doubles it, for what it keeps beside them.
pub const SMALL: usize = 16 * 1024;
/// Larger than one segment of loopback's, without which a transfer goes by fits and starts.
pub const MODERATE: usize = 128 * 1024;

fn socket(buffers: usize) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(buffers).unwrap();
    socket.set_send_buffer_size(buffers).unwrap();
    assert_eq!(socket.recv_buffer_size().unwrap(), 2 * buffers, "the system took the size");
    socket
}

/// A socket that listens; those that it accepts have its buffers.
pub fn listening(buffers: usize) -> (Socket, SocketAddr) {
    let socket = socket(buffers);
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(1).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

pub fn connected(buffers: usize, address: SocketAddr) -> Socket {
    let socket = socket(buffers);
    socket.connect(&address.into()).unwrap();
    socket
}

pub fn small_listener() -> (TcpListener, SocketAddr) {
    let (socket, address) = listening(SMALL);
    socket.set_nonblocking(true).unwrap();
    (TcpListener::from_std(socket.into()).unwrap(), address)
}

pub fn small_client(address: SocketAddr) -> TcpStream {
    let socket = connected(SMALL, address);
    socket.set_nonblocking(true).unwrap();
    TcpStream::from_std(socket.into()).unwrap()
}

pub async fn accept(listener: &TcpListener) -> TcpStream {
    listener.accept().await.unwrap().0
}
