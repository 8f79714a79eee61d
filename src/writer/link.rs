//! The states of the sender's connection.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::sys::socket;

use super::connection::Connection;

/// How soon a reader that has ended the connection, but not yet read to its end, is looked at again.
const ENDING_STEP: Duration = Duration::from_micros(200);
const ENDING_LONGEST: Duration = Duration::from_millis(10);

/// Where the sender stands.
#[derive(Debug)]
pub(super) enum Link {
    /// Not connected: dial at `until`, or with the next message if the reader just closed an idle connection.
    Down {
        until: Instant,
        message_hurries: bool,
    },
    /// The backlog is full.
    Backlog {
        since: Instant,
        until: Instant,
        step: Duration,
    },
    Up(Connection),
    Ending(Box<Farewell>),
}

/// A reader that takes nothing more and still reads: it has shut its side (`SHUT_RD`) and not closed yet. The socket is
/// out of the poller: there is no event for what is waited for (SIOCOUTQ).
#[derive(Debug)]
pub(super) struct Farewell {
    pub(super) connection: Connection,
    /// What the connection broke on, if it broke.
    pub(super) cause: Option<io::Error>,
    unread: usize,
    unread_since: Instant,
    look_at: Instant,
    step: Duration,
}

impl Farewell {
    pub(super) fn new(now: Instant, connection: Connection, cause: Option<io::Error>, unread: usize) -> Farewell {
        Farewell { connection, cause, unread, unread_since: now, look_at: now + ENDING_STEP, step: ENDING_STEP }
    }

    pub(super) fn look_at(&self) -> Instant {
        self.look_at
    }

    /// Looks how far the reader is, if it is time. `Some` when it is over: true if the reader hangs.
    pub(super) fn look(&mut self, now: Instant, patience: Duration) -> Option<bool> {
        if now < self.look_at {
            return None;
        }
        let unread = socket::bytes_unread_by_peer(self.connection.fd.as_fd()).unwrap_or(0);
        if unread == 0 {
            return Some(false);
        }
        if unread != self.unread {
            (self.unread, self.unread_since) = (unread, now);
        }
        if now.saturating_duration_since(self.unread_since) >= patience {
            return Some(true);
        }
        self.step = (self.step * 2).min(ENDING_LONGEST);
        self.look_at = now + self.step;
        None
    }
}
