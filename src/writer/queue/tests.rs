//! The queue in one thread: limits, batches, many messages at once.

use std::sync::atomic::AtomicUsize;

use super::*;

mod random;
mod threads;

fn frame_of(message: &[u8]) -> Vec<u8> {
    let mut prefix = [0; frame::MAX_PREFIX];
    let size = frame::encode_prefix(message.len(), &mut prefix);
    [&prefix[..size], message].concat()
}

fn drain(queue: &Queue) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(batch) = queue.take() {
        out.extend_from_slice(&batch.bytes);
        queue.finish(Fate::Sent, batch.messages, batch.payload);
        batch.recycle();
    }
    out
}

fn push_all(queue: &Queue, messages: &[&[u8]]) -> (usize, Option<Refusal>) {
    queue.push_many(messages, |_| {})
}

// ---- limits ----

#[test]
fn capacity_is_exact_until_the_session_says_that_messages_are_finished() {
    let queue = Queue::new(2, 0);
    assert!(queue.push(b"a").is_ok() && queue.push(b"b").is_ok());
    assert_eq!(queue.push(b"c"), Err(Refusal::Full));
    let taken = queue.take().expect("a batch");
    assert_eq!(queue.push(b"c"), Err(Refusal::Full), "taking is not finishing");
    queue.finish(Fate::Sent, 1, 1);
    assert!(queue.push(b"c").is_ok());
    assert_eq!(taken.bytes, b"\x01a\x01b");
    let account = queue.account();
    assert_eq!((account.accepted.messages, account.sent.messages, account.depth.messages), (3, 1, 2));
}

#[test]
fn the_byte_limit_counts_payload() {
    let queue = Queue::new(100, 10);
    assert!(queue.push(&[0; 6]).is_ok() && queue.push(&[0; 4]).is_ok());
    assert_eq!(queue.push(b"x"), Err(Refusal::Full));
    assert_eq!(drain(&queue).len(), 12);
    assert!(queue.push(&[0; 10]).is_ok());
}

#[test]
fn a_message_above_the_byte_limit_is_taken_while_the_queue_is_empty() {
    for len in [11, LARGE, 3 * BATCH] {
        let queue = Queue::new(100, 10);
        let message = vec![7; len];
        assert!(queue.push(&message).is_ok(), "{len}");
        assert_eq!(queue.push(&message), Err(Refusal::Full), "one only");
        assert_eq!(queue.push(b"x"), Err(Refusal::Full), "the limit is passed already");
        let batch = queue.take().expect("a batch");
        assert_eq!(queue.push(&message), Err(Refusal::Full), "taking is not finishing");
        queue.finish(Fate::Abandoned, batch.messages, batch.payload);
        assert!(queue.push(b"x").is_ok());
        assert_eq!(queue.push(&message), Err(Refusal::Full), "not empty");
        drain(&queue);
        assert_eq!(push_all(&queue, &[&message, b"x"]), (1, Some(Refusal::Full)));
    }
}

#[test]
fn without_a_byte_limit_any_size_is_taken() {
    let queue = Queue::new(3, 0);
    for _ in 0..3 {
        assert!(queue.push(&[0; LARGE]).is_ok());
    }
    assert_eq!(queue.push(&[0; LARGE]), Err(Refusal::Full));
}

// ---- batches ----

#[test]
fn a_batch_knows_what_is_in_it() {
    let queue = Queue::new(100, 0);
    for message in [&b"abc"[..], &[7; LARGE], b"de", b"f"] {
        queue.push(message).expect("room");
    }
    let batches: Vec<_> = std::iter::from_fn(|| queue.take()).map(|batch| (batch.messages, batch.payload)).collect();
    assert_eq!(batches, [(1, 3), (1, LARGE as u64), (2, 3)]);
}

#[test]
fn order_holds_over_small_large_and_sealed_batches() {
    let queue = Queue::new(1 << 12, 0);
    let mut expected = Vec::new();
    for i in 0..2_000_usize {
        let message = vec![i as u8; if i % 100 == 7 { LARGE + i } else { i % 300 + 1 }];
        queue.push(&message).expect("room");
        expected.extend(frame_of(&message));
    }
    assert!(drain(&queue) == expected);
}

#[test]
fn the_list_of_sealed_batches_shrinks_after_a_burst_and_costs_nothing_before() {
    let queue = Queue::new(1 << 20, 0);
    assert_eq!(queue.sealed.lock().capacity(), 0);
    let mut large = 4 * SEALED_AT_REST;
    for _ in 0..large {
        queue.push(&[0; LARGE]).expect("room");
    }
    assert!(queue.sealed.lock().capacity() >= large);
    while let Some(batch) = queue.take() {
        large -= 1;
        queue.finish(Fate::Sent, batch.messages, batch.payload);
    }
    assert_eq!((large, queue.sealed.lock().capacity()), (0, 0));
    queue.push(&[0; LARGE]).expect("room");
    drain(&queue);
    assert!((1..=SEALED_AT_REST).contains(&queue.sealed.lock().capacity()), "kept: it is needed all the time");
}

#[test]
fn the_session_is_woken_once_and_only_when_it_sleeps() {
    let queue = Queue::new(10, 0);
    assert_eq!(queue.push(b"a"), Ok(Wake::Nobody));
    assert!(!queue.sleep(), "there is something to take");
    drain(&queue);
    assert!(queue.sleep());
    assert_eq!(queue.push(b"b"), Ok(Wake::Session));
    assert_eq!(queue.push(b"c"), Ok(Wake::Nobody));
    drain(&queue);
    assert!(queue.sleep());
    assert_eq!(queue.push(&[0; LARGE]), Ok(Wake::Session));
}

// ---- many at once ----

#[test]
fn many_are_taken_in_order_up_to_the_first_refusal() {
    let queue = Queue::new(4, 0);
    let large = [9; LARGE];
    assert_eq!(push_all(&queue, &[b"a", b"", &large, b"", b"b"]), (5, None));
    assert_eq!(queue.account().depth.messages, 3);
    assert_eq!(push_all(&queue, &[b"", b"c", b"", b"d", b"e"]), (3, Some(Refusal::Full)));
    assert_eq!(push_all(&queue, &[&large]), (0, Some(Refusal::Full)));
    assert_eq!(drain(&queue), [&b"\x01a"[..], &frame_of(&large), b"\x01b\x01c"].concat());
    queue.close();
    assert_eq!(push_all(&queue, &[b""]), (0, Some(Refusal::Closed)));
    assert_eq!(push_all(&queue, &[&large]), (0, Some(Refusal::Closed)));
    assert_eq!(push_all(&queue, &[]), (0, None));
}

#[test]
fn many_wake_the_session_without_a_lock() {
    let queue = Queue::new(1000, 0);
    let woken = AtomicUsize::new(0);
    let wake = |_| {
        woken.fetch_add(1, Ordering::Relaxed);
        drain(&queue); // takes every lock of the queue
        assert!(queue.sleep());
    };
    assert!(queue.sleep());
    let message = [1; BATCH / 4];
    let messages = [&message[..], &message, &message, &message, &message, &[2; LARGE], b"x"];
    assert_eq!(queue.push_many(&messages, wake), (7, None));
    assert_eq!(woken.load(Ordering::Relaxed), 4, "two runs of a batch, a large one, the rest");
    assert_eq!(queue.account().sent.messages, 7);
}
