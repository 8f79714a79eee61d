"""A guest in a Python process: multiprocessing that forks, crashes in callbacks, signals, and the interpreter's end."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import unittest

from support import DEADLINE, DEADLINE_MS, HERE, TestCase, socket_descriptors, wait_until
from udsipc_capi import ERR_FORKED, ERR_UNDELIVERED, OK, Reader, Writer

FORK = multiprocessing.get_context("fork")


class GuestTestCase(TestCase):
    def run_script(self, script, *arguments):
        environment = {**os.environ, "PYTHONPATH": HERE}
        return subprocess.run([sys.executable, "-c", script, self.path, *map(str, arguments)], env=environment,
                              timeout=DEADLINE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def assert_quiet_success(self, done):
        self.assertEqual((done.returncode, done.stdout), (0, ""))


# What the workers of multiprocessing inherit.
inherited = []


def write_to_parent(number):
    """A writer of the worker's own, and the answer of the inherited one."""
    path, writer = inherited
    status = writer.write(b"not through the parent's")
    with Writer(path, start=True) as own:
        assert own.write(b"%d" % number) == OK
        assert own.flush(DEADLINE_MS) == OK
        assert own.stop(DEADLINE_MS) == OK
    return status


def read_in_worker(number):
    """Both ends in the worker, and descriptors of nobody else."""
    sockets = len(socket_descriptors())
    path = f"{inherited[0]}-{os.getpid()}"
    with Reader(path, start=True) as reader, Writer(path, start=True) as writer:
        for _ in range(10):
            assert writer.write(b"%d" % number) == OK
        assert writer.stop(DEADLINE_MS) == OK
        assert reader.stop(DEADLINE_MS) == OK
        assert reader.messages == [b"%d" % number] * 10
    assert len(socket_descriptors()) == sockets
    return sockets


class Multiprocessing(GuestTestCase):
    def setUp(self):
        super().setUp()
        self.sockets_before = len(socket_descriptors())
        self.running_reader = self.reader(start=True)
        self.running_writer = self.writer(start=True)
        self.assertEqual(self.running_writer.write(b"first"), OK)
        self.assertEqual(self.running_writer.flush(DEADLINE_MS), OK)
        inherited[:] = [self.path, self.running_writer]
        self.addCleanup(inherited.clear)

    def assert_undisturbed(self, received):
        self.assertEqual(self.running_writer.write(b"last"), OK)
        self.assertEqual(self.running_writer.stop(DEADLINE_MS), OK)
        self.assertEqual(self.running_writer.metrics().connections, 1)
        wait_until(lambda: len(self.running_reader.messages) == received + 2)
        self.assertEqual(self.running_reader.messages[-1], b"last")

    def test_workers_write_to_their_parents_reader(self):
        with FORK.Pool(4) as pool:
            statuses = pool.map(write_to_parent, range(200), chunksize=5)
        self.assertEqual(set(statuses), {ERR_FORKED})
        wait_until(lambda: len(self.running_reader.messages) == 201)
        self.assertEqual(sorted(map(int, self.running_reader.messages[1:])), list(range(200)))
        self.assert_undisturbed(200)

    def test_workers_that_come_and_go_have_handles_of_their_own(self):
        with FORK.Pool(2, maxtasksperchild=1) as pool:
            sockets = pool.map(read_in_worker, range(40), chunksize=1)
        # multiprocessing has none of its own there; those of the parent's handles are closed.
        self.assertLessEqual(max(sockets), self.sockets_before)
        self.assert_undisturbed(0)

    def test_a_worker_that_is_killed_disturbs_nobody(self):
        for _ in range(5):
            worker = FORK.Process(target=time.sleep, args=(DEADLINE,))
            worker.start()
            worker.kill()
            worker.join()
        self.assert_undisturbed(0)

    def test_programs_with_a_preexec_function_and_open_descriptors(self):
        """preexec_fn makes subprocess fork; close_fds=False leaves all that is not close-on-exec."""
        for preexec_fn in (None, os.setsid):
            done = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, preexec_fn=preexec_fn, text=True,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
            ours = set(socket_descriptors())
            self.assertFalse([name for name in ours if name in done.stdout], done.stdout)
        self.assert_undisturbed(0)


CRASH = """
import ctypes, faulthandler, sys, time
from udsipc_capi import Reader, Writer
faulthandler.enable()

def crash_here(*_):
    ctypes.string_at(0)

kind = sys.argv[2]
if kind == "error":
    Writer(sys.argv[1], on_error=crash_here, start=True)
else:
    reader = Reader(sys.argv[1], on_message=crash_here, start=kind == "message")
    writer = Writer(sys.argv[1], start=True)
    writer.write(b"x")
    while kind == "dispatch":
        reader.dispatch(1000)
time.sleep(60)
"""


class Faults(GuestTestCase):
    def test_faulthandler_tells_where_a_callback_crashed(self):
        for kind in ("message", "error", "dispatch"):
            with self.subTest(kind):
                done = self.run_script(CRASH, kind)
                self.assertEqual(done.returncode, -signal.SIGSEGV, done.stdout)
                self.assertIn("Fatal Python error: Segmentation fault", done.stdout)
                self.assertIn("in crash_here", done.stdout)


class Signals(GuestTestCase):
    def test_they_reach_the_main_thread_whatever_the_library_does(self):
        reader = self.reader(start=True)
        writer = self.writer(start=True)
        arrived = []
        self.addCleanup(signal.signal, signal.SIGALRM, signal.signal(signal.SIGALRM, lambda *_: arrived.append(1)))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        self.addCleanup(signal.setitimer, signal.ITIMER_REAL, 0)
        written = 0
        end = time.monotonic() + DEADLINE
        while len(arrived) < 100 and time.monotonic() < end:
            self.assertEqual(writer.write_timeout(b"x" * 100, DEADLINE_MS), OK)
            written += 1
        self.assertEqual(writer.flush(DEADLINE_MS), OK)
        self.assertGreaterEqual(len(arrived), 100)
        signal.setitimer(signal.ITIMER_REAL, 0)
        wait_until(lambda: len(reader.messages) == written)


EXIT = """
import os, sys, threading, time
from udsipc_capi import Reader, Writer

received = 0
def on_message(message, connection):
    global received
    received += 1

reader = Reader(sys.argv[1], on_message=on_message, start=True)
writers = [Writer(sys.argv[1], start=True, linger_ms=50) for _ in range(3)]
failing = Writer(sys.argv[1] + "-nobody", start=True, max_backoff_ms=1, on_error=lambda record: None)
floods = []
for writer in writers:
    def flood(writer=writer):
        while writer.write(b"x" * 100) in (0, 20):
            pass
    floods.append(threading.Thread(target=flood, daemon=True))
    floods[-1].start()
while received < 1000:
    time.sleep(0.001)
for writer in writers:
    writer.stop(0)  # ends its flood
for flood in floods:
    flood.join(30)  # free must not meet a call of another thread
sys.exit(0)
"""


class InterpretersEnd(GuestTestCase):
    def test_exit_while_callbacks_run(self):
        for _ in range(15):
            self.assert_quiet_success(self.run_script(EXIT))


class Scope(GuestTestCase):
    def test_linger_is_the_time_of_free(self):
        with Writer(self.path, start=True, linger_ms=0) as writer:
            self.assertEqual(writer.write(b"nobody listens"), OK)
        self.assertEqual(writer.contexts()[-1], "write failure during drain")
        self.assertEqual(writer.statuses()[-1], ERR_UNDELIVERED)


if __name__ == "__main__":
    unittest.main()
