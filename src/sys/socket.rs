//! Unix domain stream sockets. Every descriptor is born close-on-exec, and non-blocking where it does I/O.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{cvt, cvt_len, retry_eintr};

/// The longest path: `sun_path` less the NUL that ends it (unix(7)).
pub(crate) const MAX_PATH: usize = size_of::<[libc::c_char; 108]>() - 1;

/// The backlog asked for; the kernel cuts it to `net.core.somaxconn` (listen(2)).
const BACKLOG: libc::c_int = 4096;

/// A path or, where it begins with '@', an abstract name, as the kernel wants it (unix(7)).
struct Address {
    raw: libc::sockaddr_un,
    len: libc::socklen_t,
}

impl Address {
    fn new(path: &Path) -> io::Result<Address> {
        let bytes = path.as_os_str().as_bytes();
        if bytes.is_empty() || bytes.len() > MAX_PATH || bytes.contains(&0) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: all-zero is a valid sockaddr_un.
        let mut raw: libc::sockaddr_un = unsafe { std::mem::zeroed() };
        raw.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (to, from) in raw.sun_path.iter_mut().zip(bytes) {
            *to = *from as libc::c_char;
        }
        let abstract_name = bytes[0] == b'@';
        if abstract_name {
            raw.sun_path[0] = 0;
        }
        // A path's length counts its NUL; an abstract name is exactly as long as it is.
        let len = std::mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + usize::from(!abstract_name);
        Ok(Address { raw, len: len as libc::socklen_t })
    }

    fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.raw).cast()
    }
}

fn new_socket(kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes no pointers; the descriptor it returns is ours alone.
    unsafe {
        let fd = cvt(libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Binds a stream socket. Nobody can connect before [`listen`].
pub(crate) fn bind(path: &Path) -> io::Result<OwnedFd> {
    let address = Address::new(path)?;
    let fd = new_socket(libc::SOCK_STREAM)?;
    // SAFETY: `address` holds `len` valid bytes and outlives the call.
    cvt(unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr(), address.len) })?;
    Ok(fd)
}

/// Makes a bound socket listen.
pub(crate) fn listen(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointers.
    cvt(unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) })?;
    Ok(())
}

/// Accepts one connection; `WouldBlock` when none waits. An aborted one is passed over, as accept(2) advises.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    loop {
        let accepted = retry_eintr(|| {
            // SAFETY: no address is asked for, so both pointers may be NULL; the descriptor returned is ours alone.
            cvt(unsafe {
                libc::accept4(
                    listener.as_raw_fd(),
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                    libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                )
            })
        });
        match accepted {
            // SAFETY: a fresh descriptor that nobody else knows.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Connects a stream socket. On a Unix socket this is done at once or not at all: a full backlog is EAGAIN, and there
/// is nothing to poll (`unix_stream_connect`, net/unix/af_unix.c).
pub(crate) fn connect(path: &Path) -> io::Result<OwnedFd> {
    connect_kind(path, libc::SOCK_STREAM)
}

/// Connects a datagram socket, for notifications.
pub(crate) fn connect_datagram(path: &Path) -> io::Result<OwnedFd> {
    connect_kind(path, libc::SOCK_DGRAM)
}

fn connect_kind(path: &Path, kind: libc::c_int) -> io::Result<OwnedFd> {
    let address = Address::new(path)?;
    let fd = new_socket(kind)?;
    // SAFETY: `address` holds `len` valid bytes and outlives the call.
    retry_eintr(|| cvt(unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr(), address.len) }))?;
    Ok(fd)
}

