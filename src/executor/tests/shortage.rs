//! Without threads, and with descriptors that somebody has closed.

use super::*;

#[test]
fn without_a_thread_there_is_no_registration() {
    let executor = Executor::new(Shim::with_spawns(0), 1);
    let probe = Probe::idle();
    let error = probe.try_register(&executor).expect_err("no thread");
    assert!(matches!(error, Error::NoResources { .. }), "{error}");
    assert_eq!((Arc::strong_count(&executor), Arc::strong_count(&probe)), (1, 1), "nothing is left behind");
}

#[test]
fn without_a_reserve_there_is_no_second_registration_and_the_first_one_works() {
    let executor = Executor::new(Shim::with_spawns(1), 1);
    let (first, second) = (Probe::idle(), Probe::idle());
    first.register(&executor);
    let error = second.try_register(&executor).expect_err("no second thread");
    assert!(matches!(error, Error::NoResources { .. }), "{error}");
    first.notify();
    first.wait_for_turns(1);
    first.set_timer_in(Duration::ZERO);
    first.wait_for_turns(2);
    leave_all(&executor, [&first]);
}

#[test]
fn when_no_thread_is_to_be_had_the_others_do_the_work_alone() {
    let executor = Executor::new(Shim::with_spawns(2), 4);
    let blockers = [blocking(true), blocking(true)];
    let other = Probe::idle();
    blockers.iter().for_each(|(blocker, _)| blocker.register(&executor));
    other.register(&executor);
    for (blocker, gate) in &blockers {
        blocker.notify();
        gate.wait_for_arrival();
    }
    other.notify(); // all are away
    other.set_timer_in(Duration::ZERO);
    assert_eq!(other.turns(), 0);
    blockers[0].1.open();
    other.wait_for_turns(1);
    blockers[1].1.open();
    blockers.iter().for_each(|(blocker, _)| blocker.wait_for_turns(1));
    leave_all(&executor, blockers.iter().map(|(blocker, _)| blocker).chain([&other]));
}

#[test]
fn with_descriptors_that_somebody_closed_each_task_gets_turns_all_the_same() {
    let executor = executor(1);
    let probes = [Probe::idle(), Probe::idle()];
    probes.iter().for_each(|probe| probe.register(&executor));
    executor.platform.broken.store(true, Ordering::SeqCst);
    executor.platform.wake(); // a wait that has begun before would take up to 30 s
    probes.iter().for_each(|probe| probe.wait_for_turns(3));
    executor.platform.broken.store(false, Ordering::SeqCst);
    let pauses = executor.platform.pauses.lock().clone();
    assert!(pauses.len() >= 3 && pauses.iter().all(|pause| *pause == BROKEN_PAUSE), "no thread spins: {pauses:?}");
    leave_all(&executor, &probes);
}
