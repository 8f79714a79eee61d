//! The batch that is being written, and perhaps the one behind it: how far the kernel has taken them, and which frame comes
//! first.

use crate::frame::{self, Prefix};

use super::batch::Batch;
use super::queue::{Fate, Queue};
use super::window::Window;

/// The batches in the sender's hands, or none.
#[derive(Debug, Default)]
pub(crate) struct Front {
    batch: Option<Batch>,
    /// What goes out in the same call, if there is room for it.
    behind: Option<Batch>,
    /// Bytes that the kernel has taken on this connection.
    taken: usize,
    /// Where the first frame begins that the kernel has not taken whole.
    first: usize,
    /// What of the batch is finished.
    messages: u64,
    payload: u64,
}

/// A frame of the batch.
struct Next {
    end: usize,
    payload: u64,
}

impl Front {
    pub(crate) fn is_empty(&self) -> bool {
        self.batch.is_none()
    }

    /// Whether the kernel has taken a part of the first frame.
    pub(crate) fn is_torn(&self) -> bool {
        self.taken > self.first
    }

    pub(crate) fn load(&mut self, batch: Batch) {
        *self = Front { batch: Some(batch), ..Front::default() };
    }

    /// Takes one more batch along, unless there are two already.
    pub(crate) fn take_along(&mut self, next: impl FnOnce() -> Option<Batch>) {
        if self.behind.is_none() {
            self.behind = next();
        }
    }

    /// What is still to be written.
    pub(crate) fn rest(&self) -> [&[u8]; 2] {
        let first = self.batch.as_ref().map_or(&[][..], |batch| &batch.bytes[self.taken..]);
        [first, self.behind.as_ref().map_or(&[], |batch| &batch.bytes)]
    }

    /// The kernel has taken `bytes` more. Returns how many messages are whole now, for the first time.
    pub(crate) fn advance(&mut self, bytes: usize, queue: &Queue, window: &mut Window) -> u64 {
        let (mut left, mut count) = (bytes, 0);
        while left > 0 {
            let Some(batch) = &self.batch else { break };
            let here = left.min(batch.bytes.len() - self.taken);
            let messages = self.advance_first(here, queue);
            window.sent(here, messages);
            count += messages;
            left -= here;
        }
        count
    }

    fn advance_first(&mut self, bytes: usize, queue: &Queue) -> u64 {
        let Some(batch) = &self.batch else { return 0 };
        self.taken += bytes;
        let (mut messages, mut payload) = (0, 0);
        if self.taken == batch.bytes.len() {
            (messages, payload) = (batch.messages - self.messages, batch.payload - self.payload);
        } else {
            while let Some(next) = self.next_frame()
                && next.end <= self.taken
            {
                self.first = next.end;
                messages += 1;
                payload += next.payload;
            }
        }
        self.finish(Fate::Sent, messages, payload, queue);
        messages
    }

    /// The connection is gone: the first frame that it did not take whole is the next one's first.
    pub(crate) fn rewind(&mut self) {
        self.taken = self.first;
    }

    /// Gives the first frame up. The connection must be gone, or the frame untouched.
    pub(crate) fn abandon_first(&mut self, queue: &Queue) {
        let Some(next) = self.next_frame() else { return };
        self.first = next.end;
        self.taken = next.end;
        self.finish(Fate::Abandoned, 1, next.payload, queue);
    }

    /// Gives up all that is left and returns how many messages that was.
    pub(crate) fn abandon_rest(&mut self, queue: &Queue) -> u64 {
        let mut count = 0;
        while let Some(batch) = &self.batch {
            let (messages, payload) = (batch.messages - self.messages, batch.payload - self.payload);
            self.finish(Fate::Abandoned, messages, payload, queue);
            count += messages;
        }
        count
    }

    fn next_frame(&self) -> Option<Next> {
        let bytes = &self.batch.as_ref()?.bytes[self.first..];
        match frame::decode_prefix(bytes) {
            Prefix::Whole { len, size } => Some(Next { end: self.first + size + len as usize, payload: len }),
            Prefix::Cut | Prefix::Overflow => None, // the end: a batch holds whole frames that we wrote
        }
    }

