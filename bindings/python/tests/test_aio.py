"""The writer and the reader for asyncio, in the loops of asyncio and of uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any, AsyncIterator, Callable, Iterator

import pytest
from conftest import DEADLINE, InBackground, Serving, run_script, wait_until

import udsipc
from udsipc.aio import Reader, Writer

Serve = Callable[..., Serving]


async def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE} s"
        await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def ticker(clock: Callable[[], float]) -> AsyncIterator[list[float]]:
    """How long the loop did other things, each time that this task came round."""
    pauses: list[float] = []

    async def tick() -> None:
        last = clock()
        while True:
            await asyncio.sleep(0)
            now = clock()
            pauses.append(now - last)
            last = now

    task = asyncio.ensure_future(tick())
    await asyncio.sleep(0)
    try:
        yield pauses
    finally:
        task.cancel()


@pytest.fixture
def listener(path: str) -> Iterator[socket.socket]:
    """A reader that reads nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(path)
        listening.listen()
        yield listening


async def test_messages_go_through_without_any_thread(path: str) -> None:
    threads = os.listdir("/proc/self/task")
    messages = [b"%d" % number * (1 + number % 300) for number in range(20_000)] + [bytes(2_000_000), b"last"]
    async with Reader(path) as reader, Writer(path, linger=DEADLINE) as writer:
        feeding = asyncio.ensure_future(writer.write_many(messages))
        received = []
        async for message in reader:
            received.append(message)
            if len(received) == len(messages):
                break
        await feeding
        await writer.flush()
        assert received == messages
        assert writer.metrics().acknowledged == len(messages) and writer.metrics().dropped == 0
        assert os.listdir("/proc/self/task") == threads


async def test_a_write_waits_for_room_and_those_who_wait_are_served_in_order(path: str) -> None:
    async with Writer(path, max_buffered_writes=10, linger=DEADLINE) as writer:
        tasks = [asyncio.ensure_future(writer.write(b"%d" % number)) for number in range(100)]
        await asyncio.sleep(0.05)
        assert sum(task.done() for task in tasks) == 10
        with pytest.raises(udsipc.BufferFull):
            writer.write_nowait(b"jumps the queue")
        tasks[50].cancel()
        tasks[10].cancel()
        async with Reader(path) as reader:
            received = [int(await reader.read()) for _ in range(98)]
            assert received == [number for number in range(100) if number not in (10, 50)]
            await asyncio.gather(*tasks, return_exceptions=True)
            writer.write_nowait(bytearray(b"now there is room"))
            assert await reader.read() == b"now there is room"


async def test_what_is_refused_without_waiting_is_counted(path: str) -> None:
    writer = Writer(path, max_buffered_writes=1, linger=0)
    writer.write_nowait(b"fills the queue")
    for refused in (1, 2):
        with pytest.raises(udsipc.BufferFull):
            writer.write_nowait(b"no room")
        assert writer.metrics().dropped == refused
    waiting = asyncio.ensure_future(writer.write(b"waits"))
    await wait_for(lambda: writer._waiters)
    with pytest.raises(udsipc.BufferFull, match="others wait"):
        writer.write_nowait(b"jumps the queue")
    assert writer.metrics().dropped == 3
    waiting.cancel()
    with pytest.raises(udsipc.Error):
        await writer.close()


async def test_a_cancelled_write_has_not_been_accepted(path: str) -> None:
    """Whenever the cancellation comes: also between the room and the task that waits for it."""
    received: list[bytes] = []
    written: list[bytes] = []
    async with Reader(path) as reader, Writer(path, max_buffered_writes=2, linger=DEADLINE) as writer:
        async def read() -> None:
            async for message in reader:
                received.append(message)
                if message == b"end":
                    return

        async def fill() -> None:
            while True:
                await writer.write(b"fill")

        reading, filling = asyncio.ensure_future(read()), [asyncio.ensure_future(fill()) for _ in range(3)]
        for number in range(3000):
            message = b"%d" % number
            task = asyncio.ensure_future(writer.write(message))
            for _ in range(number % 11):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
                written.append(message)
        for one in filling:
            one.cancel()
        await writer.write(b"end")
        await reading
    assert [message for message in received if message != b"fill"] == [*written, b"end"]
    assert 0 < len(written) < 3000


