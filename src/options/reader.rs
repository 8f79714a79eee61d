//! The options of a reader.

use std::os::fd::{AsFd, AsRawFd as _};
use std::time::Duration;

use super::{DEFAULT_LINGER, DEFAULT_MAX_MESSAGE_SIZE, ErrorHandler, ListenFd, MAX_SOCKET_BUFFER, in_range, positive};
use crate::error::{Context, Error, Result};
use crate::sys::overflow_id::{gid_of_unmapped_groups, uid_of_unmapped_users};

/// The largest value of `max_accept_errors`.
const MAX_ACCEPT_ERRORS: u32 = 63;
/// The largest value of `max_handler_threads`.
const MAX_HANDLER_THREADS: u32 = 4096;
/// The smallest value of `callback_stack_size` other than 0.
const MIN_CALLBACK_STACK_SIZE: u64 = 64 << 10;

/// The options of a reader. [`Reader::new`](crate::Reader::new) refuses a value out of its range, and names the option.
///
/// ```
/// use std::time::Duration;
/// use udsipc::{Reader, ReaderOptions};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("events.sock");
/// let options = ReaderOptions::new()
///     .socket_mode(0o660)
///     .max_handler_threads(4)
///     .on_error(|error, context| eprintln!("{context}: {error}"));
/// let reader = Reader::new(&path, |message, _| println!("{message:?}"), options)?;
///
/// let refused = Reader::new(&path, |_, _| (), ReaderOptions::new().max_handler_threads(0));
/// assert_eq!(refused.unwrap_err().to_string(), "invalid argument: max_handler_threads is 0, outside 1 to 4096");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "options have no effect before a reader is made with them"]
pub struct ReaderOptions {
    pub(crate) max_message_size: u64,
    pub(crate) inactivity_timeout: Duration,
    pub(crate) max_accept_errors: u32,
    pub(crate) read_buffer_size: u32,
    pub(crate) max_handler_threads: u32,
    pub(crate) callback_stack_size: u64,
    pub(crate) max_connections: u32,
    pub(crate) max_shared_memory: u64,
    pub(crate) socket_mode: Option<u32>,
    pub(crate) socket_group: Option<u32>,
    pub(crate) allowed_uids: Vec<u32>,
    pub(crate) allowed_gids: Vec<u32>,
    pub(crate) listen_fd_name: Option<String>,
    pub(crate) listen_fd: Option<ListenFd>,
    pub(crate) use_systemd: bool,
    pub(crate) linger: Duration,
    pub(crate) on_error: Option<ErrorHandler>,
}

impl Default for ReaderOptions {
    fn default() -> Self {
        ReaderOptions {
            max_message_size: DEFAULT_MAX_MESSAGE_SIZE,
            inactivity_timeout: Duration::from_secs(10),
            max_accept_errors: 10,
            read_buffer_size: 256 << 10,
            max_handler_threads: 64,
            callback_stack_size: 0,
            max_connections: 0,
            max_shared_memory: 64 << 20,
            socket_mode: None,
            socket_group: None,
            allowed_uids: Vec::new(),
            allowed_gids: Vec::new(),
            listen_fd_name: None,
            listen_fd: None,
            use_systemd: true,
            linger: DEFAULT_LINGER,
            on_error: None,
        }
    }
}

impl ReaderOptions {
    /// The defaults.
    ///
    /// ```
    /// # use udsipc::{Reader, ReaderOptions};
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("events.sock");
    /// let reader = Reader::new(&path, |_, _| (), ReaderOptions::new())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// The largest message that is accepted; 0 accepts only empty ones; default 10 MiB.
    ///
    /// ```
    /// let options = udsipc::ReaderOptions::new().max_message_size(64 << 10);
    /// ```
    pub fn max_message_size(mut self, bytes: u64) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// How long a connection may be silent before it is closed; more than zero; [`Duration::MAX`] is no limit; default 10 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let options = udsipc::ReaderOptions::new().inactivity_timeout(Duration::MAX);
    /// ```
    pub fn inactivity_timeout(mut self, timeout: Duration) -> Self {
        self.inactivity_timeout = timeout;
        self
    }

    /// How many failures to accept in a row are not reported; at most 63; default 10.
    ///
    /// ```
    /// let options = udsipc::ReaderOptions::new().max_accept_errors(0);
    /// ```
    pub fn max_accept_errors(mut self, count: u32) -> Self {
        self.max_accept_errors = count;
        self
    }

