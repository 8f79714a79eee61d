//! The account of a writer: how many messages were accepted, and how each of them ended.
//!
//! `accepted = sent + abandoned + depth` holds at any moment. The accepted ones are counted under the lock of the queue;
//! the finished ones are counted here, without a lock, by the session alone.

use std::time::Duration;

use crate::sync::{AtomicU64, Ordering, fence};

/// How often a reader of the counts tries again while they are being written. A write takes a few instructions, or until
/// its thread gets its processor back. In a child of `fork` that thread may not exist: the tries end after a second. loom
/// explores each of them, and needs one.
const READ_TRIES: u32 = if cfg!(loom) { 1 } else { 10_000 };
const QUICK_TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_micros(50);

/// Messages, and the bytes of their payload.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Count {
    /// Counts one more message of `len` bytes.
    #[inline]
    pub(super) fn add(&mut self, len: usize) {
        self.messages += 1;
        self.bytes += len as u64;
    }

    pub(super) fn plus(self, other: Count) -> Count {
        Count { messages: self.messages + other.messages, bytes: self.bytes + other.bytes }
    }

    pub(super) fn minus(self, other: Count) -> Count {
        Count { messages: self.messages - other.messages, bytes: self.bytes - other.bytes }
    }
}

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The kernel has taken it whole.
    Sent,
    /// It was given up.
    Abandoned,
}

/// The account at one moment: `accepted = sent + abandoned + depth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) accepted: Count,
    pub(super) sent: Count,
    pub(super) abandoned: Count,
    pub(super) depth: Count,
    pub(super) dropped: u64,
}

/// The counts of finished messages: a sequence lock with one writer. On a cache line of its own, because producers write
/// to the rest of the queue.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Finished {
    /// Odd while the others are being written.
    version: AtomicU64,
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    abandoned: AtomicU64,
    abandoned_bytes: AtomicU64,
}

impl Finished {
    /// Counts messages. One thread at a time may call this, so an addition needs no locked instruction.
    pub(super) fn add(&self, fate: Fate, count: Count) {
        let (messages, bytes) = match fate {
            Fate::Sent => (&self.sent, &self.sent_bytes),
            Fate::Abandoned => (&self.abandoned, &self.abandoned_bytes),
        };
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        // Bytes first: a reader without the sequence lock that finds all messages finished finds all bytes finished.
        bytes.store(bytes.load(Ordering::Relaxed) + count.bytes, Ordering::Release);
        messages.store(messages.load(Ordering::Relaxed) + count.messages, Ordering::Release);
        self.version.store(version + 2, Ordering::Release);
    }

    /// Sent and abandoned, messages and bytes of the same moment.
    pub(super) fn read_consistent(&self) -> (Count, Count) {
        for attempt in 0..READ_TRIES {
            let version = self.version.load(Ordering::Acquire);
            let counts = self.read();
            fence(Ordering::Acquire);
            if version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version {
                return counts;
            }
            if attempt < QUICK_TRIES { std::hint::spin_loop() } else { std::thread::sleep(PAUSE) }
        }
        self.read()
    }

    /// Sent and abandoned together. The bytes may be of a later moment than the messages, never of an earlier one.
    pub(super) fn read_total(&self) -> Count {
        let (sent, abandoned) = self.read();
        sent.plus(abandoned)
    }

    fn read(&self) -> (Count, Count) {
        let read = |messages: &AtomicU64, bytes: &AtomicU64| Count {
            messages: messages.load(Ordering::Acquire),
            bytes: bytes.load(Ordering::Acquire),
        };
        (read(&self.sent, &self.sent_bytes), read(&self.abandoned, &self.abandoned_bytes))
    }
}
