//! Exports of stores made by hand.

use std::{fs, path::Path, time::Duration};

use super::{
    pcapng::tests::{Seen, read},
    *,
};
use crate::inspect::testing::*;

const EVENTS: &str = "events-20261123T063000Z-100-1.jsonl";
const SIDE: &str = "content-20261123T063000Z-100-1.bin";
const KEPT: &str = "Subject: a\r\n\r\n.one\r\nFrom two\r\n";

fn exported(shelf: &Shelf, format: ExportFormat) -> (Result<(), ExportError>, Vec<u8>, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let which = Which::Last;
    let job = Export { directory: shelf.path(), which: &which, format, output: None, force: false, filler: 100_000 };
    let result = export(&job, &mut out, &mut err);
    (result, out, String::from_utf8(err).unwrap())
}

/// What both sides say, a connection a pair, each octet in its place; the numbers of all segments fit.
fn spoken(shelf: &Shelf) -> (Vec<[String; 2]>, Vec<Seen>, String) {
    let (result, capture, err) = exported(shelf, ExportFormat::Pcapng);
    result.unwrap();
    let seen = read(&capture);
    let mut connections: Vec<[String; 2]> = Vec::new();
    let mut next = [None; 2];
    for packet in &seen {
        let side = usize::from(packet.ports[0] == 1110);
        if packet.flags == "S" {
            connections.push(Default::default());
            next = [None; 2];
        }
        let octets = u32::try_from(packet.data.len()).unwrap();
        assert_eq!(*next[side].get_or_insert(packet.sequence), packet.sequence, "{packet:?}");
        let counted = packet.flags.contains(['S', 'F']);
        next[side] = Some(packet.sequence + octets + u32::from(counted));
        if let (true, Some(other)) = (packet.flags.contains('A'), next[1 - side]) {
            assert_eq!(packet.acknowledges, other, "{packet:?}");
        }
        connections.last_mut().unwrap()[side] += std::str::from_utf8(&packet.data).unwrap();
    }
    (connections, seen, err)
}

fn retrieved(n: u64, octets: usize, kept: &[(usize, usize)], rest: &str) -> String {
    let kept: Vec<_> =
        kept.iter().map(|(offset, length)| format!("{{\"file\":\"{SIDE}\",\"offset\":{offset},\"length\":{length}}}")).collect();
    let body = format!(
        "\"event\":\"content\",\"n\":{n},\"keyword\":\"RETR\",\"octets\":{octets},\"size\":{},\"header_size\":14,\"lines\":4,\
         \"total_us\":9,\"policy\":\"full\",\"kept\":[{}],{rest}",
        KEPT.len(),
        kept.join(",")
    );
    line("s1", 30, &body)
}

fn asked(n: u64, offset: usize, text: &str) -> String {
    let octets = text.len() + 2;
    let body = format!(
        "\"event\":\"command\",\"n\":{n},\"keyword\":\"X\",\"forwarded\":true,\"text\":\"{text}\",\"octets\":{octets},\"offset\":{offset}"
    );
    line("s1", 20, &body)
}

fn answered(n: u64, text: &str, rest: &str) -> String {
    let octets = text.len() + 2;
    line(
        "s1",
        21,
        &format!(
            "\"event\":\"reply\",\"n\":{n},\"keyword\":\"X\",\"status\":\"+OK\",\"text\":\"{text}\",\"octets\":{octets},\"latency_us\":1,{rest}"
        ),
    )
}

fn shelf(events: &[String]) -> Shelf {
    Shelf::new().with(EVENTS, opened("s1", 0) + &events.concat()).with(SIDE, KEPT)
}

