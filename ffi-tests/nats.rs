//! The bridge to NATS (`tools/udsipc-nats`) with a real `nats-server`, while either is killed, stopped, frozen or full: the
//! stream has every accepted message exactly once, in each writer's order.
//!
//! `exactly_once_in_order` sends 40 000 messages. With `UDSIPC_NATS_FULL=1` a million, with 20 kills and 5 restarts:
//! `UDSIPC_NATS_FULL=1 cargo test --release --test nats exactly_once -- --nocapture`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "support/installation.rs"]
mod installation;
mod support;

use std::cell::Cell;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::Instant;

use installation::{built, make};
use support::running::Running;
use support::{PATIENCE, compile_with, link_dir, project, run, run_ok, tempdir, wait_until};

const STREAM: &str = "EVENTS";
const FILTER: &str = "events.*";
const SUBJECT: &str = "events.{uid}";

/// The bridge, as `make udsipc-nats` builds it.
fn bridge_program() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let program = built().join("udsipc-nats");
        run_ok(&mut make(program.to_str().unwrap(), &[]), PATIENCE);
        program
    };
    BUILT.get_or_init(build).clone()
}

/// A program of `ffi-tests/nats`.
fn program(name: &'static str) -> Command {
    static WRITER: OnceLock<PathBuf> = OnceLock::new();
    static STREAM: OnceLock<PathBuf> = OnceLock::new();
    let source = project(&format!("ffi-tests/nats/{name}.c"));
    Command::new(if name == "writer" {
        let lib = link_dir();
        let (search, runs) = (format!("-L{}", lib.display()), format!("-Wl,-rpath,{}", lib.display()));
        WRITER.get_or_init(|| compile_with(&source, "c11", &[&search, "-ludsipc", &runs]))
    } else {
        STREAM.get_or_init(|| compile_with(&source, "c11", &["-lnats"]))
    })
}

/// A server's port and store, a socket, and names for the output of what is started.
struct Place {
    folder: tempfile::TempDir,
    port: u16,
    started: Cell<u32>,
}

