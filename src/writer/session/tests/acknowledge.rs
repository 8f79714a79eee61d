//! With a reader that keeps a ledger: what it has handled is let go, and what it has not goes out again.

use super::*;
use crate::delivery::record::End;
use crate::frame::MAX_PREFIX;
use crate::options::Acknowledge;

mod required;
mod stopping;

impl FakeConnection {
    /// One whose reader keeps a ledger.
    fn acknowledging() -> FakeConnection {
        FakeConnection::with(|wire| wire.records.push_back(RecordEvent::Ledger))
    }

    fn handles(&self, position: u64, end: u64) {
        self.0.borrow_mut().handled = Handled { position, end };
    }

    /// The reader's process is gone, whatever it had read.
    fn dies(&self) {
        let mut wire = self.0.borrow_mut();
        (wire.hung_up, wire.reset) = (true, wire.read < wire.taken.len());
    }

    /// The reader closes, and says how far it has come.
    fn ends(&self, position: u64, end: End) {
        self.0.borrow_mut().records.push_back(RecordEvent::Final { position, end });
        self.dies();
    }
}

/// A connection on which three messages of three bytes, and so of four in the stream, have been sent, and a second one behind
/// it.
fn connected() -> (Simulation, FakeConnection, FakeConnection) {
    let (first, second) = (FakeConnection::acknowledging(), FakeConnection::acknowledging());
    let mut it = Simulation::with_connections(&[first.clone(), second.clone()]);
    ["one", "two", "six"].into_iter().for_each(|message| it.write(message));
    it.poke();
    first.read_all();
    (it, first, second)
}

impl Simulation {
    fn acknowledged(&self) -> u64 {
        self.count(|counters| &counters.acknowledged)
    }

    fn redelivered(&self) -> u64 {
        self.count(|counters| &counters.redelivered)
    }
}

#[test]
fn what_was_handled_is_acknowledged_and_let_go() {
    let (mut it, first, _) = connected();
    assert_eq!((it.settled(), it.acknowledged()), (0, 0), "read is not handled");
    first.handles(4, 8);
    assert_eq!((it.settled(), it.acknowledged()), (1, 1));
    first.handles(12, 12);
    assert_eq!((it.settled(), it.acknowledged()), (3, 3));
    assert_eq!(it.queue.account().sent.messages, 3);
}

#[test]
fn a_killed_reader_loses_nothing_wherever_it_had_come() {
    // The position, the end of what was in a callback, and what comes again.
    let cases: [(u64, u64, &[&str]); 6] = [
        (0, 0, &["one", "two", "six"]),
        (0, 4, &["one", "two", "six"]),
        (4, 4, &["two", "six"]),
        (4, 12, &["two", "six"]),
        (8, 12, &["six"]),
        (12, 12, &[]),
    ];
    for (position, end, again) in cases {
        let (mut it, first, second) = connected();
        first.handles(position, end);
        first.dies();
        it.hang_up();
        it.run_for(ms(100));
        assert_eq!(second.texts(), again, "at {position} to {end}");
        assert_eq!((it.suspected_lost(), it.redelivered()), (0, again.len() as u64));
        assert_eq!((it.queue.account().sent.messages, it.acknowledged()), (3, position / 4));
        assert_eq!(it.first_sequences, [1, 1 + position / 4]);
        second.handles(4 * again.len() as u64, 4 * again.len() as u64);
        assert_eq!((it.settled(), it.acknowledged()), (3, 3));
    }
}

#[test]
fn without_redelivery_what_was_in_the_callback_is_lost_and_nothing_else() {
    for (position, end, lost, again) in [(0, 4, 1, 2), (4, 12, 2, 0), (8, 8, 0, 1), (12, 12, 0, 0)] {
        let (mut it, first, second) = connected();
        it.options.redeliver = false;
        first.handles(position, end);
        first.dies();
        it.hang_up();
        it.run_for(ms(100));
        assert_eq!((it.suspected_lost(), second.texts().len()), (lost, again), "at {position} to {end}");
    }
}

#[test]
fn a_reader_that_ends_in_order_says_where_and_nothing_comes_twice() {
    for end in [End::Writer, End::Idle, End::Stop] {
        let (mut it, first, second) = connected();
        first.handles(4, 8); // what the slot says is older
        first.ends(8, end);
        it.hang_up();
        it.run_for(ms(100));
        assert_eq!((second.texts(), it.suspected_lost()), (vec!["six".to_owned()], 0));
        assert!(it.reports.is_empty(), "{:?}", it.reports);
    }
}

