//! What a handle is made with: plain data with defaults, each range checked where it is set.
//!
//! A setter that refuses leaves the options as they were. Waiting times are [`Duration`]s; [`Duration::MAX`] means
//! "for ever".

use std::fmt;
use std::time::Duration;

use crate::error::{Error, ErrorHandler, Result};

/// The largest message that a reader takes, and a writer accepts, unless told otherwise: 10 MiB.
pub(crate) const DEFAULT_MAX_MESSAGE_SIZE: u64 = 10 << 20;
/// The largest value of `max_buffered_writes`.
pub(crate) const MAX_BUFFERED_WRITES: u32 = 1 << 20;
/// The largest socket buffer that may be asked for: the kernel doubles it and keeps it in an `int`.
pub(crate) const MAX_SOCKET_BUFFER: u32 = (i32::MAX / 2) as u32;
/// The largest value of `max_accept_errors`.
pub(crate) const MAX_ACCEPT_ERRORS: u32 = 63;
/// The largest value of `max_handler_threads`.
pub(crate) const MAX_HANDLER_THREADS: u32 = 4096;

/// How a writer behaves.
pub struct WriterOptions {
    pub(crate) max_buffered_writes: u32,
    pub(crate) max_buffered_bytes: u64,
    pub(crate) max_message_size: u64,
    pub(crate) write_timeout: Duration,
    pub(crate) dial_timeout: Duration,
    pub(crate) max_backoff: Duration,
    pub(crate) write_buffer_size: u32,
    pub(crate) max_attempts: u32,
    pub(crate) drain_until_deadline: bool,
    pub(crate) on_error: Option<ErrorHandler>,
}

impl Default for WriterOptions {
    fn default() -> Self {
        WriterOptions {
            max_buffered_writes: 10_000,
            max_buffered_bytes: 0,
            max_message_size: DEFAULT_MAX_MESSAGE_SIZE,
            write_timeout: Duration::from_secs(1),
            dial_timeout: Duration::from_secs(1),
            max_backoff: Duration::from_secs(10),
            write_buffer_size: 256 << 10,
            max_attempts: 5,
            drain_until_deadline: false,
            on_error: None,
        }
    }
}

impl WriterOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many messages the queue holds at most: 1 to 2^20, default 10 000.
    pub fn set_max_buffered_writes(&mut self, messages: u32) -> Result<&mut Self> {
        self.max_buffered_writes = in_range("max_buffered_writes", messages, 1, MAX_BUFFERED_WRITES)?;
        Ok(self)
    }

    /// How many payload bytes the queue holds at most; 0, the default, is no limit.
    pub fn set_max_buffered_bytes(&mut self, bytes: u64) -> Result<&mut Self> {
        self.max_buffered_bytes = bytes;
        Ok(self)
    }

    /// The largest message that is accepted; default 10 MiB, the reader's default.
    pub fn set_max_message_size(&mut self, bytes: u64) -> Result<&mut Self> {
        self.max_message_size = bytes;
        Ok(self)
    }

    /// How long the reader may take nothing before that is reported; default 1 s.
    pub fn set_write_timeout(&mut self, timeout: Duration) -> Result<&mut Self> {
        self.write_timeout = positive("write_timeout", timeout)?;
        Ok(self)
    }

    /// How long a connect waits for a place in a full backlog; default 1 s.
    pub fn set_dial_timeout(&mut self, timeout: Duration) -> Result<&mut Self> {
        self.dial_timeout = positive("dial_timeout", timeout)?;
        Ok(self)
    }

    /// The longest pause between two attempts to connect; default 10 s.
    pub fn set_max_backoff(&mut self, backoff: Duration) -> Result<&mut Self> {
        self.max_backoff = positive("max_backoff", backoff)?;
        Ok(self)
    }

    /// `SO_SNDBUF` in bytes, which the kernel doubles; 0 leaves the system's; default 256 KiB.
    pub fn set_write_buffer_size(&mut self, bytes: u32) -> Result<&mut Self> {
        self.write_buffer_size = in_range("write_buffer_size", bytes, 0, MAX_SOCKET_BUFFER)?;
        Ok(self)
    }

    /// After how many broken connections a message is given up; 0 is never; default 5.
    pub fn set_max_attempts(&mut self, attempts: u32) -> Result<&mut Self> {
        self.max_attempts = attempts;
        Ok(self)
    }

    /// Whether `stop` goes on trying to connect until its deadline when nobody listens; default no.
    pub fn set_drain_until_deadline(&mut self, on: bool) -> Result<&mut Self> {
        self.drain_until_deadline = on;
        Ok(self)
    }

    /// Called for each error that no function call could return, on the thread that drives the writer: one of the library,
    /// or one that calls `dispatch`, `stop`, or waits for room or in `flush` in its place.
    pub fn set_error_handler(&mut self, handler: Option<ErrorHandler>) -> Result<&mut Self> {
        self.on_error = handler;
        Ok(self)
    }
}

