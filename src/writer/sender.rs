//! The connection: dial, pump, lose it, dial again, drain. A state machine that never blocks.
//!
//! Each call of [`Sender::advance`] does what can be done now and says what it waits for: an event of the socket, the
//! next deadline, or the next message. What it has to report is gathered and delivered by the caller when no lock is
//! held, so that a callback may call anything.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::backoff;
use crate::error::{Context, Error};
use crate::lifecycle::{Ending, Phase};
use crate::patience::Patience;
use crate::sys::socket;
use crate::sys::{self, event::Interest};

use super::batch::{self, Batch, TRIM_AFTER};
use super::connection::{Connection, SOCKET};
use super::front::Front;
use super::link::{Farewell, Link};
use super::queue::Queue;
use super::window::Window;
use super::world::{World, add};

/// How much one call pumps, so that a host's loop, a stop and a flush get their turn.
const TURN: usize = 4 << 20;
/// And how much while other writers wait for the same thread.
const SHARED_TURN: usize = 256 << 10;

/// A turn that sent this much is worth another look or a few.
const BUSY: usize = 16 << 10;
const LOOKS: u32 = 8;

/// A connection that held this long says that the reader is well: the next one is made at once.
const SETTLED: Duration = Duration::from_secs(1);
/// A full backlog is tried again after this, and then twice that, up to the longest.
const BACKLOG_STEP: Duration = Duration::from_millis(1);
const BACKLOG_LONGEST: Duration = Duration::from_millis(20);
/// Messages closer than this are worth batching; a lone one is sent from its caller's thread.
const LONE_GAP: Duration = Duration::from_micros(20);
/// After so many lone messages the kernel is asked whether they have been read.
const LOOK_AFTER: u64 = 32;

/// Something to tell the error callback, `times` times.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) error: Error,
    pub(crate) context: Context,
    pub(crate) times: u64,
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Wait for an event.
    Wait,
    /// There is more to do: come again soon.
    Again,
    /// The drain is over.
    Finished(Ending),
}

#[derive(Debug)]
pub(crate) struct Sender {
    pub(super) link: Link,
    pub(super) front: Front,
    /// Connections that broke on the first message.
    pub(super) attempts: u32,
    /// Connects that failed, and connections that took nothing, in a row.
    failures: u32,
    /// Since when there is no connection, and whether the last attempt said that nobody listens.
    pub(super) down_since: Instant,
    pub(super) nobody_listens: bool,
    reports: Vec<Report>,
    random: u64,
    trim_at: Option<Instant>,
    /// What had been abandoned when the drain began.
    pub(super) abandoned_before_drain: Option<u64>,
    /// How it has ended: nothing is done any more.
    pub(super) ended: Option<Ending>,
    /// When a message last found the sender asleep.
    lone_at: Instant,
    accepted_at_rouse: u64,
    patience: Patience,
}

impl Sender {
    pub(crate) fn new(now: Instant, seed: u64) -> Sender {
        Sender {
            link: Link::Down { until: now, message_hurries: false },
            front: Front::default(),
            attempts: 0,
            failures: 0,
            down_since: now,
            nobody_listens: false,
            reports: Vec::new(),
            random: seed | 1,
            trim_at: None,
            abandoned_before_drain: None,
            ended: None,
            lone_at: now,
            accepted_at_rouse: 0,
            patience: Patience::new(LOOKS),
        }
    }

    /// What has to be told since the last call.
    pub(crate) fn take_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    /// Does what can be done now. `closed`: the socket's peer has gone.
    pub(crate) fn advance(&mut self, now: Instant, phase: Phase, closed: bool, world: World<'_>) -> Next {
        // Whoever comes later, or knows an older phase than the one in which it ended, hears the same.
        if let Some(ending) = self.ended {
            return Next::Finished(ending);
        }
        if let Phase::Draining { deadline, .. } = phase {
            self.abandoned_before_drain.get_or_insert_with(|| world.queue.account().abandoned.messages);
            if self.front.is_empty() && world.queue.is_empty() {
                return self.finish_drained(world);
            }
            if deadline.is_some_and(|deadline| now >= deadline) {
                self.abandon_all(world);
                return self.finish(Ending::TimedOut, world);
            }
            self.hurry(now);
        }
        if closed {
            self.peer_closed(now, world);
        }
        let next = self.move_on(now, phase, world);
        if let (Next::Wait | Next::Again, Phase::Draining { deadline: Some(deadline), .. }) = (&next, phase) {
            let _ = world.poller.arm(deadline);
        }
        next
    }

