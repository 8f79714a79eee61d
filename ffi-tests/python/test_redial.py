"""A writer whose reader is away: how often it dials, how soon it finds the next one, and where it looks."""

import errno
import os
import shutil
import socket
import threading
import time
import unittest

from stream import number_of, numbered
from support import (
    InBackground, TestCase, elapse, fastest, fill_backlog, listen, median, receive_all, receive_exactly, wait_until,
)
from udsipc_capi import ERR_TIMEOUT, ERR_UNDELIVERED, OK

DRIVERS = ("threads", "host")

# A reader that appears at a path in the file system is found by the best of some writers within the first time, and by most
# of them within the second, which is for a busy machine. The backoff alone takes seconds.
FOUND_WITHIN, MOSTLY_WITHIN = 0.05, 0.25


# Accepts connection after connection in a process of its own, which no lock of this interpreter slows down.
ACCEPT_AND_CLOSE = """
accepted, listener = [], listen({path!r})
def serve():
    while True:
        connection = listener.accept()[0]
        time.sleep({pause})
        connection.close()
        accepted.append(1)
threading.Thread(target=serve, daemon=True).start()
"""


class Pauses(TestCase):
    def keep_writing(self, writer, seconds):
        """A message every millisecond, whatever becomes of it."""
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            writer.write(numbered(number))
            number += 1
            time.sleep(0.001)

    def closing_peer(self, path, pause):
        peer = self.child()
        peer.run("import threading, time")
        peer.run(ACCEPT_AND_CLOSE.format(path=path, pause=pause))
        return peer

    def test_a_peer_that_accepts_and_closes_is_dialled_with_growing_pauses(self):
        """The next message is no reason to hurry: everything that is sent into such connections is lost."""
        for driver, pause in (("threads", 0), ("threads", 0.0005), ("threads", 0.003), ("host", 0.0005)):
            with self.subTest(f"{driver}, closes after {pause} s"):
                path = f"{self.path}-{driver}-{pause}"
                peer = self.closing_peer(path, pause)
                writer = self.driven(driver, self.writer(path))
                self.keep_writing(writer, 2)
                accepted = peer.run("len(accepted)")
                self.assertGreater(accepted, 2)
                self.assertLess(accepted, 60, "connections in 2 s")
                # All that waits goes into each connection, and is judged when the peer has closed it.
                wait_until(lambda: (metrics := writer.metrics()).sent <= metrics.suspected_lost + 2, what=writer.metrics)

    def test_a_reader_that_shuts_the_writer_out_is_dialled_with_growing_pauses(self):
        child = self.child()
        child.run(f"reader = Reader({self.path!r}, start=True, allow_uid={os.getuid() + 1})")
        writer = self.writer(start=True)
        self.keep_writing(writer, 3)
        refused = child.run("reader.metrics().refused")
        self.assertGreater(refused, 2)
        self.assertLess(refused, 60, "connections in 3 s")

    def test_the_pauses_grow_without_messages_too(self):
        peer = self.closing_peer(self.path, 0)
        self.writer(start=True)
        elapse(2)
        accepted = peer.run("len(accepted)")
        self.assertGreater(accepted, 2)
        self.assertLess(accepted, 60, "connections in 2 s")

    def test_a_peer_that_reads_a_message_of_each_connection_is_dialled_at_once(self):
        """It makes progress: pauses would only make it slower."""
        received, listener = [], self.listener()

        def take_one_of_each():
            while (connection := listener.accept()[0]).recv(1, socket.MSG_PEEK):
                data = receive_exactly(connection, 17)
                connection.shutdown(socket.SHUT_RD)
                data += receive_all(connection)
                connection.close()
                received.extend(data[at + 1:at + 17] for at in range(0, len(data), 17))

        peer = threading.Thread(target=take_one_of_each, daemon=True)
        peer.start()
        writer = self.writer(start=True)

        def fifty():
            connections, number = writer.metrics().connections, len(received)
            started = time.monotonic()
            while writer.metrics().connections < connections + 50:
                writer.write_timeout(numbered(number), 1000)
                number += 1
                wait_until(lambda: len(received) == number)
            return time.monotonic() - started

        fastest(fifty, 2.0, attempts=3)
        self.assertEqual([number_of(message) for message in received], list(range(len(received))))
        self.assertEqual(writer.metrics().suspected_lost, 0)
        self.assert_status(writer.stop(5_000), OK)
        peer.join(5)

    def poisoned(self, messages):
        self.reader_of_ten = self.reader(start=True, max_message_size=1000)
        writer = self.writer(start=True)
        for _ in range(messages):
            self.assert_status(writer.write(bytes(4 << 20)), OK)
        for number in range(10):
            self.assert_status(writer.write(numbered(number)), OK)
        return writer

    def delivered(self):
        return [number_of(message) for message in self.reader_of_ten.messages]

    def test_each_poison_message_begins_with_short_pauses(self):
        """Five connections each, with pauses of at most 300 ms altogether; kept doubling they would be 54 s."""
        writer = self.poisoned(3)
        wait_until(lambda: self.delivered() == list(range(10)), deadline=8, what=lambda: writer.metrics())
        wait_until(lambda: writer.metrics().sent == 10)
        self.assertEqual(writer.metrics().abandoned, 3)

    def test_a_stop_delivers_what_stands_behind_poison_messages(self):
        writer = self.poisoned(3)
        self.assert_status(writer.stop(8_000), ERR_UNDELIVERED, "three of the messages were given up")
        wait_until(lambda: self.delivered() == list(range(10)), deadline=5, what=lambda: writer.metrics())
        self.assertEqual((writer.metrics().abandoned, writer.metrics().sent), (3, 10))

    def test_a_full_backlog_is_no_missing_reader(self):
        listener = self.listener(backlog=0)
        fill_backlog(self, listener)
        for driver in DRIVERS:
            with self.subTest(driver):
                writer = self.driven(driver, self.writer(dial_timeout_ms=200))
                wait_until(lambda: writer.errors)
                self.assert_status(writer.errors[0].status, ERR_TIMEOUT)
                self.assertEqual((writer.errors[0].os_errno, writer.errors[0].context),
                                 (errno.EAGAIN, "failed to connect"))