#[test]
fn a_frame_that_was_cut_goes_out_whole() {
    let (first, second) = (FakeConnection::acknowledging(), FakeConnection::acknowledging());
    first.0.borrow_mut().room = Some(6);
    let mut it = Simulation::with_connections(&[first.clone(), second.clone()]);
    ["one", "two"].into_iter().for_each(|message| it.write(message));
    it.poke();
    first.handles(4, 4);
    first.dies();
    it.hang_up();
    it.run_for(ms(100));
    assert_eq!((second.texts(), it.redelivered()), (vec!["two".to_owned()], 0));
    assert_eq!(it.queue.account().sent.messages, 2);
}

#[test]
fn a_reader_that_says_nothing_and_has_read_is_a_plain_one() {
    let (first, second) = (FakeConnection::default(), FakeConnection::default());
    let mut it = Simulation::with_connections(&[first.clone(), second.clone()]);
    it.write("one");
    it.poke();
    assert_eq!(it.session.cursor.kept_messages(), 1, "not known yet");
    first.read_all();
    it.write("two");
    it.run_for(ms(10));
    first.read_all();
    it.run_for(ms(10));
    assert_eq!(it.session.cursor.kept_messages(), 0);
    first.close_by_peer();
    it.hang_up();
    it.run_for(ms(100));
    assert!(second.texts().is_empty() && it.suspected_lost() == 0);
}

/// A plain reader, and one that dies before it has accepted the first connection: nobody can tell the two apart.
#[test]
fn a_reader_without_a_ledger_that_closes_over_unread_messages_may_have_lost_them() {
    for record in [Some(RecordEvent::NoLedger), None] {
        let first = FakeConnection::with(|wire| wire.records.extend(record));
        let second = FakeConnection::acknowledging();
        let mut it = Simulation::with_connections(&[first.clone(), second.clone()]);
        it.write("one");
        it.poke();
        first.dies();
        it.hang_up();
        it.run_for(ms(100));
        assert!(second.texts().is_empty() && it.suspected_lost() == 1);
    }
}

#[test]
fn a_reader_that_dies_before_it_accepts_loses_nothing_where_the_last_one_acknowledged() {
    let unaccepted = FakeConnection::default();
    let third = FakeConnection::acknowledging();
    let first = FakeConnection::acknowledging();
    let mut it = Simulation::with_connections(&[first.clone(), unaccepted.clone(), third.clone()]);
    it.write("one");
    it.poke();
    first.handles(4, 4);
    first.dies();
    it.hang_up();
    it.run_for(ms(100));
    it.write("two");
    it.run_for(ms(100));
    assert_eq!(unaccepted.texts(), ["two"]);
    unaccepted.dies();
    it.hang_up();
    it.run_for(s(1));
    assert_eq!((third.texts(), it.suspected_lost()), (vec!["two".to_owned()], 0));
    assert_eq!(it.first_sequences, [1, 2, 2]);
}

#[test]
fn a_frozen_reader_that_was_left_may_handle_messages_twice_or_they_are_suspected_lost() {
    for redeliver in [true, false] {
        let (mut it, first, second) = connected();
        it.options.redeliver = redeliver;
        first.handles(4, 8);
        first.0.borrow_mut().shut = true;
        it.write("ten");
        it.poke();
        assert!(!it.session.is_connected());
        it.run_for(ms(800));
        first.handles(8, 12); // it moves
        it.run_for(ms(900));
        assert_eq!(it.dials.len(), 1, "it has moved within write_timeout");
        it.run_for(ms(400));
        let (again, lost) = if redeliver { (vec!["six", "ten"], 0) } else { (vec!["ten"], 1) };
        assert_eq!((second.texts(), it.suspected_lost()), (again.into_iter().map(str::to_owned).collect(), lost));
    }
}

#[test]
fn a_message_in_whose_callback_readers_die_is_given_up_after_its_attempts() {
    let wires: Vec<_> = (0..4).map(|_| FakeConnection::acknowledging()).collect();
    let mut it = Simulation::with_connections(&wires);
    it.options.max_attempts = 3;
    ["bad", "two"].into_iter().for_each(|message| it.write(message));
    it.poke();
    for wire in &wires[..3] {
        wire.read_all();
        wire.handles(0, 4);
        wire.dies();
        it.hang_up();
        it.run_for(s(1));
    }
    assert_eq!((wires[2].texts().len(), wires[3].texts()), (2, vec!["two".to_owned()]));
    assert_eq!((it.suspected_lost(), it.abandoned()), (1, 0));
    assert_eq!(it.contexts().last(), Some(&Context::WriteAgain));
}

