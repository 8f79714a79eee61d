//! The end of a task, by leaving or by a panic, and of the executor.

use super::*;

#[test]
fn leaving_waits_for_the_turn_and_the_threads() {
    let executor = executor(2);
    let (probe, gate) = blocking(false);
    probe.register(&executor);
    probe.notify();
    gate.wait_for_arrival();
    assert!(!probe.registration().leave(Some(Instant::now())), "the deadline comes first");
    let has_left = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(probe.leave());
            assert_eq!(probe.turns(), 1);
            has_left.store(true, Ordering::SeqCst);
        });
        wait_until("somebody to wait", || executor.queue.is_waited_for());
        assert!(!has_left.load(Ordering::SeqCst));
        probe.notify(); // too late
        gate.open();
    });
    assert_eq!((probe.turns(), threads(&executor)), (1, 0));
    assert!(probe.leave(), "again");
    assert_eq!(Arc::strong_count(&probe), 1);
}

#[test]
fn a_turn_may_leave_for_its_own_task_and_for_others() {
    let executor = executor(1);
    let other = Probe::idle();
    let probe = {
        let other = Arc::clone(&other);
        Probe::new(move |probe, _, _| {
            assert!(other.leave());
            assert!(probe.leave(), "the last one, in its own turn");
            true
        })
    };
    other.register(&executor);
    probe.register(&executor);
    probe.notify();
    probe.wait_for_turns(1);
    assert_eq!(probe.panics.load(Ordering::SeqCst), 0);
    leave_all(&executor, [&probe, &other]);
}

/// A caller joins the threads while one of them is in a turn that leaves.
#[test]
fn leaving_in_a_turn_does_not_wait_for_who_waits_for_the_turn() {
    let executor = executor(2);
    let other = Probe::idle();
    let gate = Arc::new(Gate::default());
    let probe = {
        let (gate, other) = (Arc::clone(&gate), Arc::clone(&other));
        Probe::new(move |_, _, _| {
            gate.pass();
            assert!(other.leave());
            true
        })
    };
    probe.register(&executor);
    other.register(&executor);
    probe.notify();
    gate.wait_for_arrival();
    assert!(!probe.registration().leave(Some(Instant::now())));
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(other.leave(), "the last one: joins the threads"));
        wait_until("it to have left", || executor.queue.is_closed());
        gate.open();
    });
    assert_eq!(probe.turns(), 1);
    leave_all(&executor, [&probe, &other]);
}

#[test]
fn a_panic_ends_its_own_task_only() {
    let executor = executor(1);
    let other = Probe::idle();
    let bad = Probe::new(|_, _, worker| worker.block_in_place(|| panic!("a bug that a test makes")));
    other.register(&executor);
    bad.register(&executor);
    bad.notify();
    wait_until("the task to be told", || bad.panics.load(Ordering::SeqCst) == 1);
    bad.notify();
    other.notify();
    other.wait_for_turns(1);
    assert_eq!((bad.panics.load(Ordering::SeqCst), other.panics.load(Ordering::SeqCst)), (1, 0));
    leave_all(&executor, [&bad, &other]);
}

#[test]
fn a_bug_in_the_executor_is_told_to_every_task() {
    let executor = executor(1);
    let probes = [Probe::idle(), Probe::idle()];
    probes.iter().for_each(|probe| probe.register(&executor));
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _turn = Turn { executor: &*executor, key: 1 };
        panic!("a bug that a test makes");
    }));
    assert!(outcome.is_err());
    executor.give_up();
    executor.platform.wake();
    assert!(probes.iter().all(|probe| probe.panics.load(Ordering::SeqCst) == 1));
    probes[0].notify();
    leave_all(&executor, &probes);
    assert_eq!(probes[0].turns(), 0);
}
