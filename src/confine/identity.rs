//! From root to the user that was named.

use std::{ffi::CString, io};

use nix::unistd::{Gid, Group, Uid, User, geteuid, initgroups, setgid, setuid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_keep_capabilities};

use crate::config::Process;

/// The process cannot become the user that was named.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no such account on this host.
    #[error(
        "there is no {kind} `{name}` on this host; hint: create it with `useradd --system --no-create-home {name}`, or name another one"
    )]
    Unknown {
        /// `user` or `group`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// Accounts cannot be looked up.
    #[error("cannot look up the {kind} `{name}`: {source}")]
    LookUp {
        /// `user` or `group`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// Only root can become somebody else.
    #[error(
        "cannot become the user `{user}`: poptap was not started as root; hint: start it as root, or as `{user}`, or leave `user` out"
    )]
    NotRoot {
        /// The user.
        user: String,
    },
    /// The system refused.
    #[error("cannot become the user `{user}`: {action} failed: {source}")]
    Refused {
        /// The user.
        user: String,
        /// The step that failed.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The way back is open.
    #[error("the user `{user}` could become root again: poptap does not go on")]
    WayBack {
        /// The user.
        user: String,
    },
}

/// Becomes the user, for good, with the groups that the system's tables give it; and says who that is. Without a user to become,
/// or as that user already, nothing changes.
pub(super) fn change(process: &Process, kept: CapabilitySet) -> Result<Option<String>, IdentityError> {
    let Some(name) = &process.user else { return Ok(None) };
    let user = found("user", name, User::from_name(name))?;
    let group = process.group.as_deref().map(|group| found("group", group, Group::from_name(group))).transpose()?;
    let gid = group.map_or(user.gid, |group| group.gid);
    if geteuid() == user.uid && !user.uid.is_root() {
        return Ok(Some(name.clone()));
    }
    if !geteuid().is_root() {
        return Err(IdentityError::NotRoot { user: name.clone() });
    }
    become_user(name, user.uid, gid, kept)?;
    Ok(Some(name.clone()))
}

fn found<T>(kind: &'static str, name: &str, looked_up: nix::Result<Option<T>>) -> Result<T, IdentityError> {
    let found = looked_up.map_err(|error| IdentityError::LookUp { kind, name: name.to_owned(), source: error.into() })?;
    found.ok_or_else(|| IdentityError::Unknown { kind, name: name.to_owned() })
}

/// The C library changes every thread, not that there should be another one yet.
fn become_user(name: &str, uid: Uid, gid: Gid, kept: CapabilitySet) -> Result<(), IdentityError> {
    let refused = |action| move |source| IdentityError::Refused { user: name.to_owned(), action, source };
    let c_name = CString::new(name).map_err(|error| refused("reading its name")(error.into()))?;
    if !kept.is_empty() {
        set_keep_capabilities(true).map_err(|error| refused("keeping capabilities")(error.into()))?;
    }
    initgroups(&c_name, gid).map_err(|error| refused("initgroups")(error.into()))?;
    setgid(gid).map_err(|error| refused("setgid")(error.into()))?;
    setuid(uid).map_err(|error| refused("setuid")(error.into()))?;
    if !kept.is_empty() {
        let left = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
        set_capabilities(None, left).map_err(|error| refused("keeping capabilities")(error.into()))?;
    }
    let is_root_again = !uid.is_root() && setuid(Uid::from_raw(0)).is_ok();
    if is_root_again { Err(IdentityError::WayBack { user: name.to_owned() }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_does_not_exist_is_named() {
        for (user, group, said) in
            [("no-such-user", None, "no user `no-such-user`"), ("root", Some("no-such-group"), "no group `no-such-group`")]
        {
            let process = Process { user: Some(user.to_owned()), group: group.map(str::to_owned), ..Process::default() };
            let refused = change(&process, CapabilitySet::empty()).unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
        }
        assert_eq!(change(&Process::default(), CapabilitySet::empty()).unwrap(), None);
    }
}
