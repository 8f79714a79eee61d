//! How far the kernel has taken the batches, frame by frame, and how far the reader has handled them.
//!
//! The batches lie in the order in which they were queued:
//!
//! 1. Those in front of `at` the kernel has taken whole. They are kept while the reader may tell how far it has handled them
//!    ([`Keep::UntilHandled`]), since a reader that is killed before needs them again.
//! 2. The one `at` is being sent, perhaps together with the one behind it.
//! 3. Behind those are others only after a connection was lost: they are sent again.
//!
//! Each message is counted once as sent or abandoned, however often it is sent again.

use std::collections::{TryReserveError, VecDeque};

use crate::frame::{self, Prefix};

use super::batch::{BATCH, Batch, BatchOffset};
use super::in_flight::InFlight;
use super::queue::{Fate, Queue};

/// Whether what the kernel has taken whole is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// No: what is sent is out of the writer's hands.
    Nothing,
    /// Until [`WriteCursor::release`].
    UntilHandled,
}

/// What is to be sent, and what has been sent and may have to be sent again.
#[derive(Debug, Default)]
pub(super) struct WriteCursor {
    batches: VecDeque<Batch>,
    at: usize,
    /// Bytes of the batch `at` that the kernel has taken, on this connection or an earlier one that is over.
    taken: usize,
    /// The part of them that is not accounted for yet.
    unsettled: usize,
    /// Where in the batch `at` the first frame begins that the kernel has not taken whole.
    first: BatchOffset,
    /// Positions in the connection's stream: of what has been released, and of what has been taken.
    released: u64,
    sent: u64,
}

/// How messages went.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    /// Taken whole for the first time.
    pub(super) first: u64,
    /// Taken whole once more.
    pub(super) again: u64,
}

/// What was given up.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct GivenUp {
    /// Never sent whole.
    pub(super) abandoned: u64,
    /// Sent, and not known to be handled.
    pub(super) lost: u64,
}

/// A frame of a batch: where it ends, and the length of its payload.
struct FrameSpan {
    end: usize,
    payload: u64,
}

impl WriteCursor {
    /// Whether nothing is left to be sent.
    pub(super) fn is_empty(&self) -> bool {
        self.at == self.batches.len()
    }

    /// Whether the kernel has taken a part of the first frame.
    pub(super) fn is_torn(&self) -> bool {
        self.taken > self.first.bytes
    }

    /// Makes room for two more batches: [`WriteCursor::load`] and [`WriteCursor::take_along`] cannot say that memory is short.
    pub(super) fn make_room(&mut self) -> Result<(), TryReserveError> {
        self.batches.try_reserve(2)
    }

    /// Puts a batch behind all others.
    pub(super) fn load(&mut self, batch: Batch) {
        if self.is_empty() {
            (self.taken, self.unsettled, self.first) = (0, 0, BatchOffset::default());
        }
        self.batches.push_back(batch);
    }

    /// Takes one more batch along, unless there are two already.
    pub(super) fn take_along(&mut self, next: impl FnOnce() -> Option<Batch>) {
        if self.at + 1 == self.batches.len() {
            self.batches.extend(next());
        }
    }

    /// What is still to be written, of two batches.
    pub(super) fn rest(&self) -> [&[u8]; 2] {
        let first = self.batches.get(self.at).map_or(&[][..], |batch| &batch.bytes[self.taken..]);
        [first, self.batches.get(self.at + 1).map_or(&[], |batch| &batch.bytes[batch.released.bytes..])]
    }

    /// The kernel has taken `bytes` more. Batches that are whole are accounted for; frames of one that is not, by
    /// [`WriteCursor::settle`], which must follow before anything else happens: to walk through the frames after each call
    /// would cost as much as to queue them. Returns how many messages are whole now.
    pub(super) fn advance(&mut self, bytes: usize, keep: Keep, queue: &Queue, in_flight: &mut InFlight) -> Taken {
        let (mut left, mut count) = (bytes, Taken::default());
        self.sent += bytes as u64;
        while left > 0 {
            let Some(batch) = self.batches.get(self.at) else { break };
            let here = left.min(batch.bytes.len() - self.taken);
            self.taken += here;
            self.unsettled += here;
            left -= here;
            if self.taken == batch.bytes.len() {
                let messages = batch.messages - self.first.messages;
                in_flight.sent(std::mem::take(&mut self.unsettled), messages);
                count.add(self.count_sent(messages, None, queue), messages);
                self.leave_batch(keep);
            }
        }
        count
    }

