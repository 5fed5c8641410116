//! Status lines (RFC 1939 §3).

/// The status indicator of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `+OK`
    Ok,
    /// `-ERR`
    Err,
    /// `+ ` and a SASL challenge (RFC 5034 §4), or a bare `+` as some servers send it.
    Continue,
}

impl Status {
    /// Reads the status indicator at the start of a line; `None` when there is none.
    ///
    /// Servers must send upper case; any case is accepted.
    #[must_use]
    pub fn of(line: &[u8]) -> Option<Self> {
        let word = line.split(|octet| matches!(octet, b' ' | b'\t' | b'\r' | b'\n')).next()?;
        if word.eq_ignore_ascii_case(b"+OK") {
            Some(Self::Ok)
        } else if word.eq_ignore_ascii_case(b"-ERR") {
            Some(Self::Err)
        } else if word == b"+" {
            Some(Self::Continue)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_indicators() {
        for (line, expected) in [
            (&b"+OK"[..], Some(Status::Ok)),
            (b"+ok hello", Some(Status::Ok)),
            (b"+OK\thello", Some(Status::Ok)),
            (b"-ERR", Some(Status::Err)),
            (b"-err [AUTH] no", Some(Status::Err)),
            (b"+", Some(Status::Continue)),
            (b"+ dGVzdA==", Some(Status::Continue)),
            (b"+OKAY", None),
            (b"", None),
            (b" +OK", None),
            (b"NOOP aaa-ERR no", None),
        ] {
            assert_eq!(Status::of(line), expected, "{}", line.escape_ascii());
        }
    }
}
