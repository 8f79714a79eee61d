"""The writer: a queue, and a connection that is made again whenever it breaks."""

from __future__ import annotations

import itertools
import threading
from ctypes import CFUNCTYPE, byref, c_int, c_size_t, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Mapping, Optional, Sequence

from ._errors import Error, check, failure
from ._handle import ClosedByWith, ErrorHandler, Handle, error_callback, refuse_after_exit
from ._library import Status, library
from ._messages import LARGE, Gathered, Message, sized, with_buffer
from ._metrics import WriterMetrics, prometheus, text, writer_metrics
from ._options import DEFAULT_LINGER, WRITER_OPTIONS, COptions, StrPath, WriterOptions, c_path, milliseconds
from ._signals import Callbacks, Deadline, InThread

if TYPE_CHECKING:
    from typing_extensions import Unpack

# How many messages go to C in one call of write_many.
BATCH = 1024

# The address of a message is bytes or a number here, which only c_void_p takes both of.
write_message = CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)(("udsipc_write_message", library))
_write_timeout = CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, c_uint64)(("udsipc_write_message_timeout", library))


def _chunks(messages: Iterable[Message]) -> Iterator[list[Message]]:
    iterator = iter(messages)
    while True:
        chunk: list[Message] = []
        try:
            chunk.extend(itertools.islice(iterator, BATCH))  # keeps what comes before an exception
        except Exception:
            if chunk:
                yield chunk
            raise
        if not chunk:
            return
        yield chunk


class BaseWriter(Handle):
    """What the writers with and without asyncio have in common."""

    kind = "writer"
    _c_stop = library.udsipc_writer_stop
    _c_free = library.udsipc_writer_free

    def __init__(self, path: StrPath, on_error: Optional[ErrorHandler], options: WriterOptions) -> None:
        refuse_after_exit("writer")
        callbacks, pointer = Callbacks(on_error is not None), c_void_p()
        c_on_error = error_callback(callbacks, on_error, lambda: None)
        with COptions("writer", options, WRITER_OPTIONS, c_on_error) as c_options:
            check(library.udsipc_writer_new(c_path(path), c_options, byref(pointer)))
        self._retries = 0
        self._lock = threading.RLock()  # a handler of a signal may write while it is held
        self._adopt(pointer, milliseconds(options.get("linger", DEFAULT_LINGER)), callbacks, (c_on_error,))

    @property
    def path(self) -> str:
        """The path that the writer connects to."""
        return self._path_of(library.udsipc_writer_socket_path)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return bool(library.udsipc_writer_is_connected(self._pointer))

    def metrics(self) -> WriterMetrics:
        """The counters, which stay readable after the end. Never waits. Any thread."""
        return writer_metrics(self._pointer, self._retries)  # read before the counter that it corrects

    def metrics_prometheus(self, labels: Optional[Mapping[str, str]] = None) -> str:
        """The counters in the text format of Prometheus: `writer.metrics_prometheus({"pipe": "events"})`. A program with several
        handles leaves out the lines that begin with "#" in all texts but the first.

        Raises `InvalidArgument` for a name that is no name of a label, and `Forked`."""
        self.metrics()  # tells of a forked child
        return prometheus(library.udsipc_writer_metrics_prometheus, self._pointer, labels, self._retries)

    def describe(self) -> str:
        """One line for a log: the state, the path, whether the reader acknowledges, and how messages have ended. Raises `Forked`."""
        self.metrics()  # tells of a forked child
        return text(library.udsipc_writer_describe, self._pointer)

    def _count_retry(self) -> None:
        with self._lock:
            self._retries += 1


