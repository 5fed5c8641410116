//! Landlock: the files that the process may use, held to by the kernel.

use std::{
    env,
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf, absolute},
};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError,
    RulesetStatus, path_beneath_rules,
};

use crate::config::{Config, KeyPair, Listener, Place, RuleAction, SandboxPolicy, Upstream};

/// The newest kernel interface that this was written for (Linux 6.10). What an older kernel does not know, it does not enforce.
const INTERFACE: ABI = ABI::V5;
/// Programs and what they are made of: a successor is started from there, and the C library's name services, the system's
/// certificates and time zones are there too.
const PROGRAMS: [&str; 5] = ["/usr", "/lib", "/lib64", "/bin", "/sbin"];
/// What resolving names, trust and the runtime read. `/etc` as a whole: its files are replaced by renaming others, and a
/// rule for a file is for that one file.
const SYSTEM: [&str; 9] = [
    "/etc",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/nscd",
    "/run/nss",
    "/proc/self",
    "/sys/fs/cgroup",
    "/dev/urandom",
];
/// Read and written.
const DEVICES: [&str; 1] = ["/dev/null"];

/// Nothing that was asked for is enforced.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel cannot do it.
    #[error(
        "cannot confine poptap to its files: this kernel has no Landlock; hint: boot with `lsm=landlock,...`, or write `sandbox = \"auto\"`"
    )]
    NotThere,
    /// The kernel refused.
    #[error("cannot confine poptap to its files: {0}; hint: `sandbox = \"auto\"` goes on without it")]
    Refused(#[from] RulesetError),
}

/// A file that the sandbox does not let poptap use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is outside of the sandbox that holds since the start; hint: restart poptap, and it is let in", .0.display())]
pub struct Outside(pub PathBuf);

/// Directories that a configuration needs, absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
}

/// What the kernel holds the process to.
#[derive(Debug)]
pub(super) enum Enforced {
    /// Nothing, since nobody wanted it.
    Off,
    /// Nothing, for this reason.
    Nothing(String),
    /// All of it, or what an older kernel knows.
    Held { places: Places, in_full: bool },
}

impl Places {
    /// What `config` names, with the directories in which those files may be replaced.
    pub(super) fn of(config: &Config, file: Option<&Path>) -> Self {
        let mut places = Self::default();
        if let Some(file) = file {
            places.read_file(file);
        }
        for listener in &config.listeners {
            places.listener(listener);
        }
        if let Some(Place::Directory(directory)) = config.transcript.as_ref().map(|transcript| &transcript.place) {
            places.write_in(directory);
        }
        let shields = config.rules.iter().any(|rule| rule.action == RuleAction::Shield);
        config.shield.dir.iter().filter(|_| shields && config.shield.remember).for_each(|directory| places.write_in(directory));
        config.log.file.iter().chain(&config.keylog).for_each(|file| places.write_in(&parent(file)));
        places
    }

    fn listener(&mut self, listener: &Listener) {
        if let Some(tls) = &listener.server_tls {
            tls.chains.iter().chain(&tls.mint).for_each(|pair| self.pair(pair));
            tls.client_ca.iter().for_each(|file| self.read_file(file));
        }
        listener.routing.iter().filter_map(|routing| routing.map_file()).for_each(|file| self.read_file(file));
        listener.all_upstreams().for_each(|upstream| self.upstream(upstream));
    }

    fn upstream(&mut self, upstream: &Upstream) {
        upstream.ca_file.iter().chain(&upstream.crl_file).for_each(|file| self.read_file(file));
        upstream.client.iter().for_each(|pair| self.pair(pair));
    }

    fn pair(&mut self, pair: &KeyPair) {
        self.read_file(&pair.cert);
        self.read_file(&pair.key);
    }

    /// Where it is, and where a link leads to: certificates are often links into an archive, and change with it.
    fn read_file(&mut self, file: &Path) {
        let behind = file.canonicalize().ok().map(|file| parent(&file));
        for directory in [Some(parent(file)), behind].into_iter().flatten() {
            add(&mut self.read, &directory);
        }
    }

