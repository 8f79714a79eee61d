"""Messages from many places arrive whole, once and in order."""

import ctypes
import threading
import time
import unittest

import stream
from stream import number_of, numbered
from support import DEADLINE, InBackground, TestCase, fastest, frame, spawn, wait_until
from udsipc_capi import ERR_BACKPRESSURE, ERR_BUFFER_FULL, ERR_MESSAGE_TOO_LARGE, OK, lib


class TwoProcesses(TestCase):
    def run_stream(self, count, deadline):
        seed = 20261122
        checker = stream.Checker(count, seed)
        reader = self.reader(start=True, on_raw_batch=checker.take)
        child = spawn("pipe_writer.py", self.path, count, seed)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        wait_until(checker.complete, deadline, what=lambda: (checker.position, reader.metrics(), child.poll()))
        self.assertIsNone(checker.wrong)
        self.assertEqual(child.wait(DEADLINE), 0)
        self.assert_status(reader.stop(10_000), OK)
        self.assertIsNone(checker.wrong)
        metrics = reader.metrics()
        self.assertEqual(metrics.received, len(checker.expected))
        self.assertEqual(metrics.received_bytes, sum(length for _offset, length in checker.expected))
        self.assertEqual((metrics.errors, metrics.connections), (0, 1))
        self.assert_quiet(reader)

    def test_a_million_messages_of_random_length(self):
        self.run_stream(1_000_000, deadline=60)

    def test_ten_mebibyte_messages(self):
        child = self.child()
        # Each has a pattern of its own, with a period that no buffer size divides.
        make = "lambda number: (bytes([number]) + bytes(range(1, 251)) * 41777)[:10 << 20].ljust(10 << 20, b'.')"
        expected = eval(make)
        wrong, received = [], []

        def on_message(message, _connection):
            if message != expected(len(received)):
                wrong.append(len(received))
            received.append(len(message))

        reader = self.reader(start=True, on_message=on_message)
        child.run(f"make = {make}")
        child.run(f"""
writer = Writer({self.path!r}, start=True, max_buffered_bytes=40 << 20)
for number in range(20):
    check(writer.write_timeout(make(number), 60_000))
check(writer.stop(60_000))
""")
        wait_until(lambda: len(received) == 20)
        self.assertEqual((received, wrong), ([10 << 20] * 20, []))
        self.assert_quiet(reader)

    def test_fifty_writers_to_one_reader(self):
        """Fifty connections from five processes."""
        received = {}

        def on_batch(messages, connection):
            received.setdefault(connection.id, []).extend(map(number_of, messages))

        reader = self.reader(start=True, on_batch=on_batch)
        children = [self.child() for _ in range(5)]
        for child in children:
            child.send(f"""
import stream
writers = [Writer({self.path!r}, start=True) for _ in range(10)]
for number in range(1000):
    for writer in writers:
        check(writer.write_timeout(stream.numbered(number, 40), 60_000))
for writer in writers:
    check(writer.stop(60_000))
""")
        for child in children:
            child.answer()
        wait_until(lambda: reader.metrics().received == 50_000)
        self.assertEqual(len(received), 50)
        for numbers in received.values():
            self.assertEqual(numbers, list(range(1000)))
        self.assertEqual((reader.metrics().connections, reader.metrics().errors), (50, 0))
        self.assert_quiet(reader)

    def test_a_writer_that_stops_after_its_last_message_loses_none(self):
        reader = self.reader(start=True)
        children = [self.child() for _ in range(5)]
        for slot, child in enumerate(children):
            child.send(f"""
with Writer({self.path!r}, start=True) as writer:
    for number in range(10):
        check(writer.write(b"%d %d" % ({slot}, number)))
    check(writer.stop(30_000))
""")
        for child in children:
            child.answer()
        wait_until(lambda: len(reader.messages) == 50)
        self.assertEqual(sorted(reader.messages), sorted(b"%d %d" % (s, n) for s in range(5) for n in range(10)))


