//! The states of a handle: new, running (driven by the library's threads or by the host), draining, stopped.
//!
//! [`Lifecycle`] alone decides which call is possible in which state, which caller carries out a stop, and what every other
//! caller of `stop` returns. It also records which handles' callbacks the current thread is inside of: a call that would wait
//! for its own callback is refused.

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::sys::lock::{Condvar, Mutex};

/// Who does the work of the handle: which threads run its steps and its callbacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DrivenBy {
    /// Nobody: neither `start` nor `dispatch` has been called.
    Nobody,
    /// The library's threads, since `start`.
    Threads,
    /// The host, through `dispatch`.
    Host,
}

/// How a stop ended. Kept, so that every call of `stop` returns the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Everything was done.
    Clean,
    /// The deadline passed while work was left.
    TimedOut,
    /// This many messages were given up because nobody listened.
    Undelivered(u64),
    /// A thread of the library panicked.
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
    /// A stop is finishing the work that is left, until `deadline` (`None`: no limit).
    Draining {
        /// When the stop was asked for.
        since: Instant,
        /// When the work that is left is given up.
        deadline: Option<Instant>,
    },
    /// Nothing of the handle runs any more.
    Stopped,
}

#[derive(Debug)]
struct State {
    driven_by: DrivenBy,
    phase: Phase,
    ending: Option<Ending>,
}

/// What `start` has done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// The threads were started by this call.
    Now,
    /// Nothing: they were running.
    Already,
}

