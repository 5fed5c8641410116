//! The transcript store's settings.

use std::time::Duration;

use toml::Spanned;

use crate::config::{
    ContentPolicy, Place, Retention, Streams, Transcript,
    file::{KeepSection, TranscriptSection},
    store::place,
};

use super::Resolver;

const DAY: Duration = Duration::from_secs(86_400);
const MIB: u64 = 1 << 20;

impl Resolver<'_> {
    /// `None` when it is turned off, and when there is no place for it, which is noted as a fault.
    pub(super) fn transcript(&mut self, section: &TranscriptSection) -> Option<Transcript> {
        let asked_for = self.args.transcript.is_some() || section.enabled.unwrap_or(true);
        if self.args.no_transcript || !asked_for {
            return None;
        }
        let place = self.transcript_place(section)?;
        let transcript = Transcript {
            place,
            record: section.record.unwrap_or_default(),
            content: self.args.content.or(section.content).unwrap_or_default(),
            hash: section.hash.unwrap_or_default(),
            listings: section.listings.unwrap_or_default(),
            user: section.user.unwrap_or_default(),
            reveal_credentials: self.args.reveal_credentials,
            rotate_size: section.rotate_size.map_or(64 * MIB, |size| size.0),
            rotate_age: section.rotate_age.map_or(DAY, |age| age.0),
            compress: section.compress.unwrap_or(true),
            keep_events: retention(&section.keep_events, 7),
            keep_sessions: retention(&section.keep_sessions, 90),
            audit_rows: section.audit_rows.map_or(100_000, |rows| rows as usize),
            audit_keep: section.audit_keep.map_or(DAY * 400, |keep| keep.0),
            buffer: section.buffer.map_or(8 * MIB, |size| size.0),
            on_full: section.on_full.unwrap_or_default(),
            wait_limit: section.wait_limit.map_or(Some(Duration::from_secs(5)), |limit| limit.0),
            on_error: section.on_error.unwrap_or_default(),
        };
        self.warn_of(&transcript);
        Some(transcript)
    }

    fn transcript_place(&mut self, section: &TranscriptSection) -> Option<Place> {
        let chosen = self.args.transcript.as_deref().or(section.dir.as_ref().map(|dir| dir.get_ref().as_path()));
        if chosen.is_some_and(|path| path.as_os_str().is_empty()) {
            let span = if self.args.transcript.is_some() { None } else { section.dir.as_ref().map(Spanned::span) };
            let hint = "name a directory, or leave it out for the default place";
            self.fault(super::Fault::new("the transcript's directory has an empty name", hint), span);
            return None;
        }
        match place(chosen, self.environment) {
            Ok(place) => Some(place),
            Err(fault) => {
                if !self.is_broken(&["transcript", "dir"]) {
                    self.fault(fault, None);
                }
                None
            }
        }
    }

    fn warn_of(&mut self, transcript: &Transcript) {
        if transcript.reveal_credentials {
            self.warnings.push("passwords are written into the transcript: `--reveal-credentials`".to_owned());
        }
        if transcript.content != ContentPolicy::None {
            if transcript.record == Streams::Sessions {
                self.warnings.push("no message content is kept: `record = \"sessions\"` writes summaries only".to_owned());
            } else if transcript.place == Place::Stdout {
                self.warnings.push("no message content is kept: the transcript goes to standard output".to_owned());
            }
        }
    }
}

fn retention(section: &KeepSection, days: u32) -> Retention {
    Retention {
        age: section.age.map_or(DAY * days, |age| age.0),
        octets: section.size.map_or(1024 * MIB, |size| size.0),
        segments: section.segments.map_or(10_000, std::num::NonZero::get),
    }
}
