//! Readers that start at one path at the same time, and what the lock is for.

use std::sync::Barrier;

use super::*;

#[test]
fn of_two_starters_at_the_same_instant_exactly_one_wins() {
    let dir = directory();
    let path = dir.path().join("socket");
    for round in 0..200 {
        let mode = (round % 2 == 1).then_some(0o666);
        if round % 4 >= 2 {
            make_stale(&path);
        }
        let together = Barrier::new(2);
        let start = || {
            together.wait();
            claim_with(&path, mode)
        };
        let results = std::thread::scope(|scope| {
            let (a, b) = (scope.spawn(start), scope.spawn(start));
            [a.join().expect("no panic"), b.join().expect("no panic")]
        });
        let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, 1), "round {round}: {won:?} {lost:?}");
        lost.into_iter().for_each(|result| assert!(is_in_use(result).contains("live"), "round {round}"));
        socket::connect(&path).expect("the winner listens");
        assert_eq!(names_in(dir.path()), ["socket"], "round {round}");
        for (listener, claim) in won.into_iter().flatten() {
            claim.release().expect("ours");
            drop(listener);
        }
        assert_eq!(names_in(dir.path()), [""; 0], "round {round}");
    }
}

#[test]
fn starters_and_releases_side_by_side_never_have_two_winners() {
    let dir = directory();
    let path = dir.path().join("socket");
    let (wins, deadline) = (AtomicU32::new(0), later());
    std::thread::scope(|scope| {
        let starters: Vec<_> = std::iter::repeat_with(|| {
            scope.spawn(|| {
                while wins.load(Ordering::Relaxed) < 400 && Instant::now() < deadline {
                    match claim_now(&path) {
                        Ok((listener, claim)) => {
                            assert_eq!(claim.check_file().expect("readable"), FileState::Ours, "two winners");
                            wins.fetch_add(1, Ordering::Relaxed);
                            claim.release().expect("ours");
                            drop(listener);
                        }
                        result => assert!(!is_in_use(result).is_empty()),
                    }
                }
            })
        })
        .take(4)
        .collect();
        starters.into_iter().for_each(|starter| starter.join().expect("no panic"));
    });
    assert!(wins.load(Ordering::Relaxed) > 0);
    assert_eq!(names_in(dir.path()), [""; 0]);
}

#[test]
fn a_release_does_not_wait_for_whoever_holds_the_lock() {
    let dir = directory();
    let path = dir.path().join("socket");
    let (_listener, claim) = claim_now(&path).expect("an empty directory");
    let _held = DirectoryLock::try_acquire(dir.path()).expect("a directory").expect("nobody has it");
    let begin = Instant::now();
    claim.release().expect("ours");
    assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
    assert_eq!(names_in(dir.path()), [""; 0]);
}

#[test]
fn a_lock_that_is_never_given_up_delays_a_start_and_does_not_prevent_it() {
    let dir = directory();
    let path = dir.path().join("socket");
    let _held = DirectoryLock::try_acquire(dir.path()).expect("a directory").expect("nobody has it");
    let wait = Duration::from_millis(50);
    for stale in [false, true] {
        if stale {
            make_stale(&path);
        }
        let begin = Instant::now();
        let (listener, claimed) = claim(&path, Access::default(), begin + wait).expect("a start without the lock");
        assert!(begin.elapsed() >= wait, "the lock is waited for first");
        let reason = is_in_use(claim(&path, Access::default(), Instant::now()));
        assert!(reason.contains("live"), "{reason}");
        claimed.release().expect("ours");
        drop(listener);
    }
}

#[test]
fn without_a_lock_a_socket_that_begins_to_listen_is_not_taken_for_a_stale_one() {
    let dir = directory();
    let path = dir.path().join("socket");
    let bound = socket::bind(&path, None).expect("an empty directory");
    std::thread::scope(|scope| {
        let clearing = scope.spawn(|| remove_stale(&path, None));
        // Between bind(2) and listen(2) for a moment, as any starter is.
        std::thread::sleep(RECHECK_DELAY / 5);
        socket::listen(bound.as_fd()).expect("bound");
        match clearing.join().expect("no panic") {
            Err(Error::AddressInUse { .. }) => socket::connect(&path).map(drop).expect("untouched"),
            // On a machine so slow that it was looked at twice before.
            other => other.expect("stale at both looks"),
        }
    });
}

#[test]
fn a_directory_that_may_not_be_read_needs_no_lock() {
    if sys_is_root() {
        return; // root may read every directory
    }
    let dir = directory();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o300)).expect("own directory");
    DirectoryLock::try_acquire(dir.path()).expect_err("it may not be read");
    let path = dir.path().join("socket");
    make_stale(&path);
    let (_listener, claimed) = claim_now(&path).expect("a start without the lock");
    claimed.release().expect("ours");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).expect("own directory");
    assert_eq!(names_in(dir.path()), [""; 0]);
}

#[test]
fn a_lock_file_of_somebody_else_is_neither_used_nor_removed() {
    let dir = directory();
    let (path, lock) = (dir.path().join("socket"), dir.path().join("socket.lock"));
    let file = fs::File::create(&lock).expect("a file");
    file.lock().expect("nobody else has it");
    let (_listener, claimed) = claim_now(&path).expect("it means nothing here");
    assert_eq!(names_in(dir.path()), ["socket", "socket.lock"]);
    claimed.release().expect("ours");
    assert_eq!(names_in(dir.path()), ["socket.lock"]);
}