#[test]
fn readers_that_die_before_they_handle_anything_cost_no_message() {
    let wires: Vec<_> = (0..9).map(|_| FakeConnection::acknowledging()).collect();
    let mut it = Simulation::with_connections(&wires);
    it.options.max_attempts = 2;
    it.write("one");
    it.poke();
    for wire in &wires[..8] {
        wire.dies();
        it.hang_up();
        it.run_for(s(10));
    }
    assert_eq!((wires[8].texts(), it.suspected_lost()), (vec!["one".to_owned()], 0));
    assert!(it.pauses().iter().rev().take(2).all(|pause| *pause > ms(200)), "{:?}", it.pauses());
}

#[test]
fn a_message_that_the_reader_does_not_take_is_given_up_at_once() {
    let (mut it, first, second) = connected();
    first.ends(4, End::TooLarge { limit: 2 });
    it.hang_up();
    it.run_for(ms(200));
    assert_eq!((second.texts(), it.suspected_lost()), (vec!["six".to_owned()], 1));
    assert!(matches!(it.reports[0].error, Error::MessageTooLarge { size: 3, limit: 2 }), "{:?}", it.reports);
}

#[test]
fn a_message_that_the_reader_does_not_take_is_tried_for_ever_where_none_is_to_be_given_up() {
    let wires: Vec<_> = (0..5).map(|_| FakeConnection::acknowledging()).collect();
    let mut it = Simulation::with_connections(&wires);
    it.options.max_attempts = 0;
    it.write("one");
    it.poke();
    for wire in &wires[..4] {
        wire.ends(0, End::TooLarge { limit: 2 });
        it.hang_up();
        it.run_for(s(5));
    }
    assert_eq!((wires[4].texts(), it.suspected_lost(), it.reports.len()), (vec!["one".to_owned()], 0, 4));
}

#[test]
fn a_refused_writer_sends_everything_again_with_growing_pauses_and_says_why() {
    let wires: Vec<_> = (0..8).map(|_| FakeConnection::default()).collect();
    let mut it = Simulation::with_connections(&wires);
    it.write("one");
    it.poke();
    for wire in &wires[..7] {
        wire.ends(0, End::NotAdmitted);
        it.hang_up();
        it.run_for(s(5));
    }
    assert_eq!((wires[7].texts(), it.suspected_lost(), it.reports.len()), (vec!["one".to_owned()], 0, 7));
    assert!(matches!(it.reports[0].error, Error::PermissionDenied { .. }));
    let pauses: Vec<_> = it.pauses().iter().map(|pause| pause.saturating_sub(s(5))).collect();
    assert!(pauses[1] < ms(20) && pauses[4..].iter().all(|pause| *pause > ms(35)), "{pauses:?}");
}

#[test]
fn a_position_that_cannot_be_true_is_cut_to_what_was_sent() {
    let (mut it, first, second) = connected();
    first.handles(1 << 40, 1 << 41);
    assert_eq!((it.settled(), it.acknowledged()), (3, 3));
    first.handles(2, 1 << 41); // it falls, and lies within a frame
    first.dies();
    it.hang_up();
    it.run_for(ms(100));
    assert_eq!((second.texts(), it.suspected_lost(), it.acknowledged()), (vec![], 0, 3));
}

#[test]
fn a_slot_that_belongs_to_another_connection_by_now_is_not_believed() {
    let (mut it, first, second) = connected();
    it.write("ten");
    first.ends(4, End::TooLarge { limit: 2 });
    first.handles(12, 12); // another writer's
    assert_eq!((it.settled(), it.acknowledged()), (0, 0));
    it.poke();
    it.hang_up();
    it.run_for(ms(200));
    assert_eq!((second.texts(), it.acknowledged()), (vec!["six".to_owned(), "ten".to_owned()], 1));
}

#[test]
fn what_is_sent_takes_note_of_what_was_handled_before() {
    let large = "x".repeat(40_000);
    let first = FakeConnection::acknowledging();
    let mut it = Simulation::with_connections(std::slice::from_ref(&first));
    for count in 1..50 {
        it.write(&large);
        it.poke();
        let all = first.0.borrow().taken.len() as u64;
        first.handles(all, all);
        assert!(it.acknowledged() + 2 >= count, "{count}");
    }
}

#[test]
fn an_attempt_is_forgotten_with_the_message_that_it_was_made_for() {
    let wires: Vec<_> = (0..3).map(|_| FakeConnection::acknowledging()).collect();
    let mut it = Simulation::with_connections(&wires);
    it.options.max_attempts = 2;
    let (large, frame) = ("x".repeat(40_000), 40_003);
    it.write(&large);
    it.poke();
    wires[0].handles(0, frame);
    wires[0].dies();
    it.hang_up();
    it.run_for(ms(100));
    wires[1].handles(frame, frame);
    it.write(&"y".repeat(40_000));
    it.poke();
    assert_eq!(it.acknowledged(), 1);
    wires[1].handles(frame, 2 * frame);
    wires[1].dies();
    it.hang_up();
    it.run_for(ms(100));
    assert_eq!((wires[2].texts().len(), it.suspected_lost()), (1, 0), "its first attempt");
}