    /// `SO_RCVBUF` in bytes: at most 2^30 - 1; 0 is the system's default; default 256 KiB. Without effect on Linux (unix(7)).
    ///
    /// ```
    /// let options = udsipc::ReaderOptions::new().read_buffer_size(0);
    /// ```
    pub fn read_buffer_size(mut self, bytes: u32) -> Self {
        self.read_buffer_size = bytes;
        self
    }

    /// How many callbacks may run at the same time; 1 to 4096; 1 means that they never overlap; default 64.
    ///
    /// ```
    /// let options = udsipc::ReaderOptions::new().max_handler_threads(1);
    /// ```
    pub fn max_handler_threads(mut self, threads: u32) -> Self {
        self.max_handler_threads = threads;
        self
    }

    /// The stack size of the threads that run callbacks, in bytes: at least 64 KiB; 0, the default, is the system's
    /// default (RLIMIT_STACK, shown by `ulimit -s`).
    ///
    /// ```
    /// let options = udsipc::ReaderOptions::new().callback_stack_size(256 << 10);
    /// ```
    pub fn callback_stack_size(mut self, bytes: u64) -> Self {
        self.callback_stack_size = bytes;
        self
    }

    /// How many connections may be open; the next one is closed unread; 0, the default, is no limit.
    ///
    /// ```
    /// let options = udsipc::ReaderOptions::new().max_connections(100);
    /// ```
    pub fn max_connections(mut self, count: u32) -> Self {
        self.max_connections = count;
        self
    }

    /// How much memory the reader shares with busy writers at most, in bytes. Such a writer passes its messages through 4 MiB
    /// of it, or 1 MiB when half is in use, without a system call for each batch; when all is in use, or with 0, further writers
    /// use their sockets as before. Default 64 MiB.
    ///
    /// ```
    /// let options = udsipc::ReaderOptions::new().max_shared_memory(256 << 20);
    /// ```
    pub fn max_shared_memory(mut self, bytes: u64) -> Self {
        self.max_shared_memory = bytes;
        self
    }

    /// The permission bits of the socket file, at most 0o777; default 0o777 less the umask.
    ///
    /// ```
    /// let options = udsipc::ReaderOptions::new().socket_mode(0o660);
    /// ```
    pub fn socket_mode(mut self, mode: u32) -> Self {
        self.socket_mode = Some(mode);
        self
    }

    /// The group that owns the socket file; not 2^32 - 1, which names no group; default that of the process or directory.
    ///
    /// ```
    /// let options = udsipc::ReaderOptions::new().socket_mode(0o660).socket_group(100);
    /// ```
    pub fn socket_group(mut self, gid: u32) -> Self {
        self.socket_group = Some(gid);
        self
    }

    /// Allows peers of this user. After any call of `allow_uid` or `allow_gid` only allowed peers are accepted.
    ///
    /// In a user namespace that does not map every user, the kernel reports one id, 65534, for all users without a mapping.
    /// There that id is refused, unless it is given twice.
    ///
    /// ```
    /// let options = udsipc::ReaderOptions::new().allow_uid(0).allow_uid(1000);
    /// ```
    pub fn allow_uid(mut self, uid: u32) -> Self {
        self.allowed_uids.push(uid);
        self
    }

    /// Allows peers of this group: their primary or a supplementary group. As for [`ReaderOptions::allow_uid`], the id of all
    /// groups without a mapping has to be given twice.
    ///
    /// ```
    /// let options = udsipc::ReaderOptions::new().allow_gid(100);
    /// ```
    pub fn allow_gid(mut self, gid: u32) -> Self {
        self.allowed_gids.push(gid);
        self
    }

    /// The name of this reader's socket among several that systemd passed (`FileDescriptorName=`): 1 to 255 bytes without `:`
    /// and control characters; default none.
    ///
    /// ```
    /// let options = udsipc::ReaderOptions::new().listen_fd_name("events");
    /// ```
    pub fn listen_fd_name(mut self, name: impl Into<String>) -> Self {
        self.listen_fd_name = Some(name.into());
        self
    }

