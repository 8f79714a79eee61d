//! Where a reader listens: the limit of a path, its directory, and the claim to it.
//!
//! A path is claimed under a lock, the file `PATH.lock` beside it, so that of two starters exactly one wins. The lock
//! file lives only while it is held: whoever opens it checks, once it is locked, that the name still means that file.
//!
//! A path that begins with '@' is an abstract address (unix(7)): no file, no directory, no mode, and no lock, since the
//! kernel frees the name together with its socket.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Metadata, TryLockError};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::sys::lock::Mutex;
use crate::sys::{file, socket};
use crate::systemd::Environment;

/// How long to wait for the lock, in all and between two attempts. It is held for a few system calls, so whoever holds it
/// longer is stopped, or is no reader at all.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_STEP: Duration = Duration::from_millis(2);

/// The longest socket path in bytes, without the NUL that ends it: 107 on Linux (unix(7)). For an abstract address the
/// '@' counts.
pub fn max_socket_path_length() -> usize {
    socket::MAX_PATH
}

/// Where a reader that is told `path` really listens: under the same name in the first directory of
/// `RUNTIME_DIRECTORY`, if systemd set one, else at `path`. An abstract address stays as it is.
pub fn resolve_socket_path(path: &Path) -> PathBuf {
    Environment::from_env().resolve(path)
}

/// Makes the directory of a socket path, and the ones above it, with mode 0750 less the umask. What exists is left as it
/// is.
///
/// # Errors
///
/// [`Error::InvalidSocketPath`], or what the system said when it refused.
pub fn ensure_socket_dir(path: &Path) -> Result<()> {
    check(path)?;
    match path.parent() {
        Some(directory) if !is_abstract(path) && !directory.as_os_str().is_empty() => {
            DirBuilder::new().recursive(true).mode(0o750).create(directory).map_err(at("make the directory", directory))
        }
        _ => Ok(()),
    }
}

/// Removes a stale socket: one that nobody listens on any more. It is no error if there is nothing.
///
/// # Errors
///
/// [`Error::AddressInUse`] if somebody listens there, or if it is not a socket (a symbolic link is none): then it is left
/// alone. [`Error::InvalidSocketPath`], or what the system said when it refused.
pub fn cleanup_socket(path: &Path) -> Result<()> {
    check(path)?;
    if is_abstract(path) {
        return Ok(());
    }
    // Looked at first without the lock, whose file could not be made where there is no directory.
    match look(path)? {
        Found::Nothing => Ok(()),
        Found::Taken(reason) => Err(in_use(path, reason)),
        Found::Stale => {
            let _lock = Lock::acquire(path)?;
            clear(path)
        }
    }
}

/// Refuses what cannot be a socket's path whatever the file system says.
pub(crate) fn check(path: &Path) -> Result<()> {
    let limit = socket::MAX_PATH;
    let reason = match path.as_os_str().as_bytes() {
        [] => "it is empty".into(),
        [b'@'] => "an abstract address needs a name behind the '@'".into(),
        bytes if bytes.len() > limit => format!("it has {} bytes", bytes.len()),
        bytes if bytes.contains(&0) => "it holds a NUL byte".into(),
        [b'@', ..] => return Ok(()),
        [.., b'/'] => "it ends in '/', which names a directory".into(),
        _ => return Ok(()),
    };
    Err(Error::InvalidSocketPath { path: path.into(), reason, limit })
}

fn is_abstract(path: &Path) -> bool {
    path.as_os_str().as_bytes().starts_with(b"@")
}

/// A path that is ours. Dropping it leaves the file alone, as a forked child must.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Absolute, since the host may change its working directory. Not what getsockname(2) says: that keeps the name from
    /// before a rename.
    path: PathBuf,
    /// Our file, held, since its inode number alone may be another's as soon as it is gone; none when it is given back,
    /// or for an abstract address.
    file: Mutex<Option<File>>,
    /// The number of that file's descriptor, -1 if there is none: for a forked child, where the lock may be held for ever.
    number: AtomicI32,
}

