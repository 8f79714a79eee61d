//! The queue between producers and the session: whole frames, gathered in batches.
//!
//! A producer appends its frame to the open batch under one lock. A batch that is full is sealed: it moves to a second
//! list with a lock of its own, from which the session takes it without stopping the producers. The session takes the open
//! batch only when no sealed one waits. It batches what is there and never waits for more.
//!
//! The queue is also the account: `accepted = sent + abandoned + depth`, always. A message leaves the depth when the
//! session says that it is sent or abandoned, not when its batch is taken, so the limits are exact.
//!
//! While a connection has a ring and nothing waits elsewhere, producers append to that, and the session has no part in it
//! ([`Queue::lend_ring`]). A message for which the ring has no room goes into a batch, and the ring to the session: what is queued
//! behind that message must not overtake it. What lies in the ring counts as sent.
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
use super::ring::{Published, Ring};
use super::transport::Bell;

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

/// What the caller of a call that has queued messages is to do.
#[derive(Debug)]
pub(super) enum Wake {
    /// Nothing: whoever has to hear of them does.
    Nobody,
    /// Wake the session, which sleeps.
    Session,
    /// Wake the reader, which sleeps: its messages lie in the ring.
    Reader(Bell),
}

impl Wake {
    fn session_if(asleep: bool) -> Wake {
        if asleep { Wake::Session } else { Wake::Nobody }
    }

    #[cfg(any(test, loom))]
    pub(super) fn is_session(&self) -> bool {
        matches!(self, Wake::Session)
    }
}

/// Whoever it is that is woken.
#[cfg(any(test, loom))]
impl PartialEq for Wake {
    fn eq(&self, other: &Wake) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// Where the ring of a connection is, if it has one.
#[derive(Debug, Default)]
enum RingPlace {
    /// With the session, or there is none.
    #[default]
    Elsewhere,
    /// Producers append to it.
    Lent(Box<Ring>),
    /// It is to go back to the session: something waits in batches, or the reader ends the connection.
    Returned(Box<Ring>),
}

/// What producers share. Counts lie under the lock that is held anyway.
#[derive(Debug, Default)]
struct Open {
    batch: Option<Batch>,
    accepted: Count,
    /// The part of `accepted` that has left the open batch.
    sealed: Count,
    /// The part of `accepted` that producers have put into a ring. It counts as sent.
    direct: Count,
    /// How far `accepted` may go: the finished counts when they were read last, and the limits.
    limit: Count,
    ring: RingPlace,
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

    /// Appends a message. A full queue is not counted as a drop, because the caller may wait for room: see
    /// [`Queue::count_dropped`].
    #[inline(always)] // see Writer::write
    pub(super) fn push(&self, message: &[u8]) -> Result<Wake, Refusal> {
        if message.len() >= LARGE {
            return self.push_large(message);
        }
        let mut open = self.open.lock();
        if open.closed {
            return Err(Refusal::Closed);
        }
        if let RingPlace::Lent(ring) = &mut open.ring
            && let Some(published) = ring.push(message)
        {
            open.count_direct(Count { messages: 1, bytes: message.len() as u64 });
            return Ok(match published {
                Published::Quietly => Wake::Nobody,
                other => open.after_publish(other),
            });
        }
        self.append(&mut open, message)?;
        Ok(Wake::session_if(std::mem::take(&mut open.sleeping)))
    }

    /// Appends messages in order until one is refused. Returns how many were taken, and why the next one was not. An empty
    /// message is taken and not appended. `wake` is called, without a lock, when somebody must be woken.
    pub(super) fn push_many(&self, messages: &[&[u8]], wake: impl Fn(Wake)) -> (usize, Option<Refusal>) {
        let mut taken = 0;
        while let Some(message) = messages.get(taken) {
            let (count, woken, refused) = if message.len() < LARGE {
                self.push_run(&messages[taken..])
            } else {
                match self.push_large(message) {
                    Ok(woken) => (1, woken, None),
                    Err(refusal) => (0, Wake::Nobody, Some(refusal)),
                }
            };
            taken += count;
            if !matches!(woken, Wake::Nobody) {
                wake(woken);
            }
            if refused.is_some() {
                return (taken, refused);
            }
        }
        (taken, None)
    }

    /// Appends messages under one lock, up to the next large one, and no more than a batch: others append in between.
    fn push_run(&self, messages: &[&[u8]]) -> (usize, Wake, Option<Refusal>) {
        let mut open = self.open.lock();
        if open.closed {
            return (0, Wake::Nobody, Some(Refusal::Closed));
        }
        if let RingPlace::Lent(ring) = &mut open.ring {
            let (taken, count) = store_run(ring, messages);
            if taken > 0 {
                let published = ring.publish();
                open.count_direct(count);
                return (taken, open.after_publish(published), None);
            }
        }
        let (mut taken, mut held, mut refused) = (0, 0, None);
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
        (taken, Wake::session_if(asleep), refused)
    }

