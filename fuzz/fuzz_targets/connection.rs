//! A reader with real connections, against a model of what it must deliver, count and report.
//!
//! The input is a list of steps: connect, queue frames or garbage, write some of what is queued, close or half close, let
//! the reader work. The reader is driven through its descriptor, without threads, so each input does the same every time.
#![no_main]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use support::wire::{self, End};
use support::{Descriptors, choose};
use udsipc::{Connection, Context, HandlerFailed, Reader, ReaderOptions};

/// One process may send what cannot be taken eight times a second before its next connection has to wait.
const MOST_CONNECTIONS: usize = 7;
/// Bytes that one input may have sent: a few frames that are too large for the reader's buffer.
const MOST_BYTES: usize = 1 << 20;
const MOST_STEPS: usize = 128;
const ENOUGH: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Scenario {
    limit: u64,
    batched: bool,
    one_thread: bool,
    end: Finish,
    /// 0 is no limit.
    max_connections: usize,
    /// Messages that begin with a byte below this fail.
    fails_below: u8,
    steps: Vec<Step>,
}

impl<'a> Arbitrary<'a> for Scenario {
    fn arbitrary(from: &mut Unstructured<'a>) -> Result<Scenario> {
        let (limit, flags, fails_below) = (limit(from)?, u8::arbitrary(from)?, u8::arbitrary(from)?);
        let mut steps = Vec::new();
        while !from.is_empty() && steps.len() < MOST_STEPS {
            steps.push(Step::arbitrary(from)?);
        }
        Ok(Scenario {
            limit,
            batched: flags & 1 > 0,
            one_thread: flags & 2 > 0,
            end: [Finish::Stop, Finish::Drop, Finish::StopAtOnce, Finish::Stop][usize::from(flags >> 2) % 4],
            max_connections: usize::from(flags >> 4) % 4,
            fails_below,
            steps,
        })
    }
}

fn limit(from: &mut Unstructured<'_>) -> Result<u64> {
    choose!(u8::arbitrary(from)?; 10 << 20, u64::MAX, 0, u8::arbitrary(from)?.into(), u16::arbitrary(from)?.into())
}

#[derive(Debug)]
enum Step {
    Connect,
    /// Queues a whole frame.
    Frame {
        on: u8,
        len: usize,
        fill: u8,
        prefix: u8,
    },
    /// Queues any number of frames of one byte.
    Burst {
        on: u8,
        count: u16,
    },
    /// Queues any bytes.
    Raw {
        on: u8,
        bytes: Vec<u8>,
    },
    /// Queues the prefix of a frame that is never sent.
    Announce {
        on: u8,
        len: u64,
    },
    /// Writes so much of what is queued.
    Write {
        on: u8,
        most: u16,
    },
    /// Writes all of it, if the kernel takes it.
    WriteAll {
        on: u8,
    },
    /// Ends a connection for writing only.
    Shut {
        on: u8,
    },
    /// Closes it, with whatever is unread.
    Close {
        on: u8,
    },
    /// Lets the reader do one turn of work.
    Turn,
    /// Lets the reader do all there is to do.
    Serve,
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(from: &mut Unstructured<'a>) -> Result<Step> {
        let (number, on) = (u8::arbitrary(from)?, u8::arbitrary(from)?);
        choose!(number;
            Step::Connect,
            Step::Frame { on, len: len(from)?, fill: u8::arbitrary(from)?, prefix: u8::arbitrary(from)? },
            Step::WriteAll { on },
            Step::Serve,
            Step::Write { on, most: u16::arbitrary(from)? },
            Step::Write { on, most: u8::arbitrary(from)?.into() },
            Step::Turn,
            Step::Raw { on, bytes: raw(from)? },
            Step::Burst { on, count: u16::arbitrary(from)? },
            Step::Announce { on, len: u64::arbitrary(from)? >> (u8::arbitrary(from)? % 64) },
            Step::Shut { on },
            Step::Close { on },
        )
    }
}

fn raw(from: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let count = usize::from(u8::arbitrary(from)? % 16).min(from.len());
    Ok(from.bytes(count)?.to_vec())
}