/// Sends what the kernel takes at once. Never raises SIGPIPE, never waits.
pub(crate) fn send(fd: BorrowedFd<'_>, data: &[u8]) -> io::Result<usize> {
    retry_eintr(|| {
        // SAFETY: `data` is readable for its length during the call.
        cvt_len(unsafe {
            libc::send(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        })
    })
}

/// As [`send`], for two pieces in one call.
pub(crate) fn send_two(fd: BorrowedFd<'_>, pieces: [&[u8]; 2]) -> io::Result<usize> {
    let mut pieces =
        pieces.map(|piece| libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() });
    // SAFETY: a msghdr is a C struct of pointers and numbers, for which zeroes say: none.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = pieces.len() as _;
    retry_eintr(|| {
        // SAFETY: `message` and the pieces that it names are readable during the call.
        cvt_len(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
    })
}

/// Receives what is there, without waiting; 0 is the end of the stream. Without a control buffer, so descriptors that a
/// stranger attaches are closed by the kernel and never reach this process (unix(7), SCM_RIGHTS).
pub(crate) fn recv(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `MaybeUninit<u8>` has the layout of `u8`, and `recv_uninit` writes only initialised bytes.
    let buffer = unsafe { &mut *(std::ptr::from_mut(buffer) as *mut [MaybeUninit<u8>]) };
    recv_uninit(fd, buffer)
}

/// As [`recv`], but leaves in the kernel what it copies (MSG_PEEK, recv(2)).
pub(crate) fn peek(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    retry_eintr(|| {
        // SAFETY: `buffer` is writable for its length during the call.
        cvt_len(unsafe {
            libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT | libc::MSG_PEEK)
        })
    })
}

/// Receives at most `limit` bytes onto the end of `to`, within its capacity.
pub(crate) fn recv_append(fd: BorrowedFd<'_>, to: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
    let room = to.spare_capacity_mut();
    let limit = limit.min(room.len());
    let got = recv_uninit(fd, &mut room[..limit])?;
    // SAFETY: the kernel has initialised `got` bytes behind the old length, within the capacity.
    unsafe { to.set_len(to.len() + got) };
    Ok(got)
}

fn recv_uninit(fd: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    retry_eintr(|| {
        // SAFETY: `buffer` is writable for its length during the call.
        cvt_len(unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) })
    })
}

/// Ends the incoming direction: a peer's next send is EPIPE, what is queued stays readable (`unix_shutdown`). On a listener:
/// new connects are refused, what is in the backlog can still be accepted.
pub(crate) fn shutdown_read(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointers.
    cvt(unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RD) })?;
    Ok(())
}

/// Ends the outgoing direction: the peer reads what is queued, and then the end, whoever else holds this socket.
pub(crate) fn shutdown_write(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointers.
    cvt(unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) })?;
    Ok(())
}

/// Ends both directions, whoever else holds this socket.
pub(crate) fn shutdown_both(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointers.
    cvt(unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RDWR) })?;
    Ok(())
}

fn ioctl_int(fd: BorrowedFd<'_>, request: libc::c_ulong) -> io::Result<usize> {
    let mut value: libc::c_int = 0;
    // SAFETY: both requests used here write one int.
    cvt(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, &raw mut value) })?;
    Ok(usize::try_from(value).unwrap_or(0))
}

/// Whether anything waits to be received.
pub(crate) fn has_unread(fd: BorrowedFd<'_>) -> bool {
    bytes_readable(fd).is_ok_and(|bytes| bytes > 0)
}

/// How many bytes wait to be received (SIOCINQ, unix(7)).
pub(crate) fn bytes_readable(fd: BorrowedFd<'_>) -> io::Result<usize> {
    ioctl_int(fd, libc::FIONREAD)
}

/// What the peer has not received yet, as the kernel charges it (SIOCOUTQ, unix(7)): 0 means that it has received
/// everything; any other value says how much memory is held, not how many bytes.
pub(crate) fn bytes_unread_by_peer(fd: BorrowedFd<'_>) -> io::Result<usize> {
    ioctl_int(fd, libc::TIOCOUTQ)
}

fn get_option<T>(fd: BorrowedFd<'_>, option: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` has room for `len` bytes; every T used here is a plain C struct or int for which all-zero is
    // valid, so a shorter answer is sound too.
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

/// Takes the pending error off the socket (SO_ERROR, socket(7)). ECONNRESET: the peer went away over bytes that it had
/// not received; none: it had received them all (`unix_release_sock`).
pub(crate) fn take_error(fd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let errno: libc::c_int = get_option(fd, libc::SO_ERROR)?;
    Ok((errno != 0).then_some(errno))
}

/// Whether the peer has closed (POLLHUP: both directions are shut; POLLERR: over unread bytes; poll(2)). Takes nothing off
/// the socket, unlike [`take_error`].
pub(crate) fn has_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut asked = libc::pollfd { fd: fd.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one pollfd, as the count says; a time of 0 does not wait.
    let answered = unsafe { libc::poll(&raw mut asked, 1, 0) };
    answered == 1 && asked.revents & (libc::POLLHUP | libc::POLLERR) != 0
}

/// Asks for a send buffer and returns what the kernel made of it: doubled, and cut to `net.core.wmem_max` (socket(7)).
pub(crate) fn set_send_buffer(fd: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    set_int_option(fd, libc::SO_SNDBUF, libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX))
}

