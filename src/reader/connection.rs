//! One connection: turn by turn until it ends without loss.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::adaptive_spin::AdaptiveSpin;
use crate::delivery::record::End;
use crate::error::{Context, Error};
use crate::sys::descriptor::Descriptor;
use crate::sys::lock::Mutex;
use crate::sys::once_box::OnceBox;
use crate::sys::socket;

use super::account::Account;
use super::budget::{Budget, TurnStatus};
use super::clock::{Clock, Nanos};
use super::deliver::{Delivery, OnFailure, Rest};
use super::frame_reader::{CutFrame, Leftover, TurnInput};
use super::read_buffers::ReadBuffer;
use super::ring::{Ring, Rings};
use super::source::{Peeked, Received, Source};
use super::{Handler, Peer};

mod ring_turn;

/// A turn that has read this much is worth some polls for more.
const MUCH: usize = 16 << 10;

/// Why the reader itself ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndedFor {
    Nothing,
    Inactivity,
    Stop,
}

/// How a turn ended.
#[derive(Debug)]
pub(super) enum TurnEnd {
    /// Wait for more, or for the next turn.
    More,
    /// The next turn is due: something is left in the ring, and the socket does not tell.
    Again,
    /// The end, as it should be.
    Closed,
    /// The end because of what came, or did not come.
    Failed(Error, Context),
    /// The end because a stop was cut short.
    Cancelled { unread: bool },
}

impl TurnEnd {
    /// Whether another turn follows.
    fn goes_on(&self) -> bool {
        matches!(self, TurnEnd::More | TurnEnd::Again)
    }
}

/// What the turns of all connections have in common.
#[derive(Clone, Copy)]
pub(super) struct TurnContext<'a> {
    pub(super) handler: &'a Handler,
    pub(super) max_message_size: u64,
    pub(super) on_failure: &'a dyn OnFailure,
    pub(super) clock: &'a Clock,
    pub(super) rings: &'a Rings,
}

/// One accepted connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: u64,
    /// Before the state, so that it is closed when the slot of the account is given back.
    pub(super) fd: Descriptor,
    state: Mutex<State>,
    /// For a writer that has asked for one. Outside of the state, so that others see whether something is unread.
    ring: OnceBox<Ring>,
    status: Status,
}

/// What is to be seen without the state: the flags below, and when the connection was last served. In one word, since there are
/// many connections.
#[derive(Debug)]
struct Status(AtomicU64);

/// A thread serves it.
const BUSY: u64 = 1;
/// No turn follows. Read and written under the lock of the state.
const CLOSED: u64 = 1 << 1;
/// Why the reader ends it.
const INACTIVE: u64 = 1 << 2;
const STOPPED: u64 = 1 << 3;
const FLAGS: u32 = 4;

impl Status {
    fn new(now: Nanos) -> Status {
        Status(AtomicU64::new(now << FLAGS))
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Sets a flag. True: it was set before.
    fn set(&self, flag: u64) -> bool {
        self.0.fetch_or(flag, Ordering::SeqCst) & flag != 0
    }

    /// A turn is over.
    fn served(&self, now: Nanos, goes_on: bool) {
        let closed = if goes_on { 0 } else { CLOSED };
        let update = |status: u64| Some(status & (INACTIVE | STOPPED) | closed | now << FLAGS);
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, update);
    }

    /// False: there is a reason already, which stays.
    fn end(&self, why: u64) -> bool {
        let update = |status| (status & (INACTIVE | STOPPED) == 0).then_some(status | why);
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, update).is_ok()
    }

    fn is(&self, flag: u64) -> bool {
        self.get() & flag != 0
    }
}

#[derive(Debug)]
struct State {
    held: Leftover,
    /// For a writer with a name. In memory of its own, since a connection of another peer has none.
    account: Option<Box<Account>>,
}

/// The memory that an idle connection takes, without an account. malloc(3) gives it 112 bytes with the counts of its `Arc`.
const _: () = assert!(size_of::<Connection>() <= 88);

impl Connection {
    pub(super) fn new(id: u64, fd: Descriptor, account: Option<Account>, now: Nanos) -> Connection {
        Connection {
            id,
            fd,
            state: Mutex::new(State { held: Leftover::default(), account: account.map(Box::new) }),
            ring: OnceBox::new(),
            status: Status::new(now),
        }
    }

    /// Ends the connection from this side: what is queued stays readable, and the writer's next send is EPIPE, so that
    /// it sends that frame again on its next connection (`unix_stream_sendmsg`). The end of the stream then comes as an
    /// event.
    pub(super) fn end(&self, why: EndedFor) {
        let first = self.status.end(if why == EndedFor::Stop { STOPPED } else { INACTIVE });
        if first || why == EndedFor::Stop {
            let _ = socket::shutdown_read(self.fd.as_fd());
        }
    }

    pub(super) fn ended_for(&self) -> EndedFor {
        match self.status.get() & (INACTIVE | STOPPED) {
            0 => EndedFor::Nothing,
            INACTIVE => EndedFor::Inactivity,
            _ => EndedFor::Stop,
        }
    }

