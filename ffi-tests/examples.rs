//! The examples, compiled with every warning an error and run as a stranger would run them, and the demo.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use support::running::Running;
use support::systemd::{ACTIVATE, wait_for_notification};
use support::{PATIENCE, compile_with, library, link_dir, output, project, python3, run_ok, tempdir, wait_until};

/// Lines that differ, of many lengths.
fn lines(count: usize) -> String {
    (0..count).map(|n| format!("{n} {}\n", "x".repeat(n % 300))).collect()
}

/// A C example by its name, a Python one by its file name.
fn example(name: &str) -> Command {
    if name.ends_with(".py") {
        let mut python = Command::new(python3().expect("python3"));
        python.arg("-B").arg(project("examples-c").join(name)).env("PYTHONPATH", project("bindings/python/src"));
        return python;
    }
    // Once each: the tests of this file run side by side in one process.
    static COMPILED: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let source = project(&format!("examples-c/{name}.c"));
    let lib = link_dir();
    let (search, runs) = (format!("-L{}", lib.display()), format!("-Wl,-rpath,{}", lib.display()));
    let own = match name {
        "sqlite_reader" => "-lsqlite3".to_owned(),
        "libuv_reader" => "-luv".to_owned(),
        "glib_reader" => output(Command::new("pkg-config").args(["--cflags", "--libs", "glib-2.0"])),
        _ => String::new(),
    };
    let libraries: Vec<&str> = [search.as_str(), "-ludsipc", &runs].into_iter().chain(own.split_whitespace()).collect();
    Command::new(compiled.entry(name.to_owned()).or_insert_with(|| compile_with(&source, "c11", &libraries)))
}

/// Ships lines from one example to another, ends the reader with SIGTERM, and compares.
fn ships(writer: &str, reader: &str) {
    let scratch = tempdir();
    let socket = scratch.path().join("socket");
    let mut reader = Running::start(scratch.path(), "reader", example(reader).arg(&socket));
    reader.wait_until_it_listens();

    let sent = lines(20_000);
    let mut writer = Running::start(scratch.path(), "writer", example(writer).arg(&socket));
    writer.feed(&sent);
    writer.end_of_input();
    let (_, report) = writer.finish();
    assert!(report.contains("sent=20000 "), "{report}");
    assert!(report.contains("abandoned=0 suspected_lost=0 connections=1"), "{report}");

    reader.terminate();
    let (arrived, report) = reader.finish();
    assert!(arrived == sent, "what arrived is not what was sent; the reader says: {report}");
    assert!(report.contains("received=20000 "), "{report}");
    assert!(!socket.exists(), "the reader left its socket behind");
}

#[test]
fn no_example_is_left_out_of_these_tests() {
    let mut sources: Vec<String> = fs::read_dir(project("examples-c"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".c") || name.ends_with(".py"))
        .collect();
    sources.sort();
    let known = [
        "acknowledged_writer.c",
        "activated_reader.c",
        "asyncio_reader.py",
        "buffer_full_writer.c",
        "epoll_reader.c",
        "glib_reader.c",
        "libuv_reader.c",
        "poll_writer.c",
        "reader.c",
        "reader.py",
        "sqlite_reader.c",
        "writer.c",
        "writer.py",
    ];
    assert_eq!(sources, known);
}

#[test]
fn writer_to_reader() {
    ships("writer", "reader");
}

#[test]
fn writer_to_epoll_reader() {
    ships("writer", "epoll_reader");
}

#[test]
fn writer_to_python_reader() {
    ships("writer", "reader.py");
}

#[test]
fn python_writer_to_reader() {
    ships("writer.py", "reader");
}

#[test]
fn python_writer_to_python_reader() {
    ships("writer.py", "reader.py");
}

#[test]
fn writer_to_asyncio_reader() {
    ships("writer", "asyncio_reader.py");
}

#[test]
fn writer_to_libuv_reader() {
    ships("writer", "libuv_reader");
}

#[test]
fn writer_to_glib_reader() {
    ships("writer", "glib_reader");
}

#[test]
fn poll_writer_to_reader() {
    ships("poll_writer", "reader");
}

/// Without a standard input the descriptor for signals would be the input, and the end would never come.
#[test]
fn poll_writer_needs_its_input() {
    let scratch = tempdir();
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" s <&-"]).arg(example("poll_writer").get_program()).current_dir(scratch.path());
    let mut writer = Running::start(scratch.path(), "writer", &mut command);
    assert!(!writer.wait().success());
    assert!(writer.stderr().contains("standard input"), "{}", writer.stderr());
}

