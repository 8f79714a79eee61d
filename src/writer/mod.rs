//! The sending side: what a caller holds.
//!
//! - `batch`: whole frames, and the memory for them
//! - `queue`: batches between producers and the sender, and the account of every message
//! - `front`: the one or two batches being written, frame by frame
//! - `window`: which messages the reader may not have read
//! - `connection`: one connection: what the kernel says of it
//! - `link`: the states of the connection
//! - `sender`: connection after connection: dial, pump, lose
//! - `drain`: the end: what is left is sent or given up
//! - `world`: what the sender works with
//! - `shared`: the state of all that, and what threads of ours, callers and the host do with it
//! - `crew`: the threads that drive all started writers
//! - `rota`: whose turn it is, and how many threads are needed

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::lifecycle::{Driver, Lifecycle, Phase, Stop};
use crate::metrics::WriterMetrics;
use crate::options::WriterOptions;
use crate::sys::event::Poller;
use crate::sys::fork;
use crate::sys::lock::{Condvar, Mutex};

mod batch;
mod connection;
mod crew;
mod drain;
mod front;
mod link;
#[cfg(all(test, loom))]
mod model;
mod queue;
mod rota;
mod sender;
mod shared;
mod window;
mod world;

use crew::{Berth, Driven};
use queue::{Queue, Refusal};
use rota::Turns;
use sender::Sender;
use shared::Shared;
use world::Counters;

/// How often `flush` looks at first, and at most.
const FLUSH_STEP: Duration = Duration::from_micros(100);
const FLUSH_LONGEST: Duration = Duration::from_millis(5);

/// Queues messages without ever blocking its caller, and sends them to the reader at a path.
///
/// All methods may be called from any thread. Dropping a running writer stops it at once, giving up what is queued: call
/// [`Writer::stop`] first to send it.
pub struct Writer {
    shared: Arc<Shared>,
}

/// How far [`Writer::write_messages`] came.
#[derive(Debug, thiserror::Error)]
#[error("message {accepted} was refused: {error}")]
pub struct WriteManyError {
    /// How many messages were accepted before the refusal.
    pub accepted: usize,
    /// Why the next one was refused.
    pub error: Error,
}

impl Writer {
    /// Makes a writer for the reader at `path`. Touches no file and no socket.
    pub fn new(path: impl AsRef<Path>, options: WriterOptions) -> Result<Writer> {
        let path = path.as_ref();
        crate::path::check(path)?;
        let resources = |source| Error::from_os("descriptors for a writer's event loop", source);
        let poller = Poller::new().map_err(resources)?;
        poller.wake(); // a host's loop sees at once that there is something to do: connect
        let shared = Shared {
            path: path.into(),
            queue: Queue::new(options.max_buffered_writes, options.max_buffered_bytes),
            options,
            poller,
            counters: Counters::default(),
            socket: AtomicI32::new(-1),
            sender: Mutex::new(Sender::new(Instant::now(), RandomState::new().build_hasher().finish())),
            lifecycle: Lifecycle::new(),
            berth: OnceLock::new(),
            turns: Turns::default(),
            losses_told: AtomicU64::new(0),
            delivering: Mutex::new(()),
            undelivered: Mutex::new(0),
            delivered: Condvar::default(),
            muted: AtomicBool::new(false),
            fork: fork::Token::of_this_process().map_err(resources)?,
        };
        Ok(Writer { shared: Arc::new(shared) })
    }

    /// From now on threads of the library drive the writer, which connects at once. Calling it again does nothing.
    pub fn start(&self) -> Result<()> {
        self.check_fork()?;
        let shared = &self.shared;
        shared.lifecycle.start(|| {
            let driven: Arc<dyn Driven> = Arc::<Shared>::clone(shared);
            let berth = Berth::find(&driven)?;
            let _ = shared.berth.set(berth); // the first one: a start that has succeeded is not made again
            Ok(())
        })?;
        Ok(())
    }

