//! One process hands its listening sockets to the one that replaces it: what they say to each other.
//!
//! They have a pair of sockets that keeps messages apart (`SOCK_SEQPACKET`); the successor's end is its standard input. Each message
//! is a word, and what belongs to it behind a blank. The old process sends `socket NAME` with a descriptor for each socket, and
//! `all`. The new one answers `ready` when it could accept, or `failed WHY`. Upon `ready` the old one says `yours` and accepts
//! no more; before that word the new one accepts nobody. Words that one of them does not know are passed over.
//!
//! Both hold the same open socket, so nobody is turned away, and whoever waits in its queue waits for either.

use std::{
    env,
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net,
    },
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    sockopt::{Timeout, set_socket_timeout},
};
use socket2::{SockRef, Type};
use tokio::net::UnixDatagram;

use super::{InheritError, Inherited, Reloader};
use crate::policy::MemoryError;

/// The process that is replaced, by its number. Who was not started by that process has nothing to do with it.
const PREDECESSOR: &str = "POPTAP_REPLACES";
/// How long a message may wait for a successor that reads none.
const PATIENCE: Duration = Duration::from_secs(30);
/// Octets of a message.
const LARGEST: usize = 16 * 1024;

/// A listening socket, under the name that it was asked for by.
#[derive(Debug)]
pub struct Handed {
    /// As [`Inherited`] looks for it.
    pub name: String,
    /// The same open socket.
    pub socket: OwnedFd,
}

/// The end of the process that is replaced.
#[derive(Debug)]
pub struct Offer(OwnedFd);

/// The successor's end.
#[derive(Debug)]
pub struct Succession {
    link: OwnedFd,
    predecessor: u32,
}

/// What the successor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has bound and opened everything.
    Ready,
    /// It cannot run, and says why.
    Failed(String),
    /// It has ended without a word.
    Gone,
}

/// Why a successor has no sockets.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// The predecessor could not be heard.
    #[error("cannot take over from process {predecessor}: {source}")]
    Link {
        /// The predecessor.
        predecessor: u32,
        /// Why.
        source: io::Error,
    },
    /// What came is of no use.
    #[error(transparent)]
    Socket(#[from] InheritError),
}

impl Reloader {
    /// Whether no more clients are accepted, here or at all.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.house.stop.drain.is_cancelled()
    }

    /// Every socket that clients are accepted from, in the order of the configuration; and lets a successor share what the shield
    /// remembers. Blocks while that is being written.
    ///
    /// # Errors
    ///
    /// [`MemoryError`], when the memory cannot be shared.
    pub fn hand_over(&self) -> Result<Vec<Handed>, MemoryError> {
        self.house.memory.share()?;
        let routes = self.house.routes().clone();
        Ok(routes.iter().filter_map(|route| handed(&route.name, route.handle.upgrade()?.as_fd())).collect())
    }
}

/// `None` where no descriptors are left, or the socket is none: the successor then binds it, or says why it cannot.
pub(crate) fn handed(name: &str, socket: BorrowedFd<'_>) -> Option<Handed> {
    let socket = socket.try_clone_to_owned();
    let socket = socket.inspect_err(|error| tracing::warn!("cannot hand over the socket `{name}`: {error}"));
    Some(Handed { name: name.to_owned(), socket: socket.ok()? })
}

impl Offer {
    /// A new one, and what the successor gets for its standard input.
    ///
    /// # Errors
    ///
    /// When no descriptors are left.
    pub fn new() -> io::Result<(Self, OwnedFd)> {
        let (own, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&own, Timeout::Send, Some(PATIENCE))?;
        Ok((Self(own), other))
    }

    /// What has to be in the successor's environment: a name and its value.
    #[must_use]
    pub fn variable() -> (&'static str, String) {
        (PREDECESSOR, std::process::id().to_string())
    }

