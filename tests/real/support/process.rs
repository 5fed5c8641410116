//! Child processes with a deadline.

use std::fmt::Write as _;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use super::PATIENCE;

/// Run a command to its end; fail with all it printed when it fails, or when it takes longer than [`PATIENCE`].
pub(crate) fn run(command: &mut Command) -> Output {
    let output = run_unchecked(command);
    assert!(output.status.success(), "{}", describe(command, &output));
    output
}

/// Run a command to its end, whatever that is; fail when it takes longer than [`PATIENCE`].
pub(crate) fn run_unchecked(command: &mut Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap_or_else(|error| panic!("start {command:?}: {error} (run tests/run, which installs it)"));
    let pid = child.id();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    if let Ok(output) = receiver.recv_timeout(PATIENCE) {
        return output.expect("collect the output of a child");
    }
    signal(pid, "KILL");
    let output = receiver.recv().unwrap().expect("collect the output of a child");
    panic!("took too long: {}", describe(command, &output));
}

/// Send a signal, by name, to one process.
pub(crate) fn signal(pid: u32, name: &str) {
    // The shell's own `kill`: a separate program of that name is not installed everywhere.
    let status = Command::new("sh").args(["-c", "kill -s \"$1\" \"$2\"", "sh", name, &pid.to_string()]).status();
    assert!(status.unwrap().success(), "send SIG{name} to process {pid}");
}

/// Wait for a child, but not for ever: after [`PATIENCE`] it is killed, and `None` is returned.
pub(crate) fn wait(mut child: Child) -> Option<ExitStatus> {
    let pid = child.id();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait()));
    if let Ok(status) = receiver.recv_timeout(PATIENCE) {
        return Some(status.expect("wait for a child"));
    }
    signal(pid, "KILL");
    None
}

/// What ran, how it ended and what it printed.
pub(crate) fn describe(command: &Command, output: &Output) -> String {
    let mut text = format!("{command:?}: {}", output.status);
    for (name, octets) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        let _ = write!(text, "\n--- {name}\n{}", String::from_utf8_lossy(&octets[..octets.len().min(8192)]));
    }
    text
}