async def test_a_stop_refuses_writes_before_it_has_reached_the_library(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that stops may be late. Until then the queue is full as before, and afterwards nobody is woken up."""
    writer, late = Writer(path, max_buffered_writes=1, linger=0), threading.Event()
    stop_here = writer._stop_here

    def stop_late(timeout_ms: int) -> Any:
        late.wait(DEADLINE)
        return stop_here(timeout_ms)

    monkeypatch.setattr(writer, "_stop_here", stop_late)
    await writer.write(b"fills the queue")
    waiting = asyncio.ensure_future(writer.write(b"waits"))
    await wait_for(lambda: writer._waiters)
    stopping = asyncio.ensure_future(writer.stop(0))
    asyncio.get_running_loop().call_soon(writer._wake_first)  # there was room, and it is gone
    await asyncio.sleep(0)
    for write in (waiting, writer.write(b"behind the stop")):
        with pytest.raises(udsipc.Stopped):
            await asyncio.wait_for(write, DEADLINE)
    with pytest.raises(udsipc.Stopped):
        writer.write_nowait(b"behind the stop")
    late.set()
    with pytest.raises(udsipc.Error):
        await stopping
    assert writer.metrics().dropped == 0, "the queue was not what refused them"


async def test_waits_with_a_limit_of_time_leave_nothing_behind(path: str) -> None:
    async with Reader(path) as reader:
        for _ in range(20):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(reader.read(), 0.001)
        assert reader._waiters == []


async def test_what_is_no_message_fails_where_it_is_written(path: str) -> None:
    wrong: Any = "text"
    async with Writer(path, max_buffered_writes=1, max_message_size=10, linger=0) as writer:
        with pytest.raises(TypeError, match="encode it first"):
            await writer.write(wrong)
        with pytest.raises(udsipc.MessageTooLarge):
            await writer.write(bytes(11))
        await writer.write(b"fills the")
        messages = [b"queue", wrong, bytes(11), b"right"]
        waiting = [asyncio.ensure_future(writer.write(message)) for message in messages]
        await asyncio.sleep(0.01)
        async with Reader(path) as reader:
            assert [await asyncio.wait_for(reader.read(), DEADLINE) for _ in range(3)] == [b"fills the", b"queue", b"right"]
            await writer.flush()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [type(None), TypeError, udsipc.MessageTooLarge, type(None)]


FEED = """
import sys, udsipc
with udsipc.Writer(sys.argv[1], linger=60) as writer:
    writer.write_many((b"x" * 100 for _ in range(200_000)), None)
"""


async def test_a_loop_that_reads_without_a_pause_lets_others_run(path: str) -> None:
    """Of the processor's time: others may have had the processor."""
    worst = []
    for attempt in range(5):
        async with Reader(path) as reader:
            feeding = InBackground(lambda: run_script(FEED, path))
            assert await reader.read() == b"x" * 100
            async with ticker(time.thread_time) as pauses:
                count = 1
                async for _ in reader:
                    count += 1
                    if count == 200_000:
                        break
            feeding.result()
            await reader.stop()
        worst.append(max(pauses))
        if worst[-1] < 0.015:
            return
    raise AssertionError(f"the loop was blocked for {worst} s")


async def test_a_task_that_writes_without_a_pause_lets_others_run(path: str, serving: Serve) -> None:
    count = [0]

    def on_batch(messages: list[bytes], _connection: udsipc.Connection) -> None:
        count[0] += len(messages)

    serving(on_batch=on_batch)
    worst = []
    for attempt in range(5):
        async with ticker(time.thread_time) as pauses, Writer(path, linger=DEADLINE, max_buffered_writes=1 << 20) as writer:
            await writer.write_many(b"x" * 100 for _ in range(50_000))
            await writer.flush()
        worst.append(max(pauses))
        if worst[-1] < 0.015:
            return
    raise AssertionError(f"the loop was blocked for {worst} s")


async def test_a_stop_that_waits_does_not_block_the_loop(path: str, listener: socket.socket) -> None:
    reported: list[udsipc.Error] = []
    threads: set[int] = set()

    def on_error(error: udsipc.Error) -> None:
        reported.append(error)
        threads.add(threading.get_ident())

    async with ticker(time.monotonic) as pauses:
        writer = Writer(path, on_error=on_error)
        for _ in range(1000):
            await writer.write(bytes(2000))
        with pytest.raises(udsipc.Timeout):
            await writer.stop(0.3)
        assert writer.closed
    assert sorted(pauses)[-2] < 0.1 and len(pauses) > 100
    await wait_for(lambda: any("drain" in str(error) for error in reported))
    assert threads == {threading.get_ident()}


async def test_flush_waits_for_what_was_written_before_also_under_a_constant_flow(path: str, serving: Serve) -> None:
    received: list[bytes] = []

    def on_batch(messages: list[bytes], _connection: udsipc.Connection) -> None:
        time.sleep(0.002)
        received.extend(messages)

    serving(on_batch=on_batch)
    async with Writer(path, linger=DEADLINE) as writer:
        over = False

        async def flow() -> None:
            while not over:
                await writer.write_many([b"flow"] * 20)
                await asyncio.sleep(0)

        flowing = asyncio.ensure_future(flow())
        for number in range(10):
            await writer.write(b"%d" % number)
            await asyncio.wait_for(writer.flush(), DEADLINE)
            assert b"%d" % number in received
        over = True
        await flowing


async def test_flush_tells_of_a_loss(path: str) -> None:
    async with Writer(path, acknowledge=udsipc.Acknowledge.OFF) as writer:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind(path)
            listening.listen()
            await writer.write(b"x")
            await wait_for(lambda: writer.metrics().sent == 1)
            flushing = asyncio.ensure_future(writer.flush())
            await asyncio.sleep(0.02)
            assert not flushing.done()
            listening.accept()[0].close()
        with pytest.raises(udsipc.Undelivered):
            await flushing
        await writer.flush()


async def test_leaving_the_block_raises_what_could_not_be_delivered(path: str) -> None:
    with pytest.raises((udsipc.Undelivered, udsipc.Timeout)):
        async with Writer(path, linger=0.1) as writer:
            await writer.write(b"nobody listens")
    with pytest.raises(ZeroDivisionError):
        async with Writer(path, linger=0.1) as writer:
            await writer.write(b"nobody listens")
            raise ZeroDivisionError


async def test_a_stop_refuses_those_who_wait(path: str) -> None:
    writer = Writer(path, max_buffered_writes=1)
    await writer.write(b"x")
    waiting = asyncio.ensure_future(writer.write(b"y"))
    await asyncio.sleep(0.01)
    with pytest.raises(udsipc.Error):
        await writer.stop(0)
    with pytest.raises(udsipc.Stopped):
        await waiting
    with pytest.raises(udsipc.Stopped):
        await writer.write(b"z")
    with pytest.raises(udsipc.Undelivered):
        await writer.flush()  # tells of the loss, once
    with pytest.raises(udsipc.Stopped):
        await writer.flush()
    await writer.close()


async def test_a_reader_that_is_stopped_gives_what_was_sent(path: str) -> None:
    for _ in range(5):
        async with Reader(path) as reader:
            async def loop(reader: Reader = reader) -> list[bytes]:
                return [message async for message in reader]

            looping = asyncio.ensure_future(loop())
            with udsipc.Writer(path, linger=DEADLINE) as writer:
                writer.write_many([b"x"] * 1000)
                await wait_for(lambda writer=writer: writer.metrics().acknowledged == 1000)
                writer.write_many([b"y"] * 3000)
                await reader.stop()
                assert writer.metrics().sent >= 1000
                received = await looping
                await wait_for(lambda writer=writer: writer.metrics().acknowledged == len(received))
                with contextlib.suppress(udsipc.Error):
                    writer.stop(0)
            with pytest.raises(udsipc.Stopped):
                await reader.read()


async def test_messages_with_their_connections(path: str) -> None:
    async with Reader(path) as reader, Writer(path, linger=DEADLINE) as writer:
        await writer.write_many([b"1", b"2", b"3"])
        seen = []
        async for message, connection in reader.with_connections():
            assert connection.pid == os.getpid() and len(connection.writer_id) == 16
            seen.append((message, connection.sequence))
            if len(seen) == 3:
                break
        assert seen == [(b"1", 1), (b"2", 2), (b"3", 3)]


async def test_a_wait_that_is_cancelled_loses_nothing(path: str) -> None:
    received = []
    async with Reader(path) as reader, Writer(path, linger=DEADLINE) as writer:
        for number in range(300):
            for _ in range(3):
                with contextlib.suppress(asyncio.TimeoutError):
                    received.append(await asyncio.wait_for(reader.read(), 0.0002))
            await writer.write(b"%d" % number)
        while len(received) < 300:
            received.append(await reader.read())
        await writer.flush()
    assert received == [b"%d" % number for number in range(300)]


@pytest.mark.parametrize("name", ["flush", "stop", "write"])
async def test_a_cancelled_call_of_a_writer(path: str, listener: socket.socket, name: str) -> None:
    writer = Writer(path, max_buffered_writes=5, linger=0)
    with contextlib.suppress(asyncio.TimeoutError):
        while True:
            await asyncio.wait_for(writer.write(bytes(1_000_000)), 0.1)
    depth = writer.metrics().queue_depth
    arguments: list[Any] = {"write": [bytes(9)], "stop": [None]}.get(name, [])
    task = asyncio.ensure_future(getattr(writer, name)(*arguments))
    await asyncio.sleep(0.05)
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 1
    if name == "stop":
        await wait_for(lambda: "udsipc-stop" not in [thread.name for thread in threading.enumerate()])
    else:
        assert writer.metrics().queue_depth == depth and not writer.closed
    with contextlib.suppress(udsipc.Error):
        await writer.close()


async def test_a_cancelled_stop_of_a_reader(path: str) -> None:
    with udsipc.Writer(path, linger=0) as writer:
        reader = Reader(path)
        writer.write_many([bytes(100_000)] * 100)
        assert len(await reader.read()) == 100_000
        task = asyncio.ensure_future(reader.stop(None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert reader.closed
        async for _ in reader:
            pass
        await reader.close()
        with contextlib.suppress(udsipc.Error):
            writer.stop(0)


async def test_a_block_that_is_cancelled_delivers(path: str, serving: Serve) -> None:
    served = serving()
    written = asyncio.Event()

    async def block() -> None:
        async with Writer(path, linger=DEADLINE) as writer:
            await writer.write_many([b"x"] * 1000)
            written.set()
            await asyncio.sleep(DEADLINE)

    task = asyncio.ensure_future(block())
    await asyncio.wait_for(written.wait(), DEADLINE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(served.received) == 1000


def test_one_that_was_never_made_is_no_trouble() -> None:
    for kind in (Writer, Reader, udsipc.Writer, udsipc.Reader, udsipc.LoggingHandler):
        kind.__new__(kind)


async def test_errors_are_reported_by_the_loop(path: str) -> None:
    handled: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: handled.append(context))
    reported: list[udsipc.Error] = []

    def on_error(error: udsipc.Error) -> None:
        reported.append(error)
        raise ValueError("of the handler")

    async with Writer(path, on_error=on_error):
        await wait_for(lambda: handled)
    assert isinstance(reported[0], udsipc.NotConnected)
    assert str(handled[0]["exception"]) == "of the handler"


async def test_it_belongs_to_one_loop(path: str) -> None:
    async with Writer(path, linger=DEADLINE) as writer, Reader(path) as reader:
        def elsewhere(call: Callable[[], Any]) -> None:
            async def run() -> None:
                await call()

            asyncio.run(run())

        for call in (lambda: writer.write(b"x"), writer.flush, writer.stop, reader.read, reader.stop):
            with pytest.raises(RuntimeError, match="another event loop"):
                InBackground(lambda call=call: elsewhere(call)).result()  # type: ignore[misc]
        await writer.write(b"x")
        assert await reader.read() == b"x"


async def test_forgotten_ones_are_collected_and_told_of(path: str, serving: Serve) -> None:
    served = serving()
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        writer = Writer(path, linger=DEADLINE)
        await writer.write(b"x")
        with pytest.warns(ResourceWarning, match="unclosed <udsipc.aio.Writer"):
            del writer
            gc.collect()
    assert served.received == [b"x"] * 3

    async def forget_a_reader_that_waits() -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(Reader(path + "2").read(), 0.01)

    with pytest.warns(ResourceWarning, match="unclosed <udsipc.aio.Reader"):
        await asyncio.ensure_future(forget_a_reader_that_waits())
        await asyncio.sleep(0.01)
        gc.collect()
    # The numbers of their descriptors are free for others in this loop.
    async with Writer(path, linger=DEADLINE) as other, Reader(path + "3") as another:
        await other.write(b"y")
        await other.flush()
        assert another.fileno() >= 0
    await wait_for(lambda: len(os.listdir("/proc/self/fd")) <= descriptors + 6)


def test_a_loop_that_is_closed_first(path: str, serving: Serve) -> None:
    served = serving()

    async def leave() -> Writer:
        writer = Writer(path, linger=DEADLINE)
        await writer.write(b"x")
        return writer

    writer = asyncio.run(leave())
    with pytest.warns(ResourceWarning):
        del writer
        gc.collect()
    assert served.received == [b"x"]


def test_ctrl_c_ends_a_program(path: str) -> None:
    script = """
import asyncio, sys, udsipc.aio
async def main():
    async with udsipc.aio.Reader(sys.argv[1]) as reader, udsipc.aio.Writer(sys.argv[1]) as writer:
        await writer.write(b"x")
        print(await reader.read(), flush=True)
        async for message in reader:
            pass
asyncio.run(main())
"""
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(udsipc.__file__))}
    with subprocess.Popen([sys.executable, "-c", script, path], env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as program:
        assert program.stdout is not None and program.stdout.readline() == b"b'x'\n"
        started = time.monotonic()
        program.send_signal(signal.SIGINT)
        _, told = program.communicate(timeout=DEADLINE)
        assert b"KeyboardInterrupt" in told and b"Warning" not in told
        assert time.monotonic() - started < 3


def test_a_program_that_ends_without_closing(path: str, serving: Serve) -> None:
    served = serving()
    script = """
import asyncio, sys, udsipc.aio
async def main():
    global writer, reader
    writer, reader = udsipc.aio.Writer(sys.argv[1], linger=30), udsipc.aio.Reader(sys.argv[1] + "2")
    await writer.write(b"x")
asyncio.run(main())
"""
    assert run_script(script, path) == ""
    wait_until(lambda: served.received == [b"x"])
