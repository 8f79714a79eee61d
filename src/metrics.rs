//! What a handle counts. Snapshots are plain numbers; the counters behind them lie next to the code that counts.

/// What a writer has done so far. At any moment `accepted = sent + abandoned + queue_depth`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriterMetrics {
    /// Messages handed to the kernel whole.
    pub sent: u64,
    /// Messages refused because the queue was full.
    pub dropped: u64,
    /// Failed attempts: a message that failed once and then went through counts here and in `sent`.
    pub failed: u64,
    /// Messages accepted and neither sent nor abandoned; one that is being written counts here.
    pub queue_depth: u64,
    /// Payload bytes of the messages in `queue_depth`.
    pub queue_bytes: u64,
    /// Payload bytes of the messages in `sent`.
    pub sent_bytes: u64,
    /// Times that a message which had failed was tried again on a new connection.
    pub retried: u64,
    /// Messages accepted and then given up: at stop, or after `max_attempts` broken connections.
    pub abandoned: u64,
    /// Messages in `sent` that the reader may have gone away without reading: an upper bound.
    pub suspected_lost: u64,
    /// Connections made.
    pub connections: u64,
    /// Connects that failed.
    pub connect_failures: u64,
}

/// What a reader has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReaderMetrics {
    /// Messages that the callback handled well.
    pub received: u64,
    /// Connections served since the reader was created.
    pub connections: u64,
    /// Bad prefixes, oversize messages, cut messages and failed callbacks, one each.
    pub errors: u64,
    /// Connections open now.
    pub active_connections: u64,
    /// Payload bytes of the messages in `received`.
    pub received_bytes: u64,
    /// Failed attempts to accept a connection.
    pub accept_errors: u64,
    /// Connections closed for inactivity.
    pub idle_closed: u64,
    /// Connections closed unread because of the peer check or `max_connections`.
    pub refused: u64,
}
