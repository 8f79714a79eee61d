//! One epoll set for the listener and all connections, the elastic pool of threads that serve it, and the stop.
//!
//! A registration fires once and is armed again when its turn is over, so one thread serves a connection at a time. A
//! thread that is about to run callbacks makes sure that another one waits, up to the limit: a callback that blocks delays
//! its own connection only. The kernel wakes the thread that waited last, so with one fast connection the same warm thread
//! does the work and the other sleeps.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{Context, Error, ErrorHandler, Result};
use crate::lifecycle::{Driver, Ending, Lifecycle, Phase, Start, Stop};
use crate::metrics::ReaderMetrics;
use crate::options::ReaderOptions;
use crate::sys::event::{Event, Interest, Key, NO_EVENT, Poller};
use crate::sys::{self, fork, socket, thread};
use crate::systemd::Environment;

use super::Handler;
use super::connection::{Ended, HandlerFailures, Rules, Slot, Turn};
use super::lane::Lanes;
use super::listener::{Admission, Listener};
use super::table::{Nanos, Table};

/// The listener's key; connections have theirs from 1 on.
const LISTENER: Key = 0;
/// How many connections are accepted before others get a turn.
const ACCEPT_TURN: usize = 64;
/// Pauses after a failed accept: doubling from the first to the last.
const ACCEPT_PAUSE: Duration = Duration::from_millis(1);
const ACCEPT_PAUSE_LONGEST: Duration = Duration::from_millis(100);
/// A thread beyond the two that a reader keeps leaves when it has had nothing to do for this long.
const THREAD_PATIENCE: Duration = Duration::from_secs(5);
const THREADS_KEPT: u32 = 2;
/// How many events one `dispatch` call of the host serves.
const EVENTS: usize = 64;

/// The state of one reader.
pub(crate) struct Shared {
    listener: Listener,
    admission: Admission,
    handler: Handler,
    on_error: Option<ErrorHandler>,
    environment: Environment,
    max_message_size: u64,
    inactivity_timeout: Duration,
    max_accept_errors: u32,
    max_connections: u32,

    poller: Poller,
    table: Table,
    lanes: Lanes,
    accepting: Mutex<Accepting>,
    pool: Pool,
    counters: Counters,

    lifecycle: Lifecycle,
    /// The stop has begun: connections are being ended.
    draining: AtomicBool,
    /// The stop is over or was cut short: no further callback, threads leave.
    forced: AtomicBool,
    /// Something was left unread.
    cut_short: AtomicBool,
    /// A connection is gone, or a deadline has moved, while draining.
    gone: Condvar,
    gone_lock: Mutex<()>,
    /// The handle was dropped inside one of its own callbacks: there is nobody left to tell.
    muted: AtomicBool,
    /// With one handler thread: held during callbacks, also when several threads of the host dispatch.
    turnstile: Option<Mutex<()>>,
    born: Instant,
    fork: fork::Token,
}

