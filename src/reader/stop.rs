//! The end of a reader: no new connections, what was sent is received, callbacks are waited for.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::lifecycle::{Driver, Ending, Phase, Stop, earlier};
use crate::sys::event::{Event, NO_EVENT};
use crate::sys::socket;

use super::connection::Ended;
use super::shared::{LISTENER, Shared};

/// How often a drain looks at what no event tells.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// A call of the host that may run callbacks, until it is dropped.
pub(super) struct Working<'a>(&'a Shared);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.working.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    pub(super) fn begin_work(&self) -> Working<'_> {
        self.working.fetch_add(1, Ordering::SeqCst);
        Working(self)
    }

    pub(crate) fn stop(&self, timeout: Duration) -> Result<()> {
        match self.lifecycle.stop(timeout) {
            Stop::Over => {}
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
            Driver::Nobody => self.turn_backlog_away(),
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
        accepting.backlog = self.listener.shut();
        drop(accepting);
        for slot in self.table.all() {
            slot.end(Ended::Stop);
        }
    }

    /// Callbacks were never asked for, so what waits in our backlog stays unread: its writers are told so by the kernel, and
    /// whoever stops the reader by us.
    fn turn_backlog_away(&self) {
        let mut waiting = false;
        let _ = self.poller.wait(&mut [NO_EVENT; 4], Some(Duration::ZERO), |event| {
            waiting |= matches!(event, Event::Ready { key: LISTENER, .. });
        });
        if !self.listener.shut() {
            return;
        }
        let mut unread = false;
        let end = loop {
            match self.listener.accept() {
                Ok(peer) => {
                    let _ = socket::shutdown_read(peer.as_fd()); // what it sends from now on fails
                    unread |= self.admits(peer.as_fd()) && socket::has_unread(peer.as_fd());
                }
                Err(end) => break end,
            }
        };
        // Without a descriptor for one that waits nobody can tell whether it has sent something.
        let untold = waiting && end.kind() != io::ErrorKind::WouldBlock;
        self.cut_short.fetch_or(unread || untold, Ordering::SeqCst);
    }

    fn deadline(&self) -> Option<Instant> {
        match self.lifecycle.phase() {
            Phase::Draining { deadline, .. } => deadline,
            Phase::Running | Phase::Stopped => None,
        }
    }

    /// Accepts what waits in our backlog. False if something had to be left for want of descriptors or memory.
    fn empty_backlog(&self) -> bool {
        let mut accepting = self.accepting.lock();
        if accepting.backlog {
            accepting.backlog = self.accept_some(&mut accepting, usize::MAX).is_err();
        }
        !accepting.backlog
    }

    /// Until all connections are gone or the time is up.
    fn await_drain(&self, driver: Driver) {
        loop {
            let deadline = self.deadline();
            let emptied = self.empty_backlog();
            if emptied && self.table.len() == 0 {
                return;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.cut_short.fetch_or(!emptied, Ordering::SeqCst);
                return;
            }
            if driver == Driver::Host {
                // Another thread of the host may serve the last connection: there is no event for that.
                self.drive(Some(DRAIN_LOOK));
                continue;
            }
            let held = self.gone_lock.lock();
            if (emptied && self.table.len() == 0) || self.deadline() != deadline {
                continue;
            }
            let look = (!emptied).then(|| Instant::now() + DRAIN_LOOK);
            match earlier(deadline, look) {
                Some(until) => drop(self.gone.wait_until(held, until)),
                None => drop(self.gone.wait(held)),
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
        self.pool.threads.join_all();
        let mut held = self.gone_lock.lock();
        // Callbacks in calls of the host.
        while self.table.len() > 0 || self.working.load(Ordering::SeqCst) > 0 {
            held = self.gone.wait_until(held, Instant::now() + DRAIN_LOOK);
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
