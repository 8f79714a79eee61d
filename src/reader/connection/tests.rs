//! Turns over a socket that exists in the test alone, with a clock that the test sets: every split of every stream
//! gives the same messages, and as long as one is not handled a byte of it, or behind it, is in the kernel.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use proptest::prelude::*;

use super::*;
use crate::delivery::name::{WriterId, WriterName};
use crate::delivery::record::{RECORD, Record};
use crate::frame::{self, MAX_PREFIX, READ_BUFFER};
use crate::reader::budget::Pace;
use crate::reader::drain::Drain;
use crate::reader::handler::Failure;
use crate::reader::ledger::Ledgers;
use crate::reader::read_buffers::ReadBuffers;
use crate::sys::fork::Token;
use crate::sys::ledger::{Handled, Slot};

const MS: Nanos = 1_000_000;
const LIMIT: u64 = 1 << 20;

/// The kernel's side of a stream.
#[derive(Default)]
struct Kernel {
    waiting: Mutex<VecDeque<u8>>,
    ended: AtomicBool,
    /// The peer has closed over unread bytes.
    reset: AtomicBool,
}

impl Kernel {
    fn copy(&self, into: &mut [u8]) -> io::Result<usize> {
        let waiting = self.waiting.lock();
        if waiting.is_empty() && self.reset.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if waiting.is_empty() && !self.ended.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = waiting.len().min(into.len());
        into.iter_mut().zip(waiting.iter()).for_each(|(to, from)| *to = *from);
        Ok(count)
    }
}

impl Source for &Kernel {
    fn readable(&self) -> io::Result<usize> {
        Ok(self.waiting.lock().len())
    }

    fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        self.copy(into)
    }

    fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.copy(into)?;
        self.waiting.lock().drain(..count);
        Ok(count)
    }

    fn receive_append(&self, to: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
        let mut bytes = vec![0; limit.min(to.capacity() - to.len())];
        let count = self.receive(&mut bytes)?;
        to.extend_from_slice(&bytes[..count]);
        Ok(count)
    }
}

/// A connection whose bytes come from a [`Kernel`], and what came of them.
struct Bench {
    kernel: Arc<Kernel>,
    connection: Connection,
    held: Leftover,
    account: Option<Account>,
    buffers: ReadBuffers,
    drain: Arc<Drain>,
    rings: Rings,
    clock: Clock,
    handler: Handler,
    messages: Arc<Mutex<Vec<Vec<u8>>>>,
    failures: AtomicUsize,
    peer: UnixStream,
    /// The slot of a writer with a name, and what it said in each callback.
    slot: Arc<Mutex<Option<Slot>>>,
    noted: Arc<Mutex<Vec<Noted>>>,
}

/// What a writer could see during one callback.
#[derive(Debug)]
struct Noted {
    handled: Handled,
    sequence: u64,
    /// The messages of the callback, counted from the first on the connection.
    messages: std::ops::Range<usize>,
}

/// The number of the first message of a writer with a name.
const FIRST: u64 = 1_000;

impl OnFailure for AtomicUsize {
    fn handler_failed(&self, _: Failure) {
        self.fetch_add(1, Ordering::SeqCst);
    }
}

