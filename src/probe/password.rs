//! Where a password comes from: a file, standard input, or a prompt. Never the command line, which other users can read.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// The longest password. A command line of POP3 has 255 octets (RFC 2449 §4).
const LIMIT: usize = 1024;

/// Reads the first line of a file, or of standard input when it is `-`.
///
/// # Errors
///
/// When it cannot be read, is empty, too long, or more than one line.
pub fn from_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, PasswordError> {
    let fault = |cause| PasswordError::Read { path: path.to_owned(), cause };
    let octets = if path == Path::new("-") {
        read(io::stdin().lock()).map_err(fault)?
    } else {
        read(File::open(path).map_err(fault)?).map_err(fault)?
    };
    checked(octets)
}

/// Whether others than its owner may read the file.
#[must_use]
pub fn is_readable_by_others(path: &Path) -> bool {
    path != Path::new("-") && path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

/// Asks on the terminal, and does not show what is typed.
///
/// # Errors
///
/// When there is no terminal; and as [`from_file`].
pub fn from_prompt(user: &str) -> Result<Zeroizing<Vec<u8>>, PasswordError> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty").map_err(PasswordError::NoTerminal)?;
    let silent = Silent::new(&terminal)?;
    let prompt = format!("password for {}: ", crate::escape::escape(user.as_bytes()));
    let line = (&terminal).write_all(prompt.as_bytes()).and_then(|()| read_line(&terminal)).map_err(PasswordError::NoTerminal);
    drop(silent);
    let _ = terminal.write_all(b"\n");
    checked(line?)
}

/// A terminal without echo, until it is dropped.
struct Silent<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silent<'a> {
    fn new(terminal: &'a File) -> Result<Self, PasswordError> {
        let before = tcgetattr(terminal.as_fd()).map_err(|error| PasswordError::NoTerminal(error.into()))?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal.as_fd(), OptionalActions::Flush, &silent).map_err(|error| PasswordError::NoTerminal(error.into()))?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = tcsetattr(self.terminal.as_fd(), OptionalActions::Now, &self.before);
    }
}

/// All of it, up to one octet more than may be. The buffer never grows, so that no copy stays behind.
fn read(source: impl io::Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut octets = Zeroizing::new(Vec::with_capacity(2 * LIMIT));
    source.take(LIMIT as u64 + 1).read_to_end(&mut octets)?;
    Ok(octets)
}

/// A terminal hands over one line at a time.
fn read_line(mut terminal: &File) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut octets = Zeroizing::new(vec![0; LIMIT + 1]);
    let length = terminal.read(&mut octets)?;
    octets.truncate(length);
    Ok(octets)
}

fn checked(mut octets: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, PasswordError> {
    for end in [b'\n', b'\r'] {
        if octets.last() == Some(&end) {
            octets.pop();
        }
    }
    match octets.len() {
        0 => Err(PasswordError::Empty),
        LIMIT.. => Err(PasswordError::TooLong),
        _ if octets.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0)) => Err(PasswordError::SeveralLines),
        _ => Ok(octets),
    }
}

/// No password.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The file cannot be read.
    #[error("cannot read a password from `{}`: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// There is nobody to ask.
    #[error("cannot ask for a password: {0}\n  hint: without a terminal, use `--password-file FILE`, or `-` for standard input")]
    NoTerminal(io::Error),
    /// There is none.
    #[error("the password is empty")]
    Empty,
    /// It is too long for a command of POP3.
    #[error("the password is longer than {LIMIT} octets")]
    TooLong,
    /// It cannot be sent.
    #[error("the password has more than one line, or a NUL, and POP3 cannot carry it\n  hint: it alone belongs into the file")]
    SeveralLines,
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn of(content: &[u8]) -> Result<Vec<u8>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        from_file(file.path()).map(|password| password.to_vec()).map_err(|error| error.to_string())
    }

    #[test]
    fn one_line_is_a_password_and_blanks_belong_to_it() {
        for (content, expected) in [(&b"a b \n"[..], &b"a b "[..]), (b"pw\r\n", b"pw"), (b"pw", b"pw"), (b"\xff\n", b"\xff")] {
            assert_eq!(of(content).unwrap(), expected);
        }
        assert!(of(&[b'x'; LIMIT]).unwrap_err().contains("longer"));
        assert!(of(&[b'x'; 4 * LIMIT]).unwrap_err().contains("longer"));
        assert!(of(b"\n").unwrap_err().contains("empty"));
        for several in [&b"pw\nDELE 1\n"[..], b"p\0w", b"p\rw"] {
            assert!(of(several).unwrap_err().contains("more than one line"));
        }
        assert!(from_file(Path::new("/nowhere/pw")).unwrap_err().to_string().contains("/nowhere/pw"));
    }

    #[test]
    fn a_file_that_others_may_read_is_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!is_readable_by_others(file.path()));
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(is_readable_by_others(file.path()));
        assert!(!is_readable_by_others(Path::new("-")));
    }
}
