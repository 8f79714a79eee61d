//! One epoll set for the listener and all connections: what happens, and who serves it.
//!
//! A registration fires once and is armed again when its turn is over, so one thread serves a connection at a time.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::error::{Context, Error, Result};
use crate::sys::event::{Event, Interest, NO_EVENT};
use crate::sys::socket;

use super::connection::{Ended, Slot};
use super::hands::{Rules, Turn};
use super::shared::{BROKEN_PAUSE, LISTENER, Shared};
use super::turnstile::Turnstile;

/// How many events one `dispatch` call of the host serves.
const EVENTS: usize = 64;

impl Shared {
    pub(crate) fn dispatch(&self, timeout: Option<Duration>) -> Result<()> {
        let first = self.lifecycle.dispatch()?;
        let _working = self.begin_work();
        // Either the stop sees that we work, or we see that it is over: a host that calls again and again ends here.
        if self.forced.load(Ordering::SeqCst) {
            return Err(Error::Stopped);
        }
        if first {
            self.notify("READY=1");
        }
        self.drive(timeout);
        Ok(())
    }

    /// Waits for events and serves each once.
    pub(super) fn drive(&self, timeout: Option<Duration>) {
        let mut events = [Event::Woken; EVENTS];
        let mut count = 0;
        let waited = self.poller.wait(&mut [NO_EVENT; EVENTS], timeout, |event| {
            events[count] = event;
            count += 1;
        });
        if waited.is_err() {
            std::thread::sleep(BROKEN_PAUSE);
        }
        for event in &events[..count] {
            if let Some(slot) = self.handle(*event) {
                self.await_more(&slot);
            }
        }
        if self.forced.load(Ordering::SeqCst) {
            self.poller.wake(); // others may wait there as well
        }
    }

    /// Does what an event asks for. A connection that it returns waits for more: see [`Shared::await_more`].
    pub(super) fn handle(&self, event: Event) -> Option<Arc<Slot>> {
        match event {
            Event::Woken => {}
            Event::Timer => self.look_around(),
            Event::Ready { key: LISTENER, .. } => self.accept_turn(),
            Event::Ready { key, .. } => return self.serve(key),
        }
        None
    }

    /// The timer: silent connections are ended, offenders have waited, a pause in accepting may be over.
    pub(super) fn look_around(&self) {
        if self.options.inactivity_timeout != Duration::MAX
            && let Some(next) = self.table.end_silent(self.now(), self.options.inactivity_timeout)
        {
            self.arm(next);
        }
        self.release_offenders();
        let again_at = self.accepting.lock().again_at;
        match again_at {
            Some(at) if at <= self.now() => {
                self.accepting.lock().again_at = None;
                self.accept_turn();
            }
            Some(at) => self.arm(at),
            None => {}
        }
    }

    fn release_offenders(&self) {
        let mut offenders = self.offenders.lock();
        while let Some(id) = offenders.release(self.now()) {
            let Some(slot) = self.table.get(id) else { continue };
            let _ = self.poller.modify(slot.fd.as_fd(), slot.id, Interest::READABLE_ONCE);
        }
        if let Some(next) = offenders.next_release() {
            self.arm(next);
        }
    }

    fn serve(&self, id: u64) -> Option<Arc<Slot>> {
        let slot = self.table.get(id)?;
        let _one_at_a_time = self.turnstile.as_ref().map(Turnstile::pass);
        let turn = match self.lanes.take() {
            Ok(mut lane) => {
                let _inside = self.lifecycle.enter_callback();
                let rules = Rules {
                    handler: &self.handler,
                    max_message_size: self.options.max_message_size,
                    failed: self,
                    forced: &self.forced,
                };
                let turn = slot.serve(&mut lane, rules, || self.now());
                self.lanes.put(lane);
                turn
            }
            Err(error) => Some(Turn::Failed(error, Context::Payload)),
        };
        match turn? {
            Turn::More => return Some(slot),
            end => self.close(&slot, end),
        }
        None
    }

    pub(super) fn await_more(&self, slot: &Arc<Slot>) {
        let _ = self.poller.modify(slot.fd.as_fd(), slot.id, Interest::READABLE_ONCE);
        // Either the sweep of `force` has found it unserved, or we see that sweep.
        if self.forced.load(Ordering::SeqCst) {
            self.close_unserved(slot);
        }
    }

    pub(super) fn close_unserved(&self, slot: &Arc<Slot>) {
        if let Some(unread) = slot.close_unserved() {
            self.close(slot, Turn::Cut(unread));
        }
    }

    pub(super) fn close(&self, slot: &Arc<Slot>, end: Turn) {
        match end {
            Turn::Failed(error, context) => {
                self.counters.errors.fetch_add(1, Ordering::Relaxed);
                if matches!(error, Error::MessageTooLarge { .. } | Error::InvalidLengthPrefix)
                    && let Ok((pid, ..)) = socket::peer_credentials(slot.fd.as_fd())
                {
                    self.offenders.lock().note(pid, self.now());
                }
                self.forget(slot);
                self.report(&error, context);
            }
            Turn::Cut(unread) => {
                self.cut_short.fetch_or(unread, Ordering::SeqCst);
                self.forget(slot);
            }
            Turn::End | Turn::More => {
                if slot.ended() == Ended::Idle {
                    self.counters.idle_closed.fetch_add(1, Ordering::Relaxed);
                }
                self.forget(slot);
            }
        }
    }

    /// Takes a connection out of everything. It is closed with its last user.
    pub(super) fn forget(&self, slot: &Slot) {
        let _ = self.poller.remove(slot.fd.as_fd());
        // The writer must see the end even if a forked child of this process holds the socket too.
        let _ = socket::shutdown_both(slot.fd.as_fd());
        self.table.remove(slot.id);
        if self.draining.load(Ordering::SeqCst) {
            let _held = self.gone_lock.lock();
            self.gone.notify_all();
        }
    }
}
