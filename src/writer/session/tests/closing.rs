//! The end of a connection: what became of the messages in flight.

use super::*;

/// A connection on which "one" and "two" have been sent, and a second one behind it.
fn connected() -> (Simulation, FakeConnection, FakeConnection) {
    let (first, second) = (FakeConnection::default(), FakeConnection::default());
    let mut it = Simulation::with_connections(&[first.clone(), second.clone()]);
    ["one", "two"].into_iter().for_each(|message| it.write(message));
    it.poke();
    (it, first, second)
}

#[test]
fn a_reader_that_has_read_everything_loses_nothing() {
    let (mut it, first, _) = connected();
    first.read_all();
    first.close_by_peer();
    it.hang_up();
    assert_eq!(it.suspected_lost(), 0);
}

#[test]
fn a_reader_that_closes_over_unread_messages_may_have_lost_all_that_are_in_doubt() {
    let (mut it, first, _) = connected();
    first.close_by_peer();
    it.hang_up();
    assert_eq!(it.suspected_lost(), 2);
    assert!(it.reports.is_empty(), "no message was being written");
}

#[test]
fn a_send_that_takes_the_error_off_the_socket_is_believed() {
    let (mut it, first, _) = connected();
    first.close_by_peer();
    first.0.borrow_mut().reset = false;
    first.0.borrow_mut().answers.push_back(Sent::Broken(io::ErrorKind::ConnectionReset.into()));
    it.write("three");
    it.poke();
    assert_eq!(it.suspected_lost(), 2);
}

#[test]
fn a_reader_that_ends_in_order_in_the_middle_of_a_message_loses_nothing() {
    let (mut it, first, second) = connected();
    first.0.borrow_mut().answers.push_back(Sent::Taken(2));
    first.0.borrow_mut().shut = true;
    it.write("three");
    it.poke();
    first.read_all();
    first.close_by_peer();
    it.hang_up();
    assert_eq!((it.suspected_lost(), second.texts()), (0, vec!["three".to_owned()]));
}

#[test]
fn a_broken_send_waits_for_the_hang_up_before_it_asks_for_the_error() {
    let (mut it, first, second) = connected();
    first.0.borrow_mut().shut = true; // EPIPE, and neither a hang-up nor an error yet
    it.write("three");
    it.poke();
    assert!(!it.session.is_connected());
    first.close_by_peer(); // over unread bytes
    it.run_for(ms(20));
    assert_eq!((it.suspected_lost(), second.texts()), (2, vec!["three".to_owned()]));
}

#[test]
fn a_hang_up_before_the_close_is_no_verdict_yet() {
    for reads_first in [false, true] {
        let (mut it, first, second) = connected();
        first.0.borrow_mut().both_shut = true; // shutdown(SHUT_RDWR)
        it.hang_up();
        assert!(!it.session.is_connected() && it.settled() == 0);
        assert_eq!(it.session.watched().map(|(_, readiness)| readiness), Some(Readiness::Nothing), "told once");
        it.run_for(ms(100));
        assert_eq!((it.suspected_lost(), it.dials.len()), (0, 1));
        if reads_first {
            first.read_all();
        }
        first.close_by_peer();
        it.run_for(ms(20));
        assert_eq!((it.suspected_lost(), it.dials.len()), (if reads_first { 0 } else { 2 }, 2));
        it.write("three");
        it.poke();
        assert_eq!(second.texts(), ["three"]);
    }
}

#[test]
fn a_reader_that_hangs_up_and_never_closes_is_waited_for_no_longer_than_a_write() {
    let (mut it, first, second) = connected();
    first.0.borrow_mut().both_shut = true; // a child that it has forked holds the socket
    it.hang_up();
    it.write("three");
    it.run_for(ms(900));
    assert!(second.texts().is_empty());
    it.run_for(ms(200));
    assert_eq!((it.suspected_lost(), second.texts()), (2, vec!["three".to_owned()]));
}

