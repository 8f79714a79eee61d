//! A reader with real connections, against a model of what it must deliver, count, report and acknowledge.
//!
//! The input is a list of steps: connect, with a name or something like one, queue frames or garbage, write some of what is
//! queued, close or half close, let the reader work. The reader is driven through its descriptor, without threads, so each
//! input does the same every time.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use support::delivery::{self, Ledger, RECORD, Record};
use support::wire::{self, End};
use support::{Descriptors, choose};
use udsipc::{Context, EventSource, Reader, ReaderOptions};

/// One process may send what cannot be taken eight times a second before its next connection has to wait.
const MOST_CONNECTIONS: usize = 7;
/// Bytes that one input may have sent: a few frames that are too large for the reader's buffer.
const MOST_BYTES: usize = 1 << 20;
const MOST_STEPS: usize = 128;
const ENOUGH: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Scenario {
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

impl Scenario {
    pub fn arbitrary(first: u8, from: &mut Unstructured<'_>) -> Result<Scenario> {
        let (limit, flags, fails_below) = (limit(first, from)?, u8::arbitrary(from)?, u8::arbitrary(from)?);
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

    pub fn run(&self) {
        static ADDRESS: OnceLock<String> = OnceLock::new();
        let address = ADDRESS.get_or_init(|| format!("udsipc-fuzz-connection-{}", std::process::id()));
        let before = Descriptors::open();
        let mut bench = Bench::new(address, self);
        for step in &self.steps {
            bench.step(address, step);
        }
        bench.finish(self.end);
        assert_eq!(Descriptors::open(), before, "descriptors are left open");
    }
}

fn limit(number: u8, from: &mut Unstructured<'_>) -> Result<u64> {
    choose!(number; 10 << 20, u64::MAX, 0, u8::arbitrary(from)?.into(), u16::arbitrary(from)?.into())
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
    /// Connects as a writer that asks for acknowledgement, or nearly.
    ConnectAs(Form),
}

/// What becomes of a good name.
#[derive(Debug)]
enum Form {
    Good,
    /// The first message has one of the last numbers.
    Last(u8),
    Version(u8),
    Cut(u8),
    Longer(Vec<u8>),
    Changed {
        at: u8,
        to: u8,
    },
}

impl<'a> Arbitrary<'a> for Form {
    fn arbitrary(from: &mut Unstructured<'a>) -> Result<Form> {
        choose!(u8::arbitrary(from)?;
            Form::Good,
            Form::Last(u8::arbitrary(from)?),
            Form::Version(u8::arbitrary(from)?),
            Form::Cut(u8::arbitrary(from)?),
            Form::Longer(raw(from)?),
            Form::Changed { at: u8::arbitrary(from)?, to: u8::arbitrary(from)? },
        )
    }
}

impl Form {
    /// No two are the same, unless they are cut.
    fn name(&self) -> Vec<u8> {
        static DIAL: AtomicU64 = AtomicU64::new(0);
        let dial = u64::from(std::process::id()) << 32 | DIAL.fetch_add(1, Ordering::Relaxed);
        let first = if let Form::Last(back) = self { u64::MAX - u64::from(*back) } else { 1 };
        let version = if let Form::Version(version) = self { *version } else { 1 };
        let mut name = format!("udsipc/{version}/{dial:032x}/{first:016x}/{dial:x}").into_bytes();
        match self {
            Form::Good | Form::Last(_) | Form::Version(_) => {}
            Form::Cut(len) => name.truncate(usize::from(*len) % name.len()),
            Form::Longer(more) => name.extend(more),
            Form::Changed { at, to } => {
                let at = usize::from(*at) % name.len();
                name[at] = *to;
            }
        }
        name
    }
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
            Step::ConnectAs(Form::arbitrary(from)?),
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
    /// What the reader says to it.
    account: Arc<Mutex<Account>>,
}

/// What a reader says of one connection, to whoever has asked for it.
#[derive(Default)]
struct Account {
    /// The id and the first sequence number of a peer with a name of version 1.
    name: Option<([u8; 16], u64)>,
    /// None once it is closed.
    fd: Option<i32>,
    /// The reader has no room for it.
    is_refused: bool,
    /// The reader stops: who was not accepted yet is turned away.
    is_stopping: bool,
    /// The ledger, and where its slot lies in it.
    slot: Option<(Ledger, u64)>,
    last: Option<Record>,
    /// Where the frames with a payload lie that the kernel has taken, and where the last whole one of all ends.
    frames: Vec<(u64, u64)>,
    whole: u64,
    /// How many bytes the kernel has taken.
    sent: u64,
    position: u64,
    /// How many messages have come.
    messages: usize,
}

impl Account {
    /// Receives what is there.
    fn listen(&mut self) {
        let Some(fd) = self.fd else { return };
        loop {
            let mut bytes = [0; RECORD];
            match delivery::receive(fd, &mut bytes) {
                Ok((0, _)) => return,
                Ok((got, passed)) => {
                    assert!(self.name.is_some(), "{got} bytes to a peer that has not asked");
                    assert_eq!(got, RECORD, "a record in pieces");
                    self.hear(Record::decode(&bytes), passed);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The reader has left something unread: that is told once.
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            }
        }
    }

    fn hear(&mut self, record: Record, passed: Option<std::os::fd::OwnedFd>) {
        assert_eq!((record.magic, record.version), (delivery::MAGIC, 1));
        assert!(self.last.is_none(), "a record behind the final one");
        if record.kind == delivery::LEDGER {
            assert!(self.slot.is_none() && !self.is_refused, "one ledger too many");
            let ledger = Ledger::of_peer(&passed.expect("a ledger"), record.value);
            self.slot = Some((ledger, record.value));
            return;
        }
        assert!(record.kind == delivery::FINAL && passed.is_none(), "{record:?}");
        assert!(self.slot.is_some() || self.is_refused || self.is_stopping, "no ledger before the end");
        self.last = Some(record);
    }

    /// What the slot says: the position, and the end while a callback runs. None where it need not say anything: the peer
    /// has not asked, or does not hear any more.
    fn look(&mut self) -> Option<(u64, Option<u64>)> {
        self.listen();
        if self.last.is_some() || self.fd.is_none() {
            return None; // the slot may belong to another connection by now
        }
        let (ledger, offset) = self.slot.as_ref()?;
        let (position, end) = ledger.look(*offset);
        assert!(self.position <= position, "the position falls from {} to {position}", self.position);
        assert!(position <= self.sent, "position {position} of {} bytes", self.sent);
        self.position = position;
        Some((position, end))
    }

    /// A callback gets so many messages.
    fn begin(&mut self, peer: &udsipc::Peer<'_>, count: usize) {
        let first = self.messages;
        self.messages += count;
        let Some((id, first_number)) = self.name else {
            return assert_eq!((peer.writer_id(), peer.sequence()), (None, None));
        };
        let looked = self.look();
        assert!(self.fd.is_none() || looked.is_some(), "a message before the record, or behind the last");
        let Some((position, end)) = looked else { return };
        assert_eq!((peer.writer_id(), peer.sequence()), (Some(id), Some(first_number.wrapping_add(first as u64))));
        let behind = first.checked_sub(1).map_or(0, |before| self.frames[before].1);
        let begin = self.frames[first].0;
        assert!((behind..=begin).contains(&position), "position {position} at a message at {begin}");
        assert_eq!(end, Some(self.frames[first + count - 1].1), "the end of what is in the callback");
    }
}

impl Peer {
    /// The kernel has taken `count` bytes of what was queued. Behind a frame that the reader refuses, nothing counts.
    fn took(&mut self, count: usize, limit: u64, fails_below: u8) {
        self.rest.extend(self.queued.drain(..count));
        self.account.lock().expect("no panic").sent += count as u64;
        if self.end.is_refused() {
            return;
        }
        let (payloads, consumed, end) = wire::read(&self.rest, limit);
        let mut account = self.account.lock().expect("no panic");
        let mut begin = account.whole;
        for payload in payloads {
            let until = account.whole + (payload.as_ptr_range().end.addr() - self.rest.as_ptr().addr()) as u64;
            if !payload.is_empty() {
                self.expected.push(payload, fails_below);
                account.frames.push((begin, until));
            }
            begin = until;
        }
        account.whole += consumed as u64;
        drop(account);
        self.rest.drain(..consumed);
        self.end = end;
    }
}

struct Bench {
    reader: Reader,
    source: EventSource,
    seen: Arc<Mutex<Seen>>,
    limit: u64,
    fails_below: u8,
    max_connections: usize,
    peers: Vec<Peer>,
    /// By connection.
    accounts: Arc<Mutex<BTreeMap<u64, Arc<Mutex<Account>>>>>,
    refused: u64,
    bytes: usize,
}

impl Bench {
    fn new(address: &str, scenario: &Scenario) -> Bench {
        let (limit, max_connections) = (scenario.limit, scenario.max_connections);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let reports = Arc::clone(&seen);
        let options = ReaderOptions::new()
            .max_message_size(limit)
            .max_connections(max_connections as u32)
            .inactivity_timeout(Duration::MAX)
            .max_shared_memory(0) // the target `ring` has its peers
            .max_handler_threads(if scenario.one_thread { 1 } else { 64 })
            .on_error(move |_, context| {
                *reports.lock().expect("no panic").reports.entry(context.as_str()).or_default() += 1;
            });

        let (messages, fails_below, path) = (Arc::clone(&seen), scenario.fails_below, format!("@{address}"));
        let accounts = Arc::new(Mutex::new(BTreeMap::<u64, Arc<Mutex<Account>>>::new()));
        let known = Arc::clone(&accounts);
        let handed_back = {
            let known = Arc::clone(&known);
            move |connection: &udsipc::Peer<'_>, count: usize| {
                known.lock().expect("no panic")[&connection.connection_id()].lock().expect("no panic").messages -= count;
            }
        };
        let begin = move |connection: &udsipc::Peer<'_>, count| {
            let account = Arc::clone(&known.lock().expect("no panic")[&connection.connection_id()]);
            account.lock().expect("no panic").begin(connection, count);
        };
        let keep = move |message: &[u8], connection: &udsipc::Peer<'_>| {
            let mut seen = messages.lock().expect("no panic");
            !seen.messages.entry(connection.connection_id()).or_default().push(message, fails_below)
        };
        let reader = if scenario.batched {
            let each = move |batch: &[&[u8]], connection: &udsipc::Peer<'_>| {
                begin(connection, batch.len());
                let failed = batch.iter().position(|message| !keep(message, connection));
                // It is called again for what stands behind the one that failed.
                let left = failed.map_or(0, |failed| batch.len() - failed - 1);
                handed_back(connection, left);
                failed.unwrap_or(batch.len())
            };
            Reader::new_batched(path, each, options)
        } else {
            let each = move |message: &[u8], connection: &udsipc::Peer<'_>| {
                begin(connection, 1);
                if keep(message, connection) { Ok(()) } else { Err("it is one that fails") }
            };
            Reader::new(path, each, options)
        };
        let reader = reader.expect("nobody else has this address");
        let source = reader.event_source().expect("not forked");
        let peers = Vec::new();
        Bench { reader, source, seen, limit, fails_below, max_connections, peers, accounts, refused: 0, bytes: 0 }
    }

    fn step(&mut self, address: &str, step: &Step) {
        match step {
            Step::Connect => self.connect(address, None),
            Step::ConnectAs(form) => self.connect(address, Some(form.name())),
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
                    let mut account = peer.account.lock().expect("no panic");
                    account.look();
                    account.fd = None;
                    drop(account);
                    peer.stream = None;
                    peer.shut = true;
                }
            }
            Step::Turn => self.dispatch(),
            Step::Serve => self.serve(),
        }
    }

    /// One turn. Whatever it did, no position falls.
    fn dispatch(&self) {
        self.source.dispatch(Duration::ZERO).expect("it is not stopped");
        for peer in &self.peers {
            let mut account = peer.account.lock().expect("no panic");
            let busy = account.look().and_then(|(_, end)| end);
            assert_eq!(busy, None, "no callback runs");
        }
    }

    fn connect(&mut self, address: &str, name: Option<Vec<u8>>) {
        if self.peers.len() == MOST_CONNECTIONS {
            return;
        }
        if self.max_connections > 0 {
            self.serve(); // who is gone, is gone for the reader too
        }
        let (stream, is_named) = delivery::connect(name.as_deref(), address).expect("somebody listens");
        stream.set_nonblocking(true).expect("a socket");
        let full = self.max_connections > 0 && self.open() >= self.max_connections;
        self.refused += u64::from(full);
        let id = (!full).then(|| 1 + self.peers.iter().filter(|peer| peer.id.is_some()).count() as u64);
        let account = Account {
            name: name.filter(|_| is_named).and_then(|name| delivery::parse_name(&name)),
            fd: Some(stream.as_raw_fd()),
            is_refused: full,
            ..Account::default()
        };
        let account = Arc::new(Mutex::new(account));
        if let Some(id) = id {
            self.accounts.lock().expect("no panic").insert(id, Arc::clone(&account));
        }
        let (stream, queued, rest, expected) = (Some(stream), Vec::new(), Vec::new(), Messages::default());
        let end = End::Clean;
        let (shut, seen_to_end) = (false, false);
        self.peers.push(Peer { stream, queued, rest, end, expected, shut, id, seen_to_end, account });
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
        let mut entry = libc::pollfd { fd: self.source.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, for the length of the call.
        while unsafe { libc::poll(&raw mut entry, 1, 0) } > 0 {
            self.dispatch();
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
        self.peers.iter().for_each(|peer| self.compare_account(peer, live));
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

    /// What a peer with a name has been told. A peer without one is told nothing, as [`Account::listen`] sees.
    fn compare_account(&self, peer: &Peer, live: bool) {
        let mut account = peer.account.lock().expect("no panic");
        let looked = account.look();
        if account.name.is_none() || account.fd.is_none() {
            return;
        }
        let has_ended = peer.end.is_refused() || peer.seen_to_end || !live;
        let (reason, value, position) = match peer.end {
            _ if peer.id.is_none() => (delivery::TOO_MANY_CONNECTIONS, 0, 0),
            _ if !has_ended => return assert_eq!(looked, Some((account.whole, None)), "of all whole frames"),
            End::TooLarge(_) => (delivery::TOO_LARGE, self.limit, account.whole),
            End::Overflow => (delivery::MALFORMED, 0, account.whole),
            _ if peer.seen_to_end => (delivery::END, 0, account.whole),
            _ => (delivery::STOP, 0, account.whole),
        };
        let expected = Record { position, value, reason, ..Record::new(delivery::FINAL) };
        assert_eq!(account.last, Some(expected), "the last word to {:?}", peer.id);
    }

    /// The reader has ended without a chance to handle everything.
    fn compare_accounts_at_once(peers: &[Peer]) {
        for peer in peers {
            let mut account = peer.account.lock().expect("no panic");
            account.listen();
            if account.name.is_none() || account.fd.is_none() {
                continue;
            }
            let last = account.last.expect("a last word");
            let handled = account.messages.checked_sub(1).map_or(0, |before| account.frames[before].1);
            let next = account.frames.get(account.messages).map_or(account.whole, |next| next.0);
            let honest = handled.max(account.position)..=next;
            assert!(honest.contains(&last.position), "{last:?}, handled up to {handled}, next {next}");
        }
    }

    fn finish(mut self, end: Finish) {
        for peer in &self.peers {
            peer.account.lock().expect("no panic").is_stopping = true;
        }
        match end {
            Finish::Drop => {
                let Bench { reader, peers, .. } = self;
                drop(reader);
                Bench::compare_accounts_at_once(&peers);
            }
            Finish::Stop => {
                // What waits is received first, and a frame that the stop itself cuts is no error.
                self.dispatch();
                self.serve();
                for on in 0..MOST_CONNECTIONS as u8 {
                    self.write(on, usize::MAX);
                }
                self.reader.stop(ENOUGH).expect("enough time");
                self.compare(false);
                assert!(self.source.dispatch(Duration::ZERO).is_err());
            }
            Finish::StopAtOnce => {
                let _ = self.reader.stop(Duration::ZERO);
                let metrics = self.reader.metrics();
                assert_eq!(metrics.active_connections, 0);
                Bench::compare_accounts_at_once(&self.peers);
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
