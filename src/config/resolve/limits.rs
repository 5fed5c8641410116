//! Bounds in number and size.

use std::{num::NonZero, time::Duration};

use toml::Spanned;

use crate::config::{Limits, fault::Fault, file::LimitsSection, values::Period};

use super::Resolver;

const TEN_MINUTES: Duration = Duration::from_secs(600);

impl Resolver<'_> {
    pub(super) fn limits(&mut self, section: &LimitsSection) -> Limits {
        let exempt = section.exempt.as_ref().map_or_else(Vec::new, |exempt| {
            let hint = "name networks, or leave out the limits that nobody is to be held to";
            self.networks(exempt, || Fault::new("`limits.exempt` would exempt everybody", hint))
        });
        let or = |period: Option<Period>, otherwise: Duration| period.map_or(otherwise, |period| period.0);
        Limits {
            connections: section.connections.map_or(1000, NonZero::get),
            sessions_per_client: section.sessions_per_client.map(NonZero::get),
            sessions_per_user: section.sessions_per_user.map(NonZero::get),
            login_failures: self.login_failures(section),
            login_window: or(section.login_window, TEN_MINUTES),
            login_block: or(section.login_block, TEN_MINUTES),
            login_delay: self.login_delay(section),
            commands: section.commands.map(NonZero::get),
            octets: section.octets.map(|size| size.0),
            tracked_addresses: section.tracked_addresses.map_or(65_536, NonZero::get),
            exempt,
            outstanding: section.outstanding.map_or(1000, NonZero::get),
            command_line: self.within(section.command_line.as_ref(), 64..=4000, 512, "64 to 4000 octets"),
            sasl_line: self.sasl_line(section),
        }
    }

    fn sasl_line(&mut self, section: &LimitsSection) -> u64 {
        let octets = section.sasl_line.as_ref().map(|size| Spanned::new(size.span(), size.get_ref().0));
        self.within(octets.as_ref(), 1 << 10..=1 << 20, 64 << 10, "1 KiB to 1 MiB")
    }

    /// Each that counts is remembered with its time.
    fn login_failures(&mut self, section: &LimitsSection) -> Option<usize> {
        let failures = section.login_failures.as_ref()?;
        let count = usize::try_from(failures.get_ref().get()).unwrap_or(usize::MAX);
        if count > Limits::FAILURES {
            let message = format!("`limits.login_failures` is {count}, and no more than {} are remembered", Limits::FAILURES);
            self.fault(Fault::new(message, "write a smaller number, such as 10"), Some(failures.span()));
        }
        Some(count)
    }

    fn login_delay(&mut self, section: &LimitsSection) -> Option<Duration> {
        let delay = section.login_delay.as_ref()?;
        if delay.get_ref().0 > Limits::LONGEST_DELAY {
            let (delay, longest) = (delay.get_ref(), Period(Limits::LONGEST_DELAY));
            self.warnings.push(format!("`limits.login_delay` is {delay}: no reply is held back for longer than {longest}"));
        }
        Some(delay.get_ref().0)
    }
}
