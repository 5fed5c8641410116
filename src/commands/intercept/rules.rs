//! The rules themselves, as a script for `sh`: nftables, and `ip` for what is taken in with foreign addresses.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use crate::config::Transparent;

/// What is to be led to one listener.
#[derive(Clone, Debug)]
pub(super) struct Trap {
    pub(super) how: Transparent,
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// The ports that its clients connect to.
    pub(super) ports: Vec<u16>,
}

/// Everything that rules are made from.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) traps: Vec<Trap>,
    /// Whether servers are dialled from the clients' addresses.
    pub(super) from_clients: bool,
    /// Where connections come in; everywhere, when there is none.
    pub(super) interfaces: Vec<String>,
    /// This host's own connections are redirected too, but for this user's.
    pub(super) spared: Option<String>,
    pub(super) mark: u32,
    pub(super) table: u32,
}

impl Rules {
    /// Makes them.
    pub(super) fn script(&self) -> String {
        let mut script = String::from(HEAD);
        script.push_str("nft -f - <<'RULES'\n");
        script.push_str(&self.nftables());
        script.push_str("RULES\n");
        if self.takes_foreign_addresses() {
            script.push_str("\n# What is marked is for this host, whatever its address.\n");
            for ip in ["ip", "ip -6"] {
                let Self { mark, table, .. } = self;
                let _ = writeln!(script, "{ip} rule del fwmark {mark} lookup {table} 2>/dev/null || true");
                let _ = writeln!(script, "{ip} rule add fwmark {mark} lookup {table}");
                let _ = writeln!(script, "{ip} route replace local default dev lo table {table}");
            }
        }
        script
    }

    /// Takes them back.
    pub(super) fn undo(&self) -> String {
        let mut script = String::from("set -e\nnft delete table inet poptap\n");
        if self.takes_foreign_addresses() {
            for ip in ["ip", "ip -6"] {
                let Self { mark, table, .. } = self;
                let _ = writeln!(script, "{ip} rule del fwmark {mark} lookup {table}");
                let _ = writeln!(script, "{ip} route del local default dev lo table {table}");
            }
        }
        script
    }

    /// The table; what was there of that name is replaced, all at once.
    fn nftables(&self) -> String {
        let mut text = String::from("table inet poptap\ndelete table inet poptap\ntable inet poptap {\n");
        let redirected = self.by(Transparent::Redirect);
        chain(&mut text, "led_here", "nat hook prerouting priority dstnat", self.redirects(&redirected));
        if let Some(user) = &self.spared {
            let number = user.bytes().all(|octet| octet.is_ascii_digit());
            let spared = if number { user.clone() } else { format!("\"{user}\"") };
            let own = redirected.iter().map(|trap| format!("meta skuid != {spared} {}", trap.redirect(true)));
            chain(&mut text, "led_here_own", "nat hook output priority -100", own.collect());
        }
        chain(&mut text, "taken_in", "filter hook prerouting priority mangle", self.tproxies());
        text.push_str("}\n");
        text
    }

    fn redirects(&self, redirected: &[&Trap]) -> Vec<String> {
        let line = |trap: &&Trap| {
            if trap.address.ip().is_loopback() {
                return format!("# {} takes this host's own connections only: see --local", trap.address);
            }
            format!("{}{}", self.coming_in(), trap.redirect(false))
        };
        redirected.iter().map(line).collect()
    }

    fn tproxies(&self) -> Vec<String> {
        if !self.takes_foreign_addresses() {
            return Vec::new();
        }
        let mark = format!("meta mark set {} accept", self.mark);
        let mut lines = vec![format!("{}socket transparent 1 {mark}", self.not_listened_on())];
        for trap in self.by(Transparent::Tproxy) {
            let start = format!("{}{DISTANT} {}", self.coming_in(), trap.dport());
            lines.extend(trap.tproxy_to().into_iter().map(|to| format!("{start} {to} {mark}")));
        }
        lines
    }

    /// Listening sockets are transparent, too, and would take in whatever passes to their ports.
    fn not_listened_on(&self) -> String {
        let listened_on: BTreeSet<u16> = self.by(Transparent::Tproxy).iter().map(|trap| trap.address.port()).collect();
        if listened_on.is_empty() { "meta l4proto tcp ".to_owned() } else { format!("tcp dport != {} ", set(&listened_on)) }
    }

    fn coming_in(&self) -> String {
        let quoted: BTreeSet<String> = self.interfaces.iter().map(|name| format!("\"{name}\"")).collect();
        if quoted.is_empty() { String::new() } else { format!("iifname {} ", set(&quoted)) }
    }

    fn by(&self, how: Transparent) -> Vec<&Trap> {
        self.traps.iter().filter(|trap| trap.how == how).collect()
    }

    fn takes_foreign_addresses(&self) -> bool {
        self.from_clients || !self.by(Transparent::Tproxy).is_empty()
    }
}

impl Trap {
    /// What leads there by NAT; `own` are this host's connections, which nothing but the loopback address is needed for.
    fn redirect(&self, own: bool) -> String {
        let dport = self.dport();
        let (ip, port) = (self.address.ip(), self.address.port());
        let to = match ip {
            _ if ip.is_unspecified() || own && ip.is_loopback() => format!("redirect to :{port}"),
            IpAddr::V4(ip) => format!("dnat ip to {ip}:{port}"),
            IpAddr::V6(ip) => format!("dnat ip6 to [{ip}]:{port}"),
        };
        format!("{}{DISTANT} {dport} {to}", self.family())
    }

