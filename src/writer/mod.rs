//! The sending side: what a caller holds.
//!
//! - `write`: the calls that queue messages
//! - `queue`: frames between producers and the session; `account`: how each message ended
//! - `batch`: whole frames one behind the other; `batch_pool`: memory for them
//! - `session`: connect, send, lose, drain: a state machine without I/O, threads or a clock
//! - `redial`: when to dial next, and when to give up
//! - `write_cursor`: how far the kernel has taken the batches, and what is kept until the reader has handled it
//! - `in_flight`: what a plain reader may not have read; `records`: what one of this library says
//! - `transport`: the socket as the session sees it; `dialer`: finds the path and connects
//! - `driver`: steps the session and does what it asks for; `reports`: what it has to tell the error callback
//! - `wait`: how callers wait; `host_loop`: the descriptors of a host's event loop
//! - `path_watch`: tells when the reader's socket appears; `shared_watch`: the one of all started writers

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::event_source::{EventSource, HostDriven};
use crate::lifecycle::{DrivenBy, Phase};
use crate::metrics::{WriterMetrics, prometheus};
use crate::options::WriterOptions;
use crate::path::one_line;
use crate::sys::event::Poller;

mod account;
mod batch;
mod batch_pool;
mod dialer;
mod driver;
mod host_loop;
mod in_flight;
#[cfg(all(test, loom))]
mod model;
mod path_watch;
mod queue;
mod records;
mod redial;
mod reports;
mod ring;
mod session;
mod shared_watch;
mod transport;
mod wait;
mod write;
mod write_cursor;

use driver::Driver;
use queue::Queue;
pub use write::WriteMessagesError;

/// More than all the pieces of a new writer need together.
const STATE: usize = 16 << 10;

/// Queues messages without ever blocking its caller, and sends them to the reader at a path.
///
/// All methods may be called from any thread. Dropping a running writer stops it as [`Writer::stop`] does, within the time of
/// [`WriterOptions::linger`]; inside one of its own callbacks it ends at once, and what is queued is given up.
///
/// ```
/// use std::time::Duration;
/// use udsipc::{Reader, ReaderOptions, Writer, WriterOptions};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("events.sock");
/// # let reader = Reader::new(&path, |_, _| (), ReaderOptions::new())?;
/// # reader.start()?;
/// let writer = Writer::new(&path, WriterOptions::new())?;
/// writer.start()?;
/// writer.write(b"hello")?;
/// writer.stop(Duration::from_secs(5))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a writer that is dropped is stopped"]
pub struct Writer {
    driver: Arc<Driver>,
}

impl Writer {
    /// Makes a writer for the reader at `path`. Touches no file and no socket.
    ///
    /// # Errors
    ///
    /// An option out of its range; [`Error::InvalidSocketPath`]; [`Error::NoResources`].
    ///
    /// ```
    /// # use udsipc::{Error, Writer, WriterOptions};
    /// let writer = Writer::new("/run/app/events.sock", WriterOptions::new())?;
    ///
    /// let refused = Writer::new("unix:/run/app/events.sock", WriterOptions::new());
    /// assert!(matches!(refused, Err(Error::InvalidSocketPath { .. })), "it is a path, no URL");
    /// # Ok::<(), Error>(())
    /// ```
    pub fn new(path: impl AsRef<Path>, options: WriterOptions) -> Result<Writer> {
        options.check()?;
        check_memory()?;
        let queue = Queue::new(options.max_buffered_writes, options.max_buffered_bytes);
        let seed = RandomState::new().build_hasher().finish();
        let driver = Driver::new(path.as_ref().into(), options, queue, seed)?;
        Ok(Writer { driver: Arc::new(driver) })
    }

    /// From now on threads of the library drive the writer, which connects at once. Calling it again does nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NoResources`] if no thread can be started; [`Error::WrongState`] if the program drives it
    /// ([`Writer::event_source`]); [`Error::Stopped`]; [`Error::Forked`].
    ///
    /// ```
    /// # use udsipc::{Writer, WriterOptions};
    /// let writer = Writer::new("@events", WriterOptions::new())?;
    /// writer.write(b"queued before, sent after the start")?;
    /// writer.start()?;
    /// # Ok::<(), udsipc::Error>(())
    /// ```
    pub fn start(&self) -> Result<()> {
        self.check_fork()?;
        self.driver.start()
    }

