//! Stopping: the drain, its time, and what is given up.

use super::*;

#[test]
fn a_full_backlog_is_waited_for_by_a_stop() {
    let mut it = Simulation::new(|_| backlog_full());
    it.write("one");
    assert_eq!(it.stop(s(3)), (Ending::TimedOut, s(3)));
}

#[test]
fn a_stop_sends_what_is_queued_and_says_so() {
    let wire = FakeConnection::default();
    let mut it = Simulation::with_connections(std::slice::from_ref(&wire));
    it.write("one");
    it.begin_stop(s(5));
    it.poke();
    assert_eq!(it.ending, None, "the reader has not read it yet");
    wire.read_all();
    it.run_for(ms(10));
    assert_eq!((it.ending, wire.texts()), (Some(Ending::Clean), vec!["one".to_owned()]));
    assert!(wire.0.borrow().is_closed);
}

#[test]
fn a_stop_waits_a_quarter_of_a_second_at_most_for_a_reader_that_does_not_read() {
    let mut it = Simulation::with_connections(&[FakeConnection::default()]);
    it.write("one");
    assert_eq!(it.stop(Duration::MAX), (Ending::Clean, ms(250)));
}

#[test]
fn a_stop_without_time_does_not_wait_for_the_reader_to_read() {
    let mut it = Simulation::with_connections(&[FakeConnection::default()]);
    it.write("one");
    it.poke();
    assert_eq!(it.stop(Duration::ZERO), (Ending::Clean, Duration::ZERO));
}

#[test]
fn a_stop_hears_of_a_reader_that_hangs_up_over_the_last_messages() {
    let wire = FakeConnection::default();
    let mut it = Simulation::with_connections(std::slice::from_ref(&wire));
    ["one", "two"].into_iter().for_each(|message| it.write(message));
    it.begin_stop(s(5));
    it.poke();
    wire.close_by_peer();
    it.run_for(ms(20));
    assert_eq!((it.ending, it.suspected_lost()), (Some(Ending::Undelivered(2)), 2));
    assert_eq!(it.dials.len(), 1, "there is nothing left to send");
}

#[test]
fn a_stop_gives_up_within_a_quarter_of_a_second_when_nobody_listens_in_one_report() {
    for timeout in [s(5), Duration::MAX] {
        let mut it = Simulation::with_connections(&[]);
        it.run_for(s(60));
        (0..400).for_each(|_| it.write("message"));
        it.reports.clear();
        let (ending, took) = it.stop(timeout);
        assert_eq!(ending, Ending::Undelivered(400));
        assert!(took <= ms(250), "{took:?}");
        let drain: Vec<_> = it.reports.iter().filter(|report| report.context == Context::Drain).collect();
        assert!(matches!(drain[..], [Report { error: Error::Undelivered(400), .. }]), "{drain:?}");
        assert_eq!((it.abandoned(), it.queue.account().depth.messages), (400, 0));
    }
}

#[test]
fn a_stop_past_its_time_gives_up_what_is_left() {
    let wire = FakeConnection::with(|wire| wire.room = Some(6));
    let mut it = Simulation::with_connections(&[wire]);
    ["one", "two", "three"].into_iter().for_each(|message| it.write(message));
    it.poke();
    assert_eq!(it.stop(ms(100)), (Ending::TimedOut, ms(100)));
    assert_eq!((it.queue.account().sent.messages, it.abandoned()), (1, 2));
}

#[test]
fn a_stop_that_waits_for_a_reader_gives_it_everything_when_it_comes() {
    let start = Instant::now();
    let wire = FakeConnection::default();
    let reader = wire.clone();
    let mut it = Simulation::new(move |now| if now >= start + ms(15_500) { Ok(reader.clone()) } else { refused() });
    (it.start, it.now) = (start, start);
    it.options.drain_until_deadline = true;
    ["one", "two", "three"].into_iter().for_each(|message| it.write(message));
    it.run_for(s(15));
    let (ending, took) = it.stop(s(6));
    assert_eq!(ending, Ending::Clean);
    assert!(took <= ms(500 + 20 + 250), "{took:?}");
    assert_eq!(wire.texts(), ["one", "two", "three"]);
}