    fn tproxy_to(&self) -> Vec<String> {
        let port = self.address.port();
        match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => vec![format!("meta nfproto ipv4 tproxy ip to :{port}")],
            IpAddr::V6(ip) if ip.is_unspecified() => {
                ["ip", "ip6"].map(|ip| format!("meta nfproto {} tproxy {ip} to :{port}", nfproto(ip))).to_vec()
            }
            IpAddr::V4(ip) => vec![format!("meta nfproto ipv4 tproxy ip to {ip}:{port}")],
            IpAddr::V6(ip) => vec![format!("meta nfproto ipv6 tproxy ip6 to [{ip}]:{port}")],
        }
    }

    /// `[::]` takes both.
    fn family(&self) -> &'static str {
        match self.address.ip() {
            IpAddr::V4(_) => "meta nfproto ipv4 ",
            IpAddr::V6(ip) if ip.is_unspecified() => "",
            IpAddr::V6(_) => "meta nfproto ipv6 ",
        }
    }

    fn dport(&self) -> String {
        format!("tcp dport {}", set(&self.ports.iter().copied().collect()))
    }
}

fn nfproto(ip: &str) -> &'static str {
    if ip == "ip" { "ipv4" } else { "ipv6" }
}

fn chain(text: &mut String, name: &str, hook: &str, lines: Vec<String>) {
    if lines.is_empty() {
        return;
    }
    // Writing into a String cannot fail.
    let _ = writeln!(text, "    chain {name} {{\n        type {hook}; policy accept;");
    for line in lines {
        let _ = writeln!(text, "        {line}");
    }
    text.push_str("    }\n");
}

fn set<T: ToString>(values: &BTreeSet<T>) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", values.join(", "))
}

const HEAD: &str =
    "# Leads clients to poptap; as root. `poptap intercept show-rules --undo` prints what takes it back.\nset -e\n";

/// What is meant for this host itself stays as it is: its own mail server, and poptap.
const DISTANT: &str = "fib daddr type != local";

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(traps: &[(Transparent, &str, &[u16])]) -> Rules {
        let trap = |(how, address, ports): &(Transparent, &str, &[u16])| Trap {
            how: *how,
            address: address.parse().unwrap(),
            ports: ports.to_vec(),
        };
        let traps = traps.iter().map(trap).collect();
        Rules { traps, from_clients: false, interfaces: vec!["lan0".to_owned()], spared: None, mark: 7, table: 8 }
    }

    #[test]
    fn a_redirect_is_one_rule_for_both_families() {
        let rules = rules(&[(Transparent::Redirect, "[::]:1110", &[110, 995])]);
        let script = rules.script();
        assert!(
            script.contains("        iifname { \"lan0\" } fib daddr type != local tcp dport { 110, 995 } redirect to :1110\n"),
            "{script}"
        );
        assert!(!script.contains("ip rule") && !rules.undo().contains("ip rule"), "{script}");
    }

    #[test]
    fn one_address_is_one_family() {
        for (address, rule) in [
            ("192.0.2.1:1110", "meta nfproto ipv4 fib daddr type != local tcp dport { 110 } dnat ip to 192.0.2.1:1110\n"),
            (
                "[2001:db8::1]:1110",
                "meta nfproto ipv6 fib daddr type != local tcp dport { 110 } dnat ip6 to [2001:db8::1]:1110\n",
            ),
            ("0.0.0.0:1110", "meta nfproto ipv4 fib daddr type != local tcp dport { 110 } redirect to :1110\n"),
            ("127.0.0.1:1110", "# 127.0.0.1:1110 takes this host's own connections only"),
        ] {
            let script = rules(&[(Transparent::Redirect, address, &[110])]).script();
            assert!(script.contains(rule), "{script}");
        }
    }

    #[test]
    fn own_connections_spare_poptap_s() {
        for (user, spared) in [("poptap", "\"poptap\""), ("987", "987")] {
            let rules = Rules { spared: Some(user.to_owned()), ..rules(&[(Transparent::Redirect, "127.0.0.1:1110", &[110])]) };
            let rule =
                format!("meta skuid != {spared} meta nfproto ipv4 fib daddr type != local tcp dport {{ 110 }} redirect to :1110");
            assert!(rules.script().contains(&rule), "{}", rules.script());
        }
    }

    #[test]
    fn what_tproxy_takes_in_is_marked_and_comes_here() {
        let rules = rules(&[(Transparent::Tproxy, "[::]:1110", &[110])]);
        let script = rules.script();
        for line in [
            "tcp dport != { 1110 } socket transparent 1 meta mark set 7 accept\n",
            "tcp dport { 110 } meta nfproto ipv4 tproxy ip to :1110 meta mark set 7 accept\n",
            "tcp dport { 110 } meta nfproto ipv6 tproxy ip6 to :1110 meta mark set 7 accept\n",
            "\nip rule add fwmark 7 lookup 8\n",
            "\nip -6 route replace local default dev lo table 8\n",
        ] {
            assert!(script.contains(line), "{line}{script}");
        }
        assert!(rules.undo().contains("ip -6 rule del fwmark 7 lookup 8\n"));
    }

    #[test]
    fn answers_to_clients_addresses_come_here_whatever_the_listener() {
        let rules = Rules { from_clients: true, ..rules(&[(Transparent::Redirect, "[::]:1110", &[110])]) };
        assert!(rules.script().contains("meta l4proto tcp socket transparent 1 meta mark set 7 accept\n"), "{}", rules.script());
    }
}
