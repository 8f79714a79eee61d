//! The errors of the crate: one variant for each cause that a caller can act on.
//!
//! The texts are for the reader of a log: with the path, the limit, the errno. The status numbers of the C ABI are in
//! `ffi/status.rs`.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// The result of the functions of this crate.
///
/// ```
/// fn open() -> udsipc::Result<udsipc::Writer> {
///     udsipc::Writer::new("@events", udsipc::WriterOptions::new())
/// }
/// # open().unwrap();
/// ```
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. Converts into an [`io::Error`] of the fitting kind.
///
/// ```
/// use std::io;
/// use udsipc::{Error, Reader, ReaderOptions};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("events.sock");
/// let open = || Reader::new(&path, |message, _| println!("{message:?}"), ReaderOptions::new());
/// let first = open()?;
/// match open() {
///     Err(Error::AddressInUse { path, reason }) => println!("{}: {reason}", path.display()),
///     other => panic!("{other:?}"),
/// }
/// assert_eq!(io::Error::from(open().unwrap_err()).kind(), io::ErrorKind::AddrInUse);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument is out of its range, and no other variant fits.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),

    /// A socket path that is empty, too long for `sun_path`, or holds a NUL byte.
    #[error("invalid socket path {path:?}: {reason} (the limit is {limit} bytes)")]
    InvalidSocketPath {
        /// The path as it was given.
        path: PathBuf,
        /// The mistake in the path.
        reason: String,
        /// The longest path that the system accepts.
        limit: usize,
    },

    /// A timeout or backoff option of zero.
    #[error("{option} must be positive")]
    InvalidTimeout {
        /// The option's name.
        option: &'static str,
    },

    /// A queue or buffer size out of its range.
    #[error("{option} is {value}, outside {min} to {max}")]
    InvalidBufferSize {
        /// The option's name.
        option: &'static str,
        /// The value that was given.
        value: u64,
        /// The smallest accepted value.
        min: u64,
        /// The largest accepted value.
        max: u64,
    },

    /// `max_accept_errors` above 63.
    #[error("max_accept_errors is {0}, above 63")]
    MaxAcceptErrorsTooLarge(u32),

    /// A call that waits for the handle's callbacks was made inside one of them.
    #[error("{call} was called from inside a callback of the same handle, and would wait for itself")]
    WouldDeadlock {
        /// The function that was called.
        call: &'static str,
    },

    /// The handle was made by the parent of this process, before fork(2).
    #[error("the handle was created before fork: a child must create its own")]
    Forked,

    /// `dispatch` was called on a started handle, or `start` on a dispatched one.
    #[error("{call} is not possible here: {reason}")]
    WrongState {
        /// The function that was called.
        call: &'static str,
        /// Why the call is not possible.
        reason: &'static str,
    },

    /// The queue is at a limit. The message was not accepted, and is counted in `dropped`.
    #[error("send buffer full: {messages} of {max_messages} messages, {bytes} of {} bytes are queued", or_no_limit(*max_bytes))]
    BufferFull {
        /// Messages in the queue.
        messages: u64,
        /// `max_buffered_writes`.
        max_messages: u64,
        /// Payload bytes in the queue.
        bytes: u64,
        /// `max_buffered_bytes`; [`u64::MAX`] is no limit.
        max_bytes: u64,
    },

    /// The handle has been stopped.
    #[error("the handle has been stopped")]
    Stopped,

    /// A message larger than `max_message_size`, on either side.
    #[error("invalid message size: {size}: exceeds limit: {limit}")]
    MessageTooLarge {
        /// The message's length, or the length that a peer announced.
        size: u64,
        /// The handle's `max_message_size`.
        limit: u64,
    },

    /// The given time has passed.
    #[error("timeout: {0}")]
    Timeout(&'static str),

    /// The reader has read nothing for `write_timeout`.
    #[error("backpressure detected: the reader took nothing for {0:?}; the connection and the message are kept")]
    Backpressure(std::time::Duration),

    /// The connection broke during a write.
    #[error("no consumer: {0}")]
    NoConsumer(#[source] io::Error),

    /// No reader listens at the path.
    #[error("not connected: failed to dial socket: {path:?}: {source}")]
    NotConnected {
        /// The path of the connect.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },

    /// A reader listens at the path, and its backlog was full for the whole `dial_timeout`.
    #[error("timeout: the backlog of the reader at {path:?} was full for {timeout:?}: {source}")]
    BacklogFull {
        /// The path of the connect.
        path: PathBuf,
        /// The writer's `dial_timeout`.
        timeout: std::time::Duration,
        /// The operating system's error.
        source: io::Error,
    },

    /// The peer closed the connection in the middle of a frame.
    #[error("connection closed by the peer in the middle of a {}", cut_at(*got, *expected))]
    ConnectionClosed {
        /// Bytes of the message that had arrived, or of its length prefix while that was incomplete.
        got: u64,
        /// The length of the message, or 0 while the length prefix was incomplete.
        expected: u64,
    },

    /// Accepted messages were given up, or may not have been read.
    #[error("{0} messages were not delivered and have been given up")]
    Undelivered(u64),

    /// The peer does not take part in acknowledged delivery: it is no reader, or no writer, of this library, or has it off.
    #[error("the peer does not take part in acknowledged delivery")]
    NotAcknowledged,

    /// The reader does not serve this writer, and says why.
    #[error("the reader at {path:?} refused the connection: {reason}")]
    Refused {
        /// The path of the connect.
        path: PathBuf,
        /// The reader's reason.
        reason: &'static str,
    },

    /// A system call failed.
    #[error("{action}: {source}")]
    Io {
        /// The attempted action, with its path if it has one.
        action: Cow<'static, str>,
        /// The operating system's error.
        source: io::Error,
    },

    /// A length prefix is not a varint of 64 bits.
    #[error("invalid length prefix: the varint overflows a 64-bit integer")]
    InvalidLengthPrefix,

    /// The message callback returned an error, or panicked.
    #[error("handler failed: {0}")]
    HandlerFailed(#[source] Box<dyn std::error::Error + Send + Sync>),

    /// A live reader listens at the path, or a file that is not a socket lies there.
    #[error("address in use: {path:?}: {reason}")]
    AddressInUse {
        /// The path that was wanted.
        path: PathBuf,
        /// What occupies the path.
        reason: Cow<'static, str>,
    },

    /// Permission is missing.
    #[error("permission denied: {action}: {source}")]
    PermissionDenied {
        /// The attempted action, with its path if it has one.
        action: Cow<'static, str>,
        /// The operating system's error.
        source: io::Error,
    },

    /// `LISTEN_FDS` and its companions are set for this process but cannot be used.
    #[error("systemd: {0}")]
    Systemd(String),

    /// A bug of this library: one of its threads panicked. The handle does nothing any more.
    #[error("internal error: a thread of the library panicked; the handle does nothing any more")]
    Panicked,

    /// The socket file of a running reader was removed or replaced.
    #[error(
        "the socket file {path:?} was removed or replaced; connections live on, and the reader listens there again as \
             soon as nobody else does"
    )]
    SocketGone {
        /// The path of the reader.
        path: PathBuf,
    },

    /// Descriptors, threads or memory are used up.
    #[error("out of resources: {action}: {source}")]
    NoResources {
        /// The attempted action.
        action: Cow<'static, str>,
        /// The operating system's error.
        source: io::Error,
    },
}

impl Error {
    /// The variant for an error of the operating system: [`Error::NoResources`], [`Error::PermissionDenied`] or [`Error::Io`].
    pub(crate) fn from_os(action: impl Into<Cow<'static, str>>, source: io::Error) -> Self {
        let action = action.into();
        match source.raw_os_error() {
            Some(errno) if crate::sys::is_exhaustion(errno) => Error::NoResources { action, source },
            Some(errno) if crate::sys::is_permission(errno) => Error::PermissionDenied { action, source },
            None if source.kind() == io::ErrorKind::OutOfMemory => Error::NoResources { action, source },
            _ => Error::Io { action, source },
        }
    }

    /// The errno of the system call that failed, if one failed.
    ///
    /// ```
    /// use udsipc::{Reader, ReaderOptions};
    ///
    /// // A directory cannot be made below a file.
    /// let error = Reader::new("/dev/null/app/events.sock", |_, _| (), ReaderOptions::new()).unwrap_err();
    /// assert_eq!(error.raw_os_error(), Some(20), "ENOTDIR: {error}");
    /// ```
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Error::NoConsumer(source)
            | Error::NotConnected { source, .. }
            | Error::BacklogFull { source, .. }
            | Error::Io { source, .. }
            | Error::PermissionDenied { source, .. }
            | Error::NoResources { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        use io::ErrorKind as Kind;
        let kind = match &error {
            Error::NoConsumer(source)
            | Error::NotConnected { source, .. }
            | Error::Io { source, .. }
            | Error::PermissionDenied { source, .. }
            | Error::NoResources { source, .. } => source.kind(),
            Error::InvalidArgument(_)
            | Error::InvalidSocketPath { .. }
            | Error::InvalidTimeout { .. }
            | Error::InvalidBufferSize { .. }
            | Error::MaxAcceptErrorsTooLarge(_)
            | Error::MessageTooLarge { .. } => Kind::InvalidInput,
            Error::BufferFull { .. } => Kind::WouldBlock,
            Error::Stopped => Kind::BrokenPipe,
            Error::Timeout(_) | Error::BacklogFull { .. } | Error::Backpressure(_) => Kind::TimedOut,
            Error::ConnectionClosed { .. } => Kind::UnexpectedEof,
            Error::InvalidLengthPrefix => Kind::InvalidData,
            Error::AddressInUse { .. } => Kind::AddrInUse,
            Error::WouldDeadlock { .. } => Kind::Deadlock,
            _ => Kind::Other,
        };
        io::Error::new(kind, error)
    }
}

fn cut_at(got: u64, expected: u64) -> String {
    if expected == 0 {
        format!("length prefix, of which {got} bytes had arrived")
    } else {
        format!("message, of which {got} of {expected} bytes had arrived")
    }
}

fn or_no_limit(limit: u64) -> String {
    if limit == u64::MAX { "any number of".into() } else { limit.to_string() }
}

/// What failed when an error is reported to an error callback: its second argument.
///
/// ```
/// use udsipc::{Context, WriterOptions};
///
/// let options = WriterOptions::new().on_error(|error, context| match context {
///     Context::Connect => {} // it is tried again
///     _ => eprintln!("{context}: {error}"),
/// });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Context {
    /// A connect failed. The writer tries again.
    Connect,
    /// A write failed. The message stays in the queue and is sent again.
    Write,
    /// A message failed again, on another connection.
    WriteAgain,
    /// At stop one message was given up, which had failed before.
    DrainRetry,
    /// Messages were given up at stop.
    Drain,
    /// A length prefix was malformed or cut.
    Prefix,
    /// A message above the reader's `max_message_size` was announced.
    TooLarge,
    /// A message was cut, or stalled for longer than the inactivity timeout.
    Payload,
    /// The message callback returned a failure.
    Handler,
    /// Accepting connections failed `max_accept_errors` times in a row. The reader goes on trying.
    Accept,
    /// A notification to systemd could not be sent.
    Notify,
    /// The socket file was removed or replaced, or could not be removed at stop.
    SocketFile,
}

