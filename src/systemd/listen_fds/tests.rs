use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, IntoRawFd as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::sync::Barrier;

use tempfile::tempdir;

use super::super::tests::{PID, environment};
use super::*;
use crate::sys::file::scene;

/// As systemd sets it for `count` descriptors with these names.
fn activation(count: usize, names: &str) -> Environment {
    environment(&[("LISTEN_PID", &PID.to_string()), ("LISTEN_FDS", &count.to_string()), ("LISTEN_FDNAMES", names)])
}

fn is_systemd_error<T: std::fmt::Debug>(result: Result<T>) -> String {
    match result {
        Err(Error::Systemd(text)) => text,
        other => panic!("expected Error::Systemd, got {other:?}"),
    }
}

/// Lays descriptors on consecutive numbers, inheritable, as systemd passes them. Each test has a range of its own, far
/// above what the others open; what is not taken stays open.
fn pass(first: RawFd, descriptors: &[BorrowedFd<'_>]) {
    for (wanted, descriptor) in (first..).zip(descriptors) {
        let got = scene::duplicate_from(*descriptor, wanted).expect("a free number").into_raw_fd();
        assert_eq!(got, wanted);
        assert!(!is_close_on_exec(got));
    }
}

/// Leaves it open, so that its number cannot come again.
fn number_of(taken: Descriptor) -> RawFd {
    let number = taken.as_raw_fd();
    taken.forget();
    number
}

fn is_close_on_exec(fd: RawFd) -> bool {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).expect("an open descriptor");
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("proc_pid_fdinfo(5)");
    u32::from_str_radix(flags.trim(), 8).expect("an octal number") & 0o2_000_000 != 0
}

#[test]
fn descriptors_count_only_for_the_process_that_they_were_passed_to() {
    let count = |variables: &[_]| environment(variables).passed_count();
    let fds = ("LISTEN_FDS", "2");
    assert_eq!(count(&[fds, ("LISTEN_PID", "4711")]).expect("ours"), 2);
    for pid in ["4712", "", "1", "+4711", " 4711", "abc", "-4711", "99999999999999999999"] {
        assert_eq!(count(&[fds, ("LISTEN_PID", pid)]).expect("not for us"), 0, "{pid:?}");
    }
    assert_eq!(count(&[fds]).expect("no LISTEN_PID"), 0);
    assert_eq!(count(&[("LISTEN_PID", "4711")]).expect("no LISTEN_FDS"), 0);
    for nothing in ["0", ""] {
        assert_eq!(count(&[("LISTEN_PID", "4711"), ("LISTEN_FDS", nothing)]).expect("none"), 0);
    }
    for absurd in ["x", "-1", "+1", "1 ", "65537", "4294967296", "99999999999999999999", "1.0"] {
        let text = is_systemd_error(count(&[("LISTEN_PID", "4711"), ("LISTEN_FDS", absurd)]));
        assert!(text.contains("LISTEN_FDS") && text.contains(absurd), "{text}");
    }
}

#[test]
fn a_descriptor_without_a_name_is_called_unknown() {
    let names = |names| {
        let passed = activation(3, names).passed(3).expect("three");
        assert_eq!(passed.iter().map(|each| each.fd).collect::<Vec<_>>(), [3, 4, 5]);
        passed.into_iter().map(|each| each.name).collect::<Vec<_>>()
    };
    assert_eq!(names("a:b:a"), ["a", "b", "a"]);
    assert_eq!(names("a"), ["a", "unknown", "unknown"]);
    assert_eq!(names(""), ["unknown"; 3]);
    assert_eq!(names("a:b:c:d"), ["a", "b", "c"]);
}

#[test]
fn without_activation_there_is_nothing_to_take() {
    let path = Path::new("/nonexistent/socket");
    assert!(take_listener(&environment(&[]), None, path).expect("nothing").is_none());
    assert!(take_listener(&environment(&[("LISTEN_FDS", "1")]), Some("x"), path).expect("nothing").is_none());
    assert!(take_listener(&activation(0, ""), Some("x"), path).expect("nothing").is_none());
}