impl Claim {
    /// The descriptor that it holds, -1 if none.
    pub(crate) fn raw_fd(&self) -> RawFd {
        self.number.load(Ordering::Relaxed)
    }

    /// Removes the socket file if it is still the one that was made here. Does nothing the second time.
    pub(crate) fn release(&self) -> Result<()> {
        let mut file = self.file.lock();
        let Some(ours) = file.as_ref() else { return Ok(()) };
        let ours = ours.metadata().map_err(at("look at the socket of", &self.path))?.into();
        let is_ours = || identity(&self.path).map(|now| now == Some(ours)).map_err(at("look at", &self.path));
        // Without our file there is nothing to lock for; without its directory, nowhere to lock.
        if is_ours()? {
            let _lock = Lock::acquire(&self.path)?;
            if is_ours()? {
                remove(&self.path)?;
            }
        }
        self.number.store(-1, Ordering::Relaxed);
        *file = None;
        Ok(())
    }
}

/// Makes `path` ours, with a socket that listens there. With a `mode` or a `group`, nobody can connect before it has them.
pub(crate) fn claim(path: &Path, mode: Option<u32>, group: Option<u32>) -> Result<(OwnedFd, Claim)> {
    check(path)?;
    if is_abstract(path) {
        return claim_abstract(path, mode, group);
    }
    let absolute = std::path::absolute(path).map_err(at("find the absolute path of", path))?;
    let _lock = Lock::acquire(path)?;
    clear(path)?;
    let (listener, held) = match (mode, group) {
        (None, None) => listen_at(path)?,
        _ => listen_beside_and_rename(path, mode, group)?,
    };
    let number = AtomicI32::new(held.as_raw_fd());
    Ok((listener, Claim { path: absolute, file: Mutex::new(Some(held)), number }))
}

fn claim_abstract(path: &Path, mode: Option<u32>, group: Option<u32>) -> Result<(OwnedFd, Claim)> {
    if mode.is_some() || group.is_some() {
        let text = format!("the abstract address {path:?} is no file: it can have neither a mode nor a group");
        return Err(Error::InvalidArgument(text));
    }
    let listener = bind(path)?;
    socket::listen(listener.as_fd()).map_err(at("listen at", path))?;
    Ok((listener, Claim { path: path.into(), file: Mutex::new(None), number: AtomicI32::new(-1) }))
}

fn bind(path: &Path) -> Result<OwnedFd> {
    socket::bind(path).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => in_use(path, "somebody else took it in this moment"),
        _ => at("bind to", path)(error),
    })
}

fn listen_at(path: &Path) -> Result<(OwnedFd, File)> {
    let listener = bind(path)?;
    let held = file::hold(path).and_then(|held| socket::listen(listener.as_fd()).map(|()| held));
    let held = held.map_err(|error| abandon(path, at("listen at", path)(error)))?;
    Ok((listener, held))
}

/// Binds a name beside the path, gives the file its mode and group, and only then listens and takes the path: it appears
/// with everything that was asked for, to everyone at the same instant.
fn listen_beside_and_rename(path: &Path, mode: Option<u32>, group: Option<u32>) -> Result<(OwnedFd, File)> {
    let (directory, name) = split(path)?;
    let open = file::open_directory(directory).map_err(at("open the directory", directory))?;
    // Through the open directory every name here is short enough for `sun_path`, and all of them mean the same place.
    let place = file::in_proc(&open);
    // The lock of `path` covers this name too: a socket that lies there was left by a starter that was killed.
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let beside = place.join(format!(".udsipc-{:016x}", hasher.finish()));
    clear(&beside)?;

    let listener = bind(&beside)?;
    let publish = || {
        let held = file::hold(&beside).map_err(at("look at the socket of", path))?;
        if let Some(gid) = group {
            file::set_group(&held, gid).map_err(at(&format!("give to group {gid} the socket of"), path))?;
        }
        if let Some(mode) = mode {
            file::set_mode(&held, mode).map_err(at(&format!("set mode {mode:04o} on the socket of"), path))?;
        }
        socket::listen(listener.as_fd()).map_err(at("listen at", path))?;
        fs::rename(&beside, place.join(name)).map_err(at("rename the socket to", path))?;
        Ok(held)
    };
    let held = publish().map_err(|error| abandon(&beside, error))?;
    Ok((listener, held))
}

