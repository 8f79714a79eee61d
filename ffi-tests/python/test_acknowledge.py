"""What a writer makes of a reader's records and ledger: what it keeps, sends again, counts and says. The reader here is the
library's, in this process or in a child that is killed, or a raw socket that may be hostile."""

import contextlib
import fcntl
import mmap
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from support import (
    DEADLINE, DEADLINE_MS, HERE, FrameSplitter, TestCase, elapse, frame, memory_of, receive_exactly, refuses,
    wait_until,
)
from test_ledger import (
    F_GET_SEALS, F_SEAL_FUTURE_WRITE, F_SEAL_GROW, F_SEAL_SHRINK, FINAL, LEDGER, MAGIC, NO_LEDGER, RECORD, STOP, TOO_LARGE,
    Gate,
)
from udsipc_capi import (
    ERR_INVALID_ARGUMENT, ERR_NOT_ACKNOWLEDGED, ERR_TIMEOUT, OK,
)

F_ADD_SEALS = 1033
SLOT = 64
ALL_SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE


def record(kind, position=0, value=0, reason=0):
    return RECORD.pack(MAGIC, 1, kind, position, value, reason, 0)


def names_of_threads():
    names = []
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/comm", encoding="utf-8") as file:
            names.append(file.read().strip())
    return names


class Ledger:
    """A memfd as a reader of the library makes it, or nearly."""

    def __init__(self, size=4096, seals=ALL_SEALS):
        self.fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size) if size else None
        fcntl.fcntl(self.fd, F_ADD_SEALS, seals)

    def handles(self, position, end=None, at=0):
        struct.pack_into("=QQ", self.map, at, position << 1 | (end is not None), end or 0)

    def close(self):
        if self.map is not None:
            self.map.close()
        os.close(self.fd)


class AcknowledgeTest(TestCase):
    def ledger(self, **arguments):
        ledger = Ledger(**arguments)
        self.addCleanup(ledger.close)
        return ledger

    def acknowledging(self, listener, ledger, offset=0):
        """Accepts a connection as a reader that keeps a ledger."""
        connection = self.accept(listener)
        socket.send_fds(connection, [record(LEDGER, value=offset)], [ledger.fd])
        return connection

    def assert_counts(self, writer, **counts):
        metrics = writer.metrics()
        self.assertEqual({name: getattr(metrics, name) for name in counts}, counts)


class Options(AcknowledgeTest):
    def test_modes(self):
        for mode in (-1, 3, 2**31 - 1):
            self.assert_refused(ERR_INVALID_ARGUMENT, self.writer, acknowledge=mode)
        for mode in (0, 1, 2):
            self.writer(acknowledge=mode, redeliver=mode)


