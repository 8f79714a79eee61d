"""What writers cost while they do nothing, what a burst may take, and what is left of it; descriptors likewise."""

import os
import unittest

from stream import numbered
from support import (
    DEADLINE_MS, InBackground, TestCase, elapse, frame, receive_exactly, wait_until,
)
from udsipc_capi import ERR_BUFFER_FULL, ERR_NO_RESOURCES, ERR_TIMEOUT, FOREVER, OK

MIB = 1 << 20

# Anonymous memory of the child itself: what its heap holds, without the pages of files.
RESIDENT = "memory_of('self', 'RssAnon')"


class Queue(TestCase):
    def test_the_default_is_64_mib(self):
        """Nobody listens, and messages are large: the count of messages alone would let 10 GiB in."""
        child = self.child()
        child.run(f"""
before = {RESIDENT}
writer = Writer({self.path!r}, start=True)
message, statuses = bytes(1 << 20), []
while len(statuses) < 100 and not (statuses and statuses[-1]):
    statuses.append(writer.write(message))
""")
        self.assertEqual(child.run("statuses"), [OK] * 64 + [ERR_BUFFER_FULL])
        metrics = child.run("writer.metrics().as_dict()")
        self.assertEqual((metrics["queue_depth"], metrics["queue_bytes"], metrics["dropped"]), (64, 64 * MIB, 1))
        self.assertLess(child.run(f"{RESIDENT} - before"), 100 * MIB)

    def test_zero_is_no_limit(self):
        writer = self.writer(max_buffered_bytes=0)
        message = bytes(MIB)
        for _ in range(70):
            self.assert_status(writer.write(message), OK)

    def test_a_message_above_the_limit_is_taken_while_the_queue_is_empty(self):
        writer = self.writer(max_buffered_bytes=1000)
        self.assert_status(writer.write(bytes(5000)), OK)
        self.assert_status(writer.write(b"x"), ERR_BUFFER_FULL)
        self.assert_status(writer.write(bytes(5000)), ERR_BUFFER_FULL)
        metrics = writer.metrics()
        self.assertEqual((metrics.queue_depth, metrics.queue_bytes, metrics.dropped), (1, 5000, 2))

    def test_it_is_not_taken_beside_another_one(self):
        writer = self.writer(max_buffered_bytes=1000)
        self.assert_status(writer.write(b"x"), OK)
        self.assert_status(writer.write(bytes(5000)), ERR_BUFFER_FULL)
        self.assertEqual(writer.write_many([bytes(5000)]), (ERR_BUFFER_FULL, 0))
        self.assert_status(writer.write_timeout(bytes(100_000), 50), ERR_TIMEOUT)
        self.assertEqual(writer.metrics().queue_depth, 1)

    def test_a_write_that_may_wait_waits_until_the_queue_is_empty(self):
        listener = self.listener()
        for length in (5_000, 200_000):
            writer = self.writer(max_buffered_bytes=1000)
            self.assert_status(writer.write(b"x"), OK)
            waiting = InBackground(lambda: writer.write_timeout(bytes(length), FOREVER))
            elapse(0.1)
            self.assertTrue(waiting.running())
            writer.start()
            connection = self.accept(listener)
            self.assertEqual(receive_exactly(connection, 2), b"\x01x")
            self.assertEqual(receive_exactly(connection, len(frame(bytes(length)))), frame(bytes(length)))
            self.assert_status(waiting.result(timeout=2), OK)
            self.assert_status(writer.stop(5_000), OK)

    def test_all_messages_above_the_limit_go_through_one_by_one(self):
        reader = self.reader(start=True)
        writer = self.writer(start=True, max_buffered_bytes=1)
        for number in range(50):
            self.assert_status(writer.write_timeout(numbered(number, 50_000), 5_000), OK)
        self.assert_status(writer.stop(DEADLINE_MS), OK)
        wait_until(lambda: len(reader.messages) == 50)


class LittleMemory(TestCase):
    """Allocations that fail are answers, and never the end of the process."""

    def made_with(self, more):
        """What `new` of a writer with the longest queue says, in a child that may take so much more address space."""
        child = self.child()
        child.run("import resource")
        return child.run(f"""
def made():
    options, handle = lib.udsipc_writer_options_new(), ctypes.c_void_p()
    check(lib.udsipc_writer_options_set_max_buffered_writes(options, 1 << 20))
    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + {more}, resource.RLIM_INFINITY))
    status = lib.udsipc_writer_new({os.fsencode(self.path)!r}, options, ctypes.byref(handle))
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if handle:
        lib.udsipc_writer_free(handle)
    return status
""") or child.run("made()")

    def test_new_with_the_longest_queue(self):
        for more in (0, 64 << 10, 1 * MIB, 8 * MIB, 64 * MIB):
            with self.subTest(f"{more} more bytes"):
                self.assertIn(self.made_with(more), (OK, ERR_NO_RESOURCES))

    def resident_per_writer(self, **options):
        child = self.child()
        return child.run(f"""
Writer({self.path!r}, **{options}).free()
before = {RESIDENT}
writers = [Writer({self.path!r}, **{options}) for _ in range(200)]
""") or child.run(f"({RESIDENT} - before) // 200")

    def test_a_writer_costs_some_kib(self):
        """With this binding's own objects; the limit of its queue is no reason to reserve it."""
        self.assertLess(self.resident_per_writer(), 24 << 10)
        self.assertLess(self.resident_per_writer(max_buffered_writes=1 << 20), 24 << 10)


