//! Models of the executor: loom tries every interleaving of its real code, in which only epoll, the clock and the threads are
//! replaced. Time passes when a thread waits with the timeout of a timer, and at no other moment: a timer that nobody waits
//! for, and a wake-up that is lost, are deadlocks.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib model`

use std::sync::OnceLock;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread::{self, JoinHandle};

use crate::sync::{AtomicU64, Condvar, Mutex};

use super::run_queue::Events;
use super::*;

/// A flag that is waited for. As an eventfd, it remembers what came before the wait.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock() = true;
        self.heard.notify_all();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock();
        while !*rung {
            rung = self.heard.wait(rung);
        }
    }

    /// One of those that wait takes the ring, and no other.
    fn wait_and_take(&self) {
        let mut rung = self.rung.lock();
        while !*rung {
            rung = self.heard.wait(rung);
        }
        *rung = false;
    }

    fn take(&self) -> bool {
        std::mem::take(&mut *self.rung.lock())
    }
}

struct Model {
    eventfd: Bell,
    clock: AtomicU64,
    born: Instant,
    spawns_left: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Platform for Model {
    fn now(&self) -> Nanos {
        self.clock.load(Ordering::SeqCst)
    }

    fn is_forked(&self) -> bool {
        false
    }

    fn nanos(&self, at: Instant) -> Nanos {
        at.duration_since(self.born).as_nanos() as Nanos
    }

    fn wait(&self, timeout: Duration) -> Events {
        let mut events = Events::new();
        events.any = if timeout < SPARE_LIMIT {
            let came = self.eventfd.take();
            if !came {
                self.clock.fetch_add(timeout.as_nanos() as Nanos, Ordering::SeqCst);
            }
            came
        } else {
            self.eventfd.wait_and_take();
            true
        };
        events
    }

    fn wake(&self) {
        self.eventfd.ring();
    }

    fn pause(&self, _: Duration) {
        thread::yield_now();
    }

    fn spawn(&self, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let left = self.spawns_left.load(Ordering::SeqCst);
        if left == 0 {
            thread::yield_now(); // the attempt takes its time
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.spawns_left.store(left - 1, Ordering::SeqCst);
        let thread = thread::spawn(body);
        self.threads.lock().push(thread);
        Ok(())
    }

    fn join_all(&self, _: Option<Instant>) -> bool {
        while let Some(thread) = { self.threads.lock().pop() } {
            thread.join().expect("no panic");
        }
        true
    }
}

fn executor(spawns: usize, parallelism: u32) -> Arc<Executor<Model>> {
    let platform = Model {
        eventfd: Bell::default(),
        clock: AtomicU64::new(0),
        born: Instant::now(),
        spawns_left: AtomicUsize::new(spawns),
        threads: Mutex::default(),
    };
    Executor::new(platform, parallelism)
}

type Turns = Box<dyn Fn(&Arc<Job>, Wakeup, &Worker<'_>) + Send + Sync>;

/// A task: what is asked of it, and what has been done.
struct Job {
    state: TaskState,
    registration: OnceLock<Registration<Model>>,
    asked: AtomicUsize,
    /// All that was asked has been done: set by a turn.
    done: Bell,
    turn: Turns,
    /// Two threads in it at the same time would find it taken.
    taken: loom::sync::Mutex<()>,
    has_left: AtomicUsize,
    panics: AtomicUsize,
}

impl Job {
    fn new(turn: impl Fn(&Arc<Job>, Wakeup, &Worker<'_>) + Send + Sync + 'static) -> Arc<Job> {
        Arc::new(Job {
            state: TaskState::default(),
            registration: OnceLock::new(),
            asked: AtomicUsize::new(0),
            done: Bell::default(),
            turn: Box::new(turn),
            taken: loom::sync::Mutex::new(()),
            has_left: AtomicUsize::new(0),
            panics: AtomicUsize::new(0),
        })
    }

    /// Is done when so much has been asked of it.
    fn counting(asks: usize) -> Arc<Job> {
        Job::new(move |job, _, _| {
            if job.asked.load(Ordering::SeqCst) == asks {
                job.done.ring();
            }
        })
    }

    fn registered(self: Arc<Self>, executor: &Arc<Executor<Model>>) -> Arc<Job> {
        assert!(self.try_register(executor).is_ok());
        self
    }

    fn try_register(self: &Arc<Self>, executor: &Arc<Executor<Model>>) -> Result<()> {
        let task: Arc<dyn Task> = Arc::clone(self) as _;
        let registration = executor.register(&task)?.expect("not closed");
        assert!(self.registration.set(registration).is_ok());
        Ok(())
    }

    fn registration(&self) -> &Registration<Model> {
        self.registration.get().expect("registered")
    }

    fn ask(self: &Arc<Self>) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.registration().notify(self);
    }

    fn set_timer(&self, at: u64) {
        let born = self.registration().executor.platform.born;
        self.registration().set_timer(born + Duration::from_nanos(at));
    }

    fn leave(&self) {
        assert!(self.registration().leave(None));
        self.has_left.store(1, Ordering::SeqCst);
        self.assert_no_panic();
    }

    /// The executor catches the panic of an assertion that fails in a turn.
    fn assert_no_panic(&self) {
        assert_eq!(self.panics.load(Ordering::SeqCst), 0, "in a turn");
    }
}

impl Task for Job {
    fn state(&self) -> &TaskState {
        &self.state
    }

    fn run(self: Arc<Self>, wakeup: Wakeup, worker: &Worker<'_>) -> bool {
        let _taken = self.taken.try_lock().expect("one thread at a time");
        assert_eq!(self.has_left.load(Ordering::SeqCst), 0, "a turn begins after leaving");
        (self.turn)(&self, wakeup, worker);
        assert_eq!(self.has_left.load(Ordering::SeqCst), 0, "a turn ends after leaving");
        true
    }

    fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::SeqCst);
        self.done.ring();
    }
}

/// All interleavings with so many switches that no thread asked for: all of them would take hours.
fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions)); // LOOM_MAX_PREEMPTIONS
    builder.check(model);
}

