//! A file of users: one a line, with the upstream of each. Made for millions of lines.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Users and the upstream of each, as a file names them.
///
/// The file's text is held once, names in lower case, with five octets a line besides to find them; a name is found by a binary
/// search. A file of a million lines of 30 octets takes less than 48 MB. While a reload reads a file anew, both are there.
#[derive(PartialEq, Eq)]
pub struct UserMap {
    path: PathBuf,
    /// `user TAB newname LF` of each line.
    text: Vec<u8>,
    /// Where each line's entry begins in `text`, and its upstream; in the order of the names.
    starts: Vec<u32>,
    targets: Vec<u8>,
    /// The upstreams that the file names.
    upstreams: Vec<Arc<str>>,
    /// The first line that names each of them.
    first_lines: Vec<usize>,
}

/// What the map says of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) upstream: Arc<str>,
    pub(super) name: Option<String>,
}

/// Why a map cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapFault {
    /// The file cannot be read.
    #[error("cannot read the map `{}`: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// A line that says nothing that could be used. It is not repeated, since it names a user.
    #[error("{}:{line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
}

/// The largest file that is read.
const LARGEST: u64 = 1 << 30;
/// Upstreams that one map may name.
const MOST_UPSTREAMS: usize = 256;
/// Octets of a user's name.
const LONGEST_NAME: usize = 255;

impl UserMap {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`MapFault`]: the first line that cannot be used. A file over 1 GiB is one.
    pub fn read(path: &Path) -> Result<Self, MapFault> {
        let unreadable = |cause: io::Error| MapFault::Unreadable { path: path.to_owned(), cause: cause.to_string() };
        if fs::metadata(path).map_err(unreadable)?.len() > LARGEST {
            return Err(unreadable(io::Error::other("it is larger than 1 GiB")));
        }
        Self::parse(path, &fs::read(path).map_err(unreadable)?)
    }

    /// Reads what a file holds.
    ///
    /// # Errors
    ///
    /// [`MapFault::Line`]: the first line that cannot be used.
    pub fn parse(path: &Path, octets: &[u8]) -> Result<Self, MapFault> {
        let mut map = Self {
            path: path.to_owned(),
            text: Vec::with_capacity(octets.len().min(usize::try_from(LARGEST).unwrap_or(usize::MAX))),
            starts: Vec::new(),
            targets: Vec::new(),
            upstreams: Vec::new(),
            first_lines: Vec::new(),
        };
        let mut entries: Vec<(u32, u32, u8)> = Vec::new();
        for (line, number) in octets.split(|&octet| octet == b'\n').zip(1..) {
            let fault = |what: String| MapFault::Line { path: path.to_owned(), line: number as usize, what };
            if let Some((start, target)) = map.line(line, number as usize).map_err(fault)? {
                entries.push((start, number, target));
            }
        }
        entries.sort_unstable_by(|one, other| map.name(one.0).cmp(map.name(other.0)).then(one.1.cmp(&other.1)));
        if let Some([first, second]) = map.twice(&entries) {
            let what = format!("this name stands in line {first} already");
            return Err(MapFault::Line { path: path.to_owned(), line: second, what });
        }
        map.starts = entries.iter().map(|entry| entry.0).collect();
        map.targets = entries.iter().map(|entry| entry.2).collect();
        map.text.shrink_to_fit();
        Ok(map)
    }

    /// Takes in one line; `None` where it says nothing.
    fn line(&mut self, line: &[u8], number: usize) -> Result<Option<(u32, u8)>, String> {
        let line = std::str::from_utf8(line).map_err(|_| "this line is not UTF-8".to_owned())?.trim();
        if line.is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        if line.contains(|letter: char| letter.is_control() && letter != '\t') {
            return Err("this line has a control character in it".to_owned());
        }
        let mut words = line.split_ascii_whitespace();
        let (user, upstream, name) = match (words.next(), words.next(), words.next(), words.next()) {
            (Some(user), Some(upstream), name, None) => (user, upstream, name.unwrap_or_default()),
            (Some(_), None, ..) => return Err("this line names no upstream: write `user upstream`".to_owned()),
            _ => return Err("this line has more than `user upstream newname`".to_owned()),
        };
        if user.len() > LONGEST_NAME || name.len() > LONGEST_NAME {
            return Err(format!("a name has at most {LONGEST_NAME} octets"));
        }
        if user.starts_with('@') && !(name.is_empty() || name.starts_with('@')) {
            return Err("the new name for a whole domain is a domain: `@new.example`, or `@` for none".to_owned());
        }
        let target = self.upstream(upstream, number)?;
        let start = u32::try_from(self.text.len()).map_err(|_| "the map is too large".to_owned())?;
        self.text.extend(user.bytes().map(|octet| octet.to_ascii_lowercase()));
        self.text.push(b'\t');
        self.text.extend_from_slice(name.as_bytes());
        self.text.push(b'\n');
        Ok(Some((start, target)))
    }

    fn upstream(&mut self, name: &str, line: usize) -> Result<u8, String> {
        let known = self.upstreams.iter().position(|upstream| **upstream == *name);
        let at = known.unwrap_or(self.upstreams.len());
        if at >= MOST_UPSTREAMS {
            return Err(format!("a map names at most {MOST_UPSTREAMS} upstreams"));
        }
        if known.is_none() {
            self.upstreams.push(name.into());
            self.first_lines.push(line);
        }
        u8::try_from(at).map_err(|error| error.to_string())
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many users and domains it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Octets that it takes.
    #[must_use]
    pub fn octets(&self) -> usize {
        self.text.capacity() + self.starts.capacity() * size_of::<u32>() + self.targets.capacity()
    }

    /// Each upstream that it names, with the first line that does.
    pub fn upstreams(&self) -> impl Iterator<Item = (&str, usize)> {
        self.upstreams.iter().map(|name| &**name).zip(self.first_lines.iter().copied())
    }

    /// What it says of `user`: the line of the whole name, else that of the domain behind the last `@`.
    pub(super) fn get(&self, user: &str) -> Option<Entry> {
        let folded = user.to_ascii_lowercase();
        if let Some((upstream, name)) = self.find(folded.as_bytes()) {
            return Some(Entry { upstream, name: (!name.is_empty()).then(|| name.to_owned()) });
        }
        let at = user.rfind('@')?;
        let (upstream, domain) = self.find(&folded.as_bytes()[at..])?;
        let name = match domain {
            "" => None,
            "@" => Some(user[..at].to_owned()),
            domain => Some(format!("{}{domain}", &user[..at])),
        };
        Some(Entry { upstream, name })
    }

    fn find(&self, name: &[u8]) -> Option<(Arc<str>, &str)> {
        let at = self.starts.binary_search_by(|&start| self.name(start).cmp(name)).ok()?;
        let behind = &self.text[self.starts[at] as usize + name.len() + 1..];
        let end = memchr::memchr(b'\n', behind).unwrap_or(behind.len());
        let upstream = self.upstreams.get(usize::from(*self.targets.get(at)?))?;
        Some((Arc::clone(upstream), std::str::from_utf8(&behind[..end]).unwrap_or_default()))
    }

    /// The first two lines with one name.
    fn twice(&self, entries: &[(u32, u32, u8)]) -> Option<[usize; 2]> {
        let pair = entries.windows(2).find(|pair| self.name(pair[0].0) == self.name(pair[1].0))?;
        Some([pair[0].1 as usize, pair[1].1 as usize])
    }

    /// The name of the entry that begins there.
    fn name(&self, start: u32) -> &[u8] {
        let text = &self.text[start as usize..];
        &text[..memchr::memchr(b'\t', text).unwrap_or(text.len())]
    }
}

