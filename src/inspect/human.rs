//! Numbers as people say them. Sizes go through `bytesize`, long durations through `humantime`.

use std::time::Duration;

use bytesize::ByteSize;

/// A size in decimal units: `1 octet`, `512 octets`, `1.2 kB`, `34 kB`, `64 MB`.
#[must_use]
pub fn octets(number: u64) -> String {
    if number < 1000 {
        return plural(number, "octet");
    }
    let size = ByteSize::b(number).display().si();
    let fine = format!("{size:.1}");
    if fine.find('.') == Some(1) { fine } else { format!("{size:.0}") }
}

/// A number with its noun, which takes an `s` unless there is exactly one: `1 message`, `3 messages`.
#[must_use]
pub fn plural(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// A duration from microseconds: `0 ms`, `120 ms`, `1.2 s`, `2m 5s`.
#[must_use]
pub fn duration(microseconds: u64) -> String {
    let tenths = microseconds / 100_000;
    match microseconds / 1_000_000 {
        0 => format!("{} ms", microseconds / 1000),
        1..60 => format!("{}.{} s", tenths / 10, tenths % 10),
        seconds => humantime::format_duration(Duration::from_secs(seconds)).to_string(),
    }
}

/// A time of a transcript (RFC 3339, UTC) as `2026-11-23 06:30:00`. Anything else is given back as it is.
#[must_use]
pub fn time(stamp: &str) -> String {
    match (stamp.get(..10), stamp.get(10..11), stamp.get(11..19)) {
        (Some(date), Some("T"), Some(clock)) => format!("{date} {clock}"),
        _ => stamp.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            (0, "0 octets"),
            (1, "1 octet"),
            (999, "999 octets"),
            (1000, "1.0 kB"),
            (9_940, "9.9 kB"),
            (34_400, "34 kB"),
            (120_000, "120 kB"),
            (67_108_864, "67 MB"),
            (u64::MAX, "18 EB"),
        ];
        for (number, text) in cases {
            assert_eq!(octets(number), text);
        }
    }

    #[test]
    fn durations() {
        let cases = [
            (0, "0 ms"),
            (999, "0 ms"),
            (120_000, "120 ms"),
            (1_250_000, "1.2 s"),
            (59_990_000, "59.9 s"),
            (125_000_000, "2m 5s"),
        ];
        for (microseconds, text) in cases {
            assert_eq!(duration(microseconds), text);
        }
    }

    #[test]
    fn times_and_what_only_looks_like_one() {
        assert_eq!(time("2026-11-23T06:30:00.123456Z"), "2026-11-23 06:30:00");
        assert_eq!(time("yesterday"), "yesterday");
        assert_eq!(time("2026-11-23T06:30é"), "2026-11-23T06:30é");
    }
}
