//! With a reader that grants a ring: the memory is a real one, and the test plays the reader.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::delivery::record::{End, RING_REQUEST};
use crate::sys::descriptor::Descriptor;
use crate::sys::ledger::{Ledger, Slot};
use crate::sys::ring::{ReaderRing, SMALLEST, WriterRing};
use crate::writer::queue::Wake;
use crate::writer::transport::Bell;

const SIZE: u64 = SMALLEST;

/// The reader of one connection: what it has handled, in the order of the stream.
struct RingReader {
    wire: FakeConnection,
    ring: ReaderRing,
    ledger: Ledger,
    _socket: Arc<Descriptor>,
    handled: Vec<Vec<u8>>,
    position: u64,
}

impl RingReader {
    fn new() -> RingReader {
        let wire = FakeConnection::with(|wire| wire.records.push_back(RecordEvent::Ledger));
        let (ours, _) = UnixStream::pair().expect("a pair");
        let ledger = Ledger::create().expect("a ledger");
        ledger.prepare(0).expect("a page");
        RingReader {
            wire,
            ring: ReaderRing::create(SIZE).expect("a ring"),
            ledger,
            _socket: Arc::new(Descriptor::adopt(ours.into()).expect("a descriptor")),
            handled: Vec::new(),
            position: 0,
        }
    }

    fn grant(&self) {
        let mut wire = self.wire.0.borrow_mut();
        wire.records.push_back(RecordEvent::Ring);
        wire.ring = Some(GrantedRing {
            memory: WriterRing::map(self.ring.as_fd().expect("not given away"), SIZE).expect("the same"),
            slot: Arc::new(Slot::map(self.ledger.as_fd(), 0).expect("a slot")),
            bell: Bell::on(&self._socket),
        });
    }

    fn has_been_asked(&self) -> bool {
        count_requests(&self.wire) > 0
    }

    fn switched_at(&self) -> Option<u64> {
        self.ring.signals().switched_at()
    }

    /// Bytes of the stream that have not been handled: of the socket first, then of the ring.
    fn rest(&self) -> Vec<u8> {
        let wire = self.wire.0.borrow();
        let taken = wire.taken.len() as u64;
        let mut rest = wire.taken[self.position.min(taken) as usize..].to_vec();
        if let Some(begins) = self.switched_at() {
            assert_eq!(begins, taken, "nothing more on the socket");
            let from = self.position.max(begins) - begins;
            rest.extend_from_slice(self.ring.bytes(from, self.ring.signals().published()));
        }
        rest
    }

    /// Handles up to so many messages, and says so.
    fn handle(&mut self, most: usize) -> usize {
        if self.wire.0.borrow().hung_up {
            return 0; // it is dead
        }
        let rest = self.rest();
        let (mut at, mut count) = (0, 0);
        while count < most
            && let Frame::Whole { start, end } = frame::decode(&rest[at..], u64::MAX)
        {
            if start < end {
                self.handled.push(rest[at + start..at + end].to_vec());
                count += 1;
            }
            at += end;
        }
        self.position += at as u64;
        self.ledger.set_idle(0, self.position);
        let mut wire = self.wire.0.borrow_mut();
        wire.handled = Handled { position: self.position, end: self.position };
        wire.read = wire.taken.len().min(self.position as usize);
        count
    }

    fn dies(&self) {
        let mut wire = self.wire.0.borrow_mut();
        (wire.hung_up, wire.reset) = (true, wire.read < wire.taken.len());
    }

    /// Ends the connection as a reader does: handles what was published before, says how far, and closes.
    fn ends(&mut self, end: End) {
        self.ring.signals().close();
        self.handle(usize::MAX);
        let position = self.position;
        self.wire.0.borrow_mut().records.push_back(RecordEvent::Final { position, end });
        self.ledger.set_idle(0, 1 << 40); // the slot is another connection's from now on
        self.dies();
    }
}

/// Readers that come one after the other.
struct Run {
    it: Simulation,
    readers: Rc<RefCell<Vec<RingReader>>>,
    /// How many messages were accepted. Each begins with its number.
    accepted: u64,
}