impl Bench {
    /// Message number n takes as long as `time(n)` says, and fails if `fails(n)`. In batches, if so wanted.
    fn new(batched: bool, time: fn(usize) -> Nanos, fails: fn(usize) -> bool) -> Bench {
        let (ours, peer) = UnixStream::pair().expect("a pair");
        let now = Arc::new(AtomicU64::new(0));
        let clock = Clock { set: Some(Arc::clone(&now)), ..Clock::start() };
        let messages = Arc::new(Mutex::new(Vec::new()));
        let kernel = Arc::<Kernel>::default();
        let (kept, seen) = (Arc::clone(&messages), Arc::clone(&kernel));
        let (slot, noted) = (Arc::<Mutex<Option<Slot>>>::default(), Arc::<Mutex<Vec<Noted>>>::default());
        let (own_slot, own_noted, own_messages) = (Arc::clone(&slot), Arc::clone(&noted), Arc::clone(&messages));
        let note = move |count: usize, peer: &Peer<'_>| {
            let Some(slot) = &*own_slot.lock() else { return assert_eq!(peer.sequence(), None) };
            let first = own_messages.lock().len();
            let (handled, sequence) = (slot.read(), peer.sequence().expect("the writer has a name"));
            own_noted.lock().push(Noted { handled, sequence, messages: first..first + count });
        };
        let take = move |message: &[u8]| {
            assert!(!seen.waiting.lock().is_empty(), "in a callback, and the kernel says that all is handled");
            let mut kept = kept.lock();
            kept.push(message.to_vec());
            now.fetch_add(time(kept.len()), Ordering::SeqCst);
            !fails(kept.len())
        };
        let handler = if batched {
            Handler::Batch(Box::new(move |messages, peer| {
                assert!((1..=256).contains(&messages.len()));
                note(messages.len(), peer);
                messages.iter().position(|message| !take(message)).unwrap_or(messages.len())
            }))
        } else {
            Handler::Each(Box::new(move |message, peer| {
                note(1, peer);
                if take(message) { Ok(()) } else { Err("it is one that fails".into()) }
            }))
        };
        Bench {
            kernel,
            connection: Connection::new(1, Descriptor::adopt(ours.into()).expect("a descriptor"), None, 0),
            held: Leftover::default(),
            account: None,
            buffers: ReadBuffers::default(),
            drain: Arc::default(),
            rings: Rings::new(0, Token::of_this_process().expect("a token")),
            clock,
            handler,
            messages,
            failures: AtomicUsize::new(0),
            peer,
            slot,
            noted,
        }
    }

    /// The writer has a name.
    fn named(mut self) -> Bench {
        let name = WriterName { id: WriterId([3; 16]), first_sequence: FIRST, dial: 1 };
        self.account = Account::open(&Ledgers::default(), self.connection.fd.as_fd(), name);
        let mut bytes = [0; RECORD];
        let (_, ledger) = socket::recv_with_descriptor(self.peer.as_fd(), &mut bytes).expect("a record");
        let Some(Record::Ledger { offset }) = Record::decode(&bytes) else { panic!("no ledger") };
        *self.slot.lock() = Some(Slot::map(ledger.expect("a descriptor").as_fd(), offset).expect("a slot"));
        self
    }

    /// What the slot says between two turns.
    fn position(&self) -> u64 {
        let handled = self.slot.lock().as_ref().expect("a slot").read();
        assert!(!handled.is_busy());
        handled.position
    }

    /// Whether what was noted fits the stream of these messages.
    fn check_notes(&self, messages: &[Vec<u8>]) {
        let mut at = 0;
        let mut frames = Vec::new(); // those that are not empty: where they begin and end
        for message in messages {
            let begin = at;
            at += framed(message).len() as u64;
            if !message.is_empty() {
                frames.push((begin, at));
            }
        }
        for Noted { handled, sequence, messages } in &*self.noted.lock() {
            let before = messages.start.checked_sub(1).map_or(0, |last| frames[last].1);
            assert!((before..=frames[messages.start].0).contains(&handled.position), "{handled:?} {messages:?}");
            assert_eq!(handled.end, frames[messages.end - 1].1, "{handled:?} {messages:?}");
            assert_eq!(*sequence, FIRST + messages.start as u64);
        }
    }

    fn received(&self) -> Vec<Vec<u8>> {
        self.messages.lock().clone()
    }

    fn turn(&mut self) -> TurnEnd {
        let mut lent = self.buffers.take().expect("memory");
        let mut budget = Budget::new(&self.drain, self.clock.now(), None);
        *budget.pace() = Pace::seen_slow();
        let end = Turn {
            connection: &self.connection,
            source: &*self.kernel,
            frames: TurnInput::resume(&mut self.held, &mut lent.memory),
            delivery: Delivery {
                peer: Peer {
                    id: 1,
                    fd: self.connection.fd.as_fd(),
                    writer: self.account.as_ref().map(Account::writer_id),
                    sequence: 0,
                },
                handler: &self.handler,
                max_message_size: LIMIT,
                tally: &lent.tally,
                on_failure: &self.failures,
                clock: &self.clock,
            },
            account: self.account.as_mut(),
            rings: &self.rings,
            budget: &mut budget,
            spin: None,
            read: 0,
            interrupted: false,
        }
        .run();
        // The next turn may be lent another buffer.
        lent.memory.buffer.fill(0xff);
        self.buffers.put(lent);
        if matches!((&end, &self.held), (TurnEnd::More, Leftover::Unhandled { .. })) {
            assert!(has_unread(&&*self.kernel), "nobody would give it another turn");
        }
        end
    }

    /// More arrives, and the connection gets a turn for as long as it is readable.
    fn arrive(&mut self, bytes: &[u8]) -> TurnEnd {
        self.kernel.waiting.lock().extend(bytes);
        loop {
            match self.turn() {
                TurnEnd::More if has_unread(&&*self.kernel) => {}
                end => return end,
            }
        }
    }

    fn end_of_stream(&mut self) -> TurnEnd {
        self.kernel.ended.store(true, Ordering::SeqCst);
        self.turn()
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut prefix = [0; MAX_PREFIX];
    let size = frame::encode_prefix(message.len(), &mut prefix);
    [&prefix[..size], message].concat()
}

