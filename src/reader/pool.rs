//! The elastic pool of threads.
//!
//! A thread that is about to run callbacks makes sure that another one waits, up to the limit: a callback that blocks delays
//! its own connection only. The kernel wakes the thread that waited last (`__add_wait_queue_exclusive`), so with one fast
//! connection the same warm thread does the work and the other sleeps.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::lifecycle::{Ending, Start};
use crate::sys::event::{Event, NO_EVENT};

use super::shared::{BROKEN_PAUSE, Counts, Shared};

/// A thread beyond the ones that a reader keeps leaves when it has had nothing to do for this long.
const THREAD_PATIENCE: Duration = Duration::from_secs(5);
const THREADS_KEPT: u32 = 2;

impl Shared {
    pub(crate) fn start(self: &Arc<Self>) -> Result<()> {
        let started = self.lifecycle.start(|| {
            *self.pool.counts.lock() = Counts { total: 1, waiting: 1 };
            self.spawn_thread().map_err(|source| {
                *self.pool.counts.lock() = Counts::default();
                Error::NoResources { action: "a thread for the reader".into(), source }
            })
        })?;
        if started == Start::Now {
            let _working = self.begin_work();
            self.notify("READY=1");
        }
        Ok(())
    }

    pub(super) fn spawn_thread(self: &Arc<Self>) -> io::Result<()> {
        let runner = Arc::clone(self);
        self.pool.threads.start("udsipc-reader", move || runner.run())
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
            let Some(event) = self.wait_for_one() else { return self.lanes.trim() };
            if event != Event::Woken {
                self.keep_one_waiting();
            }
            let served = self.handle(event);
            // First this, so that the thread which the connection's next message wakes need not start another one.
            self.pool.counts.lock().waiting += 1;
            if let Some(slot) = served {
                self.await_more(&slot);
            }
        }
    }

    /// Waits for an event, as a thread that counts as waiting. `None`: it is not needed any more.
    fn wait_for_one(&self) -> Option<Event> {
        loop {
            let patience = (self.pool.counts.lock().total > THREADS_KEPT).then_some(THREAD_PATIENCE);
            let mut event = None;
            let waited = self.poller.wait(&mut [NO_EVENT; 1], patience, |one| event = Some(one));
            if waited.is_err() {
                std::thread::sleep(BROKEN_PAUSE);
                event = Some(Event::Woken); // the caller looks whether all is over
            }
            let mut counts = self.pool.counts.lock();
            if event.is_some() {
                counts.waiting -= 1;
                return event;
            }
            if counts.total > THREADS_KEPT && counts.waiting > 1 {
                counts.waiting -= 1;
                counts.total -= 1;
                return None;
            }
        }
    }

    /// Callbacks may block, those for errors too: somebody else must be there for the other connections.
    fn keep_one_waiting(self: &Arc<Self>) {
        {
            let mut counts = self.pool.counts.lock();
            if counts.waiting > 0 || counts.total >= self.pool.limit {
                return;
            }
            counts.total += 1;
            counts.waiting += 1;
        }
        if self.spawn_thread().is_err() {
            // No thread to be had now: this one does the work alone, and tries again with the next event.
            let mut counts = self.pool.counts.lock();
            counts.total -= 1;
            counts.waiting -= 1;
        }
    }
}
