//! The life of a handle: new, then driven by threads of ours or by the host, then stopping, then stopped.
//!
//! The one place that says which call is possible in which state, who carries out a stop, and what later callers of it
//! are told. It also knows which callbacks the current thread is inside of, so that a call that would wait for itself can
//! be refused.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::sys::lock::{Condvar, Mutex};

/// Who moves the handle on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    /// Nobody yet.
    Nobody,
    /// Threads of ours.
    Threads,
    /// The host, through `dispatch`.
    Host,
}

/// How a stop ended, kept for those who ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Everything was done.
    Clean,
    /// The time passed first.
    TimedOut,
    /// This many messages were given up because nobody listened.
    Undelivered(u64),
    /// A thread of ours met a bug of ours.
    Panicked,
}

impl Ending {
    fn to_result(self) -> Result<()> {
        match self {
            Ending::Clean => Ok(()),
            Ending::TimedOut => Err(Error::Timeout("the stop was cut short, what was left has been given up")),
            Ending::Undelivered(count) => Err(Error::Undelivered(count)),
            Ending::Panicked => Err(Error::Panicked),
        }
    }
}

/// What the handle is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// New or running.
    Running,
    /// Finishing what was begun, until `deadline` (`None`: as long as it takes).
    Draining {
        /// When the stop was asked for.
        since: Instant,
        /// When what is left is given up.
        deadline: Option<Instant>,
    },
    /// Over.
    Stopped,
}

#[derive(Debug)]
struct State {
    driver: Driver,
    phase: Phase,
    ending: Option<Ending>,
}

/// What a call of `start` has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Start the threads.
    Now,
    /// Nothing: they run.
    Already,
}

/// What a call of `stop` has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Carry it out: the handle was driven so.
    Lead(Driver),
    /// Wait for the one who carries it out; the deadline may have been brought forward.
    Follow(Driver),
    /// Nothing: it is over.
    Over,
}

/// The state of one handle.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    id: u64,
    state: Mutex<State>,
    changed: Condvar,
}

impl Lifecycle {
    pub(crate) fn new() -> Lifecycle {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let state = State { driver: Driver::Nobody, phase: Phase::Running, ending: None };
        Lifecycle { id: NEXT.fetch_add(1, Ordering::Relaxed), state: Mutex::new(state), changed: Condvar::default() }
    }

    /// `start` was called. With `Now`, `spawn` runs while no other call can come between; its failure undoes the start.
    pub(crate) fn start(&self, spawn: impl FnOnce() -> Result<()>) -> Result<Start> {
        let mut state = self.state.lock();
        if state.phase != Phase::Running {
            drop(state);
            return Err(self.why_stopped());
        }
        match state.driver {
            Driver::Threads => Ok(Start::Already),
            Driver::Host => Err(Error::WrongState { call: "start", reason: "the host drives it with dispatch" }),
            Driver::Nobody => {
                spawn()?;
                state.driver = Driver::Threads;
                Ok(Start::Now)
            }
        }
    }

    /// `dispatch` was called; says whether it was the first time.
    pub(crate) fn dispatch(&self) -> Result<bool> {
        let mut state = self.state.lock();
        match (state.driver, state.phase) {
            (_, Phase::Stopped) => {
                drop(state);
                Err(self.why_stopped())
            }
            (Driver::Threads, _) => {
                Err(Error::WrongState { call: "dispatch", reason: "it was started and has threads of its own" })
            }
            (Driver::Host, _) => Ok(false),
            (Driver::Nobody, Phase::Draining { .. }) => Err(Error::Stopped),
            (Driver::Nobody, Phase::Running) => {
                state.driver = Driver::Host;
                Ok(true)
            }
        }
    }

    /// `stop` was called: the first caller leads, the others follow. An earlier deadline than the present one holds.
    pub(crate) fn stop(&self, timeout: Duration) -> Stop {
        let mut state = self.state.lock();
        let now = Instant::now();
        let mine = now.checked_add(timeout);
        let driver = state.driver;
        match state.phase {
            Phase::Running => {
                state.phase = Phase::Draining { since: now, deadline: mine };
                Stop::Lead(driver)
            }
            Phase::Draining { since, deadline } => {
                state.phase = Phase::Draining { since, deadline: earlier(deadline, mine) };
                Stop::Follow(driver)
            }
            Phase::Stopped => Stop::Over,
        }
    }

    /// The handle is at rest: nothing of it runs any more. The first ending is the one that is told.
    pub(crate) fn finish(&self, ending: Ending) {
        let mut state = self.state.lock();
        state.phase = Phase::Stopped;
        state.ending.get_or_insert(ending);
        self.changed.notify_all();
    }

