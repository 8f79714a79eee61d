//! fork(2): a child closes its copies of the parent's descriptors, and recognises the parent's handles.
//!
//! Handlers of pthread_atfork(3), registered with the first handle, run at every fork(3). They do not run for _Fork(3),
//! vfork(2) and a bare clone(2). One page that the kernel empties in every child (MADV_WIPEONFORK, madvise(2), Linux
//! 4.14) holds the generation of the process, so that those children are recognised too. Where the kernel refuses, the
//! generation lies in ordinary memory, and the handlers alone advance it.
//!
//! Nothing here is a lock that a child could inherit locked:
//!
//! 1. [`STATE`] counts threads that hold forks off ([`NoFork`]), and threads that are forking. A thread that begins one of
//!    the two waits for the end of the other, for a limited time: see [`MOST_WAIT`].
//! 2. The prepare handler counts its thread as forking, and the handlers after the fork take that back: in the parent
//!    by one, in the child altogether, since no other thread exists there.
//! 3. Two threads that make the first handle at once may both register the handlers. All of them come in pairs, and the
//!    child handler does its work only if it finds a thread that is forking.
//! 4. In a child for which no handler has run, the generation is 0. The first call of [`Generation::current`] there resets
//!    the inherited state: it empties the table of descriptors without closing any, since their numbers may be other files
//!    by then, and sets [`STATE`] to 0.
//! 5. A handler of the host that was registered earlier runs before that of the library in the child, and may make
//!    handles. The generation is 0 there as well, but the thread is forking ([`FORKS_HERE`]): then the inherited descriptors
//!    are closed, and the library's own handler finds none.

use std::cell::Cell;
use std::io;
use std::num::NonZeroU32;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::cancellation::without_cancellation;
use super::fd_table::OF_THIS_PROCESS as DESCRIPTORS;
use super::thread::restore_signals;
use super::{ledger, memory, ring};

const PAGE: usize = 4096;

/// The newest generation of this process and its ancestors. In ordinary memory, so it survives a fork, unlike the page.
static NEWEST: AtomicU32 = AtomicU32::new(1);

/// Where the generation of this process is kept: null until the first handle is made, then the page or
/// [`FALLBACK_GENERATION`], for ever.
static GENERATION: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());
static FALLBACK_GENERATION: AtomicU32 = AtomicU32::new(1);

/// Values of the page that are no generation. WIPED: emptied by the kernel. SETTLING: a thread carries out rule 4.
const WIPED: u32 = 0;
const SETTLING: u32 = u32::MAX;

static REGISTERED: AtomicBool = AtomicBool::new(false);

static STATE: AtomicU32 = AtomicU32::new(0);
const HOLDING: u32 = 1;
const FORKING: u32 = 1 << 16;

/// How long fork(2) waits for threads that hold it off, and those threads for fork(2). Both usually take microseconds. The
/// limit prevents a deadlock: a fork handler of the host may wait for a lock whose holder waits here. After this time a child
/// may keep a descriptor of its parent.
const MOST_WAIT: Duration = Duration::from_secs(1);
const WAIT_STEP: Duration = Duration::from_micros(50);

/// A number of this process that no ancestor has had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation(NonZeroU32);

impl Generation {
    /// The generation of this process, for an object that is made now.
    pub(super) fn current() -> io::Result<Generation> {
        let current = current()?;
        register_handlers()?;
        loop {
            match settled(current) {
                Some(number) => return Ok(Generation(number)),
                None => std::thread::yield_now(),
            }
        }
    }

    /// Whether this is still the process that made the object.
    pub(super) fn is_current(self) -> bool {
        // SAFETY: never null, since a `Generation` exists, and never unmapped.
        let current = unsafe { &*GENERATION.load(Ordering::Acquire) };
        current.load(Ordering::Relaxed) == self.0.get()
    }
}

/// As [`Generation`], for the path of every message: the check is one load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token {
    born: Generation,
    now: &'static AtomicU32,
}

