//! The life of a writer's connections: dial, send, lose, dial again, drain. A state machine without I/O, threads or a clock.
//!
//! Each call of [`Session::step`] is given the time and what has happened, does what can be done at once, and says what it
//! waits for. The driver does the rest: it dials, arms timers and readiness, and delivers the reports when no lock is held.
//!
//! 1. *Disconnected*: `redial` says when to dial. The driver dials without the session's lock, since finding a path may wait
//!    for a file system.
//! 2. *Connected*: batches go out until the kernel takes nothing more, or nothing is left.
//! 3. *Closing*: the reader has ended the connection. Its close tells what became of the messages in flight; until then
//!    nothing is sent on another connection. Then 1 again.
//! 4. *Ended*: the drain is over. Whoever asks later is told the same.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::adaptive_spin::AdaptiveSpin;
use crate::error::{Context, Error};
use crate::lifecycle::{Ending, Phase};
use crate::options::WriterOptions;

use super::batch_pool;
use super::queue::Queue;
use super::redial::{DialFailure, Redial, Verdict};
use super::transport::{Readiness, Transport};
use super::write_cursor::WriteCursor;

mod acknowledge;
mod closing;
mod connection;
mod drain;
mod pump;
mod ring;
#[cfg(all(test, not(loom)))]
mod tests;

use acknowledge::LedgerPoll;
use closing::{Closing, Outcome};
use connection::Connection;
use drain::Drain;

/// How long a caller that waits leaves a dial to the threads.
const GUEST_PATIENCE: Duration = Duration::from_millis(50);

/// Something to tell the error callback.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) error: Error,
    pub(super) context: Context,
}

/// What the session counts beside the queue's account. Only the session writes.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) failed: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) suspected_lost: AtomicU64,
    pub(super) connections: AtomicU64,
    pub(super) connect_failures: AtomicU64,
    pub(super) acknowledged: AtomicU64,
    pub(super) redelivered: AtomicU64,
    /// Payload that went from batches into rings. What producers put there themselves the queue counts.
    pub(super) ring_bytes: AtomicU64,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// What the session works with.
#[derive(Clone, Copy)]
pub(super) struct SessionContext<'a> {
    /// Where the reader listens, for texts.
    pub(super) path: &'a Path,
    pub(super) options: &'a WriterOptions,
    pub(super) queue: &'a Queue,
    pub(super) counters: &'a Counters,
    /// Whether other writers wait for the thread that drives this one.
    pub(super) is_crowded: &'a dyn Fn() -> bool,
    /// The time by now: a step may take long, and what begins at its end has not lasted as long as the step.
    pub(super) clock: &'a dyn Fn() -> Instant,
    /// A flush, or a write with a timeout, waits.
    pub(super) is_awaited: bool,
    /// A caller that waits steps the session beside the threads that drive it.
    pub(super) is_guest: bool,
}

/// What has happened since the last step.
#[derive(Debug)]
pub(super) enum Event<T> {
    /// Time has passed, somebody wants something, or one of these.
    Woken(Woken),
    /// [`Next::Dial`] has been done.
    Dialled(Result<T, DialError>),
    /// [`Next::CheckPath`] has been done: whether another socket than the connection's lies at the path.
    PathChecked { is_replaced: bool },
}

/// What the driver has heard.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Woken {
    /// The poller says that the connection's peer has closed.
    pub(super) hung_up: bool,
    /// Something was created at the path, or made accessible.
    pub(super) path_appeared: bool,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct DialError {
    pub(super) failure: DialFailure,
    pub(super) source: io::Error,
}

/// What the driver is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for the connection, for `wake_at`, or for a message.
    Wait,
    /// There is more to do: come again soon.
    Again,
    /// Connect, without the session's lock, and come again with [`Event::Dialled`]. The first message on the connection
    /// has this sequence number.
    Dial { first_sequence: u64 },
    /// Find out whether another socket has taken the path, and come again with [`Event::PathChecked`].
    CheckPath,
    /// The drain is over.
    Finished(Ending),
}

#[derive(Debug)]
pub(super) struct Step {
    pub(super) next: Next,
    pub(super) wake_at: Option<Instant>,
}

/// When the next step is due: the earliest of several reasons.
#[derive(Debug, Default)]
struct Wake(Option<Instant>);

