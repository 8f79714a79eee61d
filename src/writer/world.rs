//! What the sender works with: the options, the queue, the poller, and what it counts beside the account.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use crate::options::WriterOptions;
use crate::sys::event::Poller;

use super::crew::Crew;
use super::queue::Queue;

/// What the sender counts beside the account. Only the sender writes.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) failed: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) suspected_lost: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) connect_failures: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// What the sender works with.
#[derive(Clone, Copy)]
pub(crate) struct World<'a> {
    /// The threads that drive this writer and others, if the caller is one of them.
    pub(super) crew: Option<&'a Arc<Crew>>,
    pub(crate) path: &'a Path,
    pub(crate) options: &'a WriterOptions,
    pub(crate) queue: &'a Queue,
    pub(crate) poller: &'a Poller,
    pub(crate) counters: &'a Counters,
    /// The number of the connection's descriptor, -1 if there is none: for those who ask without a lock.
    pub(crate) socket: &'a AtomicI32,
}

impl World<'_> {
    /// Whether other writers wait for the thread that drives this one.
    pub(super) fn is_crowded(&self) -> bool {
        self.crew.is_some_and(|crew| crew.is_crowded())
    }

    /// For what may take longer than it should: other writers do not wait for it.
    pub(super) fn while_away<T>(&self, body: impl FnOnce() -> T) -> T {
        match self.crew {
            Some(crew) => crew.while_away(body),
            None => body(),
        }
    }
}
