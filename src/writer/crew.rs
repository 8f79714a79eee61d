//! The threads that drive all started writers of the process.
//!
//! One thread can send for a thousand writers: sending never blocks. So there is one; as many as there are processors while
//! there is work for them; and, while there are other writers, one more for each that is away for what may block: an error
//! callback, a file system that looks for a path, a sender in the hands of a caller. The last writer that stops takes the
//! threads with it.
//!
//! The crew is to a writer what an event loop of the host would be: it watches the same descriptor, and drives the writer
//! when that is readable. A message that finds the sender asleep takes a shorter way, straight into the [`Rota`].

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::sys::event::{Event, Interest, Key, NO_EVENT, Poller};
use crate::sys::lock::Mutex;
use crate::sys::thread::Threads;
use crate::sys::{self, fork};

use super::rota::{Asked, Help, Next, Rota, Turns};

/// A thread that is one too many leaves when it has had nothing to do for this long.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many events a thread takes at a time.
const EVENTS: usize = 64;
/// After so many turns a busy thread looks what has happened.
const TURNS: u32 = 16;

/// How often, and after how long each time, the last of many threads looks whether another one is back before it goes.
const LOOKS_FOR_A_THREAD: u32 = 10;
const LOOK_FOR_A_THREAD: Duration = Duration::from_micros(500);

/// The crew that new writers join.
static CURRENT: Mutex<Weak<Crew>> = Mutex::new(Weak::new());
/// How often it is looked for while somebody else is at it. In a child of `fork` that may be for ever: a thread of its
/// parent that does not exist there.
const LOOKS: u32 = 100;
const LOOK_STEP: Duration = Duration::from_micros(100);

/// How often a writer that leaves looks whether a thread still has it, which has nothing left to do for it.
const LEAVE_STEP: Duration = Duration::from_micros(20);

/// How long a thread waits that would spin without it: somebody has closed our descriptors.
pub(super) const BROKEN_PAUSE: Duration = Duration::from_millis(5);

/// A writer, as its crew sees it.
pub(super) trait Driven: Send + Sync {
    /// Readable when there is something to do.
    fn poller(&self) -> &Poller;

    fn turns(&self) -> &Turns;

    /// Does what can be done now, because of an event at the poller or without one. False when it has come to rest.
    fn take_turn(self: Arc<Self>, event: bool, crew: &Arc<Crew>) -> bool;

    /// A bug of ours: there are no turns any more.
    fn panicked(&self);
}

pub(super) struct Crew {
    poller: Poller,
    rota: Rota<Arc<dyn Driven>>,
    roster: Mutex<Roster>,
    threads: Threads,
    /// How many berths there are: in a forked child, where no lock can be trusted, the last one closes the descriptors.
    berths: AtomicU32,
    fork: fork::Token,
}

#[derive(Default)]
struct Roster {
    writers: HashMap<Key, Arc<dyn Driven>>,
    last_key: Key,
    /// The last writer has left, and the threads are leaving.
    closed: bool,
}

/// A writer's place in the crew.
pub(super) struct Berth {
    crew: Arc<Crew>,
    key: Key,
}

impl Berth {
    /// Makes `writer` one of those that are driven.
    pub(super) fn find(writer: &Arc<dyn Driven>) -> Result<Berth> {
        let mut looks = 0..LOOKS;
        let mut current = loop {
            match CURRENT.try_lock() {
                Some(current) => break current,
                None if looks.next().is_none() => return Crew::new()?.enlist_first(writer), // one of its own will do
                None => std::thread::sleep(LOOK_STEP),
            }
        };
        if let Some(crew) = current.upgrade().filter(|crew| crew.fork.is_current())
            && let Some(berth) = crew.enlist(writer)?
        {
            return Ok(berth);
        }
        let crew = Crew::new()?;
        *current = Arc::downgrade(&crew);
        crew.enlist_first(writer)
    }

    /// The writer has something to do.
    pub(super) fn ask(&self, writer: &Arc<impl Driven + 'static>) {
        if writer.turns().ask(Asked::WORK) {
            self.crew.help(self.crew.rota.add(self.key, Arc::clone(writer) as _));
        }
    }

