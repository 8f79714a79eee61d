//! The whole executor, with threads, descriptors and time.

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use crate::sys::event::Interest;
use crate::sys::lock::Condvar;

use super::run_queue::Events;
use super::*;

mod blocking;
mod leaving;
mod process;
mod shortage;
mod timers;
mod turns;

/// What takes longer than this has not worked.
const LONG: Duration = Duration::from_secs(20);

fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < LONG, "not within {LONG:?}: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// The system, from which threads and descriptors can be taken away.
struct Shim {
    system: System,
    /// How many threads may still be started.
    spawns_left: AtomicU32,
    threads: Arc<AtomicU32>,
    most_threads: Arc<AtomicU32>,
    broken: AtomicBool,
    /// As in a child that was forked by the thread which looks.
    forked: AtomicBool,
    /// The time-outs of those that wait at the moment.
    waits: Mutex<Vec<Duration>>,
    pauses: Mutex<Vec<Duration>>,
}

impl Shim {
    fn with_spawns(spawns: u32) -> Shim {
        Shim {
            system: System::new().expect("descriptors"),
            spawns_left: AtomicU32::new(spawns),
            threads: Arc::default(),
            most_threads: Arc::default(),
            broken: AtomicBool::new(false),
            forked: AtomicBool::new(false),
            waits: Mutex::default(),
            pauses: Mutex::default(),
        }
    }

    fn waits(&self) -> Vec<Duration> {
        let mut waits = self.waits.lock().clone();
        waits.sort_unstable();
        waits
    }
}

impl Platform for Shim {
    fn now(&self) -> Nanos {
        self.system.now()
    }

    fn is_forked(&self) -> bool {
        self.forked.load(Ordering::SeqCst) || self.system.is_forked()
    }

    fn nanos(&self, at: Instant) -> Nanos {
        self.system.nanos(at)
    }

    fn wait(&self, timeout: Duration) -> Events {
        if self.broken.load(Ordering::SeqCst) {
            let mut events = Events::new();
            (events.broken, events.any) = (true, true);
            return events;
        }
        self.waits.lock().push(timeout);
        let events = self.system.wait(timeout);
        let mut waits = self.waits.lock();
        let at = waits.iter().position(|wait| *wait == timeout).expect("this wait");
        waits.remove(at);
        events
    }

    fn wake(&self) {
        self.system.wake();
    }

    fn pause(&self, time: Duration) {
        self.pauses.lock().push(time);
        self.system.pause(time);
    }

    fn spawn(&self, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let take = |left: u32| left.checked_sub(1);
        if self.spawns_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_err() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (threads, most) = (Arc::clone(&self.threads), Arc::clone(&self.most_threads));
        self.system.spawn(move || {
            most.fetch_max(threads.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            body();
            threads.fetch_sub(1, Ordering::SeqCst);
        })
    }

    fn join_all(&self, deadline: Option<Instant>) -> bool {
        self.system.join_all(deadline)
    }
}

type Turns = Box<dyn Fn(&Arc<Probe>, Wakeup, &Worker<'_>) -> bool + Send + Sync>;

/// A task whose turns a test writes.
struct Probe {
    state: TaskState,
    turns: AtomicUsize,
    turn: Turns,
    /// Two threads in it at the same time would find it taken.
    taken: Mutex<()>,
    panics: AtomicUsize,
    registration: OnceLock<Registration<Shim>>,
}

impl Probe {
    fn new(turn: impl Fn(&Arc<Probe>, Wakeup, &Worker<'_>) -> bool + Send + Sync + 'static) -> Arc<Probe> {
        Arc::new(Probe {
            state: TaskState::default(),
            turns: AtomicUsize::new(0),
            turn: Box::new(turn),
            taken: Mutex::default(),
            panics: AtomicUsize::new(0),
            registration: OnceLock::new(),
        })
    }

    fn idle() -> Arc<Probe> {
        Probe::new(|_, _, _| true)
    }

    fn register(self: &Arc<Self>, executor: &Arc<Executor<Shim>>) {
        self.try_register(executor).expect("a thread");
    }

    fn try_register(self: &Arc<Self>, executor: &Arc<Executor<Shim>>) -> Result<()> {
        let task: Arc<dyn Task> = Arc::clone(self) as _;
        let registration = executor.register(&task)?.expect("not closed");
        assert!(self.registration.set(registration).is_ok(), "registered once");
        Ok(())
    }

    fn registration(&self) -> &Registration<Shim> {
        self.registration.get().expect("registered")
    }

    fn notify(self: &Arc<Self>) {
        self.registration().notify(self);
    }

    fn set_timer_in(&self, time: Duration) {
        self.registration().set_timer(Instant::now() + time);
    }

    fn leave(&self) -> bool {
        self.registration().leave(Some(Instant::now() + LONG))
    }

    fn turns(&self) -> usize {
        self.turns.load(Ordering::SeqCst)
    }

    fn wait_for_turns(&self, turns: usize) {
        wait_until("a turn", || self.turns() >= turns);
    }
}

impl Task for Probe {
    fn state(&self) -> &TaskState {
        &self.state
    }

    fn run(self: Arc<Self>, wakeup: Wakeup, worker: &Worker<'_>) -> bool {
        let _taken = self.taken.try_lock().expect("one thread at a time");
        let goes_on = (self.turn)(&self, wakeup, worker);
        self.turns.fetch_add(1, Ordering::SeqCst);
        goes_on
    }

    fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::SeqCst);
    }
}

fn executor(parallelism: u32) -> Arc<Executor<Shim>> {
    Executor::new(Shim::with_spawns(u32::MAX), parallelism)
}

fn threads(executor: &Executor<Shim>) -> u32 {
    executor.platform.threads.load(Ordering::SeqCst)
}

/// The last one takes the threads with it.
fn leave_all<'a>(executor: &Executor<Shim>, probes: impl IntoIterator<Item = &'a Arc<Probe>>) {
    probes.into_iter().for_each(|probe| assert!(probe.leave()));
    assert_eq!(threads(executor), 0);
    assert!(executor.queue.is_closed());
}

/// A place that a turn comes to, and stays at until the test lets it go on. Not a channel, whose inside ThreadSanitizer does
/// not see.
#[derive(Default)]
struct Gate {
    /// How many have come, and how many may go on.
    state: Mutex<(usize, usize)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        self.state.lock().0 += 1;
        self.changed.notify_all();
        self.wait_for("to be let go", |(_, may_go)| may_go.checked_sub(1).map(|rest| *may_go = rest).is_some());
    }

    fn wait_for_arrival(&self) {
        self.wait_for("a turn", |(came, _)| came.checked_sub(1).map(|rest| *came = rest).is_some());
    }

    fn open(&self) {
        self.state.lock().1 += 1;
        self.changed.notify_all();
    }

    fn wait_for(&self, what: &str, mut reached: impl FnMut(&mut (usize, usize)) -> bool) {
        let deadline = Instant::now() + LONG;
        let mut state = self.state.lock();
        while !reached(&mut state) {
            assert!(Instant::now() < deadline, "not within {LONG:?}: {what}");
            state = self.changed.wait_until(state, deadline);
        }
    }
}

/// A task that comes to the gate in each turn: in place, as it should, or holding on to its thread.
fn blocking(in_place: bool) -> (Arc<Probe>, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let turns_gate = Arc::clone(&gate);
    let probe = Probe::new(move |_, _, worker| {
        if in_place {
            worker.block_in_place(|| turns_gate.pass())
        } else {
            turns_gate.pass()
        }
        true
    });
    (probe, gate)
}
