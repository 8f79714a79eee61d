"""A writer and a reader for asyncio. The event loop drives them: no thread of the library calls into Python.

Each belongs to the event loop in which it is first used. Use them in that loop's thread only.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import weakref
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Any, AsyncIterator, Callable, Iterable, Optional, TypeVar

from ._errors import BufferFull, Error, Forked, Stopped, check, failure
from ._handle import ErrorHandler, Handle
from ._library import Status, library
from ._messages import Connection, Message, with_buffer
from ._options import ReaderOptions, StrPath, WriterOptions, milliseconds
from ._reader import BaseReader, Batch, CallbackState, Inbox
from ._writer import BaseWriter, write_message

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Reader", "Writer"]

T = TypeVar("T")

# After so many messages in a row other tasks get their turn.
TURN = 256
# A flush asks again after these seconds at first and at most: what the reader has handled makes no event.
FIRST_PAUSE, LONGEST_PAUSE = 0.0005, 0.005



class _Watch:
    """A descriptor in the event loop of whoever uses it first, for as long as its owner lives."""

    def __init__(self, owner: Handle, descriptor: int, ready: Callable[[Any], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._descriptor = descriptor
        # The loop refers to what it watches, and an owner that is forgotten is to be collected even so.
        self._ready = functools.partial(_call_if_alive, weakref.ref(owner), ready)
        self._is_on = False

    def check_loop(self) -> None:
        if asyncio.get_running_loop() is not self.loop:
            raise RuntimeError("it belongs to another event loop, in which it was used first")

    def on(self) -> None:
        if not self._is_on:
            self.loop.add_reader(self._descriptor, self._ready)
            self._is_on = True

    def off(self) -> None:
        """From any thread: an owner is collected in any."""
        if self._is_on and not self.loop.is_closed():
            self._is_on = False
            if threading.get_ident() == self._thread:
                self.loop.remove_reader(self._descriptor)
            else:
                self.loop.call_soon_threadsafe(self.loop.remove_reader, self._descriptor)


def _call_if_alive(owner: weakref.ref[Any], ready: Callable[[Any], None]) -> None:
    if (alive := owner()) is not None:
        ready(alive)


def _in_loop(owner: Any, on_error: ErrorHandler) -> ErrorHandler:
    """Errors are also reported in a stop, which runs in another thread."""
    alive = weakref.ref(owner)

    def call(error: Error) -> None:
        watch: Optional[_Watch] = getattr(alive(), "_watch", None)
        if watch and not watch.loop.is_closed():
            watch.loop.call_soon_threadsafe(on_error, error)

    return call


async def _in_thread(call: Callable[[], T], cancelled: Callable[[], object]) -> T:
    """The result of a call of C that waits. When the task is cancelled, `cancelled` must make the call return soon."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: Any, error: Optional[BaseException]) -> None:
        if not future.done():
            if error:
                future.set_exception(error)
            else:
                future.set_result(result)

    def run() -> None:
        try:
            arguments: tuple[Any, Optional[BaseException]] = (call(), None)
        except BaseException as error:
            arguments = (None, error)
        try:
            loop.call_soon_threadsafe(finish, *arguments)
        except RuntimeError:
            pass  # the loop was closed meanwhile

    threading.Thread(target=run, name="udsipc-stop", daemon=True).start()
    try:
        return await future
    except asyncio.CancelledError:
        cancelled()
        raise


def stopped() -> Stopped:
    return Stopped("the writer has been stopped", Status.STOPPED)


