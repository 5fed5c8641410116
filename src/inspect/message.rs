//! What a kept message says of itself: its sender, subject and date, decoded for people.

use mail_parser::{Addr, Address, HeaderValue, MessageParser};

use super::paint::harmless;

/// So much of a message is looked at, in octets.
pub(super) const LOOKED_AT: u64 = 64 * 1024;

/// Fields of a message's header, decoded (RFC 2047) and harmless: name and value, as far as they are there.
pub(super) fn fields(beginning: &[u8]) -> Vec<(&'static str, String)> {
    let Some(message) = MessageParser::default().parse_headers(beginning) else { return Vec::new() };
    let date = message.date().filter(|date| date.is_valid()).map(mail_parser::DateTime::to_rfc3339);
    let fields = [
        ("From", message.from().map(addresses)),
        ("To", message.to().map(addresses)),
        ("Subject", message.header("Subject").and_then(text)),
        ("Date", date),
    ];
    let shown = |value: String| harmless(&shortened(&value)).into_owned();
    fields.into_iter().filter_map(|(name, value)| Some((name, shown(value?)))).collect()
}

fn text(value: &HeaderValue<'_>) -> Option<String> {
    value.as_text().map(str::to_owned)
}

fn addresses(address: &Address<'_>) -> String {
    address.iter().map(one_address).collect::<Vec<_>>().join(", ")
}

fn one_address(addr: &Addr<'_>) -> String {
    match (addr.name(), addr.address()) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        (name, address) => name.or(address).unwrap_or_default().to_owned(),
    }
}

/// Characters of a field that are shown.
const LONGEST: usize = 300;

fn shortened(value: &str) -> String {
    if value.chars().count() <= LONGEST { value.to_owned() } else { value.chars().take(LONGEST).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(message: &str) -> Vec<String> {
        fields(message.as_bytes()).into_iter().map(|(name, value)| format!("{name}: {value}")).collect()
    }

    #[test]
    fn decoded() {
        let message = "From: =?ISO-8859-1?Q?J=FCrgen?= <j@example.net>, eve@example.net\r\nTo: all\r\n\
                       Subject: =?utf-8?B?R3LDvMOfZQ==?=\r\n =?utf-8?Q?_aus_Wien?=\r\nDate: Mon, 23 Nov 2026 06:30:00 +0100\r\n\r\nbody\r\n";
        let expected = [
            "From: Jürgen <j@example.net>, eve@example.net",
            "To: all",
            "Subject: Grüße aus Wien",
            "Date: 2026-11-23T06:30:00+01:00",
        ];
        assert_eq!(shown(message), expected);
    }

    #[test]
    fn hostile() {
        let shown = shown("Subject: =?utf-8?Q?=1B[2Jx=0D=0AS:_+OK=E2=80=AE?=\r\nFrom: \"\x1b]0;x\x07\" <a@b>\r\n\r\n").join("\n");
        assert!(!shown.chars().any(|character| character.is_control() && character != '\n'), "{shown:?}");
        assert!(shown.contains("\\x1B[2Jx"), "{shown}");
        for odd in ["", "\0\0\0", "no header at all", ":::", "Subject:", "From: <<>><"] {
            fields(odd.as_bytes());
        }
        assert!(fields(format!("Subject: {}\r\n\r\n", "x".repeat(10_000)).as_bytes())[0].1.chars().count() <= LONGEST + 1);
    }
}
