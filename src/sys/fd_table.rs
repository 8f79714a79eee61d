//! The set of the library's descriptor numbers, one bit each: a forked child closes its copies of them.
//!
//! Without a lock, since a child could inherit the lock from a thread that does not exist there. One page of memory for 32 768
//! numbers, mapped on first use and never unmapped.

use std::io;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

const BITS: usize = u64::BITS as usize;
/// 256 KiB of address space, of which the kernel provides the pages that are written to.
const WORDS: usize = 1 << 15;
/// Enough for every number that is not negative.
const CHUNKS: usize = (1 << 31) / (WORDS * BITS);

type Chunk = [AtomicU64; WORDS];

/// The table of this process.
pub(super) static OF_THIS_PROCESS: FdTable = FdTable::new();

#[derive(Debug)]
pub(super) struct FdTable {
    chunks: [AtomicPtr<Chunk>; CHUNKS],
    /// One more than the largest number inserted since the last [`FdTable::take_all`].
    end: AtomicUsize,
}

impl FdTable {
    const fn new() -> FdTable {
        FdTable { chunks: [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS], end: AtomicUsize::new(0) }
    }

    /// Adds a number. Fails only if there is no memory.
    pub(super) fn insert(&self, fd: RawFd) -> io::Result<()> {
        let number = usize::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
        self.make_chunk(number)?;
        self.end.fetch_max(number + 1, Ordering::Relaxed);
        if let Some(word) = self.word(number) {
            word.fetch_or(bit(number), Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn remove(&self, fd: RawFd) {
        if let Some((number, word)) = usize::try_from(fd).ok().and_then(|number| Some((number, self.word(number)?))) {
            word.fetch_and(!bit(number), Ordering::Relaxed);
        }
    }

    /// Empties the set, and calls `each` for every number that was in it. Neither allocates nor waits.
    pub(super) fn take_all(&self, mut each: impl FnMut(RawFd)) {
        let end = self.end.swap(0, Ordering::Relaxed);
        for first in (0..end).step_by(BITS) {
            let Some(word) = self.word(first).filter(|word| word.load(Ordering::Relaxed) != 0) else { continue };
            let mut bits = word.swap(0, Ordering::Relaxed);
            while bits != 0 {
                each((first + bits.trailing_zeros() as usize) as RawFd);
                bits &= bits - 1;
            }
        }
    }

    fn word(&self, number: usize) -> Option<&AtomicU64> {
        let chunk = self.chunks.get(number / BITS / WORDS)?.load(Ordering::Acquire);
        // SAFETY: null, or a chunk that was mapped by `make_chunk` and is never unmapped.
        let chunk: &Chunk = unsafe { chunk.as_ref() }?;
        chunk.get(number / BITS % WORDS)
    }

    fn make_chunk(&self, number: usize) -> io::Result<()> {
        let Some(place) = self.chunks.get(number / BITS / WORDS) else {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        };
        if !place.load(Ordering::Acquire).is_null() {
            return Ok(());
        }
        let chunk = super::memory::map_zeroes(size_of::<Chunk>())?.cast::<Chunk>();
        let (null, made) = (ptr::null_mut(), chunk.as_ptr());
        if place.compare_exchange(null, made, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: another thread was quicker, and no other code has this address.
            unsafe { libc::munmap(made.cast(), size_of::<Chunk>()) };
        }
        Ok(())
    }
}

const fn bit(number: usize) -> u64 {
    1 << (number % BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(table: &FdTable) -> Vec<RawFd> {
        let mut all = Vec::new();
        table.take_all(|fd| all.push(fd));
        all
    }

    #[test]
    fn what_was_inserted_and_not_removed_is_taken_once() {
        let table = FdTable::new();
        table.remove(5); // before there is any memory
        let beyond = i32::try_from(WORDS * BITS).expect("a number");
        for fd in [3, 63, 64, 1000, beyond - 1, beyond, beyond + 7, RawFd::MAX] {
            table.insert(fd).expect("memory");
        }
        table.remove(1000);
        table.remove(1001);
        table.remove(-1);
        assert_eq!(taken(&table), [3, 63, 64, beyond - 1, beyond, beyond + 7, RawFd::MAX]);
        assert_eq!(taken(&table), [0_i32; 0]);
        table.insert(4).expect("memory");
        assert_eq!(taken(&table), [4]);
        assert_eq!(table.insert(-1).expect_err("no descriptor").raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn threads_insert_and_remove_side_by_side() {
        let table = FdTable::new();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let table = &table;
                scope.spawn(move || {
                    for round in 0..2_000 {
                        let fd = round % 64 * 8 + thread;
                        table.insert(fd).expect("memory");
                        if round < 1_936 || thread % 2 == 0 {
                            table.remove(fd);
                        }
                    }
                });
            }
        });
        let left: Vec<_> = (0..512).filter(|fd| fd % 2 == 1).collect();
        assert_eq!(taken(&table), left);
    }
}
