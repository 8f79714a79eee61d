//! The options of writers and readers: plain data with defaults, changed by chained calls.
//!
//! A call takes any value. `check` refuses the ones out of their range: when a handle is made, and in each setter of the C API.
//! [`Duration::MAX`] is no limit.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Context, Error, Result};
use crate::sys::is_exhaustion;
use crate::sys::socket::{self, Kind};

mod reader;
mod writer;

pub use reader::ReaderOptions;
pub use writer::{Acknowledge, WriterOptions};

/// The default of `max_message_size`, for writers and readers: 10 MiB.
pub(crate) const DEFAULT_MAX_MESSAGE_SIZE: u64 = 10 << 20;
/// The largest socket buffer size: the kernel doubles the value and keeps it in an `int`.
const MAX_SOCKET_BUFFER: u32 = (i32::MAX / 2) as u32;
/// The default of `linger`: how long a running handle that is dropped goes on.
const DEFAULT_LINGER: Duration = Duration::from_secs(1);

type OnError = dyn Fn(&Error, Context) + Send + Sync;

/// The error callback. Shared, so that the same options can make several handles.
#[derive(Clone)]
pub(crate) struct ErrorHandler(Arc<OnError>);

impl ErrorHandler {
    pub(crate) fn new(handler: impl Fn(&Error, Context) + Send + Sync + 'static) -> ErrorHandler {
        ErrorHandler(Arc::new(handler))
    }

    pub(crate) fn call(&self, error: &Error, context: Context) {
        (self.0)(error, context);
    }
}

impl fmt::Debug for ErrorHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ErrorHandler")
    }
}

/// A listening socket of the program. Readers use duplicates of it.
#[derive(Clone)]
pub(crate) struct ListenFd {
    socket: Arc<dyn AsFd + Send + Sync>,
    /// Its number when it was given, for texts.
    number: RawFd,
}

impl ListenFd {
    pub(crate) fn new(socket: impl AsFd + Send + Sync + 'static, number: RawFd) -> ListenFd {
        ListenFd { socket: Arc::new(socket), number }
    }

    /// A duplicate of a number that may not be an open descriptor.
    pub(crate) fn duplicate(number: RawFd) -> Result<ListenFd> {
        let duplicate = socket::duplicate(number).map_err(|error| match error.raw_os_error() {
            Some(errno) if is_exhaustion(errno) => Error::from_os(format!("duplicate listen_fd {number}"), error),
            _ => Error::InvalidArgument(format!("listen_fd {number} cannot be used: {error}")),
        })?;
        Ok(ListenFd::new(duplicate, number))
    }

    /// Refuses what is no listening Unix stream socket.
    fn check(&self) -> Result<()> {
        let why = match socket::kind_of(self.as_fd()) {
            Ok(Kind::UnixListener) => return Ok(()),
            Ok(Kind::Other(what)) => what.to_owned(),
            Err(error) => error.to_string(),
        };
        Err(Error::InvalidArgument(format!("listen_fd {} cannot be used: {why}", self.number)))
    }
}

impl AsFd for ListenFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for ListenFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ListenFd").field(&self.number).finish()
    }
}

fn positive(option: &'static str, value: Duration) -> Result<()> {
    if value.is_zero() { Err(Error::InvalidTimeout { option }) } else { Ok(()) }
}

fn in_range(option: &'static str, value: impl Into<u64>, min: impl Into<u64>, max: impl Into<u64>) -> Result<()> {
    let (value, min, max) = (value.into(), min.into(), max.into());
    if (min..=max).contains(&value) { Ok(()) } else { Err(Error::InvalidBufferSize { option, value, min, max }) }
}

#[cfg(test)]
mod tests;
