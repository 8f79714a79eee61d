//! Unix domain stream sockets. Every descriptor is born close-on-exec, and non-blocking where it does I/O.

use std::io;
use std::mem::{MaybeUninit, offset_of, size_of};
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::descriptor::Descriptor;
use super::{cvt, cvt_len, retry_eintr};

mod options;
mod passing;

pub(crate) use options::*;
pub(crate) use passing::*;

/// The longest path: `sun_path` less the NUL that ends it (unix(7)).
pub(crate) const MAX_PATH: usize = size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path) - 1;

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
        let len = offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + usize::from(!abstract_name);
        Ok(Address { raw, len: len as libc::socklen_t })
    }

    fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.raw).cast()
    }
}

fn new_socket(kind: libc::c_int) -> io::Result<Descriptor> {
    // SAFETY: socket(2) takes no pointers.
    Descriptor::create(|| unsafe { libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) })
}

/// Binds a stream socket. Connects are refused until [`listen`]. The file is created with `mode` less the umask; without
/// `mode`, 0777 less the umask.
pub(crate) fn bind(path: &Path, mode: Option<u32>) -> io::Result<Descriptor> {
    let address = Address::new(path)?;
    let fd = new_socket(libc::SOCK_STREAM)?;
    if let Some(mode) = mode {
        // bind(2) copies the mode of the socket to the file. A kernel that ignores it leaves 0777 less the umask.
        // SAFETY: takes no pointers.
        unsafe { libc::fchmod(fd.as_raw_fd(), mode as libc::mode_t) };
    }
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

/// The abstract address of a peer: its length, and that many bytes, without the NUL in front.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerName {
    bytes: [u8; MAX_PATH],
    len: usize,
}

impl PeerName {
    /// Empty if the peer has none, or one of a file.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// `len` is what the kernel says of `address`.
    fn of(address: &libc::sockaddr_un, len: libc::socklen_t) -> PeerName {
        let len = (len as usize).saturating_sub(offset_of!(libc::sockaddr_un, sun_path)).min(address.sun_path.len());
        let mut name = PeerName { bytes: [0; MAX_PATH], len: 0 };
        if let Some(([0], rest)) = address.sun_path[..len].split_at_checked(1) {
            name.len = rest.len();
            name.bytes.iter_mut().zip(rest).for_each(|(to, from)| *to = *from as u8);
        }
        name
    }
}

/// Accepts one connection; `WouldBlock` when none waits. Skips aborted ones (ECONNABORTED), as accept(2) advises.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<(Descriptor, PeerName)> {
    loop {
        // SAFETY: all-zero is a valid sockaddr_un.
        let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
        let accepted = Descriptor::create(|| {
            let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            // SAFETY: `address` has room for `len` bytes.
            unsafe { libc::accept4(listener.as_raw_fd(), (&raw mut address).cast(), &raw mut len, flags) }
        });
        match accepted {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ECONNABORTED | libc::EINTR)) => {}
            other => return other.map(|fd| (fd, PeerName::of(&address, len))),
        }
    }
}

/// Connects a stream socket. Never waits: a non-blocking connect of a Unix socket succeeds or fails at once. A full backlog is
/// EAGAIN, and there is nothing to poll (`unix_stream_connect`, net/unix/af_unix.c).
pub(crate) fn connect(path: &Path) -> io::Result<Descriptor> {
    connect_kind(path, libc::SOCK_STREAM)
}

/// As [`connect`], with the socket bound to the abstract address `name` before: the peer sees it. If that is refused, the
/// error is [`Unnamed::Refused`].
pub(crate) fn connect_as(name: &str, path: &Path) -> Result<Descriptor, Unnamed> {
    let to = Address::new(path).map_err(Unnamed::Connect)?;
    let own = Address::new(Path::new(&format!("@{name}"))).map_err(Unnamed::Refused)?;
    let fd = new_socket(libc::SOCK_STREAM).map_err(Unnamed::Connect)?;
    // SAFETY: `own` holds `len` valid bytes and outlives the call.
    cvt(unsafe { libc::bind(fd.as_raw_fd(), own.as_ptr(), own.len) }).map_err(Unnamed::Refused)?;
    // SAFETY: as above.
    retry_eintr(|| cvt(unsafe { libc::connect(fd.as_raw_fd(), to.as_ptr(), to.len) })).map_err(Unnamed::Connect)?;
    Ok(fd)
}

/// Why there is no connection with a name.
#[derive(Debug)]
pub(crate) enum Unnamed {
    /// The name cannot be had. Nothing was tried with `path`.
    Refused(io::Error),
    /// As [`connect`].
    Connect(io::Error),
}

/// Connects a datagram socket, for notifications.
pub(crate) fn connect_datagram(path: &Path) -> io::Result<Descriptor> {
    connect_kind(path, libc::SOCK_DGRAM)
}