    fn finish(&mut self, fate: Fate, messages: u64, payload: u64, queue: &Queue) {
        self.messages += messages;
        self.payload += payload;
        if messages > 0 {
            queue.finish(fate, messages, payload);
        }
        if let Some(batch) = self.batch.take_if(|batch| batch.messages == self.messages) {
            batch.recycle();
            *self = Front { batch: self.behind.take(), ..Front::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::queue::Count;

    fn front_of(messages: &[&[u8]]) -> (Front, Queue) {
        let queue = Queue::new(100, 0);
        let mut front = Front::default();
        front.load(batch_of(messages, &queue));
        (front, queue)
    }

    fn batch_of(messages: &[&[u8]], queue: &Queue) -> Batch {
        for message in messages {
            queue.push(message).expect("room");
        }
        queue.take().expect("a batch")
    }

    fn window() -> Window {
        Window::new(1 << 19)
    }

    fn two_batches() -> (Front, Queue) {
        let (mut front, queue) = front_of(&[b"abc", b"de"]);
        front.take_along(|| Some(batch_of(&[b"f", b"gh", b"ijk"], &queue)));
        front.take_along(|| panic!("there are two"));
        (front, queue)
    }

    #[test]
    fn a_frame_counts_when_its_last_byte_is_taken() {
        let (mut front, queue) = front_of(&[b"abc", b"de", b"f"]);
        assert_eq!(front.advance(3, &queue, &mut window()), 0);
        assert!(front.is_torn());
        assert_eq!(front.advance(1, &queue, &mut window()), 1);
        assert!(!front.is_torn());
        assert_eq!(front.advance(4, &queue, &mut window()), 1);
        assert_eq!(queue.account().sent.messages, 2);
        assert_eq!(front.advance(1, &queue, &mut window()), 1);
        assert!(front.is_empty());
        assert_eq!(queue.account().sent, Count { messages: 3, bytes: 6 });
    }

    #[test]
    fn a_torn_frame_begins_again_whole() {
        let (mut front, queue) = front_of(&[b"abc", b"de"]);
        front.advance(6, &queue, &mut window());
        assert!(front.is_torn());
        front.rewind();
        assert_eq!(front.rest(), [&b"\x02de"[..], b""]);
        assert_eq!(front.advance(3, &queue, &mut window()), 1);
        assert!(front.is_empty());
    }

    #[test]
    fn the_first_frame_alone_can_be_given_up() {
        let (mut front, queue) = front_of(&[b"poison", b"de"]);
        front.advance(3, &queue, &mut window());
        front.rewind();
        front.abandon_first(&queue);
        assert_eq!(front.rest(), [&b"\x02de"[..], b""]);
        assert_eq!((queue.account().abandoned.messages, queue.account().depth.messages), (1, 1));
        assert_eq!(front.abandon_rest(&queue), 1);
        assert!(front.is_empty());
        assert_eq!((queue.account().abandoned.messages, queue.account().depth.bytes), (2, 0));
    }

    #[test]
    fn one_send_can_end_in_the_second_batch() {
        let (mut front, queue) = two_batches();
        assert_eq!(front.rest(), [&b"\x03abc\x02de"[..], b"\x01f\x02gh\x03ijk"]);
        assert_eq!(front.advance(10, &queue, &mut window()), 3);
        assert!(front.is_torn());
        assert_eq!(front.rest(), [&b"gh\x03ijk"[..], b""]);
        front.rewind();
        assert_eq!(front.rest(), [&b"\x02gh\x03ijk"[..], b""]);
        assert_eq!(front.advance(7, &queue, &mut window()), 2);
        assert!(front.is_empty());
        assert_eq!(queue.account().sent, Count { messages: 5, bytes: 11 });
    }

    #[test]
    fn the_second_batch_comes_forward_when_the_first_is_done_or_given_up() {
        let (mut front, queue) = two_batches();
        assert_eq!(front.advance(5, &queue, &mut window()), 1);
        front.rewind();
        front.abandon_first(&queue);
        assert_eq!(front.rest(), [&b"\x01f\x02gh\x03ijk"[..], b""]);
        assert!(!front.is_torn());
        let (mut front, queue) = two_batches();
        assert_eq!(front.advance(4, &queue, &mut window()), 1);
        assert_eq!(front.abandon_rest(&queue), 4);
        assert!(front.is_empty());
        assert_eq!((queue.account().sent.messages, queue.account().abandoned.messages), (1, 4));
    }

    #[test]
    fn the_window_knows_where_each_batch_ends() {
        let queue = Queue::new(2000, 0);
        let mut front = Front::default();
        front.load(batch_of(&[&[1; 100][..]; 600], &queue));
        front.take_along(|| Some(batch_of(&[&[1; 100][..]; 300], &queue)));
        let mut window = window();
        front.advance(900 * 101, &queue, &mut window);
        window.all_read();
        assert_eq!(window.in_doubt(), 300);
    }
}
