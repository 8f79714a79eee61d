//! Whose turn it is: tasks that have something to do, and the few threads that do it.
//!
//! A task waits here once or not at all, and is with one thread at a time. What is asked of it meanwhile is not forgotten:
//! it gets another turn.

use std::collections::{TryReserveError, VecDeque};
use std::thread::ThreadId;

use crate::sync::{AtomicU8, Mutex, Ordering};

/// What is asked of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked(u8);

impl Asked {
    /// There is something to do.
    pub(super) const WORK: Asked = Asked(1);
    /// An event has been told, which is not told again before it is asked for.
    pub(super) const EVENT: Asked = Asked(2);

    pub(super) fn is_event(self) -> bool {
        self.0 & Asked::EVENT.0 != 0
    }
}

/// So many threads stay although there is nothing to do: starting the second one again and again costs more.
const KEPT: u32 = 2;

/// A thread has the task.
const TAKEN: u8 = 4;

/// Where a task stands: free, waiting for its turn, or having it.
#[derive(Debug, Default)]
pub(super) struct Turns(AtomicU8);

impl Turns {
    /// Asks for a turn. True: the caller must put the task into the rota.
    pub(super) fn ask(&self, what: Asked) -> bool {
        self.0.fetch_or(what.0, Ordering::AcqRel) == 0
    }

    /// A thread has got the task from the rota, and is told what for.
    pub(super) fn begin(&self) -> Asked {
        Asked(self.0.swap(TAKEN, Ordering::AcqRel))
    }

    /// The turn is over. True: more has been asked, and the caller must put the task into the rota again.
    pub(super) fn end(&self) -> bool {
        self.0.fetch_and(!TAKEN, Ordering::AcqRel) != TAKEN
    }
}

/// Who else is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Help {
    Nobody,
    /// Wake a thread that sleeps.
    Wake,
    /// Start a thread; it counts already. [`Rota::is_one_less`] if there is none to be had.
    Start,
}

/// What a thread that wants work is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    /// Give the task a turn, and then call [`Rota::served`].
    Serve(u64, T, Help),
    /// Wait for an event, and then call [`Rota::woke_up`]: the thread counts as asleep.
    Sleep {
        /// There are enough others: do not wait for ever.
        spare: bool,
    },
    /// All is over.
    Leave,
}

#[derive(Debug)]
pub(super) struct Rota<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    /// Tasks, by their keys.
    waiting: VecDeque<(u64, T)>,
    /// Who is having a turn, and by which thread.
    served: Vec<(u64, ThreadId)>,
    total: u32,
    /// Threads that wait for an event.
    asleep: u32,
    /// Threads that are in a callback, which may take long.
    away: u32,
    /// One of those asleep has been called and has not come yet. One call is enough: it sees what more there is.
    called: bool,
    /// How many may work at the same time.
    most: u32,
    closed: bool,
}

impl<T> Rota<T> {
    pub(super) fn new(most: u32) -> Rota<T> {
        let (waiting, served) = Default::default();
        Rota(Mutex::new(State { waiting, served, total: 0, asleep: 0, away: 0, called: false, most, closed: false }))
    }

    /// Makes sure that so many tasks can wait or have a turn: where they are added there is nobody to be told that memory is short.
    pub(super) fn make_room(&self, tasks: usize) -> Result<(), TryReserveError> {
        let mut state = self.0.lock();
        let more = tasks.saturating_sub(state.waiting.len());
        state.waiting.try_reserve(more)?;
        let more = tasks.saturating_sub(state.served.len());
        state.served.try_reserve(more)
    }

    /// Somebody outside has work.
    pub(super) fn add(&self, key: u64, task: T) -> Help {
        let mut state = self.0.lock();
        let refused = state.add(key, task);
        let help = state.call_one();
        drop(state);
        drop(refused); // without the lock: it may be the last one to hold on to what is behind it
        help
    }

    /// A thread has work, and comes for it itself.
    pub(super) fn add_own(&self, key: u64, task: T) {
        let refused = self.0.lock().add(key, task);
        drop(refused);
    }

    pub(super) fn next(&self) -> Next<T> {
        let mut state = self.0.lock();
        if state.closed {
            return Next::Leave;
        }
        match state.waiting.pop_front() {
            Some((key, task)) => {
                state.served.push((key, std::thread::current().id()));
                Next::Serve(key, task, state.share())
            }
            None => {
                state.asleep += 1;
                Next::Sleep { spare: state.has_spare() }
            }
        }
    }

