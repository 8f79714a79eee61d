//! The receiving side: what a caller holds.
//!
//! - `listener`: the socket, ours or systemd's, and who may come in
//! - `connection`: one connection: turn by turn until it ends without loss
//! - `intake`: its bytes between the socket and the callback
//! - `hands`: whole frames on their way into the callback
//! - `lane`: the buffer and the counters that a serving thread works with
//! - `table`: the open connections and their silence
//! - `turnstile`: callbacks that must not overlap, in their order
//! - `offenders`: peers that send what cannot be taken
//! - `shared`: the state of all that, and what can be read off it
//! - `accept`, `dispatch`, `pool`, `stop`: what happens with it: connections come, events are served, by threads or the
//!   host, and everything ends

use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::lifecycle::Lifecycle;
use crate::metrics::ReaderMetrics;
use crate::options::ReaderOptions;
use crate::sys::socket;

mod accept;
mod connection;
mod dispatch;
mod hands;
mod intake;
mod lane;
mod listener;
mod offenders;
mod pool;
mod shared;
mod stop;
mod table;
mod turnstile;

use shared::Shared;

/// Accepts many writers at a path and hands each message to a callback.
///
/// All methods may be called from any thread. Dropping a running reader stops it at once; call [`Reader::stop`] first to
/// receive what writers have already sent.
pub struct Reader {
    shared: Arc<Shared>,
}

/// The peer that a message came from. Valid during the callback.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    id: u64,
    fd: BorrowedFd<'a>,
}

/// Who a peer was when it connected (`SO_PEERCRED`, unix(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// The process; 0 if it lives in another pid namespace.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

impl Connection<'_> {
    /// A number that no other connection of the same reader has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Who connected.
    pub fn credentials(&self) -> Result<Credentials> {
        let (pid, uid, gid) =
            socket::peer_credentials(self.fd).map_err(|error| Error::from_os("the peer's credentials", error))?;
        Ok(Credentials { pid, uid, gid })
    }
}

/// What a message callback returns for "failed": counted, reported, and the next message follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandlerFailed;

type EachHandler = dyn Fn(&[u8], &Connection<'_>) -> std::result::Result<(), HandlerFailed> + Send + Sync;
type BatchHandler = dyn Fn(&[&[u8]], &Connection<'_>) -> usize + Send + Sync;

/// The callback.
enum Handler {
    Each(Box<EachHandler>),
    Batch(Box<BatchHandler>),
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Handler::Each(_) => "Each",
            Handler::Batch(_) => "Batch",
        })
    }
}

impl Reader {
    /// Binds and listens at `path`, or takes the socket that systemd has passed. Writers can connect from now on;
    /// `on_message` is called for each message once the reader is started or dispatched.
    ///
    /// Calls for one connection are made in order and one at a time; calls for different connections overlap.
    pub fn new<F>(path: impl AsRef<Path>, on_message: F, options: ReaderOptions) -> Result<Reader>
    where
        F: Fn(&[u8], &Connection<'_>) -> std::result::Result<(), HandlerFailed> + Send + Sync + 'static,
    {
        Self::open(path.as_ref(), Handler::Each(Box::new(on_message)), options)
    }

    /// As [`Reader::new`] with many messages of one connection in each call, in order, 256 at most. The callback returns
    /// how many it handled well: the one at that index counts as failed, and it is called again for those behind it.
    pub fn new_batched<F>(path: impl AsRef<Path>, on_messages: F, options: ReaderOptions) -> Result<Reader>
    where
        F: Fn(&[&[u8]], &Connection<'_>) -> usize + Send + Sync + 'static,
    {
        Self::open(path.as_ref(), Handler::Batch(Box::new(on_messages)), options)
    }

    fn open(path: &Path, handler: Handler, options: ReaderOptions) -> Result<Reader> {
        Ok(Reader { shared: Arc::new(Shared::open(path, handler, options)?) })
    }

    /// Starts the reader's threads and tells systemd `READY=1`. Calling it again does nothing.
    pub fn start(&self) -> Result<()> {
        self.check_fork()?;
        self.shared.start()
    }

    /// Takes no new connections, receives what writers have already sent, waits for running callbacks, and returns.
    /// [`Error::Timeout`] if something had to be left unread when `timeout` had passed. Later calls return what the first
    /// one returned.
    pub fn stop(&self, timeout: Duration) -> Result<()> {
        self.check_fork()?;
        self.lifecycle().refuse_in_callback("stop")?;
        self.shared.stop(timeout)
    }

    /// What the reader has done so far.
    pub fn metrics(&self) -> ReaderMetrics {
        self.shared.metrics()
    }

    /// Where writers find the reader: the path after resolution, or that of the passed socket.
    pub fn socket_path(&self) -> &Path {
        self.shared.path()
    }

    /// The descriptor that a host's event loop watches: level-triggered, readable when [`Reader::dispatch`] has work.
    pub fn event_fd(&self) -> Result<BorrowedFd<'_>> {
        self.check_fork()?;
        Ok(self.shared.event_fd())
    }

    /// Waits up to `timeout` for work, does what is there, and returns. Callbacks run in this call. For a reader that is
    /// not started.
    pub fn dispatch(&self, timeout: Duration) -> Result<()> {
        self.check_fork()?;
        // The handle may be dropped in a callback of this very call.
        let shared = Arc::clone(&self.shared);
        self.lifecycle().refuse_in_callback("dispatch")?;
        shared.dispatch((timeout != Duration::MAX).then_some(timeout))
    }

    /// One line for a log: where it listens, and what systemd gave.
    pub fn describe(&self) -> String {
        self.shared.describe()
    }

    /// Fails if the reader was made by the parent of this process.
    pub fn check_fork(&self) -> Result<()> {
        if self.shared.is_ours() { Ok(()) } else { Err(Error::Forked) }
    }

    /// A forced stop: what has not been received stays unread.
    pub(crate) fn end(&self) {
        if self.check_fork().is_err() || self.lifecycle().in_callback() {
            return self.abandon();
        }
        let _ = self.shared.stop(Duration::ZERO);
    }

    /// Ends without waiting, and calls nobody any more: for a handle that is given up inside one of its own callbacks, where
    /// waiting would be waiting for ourselves, or in a forked child.
    fn abandon(&self) {
        if self.shared.is_ours() {
            self.shared.abandon();
        } else {
            self.shared.leave_to_parent();
        }
    }

    fn lifecycle(&self) -> &Lifecycle {
        self.shared.lifecycle()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("path", &self.socket_path()).field("metrics", &self.metrics()).finish()
    }
}
