"""What a writer says of the messages that a reader had not read when it went away: an upper bound, and no more."""

import os
import random
import socket
import threading
import time
import unittest

from stream import number_of, numbered
from support import (
    DEADLINE_MS, FrameSplitter, InBackground, TestCase, elapse, fastest, frame, receive_all, receive_exactly,
    wait_until,
)
from udsipc_capi import ERR_UNDELIVERED, FOREVER, OK

DRIVERS = ("threads", "host")


class LastLook(TestCase):
    """After the last byte a stop waits up to 250 ms for the reader to have read it, or to have hung up over it."""

    def last_look(self, driver, timeout_ms, treat, messages=1):
        """`treat(connection)` is what the reader does while the stop runs. Returns status, seconds and metrics."""
        path = f"{self.directory}/{time.monotonic_ns()}"
        listener = self.listener(path)
        writer = self.driven(driver, self.writer(path))
        connection = self.accept(listener)
        wait_until(writer.is_connected)
        for number in range(messages):
            self.assert_status(writer.write(numbered(number)), OK)
        wait_until(lambda: writer.metrics().sent == messages)
        treating = InBackground(lambda: treat(connection))
        started = time.monotonic()
        status = writer.stop(timeout_ms)
        self.ended_at = time.monotonic()
        taken = self.ended_at - started
        treating.result()
        self.assertEqual(writer.stop(timeout_ms), status, "a second call returns what the first did")
        return status, taken, writer.metrics()

    def test_a_reader_that_reads_within_that_time(self):
        for driver in DRIVERS:
            with self.subTest(driver):
                def reads(connection):
                    elapse(0.1)
                    self.read_at = time.monotonic()
                    receive_exactly(connection, 10 * 17)

                def once():
                    status, taken, metrics = self.last_look(driver, DEADLINE_MS, reads, messages=10)
                    self.assert_status(status, OK)
                    self.assertEqual((metrics.sent, metrics.suspected_lost), (10, 0))
                    if taken < 0.2:  # else the reader may have been later than the stop waits
                        self.assertGreater(self.ended_at, self.read_at, "it was waited for")
                    return taken

                fastest(once, 0.2)

    def test_a_reader_that_hangs_up_over_it(self):
        for driver in DRIVERS:
            with self.subTest(driver):
                def hangs_up(connection):
                    elapse(0.1)
                    receive_exactly(connection, 3 * 17)
                    connection.close()

                def once():
                    status, taken, metrics = self.last_look(driver, DEADLINE_MS, hangs_up, messages=10)
                    self.assertEqual((metrics.sent, metrics.abandoned), (10, 0))
                    if taken < 0.2:  # else the reader may have been later than the stop waits
                        self.assert_status(status, ERR_UNDELIVERED)
                        self.assertIn(metrics.suspected_lost, range(7, 11))
                    return taken

                fastest(once, 0.2)

    def test_a_reader_that_never_reads(self):
        """It may be busy, and all that it has been sent waits in its socket: that is no failure."""
        for driver in DRIVERS:
            for timeout_ms in (DEADLINE_MS, FOREVER):
                with self.subTest(f"{driver}, {timeout_ms} ms"):
                    def once(driver=driver, timeout_ms=timeout_ms):
                        status, taken, metrics = self.last_look(driver, timeout_ms, lambda connection: None)
                        self.assert_status(status, OK)
                        self.assertEqual((metrics.sent, metrics.suspected_lost), (1, 0))
                        return taken

                    fastest(once, 0.3)

    def test_it_keeps_the_time_of_the_stop(self):
        def once():
            status, taken, _metrics = self.last_look("threads", 60, lambda connection: None)
            self.assert_status(status, OK)
            return taken

        fastest(once, 0.12)

    def test_a_time_of_zero_does_not_look(self):
        def once():
            status, taken, _metrics = self.last_look("threads", 0, lambda connection: None)
            self.assert_status(status, OK)
            return taken

        fastest(once, 0.05)

    def test_a_reader_that_has_read_everything_is_not_waited_for(self):
        def once():
            path = f"{self.directory}/{time.monotonic_ns()}"
            listener = self.listener(path)
            writer = self.writer(path, start=True)
            connection = self.accept(listener)
            writer.write(b"x")
            receive_exactly(connection, 2)
            started = time.monotonic()
            self.assert_status(writer.stop(DEADLINE_MS), OK)
            return time.monotonic() - started

        fastest(once, 0.05)

    def test_a_reader_that_shuts_the_writer_out(self):
        """The message has gone into a connection that the reader refuses: stop must not say that it is delivered."""
        child = self.child()
        child.run(f"reader = Reader({self.path!r}, start=True, allow_uid={os.getuid() + 1})")
        told = attempts = 0
        while told < 20:
            attempts += 1
            self.assertLess(attempts, 60, "a stop that has been OK too often")
            writer = self.writer()
            writer.write(b"x")
            writer.start()
            started = time.monotonic()
            status = writer.stop(5_000)
            if status == OK and time.monotonic() - started > 0.25:
                continue  # on a busy machine the reader may be later than the stop waits
            self.assert_status(status, ERR_UNDELIVERED)
            metrics = writer.metrics()
            self.assertEqual(metrics.suspected_lost + metrics.abandoned, 1, metrics)
            told += 1
        self.assertEqual(child.run("len(reader.messages)"), 0)


