//! What the executor runs, why it gets a turn, and where it stands.

use std::fmt;
use std::sync::Arc;

use crate::sync::{AtomicU8, Ordering};
use crate::sys::event::Key;

use super::Worker;
use super::timers::TimerSlot;

/// Something that the executor runs: on one thread at a time, and again when it was notified meanwhile.
pub(crate) trait Task: Send + Sync {
    /// The same one each time.
    fn state(&self) -> &TaskState;

    /// One turn. False when the task has come to rest: it is no longer registered then and gets no further turn.
    fn run(self: Arc<Self>, wakeup: Wakeup, worker: &Worker<'_>) -> bool;

    /// A bug in `run` or in the executor: there are no turns any more.
    fn panicked(&self);
}

/// Why a task gets a turn: everything that happened since its last one began.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wakeup(u8);

impl Wakeup {
    pub(super) const NOTIFIED: Wakeup = Wakeup(1);
    pub(super) const TIMER: Wakeup = Wakeup(1 << 1);
    pub(super) const READY: Wakeup = Wakeup(1 << 2);
    /// A descriptor that is ready because its peer has closed.
    pub(super) const HANGUP: Wakeup = Wakeup(Wakeup::READY.0 | 1 << 3);

    const ALL: u8 = (1 << 4) - 1;

    /// [`super::Registration::notify`] was called.
    pub(super) fn is_notified(self) -> bool {
        self.contains(Wakeup::NOTIFIED)
    }

    /// The time given to [`super::Registration::set_timer`] has come, or an earlier one that was set before.
    pub(super) fn is_timer(self) -> bool {
        self.contains(Wakeup::TIMER)
    }

    /// A descriptor that is, or was, registered under the task's key is ready.
    pub(super) fn is_ready(self) -> bool {
        self.contains(Wakeup::READY)
    }

    /// The peer of such a descriptor has closed. A hint: the event may be of a descriptor that the task has replaced
    /// meanwhile.
    pub(crate) fn is_hangup(self) -> bool {
        self.contains(Wakeup::HANGUP)
    }

    fn contains(self, wakeup: Wakeup) -> bool {
        self.0 & wakeup.0 == wakeup.0
    }
}

impl fmt::Debug for Wakeup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (self.is_notified(), "NOTIFIED"),
            (self.is_timer(), "TIMER"),
            (self.is_ready(), "READY"),
            (self.is_hangup(), "HANGUP"),
        ];
        f.debug_set().entries(names.iter().filter(|(set, _)| *set).map(|(_, name)| name)).finish()
    }
}

/// A thread runs the task.
const RUNNING: u8 = 1 << 4;
/// The task gets no further turn.
const DONE: u8 = 1 << 5;

/// Where a task stands. No bit: idle. Wake-up bits alone: it is in the run queue. [`RUNNING`]: wake-up bits beside it came
/// during the turn and give another one.
#[derive(Debug, Default)]
pub(crate) struct TaskState {
    bits: AtomicU8,
    pub(super) timer: TimerSlot,
}

impl TaskState {
    /// Notes why the task is to get a turn. True: it was idle, and the caller must push it into the run queue.
    pub(super) fn notify(&self, wakeup: Wakeup) -> bool {
        self.bits.fetch_or(wakeup.0, Ordering::AcqRel) == 0
    }

    /// A thread has taken the task from the run queue. `None`: it has left meanwhile.
    pub(super) fn begin(&self) -> Option<Wakeup> {
        let start = |bits| if bits & DONE == 0 { Some(RUNNING) } else { None };
        let before = self.bits.fetch_update(Ordering::AcqRel, Ordering::Acquire, start);
        before.ok().map(|bits| Wakeup(bits & Wakeup::ALL))
    }

    /// The turn is over. True: more was noted meanwhile, and the caller must push the task into the run queue again.
    pub(super) fn end(&self) -> bool {
        let before = self.bits.fetch_and(!RUNNING, Ordering::AcqRel);
        before & DONE == 0 && before != RUNNING
    }

