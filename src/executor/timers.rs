//! The timers of all tasks: a binary heap with at most one entry for each task. Pure: time is a number.

use std::collections::TryReserveError;
use std::sync::atomic::AtomicUsize;

use crate::sync::{AtomicU64, Ordering};

use super::task::{Runnable, TaskState};

/// Nanoseconds since the executor was made.
pub(super) type Nanos = u64;
pub(super) const NEVER: Nanos = Nanos::MAX;

/// What a task knows of its own timer. It is changed under the lock of the run queue only.
#[derive(Debug)]
pub(crate) struct TimerSlot {
    /// `NEVER`: there is no entry in the heap.
    at: AtomicU64,
    /// Where the entry is. The standard library's atomic, also in a model: the lock orders it.
    position: AtomicUsize,
}

impl Default for TimerSlot {
    fn default() -> Self {
        TimerSlot { at: AtomicU64::new(NEVER), position: AtomicUsize::new(0) }
    }
}

impl TimerSlot {
    /// Whether a turn comes at `at` or earlier without further ado. May be asked without the lock: an entry that expires at
    /// the same moment gives a turn which begins after the call.
    pub(super) fn is_set_by(&self, at: Nanos) -> bool {
        self.at.load(Ordering::Acquire) <= at
    }

    fn at(&self) -> Nanos {
        self.at.load(Ordering::Relaxed)
    }

    fn set_at(&self, at: Nanos) {
        self.at.store(at, Ordering::Release);
    }

