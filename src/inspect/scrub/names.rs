//! Names → other names of the same length, the same for the same.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// What parts the words of a name and stays: blanks, and what stands in addresses, hosts, paths and quotations. All else is a
/// letter, also what is no ASCII.
const PARTS: &[u8] = b" \t.@-+<>()[]{}:,;/='\"`!?|";

/// Letters of a replacement.
const LETTERS: &[u8; 26] = b"abcdefghijklmnopqrstuvwxyz";

/// Digits from which on a number may be a name, where there is one that is a number.
const TELLING: usize = 4;

/// What each name, word and address became. Memory: each that was seen, once.
#[derive(Debug, Default)]
pub(super) struct Names {
    words: HashMap<Vec<u8>, Vec<u8>>,
    made: HashMap<usize, u64>,
    addresses: HashMap<IpAddr, IpAddr>,
    /// Words of names, in small letters: they are never taken for anything else.
    known: HashSet<Vec<u8>>,
}

impl Names {
    /// The words of this name are replaced wherever they stand.
    pub(super) fn learn(&mut self, name: &[u8]) {
        for (word, is_word) in pieces(name) {
            if is_word && (word.len() >= TELLING || !word.iter().all(u8::is_ascii_digit)) {
                self.known.insert(word.to_ascii_lowercase());
            }
        }
    }

    /// Whether this is a word of a name.
    pub(super) fn is_name(&self, word: &[u8]) -> bool {
        self.known.contains(&word.to_ascii_lowercase())
    }

    /// Replaces every word.
    pub(super) fn name(&mut self, name: &[u8]) -> Vec<u8> {
        let mut replaced = Vec::with_capacity(name.len());
        for (word, is_word) in pieces(name) {
            replaced.extend_from_slice(if is_word { self.word(word) } else { word });
        }
        replaced
    }

    /// An address for documentation (RFC 5737, RFC 3849) in the place of each; the port stays. What is no address is a name.
    pub(super) fn address(&mut self, text: &str) -> String {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return SocketAddr::new(self.ip(address.ip()), address.port()).to_string();
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return self.ip(address).to_string();
        }
        let port = text.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
        let (host, port) = port.map_or((text, None), |(host, port)| (host, Some(port)));
        let host = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) if address.is_ipv6() => format!("[{}]", self.ip(address)),
            Ok(address) => self.ip(address).to_string(),
            Err(_) => String::from_utf8_lossy(&self.name(host.as_bytes())).into_owned(),
        };
        port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))
    }

    fn ip(&mut self, address: IpAddr) -> IpAddr {
        let count = self.addresses.len();
        *self.addresses.entry(address.to_canonical()).or_insert_with_key(|address| documentary(address.is_ipv4(), count))
    }

    fn word(&mut self, word: &[u8]) -> &[u8] {
        let key = word.to_ascii_lowercase();
        let made = self.made.entry(key.len()).or_default();
        self.words.entry(key).or_insert_with_key(|word| {
            loop {
                let replacement = numbered(*made, word.len());
                *made += 1;
                // A single letter may well be its own replacement in the next round; a word never is.
                if replacement != *word {
                    return replacement;
                }
            }
        })
    }
}

/// A text in pieces: words, and what is between them.
fn pieces(text: &[u8]) -> impl Iterator<Item = (&[u8], bool)> {
    let is_part = |octet: u8| PARTS.contains(&octet) || octet.is_ascii_control();
    text.chunk_by(move |one, other| is_part(*one) == is_part(*other)).map(move |piece| (piece, !is_part(piece[0])))
}

/// `x`, and a number in letters behind them. Where there is too little room, several words get the same.
fn numbered(mut number: u64, length: usize) -> Vec<u8> {
    let mut word = vec![b'x'; length];
    for place in word.iter_mut().rev() {
        *place = LETTERS[usize::try_from(number % 26).unwrap_or_default()];
        number /= 26;
        if number == 0 {
            break;
        }
    }
    word
}

fn documentary(is_ipv4: bool, count: usize) -> IpAddr {
    let number = u16::try_from(count % 0xffff).unwrap_or_default() + 1;
    if is_ipv4 {
        let [_, host] = u16::to_be_bytes(u16::try_from(count % 254).unwrap_or_default() + 1);
        let networks = [[192, 0, 2], [198, 51, 100], [203, 0, 113]];
        let [a, b, c] = networks[count / 254 % networks.len()];
        return Ipv4Addr::new(a, b, c, host).into();
    }
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(names: &mut Names, text: &str) -> String {
        String::from_utf8(names.name(text.as_bytes())).unwrap()
    }

    #[test]
    fn the_same_becomes_the_same_and_keeps_its_form() {
        let mut names = Names::default();
        assert_eq!(name(&mut names, "anna.k-7@mail.example.net"), "xxxa.a-b@xxxb.xxxxxxa.xxa");
        assert_eq!(name(&mut names, "ANNA@example.org mail"), "xxxa@xxxxxxa.xxb xxxb");
        assert_eq!(name(&mut names, "é_$x"), "xxxxa");
        assert_eq!(name(&mut names, "..@"), "..@");
    }

    #[test]
    fn addresses_are_those_of_documents() {
        let mut names = Names::default();
        for (address, expected) in [
            ("10.1.2.3:50000", "192.0.2.1:50000"),
            ("[2a02::7]:1110", "[2001:db8::2]:1110"),
            ("[::ffff:10.1.2.3]:7", "192.0.2.1:7"),
            ("10.1.2.3", "192.0.2.1"),
            ("mail.lan:110", "xxxa.xxa:110"),
            ("mail", "xxxa"),
            ("2a02::7", "2001:db8::2"),
        ] {
            assert_eq!(names.address(address), expected, "{address}");
        }
        for number in 0..300u32 {
            let address = names.address(&Ipv4Addr::from(number + 0x0a02_0000).to_string());
            assert!(address.starts_with("192.0.2.") || address.starts_with("198.51.100."), "{address}");
        }
    }

    proptest! {
        #[test]
        fn lengths_stay_and_words_do_not(text in "[ -~]{0,40}", other in any::<String>()) {
            let mut names = Names::default();
            for text in [text.as_bytes(), other.as_bytes()] {
                let replaced = names.name(text);
                prop_assert_eq!(replaced.len(), text.len());
                for ((word, is_word), (replacement, _)) in pieces(text).zip(pieces(&replaced)) {
                    prop_assert_eq!(is_word && word.len() > 1, word != replacement && word.len() > 1);
                }
            }
        }
    }
}
