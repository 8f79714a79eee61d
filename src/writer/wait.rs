//! The one way to wait: flush, a write with a timeout, and stop.
//!
//! A waiting caller checks its condition in small steps, whichever thread drives the writer. An event that is lost, or that
//! another thread of the host has taken, costs one step and never the deadline. A caller that waits on a dispatched writer
//! drives it meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::lifecycle::{DrivenBy, Phase};

use super::driver::{Driver, Progress};

/// How long a caller waits at first between two looks where nothing wakes it, and at most.
pub(super) const SHORT_STEP: Duration = Duration::from_micros(100);
pub(super) const LONG_STEP: Duration = Duration::from_millis(5);

/// Looks until `done` has an answer, or gives up at `deadline` (`None`: never). Between the looks `pause` waits for up to the
/// time that it is given, `first_step` and then longer, or less if it hears of something; in a host's event loop the writer is
/// driven instead.
pub(super) fn until<T>(
    driver: &Arc<Driver>,
    deadline: Option<Instant>,
    first_step: Duration,
    mut done: impl FnMut() -> Option<T>,
    pause: impl Fn(Duration),
) -> Option<T> {
    let mut awaiting = None;
    let mut was_connected = false;
    let mut step = first_step;
    loop {
        if let Some(answer) = done() {
            return Some(answer);
        }
        let left = deadline.map_or(step, |deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return None;
        }
        awaiting.get_or_insert_with(|| driver.await_progress());
        // The step that lost the connection may have been taken before this caller was seen to wait.
        let is_connected = driver.is_connected();
        if was_connected && !is_connected {
            driver.notify();
        }
        was_connected = is_connected;
        let now = step.min(left);
        match driver.lifecycle.driven_by() {
            // A wait that fails at once (somebody has closed the descriptors) must not become a busy loop.
            DrivenBy::Host if driver.drive_after_wait(Some(now)).is_ok() => {}
            _ => pause(now),
        }
        step = (step * 2).min(LONG_STEP);
    }
}

/// Waits until the writer has come to rest, driving it meanwhile: threads of the executor may be busy with other writers, or
/// gone. The session itself keeps the stop's time.
pub(super) fn until_stopped(driver: &Arc<Driver>) {
    let is_stopped = || {
        if driver.lifecycle.driven_by() != DrivenBy::Nobody {
            while driver.drive() == Progress::Again {}
        }
        (driver.lifecycle.phase() == Phase::Stopped).then_some(())
    };
    until(driver, None, SHORT_STEP, is_stopped, |step| driver.lifecycle.wait_for_end(step));
}
