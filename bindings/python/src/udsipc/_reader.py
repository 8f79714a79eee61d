"""The reader: takes what writers send, in the thread that asks for it."""

from __future__ import annotations

import operator
import os
import select
import threading
import warnings
from collections import deque
from ctypes import byref, c_void_p
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping, Optional

from ._errors import Error, Stopped, Timeout, WrongState, check
from ._handle import ClosedByWith, ErrorHandler, Handle, error_callback, refuse_after_exit
from ._library import BatchCallback, Status, library
from ._messages import Connection, describe, split
from ._metrics import ReaderMetrics, prometheus, reader_metrics, text
from ._options import DEFAULT_LINGER, READER_OPTIONS, COptions, ReaderOptions, StrPath, c_path, milliseconds
from ._signals import Callbacks, Deadline, InThread, report_exception

if TYPE_CHECKING:
    from typing_extensions import Unpack

MessageHandler = Callable[[bytes, Connection], object]
BatchHandler = Callable[["list[bytes]", Connection], object]

class Batch:
    """Messages of one connection that a loop has not taken yet."""

    __slots__ = ("_connection", "_count", "messages")

    def __init__(self, messages: list[bytes], connection: Connection) -> None:
        self.messages = iter(messages)
        self._count = len(messages)
        self._connection = connection

    def __len__(self) -> int:
        return operator.length_hint(self.messages)

    def connections(self) -> Iterator[tuple[bytes, Connection]]:
        first = self._connection
        for message in self.messages:
            place = self._count - len(self) - 1
            yield message, first._replace(sequence=first.sequence and first.sequence + place)


class Inbox:
    """What came and was not taken yet, of a reader that is iterated over. It is filled in callbacks, by any thread."""

    def __init__(self) -> None:
        self._batches: deque[Batch] = deque()
        self._current = Batch([], Connection(0, 0, 0, 0, b"", 0))

    def put(self, messages: list[bytes], connection: Connection) -> None:
        self._batches.append(Batch(messages, connection))

    def batch(self) -> Optional[Batch]:
        """The next one with messages in it."""
        while not self._current:
            if not self._batches:
                return None
            self._current = self._batches.popleft()
        return self._current

    def clear(self) -> int:
        """Throws away what is left, and returns how many that were."""
        count = len(self._current) + sum(map(len, self._batches))
        self.__init__()  # type: ignore[misc]
        return count


class CallbackState:
    """What the callbacks of one reader share. It does not refer to the reader, which could not be forgotten then."""

    def __init__(self, has_error_handler: bool) -> None:
        self.callbacks = Callbacks(True)
        self._has_error_handler = has_error_handler
        self._this_thread = threading.local()

    def failed(self, error: Exception) -> None:
        """Keeps it for the report that the library makes of it, right after the callback and on the same thread."""
        if self._has_error_handler:
            self._this_thread.cause = error
        else:
            report_exception(error)

    def take_cause(self) -> Optional[BaseException]:
        cause, self._this_thread.cause = getattr(self._this_thread, "cause", None), None
        return cause

    def for_loop(self, inbox: Inbox) -> Any:
        """Handlers of signals do not run meanwhile, so it is whole or not at all."""

        def call(address: int, count: int, connection: int, _userdata: object) -> int:
            try:
                inbox.put(split(address, count), describe(connection))
                return count
            except Exception as error:  # no memory for it: the first counts as failed, and the others are given again
                self.failed(error)
                return 0

        return BatchCallback(call)

    def for_messages(self, on_message: MessageHandler) -> Any:
        def call(address: int, count: int, connection: int, _userdata: object) -> int:
            handled = [0]

            def give() -> None:
                first = describe(connection)
                for message in split(address, count):
                    place = handled[0]
                    on_message(message, first._replace(sequence=first.sequence and first.sequence + place))
                    handled[0] += 1

            # The message at the returned index counts as failed, and the others are given again.
            try:
                return count if self.callbacks.run(give, self.failed) else handled[0]
            except BaseException:  # too deep a recursion, for instance
                return handled[0]

        return BatchCallback(call)

    def for_batches(self, on_batch: BatchHandler) -> Any:
        def call(address: int, count: int, connection: int, _userdata: object) -> int:
            def give() -> None:
                on_batch(split(address, count), describe(connection))

            # 0: the first message counts as failed, and the others are given again.
            try:
                return count if self.callbacks.run(give, self.failed) else 0
            except BaseException:
                return 0

        return BatchCallback(call)


