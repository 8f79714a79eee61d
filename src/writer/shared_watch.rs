//! The watch of directories that all started writers of the process share, a task of the executor: a user has 128 instances of
//! inotify by default, so that each writer cannot have its own.

use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::executor::{Registration, Task, TaskState, Wakeup, Worker};
use crate::sys::event::Interest;
use crate::sys::fork::{self, NoFork};
use crate::sys::lock::Mutex;

use super::path_watch::PathWatch;

/// How long the last user waits for the executor's threads: they end in a moment, or are held by what does not answer.
const LEAVE_LONGEST: Duration = Duration::from_secs(1);

/// A writer that waits for its path.
pub(super) trait PathListener: Send + Sync {
    /// Called on a thread of the executor. Must not wait.
    fn path_appeared(self: Arc<Self>);
}

/// The watch of all started writers, a task of the executor.
pub(super) struct SharedWatch {
    paths: PathWatch<Weak<dyn PathListener>>,
    state: TaskState,
    registration: OnceLock<Registration>,
    /// How many writers use it. With the last one it leaves the executor.
    users: Mutex<usize>,
    fork: fork::Token,
}

/// The one that new writers share.
static CURRENT: Mutex<Weak<SharedWatch>> = Mutex::new(Weak::new());

/// A writer's use of the shared watch, which ends with it.
pub(super) struct WatchUser {
    shared: Arc<SharedWatch>,
    /// Tells this writer from all others that live.
    id: u64,
    /// Until when the last user waits for the executor, if not for [`LEAVE_LONGEST`].
    deadline: Option<Instant>,
}

impl WatchUser {
    /// Joins the process's watch, or makes it. `None` where there is none to be had: no instance of inotify, no memory.
    pub(super) fn join(id: u64) -> Option<WatchUser> {
        // So that no forked child inherits the lock from a thread that it does not have.
        let _no_fork = NoFork::enter();
        let mut current = CURRENT.lock();
        if let Some(shared) = current.upgrade().filter(|watch| watch.fork.is_current())
            && shared.add_user()
        {
            return Some(WatchUser { shared, id, deadline: None });
        }
        let shared = SharedWatch::new().ok()?;
        *current = Arc::downgrade(&shared);
        Some(WatchUser { shared, id, deadline: None })
    }

    /// See [`PathWatch::watch`].
    pub(super) fn watch(&self, path: &Path, listener: Weak<dyn PathListener>) -> bool {
        self.shared.paths.watch(self.id, path, listener)
    }

    /// The writer is connected.
    pub(super) fn forget(&self) {
        self.shared.paths.forget(self.id);
    }

    /// Ends the use, and waits until `deadline` at most.
    pub(super) fn leave(mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }
}

impl Drop for WatchUser {
    fn drop(&mut self) {
        self.forget();
        let is_last = {
            let mut users = self.shared.users.lock();
            *users -= 1;
            *users == 0
        };
        if is_last && let Some(registration) = self.shared.registration.get() {
            registration.leave(self.deadline.or_else(|| Instant::now().checked_add(LEAVE_LONGEST)));
        }
    }
}

impl SharedWatch {
    fn new() -> Result<Arc<SharedWatch>> {
        let resources = |source| Error::from_os("an inotify instance", source);
        let watch = Arc::new(SharedWatch {
            paths: PathWatch::new().map_err(resources)?,
            state: TaskState::default(),
            registration: OnceLock::new(),
            users: Mutex::new(1),
            fork: fork::Token::of_this_process().map_err(resources)?,
        });
        let task: Arc<dyn Task> = Arc::<SharedWatch>::clone(&watch);
        let registration = Registration::new(&task)?;
        if let Err(error) = registration.poller().add(watch.paths.as_fd(), registration.key(), Interest::READABLE_EDGE)
        {
            registration.leave(Instant::now().checked_add(LEAVE_LONGEST));
            return Err(resources(error));
        }
        let _ = watch.registration.set(registration);
        Ok(watch)
    }

    /// False if the last user has left.
    fn add_user(&self) -> bool {
        let mut users = self.users.lock();
        *users += usize::from(*users > 0);
        *users > 0
    }
}

impl Task for SharedWatch {
    fn state(&self) -> &TaskState {
        &self.state
    }

    fn run(self: Arc<Self>, _: Wakeup, _: &Worker<'_>) -> bool {
        self.paths.take_changes().iter().filter_map(Weak::upgrade).for_each(PathListener::path_appeared);
        true
    }

    fn panicked(&self) {}
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::fs;

    use super::*;

    struct Listener;

    impl PathListener for Listener {
        fn path_appeared(self: Arc<Self>) {}
    }

    #[test]
    fn a_user_that_ends_leaves_no_watch_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        let listener: Arc<dyn PathListener> = Arc::new(Listener);
        // Others of this process may use the shared one at the same time.
        let shared = SharedWatch::new().expect("inotify");
        let user = |id| WatchUser { shared: Arc::clone(&shared), id, deadline: None };
        let first = user(1);
        assert!(shared.add_user());
        let second = user(2);
        for (user, directory) in [(&first, "one"), (&second, "two")] {
            let directory = dir.path().join(directory);
            fs::create_dir(&directory).expect("a directory");
            assert!(user.watch(&directory.join("socket"), Arc::downgrade(&listener)));
        }
        assert_eq!(shared.paths.watches(), 2);
        drop(second);
        assert_eq!(shared.paths.watches(), 1);
        first.leave(Instant::now() + LEAVE_LONGEST);
        assert_eq!(shared.paths.watches(), 0);
    }
}
