//! Sending: batch after batch, until the kernel takes nothing more or nothing is left.

use std::io;
use std::time::{Duration, Instant};

use super::acknowledge::Permission;
use super::connection::{Connection, Peer};
use super::ring::RingUse;
use super::{Next, Session, SessionContext, State, Wake, add};
use crate::adaptive_spin::AdaptiveSpin;
use crate::error::{Context, Error};
use crate::options::Acknowledge;
use crate::writer::batch::Batch;
use crate::writer::queue::Queue;
use crate::writer::transport::{Sent, Transport};
use crate::writer::write_cursor::{Keep, Taken, WriteCursor};

/// How much one step sends at most, so that a host's loop, a stop and a flush get their turn; and how much while other
/// writers wait for the same thread, or a deadline does.
const TURN: usize = 4 << 20;
const SHARED_TURN: usize = 256 << 10;

/// A step that has sent this much looks a few times more for the next batch before it goes to sleep.
const BUSY: usize = 16 << 10;
pub(super) const LOOKS: u32 = 8;

/// Messages closer than this are worth batching; a lone one is sent from its caller's thread.
const LONE_GAP: Duration = Duration::from_micros(20);
/// After so many lone messages the kernel is asked whether they have been read.
const CHECK_READ_AFTER: u64 = 32;

pub(super) enum Pumped {
    /// The queue is empty.
    Empty { sent: bool },
    /// The kernel takes nothing more.
    Stalled { reported: bool },
    /// Enough for one turn.
    Turn,
    /// The reader has to handle something, or to say what it is, first.
    Held,
    /// The queue is empty, and producers put their messages into the ring.
    Lent,
    /// A message is too long for the ring.
    TooLong,
    /// It cannot acknowledge, and has to.
    Refused,
    /// The connection is ending.
    Broken,
}

/// Why a step sends no more.
enum PumpEnd {
    Empty,
    Turn,
    /// As much is kept as an honest reader can hold.
    Held,
    /// For want of room, or of memory in the kernel.
    Stalled(Option<io::Error>),
    Broken(io::Error),
}

impl<T: Transport> Session<T> {
    pub(super) fn step_connected(
        &mut self,
        now: Instant,
        context: &SessionContext<'_>,
        wake: &mut Wake,
    ) -> Option<Next> {
        let pumped = self.pump(now, context, wake);
        self.schedule_poll(now, context, wake);
        match pumped {
            Pumped::Broken => None,
            Pumped::Refused => {
                self.refuse_plain(now, context);
                None
            }
            Pumped::Turn => Some(Next::Again),
            Pumped::Held if self.check_path_without_record(now, context.options.write_timeout, wake) => {
                Some(Next::CheckPath)
            }
            Pumped::Held | Pumped::Lent | Pumped::TooLong => Some(Next::Wait),
            Pumped::Stalled { reported } => {
                if let State::Connected(connection) = &self.state {
                    wake.at(connection.stall_ends_at(context.options.write_timeout));
                    self.path_check = reported.then_some(connection.made);
                }
                Some(if reported { Next::CheckPath } else { Next::Wait })
            }
            Pumped::Empty { .. } if self.drain.is_some() => self.last_look(now, context, wake),
            // Its next messages gather meanwhile, and wake nobody.
            Pumped::Empty { sent: true } if (context.is_crowded)() => Some(Next::Again),
            Pumped::Empty { .. } => context.queue.sleep().then_some(Next::Wait),
        }
    }

    fn pump(&mut self, now: Instant, context: &SessionContext<'_>, wake: &mut Wake) -> Pumped {
        match self.ask_permission(context) {
            Permission::Granted => {}
            Permission::Pending => return Pumped::Held,
            Permission::Denied => return Pumped::Refused,
            Permission::Failed(Sent::Broken(error)) => {
                self.broken(now, Some(error), context);
                return Pumped::Broken;
            }
            Permission::Failed(Sent::NoMemory(error)) => return self.stalled(now, Some(error), None, context),
            Permission::Failed(_) => return self.stalled(now, None, None, context),
        }
        self.prepare_ring(now, context, wake);
        if matches!(&self.state, State::Connected(connection) if connection.ring.is_switched()) {
            return self.pump_ring(now, context, wake);
        }
        let (end, turn, count) = self.send_batches(context);
        let State::Connected(connection) = &mut self.state else { return Pumped::Broken };
        let settled = self.cursor.settle(context.queue, &mut connection.in_flight);
        if self.drain.is_none() && !self.too_long_for_ring {
            connection.note_traffic(now, turn as u64, count.messages() + settled.messages());
        }
        connection.identify(&mut self.cursor);
        self.sent(settled, context);
        self.note_peer(context);
        match end {
            PumpEnd::Empty => Pumped::Empty { sent: turn > 0 },
            PumpEnd::Turn => Pumped::Turn,
            PumpEnd::Held => self.held(context),
            PumpEnd::Stalled(shortage) => self.stalled(now, shortage, None, context),
            PumpEnd::Broken(error) => {
                self.broken(now, Some(error), context);
                Pumped::Broken
            }
        }
    }

