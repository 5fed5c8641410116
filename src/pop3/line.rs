//! Lines: where one ends, and how.

/// How a line ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnd {
    /// CR LF, as RFC 1939 §3 requires.
    CrLf,
    /// A bare LF, which every server accepts.
    Lf,
    /// Not at all: the stream ended first, or the line is not complete yet.
    None,
}

impl LineEnd {
    /// Octets of the line end itself.
    #[must_use]
    pub fn octets(self) -> u64 {
        match self {
            Self::CrLf => 2,
            Self::Lf => 1,
            Self::None => 0,
        }
    }
}