    /// Waits for [`Lifecycle::finish`] and says how it ended.
    pub(crate) fn wait_until_stopped(&self) -> Result<()> {
        let mut state = self.state.lock();
        while state.phase != Phase::Stopped {
            state = self.changed.wait(state);
        }
        state.ending.unwrap_or(Ending::Clean).to_result()
    }

    /// Why a call comes too late.
    pub(crate) fn why_stopped(&self) -> Error {
        match self.state.lock().ending {
            Some(Ending::Panicked) => Error::Panicked,
            _ => Error::Stopped,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    pub(crate) fn driver(&self) -> Driver {
        self.state.lock().driver
    }

    /// Marks the current thread as being inside a callback of this handle until the guard is dropped.
    pub(crate) fn enter_callback(&self) -> InCallback {
        // A thread that is ending has lost its list: it has no frames below it either.
        let _ = INSIDE.try_with(|inside| inside.borrow_mut().push(self.id));
        InCallback
    }

    /// Whether the current thread is inside a callback of this handle.
    pub(crate) fn in_callback(&self) -> bool {
        INSIDE.try_with(|inside| inside.borrow().contains(&self.id)).unwrap_or(false)
    }

    /// Refuses a call that waits for this handle when it is made from inside one of its callbacks.
    pub(crate) fn refuse_in_callback(&self, call: &'static str) -> Result<()> {
        if self.in_callback() { Err(Error::WouldDeadlock { call }) } else { Ok(()) }
    }
}

/// The earlier of two deadlines, where none is later than any.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}

thread_local! {
    /// The handles whose callbacks this thread is inside of: one, unless a callback dispatches another handle.
    static INSIDE: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Ends with the callback.
#[derive(Debug)]
pub(crate) struct InCallback;

impl Drop for InCallback {
    fn drop(&mut self) {
        let _ = INSIDE.try_with(|inside| inside.borrow_mut().pop());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn start_is_idempotent_and_a_failed_one_leaves_the_handle_new() {
        let life = Lifecycle::new();
        let failed = life.start(|| Err(Error::Forked));
        assert!(matches!(failed, Err(Error::Forked)));
        assert_eq!(life.driver(), Driver::Nobody);
        assert_eq!(life.start(|| Ok(())).expect("first"), Start::Now);
        assert_eq!(life.start(|| unreachable!()).expect("second"), Start::Already);
        assert!(matches!(life.dispatch(), Err(Error::WrongState { .. })));
    }

    #[test]
    fn a_dispatched_handle_cannot_be_started() {
        let life = Lifecycle::new();
        assert!(life.dispatch().expect("first"));
        assert!(!life.dispatch().expect("second"));
        assert!(matches!(life.start(|| unreachable!()), Err(Error::WrongState { .. })));
    }

    #[test]
    fn one_leads_a_stop_and_all_are_told_the_same() {
        let life = Lifecycle::new();
        life.start(|| Ok(())).expect("start");
        assert_eq!(life.stop(LONG), Stop::Lead(Driver::Threads));
        assert_eq!(life.stop(LONG), Stop::Follow(Driver::Threads));
        assert!(matches!(life.start(|| unreachable!()), Err(Error::Stopped)));
        life.finish(Ending::Undelivered(3));
        life.finish(Ending::Clean);
        assert_eq!(life.stop(LONG), Stop::Over);
        assert!(matches!(life.wait_until_stopped(), Err(Error::Undelivered(3))));
        assert!(matches!(life.dispatch(), Err(Error::Stopped)));
    }

    #[test]
    fn a_second_stop_can_only_bring_the_deadline_forward() {
        let life = Lifecycle::new();
        life.stop(Duration::MAX);
        let deadline = |life: &Lifecycle| match life.phase() {
            Phase::Draining { deadline, .. } => deadline,
            other => panic!("{other:?}"),
        };
        assert_eq!(deadline(&life), None);
        life.stop(LONG);
        let first = deadline(&life).expect("a deadline");
        life.stop(Duration::MAX);
        assert_eq!(deadline(&life), Some(first));
        life.stop(Duration::ZERO);
        assert!(deadline(&life).expect("a deadline") < first);
    }

    #[test]
    fn a_thread_knows_whose_callbacks_it_is_inside_of() {
        let (one, other) = (Lifecycle::new(), Lifecycle::new());
        {
            let _outer = one.enter_callback();
            assert!(one.in_callback() && !other.in_callback());
            let _inner = other.enter_callback();
            assert!(matches!(other.refuse_in_callback("stop"), Err(Error::WouldDeadlock { call: "stop" })));
        }
        assert!(!one.in_callback() && !other.in_callback());
    }
}
