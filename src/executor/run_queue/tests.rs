use super::*;
use crate::executor::task::NeverRun;

/// A run queue with one thread and so many tasks, whose keys count from 1.
fn queue_with(tasks: Key) -> (RunQueue, Vec<Runnable>) {
    let queue = RunQueue::new(1);
    let register = |_| {
        let key = queue.reserve_place().expect("memory").expect("not closed");
        let runnable = NeverRun::runnable(key);
        queue.insert(key, Arc::clone(&runnable.task));
        runnable
    };
    let runnables = (0..tasks).map(register).collect();
    assert_eq!(queue.ensure_worker(), Demand::Spawn);
    (queue, runnables)
}

fn notify(queue: &RunQueue, runnable: &Runnable) {
    if runnable.state().notify(Wakeup::NOTIFIED) {
        let _ = queue.push(runnable.clone());
    }
}

fn next_key(queue: &RunQueue) -> Option<Key> {
    match queue.next() {
        Duty::Run(runnable, _) => Some(runnable.key),
        Duty::Park(park) => {
            assert_eq!(queue.unpark(&park, &Events::new(), 0), Unparked::Stay);
            None
        }
        Duty::Exit => panic!("not closed"),
    }
}

fn on_another_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(body).join().expect("no panic"))
}

#[test]
fn tasks_run_in_the_order_in_which_they_were_notified_and_each_once() {
    let (queue, tasks) = queue_with(3);
    [2, 0, 2, 1, 0].iter().for_each(|task| notify(&queue, &tasks[*task]));
    assert!(queue.is_crowded());
    assert_eq!([(); 4].map(|()| next_key(&queue)), [Some(3), Some(1), Some(2), None]);
    assert!(!queue.is_crowded());
}

#[test]
fn a_task_that_wants_more_goes_to_the_end() {
    let (queue, tasks) = queue_with(2);
    notify(&queue, &tasks[0]);
    notify(&queue, &tasks[1]);
    let Duty::Run(first, _) = queue.next() else { panic!("a task") };
    assert!(first.state().begin().is_some());
    notify(&queue, &first);
    assert!(first.state().end());
    queue.push_again(first);
    queue.finished(1);
    assert_eq!([next_key(&queue), next_key(&queue)], [Some(2), Some(1)]);
}

#[test]
fn events_and_timers_queue_their_tasks_and_no_others() {
    let (queue, tasks) = queue_with(4);
    let _ = queue.set_timer(10, tasks[3].clone());
    let _ = queue.set_timer(11, tasks[0].clone());
    let Duty::Park(park) = queue.next() else { panic!("nothing to do") };
    assert_eq!(park.until, Some(10));
    let mut events = Events::new();
    events.push(2, Wakeup::HANGUP);
    events.push(99, Wakeup::READY); // of a task that has left
    assert_eq!(queue.unpark(&park, &events, 10), Unparked::Stay);
    assert_eq!([next_key(&queue), next_key(&queue)], [Some(2), Some(4)]);
    assert!(tasks[1].state().begin().is_some_and(Wakeup::is_hangup));
    assert!(tasks[3].state().begin().is_some_and(Wakeup::is_timer));
    let Duty::Park(park) = queue.next() else { panic!("nothing to do") };
    assert_eq!(park.until, Some(11));
}

#[test]
fn with_broken_descriptors_every_task_looks_for_itself() {
    let (queue, tasks) = queue_with(3);
    queue.note(&Events { broken: true, ..Events::new() }, 0);
    let mut keys = [(); 3].map(|()| next_key(&queue));
    keys.sort_unstable();
    assert_eq!(keys, [Some(1), Some(2), Some(3)]);
    assert!(tasks[0].state().begin().is_some_and(|wakeup| wakeup.is_ready() && !wakeup.is_hangup()));
}

#[test]
fn nothing_holds_a_task_that_was_removed() {
    let (queue, mut tasks) = queue_with(2);
    let gone = tasks.remove(0);
    notify(&queue, &gone);
    let _ = queue.set_timer(1, gone.clone());
    assert!(!queue.remove(1, gone.state()).closed);
    let _ = queue.push(gone.clone());
    let _ = queue.set_timer(9, gone.clone());
    queue.push_again(gone.clone());
    let mut events = Events::new();
    events.push(1, Wakeup::READY);
    queue.note(&events, 1);
    assert_eq!(next_key(&queue), None);
    assert_eq!(Arc::strong_count(&gone.task), 1);
    assert!(!queue.remove(1, gone.state()).closed, "again");
}

