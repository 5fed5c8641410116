//! Which SASL mechanisms can work between a client and a server with poptap between them.

use std::sync::Arc;

use crate::pop3::Capability;

/// What is left out of a listing of mechanisms.
///
/// Nothing that is bound to a TLS channel works through two channels (RFC 5802 §6, RFC 5056), and a certificate that a
/// client presents to poptap does not reach the server (EXTERNAL, RFC 4422 appendix A).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mechanisms {
    /// `-PLUS` variants.
    pub(super) no_plus: bool,
    /// EXTERNAL.
    pub(super) no_external: bool,
    /// SCRAM where the server offers `-PLUS`, too: a client that could bind says so, and the server has to refuse it.
    pub(super) no_bindable: bool,
    /// Whether the server offers a `-PLUS` variant, as CAPA's SASL line told; `None` before that.
    pub(super) plus_offered: Option<bool>,
}

impl Mechanisms {
    /// A line of the listing that a bare AUTH gets: one mechanism. Whether it is to be left out.
    pub(super) fn drops_line(self, line: &[u8]) -> bool {
        self.drops(Capability::parse(line).tag(), self.plus_offered.unwrap_or(true))
    }

    /// CAPA's SASL line (RFC 5034 §6): `None` where it passes as it is, an empty text where nothing of it is left.
    pub(super) fn edit(&mut self, line: &[u8]) -> Option<Arc<[u8]>> {
        let content = line.trim_ascii_end();
        let names = || words(content).skip(1);
        let plus_offered = names().any(is_plus);
        self.plus_offered = Some(plus_offered);
        if !names().any(|name| self.drops(name, plus_offered)) {
            return None;
        }
        let kept: Vec<&[u8]> = words(content).take(1).chain(names().filter(|name| !self.drops(name, plus_offered))).collect();
        if kept.len() == 1 {
            return Some(Arc::from([]));
        }
        Some([&kept.join(&b' '), &line[content.len()..]].concat().into())
    }

    fn drops(self, name: &[u8], plus_offered: bool) -> bool {
        let is_scram = name.len() >= SCRAM.len() && name[..SCRAM.len()].eq_ignore_ascii_case(SCRAM);
        self.no_plus && is_plus(name)
            || self.no_external && name.eq_ignore_ascii_case(b"EXTERNAL")
            || self.no_bindable && is_scram && plus_offered
    }
}

const SCRAM: &[u8] = b"SCRAM-";
const PLUS: &[u8] = b"-PLUS";

fn is_plus(name: &[u8]) -> bool {
    name.len() > PLUS.len() && name[name.len() - PLUS.len()..].eq_ignore_ascii_case(PLUS)
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|octet| matches!(octet, b' ' | b'\t')).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Mechanisms = Mechanisms { no_plus: true, no_external: true, no_bindable: true, plus_offered: None };

    #[test]
    fn what_cannot_work_is_left_out_in_order() {
        for (line, expected) in [
            (&b"SASL PLAIN LOGIN\r\n"[..], None),
            (b"SASL\r\n", None),
            (b"SASL PLAIN EXTERNAL LOGIN\r\n", Some(&b"SASL PLAIN LOGIN\r\n"[..])),
            (b"SASL SCRAM-SHA-256 PLAIN\r\n", None),
            (b"SASL SCRAM-SHA-256 SCRAM-SHA-256-PLUS PLAIN\r\n", Some(b"SASL PLAIN\r\n")),
            (b"sasl external\n", Some(b"")),
            (b"SASL\tscram-sha-1-plus  plain \r\n", Some(b"SASL plain \r\n")),
        ] {
            let edited = ALL.clone_edit(line);
            assert_eq!(edited.as_deref(), expected, "{}", line.escape_ascii());
        }
        let plus_only = Mechanisms { no_plus: true, ..Mechanisms::default() };
        let edited = plus_only.clone_edit(b"SASL SCRAM-SHA-1 SCRAM-SHA-1-PLUS EXTERNAL\r\n");
        assert_eq!(edited.as_deref(), Some(&b"SASL SCRAM-SHA-1 EXTERNAL\r\n"[..]));
    }

    #[test]
    fn a_bare_auths_scram_stays_only_where_capa_told_that_nothing_is_bound() {
        for (capa, scram_dropped) in
            [(None, true), (Some(&b"SASL SCRAM-SHA-1\r\n"[..]), false), (Some(b"SASL SCRAM-SHA-1-PLUS\r\n"), true)]
        {
            let mut mechanisms = ALL;
            capa.map(|line| mechanisms.edit(line));
            assert_eq!(mechanisms.drops_line(b"SCRAM-SHA-1\r\n"), scram_dropped, "{capa:?}");
            assert!(mechanisms.drops_line(b"SCRAM-SHA-1-PLUS\r\n") && mechanisms.drops_line(b"external\r\n"));
            assert!(!mechanisms.drops_line(b"PLAIN\r\n"));
        }
    }

    impl Mechanisms {
        fn clone_edit(mut self, line: &[u8]) -> Option<Arc<[u8]>> {
            self.edit(line)
        }
    }
}