class OneWriter(TestCase):
    def test_eight_threads_keep_each_threads_order(self):
        received = []
        reader = self.reader(start=True, on_batch=lambda messages, _: received.extend(map(number_of, messages)))
        writer = self.writer(start=True)
        each = 5000

        def produce(slot):
            for number in range(each):
                message = numbered(slot << 32 | number, 8 + number % 50)
                if number % 3 == 0:
                    self.assert_status(writer.write_timeout(message, 60_000), OK)
                else:
                    while (status := writer.write(message)) == ERR_BUFFER_FULL:
                        time.sleep(0.001)
                    self.assert_status(status, OK)

        producers = [InBackground(lambda slot=slot: produce(slot)) for slot in range(8)]
        for producer in producers:
            producer.result(60)
        self.assert_status(writer.stop(30_000), OK)
        wait_until(lambda: len(received) >= 8 * each)
        for slot in range(8):
            self.assertEqual([n & 0xFFFFFFFF for n in received if n >> 32 == slot], list(range(each)), f"thread {slot}")
        self.assertEqual(writer.metrics().sent, 8 * each)
        self.assert_quiet(writer, reader)

    def test_messages_are_copied(self):
        """The caller may change its memory as soon as the call has returned."""
        reader = self.reader()
        writer = self.writer()
        memory = ctypes.create_string_buffer(b"original", 8)
        self.assert_status(lib.udsipc_write_message(writer.handle, memory, 8), OK)
        memory.raw = b"changed!"
        writer.start()
        reader.start()
        wait_until(lambda: reader.messages == [b"original"])

    def test_sizes_from_one_byte_to_a_hundred_kilobytes(self):
        for size in (1, 16, 100, 1024, 4096, 10_240, 65_535, 65_536, 102_400):
            with self.subTest(size):
                path = f"{self.directory}/{size}"
                reader = self.reader(path, start=True)
                writer = self.writer(path, start=True)
                messages = [bytes([number]) * size for number in range(200)]
                for message in messages:
                    self.assert_status(writer.write(message), OK)
                wait_until(lambda: len(reader.messages) == 200)
                self.assertEqual(reader.messages, messages)

    def test_several_writers_with_small_and_large_buffers(self):
        for count in (1, 2, 4, 8):
            for buffer in (0, 256 << 10):
                with self.subTest(count=count, buffer=buffer):
                    path = f"{self.directory}/{count}-{buffer}"
                    reader = self.reader(path, start=True)
                    writers = [self.writer(path, start=True, write_buffer_size=buffer) for _ in range(count)]
                    for number in range(500):
                        for writer in writers:
                            self.assert_status(writer.write(numbered(number, 100)), OK)
                    wait_until(lambda: len(reader.messages) == 500 * count)

    def test_healthy_traffic_reports_nothing(self):
        """Small, empty and large messages, and an orderly end: no error callback on either side."""
        reader = self.reader(start=True, max_message_size=4096)
        writer = self.writer(start=True)
        messages = [b"one", b"two", b"three", b"a" * 1024, b"b" * 2048, *[b"%d" % n for n in range(100)]]
        for message in messages:
            self.assert_status(writer.write(message), OK)
            self.assert_status(writer.write(b""), OK)
        wait_until(lambda: len(reader.messages) == len(messages))
        self.assertEqual(reader.messages, messages)
        self.assert_status(writer.stop(10_000), OK)
        wait_until(lambda: reader.metrics().active_connections == 0)
        self.assert_status(reader.stop(10_000), OK)
        metrics = reader.metrics()
        self.assertEqual((metrics.received, metrics.errors, metrics.connections), (len(messages), 0, 1))
        self.assertEqual(writer.metrics().failed, 0)
        self.assert_quiet(writer, reader)

    def test_an_oversize_message_that_fits_the_kernel_buffer_is_the_readers_error_only(self):
        reader = self.reader(start=True, max_message_size=1000)

        def once():
            errors = len(reader.errors)
            with_path = self.writer(start=True, acknowledge=0)
            started = time.monotonic()
            self.assert_status(with_path.write(bytes(2000)), OK)
            wait_until(lambda: len(reader.errors) > errors)
            self.assert_quiet(with_path)
            self.assertEqual(with_path.metrics().failed, 0)
            return reader.errors[-1].at - started

        fastest(once, 0.010, attempts=20)
        self.assertEqual(set(reader.statuses()), {ERR_MESSAGE_TOO_LARGE})
        self.assertEqual(reader.messages, [])


