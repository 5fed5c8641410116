//! The body of a multi-line reply, measured as it passes.

use aws_lc_rs::digest;
use memchr::{memchr, memchr_iter};

use super::schema;
use crate::{
    config::{ContentPolicy, HashPolicy, ListingPolicy},
    escape,
    pop3::Keyword,
    tap::Ordinal,
};

/// Octets of one line of a listing that are kept.
const LINE: usize = 512;

/// Octets of a whole listing that are kept.
const LISTING: usize = 64 * 1024;

/// Lines of LIST's and UIDL's answers that are kept when they are kept briefly.
const BRIEF: usize = 3;

/// Nothing is kept, and no digest made.
const NOTHING: Wanted = Wanted { content: ContentPolicy::None, hash: HashPolicy::None, listings: ListingPolicy::Brief };

/// What is wanted of a body.
#[derive(Clone, Copy, Default)]
pub(super) struct Wanted {
    pub(super) content: ContentPolicy,
    pub(super) hash: HashPolicy,
    pub(super) listings: ListingPolicy,
}

/// A body that is passing.
pub(super) struct Body {
    n: Ordinal,
    keyword: Keyword,
    size: u64,
    /// Whether anybody wants to know more than the size.
    measures: bool,
    newlines: u64,
    ends_in_newline: bool,
    header: Option<Header>,
    digest: Option<digest::Context>,
    listing: Option<Listing>,
    policy: Option<ContentPolicy>,
    /// Octets that were to be kept and were not; so that what is kept stays a beginning, nothing behind them is.
    lost: u64,
}

impl Body {
    /// Without a wish, only the size is counted.
    pub(super) fn new(n: Ordinal, keyword: Keyword, wanted: Option<Wanted>) -> Self {
        let message = matches!(keyword, Keyword::Retr | Keyword::Top);
        let measures = wanted.is_some();
        let wanted = wanted.unwrap_or(NOTHING);
        Self {
            n,
            keyword,
            size: 0,
            measures,
            newlines: 0,
            ends_in_newline: true,
            header: message.then(Header::default),
            digest: (message && wanted.hash == HashPolicy::Sha256).then(|| digest::Context::new(&digest::SHA256)),
            listing: Listing::for_keyword(keyword, wanted.listings),
            policy: message.then_some(wanted.content),
            lost: 0,
        }
    }

    /// The command that is answered.
    pub(super) fn n(&self) -> Ordinal {
        self.n
    }

    /// Its keyword.
    pub(super) fn keyword(&self) -> Keyword {
        self.keyword
    }

    /// Takes a piece of the body; returns how much of its beginning is to be kept.
    pub(super) fn take(&mut self, piece: &[u8]) -> usize {
        if !self.measures {
            self.size += piece.len() as u64;
            return 0;
        }
        let lines_before = self.newlines;
        let header_was_over = self.header.as_ref().is_some_and(Header::is_over);
        if let Some(header) = &mut self.header {
            header.take(piece);
        }
        if let Some(digest) = &mut self.digest {
            digest.update(piece);
        }
        if let Some(listing) = &mut self.listing {
            listing.take(piece);
        }
        self.newlines += memchr_iter(b'\n', piece).count() as u64;
        self.ends_in_newline = piece.last().map_or(self.ends_in_newline, |&last| last == b'\n');
        let keep = self.wanted_of(piece, lines_before, header_was_over);
        self.size += piece.len() as u64;
        keep
    }

    /// A piece of this many octets could not be kept.
    pub(super) fn lose(&mut self, octets: usize) {
        self.lost += octets as u64;
    }

    /// Octets that were to be kept and were not; once there are any, nothing more is to be kept.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// The record of the whole body; `hides` says which lines of a listing must not be shown.
    pub(super) fn finish(self, octets: u64, complete: bool, total_us: u64, hides: impl Fn(&[u8]) -> bool) -> schema::Content {
        schema::Content {
            n: self.n,
            keyword: self.keyword.name().to_owned(),
            octets,
            size: self.size,
            header_size: self.header.and_then(|header| header.end),
            lines: self.newlines + u64::from(!self.ends_in_newline),
            sha256: self.digest.map(|digest| escape::hex(digest.finish().as_ref())),
            complete,
            total_us,
            listing: self.listing.map(|listing| listing.finish(hides)).unwrap_or_default(),
            policy: self.policy.map(describe),
            kept: Vec::new(),
        }
    }