class ShutBeforeTheClose(TestCase):
    """A reader that shuts both directions and closes a while later: the writer hears of its end before its verdict."""

    def end_of_a_reader(self, driver, reads):
        path = f"{self.directory}/{time.monotonic_ns()}"
        listener = self.listener(path)
        writer = self.driven(driver, self.writer(path))
        connection = self.accept(listener)
        for number in range(10):
            self.assert_status(writer.write(numbered(number)), OK)
        wait_until(lambda: writer.metrics().sent == 10)
        flushing = InBackground(lambda: writer.flush(DEADLINE_MS))
        connection.shutdown(socket.SHUT_RDWR)
        used = time.process_time()
        elapse(0.3)
        self.assertLess(time.process_time() - used, 0.2, "the hang-up is told once")
        self.assertTrue(flushing.running(), "nobody knows yet")
        if reads:
            receive_exactly(connection, 10 * 17)
        connection.close()
        return flushing.result(), writer.metrics().suspected_lost

    def test_over_unread_messages(self):
        for driver in DRIVERS:
            with self.subTest(driver):
                self.assertEqual(self.end_of_a_reader(driver, reads=False), (ERR_UNDELIVERED, 10))

    def test_after_all_of_them(self):
        for driver in DRIVERS:
            with self.subTest(driver):
                self.assertEqual(self.end_of_a_reader(driver, reads=True), (OK, 0))

    def test_of_this_library(self):
        """Its reader ends so where it refuses a message, and the messages behind that one are lost."""
        for number in range(100):
            path = f"{self.directory}/{number}"
            reader = self.reader(path, start=True, max_message_size=100)
            writer = self.writer(path)
            for length in [50] * 50 + [200] + [50] * 300:
                self.assert_status(writer.write(bytes(length)), OK)
            self.assert_status(writer.start(), OK)
            wait_until(lambda: writer.metrics().queue_depth == 0)
            writer.stop(DEADLINE_MS)
            reader.stop(DEADLINE_MS)
            metrics = writer.metrics()
            self.assertLessEqual(metrics.sent - len(reader.messages), metrics.suspected_lost, metrics)
            writer.free()
            reader.free()


class Closing(TestCase):
    """A reader that takes nothing more, and reads what it has been sent before it closes."""

    def closing_reader(self, writer, listener, messages, one_by_one=False):
        """Sends `messages`, ends the writer's side of the connection, and lets the writer notice."""
        connection = self.accept(listener)
        wait_until(writer.is_connected)
        for number, message in enumerate(messages):
            wait_until(lambda: not one_by_one or writer.metrics().sent == number)
            self.assert_status(writer.write(message), OK)
        wait_until(lambda: writer.metrics().sent == len(messages))
        connection.shutdown(socket.SHUT_RD)
        self.assert_status(writer.write(b"behind"), OK)
        return connection

    def read_slowly(self, listener, connection, size, pause, total):
        """Reads `total` bytes, `size` at a time, while no second connection may come, and closes."""
        data = b""
        while len(data) < total:
            data += connection.recv(size)
            listener.settimeout(pause)
            if len(data) < total:
                self.assertRaises(TimeoutError, listener.accept)
        self.assertEqual(receive_all(connection), b"")
        connection.close()
        return FrameSplitter().feed(data)

    def assert_read_to_the_end(self, writer, listener, connection, messages, size, pause):
        total = sum(len(frame(message)) for message in messages)
        self.assertEqual(self.read_slowly(listener, connection, size, pause, total), messages)
        second = self.accept(listener, timeout=2)
        self.assertEqual(receive_exactly(second, 7), frame(b"behind"))
        self.assertEqual((writer.metrics().connections, writer.metrics().suspected_lost), (2, 0))

    def test_a_kilobyte_every_50_ms(self):
        """One send is one buffer of the kernel's, up to 35 kB: the writer sees it move once in two seconds."""
        listener = self.listener()
        writer = self.writer(start=True)
        messages = [numbered(number, 1000) for number in range(100)]
        connection = self.closing_reader(writer, listener, messages)
        self.assert_read_to_the_end(writer, listener, connection, messages, 1000, 0.05)

    def test_a_message_every_100_ms_with_a_write_timeout_of_a_second(self):
        """Each in a buffer of its own, so that every read is seen; all of them take longer than the timeout."""
        messages = [numbered(number, 1000) for number in range(25)]
        for driver in DRIVERS:
            with self.subTest(driver):
                listener = self.listener(self.path + driver)
                writer = self.driven(driver, self.writer(self.path + driver, write_timeout_ms=1_000))
                connection = self.closing_reader(writer, listener, messages, one_by_one=True)
                self.assert_read_to_the_end(writer, listener, connection, messages, 1002, 0.1)

    def test_one_that_hangs_is_left_in_the_end(self):
        """Neither reads nor closes: nothing is to be expected of it, and what it has not read is in doubt."""
        listener = self.listener()
        writer = self.writer(start=True, write_timeout_ms=200)
        self.closing_reader(writer, listener, [numbered(number) for number in range(10)])
        second = self.accept(listener, timeout=8)
        self.assertEqual(receive_exactly(second, 7), frame(b"behind"))
        self.assertEqual(writer.metrics().suspected_lost, 10)


