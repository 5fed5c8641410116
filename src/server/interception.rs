//! Connections that were meant for others: where each is carried to.

use std::{io, net::SocketAddr, sync::Arc};

use socket2::Socket;
use tokio::net::TcpStream;

use super::{StartError, Way, way::Ways};
use crate::{
    config::{self, Dial, Listener, Otherwise, Source, TlsDemand, Transparent, Upstream},
    net::{self, Misdirected},
};

/// What a listener knows of them.
pub(crate) struct Interception {
    settings: config::Interception,
    /// Where poptap listens, as configured.
    own: Arc<[SocketAddr]>,
    /// One for each entry of the table.
    ways: Vec<Arc<Way>>,
    /// For destinations without an entry; `None` refuses them.
    plain: Option<Arc<Way>>,
}

impl Interception {
    pub(super) fn new(listener: &Listener, own: Arc<[SocketAddr]>, ways: &mut Ways<'_>) -> Result<Option<Self>, StartError> {
        let Some(settings) = listener.interception.clone() else { return Ok(None) };
        let mut to = |upstream: &Arc<Upstream>| Ok::<_, StartError>(fitted(ways.reach(upstream)?, listener));
        let table = settings.table.as_ref();
        let entries = table.map(|table| &table.destinations[..]).unwrap_or_default();
        let plain = table.filter(|table| table.otherwise == Otherwise::Plain).map(|_| to(&Arc::new(Upstream::original())));
        let ways = entries.iter().map(|entry| to(&entry.upstream)).collect::<Result<_, _>>()?;
        Ok(Some(Self { plain: plain.transpose()?, settings, own, ways }))
    }

    /// Whom a client wanted to reach; `listener` is the address that was bound.
    pub(crate) fn destination(&self, client: &TcpStream, listener: SocketAddr) -> Result<SocketAddr, Misdirected> {
        let own: Vec<SocketAddr> = self.own.iter().copied().chain([listener]).collect();
        let destination = net::destination(client, self.settings.how, &own)?;
        if self.settings.allows(destination) { Ok(destination) } else { Err(Misdirected::NotAllowed { destination }) }
    }

    /// The way that its destination asks for, and the address that is dialled, where that is the destination; `None` where all
    /// clients have the same upstreams.
    pub(crate) fn way(&self, destination: SocketAddr) -> Result<Option<Led>, Misdirected> {
        let Some(table) = &self.settings.table else { return Ok(None) };
        let entry = table.find(destination).and_then(|at| Some((table.destinations.get(at)?.dial, self.ways.get(at)?)));
        match (entry, &self.plain) {
            (Some((Dial::Upstream, way)), _) => Ok(Some(Led { way: Arc::clone(way), dialled: None })),
            (Some((Dial::Original, way)), _) => {
                Ok(Some(Led { way: Arc::new(way.towards(destination)), dialled: Some(destination) }))
            }
            (None, Some(plain)) => Ok(Some(Led { way: Arc::new(plain.towards(destination)), dialled: Some(destination) })),
            (None, None) => Err(Misdirected::Unlisted { destination }),
        }
    }
}

/// Where one client is led.
pub(crate) struct Led {
    pub(crate) way: Arc<Way>,
    /// Its destination, where that is what is dialled.
    pub(crate) dialled: Option<SocketAddr>,
}

/// The same way, as this listener's clients take it.
pub(super) fn fitted(way: Arc<Way>, listener: &Listener) -> Arc<Way> {
    let (unread, from_client) = (listener.demand == TlsDemand::Pass, listener.source == Source::Client);
    if unread || from_client { Arc::new(way.fitted(unread, from_client)) } else { way }
}

/// Makes a socket fit to take what was meant for others, before it is bound.
pub(super) fn prepare(socket: &Socket, listener: &Listener) -> io::Result<()> {
    match &listener.interception {
        Some(interception) if interception.how == Transparent::Tproxy => net::use_any_address(socket, listener.address.ip()),
        _ => Ok(()),
    }
}