impl Wake {
    fn at(&mut self, when: impl Into<Option<Instant>>) {
        self.0 = crate::lifecycle::earlier(self.0, when.into());
    }
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a session is connected nearly always, and a box could not say that memory is short"
)]
enum State<T> {
    Disconnected,
    Connected(Connection<T>),
    Closing(Box<Closing<T>>),
}

#[derive(Debug)]
pub(super) struct Session<T> {
    state: State<T>,
    cursor: WriteCursor,
    redial: Redial,
    /// The driver is connecting.
    is_dialling: bool,
    /// The number that the last dial has given to the first message on its connection.
    dialled_sequence: u64,
    /// Of which connection, by when it was made, the path is being checked.
    path_check: Option<Instant>,
    /// Connections that broke on the first message.
    attempts: u32,
    reports: Vec<Report>,
    trim_at: Option<Instant>,
    drain: Option<Drain>,
    ended: Option<Ending>,
    /// When a message last found the session asleep, and how many had been accepted then.
    lone_at: Instant,
    accepted_at_wake: u64,
    spin: AdaptiveSpin,
    poll: LedgerPoll,
    /// The last reader that told what it is keeps a ledger.
    expects_ledger: bool,
    /// A message was too long for a ring: messages of this kind may follow.
    too_long_for_ring: bool,
}

impl<T: Transport> Session<T> {
    pub(super) fn new(now: Instant, seed: u64) -> Session<T> {
        Session {
            state: State::Disconnected,
            cursor: WriteCursor::default(),
            redial: Redial::new(now, seed),
            is_dialling: false,
            dialled_sequence: 0,
            path_check: None,
            attempts: 0,
            reports: Vec::new(),
            trim_at: None,
            drain: None,
            ended: None,
            lone_at: now,
            accepted_at_wake: 0,
            spin: AdaptiveSpin::new(pump::LOOKS),
            poll: LedgerPoll::default(),
            expects_ledger: false,
            too_long_for_ring: false,
        }
    }

