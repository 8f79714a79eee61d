//! Models of the hand-over between producers and the sender, and of the threads that share the work: loom tries every
//! interleaving of them.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib model`

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::queue::{Fate, LARGE, Queue, Refusal};
use super::rota::{Asked, Help, Next, Rota, Turns};

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

    /// A thread that works takes a ring that was meant for one that waits.
    fn is_heard(&self) -> bool {
        std::mem::take(&mut *self.rung.lock().expect("no panic"))
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
                    if queue.push(b"m").expect("room") {
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
                        match queue.offer(b"m") {
                            Ok(asleep) => {
                                if asleep {
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
                    if queue.push(message).expect("room") {
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

/// A task of a crew: what is asked of it, and what has been done.
#[derive(Default)]
struct Job {
    turns: Turns,
    asked: AtomicUsize,
    done: AtomicUsize,
    /// Two threads at it at the same time would find it taken.
    taken: loom::sync::Mutex<()>,
}

struct Crew {
    rota: Rota<Arc<Job>>,
    bell: Bell,
}

impl Crew {
    /// One thread, or the second as well, which comes when the first is away.
    fn new(threads: u32) -> Arc<Crew> {
        let rota = Rota::new(threads);
        assert_eq!(rota.man(), Help::Start);
        if threads == 2 {
            rota.step_aside();
            assert_eq!(rota.man(), Help::Start);
            rota.step_back();
        }
        Arc::new(Crew { rota, bell: Bell::default() })
    }

    fn ask(&self, job: &Arc<Job>) {
        job.asked.fetch_add(1, Ordering::SeqCst);
        if job.turns.ask(Asked::WORK) && self.rota.add(1, Arc::clone(job)) == Help::Wake {
            self.bell.ring();
        }
    }

    /// The body of a thread: works until the crew is closed.
    fn work(&self, looks: bool) {
        loop {
            match self.rota.next() {
                Next::Serve(key, job, help) => {
                    if help == Help::Wake {
                        self.bell.ring();
                    }
                    self.serve(job);
                    self.rota.served(key);
                    if looks {
                        self.bell.is_heard();
                        self.rota.heard();
                    }
                }
                Next::Sleep { .. } => {
                    self.bell.wait();
                    assert!(self.rota.woke_up(false));
                }
                Next::Leave => return self.bell.ring(), // others may wait as well
            }
        }
    }

    fn serve(&self, job: Arc<Job>) {
        job.turns.begin();
        let taken = job.taken.try_lock().expect("one thread at a time");
        job.done.store(job.asked.load(Ordering::SeqCst), Ordering::SeqCst);
        drop(taken);
        if job.turns.end() {
            self.rota.add_own(1, job);
        }
    }

    fn close(&self) {
        self.rota.close();
        self.bell.ring();
    }
}

/// What is asked of a task while it waits for its turn, or has it, is done in that turn or in another one.
#[test]
fn what_is_asked_of_a_task_is_done() {
    loom::model(|| {
        let (crew, job) = (Crew::new(1), Arc::new(Job::default()));
        let worker = {
            let crew = Arc::clone(&crew);
            thread::spawn(move || crew.work(false))
        };
        crew.ask(&job);
        crew.ask(&job);
        while job.done.load(Ordering::SeqCst) < 2 {
            thread::yield_now();
        }
        crew.close();
        worker.join().expect("no panic");
    });
}

/// Two threads, of which a busy one may take a call that was meant for the other: the task is served all the same, by one
/// of them at a time.
#[test]
fn a_call_that_another_thread_takes_is_not_lost() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2); // all of it would take hours
    model.check(|| {
        let (crew, job) = (Crew::new(2), Arc::new(Job::default()));
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let crew = Arc::clone(&crew);
                thread::spawn(move || crew.work(true))
            })
            .collect();
        crew.ask(&job);
        crew.ask(&job);
        while job.done.load(Ordering::SeqCst) < 2 {
            thread::yield_now();
        }
        crew.close();
        workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
    });
}