impl Place {
    fn new() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { folder: tempdir(), port, started: Cell::new(0) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    fn start(&self, what: &str, command: &mut Command) -> Running {
        self.started.set(self.started.get() + 1);
        Running::start(self.folder.path(), &format!("{what}-{}", self.started.get()), command)
    }

    /// Waits until the server is ready: its store has been read by then.
    fn server(&self) -> Running {
        let mut command = Command::new("nats-server");
        command.args(["-js", "-a", "127.0.0.1", "-p", &self.port.to_string(), "-sd"]).arg(self.path("store"));
        let mut server = self.start("server", &mut command);
        server.wait_for("is ready", Running::stderr, |text| text.contains("Server is ready"));
        server
    }

    fn bridge_command(&self, options: &[&str], subject: &str) -> Command {
        let mut command = Command::new(bridge_program());
        support::without_systemd(&mut command);
        command.args(["--server", &self.url()]).args(options).arg(self.socket()).arg(subject);
        command
    }

    /// A bridge that may not be connected yet. It makes its stream.
    fn bridge(&self, options: &[&str]) -> Running {
        let mut all = vec!["--create-stream", STREAM];
        all.extend(options);
        self.start("bridge", &mut self.bridge_command(&all, SUBJECT))
    }

    fn writer(&self, name: &str, count: u64, arguments: &[&str]) -> Running {
        self.start(name, program("writer").arg(self.socket()).args([name, &count.to_string()]).args(arguments))
    }

    fn stream(&self, arguments: &[&str]) -> Command {
        let mut command = program("stream");
        command.args([&self.url(), STREAM]).args(arguments);
        command
    }

    /// How many messages the stream has; 0 if there is none yet.
    fn count(&self) -> u64 {
        let done = run(&mut self.stream(&["count"]), PATIENCE);
        if done.status.success() { done.output.trim().parse().unwrap() } else { 0 }
    }

    fn wait_for_count(&self, least: u64) {
        wait_until(PATIENCE, &format!("the stream has {least} messages"), || self.count() >= least);
    }

    /// That the stream has the messages of each of these writers, once and in order.
    fn verify(&self, expected: &[(String, u64)]) {
        let found = run_ok(&mut self.stream(&["verify"]), PATIENCE);
        for (name, count) in expected {
            let line = format!("{name} messages={count} last={count} wrong=0 ids={count}\n");
            assert!(found.contains(&line), "not {line} but\n{found}");
        }
        assert_eq!(found.lines().count(), expected.len(), "{found}");
    }
}

/// The number behind `name=` in the last line that has it.
fn figure(text: &str, name: &str) -> u64 {
    let key = format!("{name}=");
    let field = text.split_whitespace().rfind(|field| field.starts_with(&key));
    field.unwrap_or_else(|| panic!("no {key} in {text}"))[key.len()..].parse().unwrap()
}

fn wait_until_told(process: &mut Running, what: &str) {
    process.wait_for(&format!("says {what:?}"), Running::stderr, |text| text.contains(what));
}

/// Ends a bridge with SIGTERM, and gives back what it has said.
fn stop(bridge: Running) -> String {
    bridge.terminate();
    let (_, told) = bridge.finish();
    assert_eq!(figure(&told, "out_of_order"), 0, "{told}");
    told
}

/// What a writer has accepted, all of which has been acknowledged.
fn finish(writer: Running) -> (u64, u64) {
    let (figures, _) = writer.finish();
    let accepted = figure(&figures, "accepted");
    assert_eq!(figure(&figures, "acknowledged"), accepted, "{figures}");
    assert_eq!((figure(&figures, "abandoned"), figure(&figures, "suspected_lost")), (0, 0), "{figures}");
    (accepted, figure(&figures, "redelivered"))
}

/// Passes connections on to a server and cuts each after so many bytes of the client's, wherever that is: in the middle of a
/// batch or of a message, with acknowledgements on their way. Runs until the test's process ends.
fn cutting_proxy(server: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for (number, client) in (0_u64..).zip(listener.incoming()) {
            let (client, server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", server)).unwrap());
            let (mut answers, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || {
                let _ = std::io::copy(&mut answers, &mut to_client);
                let _ = to_client.shutdown(Shutdown::Both);
            });
            thread::spawn(move || {
                let _ = std::io::copy(&mut (&client).take(150_000 + number * 79_193 % 400_000), &mut &server);
                let _ = client.shutdown(Shutdown::Both);
                let _ = server.shutdown(Shutdown::Both);
            });
        }
    });
    port
}

/// The bridge is killed at `kills` moments, and the server ends at `restarts` others, by SIGKILL and by SIGTERM in turn.
fn kill_again_and_again(place: &Place, total: u64, kills: u64, restarts: u64) -> (Running, Running) {
    let (mut server, mut bridge) = (place.server(), place.bridge(&[]));
    let events = kills + restarts;
    let mut ended = 0;
    for event in 1..=events {
        place.wait_for_count(total * event / (events + 1));
        if event * restarts / events > ended {
            ended += 1;
            server.signal(if ended % 2 == 1 { "KILL" } else { "TERM" });
            server.wait();
            server = place.server();
        } else {
            bridge.signal("KILL");
            bridge.wait();
            bridge = place.bridge(&[]);
        }
    }
    assert_eq!(ended, restarts);
    (server, bridge)
}

