"""The scenarios of the Go library's own tests, run against libudsipc through its C API: one test per Go test or
subtest, with the same name in snake case. The Go library itself is not run.

Where a Go test looks inside (a private field, a mock connection or listener), the same thing is brought about and seen
from outside. Where libudsipc promises something else on purpose, the test asserts that promise and says so.
"""

import ctypes
import errno
import os
import socket
import threading
import time
import unittest

from support import (
    DEADLINE, InBackground, TestCase, fastest, fill_backlog, frame, receive_all, receive_exactly, refuses, wait_until,
)
from udsipc_capi import (
    ERR_ADDRESS_IN_USE, ERR_BACKPRESSURE, ERR_BUFFER_FULL, ERR_HANDLER_FAILED, ERR_HANDLER_NULL,
    ERR_INVALID_SOCKET_PATH, ERR_INVALID_TIMEOUT, ERR_MAX_ACCEPT_ERRORS_TOO_LARGE, ERR_MESSAGE_TOO_LARGE,
    ERR_NOT_CONNECTED, ERR_NO_CONSUMER, ERR_PERMISSION_DENIED, ERR_STOPPED, ERR_TIMEOUT, ERR_UNDELIVERED, FOREVER, OK,
    Reader, Writer, lib,
)

# More than the kernel's buffer holds: a peer that closes always closes in the middle of it.
LARGE = b"x" * (1 << 20)


def too_long():
    return "/" + "a" * (lib.udsipc_max_socket_path_length() + 10)


class AcceptAndClose:
    """A peer that accepts every connection and closes it: after `read` bytes, or at once."""

    def __init__(self, test, read=0):
        self.connections = 0
        self._read = read
        self._listener = test.listener()
        # A blocked accept(2) ends with EINVAL on shutdown; one with a timeout would poll and get EAGAIN without end.
        self._listener.settimeout(None)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        test.addCleanup(self.end)

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                if self._read:
                    connection.recv(self._read)

    def end(self):
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._thread.join(DEADLINE)
        self._listener.close()


class NewWriter(TestCase):
    def test_valid_basic_configuration(self):
        writer = self.writer()
        self.assertEqual(writer.socket_path(), self.path)
        self.assert_status(writer.stop(1_000), OK)

    def test_valid_with_options(self):
        writer = self.writer(max_buffered_writes=500, write_timeout_ms=2_000, dial_timeout_ms=1_000,
                             max_backoff_ms=5_000)
        self.assertEqual(writer.socket_path(), self.path)
        self.assert_status(writer.stop(1_000), OK)

    def test_empty_socket_path(self):
        self.assert_refused(ERR_INVALID_SOCKET_PATH, Writer, "")

    def test_zero_write_timeout(self):
        self.assert_refused(ERR_INVALID_TIMEOUT, Writer, self.path, write_timeout_ms=0)

    def test_negative_write_timeout(self):
        """There are no negative times here: what a C program gets when it passes -1 is UDSIPC_WAIT_FOREVER."""
        self.writer(write_timeout_ms=-1)
        self.writer(write_timeout_ms=FOREVER)

    def test_zero_dial_timeout(self):
        self.assert_refused(ERR_INVALID_TIMEOUT, Writer, self.path, dial_timeout_ms=0)

    def test_zero_max_backoff(self):
        self.assert_refused(ERR_INVALID_TIMEOUT, Writer, self.path, max_backoff_ms=0)

    def test_socket_path_too_long(self):
        text = self.assert_refused(ERR_INVALID_SOCKET_PATH, Writer, too_long())
        self.assertIn(str(lib.udsipc_max_socket_path_length()), text)