fn connect_kind(path: &Path, kind: libc::c_int) -> io::Result<Descriptor> {
    let address = Address::new(path)?;
    let fd = new_socket(kind)?;
    // SAFETY: `address` holds `len` valid bytes and outlives the call.
    retry_eintr(|| cvt(unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr(), address.len) }))?;
    Ok(fd)
}

/// Sends as much as the kernel takes at once. Never raises SIGPIPE, never waits.
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

/// Receives what has arrived, without waiting; 0 is the end of the stream. Without a control buffer: the kernel closes
/// descriptors that a peer attaches, and they never reach this process (unix(7), SCM_RIGHTS).
pub(crate) fn recv(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `MaybeUninit<u8>` has the layout of `u8`, and `recv_uninit` writes only initialised bytes.
    let buffer = unsafe { &mut *(std::ptr::from_mut(buffer) as *mut [MaybeUninit<u8>]) };
    recv_uninit(fd, buffer)
}

/// As [`recv`], but the bytes stay in the kernel (MSG_PEEK, recv(2)).
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

/// Shuts the incoming direction: a peer's next send fails with EPIPE, and bytes already queued stay readable
/// (`unix_shutdown`). On a listener: new connects are refused, and the backlog can still be accepted.
pub(crate) fn shutdown_read(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointers.
    cvt(unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RD) })?;
    Ok(())
}

/// Shuts the outgoing direction: the peer reads what is queued and then the end of the stream, even if other processes have
/// this socket open.
pub(crate) fn shutdown_write(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointers.
    cvt(unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) })?;
    Ok(())
}

/// Shuts both directions, even if other processes have this socket open.
pub(crate) fn shutdown_both(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointers.
    cvt(unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RDWR) })?;
    Ok(())
}

/// The kind of a descriptor that was passed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A listening Unix stream socket.
    UnixListener,
    /// Anything else, in words.
    Other(&'static str),
}

/// The kind of a descriptor (SO_DOMAIN, SO_TYPE, SO_ACCEPTCONN: socket(7)).
pub(crate) fn kind_of(fd: BorrowedFd<'_>) -> io::Result<Kind> {
    let domain: libc::c_int = get_option(fd, libc::SO_DOMAIN)?;
    let kind: libc::c_int = get_option(fd, libc::SO_TYPE)?;
    let listening: libc::c_int = get_option(fd, libc::SO_ACCEPTCONN)?;
    Ok(match (domain, kind, listening) {
        (libc::AF_UNIX, libc::SOCK_STREAM, 1) => Kind::UnixListener,
        (libc::AF_UNIX, libc::SOCK_STREAM, _) => Kind::Other("it is a Unix stream socket that does not listen"),
        (libc::AF_UNIX, _, _) => Kind::Other("it is a Unix socket of another type than SOCK_STREAM"),
        _ => Kind::Other("it is not a Unix domain socket"),
    })
}

/// The address that a socket is bound to: a path, "@name" for an abstract address, empty if it is not bound.
pub(crate) fn local_path(fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
    // SAFETY: all-zero is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: `address` has room for `len` bytes.
    cvt(unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len) })?;
    let used = (len as usize).saturating_sub(offset_of!(libc::sockaddr_un, sun_path));
    let mut bytes: Vec<u8> = address.sun_path.iter().take(used).map(|c| *c as u8).collect();
    match bytes.first_mut() {
        Some(first @ 0) => *first = b'@',
        _ => bytes.truncate(bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len())),
    }
    Ok(std::ffi::OsStr::from_bytes(&bytes).into())
}

/// Takes ownership of a descriptor that was passed to this process. Makes it close-on-exec, and sets O_NONBLOCK on the open
/// file description, which the passing process shares: accepting must never wait.
///
/// Each number may be adopted once (`systemd::listen_fds` keeps the list).
pub(crate) fn adopt(fd: RawFd) -> io::Result<Descriptor> {
    set_cloexec(fd)?;
    // SAFETY: `fd` is open, or the call above had failed.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    set_nonblocking(owned.as_fd())?;
    Descriptor::adopt(owned)
}

/// Kind and address of a descriptor by its number, without taking ownership.
pub(crate) fn kind_of_number(fd: RawFd) -> io::Result<(Kind, PathBuf)> {
    // SAFETY: the borrow ends with this call; a number that is not open yields EBADF from every call on it.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok((kind_of(borrowed)?, local_path(borrowed)?))
}

/// Duplicates a descriptor that the host owns. A number that is not open yields EBADF.
pub(crate) fn duplicate(fd: RawFd) -> io::Result<Descriptor> {
    // SAFETY: takes no pointers.
    Descriptor::create(|| unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) })
}

/// Sets O_NONBLOCK. The flag belongs to the open file description: all duplicates have it.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_GETFL and F_SETFL take no pointers.
    unsafe {
        let flags = cvt(libc::fcntl(fd.as_raw_fd(), libc::F_GETFL))?;
        cvt(libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK))?;
    }
    Ok(())
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
