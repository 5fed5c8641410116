//! A configuration file of any text: it is refused with a reason, or what it means can be said again, and means the same.
#![no_main]

use std::fs;

use clap::Parser as _;
use libfuzzer_sys::fuzz_target;
use poptap::{
    cli::{Cli, Command},
    config::{self, Config, Faults},
};
use tempfile::TempDir;

fuzz_target!(|text: &str| {
    // What names files would have it look at this machine's.
    if text.contains("/dev/") || text.contains("/proc/") {
        return;
    }
    match load(text) {
        Ok(config) => {
            let again = config::effective(&config).expect("a configuration can be said");
            let same = load(&again).unwrap_or_else(|faults| panic!("{faults}\n{again}"));
            assert_eq!(config, same, "{again}");
        }
        Err(faults) => assert!(!faults.to_string().is_empty()),
    }
});

fn load(text: &str) -> Result<Config, Faults> {
    thread_local!(static FOLDER: TempDir = tempfile::tempdir_in(memory()).expect("a directory"));
    FOLDER.with(|folder| {
        let path = folder.path().join("poptap.toml");
        fs::write(&path, text).expect("a file");
        let words = ["poptap", "check", "--config", path.to_str().expect("a plain name")];
        let Command::Check(args) = Cli::try_parse_from(words).expect("arguments").command else { unreachable!() };
        config::load(&args).map(|loaded| loaded.config)
    })
}

/// Where files cost little.
fn memory() -> &'static str {
    if fs::metadata("/dev/shm").is_ok_and(|found| found.is_dir()) { "/dev/shm" } else { "/tmp" }
}