impl Token {
    /// The token of this process.
    pub(crate) fn of_this_process() -> io::Result<Token> {
        Ok(Token { born: Generation::current()?, now: current()? })
    }

    /// Whether this is still the process that made the handle.
    pub(crate) fn is_current(&self) -> bool {
        self.now.load(Ordering::Relaxed) == self.born.0.get()
    }
}

fn current() -> io::Result<&'static AtomicU32> {
    if GENERATION.load(Ordering::Acquire).is_null() {
        let made = map_wiped_page()?;
        let null = ptr::null_mut();
        if GENERATION.compare_exchange(null, made, Ordering::AcqRel, Ordering::Acquire).is_err()
            && made != FALLBACK_GENERATION.as_ptr().cast()
        {
            // SAFETY: another thread was quicker, and no other code has this address.
            unsafe { libc::munmap(made.cast(), PAGE) };
        }
    }
    // SAFETY: not null any more, and never unmapped.
    Ok(unsafe { &*GENERATION.load(Ordering::Acquire) })
}

/// A page with a generation in it, or [`FALLBACK_GENERATION`] if the kernel does not empty pages (before 4.14, gVisor).
fn map_wiped_page() -> io::Result<*mut AtomicU32> {
    let page = memory::map_zeroes(PAGE)?;
    // SAFETY: a fresh mapping of one page that no other code knows: an AtomicU32 fits, and the page may be unmapped.
    unsafe {
        if libc::madvise(page.as_ptr().cast(), PAGE, libc::MADV_WIPEONFORK) == -1 {
            libc::munmap(page.as_ptr().cast(), PAGE);
            return Ok((&raw const FALLBACK_GENERATION).cast_mut());
        }
        let page = page.as_ptr().cast::<AtomicU32>();
        (*page).store(NEWEST.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(page)
    }
}

/// The generation. Carries out rule 4 first, in a child for which no handler has run; `None` while another thread does so.
fn settled(current: &AtomicU32) -> Option<NonZeroU32> {
    match current.load(Ordering::Acquire) {
        WIPED => {
            current.compare_exchange(WIPED, SETTLING, Ordering::Acquire, Ordering::Relaxed).ok()?;
            if FORKS_HERE.get() {
                close_inherited();
            } else {
                DESCRIPTORS.take_all(drop);
                ledger::leave_inherited();
                ring::leave_inherited();
            }
            STATE.store(HELD.get(), Ordering::SeqCst);
            current.store(next_generation(), Ordering::Release);
            None
        }
        SETTLING => None,
        number => NonZeroU32::new(number),
    }
}

fn next_generation() -> u32 {
    NEWEST.fetch_add(1, Ordering::Relaxed) + 1
}

/// While one exists, fork(2) waits: no child inherits a descriptor that is not in the table yet, or a `static` lock that is
/// held. For code that neither blocks nor runs callbacks.
#[derive(Debug)]
pub(crate) struct NoFork(());

impl NoFork {
    /// Waits for forks that other threads have begun, unless this thread already holds forks off.
    pub(crate) fn enter() -> NoFork {
        // May fail for want of memory, with the first handle: then fork(2) does not wait.
        let _ = register_handlers();
        let held = HELD.get();
        let is_free = held > 0 || FORKS_HERE.get(); // the latter in a fork handler of the host
        let mut wait = Wait::new();
        while STATE.fetch_add(HOLDING, Ordering::SeqCst) >= FORKING && !is_free && wait.goes_on() {
            leave(HOLDING);
            wait.step();
        }
        HELD.set(held + 1);
        NoFork(())
    }
}

impl Drop for NoFork {
    fn drop(&mut self) {
        HELD.set(HELD.get().saturating_sub(1));
        leave(HOLDING);
    }
}

/// Takes one `what` off [`STATE`], if one is counted there.
fn leave(what: u32) {
    let mask = if what == HOLDING { FORKING - 1 } else { !(FORKING - 1) };
    let less = |state: u32| (state & mask != 0).then(|| state - what);
    let _ = STATE.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
}

struct Wait(Option<Instant>);

impl Wait {
    fn new() -> Wait {
        Wait(None)
    }

    fn goes_on(&mut self) -> bool {
        let now = Instant::now();
        now < *self.0.get_or_insert(now + MOST_WAIT)
    }

    fn step(&self) {
        std::thread::sleep(WAIT_STEP);
    }
}

fn register_handlers() -> io::Result<()> {
    if REGISTERED.load(Ordering::Acquire) {
        return Ok(());
    }
    // SAFETY: three functions that live as long as this object is loaded: the C library removes an object's handlers when it
    // is unloaded (pthread_atfork is linked into each object for that purpose).
    match unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork_in_parent), Some(after_fork_in_child)) } {
        0 => REGISTERED.store(true, Ordering::Release),
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    Ok(())
}

