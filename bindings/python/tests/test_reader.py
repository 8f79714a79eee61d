"""The reader: loops, callbacks, ends."""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import os
import signal
import socket
import threading
import time
from typing import Any, Callable, Iterator, Optional

import pytest
from conftest import DEADLINE, InBackground, Serving, wait_until

import udsipc
from udsipc import Reader, Writer

Serve = Callable[..., Serving]


def feed(path: str, messages: Any) -> InBackground:
    def run() -> None:
        with Writer(path, linger=DEADLINE) as writer:
            writer.write_many(messages, DEADLINE)

    return InBackground(run)


def test_a_loop_gets_every_message_in_order(path: str) -> None:
    messages = [b"%d" % number * (1 + number % 400) for number in range(50_000)] + [bytes(3_000_000), b"last"]
    with Reader(path) as reader:
        feeding = feed(path, messages)
        assert list(itertools.islice(reader, len(messages))) == messages
        feeding.result()
        assert reader.metrics().received == len(messages)


def test_messages_may_lie_anywhere_in_memory() -> None:
    """The library makes no promise that they lie side by side."""
    from array import array
    from ctypes import addressof, create_string_buffer

    from udsipc._messages import split

    memory = create_string_buffer(bytes(range(256)) * 1000)
    base = addressof(memory)
    for places in ([(0, 5), (6, 10), (17, 1)], [(100, 5), (0, 50), (200, 9)], [(0, 5), (100_000, 5)], [(100_000, 5), (0, 5)],
                   [(0, 5), (300, 5), (10, 5)], [(7, 3)], [(50, 1), (10, 2), (90, 3)], [(0, 100_000), (100_003, 7)]):
        flat = array("L", [number for start, length in places for number in (base + start, length)])
        expected = [memory.raw[start : start + length] for start, length in places]
        assert split(flat.buffer_info()[0], len(places)) == expected


def test_a_loop_that_is_left_goes_on_where_it_was(path: str) -> None:
    with Reader(path) as reader:
        feeding = feed(path, [b"%d" % number for number in range(1000)])
        first = next(iter(reader))
        some = [message for message, _ in itertools.islice(reader.with_connections(), 300)]
        more = [reader.read() for _ in range(300)]
        rest = list(itertools.islice(reader, 399))
        assert [first, *some, *more, *rest] == [b"%d" % number for number in range(1000)]
        feeding.result()


def test_another_thread_ends_a_loop_which_gets_what_was_sent(path: str) -> None:
    for _ in range(10):
        with Reader(path) as reader, Writer(path, linger=DEADLINE) as writer:
            looping = InBackground(lambda: list(reader))
            writer.write_many([b"x"] * 5000)
            writer.flush(DEADLINE)
            writer.write_many([b"y"] * 5000)
            wait_until(lambda: writer.metrics().sent == 10_000)
            reader.stop(DEADLINE)
            assert len(looping.result()) == 10_000
            assert list(reader) == []
            with pytest.raises(udsipc.Stopped):
                reader.read()


def test_a_loop_waits_for_all_that_a_stop_takes(path: str) -> None:
    with Reader(path) as reader, Writer(path, linger=0) as writer:
        inbox: Any = reader._inbox
        put, is_putting = inbox.put, threading.Event()
        with pytest.raises(udsipc.Timeout):
            reader.read(0)  # a reader that was never asked takes nothing at its end

        def put_slowly(*arguments: Any) -> None:
            is_putting.set()
            time.sleep(0.3)
            put(*arguments)

        inbox.put = put_slowly
        writer.write_many([b"x"] * 1000)
        wait_until(lambda: writer.metrics().sent == 1000)
        stopping = InBackground(lambda: reader.stop(DEADLINE))
        assert is_putting.wait(DEADLINE)
        cutting = InBackground(lambda: reader.stop(0))  # cuts the first one short, in the middle of what it takes
        received = list(reader)
        for ending in (stopping, cutting):
            with pytest.raises(udsipc.Timeout):
                ending.result()
        assert len(received) == reader.metrics().received > 0
        with contextlib.suppress(udsipc.Error):
            writer.stop(0)


def test_a_handler_of_a_signal_ends_a_loop(path: str) -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: reader.stop())
    try:
        with Reader(path) as reader:
            feeding = feed(path, [b"x"] * 100)
            received = []
            for message in reader:
                received.append(message)
                if len(received) == 100:
                    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
            feeding.result()
            assert reader.closed
    finally:
        signal.signal(signal.SIGTERM, before)


def test_read_waits_for_its_time(path: str) -> None:
    with Reader(path) as reader:
        for timeout in (0, 0.15):
            started = time.monotonic()
            with pytest.raises(udsipc.Timeout):
                reader.read(timeout)
            assert timeout <= time.monotonic() - started
        feeding = feed(path, [b"x"])
        assert reader.read(DEADLINE) == b"x"
        feeding.result()


