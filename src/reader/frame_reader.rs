//! Bytes to frames: read, decoded where they lie, and a cut frame kept for its rest.
//!
//! Two readers with one interface: [`InPlace`] decodes in the buffer that a turn was lent, [`OwnMemory`] collects one
//! frame that is too large for that buffer, or comes in too many pieces to be carried there and back with each.
//! [`TurnInput`] is what a turn sees: it goes from one to the other, and leaves with the connection ([`Leftover`]) what is not
//! handled when the turn ends.
//!
//! # What the kernel keeps
//!
//! As long as messages are not handled, a byte stays unread in the kernel:
//!
//! 1. A few messages are only peeked at, and taken ([`Peeked`]) when the callback has returned.
//! 2. Of much, all but the last byte is received; that is peeked at afterwards, as one of a few.
//! 3. When a turn ends before all is handled, what was peeked at stays in the kernel; what was received is kept by the
//!    connection, and the last byte is still in the kernel because of 2. So the connection stays readable, and gets
//!    another turn.
//!
//! When the reader's process is killed, or a stop is cut short, the kernel therefore tells the writer that something
//! was lost (ECONNRESET), and an empty kernel buffer tells it that everything was handled (SIOCOUTQ). Receiving
//! everything at once would be two system calls cheaper, and up to a quarter of a megabyte of messages could vanish
//! unnoticed.

use std::io;

use crate::error::Context;
use crate::frame::{self, Prefix, READ_BUFFER};

use super::read_buffers::TurnMemory;
use super::source::{Peeked, Received, Source, peek, received};

/// Frames above this get memory of their own, which grows with what arrives; others are decoded in place.
const LARGEST_IN_PLACE: usize = READ_BUFFER;
/// A cut frame up to this size moves to the front at once: the front of the buffer is warm.
const CHEAP_MOVE: usize = 2 << 10;
/// A cut frame of this size gets memory of its own. Carried into the buffer and back in each turn, a large frame that a
/// peer sends byte by byte would be copied for each byte.
const OWN_FROM: usize = 4 << 10;
/// The first piece of a frame's own memory; each further one doubles it, up to the announced length.
const FIRST_PIECE: usize = 2 * OWN_FROM;
/// Memory up to this size is kept for the next large frame.
const LARGEST_KEPT: usize = 4 << 20;
/// With less room than this behind a cut frame, the frame moves to the front of the buffer.
const LEAST_ROOM: usize = 64 << 10;
/// Less than this is a few messages: peeked at, handled, and then taken. One system call before the callback instead of
/// four.
const FEW: usize = 2 << 10;

/// A reader of frames.
trait FrameReader {
    /// Reads more. `first`: a turn begins, with as much as the last one (`burst`), probably; behind what it has read
    /// there is little more.
    fn read(&mut self, source: &impl Source, first: bool, burst: &mut bool) -> io::Result<Received>;

    /// What is to be decoded.
    fn bytes(&self) -> &[u8];

    /// The frames in the first `used` bytes have been handled; the one behind them is `need` bytes long, 0 if that is
    /// unknown.
    fn consume(&mut self, used: usize, need: usize);
}

/// Decodes in a turn's buffer.
#[derive(Debug)]
struct InPlace<'a> {
    buffer: &'a mut [u8],
    /// The part of the buffer that is not handled yet.
    start: usize,
    fill: usize,
    need: usize,
}

impl InPlace<'_> {
    /// Goes on with the beginning of a frame.
    fn restart(&mut self, cut: &[u8], need: usize) {
        self.buffer[..cut.len()].copy_from_slice(cut);
        (self.start, self.fill, self.need) = (0, cut.len(), need);
    }

    /// A frame that is decoded in place fits the buffer, so with the cut one in front there is room for its rest.
    fn make_room(&mut self) {
        let held = self.fill - self.start;
        if held == 0 {
            (self.start, self.fill) = (0, 0);
        } else if self.start > 0 && (held <= CHEAP_MOVE || self.buffer.len() - self.fill < LEAST_ROOM) {
            self.buffer.copy_within(self.start..self.fill, 0);
            (self.start, self.fill) = (0, held);
        }
    }

    fn peek(&mut self, source: &impl Source, most: usize) -> io::Result<Option<Received>> {
        let end = self.buffer.len().min(self.fill + most);
        let received = peek(source, &mut self.buffer[self.fill..end])?;
        if let Some(Received::Bytes { count, .. }) = received {
            self.fill += count;
        }
        Ok(received)
    }
}

