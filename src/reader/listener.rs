//! The listening socket: bound here, or passed by systemd or the host.
//!
//! The file of a socket that is bound here is watched: when it is removed, the reader listens at the path again (`presence`).
//! Connections in the backlog of the socket without a file are accepted first.
//!
//! Order of locks: the socket file, then the sockets. Nothing is closed with either held.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::presence::{Action, Presence};
use crate::claim::{self, Access, Claim, FileState, LOCK_WAIT};
use crate::error::{Error, Result};
use crate::options::ReaderOptions;
use crate::path;
use crate::sys::descriptor::Descriptor;
use crate::sys::event::{Interest, Key, Poller};
use crate::sys::inotify::{Inotify, Watch};
use crate::sys::lock::Mutex;
use crate::sys::socket::PeerName;
use crate::sys::{self, socket};
use crate::systemd::{self, Environment};

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    sockets: Mutex<Sockets>,
    path: PathBuf,
    origin: Origin,
    relistened: AtomicU64,
}

#[derive(Debug)]
enum Origin {
    /// Bound here.
    Bound(Mutex<SocketFile>),
    /// Passed by systemd. Like [`Origin::Host`] never shut, and its file never removed: its backlog belongs to the next start.
    Systemd,
    /// Passed by the host.
    Host,
}

#[derive(Debug)]
struct Sockets {
    /// None when it has been closed.
    current: Option<Descriptor>,
    /// Sockets whose file has gone. They are shut, and connections may wait in their backlogs.
    retired: Vec<Descriptor>,
}

/// The file of a socket that was bound here.
#[derive(Debug)]
struct SocketFile {
    claim: Claim,
    access: Access,
    receive_buffer: u32,
    presence: Presence,
    watch: Option<FileWatch>,
}

/// What a look at the socket file has come to.
#[derive(Debug, Default)]
pub(super) struct FileNews {
    /// To be reported in the context of the socket file.
    pub(super) error: Option<Error>,
    /// There is a new socket: accept, since connections may wait in the backlog of the old one.
    pub(super) relistened: bool,
    /// When [`Listener::look_again`] has to be called.
    pub(super) again_at: Option<Instant>,
}

impl Listener {
    /// Takes what the host or systemd has passed, or binds. Options have been checked before: a bad one touches nothing.
    pub(super) fn open(given: &Path, options: &ReaderOptions, environment: &Environment) -> Result<Listener> {
        if given.as_os_str().is_empty() {
            path::check(given)?;
        }
        path::check_notation(given)?;
        if let Some(listener) = &options.listen_fd {
            let failed = |error| Error::from_os("use the listen_fd of the options", error);
            let socket = socket::duplicate(listener.as_fd().as_raw_fd()).map_err(failed)?;
            socket::set_nonblocking(socket.as_fd()).map_err(failed)?;
            let path = socket::local_path(socket.as_fd()).map_err(failed)?;
            return Ok(Listener::new(socket, path, Origin::Host));
        }
        if let Some((socket, path)) = systemd::take_listener(environment, options.listen_fd_name.as_deref(), given)? {
            return Ok(Listener::new(socket, path, Origin::Systemd));
        }
        Listener::bind(environment.resolve(given), options).map_err(|error| environment.explain(error))
    }

    fn bind(path: PathBuf, options: &ReaderOptions) -> Result<Listener> {
        path::check(&path)?;
        claim::ensure_socket_dir(&path)?;
        let access = Access::new(options.socket_mode, options.socket_group);
        let (socket, claim) = claim::claim(&path, access, Instant::now() + LOCK_WAIT)?;
        let receive_buffer = options.read_buffer_size;
        prepare(&socket, receive_buffer);
        let file = SocketFile { claim, access, receive_buffer, presence: Presence::Present, watch: None };
        Ok(Listener::new(socket, path, Origin::Bound(Mutex::new(file))))
    }

    fn new(socket: Descriptor, path: PathBuf, origin: Origin) -> Listener {
        let sockets = Mutex::new(Sockets { current: Some(socket), retired: Vec::new() });
        Listener { sockets, path, origin, relistened: AtomicU64::new(0) }
    }

