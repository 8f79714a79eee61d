//! Changes of directories and socket files, reported by the kernel (inotify(7)).

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::descriptor::Descriptor;
use super::{cvt, cvt_len, retry_eintr};

const DIRECTORY: u32 = libc::IN_ONLYDIR
    | libc::IN_CREATE
    | libc::IN_MOVED_TO
    | libc::IN_MOVED_FROM
    | libc::IN_DELETE
    | libc::IN_ATTRIB
    | libc::IN_DELETE_SELF
    | libc::IN_MOVE_SELF;
const FILE: u32 = libc::IN_DONT_FOLLOW | libc::IN_ATTRIB | libc::IN_DELETE_SELF | libc::IN_MOVE_SELF;

const APPEARED: u32 = libc::IN_CREATE | libc::IN_MOVED_TO;
const GONE: u32 = libc::IN_DELETE | libc::IN_MOVED_FROM;
const SELF_GONE: u32 = libc::IN_DELETE_SELF | libc::IN_MOVE_SELF | libc::IN_UNMOUNT | libc::IN_IGNORED;

/// An inotify instance: the kernel's queue of changes. A user can have 128 in all processes together, by default
/// (`fs.inotify.max_user_instances`); beyond that `new` fails with EMFILE.
#[derive(Debug)]
pub(crate) struct Inotify(Descriptor);

/// The number of a watch. The kernel reuses none before it has used all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Watch(libc::c_int);

/// One change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change<'a> {
    /// The watch that reports the change; -1 for [`ChangeKind::Overflow`].
    pub(crate) watch: Watch,
    /// The entry of the directory; empty for a change of the watched directory or file itself.
    pub(crate) name: &'a OsStr,
    pub(crate) kind: ChangeKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    /// The directory has a new entry of this name, made there or moved there.
    Appeared,
    /// The directory has no entry of this name any more.
    Gone,
    /// Mode, owner, times or link count have changed. The unlink of a socket that still listens is reported only like this.
    Attributes,
    /// The watched directory or file itself was deleted, moved or unmounted, or [`Inotify::remove`] was called. May be
    /// reported more than once for one watch. After a move the kernel goes on watching: remove the watch.
    SelfGone,
    /// Changes were dropped because nobody read them in time (`fs.inotify.max_queued_events`): check every watched path.
    Overflow,
}

/// The buffer for read(2). The kernel aligns each event to its header's alignment.
#[repr(C, align(8))]
struct Buffer([u8; 4096]);

const _: () = assert!(align_of::<libc::inotify_event>() <= align_of::<Buffer>());