fn count_requests(wire: &FakeConnection) -> usize {
    let wire = wire.0.borrow();
    let (mut at, mut count) = (0, 0);
    while let Frame::Whole { start, end } = frame::decode(&wire.taken[at..], u64::MAX) {
        count += usize::from(wire.taken[at..at + end] == RING_REQUEST && start == end);
        at += end;
    }
    count
}

fn message(number: u64, len: usize) -> Vec<u8> {
    let mut message = format!("{number:08}").into_bytes();
    message.resize(8 + len, b'.');
    message
}

impl Run {
    fn new() -> Run {
        let readers = Rc::<RefCell<Vec<RingReader>>>::default();
        let dialled = Rc::clone(&readers);
        let mut it = Simulation::new(move |_| {
            let reader = RingReader::new();
            let wire = reader.wire.clone();
            dialled.borrow_mut().push(reader);
            Ok(wire)
        });
        it.poke();
        Run { it, readers, accepted: 0 }
    }

    /// One whose connection has gone over to the ring, with all that was sent before handled.
    fn in_ring() -> Run {
        let mut run = Run::new();
        run.go_over();
        run
    }

    fn go_over(&mut self) {
        for _ in 0..500 {
            if self.reader(|reader| reader.switched_at().is_some()) {
                return;
            }
            for _ in 0..10 {
                self.write(30_000);
                self.it.poke();
                self.handle(usize::MAX);
            }
            self.reader(|reader| {
                if reader.has_been_asked() && reader.wire.0.borrow().ring.is_none() && reader.switched_at().is_none() {
                    reader.grant();
                }
            });
            self.it.run_for(ms(1));
        }
        panic!("the connection was busy, and has no ring");
    }

    fn reader<R>(&self, body: impl FnOnce(&mut RingReader) -> R) -> R {
        body(self.readers.borrow_mut().last_mut().expect("a reader"))
    }

    /// As a producer does.
    fn write(&mut self, len: usize) -> bool {
        let Ok(wake) = self.it.queue.push(&message(self.accepted, len)) else { return false };
        self.accepted += 1;
        if matches!(wake, Wake::Session) {
            let now = self.it.now;
            if !self.it.with_session(|session, context| session.send_at_once(now, context)) {
                self.it.poke();
            }
        }
        true
    }

    fn handle(&mut self, most: usize) -> usize {
        self.reader(|reader| reader.handle(most))
    }

    fn handle_all(&mut self) {
        for _ in 0..10_000 {
            self.it.run_for(ms(2));
            if self.handle(usize::MAX) == 0 && self.handled() == self.accepted {
                return;
            }
        }
        panic!("{} of {} have been handled", self.handled(), self.accepted);
    }

    fn handled(&self) -> u64 {
        self.readers.borrow().iter().map(|reader| reader.handled.len() as u64).sum()
    }

    /// Everything that was handled, each once and in order.
    fn check_order(&self) {
        let readers = self.readers.borrow();
        let all = readers.iter().flat_map(|reader| &reader.handled);
        for (number, message) in all.enumerate() {
            assert_eq!(message[..8], *format!("{number:08}").as_bytes(), "lost, twice, or out of order");
        }
    }

    fn in_ring_bytes(&self) -> u64 {
        self.it.queue.direct().bytes + self.it.count(|counters| &counters.ring_bytes)
    }
}

#[test]
fn a_busy_connection_goes_over_to_a_ring_and_producers_store_there_themselves() {
    let mut run = Run::in_ring();
    assert_eq!(run.in_ring_bytes(), 0);
    let before = run.it.queue.account().sent.messages;
    for _ in 0..100 {
        assert!(matches!(run.it.queue.push(&message(run.accepted, 10)), Ok(Wake::Nobody | Wake::Reader(_))));
        run.accepted += 1;
    }
    let account = run.it.queue.account();
    assert_eq!((account.sent.messages - before, account.depth.messages), (100, 0), "what lies in the ring is sent");
    assert_eq!((run.in_ring_bytes(), run.it.settled()), (1_800, run.accepted - 100));
    assert_eq!(run.handle(60), 60);
    assert_eq!(run.it.settled(), run.accepted - 40);
    run.handle_all();
    run.check_order();
    assert_eq!(run.it.count(|counters| &counters.acknowledged), run.accepted);
}

