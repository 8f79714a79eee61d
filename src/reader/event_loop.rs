//! One reader: one epoll set, and the owners of its events.
//!
//! A registration fires once and is armed again when its turn is over, so one thread serves a connection at a time.
//!
//! # Order of locks
//!
//! A thread that holds one of these may take those below it, and none above it:
//!
//! 1. `Errors::lock_callbacks` (max_handler_threads = 1), during a turn or a report
//! 2. a connection's state, during its turn
//! 3. the acceptor's state
//! 4. all others, of which no two are held at the same time, but for the checks under the table of connections and the
//!    sockets of the listener under its file: throttle; worker counts; read buffers; ledgers; the drain's wait
//!
//! Callbacks run with 1 and 2 held. What they may call of this reader takes 3 and 4, and tries 2; it takes 2 of connections
//! that are closed, which nobody holds in a callback. No descriptor is closed with any of them held, but for a memfd,
//! which no peer can make slow.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::delivery::name::WriterName;
use crate::error::{Context, Error, Result};
use crate::lifecycle::{Ending, Lifecycle, Phase, Start};
use crate::options::ReaderOptions;
use crate::sys::descriptor::Descriptor;
use crate::sys::event::{Event, Interest, Key, NO_EVENT, Poller};
use crate::sys::fork;
use crate::systemd::{Environment, ServiceState};

use super::acceptor::{Accepted, Acceptor, Door};
use super::account::Account;
use super::budget::{Budget, TurnStatus};
use super::clock::{Clock, Nanos, nanos};
use super::connection::{Connection, EndedFor};
use super::connections::Connections;
use super::drain::Drain;
use super::handler::Handler;
use super::ledger::Ledgers;
use super::listener::{FileNews, Listener};
use super::read_buffers::ReadBuffers;
use super::report::{Errors, Reporter};
use super::ring::Rings;
use super::serve::Served;
use super::throttle::{PeerId, Throttle};
use super::worker_pool::{Work, WorkerPool};

/// The listener's key in the poller; connections have theirs from 1 on.
const LISTENER: Key = 0;
/// The key of the socket file's watch.
const SOCKET_FILE: Key = Key::MAX - 2;

/// The pause that keeps a thread from spinning when the host has closed the descriptors.
const BROKEN_PAUSE: Duration = Duration::from_millis(1);

/// How many events one `dispatch` call of the host serves at most.
const MAX_EVENTS: usize = 64;

/// The owners of which a reader consists.
pub(super) struct EventLoop {
    pub(super) poller: Poller,
    pub(super) acceptor: Acceptor,
    pub(super) connections: Connections,
    ledgers: Ledgers,
    pub(super) rings: Rings,
    pub(super) throttle: Throttle,
    pub(super) buffers: ReadBuffers,
    pub(super) pool: WorkerPool,
    pub(super) drain: Drain,
    pub(super) errors: Errors,
    pub(super) lifecycle: Lifecycle,
    pub(super) environment: Environment,
    service_state: ServiceState,
    pub(super) clock: Clock,
    pub(super) fork: fork::Token,
    pub(super) handler: Handler,
    pub(super) max_message_size: u64,
    /// How long a handle that is given up is drained.
    pub(super) linger: Duration,
    /// `None`: connections may be silent for ever.
    inactivity_timeout: Option<Nanos>,
}

impl EventLoop {
    pub(super) fn open(path: &Path, handler: Handler, options: ReaderOptions) -> Result<EventLoop> {
        let resources = |source| Error::from_os("descriptors for a reader's event loop", source);
        let environment = if options.use_systemd { Environment::from_env() } else { Environment::new(0, |_| None) };
        let poller = Poller::with_timer().map_err(resources)?;
        let fork = fork::Token::of_this_process().map_err(resources)?;
        // The last that can fail, so that a reader that is not to be leaves no socket file behind.
        let listener = Listener::open(path, &options, &environment)?;
        let registered = listener.register(&poller, LISTENER);
        registered.inspect_err(|_| listener.close()).map_err(resources)?;
        listener.watch(&poller, SOCKET_FILE);
        Ok(EventLoop {
            poller,
            acceptor: Acceptor::new(listener, &options),
            connections: Connections::default(),
            ledgers: Ledgers::default(),
            rings: Rings::new(options.max_shared_memory, fork),
            throttle: Throttle::default(),
            buffers: ReadBuffers::default(),
            pool: WorkerPool::new(options.max_handler_threads, options.callback_stack_size),
            drain: Drain::default(),
            errors: Errors::new(options.on_error, options.max_handler_threads > 1),
            lifecycle: Lifecycle::new(),
            environment,
            service_state: ServiceState::default(),
            clock: Clock::start(),
            fork,
            handler,
            max_message_size: options.max_message_size,
            linger: options.linger,
            inactivity_timeout: (options.inactivity_timeout != Duration::MAX)
                .then(|| nanos(options.inactivity_timeout)),
        })
    }

    /// Fails in a forked child.
    pub(super) fn check_fork(&self) -> Result<()> {
        if self.fork.is_current() { Ok(()) } else { Err(Error::Forked) }
    }