fn stream_of(messages: &[Vec<u8>]) -> Vec<u8> {
    messages.iter().flat_map(|message| framed(message)).collect()
}

/// Lengths of any kind, most of them small, some at the edges at which the reader changes its ways.
fn lengths() -> impl Strategy<Value = usize> {
    let edge = |edge: usize| edge - 20..edge + 20;
    prop_oneof![
        40 => 0_usize..200,
        6 => 0_usize..5_000,
        2 => edge(2 << 10),
        2 => edge(4 << 10),
        1 => edge(64 << 10),
        1 => edge(READ_BUFFER),
        1 => edge(2 * READ_BUFFER),
    ]
}

fn messages() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let message = (lengths(), any::<u8>()).prop_map(|(len, fill)| (0..len).map(|at| fill ^ at as u8).collect());
    proptest::collection::vec(message, 1..60)
}

/// How much arrives at a time.
fn pieces() -> impl Strategy<Value = Vec<usize>> {
    let piece = prop_oneof![4 => 1_usize..40, 2 => 1_usize..3_000, 2 => 1_usize..100_000, 1 => Just(usize::MAX)];
    proptest::collection::vec(piece, 1..20)
}

const PACES: [fn(usize) -> Nanos; 4] = [|_| 0, |_| 6 * MS, |number| if number % 7 == 0 { 5 * MS } else { 0 }, |_| MS];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_split_of_every_stream_gives_the_same_messages(
        messages in messages(),
        pieces in pieces(),
        pace in 0_usize..PACES.len(),
        batched in any::<bool>(),
        named in any::<bool>(),
        cut in 0_usize..300,
    ) {
        let mut bench = Bench::new(batched, PACES[pace], |number| number % 5 == 0);
        if named {
            bench = bench.named();
        }
        let stream = stream_of(&messages);
        let whole = stream.len();
        let stream = [stream, framed(&[7; 299])[..cut].to_vec()].concat();
        let mut rest = &stream[..];
        for piece in pieces.iter().cycle() {
            let (front, behind) = rest.split_at(rest.len().min(*piece));
            rest = behind;
            prop_assert!(matches!(bench.arrive(front), TurnEnd::More));
            if rest.is_empty() {
                break;
            }
        }
        if named {
            prop_assert_eq!(bench.position(), whole as u64);
            bench.check_notes(&messages);
        }
        let expected: Vec<_> = messages.into_iter().filter(|message| !message.is_empty()).collect();
        let failures = expected.len() / 5;
        let bytes: usize =
            expected.iter().enumerate().filter(|(at, _)| (at + 1) % 5 != 0).map(|(_, message)| message.len()).sum();
        prop_assert_eq!(bench.received(), expected.clone());
        prop_assert_eq!(bench.failures.load(Ordering::SeqCst), failures);
        prop_assert_eq!(bench.buffers.received(), ((expected.len() - failures) as u64, bytes as u64));
        let expected = match (stream.len() - whole) as u64 {
            0 => None,
            got @ 1 => Some((got, 0)),
            got => Some((got - 2, 299)),
        };
        match (bench.end_of_stream(), expected) {
            (TurnEnd::Closed, None) => {}
            (TurnEnd::Failed(Error::ConnectionClosed { got, expected }, context), Some(cut)) => {
                prop_assert_eq!((got, expected), cut);
                prop_assert_eq!(context == Context::Prefix, expected == 0);
            }
            (end, expected) => prop_assert!(false, "{end:?} instead of {expected:?}"),
        }
    }
}