class WriterOptions(TestCase):
    """Go reads private fields. Here an option shows in what the writer does."""

    def test_with_max_buffered_writes(self):
        writer = self.writer(max_buffered_writes=2048)
        for _ in range(2048):
            self.assert_status(writer.write(b"x"), OK)
        self.assert_status(writer.write(b"x"), ERR_BUFFER_FULL)
        self.assertEqual(writer.metrics().queue_depth, 2048)

    def stalled(self, **options):
        """A writer whose reader takes nothing, and the moment from which on it waited."""
        listener = self.listener()
        writer = self.writer(start=True, **options)
        self.accept(listener)
        started = time.monotonic()
        self.assert_status(writer.write(LARGE), OK)
        return writer, started

    def test_with_write_timeout(self):
        writer, started = self.stalled(write_timeout_ms=150)
        wait_until(lambda: writer.errors)
        self.assertGreaterEqual(writer.errors[0].at - started, 0.15)
        self.assert_status(writer.errors[0].status, ERR_BACKPRESSURE)
        self.writer(write_timeout_ms=15_000)

    def test_with_dial_timeout(self):
        listener = self.listener(backlog=0)
        fill_backlog(self, listener)
        started = time.monotonic()
        writer = self.writer(start=True, dial_timeout_ms=200)
        wait_until(lambda: writer.errors)
        self.assertGreaterEqual(writer.errors[0].at - started, 0.2)
        self.assert_status(writer.errors[0].status, ERR_TIMEOUT)
        self.assertEqual(writer.errors[0].os_errno, errno.EAGAIN)

    def test_with_max_backoff(self):
        """With a short backoff many attempts are made in the time of a few with a long one."""
        short, long = self.writer(start=True, max_backoff_ms=10), self.writer(start=True, max_backoff_ms=60_000)
        wait_until(lambda: short.metrics().connect_failures >= 100)
        self.assertLess(long.metrics().connect_failures, 30)

    def test_with_write_buffer_size(self):
        """A larger SO_SNDBUF holds more before the writer has to wait."""
        taken = {}
        for size in (64 << 10, 512 << 10):
            path = f"{self.directory}/s{size}"
            listener = self.listener(path)
            writer = self.writer(path, start=True, write_buffer_size=size, write_timeout_ms=100)
            connection = self.accept(listener)
            self.assert_status(writer.write(4 * LARGE), OK)
            wait_until(lambda: writer.errors)  # it has been waiting for room
            connection.setblocking(False)
            first = 0
            writer.free()
            while part := connection.recv(1 << 20):
                first += len(part)
            taken[size] = first
        self.assertGreater(taken[512 << 10], taken[64 << 10])


class WriterQueue(TestCase):
    def test_writer_buffer_full(self):
        writer = self.writer(start=True, max_buffered_writes=2)
        for i in range(10):
            writer.write(b"message %d" % i)
        metrics = writer.metrics()
        self.assertEqual((metrics.sent, metrics.dropped, metrics.queue_depth), (0, 8, 2))

    def test_writer_empty_message_filtering(self):
        writer = self.writer(start=True)
        for message in (b"", b"message", b"", b"test"):
            self.assert_status(writer.write(message), OK)
        wait_until(lambda: writer.metrics().connect_failures)
        metrics = writer.metrics()
        self.assertEqual((metrics.queue_depth, metrics.sent, metrics.dropped), (2, 0, 0))

    def test_writer_message_queue_full(self):
        writer = self.writer(max_buffered_writes=2)
        self.assertEqual([writer.write(b"message") for _ in range(3)], [OK, OK, ERR_BUFFER_FULL])
        metrics = writer.metrics()
        self.assertEqual((metrics.sent, metrics.dropped, metrics.failed, metrics.queue_depth), (0, 1, 0, 2))

    def test_writer_message_queue_full_with_retry(self):
        """The queue refuses while the reader is slow, and takes again when it has drained."""
        gate = threading.Event()
        received = []

        def slow(message, _connection):
            gate.wait(DEADLINE)
            received.append(message)

        self.reader(on_message=slow, start=True)
        writer = self.writer(start=True, max_buffered_writes=5)
        # Larger than a socket's buffer together, so that the slow reader is felt.
        messages = [bytes([i]) * (256 << 10) for i in range(20)]
        refused = [message for message in messages if writer.write(message) == ERR_BUFFER_FULL]
        self.assertTrue(refused)
        gate.set()
        for message in refused:
            wait_until(lambda m=message: writer.write(m) == OK)
        wait_until(lambda: len(received) == 20)
        self.assertEqual(sorted(received), sorted(messages))


class WriterConnection(TestCase):
    def test_writer_connection_failure(self):
        writer = self.writer(start=True, dial_timeout_ms=100, max_backoff_ms=200)
        self.assert_status(writer.write(b"test message"), OK)
        wait_until(lambda: "failed to connect" in writer.contexts())
        self.assertEqual(writer.metrics().failed, 0)
        # Go's Stop returns nil here and throws the message away; this one says so.
        self.assert_status(writer.stop(FOREVER), ERR_UNDELIVERED)
        self.assertEqual(writer.metrics().abandoned, 1)

    def test_writer_reconnection(self):
        writer = self.writer(start=True, max_backoff_ms=100)
        self.assert_status(writer.write(b"test1"), OK)
        wait_until(lambda: writer.metrics().connect_failures)
        connection = self.accept(self.listener())
        self.assert_status(writer.write(b"test2"), OK)
        self.assertEqual(receive_exactly(connection, 12), frame(b"test1") + frame(b"test2"))

    def test_writer_close(self):
        writer = self.writer(start=True)
        self.assertEqual([writer.stop(FOREVER), writer.stop(FOREVER)], [OK, OK])

    def test_writer_write_failure(self):
        AcceptAndClose(self, read=1)
        writer = self.writer(start=True, write_timeout_ms=100, max_backoff_ms=10)
        for _ in range(3):
            self.assert_status(writer.write(LARGE), OK)
        wait_until(lambda: "write failure" in writer.contexts())
        self.assertGreater(writer.metrics().failed, 0)


