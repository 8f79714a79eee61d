//! A writer that asks for acknowledgement, with a reader that says and does whatever the input says.
//!
//! The input is a list of steps: write a message, let the writer work, accept, read, send records, whole, cut or none at all,
//! with a ledger or something else, store in the ledger, close. What must hold after each: every accepted message is sent,
//! abandoned or queued; no more is acknowledged than was sent; every connection carries the messages that its name announces,
//! in order and unchanged; a call takes no longer than its time. And at the end: what was never read is counted as lost or
//! abandoned, unless the reader has claimed to have handled it.
//!
//! The writer is driven by calls, without threads but those that close what the reader has passed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use support::delivery::{self, ALL_SEALS, Ledger, Record, SLOT};
use support::wire;
use support::{Descriptors, choose};
use udsipc::{Acknowledge, Error, EventSource, Writer, WriterMetrics, WriterOptions};

const MOST_STEPS: usize = 96;
const MOST_CONNECTIONS: usize = 32;
/// Payload that one input may write.
const MOST_BYTES: usize = 1 << 19;
const LEDGER: usize = 4096;
const SHORT: Duration = Duration::from_millis(1);
/// What a machine that is busy with other things may add to a promised time.
const SLACK: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Scenario {
    is_required: bool,
    redeliver: bool,
    has_small_buffer: bool,
    gives_up: bool,
    /// At the end a reader comes that reads everything, and acknowledges it or not.
    ends_well: bool,
    end_acknowledges: bool,
    stop: Duration,
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Write {
        len: usize,
    },
    /// Some small messages at once.
    Burst {
        count: u8,
    },
    Dispatch {
        times: u8,
    },
    Flush {
        millis: u8,
    },
    Accept,
    Read {
        on: u8,
        most: usize,
    },
    /// Sends a record, or the first bytes of one.
    Say {
        on: u8,
        record: Record,
        passed: Passed,
        len: usize,
    },
    /// Says that there is a ledger.
    Acknowledge {
        on: u8,
    },
    /// Says what it has handled, as it is.
    Handle {
        on: u8,
    },
    /// Says anything in the slot.
    Store {
        on: u8,
        done: u64,
        end: u64,
    },
    Garbage {
        on: u8,
        byte: u8,
        len: u16,
    },
    Shut {
        on: u8,
        reads: bool,
    },
    Close {
        on: u8,
    },
}

#[derive(Debug, Clone, Copy)]
enum Passed {
    Nothing,
    Ledger,
    /// A ledger with only these seals, and of this size.
    Other {
        seals: u8,
        len: u16,
    },
    Socket,
    File,
}

impl Scenario {
    pub fn arbitrary(from: &mut Unstructured<'_>) -> Result<Scenario> {
        let (flags, stop) = (u8::arbitrary(from)?, u8::arbitrary(from)?);
        let mut steps = Vec::new();
        while !from.is_empty() && steps.len() < MOST_STEPS {
            steps.push(Step::arbitrary(from)?);
        }
        Ok(Scenario {
            is_required: flags & 1 > 0,
            redeliver: flags & 2 == 0,
            has_small_buffer: flags & 4 > 0,
            gives_up: flags & 8 > 0,
            ends_well: flags & 16 == 0,
            end_acknowledges: flags & 32 == 0,
            stop: Duration::from_millis(u64::from(stop % 16)),
            steps,
        })
    }

    pub fn run(&self) {
        let before = Descriptors::open();
        let mut bench = Bench::new(self);
        for step in &self.steps {
            bench.step(step);
            bench.check();
        }
        bench.finish(self);
        drop(bench);
        // What was passed is closed by threads that nobody waits for.
        let patience = Instant::now() + SLACK;
        while Descriptors::open() != before {
            assert!(Instant::now() < patience, "descriptors are left open");
            thread::sleep(SHORT);
        }
    }
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(from: &mut Unstructured<'a>) -> Result<Step> {
        let (number, on) = (u8::arbitrary(from)?, u8::arbitrary(from)?);
        choose!(number;
            Step::Write { len: on.into() },
            Step::Dispatch { times: on % 8 },
            Step::Accept,
            Step::Acknowledge { on },
            Step::Read { on, most: usize::MAX },
            Step::Handle { on },
            Step::Close { on },
            Step::Say { on, record: record(from)?, passed: passed(from)?, len: delivery::RECORD },
            Step::Store { on, done: number_of(from)?, end: number_of(from)? },
            Step::Read { on, most: u8::arbitrary(from)?.into() },
            Step::Write { len: u16::arbitrary(from)?.into() },
            Step::Burst { count: on },
            Step::Garbage { on, byte: u8::arbitrary(from)?, len: u16::arbitrary(from)? % 10_000 },
            Step::Say { on, record: record(from)?, passed: passed(from)?, len: usize::from(u8::arbitrary(from)?) % 33 },
            Step::Shut { on, reads: bool::arbitrary(from)? },
            Step::Flush { millis: on % 4 },
        )
    }
}

