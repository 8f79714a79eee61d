//! Memory for batches: empty ones are kept for the next messages, and given back when a burst is over.
//!
//! One pool serves all writers of the process, so that an idle writer holds no memory, and a thousand busy ones use the
//! same warm few. The pool has no clock and no thread. Whoever has put batches back asks [`must_trim`], and if the answer
//! is a time, calls [`trim`] at that time, and again at the times that `trim` answers. One caller does this for all: the
//! others are answered `None`. A caller that does not come is replaced by the next one that asks.

use std::collections::TryReserveError;
use std::time::{Duration, Instant};

use crate::sys::lock::{Mutex, MutexGuard};

use super::batch::{BATCH, Batch};

/// How many empty batches are kept. More are needed only while slow readers let queues fill.
const MAX_SMALL: usize = 256;
/// How many batches of large messages are kept, and how large they are at most.
const MAX_LARGE: usize = 8;
const LARGEST: usize = 1 << 20 | 1 << 12;
/// How many small ones stay after a burst.
const SMALL_AT_REST: usize = 1;
/// What has not been needed for this long is given back.
const TRIM_AFTER: Duration = Duration::from_secs(5);

static POOL: Mutex<Pool> = Mutex::new(Pool::new());

/// `None` while another thread holds the lock, which in a child of `fork` may be for ever: a thread of its parent that
/// does not exist there. Memory is then allocated and freed as if there were no pool, which is quicker than to wait.
fn pool() -> Option<MutexGuard<'static, Pool>> {
    POOL.try_lock()
}

/// An empty batch with room for `bytes` at least.
pub(super) fn take(bytes: usize) -> Result<Batch, TryReserveError> {
    let kept = pool().and_then(|mut pool| pool.take(bytes));
    kept.map_or_else(|| Batch::with_capacity(bytes.max(BATCH)), Ok)
}

/// As [`take`], but no larger than needed: for one large message.
pub(super) fn take_large(bytes: usize) -> Result<Batch, TryReserveError> {
    let kept = pool().and_then(|mut pool| pool.take_large(bytes));
    kept.map_or_else(|| Batch::with_capacity(bytes), Ok)
}

impl Batch {
    /// Puts the memory back, for whichever writer comes next.
    pub(super) fn recycle(self) {
        if let Some(mut pool) = pool() {
            pool.put(self);
        }
    }
}

/// When the caller has to call [`trim`]. `None`: there is no memory to give back, or another caller does it.
pub(super) fn must_trim(now: Instant) -> Option<Instant> {
    pool().and_then(|mut pool| pool.begin_watch(now))
}

/// Gives back what has not been needed since [`must_trim`] or the last call of this. When the caller has to come again;
/// `None`: never, until [`must_trim`] says so.
pub(super) fn trim(now: Instant) -> Option<Instant> {
    match pool() {
        Some(mut pool) => pool.trim(now),
        None => Some(now + TRIM_AFTER), // another thread holds the lock for a moment; the duty stays with this caller
    }
}

/// Gives everything back.
pub(super) fn clear() {
    if let Some(mut pool) = pool() {
        *pool = Pool::new();
    }
}

/// Last in, first out: first in, first out would walk through all memory ever used.
#[derive(Debug)]
struct Pool {
    small: Vec<Batch>,
    large: Vec<Batch>,
    /// Since when a caller watches how many batches are not needed: the fewest that there have been.
    watched_since: Option<Instant>,
    fewest_small: usize,
    fewest_large: usize,
}

impl Pool {
    const fn new() -> Pool {
        Pool { small: Vec::new(), large: Vec::new(), watched_since: None, fewest_small: 0, fewest_large: 0 }
    }

    fn take(&mut self, bytes: usize) -> Option<Batch> {
        if bytes > BATCH {
            return self.take_large(bytes);
        }
        let batch = self.small.pop();
        self.fewest_small = self.fewest_small.min(self.small.len());
        batch
    }

    /// The newest that is large enough: fresh memory costs a page fault every 4 KiB, as much as the copy into it. Not one
    /// that is much too large: what is queued would hold many times the memory that it needs.
    fn take_large(&mut self, bytes: usize) -> Option<Batch> {
        let newest = self.large.iter().rposition(|batch| (bytes..=2 * bytes).contains(&batch.bytes.capacity()))?;
        let batch = self.large.remove(newest);
        self.fewest_large = self.fewest_large.min(self.large.len());
        Some(batch)
    }

    fn put(&mut self, mut batch: Batch) {
        let (kept, most) = match batch.bytes.capacity() {
            BATCH => (&mut self.small, MAX_SMALL),
            0..=LARGEST => (&mut self.large, MAX_LARGE),
            _ => return,
        };
        batch.clear();
        if kept.len() == most {
            kept.remove(0); // the oldest: sizes may have changed
        }
        if kept.try_reserve(1).is_ok() {
            kept.push(batch);
        }
    }

