//! A reader with a writer in a ring that does whatever the input says: frames, lengths and positions that cannot be, signals that
//! are not its own, bells, ends. Whatever comes, the reader goes on; and as long as the writer is honest, each message arrives.
#![no_main]

use std::io::Write as _;
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use support::delivery::{self, RECORD, Record};
use support::{Descriptors, choose};
use udsipc::{EventSource, Reader, ReaderOptions};

const RING: u16 = 4;
const REQUEST: [u8; 4] = [0x80, 0x80, 0x80, 0];
const SIZE: usize = 1 << 20;
const PAGE: usize = 4096;
/// The places of the signals in the first page.
const PUBLISHED: usize = 0;
const SWITCHED_AT: usize = 128;
const FLAGS: usize = 256;
const WAITS: usize = 384;

const MOST_STEPS: usize = 200;
/// No input gives the reader so much to do.
const MOST_TURNS: usize = 20_000;
const LIMIT: u64 = 100_000;

#[derive(Debug)]
struct Scenario {
    switches_first: bool,
    stops: bool,
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    /// Stores a frame where the next one belongs.
    Frame { len: u16, fill: u8 },
    /// The beginning of one.
    Announce { len: u32 },
    /// Bytes anywhere.
    Scribble { at: u32, bytes: Vec<u8> },
    /// What has been stored is there to be read.
    Publish,
    /// Anything is.
    PublishAt(u64),
    PublishNear(i8),
    Switch { off: i8 },
    Wait,
    Flags(u32),
    Bells(u8),
    Send(Vec<u8>),
    Shut,
    Close,
    Serve,
}

impl<'a> Arbitrary<'a> for Scenario {
    fn arbitrary(from: &mut Unstructured<'a>) -> Result<Scenario> {
        let flags = u8::arbitrary(from)?;
        let mut steps = Vec::new();
        while !from.is_empty() && steps.len() < MOST_STEPS {
            steps.push(Step::arbitrary(from)?);
        }
        Ok(Scenario { switches_first: flags & 1 == 0, stops: flags & 2 == 0, steps })
    }
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(from: &mut Unstructured<'a>) -> Result<Step> {
        choose!(u8::arbitrary(from)?;
            Step::Frame { len: u16::arbitrary(from)?, fill: u8::arbitrary(from)? },
            Step::Publish,
            Step::Serve,
            Step::Frame { len: u8::arbitrary(from)?.into(), fill: u8::arbitrary(from)? },
            Step::Bells(u8::arbitrary(from)?),
            Step::Wait,
            Step::Scribble { at: u32::arbitrary(from)?, bytes: some(from)? },
            Step::PublishNear(i8::arbitrary(from)?),
            Step::PublishAt(u64::arbitrary(from)?),
            Step::Announce { len: u32::arbitrary(from)? },
            Step::Switch { off: i8::arbitrary(from)? },
            Step::Flags(u32::arbitrary(from)?),
            Step::Send(some(from)?),
            Step::Shut,
            Step::Close,
        )
    }
}

fn some(from: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let count = usize::from(u8::arbitrary(from)? % 24).min(from.len());
    Ok(from.bytes(count)?.to_vec())
}

/// The ring as its writer has it.
struct Ring {
    memory: *mut u8,
    /// Where the next frame goes.
    head: u64,
    _fd: OwnedFd,
}

impl Ring {
    fn map(fd: OwnedFd) -> Ring {
        // SAFETY: a new mapping at an address that the kernel chooses.
        let memory = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(ptr::null_mut(), PAGE + SIZE, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0)
        };
        assert_ne!(memory, libc::MAP_FAILED);
        Ring { memory: memory.cast(), head: 0, _fd: fd }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        // SAFETY: within the first page, and aligned.
        unsafe { &*self.memory.add(at).cast() }
    }

    fn half(&self, at: usize) -> &AtomicU32 {
        // SAFETY: within the first page, and aligned.
        unsafe { &*self.memory.add(at).cast() }
    }

    fn store(&self, at: u64, bytes: &[u8]) {
        for (offset, byte) in bytes.iter().enumerate() {
            let place = (at as usize).wrapping_add(offset) % SIZE;
            // SAFETY: within the mapping.
            unsafe { self.memory.add(PAGE + place).write_volatile(*byte) };
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: mapped in `map`, and not used any more.
        unsafe { libc::munmap(self.memory.cast(), PAGE + SIZE) };
    }
}

struct Bench {
    reader: Reader,
    source: EventSource,
    received: Arc<Mutex<Vec<(usize, u8)>>>,
    stream: Option<UnixStream>,
    ring: Ring,
    /// Frames that are stored, and those that are published.
    stored: Vec<(usize, u8)>,
    published: usize,
    is_switched: bool,
    is_honest: bool,
}

