//! Finds the path and connects. Each call may wait for a file system that does not answer.

use std::borrow::Cow;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::delivery::name::{WriterId, WriterName};
use crate::error::{Error, Result};
use crate::options::Acknowledge;
use crate::path;
use crate::sys::descriptor::Descriptor;
use crate::sys::lock::Mutex;
use crate::sys::socket::Unnamed;
use crate::sys::{self, file, socket};

use super::redial::DialFailure;
use super::session::DialError;

/// Which file a name means (device and inode).
type Identity = (u64, u64);

/// The reader's address, found anew by each connect and whatever the working directory is by then.
#[derive(Debug)]
pub(super) struct Dialer {
    target: DialTarget,
    /// What lay at the path when the present connection was made; none for an abstract address.
    connected_to: Mutex<Option<Identity>>,
    /// What the writer calls itself; none if it does not ask for acknowledgement.
    id: Option<WriterId>,
    /// The system refuses names: none is tried again.
    is_nameless: AtomicBool,
    dials: AtomicU64,
}

/// How often a name is tried that somebody else has taken.
const NAMES: u32 = 4;

#[derive(Debug)]
enum DialTarget {
    /// An abstract address, or an absolute path that is short enough.
    Direct(PathBuf),
    /// A relative path, since the absolute one is too long for an address: from the directory in which the writer was made.
    From { directory: Descriptor, relative: PathBuf, absolute: PathBuf },
}

impl Dialer {
    pub(super) fn new(path: &Path, acknowledge: Acknowledge) -> Result<Dialer> {
        path::check(path)?;
        Ok(Dialer::of(DialTarget::find(path)?, acknowledge))
    }

    fn of(target: DialTarget, acknowledge: Acknowledge) -> Dialer {
        let is_named = acknowledge != Acknowledge::Off;
        Dialer {
            target,
            connected_to: Mutex::new(None),
            // Where there is no entropy there is no name, and every reader is a plain one.
            id: is_named.then(sys::random_bytes).and_then(|bytes| bytes.ok()).map(WriterId),
            is_nameless: AtomicBool::new(false),
            dials: AtomicU64::new(0),
        }
    }

    /// The absolute path of the socket file; none for an abstract address.
    pub(super) fn file(&self) -> Option<&Path> {
        match &self.target {
            DialTarget::Direct(path) if path::is_abstract(path) => None,
            DialTarget::Direct(path) | DialTarget::From { absolute: path, .. } => Some(path),
        }
    }

    /// The first message on the connection has this sequence number.
    pub(super) fn connect(&self, first_sequence: u64) -> std::result::Result<Descriptor, DialError> {
        self.connect_and_identify(first_sequence).map_err(|source| DialError { failure: classify(&source), source })
    }

    fn connect_and_identify(&self, first_sequence: u64) -> io::Result<Descriptor> {
        let (path, _directory) = self.target.reach()?;
        let before = identify(&path);
        let connected = self.connect_as_oneself(&path, first_sequence)?;
        // Replaced in this very moment it could be either: then nothing is known.
        *self.connected_to.lock() = before.filter(|_| before == identify(&path));
        Ok(connected)
    }

    fn connect_as_oneself(&self, path: &Path, first_sequence: u64) -> io::Result<Descriptor> {
        let Some(id) = self.id.filter(|_| !self.is_nameless.load(Ordering::Relaxed)) else {
            return socket::connect(path);
        };
        for _ in 0..NAMES {
            let dial = self.dials.fetch_add(1, Ordering::Relaxed);
            match socket::connect_as(&WriterName { id, first_sequence, dial }.to_string(), path) {
                Ok(connected) => return Ok(connected),
                Err(Unnamed::Connect(error)) => return Err(error),
                Err(Unnamed::Refused(error)) if error.kind() == io::ErrorKind::AddrInUse => {}
                // That passes: the next connection may have a name again.
                Err(Unnamed::Refused(error)) if error.raw_os_error().is_some_and(sys::is_exhaustion) => break,
                Err(Unnamed::Refused(_)) => {
                    self.is_nameless.store(true, Ordering::Relaxed);
                    break;
                }
            }
        }
        socket::connect(path)
    }

