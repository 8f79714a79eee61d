//! Sending: broken connections, stalls, want of memory, poison messages, the caller that sends by itself.

use super::*;

#[test]
fn a_broken_connection_is_replaced_at_once_and_the_message_goes_out_whole_on_the_next() {
    let first = FakeConnection::with(|wire| wire.room = Some(6)); // "\x03one\x03t"
    let second = FakeConnection::default();
    let mut it = Simulation::with_connections(&[first.clone(), second.clone()]);
    it.write("one");
    it.write("two");
    it.poke();
    first.read_all();
    first.close_by_peer();
    it.hang_up();
    assert_eq!(it.dials, [Duration::ZERO, Duration::ZERO]);
    assert_eq!((first.texts(), second.texts()), (vec!["one".to_owned()], vec!["two".to_owned()]));
    assert_eq!(it.contexts(), [Context::Write]);
    assert_eq!((it.count(|counters| &counters.failed), it.count(|counters| &counters.retried)), (1, 1));
    assert_eq!(it.suspected_lost(), 0);
}

#[test]
fn a_stall_is_reported_each_time_it_has_lasted_and_keeps_connection_order_and_frame() {
    let wire = FakeConnection::with(|wire| wire.room = Some(6));
    let mut it = Simulation::with_connections(std::slice::from_ref(&wire));
    ["one", "two", "three"].into_iter().for_each(|message| it.write(message));
    it.run_for(ms(3_500));
    assert_eq!(it.contexts(), [Context::Write; 3]);
    assert!(it.reports.iter().all(|report| matches!(report.error, Error::Backpressure(_))));
    assert_eq!((it.count(|counters| &counters.failed), it.queue.account().depth.messages), (3, 2));
    wire.0.borrow_mut().room = None;
    it.poke();
    assert_eq!(wire.texts(), ["one", "two", "three"]);
    assert_eq!(it.dials.len(), 1);
}

#[test]
fn a_reader_that_reads_slowly_is_no_stall() {
    let wire = FakeConnection::with(|wire| wire.room = Some(50));
    let mut it = Simulation::with_connections(std::slice::from_ref(&wire));
    (0..30).for_each(|_| it.write("a message"));
    for _ in 0..40 {
        it.run_for(ms(900));
        wire.0.borrow_mut().read += 1; // the kernel makes room only when a whole buffer has been read
    }
    assert!(it.reports.is_empty(), "{:?}", it.reports);
}

#[test]
fn a_reader_that_stalls_and_has_been_replaced_is_left() {
    let (frozen, new) = (FakeConnection::with(|wire| wire.room = Some(6)), FakeConnection::default());
    let mut it = Simulation::with_connections(&[frozen.clone(), new.clone()]);
    ["one", "two"].into_iter().for_each(|message| it.write(message));
    it.run_for(s(3));
    assert_eq!(it.dials.len(), 1, "nothing has replaced it");
    it.is_replaced = true;
    it.run_for(s(2));
    assert!(frozen.0.borrow().is_closed);
    assert_eq!(new.texts(), ["two"]);
    assert_eq!((it.suspected_lost(), it.abandoned()), (1, 0));
}

#[test]
fn want_of_memory_in_the_kernel_is_tried_again_on_the_same_connection() {
    let wire = FakeConnection::default();
    let no_memory = || Sent::NoMemory(io::ErrorKind::OutOfMemory.into());
    wire.0.borrow_mut().answers = (0..6).map(|_| no_memory()).collect();
    let mut it = Simulation::with_connections(std::slice::from_ref(&wire));
    it.options.max_attempts = 1;
    it.write("one");
    it.run_for(ms(200));
    assert_eq!(wire.texts(), ["one"]);
    assert_eq!((it.dials.len(), it.abandoned(), it.reports.len()), (1, 0, 0));
}

#[test]
fn want_of_memory_that_lasts_is_reported_as_that() {
    let wire = FakeConnection::default();
    let no_memory = || Sent::NoMemory(io::ErrorKind::OutOfMemory.into());
    wire.0.borrow_mut().answers = (0..1_000).map(|_| no_memory()).collect();
    let mut it = Simulation::with_connections(&[wire]);
    it.write("one");
    it.run_for(ms(2_500));
    assert!(it.reports.len() == 2 && matches!(it.reports[0].error, Error::NoResources { .. }), "{:?}", it.reports);
    assert_eq!(it.dials.len(), 1);
}

