//! How a listener's socket is made.

/// Options of a listening socket. They are set before it is bound, so that a reload changes none of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Connections that may wait to be accepted; the system may allow fewer (`net.core.somaxconn`).
    pub backlog: u32,
    /// The network interface that connections have to come in by (`SO_BINDTODEVICE`).
    pub device: Option<String>,
    /// Whether the address may be one that this host does not have, or not yet (`IP_FREEBIND`).
    pub freebind: bool,
    /// Whether an IPv6 address takes IPv6 clients only (`IPV6_V6ONLY`, RFC 3493 §5.3). `None` is poptap's own choice, whatever the
    /// system's default is: all interfaces are open to both, any other address to IPv6 only.
    pub v6only: Option<bool>,
}

impl SocketOptions {
    /// The longest name of a network interface, in octets (`IFNAMSIZ` without its zero).
    pub const DEVICE: usize = 15;
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self { backlog: 1024, device: None, freebind: false, v6only: None }
    }
}
