//! Accepting connections: in turns, after a check, and without ever giving up.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::error::{Context, Error};
use crate::sys::event::Interest;
use crate::sys::lock::MutexGuard;
use crate::sys::socket;

use super::connection::{Ended, Slot};
use super::shared::{Accepting, LISTENER, Shared};
use super::table::Nanos;

/// How many connections are accepted before others get a turn.
const ACCEPT_TURN: usize = 64;
/// Pauses after a failed accept: doubling from the first to the last.
const ACCEPT_PAUSE: Duration = Duration::from_millis(1);
const ACCEPT_PAUSE_LONGEST: Duration = Duration::from_millis(100);

impl Shared {
    pub(super) fn accept_turn(&self) {
        let mut accepting = self.accepting.lock();
        if accepting.closed {
            return;
        }
        match self.accept_some(&mut accepting, ACCEPT_TURN) {
            Ok(()) => self.listener.rearm(&self.poller, LISTENER),
            Err(error) => self.accept_failed(accepting, error),
        }
    }

    pub(super) fn accept_some(&self, accepting: &mut Accepting, most: usize) -> io::Result<()> {
        for _ in 0..most {
            match self.listener.accept() {
                Ok(fd) => {
                    accepting.failures_in_a_row = 0;
                    self.admit(fd)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A shortage of descriptors or memory passes: the reader pauses and tries again for ever.
    pub(super) fn accept_failed(&self, mut accepting: MutexGuard<'_, Accepting>, error: io::Error) {
        self.counters.accept_errors.fetch_add(1, Ordering::Relaxed);
        accepting.failures_in_a_row = accepting.failures_in_a_row.saturating_add(1);
        let failures = accepting.failures_in_a_row;
        let pause = ACCEPT_PAUSE.saturating_mul(1 << failures.min(10)).min(ACCEPT_PAUSE_LONGEST);
        let again_at = self.now() + pause.as_nanos() as Nanos;
        accepting.again_at = Some(again_at);
        drop(accepting);
        self.arm(again_at);
        if failures == self.options.max_accept_errors + 1 {
            self.report(&Error::from_os(format!("accept at {}", self.path().display()), error), Context::Accept);
        }
    }

    pub(super) fn admit(&self, fd: OwnedFd) -> io::Result<()> {
        let most = self.options.max_connections;
        let full = most > 0 && self.table.len() >= most as usize;
        if full || !self.admits(fd.as_fd()) {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let now = self.now();
        let slot = Arc::new(Slot::new(self.table.next_id(), fd, now));
        self.table.insert(Arc::clone(&slot));
        let penalty = self.penalty(&slot, now);
        let interest = if penalty.is_some() { Interest::CLOSED_ONCE } else { Interest::READABLE_ONCE };
        if let Err(error) = self.poller.add(slot.fd.as_fd(), slot.id, interest) {
            self.table.remove(slot.id);
            return Err(error);
        }
        if let Some(until) = penalty {
            self.offenders.lock().hold(slot.id, until);
            self.arm(until);
        }
        if self.options.inactivity_timeout != Duration::MAX {
            let at =
                now.saturating_add(u64::try_from(self.options.inactivity_timeout.as_nanos()).unwrap_or(Nanos::MAX));
            if let Some(next) = self.table.look_at(at, slot.id) {
                self.arm(next);
            }
        }
        // Either the stop's sweep of the table has seen this connection, or we see the stop.
        if self.draining.load(Ordering::SeqCst) {
            slot.end(Ended::Stop);
        }
        Ok(())
    }

    /// Asks the kernel who the peer was when it connected. A peer of whom it says nothing does not come in.
    pub(super) fn admits(&self, peer: BorrowedFd<'_>) -> bool {
        let (uids, gids) = (&self.options.allowed_uids, &self.options.allowed_gids);
        if uids.is_empty() && gids.is_empty() {
            return true;
        }
        let Ok((_, uid, gid)) = socket::peer_credentials(peer) else { return false };
        uids.contains(&uid)
            || gids.contains(&gid)
            || (!gids.is_empty()
                && socket::peer_groups(peer).is_ok_and(|groups| groups.iter().any(|group| gids.contains(group))))
    }

    /// Until when a connection has to wait because of what its process did before.
    fn penalty(&self, slot: &Slot, now: Nanos) -> Option<Nanos> {
        let mut offenders = self.offenders.lock();
        if !offenders.any() {
            return None;
        }
        let (pid, ..) = socket::peer_credentials(slot.fd.as_fd()).ok()?;
        offenders.penalty(pid, now)
    }
}
