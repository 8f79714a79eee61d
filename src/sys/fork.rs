//! Whether this process is the one that made a handle.
//!
//! One page that the kernel empties in every child (MADV_WIPEONFORK, madvise(2), Linux 4.14) holds a number; a handle
//! remembers the number of its birth. The check costs one load, unlike getpid(2), which is a system call, and holds for a
//! bare clone(2) too, unlike pthread_atfork(3).

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const PAGE: usize = 4096;

/// The number of the newest generation of this process and its ancestors: it outlives a fork, unlike the page.
static NEWEST: AtomicU64 = AtomicU64::new(0);

/// The page, mapped when the first handle is made and never unmapped.
static PAGE_ADDRESS: OnceLock<&'static AtomicU64> = OnceLock::new();

/// The process generation in which a handle was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token {
    born: u64,
    now: &'static AtomicU64,
}

impl Token {
    /// The token of this process.
    pub(crate) fn of_this_process() -> io::Result<Token> {
        let now = match PAGE_ADDRESS.get() {
            Some(page) => page,
            None => {
                let page = map_wiped_page()?;
                PAGE_ADDRESS.get_or_init(|| page)
            }
        };
        if now.load(Ordering::Relaxed) == 0 {
            let next = NEWEST.fetch_add(1, Ordering::Relaxed) + 1;
            // Another thread may have been quicker: its number serves as well.
            let _ = now.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed);
        }
        Ok(Token { born: now.load(Ordering::Relaxed), now })
    }

    /// Whether this is still the process that made the handle.
    pub(crate) fn is_current(&self) -> bool {
        self.now.load(Ordering::Relaxed) == self.born
    }
}

fn map_wiped_page() -> io::Result<&'static AtomicU64> {
    // SAFETY: a fresh private mapping of one page, page aligned and zeroed, never unmapped: a valid AtomicU64 for ever.
    // On failure of the second call the page is given back before anyone has seen it.
    unsafe {
        let address = libc::mmap(
            std::ptr::null_mut(),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        if libc::madvise(address, PAGE, libc::MADV_WIPEONFORK) == -1 {
            let error = io::Error::last_os_error();
            libc::munmap(address, PAGE);
            return Err(error);
        }
        Ok(&*address.cast::<AtomicU64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_current_where_it_was_made_and_not_in_a_child() {
        let token = Token::of_this_process().expect("one page of memory");
        assert!(token.is_current());
        // SAFETY: the child calls nothing but a load, an atomic exchange and _exit, all async-signal-safe (fork(2)).
        let status = unsafe {
            let child = libc::fork();
            if child == 0 {
                let stale = !token.is_current();
                let fresh = Token::of_this_process().is_ok_and(|mine| mine.is_current() && mine.born != token.born);
                libc::_exit(if stale && fresh && !token.is_current() { 0 } else { 1 });
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            status
        };
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "status {status:#x}");
        assert!(token.is_current());
    }
}
