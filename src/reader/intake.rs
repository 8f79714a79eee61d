//! The bytes between the socket and the callback: read, decoded in place, and a cut frame kept for its rest.
//!
//! # What the kernel keeps
//!
//! As long as messages are not handled, a byte stays unread in the kernel: a few messages, or the last byte of many, are
//! only looked at, and taken when the callback has returned. So when the reader's process is killed, or a stop is cut short, the kernel
//! tells the writer that something was lost (ECONNRESET), and an empty kernel buffer tells it that everything was handled
//! (SIOCOUTQ). Reading everything at once would be two system calls cheaper, and up to a quarter of a megabyte of messages
//! could vanish without anybody's knowing.

use std::io;
use std::os::fd::BorrowedFd;

use crate::error::{Context, Error};
use crate::frame::READ_BUFFER;
use crate::patience::Patience;
use crate::sys::socket;

use super::Connection;
use super::hands::{Hands, Rules, Turn};
use super::lane::{Lane, Tally};

/// Frames above this get memory of their own, which grows with what arrives; others are decoded in the lane's buffer.
const LARGEST_IN_PLACE: usize = READ_BUFFER;
/// A cut frame up to this size moves to the front at once: the front of the buffer is warm.
const CHEAP_MOVE: usize = 2 << 10;
/// So much of a cut frame is not carried into the lane's buffer and back in each turn: a peer that sends a large frame
/// byte by byte would make us copy all of it for each byte.
const APART_FROM: usize = 4 << 10;
/// The first piece of memory of a frame's own; each further one doubles it, up to the announced length. So it is never
/// more than a waiting connection may hold, and a slow peer does not make us copy.
const FIRST_PIECE: usize = 2 * APART_FROM;
/// Memory up to this size is kept for the next large frame.
const LARGEST_KEPT: usize = 4 << 20;
/// With less room than this behind a cut frame, the frame moves to the front of the buffer.
const LEAST_ROOM: usize = 64 << 10;
/// What is less than this is looked at, handled, and then taken: one system call before the callback instead of four.
const LITTLE: usize = 2 << 10;

/// What has arrived of a frame that is not all there.
#[derive(Debug, Default)]
pub(super) struct CutFrame {
    bytes: Vec<u8>,
    /// How long that frame is with its prefix; 0 while that is unknown.
    need: usize,
    /// It grows where it lies, in memory of its own: it is too large for the lane's buffer, or came in too many pieces to
    /// be carried there and back with each.
    apart: bool,
}

/// What a look at the socket brought.
pub(super) enum Read {
    Bytes(usize),
    Nothing,
    End,
}

/// The bytes between the socket and the callback.
#[derive(Debug)]
pub(super) struct Intake<'a> {
    cut: &'a mut CutFrame,
    buffer: &'a mut [u8],
    pub(super) large: &'a mut Vec<u8>,
    /// A large frame was read in this turn.
    pub(super) used_large: bool,
    /// The memory that the cut frame came in, for the next one that is cut.
    spare: &'a mut Vec<u8>,
    tally: &'a Tally,
    pub(super) patience: &'a mut Patience,
    /// The last turn began with much to read.
    much: &'a mut bool,
    /// The undecoded part of the buffer.
    start: usize,
    fill: usize,
    /// So much has been looked at and lies in the kernel still.
    seen: usize,
}

