//! One connection: turn by turn until it ends without loss.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Context, Error};
use crate::patience::Patience;
use crate::sys::lock::Mutex;
use crate::sys::socket;

use super::Connection;
use super::hands::{Rules, Turn};
use super::intake::{CutFrame, Intake, Read};
use super::lane::Lane;

/// A busy connection gives its thread free after this much or this long, so that others are served.
const TURN_BYTES: usize = 1 << 20;
const TURN_TIME: Duration = Duration::from_millis(5);
/// A turn that read this much is worth another look or a few.
const BUSY: usize = 16 << 10;

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
    cut: CutFrame,
    closed: bool,
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
        if self.has_unread() {
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
        socket::has_unread(self.fd.as_fd())
    }

    fn turn(&self, state: &mut State, lane: &mut Lane, rules: Rules<'_>) -> Turn {
        let began = Instant::now();
        let connection = Connection { id: self.id, fd: self.fd.as_fd() };
        let alone = std::mem::replace(&mut lane.last, self.id) == self.id;
        let mut intake = Intake::resume(&mut state.cut, lane);
        let mut taken = 0;
        let turn = loop {
            if rules.forced.load(Ordering::Relaxed) {
                break Turn::Cut(self.has_unread());
            }
            let got = match intake.read(self.fd.as_fd(), taken == 0) {
                Ok(Read::Bytes(got)) => got,
                Ok(Read::Nothing) => break Turn::More,
                Ok(Read::End) => break self.at_the_end(&intake, taken == 0),
                Err(error) => break Turn::Failed(Error::from_os("receive", error), intake.context()),
            };
            taken += got;
            if let Err(turn) = intake.deliver(connection, rules) {
                break turn;
            }
            match intake.take_seen(self.fd.as_fd()) {
                Ok(_) if taken >= TURN_BYTES || began.elapsed() >= TURN_TIME => break Turn::More,
                Ok(true) if !(alone && self.more_comes(taken, intake.patience)) => break Turn::More,
                Ok(_) => {}
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
    /// it meanwhile. Only if this connection was the one that was served before: else others are busy, and come next.
    fn more_comes(&self, taken: usize, patience: &mut Patience) -> bool {
        taken >= BUSY && patience.try_to_find(|| self.has_unread())
    }

    /// The stream is over. A cut frame is the writer's failure, or will be sent again if it was we who ended it.
    /// `stalled`: nothing had come since the last turn.
    fn at_the_end(&self, intake: &Intake<'_>, stalled: bool) -> Turn {
        let (got, expected) = intake.arrived();
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
