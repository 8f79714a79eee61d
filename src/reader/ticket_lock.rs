//! A fair lock: first come, first served.
//!
//! With a plain mutex the thread that unlocks may lock again before a waiting thread has woken up, and a turn of
//! callbacks is long.

use crate::sys::lock::{Condvar, Mutex};

#[derive(Debug, Default)]
pub(super) struct TicketLock {
    tickets: Mutex<Tickets>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Tickets {
    /// The ticket of the next caller.
    next: u64,
    /// The ticket that holds the lock.
    current: u64,
}

/// The lock is held until this is dropped.
#[derive(Debug)]
pub(super) struct Ticket<'a>(&'a TicketLock);

impl TicketLock {
    /// Waits until all earlier callers have had the lock.
    pub(super) fn lock(&self) -> Ticket<'_> {
        let mut tickets = self.tickets.lock();
        let mine = tickets.next;
        tickets.next += 1;
        while tickets.current != mine {
            tickets = self.moved.wait(tickets);
        }
        Ticket(self)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.0.tickets.lock().current += 1;
        self.0.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_are_served_in_order() {
        let (lock, order) = (TicketLock::default(), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            let first = lock.lock();
            for number in 1..=8 {
                let (lock, order) = (&lock, &order);
                scope.spawn(move || {
                    let _held = lock.lock();
                    order.lock().push(number);
                });
                while lock.tickets.lock().next <= number {
                    std::thread::yield_now();
                }
            }
            drop(first);
        });
        assert_eq!(*order.lock(), [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
