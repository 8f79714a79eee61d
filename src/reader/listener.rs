//! Where connections come from: a socket of our own, or one that systemd has passed. And who may come in.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};

use crate::error::Result;
use crate::options::ReaderOptions;
use crate::path::{self, Claim};
use crate::sys::event::{Interest, Key, Poller};
use crate::sys::lock::Mutex;
use crate::sys::socket;
use crate::systemd::{self, Environment};

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    /// None when it has been closed.
    socket: Mutex<Option<OwnedFd>>,
    /// Its number, -1 when it has been closed: for a forked child, where the lock may be held for ever.
    number: AtomicI32,
    path: PathBuf,
    /// None: it was passed to us. Then it is never shut and its file never removed: its backlog belongs to the next start.
    claim: Option<Claim>,
}

impl Listener {
    /// Adopts what systemd has passed, or binds. Options have been checked before: a bad one touches nothing.
    pub(crate) fn open(given: &Path, options: &ReaderOptions, environment: &Environment) -> Result<Listener> {
        if given.as_os_str().is_empty() {
            path::check(given)?;
        }
        if let Some((fd, path)) = systemd::take_listener(environment, options.listen_fd_name.as_deref(), given)? {
            return Ok(Listener::new(fd, path, None));
        }
        let path = environment.resolve(given);
        path::check(&path)?;
        path::ensure_socket_dir(&path)?;
        let (fd, claim) = path::claim(&path, options.socket_mode, options.socket_group)?;
        if options.read_buffer_size > 0 {
            let _ = socket::set_receive_buffer(fd.as_fd(), options.read_buffer_size);
        }
        Ok(Listener::new(fd, path, Some(claim)))
    }

    fn new(fd: OwnedFd, path: PathBuf, claim: Option<Claim>) -> Listener {
        Listener { number: AtomicI32::new(fd.as_raw_fd()), socket: Mutex::new(Some(fd)), path, claim }
    }

    /// Registers it with a poller, to be told once.
    pub(crate) fn register(&self, poller: &Poller, key: Key) -> io::Result<()> {
        self.with(|fd| poller.add(fd, key, Interest::READABLE_ONCE))
    }

    /// Asks the poller to be told again.
    pub(crate) fn rearm(&self, poller: &Poller, key: Key) {
        let _ = self.with(|fd| poller.modify(fd, key, Interest::READABLE_ONCE));
    }

    /// Takes it out of the poller.
    pub(crate) fn unregister(&self, poller: &Poller) {
        let _ = self.with(|fd| poller.remove(fd));
    }

    /// One connection; `WouldBlock` when none waits, or none ever will.
    pub(crate) fn accept(&self) -> io::Result<OwnedFd> {
        self.with(socket::accept)
    }

    fn with<T>(&self, body: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        match &*self.socket.lock() {
            Some(fd) => body(fd.as_fd()),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Takes no new connections and gives the path free. What is in the backlog of a socket of our own can still be
    /// accepted, with what it has sent (`unix_shutdown`): true if so.
    pub(crate) fn shut(&self) -> bool {
        let Some(claim) = &self.claim else { return false };
        let _ = self.with(socket::shutdown_read);
        let _ = claim.release();
        true
    }

    /// The end: whoever waits in the backlog of a socket of our own is told by the kernel.
    pub(crate) fn close(&self) {
        self.number.store(-1, Ordering::Relaxed);
        drop(self.socket.lock().take());
        if let Some(claim) = &self.claim {
            // Once more, if it could not be done before for want of a descriptor.
            let _ = claim.release();
        }
    }

    pub(crate) fn is_adopted(&self) -> bool {
        self.claim.is_none()
    }

    /// The numbers of its descriptors, -1 for none: for a forked child.
    pub(crate) fn raw_fds(&self) -> [RawFd; 2] {
        [self.number.load(Ordering::Relaxed), self.claim.as_ref().map_or(-1, Claim::raw_fd)]
    }

    /// Where writers find it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