class WithAPlainPeer(AcknowledgeTest):
    def test_a_name_is_bound_unless_it_is_off(self):
        listener = self.listener()
        for mode, named in ((0, False), (1, True), (2, True)):
            self.writer(start=True, acknowledge=mode)
            name = self.accept(listener).getpeername()
            self.assertEqual(name.startswith(b"\0udsipc/1/") if name else False, named, name)

    def test_each_dial_has_a_name_of_its_own_that_says_which_message_comes_first(self):
        listener = self.listener()
        writer = self.writer(start=True)
        names = []
        for number in range(3):
            connection = self.accept(listener)
            names.append(connection.getpeername().decode().split("/"))
            writer.write(b"message")
            self.assertEqual(receive_exactly(connection, 8), frame(b"message"))
            elapse(0.02)  # so that the writer finds it read, and the reader a plain one
            writer.flush(DEADLINE_MS)
            connection.close()
        self.assertEqual([int(name[3], 16) for name in names], [1, 2, 3])
        self.assertEqual(len({name[2] for name in names}), 1)
        self.assertEqual(len({name[4] for name in names}), 3)

    def test_the_stream_is_the_same_byte_for_byte(self):
        listener = self.listener()
        messages = [bytes([number % 256]) * (1 + number * 37 % 3000) for number in range(300)]
        streams = []
        for mode in (0, 1):
            writer = self.writer(start=True, acknowledge=mode)
            connection = self.accept(listener)
            for message in messages:
                self.assert_status(writer.write(message), OK)
            streams.append(receive_exactly(connection, sum(len(frame(message)) for message in messages)))
            self.assert_status(writer.stop(DEADLINE_MS), OK)
            self.assertEqual(connection.recv(1), b"")
        self.assertEqual(streams[0], streams[1])
        self.assertEqual(streams[0], b"".join(map(frame, messages)))

    def test_nothing_is_acknowledged(self):
        listener = self.listener()
        writer = self.writer(start=True)
        connection = self.accept(listener)
        for _ in range(10):
            writer.write(b"x")
        receive_exactly(connection, 20)
        self.assert_status(writer.flush(DEADLINE_MS), OK)
        self.assert_counts(writer, sent=10, acknowledged=0, redelivered=0, suspected_lost=0)

    def test_a_peer_that_half_closes_costs_nothing(self):
        """The end of what it says is an event once, not for ever."""
        listener = self.listener()
        hosted = self.writer()
        hosted.dispatch(0)
        connection = self.accept(listener)
        wait_until(lambda: hosted.dispatch(0) == OK and hosted.is_connected())
        connection.shutdown(socket.SHUT_WR)
        turns = 0
        end = threading.Event()
        threading.Timer(0.5, end.set).start()
        poll = select.poll()
        poll.register(hosted.fd(), select.POLLIN)
        while not end.is_set():
            if poll.poll(20):
                turns += 1
                hosted.dispatch(0)
        self.assertLess(turns, 20)


