//! The queue between threads: waiting producers, races for the last place, copies without a lock.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;

use super::*;

fn wait_in_a_thread(queue: &Arc<Queue>, len: usize) -> thread::JoinHandle<()> {
    let waiting = Arc::clone(queue);
    let thread = thread::spawn(move || waiting.wait_for_room(len, None));
    while !queue.waited_for.load(Ordering::Relaxed) {
        thread::yield_now();
    }
    thread
}

#[test]
fn a_waiting_producer_is_woken_by_room_and_by_the_end() {
    let queue = Arc::new(Queue::new(2, 0));
    assert!(queue.push(b"a").is_ok() && queue.push(b"b").is_ok());
    assert_eq!(queue.push(b"c"), Err(Refusal::Full));
    let waiting = wait_in_a_thread(&queue, 1);
    queue.finish(Fate::Sent, 1, 1);
    waiting.join().expect("no panic");
    assert!(queue.push(b"c").is_ok());
    let waiting = wait_in_a_thread(&queue, 1);
    queue.close();
    waiting.join().expect("no panic");
    assert_eq!(queue.push(b"d"), Err(Refusal::Closed));
    assert_eq!(queue.account().dropped, 0);
}

#[test]
fn a_message_above_the_byte_limit_waits_for_an_empty_queue() {
    let queue = Arc::new(Queue::new(10, 100));
    assert!(queue.push(&[0; 10]).is_ok() && queue.push(&[0; 10]).is_ok());
    let waiting = wait_in_a_thread(&queue, 101);
    queue.finish(Fate::Sent, 1, 10);
    thread::sleep(3 * LOOK_FOR_ROOM);
    assert!(!waiting.is_finished(), "one is left");
    queue.finish(Fate::Sent, 1, 10);
    waiting.join().expect("no panic");
    assert!(queue.push(&[0; 101]).is_ok());
}

#[test]
fn waiting_ends_with_the_deadline() {
    let queue = Queue::new(1, 0);
    queue.push(b"a").expect("room");
    queue.wait_for_room(1, Some(Instant::now() + Duration::from_millis(1)));
    assert_eq!(queue.push(b"b"), Err(Refusal::Full));
}

#[test]
fn messages_and_bytes_of_an_account_are_of_one_moment() {
    let queue = Arc::new(Queue::new(1 << 20, 0));
    let sending = Arc::clone(&queue);
    let sender = thread::spawn(move || {
        for _ in 0..200_000 {
            sending.push(&[0; 10]).expect("room");
            sending.finish(Fate::Sent, 1, 10);
        }
    });
    while !sender.is_finished() {
        let sent = queue.account().sent;
        assert_eq!(sent.bytes, 10 * sent.messages);
    }
    sender.join().expect("no panic");
}

/// Two threads at the same time, and how many of their messages were taken.
fn race(
    queue: &Arc<Queue>,
    first: impl Fn(&Queue) -> bool + Send + 'static,
    second: impl FnOnce(&Queue) -> bool,
) -> usize {
    let barrier = Arc::new(std::sync::Barrier::new(2));
    let (other_queue, other_barrier) = (Arc::clone(queue), Arc::clone(&barrier));
    let other = thread::spawn(move || {
        other_barrier.wait();
        first(&other_queue)
    });
    barrier.wait();
    let taken = second(queue);
    usize::from(other.join().expect("no panic")) + usize::from(taken)
}

#[test]
fn of_two_large_messages_that_race_for_the_last_place_one_is_taken() {
    const LEN: usize = 1 << 20; // a copy takes long enough for the other thread to come between
    for (max_messages, max_bytes) in [(2, 0), (10, LEN as u64 + 1), (10, LEN as u64 - 1)] {
        for _ in 0..50 {
            let queue = Arc::new(Queue::new(max_messages, max_bytes));
            if max_bytes != LEN as u64 - 1 {
                queue.push(b"x").expect("room");
            }
            let before = queue.account().accepted;
            let push = |queue: &Queue| queue.push(&vec![0; LEN]).is_ok();
            assert_eq!(race(&queue, push, push), 1);
            let account = queue.account();
            assert_eq!(account.depth, before.plus(Count { messages: 1, bytes: LEN as u64 }));
        }
    }
}

/// The close comes at each moment of the copy, which takes some milliseconds.
#[test]
fn a_large_message_that_races_with_a_close_is_taken_before_it_or_not_at_all() {
    let message: Arc<[u8]> = vec![1; 8 << 20].into();
    for step in 0..60 {
        let queue = Arc::new(Queue::new(10, 0));
        let (copied, mut at_close) = (Arc::clone(&message), None);
        let taken = race(
            &queue,
            move |queue| queue.push(&copied).is_ok(),
            |queue| {
                thread::sleep(step * Duration::from_micros(50));
                queue.close();
                at_close = Some(queue.account().accepted.messages);
                false
            },
        );
        assert_eq!(at_close, Some(taken as u64), "none after the close");
        assert_eq!(queue.account().accepted.messages, taken as u64);
    }
}

/// Other producers go on while a large message is copied, whichever call copies it.
#[test]
fn a_large_copy_holds_no_lock() {
    let calls: [fn(&Queue, &[u8]); 2] = [
        |queue, large| assert_eq!(queue.push(large), Ok(Wake::Nobody)),
        |queue, large| assert_eq!(push_all(queue, &[b"x", large]), (2, None)),
    ];
    for call in calls {
        let queue = Arc::new(Queue::new(1 << 20, 0));
        let state = Arc::new(AtomicUsize::new(0));
        let (copying, progress) = (Arc::clone(&queue), Arc::clone(&state));
        let copier = thread::spawn(move || {
            let large = vec![1; 64 << 20];
            progress.store(1, Ordering::SeqCst);
            call(&copying, &large);
            progress.store(2, Ordering::SeqCst);
        });
        while state.load(Ordering::SeqCst) < 1 {
            thread::yield_now();
        }
        let mut pushes = 0;
        while state.load(Ordering::SeqCst) < 2 && pushes < 1 << 19 {
            queue.push(b"x").expect("room");
            pushes += 1;
        }
        copier.join().expect("no panic");
        assert!(pushes > 1000, "{pushes} pushes while 64 MiB were copied");
    }
}