/// What a call of `stop` has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Carry it out. The handle was driven like this.
    Lead(DrivenBy),
    /// Wait for the caller that carries it out. Its deadline may be earlier now.
    Follow(DrivenBy),
    /// Nothing: the handle is stopped.
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
        let state = State { driven_by: DrivenBy::Nobody, phase: Phase::Running, ending: None };
        Lifecycle { id: NEXT.fetch_add(1, Ordering::Relaxed), state: Mutex::new(state), changed: Condvar::default() }
    }

    /// Carries out `start`. `spawn` starts the threads; it runs under the lock, so no other call comes between. If `spawn`
    /// fails, the handle stays new.
    pub(crate) fn start(&self, spawn: impl FnOnce() -> Result<()>) -> Result<Start> {
        let mut state = self.state.lock();
        if state.phase != Phase::Running {
            drop(state);
            return Err(self.why_stopped());
        }
        match state.driven_by {
            DrivenBy::Threads => Ok(Start::Already),
            DrivenBy::Host => Err(Error::WrongState { call: "start", reason: "the host drives it with dispatch" }),
            DrivenBy::Nobody => {
                spawn()?;
                state.driven_by = DrivenBy::Threads;
                Ok(Start::Now)
            }
        }
    }

    /// Carries out `dispatch`. True for the first call.
    pub(crate) fn dispatch(&self) -> Result<bool> {
        let mut state = self.state.lock();
        match (state.driven_by, state.phase) {
            (_, Phase::Stopped) => {
                drop(state);
                Err(self.why_stopped())
            }
            (DrivenBy::Threads, _) => {
                Err(Error::WrongState { call: "dispatch", reason: "it was started and has threads of its own" })
            }
            (DrivenBy::Host, _) => Ok(false),
            (DrivenBy::Nobody, Phase::Draining { .. }) => Err(Error::Stopped),
            (DrivenBy::Nobody, Phase::Running) => {
                state.driven_by = DrivenBy::Host;
                Ok(true)
            }
        }
    }

    /// Carries out the state change of `stop`. The first caller leads, later callers follow. Of two deadlines the earlier one
    /// holds.
    pub(crate) fn stop(&self, timeout: Duration) -> Stop {
        let mut state = self.state.lock();
        let now = Instant::now();
        let mine = now.checked_add(timeout);
        let driven_by = state.driven_by;
        match state.phase {
            Phase::Running => {
                state.phase = Phase::Draining { since: now, deadline: mine };
                Stop::Lead(driven_by)
            }
            Phase::Draining { since, deadline } => {
                state.phase = Phase::Draining { since, deadline: earlier(deadline, mine) };
                Stop::Follow(driven_by)
            }
            Phase::Stopped => Stop::Over,
        }
    }

    /// Marks the handle as stopped: nothing of it runs any more. Of several endings the first one is kept.
    pub(crate) fn finish(&self, ending: Ending) {
        let mut state = self.state.lock();
        state.phase = Phase::Stopped;
        state.ending.get_or_insert(ending);
        self.changed.notify_all();
    }

    /// Waits for [`Lifecycle::finish`], and returns the ending.
    pub(crate) fn wait_until_stopped(&self) -> Result<()> {
        let mut state = self.state.lock();
        while state.phase != Phase::Stopped {
            state = self.changed.wait(state);
        }
        state.ending.unwrap_or(Ending::Clean).to_result()
    }

    /// Waits for [`Lifecycle::finish`] for up to `timeout`.
    pub(crate) fn wait_for_end(&self, timeout: Duration) {
        let Some(until) = Instant::now().checked_add(timeout) else { return };
        let state = self.state.lock();
        if state.phase != Phase::Stopped {
            drop(self.changed.wait_until(state, until));
        }
    }

    /// The error of a call on a handle that is stopping or stopped.
    pub(crate) fn why_stopped(&self) -> Error {
        match self.state.lock().ending {
            Some(Ending::Panicked) => Error::Panicked,
            _ => Error::Stopped,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    pub(crate) fn driven_by(&self) -> DrivenBy {
        self.state.lock().driven_by
    }

    /// Marks the current thread as being inside a callback of this handle until the guard is dropped.
    pub(crate) fn enter_callback(&self) -> InCallback {
        INSIDE.with(|inside| inside.enter(self.id));
        InCallback
    }

    /// Whether the current thread is inside a callback of this handle.
    pub(crate) fn in_callback(&self) -> bool {
        INSIDE.with(|inside| inside.contains(self.id))
    }

    /// Refuses a call that waits for this handle when it is made from inside one of its callbacks.
    pub(crate) fn refuse_in_callback(&self, call: &'static str) -> Result<()> {
        if self.in_callback() { Err(Error::WouldDeadlock { call }) } else { Ok(()) }
    }
}

/// The earlier of two deadlines. `None` is no deadline, so any other is earlier.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}

thread_local! {
    static INSIDE: Inside = const { Inside { innermost: Cell::new(0), others: ManuallyDrop::new(RefCell::new(Vec::new())) } };
}

/// The handles whose callbacks this thread is inside of.
///
/// No destructor, because the values are read until the very end of the thread: a callback may call exit(3), which destroys
/// thread-local values before it runs the host's exit handlers, and an exit handler may call `stop`.
struct Inside {
    /// The id of the innermost handle; 0 is none. Usually the only one.
    innermost: Cell<u64>,
    /// The ids of the outer handles: a callback can dispatch another handle. Freed when empty, since there is no destructor.
    others: ManuallyDrop<RefCell<Vec<u64>>>,
}

impl Inside {
    fn enter(&self, id: u64) {
        let outer = self.innermost.replace(id);
        if outer != 0 {
            self.others.borrow_mut().push(outer);
        }
    }

    fn leave(&self) {
        let mut others = self.others.borrow_mut();
        self.innermost.set(others.pop().unwrap_or(0));
        if others.is_empty() {
            *others = Vec::new();
        }
    }

    fn contains(&self, id: u64) -> bool {
        self.innermost.get() == id || self.others.borrow().contains(&id)
    }
}

/// The current thread is inside a callback until this guard is dropped.
#[derive(Debug)]
pub(crate) struct InCallback;

impl Drop for InCallback {
    fn drop(&mut self) {
        INSIDE.with(Inside::leave);
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
        assert_eq!(life.driven_by(), DrivenBy::Nobody);
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
    fn the_first_stop_leads_and_all_stops_return_the_same() {
        let life = Lifecycle::new();
        life.start(|| Ok(())).expect("start");
        assert_eq!(life.stop(LONG), Stop::Lead(DrivenBy::Threads));
        assert_eq!(life.stop(LONG), Stop::Follow(DrivenBy::Threads));
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
    fn in_callback_is_known_until_thread_local_values_are_destroyed() {
        /// Dropped with the thread-local values.
        struct AtTheEnd(Lifecycle, Cell<Option<InCallback>>);
        impl Drop for AtTheEnd {
            fn drop(&mut self) {
                assert!(self.0.in_callback());
                let other = Lifecycle::new();
                let inner = other.enter_callback();
                assert!(self.0.in_callback() && other.in_callback());
                drop(inner);
                drop(self.1.take());
                assert!(!self.0.in_callback());
                ENDED.store(true, Ordering::Relaxed);
            }
        }
        static ENDED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        thread_local!(static LAST: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) });
        let thread = std::thread::spawn(|| {
            LAST.set(None); // first: values are dropped in the reverse of the order in which they were first used
            let life = Lifecycle::new();
            let inside = life.enter_callback();
            LAST.set(Some(AtTheEnd(life, Cell::new(Some(inside)))));
        });
        thread.join().expect("no panic");
        assert!(ENDED.load(Ordering::Relaxed));
    }

    #[test]
    fn a_thread_knows_which_handles_callbacks_it_is_inside_of() {
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
