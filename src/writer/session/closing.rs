//! The end of a connection: its verdict is waited for, what it carried is counted, and what the reader has not handled is sent
//! again on the next one.

use std::io;
use std::time::{Duration, Instant};

use super::connection::{Connection, Peer};
use super::{Next, Session, SessionContext, State, Wake, add};
use crate::delivery::record::End as RecordedEnd;
use crate::error::{Context, Error};
use crate::sys::ledger::Handled;
use crate::writer::redial::Ended;
use crate::writer::transport::{Readiness, Transport};
use crate::writer::write_cursor::WriteCursor;

/// A connection that its reader has ended: it takes nothing more, and may still read what it was sent (`SHUT_RD`). The messages
/// of the next connection must not overtake the last ones of this, and only the reader's close tells what became of
/// those, so the close is waited for.
#[derive(Debug)]
pub(in crate::writer) struct Closing<T> {
    pub(super) connection: Connection<T>,
    /// What the connection broke on, if it broke.
    pub(super) cause: Option<io::Error>,
    /// The next connection, if a drain has dialled it already.
    pub(super) ahead: Option<T>,
    has_hung_up: bool,
    unread: usize,
    handled: Handled,
    /// When there was progress last.
    unread_since: Instant,
    step: Duration,
}

/// What became of what a connection carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A plain reader has gone, over unread bytes or not.
    Plain { has_lost: bool },
    /// The reader has said how far it has handled the stream, and why it closes.
    Final { position: u64, end: RecordedEnd },
    /// The reader has died: its ledger says how far it had come.
    Died(Handled),
    /// The reader lives, perhaps, and does not move: nobody knows what it will still handle.
    Unknown,
}

/// How soon a reader that has not closed yet is looked at again, at first and at most. Its close is an event; that it has
/// read everything is not.
const CLOSING_STEP: Duration = Duration::from_micros(200);
const CLOSING_STEP_LONGEST: Duration = Duration::from_millis(10);

/// A reader is taken for hung when this many `write_timeout`s pass without progress. Progress shows by whole buffers of the
/// kernel's, up to 36 KiB: with fewer, a reader that takes less than that in a `write_timeout` would seem to hang. One that has
/// hung up already hardly reads on.
const TIMEOUTS_WITHOUT_PROGRESS: u32 = 8;

impl<T: Transport> Closing<T> {
    pub(super) fn new(now: Instant, connection: Connection<T>, cause: Option<io::Error>) -> Closing<T> {
        let unread = connection.transport.unread_by_peer();
        Closing {
            connection,
            cause,
            ahead: None,
            has_hung_up: false,
            unread,
            handled: Handled::default(),
            unread_since: now,
            step: CLOSING_STEP,
        }
    }

    /// `Some` when the connection is over: what became of what it carried. Else the time of the next look is due.
    pub(super) fn outcome(
        &mut self,
        now: Instant,
        write_timeout: Duration,
        cursor: &WriteCursor,
        expects_ledger: bool,
    ) -> Option<Outcome> {
        let connection = &mut self.connection;
        if connection.is_plain() {
            return self.plain_outcome(now, write_timeout);
        }
        let unread = connection.transport.unread_by_peer();
        let has_hung_up = connection.transport.has_hung_up();
        connection.listen(); // after the look for the hang-up, which comes behind the last record
        let handled = connection.handled(cursor);
        match (connection.final_record, connection.peer) {
            (Some((position, end)), _) if has_hung_up => return Some(Outcome::Final { position, end }),
            (_, Peer::Acknowledges) if has_hung_up => return Some(Outcome::Died(handled)),
            (Some(_), _) | (_, Peer::Acknowledges) => {}
            (None, Peer::Unknown) if !has_hung_up && unread == 0 => {
                connection.peer = Peer::Plain; // it has read, and sent no record
                return Some(Outcome::Plain { has_lost: false });
            }
            _ => {
                return match self.plain_outcome(now, write_timeout) {
                    // It was killed before it accepted the connection, and has read nothing. (One that closes over nothing
                    // unread has accepted, and is a plain one.)
                    Some(Outcome::Plain { has_lost: true }) if expects_ledger && self.has_hung_up => {
                        Some(Outcome::Died(handled))
                    }
                    Some(Outcome::Plain { has_lost: true }) if expects_ledger => Some(Outcome::Unknown),
                    outcome => outcome,
                };
            }
        }
        self.has_hung_up = has_hung_up;
        // It has not hung up, and may be in a long callback.
        if handled != self.handled {
            (self.handled, self.unread_since) = (handled, now);
        }
        (now.saturating_duration_since(self.unread_since) >= write_timeout).then_some(Outcome::Unknown)
    }

