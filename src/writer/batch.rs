//! Batches: whole frames one behind the other, and the memory for them.

use std::collections::TryReserveError;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use crate::frame;
use crate::sys::cache;
use crate::sys::lock::{Mutex, MutexGuard};

/// How much a batch gathers: two of the kernel's largest buffers of a stream socket (`SKB_MAX_HEAD(0) + 32 KiB`).
pub(crate) const BATCH: usize = 64 << 10;

/// The memory of a batch was last read by the sender, on another processor: messages up to this size ask for it in good
/// time, this far ahead. That is two fifths more of them a second at 100 B. Longer ones gain nothing: their own stores
/// overlap.
const SMALL: usize = 512;
const AHEAD: usize = 512;

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
    #[inline(always)]
    pub(crate) fn append(&mut self, message: &[u8]) {
        // Most prefixes have one byte, nearly all have two: pieces of a known size cost no call.
        match message.len() {
            len @ 0..0x80 => self.bytes.push(len as u8),
            len @ 0x80..0x4000 => self.bytes.extend_from_slice(&[len as u8 | 0x80, (len >> 7) as u8]),
            len => self.append_long_prefix(len),
        }
        self.bytes.extend_from_slice(message);
        if message.len() <= SMALL {
            cache::fetch_for_writing(&self.bytes, AHEAD, message.len());
        }
    }

    #[cold]
    fn append_long_prefix(&mut self, len: usize) {
        let mut prefix = [0; frame::MAX_PREFIX];
        let size = frame::encode_prefix(len, &mut prefix);
        self.bytes.extend_from_slice(&prefix[..size]);
    }

    /// Whether a message of `len` bytes fits behind the others, whatever its prefix.
    pub(crate) fn fits(&self, len: usize) -> bool {
        self.bytes.capacity() - self.bytes.len() >= len + frame::MAX_PREFIX
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
    fn with_capacity(bytes: usize) -> Result<Batch, TryReserveError> {
        let mut frames = Frames::default();
        frames.bytes.try_reserve_exact(bytes)?;
        let mut one = Vec::new();
        one.try_reserve_exact(1)?;
        one.push(frames);
        match one.into_boxed_slice().try_into() {
            Ok(boxed) => Ok(Batch(boxed)),
            Err(_) => unreachable!("the slice has one element"),
        }
    }

    /// An empty batch with room for `bytes` at least.
    pub(crate) fn with_room(bytes: usize) -> Result<Batch, TryReserveError> {
        let spare = spares().and_then(|mut spares| spares.take(bytes));
        spare.map_or_else(|| Batch::with_capacity(bytes.max(BATCH)), Ok)
    }

    /// As [`Batch::with_room`], but no larger than needed: for one large message.
    pub(crate) fn just_for(bytes: usize) -> Result<Batch, TryReserveError> {
        let spare = spares().and_then(|mut spares| spares.take_large(bytes));
        spare.map_or_else(|| Batch::with_capacity(bytes), Ok)
    }

    /// Its memory is used again, by whichever writer comes next.
    pub(crate) fn recycle(self) {
        if let Some(mut spares) = spares() {
            spares.put(self);
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

/// Empty batches kept for the next messages of the whole process. More are needed only while slow readers let queues fill.
const SPARES: usize = 256;
/// Batches of large messages that are kept, and how large they are at most.
const LARGE_SPARES: usize = 8;
const LARGEST_SPARE: usize = 1 << 20 | 1 << 12;
/// How many small ones nobody needs to look after.
const SPARES_AT_REST: usize = 1;
/// What has not been needed for this long is given back.
pub(crate) const TRIM_AFTER: Duration = Duration::from_secs(5);

/// Shared by all writers, so that an idle one holds no memory, and a thousand busy ones use the same warm few.
static ALL: Mutex<Spares> = Mutex::new(Spares::new());

/// `None` if somebody else is at it, which for a child of `fork` may be for ever: a thread of its parent that does not
/// exist there. Then memory is made and freed as if there were no spares, which is quicker than to wait.
fn spares() -> Option<MutexGuard<'static, Spares>> {
    ALL.try_lock()
}

/// Whether the caller must call [`trim`] in [`TRIM_AFTER`]: there is memory that may not be needed any more, and nobody
/// else looks after it.
pub(crate) fn must_trim(now: Instant) -> bool {
    spares().is_some_and(|mut spares| spares.begin_watch(now))
}

/// Gives back what has not been needed since [`must_trim`] or the last call. True if the caller must come again.
pub(crate) fn trim(now: Instant) -> bool {
    spares().is_some_and(|mut spares| spares.trim(now))
}

/// Gives everything back.
pub(crate) fn give_back() {
    if let Some(mut spares) = spares() {
        *spares = Spares::new();
    }
}

/// Last in, first out: first in, first out would walk through all memory ever used.
#[derive(Debug)]
struct Spares {
    small: Vec<Batch>,
    large: Vec<Batch>,
    /// Since when one of the writers watches how many are not needed: the fewest that there have been.
    watched_since: Option<Instant>,
    fewest_small: usize,
    fewest_large: usize,
}

impl Spares {
    const fn new() -> Spares {
        Spares { small: Vec::new(), large: Vec::new(), watched_since: None, fewest_small: 0, fewest_large: 0 }
    }

    fn take(&mut self, bytes: usize) -> Option<Batch> {
        if bytes > BATCH {
            return self.take_large(bytes);
        }
        let spare = self.small.pop();
        self.fewest_small = self.fewest_small.min(self.small.len());
        spare
    }

    /// The newest that is large enough: fresh memory costs a page fault every 4 KiB, as much as the copy into it. Not one
    /// that is much too large: what is queued would hold many times the memory that it needs.
    fn take_large(&mut self, bytes: usize) -> Option<Batch> {
        let newest = self.large.iter().rposition(|spare| (bytes..=2 * bytes).contains(&spare.bytes.capacity()))?;
        let spare = self.large.remove(newest);
        self.fewest_large = self.fewest_large.min(self.large.len());
        Some(spare)
    }

    fn put(&mut self, mut batch: Batch) {
        let (spares, most) = match batch.bytes.capacity() {
            BATCH => (&mut self.small, SPARES),
            0..=LARGEST_SPARE => (&mut self.large, LARGE_SPARES),
            _ => return,
        };
        batch.clear();
        if spares.len() == most {
            spares.remove(0); // the oldest: sizes may have changed
        }
        if spares.try_reserve(1).is_ok() {
            spares.push(batch);
        }
    }

    /// True if the caller is to be the one that watches.
    fn begin_watch(&mut self, now: Instant) -> bool {
        // One that has not come for so long is busy, or gone.
        let abandoned = |since| now.saturating_duration_since(since) >= 2 * TRIM_AFTER;
        self.watched_since.is_none_or(abandoned) && self.watch(now)
    }

    fn watch(&mut self, now: Instant) -> bool {
        let watched = self.small.len() > SPARES_AT_REST || !self.large.is_empty();
        self.watched_since = watched.then_some(now);
        (self.fewest_small, self.fewest_large) = (self.small.len(), self.large.len());
        watched
    }

    fn trim(&mut self, now: Instant) -> bool {
        if self.watched_since.is_none_or(|since| now.saturating_duration_since(since) < TRIM_AFTER) {
            return false; // another writer does it now
        }
        // The oldest lie in front. One more message needs no new memory.
        self.small.drain(..self.fewest_small.min(self.small.len().saturating_sub(SPARES_AT_REST)));
        self.large.drain(..self.fewest_large.min(self.large.len()));
        self.watch(now)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn spares_with(sizes: &[usize]) -> Spares {
        let mut spares = Spares::new();
        for &size in sizes {
            spares.put(Batch::with_capacity(size).expect("memory"));
        }
        spares
    }

    #[test]
    fn the_newest_that_is_large_enough_is_used_again() {
        let mut spares = spares_with(&[BATCH, 3 * BATCH, 2 * BATCH]);
        assert_eq!(spares.take_large(2 * BATCH - 1).expect("a spare").bytes.capacity(), 2 * BATCH);
        assert!(spares.take_large(4 * BATCH).is_none());
        assert_eq!(spares.take(100).expect("a spare").bytes.capacity(), BATCH);
        assert!(spares.take(100).is_none());
        assert!(spares.take(3 * BATCH).is_some());
    }

    #[test]
    fn a_message_never_holds_more_than_twice_the_memory_that_it_needs() {
        let mut spares = spares_with(&[1 << 20]);
        assert!(spares.take_large(33_000).is_none());
        assert!(spares.take_large((1 << 19) - 1).is_none());
        assert!(spares.take_large(1 << 19).is_some());
    }

    #[test]
    fn a_spare_comes_back_empty() {
        let mut batch = Batch::with_capacity(BATCH).expect("memory");
        batch.append(b"old");
        batch.messages = 1;
        let mut spares = Spares::new();
        spares.put(batch);
        let spare = spares.take(1).expect("a spare");
        assert!(spare.bytes.is_empty() && spare.messages == 0);
    }

    #[test]
    fn there_are_only_so_many() {
        let spares = spares_with(&[BATCH; SPARES + 1]);
        assert_eq!(spares.small.len(), SPARES);
        let spares = spares_with(&[2 * BATCH; LARGE_SPARES + 1]);
        assert_eq!(spares.large.len(), LARGE_SPARES);
        assert_eq!(spares_with(&[LARGEST_SPARE + 1]).large.len(), 0);
    }

    #[test]
    fn what_was_not_needed_for_a_while_is_given_back() {
        let mut spares = spares_with(&[BATCH, BATCH, BATCH, BATCH, 2 * BATCH]);
        let now = Instant::now();
        assert!(spares.begin_watch(now));
        let used = [spares.take(1), spares.take(1)];
        used.into_iter().flatten().for_each(|batch| spares.put(batch));
        assert!(spares.trim(now + TRIM_AFTER), "two were needed");
        assert_eq!((spares.small.len(), spares.large.len()), (2, 0));
        assert!(!spares.trim(now + 2 * TRIM_AFTER), "the last one stays");
        assert_eq!(spares.small.len(), 1);
        assert!(!spares.begin_watch(now + 3 * TRIM_AFTER), "there is nothing to give back");
    }

    #[test]
    fn one_writer_watches_until_it_does_not_come_any_more() {
        let mut spares = spares_with(&[BATCH, BATCH, BATCH]);
        let now = Instant::now();
        assert!(spares.begin_watch(now));
        assert!(!spares.begin_watch(now + TRIM_AFTER));
        let later = now + 2 * TRIM_AFTER;
        assert!(spares.begin_watch(later), "the first one did not come");
        assert!(!spares.trim(later), "it came too late");
        assert_eq!(spares.small.len(), 3);
        assert!(!spares.trim(later + TRIM_AFTER));
        assert_eq!(spares.small.len(), 1);
    }
}
