//! A connection's ring on the writer's side: what has been stored in it, and what the reader has not handled of that.
//!
//! The ring is what is sent: a frame that has been published counts as sent, and outlives this process. It is also what may have
//! to be sent again, so nothing of it is kept elsewhere: when the connection ends, [`Ring::into_rest`] copies out what the reader
//! has not handled.
//!
//! Who has the value may store. It lies with the queue while producers append to the ring themselves, and with the session while
//! something waits in batches, which comes first.
//!
//! Positions count the bytes of the ring from its first one on; those of the ledger count from the connection's beginning.

use std::sync::Arc;

use crate::frame::{self, MAX_PREFIX, Prefix};
use crate::sys::ledger::Slot;
use crate::sys::ring::{Notice, WriterRing};

use super::account::Count;
use super::batch::Batch;
use super::batch_pool;
use super::transport::Bell;

/// For each piece of this length the number of messages before the first frame that begins in it is noted.
const PIECE_BITS: u32 = 12;

/// The bytes of the ring were last read on another processor: messages up to this size ask for those behind them in good time,
/// this far ahead. Without that, each publication waits for the stores of its message.
const FETCHED: usize = 4 << 10;
const AHEAD: u64 = 1 << 10;

/// What a producer or the session has to do after it has published.
#[derive(Debug)]
pub(super) enum Published {
    /// The reader is awake.
    Quietly,
    /// The reader sleeps.
    Ring(Bell),
    /// The reader ends the connection, and may not have seen it.
    WhileClosing,
}

/// A frame boundary, and how many messages lie before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Mark {
    position: u64,
    messages: u64,
}

#[derive(Debug)]
pub(super) struct Ring {
    memory: Arc<WriterRing>,
    slot: Arc<Slot>,
    bell: Bell,
    /// Where in the connection's stream it begins.
    begins: u64,
    /// Where the next frame goes, and how many messages lie before that.
    head: Mark,
    /// Up to here the reader has handled it, as far as was looked.
    tail: Mark,
    /// The first frame boundary in each piece. They are overwritten as the bytes are.
    marks: Vec<Mark>,
    /// How many of the handled messages have been counted.
    counted: u64,
    /// A producer stores a large message behind `head`, without a lock: nobody else stores meanwhile.
    is_reserved: bool,
}

impl Ring {
    /// Begins at this position of the connection's stream, up to which the reader has handled that. `None` without memory.
    pub(super) fn begin(memory: WriterRing, slot: Arc<Slot>, bell: Bell, begins: u64) -> Option<Box<Ring>> {
        let mut marks = Vec::new();
        let pieces = (memory.size() >> PIECE_BITS) as usize;
        marks.try_reserve_exact(pieces).ok()?;
        // A mark of a piece that is far away is none: see `mark_before`.
        marks.resize(pieces, Mark { position: u64::MAX, messages: 0 });
        memory.signals().switch(begins);
        let (head, tail) = (Mark::default(), Mark::default());
        let memory = Arc::new(memory);
        Some(Box::new(Ring { memory, slot, bell, begins, head, tail, marks, counted: 0, is_reserved: false }))
    }

    /// No longer frame goes through it.
    pub(super) fn size(&self) -> usize {
        self.memory.size() as usize
    }

    /// Stores a message and publishes it. `None`: there is no room.
    #[inline]
    pub(super) fn push(&mut self, message: &[u8]) -> Option<Published> {
        if !self.has_room(message.len() + MAX_PREFIX) {
            return None;
        }
        self.store(message);
        Some(self.publish())
    }

    /// As [`Ring::push`], without publishing.
    #[inline]
    pub(super) fn store(&mut self, message: &[u8]) {
        self.mark();
        let mut at = self.head.position;
        match message.len() {
            len @ 0..0x80 => at += self.store_bytes(at, &[len as u8]),
            len @ 0x80..0x4000 => at += self.store_bytes(at, &[len as u8 | 0x80, (len >> 7) as u8]),
            len => {
                let mut prefix = [0; MAX_PREFIX];
                let size = frame::encode_prefix(len, &mut prefix);
                at += self.store_bytes(at, &prefix[..size]);
            }
        }
        at += self.store_bytes(at, message);
        self.head = Mark { position: at, messages: self.head.messages + 1 };
        if message.len() <= FETCHED {
            self.memory.prepare(at + AHEAD, message.len());
        }
    }

    #[inline]
    fn store_bytes(&self, at: u64, bytes: &[u8]) -> u64 {
        self.memory.store(at, bytes);
        bytes.len() as u64
    }

