//! How long a turn may take: checked after every callback and every read. Pure: the caller passes the time.
//!
//! A turn ends after [`TURN_TIME`], after [`TURN_BYTES`], at the deadline of a stop, or when a stop is cut short,
//! whichever comes first; the callback that is running then is the last one.
//!
//! Reading the clock costs as much as a whole tiny callback. So after a callback only the processor's ticks are
//! counted, and the clock is read when they say that a moment has passed since it was read last. Even that is a third
//! of a tiny callback: as long as callbacks are fast, [`STRIDE`] of them share it. After a slow one each is looked at
//! by itself, for [`CAUTIOUS`] callbacks.

use std::time::Duration;

use super::clock::{Clock, MOMENT, Nanos};
use super::drain::Drain;

/// A busy connection gives its thread free after this much time or this many bytes, so that others are served.
const TURN_TIME: Nanos = Duration::from_millis(5).as_nanos() as Nanos;
const TURN_BYTES: usize = 1 << 20;

/// The number of fast callbacks that share one reading of the ticks.
const STRIDE: u32 = 8;
/// The number of callbacks after a slow one for which the ticks are read after each.
const CAUTIOUS: u32 = 1_000;

/// Whether callbacks of earlier turns were slow.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Pace {
    /// The number of callbacks that are still checked one by one.
    cautious: u32,
}

#[cfg(test)]
impl Pace {
    pub(super) fn seen_slow() -> Pace {
        Pace { cautious: CAUTIOUS }
    }
}

/// What the turn does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TurnStatus {
    Continue,
    /// Others are to be served; this connection gets another turn.
    TurnOver,
    /// The stop is cut short: no further callback.
    Cancelled,
}

/// The time of one turn, or of all turns in one call of `dispatch`.
#[derive(Debug)]
pub(super) struct Budget<'a> {
    drain: &'a Drain,
    ends_at: Nanos,
    bytes_left: usize,
    /// The ticks when the clock was read last, and when they were counted last.
    read_at: u64,
    counted_at: u64,
    /// The number of callbacks until the ticks are read again.
    calls_left: u32,
    pace: Pace,
}

