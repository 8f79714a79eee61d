//! The queue between those who write and the one who sends: whole frames, gathered in batches.
//!
//! A producer appends its frame to the open batch under one lock. A batch that is full is sealed and goes through a
//! channel; the sender takes sealed batches without the lock, and takes the open one only when no sealed one waits. It
//! batches what is there and never waits for more.
//!
//! The queue is also the account: `accepted = sent + abandoned + depth`, always. A message leaves the depth when the
//! sender says that it is sent or abandoned, not when a batch is taken, so the limits are exact.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::frame;

/// How much a batch gathers: two of the kernel's largest buffers of a stream socket (`SKB_MAX_HEAD(0) + 32 KiB`).
const BATCH: usize = 64 << 10;

/// A message from this size on is copied before the lock is taken, into a batch of its own.
const LARGE: usize = BATCH / 2;

/// Empty batches kept for the next messages. More are needed only while a slow reader lets the queue fill.
const SPARES: usize = 256;

/// Whole frames, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    pub(crate) bytes: Vec<u8>,
    /// How many frames.
    pub(crate) messages: u64,
    /// How many bytes of payload.
    pub(crate) payload: u64,
}

impl Frames {
    fn append(&mut self, message: &[u8]) {
        let mut prefix = [0; frame::MAX_PREFIX];
        let size = frame::encode_prefix(message.len(), &mut prefix);
        self.bytes.extend_from_slice(&prefix[..size]);
        self.bytes.extend_from_slice(message);
        self.messages += 1;
        self.payload += message.len() as u64;
    }

    fn fits(&self, size: usize) -> bool {
        self.bytes.capacity() - self.bytes.len() >= size
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.messages = 0;
        self.payload = 0;
    }
}

/// Frames in a box that was allocated with a way to fail: `Box::new` would end the host's process.
#[derive(Debug)]
pub(crate) struct Batch(Box<[Frames; 1]>);

impl Batch {
    fn with_capacity(bytes: usize) -> Result<Batch> {
        let refused = |_| Error::NoResources {
            action: format!("memory for a batch of {bytes} bytes"),
            source: std::io::ErrorKind::OutOfMemory.into(),
        };
        let mut frames = Frames::default();
        frames.bytes.try_reserve_exact(bytes).map_err(refused)?;
        let mut one = Vec::new();
        one.try_reserve_exact(1).map_err(refused)?;
        one.push(frames);
        match one.into_boxed_slice().try_into() {
            Ok(boxed) => Ok(Batch(boxed)),
            Err(_) => unreachable!("the slice has one element"),
        }
    }
}

impl Deref for Batch {
    type Target = Frames;
    fn deref(&self) -> &Frames {
        &self.0[0]
    }
}

impl DerefMut for Batch {
    fn deref_mut(&mut self) -> &mut Frames {
        &mut self.0[0]
    }
}

/// What producers share. Counts lie under the lock that is held anyway.
#[derive(Debug, Default)]
struct Open {
    batch: Option<Batch>,
    accepted: u64,
    accepted_bytes: u64,
    dropped: u64,
    /// The finished counts when they were last looked at: looked at again only when the queue seems full.
    finished: u64,
    finished_bytes: u64,
    /// The sender waits for a message.
    sleeping: bool,
    closed: bool,
}

/// What the sender says about messages. On a cache line of its own: producers write elsewhere.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Finished {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    abandoned: AtomicU64,
    abandoned_bytes: AtomicU64,
}

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The kernel has taken it whole.
    Sent,
    /// It was given up.
    Abandoned,
}

/// The account at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) accepted: u64,
    pub(crate) dropped: u64,
    pub(crate) sent: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) abandoned: u64,
    pub(crate) depth: u64,
    pub(crate) depth_bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Queue {
    open: Mutex<Open>,
    finished: Finished,
    /// Somebody waits for room.
    waited_for: AtomicBool,
    room: Condvar,
    seal: Sender<Batch>,
    sealed: Receiver<Batch>,
    /// Last in, first out, so that the same warm memory is used again.
    spares: Mutex<Vec<Batch>>,
    max_messages: u64,
    max_bytes: u64,
}

impl Queue {
    /// `max_bytes` 0 is no limit.
    pub(crate) fn new(max_messages: u32, max_bytes: u64) -> Queue {
        // Each sealed batch holds a message at least, so the channel is never full.
        let (seal, sealed) = bounded(max_messages as usize);
        Queue {
            open: Mutex::default(),
            finished: Finished::default(),
            waited_for: AtomicBool::new(false),
            room: Condvar::new(),
            seal,
            sealed,
            spares: Mutex::new(Vec::with_capacity(SPARES)),
            max_messages: max_messages.into(),
            max_bytes: if max_bytes == 0 { u64::MAX } else { max_bytes },
        }
    }

