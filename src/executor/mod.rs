//! Few threads for many tasks: one poller and one timer heap for all of them.
//!
//! A task that never blocks needs a thread for moments only, so one thread serves a thousand. There is one, with a second task
//! another one in reserve, as many as there are processors while tasks are queued for them, and one more for each that is in
//! [`Worker::block_in_place`]. With the last [`Registration`] the threads end.
//!
//! - `task`: what is run, and where it stands
//! - `run_queue`: whose turn it is; the one lock of this room
//! - `timers`: the heap; `workers`: which threads are needed. Pure, under that lock
//! - `platform`: epoll, clock and threads
//!
//! # How nothing is lost: the protocol between threads
//!
//! 1. *Queued once.* The thread that makes a task's state non-idle ([`TaskState::notify`]) pushes the task into the run queue. What
//!    comes while it is queued or running stays in its state; the thread that ends the turn pushes it again.
//! 2. *Parking.* A thread counts itself as parked under the lock, and only if the run queue is empty. A push happens under
//!    the same lock, so it sees each thread either active, and that one looks into the queue before it parks, or parked.
//! 3. *Unparking.* A push that finds a parked thread and fewer active ones than processors sets `unparking`, releases the
//!    lock and writes to the eventfd. That is remembered: a wait that begins later returns at once.
//! 4. *One at a time.* Until some thread has come back from its wait, no other one is woken: it sees all that was queued
//!    meanwhile. If a busy thread took the event, it clears `unparking` and looks into the queue itself, being active.
//! 5. *Sharing.* A thread that takes a task while others are queued wakes or starts the next thread before it runs the task.
//! 6. *Timers.* At most one parked thread, the timekeeper, waits with the timeout of the earliest timer, and a thread that
//!    parks takes that place if the timekeeper would wake up too late. A timer that nobody would wake up for in time unparks
//!    a thread, but only if none is active: an active one parks later, or looks every [`TURNS_PER_LOOK`] turns.
//! 7. *Hand-off.* A thread that is about to block counts itself as away, and under the same lock 3 and 6 are decided anew:
//!    nobody may rely on it any longer. The same happens when a thread that counted already could not be started, and when
//!    a spare one leaves.
//! 8. *Leaving.* A task that leaves is marked as done, and then taken out of the queue and the timers under the lock. A
//!    thread that takes the lock later sees the mark and does not queue the task; a thread that took it earlier to run the
//!    task is in the list of running turns, whose end is waited for.
//! 9. *The end.* With the last task the run queue is closed under the lock. Each thread that exits for this reason wakes the
//!    next.
//!
//! Locks: `CURRENT`, then that of the run queue, which is held over no call into a task or the system.
//!
//! In a forked child none of this is touched: a thread of the parent may have held the lock. A thread that was forked in a
//! turn, and is the only one of the child, ends with that turn.

mod platform;
mod run_queue;
mod task;
mod timers;
mod workers;

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::sys::event::{Key, Poller};
use crate::sys::lock::{Mutex, MutexGuard};

use platform::{Platform, System};
use run_queue::{Duty, RunQueue, Unparked};
use task::Runnable;
use timers::Nanos;
use workers::{Demand, Park};

pub(crate) use task::{Task, TaskState, Wakeup};

/// A spare thread ends after this time without work.
const SPARE_LIMIT: Duration = Duration::from_secs(5);
/// The longest wait. A limit, because nothing wakes a wait on an epoll set that the host has closed (closefrom(3), close(2)).
const PARK_LIMIT: Duration = Duration::from_secs(30);
/// The number of turns after which a busy thread checks events and timers.
const TURNS_PER_LOOK: u32 = if cfg!(loom) { 1 } else { 16 };

/// The pause that keeps a thread from spinning when the host has closed the descriptors.
const BROKEN_PAUSE: Duration = Duration::from_millis(5);

/// How often, and after how long each time, the last of many threads looks whether another one is back before it blocks.
const LOOKS_FOR_A_THREAD: u32 = 10;
const LOOK_FOR_A_THREAD: Duration = Duration::from_micros(500);

type Current = Mutex<Weak<Executor<System>>>;

/// The executor that new tasks join.
static CURRENT: Current = Mutex::new(Weak::new());
/// How often the lock of [`CURRENT`] is tried. In a forked child its holder may be a thread of the parent, which does not exist
/// there.
const LOCK_TRIES: u32 = 100;
const LOOK_STEP: Duration = Duration::from_micros(100);

struct Executor<P> {
    platform: P,
    queue: RunQueue,
}

/// A task's place in the executor. The task may own it.
pub(crate) struct Registration<P: Platform = System> {
    executor: Arc<Executor<P>>,
    key: Key,
    task: Weak<dyn Task>,
}

impl Registration {
    /// Joins the current executor, or makes one.
    pub(crate) fn new(task: &Arc<dyn Task>) -> Result<Registration> {
        Registration::join(&CURRENT, task)
    }