class Returning(TestCase):
    """A reader that was away for so long that the backoff alone would find it seconds later."""

    def writers(self, driver, paths):
        writers = [self.writer(path) for path in paths]
        self.driven(driver, *writers)
        return writers

    def lose_all(self, listeners, connections):
        for listener, connection in zip(listeners, connections):
            self.remove_listener(listener)
            connection.close()

    def assert_found_at_once(self, writers, appear):
        """How soon after `appear(number)` each writer is connected."""
        times = []
        for number, writer in enumerate(writers):
            self.assertFalse(writer.is_connected())
            appear(number)
            started = time.monotonic()
            while not writer.is_connected() and time.monotonic() < started + 1:
                time.sleep(0.0005)
            times.append(time.monotonic() - started)
        self.assertLess(min(times), FOUND_WITHIN, times)
        self.assertLess(median(times), MOSTLY_WITHIN, times)

    def test_after_eight_seconds_it_is_found_within_50_ms(self):
        for_each = {}
        for driver in DRIVERS:
            paths = [f"{self.directory}/{driver}{number}" for number in range(5)]
            listeners = [self.listener(path) for path in paths]
            writers = self.writers(driver, paths)
            connections = [self.accept(listener) for listener in listeners]
            for writer in writers:
                wait_until(writer.is_connected)
            for_each[driver] = (paths, listeners, writers, connections)
        for paths, listeners, writers, connections in for_each.values():
            self.lose_all(listeners, connections)
        elapse(8)
        for driver, (paths, _, writers, _) in for_each.items():
            with self.subTest(driver):
                self.assert_found_at_once(writers, lambda number: self.listener(paths[number]))

    def appears_after_three_seconds(self, prepare, appear):
        """`prepare(path)`, three seconds away, then `appear(path)` is all that happens."""
        for_each = {}
        for driver in DRIVERS:
            paths = [os.path.join(self.directory, driver + str(number), "a", "b", "s") for number in range(5)]
            for path in paths:
                prepare(path)
            for_each[driver] = (paths, self.writers(driver, paths))
        elapse(3)
        for driver, (paths, writers) in for_each.items():
            with self.subTest(driver):
                self.assert_found_at_once(writers, lambda number: appear(paths[number]))

    def test_in_a_directory_that_did_not_exist(self):
        def appear(path):
            os.mkdir(os.path.dirname(path))
            self.listener(path)

        self.appears_after_three_seconds(lambda path: os.makedirs(os.path.dirname(os.path.dirname(path))), appear)

    def test_in_directories_that_are_made_one_after_another(self):
        """A watch on the first one that is missing sees the first one only."""
        def appear(path):
            os.makedirs(os.path.dirname(path))
            self.listener(path)

        self.appears_after_three_seconds(lambda path: None, appear)

    def test_in_directories_that_are_made_slowly(self):
        def appear(path):
            for depth in (3, 2, 1):
                os.mkdir(os.path.normpath(os.path.join(path, *[".."] * depth)))
                elapse(0.1)
            self.listener(path)

        self.appears_after_three_seconds(lambda path: None, appear)

    def test_in_a_directory_that_was_deleted_and_made_again(self):
        def prepare(path):
            os.makedirs(os.path.dirname(path))

        def appear(path):
            shutil.rmtree(os.path.dirname(path))
            elapse(0.1)
            os.mkdir(os.path.dirname(path))
            self.listener(path)

        self.appears_after_three_seconds(prepare, appear)

    def test_in_a_directory_that_is_moved_into_place(self):
        def appear(path):
            prepared = os.path.join(self.directory, "prepared")
            os.mkdir(prepared)
            self.listener(os.path.join(prepared, "s"))
            os.rename(prepared, os.path.dirname(path))

        self.appears_after_three_seconds(lambda path: os.makedirs(os.path.dirname(os.path.dirname(path))), appear)

    def test_a_socket_that_is_moved_into_place(self):
        def appear(path):
            self.listener(path + ".new")
            os.rename(path + ".new", path)

        self.appears_after_three_seconds(lambda path: os.makedirs(os.path.dirname(path)), appear)

    def test_a_socket_that_listens_a_moment_after_it_was_bound(self):
        """inotify(7) tells of the bind: connects are refused until listen(2)."""
        def appear(path):
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.addCleanup(listener.close)
            listener.bind(path)
            elapse(0.02)
            listener.listen(8)

        self.appears_after_three_seconds(lambda path: os.makedirs(os.path.dirname(path)), appear)

    def test_whoever_waits_ends_the_pause(self):
        """An abstract address has no directory to watch: there is the backoff, which a waiting caller cuts short."""
        calls = {
            "flush": lambda writer: writer.flush(8_000),
            "write_message_timeout": lambda writer: writer.write_timeout(b"second", 8_000),
            "stop": lambda writer: writer.stop(8_000),
        }
        base, writers = f"@udsipc-test-{os.getpid()}-{time.monotonic_ns()}-", {}
        for driver in DRIVERS:
            for name in calls:
                writer = self.writer(base + driver + name, max_buffered_writes=1, drain_until_deadline=1)
                self.assert_status(writer.write(b"first"), OK)
                writers[driver, name] = self.driven(driver, writer)
        elapse(3)
        for (driver, name), writer in writers.items():
            with self.subTest(f"{name}, {driver}"):
                self.waiting_call_finds(base + driver + name, lambda: calls[name](writer))

    def waiting_call_finds(self, path, call):
        waiting = InBackground(call)
        elapse(0.5)
        self.assertTrue(waiting.running())
        listener = self.listener(path)
        started = time.monotonic()
        connection = self.accept(listener, timeout=9)
        self.assertEqual(receive_exactly(connection, 6), b"\x05first")
        self.assertLess(time.monotonic() - started, 0.5)
        self.assert_status(waiting.result(), OK)

    def test_an_idle_connection_costs_nothing(self):
        """No thread of the library, and no event for the host, in two seconds."""
        self.listener()
        child = self.child()
        child.run(f"""
import glob
threaded = Writer({self.path!r}, start=True)
hosted = Writer({self.path!r})
poll = select.poll()
poll.register(hosted.fd(), select.POLLIN)
while not (hosted.is_connected() and threaded.is_connected()):
    hosted.dispatch(10)
hosted.write(b"x"), threaded.write(b"x")
elapse(0.5)
while poll.poll(0):
    hosted.dispatch(0)
def switches():
    found = 0
    for status in glob.glob("/proc/self/task/*/status"):
        if f"/{{os.getpid()}}/" not in status.replace("self/task", ""):
            found += sum(int(line.split()[1]) for line in open(status) if "ctxt_switches" in line)
    return found
def two_seconds():
    before = switches()
    events = poll.poll(2000)
    return switches() - before, len(events)
""")
        # Memory that a burst has left behind may be looked after once.
        wait_until(lambda: child.run("two_seconds()") == [0, 0], deadline=8)


