use std::os::fd::{AsFd as _, AsRawFd as _};

use super::super::fork::tests::in_forked_child;
use super::*;

const SIZE: u64 = SMALLEST;

fn pair() -> (ReaderRing, WriterRing) {
    let reader = ReaderRing::create(SIZE).expect("a ring");
    let writer = WriterRing::map(reader.as_fd().expect("not given away"), SIZE).expect("the same ring");
    (reader, writer)
}

#[test]
fn what_the_writer_stores_the_reader_sees_in_one_piece_wherever_it_lies() {
    let (reader, writer) = pair();
    let frame: Vec<u8> = (0..=255).cycle().take(40_000).collect();
    for from in [0, 1, SIZE - 1, SIZE - 20_000, 7 * SIZE + 5, u64::MAX / 2] {
        writer.store(from, &frame);
        assert_eq!(reader.bytes(from, from + 40_000), frame, "from {from}");
        let mut copy = Vec::with_capacity(40_000);
        writer.load(from, from + 40_000, &mut copy);
        assert_eq!(copy, frame, "from {from}");
    }
}

#[test]
fn no_more_than_the_ring_is_looked_at() {
    let (reader, writer) = pair();
    assert_eq!(reader.bytes(5, u64::MAX).len() as u64, SIZE);
    assert_eq!(reader.bytes(5, 4), b"");
    let mut small = Vec::with_capacity(10);
    writer.load(0, 100, &mut small);
    assert!(small.len() >= 10 && small.len() <= small.capacity());
}

#[test]
fn the_first_publication_finds_the_reader_asleep_and_the_next_ones_find_it_awake() {
    let (reader, writer) = pair();
    let (ours, theirs) = (reader.signals(), writer.signals());
    assert_eq!((ours.switched_at(), ours.published()), (None, 0));
    theirs.switch(77);
    assert_eq!(theirs.publish(10), Notice::RingBell);
    assert_eq!(theirs.publish(20), Notice::Nothing, "the bell is rung once");
    assert_eq!((ours.switched_at(), ours.published()), (Some(77), 20));
    ours.sleep();
    ours.awake();
    assert_eq!(theirs.publish(30), Notice::Nothing);
    ours.sleep();
    assert_eq!(theirs.publish(40), Notice::RingBell);
    ours.close();
    assert!(theirs.is_closing());
    assert_eq!((theirs.publish(50), theirs.publish(60)), (Notice::Closing, Notice::Closing));
}

#[test]
fn a_writer_that_waits_is_told_once() {
    let (reader, writer) = pair();
    assert!(!reader.signals().take_waiting());
    writer.signals().wait();
    assert!(reader.signals().take_waiting());
    assert!(!reader.signals().take_waiting());
}

#[test]
fn nobody_can_change_the_size_and_the_reader_cannot_change_the_bytes() {
    let (reader, _) = pair();
    let fd = reader.as_fd().expect("not given away").as_raw_fd();
    for len in [0, 1 << 30] {
        // SAFETY: takes no pointers.
        assert_eq!(unsafe { libc::ftruncate(fd, len) }, -1);
    }
}

#[test]
fn what_is_no_ring_is_refused() {
    let (reader, _) = pair();
    for size in [0, 1, SIZE / 2, SIZE - 1, SIZE + 1, 2 * SIZE, 1 << 40, u64::MAX] {
        assert!(WriterRing::map(reader.as_fd().expect("not given away"), size).is_err(), "{size}");
    }
    let unsealed = memfd::create(c"test", SIZE + memfd::page_size() as u64).expect("a memfd");
    assert!(WriterRing::map(unsealed.as_fd(), SIZE).is_err());
    let (pipe, _end) = std::io::pipe().expect("a pipe");
    assert!(WriterRing::map(pipe.as_fd(), SIZE).is_err());
}

#[test]
fn an_empty_ring_gives_its_memory_back_and_takes_it_again() {
    let (reader, writer) = pair();
    writer.store(0, b"old");
    assert!(writer.discard());
    assert_eq!(reader.bytes(0, 3), [0; 3]);
    writer.restore().expect("memory");
    writer.store(0, b"new");
    assert_eq!(reader.bytes(0, 3), b"new");
}

#[test]
fn a_forked_child_of_the_reader_signals_to_nobody() {
    let (reader, writer) = pair();
    writer.signals().switch(0);
    writer.signals().publish(10);
    in_forked_child(|| {
        reader.signals().close();
        reader.signals().published() == 0
    });
    assert!(!writer.signals().is_closing());
}
