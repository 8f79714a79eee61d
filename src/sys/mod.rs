//! The only module that calls the operating system. Thin: numbers and descriptors in, `io::Result` out, no policy.
//!
//! - `socket`: listen, accept, connect, send, receive, socket options, peer identity
//! - `event`: one epoll set with a wake-up and a timer
//! - `inotify`: changes of directories and socket files
//! - `lock`: mutex and condition variable that a forked child can use
//! - `descriptor`: descriptors that a forked child closes at once; `fd_table`: the set of their numbers
//! - `thread`: threads that start with the host's signals blocked; `loader`: keeps their code in memory after dlclose(3)
//! - `fork`: the handlers of fork(2), and whether this process is the one that made a handle
//! - `cancellation`: keeps pthread_cancel(3) out of the library's calls
//! - `file`: what the standard library lacks: a lock on a directory, mode and group of an open file
//! - `overflow_id`: the ids that stand for all users and groups without a mapping
//! - `ledger`: memory that a reader writes and its writers can read after its death
//! - `ring`: memory through which a writer passes frames to its reader; `memfd`: what the two have in common
//! - `memory`: zeroed memory that the kernel provides on first use
//! - `once_box`: a value that may come later, in the space of a pointer
//! - `cache`: prefetch hints; `ticks`: the processor's time stamp counter
#![allow(unsafe_code)]

use std::io;

pub(crate) mod cache;
pub(crate) mod cancellation;
pub(crate) mod descriptor;
pub(crate) mod event;
mod fd_table;
pub(crate) mod file;
pub(crate) mod fork;
pub(crate) mod inotify;
pub(crate) mod ledger;
mod loader;
pub(crate) mod lock;
mod memfd;
pub(crate) mod memory;
pub(crate) mod once_box;
pub(crate) mod overflow_id;
pub(crate) mod ring;
pub(crate) mod socket;
pub(crate) mod thread;
pub(crate) mod ticks;

/// Turns a result of -1 into the error in `errno`. The only place, with [`cvt_len`], that reads `errno`.
fn cvt(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// As [`cvt`], for calls that return a length.
fn cvt_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Whether the program has more rights than the user who started it: set-user-ID, set-group-ID, file capabilities
/// (AT_SECURE, getauxval(3); secure_getenv(3) asks the same). Later changes of user do not matter.
pub(crate) fn is_privileged_by_exec() -> bool {
    // SAFETY: takes a number, returns one, 0 for an unknown one.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// The effective user id of this process.
pub(crate) fn effective_uid() -> u32 {
    // SAFETY: takes nothing and always succeeds (geteuid(2)).
    unsafe { libc::geteuid() }
}

/// Random bits that no other process has (getrandom(2)).
pub(crate) fn random_bytes() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    // SAFETY: writable for its length. So few bytes come whole.
    retry_eintr(|| cvt_len(unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) }))?;
    Ok(bytes)
}

/// Repeats a call that a signal handler of the host interrupted (EINTR, signal(7)).
fn retry_eintr<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Whether this errno means that descriptors, threads or memory are used up, in the process or in the whole system.
pub(crate) fn is_exhaustion(errno: i32) -> bool {
    matches!(errno, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC | libc::EDQUOT)
}

/// Whether this errno means that permission is missing.
pub(crate) fn is_permission(errno: i32) -> bool {
    matches!(errno, libc::EACCES | libc::EPERM | libc::EROFS)
}

/// Whether this is EBADF: the descriptor is not open, because the host has closed it.
pub(crate) fn is_bad_descriptor(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBADF)
}

/// EBADF, which every call on a descriptor returns that the host has closed.
pub(crate) fn bad_descriptor() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

/// EPIPE, which a send to a closed peer returns.
pub(crate) fn broken_pipe() -> io::Error {
    io::Error::from_raw_os_error(libc::EPIPE)
}
