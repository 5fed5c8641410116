//! Who the process is.

use toml::Spanned;

use crate::config::{Process, fault::Fault, process::ProcessSection};

use super::Resolver;

impl Resolver<'_> {
    pub(super) fn process(&mut self, section: &ProcessSection) -> Process {
        let user = self.account("user", self.args.user.clone(), section.user.as_ref());
        let group = self.account("group", self.args.group.clone(), section.group.as_ref());
        if group.is_some() && user.is_none() && !self.is_broken(&["user"]) {
            let fault =
                Fault::new("`group` without `user` would change nothing that matters", "name the user too, or leave both out");
            self.fault(fault, section.group.as_ref().map(Spanned::span));
        }
        let core_dumps = section.core_dumps.unwrap_or_default();
        if core_dumps {
            self.warnings.push("`process.core_dumps` is on: a crash writes passwords and mail to disk".to_owned());
        }
        Process { user, group, sandbox: section.sandbox.unwrap_or_default(), core_dumps }
    }

    /// That it exists is found out when it is needed, on the host where it is needed.
    fn account(&mut self, key: &str, flag: Option<String>, in_file: Option<&Spanned<String>>) -> Option<String> {
        let span = in_file.filter(|_| flag.is_none()).map(Spanned::span);
        let name = flag.or_else(|| in_file.map(|name| name.get_ref().clone()))?;
        if name.is_empty() || name.contains(['\0', ':', '\n']) {
            self.fault(Fault::new(format!("`{key}` is not the name of an account"), "write a name such as `poptap`"), span);
        }
        Some(name)
    }
}
