"""Processes: fork, kills, and the interpreter's end in any order."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, Callable

import pytest
from conftest import DEADLINE, Serving, run_script, wait_until

import udsipc
from udsipc import Writer

Serve = Callable[..., Serving]

READER_THAT_IS_KILLED = """
import os, signal, sys, udsipc
def on_batch(messages, connection):
    os.write(1, b"%d\\n" % len(messages))
    signal.pause()
with udsipc.Reader(sys.argv[1], on_batch=on_batch) as reader:
    os.write(1, b"listening\\n")
    reader.serve_forever()
"""


@pytest.mark.parametrize("redeliver", [True, False])
def test_what_a_killed_reader_had_not_handled_comes_again(path: str, serving: Serve, redeliver: bool) -> None:
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(udsipc.__file__))}
    command = [sys.executable, "-c", READER_THAT_IS_KILLED, path]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None and killed.stdout.readline() == b"listening\n"
        with Writer(path, linger=DEADLINE, acknowledge=udsipc.Acknowledge.REQUIRED, redeliver=redeliver) as writer:
            writer.write(b"1")
            assert killed.stdout.readline() == b"1\n"
            writer.write(b"2")
            wait_until(lambda: writer.metrics().sent == 2)
            killed.kill()
            killed.wait()
            served = serving()
            wait_until(lambda: b"2" in served.received)
            if not redeliver:
                with pytest.raises(udsipc.Undelivered):  # tells of a loss, once
                    writer.flush(DEADLINE)
            writer.flush(DEADLINE)
            metrics = writer.metrics()
    assert served.received == ([b"1", b"2"] if redeliver else [b"2"])
    assert (metrics.sent, metrics.acknowledged, metrics.suspected_lost) == ((2, 2, 0) if redeliver else (2, 1, 1))


def test_a_forked_child_leaves_its_parents_handles_in_peace(path: str) -> None:
    script = """
import asyncio, os, sys, udsipc, udsipc.aio
received = []
with udsipc.Reader(sys.argv[1], on_batch=lambda messages, _: received.extend(messages)) as reader:
    with udsipc.Writer(sys.argv[1], on_error=print) as writer, udsipc.Reader(sys.argv[1] + "2") as looping:
        inherited = udsipc.aio.Writer(sys.argv[1])
        for number in range(5):
            child = os.fork()
            if child == 0:
                calls = [lambda: writer.write(b"x"), lambda: writer.write(bytearray(b"x")), lambda: writer.write_many([b"x"]),
                         writer.flush, writer.stop, writer.metrics, reader.dispatch, reader.stop, reader.metrics, looping.read,
                         lambda: asyncio.run(inherited.write(b"x"))]
                for call in calls:
                    try:
                        call()
                        os._exit(3)
                    except udsipc.Forked:
                        pass
                if number == 0:
                    with udsipc.Writer(sys.argv[1], linger=30) as own: own.write(b"child")
                if number == 1:
                    os._exit(0)
                if number == 2:
                    writer.close(); reader.close(); looping.close()
                sys.exit(0)
            if number:
                writer.write(b"%d" % number)
            while len(received) <= number:
                reader.dispatch(1)
            assert os.waitpid(child, 0)[1] == 0, number
        assert received == [b"child", b"1", b"2", b"3", b"4"], received
        assert writer.metrics().connections == 1
        asyncio.run(inherited.close())
"""
    assert run_script(script, path) == ""


AT_EXIT = """
import atexit, sys, threading

def late(path=sys.argv[1]):
    calls = [lambda: writer.write(b"late"), lambda: writer.flush(0.01), reader.dispatch]
    told = []
    for call in calls:
        try:
            call()
            told.append("ok")
        except udsipc.Stopped as error:
            told.append("Stopped")
    for call in (writer.metrics, reader.metrics, writer.close, reader.close, writer.stop, reader.stop):
        call()
    for kind in (udsipc.Writer, udsipc.Reader):
        try:
            kind(path + "2")
        except RuntimeError:
            told.append("refused")
    print(*told, flush=True)

atexit.register(late)  # before the first handle, and so called after the package's own
import udsipc

class Last:
    def __del__(self):
        late()

reader = udsipc.Reader(sys.argv[1], lambda message, connection: None)
writer = udsipc.Writer(sys.argv[1], on_error=lambda error: None, linger=30)
threading.Thread(target=reader.serve_forever, daemon=True).start()
sys.modules["kept"] = Last()  # until the modules are taken apart
if sys.argv[2] == "busy":
    def busy(call):
        try:
            while True:
                call()
        except udsipc.Error:
            pass
    for call in (lambda: writer.write(b"x" * 1000), lambda: writer.flush(1), lambda: writer.write_many([b"x"] * 10)):
        threading.Thread(target=busy, args=(call,), daemon=True).start()