    fn position(&self) -> usize {
        self.position.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    /// The earliest first; each entry is no later than the two at 2i + 1 and 2i + 2.
    heap: Vec<Timer>,
}

#[derive(Debug)]
struct Timer {
    at: Nanos,
    runnable: Runnable,
}

impl Timers {
    /// Reserves room for the timers of this many tasks.
    pub(super) fn reserve(&mut self, tasks: usize) -> Result<(), TryReserveError> {
        self.heap.try_reserve(tasks.saturating_sub(self.heap.len()))
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn capacity(&self) -> usize {
        self.heap.capacity()
    }

    /// When the first one expires.
    pub(super) fn next(&self) -> Option<Nanos> {
        self.heap.first().map(|timer| timer.at)
    }

    /// A turn at `at`, unless an earlier one is set. Returns the runnable if there is an entry already.
    pub(super) fn set(&mut self, at: Nanos, runnable: Runnable) -> Option<Runnable> {
        let slot = &runnable.state().timer;
        let set = slot.at();
        if set <= at {
            return Some(runnable);
        }
        slot.set_at(at);
        if set != NEVER {
            let position = slot.position();
            self.heap[position].at = at;
            self.sift_up(position);
            return Some(runnable);
        }
        self.heap.push(Timer { at, runnable });
        self.sift_up(self.heap.len() - 1);
        None
    }

    /// The first one that has expired.
    pub(super) fn pop_due(&mut self, now: Nanos) -> Option<Runnable> {
        self.next().filter(|at| *at <= now)?;
        Some(self.take(0))
    }

    /// The task's entry, if there is one.
    pub(super) fn remove(&mut self, state: &TaskState) -> Option<Runnable> {
        (state.timer.at() != NEVER).then(|| self.take(state.timer.position()))
    }

    /// All entries, in no order.
    pub(super) fn take_all(&mut self) -> Vec<Runnable> {
        let all = std::mem::take(&mut self.heap);
        all.iter().for_each(|timer| timer.runnable.state().timer.set_at(NEVER));
        all.into_iter().map(|timer| timer.runnable).collect()
    }

    fn take(&mut self, position: usize) -> Runnable {
        let taken = self.heap.swap_remove(position);
        taken.runnable.state().timer.set_at(NEVER);
        if position < self.heap.len() {
            // The last entry has moved here: it may belong further up or further down.
            let position = self.sift_up(position);
            self.sift_down(position);
        }
        taken.runnable
    }

    /// Returns where the entry has come to.
    fn sift_up(&mut self, mut position: usize) -> usize {
        while position > 0 {
            let parent = (position - 1) / 2;
            if self.heap[parent].at <= self.heap[position].at {
                break;
            }
            self.heap.swap(parent, position);
            self.note_position(position);
            position = parent;
        }
        self.note_position(position);
        position
    }

    fn sift_down(&mut self, mut position: usize) {
        loop {
            let children = 2 * position + 1..self.heap.len().min(2 * position + 3);
            let Some(child) = children.min_by_key(|child| self.heap[*child].at) else { break };
            if self.heap[position].at <= self.heap[child].at {
                break;
            }
            self.heap.swap(position, child);
            self.note_position(position);
            position = child;
        }
        self.note_position(position);
    }

    fn note_position(&self, position: usize) {
        self.heap[position].runnable.state().timer.position.store(position, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::executor::task::NeverRun;

    fn keys_due(timers: &mut Timers, now: Nanos) -> Vec<u64> {
        std::iter::from_fn(|| timers.pop_due(now)).map(|runnable| runnable.key).collect()
    }

    #[test]
    fn timers_expire_in_order_and_none_too_early() {
        let mut timers = Timers::default();
        for (key, at) in [(1, 30), (2, 10), (3, 20), (4, 40)] {
            assert!(timers.set(at, NeverRun::runnable(key)).is_none());
        }
        assert_eq!(timers.next(), Some(10));
        assert!(keys_due(&mut timers, 9).is_empty());
        assert_eq!(keys_due(&mut timers, 30), [2, 3, 1]);
        assert_eq!(keys_due(&mut timers, 40), [4]);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn an_earlier_time_stays_and_replaces_a_later_one() {
        let mut timers = Timers::default();
        let task = NeverRun::runnable(1);
        assert!(timers.set(20, task.clone()).is_none());
        assert!(timers.set(30, task.clone()).is_some());
        assert_eq!(timers.next(), Some(20));
        assert!(timers.set(10, task.clone()).is_some());
        assert_eq!(timers.next(), Some(10));
        assert!(task.state().timer.is_set_by(10) && !task.state().timer.is_set_by(9));
        assert_eq!(keys_due(&mut timers, 30), [1], "one entry");
        assert!(!task.state().timer.is_set_by(NEVER - 1));
    }

    #[test]
    fn what_is_removed_does_not_expire() {
        let mut timers = Timers::default();
        let tasks: Vec<_> = (0..5).map(NeverRun::runnable).collect();
        for task in &tasks {
            timers.set(task.key, task.clone());
        }
        assert_eq!(timers.remove(tasks[2].state()).map(|removed| removed.key), Some(2));
        assert!(timers.remove(tasks[2].state()).is_none());
        assert_eq!(keys_due(&mut timers, 3), [0, 1, 3]);
        assert_eq!(timers.take_all().len(), 1);
        assert!(timers.remove(tasks[4].state()).is_none());
    }

    #[test]
    fn room_that_was_reserved_is_enough() {
        let mut timers = Timers::default();
        timers.reserve(100).expect("memory");
        let capacity = timers.capacity();
        (0..100).for_each(|key| drop(timers.set(1, NeverRun::runnable(key))));
        timers.reserve(100).expect("memory");
        assert_eq!(timers.capacity(), capacity);
    }

    proptest! {
        /// Against a plain list of times, one for each task.
        #[test]
        fn a_heap_does_what_a_list_does(steps in prop::collection::vec((0_usize..8, 0_u64..50, 0..4), 1..200)) {
            let tasks: Vec<_> = (0..8).map(NeverRun::runnable).collect();
            let (mut timers, mut list) = (Timers::default(), [NEVER; 8]);
            for (task, at, step) in steps {
                match step {
                    0 => {
                        let removed = timers.remove(tasks[task].state()).is_some();
                        prop_assert_eq!(removed, std::mem::replace(&mut list[task], NEVER) != NEVER);
                    }
                    1 => {
                        let mut expected: Vec<_> = list.iter().copied().filter(|set| *set <= at).collect();
                        expected.sort_unstable();
                        let due: Vec<_> = std::iter::from_fn(|| timers.pop_due(at)).collect();
                        let times = due.iter().map(|due| std::mem::replace(&mut list[due.key as usize], NEVER));
                        prop_assert_eq!(times.collect::<Vec<_>>(), expected);
                    }
                    _ => {
                        timers.set(at, tasks[task].clone());
                        list[task] = list[task].min(at);
                    }
                }
                prop_assert_eq!(timers.next(), list.iter().copied().min().filter(|at| *at != NEVER));
            }
        }
    }
}