#[test]
fn exactly_once_in_order_while_bridge_and_server_are_killed() {
    let full = std::env::var_os("UDSIPC_NATS_FULL").is_some();
    let (total, kills, restarts) = if full { (1_000_000, 20, 5) } else { (40_000, 5, 2) };
    let place = Place::new();
    let begun = Instant::now();
    let names: Vec<String> = (0..4).map(|n| format!("writer{n}")).collect();
    let writers: Vec<Running> = names.iter().map(|name| place.writer(name, total / 4, &["100"])).collect();
    let (_server, bridge) = kill_again_and_again(&place, total, kills, restarts);

    let mut redelivered = 0;
    let mut accepted = Vec::new();
    for (name, writer) in names.into_iter().zip(writers) {
        let (count, again) = finish(writer);
        redelivered += again;
        accepted.push((name, count));
    }
    let took = begun.elapsed();
    assert_eq!(accepted.iter().map(|(_, count)| count).sum::<u64>(), total);
    assert_eq!(place.count(), total);
    place.verify(&accepted);
    assert!(redelivered > 0, "the kills have hit nothing");
    let told = stop(bridge);
    println!(
        "{total} messages in {:.1} s, {kills} kills, {restarts} restarts: writers sent {redelivered} again; the last bridge: {}",
        took.as_secs_f64(),
        told.lines().last().unwrap()
    );
}

/// Connections break at any byte while both sides live: what had been stored of a batch is dropped when it comes again.
#[test]
fn connections_that_break_in_the_middle_of_a_batch() {
    let place = Place::new();
    let _server = place.server();
    let proxy = Place { port: cutting_proxy(place.port), ..Place::new() };
    let mut bridge = proxy.bridge(&[]);
    bridge.wait_until_it_listens();
    let names = ["a", "b"];
    let writers = names.map(|name| proxy.writer(name, 15_000, &["150"]));
    for writer in writers {
        assert_eq!(finish(writer), (15_000, 0));
    }
    place.verify(&names.map(|name| (name.to_owned(), 15_000)));
    bridge.signal("KILL"); // its last connection may be cut at any time
    bridge.wait();
    let connects = bridge.stderr().matches("connected to").count();
    assert!(connects > 20, "the proxy has cut only {connects} connections");
}

/// While the engine is away the writer's queue fills and refuses; a bridge that is stopped then ends inside its callback, and
/// the next one gets everything that was accepted.
#[test]
fn while_the_engine_is_away_writers_keep_their_messages() {
    let place = Place::new();
    let mut server = place.server();
    let mut bridge = place.bridge(&["--stop-time", "1"]);
    bridge.wait_until_it_listens();
    server.terminate();
    server.wait();
    wait_until_told(&mut bridge, "the engine is away");

    let mut writer = place.writer("w", 1000, &["20000", "50"]);
    writer.wait_for("has filled its queue", Running::stdout, |text| text.contains("refused="));
    bridge.terminate();
    let status = bridge.wait();
    assert_eq!(status.code(), Some(75), "{}", bridge.stderr());
    assert!(bridge.stderr().contains("stopped while the engine was away"), "{}", bridge.stderr());

    let _server = place.server();
    let bridge = place.bridge(&[]);
    let (figures, _) = writer.finish();
    let accepted = figure(&figures, "accepted");
    assert!(figure(&figures, "refused") > 0 && accepted < 1000, "the queue was never full: {figures}");
    assert_eq!(figure(&figures, "dropped"), 1000 - accepted, "{figures}");
    assert_eq!(figure(&figures, "acknowledged"), accepted, "{figures}");
    place.verify(&[("w".to_owned(), accepted)]);
    stop(bridge);
}

/// A stop of a bridge whose engine is there leaves nothing to be sent again.
#[test]
fn a_stop_under_load_repeats_nothing() {
    let place = Place::new();
    let _server = place.server();
    let names = ["a", "b"];
    let writers = names.map(|name| place.writer(name, 30_000, &["200"]));
    for round in 1..=4 {
        let mut bridge = place.bridge(&["--stop-time", "60"]);
        bridge.wait_until_it_listens();
        place.wait_for_count(round * 8_000);
        let told = stop(bridge);
        assert_eq!((figure(&told, "repeated"), figure(&told, "published_again")), (0, 0), "{told}");
    }
    let bridge = place.bridge(&[]);
    for writer in writers {
        assert_eq!(finish(writer), (30_000, 0));
    }
    place.verify(&names.map(|name| (name.to_owned(), 30_000)));
    stop(bridge);
}

