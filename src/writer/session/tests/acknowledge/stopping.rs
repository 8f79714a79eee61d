//! A stop waits for what has been sent to be handled.

use super::*;

#[test]
fn a_stop_waits_until_everything_is_handled() {
    let (mut it, first, _) = connected();
    it.begin_stop(s(5));
    it.run_for(s(2));
    assert_eq!(it.ending, None);
    first.handles(12, 12);
    it.run_for(ms(10));
    assert_eq!(it.ending, Some(Ending::Clean));
}

#[test]
fn a_stop_whose_time_is_up_says_so_and_suspects_the_rest() {
    let (mut it, first, _) = connected();
    first.handles(4, 8);
    let (ending, took) = it.stop(ms(700));
    assert_eq!((ending, took), (Ending::TimedOut, ms(700)));
    assert_eq!((it.acknowledged(), it.suspected_lost(), it.abandoned()), (1, 2, 0));
}

#[test]
fn a_stop_sends_again_what_a_killed_reader_has_not_handled() {
    let (mut it, first, second) = connected();
    it.begin_stop(s(5));
    it.run_for(ms(300));
    first.handles(4, 8);
    first.dies();
    it.hang_up();
    it.run_for(ms(20));
    assert_eq!((second.texts(), it.ending), (vec!["two".to_owned(), "six".to_owned()], None));
    second.handles(8, 8);
    it.run_for(ms(20));
    assert_eq!((it.ending, it.suspected_lost()), (Some(Ending::Clean), 0));
}

#[test]
fn a_stop_gives_up_when_nobody_listens_any_more() {
    let first = FakeConnection::acknowledging();
    let mut it = Simulation::with_connections(std::slice::from_ref(&first));
    ["one", "two"].into_iter().for_each(|message| it.write(message));
    it.poke();
    first.handles(4, 4);
    first.dies();
    it.hang_up();
    it.write("six");
    let (ending, took) = it.stop(s(60));
    assert_eq!(ending, Ending::Undelivered(2));
    assert!(took <= ms(250), "{took:?}");
    assert_eq!((it.acknowledged(), it.suspected_lost(), it.abandoned()), (1, 1, 1));
}

#[test]
fn a_stop_of_a_refused_writer_does_not_try_for_ever() {
    let wires: Vec<_> = (0..40).map(|_| FakeConnection::default()).collect();
    wires.iter().for_each(|wire| wire.ends(0, End::TooManyConnections));
    let mut it = Simulation::with_connections(&wires);
    it.write("one");
    let (ending, took) = it.stop(s(60));
    assert_eq!(ending, Ending::Undelivered(1));
    assert!(took <= ms(250) && it.dials.len() > 5, "{took:?}");
    assert_eq!(it.suspected_lost() + it.abandoned(), 1);
}

#[test]
fn a_connection_that_was_dialled_under_another_number_is_not_used() {
    let (first, early, third) = (FakeConnection::default(), FakeConnection::default(), FakeConnection::acknowledging());
    let mut it = Simulation::with_connections(&[first.clone(), early.clone(), third.clone()]);
    it.write("one");
    it.poke();
    first.0.borrow_mut().shut = true;
    it.write("two");
    it.begin_stop(s(5));
    // A drain dials before the end of the last connection, and meanwhile another thread hears of that.
    let (now, phase) = (it.now, it.phase);
    let take =
        |it: &mut Simulation, event| it.with_session(|session, context| session.step(now, phase, event, context)).next;
    assert_eq!(take(&mut it, Event::Woken(Woken::default())), Next::Dial { first_sequence: 2 });
    first.0.borrow_mut().records.push_back(RecordEvent::Ledger);
    first.dies();
    assert_eq!(take(&mut it, Event::Woken(Woken::default())), Next::Wait);
    let second = (it.dial)(now);
    assert_eq!(take(&mut it, Event::Dialled(second)), Next::Dial { first_sequence: 1 });
    let last = (it.dial)(now);
    take(&mut it, Event::Dialled(last));
    assert!(early.0.borrow().is_closed && early.texts().is_empty());
    assert_eq!(third.texts(), ["one", "two"]);
}

#[test]
fn what_a_stop_gives_up_is_counted_once_when_the_reader_dies_in_the_same_moment() {
    let (first, unaccepted) = (FakeConnection::acknowledging(), FakeConnection::default());
    let mut it = Simulation::with_connections(&[first.clone(), unaccepted.clone()]);
    it.write("one");
    it.poke();
    first.handles(4, 4);
    first.ends(4, End::Idle);
    it.hang_up();
    it.write("two");
    it.run_for(ms(100));
    assert_eq!(unaccepted.texts(), ["two"]);
    it.begin_stop(ms(500));
    it.run_for(ms(499));
    unaccepted.dies();
    it.now += ms(1); // no step in between: the first one finds the time up
    it.poke();
    assert_eq!((it.ending, it.suspected_lost()), (Some(Ending::TimedOut), 1));
}

#[test]
fn what_a_reader_handles_while_it_ends_is_acknowledged() {
    let (mut it, first, _) = connected();
    first.0.borrow_mut().shut = true;
    it.write("ten");
    it.poke();
    assert!(!it.session.is_connected());
    first.handles(8, 12);
    assert_eq!((it.settled(), it.acknowledged()), (2, 2));
    let (ending, _) = it.stop(ms(100));
    assert_eq!(ending, Ending::TimedOut);
    assert_eq!((it.acknowledged(), it.suspected_lost(), it.abandoned()), (2, 1, 1));
}