/// The handler of the bench looks at the kernel in every callback; here with every size and pace.
#[test]
fn a_byte_is_in_the_kernel_during_every_callback_and_none_after_the_last() {
    let totals = |size: usize| if size == 1 { [1, 200, 2_047, 4_000] } else { [2_047, 2_048, 2_049, 600_000] };
    for pace in PACES {
        for (total, size) in [1, 100, 4_000, 270_000].map(|size| totals(size).map(|total| (total, size))).concat() {
            let mut bench = Bench::new(false, pace, |_| false);
            let count = usize::div_ceil(total, size);
            bench.kernel.waiting.lock().extend(&stream_of(&vec![vec![1; size]; count]));
            let mut turns = 0;
            while bench.received().len() < count {
                assert!(matches!(bench.turn(), TurnEnd::More));
                turns += 1;
                assert!(turns <= count + 5, "turns that bring nothing on");
            }
            assert!(bench.kernel.waiting.lock().is_empty(), "all is handled, and the kernel says so");
        }
    }
}

#[test]
fn a_slow_callback_ends_the_turn_after_its_time() {
    for (batched, each) in [(false, 5), (true, 60)] {
        let mut bench = Bench::new(batched, |_| MS, |_| false);
        bench.kernel.waiting.lock().extend(&stream_of(&vec![vec![1]; 60]));
        assert!(matches!(bench.turn(), TurnEnd::More));
        assert_eq!(bench.received().len(), each, "batched: {batched}");
    }
    // Many batches: one is enough.
    let mut bench = Bench::new(true, |_| MS, |_| false);
    bench.kernel.waiting.lock().extend(&stream_of(&vec![vec![1]; 30_000]));
    bench.turn();
    assert_eq!(bench.received().len(), 256);
}

#[test]
fn frames_that_are_left_over_are_copied_once() {
    let mut bench = Bench::new(false, |_| 5 * MS, |_| false);
    bench.kernel.waiting.lock().extend(&stream_of(&vec![vec![1]; 30_000]));
    bench.turn();
    let place = |held: &Leftover| match held {
        Leftover::Unhandled { bytes, start } => (bytes.as_ptr(), bytes.len() - start),
        other => panic!("{other:?}"),
    };
    let (address, left) = place(&bench.held);
    assert_eq!(left, 60_000 - 1 - 2);
    for turn in 1..=1_000 {
        bench.turn();
        assert_eq!(place(&bench.held), (address, left - 2 * turn), "handled where they lie");
        assert_eq!(bench.kernel.waiting.lock().len(), 1);
    }
}

