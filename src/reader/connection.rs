//! One connection: read, decode in place, hand out, end without loss.
//!
//! # What the kernel keeps
//!
//! As long as messages are not handled, a byte stays unread in the kernel: a few messages, or the last byte of many, are
//! only looked at, and taken when the callback has returned. So when the reader's process is killed, or a stop is cut short, the kernel
//! tells the writer that something was lost (ECONNRESET), and an empty kernel buffer tells it that everything was handled
//! (SIOCOUTQ). Reading everything at once would be two system calls cheaper, and up to a quarter of a megabyte of messages
//! could vanish without anybody's knowing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Context, Error};
use crate::frame::{self, Frame, READ_BUFFER};
use crate::patience::Patience;
use crate::sys::socket;

use super::lane::{Lane, Tally};
use super::{Connection, Handler};

/// Frames above this get memory of their own, which grows with what arrives; others are decoded in the lane's buffer.
const LARGEST_IN_PLACE: usize = READ_BUFFER;
/// The first piece of such memory; each further one doubles it, up to the announced length.
const FIRST_PIECE: usize = 64 << 10;
/// A cut frame up to this size moves to the front at once: the front of the buffer is warm.
const CHEAP_MOVE: usize = 2 << 10;
/// So much of a cut frame is not carried into the lane's buffer and back in each turn: a peer that sends a large frame
/// byte by byte would make us copy all of it for each byte.
const APART_FROM: usize = 4 << 10;
/// Memory up to this size is kept for the next large frame.
const LARGEST_KEPT: usize = 4 << 20;
/// With less room than this behind a cut frame, the frame moves to the front of the buffer.
const LEAST_ROOM: usize = 64 << 10;
/// A busy connection gives its thread free after this much or this long, so that others are served.
const TURN_BYTES: usize = 1 << 20;
const TURN_TIME: Duration = Duration::from_millis(5);
/// What is less than this is looked at, handled, and then taken: one system call before the callback instead of four.
const LITTLE: usize = 2 << 10;
/// A turn that read this much is worth another look or a few.
const BUSY: usize = 16 << 10;
/// How many messages one batch callback gets at most.
pub(crate) const BATCH: usize = 256;

/// Why the reader itself ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Ended {
    No = 0,
    Idle = 1,
    Stop = 2,
}

/// One accepted connection.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) id: u64,
    pub(crate) fd: OwnedFd,
    state: Mutex<State>,
    ended: AtomicU8,
    /// A thread serves it.
    busy: AtomicBool,
    /// When it was last served, in nanoseconds since the reader was made.
    active_at: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// What has arrived of a frame that is not all there.
    cut: Vec<u8>,
    /// How long that frame is with its prefix; 0 while that is unknown.
    need: usize,
    /// It grows where it lies, in memory of its own: it is too large for the lane's buffer, or came in too many pieces to
    /// be carried there and back with each.
    apart: bool,
    closed: bool,
}

/// How a turn ended.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Wait for more.
    More,
    /// The end, as it should be.
    End,
    /// The end because of what came, or did not come.
    Failed(Error, Context),
    /// The end because the stop was cut short. True: something was left unread.
    Cut(bool),
}

/// What the turns of all connections share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub(crate) handler: &'a Handler,
    pub(crate) max_message_size: u64,
    /// Told of each failed callback.
    pub(crate) failed: &'a dyn HandlerFailures,
    /// The stop is being cut short: no further callback.
    pub(crate) forced: &'a AtomicBool,
}

/// Who counts and reports failed callbacks.
pub(crate) trait HandlerFailures: std::fmt::Debug + Sync {
    /// One message was not handled well.
    fn handler_failed(&self);
}

impl Slot {
    pub(crate) fn new(id: u64, fd: OwnedFd, now: u64) -> Slot {
        Slot {
            id,
            fd,
            state: Mutex::default(),
            ended: AtomicU8::new(Ended::No as u8),
            busy: AtomicBool::new(false),
            active_at: AtomicU64::new(now),
        }
    }

    /// Ends the connection from this side: what is queued stays readable, and the writer's next send is EPIPE, so that it
    /// sends that frame again on its next connection (`unix_stream_sendmsg`). The end of the stream then comes as an event.
    pub(crate) fn end(&self, why: Ended) {
        let first = self.ended.compare_exchange(Ended::No as u8, why as u8, Ordering::SeqCst, Ordering::SeqCst);
        if first.is_ok() || why == Ended::Stop {
            let _ = socket::shutdown_read(self.fd.as_fd());
        }
    }

