"""The counters of a writer and of a reader."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Optional

from ._errors import check, failure
from ._library import ReaderCounters, Status, WriterCounters, library


@dataclass(frozen=True)
class WriterMetrics:
    """The counters of a writer. At any moment: messages accepted = sent + abandoned + queue_depth."""

    sent: int
    """Messages that the kernel has taken whole, or that lie in memory shared with the reader."""
    dropped: int
    """Messages refused because the queue was full."""
    failed: int
    """Failed attempts to send a message."""
    queue_depth: int
    """Messages in the queue: accepted, and neither sent nor abandoned."""
    queue_bytes: int
    """Bytes of the messages in queue_depth."""
    sent_bytes: int
    """Bytes of the messages in sent."""
    retried: int
    """Attempts to send a failed message again on a new connection."""
    abandoned: int
    """Messages accepted and then given up: at stop, or after max_attempts broken connections."""
    suspected_lost: int
    """Messages in sent that the reader may not have read before it went away: an upper bound."""
    connections: int
    """Connections made."""
    connect_failures: int
    """Connects that failed."""
    acknowledged: int
    """Messages in sent that a reader of this library has handled; 0 with any other reader."""
    redelivered: int
    """Messages that were sent again because a reader ended before it had handled them."""
    ring_bytes: int
    """Payload in sent_bytes that went through memory shared with the reader, and not through the socket."""


@dataclass(frozen=True)
class ReaderMetrics:
    """The counters of a reader."""

    received: int
    """Messages that the callback has handled, or that were taken for the loop."""
    connections: int
    """Connections served since the reader was made."""
    errors: int
    """Errors: malformed length prefixes, messages that were too large or cut, failed callbacks."""
    active_connections: int
    """Connections that are open now."""
    received_bytes: int
    """Bytes of the messages in received."""
    accept_errors: int
    """Failed attempts to accept a connection."""
    idle_closed: int
    """Connections closed because they were silent for inactivity_timeout."""
    refused: int
    """Connections closed unread, because the peer was not allowed or because of max_connections."""
    relistened: int
    """Times that the reader listened at its path again after its socket file had been removed or replaced."""


def writer_metrics(pointer: object, retries: int) -> WriterMetrics:
    """Less the refusals that were tries of a write that waits, which the library cannot tell from others."""
    out = WriterCounters()
    check(library.udsipc_writer_get_metrics(pointer, ctypes.byref(out), ctypes.sizeof(out)))
    out.dropped -= retries
    return WriterMetrics(**{name: getattr(out, name) for name, *_ in out._fields_})


def text(function: Callable[..., int], pointer: object, *arguments: object) -> str:
    """What a function that works as snprintf(3) has to say. It says more from one call to the next."""
    capacity = 4096
    while True:
        buffer = ctypes.create_string_buffer(capacity)
        length = function(pointer, *arguments, buffer, capacity)
        if length < capacity:
            return buffer.value.decode(errors="surrogateescape")
        capacity = 2 * length


def prometheus(function: Callable[..., int], pointer: object, labels: Optional[Mapping[str, str]], retries: int = 0) -> str:
    escaped = ",".join(f'{name}="{_escaped(value)}"' for name, value in (labels or {}).items())
    found = text(function, pointer, escaped.encode())
    if not found:
        raise failure(Status.INVALID_ARGUMENT)
    # As in writer_metrics.
    corrected: Callable[[Any], str] = lambda line: f"{line[1]} {int(line[2]) - retries}"
    return re.sub(r"^(udsipc_writer_dropped_total(?:{.*})?) (\d+)$", corrected, found, count=1, flags=re.M)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def reader_metrics(pointer: object) -> ReaderMetrics:
    out = ReaderCounters()
    check(library.udsipc_reader_get_metrics(pointer, ctypes.byref(out), ctypes.sizeof(out)))
    return ReaderMetrics(**{name: getattr(out, name) for name, *_ in out._fields_})