extern "C" fn before_fork() {
    // SAFETY: null, or never unmapped.
    let current = unsafe { GENERATION.load(Ordering::Acquire).as_ref() };
    without_cancellation(|| {
        let mut wait = Wait::new();
        // Before the thread is counted, because rule 4 resets the count.
        while current.is_some_and(|current| settled(current).is_none()) && wait.goes_on() {
            wait.step();
        }
        STATE.fetch_add(FORKING, Ordering::SeqCst);
        FORKS_HERE.set(true);
        while STATE.load(Ordering::SeqCst) & (FORKING - 1) > HELD.get() && wait.goes_on() {
            wait.step();
        }
    });
}

extern "C" fn after_fork_in_parent() {
    FORKS_HERE.set(false);
    leave(FORKING);
}

extern "C" fn after_fork_in_child() {
    if !FORKS_HERE.replace(false) {
        return; // registered twice, and done already
    }
    if STATE.swap(HELD.get(), Ordering::SeqCst) >= FORKING {
        close_inherited();
        // SAFETY: null, or never unmapped.
        if let Some(current) = unsafe { GENERATION.load(Ordering::Acquire).as_ref() } {
            current.store(next_generation(), Ordering::Release);
        }
    }
    if let Some(mask) = HOST_MASK.take() {
        restore_signals(&mask);
    }
}

/// In a child: closes the copies of all descriptors of the library, and replaces what it shares with its peers by private pages.
fn close_inherited() {
    without_cancellation(|| {
        DESCRIPTORS.take_all(|fd| {
            // SAFETY: takes no pointers. The numbers are the library's, and no code in this child uses them.
            unsafe { libc::close(fd) };
        });
        ledger::leave_inherited();
        ring::leave_inherited();
    });
}

thread_local! {
    /// This thread is between the prepare handler and the one after the fork, in the child as well.
    static FORKS_HERE: Cell<bool> = const { Cell::new(false) };
    /// How many [`NoFork`]s this thread has: a signal handler that forks does not wait for its own thread.
    static HELD: Cell<u32> = const { Cell::new(0) };
    /// In a thread of the library: the signal mask that the host would have in its place.
    static HOST_MASK: Cell<Option<libc::sigset_t>> = const { Cell::new(None) };
}

/// Marks this as a thread of the library. A child that a callback forks gets the host's mask back.
pub(super) fn remember_host_mask(mask: libc::sigset_t) {
    HOST_MASK.set(Some(mask));
}

