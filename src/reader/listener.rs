//! Where connections come from: a socket of our own, or one that systemd has passed. And who may come in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::options::ReaderOptions;
use crate::path::{self, Claim};
use crate::sys::socket;
use crate::systemd::{self, Environment};

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: OwnedFd,
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
            return Ok(Listener { fd, path, claim: None });
        }
        let path = environment.resolve(given);
        path::check(&path)?;
        path::ensure_socket_dir(&path)?;
        let (fd, claim) = path::claim(&path, options.socket_mode, options.socket_group)?;
        if options.read_buffer_size > 0 {
            let _ = socket::set_receive_buffer(fd.as_fd(), options.read_buffer_size);
        }
        Ok(Listener { fd, path, claim: Some(claim) })
    }

    /// Takes no new connections. Those in the backlog of a socket of our own can still be accepted, with what they have
    /// sent (`unix_shutdown`); true if so.
    pub(crate) fn shut(&self) -> bool {
        let Some(claim) = &self.claim else { return false };
        let _ = socket::shutdown_read(self.fd.as_fd());
        claim.release().is_ok()
    }

    pub(crate) fn is_adopted(&self) -> bool {
        self.claim.is_none()
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Where writers find it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Who may connect.
#[derive(Debug)]
pub(crate) struct Admission {
    uids: Vec<u32>,
    gids: Vec<u32>,
}

impl Admission {
    pub(crate) fn new(options: &ReaderOptions) -> Admission {
        Admission { uids: options.allowed_uids.clone(), gids: options.allowed_gids.clone() }
    }

    /// Asks the kernel who the peer was when it connected. A peer of whom it says nothing does not come in.
    pub(crate) fn admits(&self, peer: BorrowedFd<'_>) -> bool {
        if self.uids.is_empty() && self.gids.is_empty() {
            return true;
        }
        let Ok((_, uid, gid)) = socket::peer_credentials(peer) else { return false };
        self.uids.contains(&uid)
            || self.gids.contains(&gid)
            || (!self.gids.is_empty()
                && socket::peer_groups(peer).is_ok_and(|groups| groups.iter().any(|group| self.gids.contains(group))))
    }
}