class WriterShutdownRaceConditions(TestCase):
    def test_close_timing(self):
        def attempt():
            with Writer(self.path, start=True) as writer:
                wait_until(lambda: writer.metrics().connect_failures)
                started = time.monotonic()
                self.assert_status(writer.stop(FOREVER), OK)
                return time.monotonic() - started

        fastest(attempt, 0.5)

    def test_write_during_close(self):
        def attempt():
            with Writer(self.path, start=True, max_buffered_writes=100) as writer:
                wait_until(lambda: writer.metrics().connect_failures)
                begun = threading.Event()

                def write_all():
                    answers = []
                    for _ in range(50):
                        answers.append(writer.write(b"test message"))
                        begun.set()
                    return answers

                writing = InBackground(write_all)
                begun.wait(DEADLINE)
                started = time.monotonic()
                stopped = writer.stop(FOREVER)
                taken = time.monotonic() - started
                answers = writing.result()
                # Go answers nil and forgets the messages. Here each has an end: refused or abandoned.
                self.assert_status(stopped, ERR_UNDELIVERED)
                self.assertLessEqual(set(answers), {OK, ERR_STOPPED})
                metrics = writer.metrics()
                self.assertEqual((metrics.sent, metrics.abandoned), (0, answers.count(OK)))
                self.assertLessEqual(metrics.sent + metrics.dropped + metrics.failed, 50)
                return taken

        fastest(attempt, 1.0)

    def test_concurrent_close(self):
        def attempt():
            with Writer(self.path, start=True) as writer:
                started = time.monotonic()
                stops = [InBackground(lambda: writer.stop(FOREVER)) for _ in range(10)]
                self.assertEqual([stop.result() for stop in stops], [OK] * 10)
                return time.monotonic() - started

        fastest(attempt, 1.0)

    def test_close_during_connection(self):
        def attempt():
            with Writer(f"{self.directory}/nonexistent/test.sock", start=True) as writer:
                wait_until(lambda: writer.metrics().connect_failures >= 2)
                started = time.monotonic()
                self.assert_status(writer.stop(FOREVER), OK)
                return time.monotonic() - started

        fastest(attempt, 1.0)

    def test_close_after_write_failure(self):
        peer = AcceptAndClose(self, read=1)

        def attempt():
            with Writer(self.path, start=True, max_backoff_ms=10) as writer:
                for _ in range(10):
                    self.assert_status(writer.write(LARGE), OK)
                wait_until(lambda: writer.metrics().failed)
                started = time.monotonic()
                # A reader that takes nothing whole: every message is given up after max_attempts, none in silence.
                self.assert_status(writer.stop(FOREVER), ERR_UNDELIVERED)
                taken = time.monotonic() - started
                metrics = writer.metrics()
                self.assertEqual((metrics.sent, metrics.abandoned), (0, 10))
                return taken

        fastest(attempt, DEADLINE)
        self.assertGreater(peer.connections, 0)

    def test_context_timeout(self):
        def attempt():
            with Writer(self.path, start=True, max_buffered_writes=1000) as writer:
                for _ in range(100):
                    self.assert_status(writer.write(b"test message that won't be sent"), OK)
                started = time.monotonic()
                self.assert_status(writer.stop(0), ERR_TIMEOUT)
                taken = time.monotonic() - started
                self.assertEqual(writer.metrics().abandoned, 100)
                return taken

        fastest(attempt, 0.1)


class SendRetryMessage(TestCase):
    def test_successful_send(self):
        """A message that failed goes out whole, and first, on the next connection."""
        listener = self.listener()
        writer = self.writer(start=True, max_backoff_ms=10)
        first = self.accept(listener)
        self.assert_status(writer.write(LARGE), OK)
        receive_exactly(first, 1)
        first.close()
        second = self.accept(listener)
        self.assertEqual(receive_exactly(second, len(frame(LARGE))), frame(LARGE))
        wait_until(lambda: writer.metrics().sent == 1)
        metrics = writer.metrics()
        self.assertEqual((metrics.failed, metrics.retried), (1, 1))

    def test_failed_send(self):
        listener = self.listener()
        writer = self.writer(start=True, max_backoff_ms=10)
        first = self.accept(listener)
        listener.close()
        os.unlink(self.path)
        self.assert_status(writer.write(LARGE), OK)
        receive_exactly(first, 1)
        first.close()
        wait_until(lambda: writer.metrics().failed == 1)
        self.assert_status(writer.stop(FOREVER), ERR_UNDELIVERED)
        self.assertIn("write failure during drain (retry message)", writer.contexts())
        metrics = writer.metrics()
        self.assertEqual((metrics.sent, metrics.failed, metrics.abandoned), (0, 2, 1))


