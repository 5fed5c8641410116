//! How a listener's socket is made.

use std::net::SocketAddr;

use toml::Spanned;

use crate::config::{SocketOptions, fault::Fault, file::ListenerSection};

use super::Resolver;

/// What a backlog may be: the system takes a number with a sign, and caps it anyway.
const BACKLOG: u32 = 65_535;

impl Resolver<'_> {
    pub(super) fn socket(&mut self, address: SocketAddr, section: Option<&ListenerSection>) -> SocketOptions {
        let default = SocketOptions::default();
        let Some(section) = section else { return default };
        let backlog = self.within(section.backlog.as_ref(), 1..=BACKLOG, default.backlog, "from 1 to 65535");
        self.device(section.device.as_ref());
        self.v6only(address, section.v6only.as_ref());
        SocketOptions {
            backlog,
            device: section.device.as_ref().map(|device| device.get_ref().clone()),
            freebind: section.freebind.unwrap_or(default.freebind),
            v6only: section.v6only.as_ref().map(|only| *only.get_ref()),
        }
    }

    fn device(&mut self, device: Option<&Spanned<String>>) {
        let Some(device) = device else { return };
        let is_name = |name: &str| {
            (1..=SocketOptions::DEVICE).contains(&name.len())
                && name.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'/' && octet != b':')
        };
        if !is_name(device.get_ref()) {
            let fault = Fault::new("this is not the name of a network interface", "`ip link` lists them: `eth0`, `enp3s0`, …");
            self.fault(fault, Some(device.span()));
        }
    }

    fn v6only(&mut self, address: SocketAddr, v6only: Option<&Spanned<bool>>) {
        let Some(only) = v6only else { return };
        let (message, hint) = match (address.ip().is_ipv6(), address.ip().is_unspecified(), only.get_ref()) {
            (false, ..) => {
                ("`v6only` is about IPv6, and this listener's address is not", "leave it out, or listen on `[::]:PORT`")
            }
            (true, false, false) => (
                "one IPv6 address cannot take IPv4 clients",
                "listen on `:PORT`, or on an IPv4 address in a second `[[listener]]`",
            ),
            _ => return,
        };
        self.fault(Fault::new(message, hint), Some(only.span()));
    }
}
