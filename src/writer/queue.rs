//! The queue between those who write and the one who sends: whole frames, gathered in batches.
//!
//! A producer appends its frame to the open batch under one lock. A batch that is full is sealed and goes through a
//! channel; the sender takes sealed batches without the lock, and takes the open one only when no sealed one waits. It
//! batches what is there and never waits for more.
//!
//! The queue is also the account: `accepted = sent + abandoned + depth`, always. A message leaves the depth when the
//! sender says that it is sent or abandoned, not when a batch is taken, so the limits are exact.

use std::collections::TryReserveError;
use std::time::{Duration, Instant};

use crate::frame;
use crate::sync::{AtomicBool, AtomicU64, Condvar, Mutex, Ordering, Receiver, Sender, bounded, fence};

use super::batch::{BATCH, Batch};

/// A message from this size on is copied before the lock is taken, into a batch of its own.
pub(crate) const LARGE: usize = BATCH / 2;

/// How often a waiting producer looks for room by itself.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(10);

/// A sender that is writing its counts is done in a moment, or when it gets its processor back. In a child of `fork` it
/// may never be: there this many looks are enough, a second. loom tries each look, and needs one.
const LOOKS_FOR_ONE_MOMENT: u32 = if cfg!(loom) { 1 } else { 10_000 };
const QUICK_LOOKS: u32 = 100;
const LOOK_STEP: Duration = Duration::from_micros(50);

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
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
    /// The part of `accepted` that has left for the sender: what is between the two lies in the open batch.
    sealed: Count,
    /// How far `accepted` may go: the finished counts when they were last looked at, and the limits.
    limit: Count,
    dropped: u64,
    /// The sender waits for a message.
    sleeping: bool,
    closed: bool,
}

/// Messages, and the bytes of their payload.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// What the sender says about messages. On a cache line of its own: producers write elsewhere.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Finished {
    /// Odd while the sender writes the others.
    version: AtomicU64,
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

/// The account at one moment: `accepted = sent + abandoned + depth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) accepted: Count,
    pub(crate) sent: Count,
    pub(crate) abandoned: Count,
    pub(crate) depth: Count,
    pub(crate) dropped: u64,
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
    max: Count,
}

impl Queue {
    /// `max_bytes` 0 is no limit.
    pub(crate) fn new(max_messages: u32, max_bytes: u64) -> Queue {
        // Each sealed batch holds a message at least, so the channel is never full.
        let (seal, sealed) = bounded(max_messages as usize);
        let max = Count { messages: max_messages.into(), bytes: if max_bytes == 0 { u64::MAX } else { max_bytes } };
        Queue {
            open: Mutex::new(Open { limit: max, ..Open::default() }),
            finished: Finished::default(),
            waited_for: AtomicBool::new(false),
            room: Condvar::default(),
            seal,
            sealed,
            max,
        }
    }

    /// Appends a message. `Ok(true)`: the sender sleeps and must be woken.
    #[inline(always)] // see Writer::write
    pub(crate) fn push(&self, message: &[u8]) -> Result<bool, Refusal> {
        if message.len() >= LARGE {
            return self.push_large(message);
        }
        let mut open = self.open.lock();
        self.append(&mut open, message).inspect_err(|refusal| count_drop(&mut open, *refusal))
    }

    /// As [`Queue::push`], but a full queue is not counted as a refusal yet: the caller can wait.
    pub(crate) fn offer(&self, message: &[u8]) -> Result<bool, Refusal> {
        self.append(&mut self.open.lock(), message)
    }

    /// The limits.
    pub(crate) fn max(&self) -> Count {
        self.max
    }