class Writer(BaseWriter):
    """Sends messages to the reader at a path, in an asyncio program.

        async with udsipc.aio.Writer("/run/app/events.sock") as writer:
            await writer.write(b"hello")

    It connects in the background, at once and whenever it has to, as long as the event loop runs. Leaving the `async with` block
    sends what is queued within `linger` seconds, and raises `Undelivered` or `Timeout` if something was left, unless another
    exception is on its way.

    on_error(error) is called for errors in the background, such as `NotConnected`, by the event loop. What it raises goes to
    the loop's exception handler. Options and exceptions are those of `udsipc.Writer`.
    """

    _watch: Optional[_Watch] = None

    def __init__(
        self, path: StrPath, *, on_error: Optional[ErrorHandler] = None, **options: Unpack[WriterOptions]
    ) -> None:
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._writes = 0
        super().__init__(path, on_error and _in_loop(self, on_error), options)
        self._end_at_exit()

    def _begin(self) -> None:
        """The first call connects; each checks that it is made in the same loop."""
        if self._watch is None:
            status = self._callbacks.call(library.udsipc_writer_dispatch, self._pointer, 0)
            if status != Status.STOPPED:
                check(status)
            self._watch = _Watch(self, library.udsipc_writer_fd(self._pointer), Writer._on_work)
            self._watch.on()
        self._watch.check_loop()

    def _on_work(self) -> None:
        status = self._callbacks.call(library.udsipc_writer_dispatch, self._pointer, 0)
        if status and self._watch:
            self._watch.off()  # it has been stopped, or there is no way to go on
        self._wake_first()

    def _wake_first(self) -> None:
        """Lets the one try again that has waited longest for room."""
        if self._waiters and not self._waiters[0].done():
            self._waiters[0].set_result(None)

    def _try_write(self, message: Message) -> bool:
        """False if there is no room."""
        if type(message) is bytes:
            status = write_message(self._pointer, message, len(message))
        else:
            status = with_buffer(message, lambda data, size: write_message(self._pointer, data, size))
        if status == Status.BUFFER_FULL:
            self._count_retry()
            if self._is_closed:  # a stop that has not reached C yet, and after which nobody would wake up those who wait
                raise stopped()
            return False
        check(status)
        return True

    async def write(self, message: Message) -> None:
        """Puts a message into the queue, and waits for room if the queue is full. Several tasks are served in order.

        message: bytes, bytearray, memoryview or another object with a buffer, which must not be changed until the call returns.

        When the task is cancelled, the message has not been accepted. For a limit of time use `asyncio.wait_for`. Raises
        `MessageTooLarge`, `Stopped`, `Forked`, and TypeError for a str.
        """
        self._begin()
        self._writes += 1
        if self._writes % TURN == 0:
            await asyncio.sleep(0)
        if self._waiters or not self._try_write(message):
            await self._wait_and_write(message)

    async def _wait_and_write(self, message: Message) -> None:
        """The task itself writes, and not the one who wakes it: a task can be cancelled in between."""
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
            while not self._try_write(message):
                waiter = self._waiters[0] = loop.create_future()
                await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            self._wake_first()

    async def write_many(self, messages: Iterable[Message]) -> None:
        """Puts messages into the queue, in order, each as by `write`. If it fails, `error.accepted` is how many went before."""
        for accepted, message in enumerate(messages):
            try:
                await self.write(message)
            except Error as error:
                error.accepted = accepted
                raise

    def write_nowait(self, message: Message) -> None:
        """As `write`, but raises `BufferFull` if there is no room, or others wait for some."""
        self._begin()
        if self._waiters:
            self._count_refusal()
            raise BufferFull("others wait for room in the queue", Status.BUFFER_FULL)
        if not self._try_write(message):
            self._count_refusal()
            raise failure(Status.BUFFER_FULL)

    def _count_refusal(self) -> None:
        """One that is final, and not a try of a write that waits."""
        with self._lock:
            self._retries -= 1

    async def flush(self) -> None:
        """Waits until the reader has handled what was written before the call. One that does not acknowledge has only read it.

        For a limit of time use `asyncio.wait_for`. Raises `Undelivered`, at once, if messages have been given up or may have
        been lost since the last flush; `Stopped`; `Forked`.
        """
        self._begin()
        before = self.metrics()
        goal = before.sent + before.abandoned + before.queue_depth
        lost = before.abandoned + before.suspected_lost
        pause = FIRST_PAUSE
        while True:
            status = library.udsipc_writer_flush(self._pointer, 0)
            if status != Status.TIMEOUT:
                return check(status)
            # Others may write without a pause, so that there is no moment at which nothing is on its way.
            now = self.metrics()
            if now.acknowledged + lost >= goal and now.abandoned + now.suspected_lost == lost:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def stop(self, timeout: Optional[float] = 10.0) -> None:
        """Refuses new messages, also those that wait for room, sends what is queued, and ends. A second call returns or raises
        what the first did.

        timeout: how many seconds sending may take; 0 sends nothing more, None is no limit. When nobody listens it gives up
        after 250 ms, unless the option `drain_until_deadline` is on. When the task is cancelled what is left is given up.

        Raises `Timeout` or `Undelivered` if something was left; `Forked`.
        """
        await self._stop(milliseconds(timeout))

    async def _stop(self, timeout_ms: int) -> None:
        if self._watch is not None:
            self._watch.check_loop()
            self._watch.off()
        self._is_closed = True
        self._refuse_waiters()
        self._ended(await _in_thread(lambda: self._stop_here(timeout_ms), lambda: self._c_stop(self._pointer, 0)))

    def _refuse_waiters(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(stopped())

    async def close(self) -> None:
        """As `stop` within `linger` seconds, unless it is stopped already. Raises what `stop` raises, and nothing in a forked
        child, whose parent still has the writer."""
        if not self._is_closed:
            try:
                await self._stop(self._linger_ms)
            except Forked:
                pass

    def __del__(self) -> None:
        if self._watch:
            self._watch.off()
        super().__del__()

    async def __aenter__(self) -> Writer:
        self._begin()
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        try:
            await self.close()
        except Error:
            if kind is None:
                raise


class Reader(BaseReader):
    """Receives the messages of all writers that connect to a path, in an asyncio program.

        async with udsipc.aio.Reader("/run/app/events.sock") as reader:
            async for message in reader:
                print(message)

    The loop ends when another task calls `stop`. It takes in messages before they are asked for, what has come in 5 ms at
    most, and a writer counts them as handled then: if the process is killed they are lost. Where that matters use
    `udsipc.Reader` with a callback, and `loop.add_reader(reader.fileno(), reader.dispatch)`.

    Leaving the `async with` block, or `close`, takes nothing more: writers keep it for the next reader.

    on_error(error) is called for errors in the background by the event loop. What it raises goes to the loop's exception
    handler. Options and exceptions are those of `udsipc.Reader`.
    """

    _watch: Optional[_Watch] = None

    def __init__(
        self, path: StrPath, *, on_error: Optional[ErrorHandler] = None, **options: Unpack[ReaderOptions]
    ) -> None:
        self._waiters: list[asyncio.Future[None]] = []
        self._inbox = self._taken = Inbox()
        state = CallbackState(on_error is not None)
        self._make(path, state, state.for_loop(self._taken), on_error and _in_loop(self, on_error), options)

    def _begin(self) -> _Watch:
        if self._watch is None:
            self._dispatch()
            self._watch = _Watch(self, self.fileno(), Reader._wake)
        self._watch.check_loop()
        return self._watch

    def _wake(self) -> None:
        """Lets those who wait look again. The descriptor is watched only while somebody waits."""
        if self._watch:
            self._watch.off()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _next_batch(self) -> Optional[Batch]:
        """None when the reader has been stopped and nothing is left."""
        watch = self._begin()
        while True:
            if batch := self._taken.batch():
                return batch
            is_running = self._dispatch()
            if batch := self._taken.batch():
                return batch
            if not is_running:
                return None
            waiter = watch.loop.create_future()
            self._waiters.append(waiter)
            watch.on()
            try:
                await waiter
            finally:
                if waiter in self._waiters:  # cancelled: a program may ask with a limit of time again and again
                    self._waiters.remove(waiter)

    async def _messages(self) -> AsyncIterator[bytes]:
        in_a_row = 0
        while batch := await self._next_batch():
            for message in batch.messages:
                yield message
                in_a_row += 1
            if in_a_row >= TURN:
                in_a_row = 0
                await asyncio.sleep(0)

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The messages, until the reader is stopped. Waits for the next one."""
        return self._messages()

    async def with_connections(self) -> AsyncIterator[tuple[bytes, Connection]]:
        """The messages, each with the `Connection` on which it came."""
        in_a_row = 0
        while batch := await self._next_batch():
            for pair in batch.connections():
                yield pair
                in_a_row += 1
            if in_a_row >= TURN:
                in_a_row = 0
                await asyncio.sleep(0)

    async def read(self) -> bytes:
        """The next message. For a limit of time use `asyncio.wait_for`: a message that comes too late is kept.

        Raises `Stopped` and `Forked`.
        """
        if batch := await self._next_batch():
            return next(batch.messages)
        raise Stopped("the reader has been stopped", Status.STOPPED)

    async def stop(self, timeout: Optional[float] = 10.0) -> None:
        """Takes no new connections, takes what writers have already sent, and ends. Loops get what was taken, and end then.

        timeout: how many seconds that may take; 0 takes nothing more, None is no limit. When the task is cancelled what is left
        is given up.

        Raises `Timeout` if something was left, and `Forked`.
        """
        timeout_ms = milliseconds(timeout)
        self._begin().off()
        self._is_closed = True
        try:
            self._ended(await _in_thread(lambda: self._stop_here(timeout_ms), lambda: self._stop_here(0)))
        finally:
            self._wake()  # after a stop the descriptor is quiet

    async def close(self) -> None:
        """Ends the reader, unless it has been stopped. What nobody has asked for is lost, with a RuntimeWarning that says how
        many messages that were."""
        self._leave_loop(self._taken)
        self._wake()

    def __del__(self) -> None:
        if self._watch:
            self._watch.off()
        super().__del__()

    async def __aenter__(self) -> Reader:
        self._begin()
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.close()
