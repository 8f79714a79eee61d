//! Whether to look again before going to sleep.
//!
//! On a busy connection the next batch comes in a moment: to yield and look again is cheaper than to sleep and be woken,
//! for the other side too. Among a thousand busy ones the same yield is a switch to somebody else's thread, and in vain.
//! Which of the two it is shows by whether looking has paid lately.

/// How often it is worth looking, learnt from how it went.
#[derive(Debug)]
pub(crate) struct Patience {
    looks: u32,
    most: u32,
    /// How often nothing was tried since looking paid last.
    skipped: u32,
}

/// With no patience left, one look is tried this often.
const TRY_AGAIN: u32 = 16;

impl Patience {
    pub(crate) fn new(most: u32) -> Patience {
        Patience { looks: most, most, skipped: 0 }
    }

    /// Yields and looks, until `look` finds something or it does not pay any more. True if it was found.
    pub(crate) fn try_to_find(&mut self, mut look: impl FnMut() -> bool) -> bool {
        if self.looks == 0 {
            self.skipped += 1;
            if self.skipped < TRY_AGAIN {
                return false;
            }
            self.skipped = 0;
        }
        let found = (0..self.looks.max(1)).any(|_| {
            std::thread::yield_now();
            look()
        });
        self.looks = if found { self.most } else { self.looks / 2 };
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it looks when there is nothing.
    fn looks_in_vain(patience: &mut Patience) -> u32 {
        let mut looks = 0;
        assert!(!patience.try_to_find(|| {
            looks += 1;
            false
        }));
        looks
    }

    #[test]
    fn looking_in_vain_becomes_rare() {
        let mut patience = Patience::new(8);
        let looks: Vec<u32> = (0..5).map(|_| looks_in_vain(&mut patience)).collect();
        assert_eq!(looks, [8, 4, 2, 1, 0]);
        let later: u32 = (0..10 * TRY_AGAIN).map(|_| looks_in_vain(&mut patience)).sum();
        assert_eq!(later, 10);
    }

    #[test]
    fn looking_that_pays_is_done_again() {
        let mut patience = Patience::new(8);
        while looks_in_vain(&mut patience) > 0 {}
        assert!((0..TRY_AGAIN).any(|_| patience.try_to_find(|| true)));
        assert_eq!(looks_in_vain(&mut patience), 8);
    }
}