    /// Sends until there is a reason to stop. Returns it, and how much has gone out: bytes, and messages of whole batches.
    fn send_batches(&mut self, context: &SessionContext<'_>) -> (PumpEnd, usize, Taken) {
        let State::Connected(connection) = &mut self.state else { return (PumpEnd::Empty, 0, Taken::default()) };
        connection.check_read();
        let (mut turn, mut count, mut handled) = (0, Taken::default(), 0);
        let mut is_crowded = (context.is_crowded)();
        let end = loop {
            if self.cursor.is_empty() {
                is_crowded = (context.is_crowded)(); // once for each batch: it takes a lock that all writers share
                if let Some(end) = room_for_more(connection, &mut self.cursor) {
                    break end;
                }
                match next_batch(turn, is_crowded, &mut self.spin, context.queue) {
                    Some(batch) => self.cursor.load(batch),
                    None => {
                        connection.stall = None;
                        break PumpEnd::Empty;
                    }
                }
            }
            if is_crowded {
                // The end of a burst often lies in a batch of its own. Where it is not alone, each call costs the reader
                // a turn as well.
                self.cursor.take_along(|| context.queue.take());
            }
            match connection.send(self.cursor.rest()) {
                Sent::Taken(bytes) => {
                    connection.stall = None;
                    // In passing, so that the same few batches are used again and again.
                    handled += self.cursor.release_whole(connection.seen);
                    let taken = self.cursor.advance(bytes, connection.keep(), context.queue, &mut connection.in_flight);
                    count.first += taken.first;
                    count.again += taken.again;
                    turn += bytes;
                    let is_short = is_crowded || self.drain.is_some();
                    if turn >= if is_short { SHARED_TURN } else { TURN } {
                        break PumpEnd::Turn;
                    }
                }
                Sent::Full => break PumpEnd::Stalled(None),
                Sent::NoMemory(error) => break PumpEnd::Stalled(Some(error)),
                Sent::Broken(error) => break PumpEnd::Broken(error),
            }
        };
        self.sent(count, context);
        self.acknowledged(handled, context);
        (end, turn, count)
    }

    /// Messages have gone out whole. With a reader that acknowledges that says nothing yet of whether they will break it.
    pub(super) fn sent(&mut self, taken: Taken, context: &SessionContext<'_>) {
        if taken.messages() > 0 && !self.expects_ledger {
            self.attempts = 0;
        }
        if taken.again > 0 {
            add(&context.counters.redelivered, taken.again);
        }
    }

    /// As much is kept as an honest reader can hold: either it has come further by now, or it has to.
    fn held(&mut self, context: &SessionContext<'_>) -> Pumped {
        self.release_handled(context);
        let State::Connected(connection) = &self.state else { return Pumped::Broken };
        let is_full = is_full(connection, &self.cursor);
        if is_full { Pumped::Held } else { Pumped::Turn }
    }

    /// The kernel takes nothing more. That is reported each time it has lasted for `write_timeout`.
    /// `in_ring`: so much lies unhandled in the ring, which is full.
    pub(super) fn stalled(
        &mut self,
        now: Instant,
        shortage: Option<io::Error>,
        in_ring: Option<usize>,
        context: &SessionContext<'_>,
    ) -> Pumped {
        let State::Connected(connection) = &mut self.state else { return Pumped::Broken };
        let timeout = context.options.write_timeout;
        let unread = in_ring.unwrap_or_else(|| connection.transport.unread_by_peer());
        let now = if connection.stall.is_none() { (context.clock)() } else { now };
        if !connection.stalls(now, timeout, shortage.is_some(), unread) {
            return Pumped::Stalled { reported: false };
        }
        add(&context.counters.failed, 1);
        let reported = shortage.is_none();
        let error = shortage.map_or(Error::Backpressure(timeout), |source| Error::from_os("send a message", source));
        self.report(error, self.write_context());
        Pumped::Stalled { reported }
    }

