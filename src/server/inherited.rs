//! Listening sockets that somebody else bound: the service manager (socket activation), poptap while it was root, or the
//! process that it replaces.

use std::{
    env, fmt, io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use listenfd::ListenFd;
use socket2::{Domain, SockRef, Socket, Type};

use crate::config::HandedOver;

/// Bound and listening sockets, each under a name, each taken once. What is left is closed with it.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Entry>, Origin);

/// Whether a process that still runs uses them too.
type Origin = bool;

#[derive(Debug)]
struct Entry {
    name: String,
    place: Local,
    socket: Socket,
    /// Whether it was asked for. It may be taken later.
    wanted: bool,
}

/// Where a socket is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket; `None` where it has no path.
    Unix(Option<PathBuf>),
}

/// A descriptor is not what it has to be.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on the inherited socket `{name}`: {why}; hint: {}", why.hint())]
pub struct InheritError {
    /// The socket's name; its number where it has none.
    pub name: String,
    /// What is wrong with it.
    pub why: Unfit,
}

/// Why an inherited descriptor is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// It is no socket, or it cannot be asked.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It carries datagrams, or connections of another family.
    #[error("it is no TCP or Unix stream socket")]
    Kind,
    /// It is bound, or connected, but does not listen.
    #[error("it does not listen")]
    Deaf,
}

impl Unfit {
    fn hint(&self) -> &'static str {
        match self {
            Self::Io(_) => "LISTEN_FDS must count the descriptors that are there, from number 3 on",
            Self::Kind => "write `ListenStream=` with an address or a path into the socket unit",
            Self::Deaf => "write `Accept=no` into the socket unit",
        }
    }
}

impl Inherited {
    /// What the service manager hands over (`sd_listen_fds(3)`): `LISTEN_FDS` descriptors for this process, named by
    /// `LISTEN_FDNAMES`, or by their number where that says nothing. To be called once, before there are threads: the variables
    /// are removed.
    ///
    /// # Errors
    ///
    /// [`InheritError`], for the first descriptor that is no listening stream socket.
    pub fn from_environment() -> Result<Self, InheritError> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<_> = names.split(':').collect();
        let mut descriptors = ListenFd::from_env();
        let mut inherited = Self::default();
        for at in 0..descriptors.len() {
            let given = names.get(at).copied().filter(|name| !name.is_empty() && *name != UNNAMED);
            let name = given.map_or_else(|| (at + 1).to_string(), str::to_owned);
            match descriptor(&mut descriptors, at) {
                Ok(descriptor) => inherited.add(name, descriptor)?,
                Err(why) => return Err(InheritError { name, why: why.into() }),
            }
        }
        Ok(inherited)
    }

    /// Those that were not taken, as the configuration has to know them.
    #[must_use]
    pub fn known(&self) -> Vec<HandedOver> {
        let address = |place: &Local| if let Local::Tcp(address) = place { Some(*address) } else { None };
        self.0.iter().map(|entry| HandedOver { name: entry.name.clone(), address: address(&entry.place) }).collect()
    }

    /// Takes a listening socket in, under `name`.
    ///
    /// # Errors
    ///
    /// [`InheritError`] when it is no listening stream socket; it is closed then.
    pub fn add(&mut self, name: String, descriptor: OwnedFd) -> Result<(), InheritError> {
        match examine(&descriptor) {
            Ok(place) => {
                self.0.push(Entry { name, place, socket: descriptor.into(), wanted: false });
                Ok(())
            }
            Err(why) => Err(InheritError { name, why }),
        }
    }

    /// Sees to it that there is a socket for `address`, which [`Inherited::take_at`] will find: one that was handed over for it, or
    /// else what `bind` makes.
    ///
    /// # Errors
    ///
    /// What `bind` says.
    pub fn reserve(&mut self, address: SocketAddr, bind: impl FnOnce(SocketAddr) -> io::Result<Socket>) -> io::Result<()> {
        self.reserve_as(address.to_string(), address, bind)
    }

    /// The same under a name of its own, for [`Inherited::take_as`].
    ///
    /// # Errors
    ///
    /// What `bind` says.
    pub fn reserve_as(
        &mut self,
        name: String,
        address: SocketAddr,
        bind: impl FnOnce(SocketAddr) -> io::Result<Socket>,
    ) -> io::Result<()> {
        if let Some(entry) = self.free(|entry| entry.name == name || entry.place == Local::Tcp(address)) {
            (entry.name, entry.wanted) = (name, true);
            return Ok(());
        }
        let socket = bind(address)?;
        let place = Local::Tcp(socket.local_addr()?.as_socket().unwrap_or(address));
        self.0.push(Entry { name, place, socket, wanted: true });
        Ok(())
    }

    /// Says that they come from a process that this one replaces, and that still runs.
    pub(super) fn share_with_predecessor(&mut self) {
        self.1 = true;
    }

    /// Whether they come from a process that still runs, and that this one replaces.
    #[must_use]
    pub fn is_shared_with_predecessor(&self) -> bool {
        self.1
    }

    /// Closes what nobody has asked for, and says what that was.
    pub fn dismiss(&mut self) -> Vec<String> {
        let (wanted, unwanted) = std::mem::take(&mut self.0).into_iter().partition(|entry| entry.wanted);
        self.0 = wanted;
        let unwanted: Vec<Entry> = unwanted;
        unwanted.iter().map(|entry| format!("`{}` ({})", entry.name, entry.place)).collect()
    }

    fn free(&mut self, is_fit: impl Fn(&Entry) -> bool) -> Option<&mut Entry> {
        self.0.iter_mut().find(|entry| !entry.wanted && is_fit(entry))
    }

    /// The first socket with this name.
    pub fn take_named(&mut self, name: &str) -> Option<Socket> {
        self.take(|entry| entry.name == name)
    }

    /// The first socket with this address for its name, or else bound to it.
    pub fn take_at(&mut self, address: SocketAddr) -> Option<Socket> {
        self.take_as(&address.to_string(), address)
    }

    /// The first socket with this name, or else bound to this address.
    pub fn take_as(&mut self, name: &str, address: SocketAddr) -> Option<Socket> {
        self.take_named(name).or_else(|| self.take(|entry| entry.place == Local::Tcp(address)))
    }

    /// The first socket that is bound to this path.
    pub fn take_path(&mut self, path: &Path) -> Option<Socket> {
        self.take(|entry| matches!(&entry.place, Local::Unix(Some(bound)) if bound == path))
    }

    /// The first of all.
    pub fn take_next(&mut self) -> Option<Socket> {
        self.take(|_| true)
    }

    /// The names of those that were not taken, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|entry| entry.name.as_str())
    }

    fn take(&mut self, is_wanted: impl Fn(&Entry) -> bool) -> Option<Socket> {
        let at = self.0.iter().position(is_wanted)?;
        Some(self.0.remove(at).socket)
    }
}