    /// Hands over all sockets.
    ///
    /// # Errors
    ///
    /// When the successor has ended, or takes none.
    pub fn send(&self, sockets: &[Handed]) -> io::Result<()> {
        for Handed { name, socket } in sockets {
            say(&self.0, &format!("socket {name}"), Some(socket.as_fd()))?;
        }
        say(&self.0, "all", None)
    }

    /// Waits for what the successor says. To be called within the runtime; may be cancelled.
    ///
    /// # Errors
    ///
    /// When it cannot be heard.
    pub async fn answer(&self) -> io::Result<Answer> {
        loop {
            let Some(said) = hear(&self.0).await? else { return Ok(Answer::Gone) };
            match said.split_once(' ').unwrap_or((&said, "")) {
                ("ready", _) => return Ok(Answer::Ready),
                ("failed", why) => return Ok(Answer::Failed(why.to_owned())),
                _ => {}
            }
        }
    }

    /// Lets the successor accept. Whoever says so accepts no more.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn yours(&self) -> io::Result<()> {
        say(&self.0, "yours", None)
    }
}

impl Succession {
    /// The process that this one is to replace, if it was started for that. Its standard input then leads nowhere from now on.
    ///
    /// # Errors
    ///
    /// When no descriptors are left.
    pub fn of_process() -> io::Result<Option<Self>> {
        let named = env::var(PREDECESSOR).ok().and_then(|number| number.parse::<u32>().ok());
        let parent = rustix::process::getppid().map(|parent| parent.as_raw_nonzero().get().unsigned_abs());
        let Some(predecessor) = named.filter(|named| Some(*named) == parent) else { return Ok(None) };
        let link = io::stdin().as_fd().try_clone_to_owned()?;
        if !SockRef::from(&link).r#type().is_ok_and(|kind| kind == Type::SEQPACKET) {
            return Ok(None);
        }
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        Ok(Some(Self { link, predecessor }))
    }

    /// The number of the process that is replaced.
    #[must_use]
    pub fn predecessor(&self) -> u32 {
        self.predecessor
    }

    /// Takes all sockets in; says how many those are.
    ///
    /// # Errors
    ///
    /// [`SuccessionError`], when they do not come, or one is of no use.
    pub fn receive(&self, sockets: &mut Inherited) -> Result<usize, SuccessionError> {
        let failed = |source| SuccessionError::Link { predecessor: self.predecessor, source };
        sockets.share_with_predecessor();
        let mut count = 0;
        loop {
            let (said, descriptor) = take(&self.link).map_err(failed)?;
            match (said.split_once(' ').unwrap_or((&said, "")), descriptor) {
                (("socket", name), Some(socket)) => {
                    sockets.add(name.to_owned(), socket)?;
                    count += 1;
                }
                (("all", _), _) => return Ok(count),
                (("", _), None) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                _ => {}
            }
        }
    }

    /// Says that all is bound and open, and waits for the word to begin. Where the predecessor has gone without it, there
    /// is nobody else to accept. To be called within the runtime.
    pub async fn ready(&self) {
        if say(&self.link, "ready", None).is_ok() {
            while let Ok(Some(said)) = hear(&self.link).await {
                if said == "yours" {
                    return tracing::info!("replaces process {}, which lets its sessions finish", self.predecessor);
                }
            }
        }
        tracing::warn!("process {}, which was to be replaced, has ended", self.predecessor);
    }

    /// Says why this process ends before it was ready.
    pub fn failed(&self, why: &str) {
        let mut end = why.len().min(LARGEST / 2);
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        // It is said on standard error too.
        let _ = say(&self.link, &format!("failed {}", &why[..end]), None);
    }
}

