"""A writer and its connection: dialling, backoff, broken connections, a reader that is slow or refuses a message.

The peers are raw sockets, so that every byte and every connection is seen.
"""

import errno
import os
import socket
import threading
import time
import unittest

from support import (
    DEADLINE, FrameSplitter, TestCase, fastest, fill_backlog, frame, receive_all, receive_exactly, wait_until,
)
from stream import number_of, numbered
from udsipc_capi import (
    ERR_BACKPRESSURE, ERR_NO_CONSUMER, ERR_NOT_CONNECTED, ERR_WOULD_DEADLOCK, OK, Writer,
)

CONNECT = "failed to connect"
WRITE = "write failure"
WRITE_AGAIN = "write failure after reconnect"


class Dialling(TestCase):
    def test_start_returns_at_once_and_connects_before_any_message(self):
        listener = self.listener()
        writer = self.writer()
        self.assertFalse(writer.is_connected())
        self.assert_status(writer.start(), OK)
        self.accept(listener)
        wait_until(writer.is_connected)
        self.assertEqual(writer.metrics().connections, 1)
        self.assert_quiet(writer)

    def test_start_twice_is_one_connection(self):
        listener = self.listener()
        writer = self.writer(start=True)
        self.assert_status(writer.start(), OK)
        connection = self.accept(listener)
        writer.write(b"x")
        self.assertEqual(receive_exactly(connection, 2), b"\x01x")
        self.assertEqual(writer.metrics().connections, 1)
        self.assert_status(writer.stop(5_000), OK)

    def test_nobody_there_is_reported_within_a_second(self):
        for made, expected in ((False, errno.ENOENT), (True, errno.ECONNREFUSED)):
            with self.subTest(errno.errorcode[expected]):
                if made:
                    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
                        stale.bind(self.path)
                writer = self.writer(start=True)
                wait_until(lambda: writer.errors)
                first = writer.errors[0]
                self.assert_status(first.status, ERR_NOT_CONNECTED)
                self.assertEqual((first.os_errno, first.context), (expected, CONNECT))
                metrics = writer.metrics()
                self.assertGreaterEqual(metrics.connect_failures, 1)
                self.assertEqual((metrics.failed, metrics.connections), (0, 0), "a connect that fails is no attempt")

    def test_the_first_report_comes_at_once(self):
        def first_report():
            started = time.monotonic()
            with self.fresh_writer() as writer:
                wait_until(lambda: writer.errors)
                return writer.errors[0].at - started

        fastest(first_report, 1.0)

    def fresh_writer(self, **options):
        return Writer(f"{self.directory}/nobody", start=True, **options)

    def attempts(self, writer, count):
        """The times at which the first `count` connects have failed, as the writer's own thread told them."""
        wait_until(lambda: len(writer.errors) >= count)
        return [record.at for record in writer.errors[:count]]

    def test_backoff_grows_and_is_not_a_hot_loop(self):
        def grows(times):
            """At once, then after 5 to 20 ms, doubling with jitter."""
            return times[5] - times[0] > 0.020 and times[5] - times[4] > (times[2] - times[1]) / 2

        for _ in range(5):  # a busy machine can be late with any of them
            writer = self.writer(start=True)
            times = self.attempts(writer, 6)
            if grows(times):
                break
        self.assertTrue(grows(times), times)
        begun, started = writer.metrics().connect_failures, time.monotonic()
        wait_until(lambda: time.monotonic() - started > 1.0)
        self.assertLess(writer.metrics().connect_failures - begun, 20, "attempts in the second that followed")

    def test_max_backoff_bounds_the_pause(self):
        writer = self.writer(start=True, max_backoff_ms=50)
        times = self.attempts(writer, 40)
        self.assertGreater(times[39] - times[0], 0.2, "and still pauses")

    def test_a_listener_that_appears_is_found_within_a_second(self):
        def once():
            path = f"{self.directory}/late{time.monotonic_ns()}"
            writer = self.writer(path)
            writer.write(b"early")
            writer.start()
            started = time.monotonic()
            wait_until(lambda: time.monotonic() - started > 0.2)
            connection = self.accept(self.listener(path))
            self.assertEqual(receive_exactly(connection, 6), frame(b"early"))
            return time.monotonic() - started

        fastest(once, 1.2)

    def test_messages_queued_meanwhile_arrive_in_order_on_one_connection(self):
        writer = self.writer(start=True)
        messages = [b"message %d" % number for number in range(500)]
        for message in messages:
            self.assert_status(writer.write(message), OK)
        wait_until(lambda: writer.errors)
        self.assertEqual(writer.metrics().queue_depth, 500, "nothing leaves the queue before it is written")
        connection = self.accept(self.listener())
        expected = b"".join(map(frame, messages))
        self.assertEqual(receive_exactly(connection, len(expected)), expected)
        wait_until(lambda: writer.metrics().sent == 500)
        self.assertEqual(writer.metrics().connections, 1)

    def test_a_full_backlog_is_waited_for_within_the_dial_timeout(self):
        listener = self.listener(backlog=0)
        waiting = fill_backlog(self, listener)
        writer = self.writer(start=True, dial_timeout_ms=20_000)
        writer.write(b"x")
        # EAGAIN must be retried in short steps: the place that becomes free is taken without any report.
        for _ in waiting:
            self.accept(listener)
        connection = self.accept(listener)
        self.assertEqual(receive_exactly(connection, 2), b"\x01x")
        self.assert_quiet(writer)

    def test_a_backlog_that_stays_full_is_reported(self):
        listener = self.listener(backlog=0)
        waiting = fill_backlog(self, listener)
        started = time.monotonic()
        writer = self.writer(start=True, dial_timeout_ms=200)
        writer.write(b"x")
        wait_until(lambda: writer.errors)
        self.assertGreater(writer.errors[0].at - started, 0.19)
        self.assertEqual((writer.errors[0].os_errno, writer.errors[0].context), (errno.EAGAIN, CONNECT))
        for _ in waiting:
            self.accept(listener)
        self.assertEqual(receive_exactly(self.accept(listener), 2), b"\x01x")

    def test_a_socket_of_another_type_is_reported(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
            datagram.bind(self.path)
            writer = self.writer(start=True)
            wait_until(lambda: writer.errors)
            self.assertEqual((writer.errors[0].os_errno, writer.errors[0].context), (errno.EPROTOTYPE, CONNECT))

    def test_stop_inside_the_error_callback_is_refused(self):
        answers = []
        writer = self.writer(on_error=lambda _record: answers.append(writer.stop(1_000)))
        writer.start()
        wait_until(lambda: answers)
        self.assert_status(answers[0], ERR_WOULD_DEADLOCK)
        self.assert_status(writer.stop(5_000), OK)


class Breaking(TestCase):
    def test_a_frame_is_never_continued_on_another_connection(self):
        listener = self.listener()
        writer = self.writer(start=True, max_attempts=0)
        message = numbered(7, 4 << 20)
        self.assert_status(writer.write(message), OK)
        self.assert_status(writer.write(b"behind"), OK)
        for cut in (1, 3, 70_000, 1_000_000):
            connection = self.accept(listener)
            self.assertEqual(receive_exactly(connection, cut), frame(message)[:cut])
            connection.close()
        connection = self.accept(listener)
        expected = frame(message) + frame(b"behind")
        self.assertEqual(receive_exactly(connection, len(expected)), expected)
        wait_until(lambda: writer.metrics().queue_depth == 0)
        metrics = writer.metrics()
        self.assertEqual((metrics.sent, metrics.abandoned, metrics.connections), (2, 0, 5))
        self.assertEqual(metrics.failed, 4, "failed counts attempts")
        self.assertGreaterEqual(metrics.retried, 4)

    def test_a_break_in_the_middle_of_a_batch_resumes_at_the_first_frame_not_taken(self):
        """What was taken whole is not sent again; what was cut is sent again whole and first."""
        listener = self.listener()
        writer = self.writer(max_buffered_writes=1 << 20)
        messages = [numbered(i, 3000) for i in range(2000)]
        for message in messages:
            self.assert_status(writer.write(message), OK)
        writer.start()
        first = self.accept(listener)
        first_bytes = receive_exactly(first, 1_000_001)
        wait_until(lambda: buffer_is_full(writer))
        # SHUT_RD ends the writer's side and keeps what was queued readable: this reader loses nothing.
        first.shutdown(socket.SHUT_RD)
        first_bytes += receive_all(first)
        first.close()
        splitter = FrameSplitter()
        before = splitter.feed(first_bytes)
        cut = splitter.rest
        second = self.accept(listener)
        missing = messages[len(before):]
        expected = b"".join(map(frame, missing))
        self.assertEqual(receive_exactly(second, len(expected)), expected)
        self.assertEqual(before, messages[:len(before)])
        self.assertTrue(frame(missing[0]).startswith(cut))
        wait_until(lambda: writer.metrics().sent == 2000)
        self.assertEqual(writer.metrics().suspected_lost, 0)

    def test_a_reader_that_closes_at_once_is_a_write_failure(self):
        listener = self.listener()
        ended = threading.Event()

        def accept_and_close():
            listener.settimeout(0.1)
            while not ended.is_set():
                try:
                    listener.accept()[0].close()
                except TimeoutError:
                    pass

        closer = threading.Thread(target=accept_and_close, daemon=True)
        closer.start()
        self.addCleanup(closer.join)
        self.addCleanup(ended.set)
        writer = self.writer(start=True, max_attempts=0, max_backoff_ms=20)
        message = bytes(2 << 20)
        writer.write(message)
        wait_until(lambda: WRITE in writer.contexts() and WRITE_AGAIN in writer.contexts())
        record = next(record for record in writer.errors if record.context == WRITE)
        self.assert_status(record.status, ERR_NO_CONSUMER)
        self.assertIn(record.os_errno, (errno.EPIPE, errno.ECONNRESET))
        self.assertGreaterEqual(writer.metrics().failed, 2)
        self.assertEqual(writer.metrics().queue_depth, 1)

    def test_the_counter_is_right_inside_the_callback(self):
        seen = []
        listener = self.listener()
        writer = self.writer(on_error=lambda record: seen.append((record.context, writer.metrics().failed)))
        writer.write(bytes(2 << 20))
        writer.start()
        connection = self.accept(listener)
        receive_exactly(connection, 1000)
        connection.close()
        wait_until(lambda: seen)
        self.assertEqual(seen[0], (WRITE, 1))
        writer.stop(0)

    def test_reconnect_after_a_broken_write_is_immediate(self):
        listener = self.listener()
        writer = self.writer(start=True)
        gaps = []

        def once():
            writer.write(bytes(2 << 20))
            connection = self.accept(listener)
            receive_exactly(connection, 1000)
            connection.close()
            broken = time.monotonic()
            after = self.accept(listener)
            gaps.append(time.monotonic() - broken)
            receive_exactly(after, (2 << 20) + 4)
            after.close()
            return gaps[-1]

        fastest(once, 0.1)

    def test_a_peer_that_goes_while_idle_is_noticed_and_is_no_failure(self):
        listener = self.listener()
        writer = self.writer(start=True)
        for number in range(5):
            connection = self.accept(listener)
            wait_until(writer.is_connected)
            if number % 2:
                writer.write(b"x")
                receive_exactly(connection, 2)
            connection.close()
        last = self.accept(listener)
        wait_until(lambda: writer.metrics().connections == 6)
        writer.write(b"y")
        self.assertEqual(receive_exactly(last, 2), b"\x01y")
        metrics = writer.metrics()
        self.assertEqual((metrics.failed, metrics.suspected_lost, metrics.retried), (0, 0, 0))
        self.assert_quiet(writer)

    def test_is_connected_tells_the_truth_while_idle(self):
        listener = self.listener()
        writer = self.writer(start=True)
        connection = self.accept(listener)
        wait_until(writer.is_connected)
        listener.close()
        os.unlink(self.path)
        connection.close()
        wait_until(lambda: not writer.is_connected())

    def test_unread_bytes_of_a_reader_that_dies_are_suspected_lost(self):
        listener = self.listener()
        writer = self.writer(start=True)
        connection = self.accept(listener)
        for number in range(10):
            writer.write(numbered(number))
        wait_until(lambda: writer.metrics().sent == 10)
        receive_exactly(connection, 3 * 17)
        connection.close()
        wait_until(lambda: writer.metrics().suspected_lost >= 7)
        self.assertLessEqual(writer.metrics().suspected_lost, 10)
        self.assertEqual(writer.metrics().sent, 10)

    def test_a_reader_that_has_read_all_leaves_no_suspicion(self):
        listener = self.listener()
        writer = self.writer(start=True)
        for _ in range(3):
            connection = self.accept(listener)
            for number in range(10):
                writer.write(numbered(number))
            receive_exactly(connection, 170)
            connection.close()
        self.accept(listener)
        self.assertEqual(writer.metrics().suspected_lost, 0)

    def test_shut_rd_by_the_reader_loses_and_repeats_nothing(self):
        """What libudsipc's own reader does when it ends a connection, here with the writer's side of it alone."""
        listener = self.listener()
        writer = self.writer(start=True)
        ended = threading.Event()
        received = []

        def serve():
            listener.settimeout(DEADLINE)
            while not ended.is_set():
                connection = listener.accept()[0]
                connection.settimeout(DEADLINE)
                splitter, count = FrameSplitter(), 0
                while count < 97 and (data := connection.recv(1024)):
                    new = splitter.feed(data)
                    received.extend(new)
                    count += len(new)
                connection.shutdown(socket.SHUT_RD)
                received.extend(splitter.feed(receive_all(connection)))
                connection.close()

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        for number in range(20_000):
            self.assert_status(writer.write_timeout(numbered(number), 20_000), OK)
        wait_until(lambda: len(received) >= 20_000, what=lambda: (len(received), writer.metrics()))
        ended.set()
        self.assertEqual([number_of(message) for message in received], list(range(20_000)))
        self.assertEqual(writer.metrics().suspected_lost, 0)
        self.assertGreater(writer.metrics().connections, 3)
        self.assert_status(writer.stop(10_000), OK)
        server.join(DEADLINE)


def buffer_is_full(writer):
    """The writer has stopped sending: two looks at `sent`, 50 ms apart, agree."""
    before = writer.metrics().sent
    time.sleep(0.05)
    return before > 0 and writer.metrics().sent == before


class SlowReader(TestCase):
    def test_backpressure_is_reported_and_keeps_connection_order_and_partial_frame(self):
        listener = self.listener()
        writer = self.writer(start=True, write_timeout_ms=100)
        connection = self.accept(listener)
        messages = [numbered(number, 100_000) for number in range(100)]
        for message in messages:
            self.assert_status(writer.write(message), OK)
        wait_until(lambda: ERR_BACKPRESSURE in writer.statuses())
        self.assertTrue(writer.is_connected())
        expected = b"".join(map(frame, messages))
        half = len(expected) // 2
        data = receive_exactly(connection, half)
        reports = len(writer.errors)
        wait_until(lambda: len(writer.errors) > reports)
        data += receive_exactly(connection, len(expected) - half)
        self.assertEqual(data, expected)
        wait_until(lambda: writer.metrics().queue_depth == 0)
        metrics = writer.metrics()
        self.assertEqual((metrics.connections, metrics.sent, metrics.abandoned), (1, 100, 0))
        self.assertEqual(set(writer.statuses()), {ERR_BACKPRESSURE})
        listener.settimeout(0)
        with self.assertRaises(BlockingIOError):
            listener.accept()

    def test_progress_is_no_backpressure(self):
        """A reader that takes a little at a time, slower than the timeout for the whole message, is not reported."""
        listener = self.listener()
        writer = self.writer(start=True, write_timeout_ms=2_000)
        connection = self.accept(listener)
        message = bytes(8 << 20)
        writer.write(message)
        received, started = 0, time.monotonic()
        while received < len(frame(message)):
            received += len(receive_exactly(connection, min(600_000, len(frame(message)) - received)))
            due = started + received / len(message) * 3.0
            wait_until(lambda: time.monotonic() >= due)
        self.assertGreater(time.monotonic() - started, 2.5)
        self.assert_quiet(writer)

    def test_a_slow_reader_slows_its_own_writer_only(self):
        listener = self.listener()
        stuck = self.writer(start=True)
        stuck_peer = self.accept(listener)
        quick = self.writer(start=True)
        quick_peer = self.accept(listener)
        for _ in range(50):
            stuck.write(bytes(100_000))
        quick.write(b"x")
        self.assertEqual(receive_exactly(quick_peer, 2), b"\x01x")
        wait_until(stuck.is_connected)
        self.assertTrue(stuck_peer.recv(1))


class Poison(TestCase):
    def test_an_oversize_message_is_given_up_and_those_behind_arrive(self):
        self.oversize_message_given_up(acknowledge=0)

    def test_a_reader_that_acknowledges_says_that_a_message_is_too_large(self):
        """It is given up at once, without further attempts."""
        self.oversize_message_given_up(acknowledge=1)

    def oversize_message_given_up(self, acknowledge):
        reader = self.reader(start=True, max_message_size=1000)
        writer = self.writer(start=True, max_attempts=3, acknowledge=acknowledge)
        self.assert_status(writer.write(b"before"), OK)
        wait_until(lambda: reader.messages == [b"before"])
        self.assert_status(writer.write(bytes(4 << 20)), OK)
        behind = [b"behind %d" % number for number in range(100)]
        for message in behind:
            self.assert_status(writer.write(message), OK)
        wait_until(lambda: len(reader.messages) == 101, what=lambda: (writer.metrics(), reader.metrics()))
        self.assertEqual(reader.messages, [b"before", *behind])
        wait_until(lambda: writer.metrics().queue_depth == 0)
        # What has broken is told behind what has been sent since.
        wait_until(lambda: writer.errors and (acknowledge or WRITE_AGAIN in writer.contexts()))
        metrics = writer.metrics()
        self.assertEqual((metrics.abandoned, metrics.sent), (1, 101))
        self.assertEqual(reader.metrics().errors, 1 if acknowledge else 3, "one per connection that the message broke")
        self.assertGreaterEqual(metrics.failed, reader.metrics().errors)
        self.assertEqual(writer.contexts()[0], WRITE)
        self.assertEqual(WRITE_AGAIN in writer.contexts(), not acknowledge)
        self.assert_status(writer.stop(10_000), OK)

    def test_between_attempts_there_is_backoff(self):
        listener = self.listener()
        writer = self.writer(start=True, max_attempts=6)
        message = bytes(4 << 20)
        writer.write(message)
        writer.write(b"behind")
        times = []
        for _ in range(6):
            connection = self.accept(listener)
            receive_exactly(connection, 1000)
            times.append(time.monotonic())
            connection.close()
        connection = self.accept(listener)
        self.assertEqual(receive_exactly(connection, 7), frame(b"behind"))
        wait_until(lambda: writer.metrics().queue_depth == 0)
        self.assertEqual(writer.metrics().abandoned, 1)
        # The first reconnect is immediate; then 5 to 20 ms, doubling: with jitter.
        self.assertGreater(times[5] - times[0], 0.03)

    def test_max_attempts_zero_never_gives_up(self):
        listener = self.listener()
        writer = self.writer(start=True, max_attempts=0, max_backoff_ms=5)
        message = bytes(2 << 20)
        writer.write(message)
        for _ in range(12):
            connection = self.accept(listener)
            receive_exactly(connection, 1000)
            connection.close()
        connection = self.accept(listener)
        self.assertEqual(receive_exactly(connection, len(frame(message))), frame(message))
        self.assertEqual(writer.metrics().abandoned, 0)

    def test_a_connect_that_fails_is_no_attempt(self):
        listener = self.listener()
        writer = self.writer(start=True, max_attempts=2, max_backoff_ms=5)
        message = bytes(2 << 20)
        writer.write(message)
        connection = self.accept(listener)
        receive_exactly(connection, 1000)
        listener.close()
        os.unlink(self.path)
        connection.close()
        wait_until(lambda: writer.metrics().connect_failures >= 10)
        self.assertEqual(writer.metrics().abandoned, 0)
        listener = self.listener()
        connection = self.accept(listener)
        self.assertEqual(receive_exactly(connection, len(frame(message))), frame(message))

    def test_innocent_messages_are_not_blamed(self):
        """A reader that restarts often breaks connections too: messages that get on are not given up for that."""
        listener = self.listener()
        writer = self.writer(start=True, max_attempts=2)
        messages = [numbered(number, 300_000) for number in range(20)]
        for message in messages:
            writer.write(message)
        received = []
        while len(received) < len(messages):
            connection = self.accept(listener)
            splitter = FrameSplitter()
            while not (whole := splitter.feed(connection.recv(1 << 16))):
                pass
            connection.shutdown(socket.SHUT_RD)
            received += whole + splitter.feed(receive_all(connection))
            connection.close()
        self.assertEqual([number_of(message) for message in received], list(range(20)))
        self.assertEqual(writer.metrics().abandoned, 0)

    def test_a_writer_can_stop_while_a_message_keeps_breaking(self):
        """The Go library spins here for ever and its Stop never returns."""
        self.reader(start=True, max_message_size=1000)
        writer = self.writer(start=True, max_attempts=0)
        writer.write(bytes(4 << 20))
        wait_until(lambda: writer.metrics().failed >= 2)
        status = writer.stop(500)
        self.assertNotEqual(status, OK)
        self.assertEqual(writer.metrics().abandoned, 1)


if __name__ == "__main__":
    unittest.main()