#[test]
fn the_only_listener_is_taken_once_whatever_its_address() {
    let (dir, table, first) = (tempdir().expect("a directory"), TakenFds::new(), 600);
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    pass(first, &[listener.as_fd()]);
    let (given, environment) = (Path::new("/tmp/another.sock"), activation(1, ""));
    let (taken, address) = table.take(&environment, first, None, given).expect("usable").expect("one");
    assert_eq!((taken.as_raw_fd(), address), (first, path.clone()));
    assert!(is_close_on_exec(first));
    drop(listener);
    UnixStream::connect(&path).expect("it listens");
    assert!(table.take(&environment, first, None, given).expect("no error").is_none());
    // The number of a closed one means nothing any more, and is not looked at.
    drop(taken);
    assert!(table.take(&environment, first, None, given).expect("no error").is_none());
    let text = is_systemd_error(table.take(&environment, first, Some("unknown"), given));
    assert!(text.contains("already"), "{text}");
}

#[test]
fn of_several_one_is_taken_by_name_or_by_address_and_all_are_marked() {
    let (dir, table, first) = (tempdir().expect("a directory"), TakenFds::new(), 620);
    let path = |name| dir.path().join(name);
    let sockets = ["a", "b", "c"].map(|name| UnixListener::bind(path(name)).expect("a socket"));
    let file = fs::File::open("/dev/null").expect("a stored descriptor of another kind");
    pass(first, &[sockets[0].as_fd(), sockets[1].as_fd(), sockets[2].as_fd(), file.as_fd()]);
    let environment = activation(4, "web:admin:web:stored");
    let take = |name, path: &Path| table.take(&environment, first, name, path);

    let text = is_systemd_error(take(None, Path::new("/tmp/another.sock")));
    assert!(text.contains("listen_fd_name") && text.contains("admin") && text.contains("/tmp/another.sock"), "{text}");
    assert!((first..first + 4).all(is_close_on_exec), "all of them, wanted or not");
    let text = is_systemd_error(take(Some("nobody"), &path("a")));
    assert!(text.contains("nobody") && text.contains("admin"), "{text}");
    let text = is_systemd_error(take(Some("stored"), &path("a")));
    assert!(text.contains("stored") && text.contains(&(first + 3).to_string()), "{text}");

    let number = |result: Result<Option<(Descriptor, PathBuf)>>| {
        let (taken, address) = result.expect("usable").expect("one");
        (number_of(taken), address)
    };
    assert_eq!(number(take(None, &path("c"))), (first + 2, path("c")));
    assert!(take(None, &path("c")).expect("no error").is_none(), "taken already");
    assert_eq!(number(take(Some("web"), Path::new("/x"))), (first, path("a")));
    is_systemd_error(take(Some("web"), Path::new("/x")));
    assert_eq!(number(take(Some("admin"), Path::new("/x"))), (first + 1, path("b")));
}

#[test]
fn an_address_in_the_runtime_directory_is_found_and_when_all_are_taken_there_is_none() {
    let (dir, table, first) = (tempdir().expect("a directory"), TakenFds::new(), 640);
    let sockets = ["a", "b"].map(|name| UnixListener::bind(dir.path().join(name)).expect("a socket"));
    pass(first, &[sockets[0].as_fd(), sockets[1].as_fd()]);
    let (pid, directory) = (PID.to_string(), dir.path().to_str().expect("UTF-8"));
    let environment = environment(&[("LISTEN_PID", &pid), ("LISTEN_FDS", "2"), ("RUNTIME_DIRECTORY", directory)]);
    for (name, expected) in [("b", first + 1), ("a", first)] {
        let given = Path::new("/tmp").join(name);
        let (taken, address) = table.take(&environment, first, None, &given).expect("usable").expect("one");
        assert_eq!((number_of(taken), address), (expected, dir.path().join(name)));
    }
    assert!(table.take(&environment, first, None, Path::new("/tmp/c")).expect("no error").is_none());
}

