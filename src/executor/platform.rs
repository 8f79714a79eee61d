//! What the executor needs of the system: time, events, threads. A trait, so that tests can take threads and descriptors away
//! and a model can try every interleaving of the real executor.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::sys::event::{Event, NO_EVENT, Poller};
use crate::sys::fork;
use crate::sys::thread::Threads;

use super::run_queue::{EVENTS, Events};
use super::task::Wakeup;
use super::timers::{NEVER, Nanos};

pub(crate) trait Platform: Send + Sync + 'static {
    fn now(&self) -> Nanos;

    /// Whether this is a child that was forked later: it has no thread of its parent but the one that forked.
    fn is_forked(&self) -> bool;

    /// As [`Platform::now`] at that time; the past is 0.
    fn nanos(&self, at: Instant) -> Nanos;

    /// Waits until something happens or `timeout` has passed.
    fn wait(&self, timeout: Duration) -> Events;

    /// Makes one waiting thread, or the next one to wait, return.
    fn wake(&self);

    fn pause(&self, time: Duration);

    fn spawn(&self, body: impl FnOnce() + Send + 'static) -> io::Result<()>;

    /// Waits for the end of all threads but the calling one. False: the deadline came first.
    fn join_all(&self, deadline: Option<Instant>) -> bool;
}

/// One epoll set with an eventfd, and threads.
pub(crate) struct System {
    pub(super) poller: Arc<Poller>,
    threads: Threads,
    born: Instant,
    fork: fork::Token,
}

impl System {
    pub(super) fn new() -> Result<System> {
        let resources = |source| Error::from_os("descriptors for the event loop of the library's threads", source);
        Ok(System {
            poller: Arc::new(Poller::new().map_err(resources)?),
            threads: Threads::default(),
            born: Instant::now(),
            fork: fork::Token::of_this_process().map_err(resources)?,
        })
    }
}

impl Platform for System {
    fn now(&self) -> Nanos {
        self.nanos(Instant::now())
    }

    fn is_forked(&self) -> bool {
        !self.fork.is_current()
    }

    fn nanos(&self, at: Instant) -> Nanos {
        Nanos::try_from(at.saturating_duration_since(self.born).as_nanos()).unwrap_or(NEVER - 1)
    }

    fn wait(&self, timeout: Duration) -> Events {
        let mut events = Events::new();
        let waited = self.poller.wait(&mut [NO_EVENT; EVENTS], Some(timeout), |event| {
            if let Event::Ready { key, closed } = event {
                events.push(key, if closed { Wakeup::HANGUP } else { Wakeup::READY });
            }
            events.any = true;
        });
        events.broken = waited.is_err(); // somebody has closed our descriptors
        events
    }

    fn wake(&self) {
        self.poller.wake();
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn spawn(&self, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads.start("udsipc-executor", None, body)
    }

    fn join_all(&self, deadline: Option<Instant>) -> bool {
        self.threads.join_all(deadline)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_wait_tells_a_wake_up_from_nothing() {
        let system = System::new().expect("descriptors");
        let wait = || system.wait(Duration::ZERO);
        assert!(!wait().any);
        system.wake();
        assert!(wait().any);
        assert!(!wait().any, "each is reported once");
        assert!(!wait().broken);
    }

    #[test]
    fn times_are_counted_from_the_executors_birth() {
        let system = System::new().expect("descriptors");
        assert_eq!(system.nanos(system.born), 0);
        assert_eq!(system.nanos(system.born + Duration::from_micros(3)), 3_000);
        let long_ago = system.born.checked_sub(Duration::from_micros(1)).expect("an earlier instant");
        assert_eq!(system.nanos(long_ago), 0);
        assert!(system.nanos(Instant::now()) <= system.now());
    }
}
