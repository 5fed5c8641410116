//! Rules as a user writes them.

use std::{fs, sync::Arc};

use clap::Parser as _;
use poptap::{
    cli::{Cli, Command},
    config::{self, Config},
    policy::Rules,
};

/// The configuration that a file with these rules makes, with an upstream called `server`.
pub fn configuration(rules: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("poptap.toml");
    let head = "[[upstream]]\nname = \"server\"\nurl = \"pop3://127.0.0.1:1\"\n[transcript]\nenabled = false\n[shield]\nremember = false\n";
    fs::write(&path, format!("{head}{rules}\n")).unwrap();
    let arguments = ["poptap", "check", "--config", path.to_str().unwrap()];
    let Command::Check(args) = Cli::try_parse_from(arguments).unwrap().command else { panic!("check was asked for") };
    config::load(&args).unwrap_or_else(|faults| panic!("{faults}")).config
}

/// These rules, ready for sessions.
pub fn compiled(rules: &str) -> Arc<Rules> {
    Arc::new(Rules::new(&configuration(rules).rules).unwrap())
}
