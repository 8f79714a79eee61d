//! Locks and condition variables that a forked child can make and use: the standard library's. A lock that is shared by
//! the whole process (`static`) can still be held by a thread that the child does not have: what all handles need is only
//! tried.
//!
//! Those are futexes (futex(2)) and nothing else. `parking_lot` keeps who waits in one table of the whole process: after
//! fork(2) a child would find threads in it that do not exist there, and handles that it made itself would hang or crash.
//! ThreadSanitizer does not see into the standard library, so under `--cfg thread_sanitizer` they are `parking_lot`'s.
//!
//! A panic while a lock is held does not poison it: what a panic of ours breaks says so itself (`Ending::Panicked`).

pub(crate) use locks::{Condvar, Mutex, MutexGuard};

#[cfg(not(thread_sanitizer))]
mod locks {
    use std::sync::{PoisonError, TryLockError};
    use std::time::Instant;

    pub(crate) use std::sync::MutexGuard;

    /// How often a lock is looked at before its thread goes to sleep.
    const YIELDS: u32 = 10;

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) const fn new(value: T) -> Mutex<T> {
            Mutex(std::sync::Mutex::new(value))
        }

        #[inline]
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.try_lock().unwrap_or_else(|| self.lock_contended())
        }

        /// The locks that many want are held for less than a microsecond. Who waits gives its processor to the holder first,
        /// which may need it: to sleep and be woken would cost both more, and let the lock idle meanwhile.
        #[cold]
        fn lock_contended(&self) -> MutexGuard<'_, T> {
            let found = (0..YIELDS).find_map(|_| {
                std::thread::yield_now();
                self.try_lock()
            });
            found.unwrap_or_else(|| self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }

        #[inline]
        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            match self.0.try_lock() {
                Ok(held) => Some(held),
                Err(TryLockError::Poisoned(held)) => Some(held.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            }
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(std::sync::Condvar);

    impl Condvar {
        pub(crate) fn wait<'a, T>(&self, held: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(held).unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn wait_until<'a, T>(&self, held: MutexGuard<'a, T>, deadline: Instant) -> MutexGuard<'a, T> {
            let left = deadline.saturating_duration_since(Instant::now());
            self.0.wait_timeout(held, left).unwrap_or_else(PoisonError::into_inner).0
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}

#[cfg(thread_sanitizer)]
mod locks {
    use std::time::Instant;

    pub(crate) use parking_lot::{Mutex, MutexGuard};

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(parking_lot::Condvar);

    impl Condvar {
        pub(crate) fn wait<'a, T>(&self, mut held: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(&mut held);
            held
        }

        pub(crate) fn wait_until<'a, T>(&self, mut held: MutexGuard<'a, T>, deadline: Instant) -> MutexGuard<'a, T> {
            self.0.wait_until(&mut held, deadline);
            held
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}
