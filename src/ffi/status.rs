//! The status numbers, their texts, and the status of each error of the core.

use std::ffi::CStr;

use crate::error::Error;

/// What a call returns: 0 is success, any other number is the reason of a failure. Numbers are never reused or changed. New
/// numbers may be added: treat an unknown number as a failure.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum udsipc_status {
    /// Success.
    UDSIPC_OK = 0,
    /// A required pointer is NULL.
    UDSIPC_ERR_NULL_POINTER = 1,
    /// An argument is out of its range, and no other status fits.
    UDSIPC_ERR_INVALID_ARGUMENT = 2,
    /// The path is empty, longer than udsipc_max_socket_path_length(), or looks like a mistake ("unix:", "~", a line break).
    UDSIPC_ERR_INVALID_SOCKET_PATH = 3,
    /// A timeout or backoff of 0 was given as an option.
    UDSIPC_ERR_INVALID_TIMEOUT = 4,
    /// A queue or buffer size is out of its range.
    UDSIPC_ERR_INVALID_BUFFER_SIZE = 5,
    /// The message callback of a new reader is NULL.
    UDSIPC_ERR_HANDLER_NULL = 6,
    /// max_accept_errors is above 63.
    UDSIPC_ERR_MAX_ACCEPT_ERRORS_TOO_LARGE = 7,
    /// The call waits for the handle's callbacks, and was made inside one of them. It has changed nothing.
    UDSIPC_ERR_WOULD_DEADLOCK = 8,
    /// The handle was made by the parent of this process: a child must make its own.
    UDSIPC_ERR_FORKED = 9,
    /// Dispatch was called on a started handle, or start on a dispatched one.
    UDSIPC_ERR_WRONG_STATE = 10,
    /// The queue is at a limit. The message was not accepted, and is counted in dropped.
    UDSIPC_ERR_BUFFER_FULL = 20,
    /// The handle has been stopped.
    UDSIPC_ERR_STOPPED = 21,
    /// The message is larger than max_message_size.
    UDSIPC_ERR_MESSAGE_TOO_LARGE = 22,
    /// The given time has passed.
    UDSIPC_ERR_TIMEOUT = 23,
    /// In error callbacks: the reader has read nothing for write_timeout_ms. Connection and message are kept.
    UDSIPC_ERR_BACKPRESSURE = 24,
    /// In error callbacks: the connection broke during a write. The message is sent again on the next connection.
    UDSIPC_ERR_NO_CONSUMER = 25,
    /// In error callbacks: nobody listens at the path. The connect is tried again.
    UDSIPC_ERR_NOT_CONNECTED = 26,
    /// The peer closed the connection in the middle of a message.
    UDSIPC_ERR_CONNECTION_CLOSED = 27,
    /// Accepted messages were given up (metric abandoned), or may not have been read (metric suspected_lost).
    UDSIPC_ERR_UNDELIVERED = 28,
    /// The peer does not take part in acknowledged delivery: it is no reader, or no writer, of this library, or has it off.
    UDSIPC_ERR_NOT_ACKNOWLEDGED = 29,
    /// A system call failed; os_errno or udsipc_last_error_message() has the reason.
    UDSIPC_ERR_IO = 40,
    /// A length prefix is not a varint of 64 bits.
    UDSIPC_ERR_INVALID_LENGTH_PREFIX = 41,
    /// The message callback returned non-zero.
    UDSIPC_ERR_HANDLER_FAILED = 42,
    /// A live reader listens at the path, or a file that is not a socket lies there.
    UDSIPC_ERR_ADDRESS_IN_USE = 43,
    /// Permission is missing in the file system, or the peer is not allowed (udsipc_reader_options_allow_uid).
    UDSIPC_ERR_PERMISSION_DENIED = 44,
    /// LISTEN_FDS and its companions are set for this process but cannot be used.
    UDSIPC_ERR_SYSTEMD = 45,
    /// Descriptors, threads or memory are used up.
    UDSIPC_ERR_NO_RESOURCES = 46,
    /// In a reader's error callback: the socket file was removed or replaced. The reader listens there again as soon as no
    /// other process does; its connections are kept.
    UDSIPC_ERR_SOCKET_GONE = 47,
    /// A bug in this library. Free the handle; please report the text of udsipc_last_error_message().
    UDSIPC_ERR_PANIC = 90,
}

use udsipc_status::*;

