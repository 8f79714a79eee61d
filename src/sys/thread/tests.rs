use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;

use super::*;

fn is_blocked(signal: libc::c_int) -> bool {
    let mut now = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: only the current mask is read.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), now.as_mut_ptr());
        libc::sigismember(now.as_ptr(), signal) == 1
    }
}

#[test]
fn a_thread_is_born_with_all_signals_blocked_but_faults_and_the_caller_keeps_its_mask() {
    let thread = spawn("udsipc-test", None, || {
        for signal in [libc::SIGPIPE, libc::SIGTERM, libc::SIGINT, libc::SIGCHLD, libc::SIGALRM, libc::SIGABRT] {
            assert!(is_blocked(signal), "signal {signal}");
        }
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS] {
            assert!(!is_blocked(signal), "signal {signal}");
        }
    });
    thread.expect("a thread").join().expect("no panic");
    assert!(!is_blocked(libc::SIGTERM));
}

#[test]
fn a_child_forked_by_a_thread_of_ours_or_by_one_that_such_a_thread_started_has_the_hosts_mask() {
    fn mask_is_back_in_a_child() {
        assert!(is_blocked(libc::SIGTERM));
        crate::sys::fork::tests::in_forked_child(|| !is_blocked(libc::SIGTERM) && !is_blocked(libc::SIGINT));
        assert!(is_blocked(libc::SIGTERM), "the parent's thread keeps its own");
    }
    fork::Token::of_this_process().expect("handlers");
    let thread = spawn("udsipc-test", None, || {
        mask_is_back_in_a_child();
        let second = spawn("udsipc-test", None, mask_is_back_in_a_child);
        second.expect("a thread").join().expect("no panic");
    });
    thread.expect("a thread").join().expect("no panic");
}

/// The size of the calling thread's stack, which includes the guard in some C libraries.
fn stack_size() -> usize {
    let mut attributes = MaybeUninit::uninit();
    let mut size = 0;
    // SAFETY: initialised by the first call and destroyed by the last.
    unsafe {
        assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()), 0);
        libc::pthread_attr_getstacksize(attributes.as_ptr(), &raw mut size);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
    }
    size
}

#[test]
fn a_stack_is_as_large_as_asked_for_or_as_the_system_says() {
    let size_with = |stack| {
        let (size, got) = channel();
        let thread = spawn("udsipc-test", stack, move || size.send(stack_size()).expect("a receiver"));
        thread.expect("a thread").join().expect("no panic");
        got.recv().expect("a size")
    };
    // The C library may use a larger stack of a thread that has ended: so this is more than any other thread asks
    // for.
    let size = size_with(Some(99 << 20));
    assert!((99 << 20..100 << 20).contains(&size), "{size}");
    let size = size_with(None);
    assert!(size >= default_stack_size(), "{size}");
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable.
    unsafe { libc::getrlimit(libc::RLIMIT_STACK, &raw mut limit) };
    if cfg!(target_env = "gnu") && limit.rlim_cur != libc::RLIM_INFINITY {
        assert_eq!(default_stack_size() as u64, limit.rlim_cur);
    }
}

fn running(threads: &Threads) -> usize {
    threads.running.lock().len()
}

#[test]
fn joined_threads_are_gone_and_ended_ones_are_joined_when_another_starts() {
    let threads = Threads::default();
    for round in 0..100 {
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        threads.start("udsipc-test", Some(64 << 10), move || end.store(true, Ordering::Release)).expect("a thread");
        let deadline = (round % 2 == 0).then(|| Instant::now() + Duration::from_secs(60));
        assert!(threads.join_all(deadline));
        assert!(ended.load(Ordering::Acquire));
        assert_eq!(running(&threads), 0);
    }
    for _ in 0..50 {
        threads.start("udsipc-test", None, || {}).expect("a thread");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(running(&threads) < 25, "{}", running(&threads));
    assert!(threads.join_all(None));
}

#[test]
fn a_thread_that_does_not_end_in_time_is_detached() {
    let threads = Arc::new(Threads::default());
    let (quit, wait) = channel::<()>();
    let (gone, is_gone) = channel::<()>();
    let wait = Mutex::new(wait);
    let body = move || {
        let _ = wait.lock().recv();
        drop(gone);
    };
    threads.start("udsipc-test", None, body).expect("a thread");
    let start = Instant::now();
    // A second caller that comes while the first one waits keeps its deadline as well.
    let second = {
        let threads = Arc::clone(&threads);
        std::thread::spawn(move || threads.join_all(Some(Instant::now() + Duration::from_millis(20))))
    };
    assert!(!threads.join_all(Some(start + Duration::from_millis(100))) || !second.join().expect("no panic"));
    assert!(start.elapsed() < Duration::from_secs(5));
    drop(quit);
    is_gone.recv().expect_err("it ends by itself");
    assert!(threads.join_all(None), "nobody is left");
}

#[test]
fn a_thread_does_not_wait_for_itself() {
    let threads = Arc::new(Threads::default());
    let (joined, result) = channel();
    let inside = Arc::clone(&threads);
    let body = move || joined.send(inside.join_all(None)).expect("a receiver");
    threads.start("udsipc-test", None, body).expect("a thread");
    assert!(result.recv().expect("an answer"));
}
