//! libudsipc and programs written in Go, in both directions, with the counts of both sides compared.
//!
//! The peer (`ffi-tests/go`) stands on Go's standard library alone: its varint code, vectored writes, deadlines and
//! network poller. It is not the library `github.com/Psiphon-Inc/uds-ipc`, and nothing here is evidence about the code
//! of that library: it shows that libudsipc gets on with a Go program that speaks the wire format, sends a failed message
//! again without end, and closes over unread bytes.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use udsipc::{Context, Error, Peer, Reader, ReaderOptions, Writer, WriterOptions};

mod support;

use support::{output, project, tempdir, wait_until};

/// Generous: a hang fails, a busy machine does not.
const PATIENCE: Duration = Duration::from_secs(60);
const INSTALL_GO: &str = "sudo apt-get install golang-go";

/// The Go program, built once; `None` where there is no Go.
fn peer() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        if Command::new("go").arg("version").output().is_err() {
            assert!(std::env::var_os("CI").is_none(), "no Go toolchain, and CI must not skip these: {INSTALL_GO}");
            return None;
        }
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-peer");
        // Under a name of its own first: another run may be using the program of the last build.
        let fresh = program.with_extension(std::process::id().to_string());
        // Offline by construction: the module needs nothing, and the toolchain that is here must do.
        let environment = [("GOTOOLCHAIN", "local"), ("GOFLAGS", "-mod=readonly -buildvcs=false"), ("GOPROXY", "off")];
        let mut go = Command::new("go");
        output(go.args(["build", "-o"]).arg(&fresh).arg(".").current_dir(project("ffi-tests/go")).envs(environment));
        fs::rename(&fresh, &program).unwrap();
        Some(program)
    });
    built.as_deref()
}

/// The peer, or the end of the test with a word on what is missing.
macro_rules! need_go {
    () => {
        match peer() {
            Some(peer) => peer,
            None => {
                eprintln!("skipped: no Go toolchain. Install one: {INSTALL_GO}");
                return;
            }
        }
    };
}

/// A running peer. It ends when its standard input does; it is killed if a test ends without that.
struct Go {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Go {
    fn start(peer: &Path, command: &str, socket: &Path, arguments: &[&str]) -> Go {
        let mut child = Command::new(peer)
            .arg(command)
            .arg("-path")
            .arg(socket)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the Go program");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Go { stdin: child.stdin.take(), stdout, child }
    }

    fn writer(peer: &Path, socket: &Path, arguments: &[&str]) -> Go {
        Go::start(peer, "write", socket, arguments)
    }

    /// A reader that listens already.
    fn reader(peer: &Path, socket: &Path, arguments: &[&str]) -> Go {
        let mut go = Go::start(peer, "read", socket, arguments);
        let mut line = String::new();
        go.stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        go
    }

    /// Waits until it has done what it was started for.
    fn finish(mut self) -> Report {
        let mut line = String::new();
        self.stdout.read_to_string(&mut line).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the Go program: {status}: {line}");
        Report(line)
    }

