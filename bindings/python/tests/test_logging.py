"""The handler of the logging module."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any, Callable, Iterator

import pytest
from conftest import DEADLINE, Serving, run_script, wait_until

import udsipc
from udsipc import LoggingHandler

Serve = Callable[..., Serving]


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    made = logging.Logger("test")
    yield made
    for handler in made.handlers:
        handler.close()


def test_records_arrive_as_the_formatter_makes_them(path: str, serving: Serve, logger: logging.Logger) -> None:
    served = serving()
    handler = LoggingHandler(path, logging.INFO, linger=DEADLINE)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.debug("below its level")
    logger.info("grüße %d", 1)
    logger.warning("a half \ud800 character")
    try:
        raise ValueError("of the program")
    except ValueError:
        logger.exception("oh")
    handler.close()
    assert served.received[:2] == ["INFO grüße 1".encode(), b"WARNING a half \\ud800 character"]
    assert served.received[2].endswith(b"ValueError: of the program") and len(served.received) == 3
    assert handler.dropped == 0 and handler.metrics().acknowledged == 3


def test_it_never_blocks_and_counts_what_it_drops(path: str, logger: logging.Logger) -> None:
    handler = LoggingHandler(path, max_buffered_writes=100, linger=0)
    logger.addHandler(handler)
    started = time.monotonic()
    for number in range(1000):
        logger.error("nobody listens, %d", number)
    assert time.monotonic() - started < 5
    assert handler.dropped == 900
    handler.close()
    assert handler.dropped == 1000
    logger.error("after the end")
    assert handler.dropped == 1001
    handler.close()


def test_threads_lose_nothing(path: str, serving: Serve, logger: logging.Logger) -> None:
    served = serving()
    handler = LoggingHandler(path, max_buffered_writes=100_000, linger=DEADLINE)
    logger.addHandler(handler)

    def log() -> None:
        for number in range(2000):
            logger.info("%d", number)

    threads = [threading.Thread(target=log) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handler.close()
    assert len(served.received) == 8000 and handler.dropped == 0


def test_a_failing_formatter_is_handled_as_elsewhere(path: str, logger: logging.Logger, capsys: Any) -> None:
    handler = LoggingHandler(path, linger=0)
    logger.addHandler(handler)
    logger.error("%d", "no number")
    assert "--- Logging error ---" in capsys.readouterr().err
    assert handler.dropped == 0


def test_wrong_arguments_are_refused(path: str) -> None:
    with pytest.raises(udsipc.InvalidPath):
        LoggingHandler("~/log")
    with pytest.raises(TypeError):
        LoggingHandler(path, unknown=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("imports", ["logging, udsipc", "udsipc, logging"])
@pytest.mark.parametrize("ends", ["", "sys.exit(0)", "threading.Thread(target=late).start()"])
def test_it_drains_at_exit(path: str, serving: Serve, imports: str, ends: str) -> None:
    served = serving()
    script = f"""
import atexit, sys, threading
atexit.register(lambda: logging.error("the very last"))  # after the handler's end: it is dropped
import {imports.split(", ")[0]}
atexit.register(lambda: logging.error("between"))
import {imports.split(", ")[1]}
def late():
    threading.main_thread().join()
    logging.error("late")
logging.basicConfig(handlers=[udsipc.LoggingHandler(sys.argv[1], linger=30)], level=0, format="%(message)s")
for number in range(2000):
    logging.info(number)
{ends}
"""
    assert run_script(script, path) == ""
    more = [b"late"] * ("late" in ends) + [b"between"]
    wait_until(lambda: len(served.received) >= 2000 + len(more))
    assert served.received == [b"%d" % number for number in range(2000)] + more


def test_each_forked_child_logs_by_itself(path: str, serving: Serve) -> None:
    served = serving()
    script = """
import logging, multiprocessing, os, sys, udsipc
handler = udsipc.LoggingHandler(sys.argv[1], linger=30)
logging.basicConfig(handlers=[handler], level=0, format="%(message)s")
def work(name):
    for number in range(100):
        logging.info("%s %d", name, number)
    assert handler.dropped == 0
logging.info("before")
children = [os.fork() for _ in range(1)]
if children == [0]:
    work("fork")
    sys.exit(0)
assert os.waitpid(children[0], 0)[1] == 0
context = multiprocessing.get_context("fork")
processes = [context.Process(target=work, args=(f"process{number}",)) for number in range(3)]
for process in processes: process.start()
for process in processes:
    process.join()
    assert process.exitcode == 0
work("parent")
"""
    assert run_script(script, path) == ""
    wait_until(lambda: len(served.received) == 501)
    for name in ("fork", "process0", "process1", "process2", "parent"):
        own = [one for one in served.received if one.startswith(name.encode() + b" ")]
        assert own == [b"%s %d" % (name.encode(), number) for number in range(100)]
    assert os.getpid()