#[test]
fn a_whole_message_is_stuffed_again() {
    let events = [answered(1, "+OK", r#""offset":0"#), retrieved(1, KEPT.len() + 4, &[(0, 20), (20, 10)], r#""complete":true"#)];
    let (said, seen, err) = spoken(&shelf(&events));
    assert_eq!(said, [[String::new(), format!("+OK\r\n{}.\r\n", KEPT.replace("\n.", "\n.."))]]);
    assert_eq!(err, "");
    assert_eq!(seen[0].time, Duration::from_secs(1_795_415_400));
    assert_eq!(seen.last().unwrap().time, seen[0].time + Duration::from_millis(30));
}

#[test]
fn what_was_not_kept_is_filled_up_to_its_size() {
    let size = KEPT.len();
    for (kept, expected) in [
        (&[][..], "xxxxxx\r\nxxxxxx\r\nxxxxxx\r\nxxxxx\r\n.\r\n".to_owned()),
        (&[(0, 14)], format!("{}xxxxxxx\r\nxxxxxx\r\n.\r\n", &KEPT[..14])),
        // The side file is shorter than that.
        (&[(0, 14), (29, 9)], format!("{}\nxxxxxxxxxxxxxx\r\n.\r\n", &KEPT[..14])),
    ] {
        let events = [retrieved(1, size + 4, kept, r#""complete":true"#)];
        let (said, _, err) = spoken(&shelf(&events));
        assert_eq!(said[0][1].len(), size + 4, "{}", said[0][1]);
        assert_eq!(said[0][1], expected);
        assert!(err.ends_with("octets not kept: filler stands in their place\n"), "{err}");
    }
}

#[test]
fn a_large_message_that_was_not_kept_says_so_and_one_cut_short_has_no_end() {
    let event = |complete| retrieved(1, 5000, &[], &format!("\"complete\":{complete}")).replace("\"size\":30", "\"size\":4996");
    let (said, seen, _) = spoken(&shelf(&[event(true)]));
    assert!(said[0][1].starts_with("X-Poptap: content was not kept\r\n\r\nxx") && said[0][1].ends_with("x\r\n.\r\n"));
    assert_eq!((said[0][1].len(), said[0][1].lines().count()), (5000, 5));
    assert!(seen.iter().all(|seen| seen.data.len() <= 1400));
    let (said, ..) = spoken(&shelf(&[event(false)]));
    assert_eq!((said[0][1].len(), said[0][1].ends_with("x\r\n")), (5000, true));
}

#[test]
fn withheld_lines_keep_their_length_and_poptaps_own_questions_are_not_there() {
    let line = |body: &str| line("s1", 20, body);
    let events = [
        line(r#""event":"greeting","status":"+OK","redacted":"echo","octets":12,"offset":0"#),
        line(
            r#""event":"command","n":1,"keyword":"USER","forwarded":true,"text":"USER user:0011223344556677","redacted":"user","octets":10,"offset":0"#,
        ),
        line(
            r#""event":"command","n":2,"keyword":"PASS","forwarded":true,"text":"PASS","redacted":"secret","octets":11,"offset":10"#,
        ),
        line(r#""event":"command","n":3,"keyword":"LIST","forwarded":true,"own":true,"text":"LIST","octets":6,"offset":0"#),
        answered(3, "+OK", r#""multi_line":true,"offset":12"#),
        line(r#""event":"content","n":3,"keyword":"LIST","octets":3,"size":0,"lines":0,"complete":true,"total_us":1"#),
        line(
            r#""event":"command","n":4,"keyword":"?","forwarded":true,"redacted":"unknown","line_end":"lf","octets":4,"offset":21"#,
        ),
        answered(4, "a\\\\x00b", r#""offset":20"#).replace("\"octets\":9", "\"octets\":5"),
        line(r#""event":"sasl","from":"upstream","auth":5,"octets":8,"offset":25"#),
        line(r#""event":"sasl","from":"client","auth":5,"n":6,"octets":5,"offset":25"#),
        line(r#""event":"sasl","from":"client","auth":5,"n":7,"cancel":true,"octets":3,"offset":30"#),
        line(r#""event":"client-data","n":8,"octets":8,"complete":true"#),
        line(
            r#""event":"reply","n":9,"keyword":"X","status":"+OK","text":"+OK here","local":true,"cut":true,"octets":20,"offset":0,"latency_us":1"#,
        ),
        line(
            r#""event":"closed","by":"client","reason":"quit","client_octets":41,"upstream_octets":33,"client_undelivered":0,"upstream_undelivered":0"#,
        ),
    ];
    let (said, seen, _) = spoken(&shelf(&events));
    let client = "USER use\r\nPASS xxxx\r\nxxx\nxxx\r\n*\r\nxxx\r\n.\r\n";
    assert_eq!(said, [[client.to_owned(), "+OK xxxxxx\r\na\0b\r\n+ xxxx\r\n+OK here\r\nxxxxx\r\n.\r\n".to_owned()]]);
    assert_eq!(seen.iter().filter(|seen| seen.flags.contains('F')).map(|seen| seen.ports[0]).collect::<Vec<_>>(), [50_312, 1110]);
}

#[test]
fn listings_are_there_as_far_as_they_are_known() {
    let listing = |lines: u64, octets: u64, listing: &str| {
        let body = format!(
            "\"event\":\"content\",\"n\":1,\"keyword\":\"CAPA\",\"octets\":{octets},\"size\":{},\"lines\":{lines},\"complete\":true,\"total_us\":1,\"listing\":{listing}",
            octets - 3
        );
        spoken(&shelf(&[line("s1", 1, &body)])).0[0][1].clone()
    };
    assert_eq!(listing(2, 13, r#"["TOP","UID"]"#), "TOP\r\nUID\r\n.\r\n");
    assert_eq!(listing(3, 23, r#"["TOP","[withheld]","X"]"#), "TOP\r\nxxxxxx\r\nxxxxx\r\n.\r\n");
}

#[test]
fn what_is_inside_tls_has_a_connection_of_its_own() {
    let tls = line("s1", 20, r#""event":"tls","hop":"client","mode":"stls","version":"TLSv1.3","cipher":"x""#);
    let events = [asked(1, 0, "STLS"), answered(1, "+OK", r#""offset":0"#), tls, asked(2, 6, "NOOP")];
    let (said, ..) = spoken(&shelf(&events));
    assert_eq!(said.iter().map(|[client, _]| client.as_str()).collect::<Vec<_>>(), ["STLS\r\n", "NOOP\r\n"]);
}

#[test]
fn what_is_missing_in_the_record_is_missing_in_the_packets() {
    let events = [asked(1, 0, "NOOP"), asked(3, 16, "QUIT")];
    let (result, capture, err) = exported(&shelf(&events), ExportFormat::Pcapng);
    result.unwrap();
    let numbers: Vec<_> = read(&capture).iter().filter(|seen| !seen.data.is_empty()).map(|seen| seen.sequence).collect();
    assert_eq!(numbers[1] - numbers[0], 16);
    assert_eq!(err, "10 octets not recorded: left out, as if the capture had lost them\n");
    let (_, _, err) = exported(&Shelf::new().with(EVENTS, asked(1, 0, "NOOP")), ExportFormat::Pcapng);
    // `--last` needs an opening.
    assert_eq!(err, "");
}

#[test]
fn messages_that_were_not_kept_whole_are_counted() {
    let whole = || retrieved(7, KEPT.len() + 4, &[(0, 30)], r#""complete":true"#);
    let partly = retrieved(8, KEPT.len() + 4, &[(0, 14)], r#""complete":true"#);
    let gone = retrieved(9, KEPT.len() + 4, &[(20, 30)], r#""complete":true"#);
    let shelf = shelf(&[partly.clone(), whole(), gone]);
    let (result, out, err) = exported(&shelf, ExportFormat::Mbox);
    result.unwrap();
    let expected = "From MAILER-DAEMON Mon Nov 23 06:30:00 2026\nSubject: a\n\n.one\n>From two\n\n";
    assert_eq!(
        (String::from_utf8(out).unwrap().as_str(), err.as_str()),
        (expected, "1 message written, 2 left out: not kept whole\n")
    );

    let folder = shelf.path().join("out");
    let eml = |force| {
        let job = Export {
            directory: shelf.path(),
            which: &Which::Last,
            format: ExportFormat::Eml,
            output: Some(&folder),
            force,
            filler: 0,
        };
        export(&job, &mut Vec::new(), &mut Vec::new())
    };
    eml(false).unwrap();
    assert_eq!(names(&folder), ["s1-0007.eml"]);
    assert_eq!(fs::read_to_string(folder.join("s1-0007.eml")).unwrap(), KEPT);
    assert!(matches!(eml(false), Err(ExportError::Exists(_))));
    eml(true).unwrap();
    assert!(matches!(exported(&self::shelf(&[partly]), ExportFormat::Eml).0, Err(ExportError::NothingKept(1))));
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn text_and_json_are_those_of_show() {
    let shelf = Shelf::new().with(EVENTS, conversation("s1"));
    for (format, view) in [(ExportFormat::Text, TEXT), (ExportFormat::Jsonl, JSON)] {
        let (result, out, err) = exported(&shelf, format);
        result.unwrap();
        assert_eq!((String::from_utf8(out).unwrap(), err), shelf.show("s1", view));
    }
}
