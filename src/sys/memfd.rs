//! Memory files (memfd_create(2)) that two processes map: how they are made, sealed and mapped, and what a receiver checks.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::{self, NonNull};

use super::cvt;
use super::descriptor::Descriptor;

/// MFD_NOEXEC_SEAL (Linux 6.3), F_SEAL_FUTURE_WRITE (5.1): not in every libc.
const MFD_NOEXEC_SEAL: libc::c_uint = 0x8;
pub(super) const F_SEAL_FUTURE_WRITE: libc::c_int = 0x10;

/// A new one of `len` bytes, without any page.
pub(super) fn create(name: &CStr, len: u64) -> io::Result<Descriptor> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: a C string that outlives the call.
    let create = |flags| Descriptor::create(|| unsafe { libc::memfd_create(name.as_ptr(), flags) });
    let fd = match create(flags | MFD_NOEXEC_SEAL) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => create(flags), // before Linux 6.3
        result => result,
    }?;
    check_file_size_limit(len)?; // a file beyond it raises SIGXFSZ
    // SAFETY: takes no pointers.
    cvt(unsafe { libc::ftruncate(fd.as_raw_fd(), len as libc::off_t) })?;
    Ok(fd)
}

fn check_file_size_limit(len: u64) -> io::Result<()> {
    let mut limit = MaybeUninit::<libc::rlimit>::zeroed();
    // SAFETY: `limit` is writable, and zeroes are valid.
    let limit = unsafe {
        cvt(libc::getrlimit(libc::RLIMIT_FSIZE, limit.as_mut_ptr()))?;
        limit.assume_init()
    };
    if limit.rlim_cur < len { Err(io::Error::from_raw_os_error(libc::EFBIG)) } else { Ok(()) }
}

pub(super) fn seal(fd: BorrowedFd<'_>, seals: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointers.
    cvt(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) }).map(drop)
}

/// Whether what a peer has passed is such a file with these seals at least. Returns its length.
pub(super) fn check(passed: BorrowedFd<'_>, seals: libc::c_int) -> io::Result<u64> {
    // Before anything else: it fails at once for what is no memfd, where other calls may wait for a file system.
    // SAFETY: takes no pointers.
    let found = cvt(unsafe { libc::fcntl(passed.as_raw_fd(), libc::F_GET_SEALS) })?;
    if found & seals != seals || !is_on_tmpfs(passed)? {
        return Err(io::ErrorKind::InvalidData.into());
    }
    size_of_file(passed)
}

fn is_on_tmpfs(fd: BorrowedFd<'_>) -> io::Result<bool> {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let mut found = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `found` is writable, and zeroes are valid.
    let found = unsafe {
        cvt(libc::fstatfs(fd.as_raw_fd(), found.as_mut_ptr()))?;
        found.assume_init()
    };
    Ok(found.f_type as i64 == TMPFS_MAGIC)
}

fn size_of_file(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut found = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `found` is writable, and zeroes are valid.
    let found = unsafe {
        cvt(libc::fstat(fd.as_raw_fd(), found.as_mut_ptr()))?;
        found.assume_init()
    };
    Ok(u64::try_from(found.st_size).unwrap_or(0))
}

pub(super) fn page_size() -> usize {
    // SAFETY: takes a number.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

pub(super) fn map(fd: BorrowedFd<'_>, offset: u64, len: usize, protection: libc::c_int) -> io::Result<NonNull<u8>> {
    let offset = libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: a new mapping at an address that the kernel chooses.
    let address = unsafe { libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, fd.as_raw_fd(), offset) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

/// A mapping of the caller's, which it uses no more.
pub(super) fn unmap(memory: NonNull<u8>, len: usize) {
    // SAFETY: the callers have mapped so much there, and use it no more.
    unsafe { libc::munmap(memory.as_ptr().cast(), len) };
}

/// A forked child does not get a mapping of the caller's.
pub(super) fn keep_from_children(memory: NonNull<u8>, len: usize) -> io::Result<()> {
    // SAFETY: the mapping is the caller's, and this changes no byte of it.
    cvt(unsafe { libc::madvise(memory.as_ptr().cast(), len, libc::MADV_DONTFORK) }).map(drop)
}