fn say(link: &OwnedFd, words: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.into_iter().collect();
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    sendmsg(link, &[IoSlice::new(words.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for a message, which may bring a descriptor along. No words at the end.
fn take(link: &OwnedFd) -> io::Result<(String, Option<OwnedFd>)> {
    let mut octets = vec![0; LARGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let taken = recvmsg(link, &mut [IoSliceMut::new(&mut octets)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    octets.truncate(taken.bytes);
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((String::from_utf8_lossy(&octets).into_owned(), descriptor))
}

/// The next message; `None` at the end.
async fn hear(link: &OwnedFd) -> io::Result<Option<String>> {
    // Tokio knows no such sockets, but what it does with one of datagrams is the same.
    let link = net::UnixDatagram::from(link.try_clone()?);
    link.set_nonblocking(true)?;
    let link = UnixDatagram::from_std(link)?;
    let mut octets = vec![0; LARGEST];
    let count = loop {
        match link.recv(&mut octets).await {
            // The other one ended with something unread. That is said once, and before what it wrote.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            outcome => break outcome?,
        }
    };
    Ok((count > 0).then(|| String::from_utf8_lossy(&octets[..count]).into_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (Offer, Succession) {
        let (offer, link) = Offer::new().unwrap();
        (offer, Succession { link, predecessor: 7 })
    }

    fn listener(name: &str) -> (Handed, TcpListener) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        (handed(name, socket.as_fd()).unwrap(), socket)
    }

    #[test]
    fn sockets_come_with_their_names_and_the_queue_is_one() {
        let (offer, succession) = pair();
        let ((first, old), (second, _)) = (listener("127.0.0.1:0"), listener("127.0.0.1:0"));
        let address = old.local_addr().unwrap();
        say(&offer.0, "unheard of", None).unwrap();
        offer.send(&[first, second]).unwrap();
        let mut sockets = Inherited::default();
        assert_eq!(succession.receive(&mut sockets).unwrap(), 2);
        assert!(sockets.is_shared_with_predecessor());
        let waiting = TcpStream::connect(address).unwrap();
        drop((offer, old));
        let taken: TcpListener = sockets.take_at("127.0.0.1:0".parse().unwrap()).unwrap().into();
        assert_eq!(taken.local_addr().unwrap(), address, "in their order");
        assert_eq!(taken.accept().unwrap().1, waiting.local_addr().unwrap());
        assert_eq!(sockets.names().count(), 1);
    }

    #[test]
    fn a_predecessor_that_ends_in_the_middle_is_noticed() {
        let (offer, succession) = pair();
        say(&offer.0, "socket x", Some(listener("x").0.socket.as_fd())).unwrap();
        drop(offer);
        let error = succession.receive(&mut Inherited::default()).unwrap_err().to_string();
        assert!(error.starts_with("cannot take over from process 7: "), "{error}");
    }

    #[tokio::test]
    async fn what_the_successor_says() {
        let (offer, succession) = pair();
        succession.failed("poptap.toml:3: no such key");
        let long = "ä".repeat(LARGEST);
        succession.failed(&long);
        assert_eq!(offer.answer().await.unwrap(), Answer::Failed("poptap.toml:3: no such key".to_owned()));
        assert!(matches!(offer.answer().await.unwrap(), Answer::Failed(why) if long.starts_with(&why) && !why.is_empty()));
        offer.yours().unwrap();
        succession.ready().await;
        assert_eq!(offer.answer().await.unwrap(), Answer::Ready);
        drop(succession);
        assert_eq!(offer.answer().await.unwrap(), Answer::Gone);
        assert!(offer.yours().is_err());
    }

    #[tokio::test]
    async fn a_successor_that_fails_before_it_has_read_anything_is_heard() {
        let (offer, succession) = pair();
        offer.send(&[listener("x").0]).unwrap();
        succession.failed("no");
        drop(succession);
        assert_eq!(offer.answer().await.unwrap(), Answer::Failed("no".to_owned()));
        assert_eq!(offer.answer().await.unwrap(), Answer::Gone);
    }

    #[tokio::test]
    async fn who_was_to_be_replaced_and_has_gone_leaves_the_work_to_the_successor() {
        let (offer, succession) = pair();
        let waiting = tokio::spawn(async move { succession.ready().await });
        assert_eq!(offer.answer().await.unwrap(), Answer::Ready);
        drop(offer);
        waiting.await.unwrap();
    }
}
