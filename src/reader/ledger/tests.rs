use std::collections::HashSet;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;

use super::*;
use crate::sys::descriptor::Descriptor;
use crate::sys::ledger::{Handled, Slot as Mapped};

fn take(ledgers: &Ledgers, uid: u32) -> Slot {
    ledgers.take(uid).expect("memory and a descriptor")
}

fn address(slot: &Slot) -> (i32, u64) {
    let (ledger, offset) = slot.address();
    (ledger.as_raw_fd(), offset)
}

fn ledgers_in(ledgers: &Ledgers) -> usize {
    ledgers.0.lock().0.len()
}

fn read(slot: &Slot) -> Handled {
    let (ledger, offset) = slot.address();
    Mapped::map(ledger, offset).expect("a slot").read()
}

#[test]
fn slots_are_distinct_and_a_full_ledger_is_followed_by_another() {
    let ledgers = Ledgers::default();
    let slots: Vec<_> = (0..SLOTS + 2).map(|_| take(&ledgers, 7)).collect();
    let distinct: HashSet<_> = slots.iter().map(address).collect();
    assert_eq!((distinct.len(), ledgers_in(&ledgers)), (SLOTS + 2, 2));
    for (at, slot) in slots.iter().enumerate() {
        slot.own().set_idle(at as u64);
    }
    for at in [0, 1, SLOTS - 1, SLOTS, SLOTS + 1] {
        assert_eq!(read(&slots[at]).position, at as u64);
    }
}

#[test]
fn a_slot_is_empty_whoever_had_it_before() {
    let ledgers = Ledgers::default();
    let first = take(&ledgers, 7);
    first.own().set_busy(100, 200);
    let before = address(&first);
    drop(first);
    let second = take(&ledgers, 7);
    assert_eq!(address(&second), before);
    assert_eq!(read(&second), Handled { position: 0, end: 0 });
}

#[test]
fn users_share_no_ledger() {
    let ledgers = Ledgers::default();
    let slots: Vec<_> = [1, 2, 1, 3, 2].iter().map(|uid| take(&ledgers, *uid)).collect();
    let files: Vec<_> = slots.iter().map(|slot| address(slot).0).collect();
    assert_eq!((files[0], files[1]), (files[2], files[4]));
    assert_eq!(files.iter().collect::<HashSet<_>>().len(), 3);
}

#[test]
fn an_empty_ledger_is_dropped_but_the_one_that_was_used_last() {
    let ledgers = Ledgers::default();
    let (one, two) = (take(&ledgers, 1), take(&ledgers, 2));
    drop(one);
    assert_eq!(ledgers_in(&ledgers), 1);
    let kept = address(&two);
    drop(two);
    assert_eq!(ledgers_in(&ledgers), 1, "for whoever comes next");
    let again = take(&ledgers, 2);
    assert_eq!(address(&again), kept);
    // The empty one of another user goes when the next slot is given back.
    let other = take(&ledgers, 1);
    drop(again);
    assert_eq!(ledgers_in(&ledgers), 1);
    drop(other);
    assert_eq!(ledgers_in(&ledgers), 1);
}

#[test]
fn a_slot_whose_peer_does_not_know_the_end_is_not_used_again() {
    let ledgers = Ledgers::default();
    let _other = take(&ledgers, 1);
    let mut slot = take(&ledgers, 1);
    slot.share();
    let leaked = address(&slot);
    drop(slot);
    let mut next = take(&ledgers, 1);
    assert_ne!(address(&next), leaked);
    next.share();
    next.unshare();
    let told = address(&next);
    drop(next);
    assert_eq!(address(&take(&ledgers, 1)), told);
}

#[test]
fn a_ledger_of_which_all_slots_are_leaked_is_dropped_too() {
    let ledgers = Ledgers::default();
    let mut slot = take(&ledgers, 1);
    slot.share();
    drop(slot);
    drop(take(&ledgers, 2));
    assert_eq!(ledgers_in(&ledgers), 1);
}

/// A slot goes to the next connection when the descriptor is closed and not before: its peer would see strange positions.
#[test]
fn a_slot_is_given_back_when_the_descriptor_is_closed() {
    use crate::delivery::name::{WriterId, WriterName};
    use crate::reader::account::Account;
    use crate::reader::connection::Connection;
    use std::os::fd::AsFd as _;

    let ledgers = Ledgers::default();
    let (ours, mut peer) = UnixStream::pair().expect("a pair");
    let name = WriterName { id: WriterId([0; 16]), first_sequence: 1, dial: 0 };
    let account = Account::open(&ledgers, ours.as_fd(), name);
    let connection = Connection::new(1, Descriptor::adopt(ours.into()).expect("a descriptor"), account, 0);
    assert_eq!(ledgers.0.lock().0[0].in_use, 1);
    let held = ledgers.0.lock(); // so that the drop below stops where it gives the slot back
    std::thread::scope(|scope| {
        scope.spawn(move || drop(connection));
        let mut record = [0; 64];
        assert_eq!(peer.read(&mut record).expect("a record"), 32);
        assert_eq!(peer.read(&mut record).expect("the end"), 0);
        assert_eq!(held.0[0].in_use, 1);
        drop(held);
    });
    assert_eq!(ledgers.0.lock().0[0].in_use, 0);
}

#[test]
fn without_a_ledger_there_is_an_error_and_nothing_is_kept() {
    use crate::sys::fork::tests::in_forked_child;

    in_forked_child(|| {
        // More than there may be in one process, which has some of other tests perhaps.
        let ledgers = Ledgers::default();
        let taken: Vec<_> = (0..300).map(|uid| ledgers.take(uid)).collect();
        let refused = taken.iter().filter(|slot| slot.is_err()).count();
        drop(taken);
        refused >= 300 - 256 && ledgers_in(&ledgers) <= 1
    });
}
