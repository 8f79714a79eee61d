"""The writer."""

from __future__ import annotations

import array
import copy
import gc
import pickle
import socket
import threading
import time
from typing import Any, Callable, Iterator

import pytest
from conftest import DEADLINE, InBackground, Serving, fastest, wait_until
from prometheus_client.parser import text_string_to_metric_families

import udsipc
from udsipc import Writer

Serve = Callable[..., Serving]


@pytest.fixture
def listener(path: str) -> Iterator[socket.socket]:
    """A reader that reads nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(path)
        listening.listen()
        yield listening


def test_a_with_block_delivers_what_was_written(path: str, serving: Serve) -> None:
    served = serving()
    sent = [b"%d" % number for number in range(1000)]
    for _ in range(20):
        served.received.clear()
        with Writer(path, linger=DEADLINE) as writer:
            for message in sent:
                writer.write(message)
        assert served.received == sent


def test_what_could_not_be_delivered_is_raised_within_the_time(path: str) -> None:
    def once() -> None:
        with pytest.raises((udsipc.Undelivered, udsipc.Timeout)):
            with Writer(path, linger=0.3, drain_until_deadline=True) as writer:
                writer.write(b"x")

    fastest(once, 0.6)


def test_a_linger_of_zero_gives_up_at_once(path: str) -> None:
    def once() -> None:
        with pytest.raises(udsipc.Error):
            with Writer(path, linger=0) as writer:
                writer.write(b"x")

    fastest(once, 0.1)


def test_another_exception_on_its_way_is_kept_and_what_was_written_is_delivered(path: str, serving: Serve) -> None:
    with pytest.raises(ZeroDivisionError):
        with Writer(path, linger=0.01) as writer:
            writer.write(b"nobody listens")
            raise ZeroDivisionError
    served = serving()
    with pytest.raises(ZeroDivisionError):
        with Writer(path, linger=DEADLINE) as writer:
            writer.write_many([b"x"] * 1000)
            raise ZeroDivisionError
    assert len(served.received) == 1000


def test_what_stop_has_raised_is_not_raised_again(path: str) -> None:
    with Writer(path, linger=DEADLINE) as writer:
        writer.write(b"x")
        with pytest.raises(udsipc.Error):
            writer.stop(0.01)
    assert writer.closed


class Sized:
    def __len__(self) -> int:
        return 1


def test_whatever_has_a_buffer_is_taken(path: str, serving: Serve) -> None:
    served = serving()
    view = memoryview(bytearray(b"abcdefgh")).cast("H")
    grid = memoryview(bytes(range(6))).cast("B", (2, 3))
    messages: list[Any] = [b"bytes", bytearray(b"bytearray"), memoryview(b"a view"), memoryview(b"a.b.c")[::2], b"a\0b", view,
                           array.array("i", [1, 2]), memoryview(bytearray(b"x" * 100_000)), grid, b"", bytearray(),
                           memoryview(b"abc")[::-1]]
    expected = [bytes(message) for message in messages if len(bytes(message))]
    with Writer(path, linger=DEADLINE) as writer:
        for message in messages:
            writer.write(message)
        writer.write_many(messages)
        writer.write_many(messages[:7])  # small ones, gathered
    assert served.received == expected * 2 + expected[:7]


def test_a_message_may_be_changed_after_the_call(path: str, serving: Serve) -> None:
    served = serving()
    buffer = bytearray(b"before")
    with Writer(path, linger=DEADLINE) as writer:
        writer.write(buffer)
        buffer[:] = b"after, and longer"
        writer.write_many([buffer, buffer])
        buffer.clear()  # no view of it is left
    assert served.received == [b"before", b"after, and longer", b"after, and longer"]


def test_what_is_no_buffer_is_refused_with_an_advice(path: str) -> None:
    with Writer(path, linger=DEADLINE) as writer:
        wrong: Any
        for write in (writer.write, lambda message: writer.write_many([b"right", message])):
            with pytest.raises(TypeError, match=r"not str: encode it first, as in text\.encode\(\)"):
                write("text")  # type: ignore[operator]
            for wrong in (5, None, ["x"], Sized()):
                with pytest.raises(TypeError, match=f"bytes, bytearray or memoryview, not {type(wrong).__name__}"):
                    write(wrong)  # type: ignore[operator]
        wrong = "text"
        with pytest.raises(TypeError, match="not str"):
            writer.write_many(wrong)
        wrong = b"bytes"
        with pytest.raises(TypeError, match="not int"):
            writer.write_many(wrong)
        assert writer.metrics().queue_depth == 0


def test_write_many_takes_any_iterable_and_keeps_the_order(path: str, serving: Serve) -> None:
    served = serving()
    messages = [b"%d" % number * (number % 7 + 1) for number in range(20_000)]
    with Writer(path, max_buffered_writes=100) as writer:
        writer.write_many(iter(messages), timeout=DEADLINE)
        writer.write_many([])
        writer.write_many([bytes(9000), b"small", bytes(9000)])
        assert writer.metrics().dropped == 0
    assert served.received == [*messages, bytes(9000), b"small", bytes(9000)]


def test_write_many_accepts_what_comes_before_an_exception(path: str, serving: Serve) -> None:
    def broken(count: int) -> Iterator[bytes]:
        yield from (b"%d" % number for number in range(count))
        raise LookupError

    served = serving()
    with Writer(path, linger=DEADLINE) as writer:
        for count in (0, 3, 1024, 2000):
            with pytest.raises(LookupError):
                writer.write_many(broken(count))
    assert served.received == [b"%d" % number for count in (0, 3, 1024, 2000) for number in range(count)]


def test_write_many_of_what_changes_its_size_meanwhile(path: str, serving: Serve) -> None:
    """Lengths that do not belong to the copied bytes would make C read behind them."""

    class Growing(list):  # type: ignore[type-arg]
        times = 0

        def __iter__(self) -> Iterator[bytes]:
            self.times += 1
            factor = 1 if self.times == 1 else 20
            return (item * factor for item in super(Growing, self).__iter__())

    served = serving()
    with Writer(path, linger=DEADLINE) as writer:
        writer._write_together(Growing([b"one", b"two"]), udsipc._signals.Deadline(DEADLINE))
    assert served.received == [b"one" * 20, b"two" * 20]


@pytest.mark.parametrize("size", [10, 10_000])
def test_write_many_says_how_many_were_accepted(path: str, size: int) -> None:
    with Writer(path, linger=0, max_buffered_writes=1500) as writer:
        with pytest.raises(udsipc.BufferFull) as full:
            writer.write_many((bytes(size) for _ in range(5000)), timeout=0)
        assert full.value.accepted == 1500 == writer.metrics().queue_depth
        with pytest.raises(udsipc.Timeout) as late:
            writer.write_many([bytes(size)], timeout=0.05)
        assert late.value.accepted == 0
        with pytest.raises(udsipc.Undelivered):
            writer.stop(None)
    with Writer(path, linger=0, max_message_size=size) as writer:
        with pytest.raises(udsipc.MessageTooLarge) as large:
            writer.write_many([b"1", b"2", bytes(size + 1), b"3"])
        assert large.value.accepted == 2
        with pytest.raises(udsipc.Error):
            writer.stop(0)


def test_a_full_queue_is_waited_for_and_refusals_are_counted_once(path: str) -> None:
    with Writer(path, linger=0, max_buffered_writes=1) as writer:
        writer.write(b"x")
        with pytest.raises(udsipc.BufferFull) as refused:
            writer.write(b"y", timeout=0)
        assert isinstance(refused.value, BlockingIOError) and refused.value.status == 20
        for message in (b"y", bytearray(b"y")):
            before, started = writer.metrics().dropped, time.monotonic()
            with pytest.raises(udsipc.Timeout):
                writer.write(message, timeout=0.25)
            assert time.monotonic() - started >= 0.25
            assert writer.metrics().dropped == before + 1
        waiting = InBackground(lambda: writer.write(b"z", timeout=None))
        with pytest.raises(udsipc.Error):
            writer.stop(0)
        with pytest.raises(udsipc.Stopped):
            waiting.result()


def test_a_reader_that_makes_room_lets_the_write_go_on(path: str, serving: Serve) -> None:
    with Writer(path, max_buffered_writes=1, linger=DEADLINE) as writer:
        writer.write(b"0")
        waiting = InBackground(lambda: writer.write(b"1", timeout=None))
        served = serving()
        waiting.result()
        writer.flush(DEADLINE)
        assert served.received == [b"0", b"1"]


def test_flush(path: str, listener: socket.socket, serving: Serve) -> None:
    with Writer(path, linger=0) as writer:
        writer.flush(0)
        writer.write(b"x")
        with pytest.raises(udsipc.Timeout):
            writer.flush(0.05)
        wait_until(lambda: writer.metrics().sent == 1)
        writer.stop(0)  # it has been sent, to one who does not acknowledge
        with pytest.raises(udsipc.Stopped):
            writer.flush()


def test_wrong_times_are_refused(path: str) -> None:
    with Writer(path, linger=DEADLINE) as writer:
        for wrong in (-1, float("nan")):
            with pytest.raises(ValueError):
                writer.flush(wrong)
            with pytest.raises(ValueError):
                writer.stop(wrong)
        writer.flush(float("inf"))


def test_close_ends_the_calls_of_other_threads(path: str) -> None:
    writer = Writer(path, linger=0.05)
    writer.write(b"x")
    flushing = InBackground(lambda: writer.flush(60))
    time.sleep(0.05)
    with pytest.raises(udsipc.Error):
        writer.close()
    with pytest.raises(udsipc.Error):
        flushing.result(5)


def test_calls_after_the_end(path: str) -> None:
    writer = Writer(path, linger=DEADLINE)
    writer.close()
    writer.close()
    writer.stop()
    for call in (lambda: writer.write(b"x"), lambda: writer.write_many([b"x"]), writer.flush):
        with pytest.raises(udsipc.Stopped):
            call()
    assert writer.metrics().sent == 0
    assert writer.closed and not writer.is_connected and writer.path == path
    assert repr(writer) == f"<udsipc.Writer {path!r} closed>"


def test_a_forgotten_writer_delivers_and_is_told_of(path: str, serving: Serve) -> None:
    served = serving()
    writer = Writer(path, linger=DEADLINE)
    writer.write_many([b"x"] * 1000)
    with pytest.warns(ResourceWarning, match="unclosed <udsipc"):
        del writer
    assert len(served.received) == 1000


def test_a_forgotten_writer_that_cannot_deliver_says_so(path: str) -> None:
    writer = Writer(path, linger=0.01)
    writer.write(b"x")
    with pytest.warns() as told:
        del writer
    assert [one.category for one in told] == [ResourceWarning, RuntimeWarning]


def test_a_writer_that_its_own_callback_refers_to_is_collected(path: str) -> None:
    def forget() -> None:
        mine: list[Writer] = []
        mine.append(Writer(path, on_error=lambda error: len(mine), linger=0))
        mine[0].close()

    forget()
    gc.collect()
    before = threading.active_count()
    assert not [one for one in gc.get_objects() if isinstance(one, Writer)]
    assert threading.active_count() == before


def test_it_cannot_be_copied(path: str) -> None:
    with Writer(path, linger=DEADLINE) as writer:
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                attempt(writer)


def test_errors_are_reported_with_their_kind(path: str) -> None:
    reported: list[udsipc.Error] = []
    with Writer(path, on_error=reported.append) as writer:
        error = wait_until(lambda: reported and reported[0])
        assert writer.path == path
    assert isinstance(error, udsipc.NotConnected) and isinstance(error, ConnectionError)
    assert error.status == 26 and error.errno == 2 and path in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.status, again.errno) == (type(error), str(error), 26, 2)


def test_what_an_error_handler_raises_goes_to_the_hook(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def on_error(error: udsipc.Error) -> None:
        raise ValueError(f"about: {error}")

    with Writer(path, on_error=on_error):
        wait_until(lambda: told)
    assert told[0].exc_type is ValueError and str(told[0].exc_value).startswith("about: failed to connect")


def test_waiting_inside_a_callback_is_refused(path: str) -> None:
    refused: list[udsipc.Error] = []
    made: list[Writer] = []

    def on_error(_error: udsipc.Error) -> None:
        writer = wait_until(lambda: made)[0]
        for call in (writer.close, writer.stop, writer.flush):
            try:
                call()
            except udsipc.WouldDeadlock as error:
                refused.append(error)

    writer = Writer(path, on_error=on_error)
    made.append(writer)
    wait_until(lambda: len(refused) == 3)
    assert not writer.closed
    writer.close()


def test_wrong_options_are_refused(path: str) -> None:
    options: dict[str, Any]
    for options in ({"max_buffered_writes": 0}, {"max_buffered_writes": 2**32 + 5}, {"max_buffered_bytes": -1},
                    {"write_timeout": 0}, {"acknowledge": 3}, {"max_attempts": 2**40}):
        with pytest.raises(udsipc.InvalidArgument):
            Writer(path, **options)
    for options in ({"unknown": 1}, {"max_buffered_writes": "5"}):
        with pytest.raises(TypeError):
            Writer(path, **options)
    with pytest.raises(ValueError):
        Writer(path, linger=-1)
    with pytest.raises(ValueError):
        Writer(path + "\0hidden")
    with pytest.raises(udsipc.InvalidPath):
        Writer("unix:/x")


def test_threads_may_write_at_the_same_time(path: str, serving: Serve) -> None:
    served = serving()

    def write(thread: int) -> None:
        for number in range(0, 3000, 3):
            writer.write(b"%d %d" % (thread, number))
            writer.write_many([b"%d %d" % (thread, number + 1), bytearray(b"%d %d" % (thread, number + 2))])

    with Writer(path, max_buffered_writes=50) as writer:
        threads = [InBackground(lambda thread=thread: write(thread)) for thread in range(4)]  # type: ignore[misc]
        for thread in threads:
            thread.result()
    for thread in range(4):
        of_this = [message for message in served.received if message.startswith(b"%d " % thread)]
        assert of_this == [b"%d %d" % (thread, number) for number in range(3000)]


def test_memory_does_not_grow_with_the_messages(path: str, serving: Serve) -> None:
    import tracemalloc

    count = [0]

    def on_batch(messages: list[bytes], _connection: udsipc.Connection) -> None:
        count[0] += len(messages)

    serving(on_batch=on_batch)

    def write() -> None:
        for _ in range(3000):
            writer.write(b"x" * 100)
            writer.write(bytearray(100))
        writer.write_many([b"x" * 100] * 50_000)
        writer.flush(DEADLINE)

    with Writer(path, linger=DEADLINE) as writer:
        write()
        tracemalloc.start()
        write()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(4):
            write()
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert after - before < 50_000 and count[0] == 6 * 56_000


def test_the_counters_as_text_are_what_a_parser_reads(path: str, serving: Serve) -> None:
    served = serving()
    labels = {"pipe": 'a "quoted" \\ back\nslash', "host": "é"}
    with Writer(path, max_buffered_writes=1) as writer:
        for _ in range(100):
            writer.write(b"x", timeout=DEADLINE)  # refusals that are tried again are no drops
        writer.flush()
        families = {family.name: family for family in text_string_to_metric_families(writer.metrics_prometheus(labels))}
        metrics = writer.metrics()
    for name, value in vars(metrics).items():
        (sample,) = families[f"udsipc_writer_{name}"].samples
        assert (sample.value, sample.labels) == (value, labels)
        assert families[f"udsipc_writer_{name}"].type == ("gauge" if name.startswith("queue_") else "counter")
    assert families["udsipc_writer_connected"].samples[0].value == 1
    text = served.reader.metrics_prometheus()
    (received,) = [family for family in text_string_to_metric_families(text) if family.name == "udsipc_reader_received"]
    assert received.samples[0].value == 100
    with pytest.raises(udsipc.InvalidArgument, match="labels"):
        writer.metrics_prometheus({"no-name": ""})


def test_a_writer_describes_itself(path: str) -> None:
    with Writer(path, linger=0) as writer:
        assert f"socket_path={path} connected=false" in writer.describe()