    /// A reader that shuts both directions first and closes then hangs up while SO_ERROR does not say yet what becomes of the
    /// unread bytes. It says so before the kernel throws them away (`unix_release_sock`), so with nothing unread it is final.
    fn plain_outcome(&mut self, now: Instant, write_timeout: Duration) -> Option<Outcome> {
        let transport = &mut self.connection.transport;
        let unread = transport.unread_by_peer(); // before the look for a hang-up, which comes before they are thrown away
        self.has_hung_up = transport.has_hung_up();
        if self.has_hung_up {
            self.connection.reset |= transport.take_reset();
            if self.connection.reset || unread == 0 {
                return Some(Outcome::Plain { has_lost: self.connection.reset });
            }
        } else if unread == 0 {
            self.connection.in_flight.all_read();
            return Some(Outcome::Plain { has_lost: false });
        }
        if unread != self.unread {
            (self.unread, self.unread_since) = (unread, now);
        }
        let timeouts = if self.has_hung_up { 1 } else { TIMEOUTS_WITHOUT_PROGRESS };
        let patience = write_timeout.saturating_mul(timeouts);
        (now.saturating_duration_since(self.unread_since) >= patience).then_some(Outcome::Plain { has_lost: true })
    }

    /// A hang-up is told once: in a host's event loop it would be told as long as it lasts.
    pub(super) fn readiness(&self) -> Readiness {
        if self.has_hung_up { Readiness::Nothing } else { Readiness::HangUp }
    }

    /// When to look again.
    pub(super) fn look_at(&mut self, now: Instant) -> Instant {
        let step = self.step;
        self.step = (self.step * 2).min(CLOSING_STEP_LONGEST);
        now + step
    }
}

impl<T: Transport> Session<T> {
    /// The poller says that the peer has closed. That is no failure, unless a message was being written.
    pub(super) fn hung_up(&mut self, now: Instant, context: &SessionContext<'_>) {
        // Of several threads of a host that were told, the last ones may come upon the next connection.
        if let State::Connected(connection) = &self.state
            && connection.transport.has_hung_up()
        {
            let writing = self.cursor.is_torn() || connection.stall.is_some();
            self.broken(now, writing.then(T::broken_pipe), context);
        }
    }

    /// The connection broke, or its peer has closed.
    pub(super) fn broken(&mut self, now: Instant, cause: Option<io::Error>, context: &SessionContext<'_>) {
        match self.take_state() {
            State::Connected(mut connection) => {
                self.take_back_ring(std::mem::take(&mut connection.ring), context);
                self.redial.connection_ending(now);
                self.state = State::Closing(Box::new(Closing::new(now, connection, cause)));
            }
            other => self.state = other,
        }
    }

    pub(super) fn step_closing(&mut self, now: Instant, context: &SessionContext<'_>, wake: &mut Wake) -> Option<Next> {
        let due = self.redial.due(self.is_hurried(context));
        let is_left = self.leaves_dial_to_threads(now, due, context);
        let State::Closing(closing) = &mut self.state else { return None };
        let outcome = closing.outcome(now, context.options.write_timeout, &self.cursor, self.expects_ledger);
        if let Some(outcome) = outcome {
            let State::Closing(closing) = self.take_state() else { return None };
            let Closing { connection, cause, ahead, .. } = *closing;
            self.lose(now, connection, cause, outcome, context);
            if let Some(ahead) = ahead {
                self.connected(now, ahead, context);
            }
            return None;
        }
        wake.at(closing.look_at(now));
        // A drain has no time to wait for the close before it finds out that nobody listens any more.
        let is_unsent = self.drain.as_ref().is_some_and(|drain| !drain.is_sent());
        let may_resend = closing.connection.peer == Peer::Acknowledges || self.expects_ledger;
        if is_unsent && !may_resend && closing.ahead.is_none() && !self.is_dialling {
            if now >= due && !is_left {
                return Some(self.dial(context));
            }
            wake.at(due);
        }
        Some(Next::Wait)
    }