impl<'a> Budget<'a> {
    /// `deadline`: that of a stop, if one has begun.
    pub(super) fn new(drain: &'a Drain, now: Nanos, deadline: Option<Nanos>) -> Budget<'a> {
        let ends_at = now.saturating_add(TURN_TIME).min(deadline.unwrap_or(Nanos::MAX));
        Budget {
            drain,
            ends_at,
            bytes_left: TURN_BYTES,
            read_at: 0,
            counted_at: 0,
            calls_left: 1,
            pace: Pace::default(),
        }
    }

    /// The next connection's turn within the same time.
    pub(super) fn next_turn(&mut self) {
        self.bytes_left = TURN_BYTES;
    }

    /// What a turn with the same buffer is to know about callbacks.
    pub(super) fn pace(&mut self) -> &mut Pace {
        &mut self.pace
    }

    /// Callbacks follow now.
    pub(super) fn begin_callbacks(&mut self, ticks: u64) {
        self.counted_at = ticks;
        self.calls_left = if self.pace.cautious == 0 { STRIDE } else { 1 };
    }

    /// After a callback with one message.
    #[inline]
    pub(super) fn after_callback(&mut self, clock: &Clock) -> TurnStatus {
        self.calls_left -= 1;
        if self.calls_left > 0 && !self.drain.is_cancelled() { TurnStatus::Continue } else { self.count(clock) }
    }

    /// After a callback that may well have been slow: for a batch, or for an error.
    pub(super) fn after_long_callback(&mut self, clock: &Clock) -> TurnStatus {
        self.count(clock)
    }

    #[cold]
    #[inline(never)]
    fn count(&mut self, clock: &Clock) -> TurnStatus {
        let ticks = clock.ticks();
        let slow = ticks.wrapping_sub(self.counted_at) >= MOMENT;
        self.pace.cautious = if slow { CAUTIOUS } else { self.pace.cautious.saturating_sub(1) };
        self.begin_callbacks(ticks);
        if ticks.wrapping_sub(self.read_at) < MOMENT && !self.drain.is_cancelled() {
            return TurnStatus::Continue;
        }
        self.read_at = ticks;
        self.check(clock.now())
    }

    /// After `bytes` have been read and handled.
    pub(super) fn after_read(&mut self, bytes: usize, now: Nanos) -> TurnStatus {
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        match self.check(now) {
            TurnStatus::Continue if self.bytes_left == 0 => TurnStatus::TurnOver,
            status => status,
        }
    }

    /// Whether a turn may begin or go on.
    pub(super) fn check(&self, now: Nanos) -> TurnStatus {
        if self.drain.is_cancelled() {
            TurnStatus::Cancelled
        } else if now >= self.ends_at {
            TurnStatus::TurnOver
        } else {
            TurnStatus::Continue
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const MS: Nanos = 1_000_000;

    /// A clock that the test sets, with a tick per nanosecond.
    fn fake_clock(now: Nanos) -> (Clock, Arc<AtomicU64>) {
        let set = Arc::new(AtomicU64::new(now));
        (Clock { set: Some(Arc::clone(&set)), ..Clock::start() }, set)
    }

    /// Callbacks that take `each`: how many run in a turn, and how long it takes.
    fn turn_at(pace: &mut Pace, each: impl Fn(u32) -> Nanos) -> (u32, Nanos) {
        let drain = Drain::default();
        let (clock, now) = fake_clock(7 * MS);
        let mut budget = Budget::new(&drain, clock.now(), None);
        *budget.pace() = *pace;
        budget.begin_callbacks(clock.ticks());
        for calls in 1.. {
            now.fetch_add(each(calls - 1), Ordering::SeqCst);
            let status = budget.after_callback(&clock);
            if status != TurnStatus::Continue {
                assert_eq!(status, TurnStatus::TurnOver);
                *pace = *budget.pace();
                return (calls, clock.now() - 7 * MS);
            }
        }
        unreachable!()
    }

    fn turn(each: impl Fn(u32) -> Nanos) -> (u32, Nanos) {
        turn_at(&mut Pace::seen_slow(), each)
    }

    #[test]
    fn slow_callbacks_end_a_turn_with_the_one_that_runs_when_the_time_is_up() {
        assert_eq!(turn(|_| MS), (5, 5 * MS));
        assert_eq!(turn(|_| 3 * MS), (2, 6 * MS));
        assert_eq!(turn(|_| 1_000 * MS), (1, 1_000 * MS));
        assert_eq!(turn(|call| if call < CAUTIOUS - 1 { 50 } else { MS }).0, CAUTIOUS - 1 + 5);
        assert_eq!(turn(|call| if call == 40 { 5 * MS } else { 50 }).0, 41);
    }

    #[test]
    fn the_first_slow_callback_is_noticed_within_a_stride_and_remembered_from_turn_to_turn() {
        let mut pace = Pace::default();
        let (calls, _) = turn_at(&mut pace, |_| 100 * MS);
        assert_eq!(calls, STRIDE);
        for _ in 0..100 {
            let (calls, _) = turn_at(&mut pace, |call| if call < 90 { 50 } else { 100 * MS });
            assert_eq!(calls, 91, "each is looked at");
        }
        turn_at(&mut pace, |_| 50);
        assert_eq!(pace.cautious, 0, "forgotten after many fast ones");
    }

    #[test]
    fn fast_callbacks_end_in_time_too() {
        let (calls, time) = turn_at(&mut Pace::default(), |_| 50);
        let moment = MOMENT.max(1);
        assert!((5 * MS..5 * MS + moment + 50 * Nanos::from(STRIDE)).contains(&time), "{time} after {calls}");
    }

    #[test]
    fn a_turn_ends_after_so_many_bytes_and_the_next_one_has_as_many() {
        let drain = Drain::default();
        let mut budget = Budget::new(&drain, 0, None);
        assert_eq!(budget.after_read(TURN_BYTES - 1, 1), TurnStatus::Continue);
        assert_eq!(budget.after_read(1, 1), TurnStatus::TurnOver);
        budget.next_turn();
        assert_eq!(budget.after_read(TURN_BYTES - 1, 3), TurnStatus::Continue);
        assert_eq!(budget.after_read(0, TURN_TIME), TurnStatus::TurnOver);
        assert_eq!(budget.check(TURN_TIME - 1), TurnStatus::Continue);
    }

    #[test]
    fn a_deadline_ends_a_turn_early_and_a_stop_that_is_cut_short_at_once() {
        let drain = Drain::default();
        let budget = Budget::new(&drain, 0, Some(MS));
        assert_eq!((budget.check(MS - 1), budget.check(MS)), (TurnStatus::Continue, TurnStatus::TurnOver));
        let (clock, _) = fake_clock(1);
        let mut budget = Budget::new(&drain, 0, None);
        budget.begin_callbacks(1);
        for _ in 0..5 {
            assert_eq!(budget.after_callback(&clock), TurnStatus::Continue);
        }
        drain.cancel();
        assert_eq!(budget.after_callback(&clock), TurnStatus::Cancelled, "in the middle of a stride");
        assert_eq!(budget.after_long_callback(&clock), TurnStatus::Cancelled);
        assert_eq!(budget.after_read(1, 1), TurnStatus::Cancelled);
        assert_eq!(budget.check(TURN_TIME), TurnStatus::Cancelled);
    }
}
