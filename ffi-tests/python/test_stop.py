"""Stopping a writer and a reader: what goes out first, what is given up and said so, and how long it may take."""

import json
import os
import socket
import subprocess
import threading
import time
import unittest

from stream import number_of, numbered
from support import (
    DEADLINE, DEADLINE_MS, FrameSplitter, InBackground, TestCase, connect, fastest, frame, is_closed, receive_all,
    receive_exactly, refuses, spawn, wait_until,
)
from udsipc_capi import ERR_STOPPED, ERR_TIMEOUT, ERR_UNDELIVERED, FOREVER, OK, Reader, Writer

DRAIN = "write failure during drain"
DRAIN_RETRY = "write failure during drain (retry message)"


class WriterStop(TestCase):
    def stopped_writer(self, messages, timeout_ms, **options):
        """A started writer with nobody at its path; returns (status, seconds, metrics, contexts)."""
        with Writer(f"{self.directory}/nobody", start=True, **options) as writer:
            for number in range(messages):
                writer.write(numbered(number))
            started = time.monotonic()
            status = writer.stop(timeout_ms)
            return status, time.monotonic() - started, writer.metrics(), writer.contexts()

    def test_idle_and_connected(self):
        listener = self.listener()
        writer = self.writer(start=True)
        connection = self.accept(listener)
        wait_until(writer.is_connected)
        self.assert_status(writer.stop(5_000), OK)
        self.assertTrue(is_closed(connection))

    def test_with_nobody_listening_and_nothing_queued(self):
        def once():
            status, seconds, _metrics, _contexts = self.stopped_writer(0, FOREVER)
            self.assert_status(status, OK)
            return seconds

        fastest(once, 0.5)

    def test_while_backing_off_for_a_directory_that_is_missing(self):
        writer = self.writer(f"{self.directory}/missing/s", start=True)
        wait_until(lambda: writer.metrics().connect_failures >= 5)
        started = time.monotonic()
        self.assert_status(writer.stop(FOREVER), OK)
        self.assertLess(time.monotonic() - started, 1.0)

    def test_with_nobody_listening_it_gives_up_within_250_ms(self):
        for timeout_ms in (2_000, FOREVER):
            with self.subTest(timeout_ms):
                def once(timeout_ms=timeout_ms):
                    status, seconds, metrics, contexts = self.stopped_writer(50, timeout_ms)
                    self.assert_status(status, ERR_UNDELIVERED)
                    self.assertEqual((metrics.abandoned, metrics.queue_depth, metrics.sent), (50, 0, 0))
                    self.assertGreater(metrics.failed, 0)
                    given_up = [context for context in contexts if context.startswith(DRAIN)]
                    self.assertEqual(given_up, [DRAIN], "one report for all of them")
                    return seconds

                fastest(once, 0.25)

    def test_a_time_of_zero_answers_within_100_ms(self):
        def once():
            status, seconds, metrics, contexts = self.stopped_writer(100, 0)
            self.assert_status(status, ERR_TIMEOUT)
            self.assertEqual((metrics.abandoned, metrics.queue_depth), (100, 0))
            self.assertEqual([context for context in contexts if context.startswith(DRAIN)], [DRAIN])
            return seconds

        fastest(once, 0.1)

    def test_a_time_of_zero_with_a_reader_that_takes_nothing(self):
        listener = self.listener()

        def once():
            with Writer(self.path, start=True) as writer:
                with listener.accept()[0]:
                    for _ in range(30):
                        writer.write(bytes(100_000))
                    wait_until(lambda: writer.metrics().sent > 0)
                    started = time.monotonic()
                    self.assert_status(writer.stop(0), ERR_TIMEOUT)
                    taken = time.monotonic() - started
                    metrics = writer.metrics()
                    self.assertGreater(metrics.abandoned, 0)
                    self.assertEqual((metrics.sent + metrics.abandoned, metrics.queue_depth), (30, 0))
                    return taken

        fastest(once, 0.1)

    def test_a_short_time_is_kept(self):
        """Neither a write that waits nor a connect that waits prolongs it."""
        listener = self.listener()
        writer = self.writer(start=True, write_timeout_ms=60_000, dial_timeout_ms=60_000)
        self.accept(listener)
        for _ in range(30):
            writer.write(bytes(100_000))
        wait_until(lambda: writer.metrics().sent > 0)
        started = time.monotonic()
        self.assert_status(writer.stop(200), ERR_TIMEOUT)
        taken = time.monotonic() - started
        self.assertGreaterEqual(taken, 0.19)
        self.assertLess(taken, 5.0)

    def test_drain_sends_everything_queued_and_then_the_end(self):
        listener = self.listener()
        writer = self.writer(start=True)
        connection = self.accept(listener)
        messages = [numbered(number, 2000) for number in range(5000)]
        for message in messages:
            self.assert_status(writer.write(message), OK)
        stopping = InBackground(lambda: writer.stop(DEADLINE_MS))
        data = receive_all(connection)
        self.assert_status(stopping.result(), OK)
        self.assertEqual(data, b"".join(map(frame, messages)))
        metrics = writer.metrics()
        self.assertEqual((metrics.sent, metrics.abandoned, metrics.queue_depth), (5000, 0, 0))

    def test_drain_connects_if_it_must(self):
        """Stop at once after start: the connection may not exist yet."""
        for _ in range(20):
            path = f"{self.directory}/{time.monotonic_ns()}"
            with Reader(path, start=True) as reader, Writer(path) as writer:
                for number in range(10):
                    writer.write(numbered(number))
                writer.start()
                self.assert_status(writer.stop(20_000), OK)
                wait_until(lambda: len(reader.messages) == 10)
                self.assertEqual([number_of(message) for message in reader.messages], list(range(10)))

    def test_drain_survives_a_connection_that_the_reader_ends(self):
        """The connection ends in the middle of the drain, the listener stays: nothing is lost or repeated."""
        listener = self.listener()
        writer = self.writer(start=True)
        messages = [numbered(number, 5000) for number in range(2000)]
        connection = self.accept(listener)
        for message in messages:
            self.assert_status(writer.write(message), OK)
        stopping = InBackground(lambda: writer.stop(DEADLINE_MS))
        received = []
        for _ in range(5):
            splitter = FrameSplitter()
            received += splitter.feed(receive_exactly(connection, 400_001))
            connection.shutdown(socket.SHUT_RD)
            received += splitter.feed(receive_all(connection))
            connection.close()
            connection = self.accept(listener)
        received += FrameSplitter().feed(receive_all(connection))
        self.assert_status(stopping.result(), OK)
        self.assertEqual([number_of(message) for message in received], list(range(2000)))
        self.assertEqual(writer.metrics().suspected_lost, 0)

    def test_drain_until_deadline_waits_for_a_reader_that_restarts(self):
        first = self.reader(start=True)
        writer = self.writer(start=True, drain_until_deadline=1, max_buffered_writes=1 << 20)
        writer.write(numbered(0))
        wait_until(lambda: len(first.messages) == 1)
        self.assert_status(first.stop(10_000), OK)
        for number in range(1, 1000):
            self.assert_status(writer.write(numbered(number)), OK)
        stopping = InBackground(lambda: writer.stop(DEADLINE_MS))
        # Longer than the 250 ms after which a writer without the option gives up.
        started = time.monotonic()
        wait_until(lambda: time.monotonic() - started > 0.6)
        self.assertTrue(stopping.running())
        second = self.reader(start=True)
        self.assert_status(stopping.result(), OK)
        wait_until(lambda: len(second.messages) == 999)
        self.assertEqual([number_of(message) for message in second.messages], list(range(1, 1000)))

    def test_drain_until_deadline_ends_at_the_deadline(self):
        started = time.monotonic()
        status, _seconds, metrics, _contexts = self.stopped_writer(5, 600, drain_until_deadline=1)
        self.assert_status(status, ERR_TIMEOUT)
        self.assertGreaterEqual(time.monotonic() - started, 0.59)
        self.assertEqual((metrics.abandoned, metrics.queue_depth), (5, 0))

    def test_a_last_message_that_had_failed_before_is_reported_as_such(self):
        """It has words of its own if it is the only one that is given up."""
        for behind, context in ((), DRAIN_RETRY), ((b"behind",), DRAIN):
            with self.subTest(context):
                self.check_context_of_a_drain_after_a_failure(behind, context)

    def check_context_of_a_drain_after_a_failure(self, behind, context):
        listener = self.listener()
        writer = self.writer(start=True)
        connection = self.accept(listener)
        writer.write(bytes(2 << 20))
        for message in behind:
            writer.write(message)
        receive_exactly(connection, 1000)
        listener.close()
        os.unlink(self.path)
        connection.close()
        wait_until(lambda: writer.metrics().failed == 1)
        wait_until(lambda: writer.metrics().connect_failures >= 1)
        self.assert_status(writer.stop(FOREVER), ERR_UNDELIVERED)
        given_up = [found for found in writer.contexts() if found.startswith(DRAIN)]
        self.assertEqual(given_up, [context])
        self.assertEqual(writer.metrics().abandoned, 1 + len(behind))

    def test_messages_given_up_as_poison_during_the_drain_are_no_success(self):
        """A reader is there, and each message breaks its connections until it is given up: not all of it went out."""
        self.reader(start=True, max_message_size=1000)
        writer = self.writer(start=True, max_attempts=2, max_backoff_ms=5)
        for _ in range(5):
            writer.write(bytes(2 << 20))
        self.assert_status(writer.stop(FOREVER), ERR_UNDELIVERED)
        metrics = writer.metrics()
        self.assertEqual((metrics.sent, metrics.abandoned, metrics.queue_depth), (0, 5, 0))

    def test_later_stops_return_what_the_first_returned(self):
        with Writer(self.path) as writer:
            writer.write(b"x")
            self.assertEqual([writer.stop(0 if number else FOREVER) for number in range(3)], [ERR_UNDELIVERED] * 3)
        self.reader(start=True)
        with Writer(self.path, start=True) as writer:
            writer.write(b"x")
            self.assertEqual([writer.stop(10_000) for _ in range(3)], [OK] * 3)

    def test_ten_threads_stop_at_once(self):
        reader = self.reader(start=True)
        writer = self.writer(start=True)
        for number in range(100):
            writer.write(numbered(number))
        stops = [InBackground(lambda: writer.stop(10_000)) for _ in range(10)]
        self.assertEqual([stop.result() for stop in stops], [OK] * 10)
        wait_until(lambda: len(reader.messages) == 100)

    def test_writes_after_stop_are_refused(self):
        self.reader(start=True)
        writer = self.writer(start=True)
        self.assert_status(writer.stop(5_000), OK)
        self.assert_status(writer.write(b"x"), ERR_STOPPED)
        self.assert_status(writer.write_timeout(b"x", FOREVER), ERR_STOPPED)
        self.assertEqual(writer.write_many([b"x"]), (ERR_STOPPED, 0))
        self.assert_status(writer.start(), ERR_STOPPED)
        self.assertEqual(writer.metrics().sent, 0)

    def test_stop_ends_although_producers_go_on(self):
        """New messages are refused from the beginning of stop, so that a drain has an end; none is lost uncounted."""
        reader = self.reader(start=True)
        writer = self.writer(start=True)
        accepted = [0] * 4

        def produce(slot):
            while True:
                status = writer.write(numbered(accepted[slot]))
                if status == OK:
                    accepted[slot] += 1
                elif status == ERR_STOPPED:
                    return

        producers = [InBackground(lambda slot=slot: produce(slot)) for slot in range(4)]
        wait_until(lambda: min(accepted) > 100)
        self.assert_status(writer.stop(FOREVER), OK)
        for producer in producers:
            producer.result()
        wait_until(lambda: len(reader.messages) >= sum(accepted))
        self.assertEqual(len(reader.messages), sum(accepted))
        self.assertEqual(writer.metrics().sent, sum(accepted))

    def test_a_waiting_write_is_woken_by_stop(self):
        writer = self.writer(start=True, max_buffered_writes=1)
        writer.write(b"x")
        waiting = InBackground(lambda: writer.write_timeout(b"y", FOREVER))
        started = time.monotonic()
        wait_until(lambda: time.monotonic() - started > 0.05)
        self.assertTrue(waiting.running())
        writer.stop(0)
        self.assert_status(waiting.result(), ERR_STOPPED)

    def test_free_of_a_running_writer_is_a_forced_stop(self):
        self.listener()
        writer = Writer(self.path, start=True)
        for _ in range(30):
            writer.write(bytes(100_000))
        started = time.monotonic()
        writer.free()
        self.assertLess(time.monotonic() - started, 5.0)

    def test_metrics_can_be_read_before_start_and_after_stop(self):
        self.reader(start=True)
        writer = self.writer()
        writer.write(b"four")
        self.assertEqual((writer.metrics().queue_depth, writer.metrics().queue_bytes), (1, 4))
        writer.start()
        writer.stop(10_000)
        metrics = writer.metrics()
        self.assertEqual((metrics.sent, metrics.sent_bytes, metrics.queue_depth, metrics.queue_bytes), (1, 4, 0, 0))