impl FrameReader for InPlace<'_> {
    fn read(&mut self, source: &impl Source, first: bool, burst: &mut bool) -> io::Result<Received> {
        self.make_room();
        if !(first && *burst)
            && let Some(received) = self.peek(source, FEW)?
        {
            return Ok(received);
        }
        let readable = source.readable()?;
        if first {
            *burst = readable >= FEW;
        }
        match readable {
            0 if !first => Ok(Received::Nothing),
            0 | 1 => Ok(self.peek(source, 2)?.unwrap_or(Received::Nothing)),
            _ => {
                let end = self.buffer.len().min(self.fill + readable - 1);
                let got = source.receive(&mut self.buffer[self.fill..end]);
                received(got.inspect(|got| self.fill += got))
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.fill]
    }

    fn consume(&mut self, used: usize, need: usize) {
        self.start += used;
        self.need = need;
    }
}

/// Collects one frame, which grows where it lies.
#[derive(Debug, Default)]
pub(super) struct OwnMemory {
    bytes: Vec<u8>,
    need: usize,
}

impl OwnMemory {
    /// Makes room for more: by what arrives, never by what was announced.
    fn grow(&mut self) -> io::Result<()> {
        let bytes = &mut self.bytes;
        if bytes.len() == bytes.capacity() {
            let target = self.need.min((bytes.len() * 2).max(FIRST_PIECE));
            bytes.try_reserve_exact(target - bytes.len()).map_err(out_of_memory)?;
        }
        Ok(())
    }
}

impl FrameReader for OwnMemory {
    fn read(&mut self, source: &impl Source, first: bool, burst: &mut bool) -> io::Result<Received> {
        self.grow()?;
        let readable = source.readable()?;
        if first {
            *burst = readable >= FEW;
        }
        match readable {
            0 if !first => Ok(Received::Nothing),
            0 | 1 => {
                let mut two = [0; 2];
                let received = peek(source, &mut two)?.unwrap_or(Received::Nothing);
                if let Received::Bytes { count, .. } = received {
                    self.bytes.extend_from_slice(&two[..count]); // one byte, for which there is room
                }
                Ok(received)
            }
            _ => {
                let limit = (self.need - self.bytes.len()).min(readable - 1);
                received(source.receive_append(&mut self.bytes, limit))
            }
        }
    }

    /// Nothing before the frame is whole.
    fn bytes(&self) -> &[u8] {
        if self.bytes.len() == self.need { &self.bytes } else { &[] }
    }

    fn consume(&mut self, used: usize, _: usize) {
        if used > 0 {
            self.bytes.clear();
            self.need = 0;
        }
    }
}

/// The bytes that a connection keeps between two turns.
#[derive(Debug)]
pub(super) enum Leftover {
    /// The beginning of a frame, or nothing. `need` is how long the frame is, 0 while that is unknown.
    Cut { bytes: Vec<u8>, need: usize },
    /// Frames from `start` on that the last turn had no time for, and perhaps the beginning of one. Handled where they
    /// lie.
    Unhandled { bytes: Vec<u8>, start: usize },
    /// A frame with memory of its own.
    Own(OwnMemory),
}

impl Default for Leftover {
    fn default() -> Leftover {
        Leftover::Cut { bytes: Vec::new(), need: 0 }
    }
}

/// Where a stream ended within a frame, with the number of bytes of its prefix or payload that had arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CutFrame {
    Prefix { got: u64 },
    Payload { got: u64, expected: u64 },
}

/// The bytes of one connection during one turn.
#[derive(Debug)]
pub(super) struct TurnInput<'a> {
    held: &'a mut Leftover,
    in_place: InPlace<'a>,
    burst: &'a mut bool,
    /// Memory for a large frame, lent for the turn, and whether one was read.
    large: &'a mut Vec<u8>,
    used_large: bool,
    spare: &'a mut Vec<u8>,
}

