//! Descriptors that go along with bytes (SCM_RIGHTS, unix(7)).

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};

use crate::sys::descriptor::Descriptor;
use crate::sys::{cvt_len, retry_eintr};

/// Room for one descriptor beside a message.
type Control = [u64; 4];
// SAFETY: takes a number.
const _: () = assert!(unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as usize <= size_of::<Control>());

/// As [`send`](super::send), with a descriptor of which the peer gets a copy (SCM_RIGHTS, unix(7)).
pub(crate) fn send_with_descriptor(fd: BorrowedFd<'_>, data: &[u8], passed: BorrowedFd<'_>) -> io::Result<usize> {
    let mut piece = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let mut control: Control = [0; 4];
    // SAFETY: as in `send_two`. The control buffer has room for the header and one descriptor, and the alignment of one.
    let message = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut piece;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(passed.as_raw_fd());
        message
    };
    retry_eintr(|| {
        // SAFETY: `message` and what it names are readable during the call.
        cvt_len(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
    })
}

/// As [`recv`](super::recv), with the descriptor that came beside the bytes. Of several the kernel closes all but the first.
pub(crate) fn recv_with_descriptor(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<Descriptor>)> {
    Descriptor::receive(|| {
        let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut control: Control = [0; 4];
        // SAFETY: as in `send_two`; the buffers are writable for their lengths during the call, and the kernel writes whole
        // control messages of the lengths that it states.
        unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = &raw mut piece;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            // Not CMSG_SPACE: with its padding there is room for two.
            message.msg_controllen = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
            let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
            let got = retry_eintr(|| cvt_len(libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags)))?;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            let has_descriptor = !header.is_null()
                && (*header).cmsg_level == libc::SOL_SOCKET
                && (*header).cmsg_type == libc::SCM_RIGHTS
                && (*header).cmsg_len as usize >= libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
            Ok((got, has_descriptor.then(|| libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned())))
        }
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A message of one byte with two descriptors.
    fn send_two_descriptors(fd: BorrowedFd<'_>, passed: [RawFd; 2]) {
        let mut byte = 7_u8;
        let mut piece = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let mut control: Control = [0; 4];
        // SAFETY: as in `send_with_descriptor`.
        let sent = unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = &raw mut piece;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(size_of_val(&passed) as u32) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of_val(&passed) as u32) as _;
            libc::CMSG_DATA(header).cast::<[RawFd; 2]>().write_unaligned(passed);
            libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
        };
        assert_eq!(sent, 1);
    }

    #[test]
    fn of_two_descriptors_only_the_one_that_is_returned_is_open() {
        let (peer, ours) = UnixStream::pair().expect("a pair");
        let (pipes, passed): (Vec<_>, Vec<_>) = (0..2).map(|_| std::io::pipe().expect("a pipe")).unzip();
        send_two_descriptors(peer.as_fd(), [passed[0].as_raw_fd(), passed[1].as_raw_fd()]);
        drop(passed);
        let (count, received) = recv_with_descriptor(ours.as_fd(), &mut [0; 32]).expect("a byte");
        assert!(count == 1 && received.is_some());
        drop(received);
        for mut pipe in pipes {
            let (done, is_over) = std::sync::mpsc::channel();
            std::thread::spawn(move || done.send(pipe.read(&mut [0]).expect("the end of the pipe")));
            assert_eq!(is_over.recv_timeout(std::time::Duration::from_secs(5)), Ok(0), "somebody holds its other end");
        }
    }
}
