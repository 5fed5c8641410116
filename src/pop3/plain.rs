//! SASL PLAIN (RFC 4616): who logs in, and the same message for another name.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::identity::decode;

/// A message of SASL PLAIN.
pub(crate) struct Plain {
    /// The decoded message: authorization identity, NUL, name, NUL, password.
    message: Zeroizing<Vec<u8>>,
    name_at: usize,
    password_at: usize,
}

impl Plain {
    /// Reads one in base64; `None` where it is none, or names nobody in printable UTF-8.
    pub(crate) fn read(line: &[u8]) -> Option<Self> {
        let message = decode(line, true)?;
        let name_at = memchr::memchr(0, &message)? + 1;
        let password_at = name_at + memchr::memchr(0, &message[name_at..])? + 1;
        let plain = Self { message, name_at, password_at };
        let is_name = |name: &[u8]| std::str::from_utf8(name).is_ok_and(|name| !name.contains(char::is_control));
        (!plain.name().is_empty() && is_name(plain.name()) && is_name(plain.acts_as())).then_some(plain)
    }

    /// Whose mailbox is asked for: the authorization identity where there is one, else whoever has the password.
    pub(crate) fn user(&self) -> &str {
        let user = if self.acts_as().is_empty() { self.name() } else { self.acts_as() };
        std::str::from_utf8(user).unwrap_or_default()
    }

    /// The message in base64 for [`user`](Self::user) under another name. A name of its own that goes with the password stays.
    pub(crate) fn rewritten(&self, user: &str) -> Zeroizing<Vec<u8>> {
        let (acts_as, name) = (self.acts_as(), self.name());
        let acts_as_new = if acts_as.is_empty() { &b""[..] } else { user.as_bytes() };
        let name_new = if acts_as.is_empty() || acts_as == name { user.as_bytes() } else { name };
        let message = Zeroizing::new([acts_as_new, name_new, &self.message[self.password_at..]].join(&0));
        Zeroizing::new(STANDARD.encode(&*message).into_bytes())
    }

    fn acts_as(&self) -> &[u8] {
        &self.message[..self.name_at - 1]
    }

    fn name(&self) -> &[u8] {
        &self.message[self.name_at..self.password_at - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_name_and_the_same_password() {
        for (message, user, expected) in [
            (&b"\0bob\0pw\0x"[..], "bob", &b"\0new\0pw\0x"[..]),
            (b"bob\0bob\0pw", "bob", b"new\0new\0pw"),
            (b"bob\0admin\0pw", "bob", b"new\0admin\0pw"),
        ] {
            let plain = Plain::read(STANDARD.encode(message).as_bytes()).unwrap();
            assert_eq!(plain.user(), user);
            assert_eq!(STANDARD.decode(&*plain.rewritten("new")).unwrap(), expected);
        }
        for message in [&b"bob"[..], b"\0bob", b"\0\0pw", b"\0b\rob\0pw", b"\0\xff\0pw"] {
            assert!(Plain::read(STANDARD.encode(message).as_bytes()).is_none(), "{}", message.escape_ascii());
        }
        assert!(Plain::read(b"*").is_none() && Plain::read(b"=").is_none());
    }
}
