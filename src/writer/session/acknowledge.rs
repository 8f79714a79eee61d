//! What a reader that keeps a ledger has handled, and what kind of reader it is.
//!
//! 1. Such a reader says so with a record when it accepts the connection. Until then it is unknown, and what is sent is kept.
//! 2. A reader that has read something, and has sent no record before, is a plain one: what is sent is out of the writer's hands.
//! 3. Of one that keeps a ledger, what it has handled is let go. That is looked at in passing while messages go out, and at
//!    growing intervals when none do, so that an idle writer gives its memory back.
//! 4. A writer that requires acknowledgement asks with an empty frame, and holds its messages back until the record is there.

use std::time::{Duration, Instant};

use super::connection::{Connection, Peer};
use super::{Session, SessionContext, State, Wake, add};
use crate::error::{Context, Error};
use crate::frame::READ_BUFFER;
use crate::options::Acknowledge;
use crate::sys::ledger::Handled;
use crate::writer::in_flight::PIECE;
use crate::writer::records::RecordEvent;
use crate::writer::redial::Ended;
use crate::writer::transport::{Sent, Transport};
use crate::writer::write_cursor::{Keep, WriteCursor};

/// An empty frame.
const PROBE: [u8; 1] = [0];

/// When what is kept is looked at next, at first, after a lone message, and at most.
const FIRST_POLL: Duration = Duration::from_millis(1);
const LONE_POLL: Duration = Duration::from_millis(100);
const LONGEST_POLL: Duration = Duration::from_secs(1);
/// After a look at this distance a reader that has said nothing is not looked at again.
const LAST_POLL: Duration = Duration::from_millis(100);

/// The next look at what is kept.
#[derive(Debug, Default)]
pub(super) struct LedgerPoll {
    next: Option<(Instant, Duration)>,
    /// How much had been sent when the looks at a reader that says nothing came to their end.
    ended_at: Option<u64>,
}

/// Whether a connection may carry messages.
pub(super) enum Permission {
    Granted,
    /// The reader has not said yet what it is.
    Pending,
    /// It does not acknowledge, and has to.
    Denied,
    /// The question does not go out.
    Failed(Sent),
}

impl<T: Transport> Connection<T> {
    /// Whether what has been sent is kept.
    pub(super) fn keep(&self) -> Keep {
        if self.is_plain() { Keep::Nothing } else { Keep::UntilHandled }
    }

    /// How much is sent at most before the reader has handled some of it: what the kernel and an honest reader hold.
    pub(super) fn most_kept(&self, cursor: &WriteCursor) -> u64 {
        (self.transport.send_buffer() + PIECE + 2 * READ_BUFFER + 2 * cursor.largest()) as u64
    }

    /// Whether the reader's process has surely received something.
    fn has_been_read(&self, cursor: &WriteCursor) -> bool {
        let sent = cursor.sent_to();
        sent > (self.transport.send_buffer() + PIECE) as u64
            || (sent > 0 && self.transport.unread_by_peer() == 0 && !self.transport.has_hung_up())
    }

    /// Receives all records that are there.
    pub(super) fn listen(&mut self) {
        loop {
            match self.transport.receive() {
                RecordEvent::WouldBlock => return,
                RecordEvent::Eof => {
                    self.records_ended = true;
                    return;
                }
                RecordEvent::Ledger => self.peer = Peer::Acknowledges,
                RecordEvent::NoLedger if self.peer == Peer::Unknown => self.peer = Peer::Plain,
                // Nothing that it sends is a record any more, and it need not be waited for.
                RecordEvent::NoLedger => self.records_ended = true,
                RecordEvent::Ring => {}
                RecordEvent::Reset => self.reset = true,
                RecordEvent::Final { position, end } => self.final_record = Some((position, end)),
            }
        }
    }