/// A reader that closes over every message that begins with "poison".
fn reader_that_closes_over_poison(received: &Rc<RefCell<Vec<String>>>) -> Simulation {
    let (present, received) = (RefCell::new(None::<FakeConnection>), Rc::clone(received));
    Simulation::new(move |_| {
        if let Some(last) = present.take() {
            received.borrow_mut().extend(last.texts());
        }
        let wire = FakeConnection::default();
        *present.borrow_mut() = Some(wire.clone());
        Ok(wire)
    })
}

#[test]
fn three_poison_messages_delay_what_stands_behind_them_by_little() {
    let received = Rc::default();
    let mut it = reader_that_closes_over_poison(&received);
    it.options.max_attempts = 5;
    (0..3).for_each(|_| it.write("poison"));
    (0..10).for_each(|i| it.write(&format!("good {i}")));
    // Each connection takes the prefix of a poison message, and breaks; or all that is good.
    let inner = std::mem::replace(&mut it.dial, Box::new(|_| refused()));
    let (mut inner, mut broken) = (inner, 0);
    it.dial = Box::new(move |now| {
        broken += 1;
        inner(now).inspect(|wire| {
            if broken <= 15 {
                wire.0.borrow_mut().answers.extend([Sent::Taken(1), Sent::Broken(io::ErrorKind::BrokenPipe.into())]);
                wire.0.borrow_mut().hung_up = true;
            }
        })
    });
    it.run_for(s(1));
    assert_eq!((it.abandoned(), it.queue.account().sent.messages), (3, 10));
    assert!(it.dials[15] <= ms(3 * 200), "{:?}", it.dials);
    let given_up = it.reports.iter().filter(|report| matches!(report.error, Error::Undelivered(1))).count();
    assert_eq!(given_up, 3);
    assert_eq!(it.count(|counters| &counters.failed), 15);
}

#[test]
fn a_connect_that_fails_is_no_attempt() {
    let mut dials = 0;
    let last = FakeConnection::default();
    let good = last.clone();
    let mut it = Simulation::new(move |_| {
        dials += 1;
        match dials {
            1..=2 => Ok(FakeConnection::with(|wire| wire.hung_up = true)),
            3..=40 => refused(),
            _ => Ok(good.clone()),
        }
    });
    it.options.max_attempts = 3;
    it.write("one");
    it.run_for(s(400));
    assert_eq!((last.texts(), it.abandoned()), (vec!["one".to_owned()], 0));
}

#[test]
fn an_idle_session_asks_for_no_step() {
    let wire = FakeConnection::default();
    let mut it = Simulation::with_connections(std::slice::from_ref(&wire));
    it.write("one");
    it.poke();
    wire.read_all();
    it.run_for(s(60));
    assert_eq!(it.wake_at, None);
}

#[test]
fn a_lone_message_is_sent_by_its_caller_and_a_burst_is_not() {
    let wire = FakeConnection::default();
    let mut it = Simulation::with_connections(std::slice::from_ref(&wire));
    it.poke();
    let write = |it: &mut Simulation, gap| {
        it.now += gap;
        assert!(it.queue.push(b"message").expect("room").is_session(), "the session sleeps");
        let now = it.now;
        it.with_session(|session, context| session.send_at_once(now, context))
    };
    assert!(write(&mut it, ms(1)));
    assert!(write(&mut it, ms(1)));
    assert!(!write(&mut it, Duration::from_micros(1)));
    it.poke();
    assert_eq!(wire.texts().len(), 3);
}

/// A step that sends much on a starved machine may take longer than `write_timeout`.
#[test]
fn a_stall_that_begins_at_the_end_of_a_long_step_is_no_old_one() {
    let wire = FakeConnection::with(|wire| wire.room = Some(4));
    let mut it = Simulation::with_connections(std::slice::from_ref(&wire));
    let timeout = it.options.write_timeout;
    it.step_takes = timeout * 2;
    it.write("taken");
    it.poke();
    it.now += it.step_takes;
    it.step_takes = Duration::ZERO;
    it.run_for(timeout - ms(1));
    assert!(it.reports.is_empty(), "{:?}", it.reports);
    it.run_for(ms(2));
    assert_eq!(it.contexts(), [Context::Write]);
}
