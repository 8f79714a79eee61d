//! Accepting connections: in turns, after a check, and without ever giving up.
//!
//! A shortage of descriptors or memory passes: the acceptor pauses, longer each time, and tries again for ever. A
//! connection that was accepted and could not be registered with epoll is kept, and registered later.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::delivery::name::WriterName;
use crate::delivery::record::End;
use crate::options::ReaderOptions;
use crate::sys::descriptor::Descriptor;
use crate::sys::lock::Mutex;
use crate::sys::socket;

use super::account;
use super::clock::{Nanos, nanos};
use super::connection::Connection;
use super::listener::Listener;

/// How many connections are accepted before others get a turn.
const ACCEPT_TURN: usize = 64;
/// Pauses after failed attempts: doubling from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The listener, and how accepting goes.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) listener: Listener,
    rules: Rules,
    state: Mutex<State>,
    errors: AtomicU64,
    refused: AtomicU64,
}

/// Who may come in.
#[derive(Debug)]
struct Rules {
    /// 0 is no limit.
    max_connections: usize,
    uids: Vec<u32>,
    gids: Vec<u32>,
    max_errors: u32,
}

#[derive(Debug, Default)]
struct State {
    failures: Failures,
    stage: Stage,
    /// Accepted, and not registered yet.
    unregistered: Option<Arc<Connection>>,
}

/// Failures in a row.
#[derive(Debug, Default)]
struct Failures {
    count: u32,
    /// Accepting pauses until then.
    again_at: Option<Nanos>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// The reader stops, and connections may wait in the backlog of a socket of its own.
    Backlog,
    Closed,
}

/// What the acceptor needs of the owner of the connections. Called with the acceptor's lock held: no method may wait or close a
/// descriptor.
pub(super) trait Door {
    /// Connections that are open.
    fn open(&self) -> usize;
    /// Makes a connection. A writer with a name is told of it.
    fn enter(&self, fd: Descriptor, name: Option<WriterName>) -> Arc<Connection>;
    /// Registers it with epoll.
    fn register(&self, connection: &Connection) -> io::Result<()>;
}

/// How a turn of accepting ended.
#[derive(Debug)]
pub(super) enum Accepted {
    /// Nobody waits any more, or others get a turn.
    Enough,
    /// Try again at this time. `report`: it has failed more often than may stay unreported.
    Failed { error: io::Error, again_at: Nanos, report: bool },
    /// Nobody is accepted any more.
    Closed,
}

/// Closed when it is dropped, which may take time: a peer can make closing slow with the descriptors that it has sent.
#[derive(Debug, Default)]
struct ToClose {
    refused: Vec<Descriptor>,
    gone: Option<Arc<Connection>>,
}

impl Acceptor {
    pub(super) fn new(listener: Listener, options: &ReaderOptions) -> Acceptor {
        let rules = Rules {
            max_connections: options.max_connections as usize,
            uids: options.allowed_uids.clone(),
            gids: options.allowed_gids.clone(),
            max_errors: options.max_accept_errors,
        };
        let (errors, refused) = Default::default();
        Acceptor { listener, rules, state: Mutex::default(), errors, refused }
    }

    pub(super) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Accepts some that wait.
    pub(super) fn accept_turn(&self, door: &impl Door, now: Nanos) -> Accepted {
        let mut to_close = ToClose::default(); // dropped after the lock
        let mut state = self.state.lock();
        if state.stage != Stage::Open {
            return Accepted::Closed;
        }
        state.failures.again_at = None;
        match self.accept_some(&mut state, door, &mut to_close) {
            Ok(_) => Accepted::Enough,
            Err(error) => self.failed(&mut state, error, now),
        }
    }

    /// Something that accepting needs does not work at present.
    fn failed(&self, state: &mut State, error: io::Error, now: Nanos) -> Accepted {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let again_at = state.failures.add(now);
        Accepted::Failed { error, again_at, report: state.failures.count == self.rules.max_errors + 1 }
    }

    /// The listener could not be registered with epoll again.
    pub(super) fn rearm_failed(&self, error: io::Error, now: Nanos) -> Accepted {
        self.failed(&mut self.state.lock(), error, now)
    }

    /// When the pause ends, if accepting pauses.
    pub(super) fn pauses_until(&self) -> Option<Nanos> {
        self.state.lock().failures.again_at
    }

