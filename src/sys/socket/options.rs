//! Options of a socket, and what the kernel says of its state and its peer.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use crate::sys::cvt;
use crate::sys::descriptor::Descriptor;

fn ioctl_int(fd: BorrowedFd<'_>, request: libc::c_ulong) -> io::Result<usize> {
    let mut value: libc::c_int = 0;
    // SAFETY: both requests used here write one int.
    cvt(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, &raw mut value) })?;
    Ok(usize::try_from(value).unwrap_or(0))
}

/// Whether bytes wait to be received.
pub(crate) fn has_unread(fd: BorrowedFd<'_>) -> bool {
    bytes_readable(fd).is_ok_and(|bytes| bytes > 0)
}

/// How many bytes wait to be received (SIOCINQ, unix(7)).
pub(crate) fn bytes_readable(fd: BorrowedFd<'_>) -> io::Result<usize> {
    ioctl_int(fd, libc::FIONREAD)
}

/// Memory of the bytes that the peer has not received (SIOCOUTQ, unix(7)). 0: the peer has received everything, or has closed.
/// Any other value is the kernel's charge, not a number of bytes.
pub(crate) fn bytes_unread_by_peer(fd: BorrowedFd<'_>) -> io::Result<usize> {
    ioctl_int(fd, libc::TIOCOUTQ)
}

/// The value of a socket option. [`get_option`] is sound for no other type.
///
/// # Safety
///
/// Every bit pattern must be a valid value: plain numbers and C structs of them.
pub(super) unsafe trait OptionValue {}
// SAFETY: a number.
unsafe impl OptionValue for libc::c_int {}
// SAFETY: three numbers.
unsafe impl OptionValue for libc::ucred {}

pub(super) fn get_option<T: OptionValue>(fd: BorrowedFd<'_>, option: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` has room for `len` bytes; whatever the kernel writes, any bytes are a valid T.
    unsafe {
        cvt(libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, value.as_mut_ptr().cast(), &raw mut len))?;
        Ok(value.assume_init())
    }
}

fn set_int_option(fd: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: `value` is one int, and its size is given.
    cvt(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Takes the pending error off the socket (SO_ERROR, socket(7)). After the peer has closed, ECONNRESET means that it had not
/// received all bytes, and no error that it had (`unix_release_sock`).
pub(crate) fn take_error(fd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let errno: libc::c_int = get_option(fd, libc::SO_ERROR)?;
    Ok((errno != 0).then_some(errno))
}

/// Whether the peer has closed (POLLHUP: both directions are shut; POLLERR: with unread bytes; poll(2)), or the host has closed
/// the descriptor (POLLNVAL). Leaves the pending error on the socket, unlike [`take_error`].
pub(crate) fn has_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut asked = libc::pollfd { fd: fd.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one pollfd, as the count says; a time of 0 does not wait.
    let answered = unsafe { libc::poll(&raw mut asked, 1, 0) };
    answered == 1 && asked.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
}

/// Sets the send buffer. The kernel doubles the size and cuts it to `net.core.wmem_max` (socket(7)).
pub(crate) fn set_send_buffer(fd: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    set_int_option(fd, libc::SO_SNDBUF, libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX))
}

/// The size of the send buffer as the kernel counts it: after [`set_send_buffer`] twice the given size.
pub(crate) fn send_buffer(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let bytes: libc::c_int = get_option(fd, libc::SO_SNDBUF)?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Sets the receive buffer. Without effect on Unix stream sockets of Linux.
pub(crate) fn set_receive_buffer(fd: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    set_int_option(fd, libc::SO_RCVBUF, libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX))
}

/// Process, user and group of the peer at the moment it connected (SO_PEERCRED, unix(7)).
pub(crate) fn peer_credentials(fd: BorrowedFd<'_>) -> io::Result<(i32, u32, u32)> {
    let credentials: libc::ucred = get_option(fd, libc::SO_PEERCRED)?;
    Ok((credentials.pid, credentials.uid, credentials.gid))
}

/// The inode of the peer's pidfd (SO_PEERPIDFD, Linux 6.5): identifies its process in every pid namespace, and is not reused.
/// `None` before Linux 6.9, where all pidfds have the same inode.
pub(crate) fn peer_pid_inode(fd: BorrowedFd<'_>) -> Option<u64> {
    const SO_PEERPIDFD: libc::c_int = 77;
    const PID_FS_MAGIC: u64 = 0x5049_4446;
    let pidfd = Descriptor::create(|| get_option(fd, SO_PEERPIDFD).unwrap_or(-1)).ok()?;
    // SAFETY: all-zero is valid for both structures, which the calls fill.
    unsafe {
        let mut system: libc::statfs = std::mem::zeroed();
        let mut status: libc::stat = std::mem::zeroed();
        cvt(libc::fstatfs(pidfd.as_raw_fd(), &raw mut system)).ok()?;
        cvt(libc::fstat(pidfd.as_raw_fd(), &raw mut status)).ok()?;
        (system.f_type as u64 == PID_FS_MAGIC).then_some(status.st_ino)
    }
}

/// Makes a peer's attempt to pass descriptors fail (SO_PASSRIGHTS, Linux 6.16). On a listener: of all later peers.
pub(crate) fn refuse_descriptors(fd: BorrowedFd<'_>) -> io::Result<()> {
    const SO_PASSRIGHTS: libc::c_int = 83;
    set_int_option(fd, SO_PASSRIGHTS, 0)
}

/// The peer's supplementary groups at the moment it connected (SO_PEERGROUPS, Linux 4.13).
pub(crate) fn peer_groups(fd: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut len = (groups.len() * size_of::<libc::gid_t>()) as libc::socklen_t;
        // SAFETY: `groups` has room for `len` bytes.
        let result = cvt(unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        });
        let count = len as usize / size_of::<libc::gid_t>();
        match result {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            // The kernel has written the needed length into `len`.
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() => {
                groups.resize(count, 0);
            }
            Err(error) => return Err(error),
        }
    }
}
