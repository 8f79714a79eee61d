//! How often to poll before a sleep, adapted to how often polling has succeeded.
//!
//! On a busy connection the next batch arrives within microseconds: yielding and polling again is cheaper than a sleep and
//! a wake-up, for the peer too. With a thousand busy connections the yield switches to another thread, and the poll finds
//! nothing. A poll that found something sets the number of polls to the maximum; a failure halves it.

/// The number of polls before the next sleep.
#[derive(Debug)]
pub(crate) struct AdaptiveSpin {
    polls: u32,
    max_polls: u32,
    /// Calls without a poll since the last one with polls.
    skipped: u32,
}

/// When the number of polls has dropped to 0, one call in this many still polls once.
const TRY_AGAIN: u32 = 16;

impl AdaptiveSpin {
    pub(crate) fn new(max_polls: u32) -> AdaptiveSpin {
        AdaptiveSpin { polls: max_polls, max_polls, skipped: 0 }
    }

    /// Yields and polls until `poll` returns true or the number of polls is used up. True if `poll` did.
    pub(crate) fn spin_until(&mut self, mut poll: impl FnMut() -> bool) -> bool {
        if self.polls == 0 {
            self.skipped += 1;
            if self.skipped < TRY_AGAIN {
                return false;
            }
            self.skipped = 0;
        }
        let found = (0..self.polls.max(1)).any(|_| {
            std::thread::yield_now();
            poll()
        });
        self.polls = if found { self.max_polls } else { self.polls / 2 };
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it polls when there is nothing.
    fn vain_polls(spin: &mut AdaptiveSpin) -> u32 {
        let mut polls = 0;
        assert!(!spin.spin_until(|| {
            polls += 1;
            false
        }));
        polls
    }

    #[test]
    fn polling_in_vain_becomes_rare() {
        let mut spin = AdaptiveSpin::new(8);
        let polls: Vec<u32> = (0..5).map(|_| vain_polls(&mut spin)).collect();
        assert_eq!(polls, [8, 4, 2, 1, 0]);
        let later: u32 = (0..10 * TRY_AGAIN).map(|_| vain_polls(&mut spin)).sum();
        assert_eq!(later, 10);
    }

    #[test]
    fn polling_that_succeeds_is_done_again() {
        let mut spin = AdaptiveSpin::new(8);
        while vain_polls(&mut spin) > 0 {}
        assert!((0..TRY_AGAIN).any(|_| spin.spin_until(|| true)));
        assert_eq!(vain_polls(&mut spin), 8);
    }
}