    fn wanted_of(&self, piece: &[u8], lines_before: u64, header_was_over: bool) -> usize {
        match self.policy {
            None | Some(ContentPolicy::None) => 0,
            Some(ContentPolicy::Full) => piece.len(),
            Some(ContentPolicy::Headers) if header_was_over => 0,
            Some(ContentPolicy::Headers) => {
                let end = self.header.as_ref().and_then(|header| header.end);
                end.and_then(|end| usize::try_from(end - self.size).ok()).unwrap_or(piece.len())
            }
            Some(ContentPolicy::Lines(lines)) if lines_before >= lines => 0,
            Some(ContentPolicy::Lines(lines)) => {
                let last = usize::try_from(lines - lines_before - 1).unwrap_or(usize::MAX);
                memchr_iter(b'\n', piece).nth(last).map_or(piece.len(), |at| at + 1)
            }
        }
    }
}

/// The policy as it is written in records.
pub(super) fn describe(policy: ContentPolicy) -> String {
    match policy {
        ContentPolicy::None => "none".to_owned(),
        ContentPolicy::Headers => "headers".to_owned(),
        ContentPolicy::Lines(lines) => format!("lines:{lines}"),
        ContentPolicy::Full => "full".to_owned(),
    }
}

/// Looks for the first empty line.
#[derive(Default)]
struct Header {
    passed: u64,
    line: Begun,
    end: Option<u64>,
}

/// What there is of the present line.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Begun {
    #[default]
    Nothing,
    Cr,
    More,
}

impl Header {
    fn is_over(&self) -> bool {
        self.end.is_some()
    }

    fn take(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while let Some(at) = self.end.is_none().then(|| memchr(b'\n', rest)).flatten() {
            let blank = self.line.with(&rest[..at]) != Begun::More;
            self.line = Begun::Nothing;
            rest = &rest[at + 1..];
            if blank {
                self.end = Some(self.passed + (piece.len() - rest.len()) as u64);
            }
        }
        self.line = self.line.with(rest);
        self.passed += piece.len() as u64;
    }
}

impl Begun {
    fn with(self, octets: &[u8]) -> Self {
        match (self, octets) {
            (begun, b"") => begun,
            (Self::Nothing, b"\r") => Self::Cr,
            _ => Self::More,
        }
    }
}

/// The lines of a listing, up to a bound.
struct Listing {
    lines: Vec<Vec<u8>>,
    line: Vec<u8>,
    octets: usize,
    most_lines: usize,
}

impl Listing {
    fn for_keyword(keyword: Keyword, policy: ListingPolicy) -> Option<Self> {
        let most_lines = match (keyword, policy) {
            (Keyword::Capa | Keyword::Auth | Keyword::Lang, _) | (Keyword::List | Keyword::Uidl, ListingPolicy::Full) => {
                usize::MAX
            }
            (Keyword::List | Keyword::Uidl, ListingPolicy::Brief) => BRIEF,
            _ => return None,
        };
        Some(Self { lines: Vec::new(), line: Vec::new(), octets: 0, most_lines })
    }

