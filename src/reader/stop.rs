//! A stop, carried out: no new connections, what was sent is received, callbacks are waited for.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Context, Result};
use crate::lifecycle::{DrivenBy, Ending, Stop};

use super::clock::Nanos;
use super::connection::EndedFor;
use super::event_loop::EventLoop;

/// How long the host's thread that stops a reader waits for an event before it checks the conditions without an event.
const DRIVE_STEP: Duration = Duration::from_millis(5);
/// How long a stop waits for threads that have no work left: at least, and at most.
const SHORTEST_JOIN: Duration = Duration::from_millis(100);
const LONGEST_JOIN: Duration = Duration::from_secs(2);

impl EventLoop {
    pub(super) fn stop(&self, timeout: Duration) -> Result<()> {
        match self.lifecycle.stop(timeout) {
            Stop::Over => {}
            Stop::Follow(_) => self.drain.notify(), // the deadline may be earlier now
            Stop::Lead(driven_by) => self.lead_stop(driven_by),
        }
        self.lifecycle.wait_until_stopped()
    }

    fn lead_stop(&self, driven_by: DrivenBy) {
        match driven_by {
            DrivenBy::Nobody => self.turn_backlog_away(),
            DrivenBy::Threads | DrivenBy::Host => {
                self.notify_stopping();
                self.begin_drain();
                self.await_drain(driven_by);
            }
        }
        self.acceptor.close();
        self.cancel();
        self.await_callbacks();
        self.leave();
        self.lifecycle.finish(if self.drain.left_unread() { Ending::TimedOut } else { Ending::Clean });
    }

    /// Accepts no new connections, except those in the backlog with what they have sent, and ends all of them.
    fn begin_drain(&self) {
        self.drain.begin();
        self.acceptor.listener.unregister(&self.poller);
        self.report_socket_file(self.acceptor.listener.give_back());
        self.acceptor.shut();
        self.throttle.lift();
        self.release_throttled(Nanos::MAX);
        for connection in self.connections.all() {
            connection.end(EndedFor::Stop);
        }
    }

    /// A socket file that stays behind is a stale one, which the next start removes, if it may.
    fn report_socket_file(&self, given_back: Result<()>) {
        if let Err(error) = given_back {
            self.reporter().report(&error, Context::SocketFile);
        }
    }

    /// For a reader that was never started nor dispatched: the connections in its backlog stay unread. The kernel reports that
    /// to their writers, and the stop returns [`Error::Timeout`](crate::Error::Timeout).
    fn turn_backlog_away(&self) {
        let waiting = self.somebody_waits();
        self.report_socket_file(self.acceptor.listener.give_back());
        if !self.acceptor.listener.shut() {
            return;
        }
        let (unread, end) = self.acceptor.turn_backlog_away();
        // Without a descriptor for one that waits nobody can tell whether it has sent something.
        let unknown = waiting && end.kind() != io::ErrorKind::WouldBlock;
        if unread || unknown {
            self.drain.leave_unread();
        }
    }

    /// Until all connections are gone or the time is up.
    fn await_drain(&self, driven_by: DrivenBy) {
        loop {
            let deadline = self.stop_deadline();
            let emptied = self.acceptor.empty_backlog(self);
            let done = || emptied && self.connections.len() == 0;
            if done() {
                return;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                if !emptied {
                    self.drain.leave_unread();
                }
                return;
            }
            if driven_by == DrivenBy::Host {
                // Another thread of the host may serve the last connection: there is no event for that.
                let _ = self.drive(Some(DRIVE_STEP));
            } else {
                self.drain.wait_a_step(deadline, done);
            }
        }
    }

    /// No further callbacks. What nobody serves is closed here; who serves one sees it and closes that. Protocol of the
    /// drain, 3.
    pub(super) fn cancel(&self) {
        self.drain.cancel();
        for connection in self.connections.all() {
            self.close_unserved(&connection);
        }
        self.poller.wake();
    }

    /// Running callbacks are waited for, however long they take. Protocol of the drain, 4.
    fn await_callbacks(&self) {
        let done = || self.connections.len() == 0 && self.drain.nobody_at_work();
        while !done() {
            self.drain.wait_a_step(None, done);
        }
        // A thread that runs no callback ends in a moment, unless the host has closed the descriptors that it waits on, or
        // a peer makes closing its connection slow. On a busy machine a moment is long: if there is time, it is given.
        let now = Instant::now();
        let time = self.stop_deadline().unwrap_or(now + LONGEST_JOIN).clamp(now + SHORTEST_JOIN, now + LONGEST_JOIN);
        self.pool.join_all(time);
    }

    /// Ends without waiting, and runs no further callback.
    pub(super) fn abandon(self: &Arc<Self>) {
        self.drain.abandon();
        self.lifecycle.stop(Duration::ZERO);
        self.acceptor.shut();
        self.acceptor.close();
        self.cancel();
        self.lifecycle.finish(Ending::TimedOut);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::options::ReaderOptions;
    use crate::reader::handler::Handler;
    use crate::sys::event::NO_EVENT;

    fn is_woken(event_loop: &EventLoop) -> bool {
        let mut woken = false;
        let wait = event_loop.poller.wait(&mut [NO_EVENT; 4], Some(Duration::ZERO), |_| woken = true);
        wait.expect("epoll_wait");
        woken
    }

    #[test]
    fn a_thread_that_a_stop_has_detached_can_still_be_woken_and_the_last_one_leaves_silence() {
        let directory = tempfile::tempdir().expect("a directory");
        let handler = Handler::Each(Box::new(|_, _| Ok(())));
        let event_loop = EventLoop::open(&directory.path().join("s"), handler, ReaderOptions::new()).expect("a reader");
        let event_loop = Arc::new(event_loop);
        let (release, held) = channel::<()>();
        // It has something else to do, as on a busy machine, and waits for events only later.
        event_loop.pool.ensure_waiting(move || _ = held.recv()).expect("a thread");
        let begun = Instant::now();
        event_loop.stop(Duration::ZERO).expect("nothing was left");
        assert!((SHORTEST_JOIN..LONGEST_JOIN).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        assert!(is_woken(&event_loop), "for the thread that comes late");
        event_loop.run_thread(); // it leaves at once
        assert!(event_loop.pool.is_empty());
        event_loop.poller.wake();
        assert!(!is_woken(&event_loop));
        drop(release);
    }
}
