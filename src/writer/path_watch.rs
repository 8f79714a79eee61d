//! Tells writers that are not connected when the reader's socket appears, by inotify(7) on its directory.
//!
//! A directory that does not exist yet is waited for through its nearest existing parent: when the next part of the path
//! appears there, the writer dials, fails, and watches one level deeper. Where inotify is not to be had, or the directory
//! may not be read, nothing is watched and the pauses of `redial` are all there is.
//!
//! A writer in a host's event loop has one of its own while it is not connected; started writers share one (`shared_watch`).

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::sys::inotify::{Change, ChangeKind, Inotify, Watch};
use crate::sys::lock::Mutex;

/// How often the watched place is looked for again when a part of the path appears meanwhile.
const LOOKUP_TRIES: usize = 4;

/// A directory that is watched, and the name that is waited for in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    watch: Watch,
    name: OsString,
}

/// Directories that are watched for the names of `T`s.
#[derive(Debug)]
pub(super) struct PathWatch<T> {
    inotify: Inotify,
    waiting: Mutex<Waiting<T>>,
}

#[derive(Debug)]
struct Waiting<T> {
    listeners: HashMap<u64, (Place, T)>,
    /// How many callers look for a place: their watches are not yet those of a listener.
    looking: usize,
    /// Watches that may be without a listener.
    left: Vec<Watch>,
}

impl<T: Clone> PathWatch<T> {
    pub(super) fn new() -> io::Result<PathWatch<T>> {
        let waiting = Waiting { listeners: HashMap::new(), looking: 0, left: Vec::new() };
        Ok(PathWatch { inotify: Inotify::new()?, waiting: Mutex::new(waiting) })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd as _;
        self.inotify.as_fd()
    }

    /// Watches for the next missing part of `path`, for the listener `id`. True if that is another place than before: it may
    /// have appeared just before the watch. May wait for the file system.
    pub(super) fn watch(&self, id: u64, path: &Path, listener: T) -> bool {
        let place = self.look_for_place(path);
        self.wait_at(id, place, listener)
    }

    fn look_for_place(&self, path: &Path) -> Option<Place> {
        self.waiting.lock().looking += 1;
        self.find_place(path)
    }

    /// After [`PathWatch::look_for_place`]. True if that is another place than before.
    fn wait_at(&self, id: u64, place: Option<Place>, listener: T) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.looking -= 1;
        let before = match place.clone() {
            Some(place) => waiting.listeners.insert(id, (place, listener)),
            None => waiting.listeners.remove(&id),
        };
        let before = before.map(|(place, _)| place);
        let is_new = place.is_some() && place != before;
        self.release(&mut waiting, before.map(|before| before.watch));
        is_new
    }

    /// The listener does not wait any more.
    pub(super) fn forget(&self, id: u64) {
        let mut waiting = self.waiting.lock();
        let forgotten = waiting.listeners.remove(&id);
        self.release(&mut waiting, forgotten.map(|(place, _)| place.watch));
    }

    /// Those whose name has appeared, or whose directory has changed in a way that has to be looked into: each once, however
    /// much has changed. Never waits.
    pub(super) fn take_changes(&self) -> Vec<T> {
        let mut changed = HashMap::new();
        let waiting = self.waiting.lock();
        let _ = self.inotify.read(|change| {
            let affected = waiting.listeners.iter().filter(|(_, (place, _))| place.is_affected_by(&change));
            for (id, (_, listener)) in affected {
                changed.entry(*id).or_insert_with(|| listener.clone());
            }
        });
        changed.into_values().collect()
    }

    /// The deepest directory of the path that exists, and what is missing in it.
    fn find_place(&self, path: &Path) -> Option<Place> {
        for _ in 0..LOOKUP_TRIES {
            let (directory, name, watch) = self.watch_deepest(path)?;
            let is_whole_path = directory.join(name) == path;
            // A directory that has appeared just now would be missed: go deeper.
            if is_whole_path || !directory.join(name).is_dir() {
                return Some(Place { watch, name: name.to_owned() });
            }
            self.release(&mut self.waiting.lock(), Some(watch));
        }
        None
    }

    fn watch_deepest<'a>(&self, path: &'a Path) -> Option<(&'a Path, &'a OsStr, Watch)> {
        let mut below = path;
        for directory in path.ancestors().skip(1) {
            match self.inotify.add(directory) {
                Ok(watch) => return Some((directory, below.file_name()?, watch)),
                Err(error) if is_missing(&error) => below = directory,
                Err(_) => return None,
            }
        }
        None
    }

    /// Ends watches that no listener needs. The kernel has one for each directory, so while a caller looks for a place the
    /// watch may also be that caller's.
    fn release(&self, waiting: &mut Waiting<T>, watch: Option<Watch>) {
        waiting.left.extend(watch.filter(|watch| !waiting.left.contains(watch)));
        if waiting.looking > 0 {
            return;
        }
        for watch in std::mem::take(&mut waiting.left) {
            if !waiting.listeners.values().any(|(place, _)| place.watch == watch) {
                self.inotify.remove(watch);
            }
        }
    }
}

