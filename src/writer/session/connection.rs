//! One connection: what has been sent on it, and what the kernel says of it.

use std::io;
use std::time::{Duration, Instant};

use super::ring::{RingUse, Traffic};
use crate::delivery::record::End;
use crate::options::Acknowledge;
use crate::writer::in_flight::InFlight;
use crate::writer::transport::{Readiness, Sent, Transport};
use crate::writer::write_cursor::WriteCursor;

/// How soon a send that found no memory in the kernel is tried again, at first and at most.
const MEMORY_STEP: Duration = Duration::from_millis(1);
const MEMORY_STEP_LONGEST: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(in crate::writer) struct Connection<T> {
    pub(super) transport: T,
    pub(super) made: Instant,
    pub(super) in_flight: InFlight,
    pub(super) stall: Option<Stall>,
    /// A send has told of the reader's end over unread bytes: the kernel says so once.
    pub(super) reset: bool,
    pub(super) peer: Peer,
    /// An empty frame has been sent, to find out what the peer is.
    pub(super) has_probed: bool,
    /// When the path was looked at last, for want of an answer.
    pub(super) path_checked: Instant,
    /// The reader sends nothing more.
    pub(super) records_ended: bool,
    /// How far the reader has handled the stream, as it said before it closed, and why it closes.
    pub(super) final_record: Option<(u64, End)>,
    /// What the ledger said before the last send that the kernel has taken: the connection lived then.
    pub(super) seen: u64,
    pub(super) ring: RingUse,
    pub(super) traffic: Traffic,
}

/// What kind of reader it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// It has not said anything yet.
    Unknown,
    /// One that does not acknowledge, or is not asked to.
    Plain,
    /// One that keeps a ledger.
    Acknowledges,
}

/// The kernel takes nothing.
#[derive(Debug)]
pub(super) struct Stall {
    /// When there was progress last: it took bytes, the reader received some, or a stall was reported.
    since: Instant,
    unread: usize,
    /// For want of memory: when to try again, and the step after that. There is no event for it.
    retry: Option<(Instant, Duration)>,
}

impl<T: Transport> Connection<T> {
    pub(super) fn new(now: Instant, transport: T, acknowledge: Acknowledge) -> Connection<T> {
        let in_flight = InFlight::new(transport.send_buffer());
        let peer = if acknowledge == Acknowledge::Off { Peer::Plain } else { Peer::Unknown };
        Connection {
            transport,
            made: now,
            in_flight,
            stall: None,
            reset: false,
            peer,
            has_probed: false,
            path_checked: now,
            records_ended: false,
            final_record: None,
            seen: 0,
            ring: RingUse::None,
            traffic: Traffic::new(now),
        }
    }

    pub(super) fn is_plain(&self) -> bool {
        self.peer == Peer::Plain
    }

    /// Sends, and takes note of what the kernel says of the reader's end.
    pub(super) fn send(&mut self, pieces: [&[u8]; 2]) -> Sent {
        let position = if self.peer == Peer::Acknowledges { self.transport.handled().position } else { 0 };
        let sent = self.transport.send(pieces);
        if matches!(sent, Sent::Taken(_)) {
            self.seen = position;
        }
        self.reset |= matches!(&sent, Sent::Broken(error) if error.kind() == io::ErrorKind::ConnectionReset);
        sent
    }

    /// Asks whether the reader's process has received everything. The kernel's buffer is also empty after the reader has
    /// closed, so an empty one counts only while there is no hang-up.
    pub(super) fn check_read(&mut self) {
        if self.in_flight.unread() > 0 && self.transport.unread_by_peer() == 0 && !self.transport.has_hung_up() {
            self.in_flight.all_read();
        }
    }

    /// How many messages have been sent and not come to their end.
    pub(super) fn unsettled(&self, cursor: &WriteCursor) -> u64 {
        match self.peer {
            Peer::Acknowledges => cursor.kept_messages(),
            Peer::Unknown | Peer::Plain => self.in_flight.unread() + cursor.to_send_again(),
        }
    }

    /// It has not answered yet.
    pub(super) fn awaits_record(&self) -> bool {
        self.has_probed && self.peer == Peer::Unknown
    }

    pub(super) fn readiness(&self) -> Readiness {
        let is_in_ring = self.ring.is_switched(); // in which case a bell tells of room
        match &self.stall {
            _ if is_in_ring && !self.records_ended => Readiness::Record,
            _ if is_in_ring => Readiness::HangUp,
            Some(Stall { retry: None, .. }) => Readiness::Room,
            _ if (self.peer == Peer::Unknown || self.ring.awaits_record()) && !self.records_ended => Readiness::Record,
            _ => Readiness::HangUp,
        }
    }

    /// The kernel, or the ring, takes nothing, and so much in it is unread. Returns whether that has lasted for `timeout` without
    /// progress since the last report.
    pub(super) fn stalls(&mut self, now: Instant, timeout: Duration, for_memory: bool, unread: usize) -> bool {
        let stall = self.stall.get_or_insert(Stall { since: now, unread, retry: None });
        stall.retry = for_memory.then(|| {
            let step = stall.retry.map_or(MEMORY_STEP, |(_, step)| (step * 2).min(MEMORY_STEP_LONGEST));
            (now + step, step)
        });
        if unread != stall.unread {
            (stall.unread, stall.since) = (unread, now);
        }
        let lasts = now.saturating_duration_since(stall.since) >= timeout;
        if lasts {
            stall.since = now;
        }
        lasts
    }

    /// When a stall has to be looked at again.
    pub(super) fn stall_ends_at(&self, timeout: Duration) -> Option<Instant> {
        let stall = self.stall.as_ref()?;
        let report_at = stall.since.checked_add(timeout);
        stall.retry.map(|(at, _)| at).into_iter().chain(report_at).min()
    }
}
