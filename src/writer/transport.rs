//! The connection as the session sees it, and the socket behind it: the only user of `sys::socket` in this room.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Weak};

use crate::sys::descriptor::Descriptor;
use crate::sys::event::{Interest, Key, Poller};
use crate::sys::ledger::{Handled, Slot};
use crate::sys::ring::WriterRing;
use crate::sys::{self, socket};

use super::records::{RecordEvent, Records};

/// What became of a send.
#[derive(Debug)]
pub(super) enum Sent {
    /// The kernel has taken so many bytes, at least one.
    Taken(usize),
    /// The kernel takes nothing before the reader does (EAGAIN).
    Full,
    /// The kernel has no memory for it now (ENOBUFS, ENOMEM): that says nothing of the connection.
    NoMemory(io::Error),
    /// The connection is broken.
    Broken(io::Error),
}

/// A connection.
pub(super) trait Transport {
    /// Sends what the kernel takes at once of two pieces, one behind the other; the first is not empty. It either takes bytes
    /// or says what is wrong, never both, so that no error is lost behind a short count.
    fn send(&mut self, pieces: [&[u8]; 2]) -> Sent;

    /// What the peer has not received yet, as the kernel charges it: it falls by whole buffers of up to 36 KiB. 0: the peer
    /// has received everything, or has closed.
    fn unread_by_peer(&self) -> usize;

    /// Whether the peer has closed, not merely ended one direction.
    fn has_hung_up(&self) -> bool;

    /// After a hang-up: whether the peer closed over unread bytes. The kernel says so once, perhaps a moment later: it is
    /// final when nothing is unread any more.
    fn take_reset(&mut self) -> bool;

    /// What a send to a peer that has closed says.
    fn broken_pipe() -> io::Error;

    /// How much the kernel holds at most, as it charges it.
    fn send_buffer(&self) -> usize;

    /// What the reader says beside the stream.
    fn receive(&mut self) -> RecordEvent;

    /// How far the reader has handled the stream, if it keeps a ledger.
    fn handled(&self) -> Handled;

    /// The ring that the reader has granted, once [`RecordEvent::Ring`] has told of it.
    fn take_ring(&mut self) -> Option<GrantedRing>;

    /// Ends the connection.
    fn close(self);
}

/// A ring that a reader has granted.
#[derive(Debug)]
pub(super) struct GrantedRing {
    pub(super) memory: WriterRing,
    /// Where the reader notes how far it has handled the connection.
    pub(super) slot: Arc<Slot>,
    pub(super) bell: Bell,
}

/// Wakes the reader of a ring: a byte on the connection's socket. It may outlive the connection, and wakes nobody then.
#[derive(Debug, Clone)]
pub(super) struct Bell(Weak<Descriptor>);

impl Bell {
    pub(super) fn on(fd: &Arc<Descriptor>) -> Bell {
        Bell(Arc::downgrade(fd))
    }

    /// Where the kernel has no room the reader has not heard the last one yet. A broken connection is an event of its own.
    pub(super) fn ring(&self) {
        if let Some(fd) = self.0.upgrade() {
            let _ = socket::send(fd.as_fd(), &[0]);
        }
    }
}

/// What a driver waits for at a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    /// The peer's close.
    HangUp,
    /// Room for more bytes, or the peer's close.
    Room,
    /// A record, or the peer's close.
    Record,
    /// Nothing any more: the peer's close has been told.
    Nothing,
}

/// How much one call sends at most: what is sure to be one buffer of the kernel's (`unix_stream_sendmsg` takes up to 35 KiB for
/// one). A call that fills several can meet the peer's end between two of them: it takes the error off the socket and returns
/// the count before it (`sock_alloc_send_pskb`), and nobody could tell whether unread messages were lost.
const ONE_BUFFER: usize = 32 << 10;

/// How a poller tells of the socket's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trigger {
    /// Each once: threads of the executor, of which the first to hear of an event deals with it.
    Edge,
    /// As long as it lasts: a host's event loop.
    Level,
}