/// Any small length, or one around those at which the reader changes its ways.
fn len(from: &mut Unstructured<'_>) -> Result<usize> {
    let around = |edge: usize, from: &mut Unstructured<'_>| Ok(edge.wrapping_add_signed(i8::arbitrary(from)?.into()));
    choose!(u8::arbitrary(from)?;
        usize::from(u8::arbitrary(from)?),
        usize::from(u16::arbitrary(from)?) % 4096,
        around(2 << 10, from)?,
        around(4 << 10, from)?,
        around(16 << 10, from)?,
        around(64 << 10, from)?,
        around(256 << 10, from)?,
        around(512 << 10, from)?,
    )
}

#[derive(Debug, Clone, Copy)]
enum Finish {
    Drop,
    Stop,
    StopAtOnce,
}

/// What the callbacks saw.
#[derive(Default)]
struct Seen {
    /// By connection.
    messages: BTreeMap<u64, Messages>,
    reports: BTreeMap<&'static str, u64>,
}

/// Messages in order: their bytes, and where each ends in them.
#[derive(Default, PartialEq)]
struct Messages {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// How many fail, and what the others have.
    failing: u64,
    received_bytes: u64,
}

impl Messages {
    /// Returns whether it fails.
    fn push(&mut self, message: &[u8], fails_below: u8) -> bool {
        self.bytes.extend_from_slice(message);
        self.ends.push(self.bytes.len());
        let fails = message[0] < fails_below;
        if fails {
            self.failing += 1;
        } else {
            self.received_bytes += message.len() as u64;
        }
        fails
    }
}

/// A connection as the fuzzer sees it.
struct Peer {
    /// None once it is closed.
    stream: Option<UnixStream>,
    queued: Vec<u8>,
    /// What the kernel has taken and is no whole frame yet, and what that is; and the frames before.
    rest: Vec<u8>,
    end: End,
    expected: Messages,
    shut: bool,
    /// Its number at the reader; none for one that is refused.
    id: Option<u64>,
    /// The reader has been let work since it ended, so it has seen that end.
    seen_to_end: bool,
}

impl Peer {
    /// The kernel has taken `count` bytes of what was queued. Behind a frame that the reader refuses, nothing counts.
    fn took(&mut self, count: usize, limit: u64, fails_below: u8) {
        self.rest.extend(self.queued.drain(..count));
        if self.end.is_refused() {
            return;
        }
        let (payloads, consumed, end) = wire::read(&self.rest, limit);
        for payload in payloads.into_iter().filter(|payload| !payload.is_empty()) {
            self.expected.push(payload, fails_below);
        }
        self.rest.drain(..consumed);
        self.end = end;
    }
}

struct Bench {
    reader: Reader,
    seen: Arc<Mutex<Seen>>,
    limit: u64,
    fails_below: u8,
    max_connections: usize,
    peers: Vec<Peer>,
    refused: u64,
    bytes: usize,
}

fuzz_target!(init: support::prepare(), |scenario: Scenario| {
    static ADDRESS: OnceLock<String> = OnceLock::new();
    let address = ADDRESS.get_or_init(|| format!("udsipc-fuzz-connection-{}", std::process::id()));
    let before = Descriptors::open();
    let mut bench = Bench::new(address, &scenario);
    for step in &scenario.steps {
        bench.step(address, step);
    }
    bench.finish(&scenario.end);
    assert_eq!(Descriptors::open(), before, "descriptors are left open");
});

