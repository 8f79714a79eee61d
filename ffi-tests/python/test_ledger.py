"""What a reader tells a writer that has a name, byte by byte: the records, the slot in the ledger, the position in each
state of a callback and at each end. The writer here is a raw socket."""

import contextlib
import fcntl
import mmap
import os
import resource
import select
import signal
import socket
import struct
import threading
import unittest

from support import (
    DEADLINE, DEADLINE_MS, EventLoop, InBackground, TestCase, address, elapse, frame, memory_of, receive_all, uvarint,
    wait_until,
)
from udsipc_capi import ERR_CONNECTION_CLOSED, ERR_NOT_ACKNOWLEDGED, ERR_TIMEOUT, OK

RECORD = struct.Struct("=IHHQQII")
MAGIC = 0x31534455
LEDGER, NO_LEDGER, FINAL = 1, 2, 3
END, IDLE, STOP, NOT_ADMITTED, TOO_MANY, TOO_LARGE, MALFORMED, NO_RESOURCES = range(8)

F_GET_SEALS = 1034
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_FUTURE_WRITE, F_SEAL_EXEC = 1, 2, 4, 16, 32

ID = bytes(range(16))
# How a reader is driven: by its own threads, by one of them, by the event loop of a host.
DRIVERS = ("threads", "one thread", "host")


def name_of(first=1, dial=1, id=ID, version=1):
    return f"\0udsipc/{version}/{id.hex()}/{first:016x}/{dial:x}".encode()


_dials = iter(range(os.getpid() << 24, 1 << 62))


class Peer:
    """A connection of a writer with a name; each has an address of its own unless one is given."""

    def __init__(self, path, name=None, first=1):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(DEADLINE)
        self.map = None
        try:
            self.socket.bind(name_of(first, next(_dials)) if name is None else name)
            self.socket.connect(address(path))
        except BaseException:
            self.socket.close()
            raise

    def close(self):
        self.socket.close()
        if self.map is not None:
            self.map.close()

    def send(self, data):
        self.socket.sendall(data)

    def record(self):
        """(kind, position, value, reason) and the descriptor that came with it, or None."""
        data, fds, _flags, _address = socket.recv_fds(self.socket, RECORD.size, 4)
        if len(data) != RECORD.size:
            raise AssertionError(f"{len(data)} bytes instead of a record: {data!r}")
        magic, version, kind, position, value, reason, zero = RECORD.unpack(data)
        if (magic, version, zero) != (MAGIC, 1, 0) or len(fds) > 1:
            raise AssertionError(f"no record: {data!r} {fds}")
        return (kind, position, value, reason), fds[0] if fds else None

    def only_record(self):
        """The next record, which comes without a descriptor."""
        record, fd = self.record()
        if fd is not None:
            raise AssertionError(f"a descriptor with {record}")
        return record

    def open_ledger(self):
        """Takes the first record and maps the slot. Returns which slot it is."""
        (kind, _position, offset, _reason), fd = self.record()
        if kind != LEDGER:
            raise AssertionError(f"a record of kind {kind} instead of a ledger")
        try:
            begin = offset // mmap.PAGESIZE * mmap.PAGESIZE
            self.map = mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ, offset=begin)
            self.at = offset - begin
            return os.fstat(fd).st_ino, offset
        finally:
            os.close(fd)

    def slot(self):
        """(busy, position, end) as a writer reads it; end is the position while no callback runs."""
        done, end = struct.unpack_from("=QQ", self.map, self.at)
        return bool(done & 1), done >> 1, end if done & 1 else done >> 1

    def says_nothing(self):
        """Whether there is nothing to receive, and no end."""
        return not select.select([self.socket], [], [], 0)[0]

    def final(self):
        """(position, reason, value) of the final record, behind which comes the end of the stream."""
        kind, position, value, reason = self.only_record()
        if kind != FINAL:
            raise AssertionError(f"a record of kind {kind} instead of the final one")
        try:
            rest = self.socket.recv(1)
        except ConnectionResetError:  # the reader left something unread
            rest = self.socket.recv(1)
        if rest:
            raise AssertionError("something behind the final record")
        return position, reason, value


