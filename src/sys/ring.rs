//! The ring: memory through which a busy writer passes frames to its reader without a system call.
//!
//! A ring is a memfd: a page with what both sides signal to each other ([`Signals`]), and behind it a power of two of bytes. Both
//! sides map those bytes twice in a row, so that a frame is contiguous wherever it begins. The reader makes it, pays for all its
//! pages at once, and seals its size; the writer maps what it was passed.
//!
//! 1. The two ends are counts of bytes from the first one on: `published` by the writer, here; what is handled by the reader, in
//!    its ledger (`sys::ledger`), which the writer cannot change.
//! 2. The writer stores bytes only where the reader has handled what lay there, and the reader looks at bytes only before
//!    `published`. A peer that does not keep to that spoils messages between the two of them, and nothing else: every offset is
//!    taken modulo the size, and every length is checked by the side that uses it.
//! 3. A receiver does not trust a descriptor: see [`WriterRing::map`].
//! 4. In a forked child the reader's signals become private zeroes, and the writer's mappings are not there (MADV_DONTFORK).
//!
//! Each side checks the other's signal after a full barrier behind its own store, so that of two that happen at once at least
//! one is seen: see the functions of [`Signals`], which `sys::ring::model` runs in every interleaving.

use std::io;
#[cfg(not(loom))]
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::ptr::{self, NonNull};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::cache;
use super::descriptor::Descriptor;
use super::ledger::Addresses;
use super::{cvt, memfd, retry_eintr};

/// The sizes that a ring may have.
pub(crate) const SMALLEST: u64 = 64 << 10;
pub(crate) const LARGEST: u64 = 16 << 20;

/// The writer has not switched to the ring yet.
const NOT_SWITCHED: u64 = u64::MAX;

/// The reader sleeps, or is about to: the writer rings the bell after it has published.
const SLEEPS: u32 = 1;
/// The reader ends the connection: what is published from now on may not be read.
const CLOSING: u32 = 2;

/// Two cache lines, which processors fetch in pairs.
#[derive(Debug)]
#[repr(C, align(128))]
struct Line<T>(T);

/// What the two sides signal to each other.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Signals {
    /// By the writer: so many bytes have been published.
    published: Line<AtomicU64>,
    /// By the writer: where in the connection's stream the ring begins.
    switched_at: Line<AtomicU64>,
    /// By the reader: [`SLEEPS`], [`CLOSING`]. The writer takes `SLEEPS` away when it rings the bell.
    flags: Line<AtomicU32>,
    /// By the writer: it waits for room. The reader takes it away when it rings the bell.
    waits: Line<AtomicU32>,
}

#[cfg(not(loom))]
const _: () = assert!(
    offset_of!(Signals, published) == 0
        && offset_of!(Signals, switched_at) == 128
        && offset_of!(Signals, flags) == 256
        && offset_of!(Signals, waits) == 384
        && size_of::<Signals>() == 512
);

/// What the writer has to do after it has published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The reader is awake.
    Nothing,
    /// It sleeps: a byte on the socket wakes it.
    RingBell,
    /// It ends the connection.
    Closing,
}

impl Signals {
    /// As the reader makes them: it has not looked yet, and so sleeps.
    fn reset(&self) {
        self.switched_at.0.store(NOT_SWITCHED, Ordering::Relaxed);
        self.flags.0.store(SLEEPS, Ordering::Release);
    }

    #[cfg(all(test, loom))]
    fn for_model() -> Signals {
        let signals = Signals {
            published: Line(AtomicU64::new(0)),
            switched_at: Line(AtomicU64::new(0)),
            flags: Line(AtomicU32::new(0)),
            waits: Line(AtomicU32::new(0)),
        };
        signals.reset();
        signals
    }

    // ---- the writer ----

    /// Before the first publication.
    pub(crate) fn switch(&self, position: u64) {
        self.switched_at.0.store(position, Ordering::Release);
    }

    /// Everything before `head` is there to be read.
    #[inline]
    pub(crate) fn publish(&self, head: u64) -> Notice {
        self.published.0.store(head, Ordering::Release);
        // With the fence in `sleep` and `close`: either the reader sees the bytes, or this sees that it sleeps.
        fence(Ordering::SeqCst);
        if self.flags.0.load(Ordering::Relaxed) == 0 { Notice::Nothing } else { self.notice() }
    }

