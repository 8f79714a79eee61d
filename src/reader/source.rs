//! Where a connection's bytes come from, and what is only peeked at.

use std::io;
use std::os::fd::BorrowedFd;

use crate::sys::socket;

/// Where bytes come from: a socket, or what takes its place in a test.
pub(super) trait Source {
    /// How many bytes wait.
    fn readable(&self) -> io::Result<usize>;
    /// Copies what waits, and leaves it there. 0 is the end of the stream, `WouldBlock` says that nothing waits.
    fn peek(&self, into: &mut [u8]) -> io::Result<usize>;
    /// As [`Source::peek`], and takes it.
    fn receive(&self, into: &mut [u8]) -> io::Result<usize>;
    /// As [`Source::receive`], at most `limit` bytes onto the end of `to`, within its capacity.
    fn receive_append(&self, to: &mut Vec<u8>, limit: usize) -> io::Result<usize>;
}

impl Source for BorrowedFd<'_> {
    fn readable(&self) -> io::Result<usize> {
        socket::bytes_readable(*self)
    }

    fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        socket::peek(*self, into)
    }

    fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        socket::recv(*self, into)
    }

    fn receive_append(&self, to: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
        socket::recv_append(*self, to, limit)
    }
}

/// What a read brought.
#[derive(Debug)]
pub(super) enum Received {
    Bytes { count: usize, peeked: Peeked },
    Nothing,
    End,
}

/// So many of the bytes that were read last lie in the kernel still. Dropped without being taken, they will be read
/// again.
#[must_use]
#[derive(Debug)]
pub(super) struct Peeked(pub(super) usize);

impl Peeked {
    pub(super) const NONE: Peeked = Peeked(0);

    /// Whether these bytes were all that waited.
    pub(super) fn is_all(&self) -> bool {
        self.0 > 0
    }

    /// Takes all but the last `left` of them, over `scratch`.
    pub(super) fn take(self, left: usize, source: &impl Source, scratch: &mut [u8]) -> io::Result<()> {
        let mut rest = self.0 - left.min(self.0);
        // Where there is too little room, in pieces.
        let mut little = [0; 16];
        let scratch = if scratch.len() < little.len() { &mut little[..] } else { scratch };
        while rest > 0 {
            let piece = rest.min(scratch.len());
            rest -= source.receive(&mut scratch[..piece])?.clamp(1, piece);
        }
        Ok(())
    }
}

/// Peeks into `room`. `None`: that is full, so more may wait.
pub(super) fn peek(source: &impl Source, room: &mut [u8]) -> io::Result<Option<Received>> {
    match source.peek(room) {
        Ok(0) => Ok(Some(Received::End)),
        Ok(count) if count == room.len() && count > 1 => Ok(None),
        Ok(count) => Ok(Some(Received::Bytes { count, peeked: Peeked(count) })),
        // An out-of-band byte (MSG_OOB, unix(7)) is readable, but no peek shows it: a receive passes over it for good.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => received(source.receive(&mut room[..1])).map(Some),
        Err(error) => Err(error),
    }
}

/// What the result of a receive means.
pub(super) fn received(result: io::Result<usize>) -> io::Result<Received> {
    match result {
        Ok(0) => Ok(Received::End),
        Ok(count) => Ok(Received::Bytes { count, peeked: Peeked::NONE }),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
        Err(error) => Err(error),
    }
}