    /// Finds out what kind of reader it is (1, 2).
    pub(super) fn identify(&mut self, cursor: &mut WriteCursor) {
        if self.peer != Peer::Unknown {
            return;
        }
        let has_been_read = self.has_been_read(cursor); // before the receive: the record comes first
        self.listen();
        if self.peer == Peer::Unknown && has_been_read && self.final_record.is_none() {
            self.peer = Peer::Plain;
        }
        if self.is_plain() {
            cursor.forget_sent();
        }
    }

    /// What the ledger says, as far as it can be true.
    pub(super) fn handled(&self, cursor: &WriteCursor) -> Handled {
        if self.peer != Peer::Acknowledges {
            return Handled::default();
        }
        let Handled { position, end } = self.transport.handled();
        let position = position.min(cursor.sent_to());
        Handled { position, end: end.clamp(position, cursor.sent_to()) }
    }

    /// As [`Connection::handled`], of a connection that has not ended: behind the end of one its reader may give the slot to
    /// another, whose positions are not ours. `None`: it has ended by now.
    pub(super) fn handled_if_connected(&self, cursor: &WriteCursor) -> Option<Handled> {
        let handled = self.handled(cursor);
        (!self.transport.has_hung_up()).then_some(handled)
    }
}

impl<T: Transport> Session<T> {
    /// The connection, also one that its reader is ending.
    pub(super) fn connection(&self) -> Option<&Connection<T>> {
        match &self.state {
            State::Connected(connection) => Some(connection),
            State::Closing(closing) => Some(&closing.connection),
            State::Disconnected => None,
        }
    }

    /// Lets go what the reader has handled.
    pub(super) fn release_handled(&mut self, context: &SessionContext<'_>) {
        self.release_ring(context);
        let (Some(connection), false) = (self.connection(), self.cursor.kept_bytes() == 0) else { return };
        if connection.peer == Peer::Acknowledges
            && let Some(handled) = connection.handled_if_connected(&self.cursor)
        {
            let count = self.cursor.release(handled.position);
            self.acknowledged(count, context);
        }
    }

    /// So many messages have been handled.
    pub(super) fn acknowledged(&mut self, count: u64, context: &SessionContext<'_>) {
        if count > 0 {
            self.attempts = 0;
            add(&context.counters.acknowledged, count);
        }
    }

    /// Finds out what the peer is, and how far it has come, for a caller that wants to know.
    pub(in crate::writer) fn poll_ledger(&mut self, context: &SessionContext<'_>) {
        if let State::Connected(connection) = &mut self.state {
            connection.identify(&mut self.cursor);
            self.note_peer(context);
        }
        self.release_handled(context);
    }

    /// The peer may have told what it is.
    pub(super) fn note_peer(&mut self, context: &SessionContext<'_>) {
        if let State::Connected(connection) = &self.state
            && connection.peer != Peer::Unknown
        {
            self.expects_ledger = connection.peer == Peer::Acknowledges;
            if self.expects_ledger || context.options.acknowledge != Acknowledge::Required {
                self.redial.admitted();
            }
        }
    }

    /// Whether messages may go out on the connection (4).
    pub(super) fn ask_permission(&mut self, context: &SessionContext<'_>) -> Permission {
        let State::Connected(connection) = &mut self.state else { return Permission::Pending };
        if context.options.acknowledge != Acknowledge::Required || connection.peer == Peer::Acknowledges {
            return Permission::Granted;
        }
        if !connection.has_probed {
            match connection.send([&PROBE, &[]]) {
                Sent::Taken(bytes) => self.cursor.skip(bytes as u64),
                other => return Permission::Failed(other),
            }
            connection.has_probed = true;
            connection.stall = None;
        }
        connection.identify(&mut self.cursor);
        let permission = match connection.peer {
            Peer::Acknowledges => Permission::Granted,
            Peer::Unknown => Permission::Pending,
            Peer::Plain => Permission::Denied,
        };
        self.note_peer(context);
        permission
    }