    /// Accounts for the frames that the kernel has taken whole.
    pub(super) fn settle(&mut self, queue: &Queue, in_flight: &mut InFlight) -> Taken {
        let mut count = Taken::default();
        if self.unsettled == 0 {
            return count;
        }
        let (mut messages, mut new, mut payload) = (0, 0, 0);
        while let Some(next) = self.next_frame(self.first)
            && next.end <= self.taken
        {
            let is_new = self.first.messages >= self.batches[self.at].counted.messages + new;
            self.first = BatchOffset { bytes: next.end, messages: self.first.messages + 1 };
            messages += 1;
            if is_new {
                (new, payload) = (new + 1, payload + next.payload);
            }
        }
        in_flight.sent(std::mem::take(&mut self.unsettled), messages);
        count.add(self.count_sent(new, Some(payload), queue), messages);
        count
    }

    /// Counts as sent what the batch `at` holds up to so many messages more, or `new` ones with this payload. Returns how many
    /// of them are counted for the first time.
    fn count_sent(&mut self, new: u64, payload: Option<u64>, queue: &Queue) -> u64 {
        let batch = &mut self.batches[self.at];
        let (new, payload) = match payload {
            Some(payload) => (new, payload),
            None => (batch.messages - batch.counted.messages, batch.payload - batch.counted.bytes),
        };
        if new > 0 {
            batch.counted.messages += new;
            batch.counted.bytes += payload;
            queue.finish(Fate::Sent, new, payload);
        }
        new
    }

    /// The batch `at` is whole.
    fn leave_batch(&mut self, keep: Keep) {
        match keep {
            Keep::Nothing => self.batches.remove(self.at).into_iter().for_each(Batch::recycle),
            Keep::UntilHandled if self.joins_the_last_one() => {}
            Keep::UntilHandled => self.at += 1,
        }
        let released = self.batches.get(self.at).map_or(BatchOffset::default(), |batch| batch.released);
        (self.taken, self.unsettled, self.first) = (released.bytes, 0, released);
    }

    /// A small batch is copied behind the one before it: a lone message must not hold the memory of a batch. False if that has
    /// no room.
    fn joins_the_last_one(&mut self) -> bool {
        let Some(before) = self.at.checked_sub(1) else { return false };
        let (len, released) = (self.batches[self.at].bytes.len(), self.batches[self.at].released);
        let room = self.batches[before].bytes.capacity() - self.batches[before].bytes.len();
        if len > room || len > BATCH / 2 || released != BatchOffset::default() {
            return false;
        }
        let Some(small) = self.batches.remove(self.at) else { return false };
        let large = &mut self.batches[before];
        large.bytes.extend_from_slice(&small.bytes);
        large.messages += small.messages;
        large.payload += small.payload;
        large.counted = large.counted.plus(small.counted);
        small.recycle();
        true
    }

    /// Position in the connection's stream up to which the kernel has taken it.
    pub(super) fn sent_to(&self) -> u64 {
        self.sent
    }

    /// A byte of another kind has gone out: an empty frame, which is no message.
    pub(super) fn skip(&mut self, bytes: u64) {
        (self.released, self.sent) = (self.released + bytes, self.sent + bytes);
    }