    pub(super) fn reporter(&self) -> Reporter<'_> {
        Reporter { errors: &self.errors, lifecycle: &self.lifecycle, drain: &self.drain }
    }

    /// The epoll set, for a host's event loop.
    pub(super) fn event_fd(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }

    fn notify_ready(&self) {
        if let Err(error) = self.service_state.ready(&self.environment) {
            self.reporter().report(&error, Context::Notify);
        }
    }

    pub(super) fn notify_stopping(&self) {
        if let Err(error) = self.service_state.stopping(&self.environment) {
            self.reporter().report(&error, Context::Notify);
        }
    }

    /// What a look at the socket file has come to.
    fn on_file_news(&self, news: FileNews) {
        if let Some(at) = news.again_at {
            let _ = self.poller.arm(at);
        }
        if news.relistened {
            self.accept_turn();
        }
        if let Some(error) = news.error {
            self.reporter().report(&error, Context::SocketFile);
        }
    }

    fn arm(&self, at: Nanos) {
        let _ = self.poller.arm(self.clock.instant(at));
    }

    // ---- threads ----

    pub(super) fn start(self: &Arc<Self>) -> Result<()> {
        let started = self.lifecycle.start(|| {
            self.start_thread()
                .map_err(|source| Error::NoResources { action: "a thread for the reader".into(), source })
        })?;
        if started == Start::Now
            && let Some(_at_work) = self.drain.enter()
        {
            self.notify_ready();
        }
        Ok(())
    }

    /// Starts a thread, unless one waits or there are enough.
    fn start_thread(self: &Arc<Self>) -> io::Result<()> {
        let runner = Arc::clone(self);
        self.pool.ensure_waiting(move || runner.run_thread())
    }

    pub(super) fn run_thread(self: &Arc<Self>) {
        // Without a new thread this one does the work alone, and tries again with the next event.
        let start_another = || drop(self.start_thread());
        if catch_unwind(AssertUnwindSafe(|| self.pool.work(&**self, start_another))).is_err() {
            // A bug of ours: nothing more is served, and every stop says so.
            self.cancel();
            self.lifecycle.finish(Ending::Panicked);
        }
        self.buffers.trim();
        self.leave();
    }

    /// The calling thread stops waiting for events. Wakes the next waiting thread; the last thread retires the poller.
    pub(super) fn leave(&self) {
        if self.drain.is_cancelled() && self.drain.nobody_at_work() && self.pool.is_empty() {
            self.poller.retire();
        } else {
            self.poller.wake();
        }
    }

    // ---- events ----

    /// Waits up to `timeout` for work and does it: see [`HostDriven::dispatch`](crate::event_source::HostDriven::dispatch).
    pub(super) fn dispatch(&self, timeout: Duration) -> Result<bool> {
        self.check_fork()?;
        self.lifecycle.refuse_in_callback("dispatch")?;
        let first = self.lifecycle.dispatch()?;
        // After a cancellation: a host that dispatches in a loop gets an error.
        let Some(_at_work) = self.drain.enter() else { return Err(Error::Stopped) };
        if first {
            self.notify_ready();
        }
        Ok(self.drive((timeout != Duration::MAX).then_some(timeout)))
    }

    /// Waits for an event and serves events for the time of one turn. They are fetched one by one: the rest stays in the
    /// kernel, where other threads find it, and a connection that has just had a turn comes behind it. True if there may
    /// be more.
    pub(super) fn drive(&self, timeout: Option<Duration>) -> bool {
        let Some(mut event) = self.wait(timeout) else { return false };
        let mut budget = self.budget();
        let mut served = 0;
        let may_be_more = loop {
            if let Some(served) = self.handle(event, &mut budget) {
                self.rearm(&served.connection, served.interest);
            }
            served += 1;
            // Before the next event is fetched: its registration fires once, so what is fetched has to be served.
            if served == MAX_EVENTS || budget.check(self.clock.now()) != TurnStatus::Continue {
                break true;
            }
            budget.next_turn();
            match self.wait(Some(Duration::ZERO)) {
                Some(next) => event = next,
                None => break false,
            }
        };
        if self.drain.is_cancelled() {
            self.poller.wake(); // others may wait there as well
        }
        may_be_more
    }

    /// The next event, if one comes in time.
    fn wait(&self, timeout: Option<Duration>) -> Option<Event> {
        let mut event = None;
        if self.poller.wait(&mut [NO_EVENT; 1], timeout, |one| event = Some(one)).is_err() {
            std::thread::sleep(BROKEN_PAUSE);
        }
        event
    }

    fn budget(&self) -> Budget<'_> {
        let deadline = if self.drain.has_begun() { self.stop_deadline() } else { None };
        Budget::new(&self.drain, self.clock.now(), deadline.map(|deadline| self.clock.at(deadline)))
    }

    /// Whether somebody waits to be accepted, for a reader that nobody drives.
    pub(super) fn somebody_waits(&self) -> bool {
        let is_listener = |event| matches!(event, Event::Ready { key: LISTENER, .. });
        self.wait(Some(Duration::ZERO)).is_some_and(is_listener)
    }

    /// When a stop that has begun gives up what is left.
    pub(super) fn stop_deadline(&self) -> Option<Instant> {
        match self.lifecycle.phase() {
            Phase::Draining { deadline, .. } => deadline,
            Phase::Running | Phase::Stopped => None,
        }
    }

    /// Does what an event asks for. A connection that it returns waits for its next turn: see [`EventLoop::rearm`].
    fn handle(&self, event: Event, budget: &mut Budget<'_>) -> Option<Served> {
        match event {
            Event::Woken => {}
            Event::Timer => self.on_timer(),
            Event::Ready { key: LISTENER, .. } => self.accept_turn(),
            Event::Ready { key: SOCKET_FILE, .. } => {
                self.on_file_news(self.acceptor.listener.file_changed(&self.poller, LISTENER, Instant::now()));
            }
            Event::Ready { key, .. } => return self.serve_connection(key, budget),
        }
        None
    }

    /// Silent connections are ended, throttled ones have waited, a pause in accepting may be over.
    fn on_timer(&self) {
        if let Some(timeout) = self.inactivity_timeout
            && let Some(next) = self.connections.end_inactive(self.clock.now(), timeout)
        {
            self.arm(next);
        }
        self.release_throttled(self.clock.now());
        self.on_file_news(self.acceptor.listener.look_again(&self.poller, LISTENER, Instant::now()));
        match self.acceptor.pauses_until() {
            Some(at) if at <= self.clock.now() => self.accept_turn(),
            Some(at) => self.arm(at),
            None => {}
        }
    }

    /// Lets those be served who have waited until `now`.
    pub(super) fn release_throttled(&self, now: Nanos) {
        loop {
            match self.throttle.release(now) {
                Ok(id) => {
                    if let Some(connection) = self.connections.get(id) {
                        self.rearm(&connection, Interest::READABLE_ONCE);
                    }
                }
                Err(Some(next)) => return self.arm(next),
                Err(None) => return,
            }
        }
    }

    // ---- connections come ----

    fn accept_turn(&self) {
        let mut accepted = self.acceptor.accept_turn(self, self.clock.now());
        // A stop has taken the listener out of the poller, and then waits for the path's lock before it shuts the acceptor.
        if let Accepted::Enough = accepted
            && let Err(error) = self.acceptor.listener.rearm(&self.poller, LISTENER)
            && !self.drain.has_begun()
        {
            accepted = self.acceptor.rearm_failed(error, self.clock.now());
        }
        if let Accepted::Failed { error, again_at, report } = accepted {
            self.arm(again_at);
            if report {
                let action = format!("accept at {}", self.acceptor.listener.path().display());
                self.reporter().report(&Error::from_os(action, error), Context::Accept);
            }
        }
    }
}