    fn move_on(&mut self, now: Instant, phase: Phase, world: World<'_>) -> Next {
        loop {
            match &mut self.link {
                Link::Up(_) => match self.pump(now, phase, world) {
                    Pumped::Lost => {}
                    Pumped::Waits => return Next::Wait,
                    Pumped::Turn => return Next::Again,
                    Pumped::Empty { sent } => {
                        if let Phase::Draining { .. } = phase {
                            return self.finish_drained(world);
                        }
                        if sent && world.is_crowded() {
                            return Next::Again; // its next messages gather meanwhile, and wake nobody
                        }
                        self.rest(now, world);
                        if world.queue.sleep() {
                            return Next::Wait;
                        }
                    }
                },
                Link::Ending(_) => {
                    if !self.see_off(now, world) {
                        return Next::Wait;
                    }
                }
                Link::Down { until, message_hurries } => {
                    if now < *until {
                        let _ = world.poller.arm(*until);
                        // Messages that wait, or the next one, cut the pause short if the reader is well.
                        if !*message_hurries || (self.front.is_empty() && world.queue.sleep()) {
                            return Next::Wait;
                        }
                    }
                    self.dial(now, now, BACKLOG_STEP, world);
                }
                Link::Backlog { since, until, step } => {
                    if now < *until {
                        let _ = world.poller.arm(*until);
                        return Next::Wait;
                    }
                    let (since, step) = (*since, *step);
                    self.dial(now, since, (step * 2).min(BACKLOG_LONGEST), world);
                }
            }
            if let Some(next) = self.give_up_draining(now, phase, world) {
                return next;
            }
        }
    }

    fn dial(&mut self, now: Instant, since: Instant, step: Duration, world: World<'_>) {
        // Never waits for a peer, but finding the path may wait for a file system.
        match world.while_away(|| socket::connect(world.path)) {
            Ok(fd) => self.connected(now, fd, world),
            // There is a reader, its backlog is full, and nothing to poll: try again in short steps.
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock
                    && now.saturating_duration_since(since) < world.options.dial_timeout =>
            {
                self.link = Link::Backlog { since, until: now + step, step };
            }
            Err(error) => self.dial_failed(now, error, world),
        }
    }

    fn connected(&mut self, now: Instant, fd: OwnedFd, world: World<'_>) {
        if world.options.write_buffer_size > 0 {
            // A buffer that the system does not grant is no reason to stay silent.
            let _ = socket::set_send_buffer(fd.as_fd(), world.options.write_buffer_size);
        }
        let send_buffer = socket::send_buffer(fd.as_fd()).unwrap_or(0);
        if let Err(error) = world.poller.add(fd.as_fd(), SOCKET, Interest::CLOSED) {
            return self.dial_failed(now, error, world);
        }
        add(&world.counters.connections, 1);
        if self.attempts > 0 {
            add(&world.counters.retried, 1);
        }
        world.socket.store(fd.as_raw_fd(), Ordering::Relaxed);
        self.nobody_listens = false;
        self.link =
            Link::Up(Connection { fd, made: now, window: Window::new(send_buffer), stalled: None, reset: false });
    }

    fn dial_failed(&mut self, now: Instant, error: io::Error, world: World<'_>) {
        add(&world.counters.connect_failures, 1);
        // A full backlog is somebody's. A shortage of ours, of descriptors for example, says nothing of the reader: what was
        // heard last holds.
        if !error.raw_os_error().is_some_and(sys::is_exhaustion) {
            self.nobody_listens = error.kind() != io::ErrorKind::WouldBlock;
        }
        self.report(dial_error(world.path, error), Context::Connect);
        self.failures = self.failures.saturating_add(1);
        self.pause(now, false, world);
    }

    /// Not connected: after none, one or more failures in a row.
    fn pause(&mut self, now: Instant, message_hurries: bool, world: World<'_>) {
        let pause = backoff::delay(self.failures, world.options.max_backoff, self.next_random());
        self.link =
            Link::Down { until: now.checked_add(pause).unwrap_or(now + Duration::from_secs(3600)), message_hurries };
    }