    /// Copies first and without a lock; what has become of the room meanwhile is decided afterwards, under the lock.
    fn push_large(&self, message: &[u8]) -> Result<Wake, Refusal> {
        if let Some(done) = self.push_large_direct(message) {
            return done;
        }
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

    /// Stores the message in the ring, without the lock. `None`: it has no part in this, or the ring was gone before the message
    /// was whole.
    fn push_large_direct(&self, message: &[u8]) -> Option<Result<Wake, Refusal>> {
        let reservation = match &mut *self.open.lock() {
            Open { closed: false, ring: RingPlace::Lent(ring), .. } => ring.reserve(message.len())?,
            _ => return None,
        };
        let bytes = reservation.fill(message);
        let mut open = self.open.lock();
        let has_closed = open.closed;
        let ring = match &mut open.ring {
            RingPlace::Lent(ring) | RingPlace::Returned(ring) => ring,
            RingPlace::Elsewhere => return None,
        };
        if !ring.end_reservation(&reservation) {
            return None;
        }
        if has_closed {
            return Some(Err(Refusal::Closed));
        }
        let published = ring.commit(bytes);
        open.count_direct(Count { messages: 1, bytes: message.len() as u64 });
        let woken = open.after_publish(published);
        if !matches!(open.ring, RingPlace::Returned(_)) {
            return Some(Ok(woken));
        }
        // What others have queued meanwhile waits behind this one, and the session for the ring.
        if let Wake::Reader(bell) = woken {
            bell.ring();
        }
        Some(Ok(Wake::Session))
    }

    /// Puts a batch of one message behind all others.
    fn publish(&self, own: Batch) -> Result<Wake, (Refusal, Batch)> {
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
        open.return_ring();
        Ok(Wake::session_if(std::mem::take(&mut open.sleeping)))
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
        open.return_ring();
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
        let finished = self.finished.read_total().plus(open.direct);
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

    /// As [`Queue::sleep`], and leaves the ring to the producers meanwhile. If a message waits, the ring comes back.
    pub(super) fn lend_ring(&self, ring: Box<Ring>) -> Result<(), Box<Ring>> {
        let mut open = self.open.lock();
        open.sleeping = self.nothing_waits(&open);
        if !open.sleeping {
            return Err(ring);
        }
        open.ring = RingPlace::Lent(ring);
        Ok(())
    }

    /// The ring, to store in, if producers have no use for it any more. While one of them stores a large message there it stays.
    pub(super) fn take_returned_ring(&self) -> Option<Box<Ring>> {
        self.take_ring_if(|open| matches!(&open.ring, RingPlace::Returned(ring) if !ring.is_reserved()))
    }

    /// Producers go on in batches, and the ring comes back.
    pub(super) fn recall_ring(&self) {
        self.open.lock().return_ring();
    }

    /// The ring, wherever it is, at its end: nobody stores in it any more.
    pub(super) fn take_ring(&self) -> Option<Box<Ring>> {
        self.take_ring_if(|_| true)
    }

    fn take_ring_if(&self, condition: impl Fn(&Open) -> bool) -> Option<Box<Ring>> {
        let mut open = self.open.lock();
        if !condition(&open) {
            return None;
        }
        match std::mem::take(&mut open.ring) {
            RingPlace::Elsewhere => None,
            RingPlace::Lent(ring) | RingPlace::Returned(ring) => Some(ring),
        }
    }

    /// The ring, while it is lent or comes back.
    pub(super) fn with_ring<R>(&self, look: impl FnOnce(&mut Ring) -> R) -> Option<R> {
        match &mut self.open.lock().ring {
            RingPlace::Elsewhere => None,
            RingPlace::Lent(ring) | RingPlace::Returned(ring) => Some(look(ring)),
        }
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
        let depth = open.accepted.minus(self.finished.read_total().plus(open.direct));
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
        self.account_under(&self.open.lock(), sent, abandoned)
    }

    /// The account, and how many messages of it lie unhandled in a ring that is lent: of the same moment.
    pub(super) fn account_with_ring(&self) -> (Account, u64) {
        let (sent, abandoned) = self.finished.read_consistent();
        let open = self.open.lock();
        let unhandled = match &open.ring {
            RingPlace::Elsewhere => 0,
            RingPlace::Lent(ring) | RingPlace::Returned(ring) => ring.unhandled(),
        };
        (self.account_under(&open, sent, abandoned), unhandled)
    }

    /// What producers have put into rings.
    pub(super) fn direct(&self) -> Count {
        self.open.lock().direct
    }

    fn account_under(&self, open: &Open, sent: Count, abandoned: Count) -> Account {
        let (accepted, sent) = (open.accepted, sent.plus(open.direct));
        let depth = accepted.minus(sent.plus(abandoned));
        Account { accepted, sent, abandoned, depth, dropped: self.dropped.load(Ordering::Relaxed) }
    }
}

impl Open {
    /// Messages have gone into the ring.
    #[inline]
    fn count_direct(&mut self, count: Count) {
        // They never were in the open batch, and take no place in the queue.
        for part in [&mut self.accepted, &mut self.sealed, &mut self.direct, &mut self.limit] {
            part.messages += count.messages;
            part.bytes = part.bytes.saturating_add(count.bytes);
        }
    }

    #[cold]
    fn after_publish(&mut self, published: Published) -> Wake {
        match published {
            Published::Quietly => Wake::Nobody,
            Published::Ring(bell) => Wake::Reader(bell),
            Published::WhileClosing => {
                self.return_ring();
                Wake::session_if(std::mem::take(&mut self.sleeping))
            }
        }
    }

    /// Producers append to batches from now on.
    fn return_ring(&mut self) {
        self.ring = match std::mem::take(&mut self.ring) {
            RingPlace::Lent(ring) => RingPlace::Returned(ring),
            other => other,
        };
    }
}

/// Stores messages in the ring, up to the next large one, and no more than a batch. Returns how many, and what to count.
fn store_run(ring: &mut Ring, messages: &[&[u8]]) -> (usize, Count) {
    let (mut taken, mut count) = (0, Count::default());
    for message in messages {
        let is_over = count.bytes >= BATCH as u64 || message.len() >= LARGE;
        if is_over || !ring.has_room(message.len() + frame::MAX_PREFIX) {
            break;
        }
        if !message.is_empty() {
            ring.store(message);
            count.add(message.len());
        }
        taken += 1;
    }
    (taken, count)
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