class Burst(TestCase):
    """A queue that has been long gives its memory back, whatever has become of the reader."""

    def after_a_burst(self, leaves):
        """16 MiB go through the queue of a child at once, and `leaves(listener, connection)` is the end of the reader."""
        listener = self.listener()
        child = self.child()
        child.run(f"""
writer = Writer({self.path!r}, start=True, max_buffered_writes=1 << 20)
wait_until(writer.is_connected)
def burst():
    messages = [bytes(1000)] * 1000
    for _ in range(16):
        assert writer.write_many(messages) == (OK, 1000)
elapse(0.2)
before = {RESIDENT}
burst()
del burst
""")
        connection = self.accept(listener)
        most = child.run(f"{RESIDENT} - before")
        self.assertGreater(most, 12 * MIB)
        receive_exactly(connection, 16_000 * 1002)
        wait_until(lambda: child.run("writer.metrics().sent") == 16_000)
        leaves(listener, connection)
        # What malloc has got back and not yet given to the system is not kept by the library (malloc_trim(3)).
        kept = lambda: child.run(f"(ctypes.CDLL(None).malloc_trim(0), {RESIDENT} - before)")[1]  # noqa: E731
        wait_until(lambda: kept() < 3 * MIB, 13, what=lambda: f"{kept()} of {most} bytes are kept")

    def test_while_the_reader_is_there(self):
        self.after_a_burst(lambda listener, connection: None)

    def test_while_nobody_listens(self):
        def leaves(listener, connection):
            self.remove_listener(listener)
            connection.close()

        self.after_a_burst(leaves)

    def test_while_the_file_of_the_reader_is_stale(self):
        def leaves(listener, connection):
            listener.close()
            connection.close()

        self.after_a_burst(leaves)


class Descriptors(TestCase):
    COUNT = "len(os.listdir('/proc/self/fd'))"

    def writers(self, number, start=True):
        child = self.child()
        child.run(f"""
before = {self.COUNT}
writers = [Writer({self.path!r}) for _ in range({number})]
made = {self.COUNT} - before
""")
        self.assertEqual(child.run("made"), 0, "a writer that is new has none")
        if start:
            child.run("for writer in writers: check(writer.start())")
        return child

    def test_a_started_writer_has_one(self):
        """Its socket. A handful more are those of the threads that drive all of them."""
        reader = self.reader(start=True)
        child = self.writers(100)
        wait_until(lambda: child.run("all(writer.is_connected() for writer in writers)"))
        self.assertLessEqual(child.run(f"{self.COUNT} - before"), 110)
        child.run("for writer in writers: check(writer.write(b'x')), check(writer.flush(5_000))")
        self.assertLessEqual(child.run(f"{self.COUNT} - before"), 110)
        self.assertEqual(len(reader.messages), 100)
        child.run("for writer in writers: check(writer.stop(5_000)), writer.free()")
        self.assertEqual(child.run(f"{self.COUNT} - before"), 0)

    def test_started_writers_without_a_reader_have_none(self):
        child = self.writers(100)
        wait_until(lambda: child.run("all(writer.metrics().connect_failures > 3 for writer in writers)"))
        self.assertLessEqual(child.run(f"{self.COUNT} - before"), 10)

    def test_a_hosts_descriptors_are_made_when_it_asks_for_them(self):
        child = self.writers(10, start=False)
        child.run("numbers = [writer.fd() for writer in writers]")
        self.assertEqual(child.run("len(set(numbers))"), 10)
        self.assertGreaterEqual(child.run("min(numbers)"), 3)
        self.assertGreaterEqual(child.run(f"{self.COUNT} - before"), 10)
        self.assertEqual(child.run("[writer.fd() for writer in writers] == numbers"), True)
        child.run("for writer in writers: writer.free()")
        self.assertEqual(child.run(f"{self.COUNT} - before"), 0)

    def test_a_host_without_descriptors_left_is_told(self):
        """`new` succeeds, since it needs none; what needs one says so and can be called again."""
        child = self.child()
        child.run("import resource")
        child.run(f"""
writer = Writer({self.path!r})
resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
refused = writer.dispatch(0), writer.fd()
resource.setrlimit(resource.RLIMIT_NOFILE, (1000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
""")
        status, descriptor = child.run("refused")
        self.assert_status(status, ERR_NO_RESOURCES)
        self.assertLess(descriptor, 0)
        listener = self.listener()
        child.run("writer.dispatch(0)")
        self.accept(listener, timeout=5)


if __name__ == "__main__":
    unittest.main()