    fn pump(&mut self, now: Instant, phase: Phase, world: World<'_>) -> Pumped {
        let Link::Up(connection) = &mut self.link else { return Pumped::Lost };
        connection.look_whether_all_is_read();
        let mut turn = 0;
        let cause = loop {
            let crowded = world.is_crowded();
            if self.front.is_empty() {
                match next_batch(turn, crowded, &mut self.patience, world.queue) {
                    Some(batch) => self.front.load(batch),
                    None => {
                        connection.flows(world.poller);
                        return Pumped::Empty { sent: turn > 0 };
                    }
                }
            }
            if crowded {
                // The end of a burst often lies in a batch of its own. Where it is not alone, each call costs the reader
                // a turn as well.
                self.front.take_along(|| world.queue.take());
            }
            match connection.send(self.front.rest()) {
                Ok(bytes) => {
                    let messages = self.front.advance(bytes, world.queue, &mut connection.window);
                    connection.flows(world.poller);
                    if messages > 0 {
                        self.attempts = 0;
                    }
                    turn += bytes;
                    let enough = if crowded { SHARED_TURN } else { TURN };
                    if turn >= enough || (turn > 0 && past_deadline(phase)) {
                        return Pumped::Turn;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(report) = connection.stalls(now, world) {
                        add(&world.counters.failed, 1);
                        let context = if self.attempts > 0 { Context::WriteAgain } else { Context::Write };
                        self.report(report, context);
                    }
                    return Pumped::Waits;
                }
                Err(error) => break error,
            }
        };
        self.broken(now, Some(cause), world);
        Pumped::Lost
    }

    /// The connection broke, or the poller says that the peer is gone. Either the reader has closed, or it takes nothing
    /// more and still reads what it was sent. In the second case its close is waited for: only then the kernel tells
    /// whether everything was read, and the messages of the next connection must not overtake the last ones of this.
    /// A close empties the kernel's buffer, so an empty one tells the two apart.
    fn broken(&mut self, now: Instant, cause: Option<io::Error>, world: World<'_>) {
        let Link::Up(connection) = self.take_link(now) else { return };
        let unread = socket::bytes_unread_by_peer(connection.fd.as_fd()).unwrap_or(0);
        if unread == 0 {
            return self.lose(now, connection, cause, false, world);
        }
        let _ = world.poller.remove(connection.fd.as_fd());
        self.link = Link::Ending(Box::new(Farewell::new(now, connection, cause, unread)));
    }

    /// Looks after a reader that is about to close. True when it is over.
    fn see_off(&mut self, now: Instant, world: World<'_>) -> bool {
        let Link::Ending(farewell) = &mut self.link else { return true };
        let Some(hangs) = farewell.look(now, world.options.write_timeout) else {
            let _ = world.poller.arm(farewell.look_at());
            return false;
        };
        if let Link::Ending(farewell) = self.take_link(now) {
            self.lose(now, farewell.connection, farewell.cause, hangs, world);
        }
        true
    }

    /// The peer has closed. That is no failure, unless a message was being written.
    fn peer_closed(&mut self, now: Instant, world: World<'_>) {
        // Of several threads of a host that were told, the last ones may come upon the next connection.
        if let Link::Up(connection) = &self.link
            && socket::has_hung_up(connection.fd.as_fd())
        {
            let writing = self.front.is_torn() || connection.stalled.is_some();
            self.broken(now, writing.then(sys::broken_pipe), world);
        }
    }

    fn take_link(&mut self, now: Instant) -> Link {
        std::mem::replace(&mut self.link, Link::Down { until: now, message_hurries: false })
    }

    /// The end of a connection: what became of what it carried, and of the message that it broke on.
    fn lose(&mut self, now: Instant, connection: Connection, cause: Option<io::Error>, hangs: bool, world: World<'_>) {
        let settled = now.saturating_duration_since(connection.made) >= SETTLED;
        let (sent, read) = (connection.window.has_sent(), connection.window.has_been_read());
        let lost = connection.close(hangs, world);
        self.down_since = now;
        let idle = cause.is_none();
        if let Some(cause) = cause {
            self.count_attempt(cause, world);
        }
        self.front.rewind();
        // At once after a connection on which something was read; with growing pauses while they come to nothing.
        let well = settled || read || (sent && !lost);
        if well {
            self.failures = 0;
        }
        self.pause(now, idle, world);
        self.failures = self.failures.saturating_add(u32::from(!well));
    }

    fn count_attempt(&mut self, cause: io::Error, world: World<'_>) {
        add(&world.counters.failed, 1);
        let context = if self.attempts > 0 { Context::WriteAgain } else { Context::Write };
        self.attempts += 1;
        self.report(Error::NoConsumer(cause), context);
        let limit = world.options.max_attempts;
        if limit > 0 && self.attempts >= limit {
            self.front.rewind();
            self.front.abandon_first(world.queue);
            self.attempts = 0;
            self.report(Error::Undelivered(1), Context::WriteAgain);
        }
    }

    /// Nothing to send. What a burst left behind is given back when it has been quiet for a while.
    fn rest(&mut self, now: Instant, world: World<'_>) {
        match self.trim_at {
            Some(at) if now < at => drop(world.poller.arm(at)),
            watched => {
                let more = if watched.is_some() { batch::trim(now) } else { batch::must_trim(now) };
                self.trim_at = more.then(|| now + TRIM_AFTER);
                if let Some(at) = self.trim_at {
                    let _ = world.poller.arm(at);
                }
            }
        }
    }

    /// A message has just been queued while the sender slept: sends it from the caller's own thread, without a hop, unless
    /// messages come so close on each other that batching them is better. False: the sender must be woken.
    pub(crate) fn send_at_once(&mut self, now: Instant, world: World<'_>) -> bool {
        // What came last time, one message or a burst, will come again.
        let accepted = world.queue.account().accepted.messages;
        let lone = accepted - self.accepted_at_rouse == 1 && now.saturating_duration_since(self.lone_at) >= LONE_GAP;
        (self.lone_at, self.accepted_at_rouse) = (now, accepted);
        let Link::Up(connection) = &mut self.link else { return false };
        if !lone || connection.stalled.is_some() || !self.front.is_empty() {
            return false;
        }
        if connection.window.unread() >= LOOK_AFTER {
            connection.look_whether_all_is_read();
        }
        let Some(batch) = world.queue.take() else { return false };
        self.front.load(batch);
        // What the kernel does not take, and what it says of a broken connection, the sender will be told again.
        if let Ok(bytes) = connection.send(self.front.rest()) {
            let messages = self.front.advance(bytes, world.queue, &mut connection.window);
            if messages > 0 {
                self.attempts = 0;
            }
        }
        self.front.is_empty() && world.queue.sleep()
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.ended.is_some()
    }

    /// How many messages have come to their end: read by the reader's process, lost with it, or abandoned.
    pub(crate) fn settled(&mut self, world: World<'_>) -> u64 {
        let account = world.queue.account();
        let unread = match &mut self.link {
            Link::Up(connection) => {
                connection.look_whether_all_is_read();
                connection.window.unread()
            }
            Link::Ending(farewell) => farewell.connection.window.unread(),
            Link::Down { .. } | Link::Backlog { .. } => 0,
        };
        account.sent.messages + account.abandoned.messages - unread
    }

    pub(super) fn report(&mut self, error: Error, context: Context) {
        self.report_many(error, context, 1);
    }

    pub(super) fn report_many(&mut self, error: Error, context: Context, times: u64) {
        if times > 0 {
            self.reports.push(Report { error, context, times });
        }
    }

    /// xorshift64: only spreads attempts in time.
    fn next_random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) as u32
    }
}

enum Pumped {
    /// The queue is empty.
    Empty { sent: bool },
    /// The kernel takes nothing more.
    Waits,
    /// Enough for one turn.
    Turn,
    /// The connection is gone or going.
    Lost,
}

/// On a busy queue a batch fills in a moment: to wait for that is cheaper than to take the lock from the producers for a
/// few messages, or to sleep and be woken by them. Where other writers wait, their turn is long enough for that.
fn next_batch(turn: usize, crowded: bool, patience: &mut Patience, queue: &Queue) -> Option<Batch> {
    if turn < BUSY || crowded {
        return queue.take();
    }
    let mut sealed = queue.take_sealed();
    if sealed.is_none() {
        patience.try_to_find(|| {
            sealed = queue.take_sealed();
            sealed.is_some()
        });
    }
    sealed.or_else(|| queue.take())
}

fn past_deadline(phase: Phase) -> bool {
    matches!(phase, Phase::Draining { deadline: Some(deadline), .. } if Instant::now() >= deadline)
}

fn dial_error(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock => {
            Error::NotConnected { path: path.into(), source: error }
        }
        _ => Error::from_os(format!("failed to dial socket: {}", path.display()), error),
    }
}
