"""Options: defaults, ranges, order of checks, and what constructors leave alone."""

import os
import socket
import time
import unittest

from support import TestCase, fill_backlog, frame, is_closed, refuses, socket_descriptors, wait_until
from udsipc_capi import (
    ERR_BACKPRESSURE, ERR_BUFFER_FULL, ERR_HANDLER_NULL, ERR_INVALID_ARGUMENT, ERR_INVALID_BUFFER_SIZE,
    ERR_INVALID_SOCKET_PATH, ERR_INVALID_TIMEOUT, ERR_MAX_ACCEPT_ERRORS_TOO_LARGE, ERR_MESSAGE_TOO_LARGE,
    ERR_NULL_POINTER, ERR_UNDELIVERED, FOREVER, OK, Reader, Writer, byref, c_void_p, lib,
)


class WriterOptions(TestCase):
    def test_default_queue_holds_ten_thousand_messages(self):
        writer = self.writer()
        status, accepted = writer.write_many([b"x"] * 10_001)
        self.assert_status(status, ERR_BUFFER_FULL)
        self.assertEqual((accepted, writer.metrics().queue_depth), (10_000, 10_000))

    def test_default_message_limit_is_the_readers(self):
        writer = self.writer()
        self.assert_status(writer.write(bytes(10 << 20)), OK)
        self.assert_status(writer.write(bytes((10 << 20) + 1)), ERR_MESSAGE_TOO_LARGE)
        self.assertEqual(writer.metrics().queue_bytes, 10 << 20)

    def send_buffer_of(self, **options):
        """SO_SNDBUF of the writer's connection, found among this process's descriptors."""
        listener = self.listener(os.path.join(self.directory, f"buffer{len(options)}"))
        writer = self.writer(listener.getsockname(), **options)
        before = set(socket_descriptors())
        writer.start()
        peer = self.accept(listener)
        wait_until(writer.is_connected)
        descriptors = socket_descriptors()
        [name] = [name for name in set(descriptors) - before if descriptors[name] != peer.fileno()]
        with socket.socket(fileno=os.dup(descriptors[name])) as connection:
            return connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def test_send_buffer(self):
        """The kernel doubles what it is asked for and cuts it at wmem_max (socket(7))."""
        with open("/proc/sys/net/core/wmem_max", encoding="ascii") as limit:
            wmem_max = int(limit.read())
        self.assertEqual(self.send_buffer_of(), 2 * min(256 << 10, wmem_max))
        self.assertEqual(self.send_buffer_of(write_buffer_size=64 << 10), 2 * min(64 << 10, wmem_max))

    def test_send_buffer_zero_leaves_the_systems(self):
        with open("/proc/sys/net/core/wmem_default", encoding="ascii") as default:
            self.assertEqual(self.send_buffer_of(write_buffer_size=0), int(default.read()))

    def test_default_write_timeout_is_a_second(self):
        listener = self.listener()
        writer = self.writer(start=True)
        self.accept(listener)
        wait_until(writer.is_connected)
        started = time.monotonic()
        writer.write(bytes(4 << 20))
        wait_until(lambda: ERR_BACKPRESSURE in writer.statuses())
        self.assertGreater(writer.errors[0].at - started, 0.9)

    def test_default_dial_timeout_is_a_second(self):
        listener = self.listener(backlog=0)
        fill_backlog(self, listener)
        writer = self.writer()
        started = time.monotonic()
        writer.start()
        wait_until(lambda: writer.errors)
        self.assertGreater(writer.errors[0].at - started, 0.9)
        self.assertEqual(writer.errors[0].context, "failed to connect")

    def test_times_of_zero_are_refused(self):
        for name in ("write_timeout_ms", "dial_timeout_ms", "max_backoff_ms"):
            with self.subTest(name):
                self.assert_refused(ERR_INVALID_TIMEOUT, Writer, self.path, **{name: 0})

    def test_queue_size_range(self):
        for messages in (0, (1 << 20) + 1, 2**32 - 1):
            with self.subTest(messages):
                self.assert_refused(ERR_INVALID_BUFFER_SIZE, Writer, self.path, max_buffered_writes=messages)
        for messages in (1, 1 << 20):
            self.writer(max_buffered_writes=messages)

    def test_a_refusing_setter_changes_nothing(self):
        options = lib.udsipc_writer_options_new()
        self.addCleanup(lib.udsipc_writer_options_free, options)
        self.assert_status(lib.udsipc_writer_options_set_max_buffered_writes(options, 3), OK)
        self.assert_status(lib.udsipc_writer_options_set_max_buffered_writes(options, 0), ERR_INVALID_BUFFER_SIZE)
        handle = c_void_p()
        self.assert_status(lib.udsipc_writer_new(self.path.encode(), options, byref(handle)), OK)
        self.addCleanup(lib.udsipc_writer_free, handle)
        statuses = [lib.udsipc_write_message(handle, b"x", 1) for _ in range(4)]
        self.assertEqual(statuses, [OK, OK, OK, ERR_BUFFER_FULL])

    def test_go_values_are_taken_and_the_last_one_counts(self):
        options = lib.udsipc_writer_options_new()
        self.addCleanup(lib.udsipc_writer_options_free, options)
        for name, values in {
            "max_buffered_writes": (2048, 2), "write_timeout_ms": (15_000,), "dial_timeout_ms": (3_000,),
            "max_backoff_ms": (60_000,), "write_buffer_size": (512 << 10,),
        }.items():
            for value in values:
                self.assert_status(getattr(lib, f"udsipc_writer_options_set_{name}")(options, value), OK)
        self.assert_status(lib.udsipc_writer_options_set_error_callback(options, None, None), OK)
        handle = c_void_p()
        self.assert_status(lib.udsipc_writer_new(self.path.encode(), options, byref(handle)), OK)
        self.addCleanup(lib.udsipc_writer_free, handle)
        statuses = [lib.udsipc_write_message(handle, b"x", 1) for _ in range(3)]
        self.assertEqual(statuses, [OK, OK, ERR_BUFFER_FULL])

    def test_byte_limit_bounds_the_queue(self):
        writer = self.writer(max_buffered_bytes=1000)
        self.assert_status(writer.write(b"x" * 600), OK)
        self.assert_status(writer.write(b"x" * 400), OK)
        self.assert_status(writer.write(b"x"), ERR_BUFFER_FULL)
        metrics = writer.metrics()
        self.assertEqual((metrics.queue_depth, metrics.queue_bytes, metrics.dropped), (2, 1000, 1))

    def test_one_message_above_the_byte_limit_is_taken_while_the_queue_is_empty(self):
        for size in (1001, 100_000):
            writer = self.writer(max_buffered_bytes=1000)
            self.assert_status(writer.write(b"x" * size), OK)
            self.assert_status(writer.write(b"x"), ERR_BUFFER_FULL)
            self.assert_status(writer.write(b"x" * size), ERR_BUFFER_FULL)
            metrics = writer.metrics()
            self.assertEqual((metrics.queue_depth, metrics.queue_bytes, metrics.dropped), (1, size, 2))

    def test_the_byte_limit_is_64_mib_by_default(self):
        writer = self.writer()
        mebibyte = bytes(1 << 20)
        self.assertEqual([writer.write(mebibyte) for _ in range(65)], [OK] * 64 + [ERR_BUFFER_FULL])
        self.assertEqual(writer.metrics().queue_bytes, 64 << 20)

        writer = self.writer(max_buffered_bytes=0)
        self.assertEqual([writer.write(mebibyte) for _ in range(65)], [OK] * 65)

    def test_new_touches_neither_file_nor_socket(self):
        missing = os.path.join(self.directory, "missing", "s")
        before = set(socket_descriptors())
        writer = self.writer(missing)
        self.assertEqual(os.listdir(self.directory), [])
        self.assertEqual(set(socket_descriptors()), before)
        self.assertEqual(writer.socket_path(), missing)

    def test_socket_path_is_verbatim(self):
        for path in (f"{self.directory}/a/../s", "relative", "@abstract", f"{self.directory}//s"):
            self.assertEqual(self.writer(path).socket_path(), path)

    def test_paths_are_checked_first(self):
        self.assert_refused(ERR_INVALID_SOCKET_PATH, Writer, b"")
        handle = c_void_p()
        self.assert_status(lib.udsipc_writer_new(None, None, byref(handle)), ERR_NULL_POINTER)
        self.assertFalse(handle, "an output is written on success only")

    def test_null_options_are_the_defaults(self):
        handle = c_void_p()
        self.assert_status(lib.udsipc_writer_new(self.path.encode(), None, byref(handle)), OK)
        self.addCleanup(lib.udsipc_writer_free, handle)
        self.assert_status(lib.udsipc_write_message(handle, b"x", 1), OK)

    def test_a_writer_never_started_can_be_stopped(self):
        self.assert_status(self.writer().stop(FOREVER), OK)
        writer = self.writer()
        writer.write(b"x")
        self.assert_status(writer.stop(FOREVER), ERR_UNDELIVERED)
        self.assertEqual((writer.metrics().abandoned, writer.metrics().queue_depth), (1, 0))


