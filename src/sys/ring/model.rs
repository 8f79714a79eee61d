//! Models of the signals: loom tries every interleaving of the real functions.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib model`

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::{Notice, Signals};

/// A byte on the socket: one that comes before the wait is not lost.
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

    /// Whether it has been rung, without waiting.
    fn take(&self) -> bool {
        std::mem::take(&mut *self.rung.lock().expect("no panic"))
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().expect("no panic");
        while !*rung {
            rung = self.heard.wait(rung).expect("no panic");
        }
        *rung = false;
    }
}

struct Shared {
    signals: Signals,
    /// What the reader has stored in its ledger.
    handled: AtomicU64,
    reader: Bell,
    writer: Bell,
}

/// Every interleaving with up to three preemptions: without a bound it takes minutes, and has found nothing more.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

fn shared() -> Arc<Shared> {
    Arc::new(Shared {
        signals: Signals::for_model(),
        handled: AtomicU64::new(0),
        reader: Bell::default(),
        writer: Bell::default(),
    })
}

impl Shared {
    /// The reader: handles what is published, and sleeps when there is nothing.
    fn read(&self, count: u64) {
        let mut taken = 0;
        while taken < count {
            self.signals.awake();
            let published = self.signals.published();
            if published > taken {
                taken = published;
                self.handled.store(taken, Ordering::Release);
                if self.signals.take_waiting() {
                    self.writer.ring();
                }
                continue;
            }
            self.signals.sleep();
            if self.signals.published() == taken && !self.reader.take() {
                self.reader.wait();
            }
        }
    }

    fn publish(&self, head: u64) {
        if self.signals.publish(head) == Notice::RingBell {
            self.reader.ring();
        }
    }

    /// The writer: until `position` is handled.
    fn wait_for(&self, position: u64) {
        while self.handled.load(Ordering::Acquire) < position {
            self.signals.wait();
            if self.handled.load(Ordering::Acquire) < position {
                self.writer.wait();
            }
        }
    }
}

/// A bell that is not rung would leave the reader asleep: loom calls that a deadlock.
#[test]
fn a_reader_never_sleeps_over_a_publication() {
    explore(|| {
        let shared = shared();
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.read(2))
        };
        shared.signals.switch(0);
        shared.publish(1);
        shared.publish(2);
        reader.join().expect("no panic");
    });
}

#[test]
fn a_writer_never_waits_for_room_that_is_there() {
    explore(|| {
        let shared = shared();
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.read(2))
        };
        shared.publish(1);
        shared.wait_for(1);
        shared.publish(2);
        reader.join().expect("no panic");
    });
}

/// Of a publication and the reader's end one sees the other: else a message would be taken for handled, or for sent.
#[test]
fn at_the_end_the_reader_sees_the_message_or_the_writer_the_end() {
    loom::model(|| {
        let shared = shared();
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.signals.close();
                shared.signals.published()
            })
        };
        let notice = shared.signals.publish(1);
        let last = reader.join().expect("no panic");
        assert!(last == 1 || notice == Notice::Closing, "{last} {notice:?}");
    });
}
