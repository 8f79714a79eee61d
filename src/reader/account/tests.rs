use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use super::*;
use crate::sys::fork::tests::in_forked_child;
use crate::sys::ledger::{Handled, Slot as Mapped};

const NAME: WriterName = WriterName { id: WriterId([9; 16]), first_sequence: 5, dial: 1 };

fn pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    theirs.set_nonblocking(true).expect("a socket");
    (ours, theirs)
}

/// The next record, and the slot that it names.
fn receive(peer: &UnixStream) -> Option<(Record, Option<Mapped>)> {
    let mut bytes = [0; RECORD];
    let (count, fd) = socket::recv_with_descriptor(peer.as_fd(), &mut bytes).ok()?;
    assert_eq!(count, RECORD);
    let record = Record::decode(&bytes).expect("a record");
    let slot = match record {
        Record::Ledger { offset } => Some(Mapped::map(fd.expect("a descriptor").as_fd(), offset).expect("a slot")),
        _ => None,
    };
    Some((record, slot))
}

/// Fills the peer's receive queue, so that no record can be sent.
fn fill(ours: &UnixStream) {
    while socket::send(ours.as_fd(), &[0; 4096]).is_ok() {}
    while socket::send(ours.as_fd(), &[0]).is_ok() {}
}

#[test]
fn a_writer_is_told_where_its_slot_is_and_how_it_ended() {
    let (ledgers, (ours, theirs)) = (Ledgers::default(), pair());
    let mut account = Account::open(&ledgers, ours.as_fd(), NAME).expect("an account");
    assert_eq!(account.writer_id(), [9; 16]);
    let (_, slot) = receive(&theirs).expect("a record");
    let slot = slot.expect("a slot");
    assert_eq!(slot.read(), Handled { position: 0, end: 0 });
    account.advance(11, 6);
    assert_eq!(slot.read(), Handled { position: 11, end: 11 });
    account.close(ours.as_fd(), End::Idle);
    assert_eq!(receive(&theirs).expect("a record").0, Record::Final { position: 11, end: End::Idle });
    assert!(receive(&theirs).is_none());
}

#[test]
fn callbacks_are_noted_at_their_place_in_the_stream() {
    let (ledgers, (ours, theirs)) = (Ledgers::default(), pair());
    let mut account = Account::open(&ledgers, ours.as_fd(), NAME).expect("an account");
    let slot = receive(&theirs).expect("a record").1.expect("a slot");
    account.advance(100, 7);
    let mut peer = Peer { id: 1, fd: ours.as_fd(), writer: None, sequence: account.sequence() };
    let ring_requested = Cell::new(false);
    let notes = account.notes(&ring_requested);
    notes.begin(0, 10);
    assert_eq!((slot.read(), peer.sequence), (Handled { position: 100, end: 110 }, 7));
    notes.handed_out(&mut peer, 3);
    notes.failed(8);
    assert_eq!(slot.read(), Handled { position: 108, end: 108 });
    notes.begin(8, 20);
    assert_eq!((slot.read(), peer.sequence), (Handled { position: 108, end: 120 }, 10));
    account.advance(20, peer.sequence);
    assert_eq!(slot.read(), Handled { position: 120, end: 120 });
}

#[test]
fn a_writer_that_begins_with_the_last_number_breaks_nothing() {
    let (ledgers, (ours, _theirs)) = (Ledgers::default(), pair());
    let name = WriterName { first_sequence: u64::MAX, ..NAME };
    let account = Account::open(&ledgers, ours.as_fd(), name).expect("an account");
    let mut peer = Peer { id: 1, fd: ours.as_fd(), writer: None, sequence: account.sequence() };
    account.notes(&Cell::new(false)).handed_out(&mut peer, 2);
    assert_eq!(peer.sequence, 1);
}

#[test]
fn without_a_ledger_the_writer_is_told_so_and_told_the_end_too() {
    // In a child, since the number of ledgers is limited by the process.
    in_forked_child(|| {
        let (ledgers, (ours, theirs)) = (Ledgers::default(), pair());
        let taken: Vec<_> = (0..256).map(|uid| ledgers.take(1_000_000 + uid)).collect();
        let Some(mut account) = Account::open(&ledgers, ours.as_fd(), NAME) else { return false };
        drop(taken);
        let first = receive(&theirs).is_some_and(|(record, _)| record == Record::NoLedger);
        let sequence = account.sequence();
        account.notes(&Cell::new(false)).begin(0, 10);
        account.advance(10, sequence + 1);
        account.close(ours.as_fd(), End::Stop);
        let end = Record::Final { position: 10, end: End::Stop };
        first && sequence == 5 && receive(&theirs).is_some_and(|(record, _)| record == end)
    });
}

#[test]
fn a_writer_that_cannot_be_told_is_served_as_any_other() {
    let (ledgers, (ours, mut theirs)) = (Ledgers::default(), pair());
    fill(&ours);
    assert!(Account::open(&ledgers, ours.as_fd(), NAME).is_none());
    let mut all = vec![0; 1 << 20];
    let mut got = 0;
    while let Ok(count) = theirs.read(&mut all[got..]) {
        got += count;
    }
    assert!(all[..got].iter().all(|byte| *byte == 0), "no part of a record");
    let (ours, _theirs) = pair();
    let next = Account::open(&ledgers, ours.as_fd(), NAME).expect("an account");
    assert_eq!(next.slot.as_ref().expect("a slot").address().1, 0, "the slot that nobody was told of");
}

/// The offset of the slot that the next connection gets when this one has ended.
fn slot_after(end: impl FnOnce(&UnixStream, UnixStream, &mut Account)) -> u64 {
    let (ledgers, (ours, theirs)) = (Ledgers::default(), pair());
    let mut account = Account::open(&ledgers, ours.as_fd(), NAME).expect("an account");
    end(&ours, theirs, &mut account);
    drop((ours, account));
    let (ours, _theirs) = pair();
    let next = Account::open(&ledgers, ours.as_fd(), NAME).expect("an account");
    next.slot.as_ref().expect("a slot").address().1
}

#[test]
fn a_slot_is_used_again_unless_its_writer_lives_and_was_not_told() {
    let told = slot_after(|ours, _theirs, account| account.close(ours.as_fd(), End::Writer));
    let gone = slot_after(|ours, theirs, account| {
        drop(theirs);
        account.close(ours.as_fd(), End::Writer);
    });
    let gone_over_unread_bytes = slot_after(|ours, theirs, account| {
        (&*ours).write_all(b"x").expect("room");
        drop(theirs);
        account.close(ours.as_fd(), End::Writer);
    });
    assert_eq!((told, gone, gone_over_unread_bytes), (0, 0, 0));
    let not_told = slot_after(|ours, theirs, account| {
        fill(ours);
        account.close(ours.as_fd(), End::Writer);
        drop(theirs);
    });
    assert_eq!(not_told, 64);
    assert_eq!(slot_after(|_, _, _| {}), 64, "nobody has said how it ended");
}

#[test]
fn who_is_not_let_in_is_told_so() {
    let (ours, theirs) = pair();
    turn_away(ours.as_fd(), End::TooManyConnections);
    assert_eq!(receive(&theirs).expect("a record").0, Record::Final { position: 0, end: End::TooManyConnections });
}