    fn take(&mut self, piece: &[u8]) {
        for part in piece.split_inclusive(|&octet| octet == b'\n') {
            if self.lines.len() >= self.most_lines || self.octets >= LISTING {
                return;
            }
            // Two octets more, for the line's end.
            let room = (LINE + 2).saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        if line.ends_with(b"\n") {
            line.pop();
            if line.ends_with(b"\r") {
                line.pop();
            }
        }
        line.truncate(LINE);
        self.octets += line.len() + 1;
        self.lines.push(line);
    }

    fn finish(mut self, hides: impl Fn(&[u8]) -> bool) -> Vec<String> {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.lines.iter().map(|line| if hides(line) { "[withheld]".to_owned() } else { escape::escape(line) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn measure(keyword: Keyword, wanted: Wanted, body: &[u8], cut: usize) -> (schema::Content, Vec<u8>) {
        let mut reader = Body::new(1, keyword, Some(wanted));
        let mut kept = Vec::new();
        for piece in body.chunks(cut) {
            let keep = reader.take(piece);
            kept.extend_from_slice(&piece[..keep]);
        }
        (reader.finish(0, true, 0, |line| line == b"secret"), kept)
    }

    fn keeping(content: ContentPolicy) -> Wanted {
        Wanted { content, ..Wanted::default() }
    }

    #[test]
    fn a_message_is_measured_in_every_chunking() {
        let body = b"Subject: x\r\nTo: y\r\n\r\none\r\n\r\ntwo";
        for cut in 1..=body.len() {
            for (policy, expected) in [
                (ContentPolicy::None, 0),
                (ContentPolicy::Headers, 21),
                (ContentPolicy::Lines(0), 0),
                (ContentPolicy::Lines(1), 12),
                (ContentPolicy::Lines(4), 26),
                (ContentPolicy::Lines(u64::MAX), body.len()),
                (ContentPolicy::Full, body.len()),
            ] {
                let (content, kept) = measure(Keyword::Retr, keeping(policy), body, cut);
                assert_eq!((content.size, content.lines, content.header_size), (31, 6, Some(21)), "cut at {cut}");
                let digest = escape::hex(digest::digest(&digest::SHA256, body).as_ref());
                assert_eq!(content.sha256, Some(digest));
                assert_eq!(kept, &body[..expected], "{policy:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn where_nobody_wants_more_the_size_is_counted() {
        let mut reader = Body::new(1, Keyword::Retr, None);
        assert_eq!((reader.take(b"a: b\r\n\r\n"), reader.take(b"c")), (0, 0));
        let content = reader.finish(12, true, 0, |_| false);
        assert_eq!((content.size, content.header_size, content.sha256), (9, None, None));
        assert!(content.policy.is_some(), "it is a message all the same");
    }

    #[test]
    fn headers_end_at_a_bare_lf_too() {
        for (body, end) in
            [(&b"a: b\n\nx"[..], Some(6)), (b"\r\nx", Some(2)), (b"\n", Some(1)), (b"a\r\nb\r\n", None), (b"\r\r\n", None)]
        {
            for cut in 1..=body.len() {
                assert_eq!(measure(Keyword::Top, Wanted::default(), body, cut).0.header_size, end, "{}", body.escape_ascii());
            }
        }
    }

    #[test]
    fn listings() {
        let body = b"TOP\r\nsecret\r\nX\x1b\r\nSTLS\r\n";
        let full = Wanted { listings: ListingPolicy::Full, ..Wanted::default() };
        for cut in 1..=body.len() {
            for (keyword, wanted, lines) in [
                (Keyword::Capa, Wanted::default(), 4),
                (Keyword::List, Wanted::default(), 3),
                (Keyword::Uidl, full, 4),
                (Keyword::Retr, full, 0),
            ] {
                let (content, _) = measure(keyword, wanted, body, cut);
                assert_eq!(content.listing, ["TOP", "[withheld]", r"X\x1b", "STLS"][..lines], "{keyword:?} cut at {cut}");
                assert_eq!(content.policy.is_some(), keyword == Keyword::Retr);
            }
        }
    }

    #[test]
    fn a_listing_is_bounded() {
        let body = [&vec![b'x'; 5000][..], b"\r\n", &b"abc\r\n".repeat(100_000)].concat();
        let (content, _) = measure(Keyword::Capa, Wanted::default(), &body, 4096);
        assert_eq!(content.listing[0].len(), LINE);
        assert!(content.listing.iter().map(String::len).sum::<usize>() <= LISTING + LINE);
        assert_eq!(content.lines, 100_001);
    }

    proptest! {
        #[test]
        fn measures_do_not_depend_on_chunking(body in "[\r\na:]{0,60}", cut in 1_usize..8, lines in 0_u64..6) {
            for policy in [ContentPolicy::Headers, ContentPolicy::Lines(lines)] {
                let whole = measure(Keyword::Retr, keeping(policy), body.as_bytes(), usize::MAX);
                prop_assert_eq!(measure(Keyword::Retr, keeping(policy), body.as_bytes(), cut), whole);
            }
        }
    }
}
