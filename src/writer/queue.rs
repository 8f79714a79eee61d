//! The queue between producers and the session: whole frames, gathered in batches.
//!
//! A producer appends its frame to the open batch under one lock. A batch that is full is sealed: it moves to a second
//! list with a lock of its own, from which the session takes it without stopping the producers. The session takes the open
//! batch only when no sealed one waits. It batches what is there and never waits for more.
//!
//! The queue is also the account: `accepted = sent + abandoned + depth`, always. A message leaves the depth when the
//! session says that it is sent or abandoned, not when its batch is taken, so the limits are exact.
//!
//! Order of locks: `open`, then `sealed`. Whatever a caller supplies (its iterator, its error callback) runs under neither,
//! and no message of [`LARGE`] bytes or more is copied under one. Everything that grows can fail ([`Refusal::NoMemory`]),
//! and fails before anything has changed.

use std::collections::{TryReserveError, VecDeque};
use std::time::{Duration, Instant};

use crate::frame;
use crate::sync::{AtomicBool, AtomicU64, Condvar, Mutex, Ordering, fence};

use super::account::Finished;
pub(super) use super::account::{Account, Count, Fate};
use super::batch::{BATCH, Batch};
use super::batch_pool;

/// A message from this size on is copied before the lock is taken, into a batch of its own.
pub(super) const LARGE: usize = BATCH / 2;

/// How often a waiting producer looks for room by itself.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(10);

/// The list of sealed batches keeps memory for this many. What a burst needed beyond is freed when the list is empty.
const SEALED_AT_REST: usize = 64;

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The queue is at a limit.
    Full,
    /// The queue is closed.
    Closed,
    /// There is no memory for it.
    NoMemory,
}

impl From<TryReserveError> for Refusal {
    fn from(_: TryReserveError) -> Refusal {
        Refusal::NoMemory
    }
}

/// What producers share. Counts lie under the lock that is held anyway.
#[derive(Debug, Default)]
struct Open {
    batch: Option<Batch>,
    accepted: Count,
    /// The part of `accepted` that has left the open batch.
    sealed: Count,
    /// How far `accepted` may go: the finished counts when they were read last, and the limits.
    limit: Count,
    /// The session waits for a message.
    sleeping: bool,
    closed: bool,
}

#[derive(Debug)]
pub(super) struct Queue {
    open: Mutex<Open>,
    sealed: Mutex<VecDeque<Batch>>,
    finished: Finished,
    dropped: AtomicU64,
    /// Somebody waits for room.
    waited_for: AtomicBool,
    room: Condvar,
    max: Count,
}

impl Queue {
    /// Allocates nothing. `max_bytes` 0 is no limit.
    pub(super) fn new(max_messages: u32, max_bytes: u64) -> Queue {
        let max = Count { messages: max_messages.into(), bytes: if max_bytes == 0 { u64::MAX } else { max_bytes } };
        Queue {
            open: Mutex::new(Open { limit: max, ..Open::default() }),
            sealed: Mutex::new(VecDeque::new()),
            finished: Finished::default(),
            dropped: AtomicU64::new(0),
            waited_for: AtomicBool::new(false),
            room: Condvar::default(),
            max,
        }
    }

    /// The limits.
    pub(super) fn max(&self) -> Count {
        self.max
    }

    // ---- producers ----

    /// Appends a message. `Ok(true)`: the session sleeps and must be woken. A full queue is not counted as a drop, because
    /// the caller may wait for room: see [`Queue::count_dropped`].
    #[inline(always)] // see Writer::write
    pub(super) fn push(&self, message: &[u8]) -> Result<bool, Refusal> {
        if message.len() >= LARGE {
            return self.push_large(message);
        }
        let mut open = self.open.lock();
        if open.closed {
            return Err(Refusal::Closed);
        }
        self.append(&mut open, message)?;
        Ok(std::mem::take(&mut open.sleeping))
    }