    /// Whether another socket lies at the path than the one that the present connection was made to.
    pub(super) fn is_replaced(&self) -> bool {
        let Some(before) = *self.connected_to.lock() else { return false };
        self.target.reach().is_ok_and(|(path, _directory)| identify(&path).is_some_and(|now| now != before))
    }
}

impl DialTarget {
    fn find(path: &Path) -> Result<DialTarget> {
        if path::is_abstract(path) || path.is_absolute() {
            return Ok(DialTarget::Direct(path.into()));
        }
        let resources = |source| Error::from_os(format!("find the directory of {}", path.display()), source);
        let absolute = std::path::absolute(path).map_err(resources)?;
        if absolute.as_os_str().len() <= path::max_socket_path_length() {
            return Ok(DialTarget::Direct(absolute));
        }
        let directory = file::open_directory(Path::new(".")).map_err(resources)?;
        Ok(DialTarget::From { directory, relative: path.into(), absolute })
    }

    /// A path for the system calls, and what must be kept open while it is used.
    fn reach(&self) -> io::Result<(Cow<'_, Path>, Option<Descriptor>)> {
        match self {
            DialTarget::Direct(path) => Ok((path.into(), None)),
            DialTarget::From { directory, relative, .. } => {
                let name = relative.file_name().ok_or(io::ErrorKind::InvalidInput)?;
                let parent = relative.parent().unwrap_or(Path::new(""));
                let parent = file::open_directory(&file::in_proc(directory).join(parent))?;
                Ok((file::in_proc(&parent).join(name).into(), Some(parent)))
            }
        }
    }
}

fn identify(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

fn classify(error: &io::Error) -> DialFailure {
    match error.raw_os_error() {
        _ if error.kind() == io::ErrorKind::WouldBlock => DialFailure::BacklogFull,
        Some(errno) if sys::is_exhaustion(errno) || sys::is_bad_descriptor(error) => DialFailure::Shortage,
        _ => DialFailure::NobodyListens,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_relative_path_is_the_one_of_the_moment_of_new() {
        let dialer = Dialer::new(Path::new("not/here.sock"), Acknowledge::Off).expect("a dialer");
        let here = std::env::current_dir().expect("a working directory");
        assert_eq!(dialer.file(), Some(&*here.join("not/here.sock")));
    }

    #[test]
    fn a_long_path_is_reached_from_its_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let deep = dir.path().join("d".repeat(60)).join("e".repeat(60));
        std::fs::create_dir_all(&deep).expect("directories");
        let target = DialTarget::From {
            directory: file::open_directory(dir.path()).expect("a directory"),
            relative: Path::new(&"d".repeat(60)).join("e".repeat(60)).join("s"),
            absolute: deep.join("s"),
        };
        let dialer = Dialer::of(target, Acknowledge::IfPossible);
        assert_eq!(dialer.connect(1).expect_err("nobody").failure, DialFailure::NobodyListens);
        let parent = file::open_directory(&deep).expect("a directory");
        let _listener = UnixListener::bind(file::in_proc(&parent).join("s")).expect("a listener");
        dialer.connect(1).expect("a listener");
        assert_eq!(dialer.file(), Some(&*deep.join("s")));
    }

    #[test]
    fn another_socket_at_the_path_is_told_from_the_one_that_was_connected_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let dialer = Dialer::new(&path, Acknowledge::IfPossible).expect("a dialer");
        assert!(!dialer.is_replaced(), "nothing was connected to");
        let _first = UnixListener::bind(&path).expect("a listener");
        dialer.connect(1).expect("a listener");
        assert!(!dialer.is_replaced());
        std::fs::rename(&path, dir.path().join("old")).expect("a rename");
        assert!(!dialer.is_replaced(), "nobody has taken the path");
        let _second = UnixListener::bind(&path).expect("a listener");
        assert!(dialer.is_replaced());
    }

    #[test]
    fn what_a_failure_says_of_the_reader() {
        let of = |errno| classify(&io::Error::from_raw_os_error(errno));
        // EAGAIN, ENOENT, ECONNREFUSED, EACCES, EMFILE, EBADF of Linux.
        let failures = [11, 2, 111, 13, 24, 9].map(of);
        use DialFailure::{BacklogFull, NobodyListens, Shortage};
        assert_eq!(failures, [BacklogFull, NobodyListens, NobodyListens, NobodyListens, Shortage, Shortage]);
    }
}
