//! `poptap sessions export`: one session for other programs.
//!
//! ```text
//! records ── wire ─→ tcp ─→ pcapng     what passed on the client's hop, as packets
//!        └── mail ─→ eml, mbox         the messages that were kept whole
//! ```
//!
//! `wire` puts octets where the record has numbers, out of what was kept ([`Kept`](super::kept::Kept)), or else out of `filler`;
//! `stuffing` puts dots before dots. `output` writes files that are whole or not there.

mod filler;
mod mail;
pub(super) mod output;
mod pcapng;
mod stuffing;
mod tcp;
mod wire;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use self::{
    mail::{Harvest, Messages},
    output::Draft,
    wire::{Losses, Wire},
};
use super::{InspectError, View, Which, each_record, human, show};
use crate::record::schema::Record;

/// What a session is exported as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// What `sessions show` prints.
    #[default]
    Text,
    /// The records as JSON Lines.
    Jsonl,
    /// The client's hop in clear text as TCP packets, for Wireshark and tshark.
    Pcapng,
    /// A file for each message that was kept whole; --output names the directory.
    Eml,
    /// One mailbox (mboxrd) with the messages that were kept whole.
    Mbox,
}

/// What is to be exported, and where to.
#[derive(Clone, Copy, Debug)]
pub struct Export<'a> {
    /// The store.
    pub directory: &'a Path,
    /// The session.
    pub which: &'a Which,
    /// As what.
    pub format: ExportFormat,
    /// The file, or with [`ExportFormat::Eml`] the directory; standard output otherwise.
    pub output: Option<&'a Path>,
    /// Whether files may be replaced.
    pub force: bool,
    /// Octets that may stand in the place of what was not kept, at most ([`ExportFormat::Pcapng`]).
    pub filler: u64,
}

/// Why a session was not exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The session could not be read, or standard output not be written.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// Something is there already.
    #[error("`{}` exists, and was left as it is; --force replaces it", .0.display())]
    Exists(PathBuf),
    /// A file or directory could not be made.
    #[error("could not make `{}`: {cause}", place.display())]
    Create {
        /// Which.
        place: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// There is no message to be exported.
    #[error(
        "no message of this session was kept whole, so nothing was written ({} left out); \
         `run --content full` keeps messages",
        human::plural(*.0, "message")
    )]
    NothingKept(u64),
}

impl ExportError {
    fn create(place: &Path, cause: io::Error) -> Self {
        Self::Create { place: place.to_owned(), cause }
    }
}

impl From<io::Error> for ExportError {
    fn from(error: io::Error) -> Self {
        Self::Inspect(error.into())
    }
}

/// Exports a session. What the record could not tell is counted on `err`.
///
/// # Errors
///
/// As [`show`]; and when a file is there already or cannot be made, or there is no message to be exported. A closed pipe is no
/// error.
pub fn export(export: &Export<'_>, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), ExportError> {
    match (export.format, export.output) {
        (ExportFormat::Eml, Some(folder)) => eml(export, folder, err),
        (ExportFormat::Eml, None) => eml(export, Path::new("."), err),
        (_, Some(place)) => {
            let mut draft = Draft::new(place, export.force)?;
            write(export, &mut draft, err)?;
            draft.publish()
        }
        (_, None) => match write(export, out, err) {
            Err(ExportError::Inspect(error)) if error.is_closed_pipe() => Ok(()),
            other => other,
        },
    }
}

fn write(export: &Export<'_>, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), ExportError> {
    let view = View { json: export.format == ExportFormat::Jsonl, ..View::default() };
    match export.format {
        ExportFormat::Pcapng => pcapng(export, out, err),
        ExportFormat::Mbox => mbox(export, out, err),
        _ => Ok(show(export.directory, export.which, view, out, err)?),
    }
}

fn pcapng(export: &Export<'_>, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), ExportError> {
    let mut wire = Wire::new(export.directory, export.filler, &mut *out);
    each(export, err, |record| Ok(wire.record(record)?))?;
    wire.finish()?;
    let losses = wire.losses();
    out.flush()?;
    Ok(report(losses, err)?)
}

fn report(losses: Losses, err: &mut dyn Write) -> io::Result<()> {
    if losses.nameless {
        writeln!(err, "the beginning of the session is missing: the addresses are made up")?;
    }
    if losses.filled > 0 {
        writeln!(err, "{} not kept: filler stands in their place", human::plural(losses.filled, "octet"))?;
    }
    if losses.refused > 0 {
        let octets = human::plural(losses.refused, "octet");
        writeln!(err, "{octets} more not kept, and left out: that would be more filler than --max-octets allows")?;
    }
    if losses.missing > 0 {
        writeln!(err, "{} not recorded: left out, as if the capture had lost them", human::plural(losses.missing, "octet"))?;
    }
    Ok(())
}

fn mbox(export: &Export<'_>, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), ExportError> {
    let mut messages = Messages::new(export.directory);
    each(export, err, |record| match messages.of(record) {
        Some((_, mut message)) => Ok(mail::mbox(record, &mut message, out)?),
        None => Ok(()),
    })?;
    out.flush()?;
    harvested(messages.harvest, err)
}

fn eml(export: &Export<'_>, folder: &Path, err: &mut dyn Write) -> Result<(), ExportError> {
    let mut messages = Messages::new(export.directory);
    each(export, err, |record| match messages.of(record) {
        Some((number, mut message)) => {
            output::folder(folder)?;
            mail::eml(folder, &record.session, number, export.force, &mut message)
        }
        None => Ok(()),
    })?;
    harvested(messages.harvest, err)
}

fn harvested(harvest: Harvest, err: &mut dyn Write) -> Result<(), ExportError> {
    let Harvest { written, left_out } = harvest;
    if written == 0 {
        return Err(ExportError::NothingKept(left_out));
    }
    let left_out = (left_out > 0).then(|| format!(", {left_out} left out: not kept whole"));
    writeln!(err, "{} written{}", human::plural(written, "message"), left_out.unwrap_or_default())?;
    Ok(())
}

/// Visits the records of the session up to the first failure.
fn each(
    export: &Export<'_>,
    err: &mut dyn Write,
    mut visit: impl FnMut(&Record) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let mut result = Ok(());
    let mut visit = |record: Record| {
        if result.is_ok() {
            result = visit(&record);
        }
    };
    each_record(export.directory, export.which, &mut visit, err)?;
    result
}

#[cfg(test)]
mod tests;