#[test]
fn an_abstract_listener_is_found_by_its_address() {
    let (table, first) = (TakenFds::new(), 650);
    let name = format!("udsipc-test-activation-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let listener = UnixListener::bind_addr(&address).expect("a socket");
    let other = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name.clone() + "2").expect("a name"));
    pass(first, &[other.expect("a socket").as_fd(), listener.as_fd()]);
    let path = PathBuf::from(format!("@{name}"));
    let (taken, address) = table.take(&activation(2, ""), first, None, &path).expect("usable").expect("one");
    assert_eq!((number_of(taken), address), (first + 1, path));
}

#[test]
fn what_is_not_a_unix_stream_listener_is_refused_by_name_and_stays_free() {
    let dir = tempdir().expect("a directory");
    let datagram = UnixDatagram::bind(dir.path().join("datagram")).expect("a socket");
    let (connected, _peer) = UnixStream::pair().expect("a pair");
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let file = fs::File::open("/dev/null").expect("a file");
    let kinds: [(BorrowedFd<'_>, &str); 4] = [
        (datagram.as_fd(), "another type"),
        (connected.as_fd(), "does not listen"),
        (tcp.as_fd(), "not a Unix"),
        (file.as_fd(), "non-socket"),
    ];
    for (number, (descriptor, part)) in (660..).zip(kinds) {
        let table = TakenFds::new();
        pass(number, &[descriptor]);
        for name in [None, Some("some")] {
            let text = is_systemd_error(table.take(&activation(1, "some"), number, name, Path::new("/x")));
            assert!(text.contains(part) && text.contains("some"), "{text}");
        }
    }
    let table = TakenFds::new();
    let text = is_systemd_error(table.take(&activation(1, ""), 679, None, Path::new("/x")));
    assert!(text.contains("679"), "a descriptor that is not open: {text}");
}

#[test]
fn of_two_readers_at_the_same_instant_one_gets_the_listener() {
    let dir = tempdir().expect("a directory");
    let environment = activation(1, "");
    for (round, first) in (700..720).enumerate() {
        let listener = UnixListener::bind(dir.path().join(round.to_string())).expect("a socket");
        pass(first, &[listener.as_fd()]);
        let (table, together) = (TakenFds::new(), Barrier::new(2));
        let take = || {
            together.wait();
            table.take(&environment, first, None, Path::new("/x")).expect("usable")
        };
        let taken = std::thread::scope(|scope| {
            let (a, b) = (scope.spawn(take), scope.spawn(take));
            [a.join().expect("no panic"), b.join().expect("no panic")].into_iter().flatten().count()
        });
        assert_eq!(taken, 1);
    }
}

#[test]
fn a_path_in_use_is_explained_where_what_was_passed_is_for_another_process() {
    let refusal = || Error::AddressInUse { path: "/run/x".into(), reason: "a live process listens there".into() };
    let text = |variables: &[_]| environment(variables).explain(refusal()).to_string();
    for (pid, part) in [("4712", "LISTEN_PID is \"4712\""), ("", "LISTEN_PID is not set"), ("x", "LISTEN_PID is \"x\"")]
    {
        let text = text(&[("LISTEN_FDS", "1"), ("LISTEN_PID", pid)]);
        assert!(text.contains(part) && text.contains("4711") && text.contains("a live process"), "{text}");
    }
    for plain in [&[][..], &[("LISTEN_PID", "4712")], &[("LISTEN_FDS", "1"), ("LISTEN_PID", "4711")]] {
        assert_eq!(text(plain), refusal().to_string());
    }
    let other = environment(&[("LISTEN_FDS", "1")]).explain(Error::Stopped);
    assert!(matches!(other, Error::Stopped));
}