class ReaderStop(TestCase):
    def test_without_connections(self):
        def once():
            with Reader(f"{self.directory}/{time.monotonic_ns()}", start=True) as reader:
                started = time.monotonic()
                self.assert_status(reader.stop(FOREVER), OK)
                return time.monotonic() - started

        fastest(once, 1.0)

    def test_those_who_wait_for_a_reader_never_started_are_told(self):
        """Otherwise they would go on counting messages as sent into a backlog that nobody will ever read."""
        reader = self.reader()
        client = self.client()
        client.sendall(frame(b"unread"))
        self.assert_status(reader.stop(FOREVER), ERR_TIMEOUT, "it left something unread")
        self.assertTrue(is_closed(client))
        with self.assertRaises(BrokenPipeError):
            client.sendall(frame(b"into nothing"))

    def test_idle_connections_do_not_prolong_it(self):
        """The Go library waits for the inactivity timeout of each."""
        reader = self.reader(start=True, inactivity_timeout_ms=FOREVER)
        clients = [self.client() for _ in range(20)]
        clients[0].sendall(frame(b"x") + b"\x80")
        wait_until(lambda: reader.metrics().received == 1)
        wait_until(lambda: reader.metrics().active_connections == 20)
        started = time.monotonic()
        self.assert_status(reader.stop(20_000), OK)
        self.assertLess(time.monotonic() - started, 10.0)
        for client in clients:
            self.assertTrue(is_closed(client))
        self.assertEqual(reader.metrics().errors, 0, "a frame cut by our own stop is sent again")
        self.assert_quiet(reader)

    def test_a_running_callback_completes(self):
        entered, leave = threading.Event(), threading.Event()

        def on_message(_message, _connection):
            entered.set()
            leave.wait(DEADLINE)

        reader = self.reader(start=True, on_message=on_message)
        self.client().sendall(frame(b"x"))
        self.assertTrue(entered.wait(DEADLINE))
        stopping = InBackground(lambda: reader.stop(DEADLINE_MS))
        wait_until(lambda: refuses(self.path))
        self.assertTrue(stopping.running())
        leave.set()
        self.assert_status(stopping.result(), OK)
        self.assertEqual(reader.metrics().received, 1)

    def test_past_its_time_it_still_waits_for_running_callbacks(self):
        """Two callbacks of two seconds and stop(100 ms): no longer than both together, and nothing runs afterwards."""
        running, started = [], []

        def on_message(_message, _connection):
            started.append(1)
            running.append(1)
            time.sleep(2)
            running.pop()

        reader = self.reader(start=True, on_message=on_message)
        for _ in range(2):
            self.client().sendall(frame(b"x"))
        wait_until(lambda: len(started) == 2)
        before = time.monotonic()
        status = reader.stop(100)
        taken = time.monotonic() - before
        self.assertIn(status, (OK, ERR_TIMEOUT))
        self.assertEqual(running, [])
        self.assertLess(taken, 3.5)

    def test_past_its_time_no_new_callback_starts(self):
        handled = []

        def on_message(_message, _connection):
            handled.append(1)
            time.sleep(0.2)

        reader = self.reader(start=True, on_message=on_message)
        client = self.client()
        client.sendall(frame(b"x") * 1000)
        wait_until(lambda: handled)
        before = time.monotonic()
        self.assert_status(reader.stop(300), ERR_TIMEOUT)
        self.assertLess(time.monotonic() - before, 5.0, "the time, plus one callback")
        self.assertLess(len(handled), 100)
        count = len(handled)
        started = time.monotonic()
        wait_until(lambda: time.monotonic() - started > 0.3)
        self.assertEqual(len(handled), count, "after stop has returned, no callback runs")

    def test_what_is_in_the_kernels_buffers_is_served(self):
        entered, leave = threading.Event(), threading.Event()
        received = []

        def on_message(message, _connection):
            entered.set()
            leave.wait(DEADLINE)
            received.append(number_of(message))

        reader = self.reader(start=True, on_message=on_message)
        writer = self.writer(start=True, write_buffer_size=1 << 20)
        for number in range(1000):
            writer.write(numbered(number, 500))
        self.assertTrue(entered.wait(DEADLINE))
        wait_until(lambda: writer.metrics().sent == 1000)
        stopping = InBackground(lambda: reader.stop(DEADLINE_MS))
        wait_until(lambda: refuses(self.path))
        leave.set()
        self.assert_status(stopping.result(), OK)
        self.assertEqual(received, list(range(1000)))
        self.assertEqual(reader.metrics().errors, 0)

    def test_clients_that_connect_write_and_exit_lose_nothing_at_stop(self):
        """They wait in the backlog, or their connection is not read yet, when stop is called."""
        entered, leave, received = threading.Event(), threading.Event(), []

        def on_message(message, _connection):
            if message == b"block":
                entered.set()
                leave.wait(DEADLINE)
            else:
                received.append(message)

        reader = self.reader(start=True, on_message=on_message, max_handler_threads=1)
        self.client().sendall(frame(b"block"))
        self.assertTrue(entered.wait(DEADLINE))
        for number in range(50):
            with connect(self.path) as client:
                client.sendall(frame(b"client %d" % number))
        stopping = InBackground(lambda: reader.stop(DEADLINE_MS))
        wait_until(lambda: refuses(self.path))
        leave.set()
        self.assert_status(stopping.result(), OK)
        self.assertEqual(sorted(received), sorted(b"client %d" % number for number in range(50)))

    def test_clients_racing_with_stop_lose_nothing(self):
        """A client either is refused when it connects, or its message is served, or its send fails."""
        for _ in range(15):
            received, sent, ended = [], [], threading.Event()
            reader = Reader(self.path, on_message=lambda message, _: received.append(message), start=True)

            def clients(sent=sent, ended=ended):
                number = 0
                while not ended.is_set():
                    message = b"%d:%d" % (threading.get_ident(), number)
                    try:
                        with connect(self.path) as client:
                            client.sendall(frame(message))
                    except OSError:
                        if not os.path.exists(self.path):
                            return
                        continue
                    sent.append(message)
                    number += 1

            runs = [InBackground(clients) for _ in range(2)]
            wait_until(lambda: len(sent) > 20)
            self.assert_status(reader.stop(DEADLINE_MS), OK)
            ended.set()
            for run in runs:
                run.result()
            self.assertEqual(sorted(received), sorted(sent))
            reader.free()

    def test_stop_is_idempotent_also_from_many_threads(self):
        reader = self.reader(start=True)
        self.client().sendall(frame(b"x"))
        wait_until(lambda: reader.messages)
        stops = [InBackground(lambda: reader.stop(10_000)) for _ in range(10)]
        self.assertEqual([stop.result() for stop in stops], [OK] * 10)
        self.assert_status(reader.stop(0), OK)

    def test_after_stop_connects_are_refused_and_metrics_stay(self):
        reader = self.reader(start=True)
        client = self.client()
        client.sendall(frame(b"four"))
        wait_until(lambda: reader.metrics().received == 1)
        self.assert_status(reader.stop(10_000), OK)
        with self.assertRaises(FileNotFoundError):
            connect(self.path)
        metrics = reader.metrics()
        self.assertEqual((metrics.received, metrics.received_bytes, metrics.errors), (1, 4, 0))
        self.assertEqual((metrics.connections, metrics.active_connections), (1, 0), "no connection of its own making")

    def test_free_of_a_running_reader_is_a_forced_stop(self):
        reader = Reader(self.path, start=True)
        client = self.client()
        client.sendall(frame(b"x"))
        wait_until(lambda: reader.messages)
        reader.free()
        self.assertTrue(is_closed(client))
        self.assertTrue(refuses(self.path))

    def test_threads_and_descriptors_are_given_back(self):
        child = self.child()
        child.run(f"""
def once():
    with Reader({self.path!r}, start=True) as reader, Writer({self.path!r}, start=True) as writer:
        for number in range(100):
            writer.write(b"x")
        check(writer.stop(10_000))
        wait_until(lambda: len(reader.messages) == 100)
        check(reader.stop(10_000))
once()
threads, descriptors = threads_of(), len(os.listdir("/proc/self/fd"))
for _ in range(20):
    once()
""")
        # A thread that has been joined is in /proc for a moment more.
        wait_until(lambda: child.run("threads_of() <= threads and len(os.listdir('/proc/self/fd')) <= descriptors"),
                   what=lambda: child.run("(threads_of(), threads, len(os.listdir('/proc/self/fd')), descriptors)"))


