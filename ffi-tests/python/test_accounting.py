"""The books: accepted = sent + abandoned + queue_depth, at every moment; what each call of the writer answers."""

import ctypes
import os
import socket
import threading
import time
import unittest

from stream import number_of, numbered
from support import InBackground, TestCase, client_has_been_read, frame, is_closed, receive_exactly, wait_until
from udsipc_capi import (
    ERR_BUFFER_FULL, ERR_INVALID_ARGUMENT, ERR_MESSAGE_TOO_LARGE, ERR_NULL_POINTER, ERR_STOPPED, ERR_TIMEOUT,
    ERR_UNDELIVERED, FOREVER, OK, ReaderMetrics, WriterMetrics, byref, c_size_t, lib, sizeof,
)


class Books(TestCase):
    def watch(self, writer, accepted):
        """Looks at the metrics as often as it can until told to end. `accepted` gives (surely, at most) so far."""
        seen = {"looks": 0, "end": False}

        def look():
            while not seen["end"]:
                surely = accepted()[0]
                metrics = writer.metrics()
                at_most = accepted()[1]
                total = metrics.sent + metrics.abandoned + metrics.queue_depth
                if not surely <= total <= at_most:
                    raise AssertionError(f"{surely} <= {total} <= {at_most}: {metrics}")
                seen["looks"] += 1

        watcher = InBackground(look)

        def end():
            seen["end"] = True
            watcher.result()
            return seen["looks"]

        return end

    def produce(self, writer, seconds, **sizes):
        """Writes for a while under the watcher's eyes; returns (accepted, payload bytes)."""
        state = {"begun": 0, "accepted": 0, "bytes": 0}
        end_watch = self.watch(writer, lambda: (state["accepted"], state["begun"]))
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            length = sizes.get("length", 16)
            state["begun"] += 1
            status = writer.write(numbered(state["accepted"], length))
            if status == OK:
                state["accepted"] += 1
                state["bytes"] += length
            else:
                state["begun"] -= 1
                self.assert_status(status, ERR_BUFFER_FULL)
        self.assertGreater(end_watch(), 50)
        return state["accepted"], state["bytes"]

    def test_while_streaming(self):
        reader = self.reader(start=True, on_batch=lambda *_: None)
        writer = self.writer(start=True)
        accepted, payload = self.produce(writer, 1.5)
        self.assert_status(writer.stop(20_000), OK)
        metrics = writer.metrics()
        self.assertEqual((metrics.sent, metrics.sent_bytes), (accepted, payload))
        self.assertEqual((metrics.queue_depth, metrics.queue_bytes), (0, 0))
        wait_until(lambda: reader.metrics().received == accepted)
        self.assertEqual(reader.metrics().received_bytes, payload)

    def test_while_readers_come_and_go(self):
        writer = self.writer(start=True, max_backoff_ms=20)
        end = threading.Event()
        received = []

        def readers():
            while not end.is_set():
                reader = self.reader(start=True, on_batch=lambda messages, _: received.extend(map(number_of, messages)))
                begun = len(received)
                wait_until(lambda: len(received) > begun + 200 or end.is_set())
                self.assert_status(reader.stop(20_000), OK)
                reader.free()

        serving = InBackground(readers)
        accepted, _payload = self.produce(writer, 2.0, length=200)
        end.set()
        serving.result()
        last = self.reader(start=True, on_batch=lambda messages, _: received.extend(map(number_of, messages)))
        self.assert_status(writer.stop(20_000), OK)
        wait_until(lambda: len(received) >= accepted)
        self.assertEqual(received, list(range(accepted)))
        self.assert_status(last.stop(10_000), OK)

    def test_while_connections_break_over_unread_data(self):
        """Raw peers that read a little and close: what was cut is retried, what was unread is suspected."""
        listener = self.listener()
        writer = self.writer(start=True, max_attempts=2, max_backoff_ms=10)
        end = threading.Event()

        def peers():
            listener.settimeout(0.05)
            while not end.is_set():
                try:
                    with listener.accept()[0] as connection:
                        connection.settimeout(0.05)
                        connection.recv(100_000)
                except TimeoutError:
                    pass

        serving = InBackground(peers)
        accepted, _payload = self.produce(writer, 1.5, length=5000)
        writer.stop(200)
        end.set()
        serving.result()
        metrics = writer.metrics()
        self.assertEqual(metrics.sent + metrics.abandoned, accepted)
        self.assertEqual((metrics.queue_depth, metrics.queue_bytes), (0, 0))
        self.assertGreater(metrics.suspected_lost, 0)
        self.assertLessEqual(metrics.suspected_lost, metrics.sent)

    def test_when_stop_gives_up(self):
        writer = self.writer(start=True)
        accepted, _payload = self.produce(writer, 0.5)
        writer.stop(FOREVER)
        metrics = writer.metrics()
        self.assertEqual((metrics.abandoned, metrics.queue_depth, metrics.sent), (accepted, 0, 0))

    def test_refusals_are_counted_once_each(self):
        writer = self.writer(max_buffered_writes=10)
        statuses = [writer.write(b"x") for _ in range(25)]
        self.assertEqual(statuses.count(ERR_BUFFER_FULL), 15)
        self.assertEqual(writer.metrics().dropped, 15)

    def test_failed_counts_attempts_and_sent_counts_messages(self):
        listener = self.listener()
        writer = self.writer(start=True)
        message = bytes(2 << 20)
        writer.write(message)
        connection = self.accept(listener)
        receive_exactly(connection, 1000)
        connection.close()
        connection = self.accept(listener)
        receive_exactly(connection, len(frame(message)))
        wait_until(lambda: writer.metrics().sent == 1)
        metrics = writer.metrics()
        self.assertEqual((metrics.failed, metrics.sent, metrics.retried, metrics.connections), (1, 1, 1, 2))

    def test_what_is_being_written_counts_in_the_queue(self):
        listener = self.listener()
        writer = self.writer(start=True)
        connection = self.accept(listener)
        writer.write(bytes(4 << 20))
        receive_exactly(connection, 1000)
        metrics = writer.metrics()
        self.assertEqual((metrics.queue_depth, metrics.queue_bytes, metrics.sent), (1, 4 << 20, 0))
        receive_exactly(connection, (4 << 20) + 4 - 1000)
        wait_until(lambda: writer.metrics().sent == 1)
        self.assertEqual(writer.metrics().queue_depth, 0)

    def test_reader_errors_count_one_each(self):
        """Failed callback, oversize, bad prefix, cut prefix, cut payload; not: clean end, empty frame, inactivity."""
        reader = self.reader(start=True, max_message_size=100, inactivity_timeout_ms=1_000,
                             on_message=lambda message, _: message == b"fail")
        faults = [frame(b"fail"), b"\x65", b"\xff" * 10, b"\x80", b"\x05abc"]
        harmless = [b"\x00", b"", frame(b"fine")]
        for wire in faults + harmless:
            client = self.client()
            client.sendall(wire)
            client.shutdown(socket.SHUT_WR)
            wait_until(lambda: is_closed(client))
        silent = self.client()
        wait_until(lambda: is_closed(silent))
        self.assertEqual((reader.metrics().errors, reader.metrics().received), (5, 1))

    def test_an_older_programs_smaller_struct_gets_what_fits(self):
        """Law 11: structs only grow at the end, and the library never writes behind the size that it is told."""
        writer, reader = self.writer(), self.reader()
        writer.write(b"x")
        for call, struct, handle in (
            (lib.udsipc_writer_get_metrics, WriterMetrics, writer.handle),
            (lib.udsipc_reader_get_metrics, ReaderMetrics, reader.handle),
        ):
            whole = struct()
            ctypes.memset(byref(whole), 0xEE, sizeof(whole))
            self.assert_status(call(handle, whole, 24), OK)
            fields = [getattr(whole, name) for name, _type in struct._fields_]
            self.assertTrue(all(value == 0xEEEEEEEEEEEEEEEE for value in fields[3:]), fields)
            self.assertTrue(all(value < 10 for value in fields[:3]), fields)
            larger = (ctypes.c_uint64 * 40)(*[7] * 40)
            self.assert_status(call(handle, ctypes.cast(larger, ctypes.POINTER(struct)), sizeof(larger)), OK)


