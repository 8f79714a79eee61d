//! Calls of the library are no cancellation points (pthread_cancel(3)).

use std::ffi::c_int;

/// PTHREAD_CANCEL_DISABLE of `<pthread.h>`, the same in glibc and musl.
const DISABLE: c_int = 1;

unsafe extern "C" {
    // Not in the `libc` crate.
    safe fn pthread_setcancelstate(state: c_int, before: Option<&mut c_int>) -> c_int;
}

/// Runs `body` with cancellation disabled: a cancellation unwinds from inside a system call through Rust frames, which do not
/// expect that. A cancellation requested meanwhile takes effect at the next cancellation point of the host.
#[inline]
pub(crate) fn without_cancellation<T>(body: impl FnOnce() -> T) -> T {
    let _restored = Restored::disable();
    body()
}

struct Restored(c_int);

impl Restored {
    #[inline]
    fn disable() -> Restored {
        let mut before = DISABLE;
        pthread_setcancelstate(DISABLE, Some(&mut before));
        Restored(before)
    }
}

impl Drop for Restored {
    #[inline]
    fn drop(&mut self) {
        if self.0 != DISABLE {
            pthread_setcancelstate(self.0, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ENABLE is 0 in glibc and musl.
    const ENABLE: c_int = 0;

    fn state() -> c_int {
        let mut now = -1;
        pthread_setcancelstate(DISABLE, Some(&mut now));
        pthread_setcancelstate(now, None);
        now
    }

    #[test]
    fn cancellation_is_off_inside_and_as_before_afterwards() {
        assert_eq!(state(), ENABLE);
        without_cancellation(|| {
            assert_eq!(state(), DISABLE);
            without_cancellation(|| assert_eq!(state(), DISABLE));
            assert_eq!(state(), DISABLE, "an inner call gives back what it found");
        });
        assert_eq!(state(), ENABLE);
        let panicked = std::panic::catch_unwind(|| without_cancellation(|| panic!("deliberate")));
        assert!(panicked.is_err());
        assert_eq!(state(), ENABLE, "also after a panic");
    }
}