def test_what_a_closed_reader_had_taken_in_is_told_of(path: str) -> None:
    reader, writer = Reader(path), Writer(path, linger=DEADLINE)
    writer.write_many([b"x"] * 10)
    wait_until(lambda: writer.metrics().sent == 10)
    assert reader.read() == b"x"
    with pytest.warns(RuntimeWarning, match="closed with 9 messages that had been taken in"):
        reader.close()
    assert list(reader) == []
    writer.close()


def test_what_a_closed_reader_had_not_taken_comes_to_the_next_one(path: str) -> None:
    with Writer(path, linger=DEADLINE) as writer:
        with Reader(path) as reader:
            writer.write(b"1")
            assert reader.read() == b"1"
            writer.write(b"2")
            wait_until(lambda: writer.metrics().sent == 2)
        with Reader(path) as reader:
            assert reader.read() == b"2"


def test_every_message_knows_its_sender(path: str) -> None:
    seen: list[tuple[bytes, udsipc.Connection]] = []

    def check(messages: "list[tuple[bytes, udsipc.Connection]]") -> None:
        sequences: dict[int, int] = {}
        for message, connection in messages:
            assert (connection.pid, connection.uid, connection.gid) == (os.getpid(), os.getuid(), os.getgid())
            assert len(connection.writer_id) == 16 and connection.id > 0
            assert connection.sequence == sequences.get(connection.id, 0) + 1
            sequences[connection.id] = connection.sequence
            assert message.endswith(b" %d" % connection.sequence)
        assert len(sequences) == 2 and len(messages) == 1200

    def write_both() -> None:
        with Writer(path, linger=DEADLINE) as one, Writer(path, linger=DEADLINE) as two:
            one.write_many([b"one %d" % number for number in range(1, 601)])
            two.write_many([b"two %d" % number for number in range(1, 601)])

    with Reader(path) as reader:
        writing = InBackground(write_both)
        check(list(itertools.islice(reader.with_connections(), 1200)))
        writing.result()
    with Reader(path, lambda message, connection: seen.append((message, connection))) as called:
        writing = InBackground(write_both)
        wait_until(lambda: called.dispatch() or len(seen) == 1200)
        writing.result()
    check(seen)


def test_a_writer_that_does_not_ask_has_no_identity(path: str) -> None:
    with Reader(path) as reader, Writer(path, acknowledge=udsipc.Acknowledge.OFF) as writer:
        writer.write(b"x")
        message, connection = next(reader.with_connections())
        assert (message, connection.writer_id, connection.sequence) == (b"x", b"", 0)


@pytest.fixture
def exchange(path: str) -> Iterator[Callable[..., tuple[Reader, Writer]]]:
    """A reader that has ten messages to give."""
    made: list[tuple[Reader, Writer]] = []

    def make(count: int = 10, **callbacks: Any) -> tuple[Reader, Writer]:
        reader, writer = Reader(path, **callbacks), Writer(path, linger=DEADLINE)
        made.append((reader, writer))
        writer.write_many([b"%d" % number for number in range(count)])
        wait_until(lambda: writer.metrics().sent == count)
        return reader, writer

    yield make
    for reader, writer in made:
        if not reader.closed:
            reader.stop()
        writer.close()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("callback", ["on_message", "on_batch"])
def test_what_ends_a_program_comes_out_of_dispatch(exchange: Any, kind: type[BaseException], callback: str) -> None:
    received: list[bytes] = []
    raised: list[BaseException] = []

    def on_message(message: Any, _connection: udsipc.Connection) -> None:
        if not raised:
            raised.append(kind())
            raise raised[0]
        received.extend(message if callback == "on_batch" else [message])

    reader, _ = exchange(**{callback: on_message})
    with pytest.raises(kind) as caught:
        reader.dispatch(DEADLINE)
    assert caught.value is raised[0]
    wait_until(lambda: reader.dispatch() or len(received) == 9)
    assert received == [b"%d" % number for number in range(1, 10)], "the others are given again"
    assert reader.metrics().errors == 1