class WriterRetryOnFailure(TestCase):
    def test_retry_message_sent_during_drain_phase(self):
        """Go loses a message that waits for its retry when Stop comes. Here it is delivered."""
        listener = self.listener()
        writer = self.writer(start=True, max_backoff_ms=10)
        first = self.accept(listener)
        self.assert_status(writer.write(LARGE), OK)
        receive_exactly(first, 1)
        stopping = InBackground(lambda: writer.stop(FOREVER))
        first.close()
        second = self.accept(listener)
        self.assertEqual(receive_all(second), frame(LARGE))
        self.assert_status(stopping.result(), OK)

    def test_message_retried_after_write_failure(self):
        writer = self.writer(start=True, max_backoff_ms=100)
        self.assert_status(writer.write(b"test message"), OK)
        wait_until(lambda: writer.metrics().connect_failures)
        connection = self.accept(self.listener())
        self.assertEqual(receive_exactly(connection, 13), frame(b"test message"))
        wait_until(lambda: writer.metrics().sent >= 1)

    def test_multiple_messages_sent_after_reconnect(self):
        writer = self.writer(start=True, max_backoff_ms=100)
        for message in (b"first", b"second"):
            self.assert_status(writer.write(message), OK)
        wait_until(lambda: writer.metrics().connect_failures)
        connection = self.accept(self.listener())
        self.assertEqual(receive_exactly(connection, 13), frame(b"first") + frame(b"second"))
        self.assertEqual(writer.metrics().connections, 1)


class WriterGracefulShutdown(TestCase):
    def filled(self):
        writer = self.writer(start=True, max_buffered_writes=100)
        for i in range(50):
            self.assert_status(writer.write(b"message %d" % i), OK)
        return writer

    def test_clean_shutdown_with_sufficient_timeout(self):
        """Go returns nil although all 50 are lost; libudsipc returns in good time as well, and says what it lost."""
        writer = self.filled()
        self.assert_status(writer.stop(2_000), ERR_UNDELIVERED)
        metrics = writer.metrics()
        self.assertEqual((metrics.sent, metrics.abandoned, metrics.queue_depth), (0, 50, 0))

    def test_forced_shutdown_with_short_timeout(self):
        writer = self.filled()
        self.assert_status(writer.stop(1), ERR_TIMEOUT)
        self.assertEqual(writer.metrics().abandoned, 50)

    def test_cancelled_context(self):
        writer = self.filled()
        self.assert_status(writer.stop(0), ERR_TIMEOUT)
        self.assertEqual(writer.metrics().abandoned, 50)


class WriterClassifyWriteError(TestCase):
    """Go feeds made-up errors to a private function. Here the real ones come from the kernel."""

    def stall(self):
        listener = self.listener()
        writer = self.writer(start=True, write_timeout_ms=50, max_backoff_ms=10)
        connection = self.accept(listener)
        self.assert_status(writer.write(LARGE), OK)
        return writer, listener, connection

    def test_timeout_error(self):
        writer, _listener, _connection = self.stall()
        wait_until(lambda: writer.errors)
        self.assert_status(writer.errors[0].status, ERR_BACKPRESSURE)

    def test_non_timeout_net_error(self):
        writer, _listener, connection = self.stall()
        connection.close()
        wait_until(lambda: ERR_NO_CONSUMER in writer.statuses())
        record = next(record for record in writer.errors if record.status == ERR_NO_CONSUMER)
        self.assertIn(record.os_errno, (errno.EPIPE, errno.ECONNRESET), "the system's error is kept")

    def test_regular_error(self):
        """Nobody listens: a status of its own, where Go has ErrNoConsumer joined with ErrNotConnected."""
        writer = self.writer(start=True)
        wait_until(lambda: writer.errors)
        self.assert_status(writer.errors[0].status, ERR_NOT_CONNECTED)

    def test_wrapped_timeout_error(self):
        """A stall of a message that had failed before is a stall as well."""
        writer, listener, connection = self.stall()
        connection.close()
        wait_until(lambda: ERR_NO_CONSUMER in writer.statuses())
        self.accept(listener)
        wait_until(lambda: (ERR_BACKPRESSURE, "write failure after reconnect")
                   in [(record.status, record.context) for record in writer.errors])


