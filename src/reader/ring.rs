//! Rings: the memory through which busy writers pass frames (`sys::ring`), and how much of it one reader lends.
//!
//! 1. A writer with a name and a slot in the ledger asks for a ring with an empty frame (`delivery::record`). It gets a large
//!    one, or a small one when half of the budget is in use, or none when the budget or the memory is used up: then it goes on
//!    with the socket.
//! 2. The writer switches when all that it has sent is handled: `switched_at` is the position of the account then. From there
//!    on the stream lies in the ring, and the bytes on the socket are bells: zeroes that wake the reader, and nothing else.
//! 3. What is handled is counted in the ring too, so that a thread without the connection's state sees whether something is
//!    unread.
//! 4. When the connection ends, for whatever reason, what is published at that moment is the last that is read.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::delivery::record::{RECORD, Record};
use crate::frame::READ_BUFFER;
use crate::sys::effective_uid;
use crate::sys::fork;
use crate::sys::ring::{ReaderRing, Signals};
use crate::sys::socket;

const LARGE: u64 = 4 << 20;
const SMALL: u64 = 1 << 20;

/// One delivery takes at most this part of a ring, so that a writer that waits for room does not wait for a whole ring.
const PARTS: u64 = 8;

/// The end of a ring whose connection goes on.
const NO_END: u64 = u64::MAX;

/// The rings of one reader.
#[derive(Debug)]
pub(super) struct Rings {
    limit: u64,
    usage: Arc<Usage>,
    fork: fork::Token,
    /// Whether the messages of a peer are handed out where they lie.
    is_trusted: fn(BorrowedFd<'_>) -> bool,
}

#[derive(Debug, Default)]
struct Usage {
    bytes: AtomicU64,
    rings: AtomicU64,
}

/// A part of the budget, until it is dropped.
#[derive(Debug)]
struct Share {
    usage: Arc<Usage>,
    bytes: u64,
}

impl Rings {
    /// `limit`: so many bytes at most.
    pub(super) fn new(limit: u64, fork: fork::Token) -> Rings {
        Rings { limit, usage: Arc::default(), fork, is_trusted }
    }

    /// No peer is trusted.
    #[cfg(test)]
    pub(super) fn strict(self) -> Rings {
        Rings { is_trusted: |_| false, ..self }
    }

    /// False in a child that was forked in a callback: the rings are those of its parent.
    pub(super) fn are_ours(&self) -> bool {
        self.fork.is_current()
    }

    /// Bytes and number of all rings.
    pub(super) fn in_use(&self) -> (u64, u64) {
        (self.usage.bytes.load(Ordering::Relaxed), self.usage.rings.load(Ordering::Relaxed))
    }

    /// A ring for a peer, which is told of it. `None`: there is none to be had. Fails if only a part of the record was sent, so
    /// that no other can follow.
    pub(super) fn grant(&self, peer: BorrowedFd<'_>) -> io::Result<Option<Ring>> {
        if !self.are_ours() {
            return Ok(None);
        }
        let Some(share) = self.take() else { return Ok(None) };
        let Ok(mut memory) = ReaderRing::create(share.bytes) else { return Ok(None) };
        let Some(fd) = memory.as_fd() else { return Ok(None) };
        let record = Record::Ring { size: share.bytes }.encode();
        match socket::send_with_descriptor(peer, &record, fd) {
            Ok(RECORD) => {
                memory.close_fd();
                Ok(Some(Ring::new(memory, share, (self.is_trusted)(peer))))
            }
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(_) => Ok(None),
        }
    }