class ReaderRestart(TestCase):
    """Reader after reader at one path under load: nothing counted as sent is lost, nothing comes twice."""

    RESTARTS = 25

    def readers(self, enough, **options):
        """Serves the path with one reader after another; returns all numbers received, reader by reader."""
        received = []
        for _ in range(self.RESTARTS):
            begun = len(received)
            reader = self.reader(start=True, on_batch=lambda messages, _: received.extend(map(number_of, messages)),
                                 **options)
            wait_until(lambda: len(received) - begun >= enough)
            self.assert_status(reader.stop(DEADLINE_MS), OK)
            self.assertEqual(reader.metrics().errors, 0)
            self.assert_quiet(reader)
            reader.free()
        return received

    def test_with_a_writer(self):
        child = spawn("number_writer.py", self.path, 0, 64, "max_backoff_ms=20", stdin=subprocess.PIPE,
                      stdout=subprocess.PIPE, text=True)
        self.addCleanup(child.stdout.close)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        received = self.readers(enough=3000)
        last = self.reader(start=True, on_batch=lambda messages, _: received.extend(map(number_of, messages)))
        child.stdin.close()
        result = json.loads(child.stdout.read())
        wait_until(lambda: len(received) >= result["sent"], what=lambda: (len(received), result))
        self.assert_status(last.stop(10_000), OK)
        self.assertEqual(result["stopped"], OK, result)
        self.assertEqual(result["sent"], result["accepted"])
        self.assertEqual(received, list(range(result["accepted"])))
        self.assertEqual(result["suspected_lost"], 0)

    def test_with_raw_clients_that_resend_on_epipe(self):
        """What a writer of the Go library does: on EPIPE it sends that frame again, whole, on its next connection."""
        ended = threading.Event()
        clients = [RawWriter(self.path, ended, client) for client in range(3)]
        runs = [InBackground(client.run) for client in clients]
        received = self.readers(enough=300)
        last = self.reader(start=True, on_batch=lambda messages, _: received.extend(map(number_of, messages)))
        ended.set()
        for run in runs:
            run.result()
        sent = sum(client.sent for client in clients)
        wait_until(lambda: len(received) >= sum(client.sent for client in clients))
        self.assert_status(last.stop(10_000), OK)
        for client in clients:
            mine = [number - client.base for number in received if number // RawWriter.RANGE == client.number]
            self.assertEqual(mine, list(range(client.sent)))
        self.assertEqual(len(received), sent)


class RawWriter:
    """A writer without the library. A frame counts as sent when the kernel has taken it whole."""

    RANGE = 1 << 32

    def __init__(self, path, ended, number, pause=lambda: None, length=200):
        self.path, self.ended, self.number, self.pause, self.length = path, ended, number, pause, length
        self.base = number * self.RANGE
        self.sent = self.resent = 0

    def connect(self):
        while not self.ended.is_set():
            try:
                return connect(self.path)
            except OSError:
                time.sleep(0.001)
        return None

    def run(self):
        connection = self.connect()
        while connection is not None and not self.ended.is_set():
            data = frame(numbered(self.base + self.sent, self.length))
            try:
                connection.sendall(data)
                self.sent += 1
                self.pause()
            except (BrokenPipeError, ConnectionResetError):
                self.resent += 1
                connection.close()
                connection = self.connect()
        if connection is not None:
            connection.close()


class IdleClose(TestCase):
    """The reader closes idle connections at the very moment at which their writers have something to say again."""

    PERIOD = 0.02

    def test_with_writers_whose_period_is_the_timeout(self):
        received = []
        reader = self.reader(start=True, inactivity_timeout_ms=round(self.PERIOD * 1000),
                             on_message=lambda message, _: received.append(number_of(message)))
        writers = [self.writer(start=True) for _ in range(8)]
        accepted = [0] * len(writers)
        started = time.monotonic()
        while time.monotonic() - started < 4:
            for number, writer in enumerate(writers):
                self.assert_status(writer.write(numbered(number * RawWriter.RANGE + accepted[number])), OK)
                accepted[number] += 1
            # A little before, exactly at, and a little after the timeout.
            time.sleep(self.PERIOD + (accepted[0] % 9 - 4) * 0.0003)
        for writer in writers:
            self.assert_status(writer.stop(10_000), OK)
        wait_until(lambda: len(received) >= sum(accepted))
        for number in range(len(writers)):
            mine = [entry % RawWriter.RANGE for entry in received if entry // RawWriter.RANGE == number]
            self.assertEqual(mine, list(range(accepted[number])), f"writer {number}")
        self.assertGreater(reader.metrics().idle_closed, 50, "the race was run")
        self.assertEqual(reader.metrics().errors, 0)
        self.assertEqual(sum(writer.metrics().suspected_lost for writer in writers), 0)

    def test_with_raw_clients_whose_period_is_the_timeout(self):
        received = []
        reader = self.reader(start=True, inactivity_timeout_ms=round(self.PERIOD * 1000),
                             on_message=lambda message, _: received.append(number_of(message)))
        ended = threading.Event()
        clients = []
        for number in range(8):
            pause = (lambda number=number: time.sleep(self.PERIOD + (number - 4) * 0.0003))
            clients.append(RawWriter(self.path, ended, number, pause))
        runs = [InBackground(client.run) for client in clients]
        started = time.monotonic()
        wait_until(lambda: time.monotonic() - started > 4)
        ended.set()
        for run in runs:
            run.result()
        wait_until(lambda: len(received) >= sum(client.sent for client in clients))
        for client in clients:
            mine = [entry - client.base for entry in received if entry // RawWriter.RANGE == client.number]
            self.assertEqual(mine, list(range(client.sent)), f"client {client.number}")
        self.assertGreater(reader.metrics().idle_closed, 50, "the race was run")
        self.assertEqual(reader.metrics().errors, 0)


if __name__ == "__main__":
    unittest.main()
