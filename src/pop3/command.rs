//! Command lines: the keyword, and whether there is an argument.

/// A keyword (RFC 1939 §3 calls it that): the first word of a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Keyword {
    /// RFC 1939 §7
    Apop,
    /// RFC 5034
    Auth,
    /// RFC 2449 §5
    Capa,
    /// RFC 1939 §5
    Dele,
    /// RFC 6856 §3
    Lang,
    /// RFC 1460, dropped since
    Last,
    /// RFC 1939 §5
    List,
    /// RFC 1939 §5
    Noop,
    /// RFC 1939 §7
    Pass,
    /// RFC 1939 §5
    Quit,
    /// RFC 1939 §5
    Retr,
    /// RFC 1081, dropped since
    Rpop,
    /// RFC 1939 §5
    Rset,
    /// RFC 1939 §5
    Stat,
    /// RFC 2595 §4
    Stls,
    /// RFC 1939 §7
    Top,
    /// RFC 1939 §7
    Uidl,
    /// RFC 1939 §7
    User,
    /// RFC 6856 §2
    Utf8,
    /// Dovecot's: the client's address and more, believed from trusted proxies
    Xclient,
    /// The same from Zimbra
    Xoip,
    /// Netscape's
    Xsender,
    /// Berkeley's extensions: XTND XMIT, XTND XLST
    Xtnd,
    /// Any other first word, an empty one included
    Unknown,
}

impl Keyword {
    /// Octets of the longest name.
    const LONGEST: usize = 7;

    /// Reads a keyword, in any case.
    #[must_use]
    pub fn parse(word: &[u8]) -> Self {
        let mut upper = [0; Self::LONGEST];
        let Some(name) = upper.get_mut(..word.len()) else { return Self::Unknown };
        name.copy_from_slice(word);
        name.make_ascii_uppercase();
        match &*name {
            b"APOP" => Self::Apop,
            b"AUTH" => Self::Auth,
            b"CAPA" => Self::Capa,
            b"DELE" => Self::Dele,
            b"LANG" => Self::Lang,
            b"LAST" => Self::Last,
            b"LIST" => Self::List,
            b"NOOP" => Self::Noop,
            b"PASS" => Self::Pass,
            b"QUIT" => Self::Quit,
            b"RETR" => Self::Retr,
            b"RPOP" => Self::Rpop,
            b"RSET" => Self::Rset,
            b"STAT" => Self::Stat,
            b"STLS" => Self::Stls,
            b"TOP" => Self::Top,
            b"UIDL" => Self::Uidl,
            b"USER" => Self::User,
            b"UTF8" => Self::Utf8,
            b"XCLIENT" => Self::Xclient,
            b"XOIP" => Self::Xoip,
            b"XSENDER" => Self::Xsender,
            b"XTND" => Self::Xtnd,
            _ => Self::Unknown,
        }
    }

    /// The keyword in upper case; `?` for an unknown one.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Apop => "APOP",
            Self::Auth => "AUTH",
            Self::Capa => "CAPA",
            Self::Dele => "DELE",
            Self::Lang => "LANG",
            Self::Last => "LAST",
            Self::List => "LIST",
            Self::Noop => "NOOP",
            Self::Pass => "PASS",
            Self::Quit => "QUIT",
            Self::Retr => "RETR",
            Self::Rpop => "RPOP",
            Self::Rset => "RSET",
            Self::Stat => "STAT",
            Self::Stls => "STLS",
            Self::Top => "TOP",
            Self::Uidl => "UIDL",
            Self::User => "USER",
            Self::Utf8 => "UTF8",
            Self::Xclient => "XCLIENT",
            Self::Xoip => "XOIP",
            Self::Xsender => "XSENDER",
            Self::Xtnd => "XTND",
            Self::Unknown => "?",
        }
    }
}

/// A command line, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// Its keyword.
    pub keyword: Keyword,
    /// The line as written, without its line end; only its beginning where it is long.
    pub line: &'a [u8],
    /// Its first word as written.
    pub word: &'a [u8],
    /// What follows the one octet behind the keyword, as written: for PASS this is the password, inner and trailing blanks included.
    pub rest: &'a [u8],
}

impl<'a> Command<'a> {
    /// Reads a line without its line end.
    ///
    /// Servers skip leading blanks (Courier, Mailutils), take a tab for a space (Courier, Cyrus, Mailutils), and end the keyword
    /// at a NUL (Dovecot, Cyrus) or at a bare CR (Courier): so does this.
    #[must_use]
    pub fn parse(whole: &'a [u8]) -> Self {
        let line = whole;
        let start = line.iter().position(|octet| !matches!(octet, b' ' | b'\t')).unwrap_or(line.len());
        let line = &line[start..];
        let end = line.iter().position(|octet| matches!(octet, b' ' | b'\t' | b'\r' | 0)).unwrap_or(line.len());
        let (word, rest) = (&line[..end], line.get(end + 1..).unwrap_or_default());
        Self { keyword: Keyword::parse(word), line: whole, word, rest }
    }

    /// Whether there is an argument: any octet behind the keyword that is not white space.
    ///
    /// `LIST ` with a trailing blank is LIST without an argument on four of five servers.
    #[must_use]
    pub fn has_argument(&self) -> bool {
        self.rest.iter().any(|octet| !octet.is_ascii_whitespace())
    }

    /// The words behind the keyword.
    pub fn arguments(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.rest.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_and_arguments() {
        for (line, keyword, has_argument) in [
            (&b"LIST"[..], Keyword::List, false),
            (b"LIST ", Keyword::List, false),
            (b"list  1", Keyword::List, true),
            (b"LIST\t1", Keyword::List, true),
            (b"  \tSTAT", Keyword::Stat, false),
            (b"NOOP\rSTAT", Keyword::Noop, true),
            (b"STLS\0x", Keyword::Stls, true),
            (b"STAT\r", Keyword::Stat, false),
            (b"", Keyword::Unknown, false),
            (b"XYZZY plugh", Keyword::Unknown, true),
            (b"UIDL\r\r", Keyword::Uidl, false),
        ] {
            let command = Command::parse(line);
            assert_eq!((command.keyword, command.has_argument()), (keyword, has_argument), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn a_password_keeps_its_blanks() {
        assert_eq!(Command::parse(b"PASS  two  blanks ").rest, b" two  blanks ");
    }

    #[test]
    fn names_round_trip() {
        let names = "APOP AUTH CAPA DELE LANG LAST LIST NOOP PASS QUIT RETR RPOP RSET STAT STLS TOP UIDL USER UTF8 XCLIENT XOIP \
                     XSENDER XTND";
        for name in names.split(' ') {
            let keyword = Keyword::parse(name.to_ascii_lowercase().as_bytes());
            assert_eq!((keyword.name(), Keyword::parse(name.as_bytes())), (name, keyword));
        }
        for word in ["", "TO", "TOPP", "RETR\0", "XCLIENTS", "?"] {
            assert_eq!(Keyword::parse(word.as_bytes()), Keyword::Unknown, "{word}");
        }
    }
}
