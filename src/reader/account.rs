//! How far one connection has been handled, kept for a writer that has a name (see `delivery`), and what the writer is told.
//!
//! 1. The writer gets a record when it is accepted. If that cannot be sent whole, it is served as one without a name.
//! 2. The position is that of the stream of frames: all bytes before it are handled, those of empty frames too. Around each
//!    callback it stands in the slot, if there is one.
//! 3. Before the reader closes the connection, and after the last store, it sends the final record.
//!
//! No record is waited for: the writer may not be reading.

use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;

use crate::delivery::name::{WriterId, WriterName};
use crate::delivery::record::{End, RECORD, RING_REQUEST, Record};
use crate::sys::ledger::{OwnSlot, SLOT};
use crate::sys::socket;

use super::deliver::Notes;
use super::ledger::{Ledgers, Slot};
use super::peer::Peer;

/// The account of one connection.
#[derive(Debug)]
pub(super) struct Account {
    writer: WriterId,
    position: u64,
    /// The number of the next message.
    sequence: u64,
    /// `None`: no ledger was to be had.
    slot: Option<Slot>,
}

/// What malloc(3) keeps beside each piece of memory.
const MALLOC_HEADER: usize = size_of::<usize>();
/// The memory that an idle connection takes for its account, the slot included.
const _: () = assert!(size_of::<Account>() + MALLOC_HEADER + SLOT <= 128);

/// Tells a writer with a name that it is not let in.
pub(super) fn turn_away(peer: BorrowedFd<'_>, end: End) {
    let _ = socket::send(peer, &Record::Final { position: 0, end }.encode());
}

impl Account {
    /// Tells a writer with a name what it needs. `None`: it is served as any other peer.
    pub(super) fn open(ledgers: &Ledgers, peer: BorrowedFd<'_>, name: WriterName) -> Option<Account> {
        let slot = socket::peer_credentials(peer).and_then(|(_, uid, _)| ledgers.take(uid)).ok();
        let slot = match slot.map(|slot| announce(slot, peer)) {
            Some(Announced::Whole(slot)) => Some(slot),
            Some(Announced::Cut) => return None,
            Some(Announced::Not) | None => {
                let is_sent = matches!(socket::send(peer, &Record::NoLedger.encode()), Ok(RECORD));
                is_sent.then_some(None)?
            }
        };
        Some(Account { writer: name.id, position: 0, sequence: name.first_sequence, slot })
    }

    /// Tells the writer that the connection ends. Nothing is noted afterwards.
    pub(super) fn close(&mut self, peer: BorrowedFd<'_>, end: End) {
        let record = Record::Final { position: self.position, end }.encode();
        let is_known = match socket::send(peer, &record) {
            Ok(sent) => sent == record.len(),
            // The writer has closed the connection, and with it the account.
            Err(error) => matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset),
        };
        if is_known && let Some(slot) = &mut self.slot {
            slot.unshare();
        }
    }

    pub(super) fn writer_id(&self) -> [u8; 16] {
        self.writer.0
    }

    /// For callbacks with what begins at the position. Sets `ring_requested` when the writer asks for a ring.
    pub(super) fn notes<'a>(&'a self, ring_requested: &'a Cell<bool>) -> AccountNotes<'a> {
        AccountNotes { slot: self.slot.as_ref().map(Slot::own), position: self.position, ring_requested }
    }

    /// Whether what is handled stands where the writer can read it.
    pub(super) fn has_slot(&self) -> bool {
        self.slot.is_some()
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The number of the next message.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// So many bytes more are handled, the next message has this number, and no callback runs.
    pub(super) fn advance(&mut self, bytes: usize, sequence: u64) {
        self.position += bytes as u64;
        self.sequence = sequence;
        if let Some(slot) = &self.slot {
            slot.own().set_idle(self.position);
        }
    }
}

enum Announced {
    Whole(Slot),
    /// A part of the record was sent, so no other can follow.
    Cut,
    /// Nothing was sent: the writer does not take descriptors, or too many are on their way.
    Not,
}

fn announce(mut slot: Slot, peer: BorrowedFd<'_>) -> Announced {
    let (ledger, offset) = slot.address();
    match socket::send_with_descriptor(peer, &Record::Ledger { offset }.encode(), ledger) {
        Ok(sent) => {
            slot.share();
            if sent == RECORD { Announced::Whole(slot) } else { Announced::Cut }
        }
        Err(_) => Announced::Not,
    }
}

/// Notes the callbacks of one delivery.
#[derive(Debug)]
pub(super) struct AccountNotes<'a> {
    slot: Option<OwnSlot<'a>>,
    /// Where in the stream the delivery begins.
    position: u64,
    /// Elsewhere, so that the other two may stay in registers while callbacks run.
    ring_requested: &'a Cell<bool>,
}

impl Notes for AccountNotes<'_> {
    #[inline]
    fn begin(&self, start: usize, end: usize) {
        if let Some(slot) = self.slot {
            slot.set_busy(self.position + start as u64, self.position + end as u64);
        }
    }

    #[inline]
    fn handed_out(&self, peer: &mut Peer<'_>, messages: usize) {
        // A stranger may begin with the last number of all.
        peer.sequence = peer.sequence.wrapping_add(messages as u64);
    }

    #[inline]
    fn empty_frame(&self, prefix: usize) {
        if prefix == RING_REQUEST.len() {
            self.ring_requested.set(true);
        }
    }

    fn failed(&self, end: usize) {
        if let Some(slot) = self.slot {
            slot.set_idle(self.position + end as u64);
        }
    }
}

#[cfg(test)]
mod tests;
