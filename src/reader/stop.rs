//! The end of a reader: no new connections, what was sent is received, callbacks are waited for.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::lifecycle::{Driver, Ending, Phase, Stop};

use super::connection::Ended;
use super::shared::Shared;

impl Shared {
    pub(crate) fn stop(&self, timeout: Duration) -> Result<()> {
        match self.lifecycle.stop(timeout) {
            Stop::Over(ending) => return Stop::over(ending),
            Stop::Follow(_) => {
                let _held = self.gone_lock.lock();
                self.gone.notify_all(); // the deadline may be earlier now
            }
            Stop::Lead(driver) => self.lead_stop(driver),
        }
        self.lifecycle.wait_until_stopped()
    }

    fn lead_stop(&self, driver: Driver) {
        self.notify("STOPPING=1");
        match driver {
            Driver::Nobody => {
                // Callbacks were never asked for, so what waits stays unread, and its writers are told so by the kernel.
                self.listener.shut();
            }
            Driver::Threads | Driver::Host => {
                self.begin_drain();
                self.await_drain(driver);
            }
        }
        self.listener.close();
        self.force();
        self.await_callbacks();
        let cut_short = self.cut_short.load(Ordering::SeqCst);
        self.lifecycle.finish(if cut_short { Ending::TimedOut } else { Ending::Clean });
    }

    /// No new connections; those in our backlog are still accepted, with what they have sent; all are ended.
    fn begin_drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        let mut accepting = self.accepting.lock();
        accepting.closed = true;
        self.listener.unregister(&self.poller);
        if self.listener.shut() {
            let _ = self.accept_some(&mut accepting, usize::MAX);
        }
        drop(accepting);
        for slot in self.table.all() {
            slot.end(Ended::Stop);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self.lifecycle.phase() {
            Phase::Draining { deadline, .. } => deadline,
            Phase::Running | Phase::Stopped => None,
        }
    }

    /// Until all connections are gone or the time is up.
    fn await_drain(&self, driver: Driver) {
        loop {
            let deadline = self.deadline();
            if self.table.len() == 0 || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return;
            }
            if driver == Driver::Host {
                self.drive(deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())));
                continue;
            }
            let mut held = self.gone_lock.lock();
            if self.table.len() == 0 || self.deadline() != deadline {
                continue;
            }
            match deadline {
                Some(deadline) => drop(self.gone.wait_until(&mut held, deadline)),
                None => self.gone.wait(&mut held),
            }
        }
    }

    /// No further callbacks. What nobody serves is closed here; who serves one sees it and closes that.
    pub(super) fn force(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.forced.store(true, Ordering::SeqCst);
        for slot in self.table.all() {
            self.close_unserved(&slot);
        }
        self.poller.wake();
    }

    /// Running callbacks are waited for, however long they take.
    fn await_callbacks(&self) {
        while let Some(thread) = { self.pool.threads.lock().pop() } {
            let _ = thread.join();
        }
        let mut held = self.gone_lock.lock();
        while self.table.len() > 0 {
            self.gone.wait(&mut held); // callbacks in `dispatch` calls of the host
        }
    }

    /// Ends without waiting for anything, and calls nobody any more.
    pub(crate) fn abandon(&self) {
        self.muted.store(true, Ordering::SeqCst);
        self.lifecycle.stop(Duration::ZERO);
        self.accepting.lock().closed = true;
        self.listener.shut();
        self.listener.close();
        self.force();
        self.lifecycle.finish(Ending::TimedOut);
    }
}
