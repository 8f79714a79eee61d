//! Who a message came from.

use std::os::fd::BorrowedFd;

use crate::error::{Error, Result};
use crate::sys::socket;

/// Who a message came from. Valid during the callback.
///
/// ```
/// use udsipc::{Peer, Reader, ReaderOptions};
///
/// let on_message = |message: &[u8], peer: &Peer<'_>| {
///     println!("{} bytes from {:?}", message.len(), peer.credentials()?);
///     Ok::<(), udsipc::Error>(())
/// };
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("events.sock");
/// let reader = Reader::new(&path, on_message, ReaderOptions::new())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    pub(super) id: u64,
    pub(super) fd: BorrowedFd<'a>,
    pub(super) writer: Option<[u8; 16]>,
    /// Of a peer that has an account; wraps around if that begins with a number that no writer reaches.
    pub(super) sequence: u64,
}

/// Who a peer was when it connected (`SO_PEERCRED`, unix(7)).
///
/// ```
/// # use udsipc::Peer;
/// fn is_root(peer: &Peer<'_>) -> bool {
///     peer.credentials().is_ok_and(|credentials| credentials.uid == 0)
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Credentials {
    /// The process; `None` if it lives in another pid namespace.
    pub pid: Option<i32>,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

impl Peer<'_> {
    /// The number of its connection, which no other connection of the same reader has.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use std::sync::Mutex;
    /// use udsipc::{Reader, ReaderOptions};
    ///
    /// let counts = Mutex::new(BTreeMap::<u64, u64>::new());
    /// let count = move |_: &[u8], peer: &udsipc::Peer<'_>| {
    ///     *counts.lock().unwrap().entry(peer.connection_id()).or_default() += 1;
    /// };
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("events.sock");
    /// let reader = Reader::new(&path, count, ReaderOptions::new())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connection_id(&self) -> u64 {
        self.id
    }

    /// Who connected.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the system does not say.
    ///
    /// ```
    /// # use udsipc::{Credentials, Peer};
    /// fn text(peer: &Peer<'_>) -> udsipc::Result<String> {
    ///     let Credentials { pid, uid, .. } = peer.credentials()?;
    ///     Ok(format!("process {pid:?} of user {uid}"))
    /// }
    /// ```
    pub fn credentials(&self) -> Result<Credentials> {
        let (pid, uid, gid) =
            socket::peer_credentials(self.fd).map_err(|error| Error::from_os("the peer's credentials", error))?;
        Ok(Credentials { pid: (pid != 0).then_some(pid), uid, gid })
    }

    /// Which writer it is: the same on each connection of a [`Writer`](crate::Writer), and no proof of identity. `None` from
    /// a peer that does not take part in acknowledged delivery.
    ///
    /// ```
    /// # use udsipc::Peer;
    /// /// What tells a message from every other one, also when it comes again.
    /// fn key(peer: &Peer<'_>) -> Option<(u32, [u8; 16], u64)> {
    ///     Some((peer.credentials().ok()?.uid, peer.writer_id()?, peer.sequence()?))
    /// }
    /// ```
    pub fn writer_id(&self) -> Option<[u8; 16]> {
        self.writer
    }

    /// The message's place among all that its writer has accepted, from 1 on: that of the first message in a batch. A message
    /// that is delivered again has the same. `None` from a peer that does not take part in acknowledged delivery.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use udsipc::{Peer, Reader, ReaderOptions};
    ///
    /// // For a single writer, whose messages come in order: what comes again is passed over.
    /// let last = AtomicU64::new(0);
    /// let on_message = move |message: &[u8], peer: &Peer<'_>| {
    ///     if peer.sequence().is_none_or(|sequence| last.fetch_max(sequence, Ordering::Relaxed) < sequence) {
    ///         println!("{message:?}");
    ///     }
    /// };
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("events.sock");
    /// let reader = Reader::new(&path, on_message, ReaderOptions::new())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sequence(&self) -> Option<u64> {
        self.writer.map(|_| self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    /// A hostile writer may say that its first message is number 2^64 - 1.
    #[test]
    fn a_peer_has_a_writer_id_and_a_sequence_or_neither() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        for (writer, sequence, expected) in [(None, 0, None), (Some([1; 16]), 7, Some(7)), (Some([1; 16]), 0, Some(0))]
        {
            let peer = Peer { id: 1, fd: ours.as_fd(), writer, sequence };
            assert_eq!((peer.writer_id(), peer.sequence()), (writer, expected));
        }
    }
}