impl Place {
    fn is_affected_by(&self, change: &Change<'_>) -> bool {
        match change.kind {
            ChangeKind::Overflow => true,
            ChangeKind::SelfGone => change.watch == self.watch,
            ChangeKind::Appeared | ChangeKind::Attributes => change.watch == self.watch && change.name == self.name,
            ChangeKind::Gone => false,
        }
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(all(test, not(loom)))]
impl<T> PathWatch<T> {
    /// How many watches the kernel has (proc_pid_fdinfo(5)).
    pub(super) fn watches(&self) -> usize {
        use std::os::fd::{AsFd as _, AsRawFd as _};
        let info = format!("/proc/self/fdinfo/{}", self.inotify.as_fd().as_raw_fd());
        std::fs::read_to_string(info).expect("fdinfo").lines().filter(|line| line.starts_with("inotify ")).count()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::fs;
    use std::time::{Duration, Instant};

    /// What changed, once something has.
    fn changes(watch: &PathWatch<u64>) -> Vec<u64> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut changed = watch.take_changes();
            changed.dedup();
            if !changed.is_empty() || Instant::now() > deadline {
                return changed;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_name_that_appears_is_told_to_those_who_wait_for_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let watch = PathWatch::new().expect("inotify");
        let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
        assert!(watch.watch(1, &one, 1_u64));
        assert!(watch.watch(2, &other, 2));
        assert!(!watch.watch(2, &other, 2), "it is watched already");
        fs::write(&other, "").expect("a file");
        assert_eq!(changes(&watch), [2]);
        watch.forget(1);
        fs::write(&one, "").expect("a file");
        assert!(watch.take_changes().is_empty());
    }

    #[test]
    fn a_missing_directory_is_waited_for_level_by_level() {
        let dir = tempfile::tempdir().expect("a directory");
        let watch = PathWatch::new().expect("inotify");
        let path = dir.path().join("a/b/socket");
        for missing in ["a", "a/b"] {
            assert!(watch.watch(1, &path, 1_u64));
            assert!(watch.take_changes().is_empty());
            fs::create_dir(dir.path().join(missing)).expect("a directory");
            assert_eq!(changes(&watch), [1], "{missing}");
        }
        assert!(watch.watch(1, &path, 1));
        fs::write(&path, "").expect("a file");
        assert_eq!(changes(&watch), [1]);
    }

    #[test]
    fn a_directory_that_is_removed_or_moved_away_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let watch = PathWatch::new().expect("inotify");
        let directory = dir.path().join("run");
        let path = directory.join("socket");
        fs::create_dir(&directory).expect("a directory");
        watch.watch(1, &path, 1_u64);
        fs::remove_dir(&directory).expect("an empty directory");
        assert_eq!(changes(&watch), [1]);
        assert!(watch.watch(1, &path, 1), "its parent is watched now");
        fs::create_dir(&directory).expect("a directory");
        assert_eq!(changes(&watch), [1]);
        watch.watch(1, &path, 1);
        fs::rename(&directory, dir.path().join("old")).expect("a rename");
        assert_eq!(changes(&watch), [1]);
    }

    #[test]
    fn a_listener_is_told_once_of_many_changes() {
        let dir = tempfile::tempdir().expect("a directory");
        let watch = PathWatch::new().expect("inotify");
        let path = dir.path().join("socket");
        watch.watch(1, &path, 1_u64);
        for _ in 0..100 {
            fs::write(&path, "").expect("a file");
            fs::remove_file(&path).expect("a file");
        }
        assert_eq!(watch.take_changes(), [1]);
    }

    /// The kernel has one watch for a directory: whoever does not need it any more must not take it from the others.
    #[test]
    fn a_watch_is_not_lost_to_another_listener_that_ends_its_own() {
        let dir = tempfile::tempdir().expect("a directory");
        let watch = PathWatch::new().expect("inotify");
        let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
        watch.watch(2, &other, 2_u64);
        let place = watch.look_for_place(&one);
        watch.forget(2);
        watch.wait_at(1, place, 1);
        fs::write(&one, "").expect("a file");
        assert_eq!(changes(&watch), [1]);
        watch.forget(1);
        assert_eq!(watch.watches(), 0);
    }
}