    /// The turn of a task is over, and its thread, the calling one, holds nothing of it any more.
    pub(super) fn served(&self, key: u64) {
        let mine = (key, std::thread::current().id());
        self.0.lock().served.retain(|served| *served != mine);
    }

    /// Takes a task out. The second answer: another thread than the calling one is giving it a turn, and may put it back.
    pub(super) fn remove(&self, key: u64) -> (Option<T>, bool) {
        let me = std::thread::current().id();
        let mut state = self.0.lock();
        let at = state.waiting.iter().position(|(waiting, _)| *waiting == key);
        let removed = at.and_then(|at| state.waiting.remove(at)).map(|(_, task)| task);
        (removed, state.served.iter().any(|(served, by)| *served == key && *by != me))
    }

    /// A thread is awake again. False: nothing came, others are there, and it leaves.
    pub(super) fn woke_up(&self, nothing_came: bool) -> bool {
        let mut state = self.0.lock();
        state.asleep -= 1;
        state.called = false;
        let leaves = nothing_came && state.waiting.is_empty() && state.has_spare();
        state.total -= u32::from(leaves);
        !leaves
    }

    /// A thread that works has looked for events: a call that was meant for one that sleeps may have come to it.
    pub(super) fn heard(&self) {
        self.0.lock().called = false;
    }

    /// The calling thread is about to be away.
    pub(super) fn step_aside(&self) {
        self.0.lock().away += 1;
    }

    pub(super) fn step_back(&self) {
        self.0.lock().away -= 1;
    }

    /// There must be a thread that is not away.
    pub(super) fn man(&self) -> Help {
        self.0.lock().man()
    }

    /// There must be a second thread, in case that there is none to be had when the first one is away.
    pub(super) fn keep_a_reserve(&self) -> Help {
        let mut state = self.0.lock();
        if state.total < KEPT { state.start() } else { Help::Nobody }
    }

    /// Whether the calling thread is the last one that is not away, and many are: one of those may be back in a moment.
    pub(super) fn is_last_of_many(&self) -> bool {
        let state = self.0.lock();
        state.total == state.away + 1 && state.are_many()
    }

    /// A thread could not be started, or is gone.
    pub(super) fn is_one_less(&self) {
        self.0.lock().total -= 1;
    }

    /// Whether somebody waits for a turn.
    pub(super) fn is_crowded(&self) -> bool {
        !self.0.lock().waiting.is_empty()
    }

    /// All threads leave, after their present turn. Nobody serves the tasks that are returned.
    pub(super) fn close(&self) -> VecDeque<(u64, T)> {
        let mut state = self.0.lock();
        state.closed = true;
        std::mem::take(&mut state.waiting)
    }
}

impl<T> State<T> {
    /// Returns a task that comes too late.
    fn add(&mut self, key: u64, task: T) -> Option<T> {
        if self.closed {
            return Some(task);
        }
        self.waiting.push_back((key, task));
        None
    }

    fn has_spare(&self) -> bool {
        self.total - self.away > KEPT
    }

    fn active(&self) -> u32 {
        self.total - self.away - self.asleep
    }

    /// Wakes a thread for what waits, unless enough of them work: those come by themselves.
    fn call_one(&mut self) -> Help {
        if self.waiting.is_empty() || self.called || self.active() >= self.most {
            return Help::Nobody;
        }
        if self.asleep > 0 {
            self.called = true;
            return Help::Wake;
        }
        // All are away, and another one could not be started when the last of them went.
        if self.total == self.away { self.start() } else { Help::Nobody }
    }

    fn start(&mut self) -> Help {
        self.total += 1;
        Help::Start
    }

    /// A thread is busy from now on, and more waits. Among many that are away some will be back before a new one comes.
    fn share(&mut self) -> Help {
        if self.waiting.is_empty() || self.asleep > 0 || self.active() >= self.most || self.are_many() {
            return self.call_one();
        }
        self.start()
    }

    fn are_many(&self) -> bool {
        self.total >= self.most.saturating_add(KEPT)
    }