#[test]
fn a_quiet_connection_and_one_with_a_plain_reader_never_ask() {
    let mut run = Run::new();
    for _ in 0..2_000 {
        run.write(3_000);
        run.it.run_for(ms(2));
        run.handle(usize::MAX);
    }
    assert!(!run.reader(|reader| reader.has_been_asked()));
    let wire = FakeConnection::default();
    let mut it = Simulation::with_connections(std::slice::from_ref(&wire));
    for _ in 0..3_000 {
        it.write(&"x".repeat(3_000));
        it.poke();
        wire.read_all();
    }
    assert_eq!(count_requests(&wire), 0);
}

#[test]
fn a_reader_that_grants_nothing_is_asked_again_much_later_and_the_socket_goes_on() {
    let mut run = Run::new();
    let burst = |run: &mut Run| {
        for _ in 0..400 {
            run.write(30_000);
            run.it.poke();
            run.handle(usize::MAX);
            run.it.now += Duration::from_micros(10);
        }
        run.it.run_for(ms(300));
        run.handle(usize::MAX);
        run.reader(|reader| count_requests(&reader.wire))
    };
    assert_eq!((burst(&mut run), burst(&mut run)), (1, 1));
    run.it.run_for(s(60));
    assert_eq!(burst(&mut run), 2);
    run.handle_all();
    run.check_order();
}

#[test]
fn a_killed_reader_loses_nothing_wherever_it_had_come_in_the_ring() {
    for handled in 0..=9 {
        let mut run = Run::in_ring();
        for _ in 0..9 {
            run.write(50);
        }
        run.handle(handled);
        run.reader(|reader| reader.dies());
        run.it.hang_up();
        run.write(50);
        run.handle_all();
        run.check_order();
        assert_eq!(run.it.first_sequences, [1, run.accepted - 10 + handled as u64 + 1]);
        assert_eq!(run.it.count(|counters| &counters.redelivered), 9 - handled as u64);
        assert_eq!(run.it.suspected_lost(), 0);
    }
}

#[test]
fn a_reader_that_ends_in_order_says_where_whatever_the_slot_says_later() {
    for seen_by_producer in [false, true] {
        let mut run = Run::in_ring();
        for _ in 0..9 {
            run.write(50);
        }
        run.reader(|reader| reader.ends(End::Idle));
        if seen_by_producer {
            run.write(50); // into the ring, behind what was handled
            run.write(50);
        }
        run.it.hang_up();
        run.write(50);
        run.handle_all();
        run.check_order();
        assert_eq!(run.it.suspected_lost(), 0);
    }
}

#[test]
fn what_does_not_fit_waits_in_batches_and_order_is_kept() {
    let mut run = Run::in_ring();
    for _ in 0..200 {
        assert!(run.write(1_000));
    }
    assert!(run.it.queue.account().depth.messages > 100);
    assert!(run.it.wake_at.is_some());
    while run.handled() < run.accepted {
        run.handle(7);
        run.it.poke();
    }
    run.check_order();
    assert_eq!(run.it.queue.account().depth.messages, 0);
    run.write(1_000);
    assert_eq!(run.it.queue.account().depth.messages, 0, "into the ring again");
    run.handle_all();
    run.check_order();
}

#[test]
fn large_messages_go_into_the_ring_too_and_one_that_is_too_long_ends_it() {
    let mut run = Run::in_ring();
    let before = run.in_ring_bytes();
    let longest = SIZE as usize - 10 - 8;
    assert!(run.write(longest));
    assert_eq!(run.in_ring_bytes() - before, SIZE - 10);
    run.handle(1);
    run.write(20);
    assert!(run.write(longest + 10));
    run.write(20);
    assert_eq!(run.readers.borrow().len(), 1, "what lies before it is not handled yet");
    run.handle_all();
    run.check_order();
    assert_eq!(run.readers.borrow().len(), 2);
    assert!(run.it.reports.is_empty(), "{:?}", run.it.reports);
    for _ in 0..400 {
        run.write(30_000);
        run.it.poke();
        run.handle(usize::MAX);
    }
    run.it.run_for(s(30));
    run.handle_all();
    assert!(!run.reader(|reader| reader.has_been_asked()));
    run.check_order();
}