#[test]
fn a_few_messages_that_are_not_handled_stay_in_the_kernel() {
    let mut bench = Bench::new(false, |_| 5 * MS, |_| false);
    bench.kernel.waiting.lock().extend(&stream_of(&vec![vec![1; 10]; 20]));
    bench.turn();
    assert_eq!(bench.kernel.waiting.lock().len(), 19 * 11);
    assert!(matches!(&bench.held, Leftover::Cut { bytes, .. } if bytes.capacity() == 0));
}

#[test]
fn a_stop_that_is_cut_short_ends_the_turn_before_the_next_callback() {
    for size in [1, 10_000, 300_000] {
        let mut bench = Bench::new(false, |_| 0, |_| false);
        bench.kernel.waiting.lock().extend(&stream_of(&vec![vec![1; size]; 3]));
        bench.drain.cancel();
        assert!(matches!(bench.turn(), TurnEnd::Cancelled { unread: true }));
        assert_eq!(bench.received().len(), 0);
    }
    // During a callback: what has been handled is taken.
    for (messages, unread) in [(1, false), (2, true), (5_000, true)] {
        let mut bench = Bench::new(false, |_| 0, |_| false);
        let (drain, calls) = (Arc::clone(&bench.drain), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&calls);
        bench.handler = Handler::Each(Box::new(move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
            drain.cancel();
            Ok(())
        }));
        bench.kernel.waiting.lock().extend(&stream_of(&vec![b"one".to_vec(); messages]));
        match bench.turn() {
            TurnEnd::Cancelled { unread: left } => assert_eq!(left, unread, "{messages}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn what_cannot_be_taken_is_refused_and_everything_before_it_is_handled() {
    let too_large = frame_prefix(LIMIT as usize + 1);
    for (bad, context) in [(too_large, Context::TooLarge), (vec![0xff; 10], Context::Prefix)] {
        let mut bench = Bench::new(false, |_| 0, |_| false);
        let stream = [framed(b"one"), framed(b"two"), bad].concat();
        match bench.arrive(&stream) {
            TurnEnd::Failed(_, at) => assert_eq!(at, context),
            other => panic!("{other:?}"),
        }
        assert_eq!(bench.received(), [b"one", b"two"]);
    }
}

fn frame_prefix(len: usize) -> Vec<u8> {
    let mut prefix = [0; MAX_PREFIX];
    let size = frame::encode_prefix(len, &mut prefix);
    prefix[..size].to_vec()
}

#[test]
fn an_end_that_the_reader_made_is_no_failure_but_a_message_that_stalls_is() {
    let cases: [(EndedFor, &[u8], bool); 5] = [
        (EndedFor::Stop, b"\x05ab", false),
        (EndedFor::Inactivity, b"\x85", false),
        (EndedFor::Inactivity, b"\x05ab", true),
        (EndedFor::Inactivity, b"\x05", true),
        (EndedFor::Inactivity, b"", false),
    ];
    for (why, bytes, fails) in cases {
        let mut bench = Bench::new(false, |_| 0, |_| false);
        bench.arrive(bytes);
        bench.connection.end(why);
        let end = bench.end_of_stream();
        match end {
            TurnEnd::Closed => assert!(!fails, "{why:?} {bytes:?}"),
            TurnEnd::Failed(Error::Timeout(_), Context::Payload) => assert!(fails, "{why:?} {bytes:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_connection_that_waits_holds_no_more_than_what_has_arrived() {
    for arrived in [0, 1, 3, 3_000, 5_000, 100_000, 300_000] {
        let mut bench = Bench::new(false, |_| 0, |_| false);
        let stream = framed(&vec![1; LIMIT as usize]);
        bench.arrive(&stream[..arrived]);
        let (held, capacity) = match &bench.held {
            Leftover::Cut { bytes, .. } => (bytes.len(), bytes.capacity()),
            Leftover::Own(_) => continue,
            other => panic!("{other:?}"),
        };
        assert_eq!(held, arrived);
        assert!(capacity <= (2 * arrived).max(8), "{capacity} for {arrived}");
    }
}

#[test]
fn a_bounded_turn_ends_with_a_position_from_which_the_next_goes_on() {
    for (batched, size) in [(false, 1), (true, 1), (false, 5_000), (false, 300_000)] {
        let mut bench = Bench::new(batched, |_| 5 * MS, |number| number % 2 == 0).named();
        let messages = vec![vec![1; size]; 300];
        let frame = framed(&messages[0]).len() as u64;
        bench.kernel.waiting.lock().extend(&stream_of(&messages));
        while bench.received().len() < messages.len() {
            assert!(matches!(bench.turn(), TurnEnd::More));
            assert_eq!(bench.position(), frame * bench.received().len() as u64);
        }
        bench.check_notes(&messages);
    }
}

#[test]
fn a_callback_that_panics_has_handled_its_message() {
    for (batched, callbacks) in [(false, &[0, 1, 2][..]), (true, &[0, 1])] {
        let mut bench = Bench::new(batched, |_| 0, |number| number == 1 && panic!("a bug of the host's")).named();
        let messages = vec![vec![1; 10]; 3];
        bench.arrive(&stream_of(&messages));
        bench.check_notes(&messages[..]);
        let noted = bench.noted.lock().iter().map(|noted| noted.sequence - FIRST).collect::<Vec<_>>();
        // A batch of which the callback has said nothing has failed at its first message.
        assert_eq!(noted, callbacks, "batched: {batched}");
        assert_eq!(bench.position(), 33);
    }
}

/// A callback is told by the error callback that it failed: its message is handled by then.
#[test]
fn while_an_error_is_reported_no_message_is_in_a_callback() {
    struct Report(Arc<Mutex<Option<Slot>>>, Mutex<Vec<Handled>>);
    impl OnFailure for Report {
        fn handler_failed(&self, _: Failure) {
            self.1.lock().push(self.0.lock().as_ref().expect("a slot").read());
        }
    }
    for batched in [false, true] {
        let mut bench = Bench::new(batched, |_| 0, |number| number == 2).named();
        let report = Report(Arc::clone(&bench.slot), Mutex::default());
        let bytes = stream_of(&vec![vec![1; 10]; 3]);
        let lent = bench.buffers.take().expect("memory");
        let delivery = Delivery {
            peer: Peer {
                id: 1,
                fd: bench.connection.fd.as_fd(),
                writer: bench.account.as_ref().map(Account::writer_id),
                sequence: 0,
            },
            handler: &bench.handler,
            max_message_size: LIMIT,
            tally: &lent.tally,
            on_failure: &report,
            clock: &bench.clock,
        };
        bench.kernel.waiting.lock().extend(&bytes);
        let mut budget = Budget::new(&bench.drain, 0, None);
        let delivered = delivery.deliver(&bytes, &mut budget, bench.account.as_mut());
        assert_eq!(delivered.used, 33);
        assert_eq!(*report.1.lock(), [Handled { position: 22, end: 22 }]);
    }
}

#[test]
fn a_writer_that_closes_over_a_record_ends_its_stream() {
    for (bytes, named, is_cut) in [(&b"\x03abc"[..], true, false), (b"\x03ab", true, true), (b"\x03abc", false, false)]
    {
        let mut bench = Bench::new(false, |_| 0, |_| false);
        if named {
            bench = bench.named();
        }
        bench.arrive(bytes);
        bench.kernel.reset.store(true, Ordering::SeqCst);
        let end = bench.turn();
        match end {
            TurnEnd::Closed => assert!(named && !is_cut),
            TurnEnd::Failed(Error::ConnectionClosed { got: 2, expected: 3 }, Context::Payload) => assert!(is_cut),
            TurnEnd::Failed(..) => assert!(!named),
            other => panic!("{other:?}"),
        }
    }
}