/// A connected socket, and the poller that it is registered with.
#[derive(Debug)]
pub(super) struct Socket {
    /// `None` when somebody has closed it behind the library's back: its number may be another descriptor's by now.
    fd: Option<Arc<Descriptor>>,
    registered: Option<Registered>,
    /// What the kernel holds at most, and takes at most into one buffer.
    send_buffer: usize,
    one_buffer: usize,
    records: Records,
}

#[derive(Debug)]
struct Registered {
    poller: Arc<Poller>,
    key: Key,
    trigger: Trigger,
    readiness: Readiness,
}

impl Socket {
    /// `write_buffer_size` 0 leaves the system's.
    pub(super) fn new(fd: Descriptor, write_buffer_size: u32) -> Socket {
        if write_buffer_size > 0 {
            // A buffer that the system does not grant is no reason to stay silent.
            let _ = socket::set_send_buffer(fd.as_fd(), write_buffer_size);
        }
        let send_buffer = socket::send_buffer(fd.as_fd()).unwrap_or(0);
        let one_buffer = (send_buffer / 2).saturating_sub(64).clamp(1, ONE_BUFFER);
        Socket { fd: Some(Arc::new(fd)), registered: None, send_buffer, one_buffer, records: Records::default() }
    }

    /// Registers the socket under `key`, for the peer's close.
    pub(super) fn register(&mut self, poller: &Arc<Poller>, key: Key, trigger: Trigger) -> io::Result<()> {
        let Some(fd) = &self.fd else { return Ok(()) };
        let readiness = Readiness::HangUp;
        let Some(interest) = interest(trigger, readiness) else { return Ok(()) };
        poller.add(fd.as_fd(), key, interest)?;
        self.registered = Some(Registered { poller: Arc::clone(poller), key, trigger, readiness });
        Ok(())
    }

    /// Changes what is waited for; costs a system call only if it is something else than before.
    pub(super) fn wait_for(&mut self, readiness: Readiness) {
        let (Some(fd), Some(registered)) = (&self.fd, &mut self.registered) else { return };
        if registered.readiness == readiness {
            return;
        }
        registered.readiness = readiness;
        match interest(registered.trigger, readiness) {
            Some(interest) => drop(registered.poller.modify(fd.as_fd(), registered.key, interest)),
            None => self.unregister(),
        }
    }

    fn unregister(&mut self) {
        if let (Some(fd), Some(registered)) = (&self.fd, self.registered.take()) {
            let _ = registered.poller.remove(fd.as_fd());
        }
    }

    fn send_on(&self, fd: &Descriptor, [first, second]: [&[u8]; 2]) -> io::Result<usize> {
        let first = &first[..first.len().min(self.one_buffer)];
        match &second[..second.len().min(self.one_buffer - first.len())] {
            [] => socket::send(fd.as_fd(), first),
            second => socket::send_two(fd.as_fd(), [first, second]),
        }
    }
}