impl Bench {
    fn new(address: &str) -> Bench {
        let received = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&received);
        let on_message = move |message: &[u8], _: &udsipc::Peer<'_>| {
            assert!(message.len() as u64 <= LIMIT);
            seen.lock().expect("no panic").push((message.len(), message[message.len() - 1]));
        };
        let options = ReaderOptions::new()
            .max_message_size(LIMIT)
            .inactivity_timeout(Duration::MAX)
            .max_shared_memory(SIZE as u64);
        let reader = Reader::new(format!("@{address}"), on_message, options).expect("a reader");
        let source = reader.event_source().expect("an event source");
        let (stream, ring) = connect(address, &source);
        Bench {
            reader,
            source,
            received,
            stream: Some(stream),
            ring,
            stored: Vec::new(),
            published: 0,
            is_switched: false,
            is_honest: true,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Frame { len, fill } => self.store_frame(usize::from(*len), *fill),
            Step::Announce { len } => {
                self.is_honest = false;
                let mut prefix = udsipc::fuzzing::encode_prefix(*len as usize);
                prefix.push(1);
                self.ring.store(self.ring.head, &prefix);
                self.ring.head += prefix.len() as u64;
            }
            Step::Scribble { at, bytes } => {
                self.is_honest = false;
                self.ring.store(u64::from(*at), bytes);
            }
            Step::Publish => {
                self.publish(self.ring.head);
                self.published = self.stored.len();
            }
            Step::PublishAt(to) => self.lie(*to),
            Step::PublishNear(off) => self.lie(self.ring.head.wrapping_add_signed((*off).into())),
            Step::Switch { off } => self.switch(*off),
            Step::Wait => self.ring.half(WAITS).store(1, Ordering::SeqCst),
            Step::Flags(flags) => {
                self.is_honest = false;
                self.ring.half(FLAGS).store(*flags, Ordering::SeqCst);
            }
            Step::Bells(count) => self.send(&vec![0; usize::from(*count)]),
            Step::Send(bytes) => {
                self.is_honest &= bytes.iter().all(|byte| *byte == 0);
                self.send(bytes);
            }
            // What is published behind the end of the connection is not read.
            Step::Shut => {
                self.stream.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Write)));
                self.serve();
                self.is_honest = false;
            }
            Step::Close => {
                self.stream = None;
                self.serve();
                self.is_honest = false;
            }
            Step::Serve => self.serve(),
        }
    }

    /// Where the reader has room for it.
    fn store_frame(&mut self, len: usize, fill: u8) {
        let mut frame = udsipc::fuzzing::encode_prefix(len);
        frame.resize(frame.len() + len, fill);
        let unread: usize = self.stored[self.received.lock().expect("no panic").len().min(self.stored.len())..]
            .iter()
            .map(|(len, _)| len + 10)
            .sum();
        if unread + frame.len() > SIZE || self.stream.is_none() {
            return;
        }
        self.ring.store(self.ring.head, &frame);
        self.ring.head += frame.len() as u64;
        if len > 0 {
            self.stored.push((len, fill));
        }
    }

    fn publish(&mut self, to: u64) {
        if !self.is_switched {
            self.switch(0);
        }
        self.ring.word(PUBLISHED).store(to, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.ring.half(FLAGS).fetch_and(!1, Ordering::SeqCst) & 1 > 0 {
            self.send(&[0]);
        }
    }

    fn lie(&mut self, to: u64) {
        self.is_honest = false;
        self.publish(to);
    }

    fn switch(&mut self, off: i8) {
        self.is_honest &= off == 0 && !self.is_switched;
        self.is_switched = true;
        let position = (REQUEST.len() as u64).wrapping_add_signed(off.into());
        self.ring.word(SWITCHED_AT).store(position, Ordering::Release);
    }

    fn send(&mut self, bytes: &[u8]) {
        // A bell before the switch would be an empty frame, and shift all positions.
        self.is_honest &= self.is_switched || bytes.is_empty();
        if let Some(stream) = &mut self.stream {
            let _ = stream.write(bytes);
        }
    }

    /// Lets the reader work for as long as it says that there is something to do.
    fn serve(&mut self) {
        let mut entry = libc::pollfd { fd: self.source.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut turns = 0;
        // SAFETY: one entry, for the length of the call.
        while unsafe { libc::poll(&raw mut entry, 1, 0) } > 0 {
            self.source.dispatch(Duration::ZERO).expect("a reader that is not stopped");
            turns += 1;
            assert!(turns < MOST_TURNS, "a busy loop");
        }
        if self.is_honest {
            let received = self.received.lock().expect("no panic");
            assert_eq!(*received, self.stored[..self.published], "what was published");
        }
    }

    fn finish(mut self, stops: bool) {
        self.serve();
        if stops {
            let _ = self.reader.stop(Duration::ZERO);
            assert_eq!(self.reader.metrics().active_connections, 0);
        }
    }
}

/// A connection with a name that has been granted a ring.
fn connect(address: &str, source: &EventSource) -> (UnixStream, Ring) {
    static DIAL: AtomicU64 = AtomicU64::new(1);
    let dial = u64::from(std::process::id()) << 32 | DIAL.fetch_add(1, Ordering::Relaxed);
    let name = format!("udsipc/1/{dial:032x}/{:016x}/{dial:x}", 1);
    let (mut stream, is_named) = delivery::connect(Some(name.as_bytes()), address).expect("a reader that listens");
    assert!(is_named);
    stream.set_nonblocking(true).expect("a socket");
    stream.write_all(&REQUEST).expect("room");
    for _ in 0..3 {
        source.dispatch(Duration::ZERO).expect("a reader");
    }
    loop {
        let mut bytes = [0; RECORD];
        let (got, passed) = delivery::receive(stream.as_raw_fd(), &mut bytes).expect("a record");
        assert_eq!(got, RECORD);
        let record = Record::decode(&bytes);
        if record.kind == RING {
            assert_eq!(record.value as usize, SIZE);
            return (stream, Ring::map(passed.expect("a ring")));
        }
    }
}

fuzz_target!(init: support::prepare(), |scenario: Scenario| {
    static ADDRESS: OnceLock<String> = OnceLock::new();
    let address = ADDRESS.get_or_init(|| format!("udsipc-fuzz-ring-{}", std::process::id()));
    let before = Descriptors::open();
    let mut bench = Bench::new(address);
    if scenario.switches_first {
        bench.switch(0);
    }
    for step in &scenario.steps {
        bench.step(step);
    }
    bench.finish(scenario.stops);
    assert_eq!(Descriptors::open(), before, "descriptors are left open");
});