class Gate:
    """A callback that waits until it is let go, and tells when it has begun."""

    def __init__(self):
        self.entered = threading.Semaphore(0)
        self.open = threading.Semaphore(0)

    def wait(self):
        self.entered.release()
        if not self.open.acquire(timeout=DEADLINE):
            raise AssertionError("nobody let the callback go")

    def await_callback(self, test):
        test.assertTrue(self.entered.acquire(timeout=DEADLINE), "no callback came")


class LedgerTest(TestCase):
    def peer(self, path=None, **arguments):
        peer = Peer(path or self.path, **arguments)
        self.addCleanup(peer.close)
        return peer

    def opened(self, **arguments):
        peer = self.peer(**arguments)
        peer.open_ledger()
        return peer

    def driven_reader(self, driver, **options):
        if driver == "one thread":
            options["max_handler_threads"] = 1
        reader = self.reader(start=driver != "host", **options)
        if driver == "host":
            loop = EventLoop(reader)
            self.addCleanup(loop.end)
        return reader

    def gated(self, driver="threads", **options):
        """A reader whose callback waits at the gate, and the gate."""
        gate = Gate()
        self.addCleanup(gate.open.release, 1000)
        reader = self.driven_reader(driver, on_message=lambda _message, _connection: gate.wait(), **options)
        return reader, gate

    def await_slot(self, peer, slot):
        wait_until(lambda: peer.slot() == slot, what=lambda: f"{peer.slot()} instead of {slot}")