class WriterDrain(TestCase):
    def test_writer_drain_error_handling(self):
        writer = self.writer(start=True, max_buffered_writes=100)
        for i in range(10):
            self.assert_status(writer.write(b"message %d" % i), OK)
        self.assertIn(writer.stop(100), (ERR_UNDELIVERED, ERR_TIMEOUT))
        self.assertEqual((writer.metrics().failed, writer.metrics().abandoned), (10, 10))
        self.assertEqual(writer.contexts().count("write failure during drain"), 1)


class NewReader(TestCase):
    def test_valid_basic_configuration(self):
        reader = self.reader()
        self.assert_status(reader.stop(FOREVER), OK)
        self.assertFalse(os.path.exists(self.path))

    def test_valid_with_options(self):
        reader = self.reader(max_message_size=1024, inactivity_timeout_ms=5_000, max_accept_errors=5)
        self.assert_status(reader.stop(FOREVER), OK)

    def test_nil_handler(self):
        out = ctypes.c_void_p()
        status = lib.udsipc_reader_new(os.fsencode(self.path), None, None, None, ctypes.byref(out))
        self.assert_status(status, ERR_HANDLER_NULL)
        self.assertFalse(os.path.exists(self.path))

    def test_empty_socket_path(self):
        self.assert_refused(ERR_INVALID_SOCKET_PATH, Reader, "")

    def test_invalid_max_accept_errors(self):
        self.assert_refused(ERR_MAX_ACCEPT_ERRORS_TOO_LARGE, Reader, self.path, max_accept_errors=64)

    def test_invalid_inactivity_timeout(self):
        self.assert_refused(ERR_INVALID_TIMEOUT, Reader, self.path, inactivity_timeout_ms=0)

    def test_socket_path_too_long(self):
        self.assert_refused(ERR_INVALID_SOCKET_PATH, Reader, too_long())


class ReaderOptions(TestCase):
    """Go reads private fields. Here an option shows in what the reader does."""

    def test_with_max_message_size(self):
        reader = self.reader(start=True, max_message_size=2048)
        self.client().sendall(frame(b"x" * 2048))
        wait_until(lambda: reader.messages)
        self.client().sendall(frame(b"x" * 2049))
        wait_until(lambda: reader.errors)
        self.assert_status(reader.errors[0].status, ERR_MESSAGE_TOO_LARGE)

    def test_with_inactivity_timeout(self):
        started = time.monotonic()
        reader = self.reader(start=True, inactivity_timeout_ms=150)
        self.assertEqual(receive_all(self.client()), b"")
        self.assertGreaterEqual(time.monotonic() - started, 0.15)
        self.assertEqual(reader.metrics().idle_closed, 1)

    def test_with_max_accept_errors(self):
        self.reader(max_accept_errors=20)
        self.assert_refused(ERR_MAX_ACCEPT_ERRORS_TOO_LARGE, Reader, f"{self.directory}/other", max_accept_errors=64)

    def test_with_read_buffer_size(self):
        """SO_RCVBUF has no effect on Linux (unix(7)): the option is taken, and messages far larger come through."""
        reader = self.reader(start=True, read_buffer_size=128 << 10)
        self.client().sendall(frame(LARGE))
        wait_until(lambda: reader.messages)
        self.assertEqual(reader.messages, [LARGE])


class ReaderMessageHandling(TestCase):
    def send_apart(self, *messages):
        """As the Go test: a connection per message, prefix and payload in two writes."""
        for message in messages:
            client = self.client()
            whole = frame(message)
            cut = len(whole) - len(message)
            client.sendall(whole[:cut])
            try:
                client.sendall(whole[cut:])
            except BrokenPipeError:
                pass  # the prefix alone can end the connection
            client.close()

    def test_single_message(self):
        reader = self.reader(start=True)
        self.send_apart(b"hello")
        wait_until(lambda: reader.metrics().received == 1)
        self.assertEqual((reader.messages, reader.metrics().connections), ([b"hello"], 1))

    def test_multiple_messages(self):
        reader = self.reader(start=True)
        self.send_apart(b"msg1", b"msg2", b"msg3")
        wait_until(lambda: reader.metrics().received == 3)
        self.assertEqual(sorted(reader.messages), [b"msg1", b"msg2", b"msg3"])
        self.assertEqual(reader.metrics().connections, 3)

    def test_empty_message(self):
        reader = self.reader(start=True)
        self.send_apart(b"")
        wait_until(lambda: reader.metrics().connections == 1 and reader.metrics().active_connections == 0)
        self.assertEqual((reader.messages, reader.metrics().received, reader.metrics().errors), ([], 0, 0))

    def test_message_too_large(self):
        reader = self.reader(start=True, max_message_size=1000)
        self.send_apart(b"x" * 1001)
        wait_until(lambda: reader.errors)
        self.assertEqual(reader.contexts(), ["message too large"])
        self.assertEqual((reader.messages, reader.metrics().errors), ([], 1))

    def test_handler_error(self):
        reader = self.reader(start=True, on_message=lambda *_: 1)
        self.send_apart(b"test")
        wait_until(lambda: reader.errors)
        self.assertEqual(reader.contexts(), ["handler failed to process a message"])
        self.assertEqual((reader.statuses(), reader.metrics().errors), ([ERR_HANDLER_FAILED], 1))


