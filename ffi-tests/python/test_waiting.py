"""Calls that wait, beside each other and beside a stop: timed writes, flush and stop, whoever drives the writer.

In a host-driven writer each of them may drive it, and an event of its descriptor is seen by one of them only.
"""

import threading
import time
import unittest

from stream import number_of, numbered
from support import (
    DEADLINE_MS, FrameSplitter, InBackground, TestCase, elapse, fastest, frame, receive_all, receive_exactly,
    wait_until,
)
from udsipc_capi import ERR_STOPPED, ERR_TIMEOUT, ERR_UNDELIVERED, FOREVER, OK

DRIVERS = ("threads", "host")


class Reader(threading.Thread):
    """A raw peer that takes what comes at its own speed, in a thread, and keeps the numbers."""

    def __init__(self, connection, pause=0.0):
        super().__init__(daemon=True)
        self.numbers = []
        self._connection, self._pause = connection, pause
        self.start()

    def run(self):
        splitter = FrameSplitter()
        while data := self._connection.recv(1 << 16):
            self.numbers += map(number_of, splitter.feed(data))
            time.sleep(self._pause)


class StolenEvents(TestCase):
    """Several threads wait in one host-driven writer, and there is room again after a moment."""

    def worst_write(self, timeout_ms, writers_threads=4, messages=40):
        """The longest write of several threads through a queue of one message, to a reader that never rests long."""
        path = f"{self.directory}/{time.monotonic_ns()}"
        listener = self.listener(path)
        writer = self.writer(path, max_buffered_writes=1, write_timeout_ms=60_000)
        self.assert_status(writer.dispatch(0), OK)
        peer = Reader(self.accept(listener), pause=0.001)
        worst = [0.0] * writers_threads

        def produce(slot):
            for number in range(messages):
                started = time.monotonic()
                self.assert_status(writer.write_timeout(numbered(number, 100_000), timeout_ms), OK)
                worst[slot] = max(worst[slot], time.monotonic() - started)

        producers = [InBackground(lambda slot=slot: produce(slot)) for slot in range(writers_threads)]
        for producer in producers:
            producer.result(timeout=8)
        self.assert_status(writer.flush(5_000), OK)
        wait_until(lambda: len(peer.numbers) == writers_threads * messages)
        self.assert_status(writer.stop(1_000), OK)
        return max(worst)

    def test_a_write_never_waits_its_time_although_there_is_room(self):
        """All 160 messages are through in a fraction of a second, so no single one takes a second."""
        fastest(lambda: self.worst_write(4_000), 1.0)

    def test_a_write_without_a_time_limit_is_not_forgotten(self):
        for _ in range(3):
            self.worst_write(FOREVER)

    def room_after(self, thief):
        """A write waits in a full queue while `thief(writer)` may take the event that says that there is room."""
        path = f"{self.directory}/{time.monotonic_ns()}"
        listener = self.listener(path)
        writer = self.writer(path, max_buffered_writes=1, write_timeout_ms=60_000)
        writer.dispatch(0)
        peer = self.accept(listener)
        self.assert_status(writer.write(bytes(2 << 20)), OK)
        writer.dispatch(0)
        waiting = [InBackground(lambda: writer.write_timeout(b"x", 5_000)), InBackground(lambda: thief(writer))]
        elapse(0.1)
        self.assertTrue(waiting[0].running())
        started = time.monotonic()
        receive_exactly(peer, (2 << 20) + 4)
        self.assert_status(waiting[0].result(), OK)
        taken = time.monotonic() - started
        waiting[1].result()
        self.assert_status(writer.stop(1_000), OK)
        return taken

    def test_a_dispatch_beside_a_waiting_write(self):
        fastest(lambda: max(self.room_after(lambda writer: writer.dispatch(1_000)) for _ in range(3)), 0.5)

    def test_a_flush_beside_a_waiting_write(self):
        fastest(lambda: max(self.room_after(lambda writer: writer.flush(1_000)) for _ in range(3)), 0.5)

    def test_the_queue_is_emptied_by_a_dispatch_that_ended_before(self):
        """Nothing is left to happen in the writer when the write begins to wait: it must look by itself."""
        listener = self.listener()
        writer = self.writer(max_buffered_writes=1, write_timeout_ms=60_000)
        writer.dispatch(0)
        Reader(self.accept(listener))
        ended = threading.Event()

        def dispatch_without_end():
            while not ended.is_set():
                writer.dispatch(0)

        loop = InBackground(dispatch_without_end)
        worst, end, number = 0.0, time.monotonic() + 3, 0
        while time.monotonic() < end:
            started = time.monotonic()
            self.assert_status(writer.write_timeout(numbered(number), 3_000), OK)
            worst = max(worst, time.monotonic() - started)
            number += 1
        ended.set()
        loop.result()
        self.assert_status(writer.stop(1_000), OK)
        self.assertLess(worst, 2.0, f"the longest of {number} writes, none of which may wait its time")