#[test]
fn a_reader_that_restarts_during_a_stop_gets_everything() {
    let start = Instant::now();
    let (first, second) = (FakeConnection::with(|wire| wire.room = Some(6)), FakeConnection::default());
    let (old, new) = (first.clone(), second.clone());
    let mut it = Simulation::new(move |now| match now - start {
        elapsed if elapsed < ms(1_000) => Ok(old.clone()),
        elapsed if elapsed < ms(1_080) => refused(),
        _ => Ok(new.clone()),
    });
    (it.start, it.now) = (start, start);
    ["one", "two"].into_iter().for_each(|message| it.write(message));
    it.begin_stop(s(10));
    it.run_for(ms(1_000));
    first.read_all();
    first.close_by_peer();
    it.hang_up();
    it.run_for(ms(150));
    second.read_all();
    it.run_for(ms(20));
    assert_eq!((it.ending, second.texts()), (Some(Ending::Clean), vec!["two".to_owned()]));
}

#[test]
fn a_stop_delivers_what_stands_behind_a_poison_message_and_says_that_one_was_given_up() {
    let wire = FakeConnection::default();
    let good = wire.clone();
    let mut dials = 0;
    let mut it = Simulation::new(move |_| {
        dials += 1;
        Ok(if dials <= 5 { FakeConnection::with(|wire| wire.hung_up = true) } else { good.clone() })
    });
    ["poison", "one"].into_iter().for_each(|message| it.write(message));
    let (ending, _) = it.stop(s(10));
    assert_eq!((ending, wire.texts(), it.abandoned()), (Ending::Undelivered(1), vec!["one".to_owned()], 1));
}

#[test]
fn a_second_stop_with_less_time_ends_both() {
    let mut it = Simulation::new(|_| backlog_full());
    it.write("one");
    it.begin_stop(s(60));
    it.run_for(s(1));
    assert_eq!(it.ending, None);
    it.begin_stop(ms(50));
    it.run_for(ms(50));
    assert_eq!(it.ending, Some(Ending::TimedOut));
}

#[test]
fn who_comes_after_the_end_is_told_the_same_and_a_late_connection_is_closed() {
    let mut it = Simulation::new(|_| backlog_full());
    it.write("one");
    let (ending, _) = it.stop(ms(10));
    let late = FakeConnection::default();
    let (now, event) = (it.now, Event::Dialled(Ok(late.clone())));
    let step = it.with_session(|session, context| session.step(now, Phase::Running, event, context));
    assert_eq!(step.next, Next::Finished(ending));
    assert!(late.0.borrow().is_closed);
}

#[test]
fn a_writer_that_nobody_drives_gives_everything_up() {
    let mut it = Simulation::with_connections(&[]);
    it.write("one");
    assert_eq!(it.with_session(|session, context| session.give_up(context)), Ending::Undelivered(1));
    assert_eq!(it.with_session(|session, context| session.give_up(context)), Ending::Undelivered(1));
    assert_eq!((it.abandoned(), it.session.take_reports().len()), (1, 1));
}

#[test]
fn a_stop_leaves_the_dial_to_the_threads_unless_none_of_them_comes() {
    for threads_come in [true, false] {
        let mut it = Simulation::with_connections(&[]);
        it.write("one");
        it.run_for(s(40));
        let dials = it.dials.len();
        it.begin_stop(s(5));
        it.is_guest = true;
        it.poke();
        assert_eq!(it.dials.len(), dials, "the path may be slow to find");
        assert!(it.wake_at.is_some_and(|at| at <= it.now), "a thread is woken at once");
        if threads_come {
            it.is_guest = false;
            it.poke();
            it.is_guest = true;
            assert_eq!(it.dials.len(), dials + 1);
            it.poke();
        } else {
            it.now += ms(50);
            it.poke();
            assert_eq!(it.dials.len(), dials + 1);
        }
    }
}
