//! [`OnceBox`]: a value in memory of its own that may come later. As `OnceLock<Box<T>>`, in half of the space.

use std::fmt;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Nothing, or one value, which stays.
pub(crate) struct OnceBox<T>(AtomicPtr<T>, PhantomData<Box<T>>);

impl<T> OnceBox<T> {
    pub(crate) const fn new() -> OnceBox<T> {
        OnceBox(AtomicPtr::new(ptr::null_mut()), PhantomData)
    }

    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        // SAFETY: null, or from `Box::into_raw` and not freed before `self` is dropped. Nobody has a mutable reference to it.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Keeps `value`, unless there is one already.
    pub(crate) fn set(&self, value: T) {
        let new = Box::into_raw(Box::new(value));
        if self.0.compare_exchange(ptr::null_mut(), new, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            // SAFETY: from `Box::into_raw` above, and nobody else has it.
            drop(unsafe { Box::from_raw(new) });
        }
    }
}

impl<T> Drop for OnceBox<T> {
    fn drop(&mut self) {
        let value = *self.0.get_mut();
        if !value.is_null() {
            // SAFETY: from `Box::into_raw`, and `self`, from which all references are, ends here.
            drop(unsafe { Box::from_raw(value) });
        }
    }
}

// SAFETY: sent with the value that it owns.
unsafe impl<T: Send> Send for OnceBox<T> {}
// SAFETY: `get` shares the value, and `set` sends one from a thread to the one that drops it.
unsafe impl<T: Send + Sync> Sync for OnceBox<T> {}

impl<T: fmt::Debug> fmt::Debug for OnceBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_first_value_stays_and_every_value_is_dropped_once() {
        let (first, second) = (Arc::new(1), Arc::new(2));
        let once = OnceBox::new();
        assert!(once.get().is_none());
        once.set(Arc::clone(&first));
        once.set(Arc::clone(&second));
        assert_eq!(once.get(), Some(&first));
        assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (2, 1));
        drop(once);
        assert_eq!(Arc::strong_count(&first), 1);
        drop(OnceBox::<Arc<u8>>::new());
    }
}
