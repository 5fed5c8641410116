//! What was found, in plain words.

use std::fmt;

use super::{Findings, Link, LoggedIn, Seen};
use crate::{inspect::human::plural, record::schema};

impl fmt::Display for Findings {
    /// Several lines, each with its end. What failed is not among them: the command ends with it.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.url)?;
        if !self.addresses.is_empty() {
            writeln!(out, "  resolves to      {}", self.addresses.join(", "))?;
        }
        if let Some(Link { address, connect_ms, .. }) = &self.link {
            writeln!(out, "  connected        {address}, after {connect_ms} ms")?;
        }
        self.security(out)?;
        self.abilities(out)?;
        if let Some(LoggedIn { user, messages, octets }) = &self.login {
            let (messages, octets) = (plural(*messages, "message"), plural(*octets, "octet"));
            writeln!(out, "  login            as `{user}`: {messages}, {octets}")?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(out, "warning: {warning}"))?;
        if self.error.is_none() { writeln!(out, "all is well") } else { Ok(()) }
    }
}

impl Findings {
    fn security(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.link.as_ref().map(|link| (&link.tls, link.tls_ms)) {
            Some((Some(tls), milliseconds)) => secured(out, tls, milliseconds.unwrap_or_default())?,
            Some((None, _)) => writeln!(out, "  TLS              none")?,
            None => {}
        }
        for (at, seen) in self.chain.iter().enumerate() {
            certificate(out, at + 1, seen)?;
        }
        match (&self.server_name, self.name_matches) {
            (Some(name), Some(true)) => writeln!(out, "  name             the certificate is for `{name}`"),
            (Some(name), Some(false)) => writeln!(out, "  name             the certificate is NOT for `{name}`"),
            _ => Ok(()),
        }
    }

    fn abilities(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(greeting) = &self.greeting {
            writeln!(out, "  greeting         {greeting}")?;
        }
        let is_secured = self.link.as_ref().is_some_and(|link| link.tls.is_some());
        let lists = [("CAPA without TLS", &self.capabilities_plain), ("CAPA inside TLS ", &self.capabilities_tls)];
        for (title, lines) in lists {
            if let Some(lines) = lines {
                writeln!(out, "  {title} {}", lines.join(", "))?;
            }
        }
        if let Some(mechanisms) = &self.mechanisms {
            let known = if is_secured { &self.capabilities_tls } else { &self.capabilities_plain };
            if known.is_none() {
                writeln!(out, "  CAPA             the server does not know it")?;
            }
            let mechanisms = if mechanisms.is_empty() { "none".to_owned() } else { mechanisms.join(", ") };
            writeln!(out, "  SASL mechanisms  {mechanisms}")?;
        }
        if self.link.is_some() && self.greeting.is_some() {
            writeln!(out, "  XCLIENT          {}", if self.xclient { "offered to this host" } else { "not offered" })?;
        }
        Ok(())
    }
}

fn secured(out: &mut fmt::Formatter<'_>, tls: &schema::Tls, milliseconds: u64) -> fmt::Result {
    let how = if tls.mode == "stls" { "by STLS" } else { "from the first octet" };
    writeln!(out, "  TLS              {}, {}, {how}, after {milliseconds} ms", tls.version, tls.cipher)?;
    let by = match tls.trust.as_deref() {
        Some("pin") => "pinned: issuer, name and dates do not matter",
        Some("ca_file") => "by the authorities in the given file",
        _ => "by the system's authorities",
    };
    let accepting = if tls.accept.is_empty() { String::new() } else { format!("; accepted would be: {}", tls.accept.join(", ")) };
    writeln!(out, "  verified         {by}{accepting}")
}

fn certificate(out: &mut fmt::Formatter<'_>, number: usize, seen: &Seen) -> fmt::Result {
    writeln!(out, "  certificate {number}    {}", seen.subject)?;
    writeln!(out, "    issuer         {}{}", seen.issuer, if seen.self_signed { " (itself)" } else { "" })?;
    writeln!(out, "    valid          {} to {}, {}", seen.not_before, seen.not_after, left(seen.days_left))?;
    if !seen.names.is_empty() {
        writeln!(out, "    names          {}", seen.names.join(", "))?;
    }
    writeln!(out, "    certificate    sha256:{}", seen.fingerprint)?;
    writeln!(out, "    public key     sha256:{}", seen.key_fingerprint)
}

fn left(days: i64) -> String {
    if days < 0 {
        format!("EXPIRED {} ago", plural(days.unsigned_abs(), "day"))
    } else {
        format!("{} left", plural(days.unsigned_abs(), "day"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_left_are_told_from_days_ago() {
        assert_eq!(left(0), "0 days left");
        assert_eq!(left(1), "1 day left");
        assert_eq!(left(-3), "EXPIRED 3 days ago");
    }
}