class WriteMessages(TestCase):
    def test_all_in_order(self):
        reader = self.reader(start=True)
        writer = self.writer(start=True)
        messages = [numbered(number, 8 + number % 3000) for number in range(5000)]
        self.assertEqual(writer.write_many(messages), (OK, 5000))
        wait_until(lambda: len(reader.messages) == 5000)
        self.assertEqual(reader.messages, messages)

    def test_it_stops_at_the_first_that_is_refused(self):
        writer = self.writer(max_buffered_writes=10)
        self.assertEqual(writer.write_many([b"x"] * 15), (ERR_BUFFER_FULL, 10))
        self.assertEqual(writer.metrics().queue_depth, 10)
        self.assertGreaterEqual(writer.metrics().dropped, 1)

        writer = self.writer(max_message_size=100)
        self.assertEqual(writer.write_many([b"a", b"b", bytes(101), b"c"]), (ERR_MESSAGE_TOO_LARGE, 2))
        self.assertEqual(writer.metrics().queue_depth, 2)

        writer = self.writer(max_buffered_bytes=100)
        self.assertEqual(writer.write_many([bytes(60), bytes(40), b"c"]), (ERR_BUFFER_FULL, 2))

        writer = self.writer(max_buffered_bytes=100)
        self.assertEqual(writer.write_many([b"", bytes(101), b"", b"c"]), (ERR_BUFFER_FULL, 3))
        self.assertEqual(writer.metrics().queue_bytes, 101)

    def test_empty_messages_among_others(self):
        reader = self.reader(start=True)
        writer = self.writer(start=True)
        self.assertEqual(writer.write_many([b"", b"a", b"", b"b", b""]), (OK, 5))
        wait_until(lambda: len(reader.messages) == 2)
        self.assertEqual(reader.messages, [b"a", b"b"])
        wait_until(lambda: writer.metrics().sent == 2)  # a message may arrive before its writer has counted it

    def test_none_at_all(self):
        writer = self.writer()
        self.assertEqual(writer.write_many([]), (OK, 0))

    def test_accepted_is_written_also_on_failure(self):
        writer = self.writer()
        accepted = c_size_t(99)
        status = lib.udsipc_write_messages(writer.handle, None, 3, byref(accepted))
        self.assertIn(status, (ERR_NULL_POINTER, ERR_INVALID_ARGUMENT))
        self.assertEqual(accepted.value, 0)
        writer.stop(0)
        self.assertEqual(writer.write_many([b"x"]), (ERR_STOPPED, 0))