    /// Queues a copy of `message`. Never blocks. An empty message is accepted and not sent.
    #[inline(always)] // into the C function: a call and a result in memory cost a twentieth of what this does
    pub fn write(&self, message: &[u8]) -> Result<()> {
        let shared = &self.shared;
        if !shared.is_plain(message) {
            return shared.judge(message);
        }
        match shared.queue.push(message) {
            Ok(false) => Ok(()),
            Ok(true) => {
                shared.rouse();
                Ok(())
            }
            Err(refusal) => Err(shared.explain(refusal)),
        }
    }

    /// As [`Writer::write`], but waits up to `timeout` for room. A time of zero does not wait. While the host drives the
    /// writer, this call does so itself as long as it waits.
    pub fn write_timeout(&self, message: &[u8], timeout: Duration) -> Result<()> {
        let shared = &self.shared;
        if timeout.is_zero() || !shared.is_plain(message) || !shared.queue.could_hold(message) {
            return self.write(message);
        }
        let deadline = Instant::now().checked_add(timeout);
        loop {
            match shared.queue.offer(message) {
                Ok(false) => return Ok(()),
                Ok(true) => {
                    shared.rouse();
                    return Ok(());
                }
                Err(Refusal::Full) => {}
                Err(refusal) => return Err(shared.explain(refusal)),
            }
            let in_vain = match shared.lifecycle.refuse_in_callback("write_message_timeout") {
                Ok(()) if is_past(deadline) => Error::Timeout("the queue stayed full"),
                Ok(()) => {
                    shared.wait_for_room(message.len(), deadline);
                    continue;
                }
                Err(deadlock) => deadlock,
            };
            shared.queue.count_dropped();
            return Err(in_vain);
        }
    }

    /// Queues messages in order and returns how many: all, or those before the first that was refused.
    pub fn write_messages<'a, I>(&self, messages: I) -> std::result::Result<usize, WriteManyError>
    where
        I: IntoIterator<Item = &'a [u8]>,
    {
        enum Why {
            Refused(Refusal),
            TooLarge(u64),
        }
        impl From<Refusal> for Why {
            fn from(refusal: Refusal) -> Why {
                Why::Refused(refusal)
            }
        }
        let shared = &self.shared;
        self.check_fork().map_err(|error| WriteManyError { accepted: 0, error })?;
        let limit = shared.options.max_message_size;
        let checked = messages.into_iter().map(|message| match message.len() as u64 {
            size if size > limit => Err(Why::TooLarge(size)),
            _ => Ok(message),
        });
        let (accepted, why) = shared.queue.push_many(checked, || shared.rouse());
        match why {
            None => Ok(accepted),
            Some(Why::Refused(refusal)) => Err(WriteManyError { accepted, error: shared.explain(refusal) }),
            Some(Why::TooLarge(size)) => {
                Err(WriteManyError { accepted, error: Error::MessageTooLarge { size, limit } })
            }
        }
    }

    /// Waits until the reader's process has read everything that was accepted before the call. If messages have been given
    /// up, or may have been lost with a reader, since the last flush, it fails with [`Error::Undelivered`] at once.
    pub fn flush(&self, timeout: Duration) -> Result<()> {
        self.check_fork()?;
        let shared = &self.shared;
        shared.lifecycle.refuse_in_callback("flush")?;
        // Before the goal: a loss of what counts towards it is then never taken for one that was told earlier.
        let told = shared.losses_told.load(Ordering::SeqCst);
        let goal = shared.queue.account().accepted.messages;
        let deadline = Instant::now().checked_add(timeout);
        let mut step = FLUSH_STEP;
        loop {
            let (settled, over) = {
                let mut sender = shared.sender.lock();
                (sender.settled(shared.world()), sender.is_over())
            };
            let lost = shared.lost();
            if lost > told {
                // Everyone who waits is told; a later call is not.
                shared.losses_told.fetch_max(lost, Ordering::Relaxed);
                return Err(Error::Undelivered(lost - told));
            }
            // Its connection is gone, and with it what would tell whether all of it was read.
            if over || shared.lifecycle.phase() == Phase::Stopped {
                return Err(shared.lifecycle.why_stopped());
            }
            if settled >= goal {
                return Ok(());
            }
            if is_past(deadline) {
                return Err(Error::Timeout("the reader has not read everything yet"));
            }
            let pause = deadline.map_or(step, |deadline| step.min(deadline.saturating_duration_since(Instant::now())));
            match shared.lifecycle.driver() {
                Driver::Host => {
                    shared.drive(Some(pause));
                }
                Driver::Threads | Driver::Nobody => std::thread::sleep(pause), // there is no event for SIOCOUTQ
            }
            step = (step * 2).min(FLUSH_LONGEST);
        }
    }

