//! What a reader and a writer with a name say to each other beside the frames, once more and without any trick: names, records and
//! slots, as they are documented.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

pub const RECORD: usize = 32;
pub const MAGIC: u32 = 0x3153_4455;
pub const SLOT: u64 = 64;

/// Kinds of records.
pub const LEDGER: u16 = 1;
pub const NO_LEDGER: u16 = 2;
pub const FINAL: u16 = 3;

/// Reasons of final records.
pub const END: u32 = 0;
pub const STOP: u32 = 2;
pub const TOO_MANY_CONNECTIONS: u32 = 4;
pub const TOO_LARGE: u32 = 5;
pub const MALFORMED: u32 = 6;

/// The id and the first sequence number of a name of version 1.
pub fn parse_name(name: &[u8]) -> Option<([u8; 16], u64)> {
    let parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').collect();
    let [b"udsipc", b"1", id, first, dial] = parts[..] else { return None };
    if id.len() != 32 || first.len() != 16 || dial.is_empty() || dial.len() > 16 {
        return None;
    }
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0_u128, |sum, digit| match digit {
            b'0'..=b'9' => Some(sum * 16 + u128::from(digit - b'0')),
            b'a'..=b'f' => Some(sum * 16 + u128::from(digit - b'a') + 10),
            _ => None,
        })
    };
    let (id, first, _) = (number(id)?, number(first)? as u64, number(dial)?);
    (first > 0).then_some((id.to_be_bytes(), first))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub magic: u32,
    pub version: u16,
    pub kind: u16,
    pub position: u64,
    pub value: u64,
    pub reason: u32,
}

impl Record {
    pub fn new(kind: u16) -> Record {
        Record { magic: MAGIC, version: 1, kind, position: 0, value: 0, reason: 0 }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_ne_bytes().to_vec();
        bytes.extend(self.version.to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend(self.position.to_ne_bytes());
        bytes.extend(self.value.to_ne_bytes());
        bytes.extend(self.reason.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    /// Whatever the bytes mean; the last four must be 0.
    pub fn decode(bytes: &[u8; RECORD]) -> Record {
        let number = |at: usize, size: usize| {
            let mut word = [0; 8];
            let begin = if cfg!(target_endian = "little") { 0 } else { 8 - size };
            word[begin..begin + size].copy_from_slice(&bytes[at..at + size]);
            u64::from_ne_bytes(word)
        };
        assert_eq!(number(28, 4), 0, "the last word of a record");
        Record {
            magic: number(0, 4) as u32,
            version: number(4, 2) as u16,
            kind: number(6, 2) as u16,
            position: number(8, 8),
            value: number(16, 8),
            reason: number(24, 4) as u32,
        }
    }
}

/// Connects to an abstract address, from one of its own if `name` is to be had.
pub fn connect(name: Option<&[u8]>, to: &str) -> io::Result<(UnixStream, bool)> {
    // SAFETY: takes no pointers, and the descriptor is new.
    let stream = unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        UnixStream::from_raw_fd(check(fd as isize)? as RawFd)
    };
    let call = |call: unsafe extern "C" fn(RawFd, *const libc::sockaddr, libc::socklen_t) -> i32, name: &[u8]| {
        // SAFETY: zeroes are valid.
        let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (place, byte) in address.sun_path[1..].iter_mut().zip(name) {
            *place = *byte as libc::c_char;
        }
        let len = mem::offset_of!(libc::sockaddr_un, sun_path) + 1 + name.len();
        // SAFETY: an address of so many bytes, for the length of the call.
        check(unsafe { call(stream.as_raw_fd(), (&raw const address).cast(), len as libc::socklen_t) } as isize)
    };
    // Another fuzzer, or another connection of this one, may have a short name already.
    let is_named = name.is_some_and(|name| name.len() < 107 && call(libc::bind, name).is_ok());
    call(libc::connect, to.as_bytes())?;
    Ok((stream, is_named))
}

#[repr(C, align(16))]
struct Control([u8; 256]);

/// Receives without waiting, and the first descriptor that comes along.
pub fn receive(fd: RawFd, into: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut control = Control([0; 256]);
    let mut piece = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: zeroes are valid; what the header points to lives as long as it; the descriptors that come are new.
    unsafe {
        let mut header: libc::msghdr = mem::zeroed();
        (header.msg_iov, header.msg_iovlen) = (&raw mut piece, 1);
        (header.msg_control, header.msg_controllen) = ((&raw mut control).cast(), control.0.len() as _);
        let got = check(libc::recvmsg(fd, &raw mut header, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC))?;
        let mut passed = Vec::new();
        let mut at = libc::CMSG_FIRSTHDR(&raw const header);
        while !at.is_null() {
            if (*at).cmsg_level == libc::SOL_SOCKET && (*at).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*at).cmsg_len as usize - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                for number in 0..count {
                    let fd = libc::CMSG_DATA(at).cast::<RawFd>().add(number).read_unaligned();
                    passed.push(OwnedFd::from_raw_fd(fd));
                }
            }
            at = libc::CMSG_NXTHDR(&raw const header, at);
        }
        Ok((got as usize, passed.into_iter().next()))
    }
}

