//! The receiving side: what a caller holds.
//!
//! - `event_loop`: passes events to their owners; `serve`: a connection's turns and its end; `status`: metrics and
//!   description
//! - `acceptor`: accept, admit, refuse, pause when short of descriptors; `listener`: the socket, bound here or passed
//!   in; `presence`: what to do when its file is removed
//! - `worker_pool`: threads, as many as callbacks need
//! - `connections`: all of them, by id and by when they were last active; `connection`: one, turn by turn
//! - `source`: a connection's bytes; `frame_reader`: bytes to frames; `deliver`: frames to the callback; `budget`: how
//!   long a turn may take
//! - `handler`: the callback and what it returns; `peer`: who a message came from
//! - `read_buffers`: memory lent to turns; `throttle`: delays peers that send malformed frames; `report`: errors to the error
//!   callback
//! - `account`: how far a connection has been handled, for a writer that wants to know; `ledger`: where that stands
//! - `ring`: memory lent to busy writers, in which their frames come without a system call; `connection::ring_turn`: the turns
//!   of such a connection
//! - `drain`: the state of a stop; `stop`: a stop carried out
//! - `ticket_lock`: a fair lock for callbacks that must not overlap; `clock`: time as a number

use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::event_source::{EventSource, HostDriven};
use crate::lifecycle::Lifecycle;
use crate::metrics::{ReaderMetrics, prometheus};
use crate::options::ReaderOptions;

mod acceptor;
mod account;
mod budget;
mod clock;
mod connection;
mod connections;
mod deliver;
mod drain;
mod event_loop;
mod frame_reader;
mod handler;
mod ledger;
mod listener;
mod peer;
mod presence;
mod read_buffers;
mod report;
mod ring;
mod serve;
mod source;
mod status;
mod stop;
mod throttle;
mod ticket_lock;
mod worker_pool;

pub(crate) use deliver::MAX_CALLBACK_MESSAGES;
use event_loop::EventLoop;
use handler::Handler;
pub use handler::HandlerResult;
pub(crate) use handler::{Failure, ReturnedNonZero};
pub use peer::{Credentials, Peer};

/// Accepts many writers at a path and hands each message to a callback.
///
/// All methods may be called from any thread. Dropping a running reader stops it within the time of
/// [`ReaderOptions::linger`]; call [`Reader::stop`] first to give it more time and to hear how it ended.
///
/// ```
/// use std::time::Duration;
/// use udsipc::{Reader, ReaderOptions};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("events.sock");
/// let reader = Reader::new(&path, |message, _| println!("{} bytes", message.len()), ReaderOptions::new())?;
/// reader.start()?;
/// println!("{}", reader.describe());
/// // Until it is time to end:
/// reader.stop(Duration::from_secs(5))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a reader that is dropped is stopped"]
pub struct Reader {
    event_loop: Arc<EventLoop>,
}

impl Reader {
    /// Binds and listens at `path`, or takes the socket that systemd has passed. Writers can connect from now on;
    /// `on_message` is called for each message once the reader is started or dispatched. It returns nothing, or a `Result`
    /// ([`HandlerResult`]).
    ///
    /// Calls for one connection are made in order and one at a time; calls for different connections overlap.
    ///
    /// # Errors
    ///
    /// An option out of its range; [`Error::InvalidSocketPath`]; [`Error::AddressInUse`] if a live reader listens at the path;
    /// [`Error::Systemd`]; or the operating system's error.
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use udsipc::{Reader, ReaderOptions};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("events.sock");
    /// let (messages, received) = mpsc::channel();
    /// let reader = Reader::new(&path, move |message, _| messages.send(message.to_vec()), ReaderOptions::new())?;
    /// reader.start()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// [`Error::InvalidSocketPath`]: crate::Error::InvalidSocketPath
    /// [`Error::AddressInUse`]: crate::Error::AddressInUse
    /// [`Error::Systemd`]: crate::Error::Systemd
    pub fn new<F, R>(path: impl AsRef<Path>, on_message: F, options: ReaderOptions) -> Result<Reader>
    where
        F: Fn(&[u8], &Peer<'_>) -> R + Send + Sync + 'static,
        R: HandlerResult,
    {
        let each = move |message: &[u8], peer: &Peer<'_>| on_message(message, peer).into_result();
        Self::open(path.as_ref(), Handler::Each(Box::new(each)), options)
    }

    /// As [`Reader::new`] with many messages of one connection in each call, in order, 256 at most. The callback
    /// returns how many it handled well: the one at that index counts as failed, and it is called again for those
    /// behind it.
    ///
    /// ```
    /// use udsipc::{Peer, Reader, ReaderOptions};
    ///
    /// let on_messages = |messages: &[&[u8]], _: &Peer<'_>| {
    ///     println!("{} messages", messages.len());
    ///     messages.len()
    /// };
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("events.sock");
    /// let reader = Reader::new_batched(&path, on_messages, ReaderOptions::new())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new_batched<F>(path: impl AsRef<Path>, on_messages: F, options: ReaderOptions) -> Result<Reader>
    where
        F: Fn(&[&[u8]], &Peer<'_>) -> usize + Send + Sync + 'static,
    {
        Self::open(path.as_ref(), Handler::Batch(Box::new(on_messages)), options)
    }

    fn open(path: &Path, handler: Handler, options: ReaderOptions) -> Result<Reader> {
        options.check()?;
        Ok(Reader { event_loop: Arc::new(EventLoop::open(path, handler, options)?) })
    }

    /// Starts the reader's threads and tells systemd `READY=1`. Calling it again does nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NoResources`](crate::Error::NoResources) if no thread can be started;
    /// [`Error::WrongState`](crate::Error::WrongState) if the program drives it ([`Reader::event_source`]);
    /// [`Error::Stopped`](crate::Error::Stopped); [`Error::Forked`](crate::Error::Forked).
    ///
    /// ```
    /// # use udsipc::{Reader, ReaderOptions};
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("events.sock");
    /// let reader = Reader::new(&path, |message, _| println!("{message:?}"), ReaderOptions::new())?;
    /// reader.start()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start(&self) -> Result<()> {
        self.check_fork()?;
        self.event_loop.start()
    }

    /// Takes no new connections, receives what writers have already sent, waits for running callbacks, and returns.
    /// Later calls return what the first one returned.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`](crate::Error::Timeout) if something had to be left unread when `timeout` had passed;
    /// [`Error::WouldDeadlock`](crate::Error::WouldDeadlock) inside one of its callbacks;
    /// [`Error::Forked`](crate::Error::Forked).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use udsipc::{Reader, ReaderOptions};
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("events.sock");
    /// let reader = Reader::new(&path, |message, _| println!("{message:?}"), ReaderOptions::new())?;
    /// reader.start()?;
    /// reader.stop(Duration::from_secs(5))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stop(&self, timeout: Duration) -> Result<()> {
        self.check_fork()?;
        self.lifecycle().refuse_in_callback("stop")?;
        self.event_loop.stop(timeout)
    }

