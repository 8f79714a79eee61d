//! Claiming a socket path for a reader, and releasing it.
//!
//! 1. The socket is bound at its final name and never renamed: programs that clean directories (systemd-tmpfiles) recognise a
//!    live socket by the name that the kernel has for it, and a rename can replace a file that was made meanwhile.
//! 2. The file is born with the wanted mode less the umask. Group and wider mode are set between bind(2) and listen(2),
//!    when every connect is still refused.
//! 3. A socket that is bound and does not listen yet refuses connects, as a stale one does. So a claim holds a lock from
//!    before its bind(2) until after its listen(2), and a stale socket is removed only under that lock. The lock is flock(2)
//!    on the directory itself: it leaves no file behind, and the kernel releases it when the process ends.
//! 4. Without the lock (a file system without locks, a directory that may not be read, another program that holds the lock
//!    for longer than the caller's time) a stale socket is checked twice before it is removed, and a reader that finds another
//!    file at the path after its own listen(2) has lost the race.
//! 5. A path is released while its socket still listens: until the unlink no other reader takes the file for a stale one, so
//!    releasing needs no lock.
//!
//! An abstract address (unix(7)) has no file, no mode and no lock: the kernel frees the name together with its socket.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Error, Result};
use crate::path::{check, is_abstract, name_to_bind};
use crate::sys::descriptor::Descriptor;
use crate::sys::file::DirectoryLock;
use crate::sys::socket;

mod access;
pub(crate) use access::Access;

/// How long a start waits for the lock. Another start holds it for a few system calls.
pub(crate) const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_STEP: Duration = Duration::from_millis(1);

/// Without a lock: the time between the two checks of a stale socket. From bind(2) to listen(2) it takes microseconds.
const RECHECK_DELAY: Duration = Duration::from_millis(5);

/// Makes the directory of a socket path and its parents, with mode 0750 less the umask. Existing directories are not
/// changed.
///
/// # Errors
///
/// [`Error::InvalidSocketPath`], or the operating system's error.
///
/// ```
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("app/events.sock");
/// udsipc::ensure_socket_dir(&path)?;
/// assert!(path.parent().unwrap().is_dir());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn ensure_socket_dir(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    check(path)?;
    match path.parent() {
        Some(directory) if !is_abstract(path) && !directory.as_os_str().is_empty() => DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(directory)
            .map_err(failed_to("make the directory", directory)),
        _ => Ok(()),
    }
}

/// Removes a stale socket file: one on which no process listens. A path without a file is no error.
///
/// # Errors
///
/// [`Error::AddressInUse`] if a process listens there, or if the file is not a socket (a symbolic link is none): the file is
/// not touched. [`Error::InvalidSocketPath`], or the operating system's error.
///
/// ```
/// use std::os::unix::net::UnixListener;
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("events.sock");
/// drop(UnixListener::bind(&path)?); // leaves its file behind
/// udsipc::cleanup_socket(&path)?;
/// assert!(!path.exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn cleanup_socket(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    check(path)?;
    if is_abstract(path) {
        return Ok(());
    }
    // Checked before the lock: a directory that does not exist cannot be locked.
    match inspect(path)? {
        PathState::Free => Ok(()),
        PathState::Taken(reason) => Err(in_use(path, reason)),
        PathState::Stale(_) => {
            let lock = lock_directory(path, Instant::now() + LOCK_WAIT);
            remove_stale(path, lock.as_ref())
        }
    }
}

/// A path that this reader has claimed. Dropping a claim does not touch the file: a forked child drops claims of its parent.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Absolute, since the host may change its working directory.
    path: PathBuf,
    /// The file that the bind made; none for an abstract address. While the socket is open, the kernel gives the inode's number
    /// to no other file.
    file: Option<Identity>,
}

/// What lies at the path of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileState {
    /// The claim's own file; or the path is an abstract address, which cannot be removed.
    Ours,
    /// No file.
    Missing,
    /// Another file.
    Foreign,
}

impl Claim {
    /// Absolute, or an abstract address.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the claim has a file, which can be removed or replaced. An abstract address has none.
    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// What lies at the path now.
    pub(crate) fn check_file(&self) -> io::Result<FileState> {
        let Some(ours) = self.file else { return Ok(FileState::Ours) };
        Ok(match identity(&self.path)? {
            None => FileState::Missing,
            Some(found) if found == ours => FileState::Ours,
            Some(_) => FileState::Foreign,
        })
    }

    /// Removes the socket file if it is still the claim's own. Must be called while the socket listens (rule 5).
    pub(crate) fn release(&self) -> Result<()> {
        match self.check_file().map_err(failed_to("find the socket file", &self.path))? {
            FileState::Ours if self.has_file() => remove(&self.path),
            _ => Ok(()),
        }
    }
}

/// Claims `path`: returns a socket that listens there. No connect succeeds before the file has the mode and group that
/// `access` asks for. The lock is waited for until `deadline`.
pub(crate) fn claim(path: &Path, access: Access, deadline: Instant) -> Result<(Descriptor, Claim)> {
    check(path)?;
    if is_abstract(path) {
        return claim_abstract(path, access);
    }
    let absolute = std::path::absolute(path).map_err(failed_to("find the absolute path of", path))?;
    // Absolute where that fits, for systemd-tmpfiles (rule 1); a relative name is better than a refusal.
    let name = name_to_bind(&absolute, path);
    let lock = lock_directory(name, deadline);
    let socket = match socket::bind(name, access.mode()) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(name, lock.as_ref())?;
            socket::bind(name, access.mode())
        }
        first => first,
    };
    let socket = socket.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => in_use(name, LOST_RACE),
        _ => failed_to("bind to", name)(error),
    })?;
    let file = listen_at(&socket, name, access)?;
    Ok((socket, Claim { path: absolute, file: Some(file) }))
}