impl Bench {
    fn new(address: &str, scenario: &Scenario) -> Bench {
        let (limit, max_connections) = (scenario.limit, scenario.max_connections);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let reports = Arc::clone(&seen);
        let mut options = ReaderOptions::new();
        let set = |options: &mut ReaderOptions| {
            options.set_max_message_size(limit)?.set_max_connections(max_connections as u32)?;
            options.set_inactivity_timeout(Duration::MAX)?;
            options.set_max_handler_threads(if scenario.one_thread { 1 } else { 64 })?;
            options.set_error_handler(Some(Box::new(move |_, context: Context| {
                *reports.lock().expect("no panic").reports.entry(context.as_str()).or_default() += 1;
            })))?;
            Ok::<(), udsipc::Error>(())
        };
        set(&mut options).expect("options in range");

        let (messages, fails_below, path) = (Arc::clone(&seen), scenario.fails_below, format!("@{address}"));
        let keep = move |message: &[u8], connection: &Connection<'_>| {
            let mut seen = messages.lock().expect("no panic");
            !seen.messages.entry(connection.id()).or_default().push(message, fails_below)
        };
        let reader = if scenario.batched {
            let each = move |batch: &[&[u8]], connection: &Connection<'_>| {
                // It is called again for what stands behind the one that failed.
                batch.iter().position(|message| !keep(message, connection)).unwrap_or(batch.len())
            };
            Reader::new_batched(path, each, options)
        } else {
            let each = move |message: &[u8], connection: &Connection<'_>| {
                if keep(message, connection) { Ok(()) } else { Err(HandlerFailed) }
            };
            Reader::new(path, each, options)
        };
        let reader = reader.expect("nobody else has this address");
        Bench { reader, seen, limit, fails_below, max_connections, peers: Vec::new(), refused: 0, bytes: 0 }
    }

    fn step(&mut self, address: &str, step: &Step) {
        match step {
            Step::Connect => self.connect(address),
            Step::Frame { on, len, fill, prefix } => {
                let len = *len;
                let mut bytes = wire::prefix(len as u64, usize::from(prefix % 11));
                bytes.extend_from_slice(&[*fill][..len.min(1)]);
                bytes.extend_from_slice(support::pattern(usize::from(*fill) * 16, len.saturating_sub(1)));
                self.queue(*on, bytes);
            }
            Step::Burst { on, count } => {
                self.queue(*on, (0..count % 600).flat_map(|number| [1, number as u8]).collect());
            }
            Step::Raw { on, bytes } => self.queue(*on, bytes.clone()),
            Step::Announce { on, len } => self.queue(*on, wire::prefix(*len, 0)),
            Step::Write { on, most } => self.write(*on, usize::from(*most)),
            Step::WriteAll { on } => self.write(*on, usize::MAX),
            Step::Shut { on } => {
                if let Some(peer) = self.peer(*on) {
                    // The reader may have closed it: then there is nothing left to shut.
                    let _ = peer.stream.as_ref().map(|stream| stream.shutdown(Shutdown::Write));
                    peer.shut = true;
                }
            }
            Step::Close { on } => {
                if let Some(peer) = self.peer(*on) {
                    peer.stream = None;
                    peer.shut = true;
                }
            }
            Step::Turn => self.reader.dispatch(Duration::ZERO).expect("it is not stopped"),
            Step::Serve => self.serve(),
        }
    }

    fn connect(&mut self, address: &str) {
        if self.peers.len() == MOST_CONNECTIONS {
            return;
        }
        if self.max_connections > 0 {
            self.serve(); // who is gone, is gone for the reader too
        }
        let address = SocketAddr::from_abstract_name(address).expect("a name");
        let stream = UnixStream::connect_addr(&address).expect("somebody listens");
        stream.set_nonblocking(true).expect("a socket");
        let full = self.max_connections > 0 && self.open() >= self.max_connections;
        self.refused += u64::from(full);
        let id = (!full).then(|| 1 + self.peers.iter().filter(|peer| peer.id.is_some()).count() as u64);
        let (stream, queued, rest, expected) = (Some(stream), Vec::new(), Vec::new(), Messages::default());
        let end = End::Clean;
        self.peers.push(Peer { stream, queued, rest, end, expected, shut: false, id, seen_to_end: false });
        if self.max_connections > 0 {
            self.serve();
        }
    }

    /// The latest connections have the lowest numbers.
    fn peer(&mut self, on: u8) -> Option<&mut Peer> {
        let count = self.peers.len();
        (count > 0).then(|| &mut self.peers[count - 1 - usize::from(on) % count])
    }

    fn queue(&mut self, on: u8, bytes: Vec<u8>) {
        if self.bytes + bytes.len() <= MOST_BYTES
            && let Some(peer) = self.peer(on)
        {
            peer.queued.extend_from_slice(&bytes);
            self.bytes += bytes.len();
        }
    }

    fn write(&mut self, on: u8, most: usize) {
        let (limit, fails_below) = (self.limit, self.fails_below);
        let Some(peer) = self.peer(on).filter(|peer| !peer.shut) else { return };
        let Some(stream) = &mut peer.stream else { return };
        let most = most.min(peer.queued.len());
        let mut done = 0;
        while done < most {
            match stream.write(&peer.queued[done..most]) {
                Ok(written) => done += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    let closed = matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
                    assert!(closed && (peer.id.is_none() || peer.end.is_refused()), "{error} with {:?}", peer.end);
                    break;
                }
            }
        }
        peer.took(done, limit, fails_below);
    }

    /// Lets the reader work for as long as it says that there is something to do, and looks at what it did.
    fn serve(&mut self) {
        let descriptor = self.reader.event_fd().expect("not forked").as_raw_fd();
        let mut entry = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, for the length of the call.
        while unsafe { libc::poll(&raw mut entry, 1, 0) } > 0 {
            self.reader.dispatch(Duration::ZERO).expect("it is not stopped");
        }
        for peer in &mut self.peers {
            peer.seen_to_end |= peer.shut;
        }
        self.compare(true);
    }

    /// Connections that the reader must hold open, as far as it has been let work.
    fn open(&self) -> usize {
        let held = |peer: &&Peer| peer.id.is_some() && !peer.seen_to_end && !peer.end.is_refused();
        self.peers.iter().filter(held).count()
    }

    /// The reader against the model. `live`: it has done all there is to do and is not stopped.
    fn compare(&self, live: bool) {
        let seen = self.seen.lock().expect("no panic");
        let (mut received, mut received_bytes, mut reports) = (0, 0, BTreeMap::<&str, u64>::new());
        for peer in &self.peers {
            let Some(id) = peer.id else { continue };
            let (expected, none) = (&peer.expected, Messages::default());
            let got = seen.messages.get(&id).unwrap_or(&none);
            let count = expected.ends.len();
            assert!(got == expected, "connection {id}: {} messages came, {count} were sent, or others", got.ends.len());
            received += count as u64 - expected.failing;
            received_bytes += expected.received_bytes;
            let faults = [(expected.failing, Some(Context::Handler)), (1, fault(peer.end, peer.seen_to_end))];
            for (times, context) in faults {
                if let Some(context) = context.filter(|_| times > 0) {
                    *reports.entry(context.as_str()).or_default() += times;
                }
            }
        }
        assert_eq!(seen.reports, reports, "what was reported, and what happened");
        let metrics = self.reader.metrics();
        assert_eq!(metrics.errors, reports.values().sum::<u64>());
        assert_eq!((metrics.received, metrics.received_bytes), (received, received_bytes));
        let accepted = self.peers.iter().filter(|peer| peer.id.is_some()).count();
        assert_eq!((metrics.connections, metrics.refused), (accepted as u64, self.refused));
        assert_eq!((metrics.accept_errors, metrics.idle_closed), (0, 0));
        assert_eq!(metrics.active_connections, if live { self.open() as u64 } else { 0 });
    }

    fn finish(mut self, end: &Finish) {
        match end {
            Finish::Drop => {}
            Finish::Stop => {
                // What waits is received first, and a frame that the stop itself cuts is no error.
                self.reader.dispatch(Duration::ZERO).expect("it is not stopped");
                self.serve();
                for on in 0..MOST_CONNECTIONS as u8 {
                    self.write(on, usize::MAX);
                }
                self.reader.stop(ENOUGH).expect("enough time");
                self.compare(false);
                assert!(self.reader.dispatch(Duration::ZERO).is_err());
            }
            Finish::StopAtOnce => {
                let _ = self.reader.stop(Duration::ZERO);
                let metrics = self.reader.metrics();
                assert_eq!(metrics.active_connections, 0);
                let seen = self.seen.lock().expect("no panic");
                for peer in &self.peers {
                    let Some(got) = peer.id.and_then(|id| seen.messages.get(&id)) else { continue };
                    let expected = &peer.expected;
                    assert!(expected.ends.starts_with(&got.ends) && expected.bytes.starts_with(&got.bytes));
                }
            }
        }
    }
}

/// What the end of a stream is reported as. A cut one is a fault once the reader has seen it end.
fn fault(end: End, seen_to_end: bool) -> Option<Context> {
    match end {
        End::Overflow => Some(Context::Prefix),
        End::TooLarge(_) => Some(Context::TooLarge),
        End::InPrefix if seen_to_end => Some(Context::Prefix),
        End::InPayload(_) if seen_to_end => Some(Context::Payload),
        _ => None,
    }
}
