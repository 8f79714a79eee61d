//! Locks, condition variables, channels and atomics of what `writer::model` tries in every interleaving: those that all
//! others use (`sys::lock`, `crossbeam-channel`, the standard library), or under `--cfg loom` what takes their place.

#[cfg(not(loom))]
pub(crate) use {
    crate::sys::lock::{Condvar, Mutex},
    crossbeam_channel::{Receiver, Sender, bounded},
    std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence},
};

#[cfg(loom)]
pub(crate) use {
    loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence},
    substitutes::{Condvar, Mutex, Receiver, Sender, bounded},
};

/// The same interfaces on loom's primitives.
#[cfg(loom)]
mod substitutes {
    use std::collections::VecDeque;
    use std::time::Instant;

    use loom::sync::{Arc, MutexGuard};

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
        /// Time does not pass in a model: what is not notified waits for ever.
        pub(crate) fn wait_until<'a, T>(&self, held: MutexGuard<'a, T>, _deadline: Instant) -> MutexGuard<'a, T> {
            self.0.wait(held).expect("no panic")
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    #[derive(Debug)]
    pub(crate) struct Sender<T>(Arc<Mutex<VecDeque<T>>>);
    #[derive(Debug)]
    pub(crate) struct Receiver<T>(Arc<Mutex<VecDeque<T>>>);

    pub(crate) fn bounded<T>(_capacity: usize) -> (Sender<T>, Receiver<T>) {
        let queue = Arc::new(Mutex::new(VecDeque::new()));
        (Sender(Arc::clone(&queue)), Receiver(queue))
    }

    impl<T> Sender<T> {
        pub(crate) fn try_send(&self, value: T) -> Result<(), T> {
            self.0.lock().push_back(value);
            Ok(())
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn try_recv(&self) -> Result<T, ()> {
            self.0.lock().pop_front().ok_or(())
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.0.lock().is_empty()
        }
    }
}