class WithALedger(AcknowledgeTest):
    def test_flush_and_the_counter_mean_handled(self):
        gate = Gate()
        self.reader(start=True, on_message=lambda message, connection: gate.wait())
        writer = self.writer(start=True)
        writer.write(b"one")
        gate.await_callback(self)
        self.assert_status(writer.flush(100), ERR_TIMEOUT)
        self.assert_counts(writer, sent=1, acknowledged=0)
        gate.open.release()
        self.assert_status(writer.flush(DEADLINE_MS), OK)
        self.assert_counts(writer, sent=1, acknowledged=1)

    def test_a_stop_waits_for_the_callbacks_and_says_so_when_its_time_is_up(self):
        gate = Gate()
        self.reader(start=True, on_message=lambda message, connection: gate.wait())
        writer = self.writer(start=True)
        for _ in range(3):
            writer.write(b"message")
        gate.await_callback(self)
        gate.open.release()
        wait_until(lambda: writer.metrics().acknowledged == 1)
        self.assert_status(writer.stop(400), ERR_TIMEOUT)
        self.assert_counts(writer, sent=3, acknowledged=1, suspected_lost=2, abandoned=0)
        for _ in range(3):
            gate.open.release()

    def test_what_a_raw_ledger_says(self):
        """Position by position, and what comes again on the next connection."""
        listener, ledger = self.listener(), self.ledger()
        writer = self.writer(start=True)
        connection = self.acknowledging(listener, ledger)
        for message in (b"one", b"two", b"six"):
            writer.write(message)
        receive_exactly(connection, 12)
        ledger.handles(4, 8)
        wait_until(lambda: writer.metrics().acknowledged == 1)
        connection.close()
        again = self.acknowledging(listener, self.ledger())
        self.assertEqual(receive_exactly(again, 8), frame(b"two") + frame(b"six"))
        self.assertTrue(again.getpeername().split(b"/")[3].endswith(b"02"))
        wait_until(lambda: writer.metrics().redelivered == 2)  # what has come may be counted a moment later
        self.assert_counts(writer, sent=3, acknowledged=1, redelivered=2, suspected_lost=0)

    def test_a_final_record_counts_more_than_the_slot(self):
        listener, ledger = self.listener(), self.ledger()
        writer = self.writer(start=True, redeliver=0)
        connection = self.acknowledging(listener, ledger)
        for message in (b"one", b"two", b"six"):
            writer.write(message)
        receive_exactly(connection, 12)
        ledger.handles(0, 4)
        connection.send(record(FINAL, position=8, reason=STOP))
        connection.close()
        again = self.acknowledging(listener, self.ledger())
        self.assertEqual(receive_exactly(again, 4), frame(b"six"))
        self.assert_counts(writer, acknowledged=2, suspected_lost=0)

    def test_a_reader_that_is_killed_in_a_callback(self):
        for redeliver in (1, 0):
            with self.subTest(redeliver=redeliver):
                path = f"{self.directory}/s{redeliver}"
                child = self.child()
                child.run("import threading\nentered = threading.Event()")
                child.run(f"reader = Reader({path!r}, start=True, on_message=lambda message, connection: "
                          f"(entered.set(), threading.Event().wait()) if message == b'two' else None)")
                writer = self.writer(path, start=True, redeliver=redeliver, max_backoff_ms=10)
                for message in (b"one", b"two", b"six"):
                    writer.write(message)
                wait_until(lambda: writer.metrics().acknowledged == 1 and writer.metrics().sent == 3)
                wait_until(lambda: child.run("entered.is_set()"))
                child.kill()
                reader = self.reader(path, start=True)
                expected = [b"two", b"six"] if redeliver else [b"six"]
                wait_until(lambda: len(reader.messages) == len(expected))
                self.assert_status(writer.stop(DEADLINE_MS), OK)
                self.assertEqual(reader.messages, expected)
                self.assert_counts(writer, sent=3, suspected_lost=1 - redeliver)
                # More, if the dying reader's backlog took a connection that nobody accepted.
                self.assertGreaterEqual(writer.metrics().redelivered, len(expected))

    def test_identity_and_sequence_go_on_over_readers(self):
        writer = self.writer(start=True, max_backoff_ms=10)
        seen = []

        def note(message, connection):
            seen.append((connection.writer_id(), connection.sequence, message))

        for number in range(3):
            reader = self.reader(start=True, on_message=note)
            for part in (b"a", b"b"):
                writer.write(part)
            self.assert_status(writer.flush(DEADLINE_MS), OK)
            self.assert_status(reader.stop(DEADLINE_MS), OK)
            reader.free()
        self.assertEqual([sequence for _, sequence, _ in seen], [1, 2, 3, 4, 5, 6])
        self.assertEqual(len({id for id, _, _ in seen}), 1)

    def test_a_message_that_is_too_large_for_the_reader(self):
        listener = self.listener()
        writer = self.writer(start=True)
        connection = self.acknowledging(listener, self.ledger())
        for message in (b"one", b"long one", b"six"):
            writer.write(message)
        receive_exactly(connection, 4 + 9 + 4)
        connection.send(record(FINAL, position=4, value=5, reason=TOO_LARGE))
        connection.close()
        again = self.acknowledging(listener, self.ledger())
        self.assertEqual(receive_exactly(again, 4), frame(b"six"))
        wait_until(lambda: writer.errors)
        self.assert_counts(writer, acknowledged=1, suspected_lost=1, failed=1)


