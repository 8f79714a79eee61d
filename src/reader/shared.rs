//! The state that all parts of one reader share, and what can be read off it.

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};
use crate::lifecycle::Lifecycle;
use crate::metrics::ReaderMetrics;
use crate::options::ReaderOptions;
use crate::sys::event::{Key, Poller};
use crate::sys::lock::{Condvar, Mutex};
use crate::sys::thread::Threads;
use crate::sys::{self, fork};
use crate::systemd::Environment;

use super::Handler;
use super::hands::HandlerFailures;
use super::lane::Lanes;
use super::listener::Listener;
use super::offenders::Offenders;
use super::table::{Nanos, Table};
use super::turnstile::Turnstile;

/// The listener's key in the poller; connections have theirs from 1 on.
pub(super) const LISTENER: Key = 0;

/// Somebody closed our descriptors: the pause that keeps a loop from spinning.
pub(super) const BROKEN_PAUSE: Duration = Duration::from_millis(1);

/// The state of one reader.
pub(crate) struct Shared {
    pub(super) listener: Listener,
    pub(super) handler: Handler,
    pub(super) options: ReaderOptions,
    pub(super) environment: Environment,

    pub(super) poller: Poller,
    pub(super) table: Table,
    pub(super) lanes: Lanes,
    pub(super) accepting: Mutex<Accepting>,
    pub(super) offenders: Mutex<Offenders>,
    pub(super) pool: Pool,
    pub(super) counters: Counters,

    pub(super) lifecycle: Lifecycle,
    /// The stop has begun: connections are being ended.
    pub(super) draining: AtomicBool,
    /// The stop is over or was cut short: no further callback, threads leave.
    pub(super) forced: AtomicBool,
    /// Something was left unread.
    pub(super) cut_short: AtomicBool,
    /// Calls of the host that may run callbacks: a stop waits for them.
    pub(super) working: AtomicUsize,
    /// A connection is gone, work is done, or a deadline has moved, while draining.
    pub(super) gone: Condvar,
    pub(super) gone_lock: Mutex<()>,
    /// The handle was dropped inside one of its own callbacks: there is nobody left to tell.
    pub(super) muted: AtomicBool,
    /// With one handler thread: held during callbacks, also when several threads of the host dispatch.
    pub(super) turnstile: Option<Turnstile>,
    pub(super) born: Instant,
    pub(super) fork: fork::Token,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) errors: AtomicU64,
    pub(super) accept_errors: AtomicU64,
    pub(super) idle_closed: AtomicU64,
    pub(super) refused: AtomicU64,
}

/// How accepting goes.
#[derive(Debug, Default)]
pub(super) struct Accepting {
    pub(super) failures_in_a_row: u32,
    /// Accepting pauses until then.
    pub(super) again_at: Option<Nanos>,
    pub(super) closed: bool,
    /// The reader stops, and connections wait in the backlog of a socket of its own.
    pub(super) backlog: bool,
}

/// The threads of one reader.
#[derive(Debug, Default)]
pub(super) struct Pool {
    pub(super) limit: u32,
    pub(super) counts: Mutex<Counts>,
    pub(super) threads: Threads,
}

/// Decided together, so that the last one that waits never leaves.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) total: u32,
    /// Those that wait for an event, or are about to.
    pub(super) waiting: u32,
}

impl Pool {
    pub(super) fn new(limit: u32) -> Pool {
        Pool { limit, ..Pool::default() }
    }
}

impl Shared {
    pub(crate) fn open(path: &Path, handler: Handler, options: ReaderOptions) -> Result<Shared> {
        let resources = |source| Error::from_os("descriptors for a reader's event loop", source);
        let environment = if options.use_systemd { Environment::from_env() } else { Environment::new(0, |_| None) };
        let poller = Poller::new().map_err(resources)?;
        let fork = fork::Token::of_this_process().map_err(resources)?;
        // The last that can fail, so that a reader that is not to be leaves no socket file behind.
        let listener = Listener::open(path, &options, &environment)?;
        listener.register(&poller, LISTENER).inspect_err(|_| listener.close()).map_err(resources)?;
        Ok(Shared {
            listener,
            handler,
            environment,
            poller,
            table: Table::default(),
            lanes: Lanes::default(),
            accepting: Mutex::default(),
            offenders: Mutex::default(),
            pool: Pool::new(options.max_handler_threads),
            counters: Counters::default(),
            lifecycle: Lifecycle::new(),
            draining: AtomicBool::new(false),
            forced: AtomicBool::new(false),
            cut_short: AtomicBool::new(false),
            working: AtomicUsize::new(0),
            gone: Condvar::default(),
            gone_lock: Mutex::new(()),
            muted: AtomicBool::new(false),
            turnstile: (options.max_handler_threads == 1).then(Turnstile::default),
            options,
            born: Instant::now(),
            fork,
        })
    }

    /// Nanoseconds since the reader was made.
    pub(super) fn now(&self) -> Nanos {
        u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(Nanos::MAX)
    }

    pub(super) fn arm(&self, at: Nanos) {
        let _ = self.poller.arm(self.born + Duration::from_nanos(at));
    }

    pub(super) fn report(&self, error: &Error, context: Context) {
        let Some(on_error) = &self.options.on_error else { return };
        if self.muted.load(Ordering::Relaxed) {
            return;
        }
        let _inside = self.lifecycle.enter_callback();
        // A callback that panics has had its say; the messages are not its concern.
        let _ = catch_unwind(AssertUnwindSafe(|| on_error(error, context)));
    }

    pub(super) fn notify(&self, state: &str) {
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
        let path = one_line(self.path());
        if !self.environment.is_active() {
            return format!("running standalone socket_path={path}");
        }
        let directory = |dir: Option<&Path>| dir.map(one_line).unwrap_or_default();
        format!(
            "running under systemd socket_path={path} runtime_dir={} state_dir={} socket_activation={} \
             ready_notification={}",
            directory(self.environment.runtime_dir()),
            directory(self.environment.state_dir()),
            self.listener.is_adopted(),
            self.environment.notify_address().is_some(),
        )
    }

    /// In a forked child: closes the descriptors, and leaves everything else as it is.
    pub(crate) fn leave_to_parent(self: &Arc<Self>) {
        if self.muted.swap(true, Ordering::SeqCst) {
            return; // done already
        }
        for fd in self.poller.raw_fds() {
            sys::close_inherited(fd);
        }
        for fd in self.listener.raw_fds().into_iter().filter(|fd| *fd >= 0) {
            sys::close_inherited(fd);
        }
        for slot in self.table.all_in_child() {
            sys::close_inherited(slot.fd.as_raw_fd());
            std::mem::forget(slot);
        }
        std::mem::forget(Arc::clone(self));
    }
}

/// A path for a line of a log: one with a line break in it is shown with `\n` instead.
fn one_line(path: &Path) -> String {
    let mut line = String::new();
    for c in path.display().to_string().chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
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
