"""Readers that are killed: the writer recovers by itself, repeats nothing, and counts what may be lost."""

import os
import signal
import struct
import subprocess
import time
import unittest

from stream import numbered
from support import DEADLINE, DEADLINE_MS, InBackground, TestCase, connect, fastest, frame, spawn, wait_until
from udsipc_capi import OK


class KilledReader(TestCase):
    def setUp(self):
        super().setUp()
        self.logs = []

    def start_reader(self, delay=0.0):
        log = f"{self.directory}/log{len(self.logs)}"
        self.logs.append(log)
        process = spawn("number_reader.py", self.path, log, delay, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.addCleanup(process.stdin.close)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        return process, log

    def delivered(self, log=None):
        """The runs of numbers that callbacks were given, in order."""
        runs = []
        for name in [log] if log else self.logs:
            if os.path.exists(name):
                with open(name, "rb") as file:
                    runs += struct.iter_unpack("<QQ", file.read())
        return runs

    def count(self, log=None):
        return sum(last - first + 1 for first, last in self.delivered(log))

    def kill(self, process):
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    def finish(self, writer, process, accepted):
        """Ends everything in order; returns how many messages are missing, after the checks that hold in any case."""
        # A flush that meets the news of a loss says so; the next one has nothing to complain of.
        wait_until(lambda: writer.flush(DEADLINE_MS) == OK)
        self.assert_status(writer.stop(DEADLINE_MS), OK)
        process.stdin.close()
        self.assertEqual(process.wait(DEADLINE), 0)
        runs = self.delivered()
        unique = expected = 0
        for first, last in runs:
            self.assertGreaterEqual(first, expected - 256, "in order, and twice at most the batch in the callback")
            unique += max(0, last + 1 - max(first, expected))
            expected = max(expected, last + 1)
        metrics = writer.metrics()
        self.assertEqual(metrics.sent + metrics.abandoned, accepted)
        self.assertEqual(metrics.queue_depth, 0)
        missing = accepted - metrics.abandoned - unique
        self.assertGreaterEqual(missing, 0)
        return missing, metrics

    def test_repeatedly_under_load(self):
        writer = self.writer(start=True, max_backoff_ms=20)
        state = {"accepted": 0, "end": False}

        def produce():
            while not state["end"]:
                if writer.write_timeout(numbered(state["accepted"], 100), 100) == OK:
                    state["accepted"] += 1

        producer = InBackground(produce)
        for _ in range(10):
            process, log = self.start_reader()
            wait_until(lambda: self.count(log) > 2000)
            self.kill(process)
        process, log = self.start_reader()
        wait_until(lambda: self.count(log) > 2000)
        state["end"] = True
        producer.result()
        missing, metrics = self.finish(writer, process, state["accepted"])
        self.assertEqual(metrics.abandoned, 0)
        self.assertGreaterEqual(metrics.connections, 11)
        self.assertLessEqual(missing, metrics.suspected_lost)

    def test_slow_reader_with_more_unread_than_its_buffers_hold(self):
        self.slow_reader_killed(messages=3000, length=1000)

    def test_slow_reader_with_a_burst_that_it_has_read_and_not_handled(self):
        self.slow_reader_killed(messages=1000, length=100)

    def slow_reader_killed(self, messages, length):
        writer = self.writer(start=True, max_backoff_ms=20, write_buffer_size=1 << 20, max_buffered_writes=1 << 20)
        accepted = 0
        for _ in range(3):
            process, log = self.start_reader(delay=0.005)
            for _ in range(messages):
                self.assert_status(writer.write(numbered(accepted, length)), OK)
                accepted += 1
            wait_until(lambda: self.count(log) >= 20)
            self.kill(process)
        process, log = self.start_reader()
        for _ in range(10):
            self.assert_status(writer.write(numbered(accepted, length)), OK)
            accepted += 1
        missing, metrics = self.finish(writer, process, accepted)
        self.assertLessEqual(missing, metrics.suspected_lost)
        self.assertLessEqual(metrics.suspected_lost, metrics.sent)

    def test_a_writer_that_is_killed_leaves_whole_messages_only(self):
        """Its last frame may be cut: one error, no partial message, and other writers go on."""
        reader = self.reader(start=True)
        bystander = self.writer(start=True)
        for _ in range(5):
            child = spawn("number_writer.py", self.path, 0, 50_000, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            begun = len(reader.messages)
            wait_until(lambda: len(reader.messages) > begun + 20)
            self.kill(child)
            child.stdin.close()
            child.stdout.close()
        bystander.write(b"alive")
        wait_until(lambda: b"alive" in reader.messages)
        self.assertEqual({len(message) for message in reader.messages}, {50_000, 5})
        self.assertLessEqual(reader.metrics().errors, 5)

    def test_recovery_takes_milliseconds(self):
        """The first message after a restart of the reader does not wait for a second of backoff."""
        writer = self.writer(start=True)

        def once():
            with_reader = self.reader(start=True)
            writer.write(b"x")
            wait_until(lambda: with_reader.messages)
            with_reader.free()
            failures = writer.metrics().connect_failures
            wait_until(lambda: writer.metrics().connect_failures > failures)
            again = self.reader(start=True)
            started = time.monotonic()
            writer.write(b"y")
            wait_until(lambda: again.messages)
            again.free()
            return time.monotonic() - started

        fastest(once, 0.2)

    def test_a_stopped_process_loses_nothing(self):
        """SIGSTOP past the inactivity timeout, data arriving meanwhile: on SIGCONT both are due, and the data wins."""
        child = self.child()
        child.run(f"reader = Reader({self.path!r}, start=True, inactivity_timeout_ms=500)")
        accepted = 0
        client = connect(self.path)
        self.addCleanup(client.close)
        for _ in range(5):
            client.sendall(frame(numbered(accepted)))
            accepted += 1
            wait_until(lambda: child.run("len(reader.messages)") == accepted)
            os.kill(child.pid, signal.SIGSTOP)
            frozen = time.monotonic()
            wait_until(lambda: time.monotonic() - frozen > 0.7)
            client.sendall(frame(numbered(accepted)))
            accepted += 1
            os.kill(child.pid, signal.SIGCONT)
            wait_until(lambda: child.run("len(reader.messages)") == accepted)
            client.close()
            client = connect(self.path)
        client.close()
        self.assertEqual(child.run("reader.metrics().errors"), 0)


class RestartedReader(TestCase):
    def test_a_running_writer_finds_the_next_reader(self):
        writer = self.writer(start=True)
        for round_number in range(5):
            reader = self.reader(start=True)
            message = b"round %d" % round_number
            self.assert_status(writer.write(message), OK)
            wait_until(lambda: reader.messages == [message])
            self.assert_status(reader.stop(10_000), OK)
            reader.free()
        wait_until(lambda: writer.metrics().sent == 5)
        self.assertEqual(writer.metrics().suspected_lost, 0)


if __name__ == "__main__":
    unittest.main()