impl Work for EventLoop {
    type Event = Event;
    type Served = Served;

    fn next(&self, timeout: Option<Duration>) -> Option<Event> {
        self.wait(timeout)
    }

    /// Callbacks may block, those for errors too: all but a wake-up may run some.
    fn may_block(&self, event: &Event) -> bool {
        *event != Event::Woken
    }

    fn serve(&self, event: Event) -> Option<Served> {
        let _at_work = self.drain.enter()?;
        self.handle(event, &mut self.budget())
    }

    fn wait_for_more(&self, served: Served) {
        self.rearm(&served.connection, served.interest);
    }

    fn is_over(&self) -> bool {
        self.drain.is_cancelled()
    }
}

impl Door for EventLoop {
    fn open(&self) -> usize {
        self.connections.len()
    }

    /// Inserts a connection, and checks the drain afterwards (protocol of the drain, 2).
    fn enter(&self, fd: Descriptor, name: Option<WriterName>) -> Arc<Connection> {
        // Before it is in the table: a stop that finds it there may send the final record at once.
        let account = name.and_then(|name| Account::open(&self.ledgers, fd.as_fd(), name));
        let connection = Arc::new(Connection::new(self.connections.next_id(), fd, account, self.clock.now()));
        self.connections.insert(Arc::clone(&connection));
        if self.drain.has_begun() {
            connection.end(EndedFor::Stop);
        }
        connection
    }

    fn register(&self, connection: &Connection) -> io::Result<()> {
        let now = self.clock.now();
        let fd = connection.fd.as_fd();
        let penalty = self.throttle.penalty(|| PeerId::of(fd), now);
        let interest = if penalty.is_some() { Interest::CLOSED_ONCE } else { Interest::READABLE_ONCE };
        self.poller.add(fd, connection.id, interest)?;
        if let Some(until) = penalty {
            self.arm(self.throttle.hold(connection.id, until));
        }
        if let Some(timeout) = self.inactivity_timeout
            && let Some(next) = self.connections.check_at(now.saturating_add(timeout), connection.id)
        {
            self.arm(next);
        }
        Ok(())
    }
}

impl fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoop").field("acceptor", &self.acceptor).finish_non_exhaustive()
    }
}
