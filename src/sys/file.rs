//! Files: what the standard library lacks, and the flags that it has no names for.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

/// Holds on to what lies at `path`, which may be of any kind and is not opened as such (O_PATH, open(2)). A symbolic link
/// is held itself. While it is held, no other file can get its inode number.
pub(crate) fn hold(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}

/// Gives the file that is held to a group.
pub(crate) fn set_group(held: &File, gid: u32) -> io::Result<()> {
    // fchown(2) refuses an O_PATH descriptor; through /proc it means this very file, whatever its name means by now.
    chown(in_proc(held), None, Some(gid))
}

/// Sets the mode of the file that is held. It fails on a symbolic link.
pub(crate) fn set_mode(held: &File, mode: u32) -> io::Result<()> {
    fs::set_permissions(in_proc(held), Permissions::from_mode(mode))
}

/// Opens a directory as a place only: neither its listing is readable through it nor need it be (O_PATH, open(2)).
pub(crate) fn open_directory(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(path)
}

/// A short path to what an open descriptor stands for (proc_pid_fd(5)).
pub(crate) fn in_proc(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Opens a lock file, and makes it with mode 0600 where there is none. A symbolic link is not followed, and a FIFO does
/// not make the caller wait. `AlreadyExists` says that somebody else made it in the same moment: open it again.
///
/// Two steps, since one open with O_CREAT is refused on another user's file in a sticky directory, to root as well
/// (`fs.protected_regular`, proc_sys_fs(5)).
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // The standard library adds O_CLOEXEC to every open.
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => options.create_new(true).open(path),
        other => other,
    }
}

/// What tests need to set the scene.
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
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("a file").mode() & 0o7777
    }

    #[test]
    fn a_mode_goes_to_the_file_named_and_never_through_a_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "x").expect("a file");
        symlink(&file, &link).expect("a link");
        set_mode(&hold(&file).expect("a file"), 0o604).expect("own file");
        assert_eq!(mode_of(&file), 0o604);
        set_mode(&hold(&link).expect("a link"), 0o777).expect_err("a link has no mode");
        assert_eq!(mode_of(&file), 0o604);
    }

    #[test]
    fn a_lock_file_is_private_and_is_not_looked_for_behind_a_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let (lock, link) = (dir.path().join("lock"), dir.path().join("link"));
        open_lock(&lock).expect("a new lock file");
        assert_eq!(mode_of(&lock) & 0o177, 0, "for its owner alone");
        open_lock(&lock).expect("the same again");
        symlink(dir.path().join("elsewhere"), &link).expect("a link");
        open_lock(&link).expect_err("a dangling link");
        assert!(!dir.path().join("elsewhere").exists());
        assert_eq!(open_lock(&dir.path().join("none/lock")).expect_err("no directory").kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_directory_is_reached_through_proc() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = open_directory(dir.path()).expect("a directory");
        fs::write(in_proc(&open).join("file"), "x").expect("a file");
        assert_eq!(fs::read(dir.path().join("file")).expect("the same file"), b"x");
        open_directory(&dir.path().join("file")).expect_err("a file is no directory");
    }
}