    pub(crate) fn ended(&self) -> Ended {
        match self.ended.load(Ordering::SeqCst) {
            0 => Ended::No,
            1 => Ended::Idle,
            _ => Ended::Stop,
        }
    }

    /// How long it has been silent, if nobody serves it and nothing waits to be read.
    pub(crate) fn silent_for(&self, now: u64) -> Option<Duration> {
        let look = || (!self.busy.load(Ordering::SeqCst)).then(|| self.active_at.load(Ordering::SeqCst));
        let before = look()?;
        if socket::bytes_readable(self.fd.as_fd()).is_ok_and(|bytes| bytes > 0) {
            return None;
        }
        // A turn that began in between has read what was there.
        (look()? == before).then(|| Duration::from_nanos(now.saturating_sub(before)))
    }

    pub(crate) fn active_at(&self) -> u64 {
        self.active_at.load(Ordering::SeqCst)
    }

    /// Reads and hands out what is there, within the bounds of a turn. `None`: it has been closed already.
    pub(crate) fn serve(&self, lane: &mut Lane, rules: Rules<'_>, clock: impl Fn() -> u64) -> Option<Turn> {
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        self.busy.store(true, Ordering::SeqCst);
        let turn = self.turn(&mut state, lane, rules);
        state.closed = !matches!(turn, Turn::More);
        self.active_at.store(clock(), Ordering::SeqCst);
        self.busy.store(false, Ordering::SeqCst);
        Some(turn)
    }

    /// Closes it if nobody serves it. `Some(true)`: something was left unread.
    pub(crate) fn close_unserved(&self) -> Option<bool> {
        let mut state = self.state.try_lock()?;
        if state.closed {
            return None;
        }
        state.closed = true;
        Some(self.has_unread())
    }

    fn has_unread(&self) -> bool {
        socket::bytes_readable(self.fd.as_fd()).is_ok_and(|bytes| bytes > 0)
    }

    fn turn(&self, state: &mut State, lane: &mut Lane, rules: Rules<'_>) -> Turn {
        let began = Instant::now();
        let mut intake = Intake::resume(state, lane);
        let mut taken = 0;
        let turn = loop {
            if rules.forced.load(Ordering::Relaxed) {
                break Turn::Cut(self.has_unread());
            }
            let got = match intake.read(self, taken == 0) {
                Ok(Read::Bytes(got)) => got,
                Ok(Read::Nothing) => break Turn::More,
                Ok(Read::End) => break self.at_the_end(&intake, taken == 0),
                Err(error) => break Turn::Failed(Error::from_os("receive", error), intake.context()),
            };
            taken += got;
            if let Err(turn) = intake.deliver(self, rules) {
                break turn;
            }
            match intake.take_seen(self) {
                Ok(true) if !self.more_comes(taken, intake.patience) => break Turn::More,
                Ok(true) => {}
                Ok(false) if taken >= TURN_BYTES || began.elapsed() >= TURN_TIME => break Turn::More,
                Ok(false) => {}
                Err(error) => break Turn::Failed(Error::from_os("receive", error), intake.context()),
            }
        };
        if !intake.used_large {
            *intake.large = Vec::new(); // none came lately: give the memory back
        }
        match turn {
            Turn::More => match intake.suspend() {
                Ok(()) => Turn::More,
                Err(error) => Turn::Failed(Error::from_os("memory for a cut frame", error), intake.context()),
            },
            end => end,
        }
    }

    /// Nothing is left. On a busy connection more comes in a moment: to look again is cheaper than to sleep, for the writer
    /// too, which would have to wake us, and another thread is not woken in our place. Others who want the processor get
    /// it meanwhile.
    fn more_comes(&self, taken: usize, patience: &mut Patience) -> bool {
        (BUSY..TURN_BYTES).contains(&taken) && patience.try_to_find(|| self.has_unread())
    }

    /// The stream is over. A cut frame is the writer's failure, or will be sent again if it was we who ended it.
    /// `stalled`: nothing had come since the last turn.
    fn at_the_end(&self, intake: &Intake<'_>, stalled: bool) -> Turn {
        let (got, expected) = intake.cut();
        match self.ended() {
            Ended::Stop => Turn::End,
            Ended::Idle if expected == 0 || !stalled => Turn::End,
            Ended::Idle => Turn::Failed(Error::Timeout("the rest of a message did not come"), Context::Payload),
            Ended::No if got == 0 => Turn::End,
            Ended::No => {
                let error = Error::ConnectionClosed { got: got as u64, expected: expected as u64 };
                Turn::Failed(error, intake.context())
            }
        }
    }
}