    fn man(&mut self) -> Help {
        if self.total > self.away { self.call_one() } else { self.start() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A rota of so many threads, none of which has come for work yet.
    fn rota_with(threads: u32, most: u32) -> Rota<u32> {
        let rota = Rota::new(most);
        assert_eq!(rota.man(), Help::Start);
        for _ in 1..threads {
            rota.0.lock().total += 1;
        }
        rota
    }

    fn sleeps(rota: &Rota<u32>) -> bool {
        match rota.next() {
            Next::Sleep { spare } => spare,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_task_waits_once_and_what_is_asked_in_its_turn_gives_it_another() {
        let turns = Turns::default();
        assert!(turns.ask(Asked::WORK));
        assert!(!turns.ask(Asked::EVENT), "it waits already");
        assert!(turns.begin().is_event());
        assert!(!turns.end());
        assert!(turns.ask(Asked::WORK));
        assert!(!turns.begin().is_event());
        assert!(!turns.ask(Asked::WORK), "a thread has it");
        assert!(turns.end(), "another turn");
        turns.begin();
        assert!(!turns.end());
    }

    #[test]
    fn one_thread_that_sleeps_is_called_once() {
        let rota = rota_with(1, 2);
        assert!(!sleeps(&rota));
        assert_eq!(rota.add(1, 1), Help::Wake);
        assert_eq!(rota.add(2, 2), Help::Nobody, "it has been called");
        assert!(rota.woke_up(false));
        assert_eq!(rota.next(), Next::Serve(1, 1, Help::Start));
        assert_eq!(rota.next(), Next::Serve(2, 2, Help::Nobody));
        assert_eq!(rota.add(3, 3), Help::Nobody, "both work, and come by themselves");
    }

    #[test]
    fn no_more_threads_than_may_work_are_called_or_started() {
        let rota = rota_with(2, 1);
        rota.add_own(1, 1);
        rota.add_own(2, 2);
        rota.0.lock().asleep = 1;
        assert_eq!(rota.next(), Next::Serve(1, 1, Help::Nobody));
        assert_eq!(rota.add(3, 3), Help::Nobody, "one works");
    }

    #[test]
    fn who_is_away_is_replaced() {
        let rota = rota_with(1, 1);
        assert!(!rota.is_last_of_many(), "one is not many");
        rota.step_aside();
        assert_eq!(rota.man(), Help::Start);
        assert_eq!(rota.man(), Help::Nobody);
        rota.step_aside();
        assert_eq!(rota.man(), Help::Start);
        assert!(rota.is_last_of_many());
        rota.step_back();
        assert!(!rota.is_last_of_many());
        rota.step_aside();
        rota.step_aside();
        assert_eq!(rota.man(), Help::Start);
        rota.is_one_less();
        assert_eq!(rota.man(), Help::Start, "it could not be started before");
        rota.is_one_less();
        assert_eq!(rota.add(1, 1), Help::Start, "nor then");
    }

    #[test]
    fn a_second_thread_is_kept_in_reserve() {
        let rota = rota_with(1, 1);
        assert_eq!(rota.keep_a_reserve(), Help::Start);
        assert_eq!(rota.keep_a_reserve(), Help::Nobody);
    }

    #[test]
    fn who_takes_a_task_out_knows_whether_another_thread_has_it() {
        let rota = rota_with(1, 1);
        rota.add_own(1, 1);
        rota.add_own(2, 2);
        assert!(matches!(rota.next(), Next::Serve(1, 1, _)));
        assert_eq!(rota.remove(1), (None, false), "the calling thread has it");
        assert_eq!((rota.remove(2), rota.remove(2)), ((Some(2), false), (None, false)));
        let elsewhere = || std::thread::scope(|scope| scope.spawn(|| rota.remove(1)).join().expect("no panic"));
        assert_eq!(elsewhere(), (None, true));
        rota.served(1);
        assert_eq!(elsewhere(), (None, false));
    }

    #[test]
    fn a_call_that_a_busy_thread_has_heard_can_be_made_again() {
        let rota = rota_with(2, 2);
        sleeps(&rota);
        assert_eq!(rota.add(1, 1), Help::Wake);
        rota.heard();
        assert_eq!(rota.add(2, 2), Help::Wake);
    }

    #[test]
    fn spare_threads_leave_and_two_stay() {
        let rota = rota_with(4, 4);
        assert!(sleeps(&rota));
        assert!(rota.woke_up(false), "something came");
        sleeps(&rota);
        sleeps(&rota);
        assert!(!rota.woke_up(true));
        assert!(!rota.woke_up(true));
        assert!(!sleeps(&rota), "two are left");
        assert!(rota.woke_up(true));
    }

    #[test]
    fn nothing_waits_in_a_closed_rota() {
        let rota = rota_with(1, 1);
        rota.add_own(1, 1);
        assert_eq!(rota.close(), [(1, 1)]);
        assert_eq!(rota.add(2, 2), Help::Nobody);
        assert!(!rota.is_crowded());
        assert_eq!(rota.next(), Next::Leave);
    }
}