    fn write_in(&mut self, directory: &Path) {
        add(&mut self.write, directory);
    }

    /// Whether everything in `wanted` is below something here.
    fn hold(&self, wanted: &Self) -> Result<(), Outside> {
        let is_below = |path: &Path, of: &[PathBuf]| of.iter().any(|place| real(path).starts_with(real(place)));
        let system = || PROGRAMS.iter().chain(&SYSTEM).map(PathBuf::from);
        let readable: Vec<_> = self.read.iter().chain(&self.write).cloned().chain(system()).collect();
        let out_of_reach = wanted.write.iter().find(|path| !is_below(path, &self.write));
        let out_of_reach = out_of_reach.or_else(|| wanted.read.iter().find(|path| !is_below(path, &readable)));
        out_of_reach.map_or(Ok(()), |path| Err(Outside(path.clone())))
    }
}

impl Enforced {
    pub(super) fn announce(&self) {
        match self {
            Self::Off => tracing::info!("no sandbox: it is off"),
            Self::Nothing(why) => tracing::warn!("no sandbox: {why}"),
            Self::Held { places, in_full } => {
                let extent = if *in_full { "in full" } else { "as far as this kernel can" };
                let written: Vec<_> = places.write.iter().map(|place| place.display().to_string()).collect();
                let written =
                    if written.is_empty() { "nowhere".to_owned() } else { format!("only in `{}`", written.join("`, `")) };
                tracing::info!("sandbox: Landlock holds {extent}; poptap writes {written}");
            }
        }
    }

    pub(super) fn admits(&self, wanted: &Places) -> Result<(), Outside> {
        match self {
            Self::Held { places, .. } => places.hold(wanted),
            Self::Off | Self::Nothing(_) => Ok(()),
        }
    }
}

/// Confines this thread, and those that it starts, to `places` and to what every program needs.
pub(super) fn enforce(policy: SandboxPolicy, places: Places) -> Result<Enforced, SandboxError> {
    if policy == SandboxPolicy::Off {
        return Ok(Enforced::Off);
    }
    places.write.iter().for_each(|directory| create(directory));
    let is_required = policy == SandboxPolicy::Required;
    match restrict(&places) {
        Ok(status) if status.ruleset == RulesetStatus::NotEnforced && is_required => Err(SandboxError::NotThere),
        Ok(status) if status.ruleset == RulesetStatus::NotEnforced => {
            Ok(Enforced::Nothing("this kernel has no Landlock".to_owned()))
        }
        Ok(status) => Ok(Enforced::Held { places, in_full: status.ruleset == RulesetStatus::FullyEnforced }),
        Err(error) if is_required => Err(error.into()),
        Err(error) => Ok(Enforced::Nothing(error.to_string())),
    }
}

fn restrict(places: &Places) -> Result<RestrictionStatus, RulesetError> {
    let look: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let devices: BitFlags<AccessFs> = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
    let write = AccessFs::from_all(INTERFACE) & !(devices | AccessFs::Execute);
    let own = env::current_exe().ok().map(|program| parent(&program));
    let trust = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    Ruleset::default()
        .handle_access(AccessFs::from_all(INTERFACE))?
        .create()?
        .add_rules(path_beneath_rules(PROGRAMS, look | AccessFs::Execute))?
        .add_rules(path_beneath_rules(own, look | AccessFs::Execute))?
        .add_rules(path_beneath_rules(SYSTEM, look))?
        .add_rules(path_beneath_rules(DEVICES, look | AccessFs::WriteFile))?
        .add_rules(path_beneath_rules(trust, look))?
        .add_rules(path_beneath_rules(&places.read, look))?
        .add_rules(path_beneath_rules(&places.write, write))?
        .restrict_self()
}