/// How a reader behaves.
pub struct ReaderOptions {
    pub(crate) max_message_size: u64,
    pub(crate) inactivity_timeout: Duration,
    pub(crate) max_accept_errors: u32,
    pub(crate) read_buffer_size: u32,
    pub(crate) max_handler_threads: u32,
    pub(crate) max_connections: u32,
    pub(crate) socket_mode: Option<u32>,
    pub(crate) socket_group: Option<u32>,
    pub(crate) allowed_uids: Vec<u32>,
    pub(crate) allowed_gids: Vec<u32>,
    pub(crate) listen_fd_name: Option<String>,
    pub(crate) use_systemd: bool,
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
            max_connections: 0,
            socket_mode: None,
            socket_group: None,
            allowed_uids: Vec::new(),
            allowed_gids: Vec::new(),
            listen_fd_name: None,
            use_systemd: true,
            on_error: None,
        }
    }
}

impl ReaderOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The largest message that is taken; 0 refuses every non-empty message; default 10 MiB.
    pub fn set_max_message_size(&mut self, bytes: u64) -> Result<&mut Self> {
        self.max_message_size = bytes;
        Ok(self)
    }

    /// How long a connection may be silent before it is closed; [`Duration::MAX`] is never; default 10 s.
    pub fn set_inactivity_timeout(&mut self, timeout: Duration) -> Result<&mut Self> {
        self.inactivity_timeout = positive("inactivity_timeout", timeout)?;
        Ok(self)
    }

    /// How many failures to accept in a row stay unreported; at most 63; default 10.
    pub fn set_max_accept_errors(&mut self, count: u32) -> Result<&mut Self> {
        if count > MAX_ACCEPT_ERRORS {
            return Err(Error::MaxAcceptErrorsTooLarge(count));
        }
        self.max_accept_errors = count;
        Ok(self)
    }

    /// `SO_RCVBUF` in bytes; 0 leaves the system's; default 256 KiB. Without effect on Linux (unix(7)).
    pub fn set_read_buffer_size(&mut self, bytes: u32) -> Result<&mut Self> {
        self.read_buffer_size = in_range("read_buffer_size", bytes, 0, MAX_SOCKET_BUFFER)?;
        Ok(self)
    }

    /// How many callbacks may run at the same time; 1 to 4096; 1 means that they never overlap; default 64.
    pub fn set_max_handler_threads(&mut self, threads: u32) -> Result<&mut Self> {
        if !(1..=MAX_HANDLER_THREADS).contains(&threads) {
            return Err(Error::InvalidArgument(format!(
                "max_handler_threads is {threads}, outside 1 to {MAX_HANDLER_THREADS}"
            )));
        }
        self.max_handler_threads = threads;
        Ok(self)
    }

    /// How many connections may be open; the next one is closed unread; 0, the default, is no limit.
    pub fn set_max_connections(&mut self, count: u32) -> Result<&mut Self> {
        self.max_connections = count;
        Ok(self)
    }

    /// The permission bits of the socket file, at most 0o777; by default as the umask says.
    pub fn set_socket_mode(&mut self, mode: u32) -> Result<&mut Self> {
        if mode > 0o777 {
            return Err(Error::InvalidArgument(format!("socket_mode is {mode:#o}, above 0o777")));
        }
        self.socket_mode = Some(mode);
        Ok(self)
    }

    /// The group that owns the socket file.
    pub fn set_socket_group(&mut self, gid: u32) -> Result<&mut Self> {
        if gid == u32::MAX {
            return Err(Error::InvalidArgument("socket_group is 2^32 - 1, which names no group".into()));
        }
        self.socket_group = Some(gid);
        Ok(self)
    }

    /// Lets peers of this user in. Any call of `allow_uid` or `allow_gid` shuts all others out.
    pub fn allow_uid(&mut self, uid: u32) -> Result<&mut Self> {
        self.allowed_uids.push(uid);
        Ok(self)
    }

    /// Lets peers in that are in this group, by their primary or a supplementary group.
    pub fn allow_gid(&mut self, gid: u32) -> Result<&mut Self> {
        self.allowed_gids.push(gid);
        Ok(self)
    }

    /// Which of several descriptors passed by systemd is meant (`FileDescriptorName=`).
    pub fn set_listen_fd_name(&mut self, name: Option<&str>) -> Result<&mut Self> {
        if let Some(name) = name
            && (name.is_empty() || name.len() > 255 || name.contains(':') || name.contains(char::is_control))
        {
            return Err(Error::InvalidArgument(
                "listen_fd_name must be 1 to 255 characters without ':' and control characters".into(),
            ));
        }
        self.listen_fd_name = name.map(str::to_owned);
        Ok(self)
    }

    /// Whether the reader follows systemd's environment: activation, `RUNTIME_DIRECTORY`, notification; default yes.
    pub fn set_use_systemd(&mut self, on: bool) -> Result<&mut Self> {
        self.use_systemd = on;
        Ok(self)
    }

    /// Called for each error that no function call could return, from the thread that met it.
    pub fn set_error_handler(&mut self, handler: Option<ErrorHandler>) -> Result<&mut Self> {
        self.on_error = handler;
        Ok(self)
    }
}