    /// The writer has come to its end, and no callback of it runs. With the last one the threads end as well, and are
    /// waited for.
    pub(super) fn leave(&self) {
        if self.crew.dismiss(self.key) {
            self.crew.threads.join_all();
        }
        // Else what is freed now would not be gone yet, and be left behind in a child that is forked meanwhile.
        while self.crew.rota.remove(self.key).1 {
            std::thread::sleep(LEAVE_STEP);
        }
    }

    /// In a forked child: the last one closes the descriptors. The berth must not be dropped there.
    pub(super) fn leave_to_parent(&self) {
        if self.crew.berths.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.crew.poller.raw_fds().into_iter().for_each(sys::close_inherited);
        }
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.crew.berths.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Crew {
    fn new() -> Result<Arc<Crew>> {
        let resources = |source| Error::from_os("descriptors for the writers' event loop", source);
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
        Ok(Arc::new(Crew {
            poller: Poller::new().map_err(resources)?,
            rota: Rota::new(u32::try_from(processors).unwrap_or(u32::MAX)),
            roster: Mutex::default(),
            threads: Threads::default(),
            berths: AtomicU32::new(0),
            fork: fork::Token::of_this_process().map_err(resources)?,
        }))
    }

    fn enlist_first(self: &Arc<Self>, writer: &Arc<dyn Driven>) -> Result<Berth> {
        self.enlist(writer)?.ok_or(Error::Stopped) // a new crew is not closed
    }

    /// `None`: this crew has come to its end.
    fn enlist(self: &Arc<Self>, writer: &Arc<dyn Driven>) -> Result<Option<Berth>> {
        let mut roster = self.roster.lock();
        if roster.closed {
            return Ok(None);
        }
        roster.writers.try_reserve(1).map_err(no_memory)?;
        self.rota.make_room(roster.writers.len() + 1).map_err(no_memory)?;
        roster.last_key += 1;
        let key = roster.last_key;
        self.poller
            .add(writer.poller().as_fd(), key, Interest::READABLE_ONCE)
            .map_err(|source| Error::from_os("a place in the writers' event loop", source))?;
        let manned = self
            .try_help(self.rota.man())
            .and_then(|()| if roster.writers.is_empty() { Ok(()) } else { self.try_help(self.rota.keep_a_reserve()) });
        if let Err(source) = manned {
            let _ = self.poller.remove(writer.poller().as_fd());
            return Err(Error::NoResources { action: "a thread for the writer".into(), source });
        }
        roster.writers.insert(key, Arc::clone(writer));
        self.berths.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Berth { crew: Arc::clone(self), key }))
    }

    /// A writer has come to its end. True: it was the last one.
    fn dismiss(&self, key: Key) -> bool {
        let mut roster = self.roster.lock();
        let dismissed = roster.writers.remove(&key);
        let _ = dismissed.as_ref().map(|writer| self.poller.remove(writer.poller().as_fd()));
        roster.closed = roster.writers.is_empty();
        let unserved = roster.closed.then(|| self.rota.close());
        drop(roster);
        if unserved.is_some() {
            self.poller.wake();
        }
        unserved.is_some() // what is dropped here, without a lock, may be the last to hold on to a callback of the host
    }

    fn help(self: &Arc<Self>, help: Help) {
        // No thread to be had now: those that are there do the work alone.
        let _ = self.try_help(help);
    }

    fn try_help(self: &Arc<Self>, help: Help) -> std::io::Result<()> {
        match help {
            Help::Nobody => Ok(()),
            Help::Wake => {
                self.poller.wake();
                Ok(())
            }
            Help::Start => {
                let crew = Arc::clone(self);
                self.threads.start("udsipc-writer", move || crew.work()).inspect_err(|_| self.rota.is_one_less())
            }
        }
    }

    /// The body of each thread.
    fn work(self: &Arc<Self>) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.serve_until_closed()));
        if outcome.is_err() {
            self.give_up();
        }
        self.poller.wake(); // others may wait there as well
    }

    fn serve_until_closed(self: &Arc<Self>) {
        let mut turns = 0;
        loop {
            if turns == TURNS {
                turns = 0;
                self.look(Some(Duration::ZERO), |_| self.rota.heard());
            }
            match self.rota.next() {
                Next::Serve(key, writer, help) => {
                    let _served = Served(&self.rota, key);
                    self.help(help);
                    self.serve(key, writer);
                    turns += 1;
                }
                Next::Sleep { spare } => {
                    let mut stays = true;
                    self.look(spare.then_some(PATIENCE), |events| stays = self.rota.woke_up(events == 0));
                    if !stays {
                        return;
                    }
                }
                Next::Leave => return,
            }
        }
    }

    fn serve(self: &Arc<Self>, key: Key, writer: Arc<dyn Driven>) {
        let asked = writer.turns().begin();
        if !Arc::clone(&writer).take_turn(asked.is_event(), self) {
            self.dismiss(key);
            return; // the turn never ends, so it is not asked for another one
        }
        if asked.is_event() {
            let _ = self.poller.modify(writer.poller().as_fd(), key, Interest::READABLE_ONCE);
        }
        if writer.turns().end() {
            self.rota.add_own(key, writer);
        }
    }

    /// Waits for events up to `timeout` and notes them. `woke_up` is called first, with their number.
    fn look(&self, timeout: Option<Duration>, woke_up: impl FnOnce(usize)) {
        let mut keys = [None; EVENTS];
        let mut count = 0;
        let waited = self.poller.wait(&mut [NO_EVENT; EVENTS], timeout, |event| {
            if let Event::Ready { key, .. } = event {
                keys[count] = Some(key);
            }
            count += 1;
        });
        if waited.is_err() {
            // Somebody closed our descriptors. Each writer looks for itself now and then.
            std::thread::sleep(BROKEN_PAUSE);
            count = 1;
        }
        woke_up(count);
        let roster = self.roster.lock();
        let told = keys.into_iter().flatten().filter_map(|key| roster.writers.get_key_value(&key));
        told.for_each(|writer| self.note_event(writer));
        if waited.is_err() {
            roster.writers.iter().for_each(|writer| self.note_event(writer));
        }
    }

    fn note_event(&self, (key, writer): (&Key, &Arc<dyn Driven>)) {
        if writer.turns().ask(Asked::EVENT) {
            self.rota.add_own(*key, Arc::clone(writer));
        }
    }

    /// Runs what may block: the other writers must not wait for it.
    pub(super) fn while_away<T>(self: &Arc<Self>, body: impl FnOnce() -> T) -> T {
        // Most are away for a moment only: when many are, to wait for one of them is cheaper than to have one more.
        for _ in 0..LOOKS_FOR_A_THREAD {
            if !self.rota.is_last_of_many() {
                break;
            }
            std::thread::sleep(LOOK_FOR_A_THREAD);
        }
        let help = {
            let roster = self.roster.lock(); // so that none is enlisted in between
            self.rota.step_aside();
            if roster.writers.len() > 1 { self.rota.man() } else { Help::Nobody }
        };
        let _away = Away(&self.rota);
        self.help(help);
        body()
    }

    /// Whether other writers wait for a turn.
    pub(super) fn is_crowded(&self) -> bool {
        self.rota.is_crowded()
    }

    /// A bug of ours: nothing more is sent, and every stop says so.
    fn give_up(&self) {
        let writers = {
            let mut roster = self.roster.lock();
            roster.closed = true;
            std::mem::take(&mut roster.writers)
        };
        drop(self.rota.close());
        writers.into_values().for_each(|writer| writer.panicked());
    }
}

/// A writer that is having its turn, until this is dropped.
struct Served<'a>(&'a Rota<Arc<dyn Driven>>, Key);

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.0.served(self.1);
    }
}

/// A thread that is away, until this is dropped.
struct Away<'a>(&'a Rota<Arc<dyn Driven>>);

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.0.step_back();
    }
}

fn no_memory(_: std::collections::TryReserveError) -> Error {
    Error::NoResources { action: "memory for one more writer".into(), source: std::io::ErrorKind::OutOfMemory.into() }
}
