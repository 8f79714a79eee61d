//! The elastic pool of threads.
//!
//! A thread that is about to run callbacks makes sure that another one waits, up to the limit: a callback that blocks
//! delays its own connection only. The kernel wakes the thread that waited last (`__add_wait_queue_exclusive`), so with
//! one fast connection the same warm thread does the work and the other sleeps.

use std::io;
use std::time::{Duration, Instant};

use crate::sys::lock::Mutex;
use crate::sys::thread::Threads;

/// A thread beyond the ones that a reader keeps leaves when it has had nothing to do for this long.
const IDLE_LIMIT: Duration = Duration::from_secs(5);
const THREADS_KEPT: u32 = 2;

/// What a pool's threads do.
pub(super) trait Work: Sync {
    type Event;
    type Served;

    /// Waits for an event. `None`: none has come in time.
    fn next(&self, timeout: Option<Duration>) -> Option<Self::Event>;
    /// Whether serving it may take so long that another thread has to wait meanwhile.
    fn may_block(&self, event: &Self::Event) -> bool;
    fn serve(&self, event: Self::Event) -> Option<Self::Served>;
    /// What has been served waits for its next event.
    fn wait_for_more(&self, served: Self::Served);
    fn is_over(&self) -> bool;
}

/// The threads of one reader.
#[derive(Debug)]
pub(super) struct WorkerPool {
    counts: Mutex<Counts>,
    threads: Threads,
    stack: Option<usize>,
}

/// Decided together, so that the last thread that waits never leaves.
#[derive(Debug)]
struct Counts {
    limit: u32,
    total: u32,
    /// Those that wait for an event, or are about to.
    waiting: u32,
}

impl WorkerPool {
    /// At most `limit` threads, with stacks of `stack` bytes; 0 is the system's default.
    pub(super) fn new(limit: u32, stack: u64) -> WorkerPool {
        let stack = (stack > 0).then(|| usize::try_from(stack).unwrap_or(usize::MAX));
        WorkerPool { stack, counts: Mutex::new(Counts { limit, total: 0, waiting: 0 }), threads: Threads::default() }
    }

    /// Starts a thread unless one waits already, or there are as many as may be. The thread counts as waiting from now
    /// on.
    pub(super) fn ensure_waiting(&self, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        if !self.counts.lock().add() {
            return Ok(());
        }
        self.threads.start("udsipc-reader", self.stack, body).inspect_err(|_| self.counts.lock().remove())
    }

    /// What each thread does until all is over, or it is not needed any more; then it does not count. `start_another`
    /// calls [`WorkerPool::ensure_waiting`].
    pub(super) fn work(&self, work: &impl Work, start_another: impl Fn()) {
        while !work.is_over() {
            let Some(event) = work.next(self.idle_limit()) else {
                if self.counts.lock().leave() {
                    return;
                }
                continue;
            };
            self.counts.lock().waiting -= 1;
            if work.may_block(&event) {
                start_another();
            }
            let served = work.serve(event);
            // Count this thread as waiting before re-arming; otherwise the thread that the next message wakes sees
            // nobody wait and starts one more.
            self.counts.lock().waiting += 1;
            if let Some(served) = served {
                work.wait_for_more(served);
            }
        }
        self.counts.lock().remove();
    }

    /// Whether all threads have left.
    pub(super) fn is_empty(&self) -> bool {
        self.counts.lock().total == 0
    }

    /// How long a thread waits before it asks whether it may leave.
    fn idle_limit(&self) -> Option<Duration> {
        (self.counts.lock().total > THREADS_KEPT).then_some(IDLE_LIMIT)
    }

    /// Waits for the end of all threads but the calling one; those that have not ended by then are let go.
    pub(super) fn join_all(&self, deadline: Instant) {
        self.threads.join_all(Some(deadline));
    }
}

impl Counts {
    fn add(&mut self) -> bool {
        let needed = self.waiting == 0 && self.total < self.limit;
        if needed {
            self.total += 1;
            self.waiting += 1;
        }
        needed
    }

    fn remove(&mut self) {
        self.total -= 1;
        self.waiting -= 1;
    }

