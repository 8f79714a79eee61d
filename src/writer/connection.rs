//! A connection as the sender sees it: what the kernel says of it, and how it ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::error::Error;
use crate::sys::event::{Interest, Key, Poller};
use crate::sys::socket;

use super::window::Window;
use super::world::{World, add};

/// The key of the connection in the poller. There is one at a time, and what an older one left behind does no harm.
pub(crate) const SOCKET: Key = 0;

/// A connection and what is known of it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) fd: OwnedFd,
    pub(crate) made: Instant,
    pub(crate) window: Window,
    /// Since when the kernel takes nothing; reported again after each further `write_timeout`.
    pub(crate) stalled: Option<Instant>,
    /// A send has told of the reader's end over unread bytes, or may have: see [`Connection::send`].
    pub(crate) reset: bool,
}

impl Connection {
    /// Sends, and takes note of what the kernel says of the reader's end. It says so once, and a send that meets the end
    /// on its way takes that off the socket and returns a short count (`sock_alloc_send_pskb`). The hang-up that comes
    /// before it stays (`unix_release_sock`), so a short count with a hang-up behind it is a reason for doubt.
    pub(crate) fn send(&mut self, batches: [&[u8]; 2]) -> io::Result<usize> {
        let result = match batches {
            [all, []] => socket::send(self.fd.as_fd(), all),
            _ => socket::send_two(self.fd.as_fd(), batches),
        };
        self.reset |= match &result {
            Ok(bytes) => *bytes < batches[0].len() + batches[1].len() && socket::has_hung_up(self.fd.as_fd()),
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        };
        result
    }

    /// Closes it, and counts what may be lost with its reader. Returns whether anything may.
    pub(crate) fn close(self, hangs: bool, world: World<'_>) -> bool {
        let reset = self.reset || matches!(socket::take_error(self.fd.as_fd()), Ok(Some(_)));
        let lost = if reset || hangs { self.window.in_doubt() } else { 0 };
        add(&world.counters.suspected_lost, lost);
        world.socket.store(-1, Ordering::Relaxed);
        let _ = world.poller.remove(self.fd.as_fd());
        // The reader must see the end even if a forked child of this process holds the socket too.
        let _ = socket::shutdown_write(self.fd.as_fd());
        lost > 0
    }

    pub(crate) fn look_whether_all_is_read(&mut self) {
        // The buffer of a reader that is gone is empty too, so a hang-up that came before takes the answer back.
        if self.window.unread() > 0
            && socket::bytes_unread_by_peer(self.fd.as_fd()).is_ok_and(|unread| unread == 0)
            && !socket::has_hung_up(self.fd.as_fd())
        {
            self.window.all_read();
        }
    }

    /// The kernel takes bytes.
    pub(crate) fn flows(&mut self, poller: &Poller) {
        if self.stalled.take().is_some() {
            let _ = poller.modify(self.fd.as_fd(), SOCKET, Interest::CLOSED);
        }
    }

    /// The kernel takes nothing: waits for room, and returns what to report when that has lasted.
    pub(crate) fn stalls(&mut self, now: Instant, world: World<'_>) -> Option<Error> {
        let timeout = world.options.write_timeout;
        let since = match self.stalled {
            Some(since) => since,
            None => {
                let _ = world.poller.modify(self.fd.as_fd(), SOCKET, Interest::WRITABLE);
                *self.stalled.insert(now)
            }
        };
        let report_at = since.checked_add(timeout)?;
        if now < report_at {
            let _ = world.poller.arm(report_at);
            return None;
        }
        self.stalled = Some(now);
        let _ = now.checked_add(timeout).map(|next| world.poller.arm(next));
        Some(Error::Backpressure(timeout))
    }
}
