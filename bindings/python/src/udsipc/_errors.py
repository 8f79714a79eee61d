"""Exceptions, one for each kind of failure."""

from __future__ import annotations

import ctypes
from typing import Optional

from ._library import Status, library


class Error(Exception):
    """What the library refuses or reports. The text says what happened, with the path, the limit or the system's error."""

    status: int
    """The number of the status in udsipc.h."""

    errno: Optional[int]
    """The errno of the system call that failed, in a reported error; otherwise None."""

    accepted: int = 0
    """Of a failed `write_many`: how many messages were accepted before it failed."""

    def __init__(self, text: str, status: int, errno: Optional[int] = None) -> None:
        super().__init__(text)
        self.status = status
        self.errno = errno

    def __reduce__(self) -> tuple[type[Error], tuple[str, int, Optional[int]], dict[str, object]]:
        return type(self), (str(self), self.status, self.errno), self.__dict__


class InvalidArgument(Error, ValueError):
    """An option or an argument is out of its range."""


class InvalidPath(InvalidArgument):
    """The path is empty, too long, or looks like a mistake ("unix:", "~", a line break)."""


class WouldDeadlock(Error, RuntimeError):
    """The call waits for callbacks of the handle, and was made inside one of them. It has changed nothing."""


class Forked(Error, RuntimeError):
    """The handle was made by the parent of this process. A child makes its own."""


class WrongState(Error, RuntimeError):
    """The call does not suit the way in which the handle is driven."""


class BufferFull(Error, BlockingIOError):
    """The queue is at a limit, and the call does not wait. The message was not accepted."""


class Stopped(Error):
    """The handle has been stopped or closed."""


class MessageTooLarge(Error, ValueError):
    """The message is larger than `max_message_size`."""


class Timeout(Error, TimeoutError):
    """The given time has passed."""


class Backpressure(Error):
    """Reported: the reader has read nothing for `write_timeout`. Connection and message are kept."""


class NoConsumer(Error, ConnectionError):
    """Reported: the connection broke during a write. The message is sent again on the next connection."""


class NotConnected(Error, ConnectionError):
    """Reported: nobody listens at the path. The connect is tried again."""


class ConnectionClosed(Error, ConnectionError):
    """Reported: the peer closed the connection in the middle of a message."""


class Undelivered(Error):
    """Accepted messages were given up (metric `abandoned`), or may not have been read (metric `suspected_lost`)."""


class NotAcknowledged(Error):
    """Reported: the reader does not take part in acknowledged delivery, and the writer requires it."""


class SystemCallFailed(Error, OSError):
    """A system call failed."""


class InvalidLengthPrefix(Error, ValueError):
    """Reported: a peer has sent a malformed frame."""


class HandlerFailed(Error):
    """Reported: the callback raised an exception, which is the `__cause__` of this one."""


class AddressInUse(Error, OSError):
    """A live reader listens at the path, or a file that is not a socket lies there."""


class PermissionDenied(Error, PermissionError):
    """Permission is missing in the file system, or the peer is not allowed."""


class SystemdError(Error):
    """LISTEN_FDS and its companions are set for this process but cannot be used."""


class NoResources(Error, OSError):
    """Descriptors, threads or memory are used up."""


class SocketGone(Error):
    """Reported: the reader's socket file was removed or replaced. It listens there again as soon as nobody else does."""


class Panic(Error, RuntimeError):
    """A bug in libudsipc. The handle is of no use any more; please report the text."""


KINDS: dict[int, type[Error]] = {
    Status.NULL_POINTER: InvalidArgument,
    Status.INVALID_ARGUMENT: InvalidArgument,
    Status.INVALID_SOCKET_PATH: InvalidPath,
    Status.INVALID_TIMEOUT: InvalidArgument,
    Status.INVALID_BUFFER_SIZE: InvalidArgument,
    Status.HANDLER_NULL: InvalidArgument,
    Status.MAX_ACCEPT_ERRORS_TOO_LARGE: InvalidArgument,
    Status.WOULD_DEADLOCK: WouldDeadlock,
    Status.FORKED: Forked,
    Status.WRONG_STATE: WrongState,
    Status.BUFFER_FULL: BufferFull,
    Status.STOPPED: Stopped,
    Status.MESSAGE_TOO_LARGE: MessageTooLarge,
    Status.TIMEOUT: Timeout,
    Status.BACKPRESSURE: Backpressure,
    Status.NO_CONSUMER: NoConsumer,
    Status.NOT_CONNECTED: NotConnected,
    Status.CONNECTION_CLOSED: ConnectionClosed,
    Status.UNDELIVERED: Undelivered,
    Status.NOT_ACKNOWLEDGED: NotAcknowledged,
    Status.IO: SystemCallFailed,
    Status.INVALID_LENGTH_PREFIX: InvalidLengthPrefix,
    Status.HANDLER_FAILED: HandlerFailed,
    Status.ADDRESS_IN_USE: AddressInUse,
    Status.PERMISSION_DENIED: PermissionDenied,
    Status.SYSTEMD: SystemdError,
    Status.NO_RESOURCES: NoResources,
    Status.SOCKET_GONE: SocketGone,
    Status.PANIC: Panic,
}


def last_message(status: int) -> str:
    """The text of this thread's last failure; inside an error callback, of the error that is reported."""
    buffer = ctypes.create_string_buffer(512)
    if library.udsipc_last_error_message(buffer, len(buffer)) > 0:
        return buffer.value.decode(errors="replace")
    text: bytes = library.udsipc_strerror(status)
    return text.decode()


def failure(status: int) -> Error:
    """The exception for a status that a call of this thread has just returned."""
    return KINDS.get(status, Error)(last_message(status), status)


def report(status: int, errno: int, context: str) -> Error:
    """The exception for what an error callback is told."""
    return KINDS.get(status, Error)(f"{context}: {last_message(status)}", status, errno or None)


def check(status: int) -> None:
    if status != 0:
        raise failure(status)
