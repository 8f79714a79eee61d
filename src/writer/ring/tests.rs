use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::*;
use crate::sys::descriptor::Descriptor;
use crate::sys::ledger::Ledger;
use crate::sys::ring::{ReaderRing, SMALLEST};

const BEGINS: u64 = 1_234;

/// A ring with its reader: the memory, and the ledger.
struct Pair {
    ring: Box<Ring>,
    reader: ReaderRing,
    ledger: Ledger,
    _socket: Arc<Descriptor>,
}

fn pair() -> Pair {
    let reader = ReaderRing::create(SMALLEST).expect("a ring");
    let memory = WriterRing::map(reader.as_fd().expect("not given away"), SMALLEST).expect("the same");
    let ledger = Ledger::create().expect("a ledger");
    ledger.prepare(0).expect("a page");
    ledger.set_idle(0, BEGINS);
    let slot = Slot::map(ledger.as_fd(), 0).expect("a slot");
    let (ours, _theirs) = UnixStream::pair().expect("a pair");
    let socket = Arc::new(Descriptor::adopt(ours.into()).expect("a descriptor"));
    let bell = Bell::on(&socket);
    let ring = Ring::begin(memory, Arc::new(slot), bell, BEGINS).expect("memory");
    Pair { ring, reader, ledger, _socket: socket }
}

impl Pair {
    fn handled(&self, position: u64) {
        self.ledger.set_idle(0, BEGINS + position);
    }

    /// What a reader finds from `from` on.
    fn read(&self, from: u64) -> Vec<Vec<u8>> {
        messages(self.reader.bytes(from, self.reader.signals().published()))
    }
}

fn messages(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut at, mut all) = (0, Vec::new());
    while let frame::Frame::Whole { start, end } = frame::decode(&bytes[at..], u64::MAX) {
        all.push(bytes[at + start..at + end].to_vec());
        at += end;
    }
    assert_eq!(at, bytes.len(), "whole frames");
    all
}

fn message(number: u64, len: usize) -> Vec<u8> {
    let mut message = number.to_ne_bytes().to_vec();
    message.resize(len.max(1), number as u8);
    message
}

#[test]
fn the_first_message_switches_and_rings_and_the_next_ones_go_quietly() {
    let mut pair = pair();
    assert_eq!(pair.reader.signals().switched_at(), Some(BEGINS));
    assert!(matches!(pair.ring.push(b"one"), Some(Published::Ring(_))));
    assert!(matches!(pair.ring.push(b"two"), Some(Published::Quietly)));
    assert_eq!(pair.read(0), [b"one", b"two"]);
    assert_eq!((pair.ring.unhandled(), pair.ring.messages()), (2, 2));
}

#[test]
fn a_full_ring_takes_nothing_before_the_reader_has_handled_something() {
    let mut pair = pair();
    let message = [7; 1000];
    let count = std::iter::from_fn(|| pair.ring.push(&message)).count() as u64;
    assert_eq!(count, (SMALLEST - MAX_PREFIX as u64 - 1000) / 1002 + 1);
    assert!(pair.ring.push(b"x").is_some(), "a small one fits still");
    assert!(pair.ring.push(&message).is_none());
    pair.handled(2 * 1002);
    assert!(pair.ring.push(&message).is_some());
    assert_eq!((pair.ring.unhandled(), pair.ring.take_handled(), pair.ring.take_handled()), (count, 2, 0));
}

#[test]
fn what_is_handled_is_counted_by_whole_frames() {
    let mut pair = pair();
    for number in 0..100 {
        assert!(pair.ring.push(&message(number, 99)).is_some());
    }
    for (position, handled) in [(99, 0), (100, 1), (5 * 100 + 50, 4), (100 * 100, 95), (u64::MAX / 2, 0), (0, 0)] {
        pair.handled(position);
        pair.ring.release();
        assert_eq!(pair.ring.take_handled(), handled, "{position}");
    }
    assert_eq!(pair.ring.unhandled(), 0);
}

#[test]
fn at_the_end_the_rest_is_a_batch_that_counts_as_sent() {
    let mut pair = pair();
    for number in 0..50 {
        assert!(pair.ring.push(&message(number, 300)).is_some());
    }
    pair.handled(20 * 302);
    pair.ring.release();
    assert_eq!(pair.ring.rest_span(), (BEGINS + 20 * 302, BEGINS + 50 * 302));
    let rest = pair.ring.into_rest().expect("as it was").expect("not empty");
    assert_eq!((rest.messages, rest.payload), (30, 30 * 300));
    assert_eq!(rest.counted, Count { messages: 30, bytes: 30 * 300 });
    assert_eq!(messages(&rest.bytes), (20..50).map(|number| message(number, 300)).collect::<Vec<_>>());
}

#[test]
fn behind_the_end_of_the_connection_the_slot_is_somebody_elses() {
    let mut pair = pair();
    assert!(pair.ring.push(b"one").is_some());
    pair.reader.signals().close();
    assert!(matches!(pair.ring.push(b"two"), Some(Published::WhileClosing)));
    pair.handled(1 << 30);
    pair.ring.release();
    assert_eq!(pair.ring.unhandled(), 2);
    assert_eq!(pair.ring.into_rest().expect("as it was").expect("both").messages, 2);
}