class WriteWithTimeout(TestCase):
    def test_room_at_once(self):
        writer = self.writer(max_buffered_writes=1)
        self.assert_status(writer.write_timeout(b"x", 0), OK)
        self.assertEqual(writer.metrics().queue_depth, 1)

    def test_no_room_in_time(self):
        writer = self.writer(max_buffered_writes=1, start=True)
        writer.write(b"x")
        started = time.monotonic()
        self.assert_status(writer.write_timeout(b"y", 150), ERR_TIMEOUT)
        self.assertGreaterEqual(time.monotonic() - started, 0.149)
        self.assertIn(writer.write_timeout(b"y", 0), (ERR_TIMEOUT, ERR_BUFFER_FULL))
        self.assertEqual(writer.metrics().queue_depth, 1, "a message that was not taken is not queued")

    def test_room_in_time(self):
        writer = self.writer(max_buffered_writes=1, start=True, max_backoff_ms=20)
        writer.write(b"x")
        waiting = [InBackground(lambda message=message: writer.write_timeout(message, 25_000))
                   for message in (b"a", b"b", b"c")]
        started = time.monotonic()
        wait_until(lambda: time.monotonic() - started > 0.1)
        self.assertTrue(all(call.running() for call in waiting))
        reader = self.reader(start=True)
        self.assertEqual([call.result() for call in waiting], [OK] * 3)
        wait_until(lambda: len(reader.messages) == 4)
        self.assertEqual(sorted(reader.messages), [b"a", b"b", b"c", b"x"])

    def test_it_waits_for_bytes_too(self):
        writer = self.writer(max_buffered_bytes=1000, start=True, max_backoff_ms=20)
        writer.write(bytes(1000))
        waiting = InBackground(lambda: writer.write_timeout(bytes(1000), 25_000))
        reader = self.reader(start=True)
        self.assert_status(waiting.result(), OK)
        wait_until(lambda: len(reader.messages) == 2)

    def test_what_can_never_fit_is_refused_without_waiting(self):
        writer = self.writer(max_message_size=100)
        self.assert_status(writer.write_timeout(bytes(101), FOREVER), ERR_MESSAGE_TOO_LARGE)

    def test_a_message_above_the_byte_limit_waits_for_an_empty_queue(self):
        writer = self.writer(max_buffered_bytes=1000, start=True, max_backoff_ms=20)
        for size in (400, 40_000):
            self.assert_status(writer.write(b"x"), OK)
            self.assert_status(writer.write_timeout(bytes(1000 + size), 100), ERR_TIMEOUT)
            waiting = InBackground(lambda: writer.write_timeout(bytes(1000 + size), 25_000))
            reader = self.reader(start=True)
            self.assert_status(waiting.result(), OK)
            wait_until(lambda: len(reader.messages) == 2)
            self.assertEqual([len(message) for message in reader.messages], [1, 1000 + size])
            reader.stop(5000)

    def test_ten_thousand_through_a_queue_of_three(self):
        reader = self.reader(start=True)
        writer = self.writer(start=True, max_buffered_writes=3)
        for number in range(10_000):
            self.assert_status(writer.write_timeout(numbered(number), 20_000), OK)
        wait_until(lambda: len(reader.messages) == 10_000)
        self.assertEqual([number_of(message) for message in reader.messages], list(range(10_000)))


