//! The ring of a connection: when the session asks for one, how the connection changes over to it, and how it ends.
//!
//! 1. A busy connection asks ([`Session::prepare_ring`]), where the reader has handled all that was sent: positions count the
//!    request's bytes, and nothing that is kept lies before them.
//! 2. The reader grants a ring with a record, or says nothing. When one has come, and all that was sent is handled again, the
//!    stream goes on in the ring. It never goes back to the socket on the same connection.
//! 3. While batches wait, the session has the ring and stores them there ([`Session::pump_ring`]). When none do, it lends the ring
//!    to the producers, and sleeps.
//! 4. At the end of the connection, whoever makes it, what the reader has not handled is copied out of the ring
//!    ([`Session::take_back_ring`]). From there on all is as if it had been kept in batches.
//! 5. A message that is too long for the ring ends the connection, when all before it is handled. The next one stays on the
//!    socket: a second way beside the ring would have to be kept in order with it, for messages of megabytes.

use std::time::{Duration, Instant};

use super::connection::{Connection, Peer};
use super::pump::Pumped;
use super::{Session, SessionContext, State, Wake, add};
use crate::delivery::record::RING_REQUEST;
use crate::writer::queue::Queue;
use crate::writer::redial::Ended;
use crate::writer::ring::{Published, Ring};
use crate::writer::transport::{GrantedRing, Sent, Transport};
use crate::writer::write_cursor::{GivenUp, Keep};

/// A connection is busy when it has sent this much in [`WINDOW`], in messages of this size on average. Smaller ones are faster in
/// batches: in a ring each is published by itself, with a barrier.
const BUSY_BYTES: u64 = 4 << 20;
const WINDOW: Duration = Duration::from_millis(50);
const LEAST_AVERAGE: u64 = 192;

/// How long a reader has to answer, and when a busy connection asks again.
const ANSWER: Duration = Duration::from_millis(100);
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// How long nothing is sent at most before all is handled, and how often that is looked at. A reader that takes longer is slow, or
/// hangs: the socket goes on, and with it the rules for a stall.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_STEP: Duration = Duration::from_micros(500);

/// How much one step stores at most; and how much while other writers wait for the same thread, or a deadline does.
const TURN: usize = 4 << 20;
const SHARED_TURN: usize = 256 << 10;

/// A ring that is lent is looked at this often, and one that was empty and unused at so many looks in a row gives its memory back.
const LOOK: Duration = Duration::from_secs(1);
const IDLE_LOOKS: u32 = 10;

/// How soon a producer that stores a large message is expected to have done so.
const STORE_STEP: Duration = Duration::from_micros(200);

/// How often a reader is looked at that has to handle what lies before a message that is too long.
const TOO_LONG_STEP: Duration = Duration::from_millis(5);

/// What a connection has of a ring.
#[derive(Debug, Default)]
pub(super) enum RingUse {
    /// Nothing: it has not been busy.
    #[default]
    None,
    /// It is to ask, when all that was sent is handled. Since when.
    Wanted(Instant),
    /// The reader has been asked.
    Asked(Instant),
    /// The reader says nothing, or what it said is of no use.
    Refused(Instant),
    /// It has come, and takes over when all that was sent is handled. Since when.
    Granted(Instant, Box<GrantedRing>),
    /// The session has it.
    Here(Box<Ring>),
    /// The queue has it, for the producers.
    Lent(Look),
    /// Its memory has been given back. It begins with nothing in it.
    Resting(Box<Ring>),
}

/// What the last look at a lent ring has found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    at: Instant,
    messages: u64,
    unused: u32,
}

impl RingUse {
    /// The stream has gone over to the ring.
    pub(super) fn is_switched(&self) -> bool {
        matches!(self, RingUse::Here(_) | RingUse::Lent(_) | RingUse::Resting(_))
    }

    /// Nothing more is to be sent on the socket before all of it is handled.
    pub(super) fn pauses(&self) -> bool {
        matches!(self, RingUse::Wanted(_) | RingUse::Granted(..))
    }

    /// A record may come.
    pub(super) fn awaits_record(&self) -> bool {
        matches!(self, RingUse::Asked(_))
    }
}

/// How much a connection has sent lately.
#[derive(Debug)]
pub(super) struct Traffic {
    since: Instant,
    bytes: u64,
    messages: u64,
}

impl Traffic {
    pub(super) fn new(now: Instant) -> Traffic {
        Traffic { since: now, bytes: 0, messages: 0 }
    }