/// The size of the send buffer as the kernel counts it.
pub(crate) fn send_buffer(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let bytes: libc::c_int = get_option(fd, libc::SO_SNDBUF)?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Asks for a receive buffer. Without effect on a Unix stream socket of Linux.
pub(crate) fn set_receive_buffer(fd: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    set_int_option(fd, libc::SO_RCVBUF, libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX))
}

/// Process, user and group of the peer at the moment it connected (SO_PEERCRED, unix(7)).
pub(crate) fn peer_credentials(fd: BorrowedFd<'_>) -> io::Result<(i32, u32, u32)> {
    let credentials: libc::ucred = get_option(fd, libc::SO_PEERCRED)?;
    Ok((credentials.pid, credentials.uid, credentials.gid))
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
            // The kernel has written the length that it needs.
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() => {
                groups.resize(count, 0);
            }
            Err(error) => return Err(error),
        }
    }
}

/// What a descriptor from outside is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A listening Unix stream socket.
    UnixListener,
    /// Anything else, in words.
    Other(&'static str),
}

/// Looks at a descriptor that somebody else made (SO_DOMAIN, SO_TYPE, SO_ACCEPTCONN: socket(7)).
pub(crate) fn kind_of(fd: BorrowedFd<'_>) -> io::Result<Kind> {
    let domain: libc::c_int = get_option(fd, libc::SO_DOMAIN)?;
    let kind: libc::c_int = get_option(fd, libc::SO_TYPE)?;
    let listening: libc::c_int = get_option(fd, libc::SO_ACCEPTCONN)?;
    Ok(match (domain, kind, listening) {
        (libc::AF_UNIX, libc::SOCK_STREAM, 1) => Kind::UnixListener,
        (libc::AF_UNIX, libc::SOCK_STREAM, _) => Kind::Other("a connected Unix socket (Accept=yes), not a listener"),
        (libc::AF_UNIX, _, _) => Kind::Other("a Unix socket that is not a stream (use ListenStream=)"),
        _ => Kind::Other("not a Unix domain socket"),
    })
}

/// The address that a socket is bound to: a path, "@name" for an abstract one, empty if it has none.
pub(crate) fn local_path(fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
    // SAFETY: all-zero is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: `address` has room for `len` bytes.
    cvt(unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len) })?;
    let used = (len as usize).saturating_sub(std::mem::offset_of!(libc::sockaddr_un, sun_path));
    let mut bytes: Vec<u8> = address.sun_path.iter().take(used).map(|c| *c as u8).collect();
    match bytes.first_mut() {
        Some(first @ 0) => *first = b'@',
        _ => bytes.truncate(bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len())),
    }
    Ok(std::ffi::OsStr::from_bytes(&bytes).into())
}

/// Takes over a descriptor that was passed to this process: marks it close-on-exec. The other flags live on the open
/// file description, which its giver shares, and stay as they are, but O_NONBLOCK: accepting must never wait.
///
/// The caller must be the only one that adopts this number (`systemd` keeps the list).
pub(crate) fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    set_cloexec(fd)?;
    // SAFETY: fcntl with F_GETFL and F_SETFL takes no pointers; `fd` is open, or the call above had failed.
    unsafe {
        let flags = cvt(libc::fcntl(fd, libc::F_GETFL))?;
        cvt(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Looks at a descriptor by number without taking it over.
pub(crate) fn kind_of_number(fd: RawFd) -> io::Result<(Kind, PathBuf)> {
    // SAFETY: the borrow ends with this call; a number that is not open yields EBADF from every call on it.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok((kind_of(borrowed)?, local_path(borrowed)?))
}

/// Marks a descriptor close-on-exec.
pub(crate) fn set_cloexec(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes no pointers; a number that is not open yields EBADF.
    cvt(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    Ok(())
}

/// Whether a connect failed because another type of socket is bound there (EPROTOTYPE, connect(2)).
pub(crate) fn is_other_type(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPROTOTYPE)
}