/// Takes away what was bound before `error` came up. The error is what matters to the caller.
fn abandon(path: &Path, error: Error) -> Error {
    let _ = fs::remove_file(path);
    error
}

/// The directory of a path and the name in it.
fn split(path: &Path) -> Result<(&Path, &OsStr)> {
    let name = path.file_name().ok_or_else(|| in_use(path, IS_DIRECTORY))?;
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    Ok((directory.unwrap_or(Path::new(".")), name))
}

const IS_DIRECTORY: &str = "a directory lies there, not a socket; nothing was changed";

/// What lies at a path.
enum Found {
    Nothing,
    /// A socket that nobody listens on.
    Stale,
    /// Anything that must not be touched, in words.
    Taken(&'static str),
}

fn look(path: &Path) -> Result<Found> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(at("look at", path)(error)),
    };
    let kind = metadata.file_type();
    if !kind.is_socket() {
        return Ok(Found::Taken(match () {
            () if kind.is_dir() => IS_DIRECTORY,
            () if kind.is_symlink() => "a symbolic link lies there, not a socket; nothing was changed",
            () if kind.is_file() => "a regular file lies there, not a socket; nothing was changed",
            () => "something that is not a socket lies there; nothing was changed",
        }));
    }
    // A connect is done at once or not at all, so asking never waits (see `socket::connect`).
    match socket::connect(path) {
        Ok(_) => Ok(Found::Taken("a live process listens there")),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Ok(Found::Stale),
            io::ErrorKind::WouldBlock => Ok(Found::Taken("a live process listens there, and its backlog is full")),
            io::ErrorKind::NotFound => Ok(Found::Nothing),
            // Only an open socket has a type: a stale one would have refused (unix(7)).
            _ if socket::is_other_type(&error) => Ok(Found::Taken("a live socket of another type is bound there")),
            _ => Err(at("see who listens at", path)(error)),
        },
    }
}

/// Makes room at a path, if what lies there is a stale socket. To be called under the lock.
fn clear(path: &Path) -> Result<()> {
    match look(path)? {
        Found::Nothing => Ok(()),
        Found::Stale => remove(path),
        Found::Taken(reason) => Err(in_use(path, reason)),
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove the socket", path)(error)),
        _ => Ok(()),
    }
}

fn in_use(path: &Path, reason: &'static str) -> Error {
    Error::AddressInUse { path: path.into(), reason }
}

/// Puts what was tried, and where, in front of what the system said.
fn at(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let action = format!("{action} {path:?}");
    |error| Error::from_os(action, error)
}

/// Which file: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64);

impl From<Metadata> for Identity {
    fn from(metadata: Metadata) -> Identity {
        Identity(metadata.dev(), metadata.ino())
    }
}

/// Which file a name means, without following a link; `None` if it means nothing.
fn identity(path: &Path) -> io::Result<Option<Identity>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata.into())),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The right to change what a path means, held through flock(2) on `PATH.lock`.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// For a path that has passed [`check`]: so its last part with ".lock" behind is shorter than any NAME_MAX.
    fn acquire(path: &Path) -> Result<Lock> {
        let (directory, name) = split(path)?;
        let mut lock_name = OsString::from(name);
        lock_name.push(".lock");
        let lock = directory.join(lock_name);
        let deadline = Instant::now() + LOCK_WAIT;
        while Instant::now() < deadline {
            let file = match file::open_lock(&lock) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(at("open the lock file", &lock)(error)),
            };
            if !file.metadata().map_err(at("look at the lock file", &lock))?.is_file() {
                return Err(in_use(path, "what lies at its PATH.lock is not a regular file"));
            }
            if let Some(held) = Lock::hold(&lock, file)? {
                return Ok(held);
            }
        }
        Err(in_use(path, "another process has held the lock on its PATH.lock for a second"))
    }

    /// Locks what was opened at `path`; `None`, perhaps after a short wait, if that has to be opened once more.
    fn hold(path: &Path, file: File) -> Result<Option<Lock>> {
        match file.try_lock() {
            Ok(()) => {
                let opened = file.metadata().map_err(at("look at the lock file", path))?;
                // Its last holder may have unlinked it between our open and our lock: then it guards nothing any more.
                let named = identity(path).map_err(at("look at the lock file", path))?;
                Ok((named == Some(opened.into())).then(|| Lock { path: path.into(), file }))
            }
            Err(TryLockError::WouldBlock) => {
                std::thread::sleep(LOCK_STEP);
                Ok(None)
            }
            Err(TryLockError::Error(error)) => Err(at("lock the lock file", path)(error)),
        }
    }
}

