//! Connecting: the pauses between dials, a full backlog, a path that appears.

use super::*;

#[test]
fn it_connects_at_once_and_sends_what_is_queued() {
    let wire = FakeConnection::default();
    let mut it = Simulation::with_connections(std::slice::from_ref(&wire));
    it.write("one");
    it.write("two");
    it.poke();
    assert_eq!(it.dials, [Duration::ZERO]);
    assert_eq!(wire.texts(), ["one", "two"]);
    assert_eq!(it.queue.account().depth.messages, 0);
    assert!(it.session.is_connected() && it.reports.is_empty());
}

#[test]
fn failed_connects_are_followed_by_growing_pauses_up_to_the_longest() {
    let mut it = Simulation::with_connections(&[]);
    it.run_for(s(120));
    let pauses = it.pauses();
    assert!((ms(5)..=ms(20)).contains(&pauses[0]), "{pauses:?}");
    assert!((ms(10)..=ms(40)).contains(&pauses[1]), "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= it.options.max_backoff));
    assert!(pauses.last().is_some_and(|last| *last >= s(7)), "{pauses:?}");
    assert_eq!(it.count(|counters| &counters.connect_failures), it.dials.len() as u64);
    assert!(it.contexts().iter().all(|context| *context == Context::Connect));
}

#[test]
fn a_peer_that_goes_away_while_idle_is_no_failure() {
    let (first, second) = (FakeConnection::default(), FakeConnection::default());
    let mut it = Simulation::with_connections(&[first.clone(), second]);
    it.write("one");
    it.poke();
    first.read_all();
    it.run_for(s(2));
    first.close_by_peer();
    it.hang_up();
    assert_eq!(it.dials.len(), 2);
    assert!(it.reports.is_empty());
    assert_eq!((it.count(|counters| &counters.failed), it.suspected_lost()), (0, 0));
}

#[test]
fn the_next_message_dials_at_once_after_a_reader_has_ended_a_short_idle_connection() {
    let wires: Vec<_> = (0..9).map(|_| FakeConnection::default()).collect();
    let mut it = Simulation::with_connections(&wires);
    it.poke();
    for wire in &wires[..8] {
        while !it.session.is_connected() {
            it.now = it.wake_at.expect("a pause ends");
            it.poke();
        }
        wire.close_by_peer();
        it.hang_up();
    }
    assert!(!it.session.is_connected());
    let dials = it.dials.len();
    it.write("urgent");
    it.poke();
    assert_eq!((it.dials.len(), wires[8].texts()), (dials + 1, vec!["urgent".to_owned()]));
    wires[8].close_by_peer();
    it.hang_up();
    it.write("one more");
    it.poke();
    assert_eq!(it.dials.len(), dials + 1, "a peer that closes over messages is not dialled for each of them");
}

/// Each connection ends right after it was made, with what was sent unread.
fn peer_that_accepts_and_closes(over_unread: bool) -> Simulation {
    Simulation::new(move |_| {
        Ok(FakeConnection::with(|wire| {
            if over_unread {
                wire.answers.push_back(Sent::Taken(usize::MAX));
            }
            wire.hung_up = true;
            wire.reset = over_unread;
        }))
    })
}

#[test]
fn a_peer_that_accepts_and_closes_is_dialled_with_growing_pauses() {
    for over_unread in [true, false] {
        let mut it = peer_that_accepts_and_closes(over_unread);
        for _ in 0..60_000 {
            let _ = it.queue.push(b"message");
            it.hang_up();
            it.now += ms(1);
        }
        let most = if over_unread { 40 } else { 3_000 }; // each fifth one gives a message up, and the backoff begins anew
        assert!(it.dials.len() < most, "{} dials in a minute", it.dials.len());
    }
}

#[test]
fn a_full_backlog_is_tried_again_within_the_dial_timeout_and_is_not_called_nobody() {
    let mut it = Simulation::new(|_| backlog_full());
    it.run_for(ms(990));
    assert!(it.dials.len() > 40 && it.reports.is_empty(), "{} dials", it.dials.len());
    it.run_for(ms(100));
    assert!(matches!(it.reports[0].error, Error::BacklogFull { .. }), "{:?}", it.reports);
    assert_eq!(it.count(|counters| &counters.connect_failures), 1);
}

#[test]
fn a_socket_that_appears_ends_the_pause_and_a_refusal_before_it_listens_is_not_believed() {
    let start = Instant::now() + s(45);
    let mut it =
        Simulation::new(move |now| if now > start + ms(5) { Ok(FakeConnection::default()) } else { refused() });
    it.start = start - s(45);
    it.run_for(s(44));
    let (dials, failures) = (it.dials.len(), it.count(|counters| &counters.connect_failures));
    it.now = start;
    it.path_appears();
    it.run_for(ms(50));
    assert!(it.session.is_connected());
    assert!(it.dials.len() - dials < 10, "{} dials", it.dials.len() - dials);
    assert_eq!(it.count(|counters| &counters.connect_failures), failures);
}

#[test]
fn a_path_that_keeps_appearing_does_not_make_the_writer_dial_at_will() {
    let mut it = Simulation::with_connections(&[]);
    for _ in 0..10_000 {
        it.path_appears();
        it.now += Duration::from_micros(100);
    }
    assert!(it.dials.len() < 200, "{} dials in a second", it.dials.len());
}

#[test]
fn a_path_that_keeps_appearing_does_not_make_the_writer_dial_a_peer_that_closes_at_will() {
    for over_unread in [true, false] {
        let mut it = peer_that_accepts_and_closes(over_unread);
        for _ in 0..10_000 {
            let _ = it.queue.push(b"message");
            it.path_appears();
            it.now += Duration::from_micros(100);
        }
        assert!(it.dials.len() < 200, "{} dials in a second", it.dials.len());
    }
}

#[test]
fn a_caller_that_waits_makes_the_pauses_short() {
    let mut it = Simulation::with_connections(&[]);
    it.run_for(s(60));
    it.is_awaited = true;
    let before = it.dials.len();
    it.run_for(s(1));
    let pauses = it.pauses();
    assert!(pauses[before..].iter().all(|pause| *pause <= ms(20)), "{pauses:?}");
    assert!(it.dials.len() - before >= 50);
}
