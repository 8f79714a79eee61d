//! Another static library with Rust's standard library in it, linked by the tests into one program with libudsipc.a.

use std::panic::catch_unwind;

/// 1 + 2 + ... + n, added up in a thread of its own.
#[unsafe(no_mangle)]
pub extern "C" fn other_sum(n: u64) -> u64 {
    std::thread::spawn(move || (1..=n).sum()).join().unwrap_or(0)
}

/// Whether a panic was caught.
#[unsafe(no_mangle)]
pub extern "C" fn other_panics() -> bool {
    std::panic::set_hook(Box::new(|_| {}));
    catch_unwind(|| panic!("deliberate")).is_err()
}