    /// What the reader has done so far.
    ///
    /// ```
    /// # use udsipc::{Reader, ReaderOptions};
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("events.sock");
    /// let reader = Reader::new(&path, |message, _| println!("{message:?}"), ReaderOptions::new())?;
    /// assert_eq!(reader.metrics().active_connections, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn metrics(&self) -> ReaderMetrics {
        self.event_loop.metrics()
    }

    /// Where writers find the reader: the path after resolution, or that of the passed socket.
    ///
    /// ```
    /// # use udsipc::{Reader, ReaderOptions};
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("events.sock");
    /// let reader = Reader::new(&path, |message, _| println!("{message:?}"), ReaderOptions::new())?;
    /// assert_eq!(reader.socket_path(), path);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn socket_path(&self) -> &Path {
        self.event_loop.path()
    }

    /// The reader in an event loop of the program, in place of [`Reader::start`]: without a thread of the library.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`](crate::Error::Forked).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use udsipc::{Reader, ReaderOptions};
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("events.sock");
    /// let reader = Reader::new(&path, |message, _| println!("{message:?}"), ReaderOptions::new())?;
    /// let source = reader.event_source()?;
    /// // Whenever its descriptor is readable:
    /// source.dispatch(Duration::ZERO)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn event_source(&self) -> Result<EventSource> {
        self.check_fork()?;
        Ok(EventSource::new(Arc::clone(&self.event_loop)))
    }

    /// The counters in the text format of Prometheus, version 0.0.4. `labels` is empty, or what stands between the braces:
    /// `pipe="events"`.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// let reader = udsipc::Reader::new(
    ///     directory.path().join("events.sock"),
    ///     |_: &[u8], _: &udsipc::Peer<'_>| {},
    ///     udsipc::ReaderOptions::new(),
    /// )?;
    /// let text = reader.metrics_prometheus(r#"pipe="events""#)?;
    /// assert!(text.contains("udsipc_reader_received_total{pipe=\"events\"} 0\n"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::Error::InvalidArgument) for labels with which the text would not parse.
    pub fn metrics_prometheus(&self, labels: &str) -> Result<String> {
        prometheus::reader(&self.metrics(), labels)
    }

    /// One line for a log: where it listens, what systemd gave, and how much memory it shares with how many writers.
    ///
    /// ```
    /// # use udsipc::{Reader, ReaderOptions};
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("events.sock");
    /// let reader = Reader::new(&path, |message, _| println!("{message:?}"), ReaderOptions::new())?;
    /// assert!(reader.describe().contains("events.sock"), "{}", reader.describe());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn describe(&self) -> String {
        self.event_loop.describe()
    }

    /// The descriptor for the C API.
    pub(crate) fn event_fd(&self) -> Result<BorrowedFd<'_>> {
        self.check_fork()?;
        Ok(self.event_loop.event_fd())
    }

    /// See [`EventSource::dispatch`].
    pub(crate) fn dispatch(&self, timeout: Duration) -> Result<bool> {
        EventLoop::dispatch(&self.event_loop, timeout)
    }

    /// Fails if the reader was made by the parent of this process.
    pub(crate) fn check_fork(&self) -> Result<()> {
        self.event_loop.check_fork()
    }

    /// The end of the handle: a stop; inside one of its own callbacks, where that would wait for itself, less than
    /// that; and in a forked child nothing, since the handle is the parent's.
    pub(crate) fn end(&self) {
        if self.check_fork().is_err() {
            std::mem::forget(Arc::clone(&self.event_loop));
        } else if self.lifecycle().in_callback() {
            self.event_loop.abandon();
        } else {
            let _ = self.event_loop.stop(self.event_loop.linger);
        }
    }

    fn lifecycle(&self) -> &Lifecycle {
        &self.event_loop.lifecycle
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.end();
    }
}

impl HostDriven for Arc<EventLoop> {
    fn event_fd(&self) -> BorrowedFd<'_> {
        EventLoop::event_fd(self)
    }

    fn dispatch(&self, timeout: Duration) -> Result<bool> {
        EventLoop::dispatch(self, timeout)
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("path", &self.socket_path()).field("metrics", &self.metrics()).finish()
    }
}
