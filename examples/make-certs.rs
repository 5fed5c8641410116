//! Makes a private authority and one server certificate for trying things out; see `certs/README.md`.
//!
//! `cargo run --example make-certs -- DIR [NAME...]`, names and addresses; `localhost 127.0.0.1 ::1` without any.
#![allow(clippy::print_stderr, reason = "a program that a person runs")]

use std::{
    env,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::ExitCode,
};

use anyhow::Context as _;
use poptap::tls::{Authority, Validity};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let Some((directory, names)) = arguments.split_first().filter(|(first, _)| !first.starts_with('-')) else {
        eprintln!("usage: make-certs DIR [NAME...]");
        return ExitCode::from(64);
    };
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let names = if names.is_empty() { vec!["localhost", "127.0.0.1", "::1"] } else { names };
    match make(Path::new(directory), &names) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn make(directory: &Path, names: &[&str]) -> anyhow::Result<()> {
    let authority = Authority::new("poptap test authority")?;
    let issued = authority.issue(names, Validity::days(90))?;
    fs::create_dir_all(directory).with_context(|| format!("cannot make the directory `{}`", directory.display()))?;
    write(&directory.join("server.key"), 0o600, &issued.key_pem())?;
    write(&directory.join("server.pem"), 0o644, &issued.chain_pem)?;
    write(&directory.join("ca.pem"), 0o644, &authority.pem())?;
    eprintln!("made ca.pem, server.pem and server.key in `{}` for {}", directory.display(), names.join(", "));
    Ok(())
}

/// Writes a new file, and never over an old one.
fn write(path: &Path, mode: u32, content: &str) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(content.as_bytes())).with_context(|| format!("cannot write `{}`", path.display()))
}