/// The names of the threads of a process.
fn threads(process: &Running) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.child.id())).unwrap();
    tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap().trim().to_owned()).collect()
}

/// In the program's own event loop the library has no thread: the only one is the one that the program came with. GLib
/// starts one of its own for signals.
#[test]
fn no_thread_of_the_library_in_an_event_loop() {
    let writer = "poll_writer";
    for reader in ["epoll_reader", "libuv_reader", "glib_reader", "asyncio_reader.py"] {
        let scratch = tempdir();
        let socket = scratch.path().join("socket");
        let mut reader_process = Running::start(scratch.path(), "reader", example(reader).arg(&socket));
        reader_process.wait_until_it_listens();
        let mut writer_process = Running::start(scratch.path(), "writer", example(writer).arg(&socket));
        writer_process.feed("one\n");
        reader_process.wait_for("has a message", Running::stdout, |text| text == "one\n");

        assert_eq!(threads(&writer_process).len(), 1, "{writer}: {:?}", threads(&writer_process));
        let mut of_reader = threads(&reader_process);
        of_reader.retain(|name| name != "gmain" && name != "pool-spawner");
        assert_eq!(of_reader.len(), 1, "{reader}: {of_reader:?}");

        writer_process.end_of_input();
        writer_process.finish();
        reader_process.terminate();
        reader_process.finish();
    }
}

/// A queue that is full makes the writer leave its input where it is: all of it arrives, whatever its size.
#[test]
fn poll_writer_waits_for_room() {
    let scratch = tempdir();
    let socket = scratch.path().join("socket");
    let sent = lines(30_000);
    let input = scratch.path().join("input");
    fs::write(&input, sent.trim_end()).unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$0\" \"$1\" < \"$2\""])
        .arg(example("poll_writer").get_program())
        .arg(&socket)
        .arg(&input);
    let mut writer = Running::start(scratch.path(), "writer", &mut command);
    writer.wait_for("says that nobody listens", Running::stderr, |text| text.contains("failed to connect"));
    let mut reader = Running::start(scratch.path(), "reader", example("reader").arg(&socket));
    reader.wait_until_it_listens();
    let (_, report) = writer.finish();
    assert!(report.contains("sent=30000 abandoned=0"), "{report}");
    reader.terminate();
    assert!(reader.finish().0 == sent, "what arrived is not what was sent");
}

/// A signal ends the input, not the delivery: what was read before it arrives.
fn leaves_at_sigterm(writer: &str) {
    let scratch = tempdir();
    let socket = scratch.path().join("socket");
    let mut reader = Running::start(scratch.path(), "reader", example("reader").arg(&socket));
    reader.wait_until_it_listens();

    let sent = lines(100);
    let mut writer = Running::start(scratch.path(), "writer", example(writer).arg(&socket));
    writer.feed(&sent);
    reader.wait_for("has the lines", Running::stdout, |text| text == sent);
    writer.feed("half a line, to be left out");
    writer.terminate();
    let (_, report) = writer.finish();
    assert!(report.contains("sent=100 "), "{report}");

    reader.terminate();
    let (arrived, _) = reader.finish();
    assert_eq!(arrived, sent);
}

#[test]
fn writer_leaves_at_sigterm() {
    leaves_at_sigterm("writer");
}

#[test]
fn poll_writer_leaves_at_sigterm() {
    leaves_at_sigterm("poll_writer");
}

#[test]
fn python_writer_leaves_at_sigterm() {
    leaves_at_sigterm("writer.py");
}

/// A reader that comes later than the end of the writer's input still gets everything.
#[test]
fn writer_waits_for_a_late_reader() {
    let scratch = tempdir();
    let socket = scratch.path().join("socket");
    let sent = lines(500);
    let mut reader = example("reader"); // compiled here: the writer waits for ten seconds only
    let mut writer = Running::start(scratch.path(), "writer", example("writer").arg(&socket));
    writer.feed(&sent);
    writer.end_of_input();
    writer.wait_for("says that nobody listens", Running::stderr, |text| text.contains("failed to connect"));

    let mut reader = Running::start(scratch.path(), "reader", reader.arg(&socket));
    reader.wait_until_it_listens();
    writer.finish();
    reader.terminate();
    assert_eq!(reader.finish().0, sent);
}