class ReaderOptions(TestCase):
    def test_default_message_limit(self):
        reader = self.reader(start=True)
        client = self.client()
        client.sendall(frame(b"x" * (10 << 20)))
        wait_until(lambda: reader.metrics().received == 1)
        self.assertEqual(len(reader.messages[0]), 10 << 20)
        client.sendall(frame(b"x" * ((10 << 20) + 1))[:100])
        wait_until(lambda: reader.errors)
        self.assertEqual(reader.statuses(), [ERR_MESSAGE_TOO_LARGE])

    def test_default_inactivity_timeout_is_ten_seconds(self):
        reader = self.reader(start=True)
        client = self.client()
        wait_until(lambda: reader.metrics().active_connections == 1)
        connected = time.monotonic()
        wait_until(lambda: is_closed(client))
        self.assertGreater(time.monotonic() - connected, 9.0)
        self.assertEqual(reader.metrics().idle_closed, 1)
        self.assert_quiet(reader)

    def test_inactivity_timeout_of_zero_is_refused(self):
        self.assert_refused(ERR_INVALID_TIMEOUT, Reader, self.path, inactivity_timeout_ms=0)
        self.assertEqual(os.listdir(self.directory), [], "a refused option touches no file")

    def test_inactivity_timeout_may_be_for_ever(self):
        reader = self.reader(start=True, inactivity_timeout_ms=FOREVER)
        client = self.client()
        wait_until(lambda: reader.metrics().active_connections == 1)
        self.assertFalse(is_closed(client))
        client.sendall(frame(b"x"))
        wait_until(lambda: reader.messages == [b"x"])

    def test_max_accept_errors_range(self):
        self.assert_refused(ERR_MAX_ACCEPT_ERRORS_TOO_LARGE, Reader, self.path, max_accept_errors=64)
        for count in (0, 63):
            self.reader(os.path.join(self.directory, f"s{count}"), max_accept_errors=count)

    def test_max_handler_threads_range(self):
        self.assert_refused(ERR_INVALID_ARGUMENT, Reader, self.path, max_handler_threads=0)

    def test_go_values_are_taken(self):
        reader = self.reader(start=True, max_message_size=2048, inactivity_timeout_ms=15_000, max_accept_errors=20,
                             read_buffer_size=128 << 10)
        client = self.client()
        client.sendall(frame(b"x" * 2048))
        wait_until(lambda: reader.messages == [b"x" * 2048])

    def test_read_buffer_sizes_are_taken_without_effect(self):
        for size in (0, 1, 128 << 10):
            reader = self.reader(os.path.join(self.directory, f"s{size}"), start=True, read_buffer_size=size)
            client = self.client(reader.socket_path())
            client.sendall(frame(b"x"))
            wait_until(lambda: reader.messages == [b"x"])

    def test_any_message_limit_is_taken(self):
        for size in (0, 1, 2**63, FOREVER):
            self.reader(os.path.join(self.directory, f"s{size}"), max_message_size=size)

    def test_checks_come_before_side_effects(self):
        handle = c_void_p()
        new = lib.udsipc_reader_new
        self.assert_status(new(self.path.encode(), None, None, None, byref(handle)), ERR_HANDLER_NULL)
        self.assert_status(new(b"", None, None, None, byref(handle)), ERR_HANDLER_NULL)
        self.assert_refused(ERR_INVALID_SOCKET_PATH, Reader, b"")
        self.assert_refused(ERR_INVALID_SOCKET_PATH, Reader, f"{self.directory}/dir/{'x' * 120}")
        self.assertFalse(handle)
        self.assertEqual(os.listdir(self.directory), [])

    def test_new_binds_and_start_serves_what_waited(self):
        reader = self.reader()
        self.assertTrue(os.path.exists(self.path))
        for number in range(3):
            client = self.client()
            client.sendall(frame(b"early %d" % number))
            client.close()
        self.assertEqual(reader.messages, [])
        reader.start()
        wait_until(lambda: len(reader.messages) == 3)
        self.assertEqual(sorted(reader.messages), [b"early 0", b"early 1", b"early 2"])

    def test_a_reader_never_started_can_be_stopped(self):
        reader = self.reader()
        self.assert_status(reader.stop(FOREVER), OK)
        self.assertFalse(os.path.exists(self.path))
        self.assertTrue(refuses(self.path))

    def test_socket_path_is_known(self):
        self.assertEqual(self.reader().socket_path(), self.path)


if __name__ == "__main__":
    unittest.main()
