//! How a session comes to its end: what is left is sent or given up, and counted.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::error::{Context, Error};
use crate::lifecycle::{Ending, Phase};

use super::{Next, Session, SessionContext, State, Wake, add};
use crate::writer::batch::Frames;
use crate::writer::batch_pool;
use crate::writer::queue::Fate;
use crate::writer::transport::Transport;

/// How long a drain that has sent everything waits for the reader to read it.
const LAST_LOOK: Duration = Duration::from_millis(250);
const LAST_LOOK_STEP: Duration = Duration::from_micros(200);
const LAST_LOOK_STEP_LONGEST: Duration = Duration::from_millis(5);

/// A drain that is going on.
#[derive(Debug)]
pub(super) struct Drain {
    since: Instant,
    /// What had been lost before it began.
    lost_before: u64,
    /// When everything had been sent.
    sent_at: Option<Instant>,
    step: Duration,
}

impl Drain {
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn is_sent(&self) -> bool {
        self.sent_at.is_some()
    }
}

impl<T: Transport> Session<T> {
    /// Begins the drain when the phase says so, and ends it: when its time is up, when nobody listens, or when there is
    /// nothing to send and no connection.
    pub(super) fn check_drain(
        &mut self,
        now: Instant,
        phase: Phase,
        context: &SessionContext<'_>,
        wake: &mut Wake,
    ) -> Option<Next> {
        let Phase::Draining { since, deadline } = phase else { return None };
        let lost = lost(context);
        let drain = self.drain.get_or_insert(Drain { since, lost_before: lost, sent_at: None, step: LAST_LOOK_STEP });
        let is_sent = self.cursor.is_empty() && context.queue.is_empty();
        if !is_sent {
            drain.sent_at = None; // what was sent may have to be sent again
        }
        let is_sent_at = is_sent.then(|| *drain.sent_at.get_or_insert(now));
        let awaits_acknowledgement = is_sent && self.awaits_acknowledgement() && self.unhandled(context) > 0;
        if awaits_acknowledgement && deadline.is_none_or(|deadline| now < deadline) {
            wake.at(deadline);
            return None;
        }
        if is_sent && self.has_unhandled(context) {
            let count = self.abandon_all(context);
            return Some(if count == 0 { self.finish_sent(context) } else { self.finish(Ending::TimedOut, context) });
        }
        if let Some(sent_at) = is_sent_at {
            let is_over = matches!(self.state, State::Disconnected)
                || now >= sent_at + LAST_LOOK
                || deadline.is_some_and(|deadline| now >= deadline);
            wake.at(sent_at + LAST_LOOK);
            wake.at(deadline);
            return is_over.then(|| self.finish_sent(context));
        }
        if deadline.is_some_and(|deadline| now >= deadline) {
            self.abandon_all(context);
            return Some(self.finish(Ending::TimedOut, context));
        }
        wake.at(deadline);
        let is_down = !matches!(self.state, State::Connected(_));
        let gives_up_at =
            self.redial.gives_up_at(since).filter(|_| is_down && !context.options.drain_until_deadline)?;
        wake.at(gives_up_at);
        (now >= gives_up_at).then(|| {
            self.abandon_all(context);
            self.finish_sent(context)
        })
    }

    /// Everything has been sent: the reader may not have read it yet, or may be about to hang up over it.
    pub(super) fn last_look(&mut self, now: Instant, context: &SessionContext<'_>, wake: &mut Wake) -> Option<Next> {
        if let State::Connected(connection) = &mut self.state {
            connection.check_read(); // as for a flush: before the look at the records
        }
        self.poll_ledger(context);
        let awaits_acknowledgement = self.awaits_acknowledgement();
        let in_ring = self.unhandled_in_ring(context);
        let State::Connected(connection) = &mut self.state else { return None };
        if connection.unsettled(&self.cursor) + in_ring == 0 {
            return Some(self.finish_sent(context));
        }
        if connection.transport.has_hung_up() {
            self.broken(now, None, context);
            return None;
        }
        let drain = self.drain.as_mut()?;
        wake.at(now + drain.step);
        drain.step = (drain.step * 2).min(LAST_LOOK_STEP_LONGEST);
        // The first look comes before the drain has noted that everything is sent.
        let sent_at = *drain.sent_at.get_or_insert(now);
        if !awaits_acknowledgement {
            wake.at(sent_at + LAST_LOOK);
        }
        Some(Next::Wait)
    }

