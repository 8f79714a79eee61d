//! Whose turn it is: tasks that have something to do, in the order in which they came, the timers of all, and the threads
//! that they need. Everything is decided under one lock; nothing of a task is called or dropped while it is held.

use std::collections::{HashMap, TryReserveError, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::sync::{Condvar, Mutex, MutexGuard, ThreadId, current_thread_id};
use crate::sys::event::Key;

use super::task::{Runnable, Task, TaskState, Wakeup};
use super::timers::{Nanos, Timers};
use super::workers::{Demand, Load, Park, Workers};

/// How many events a thread takes at a time.
pub(super) const EVENTS: usize = 64;

/// What a wait brought.
#[derive(Debug)]
pub(crate) struct Events {
    ready: [(Key, Wakeup); EVENTS],
    count: usize,
    /// Something came, if only a wake-up.
    pub(super) any: bool,
    /// The descriptors are unusable: each task must look for itself.
    pub(super) broken: bool,
}

impl Events {
    pub(super) fn new() -> Events {
        Events { ready: [(0, Wakeup::READY); EVENTS], count: 0, any: false, broken: false }
    }

    /// At most [`EVENTS`] of them.
    pub(super) fn push(&mut self, key: Key, wakeup: Wakeup) {
        self.ready[self.count] = (key, wakeup);
        self.count += 1;
    }
}

/// What a thread that wants work is to do.
#[derive(Debug)]
pub(super) enum Duty {
    /// Run the task, and then call [`RunQueue::finished`].
    Run(Runnable, Demand),
    /// Wait for events, and then call [`RunQueue::unpark`].
    Park(Park),
    /// All is over.
    Exit,
}

/// What a thread that has waited is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unparked {
    Stay,
    /// The thread is one too many. It no longer counts.
    Leave(Demand),
}

/// What was taken out with a task: dropped by the caller, without the lock.
#[derive(Debug)]
#[must_use]
pub(super) struct Removed {
    _entries: [Option<Runnable>; 3],
    /// There is no task left: the threads exit.
    pub(super) closed: bool,
}

pub(super) struct RunQueue {
    state: Mutex<State>,
    /// A turn is over for which somebody waits.
    turn_over: Condvar,
}

struct State {
    tasks: HashMap<Key, Arc<dyn Task>>,
    /// Tasks, and registrations that are not complete yet.
    places: usize,
    last_key: Key,
    queue: VecDeque<Runnable>,
    /// Turns that are running, by key, each with its thread.
    running: Vec<(Key, ThreadId)>,
    timers: Timers,
    workers: Workers,
    /// How many threads wait for the end of a turn.
    waiting: u32,
    closed: bool,
}

impl RunQueue {
    pub(super) fn new(parallelism: u32) -> RunQueue {
        let state = State {
            tasks: HashMap::new(),
            places: 0,
            last_key: 0,
            queue: VecDeque::new(),
            running: Vec::new(),
            timers: Timers::default(),
            workers: Workers::new(parallelism),
            waiting: 0,
            closed: false,
        };
        RunQueue { state: Mutex::new(state), turn_over: Condvar::default() }
    }

    /// A key for one more task. Reserves room for the task in every list, since a later push has no way to report that memory
    /// is short. `None`: the last task has left.
    pub(super) fn reserve_place(&self) -> Result<Option<Key>, TryReserveError> {
        let mut state = self.state.lock();
        if state.closed {
            return Ok(None);
        }
        let places = state.places + 1;
        let State { tasks, queue, running, timers, .. } = &mut *state;
        tasks.try_reserve(places.saturating_sub(tasks.len()))?;
        queue.try_reserve(places.saturating_sub(queue.len()))?;
        running.try_reserve(places)?; // beside those: turns of tasks that have left
        timers.reserve(places)?;
        state.places = places;
        state.last_key += 1;
        Ok(Some(state.last_key))
    }

