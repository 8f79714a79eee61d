//! The Rust API, as a program that uses the crate sees it.

#![allow(clippy::unwrap_used)]

use std::error::Error as _;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use udsipc::{Context, Error, EventSource, Peer, Reader, ReaderOptions, Writer, WriterOptions};

mod support;

use support::{PATIENCE, profile_dir, project, run_ok, tempdir, wait_until};

/// An example, built like this test.
fn example(name: &str) -> Command {
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    cargo.current_dir(project("")).args(["run", "--quiet", "--locked", "--offline", "--example", name]);
    let profile = profile_dir();
    let profile = profile.parent().unwrap();
    cargo.arg("--target-dir").arg(profile.parent().unwrap()).env_remove("CARGO_BUILD_TARGET");
    match profile.file_name().unwrap().to_str().unwrap() {
        "debug" => &mut cargo,
        other => cargo.args(["--profile", other]),
    };
    cargo
}

#[test]
fn the_tokio_example_delivers_without_a_thread_of_the_library() {
    let printed = run_ok(&mut example("tokio"), PATIENCE);
    assert!(printed.ends_with("100000 messages, 1 thread\n"), "{printed}");
}

#[test]
fn every_type_goes_to_another_thread() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<(Writer, WriterOptions, Reader, ReaderOptions, EventSource, Error, Peer<'_>)>();
}

/// A source that is dispatched until it has nothing to do at the moment.
fn exhaust(source: &EventSource) {
    let deadline = Instant::now() + PATIENCE;
    while source.dispatch(Duration::ZERO).unwrap() {
        assert!(Instant::now() < deadline, "there is always more");
    }
}

/// What an edge-triggered loop relies on: after `false` only what comes later is left.
fn assert_silent(source: &EventSource) {
    let mut entry = libc::pollfd { fd: source.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    #[allow(unsafe_code)]
    // SAFETY: one entry, for the length of the call.
    let readable = unsafe { libc::poll(&raw mut entry, 1, 0) };
    assert_eq!(readable, 0, "readable");
}

/// As many readable connections as one dispatch serves, and many more.
#[test]
fn every_connection_of_a_dispatched_reader_is_served() {
    let folder = tempdir();
    let received = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&received);
    let on_message = move |_: &[u8], _: &Peer<'_>| {
        count.fetch_add(1, Ordering::SeqCst);
    };
    let reader = Reader::new(folder.path().join("s"), on_message, ReaderOptions::new()).unwrap();
    let source = reader.event_source().unwrap();
    let mut writers: Vec<_> = (0..300).map(|_| UnixStream::connect(reader.socket_path()).unwrap()).collect();
    wait_until(PATIENCE, "all are accepted", || {
        exhaust(&source);
        reader.metrics().active_connections == 300
    });
    for round in 1..=3 {
        writers.iter_mut().for_each(|writer| writer.write_all(b"\x01m").unwrap());
        exhaust(&source);
        assert_silent(&source);
        assert_eq!(received.load(Ordering::SeqCst), 300 * round);
    }
}

#[test]
fn dispatch_says_whether_there_may_be_more() {
    let folder = tempdir();
    // Longer than a turn, so that each dispatch ends after one message.
    let on_message = |_: &[u8], _: &Peer<'_>| sleep(Duration::from_millis(10));
    let reader = Reader::new(folder.path().join("s"), on_message, ReaderOptions::new()).unwrap();
    let source = reader.event_source().unwrap();
    let mut writers: Vec<_> = (0..3).map(|_| UnixStream::connect(reader.socket_path()).unwrap()).collect();
    exhaust(&source);
    writers.iter_mut().for_each(|writer| writer.write_all(b"\x01m").unwrap());
    let mut calls = 1;
    while source.dispatch(Duration::ZERO).unwrap() {
        calls += 1;
    }
    assert!((3..10).contains(&calls), "{calls} calls");
    assert_eq!(reader.metrics().received, 3);
    assert_silent(&source);
}

#[test]
fn an_event_source_outlives_its_handle() {
    let folder = tempdir();
    let reader = Reader::new(folder.path().join("s"), |_, _| (), ReaderOptions::new()).unwrap();
    let writer = Writer::new(reader.socket_path(), WriterOptions::new()).unwrap();
    let sources = [writer.event_source().unwrap(), reader.event_source().unwrap()];
    sources.iter().for_each(exhaust);
    drop((writer, reader));
    for source in sources {
        let file = std::fs::read_link(format!("/proc/self/fd/{}", source.as_raw_fd())).unwrap();
        assert_eq!(file, Path::new("anon_inode:[eventpoll]"));
        assert_silent(&source);
        assert!(matches!(source.dispatch(Duration::ZERO), Err(Error::Stopped)));
    }
}

#[test]
fn a_started_handle_is_not_dispatched() {
    let writer = Writer::new("@nobody", WriterOptions::new()).unwrap();
    let source = writer.event_source().unwrap();
    writer.start().unwrap();
    assert!(matches!(source.dispatch(Duration::ZERO), Err(Error::WrongState { .. })));
}

/// A callback may return nothing or any error, which is reported with its text.
#[test]
fn the_error_of_a_callback_is_the_source_of_what_is_reported() {
    let folder = tempdir();
    let reports = Arc::new(Mutex::new(Vec::new()));
    let report = Arc::clone(&reports);
    let options = ReaderOptions::new().on_error(move |error, context| {
        let source = error.source().map(ToString::to_string);
        report.lock().unwrap().push((error.to_string(), source.unwrap_or_default(), context));
    });
    let on_message = |message: &[u8], _: &Peer<'_>| match message {
        b"good" => Ok(()),
        b"bad" => Err(std::io::Error::other("the disk is full")),
        _ => panic!("deliberate"),
    };
    let reader = Reader::new(folder.path().join("s"), on_message, options).unwrap();
    let source = reader.event_source().unwrap();
    UnixStream::connect(reader.socket_path()).unwrap().write_all(b"\x03bad\x04good\x05panic").unwrap();
    exhaust(&source);
    wait_until(PATIENCE, "all are handled", || {
        exhaust(&source);
        reports.lock().unwrap().len() == 2
    });
    assert_eq!((reader.metrics().received, reader.metrics().errors), (1, 2));
    let expected = ["the disk is full", "it panicked"];
    let expected = expected.map(|text| (format!("handler failed: {text}"), text.to_owned(), Context::Handler));
    assert_eq!(*reports.lock().unwrap(), expected);
}

/// An option is refused when the handle is made, by its name, and nothing has been touched.
#[test]
fn an_option_out_of_range_is_refused_before_anything_is_done() {
    let folder = tempdir();
    let path = folder.path().join("s");
    let refused = Reader::new(&path, |_, _| (), ReaderOptions::new().socket_mode(0o1777)).unwrap_err();
    assert!(matches!(&refused, Error::InvalidArgument(text) if text.contains("socket_mode")), "{refused}");
    assert!(!path.exists());
    let refused = Writer::new(&path, WriterOptions::new().max_buffered_writes(0)).unwrap_err();
    assert!(matches!(refused, Error::InvalidBufferSize { option: "max_buffered_writes", value: 0, .. }), "{refused}");
}
