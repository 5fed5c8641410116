//! Who the process is, and what it may touch.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

/// Who the process is, and what it may touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// The user that it becomes when everything is bound; not empty.
    pub user: Option<String>,
    /// The group; the user's own when left out. Only with `user`; not empty.
    pub group: Option<String>,
    /// Whether the kernel is told which files it may use.
    pub sandbox: SandboxPolicy,
    /// Whether its memory, with passwords in it, may be written to disk when it crashes.
    pub core_dumps: bool,
}

/// Whether the kernel (Landlock) is told which files the process may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SandboxPolicy {
    /// Where the kernel can.
    #[default]
    Auto,
    /// No.
    Off,
    /// Nothing starts without it.
    Required,
}

/// Who the process is, and what it may touch.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProcessSection {
    /// The user that poptap becomes when its listeners are bound. It must have been started as root.
    #[schemars(with = "Option<String>")]
    pub(super) user: Option<Spanned<String>>,
    /// The group; the user's own when left out.
    #[schemars(with = "Option<String>")]
    pub(super) group: Option<Spanned<String>>,
    /// Whether the kernel (Landlock) keeps poptap to the files that are configured.
    pub(super) sandbox: Option<SandboxPolicy>,
    /// Whether a crash may leave a core dump, with passwords in it.
    pub(super) core_dumps: Option<bool>,
}
