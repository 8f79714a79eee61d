//! Whole frames on their way into the callback.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Context, Error};
use crate::frame::{self, Frame};

use super::account::Account;
use super::budget::{Budget, TurnStatus};
use super::clock::Clock;
use super::handler::{BatchHandler, EachHandler, Failure, HandledInPart, Handler, Panicked};
use super::peer::Peer;
use super::read_buffers::Tally;

/// The most messages that one call of a batch callback gets.
pub(crate) const MAX_CALLBACK_MESSAGES: usize = 256;

/// Who counts and reports failed callbacks.
pub(super) trait OnFailure {
    /// One message was not handled well.
    fn handler_failed(&self, failure: Failure);
}

/// What is noted of the callbacks of one delivery. Places are counted from the first byte that it hands out.
pub(super) trait Notes {
    /// A callback begins. What it gets ends at `end`, and everything before `start` is handled.
    fn begin(&self, start: usize, end: usize);
    /// So many messages have been in a callback.
    fn handed_out(&self, peer: &mut Peer<'_>, messages: usize);
    /// An empty frame has been found, with a prefix of so many bytes. It may be found again.
    fn empty_frame(&self, prefix: usize);
    /// A callback has failed, and everything before `end` is handled. An error callback may follow.
    fn failed(&self, end: usize);
}

/// For a peer without a name: nothing is noted.
struct NoNotes;

impl Notes for NoNotes {
    #[inline(always)]
    fn begin(&self, _: usize, _: usize) {}
    #[inline(always)]
    fn handed_out(&self, _: &mut Peer<'_>, _: usize) {}
    #[inline(always)]
    fn empty_frame(&self, _: usize) {}
    #[inline(always)]
    fn failed(&self, _: usize) {}
}

/// Where the messages of one turn go.
#[derive(Clone, Copy)]
pub(super) struct Delivery<'a> {
    pub(super) peer: Peer<'a>,
    pub(super) handler: &'a Handler,
    pub(super) max_message_size: u64,
    pub(super) tally: &'a Tally,
    pub(super) on_failure: &'a dyn OnFailure,
    pub(super) clock: &'a Clock,
}

/// How far a delivery came.
#[derive(Debug)]
pub(super) struct Delivered {
    /// So many bytes at the front were whole frames, and are handled.
    pub(super) used: usize,
    pub(super) rest: Rest,
    /// A writer with a name has asked for a ring.
    pub(super) ring_requested: bool,
}

impl Delivered {
    fn new(used: usize, rest: Rest) -> Delivered {
        Delivered { used, rest, ring_requested: false }
    }
}

/// What stands behind the handled frames.
#[derive(Debug)]
pub(super) enum Rest {
    /// Nothing, or a cut frame; how long that is with its prefix, 0 while that is unknown.
    Cut(usize),
    /// Perhaps more whole frames: the budget ended.
    Interrupted(TurnStatus),
    /// What cannot be taken.
    Refused(Error, Context),
}

/// Messages that are handed out together.
#[derive(Clone, Copy)]
struct Batch<'a> {
    /// What the delivery hands out; the messages lie in there.
    bytes: &'a [u8],
    /// Where the first frame begins: it may be an empty one.
    start: usize,
    messages: &'a [&'a [u8]],
}

impl Batch<'_> {
    /// Where the first `count` messages end.
    #[inline]
    fn end(&self, count: usize) -> usize {
        match self.messages[..count].last() {
            Some(message) => message.as_ptr_range().end.addr() - self.bytes.as_ptr().addr(),
            None => self.start,
        }
    }
}