    /// So much more has been sent. Whether the connection is busy.
    fn is_busy(&mut self, now: Instant, bytes: u64, messages: u64) -> bool {
        if now.saturating_duration_since(self.since) > WINDOW {
            *self = Traffic::new(now);
        }
        (self.bytes, self.messages) = (self.bytes + bytes, self.messages + messages);
        self.bytes >= BUSY_BYTES && self.bytes / self.messages.max(1) >= LEAST_AVERAGE
    }
}

impl<T: Transport> Connection<T> {
    /// So much has been sent on the socket.
    pub(super) fn note_traffic(&mut self, now: Instant, bytes: u64, messages: u64) {
        let may_ask = match self.ring {
            RingUse::None => true,
            RingUse::Refused(at) => now.saturating_duration_since(at) >= ASK_AGAIN,
            _ => false,
        };
        if self.peer == Peer::Acknowledges && self.traffic.is_busy(now, bytes, messages) && may_ask {
            self.ring = RingUse::Wanted(now);
        }
    }

    /// Takes what the reader has granted.
    fn hear_answer(&mut self, now: Instant, wake: &mut Wake) {
        let RingUse::Asked(asked) = self.ring else { return };
        self.listen();
        if let Some(granted) = self.transport.take_ring() {
            self.ring = RingUse::Granted(now, Box::new(granted));
        } else if now.saturating_duration_since(asked) >= ANSWER {
            self.ring = RingUse::Refused(now);
        } else {
            wake.at(asked + ANSWER);
        }
    }

    /// Ends a pause that has lasted too long, or in which a stop began.
    fn end_pause(&mut self, now: Instant, is_draining: bool, wake: &mut Wake) {
        let (RingUse::Wanted(since) | RingUse::Granted(since, _)) = &self.ring else { return };
        if is_draining || now.saturating_duration_since(*since) >= PAUSE {
            self.ring = RingUse::Refused(now);
        } else {
            wake.at(now + PAUSE_STEP);
        }
    }
}

impl<T: Transport> Session<T> {
    /// Goes on towards a ring (1, 2).
    pub(super) fn prepare_ring(&mut self, now: Instant, context: &SessionContext<'_>, wake: &mut Wake) {
        let State::Connected(connection) = &mut self.state else { return };
        connection.hear_answer(now, wake);
        connection.end_pause(now, self.drain.is_some(), wake);
        if !connection.ring.pauses() || self.cursor.is_torn() {
            return;
        }
        self.release_handled(context);
        let State::Connected(connection) = &mut self.state else { return };
        if self.cursor.kept_bytes() > 0 {
            return;
        }
        connection.ring = match std::mem::take(&mut connection.ring) {
            RingUse::Wanted(_) => match connection.send([&RING_REQUEST, &[]]) {
                Sent::Taken(bytes) => {
                    self.cursor.skip(bytes as u64);
                    wake.at(now + ANSWER);
                    RingUse::Asked(now)
                }
                _ => RingUse::Refused(now), // the next send will be told the same
            },
            RingUse::Granted(_, granted) => {
                let GrantedRing { memory, slot, bell } = *granted;
                match Ring::begin(memory, slot, bell, self.cursor.sent_to()) {
                    Some(ring) => RingUse::Here(ring),
                    None => RingUse::Refused(now),
                }
            }
            other => other,
        };
    }

    /// Stores what waits in the ring, and lends it to the producers when nothing does (3).
    pub(super) fn pump_ring(&mut self, now: Instant, context: &SessionContext<'_>, wake: &mut Wake) -> Pumped {
        let mut ring = match self.hold_ring(now, context, wake) {
            Ok(ring) => ring,
            Err(instead) => return instead,
        };
        let (mut turn, limit) = (0, self.ring_turn(context));
        let pumped = loop {
            if ring.is_closing() {
                break Pumped::Broken;
            }
            if self.cursor.make_room().is_err() {
                break Pumped::Stalled { reported: false };
            }
            if self.cursor.is_empty() {
                match context.queue.take() {
                    Some(batch) => self.cursor.load(batch),
                    None => break Pumped::Empty { sent: turn > 0 },
                }
            }
            let (bytes, missing) = self.store_batch(&mut ring, context);
            turn += bytes;
            match missing {
                Some(frame) if frame > ring.size() => break Pumped::TooLong,
                Some(frame) if !self.finds_room(&mut ring, frame) => break Pumped::Stalled { reported: false },
                _ if turn >= limit => break Pumped::Turn,
                _ => {}
            }
        };
        self.put_ring(now, ring, pumped, context, wake)
    }