    /// The end of a connection: what became of what it carried, and of the message that it broke on.
    pub(super) fn lose(
        &mut self,
        now: Instant,
        mut connection: Connection<T>,
        cause: Option<io::Error>,
        outcome: Outcome,
        context: &SessionContext<'_>,
    ) {
        self.take_back_ring(std::mem::take(&mut connection.ring), context);
        let lasted = now.saturating_duration_since(connection.made);
        let longest = context.options.max_backoff;
        match outcome {
            Outcome::Plain { has_lost } => {
                let lost = if has_lost { connection.in_flight.in_doubt() } else { 0 };
                add(&context.counters.suspected_lost, lost);
                let has_sent = connection.in_flight.has_sent();
                let ended = Ended { has_sent, has_lost: lost > 0, broke: cause.is_some(), lasted };
                self.expects_ledger &= has_lost || !has_sent;
                self.cursor.forget_sent();
                self.cursor.rewind();
                self.redial.connection_ended(now, ended, longest);
                if let Some(cause) = cause {
                    self.count_attempt(now, cause, context);
                }
            }
            Outcome::Final { position, end } => {
                let has_sent = self.release_final(&connection, position, context);
                let is_refusal = matches!(end, RecordedEnd::NotAdmitted | RecordedEnd::TooManyConnections);
                self.cursor.rewind();
                let broke = is_refusal || !self.cursor.is_empty();
                let ended = Ended { has_sent, has_lost: is_refusal, broke, lasted };
                self.redial.connection_ended(now, ended, longest);
                if is_refusal {
                    self.redial.refused(now);
                }
                self.report_reason(now, end, context);
            }
            Outcome::Died(handled) => {
                let has_sent = self.release_final(&connection, handled.position, context);
                if handled.is_busy() && !context.options.redeliver {
                    let lost = self.cursor.release(handled.end);
                    add(&context.counters.suspected_lost, lost);
                }
                let was_in_callback = handled.is_busy() && context.options.redeliver;
                self.cursor.rewind();
                let broke = cause.is_some() || !self.cursor.is_empty();
                let ended = Ended { has_sent, has_lost: false, broke, lasted };
                self.redial.connection_ended(now, ended, longest);
                if was_in_callback {
                    self.count_attempt(now, cause.unwrap_or_else(T::broken_pipe), context);
                } else if let Some(cause) = cause {
                    self.report_broken(cause, context);
                }
            }
            Outcome::Unknown => {
                let handled = connection.handled_if_connected(&self.cursor).unwrap_or_default();
                let has_sent = self.release_final(&connection, handled.position, context);
                if !context.options.redeliver {
                    let lost = self.cursor.release(self.cursor.sent_to());
                    add(&context.counters.suspected_lost, lost);
                }
                self.cursor.rewind();
                let broke = cause.is_some() || !self.cursor.is_empty();
                let ended = Ended { has_sent, has_lost: false, broke, lasted };
                self.redial.connection_ended(now, ended, longest);
                if let Some(cause) = cause {
                    self.report_broken(cause, context);
                }
            }
        }
        connection.transport.close();
    }

    /// The reader has handled the stream up to `position`, and nothing behind it will be. Whether that is any message.
    fn release_final(&mut self, connection: &Connection<T>, position: u64, context: &SessionContext<'_>) -> bool {
        let count = self.cursor.release(position.min(self.cursor.sent_to()));
        self.acknowledged(count, context);
        position > u64::from(connection.has_probed)
    }

    /// A reader has ended the connection for a reason that the host has to hear.
    fn report_reason(&mut self, now: Instant, end: RecordedEnd, context: &SessionContext<'_>) {
        let refused = |reason| Error::Refused { path: context.path.into(), reason };
        match end {
            RecordedEnd::TooLarge { limit } => {
                let size = self.cursor.first_payload();
                self.give_up_first(now, Error::MessageTooLarge { size, limit }, context);
            }
            RecordedEnd::Malformed => self.give_up_first(now, Error::InvalidLengthPrefix, context),
            RecordedEnd::NotAdmitted => {
                add(&context.counters.connect_failures, 1);
                let action = format!("the reader at {} does not admit this process", context.path.display()).into();
                let source = io::ErrorKind::PermissionDenied.into();
                self.report(Error::PermissionDenied { action, source }, Context::Connect);
            }
            RecordedEnd::TooManyConnections => {
                add(&context.counters.connect_failures, 1);
                self.report(refused("it has as many connections as it may have"), Context::Connect);
            }
            RecordedEnd::NoResources => self.report(refused("it lacks memory or descriptors"), Context::Write),
            RecordedEnd::Writer | RecordedEnd::Idle | RecordedEnd::Stop => {}
        }
    }

    /// The reader does not take the first message, and never will: it is given up, unless the host wants no message to be.
    fn give_up_first(&mut self, now: Instant, error: Error, context: &SessionContext<'_>) {
        add(&context.counters.failed, 1);
        let at = self.write_context();
        if context.options.max_attempts == 0 {
            self.attempts += 1;
            return self.report(error, at);
        }
        self.abandon_first(now, error, at, context);
    }

    fn abandon_first(&mut self, now: Instant, error: Error, at: Context, context: &SessionContext<'_>) {
        let given_up = self.cursor.abandon_first(context.queue);
        add(&context.counters.suspected_lost, given_up.lost);
        self.attempts = 0;
        self.redial.message_given_up(now, context.options.max_backoff);
        self.report(error, at);
    }

    fn report_broken(&mut self, cause: io::Error, context: &SessionContext<'_>) {
        add(&context.counters.failed, 1);
        let at = self.write_context();
        self.report(Error::NoConsumer(cause), at);
    }

    fn count_attempt(&mut self, now: Instant, cause: io::Error, context: &SessionContext<'_>) {
        self.report_broken(cause, context);
        self.attempts += 1;
        let limit = context.options.max_attempts;
        if limit > 0 && self.attempts >= limit {
            self.abandon_first(now, Error::Undelivered(1), Context::WriteAgain, context);
        }
    }
}