class ReaderStop(TestCase):
    def test_idempotent_close(self):
        reader = self.reader(start=True)
        self.assertEqual([reader.stop(FOREVER), reader.stop(FOREVER)], [OK, OK])

    def test_no_hang_on_close(self):
        def attempt():
            with Reader(self.path, start=True) as reader:
                started = time.monotonic()
                self.assert_status(reader.stop(FOREVER), OK)
                return time.monotonic() - started

        fastest(attempt, 1.0)

    def test_reader_context_cancellation(self):
        reader = self.reader(start=True)
        self.assert_status(reader.stop(FOREVER), OK)
        self.assertTrue(refuses(self.path))

    def test_reader_graceful_shutdown(self):
        entered, gate, processed = threading.Event(), threading.Event(), []

        def slow(message, _connection):
            entered.set()
            gate.wait(DEADLINE)
            processed.append(message)

        reader = self.reader(on_message=slow, start=True)
        client = self.client()
        client.sendall(frame(b"test message"))
        client.close()
        self.assertTrue(entered.wait(DEADLINE))
        stopping = InBackground(lambda: reader.stop(10_000))
        wait_until(lambda: refuses(self.path))
        self.assertTrue(stopping.running())
        gate.set()
        self.assert_status(stopping.result(), OK)
        self.assertEqual(processed, [b"test message"])

    def test_reader_forced_shutdown(self):
        """Stop gives up waiting for messages, never for a callback that runs, and starts none afterwards."""
        entered, gate, processed = threading.Semaphore(0), threading.Event(), []

        def slow(message, _connection):
            entered.release()
            gate.wait(DEADLINE)
            processed.append(message)

        reader = self.reader(on_message=slow, start=True)
        for i in range(2):
            client = self.client()
            client.sendall(frame(b"message %d" % i))
            client.close()
        for _ in range(2):
            self.assertTrue(entered.acquire(timeout=DEADLINE), "the callbacks of two connections overlap")
        stopping = InBackground(lambda: reader.stop(100))
        started = time.monotonic()
        wait_until(lambda: refuses(self.path) and time.monotonic() - started > 0.2)
        self.assertTrue(stopping.running(), "it waits for callbacks that run")
        gate.set()
        self.assertIn(stopping.result(), (OK, ERR_TIMEOUT))
        self.assertEqual(sorted(processed), [b"message 0", b"message 1"])


class ReaderAcceptErrorHandling(TestCase):
    """Go's listener is a mock. Here accept(2) fails because the process has no descriptor left."""

    TOO_MANY = "too many consecutive failures in accept loop"

    def starved(self, max_accept_errors):
        child = self.child()
        # The count is taken inside the callback: it is what the reader had counted when it reported.
        child.run(f"""
import resource
counted = []
def on_error(record):
    counted.append([record.context, reader.metrics().accept_errors])
reader = Reader({self.path!r}, start=True, max_accept_errors={max_accept_errors}, on_error=on_error)
""")
        warm = self.client()
        warm.sendall(frame(b"warm"))
        wait_until(lambda: child.run("len(reader.messages)") == 1)
        child.run("""
was = resource.getrlimit(resource.RLIMIT_NOFILE)
top = max(map(int, os.listdir('/proc/self/fd')))
held = []
resource.setrlimit(resource.RLIMIT_NOFILE, (top + 1, was[1]))
try:
    while True:
        held.append(os.dup(0))
except OSError:
    pass
""")
        self.client().sendall(frame(b"waits"))
        return child

    def feed(self, child):
        child.run("resource.setrlimit(resource.RLIMIT_NOFILE, was)\nwhile held:\n    os.close(held.pop())")

    def test_below_threshold(self):
        child = self.starved(63)
        wait_until(lambda: child.run("reader.metrics().accept_errors") >= 3)
        self.feed(child)
        wait_until(lambda: child.run("len(reader.messages)") == 2)
        self.assertEqual(child.run("counted"), [])
        self.assert_status(child.run("reader.stop(5_000)"), OK)

    def test_exceed_threshold(self):
        child = self.starved(1)
        wait_until(lambda: child.run("counted"))
        self.assertEqual(child.run("counted")[0][0], self.TOO_MANY)
        # Go's accept loop is over for good now. This one serves again when the shortage ends.
        self.feed(child)
        wait_until(lambda: child.run("len(reader.messages)") == 2)
        self.assert_status(child.run("reader.stop(5_000)"), OK)

    def test_at_threshold(self):
        # Behind the seventh comes a pause of 100 ms: the next one is not counted before the report has looked.
        child = self.starved(6)
        wait_until(lambda: child.run("counted"))
        self.assertEqual(child.run("counted"), [[self.TOO_MANY, 7]], "six are not too many, seven are")
        self.feed(child)
        self.assert_status(child.run("reader.stop(5_000)"), OK)