impl fmt::Display for Local {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(out),
            Self::Unix(Some(path)) => path.display().fmt(out),
            Self::Unix(None) => out.write_str("a Unix socket without a path"),
        }
    }
}

/// What the service manager calls a descriptor that has no name (`sd_listen_fds(3)`).
const UNNAMED: &str = "unknown";

fn descriptor(descriptors: &mut ListenFd, at: usize) -> io::Result<OwnedFd> {
    let tcp = descriptors.take_tcp_listener(at).map(|found| found.map(OwnedFd::from));
    // Left where it is by whoever finds it to be something else.
    let found = tcp.or_else(|_| descriptors.take_unix_listener(at).map(|found| found.map(OwnedFd::from)));
    found?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Where a listening stream socket is bound; it is told not to block, as whoever handed it over may have left that out.
fn examine(descriptor: &OwnedFd) -> Result<Local, Unfit> {
    let socket = SockRef::from(descriptor);
    if socket.r#type()? != Type::STREAM || ![Domain::IPV4, Domain::IPV6, Domain::UNIX].contains(&socket.domain()?) {
        return Err(Unfit::Kind);
    }
    if !socket.is_listener()? {
        return Err(Unfit::Deaf);
    }
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    Ok(address.as_socket().map_or_else(|| Local::Unix(address.as_pathname().map(Path::to_owned)), Local::Tcp))
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream, UdpSocket},
        os::unix::net::UnixListener,
    };

    use super::*;

    #[test]
    fn each_is_taken_once_by_name_address_or_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pop3");
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let mut inherited = Inherited::default();
        inherited.add("pop3".to_owned(), tcp.into()).unwrap();
        inherited.add("127.0.0.1:0".to_owned(), TcpListener::bind("127.0.0.1:0").unwrap().into()).unwrap();
        inherited.add("3".to_owned(), UnixListener::bind(&path).unwrap().into()).unwrap();
        assert!(inherited.take_at("127.0.0.1:0".parse().unwrap()).is_some(), "by what was asked for");
        assert!(inherited.take_named("pop3s").is_none());
        let taken = inherited.take_at(address).unwrap();
        assert_eq!(taken.local_addr().unwrap().as_socket(), Some(address));
        assert!(inherited.take_named("pop3").is_none() && inherited.take_at(address).is_none(), "it was taken");
        assert!(inherited.take_path(&path).is_some());
        assert_eq!(inherited.names().count(), 0);
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_is_closed() {
        let (given, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let (address, closed) = (given.local_addr().unwrap(), other.local_addr().unwrap());
        let mut inherited = Inherited::default();
        inherited.add("pop3".to_owned(), given.into()).unwrap();
        inherited.add("x".to_owned(), other.into()).unwrap();
        inherited.reserve(address, |_| panic!("it was handed over")).unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        for _ in 0..2 {
            inherited.reserve(any, |any| Ok(TcpListener::bind(any)?.into())).unwrap();
        }
        assert!(inherited.reserve(address, |_| Err(io::ErrorKind::AddrInUse.into())).is_err(), "one is there for one only");
        assert_eq!(inherited.dismiss(), [format!("`x` ({closed})")]);
        assert!(TcpStream::connect(closed).is_err());
        let taken = [any, any, address].map(|address| inherited.take_at(address).unwrap().local_addr().unwrap());
        assert_eq!(taken[2].as_socket(), Some(address));
        assert!(inherited.take_at(any).is_none());
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let file = tempfile::tempfile().unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        for (descriptor, said) in [
            (OwnedFd::from(client), "`pop3`: it does not listen; hint: write `Accept=no`"),
            (OwnedFd::from(datagrams), "no TCP or Unix stream socket; hint: write `ListenStream=`"),
            (OwnedFd::from(file), "`pop3`: "),
        ] {
            let refused = Inherited::default().add("pop3".to_owned(), descriptor).unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
        }
    }
}