class Required(AcknowledgeTest):
    def test_a_plain_reader_gets_nothing_but_the_question(self):
        listener = self.listener()
        writer = self.writer(start=True, acknowledge=2, max_backoff_ms=50)
        writer.write(b"held back")
        for _ in range(3):
            connection = self.accept(listener)
            self.assertEqual(receive_exactly(connection, 1), b"\0")
            self.assertEqual(connection.recv(1), b"")
        wait_until(lambda: len(writer.errors) >= 3)
        self.assertEqual(set(writer.statuses()), {ERR_NOT_ACKNOWLEDGED})
        self.assert_counts(writer, sent=0, queue_depth=1)
        listener.close()
        os.unlink(self.path)
        reader = self.reader(start=True)
        wait_until(lambda: reader.messages == [b"held back"])

    def test_a_reader_that_cannot_keep_a_ledger_is_refused(self):
        listener = self.listener()
        writer = self.writer(start=True, acknowledge=2)
        writer.write(b"held back")
        connection = self.accept(listener)
        connection.send(record(NO_LEDGER))
        wait_until(lambda: writer.errors)
        self.assertEqual(writer.statuses()[0], ERR_NOT_ACKNOWLEDGED)
        self.assert_status(writer.stop(300), ERR_TIMEOUT)
        self.assert_counts(writer, sent=0, abandoned=1)

    def test_a_reader_that_has_not_started_is_waited_for(self):
        for driver in ("threads", "host"):
            path = f"{self.directory}/{driver}"
            reader = self.reader(path)
            writer = self.driven(driver, self.writer(path, acknowledge=2))
            writer.write(b"held back")
            elapse(0.3)
            self.assertEqual((writer.errors, writer.metrics().sent), ([], 0))
            self.assert_status(reader.start(), OK)
            wait_until(lambda: reader.messages == [b"held back"], deadline=5)
            self.assert_status(writer.flush(DEADLINE_MS), OK)
            self.assert_counts(writer, acknowledged=1)


