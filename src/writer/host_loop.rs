//! The descriptors of a host's event loop: an epoll set that is readable when there is something to do, and, while the writer
//! is not connected, a watch of the directory in which its socket will appear.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::sys::event::{Event, Interest, Key, NO_EVENT, Poller};
use crate::sys::lock::Mutex;

use super::path_watch::PathWatch;
use super::session::Woken;

/// The key of the connection in the poller. There is one at a time, and what an older one left behind does no harm.
pub(super) const SOCKET: Key = 0;
const PATH: Key = 1;

/// The only listener of a watch that is not shared.
const ONLY_LISTENER: u64 = 0;

pub(super) struct HostLoop {
    poller: Arc<Poller>,
    /// Calls that wait at the poller.
    waiting: AtomicU32,
    /// Shared, so that no lock is held while a directory is looked for.
    path_watch: Mutex<Option<Arc<PathWatch<()>>>>,
}

impl HostLoop {
    pub(super) fn new() -> io::Result<HostLoop> {
        let poller = Poller::with_timer()?;
        poller.wake(); // a host's loop sees at once that there is something to do: connect
        Ok(HostLoop { poller: Arc::new(poller), waiting: AtomicU32::new(0), path_watch: Mutex::default() })
    }

    pub(super) fn poller(&self) -> &Arc<Poller> {
        &self.poller
    }

    pub(super) fn wake(&self) {
        self.poller.wake();
    }

    pub(super) fn wake_at(&self, at: Instant) {
        let _ = self.poller.arm(at);
    }

    /// Waits for something to happen. `is_over`: the writer has been stopped, and nothing will.
    pub(super) fn wait(&self, timeout: Option<Duration>, is_over: impl Fn() -> bool) -> io::Result<Woken> {
        let mut woken = Woken::default();
        // Counted before the look: either the end is seen here, or the one who ends it sees that somebody waits.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let waited = if is_over() {
            Ok(0)
        } else {
            self.poller.wait(&mut [NO_EVENT; 4], timeout, |event| match event {
                Event::Ready { key: SOCKET, closed } => woken.hung_up |= closed,
                Event::Ready { key: PATH, .. } => woken.path_appeared |= self.path_has_appeared(),
                _ => {}
            })
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        if is_over() {
            self.retire();
        }
        waited.map(|_| woken)
    }

    /// The writer has come to rest: the descriptor is never readable again, once nobody waits at it any more.
    pub(super) fn retire(&self) {
        *self.path_watch.lock() = None;
        if self.waiting.load(Ordering::SeqCst) == 0 {
            self.poller.retire();
        } else {
            self.poller.wake();
        }
    }

    fn path_has_appeared(&self) -> bool {
        let watch = self.path_watch.lock().clone();
        watch.is_some_and(|watch| !watch.take_changes().is_empty())
    }

    /// Watches for the socket to appear at `path`. True if it may have appeared in the moment before. Without an instance of
    /// inotify (128 a user by default) nothing is watched.
    pub(super) fn watch_path(&self, path: &Path) -> bool {
        let watch = self.make_watch();
        watch.is_some_and(|watch| watch.watch(ONLY_LISTENER, path, ()))
    }

    fn make_watch(&self) -> Option<Arc<PathWatch<()>>> {
        let mut watch = self.path_watch.lock();
        if watch.is_none() {
            let fresh = PathWatch::new().ok()?;
            self.poller.add(fresh.as_fd(), PATH, Interest::READABLE_EDGE).ok()?;
            *watch = Some(Arc::new(fresh));
        }
        watch.clone()
    }

    /// The writer is connected.
    pub(super) fn unwatch_path(&self) {
        *self.path_watch.lock() = None;
    }
}