#[test]
fn messages_of_the_next_connection_do_not_overtake_a_closing_reader_that_moves() {
    let (mut it, first, second) = connected();
    first.0.borrow_mut().shut = true;
    it.write("three");
    // A byte each 7 s: as slow as it may be with a write timeout of 1 s.
    for _ in 0..7 {
        it.run_for(s(7));
        assert!(second.texts().is_empty());
        first.0.borrow_mut().read += 1;
    }
    first.read_all();
    it.run_for(ms(20));
    assert_eq!((it.suspected_lost(), second.texts()), (0, vec!["three".to_owned()]));
    assert_eq!(it.dials.len(), 2);
}

#[test]
fn a_closing_reader_that_hangs_is_left_and_its_messages_are_in_doubt() {
    let (mut it, first, second) = connected();
    first.0.borrow_mut().shut = true;
    it.write("three");
    it.run_for(ms(7_900));
    assert!(second.texts().is_empty());
    it.run_for(ms(200));
    assert_eq!((it.suspected_lost(), second.texts()), (2, vec!["three".to_owned()]));
}

#[test]
fn the_close_of_an_ending_connection_is_seen_at_once() {
    let (mut it, first, second) = connected();
    first.0.borrow_mut().shut = true;
    it.write("three");
    it.run_for(s(5));
    first.read_all();
    first.close_by_peer();
    it.hang_up();
    assert_eq!((it.suspected_lost(), second.texts()), (0, vec!["three".to_owned()]));
}

#[test]
fn an_empty_kernel_buffer_is_no_answer_after_a_hang_up() {
    let (mut it, first, _) = connected();
    assert_eq!(it.settled(), 0);
    first.close_by_peer();
    assert_eq!(first.unread_by_peer(), 0, "the kernel has thrown it away");
    assert_eq!(it.settled(), 0, "a flush must not take it for read");
    it.hang_up();
    assert_eq!((it.settled(), it.suspected_lost()), (2, 2));
}

#[test]
fn a_stop_finds_out_that_nobody_listens_while_the_last_connection_is_ending() {
    let first = FakeConnection::default();
    let mut it = Simulation::with_connections(std::slice::from_ref(&first));
    it.write("one");
    it.poke();
    first.0.borrow_mut().shut = true;
    it.write("two");
    it.poke();
    let (ending, took) = it.stop(Duration::MAX);
    assert_eq!(ending, Ending::Undelivered(1));
    assert!(took <= ms(250), "{took:?}");
}

#[test]
fn a_stop_dials_ahead_and_sends_nothing_before_the_last_connection_has_ended() {
    let (mut it, first, second) = connected();
    first.0.borrow_mut().shut = true;
    it.write("three");
    it.poke();
    it.begin_stop(s(10));
    it.run_for(ms(500));
    assert_eq!((it.dials.len(), second.texts().len()), (2, 0));
    first.read_all();
    first.close_by_peer();
    it.run_for(ms(20));
    assert_eq!(second.texts(), ["three"]);
    second.read_all();
    it.run_for(ms(20));
    assert_eq!((it.ending, it.suspected_lost()), (Some(Ending::Clean), 0));
}

#[test]
fn a_stop_that_ends_closes_the_connection_that_was_dialled_ahead() {
    let (mut it, first, second) = connected();
    first.0.borrow_mut().shut = true;
    it.write("three");
    it.poke();
    let (ending, _) = it.stop(s(1));
    assert_eq!(ending, Ending::TimedOut);
    assert!(first.0.borrow().is_closed && second.0.borrow().is_closed);
}

#[test]
fn a_last_look_at_an_ending_connection_that_moves_on_is_a_quarter_of_a_second() {
    let (mut it, first, _) = connected();
    first.0.borrow_mut().shut = true;
    it.write("three");
    it.poke();
    // "three" was never sent: it is given up, and what the reader still reads is none of the drain's concern.
    it.options.max_attempts = 1;
    first.close_by_peer();
    it.begin_stop(s(5));
    it.hang_up();
    it.run_for(ms(300));
    assert_eq!(it.ending, Some(Ending::Undelivered(3)), "one given up, two in doubt");
}