#[test]
fn a_reader_that_never_handles_anything_holds_back_only_so_much() {
    let first = FakeConnection::acknowledging();
    let mut it = Simulation::with_connections(std::slice::from_ref(&first));
    let large = "x".repeat(30_000);
    for _ in 0..200 {
        it.write(&large);
        it.poke();
        first.read_all();
    }
    let kept = it.session.cursor.kept_bytes();
    assert!((600_000..1_200_000).contains(&kept), "{kept}");
    first.handles(kept, kept);
    it.run_for(s(1));
    assert!(it.acknowledged() * (30_000 + MAX_PREFIX as u64) >= kept && it.session.cursor.kept_bytes() > 600_000);
}

#[test]
fn an_idle_writer_gives_back_what_was_handled() {
    let (mut it, first, _) = connected();
    it.run_for(ms(10));
    assert_eq!(it.session.cursor.kept_messages(), 3);
    first.handles(12, 12);
    it.run_for(s(1));
    assert_eq!((it.session.cursor.kept_messages(), it.acknowledged()), (0, 3));
    assert!(it.wake_at.is_none_or(|at| at >= it.now + s(1)), "and sleeps");
}

/// One that reads everything, says nothing, and closes.
fn reads_all_and_closes(wire: &FakeConnection, it: &mut Simulation) {
    wire.read_all();
    wire.close_by_peer();
    it.hang_up();
    it.run_for(ms(100));
}

#[test]
fn a_plain_reader_that_reads_and_closes_at_once_gets_nothing_twice_where_the_last_one_acknowledged() {
    let wires: Vec<_> =
        [FakeConnection::acknowledging()].into_iter().chain((0..3).map(|_| FakeConnection::default())).collect();
    let mut it = Simulation::with_connections(&wires);
    it.write("one");
    it.poke();
    wires[0].handles(4, 4);
    wires[0].dies();
    it.hang_up();
    it.run_for(ms(100));
    for (wire, message) in wires[1..3].iter().zip(["two", "six"]) {
        it.write(message);
        it.poke();
        reads_all_and_closes(wire, &mut it);
        assert_eq!(wire.texts(), [message]);
    }
    assert!(wires[3].texts().is_empty());
    assert_eq!((it.suspected_lost(), it.redelivered(), it.acknowledged()), (0, 0, 1));
    // It was the last one: what the next does not read is suspected to be lost, and not sent again.
    it.write("ten");
    it.poke();
    wires[3].dies();
    it.hang_up();
    assert_eq!((it.suspected_lost(), it.redelivered()), (1, 0));
}

/// Readers that each end before they have handled a message, at once. The pauses grow.
fn pauses_where(options: impl FnOnce(&mut WriterOptions), ends: impl Fn(&FakeConnection)) -> Vec<Duration> {
    let first = FakeConnection::acknowledging();
    let wires: Vec<_> = (0..9).map(|_| FakeConnection::acknowledging()).collect();
    let all: Vec<_> = std::iter::once(first.clone()).chain(wires.iter().cloned()).collect();
    let mut it = Simulation::with_connections(&all);
    options(&mut it.options);
    it.write("one");
    it.poke();
    for (count, wire) in (1..).zip(&all) {
        ends(wire);
        it.hang_up();
        while it.dials.len() == count {
            it.now = it.wake_at.expect("a pause");
            it.poke();
        }
    }
    it.pauses()
}

#[test]
fn readers_that_handle_nothing_are_dialled_with_growing_pauses_however_they_end() {
    let none = |_: &mut WriterOptions| {};
    let never = |options: &mut WriterOptions| options.max_attempts = 0;
    let required = |options: &mut WriterOptions| {
        options.max_attempts = 0;
        options.acknowledge = Acknowledge::Required;
    };
    let too_large = End::TooLarge { limit: 2 };
    let all = [
        pauses_where(none, FakeConnection::dies),
        pauses_where(none, |wire| wire.ends(0, End::NoResources)),
        pauses_where(never, |wire| wire.ends(0, too_large)),
        pauses_where(required, |wire| wire.ends(1, too_large)),
        pauses_where(required, |wire| {
            wire.handles(1, 5);
            wire.dies();
        }),
    ];
    for pauses in all {
        assert!(pauses[0] < ms(20) && pauses[6..].iter().all(|pause| *pause > ms(100)), "{pauses:?}");
    }
}