/// The mask from [`remember_host_mask`], in a thread of the library.
pub(super) fn host_mask() -> Option<libc::sigset_t> {
    HOST_MASK.get()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Runs `body` in a child of fork(2), which is all that exists there. It may make descriptors, and must neither
    /// print nor panic.
    pub(crate) fn in_forked_child(body: impl FnOnce() -> bool) {
        // SAFETY: the child runs `body` and ends without returning into the test.
        let status = unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::_exit(if body() { 0 } else { 1 });
            }
            wait_for(child)
        };
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "status {status:#x}");
    }

    fn wait_for(child: libc::pid_t) -> libc::c_int {
        let mut status = 0;
        // SAFETY: `status` is writable.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        status
    }

    #[test]
    fn a_token_is_current_where_it_was_made_and_not_in_a_child() {
        let token = Token::of_this_process().expect("one page of memory");
        assert!(token.is_current());
        in_forked_child(|| {
            let stale = !token.is_current() && !token.born.is_current();
            let fresh = Token::of_this_process().is_ok_and(|mine| mine.is_current() && mine.born != token.born);
            stale && fresh && !token.is_current()
        });
        assert!(token.is_current());
    }

    /// As a child of _Fork(3) or of a bare clone(2).
    #[test]
    fn a_child_without_handlers_recognises_itself_and_starts_anew() {
        let token = Token::of_this_process().expect("one page of memory");
        // SAFETY: as fork(2) without its handlers; the child makes system calls and ends.
        let status = unsafe {
            let child = libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0);
            if child == 0 {
                let stale = !token.is_current();
                let fresh = Token::of_this_process().is_ok_and(|mine| mine.is_current() && mine.born != token.born);
                let mut inherited = 0;
                DESCRIPTORS.take_all(|_| inherited += 1);
                libc::_exit(if stale && fresh && inherited == 0 { 0 } else { 1 });
            }
            wait_for(child as libc::pid_t)
        };
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "status {status:#x}");
    }

    #[test]
    fn without_a_page_that_is_emptied_the_handlers_alone_advance_the_generation() {
        // In a child, since the page is this process's; and a child of that, since its generation is to change.
        in_forked_child(|| {
            let before = FALLBACK_GENERATION.load(Ordering::Relaxed);
            GENERATION.store((&raw const FALLBACK_GENERATION).cast_mut(), Ordering::Release);
            let Ok(token) = Token::of_this_process() else { return false };
            let current = token.is_current() && token.born.0.get() == before;
            in_forked_child(|| {
                let stale = !token.is_current();
                let fresh = Token::of_this_process().is_ok_and(|mine| mine.is_current() && mine.born != token.born);
                stale && fresh
            });
            current && token.is_current()
        });
    }

    #[test]
    fn handlers_that_are_registered_twice_do_their_work_once() {
        in_forked_child(|| {
            let Ok(token) = Token::of_this_process() else { return false };
            before_fork();
            before_fork();
            let counted = STATE.load(Ordering::SeqCst) == 2 * FORKING;
            after_fork_in_parent();
            after_fork_in_parent();
            let parent = counted && STATE.load(Ordering::SeqCst) == 0 && token.is_current();
            before_fork();
            before_fork();
            after_fork_in_child();
            let Ok(child) = Token::of_this_process() else { return false };
            after_fork_in_child();
            parent && !token.is_current() && child.is_current() && STATE.load(Ordering::SeqCst) == 0
        });
    }

    #[test]
    fn neither_a_fork_nor_a_new_descriptor_waits_for_ever() {
        in_forked_child(|| {
            let start = Instant::now();
            STATE.fetch_add(HOLDING, Ordering::SeqCst); // another thread, which is held up
            before_fork();
            leave(HOLDING);
            let waited = start.elapsed();
            FORKS_HERE.set(false); // as beside a fork handler of the host that waits for this thread
            drop(NoFork::enter());
            let waited_again = start.elapsed() - waited;
            after_fork_in_parent();
            waited >= MOST_WAIT && waited_again >= MOST_WAIT && STATE.load(Ordering::SeqCst) == 0
        });
    }

    #[test]
    fn a_thread_does_not_wait_for_itself() {
        in_forked_child(|| {
            let start = Instant::now();
            let outer = NoFork::enter();
            before_fork(); // as in a signal handler of this thread, and then in a fork handler of the host
            let inner = NoFork::enter();
            let counted = STATE.load(Ordering::SeqCst) == FORKING + 2 * HOLDING;
            after_fork_in_child();
            let in_child = STATE.load(Ordering::SeqCst) == 2 * HOLDING;
            drop((inner, outer));
            after_fork_in_parent();
            let quick = start.elapsed() < MOST_WAIT;
            counted && in_child && quick && STATE.load(Ordering::SeqCst) == 0
        });
    }
}
