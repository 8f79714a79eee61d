use super::*;

const IDLE: Load = Load { queued: false, timer: None };
const QUEUED: Load = Load { queued: true, timer: None };

fn timer(at: Nanos) -> Load {
    Load { queued: false, timer: Some(at) }
}

#[test]
fn one_parked_thread_is_woken_once() {
    let mut workers = Workers::with_threads(1, 2);
    let park = workers.park(None);
    assert!(!park.spare);
    assert_eq!(workers.demand(IDLE), Demand::Nothing);
    assert_eq!(workers.demand(QUEUED), Demand::Unpark);
    assert_eq!(workers.demand(QUEUED), Demand::Nothing, "it has been woken");
    workers.unpark(&park);
    assert_eq!(workers.share(QUEUED), Demand::Spawn);
    assert_eq!(workers.share(IDLE), Demand::Nothing);
    assert_eq!(workers.demand(QUEUED), Demand::Nothing, "both are active and come by themselves");
}

#[test]
fn no_more_threads_than_processors_are_woken_or_started() {
    let mut workers = Workers::with_threads(2, 1);
    let _park = workers.park(None);
    assert_eq!(workers.share(QUEUED), Demand::Nothing);
    assert_eq!(workers.demand(QUEUED), Demand::Nothing, "one is active");
}

#[test]
fn a_thread_that_is_away_is_replaced() {
    let mut workers = Workers::new(1);
    assert_eq!(workers.ensure_worker(IDLE), Demand::Spawn);
    assert_eq!(workers.ensure_worker(QUEUED), Demand::Nothing);
    assert!(!workers.is_last_of_many(), "one is not many");
    workers.hand_off();
    assert_eq!(workers.ensure_worker(IDLE), Demand::Spawn);
    assert_eq!(workers.ensure_worker(IDLE), Demand::Nothing);
    workers.hand_off();
    assert_eq!(workers.ensure_worker(IDLE), Demand::Spawn);
    assert!(workers.is_last_of_many());
    workers.hand_back();
    assert!(!workers.is_last_of_many());
}

#[test]
fn a_parked_thread_takes_over_only_if_there_is_something_to_do() {
    let mut workers = Workers::with_threads(2, 2);
    let _park = workers.park(None);
    workers.hand_off();
    assert_eq!(workers.ensure_worker(IDLE), Demand::Nothing, "events wake it");
    assert_eq!(workers.ensure_worker(QUEUED), Demand::Unpark);
}

#[test]
fn among_many_that_are_away_no_further_one_is_started_to_share() {
    let mut workers = Workers::with_threads(3, 2);
    workers.hand_off();
    workers.hand_off();
    assert_eq!(workers.share(QUEUED), Demand::Spawn);
    assert_eq!(workers.total, 4);
    workers.hand_off();
    assert_eq!(workers.share(QUEUED), Demand::Nothing);
}

#[test]
fn a_start_that_failed_is_tried_again_at_the_next_occasion() {
    let mut workers = Workers::with_threads(1, 1);
    workers.hand_off();
    assert_eq!(workers.ensure_worker(QUEUED), Demand::Spawn);
    assert_eq!(workers.lost(QUEUED), Demand::Nothing, "not at once again and again");
    assert_eq!(workers.demand(QUEUED), Demand::Spawn);
    assert_eq!(workers.lost(QUEUED), Demand::Nothing);
    assert_eq!(workers.demand(timer(1)), Demand::Spawn, "for the timers as well");
}

#[test]
fn who_relied_on_a_thread_that_could_not_be_started_gets_a_parked_one() {
    for load in [QUEUED, timer(5)] {
        let mut workers = Workers::with_threads(1, 1);
        let _park = workers.park(None);
        assert_eq!(workers.ensure_reserve(), Demand::Spawn);
        assert_eq!(workers.demand(load), Demand::Nothing, "one is about to come");
        assert_eq!(workers.lost(load), Demand::Unpark);
    }
}

#[test]
fn a_second_thread_is_kept_in_reserve() {
    let mut workers = Workers::with_threads(1, 1);
    assert_eq!(workers.ensure_reserve(), Demand::Spawn);
    assert_eq!(workers.ensure_reserve(), Demand::Nothing);
}

#[test]
fn a_wake_up_that_a_busy_thread_took_can_be_made_again() {
    let mut workers = Workers::with_threads(2, 2);
    let _park = workers.park(None);
    assert_eq!(workers.demand(QUEUED), Demand::Unpark);
    workers.took_events();
    assert_eq!(workers.demand(QUEUED), Demand::Unpark);
}

#[test]
fn spare_threads_leave_and_two_stay() {
    let mut workers = Workers::with_threads(4, 4);
    let parks: Vec<_> = (0..4).map(|_| workers.park(None)).collect();
    assert!(parks.iter().all(|park| park.spare));
    let mut leave = |park: &Park| {
        workers.unpark(park);
        workers.leave_if_spare()
    };
    assert_eq!(parks.iter().map(&mut leave).collect::<Vec<_>>(), [true, true, false, false]);
    assert!(!workers.park(None).spare);
}

#[test]
fn one_of_several_parked_threads_waits_for_the_timers() {
    let mut workers = Workers::with_threads(3, 3);
    let first = workers.park(Some(10));
    assert_eq!(first.until, Some(10));
    let second = workers.park(Some(10));
    assert_eq!(second.until, None, "no herd at that time");
    workers.unpark(&first);
    assert_eq!(workers.park(Some(20)).until, Some(20), "the first one again: nobody else took its place");
    workers.unpark(&second);
    assert_eq!(workers.park(Some(15)).until, Some(15), "an earlier one takes over");
    assert_eq!(workers.timekeeper.map(|(_, at)| at), Some(15));
}

#[test]
fn a_timer_wakes_a_thread_only_if_nobody_comes_to_it_in_time() {
    let mut workers = Workers::with_threads(2, 2);
    let _park = workers.park(None);
    assert_eq!(workers.demand(timer(10)), Demand::Nothing, "the active one parks later, with that timeout");
    let keeper = workers.park(Some(10));
    assert_eq!(workers.demand(timer(10)), Demand::Nothing);
    assert_eq!(workers.demand(timer(9)), Demand::Unpark);
    assert_eq!(workers.demand(timer(8)), Demand::Nothing, "it has been woken and sees this one too");
    workers.unpark(&keeper);
    workers.hand_off();
    assert_eq!(workers.demand(timer(8)), Demand::Unpark, "the one that is awake went away");
}
