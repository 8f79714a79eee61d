//! Counts errors and reports them to the host's error callback.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Context, Error};
use crate::lifecycle::Lifecycle;
use crate::options::ErrorHandler;

use super::deliver::OnFailure;
use super::drain::Drain;
use super::handler::Failure;
use super::ticket_lock::{Ticket, TicketLock};

/// Where errors go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reporter<'a> {
    pub(super) errors: &'a Errors,
    pub(super) lifecycle: &'a Lifecycle,
    pub(super) drain: &'a Drain,
}

/// The error callback and its count.
#[derive(Debug, Default)]
pub(super) struct Errors {
    on_error: Option<ErrorHandler>,
    count: AtomicU64,
    /// With one handler thread: held during each turn and each report, so that callbacks never overlap.
    one_at_a_time: Option<TicketLock>,
}

impl Errors {
    pub(super) fn new(on_error: Option<ErrorHandler>, overlap: bool) -> Errors {
        Errors { on_error, count: AtomicU64::new(0), one_at_a_time: (!overlap).then(TicketLock::default) }
    }

    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until no other callback runs, if callbacks must not overlap.
    pub(super) fn lock_callbacks(&self) -> Option<Ticket<'_>> {
        self.one_at_a_time.as_ref().map(TicketLock::lock)
    }
}

impl Reporter<'_> {
    /// Reports what happened outside of a turn.
    pub(super) fn report(self, error: &Error, context: Context) {
        if self.errors.on_error.is_some() {
            let _held = self.errors.lock_callbacks();
            self.report_in_turn(error, context);
        }
    }

    /// Reports from a thread that holds [`Errors::lock_callbacks`].
    pub(super) fn report_in_turn(self, error: &Error, context: Context) {
        let Some(on_error) = &self.errors.on_error else { return };
        if self.drain.is_abandoned() {
            return;
        }
        let _inside = self.lifecycle.enter_callback();
        // A panic of the callback ends here; the messages are not its concern.
        let _ = catch_unwind(AssertUnwindSafe(|| on_error.call(error, context)));
    }

    pub(super) fn count(self) {
        self.errors.count.fetch_add(1, Ordering::Relaxed);
    }
}

impl OnFailure for Reporter<'_> {
    fn handler_failed(&self, failure: Failure) {
        self.count();
        self.report_in_turn(&Error::HandlerFailed(failure), Context::Handler);
    }
}
