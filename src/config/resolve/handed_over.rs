//! From the name of a socket that was handed over to its address: from there on it is a listener like any other.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Range,
};

use crate::config::{HandedOver, ListenAddress, ListenPlace, Listener, fault::Fault};

use super::Resolver;

impl Resolver<'_> {
    /// The address of a listener, and the name of its socket where that was handed over. Names are not given twice: a second
    /// listener gets the second socket of that name.
    pub(super) fn located(
        &mut self,
        place: &ListenPlace,
        before: &[Listener],
        span: Option<Range<usize>>,
    ) -> Option<(ListenAddress, Option<String>)> {
        let (tls, name) = match place {
            ListenPlace::Address(address) => return Some((*address, None)),
            ListenPlace::HandedOver { tls, name } => (*tls, name),
        };
        let at = |address| Some((ListenAddress { tls, address }, Some(name.clone())));
        let environment = self.environment;
        let Some(sockets) = &environment.handed_over else {
            self.warnings.push(format!("whether there is a socket for `{place}`, and who can reach it, is seen at the start"));
            return at(UNKNOWN);
        };
        let is_taken = |socket: &HandedOver| before.iter().any(|listener| Some(listener.address) == socket.address);
        let mut free = sockets.iter().filter(|socket| !is_taken(socket));
        match free.find(|socket| name.is_empty() || socket.name == *name) {
            Some(HandedOver { address: Some(address), .. }) => at(*address),
            Some(HandedOver { name, address: None }) => {
                let message = format!("the socket `{name}` is a Unix socket");
                self.fault(Fault::new(message, "write an address and a port behind `ListenStream=`"), span);
                None
            }
            None => {
                let fault = missing(name, sockets);
                self.fault(fault, span);
                None
            }
        }
    }
}

/// Stands for an address that is not known yet. No two listeners are told to have the same.
const UNKNOWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn missing(name: &str, sockets: &[HandedOver]) -> Fault {
    let message = match name {
        "" => "no socket is left that was handed over".to_owned(),
        name => format!("no socket named `{name}` was handed over"),
    };
    let names: Vec<_> = sockets.iter().map(|socket| socket.name.as_str()).collect();
    match names.as_slice() {
        [] => Fault::new(message, "start poptap by its socket unit, or write an address to listen on"),
        names => Fault::new(message, format!("there are `{}`: `FileDescriptorName=` names a socket", names.join("`, `"))),
    }
}