    /// What has to be told since the last call.
    pub(super) fn take_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected(_))
    }

    pub(super) fn is_over(&self) -> bool {
        self.ended.is_some()
    }

    /// The connection that the driver is to watch, and for what.
    pub(super) fn watched(&mut self) -> Option<(&mut T, Readiness)> {
        match &mut self.state {
            State::Connected(connection) => {
                let readiness = connection.readiness();
                Some((&mut connection.transport, readiness))
            }
            State::Closing(closing) => {
                let readiness = closing.readiness();
                Some((&mut closing.connection.transport, readiness))
            }
            State::Disconnected => None,
        }
    }

    /// Does what can be done now.
    pub(super) fn step(&mut self, now: Instant, phase: Phase, event: Event<T>, context: &SessionContext<'_>) -> Step {
        let mut wake = Wake::default();
        self.take_event(now, event, context);
        let next = loop {
            if let Some(ending) = self.ended {
                break Next::Finished(ending);
            }
            if let Some(next) = self.check_drain(now, phase, context, &mut wake) {
                break next;
            }
            let next = match &self.state {
                State::Disconnected => self.step_disconnected(now, context, &mut wake),
                State::Connected(_) => self.step_connected(now, context, &mut wake),
                State::Closing(_) => self.step_closing(now, context, &mut wake),
            };
            if let Some(next) = next {
                break next;
            }
        };
        if next == Next::Wait {
            self.trim(now, &mut wake);
        }
        Step { next, wake_at: wake.0 }
    }

    fn take_event(&mut self, now: Instant, event: Event<T>, context: &SessionContext<'_>) {
        match event {
            Event::Woken(woken) => {
                if woken.hung_up {
                    self.hung_up(now, context);
                }
                if woken.path_appeared && matches!(self.state, State::Disconnected) {
                    self.redial.path_appeared(now);
                }
            }
            Event::Dialled(result) => {
                self.is_dialling = false;
                match result {
                    Ok(transport) => self.dialled(now, transport, context),
                    Err(error) => self.dial_failed(now, error, context),
                }
            }
            Event::PathChecked { is_replaced } => {
                // Meanwhile the stall may have ended, or another connection have been made.
                let made = self.path_check.take();
                if is_replaced
                    && matches!(&self.state, State::Connected(connection)
                        if (connection.stall.is_some() || connection.awaits_record()) && Some(connection.made) == made)
                    && let State::Connected(connection) = self.take_state()
                {
                    self.redial.connection_ending(now);
                    let outcome = if self.acknowledges(&connection) {
                        Outcome::Unknown
                    } else {
                        Outcome::Plain { has_lost: true }
                    };
                    self.lose(now, connection, None, outcome, context);
                }
            }
        }
    }

    fn take_state(&mut self) -> State<T> {
        std::mem::replace(&mut self.state, State::Disconnected)
    }

    /// A pause is short while somebody waits, and a drain is somebody.
    fn is_hurried(&self, context: &SessionContext<'_>) -> bool {
        context.is_awaited || self.drain.is_some()
    }

    fn step_disconnected(&mut self, now: Instant, context: &SessionContext<'_>, wake: &mut Wake) -> Option<Next> {
        if self.is_dialling {
            return Some(Next::Wait);
        }
        let due = self.redial.due(self.is_hurried(context));
        // From here on the next message wakes the session, if it may end the pause.
        let message_dials = || self.redial.message_ends_pause() && !(self.cursor.is_empty() && context.queue.sleep());
        if (now < due && !message_dials()) || self.leaves_dial_to_threads(now, due, context) {
            wake.at(due);
            return Some(Next::Wait);
        }
        Some(self.dial(context))
    }

    fn dial(&mut self, context: &SessionContext<'_>) -> Next {
        self.is_dialling = true;
        self.dialled_sequence = self.first_sequence(context);
        Next::Dial { first_sequence: self.dialled_sequence }
    }

    /// The number of the message that is sent next, after the end of a connection.
    fn first_sequence(&self, context: &SessionContext<'_>) -> u64 {
        let account = context.queue.account();
        let finished = account.sent.messages + account.abandoned.messages;
        finished - self.cursor.to_send_again() + 1
    }

    /// A path may take long to find, and a stop has its time to keep: it dials itself only if no thread does, since they may
    /// all be in callbacks.
    fn leaves_dial_to_threads(&self, now: Instant, due: Instant, context: &SessionContext<'_>) -> bool {
        let since = self.drain.as_ref().map_or(now, |drain| due.max(drain.since()));
        context.is_guest && now < since + GUEST_PATIENCE
    }

    fn dialled(&mut self, now: Instant, transport: T, context: &SessionContext<'_>) {
        if self.ended.is_some() {
            return transport.close();
        }
        add(&context.counters.connections, 1);
        self.redial.connected();
        match &mut self.state {
            State::Closing(closing) => closing.ahead = Some(transport),
            State::Disconnected => self.connected(now, transport, context),
            State::Connected(_) => transport.close(), // unreachable: a session that is connected does not dial
        }
    }

    fn connected(&mut self, now: Instant, transport: T, context: &SessionContext<'_>) {
        // Dialled before the end of the last connection was known: messages go out again, or were given up, and the name says
        // another first one.
        if self.dialled_sequence != self.first_sequence(context) {
            return transport.close();
        }
        if self.attempts > 0 {
            add(&context.counters.retried, 1);
        }
        self.state = State::Connected(Connection::new(now, transport, context.options.acknowledge));
    }

    fn dial_failed(&mut self, now: Instant, error: DialError, context: &SessionContext<'_>) {
        let (timeout, longest) = (context.options.dial_timeout, context.options.max_backoff);
        if self.ended.is_some() || self.redial.connect_failed(now, error.failure, timeout, longest) == Verdict::TryAgain
        {
            return;
        }
        add(&context.counters.connect_failures, 1);
        self.report(dial_error(context.path, timeout, error), Context::Connect);
    }

    /// Nothing to do now. What a burst left behind is given back when it has been quiet for a while.
    fn trim(&mut self, now: Instant, wake: &mut Wake) {
        self.trim_at = match self.trim_at {
            Some(at) if now < at => Some(at),
            Some(_) => batch_pool::trim(now),
            None => batch_pool::must_trim(now),
        };
        wake.at(self.trim_at);
    }

    fn report(&mut self, error: Error, context: Context) {
        self.reports.push(Report { error, context });
    }
}

fn dial_error(path: &Path, timeout: Duration, error: DialError) -> Error {
    match error.failure {
        DialFailure::BacklogFull => Error::BacklogFull { path: path.into(), timeout, source: error.source },
        _ => match error.source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Error::NotConnected { path: path.into(), source: error.source }
            }
            _ => Error::from_os(format!("failed to dial socket: {}", path.display()), error.source),
        },
    }
}