/// What is asked of a task while it waits for its turn, or has it, is done in that turn or in another one. The thread that
/// looks for events after each turn may take the wake-up that was meant for a parked one (1 to 4).
#[test]
fn what_is_asked_of_a_task_is_done() {
    check(3, || {
        let executor = executor(1, 1);
        let job = Job::counting(2).registered(&executor);
        let caller = {
            let job = Arc::clone(&job);
            thread::spawn(move || job.ask())
        };
        job.ask();
        job.done.wait();
        caller.join().expect("no panic");
        job.leave();
    });
}

/// Two threads, and two tasks that are notified at the same time: a wake-up that a busy thread takes is not lost (4, 5).
#[test]
fn a_wake_up_that_another_thread_takes_is_not_lost() {
    check(2, || {
        let executor = executor(2, 2);
        let jobs = [Job::counting(1), Job::counting(1)].map(|job| job.registered(&executor));
        let caller = {
            let job = Arc::clone(&jobs[0]);
            thread::spawn(move || job.ask())
        };
        jobs[1].ask();
        jobs.iter().for_each(|job| job.done.wait());
        caller.join().expect("no panic");
        jobs.iter().for_each(|job| job.leave());
    });
}

/// A timer that a caller sets while the thread parks, or is parked, without any timer or with a later one; and one that is
/// set when all have expired (6).
#[test]
fn a_timer_that_is_set_while_a_thread_parks_comes_in_time() {
    check(2, || {
        let executor = executor(1, 1);
        let job = Job::new(|job, wakeup, _| {
            assert!(wakeup.is_timer());
            let at = job.asked.load(Ordering::SeqCst) as Nanos;
            if job.registration().executor.platform.now() >= at {
                job.done.ring();
            } else {
                job.set_timer(at); // an earlier one had stayed
            }
        });
        let job = job.registered(&executor);
        job.asked.store(5, Ordering::SeqCst);
        let caller = {
            let job = Arc::clone(&job);
            thread::spawn(move || job.set_timer(9))
        };
        job.set_timer(5);
        job.done.wait_and_take();
        caller.join().expect("no panic");
        job.asked.store(30, Ordering::SeqCst);
        job.set_timer(30);
        job.done.wait();
        job.leave();
    });
}

/// A turn sets a timer for another task and blocks until that has expired: the other thread keeps the time (6, 7).
#[test]
fn a_timer_is_kept_by_others_while_a_thread_blocks() {
    check(2, || {
        let executor = executor(2, 2);
        let timed = Job::new(|job, wakeup, _| {
            assert!(wakeup.is_timer());
            job.done.ring();
        });
        let timed = timed.registered(&executor);
        let blocker = {
            let timed = Arc::clone(&timed);
            Job::new(move |job, _, worker| {
                timed.set_timer(5);
                worker.block_in_place(|| timed.done.wait());
                job.done.ring();
            })
        };
        let blocker = blocker.registered(&executor);
        blocker.ask();
        blocker.done.wait();
        blocker.leave();
        timed.leave();
    });
}

/// A task is notified while the thread that it relies on goes away until just that task has had its turn (7).
#[test]
fn a_thread_that_blocks_is_not_relied_on() {
    check(2, || {
        let executor = executor(2, 1);
        let other = Job::counting(1).registered(&executor);
        let blocker = {
            let other = Arc::clone(&other);
            Job::new(move |job, _, worker| {
                worker.block_in_place(|| other.done.wait());
                job.done.ring();
            })
        };
        let blocker = blocker.registered(&executor);
        blocker.ask();
        other.ask();
        blocker.done.wait();
        blocker.leave();
        other.leave();
    });
}

/// A task is notified while the thread in reserve, which counts already, turns out not to be had (7).
#[test]
fn a_thread_that_could_not_be_started_is_not_relied_on() {
    check(3, || {
        let executor = executor(1, 1);
        let job = Job::counting(1).registered(&executor);
        let caller = {
            let job = Arc::clone(&job);
            thread::spawn(move || job.ask())
        };
        assert!(Job::counting(0).try_register(&executor).is_err());
        job.done.wait();
        caller.join().expect("no panic");
        job.leave();
    });
}

/// No turn runs when a task has left, whatever was asked of it (8), and the threads end (9).
#[test]
fn no_turn_runs_when_a_task_has_left() {
    check(2, || {
        let executor = executor(2, 2);
        let stays = Job::counting(1).registered(&executor);
        let leaves = Job::counting(usize::MAX).registered(&executor);
        leaves.ask();
        let caller = {
            let leaves = Arc::clone(&leaves);
            thread::spawn(move || {
                leaves.ask();
                leaves.set_timer(1);
            })
        };
        leaves.leave();
        stays.ask();
        stays.done.wait();
        caller.join().expect("no panic");
        stays.leave();
        assert!(executor.platform.threads.lock().is_empty());
        leaves.assert_no_panic();
    });
}