    /// Registers the socket with a poller, for one event.
    pub(super) fn register(&self, poller: &Poller, key: Key) -> io::Result<()> {
        self.with(|socket| poller.add(socket, key, Interest::READABLE_ONCE))
    }

    /// Asks the poller for one more event.
    pub(super) fn rearm(&self, poller: &Poller, key: Key) -> io::Result<()> {
        self.with(|socket| poller.modify(socket, key, Interest::READABLE_ONCE))
    }

    /// Ends the registration.
    pub(super) fn unregister(&self, poller: &Poller) {
        let _ = self.with(|socket| poller.remove(socket));
    }

    fn with<T>(&self, body: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        match &self.sockets.lock().current {
            Some(socket) => body(socket.as_fd()),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// One connection; `WouldBlock` when none waits, or none ever will.
    pub(super) fn accept(&self) -> io::Result<(Descriptor, PeerName)> {
        loop {
            let mut sockets = self.sockets.lock();
            let Some(retired) = sockets.retired.last() else { break };
            match socket::accept(retired.as_fd()) {
                Err(error) if !error.raw_os_error().is_some_and(sys::is_exhaustion) => {
                    let emptied = sockets.retired.pop();
                    drop(sockets);
                    drop(emptied);
                }
                accepted => return accepted,
            }
        }
        self.with(socket::accept)
    }

    /// Gives the path free, while the socket still listens. The error is for the host: the file stays behind.
    pub(super) fn give_back(&self) -> Result<()> {
        let Origin::Bound(file) = &self.origin else { return Ok(()) };
        let mut file = file.lock();
        if file.presence == Presence::GivenBack {
            return Ok(());
        }
        file.presence = Presence::GivenBack;
        let watch = file.watch.take();
        let result = file.claim.release();
        drop(file);
        drop(watch);
        result
    }

    /// Takes no new connections and gives the path free. What is in the backlog of a socket of our own can still be
    /// accepted, with what it has sent (`unix_shutdown`): true if so.
    pub(super) fn shut(&self) -> bool {
        let _ = self.give_back();
        let is_ours = matches!(self.origin, Origin::Bound(_));
        if is_ours {
            let _ = self.with(socket::shutdown_read);
        }
        is_ours
    }

    /// Closes the sockets. The kernel resets the connections in the backlog of a socket that was bound here.
    pub(super) fn close(&self) {
        let _ = self.give_back();
        let (current, retired) = {
            let mut sockets = self.sockets.lock();
            (sockets.current.take(), std::mem::take(&mut sockets.retired))
        };
        drop((current, retired));
    }

    /// Whether systemd has passed it.
    pub(super) fn is_activated(&self) -> bool {
        matches!(self.origin, Origin::Systemd)
    }

    /// Where writers find it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How often a new socket took the place of one whose file had gone.
    pub(super) fn relistened(&self) -> u64 {
        self.relistened.load(Ordering::Relaxed)
    }

    // ---- the socket file ----

    /// Has the poller tell of changes of the socket file, with the key `file_key`: then call [`Listener::file_changed`].
    /// Nothing is watched where there is no file, or no inotify instance to be had (EMFILE).
    pub(super) fn watch(&self, poller: &Poller, file_key: Key) {
        let Origin::Bound(file) = &self.origin else { return };
        let mut file = file.lock();
        if file.claim.has_file() {
            file.watch = FileWatch::new(file.claim.path(), poller, file_key).ok();
        }
        // A change between the claim and the watch was not reported.
        if file.watch.is_some() && file.claim.check_file().is_ok_and(|state| state != FileState::Ours) {
            file.presence = Presence::Unchecked;
            let _ = poller.arm(Instant::now());
        }
    }

    /// Handles a change that inotify reports. `key` is the listener's.
    pub(super) fn file_changed(&self, poller: &Poller, key: Key, now: Instant) -> FileNews {
        let Origin::Bound(file) = &self.origin else { return FileNews::default() };
        let mut file = file.lock();
        if let Some(watch) = &file.watch {
            watch.remove_stale();
        }
        self.look(&mut file, poller, key, now)
    }

    /// A timer has fired. `key` is that of the listener.
    pub(super) fn look_again(&self, poller: &Poller, key: Key, now: Instant) -> FileNews {
        let Origin::Bound(file) = &self.origin else { return FileNews::default() };
        let mut file = file.lock();
        match file.presence.due(now) {
            Ok(()) => self.look(&mut file, poller, key, now),
            Err(again_at) => FileNews { again_at, ..FileNews::default() },
        }
    }

    fn look(&self, file: &mut SocketFile, poller: &Poller, key: Key, now: Instant) -> FileNews {
        let state = file.claim.check_file().ok();
        match file.presence.observe(state, now) {
            Action::Nothing => FileNews::default(),
            Action::Wait(at) => FileNews { again_at: Some(at), ..FileNews::default() },
            Action::Report(at) => {
                let error = Some(Error::SocketGone { path: self.path.clone() });
                FileNews { error, again_at: Some(at), relistened: false }
            }
            Action::Relisten => match self.relisten(file, poller, key) {
                Ok(()) => {
                    file.presence.relistened();
                    self.relistened.fetch_add(1, Ordering::Relaxed);
                    FileNews { relistened: true, ..FileNews::default() }
                }
                Err(error) => {
                    let in_use = matches!(error, Error::AddressInUse { .. });
                    let (again_at, report) = file.presence.failed(in_use, now);
                    FileNews { error: report.then_some(error), again_at: Some(again_at), relistened: false }
                }
            },
        }
    }

    /// Listens at the path with a new socket. The lock on the directory is tried once, since events wait meanwhile.
    fn relisten(&self, file: &mut SocketFile, poller: &Poller, key: Key) -> Result<()> {
        let (socket, claim) = claim::claim(file.claim.path(), file.access, Instant::now())?;
        prepare(&socket, file.receive_buffer);
        if let Err(error) = poller.add(socket.as_fd(), key, Interest::READABLE_ONCE) {
            let _ = claim.release();
            return Err(Error::from_os("watch the new socket of the reader", error));
        }
        let mut sockets = self.sockets.lock();
        if let Some(old) = sockets.current.replace(socket) {
            // The old socket has no name any more, but a writer that has looked it up before may be about to connect.
            let _ = socket::shutdown_read(old.as_fd());
            let _ = poller.remove(old.as_fd());
            sockets.retired.push(old);
        }
        drop(sockets);
        if let Some(watch) = &mut file.watch {
            watch.renew(claim.path());
        }
        file.claim = claim;
        Ok(())
    }
}

/// What can be set on a listening socket before connections come.
fn prepare(socket: &Descriptor, receive_buffer: u32) {
    let _ = socket::refuse_descriptors(socket.as_fd());
    if receive_buffer > 0 {
        let _ = socket::set_receive_buffer(socket.as_fd(), receive_buffer);
    }
}

/// The kernel's reports of changes of a socket file and of its directory.
#[derive(Debug)]
struct FileWatch {
    inotify: Inotify,
    file: Option<Watch>,
}

impl FileWatch {
    fn new(path: &Path, poller: &Poller, key: Key) -> io::Result<FileWatch> {
        let mut watch = FileWatch { inotify: Inotify::new()?, file: None };
        watch.renew(path);
        poller.add(watch.inotify.as_fd(), key, Interest::READABLE_EDGE)?;
        Ok(watch)
    }

    /// Watches what lies at the path now.
    fn renew(&mut self, path: &Path) {
        if let Some(old) = self.file.take() {
            self.inotify.remove(old);
        }
        self.file = self.inotify.add_file(path).ok();
        // As a file, so that other files in a busy directory are not reported; the dot follows a link to the directory.
        if let Some(directory) = path.parent() {
            let _ = self.inotify.add_file(&directory.join("."));
        }
    }

    /// Takes what has been reported. That something has changed is all that counts.
    fn remove_stale(&self) {
        let _ = self.inotify.read(|_| {});
    }
}

#[cfg(test)]
mod tests;
