//! Processes that send what cannot be taken, again and again.
//!
//! A writer of the Go library sends a message that is too large for ever: connect, send, be closed, connect; thousands of
//! times a second. So a process with some offences in the last second waits before its next connection is served. Nothing
//! is lost by that: what it sends stays in its socket.

use std::collections::VecDeque;
use std::time::Duration;

use super::table::Nanos;

/// For how long an offence is remembered, and how many of one process are let pass in that time.
const MEMORY: Nanos = Duration::from_secs(1).as_nanos() as Nanos;
const PATIENCE: usize = 8;
/// How long a connection of an offender waits.
const PENALTY: Nanos = Duration::from_millis(100).as_nanos() as Nanos;
/// How many offences are remembered at most.
const MOST: usize = 256;

/// Recent offences, and the connections that wait for being served.
#[derive(Debug, Default)]
pub(super) struct Offenders {
    offences: VecDeque<(Nanos, i32)>,
    /// By id: one that is closed meanwhile keeps no descriptor.
    waiting: VecDeque<(Nanos, u64)>,
}

impl Offenders {
    /// The process `pid` has sent what cannot be taken.
    pub(super) fn note(&mut self, pid: i32, now: Nanos) {
        self.forget(now);
        if self.offences.len() == MOST {
            self.offences.pop_front();
        }
        self.offences.push_back((now, pid));
    }

    /// Whether there is anybody to look out for.
    pub(super) fn any(&self) -> bool {
        self.offences.len() >= PATIENCE
    }

    /// Until when a new connection of this process has to wait, if it has.
    pub(super) fn penalty(&mut self, pid: i32, now: Nanos) -> Option<Nanos> {
        self.forget(now);
        let offences = self.offences.iter().filter(|(_, offender)| *offender == pid).count();
        (offences >= PATIENCE).then_some(now + PENALTY)
    }

    /// Lets a connection wait.
    pub(super) fn hold(&mut self, id: u64, until: Nanos) {
        self.waiting.push_back((until, id));
    }

    /// A connection that has waited long enough.
    pub(super) fn release(&mut self, now: Nanos) -> Option<u64> {
        let (until, id) = *self.waiting.front()?;
        if until > now {
            return None;
        }
        self.waiting.pop_front();
        Some(id)
    }

    /// When the next one has.
    pub(super) fn next_release(&self) -> Option<Nanos> {
        self.waiting.front().map(|(until, _)| *until)
    }

    fn forget(&mut self, now: Nanos) {
        while self.offences.front().is_some_and(|(at, _)| at.saturating_add(MEMORY) <= now) {
            self.offences.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_waits_after_some_offences_and_is_forgiven_after_a_while() {
        let mut offenders = Offenders::default();
        for at in 0..PATIENCE as Nanos {
            assert_eq!(offenders.penalty(1, at), None);
            offenders.note(1, at);
        }
        let now = PATIENCE as Nanos;
        assert_eq!(offenders.penalty(1, now), Some(now + PENALTY));
        assert_eq!(offenders.penalty(2, now), None);
        assert_eq!(offenders.penalty(1, now + MEMORY), None);
        assert!(!offenders.any());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut offenders = Offenders::default();
        for pid in 0..10_000 {
            offenders.note(pid, 0);
        }
        assert_eq!(offenders.offences.len(), MOST);
    }
}
