//! The batch that is being written: how far the kernel has taken it, and which frame comes first.

use crate::frame::{self, Prefix};

use super::batch::Batch;
use super::queue::{Fate, Queue};

/// The batch in the sender's hands, or none.
#[derive(Debug, Default)]
pub(crate) struct Front {
    batch: Option<Batch>,
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

    /// What is still to be written.
    pub(crate) fn rest(&self) -> &[u8] {
        self.batch.as_ref().map_or(&[], |batch| &batch.bytes[self.taken..])
    }

    /// The kernel has taken `bytes` more. Returns how many messages are whole now, for the first time.
    pub(crate) fn advance(&mut self, bytes: usize, queue: &Queue) -> u64 {
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
        let Some(batch) = &self.batch else { return 0 };
        let (messages, payload) = (batch.messages - self.messages, batch.payload - self.payload);
        self.finish(Fate::Abandoned, messages, payload, queue);
        messages
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
            *self = Front::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::queue::Count;

    fn front_of(messages: &[&[u8]]) -> (Front, Queue) {
        let queue = Queue::new(100, 0);
        for message in messages {
            queue.push(message).expect("room");
        }
        let mut front = Front::default();
        front.load(queue.take().expect("a batch"));
        (front, queue)
    }

    #[test]
    fn a_frame_counts_when_its_last_byte_is_taken() {
        let (mut front, queue) = front_of(&[b"abc", b"de", b"f"]);
        assert_eq!(front.advance(3, &queue), 0);
        assert!(front.is_torn());
        assert_eq!(front.advance(1, &queue), 1);
        assert!(!front.is_torn());
        assert_eq!(front.advance(4, &queue), 1);
        assert_eq!(queue.account().sent.messages, 2);
        assert_eq!(front.advance(1, &queue), 1);
        assert!(front.is_empty());
        assert_eq!(queue.account().sent, Count { messages: 3, bytes: 6 });
    }

    #[test]
    fn a_torn_frame_begins_again_whole() {
        let (mut front, queue) = front_of(&[b"abc", b"de"]);
        front.advance(6, &queue);
        assert!(front.is_torn());
        front.rewind();
        assert_eq!(front.rest(), b"\x02de");
        assert_eq!(front.advance(3, &queue), 1);
        assert!(front.is_empty());
    }

    #[test]
    fn the_first_frame_alone_can_be_given_up() {
        let (mut front, queue) = front_of(&[b"poison", b"de"]);
        front.advance(3, &queue);
        front.rewind();
        front.abandon_first(&queue);
        assert_eq!(front.rest(), b"\x02de");
        assert_eq!((queue.account().abandoned.messages, queue.account().depth.messages), (1, 1));
        assert_eq!(front.abandon_rest(&queue), 1);
        assert!(front.is_empty());
        assert_eq!((queue.account().abandoned.messages, queue.account().depth.bytes), (2, 0));
    }
}