    /// Tells it to end.
    fn end(mut self) -> Report {
        drop(self.stdin.take());
        self.finish()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Go {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One flat line of JSON.
#[derive(Debug)]
struct Report(String);

impl Report {
    fn number(&self, name: &str) -> u64 {
        let (_, rest) = self.0.split_once(&format!("\"{name}\":")).unwrap_or_else(|| panic!("no {name} in {}", self.0));
        rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap()
    }

    fn assert_right(&self) {
        assert!(self.0.contains("\"wrong\":\"\""), "{}", self.0);
        assert_eq!(self.number("errors"), 0, "{}", self.0);
    }
}

const BOUNDARY: [usize; 16] = [
    1, 2, 126, 127, 128, 129, 16_382, 16_383, 16_384, 16_385, 2_097_150, 2_097_151, 2_097_152, 2_097_153, 10_485_759,
    10_485_760,
];
const RANDOM: u64 = 100_000;
const SEED: u64 = 1;

/// splitmix64, as in the peer.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn noise(index: u64, length: usize) -> Vec<u8> {
    let mut state = mix(SEED ^ mix(index));
    let mut message = Vec::with_capacity(length + 8);
    while message.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        message.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    message.truncate(length);
    message
}

fn random(index: u64) -> Vec<u8> {
    noise(index, (mix(SEED + index) % 3001) as usize)
}

fn numbered(index: u64, length: usize) -> Vec<u8> {
    let mut message = vec![0; length];
    message[..8].copy_from_slice(&index.to_le_bytes());
    message
}

fn number_of(message: &[u8]) -> u64 {
    u64::from_le_bytes(message[..8].try_into().unwrap())
}

/// What a reader of ours was given.
type Numbers = Arc<Mutex<Vec<u64>>>;

fn numbering_reader(socket: &Path, options: ReaderOptions, numbers: &Numbers) -> Reader {
    let numbers = Arc::clone(numbers);
    let on_message = move |message: &[u8], _: &Peer<'_>| {
        numbers.lock().unwrap().push(number_of(message));
    };
    let reader = Reader::new(socket, on_message, options).unwrap();
    reader.start().unwrap();
    reader
}

fn assert_counts_up(numbers: &Numbers, count: u64) {
    let numbers = numbers.lock().unwrap();
    let wrong = numbers.iter().zip(0..).find(|(number, index)| *number != index);
    assert_eq!(wrong, None, "in order, once each");
    assert_eq!(numbers.len() as u64, count, "sent = received");
}

/// A Go writer sends a plan that our reader knows as well.
fn go_to_us(peer: &Path, shape: &str, count: u64, plan: impl Fn(u64) -> Vec<u8> + Send + Sync + 'static) {
    let folder = tempdir();
    let socket = folder.path().join("s");
    let expected = (0..count).filter(|index| !plan(*index).is_empty()).count() as u64;
    let (next, wrong) = (AtomicU64::new(0), Arc::new(AtomicU64::new(0)));
    let mismatches = Arc::clone(&wrong);
    let on_message = move |message: &[u8], _: &Peer<'_>| {
        let right = loop {
            let right = plan(next.fetch_add(1, Ordering::Relaxed));
            if !right.is_empty() {
                break right;
            }
        };
        mismatches.fetch_add(u64::from(message != right), Ordering::Relaxed);
    };
    let reader = Reader::new(&socket, on_message, ReaderOptions::new()).unwrap();
    reader.start().unwrap();
    let sent = Go::writer(peer, &socket, &["-shape", shape, "-count", &count.to_string()]).finish();
    assert_eq!((sent.number("sent"), sent.number("failed"), sent.number("connections")), (count, 0, 1), "{sent:?}");
    wait_until(PATIENCE, "all has arrived", || reader.metrics().received == expected);
    reader.stop(PATIENCE).unwrap();
    let metrics = reader.metrics();
    assert_eq!((metrics.received, metrics.errors, metrics.connections), (expected, 0, 1));
    assert_eq!(wrong.load(Ordering::Relaxed), 0, "byte for byte");
}

/// Our writer sends a plan that a Go reader knows as well.
fn us_to_go(peer: &Path, shape: &str, messages: impl Iterator<Item = Vec<u8>>) {
    let folder = tempdir();
    let socket = folder.path().join("s");
    let go = Go::reader(peer, &socket, &["-shape", shape]);
    let writer = Writer::new(&socket, WriterOptions::new()).unwrap();
    writer.start().unwrap();
    let mut expected = 0;
    for message in messages {
        writer.write_timeout(&message, PATIENCE).unwrap();
        expected += u64::from(!message.is_empty());
    }
    writer.flush(PATIENCE).unwrap();
    writer.stop(PATIENCE).unwrap();
    let metrics = writer.metrics();
    assert_eq!((metrics.sent, metrics.failed, metrics.abandoned, metrics.suspected_lost), (expected, 0, 0, 0));
    // The connection is closed in order: Go reads to its end before it ends itself.
    let report = end_when_received(go, &socket, expected);
    report.assert_right();
    assert_eq!(report.number("received"), expected);
}

/// A Go reader says what it has only at its end, and its end cuts connections: so it is asked when it has none.
fn end_when_received(go: Go, socket: &Path, expected: u64) -> Report {
    let pid = go.child.id();
    wait_until(PATIENCE, &format!("Go has read {expected} messages to the end"), || !has_connection(pid));
    assert!(socket.exists());
    go.end()
}

/// Whether a process holds more sockets than its listener.
fn has_connection(pid: u32) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let is_socket = |path: PathBuf| fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
    descriptors.filter(|entry| is_socket(entry.path())).count() > 1
}