impl<'a> TurnInput<'a> {
    /// Goes on where the last turn stopped.
    pub(super) fn resume(held: &'a mut Leftover, lent: &'a mut TurnMemory) -> TurnInput<'a> {
        let TurnMemory { buffer, burst, large, spare } = lent;
        let mut in_place = InPlace { buffer, start: 0, fill: 0, need: 0 };
        if let Leftover::Cut { bytes, need } = held {
            in_place.restart(bytes, *need);
            if !bytes.is_empty() {
                bytes.clear();
                *spare = std::mem::take(bytes);
            }
        }
        TurnInput { held, in_place, burst, large, used_large: false, spare }
    }

    /// Whether there is nothing but the last `count` bytes that were read.
    pub(super) fn holds_only(&self, count: usize) -> bool {
        matches!(self.held, Leftover::Cut { .. }) && self.in_place.bytes().len() == count
    }

    /// The buffer of the turn, while nothing is in it.
    pub(super) fn scratch(&mut self) -> &mut [u8] {
        self.in_place.buffer
    }

    /// Copies bytes into the memory of the turn, while nothing is in it.
    pub(super) fn copy(&mut self, bytes: &[u8]) -> io::Result<&[u8]> {
        if let Some(room) = self.in_place.buffer.get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
            return Ok(room);
        }
        self.used_large = true;
        self.large.clear();
        append(self.large, bytes)?;
        Ok(self.large)
    }

    /// Whether the last turn left frames that are to be handled before anything is read.
    pub(super) fn has_unhandled(&self) -> bool {
        matches!(self.held, Leftover::Unhandled { .. })
    }

    /// Reads more, when all whole frames have been handled.
    pub(super) fn read(&mut self, source: &impl Source, first: bool) -> io::Result<Received> {
        match self.held {
            Leftover::Own(own) => own.read(source, first, self.burst),
            Leftover::Cut { .. } | Leftover::Unhandled { .. } => self.in_place.read(source, first, self.burst),
        }
    }

    /// What is to be decoded.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.held {
            Leftover::Own(own) => own.bytes(),
            Leftover::Unhandled { bytes, start } => &bytes[*start..],
            Leftover::Cut { .. } => self.in_place.bytes(),
        }
    }

    /// The first `used` of [`TurnInput::bytes`] have been handled, and perhaps not all whole frames.
    pub(super) fn consume(&mut self, used: usize) {
        match self.held {
            Leftover::Own(own) => {
                self.used_large = true;
                own.consume(used, 0);
                if used > 0 {
                    self.give_back_own();
                }
            }
            Leftover::Unhandled { start, .. } => *start += used,
            Leftover::Cut { .. } => self.in_place.consume(used, 0),
        }
    }

    /// As [`TurnInput::consume`], and behind them is no whole frame, but perhaps the beginning of one of `need` bytes.
    pub(super) fn consume_whole(&mut self, used: usize, need: usize) -> io::Result<()> {
        self.consume(used);
        match self.held {
            Leftover::Own(_) => return Ok(()), // in the middle of a frame
            Leftover::Unhandled { bytes, start } => {
                let rest = std::mem::take(bytes);
                let rest = &rest[*start..];
                *self.held = Leftover::default();
                // Too long for the buffer it is only as a part of a frame that is too long for it.
                if need > LARGEST_IN_PLACE {
                    *self.held = begin_own(self.large, rest, need)?;
                } else {
                    self.in_place.restart(rest, need);
                }
            }
            Leftover::Cut { .. } if need > LARGEST_IN_PLACE => {
                *self.held = begin_own(self.large, self.in_place.bytes(), need)?;
                self.in_place.restart(&[], 0);
            }
            Leftover::Cut { .. } => self.in_place.need = need,
        }
        self.used_large |= need > LARGEST_IN_PLACE;
        Ok(())
    }

    /// The frame with memory of its own is handled.
    fn give_back_own(&mut self) {
        if let Leftover::Own(OwnMemory { bytes, .. }) = std::mem::take(self.held)
            && bytes.capacity() <= LARGEST_KEPT
        {
            *self.large = bytes;
        }
    }

    /// Takes what was peeked at and has been handled.
    pub(super) fn take(&mut self, peeked: Peeked, source: &impl Source) -> io::Result<()> {
        peeked.take(0, source, &mut self.in_place.buffer[self.in_place.fill..])
    }

    /// As [`TurnInput::take`] when not all frames have been handled: what is peeked at and not handled stays in the
    /// kernel.
    pub(super) fn take_handled(&mut self, peeked: Peeked, source: &impl Source) -> io::Result<()> {
        let left = self.in_place.bytes().len().min(peeked.0);
        self.in_place.fill -= left;
        peeked.take(left, source, &mut self.in_place.buffer[self.in_place.fill..])
    }

    /// Ends the turn; the connection goes on, with what is not handled. `interrupted`: there may be whole frames in it.
    /// An idle one holds no memory.
    pub(super) fn suspend(mut self, interrupted: bool) -> io::Result<()> {
        match self.held {
            Leftover::Own(own) => {
                // The memory is lent for a turn: a connection that waits holds no more than what has arrived.
                if own.bytes.capacity() > 2 * own.bytes.len().max(OWN_FROM) {
                    let mut fitting = Vec::new();
                    append(&mut fitting, &own.bytes)?;
                    *self.large = std::mem::replace(&mut own.bytes, fitting);
                    self.large.clear();
                }
            }
            Leftover::Unhandled { .. } => {}
            Leftover::Cut { .. } => *self.held = self.keep(interrupted)?,
        }
        self.end();
        Ok(())
    }

    /// Copies what is left in the buffer to memory of the connection.
    fn keep(&mut self, interrupted: bool) -> io::Result<Leftover> {
        let (rest, need) = (self.in_place.bytes(), self.in_place.need);
        let mut bytes = Vec::new();
        if interrupted && !rest.is_empty() {
            append(&mut bytes, rest)?;
            return Ok(Leftover::Unhandled { bytes, start: 0 });
        }
        if !rest.is_empty() {
            bytes = std::mem::take(self.spare);
            // Rounded up, so that the memory that goes from one cut frame to the next soon fits all of them.
            let room = rest.len().min(OWN_FROM).next_power_of_two();
            bytes.try_reserve_exact(room).map_err(out_of_memory)?;
        }
        append(&mut bytes, rest)?;
        let own = need > 0 && rest.len() >= OWN_FROM;
        Ok(if own { Leftover::Own(OwnMemory { bytes, need }) } else { Leftover::Cut { bytes, need } })
    }

    /// Ends the turn, and with it the connection perhaps.
    pub(super) fn end(self) {
        if !self.used_large {
            *self.large = Vec::new(); // none came lately: give the memory back
        }
    }

    /// What has arrived of the frame that is not whole, if any has.
    pub(super) fn cut_frame(&self) -> Option<CutFrame> {
        let arrived = match &self.held {
            Leftover::Own(own) => &own.bytes,
            Leftover::Cut { .. } | Leftover::Unhandled { .. } => self.in_place.bytes(),
        };
        match frame::decode_prefix(arrived) {
            Prefix::Whole { len, size } => {
                Some(CutFrame::Payload { got: (arrived.len() - size) as u64, expected: len })
            }
            Prefix::Cut | Prefix::Overflow => {
                (!arrived.is_empty()).then_some(CutFrame::Prefix { got: arrived.len() as u64 })
            }
        }
    }

    /// What was being read.
    pub(super) fn context(&self) -> Context {
        if let Some(CutFrame::Payload { .. }) = self.cut_frame() { Context::Payload } else { Context::Prefix }
    }
}

/// Moves what has arrived of a large frame to memory of its own.
fn begin_own(large: &mut Vec<u8>, arrived: &[u8], need: usize) -> io::Result<Leftover> {
    let mut bytes = std::mem::take(large);
    append(&mut bytes, arrived)?;
    Ok(Leftover::Own(OwnMemory { bytes, need }))
}

/// Copies to the end of `to`, unless there is no memory.
fn append(to: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    to.try_reserve_exact(bytes.len()).map_err(out_of_memory)?;
    to.extend_from_slice(bytes);
    Ok(())
}

fn out_of_memory<E>(_: E) -> io::Error {
    io::ErrorKind::OutOfMemory.into()
}