    /// Notes the first frame that begins in a piece.
    #[inline]
    fn mark(&mut self) {
        let pieces = self.marks.len() as u64;
        let piece = self.head.position >> PIECE_BITS;
        let mark = &mut self.marks[(piece & (pieces - 1)) as usize];
        if mark.position >> PIECE_BITS != piece {
            *mark = self.head;
        }
    }

    pub(super) fn publish(&mut self) -> Published {
        match self.memory.signals().publish(self.head.position) {
            Notice::Nothing => Published::Quietly,
            Notice::RingBell => Published::Ring(self.bell.clone()),
            Notice::Closing => Published::WhileClosing,
        }
    }

    /// Whether `bytes` more can be stored.
    #[inline]
    pub(super) fn has_room(&mut self, bytes: usize) -> bool {
        self.fits(bytes) || self.fits_by_now(bytes)
    }

    #[inline]
    fn fits(&self, bytes: usize) -> bool {
        self.head.position - self.tail.position + bytes as u64 <= self.memory.size() && !self.is_reserved
    }

    /// As [`Ring::fits`], after a look at what the reader has handled.
    #[cold]
    fn fits_by_now(&mut self, bytes: usize) -> bool {
        if self.is_reserved {
            return false;
        }
        self.release();
        self.fits(bytes)
    }

    /// Stores the whole frames at the front of `frames` for which there is room. Returns how many bytes, and of how much payload,
    /// or how long the first one is for which there is none. Does not publish.
    pub(super) fn store_frames(&mut self, frames: &[u8]) -> (usize, Count, Option<usize>) {
        let (mut at, mut stored) = (0, Count::default());
        while let Prefix::Whole { len, size } = frame::decode_prefix(&frames[at..]) {
            let end = at + size + len as usize;
            if !self.has_room(end - at) {
                return (at, stored, Some(end - at));
            }
            self.mark();
            let position = self.head.position + self.store_bytes(self.head.position, &frames[at..end]);
            self.head = Mark { position, messages: self.head.messages + 1 };
            stored.add(len as usize);
            at = end;
        }
        (at, stored, None)
    }

    // ---- a large message ----

    /// Sets room aside for a message, which the caller then stores without a lock: [`Reservation::fill`]. `None`: there is no room.
    pub(super) fn reserve(&mut self, len: usize) -> Option<Reservation> {
        if !self.has_room(len + MAX_PREFIX) {
            return None;
        }
        self.is_reserved = true;
        Some(Reservation { memory: Arc::clone(&self.memory), position: self.head.position })
    }

    /// Whether this is the ring of the reservation. Ends that.
    pub(super) fn end_reservation(&mut self, reservation: &Reservation) -> bool {
        let is_ours = Arc::ptr_eq(&self.memory, &reservation.memory);
        if is_ours {
            self.is_reserved = false;
        }
        is_ours
    }

    /// What has been filled, `bytes` with the prefix, is a message.
    pub(super) fn commit(&mut self, bytes: usize) -> Published {
        self.mark();
        self.head = Mark { position: self.head.position + bytes as u64, messages: self.head.messages + 1 };
        self.publish()
    }

    pub(super) fn is_reserved(&self) -> bool {
        self.is_reserved
    }

    // ---- what the reader says ----

    pub(super) fn is_closing(&self) -> bool {
        self.memory.signals().is_closing()
    }

    /// The session is going to sleep until there is room: [`Ring::has_room`] once more behind this.
    pub(super) fn announce_waiting(&self) {
        self.memory.signals().wait();
    }

    /// Messages that the reader has not handled, as far as [`Ring::release`] has looked.
    pub(super) fn unhandled(&self) -> u64 {
        self.head.messages - self.tail.messages
    }

    pub(super) fn unhandled_bytes(&self) -> u64 {
        self.head.position - self.tail.position
    }

    /// How many messages have been stored.
    pub(super) fn messages(&self) -> u64 {
        self.head.messages
    }

    /// Lets go what the reader has handled by now.
    pub(super) fn release(&mut self) {
        let position = self.slot.read().position;
        // Behind the end of the connection its reader may give the slot to another one, whose positions are not ours.
        if self.is_closing() {
            return;
        }
        let handled = position.saturating_sub(self.begins);
        let handled = handled.clamp(self.tail.position, self.head.position);
        if handled > self.tail.position {
            let messages = self.tail.messages;
            self.tail = self.boundary_before(handled);
            // A reader that changes what it has not handled must not turn the count back.
            self.tail.messages = self.tail.messages.max(messages);
        }
    }

