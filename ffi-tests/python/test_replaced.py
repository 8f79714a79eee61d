"""A reader that is frozen keeps its writers, until another one has taken its path."""

import os
import signal
import time
import unittest

from stream import number_of, numbered
from support import FrameSplitter, TestCase, elapse, frame, receive_exactly, wait_until
from udsipc_capi import ERR_BACKPRESSURE, OK

DRIVERS = ("threads", "host")
WRITE_TIMEOUT_MS = 200


class FrozenReader(TestCase):
    COUNT = 100
    LENGTH = 100_000

    def stalled_writer(self, driver, listener, write_timeout_ms=WRITE_TIMEOUT_MS):
        """A writer whose reader takes nothing, and whose messages do not fit into the kernel's buffer."""
        writer = self.driven(driver, self.writer(listener.getsockname(), write_timeout_ms=write_timeout_ms))
        frozen = self.accept(listener)
        for number in range(self.COUNT):
            self.assert_status(writer.write(numbered(number, self.LENGTH)), OK)
        wait_until(lambda: ERR_BACKPRESSURE in writer.statuses())
        self.assertTrue(writer.is_connected())
        return writer, frozen

    def receive_up_to_the_last(self, connection):
        splitter, received = FrameSplitter(), []
        while not received or received[-1] != self.COUNT - 1:
            data = connection.recv(1 << 20)
            self.assertTrue(data, f"the connection ended after {received[-3:]}")
            received += map(number_of, splitter.feed(data))
        return received

    def test_it_is_left_for_the_one_that_has_taken_its_path(self):
        for driver in DRIVERS:
            with self.subTest(driver):
                listener = self.listener(self.path + driver)
                writer, _frozen = self.stalled_writer(driver, listener)
                os.unlink(listener.getsockname())
                successor = self.listener(self.path + driver)
                received = self.receive_up_to_the_last(self.accept(successor, timeout=5))
                wait_until(lambda: writer.metrics().queue_depth == 0)
                metrics = writer.metrics()
                self.assertEqual(received, list(range(received[0], self.COUNT)), "in order, whole, and nothing twice")
                self.assertEqual((metrics.sent, metrics.abandoned, metrics.connections), (self.COUNT, 0, 2))
                self.assertGreater(received[0], 0, "the first one is in the frozen reader's buffer")
                self.assertGreaterEqual(metrics.suspected_lost, received[0])
                self.assertLessEqual(metrics.suspected_lost, metrics.sent)

    def test_the_successor_may_come_before_the_writer_notices(self):
        """Frozen and replaced within `write_timeout`: the writer moves over when that has passed, and not before."""
        listener = self.listener()
        writer = self.writer(start=True, write_timeout_ms=600)
        self.accept(listener)
        wait_until(writer.is_connected)
        os.unlink(self.path)
        successor = self.listener()
        started = time.monotonic()
        for number in range(self.COUNT):
            self.assert_status(writer.write(numbered(number, self.LENGTH)), OK)
        connection = self.accept(successor, timeout=5)
        self.assertGreater(time.monotonic() - started, 0.55, "a reader that is only slow keeps its writers")
        self.receive_up_to_the_last(connection)

    def test_a_slow_reader_whose_path_has_been_taken_keeps_its_connection(self):
        """It moves: to leave it would lose what it is going to read."""
        listener = self.listener()
        writer, slow = self.stalled_writer("threads", listener, write_timeout_ms=1_000)
        splitter, received = FrameSplitter(), 0
        receive_some = lambda: len(splitter.feed(receive_exactly(slow, self.LENGTH // 2)))  # noqa: E731
        while received < 3:
            received += receive_some()
        os.unlink(self.path)
        successor = self.listener()
        while received < self.COUNT - 20:
            received += receive_some()
            time.sleep(0.02)  # a fiftieth of the write timeout; all of them together take three times as long
        self.assertEqual(writer.metrics().connections, 1)
        successor.settimeout(0)
        self.assertRaises(BlockingIOError, successor.accept)

    def test_a_path_that_nobody_has_taken_is_no_reason_to_leave(self):
        """Its file is gone, and it may yet go on: order and partial frame are kept."""
        for driver in DRIVERS:
            with self.subTest(driver):
                listener = self.listener(self.path + driver)
                writer, frozen = self.stalled_writer(driver, listener)
                os.unlink(listener.getsockname())
                elapse(5 * WRITE_TIMEOUT_MS / 1000)
                self.assertTrue(writer.is_connected())
                expected = b"".join(frame(numbered(number, self.LENGTH)) for number in range(self.COUNT))
                self.assertEqual(receive_exactly(frozen, len(expected)), expected)
                wait_until(lambda: writer.metrics().queue_depth == 0)
                self.assertEqual((writer.metrics().connections, writer.metrics().suspected_lost), (1, 0))

    def write_until_nothing_moves(self, writer, number):
        """Numbered messages until the queue is full and the kernel takes nothing more; returns the next number."""
        sent = None
        while sent != writer.metrics().sent:
            sent = writer.metrics().sent
            while writer.write(numbered(number, 1000)) == OK:
                number += 1
            elapse(0.05)
        return number

    def test_with_a_reader_that_is_stopped_by_a_signal(self):
        child = self.child()
        child.run(f"reader = Reader({self.path!r}, start=True)")
        writer = self.writer(start=True, write_timeout_ms=WRITE_TIMEOUT_MS, max_buffered_writes=1000)
        for number in range(10):
            self.assert_status(writer.write(numbered(number, 1000)), OK)
        wait_until(lambda: child.run("len(reader.messages)") == 10)
        os.kill(child.pid, signal.SIGSTOP)
        accepted = self.write_until_nothing_moves(writer, 10)
        os.unlink(self.path)
        successor = self.reader(start=True)
        wait_until(lambda: successor.messages, deadline=5, what=writer.metrics)
        wait_until(lambda: writer.metrics().queue_depth == 0)
        wait_until(lambda: number_of(successor.messages[-1]) == accepted - 1)
        numbers = [number_of(message) for message in successor.messages]
        self.assertEqual(numbers, list(range(numbers[0], accepted)))
        # It may have handled some before the signal stopped all of its threads.
        metrics = writer.metrics()
        self.assertGreaterEqual(metrics.acknowledged + metrics.suspected_lost, numbers[0])
        self.assert_status(writer.stop(5_000), OK)


if __name__ == "__main__":
    unittest.main()
