//! Models of the hand-over between producers and the session: loom tries every interleaving of the real queue.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib model`

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::queue::{Fate, LARGE, Queue, Refusal};

/// What wakes the sender: as an eventfd, a wake-up that comes before the wait is not lost.
#[derive(Default)]
struct Bell {
    rung: loom::sync::Mutex<bool>,
    heard: loom::sync::Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().expect("no panic") = true;
        self.heard.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().expect("no panic");
        while !*rung {
            rung = self.heard.wait(rung).expect("no panic");
        }
        *rung = false;
    }
}

/// The sender's loop: takes what is there and sleeps when there is nothing, until it has seen `count` messages.
fn send(queue: &Queue, bell: &Bell, count: u64) {
    let mut seen = 0;
    while seen < count {
        match queue.take() {
            Some(batch) => {
                seen += batch.messages;
                queue.finish(Fate::Sent, batch.messages, batch.payload);
                batch.recycle();
            }
            None if queue.sleep() => bell.wait(),
            None => {}
        }
    }
}

/// A lost wake-up would leave the sender asleep over a message: loom calls that a deadlock.
#[test]
fn a_sender_never_sleeps_over_a_message() {
    loom::model(|| {
        let queue = Arc::new(Queue::new(8, 0));
        let bell = Arc::new(Bell::default());
        let producers: Vec<_> = (0..2)
            .map(|_| {
                let (queue, bell) = (Arc::clone(&queue), Arc::clone(&bell));
                thread::spawn(move || {
                    if queue.push(b"m").expect("room").is_session() {
                        bell.ring();
                    }
                })
            })
            .collect();
        send(&queue, &bell, 2);
        producers.into_iter().for_each(|producer| producer.join().expect("no panic"));
        let account = queue.account();
        assert_eq!((account.accepted.messages, account.sent.messages, account.depth.messages), (2, 2, 0));
    });
}

/// A lost wake-up would leave a producer waiting for room that is there.
#[test]
fn a_producer_never_waits_for_room_that_is_there() {
    loom::model(|| {
        let queue = Arc::new(Queue::new(1, 0));
        let bell = Arc::new(Bell::default());
        let producer = {
            let (queue, bell) = (Arc::clone(&queue), Arc::clone(&bell));
            thread::spawn(move || {
                for _ in 0..2 {
                    loop {
                        match queue.push(b"m") {
                            Ok(wake) => {
                                if wake.is_session() {
                                    bell.ring();
                                }
                                break;
                            }
                            Err(Refusal::Full) => queue.wait_for_room(1, None),
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                }
            })
        };
        send(&queue, &bell, 2);
        producer.join().expect("no panic");
    });
}

/// The end wakes a producer that waits, and refuses it.
#[test]
fn the_end_wakes_who_waits() {
    loom::model(|| {
        let queue = Arc::new(Queue::new(1, 0));
        queue.push(b"m").expect("room");
        let refused = Arc::new(AtomicUsize::new(0));
        let producer = {
            let (queue, refused) = (Arc::clone(&queue), Arc::clone(&refused));
            thread::spawn(move || {
                queue.wait_for_room(1, None);
                assert_eq!(queue.push(b"n"), Err(Refusal::Closed));
                refused.fetch_add(1, Ordering::Relaxed);
            })
        };
        queue.close();
        producer.join().expect("no panic");
        assert_eq!(refused.load(Ordering::Relaxed), 1);
    });
}

/// A message that has a batch of its own overtakes nothing, is not overtaken, and is not slept over.
#[test]
fn a_large_message_keeps_its_place_and_wakes_the_sender() {
    loom::model(|| {
        let queue = Arc::new(Queue::new(8, 0));
        let bell = Arc::new(Bell::default());
        let producer = {
            let (queue, bell) = (Arc::clone(&queue), Arc::clone(&bell));
            thread::spawn(move || {
                for message in [&[1; LARGE][..], b"m", &[1; LARGE]] {
                    if queue.push(message).expect("room").is_session() {
                        bell.ring();
                    }
                }
            })
        };
        let mut payloads = Vec::new();
        while payloads.len() < 3 {
            match queue.take() {
                Some(batch) => {
                    payloads.push(batch.payload);
                    queue.finish(Fate::Sent, batch.messages, batch.payload);
                }
                None if queue.sleep() => bell.wait(),
                None => {}
            }
        }
        producer.join().expect("no panic");
        assert_eq!(payloads, [LARGE as u64, 1, LARGE as u64]);
    });
}

/// Two large messages, both copied before either is admitted: one gets the last place.
#[test]
fn of_two_large_messages_one_gets_the_last_place() {
    loom::model(|| {
        let queue = Arc::new(Queue::new(1, 0));
        let producers: Vec<_> = (0..2)
            .map(|_| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || queue.push(&[1; LARGE]).map_err(|refusal| assert_eq!(refusal, Refusal::Full)))
            })
            .collect();
        let taken = producers.into_iter().filter_map(|producer| producer.join().expect("no panic").ok()).count();
        assert_eq!(taken, 1);
        assert_eq!(queue.account().depth.messages, 1);
        assert_eq!(queue.take().expect("the one").messages, 1);
        assert!(queue.take().is_none());
    });
}

/// A stop may come while a large message is copied: what is there after the close is all that will ever be there.
#[test]
fn no_large_message_is_taken_after_the_close() {
    loom::model(|| {
        let queue = Arc::new(Queue::new(2, 0));
        let producer = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.push(&[1; LARGE]))
        };
        queue.close();
        let at_close = queue.account().accepted.messages;
        let drained = std::iter::from_fn(|| queue.take()).map(|batch| batch.messages).sum::<u64>();
        assert_eq!(drained, at_close);
        match producer.join().expect("no panic") {
            Ok(_) => assert_eq!(at_close, 1),
            Err(refusal) => assert_eq!((refusal, at_close), (Refusal::Closed, 0)),
        }
        assert_eq!(queue.account().accepted.messages, at_close);
    });
}

/// Many in one call, with a large one among them: the lock is given up on the way, and the sender still misses nothing.
#[test]
fn a_sender_never_sleeps_over_one_of_many() {
    loom::model(|| {
        let queue = Arc::new(Queue::new(8, 0));
        let bell = Arc::new(Bell::default());
        let producer = {
            let (queue, bell) = (Arc::clone(&queue), Arc::clone(&bell));
            thread::spawn(move || {
                let taken = queue.push_many(&[b"a", &[1; LARGE], b"b"], |_| bell.ring());
                assert_eq!(taken, (3, None));
            })
        };
        send(&queue, &bell, 3);
        producer.join().expect("no panic");
        let account = queue.account();
        assert_eq!((account.sent.bytes, account.depth.messages), (LARGE as u64 + 2, 0));
    });
}
