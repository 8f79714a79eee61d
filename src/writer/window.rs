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

/// How finely the bound is known, in bytes of the stream; where a send or a batch was longer, no finer than that.
const STEP: u64 = 512;

/// A send begins while less than the whole buffer is charged, so one more piece of the kernel's may be in flight
/// (`SKB_MAX_HEAD(0) + 32 KiB`, rounded up).
const PIECE: usize = 64 << 10;

/// What Go's `bufio.Reader` holds unless told otherwise, as the Go library's reader does.
const GO_READ_BUFFER: u64 = 4096;

#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    bytes: u64,
    messages: u64,
}

/// The stream of one connection, as far as it was sent.
#[derive(Debug)]
pub(crate) struct Window {
    reach: u64,
    sent: Mark,
    /// Positions of the stream that are in doubt, a step apart at least: where a send or a batch ended.
    marks: VecDeque<Mark>,
    /// Everything before this is out of doubt.
    safe: Mark,
    /// Messages that the reader's process has read.
    read: u64,
}

impl Window {
    /// `send_buffer` as the kernel counts it.
    pub(crate) fn new(send_buffer: usize) -> Window {
        let reach = (send_buffer + PIECE + READ_BUFFER) as u64;
        Window { reach, sent: Mark::default(), marks: VecDeque::new(), safe: Mark::default(), read: 0 }
    }

    /// The kernel has taken this much more.
    pub(crate) fn sent(&mut self, bytes: usize, messages: u64) {
        self.sent.bytes += bytes as u64;
        self.sent.messages += messages;
        let newest = self.marks.back().map_or(self.safe.bytes, |mark| mark.bytes);
        if self.sent.bytes - newest >= STEP {
            self.marks.push_back(self.sent);
        }
        self.forget_beyond(self.reach);
        self.read = self.read.max(self.safe.messages);
    }

    /// The reader's process has read everything.
    pub(crate) fn all_read(&mut self) {
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
    pub(crate) fn in_doubt(&self) -> u64 {
        self.sent.messages - self.safe.messages
    }

    /// How many messages the reader's process has not, or not surely, read.
    pub(crate) fn unread(&self) -> u64 {
        self.sent.messages - self.read
    }

    /// Whether any message went out whole.
    pub(crate) fn has_sent(&self) -> bool {
        self.sent.messages > 0
    }

    /// Whether the reader has surely read any message.
    pub(crate) fn has_been_read(&self) -> bool {
        self.read > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_read_is_read_but_what_a_go_reader_may_hold_stays_in_doubt() {
        let mut window = Window::new(1 << 19);
        for _ in 0..100 {
            window.sent(101, 1);
        }
        assert_eq!((window.unread(), window.in_doubt()), (100, 100));
        window.all_read();
        assert_eq!(window.unread(), 0);
        assert!((41..=46).contains(&window.in_doubt()), "{}", window.in_doubt());
        window.sent(101, 1);
        assert_eq!(window.unread(), 1);
    }

    proptest! {
        #[test]
        fn the_bound_covers_the_reach_and_little_more(sends in proptest::collection::vec((1_usize..200_000, 0_u64..700), 1..200)) {
            let mut window = Window::new(1 << 19);
            let mut ends = Vec::new(); // the stream position behind each message
            let mut position = 0_u64;
            for (bytes, messages) in sends {
                window.sent(bytes, messages);
                position += bytes as u64;
                ends.extend(std::iter::repeat_n(position, messages as usize));
            }
            let reach = window.reach;
            let within = |distance: u64| ends.iter().filter(|end| **end + distance > position).count() as u64;
            prop_assert!(window.in_doubt() >= within(reach));
            prop_assert!(window.in_doubt() <= within(reach + 200_000 + STEP));
            prop_assert!(window.unread() <= window.in_doubt());
            prop_assert!(window.marks.len() as u64 <= reach / STEP + 1);
        }
    }
}