    /// Whether a message could ever be taken.
    pub(crate) fn could_hold(&self, message: &[u8]) -> bool {
        message.len() as u64 <= self.max.bytes
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
            // Told when the queue is half empty; looked at more often, since it may stay fuller than that.
            let look = Instant::now() + LOOK_FOR_ROOM;
            open = self.room.wait_until(open, deadline.map_or(look, |deadline| deadline.min(look)));
            timed_out = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        }
    }

    /// Counts a message that was refused although its producer was ready to wait.
    pub(crate) fn count_dropped(&self) {
        count_drop(&mut self.open.lock(), Refusal::Full);
    }

    /// Appends messages in order until one is refused. Returns how many were taken and why it ended early. `wake` is called
    /// when the sender must be woken.
    pub(crate) fn push_many<'a, E: From<Refusal>>(
        &self,
        messages: impl Iterator<Item = Result<&'a [u8], E>>,
        wake: impl Fn(),
    ) -> (usize, Option<E>) {
        let (mut taken, mut asleep, mut held) = (0, false, 0);
        let mut refused = None;
        let mut open = self.open.lock();
        for message in messages {
            let appended = message.and_then(|message| {
                held += message.len();
                if message.is_empty() && !open.closed {
                    return Ok(false);
                }
                Ok(self.append(&mut open, message).inspect_err(|refusal| count_drop(&mut open, *refusal))?)
            });
            match appended {
                Ok(was_asleep) => asleep |= was_asleep,
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
            taken += 1;
            if held >= BATCH {
                // The sender may take what is there, and others may append.
                drop(open);
                if std::mem::take(&mut asleep) {
                    wake();
                }
                open = self.open.lock();
                held = 0;
            }
        }
        drop(open);
        if asleep {
            wake();
        }
        (taken, refused)
    }

    fn push_large(&self, message: &[u8]) -> Result<bool, Refusal> {
        let admit = |open: &mut Open| self.admit(open, message.len()).inspect_err(|refusal| count_drop(open, *refusal));
        admit(&mut self.open.lock())?;
        let mut own = Batch::just_for(message.len() + frame::MAX_PREFIX)?;
        own.append(message);
        let mut open = self.open.lock();
        admit(&mut open)?;
        self.seal_open(&mut open);
        open.accepted.messages += 1;
        open.accepted.bytes += message.len() as u64;
        open.batch = Some(own);
        self.seal_open(&mut open);
        Ok(std::mem::take(&mut open.sleeping))
    }

    #[inline(always)] // a call and a result in memory cost a tenth of what this does
    fn append(&self, open: &mut Open, message: &[u8]) -> Result<bool, Refusal> {
        self.admit(open, message.len())?;
        match &mut open.batch {
            Some(batch) if batch.fits(message.len()) => batch.append(message),
            _ => self.begin_batch(open, message.len())?.append(message),
        }
        open.accepted.messages += 1;
        open.accepted.bytes += message.len() as u64;
        Ok(std::mem::take(&mut open.sleeping))
    }

    #[cold]
    fn begin_batch<'a>(&self, open: &'a mut Open, len: usize) -> Result<&'a mut Batch, Refusal> {
        let empty = Batch::with_room(len + frame::MAX_PREFIX)?;
        self.seal_open(open);
        Ok(open.batch.insert(empty))
    }

    #[inline]
    fn admit(&self, open: &mut Open, len: usize) -> Result<(), Refusal> {
        if open.closed {
            return Err(Refusal::Closed);
        }
        if self.has_room(open, len) { Ok(()) } else { Err(Refusal::Full) }
    }

    #[inline]
    fn has_room(&self, open: &mut Open, len: usize) -> bool {
        let fits = |open: &Open| {
            open.accepted.messages < open.limit.messages
                && open.accepted.bytes.saturating_add(len as u64) <= open.limit.bytes
        };
        fits(open) || {
            self.look_at_finished(open);
            fits(open)
        }
    }

    #[cold]
    fn look_at_finished(&self, open: &mut Open) {
        let (sent, abandoned) = self.finished.read();
        open.limit.messages = sent.messages + abandoned.messages + self.max.messages;
        open.limit.bytes = (sent.bytes + abandoned.bytes).saturating_add(self.max.bytes);
    }

    /// The open batch leaves for the sender, with the count of what is in it.
    fn seal_open(&self, open: &mut Open) {
        if let Some(batch) = self.close_open(open) {
            let sent = self.seal.try_send(batch);
            debug_assert!(sent.is_ok(), "more batches than messages");
        }
    }

    fn close_open(&self, open: &mut Open) -> Option<Batch> {
        let mut batch = open.batch.take()?;
        batch.messages = open.accepted.messages - open.sealed.messages;
        batch.payload = open.accepted.bytes - open.sealed.bytes;
        open.sealed = open.accepted;
        Some(batch)
    }

    /// The sender takes a full batch, without the lock.
    pub(crate) fn take_sealed(&self) -> Option<Batch> {
        self.sealed.try_recv().ok()
    }

    /// The sender takes what waits; `None` when there is nothing.
    pub(crate) fn take(&self) -> Option<Batch> {
        if let Some(batch) = self.take_sealed() {
            return Some(batch);
        }
        let mut open = self.open.lock();
        // A producer may have sealed one and begun another between the look and the lock.
        self.sealed.try_recv().ok().or_else(|| self.close_open(&mut open))
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

    /// The sender says how messages ended. Waiting producers are woken when the queue is half empty: waking them for each
    /// batch would cost a context switch each time.
    pub(crate) fn finish(&self, fate: Fate, messages: u64, bytes: u64) {
        let (count, size) = match fate {
            Fate::Sent => (&self.finished.sent, &self.finished.sent_bytes),
            Fate::Abandoned => (&self.finished.abandoned, &self.finished.abandoned_bytes),
        };
        // Only the sender writes these, so an addition needs no locked instruction.
        let version = self.finished.version.load(Ordering::Relaxed);
        self.finished.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        size.store(size.load(Ordering::Relaxed) + bytes, Ordering::Release);
        count.store(count.load(Ordering::Relaxed) + messages, Ordering::Release);
        self.finished.version.store(version + 2, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.waited_for.load(Ordering::Relaxed) {
            self.wake_waiting();
        }
    }

    fn wake_waiting(&self) {
        let open = self.open.lock();
        let (sent, abandoned) = self.finished.read();
        let depth = open.accepted.messages - sent.messages - abandoned.messages;
        let bytes = open.accepted.bytes - sent.bytes - abandoned.bytes;
        if depth <= self.max.messages / 2 && bytes <= self.max.bytes / 2 {
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
        let (sent, abandoned) = self.finished.read_together();
        let open = self.open.lock();
        let depth = Count {
            messages: open.accepted.messages - sent.messages - abandoned.messages,
            bytes: open.accepted.bytes - sent.bytes - abandoned.bytes,
        };
        Account { accepted: open.accepted, sent, abandoned, depth, dropped: open.dropped }
    }
}

/// Only want of room makes a drop: a message that finds no memory, or a closed queue, is its caller's.
fn count_drop(open: &mut Open, refusal: Refusal) {
    open.dropped += u64::from(refusal == Refusal::Full);
}

impl Finished {
    /// Sent and abandoned, messages and bytes of the same moment: a sequence lock.
    fn read_together(&self) -> (Count, Count) {
        for look in 0..LOOKS_FOR_ONE_MOMENT {
            let version = self.version.load(Ordering::Acquire);
            let counts = self.read();
            fence(Ordering::Acquire);
            if version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version {
                return counts;
            }
            if look < QUICK_LOOKS { std::hint::spin_loop() } else { std::thread::sleep(LOOK_STEP) }
        }
        self.read()
    }

    /// Sent and abandoned. Between messages and bytes the sender may have finished more.
    fn read(&self) -> (Count, Count) {
        let count = |messages: &AtomicU64, bytes: &AtomicU64| Count {
            messages: messages.load(Ordering::Acquire),
            bytes: bytes.load(Ordering::Acquire),
        };
        (count(&self.sent, &self.sent_bytes), count(&self.abandoned, &self.abandoned_bytes))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn drain(queue: &Queue) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(batch) = queue.take() {
            out.extend_from_slice(&batch.bytes);
            queue.finish(Fate::Sent, batch.messages, batch.payload);
            batch.recycle();
        }
        out
    }

    #[test]
    fn capacity_is_exact_until_the_sender_says_that_messages_are_finished() {
        let queue = Queue::new(2, 0);
        assert!(queue.push(b"a").is_ok() && queue.push(b"b").is_ok());
        assert_eq!(queue.push(b"c"), Err(Refusal::Full));
        let taken = queue.take().expect("a batch");
        assert_eq!(queue.push(b"c"), Err(Refusal::Full), "taking is not finishing");
        queue.finish(Fate::Sent, 1, 1);
        assert!(queue.push(b"c").is_ok());
        assert_eq!(taken.bytes, b"\x01a\x01b");
        let account = queue.account();
        assert_eq!(
            (account.accepted.messages, account.sent.messages, account.depth.messages, account.dropped),
            (3, 1, 2, 2)
        );
    }

    #[test]
    fn the_byte_limit_counts_payload() {
        let queue = Queue::new(100, 10);
        assert!(queue.push(&[0; 6]).is_ok() && queue.push(&[0; 4]).is_ok());
        assert_eq!(queue.push(b"x"), Err(Refusal::Full));
        assert_eq!(drain(&queue).len(), 12);
        assert!(queue.push(&[0; 10]).is_ok());
    }

    #[test]
    fn a_message_above_the_byte_limit_could_never_be_held() {
        let queue = Queue::new(100, 10);
        assert!(queue.could_hold(&[0; 10]) && !queue.could_hold(&[0; 11]));
        assert_eq!(queue.push(&[0; 11]), Err(Refusal::Full));
    }

    #[test]
    fn a_batch_knows_what_is_in_it() {
        let queue = Queue::new(100, 0);
        for message in [&b"abc"[..], &[7; LARGE], b"de", b"f"] {
            queue.push(message).expect("room");
        }
        let batches: Vec<_> =
            std::iter::from_fn(|| queue.take()).map(|batch| (batch.messages, batch.payload)).collect();
        assert_eq!(batches, [(1, 3), (1, LARGE as u64), (2, 3)]);
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
        assert!(queue.offer(b"a").is_ok() && queue.offer(b"b").is_ok());
        assert_eq!(queue.offer(b"c"), Err(Refusal::Full));
        let waiting = wait_in_a_thread(&queue);
        queue.finish(Fate::Sent, 1, 1);
        waiting.join().expect("no panic");
        assert!(queue.offer(b"c").is_ok());
        let waiting = wait_in_a_thread(&queue);
        queue.close();
        waiting.join().expect("no panic");
        assert_eq!(queue.offer(b"d"), Err(Refusal::Closed));
        assert_eq!(queue.account().dropped, 0);
    }

    #[test]
    fn messages_and_bytes_of_an_account_are_of_one_moment() {
        let queue = Arc::new(Queue::new(1 << 20, 0));
        let sending = Arc::clone(&queue);
        let sender = std::thread::spawn(move || {
            for _ in 0..200_000 {
                sending.push(&[0; 10]).expect("room");
                sending.finish(Fate::Sent, 1, 10);
            }
        });
        while !sender.is_finished() {
            let sent = queue.account().sent;
            assert_eq!(sent.bytes, 10 * sent.messages);
        }
        sender.join().expect("no panic");
    }

    #[test]
    fn waiting_ends_with_the_deadline() {
        let queue = Queue::new(1, 0);
        queue.push(b"a").expect("room");
        queue.wait_for_room(1, Some(Instant::now() + Duration::from_millis(1)));
        assert_eq!(queue.offer(b"b"), Err(Refusal::Full));
    }
}
