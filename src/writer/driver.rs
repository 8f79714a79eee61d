//! Drives the session: locks it, steps it, arms what it waits for, and delivers its reports. On threads of the executor, in
//! the host's event loop, and in callers that wait.
//!
//! The session's lock is never held while something may block: a connect, a look at the file system, a callback. It may be
//! held while these are taken: the queue's locks, the executor's, a poller's timer, [`Reports`]' count. No lock of these is
//! held when the session's is taken.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::executor::{Registration, Task, TaskState, Wakeup, Worker};
use crate::lifecycle::{DrivenBy, Ending, Lifecycle, Phase, Stop};
use crate::options::WriterOptions;
use crate::sys::cancellation::without_cancellation;
use crate::sys::fork;
use crate::sys::lock::Mutex;

use super::dialer::Dialer;
use super::host_loop::{self, HostLoop};
use super::queue::{Queue, Wake};
use super::redial::DialFailure;
use super::reports::Reports;
use super::session::{Counters, DialError, Event, Next, Session, SessionContext, Woken};
use super::shared_watch::{PathListener, WatchUser};
use super::transport::{Socket, Trigger};
use super::wait;

/// How long a stop waits at least and at most for the threads of the executor, which usually end in a moment. One that does not
/// is held by a file system that does not answer, or its poller has been closed behind the library's back.
const JOIN_GRACE: Duration = Duration::from_millis(50);
const JOIN_LONGEST: Duration = Duration::from_secs(1);

/// What the handle, the executor's threads and waiting callers share.
pub(super) struct Driver {
    /// As it was given, for texts and for the host.
    pub(super) path: PathBuf,
    pub(super) options: WriterOptions,
    pub(super) queue: Queue,
    pub(super) counters: Counters,
    pub(super) lifecycle: Lifecycle,
    pub(super) reports: Reports,
    pub(super) fork: fork::Token,
    session: Mutex<Session<Socket>>,
    dialer: Dialer,
    is_connected: AtomicBool,
    /// The path has appeared since the last step.
    path_appeared: AtomicBool,
    /// Calls of flush and of write with a timeout that wait.
    awaiting: AtomicU32,
    /// Losses that a flush has told of.
    pub(super) losses_told: AtomicU64,
    task: TaskState,
    has_left: AtomicBool,
    /// The writer's place in the executor, once it is started.
    registration: OnceLock<Registration>,
    /// Shared, so that no lock is held while a directory is looked for.
    path_watch: Mutex<Option<Arc<WatchUser>>>,
    /// The descriptors of the host's event loop, once they have been asked for.
    host_loop: OnceLock<HostLoop>,
}

/// What a drive came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Waits,
    /// There is more to do.
    Again,
    /// The writer has come to rest.
    Over,
}

impl Driver {
    pub(super) fn new(path: PathBuf, options: WriterOptions, queue: Queue, seed: u64) -> Result<Driver> {
        let no_token = |source| Error::from_os("memory for a writer", source);
        Ok(Driver {
            dialer: Dialer::new(&path, options.acknowledge)?,
            path,
            options,
            queue,
            counters: Counters::default(),
            lifecycle: Lifecycle::new(),
            reports: Reports::default(),
            fork: fork::Token::of_this_process().map_err(no_token)?,
            session: Mutex::new(Session::new(Instant::now(), seed)),
            is_connected: AtomicBool::new(false),
            path_appeared: AtomicBool::new(false),
            awaiting: AtomicU32::new(0),
            losses_told: AtomicU64::new(0),
            task: TaskState::default(),
            has_left: AtomicBool::new(false),
            registration: OnceLock::new(),
            path_watch: Mutex::default(),
            host_loop: OnceLock::new(),
        })
    }

    /// From now on the executor's threads drive the writer.
    pub(super) fn start(self: &Arc<Self>) -> Result<()> {
        self.lifecycle.start(|| {
            let task: Arc<dyn Task> = Arc::<Driver>::clone(self);
            let registration = Registration::new(&task)?;
            let _ = self.registration.set(registration); // the first: a start that has succeeded is not made again
            Ok(())
        })?;
        if let Some(host_loop) = self.host_loop.get() {
            host_loop.retire(); // it was asked for, and has nothing to do now
        }
        self.notify();
        Ok(())
    }

    pub(super) fn is_connected(&self) -> bool {
        self.is_connected.load(Ordering::Relaxed)
    }