#[test]
fn the_last_task_that_is_removed_closes_the_queue() {
    let (queue, tasks) = queue_with(2);
    assert!(!queue.remove(1, tasks[0].state()).closed);
    let pending = queue.reserve_place().expect("memory");
    assert_eq!(pending, Some(3));
    assert!(!queue.remove(2, tasks[1].state()).closed, "a registration is under way");
    assert!(!queue.is_closed());
    assert!(queue.give_place_back());
    assert!(matches!(queue.next(), Duty::Exit));
    assert_eq!(queue.reserve_place().expect("memory"), None);
}

#[test]
fn a_turn_is_waited_for_unless_it_is_the_callers_own() {
    let (queue, tasks) = queue_with(1);
    notify(&queue, &tasks[0]);
    assert_eq!(next_key(&queue), Some(1));
    assert!(queue.wait_for_turn(1, None), "its own");
    assert!(queue.is_own_thread());
    let soon = || Some(Instant::now() + std::time::Duration::from_millis(1));
    assert!(!on_another_thread(|| queue.wait_for_turn(1, soon())));
    assert!(on_another_thread(|| queue.wait_for_turn(2, None)), "another task's");
    assert!(!on_another_thread(|| queue.is_own_thread()));
    queue.finished(1);
    assert!(on_another_thread(|| queue.wait_for_turn(1, None)));
    assert!(!queue.is_own_thread());
}

#[test]
fn all_are_taken_out_of_a_queue_that_is_closed_at_once() {
    let (queue, tasks) = queue_with(3);
    notify(&queue, &tasks[0]);
    let _ = queue.set_timer(5, tasks[1].clone());
    assert_eq!(queue.close().len(), 3);
    assert!(tasks.iter().all(|task| Arc::strong_count(&task.task) == 1 && task.state().is_done()));
    assert!(matches!(queue.next(), Duty::Exit));
}

#[test]
fn the_only_task_needs_no_other_thread_while_it_blocks() {
    let (queue, _tasks) = queue_with(1);
    assert_eq!(queue.hand_off(), Demand::Nothing);
    queue.hand_back();
    queue.reserve_place().expect("memory");
    assert_eq!(queue.ensure_reserve(), Demand::Spawn);
    assert_eq!((queue.hand_off(), queue.hand_off()), (Demand::Nothing, Demand::Spawn));
}

#[test]
fn a_spare_thread_leaves_when_nothing_came_and_passes_the_timers_on() {
    let queue = RunQueue::new(4);
    let key = queue.reserve_place().expect("memory").expect("not closed");
    let task = NeverRun::runnable(key);
    queue.insert(key, Arc::clone(&task.task));
    queue.state.lock().workers = Workers::with_threads(3, 4);
    let _ = queue.set_timer(100, task);
    let park = || match queue.next() {
        Duty::Park(park) => park,
        other => panic!("{other:?}"),
    };
    let (keeper, second, third) = (park(), park(), park());
    assert!(keeper.spare && keeper.until.is_some() && second.until.is_none() && third.until.is_none());
    assert_eq!(queue.unpark(&keeper, &Events::new(), 50), Unparked::Leave(Demand::Unpark));
    assert_eq!(queue.unpark(&second, &Events { any: true, ..Events::new() }, 50), Unparked::Stay);
    assert_eq!(park().until, Some(100));
}

/// Where a task is queued nobody could be told that memory is short.
#[test]
fn room_is_reserved_with_the_registration() {
    let (queue, tasks) = queue_with(300);
    let capacities = || {
        let state = queue.state.lock();
        (state.queue.capacity(), state.running.capacity(), state.tasks.capacity(), state.timers.capacity())
    };
    let before = capacities();
    tasks.iter().for_each(|task| notify(&queue, task));
    tasks.iter().for_each(|task| assert_eq!(queue.set_timer(1, task.clone()), Demand::Nothing));
    (0..300).for_each(|_| assert!(next_key(&queue).is_some()));
    assert_eq!(capacities(), before);
}