    /// How long it has been silent, if nobody serves it and nothing waits to be read.
    pub(super) fn silent_for(&self, now: Nanos) -> Option<Nanos> {
        let before = self.status.get();
        if before & BUSY != 0 || self.has_unread() {
            return None;
        }
        // A turn that began in between has read what was there.
        (self.status.get() == before).then(|| now.saturating_sub(before >> FLAGS))
    }

    pub(super) fn active_at(&self) -> Nanos {
        self.status.get() >> FLAGS
    }

    /// Reads and hands out what is there, within the budget. `None`: it has been closed already.
    pub(super) fn serve(
        &self,
        lent: &mut ReadBuffer,
        context: TurnContext<'_>,
        budget: &mut Budget<'_>,
    ) -> Option<TurnEnd> {
        let mut state = self.state.lock();
        if self.status.is(CLOSED) {
            return None;
        }
        self.status.set(BUSY);
        let end = self.turn(&mut state, lent, context, budget);
        self.status.served(context.clock.now(), end.goes_on());
        Some(end)
    }

    /// Closes it if nobody serves it. `Some(true)`: something was left unread.
    pub(super) fn close_unserved(&self) -> Option<bool> {
        let _held = self.state.try_lock()?;
        if self.status.set(CLOSED) {
            return None;
        }
        Some(self.has_unread())
    }

    /// Tells a writer with a name how its connection ends. For one that is closed: its state is held for moments only.
    pub(super) fn tell_end(&self, end: End) {
        if let Some(ring) = self.ring.get() {
            ring.close();
        }
        if let Some(account) = &mut self.state.lock().account {
            account.close(self.fd.as_fd(), end);
        }
    }

    fn has_unread(&self) -> bool {
        self.has_unread_at(&self.fd.as_fd())
    }

    /// Where the stream lies in a ring, the socket has bells only.
    fn has_unread_at(&self, source: &impl Source) -> bool {
        match self.ring.get() {
            Some(ring) if ring.is_in_use() => ring.has_unread(),
            _ => has_unread(source),
        }
    }

    fn turn(
        &self,
        state: &mut State,
        lent: &mut ReadBuffer,
        context: TurnContext<'_>,
        budget: &mut Budget<'_>,
    ) -> TurnEnd {
        let same_as_before = std::mem::replace(&mut lent.last_connection, self.id) == self.id;
        let ReadBuffer { memory, tally, spin, pace, .. } = lent;
        let State { held, account, .. } = state;
        let delivery = Delivery {
            peer: Peer {
                id: self.id,
                fd: self.fd.as_fd(),
                writer: account.as_ref().map(|account| account.writer_id()),
                sequence: 0,
            },
            handler: context.handler,
            max_message_size: context.max_message_size,
            tally,
            on_failure: context.on_failure,
            clock: context.clock,
        };
        let frames = TurnInput::resume(held, memory);
        let spin = same_as_before.then_some(spin);
        let source = self.fd.as_fd();
        *budget.pace() = *pace;
        let turn = Turn {
            connection: self,
            source,
            frames,
            delivery,
            account: account.as_deref_mut(),
            rings: context.rings,
            budget: &mut *budget,
            spin,
            read: 0,
            interrupted: false,
        };
        let end = turn.run();
        *pace = *budget.pace();
        end
    }

    /// The stream is over. A cut frame is the writer's failure, or will be sent again if it was we who ended it.
    /// `stalled`: nothing had come since the last turn.
    fn at_the_end(&self, frames: &TurnInput<'_>, stalled: bool) -> TurnEnd {
        let (got, expected) = match (frames.cut_frame(), self.ended_for()) {
            (None, _) | (_, EndedFor::Stop) => return TurnEnd::Closed,
            (Some(CutFrame::Payload { .. }), EndedFor::Inactivity) if stalled => {
                let error = Error::Timeout("the rest of a message did not come");
                return TurnEnd::Failed(error, Context::Payload);
            }
            (_, EndedFor::Inactivity) => return TurnEnd::Closed,
            (Some(CutFrame::Prefix { got }), EndedFor::Nothing) => (got, 0),
            (Some(CutFrame::Payload { got, expected }), EndedFor::Nothing) => (got, expected),
        };
        TurnEnd::Failed(Error::ConnectionClosed { got, expected }, frames.context())
    }
}

/// One turn.
struct Turn<'t, 'b, S> {
    connection: &'t Connection,
    source: S,
    frames: TurnInput<'t>,
    delivery: Delivery<'t>,
    account: Option<&'t mut Account>,
    rings: &'t Rings,
    budget: &'t mut Budget<'b>,
    /// How to wait a little for more. Only if this connection was the last one to be served: else others are busy, and
    /// come next.
    spin: Option<&'t mut AdaptiveSpin>,
    /// So many bytes so far.
    read: usize,
    /// The turn ended before all frames were handled.
    interrupted: bool,
}