class HostileReaders(AcknowledgeTest):
    """Each is a plain reader at worst: nothing crashes, hangs or leaks, and what follows is sent."""

    def assert_plain(self, send):
        """After what `send` does with a connection the writer goes on as with a plain reader."""
        path = f"{self.directory}/{len(os.listdir(self.directory))}"
        listener = self.listener(path)
        writer = self.writer(path, start=True)
        connection = self.accept(listener)
        send(connection)
        writer.write(b"message")
        self.assertEqual(receive_exactly(connection, 8), frame(b"message"))
        self.assert_status(writer.flush(DEADLINE_MS), OK)
        self.assert_counts(writer, sent=1, acknowledged=0)
        self.assert_status(writer.stop(DEADLINE_MS), OK)

    def test_descriptors_that_are_no_ledger(self):
        cases = {
            "no seals": dict(seals=0), "may shrink": dict(seals=ALL_SEALS & ~F_SEAL_SHRINK),
            "may grow": dict(seals=ALL_SEALS & ~F_SEAL_GROW), "others write": dict(seals=F_SEAL_SHRINK | F_SEAL_GROW),
            "empty": dict(size=0), "short": dict(size=63), "huge": dict(size=(1 << 30) + 4096),
        }
        for name, arguments in cases.items():
            with self.subTest(name):
                ledger = self.ledger(**arguments)
                self.assert_plain(lambda connection: socket.send_fds(connection, [record(LEDGER)], [ledger.fd]))
        with tempfile.TemporaryFile() as file, socket.socket() as tcp:
            for other in (file.fileno(), tcp.fileno(), 0):
                self.assert_plain(lambda connection: socket.send_fds(connection, [record(LEDGER)], [other]))

    def test_large_pages_are_no_ledger(self):
        """A page of them that is not to be had is a SIGBUS at the load, seals or not."""
        with open("/proc/meminfo", encoding="ascii") as file:
            sizes = [int(line.split()[1]) << 10 for line in file if line.startswith("Hugepagesize:")]
        if not sizes:
            self.skipTest("a kernel without large pages")
        try:
            fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | os.MFD_HUGETLB)
        except OSError as error:
            self.skipTest(f"no memfd of large pages: {error}")
        # Neither mapped nor written to: it needs no page to be had.
        self.addCleanup(os.close, fd)
        os.ftruncate(fd, sizes[0])
        fcntl.fcntl(fd, F_ADD_SEALS, ALL_SEALS)
        self.assertEqual(fcntl.fcntl(fd, F_GET_SEALS) & ALL_SEALS, ALL_SEALS)
        self.assert_plain(lambda connection: socket.send_fds(connection, [record(LEDGER)], [fd]))

    def test_a_descriptor_whose_close_takes_long(self):
        """A socket that lingers over unsent data, whose last copy is the writer's: to close it takes as long as its owner
        likes."""
        linger = 4
        for kind in (LEDGER, 99):
            with self.subTest(kind=kind):
                stuck, peer = self.lingering_socket(linger)
                path = f"{self.directory}/{kind}"
                listener = self.listener(path)
                # Nobody drives it while the descriptor is under way: the writer's copy must be the last one.
                writer = self.writer(path)
                wait_until(lambda: writer.dispatch(0) == OK and writer.is_connected())
                connection = self.accept(listener)
                started = time.monotonic()
                socket.send_fds(connection, [record(kind)], [stuck.fileno()])
                stuck.close()
                writer.write(b"message")
                self.assert_status(writer.dispatch(0), OK)
                self.assertEqual(receive_exactly(connection, 8), frame(b"message"))
                self.assert_status(writer.flush(DEADLINE_MS), OK)
                self.assert_status(writer.stop(DEADLINE_MS), OK)
                writer.free()
                taken = time.monotonic() - started
                self.assertLess(taken, linger - 1)
                # A thread of its own closes it, and takes its time.
                wait_until(lambda: "udsipc-close" in names_of_threads(), deadline=linger)
                wait_until(lambda: "udsipc-close" not in names_of_threads())
                self.assertGreater(time.monotonic() - started, linger - 1)
                peer.close()

    def lingering_socket(self, seconds):
        """A TCP connection with data that its peer does not take, whose close waits for that so long (socket(7))."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            stuck = socket.create_connection(server.getsockname())
            peer, _ = server.accept()
        self.addCleanup(stuck.close)
        self.addCleanup(peer.close)
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))
        stuck.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                stuck.send(bytes(1 << 16))
        stuck.setblocking(True)  # a close does not linger for one that does not block
        return stuck, peer

    def test_offsets_outside(self):
        for offset in (4096, 4033, 1, 2**63, 2**64 - 64, 2**64 - 1):
            ledger = self.ledger()
            message = record(LEDGER, value=offset)
            self.assert_plain(lambda connection: socket.send_fds(connection, [message], [ledger.fd]))

    def test_bytes_that_are_no_records(self):
        for bytes_ in (b"hello", b"x" * 10_000, record(LEDGER), b"\0" * 500, record(77), record(NO_LEDGER)[:31],
                       record(NO_LEDGER) * 3):
            self.assert_plain(lambda connection: connection.send(bytes_))

    def test_descriptors_by_the_dozen_do_not_pile_up(self):
        listener, ledger = self.listener(), self.ledger()
        writer = self.writer(start=True)
        connection = self.accept(listener)
        before = len(os.listdir("/proc/self/fd"))
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for number in range(10_000):
                socket.send_fds(connection, [record(LEDGER if number % 2 else 99)], [ledger.fd] * 5)
        writer.write(b"x")
        self.assert_status(writer.flush(100), ERR_TIMEOUT)
        connection.close()
        self.accept(listener)
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before + 2)

    def test_positions_that_run_ahead_fall_and_jump(self):
        listener, ledger = self.listener(), self.ledger()
        writer = self.writer(start=True)
        connection = self.acknowledging(listener, ledger)
        writer.write(b"one")
        wait_until(lambda: writer.metrics().sent == 1)
        for position, end in ((2**62, None), (0, 2**63), (3, 2**40), (2**62, 2**62 + 1), (0, None)):
            ledger.handles(position, end)
            writer.write(b"two")
            writer.flush(50)
        wait_until(lambda: writer.metrics().sent == 6)
        self.assertLessEqual(writer.metrics().acknowledged, 6)
        connection.close()
        again = self.acknowledging(listener, self.ledger())
        splitter = FrameSplitter()
        writer.write(b"end")
        messages = []
        while messages[-1:] != [b"end"]:
            messages += splitter.feed(again.recv(100))
        self.assertLessEqual(len(messages), 7)
        wait_until(lambda: writer.metrics().queue_depth == 0)
        metrics = writer.metrics()
        self.assertEqual((metrics.sent, metrics.queue_depth, metrics.abandoned), (7, 0, 0))

    def test_a_reader_that_reads_and_handles_nothing_gets_only_so_much(self):
        listener, ledger = self.listener(), self.ledger()
        writer = self.writer(start=True, max_buffered_bytes=1 << 20)
        connection = self.acknowledging(listener, ledger)
        end = threading.Event()

        def swallow():
            connection.settimeout(0.05)
            while not end.is_set():
                try:
                    connection.recv(1 << 20)
                except TimeoutError:
                    pass

        thread = threading.Thread(target=swallow)
        thread.start()
        before = memory_of(os.getpid(), "VmRSS")
        refused = 0
        for _ in range(300_000):
            refused += writer.write(bytes(100)) != OK
        self.assertGreater(refused, 100_000)
        self.assertLess(writer.metrics().sent * 100, 4 << 20)
        self.assertLess(memory_of(os.getpid(), "VmRSS") - before, 16 << 20)
        self.assert_status(writer.stop(200), ERR_TIMEOUT)
        end.set()
        thread.join()


class OtherNamespaces(AcknowledgeTest):
    """A container's reader: descriptors, names and death look the same from outside of its namespaces."""

    KINDS = ("--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount", "--net")

    def reader_elsewhere(self, on_message):
        """Starts a reader at our path in namespaces of its own. Returns the process with which it dies."""
        code = (f"import os, sys, threading; sys.path.insert(0, {HERE!r}); from udsipc_capi import Reader\n"
                f"reader = Reader({self.path!r}, start=True, on_message={on_message})\n"
                f"print('ready', os.getpid(), *map(os.readlink, {self.links()!r}), flush=True)\n"
                f"sys.stdin.read(); os._exit(0)")  # the test has ended
        command = ["unshare", *self.KINDS, sys.executable, "-B", "-c", code]
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, text=True)
        except FileNotFoundError:
            self.skipTest("no unshare(1) here")

        def end():
            process.kill()
            process.communicate()

        self.addCleanup(end)
        answer = process.stdout.readline().split()
        if answer[:1] != ["ready"]:
            trouble = process.stderr.read()
            if "unshare" in trouble and "Traceback" not in trouble:
                self.skipTest(trouble.strip())
            self.fail(trouble)
        self.assertEqual(answer[1], "1", "not the first process of its namespace")
        for mine, other in zip(map(os.readlink, self.links()), answer[2:], strict=True):
            self.assertNotEqual(mine, other)
        return process

    @staticmethod
    def links():
        return [f"/proc/self/ns/{kind}" for kind in ("user", "mnt", "net")]

    def test_a_reader_in_other_namespaces_acknowledges_and_loses_nothing_when_it_is_killed(self):
        process = self.reader_elsewhere(
            "lambda message, connection: threading.Event().wait() if message == b'two' else None")
        writer = self.writer(start=True, max_backoff_ms=10, acknowledge=2)
        writer.write(b"one")
        self.assert_status(writer.flush(DEADLINE_MS), OK)
        self.assert_counts(writer, sent=1, acknowledged=1)
        for message in (b"two", b"six"):
            writer.write(message)
        wait_until(lambda: writer.metrics().sent == 3)
        self.assert_status(writer.flush(200), ERR_TIMEOUT)
        process.kill()
        process.wait()
        wait_until(lambda: refuses(self.path))  # it dies a moment later than what keeps it
        reader = self.reader(start=True)
        wait_until(lambda: len(reader.messages) == 2)
        self.assert_status(writer.stop(DEADLINE_MS), OK)
        self.assertEqual(reader.messages, [b"two", b"six"])
        self.assert_counts(writer, sent=3, acknowledged=3, abandoned=0, suspected_lost=0)


if __name__ == "__main__":
    unittest.main()
