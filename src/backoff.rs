//! The pause before the next attempt to connect. Pure: the random number is an argument.

use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST_FIRST: Duration = Duration::from_millis(20);

/// The pause before an attempt that follows `failures` failures in a row: none after none, 5 to 20 ms after one, twice
/// that after each further one, never above `cap`. `random` spreads the attempts of many writers whose reader restarts.
pub(crate) fn delay(failures: u32, cap: Duration, random: u32) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
    let factor = 1_u32.checked_shl(doublings.min(31)).unwrap_or(u32::MAX);
    let high = LONGEST_FIRST.saturating_mul(factor).min(cap);
    // At the cap a quarter of the pause is random.
    let low = SHORTEST.saturating_mul(factor).min(high - high / 4);
    low + (high - low).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAP: Duration = Duration::from_secs(10);

    #[test]
    fn the_first_attempt_is_immediate_and_the_second_is_quick() {
        assert_eq!(delay(0, CAP, u32::MAX), Duration::ZERO);
        assert_eq!(delay(1, CAP, 0), Duration::from_millis(5));
        assert_eq!(delay(1, CAP, u32::MAX), Duration::from_millis(20));
        assert_eq!(delay(2, CAP, 0), Duration::from_millis(10));
        assert_eq!(delay(3, CAP, u32::MAX), Duration::from_millis(80));
    }

    proptest! {
        #[test]
        fn it_grows_to_the_cap_and_never_beyond(failures in 1_u32.., cap_ms in 1_u64..=100_000, random in any::<u32>()) {
            let cap = Duration::from_millis(cap_ms);
            let now = delay(failures, cap, random);
            prop_assert!(now <= cap);
            prop_assert!(delay(failures.saturating_add(1), cap, random) >= now);
            prop_assert!(!now.is_zero());
        }
    }
}