    fn leave(&mut self) -> bool {
        let leave = self.total > THREADS_KEPT && self.waiting > 1;
        if leave {
            self.remove();
        }
        leave
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn counts(pool: &WorkerPool) -> (u32, u32) {
        let counts = pool.counts.lock();
        (counts.total, counts.waiting)
    }

    #[test]
    fn a_thread_is_started_only_when_none_waits_and_only_up_to_the_limit() {
        let (pool, started) = (WorkerPool::new(3, 0), Arc::new(AtomicU32::new(0)));
        let ensure = || {
            let started = Arc::clone(&started);
            let body = move || {
                started.fetch_add(1, Ordering::SeqCst);
            };
            pool.ensure_waiting(body).expect("a thread");
        };
        ensure();
        ensure();
        assert_eq!(counts(&pool), (1, 1));
        for busy in 1..=4_u32 {
            pool.counts.lock().waiting -= 1;
            ensure();
            let total = 3.min(busy + 1);
            assert_eq!(counts(&pool), (total, total.saturating_sub(busy)), "{busy} busy");
            if busy >= 3 {
                pool.counts.lock().waiting += 1;
            }
        }
        pool.join_all(Instant::now() + Duration::from_secs(60));
        assert_eq!(started.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_thread_may_leave_when_two_remain_and_one_of_them_waits() {
        let mut counts = Counts { limit: 64, total: 4, waiting: 1 };
        assert!(!counts.leave(), "the last one that waits");
        counts.waiting = 3;
        assert!(counts.leave());
        assert!(counts.leave());
        assert_eq!((counts.total, counts.waiting), (2, 1));
        counts.waiting = 2;
        assert!(!counts.leave(), "two are kept");
    }

    #[test]
    fn only_more_threads_than_are_kept_ask_whether_they_may_leave() {
        let pool = WorkerPool::new(64, 0);
        for (total, limit) in [(2, None), (3, Some(IDLE_LIMIT))] {
            pool.counts.lock().total = total;
            assert_eq!(pool.idle_limit(), limit);
        }
    }
    /// A worker whose events are numbers in a channel.
    struct Numbers {
        events: Mutex<std::sync::mpsc::Receiver<u32>>,
        log: Mutex<Vec<String>>,
        pool: Arc<WorkerPool>,
    }

    impl Work for Numbers {
        type Event = u32;
        type Served = u32;

        fn next(&self, timeout: Option<Duration>) -> Option<u32> {
            assert_eq!(counts(&self.pool).1, 1, "a thread that waits counts as waiting");
            self.events.lock().recv_timeout(timeout.unwrap_or(Duration::from_secs(60))).ok()
        }

        fn may_block(&self, event: &u32) -> bool {
            *event > 1
        }

        fn serve(&self, event: u32) -> Option<u32> {
            assert_eq!(counts(&self.pool).1, 0, "a thread that serves does not");
            self.log.lock().push(format!("serve {event}"));
            event.is_multiple_of(2).then_some(event)
        }

        fn wait_for_more(&self, served: u32) {
            assert_eq!(counts(&self.pool).1, 1, "it counts again before anybody can be woken by what it re-arms");
            self.log.lock().push(format!("rearm {served}"));
        }

        fn is_over(&self) -> bool {
            self.log.lock().len() >= 8
        }
    }

    #[test]
    fn a_thread_serves_event_after_event_and_does_not_count_when_it_has_left() {
        let (send, receive) = std::sync::mpsc::channel();
        (1..=5).for_each(|number| send.send(number).expect("a receiver"));
        let pool = Arc::new(WorkerPool::new(1, 0));
        let work = Numbers { events: Mutex::new(receive), log: Mutex::default(), pool: Arc::clone(&pool) };
        assert!(pool.counts.lock().add());
        pool.work(&work, || work.log.lock().push("another".into()));
        let log = ["serve 1", "another", "serve 2", "rearm 2", "another", "serve 3", "another", "serve 4", "rearm 4"];
        assert_eq!(*work.log.lock(), log);
        assert!(pool.is_empty());
        assert_eq!(counts(&pool), (0, 0));
    }
}
