//! Locks, condition variables and atomics for the code that `writer::model` and `executor::model` run in every interleaving.
//! Those of `sys::lock` and the standard library; under `--cfg loom` those of loom.

#[cfg(not(loom))]
pub(crate) use {
    crate::sys::lock::{Condvar, Mutex, MutexGuard},
    crate::sys::thread::ThreadId,
    std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence},
};

#[cfg(loom)]
pub(crate) use {
    loom::sync::MutexGuard,
    loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence},
    loom::thread::ThreadId,
    substitutes::{Condvar, Mutex},
};

/// By loom in a model, which runs all its threads on one thread of the system.
pub(crate) fn current_thread_id() -> ThreadId {
    #[cfg(not(loom))]
    return ThreadId::current();
    #[cfg(loom)]
    return loom::thread::current().id();
}

/// The same interfaces on loom's primitives.
#[cfg(loom)]
mod substitutes {
    use std::time::Instant;

    use loom::sync::MutexGuard;

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Mutex<T> {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("no panic")
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub(crate) fn wait<'a, T>(&self, held: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(held).expect("no panic")
        }

        /// Time does not pass in a model: what is not notified waits for ever.
        pub(crate) fn wait_until<'a, T>(&self, held: MutexGuard<'a, T>, _deadline: Instant) -> MutexGuard<'a, T> {
            self.0.wait(held).expect("no panic")
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}
