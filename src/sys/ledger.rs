//! The ledger: memory of a reader in which it notes how far its callbacks have come, and which its writers can read after its
//! death.
//!
//! A ledger is a memfd of many slots, one for each connection. Its maker maps it and then seals it (memfd_create(2),
//! F_ADD_SEALS): nobody can change its size, and nobody else can write to it. Whoever is given the descriptor maps one page of
//! it, to read.
//!
//! 1. Both sides access a slot through atomics alone, since the other process may do so at any time.
//! 2. Pages are allocated one by one before their slots are used: a store into a page that cannot be had would raise SIGBUS.
//! 3. A receiver does not trust a descriptor: see [`Slot::map`].
//! 4. In a forked child the maker's mapping becomes private zeroes, since a callback that forked may return there and store.
//!    The receiver's is not there (MADV_DONTFORK).

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::descriptor::Descriptor;
use super::memfd::{self, F_SEAL_FUTURE_WRITE, map, page_size, unmap};
use super::{cvt, retry_eintr};

/// The length of a slot: a cache line, so that connections on different processors do not disturb each other.
pub(crate) const SLOT: usize = 64;
/// How many slots a ledger has.
pub(crate) const SLOTS: usize = LEDGER / SLOT;
/// Address space; the pages come when they are used.
const LEDGER: usize = 1 << 20;
/// No ledger of a peer's is larger.
const LARGEST: u64 = 1 << 30;

#[repr(C, align(64))]
#[derive(Debug)]
struct Raw {
    /// Twice the position up to which the stream has been handled, and 1 while a callback runs for what stands there.
    done: AtomicU64,
    /// Where that ends, valid while a callback runs.
    end: AtomicU64,
}

const _: () = assert!(size_of::<Raw>() == SLOT && offset_of!(Raw, done) == 0 && offset_of!(Raw, end) == 8);

/// What a slot says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Handled {
    /// Up to here the stream has been handled.
    pub(crate) position: u64,
    /// Up to here it is in a callback, which has begun and not returned. `position` if no callback runs.
    pub(crate) end: u64,
}

impl Handled {
    pub(crate) fn is_busy(self) -> bool {
        self.end > self.position
    }
}

// ---- the maker's side ----

/// A ledger of this process.
#[derive(Debug)]
pub(crate) struct Ledger {
    fd: Descriptor,
    memory: NonNull<Raw>,
}

// SAFETY: the memory is shared with other processes anyway, and accessed through atomics alone.
unsafe impl Send for Ledger {}
// SAFETY: as above.
unsafe impl Sync for Ledger {}

impl Ledger {
    /// A new one, without any page. Fails where there is no memory, no descriptor, or no such system call.
    pub(crate) fn create() -> io::Result<Ledger> {
        let fd = memfd::create(c"udsipc-ledger", LEDGER as u64)?;
        let memory = map(fd.as_fd(), 0, LEDGER, libc::PROT_READ | libc::PROT_WRITE)?.cast::<Raw>();
        let ledger = Ledger { fd, memory };
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL;
        memfd::seal(ledger.fd.as_fd(), seals)?;
        if !MADE_HERE.insert(memory) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(ledger)
    }

    /// What a peer needs to find a slot: pass it along.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn offset(slot: usize) -> u64 {
        (slot * SLOT) as u64
    }

    /// Makes a slot usable, and empty.
    pub(crate) fn prepare(&self, slot: usize) -> io::Result<()> {
        let page = page_size();
        let at = slot * SLOT / page * page;
        retry_eintr(|| {
            // SAFETY: takes no pointers.
            cvt(unsafe { libc::fallocate(self.fd.as_raw_fd(), 0, at as libc::off_t, page as libc::off_t) })
        })?;
        self.set_idle(slot, 0);
        Ok(())
    }

    /// As [`OwnSlot::set_busy`].
    #[cfg(all(test, not(loom)))]
    pub(crate) fn set_busy(&self, slot: usize, start: u64, end: u64) {
        self.slot(slot).set_busy(start, end);
    }

    /// As [`OwnSlot::set_idle`].
    pub(crate) fn set_idle(&self, slot: usize, position: u64) {
        self.slot(slot).set_idle(position);
    }

    /// A slot, to store in.
    pub(crate) fn slot(&self, slot: usize) -> OwnSlot<'_> {
        assert!(slot < SLOTS);
        // SAFETY: within the mapping, which is aligned to pages and lives as long as `self`; any bytes are a `Raw`.
        OwnSlot(unsafe { self.memory.add(slot).as_ref() })
    }
}