/// A server that hangs counts as away. When it goes on it may have both copies of a message in its buffers.
#[test]
fn a_frozen_server_gets_everything_once() {
    let place = Place::new();
    let server = place.server();
    let mut bridge = place.bridge(&["--ack-timeout", "1"]);
    let names = ["a", "b", "c"];
    let writers = names.map(|name| place.writer(name, 20_000, &["100"]));
    place.wait_for_count(10_000);
    server.signal("STOP");
    wait_until_told(&mut bridge, "no acknowledgement came in time");
    wait_until_told(&mut bridge, "cannot connect");
    server.signal("CONT");
    for writer in writers {
        assert_eq!(finish(writer).0, 20_000);
    }
    place.verify(&names.map(|name| (name.to_owned(), 20_000)));
    stop(bridge);
}

/// A stream that is full refuses messages, and a consumer makes room for one at a time, in the middle of a batch. Gives back
/// the numbers of the messages in the stream's order, and what the bridge has said.
fn through_a_full_stream(options: &[&str]) -> (Vec<u64>, String) {
    const COUNT: u64 = 3000;
    let place = Place::new();
    let _server = place.server();
    run_ok(&mut place.stream(&["create", FILTER, "40"]), PATIENCE);
    let mut bridge = place.bridge(options);
    let writer = place.writer("w", COUNT, &["100"]);
    wait_until_told(&mut bridge, "the engine refuses a message for events.");
    let taken = run_ok(&mut place.stream(&["drain", &COUNT.to_string()]), PATIENCE);
    assert_eq!(finish(writer), (COUNT, 0));
    bridge.terminate();
    let (_, told) = bridge.finish();
    assert!(figure(&told, "refused") > 0, "{told}");

    let numbers: Vec<u64> = taken.lines().map(|line| line.split(' ').nth(3).unwrap().parse().unwrap()).collect();
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    assert!(sorted.into_iter().eq(1..=COUNT), "each message once: {numbers:?}");
    (numbers, told)
}

/// With one message in flight nothing overtakes what a full stream refuses.
#[test]
fn a_full_stream_gets_everything_in_order_with_one_message_in_flight() {
    let (numbers, told) = through_a_full_stream(&["--in-flight", "1"]);
    assert!(numbers.is_sorted(), "{numbers:?}");
    assert_eq!(figure(&told, "out_of_order"), 0, "{told}");
}

/// With many in flight a message may be stored in front of one that was refused. Each is counted.
#[test]
fn a_full_stream_may_reorder_what_is_in_flight_and_that_is_counted() {
    let (numbers, told) = through_a_full_stream(&[]);
    let found = numbers.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert_eq!(found > 0, figure(&told, "out_of_order") > 0, "{found} in {numbers:?}\n{told}");
    assert_eq!(found > 0, told.contains("lie in the stream in front of their predecessor"), "{told}");
    println!("{found} steps back in the stream; the bridge: {}", told.lines().last().unwrap());
}

/// READY=1 comes when messages go through: not without a server, and not without a stream.
#[test]
fn it_waits_for_server_and_stream_and_says_what_is_missing() {
    let place = Place::new();
    let notify = UnixDatagram::bind(place.path("notify")).unwrap();
    notify.set_nonblocking(true).unwrap();
    let nothing_yet = |notify: &UnixDatagram| {
        assert_eq!(notify.recv(&mut [0; 512]).unwrap_err().kind(), ErrorKind::WouldBlock);
    };

    let mut command = place.bridge_command(&[], SUBJECT);
    let mut bridge = place.start("bridge", command.env("NOTIFY_SOCKET", place.path("notify")));
    wait_until_told(&mut bridge, &format!("cannot connect to {}", place.url()));
    nothing_yet(&notify);
    let _server = place.server();
    wait_until_told(&mut bridge, "no stream takes events.*: make one, or give --create-stream NAME");
    nothing_yet(&notify);
    assert!(!place.socket().exists());

    run_ok(&mut place.stream(&["create", "events.>"]), PATIENCE);
    wait_until_told(&mut bridge, "the stream EVENTS takes events.*: file storage, 1 replicas, duplicate window 120 s");
    bridge.wait_until_it_listens();
    notify.set_nonblocking(false).unwrap();
    notify.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut datagram = [0; 512];
    let size = notify.recv(&mut datagram).unwrap();
    assert_eq!(&datagram[..size], b"READY=1");
    let size = notify.recv(&mut datagram).unwrap();
    assert!(datagram[..size].starts_with(b"STATUS=0 stored"), "{}", String::from_utf8_lossy(&datagram[..size]));
    stop(bridge);
}

