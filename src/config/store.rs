//! Where transcripts are, for `run` and for `sessions` alike.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use crate::cli::StoreArgs;

use super::{
    HandedOver, Place,
    fault::{Fault, Faults},
    handed_over, reading,
};

/// The variables that tell where state is kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    pub(super) state_directory: Option<OsString>,
    pub(super) xdg_state_home: Option<OsString>,
    pub(super) home: Option<OsString>,
    /// Sockets; `None` where that is not known.
    pub(super) handed_over: Option<Vec<HandedOver>>,
}

impl Environment {
    pub(super) fn of_process() -> Self {
        Self {
            state_directory: env::var_os("STATE_DIRECTORY"),
            xdg_state_home: env::var_os("XDG_STATE_HOME"),
            home: env::var_os("HOME"),
            handed_over: handed_over::known(),
        }
    }

    /// Where transcripts are when nothing else is said.
    fn transcript(&self) -> Option<PathBuf> {
        self.systemd().map(|path| path.join("transcript")).or_else(|| self.of_user())
    }

    /// Where the shield remembers messages when nothing else is said.
    pub(super) fn shield(&self) -> Option<PathBuf> {
        self.systemd().or_else(|| self.of_user()).map(|path| path.join("shield"))
    }

    /// systemd's state directory.
    fn systemd(&self) -> Option<PathBuf> {
        // It separates several by colons.
        let first = |list: &OsString| env::split_paths(list).next();
        self.state_directory.as_ref().and_then(first).filter(|path| path.is_absolute())
    }

    /// The XDG state directory, or the one that XDG falls back to.
    fn of_user(&self) -> Option<PathBuf> {
        // The XDG specification ignores relative paths.
        let absolute = |path: &OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
        let xdg = self.xdg_state_home.as_ref().and_then(absolute).map(|path| path.join("poptap"));
        let home = || self.home.as_ref().and_then(absolute).map(|path| path.join(".local/state/poptap"));
        xdg.or_else(home)
    }
}

/// The store that `sessions` reads: `--transcript`, the `dir` of the configuration file, or the default place.
///
/// Faults elsewhere in the file do not keep anybody from reading what was recorded.
///
/// # Errors
///
/// When the file cannot be read or says nothing usable about the store, and when there is no default place.
pub fn store(args: &StoreArgs) -> Result<PathBuf, Faults> {
    store_in(args, &Environment::of_process())
}

pub(super) fn store_in(args: &StoreArgs, environment: &Environment) -> Result<PathBuf, Faults> {
    let from_file = match (&args.transcript, &args.config) {
        (None, Some(config)) => directory_in(config)?,
        _ => None,
    };
    match place(args.transcript.as_deref().or(from_file.as_deref()), environment) {
        Ok(Place::Directory(directory)) => Ok(directory),
        Ok(Place::Stdout) => Err(Faults(vec![Fault::new(
            "this transcript goes to standard output, where it cannot be read again",
            "name the directory with `--transcript DIR`",
        )])),
        Err(fault) => Err(Faults(vec![fault])),
    }
}

fn directory_in(config: &Path) -> Result<Option<PathBuf>, Faults> {
    let reading = reading::read(config)?;
    if ["transcript", "dir"].iter().any(|key| reading.broken.contains(*key)) {
        return Err(Faults(reading.faults));
    }
    Ok(reading.file.transcript.dir.map(toml::Spanned::into_inner))
}

/// Where the transcript goes: what was chosen (`-` is standard output), or the default place.
pub(super) fn place(chosen: Option<&Path>, environment: &Environment) -> Result<Place, Fault> {
    match chosen {
        Some(path) if path == Path::new("-") => Ok(Place::Stdout),
        Some(path) => Ok(Place::Directory(path.to_owned())),
        None => environment.transcript().map(Place::Directory).ok_or_else(|| {
            Fault::new(
                "there is no place for transcripts: STATE_DIRECTORY, XDG_STATE_HOME and HOME are all unset",
                "name one with `--transcript DIR` or `dir` under `[transcript]`, or use `--no-transcript`",
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(state_directory: &str, xdg_state_home: &str, home: &str) -> Environment {
        let set = |value: &str| Some(OsString::from(value)).filter(|value| !value.is_empty());
        Environment {
            state_directory: set(state_directory),
            xdg_state_home: set(xdg_state_home),
            home: set(home),
            handed_over: None,
        }
    }

    #[test]
    fn the_default_place() {
        for (variables, expected) in [
            (("/var/lib/poptap:/x", "/xdg", "/home/joe"), Some("/var/lib/poptap/transcript")),
            (("", "/xdg", "/home/joe"), Some("/xdg/poptap")),
            (("", "relative", "/home/joe"), Some("/home/joe/.local/state/poptap")),
            (("", "", "/home/joe"), Some("/home/joe/.local/state/poptap")),
            (("", "", ""), None),
        ] {
            let found = place(None, &environment(variables.0, variables.1, variables.2)).ok();
            assert_eq!(found, expected.map(|path| Place::Directory(path.into())), "{variables:?}");
            let shield = environment(variables.0, variables.1, variables.2).shield();
            let beside = expected.map(|path| Path::new(path.trim_end_matches("/transcript")).join("shield"));
            assert_eq!(shield, beside, "{variables:?}");
        }
    }

    #[test]
    fn sessions_find_the_store_that_run_writes() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("p.toml");
        std::fs::write(&config, "[limits]\nconnections = 'x'\n[transcript]\ndir = '/from/file'\n").unwrap();
        let found = |transcript: Option<&str>, config: Option<&Path>| {
            let args = StoreArgs { transcript: transcript.map(PathBuf::from), config: config.map(Path::to_owned) };
            store_in(&args, &environment("", "/xdg", "")).map_err(|faults| faults.to_string())
        };
        assert_eq!(found(Some("/flag"), Some(&config)).unwrap(), Path::new("/flag"));
        assert_eq!(found(None, Some(&config)).unwrap(), Path::new("/from/file"));
        assert_eq!(found(None, None).unwrap(), Path::new("/xdg/poptap"));
        assert!(found(Some("-"), None).unwrap_err().contains("standard output"));
        assert!(found(None, Some(Path::new("/nowhere.toml"))).unwrap_err().contains("/nowhere.toml"));
        std::fs::write(&config, "[transcript]\ndir = 5\n").unwrap();
        assert!(found(None, Some(&config)).unwrap_err().contains("p.toml:2:7"));
    }
}