enum Read {
    Bytes(usize),
    Nothing,
    End,
}

/// The bytes between the socket and the callback.
#[derive(Debug)]
struct Intake<'a> {
    state: &'a mut State,
    buffer: &'a mut [u8],
    large: &'a mut Vec<u8>,
    /// A large frame was read in this turn.
    used_large: bool,
    tally: &'a Tally,
    patience: &'a mut Patience,
    /// The undecoded part of the buffer.
    start: usize,
    fill: usize,
    /// So much has been looked at and lies in the kernel still.
    seen: usize,
}

impl<'a> Intake<'a> {
    /// Goes on where the last turn stopped.
    fn resume(state: &'a mut State, lane: &'a mut Lane) -> Intake<'a> {
        let mut fill = 0;
        if !state.apart {
            fill = state.cut.len();
            lane.buffer[..fill].copy_from_slice(&state.cut);
            state.cut.clear();
        }
        let Lane { buffer, large, tally, patience } = lane;
        Intake { state, buffer, large, used_large: false, tally, patience, start: 0, fill, seen: 0 }
    }

    /// Leaves a cut frame with the connection. An idle one holds no memory.
    fn suspend(&mut self) -> io::Result<()> {
        if self.in_place() {
            let rest = &self.buffer[self.start..self.fill];
            if rest.is_empty() {
                self.state.cut = Vec::new();
            }
            keep(&mut self.state.cut, rest)?;
            self.state.apart = self.state.need > 0 && rest.len() >= APART_FROM;
        } else if self.state.cut.capacity() > 2 * self.state.cut.len().max(FIRST_PIECE) {
            // The lane's memory is lent for a turn: a connection that waits holds no more than what has arrived.
            let mut own = Vec::new();
            keep(&mut own, &self.state.cut)?;
            *self.large = std::mem::replace(&mut self.state.cut, own);
            self.large.clear();
        }
        Ok(())
    }

    fn in_place(&self) -> bool {
        !self.state.apart
    }

    /// How much of a frame has arrived, and how long its payload is, if that is known (else 0).
    fn cut(&self) -> (usize, usize) {
        let held = if self.in_place() { self.fill - self.start } else { self.state.cut.len() };
        (held, self.state.need)
    }

    /// What was being read.
    fn context(&self) -> Context {
        if self.state.need > 0 { Context::Payload } else { Context::Prefix }
    }

    /// Looks at what is there, if it is little; else reads all of it but the last byte, at which it only looks.
    fn read(&mut self, slot: &Slot, first: bool) -> io::Result<Read> {
        let fd = slot.fd.as_fd();
        let (held, need) = self.cut();
        if self.in_place() {
            self.make_room();
        } else {
            grow(&mut self.state.cut, need)?;
        }
        if first
            && self.in_place()
            && let Some(read) = self.look_at(fd, LITTLE)?
        {
            return Ok(read);
        }
        let readable = socket::bytes_readable(fd)?;
        let result = match (readable, self.in_place()) {
            (0, _) if !first => return Ok(Read::Nothing),
            (0 | 1, _) => return Ok(self.look_at(fd, 2)?.unwrap_or(Read::Nothing)),
            (_, true) => {
                let end = self.buffer.len().min(self.fill + readable - 1);
                socket::recv(fd, &mut self.buffer[self.fill..end]).inspect(|got| self.fill += got)
            }
            (_, false) => socket::recv_append(fd, &mut self.state.cut, (need - held).min(readable - 1)),
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
            self.state.cut.extend_from_slice(&large[..seen]); // within the capacity that `grow` has made
        }
        Ok(Some(Read::Bytes(seen)))
    }

    /// What was looked at has been handled: takes it. True if that was all that was there.
    fn take_seen(&mut self, slot: &Slot) -> io::Result<bool> {
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
            seen -= socket::recv(slot.fd.as_fd(), &mut scratch[..piece])?.clamp(1, piece);
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
    fn deliver(&mut self, slot: &Slot, rules: Rules<'_>) -> std::result::Result<(), Turn> {
        let connection = Connection { id: slot.id, fd: slot.fd.as_fd() };
        let hands = Hands { connection, rules, tally: self.tally };
        if !self.in_place() {
            self.used_large = true;
            if self.state.cut.len() == self.state.need {
                let mut frame = std::mem::take(&mut self.state.cut);
                (self.state.need, self.state.apart) = (0, false);
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
        self.state.need = need;
        if need > LARGEST_IN_PLACE {
            (self.state.apart, self.used_large) = (true, true);
            self.state.cut = std::mem::take(self.large);
            let arrived = &self.buffer[self.start..self.fill];
            let failed = |error| Turn::Failed(Error::from_os("memory for a large frame", error), Context::Payload);
            keep(&mut self.state.cut, arrived).map_err(failed)?;
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

/// Hands whole frames to the callback.
struct Hands<'a> {
    connection: Connection<'a>,
    rules: Rules<'a>,
    tally: &'a Tally,
}

impl Hands<'_> {
    /// Hands out what is whole at the front of `bytes`. Returns how much that was, and how long the cut frame behind it
    /// is (0: unknown, or none).
    fn hand_out(&self, bytes: &[u8]) -> std::result::Result<(usize, usize), Turn> {
        match self.rules.handler {
            Handler::Each(each) => self.one_by_one(bytes, each),
            Handler::Batch(batch) => self.in_batches(bytes, batch),
        }
    }

    fn one_by_one(&self, bytes: &[u8], each: &super::EachHandler) -> std::result::Result<(usize, usize), Turn> {
        let mut at = 0;
        loop {
            match frame::decode(&bytes[at..], self.rules.max_message_size) {
                Frame::Whole { start, end } => {
                    let message = &bytes[at + start..at + end];
                    at += end;
                    if message.is_empty() {
                        continue;
                    }
                    self.check_forced()?;
                    match catch_unwind(AssertUnwindSafe(|| each(message, &self.connection))) {
                        Ok(Ok(())) => self.tally.received(1, message.len() as u64),
                        Ok(Err(_)) | Err(_) => self.rules.failed.handler_failed(),
                    }
                }
                other => return judge(other, at, self.rules.max_message_size),
            }
        }
    }

    fn in_batches(&self, bytes: &[u8], batch: &super::BatchHandler) -> std::result::Result<(usize, usize), Turn> {
        let mut at = 0;
        loop {
            let mut messages: [&[u8]; BATCH] = [&[]; BATCH];
            let mut count = 0;
            let mut last = Frame::Cut(None);
            while count < BATCH {
                last = frame::decode(&bytes[at..], self.rules.max_message_size);
                let Frame::Whole { start, end } = last else { break };
                messages[count] = &bytes[at + start..at + end];
                count += usize::from(start < end);
                at += end;
            }
            self.hand_out_batch(&messages[..count], batch)?;
            if !matches!(last, Frame::Whole { .. }) {
                return judge(last, at, self.rules.max_message_size);
            }
        }
    }

    fn hand_out_batch(&self, mut messages: &[&[u8]], batch: &super::BatchHandler) -> std::result::Result<(), Turn> {
        while !messages.is_empty() {
            self.check_forced()?;
            let handled = catch_unwind(AssertUnwindSafe(|| batch(messages, &self.connection))).unwrap_or(0);
            let (well, rest) = messages.split_at(handled.min(messages.len()));
            if !well.is_empty() {
                self.tally.received(well.len() as u64, well.iter().map(|message| message.len() as u64).sum());
            }
            let Some((_, behind)) = rest.split_first() else { break };
            self.rules.failed.handler_failed();
            messages = behind;
        }
        Ok(())
    }

    fn check_forced(&self) -> std::result::Result<(), Turn> {
        if self.rules.forced.load(Ordering::Relaxed) { Err(Turn::Cut(true)) } else { Ok(()) }
    }
}

/// What stands behind the last whole frame.
fn judge(last: Frame, at: usize, limit: u64) -> std::result::Result<(usize, usize), Turn> {
    match last {
        Frame::Cut(need) => Ok((at, need.unwrap_or(0))),
        Frame::TooLarge(size) => Err(Turn::Failed(Error::MessageTooLarge { size, limit }, Context::TooLarge)),
        Frame::Overflow => Err(Turn::Failed(Error::InvalidLengthPrefix, Context::Prefix)),
        Frame::Whole { .. } => Ok((at, 0)),
    }
}