const TEXTS: &[(udsipc_status, &CStr)] = &[
    (UDSIPC_OK, c"success"),
    (UDSIPC_ERR_NULL_POINTER, c"a required pointer is NULL"),
    (UDSIPC_ERR_INVALID_ARGUMENT, c"invalid argument"),
    (UDSIPC_ERR_INVALID_SOCKET_PATH, c"the socket path is empty, too long or malformed"),
    (UDSIPC_ERR_INVALID_TIMEOUT, c"a timeout must be positive"),
    (UDSIPC_ERR_INVALID_BUFFER_SIZE, c"a queue or buffer size is out of range"),
    (UDSIPC_ERR_HANDLER_NULL, c"the message callback is NULL"),
    (UDSIPC_ERR_MAX_ACCEPT_ERRORS_TOO_LARGE, c"max_accept_errors is above 63"),
    (UDSIPC_ERR_WOULD_DEADLOCK, c"called from inside a callback of the same handle"),
    (UDSIPC_ERR_FORKED, c"the handle belongs to the parent process"),
    (UDSIPC_ERR_WRONG_STATE, c"start and dispatch exclude each other"),
    (UDSIPC_ERR_BUFFER_FULL, c"the send queue is full"),
    (UDSIPC_ERR_STOPPED, c"the handle has been stopped"),
    (UDSIPC_ERR_MESSAGE_TOO_LARGE, c"the message is larger than the limit"),
    (UDSIPC_ERR_TIMEOUT, c"timeout"),
    (UDSIPC_ERR_BACKPRESSURE, c"the reader takes nothing"),
    (UDSIPC_ERR_NO_CONSUMER, c"the connection broke during a write"),
    (UDSIPC_ERR_NOT_CONNECTED, c"nobody listens at the socket path"),
    (UDSIPC_ERR_CONNECTION_CLOSED, c"the peer ended in the middle of a message"),
    (UDSIPC_ERR_UNDELIVERED, c"accepted messages were given up"),
    (UDSIPC_ERR_NOT_ACKNOWLEDGED, c"the peer does not take part in acknowledged delivery"),
    (UDSIPC_ERR_IO, c"the operating system refused"),
    (UDSIPC_ERR_INVALID_LENGTH_PREFIX, c"malformed length prefix"),
    (UDSIPC_ERR_HANDLER_FAILED, c"the message callback failed"),
    (UDSIPC_ERR_ADDRESS_IN_USE, c"the socket path is in use"),
    (UDSIPC_ERR_PERMISSION_DENIED, c"permission denied"),
    (UDSIPC_ERR_SYSTEMD, c"systemd passed something unusable"),
    (UDSIPC_ERR_NO_RESOURCES, c"descriptors, threads or memory are used up"),
    (UDSIPC_ERR_SOCKET_GONE, c"the socket file was removed or replaced"),
    (UDSIPC_ERR_PANIC, c"a bug in libudsipc"),
];

impl From<&Error> for udsipc_status {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidArgument(_) => UDSIPC_ERR_INVALID_ARGUMENT,
            Error::InvalidSocketPath { .. } => UDSIPC_ERR_INVALID_SOCKET_PATH,
            Error::InvalidTimeout { .. } => UDSIPC_ERR_INVALID_TIMEOUT,
            Error::InvalidBufferSize { .. } => UDSIPC_ERR_INVALID_BUFFER_SIZE,
            Error::MaxAcceptErrorsTooLarge(_) => UDSIPC_ERR_MAX_ACCEPT_ERRORS_TOO_LARGE,
            Error::WouldDeadlock { .. } => UDSIPC_ERR_WOULD_DEADLOCK,
            Error::Forked => UDSIPC_ERR_FORKED,
            Error::WrongState { .. } => UDSIPC_ERR_WRONG_STATE,
            Error::BufferFull { .. } => UDSIPC_ERR_BUFFER_FULL,
            Error::Stopped => UDSIPC_ERR_STOPPED,
            Error::MessageTooLarge { .. } => UDSIPC_ERR_MESSAGE_TOO_LARGE,
            Error::Timeout(_) | Error::BacklogFull { .. } => UDSIPC_ERR_TIMEOUT,
            Error::Backpressure(_) => UDSIPC_ERR_BACKPRESSURE,
            Error::NoConsumer(_) => UDSIPC_ERR_NO_CONSUMER,
            Error::NotConnected { .. } => UDSIPC_ERR_NOT_CONNECTED,
            Error::ConnectionClosed { .. } => UDSIPC_ERR_CONNECTION_CLOSED,
            Error::Undelivered(_) => UDSIPC_ERR_UNDELIVERED,
            Error::NotAcknowledged => UDSIPC_ERR_NOT_ACKNOWLEDGED,
            Error::Refused { .. } => UDSIPC_ERR_NOT_CONNECTED,
            Error::Io { .. } => UDSIPC_ERR_IO,
            Error::InvalidLengthPrefix => UDSIPC_ERR_INVALID_LENGTH_PREFIX,
            Error::HandlerFailed(_) => UDSIPC_ERR_HANDLER_FAILED,
            Error::AddressInUse { .. } => UDSIPC_ERR_ADDRESS_IN_USE,
            Error::PermissionDenied { .. } => UDSIPC_ERR_PERMISSION_DENIED,
            Error::Systemd(_) => UDSIPC_ERR_SYSTEMD,
            Error::NoResources { .. } => UDSIPC_ERR_NO_RESOURCES,
            Error::SocketGone { .. } => UDSIPC_ERR_SOCKET_GONE,
            Error::Panicked => UDSIPC_ERR_PANIC,
        }
    }
}

/// The text of `udsipc_strerror`.
pub(super) fn text(status: i32) -> &'static CStr {
    let known = TEXTS.iter().find(|(number, _)| *number as i32 == status);
    known.map_or(c"unknown status", |(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_status_has_one_number_and_a_text_of_its_own() {
        let numbers: BTreeSet<i32> = TEXTS.iter().map(|(status, _)| *status as i32).collect();
        let expected: BTreeSet<i32> = (0..=10).chain(20..=29).chain(40..=47).chain([90]).collect();
        assert_eq!(numbers, expected);
        let texts: BTreeSet<&CStr> = TEXTS.iter().map(|(_, text)| *text).collect();
        assert_eq!((texts.len(), TEXTS.len()), (numbers.len(), numbers.len()));
    }

    #[test]
    fn every_number_has_a_text() {
        for status in [-1, 11, 19, 30, 48, 89, 91, i32::MIN, i32::MAX] {
            assert_eq!(text(status), c"unknown status", "{status}");
        }
        for (status, known) in TEXTS {
            assert_eq!(text(*status as i32), *known);
        }
    }
}
