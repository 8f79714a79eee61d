//! A handle in the event loop of a host.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use crate::error::Result;

/// What a host's event loop drives.
pub(crate) trait HostDriven: Send + Sync {
    /// Readable when there is work.
    fn event_fd(&self) -> BorrowedFd<'_>;
    /// See [`EventSource::dispatch`].
    fn dispatch(&self, timeout: Duration) -> Result<bool>;
}

/// A [`Writer`](crate::Writer) or a [`Reader`](crate::Reader) in an event loop of the program, which drives it in place of the
/// library's threads.
///
/// The descriptor is readable, level-triggered, when [`EventSource::dispatch`] has work. It can be watched with poll(2),
/// epoll(7), mio, or tokio's `AsyncFd` (`examples/tokio.rs`); it must not be read, changed or closed. It is the same and open
/// for as long as this value lives, also after the handle has been dropped, and is never readable after a stop.
///
/// ```
/// use std::time::Duration;
/// use udsipc::{Reader, ReaderOptions, Writer, WriterOptions};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("events.sock");
/// let reader = Reader::new(&path, |message, _| assert_eq!(message, b"hello"), ReaderOptions::new())?;
/// let writer = Writer::new(&path, WriterOptions::new())?;
/// let sources = [reader.event_source()?, writer.event_source()?];
/// writer.write(b"hello")?;
/// while reader.metrics().received == 0 {
///     // In the place of a loop that waits until one of them is readable.
///     for source in &sources {
///         source.dispatch(Duration::from_millis(1))?;
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing is driven unless its dispatch is called"]
pub struct EventSource(Box<dyn HostDriven>);

impl EventSource {
    pub(crate) fn new(handle: impl HostDriven + 'static) -> EventSource {
        EventSource(Box::new(handle))
    }

    /// Waits up to `timeout` for work ([`Duration::ZERO`]: does not wait, [`Duration::MAX`]: no limit), does what can be done
    /// at once, and returns whether there may be more. Callbacks run in this call. The first call takes the place of `start`.
    ///
    /// A loop that waits for the descriptor's level need not look at the answer: while there is more, the descriptor is readable.
    /// One that waits for its edge (`EPOLLET`, tokio's `AsyncFd`) has to call again after `true` before it waits, since no new edge
    /// may come.
    ///
    /// # Errors
    ///
    /// [`Error::WrongState`](crate::Error::WrongState) if the handle has been started; [`Error::Stopped`](crate::Error::Stopped);
    /// [`Error::WouldDeadlock`](crate::Error::WouldDeadlock) inside a callback of the same handle;
    /// [`Error::Forked`](crate::Error::Forked); [`Error::Io`](crate::Error::Io) if something has closed the descriptor of a
    /// writer: what can be done is done even so.
    ///
    /// ```
    /// use std::os::fd::AsRawFd as _;
    /// use std::time::Duration;
    /// use udsipc::{Reader, ReaderOptions};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("events.sock");
    /// let reader = Reader::new(&path, |message, _| println!("{message:?}"), ReaderOptions::new())?;
    /// let source = reader.event_source()?;
    /// println!("in a loop: wait until {} is readable, then", source.as_raw_fd());
    /// assert!(!source.dispatch(Duration::ZERO)?, "nobody has sent anything");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dispatch(&self, timeout: Duration) -> Result<bool> {
        self.0.dispatch(timeout)
    }
}

impl AsFd for EventSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event_fd()
    }
}

impl AsRawFd for EventSource {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl fmt::Debug for EventSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EventSource").field(&self.as_raw_fd()).finish()
    }
}
