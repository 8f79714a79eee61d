//! What of a connection's messages the reader may not have read.
//!
//! When a reader goes away over unread bytes the kernel says so, but not how many (`unix_release_sock`). There is a bound:
//! the kernel holds at most the send buffer, and the reader has at most one read in its own hands. So the messages of the
//! last that many bytes are in doubt, and no others.
//!
//! An empty kernel buffer (SIOCOUTQ) says that the reader's process has read everything. A libudsipc reader has then handed
//! it out, but for one message; the Go library's may hold as much as its buffer takes, so that much stays in doubt, and what
//! went before it in the same batch.

use std::collections::VecDeque;

use crate::frame::READ_BUFFER;

/// The resolution of the bound, in bytes of the stream. After a longer send or batch it is as coarse as that.
const RESOLUTION: u64 = 512;

/// A send begins while less than the whole buffer is charged, so one more piece of the kernel's may be in flight
/// (`SKB_MAX_HEAD(0) + 32 KiB`, rounded up).
pub(super) const PIECE: usize = 64 << 10;

/// The default size of Go's `bufio.Reader`, which the Go library's reader uses.
const GO_READ_BUFFER: u64 = 4096;

#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    bytes: u64,
    messages: u64,
}

/// The stream of one connection, as far as it was sent.
#[derive(Debug)]
pub(super) struct InFlight {
    reach: u64,
    sent: Mark,
    /// Positions of the stream that are in doubt, a step apart at least: where a send or a batch ended.
    marks: VecDeque<Mark>,
    /// Everything before this is out of doubt.
    safe: Mark,
    /// Messages that the reader's process has read.
    read: u64,
}

impl InFlight {
    /// `send_buffer` as the kernel counts it.
    pub(super) fn new(send_buffer: usize) -> InFlight {
        let reach = (send_buffer + PIECE + READ_BUFFER) as u64;
        InFlight { reach, sent: Mark::default(), marks: VecDeque::new(), safe: Mark::default(), read: 0 }
    }

    /// The kernel has taken this much more.
    pub(super) fn sent(&mut self, bytes: usize, messages: u64) {
        self.sent.bytes += bytes as u64;
        self.sent.messages += messages;
        let newest = self.marks.back().map_or(self.safe.bytes, |mark| mark.bytes);
        if self.sent.bytes - newest >= RESOLUTION {
            self.marks.push_back(self.sent);
        }
        self.forget_beyond(self.reach);
        self.read = self.read.max(self.safe.messages);
    }

    /// The reader's process has read everything.
    pub(super) fn all_read(&mut self) {
        self.read = self.sent.messages;
        self.forget_beyond(GO_READ_BUFFER);
    }

    fn forget_beyond(&mut self, distance: u64) {
        while let Some(mark) = self.marks.front()
            && mark.bytes + distance <= self.sent.bytes
        {
            self.safe = *mark;
            self.marks.pop_front();
        }
    }

    /// How many messages are lost at most if the reader goes away over unread bytes.
    pub(super) fn in_doubt(&self) -> u64 {
        self.sent.messages - self.safe.messages
    }

    /// How many messages the reader's process has not, or not surely, read.
    pub(super) fn unread(&self) -> u64 {
        self.sent.messages - self.read
    }

    /// Whether any message went out whole.
    pub(super) fn has_sent(&self) -> bool {
        self.sent.messages > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_read_is_read_but_what_a_go_reader_may_hold_stays_in_doubt() {
        let mut in_flight = InFlight::new(1 << 19);
        for _ in 0..100 {
            in_flight.sent(101, 1);
        }
        assert_eq!((in_flight.unread(), in_flight.in_doubt()), (100, 100));
        in_flight.all_read();
        assert_eq!(in_flight.unread(), 0);
        assert!((41..=46).contains(&in_flight.in_doubt()), "{}", in_flight.in_doubt());
        in_flight.sent(101, 1);
        assert_eq!(in_flight.unread(), 1);
    }

    proptest! {
        #[test]
        fn the_bound_covers_the_reach_and_little_more(sends in proptest::collection::vec((1_usize..200_000, 0_u64..700), 1..200)) {
            let mut in_flight = InFlight::new(1 << 19);
            let mut ends = Vec::new(); // the stream position behind each message
            let mut position = 0_u64;
            for (bytes, messages) in sends {
                in_flight.sent(bytes, messages);
                position += bytes as u64;
                ends.extend(std::iter::repeat_n(position, messages as usize));
            }
            let reach = in_flight.reach;
            let within = |distance: u64| ends.iter().filter(|end| **end + distance > position).count() as u64;
            prop_assert!(in_flight.in_doubt() >= within(reach));
            prop_assert!(in_flight.in_doubt() <= within(reach + 200_000 + RESOLUTION));
            prop_assert!(in_flight.unread() <= in_flight.in_doubt());
            prop_assert!(in_flight.marks.len() as u64 <= reach / RESOLUTION + 1);
        }
    }
}
