//! The ground floor: the only room that calls the operating system. It knows numbers and descriptors, and decides nothing.
//!
//! - `socket`: listen, accept, connect, send, receive, socket options, peer identity
//! - `event`: one epoll set with a wake-up and a timer
//! - `lock`: locks that a forked child can use
//! - `thread`: threads born with all signals blocked
//! - `fork`: whether this process is the one that made a handle
//! - `file`: what the standard library lacks of files: lock, group
//! - `memory`: memory that costs nothing before it is used
//! - `cache`: hints to the processor
#![allow(unsafe_code)]

use std::io;

pub(crate) mod cache;
pub(crate) mod event;
pub(crate) mod file;
pub(crate) mod fork;
pub(crate) mod lock;
pub(crate) mod memory;
pub(crate) mod socket;
pub(crate) mod thread;

/// Turns the kernel's -1 into an error: the one place that reads `errno`.
pub(crate) fn cvt(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// As [`cvt`], for calls that return a length.
pub(crate) fn cvt_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Whether the program has rights that whoever started it has not: set-user-ID, set-group-ID, file capabilities
/// (AT_SECURE, getauxval(3); what secure_getenv(3) goes by). Later changes of user do not matter.
pub(crate) fn has_more_rights_than_its_starter() -> bool {
    // SAFETY: takes a number, returns one, 0 for an unknown one.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Repeats a call that a signal handler of the host interrupted (EINTR, signal(7)).
pub(crate) fn retry_eintr<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Whether this errno says that descriptors, threads or memory are used up, for us or for the whole system.
pub(crate) fn is_exhaustion(errno: i32) -> bool {
    matches!(errno, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC | libc::EDQUOT)
}

/// Whether this errno says that we may not.
pub(crate) fn is_permission(errno: i32) -> bool {
    matches!(errno, libc::EACCES | libc::EPERM | libc::EROFS)
}

/// What a send would have said: the peer is gone (EPIPE).
pub(crate) fn broken_pipe() -> io::Error {
    io::Error::from_raw_os_error(libc::EPIPE)
}

/// Closes a descriptor by number: for a forked child, where nobody can own it any more.
pub(crate) fn close_inherited(fd: std::os::fd::RawFd) {
    // SAFETY: the caller is the only thread of a forked child (`fork::Token`), the owner of the number is never dropped
    // there, and each number is passed once.
    unsafe { libc::close(fd) };
}