class Writer(ClosedByWith, BaseWriter):
    """Sends messages to the reader at a path.

        with udsipc.Writer("/run/app/events.sock") as writer:
            writer.write(b"hello")

    A writer connects in the background, at once and whenever it has to. It needs no reader to exist yet. Leaving the `with`
    block sends what is queued within `linger` seconds, and raises `Undelivered` or `Timeout` if something was left, unless
    another exception is on its way.

    on_error(error) is called for errors in the background, such as `NotConnected`: on a thread of the library, so it must not
    wait for a lock that is held during `close`. What it raises goes to `threading.excepthook`. The options are those of
    `WriterOptions`. Raises `InvalidPath`, `InvalidArgument`, `NoResources`, and TypeError for an unknown option.

    All methods may be called by any thread at any time. Ctrl-C ends calls that wait. In a forked child they raise `Forked`: a
    child makes a writer of its own.
    """

    def __init__(
        self, path: StrPath, *, on_error: Optional[ErrorHandler] = None, **options: Unpack[WriterOptions]
    ) -> None:
        super().__init__(path, on_error, options)
        if status := library.udsipc_writer_start(self._pointer):
            self._is_closed = True
            raise failure(status)
        self._end_at_exit()

    def write(self, message: Message, timeout: Optional[float] = 10.0) -> None:
        """Puts a message into the queue, and waits for room if the queue is full.

        message: bytes, bytearray, memoryview or another object with a buffer. It may be reused when the call returns. An
        empty message is accepted and not sent.
        timeout: how many seconds to wait for room; 0 does not wait, None is no limit.

        Raises `Timeout` if there was no room in time, `BufferFull` for that if timeout is 0, `MessageTooLarge`, `Stopped`,
        `Forked`, `WouldDeadlock` if it would have to wait inside `on_error`, and TypeError for a str. The message was not
        accepted then.
        """
        if type(message) is bytes:
            status = write_message(self._pointer, message, len(message))
            if status:
                self._go_on(status, message, len(message), timeout)
        else:
            with_buffer(message, lambda data, size: self._go_on(write_message(self._pointer, data, size), data, size, timeout))

    def _go_on(self, status: int, data: Any, length: int, timeout: Optional[float]) -> None:
        """Waits for room in slices, between which Python runs the handlers of signals."""
        if status == 0:
            return
        if status != Status.BUFFER_FULL or timeout == 0:
            raise failure(status)
        deadline = Deadline(timeout)
        while True:
            self._count_retry()
            slice_ms, is_last = deadline.slice()
            status = _write_timeout(self._pointer, data, length, slice_ms)
            if status == 0:
                return
            if status != Status.TIMEOUT or is_last:
                raise failure(status)

    def write_many(self, messages: Iterable[Message], timeout: Optional[float] = 10.0) -> None:
        """Puts messages into the queue, in order. Faster than `write` for each.

        messages: any iterable, of which up to 1024 are taken at a time.
        timeout: how many seconds to wait for room altogether; 0 does not wait, None is no limit.

        Raises what `write` raises, at the first message that is refused: `error.accepted` is how many were accepted before it.
        Messages before one that is a str may have been accepted or not. What the iterable raises comes out when the messages
        before it have been accepted.
        """
        deadline, accepted = Deadline(timeout), 0
        for chunk in _chunks(messages):
            chunk, mean_size = sized(chunk)
            write = self._write_each if mean_size > LARGE else self._write_together
            try:
                write(chunk, deadline)
            except Error as error:
                error.accepted += accepted
                raise
            accepted += len(chunk)

    def _write_each(self, chunk: Sequence[Message], deadline: Deadline) -> None:
        for index, message in enumerate(chunk):
            try:
                self.write(message, deadline.left())
            except Error as error:
                error.accepted = index
                raise

    def _write_together(self, chunk: Sequence[Message], deadline: Deadline) -> None:
        gathered, done, accepted = Gathered(chunk), 0, c_size_t()
        while done < gathered.count:
            status = library.udsipc_write_messages(
                self._pointer, gathered.address(done), gathered.count - done, byref(accepted)
            )
            done += accepted.value
            if status == 0:
                return
            try:
                self._go_on(status, *gathered.message(done), deadline.left())
            except Error as error:
                error.accepted = done
                raise
            done += 1

    def flush(self, timeout: Optional[float] = 10.0) -> None:
        """Waits until the reader has handled what was written before the call. One that does not acknowledge has only read it.

        timeout: how many seconds to wait; 0 only asks, None is no limit.

        Raises `Timeout`; `Undelivered`, at once, if messages have been given up or may have been lost since the last flush;
        `Stopped`; `Forked`; `WouldDeadlock` inside `on_error`.
        """
        deadline = Deadline(timeout)
        while True:
            slice_ms, is_last = deadline.slice()
            status = library.udsipc_writer_flush(self._pointer, slice_ms)
            if status == 0:
                return
            if status != Status.TIMEOUT or is_last:
                raise failure(status)

    def stop(self, timeout: Optional[float] = 10.0) -> None:
        """Refuses new messages, sends what is queued, and ends. A second call returns or raises what the first did.

        timeout: how many seconds sending may take; 0 sends nothing more, None is no limit. When nobody listens it gives up
        after 250 ms, unless the option `drain_until_deadline` is on. Ctrl-C gives up what is left.

        Raises `Timeout` or `Undelivered` if something was left; `WouldDeadlock` inside `on_error`; `Forked`.
        """
        self._stop(milliseconds(timeout))

    def _stop(self, timeout_ms: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            return self._ended(self._stop_here(timeout_ms))
        # The first stop decides, so that it cannot be sliced; a second one can cut it short.
        stop = InThread(self._stop_here, timeout_ms)
        try:
            error = stop.join()
        except BaseException:
            self._is_closed = True
            self._stop_here(0)
            raise
        self._ended(error)
