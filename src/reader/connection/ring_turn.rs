//! Turns of a connection whose stream lies in a ring: see `ring` for the protocol, and `sys::ring` for the signals.
//!
//! The order of a turn that finds nothing, so that no publication is missed: sleep; look; take the bells off the socket; begin
//! again if there were any. A bell that comes later is an event.

use std::io;
use std::os::fd::AsFd as _;

use crate::error::{Context, Error};
use crate::sys::socket;

use super::super::budget::TurnStatus;
use super::super::deliver::{Delivered, Rest};
use super::super::ring::Ring;
use super::super::source::{Peeked, Source};
use super::{EndedFor, MUCH, Turn, TurnEnd};

/// A turn may take so many times more from a ring than from a socket, in the same time at most: to arm the connection again
/// costs as much as to read a quarter of a megabyte here.
const CHEAPER: usize = 3;

/// What was on the socket.
enum Bells {
    None,
    Some,
    /// The turn ended first.
    Interrupted(TurnStatus),
    /// The end of the stream.
    End,
    /// Not only bells.
    Malformed,
}

impl<'t, S: Source> Turn<'t, '_, S> {
    /// The ring in which the stream goes on, if it does.
    pub(super) fn ring_in_use(&self) -> Option<&'t Ring> {
        self.connection.ring.get().filter(|ring| ring.is_in_use())
    }

    /// A peer has asked for a ring. Asked again, or without a slot, it has sent an empty frame and nothing else.
    #[cold]
    pub(super) fn grant_ring(&mut self) -> io::Result<()> {
        let has_slot = self.account.as_ref().is_some_and(|account| account.has_slot());
        let goes_on = self.connection.ended_for() == EndedFor::Nothing;
        if has_slot
            && goes_on
            && self.connection.ring.get().is_none()
            && let Some(ring) = self.rings.grant(self.connection.fd.as_fd())?
        {
            self.connection.ring.set(ring);
        }
        Ok(())
    }

    /// Goes on in the ring. `count` bytes have just come from the socket: bells, since the writer had switched before.
    pub(super) fn serve_ring(&mut self, ring: &'t Ring, count: usize, peeked: Peeked) -> io::Result<TurnEnd> {
        if !self.switches_in_order(ring, count) {
            return Ok(malformed());
        }
        self.frames.consume(count);
        self.frames.take(peeked, &self.source)?;
        ring.signals().awake();
        loop {
            if let Some(end) = self.ring_step(ring)? {
                return Ok(end);
            }
        }
    }

    /// At its switch the writer must have sent whole frames, and all of them must be handled.
    fn switches_in_order(&self, ring: &Ring, count: usize) -> bool {
        if !self.frames.holds_only(count) || self.frames.bytes().iter().any(|byte| *byte != 0) {
            return false;
        }
        let position = self.account.as_ref().map(|account| account.position());
        let in_order = ring.is_switched() || ring.signals().switched_at() == position;
        if in_order {
            ring.set_switched();
        }
        in_order
    }

    fn ring_step(&mut self, ring: &'t Ring) -> io::Result<Option<TurnEnd>> {
        // A callback may have forked, and returned in the child: the connection is the parent's.
        if !self.rings.are_ours() {
            return Ok(Some(TurnEnd::Cancelled { unread: false }));
        }
        // Looked for here, since the end of the stream on the socket is seen only when the ring is empty.
        if self.connection.ended_for() != EndedFor::Nothing {
            ring.close();
        }
        match ring.available() {
            None => Ok(Some(malformed())),
            Some(0) if ring.is_closing() => Ok(Some(self.end_of_ring())),
            Some(0) => self.wait_for_ring(ring),
            Some(available) => self.deliver_from_ring(ring, available),
        }
    }

    /// All is handled. Bells that are left would make the close a reset (unix(7)).
    fn end_of_ring(&mut self) -> TurnEnd {
        let _ = self.source.receive(self.frames.scratch());
        self.connection.at_the_end(&self.frames, false)
    }

    fn deliver_from_ring(&mut self, ring: &'t Ring, available: usize) -> io::Result<Option<TurnEnd>> {
        let mut len = available.min(ring.part());
        let mut delivered = self.deliver_ring_bytes(ring, len)?;
        if let Delivered { used: 0, rest: Rest::Cut(need), .. } = delivered {
            // One frame that is longer than a part. Also refused: a frame that has changed meanwhile.
            if need > available || need <= len {
                return Ok(Some(malformed()));
            }
            len = need;
            delivered = self.deliver_ring_bytes(ring, len)?;
            if delivered.used == 0 && matches!(delivered.rest, Rest::Cut(_)) {
                return Ok(Some(malformed()));
            }
        }
        let status = match delivered.rest {
            Rest::Cut(_) if delivered.used < len && len == available => return Ok(Some(malformed())),
            Rest::Cut(_) => self.budget.after_read(delivered.used / CHEAPER, self.delivery.clock.now()),
            Rest::Refused(error, context) => return Ok(Some(TurnEnd::Failed(error, context))),
            Rest::Interrupted(status) => status,
        };
        if ring.is_half_empty() && ring.signals().take_waiting() {
            // Not waited for: with a full socket the writer has bells to read.
            let _ = socket::send(self.connection.fd.as_fd(), &[0]);
        }
        Ok(self.ended(status))
    }

    /// Hands out whole frames among the next `len` bytes.
    fn deliver_ring_bytes(&mut self, ring: &'t Ring, len: usize) -> io::Result<Delivered> {
        let bytes = ring.bytes(len);
        let bytes = if ring.is_in_place() { bytes } else { self.frames.copy(bytes)? };
        let delivered = self.delivery.deliver(bytes, self.budget, self.account.as_deref_mut());
        ring.add_handled(delivered.used);
        self.read += delivered.used;
        Ok(delivered)
    }

    /// The ring is empty. `None`: not any more.
    fn wait_for_ring(&mut self, ring: &Ring) -> io::Result<Option<TurnEnd>> {
        if self.read >= MUCH && self.spin.as_mut().is_some_and(|spin| spin.spin_until(|| ring.has_unread())) {
            return Ok(None);
        }
        ring.signals().sleep();
        if !ring.has_unread() {
            match self.take_bells()? {
                Bells::None => return Ok(Some(TurnEnd::More)),
                // The writer may have taken the sign of sleep away for a message that is handled already: the bell that it
                // then rang is one of these, and no other would come. So the sign is set anew.
                Bells::Some => {}
                Bells::Interrupted(status) => return Ok(self.ended(status)),
                Bells::End => ring.close(),
                Bells::Malformed => return Ok(Some(malformed())),
            }
        }
        ring.signals().awake();
        Ok(None)
    }

    /// Takes all bells off the socket, within the budget: a peer may ring for ever.
    fn take_bells(&mut self) -> io::Result<Bells> {
        let mut bells = Bells::None;
        loop {
            let room = self.frames.scratch();
            let all = room.len();
            let count = match self.source.receive(room) {
                Ok(0) => return Ok(Bells::End),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(bells),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Bells::End),
                Err(error) => return Err(error),
            };
            if room[..count].iter().any(|byte| *byte != 0) {
                return Ok(Bells::Malformed);
            }
            bells = Bells::Some;
            match self.budget.after_read(count, self.delivery.clock.now()) {
                TurnStatus::Continue if count == all => {}
                TurnStatus::Continue => return Ok(bells),
                status => return Ok(Bells::Interrupted(status)),
            }
        }
    }
}

/// As a length prefix that is none.
fn malformed() -> TurnEnd {
    TurnEnd::Failed(Error::InvalidLengthPrefix, Context::Prefix)
}

#[cfg(test)]
mod tests;
