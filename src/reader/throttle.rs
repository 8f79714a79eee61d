//! Peers that send nonsense wait.
//!
//! A writer of the Go library sends a message that is too large for ever: connect, send, be closed, connect; thousands
//! of times a second. So after some offences within a second a peer's next connection waits before it is served, and no
//! more than ten of its further offences a second are reported; all are counted. Nothing is lost by the wait: what the
//! peer sends stays in its socket. A connection that the peer has closed meanwhile is served at once, so that it keeps
//! no descriptor.
//!
//! A peer that breaks off in the middle of a message does not wait, since a crash of it may break many connections at
//! once. But no more than [`CUTS_REPORTED`] of these a second are reported.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::sys::lock::Mutex;
use crate::sys::socket;

use super::clock::Nanos;

/// So many offences within `MEMORY` are let pass.
const TOLERATED: usize = 8;
const MEMORY: Nanos = Duration::from_secs(1).as_nanos() as Nanos;
/// How long a connection of an offender waits, and the time between two reports about one.
const PENALTY: Nanos = Duration::from_millis(100).as_nanos() as Nanos;
/// So many messages that one peer breaks off are reported in a second.
const CUTS_REPORTED: u32 = 1_000;
/// So many offenders are remembered at most.
const MAX_OFFENDERS: usize = 64;

/// Which process a peer is. A pid names none where the peer lives in a pid namespace that this process does not see: it
/// is 0 for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeerId {
    Pid(i32),
    /// The inode of its pidfd, which is unique since Linux 6.9.
    PidInode(u64),
    /// Older kernels tell no more than the user: too many share it to delay them all, but reports can be limited.
    User(u32),
}

impl PeerId {
    /// Asks the kernel, which remembers the peer as of its connect.
    pub(super) fn of(peer: BorrowedFd<'_>) -> Option<PeerId> {
        let (pid, uid, _) = socket::peer_credentials(peer).ok()?;
        if pid > 0 {
            return Some(PeerId::Pid(pid));
        }
        Some(socket::peer_pid_inode(peer).map_or(PeerId::User(uid), PeerId::PidInode))
    }
}

/// Recent offenders, and connections that wait.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    offenders: Vec<Offender>,
    /// By connection id: one that is closed meanwhile keeps no descriptor.
    waiting: VecDeque<(Nanos, u64)>,
    /// The reader stops: nobody waits any more.
    lifted: bool,
}

#[derive(Debug)]
struct Offender {
    peer: PeerId,
    /// The latest offences, the oldest of them first.
    offences: VecDeque<Nanos>,
    reported_at: Option<Nanos>,
    /// Since when, and how many, messages have been broken off.
    cuts_since: Nanos,
    cuts: u32,
    last_seen: Nanos,
}

impl Offender {
    fn is_throttled(&self, now: Nanos) -> bool {
        self.offences.len() == TOLERATED && self.offences[0].saturating_add(MEMORY) > now
    }
}

impl Throttle {
    /// The peer has sent what cannot be taken. Says whether that is to be reported.
    pub(super) fn note_offence(&self, peer: PeerId, now: Nanos) -> bool {
        let mut state = self.state.lock();
        let offender = state.offender(peer, now);
        let report = !offender.is_throttled(now)
            || offender.reported_at.is_none_or(|reported| reported.saturating_add(PENALTY) <= now);
        if offender.offences.len() == TOLERATED {
            offender.offences.pop_front();
        }
        offender.offences.push_back(now);
        if report {
            offender.reported_at = Some(now);
        }
        report
    }

    /// The peer has broken off in the middle of a message. Says whether that is to be reported.
    pub(super) fn note_cut(&self, peer: PeerId, now: Nanos) -> bool {
        let mut state = self.state.lock();
        let offender = state.offender(peer, now);
        if offender.cuts_since.saturating_add(MEMORY) <= now {
            (offender.cuts_since, offender.cuts) = (now, 0);
        }
        offender.cuts = offender.cuts.saturating_add(1);
        offender.cuts <= CUTS_REPORTED
    }

    /// Until when a new connection has to wait, if it has. `peer` is asked for only if there are offenders.
    pub(super) fn penalty(&self, peer: impl FnOnce() -> Option<PeerId>, now: Nanos) -> Option<Nanos> {
        {
            let mut state = self.state.lock();
            state.forget(now);
            if state.offenders.is_empty() || state.lifted {
                return None;
            }
        }
        let peer = peer().filter(|peer| !matches!(peer, PeerId::User(_)))?;
        let state = self.state.lock();
        let throttled = state.offenders.iter().any(|offender| offender.peer == peer && offender.is_throttled(now));
        throttled.then_some(now.saturating_add(PENALTY))
    }

    /// Lets a connection wait. Returns when it is to be released.
    pub(super) fn hold(&self, id: u64, until: Nanos) -> Nanos {
        let mut state = self.state.lock();
        state.waiting.push_back((until, id));
        if state.lifted { 0 } else { until }
    }

    /// The reader stops: who waits is released at once, and nobody has to wait from now on.
    pub(super) fn lift(&self) {
        self.state.lock().lifted = true;
    }

    /// A connection that has waited long enough; or when the next one has.
    pub(super) fn release(&self, now: Nanos) -> Result<u64, Option<Nanos>> {
        let mut state = self.state.lock();
        match state.waiting.front() {
            Some(&(until, id)) if until <= now || state.lifted => {
                state.waiting.pop_front();
                Ok(id)
            }
            next => Err(next.map(|(until, _)| *until)),
        }
    }
}