class FullQueue(TestCase):
    def test_a_full_queue_refuses_and_counts(self):
        writer = self.writer(max_buffered_writes=2)
        self.assertEqual([writer.write(b"x") for _ in range(3)], [OK, OK, ERR_BUFFER_FULL])
        metrics = writer.metrics()
        self.assertEqual((metrics.sent, metrics.dropped, metrics.failed, metrics.queue_depth), (0, 1, 0, 2))

    def test_capacity_is_exact_while_disconnected(self):
        writer = self.writer(max_buffered_writes=2, start=True)
        statuses = [writer.write(b"x") for _ in range(10)]
        self.assertEqual(statuses, [OK] * 2 + [ERR_BUFFER_FULL] * 8)
        wait_until(lambda: writer.metrics().connect_failures >= 3)
        self.assertEqual((writer.metrics().queue_depth, writer.metrics().dropped), (2, 8))
        self.assert_status(writer.write(b"x"), ERR_BUFFER_FULL, "batches must not enlarge the queue")

    def test_capacity_is_exact_while_the_reader_takes_nothing(self):
        """What the kernel has taken is sent, what it has not taken is queued: never more than the limit."""
        listener = self.listener()
        writer = self.writer(start=True, max_buffered_writes=50, write_timeout_ms=100)
        self.accept(listener)
        accepted = 0
        told = False
        while not told:
            told = ERR_BACKPRESSURE in writer.statuses()  # then the kernel takes nothing more; the queue is filled once more
            while writer.write(bytes(10_000)) == OK:
                accepted += 1
        metrics = writer.metrics()
        self.assertEqual(metrics.queue_depth, 50)
        self.assertEqual(accepted, metrics.sent + 50)

    def test_too_many_before_start(self):
        """Capacity 15, 20 messages: the first fifteen arrive, the others were refused."""
        reader = self.reader(start=True)
        writer = self.writer(max_buffered_writes=15)
        statuses = [writer.write(numbered(number)) for number in range(20)]
        self.assertEqual(statuses, [OK] * 15 + [ERR_BUFFER_FULL] * 5)
        writer.start()
        wait_until(lambda: len(reader.messages) == 15)
        self.assert_status(writer.stop(10_000), OK)
        self.assertEqual([number_of(message) for message in reader.messages], list(range(15)))
        self.assertEqual(writer.metrics().dropped, 5)

    def test_a_refused_message_can_be_written_again_when_there_is_room(self):
        """A queue of 5, a callback that takes its time, 20 messages larger than the kernel's buffer."""
        leave = threading.Event()
        reader = self.reader(start=True, on_message=lambda *_: leave.wait(DEADLINE) and time.sleep(0.01))
        writer = self.writer(start=True, max_buffered_writes=5)
        refused = 0
        for _ in range(20):
            status = writer.write(bytes(200_000))
            if status == ERR_BUFFER_FULL:
                refused += 1
                leave.set()
                status = writer.write_timeout(bytes(200_000), 30_000)
            self.assert_status(status, OK)
        self.assertGreaterEqual(refused, 1)
        self.assertEqual(writer.metrics().dropped, refused)
        wait_until(lambda: reader.metrics().received == 20)

    def test_a_message_that_is_too_large_is_refused_at_once(self):
        writer = self.writer(max_message_size=100)
        self.assert_status(writer.write(bytes(100)), OK)
        self.assert_status(writer.write(bytes(101)), ERR_MESSAGE_TOO_LARGE)
        self.assertEqual((writer.metrics().queue_depth, writer.metrics().dropped), (1, 0))


class RawClients(TestCase):
    def test_messages_of_three_clients(self):
        reader = self.reader(start=True)
        for number in range(3):
            self.client().sendall(frame(b"client %d" % number))
        wait_until(lambda: len(reader.messages) == 3)
        self.assertEqual(sorted(reader.messages), [b"client 0", b"client 1", b"client 2"])
        self.assertEqual(reader.metrics().connections, 3)


if __name__ == "__main__":
    unittest.main()