/// A rule is for a directory that exists. Whoever needs it says why it cannot be made.
fn create(directory: &Path) {
    let _ = DirBuilder::new().recursive(true).mode(0o700).create(directory);
}

fn add(places: &mut Vec<PathBuf>, directory: &Path) {
    let directory = absolute(directory).unwrap_or_else(|_| directory.to_owned());
    if !places.contains(&directory) {
        places.push(directory);
    }
}

/// Without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let existing = path.ancestors().find_map(|ancestor| Some((ancestor, ancestor.canonicalize().ok()?)));
    let Some((ancestor, real)) = existing else { return path.to_owned() };
    path.strip_prefix(ancestor).map_or_else(|_| path.to_owned(), |rest| real.join(rest))
}

fn parent(file: &Path) -> PathBuf {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}

#[cfg(test)]
mod tests {
    use std::{fs, io::ErrorKind, os::unix::fs::symlink, thread};

    use super::*;

    fn places(read: &[&Path], write: &[&Path]) -> Places {
        let owned = |paths: &[&Path]| paths.iter().map(|path| (*path).to_owned()).collect();
        Places { read: owned(read), write: owned(write) }
    }

    #[test]
    fn a_file_is_looked_for_where_it_is_and_where_its_link_leads() {
        let root = tempfile::tempdir().unwrap();
        let (live, archive) = (root.path().join("live"), root.path().join("archive"));
        for directory in [&live, &archive] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(archive.join("1.pem"), "").unwrap();
        symlink("../archive/1.pem", live.join("pop.pem")).unwrap();
        let mut found = Places::default();
        found.read_file(&live.join("pop.pem"));
        assert_eq!(found, places(&[&live, &archive.canonicalize().unwrap()], &[]));
    }

    #[test]
    fn what_is_not_below_a_place_is_outside() {
        let root = tempfile::tempdir().unwrap();
        let (certs, store) = (root.path().join("certs"), root.path().join("store"));
        let held = places(&[&certs], &[&store]);
        for (wanted, outside) in [
            (places(&[&certs], &[&store]), None),
            (places(&[&certs.join("new"), &store, Path::new("/etc/ssl")], &[&store.join("below")]), None),
            (places(&[root.path()], &[]), Some(root.path().to_owned())),
            (places(&[], &[&certs]), Some(certs.clone())),
            (places(&[], &[Path::new("/etc")]), Some("/etc".into())),
            (places(&[], &[&root.path().join("storeroom")]), Some(root.path().join("storeroom"))),
        ] {
            assert_eq!(held.hold(&wanted), outside.map_or(Ok(()), |path| Err(Outside(path))), "{wanted:?}");
        }
    }

    /// Threads that were there before are not held by it, so the other tests do not notice.
    #[test]
    fn the_kernel_holds_the_thread_to_its_places() {
        let root = tempfile::tempdir().unwrap();
        let (certs, store, elsewhere) = (root.path().join("certs"), root.path().join("store"), root.path().join("x"));
        fs::create_dir(&certs).unwrap();
        for file in [&certs.join("pop.pem"), &elsewhere] {
            fs::write(file, "").unwrap();
        }
        let held = places(&[&certs], &[&store]);
        let confined = thread::spawn(move || {
            let enforced = enforce(SandboxPolicy::Auto, held).unwrap();
            if let Enforced::Nothing(why) = enforced {
                // Without Landlock there is nothing to see, and `auto` says so.
                assert!(why.contains("Landlock"), "{why}");
                return;
            }
            let refused = |path: &Path| fs::read(path).unwrap_err().kind();
            fs::read(certs.join("pop.pem")).unwrap();
            fs::write(store.join("new"), "").unwrap();
            fs::rename(store.join("new"), store.join("renamed")).unwrap();
            assert_eq!(refused(&elsewhere), ErrorKind::PermissionDenied);
            assert_eq!(fs::write(certs.join("new.pem"), "").unwrap_err().kind(), ErrorKind::PermissionDenied);
        });
        confined.join().unwrap();
    }
}