impl Delivery<'_> {
    /// Hands out the whole frames at the front of `bytes`, for as long as the budget lasts, and takes account of them.
    pub(super) fn deliver(&self, bytes: &[u8], budget: &mut Budget<'_>, account: Option<&mut Account>) -> Delivered {
        budget.begin_callbacks(self.clock.ticks());
        let mut peer = self.peer;
        let Some(account) = account else { return self.hand_out(bytes, budget, &mut peer, &NoNotes) };
        peer.sequence = account.sequence();
        let ring_requested = Cell::new(false);
        let mut delivered = self.hand_out(bytes, budget, &mut peer, &account.notes(&ring_requested));
        delivered.ring_requested = ring_requested.get();
        account.advance(delivered.used, peer.sequence);
        delivered
    }

    fn hand_out(&self, bytes: &[u8], budget: &mut Budget<'_>, peer: &mut Peer<'_>, notes: &impl Notes) -> Delivered {
        match self.handler {
            Handler::Each(each) => self.one_by_one(bytes, each, budget, peer, notes),
            Handler::Batch(batch) => self.in_batches(bytes, batch, budget, peer, notes),
        }
    }

    fn one_by_one(
        &self,
        bytes: &[u8],
        each: &EachHandler,
        budget: &mut Budget<'_>,
        peer: &mut Peer<'_>,
        notes: &impl Notes,
    ) -> Delivered {
        let mut used = 0;
        loop {
            match frame::decode(&bytes[used..], self.max_message_size) {
                Frame::Whole { start, end } => {
                    let message = &bytes[used + start..used + end];
                    let begin = used;
                    used += end;
                    if message.is_empty() {
                        notes.empty_frame(start);
                        continue;
                    }
                    notes.begin(begin, used);
                    let result = catch_unwind(AssertUnwindSafe(|| each(message, peer)));
                    notes.handed_out(peer, 1);
                    let status = match result {
                        Ok(Ok(())) => {
                            self.tally.received(1, message.len() as u64);
                            budget.after_callback(self.clock)
                        }
                        Ok(Err(failure)) => {
                            notes.failed(used);
                            self.failed(failure, budget)
                        }
                        Err(_) => {
                            notes.failed(used);
                            self.failed(Panicked.into(), budget)
                        }
                    };
                    if status != TurnStatus::Continue {
                        return Delivered::new(used, Rest::Interrupted(status));
                    }
                }
                other => return Delivered::new(used, self.behind_the_last(other)),
            }
        }
    }

    fn in_batches(
        &self,
        bytes: &[u8],
        batch: &BatchHandler,
        budget: &mut Budget<'_>,
        peer: &mut Peer<'_>,
        notes: &impl Notes,
    ) -> Delivered {
        let mut used = 0;
        loop {
            let mut messages: [&[u8]; MAX_CALLBACK_MESSAGES] = [&[]; MAX_CALLBACK_MESSAGES];
            let (mut count, mut at) = (0, used);
            let mut last = Frame::Cut(None);
            while count < MAX_CALLBACK_MESSAGES {
                last = frame::decode(&bytes[at..], self.max_message_size);
                let Frame::Whole { start, end } = last else { break };
                messages[count] = &bytes[at + start..at + end];
                if start < end {
                    count += 1;
                } else {
                    notes.empty_frame(start);
                }
                at += end;
            }
            let messages = Batch { bytes, start: used, messages: &messages[..count] };
            if let Err((handled, rest)) = self.hand_out_batch(messages, batch, budget, peer, notes) {
                // Empty frames behind the last message count as handled with the batch only.
                return Delivered::new(if handled == count { at } else { messages.end(handled) }, rest);
            }
            used = at;
            if !matches!(last, Frame::Whole { .. }) {
                return Delivered::new(used, self.behind_the_last(last));
            }
        }
    }

    /// Calls until all have been handled, well or not. If the budget ends first: how many have been, 1 at least.
    fn hand_out_batch(
        &self,
        messages: Batch<'_>,
        batch: &BatchHandler,
        budget: &mut Budget<'_>,
        peer: &mut Peer<'_>,
        notes: &impl Notes,
    ) -> Result<(), (usize, Rest)> {
        let mut handled = 0;
        while handled < messages.messages.len() {
            let rest = &messages.messages[handled..];
            notes.begin(messages.end(handled), messages.end(messages.messages.len()));
            let well = catch_unwind(AssertUnwindSafe(|| batch(rest, peer))).unwrap_or(0).min(rest.len());
            if well > 0 {
                let bytes = rest[..well].iter().map(|message| message.len() as u64).sum();
                self.tally.received(well as u64, bytes);
            }
            handled += well;
            notes.handed_out(peer, well);
            let status = if well < rest.len() {
                handled += 1;
                notes.handed_out(peer, 1);
                notes.failed(messages.end(handled));
                self.failed(HandledInPart.into(), budget)
            } else {
                budget.after_long_callback(self.clock)
            };
            if status != TurnStatus::Continue {
                return Err((handled, Rest::Interrupted(status)));
            }
        }
        Ok(())
    }

    #[cold]
    fn failed(&self, failure: Failure, budget: &mut Budget<'_>) -> TurnStatus {
        self.on_failure.handler_failed(failure);
        budget.after_long_callback(self.clock)
    }

    #[cold]
    #[inline(never)]
    fn behind_the_last(&self, frame: Frame) -> Rest {
        match frame {
            Frame::Cut(need) => Rest::Cut(need.unwrap_or(0)),
            Frame::TooLarge(size) => {
                let limit = self.max_message_size;
                Rest::Refused(Error::MessageTooLarge { size, limit }, Context::TooLarge)
            }
            Frame::Overflow => Rest::Refused(Error::InvalidLengthPrefix, Context::Prefix),
            Frame::Whole { .. } => Rest::Cut(0),
        }
    }
}
