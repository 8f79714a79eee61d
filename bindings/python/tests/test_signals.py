"""Ctrl-C, and other handlers of signals that raise."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
from typing import Any, Callable, Iterator

import pytest
from conftest import DEADLINE, InBackground, fastest, run_script, wait_until

import udsipc
from udsipc import Reader, Writer
from udsipc._signals import SignalsHeld

CTRL_C = 0.2


def interrupted(call: Callable[..., Any], *arguments: Any) -> float:
    """The time from the signal to the exception."""
    sent: list[float] = []

    def kill() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.15, kill)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            call(*arguments)
        return time.monotonic() - sent[0]
    finally:
        timer.cancel()


@pytest.fixture
def stuck(path: str) -> Iterator[Callable[[], Writer]]:
    """A writer of a reader that reads nothing, until the queue is full."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(path)
        listening.listen()

        def make() -> Writer:
            writer = Writer(path, linger=0, max_buffered_writes=5)
            with contextlib.suppress(udsipc.BufferFull):
                while True:
                    writer.write(bytes(1_000_000), timeout=0)
            wait_until(lambda: writer.is_connected)
            with contextlib.suppress(udsipc.Timeout):
                while True:
                    writer.write(bytes(1_000_000), timeout=0.2)
            return writer

        yield make


@pytest.mark.parametrize("name", ["flush", "write", "write_many", "stop"])
def test_ctrl_c_ends_a_writers_calls(stuck: Callable[[], Writer], name: str) -> None:
    def once() -> float:
        writer = stuck()
        try:
            message: Any = {"write": [b"x"], "write_many": [[b"x"]]}.get(name, [])
            return interrupted(getattr(writer, name), *message, 60)
        finally:
            with contextlib.suppress(udsipc.Error):
                writer.close()

    fastest(once, CTRL_C)


def test_ctrl_c_ends_a_block_that_drains(path: str) -> None:
    def block() -> None:
        with Writer(path, linger=60, drain_until_deadline=True) as writer:
            writer.write(b"nobody listens")

    fastest(lambda: interrupted(block), CTRL_C)


def test_ctrl_c_ends_a_readers_waits(path: str) -> None:
    with Reader(path) as looping:
        fastest(lambda: interrupted(lambda: next(iter(looping))), CTRL_C)
        fastest(lambda: interrupted(looping.read, 60), CTRL_C)
    with Reader(path, lambda message, connection: None) as called:
        fastest(lambda: interrupted(called.dispatch, 60), CTRL_C)
        fastest(lambda: interrupted(called.dispatch, None), CTRL_C)
        fastest(lambda: interrupted(called.serve_forever), CTRL_C)


def test_ctrl_c_ends_a_callback(path: str) -> None:
    def on_message(_message: bytes, _connection: udsipc.Connection) -> None:
        InBackground(lambda: os.kill(os.getpid(), signal.SIGINT))
        time.sleep(DEADLINE)

    with Reader(path, on_message) as reader, Writer(path, linger=DEADLINE) as writer:
        writer.write(b"x")
        with pytest.raises(KeyboardInterrupt):
            reader.serve_forever()


def test_ctrl_c_ends_a_readers_stop_under_a_flood(path: str) -> None:
    def once() -> float:
        over = threading.Event()
        with Reader(path, lambda message, connection: time.sleep(0.005)) as reader:
            writer = Writer(path, linger=0)

            def flood() -> None:
                while not over.is_set():
                    with contextlib.suppress(udsipc.Error):
                        writer.write(b"x" * 1000, 0.01)

            flooding = InBackground(flood)
            wait_until(lambda: reader.dispatch() or reader.metrics().received > 0)
            wait_until(lambda: writer.metrics().queue_depth > 1000)
            taken = interrupted(reader.stop, 60)
        over.set()
        flooding.result()
        with contextlib.suppress(udsipc.Error):
            writer.close()
        return taken

    # An interrupt inside the callback leaves the rest of its batch to be called for first, which takes a second.
    fastest(once, 2 * CTRL_C, attempts=20)


