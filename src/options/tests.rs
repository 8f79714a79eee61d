use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use super::*;

#[track_caller]
fn assert_refused(checked: Result<()>, part: &str) {
    let text = checked.expect_err(part).to_string();
    assert!(text.contains(part), "{text}");
}

#[test]
fn the_defaults_and_the_ends_of_each_range_are_accepted() {
    let writer = WriterOptions::new();
    writer.check().expect("the defaults");
    writer.clone().max_buffered_writes(1).write_buffer_size(0).max_attempts(0).check().expect("the least");
    let most = writer.max_buffered_writes(1 << 20).write_buffer_size((1 << 30) - 1).write_timeout(Duration::MAX);
    most.max_message_size(u64::MAX).max_buffered_bytes(u64::MAX).check().expect("the most");

    let reader = ReaderOptions::new();
    reader.check().expect("the defaults");
    let least = reader.clone().max_accept_errors(0).read_buffer_size(0).max_handler_threads(1).callback_stack_size(0);
    least.socket_mode(0).socket_group(0).listen_fd_name("n").check().expect("the least");
    let most = reader.max_accept_errors(63).read_buffer_size((1 << 30) - 1).max_handler_threads(4096);
    let most = most.socket_mode(0o777).socket_group(u32::MAX - 1).listen_fd_name("n".repeat(255));
    most.inactivity_timeout(Duration::MAX).check().expect("the most");
}

#[test]
fn a_value_out_of_its_range_is_refused_by_the_options_name() {
    let writer = WriterOptions::new;
    for (refused, part) in [
        (writer().max_buffered_writes(0), "max_buffered_writes is 0, outside 1 to 1048576"),
        (writer().max_buffered_writes((1 << 20) + 1), "max_buffered_writes is 1048577"),
        (writer().write_buffer_size(1 << 30), "write_buffer_size is 1073741824"),
        (writer().write_timeout(Duration::ZERO), "write_timeout must be positive"),
        (writer().dial_timeout(Duration::ZERO), "dial_timeout must be positive"),
        (writer().max_backoff(Duration::ZERO), "max_backoff must be positive"),
    ] {
        assert_refused(refused.check(), part);
    }
    let reader = ReaderOptions::new;
    for (refused, part) in [
        (reader().inactivity_timeout(Duration::ZERO), "inactivity_timeout must be positive"),
        (reader().max_accept_errors(64), "max_accept_errors is 64"),
        (reader().read_buffer_size(1 << 30), "read_buffer_size is 1073741824"),
        (reader().max_handler_threads(0), "max_handler_threads is 0, outside 1 to 4096"),
        (reader().max_handler_threads(4097), "max_handler_threads is 4097"),
        (reader().callback_stack_size(1), "callback_stack_size is 1, outside 65536 to"),
        (reader().callback_stack_size((64 << 10) - 1), "callback_stack_size is 65535"),
        (reader().callback_stack_size(u64::MAX), "callback_stack_size is 18446744073709551615"),
        (reader().socket_mode(0o1000), "socket_mode is 0o1000"),
        (reader().socket_group(u32::MAX), "socket_group is 2^32 - 1"),
        (reader().listen_fd_name(""), "listen_fd_name must be 1 to 255"),
        (reader().listen_fd_name("n".repeat(256)), "listen_fd_name must be 1 to 255"),
        (reader().listen_fd_name("a:b"), "listen_fd_name must be"),
        (reader().listen_fd_name("a\n"), "listen_fd_name must be"),
    ] {
        assert_refused(refused.check(), part);
    }
}

#[test]
fn what_is_no_listener_is_refused_by_what_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let (stream, _peer) = UnixStream::pair().expect("a pair");
    let kinds: [(OwnedFd, &str); 4] = [
        (UnixDatagram::bind(path("d")).expect("a socket").into(), "another type"),
        (stream.into(), "does not listen"),
        (std::net::TcpListener::bind("127.0.0.1:0").expect("a socket").into(), "not a Unix"),
        (std::fs::File::open("/dev/null").expect("a file").into(), "non-socket"),
    ];
    for (fd, part) in kinds {
        let duplicate = ListenFd::duplicate(fd.as_raw_fd()).expect("a duplicate");
        let number = fd.as_raw_fd().to_string();
        for refused in [ReaderOptions::new().listen_fd(fd).check(), duplicate.check()] {
            let text = refused.expect_err(part).to_string();
            assert!(text.contains(part) && text.contains(&number), "{text}");
        }
    }
    for closed in [-1, i32::MIN, i32::MAX] {
        let text = ListenFd::duplicate(closed).expect_err("closed").to_string();
        assert!(text.contains("Bad file descriptor") && text.contains(&closed.to_string()), "{text}");
    }
}

#[test]
fn a_duplicate_of_a_listener_listens_when_the_first_one_is_closed() {
    let dir = tempfile::tempdir().expect("a directory");
    let listener = UnixListener::bind(dir.path().join("s")).expect("a socket");
    let held = ListenFd::duplicate(listener.as_raw_fd()).expect("a duplicate");
    assert!(held.as_fd().as_raw_fd() != listener.as_raw_fd() && held.as_fd().as_raw_fd() >= 3);
    drop(listener);
    held.check().expect("a listener");
    UnixStream::connect(dir.path().join("s")).expect("the duplicate listens");
}

#[test]
fn clones_share_the_error_callback() {
    let told = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = Arc::clone(&told);
    let options = WriterOptions::new().on_error(move |error, context| {
        assert!(matches!((error, context), (Error::Undelivered(_), Context::Drain)));
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    for clone in [options.clone(), options] {
        clone.on_error.expect("a callback").call(&Error::Undelivered(1), Context::Drain);
    }
    assert_eq!(told.load(std::sync::atomic::Ordering::Relaxed), 2);
}