class Accept(LedgerTest):
    def test_a_record_comes_at_accept_before_anything_is_sent(self):
        reader = self.reader()
        waiting = self.peer()
        elapse(0.05)
        self.assertTrue(waiting.says_nothing(), "nobody has accepted it yet")
        self.assert_status(reader.start(), OK)
        waiting.open_ledger()
        self.assertEqual(waiting.slot(), (False, 0, 0))
        self.assertTrue(waiting.says_nothing(), "one record")

    def test_it_comes_from_an_event_loop_too(self):
        self.driven_reader("host")
        self.assertEqual(self.opened().slot(), (False, 0, 0))

    def test_the_ledger_can_be_mapped_and_nothing_else(self):
        self.reader(start=True)
        peer = self.peer()
        (kind, position, offset, reason), fd = peer.record()
        self.addCleanup(os.close, fd)
        self.assertEqual((kind, position, reason, offset % 64), (LEDGER, 0, 0, 0))
        self.assertLessEqual(offset + 64, os.fstat(fd).st_size)
        seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE
        self.assertEqual(fcntl.fcntl(fd, F_GET_SEALS) & ~F_SEAL_EXEC, seals)
        with self.assertRaises(PermissionError):
            mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        for attempt in (lambda: os.ftruncate(fd, 0), lambda: os.ftruncate(fd, 1 << 21), lambda: os.pwrite(fd, b"x", 0)):
            self.assertRaises(PermissionError, attempt)

    def test_a_peer_without_a_name_is_told_nothing(self):
        """Neither at accept nor at the end, and it is served."""
        digits = ID.hex()
        others = [
            None,
            b"",  # the kernel chooses one
            name_of(version=2),
            b"\0udsipc/1/",
            f"\0udsipc/1/{digits}".encode(),
            f"\0udsipc/1/{digits}/{1:016x}".encode(),
            f"\0udsipc/1/{digits}/{1:016x}/".encode(),
            f"\0udsipc/1/{digits}/{0:016x}/1".encode(),
            f"\0udsipc/1/{digits}/{1:016x}/1\0".encode(),
            f"\0udsipc/1/{digits.upper()}/{1:016x}/1".encode(),
            f"\0udsipc/1/{digits}/{1:016x}/{'f' * 17}".encode(),
            name_of()[1:],  # a file
        ]
        told = []

        def on_message(message, connection):
            told.append((message, connection.writer_id(), connection.sequence))

        reader = self.reader(start=True, on_message=on_message)
        os.makedirs(f"{self.directory}/udsipc/1/{digits}/{1:016x}")
        before = os.getcwd()
        os.chdir(self.directory)
        self.addCleanup(os.chdir, before)
        clients = []
        for name in others:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.addCleanup(client.close)
            client.settimeout(DEADLINE)
            if name is not None:
                client.bind(name)
            client.connect(self.path)
            client.sendall(frame(b"message"))
            clients.append(client)
        wait_until(lambda: len(told) == len(others))
        self.assertEqual(told, [(b"message", ERR_NOT_ACKNOWLEDGED, 0)] * len(others))
        self.assert_status(reader.stop(DEADLINE_MS), OK)
        for client, name in zip(clients, others):
            self.assertEqual(receive_all(client), b"", name)

    def test_two_connections_of_the_same_name(self):
        """Of a writer that connected, ended, and connected again before anybody accepted: each has its own account."""
        reader = self.reader(inactivity_timeout_ms=DEADLINE_MS)
        name = name_of(first=7, dial=next(_dials))
        first = self.peer(name=name)
        first.send(frame(b"one"))
        first.close()
        second = self.peer(name=name)
        second.send(frame(b"two") + frame(b"three"))
        self.assert_status(reader.start(), OK)
        second.open_ledger()
        self.await_slot(second, (False, 10, 10))
        # The first connection is served by itself, maybe by another thread, and may be slower than the second.
        wait_until(lambda: sorted(reader.messages) == [b"one", b"three", b"two"])
        wait_until(lambda: reader.metrics().active_connections == 1)
        self.assert_quiet(reader)

    def test_two_thousand_connections(self):
        """Each has a slot of its own, and an idle one costs little more than one without a name."""
        count = 2_000
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard < 2 * count:
            self.skipTest(f"{hard} descriptors at most")
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (_soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        child = self.child()
        child.run("import resource")
        child.run(f"resource.setrlimit(resource.RLIMIT_NOFILE, ({hard}, {hard}))")
        child.run(f"reader = Reader({self.path!r}, start=True, inactivity_timeout_ms=600_000)")

        def connect_all(make):
            """Bytes of memory for each."""
            begun = child.run("reader.metrics().active_connections")
            before = memory_of(child.pid, "VmRSS")
            peers = [make() for _ in range(count)]
            wait_until(lambda: child.run("reader.metrics().active_connections") == begun + count)
            return peers, (memory_of(child.pid, "VmRSS") - before) / count

        connect_all(lambda: self.client())  # what the first ones cost: tables that grow
        slots = []

        def named():
            peer = self.peer()
            (kind, _position, offset, _reason), fd = peer.record()
            slots.append((kind, os.fstat(fd).st_ino, offset))
            os.close(fd)
            return peer

        peers, with_names = connect_all(named)
        _clients, plain = connect_all(lambda: self.client())
        self.assertEqual(len(set(slots)), count)
        self.assertEqual({(kind, file) for kind, file, _offset in slots}, {(LEDGER, slots[0][1])}, "one ledger")
        # 128 bytes, and what tables that double in between make of it.
        self.assertLess(with_names - plain, 256, f"{with_names:.0f} bytes each, without a name {plain:.0f}")
        for peer in peers:
            peer.close()
        wait_until(lambda: child.run("reader.metrics().active_connections") == 2 * count)
        again = [named() for _ in range(count)]
        self.assertEqual(set(slots[count:]), set(slots[:count]), "slots are used again")
        self.assertEqual(len(again), count)

    def test_without_a_ledger_the_record_says_so(self):
        """The rest is as with one: the final record has the position."""
        shortages = {
            "the size of files": "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))",
            "descriptors": "free = os.dup(0)\n"
                           "os.close(free)\n"
                           "resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, 4096))",
        }
        for what, shorten in shortages.items():
            with self.subTest(what):
                path = f"{self.directory}/{len(what)}"
                child = self.child()
                child.run("import os, resource")
                # Without a descriptor left for the next one accept(2) fails, which is reported after half a second by default.
                child.run(f"reader = Reader({path!r}, start=True, max_accept_errors=63)")
                child.run(shorten)
                peer = self.peer(path)
                self.assertEqual(peer.only_record(), (NO_LEDGER, 0, 0, 0))
                peer.send(frame(b"message"))
                wait_until(lambda: child.run("len(reader.messages)") == 1)
                peer.socket.shutdown(socket.SHUT_WR)
                self.assertEqual(peer.final(), (8, END, 0))
                self.assertEqual(child.run("reader.errors"), [])


class Progress(LedgerTest):
    def test_during_a_callback_and_after_it(self):
        for driver in DRIVERS:
            with self.subTest(driver):
                path = f"{self.directory}/{driver}"
                _reader, gate = self.gated(driver, path=path)
                peer = self.opened(path=path)
                peer.send(frame(b"one") + frame(b"") + frame(b"three"))
                gate.await_callback(self)
                self.assertEqual(peer.slot(), (True, 0, 4))
                gate.open.release()
                gate.await_callback(self)
                self.assertEqual(peer.slot(), (True, 5, 11), "the empty frame counts")
                gate.open.release()
                self.await_slot(peer, (False, 11, 11))
                peer.send(frame(b""))
                self.await_slot(peer, (False, 12, 12))

    def test_in_batches(self):
        for driver in DRIVERS:
            with self.subTest(driver):
                self.in_batches(driver)

    def in_batches(self, driver):
        gate = Gate()
        self.addCleanup(gate.open.release, 1000)
        calls = []

        def on_batch(batch, connection):
            calls.append((batch, connection.sequence))
            gate.wait()
            return batch.index(b"bad") if b"bad" in batch else None

        path = f"{self.directory}/{driver}"
        reader = self.driven_reader(driver, path=path, on_batch=on_batch)
        peer = self.opened(path=path, first=100)
        peer.send(b"".join(map(frame, [b"one", b"", b"bad", b"four", b"five", b""])))
        gate.await_callback(self)
        self.assertEqual(peer.slot(), (True, 0, 19))
        gate.open.release()
        gate.await_callback(self)
        self.assertEqual(peer.slot(), (True, 9, 19), "from the message after the failed one")
        gate.open.release()
        self.await_slot(peer, (False, 20, 20))
        self.assertEqual(calls, [([b"one", b"bad", b"four", b"five"], 100), ([b"four", b"five"], 102)])
        self.assertEqual((reader.metrics().received, reader.metrics().errors), (3, 1))

    def test_a_callback_that_fails_has_handled_its_message(self):
        gate = Gate()
        self.addCleanup(gate.open.release, 1000)
        reader = self.reader(start=True, on_message=lambda _m, _c: 1, on_error=lambda _record: gate.wait())
        peer = self.opened()
        peer.send(frame(b"one") + frame(b"two"))
        for position in (4, 8):
            gate.await_callback(self)
            self.assertEqual(peer.slot(), (False, position, position), "while the error is reported")
            gate.open.release()
        self.await_slot(peer, (False, 8, 8))
        self.assertEqual(reader.metrics().errors, 2)

    def test_the_writer_and_the_number_of_each_message(self):
        seen = []

        def on_message(message, connection):
            seen.append((message, connection.writer_id(), connection.sequence))

        self.reader(start=True, on_message=on_message)
        ids = [bytes([n] * 16) for n in range(3)]
        for number, id in enumerate(ids):
            first = 1000 * number + 1
            peer = self.opened(name=name_of(first, next(_dials), id))
            peer.send(b"".join(map(frame, [b"a", b"", b"b"])))
            peer.send(frame(b"c"))
            self.await_slot(peer, (False, 7, 7))
            expected = [(message, id, first + at) for at, message in enumerate([b"a", b"b", b"c"])]
            self.assertEqual(seen[-3:], expected)

    def test_slow_callbacks_of_many_turns(self):
        """Turns end while messages are left over; the position is exact in each callback and goes on in the next turn."""
        for driver in DRIVERS:
            for batched in (False, True):
                with self.subTest(f"{driver}, batched: {batched}"):
                    self.slow_callbacks(driver, batched)

    def slow_callbacks(self, driver, batched):
        path = f"{self.directory}/{driver} {batched}"
        seen = []
        peer = None

        def note(messages, connection):
            seen.append((peer.slot(), len(messages), connection.sequence))
            elapse(0.002)

        options = {"on_batch": note} if batched else {"on_message": lambda message, c: note([message], c)}
        self.driven_reader(driver, path=path, **options)
        peer = self.opened(path=path)
        data = b"".join(frame(bytes(100)) for _ in range(100)) + frame(bytes(300_000)) + frame(bytes(70_000))
        ends = [101 * (n + 1) for n in range(100)]
        ends += [ends[-1] + 300_003, ends[-1] + 300_003 + 70_003]
        peer.send(data[:1_000])
        elapse(0.01)
        peer.send(data[1_000:])
        self.await_slot(peer, (False, len(data), len(data)))
        first = 0
        for slot, count, sequence in seen:
            begin = ends[first - 1] if first else 0
            self.assertEqual((slot, sequence), ((True, begin, ends[first + count - 1]), first + 1))
            first += count
        self.assertEqual(first, len(ends))

    def test_a_byte_stays_in_the_kernel_until_the_callback_has_returned(self):
        _reader, gate = self.gated()
        peer = self.opened()
        peer.send(frame(b"message"))
        gate.await_callback(self)
        pending = bytearray(4)
        fcntl.ioctl(peer.socket, 0x5411, pending)  # SIOCOUTQ
        self.assertNotEqual(pending, bytes(4))
        gate.open.release()
        self.await_slot(peer, (False, 8, 8))

        def all_taken():
            fcntl.ioctl(peer.socket, 0x5411, pending)
            return pending == bytes(4)

        wait_until(all_taken)


class Ends(LedgerTest):
    def test_the_writers_end(self):
        for driver in DRIVERS:
            with self.subTest(driver):
                path = f"{self.directory}/{driver}"
                reader = self.driven_reader(driver, path=path)
                peer = self.opened(path=path)
                peer.send(frame(b"one") + frame(b"two"))
                peer.socket.shutdown(socket.SHUT_WR)
                self.assertEqual(peer.final(), (8, END, 0))
                self.assertEqual(peer.slot(), (False, 8, 8))
                self.assert_quiet(reader)

    def test_the_writers_end_within_a_message(self):
        reader = self.reader(start=True)
        peer = self.opened()
        peer.send(frame(b"one") + frame(b"two")[:2])
        peer.socket.shutdown(socket.SHUT_WR)
        self.assertEqual(peer.final(), (4, END, 0))
        wait_until(reader.statuses)
        self.assertEqual(reader.statuses(), [ERR_CONNECTION_CLOSED])

    def test_idle(self):
        reader = self.reader(start=True, inactivity_timeout_ms=100)
        peer = self.opened()
        peer.send(frame(b"one"))
        self.assertEqual(peer.final(), (4, IDLE, 0))
        self.assertEqual(reader.metrics().idle_closed, 1)
        self.assert_quiet(reader)

    def test_idle_within_a_message(self):
        reader = self.reader(start=True, inactivity_timeout_ms=100)
        peer = self.opened()
        peer.send(frame(b"one") + frame(b"two")[:2])
        self.assertEqual(peer.final(), (4, IDLE, 0))
        wait_until(reader.statuses)
        self.assertEqual(reader.statuses(), [ERR_TIMEOUT])

    def test_stop(self):
        for driver in DRIVERS:
            with self.subTest(driver):
                path = f"{self.directory}/{driver}"
                reader, gate = self.gated(driver, path=path)
                peer, idle = self.opened(path=path), self.opened(path=path)
                peer.send(frame(b"one") + frame(b"two") + frame(b"three")[:2])
                gate.await_callback(self)
                stopping = InBackground(lambda reader=reader: reader.stop(DEADLINE_MS))
                gate.open.release(2)
                self.assert_status(stopping.result(), OK)
                self.assertEqual(peer.final(), (8, STOP, 0), "the cut message goes out again")
                self.assertEqual(idle.final(), (0, STOP, 0))

    def test_a_stop_without_time(self):
        """What was not handled lies behind the position."""
        for driver in DRIVERS:
            with self.subTest(driver):
                path = f"{self.directory}/{driver}"
                reader, gate = self.gated(driver, path=path)
                peer, idle = self.opened(path=path), self.opened(path=path)
                peer.send(frame(b"one") * 1_000)
                gate.await_callback(self)
                stopping = InBackground(lambda reader=reader: reader.stop(0))
                self.assertEqual(idle.final(), (0, STOP, 0))
                self.assertTrue(peer.says_nothing(), "not before the callback has returned")
                self.assertEqual(peer.slot(), (True, 0, 4))
                gate.open.release()
                self.assert_status(stopping.result(), ERR_TIMEOUT)
                self.assertEqual(peer.final(), (4, STOP, 0))

    def test_a_reader_that_is_freed_in_its_own_callback(self):
        freed = threading.Event()

        def on_message(_message, _connection):
            reader.free(check=False)
            freed.set()

        reader = self.reader(start=True, on_message=on_message)
        callbacks = list(reader._callbacks)  # must outlive the call that they are in
        peer, idle = self.opened(), self.opened()
        peer.send(frame(b"one") + frame(b"two"))
        self.assertTrue(freed.wait(DEADLINE))
        self.assertEqual((peer.final(), idle.final()), ((4, STOP, 0), (0, STOP, 0)))
        self.assertTrue(callbacks)

    def test_too_large(self):
        self.reader(start=True, max_message_size=1_000)
        peer = self.opened()
        peer.send(frame(b"one") + uvarint(1_001) + bytes(500))
        self.assertEqual(peer.final(), (4, TOO_LARGE, 1_000))

    def test_malformed(self):
        self.reader(start=True)
        peer = self.opened()
        peer.send(frame(b"one") + b"\xff" * 10 + bytes(500))
        self.assertEqual(peer.final(), (4, MALFORMED, 0))

    def test_who_is_not_let_in_is_told_why(self):
        reader = self.reader(start=True, allow_uid=os.getuid() + 1)
        peer = self.peer()
        self.assertEqual(peer.final(), (0, NOT_ADMITTED, 0))
        plain = self.client()
        self.assertEqual(receive_all(plain), b"")
        self.assertEqual(reader.metrics().refused, 2)

    def test_one_connection_too_many(self):
        reader = self.reader(start=True, max_connections=1)
        first = self.opened()
        second = self.peer()
        with contextlib.suppress(BrokenPipeError):  # it may be closed already
            second.send(frame(b"unread"))
        self.assertEqual(second.final(), (0, TOO_MANY, 0))
        first.close()
        wait_until(lambda: reader.metrics().active_connections == 0)
        self.opened()

    def test_a_reader_that_is_stopped_before_it_was_started(self):
        reader = self.reader()
        peer, plain = self.peer(), self.client()
        peer.send(frame(b"unread"))
        self.assert_status(reader.stop(DEADLINE_MS), ERR_TIMEOUT)
        self.assertEqual(peer.final(), (0, STOP, 0))
        self.assertEqual(receive_all(plain), b"")

    def test_a_reader_that_is_stopped_before_it_was_started_and_would_not_have_let_it_in(self):
        reader = self.reader(allow_uid=os.getuid() + 1)
        peer = self.peer()
        self.assert_status(reader.stop(DEADLINE_MS), OK)
        self.assertEqual(peer.final(), (0, NOT_ADMITTED, 0))

    def test_a_writer_that_is_in_the_backlog_of_a_stop(self):
        """It is accepted, served, and told the end: as if it had come before."""
        reader = self.reader()
        peer = self.peer()
        peer.send(frame(b"one"))
        for _ in range(100):  # a dispatch that accepts nobody, which a stop then does
            if reader.dispatch(0) == OK:
                break
        self.assert_status(reader.stop(DEADLINE_MS), OK)
        peer.open_ledger()
        self.assertEqual(peer.final(), (4, STOP, 0))
        self.assertEqual(reader.messages, [b"one"])

    def test_a_writer_that_closes_over_its_record_is_no_error(self):
        """The kernel tells the reader of it (ECONNRESET) when it has read everything."""
        reader = self.reader(start=True)
        for _ in range(20):
            peer = self.peer()
            peer.send(frame(b"one"))
            peer.close()
        wait_until(lambda: len(reader.messages) == 20 and reader.metrics().active_connections == 0)
        self.assert_quiet(reader)
        self.assertEqual(reader.metrics().errors, 0)

    def test_a_writer_that_closes_over_its_record_within_a_message_is_one(self):
        reader = self.reader(start=True)
        peer = self.peer()
        peer.send(frame(b"one") + frame(b"two")[:2])
        wait_until(lambda: not peer.says_nothing())
        peer.close()
        wait_until(lambda: reader.metrics().active_connections == 0 and reader.metrics().connections == 1)
        wait_until(reader.statuses)
        self.assertEqual((reader.messages, reader.statuses()), ([b"one"], [ERR_CONNECTION_CLOSED]))


class Kills(LedgerTest):
    def reader_child(self, callback):
        child = self.child()
        child.run("import threading, time")
        child.run(f"reader = Reader({self.path!r}, start=True, {callback})")
        return child

    def kill(self, child, peer):
        os.kill(child.pid, signal.SIGKILL)
        try:
            self.assertEqual(peer.socket.recv(1), b"", "a dead reader says nothing")
        except ConnectionResetError:
            pass

    def test_in_a_callback(self):
        child = self.reader_child("on_message=lambda m, c: time.sleep(600) if m == b'stay' else None")
        peer = self.opened()
        peer.send(frame(b"one") + frame(b"stay") + frame(b"behind"))
        self.await_slot(peer, (True, 4, 9))
        self.kill(child, peer)
        self.assertEqual(peer.slot(), (True, 4, 9))

    def test_in_a_callback_for_a_batch(self):
        child = self.reader_child("on_batch=lambda batch, c: time.sleep(600) if b'stay' in batch else None")
        peer = self.opened()
        peer.send(frame(b"one"))
        self.await_slot(peer, (False, 4, 4))
        peer.send(frame(b"stay") + frame(b"with it"))
        self.await_slot(peer, (True, 4, 17))
        self.kill(child, peer)
        self.assertEqual(peer.slot(), (True, 4, 17))

    def test_between_callbacks(self):
        child = self.reader_child("inactivity_timeout_ms=600_000")
        peer = self.opened()
        peer.send(frame(b"one") + frame(b"two")[:2])
        self.await_slot(peer, (False, 4, 4))
        self.kill(child, peer)
        self.assertEqual(peer.slot(), (False, 4, 4))

    def test_while_messages_stream(self):
        """The position is a frame's end, and everything before it was handled: the callback had written it down."""
        log = f"{self.directory}/log"
        child = self.child()
        child.run(f"log = open({log!r}, 'ab', buffering=0)")
        child.run(f"reader = Reader({self.path!r}, start=True, on_message=lambda m, c: log.write(m) and None)")
        peer = self.opened()
        streaming = InBackground(lambda: self.stream(peer))
        wait_until(lambda: os.path.getsize(log) > 100_000)
        os.kill(child.pid, signal.SIGKILL)
        streaming.result()
        child.process.wait()
        busy, position, end = peer.slot()
        handled = os.path.getsize(log) // 8
        self.assertEqual((position % 9, end % 9), (0, 0))
        self.assertEqual(end - position, 9 if busy else 0)
        self.assertIn(handled, (position // 9, end // 9))

    def stream(self, peer):
        number = 0
        try:
            while True:
                peer.send(b"".join(frame(number.to_bytes(8, "big")) for number in range(number, number + 100)))
                number += 100
        except (BrokenPipeError, ConnectionResetError):
            pass


if __name__ == "__main__":
    unittest.main()