class ReaderWriterIntegration(TestCase):
    def exchange(self, messages, expected, reader_options=None, writer_options=None):
        reader = self.reader(start=True, **(reader_options or {}))
        writer = self.writer(start=True, **(writer_options or {}))
        for message in messages:
            self.assert_status(writer.write(message), OK)
        self.assert_status(writer.stop(10_000), OK)
        wait_until(lambda: reader.metrics().received >= len(expected))
        self.assert_status(reader.stop(10_000), OK)
        self.assertEqual(reader.messages, expected)
        self.assertEqual((writer.metrics().sent, reader.metrics().received), (len(expected), len(expected)))
        self.assert_quiet(reader, writer)

    def test_basic_communication(self):
        self.exchange([b"hello", b"world", b"test"], [b"hello", b"world", b"test"])

    def test_empty_messages(self):
        self.exchange([b"", b"test", b""], [b"test"])

    def test_large_messages(self):
        self.exchange([bytes(1024), bytes(2048)], [bytes(1024), bytes(2048)], {"max_message_size": 4096})

    def test_message_size_limit_exceeded(self):
        reader = self.reader(start=True, max_message_size=1000)
        writer = self.writer(start=True, acknowledge=0)
        self.assert_status(writer.write(bytes(2000)), OK)
        wait_until(lambda: reader.errors)
        self.assertEqual((reader.messages, reader.contexts()), ([], ["message too large"]))
        self.assert_quiet(writer)  # 2000 bytes fit into the kernel's buffer: sent

    def test_many_small_messages(self):
        messages = [b"msg%d" % i for i in range(100)]
        self.exchange(messages, messages)

    def test_small_buffer_high_throughput(self):
        """Go writes 20 messages and hopes that its sender takes none meanwhile; here nobody runs until it is full."""
        reader = self.reader(start=True)
        writer = self.writer(max_buffered_writes=15)
        messages = [b"message%d" % i for i in range(20)]
        self.assertEqual([writer.write(message) for message in messages], [OK] * 15 + [ERR_BUFFER_FULL] * 5)
        self.assert_status(writer.start(), OK)
        wait_until(lambda: reader.metrics().received == 15)
        self.assert_status(writer.stop(10_000), OK)
        self.assertEqual(reader.messages, messages[:15])
        self.assertEqual((writer.metrics().sent, writer.metrics().dropped), (15, 5))


class ReaderWriter(TestCase):
    def test_reader_writer_connection_recovery(self):
        """Go asks for more than 0 messages. Here all of them arrive, in order."""
        messages = [b"message%d" % i for i in range(1, 6)]
        first = self.reader()
        writer = self.writer(start=True, max_backoff_ms=100)
        self.assert_status(writer.write(messages[0]), OK)
        self.assert_status(first.start(), OK)
        for message in messages[1:3]:
            self.assert_status(writer.write(message), OK)
        wait_until(lambda: len(first.messages) == 3)
        self.assert_status(first.stop(10_000), OK)
        second = self.reader(start=True)
        for message in messages[3:]:
            self.assert_status(writer.write(message), OK)
        wait_until(lambda: len(second.messages) == 2)
        self.assertEqual(first.messages + second.messages, messages)

    def test_reader_writer_concurrent_senders(self):
        reader = self.reader(start=True)

        def send(number):
            with Writer(self.path, start=True) as writer:
                for i in range(10):
                    self.assert_status(writer.write(b"writer%d_msg%d" % (number, i)), OK)
                return writer.stop(10_000)

        senders = [InBackground(lambda n=n: send(n)) for n in range(5)]
        self.assertEqual([sender.result() for sender in senders], [OK] * 5)
        wait_until(lambda: reader.metrics().received >= 50)
        expected = [b"writer%d_msg%d" % (n, i) for n in range(5) for i in range(10)]
        self.assertEqual(sorted(reader.messages), sorted(expected))

    def test_reader_writer_handler_error(self):
        calls = []

        def every_second_fails(message, _connection):
            calls.append(message)
            return len(calls) % 2 == 0

        reader = self.reader(on_message=every_second_fails, start=True)
        writer = self.writer(start=True)
        for i in range(6):
            self.assert_status(writer.write(b"message%d" % i), OK)
        wait_until(lambda: len(reader.errors) == 3)
        self.assertEqual(calls, [b"message%d" % i for i in range(6)])
        self.assertEqual(reader.contexts(), ["handler failed to process a message"] * 3)
        self.assertEqual((reader.metrics().errors, reader.metrics().received), (3, 3))


