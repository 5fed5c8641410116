//! `poptap replay`: a recorded session's server, for a client whose fault is to be seen again.

use std::{
    io::{self, IsTerminal, Write as _},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use tokio::{net::TcpListener, signal::ctrl_c};

use super::{Failure, exit, run};
use crate::{
    cli::{ReplayArgs, ReplayTiming, Verbosity},
    config::{self, TlsMode},
    inspect::{self, Which},
    replay::{Heard, Pace, Script, Stage, Tell, serve},
};

pub(super) fn replay(args: &ReplayArgs, verbosity: Verbosity) -> Result<(), Failure> {
    let address = address(args)?;
    let stage = Arc::new(stage(args)?);
    let runtime = run::runtime()?;
    let played = runtime.block_on(play(address, &stage, args.once, tell(verbosity)));
    // A client that waits for an answer would hold up the exit.
    runtime.shutdown_background();
    played?;
    if verbosity.level() >= 0 {
        say(&summary(&stage.heard));
    }
    Ok(())
}

fn address(args: &ReplayArgs) -> Result<SocketAddr, Failure> {
    let usage = |message: &str| Err(Failure::new(exit::USAGE, message));
    if args.listen.tls != TlsMode::Plain {
        return usage("cannot replay over TLS\n  hint: leave out the scheme, and set the client to no encryption");
    }
    if !args.listen.address.ip().is_loopback() {
        return usage("cannot replay to other hosts: whoever connects could read the messages\n  hint: listen on 127.0.0.1");
    }
    Ok(args.listen.address)
}

fn stage(args: &ReplayArgs) -> Result<Stage, Failure> {
    let which = match (args.as_server.clone().flatten(), args.last) {
        (Some(id), false) => Which::Id(id),
        (None, true) => Which::Last,
        _ => return Err(Failure::new(exit::USAGE, "say which session to replay: either its id, or --last")),
    };
    let directory = config::store(&args.store)?;
    let mut script = Script::default();
    inspect::each_record(&directory, &which, &mut |record| script.take(record), &mut io::stderr().lock())?;
    if script.is_empty() {
        let why = "there is nothing to replay: of this session only the summary is left, or nothing was said in it";
        return Err(Failure::new(exit::UNAVAILABLE, format!("{why}\n  hint: `record = \"events\"` keeps what is said")));
    }
    let pace = match args.timing {
        ReplayTiming::Fast => Pace::Fast,
        ReplayTiming::Recorded => Pace::Recorded { most: args.max_delay.0 },
    };
    Ok(Stage { script, directory, pace, heard: Heard::default() })
}

async fn play(address: SocketAddr, stage: &Arc<Stage>, once: bool, tell: Arc<Tell>) -> Result<(), Failure> {
    let failed =
        |error| Failure::new(exit::UNAVAILABLE, format!("cannot listen on {address}: {error}\n  hint: choose another port"));
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    say(&format!("replaying {} commands, listening on {address}", stage.script.commands()));
    tokio::select! {
        served = serve(listener, Arc::clone(stage), once, tell) => served.map_err(failed),
        stopped = ctrl_c() => stopped.map_err(|error| Failure::new(exit::SOFTWARE, format!("cannot wait for Ctrl-C: {error}"))),
    }
}

/// Tells what clients do where somebody looks on, or where that is asked for.
fn tell(verbosity: Verbosity) -> Arc<Tell> {
    let tells = verbosity.level() > 0 || verbosity.level() == 0 && io::stderr().is_terminal();
    Arc::new(move |line| {
        if tells {
            say(line);
        }
    })
}

fn summary(heard: &Heard) -> String {
    let [clients, commands, unrecorded] =
        [&heard.clients, &heard.commands, &heard.unrecorded].map(|count| count.load(Ordering::Relaxed));
    let plural = inspect::human::plural;
    format!("{}, {}, {unrecorded} of them not in the recording", plural(clients, "client"), plural(commands, "command"))
}

fn say(line: &str) {
    // There is nobody left to tell when stderr is gone.
    let _ = writeln!(anstream::stderr(), "{line}");
}