    /// No turn begins from now on; one that is running ends.
    pub(super) fn finish(&self) {
        self.bits.fetch_or(DONE, Ordering::AcqRel);
    }

    pub(super) fn is_done(&self) -> bool {
        self.bits.load(Ordering::Acquire) & DONE != 0
    }
}

/// A task and the key that its events come under: what the run queue and the timers hold.
#[derive(Clone)]
pub(super) struct Runnable {
    pub(super) key: Key,
    pub(super) task: Arc<dyn Task>,
}

impl Runnable {
    pub(super) fn state(&self) -> &TaskState {
        self.task.state()
    }
}

impl fmt::Debug for Runnable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Runnable({})", self.key)
    }
}

/// A task for tests that look at states, queues and timers only.
#[cfg(all(test, not(loom)))]
#[derive(Default)]
pub(super) struct NeverRun(TaskState);

#[cfg(all(test, not(loom)))]
impl NeverRun {
    pub(super) fn runnable(key: Key) -> Runnable {
        Runnable { key, task: Arc::new(NeverRun::default()) }
    }
}

#[cfg(all(test, not(loom)))]
impl Task for NeverRun {
    fn state(&self) -> &TaskState {
        &self.0
    }

    fn run(self: Arc<Self>, _: Wakeup, _: &Worker<'_>) -> bool {
        panic!("this test has no threads")
    }

    fn panicked(&self) {}
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_queued_once_and_told_of_everything() {
        let state = TaskState::default();
        assert!(state.notify(Wakeup::NOTIFIED));
        assert!(!state.notify(Wakeup::TIMER), "it is queued already");
        assert!(!state.notify(Wakeup::HANGUP));
        let wakeup = state.begin().expect("a turn");
        assert!(wakeup.is_notified() && wakeup.is_timer() && wakeup.is_ready() && wakeup.is_hangup());
        assert!(!state.end(), "nothing more");
        assert!(state.notify(Wakeup::READY), "idle again");
        let wakeup = state.begin().expect("a turn");
        assert_eq!(wakeup, Wakeup::READY);
        assert!(!wakeup.is_notified() && !wakeup.is_timer() && !wakeup.is_hangup());
    }

    #[test]
    fn what_comes_in_a_turn_gives_another_one() {
        for wakeup in [Wakeup::NOTIFIED, Wakeup::TIMER, Wakeup::READY, Wakeup::HANGUP] {
            let state = TaskState::default();
            assert!(state.notify(Wakeup::NOTIFIED));
            assert!(state.begin().is_some());
            assert!(!state.notify(wakeup), "a thread has it");
            assert!(state.end(), "another turn for {wakeup:?}");
            assert!(!state.notify(Wakeup::NOTIFIED), "it is queued");
            assert!(state.begin().is_some_and(|told| told.contains(wakeup)));
            assert!(!state.end());
        }
    }

    #[test]
    fn a_task_that_is_done_gets_no_turn_whenever_that_happens() {
        let idle = TaskState::default();
        idle.finish();
        assert!(!idle.notify(Wakeup::NOTIFIED));

        let queued = TaskState::default();
        assert!(queued.notify(Wakeup::NOTIFIED));
        queued.finish();
        assert_eq!(queued.begin(), None);

        let running = TaskState::default();
        assert!(running.notify(Wakeup::NOTIFIED));
        assert!(running.begin().is_some());
        assert!(!running.notify(Wakeup::NOTIFIED));
        assert!(!running.is_done());
        running.finish();
        assert!(!running.end(), "no further turn, although one was asked for");
        assert!(running.is_done());
    }

    #[test]
    fn wakeups_are_readable_in_the_message_of_a_failed_test() {
        assert_eq!(format!("{:?}", Wakeup::HANGUP), r#"{"READY", "HANGUP"}"#);
    }
}
