//! A mailbox of messages that mail software gets wrong.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

/// The messages, as they lie on disk: lines end in LF alone.
pub(crate) fn messages() -> Vec<Vec<u8>> {
    vec![
        message("plain", b"Hello.\n"),
        multipart(),
        message("eight-bit", b"Gr\xfc\xdfe, na\xc3\xafve, \xff\xfe\x80\n"),
        message("dots", b".\n..\n...\n.leading dot\nthe end of a sentence.\n.\n\n.\n"),
        message("nul", b"before\0after\n\0\n"),
        message("long-lines", &[vec![b'x'; 10_000], b"\n.".to_vec(), vec![b'y'; 10_000], b"\n".to_vec()].concat()),
        message("empty-body", b""),
        b"Subject: header-only\nFrom: tim@example.com\n".to_vec(),
        message("looks-like-replies", b"STLS\n+OK 3 messages\n-ERR no such message\n+ \nCAPA\nSTLS\n.\n+OK\nQUIT\n"),
        message("no-final-newline", b"the last line just stops"),
        message("blank-lines", b"\n\n\n\n"),
        large(),
    ]
}

/// Write them as a Maildir that no server needs to change: they lie in `cur`, in order of their names.
pub(crate) fn write(maildir: &Path) {
    for folder in ["cur", "new", "tmp"] {
        fs::create_dir_all(maildir.join(folder)).unwrap();
    }
    for (index, message) in messages().iter().enumerate() {
        let name = format!("{}.M{index}P1.localhost:2,S", 1_700_000_000 + index);
        fs::write(maildir.join("cur").join(name), message).unwrap();
    }
}

/// Deliver one more message to a Maildir, as any delivery agent does.
pub(crate) fn deliver(maildir: &Path) {
    let message = message("delivered-later", b"It came between two polls.\n");
    let name = "1800000000.M0P1.localhost";
    fs::write(maildir.join("tmp").join(name), &message).unwrap();
    fs::rename(maildir.join("tmp").join(name), maildir.join("new").join(name)).unwrap();
}

/// Every message of a Maildir, with the name of its file.
pub(crate) fn read(maildir: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let entries = ["cur", "new"].into_iter().flat_map(|folder| fs::read_dir(maildir.join(folder)).unwrap());
    entries.map(|entry| entry.unwrap()).map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect()
}

/// A message as POP3 sends it, dot-stuffing aside: each line ends in CR LF, the last one too.
pub(crate) fn as_sent(stored: &[u8]) -> Vec<u8> {
    let mut sent = Vec::with_capacity(stored.len() + stored.len() / 32);
    for line in stored.split_inclusive(|octet| *octet == b'\n') {
        sent.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        sent.extend_from_slice(b"\r\n");
    }
    sent
}

fn message(subject: &str, body: &[u8]) -> Vec<u8> {
    let headers = format!(
        "From: Eve <eve@example.com>\nTo: tim@example.com\nSubject: {subject}\nDate: Mon, 2 Nov 2026 10:00:00 +0000\n\
         Message-ID: <{subject}@example.com>\n\n"
    );
    [headers.as_bytes(), body].concat()
}

fn multipart() -> Vec<u8> {
    let text = "From: Eve <eve@example.com>\nTo: tim@example.com\nSubject: =?utf-8?q?caf=C3=A9?=\n\
                Date: Mon, 2 Nov 2026 10:00:00 +0000\nMessage-ID: <multipart@example.com>\nMIME-Version: 1.0\n\
                Content-Type: multipart/mixed; boundary=\"=_.\"\n\npreamble\n--=_.\nContent-Type: text/plain\n\ntext\n\
                --=_.\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\nAAECAwQF\n--=_.--\n";
    text.into()
}

/// 2 MiB, of lines that all differ, so that a lost or doubled piece shows.
fn large() -> Vec<u8> {
    let mut body = Vec::new();
    for number in 0.. {
        if body.len() >= 2 * 1024 * 1024 {
            break;
        }
        body.extend_from_slice(format!("{number:08} . the quick brown fox jumps over the lazy dog\n").as_bytes());
    }
    message("large", &body)
}