fn claim_abstract(path: &Path, access: Access) -> Result<(Descriptor, Claim)> {
    if access.is_set() {
        let text = format!("the abstract address {path:?} is no file: it can have neither a mode nor a group");
        return Err(Error::InvalidArgument(text));
    }
    let socket = socket::bind(path, None).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => in_use(path, "another socket is bound to this abstract address"),
        _ => failed_to("bind to", path)(error),
    })?;
    socket::listen(socket.as_fd()).map_err(failed_to("listen at", path))?;
    Ok((socket, Claim { path: path.into(), file: None }))
}

/// Sets mode and group of a bound socket's file, and listens. On failure the file is removed.
fn listen_at(socket: &Descriptor, path: &Path, access: Access) -> Result<Identity> {
    let born = fs::symlink_metadata(path).map_err(failed_to("find the socket file", path))?;
    let ours = Identity::of(&born);
    let listen = || {
        if !born.file_type().is_socket() {
            return Err(in_use(path, LOST_RACE));
        }
        access.apply(path, &born)?;
        socket::listen(socket.as_fd()).map_err(failed_to("listen at", path))?;
        match identity(path) {
            Ok(Some(found)) if found == ours => Ok(ours),
            _ => Err(in_use(path, LOST_RACE)),
        }
    };
    listen().inspect_err(|_| {
        if born.file_type().is_socket() && matches!(identity(path), Ok(Some(found)) if found == ours) {
            let _ = fs::remove_file(path);
        }
    })
}

const LOST_RACE: &str = "somebody else took it at the same moment";
const IS_DIRECTORY: &str = "a directory lies there, not a socket; nothing was changed";

/// Whether a path can be claimed.
enum PathState {
    /// No file.
    Free,
    /// A socket on which no process listens.
    Stale(Identity),
    /// A file that must not be touched: why, in words.
    Taken(&'static str),
}

fn inspect(path: &Path) -> Result<PathState> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if is_missing(&error) => return Ok(PathState::Free),
        Err(error) => return Err(failed_to("find out what lies at", path)(error)),
    };
    let kind = metadata.file_type();
    if !kind.is_socket() {
        return Ok(PathState::Taken(match () {
            () if kind.is_dir() => IS_DIRECTORY,
            () if kind.is_symlink() => "a symbolic link lies there, not a socket; nothing was changed",
            () if kind.is_file() => "a regular file lies there, not a socket; nothing was changed",
            () => "something that is not a socket lies there; nothing was changed",
        }));
    }
    // The connect never waits (see `socket::connect`).
    match socket::connect(path) {
        Ok(_) => Ok(PathState::Taken("a live process listens there")),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Ok(PathState::Stale(Identity::of(&metadata))),
            io::ErrorKind::WouldBlock => Ok(PathState::Taken("a live process listens there, and its backlog is full")),
            io::ErrorKind::NotFound => Ok(PathState::Free),
            // EPROTOTYPE comes from an open socket only: a stale one refuses (unix(7)).
            _ if socket::is_other_type(&error) => Ok(PathState::Taken("a live socket of another type is bound there")),
            _ => Err(failed_to("see who listens at", path)(error)),
        },
    }
}

/// Removes the file at a path if it is a stale socket. Without the lock only after a second check (rule 4).
fn remove_stale(path: &Path, lock: Option<&DirectoryLock>) -> Result<()> {
    let mut first = None;
    loop {
        match inspect(path)? {
            PathState::Free => return Ok(()),
            PathState::Taken(reason) => return Err(in_use(path, reason)),
            PathState::Stale(file) if lock.is_some() || first == Some(file) => return remove(path),
            PathState::Stale(file) => {
                first = Some(file);
                std::thread::sleep(RECHECK_DELAY);
            }
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if !is_missing(&error) => Err(failed_to("remove the socket file", path)(error)),
        _ => Ok(()),
    }
}

/// Locks the directory of a path. `None` if it cannot be locked by `deadline`.
fn lock_directory(path: &Path, deadline: Instant) -> Option<DirectoryLock> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    loop {
        match DirectoryLock::try_acquire(directory) {
            Ok(None) if Instant::now() < deadline => std::thread::sleep(LOCK_STEP),
            Ok(lock) => return lock,
            Err(_) => return None,
        }
    }
}

fn in_use(path: &Path, reason: &'static str) -> Error {
    Error::AddressInUse { path: path.into(), reason: reason.into() }
}

/// Turns an operating system error into ours, with the attempted action and the path.
fn failed_to(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let action = format!("{action} {path:?}");
    |error| Error::from_os(action, error)
}

/// The identity of a file: device, inode and, where the file system has it, the time of birth, since inode numbers are
/// reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    born: Option<SystemTime>,
}

impl Identity {
    fn of(metadata: &Metadata) -> Identity {
        Identity { device: metadata.dev(), inode: metadata.ino(), born: metadata.created().ok() }
    }
}

/// The identity of the file at a path, without following a symbolic link; `None` if there is no file.
fn identity(path: &Path) -> io::Result<Option<Identity>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(Identity::of(&metadata))),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests;