    pub(super) fn write_context(&self) -> Context {
        if self.attempts > 0 { Context::WriteAgain } else { Context::Write }
    }

    /// A message has just been queued while the session slept: sends it from the caller's own thread, without a hop, unless
    /// messages come so close on each other that batching them is better. False: the driver must be woken.
    pub(in crate::writer) fn send_at_once(&mut self, now: Instant, context: &SessionContext<'_>) -> bool {
        // Predict from the last wake-up: one message means send at once, a burst means batch.
        let accepted = context.queue.account().accepted.messages;
        let is_lone = accepted - self.accepted_at_wake == 1 && now.saturating_duration_since(self.lone_at) >= LONE_GAP;
        (self.lone_at, self.accepted_at_wake) = (now, accepted);
        let State::Connected(connection) = &mut self.state else { return false };
        let is_in_ring = connection.ring.is_switched() || connection.ring.pauses();
        if !is_lone || connection.stall.is_some() || is_in_ring || !self.cursor.is_empty() {
            return false;
        }
        let is_barred = context.options.acknowledge == Acknowledge::Required && connection.peer != Peer::Acknowledges;
        let keep = connection.keep();
        let is_full = keep == Keep::UntilHandled && self.cursor.kept_bytes() > connection.most_kept(&self.cursor);
        if is_barred || is_full || self.cursor.make_room().is_err() {
            return false;
        }
        if connection.in_flight.unread() >= CHECK_READ_AFTER {
            connection.check_read();
        }
        let Some(batch) = context.queue.take() else { return false };
        self.cursor.load(batch);
        // What the kernel does not take, and what it says of a broken connection, the next step will be told again.
        if let Sent::Taken(bytes) = connection.send(self.cursor.rest()) {
            let handled = self.cursor.release_whole(connection.seen);
            let (queue, in_flight) = (context.queue, &mut connection.in_flight);
            let mut taken = self.cursor.advance(bytes, keep, queue, in_flight);
            taken.first += self.cursor.settle(queue, in_flight).first;
            connection.identify(&mut self.cursor);
            self.sent(taken, context);
            self.acknowledged(handled, context);
            self.note_peer(context);
        }
        self.cursor.is_empty() && context.queue.sleep()
    }

    /// How many messages have come to their end: handled by a reader that acknowledges, read by the process of another one, lost
    /// with it, or abandoned.
    pub(in crate::writer) fn settled(&mut self, context: &SessionContext<'_>) -> u64 {
        // In this order: of a reader that acknowledges, what is read now is known not to be handled yet, since its record came first.
        if let State::Connected(connection) = &mut self.state {
            connection.check_read();
        }
        self.poll_ledger(context);
        let here = match &self.state {
            State::Connected(Connection { ring: RingUse::Here(ring), .. }) => ring.unhandled(),
            _ => 0,
        };
        let (account, lent) = context.queue.account_with_ring();
        let unread = match &mut self.state {
            State::Connected(connection) => connection.unsettled(&self.cursor),
            State::Closing(closing) => closing.connection.unsettled(&self.cursor),
            State::Disconnected => self.cursor.kept_messages(),
        };
        account.sent.messages + account.abandoned.messages - unread - here - lent
    }
}

/// `Some`: nothing more may be sent before the reader has handled more, or there is no memory.
fn room_for_more<T: Transport>(connection: &Connection<T>, cursor: &mut WriteCursor) -> Option<PumpEnd> {
    if cursor.make_room().is_err() {
        return Some(PumpEnd::Stalled(Some(io::ErrorKind::OutOfMemory.into())));
    }
    is_full(connection, cursor).then_some(PumpEnd::Held)
}

/// As much is kept as may be.
fn is_full<T: Transport>(connection: &Connection<T>, cursor: &WriteCursor) -> bool {
    let most = if connection.ring.pauses() { 0 } else { connection.most_kept(cursor) };
    !connection.is_plain() && cursor.kept_bytes() > most
}

/// On a busy queue a batch fills in a moment: to wait for that is cheaper than to take the lock from the producers for a
/// few messages, or to sleep and be woken by them. Where other writers wait, their turn is long enough for that.
fn next_batch(turn: usize, is_crowded: bool, spin: &mut AdaptiveSpin, queue: &Queue) -> Option<Batch> {
    if turn < BUSY || is_crowded {
        return queue.take();
    }
    let mut sealed = queue.take_sealed();
    if sealed.is_none() {
        spin.spin_until(|| {
            sealed = queue.take_sealed();
            sealed.is_some()
        });
    }
    sealed.or_else(|| queue.take())
}
