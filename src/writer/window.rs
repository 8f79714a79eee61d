//! What of a connection's messages the reader may not have read.
//!
//! When a reader goes away over unread bytes the kernel says so, but not how many (`linux` `unix_release_sock`). There is
//! a bound: the kernel holds at most the send buffer, and the reader has at most one read in its own hands. So the
//! messages of the last that many bytes are in doubt, and no others. All others have been read and handled.

use std::collections::VecDeque;

use crate::frame::READ_BUFFER;

/// How finely the bound is known: in this many steps.
const STEPS: usize = 64;

/// A send begins while less than the whole buffer is charged, so one more piece of the kernel's may be in flight
/// (`SKB_MAX_HEAD(0) + 32 KiB`, rounded up).
const PIECE: usize = 64 << 10;

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
    /// Positions of the stream within reach, rarely more than `STEPS`.
    marks: VecDeque<Mark>,
    /// Everything before this has been read.
    read: Mark,
}

impl Window {
    /// `send_buffer` as the kernel counts it.
    pub(crate) fn new(send_buffer: usize) -> Window {
        let reach = (send_buffer + PIECE + READ_BUFFER) as u64;
        let marks = VecDeque::with_capacity(STEPS + 2);
        Window { reach, sent: Mark::default(), marks, read: Mark::default() }
    }

    /// The kernel has taken this much more.
    pub(crate) fn sent(&mut self, bytes: usize, messages: u64) {
        self.sent.bytes += bytes as u64;
        self.sent.messages += messages;
        let newest = self.marks.back().map_or(self.read.bytes, |mark| mark.bytes);
        if self.sent.bytes - newest >= self.reach / STEPS as u64 {
            self.marks.push_back(self.sent);
        }
        while let Some(mark) = self.marks.front()
            && mark.bytes + self.reach <= self.sent.bytes
        {
            self.read = *mark;
            self.marks.pop_front();
        }
    }

    /// The reader has read everything.
    pub(crate) fn all_read(&mut self) {
        self.read = self.sent;
        self.marks.clear();
    }

    /// How many messages may be unread.
    pub(crate) fn in_doubt(&self) -> u64 {
        self.sent.messages - self.read.messages
    }

    /// Whether any message went out whole.
    pub(crate) fn has_sent(&self) -> bool {
        self.sent.messages > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_read_is_not_in_doubt() {
        let mut window = Window::new(1 << 19);
        window.sent(100, 3);
        assert_eq!(window.in_doubt(), 3);
        window.all_read();
        assert_eq!(window.in_doubt(), 0);
        window.sent(100, 2);
        assert_eq!(window.in_doubt(), 2);
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
            prop_assert!(window.in_doubt() <= within(reach + 200_000 + reach / 16));
            prop_assert!(window.marks.len() <= STEPS + 2);
        }
    }
}