/// Small numbers mostly, and some of any size.
fn number_of(from: &mut Unstructured<'_>) -> Result<u64> {
    choose!(u8::arbitrary(from)?;
        u8::arbitrary(from)?.into(),
        u16::arbitrary(from)?.into(),
        u64::arbitrary(from)?,
        u64::MAX - u64::from(u8::arbitrary(from)?),
    )
}

fn record(from: &mut Unstructured<'_>) -> Result<Record> {
    let (kind, reason) = (u8::arbitrary(from)?, u8::arbitrary(from)?);
    let mut record = Record::new(u16::from(kind % 6));
    record.reason = u32::from(reason % 10);
    record.position = number_of(from)?;
    record.value = number_of(from)?;
    match kind {
        250.. => record.magic ^= 1 << (kind - 250),
        240.. => record.version = u16::from(kind - 239),
        _ => {}
    }
    Ok(record)
}

fn passed(from: &mut Unstructured<'_>) -> Result<Passed> {
    choose!(u8::arbitrary(from)?;
        Passed::Nothing,
        Passed::Ledger,
        Passed::Socket,
        Passed::File,
        Passed::Other { seals: u8::arbitrary(from)?, len: u16::arbitrary(from)? },
    )
}

/// A connection as the reader has it.
struct Connection {
    /// None once it is closed.
    stream: Option<UnixStream>,
    first: u64,
    /// What has been read.
    bytes: Vec<u8>,
    /// Bytes of the whole frames among it, and how many of those are messages.
    whole: u64,
    messages: u64,
    /// What the reader has claimed to have handled.
    claimed: u64,
    /// It has said that there is a ledger, truly or not.
    has_offered: bool,
}

struct Bench {
    writer: Writer,
    source: EventSource,
    listener: UnixListener,
    ledger: Ledger,
    connections: Vec<Connection>,
    is_required: bool,
    /// The lengths of all that has been accepted.
    accepted: Vec<usize>,
    bytes: usize,
    /// By number, what has been read whole.
    seen: BTreeSet<u64>,
    /// The furthest that any slot has ever said.
    claimed: u64,
    before: WriterMetrics,
}

/// The message with this number.
fn message(number: u64, len: usize) -> &'static [u8] {
    support::pattern(number as usize % 1000 * 331, len)
}

/// Runs a call that promises to take so long at most.
fn within<T>(promised: Duration, call: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = call();
    let taken = began.elapsed();
    assert!(taken < promised + SLACK, "a call of {promised:?} took {taken:?}");
    result
}

impl Bench {
    fn new(scenario: &Scenario) -> Bench {
        static ADDRESS: OnceLock<String> = OnceLock::new();
        let address = ADDRESS.get_or_init(|| format!("udsipc-fuzz-acknowledge-{}", std::process::id()));
        let name = SocketAddr::from_abstract_name(address).expect("a name");
        let listener = UnixListener::bind_addr(&name).expect("nobody else has this address");
        listener.set_nonblocking(true).expect("a socket");
        let options = WriterOptions::new()
            .write_timeout(SHORT)
            .max_backoff(SHORT)
            .linger(Duration::ZERO)
            .redeliver(scenario.redeliver)
            .write_buffer_size(if scenario.has_small_buffer { 4096 } else { 0 })
            .max_attempts(if scenario.gives_up { 2 } else { 0 })
            .acknowledge(if scenario.is_required { Acknowledge::Required } else { Acknowledge::IfPossible });
        let writer = Writer::new(format!("@{address}"), options).expect("a writer");
        Bench {
            source: writer.event_source().expect("descriptors"),
            writer,
            listener,
            ledger: Ledger::create(LEDGER, ALL_SEALS).expect("a memfd"),
            connections: Vec::new(),
            is_required: scenario.is_required,
            accepted: Vec::new(),
            bytes: 0,
            seen: BTreeSet::new(),
            claimed: 0,
            before: WriterMetrics::default(),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write { len } => self.write(*len),
            Step::Burst { count } => (0..*count).for_each(|len| self.write(usize::from(len % 3))),
            Step::Dispatch { times } => (0..=*times).for_each(|_| self.dispatch(Duration::ZERO)),
            Step::Flush { millis } => self.flush(Duration::from_millis((*millis).into())),
            Step::Accept => {
                self.accept();
            }
            Step::Read { on, most } => self.read(self.at(*on), *most),
            Step::Say { on, record, passed, len } => self.say(self.at(*on), record, *passed, *len),
            Step::Acknowledge { on } => self.acknowledge(self.at(*on)),
            Step::Handle { on } => self.handle(self.at(*on)),
            Step::Store { on, done, end } => self.store(self.at(*on), *done, *end),
            Step::Garbage { on, byte, len } => {
                // A peer that has closed, or does not read, gets nothing.
                if let Some(stream) = self.stream(self.at(*on)) {
                    let _ = delivery::send(stream.as_fd(), &vec![*byte; usize::from(*len)], None);
                }
            }
            Step::Shut { on, reads } => {
                if let Some(stream) = self.stream(self.at(*on)) {
                    let _ = stream.shutdown(if *reads { Shutdown::Read } else { Shutdown::Write });
                }
            }
            Step::Close { on } => {
                if let Some(connection) = self.at(*on).and_then(|at| self.connections.get_mut(at)) {
                    connection.stream = None;
                }
            }
        }
    }

