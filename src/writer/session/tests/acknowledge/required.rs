//! Nothing is sent to a reader that does not acknowledge.

use super::*;

fn requiring(wires: &[FakeConnection]) -> Simulation {
    let mut it = Simulation::with_connections(wires);
    it.options.acknowledge = Acknowledge::Required;
    it.write("one");
    it.poke();
    it
}

#[test]
fn nothing_goes_out_before_the_reader_has_said_that_it_acknowledges() {
    let first = FakeConnection::default();
    let mut it = requiring(std::slice::from_ref(&first));
    it.run_for(s(20));
    assert_eq!(first.0.borrow().taken, [0], "the question, and it has not been read");
    assert!(it.reports.is_empty() && it.dials.len() == 1);
    assert_eq!(it.session.watched().map(|(_, readiness)| readiness), Some(Readiness::Record));
    first.0.borrow_mut().records.push_back(RecordEvent::Ledger);
    it.poke();
    assert_eq!(first.texts(), ["", "one"]);
    first.handles(5, 5);
    assert_eq!((it.settled(), it.acknowledged()), (1, 1), "the question counts in positions");
}

#[test]
fn a_plain_reader_is_refused_and_dialled_again_with_growing_pauses() {
    let wires: Vec<_> = (0..6).map(|_| FakeConnection::default()).collect();
    let mut it = requiring(&wires);
    for wire in &wires {
        wire.read_all();
        it.run_for(s(3));
    }
    assert!(wires.iter().all(|wire| wire.0.borrow().taken == [0]));
    assert!(it.reports.iter().take(6).all(|report| matches!(report.error, Error::NotAcknowledged)));
    let pauses: Vec<_> = it.pauses().iter().map(|pause| pause.saturating_sub(s(3))).collect();
    assert!(pauses[1] < ms(20) && pauses[4..6].iter().all(|pause| *pause > ms(35)), "{pauses:?}");
    assert_eq!(it.queue.account().depth.messages, 1);
}

#[test]
fn a_plain_reader_is_found_out_when_it_has_read_the_question_which_no_event_tells() {
    let wires: Vec<_> = (0..2).map(|_| FakeConnection::default()).collect();
    let mut it = requiring(&wires);
    it.run_for(s(20));
    wires[0].read_all();
    let until = it.now + s(1);
    while it.reports.is_empty() {
        it.now = it.wake_at.expect("a look");
        it.poke();
    }
    assert!(it.now <= until);
    assert!(matches!(it.reports[0].error, Error::NotAcknowledged), "{:?}", it.reports);
}

#[test]
fn a_stop_gives_up_where_only_plain_readers_come() {
    let wires: Vec<_> =
        (0..40).map(|_| FakeConnection::with(|wire| wire.records.push_back(RecordEvent::NoLedger))).collect();
    let mut it = requiring(&wires);
    let (ending, took) = it.stop(s(60));
    assert_eq!((ending, it.abandoned()), (Ending::Undelivered(1), 1));
    assert!(took <= ms(250) && it.dials.len() > 5, "{took:?}");
}

#[test]
fn a_stop_without_a_message_does_not_wait_for_a_reader_that_does_not_come() {
    let (first, second) = (FakeConnection::acknowledging(), FakeConnection::default());
    let mut it = requiring(&[first.clone(), second]);
    first.handles(5, 5);
    first.dies();
    it.hang_up();
    it.run_for(ms(100));
    assert_eq!((it.dials.len(), it.acknowledged()), (2, 1));
    let (ending, took) = it.stop(s(60));
    assert_eq!(ending, Ending::Clean);
    assert!(took <= ms(250), "{took:?}");
}

/// What a reader does in the moment between the look at its records and the one at what it has read.
#[test]
fn a_flush_and_a_stop_do_not_take_read_for_handled() {
    for stops in [false, true] {
        let first = FakeConnection::default();
        let mut it = Simulation::with_connections(std::slice::from_ref(&first));
        it.write("one");
        it.poke();
        first.0.borrow_mut().accepts_when_heard = true;
        if stops {
            it.begin_stop(s(5));
            it.poke();
            assert_eq!(it.ending, None);
        } else {
            assert_eq!(it.settled(), 0);
        }
        first.handles(4, 4);
        assert_eq!(it.settled(), 1);
    }
}

#[test]
fn a_reader_that_never_answers_is_left_when_another_has_taken_its_place() {
    let (first, second) = (FakeConnection::default(), FakeConnection::acknowledging());
    let mut it = requiring(&[first.clone(), second.clone()]);
    it.run_for(s(5));
    assert_eq!(it.dials.len(), 1);
    it.is_replaced = true;
    it.run_for(s(2));
    assert_eq!((first.texts(), second.texts()), (vec![String::new()], vec![String::new(), "one".to_owned()]));
    assert!(it.reports.is_empty() && it.dials.len() == 2);
}