class BaseReader(Handle):
    """What the readers with and without asyncio have in common."""

    kind = "reader"
    _c_stop = library.udsipc_reader_stop
    _c_free = library.udsipc_reader_free
    _inbox: Optional[Inbox]

    def _make(
        self, path: StrPath, state: CallbackState, on_batch: Any, on_error: Optional[ErrorHandler], options: ReaderOptions
    ) -> None:
        refuse_after_exit("reader")
        pointer = c_void_p()
        c_on_error = error_callback(state.callbacks, on_error, state.take_cause)
        with COptions("reader", options, READER_OPTIONS, c_on_error) as c_options:
            check(library.udsipc_reader_new_batched(c_path(path), on_batch, None, c_options, byref(pointer)))
        linger_ms = milliseconds(options.get("linger", DEFAULT_LINGER))
        self._adopt(pointer, linger_ms, state.callbacks, (on_batch, c_on_error))
        self._end_at_exit()

    @property
    def path(self) -> str:
        """The path at which the reader listens. Under systemd it may be another one than was given."""
        return self._path_of(library.udsipc_reader_socket_path)

    def metrics(self) -> ReaderMetrics:
        """The counters, which stay readable after the end. Never waits. Any thread."""
        return reader_metrics(self._pointer)

    def metrics_prometheus(self, labels: Optional[Mapping[str, str]] = None) -> str:
        """The counters in the text format of Prometheus, as `Writer.metrics_prometheus`."""
        self.metrics()  # tells of a forked child
        return prometheus(library.udsipc_reader_metrics_prometheus, self._pointer, labels)

    def describe(self) -> str:
        """One line for a log: standalone or under systemd, the path, the directories."""
        return text(library.udsipc_reader_describe, self._pointer)

    def fileno(self) -> int:
        """A descriptor that is readable when there is work, for select and its kin; -1 in a forked child."""
        descriptor: int = library.udsipc_reader_fd(self._pointer)
        return descriptor

    def _dispatch(self) -> bool:
        """Does the work that can be done at once. False when the reader has been stopped, and everything is taken."""
        status = self._callbacks.call(library.udsipc_reader_dispatch, self._pointer, 0)
        if status == Status.STOPPED:
            return False
        check(status)
        return True

    def _end_forgotten(self) -> Optional[Error]:
        if self._inbox is None:
            return super()._end_forgotten()
        self._leave_loop(self._inbox)
        return None

    def _leave_loop(self, inbox: Inbox) -> None:
        """Takes nothing more, since nobody would handle it: writers keep it for the next reader."""
        if not self._is_closed:
            self._stop_here(0)
            self._is_closed = True
        left = inbox.clear()
        if left and self._pid == os.getpid():
            text = f"{self!r} was closed with {left} messages that had been taken in, and that no loop has asked for"
            warnings.warn(text, RuntimeWarning, stacklevel=3)