    /// The latest connections have the lowest numbers.
    fn at(&self, on: u8) -> Option<usize> {
        let count = self.connections.len();
        (count > 0).then(|| count - 1 - usize::from(on) % count)
    }

    fn stream(&self, at: Option<usize>) -> Option<&UnixStream> {
        self.connections[at?].stream.as_ref()
    }

    fn write(&mut self, len: usize) {
        if len > 0 && self.bytes + len <= MOST_BYTES {
            let number = self.accepted.len() as u64 + 1;
            self.writer.write(message(number, len)).expect("room");
            self.accepted.push(len);
            self.bytes += len;
        }
    }

    fn dispatch(&self, timeout: Duration) {
        within(timeout, || self.source.dispatch(timeout)).expect("it is not stopped");
    }

    fn flush(&mut self, timeout: Duration) {
        if within(timeout, || self.writer.flush(timeout)).is_ok() {
            self.check_losses();
        }
    }

    fn accept(&mut self) -> bool {
        let (stream, name) = match self.listener.accept() {
            Ok(accepted) if self.connections.len() < MOST_CONNECTIONS => accepted,
            Ok(_) => return true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                return false;
            }
        };
        stream.set_nonblocking(true).expect("a socket");
        let name = name.as_abstract_name().expect("a name");
        let (_, first) = delivery::parse_name(name).expect("a name of version 1");
        let last = self.connections.last().map_or(1, |last| last.first);
        assert!((last..=self.accepted.len() as u64 + 1).contains(&first), "it begins with {first} after {last}");
        self.connections.push(Connection {
            stream: Some(stream),
            first,
            bytes: Vec::new(),
            whole: 0,
            messages: 0,
            claimed: 0,
            has_offered: false,
        });
        true
    }

    fn read(&mut self, at: Option<usize>, most: usize) {
        let Some(connection) = at.and_then(|at| self.connections.get_mut(at)) else { return };
        let Some(stream) = &mut connection.stream else { return };
        let mut left = most;
        let mut piece = [0; 1 << 14];
        while left > 0 {
            let end = left.min(piece.len());
            match stream.read(&mut piece[..end]) {
                Ok(0) => break,
                Ok(got) => {
                    connection.bytes.extend_from_slice(&piece[..got]);
                    left -= got;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // It has been closed over records that the writer did not read.
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            }
        }
        let (payloads, whole, end) = wire::read(&connection.bytes, u64::MAX);
        assert!(!end.is_refused(), "{end:?}");
        for payload in payloads {
            if payload.is_empty() {
                assert!(self.is_required && connection.whole == 0 && connection.messages == 0, "an empty frame");
                connection.whole = 1;
                continue;
            }
            let number = connection.first + connection.messages;
            let len = self.accepted.get(number as usize - 1).copied();
            assert_eq!(len, Some(payload.len()), "the length of message {number}");
            assert!(payload == message(number, payload.len()), "the bytes of message {number}");
            connection.messages += 1;
            connection.whole += (wire::prefix(payload.len() as u64, 0).len() + payload.len()) as u64;
            self.seen.insert(number);
        }
        connection.bytes.drain(..whole);
        assert!(!self.is_required || connection.has_offered || connection.messages == 0, "a message without a ledger");
    }

    fn say(&mut self, at: Option<usize>, record: &Record, passed: Passed, len: usize) {
        let Some(at) = at else { return };
        let other = match passed {
            Passed::Nothing | Passed::Ledger => None,
            Passed::Other { seals, len } => {
                let ledger = Ledger::create(usize::from(len).max(1), i32::from(seals & 0x17));
                Some(ledger.expect("a memfd").fd().try_clone().expect("a descriptor"))
            }
            Passed::Socket => Some(OwnedFd::from(UnixStream::pair().expect("a pair").0)),
            Passed::File => Some(OwnedFd::from(File::open("/dev/null").expect("a device"))),
        };
        let fd =
            if let Passed::Ledger = passed { Some(self.ledger.fd().as_fd()) } else { other.as_ref().map(AsFd::as_fd) };
        let connection = &mut self.connections[at];
        let Some(stream) = &connection.stream else { return };
        connection.claimed = connection.claimed.max(record.position);
        connection.has_offered |= fd.is_some();
        let _ = delivery::send(stream.as_fd(), &record.encode()[..len], fd);
    }

    fn acknowledge(&mut self, at: Option<usize>) {
        let Some(at) = at else { return };
        let record = Record { value: at as u64 * SLOT, ..Record::new(delivery::LEDGER) };
        self.say(Some(at), &record, Passed::Ledger, delivery::RECORD);
    }

    fn handle(&mut self, at: Option<usize>) {
        if let Some(at) = at {
            let position = self.connections[at].whole;
            self.store(Some(at), position << 1, 0);
        }
    }

    fn store(&mut self, at: Option<usize>, done: u64, end: u64) {
        let Some(at) = at else { return };
        self.ledger.store(at as u64 * SLOT, done, end);
        self.claimed = self.claimed.max(done >> 1);
    }

    fn check(&mut self) {
        let (before, now) = (self.before, self.writer.metrics());
        assert_eq!(now.sent + now.abandoned + now.queue_depth, self.accepted.len() as u64, "{now:?}");
        assert!(now.acknowledged <= now.sent, "{now:?}");
        assert!(now.acknowledged + now.suspected_lost <= now.sent, "{now:?}");
        assert!(now.sent >= before.sent && now.acknowledged >= before.acknowledged, "{now:?} after {before:?}");
        assert!(now.suspected_lost >= before.suspected_lost && now.redelivered >= before.redelivered);
        self.before = now;
    }

    /// Every message that has left the writer has been read, is counted as given up or lost, or the reader has claimed it.
    fn check_losses(&self) {
        let mut unseen: BTreeSet<u64> = (1..=self.accepted.len() as u64).filter(|n| !self.seen.contains(n)).collect();
        for connection in &self.connections {
            let claimed = connection.claimed.max(self.claimed);
            let mut end = u64::from(self.is_required);
            for number in connection.first..=self.accepted.len() as u64 {
                let len = self.accepted[number as usize - 1];
                end += (wire::prefix(len as u64, 0).len() + len) as u64;
                if end > claimed {
                    break;
                }
                unseen.remove(&number);
            }
        }
        let metrics = self.writer.metrics();
        let told = metrics.suspected_lost + metrics.abandoned + metrics.queue_depth;
        assert!(unseen.len() as u64 <= told, "{unseen:?} have not come: {metrics:?}");
    }

    fn finish(&mut self, scenario: &Scenario) {
        if scenario.ends_well {
            self.deliver_all(scenario.end_acknowledges || self.is_required);
        }
        let stopped = within(scenario.stop, || self.writer.stop(scenario.stop));
        self.check();
        assert_eq!(self.before.queue_depth, 0, "{stopped:?}");
        while self.accept() {}
        (0..self.connections.len()).for_each(|at| self.read(Some(at), usize::MAX));
        self.check_losses();
        if let (Ok(()), true) = (stopped, self.connections.is_empty()) {
            assert!(self.accepted.is_empty(), "sent to nobody");
        }
    }

    /// Whoever came before has gone, and a good reader comes.
    fn deliver_all(&mut self, acknowledges: bool) {
        while self.accept() {}
        for at in 0..self.connections.len() {
            self.read(Some(at), usize::MAX);
            self.connections[at].stream = None;
        }
        let patience = Instant::now() + SLACK;
        loop {
            self.dispatch(SHORT);
            let known = self.connections.len();
            if known == MOST_CONNECTIONS {
                return;
            }
            if self.accept() && acknowledges {
                self.acknowledge(Some(known));
            }
            let last = self.connections.len().checked_sub(1);
            self.read(last, usize::MAX);
            if acknowledges {
                self.handle(last);
            }
            self.check();
            if self.before.queue_depth == 0 {
                match within(SHORT, || self.writer.flush(SHORT)) {
                    Ok(()) | Err(Error::Undelivered(_)) => return,
                    Err(error) => assert!(matches!(error, Error::Timeout(_)), "{error}"),
                }
            }
            assert!(Instant::now() < patience, "{:?} do not come to their end", self.before);
        }
    }
}