/// A slot of a ledger of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnSlot<'a>(&'a Raw);

impl OwnSlot<'_> {
    /// A callback begins for what stands at `start` and ends at `end`; everything before is handled.
    ///
    /// The slot is not busy while `end` is being written: a reader that dies there has handled what stands before `start`, and
    /// has not begun with the rest.
    #[inline]
    pub(crate) fn set_busy(self, start: u64, end: u64) {
        self.0.done.store(start << 1, Ordering::Release);
        self.0.end.store(end, Ordering::Release);
        self.0.done.store(start << 1 | 1, Ordering::Release);
    }

    /// Everything before `position` is handled, and no callback runs.
    #[inline]
    pub(crate) fn set_idle(self, position: u64) {
        self.0.done.store(position << 1, Ordering::Release);
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        MADE_HERE.remove(self.memory);
        unmap(self.memory.cast(), LEDGER);
    }
}

/// Where the ledgers of this process lie, for the child of a fork. No lock: a child may inherit it locked.
static MADE_HERE: Addresses<Raw, 256> = Addresses::new();

/// Mappings that a forked child must not share.
pub(super) struct Addresses<T, const N: usize>([AtomicPtr<T>; N]);

impl<T, const N: usize> Addresses<T, N> {
    pub(super) const fn new() -> Self {
        Addresses([const { AtomicPtr::new(ptr::null_mut()) }; N])
    }

