//! Delivers the session's reports to the error callback: one callback at a time, none after a stop has returned.
//!
//! While a callback runs, other threads leave their reports to the thread that runs it: a callback that blocks delays a stop,
//! and no other call.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::Error;
use crate::lifecycle::Lifecycle;
use crate::options::ErrorHandler;
use crate::sys::lock::{Condvar, Mutex};

use super::session::Report;

/// How many reports wait at most behind a callback that does not return. Further ones are left out, unless they say that
/// messages have been given up.
const MOST: usize = 1000;

#[derive(Default)]
pub(super) struct Reports {
    state: Mutex<State>,
    delivered: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Report>,
    /// A callback runs.
    is_delivering: bool,
    /// The handle was dropped inside one of its own callbacks: there is nobody left to tell.
    is_muted: bool,
}

impl Reports {
    /// Takes over what a session has to report. To be called with the session's lock: a stop that sees the end of the session
    /// then sees these as well. [`Reports::deliver`] must follow.
    pub(super) fn gather(&self, reports: Vec<Report>) {
        if reports.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        if !state.is_muted {
            let has_room = state.waiting.len() < MOST;
            let kept = |report: &Report| has_room || matches!(report.error, Error::Undelivered(_));
            state.waiting.extend(reports.into_iter().filter(kept));
        }
    }

    /// No callback begins from now on.
    pub(super) fn mute(&self) {
        let mut state = self.state.lock();
        state.is_muted = true;
        state.waiting.clear();
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.state.lock().waiting.is_empty()
    }

    /// Calls back for what waits, outside of all locks that a callback could want, unless another thread does.
    pub(super) fn deliver(&self, on_error: &ErrorHandler, lifecycle: &Lifecycle) {
        let mut state = self.state.lock();
        while !state.is_delivering
            && let Some(report) = state.waiting.pop_front()
        {
            state.is_delivering = true;
            drop(state);
            {
                let _inside = lifecycle.enter_callback();
                // A callback that panics has had its say; the messages are not its concern.
                let _ = catch_unwind(AssertUnwindSafe(|| on_error.call(&report.error, report.context)));
            }
            state = self.state.lock();
            state.is_delivering = false;
        }
        self.delivered.notify_all();
    }

    /// Waits until no callback runs or will run. For a session that has ended.
    pub(super) fn wait_until_delivered(&self) {
        let mut state = self.state.lock();
        while state.is_delivering || !state.waiting.is_empty() {
            state = self.delivered.wait(state);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Mutex as StdMutex};

    use super::*;
    use crate::error::Context;

    fn report(count: u64) -> Vec<Report> {
        vec![Report { error: Error::Undelivered(count), context: Context::Drain }]
    }

    /// A callback that keeps the numbers and waits at 1 until the sender is dropped.
    fn blocking_handler() -> (ErrorHandler, std::sync::mpsc::Sender<()>, Arc<StdMutex<Vec<u64>>>) {
        let (open, gate) = channel::<()>();
        let (gate, told) = (StdMutex::new(gate), Arc::new(StdMutex::new(Vec::new())));
        let numbers = Arc::clone(&told);
        let handler = ErrorHandler::new(move |error, _| {
            let Error::Undelivered(number) = error else { panic!("{error:?}") };
            numbers.lock().expect("no panic").push(*number);
            if *number == 1 {
                let _ = gate.lock().expect("no panic").recv();
            }
        });
        (handler, open, told)
    }

    #[test]
    fn a_callback_that_blocks_keeps_nobody_and_its_thread_delivers_the_rest_in_order() {
        let (handler, open, told) = blocking_handler();
        let (reports, lifecycle, stopped) = (Reports::default(), Lifecycle::new(), AtomicUsize::new(0));
        reports.gather(report(1));
        std::thread::scope(|scope| {
            scope.spawn(|| reports.deliver(&handler, &lifecycle));
            while told.lock().expect("no panic").is_empty() {
                std::thread::yield_now();
            }
            for number in 2..=5 {
                reports.gather(report(number));
                reports.deliver(&handler, &lifecycle); // returns
            }
            scope.spawn(|| {
                reports.wait_until_delivered();
                stopped.store(told.lock().expect("no panic").len(), Ordering::Relaxed);
            });
            assert_eq!((told.lock().expect("no panic").len(), stopped.load(Ordering::Relaxed)), (1, 0));
            drop(open);
        });
        assert_eq!(*told.lock().expect("no panic"), [1, 2, 3, 4, 5]);
        assert_eq!(stopped.load(Ordering::Relaxed), 5);
    }

    #[test]
    fn what_waits_behind_a_callback_is_bounded_but_for_messages_that_were_given_up() {
        let reports = Reports::default();
        let failed =
            || vec![Report { error: Error::Backpressure(std::time::Duration::from_secs(1)), context: Context::Write }];
        (0..MOST + 5).for_each(|_| reports.gather(failed()));
        reports.gather(report(7));
        let waiting = &reports.state.lock().waiting;
        assert_eq!(waiting.len(), MOST + 1);
        assert!(matches!(waiting.back(), Some(Report { error: Error::Undelivered(7), .. })));
    }

    #[test]
    fn a_muted_handle_calls_nobody_back() {
        let (handler, _open, told) = blocking_handler();
        let (reports, lifecycle) = (Reports::default(), Lifecycle::new());
        reports.gather(report(2));
        reports.mute();
        reports.gather(report(3));
        reports.deliver(&handler, &lifecycle);
        reports.wait_until_delivered();
        assert!(told.lock().expect("no panic").is_empty());
    }
}