class Systemd(TestCase):
    def environment(self, **variables):
        child = self.child(env=variables)
        return child.run("[lib.udsipc_systemd_is_active() != 0, lib.udsipc_systemd_runtime_dir().decode(),"
                         " lib.udsipc_systemd_state_dir().decode()]")

    def test_no_systemd_environment(self):
        self.assertEqual(self.environment(), [False, "", ""])

    def test_runtime_directory_only(self):
        self.assertEqual(self.environment(RUNTIME_DIRECTORY="/run/myservice"), [True, "/run/myservice", ""])

    def test_state_directory_only(self):
        self.assertEqual(self.environment(STATE_DIRECTORY="/var/lib/myservice"), [False, "", "/var/lib/myservice"])

    def test_both_directories(self):
        self.assertEqual(self.environment(RUNTIME_DIRECTORY="/run/myservice", STATE_DIRECTORY="/var/lib/myservice"),
                         [True, "/run/myservice", "/var/lib/myservice"])

    def resolved(self, **variables):
        return self.child(env=variables).run("resolve_socket_path('/tmp/fallback.sock')")

    def test_no_systemd_use_fallback(self):
        self.assertEqual(self.resolved(), "/tmp/fallback.sock")

    def test_systemd_with_runtime_dir(self):
        runtime = f"{self.directory}/runtime"
        self.assertEqual(self.resolved(RUNTIME_DIRECTORY=runtime), f"{runtime}/fallback.sock")

    def test_log_environment_standalone_mode(self):
        child = self.child()
        child.run(f"reader = Reader({self.path!r})")
        line = child.run("reader.describe()")
        self.assertIn("standalone", line)
        self.assertIn(self.path, line)


class FileSystem(TestCase):
    """permission_denied is skipped by Go when root runs it. A child that gives root up runs it in any case."""

    def unprivileged(self, call):
        child = self.child()
        child.run("if os.geteuid() == 0:\n    os.seteuid(65534)")
        return child.run(call)

    def locked(self):
        locked = os.path.join(self.directory, "readonly")
        os.mkdir(locked)
        os.chmod(self.directory, 0o755)
        return locked

    def test_ensure_socket_dir_success_case(self):
        path = f"{self.directory}/test-socket-dir/test.sock"
        self.assert_status(lib.udsipc_ensure_socket_dir(path.encode()), OK)
        self.assertTrue(os.path.isdir(os.path.dirname(path)))

    def test_ensure_socket_dir_permission_denied(self):
        locked = self.locked()
        os.chmod(locked, 0o555)
        path = f"{locked}/subdir/test.sock"
        self.assert_status(self.unprivileged(f"lib.udsipc_ensure_socket_dir({path.encode()!r})"), ERR_PERMISSION_DENIED)

    def test_cleanup_socket_file_exists(self):
        """Go deletes whatever lies there, also a file that is no socket. That is refused here, on purpose."""
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(self.path)
        self.assert_status(lib.udsipc_cleanup_socket(self.path.encode()), OK)
        self.assertFalse(os.path.exists(self.path))
        with open(self.path, "w", encoding="ascii") as file:
            file.write("precious")
        self.assert_status(lib.udsipc_cleanup_socket(self.path.encode()), ERR_ADDRESS_IN_USE)
        self.assertTrue(os.path.exists(self.path))

    def test_cleanup_socket_file_does_not_exist(self):
        self.assert_status(lib.udsipc_cleanup_socket(self.path.encode()), OK)

    def test_cleanup_socket_permission_denied(self):
        locked = self.locked()
        path = f"{locked}/test.sock"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(path)
        os.chmod(path, 0o777)
        os.chmod(locked, 0o555)
        self.assert_status(self.unprivileged(f"lib.udsipc_cleanup_socket({path.encode()!r})"), ERR_PERMISSION_DENIED)


if __name__ == "__main__":
    unittest.main()