/// No reader, a queue of 100: 100 lines are kept, the others are left out, and the reader learns how many and where.
#[test]
fn buffer_full_writer_tells_what_it_left_out() {
    let scratch = tempdir();
    let socket = scratch.path().join("socket");
    let sent = lines(1000);
    let mut reader = example("reader"); // as above
    let mut writer = Running::start(scratch.path(), "writer", example("buffer_full_writer").arg(&socket).arg("100"));
    writer.feed(&sent);
    writer.end_of_input();
    // The reader comes only when the writer has read all of its input, or some of the 900 would find room.
    writer.wait_for("has read its input", Running::stderr, |text| text.contains("waiting for room"));
    let mut reader = Running::start(scratch.path(), "reader", reader.arg(&socket));
    reader.wait_until_it_listens();
    let (_, report) = writer.finish();
    assert!(report.contains("sent=101 left_out=900 abandoned=0"), "{report}");

    reader.terminate();
    let (arrived, _) = reader.finish();
    let kept: String = sent.split_inclusive('\n').take(100).collect();
    assert_eq!(arrived, format!("{kept}[900 lines left out]\n"));
}

#[test]
fn a_failure_names_the_path_and_is_an_exit_status() {
    let scratch = tempdir();
    let socket = scratch.path().join("not-a-socket");
    fs::write(&socket, "precious").unwrap();
    for name in
        ["reader", "epoll_reader", "libuv_reader", "glib_reader", "activated_reader", "reader.py", "asyncio_reader.py"]
    {
        let mut reader = Running::start(scratch.path(), name, example(name).arg(&socket));
        assert!(!reader.wait().success(), "{name} took a path that is not a socket");
        let told = reader.stderr();
        assert!(told.contains(socket.to_str().unwrap()), "{name} does not name the path: {told}");
        assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
    }
    let too_long = scratch.path().join("x".repeat(200));
    for name in ["writer", "poll_writer", "buffer_full_writer", "writer.py"] {
        let mut command = example(name);
        command.arg(&too_long);
        if name == "buffer_full_writer" {
            command.arg("10");
        }
        let mut writer = Running::start(scratch.path(), name, &mut command);
        assert!(!writer.wait().success(), "{name} took a path of {} bytes", too_long.as_os_str().len());
        assert!(writer.stderr().contains("107"), "{name} does not name the limit: {}", writer.stderr());
    }
}

#[test]
fn activated_reader_serves_the_socket_that_it_is_given() {
    let scratch = tempdir();
    // Not where the program would look by itself: only the passed socket can explain that messages arrive.
    let (given, fallback) = (scratch.path().join("given"), scratch.path().join("fallback"));
    let notify_path = scratch.path().join("notify");
    let notify = UnixDatagram::bind(&notify_path).unwrap();
    notify.set_read_timeout(Some(PATIENCE)).unwrap();

    let program = example("activated_reader").get_program().to_owned();
    let mut launcher = Command::new(python3().expect("python3"));
    launcher.args(["-c", ACTIVATE]).arg(&given).arg(program).arg(&fallback).env("NOTIFY_SOCKET", &notify_path);
    let mut reader = Running::start(scratch.path(), "activated_reader", &mut launcher);
    reader.wait_for("has a socket", Running::stderr, |text| text.contains("bound"));

    // The writer is there before the reader: its lines wait in the backlog.
    let sent = lines(1000);
    let mut writer = Running::start(scratch.path(), "writer", example("writer").arg(&given));
    writer.feed(&sent);
    writer.end_of_input();
    reader.feed("start\n");
    wait_for_notification(&notify, "READY=1");
    let (_, report) = writer.finish();
    assert!(report.contains("sent=1000 "), "{report}");
    assert!(!fallback.exists(), "the reader made a socket of its own");

    reader.terminate();
    wait_for_notification(&notify, "STOPPING=1");
    wait_for_notification(&notify, "STATUS=Stopped after 1000 messages, 0 errors");
    let (arrived, told) = reader.finish();
    let uid = output(Command::new("id").arg("-u"));
    let expected: String = sent.lines().map(|line| format!("uid {}: {line}\n", uid.trim())).collect();
    assert!(arrived == expected, "what arrived is not what was sent");
    assert!(told.contains(given.to_str().unwrap()), "the description does not name the socket: {told}");
    assert!(given.exists(), "the socket belongs to systemd and must stay");
}

