//! The state of a writer, and what threads of ours, its host and its callers do with it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorHandler, Result};
use crate::lifecycle::{Driver, Ending, Lifecycle, Phase, Stop};
use crate::options::WriterOptions;
use crate::sys::event::{Event, NO_EVENT, Poller};
use crate::sys::fork;
use crate::sys::lock::{Condvar, Mutex, MutexGuard};

use super::connection::SOCKET;
use super::crew::{BROKEN_PAUSE, Berth, Crew, Driven};
use super::queue::{Queue, Refusal};
use super::rota::{Asked, Turns};
use super::sender::{Next, Report, Sender};
use super::world::{Counters, World};

/// What the handle shares with the threads that drive the writer.
pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) options: WriterOptions,
    pub(super) queue: Queue,
    pub(super) poller: Poller,
    pub(super) counters: Counters,
    pub(super) socket: AtomicI32,
    pub(super) sender: Mutex<Sender>,
    pub(super) lifecycle: Lifecycle,
    /// Its place among those that threads of ours drive.
    pub(super) berth: OnceLock<Berth>,
    pub(super) turns: Turns,
    /// Losses that a flush has told of.
    pub(super) losses_told: AtomicU64,
    /// Held while reports are delivered: one callback at a time.
    pub(super) delivering: Mutex<()>,
    /// Reports that have been gathered and not delivered yet: a stop waits for them.
    pub(super) undelivered: Mutex<usize>,
    pub(super) delivered: Condvar,
    /// The handle was dropped inside one of its own callbacks: there is nobody left to tell.
    pub(super) muted: AtomicBool,
    pub(super) fork: fork::Token,
}