class Reader(ClosedByWith, BaseReader):
    """Receives the messages of all writers that connect to a path. It has no thread: messages come in the thread that asks.

    As a loop, which ends when `stop` is called, by a handler of a signal or by another thread:

        with udsipc.Reader("/run/app/events.sock") as reader:
            for message in reader:
                print(message)

    With a callback, which is what decides that a message has been handled: it has if the callback has returned.

        with udsipc.Reader("/run/app/events.sock", on_message) as reader:
            reader.serve_forever()

    on_message(message, connection) is called for each message, with bytes and a `Connection`, in the thread that calls
    `serve_forever`, `dispatch`, `stop` or `close`. If it raises an exception the message has failed, and the next one comes.
    What ends a program (KeyboardInterrupt, SystemExit) comes out of that call, and the message has failed too: a program that
    must not lose it handles signals itself, and calls `stop` between two calls of `dispatch`.
    on_batch(messages, connection), instead of on_message, is called with a list of messages of one connection, which is faster.
    If it raises an exception the first of them has failed, and it is called again with the others.
    on_error(error) is called for errors in the background, such as `HandlerFailed`, in the same threads. Without it, what a
    callback raises goes to `threading.excepthook`.

    A loop takes in messages before they are asked for, what has come in 5 ms at most, and a writer counts them as handled then.
    If the process is killed they are lost. Where that matters use a callback.

    Leaving the `with` block, or `close`: a reader with a callback takes what has already been sent to it within `linger`
    seconds, and raises `Timeout` if something was left, unless another exception is on its way. One with a loop takes nothing
    more. The options are those of `ReaderOptions`. Raises `AddressInUse`, `PermissionDenied`, `InvalidPath`,
    `InvalidArgument`, `SystemdError`, `NoResources`, `SystemCallFailed`, and TypeError for an unknown option.

    Any thread may call any method; one thread at a time should loop or dispatch. Ctrl-C ends calls that wait. In a forked child
    they raise `Forked`.
    """

    def __init__(
        self,
        path: StrPath,
        on_message: Optional[MessageHandler] = None,
        *,
        on_batch: Optional[BatchHandler] = None,
        on_error: Optional[ErrorHandler] = None,
        **options: Unpack[ReaderOptions],
    ) -> None:
        if on_message and on_batch:
            raise TypeError("a reader has on_message or on_batch, not both")
        state = CallbackState(on_error is not None)
        self._inbox = None
        if on_message:
            callback = state.for_messages(on_message)
        elif on_batch:
            callback = state.for_batches(on_batch)
        else:
            self._inbox = Inbox()
            callback = state.for_loop(self._inbox)
        self._make(path, state, callback, on_error, options)

    def __iter__(self) -> Iterator[bytes]:
        """The messages, until the reader is stopped. Waits for the next one."""
        while batch := self._next_batch(Deadline(None)):
            yield from batch.messages

    def with_connections(self) -> Iterator[tuple[bytes, Connection]]:
        """The messages, each with the `Connection` on which it came."""
        while batch := self._next_batch(Deadline(None)):
            yield from batch.connections()

    def read(self, timeout: Optional[float] = None) -> bytes:
        """The next message.

        timeout: how many seconds to wait for it; 0 does not wait, None is no limit.
        Raises `Timeout`, `Stopped`, `Forked`, and `WrongState` if the reader has a callback.
        """
        batch = self._next_batch(Deadline(timeout))
        if batch is None:
            raise Stopped("the reader has been stopped", Status.STOPPED)
        return next(batch.messages)

    def _next_batch(self, deadline: Deadline) -> Optional[Batch]:
        """None when the reader has been stopped and nothing is left."""
        if self._inbox is None:
            raise WrongState("a reader with a callback is not iterated over: call serve_forever() or dispatch()", Status.WRONG_STATE)
        is_over = False
        while True:
            if batch := self._inbox.batch():
                return batch
            if is_over:
                raise Timeout("no message came in time", Status.TIMEOUT)
            slice_ms, is_last = deadline.slice()
            is_ready = slice_ms > 0 and self._wait(slice_ms)
            if not self._dispatch():
                return self._inbox.batch()
            is_over = is_last and not is_ready

    def _wait(self, timeout_ms: int) -> bool:
        """Python's wait, not that of C: it ends when a handler of a signal raises."""
        poll = select.poll()
        descriptor = self.fileno()
        if descriptor >= 0:
            poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout_ms))

    def dispatch(self, timeout: Optional[float] = 0.0) -> None:
        """Waits for work, and does what can be done at once, in which callbacks run: about 5 ms at most, and one callback.

        timeout: how many seconds to wait for work; 0 does not wait, None is no limit. For an event loop: call it without a
        timeout whenever `fileno()` is readable.
        Raises `Stopped`, `Forked`, `WouldDeadlock` inside a callback of this reader, and `WrongState` if it has no callback.
        """
        if self._inbox is not None:
            raise WrongState("a reader without a callback is iterated over", Status.WRONG_STATE)
        deadline = Deadline(timeout)
        while True:
            slice_ms, is_last = deadline.slice()
            is_ready = slice_ms > 0 and self._wait(slice_ms)
            if not self._dispatch():
                raise Stopped("the reader has been stopped", Status.STOPPED)
            if is_ready or is_last:
                return

    def serve_forever(self) -> None:
        """Calls back for messages until another thread stops the reader, or a handler of a signal raises an exception.

        Raises as `dispatch`, but returns when the reader is stopped.
        """
        while True:
            try:
                self.dispatch(None)
            except Stopped:
                return

    def stop(self, timeout: Optional[float] = 10.0) -> None:
        """Takes no new connections, takes what writers have already sent, and ends. Callbacks run in this call; a loop gets
        what was taken, and ends then. A second call returns or raises what the first did.

        timeout: how many seconds that may take; 0 takes nothing more, None is no limit. A callback that runs is waited for.
        Ctrl-C gives up what is left.

        Raises `Timeout` if something was left; `WouldDeadlock` inside a callback of this reader; `Forked`.
        """
        self._stop(milliseconds(timeout))

    def _stop(self, timeout_ms: int) -> None:
        self._callbacks.interrupted = lambda: InThread(self._c_stop, self._pointer, 0)
        try:
            error = self._stop_here(timeout_ms)
        except BaseException:
            self._is_closed = True
            raise
        finally:
            self._callbacks.interrupted = None
        self._ended(error)

    def close(self) -> None:
        """Ends the reader, unless it has been stopped; see the class. What a loop has not asked for is lost, with a
        RuntimeWarning that says how many messages that were."""
        if self._inbox is not None:
            self._leave_loop(self._inbox)
        else:
            super().close()
