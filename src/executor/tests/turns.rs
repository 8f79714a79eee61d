//! Whose turn it is, and that each task has one at a time.

use super::*;

#[test]
fn what_many_threads_ask_for_is_done_by_one_thread_at_a_time() {
    let executor = executor(4);
    let (asked, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let probe = {
        let (asked, done) = (Arc::clone(&asked), Arc::clone(&done));
        Probe::new(move |_, wakeup, _| {
            assert!(wakeup.is_notified());
            done.store(asked.load(Ordering::SeqCst), Ordering::SeqCst);
            true
        })
    };
    probe.register(&executor);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    asked.fetch_add(1, Ordering::SeqCst);
                    probe.notify();
                }
            });
        }
    });
    wait_until("all to be done", || done.load(Ordering::SeqCst) == 16_000);
    assert_eq!(probe.panics.load(Ordering::SeqCst), 0);
    leave_all(&executor, [&probe]);
}

#[test]
fn a_hang_up_and_room_to_write_each_give_a_turn() {
    let executor = executor(2);
    let wakeups = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&wakeups);
    let probe = Probe::new(move |_, wakeup, _| {
        seen.lock().push(wakeup);
        true
    });
    probe.register(&executor);
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let poller = &executor.platform.system.poller;
    let key = probe.registration().key();
    poller.add(ours.as_fd(), key, Interest::WRITABLE_EDGE).expect("a registration");
    probe.wait_for_turns(1);
    assert_eq!(*wakeups.lock(), [Wakeup::READY]);
    drop(theirs);
    wait_until("the hang-up", || wakeups.lock().iter().any(|wakeup| wakeup.is_hangup()));
    poller.remove(ours.as_fd()).expect("registered");
    leave_all(&executor, [&probe]);
}

#[test]
fn a_thousand_tasks_need_few_threads() {
    let executor = executor(2);
    let probes: Vec<_> = (0..1_000).map(|_| Probe::idle()).collect();
    probes.iter().for_each(|probe| probe.register(&executor));
    std::thread::scope(|scope| {
        probes.chunks(250).for_each(|chunk| drop(scope.spawn(move || chunk.iter().for_each(Probe::notify))));
    });
    probes.iter().for_each(|probe| probe.wait_for_turns(1));
    probes.iter().for_each(|probe| probe.set_timer_in(Duration::from_millis(5)));
    probes.iter().for_each(|probe| probe.wait_for_turns(2));
    assert!(executor.platform.most_threads.load(Ordering::SeqCst) <= 2);
    leave_all(&executor, &probes);
    assert!(probes.iter().all(|probe| Arc::strong_count(probe) == 1), "nothing is left behind");
}

#[test]
fn a_task_that_comes_to_rest_gets_no_further_turn() {
    let executor = executor(1);
    let probe = Probe::new(|probe, _, _| {
        probe.notify();
        probe.set_timer_in(Duration::ZERO);
        false
    });
    probe.register(&executor);
    probe.notify();
    probe.wait_for_turns(1);
    wait_until("the threads to end: it was the last task", || threads(&executor) == 0);
    probe.notify();
    probe.set_timer_in(Duration::ZERO);
    leave_all(&executor, [&probe]);
    assert_eq!(probe.turns(), 1);
    assert_eq!(Arc::strong_count(&probe), 1);
}

#[test]
fn a_task_that_never_rests_starves_nobody() {
    let executor = executor(1);
    let restless = Probe::new(|probe, _, _| {
        probe.notify();
        true
    });
    let other = Probe::idle();
    let ready = Probe::new(|_, wakeup, _| wakeup.is_timer() || wakeup.is_ready());
    [&restless, &other, &ready].iter().for_each(|probe| probe.register(&executor));
    restless.notify();
    restless.wait_for_turns(1);
    other.notify();
    other.wait_for_turns(1);
    ready.set_timer_in(Duration::from_millis(1));
    ready.wait_for_turns(1);
    let (ours, _theirs) = UnixStream::pair().expect("a pair");
    let poller = &executor.platform.system.poller;
    poller.add(ours.as_fd(), ready.registration().key(), Interest::WRITABLE_EDGE).expect("a registration");
    ready.wait_for_turns(2);
    leave_all(&executor, [&restless, &other, &ready]);
}

#[test]
fn a_turn_knows_whether_others_wait_for_one() {
    let executor = executor(1);
    let other = Probe::idle();
    let answers = Arc::new(Mutex::new(Vec::new()));
    let curious = {
        let (answers, other) = (Arc::clone(&answers), Arc::clone(&other));
        Probe::new(move |_, _, worker| {
            let before = worker.is_crowded();
            other.notify();
            answers.lock().push((before, worker.is_crowded()));
            true
        })
    };
    other.register(&executor);
    curious.register(&executor);
    // Of several attempts, since a thread of another test's executor may be in the way for a moment.
    for turn in 1..=5 {
        curious.notify();
        curious.wait_for_turns(turn);
        other.wait_for_turns(turn);
    }
    assert!(answers.lock().contains(&(false, true)), "the only thread that may run it was in this turn");
    leave_all(&executor, [&curious, &other]);
}

#[test]
fn keys_are_never_used_twice() {
    let executor = executor(1);
    let stays = Probe::idle();
    stays.register(&executor);
    let keys: HashSet<_> = (0..100)
        .map(|_| {
            let probe = Probe::idle();
            probe.register(&executor);
            assert!(probe.leave());
            probe.registration().key()
        })
        .collect();
    assert_eq!(keys.len(), 100);
    leave_all(&executor, [&stays]);
}