    /// False: there are too many.
    pub(super) fn insert(&self, memory: NonNull<T>) -> bool {
        let (null, made) = (ptr::null_mut(), memory.as_ptr());
        self.0.iter().any(|place| place.compare_exchange(null, made, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }

    pub(super) fn remove(&self, memory: NonNull<T>) {
        let (null, made) = (ptr::null_mut(), memory.as_ptr());
        let _ =
            self.0.iter().find(|place| place.compare_exchange(made, null, Ordering::AcqRel, Ordering::Relaxed).is_ok());
    }

    /// Puts private zeroes where these mappings of `len` bytes were.
    pub(super) fn make_private(&self, len: usize) {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        for place in &self.0 {
            let memory = place.load(Ordering::Relaxed);
            if !memory.is_null() {
                // SAFETY: replaces a mapping of the owner's by one of the same length, which takes the same accesses.
                unsafe { libc::mmap(memory.cast(), len, protection, flags | libc::MAP_FIXED, -1, 0) };
            }
        }
    }
}

/// In a forked child: puts private pages where the parent's ledgers were. Neither allocates nor waits.
pub(super) fn leave_inherited() {
    MADE_HERE.make_private(LEDGER);
}

// ---- the receiver's side ----

/// A slot in a peer's ledger.
#[derive(Debug)]
pub(crate) struct Slot {
    page: NonNull<u8>,
    page_size: usize,
    at: usize,
}

// SAFETY: read through atomics alone; the mapping belongs to the value.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

impl Slot {
    /// Maps the slot at `offset` of what a peer has passed, if it is what it must be: memory that nobody can shrink, since a
    /// load from a page that is gone raises SIGBUS, and that nobody but its maker can write to.
    pub(crate) fn map(passed: BorrowedFd<'_>, offset: u64) -> io::Result<Slot> {
        let refused = || io::Error::from(io::ErrorKind::InvalidData);
        let needed = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | F_SEAL_FUTURE_WRITE;
        let size = memfd::check(passed, needed)?;
        let fits = offset.checked_add(SLOT as u64).is_some_and(|end| end <= size);
        if !fits || size > LARGEST || !offset.is_multiple_of(SLOT as u64) {
            return Err(refused());
        }
        let page_size = page_size();
        let in_page = offset as usize % page_size;
        let page = map(passed, offset - in_page as u64, page_size, libc::PROT_READ)?;
        let slot = Slot { page, page_size, at: in_page };
        memfd::keep_from_children(page, page_size)?;
        Ok(slot)
    }

    /// What it says now. Of a peer that is dead it does not change any more.
    pub(crate) fn read(&self) -> Handled {
        // SAFETY: within the page, aligned, and mapped as long as `self` lives; any bytes are a `Raw`.
        let raw = unsafe { self.page.add(self.at).cast::<Raw>().as_ref() };
        let done = raw.done.load(Ordering::Acquire);
        let end = raw.end.load(Ordering::Acquire);
        let position = done >> 1;
        Handled { position, end: if done & 1 == 1 { end.max(position) } else { position } }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        unmap(self.page, self.page_size);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::os::fd::{FromRawFd as _, OwnedFd};

    use super::*;
    use crate::sys::fork::tests::in_forked_child;

    fn ledger_with(slot: usize) -> Ledger {
        let ledger = Ledger::create().expect("a ledger");
        ledger.prepare(slot).expect("a page");
        ledger
    }

    #[test]
    fn a_peer_reads_what_the_maker_stores() {
        let ledger = ledger_with(SLOTS - 1);
        let slot = Slot::map(ledger.as_fd(), Ledger::offset(SLOTS - 1)).expect("a slot");
        assert_eq!(slot.read(), Handled { position: 0, end: 0 });
        ledger.set_busy(SLOTS - 1, 10, 25);
        assert_eq!(slot.read(), Handled { position: 10, end: 25 });
        assert!(slot.read().is_busy());
        ledger.set_idle(SLOTS - 1, 25);
        assert_eq!(slot.read(), Handled { position: 25, end: 25 });
        drop(ledger);
        assert_eq!(slot.read().position, 25, "after the maker's end");
    }

    #[test]
    fn only_the_maker_can_write() {
        let ledger = ledger_with(0);
        let fd = ledger.as_fd();
        assert!(map(fd, 0, page_size(), libc::PROT_READ | libc::PROT_WRITE).is_err());
        // SAFETY: takes no pointers.
        assert_eq!(unsafe { libc::ftruncate(fd.as_raw_fd(), 0) }, -1);
        let slot = Slot::map(fd, 0).expect("a slot");
        // SAFETY: the mapping is ours; the call is expected to change nothing.
        let changed = unsafe { libc::mprotect(slot.page.as_ptr().cast(), slot.page_size, libc::PROT_WRITE) };
        assert_eq!(changed, -1);
    }

    fn memfd(flags: libc::c_uint, len: i64, seals: libc::c_int) -> OwnedFd {
        // SAFETY: a C string; the descriptor is new and nobody else's.
        unsafe {
            let fd = OwnedFd::from_raw_fd(cvt(libc::memfd_create(c"test".as_ptr(), flags)).expect("a memfd"));
            assert_eq!(libc::ftruncate(fd.as_raw_fd(), len), 0);
            assert_eq!(libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals), 0);
            fd
        }
    }

    #[test]
    fn what_is_not_sealed_or_too_short_or_no_memory_is_refused() {
        let all = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | F_SEAL_FUTURE_WRITE;
        let sealing = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        let good = memfd(sealing, 8192, all);
        assert!(Slot::map(good.as_fd(), 8192 - 64).is_ok());
        for offset in [8192, 8192 - 63, 1, u64::MAX, u64::MAX - 63, 1 << 63] {
            assert!(Slot::map(good.as_fd(), offset).is_err(), "{offset}");
        }
        for missing in [libc::F_SEAL_SHRINK, libc::F_SEAL_GROW, F_SEAL_FUTURE_WRITE] {
            assert!(Slot::map(memfd(sealing, 8192, all & !missing).as_fd(), 0).is_err(), "{missing}");
        }
        assert!(Slot::map(memfd(sealing, 2 << 30, all).as_fd(), 0).is_err(), "too large");
        assert!(Slot::map(std::fs::File::open("/dev/zero").expect("a device").as_fd(), 0).is_err());
        let directory = tempfile::tempfile().expect("a file");
        directory.set_len(8192).expect("room");
        assert!(Slot::map(directory.as_fd(), 0).is_err());
    }

    #[test]
    fn a_forked_child_stores_into_memory_of_its_own() {
        let ledger = ledger_with(3);
        let slot = Slot::map(ledger.as_fd(), Ledger::offset(3)).expect("a slot");
        ledger.set_busy(3, 5, 9);
        in_forked_child(|| {
            ledger.set_idle(3, 1_000); // as a callback that has forked and returns
            true
        });
        assert_eq!(slot.read(), Handled { position: 5, end: 9 });
    }
}
