//! Files: what the standard library lacks, and the flags that it has no names for.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::cvt;
use super::descriptor::Descriptor;

/// fchmodat2(2), Linux 6.6. The number is the same on every architecture that the C library's headers may lack it on.
const SYS_FCHMODAT2: libc::c_long = 452;

/// Opens the file at `path`, of any kind, without access to its content (O_PATH, open(2)). A symbolic link is opened itself.
/// While the descriptor is open, no other file can get the inode number.
pub(crate) fn open_path(path: &Path) -> io::Result<Descriptor> {
    open(OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW), path)
}

/// Sets the group of an open file, whatever lies at its path by now.
pub(crate) fn set_group(file: &Descriptor, gid: u32) -> io::Result<()> {
    // SAFETY: an empty C string; AT_EMPTY_PATH makes the descriptor itself the file (fchownat(2)). The owner stays, as -1
    // asks for.
    cvt(unsafe { libc::fchownat(file.as_raw_fd(), c"".as_ptr(), libc::uid_t::MAX, gid, libc::AT_EMPTY_PATH) })?;
    Ok(())
}

/// Sets the mode of an open file, whatever lies at its path by now. Needs Linux 6.6; see [`set_mode_in_proc`].
pub(crate) fn set_mode(file: &Descriptor, mode: u32) -> io::Result<()> {
    // SAFETY: the arguments of fchmodat2(2): a descriptor, an empty C string, a mode, flags. A kernel without that call
    // says ENOSYS, and a filter of system calls may say EPERM.
    let result = unsafe { libc::syscall(SYS_FCHMODAT2, file.as_raw_fd(), c"".as_ptr(), mode, libc::AT_EMPTY_PATH) };
    cvt(libc::c_int::try_from(result).unwrap_or(-1))?;
    Ok(())
}

/// As [`set_mode`], where /proc is mounted. It fails on a symbolic link.
pub(crate) fn set_mode_in_proc(file: &Descriptor, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(in_proc(file), Permissions::from_mode(mode))
}

/// Opens a directory as a starting point for paths. Needs no read permission, and gives none (O_PATH, open(2)).
pub(crate) fn open_directory(path: &Path) -> io::Result<Descriptor> {
    open(OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY), path)
}

/// A short path to what an open descriptor stands for (proc_pid_fd(5)).
pub(crate) fn in_proc(file: &Descriptor) -> PathBuf {
    PathBuf::from(format!("/proc/thread-self/fd/{}", file.as_raw_fd()))
}

/// Opens a file as the standard library does, which adds O_CLOEXEC and repeats after EINTR.
fn open(options: &OpenOptions, path: &Path) -> io::Result<Descriptor> {
    Descriptor::adopt(options.open(path)?.into())
}

/// Lends an open file to the standard library's functions.
pub(crate) fn with_file<T>(file: &Descriptor, body: impl FnOnce(&File) -> T) -> T {
    // SAFETY: open during this call, and not closed by it.
    body(&ManuallyDrop::new(unsafe { File::from_raw_fd(file.as_raw_fd()) }))
}

/// A lock on a directory itself (flock(2)): no lock file is made. Released when it is dropped, or by the kernel when the
/// process ends.
#[derive(Debug)]
pub(crate) struct DirectoryLock(Descriptor);

impl DirectoryLock {
    /// Takes the lock without waiting; `None` if it is held elsewhere. Fails if the file system has no locks, or the
    /// directory may not be read.
    pub(crate) fn try_acquire(directory: &Path) -> io::Result<Option<DirectoryLock>> {
        let file = open(OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY), directory)?;
        match with_file(&file, File::try_lock) {
            Ok(()) => Ok(Some(DirectoryLock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for DirectoryLock {
    /// Unlocks explicitly: closing alone keeps the lock while a child that was forked meanwhile shares the open file
    /// (flock(2)).
    fn drop(&mut self) {
        let _ = with_file(&self.0, File::unlock);
    }
}

/// Preparations that tests need.
#[cfg(test)]
pub(crate) mod scene {
    use std::io;
    use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

    use crate::sys::cvt;

    /// A duplicate with the lowest free number from `lowest` on, not close-on-exec, as systemd passes descriptors.
    pub(crate) fn duplicate_from(fd: BorrowedFd<'_>, lowest: i32) -> io::Result<OwnedFd> {
        // SAFETY: F_DUPFD takes no pointers; the descriptor it returns is ours alone.
        unsafe { Ok(OwnedFd::from_raw_fd(cvt(libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD, lowest))?)) }
    }

    /// Makes the backlog the smallest there is (listen(2) may be called again).
    pub(crate) fn shrink_backlog(listener: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: takes no pointers.
        cvt(unsafe { libc::listen(listener.as_raw_fd(), 0) })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("a file").mode() & 0o7777
    }

    #[test]
    fn a_mode_goes_to_the_open_file_and_never_through_a_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "x").expect("a file");
        symlink(&file, &link).expect("a link");
        type SetMode = fn(&Descriptor, u32) -> io::Result<()>;
        let ways: [(SetMode, u32); 2] = [(set_mode, 0o604), (set_mode_in_proc, 0o640)];
        for (set, mode) in ways {
            match set(&open_path(&file).expect("a file"), mode) {
                // A kernel before 6.6.
                Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => continue,
                done => done.expect("own file"),
            }
            assert_eq!(mode_of(&file), mode);
            set(&open_path(&link).expect("a link"), 0o777).expect_err("a link has no mode");
            assert_eq!(mode_of(&file), mode);
        }
    }

    #[test]
    fn an_open_file_gets_its_group_even_after_its_name_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        fs::write(&file, "x").expect("a file");
        let gid = fs::metadata(&file).expect("a file").gid();
        let held = open_path(&file).expect("a file");
        fs::remove_file(&file).expect("a file");
        set_group(&held, gid).expect("own group");
        assert_eq!(with_file(&held, File::metadata).expect("held").gid(), gid);
    }

    #[test]
    fn a_directory_is_locked_once_at_a_time_and_no_file_is_left() {
        let dir = tempfile::tempdir().expect("a directory");
        let try_acquire = || DirectoryLock::try_acquire(dir.path()).expect("a directory");
        let first = try_acquire().expect("nobody has it");
        assert!(try_acquire().is_none());
        drop(first);
        drop(try_acquire().expect("given back"));
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 0);

        fs::write(dir.path().join("file"), "x").expect("a file");
        for path in ["file", "none"] {
            DirectoryLock::try_acquire(&dir.path().join(path)).expect_err(path);
        }
    }
}
