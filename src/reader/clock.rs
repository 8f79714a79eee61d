//! Time as one number, so that what decides by it can be tested without a clock.

use std::time::{Duration, Instant};

use crate::sys::ticks;
pub(super) use crate::sys::ticks::MOMENT;

/// A point in time, in nanoseconds since the reader was made.
pub(super) type Nanos = u64;

/// A duration as a number, the longest one if it does not fit.
pub(super) fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}

/// The clock of one reader.
#[derive(Debug)]
pub(super) struct Clock {
    pub(super) born: Instant,
    /// A test's own time.
    #[cfg(test)]
    pub(super) set: Option<std::sync::Arc<std::sync::atomic::AtomicU64>>,
}

impl Clock {
    pub(super) fn start() -> Clock {
        Clock {
            born: Instant::now(),
            #[cfg(test)]
            set: None,
        }
    }

    pub(super) fn now(&self) -> Nanos {
        #[cfg(test)]
        if let Some(set) = &self.set {
            return set.load(std::sync::atomic::Ordering::SeqCst);
        }
        nanos(self.born.elapsed())
    }

    /// A count that is cheaper to read than the time: see `sys::ticks`.
    #[inline]
    pub(super) fn ticks(&self) -> u64 {
        #[cfg(test)]
        if self.set.is_some() {
            return self.now();
        }
        ticks::now()
    }

    pub(super) fn instant(&self, at: Nanos) -> Instant {
        self.born + Duration::from_nanos(at)
    }

    pub(super) fn at(&self, instant: Instant) -> Nanos {
        nanos(instant.saturating_duration_since(self.born))
    }
}