    /// Refuses new messages from now on, sends what is queued, and returns when that is done or `timeout` has passed.
    /// Later calls return what the first one returned.
    pub fn stop(&self, timeout: Duration) -> Result<()> {
        self.check_fork()?;
        // The handle may be dropped in a callback of this very call.
        let shared = Arc::clone(&self.shared);
        shared.lifecycle.refuse_in_callback("stop")?;
        shared.stop(timeout)
    }

    /// What the writer has done so far.
    pub fn metrics(&self) -> WriterMetrics {
        let shared = &*self.shared;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // First, so that it never counts messages that `sent` does not.
        let suspected_lost = count(&shared.counters.suspected_lost);
        let account = shared.queue.account();
        WriterMetrics {
            sent: account.sent.messages,
            dropped: account.dropped,
            failed: count(&shared.counters.failed),
            queue_depth: account.depth.messages,
            queue_bytes: account.depth.bytes,
            sent_bytes: account.sent.bytes,
            retried: count(&shared.counters.retried),
            abandoned: account.abandoned.messages,
            suspected_lost,
            connections: count(&shared.counters.connections),
            connect_failures: count(&shared.counters.connect_failures),
        }
    }

    /// The path, as it was given.
    pub fn socket_path(&self) -> &Path {
        &self.shared.path
    }

    /// Whether there is a connection. With socket activation that does not say that the reader runs.
    pub fn is_connected(&self) -> bool {
        self.shared.fork.is_current() && self.shared.socket.load(Ordering::Relaxed) >= 0
    }

    /// The descriptor that a host's event loop watches: level-triggered, readable when [`Writer::dispatch`] has work.
    pub fn event_fd(&self) -> Result<BorrowedFd<'_>> {
        self.check_fork()?;
        Ok(self.shared.poller.as_fd())
    }

    /// Waits up to `timeout` for work, does what can be done at once, and returns. For a writer that is not started.
    pub fn dispatch(&self, timeout: Duration) -> Result<()> {
        self.check_fork()?;
        // The handle may be dropped in a callback of this very call.
        let shared = Arc::clone(&self.shared);
        shared.lifecycle.refuse_in_callback("dispatch")?;
        shared.lifecycle.dispatch()?;
        shared.drive((timeout != Duration::MAX).then_some(timeout));
        Ok(())
    }

    /// Fails if the writer was made by the parent of this process.
    pub fn check_fork(&self) -> Result<()> {
        if self.shared.fork.is_current() { Ok(()) } else { Err(Error::Forked) }
    }

    /// A forced stop: what is queued is given up.
    pub(crate) fn end(&self) {
        if self.check_fork().is_err() || self.shared.lifecycle.in_callback() {
            return self.abandon();
        }
        let _ = Arc::clone(&self.shared).stop(Duration::ZERO);
    }

    /// Ends without waiting, and tells nobody any more: for a handle that is given up inside one of its own callbacks, where
    /// waiting would be waiting for ourselves, or in a forked child.
    fn abandon(&self) {
        let shared = &self.shared;
        if !shared.fork.is_current() {
            return shared.leave_to_parent();
        }
        shared.muted.store(true, Ordering::Relaxed);
        shared.queue.close();
        match shared.lifecycle.stop(Duration::ZERO) {
            Stop::Lead(Driver::Host | Driver::Nobody) => shared.give_up_undriven(),
            Stop::Lead(Driver::Threads) | Stop::Follow(_) | Stop::Over => shared.poller.wake(),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

fn is_past(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("path", &self.shared.path).field("metrics", &self.metrics()).finish()
    }
}