impl Context {
    /// The context in the words of the Go library, as [`Display`](fmt::Display).
    ///
    /// ```
    /// assert_eq!(udsipc::Context::Connect.as_str(), "failed to connect");
    /// ```
    pub const fn as_str(self) -> &'static str {
        match self.as_c_str().to_str() {
            Ok(text) => text,
            Err(_) => "",
        }
    }

    /// The context in words, as C programs get it.
    pub(crate) const fn as_c_str(self) -> &'static std::ffi::CStr {
        match self {
            Context::Connect => c"failed to connect",
            Context::Write => c"write failure",
            Context::WriteAgain => c"write failure after reconnect",
            Context::DrainRetry => c"write failure during drain (retry message)",
            Context::Drain => c"write failure during drain",
            Context::Prefix => c"failed to read the length prefix",
            Context::TooLarge => c"message too large",
            Context::Payload => c"failed to read the complete message",
            Context::Handler => c"handler failed to process a message",
            Context::Accept => c"too many consecutive failures in accept loop",
            Context::Notify => c"failed to notify systemd",
            Context::SocketFile => c"socket file",
        }
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_io_error_has_the_kind_of_the_cause_and_the_whole_text() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        for (error, kind) in [
            (Error::NoConsumer(refused()), io::ErrorKind::ConnectionRefused),
            (Error::NotConnected { path: "/s".into(), source: refused() }, io::ErrorKind::ConnectionRefused),
            (Error::Stopped, io::ErrorKind::BrokenPipe),
            (Error::Timeout("the rest"), io::ErrorKind::TimedOut),
            (Error::InvalidTimeout { option: "linger" }, io::ErrorKind::InvalidInput),
            (Error::Forked, io::ErrorKind::Other),
        ] {
            let text = error.to_string();
            let error = io::Error::from(error);
            assert_eq!((error.kind(), error.to_string()), (kind, text));
        }
    }
}