/// Without the users: they are personal data, and may be millions.
impl fmt::Debug for UserMap {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("UserMap").field("path", &self.path).field("users", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<UserMap, MapFault> {
        UserMap::parse(Path::new("users.map"), text.as_bytes())
    }

    #[test]
    fn a_name_before_its_domain() {
        let map = parse("# who is where\nanna@old.example old\r\n\n  Bob\tnew bob@new.example \n@old.example new\n@x.example new @y.example\n@z.example new @\n").unwrap();
        for (user, expected) in [
            ("ANNA@old.example", Some(("old", None))),
            ("Tim@X.example", Some(("new", Some("Tim@y.example")))),
            ("bob", Some(("new", Some("bob@new.example")))),
            ("eve@OLD.example", Some(("new", None))),
            ("eve@x.example", Some(("new", Some("eve@y.example")))),
            ("eve@z.example", Some(("new", Some("eve")))),
            ("eve", None),
            ("bobb", None),
            ("", None),
        ] {
            let found = map.get(user);
            assert_eq!(found.as_ref().map(|entry| (&*entry.upstream, entry.name.as_deref())), expected, "{user}");
        }
        assert_eq!(map.upstreams().collect::<Vec<_>>(), [("old", 2), ("new", 4)]);
    }

    #[test]
    fn a_faulty_line_is_named_and_not_repeated() {
        for (text, line, said) in [
            ("a b\nanna\n", 2, "names no upstream"),
            ("a b c d\n", 1, "more than"),
            ("a b\nc b\nA b\n", 3, "line 1 already"),
            ("@x y z\n", 1, "is a domain"),
            ("a\u{1} b\n", 1, "control character"),
        ] {
            let fault = parse(text).unwrap_err().to_string();
            assert!(fault.starts_with(&format!("users.map:{line}: ")) && fault.contains(said), "{fault}");
            assert!(!fault.contains("anna"));
        }
    }

    #[test]
    fn a_million_users() {
        use std::fmt::Write as _;
        let mut text = String::new();
        for user in 0..1_000_000 {
            writeln!(text, "user{user:07}@example.org {}", if user % 3 == 0 { "old" } else { "new" }).unwrap();
        }
        let map = parse(&text).unwrap();
        assert_eq!(map.len(), 1_000_000);
        for user in (0..1_000_000).step_by(1009) {
            let entry = map.get(&format!("user{user:07}@EXAMPLE.org")).unwrap();
            assert_eq!(&*entry.upstream, if user % 3 == 0 { "old" } else { "new" });
        }
        assert!(map.get("user1000000@example.org").is_none());
        assert!(map.octets() < 48_000_000, "{} octets", map.octets());
    }
}