    /// Appends messages in order until one is refused. Returns how many were taken, and why the next one was not. An empty
    /// message is taken and not appended. `wake` is called, without a lock, when the session must be woken.
    pub(super) fn push_many(&self, messages: &[&[u8]], wake: impl Fn()) -> (usize, Option<Refusal>) {
        let mut taken = 0;
        while let Some(message) = messages.get(taken) {
            let (count, asleep, refused) = if message.len() < LARGE {
                self.push_run(&messages[taken..])
            } else {
                match self.push_large(message) {
                    Ok(asleep) => (1, asleep, None),
                    Err(refusal) => (0, false, Some(refusal)),
                }
            };
            taken += count;
            if asleep {
                wake();
            }
            if refused.is_some() {
                return (taken, refused);
            }
        }
        (taken, None)
    }

    /// Appends messages under one lock, up to the next large one, and no more than a batch: others append in between.
    fn push_run(&self, messages: &[&[u8]]) -> (usize, bool, Option<Refusal>) {
        let (mut taken, mut held, mut refused) = (0, 0, None);
        let mut open = self.open.lock();
        if open.closed {
            return (0, false, Some(Refusal::Closed));
        }
        let before = open.accepted.messages;
        for message in messages {
            if held >= BATCH || message.len() >= LARGE {
                break;
            }
            held += message.len();
            if !message.is_empty()
                && let Err(refusal) = self.append(&mut open, message)
            {
                refused = Some(refusal);
                break;
            }
            taken += 1;
        }
        let asleep = open.accepted.messages > before && std::mem::take(&mut open.sleeping);
        (taken, asleep, refused)
    }

    /// Copies first and without a lock; what has become of the room meanwhile is decided afterwards, under the lock.
    fn push_large(&self, message: &[u8]) -> Result<bool, Refusal> {
        self.admit(&mut self.open.lock(), message.len())?; // no copy for a queue that is full already
        let mut own = batch_pool::take_large(message.len() + frame::MAX_PREFIX)?;
        own.append(message);
        own.messages = 1;
        own.payload = message.len() as u64;
        self.publish(own).map_err(|(refusal, own)| {
            own.recycle();
            refusal
        })
    }

    /// Puts a batch of one message behind all others.
    fn publish(&self, own: Batch) -> Result<bool, (Refusal, Batch)> {
        let len = own.payload as usize;
        let mut open = self.open.lock();
        if let Err(refusal) = self.admit(&mut open, len) {
            return Err((refusal, own));
        }
        let mut sealed = self.sealed.lock();
        if sealed.try_reserve(2).is_err() {
            return Err((Refusal::NoMemory, own));
        }
        sealed.extend(seal_batch(&mut open));
        sealed.push_back(own);
        open.accepted.add(len);
        open.sealed = open.accepted;
        Ok(std::mem::take(&mut open.sleeping))
    }

    /// The queue is open.
    #[inline(always)] // a call and a result in memory cost a tenth of what this does
    fn append(&self, open: &mut Open, message: &[u8]) -> Result<(), Refusal> {
        if !self.has_room(open, message.len()) {
            return Err(Refusal::Full);
        }
        match &mut open.batch {
            Some(batch) if batch.fits(message.len()) => batch.append(message),
            _ => self.begin_batch(open, message.len())?.append(message),
        }
        open.accepted.add(message.len());
        Ok(())
    }