impl<'a> Intake<'a> {
    /// Goes on where the last turn stopped.
    pub(super) fn resume(cut: &'a mut CutFrame, lane: &'a mut Lane) -> Intake<'a> {
        let mut fill = 0;
        if !cut.apart {
            fill = cut.bytes.len();
            lane.buffer[..fill].copy_from_slice(&cut.bytes);
            if fill > 0 {
                cut.bytes.clear();
                lane.spare = std::mem::take(&mut cut.bytes);
            }
        }
        let Lane { buffer, large, spare, tally, patience, much, .. } = lane;
        Intake { cut, buffer, large, used_large: false, spare, tally, patience, much, start: 0, fill, seen: 0 }
    }

    /// Leaves a cut frame with the connection. An idle one holds no memory.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        if self.in_place() {
            let rest = &self.buffer[self.start..self.fill];
            if !rest.is_empty() {
                self.cut.bytes = std::mem::take(self.spare);
                // Rounded up, so that the memory that goes from one cut frame to the next soon fits all of them.
                let room = rest.len().min(APART_FROM).next_power_of_two();
                self.cut.bytes.try_reserve_exact(room).map_err(out_of_memory)?;
            }
            keep(&mut self.cut.bytes, rest)?;
            self.cut.apart = self.cut.need > 0 && rest.len() >= APART_FROM;
        } else if self.cut.bytes.capacity() > 2 * self.cut.bytes.len().max(APART_FROM) {
            // The lane's memory is lent for a turn: a connection that waits holds no more than what has arrived.
            let mut own = Vec::new();
            keep(&mut own, &self.cut.bytes)?;
            *self.large = std::mem::replace(&mut self.cut.bytes, own);
            self.large.clear();
        }
        Ok(())
    }

    fn in_place(&self) -> bool {
        !self.cut.apart
    }

    /// How much of a frame has arrived, and how long its payload is, if that is known (else 0).
    pub(super) fn arrived(&self) -> (usize, usize) {
        let held = if self.in_place() { self.fill - self.start } else { self.cut.bytes.len() };
        (held, self.cut.need)
    }

    /// What was being read.
    pub(super) fn context(&self) -> Context {
        if self.cut.need > 0 { Context::Payload } else { Context::Prefix }
    }

    /// Looks at what is there, if it is little; else reads all of it but the last byte, at which it only looks. `first`: a
    /// turn begins, with as much as the last one, probably; behind what it has read there is little more.
    pub(super) fn read(&mut self, fd: BorrowedFd<'_>, first: bool) -> io::Result<Read> {
        let (held, need) = self.arrived();
        if self.in_place() {
            self.make_room();
        } else {
            grow(&mut self.cut.bytes, need)?;
        }
        if self.in_place()
            && !(first && *self.much)
            && let Some(read) = self.look_at(fd, LITTLE)?
        {
            return Ok(read);
        }
        let readable = socket::bytes_readable(fd)?;
        if first {
            *self.much = readable >= LITTLE;
        }
        let result = match (readable, self.in_place()) {
            (0, _) if !first => return Ok(Read::Nothing),
            (0 | 1, _) => return Ok(self.look_at(fd, 2)?.unwrap_or(Read::Nothing)),
            (_, true) => {
                let end = self.buffer.len().min(self.fill + readable - 1);
                socket::recv(fd, &mut self.buffer[self.fill..end]).inspect(|got| self.fill += got)
            }
            (_, false) => socket::recv_append(fd, &mut self.cut.bytes, (need - held).min(readable - 1)),
        };
        match result {
            Ok(0) => Ok(Read::End),
            Ok(got) => Ok(Read::Bytes(got)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Read::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Looks at what is there, which stays in the kernel until [`Intake::take_seen`]. `None`: it is `most` bytes or more.
    fn look_at(&mut self, fd: BorrowedFd<'_>, most: usize) -> io::Result<Option<Read>> {
        let mut large = [0; 2]; // a frame of its own memory is looked at byte by byte at its end
        let (at, room) = if self.in_place() { (self.fill, &mut self.buffer[self.fill..]) } else { (0, &mut large[..]) };
        let most = most.min(room.len());
        let seen = match socket::peek(fd, &mut room[..most]) {
            Ok(0) => return Ok(Some(Read::End)),
            Ok(seen) if seen == most && most > 1 => return Ok(None),
            Ok(seen) => {
                self.seen = seen;
                seen
            }
            // An out-of-band byte (MSG_OOB, unix(7)) is readable, but no look shows it: a read passes over it for good.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => match socket::recv(fd, &mut room[..1]) {
                Ok(0) => return Ok(Some(Read::End)),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Some(Read::Nothing)),
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        };
        if self.in_place() {
            self.fill = at + seen;
        } else {
            self.cut.bytes.extend_from_slice(&large[..seen]); // within the capacity that `grow` has made
        }
        Ok(Some(Read::Bytes(seen)))
    }

    /// What was looked at has been handled: takes it. True if that was all that was there.
    pub(super) fn take_seen(&mut self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        let mut seen = std::mem::take(&mut self.seen);
        if seen == 0 {
            return Ok(false);
        }
        // Anywhere but over what is not decoded yet; where there is too little room, in pieces.
        let mut little = [0; 16];
        let behind = &mut self.buffer[self.fill..];
        let scratch = if behind.len() < little.len() { &mut little[..] } else { behind };
        while seen > 0 {
            let piece = seen.min(scratch.len());
            seen -= socket::recv(fd, &mut scratch[..piece])?.clamp(1, piece);
        }
        Ok(true)
    }

    /// A frame that is decoded in place fits the buffer, so with the cut one in front there is room for its rest.
    fn make_room(&mut self) {
        if self.start == self.fill {
            (self.start, self.fill) = (0, 0);
        } else if self.start > 0 && (self.fill - self.start <= CHEAP_MOVE || self.buffer.len() - self.fill < LEAST_ROOM)
        {
            self.buffer.copy_within(self.start..self.fill, 0);
            (self.start, self.fill) = (0, self.fill - self.start);
        }
    }

    /// Hands out what is whole.
    pub(super) fn deliver(&mut self, connection: Connection<'_>, rules: Rules<'_>) -> std::result::Result<(), Turn> {
        let hands = Hands { connection, rules, tally: self.tally };
        if !self.in_place() {
            self.used_large = true;
            if self.cut.bytes.len() == self.cut.need {
                let mut frame = std::mem::take(&mut self.cut.bytes);
                (self.cut.need, self.cut.apart) = (0, false);
                hands.hand_out(&frame)?;
                if frame.capacity() <= LARGEST_KEPT {
                    frame.clear();
                    *self.large = frame;
                }
            }
            return Ok(());
        }
        let (used, need) = hands.hand_out(&self.buffer[self.start..self.fill])?;
        self.start += used;
        self.cut.need = need;
        if need > LARGEST_IN_PLACE {
            (self.cut.apart, self.used_large) = (true, true);
            self.cut.bytes = std::mem::take(self.large);
            let arrived = &self.buffer[self.start..self.fill];
            let failed = |error| Turn::Failed(Error::from_os("memory for a large frame", error), Context::Payload);
            keep(&mut self.cut.bytes, arrived).map_err(failed)?;
            self.start = self.fill;
        }
        Ok(())
    }
}

/// Copies to the end of `to`, unless there is no memory.
fn keep(to: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    to.try_reserve_exact(bytes.len()).map_err(out_of_memory)?;
    to.extend_from_slice(bytes);
    Ok(())
}

fn out_of_memory<E>(_: E) -> io::Error {
    io::ErrorKind::OutOfMemory.into()
}

/// Makes room for more of a frame of `need` bytes: by what arrives, never by what was announced.
fn grow(frame: &mut Vec<u8>, need: usize) -> io::Result<()> {
    if frame.len() == frame.capacity() {
        let target = need.min((frame.len() * 2).max(FIRST_PIECE));
        frame.try_reserve_exact(target - frame.len()).map_err(out_of_memory)?;
    }
    Ok(())
}
