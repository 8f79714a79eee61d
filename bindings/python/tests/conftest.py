"""What the tests share: a path, waiting for a condition, programs of their own, a feeding process."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Callable, Iterator, Optional

import pytest
import uvloop

import udsipc

DEADLINE = 30.0


def wait_until(condition: Callable[[], Any], deadline: float = DEADLINE) -> Any:
    """Waits for `condition()` to be true and returns its value; fails after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {deadline} s: {condition}"
        time.sleep(0.002)
    return value


def fastest(attempt: Callable[[], Optional[float]], limit: float, attempts: int = 8) -> float:
    """Runs `attempt()` until one run takes less than `limit` seconds. A busy machine can delay any single run; a library that
    breaks the promise is late every time."""
    best = float("inf")
    for _ in range(attempts):
        started = time.monotonic()
        measured = attempt()
        best = min(best, time.monotonic() - started if measured is None else measured)
        if best < limit:
            return best
    raise AssertionError(f"promised within {limit} s, the best of {attempts} runs took {best:.3f} s")


class InBackground:
    """Runs a call in a thread, and keeps what it returned or raised."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call, self._value, self._error = call, None, None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:
            self._error: Optional[BaseException] = error

    def running(self) -> bool:
        return self._thread.is_alive()

    def result(self, timeout: float = DEADLINE) -> Any:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"the call did not return within {timeout} s"
        if self._error is not None:
            raise self._error
        return self._value


class Serving:
    """A reader that a thread dispatches until the test is over."""

    def __init__(self, path: str, **arguments: Any) -> None:
        self.received: list[bytes] = []
        arguments.setdefault("on_batch", lambda messages, connection: self.received.extend(messages))
        self.reader = udsipc.Reader(path, **arguments)
        self._thread = InBackground(self.reader.serve_forever)

    def end(self) -> None:
        if not self.reader.closed:
            self.reader.stop()
        self._thread.result()


def run_script(script: str, *arguments: str, status: int = 0) -> str:
    """Runs a program of its own, and returns what it has printed."""
    # From 3.12 on Python warns of every fork in a process with threads, which those of a writer are.
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1", "PYTHONWARNINGS": "ignore::DeprecationWarning",
                   "PYTHONPATH": os.path.dirname(os.path.dirname(udsipc.__file__))}
    done = subprocess.run([sys.executable, "-c", script, *arguments], env=environment, timeout=2 * DEADLINE,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == status, done.stdout
    return done.stdout


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A line as cargo prints it, for those who count tests."""
    counts = {kind: len(terminalreporter.stats.get(kind, [])) for kind in ("passed", "failed", "error", "skipped")}
    failed = counts["failed"] + counts["error"]
    verdict = "FAILED" if failed else "ok"
    terminalreporter.write_line(
        f"test result: {verdict}. {counts['passed']} passed; {failed} failed; {counts['skipped']} ignored"
    )


@pytest.fixture
def path() -> Iterator[str]:
    """Short, since a path of a socket has 107 bytes."""
    folder = tempfile.mkdtemp(prefix="udsipc-")
    yield os.path.join(folder, "s")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def serving(path: str) -> Iterator[Callable[..., Serving]]:
    served: list[Serving] = []

    def serve(**arguments: Any) -> Serving:
        served.append(Serving(path, **arguments))
        return served[-1]

    yield serve
    for one in served:
        one.end()


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """A test that hangs says where, in every thread. A shell that starts the tests in the background ignores SIGINT."""
    faulthandler.dump_traceback_later(60, exit=True)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    faulthandler.cancel_dump_traceback_later()


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Each test of asyncio runs in both loops."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
