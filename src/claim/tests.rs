use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tempfile::{TempDir, tempdir};

use super::*;
use crate::sys::file::scene;

mod turns;

fn directory() -> TempDir {
    tempdir().expect("a directory")
}

/// Far enough away for any machine.
fn later() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn claim_now(path: &Path) -> Result<(Descriptor, Claim)> {
    claim(path, Access::default(), later())
}

fn claim_with(path: &Path, mode: Option<u32>) -> Result<(Descriptor, Claim)> {
    claim(path, Access::new(mode, None), later())
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

fn is_in_use<T: std::fmt::Debug>(result: Result<T>) -> String {
    match result {
        Err(Error::AddressInUse { reason, .. }) => reason.into_owned(),
        other => panic!("expected AddressInUse, got {other:?}"),
    }
}

/// A path of exactly `length` bytes in a new directory.
fn path_of_length(directory: &Path, length: usize) -> PathBuf {
    let rest = length - directory.as_os_str().len() - 1;
    directory.join("x".repeat(rest))
}

#[test]
fn a_path_that_check_refuses_is_refused_by_every_function() {
    let dir = directory();
    for path in ["", "unix:///tmp/x", "~/x", "/tmp/x\n"] {
        let path = Path::new(path);
        for refused in [ensure_socket_dir(path), cleanup_socket(path), claim_now(path).map(|_| ())] {
            assert!(matches!(refused, Err(Error::InvalidSocketPath { .. })), "{path:?}: {refused:?}");
        }
    }
    assert!(!Path::new("unix:").exists() && !Path::new("~").exists());
    assert_eq!(names_in(dir.path()), [""; 0]);
}

#[test]
fn a_path_of_107_bytes_is_claimed_and_one_of_108_is_not() {
    let dir = directory();
    let longest = path_of_length(dir.path(), 107);
    for mode in [None, Some(0o666)] {
        let (listener, claim) = claim_with(&longest, mode).expect("107 bytes");
        socket::connect(&longest).expect("somebody listens");
        claim.release().expect("ours");
        drop(listener);
    }
    let too_long = claim_now(&path_of_length(dir.path(), 108));
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
    ensure_socket_dir(dir.path().join("a/b/socket")).expect("two directories");
    assert_eq!(mode_of(&dir.path().join("a")), 0o750 & !umask);
    assert_eq!(mode_of(&dir.path().join("a/b")), 0o750 & !umask);
    assert_eq!(mode_of(dir.path()), before);
    fs::set_permissions(dir.path().join("a"), fs::Permissions::from_mode(0o711)).expect("own directory");
    ensure_socket_dir(dir.path().join("a/b/socket")).expect("nothing to do");
    assert_eq!(mode_of(&dir.path().join("a")), 0o711);

    fs::write(dir.path().join("file"), "").expect("a file");
    let error = ensure_socket_dir(dir.path().join("file/b/socket")).expect_err("a file is in the way");
    assert!(error.to_string().contains("file/b"), "{error}");

    ensure_socket_dir(Path::new("@a/b/c")).expect("nothing to do");
    ensure_socket_dir(Path::new("socket")).expect("nothing to do");
    assert!(!Path::new("@a").exists());
}

#[test]
fn a_stale_socket_gives_way_and_a_live_one_does_not() {
    for mode in [None, Some(0o666)] {
        let dir = directory();
        let path = dir.path().join("socket");
        make_stale(&path);
        let (listener, first) = claim_with(&path, mode).expect("a stale socket is no obstacle");
        let reason = is_in_use(claim_with(&path, mode));
        assert!(reason.contains("live"), "{reason}");
        is_in_use(cleanup_socket(&path));
        socket::connect(&path).expect("the first one is untouched");
        drop(listener);
        let (_listener, _claim) = claim_with(&path, mode).expect("at once after the death of the first");
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
    scene::shrink_backlog(listener.as_fd()).expect("a listener");
    let mut waiting = Vec::new();
    let full = loop {
        match socket::connect(&path) {
            Ok(connection) => waiting.push(connection),
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    let reason = is_in_use(claim_now(&path));
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
        for reason in
            [is_in_use(claim_now(&path)), is_in_use(claim_with(&path, Some(0o666))), is_in_use(cleanup_socket(&path))]
        {
            assert!(reason.contains(kind), "{kind}: {reason}");
        }
        assert!(before.is_some() && identity(&path).expect("readable") == before, "{kind}");
    }
    assert_eq!(fs::read(dir.path().join("obstacle-0")).expect("the file"), b"precious");
    assert!(target.exists());
    assert_eq!(names_in(dir.path()).len(), 6, "no litter: {:?}", names_in(dir.path()));
    is_in_use(claim_now(Path::new("..")));
}

#[test]
fn cleanup_takes_a_stale_socket_and_minds_nothing_missing() {
    let dir = directory();
    let path = dir.path().join("socket");
    make_stale(&path);
    cleanup_socket(&path).expect("stale");
    assert_eq!(names_in(dir.path()), [""; 0]);
    cleanup_socket(&path).expect("missing");
    cleanup_socket(dir.path().join("none/socket")).expect("missing with its directory");
    cleanup_socket(Path::new("@name")).expect("no file");
}

#[test]
fn mode_and_group_are_there_before_the_first_connect_and_the_mode_is_never_wider() {
    let dir = directory();
    let path = dir.path().join("socket");
    let metadata = fs::metadata(dir.path()).expect("the directory");
    let gid = if metadata.uid() == 0 { 54_321 } else { metadata.gid() };
    let access = Access::new(Some(0o606), Some(gid));
    let (done, seen) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let Ok(first) = fs::symlink_metadata(&path) else { continue };
                assert_eq!(first.mode() & 0o7777 & !0o606, 0, "{:o}", first.mode());
                let connected = socket::connect(&path).is_ok();
                // What was connected to had been complete before, if it is still the same file.
                let Ok(then) = fs::symlink_metadata(&path) else { continue };
                if connected && Identity::of(&first) == Identity::of(&then) {
                    assert_eq!((then.mode() & 0o7777, then.gid()), (0o606, gid));
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let deadline = later();
        // Until the watcher has looked often enough for a wrong moment to show.
        while seen.load(Ordering::Relaxed) < 200 && Instant::now() < deadline {
            let (listener, claim) = claim(&path, access, later()).expect("an empty directory");
            std::thread::yield_now();
            claim.release().expect("ours");
            drop(listener);
        }
        done.store(true, Ordering::Relaxed);
        watcher.join().expect("no panic");
    });
    assert!(seen.load(Ordering::Relaxed) > 0);
    assert_eq!(names_in(dir.path()), [""; 0]);

    let (_listener, _claim) = claim(&path, Access::new(None, Some(gid)), later()).expect("a group alone");
    assert_eq!(fs::symlink_metadata(&path).expect("the socket").gid(), gid);
}

#[test]
fn the_kernel_knows_the_socket_by_its_final_absolute_name() {
    let dir = directory();
    let path = dir.path().join("socket");
    for mode in [None, Some(0o600), Some(0o666)] {
        let (listener, claim) = claim_with(&path, mode).expect("an empty directory");
        assert_eq!(socket::local_path(listener.as_fd()).expect("bound"), path);
        let table = fs::read("/proc/net/unix").expect("proc");
        let suffix = [b" ", path.as_os_str().as_bytes()].concat();
        assert!(table.split(|byte| *byte == b'\n').any(|line| line.ends_with(&suffix)), "{path:?}");
        claim.release().expect("ours");
    }
}

#[test]
fn a_failed_claim_leaves_nothing_behind() {
    if sys_is_root() {
        return; // root may give a file to any group
    }
    let dir = directory();
    let path = dir.path().join("socket");
    let refused = claim(&path, Access::new(None, Some(0)), later());
    assert!(matches!(refused, Err(Error::PermissionDenied { .. })), "{refused:?}");
    assert_eq!(names_in(dir.path()), [""; 0]);
}

fn sys_is_root() -> bool {
    crate::sys::effective_uid() == 0
}

#[test]
fn a_socket_that_another_file_has_replaced_before_its_listen_is_not_ours_and_stays() {
    let dir = directory();
    let path = dir.path().join("socket");
    let ours = socket::bind(&path, None).expect("an empty directory");
    let born = fs::symlink_metadata(&path).expect("the socket");
    fs::remove_file(&path).expect("somebody removes it");
    let theirs = UnixListener::bind(&path).expect("and takes the path");
    let reason = match Access::new(Some(0o640), None).apply(&path, &born) {
        Err(Error::AddressInUse { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    assert!(reason.contains("same moment"), "{reason}");
    assert_ne!(mode_of(&path), 0o640, "the other file is untouched");
    drop((ours, theirs));
}

#[test]
fn a_release_takes_its_own_file_only() {
    let dir = directory();
    let path = dir.path().join("socket");
    let (listener, first) = claim_now(&path).expect("an empty directory");
    assert_eq!(first.check_file().expect("readable"), FileState::Ours);
    fs::remove_file(&path).expect("a tmp cleaner");
    assert_eq!(first.check_file().expect("readable"), FileState::Missing);
    first.release().expect("nothing is there any more");

    let (_second_listener, second) = claim_now(&path).expect("an empty directory");
    assert_eq!(first.check_file().expect("readable"), FileState::Foreign);
    first.release().expect("another's socket");
    socket::connect(&path).expect("the second one is untouched");
    drop(listener);

    second.release().expect("ours");
    assert_eq!(names_in(dir.path()), [""; 0]);
    fs::write(&path, "another's").expect("a file");
    second.release().expect("the second time");
    assert_eq!(fs::read(&path).expect("the file"), b"another's");
}

#[test]
fn a_release_without_its_directory_is_no_error() {
    let dir = directory();
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).expect("a directory");
    let (_listener, claim) = claim_now(&inner.join("socket")).expect("an empty directory");
    fs::remove_dir_all(&inner).expect("a tmp cleaner");
    claim.release().expect("nothing to do");
    assert!(!inner.exists());
}

#[test]
fn an_abstract_address_is_bound_without_a_file() {
    let name = PathBuf::from(format!("@udsipc-test-path-{}", std::process::id()));
    let (listener, first) = claim_now(&name).expect("a new name");
    socket::connect(&name).expect("it listens");
    is_in_use(claim_now(&name));
    assert!(!first.has_file());
    assert_eq!(first.check_file().expect("no file"), FileState::Ours);
    first.release().expect("nothing to do");
    assert!(!name.exists());
    drop(listener);
    claim_now(&name).expect("free again");
    for access in [Access::new(Some(0o600), None), Access::new(None, Some(0))] {
        assert!(matches!(claim(&name, access, later()), Err(Error::InvalidArgument(_))));
    }
}

#[test]
fn a_missing_directory_is_named() {
    let dir = directory();
    let path = dir.path().join("none/socket");
    let error = claim_now(&path).expect_err("no directory");
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("none/socket"), "{error}");
}

#[test]
fn a_directory_that_we_may_not_write_to_is_permission_denied() {
    // sysfs takes no new files, from root neither.
    let path = Path::new("/sys/kernel/udsipc-test-socket");
    let error = claim_now(path).expect_err("no place for files");
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    assert!(error.to_string().contains("udsipc-test-socket"), "{error}");
}
