//! The examples, compiled with every warning an error and run as a stranger would run them, and the demo.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

use support::{PATIENCE, compile, library, output, project, python3, run_ok, tempdir, wait_until};

/// A program that was started. It is killed when the test ends without having waited for it.
struct Running {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    /// Starts it with files for its output and a pipe for its input.
    fn start(scratch: &Path, name: &str, command: &mut Command) -> Self {
        let (stdout, stderr) = (scratch.join(format!("{name}.out")), scratch.join(format!("{name}.err")));
        // NOTIFY_SOCKET and its kin belong to whatever runs the tests, unless a test sets them.
        let child = command
            .env("UDSIPC_LIBRARY", library())
            .stdin(Stdio::piped())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self { name: name.to_owned(), child, stdout, stderr }
    }

    fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap()
    }

    fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// Waits until it has printed something, and fails at once if it has ended without.
    fn wait_for(&mut self, what: &str, stream: fn(&Self) -> String, condition: impl Fn(&str) -> bool) {
        wait_until(PATIENCE, &format!("{} {what}", self.name), || {
            let ended = self.child.try_wait().unwrap();
            let fulfilled = condition(&stream(self));
            assert!(fulfilled || ended.is_none(), "{} ended before it {what}:\n{}", self.name, self.stderr());
            fulfilled
        });
    }

    fn wait_until_it_listens(&mut self) {
        self.wait_for("listens", Self::stderr, |text| text.contains("listening on"));
    }

    /// Gives it input, and leaves the input open.
    fn feed(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn end_of_input(&mut self) {
        drop(self.child.stdin.take());
    }

    fn terminate(&self) {
        output(Command::new("sh").args(["-c", "kill -TERM $0", &self.child.id().to_string()]));
    }

    fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until(PATIENCE, &format!("{} ends", self.name), || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Waits for its end, which must be a success, and gives back what it printed.
    fn finish(mut self) -> (String, String) {
        let status = self.wait();
        assert!(status.success(), "{}: {status}\n{}", self.name, self.stderr());
        (self.stdout(), self.stderr())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Lines that differ, of many lengths.
fn lines(count: usize) -> String {
    (0..count).map(|n| format!("{n} {}\n", "x".repeat(n % 300))).collect()
}

/// A C example by its name, a Python one by its file name.
fn example(name: &str) -> Command {
    if name.ends_with(".py") {
        let mut python = Command::new(python3().expect("python3"));
        python.arg("-B").arg(project("examples-c").join(name));
        return python;
    }
    // Once each: the tests of this file run side by side in one process.
    static COMPILED: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let source = project(&format!("examples-c/{name}.c"));
    Command::new(compiled.entry(name.to_owned()).or_insert_with(|| compile(&source, "c11")))
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
        "activated_reader.c",
        "buffer_full_writer.c",
        "epoll_reader.c",
        "reader.c",
        "reader.py",
        "udsipc_ctypes.py",
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

/// An epoll reader lives on one thread: the one that it came with.
#[test]
fn epoll_reader_has_one_thread() {
    let scratch = tempdir();
    let socket = scratch.path().join("socket");
    let mut reader = Running::start(scratch.path(), "reader", example("epoll_reader").arg(&socket));
    reader.wait_until_it_listens();
    let mut writer = Running::start(scratch.path(), "writer", example("writer").arg(&socket));
    writer.feed("one\n");
    reader.wait_for("has a message", Running::stdout, |text| text == "one\n");
    let threads = fs::read_dir(format!("/proc/{}/task", reader.child.id())).unwrap().count();
    assert_eq!(threads, 1);
    writer.end_of_input();
    writer.finish();
    reader.terminate();
    reader.finish();
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
fn python_writer_leaves_at_sigterm() {
    leaves_at_sigterm("writer.py");
}

/// A reader that comes later than the end of the writer's input still gets everything.
#[test]
fn writer_waits_for_a_late_reader() {
    let scratch = tempdir();
    let socket = scratch.path().join("socket");
    let sent = lines(500);
    let mut writer = Running::start(scratch.path(), "writer", example("writer").arg(&socket));
    writer.feed(&sent);
    writer.end_of_input();
    writer.wait_for("says that nobody listens", Running::stderr, |text| text.contains("failed to connect"));

    let mut reader = Running::start(scratch.path(), "reader", example("reader").arg(&socket));
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
    let mut writer = Running::start(scratch.path(), "writer", example("buffer_full_writer").arg(&socket).arg("100"));
    writer.feed(&sent);
    writer.end_of_input();
    // The reader comes only when the writer has read all of its input, or some of the 900 would find room.
    writer.wait_for("has read its input", Running::stderr, |text| text.contains("waiting for room"));
    let mut reader = Running::start(scratch.path(), "reader", example("reader").arg(&socket));
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
    for name in ["reader", "epoll_reader", "activated_reader", "reader.py"] {
        let mut reader = Running::start(scratch.path(), name, example(name).arg(&socket));
        assert!(!reader.wait().success(), "{name} took a path that is not a socket");
        let told = reader.stderr();
        assert!(told.contains(socket.to_str().unwrap()), "{name} does not name the path: {told}");
        assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
    }
    let too_long = scratch.path().join("x".repeat(200));
    for name in ["writer", "buffer_full_writer", "writer.py"] {
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

/// What systemd does for a socket unit: listen, pass the socket as descriptor 3, set LISTEN_*, exec in the same process.
const ACTIVATE: &str = "
import os, socket, sys
path, *command = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
listener.bind(path)
listener.listen(128)
os.dup2(listener.fileno(), 3, inheritable=True) if listener.fileno() != 3 else os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='udsipc-example.socket')
print('bound', file=sys.stderr, flush=True)
sys.stdin.readline()  # a writer has connected: now the service starts
os.execv(command[0], command)
";

fn received(notify: &UnixDatagram) -> String {
    let mut datagram = [0; 4096];
    let size = notify.recv(&mut datagram).expect("a notification");
    String::from_utf8_lossy(&datagram[..size]).into_owned()
}

/// Waits for the notification that contains a line; others, such as STATUS=, may come before it.
fn wait_for_notification(notify: &UnixDatagram, line: &str) {
    while !received(notify).lines().any(|told| told == line) {}
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
fn demo_ships_a_file_and_accounts_for_a_killed_reader() {
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
    assert_eq!(report.matches("equal: all 5000 messages arrived once and in order").count(), 2, "{report}");
    assert_eq!(report.matches("after message 2500 of 5000 the reader hung").count(), 2, "{report}");
    assert_eq!(report.matches("reconnects       0\n").count(), 2, "{report}");
}
