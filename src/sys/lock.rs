//! Mutex and condition variable: the standard library's, which a forked child can create and use.
//!
//! The standard library's locks are futexes (futex(2)) without shared state. `parking_lot` keeps all waiting threads in one
//! table of the process: a child of fork(2) would find threads in it that do not exist there, and its own handles would hang
//! or crash. ThreadSanitizer does not see into the standard library, so under `--cfg thread_sanitizer` the locks are
//! `parking_lot`'s.
//!
//! A `static` lock may be locked at fork(2) by a thread that does not exist in the child. So such a lock is taken under
//! [`NoFork`](super::fork::NoFork), or only tried.
//!
//! A panic while a lock is held does not poison it: a handle that a panic has broken records that itself
//! (`Ending::Panicked`).

pub(crate) use locks::{Condvar, Mutex, MutexGuard};

#[cfg(not(thread_sanitizer))]
mod locks {
    use std::sync::{PoisonError, TryLockError};
    use std::time::Instant;

    pub(crate) use std::sync::MutexGuard;

    /// How often a contended lock is tried before the thread sleeps.
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

        /// Yields before it sleeps: contended locks are held for less than a microsecond, and the holder may need this
        /// processor. A sleep and a wake-up would cost both threads more, and leave the lock unused meanwhile.
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