fn positive(option: &'static str, value: Duration) -> Result<Duration> {
    if value.is_zero() { Err(Error::InvalidTimeout { option }) } else { Ok(value) }
}

fn in_range(option: &'static str, value: u32, min: u32, max: u32) -> Result<u32> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(Error::InvalidBufferSize { option, value: value.into(), min: min.into(), max: max.into() })
}

impl fmt::Debug for WriterOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriterOptions")
            .field("max_buffered_writes", &self.max_buffered_writes)
            .field("max_buffered_bytes", &self.max_buffered_bytes)
            .field("max_message_size", &self.max_message_size)
            .field("write_timeout", &self.write_timeout)
            .field("dial_timeout", &self.dial_timeout)
            .field("max_backoff", &self.max_backoff)
            .field("write_buffer_size", &self.write_buffer_size)
            .field("max_attempts", &self.max_attempts)
            .field("drain_until_deadline", &self.drain_until_deadline)
            .field("on_error", &self.on_error.is_some())
            .finish()
    }
}

impl fmt::Debug for ReaderOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReaderOptions")
            .field("max_message_size", &self.max_message_size)
            .field("inactivity_timeout", &self.inactivity_timeout)
            .field("max_accept_errors", &self.max_accept_errors)
            .field("read_buffer_size", &self.read_buffer_size)
            .field("max_handler_threads", &self.max_handler_threads)
            .field("max_connections", &self.max_connections)
            .field("socket_mode", &self.socket_mode)
            .field("socket_group", &self.socket_group)
            .field("allowed_uids", &self.allowed_uids)
            .field("allowed_gids", &self.allowed_gids)
            .field("listen_fd_name", &self.listen_fd_name)
            .field("use_systemd", &self.use_systemd)
            .field("on_error", &self.on_error.is_some())
            .finish()
    }
}
