//! What a reader does when its socket file is removed or replaced. A state machine: touches neither files nor clocks.
//!
//! 1. The file is the reader's own: nothing to do.
//! 2. The file has gone, or another file lies at the path: reported once. A pause follows, since another process that has
//!    removed the file may be about to listen there.
//! 3. After the pause the reader tries to listen at the path again. If that fails, because another process listens there or the
//!    directory has gone, it tries again after pauses that double.
//! 4. After the path has been given back, nothing is checked.

use std::time::{Duration, Instant};

use crate::claim::FileState;

/// The pause before the first attempt: a restart of another program's reader takes a few milliseconds from unlink(2) to
/// bind(2).
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What is known of the socket file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// The reader's own, at the last check.
    Present,
    /// To be checked with the next timer.
    Unchecked,
    /// Removed or replaced.
    Lost {
        /// When to try next.
        next: Instant,
        pause: Duration,
        failure_reported: bool,
    },
    /// The reader stops.
    GivenBack,
}

/// What to do after a check of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    /// Report that the file has gone, and check again at this time.
    Report(Instant),
    /// Check again at this time.
    Wait(Instant),
    /// Listen at the path, and call [`Presence::relistened`] or [`Presence::failed`].
    Relisten,
}

impl Presence {
    /// Takes the result of a check of the path; `None` if the check failed.
    pub(super) fn observe(&mut self, state: Option<FileState>, now: Instant) -> Action {
        match (*self, state) {
            (Presence::GivenBack, _) | (Presence::Present | Presence::Unchecked, None) => Action::Nothing,
            (_, Some(FileState::Ours)) => {
                *self = Presence::Present;
                Action::Nothing
            }
            (Presence::Present | Presence::Unchecked, Some(FileState::Missing | FileState::Foreign)) => {
                let next = now + FIRST_PAUSE;
                *self = Presence::Lost { next, pause: FIRST_PAUSE, failure_reported: false };
                Action::Report(next)
            }
            (Presence::Lost { next, .. }, _) if now < next => Action::Wait(next),
            (Presence::Lost { .. }, None) => Action::Wait(self.postpone(now)),
            (Presence::Lost { .. }, Some(FileState::Missing | FileState::Foreign)) => Action::Relisten,
        }
    }

    /// Whether a check is due without an event. If not, when the next one is.
    pub(super) fn due(&self, now: Instant) -> Result<(), Option<Instant>> {
        match *self {
            Presence::Unchecked => Ok(()),
            Presence::Lost { next, .. } if next <= now => Ok(()),
            Presence::Lost { next, .. } => Err(Some(next)),
            Presence::Present | Presence::GivenBack => Err(None),
        }
    }

    /// The reader listens at the path again.
    pub(super) fn relistened(&mut self) {
        *self = Presence::Present;
    }

    /// Listening at the path failed. Returns when to check again, and whether to report the error: the first one other than
    /// "address in use" is reported.
    pub(super) fn failed(&mut self, in_use: bool, now: Instant) -> (Instant, bool) {
        let next = self.postpone(now);
        match self {
            Presence::Lost { failure_reported, .. } if !in_use => (next, !std::mem::replace(failure_reported, true)),
            _ => (next, false),
        }
    }

    fn postpone(&mut self, now: Instant) -> Instant {
        let Presence::Lost { next, pause, .. } = self else { return now };
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        *next = now + *pause;
        *next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn lost(now: Instant) -> Presence {
        let mut presence = Presence::Present;
        assert_eq!(presence.observe(Some(FileState::Missing), now), Action::Report(now + FIRST_PAUSE));
        presence
    }

    #[test]
    fn a_file_that_is_there_asks_for_nothing() {
        let now = Instant::now();
        let mut presence = Presence::Present;
        for state in [Some(FileState::Ours), None] {
            assert_eq!(presence.observe(state, now), Action::Nothing);
            assert_eq!((presence, presence.due(now)), (Presence::Present, Err(None)));
        }
    }

    #[test]
    fn what_was_not_checked_is_due_at_once() {
        let now = Instant::now();
        let mut presence = Presence::Unchecked;
        assert_eq!(presence.due(now), Ok(()));
        assert_eq!(presence.observe(Some(FileState::Foreign), now), Action::Report(now + FIRST_PAUSE));
        let mut presence = Presence::Unchecked;
        assert_eq!(presence.observe(Some(FileState::Ours), now), Action::Nothing);
        assert_eq!(presence.due(now), Err(None));
    }

    #[test]
    fn a_loss_is_reported_once_and_followed_by_an_attempt_after_the_pause() {
        let now = Instant::now();
        for gone in [FileState::Missing, FileState::Foreign] {
            let mut presence = Presence::Present;
            let next = now + FIRST_PAUSE;
            assert_eq!(presence.observe(Some(gone), now), Action::Report(next));
            assert_eq!(presence.due(now), Err(Some(next)));
            assert_eq!(presence.observe(Some(gone), now + MS), Action::Wait(next));
            assert_eq!(presence.observe(None, now + MS), Action::Wait(next));
            assert_eq!(presence.due(next), Ok(()));
            assert_eq!(presence.observe(Some(gone), next), Action::Relisten);
            presence.relistened();
            assert_eq!(presence.due(next), Err(None));
            // A second loss is another one.
            assert_eq!(presence.observe(Some(gone), next), Action::Report(next + FIRST_PAUSE));
        }
    }

    #[test]
    fn pauses_between_attempts_double_up_to_the_longest() {
        let mut now = Instant::now();
        let mut presence = lost(now);
        let mut pause = FIRST_PAUSE;
        for _ in 0..10 {
            now = presence.failed(true, now).0;
            pause = (pause * 2).min(LONGEST_PAUSE);
            assert_eq!(presence.due(now - MS), Err(Some(now)));
            assert_eq!(presence.due(now), Ok(()));
            assert_eq!(presence.observe(Some(FileState::Foreign), now), Action::Relisten);
        }
        assert_eq!(pause, LONGEST_PAUSE);
        let Action::Wait(next) = presence.observe(None, now) else { panic!("{presence:?}") };
        assert_eq!(next, now + LONGEST_PAUSE, "a path that cannot be looked at is looked at later");
    }

    #[test]
    fn somebody_else_is_no_failure_and_a_failure_is_reported_once() {
        let now = Instant::now();
        let mut presence = lost(now);
        assert!(!presence.failed(true, now).1);
        assert!(presence.failed(false, now).1);
        assert!(!presence.failed(false, now).1);
        assert!(!presence.failed(true, now).1);
        let mut next_loss = lost(now);
        assert!(next_loss.failed(false, now).1);
    }

    #[test]
    fn a_file_that_comes_back_ends_the_loss() {
        let now = Instant::now();
        let mut presence = lost(now);
        assert_eq!(presence.observe(Some(FileState::Ours), now + MS), Action::Nothing);
        assert_eq!(presence, Presence::Present);
    }

    #[test]
    fn a_path_that_was_given_back_asks_for_nothing_any_more() {
        let now = Instant::now();
        let mut presence = Presence::GivenBack;
        for state in [None, Some(FileState::Ours), Some(FileState::Missing), Some(FileState::Foreign)] {
            assert_eq!(presence.observe(state, now), Action::Nothing);
            assert_eq!((presence, presence.due(now)), (Presence::GivenBack, Err(None)));
        }
    }
}
