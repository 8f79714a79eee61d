//! The state of a stop in one atomic word: its stage, whether messages were left unread, and how many calls are at work.
//!
//! # Protocol between a stop and the calls at work
//!
//! 1. A call that may run a callback enters first ([`Drain::enter`]). Entering and the stages are one atomic word, so of an
//!    entry and a cancellation one comes first: an entry after it is refused, one before it is waited for.
//! 2. A stop begins the drain ([`Drain::begin`]), and then ends each connection in the table. A connection that comes
//!    into the table sees the drain afterwards and is ended by the thread that inserted it.
//! 3. It cancels ([`Drain::cancel`]) when all is done or the time is up, and then closes each connection that nobody
//!    serves. A thread that re-arms a connection sees the cancellation afterwards and closes it, if the sweep has not.
//! 4. It waits until the table is empty and no call is at work, however long callbacks take.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sys::lock::{Condvar, Mutex};

/// The lower half of the word counts calls at work, the upper half are flags that are only ever set.
const CALLS: u64 = u32::MAX as u64;
const DRAINING: u64 = 1 << 32;
const CANCELLED: u64 = 1 << 33;
const ABANDONED: u64 = 1 << 34;
const LEFT_UNREAD: u64 = 1 << 35;

/// A wait checks again after this time, so that a lost notification costs no more.
const WAIT_STEP: Duration = Duration::from_millis(5);

/// The state of a stop.
#[derive(Debug, Default)]
pub(super) struct Drain {
    word: AtomicU64,
    lock: Mutex<()>,
    progress: Condvar,
}

/// A call that may run callbacks, until it is dropped.
#[derive(Debug)]
pub(super) struct AtWork<'a>(&'a Drain);

impl Drain {
    /// Begins to work; `None` after a cancellation.
    pub(super) fn enter(&self) -> Option<AtWork<'_>> {
        let before = self.word.fetch_add(1, Ordering::SeqCst);
        let at_work = AtWork(self);
        (before & CANCELLED == 0).then_some(at_work)
    }

    /// No new connections; those that are there are ended.
    pub(super) fn begin(&self) {
        self.word.fetch_or(DRAINING, Ordering::SeqCst);
    }

    /// No further callbacks.
    pub(super) fn cancel(&self) {
        self.word.fetch_or(DRAINING | CANCELLED, Ordering::SeqCst);
    }

    /// As [`Drain::cancel`], and no reports either: the handle is being freed inside one of its own callbacks.
    pub(super) fn abandon(&self) {
        self.word.fetch_or(DRAINING | CANCELLED | ABANDONED, Ordering::SeqCst);
    }

    /// Something that a writer has sent will not be handled.
    pub(super) fn leave_unread(&self) {
        self.word.fetch_or(LEFT_UNREAD, Ordering::SeqCst);
    }

    pub(super) fn has_begun(&self) -> bool {
        self.word.load(Ordering::SeqCst) & DRAINING != 0
    }

    /// Read before each callback: a plain load on every processor.
    #[inline]
    pub(super) fn is_cancelled(&self) -> bool {
        self.word.load(Ordering::Acquire) & CANCELLED != 0
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.word.load(Ordering::SeqCst) & ABANDONED != 0
    }

    pub(super) fn left_unread(&self) -> bool {
        self.word.load(Ordering::SeqCst) & LEFT_UNREAD != 0
    }

    pub(super) fn nobody_at_work(&self) -> bool {
        self.word.load(Ordering::SeqCst) & CALLS == 0
    }

    /// A connection is gone, a call has ended, or the deadline has moved.
    pub(super) fn notify(&self) {
        if self.has_begun() {
            let _held = self.lock.lock();
            self.progress.notify_all();
        }
    }

    /// Waits until `done`, but no longer than until `until` or a short step.
    pub(super) fn wait_a_step(&self, until: Option<Instant>, done: impl FnOnce() -> bool) {
        let held = self.lock.lock();
        if !done() {
            let step = Instant::now() + WAIT_STEP;
            drop(self.progress.wait_until(held, until.map_or(step, |until| until.min(step))));
        }
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        let before = self.0.word.fetch_sub(1, Ordering::SeqCst);
        if before & DRAINING != 0 {
            self.0.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_can_begin_until_the_stop_is_cut_short() {
        let drain = Drain::default();
        let first = drain.enter().expect("running");
        assert!(!drain.has_begun() && !drain.nobody_at_work());
        drain.begin();
        let second = drain.enter().expect("draining");
        assert!(drain.has_begun() && !drain.is_cancelled());
        drain.cancel();
        assert!(drain.enter().is_none() && drain.is_cancelled() && !drain.is_abandoned());
        drop(first);
        assert!(!drain.nobody_at_work());
        drop(second);
        assert!(drain.nobody_at_work(), "a refused call does not count");
    }

    #[test]
    fn what_was_left_unread_is_remembered_and_stages_are_never_undone() {
        let drain = Drain::default();
        assert!(!drain.left_unread());
        drain.leave_unread();
        assert!(drain.left_unread() && !drain.has_begun());
        drain.abandon();
        drain.begin();
        assert!(drain.has_begun() && drain.is_cancelled() && drain.is_abandoned() && drain.left_unread());
    }

    #[test]
    fn a_wait_ends_with_the_last_call_or_with_its_step() {
        let drain = Drain::default();
        // The quickest of some, since another process may take the processor in between.
        let quickest = (0..20).map(|_| {
            let begun = Instant::now();
            drain.wait_a_step(None, || true);
            drain.wait_a_step(Some(begun), || false);
            begun.elapsed()
        });
        assert!(quickest.min().is_some_and(|quickest| quickest < WAIT_STEP));
        let begun = Instant::now();
        drain.wait_a_step(None, || false);
        assert!(begun.elapsed() >= WAIT_STEP, "{:?}", begun.elapsed());
        drain.begin();
        std::thread::scope(|scope| {
            let at_work = drain.enter().expect("draining");
            scope.spawn(move || drop(at_work));
            while !drain.nobody_at_work() {
                drain.wait_a_step(None, || drain.nobody_at_work());
            }
        });
    }
}
