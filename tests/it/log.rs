//! The operational log of the built binary.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).map(drop).unwrap_or_default();
    }
}

#[test]
fn each_session_has_a_line_at_its_start_and_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_poptap"));
    for variable in ["POPTAP_CONFIG", "POPTAP_LOG", "RUST_LOG"] {
        command.env_remove(variable);
    }
    // Nobody serves mail on port 1: the session ends with one line for the client.
    command
        .args(["run", "pop3://127.0.0.1:1", "--listen", "0", "--log-format", "json", "--transcript"])
        .arg(folder.path().join("t"));
    let mut running = Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let log = lines(&mut running.0);

    let listening = next(&log, "listening on ");
    let address = listening["message"].as_str().unwrap().trim_start_matches("listening on ").to_owned();
    let mut said = String::new();
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("-ERR [SYS/TEMP] ") && said.lines().count() == 1, "{said}");

    let opened = next(&log, "session opened");
    let warned = next(&log, "cannot connect to `127.0.0.1:1`");
    let closed = next(&log, "session closed: the server refused the session");
    assert!(opened["session"].is_string() && opened["upstream"] == "pop3://127.0.0.1:1", "{opened}");
    assert_eq!((&opened["session"], &warned["level"]), (&closed["session"], &"WARN".into()));
    // What the verdict says is not said again.
    assert!(warned["message"].as_str().unwrap().contains("hint: ") && closed.get("detail").is_none(), "{warned} {closed}");
}

fn lines(child: &mut Child) -> Receiver<Value> {
    let (sender, receiver) = mpsc::channel();
    let reader = BufReader::new(child.stderr.take().unwrap());
    thread::spawn(move || {
        for line in reader.lines().map_while(Result::ok) {
            let Ok(()) = sender.send(serde_json::from_str(&line).unwrap()) else { break };
        }
    });
    receiver
}

/// The next line whose message begins so; others are passed over.
fn next(log: &Receiver<Value>, beginning: &str) -> Value {
    loop {
        let line = log.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("no line `{beginning}…`: {error}"));
        if line["message"].as_str().is_some_and(|message| message.starts_with(beginning)) {
            return line;
        }
    }
}