impl Shared {
    pub(super) fn world(&self) -> World<'_> {
        self.world_of(None)
    }

    fn world_of<'a>(&'a self, crew: Option<&'a Arc<Crew>>) -> World<'a> {
        World {
            crew,
            path: &self.path,
            options: &self.options,
            queue: &self.queue,
            poller: &self.poller,
            counters: &self.counters,
            socket: &self.socket,
        }
    }

    /// Whether there is nothing special about a message or the process: neither empty, nor too large, nor a forked child.
    #[inline]
    pub(super) fn is_plain(&self, message: &[u8]) -> bool {
        // An empty message wraps around and is above every limit.
        (message.len() as u64).wrapping_sub(1) < self.options.max_message_size && self.fork.is_current()
    }

    /// A message that is not plain.
    #[cold]
    pub(super) fn judge(&self, message: &[u8]) -> Result<()> {
        if !self.fork.is_current() {
            return Err(Error::Forked);
        }
        if message.is_empty() {
            return if self.queue.is_closed() { Err(self.lifecycle.why_stopped()) } else { Ok(()) };
        }
        Err(Error::MessageTooLarge { size: message.len() as u64, limit: self.options.max_message_size })
    }

    /// The queue knows that it refused, but not all about it.
    #[cold]
    pub(super) fn explain(&self, refusal: Refusal) -> Error {
        match refusal {
            Refusal::Closed => self.lifecycle.why_stopped(),
            Refusal::Full => {
                let (depth, max) = (self.queue.account().depth, self.queue.max());
                Error::BufferFull {
                    messages: depth.messages,
                    max_messages: max.messages,
                    bytes: depth.bytes,
                    max_bytes: max.bytes,
                }
            }
            Refusal::NoMemory => {
                let source = std::io::ErrorKind::OutOfMemory.into();
                Error::NoResources { action: "memory for a message".into(), source }
            }
        }
    }

    /// The sender slept, and now there is a message.
    #[cold]
    pub(super) fn rouse(self: &Arc<Self>) {
        let sent = self.sender.try_lock().is_some_and(|mut sender| sender.send_at_once(Instant::now(), self.world()));
        if !sent {
            self.ask_for_turn();
        }
    }

    /// There is something to do for whoever drives the writer.
    fn ask_for_turn(self: &Arc<Self>) {
        match self.berth.get() {
            Some(berth) => berth.ask(self),
            None => self.poller.wake(),
        }
    }

    /// Messages that were accepted and did not, or may not have, come through.
    pub(super) fn lost(&self) -> u64 {
        self.queue.account().abandoned.messages + self.counters.suspected_lost.load(Ordering::Relaxed)
    }

    pub(super) fn wait_for_room(self: &Arc<Self>, len: usize, deadline: Option<Instant>) {
        if self.lifecycle.driver() == Driver::Host {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            self.drive(left);
        } else {
            self.queue.wait_for_room(len, deadline);
        }
    }

    fn guard(&self, turn: impl FnOnce() -> bool) -> bool {
        catch_unwind(AssertUnwindSafe(turn)).unwrap_or_else(|_| {
            self.panicked();
            false
        })
    }

    /// Waits for something to happen and moves the sender on. False when the writer has come to rest.
    pub(super) fn drive(self: &Arc<Self>, timeout: Option<Duration>) -> bool {
        let closed = self.look_for_close(timeout);
        self.advance(closed, None)
    }

    /// Waits for something to happen. True if the socket's peer has gone.
    fn look_for_close(&self, timeout: Option<Duration>) -> bool {
        let mut closed = false;
        let waited = self.poller.wait(&mut [NO_EVENT; 4], timeout, |event| {
            closed |= matches!(event, Event::Ready { key: SOCKET, closed: true });
        });
        if waited.is_err() {
            // Somebody closed our descriptors: without this pause the loop would spin.
            std::thread::sleep(BROKEN_PAUSE);
        }
        closed
    }

    fn advance(self: &Arc<Self>, closed: bool, crew: Option<&Arc<Crew>>) -> bool {
        if self.lifecycle.phase() == Phase::Stopped {
            self.poller.wake(); // others may wait there as well
            return false;
        }
        let (next, draining, reports) = {
            let mut sender = self.lock_sender(crew);
            // Now, and not before: who waited for the sender must not rest in a queue that is being drained meanwhile.
            let phase = self.lifecycle.phase();
            let next = sender.advance(Instant::now(), phase, closed, self.world_of(crew));
            (next, matches!(phase, Phase::Draining { .. }), self.gather(&mut sender))
        };
        if draining && matches!(next, Next::Again) {
            // For the stop, which goes on at once: this thread may be long in a callback, and others wait for it.
            self.poller.wake();
        }
        match crew {
            Some(crew) if !reports.is_empty() && self.options.on_error.is_some() => {
                crew.while_away(|| self.deliver(reports))
            }
            _ => self.deliver(reports),
        }
        match next {
            Next::Wait => true,
            Next::Again => {
                match crew {
                    Some(_) => drop(self.turns.ask(Asked::WORK)), // it has its turn, and gets another one
                    None => self.poller.wake(),
                }
                true
            }
            Next::Finished(ending) => {
                self.lifecycle.finish(ending);
                self.poller.wake();
                false
            }
        }
    }

    /// The sender may be in the hands of a caller: of a stop that searches for the path, of a flush.
    fn lock_sender(&self, crew: Option<&Arc<Crew>>) -> MutexGuard<'_, Sender> {
        self.sender.try_lock().unwrap_or_else(|| match crew {
            Some(crew) => crew.while_away(|| self.sender.lock()),
            None => self.sender.lock(),
        })
    }

    /// Takes what the sender has to report, while its lock is held: from now on a stop waits for the delivery.
    fn gather(&self, sender: &mut Sender) -> Vec<Report> {
        let reports = sender.take_reports();
        if !reports.is_empty() {
            *self.undelivered.lock() += 1;
        }
        reports
    }

    fn deliver(&self, reports: Vec<Report>) {
        if reports.is_empty() {
            return;
        }
        let _delivery = Delivery(self);
        // Muted, it may be that this very thread delivers already.
        if let Some(on_error) = self.options.on_error.as_ref().filter(|_| !self.muted.load(Ordering::Relaxed)) {
            self.call_back(on_error, &reports);
        }
    }

    fn call_back(&self, on_error: &ErrorHandler, reports: &[Report]) {
        let _delivering = self.delivering.lock();
        let _inside = self.lifecycle.enter_callback();
        for report in reports {
            for _ in 0..report.times {
                if self.muted.load(Ordering::Relaxed) {
                    return;
                }
                // A callback that panics has had its say; the messages are not its concern.
                let _ = catch_unwind(AssertUnwindSafe(|| on_error(&report.error, report.context)));
            }
        }
    }

    pub(super) fn stop(self: &Arc<Self>, timeout: Duration) -> Result<()> {
        self.queue.close();
        match self.lifecycle.stop(timeout) {
            Stop::Over => {}
            Stop::Lead(Driver::Nobody) => self.give_up_undriven(),
            Stop::Follow(_) => self.poller.wake(), // the deadline may be earlier now
            // The caller does it himself, also beside threads of ours: they may be busy with other writers.
            Stop::Lead(Driver::Threads | Driver::Host) => {
                if self.guard(|| self.advance(false, None)) {
                    while self.guard(|| self.drive(None)) {}
                }
            }
        }
        let result = self.lifecycle.wait_until_stopped();
        self.await_delivery();
        if let Some(berth) = self.berth.get() {
            berth.leave(); // each time: a message that was queued beside the first stop may have asked for a turn after it
        }
        result
    }

    /// Until no callback runs or will run.
    fn await_delivery(&self) {
        let mut undelivered = self.undelivered.lock();
        while *undelivered > 0 {
            undelivered = self.delivered.wait(undelivered);
        }
    }

    /// The end of a writer that nobody moves on, or will.
    pub(super) fn give_up_undriven(&self) {
        let (ending, reports) = {
            let mut sender = self.sender.lock();
            (sender.give_up(self.world()), self.gather(&mut sender))
        };
        self.deliver(reports);
        self.lifecycle.finish(ending);
    }

    /// In a forked child: closes the descriptors, and leaves everything else as it is. The parent's threads do not exist
    /// here, and a lock that one of them held stays locked for ever.
    pub(super) fn leave_to_parent(self: &Arc<Self>) {
        if self.muted.swap(true, Ordering::Relaxed) {
            return; // done already
        }
        for fd in self.poller.raw_fds() {
            crate::sys::close_inherited(fd);
        }
        let socket = self.socket.load(Ordering::Relaxed);
        if socket >= 0 {
            crate::sys::close_inherited(socket);
        }
        if let Some(berth) = self.berth.get() {
            berth.leave_to_parent();
        }
        std::mem::forget(Arc::clone(self));
    }
}

/// Reports that are being delivered, until this is dropped.
struct Delivery<'a>(&'a Shared);

impl Drop for Delivery<'_> {
    fn drop(&mut self) {
        *self.0.undelivered.lock() -= 1;
        self.0.delivered.notify_all();
    }
}

impl Driven for Shared {
    fn poller(&self) -> &Poller {
        &self.poller
    }

    fn turns(&self) -> &Turns {
        &self.turns
    }

    fn take_turn(self: Arc<Self>, event: bool, crew: &Arc<Crew>) -> bool {
        self.guard(|| {
            let closed = event && self.look_for_close(Some(Duration::ZERO));
            self.advance(closed, Some(crew))
        })
    }

    fn panicked(&self) {
        self.queue.close();
        self.lifecycle.finish(Ending::Panicked);
        self.poller.wake(); // for a stop that waits there
    }
}