#[test]
fn every_length_at_a_varint_boundary_from_go() {
    let peer = need_go!();
    go_to_us(peer, "boundary", BOUNDARY.len() as u64, |index| noise(index, BOUNDARY[index as usize]));
}

#[test]
fn every_length_at_a_varint_boundary_to_go() {
    let peer = need_go!();
    us_to_go(peer, "boundary", (0..).zip(BOUNDARY).map(|(index, length)| noise(index, length)));
}

#[test]
fn random_messages_from_go() {
    let peer = need_go!();
    go_to_us(peer, "random", RANDOM, random);
}

#[test]
fn random_messages_to_go() {
    let peer = need_go!();
    us_to_go(peer, "random", (0..RANDOM).map(random));
}

#[test]
fn empty_messages_from_go_are_silence() {
    let peer = need_go!();
    let plan = |index| if index < 1000 { Vec::new() } else { b"behind the empty ones".to_vec() };
    go_to_us(peer, "empty:1000", 1001, plan);
}

#[test]
fn our_reader_restarts_under_load_from_go() {
    let peer = need_go!();
    let folder = tempdir();
    let socket = folder.path().join("s");
    let numbers = Numbers::default();
    let count = |numbers: &Numbers| numbers.lock().unwrap().len();
    let go = Go::writer(peer, &socket, &[]);
    let mut connections = 0;
    for _ in 0..20 {
        let reader = numbering_reader(&socket, ReaderOptions::new(), &numbers);
        let before = count(&numbers);
        wait_until(PATIENCE, "some hundred more messages", || count(&numbers) >= before + 300);
        reader.stop(PATIENCE).unwrap();
        assert_eq!(reader.metrics().errors, 0, "a frame cut by a stop is no error");
        connections += reader.metrics().connections;
    }
    let reader = numbering_reader(&socket, ReaderOptions::new(), &numbers);
    let before = count(&numbers);
    wait_until(PATIENCE, "it goes on", || count(&numbers) > before);
    let sent = go.end();
    wait_until(PATIENCE, "all has arrived", || count(&numbers) as u64 >= sent.number("sent"));
    reader.stop(PATIENCE).unwrap();
    assert_counts_up(&numbers, sent.number("sent"));
    assert!(connections >= 20 && sent.number("connections") >= 20, "{connections} {sent:?}");
}

#[test]
fn a_go_writer_as_slow_as_the_inactivity_timeout() {
    let peer = need_go!();
    let folder = tempdir();
    // Just before, at, and just after: on a busy machine one of them meets the moment.
    let runs = ["99ms", "100ms", "101ms", "103ms"].map(|period| {
        let socket = folder.path().join(period);
        let numbers = Numbers::default();
        let options = ReaderOptions::new().inactivity_timeout(Duration::from_millis(100));
        let reader = numbering_reader(&socket, options, &numbers);
        let go = Go::writer(peer, &socket, &["-count", "50", "-period", period]);
        (reader, go, numbers)
    });
    let mut closed = 0;
    for (reader, go, numbers) in runs {
        let sent = go.finish();
        wait_until(PATIENCE, "all has arrived", || numbers.lock().unwrap().len() >= 50);
        reader.stop(PATIENCE).unwrap();
        assert_eq!(sent.number("sent"), 50);
        assert_counts_up(&numbers, 50);
        assert_eq!(reader.metrics().errors, 0);
        closed += reader.metrics().idle_closed;
    }
    assert!(closed > 0, "no connection was ever closed for its silence");
}

/// Which messages a Go reader has handled. It writes them down one by one, so that a kill hides nothing.
fn logged(log: &Path) -> Vec<u64> {
    let bytes = fs::read(log).unwrap_or_default();
    bytes.chunks_exact(8).map(number_of).collect()
}