/// A signal while it waits for the engine ends it: nothing has been taken from anybody.
#[test]
fn it_can_be_stopped_while_it_waits_for_the_engine() {
    let place = Place::new();
    let mut bridge = place.bridge(&[]);
    wait_until_told(&mut bridge, "cannot connect");
    bridge.terminate();
    assert!(bridge.wait().success());
}

/// A message above the server's max_payload stays with its writer, which gives it up; those behind it go through.
#[test]
fn a_message_that_the_server_cannot_take_is_given_up_by_its_writer() {
    let place = Place::new();
    let _server = place.server();
    let mut bridge = place.bridge(&[]);
    bridge.wait_until_it_listens();
    let writer = udsipc::Writer::new(place.socket(), udsipc::WriterOptions::new()).unwrap();
    writer.start().unwrap();
    // 1 MiB less what the header takes: the largest one that fits, and the smallest one that does not.
    let largest = 1024 * 1024 - 96;
    writer.write(b"w 1 ").unwrap();
    writer.write(&[b"w 2 ".as_slice(), &vec![b'x'; largest - 4]].concat()).unwrap();
    writer.write(&vec![b'x'; largest + 1]).unwrap();
    writer.write(b"w 3 ").unwrap();
    assert!(writer.stop(PATIENCE).is_err());
    let metrics = writer.metrics();
    assert_eq!((metrics.acknowledged, metrics.abandoned), (3, 1), "{metrics:?}");
    place.verify(&[("w".to_owned(), 3)]);
    stop(bridge);
}

/// The stream's limit is lowered while a message is on its way: the bridge ends, and the next one tells the writer.
#[test]
fn a_limit_that_is_lowered_ends_the_bridge_and_holds_after_the_next_start() {
    let place = Place::new();
    let _server = place.server();
    let mut bridge = place.bridge(&[]);
    bridge.wait_until_it_listens();
    run_ok(&mut place.stream(&["limit", "1000"]), PATIENCE);
    let writer = udsipc::Writer::new(place.socket(), udsipc::WriterOptions::new()).unwrap();
    writer.start().unwrap();
    writer.write(&[b'x'; 2000]).unwrap();
    writer.write(b"w 1 ").unwrap();
    assert_eq!(bridge.wait().code(), Some(1));
    assert!(bridge.stderr().contains("larger than the engine takes now"), "{}", bridge.stderr());

    let mut bridge = place.bridge(&[]);
    wait_until_told(&mut bridge, "messages of up to 904 bytes");
    wait_until(PATIENCE, "the small message is handled", || writer.metrics().acknowledged == 1);
    assert_eq!(writer.metrics().abandoned + writer.metrics().suspected_lost, 1);
    assert_eq!(place.count(), 1);
    stop(bridge);
}

