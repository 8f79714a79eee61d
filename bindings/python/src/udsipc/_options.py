"""Options: their names and types, and how they reach C."""

from __future__ import annotations

import enum
import math
import operator
import os
from ctypes import c_char_p, c_int32, c_uint32, c_uint64
from typing import Any, Optional, Sequence, TypedDict, Union

from ._errors import InvalidArgument, check
from ._library import FOREVER, FUNCTIONS, Status, library

StrPath = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]


class Acknowledge(enum.IntEnum):
    """Whether a writer asks its reader to acknowledge what it has handled."""

    OFF = 0
    """No. What a killed reader had not read is lost, and counts in `suspected_lost`."""
    IF_POSSIBLE = 1
    """If the reader can. The default."""
    REQUIRED = 2
    """Nothing is sent to a reader that cannot; each is reported with `NotAcknowledged`."""


class WriterOptions(TypedDict, total=False):
    """The options of a writer. Times are seconds, and None is no limit."""

    max_buffered_writes: int
    """Messages that the queue holds at most, 1 to 2**20. Default: 10 000."""
    max_buffered_bytes: int
    """Bytes of messages that the queue holds at most; 0 is no limit. Default: 64 MiB. A larger message is accepted while the
    queue is empty."""
    max_message_size: int
    """Bytes of the largest message that is accepted. Default: 10 MiB, as the reader's."""
    write_timeout: Optional[float]
    """How long the reader may read nothing before `Backpressure` is reported. Default: 1."""
    dial_timeout: Optional[float]
    """How long a connect waits while the reader's backlog is full. Default: 1."""
    max_backoff: float
    """The longest pause between two attempts to connect. Default: 10."""
    write_buffer_size: int
    """Bytes of the socket's send buffer (SO_SNDBUF); 0 leaves the system's. Default: 256 KiB."""
    max_attempts: int
    """How many connections may break while a message is sent, before it is given up; 0 is no limit. Default: 5."""
    drain_until_deadline: bool
    """Whether a stop goes on trying to connect until its time has passed; otherwise it gives up after 250 ms when nobody
    listens. Default: False."""
    linger: Optional[float]
    """How long `close`, or the end of a `with` block, goes on sending; 0 is not at all. Default: 1."""
    acknowledge: Acknowledge
    """Whether the reader is asked to acknowledge. Default: `Acknowledge.IF_POSSIBLE`."""
    redeliver: bool
    """Whether a message that was in the callback of a reader that was killed is sent again; otherwise it counts in
    `suspected_lost`. Default: True."""


class ReaderOptions(TypedDict, total=False):
    """The options of a reader. Times are seconds, and None is no limit."""

    max_message_size: int
    """Bytes of the largest message that is accepted; a larger one closes its connection. Default: 10 MiB."""
    inactivity_timeout: Optional[float]
    """How long a connection may be silent before it is closed. Default: 10."""
    max_accept_errors: int
    """How many failures in a row to accept a connection are not reported, at most 63. Default: 10."""
    read_buffer_size: int
    """Bytes of the socket's receive buffer (SO_RCVBUF), without effect on Linux. Default: 256 KiB."""
    max_connections: int
    """How many connections may be open; further ones are closed unread. 0 is no limit. Default: 0."""
    max_shared_memory: int
    """Bytes of memory shared with busy writers, for all connections; 0 shares none. Default: 64 MiB."""
    socket_mode: int
    """The permission bits of the socket file, such as 0o660. Default: 0o777 less the umask."""
    socket_group: int
    """The group id that owns the socket file. Default: the process's."""
    allow_uids: Sequence[int]
    """User ids whose writers are accepted. Default: everybody who can connect."""
    allow_gids: Sequence[int]
    """Group ids whose writers are accepted. Default: everybody who can connect."""
    listen_fd_name: Optional[str]
    """The name of this reader's socket among several that systemd passed. Default: None."""
    listen_fd: int
    """The descriptor of a listening Unix stream socket to use instead of the path. It stays the caller's. Default: none."""
    use_systemd: bool
    """Whether to take part in socket activation, RUNTIME_DIRECTORY and READY=1. Default: True."""
    linger: Optional[float]
    """How long `close`, or the end of a `with` block, goes on receiving, for a reader with a callback; 0 is not at all.
    Default: 1."""


DEFAULT_LINGER = 1.0

_TIMES = {"write_timeout", "dial_timeout", "max_backoff", "inactivity_timeout", "linger"}
_REPEATED = {"allow_uids": "allow_uid", "allow_gids": "allow_gid"}
_RANGES = {c_int32: (-(2**31), 2**31 - 1), c_uint32: (0, 2**32 - 1), c_uint64: (0, 2**64 - 1)}


def milliseconds(seconds: Optional[float]) -> int:
    """Of a waiting time in seconds, rounded up; None and infinity are for ever."""
    if seconds is None or seconds == math.inf:
        return FOREVER
    if not seconds >= 0:
        raise ValueError(f"a time is None or a number of seconds of at least 0, not {seconds!r}")
    return min(math.ceil(seconds * 1000), FOREVER)


def c_path(path: StrPath) -> bytes:
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError("a path cannot hold a NUL character")
    return encoded


class COptions:
    """Options of C, for the time of making a handle."""

    def __init__(self, kind: str, options: Any, known: frozenset[str], on_error: Any) -> None:
        for name in options:
            if name not in known:
                raise TypeError(f"a {kind} has no option {name!r}; it has: {', '.join(sorted(known))}")
        self._prefix = f"udsipc_{kind}_options_"
        self._options = options
        self._on_error = on_error

    def __enter__(self) -> Any:
        pointer = getattr(library, f"{self._prefix}new")()
        try:
            for name, value in self._options.items():
                self._set(pointer, name, value)
            check(getattr(library, f"{self._prefix}set_error_callback")(pointer, self._on_error, None))
        except BaseException:
            getattr(library, f"{self._prefix}free")(pointer)
            raise
        self._pointer = pointer
        return pointer

    def __exit__(self, *_: object) -> None:
        getattr(library, f"{self._prefix}free")(self._pointer)

    def _set(self, pointer: Any, name: str, value: Any) -> None:
        if name in _REPEATED:
            setter, values = f"{self._prefix}{_REPEATED[name]}", [*value]
        elif name in _TIMES:
            setter, values = f"{self._prefix}set_{name}_ms", [milliseconds(value)]
        else:
            setter, values = f"{self._prefix}set_{name}", [value]
        kind = FUNCTIONS[setter][1][1]
        for one in values:
            check(getattr(library, setter)(pointer, _argument(name, one, kind)))


def _argument(name: str, value: Any, kind: Any) -> Any:
    """ctypes would cut a number that is too large, and let a text end at a NUL."""
    if kind is c_char_p:
        text = None if value is None else value.encode()
        if text is not None and b"\0" in text:
            raise InvalidArgument(f"{name} holds a NUL character", Status.INVALID_ARGUMENT)
        return text
    number = operator.index(value)
    low, high = _RANGES[kind]
    if not low <= number <= high:
        raise InvalidArgument(f"{name} is {number}: it must be between {low} and {high}", Status.INVALID_ARGUMENT)
    return number


WRITER_OPTIONS = frozenset(WriterOptions.__annotations__)
READER_OPTIONS = frozenset(ReaderOptions.__annotations__)