    fn join(current: &Current, task: &Arc<dyn Task>) -> Result<Registration> {
        let Some(mut current) = lock_patiently(current) else {
            return Executor::start()?.register_first(task); // one of its own will do
        };
        if let Some(executor) = current.upgrade().filter(|executor| !executor.platform.is_forked())
            && let Some(registration) = executor.register(task)?
        {
            return Ok(registration);
        }
        let executor = Executor::start()?;
        let registration = executor.register_first(task)?;
        *current = Arc::downgrade(&executor);
        Ok(registration)
    }

    /// Where the task registers its descriptors, under its [`Registration::key`] and edge-triggered. It takes them out before
    /// it leaves.
    pub(crate) fn poller(&self) -> &Arc<Poller> {
        &self.executor.platform.poller
    }
}

impl<P: Platform> Registration<P> {
    pub(crate) fn key(&self) -> Key {
        self.key
    }

    /// Asks for a turn of the task, which is the registered one. May be called from any thread, also in its turn.
    pub(crate) fn notify(&self, task: &Arc<impl Task + 'static>) {
        if !self.executor.platform.is_forked() && task.state().notify(Wakeup::NOTIFIED) {
            let task = Arc::clone(task) as _;
            self.executor.try_meet(self.executor.queue.push(Runnable { key: self.key, task }));
        }
    }

    /// Asks for a turn at `at` or earlier: an earlier time that is set already stays, and may give a turn too many.
    pub(crate) fn set_timer(&self, at: Instant) {
        let Some(task) = self.task.upgrade() else { return };
        let at = self.executor.platform.nanos(at);
        if !self.executor.platform.is_forked() && !task.state().timer.is_set_by(at) {
            self.executor.try_meet(self.executor.queue.set_timer(at, Runnable { key: self.key, task }));
        }
    }

    /// Ends the registration, and may be called again. No turn of the task runs any more when it returns, unless it is called
    /// in that turn; with the last task the threads end and are waited for, unless it is called by one of them. False: the
    /// deadline came first.
    pub(crate) fn leave(&self, deadline: Option<Instant>) -> bool {
        let Executor { platform, queue } = &*self.executor;
        if platform.is_forked() {
            return true; // no thread of the parent exists here
        }
        let closed =
            self.task.upgrade().map_or_else(|| queue.is_closed(), |task| self.executor.remove(self.key, &*task));
        if !queue.wait_for_turn(self.key, deadline) {
            return false;
        }
        // A thread that waited for the others could be waited for by one of them.
        !closed || queue.is_own_thread() || platform.join_all(deadline)
    }
}

/// Tries the lock for a while. `None`: its holder does not release it, as in a forked child without that thread.
fn lock_patiently(current: &Current) -> Option<MutexGuard<'_, Weak<Executor<System>>>> {
    for _ in 0..LOCK_TRIES {
        if let Some(current) = current.try_lock() {
            return Some(current);
        }
        std::thread::sleep(LOOK_STEP);
    }
    current.try_lock()
}

impl Executor<System> {
    fn start() -> Result<Arc<Executor<System>>> {
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
        Ok(Executor::new(System::new()?, u32::try_from(processors).unwrap_or(u32::MAX)))
    }
}

impl<P: Platform> Executor<P> {
    fn new(platform: P, parallelism: u32) -> Arc<Executor<P>> {
        Arc::new(Executor { platform, queue: RunQueue::new(parallelism) })
    }

    fn register_first(self: &Arc<Self>, task: &Arc<dyn Task>) -> Result<Registration<P>> {
        self.register(task)?.ok_or(Error::Stopped) // a new executor is not closed
    }

    /// `None`: the last task of this executor has left.
    fn register(self: &Arc<Self>, task: &Arc<dyn Task>) -> Result<Option<Registration<P>>> {
        let Some(key) = self.queue.reserve_place().map_err(no_memory)? else { return Ok(None) };
        let started = self.meet(self.queue.ensure_worker()).and_then(|()| self.meet(self.queue.ensure_reserve()));
        if let Err(source) = started {
            self.wake_if(self.queue.give_place_back());
            return Err(Error::NoResources { action: "a thread of the library".into(), source });
        }
        self.queue.insert(key, Arc::clone(task));
        Ok(Some(Registration { executor: Arc::clone(self), key, task: Arc::downgrade(task) }))
    }

    fn meet(self: &Arc<Self>, demand: Demand) -> io::Result<()> {
        match demand {
            Demand::Nothing => Ok(()),
            Demand::Unpark => {
                self.platform.wake();
                Ok(())
            }
            Demand::Spawn => {
                let executor = Arc::clone(self);
                let started = self.platform.spawn(move || executor.work());
                self.wake_if(started.is_err() && self.queue.worker_lost() == Demand::Unpark);
                started
            }
        }
    }

    /// If no thread is to be had now, those that are there do the work alone.
    fn try_meet(self: &Arc<Self>, demand: Demand) {
        let _ = self.meet(demand);
    }

    fn wake_if(&self, needed: bool) {
        if needed {
            self.platform.wake();
        }
    }

    /// Takes a task out. True: it was the last one, and the threads exit (9).
    fn remove(&self, key: Key, task: &dyn Task) -> bool {
        let removed = self.queue.remove(key, task.state());
        self.wake_if(removed.closed);
        removed.closed
    }