#[test]
fn what_a_reader_has_scribbled_over_is_not_sent_again() {
    for (at, byte) in [(0, 0xff), (0, 5), (303, 0x80), (302 * 49, 0)] {
        let mut pair = pair();
        for number in 0..50 {
            assert!(pair.ring.push(&message(number, 300)).is_some());
        }
        let scribbler =
            WriterRing::map(pair.reader.as_fd().expect("not given away"), SMALLEST).expect("a second mapping");
        scribbler.store(at, &[byte]);
        let handled = pair.ring.take_handled();
        assert_eq!((handled, pair.ring.into_rest().expect_err("changed")), (0, 50), "{byte} at {at}");
    }
}

#[test]
fn a_large_message_is_stored_without_a_lock_and_nothing_goes_past_it() {
    let mut pair = pair();
    assert!(pair.ring.reserve(SMALLEST as usize - MAX_PREFIX + 1).is_none(), "too long");
    let large = vec![3; SMALLEST as usize - MAX_PREFIX - 100];
    let reservation = pair.ring.reserve(large.len()).expect("room");
    assert!(pair.ring.push(b"later").is_none() && pair.ring.reserve(1).is_none());
    let bytes = reservation.fill(&large);
    assert!(pair.read(0).is_empty(), "not before the end");
    assert!(pair.ring.end_reservation(&reservation));
    assert!(matches!(pair.ring.commit(bytes), Published::Ring(_)));
    assert!(pair.ring.push(b"later").is_some());
    assert_eq!(pair.read(0), [large, b"later".to_vec()]);
    let mut other = super::tests::pair();
    assert!(!other.ring.end_reservation(&reservation), "of another connection");
}

#[test]
fn an_empty_ring_rests_and_a_full_one_does_not() {
    let mut pair = pair();
    assert!(pair.ring.discard() && pair.ring.restore());
    assert!(pair.ring.push(b"one").is_some());
    assert!(!pair.ring.discard());
    pair.handled(4);
    pair.ring.release();
    assert!(pair.ring.discard() && pair.ring.restore());
    assert!(pair.ring.push(b"two").is_some());
    assert_eq!(pair.read(4), [b"two"]);
}

#[derive(Debug, Clone)]
enum Op {
    Push(usize),
    Frames(Vec<usize>),
    /// The reader handles so many bytes, or messages.
    Handle(u64),
    HandleMessages(usize),
}

fn any_op() -> impl Strategy<Value = Op> {
    let len = || prop_oneof![4 => 1..200_usize, 2 => 200..9_000_usize, 1 => 9_000..32_000_usize];
    prop_oneof![
        4 => len().prop_map(Op::Push),
        2 => prop::collection::vec(len(), 1..20).prop_map(Op::Frames),
        1 => (0..100_000_u64).prop_map(Op::Handle),
        2 => (0..50_usize).prop_map(Op::HandleMessages),
    ]
}

fn frames(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut all = Vec::new();
    for message in messages {
        let mut prefix = [0; MAX_PREFIX];
        let size = frame::encode_prefix(message.len(), &mut prefix);
        all.extend_from_slice(&prefix[..size]);
        all.extend_from_slice(message);
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every message is either handled, or in the rest, in order.
    #[test]
    fn nothing_is_lost_or_counted_twice(ops in prop::collection::vec(any_op(), 1..300)) {
        let mut pair = pair();
        let (mut all, mut ends, mut number) = (Vec::<Vec<u8>>::new(), Vec::<u64>::new(), 0);
        let (mut position, mut counted) = (0, 0);
        for op in ops {
            match op {
                Op::Push(len) => {
                    number += 1;
                    if pair.ring.push(&message(number, len)).is_some() {
                        all.push(message(number, len));
                    }
                }
                Op::Frames(lens) => {
                    let batch: Vec<Vec<u8>> = lens.iter().map(|len| { number += 1; message(number, *len) }).collect();
                    let (bytes, count, missing) = pair.ring.store_frames(&frames(&batch));
                    pair.ring.publish();
                    let stored = &batch[..count.messages as usize];
                    prop_assert_eq!(bytes, frames(stored).len());
                    prop_assert_eq!(missing.is_none(), stored.len() == batch.len());
                    all.extend_from_slice(stored);
                }
                Op::Handle(bytes) => {
                    position = (position + bytes).min(ends.last().copied().unwrap_or(0)).max(position);
                    pair.handled(position);
                    pair.ring.release();
                }
                Op::HandleMessages(count) => {
                    let done = ends.iter().take_while(|end| **end <= position).count();
                    position = ends.get(done + count).copied().unwrap_or(position);
                    pair.handled(position);
                }
            }
            let mut end = ends.last().copied().unwrap_or(0);
            for message in &all[ends.len()..] {
                end += frames(std::slice::from_ref(message)).len() as u64;
                ends.push(end);
            }
            counted += pair.ring.take_handled();
            prop_assert_eq!(counted + pair.ring.unhandled(), all.len() as u64);
        }
        pair.ring.release();
        counted += pair.ring.take_handled();
        let handled = ends.iter().take_while(|end| **end <= position).count();
        prop_assert_eq!(counted, handled as u64);
        let rest = pair.ring.into_rest().expect("as it was");
        prop_assert_eq!(rest.map_or(Vec::new(), |rest| messages(&rest.bytes)), &all[handled..]);
    }
}