    /// Whether the reader will tell what it has handled.
    fn awaits_acknowledgement(&self) -> bool {
        self.connection().is_some_and(|connection| self.acknowledges(connection))
    }

    /// Whether something has been sent that such a reader has not handled.
    fn has_unhandled(&mut self, context: &SessionContext<'_>) -> bool {
        self.release_handled(context);
        self.awaits_acknowledgement() && self.unhandled(context) > 0
    }

    /// Messages that have been sent, and not handled.
    fn unhandled(&self, context: &SessionContext<'_>) -> u64 {
        self.cursor.kept_messages() + self.unhandled_in_ring(context)
    }

    /// The end of a writer that nobody drives.
    pub(in crate::writer) fn give_up(&mut self, context: &SessionContext<'_>) -> Ending {
        if let Some(ending) = self.ended {
            return ending;
        }
        let count = self.abandon_all(context);
        let ending = if count == 0 { Ending::Clean } else { Ending::Undelivered(count) };
        self.finish(ending, context);
        ending
    }

    /// Gives up every message that has not been sent, and what has been sent and not handled, counted and in one report.
    /// Returns how many.
    fn abandon_all(&mut self, context: &SessionContext<'_>) -> u64 {
        let has_failed_before = self.attempts > 0 && !self.cursor.is_empty();
        self.release_handled(context);
        if !self.awaits_acknowledgement() && !matches!(self.state, State::Disconnected) {
            self.cursor.forget_sent(); // nobody will tell
        }
        let mut given_up = self.cursor.abandon_rest(context.queue);
        self.give_up_ring(&mut given_up, context);
        while let Some(batch) = context.queue.take() {
            let Frames { messages, payload, .. } = *batch;
            context.queue.finish(Fate::Abandoned, messages, payload);
            given_up.abandoned += messages;
            batch.recycle();
        }
        add(&context.counters.failed, given_up.abandoned);
        add(&context.counters.suspected_lost, given_up.lost);
        let count = given_up.messages();
        if count > 0 {
            let is_retry = has_failed_before && count == 1;
            self.report(Error::Undelivered(count), if is_retry { Context::DrainRetry } else { Context::Drain });
        }
        count
    }

    /// Nothing is left to send. It has all come through unless something was given up or lost since the drain began.
    fn finish_sent(&mut self, context: &SessionContext<'_>) -> Next {
        self.close_connection(context);
        let lost = lost(context);
        let lost_before = self.drain.as_ref().map_or(lost, |drain| drain.lost_before);
        match lost - lost_before {
            0 => self.finish(Ending::Clean, context),
            count => self.finish(Ending::Undelivered(count), context),
        }
    }

    fn finish(&mut self, ending: Ending, context: &SessionContext<'_>) -> Next {
        self.close_connection(context);
        batch_pool::clear();
        Next::Finished(*self.ended.insert(ending))
    }

    /// Closes what there is. A plain peer that has hung up over unread messages has lost them. What another one has not handled
    /// has been counted, when it was given up.
    fn close_connection(&mut self, context: &SessionContext<'_>) {
        let mut connection = match self.take_state() {
            State::Disconnected => return,
            State::Connected(connection) => connection,
            State::Closing(closing) => {
                if let Some(ahead) = closing.ahead {
                    ahead.close();
                }
                closing.connection
            }
        };
        let is_plain = !self.acknowledges(&connection);
        if is_plain && connection.transport.has_hung_up() && (connection.transport.take_reset() || connection.reset) {
            add(&context.counters.suspected_lost, connection.in_flight.in_doubt());
        }
        connection.transport.close();
        drop(context.queue.take_ring());
    }
}

/// Messages that were accepted and did not, or may not have, come through.
fn lost(context: &SessionContext<'_>) -> u64 {
    context.queue.account().abandoned.messages + context.counters.suspected_lost.load(Ordering::Relaxed)
}