    /// Appends a message. `Ok(true)`: the sender sleeps and must be woken.
    pub(crate) fn push(&self, message: &[u8]) -> Result<bool> {
        if message.len() >= LARGE {
            return self.push_large(message);
        }
        self.append(&mut self.open.lock(), message)
    }

    /// As [`Queue::push`], but a full queue is no refusal yet: `Ok(None)`.
    pub(crate) fn offer(&self, message: &[u8]) -> Result<Option<bool>> {
        let mut open = self.open.lock();
        if !open.closed && message.len() as u64 <= self.max_bytes && !self.has_room(&mut open, message.len()) {
            return Ok(None);
        }
        self.append(&mut open, message).map(Some)
    }

    /// Waits for room for a message of `len` bytes, or for the end, until `deadline` (`None`: as long as it takes).
    pub(crate) fn wait_for_room(&self, len: usize, deadline: Option<Instant>) {
        let mut open = self.open.lock();
        let mut timed_out = false;
        while !open.closed && !timed_out && !self.has_room(&mut open, len) {
            self.waited_for.store(true, Ordering::Relaxed);
            // With the fence in `finish`: either the sender sees the flag, or we see what it has finished.
            fence(Ordering::SeqCst);
            if self.has_room(&mut open, len) {
                return;
            }
            match deadline {
                Some(deadline) => timed_out = self.room.wait_until(&mut open, deadline).timed_out(),
                None => self.room.wait(&mut open),
            }
        }
    }

    /// Counts a message that was refused although its producer was ready to wait.
    pub(crate) fn count_dropped(&self) {
        self.open.lock().dropped += 1;
    }