/// A Go reader ends and starts again under load, while its kernel queue is never empty: it handles messages more slowly
/// than they come. Then its close throws unread bytes away, the kernel says so, and what its own buffer held is within
/// the bound too.
fn go_reader_restarts(peer: &Path, end: impl Fn(Go)) {
    const RESTARTS: usize = 6;
    let folder = tempdir();
    let (socket, log) = (folder.path().join("s"), folder.path().join("log"));
    let start = |delay: &str| Go::reader(peer, &socket, &["-log", log.to_str().unwrap(), "-delay", delay]);
    let options = WriterOptions::new().max_backoff(Duration::from_millis(20));
    let writer = Arc::new(Writer::new(&socket, options).unwrap());
    writer.start().unwrap();
    let stop_producing = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let producer = std::thread::spawn({
        let (writer, stop) = (Arc::clone(&writer), Arc::clone(&stop_producing));
        move || {
            let mut accepted = 0;
            while !stop.load(Ordering::Relaxed) {
                accepted +=
                    u64::from(writer.write_timeout(&numbered(accepted, 512), Duration::from_millis(50)).is_ok());
            }
            accepted
        }
    });
    for _ in 0..RESTARTS {
        let go = start("200us");
        let before = logged(&log).len();
        wait_until(PATIENCE, "Go handles messages and its queue is full", || {
            logged(&log).len() >= before + 100 && writer.metrics().queue_depth > 100
        });
        end(go);
    }
    let last = start("0s");
    stop_producing.store(true, Ordering::Relaxed);
    let accepted = producer.join().unwrap();
    writer.stop(PATIENCE).unwrap();
    end_when_received(last, &socket, accepted);

    let handled = logged(&log);
    let metrics = writer.metrics();
    assert!(handled.windows(2).all(|pair| pair[0] < pair[1]), "in order, nothing twice");
    assert_eq!((metrics.sent, metrics.abandoned, metrics.queue_depth), (accepted, 0, 0));
    let missing = accepted - handled.len() as u64;
    assert!(missing > 0, "a close over unread bytes loses some, or this test shows nothing");
    assert!(missing <= metrics.suspected_lost, "{missing} are missing, suspected are {}", metrics.suspected_lost);
}

#[test]
fn a_go_reader_stopped_and_restarted_under_load() {
    let peer = need_go!();
    go_reader_restarts(peer, |go| drop(go.end()));
}

#[test]
fn a_go_reader_killed_and_restarted_under_load() {
    let peer = need_go!();
    go_reader_restarts(peer, Go::kill);
}

#[test]
fn a_message_too_large_for_go_is_given_up_and_the_next_arrive() {
    let peer = need_go!();
    let folder = tempdir();
    let (socket, log) = (folder.path().join("s"), folder.path().join("log"));
    let go = Go::reader(peer, &socket, &["-limit", "1000", "-log", log.to_str().unwrap()]);
    let contexts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&contexts);
    let options = WriterOptions::new()
        .max_backoff(Duration::from_millis(20))
        .max_attempts(3)
        .on_error(move |error, context| seen.lock().unwrap().push((error.to_string(), context)));
    let writer = Writer::new(&socket, options).unwrap();
    writer.start().unwrap();
    // Larger than the kernel's buffer, so that each refusal falls into the write.
    writer.write(&vec![0; 2 << 20]).unwrap();
    for index in 0..100 {
        writer.write(&numbered(index, 100)).unwrap();
    }
    wait_until(PATIENCE, "the messages behind it arrive", || logged(&log).len() >= 100);
    writer.stop(PATIENCE).unwrap();
    let metrics = writer.metrics();
    assert_eq!((metrics.sent, metrics.abandoned, metrics.failed), (100, 1, 3));
    assert_eq!(logged(&log), (0..100).collect::<Vec<_>>());
    assert_eq!(go.end().number("errors"), 3, "one for each attempt");
    assert!(contexts.lock().unwrap().iter().any(|(_, context)| *context == Context::WriteAgain));
}

/// A reader in a process of its own, so that the time it takes is its own.
const LONELY_READER: &str = "
import ctypes, sys
from udsipc_capi import MessageCallback, check, lib
count = 0
def on_message(_data, _length, _connection, _userdata):
    global count
    count += 1
    return 0
