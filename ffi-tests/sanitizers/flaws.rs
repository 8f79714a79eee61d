//! A flaw per argument, in Rust: compiled with the flags of the library's own tests, it shows what they would find.

use std::cell::UnsafeCell;
use std::hint::black_box;
use std::sync::Arc;
use std::thread;

fn overflow() {
    let bytes = vec![1_u8; 16].into_boxed_slice();
    // SAFETY: none: this is the flaw.
    black_box(unsafe { *bytes.as_ptr().add(black_box(16)) });
}

fn leak() {
    black_box(Box::leak(Box::new([1_u8; 4321])));
}

struct Plain(UnsafeCell<u64>);

// SAFETY: none: this is the flaw.
unsafe impl Sync for Plain {}

impl Plain {
    fn add(&self) {
        for _ in 0..10_000 {
            // SAFETY: none: this is the flaw.
            unsafe { *self.0.get() = black_box(*self.0.get()) + 1 };
        }
    }
}

/// Behind an `Arc`, whose end the suppressions are about: they must not hide this.
fn race() {
    let here = Arc::new(Plain(UnsafeCell::new(0)));
    let there = Arc::clone(&here);
    let other = thread::spawn(move || there.add());
    here.add();
    other.join().expect("no panic");
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("overflow") => overflow(),
        Some("leak") => leak(),
        Some("race") => race(),
        other => panic!("no flaw is called {other:?}"),
    }
}