@pytest.mark.parametrize("style", ["loop", "on_message", "on_batch"])
def test_handlers_that_raise_at_any_moment_lose_no_message(
    path: str, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exception may come in the first instruction of a callback, which ctypes would drop."""
    gc.collect()  # an exception in the finalizer of what another test has left would be dropped as well
    received: list[bytes] = []
    failures: list[udsipc.Error] = []
    unraisable: list[Any] = []
    interruptions, written, armed = [0], [0], [False]
    callbacks: dict[str, Any] = {"loop": {}, "on_message": {"on_message": lambda message, _: received.append(message)},
                                 "on_batch": {"on_batch": lambda messages, _: received.extend(messages)}}
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    reader, writer, over = Reader(path, on_error=failures.append, **callbacks[style]), Writer(path, linger=DEADLINE), threading.Event()

    def feed() -> None:
        while interruptions[0] < 100:
            writer.write(b"%d" % written[0])
            written[0] += 1
            if written[0] % 100 == 0:
                writer.flush(DEADLINE)

    def raise_once(*_: object) -> None:
        if armed[0]:
            armed[0] = False
            raise KeyboardInterrupt

    def interrupt() -> None:
        while not over.wait(0.001):
            os.kill(os.getpid(), signal.SIGINT)

    def take() -> None:
        if style == "loop":
            with contextlib.suppress(udsipc.Timeout):
                while batch := reader._next_batch(udsipc._signals.Deadline(0.005)):
                    received.extend(batch.messages)
        else:
            reader.dispatch(0.005)

    signal.signal(signal.SIGINT, raise_once)
    feeding, interrupting = InBackground(feed), InBackground(interrupt)
    try:
        while not over.is_set():
            try:
                armed[0] = True
                while feeding.running() or writer.metrics().acknowledged < written[0]:
                    take()
                    assert unraisable == []
                armed[0] = False
                over.set()
            except KeyboardInterrupt:
                interruptions[0] += 1
    finally:
        armed[0] = False
        over.set()
    feeding.result()
    interrupting.result()
    with contextlib.suppress(udsipc.Timeout):
        take()
    # One whose handling was interrupted counts as failed, and may have been handled; those behind it come again.
    missing = set(range(written[0])) - {int(message) for message in received}
    assert len(missing) <= reader.metrics().errors
    if style == "loop":
        assert [int(message) for message in received] == list(range(written[0]))
    writer.close()
    reader.close()


def test_the_handlers_of_signals_are_as_before(path: str) -> None:
    def mine(*_: object) -> None:
        pass

    def changed_in_callback(*_: object) -> None:
        pass

    before = {number: signal.signal(number, mine) for number in (signal.SIGTERM, signal.SIGUSR1)}
    received: list[bytes] = []

    def on_message(message: bytes, _connection: udsipc.Connection) -> None:
        received.append(message)
        signal.signal(signal.SIGUSR1, changed_in_callback)

    try:
        with Reader(path, on_message) as reader, Writer(path, linger=DEADLINE) as writer:
            writer.write(b"x")
            wait_until(lambda: reader.dispatch() or received)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGUSR1) is changed_in_callback
        assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_sigterm_ends_a_program_whose_threads_are_all_busy(path: str) -> None:
    script = """
import signal, sys, threading, udsipc
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
reader = udsipc.Reader(sys.argv[1], lambda message, connection: None)
threading.Thread(target=reader.serve_forever, daemon=True).start()
with reader, udsipc.Writer(sys.argv[1]) as writer:
    threading.Timer(0.2, signal.raise_signal, (signal.SIGTERM,)).start()
    while True:
        writer.write(b"x" * 1000)
"""
    assert run_script(script, path) == ""


def test_a_handler_that_raises_keeps_no_other_from_being_called() -> None:
    """Two signals arrive while C runs."""
    called: list[int] = []

    def on_signal(number: int, _frame: Any) -> None:
        called.append(number)
        raise RuntimeError(number)

    numbers = (signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        with pytest.raises(RuntimeError):
            with SignalsHeld():
                for number in numbers:
                    os.kill(os.getpid(), number)
                assert called == []
        assert sorted(called) == sorted(numbers)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