    /// A listening Unix stream socket of the program. Then no path is bound, and no socket is taken from systemd. The reader
    /// uses a duplicate: it never shuts the socket and never removes its file. The socket becomes non-blocking for all
    /// processes that share it.
    ///
    /// ```
    /// use std::os::unix::net::UnixListener;
    /// use udsipc::{Reader, ReaderOptions};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let path = directory.path().join("events.sock");
    /// let options = ReaderOptions::new().listen_fd(UnixListener::bind(&path)?);
    /// let reader = Reader::new("the path is not used", |_, _| (), options)?;
    /// assert_eq!(reader.socket_path(), path);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn listen_fd(mut self, socket: impl AsFd + Send + Sync + 'static) -> Self {
        let number = socket.as_fd().as_raw_fd();
        self.listen_fd = Some(ListenFd::new(socket, number));
        self
    }

    /// Whether the reader follows systemd's environment: activation, `RUNTIME_DIRECTORY`, notification; default yes.
    ///
    /// ```
    /// let options = udsipc::ReaderOptions::new().use_systemd(false);
    /// ```
    pub fn use_systemd(mut self, on: bool) -> Self {
        self.use_systemd = on;
        self
    }

    /// How long a running reader that is dropped goes on receiving; zero is not at all; default 1 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let options = udsipc::ReaderOptions::new().linger(Duration::ZERO);
    /// ```
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// The function that is called for each error that no function call could return, on the thread on which it occurs;
    /// default none.
    ///
    /// ```
    /// let options = udsipc::ReaderOptions::new().on_error(|error, context| eprintln!("{context}: {error}"));
    /// ```
    pub fn on_error(mut self, handler: impl Fn(&Error, Context) + Send + Sync + 'static) -> Self {
        self.on_error = Some(ErrorHandler::new(handler));
        self
    }

    /// Refuses a value out of its range, and a `listen_fd` that is no listening Unix stream socket.
    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |text: String| Err(Error::InvalidArgument(text));
        positive("inactivity_timeout", self.inactivity_timeout)?;
        if self.max_accept_errors > MAX_ACCEPT_ERRORS {
            return Err(Error::MaxAcceptErrorsTooLarge(self.max_accept_errors));
        }
        in_range("read_buffer_size", self.read_buffer_size, 0_u32, MAX_SOCKET_BUFFER)?;
        if !(1..=MAX_HANDLER_THREADS).contains(&self.max_handler_threads) {
            let threads = self.max_handler_threads;
            return invalid(format!("max_handler_threads is {threads}, outside 1 to {MAX_HANDLER_THREADS}"));
        }
        if self.callback_stack_size != 0 {
            let max = isize::MAX as u64;
            in_range("callback_stack_size", self.callback_stack_size, MIN_CALLBACK_STACK_SIZE, max)?;
        }
        if let Some(mode) = self.socket_mode.filter(|mode| *mode > 0o777) {
            return invalid(format!("socket_mode is {mode:#o}, above 0o777"));
        }
        if self.socket_group == Some(u32::MAX) {
            return invalid("socket_group is 2^32 - 1, which names no group".into());
        }
        given_twice("allow_uid", "uid", &self.allowed_uids, uid_of_unmapped_users)?;
        given_twice("allow_gid", "gid", &self.allowed_gids, gid_of_unmapped_groups)?;
        if self.listen_fd_name.as_deref().is_some_and(|name| !is_fd_name(name)) {
            return invalid("listen_fd_name must be 1 to 255 characters without ':' and control characters".into());
        }
        self.listen_fd.as_ref().map_or(Ok(()), ListenFd::check)
    }
}

/// Refuses the id that stands for all users or groups without a mapping, if it is given once only.
fn given_twice(call: &str, kind: &str, ids: &[u32], of_unmapped: impl FnOnce() -> Option<u32>) -> Result<()> {
    let of_unmapped = if ids.is_empty() { None } else { of_unmapped() };
    match of_unmapped.filter(|unmapped| ids.iter().filter(|id| *id == unmapped).count() == 1) {
        None => Ok(()),
        Some(id) => Err(Error::InvalidArgument(format!(
            "{call}: in this user namespace {id} stands for every {kind} that it does not map (/proc/self/{kind}_map), \
             and all of them would be let in: call it once more with {id} if that is meant"
        ))),
    }
}

fn is_fd_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && !name.contains(|c: char| c == ':' || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_all_without_a_mapping_has_to_be_given_twice() {
        let check = |ids: &[u32], unmapped| given_twice("allow_uid", "uid", ids, || unmapped);
        for allowed in [&[][..], &[1000], &[65_534, 65_534], &[65_534, 1000, 65_534]] {
            check(allowed, Some(65_534)).expect("allowed");
        }
        check(&[65_534], None).expect("all users are mapped");
        let text = check(&[1000, 65_534], Some(65_534)).expect_err("once").to_string();
        assert!(text.contains("allow_uid") && text.contains("65534") && text.contains("/proc/self/uid_map"), "{text}");
    }
}