    /// How many bytes are kept, and how many messages of those have been sent whole.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.sent - self.released
    }

    pub(super) fn kept_messages(&self) -> u64 {
        let kept = self.batches.iter().map(|batch| batch.counted.messages.saturating_sub(batch.released.messages));
        kept.sum()
    }

    /// Messages that have been sent, and are to be sent again.
    pub(super) fn to_send_again(&self) -> u64 {
        let again = |(index, batch): (usize, &Batch)| {
            let taken = if index == self.at { self.first.messages } else { batch.released.messages };
            batch.counted.messages.saturating_sub(taken)
        };
        self.batches.iter().enumerate().skip(self.at).map(again).sum()
    }

    /// The largest batch that is kept or being sent.
    pub(super) fn largest(&self) -> usize {
        self.batches.iter().map(|batch| batch.bytes.len()).max().unwrap_or(0)
    }

    /// The reader has handled the stream up to `position`: whole batches before it are let go, without a look at their frames.
    /// Returns how many messages of them have been sent.
    pub(super) fn release_whole(&mut self, position: u64) -> u64 {
        let mut messages = 0;
        while self.at > 0
            && let Some(batch) = self.batches.front()
        {
            let end = self.released + (batch.bytes.len() - batch.released.bytes) as u64;
            if end > position {
                break;
            }
            messages += batch.messages - batch.released.messages;
            self.released = end;
            self.at -= 1;
            if let Some(batch) = self.batches.pop_front() {
                batch.recycle();
            }
        }
        messages
    }

    /// As [`WriteCursor::release_whole`], and every frame before `position` that the kernel has taken whole.
    pub(super) fn release(&mut self, position: u64) -> u64 {
        let mut messages = self.release_whole(position);
        while let Some(batch) = self.batches.front_mut() {
            let limit = if self.at == 0 { self.first.bytes } else { batch.bytes.len() };
            let Some(next) = frame_at(batch, batch.released) else { break };
            let end = self.released + (next.end - batch.released.bytes) as u64;
            if next.end > limit || end > position {
                break;
            }
            batch.released = BatchOffset { bytes: next.end, messages: batch.released.messages + 1 };
            self.released = end;
            messages += 1;
        }
        messages
    }

    /// Lets go what the kernel has taken whole: nobody will tell what became of it.
    pub(super) fn forget_sent(&mut self) {
        for batch in self.batches.drain(..self.at) {
            batch.recycle();
        }
        self.at = 0;
        if let Some(batch) = self.batches.front_mut() {
            batch.released = self.first;
        }
        self.released = self.sent - (self.taken - self.first.bytes) as u64;
    }

    /// What was sent from one position to another, and is not handled, goes in front of everything else: it has been sent in
    /// another way than through this cursor, which has kept nothing. [`WriteCursor::make_room`] comes first.
    pub(super) fn restore_sent(&mut self, sent: Option<Batch>, from: u64, to: u64) {
        self.forget_sent();
        if let Some(batch) = sent {
            self.batches.push_front(batch);
            self.at = 1;
        }
        (self.released, self.sent) = (from, to);
    }

    /// The connection is gone: what is kept, and the first frame that was not taken whole, are the next one's first.
    pub(super) fn rewind(&mut self) {
        self.at = 0;
        let released = self.batches.front().map_or(BatchOffset::default(), |batch| batch.released);
        (self.taken, self.unsettled, self.first) = (released.bytes, 0, released);
        (self.released, self.sent) = (0, 0);
        self.drop_finished();
    }

    /// Gives the first frame up. The connection must be gone.
    pub(super) fn abandon_first(&mut self, queue: &Queue) -> GivenUp {
        let mut given_up = GivenUp::default();
        let released = self.batches.front().map_or(BatchOffset::default(), |batch| batch.released);
        let Some(next) = self.next_frame(released) else { return given_up };
        let batch = &mut self.batches[0];
        if released.messages < batch.counted.messages {
            given_up.lost = 1;
        } else {
            given_up.abandoned = 1;
            batch.counted.messages += 1;
            batch.counted.bytes += next.payload;
            queue.finish(Fate::Abandoned, 1, next.payload);
        }
        batch.released = BatchOffset { bytes: next.end, messages: released.messages + 1 };
        self.rewind();
        given_up
    }

    /// Gives up all that is left, and what is kept.
    pub(super) fn abandon_rest(&mut self, queue: &Queue) -> GivenUp {
        let mut given_up = GivenUp::default();
        for batch in self.batches.drain(..) {
            let (messages, payload) = (batch.messages - batch.counted.messages, batch.payload - batch.counted.bytes);
            given_up.lost += batch.counted.messages.saturating_sub(batch.released.messages);
            if messages > 0 {
                queue.finish(Fate::Abandoned, messages, payload);
                given_up.abandoned += messages;
            }
            batch.recycle();
        }
        *self = WriteCursor { batches: std::mem::take(&mut self.batches), ..WriteCursor::default() };
        given_up
    }

    /// A batch of which everything is over has nothing to send.
    fn drop_finished(&mut self) {
        let is_finished = |batch: &Batch| batch.released.messages == batch.messages;
        while self.batches.front().is_some_and(is_finished) {
            self.batches.pop_front().into_iter().for_each(Batch::recycle);
            let released = self.batches.front().map_or(BatchOffset::default(), |batch| batch.released);
            (self.taken, self.first) = (released.bytes, released);
        }
    }

    /// The length of the first message that is to be sent.
    pub(super) fn first_payload(&self) -> u64 {
        self.next_frame(self.first).map_or(0, |next| next.payload)
    }

    fn next_frame(&self, from: BatchOffset) -> Option<FrameSpan> {
        frame_at(self.batches.get(self.at)?, from)
    }
}

fn frame_at(batch: &Batch, from: BatchOffset) -> Option<FrameSpan> {
    match frame::decode_prefix(&batch.bytes[from.bytes..]) {
        Prefix::Whole { len, size } => Some(FrameSpan { end: from.bytes + size + len as usize, payload: len }),
        Prefix::Cut | Prefix::Overflow => None, // the end: a batch holds whole frames that we wrote
    }
}

impl Taken {
    fn add(&mut self, new: u64, messages: u64) {
        self.first += new;
        self.again += messages - new;
    }

    pub(super) fn messages(self) -> u64 {
        self.first + self.again
    }
}

impl GivenUp {
    pub(super) fn messages(self) -> u64 {
        self.abandoned + self.lost
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