impl Inotify {
    pub(crate) fn new() -> io::Result<Inotify> {
        // SAFETY: takes no pointers.
        Descriptor::create(|| unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) }).map(Inotify)
    }

    /// Watches a directory: its entries, and the directory itself. ENOTDIR if it is none. The same directory again is
    /// the same watch, whatever its path.
    pub(crate) fn add(&self, directory: &Path) -> io::Result<Watch> {
        self.watch(directory, DIRECTORY)
    }

    /// Watches a file such as a socket: its attributes and its end. A symbolic link is watched itself.
    pub(crate) fn add_file(&self, path: &Path) -> io::Result<Watch> {
        self.watch(path, FILE)
    }

    fn watch(&self, path: &Path, mask: u32) -> io::Result<Watch> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: `path` is a C string that outlives the call.
        cvt(unsafe { libc::inotify_add_watch(self.0.as_raw_fd(), path.as_ptr(), mask) }).map(Watch)
    }

    /// Ends a watch. Changes that are already queued are still reported, then [`ChangeKind::SelfGone`].
    pub(crate) fn remove(&self, watch: Watch) {
        // SAFETY: takes no pointers. EINVAL, the one error, says that the kernel has ended the watch already.
        unsafe { libc::inotify_rm_watch(self.0.as_raw_fd(), watch.0) };
    }

    /// Calls `each` for all changes that are queued now, without waiting. Changes queued during the call may be left for the
    /// next one, so that a busy directory cannot hold the caller; they make the descriptor readable again.
    pub(crate) fn read(&self, mut each: impl FnMut(Change<'_>)) -> io::Result<()> {
        let mut buffer = Buffer([0; 4096]);
        let mut queued = super::socket::bytes_readable(self.as_fd())?;
        while queued > 0 {
            let read = retry_eintr(|| {
                let room = &mut buffer.0;
                // SAFETY: `room` is writable for its length during the call.
                cvt_len(unsafe { libc::read(self.0.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) })
            });
            match read {
                Ok(0) => break,
                Ok(got) => {
                    for_each_change(&buffer.0[..got], &mut each);
                    queued = queued.saturating_sub(got);
                }
                // Another thread has read the rest.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Parses the result of one read(2): headers, each followed by `len` bytes of name and padding.
fn for_each_change(mut events: &[u8], each: &mut impl FnMut(Change<'_>)) {
    while let Some((header, rest)) = events.split_at_checked(size_of::<libc::inotify_event>()) {
        let number = |at: usize| -> u32 {
            header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
        };
        let watch = Watch(number(offset_of!(libc::inotify_event, wd)).cast_signed());
        let len = number(offset_of!(libc::inotify_event, len)) as usize;
        let Some((padded, rest)) = rest.split_at_checked(len) else { return };
        let name = CStr::from_bytes_until_nul(padded).map_or(padded, CStr::to_bytes);
        if let Some(kind) = kind_of(number(offset_of!(libc::inotify_event, mask))) {
            each(Change { watch, name: OsStr::from_bytes(name), kind });
        }
        events = rest;
    }
}

fn kind_of(mask: u32) -> Option<ChangeKind> {
    [
        (libc::IN_Q_OVERFLOW, ChangeKind::Overflow),
        (SELF_GONE, ChangeKind::SelfGone),
        (APPEARED, ChangeKind::Appeared),
        (GONE, ChangeKind::Gone),
        (libc::IN_ATTRIB, ChangeKind::Attributes),
    ]
    .into_iter()
    .find_map(|(bits, kind)| (mask & bits != 0).then_some(kind))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;

    use super::ChangeKind::{Appeared, Attributes, Gone, Overflow, SelfGone};
    use super::*;

    fn changes(inotify: &Inotify) -> Vec<(Watch, String, ChangeKind)> {
        let mut all = Vec::new();
        let each = |c: Change<'_>| all.push((c.watch, c.name.to_str().expect("ASCII").to_owned(), c.kind));
        inotify.read(each).expect("read");
        all
    }

    #[test]
    fn entries_of_a_directory_appear_and_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let inotify = Inotify::new().expect("an instance");
        let watch = inotify.add(dir.path()).expect("a watch");
        assert_eq!(changes(&inotify), [], "nothing yet, and no waiting");
        let path = |name: &str| dir.path().join(name);
        let listener = UnixListener::bind(path("a.sock")).expect("a socket");
        assert_eq!(changes(&inotify), [(watch, "a.sock".into(), Appeared)]);
        fs::rename(path("a.sock"), path("b.sock")).expect("rename");
        assert_eq!(changes(&inotify), [(watch, "a.sock".into(), Gone), (watch, "b.sock".into(), Appeared)]);
        fs::remove_file(path("b.sock")).expect("unlink");
        drop(listener);
        assert_eq!(changes(&inotify), [(watch, "b.sock".into(), Gone)]);
    }

    #[test]
    fn the_end_of_the_directory_itself_is_reported() {
        let dir = tempfile::tempdir().expect("a directory");
        let inotify = Inotify::new().expect("an instance");
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        fs::create_dir(&one).expect("a directory");
        let watch = inotify.add(&one).expect("a watch");
        assert_eq!(inotify.add(&one).expect("the same directory"), watch);
        fs::rename(&one, &two).expect("rename");
        assert_eq!(changes(&inotify), [(watch, String::new(), SelfGone)]);
        fs::remove_dir(&two).expect("rmdir");
        let reported = changes(&inotify);
        assert!(
            reported.len() >= 2 && reported.iter().all(|change| *change == (watch, String::new(), SelfGone)),
            "{reported:?}"
        );
        inotify.remove(watch);
        fs::create_dir(&one).expect("a directory");
        assert_ne!(inotify.add(&one).expect("a watch"), watch, "numbers are not used again");
    }

    #[test]
    fn a_removed_watch_reports_its_end_and_nothing_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let inotify = Inotify::new().expect("an instance");
        let watch = inotify.add(dir.path()).expect("a watch");
        inotify.remove(watch);
        fs::write(dir.path().join("file"), "x").expect("a file");
        assert_eq!(changes(&inotify), [(watch, String::new(), SelfGone)]);
    }

    #[test]
    fn a_socket_file_that_is_removed_while_it_listens_changes_its_attributes() {
        let dir = tempfile::tempdir().expect("a directory");
        let inotify = Inotify::new().expect("an instance");
        let path = dir.path().join("a.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let watch = inotify.add_file(&path).expect("a watch");
        fs::remove_file(&path).expect("unlink");
        assert_eq!(changes(&inotify), [(watch, String::new(), Attributes)]);
        drop(listener);
        assert!(changes(&inotify).iter().all(|change| *change == (watch, String::new(), SelfGone)));
    }

    #[test]
    fn what_cannot_be_watched_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let inotify = Inotify::new().expect("an instance");
        let error = |path: &str| inotify.add(&dir.path().join(path)).expect_err("refused").raw_os_error();
        assert_eq!(error("none"), Some(libc::ENOENT));
        fs::write(dir.path().join("file"), "x").expect("a file");
        assert_eq!(error("file"), Some(libc::ENOTDIR));
        assert_eq!(error("a\0b"), None);
        std::os::unix::fs::symlink(dir.path().join("none"), dir.path().join("link")).expect("a link");
        inotify.add_file(&dir.path().join("link")).expect("a dangling link is watched itself");
    }

    #[test]
    fn more_changes_than_one_read_holds_come_in_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let inotify = Inotify::new().expect("an instance");
        inotify.add(dir.path()).expect("a watch");
        let names: Vec<String> = (0..200).map(|n| format!("{n:03}{}", "x".repeat(n))).collect();
        for name in &names {
            fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        let reported: Vec<String> = changes(&inotify).into_iter().map(|(_, name, _)| name).collect();
        assert_eq!(reported, names);
    }

    #[test]
    fn an_overflow_belongs_to_no_watch() {
        let header = libc::inotify_event { wd: -1, mask: libc::IN_Q_OVERFLOW, cookie: 0, len: 0 };
        let mut bytes = Vec::new();
        for number in [header.wd.cast_unsigned(), header.mask, header.cookie, header.len] {
            bytes.extend_from_slice(&number.to_ne_bytes());
        }
        let mut reported = Vec::new();
        for_each_change(&bytes, &mut |change| reported.push((change.watch, change.kind)));
        assert_eq!(reported, [(Watch(-1), Overflow)]);
        for_each_change(&bytes[..10], &mut |_| panic!("half a header is no change"));
    }
}