/// What `sqlite_reader` has stored.
struct Database(PathBuf);

impl Database {
    /// Runs one statement and gives back its first column, a row a line.
    fn ask(&self, statement: &str) -> String {
        let script = "import sqlite3, sys\n\
            with sqlite3.connect(sys.argv[1], timeout=60) as database:\n\
            \x20   for row in database.execute(sys.argv[2]): print(row[0].decode() if type(row[0]) is bytes else row[0])";
        let mut python = Command::new(python3().expect("python3"));
        output(python.args(["-c", script]).arg(&self.0).arg(statement))
    }

    fn count(&self) -> u64 {
        self.ask("SELECT count(*) FROM messages").trim().parse().unwrap()
    }

    fn messages(&self) -> String {
        self.ask("SELECT data FROM messages ORDER BY number")
    }

    fn reader(&self, scratch: &Path, socket: &Path) -> Running {
        let mut reader = Running::start(scratch, "reader", example("sqlite_reader").arg(socket).arg(&self.0));
        reader.wait_until_it_listens();
        reader
    }
}

/// Feeds numbered lines, as fast as they are taken, until told to end. Gives back how many lines it has fed.
fn feeds_until(over: &Arc<AtomicBool>, name: &str, writer: &mut Running) -> JoinHandle<u64> {
    let (mut input, over, name) = (writer.child.stdin.take().unwrap(), Arc::clone(over), name.to_owned());
    thread::spawn(move || {
        let mut number = 0;
        while !over.load(Ordering::Relaxed) {
            writeln!(input, "{name} {number} {}", "x".repeat(number as usize % 300)).unwrap();
            number += 1;
        }
        number
    })
}

#[test]
fn sqlite_reader_that_is_killed_stores_each_message_once() {
    const KILLS: u64 = 8;
    let scratch = tempdir();
    let socket = scratch.path().join("socket");
    let database = Database(scratch.path().join("database"));
    let over = Arc::new(AtomicBool::new(false));
    let mut reader = database.reader(scratch.path(), &socket);
    let names = ["first", "second"];
    let writers = names.map(|name| {
        let mut writer = Running::start(scratch.path(), name, example("acknowledged_writer").arg(&socket));
        let feeder = feeds_until(&over, name, &mut writer);
        (writer, feeder)
    });
    for kill in 0..KILLS {
        let before = database.count();
        reader.wait_for("has stored something more", Running::stderr, |_| database.count() > before);
        thread::sleep(Duration::from_millis(kill * 3)); // anywhere in a transaction, or between two
        reader.child.kill().unwrap();
        reader.wait();
        reader = database.reader(scratch.path(), &socket);
    }
    over.store(true, Ordering::Relaxed);

    let mut fed = BTreeMap::new();
    for (name, (writer, feeder)) in names.into_iter().zip(writers) {
        let count = feeder.join().unwrap();
        let (_, report) = writer.finish();
        let report = report.lines().last().unwrap();
        assert!(report.contains(&format!("sent={count} acknowledged={count} ")), "{count} lines: {report}");
        assert!(report.contains("abandoned=0 suspected_lost=0 "), "{report}");
        fed.insert(name, count);
    }
    reader.terminate();
    let (_, report) = reader.finish();
    assert!(report.contains(" missing=0\n"), "{report}");

    let stored = database.messages();
    for (name, count) in fed {
        let expected = (0..count).map(|number| format!("{name} {number} {}", "x".repeat(number as usize % 300)));
        let mut found = stored.lines().filter(|line| line.starts_with(name));
        for line in expected {
            assert_eq!(found.next(), Some(&*line), "each line once, and in order");
        }
        assert_eq!(found.next(), None);
    }
}