    /// True if nobody waits any more.
    fn accept_some(&self, state: &mut State, door: &impl Door, to_close: &mut ToClose) -> io::Result<bool> {
        if let Some(connection) = state.unregistered.take() {
            if let Err(error) = door.register(&connection) {
                state.unregistered = Some(connection);
                return Err(error);
            }
            to_close.gone = Some(connection); // a stop may have closed it meanwhile
        }
        for _ in 0..ACCEPT_TURN {
            let (fd, name) = match self.listener.accept() {
                Ok(fd) => fd,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            let name = WriterName::parse(name.as_bytes());
            let _ = socket::refuse_descriptors(fd.as_fd()); // needless where the listener is ours, but for a moment
            if let Some(end) = self.rules.refuse(door.open(), fd.as_fd()) {
                self.refused.fetch_add(1, Ordering::Relaxed);
                if name.is_some() {
                    account::turn_away(fd.as_fd(), end);
                }
                to_close.refused.push(fd);
                continue;
            }
            let connection = door.enter(fd, name);
            if let Err(error) = door.register(&connection) {
                state.unregistered = Some(connection);
                return Err(error);
            }
            state.failures.count = 0;
        }
        Ok(false)
    }

    /// Nobody is accepted any more but those who wait in the backlog of a socket of our own.
    pub(super) fn shut(&self) {
        let mut state = self.state.lock();
        state.stage = if self.listener.shut() { Stage::Backlog } else { Stage::Closed };
    }

    /// Accepts who waits in the backlog. False if somebody had to be left for want of descriptors or memory.
    pub(super) fn empty_backlog(&self, door: &impl Door) -> bool {
        loop {
            let mut to_close = ToClose::default(); // dropped after the lock
            let mut state = self.state.lock();
            if state.stage != Stage::Backlog && state.unregistered.is_none() {
                return true;
            }
            match self.accept_some(&mut state, door, &mut to_close) {
                Ok(false) => {}
                Ok(true) => {
                    state.stage = Stage::Closed;
                    return true;
                }
                Err(_) => return false,
            }
        }
    }

    /// Nobody is accepted any more: ends without waiting.
    pub(super) fn close(&self) {
        let unregistered = {
            let mut state = self.state.lock();
            state.stage = Stage::Closed;
            state.unregistered.take()
        };
        drop(unregistered);
        self.listener.close();
    }

    /// Takes who waits in the backlog of a socket of our own, to let them go unread. `Some(true)`: one of those who
    /// might come in has sent something.
    pub(super) fn turn_backlog_away(&self) -> (bool, io::Error) {
        let mut unread = false;
        loop {
            match self.listener.accept() {
                Ok((peer, name)) => {
                    let _ = socket::shutdown_read(peer.as_fd()); // what it sends from now on fails
                    let is_admitted = self.rules.admit(peer.as_fd());
                    unread |= is_admitted && socket::has_unread(peer.as_fd());
                    if WriterName::parse(name.as_bytes()).is_some() {
                        account::turn_away(peer.as_fd(), if is_admitted { End::Stop } else { End::NotAdmitted });
                    }
                }
                Err(end) => return (unread, end),
            }
        }
    }
}

impl Rules {
    /// Why a peer does not come in, if it does not.
    fn refuse(&self, open: usize, peer: BorrowedFd<'_>) -> Option<End> {
        if self.are_full(open) {
            return Some(End::TooManyConnections);
        }
        (!self.admit(peer)).then_some(End::NotAdmitted)
    }

    fn are_full(&self, open: usize) -> bool {
        self.max_connections > 0 && open >= self.max_connections
    }

    /// Asks the kernel who the peer was when it connected. A peer of whom it says nothing does not come in.
    fn admit(&self, peer: BorrowedFd<'_>) -> bool {
        if self.uids.is_empty() && self.gids.is_empty() {
            return true;
        }
        let Ok((_, uid, gid)) = socket::peer_credentials(peer) else { return false };
        let has_group = |groups: Vec<u32>| groups.iter().any(|group| self.gids.contains(group));
        self.uids.contains(&uid)
            || self.gids.contains(&gid)
            || (!self.gids.is_empty() && socket::peer_groups(peer).is_ok_and(has_group))
    }
}

impl Failures {
    /// One more. Returns when to try again.
    fn add(&mut self, now: Nanos) -> Nanos {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.count.min(10)).min(LONGEST_PAUSE);
        self.count = self.count.saturating_add(1);
        let again_at = now.saturating_add(nanos(pause));
        self.again_at = Some(again_at);
        again_at
    }
}