    /// Waits until everything that was accepted before the call has been handled by a reader that acknowledges, or has been
    /// read by the process of any other reader.
    ///
    /// # Errors
    ///
    /// [`Error::Undelivered`] at once if messages have been given up, or may have been lost with a reader, since the last flush;
    /// [`Error::Timeout`]; [`Error::WouldDeadlock`] inside one of the writer's callbacks; [`Error::Stopped`];
    /// [`Error::Forked`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use udsipc::{Reader, ReaderOptions, Writer, WriterOptions};
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("events.sock");
    /// # let reader = Reader::new(&path, |_, _| (), ReaderOptions::new())?;
    /// # reader.start()?;
    /// # let writer = Writer::new(&path, WriterOptions::new())?;
    /// # writer.start()?;
    /// writer.write(b"hello")?;
    /// writer.flush(Duration::from_secs(5))?;
    /// assert_eq!(writer.metrics().acknowledged, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flush(&self, timeout: Duration) -> Result<()> {
        self.check_fork()?;
        let driver = &self.driver;
        driver.lifecycle.refuse_in_callback("flush")?;
        // Before the goal: a loss of what counts towards it is then never taken for one that was told earlier.
        let told = driver.losses_told.load(Ordering::SeqCst);
        let goal = driver.queue.account().accepted.messages;
        let settled = || {
            let (settled, lost, is_over) = driver.settled();
            if lost > told {
                // Everyone who waits is told; a later call is not.
                driver.losses_told.fetch_max(lost, Ordering::Relaxed);
                return Some(Err(Error::Undelivered(lost - told)));
            }
            // Its connection is gone, and with it what would tell whether all of it was read.
            if is_over || driver.lifecycle.phase() == Phase::Stopped {
                return Some(Err(driver.lifecycle.why_stopped()));
            }
            (settled >= goal).then_some(Ok(()))
        };
        // There is no event for what the reader has read (SIOCOUTQ).
        wait::until(driver, Instant::now().checked_add(timeout), wait::SHORT_STEP, settled, std::thread::sleep)
            .unwrap_or(Err(Error::Timeout("the reader has not read everything yet")))
    }

    /// Refuses new messages from now on, sends what is queued, and returns when that is done or `timeout` has passed.
    /// Later calls return what the first one returned.
    ///
    /// # Errors
    ///
    /// [`Error::Undelivered`] if messages were given up because nobody listens (after 250 ms, see
    /// [`WriterOptions::drain_until_deadline`]), or may not have been read; [`Error::Timeout`]; [`Error::WouldDeadlock`]
    /// inside one of the writer's callbacks; [`Error::Forked`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use udsipc::{Error, Writer, WriterOptions};
    ///
    /// let writer = Writer::new("@nobody listens", WriterOptions::new())?;
    /// writer.start()?;
    /// writer.write(b"hello")?;
    /// let ended = writer.stop(Duration::from_secs(5));
    /// assert!(matches!(ended, Err(Error::Undelivered(1))));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn stop(&self, timeout: Duration) -> Result<()> {
        self.check_fork()?;
        // The handle may be dropped in a callback of this very call.
        let driver = Arc::clone(&self.driver);
        driver.lifecycle.refuse_in_callback("stop")?;
        driver.stop(timeout)
    }

    /// What the writer has done so far.
    ///
    /// ```
    /// # use udsipc::{Writer, WriterOptions};
    /// let writer = Writer::new("@events", WriterOptions::new())?;
    /// writer.write(b"hello")?;
    /// assert_eq!(writer.metrics().queue_bytes, 5);
    /// # Ok::<(), udsipc::Error>(())
    /// ```
    pub fn metrics(&self) -> WriterMetrics {
        let counters = &self.driver.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // These first, so that they never count messages that `sent` does not.
        let suspected_lost = count(&counters.suspected_lost);
        self.driver.poll_ledger();
        let acknowledged = count(&counters.acknowledged);
        let account = self.driver.queue.account();
        WriterMetrics {
            sent: account.sent.messages,
            dropped: account.dropped,
            failed: count(&counters.failed),
            queue_depth: account.depth.messages,
            queue_bytes: account.depth.bytes,
            sent_bytes: account.sent.bytes,
            retried: count(&counters.retried),
            abandoned: account.abandoned.messages,
            suspected_lost,
            connections: count(&counters.connections),
            connect_failures: count(&counters.connect_failures),
            acknowledged,
            redelivered: count(&counters.redelivered),
            ring_bytes: count(&counters.ring_bytes) + self.driver.queue.direct().bytes,
        }
    }

    /// The counters in the text format of Prometheus, version 0.0.4. `labels` is empty, or what stands between the braces:
    /// `pipe="events"`.
    ///
    /// ```
    /// let writer = udsipc::Writer::new("/run/app/events.sock", udsipc::WriterOptions::new())?;
    /// writer.write(b"hello")?;
    /// let text = writer.metrics_prometheus(r#"pipe="events""#)?;
    /// assert!(text.contains("udsipc_writer_queue_depth{pipe=\"events\"} 1\n"));
    /// # Ok::<(), udsipc::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for labels with which the text would not parse.
    pub fn metrics_prometheus(&self, labels: &str) -> Result<String> {
        prometheus::writer(&self.metrics(), self.is_connected(), labels)
    }

    /// One line for a log: the state, the path, and how messages have ended.
    ///
    /// ```
    /// let writer = udsipc::Writer::new("/run/app/events.sock", udsipc::WriterOptions::new())?;
    /// assert!(writer.describe()?.starts_with("not started socket_path=/run/app/events.sock connected=false"));
    /// # Ok::<(), udsipc::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    pub fn describe(&self) -> Result<String> {
        self.check_fork()?;
        let driver = &self.driver;
        let state = match (driver.lifecycle.phase(), driver.lifecycle.driven_by()) {
            (Phase::Stopped, _) => "stopped",
            (Phase::Draining { .. }, _) => "stopping",
            (Phase::Running, DrivenBy::Threads) => "running on threads of the library",
            (Phase::Running, DrivenBy::Host) => "running in the program's event loop",
            (Phase::Running, DrivenBy::Nobody) => "not started",
        };
        let (is_acknowledged, metrics) = (driver.is_acknowledged(), self.metrics());
        Ok(format!(
            "{state} socket_path={} connected={} acknowledged_delivery={is_acknowledged} queue_depth={} queue_bytes={} \
             sent={} acknowledged={} redelivered={} dropped={} abandoned={} suspected_lost={} connections={} \
             connect_failures={} ring_bytes={}",
            one_line(self.socket_path()),
            self.is_connected(),
            metrics.queue_depth,
            metrics.queue_bytes,
            metrics.sent,
            metrics.acknowledged,
            metrics.redelivered,
            metrics.dropped,
            metrics.abandoned,
            metrics.suspected_lost,
            metrics.connections,
            metrics.connect_failures,
            metrics.ring_bytes,
        ))
    }

    /// The path, as it was given.
    ///
    /// ```
    /// # use udsipc::{Writer, WriterOptions};
    /// let writer = Writer::new("@events", WriterOptions::new())?;
    /// assert_eq!(writer.socket_path(), "@events");
    /// # Ok::<(), udsipc::Error>(())
    /// ```
    pub fn socket_path(&self) -> &Path {
        &self.driver.path
    }

    /// Whether there is a connection. With socket activation that does not say that the reader runs.
    ///
    /// ```
    /// # use udsipc::{Writer, WriterOptions};
    /// let writer = Writer::new("@events", WriterOptions::new())?;
    /// assert!(!writer.is_connected(), "it has not been started");
    /// # Ok::<(), udsipc::Error>(())
    /// ```
    pub fn is_connected(&self) -> bool {
        self.driver.fork.is_current() && self.driver.is_connected()
    }

    /// The writer in an event loop of the program, in place of [`Writer::start`]: without a thread of the library. The first
    /// call makes its three descriptors, which a writer with threads does not need.
    ///
    /// # Errors
    ///
    /// [`Error::NoResources`] without descriptors; [`Error::Forked`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use udsipc::{Writer, WriterOptions};
    /// let writer = Writer::new("@events", WriterOptions::new())?;
    /// let source = writer.event_source()?;
    /// writer.write(b"hello")?;
    /// // Whenever its descriptor is readable:
    /// source.dispatch(Duration::ZERO)?;
    /// # Ok::<(), udsipc::Error>(())
    /// ```
    pub fn event_source(&self) -> Result<EventSource> {
        self.check_fork()?;
        let poller = Arc::clone(self.driver.host_loop()?.poller());
        Ok(EventSource::new(Hosted { driver: Arc::clone(&self.driver), poller }))
    }

    /// The descriptor for the C API.
    pub(crate) fn event_fd(&self) -> Result<BorrowedFd<'_>> {
        self.check_fork()?;
        Ok(self.driver.host_loop()?.poller().as_fd())
    }

    /// See [`EventSource::dispatch`].
    pub(crate) fn dispatch(&self, timeout: Duration) -> Result<bool> {
        self.driver.dispatch(timeout)
    }

    /// Fails if the writer was made by the parent of this process.
    pub(crate) fn check_fork(&self) -> Result<()> {
        self.driver.check_fork()
    }

    /// The end of the handle: a stop within `linger`, or at once where waiting would be waiting for the caller itself.
    pub(crate) fn end(&self) {
        let driver = Arc::clone(&self.driver);
        if self.check_fork().is_err() {
            // The parent's threads do not exist here, and a lock that one of them held stays locked for ever.
            std::mem::forget(driver);
        } else if driver.lifecycle.in_callback() {
            driver.abandon();
        } else {
            let _ = driver.stop(driver.options.linger);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

/// A writer in a host's event loop, whose descriptors have been made.
struct Hosted {
    driver: Arc<Driver>,
    poller: Arc<Poller>,
}

impl HostDriven for Hosted {
    fn event_fd(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }

    fn dispatch(&self, timeout: Duration) -> Result<bool> {
        self.driver.dispatch(timeout)
    }
}

/// Whether a new writer's state can be allocated. Its pieces are small, and allocated in ways that cannot fail: they find
/// what this has just given back.
fn check_memory() -> Result<()> {
    let mut room: Vec<u8> = Vec::new();
    let reserved = room.try_reserve_exact(STATE);
    std::hint::black_box(&room); // else the compiler leaves the allocation out
    reserved.map_err(|_| no_memory("memory for a writer"))
}

fn no_memory(action: &'static str) -> Error {
    Error::NoResources { action: action.into(), source: std::io::ErrorKind::OutOfMemory.into() }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("path", &self.driver.path).field("metrics", &self.metrics()).finish()
    }
}
