//! Snapshots of a handle's counters. The counters themselves are next to the code that counts.

pub(crate) mod prometheus;

/// The counters of a writer. At any moment `accepted = sent + abandoned + queue_depth`.
///
/// ```
/// use udsipc::{Writer, WriterOptions};
///
/// let writer = Writer::new("@events", WriterOptions::new())?;
/// writer.write(b"hello")?;
/// let metrics = writer.metrics();
/// assert_eq!(metrics.sent + metrics.abandoned + metrics.queue_depth, 1);
/// # Ok::<(), udsipc::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriterMetrics {
    /// Messages that the kernel has taken whole, or that lie in memory shared with the reader.
    pub sent: u64,
    /// Messages refused because the queue was full.
    pub dropped: u64,
    /// Failed attempts to send a message. A message that failed once and was sent then counts here and in `sent`.
    pub failed: u64,
    /// Messages in the queue: accepted, and neither sent nor abandoned. A partly written message counts here.
    pub queue_depth: u64,
    /// Payload bytes of the messages in `queue_depth`.
    pub queue_bytes: u64,
    /// Payload bytes of the messages in `sent`.
    pub sent_bytes: u64,
    /// Attempts to send a failed message again on a new connection.
    pub retried: u64,
    /// Messages accepted and then given up: at stop, or after `max_attempts` broken connections.
    pub abandoned: u64,
    /// Messages in `sent` that the reader may not have read before it went away: an upper bound.
    pub suspected_lost: u64,
    /// Connections made.
    pub connections: u64,
    /// Connects that failed.
    pub connect_failures: u64,
    /// Messages in `sent` that a reader of this library has handled: their callback has returned.
    pub acknowledged: u64,
    /// Messages that were sent again after a reader's end. In `sent` each counts once.
    pub redelivered: u64,
    /// Payload in `sent_bytes` that went through memory shared with the reader
    /// ([`ReaderOptions::max_shared_memory`](crate::ReaderOptions::max_shared_memory)).
    pub ring_bytes: u64,
}

/// The counters of a reader.
///
/// ```
/// use udsipc::{Reader, ReaderOptions};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("events.sock");
/// let reader = Reader::new(&path, |message, _| println!("{message:?}"), ReaderOptions::new())?;
/// let metrics = reader.metrics();
/// println!("{} messages from {} connections", metrics.received, metrics.connections);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReaderMetrics {
    /// Messages that the callback has handled.
    pub received: u64,
    /// Connections served since the reader was created.
    pub connections: u64,
    /// Errors: malformed length prefixes, messages that were too large or cut, failed callbacks.
    pub errors: u64,
    /// Connections open now.
    pub active_connections: u64,
    /// Payload bytes of the messages in `received`.
    pub received_bytes: u64,
    /// Failed attempts to accept a connection.
    pub accept_errors: u64,
    /// Connections closed for inactivity.
    pub idle_closed: u64,
    /// Connections closed unread, because the peer was not allowed or because of `max_connections`.
    pub refused: u64,
    /// Times that the reader listened at its path again after its socket file had been removed or replaced.
    pub relistened: u64,
}