    /// How many messages have been handled since the last call, as far as [`Ring::release`] has looked.
    pub(super) fn take_handled(&mut self) -> u64 {
        let handled = self.tail.messages - self.counted;
        self.counted = self.tail.messages;
        handled
    }

    /// The last frame boundary up to `position`, which is not before `tail`.
    ///
    /// The reader has the memory, and may have changed what it has not handled: frames are counted up to the next mark at most.
    fn boundary_before(&self, position: u64) -> Mark {
        if position == self.head.position {
            return self.head;
        }
        let mut at = self.mark_before(position);
        while let Some(next) = self.next_frame(at.position).filter(|next| *next <= position)
            && at.messages < self.head.messages
        {
            at = Mark { position: next, messages: at.messages + 1 };
        }
        at
    }

    /// The last mark up to `position`, or `tail`.
    fn mark_before(&self, position: u64) -> Mark {
        let pieces = self.marks.len() as u64;
        let first = self.tail.position >> PIECE_BITS;
        let mut piece = position >> PIECE_BITS;
        while piece > first {
            let mark = self.marks[(piece & (pieces - 1)) as usize];
            if mark.position >> PIECE_BITS == piece && mark.position <= position {
                return mark;
            }
            piece -= 1;
        }
        self.tail
    }

    /// Where the frame ends that begins at `position`, if that is before the head.
    fn next_frame(&self, position: u64) -> Option<u64> {
        let mut prefix = [0; MAX_PREFIX];
        self.memory.copy(position, &mut prefix);
        match frame::decode_prefix(&prefix) {
            Prefix::Whole { len, size } => position.checked_add(size as u64)?.checked_add(len),
            Prefix::Cut | Prefix::Overflow => None,
        }
        .filter(|end| *end <= self.head.position)
    }

    // ---- the end ----

    /// Positions of the connection's stream: of the first frame that is not handled, and of the end of the last one.
    pub(super) fn rest_span(&self) -> (u64, u64) {
        (self.begins + self.tail.position, self.begins + self.head.position)
    }

    /// What has not been handled, in a batch in which everything counts as sent. `Ok(None)`: nothing. Without memory for it, or
    /// where the reader has changed it, nobody can send it again: so many messages are lost.
    pub(super) fn into_rest(self) -> Result<Option<Batch>, u64> {
        let lost = self.unhandled();
        if lost == 0 {
            return Ok(None);
        }
        let bytes = self.unhandled_bytes() as usize;
        let mut batch = batch_pool::take_large(bytes).map_err(|_| lost)?;
        self.memory.load(self.tail.position, self.head.position, &mut batch.bytes);
        let mut count = Count::default();
        let mut at = 0;
        while let Some(frame) = frame_at(&batch.bytes, at) {
            (at, count) = (frame.0, Count { messages: count.messages + 1, bytes: count.bytes + frame.1 });
        }
        if at != bytes || count.messages != lost {
            batch.recycle();
            return Err(lost);
        }
        (batch.messages, batch.payload, batch.counted) = (count.messages, count.bytes, count);
        Ok(Some(batch))
    }

    // ---- rest ----

    /// Gives the memory of an empty ring back. False: it is not empty, or the system does not take it, or could not give it again.
    pub(super) fn discard(&mut self) -> bool {
        self.unhandled_bytes() == 0 && !self.is_reserved && self.restore() && self.memory.discard()
    }

    /// Wakes the reader once more, in case that a bell could not be rung.
    pub(super) fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Takes memory for it again. False: there is none.
    pub(super) fn restore(&self) -> bool {
        self.memory.restore().is_ok()
    }
}

/// Where a frame ends, and how long its payload is.
fn frame_at(bytes: &[u8], at: usize) -> Option<(usize, u64)> {
    match frame::decode(&bytes[at..], u64::MAX) {
        frame::Frame::Whole { start, end } => Some((at + end, (end - start) as u64)),
        _ => None,
    }
}

/// Room for one large message.
#[derive(Debug)]
pub(super) struct Reservation {
    memory: Arc<WriterRing>,
    position: u64,
}

impl Reservation {
    /// Stores a message there, and returns how many bytes it takes with its prefix. Nobody else stores there, and nobody reads it
    /// before [`Ring::commit`].
    pub(super) fn fill(&self, message: &[u8]) -> usize {
        let mut prefix = [0; MAX_PREFIX];
        let size = frame::encode_prefix(message.len(), &mut prefix);
        self.memory.store(self.position, &prefix[..size]);
        self.memory.store(self.position + size as u64, message);
        size + message.len()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