    /// Makes `task` the one whose key was reserved.
    pub(super) fn insert(&self, key: Key, task: Arc<dyn Task>) {
        self.state.lock().tasks.insert(key, task);
    }

    /// The key's task was not inserted. True: there is no task left.
    pub(super) fn give_place_back(&self) -> bool {
        self.state.lock().remove_place()
    }

    /// There must be a thread that is not away.
    pub(super) fn ensure_worker(&self) -> Demand {
        let mut state = self.state.lock();
        let load = state.load();
        state.workers.ensure_worker(load)
    }

    /// With a second task there must be a second thread.
    pub(super) fn ensure_reserve(&self) -> Demand {
        let mut state = self.state.lock();
        if state.places > 1 { state.workers.ensure_reserve() } else { Demand::Nothing }
    }

    /// A thread could not be started.
    pub(super) fn worker_lost(&self) -> Demand {
        let mut state = self.state.lock();
        let load = state.load();
        state.workers.lost(load)
    }

    /// Somebody has made the task's state non-idle.
    pub(super) fn push(&self, runnable: Runnable) -> Demand {
        let mut state = self.state.lock();
        let refused = state.push(runnable);
        let demand = state.demand();
        drop(state);
        drop(refused);
        demand
    }

    /// The calling thread has run the task, more was asked of it meanwhile, and the thread comes for it itself.
    pub(super) fn push_again(&self, runnable: Runnable) {
        let refused = self.state.lock().push(runnable);
        drop(refused);
    }

    /// A turn at `at`, unless an earlier one is set.
    pub(super) fn set_timer(&self, at: Nanos, runnable: Runnable) -> Demand {
        let mut state = self.state.lock();
        // A task that has left is not held on to.
        let is_gone = state.closed || runnable.state().is_done();
        let unused = if is_gone { Some(runnable) } else { state.timers.set(at, runnable) };
        let demand = state.demand();
        drop(state);
        drop(unused);
        demand
    }

    pub(super) fn next(&self) -> Duty {
        let me = current_thread_id();
        let mut state = self.state.lock();
        if state.closed {
            return Duty::Exit;
        }
        match state.queue.pop_front() {
            Some(runnable) => {
                state.running.push((runnable.key, me));
                let load = state.load();
                Duty::Run(runnable, state.workers.share(load))
            }
            None => {
                let timer = state.timers.next();
                Duty::Park(state.workers.park(timer))
            }
        }
    }

    /// The turn of a task is over, and the calling thread, which ran it, holds nothing of it any more.
    pub(super) fn finished(&self, key: Key) {
        let mine = (key, current_thread_id());
        let mut state = self.state.lock();
        state.running.retain(|turn| *turn != mine);
        if state.waiting > 0 {
            self.turn_over.notify_all();
        }
    }

    /// A thread has waited.
    pub(super) fn unpark(&self, park: &Park, events: &Events, now: Nanos) -> Unparked {
        let mut state = self.state.lock();
        state.workers.unpark(park);
        state.note(events, now);
        if events.any || !state.queue.is_empty() || !state.workers.leave_if_spare() {
            return Unparked::Stay;
        }
        Unparked::Leave(state.demand())
    }

    /// A busy thread has looked for events.
    pub(super) fn note(&self, events: &Events, now: Nanos) {
        let mut state = self.state.lock();
        state.workers.took_events();
        state.note(events, now);
    }

    /// The calling thread is about to block: another one must take over, unless its task is the only one.
    pub(super) fn hand_off(&self) -> Demand {
        let mut state = self.state.lock();
        state.workers.hand_off();
        let load = state.load();
        if state.places > 1 { state.workers.ensure_worker(load) } else { Demand::Nothing }
    }

    pub(super) fn hand_back(&self) {
        self.state.lock().workers.hand_back();
    }

    /// The threads exit.
    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    pub(super) fn is_last_of_many(&self) -> bool {
        self.state.lock().workers.is_last_of_many()
    }

    /// Whether others wait for a turn.
    pub(super) fn is_crowded(&self) -> bool {
        !self.state.lock().queue.is_empty()
    }

