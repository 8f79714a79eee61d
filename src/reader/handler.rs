//! The message callback, and what it may return.

use std::error::Error;
use std::fmt;

use super::peer::Peer;

/// Why a callback failed. That of a C callback is a type without content, so that no memory is needed for it.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

pub(super) type EachHandler = dyn Fn(&[u8], &Peer<'_>) -> Result<(), Failure> + Send + Sync;
pub(super) type BatchHandler = dyn Fn(&[&[u8]], &Peer<'_>) -> usize + Send + Sync;

/// What a message callback may return: nothing, or a `Result` with any error.
///
/// An error is counted in [`errors`](crate::ReaderMetrics::errors) and reported to [`on_error`](crate::ReaderOptions::on_error)
/// as [`Error::HandlerFailed`](crate::Error::HandlerFailed). Then the next message follows.
///
/// ```
/// use std::io::Write as _;
/// use udsipc::{Reader, ReaderOptions};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = |name| directory.path().join(name);
/// let print = Reader::new(path("a.sock"), |message, _| println!("{message:?}"), ReaderOptions::new())?;
/// let copy = Reader::new(path("b.sock"), |message, _| std::io::stdout().write_all(message), ReaderOptions::new())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A callback that ends in `Ok(())` has to say of which type its error is: `Ok::<(), std::io::Error>(())`.
pub trait HandlerResult: private::Sealed {
    #[doc(hidden)]
    fn into_result(self) -> Result<(), Failure>;
}

impl HandlerResult for () {
    #[inline(always)]
    fn into_result(self) -> Result<(), Failure> {
        Ok(())
    }
}

impl<E: Into<Failure>> HandlerResult for Result<(), E> {
    #[inline(always)]
    fn into_result(self) -> Result<(), Failure> {
        self.map_err(Into::into)
    }
}

mod private {
    /// Keeps [`HandlerResult`](super::HandlerResult) to the types here, so that it can grow.
    pub trait Sealed {}
    impl Sealed for () {}
    impl<E> Sealed for Result<(), E> {}
}

/// The callback.
pub(super) enum Handler {
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

/// The failure of a callback of C.
#[derive(Debug, thiserror::Error)]
#[error("it returned a value other than 0")]
pub(crate) struct ReturnedNonZero;

/// The failure of a callback that panicked.
#[derive(Debug, thiserror::Error)]
#[error("it panicked")]
pub(super) struct Panicked;

/// The failure of a batch callback, for the message that it has not handled.
#[derive(Debug, thiserror::Error)]
#[error("it handled only a part of the batch")]
pub(super) struct HandledInPart;