class BesideAStop(TestCase):
    """A reader that takes nothing, and a stop that has time: nobody else has to wait for that time."""

    def stuck_writer(self, driver, **options):
        path = f"{self.directory}/{time.monotonic_ns()}"
        listener = self.listener(path)
        writer = self.driven(driver, self.writer(path, max_buffered_writes=2, **options))
        peer = self.accept(listener)
        for _ in range(2):
            self.assert_status(writer.write_timeout(bytes(2 << 20), 5_000), OK)
        return writer, peer

    def until_it_hears_of_a_stop(self, driver, timeout_ms):
        writer, _peer = self.stuck_writer(driver)
        waiting = InBackground(lambda: writer.write_timeout(b"x", timeout_ms))
        elapse(0.1)
        self.assertTrue(waiting.running())
        stopping = InBackground(lambda: writer.stop(1_500))
        started = time.monotonic()
        self.assert_status(waiting.result(), ERR_STOPPED)
        taken = time.monotonic() - started
        self.assert_status(stopping.result(), ERR_TIMEOUT)
        return taken

    def test_a_waiting_write_hears_of_it_at_once(self):
        for driver in DRIVERS:
            for timeout_ms in (20_000, FOREVER):
                with self.subTest(f"{driver}, {timeout_ms} ms"):
                    fastest(lambda: self.until_it_hears_of_a_stop(driver, timeout_ms), 0.3)

    def test_many_waiting_writes_hear_of_it_at_once(self):
        for driver in DRIVERS:
            with self.subTest(driver):
                writer, _peer = self.stuck_writer(driver)
                waiting = [InBackground(lambda: writer.write_timeout(b"x", 20_000)) for _ in range(5)]
                elapse(0.1)
                stopping = InBackground(lambda: writer.stop(1_500))
                self.assertEqual([one.result(timeout=1.2) for one in waiting], [ERR_STOPPED] * 5)
                self.assert_status(stopping.result(), ERR_TIMEOUT)

    def test_a_waiting_flush_ends_with_the_stop(self):
        for driver in DRIVERS:
            with self.subTest(driver):
                writer, _peer = self.stuck_writer(driver)
                flushing = InBackground(lambda: writer.flush(FOREVER))
                elapse(0.1)
                self.assert_status(writer.stop(300), ERR_TIMEOUT)
                self.assertIn(flushing.result(timeout=2), (ERR_UNDELIVERED, ERR_STOPPED))

    def test_a_waiting_flush_is_served_by_the_drain_of_a_stop(self):
        for driver in DRIVERS:
            with self.subTest(driver):
                writer, peer = self.stuck_writer(driver)
                flushing = InBackground(lambda: writer.flush(DEADLINE_MS))
                stopping = InBackground(lambda: writer.stop(DEADLINE_MS))
                elapse(0.1)
                self.assertEqual(len(receive_all(peer)), 2 * len(frame(bytes(2 << 20))))
                self.assert_status(stopping.result(), OK)
                # Everything has been read; a flush that looks only after the end may have nobody left to ask.
                self.assertIn(flushing.result(timeout=1), (OK, ERR_STOPPED))

    def test_a_dispatch_that_waits_does_not_keep_a_stop_from_its_work(self):
        """The dispatch takes the events, the stop waits: both drain."""
        writer, peer = self.stuck_writer("host")
        dispatching = InBackground(lambda: [writer.dispatch(5_000) for _ in range(50)])
        elapse(0.05)
        stopping = InBackground(lambda: writer.stop(10_000))
        elapse(0.05)
        started = time.monotonic()
        self.assertEqual(len(receive_all(peer)), 2 * len(frame(bytes(2 << 20))))
        self.assert_status(stopping.result(), OK)
        self.assertLess(time.monotonic() - started, 3.0)
        dispatching.result(timeout=6)