class Streaming(TestCase):
    """Readers that end in every way while the writer streams: what is missing in the end lies within suspected_lost."""

    def stream(self, driver, end_of, rounds=150, seconds=6, length=200):
        """`end_of(connection)` reads and ends each connection, and returns the bytes read. Returns the metrics,
        and the numbers received in order, with those of whole frames only."""
        path = f"{self.directory}/{driver}"
        listener = self.listener(path)
        writer = self.driven(driver, self.writer(path, max_backoff_ms=1, max_attempts=0))
        ended = threading.Event()
        accepted = []

        def produce():
            number = 0
            while not ended.is_set():
                batch = [numbered(number + n, length) for n in range(50)]
                _status, taken = writer.write_many(batch)
                number += taken
                if taken < len(batch):
                    time.sleep(0.001)
            accepted.append(number)

        producer = InBackground(produce)
        received, started = [], time.monotonic()
        for _ in range(rounds):
            connection = self.accept(listener)
            received += map(number_of, FrameSplitter().feed(end_of(connection)))
            connection.close()
            if time.monotonic() - started > seconds:
                break
        last = InBackground(lambda connection=self.accept(listener): FrameSplitter().feed(receive_all(connection)))
        ended.set()
        producer.result()
        self.assert_status(writer.stop(DEADLINE_MS), OK)
        received += map(number_of, last.result())
        metrics = writer.metrics()
        self.assertEqual((metrics.sent, metrics.abandoned, metrics.queue_depth), (accepted[0], 0, 0))
        self.assertEqual(received, sorted(set(received)), "in order, and nothing twice")
        return metrics, received

    def test_closes_over_unread_messages(self):
        chance = random.Random(11)

        def cut(connection):
            data = receive_exactly(connection, chance.choice((1, 100, 5_000, 100_000, 300_000)))
            if chance.random() < 0.5:
                time.sleep(chance.random() * 0.002)
            return data

        for driver in DRIVERS:
            with self.subTest(driver):
                metrics, received = self.stream(driver, cut, seconds=3)
                self.assertGreater(metrics.sent - len(received), 0, "some were lost")
                self.assertLessEqual(metrics.sent - len(received), metrics.suspected_lost, metrics)

    def test_orderly_ends_leave_no_doubt(self):
        chance = random.Random(12)

        def in_order(connection):
            data = receive_exactly(connection, chance.choice((1, 100, 5_000, 100_000, 300_000)))
            connection.shutdown(socket.SHUT_RD)
            if chance.random() < 0.5:
                time.sleep(chance.random() * 0.002)
            return data + receive_all(connection)

        for driver in DRIVERS:
            with self.subTest(driver):
                metrics, received = self.stream(driver, in_order, rounds=400, seconds=3)
                self.assertEqual(received, list(range(metrics.sent)))
                self.assertEqual(metrics.suspected_lost, 0)
                self.assertGreater(metrics.connections, 20)

    def test_idle_ends_leave_no_doubt(self):
        """Everything is read, the connection is closed, and the next message comes at that very moment."""
        listener = self.listener()
        writer = self.writer(start=True, max_backoff_ms=1)
        chance = random.Random(13)
        number, end = 0, time.monotonic() + 4
        while time.monotonic() < end:
            connection = self.accept(listener)
            for _ in range(chance.randrange(1, 40)):
                self.assert_status(writer.write(numbered(number, 2000)), OK)
                self.assertEqual(number_of(receive_exactly(connection, 2002)[2:]), number)
                number += 1
            connection.close()
        wait_until(lambda: writer.metrics().sent == number)
        self.assertEqual(writer.metrics().suspected_lost, 0)
        self.assertGreater(writer.metrics().connections, 20)


if __name__ == "__main__":
    unittest.main()
