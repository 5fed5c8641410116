//! What `run` does beside its sessions: SIGHUP exchanges certificates, and those that end soon are spoken of.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval_at},
};

use super::{Failure, exit, notify::Manager, run::announce};
use crate::{
    cli::RunArgs,
    config::{self, Loaded},
    confine::Confinement,
    server::{Reloaded, Reloader},
    tls::Expiry,
};

/// Certificates that end within this many days are warned of.
const SOON: i64 = 14;
/// How often certificates are looked at.
const DAILY: Duration = Duration::from_secs(24 * 60 * 60);

/// Reloads at each SIGHUP, and looks at the certificates once a day, for as long as the runtime lives.
pub(super) fn watch(reloader: Reloader, args: RunArgs, manager: Manager, confinement: Confinement) -> Result<(), Failure> {
    let mut hangup =
        signal(SignalKind::hangup()).map_err(|error| Failure::new(exit::SOFTWARE, format!("cannot catch signals: {error}")))?;
    warn_of_expiry(&reloader);
    let confinement = Arc::new(confinement);
    tokio::spawn(async move {
        let mut days = interval_at(tokio::time::Instant::now() + DAILY, DAILY);
        days.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                signal = hangup.recv() => match signal {
                    Some(()) if reloader.is_draining() => {
                        tracing::warn!("SIGHUP is ignored: this process accepts no more clients, and lets its sessions finish");
                    }
                    Some(()) => {
                        manager.reloading().await;
                        let done = reload(&reloader, &args, &confinement).await;
                        manager.reloaded(done).await;
                    }
                    None => return,
                },
                _ = days.tick() => warn_of_expiry(&reloader),
            }
        }
    });
    Ok(())
}

/// Whether that was possible. Files are read on a thread of their own: a slow disk holds up no session.
async fn reload(reloader: &Reloader, args: &RunArgs, confinement: &Arc<Confinement>) -> bool {
    let (working, args, confinement) = (reloader.clone(), args.clone(), Arc::clone(confinement));
    let done = tokio::task::spawn_blocking(move || try_reload(&working, &args, &confinement)).await;
    match done.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(Reloaded { opened, closed, notes }) => {
            for note in notes {
                tracing::warn!("{note}");
            }
            opened.iter().for_each(announce);
            for address in closed {
                tracing::info!("no longer listening on {address}; its sessions go on");
            }
            tracing::info!("reloaded: new sessions use the configuration as it is now");
            warn_of_expiry(reloader);
            true
        }
        Err(error) => {
            tracing::error!("reload failed, and everything stays as it was: {error}");
            false
        }
    }
}

fn try_reload(reloader: &Reloader, args: &RunArgs, confinement: &Confinement) -> Result<Reloaded, String> {
    let Loaded { config, warnings } = config::load(args).map_err(|faults| faults.to_string())?;
    let waits = confinement.admits(&config).map_err(|outside| outside.to_string())?;
    let reloaded = reloader.reload(&config).map_err(|error| error.to_string())?;
    Ok(Reloaded { notes: warnings.into_iter().chain(waits).chain(reloaded.notes).collect(), ..reloaded })
}

fn warn_of_expiry(reloader: &Reloader) {
    let now = OffsetDateTime::now_utc();
    for expiry in reloader.expiries() {
        if let Some(words) = words(&expiry, now) {
            tracing::warn!("{words}");
        }
    }
}

/// What is to be said of a certificate; `None` where it has time.
fn words(expiry: &Expiry, now: OffsetDateTime) -> Option<String> {
    let left = expiry.not_after - now;
    let (what, on) = (&expiry.what, expiry.not_after.date());
    match left.whole_days() {
        _ if left.is_negative() => Some(format!("{what} has expired on {on}: replace it, and send SIGHUP")),
        days if days < SOON => Some(format!("{what} expires in {days} days, on {on}: replace it, and send SIGHUP")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_certificate_is_spoken_of_in_its_last_fortnight() {
        let now = datetime!(2026-03-01 12:00 UTC);
        let said = |not_after| {
            words(&Expiry { what: "`pop.pem`".to_owned(), file: "pop.pem".into(), not_after }, now).unwrap_or_default()
        };
        assert_eq!(said(datetime!(2026-03-15 12:00:00 UTC)), "");
        assert!(said(datetime!(2026-03-15 11:59:59 UTC)).starts_with("`pop.pem` expires in 13 days, on 2026-03-15"));
        assert!(said(datetime!(2026-03-01 11:59:59 UTC)).starts_with("`pop.pem` has expired on 2026-03-01"));
    }
}