    /// Takes a task out, which gets no further turn: afterwards nothing but a turn that is running has it.
    pub(super) fn remove(&self, key: Key, task: &TaskState) -> Removed {
        task.finish(); // first: what comes to the lock later sees it and does not put the task back
        let mut state = self.state.lock();
        let registered = state.tasks.remove(&key).map(|task| Runnable { key, task });
        let at = state.queue.iter().position(|runnable| runnable.key == key);
        let queued = at.and_then(|at| state.queue.remove(at));
        let timer = state.timers.remove(task);
        let closed = if registered.is_some() { state.remove_place() } else { state.closed };
        Removed { _entries: [registered, queued, timer], closed }
    }

    /// Waits for the end of the turn that another thread is giving the task. False: the deadline came first.
    pub(super) fn wait_for_turn(&self, key: Key, deadline: Option<Instant>) -> bool {
        let me = current_thread_id();
        let mut state = self.state.lock();
        while state.running.iter().any(|(running, thread)| *running == key && *thread != me) {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return false;
            }
            state.waiting += 1;
            state = self.wait(state, deadline);
            state.waiting -= 1;
        }
        true
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, deadline: Option<Instant>) -> MutexGuard<'a, State> {
        match deadline {
            Some(deadline) => self.turn_over.wait_until(state, deadline),
            None => self.turn_over.wait(state),
        }
    }

    /// Holds the lock while `body` runs.
    #[cfg(all(test, not(loom)))]
    pub(super) fn locked<T>(&self, body: impl FnOnce() -> T) -> T {
        let _state = self.state.lock();
        body()
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn is_waited_for(&self) -> bool {
        self.state.lock().waiting > 0
    }

    /// Whether the calling thread is giving a task its turn.
    pub(super) fn is_own_thread(&self) -> bool {
        let me = current_thread_id();
        self.state.lock().running.iter().any(|(_, thread)| *thread == me)
    }

    /// All threads exit after their present turn. Returns the tasks, which nobody runs any more.
    pub(super) fn close(&self) -> Vec<Arc<dyn Task>> {
        let mut state = self.state.lock();
        state.closed = true;
        let tasks: Vec<_> = state.tasks.drain().map(|(_, task)| task).collect();
        let queued = std::mem::take(&mut state.queue);
        let timers = state.timers.take_all();
        drop(state);
        drop((queued, timers));
        tasks.iter().for_each(|task| task.state().finish());
        tasks
    }
}

impl State {
    fn load(&self) -> Load {
        Load { queued: !self.queue.is_empty(), timer: self.timers.next() }
    }

    fn demand(&mut self) -> Demand {
        let load = self.load();
        self.workers.demand(load)
    }

    /// Returns a task that comes too late.
    fn push(&mut self, runnable: Runnable) -> Option<Runnable> {
        if self.closed || runnable.state().is_done() {
            return Some(runnable);
        }
        self.queue.push_back(runnable);
        None
    }

    fn remove_place(&mut self) -> bool {
        self.places -= 1;
        self.closed |= self.places == 0;
        self.closed
    }

    /// Queues the tasks that events or timers have something for. None is dropped by it: all are registered.
    fn note(&mut self, events: &Events, now: Nanos) {
        let State { tasks, queue, timers, .. } = self;
        let mut notify = |key: Key, task: &Arc<dyn Task>, wakeup| {
            if task.state().notify(wakeup) {
                queue.push_back(Runnable { key, task: Arc::clone(task) });
            }
        };
        for (key, wakeup) in &events.ready[..events.count] {
            if let Some(task) = tasks.get(key) {
                notify(*key, task, *wakeup);
            }
        }
        if events.broken {
            tasks.iter().for_each(|(key, task)| notify(*key, task, Wakeup::READY));
        }
        while let Some(due) = timers.pop_due(now) {
            notify(due.key, &due.task, Wakeup::TIMER);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