    /// The body of each thread.
    fn work(self: &Arc<Self>) {
        if catch_unwind(AssertUnwindSafe(|| self.run_until_exit())).is_err() {
            self.give_up();
        }
        self.wake_if(!self.platform.is_forked() && self.queue.is_closed()); // others may wait as well (9)
    }

    fn run_until_exit(self: &Arc<Self>) {
        let mut turns = 0;
        while !self.platform.is_forked() {
            if turns == TURNS_PER_LOOK {
                turns = 0;
                self.look();
            }
            match self.queue.next() {
                Duty::Run(runnable, demand) => {
                    let _turn = Turn { executor: self, key: runnable.key };
                    self.try_meet(demand); // (5)
                    self.run(runnable);
                    turns += 1;
                }
                Duty::Park(park) => match self.park(&park) {
                    Unparked::Stay => {}
                    Unparked::Leave(demand) => return self.try_meet(demand), // (7)
                },
                Duty::Exit => return,
            }
        }
    }

    fn run(self: &Arc<Self>, runnable: Runnable) {
        let Some(wakeup) = runnable.state().begin() else { return }; // it left before its turn began (8)
        let worker = Worker { executor: self, is_away: Cell::new(false) };
        let task = Arc::clone(&runnable.task);
        let outcome = catch_unwind(AssertUnwindSafe(|| task.run(wakeup, &worker)));
        if self.platform.is_forked() {
            return;
        }
        match outcome {
            Ok(true) if runnable.state().end() => self.queue.push_again(runnable), // (1)
            Ok(true) => {}
            Ok(false) => drop(self.remove(runnable.key, &*runnable.task)),
            Err(_) => {
                self.remove(runnable.key, &*runnable.task);
                tell_of_panic(&*runnable.task);
            }
        }
    }

    fn park(&self, park: &Park) -> Unparked {
        let limit = if park.spare { SPARE_LIMIT } else { PARK_LIMIT };
        let until_timer = |at: Nanos| Duration::from_nanos(at.saturating_sub(self.platform.now()));
        let events = self.platform.wait(park.until.map_or(limit, |at| until_timer(at).min(limit)));
        if events.broken {
            self.platform.pause(BROKEN_PAUSE);
        }
        self.queue.unpark(park, &events, self.platform.now())
    }

    /// For a busy thread.
    fn look(&self) {
        let events = self.platform.wait(Duration::ZERO);
        self.queue.note(&events, self.platform.now());
    }

    /// After a panic of the executor itself: closes the queue, and tells all tasks.
    fn give_up(&self) {
        self.queue.close().iter().for_each(|task| tell_of_panic(&**task));
    }
}

/// Tells a task of the panic. A panic of the task itself is caught, so that the other tasks are told too.
fn tell_of_panic(task: &dyn Task) {
    let _ = catch_unwind(AssertUnwindSafe(|| task.panicked()));
}

/// A turn of a task, until this is dropped.
struct Turn<'a, P: Platform> {
    executor: &'a Executor<P>,
    key: Key,
}

impl<P: Platform> Drop for Turn<'_, P> {
    fn drop(&mut self) {
        if !self.executor.platform.is_forked() {
            self.executor.queue.finished(self.key);
        }
    }
}

/// The thread that runs a task.
pub(crate) struct Worker<'a> {
    executor: &'a dyn HandOff,
    is_away: Cell<bool>,
}

impl Worker<'_> {
    /// Whether others wait for a turn.
    pub(crate) fn is_crowded(&self) -> bool {
        self.executor.is_crowded()
    }

    /// Runs what may block: another thread takes over meanwhile.
    pub(crate) fn block_in_place<T>(&self, body: impl FnOnce() -> T) -> T {
        if self.is_away.get() {
            return body();
        }
        self.executor.hand_off();
        self.is_away.set(true);
        let _away = Away(self);
        body()
    }
}

/// A thread that is away, until this is dropped.
struct Away<'a>(&'a Worker<'a>);

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.0.is_away.set(false);
        self.0.executor.hand_back();
    }
}

/// What a worker needs of its executor, whatever that runs on.
trait HandOff {
    fn is_crowded(&self) -> bool;
    fn hand_off(&self);
    fn hand_back(&self);
}

impl<P: Platform> HandOff for Arc<Executor<P>> {
    fn is_crowded(&self) -> bool {
        !self.platform.is_forked() && self.queue.is_crowded()
    }

    fn hand_off(&self) {
        if self.platform.is_forked() {
            return;
        }
        // Most threads block for a moment only: when many do, to wait for one of them is cheaper than to start one more.
        for _ in 0..LOOKS_FOR_A_THREAD {
            if !self.queue.is_last_of_many() {
                break;
            }
            self.platform.pause(LOOK_FOR_A_THREAD);
        }
        self.try_meet(self.queue.hand_off()); // (7)
    }

    fn hand_back(&self) {
        if !self.platform.is_forked() {
            self.queue.hand_back();
        }
    }
}

fn no_memory(_: std::collections::TryReserveError) -> Error {
    Error::NoResources { action: "memory for one more task".into(), source: io::ErrorKind::OutOfMemory.into() }
}
