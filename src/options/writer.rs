//! The options of a writer.

use std::time::Duration;

use super::{DEFAULT_LINGER, DEFAULT_MAX_MESSAGE_SIZE, ErrorHandler, MAX_SOCKET_BUFFER, in_range, positive};
use crate::error::{Context, Error, Result};

/// The default of `max_buffered_bytes`: 64 MiB.
const DEFAULT_MAX_BUFFERED_BYTES: u64 = 64 << 20;
/// The largest value of `max_buffered_writes`.
const MAX_BUFFERED_WRITES: u32 = 1 << 20;

/// The options of a writer. [`Writer::new`](crate::Writer::new) refuses a value out of its range, and names the option.
///
/// ```
/// use std::time::Duration;
/// use udsipc::{Writer, WriterOptions};
///
/// let options = WriterOptions::new().max_attempts(3).linger(Duration::from_secs(5));
/// let writer = Writer::new("@events", options)?;
///
/// let refused = Writer::new("@events", WriterOptions::new().write_timeout(Duration::ZERO));
/// assert_eq!(refused.unwrap_err().to_string(), "write_timeout must be positive");
/// # Ok::<(), udsipc::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "options have no effect before a writer is made with them"]
pub struct WriterOptions {
    pub(crate) max_buffered_writes: u32,
    pub(crate) max_buffered_bytes: u64,
    pub(crate) max_message_size: u64,
    pub(crate) write_timeout: Duration,
    pub(crate) dial_timeout: Duration,
    pub(crate) max_backoff: Duration,
    pub(crate) write_buffer_size: u32,
    pub(crate) max_attempts: u32,
    pub(crate) drain_until_deadline: bool,
    pub(crate) linger: Duration,
    pub(crate) acknowledge: Acknowledge,
    pub(crate) redeliver: bool,
    pub(crate) on_error: Option<ErrorHandler>,
}

/// Whether a writer asks its reader to acknowledge messages.
///
/// ```
/// use udsipc::{Acknowledge, WriterOptions};
///
/// // For a reader that is known to be one of this library: what it has not handled is never lost.
/// let options = WriterOptions::new().acknowledge(Acknowledge::Required);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Acknowledge {
    /// No: the writer knows only what its reader's process has read.
    Off,
    /// With a reader of this library; with any other as [`Acknowledge::Off`].
    #[default]
    IfPossible,
    /// Nothing is sent to a reader that cannot.
    Required,
}

impl Default for WriterOptions {
    fn default() -> Self {
        WriterOptions {
            max_buffered_writes: 10_000,
            max_buffered_bytes: DEFAULT_MAX_BUFFERED_BYTES,
            max_message_size: DEFAULT_MAX_MESSAGE_SIZE,
            write_timeout: Duration::from_secs(1),
            dial_timeout: Duration::from_secs(1),
            max_backoff: Duration::from_secs(10),
            write_buffer_size: 256 << 10,
            max_attempts: 5,
            drain_until_deadline: false,
            linger: DEFAULT_LINGER,
            acknowledge: Acknowledge::default(),
            redeliver: true,
            on_error: None,
        }
    }
}

impl WriterOptions {
    /// The defaults.
    ///
    /// ```
    /// let writer = udsipc::Writer::new("@events", udsipc::WriterOptions::new())?;
    /// # Ok::<(), udsipc::Error>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// How many messages the queue holds at most: 1 to 2^20, default 10 000.
    ///
    /// ```
    /// use udsipc::{Error, Writer, WriterOptions};
    ///
    /// let writer = Writer::new("@events", WriterOptions::new().max_buffered_writes(1))?;
    /// writer.write(b"first")?;
    /// assert!(matches!(writer.write(b"second"), Err(Error::BufferFull { max_messages: 1, .. })));
    /// # Ok::<(), udsipc::Error>(())
    /// ```
    pub fn max_buffered_writes(mut self, messages: u32) -> Self {
        self.max_buffered_writes = messages;
        self
    }

    /// How many payload bytes the queue holds at most; 0 is no limit; default 64 MiB. A single larger message is accepted while
    /// the queue is empty.
    ///
    /// ```
    /// let options = udsipc::WriterOptions::new().max_buffered_bytes(4 << 20);
    /// ```
    pub fn max_buffered_bytes(mut self, bytes: u64) -> Self {
        self.max_buffered_bytes = bytes;
        self
    }

