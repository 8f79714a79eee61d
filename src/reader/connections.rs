//! The open connections, by id and by when each is to be checked for inactivity.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::lock::Mutex;

use super::clock::Nanos;
use super::connection::{Connection, EndedFor};

/// The connections of one reader. An id is never used again, so a late event finds nobody.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    /// When to check whether a connection has been silent: once per timeout, however much it receives.
    checks: Mutex<Checks>,
    served: AtomicU64,
    inactive: AtomicU64,
}

/// Times and ids, the earliest time first.
type Checks = BinaryHeap<Reverse<(Nanos, u64)>>;

impl Connections {
    /// The id of the next connection; counts it.
    pub(super) fn next_id(&self) -> u64 {
        self.served.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn insert(&self, connection: Arc<Connection>) {
        self.open.lock().insert(connection.id, connection);
    }

    pub(super) fn get(&self, id: u64) -> Option<Arc<Connection>> {
        self.open.lock().get(&id).cloned()
    }

    /// Takes a connection out. What is returned may be the last of it: closing it may take time.
    #[must_use = "drop it where no lock is held"]
    pub(super) fn remove(&self, id: u64) -> Option<Arc<Connection>> {
        let mut open = self.open.lock();
        let removed = open.remove(&id);
        // After a rush the table shrinks again.
        if open.capacity() > 1024 && open.len() < open.capacity() / 8 {
            open.shrink_to_fit();
        }
        removed
    }

    pub(super) fn len(&self) -> usize {
        self.open.lock().len()
    }

    pub(super) fn all(&self) -> Vec<Arc<Connection>> {
        self.open.lock().values().cloned().collect()
    }

    /// Connections served so far.
    pub(super) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// One was closed for inactivity.
    pub(super) fn count_inactive(&self) {
        self.inactive.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections closed for inactivity.
    pub(super) fn inactive(&self) -> u64 {
        self.inactive.load(Ordering::Relaxed)
    }

    /// Remembers to check a connection at `at`. Returns when the next check is due.
    pub(super) fn check_at(&self, at: Nanos, id: u64) -> Option<Nanos> {
        let open = self.open.lock();
        let mut checks = self.checks.lock();
        // Connections that came and went leave their checks behind: not more of them than of others, though.
        if checks.len() > 1024 + 2 * open.len() {
            checks.retain(|Reverse((_, id))| open.contains_key(id));
        }
        drop(open);
        checks.push(Reverse((at, id)));
        checks.peek().map(|Reverse((at, _))| *at)
    }

    /// Ends the connections that have been silent for `timeout`. Returns when the next check is due.
    pub(super) fn end_inactive(&self, now: Nanos, timeout: Nanos) -> Option<Nanos> {
        loop {
            let id = {
                let mut checks = self.checks.lock();
                let Reverse((at, id)) = *checks.peek()?;
                if at > now {
                    return Some(at);
                }
                checks.pop();
                id
            };
            let Some(connection) = self.get(id) else { continue };
            let next = match connection.silent_for(now) {
                Some(silent) if silent >= timeout => {
                    connection.end(EndedFor::Inactivity);
                    continue;
                }
                Some(_) => connection.active_at().saturating_add(timeout).max(now + 1),
                None => now.saturating_add(timeout),
            };
            self.check_at(next, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::sys::descriptor::Descriptor;

    /// A connection that is in the table, and its peer.
    fn connect(connections: &Connections, now: Nanos) -> (Arc<Connection>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let connection = Arc::new(Connection::new(
            connections.next_id(),
            Descriptor::adopt(ours.into()).expect("a descriptor"),
            None,
            now,
        ));
        connections.insert(Arc::clone(&connection));
        (connection, theirs)
    }

    #[test]
    fn ids_are_counted_and_never_used_again() {
        let connections = Connections::default();
        let (first, _peer) = connect(&connections, 0);
        assert!(connections.remove(first.id).is_some() && connections.remove(first.id).is_none());
        let (second, _peer) = connect(&connections, 0);
        assert_ne!(first.id, second.id);
        assert!(connections.get(first.id).is_none() && connections.get(second.id).is_some());
        assert_eq!((connections.len(), connections.all().len(), connections.served()), (1, 1, 2));
    }

    #[test]
    fn a_connection_is_ended_when_it_has_been_silent_for_the_timeout_and_not_before() {
        let connections = Connections::default();
        let (silent, _peer) = connect(&connections, 5);
        assert_eq!(connections.check_at(100, silent.id), Some(100));
        assert_eq!(connections.end_inactive(99, 100), Some(100), "not due yet");
        assert_eq!(connections.end_inactive(104, 100), Some(105), "silent for 99 of 100");
        assert_eq!(silent.ended_for(), EndedFor::Nothing);
        assert_eq!(connections.end_inactive(105, 100), None);
        assert_eq!(silent.ended_for(), EndedFor::Inactivity);
    }

    #[test]
    fn a_connection_with_something_to_read_is_not_silent() {
        let connections = Connections::default();
        let (connection, mut peer) = connect(&connections, 0);
        peer.write_all(b"x").expect("room");
        connections.check_at(100, connection.id);
        assert_eq!(connections.end_inactive(100, 100), Some(200));
        assert_eq!(connection.ended_for(), EndedFor::Nothing);
    }

    #[test]
    fn checks_of_connections_that_are_gone_do_not_pile_up() {
        let connections = Connections::default();
        let (kept, _peer) = connect(&connections, 0);
        for gone in 0..100_000 {
            connections.check_at(50, 1_000 + gone);
        }
        assert_eq!(connections.check_at(40, kept.id), Some(40));
        assert!(connections.checks.lock().len() <= 1024 + 2 + 1);
        assert_eq!(connections.end_inactive(1_000, 1_000), None);
        assert_eq!(kept.ended_for(), EndedFor::Inactivity);
    }

    #[test]
    fn a_removed_connection_is_closed_by_whoever_drops_it() {
        let connections = Connections::default();
        let (connection, mut peer) = connect(&connections, 0);
        let id = connection.id;
        drop(connection);
        let removed = connections.remove(id);
        peer.set_nonblocking(true).expect("a socket");
        assert!(peer.read(&mut [0]).is_err(), "still open");
        drop(removed);
        assert_eq!(peer.read(&mut [0]).expect("the end"), 0);
    }
}