class FlushLooksAtTheReader(TestCase):
    """flush says OK when the reader's process has read everything, and never when it closed over it."""

    def test_a_reader_that_closes_over_unread_messages_while_flush_waits(self):
        for driver in DRIVERS:
            with self.subTest(driver):
                listener = self.listener(self.path + driver)
                writer = self.driven(driver, self.writer(self.path + driver))
                connection = self.accept(listener)
                for number in range(10):
                    self.assert_status(writer.write(numbered(number)), OK)
                wait_until(lambda: writer.metrics().sent == 10)
                flushing = InBackground(lambda: writer.flush(5_000))
                elapse(0.05)
                self.assertTrue(flushing.running())
                connection.close()
                self.assert_status(flushing.result(timeout=2), ERR_UNDELIVERED)
                self.assertEqual(writer.metrics().suspected_lost, 10)

    def test_a_reader_that_never_reads_never_makes_it_ok(self):
        """Connections that are closed a moment after they were made, over whatever came by then."""
        for driver in DRIVERS:
            with self.subTest(driver):
                path = self.path + driver
                peer = self.child()
                peer.run("import random, threading, time")
                peer.run(f"""
listener = listen({path!r})
def serve():
    while True:
        connection = listener.accept()[0]
        time.sleep(random.random() ** 3 * 0.02)
        connection.close()
threading.Thread(target=serve, daemon=True).start()
""")
                writer = self.driven(driver, self.writer(path, max_backoff_ms=1, max_attempts=0))
                end, answers = time.monotonic() + 3, set()
                while time.monotonic() < end:
                    self.assert_status(writer.write(b"x"), OK)
                    answers.add(writer.flush(100))
                    self.assertNotIn(OK, answers, writer.metrics())
                self.assertIn(ERR_UNDELIVERED, answers)


class ACallbackThatBlocks(TestCase):
    """It keeps the call in which it runs, and a stop; no other one."""

    def test_other_calls_of_a_dispatched_writer_keep_their_time(self):
        called, gate, reports = threading.Event(), threading.Event(), []

        def on_error(record):
            reports.append(record)
            called.set()
            gate.wait(10)

        self.addCleanup(gate.set)
        writer = self.writer(on_error=on_error, max_backoff_ms=5, max_buffered_writes=1)
        self.assert_status(writer.write(b"x"), OK)
        dispatching = InBackground(lambda: [writer.dispatch(20) for _ in range(5)])
        self.assertTrue(called.wait(5))
        for _ in range(3):
            self.assert_status(writer.flush(100), ERR_TIMEOUT)
            self.assert_status(writer.dispatch(50), OK)
            self.assert_status(writer.write_timeout(b"x", 100), ERR_TIMEOUT)
        self.assertTrue(dispatching.running())
        self.assertEqual(len(reports), 1, "one at a time")
        stopping = InBackground(lambda: writer.stop(100))
        elapse(0.3)
        self.assertTrue(stopping.running(), "no callback runs after it")
        gate.set()
        self.assert_status(stopping.result(), ERR_TIMEOUT)
        self.assertGreater(len(reports), 3, "what came meanwhile is told as well")
        dispatching.result()


if __name__ == "__main__":
    unittest.main()
