//! `--keylog`: with its file, and only with it, Wireshark reads what passed inside TLS on either hop.

use std::fs;
use std::io::Read as _;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use crate::support::clients::isolated;
use crate::support::dovecot::{Dovecot, Mode};
use crate::support::process::{run, signal, wait};
use crate::support::proxy::Proxy;
use crate::support::wire::Wire;
use crate::support::{PATIENCE, scratch};

/// A line that only the body of the first message has.
const MARKER: &str = "Subject: plain";

#[test]
fn wireshark_decrypts_both_hops_with_the_key_log_and_neither_without() {
    let dovecot = Dovecot::start();
    for (mode, server) in [(Mode::Implicit, dovecot.implicit()), (Mode::Stls, dovecot.plain())] {
        let folder = scratch();
        let keys = folder.path().join("keys");
        let proxy = Proxy::start_with_every_listener(&dovecot, mode, &["--keylog", keys.to_str().unwrap()]);
        let client = proxy.listener(mode);
        let capture = Capture::start(&[client, server]);
        let mut wire = Wire::connect_over(mode, client, &proxy.authority()).logged_in();
        assert!(String::from_utf8(wire.ask_for_body("RETR 1")).unwrap().contains(MARKER));
        wire.quit();
        let file = folder.path().join("capture.pcapng");
        fs::write(&file, capture.finish()).unwrap();
        proxy.stop();

        assert_eq!(fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o600);
        for address in [client, server] {
            let what = format!("{mode:?}, port {}", address.port());
            let read = follow(&file, mode, address, Some(&keys));
            for expected in ["USER tim", "+OK", MARKER, "QUIT"] {
                assert!(read.contains(expected), "{what}: no {expected:?} in {read}");
            }
            let unread = follow(&file, mode, address, None);
            assert!(unread.contains("Follow: tls,ascii"), "{what}: {unread}");
            assert!(!unread.contains("USER tim") && !unread.contains(MARKER), "{what}: {unread}");
        }
    }
}

/// What Wireshark finds inside the TLS of the one connection to an address.
fn follow(capture: &Path, mode: Mode, address: SocketAddr, keys: Option<&Path>) -> String {
    let port = address.port();
    // Of two hops that lead to the same host, each has its own port.
    let asked = format!("tcp.dstport == {port} && tcp.flags.syn == 1");
    let stream = tshark(capture, &["-Y", &asked, "-T", "fields", "-e", "tcp.stream"]);
    assert_eq!(stream.lines().count(), 1, "connections to port {port}: {stream:?}");

    let (protocol, inside) = (format!("tcp.port=={port},tls"), format!("tls.port=={port},pop"));
    let (plain, dialogue) = (format!("tcp.port=={port},pop"), format!("follow,tls,ascii,{}", stream.trim()));
    let mut options = match mode {
        Mode::Implicit => vec!["-d", &protocol, "-d", &inside],
        Mode::Stls | Mode::Plain => vec!["-d", &plain],
    };
    let keys = keys.map(|keys| format!("tls.keylog_file:{}", keys.display()));
    options.extend(keys.iter().flat_map(|keys| ["-o", keys.as_str()]));
    options.extend(["-q", "-z", &dialogue]);
    tshark(capture, &options)
}

fn tshark(capture: &Path, options: &[&str]) -> String {
    let home = scratch();
    let mut command = isolated("tshark", home.path());
    let output = run(command.env_remove("SSLKEYLOGFILE").arg("-nr").arg(capture).args(options));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A capture of what passes on loopback from and to some ports.
struct Capture {
    child: Option<Child>,
    chunks: Receiver<Vec<u8>>,
    octets: Vec<u8>,
    end: UdpSocket,
}

/// The datagram that ends a capture: when it has been captured, all that passed before has been, too.
const END: &[u8] = b"the end of this capture";

impl Capture {
    fn start(addresses: &[SocketAddr]) -> Self {
        let end = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut filter = format!("udp port {}", end.local_addr().unwrap().port());
        for address in addresses {
            filter.extend([" or tcp port ", &address.port().to_string()]);
        }
        let mut command = Command::new("dumpcap");
        command.args(["-q", "-i", "lo", "-f", &filter, "-w", "-"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start dumpcap (run tests/run, which installs it)");
        let mut stdout = child.stdout.take().unwrap();
        let (sender, chunks) = channel();
        thread::spawn(move || {
            let mut chunk = [0; 16 * 1024];
            while let Ok(length @ 1..) = stdout.read(&mut chunk) {
                if sender.send(chunk[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut capture = Self { child: Some(child), chunks, octets: Vec::new(), end };
        // It writes a header as soon as it captures.
        capture.read_more();
        capture
    }

    /// Everything until now, as a file for `tshark`.
    fn finish(mut self) -> Vec<u8> {
        self.end.send_to(END, self.end.local_addr().unwrap()).unwrap();
        while !self.octets.windows(END.len()).any(|window| window == END) {
            self.read_more();
        }
        let child = self.child.take().unwrap();
        signal(child.id(), "INT");
        while let Ok(chunk) = self.chunks.recv_timeout(PATIENCE) {
            self.octets.extend(chunk);
        }
        assert!(wait(child).is_some_and(|status| status.success()), "dumpcap failed");
        std::mem::take(&mut self.octets)
    }

    fn read_more(&mut self) {
        let chunk = self.chunks.recv_timeout(PATIENCE);
        self.octets.extend(chunk.expect("capture on loopback: dumpcap says above why not; it needs root or CAP_NET_RAW"));
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            signal(child.id(), "KILL");
            wait(child);
        }
    }
}
