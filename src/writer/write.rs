//! The calls that queue messages.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

use super::queue::{Queue, Refusal, Wake};
use super::{Writer, no_memory, wait};

/// How many messages `write_messages` takes from its iterator at a time: few at first, since to clear the places for many
/// costs a call with a few messages as much as to queue them.
const FIRST_CHUNK: usize = 8;
const CHUNK: usize = 64;

/// How far [`Writer::write_messages`] came.
///
/// ```
/// use udsipc::{Error, Writer, WriterOptions};
///
/// let writer = Writer::new("@events", WriterOptions::new().max_buffered_writes(2))?;
/// let messages = [&b"a"[..], b"b", b"c"];
/// let refused = writer.write_messages(messages).unwrap_err();
/// assert_eq!(refused.accepted, 2);
/// assert!(matches!(refused.error, Error::BufferFull { .. }));
/// // Later: messages[refused.accepted..].
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[error("message {accepted} was refused: {error}")]
#[non_exhaustive]
pub struct WriteMessagesError {
    /// How many messages were accepted before the refusal.
    pub accepted: usize,
    /// Why the next one was refused.
    #[source]
    pub error: Error,
}

impl Writer {
    /// Queues a copy of `message`. Never blocks. An empty message is accepted and not sent.
    ///
    /// # Errors
    ///
    /// [`Error::BufferFull`], which is counted in `dropped`; [`Error::MessageTooLarge`]; [`Error::Stopped`];
    /// [`Error::NoResources`] without memory; [`Error::Forked`].
    ///
    /// ```
    /// use udsipc::{Error, Writer, WriterOptions};
    ///
    /// let writer = Writer::new("@events", WriterOptions::new())?;
    /// match writer.write(b"hello") {
    ///     Ok(()) => {}
    ///     Err(Error::BufferFull { .. }) => println!("the reader is too slow: one message less"),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok::<(), udsipc::Error>(())
    /// ```
    #[inline(always)] // into the C function: a call and a result in memory cost a twentieth of what this does
    pub fn write(&self, message: &[u8]) -> Result<()> {
        match self.try_write(message) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.refused(Refusal::Full)),
            Err(error) => Err(error),
        }
    }

    /// As [`Writer::write`], but waits up to `timeout` for room. A time of zero does not wait. While the host drives the
    /// writer, this call does so itself as long as it waits. A message above `max_buffered_bytes` waits until the queue is
    /// empty.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] if there was no room in time, and [`Error::WouldDeadlock`] if the call would have to wait inside one
    /// of the writer's callbacks, both counted in `dropped`; else as [`Writer::write`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use udsipc::{Error, Writer, WriterOptions};
    ///
    /// let writer = Writer::new("@events", WriterOptions::new().max_buffered_writes(1))?;
    /// writer.write_timeout(b"first", Duration::from_secs(1))?;
    /// let refused = writer.write_timeout(b"second", Duration::from_millis(1));
    /// assert!(matches!(refused, Err(Error::Timeout(_))), "nobody reads");
    /// # Ok::<(), udsipc::Error>(())
    /// ```
    #[inline(always)] // as `write`, which it is while there is room: no clock is read before the call has to wait
    pub fn write_timeout(&self, message: &[u8], timeout: Duration) -> Result<()> {
        match self.try_write(message) {
            Ok(true) => Ok(()),
            Ok(false) => self.wait_and_write(message, timeout),
            Err(error) => Err(error),
        }
    }

    /// Queues a copy of `message` if there is room. `Ok(false)`: there is none, which is not counted as a drop yet.
    #[inline(always)]
    pub(crate) fn try_write(&self, message: &[u8]) -> Result<bool> {
        if !self.is_plain(message) {
            return self.check_special(message).map(|()| true);
        }
        match self.driver.queue.push(message) {
            Ok(Wake::Nobody) => Ok(true),
            Ok(wake) => {
                self.driver.message_queued(wake);
                Ok(true)
            }
            Err(Refusal::Full) => Ok(false),
            Err(refusal) => Err(self.refused(refusal)),
        }
    }

    /// Whether there is nothing special about a message or the process: neither empty, nor too large, nor a forked child.
    #[inline]
    fn is_plain(&self, message: &[u8]) -> bool {
        // An empty message wraps around and is above every limit.
        (message.len() as u64).wrapping_sub(1) < self.driver.options.max_message_size && self.driver.fork.is_current()
    }

    /// A message that is not plain.
    #[cold]
    fn check_special(&self, message: &[u8]) -> Result<()> {
        self.check_fork()?;
        if message.is_empty() {
            let is_closed = self.driver.queue.is_closed();
            return if is_closed { Err(self.driver.lifecycle.why_stopped()) } else { Ok(()) };
        }
        Err(Error::MessageTooLarge { size: message.len() as u64, limit: self.driver.options.max_message_size })
    }

    /// Goes on where [`Writer::try_write`] has found no room.
    #[cold]
    pub(crate) fn wait_and_write(&self, message: &[u8], timeout: Duration) -> Result<()> {
        if timeout.is_zero() {
            return Err(self.refused(Refusal::Full));
        }
        let driver = &self.driver;
        let waited = driver.lifecycle.refuse_in_callback("write_message_timeout").and_then(|()| {
            let written = || self.try_write(message).map(|written| written.then_some(())).transpose();
            let pause = |step| driver.queue.wait_for_room(message.len(), Instant::now().checked_add(step));
            wait::until(driver, Instant::now().checked_add(timeout), wait::LONG_STEP, written, pause)
                .unwrap_or_else(|| Err(Error::Timeout(why_no_room(message, &driver.queue))))
        });
        if matches!(waited, Err(Error::Timeout(_) | Error::WouldDeadlock { .. })) {
            driver.queue.count_dropped();
        }
        waited
    }

    /// Queues messages in order and returns how many: all, or those before the first that was refused.
    ///
    /// The iterator runs without any lock and may call the writer. It is advanced by up to 64 messages before they are
    /// queued: after a refusal, or if it panics, as many may have been taken from it and not queued.
    ///
    /// # Errors
    ///
    /// As [`Writer::write`], with the number of messages that were accepted before.
    ///
    /// ```
    /// # use udsipc::{Writer, WriterOptions};
    /// let writer = Writer::new("@events", WriterOptions::new())?;
    /// let lines = String::from("first\nsecond\n");
    /// assert_eq!(writer.write_messages(lines.lines().map(str::as_bytes))?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write_messages<'a, I>(&self, messages: I) -> std::result::Result<usize, WriteMessagesError>
    where
        I: IntoIterator<Item = &'a [u8]>,
    {
        self.check_fork().map_err(|error| WriteMessagesError { accepted: 0, error })?;
        let (mut messages, mut accepted) = (messages.into_iter(), 0);
        let done = self.write_chunk::<FIRST_CHUNK>(&mut messages, &mut accepted).and_then(|mut more| {
            while more {
                more = self.write_chunk::<CHUNK>(&mut messages, &mut accepted)?;
            }
            Ok(())
        });
        done.map_or_else(|error| Err(WriteMessagesError { accepted, error }), |()| Ok(accepted))
    }

    /// Queues the next `N` messages, and says whether there may be more.
    fn write_chunk<'a, const N: usize>(
        &self,
        messages: &mut impl Iterator<Item = &'a [u8]>,
        accepted: &mut usize,
    ) -> Result<bool> {
        let driver = &self.driver;
        let limit = driver.options.max_message_size;
        let mut chunk = [&[][..]; N];
        let (pulled, too_large) = pull(messages, &mut chunk, limit);
        self.check_fork()?; // the iterator may have forked, and returned in the child
        let (taken, refused) = driver.queue.push_many(&chunk[..pulled], |wake| driver.message_queued(wake));
        *accepted += taken;
        match (refused, too_large) {
            (Some(refusal), _) => Err(self.refused(refusal)),
            (None, Some(size)) => Err(Error::MessageTooLarge { size, limit }),
            (None, None) => Ok(pulled == N),
        }
    }

    /// Counts a refusal and says what it means.
    #[cold]
    fn refused(&self, refusal: Refusal) -> Error {
        let queue = &self.driver.queue;
        match refusal {
            Refusal::Closed => self.driver.lifecycle.why_stopped(),
            Refusal::Full => {
                queue.count_dropped();
                let (depth, max) = (queue.account().depth, queue.max());
                Error::BufferFull {
                    messages: depth.messages,
                    max_messages: max.messages,
                    bytes: depth.bytes,
                    max_bytes: max.bytes,
                }
            }
            Refusal::NoMemory => no_memory("memory for a message"),
        }
    }
}

/// Fills `chunk` and returns how far, and why no further unless `messages` has ended: one of them has this size.
#[inline(always)] // a call for each chunk and its results in memory cost a call with a few messages a tenth
fn pull<'a>(messages: &mut impl Iterator<Item = &'a [u8]>, chunk: &mut [&'a [u8]], limit: u64) -> (usize, Option<u64>) {
    for (pulled, slot) in chunk.iter_mut().enumerate() {
        match messages.next() {
            None => return (pulled, None),
            Some(message) if message.len() as u64 > limit => return (pulled, Some(message.len() as u64)),
            Some(message) => *slot = message,
        }
    }
    (chunk.len(), None)
}

fn why_no_room(message: &[u8], queue: &Queue) -> &'static str {
    if message.len() as u64 > queue.max().bytes {
        "the queue did not become empty, as a message above max_buffered_bytes needs it"
    } else {
        "the queue stayed full"
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