if sys.argv[2] == "failing":
    kept = [udsipc.Writer(sys.argv[1] + "3", on_error=lambda error: str(error), max_backoff=0.001) for _ in range(3)]
"""


@pytest.mark.parametrize("load", ["idle", "busy", "failing"])
def test_calls_at_the_interpreters_exit(path: str, load: str) -> None:
    for _ in range(10):
        told = run_script(AT_EXIT, path, load).splitlines()
        assert set(told) == {"Stopped Stopped Stopped refused refused"}
        assert len(told) >= 1


@pytest.mark.parametrize("kept", ["module", "cycle", "thread", "nothing"])
def test_what_was_written_is_delivered_at_exit(path: str, serving: Serve, kept: str) -> None:
    served = serving()
    script = f"""
import sys, threading, time, udsipc
writer = udsipc.Writer(sys.argv[1], linger=30)
writer.write_many([b"x"] * 5000)
def keep(writer):
    time.sleep(60)
if "{kept}" == "cycle":
    class Cycle: pass
    cycle = Cycle()
    cycle.me, cycle.writer = cycle, writer
    del cycle, writer
elif "{kept}" == "thread":
    threading.Thread(target=keep, args=(writer,), daemon=True).start()
    del writer
elif "{kept}" == "nothing":
    del writer
"""
    assert run_script(script, path) == ""
    wait_until(lambda: len(served.received) == 5000)


def test_a_loss_at_exit_is_told(path: str) -> None:
    script = """
import sys, udsipc
writer = udsipc.Writer(sys.argv[1], linger=0)
writer.write(b"nobody listens")
"""
    told = run_script(script, path)
    assert "RuntimeWarning" in told and "was not closed: timeout" in told


def test_a_thread_that_is_left_when_the_main_thread_has_ended(path: str) -> None:
    """threading waits for it, and the interpreter for threading."""
    script = """
import sys, threading, udsipc
received = []
def work():
    on_batch = lambda messages, _: received.extend(messages)
    with udsipc.Reader(sys.argv[1], on_batch=on_batch) as reader, udsipc.Writer(sys.argv[1]) as writer:
        threading.main_thread().join()
        writer.write_many([b"x"] * 1000)
        while len(received) < 1000:
            reader.dispatch(1)
        threading.Thread(target=writer.stop).start()
        while not writer.closed:
            reader.dispatch(0.01)
threading.Thread(target=work).start()
"""
    assert run_script(script, path) == ""


def test_processes_of_multiprocessing_deliver_at_their_end(path: str, serving: Serve) -> None:
    served = serving()
    script = """
import multiprocessing, sys, udsipc
def work(path):
    global writer
    writer = udsipc.Writer(path, linger=30)
    writer.write_many([b"x"] * 5000)
if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(sys.argv[1],)) for _ in range(3)]
    for process in processes: process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
"""
    assert run_script(script, path) == ""
    wait_until(lambda: len(served.received) == 15_000)


def test_a_killed_writer_leaves_the_reader_running(path: str, serving: Serve) -> None:
    served = serving()
    script = """
import os, signal, sys, udsipc
with udsipc.Writer(sys.argv[1]) as writer:
    writer.write(b"x")
    writer.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    for _ in range(3):
        run_script(script, path, status=-9)
    with Writer(path, linger=DEADLINE) as writer:
        writer.write(b"y")
    assert served.received == [b"x", b"x", b"x", b"y"]


def test_the_reader_is_stopped_before_the_interpreter_ends(path: str) -> None:
    """A callback would be the end of the thread that it comes in, and of what C has below it on the stack."""
    script = """
import sys, threading, time, udsipc
count = 0
def on_message(message, connection):
    global count
    count += 1
reader = udsipc.Reader(sys.argv[1], on_message, linger=0.01)
threading.Thread(target=reader.serve_forever, daemon=True).start()
writer = udsipc.Writer(sys.argv[1], linger=0.01)
def flood():
    try:
        while True:
            writer.write_many([b"x" * 100] * 100)
    except udsipc.Stopped:
        pass
threading.Thread(target=flood, daemon=True).start()
while count < 1000:
    time.sleep(0.001)
"""
    for _ in range(10):
        told: Any = run_script(script, path)
        assert not told or "was not closed" in told