impl Drop for Lock {
    /// The name goes while the lock is held: afterwards it may already be another's. What is not empty is not ours.
    fn drop(&mut self) {
        if self.file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            let _ = fs::remove_file(&self.path);
        }
        // Closing is not enough if the host has forked meanwhile: the child has the same open file (flock(2)).
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{UnixDatagram, UnixListener};
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use tempfile::{TempDir, tempdir};

    use super::*;

    fn directory() -> TempDir {
        tempdir().expect("a directory")
    }

    /// As `kill -9` leaves it: a socket file whose socket is gone.
    fn make_stale(path: &Path) {
        drop(UnixListener::bind(path).expect("a socket"));
    }

    fn mode_of(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("a file").mode() & 0o7777
    }

    fn names_in(directory: &Path) -> Vec<OsString> {
        let mut names: Vec<_> =
            fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    }

    fn is_in_use<T: std::fmt::Debug>(result: Result<T>) -> &'static str {
        match result {
            Err(Error::AddressInUse { reason, .. }) => reason,
            other => panic!("expected AddressInUse, got {other:?}"),
        }
    }

    /// A path of exactly `length` bytes in a new directory.
    fn path_of_length(directory: &Path, length: usize) -> PathBuf {
        let rest = length - directory.as_os_str().len() - 1;
        directory.join("x".repeat(rest))
    }

    #[test]
    fn what_no_file_system_could_take_is_refused_and_the_text_names_path_and_limit() {
        let long = "/".to_owned() + &"x".repeat(107);
        for (path, part) in [
            ("", "empty"),
            ("@", "name behind"),
            (long.as_str(), "108 bytes"),
            ("/tmp/a\0b", "NUL"),
            ("@a\0b", "NUL"),
            ("/tmp/", "ends in '/'"),
        ] {
            let error = check(Path::new(path)).expect_err(path);
            assert!(matches!(error, Error::InvalidSocketPath { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(part) && text.contains("107") && text.contains(&format!("{path:?}")), "{text}");
            for refused in [ensure_socket_dir(Path::new(path)), cleanup_socket(Path::new(path))] {
                assert!(matches!(refused, Err(Error::InvalidSocketPath { .. })), "{path:?}: {refused:?}");
            }
            assert!(matches!(claim(Path::new(path), None, None), Err(Error::InvalidSocketPath { .. })));
        }
        for path in [&long[..107], "@x", "@x/", "relative", "/x"] {
            check(Path::new(path)).expect(path);
        }
    }

    #[test]
    fn a_path_of_107_bytes_is_claimed_and_one_of_108_is_not() {
        assert_eq!(max_socket_path_length(), 107);
        let dir = directory();
        let longest = path_of_length(dir.path(), 107);
        for mode in [None, Some(0o600)] {
            let (listener, claim) = claim(&longest, mode, None).expect("107 bytes");
            socket::connect(&longest).expect("somebody listens");
            claim.release().expect("ours");
            drop(listener);
        }
        let too_long = claim(&path_of_length(dir.path(), 108), None, None);
        assert!(matches!(too_long, Err(Error::InvalidSocketPath { limit: 107, .. })), "{too_long:?}");
        assert_eq!(names_in(dir.path()), [""; 0]);
    }

    #[test]
    fn missing_directories_are_made_with_mode_0750_and_existing_ones_are_left_alone() {
        let dir = directory();
        let status = fs::read_to_string("/proc/self/status").expect("proc");
        let umask = status.lines().find_map(|line| line.strip_prefix("Umask:")).expect("Linux 4.7");
        let umask = u32::from_str_radix(umask.trim(), 8).expect("an octal number");
        let before = mode_of(dir.path());
        ensure_socket_dir(&dir.path().join("a/b/socket")).expect("two directories");
        assert_eq!(mode_of(&dir.path().join("a")), 0o750 & !umask);
        assert_eq!(mode_of(&dir.path().join("a/b")), 0o750 & !umask);
        assert_eq!(mode_of(dir.path()), before);
        file::set_mode(&file::hold(&dir.path().join("a")).expect("a directory"), 0o711).expect("own directory");
        ensure_socket_dir(&dir.path().join("a/b/socket")).expect("nothing to do");
        assert_eq!(mode_of(&dir.path().join("a")), 0o711);

        fs::write(dir.path().join("file"), "").expect("a file");
        let error = ensure_socket_dir(&dir.path().join("file/b/socket")).expect_err("a file is in the way");
        assert!(error.to_string().contains("file/b"), "{error}");

        ensure_socket_dir(Path::new("@a/b/c")).expect("nothing to do");
        ensure_socket_dir(Path::new("socket")).expect("nothing to do");
        assert!(!Path::new("@a").exists());
    }

    #[test]
    fn a_stale_socket_gives_way_and_a_live_one_does_not() {
        for mode in [None, Some(0o600)] {
            let dir = directory();
            let path = dir.path().join("socket");
            make_stale(&path);
            let (listener, first) = claim(&path, mode, None).expect("a stale socket is no obstacle");
            let reason = is_in_use(claim(&path, mode, None));
            assert!(reason.contains("live"), "{reason}");
            is_in_use(cleanup_socket(&path));
            socket::connect(&path).expect("the first one is untouched");
            drop(listener);
            let (_listener, _claim) = claim(&path, mode, None).expect("at once after the death of the first");
            first.release().expect("not ours any more");
            socket::connect(&path).expect("the second one is untouched");
            assert_eq!(names_in(dir.path()), ["socket"]);
        }
    }

    #[test]
    fn a_full_backlog_is_a_live_reader() {
        let dir = directory();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        file::scene::shrink_backlog(listener.as_fd()).expect("a listener");
        let mut waiting = Vec::new();
        let full = loop {
            match socket::connect(&path) {
                Ok(connection) => waiting.push(connection),
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let reason = is_in_use(claim(&path, None, None));
        assert!(reason.contains("backlog"), "{reason}");
        drop(listener);
    }

    #[test]
    fn what_is_not_a_socket_is_never_touched() {
        let dir = directory();
        let target = dir.path().join("target");
        make_stale(&target);
        type Make<'a> = &'a dyn Fn(&Path);
        let obstacles: [(&str, Make<'_>); 5] = [
            ("regular file", &|path| fs::write(path, "precious").expect("a file")),
            ("directory", &|path| fs::create_dir(path).expect("a directory")),
            ("symbolic link", &|path| symlink(&target, path).expect("a link to a stale socket")),
            ("symbolic link", &|path| symlink("/nonexistent/nowhere", path).expect("a dangling link")),
            ("another type", &|path| std::mem::forget(UnixDatagram::bind(path).expect("a datagram socket"))),
        ];
        for (number, (kind, make)) in obstacles.into_iter().enumerate() {
            let path = dir.path().join(format!("obstacle-{number}"));
            make(&path);
            let before = identity(&path).expect("readable");
            for reason in [
                is_in_use(claim(&path, None, None)),
                is_in_use(claim(&path, Some(0o600), None)),
                is_in_use(cleanup_socket(&path)),
            ] {
                assert!(reason.contains(kind), "{kind}: {reason}");
            }
            assert!(before.is_some() && identity(&path).expect("readable") == before, "{kind}");
        }
        assert_eq!(fs::read(dir.path().join("obstacle-0")).expect("the file"), b"precious");
        assert!(target.exists());
        assert_eq!(names_in(dir.path()).len(), 6, "no litter: {:?}", names_in(dir.path()));
        is_in_use(claim(Path::new(".."), None, None));
    }

    #[test]
    fn cleanup_takes_a_stale_socket_and_minds_nothing_missing() {
        let dir = directory();
        let path = dir.path().join("socket");
        make_stale(&path);
        cleanup_socket(&path).expect("stale");
        assert_eq!(names_in(dir.path()), [""; 0]);
        cleanup_socket(&path).expect("missing");
        cleanup_socket(&dir.path().join("none/socket")).expect("missing with its directory");
        cleanup_socket(Path::new("@name")).expect("no file");
    }

    #[test]
    fn mode_and_group_are_there_from_the_first_moment() {
        let dir = directory();
        let path = dir.path().join("socket");
        let metadata = fs::metadata(dir.path()).expect("the directory");
        let foreign = metadata.uid() == 0;
        let gid = if foreign { 54_321 } else { metadata.gid() };
        #[allow(clippy::print_stderr)]
        if !foreign {
            eprintln!("not root: the group is tested with our own group only");
        }
        let (done, seen) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if let Ok(found) = fs::symlink_metadata(&path) {
                        assert_eq!((found.mode() & 0o7777, found.gid()), (0o606, gid));
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            let deadline = Instant::now() + Duration::from_secs(20);
            // Until the watcher has looked often enough for a wrong moment to show.
            while seen.load(Ordering::Relaxed) < 200 && Instant::now() < deadline {
                let (listener, claim) = claim(&path, Some(0o606), Some(gid)).expect("an empty directory");
                socket::connect(&path).expect("it listens when it appears");
                claim.release().expect("ours");
                drop(listener);
            }
            done.store(true, Ordering::Relaxed);
            watcher.join().expect("no panic");
        });
        assert!(seen.load(Ordering::Relaxed) > 0);
        assert_eq!(names_in(dir.path()), [""; 0]);

        let (_listener, _claim) = claim(&path, None, Some(gid)).expect("a group alone");
        assert_eq!(fs::symlink_metadata(&path).expect("the socket").gid(), gid);
    }

    #[test]
    fn the_litter_of_a_starter_that_was_killed_before_its_rename_is_no_obstacle() {
        let dir = directory();
        let path = dir.path().join("socket");
        let other = dir.path().join("other");
        let kept = claim(&other, Some(0o600), None).expect("an empty directory");
        let beside = {
            let mut hasher = DefaultHasher::new();
            OsStr::new("socket").hash(&mut hasher);
            dir.path().join(format!(".udsipc-{:016x}", hasher.finish()))
        };
        make_stale(&beside);
        fs::write(dir.path().join("socket.lock"), "").expect("its lock file, unlocked by its death");
        let (_listener, claim) = claim(&path, Some(0o600), None).expect("a killed starter is no obstacle");
        assert_eq!(names_in(dir.path()), ["other", "socket"]);
        claim.release().expect("ours");
        socket::connect(&other).expect("the neighbour is untouched");
        drop(kept);
    }

    #[test]
    fn of_two_starters_at_the_same_instant_exactly_one_wins() {
        let dir = directory();
        let path = dir.path().join("socket");
        for round in 0..100 {
            let mode = (round % 2 == 1).then_some(0o600);
            if round % 4 >= 2 {
                make_stale(&path);
            }
            let together = Barrier::new(2);
            let start = || {
                together.wait();
                claim(&path, mode, None)
            };
            let results = std::thread::scope(|scope| {
                let (a, b) = (scope.spawn(start), scope.spawn(start));
                [a.join().expect("no panic"), b.join().expect("no panic")]
            });
            let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
            assert_eq!((won.len(), lost.len()), (1, 1), "round {round}: {won:?} {lost:?}");
            lost.into_iter().for_each(|result| assert!(is_in_use(result).contains("live"), "round {round}"));
            socket::connect(&path).expect("the winner listens");
            assert_eq!(names_in(dir.path()), ["socket"], "round {round}");
            for (listener, claim) in won.into_iter().flatten() {
                claim.release().expect("ours");
                drop(listener);
            }
            assert_eq!(names_in(dir.path()), [""; 0], "round {round}");
        }
    }

    #[test]
    fn a_release_takes_its_own_file_only_and_once() {
        let dir = directory();
        let path = dir.path().join("socket");
        let (listener, first) = claim(&path, None, None).expect("an empty directory");
        fs::remove_file(&path).expect("a tmp cleaner");
        first.release().expect("nothing is there any more");

        let (_second_listener, second) = claim(&path, None, None).expect("an empty directory");
        first.release().expect("another's socket");
        socket::connect(&path).expect("the second one is untouched");
        drop(listener);

        second.release().expect("ours");
        assert_eq!(names_in(dir.path()), [""; 0]);
        fs::write(&path, "another's").expect("a file");
        second.release().expect("the second time");
        assert!(path.exists());
    }

    #[test]
    fn a_file_that_took_the_place_of_ours_stays() {
        let dir = directory();
        let path = dir.path().join("socket");
        let (_listener, claim) = claim(&path, None, None).expect("an empty directory");
        fs::remove_file(&path).expect("somebody removes it");
        fs::write(&path, "another's").expect("and puts a file there");
        claim.release().expect("not ours");
        assert_eq!(fs::read(&path).expect("the file"), b"another's");
    }

    #[test]
    fn a_release_without_its_directory_is_no_error() {
        let dir = directory();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).expect("a directory");
        let (_listener, claim) = claim(&inner.join("socket"), None, None).expect("an empty directory");
        fs::remove_dir_all(&inner).expect("a tmp cleaner");
        claim.release().expect("nothing to do");
        assert!(!inner.exists());
    }

    #[test]
    fn a_lock_that_is_never_given_up_ends_in_an_error_that_says_so() {
        let dir = directory();
        let path = dir.path().join("socket");
        let held = File::create(dir.path().join("socket.lock")).expect("a file");
        held.lock().expect("nobody else has it");
        let reason = is_in_use(claim(&path, None, None));
        assert!(reason.contains("PATH.lock"), "{reason}");
        assert_eq!(names_in(dir.path()), ["socket.lock"], "another's lock file stays");
        held.unlock().expect("held");
        claim(&path, None, None).expect("free again");
    }

    #[test]
    fn a_lock_on_a_file_that_the_name_does_not_mean_any_more_counts_for_nothing() {
        let dir = directory();
        let path = dir.path().join("socket.lock");
        let opened = file::open_lock(&path).expect("a lock file");
        fs::remove_file(&path).expect("its holder unlinks it");
        let again = opened.try_clone().expect("a descriptor");
        assert!(Lock::hold(&path, again).expect("no error").is_none(), "gone");
        let newer = file::open_lock(&path).expect("the next starter's");
        assert!(Lock::hold(&path, opened).expect("no error").is_none(), "another file");
        assert!(path.exists(), "and that one is left alone");
        drop(Lock::hold(&path, newer).expect("no error").expect("the one that counts"));
        assert_eq!(names_in(dir.path()), [""; 0]);
    }

    #[test]
    fn a_release_that_waited_for_the_lock_looks_again() {
        let dir = directory();
        let path = dir.path().join("socket");
        let (_listener, claim) = claim(&path, None, None).expect("an empty directory");
        let lock = dir.path().join("socket.lock");
        let held = File::create(&lock).expect("a file");
        held.lock().expect("nobody else has it");
        let descriptors_of_the_lock = || {
            let all = fs::read_dir("/proc/self/fd").expect("proc").flatten();
            all.filter(|entry| fs::read_link(entry.path()).is_ok_and(|to| to == lock)).count()
        };
        std::thread::scope(|scope| {
            let release = scope.spawn(|| claim.release());
            let deadline = Instant::now() + Duration::from_secs(10);
            while descriptors_of_the_lock() < 2 && !release.is_finished() && Instant::now() < deadline {
                std::thread::yield_now();
            }
            fs::remove_file(&path).expect("our socket");
            fs::write(&path, "another's").expect("a file");
            held.unlock().expect("held");
            // On a machine so slow that the wait was over before, it says so instead; the file stays in both cases.
            let _ = release.join().expect("no panic");
        });
        assert_eq!(fs::read(&path).expect("the file"), b"another's");
    }

    #[test]
    fn a_lock_file_that_is_not_ours_is_used_but_never_removed_and_never_followed() {
        let dir = directory();
        let (path, lock) = (dir.path().join("socket"), dir.path().join("socket.lock"));
        fs::write(&lock, "a text of somebody").expect("a file");
        let (_listener, claimed) = claim(&path, None, None).expect("its lock is free");
        claimed.release().expect("ours");
        assert_eq!(fs::read(&lock).expect("the file"), b"a text of somebody");

        fs::remove_file(&lock).expect("a file");
        symlink(dir.path().join("elsewhere"), &lock).expect("a planted link");
        let error = claim(&path, None, None).expect_err("a planted link");
        assert!(error.to_string().contains("socket.lock"), "{error}");
        assert_eq!(names_in(dir.path()), ["socket.lock"]);

        fs::remove_file(&lock).expect("a link");
        fs::create_dir(&lock).expect("a directory");
        claim(&path, None, None).expect_err("a directory cannot be locked");
        assert_eq!(names_in(dir.path()), ["socket.lock"]);
    }

    #[test]
    fn starters_of_many_paths_and_releases_never_meet_a_lock_that_is_gone() {
        let dir = directory();
        let path = dir.path().join("socket");
        let (wins, deadline) = (AtomicU32::new(0), Instant::now() + Duration::from_secs(20));
        std::thread::scope(|scope| {
            let starters: Vec<_> = std::iter::repeat_with(|| {
                scope.spawn(|| {
                    while wins.load(Ordering::Relaxed) < 200 && Instant::now() < deadline {
                        match claim(&path, None, None) {
                            Ok((listener, claim)) => {
                                let ours = claim.file.lock().as_ref().map(|file| file.metadata().expect("held").into());
                                assert_eq!(identity(&path).expect("readable"), ours, "two winners");
                                wins.fetch_add(1, Ordering::Relaxed);
                                claim.release().expect("ours");
                                drop(listener);
                            }
                            result => assert!(!is_in_use(result).is_empty()),
                        }
                    }
                })
            })
            .take(4)
            .collect();
            starters.into_iter().for_each(|starter| starter.join().expect("no panic"));
        });
        assert!(wins.load(Ordering::Relaxed) > 0);
        assert_eq!(names_in(dir.path()), [""; 0]);
    }

    #[test]
    fn an_abstract_address_is_bound_without_a_file() {
        let name = PathBuf::from(format!("@udsipc-test-path-{}", std::process::id()));
        let (listener, first) = claim(&name, None, None).expect("a new name");
        socket::connect(&name).expect("it listens");
        is_in_use(claim(&name, None, None));
        first.release().expect("nothing to do");
        assert!(!name.exists() && !Path::new(&format!("{}.lock", name.display())).exists());
        drop(listener);
        claim(&name, None, None).expect("free again");
        for (mode, group) in [(Some(0o600), None), (None, Some(0))] {
            assert!(matches!(claim(&name, mode, group), Err(Error::InvalidArgument(_))));
        }
    }

    #[test]
    fn a_missing_directory_is_named() {
        let dir = directory();
        let path = dir.path().join("none/socket");
        let error = claim(&path, None, None).expect_err("no directory");
        assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("none/socket"), "{error}");
    }

    #[test]
    fn a_directory_that_we_may_not_write_to_is_permission_denied() {
        // sysfs takes no new files, from root neither.
        let path = Path::new("/sys/kernel/udsipc-test-socket");
        let error = claim(path, None, None).expect_err("no place for files");
        assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
        assert!(error.to_string().contains("udsipc-test-socket"), "{error}");
    }
}