    /// The largest message that is accepted; default 10 MiB, the reader's default.
    ///
    /// ```
    /// use udsipc::{Error, Writer, WriterOptions};
    ///
    /// let writer = Writer::new("@events", WriterOptions::new().max_message_size(4))?;
    /// assert!(matches!(writer.write(b"hello"), Err(Error::MessageTooLarge { size: 5, limit: 4 })));
    /// # Ok::<(), udsipc::Error>(())
    /// ```
    pub fn max_message_size(mut self, bytes: u64) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// How long the reader may read nothing before [`Error::Backpressure`] is reported; more than zero; default 1 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let options = udsipc::WriterOptions::new().write_timeout(Duration::from_millis(200));
    /// ```
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// How long a connect waits while the reader's backlog is full; more than zero; default 1 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let options = udsipc::WriterOptions::new().dial_timeout(Duration::from_secs(3));
    /// ```
    pub fn dial_timeout(mut self, timeout: Duration) -> Self {
        self.dial_timeout = timeout;
        self
    }

    /// The longest pause between two attempts to connect; more than zero; default 10 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let options = udsipc::WriterOptions::new().max_backoff(Duration::from_secs(1));
    /// ```
    pub fn max_backoff(mut self, backoff: Duration) -> Self {
        self.max_backoff = backoff;
        self
    }

    /// `SO_SNDBUF` in bytes, which the kernel doubles: at most 2^30 - 1; 0 is the system's default; default 256 KiB.
    ///
    /// ```
    /// let options = udsipc::WriterOptions::new().write_buffer_size(1 << 20);
    /// ```
    pub fn write_buffer_size(mut self, bytes: u32) -> Self {
        self.write_buffer_size = bytes;
        self
    }

    /// How many connections may break while a message is sent before the message is given up; 0 is no limit; default 5.
    ///
    /// ```
    /// let options = udsipc::WriterOptions::new().max_attempts(3);
    /// ```
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Whether `stop` tries to connect until its deadline when nobody listens; default no.
    ///
    /// ```
    /// let options = udsipc::WriterOptions::new().drain_until_deadline(true);
    /// ```
    pub fn drain_until_deadline(mut self, on: bool) -> Self {
        self.drain_until_deadline = on;
        self
    }

    /// How long a running writer that is dropped goes on sending; zero is not at all; default 1 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let options = udsipc::WriterOptions::new().linger(Duration::from_secs(5));
    /// ```
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Whether the reader is asked to acknowledge messages, so that nothing is lost when it is killed; default
    /// [`Acknowledge::IfPossible`].
    ///
    /// ```
    /// # use udsipc::{Acknowledge, WriterOptions};
    /// let options = WriterOptions::new().acknowledge(Acknowledge::Off);
    /// ```
    pub fn acknowledge(mut self, acknowledge: Acknowledge) -> Self {
        self.acknowledge = acknowledge;
        self
    }

    /// Whether a message that was in the callback when the reader died is sent again, and so perhaps handled twice; default
    /// yes. If not, it is counted in `suspected_lost`.
    ///
    /// ```
    /// let options = udsipc::WriterOptions::new().redeliver(false);
    /// ```
    pub fn redeliver(mut self, on: bool) -> Self {
        self.redeliver = on;
        self
    }

    /// The function that is called for each error that no function call could return; default none. Called on the thread that
    /// drives the writer: a thread of the library, or one that calls `dispatch`, `stop`, `flush` or `write_timeout`.
    ///
    /// ```
    /// let options = udsipc::WriterOptions::new().on_error(|error, context| eprintln!("{context}: {error}"));
    /// ```
    pub fn on_error(mut self, handler: impl Fn(&Error, Context) + Send + Sync + 'static) -> Self {
        self.on_error = Some(ErrorHandler::new(handler));
        self
    }

    /// Refuses a value out of its range.
    pub(crate) fn check(&self) -> Result<()> {
        in_range("max_buffered_writes", self.max_buffered_writes, 1_u32, MAX_BUFFERED_WRITES)?;
        in_range("write_buffer_size", self.write_buffer_size, 0_u32, MAX_SOCKET_BUFFER)?;
        positive("write_timeout", self.write_timeout)?;
        positive("dial_timeout", self.dial_timeout)?;
        positive("max_backoff", self.max_backoff)
    }
}