    /// Appends messages in order until one is refused. Returns how many were taken and why it ended early. `wake` is called
    /// when the sender must be woken.
    pub(crate) fn push_many<'a>(
        &self,
        messages: impl Iterator<Item = Result<&'a [u8]>>,
        wake: impl Fn(),
    ) -> (usize, Option<Error>) {
        let (mut taken, mut asleep, mut held) = (0, false, 0);
        let mut open = self.open.lock();
        for message in messages {
            let appended = message.and_then(|message| {
                held += message.len();
                if message.is_empty() && !open.closed { Ok(false) } else { self.append(&mut open, message) }
            });
            match appended {
                Ok(was_asleep) => asleep |= was_asleep,
                Err(error) => {
                    drop(open);
                    if asleep {
                        wake();
                    }
                    return (taken, Some(error));
                }
            }
            taken += 1;
            if held >= BATCH {
                // The sender may take what is there, and others may append.
                MutexGuard::unlocked(&mut open, || {
                    if std::mem::take(&mut asleep) {
                        wake();
                    }
                });
                held = 0;
            }
        }
        drop(open);
        if asleep {
            wake();
        }
        (taken, None)
    }

    fn push_large(&self, message: &[u8]) -> Result<bool> {
        {
            let mut open = self.open.lock();
            self.admit(&mut open, message.len())?;
        }
        let mut own = Batch::with_capacity(frame::prefix_len(message.len()) + message.len())?;
        own.append(message);
        let mut open = self.open.lock();
        self.admit(&mut open, message.len())?;
        self.seal_open(&mut open);
        open.accepted += 1;
        open.accepted_bytes += message.len() as u64;
        self.send_sealed(own);
        Ok(std::mem::take(&mut open.sleeping))
    }

    fn append(&self, open: &mut Open, message: &[u8]) -> Result<bool> {
        self.admit(open, message.len())?;
        let size = frame::prefix_len(message.len()) + message.len();
        if open.batch.as_ref().is_some_and(|batch| !batch.fits(size)) {
            self.seal_open(open);
        }
        let batch = match &mut open.batch {
            Some(batch) => batch,
            none => none.insert(self.empty_batch(size)?),
        };
        batch.append(message);
        open.accepted += 1;
        open.accepted_bytes += message.len() as u64;
        Ok(std::mem::take(&mut open.sleeping))
    }

    fn admit(&self, open: &mut Open, len: usize) -> Result<()> {
        if open.closed {
            return Err(Error::Stopped);
        }
        if self.has_room(open, len) { Ok(()) } else { Err(self.refuse(open)) }
    }

    fn refuse(&self, open: &mut Open) -> Error {
        open.dropped += 1;
        Error::BufferFull { messages: open.accepted - open.finished, bytes: open.accepted_bytes - open.finished_bytes }
    }

    fn has_room(&self, open: &mut Open, len: usize) -> bool {
        let fits = |open: &Open| {
            let bytes = open.accepted_bytes - open.finished_bytes;
            open.accepted - open.finished < self.max_messages && bytes.saturating_add(len as u64) <= self.max_bytes
        };
        fits(open) || {
            self.look_at_finished(open);
            fits(open)
        }
    }

    fn look_at_finished(&self, open: &mut Open) {
        let finished = &self.finished;
        open.finished = finished.sent.load(Ordering::Acquire) + finished.abandoned.load(Ordering::Acquire);
        open.finished_bytes =
            finished.sent_bytes.load(Ordering::Acquire) + finished.abandoned_bytes.load(Ordering::Acquire);
    }

    fn empty_batch(&self, size: usize) -> Result<Batch> {
        if size <= BATCH
            && let Some(spare) = self.spares.lock().pop()
        {
            return Ok(spare);
        }
        Batch::with_capacity(size.max(BATCH))
    }

    fn seal_open(&self, open: &mut Open) {
        if let Some(batch) = open.batch.take() {
            self.send_sealed(batch);
        }
    }

    fn send_sealed(&self, batch: Batch) {
        let sent = self.seal.try_send(batch);
        debug_assert!(sent.is_ok(), "more batches than messages");
    }

    /// The sender takes what waits; `None` when there is nothing.
    pub(crate) fn take(&self) -> Option<Batch> {
        if let Ok(batch) = self.sealed.try_recv() {
            return Some(batch);
        }
        let mut open = self.open.lock();
        // A producer may have sealed one and begun another between the look and the lock.
        self.sealed.try_recv().ok().or_else(|| open.batch.take())
    }

    /// The sender announces that it will wait: the next message must wake it. False if there is one already.
    pub(crate) fn sleep(&self) -> bool {
        let mut open = self.open.lock();
        open.sleeping = open.batch.is_none() && self.sealed.is_empty();
        open.sleeping
    }

    /// Whether something waits to be taken.
    pub(crate) fn is_empty(&self) -> bool {
        let open = self.open.lock();
        open.batch.is_none() && self.sealed.is_empty()
    }

    /// The sender is done with a batch. One of the common size is used again.
    pub(crate) fn recycle(&self, mut batch: Batch) {
        if batch.bytes.capacity() != BATCH {
            return;
        }
        batch.clear();
        let mut spares = self.spares.lock();
        if spares.len() < SPARES {
            spares.push(batch);
        }
    }

    /// Gives memory back that a burst has left behind.
    pub(crate) fn trim(&self, keep: usize) {
        self.spares.lock().truncate(keep);
    }

    /// Whether [`Queue::trim`] would give something back.
    pub(crate) fn spares(&self) -> usize {
        self.spares.lock().len()
    }

    /// The sender says how messages ended. Waiting producers are woken when the queue is half empty: waking them for each
    /// batch would cost a context switch each time.
    pub(crate) fn finish(&self, fate: Fate, messages: u64, bytes: u64) {
        let (count, size) = match fate {
            Fate::Sent => (&self.finished.sent, &self.finished.sent_bytes),
            Fate::Abandoned => (&self.finished.abandoned, &self.finished.abandoned_bytes),
        };
        // Only the sender writes these, so an addition needs no locked instruction.
        size.store(size.load(Ordering::Relaxed) + bytes, Ordering::Release);
        count.store(count.load(Ordering::Relaxed) + messages, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.waited_for.load(Ordering::Relaxed) {
            self.wake_waiting();
        }
    }

    fn wake_waiting(&self) {
        let mut open = self.open.lock();
        self.look_at_finished(&mut open);
        let depth = open.accepted - open.finished;
        let bytes = open.accepted_bytes - open.finished_bytes;
        if depth <= self.max_messages / 2 && bytes <= self.max_bytes / 2 {
            self.waited_for.store(false, Ordering::Relaxed);
            self.room.notify_all();
        }
    }

    /// Refuses all further messages.
    pub(crate) fn close(&self) {
        self.open.lock().closed = true;
        self.room.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.open.lock().closed
    }

    /// The account. `depth` is computed from the other numbers of this very answer, so they always agree.
    pub(crate) fn account(&self) -> Account {
        // What is finished was accepted before: read in this order, no difference is negative.
        let sent = self.finished.sent.load(Ordering::Acquire);
        let abandoned = self.finished.abandoned.load(Ordering::Acquire);
        let sent_bytes = self.finished.sent_bytes.load(Ordering::Acquire);
        let abandoned_bytes = self.finished.abandoned_bytes.load(Ordering::Acquire);
        let open = self.open.lock();
        Account {
            accepted: open.accepted,
            dropped: open.dropped,
            sent,
            sent_bytes,
            abandoned,
            depth: open.accepted - sent - abandoned,
            depth_bytes: open.accepted_bytes - sent_bytes - abandoned_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    fn drain(queue: &Queue) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(batch) = queue.take() {
            out.extend_from_slice(&batch.bytes);
            queue.finish(Fate::Sent, batch.messages, batch.payload);
            queue.recycle(batch);
        }
        out
    }

    #[test]
    fn capacity_is_exact_until_the_sender_says_that_messages_are_finished() {
        let queue = Queue::new(2, 0);
        assert!(queue.push(b"a").is_ok() && queue.push(b"b").is_ok());
        assert!(matches!(queue.push(b"c"), Err(Error::BufferFull { messages: 2, bytes: 2 })));
        let taken = queue.take().expect("a batch");
        assert!(matches!(queue.push(b"c"), Err(Error::BufferFull { .. })), "taking is not finishing");
        queue.finish(Fate::Sent, 1, 1);
        assert!(queue.push(b"c").is_ok());
        assert_eq!(taken.bytes, b"\x01a\x01b");
        let account = queue.account();
        assert_eq!((account.accepted, account.sent, account.depth, account.dropped), (3, 1, 2, 2));
    }

    #[test]
    fn the_byte_limit_counts_payload() {
        let queue = Queue::new(100, 10);
        assert!(queue.push(&[0; 6]).is_ok() && queue.push(&[0; 4]).is_ok());
        assert!(matches!(queue.push(b"x"), Err(Error::BufferFull { messages: 2, bytes: 10 })));
        assert_eq!(drain(&queue).len(), 12);
        assert!(queue.push(&[0; 10]).is_ok());
    }

    #[test]
    fn a_message_above_the_byte_limit_is_refused_at_once_and_not_waited_for() {
        let queue = Queue::new(100, 10);
        assert!(matches!(queue.offer(&[0; 11]), Err(Error::BufferFull { .. })));
    }

    #[test]
    fn order_holds_over_small_large_and_sealed_batches() {
        let queue = Queue::new(1 << 12, 0);
        let mut expected = Vec::new();
        for i in 0..2_000_usize {
            let message = vec![i as u8; if i % 100 == 7 { LARGE + i } else { i % 300 + 1 }];
            queue.push(&message).expect("room");
            let mut prefix = [0; frame::MAX_PREFIX];
            let size = frame::encode_prefix(message.len(), &mut prefix);
            expected.extend_from_slice(&prefix[..size]);
            expected.extend(message);
        }
        assert!(drain(&queue) == expected);
    }

    #[test]
    fn the_sender_is_woken_once_and_only_when_it_sleeps() {
        let queue = Queue::new(10, 0);
        assert!(!queue.push(b"a").expect("room"));
        assert!(!queue.sleep(), "there is something to take");
        drain(&queue);
        assert!(queue.sleep());
        assert!(queue.push(b"b").expect("room"));
        assert!(!queue.push(b"c").expect("room"));
    }

    fn wait_in_a_thread(queue: &Arc<Queue>) -> std::thread::JoinHandle<()> {
        let waiting = Arc::clone(queue);
        let thread = std::thread::spawn(move || waiting.wait_for_room(1, None));
        while !queue.waited_for.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        thread
    }

    #[test]
    fn a_waiting_producer_is_woken_by_room_and_by_the_end() {
        let queue = Arc::new(Queue::new(2, 0));
        assert!(matches!((queue.offer(b"a"), queue.offer(b"b")), (Ok(Some(_)), Ok(Some(_)))));
        assert!(matches!(queue.offer(b"c"), Ok(None)));
        let waiting = wait_in_a_thread(&queue);
        queue.finish(Fate::Sent, 1, 1);
        waiting.join().expect("no panic");
        assert!(matches!(queue.offer(b"c"), Ok(Some(_))));
        let waiting = wait_in_a_thread(&queue);
        queue.close();
        waiting.join().expect("no panic");
        assert!(matches!(queue.offer(b"d"), Err(Error::Stopped)));
        assert_eq!(queue.account().dropped, 0);
    }

    #[test]
    fn waiting_ends_with_the_deadline() {
        let queue = Queue::new(1, 0);
        queue.push(b"a").expect("room");
        queue.wait_for_room(1, Some(Instant::now() + Duration::from_millis(1)));
        assert!(matches!(queue.offer(b"b"), Ok(None)));
    }

    #[test]
    fn memory_is_used_again_and_given_back() {
        let queue = Queue::new(1 << 10, 0);
        for _ in 0..200 {
            queue.push(&[0; 1_000]).expect("room");
        }
        drain(&queue);
        let spares = queue.spares();
        assert!(spares > 1);
        queue.push(b"a").expect("room");
        assert_eq!(queue.spares(), spares - 1);
        queue.trim(1);
        assert_eq!(queue.spares(), 1);
    }
}
