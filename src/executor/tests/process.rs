//! The executor that a process shares, and forked children.

use super::*;

#[test]
fn tasks_share_the_current_executor_and_the_next_one_is_new() {
    let current = Current::new(Weak::new());
    let tasks: Vec<Arc<dyn Task>> = (0..3).map(|_| Probe::idle() as _).collect();
    let register = |task| Registration::join(&current, task).expect("a thread");
    let (first, second) = (register(&tasks[0]), register(&tasks[1]));
    assert!(Arc::ptr_eq(&first.executor, &second.executor));
    assert!(Arc::ptr_eq(first.poller(), second.poller()));
    assert_ne!(first.key(), second.key());
    assert!(first.leave(None) && second.leave(None));
    let third = register(&tasks[2]);
    assert!(!Arc::ptr_eq(&first.executor, &third.executor));
    let deadline = Instant::now() + LONG;
    assert!(third.leave(Some(deadline)));
}

/// As it is in a child that was forked while a thread of its parent held the lock.
#[test]
fn a_lock_that_is_never_released_does_not_stop_a_registration() {
    let current = Current::new(Weak::new());
    let held = current.lock();
    let tasks: [Arc<dyn Task>; 2] = [Probe::idle(), Probe::idle()];
    let registrations =
        tasks.each_ref().map(|task| Registration::join(&current, task).expect("an executor of its own"));
    assert!(!Arc::ptr_eq(&registrations[0].executor, &registrations[1].executor));
    drop(held);
    assert!(registrations.iter().all(|registration| registration.leave(None)));
}

#[test]
fn the_processes_own_executor_serves_whoever_joins() {
    let task: Arc<dyn Task> = Probe::idle();
    let registration = Registration::new(&task).expect("a thread");
    assert!(!registration.executor.platform.is_forked());
    assert!(registration.leave(None));
}

/// A callback forks and returns in the child, where a thread of the parent held the lock: nothing waits for it there.
#[test]
fn a_thread_that_was_forked_in_a_turn_ends_with_it() {
    let executor = executor(1);
    let gate = Arc::new(Gate::default());
    let other = Probe::idle();
    let probe = {
        let (gate, other) = (Arc::clone(&gate), Arc::clone(&other));
        Probe::new(move |probe, _, worker| {
            worker.block_in_place(|| gate.pass());
            other.notify();
            other.set_timer_in(Duration::ZERO);
            worker.is_crowded() || !worker.block_in_place(|| probe.leave())
        })
    };
    probe.register(&executor);
    other.register(&executor);
    probe.notify();
    gate.wait_for_arrival();
    wait_until("the thread in reserve to be parked", || executor.platform.waits().len() == 1);
    executor.queue.locked(|| {
        executor.platform.forked.store(true, Ordering::SeqCst);
        gate.open();
        wait_until("the thread to end", || threads(&executor) == 1);
    });
    assert_eq!((probe.turns(), probe.panics.load(Ordering::SeqCst)), (1, 0));
    // What is called of an inherited registration comes back as well.
    executor.queue.locked(|| {
        other.notify();
        other.set_timer_in(Duration::ZERO);
        assert!(other.leave());
    });
    executor.platform.forked.store(false, Ordering::SeqCst);
    assert_eq!(executor.queue.close().len(), 2, "the parent's tasks were left alone");
    executor.platform.wake();
}

/// A child makes its own executor beside the one that it inherited.
#[test]
fn a_forked_child_joins_an_executor_of_its_own() {
    let current = Current::new(Weak::new());
    let inherited: Arc<dyn Task> = Probe::idle();
    let registration = Registration::join(&current, &inherited).expect("a thread");
    crate::sys::fork::tests::in_forked_child(|| {
        let task: Arc<dyn Task> = Probe::idle();
        let deadline = Some(Instant::now() + LONG);
        let own = Registration::join(&current, &task);
        own.is_ok_and(|own| !Arc::ptr_eq(&own.executor, &registration.executor) && own.leave(deadline))
            && registration.leave(deadline)
    });
    assert!(registration.leave(None));
}
