//! A multi-line reply in any cuts: the content and the end are the same as in one piece, and as a plain reading of RFC 1939 §3
//! has them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use poptap::pop3::Body;

fuzz_target!(|octets: &[u8]| {
    let [lf_ends, size, wire @ ..] = octets else { return };
    let lf_ends = lf_ends % 2 == 0;
    let whole = cut(wire, lf_ends, usize::MAX);
    assert_eq!(whole, cut(wire, lf_ends, usize::from(*size) + 1));
    assert_eq!(whole.1, plain(wire, lf_ends).1);
    if whole.1.is_some() {
        assert_eq!(whole.0, plain(wire, lf_ends).0);
    }
});

/// The content, and how many octets the body takes where it ends.
type Found = (Vec<u8>, Option<usize>);

fn cut(wire: &[u8], lf_ends: bool, size: usize) -> Found {
    let (mut body, mut content, mut at) = (Body::new(lf_ends), Vec::new(), 0);
    for piece in wire.chunks(size) {
        let (mut rest, mut idle) = (piece, 0);
        while !rest.is_empty() {
            let step = body.step(rest);
            idle = if step.consumed == 0 { idle + 1 } else { 0 };
            assert!(idle < 2, "a step must get on");
            content.extend_from_slice(step.content);
            at += step.consumed;
            rest = &rest[step.consumed..];
            if step.end {
                return (content, Some(at));
            }
        }
    }
    (content, None)
}

/// Line by line.
fn plain(wire: &[u8], lf_ends: bool) -> Found {
    let (mut content, mut at) = (Vec::new(), 0);
    for line in wire.split_inclusive(|&octet| octet == b'\n') {
        at += line.len();
        if line == b".\r\n" || lf_ends && line == b".\n" {
            return (content, Some(at));
        }
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    (content, None)
}
