//! The sample messages. Every name in them is made up, and every address is in a domain that is reserved for examples.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::mailbox::Message;

/// The sample, from plain to large.
pub(super) fn sample() -> Vec<Message> {
    vec![
        Message::new("demo-1-welcome", WELCOME.as_bytes()),
        Message::new("demo-2-supper", SUPPER.as_bytes()),
        Message::new("demo-3-dots", DOTS.as_bytes()),
        Message::new("demo-4-latin1", LATIN1),
        Message::new("demo-5-invoice", invoice().as_bytes()),
        Message::new("demo-6-tides", tides().as_bytes()),
    ]
}

const WELCOME: &str = "\
Return-Path: <postmaster@example.net>
Received: from mail.example.net (mail.example.net [192.0.2.25])
\tby pop.example.net with ESMTPS; Mon, 02 Nov 2026 07:58:12 +0000
Date: Mon, 02 Nov 2026 07:58:11 +0000
From: Postmaster <postmaster@example.net>
To: demo@example.net
Subject: Your new mailbox
Message-ID: <20261102075811.4711@example.net>
MIME-Version: 1.0
Content-Type: text/plain; charset=us-ascii

Hello,

this mailbox lives in the memory of one process and is gone when that
process ends. Delete what you like: it comes back with the next session.

The session that brought you this message is in the transcript. Its text
is not, unless you asked for that.

Postmaster
";

const SUPPER: &str = "\
Date: Tue, 03 Nov 2026 18:20:45 +0100
From: =?utf-8?Q?Zo=C3=AB_Lindqvist?= <zoe@example.org>
To: demo@example.net
Subject: =?utf-8?Q?Supper_on_Friday=3F_=F0=9F=8D=B2?=
Message-ID: <c0ffee-3@example.org>
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary=\"=_supper_7f3a\"

This part is for programs that do not know MIME.

--=_supper_7f3a
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

Hej! Supper at ours on Friday, 19:30? There is soup — Jürgen’s, with
crème fraîche — and afterwards blåbärspaj. 🍲

Zoë
--=_supper_7f3a
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: 8bit

<p>Hej! Supper at ours on <b>Friday, 19:30</b>? There is soup — Jürgen’s,
with crème fraîche — and afterwards <i>blåbärspaj</i>. 🍲</p>
<p>Zoë</p>
--=_supper_7f3a--
";

/// Lines that begin with dots, one of them a dot alone, and lines that look like a server speaking.
const DOTS: &str = "\
Date: Wed, 04 Nov 2026 09:02:30 -0500
From: Ivo Marsh <ivo@example.com>
To: demo@example.net
Subject: the script that stops half-way
Message-ID: <dots.1@example.com>
MIME-Version: 1.0
Content-Type: text/plain; charset=us-ascii

You asked why my backup script loses the rest of the message. Here it is:

#!/bin/sh
. ./settings
cat <<END
.
..
.hidden files are listed too
END

My old mail program showed everything up to the dot that stands alone.
The server's log had these lines at that moment:

+OK 512 octets
-ERR unknown command
STLS

Ivo
";

/// 8-bit text in ISO-8859-1: as octets these letters are not UTF-8.
const LATIN1: &[u8] = b"\
Date: Thu, 05 Nov 2026 11:47:00 +0100
From: =?iso-8859-1?Q?Andr=E9_Gar=E7on?= <andre@example.org>
To: demo@example.net
Subject: =?iso-8859-1?Q?No=EBl_=E0_la_mer?=
Message-ID: <19980512.latin1@example.org>
MIME-Version: 1.0
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: 8bit

Ch\xe8res amies, chers amis,

cette ann\xe9e nous f\xeatons No\xebl \xe0 la mer. Le trajet co\xfbte 19 \xa3,
le caf\xe9 du port est d\xe9j\xe0 r\xe9serv\xe9.

\xc0 bient\xf4t,
Andr\xe9
";

/// A message with a table as its attachment, in base64.
fn invoice() -> String {
    let table = "item;quantity;price\r\nrope, 10 mm;25;1.20\r\nshackle;4;6.75\r\npaint, red;2;18.40\r\nbrush;3;4.10\r\n";
    format!("{INVOICE}{}--=_invoice_19--\n", wrapped(&STANDARD.encode(table)))
}

const INVOICE: &str = "\
Date: Fri, 06 Nov 2026 16:05:09 +0000
From: Harbour Supplies <accounts@example.com>
To: demo@example.net
Subject: Invoice 2026-1187
Message-ID: <inv-2026-1187@example.com>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=\"=_invoice_19\"

--=_invoice_19
Content-Type: text/plain; charset=us-ascii

Dear customer,

please find the items of your order in the attached table.

--=_invoice_19
Content-Type: text/csv; charset=us-ascii; name=\"invoice-2026-1187.csv\"
Content-Disposition: attachment; filename=\"invoice-2026-1187.csv\"
Content-Transfer-Encoding: base64

";

/// Base64 in lines of at most 76 characters (RFC 2045 §6.8).
fn wrapped(base64: &str) -> String {
    base64.as_bytes().chunks(76).flat_map(|line| line.iter().copied().map(char::from).chain(['\n'])).collect()
}

/// Readings of a tide gauge: about 1 MiB of them.
fn tides() -> String {
    let readings = (0..READINGS).map(reading);
    std::iter::once(TIDES.to_owned()).chain(readings).collect()
}

/// Readings in the large message; with their line ends 45 octets each.
const READINGS: u32 = 23_300;

const TIDES: &str = "\
Date: Sat, 07 Nov 2026 00:00:03 +0000
From: Gauge 12 <gauge-12@example.net>
To: demo@example.net
Subject: Gauge 12: all readings since the last service
Message-ID: <gauge12.20261107@example.net>
MIME-Version: 1.0
Content-Type: text/plain; charset=us-ascii

   no  minute    level   wind  air   remark
";

/// One line: a tide of two waves, in whole millimetres, so that it is the same on every machine.
fn reading(number: u32) -> String {
    let minute = number * 10;
    let wave = |period: u32, height: u32| (minute % period).abs_diff(period / 2) * height / (period / 2);
    let (level, wind, air) = (wave(745, 2_900) + wave(21_263, 800), minute * 7 % 23, minute * 11 % 17);
    let remark = if number.is_multiple_of(96) { "checked" } else { "-------" };
    format!("{number:>5} {minute:>7}  {level:>4} mm {wind:>2} m/s {air:>2} C  {remark}\n")
}