class Elsewhere(TestCase):
    """Where a path leads does not depend on where the process is by then."""

    def connects_after_chdir(self, before, path):
        """A child makes writers for "s" while it is in `before`, and goes to the root directory."""
        listener = self.listener_in(before)
        child = self.child()
        child.run(f"""
os.chdir({before!r})
threaded, hosted = Writer({path!r}), Writer({path!r})
os.chdir("/")
threaded.start()
hosted.dispatch(0)
""")
        for _ in range(2):
            self.accept(listener, timeout=2)
        # The listener may have the connection a moment before the writer's thread has noted it.
        wait_until(lambda: child.run("(threaded.is_connected(), hosted.is_connected())") == [True, True])
        self.assertEqual(child.run("(threaded.write(b'x'), threaded.flush(0))")[0], OK)
        return child

    def listener_in(self, directory):
        here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.chdir(directory)
            listener = listen("s")
        finally:
            os.fchdir(here)
            os.close(here)
        self.addCleanup(listener.close)
        return listener

    def test_a_relative_path_is_the_one_of_the_moment_of_new(self):
        self.connects_after_chdir(self.directory, "s")

    def test_a_relative_path_with_directories(self):
        deep = os.path.join(self.directory, "a", "b")
        os.makedirs(deep)
        child = self.connects_after_chdir(deep, "../b/./s")
        self.assertEqual(child.run("threaded.metrics().connect_failures"), 0)

    def test_a_path_that_fits_only_as_a_relative_one(self):
        deep = os.path.join(self.directory, "d" * 60, "e" * 60)
        os.makedirs(deep)
        self.connects_after_chdir(deep, "s")

    def test_a_reader_that_returns_to_a_path_that_fits_only_as_a_relative_one(self):
        deep = os.path.join(self.directory, "d" * 60, "e" * 60)
        os.makedirs(deep)
        child = self.child()
        child.run(f"os.chdir({deep!r}); writer = Writer('s', start=True); os.chdir('/')")
        elapse(3)
        listener = self.listener_in(deep)
        started = time.monotonic()
        self.accept(listener, timeout=5)
        self.assertLess(time.monotonic() - started, 1.0)


if __name__ == "__main__":
    unittest.main()