    /// Nothing is sent before the reader has answered, so nothing can stall where it never will: whether another one has taken
    /// its place is looked at each time that `write_timeout` has passed.
    pub(super) fn check_path_without_record(&mut self, now: Instant, timeout: Duration, wake: &mut Wake) -> bool {
        let State::Connected(connection) = &mut self.state else { return false };
        if !connection.awaits_record() {
            return false;
        }
        let Some(at) = connection.path_checked.checked_add(timeout) else { return false };
        if now < at {
            wake.at(at);
            return false;
        }
        connection.path_checked = now;
        self.path_check = Some(connection.made);
        true
    }

    /// The reader cannot acknowledge: the connection is given up, and made anew after a pause.
    pub(super) fn refuse_plain(&mut self, now: Instant, context: &SessionContext<'_>) {
        let State::Connected(connection) = self.take_state() else { return };
        add(&context.counters.connect_failures, 1);
        self.report(Error::NotAcknowledged, Context::Connect);
        let lasted = now.saturating_duration_since(connection.made);
        connection.transport.close();
        self.cursor.rewind();
        self.redial.connection_ending(now);
        let ended = Ended { has_sent: false, has_lost: true, broke: true, lasted };
        self.redial.connection_ended(now, ended, context.options.max_backoff);
        self.redial.refused(now);
    }

    /// As long as something is kept it is looked at again (3). A reader that has not even accepted may be long in coming, and an
    /// idle writer sleeps: its record is an event. That a plain reader has read the question (4) is none.
    pub(super) fn schedule_poll(&mut self, now: Instant, context: &SessionContext<'_>, wake: &mut Wake) {
        let is_due = self.poll.next.is_some_and(|(at, _)| now >= at);
        if is_due {
            self.poll_ledger(context);
        }
        let has_probed = self.awaits_record();
        if !has_probed && !self.has_unacknowledged() {
            self.poll.next = None;
        } else if is_due
            && !has_probed
            && !self.is_acknowledged()
            && self.poll.next.is_some_and(|(_, step)| step >= LAST_POLL)
        {
            self.poll = LedgerPoll { next: None, ended_at: Some(self.cursor.sent_to()) };
        } else if is_due
            || (self.poll.next.is_none() && (has_probed || self.poll.ended_at != Some(self.cursor.sent_to())))
        {
            let step = self.poll.next.map_or(FIRST_POLL, |(_, step)| (step * 2).min(LONGEST_POLL));
            self.poll = LedgerPoll { next: Some((now + step, step)), ended_at: None };
        }
        wake.at(self.poll.next.map(|(at, _)| at));
    }

    /// A lone message has been sent outside of a step. When it has to be looked at, if nobody does anyway.
    pub(in crate::writer) fn schedule_lone_poll(&mut self, now: Instant) -> Option<Instant> {
        if self.poll.next.is_some() || !self.has_unacknowledged() {
            return None;
        }
        self.poll = LedgerPoll { next: Some((now + LONE_POLL, LONE_POLL)), ended_at: None };
        Some(now + LONE_POLL)
    }

    /// Whether the reader of this connection says what it has handled, or probably will.
    pub(super) fn acknowledges(&self, connection: &Connection<T>) -> bool {
        match connection.peer {
            Peer::Acknowledges => true,
            Peer::Unknown => self.expects_ledger,
            Peer::Plain => false,
        }
    }

    fn awaits_record(&self) -> bool {
        matches!(&self.state, State::Connected(connection) if connection.awaits_record())
    }

    /// Whether the reader of the present connection has said that it acknowledges.
    pub(in crate::writer) fn is_acknowledged(&self) -> bool {
        matches!(&self.state, State::Connected(connection) if connection.peer == Peer::Acknowledges)
    }

    fn has_unacknowledged(&self) -> bool {
        matches!(&self.state, State::Connected(connection) if !connection.is_plain()) && self.cursor.kept_bytes() > 0
    }
}
