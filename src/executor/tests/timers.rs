//! Timers, and how long threads wait.

use super::*;

#[test]
fn timers_come_in_order_and_none_too_early() {
    let executor = executor(1);
    let order = Arc::new(Mutex::new(Vec::new()));
    let probes: Vec<_> = (0..20)
        .map(|index| {
            let order = Arc::clone(&order);
            Probe::new(move |_, wakeup, _| {
                assert!(wakeup.is_timer() && !wakeup.is_notified() && !wakeup.is_ready());
                order.lock().push((index, Instant::now()));
                true
            })
        })
        .collect();
    probes.iter().for_each(|probe| probe.register(&executor));
    let base = Instant::now() + Duration::from_millis(50);
    // The order in which they are set is another one than that in which they expire.
    let at = |index: u32| base + Duration::from_millis(3) * index;
    (0..20).map(|step| step * 7 % 20).for_each(|index| probes[index as usize].registration().set_timer(at(index)));
    wait_until("all timers", || order.lock().len() == 20);
    let order: Vec<_> = std::mem::take(&mut order.lock());
    assert_eq!(order.iter().map(|(index, _)| *index).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert!(order.iter().all(|(index, time)| *time >= at(*index)));
    leave_all(&executor, &probes);
}

#[test]
fn an_earlier_timer_of_a_caller_wakes_the_parked_threads_timekeeper() {
    let executor = executor(2);
    let (hour, soon) = (Probe::idle(), Probe::idle());
    hour.register(&executor);
    soon.register(&executor);
    wait_until("both threads to be parked", || executor.platform.waits().len() == 2);
    hour.set_timer_in(Duration::from_secs(20));
    let waits = || executor.platform.waits();
    let timed = |waits: &[Duration]| waits.iter().filter(|wait| **wait < PARK_LIMIT).count();
    wait_until("one timekeeper and no more", || waits().len() == 2 && timed(&waits()) == 1);
    soon.set_timer_in(Duration::from_millis(1));
    soon.wait_for_turns(1);
    assert_eq!((hour.turns(), soon.turns()), (0, 1));
    leave_all(&executor, [&hour, &soon]);
}

#[test]
fn an_idle_executor_waits_as_long_as_it_may() {
    let executor = executor(4);
    let probes = [Probe::idle(), Probe::idle(), Probe::idle()];
    probes.iter().for_each(|probe| probe.register(&executor));
    for probe in &probes {
        probe.notify();
        probe.wait_for_turns(1);
        probe.set_timer_in(Duration::from_millis(1));
        probe.wait_for_turns(2);
    }
    probes[0].set_timer_in(Duration::from_secs(3600));
    let idle = || executor.platform.waits() == [Duration::from_secs(30); 2];
    wait_until("two parked threads, one of them in reserve, and no timer within that time", idle);
    leave_all(&executor, &probes);
}

/// The two threads are one that blocks and the one in reserve.
#[test]
fn timers_are_not_late_while_a_thread_blocks() {
    let executor = Executor::new(Shim::with_spawns(2), 1);
    let (blocker, gate) = blocking(true);
    let timed = Probe::idle();
    blocker.register(&executor);
    timed.register(&executor);
    // Set before the thread blocks, set meanwhile, and set in the very turn that blocks.
    timed.set_timer_in(Duration::from_millis(30));
    blocker.notify();
    gate.wait_for_arrival();
    timed.wait_for_turns(1);
    timed.set_timer_in(Duration::from_millis(1));
    timed.wait_for_turns(2);
    gate.open();
    blocker.wait_for_turns(1);

    let setter = {
        let timed = Arc::clone(&timed);
        Probe::new(move |_, _, worker| {
            timed.set_timer_in(Duration::from_millis(1));
            worker.block_in_place(|| timed.wait_for_turns(3));
            true
        })
    };
    setter.register(&executor);
    setter.notify();
    setter.wait_for_turns(1);
    assert_eq!(setter.panics.load(Ordering::SeqCst), 0);
    leave_all(&executor, [&blocker, &timed, &setter]);
}