    fn begin_watch(&mut self, now: Instant) -> Option<Instant> {
        // A watcher that is so late does not come any more: its writer is busy, or gone.
        let replaceable = |since| now.saturating_duration_since(since) >= 2 * TRIM_AFTER;
        if self.watched_since.is_none_or(replaceable) { self.watch(now) } else { None }
    }

    fn watch(&mut self, now: Instant) -> Option<Instant> {
        let watched = self.small.len() > SMALL_AT_REST || !self.large.is_empty();
        self.watched_since = watched.then_some(now);
        (self.fewest_small, self.fewest_large) = (self.small.len(), self.large.len());
        self.watched_since.map(|since| since + TRIM_AFTER)
    }

    fn trim(&mut self, now: Instant) -> Option<Instant> {
        if self.watched_since.is_none_or(|since| now.saturating_duration_since(since) < TRIM_AFTER) {
            return None; // another caller has taken over
        }
        // The oldest lie in front. One more message needs no new memory.
        self.small.drain(..self.fewest_small.min(self.small.len().saturating_sub(SMALL_AT_REST)));
        self.large.drain(..self.fewest_large.min(self.large.len()));
        self.watch(now)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn pool_with(sizes: &[usize]) -> Pool {
        let mut pool = Pool::new();
        for &size in sizes {
            pool.put(Batch::with_capacity(size).expect("memory"));
        }
        pool
    }

    #[test]
    fn the_newest_that_is_large_enough_is_used_again() {
        let mut pool = pool_with(&[BATCH, 3 * BATCH, 2 * BATCH]);
        assert_eq!(pool.take_large(2 * BATCH - 1).expect("a batch").bytes.capacity(), 2 * BATCH);
        assert!(pool.take_large(4 * BATCH).is_none());
        assert_eq!(pool.take(100).expect("a batch").bytes.capacity(), BATCH);
        assert!(pool.take(100).is_none());
        assert!(pool.take(3 * BATCH).is_some());
    }

    #[test]
    fn a_message_never_holds_more_than_twice_the_memory_that_it_needs() {
        let mut pool = pool_with(&[1 << 20]);
        assert!(pool.take_large(33_000).is_none());
        assert!(pool.take_large((1 << 19) - 1).is_none());
        assert!(pool.take_large(1 << 19).is_some());
    }

    #[test]
    fn a_kept_batch_is_empty() {
        let mut batch = Batch::with_capacity(BATCH).expect("memory");
        batch.append(b"old");
        batch.messages = 1;
        let mut pool = Pool::new();
        pool.put(batch);
        let batch = pool.take(1).expect("a batch");
        assert!(batch.bytes.is_empty() && batch.messages == 0);
    }

    #[test]
    fn there_are_only_so_many() {
        let pool = pool_with(&[BATCH; MAX_SMALL + 1]);
        assert_eq!(pool.small.len(), MAX_SMALL);
        let pool = pool_with(&[2 * BATCH; MAX_LARGE + 1]);
        assert_eq!(pool.large.len(), MAX_LARGE);
        assert_eq!(pool_with(&[LARGEST + 1]).large.len(), 0);
    }

    #[test]
    fn what_was_not_needed_for_a_while_is_given_back() {
        let mut pool = pool_with(&[BATCH, BATCH, BATCH, BATCH, 2 * BATCH]);
        let now = Instant::now();
        assert_eq!(pool.begin_watch(now), Some(now + TRIM_AFTER));
        let used = [pool.take(1), pool.take(1)];
        used.into_iter().flatten().for_each(|batch| pool.put(batch));
        assert_eq!(pool.trim(now + TRIM_AFTER), Some(now + 2 * TRIM_AFTER), "two were needed");
        assert_eq!((pool.small.len(), pool.large.len()), (2, 0));
        assert_eq!(pool.trim(now + 2 * TRIM_AFTER), None, "the last one stays");
        assert_eq!(pool.small.len(), 1);
        assert_eq!(pool.begin_watch(now + 3 * TRIM_AFTER), None, "there is nothing to give back");
    }

    #[test]
    fn one_writer_watches_until_it_does_not_come_any_more() {
        let mut pool = pool_with(&[BATCH, BATCH, BATCH]);
        let now = Instant::now();
        assert_eq!(pool.begin_watch(now), Some(now + TRIM_AFTER));
        assert_eq!(pool.begin_watch(now + TRIM_AFTER), None);
        let later = now + 2 * TRIM_AFTER;
        assert_eq!(pool.begin_watch(later), Some(later + TRIM_AFTER), "the first one did not come");
        assert_eq!(pool.trim(later), None, "it came too late");
        assert_eq!(pool.small.len(), 3);
        assert_eq!(pool.trim(later + TRIM_AFTER), None);
        assert_eq!(pool.small.len(), 1);
    }
}