#[test]
fn a_stop_waits_until_the_ring_is_handled_and_says_what_was_not() {
    let mut run = Run::in_ring();
    for _ in 0..200 {
        run.write(1_000);
    }
    run.it.begin_stop(s(5));
    run.it.poke();
    while run.it.ending.is_none() {
        run.handle(3);
        run.it.run_for(ms(1));
    }
    assert_eq!(run.it.ending, Some(Ending::Clean));
    assert_eq!(run.handled(), run.accepted);
    run.check_order();

    let mut run = Run::in_ring();
    for _ in 0..9 {
        run.write(50);
    }
    run.handle(4);
    let (ending, took) = run.it.stop(ms(500));
    assert_eq!((ending, took), (Ending::TimedOut, ms(500)));
    assert_eq!((run.it.suspected_lost(), run.it.abandoned()), (5, 0));
}

#[test]
fn a_frozen_reader_is_told_of_and_left_when_another_one_has_its_path() {
    let mut run = Run::in_ring();
    for _ in 0..200 {
        run.write(1_000);
    }
    run.handle(10);
    run.it.is_replaced = true;
    let timeout = run.it.options.write_timeout;
    run.it.run_for(timeout * 3);
    assert!(run.it.contexts().contains(&Context::Write));
    assert_eq!(run.readers.borrow().len(), 2);
    run.handle_all();
    run.check_order();
}

#[test]
fn a_ring_that_nobody_uses_rests_and_is_used_again() {
    let mut run = Run::in_ring();
    run.write(100);
    run.handle_all();
    run.it.run_for(s(30));
    assert!(run.it.session.is_resting());
    for _ in 0..3 {
        run.write(100);
    }
    run.handle_all();
    run.check_order();
    assert_eq!(run.readers.borrow().len(), 1);
}

/// Each sends megabytes before it begins, which takes a sanitizer seconds.
const CASES: u32 = if cfg!(thread_sanitizer) { 5 } else { 60 };

#[derive(Debug, Clone)]
enum Op {
    Write(usize),
    WriteMany(usize, usize),
    Handle(usize),
    Die,
    End,
    Pass(u64),
    Poke,
    GoOver,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (1_usize..3_000).prop_map(Op::Write),
        1 => (20_000_usize..40_000).prop_map(Op::Write),
        3 => (1_usize..300, 2_usize..150).prop_map(|(len, count)| Op::WriteMany(len, count)),
        6 => (1_usize..60).prop_map(Op::Handle),
        1 => Just(Op::Die),
        1 => Just(Op::End),
        2 => (0_u64..3_000).prop_map(Op::Pass),
        3 => Just(Op::Poke),
        1 => Just(Op::GoOver),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_message_is_handled_once_and_in_order_whatever_happens(ops in proptest::collection::vec(op(), 1..80)) {
        let mut run = Run::in_ring();
        for op in ops {
            match op {
                Op::Write(len) => { run.write(len); }
                Op::WriteMany(len, count) => (0..count).for_each(|_| { run.write(len); }),
                Op::Handle(count) => { run.handle(count); }
                Op::Die => {
                    run.reader(|reader| reader.dies());
                    run.it.hang_up();
                    run.it.run_for(ms(1));
                }
                Op::End => {
                    run.reader(|reader| reader.ends(End::Stop));
                    run.write(9);
                    run.it.hang_up();
                    run.it.run_for(ms(1));
                }
                Op::Pass(time) => run.it.run_for(ms(time)),
                Op::Poke => run.it.poke(),
                Op::GoOver => run.go_over(),
            }
            run.check_order();
            prop_assert!(run.it.settled() <= run.accepted);
        }
        run.handle_all();
        run.check_order();
        prop_assert_eq!(run.it.suspected_lost(), 0);
        prop_assert_eq!(run.it.count(|counters| &counters.acknowledged) <= run.accepted, true);
    }
}