@pytest.mark.parametrize("is_told", [True, False])
def test_a_message_whose_callback_fails_is_counted_and_reported(
    exchange: Any, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[bytes] = []
    told: list[Any] = []
    errors: list[udsipc.Error] = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def on_message(message: bytes, _connection: udsipc.Connection) -> None:
        if message in (b"3", b"5"):
            raise ValueError(message)
        received.append(message)

    reader, _ = exchange(on_message=on_message, on_error=errors.append if is_told else None)
    wait_until(lambda: reader.dispatch() or len(received) == 8)
    assert received == [b"0", b"1", b"2", b"4", b"6", b"7", b"8", b"9"]
    assert reader.metrics().errors == 2
    causes: list[Optional[BaseException]] = [error.__cause__ for error in errors] + [one.exc_value for one in told]
    assert [str(cause) for cause in causes] == ["b'3'", "b'5'"]
    assert all(isinstance(error, udsipc.HandlerFailed) for error in errors) and len(errors) == 2 * is_told


def test_close_inside_a_callback_is_refused_and_changes_nothing(exchange: Any) -> None:
    refused, received = [], []

    def on_batch(messages: list[bytes], _connection: udsipc.Connection) -> None:
        received.extend(messages)
        for call in (reader.close, lambda: reader.stop(0), reader.dispatch):
            with pytest.raises(udsipc.WouldDeadlock):
                call()
            refused.append(call)

    reader, writer = exchange(on_batch=on_batch)
    wait_until(lambda: reader.dispatch() or len(received) == 10)
    assert len(refused) >= 3 and not reader.closed
    writer.write(b"one more")
    wait_until(lambda: reader.dispatch() or received[-1] == b"one more")


def test_leaving_the_block_takes_what_was_sent(path: str) -> None:
    received: list[bytes] = []
    with Reader(path, on_batch=lambda messages, _: received.extend(messages)) as reader:
        reader.dispatch()
        with Writer(path, acknowledge=udsipc.Acknowledge.OFF) as writer:
            writer.write_many([b"x"] * 1000)
            wait_until(lambda: writer.metrics().sent == 1000)
            stopping = InBackground(lambda: writer.stop(DEADLINE))
            wait_until(lambda: reader.dispatch() or received)
        stopping.result()
    assert len(received) == 1000


def test_a_reader_that_leaves_something_says_so(path: str) -> None:
    with Writer(path, linger=DEADLINE) as writer:
        with pytest.raises(udsipc.Timeout):  # it was never dispatched
            with Reader(path, lambda message, connection: None):
                writer.write(b"x")
                wait_until(lambda: writer.metrics().sent == 1)
        with pytest.raises(udsipc.Error):
            writer.stop(0)


def test_calls_after_the_end(path: str) -> None:
    reader = Reader(path, lambda message, connection: None)
    reader.close()
    reader.close()
    with pytest.raises(udsipc.Stopped):
        reader.dispatch()
    with pytest.raises(udsipc.Stopped):
        reader.dispatch(1)
    reader.serve_forever()
    assert reader.metrics().received == 0 and reader.path == path
    assert "closed" in repr(reader)
    assert not os.path.exists(path)


def test_a_reader_is_iterated_over_or_has_a_callback(path: str) -> None:
    with Reader(path) as looping:
        with pytest.raises(udsipc.WrongState):
            looping.dispatch()
        with pytest.raises(TypeError):
            copy.copy(looping)
    with Reader(path, lambda message, connection: None) as called:
        for call in (lambda: next(iter(called)), called.read, lambda: next(called.with_connections())):
            with pytest.raises(udsipc.WrongState):
                call()
    with pytest.raises(TypeError):
        Reader(path, print, on_batch=print)


def test_a_reader_that_its_own_callback_refers_to_is_collected(path: str) -> None:
    def forget() -> None:
        reader = Reader(path, lambda message, connection: print(reader))

    with pytest.warns(ResourceWarning, match="unclosed"):
        forget()
        gc.collect()
    assert not os.path.exists(path)


def test_it_is_freed_inside_its_own_callback(path: str) -> None:
    received: list[bytes] = []

    def on_message(message: bytes, _connection: udsipc.Connection) -> None:
        received.append(message)
        readers.clear()

    with Writer(path, linger=0) as writer:
        readers = [Reader(path, on_message)]
        writer.write(b"x")
        wait_until(lambda: writer.metrics().sent == 1)
        with pytest.warns(ResourceWarning):
            callbacks = readers[0]._callbacks
            pointer, dispatch = readers[0]._pointer, udsipc._library.library.udsipc_reader_dispatch
            wait_until(lambda: received or callbacks.call(dispatch, pointer, 0))
            gc.collect()
        assert received == [b"x"]


def test_options_reach_the_library(path: str) -> None:
    with Reader(path, socket_mode=0o600, max_message_size=5, allow_uids=[os.getuid()], max_connections=1) as reader:
        assert os.stat(path).st_mode & 0o777 == 0o600
        with Writer(path, max_attempts=1, linger=DEADLINE) as writer:
            writer.write(b"x" * 6)
            writer.write(b"small")
            assert reader.read(DEADLINE) == b"small"
    with Reader(path, allow_uids=[os.getuid() + 1], allow_gids=[]) as reader, Writer(path, linger=0) as writer:
        def has_refused() -> bool:
            with pytest.raises(udsipc.Timeout):
                reader.read(0.1)
            return reader.metrics().refused > 0

        wait_until(has_refused)
        wait_until(lambda: writer.metrics().connections > 0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(path)
        listening.listen()
        with Reader("/nowhere", listen_fd=listening.fileno()) as reader, Writer(path, linger=DEADLINE) as writer:
            writer.write(b"x")
            assert reader.read(DEADLINE) == b"x"
    with pytest.raises(udsipc.InvalidArgument):
        Reader(path, listen_fd_name="a\0b")


def test_a_path_in_use_is_refused_by_kind(path: str) -> None:
    with Reader(path):
        with pytest.raises(udsipc.AddressInUse) as caught:
            Reader(path)
        assert isinstance(caught.value, OSError) and path in str(caught.value)
    with open(path, "w"):
        with pytest.raises(udsipc.AddressInUse):
            Reader(path)