class Flush(TestCase):
    def test_it_waits_until_the_reader_has_read(self):
        listener = self.listener()
        writer = self.writer(start=True)
        connection = self.accept(listener)
        writer.write(b"x" * 100)
        wait_until(lambda: writer.metrics().sent == 1)
        started = time.monotonic()
        self.assert_status(writer.flush(150), ERR_TIMEOUT)
        self.assertGreaterEqual(time.monotonic() - started, 0.149)
        self.assert_status(writer.flush(0), ERR_TIMEOUT)
        flushing = InBackground(lambda: writer.flush(25_000))
        receive_exactly(connection, 50)
        started = time.monotonic()
        wait_until(lambda: time.monotonic() - started > 0.05)
        self.assertTrue(flushing.running(), "half is not all")
        receive_exactly(connection, 51)
        self.assert_status(flushing.result(), OK)

    def test_everyone_who_waits_is_told_of_a_loss(self):
        # A thread that runs may not have come to its flush yet, and one that comes after the other was told is not told
        # again: so both being told must be seen once in many rounds, and one of them in each.
        for _ in range(100):
            listener = self.listener()
            writer = self.writer(start=True)
            connection = self.accept(listener)
            writer.write(b"one")
            writer.write(b"two")
            waiting = [InBackground(lambda: writer.flush(25_000)) for _ in range(2)]
            wait_until(lambda: writer.metrics().sent == 2)
            connection.close()
            listener.close()
            told = [flushing.result() for flushing in waiting]
            self.assertIn(ERR_UNDELIVERED, told)
            writer.free()
            os.unlink(self.path)
            if told == [ERR_UNDELIVERED, ERR_UNDELIVERED]:
                return
        self.fail("of two flushes only one was told, in a hundred rounds")

    def test_nothing_to_wait_for(self):
        writer = self.writer(start=True)
        self.assert_status(writer.flush(0), OK)
        self.reader(start=True)
        wait_until(writer.is_connected)
        self.assert_status(writer.flush(10_000), OK)

    def test_nobody_listens(self):
        writer = self.writer(start=True)
        writer.write(b"x")
        self.assert_status(writer.flush(100), ERR_TIMEOUT)
        self.assertEqual(writer.metrics().queue_depth, 1, "flush gives nothing up")

    def test_after_flush_the_reader_may_be_stopped_at_once(self):
        for _ in range(10):
            reader = self.reader(start=True)
            writer = self.writer(start=True)
            for number in range(500):
                writer.write(numbered(number, 100))
            self.assert_status(writer.flush(20_000), OK)
            self.assert_status(reader.stop(20_000), OK)
            self.assertEqual([number_of(message) for message in reader.messages], list(range(500)))
            writer.free()
            reader.free()

    def test_messages_written_later_do_not_prolong_it(self):
        received = []
        self.reader(start=True, on_batch=lambda messages, _: received.extend(messages))
        writer = self.writer(start=True)
        end = threading.Event()

        def produce():
            number = 0
            while not end.is_set():
                writer.write_timeout(numbered(number), 20_000)
                number += 1

        producer = InBackground(produce)
        wait_until(lambda: len(received) > 1000)
        for _ in range(5):
            self.assert_status(writer.flush(20_000), OK)
        end.set()
        producer.result()

    def test_it_goes_on_over_a_reconnect(self):
        listener = self.listener()
        writer = self.writer(start=True)
        writer.write(bytes(2 << 20))
        connection = self.accept(listener)
        receive_exactly(connection, 1000)
        flushing = InBackground(lambda: writer.flush(25_000))
        connection.close()
        connection = self.accept(listener)
        receive_exactly(connection, (2 << 20) + 4)
        self.assert_status(flushing.result(), OK)

    def test_the_client_side_helper_agrees(self):
        """SIOCOUTQ, which these tests use as well, is what flush stands on."""
        reader = self.reader()
        client = self.client()
        client.sendall(frame(b"x"))
        self.assertFalse(client_has_been_read(client))
        reader.start()
        wait_until(lambda: client_has_been_read(client))


if __name__ == "__main__":
    unittest.main()