    /// The ring, to store in. Else producers have it, or it rests, and nothing waits elsewhere; or it is gone.
    fn hold_ring(&mut self, now: Instant, context: &SessionContext<'_>, wake: &mut Wake) -> Result<Box<Ring>, Pumped> {
        if self.drain.is_some() {
            context.queue.recall_ring();
        }
        let has_nothing = context.queue.is_empty() && self.cursor.is_empty();
        let State::Connected(connection) = &mut self.state else { return Err(Pumped::Broken) };
        connection.listen(); // bells, which a host's loop hears as long as they wait
        match std::mem::take(&mut connection.ring) {
            RingUse::Here(ring) => Ok(ring),
            RingUse::Resting(ring) if has_nothing => {
                connection.ring = RingUse::Resting(ring);
                Err(if self.drain.is_some() { Pumped::Empty { sent: false } } else { Pumped::Lent })
            }
            RingUse::Resting(ring) if ring.restore() => Ok(ring),
            RingUse::Resting(_) => {
                self.leave_ring(now, context); // it is empty
                Err(Pumped::Broken)
            }
            RingUse::Lent(look) => {
                connection.ring = RingUse::Lent(look);
                context.queue.take_returned_ring().ok_or_else(|| {
                    self.look_at_lent_ring(now, context, wake);
                    Pumped::Lent
                })
            }
            other => {
                connection.ring = other;
                Err(Pumped::Lent)
            }
        }
    }

    fn ring_turn(&self, context: &SessionContext<'_>) -> usize {
        if (context.is_crowded)() || self.drain.is_some() { SHARED_TURN } else { TURN }
    }

    /// Stores what fits of the first batch. Returns how many bytes, and how long the next frame is if that does not fit.
    fn store_batch(&mut self, ring: &mut Ring, context: &SessionContext<'_>) -> (usize, Option<usize>) {
        let State::Connected(connection) = &mut self.state else { return (0, None) };
        let (bytes, count, missing) = ring.store_frames(self.cursor.rest()[0]);
        if bytes > 0 {
            if let Published::Ring(bell) = ring.publish() {
                bell.ring();
            }
            connection.stall = None;
            add(&context.counters.ring_bytes, count.bytes);
            let (queue, in_flight) = (context.queue, &mut connection.in_flight);
            let mut taken = self.cursor.advance(bytes, Keep::Nothing, queue, in_flight);
            let rest = self.cursor.settle(queue, in_flight);
            (taken.first, taken.again) = (taken.first + rest.first, taken.again + rest.again);
            self.cursor.forget_sent();
            self.sent(taken, context);
        }
        (bytes, missing)
    }

    /// Looks a few times, and then says that it waits.
    fn finds_room(&mut self, ring: &mut Ring, bytes: usize) -> bool {
        let eighth = ring.size() / 8;
        if self.spin.spin_until(|| ring.has_room(bytes.max(eighth))) {
            return true;
        }
        ring.announce_waiting();
        ring.has_room(bytes)
    }