    fn take(&self) -> Option<Share> {
        let size = |in_use: u64| {
            if in_use + LARGE <= self.limit / 2 { Some(LARGE) } else { (in_use + SMALL <= self.limit).then_some(SMALL) }
        };
        let add = |in_use| size(in_use).map(|bytes| in_use + bytes);
        let before = self.usage.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        self.usage.rings.fetch_add(1, Ordering::Relaxed);
        Some(Share { usage: Arc::clone(&self.usage), bytes: size(before)? })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.usage.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.usage.rings.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a peer may change what a callback looks at: it can do worse to this process anyway.
fn is_trusted(peer: BorrowedFd<'_>) -> bool {
    socket::peer_credentials(peer).is_ok_and(|(_, uid, _)| uid == 0 || uid == effective_uid())
}

/// The ring of one connection. Written by the connection's turns alone.
#[derive(Debug)]
pub(super) struct Ring {
    memory: ReaderRing,
    /// Behind the memory, so that it is given back when that is freed.
    _share: Share,
    /// Messages are handed out where they lie; else in a copy.
    in_place: bool,
    /// The writer has switched, and that was in order.
    switched: AtomicBool,
    /// So many bytes of the ring's part of the stream are handled.
    handled: AtomicU64,
    /// Nothing is read behind it.
    end: AtomicU64,
}

impl Ring {
    fn new(memory: ReaderRing, share: Share, in_place: bool) -> Ring {
        let (switched, handled, end) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(NO_END));
        Ring { memory, _share: share, in_place, switched, handled, end }
    }

    pub(super) fn signals(&self) -> &Signals {
        self.memory.signals()
    }

    /// Whether the stream lies here, or is said to.
    pub(super) fn is_in_use(&self) -> bool {
        self.is_switched() || self.signals().switched_at().is_some()
    }

    pub(super) fn is_switched(&self) -> bool {
        self.switched.load(Ordering::Relaxed)
    }

    pub(super) fn set_switched(&self) {
        self.switched.store(true, Ordering::Relaxed);
    }

    /// Whether something is published and not handled.
    pub(super) fn has_unread(&self) -> bool {
        self.signals().published() != self.handled()
    }

    fn handled(&self) -> u64 {
        self.handled.load(Ordering::Acquire)
    }

    pub(super) fn add_handled(&self, bytes: usize) {
        self.handled.store(self.handled() + bytes as u64, Ordering::Release);
    }

    /// How many bytes are to be read. `None`: the writer has published what cannot be.
    pub(super) fn available(&self) -> Option<usize> {
        let published = if self.is_closing() { self.end.load(Ordering::Relaxed) } else { self.signals().published() };
        let available = published.checked_sub(self.handled())?;
        (available <= self.memory.size()).then_some(available as usize)
    }

    /// The next bytes, no more than are available. A writer that is trusted and not honest may change them at any time.
    pub(super) fn bytes(&self, len: usize) -> &[u8] {
        let from = self.handled();
        self.memory.bytes(from, from.saturating_add(len as u64))
    }

    pub(super) fn is_in_place(&self) -> bool {
        self.in_place
    }

    /// How much one delivery takes at most, but for a single frame that is longer.
    pub(super) fn part(&self) -> usize {
        let part = (self.memory.size() / PARTS) as usize;
        if self.in_place { part } else { part.min(READ_BUFFER) }
    }

    /// Whether there is so much room that a writer which waits for it is to be woken.
    pub(super) fn is_half_empty(&self) -> bool {
        self.available().is_some_and(|left| left as u64 <= self.memory.size() / 2)
    }

    /// The connection ends: what is published now is the last that is read.
    pub(super) fn close(&self) {
        if !self.is_closing() {
            self.signals().close();
            self.end.store(self.signals().published(), Ordering::Relaxed);
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.end.load(Ordering::Relaxed) != NO_END
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn rings(limit: u64) -> Rings {
        Rings::new(limit, fork::Token::of_this_process().expect("a token"))
    }

    /// The sizes that so many peers get, one after the other.
    fn sizes(limit: u64, count: usize) -> Vec<u64> {
        let rings = rings(limit);
        let shares: Vec<_> = (0..count).map_while(|_| rings.take()).collect();
        let sizes: Vec<_> = shares.iter().map(|share| share.bytes >> 20).collect();
        assert_eq!(rings.in_use(), (sizes.iter().sum::<u64>() << 20, sizes.len() as u64));
        drop(shares);
        assert_eq!(rings.in_use(), (0, 0));
        sizes
    }

    #[test]
    fn rings_are_large_up_to_half_of_the_budget_then_small_then_none() {
        for limit in [0, 1, SMALL - 1] {
            assert_eq!(sizes(limit, 3), []);
        }
        assert_eq!(sizes(SMALL, 3), [1]);
        assert_eq!(sizes(2 * LARGE - 1, 9), [1; 7]);
        assert_eq!(sizes(2 * LARGE, 9), [4, 1, 1, 1, 1]);
        assert_eq!(sizes(17 << 20, 12), [4, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(sizes(64 << 20, 50), [vec![4; 8], vec![1; 32]].concat());
        assert_eq!(sizes(u64::MAX, 40), [4; 40]);
    }

    #[test]
    fn a_ring_that_the_peer_cannot_be_told_of_takes_nothing_from_the_budget() {
        let rings = rings(LARGE);
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let granted = rings.grant(ours.as_fd()).expect("whole").expect("a ring");
        assert!(granted.is_in_place() && !granted.is_in_use() && !granted.has_unread());
        assert_eq!(rings.in_use(), (SMALL, 1));
        drop(theirs);
        assert!(rings.grant(ours.as_fd()).expect("nothing sent").is_none());
        assert_eq!(rings.in_use(), (SMALL, 1));
        drop(granted);
        assert_eq!(rings.in_use(), (0, 0));
    }

    #[test]
    fn what_is_behind_the_end_is_not_read() {
        let rings = rings(LARGE);
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let ring = rings.grant(ours.as_fd()).expect("whole").expect("a ring");
        ring.signals().publish(100);
        ring.add_handled(40);
        assert_eq!((ring.available(), ring.has_unread()), (Some(60), true));
        ring.close();
        ring.signals().publish(120);
        ring.close();
        assert_eq!(ring.available(), Some(60));
        ring.add_handled(60);
        assert_eq!((ring.available(), ring.is_closing()), (Some(0), true));
    }

    #[test]
    fn more_than_a_ring_or_less_than_nothing_is_not_available() {
        let rings = rings(LARGE);
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let ring = rings.grant(ours.as_fd()).expect("whole").expect("a ring");
        ring.add_handled(10);
        for (published, available) in
            [(9, None), (10, Some(0)), (10 + SMALL, Some(SMALL as usize)), (11 + SMALL, None), (u64::MAX, None)]
        {
            ring.signals().publish(published);
            assert_eq!(ring.available(), available, "{published}");
        }
        ring.close();
        assert_eq!(ring.available(), None, "at the end too");
    }
}
