//! How many threads there are, what they do, and when another one is needed. Pure: the caller holds the lock and tells what
//! there is to do.

use super::timers::{NEVER, Nanos};

/// So many threads stay although there is nothing to do: one, and one in reserve. To start the second one again and again
/// costs more, and it may be impossible to start it at the moment when the first one blocks.
pub(super) const KEPT: u32 = 2;

/// What there is to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// A task is in the run queue.
    pub(super) queued: bool,
    /// When the earliest timer expires.
    pub(super) timer: Option<Nanos>,
}

/// What the caller must do when it has released the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Demand {
    Nothing,
    /// Wake a parked thread.
    Unpark,
    /// Start a thread. It counts already; [`Workers::lost`] if there is none to be had.
    Spawn,
}

/// How a thread is to wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Park {
    id: u64,
    /// The thread is the timekeeper: it waits until then at most.
    pub(super) until: Option<Nanos>,
    /// There are enough others: the thread leaves when nothing comes for some time.
    pub(super) spare: bool,
}

#[derive(Debug)]
pub(super) struct Workers {
    total: u32,
    /// Wait for an event.
    parked: u32,
    /// In `block_in_place`, for as long as it takes.
    away: u32,
    /// A parked thread has been woken and has not come back yet. One is enough: it sees all that there is to do.
    unparking: bool,
    /// The parked thread that waits with a timeout for the timers, and when it wakes up.
    timekeeper: Option<(u64, Nanos)>,
    parks: u64,
    /// How many may run tasks at the same time.
    parallelism: u32,
}

impl Workers {
    pub(super) fn new(parallelism: u32) -> Workers {
        Workers { total: 0, parked: 0, away: 0, unparking: false, timekeeper: None, parks: 0, parallelism }
    }

    /// So many threads, none of which has looked for a task yet.
    #[cfg(all(test, not(loom)))]
    pub(super) fn with_threads(total: u32, parallelism: u32) -> Workers {
        Workers { total, ..Workers::new(parallelism) }
    }

    /// Those that run a task or are about to look for one.
    fn active(&self) -> u32 {
        self.total - self.away - self.parked
    }

    fn has_spare(&self) -> bool {
        self.total - self.away > KEPT
    }

    fn are_many(&self) -> bool {
        self.total >= self.parallelism.saturating_add(KEPT)
    }

    /// No parked thread wakes up in time for the earliest timer.
    fn is_unattended(&self, timer: Option<Nanos>) -> bool {
        timer.unwrap_or(NEVER) < self.timekeeper.map_or(NEVER, |(_, at)| at)
    }

    /// A thread for what there is to do, unless there are active ones that come to it by themselves: as many as may be for
    /// the run queue, and any one for the timers.
    pub(super) fn demand(&mut self, load: Load) -> Demand {
        let for_queue = load.queued && self.active() < self.parallelism;
        let for_timers = self.active() == 0 && self.is_unattended(load.timer);
        if self.unparking || !(for_queue || for_timers) {
            return Demand::Nothing;
        }
        if self.parked > 0 {
            self.unparking = true;
            return Demand::Unpark;
        }
        // All are away, and another one could not be started when the last of them went.
        if self.total == self.away { self.spawn() } else { Demand::Nothing }
    }

    /// The calling thread takes a task, and perhaps more are queued. Among many that are away some will be back before a new
    /// thread has started.
    pub(super) fn share(&mut self, load: Load) -> Demand {
        if !load.queued || self.parked > 0 || self.active() >= self.parallelism || self.are_many() {
            return self.demand(load);
        }
        self.spawn()
    }

    /// There must be a thread that is not away.
    pub(super) fn ensure_worker(&mut self, load: Load) -> Demand {
        if self.total > self.away { self.demand(load) } else { self.spawn() }
    }

    /// There must be a second thread, in case that none can be started when the first one goes away.
    pub(super) fn ensure_reserve(&mut self) -> Demand {
        if self.total < KEPT { self.spawn() } else { Demand::Nothing }
    }

    fn spawn(&mut self) -> Demand {
        self.total += 1;
        Demand::Spawn
    }

    /// A thread could not be started. Others relied on it meanwhile: perhaps a parked one is needed instead.
    pub(super) fn lost(&mut self, load: Load) -> Demand {
        self.total -= 1;
        if self.parked > 0 { self.demand(load) } else { Demand::Nothing }
    }

    /// The calling thread has nothing to do and is about to wait. It becomes the timekeeper if nobody wakes up in time.
    pub(super) fn park(&mut self, timer: Option<Nanos>) -> Park {
        self.parked += 1;
        self.parks += 1;
        let until = timer.filter(|_| self.is_unattended(timer));
        if let Some(until) = until {
            self.timekeeper = Some((self.parks, until));
        }
        Park { id: self.parks, until, spare: self.has_spare() }
    }

    /// A thread has waited.
    pub(super) fn unpark(&mut self, park: &Park) {
        self.parked -= 1;
        self.timekeeper = self.timekeeper.filter(|(id, _)| *id != park.id);
        self.took_events();
    }

    /// A thread has looked for events, and may have taken the wake-up that was meant for a parked one.
    pub(super) fn took_events(&mut self) {
        self.unparking = false;
    }

    /// Nothing has come for the calling thread. True: it is one too many and no longer counts.
    pub(super) fn leave_if_spare(&mut self) -> bool {
        let leaves = self.has_spare();
        self.total -= u32::from(leaves);
        leaves
    }

    /// The calling thread is about to block.
    pub(super) fn hand_off(&mut self) {
        self.away += 1;
    }

    /// The calling thread is back.
    pub(super) fn hand_back(&mut self) {
        self.away -= 1;
    }

    /// Whether the calling thread is the last one that is not away, and many are: one of those may be back in a moment.
    pub(super) fn is_last_of_many(&self) -> bool {
        self.total == self.away + 1 && self.are_many()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
