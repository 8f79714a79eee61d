//! One at a time, in the order in which they came.
//!
//! A lock is not enough: who gives one back may have it again before those who wait have woken up, and a turn of callbacks
//! is long.

use crate::sys::lock::{Condvar, Mutex};

#[derive(Debug, Default)]
pub(super) struct Turnstile {
    tickets: Mutex<Tickets>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Tickets {
    /// What the next one who comes gets.
    next: u64,
    /// Whose turn it is.
    current: u64,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Passage<'a>(&'a Turnstile);

impl Turnstile {
    /// Waits for its turn.
    pub(super) fn pass(&self) -> Passage<'_> {
        let mut tickets = self.tickets.lock();
        let mine = tickets.next;
        tickets.next += 1;
        while tickets.current != mine {
            tickets = self.moved.wait(tickets);
        }
        Passage(self)
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.0.tickets.lock().current += 1;
        self.0.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_came_first_goes_first() {
        let (turnstile, order) = (Turnstile::default(), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            let first = turnstile.pass();
            for number in 1..=8 {
                let (turnstile, order) = (&turnstile, &order);
                scope.spawn(move || {
                    let _turn = turnstile.pass();
                    order.lock().push(number);
                });
                while turnstile.tickets.lock().next <= number {
                    std::thread::yield_now();
                }
            }
            drop(first);
        });
        assert_eq!(*order.lock(), [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
