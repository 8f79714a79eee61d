//! The open connections, and which of them have been silent for too long.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::sys::lock::Mutex;

use super::connection::{Ended, Slot};

/// A point in time, in nanoseconds since the reader was made.
pub(crate) type Nanos = u64;

/// The connections of one reader, by their ids. An id is never used again, so a late event finds nobody.
#[derive(Debug, Default)]
pub(crate) struct Table {
    open: Mutex<HashMap<u64, Arc<Slot>>>,
    /// When to look whether a connection has been silent: once per timeout, however much it receives.
    looks: Mutex<BinaryHeap<Reverse<(Nanos, u64)>>>,
    served: AtomicU64,
}

impl Table {
    /// The id of the next connection; counts it.
    pub(crate) fn next_id(&self) -> u64 {
        self.served.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn insert(&self, slot: Arc<Slot>) {
        self.open.lock().insert(slot.id, slot);
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<Slot>> {
        self.open.lock().get(&id).cloned()
    }

    pub(crate) fn remove(&self, id: u64) -> Option<Arc<Slot>> {
        let mut open = self.open.lock();
        let removed = open.remove(&id);
        // After a rush the table shrinks again.
        if open.capacity() > 1024 && open.len() < open.capacity() / 8 {
            open.shrink_to_fit();
        }
        removed
    }

    pub(crate) fn len(&self) -> usize {
        self.open.lock().len()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Slot>> {
        self.open.lock().values().cloned().collect()
    }

    /// As [`Table::all`] for a forked child, where a lock may be held for ever by a thread that does not exist there.
    pub(crate) fn all_in_child(&self) -> Vec<Arc<Slot>> {
        self.open.try_lock().map(|open| open.values().cloned().collect()).unwrap_or_default()
    }

    /// Connections served so far.
    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Remembers to look at a connection at `at`. Returns when the next look is due.
    pub(crate) fn look_at(&self, at: Nanos, id: u64) -> Option<Nanos> {
        let open = self.open.lock();
        let mut looks = self.looks.lock();
        // Connections that came and went leave their looks behind: not more of them than of others, though.
        if looks.len() > 1024 + 2 * open.len() {
            looks.retain(|Reverse((_, id))| open.contains_key(id));
        }
        drop(open);
        looks.push(Reverse((at, id)));
        looks.peek().map(|Reverse((at, _))| *at)
    }

    /// Ends the connections that have been silent for `timeout`. Returns when the next look is due.
    pub(crate) fn end_silent(&self, now: Nanos, timeout: Duration) -> Option<Nanos> {
        let timeout = u64::try_from(timeout.as_nanos()).unwrap_or(Nanos::MAX);
        loop {
            let id = {
                let mut looks = self.looks.lock();
                let Reverse((at, id)) = *looks.peek()?;
                if at > now {
                    return Some(at);
                }
                looks.pop();
                id
            };
            let Some(slot) = self.get(id) else { continue };
            match slot.silent_for(now) {
                Some(silent) if silent.as_nanos() >= u128::from(timeout) => slot.end(Ended::Idle),
                Some(_) => drop(self.look_at(slot.active_at().saturating_add(timeout).max(now + 1), id)),
                None => drop(self.look_at(now.saturating_add(timeout), id)),
            }
        }
    }
}