#[derive(Debug, Default)]
struct Accepting {
    failures_in_a_row: u32,
    /// Accepting pauses until then.
    again_at: Option<Nanos>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Counters {
    errors: AtomicU64,
    accept_errors: AtomicU64,
    idle_closed: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Pool {
    limit: u32,
    total: AtomicU32,
    waiting: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Shared {
    pub(crate) fn open(path: &Path, handler: Handler, options: ReaderOptions) -> Result<Shared> {
        let resources = |source| Error::from_os("descriptors for a reader's event loop", source);
        let environment = if options.use_systemd { Environment::from_env() } else { Environment::new(0, |_| None) };
        let listener = Listener::open(path, &options, &environment)?;
        let poller = Poller::new().map_err(resources)?;
        poller.add(listener.as_fd(), LISTENER, Interest::READABLE_ONCE).map_err(resources)?;
        Ok(Shared {
            admission: Admission::new(&options),
            listener,
            handler,
            environment,
            max_message_size: options.max_message_size,
            inactivity_timeout: options.inactivity_timeout,
            max_accept_errors: options.max_accept_errors,
            max_connections: options.max_connections,
            poller,
            table: Table::default(),
            lanes: Lanes::default(),
            accepting: Mutex::default(),
            pool: Pool { limit: options.max_handler_threads, ..Pool::default() },
            counters: Counters::default(),
            lifecycle: Lifecycle::new(),
            draining: AtomicBool::new(false),
            forced: AtomicBool::new(false),
            cut_short: AtomicBool::new(false),
            gone: Condvar::new(),
            gone_lock: Mutex::new(()),
            muted: AtomicBool::new(false),
            turnstile: (options.max_handler_threads == 1).then(Mutex::default),
            on_error: options.on_error,
            born: Instant::now(),
            fork: fork::Token::of_this_process().map_err(resources)?,
        })
    }

    pub(crate) fn start(self: &Arc<Self>) -> Result<()> {
        let started = self.lifecycle.start(|| {
            self.pool.total.store(1, Ordering::SeqCst);
            self.spawn_thread().map_err(|source| {
                self.pool.total.store(0, Ordering::SeqCst);
                Error::from_os("a thread for the reader", source)
            })
        })?;
        if started == Start::Now {
            self.notify("READY=1");
        }
        Ok(())
    }

    pub(crate) fn dispatch(&self, timeout: Option<Duration>) -> Result<()> {
        if self.lifecycle.dispatch()? {
            self.notify("READY=1");
        }
        self.drive(timeout);
        Ok(())
    }

    /// Waits for events and serves each once.
    fn drive(&self, timeout: Option<Duration>) {
        let mut events = [Event::Woken; EVENTS];
        let mut count = 0;
        let waited = self.poller.wait(&mut [NO_EVENT; EVENTS], timeout, |event| {
            events[count] = event;
            count += 1;
        });
        if waited.is_err() {
            std::thread::sleep(ACCEPT_PAUSE); // somebody closed our descriptors: do not spin
        }
        for event in &events[..count] {
            self.handle(*event);
        }
        if self.forced.load(Ordering::SeqCst) {
            self.poller.wake(); // others may wait there as well
        }
    }

    fn handle(&self, event: Event) {
        match event {
            Event::Woken => {}
            Event::Timer => self.look_around(),
            Event::Ready { key: LISTENER, .. } => self.accept_turn(),
            Event::Ready { key, .. } => self.serve(key),
        }
    }

    fn now(&self) -> Nanos {
        u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(Nanos::MAX)
    }

    fn arm(&self, at: Nanos) {
        let _ = self.poller.arm(self.born + Duration::from_nanos(at));
    }

    // Accepting

    fn accept_turn(&self) {
        let mut accepting = self.accepting.lock();
        if accepting.closed {
            return;
        }
        match self.accept_some(&mut accepting, ACCEPT_TURN) {
            Ok(()) => drop(self.poller.modify(self.listener.as_fd(), LISTENER, Interest::READABLE_ONCE)),
            Err(error) => self.accept_failed(accepting, error),
        }
    }

    fn accept_some(&self, accepting: &mut Accepting, most: usize) -> std::io::Result<()> {
        for _ in 0..most {
            match socket::accept(self.listener.as_fd()) {
                Ok(fd) => {
                    accepting.failures_in_a_row = 0;
                    self.admit(fd)?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A shortage of descriptors or memory passes: the reader pauses and tries again for ever.
    fn accept_failed(&self, mut accepting: parking_lot::MutexGuard<'_, Accepting>, error: std::io::Error) {
        self.counters.accept_errors.fetch_add(1, Ordering::Relaxed);
        accepting.failures_in_a_row = accepting.failures_in_a_row.saturating_add(1);
        let failures = accepting.failures_in_a_row;
        let pause = ACCEPT_PAUSE.saturating_mul(1 << failures.min(10)).min(ACCEPT_PAUSE_LONGEST);
        let again_at = self.now() + pause.as_nanos() as Nanos;
        accepting.again_at = Some(again_at);
        drop(accepting);
        self.arm(again_at);
        if failures == self.max_accept_errors + 1 {
            self.report(&Error::from_os(format!("accept at {}", self.path().display()), error), Context::Accept);
        }
    }

    fn admit(&self, fd: std::os::fd::OwnedFd) -> std::io::Result<()> {
        let full = self.max_connections > 0 && self.table.len() >= self.max_connections as usize;
        if full || !self.admission.admits(fd.as_fd()) {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let now = self.now();
        let slot = Arc::new(Slot::new(self.table.next_id(), fd, now));
        self.table.insert(Arc::clone(&slot));
        if let Err(error) = self.poller.add(slot.fd.as_fd(), slot.id, Interest::READABLE_ONCE) {
            self.table.remove(slot.id);
            return Err(error);
        }
        if self.inactivity_timeout != Duration::MAX {
            let at = now.saturating_add(u64::try_from(self.inactivity_timeout.as_nanos()).unwrap_or(Nanos::MAX));
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

    /// The timer: silent connections are ended, a pause in accepting may be over.
    fn look_around(&self) {
        if self.inactivity_timeout != Duration::MAX
            && let Some(next) = self.table.end_silent(self.now(), self.inactivity_timeout)
        {
            self.arm(next);
        }
        let again_at = self.accepting.lock().again_at;
        match again_at {
            Some(at) if at <= self.now() => {
                self.accepting.lock().again_at = None;
                self.accept_turn();
            }
            Some(at) => self.arm(at),
            None => {}
        }
    }

    // Serving

    fn serve(&self, id: u64) {
        let Some(slot) = self.table.get(id) else { return };
        let turn = match self.lanes.take() {
            Ok(mut lane) => {
                let _one_at_a_time = self.turnstile.as_ref().map(Mutex::lock);
                let _inside = self.lifecycle.enter_callback();
                let rules = Rules {
                    handler: &self.handler,
                    max_message_size: self.max_message_size,
                    failed: self,
                    forced: &self.forced,
                };
                let turn = slot.serve(&mut lane, rules, || self.now());
                self.lanes.put(lane);
                turn
            }
            Err(error) => Some(Turn::Failed(error, Context::Payload)),
        };
        match turn {
            Some(Turn::More) => self.await_more(&slot),
            Some(end) => self.close(&slot, end),
            None => {}
        }
    }

    fn await_more(&self, slot: &Slot) {
        let _ = self.poller.modify(slot.fd.as_fd(), slot.id, Interest::READABLE_ONCE);
        // Either the sweep of `force` has found it unserved, or we see that sweep.
        if self.forced.load(Ordering::SeqCst) {
            self.close_unserved(slot);
        }
    }

    fn close_unserved(&self, slot: &Slot) {
        if let Some(unread) = slot.close_unserved() {
            self.close(slot, Turn::Cut(unread));
        }
    }

    fn close(&self, slot: &Slot, end: Turn) {
        match end {
            Turn::Failed(error, context) => {
                self.counters.errors.fetch_add(1, Ordering::Relaxed);
                self.forget(slot);
                self.report(&error, context);
            }
            Turn::Cut(unread) => {
                self.cut_short.fetch_or(unread, Ordering::SeqCst);
                self.forget(slot);
            }
            Turn::End | Turn::More => {
                if slot.ended() == Ended::Idle {
                    self.counters.idle_closed.fetch_add(1, Ordering::Relaxed);
                }
                self.forget(slot);
            }
        }
    }

    /// Takes a connection out of everything. It is closed with its last user.
    fn forget(&self, slot: &Slot) {
        let _ = self.poller.remove(slot.fd.as_fd());
        self.table.remove(slot.id);
        if self.draining.load(Ordering::SeqCst) {
            let _held = self.gone_lock.lock();
            self.gone.notify_all();
        }
    }

    fn report(&self, error: &Error, context: Context) {
        let Some(on_error) = &self.on_error else { return };
        if self.muted.load(Ordering::Relaxed) {
            return;
        }
        let _inside = self.lifecycle.enter_callback();
        // A callback that panics has had its say; the messages are not its concern.
        let _ = catch_unwind(AssertUnwindSafe(|| on_error(error, context)));
    }

    // Threads

    fn spawn_thread(self: &Arc<Self>) -> std::io::Result<()> {
        let runner = Arc::clone(self);
        let handle = thread::spawn("udsipc-reader", move || runner.run())?;
        let mut threads = self.pool.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(handle);
        Ok(())
    }

    /// The body of each thread.
    fn run(self: &Arc<Self>) {
        while !self.forced.load(Ordering::SeqCst) {
            let Some(event) = self.wait_for_one() else {
                if self.may_leave() {
                    return;
                }
                continue;
            };
            if let Event::Ready { key, .. } = event
                && key != LISTENER
            {
                self.keep_one_waiting();
            }
            self.handle(event);
        }
        self.poller.wake(); // others may wait there as well
    }

    fn wait_for_one(&self) -> Option<Event> {
        let patience = (self.pool.total.load(Ordering::SeqCst) > THREADS_KEPT).then_some(THREAD_PATIENCE);
        let mut event = None;
        self.pool.waiting.fetch_add(1, Ordering::SeqCst);
        let waited = self.poller.wait(&mut [NO_EVENT; 1], patience, |one| event = Some(one));
        self.pool.waiting.fetch_sub(1, Ordering::SeqCst);
        if waited.is_err() {
            std::thread::sleep(ACCEPT_PAUSE); // somebody closed our descriptors: do not spin
        }
        event
    }

    /// Callbacks may block: somebody else must be there for the other connections.
    fn keep_one_waiting(self: &Arc<Self>) {
        if self.pool.waiting.load(Ordering::SeqCst) > 0 {
            return;
        }
        let more = |total: u32| (total < self.pool.limit).then_some(total + 1);
        if self.pool.total.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
            && self.spawn_thread().is_err()
        {
            // No thread to be had now: this one does the work alone, and tries again with the next event.
            self.pool.total.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn may_leave(&self) -> bool {
        let fewer = |total: u32| (total > THREADS_KEPT).then(|| total - 1);
        let leaves = self.pool.total.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok();
        if leaves {
            self.lanes.trim();
        }
        leaves
    }

    // The end

    pub(crate) fn stop(&self, timeout: Duration) -> Result<()> {
        match self.lifecycle.stop(timeout) {
            Stop::Over(ending) => return Stop::over(ending),
            Stop::Follow(_) => {
                let _held = self.gone_lock.lock();
                self.gone.notify_all(); // the deadline may be earlier now
            }
            Stop::Lead(driver) => self.lead_stop(driver),
        }
        self.lifecycle.wait_until_stopped()
    }

    fn lead_stop(&self, driver: Driver) {
        self.notify("STOPPING=1");
        match driver {
            Driver::Nobody => {
                // Callbacks were never asked for, so what waits stays unread, and its writers are told so by the kernel.
                self.listener.shut();
            }
            Driver::Threads | Driver::Host => {
                self.begin_drain();
                self.await_drain(driver);
            }
        }
        self.force();
        self.await_callbacks();
        let cut_short = self.cut_short.load(Ordering::SeqCst);
        self.lifecycle.finish(if cut_short { Ending::TimedOut } else { Ending::Clean });
    }

    /// No new connections; those in our backlog are still accepted, with what they have sent; all are ended.
    fn begin_drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        let mut accepting = self.accepting.lock();
        accepting.closed = true;
        let _ = self.poller.remove(self.listener.as_fd());
        if self.listener.shut() {
            let _ = self.accept_some(&mut accepting, usize::MAX);
        }
        drop(accepting);
        for slot in self.table.all() {
            slot.end(Ended::Stop);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self.lifecycle.phase() {
            Phase::Draining { deadline, .. } => deadline,
            Phase::Running | Phase::Stopped => None,
        }
    }

    /// Until all connections are gone or the time is up.
    fn await_drain(&self, driver: Driver) {
        loop {
            let deadline = self.deadline();
            if self.table.len() == 0 || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return;
            }
            if driver == Driver::Host {
                self.drive(deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())));
                continue;
            }
            let mut held = self.gone_lock.lock();
            if self.table.len() == 0 || self.deadline() != deadline {
                continue;
            }
            match deadline {
                Some(deadline) => drop(self.gone.wait_until(&mut held, deadline)),
                None => self.gone.wait(&mut held),
            }
        }
    }

    /// No further callbacks. What nobody serves is closed here; who serves one sees it and closes that.
    fn force(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.forced.store(true, Ordering::SeqCst);
        for slot in self.table.all() {
            self.close_unserved(&slot);
        }
        self.poller.wake();
    }

    /// Running callbacks are waited for, however long they take.
    fn await_callbacks(&self) {
        while let Some(thread) = { self.pool.threads.lock().pop() } {
            let _ = thread.join();
        }
        let mut held = self.gone_lock.lock();
        while self.table.len() > 0 {
            self.gone.wait(&mut held); // callbacks in `dispatch` calls of the host
        }
    }

    /// Ends without waiting for anything, and calls nobody any more.
    pub(crate) fn abandon(&self) {
        self.muted.store(true, Ordering::SeqCst);
        self.lifecycle.stop(Duration::ZERO);
        self.accepting.lock().closed = true;
        self.listener.shut();
        self.force();
        self.lifecycle.finish(Ending::TimedOut);
    }

    /// In a forked child: closes the descriptors, and leaves everything else as it is.
    pub(crate) fn leave_to_parent(self: &Arc<Self>) {
        if self.muted.swap(true, Ordering::SeqCst) {
            return; // done already
        }
        for fd in self.poller.raw_fds() {
            sys::close_inherited(fd);
        }
        sys::close_inherited(self.listener.as_fd().as_raw_fd());
        for slot in self.table.all_in_child() {
            sys::close_inherited(slot.fd.as_raw_fd());
            std::mem::forget(slot);
        }
        std::mem::forget(Arc::clone(self));
    }

    // Looking

    fn notify(&self, state: &str) {
        if let Err(error) = self.environment.notify(state) {
            self.report(&error, Context::Notify);
        }
    }

    pub(crate) fn metrics(&self) -> ReaderMetrics {
        let (received, received_bytes) = self.lanes.received();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ReaderMetrics {
            received,
            connections: self.table.served(),
            errors: count(&self.counters.errors),
            active_connections: self.table.len() as u64,
            received_bytes,
            accept_errors: count(&self.counters.accept_errors),
            idle_closed: count(&self.counters.idle_closed),
            refused: count(&self.counters.refused),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.listener.path()
    }

    pub(crate) fn event_fd(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }

    pub(crate) fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.fork.is_current()
    }

    pub(crate) fn describe(&self) -> String {
        let path = self.path().display();
        if !self.environment.is_active() {
            return format!("running standalone socket_path={path}");
        }
        let directory = |dir: Option<&Path>| dir.map(|dir| dir.display().to_string()).unwrap_or_default();
        format!(
            "running under systemd socket_path={path} runtime_dir={} state_dir={} socket_activation={} \
             ready_notification={}",
            directory(self.environment.runtime_dir()),
            directory(self.environment.state_dir()),
            self.listener.is_adopted(),
            self.environment.notify_address().is_some(),
        )
    }
}

impl HandlerFailures for Shared {
    fn handler_failed(&self) {
        self.counters.errors.fetch_add(1, Ordering::Relaxed);
        self.report(&Error::HandlerFailed, Context::Handler);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("listener", &self.listener).finish_non_exhaustive()
    }
}