    #[cold]
    fn begin_batch<'a>(&self, open: &'a mut Open, len: usize) -> Result<&'a mut Batch, Refusal> {
        let empty = batch_pool::take(len + frame::MAX_PREFIX)?;
        if open.batch.is_some() {
            let mut sealed = self.sealed.lock();
            sealed.try_reserve(1)?;
            sealed.extend(seal_batch(open));
        }
        Ok(open.batch.insert(empty))
    }

    fn admit(&self, open: &mut Open, len: usize) -> Result<(), Refusal> {
        if open.closed {
            return Err(Refusal::Closed);
        }
        if self.has_room(open, len) { Ok(()) } else { Err(Refusal::Full) }
    }

    #[inline]
    fn has_room(&self, open: &mut Open, len: usize) -> bool {
        is_within(open, len) || self.has_room_by_now(open, len)
    }

    /// Reads how much is finished. A message that is larger than the byte limit has room in an empty queue.
    #[cold]
    fn has_room_by_now(&self, open: &mut Open, len: usize) -> bool {
        let finished = self.finished.read_total();
        open.limit.messages = finished.messages + self.max.messages;
        open.limit.bytes = finished.bytes.saturating_add(self.max.bytes);
        let is_empty = finished.messages == open.accepted.messages;
        is_within(open, len) || (is_empty && len as u64 > self.max.bytes)
    }

    /// Waits for room for a message of `len` bytes, or for the end, until `deadline` (`None`: as long as it takes).
    pub(super) fn wait_for_room(&self, len: usize, deadline: Option<Instant>) {
        let mut open = self.open.lock();
        let mut timed_out = false;
        while !open.closed && !timed_out && !self.has_room(&mut open, len) {
            self.waited_for.store(true, Ordering::Relaxed);
            // With the fence in `finish`: either the session sees the flag, or the producer sees what it has finished.
            fence(Ordering::SeqCst);
            if self.has_room(&mut open, len) {
                return;
            }
            // Woken when the queue is half empty; looks more often, since it may stay fuller than that.
            let look = Instant::now() + LOOK_FOR_ROOM;
            open = self.room.wait_until(open, deadline.map_or(look, |deadline| deadline.min(look)));
            timed_out = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        }
    }

    /// Counts a message that was refused for want of room. One that found no memory, or a closed queue, is no drop.
    pub(super) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    // ---- the session ----

    /// Takes a full batch, without the producers' lock.
    pub(super) fn take_sealed(&self) -> Option<Batch> {
        let mut sealed = self.sealed.lock();
        let batch = sealed.pop_front();
        if sealed.is_empty() && sealed.capacity() > SEALED_AT_REST {
            *sealed = VecDeque::new();
        }
        batch
    }

    /// Takes what waits; `None` when there is nothing.
    pub(super) fn take(&self) -> Option<Batch> {
        if let Some(batch) = self.take_sealed() {
            return Some(batch);
        }
        let mut open = self.open.lock();
        // A producer may have sealed one and begun another since the first look.
        self.take_sealed().or_else(|| seal_batch(&mut open))
    }

    /// The session announces that it will wait: the next message must wake it. False if there is one already.
    pub(super) fn sleep(&self) -> bool {
        let mut open = self.open.lock();
        open.sleeping = self.nothing_waits(&open);
        open.sleeping
    }

    /// Whether nothing waits to be taken.
    pub(super) fn is_empty(&self) -> bool {
        self.nothing_waits(&self.open.lock())
    }

    fn nothing_waits(&self, open: &Open) -> bool {
        open.batch.is_none() && self.sealed.lock().is_empty()
    }

    /// The session says how messages ended. Waiting producers are woken when the queue is half empty: waking them for each
    /// batch would cost a context switch each time.
    pub(super) fn finish(&self, fate: Fate, messages: u64, bytes: u64) {
        self.finished.add(fate, Count { messages, bytes });
        fence(Ordering::SeqCst);
        if self.waited_for.load(Ordering::Relaxed) {
            self.wake_waiting();
        }
    }

    fn wake_waiting(&self) {
        let open = self.open.lock();
        let depth = open.accepted.minus(self.finished.read_total());
        if depth.messages <= self.max.messages / 2 && depth.bytes <= self.max.bytes / 2 {
            self.waited_for.store(false, Ordering::Relaxed);
            self.room.notify_all();
        }
    }

    // ---- both ----

    /// Refuses all further messages.
    pub(super) fn close(&self) {
        self.open.lock().closed = true;
        self.room.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.open.lock().closed
    }

    /// The account. `depth` is computed from the other numbers of this very answer, so they always agree.
    pub(super) fn account(&self) -> Account {
        // What is finished was accepted before: read in this order, no difference is negative.
        let (sent, abandoned) = self.finished.read_consistent();
        let accepted = self.open.lock().accepted;
        let depth = accepted.minus(sent.plus(abandoned));
        Account { accepted, sent, abandoned, depth, dropped: self.dropped.load(Ordering::Relaxed) }
    }
}

#[inline]
fn is_within(open: &Open, len: usize) -> bool {
    open.accepted.messages < open.limit.messages && open.accepted.bytes.saturating_add(len as u64) <= open.limit.bytes
}

/// The open batch leaves, with the count of what is in it.
fn seal_batch(open: &mut Open) -> Option<Batch> {
    let mut batch = open.batch.take()?;
    batch.messages = open.accepted.messages - open.sealed.messages;
    batch.payload = open.accepted.bytes - open.sealed.bytes;
    open.sealed = open.accepted;
    Some(batch)
}

#[cfg(all(test, not(loom)))]
mod tests;
