//! The elastic pool of threads.
//!
//! A thread that is about to run callbacks makes sure that another one waits, up to the limit: a callback that blocks delays
//! its own connection only. The kernel wakes the thread that waited last (`__add_wait_queue_exclusive`), so with one fast
//! connection the same warm thread does the work and the other sleeps.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::lifecycle::{Ending, Start};
use crate::sys::event::{Event, NO_EVENT};
use crate::sys::thread;

use super::dispatch::BROKEN_PAUSE;
use super::shared::{LISTENER, Shared};

/// A thread beyond the ones that a reader keeps leaves when it has had nothing to do for this long.
const THREAD_PATIENCE: Duration = Duration::from_secs(5);
const THREADS_KEPT: u32 = 2;

/// The threads of one reader.
#[derive(Debug, Default)]
pub(super) struct Pool {
    pub(super) limit: u32,
    pub(super) total: AtomicU32,
    pub(super) waiting: AtomicUsize,
    pub(super) threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Shared {
    pub(crate) fn start(self: &Arc<Self>) -> Result<()> {
        let started = self.lifecycle.start(|| {
            self.pool.total.store(1, Ordering::SeqCst);
            self.spawn_thread().map_err(|source| {
                self.pool.total.store(0, Ordering::SeqCst);
                Error::from_os("a thread for the reader", source)
            })
        })?;
        if started == Start::Now {
            self.notify("READY=1");
        }
        Ok(())
    }

    pub(super) fn spawn_thread(self: &Arc<Self>) -> io::Result<()> {
        let runner = Arc::clone(self);
        let handle = thread::spawn("udsipc-reader", move || runner.run())?;
        let mut threads = self.pool.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(handle);
        Ok(())
    }

    /// The body of each thread.
    fn run(self: &Arc<Self>) {
        if catch_unwind(AssertUnwindSafe(|| self.serve_until_forced())).is_err() {
            // A bug of ours: nothing more is served, and every stop says so.
            self.force();
            self.lifecycle.finish(Ending::Panicked);
        }
        self.poller.wake(); // others may wait there as well
    }

    fn serve_until_forced(self: &Arc<Self>) {
        while !self.forced.load(Ordering::SeqCst) {
            let Some(event) = self.wait_for_one() else {
                if self.may_leave() {
                    return;
                }
                continue;
            };
            if let Event::Ready { key, .. } = event
                && key != LISTENER
            {
                self.keep_one_waiting();
            }
            self.handle(event);
        }
    }

    pub(super) fn wait_for_one(&self) -> Option<Event> {
        let patience = (self.pool.total.load(Ordering::SeqCst) > THREADS_KEPT).then_some(THREAD_PATIENCE);
        let mut event = None;
        self.pool.waiting.fetch_add(1, Ordering::SeqCst);
        let waited = self.poller.wait(&mut [NO_EVENT; 1], patience, |one| event = Some(one));
        self.pool.waiting.fetch_sub(1, Ordering::SeqCst);
        if waited.is_err() {
            std::thread::sleep(BROKEN_PAUSE);
        }
        event
    }

    /// Callbacks may block: somebody else must be there for the other connections.
    pub(super) fn keep_one_waiting(self: &Arc<Self>) {
        if self.pool.waiting.load(Ordering::SeqCst) > 0 {
            return;
        }
        let more = |total: u32| (total < self.pool.limit).then_some(total + 1);
        if self.pool.total.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
            && self.spawn_thread().is_err()
        {
            // No thread to be had now: this one does the work alone, and tries again with the next event.
            self.pool.total.fetch_sub(1, Ordering::SeqCst);
        }
    }

    pub(super) fn may_leave(&self) -> bool {
        let fewer = |total: u32| (total > THREADS_KEPT).then(|| total - 1);
        let leaves = self.pool.total.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok();
        if leaves {
            self.lanes.trim();
        }
        leaves
    }
}