impl State {
    fn offender(&mut self, peer: PeerId, now: Nanos) -> &mut Offender {
        let at = match self.offenders.iter().position(|offender| offender.peer == peer) {
            Some(at) => at,
            None => {
                self.forget(now);
                if self.offenders.len() == MAX_OFFENDERS {
                    let oldest = self.offenders.iter().enumerate().min_by_key(|(_, offender)| offender.last_seen);
                    let oldest = oldest.map_or(0, |(at, _)| at);
                    self.offenders.swap_remove(oldest);
                }
                self.offenders.push(Offender {
                    peer,
                    offences: VecDeque::new(),
                    reported_at: None,
                    cuts_since: now,
                    cuts: 0,
                    last_seen: now,
                });
                self.offenders.len() - 1
            }
        };
        self.offenders[at].last_seen = now;
        &mut self.offenders[at]
    }

    fn forget(&mut self, now: Nanos) {
        self.offenders.retain(|offender| offender.last_seen.saturating_add(MEMORY) > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: PeerId = PeerId::Pid(1);
    const OTHER: PeerId = PeerId::PidInode(1);

    fn penalty(throttle: &Throttle, peer: PeerId, now: Nanos) -> Option<Nanos> {
        throttle.penalty(|| Some(peer), now)
    }

    #[test]
    fn a_peer_waits_after_some_offences_and_is_forgiven_after_a_while() {
        let throttle = Throttle::default();
        for at in 0..TOLERATED as Nanos {
            assert_eq!(penalty(&throttle, ONE, at), None);
            assert!(throttle.note_offence(ONE, at), "each of the first ones is reported");
        }
        let now = TOLERATED as Nanos;
        assert_eq!(penalty(&throttle, ONE, now), Some(now + PENALTY));
        assert_eq!(penalty(&throttle, OTHER, now), None, "another peer does not wait");
        assert_eq!(penalty(&throttle, ONE, MEMORY - 1), Some(MEMORY - 1 + PENALTY));
        assert_eq!(penalty(&throttle, ONE, MEMORY), None, "the oldest one is a second ago");
        assert!(throttle.note_offence(ONE, MEMORY));
        assert_eq!(penalty(&throttle, ONE, MEMORY), Some(MEMORY + PENALTY));
        assert_eq!(penalty(&throttle, ONE, 2 * MEMORY), None);
        assert!(throttle.state.lock().offenders.is_empty());
    }

    #[test]
    fn reports_about_a_peer_are_few_however_many_offences_there_are() {
        let throttle = Throttle::default();
        let reports = |throttle: &Throttle, from: Nanos| {
            let offences = (0..14_000).map(|number| from + number * MEMORY / 14_000);
            offences.filter(|at| throttle.note_offence(ONE, *at)).count()
        };
        assert_eq!(reports(&throttle, 0), TOLERATED + 9);
        assert_eq!(reports(&throttle, MEMORY), 10);
        assert!(throttle.note_offence(OTHER, 2 * MEMORY));
    }

    #[test]
    fn messages_that_are_broken_off_let_nobody_wait_and_are_reported_up_to_a_limit() {
        let throttle = Throttle::default();
        let reports = |from: Nanos| (0..14_000).filter(|at| throttle.note_cut(ONE, from + at)).count();
        assert_eq!(reports(0), CUTS_REPORTED as usize);
        assert_eq!(penalty(&throttle, ONE, 14_000), None);
        assert_eq!(reports(MEMORY), CUTS_REPORTED as usize);
        assert!(throttle.note_cut(OTHER, 20_000));
    }

    #[test]
    fn peers_that_are_known_by_their_user_alone_do_not_wait_but_are_not_reported_without_end() {
        let throttle = Throttle::default();
        let reported = (0..100).filter(|at| throttle.note_offence(PeerId::User(7), *at)).count();
        assert_eq!(reported, TOLERATED);
        assert_eq!(penalty(&throttle, PeerId::User(7), 100), None);
    }

    #[test]
    fn so_many_offenders_are_remembered_and_the_one_that_has_been_good_for_longest_is_forgotten_first() {
        let throttle = Throttle::default();
        for at in 0..TOLERATED as Nanos {
            throttle.note_offence(ONE, at);
        }
        for pid in 2..=MAX_OFFENDERS as i32 {
            throttle.note_offence(PeerId::Pid(pid), 100);
        }
        assert!(penalty(&throttle, ONE, 101).is_some());
        throttle.note_offence(PeerId::Pid(-1), 101);
        assert!(penalty(&throttle, ONE, 102).is_none());
        assert_eq!(throttle.state.lock().offenders.len(), MAX_OFFENDERS);
    }

    #[test]
    fn who_waits_is_released_one_after_the_other() {
        let throttle = Throttle::default();
        assert_eq!(throttle.release(Nanos::MAX), Err(None));
        throttle.hold(1, 10);
        throttle.hold(2, 20);
        assert_eq!(throttle.release(9), Err(Some(10)));
        assert_eq!(throttle.release(10), Ok(1));
        assert_eq!(throttle.release(10), Err(Some(20)));
        assert_eq!(throttle.release(Nanos::MAX), Ok(2));
        assert_eq!(throttle.release(Nanos::MAX), Err(None));
    }
    #[test]
    fn nobody_waits_any_more_when_the_reader_stops() {
        let throttle = Throttle::default();
        for at in 0..TOLERATED as Nanos {
            throttle.note_offence(ONE, at);
        }
        assert_eq!(throttle.hold(1, 50), 50);
        throttle.lift();
        assert_eq!(penalty(&throttle, ONE, 20), None);
        assert_eq!(throttle.hold(2, 60), 0);
        assert_eq!((throttle.release(20), throttle.release(20), throttle.release(20)), (Ok(1), Ok(2), Err(None)));
    }
}