    /// Whether the reader of the present connection has said that it acknowledges.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.session.lock().is_acknowledged()
    }

    /// The descriptors of the host's event loop, made when they are first asked for.
    pub(super) fn host_loop(&self) -> Result<&HostLoop> {
        if self.host_loop.get().is_none() {
            let made = HostLoop::new().map_err(|source| Error::from_os("descriptors for an event loop", source))?;
            let _ = self.host_loop.set(made); // another thread may have been quicker
            if self.registration.get().is_some() || self.lifecycle.phase() == Phase::Stopped {
                self.host_loop.get().inspect(|host_loop| host_loop.retire()); // nothing to do for a host
            }
        }
        self.host_loop.get().ok_or(Error::Stopped) // unreachable: one of them has been set
    }

    /// There is something to do for whoever drives the writer.
    pub(super) fn notify(self: &Arc<Self>) {
        match (self.registration.get(), self.host_loop.get()) {
            (Some(registration), _) => registration.notify(self),
            (None, Some(host_loop)) => host_loop.wake(),
            (None, None) => {}
        }
    }

    /// Wakes whoever slept, and is to hear of a message.
    #[cold]
    pub(super) fn message_queued(self: &Arc<Self>, wake: Wake) {
        // The only system calls on the way of a message (`guard_quick`).
        without_cancellation(|| match wake {
            Wake::Nobody => {}
            Wake::Session => self.send_or_notify(),
            Wake::Reader(bell) => bell.ring(),
        });
    }

    fn send_or_notify(self: &Arc<Self>) {
        let is_sent = self.session.try_lock().is_some_and(|mut session| {
            let (now, context) = (Instant::now(), self.context(&|| false));
            let is_sent = session.send_at_once(now, &context);
            if let Some(at) = session.schedule_lone_poll(now).filter(|_| is_sent) {
                self.wake_at(at);
            }
            is_sent
        });
        if !is_sent {
            self.notify();
        }
    }

    fn context<'a>(&'a self, is_crowded: &'a dyn Fn() -> bool) -> SessionContext<'a> {
        SessionContext {
            path: &self.path,
            options: &self.options,
            queue: &self.queue,
            counters: &self.counters,
            is_crowded,
            clock: &Instant::now,
            is_awaited: self.awaiting.load(Ordering::Relaxed) > 0,
            is_guest: false,
        }
    }

    /// Messages that were accepted and did not, or may not have, come through.
    pub(super) fn lost(&self) -> u64 {
        self.queue.account().abandoned.messages + self.counters.suspected_lost.load(Ordering::Relaxed)
    }

    /// How many messages have come to their end, how many of them are lost, and whether the session has ended: of one moment.
    pub(super) fn settled(&self) -> (u64, u64, bool) {
        let mut session = self.session.lock();
        (session.settled(&self.context(&|| false)), self.lost(), session.is_over())
    }

    /// For the counters: how far the reader has come by now, unless somebody drives at this moment.
    pub(super) fn poll_ledger(&self) {
        if self.fork.is_current()
            && let Some(mut session) = self.session.try_lock()
        {
            session.poll_ledger(&self.context(&|| false));
        }
    }

    /// Marks the caller as waiting until the answer is dropped: pauses before the next dial are short meanwhile.
    pub(super) fn await_progress(self: &Arc<Self>) -> Awaiting<'_> {
        self.awaiting.fetch_add(1, Ordering::Relaxed);
        if !self.is_connected() {
            self.notify();
        }
        Awaiting(&self.awaiting)
    }

    /// Drives on the calling thread, once: for callers that wait.
    pub(super) fn drive(self: &Arc<Self>) -> Progress {
        self.drive_with(Woken::default(), None)
    }

    /// Fails in a forked child.
    pub(super) fn check_fork(&self) -> Result<()> {
        if self.fork.is_current() { Ok(()) } else { Err(Error::Forked) }
    }

    /// Waits up to `timeout` for work and does it: see [`EventSource::dispatch`](crate::EventSource::dispatch).
    pub(super) fn dispatch(self: &Arc<Self>, timeout: Duration) -> Result<bool> {
        self.check_fork()?;
        self.lifecycle.refuse_in_callback("dispatch")?;
        if self.lifecycle.driven_by() != DrivenBy::Threads {
            self.host_loop()?; // before it counts as driven by the host: it can still be started where that fails
        }
        self.lifecycle.dispatch()?;
        self.drive_after_wait((timeout != Duration::MAX).then_some(timeout))
    }

    /// Waits at the host's event loop for up to `timeout` (`None`: as long as it takes), and drives. True if there is more to
    /// do.
    pub(super) fn drive_after_wait(self: &Arc<Self>, timeout: Option<Duration>) -> Result<bool> {
        let host_loop = self.host_loop()?;
        let waited = host_loop.wait(timeout, || self.lifecycle.phase() == Phase::Stopped);
        let progress = self.drive_with(waited.as_ref().copied().unwrap_or_default(), None);
        if progress == Progress::Again {
            host_loop.wake();
        }
        waited.map_err(|source| Error::Io { action: "wait at the event loop's descriptor".into(), source })?;
        Ok(progress == Progress::Again)
    }

    /// A panic is a bug of ours: nothing more is sent, and every call says so.
    fn drive_with(self: &Arc<Self>, mut woken: Woken, worker: Option<&Worker<'_>>) -> Progress {
        if self.lifecycle.phase() == Phase::Stopped {
            return Progress::Over;
        }
        woken.path_appeared |= self.path_appeared.swap(false, Ordering::Relaxed);
        catch_unwind(AssertUnwindSafe(|| self.run_session(Event::Woken(woken), worker))).unwrap_or_else(|_| {
            self.panicked();
            Progress::Over
        })
    }

    /// Steps until the session waits for something; then its reports are delivered.
    fn run_session(self: &Arc<Self>, mut event: Event<Socket>, worker: Option<&Worker<'_>>) -> Progress {
        let progress = loop {
            event = match self.step(event, worker) {
                Next::Dial { first_sequence } => Event::Dialled(block_in_place(worker, || self.dial(first_sequence))),
                Next::CheckPath => {
                    Event::PathChecked { is_replaced: block_in_place(worker, || self.dialer.is_replaced()) }
                }
                Next::Wait => break Progress::Waits,
                Next::Again => break Progress::Again,
                Next::Finished(ending) => {
                    self.finish(ending);
                    break Progress::Over;
                }
            };
        };
        self.deliver_reports(worker);
        progress
    }

    fn step(&self, event: Event<Socket>, worker: Option<&Worker<'_>>) -> Next {
        let is_crowded = || worker.is_some_and(Worker::is_crowded);
        let mut session = self.session.lock();
        // Now, and not before: a caller that waited for the lock must not rest in a session that drains meanwhile.
        let phase = self.lifecycle.phase();
        let is_guest = worker.is_none() && self.registration.get().is_some();
        let context = SessionContext { is_guest, ..self.context(&is_crowded) };
        let step = session.step(Instant::now(), phase, event, &context);
        self.is_connected.store(session.is_connected(), Ordering::Relaxed);
        if let Some((socket, readiness)) = session.watched() {
            socket.wait_for(readiness);
        }
        if let Some(at) = step.wake_at {
            self.wake_at(at);
        }
        // Before a dial they stay where they are: a callback may take long.
        if !matches!(step.next, Next::Dial { .. } | Next::CheckPath) {
            self.gather_reports(&mut session);
        }
        step.next
    }

    fn gather_reports(&self, session: &mut Session<Socket>) {
        let reports = session.take_reports();
        if self.options.on_error.is_some() {
            self.reports.gather(reports);
        }
    }

    fn deliver_reports(&self, worker: Option<&Worker<'_>>) {
        if let Some(on_error) = &self.options.on_error
            && self.reports.has_waiting()
        {
            block_in_place(worker, || self.reports.deliver(on_error, &self.lifecycle));
        }
    }

    fn wake_at(&self, at: Instant) {
        match (self.registration.get(), self.host_loop.get()) {
            (Some(registration), _) => registration.set_timer(at),
            (None, Some(host_loop)) => host_loop.wake_at(at),
            (None, None) => {}
        }
    }

    /// Connects. May wait for a file system; never for a peer.
    fn dial(self: &Arc<Self>, first_sequence: u64) -> std::result::Result<Socket, DialError> {
        let result = match self.connect(first_sequence) {
            // It may have appeared just before the watch.
            Err(error) if error.failure == DialFailure::NobodyListens && self.watch_path() => {
                self.connect(first_sequence)
            }
            result => result,
        };
        if result.is_ok() {
            self.unwatch_path();
        }
        result
    }

    fn connect(&self, first_sequence: u64) -> std::result::Result<Socket, DialError> {
        let mut socket = Socket::new(self.dialer.connect(first_sequence)?, self.options.write_buffer_size);
        let registered = match (self.registration.get(), self.host_loop.get()) {
            (Some(registration), _) => socket.register(registration.poller(), registration.key(), Trigger::Edge),
            (None, Some(host_loop)) => socket.register(host_loop.poller(), host_loop::SOCKET, Trigger::Level),
            (None, None) => Ok(()),
        };
        match registered {
            // A stop looks for itself, also where the poller has been closed behind the library's back.
            Err(source) if self.lifecycle.phase() == Phase::Running => {
                Err(DialError { failure: DialFailure::Shortage, source })
            }
            _ => Ok(socket),
        }
    }

    /// Watches for the socket to appear. True if it may have appeared in the moment before.
    fn watch_path(self: &Arc<Self>) -> bool {
        let Some(file) = self.dialer.file().filter(|_| self.lifecycle.phase() != Phase::Stopped) else { return false };
        if let (None, Some(host_loop)) = (self.registration.get(), self.host_loop.get()) {
            return host_loop.watch_path(file);
        }
        // Without the lock, for which a stop would wait as long as the file system takes.
        let Some(watch) = self.join_path_watch() else { return false };
        let listener = Arc::downgrade(self) as Weak<dyn PathListener>;
        watch.watch(file, listener)
    }

    fn join_path_watch(&self) -> Option<Arc<WatchUser>> {
        let mut watch = self.path_watch.lock();
        // A stop takes the watch away, and none comes after it.
        if self.registration.get().is_none() || self.lifecycle.phase() == Phase::Stopped {
            return None;
        }
        if watch.is_none() {
            *watch = WatchUser::join(std::ptr::from_ref(self).addr() as u64).map(Arc::new);
        }
        watch.clone()
    }

    fn unwatch_path(&self) {
        if let (None, Some(host_loop)) = (self.registration.get(), self.host_loop.get()) {
            return host_loop.unwatch_path();
        }
        let watch = self.path_watch.lock().clone();
        if let Some(watch) = watch {
            watch.forget();
        }
    }

    fn finish(&self, ending: Ending) {
        self.lifecycle.finish(ending);
        if let Some(host_loop) = self.host_loop.get() {
            host_loop.retire();
        }
    }

    /// Refuses new messages, and waits for the end of the drain that this call, or another one, has begun.
    pub(super) fn stop(self: &Arc<Self>, timeout: Duration) -> Result<()> {
        self.queue.close();
        let mut deadline = Instant::now().checked_add(timeout);
        match self.lifecycle.stop(timeout) {
            // The one who stopped it has waited for the threads: one that has not ended in his time is not waited for again.
            Stop::Over => deadline = Some(Instant::now()),
            Stop::Lead(DrivenBy::Nobody) => self.give_up(),
            Stop::Lead(_) | Stop::Follow(_) => wait::until_stopped(self),
        }
        let result = self.lifecycle.wait_until_stopped();
        self.reports.wait_until_delivered();
        self.leave_executor(deadline);
        result
    }

    /// The end of a writer that nobody drives, or will.
    pub(super) fn give_up(self: &Arc<Self>) {
        let ending = {
            let mut session = self.session.lock();
            let ending = session.give_up(&self.context(&|| false));
            self.gather_reports(&mut session);
            ending
        };
        self.is_connected.store(false, Ordering::Relaxed);
        self.finish(ending);
        self.deliver_reports(None);
    }

    /// Ends without waiting, and tells nobody any more: for a handle that is dropped inside one of its own callbacks.
    pub(super) fn abandon(self: &Arc<Self>) {
        self.reports.mute();
        self.queue.close();
        match self.lifecycle.stop(Duration::ZERO) {
            Stop::Lead(DrivenBy::Host | DrivenBy::Nobody) => self.give_up(),
            Stop::Lead(DrivenBy::Threads) | Stop::Follow(_) | Stop::Over => self.notify(),
        }
    }

    /// Once: a thread that is held up and was not waited for is not waited for again.
    fn leave_executor(&self, deadline: Option<Instant>) {
        if self.has_left.swap(true, Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        let deadline = deadline.map_or(now + JOIN_LONGEST, |at| at.clamp(now + JOIN_GRACE, now + JOIN_LONGEST));
        let watch = self.path_watch.lock().take();
        // Without the lock: the last user waits for a turn to end. A turn of this writer that is looking for the path uses
        // it as well.
        if let Some(watch) = watch.and_then(Arc::into_inner) {
            watch.leave(deadline);
        }
        if let Some(registration) = self.registration.get() {
            registration.leave(Some(deadline));
        }
    }
}

/// A caller waits until this is dropped.
pub(super) struct Awaiting<'a>(&'a AtomicU32);

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// On a thread of the executor the other writers do not wait meanwhile.
fn block_in_place<T>(worker: Option<&Worker<'_>>, body: impl FnOnce() -> T) -> T {
    match worker {
        Some(worker) => worker.block_in_place(body),
        None => body(),
    }
}

impl Task for Driver {
    fn state(&self) -> &TaskState {
        &self.task
    }

    fn run(self: Arc<Self>, wakeup: Wakeup, worker: &Worker<'_>) -> bool {
        let woken = Woken { hung_up: wakeup.is_hangup(), path_appeared: false };
        match self.drive_with(woken, Some(worker)) {
            Progress::Waits => true,
            Progress::Again => {
                self.notify(); // it runs, and gets another turn
                true
            }
            Progress::Over => false,
        }
    }

    fn panicked(&self) {
        self.queue.close();
        self.finish(Ending::Panicked);
    }
}

impl PathListener for Driver {
    fn path_appeared(self: Arc<Self>) {
        self.path_appeared.store(true, Ordering::Relaxed);
        self.notify();
    }
}
