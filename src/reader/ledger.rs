//! Slots in the ledgers of one reader: which are free, and when a ledger is made and given up.
//!
//! 1. A ledger has slots for the connections of one user only, since whoever has one slot's page can read the others.
//! 2. When the ledgers of a user are full there is one more. An empty one is dropped, but for the one that was used last:
//!    a connection that comes and goes again and again costs no memfd each time.
//! 3. A peer that knows of its slot may read it for as long as it does not know the end of its connection. A slot whose peer
//!    could not be told is therefore not used again: it is free when its ledger is dropped.
//!
//! A slot is given back when its connection's descriptor has been closed: see the order of fields in `Connection`.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::sys::ledger::{Ledger, OwnSlot, SLOTS};
use crate::sys::lock::Mutex;

/// The ledgers of one reader.
#[derive(Debug, Default)]
pub(super) struct Ledgers(Arc<Mutex<Table>>);

/// The one that was used last stands at the end.
#[derive(Debug, Default)]
struct Table(Vec<Book>);

/// A ledger, and its free slots.
#[derive(Debug)]
struct Book {
    ledger: Arc<Ledger>,
    uid: u32,
    in_use: usize,
    free: Vec<u16>,
    /// From this one on none has been used yet.
    unused: usize,
}

const _: () = assert!(SLOTS <= 1 << 16);

/// A slot that belongs to one connection until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    table: Arc<Mutex<Table>>,
    ledger: Arc<Ledger>,
    number: u16,
    /// The peer has it, and does not know the end of the connection. Point 3 of the module.
    shared: bool,
}

impl Ledgers {
    /// A slot for a connection of `uid`. Fails where no ledger can be had, or no page of one. Does not wait. When it
    /// fails it may close a memfd, which no peer can make slow.
    pub(super) fn take(&self, uid: u32) -> io::Result<Slot> {
        let taken = self.0.lock().take(uid);
        let (ledger, number) = match taken {
            Some(taken) => taken,
            None => {
                let ledger = Arc::new(Ledger::create()?);
                self.0.lock().add(ledger, uid)
            }
        };
        let slot = Slot { table: Arc::clone(&self.0), ledger, number, shared: false };
        slot.ledger.prepare(slot.number())?;
        Ok(slot)
    }
}

impl Table {
    fn take(&mut self, uid: u32) -> Option<(Arc<Ledger>, u16)> {
        let at = self.0.iter().rposition(|book| book.uid == uid && book.has_room())?;
        let last = self.0.len() - 1;
        self.0.swap(at, last);
        self.0[last].take()
    }

    fn add(&mut self, ledger: Arc<Ledger>, uid: u32) -> (Arc<Ledger>, u16) {
        let book = Book { ledger: Arc::clone(&ledger), uid, in_use: 1, free: Vec::new(), unused: 1 };
        self.0.push(book);
        (ledger, 0)
    }

    /// Returns the ledgers that are not needed any more: to be dropped where no lock is held.
    #[must_use = "drop them where no lock is held"]
    fn give_back(&mut self, ledger: &Arc<Ledger>, number: u16, again: bool) -> Vec<Book> {
        if let Some(book) = self.0.iter_mut().find(|book| Arc::ptr_eq(&book.ledger, ledger)) {
            book.in_use -= 1;
            if again {
                book.free.push(number);
            }
        }
        let last = self.0.len().saturating_sub(1);
        self.0.extract_if(..last, |book| book.in_use == 0).collect()
    }
}

impl Book {
    fn has_room(&self) -> bool {
        !self.free.is_empty() || self.unused < SLOTS
    }

    fn take(&mut self) -> Option<(Arc<Ledger>, u16)> {
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.unused < SLOTS => {
                self.unused += 1;
                (self.unused - 1) as u16
            }
            None => return None,
        };
        self.in_use += 1;
        Some((Arc::clone(&self.ledger), number))
    }
}

impl Slot {
    fn number(&self) -> usize {
        usize::from(self.number)
    }

    /// What the peer needs to find it.
    pub(super) fn address(&self) -> (BorrowedFd<'_>, u64) {
        (self.ledger.as_fd(), Ledger::offset(self.number()))
    }

    /// The peer may have it now.
    pub(super) fn share(&mut self) {
        self.shared = true;
    }

    /// The peer has no use for it any more.
    pub(super) fn unshare(&mut self) {
        self.shared = false;
    }

    /// To store in.
    pub(super) fn own(&self) -> OwnSlot<'_> {
        self.ledger.slot(self.number())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let unneeded = self.table.lock().give_back(&self.ledger, self.number, !self.shared);
        drop(unneeded);
    }
}

#[cfg(test)]
mod tests;