/// Sends without waiting, with a descriptor if there is one.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8], passed: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut control = Control([0; 256]);
    let mut piece = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: zeroes are valid; what the header points to lives as long as it, and has room for one descriptor.
    unsafe {
        let mut header: libc::msghdr = mem::zeroed();
        (header.msg_iov, header.msg_iovlen) = (&raw mut piece, 1);
        if let Some(passed) = passed {
            let size = size_of::<RawFd>() as u32;
            header.msg_control = (&raw mut control).cast();
            header.msg_controllen = libc::CMSG_SPACE(size) as _;
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            ((*first).cmsg_level, (*first).cmsg_type) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
            (*first).cmsg_len = libc::CMSG_LEN(size) as _;
            libc::CMSG_DATA(first).cast::<RawFd>().write_unaligned(passed.as_raw_fd());
        }
        Ok(check(libc::sendmsg(fd.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL))? as usize)
    }
}

/// A ledger that is mapped: a peer's, to read, or one of our own.
#[derive(Debug)]
pub struct Ledger {
    memory: *mut AtomicU64,
    len: usize,
    /// Of our own.
    fd: Option<OwnedFd>,
}

// SAFETY: accessed through atomics alone.
unsafe impl Send for Ledger {}

impl Ledger {
    /// A new one with these seals.
    pub fn create(len: usize, seals: i32) -> io::Result<Ledger> {
        // SAFETY: a C string, and the descriptor is new.
        let fd = unsafe {
            let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
            OwnedFd::from_raw_fd(check(libc::memfd_create(c"fuzz".as_ptr(), flags) as isize)? as RawFd)
        };
        // SAFETY: takes no pointers.
        check(unsafe { libc::ftruncate(fd.as_raw_fd(), len as libc::off_t) } as isize)?;
        let memory = map(fd.as_raw_fd(), len, libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: takes no pointers.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) } as isize)?;
        Ok(Ledger { memory, len, fd: Some(fd) })
    }

    /// A peer's. It must be one that nobody else can change or shrink.
    pub fn of_peer(fd: &OwnedFd, offset: u64) -> Ledger {
        // SAFETY: takes no pointers.
        let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
        assert_eq!(seals & ALL_SEALS, ALL_SEALS, "the seals of a ledger");
        let mut found = MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: `found` is writable, and zeroes are valid.
        let len = unsafe {
            check(libc::fstat(fd.as_raw_fd(), found.as_mut_ptr()) as isize).expect("a file");
            found.assume_init().st_size as u64
        };
        assert!(offset.is_multiple_of(SLOT) && offset + SLOT <= len, "slot {offset} in a ledger of {len} bytes");
        let memory = map(fd.as_raw_fd(), len as usize, libc::PROT_READ).expect("a ledger that can be mapped");
        Ledger { memory, len: len as usize, fd: None }
    }

    pub fn fd(&self) -> &OwnedFd {
        self.fd.as_ref().expect("a ledger of our own")
    }

    fn words(&self, offset: u64) -> [&AtomicU64; 2] {
        assert!(offset.is_multiple_of(8) && offset + 16 <= self.len as u64);
        // SAFETY: within the mapping, which lives as long as `self`.
        [0, 1].map(|word| unsafe { &*self.memory.add(offset as usize / 8 + word) })
    }

    /// Position and end of a slot; the end only while a callback runs.
    pub fn look(&self, offset: u64) -> (u64, Option<u64>) {
        let [done, end] = self.words(offset).map(|word| word.load(Ordering::Acquire));
        (done >> 1, (done & 1 > 0).then_some(end))
    }

    pub fn store(&self, offset: u64, done: u64, end: u64) {
        let [done_at, end_at] = self.words(offset);
        end_at.store(end, Ordering::Release);
        done_at.store(done, Ordering::Release);
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // SAFETY: mapped by this module, and used no more.
        unsafe { libc::munmap(self.memory.cast(), self.len) };
    }
}

/// F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_FUTURE_WRITE.
pub const ALL_SEALS: i32 = 2 | 4 | 16;

fn map(fd: RawFd, len: usize, protection: i32) -> io::Result<*mut AtomicU64> {
    // SAFETY: a new mapping at an address that the kernel chooses.
    let memory = unsafe { libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, fd, 0) };
    if memory == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(memory.cast()) }
}

fn check(result: isize) -> io::Result<isize> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