impl<'t, S: Source> Turn<'t, '_, S> {
    fn run(mut self) -> TurnEnd {
        let end = self.steps().unwrap_or_else(|error| self.failed(error));
        if !end.goes_on() {
            self.frames.end();
            return end;
        }
        match self.frames.suspend(self.interrupted) {
            Ok(()) => end,
            Err(error) => TurnEnd::Failed(Error::from_os("memory for a cut message", error), Context::Payload),
        }
    }

    fn failed(&self, error: io::Error) -> TurnEnd {
        let memory = error.kind() == io::ErrorKind::OutOfMemory;
        let action = if memory { "memory for a large message" } else { "receive" };
        TurnEnd::Failed(Error::from_os(action, error), self.frames.context())
    }

    fn steps(&mut self) -> io::Result<TurnEnd> {
        if let Some(end) = self.ended(self.budget.check(self.delivery.clock.now())) {
            self.interrupted = true;
            return Ok(end);
        }
        if let Some(ring) = self.ring_in_use() {
            return self.serve_ring(ring, 0, Peeked::NONE);
        }
        if self.frames.has_unhandled()
            && let Some(end) = self.deliver(Peeked::NONE)?
        {
            return Ok(end);
        }
        loop {
            if let Some(end) = self.read_and_deliver()? {
                return Ok(end);
            }
        }
    }

    fn read_and_deliver(&mut self) -> io::Result<Option<TurnEnd>> {
        let first = self.read == 0;
        let (count, peeked) = match self.frames.read(&self.source, first) {
            Ok(Received::Bytes { count, peeked }) => (count, peeked),
            Ok(Received::Nothing) => return Ok(Some(TurnEnd::More)),
            Ok(Received::End) => return self.end_of_stream(first).map(Some),
            // The writer has closed its socket over a record that it had not read. All that it had sent came before.
            Err(error) if self.account.is_some() && error.kind() == io::ErrorKind::ConnectionReset => {
                return self.end_of_stream(first).map(Some);
            }
            Err(error) => return Err(error),
        };
        // Behind the read, and before anything is decoded: what came behind a switch is bells.
        if let Some(ring) = self.ring_in_use() {
            return self.serve_ring(ring, count, peeked).map(Some);
        }
        self.read += count;
        let was_all = peeked.is_all();
        if let Some(end) = self.deliver(peeked)? {
            return Ok(Some(end));
        }
        let status = self.budget.after_read(count, self.delivery.clock.now());
        Ok(self.ended(status).or_else(|| (was_all && !self.more_comes()).then_some(TurnEnd::More)))
    }

    /// Nothing more comes from the socket. `stalled`: nothing had come since the last turn.
    fn end_of_stream(&mut self, stalled: bool) -> io::Result<TurnEnd> {
        if let Some(ring) = self.connection.ring.get() {
            ring.close();
            // Of a writer that has switched and died before its bell, or that will see the close.
            if ring.is_in_use() {
                return self.serve_ring(ring, 0, Peeked::NONE);
            }
        }
        Ok(self.connection.at_the_end(&self.frames, stalled))
    }

    /// Hands out what is whole, and takes what of that was only peeked at.
    fn deliver(&mut self, peeked: Peeked) -> io::Result<Option<TurnEnd>> {
        let account = self.account.as_deref_mut();
        let delivered = self.delivery.deliver(self.frames.bytes(), self.budget, account);
        if delivered.ring_requested {
            self.grant_ring()?;
        }
        let status = match delivered.rest {
            Rest::Cut(need) => {
                self.frames.consume_whole(delivered.used, need)?;
                self.frames.take(peeked, &self.source)?;
                return Ok(None);
            }
            Rest::Refused(error, context) => return Ok(Some(TurnEnd::Failed(error, context))),
            Rest::Interrupted(status) => status,
        };
        self.interrupted = true;
        self.frames.consume(delivered.used);
        self.frames.take_handled(peeked, &self.source)?;
        Ok(self.ended(status))
    }

    fn ended(&self, status: TurnStatus) -> Option<TurnEnd> {
        match status {
            TurnStatus::Continue => None,
            TurnStatus::TurnOver if self.ring_in_use().is_some() => Some(TurnEnd::Again),
            TurnStatus::TurnOver => Some(TurnEnd::More),
            TurnStatus::Cancelled => Some(TurnEnd::Cancelled { unread: self.connection.has_unread_at(&self.source) }),
        }
    }

    /// Nothing is left. On a busy connection more comes in a moment: polling is cheaper than a sleep and a wake-up, for
    /// the writer too, and no other thread is woken in place of this one.
    fn more_comes(&mut self) -> bool {
        let source = &self.source;
        self.read >= MUCH && self.spin.as_mut().is_some_and(|spin| spin.spin_until(|| has_unread(source)))
    }
}

/// Frames that a turn left unhandled keep a byte in the kernel: see `frame_reader`.
fn has_unread(source: &impl Source) -> bool {
    source.readable().is_ok_and(|bytes| bytes > 0)
}

#[cfg(test)]
mod tests;