/// The kernel says who the peer is; a writer's message has an id, and that of a plain peer has none.
#[test]
fn subject_and_id_say_who_has_sent_a_message() {
    let place = Place::new();
    let _server = place.server();
    let uid = fs::metadata(place.folder.path()).unwrap().uid();
    let label = format!("{uid}=payments");
    let options = ["--label", "77777=other", "--label", &label, "--create-stream", STREAM];
    let mut bridge = place.start("bridge", &mut place.bridge_command(&options, "in.{label}.user-{uid}.log"));
    wait_until_told(&mut bridge, "created the stream EVENTS for in.*.*.log");
    bridge.wait_until_it_listens();

    UnixStream::connect(place.socket()).unwrap().write_all(b"\x05hello").unwrap();
    place.wait_for_count(1);
    finish(place.writer("w", 2, &["8"]));
    let dumped = run_ok(&mut place.stream(&["dump"]), PATIENCE);
    let lines: Vec<&str> = dumped.lines().collect();
    let subject = format!("in.payments.user-{uid}.log");
    assert_eq!(lines[0], format!("{subject} - hello"));
    let id = |line: &str| line.split(' ').nth(1).unwrap().rsplit_once('-').map(|(a, b)| (a.to_owned(), b.to_owned()));
    let (first, second) = (id(lines[1]).unwrap(), id(lines[2]).unwrap());
    assert_eq!(first.0, second.0);
    assert_eq!(first.0.len(), 32);
    assert!(first.0.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!((first.1.as_str(), second.1.as_str()), ("1", "2"));
    assert!(lines[2].starts_with(&subject) && lines[2].ends_with(" w 2 xxxx"), "{dumped}");
    stop(bridge);
}

/// A label may be several tokens: the stream that is made takes them all.
#[test]
fn a_label_may_have_dots() {
    let place = Place::new();
    let _server = place.server();
    let uid = fs::metadata(place.folder.path()).unwrap().uid();
    let label = format!("{uid}=shop.payments");
    let options = ["--label", &label, "--create-stream", STREAM];
    let mut bridge = place.start("bridge", &mut place.bridge_command(&options, "in.{uid}.{label}.log"));
    wait_until_told(&mut bridge, "created the stream EVENTS for in.*.>");
    bridge.wait_until_it_listens();
    finish(place.writer("w", 1, &["8"]));
    let dumped = run_ok(&mut place.stream(&["dump"]), PATIENCE);
    assert!(dumped.starts_with(&format!("in.{uid}.shop.payments.log ")), "{dumped}");
    stop(bridge);
}

#[test]
fn wrong_usage_is_told() {
    let place = Place::new();
    let told = |arguments: &[&str]| {
        let done = run(Command::new(bridge_program()).args(arguments), PATIENCE);
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {}", done.output);
        done.output
    };
    let socket = place.socket().to_str().unwrap().to_owned();
    assert!(told(&[]).contains("SOCKET and SUBJECT"));
    assert!(told(&[&socket, "events", "more"]).contains("more"));
    for subject in ["", "a..b", ".a", "a.", "a.*", "a.>", "a b", "{gid}"] {
        assert!(told(&[&socket, subject]).contains("no message can be published"), "{subject}");
    }
    assert!(told(&["--label", "1=a.*", &socket, "a.{label}"]).contains("with each label"));
    assert!(told(&["--label", "root=a", &socket, "a.{label}"]).contains("root"));
    assert!(told(&["--in-flight", "0", &socket, "a"]).contains("not a number in the range"));
    assert!(told(&["--tls-cert", "x", &socket, "a"]).contains("--tls-key"));
    assert!(told(&["--no-such-option", &socket, "a"]).contains("no-such-option"));
    assert!(run_ok(Command::new(bridge_program()).arg("--help"), PATIENCE).contains("Exit status"));
}

/// What `make install-nats` installs runs, and its unit starts that program.
#[test]
fn it_is_installed_and_removed() {
    let prefix = tempdir();
    let variables = [format!("PREFIX={}", prefix.path().display())];
    bridge_program(); // not built twice at the same time
    run_ok(&mut make("install-nats", &variables), PATIENCE);
    let (program, unit) =
        (prefix.path().join("bin/udsipc-nats"), prefix.path().join("lib/systemd/system/udsipc-nats.service"));
    let version = run_ok(Command::new(&program).arg("--version"), PATIENCE);
    assert!(version.starts_with(concat!("udsipc-nats ", env!("CARGO_PKG_VERSION"), ", libnats ")), "{version}");
    assert!(fs::read_to_string(&unit).unwrap().contains(&format!("\nExecStart={} ", program.display())));
    run_ok(&mut make("uninstall-nats", &variables), PATIENCE);
    assert!(!program.exists() && !unit.exists());
}