callback = MessageCallback(on_message)
options, reader = lib.udsipc_reader_options_new(), ctypes.c_void_p()
check(lib.udsipc_reader_options_set_max_message_size(options, 1000))
pointer = ctypes.cast(callback, ctypes.c_void_p)
check(lib.udsipc_reader_new(sys.argv[1].encode(), pointer, None, options, ctypes.byref(reader)))
check(lib.udsipc_reader_start(reader))
print('ready', flush=True)
sys.stdin.read()
check(lib.udsipc_reader_stop(reader, 10_000))
print(count, flush=True)
";

fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10) // USER_HZ is 100 (proc(5), times(2))
}

#[test]
fn a_go_writer_that_retries_an_oversize_message_for_ever_costs_little() {
    let peer = need_go!();
    let python = support::python3().expect("python3 runs the reader of this test");
    let folder = tempdir();
    let socket = folder.path().join("s");
    let mut reader = Command::new(python)
        .args(["-B", "-c", LONELY_READER])
        .arg(&socket)
        .env("PYTHONPATH", project("ffi-tests/python"))
        .env("UDSIPC_LIBRARY", support::library())
        .env("UDSIPC_TEST_PARENT", std::process::id().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(reader.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");

    let stubborn = Go::writer(peer, &socket, &["-shape", "numbered:2097152"]);
    let (begun, before) = (Instant::now(), cpu_time(reader.id()));
    let good = Go::writer(peer, &socket, &["-count", "500", "-period", "5ms"]).finish();
    wait_until(PATIENCE, "three seconds of it", || begun.elapsed() >= Duration::from_secs(3));
    let share = (cpu_time(reader.id()) - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    let stubborn = stubborn.end();

    drop(reader.stdin.take());
    line.clear();
    stdout.read_line(&mut line).unwrap();
    assert!(reader.wait().unwrap().success());
    assert_eq!(line.trim(), "500", "the other connection is served");
    assert_eq!((good.number("sent"), good.number("failed")), (500, 0));
    assert!(stubborn.number("failed") >= 3, "it did not retry: {stubborn:?}");
    assert!(share < 0.20, "{:.0} % of a core, with {stubborn:?}", share * 100.0);
}

#[test]
fn a_full_queue_in_front_of_a_slow_go_reader() {
    let peer = need_go!();
    let folder = tempdir();
    let (socket, log) = (folder.path().join("s"), folder.path().join("log"));
    let go = Go::reader(peer, &socket, &["-delay", "100us", "-log", log.to_str().unwrap()]);
    let writer = Writer::new(&socket, WriterOptions::new().max_buffered_writes(50)).unwrap();
    writer.start().unwrap();
    let (mut accepted, mut refused) = (Vec::new(), 0);
    let begun = Instant::now();
    for index in 0.. {
        match writer.write(&numbered(index, 4096)) {
            Ok(()) => accepted.push(index),
            Err(Error::BufferFull { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        if refused >= 100 && accepted.len() >= 500 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{} accepted, {refused} refused", accepted.len());
    }
    writer.stop(PATIENCE).unwrap();
    wait_until(PATIENCE, "all accepted ones are handled", || logged(&log).len() >= accepted.len());
    assert_eq!(logged(&log), accepted);
    assert_eq!(go.end().number("received"), accepted.len() as u64);
    assert_eq!((writer.metrics().sent, writer.metrics().dropped), (accepted.len() as u64, refused));
}

#[test]
fn our_default_inactivity_timeout_closes_a_go_writer_without_loss() {
    let peer = need_go!();
    let folder = tempdir();
    let socket = folder.path().join("s");
    let numbers = Numbers::default();
    let reader = numbering_reader(&socket, ReaderOptions::new(), &numbers);
    let begun = Instant::now();
    let go = Go::writer(peer, &socket, &["-count", "2", "-period", "11s"]);
    wait_until(PATIENCE, "the silent connection is closed", || reader.metrics().idle_closed == 1);
    assert!(begun.elapsed() >= Duration::from_secs(10), "after {:?}", begun.elapsed());
    wait_until(PATIENCE, "the second message", || numbers.lock().unwrap().len() == 2);
    let sent = go.end();
    reader.stop(PATIENCE).unwrap();
    assert_counts_up(&numbers, sent.number("sent"));
    assert_eq!((sent.number("sent"), sent.number("connections")), (2, 2));
    assert_eq!(reader.metrics().errors, 0);
}

#[test]
fn a_go_reader_that_closes_an_idle_connection_is_no_failure() {
    let peer = need_go!();
    let folder = tempdir();
    let (socket, log) = (folder.path().join("s"), folder.path().join("log"));
    let go = Go::reader(peer, &socket, &["-log", log.to_str().unwrap()]);
    let writer = Writer::new(&socket, WriterOptions::new()).unwrap();
    writer.start().unwrap();
    writer.write(&numbered(0, 64)).unwrap();
    wait_until(PATIENCE, "the first message", || logged(&log) == [0]);
    let begun = Instant::now();
    // The writer notices it and connects again, without a message that would need it.
    wait_until(PATIENCE, "Go closes after ten seconds", || writer.metrics().connections == 2);
    assert!(begun.elapsed() >= Duration::from_secs(9));
    writer.write(&numbered(1, 64)).unwrap();
    wait_until(PATIENCE, "the second message", || logged(&log) == [0, 1]);
    writer.stop(PATIENCE).unwrap();
    let metrics = writer.metrics();
    assert_eq!((metrics.sent, metrics.failed, metrics.suspected_lost, metrics.connections), (2, 0, 0, 2));
    assert_eq!(go.end().number("received"), 2);
}

#[test]
fn eight_go_writers_and_eight_c_abi_writers_on_one_reader() {
    let peer = need_go!();
    let python = support::python3().expect("python3 drives the C ABI");
    let folder = tempdir();
    let socket = folder.path().join("s");
    let by_connection: Arc<Mutex<HashMap<u64, Vec<u64>>>> = Arc::default();
    let seen = Arc::clone(&by_connection);
    let on_message = move |message: &[u8], connection: &Peer<'_>| {
        seen.lock().unwrap().entry(connection.connection_id()).or_default().push(number_of(message));
    };
    let reader = Reader::new(&socket, on_message, ReaderOptions::new()).unwrap();
    reader.start().unwrap();
    let go: Vec<Go> = (0..8).map(|_| Go::writer(peer, &socket, &["-count", "5000"])).collect();
    let mut python: Vec<Child> = (0..8)
        .map(|_| {
            Command::new(&python)
                .arg("-B")
                .arg(project("ffi-tests/python/number_writer.py"))
                .arg(&socket)
                .args(["0.0001", "64"])
                .env("UDSIPC_LIBRARY", support::library())
                .env("UDSIPC_TEST_PARENT", std::process::id().to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    wait_until(PATIENCE, "all sixteen are heard", || {
        by_connection.lock().unwrap().values().filter(|numbers| numbers.len() >= 500).count() == 16
    });
    let mut sent: Vec<u64> = go.into_iter().map(|go| go.finish().number("sent")).collect();
    python.iter_mut().for_each(|child| drop(child.stdin.take()));
    for child in python {
        let done = child.wait_with_output().unwrap();
        let report = Report(String::from_utf8(done.stdout).unwrap().replace(": ", ":"));
        assert!(done.status.success() && report.number("stopped") == 0, "{report:?}");
        assert_eq!(report.number("sent"), report.number("accepted"));
        sent.push(report.number("sent"));
    }
    wait_until(PATIENCE, "all has arrived", || reader.metrics().received == sent.iter().sum::<u64>());
    reader.stop(PATIENCE).unwrap();
    let received = by_connection.lock().unwrap();
    assert!(received.values().all(|numbers| numbers.iter().zip(0..).all(|(number, index)| *number == index)));
    let mut lengths: Vec<u64> = received.values().map(|numbers| numbers.len() as u64).collect();
    lengths.sort_unstable();
    sent.sort_unstable();
    assert_eq!(lengths, sent, "sent = received, writer by writer");
    assert_eq!(reader.metrics().errors, 0);
}
