//! A message and its size, as `rules test` takes them.

use std::str::FromStr;

use super::{Malformed, Size};

/// A message's number and its octets: `3=10 MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageSize {
    /// Its number, from 1.
    pub number: u64,
    /// Its octets.
    pub octets: u64,
}

impl FromStr for MessageSize {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let hint = "write the message's number and its size, such as `3=10 MiB`";
        let malformed = || Malformed::new(format!("`{text}` is not a message and its size"), hint);
        let (number, size) = text.split_once('=').ok_or_else(malformed)?;
        let number = number.trim().parse().ok().filter(|number| *number > 0).ok_or_else(malformed)?;
        Ok(Self { number, octets: size.trim().parse::<Size>()?.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_their_sizes() {
        assert_eq!("3=10 MiB".parse::<MessageSize>().unwrap(), MessageSize { number: 3, octets: 10 << 20 });
        for text in ["", "3", "0=5", "x=5", "3=", "3=x"] {
            assert!(text.parse::<MessageSize>().is_err(), "{text}");
        }
    }
}