/// What the database says of a writer decides: here it is made to say more than it has stored, and then less.
#[test]
fn sqlite_reader_passes_over_what_is_stored_and_reports_a_gap() {
    let scratch = tempdir();
    let socket = scratch.path().join("socket");
    let database = Database(scratch.path().join("database"));
    let mut writer = Running::start(scratch.path(), "writer", example("acknowledged_writer").arg(&socket));
    let ship = |writer: &mut Running, lines: &str, stored: u64| {
        let reader = database.reader(scratch.path(), &socket);
        writer.feed(lines);
        wait_until(PATIENCE, "the lines are stored", || database.count() == stored);
        reader.terminate();
        reader.finish().1
    };
    ship(&mut writer, "1\n2\n3\n", 3);
    database.ask("UPDATE writers SET last = last + 2");
    let report = ship(&mut writer, "4\n5\n6\n", 4);
    assert!(report.ends_with("stored=1 repeated=2 missing=0\n"), "{report}");
    database.ask("UPDATE writers SET last = last - 2");
    let report = ship(&mut writer, "7\n", 5);
    assert!(report.contains(": messages 5 to 6 will not come\n"), "{report}");
    assert!(report.ends_with("stored=1 repeated=0 missing=2\n"), "{report}");
    assert_eq!(database.messages(), "1\n2\n3\n6\n7\n");
    writer.end_of_input();
    writer.finish();
}

/// A message that cannot be told from another one is not stored.
#[test]
fn sqlite_reader_refuses_a_writer_that_numbers_nothing() {
    let scratch = tempdir();
    let socket = scratch.path().join("socket");
    let database = Database(scratch.path().join("database"));
    let mut reader = database.reader(scratch.path(), &socket);
    UnixStream::connect(&socket).unwrap().write_all(b"\x05hello").unwrap();
    reader.wait_for("says so", Running::stderr, |text| text.contains("handler failed to process a message"));
    reader.terminate();
    reader.finish();
    assert_eq!(database.count(), 0);
}

#[test]
fn activated_reader_runs_without_systemd() {
    let scratch = tempdir();
    let socket = scratch.path().join("socket");
    let mut reader = Running::start(scratch.path(), "activated_reader", example("activated_reader").arg(&socket));
    wait_until(PATIENCE, "the socket is there", || socket.exists());
    let mut writer = Running::start(scratch.path(), "writer", example("writer").arg(&socket));
    writer.feed("hello\n");
    writer.end_of_input();
    writer.finish();
    reader.wait_for("has the message", Running::stdout, |text| text.ends_with(": hello\n"));
    reader.terminate();
    reader.finish();
}

#[test]
fn units_fit_the_program_and_each_other() {
    let unit = |name: &str| fs::read_to_string(project("examples-c/systemd").join(name)).unwrap();
    let (socket, service) = (unit("udsipc-example.socket"), unit("udsipc-example.service"));
    let listen = socket.lines().find_map(|line| line.strip_prefix("ListenStream=")).expect("ListenStream=");
    assert!(service.contains(&format!("ExecStart=/usr/local/bin/udsipc-example-reader {listen}\n")), "{service}");
    assert!(socket.contains("\nSocketMode=0660\n"), "{socket}");
    assert!(service.contains("\nType=notify\n"), "{service}");

    // systemd's own opinion, where it is installed. It would miss the program, so it is given one that exists.
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return;
    }
    let scratch = tempdir();
    fs::write(scratch.path().join("udsipc-example.socket"), socket).unwrap();
    let service = service.replace("/usr/local/bin/udsipc-example-reader", "/bin/true");
    fs::write(scratch.path().join("udsipc-example.service"), service).unwrap();
    let told = run_ok(
        Command::new("systemd-analyze").args(["verify", "udsipc-example.socket"]).current_dir(scratch.path()),
        PATIENCE,
    );
    assert!(!told.contains("udsipc-example"), "{told}");
}

#[test]
fn demo_ships_a_file_and_nothing_is_missing_after_a_kill() {
    let bin = tempdir();
    for name in ["writer", "epoll_reader"] {
        std::os::unix::fs::symlink(example(name).get_program(), bin.path().join(name)).unwrap();
    }
    let file = bin.path().join("file");
    fs::write(&file, "equal lines\nequal lines\n\nan empty one above, a tab\there, no newline at the end").unwrap();
    let mut demo = Command::new(python3().expect("python3"));
    demo.arg("-B").arg(project("examples-c/demo/demo.py"));
    demo.arg("--bin").arg(bin.path()).arg("--library").arg(library());
    let report = run_ok(demo.args(["--messages", "5000"]).arg(&file), PATIENCE);
    assert_eq!(report.matches("equal: all 5000 messages arrived").count(), 4, "{report}");
    assert_eq!(report.matches("after message 2500 of 5000 the reader hung").count(), 2, "{report}");
    assert_eq!(report.matches("reconnects       0\n").count(), 2, "{report}");
    assert_eq!(report.matches("sent again       0\n").count(), 2, "{report}");
}
