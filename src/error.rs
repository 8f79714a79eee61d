//! What can go wrong, one variant per cause that a caller can act on.
//!
//! The texts are written for the person who reads a log: which path, which limit, which errno. The numbers that C
//! programs see are in `ffi/status.rs`; this file knows nothing of them.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// What the functions of this crate return.
pub type Result<T> = std::result::Result<T, Error>;

/// One cause of failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value outside its range, other than the ones that have a variant of their own.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),

    /// A socket path that is empty, too long for `sun_path`, or holds a NUL byte.
    #[error("invalid socket path {path:?}: {reason} (the limit is {limit} bytes)")]
    InvalidSocketPath {
        /// The path as it was given.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The longest path that the system takes.
        limit: usize,
    },

    /// A timeout or backoff of zero given as an option.
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
        /// The smallest value taken.
        min: u64,
        /// The largest value taken.
        max: u64,
    },

    /// `max_accept_errors` above 63.
    #[error("max_accept_errors is {0}, above 63")]
    MaxAcceptErrorsTooLarge(u32),

    /// A call that waits for the handle's own threads, made from one of the handle's own callbacks.
    #[error("{call} was called from inside a callback of the same handle, and would wait for itself")]
    WouldDeadlock {
        /// The function that was called.
        call: &'static str,
    },

    /// The handle was made by the parent of this process.
    #[error("the handle was created before fork: a child must create its own")]
    Forked,

    /// `dispatch` on a started handle, or `start` on a dispatched one.
    #[error("{call} is not possible here: {reason}")]
    WrongState {
        /// The function that was called.
        call: &'static str,
        /// What stands against it.
        reason: &'static str,
    },

    /// The queue is at a limit. The message was not taken and is counted in `dropped`.
    #[error("send buffer full: {messages} of {max_messages} messages, {bytes} of {} bytes are queued", or_no_limit(*max_bytes))]
    BufferFull {
        /// Messages in the queue.
        messages: u64,
        /// `max_buffered_writes`.
        max_messages: u64,
        /// Payload bytes in the queue.
        bytes: u64,
        /// `max_buffered_bytes`; [`u64::MAX`] if there is no limit.
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

    /// The given time passed first.
    #[error("timeout: {0}")]
    Timeout(&'static str),

    /// The reader took nothing for `write_timeout`.
    #[error("backpressure detected: the reader took nothing for {0:?}; the connection and the message are kept")]
    Backpressure(std::time::Duration),

    /// The connection broke during a write.
    #[error("no consumer: {0}")]
    NoConsumer(#[source] io::Error),

    /// Nobody listens at the path.
    #[error("not connected: failed to dial socket: {path:?}: {source}")]
    NotConnected {
        /// The path that was tried.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// The peer ended in the middle of a frame.
    #[error("connection closed by the peer in the middle of a frame: {got} bytes of {expected} had arrived")]
    ConnectionClosed {
        /// Bytes of the prefix or the payload that had arrived.
        got: u64,
        /// Bytes that were expected: the announced length, or 0 while the prefix was incomplete.
        expected: u64,
    },

    /// Messages were accepted and then given up.
    #[error("{0} messages were not delivered and have been given up")]
    Undelivered(u64),

    /// The operating system refused.
    #[error("{action}: {source}")]
    Io {
        /// What was tried, with the path where there is one.
        action: Cow<'static, str>,
        /// What the system said.
        source: io::Error,
    },

    /// A length prefix that is no varint of 64 bits.
    #[error("invalid length prefix: the varint overflows a 64-bit integer")]
    InvalidLengthPrefix,

    /// The message callback said that it failed.
    #[error("handler failed")]
    HandlerFailed,

    /// A live reader owns the path, or something that is not a socket lies there.
    #[error("address in use: {path:?}: {reason}")]
    AddressInUse {
        /// The path that was wanted.
        path: PathBuf,
        /// Who is there.
        reason: &'static str,
    },

    /// The file system or the peer check says no.
    #[error("permission denied: {action}: {source}")]
    PermissionDenied {
        /// What was tried, with the path where there is one.
        action: Cow<'static, str>,
        /// What the system said.
        source: io::Error,
    },

    /// `LISTEN_*` is set for this process but cannot be used.
    #[error("systemd: {0}")]
    Systemd(String),

    /// A bug of this library. The handle does nothing any more.
    #[error("internal error: a thread of the library panicked; the handle does nothing any more")]
    Panicked,

    /// Descriptors, threads or memory are used up.
    #[error("out of resources: {action}: {source}")]
    NoResources {
        /// What was tried.
        action: Cow<'static, str>,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// Sorts an error of the operating system: want of resources, want of permission, or anything else.
    pub(crate) fn from_os(action: impl Into<Cow<'static, str>>, source: io::Error) -> Self {
        let action = action.into();
        match source.raw_os_error() {
            Some(errno) if crate::sys::is_exhaustion(errno) => Error::NoResources { action, source },
            Some(errno) if crate::sys::is_permission(errno) => Error::PermissionDenied { action, source },
            None if source.kind() == io::ErrorKind::OutOfMemory => Error::NoResources { action, source },
            _ => Error::Io { action, source },
        }
    }

    /// The errno behind this error, if the operating system gave one.
    pub fn os_errno(&self) -> Option<i32> {
        match self {
            Error::NoConsumer(source)
            | Error::NotConnected { source, .. }
            | Error::Io { source, .. }
            | Error::PermissionDenied { source, .. }
            | Error::NoResources { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

fn or_no_limit(limit: u64) -> String {
    if limit == u64::MAX { "any number of".into() } else { limit.to_string() }
}

/// Where an error happened that no call could return: the second argument of an error callback.
///
/// [`Context::as_str`] gives the words of the Go library, which C programs get as `context`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Context {
    /// A connect failed. It will be tried again.
    Connect,
    /// A write failed. The message stays and is sent again.
    Write,
    /// A message that had failed before failed again, on another connection.
    WriteAgain,
    /// A message that had failed before was given up at stop.
    DrainRetry,
    /// A message was given up at stop.
    Drain,
    /// A length prefix was malformed or cut.
    Prefix,
    /// A message was announced that is larger than the reader takes.
    TooLarge,
    /// A message was cut, or stalled for longer than the inactivity timeout.
    Payload,
    /// The message callback said that it failed.
    Handler,
    /// Accepting connections failed `max_accept_errors` times in a row. It goes on being tried.
    Accept,
    /// A notification to systemd could not be sent.
    Notify,
}

impl Context {
    /// The context in words.
    pub const fn as_str(self) -> &'static str {
        match self.as_c_str().to_str() {
            Ok(text) => text,
            Err(_) => "",
        }
    }

    /// The context in words, as C programs get it.
    pub const fn as_c_str(self) -> &'static std::ffi::CStr {
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
        }
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error callback: called for what no function call could return, from the thread that met it.
pub type ErrorHandler = Box<dyn Fn(&Error, Context) + Send + Sync>;
