//! Turns that block.

use super::*;

#[test]
fn others_are_served_while_threads_block() {
    let executor = executor(1);
    let blockers: Vec<_> = (0..6).map(|_| blocking(true)).collect();
    let other = Probe::idle();
    other.register(&executor);
    for (turns, (blocker, gate)) in blockers.iter().enumerate() {
        blocker.register(&executor);
        blocker.notify();
        gate.wait_for_arrival();
        other.notify();
        other.wait_for_turns(turns + 1);
    }
    assert!(threads(&executor) >= 7);
    let pauses = std::mem::take(&mut *executor.platform.pauses.lock());
    assert!(
        pauses.len() >= 10 && pauses.iter().all(|pause| *pause == LOOK_FOR_A_THREAD),
        "the last of many waits first"
    );
    blockers.iter().for_each(|(_, gate)| gate.open());
    blockers.iter().for_each(|(blocker, _)| blocker.wait_for_turns(1));
    leave_all(&executor, blockers.iter().map(|(blocker, _)| blocker).chain([&other]));
}

#[test]
fn to_block_inside_of_blocking_takes_no_second_thread() {
    let executor = executor(1);
    let other = Probe::idle();
    let nested = {
        let other = Arc::clone(&other);
        Probe::new(move |_, _, worker| {
            worker.block_in_place(|| {
                worker.block_in_place(|| ());
                other.notify();
                other.wait_for_turns(1); // the thread still counts as away
            });
            true
        })
    };
    other.register(&executor);
    nested.register(&executor);
    nested.notify();
    nested.wait_for_turns(1);
    leave_all(&executor, [&nested, &other]);
    assert_eq!(executor.platform.most_threads.load(Ordering::SeqCst), 2);
}
