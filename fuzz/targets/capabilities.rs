//! A server's answer to CAPA, edited for the client's hop: STLS is never left where it would be refused, nothing else is
//! removed or changed, and the list ends as it did.
#![no_main]

use libfuzzer_sys::fuzz_target;
use poptap::{
    policy::{Builtin, Settings},
    pop3::{Capability, Peer},
};
use poptap_fuzz::play::{Step, play, random_pieces};

fuzz_target!(|octets: &[u8]| {
    let [cuts, said @ ..] = octets else { return };
    // One list; what came behind it would be another matter.
    let lines: Vec<&[u8]> = said.split(|&octet| octet == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
    let lines: Vec<&[u8]> = lines.into_iter().filter(|line| *line != b"." && line.len() < 400).take(50).collect();
    let listed: Vec<u8> = lines.iter().flat_map(|line| [line, &b"\r\n"[..]].concat()).collect();
    let steps = [
        Step::Says(Peer::Upstream, b"+OK ready\r\n".to_vec()),
        Step::Says(Peer::Client, b"CAPA\r\n".to_vec()),
        Step::Says(Peer::Upstream, [b"+OK\r\n", &listed[..], b".\r\n"].concat()),
    ];
    let settings = Settings { refuse_stls: true, ..Settings::default() };
    let played = play(Builtin::new(settings), &steps, &mut random_pieces(u64::from(*cuts), usize::from(*cuts) + 1));
    let kept: Vec<u8> = lines.iter().filter(|line| !is_stls(line)).flat_map(|line| [line, &b"\r\n"[..]].concat()).collect();
    assert_eq!(played.to_client, [b"+OK ready\r\n+OK\r\n", &kept[..], b".\r\n"].concat());
});

fn is_stls(line: &[u8]) -> bool {
    Capability::parse(line).is("STLS")
}
