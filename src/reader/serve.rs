//! A connection is served, and ends.

use std::os::fd::AsFd;
use std::sync::Arc;

use crate::delivery::record::End;
use crate::error::{Context, Error};
use crate::sys::event::Interest;
use crate::sys::socket;

use super::budget::Budget;
use super::connection::{Connection, EndedFor, TurnContext, TurnEnd};
use super::event_loop::EventLoop;
use super::throttle::{PeerId, Throttle};

/// A connection that has had a turn, and what it waits for.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) connection: Arc<Connection>,
    pub(super) interest: Interest,
}

impl EventLoop {
    /// Gives a connection a turn. One that it returns waits for the next one: see [`EventLoop::rearm`].
    pub(super) fn serve_connection(&self, id: u64, budget: &mut Budget<'_>) -> Option<Served> {
        let connection = self.connections.get(id)?;
        let one_at_a_time = self.errors.lock_callbacks();
        let end = self.turn(&connection, budget)?;
        match end {
            TurnEnd::More => return Some(Served { connection, interest: Interest::READABLE_ONCE }),
            // The poller is the queue of connections that wait for a turn, in a host's event loop too. What is left in a ring
            // makes no socket readable, but a socket has room to write: that is an event at once, behind the events that wait
            // already. A socket without room is full of bells that the peer has not read: its connection waits until the peer
            // reads, sends or closes, or until it is ended here.
            TurnEnd::Again => return Some(Served { connection, interest: Interest::READY_ONCE }),
            TurnEnd::Closed | TurnEnd::Failed(..) | TurnEnd::Cancelled { .. } => {}
        }
        self.close(&connection, end);
        drop(one_at_a_time);
        None // the last of the connection is dropped here, where no lock is held
    }

    fn turn(&self, connection: &Connection, budget: &mut Budget<'_>) -> Option<TurnEnd> {
        let mut lent = match self.buffers.take() {
            Ok(lent) => lent,
            Err(error) => return Some(TurnEnd::Failed(error, Context::Payload)),
        };
        let reporter = self.reporter();
        let context = TurnContext {
            handler: &self.handler,
            max_message_size: self.max_message_size,
            on_failure: &reporter,
            clock: &self.clock,
            rings: &self.rings,
        };
        let end = {
            let _inside = self.lifecycle.enter_callback();
            connection.serve(&mut lent, context, budget)
        };
        self.buffers.put(lent);
        end
    }

    /// Waits for the next turn of a connection. Protocol of the drain, 3.
    pub(super) fn rearm(&self, connection: &Connection, interest: Interest) {
        if let Err(error) = self.poller.modify(connection.fd.as_fd(), connection.id, interest)
            && connection.close_unserved().is_some()
        {
            let _held = self.errors.lock_callbacks();
            let error = Error::from_os("wait for messages (epoll_ctl)", error);
            self.close(connection, TurnEnd::Failed(error, Context::Payload));
        }
        if self.drain.is_cancelled() {
            self.close_unserved(connection);
        }
    }

    pub(super) fn close_unserved(&self, connection: &Connection) {
        if let Some(unread) = connection.close_unserved() {
            self.close(connection, TurnEnd::Cancelled { unread });
        }
    }

    /// Takes a connection out of everything, counts its end, and reports it from a thread that holds
    /// `Errors::lock_callbacks`. The descriptor is closed with the last user.
    fn close(&self, connection: &Connection, end: TurnEnd) {
        let told = told(&end, connection.ended_for());
        match end {
            TurnEnd::Failed(error, context) => {
                let reporter = self.reporter();
                reporter.count();
                let report = self.is_to_be_reported(connection, &error);
                self.forget(connection, told);
                if report {
                    reporter.report_in_turn(&error, context);
                }
            }
            TurnEnd::Cancelled { unread } => {
                if unread {
                    self.drain.leave_unread();
                }
                self.forget(connection, told);
            }
            TurnEnd::Closed | TurnEnd::More | TurnEnd::Again => {
                if connection.ended_for() == EndedFor::Inactivity {
                    self.connections.count_inactive();
                }
                self.forget(connection, told);
            }
        }
    }

    /// What a peer has sent, or not sent, is noted against it.
    fn is_to_be_reported(&self, connection: &Connection, error: &Error) -> bool {
        use Error::{ConnectionClosed, InvalidLengthPrefix, MessageTooLarge};
        let note = match error {
            MessageTooLarge { .. } | InvalidLengthPrefix => Throttle::note_offence,
            ConnectionClosed { .. } => Throttle::note_cut,
            _ => return true,
        };
        PeerId::of(connection.fd.as_fd()).is_none_or(|peer| note(&self.throttle, peer, self.clock.now()))
    }

    fn forget(&self, connection: &Connection, told: End) {
        let _ = self.poller.remove(connection.fd.as_fd());
        // In a forked child the number of the descriptor may mean another file.
        if self.fork.is_current() {
            connection.tell_end(told);
        }
        // The writer must see the end even if a forked child of this process holds the socket too.
        let _ = socket::shutdown_both(connection.fd.as_fd());
        drop(self.connections.remove(connection.id)); // not the last: the caller has one
        self.drain.notify();
    }
}

/// What a writer with a name is told of an end.
fn told(end: &TurnEnd, ended_for: EndedFor) -> End {
    match (end, ended_for) {
        (TurnEnd::Failed(Error::MessageTooLarge { limit, .. }, _), _) => End::TooLarge { limit: *limit },
        (TurnEnd::Failed(Error::InvalidLengthPrefix, _), _) => End::Malformed,
        (TurnEnd::Failed(Error::ConnectionClosed { .. }, _), _) => End::Writer,
        (TurnEnd::Failed(Error::Timeout(_), _), _) => End::Idle,
        (TurnEnd::Failed(..), _) => End::NoResources,
        (TurnEnd::Cancelled { .. }, _) | (_, EndedFor::Stop) => End::Stop,
        (_, EndedFor::Inactivity) => End::Idle,
        (_, EndedFor::Nothing) => End::Writer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_told_what_the_end_is_about() {
        let failed = |error| TurnEnd::Failed(error, Context::Payload);
        let epoll = || Error::from_os("wait", std::io::ErrorKind::OutOfMemory.into());
        let ends = [
            (TurnEnd::Closed, EndedFor::Nothing, End::Writer),
            (TurnEnd::Closed, EndedFor::Inactivity, End::Idle),
            (TurnEnd::Closed, EndedFor::Stop, End::Stop),
            (TurnEnd::Cancelled { unread: true }, EndedFor::Nothing, End::Stop),
            (failed(Error::MessageTooLarge { size: 9, limit: 7 }), EndedFor::Nothing, End::TooLarge { limit: 7 }),
            (failed(Error::InvalidLengthPrefix), EndedFor::Stop, End::Malformed),
            (failed(Error::ConnectionClosed { got: 1, expected: 2 }), EndedFor::Nothing, End::Writer),
            (failed(Error::Timeout("the rest")), EndedFor::Inactivity, End::Idle),
            (failed(epoll()), EndedFor::Nothing, End::NoResources),
        ];
        for (end, ended_for, expected) in ends {
            assert_eq!(told(&end, ended_for), expected, "{end:?} {ended_for:?}");
        }
    }
}