    #[cold]
    fn notice(&self) -> Notice {
        let flags = self.flags.0.fetch_and(!SLEEPS, Ordering::AcqRel);
        if flags & CLOSING != 0 {
            Notice::Closing
        } else if flags & SLEEPS != 0 {
            Notice::RingBell
        } else {
            Notice::Nothing
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.flags.0.load(Ordering::Acquire) & CLOSING != 0
    }

    /// The writer is going to sleep until there is room. It looks at what is handled once more behind this.
    pub(crate) fn wait(&self) {
        self.waits.0.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    // ---- the reader ----

    pub(crate) fn switched_at(&self) -> Option<u64> {
        let position = self.switched_at.0.load(Ordering::Acquire);
        (position != NOT_SWITCHED).then_some(position)
    }

    pub(crate) fn published(&self) -> u64 {
        self.published.0.load(Ordering::Acquire)
    }

    /// The reader is going to sleep, and looks at `published` once more behind this.
    pub(crate) fn sleep(&self) {
        self.flags.0.fetch_or(SLEEPS, Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn awake(&self) {
        if self.flags.0.load(Ordering::Relaxed) & SLEEPS != 0 {
            self.flags.0.fetch_and(!SLEEPS, Ordering::AcqRel);
        }
    }

    /// The reader ends the connection. It reads what is published before this, and perhaps some behind it.
    pub(crate) fn close(&self) {
        self.flags.0.fetch_or(SLEEPS | CLOSING, Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }

    /// The reader has stored how far it has come. True: the writer waits for room, and the caller is to ring its bell.
    pub(crate) fn take_waiting(&self) -> bool {
        // With the fence in `wait`: either the writer sees the room, or this sees that it waits.
        fence(Ordering::SeqCst);
        self.waits.0.load(Ordering::Relaxed) != 0 && self.waits.0.swap(0, Ordering::AcqRel) != 0
    }
}

/// The mapped memory of one side.
#[derive(Debug)]
struct Mapping {
    signals: NonNull<Signals>,
    page: usize,
    data: NonNull<u8>,
    size: usize,
}

// SAFETY: shared with another process anyway; signals are accessed through atomics alone, bytes as `ReaderRing::bytes` and
// `WriterRing::store` say.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, size: usize, protection: libc::c_int) -> io::Result<Mapping> {
        let page = memfd::page_size();
        let signals = memfd::map(fd, 0, page, libc::PROT_READ | libc::PROT_WRITE)?;
        let data = map_twice(fd, page, size, protection).inspect_err(|_| memfd::unmap(signals, page))?;
        Ok(Mapping { signals: signals.cast(), page, data, size })
    }

    fn signals(&self) -> &Signals {
        // SAFETY: a mapped page, which lives as long as `self`; any bytes are `Signals`.
        unsafe { self.signals.as_ref() }
    }

    /// Where the byte at `position` lies. Twice the size is mapped, so `size` bytes follow it.
    fn at(&self, position: u64) -> *mut u8 {
        let offset = (position & (self.size as u64 - 1)) as usize;
        // SAFETY: within the mapping.
        unsafe { self.data.as_ptr().add(offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        memfd::unmap(self.signals.cast(), self.page);
        memfd::unmap(self.data, 2 * self.size);
    }
}

/// The same bytes twice in a row.
fn map_twice(fd: BorrowedFd<'_>, offset: usize, size: usize, protection: libc::c_int) -> io::Result<NonNull<u8>> {
    let (nobody, anonymous) = (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    // SAFETY: a new mapping at an address that the kernel chooses.
    let room = unsafe { libc::mmap(ptr::null_mut(), 2 * size, nobody, anonymous, -1, 0) };
    if room == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let base = NonNull::new(room.cast::<u8>()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
    for half in 0..2 {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: within the room that was mapped above, which nobody else knows.
        let mapped = unsafe {
            let address = base.as_ptr().add(half * size).cast();
            libc::mmap(address, size, protection, flags, fd.as_raw_fd(), offset as libc::off_t)
        };
        if mapped == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            memfd::unmap(base, 2 * size);
            return Err(error);
        }
    }
    Ok(base)
}

// ---- the reader's side ----

/// A ring that this process has made, to read.
#[derive(Debug)]
pub(crate) struct ReaderRing {
    memory: Mapping,
    /// Until the writer has it.
    fd: Option<Descriptor>,
}

impl ReaderRing {
    /// A new one of `size` bytes, a power of two. Fails where there is no memory, no descriptor, or no such system call. All its
    /// pages are there: a store into one that cannot be had would raise SIGBUS.
    pub(crate) fn create(size: u64) -> io::Result<ReaderRing> {
        assert!(size.is_power_of_two() && (SMALLEST..=LARGEST).contains(&size));
        let page = memfd::page_size();
        let whole = page as libc::off_t + size as libc::off_t;
        let fd = memfd::create(c"udsipc-ring", whole as u64)?;
        retry_eintr(|| {
            // SAFETY: takes no pointers.
            cvt(unsafe { libc::fallocate(fd.as_raw_fd(), 0, 0, whole) })
        })?;
        memfd::seal(fd.as_fd(), libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL)?;
        let memory = Mapping::new(fd.as_fd(), size as usize, libc::PROT_READ)?;
        memory.signals().reset();
        if !MADE_HERE.insert(memory.signals) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(ReaderRing { memory, fd: Some(fd) })
    }

    /// What the writer needs, until [`ReaderRing::close_fd`].
    pub(crate) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(Descriptor::as_fd)
    }

    /// The writer has the descriptor: the mapping is enough here, and no connection costs a second descriptor.
    pub(crate) fn close_fd(&mut self) {
        self.fd = None;
    }

    pub(crate) fn size(&self) -> u64 {
        self.memory.size as u64
    }

    pub(crate) fn signals(&self) -> &Signals {
        self.memory.signals()
    }

    /// The bytes from one position to another, at most the whole ring, and no more than is published.
    ///
    /// They are the writer's: an honest one leaves them alone until they are handled. Of another one they may change at any
    /// time, so whoever does not trust the writer copies them first and looks at the copy. Nothing here depends on them.
    pub(crate) fn bytes(&self, from: u64, to: u64) -> &[u8] {
        let len = to.saturating_sub(from).min(self.size()) as usize;
        // SAFETY: `len` bytes behind any position are mapped, and stay so as long as `self` lives. No reference to them is
        // mutable in this process.
        unsafe { std::slice::from_raw_parts(self.memory.at(from), len) }
    }
}

impl Drop for ReaderRing {
    fn drop(&mut self) {
        MADE_HERE.remove(self.memory.signals);
    }
}

/// Where the signals of this process's rings lie, for the child of a fork. No lock: a child may inherit it locked.
static MADE_HERE: Addresses<Signals, 1024> = Addresses::new();

/// In a forked child: puts private pages where the parent's signals were. Neither allocates nor waits.
pub(super) fn leave_inherited() {
    MADE_HERE.make_private(memfd::page_size());
}

// ---- the writer's side ----

/// A ring of a peer's, to write.
#[derive(Debug)]
pub(crate) struct WriterRing(Mapping);

impl WriterRing {
    /// Maps what a peer has passed, if it is what it must be: memory that nobody can shrink, since a store to a page that is
    /// gone raises SIGBUS.
    pub(crate) fn map(passed: BorrowedFd<'_>, size: u64) -> io::Result<WriterRing> {
        let needed = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
        let len = memfd::check(passed, needed)?;
        let fits = size.is_power_of_two() && (SMALLEST..=LARGEST).contains(&size);
        if !fits || len != size + memfd::page_size() as u64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let memory = Mapping::new(passed, size as usize, libc::PROT_READ | libc::PROT_WRITE)?;
        memfd::keep_from_children(memory.signals.cast(), memory.page)?;
        memfd::keep_from_children(memory.data, 2 * memory.size)?;
        Ok(WriterRing(memory))
    }

    pub(crate) fn size(&self) -> u64 {
        self.0.size as u64
    }

    pub(crate) fn signals(&self) -> &Signals {
        self.0.signals()
    }

    /// Stores bytes at a position. What lay there is handled, and nobody else in this process stores there.
    #[inline]
    pub(crate) fn store(&self, position: u64, bytes: &[u8]) {
        assert!(bytes.len() <= self.0.size);
        // SAFETY: so many bytes behind any position are mapped. `bytes` is memory of this process: nobody has a reference to
        // the ring's.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.at(position), bytes.len()) };
    }

    /// Asks for the cache lines of the `len` bytes behind a position, which another processor has read last: a hint.
    #[inline]
    pub(crate) fn prepare(&self, position: u64, len: usize) {
        cache::fetch_range_for_writing(self.0.at(position), len);
    }

    /// Appends the bytes from one position to another to `to`, within its capacity. Of a hostile reader they may be anything.
    pub(crate) fn load(&self, from: u64, to: u64, into: &mut Vec<u8>) {
        let room = into.capacity() - into.len();
        let len = (to.saturating_sub(from).min(self.size()) as usize).min(room);
        // SAFETY: so many bytes behind any position are mapped, and `into` has room for them, which they initialise.
        unsafe {
            ptr::copy_nonoverlapping(self.0.at(from), into.as_mut_ptr().add(into.len()), len);
            into.set_len(into.len() + len);
        }
    }

    /// As [`WriterRing::load`], as many bytes as `into` has.
    pub(crate) fn copy(&self, from: u64, into: &mut [u8]) {
        assert!(into.len() <= self.0.size);
        // SAFETY: so many bytes behind any position are mapped.
        unsafe { ptr::copy_nonoverlapping(self.0.at(from), into.as_mut_ptr(), into.len()) };
    }

    /// Gives the memory of an empty ring back to the system. False: it is still there.
    pub(crate) fn discard(&self) -> bool {
        // SAFETY: the mapping is ours, and nothing in it is of use.
        unsafe { libc::madvise(self.0.data.as_ptr().cast(), self.0.size, libc::MADV_REMOVE) == 0 }
    }

    /// Takes memory for all of it again, before a store that could not say that there is none.
    pub(crate) fn restore(&self) -> io::Result<()> {
        const MADV_POPULATE_WRITE: libc::c_int = 23; // Linux 5.14
        // SAFETY: the mapping is ours, and no byte changes.
        cvt(unsafe { libc::madvise(self.0.data.as_ptr().cast(), self.0.size, MADV_POPULATE_WRITE) }).map(drop)
    }
}

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;
