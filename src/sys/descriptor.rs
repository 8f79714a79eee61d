//! The descriptors of the library. Each is 3 or larger, close-on-exec, and closed in every forked child at once.
//!
//! 1. A descriptor is made and entered in the table (`fd_table`) inside a [`NoFork`]: fork(2) waits for its end, so a
//!    child never inherits a descriptor that is not in the table.
//! 2. The child handler of `fork` closes the child's copies of all descriptors in the table. From then on the generation of
//!    an inherited [`Descriptor`] is not the current one, and dropping it does nothing: its number may be another file.
//! 3. A drop removes the number from the table first and closes the descriptor then, without any lock: close(2) of a socket
//!    can take as long as a peer likes (a TCP socket with SO_LINGER in its queue, unix(7)). A child that is forked in
//!    between keeps its copy. The other order would be worse: the child could close a number that is another file by then.
//! 4. What may block, such as opening a file, happens before its [`NoFork`]. A child that is forked in between keeps a
//!    copy of a file that nobody has locked yet.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd as _, OwnedFd, RawFd};

use super::cvt;
use super::fd_table::OF_THIS_PROCESS;
use super::fork::{Generation, NoFork};

/// 0, 1 and 2 are standard input, output and error: a host that has closed them may still print.
const LOWEST: RawFd = 3;

/// A descriptor of the library. In a forked child it is closed, and dropping it does nothing.
pub(crate) struct Descriptor {
    fd: RawFd,
    generation: Generation,
}

impl Descriptor {
    /// Makes a descriptor: `call` returns a number that it has just opened, or -1 and errno. `call` must not block.
    pub(super) fn create(call: impl FnOnce() -> libc::c_int) -> io::Result<Descriptor> {
        let generation = Generation::current()?;
        let no_fork = NoFork::enter();
        let fd = cvt(call())?;
        Descriptor::register(fd, generation, no_fork)
    }

    /// As [`Descriptor::create`], for a call that returns something else and perhaps a descriptor.
    pub(super) fn receive<T>(
        call: impl FnOnce() -> io::Result<(T, Option<RawFd>)>,
    ) -> io::Result<(T, Option<Descriptor>)> {
        let generation = Generation::current()?;
        let no_fork = NoFork::enter();
        let (result, fd) = call()?;
        let descriptor = fd.map(|fd| Descriptor::register(fd, generation, no_fork)).transpose()?;
        Ok((result, descriptor))
    }

    /// Takes over a descriptor that was opened without [`Descriptor::create`].
    pub(crate) fn adopt(fd: OwnedFd) -> io::Result<Descriptor> {
        let generation = Generation::current()?;
        Descriptor::register(fd.into_raw_fd(), generation, NoFork::enter())
    }

    fn register(fd: RawFd, generation: Generation, _no_fork: NoFork) -> io::Result<Descriptor> {
        let fd = if fd < LOWEST { move_up(fd)? } else { fd };
        OF_THIS_PROCESS.insert(fd).inspect_err(|_| close(fd))?;
        Ok(Descriptor { fd, generation })
    }

    /// For a descriptor that the host has closed (EBADF): its number may be another file by now, so it is not closed again.
    pub(crate) fn forget(self) {
        if self.generation.is_current() {
            OF_THIS_PROCESS.remove(self.fd);
        }
        std::mem::forget(self);
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if self.generation.is_current() {
            OF_THIS_PROCESS.remove(self.fd);
            close(self.fd);
        }
    }
}

/// Replaces a number below [`LOWEST`].
fn move_up(low: RawFd) -> io::Result<RawFd> {
    // SAFETY: takes no pointers.
    let moved = cvt(unsafe { libc::fcntl(low, libc::F_DUPFD_CLOEXEC, LOWEST) });
    close(low);
    moved
}

fn close(fd: RawFd) {
    // SAFETY: takes no pointers; the callers own the number and do not use it again. Whatever close(2) returns, the number
    // is free.
    unsafe { libc::close(fd) };
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as `self` lives; in a forked child nobody uses it (`fork::Token`).
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Descriptor").field(&self.fd).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::sys::fork::tests::in_forked_child;

    fn eventfd() -> Descriptor {
        // SAFETY: takes no pointers.
        Descriptor::create(|| unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }).expect("a descriptor")
    }

    fn is_open(fd: RawFd) -> bool {
        // SAFETY: takes no pointers.
        unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
    }

    #[test]
    fn an_option_of_a_descriptor_is_as_large_as_a_descriptor() {
        assert_eq!(size_of::<Option<Descriptor>>(), 8);
    }

    #[test]
    fn dropped_it_is_closed_and_forgotten_it_is_not() {
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        drop(Descriptor::adopt(theirs.into()).expect("registered"));
        assert_eq!(ours.read(&mut [0]).expect("the end"), 0);
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
        Descriptor::adopt(theirs.try_clone().expect("a duplicate").into()).expect("registered").forget();
        theirs.write_all(b"x").expect("sent");
        drop(theirs);
        assert_eq!(ours.read(&mut [0]).expect("a byte"), 1);
        ours.set_nonblocking(true).expect("non-blocking");
        assert_eq!(ours.read(&mut [0]).expect_err("still open").kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_refused_call_makes_no_descriptor() {
        // SAFETY: takes no pointers.
        let refused = Descriptor::create(|| unsafe { libc::eventfd(0, -1) });
        assert_eq!(refused.expect_err("a bad flag").raw_os_error(), Some(libc::EINVAL));
    }

    /// In a child, since descriptors 0, 1 and 2 are the whole process's.
    #[test]
    fn it_is_three_or_larger_although_lower_numbers_are_free() {
        in_forked_child(|| {
            (0..3).for_each(close);
            let all = [eventfd(), eventfd(), eventfd()];
            let high = all.iter().all(|descriptor| descriptor.as_raw_fd() >= 3 && is_open(descriptor.as_raw_fd()));
            // SAFETY: takes no pointers.
            let close_on_exec = |fd: RawFd| unsafe { libc::fcntl(fd, libc::F_GETFD) } & libc::FD_CLOEXEC != 0;
            high && !(0..3).any(is_open) && all.iter().all(|descriptor| close_on_exec(descriptor.as_raw_fd()))
        });
    }

    #[test]
    fn a_forked_child_has_no_copy_and_its_drop_closes_nothing() {
        let (inherited, kept) = (eventfd(), eventfd());
        in_forked_child(|| {
            let gone = !is_open(inherited.as_raw_fd()) && !is_open(kept.as_raw_fd());
            // The lowest free numbers, those two among them, now mean other files.
            let mine: Vec<_> = (0..64).map(|_| eventfd()).collect();
            let number = inherited.as_raw_fd();
            let reused = mine.iter().any(|own| own.as_raw_fd() == number);
            // SAFETY: `inherited` is not dropped again in this child.
            drop(unsafe { std::ptr::read(&raw const inherited) });
            gone && reused && is_open(number)
        });
        assert!(is_open(inherited.as_raw_fd()) && is_open(kept.as_raw_fd()));
    }
}