    /// What becomes of the ring when no more is stored.
    fn put_ring(
        &mut self,
        now: Instant,
        mut ring: Box<Ring>,
        pumped: Pumped,
        context: &SessionContext<'_>,
        wake: &mut Wake,
    ) -> Pumped {
        let handled = ring.take_handled();
        self.acknowledged(handled, context);
        let unhandled = ring.unhandled();
        let unread = ring.unhandled_bytes() as usize;
        if matches!(pumped, Pumped::Empty { .. }) && self.drain.is_none() {
            let look = Look { at: now, messages: ring.messages(), unused: 0 };
            let (ring, pumped) = match context.queue.lend_ring(ring) {
                Ok(()) => (RingUse::Lent(look), Pumped::Lent),
                Err(back) => (RingUse::Here(back), Pumped::Turn),
            };
            self.keep_ring(ring);
            wake.at(now + LOOK);
            return pumped;
        }
        self.keep_ring(RingUse::Here(ring));
        match pumped {
            Pumped::Broken => {
                self.broken(now, None, context);
                Pumped::Broken
            }
            Pumped::TooLong if unhandled == 0 => {
                self.too_long_for_ring = true;
                self.leave_ring(now, context);
                Pumped::Broken
            }
            Pumped::TooLong => {
                wake.at(now + TOO_LONG_STEP);
                self.stalled(now, None, Some(unread), context)
            }
            Pumped::Stalled { .. } => self.stalled(now, None, Some(unread), context),
            other => other,
        }
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn is_resting(&self) -> bool {
        matches!(&self.state, State::Connected(Connection { ring: RingUse::Resting(_), .. }))
    }

    fn keep_ring(&mut self, ring: RingUse) {
        if let State::Connected(connection) = &mut self.state {
            connection.ring = ring;
        }
    }

    /// The ring is of no use any more, and everything in it is handled: the next message goes out on the next connection (5).
    fn leave_ring(&mut self, now: Instant, context: &SessionContext<'_>) {
        let State::Connected(connection) = self.take_state() else { return };
        let lasted = now.saturating_duration_since(connection.made);
        connection.transport.close();
        self.cursor.rewind();
        self.redial.connection_ending(now);
        let ended = Ended { has_sent: true, has_lost: false, broke: false, lasted };
        self.redial.connection_ended(now, ended, context.options.max_backoff);
    }

    /// Once in a while: what is handled is counted, and the memory of a ring that nobody uses is given back.
    fn look_at_lent_ring(&mut self, now: Instant, context: &SessionContext<'_>, wake: &mut Wake) {
        let State::Connected(Connection { ring: RingUse::Lent(look), .. }) = &mut self.state else { return };
        let Some((messages, is_reserved, is_empty, bell)) = context.queue.with_ring(|ring| {
            ring.release();
            (ring.messages(), ring.is_reserved(), ring.unhandled() == 0, ring.bell())
        }) else {
            return;
        };
        if is_reserved && (self.drain.is_some() || !context.queue.is_empty()) {
            return wake.at(now + STORE_STEP);
        }
        if now >= look.at + LOOK {
            if !is_empty {
                bell.ring(); // the kernel may have had no memory for the last one
            }
            let is_unused = messages == look.messages && is_empty;
            *look = Look { at: now, messages, unused: if is_unused { look.unused + 1 } else { 0 } };
        }
        let is_idle = look.unused >= IDLE_LOOKS;
        wake.at(look.at + LOOK);
        self.release_handled(context);
        if is_idle {
            self.rest_ring(now, context.queue, wake);
        }
    }

    /// Gives the memory of a ring back that nobody uses.
    fn rest_ring(&mut self, now: Instant, queue: &Queue, wake: &mut Wake) {
        queue.recall_ring();
        let Some(mut ring) = queue.take_returned_ring() else { return };
        let rests = ring.discard();
        self.keep_ring(if rests { RingUse::Resting(ring) } else { RingUse::Here(ring) });
        if !rests || !queue.sleep() {
            wake.at(now);
        }
    }

    /// At the end of a connection: what the reader has not handled goes from the ring to the batches that are sent again (4).
    pub(super) fn take_back_ring(&mut self, ring: RingUse, context: &SessionContext<'_>) {
        let Some(ring) = self.withdraw_ring(ring, context) else { return };
        let ((from, to), lost) = (ring.rest_span(), ring.unhandled());
        let rest = if self.cursor.make_room().is_ok() { ring.into_rest() } else { Err(lost) };
        match rest {
            Ok(rest) => self.cursor.restore_sent(rest, from, to),
            Err(lost) => {
                self.cursor.restore_sent(None, to, to);
                add(&context.counters.suspected_lost, lost);
            }
        }
    }

    /// The ring, wherever it is, with what has been handled until now let go and counted.
    fn withdraw_ring(&mut self, ring: RingUse, context: &SessionContext<'_>) -> Option<Box<Ring>> {
        let mut ring = match ring {
            RingUse::Here(ring) | RingUse::Resting(ring) => ring,
            RingUse::Lent(_) => context.queue.take_ring()?,
            _ => return None,
        };
        ring.release();
        self.acknowledged(ring.take_handled(), context);
        Some(ring)
    }

    /// At the end of a writer: what the reader has not handled is given up.
    pub(super) fn give_up_ring(&mut self, given_up: &mut GivenUp, context: &SessionContext<'_>) {
        let ring = match &mut self.state {
            State::Connected(connection) => std::mem::take(&mut connection.ring),
            State::Closing(_) | State::Disconnected => RingUse::None, // taken back when the connection ended
        };
        if let Some(ring) = self.withdraw_ring(ring, context) {
            given_up.lost += ring.unhandled();
        }
    }

    /// Counts what the reader has handled of the ring.
    pub(super) fn release_ring(&mut self, context: &SessionContext<'_>) {
        let State::Connected(connection) = &mut self.state else { return };
        let look = |ring: &mut Ring| {
            ring.release();
            ring.take_handled()
        };
        let handled = match &mut connection.ring {
            RingUse::Here(ring) => Some(look(ring)),
            RingUse::Lent(_) => context.queue.with_ring(look),
            _ => None,
        };
        self.acknowledged(handled.unwrap_or(0), context);
    }

    /// Messages in the ring that the reader has not handled, as far as was looked.
    pub(super) fn unhandled_in_ring(&self, context: &SessionContext<'_>) -> u64 {
        match &self.state {
            State::Connected(Connection { ring: RingUse::Here(ring), .. }) => ring.unhandled(),
            State::Connected(Connection { ring: RingUse::Lent(_), .. }) => {
                context.queue.with_ring(|ring| ring.unhandled()).unwrap_or(0)
            }
            _ => 0,
        }
    }
}