impl Transport for Socket {
    fn send(&mut self, pieces: [&[u8]; 2]) -> Sent {
        let Some(fd) = &self.fd else { return Sent::Broken(sys::bad_descriptor()) };
        match self.send_on(fd, pieces) {
            Ok(bytes) => Sent::Taken(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Full,
            Err(error) if error.raw_os_error().is_some_and(sys::is_exhaustion) => Sent::NoMemory(error),
            Err(error) => {
                if sys::is_bad_descriptor(&error) {
                    forget(&mut self.fd);
                }
                Sent::Broken(error)
            }
        }
    }

    fn unread_by_peer(&self) -> usize {
        self.fd.as_ref().map_or(0, |fd| socket::bytes_unread_by_peer(fd.as_fd()).unwrap_or(0))
    }

    fn has_hung_up(&self) -> bool {
        self.fd.as_ref().is_none_or(|fd| socket::has_hung_up(fd.as_fd()))
    }

    fn take_reset(&mut self) -> bool {
        self.fd.as_ref().is_some_and(|fd| matches!(socket::take_error(fd.as_fd()), Ok(Some(_))))
    }

    fn broken_pipe() -> io::Error {
        sys::broken_pipe()
    }

    fn send_buffer(&self) -> usize {
        self.send_buffer
    }

    fn receive(&mut self) -> RecordEvent {
        self.fd.as_ref().map_or(RecordEvent::WouldBlock, |fd| self.records.receive(fd.as_fd()))
    }

    fn handled(&self) -> Handled {
        self.records.handled()
    }

    fn take_ring(&mut self) -> Option<GrantedRing> {
        let (memory, slot) = self.records.take_ring()?;
        Some(GrantedRing { memory, slot, bell: Bell::on(self.fd.as_ref()?) })
    }

    fn close(mut self) {
        // A close alone leaves the registration behind while a forked child holds the socket (epoll(7)).
        self.unregister();
        if let Some(fd) = &self.fd {
            // The reader must see the end even if a forked child of this process holds the socket too.
            let _ = socket::shutdown_write(fd.as_fd());
        }
    }
}

/// A number that is not ours any more.
fn forget(fd: &mut Option<Arc<Descriptor>>) {
    match fd.take().map(Arc::try_unwrap) {
        None => {}
        Some(Ok(fd)) => fd.forget(),
        Some(Err(in_use)) => std::mem::forget(in_use), // a bell rings at this moment, and must not close it
    }
}

/// `None`: none at all.
fn interest(trigger: Trigger, readiness: Readiness) -> Option<Interest> {
    match (trigger, readiness) {
        (_, Readiness::Nothing) => None,
        (Trigger::Edge, Readiness::HangUp) => Some(Interest::CLOSED_EDGE),
        (Trigger::Edge, Readiness::Room) => Some(Interest::WRITABLE_EDGE),
        (Trigger::Edge, Readiness::Record) => Some(Interest::READABLE_EDGE),
        (Trigger::Level, Readiness::HangUp) => Some(Interest::CLOSED),
        (Trigger::Level, Readiness::Room) => Some(Interest::WRITABLE),
        (Trigger::Level, Readiness::Record) => Some(Interest::READABLE),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn pair(write_buffer_size: u32) -> (Socket, UnixStream) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).expect("a listener");
        let socket = Socket::new(socket::connect(&path).expect("a listener"), write_buffer_size);
        (socket, listener.accept().expect("a connection").0)
    }

    fn taken(sent: Sent) -> usize {
        match sent {
            Sent::Taken(bytes) => bytes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_send_is_one_buffer_of_the_kernels_at_most() {
        let (mut socket, mut peer) = pair(0);
        let (first, second) = (vec![1; 20 << 10], vec![2; 20 << 10]);
        assert_eq!(taken(socket.send([&first, &second])), ONE_BUFFER);
        assert_eq!(taken(socket.send([&vec![3; 1 << 20], &[]])), ONE_BUFFER);
        let mut received = vec![0; 2 * ONE_BUFFER];
        peer.read_exact(&mut received).expect("all of it");
        let ends = [0, 20 << 10, ONE_BUFFER, 2 * ONE_BUFFER];
        for (byte, end) in (1..).zip(ends.windows(2)) {
            assert!(received[end[0]..end[1]].iter().all(|got| *got == byte), "{byte}");
        }
    }

    #[test]
    fn a_small_send_buffer_takes_less_into_one() {
        let (mut socket, _peer) = pair(4 << 10);
        let sent = taken(socket.send([&vec![1; 1 << 20], &[]]));
        assert_eq!(sent, socket.send_buffer() / 2 - 64);
        let charged = socket.unread_by_peer();
        assert!(charged > 0, "one buffer is in flight");
    }

    #[test]
    fn the_end_of_a_peer_and_what_it_had_not_read() {
        let (mut socket, peer) = pair(0);
        taken(socket.send([b"message", &[]]));
        assert!(!socket.has_hung_up() && socket.unread_by_peer() > 0);
        drop(peer);
        assert!(socket.has_hung_up() && socket.take_reset());
        assert!(!socket.take_reset(), "it is told once");
        assert!(matches!(socket.send([b"message", &[]]), Sent::Broken(_)));
    }

    #[test]
    fn a_full_kernel_buffer_is_no_error() {
        let (mut socket, _peer) = pair(4 << 10);
        let most = (0..1_000).find(|_| matches!(socket.send([&[1; 4096], &[]]), Sent::Full));
        assert!(most.is_some());
    }
}
