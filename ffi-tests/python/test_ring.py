"""The reader's side of the ring: memory in which the messages of a busy writer lie. The writer here is a raw socket and a
mapping of the memory that the reader has passed, and is honest, dead or hostile."""

import contextlib
import mmap
import os
import signal
import socket
import threading
import time
import unittest

from support import DEADLINE, DEADLINE_MS, InBackground, elapse, frame, uvarint, wait_until
from test_ledger import DRIVERS, END, IDLE, MALFORMED, STOP, LedgerTest, Peer
from udsipc_capi import ERR_INVALID_LENGTH_PREFIX, ERR_TIMEOUT, OK

RING = 4
REQUEST = b"\x80\x80\x80\0"
MIB = 1 << 20
# Where the signals lie in the first page.
PUBLISHED, SWITCHED_AT, FLAGS, WAITS = 0, 128, 256, 384
SLEEPS, CLOSING = 1, 2
NOT_SWITCHED = (1 << 64) - 1
WORD, HALF = "Q", "I"


class RingPeer(Peer):
    """A writer with a name that may have a ring. The signals are stored through memoryviews, which store a number at once;
    Python has no other atomic operations."""

    ring = None
    sent = head = 0

    def send(self, data):
        super().send(data)
        self.sent += len(data)

    def close(self):
        super().close()
        if self.ring is not None:
            for view in self.signals.values():
                view.release()
            self.ring.close()

    def request(self):
        """Asks for a ring. Returns its size once it is mapped."""
        self.send(REQUEST)
        (kind, position, size, reason), fd = self.record()
        if (kind, position, reason) != (RING, 0, 0):
            raise AssertionError(f"a record of kind {kind} instead of a ring")
        try:
            self.ring = mmap.mmap(fd, mmap.PAGESIZE + size)
        finally:
            os.close(fd)
        self.signals = {kind: memoryview(self.ring)[:512].cast(kind) for kind in (WORD, HALF)}
        self.size = size
        return size

    def load(self, at, kind=WORD):
        return self.signals[kind][at // self.signals[kind].itemsize]

    def set(self, at, value, kind=WORD):
        self.signals[kind][at // self.signals[kind].itemsize] = value

    def handled(self):
        return self.slot()[1] - self.sent

    def switch(self):
        wait_until(lambda: self.handled() == 0, what="not all is handled")
        self.set(SWITCHED_AT, self.sent)

    def store(self, data):
        while data:
            at = self.head % self.size
            piece = data[:self.size - at]
            self.ring[mmap.PAGESIZE + at:mmap.PAGESIZE + at + len(piece)] = piece
            self.head += len(piece)
            data = data[len(piece):]

    def bell(self):
        self.socket.sendall(b"\0")

    def publish(self, data=b""):
        self.store(data)
        self.set(PUBLISHED, self.head)
        flags = self.load(FLAGS, HALF)
        if flags == SLEEPS:
            self.set(FLAGS, 0, HALF)
            self.bell()
        return flags

    def wait_for_room(self, needed):
        """As a writer does: it says that it waits, looks once more, and waits for the bell."""
        while self.head + needed > self.handled() + self.size:
            self.set(WAITS, 1, HALF)
            if self.head + needed > self.handled() + self.size and self.socket.recv(1) != b"\0":
                raise AssertionError("no bell")


class RingTest(LedgerTest):
    def ringing(self, **arguments):
        """A writer that has switched."""
        peer = self.asking(**arguments)
        peer.request()
        peer.switch()
        return peer

    def asking(self, **arguments):
        peer = RingPeer(self.path, **arguments)
        self.addCleanup(peer.close)
        peer.open_ledger()
        return peer

    def await_handled(self, peer, head=None):
        head = peer.head if head is None else head
        wait_until(lambda: peer.handled() == head, what=lambda: f"{peer.handled()} of {head} handled")

    def assert_malformed(self, reader, peer, before):
        """Everything before what is malformed is handled, the writer is told, and the reader reports one error."""
        position, reason, _value = peer.final()
        self.assertEqual((position - peer.sent, reason), (before, MALFORMED))
        wait_until(lambda: reader.errors)
        self.assertEqual(reader.statuses(), [ERR_INVALID_LENGTH_PREFIX])
        self.assertEqual(reader.metrics().errors, 1)
        self.assert_unshared(reader)

    def assert_unshared(self, reader):
        wait_until(lambda: "shared_memory=0 rings=0" in reader.describe(), what=reader.describe)


class Honest(RingTest):
    def test_messages_on_the_socket_and_in_the_ring_come_in_order(self):
        for driver in DRIVERS:
            with self.subTest(driver=driver):
                self.path += "x"
                reader = self.driven_reader(driver, path=self.path)
                peer = self.asking()
                peer.send(frame(b"one"))
                self.assertEqual(peer.request(), 4 * MIB)
                peer.send(frame(b"two"))
                peer.switch()
                expected = [b"one", b"two"]
                for number in range(300):
                    message = b"%d " % number * (number % 50 + 1)
                    peer.publish(frame(message))
                    expected.append(message)
                self.await_handled(peer)
                self.assertEqual(reader.messages, expected)
                self.assertEqual(reader.metrics().received, 302)
                self.assertIn(f"shared_memory={4 * MIB} rings=1", reader.describe())
                peer.close()
                wait_until(lambda: reader.metrics().active_connections == 0)
                self.assert_unshared(reader)
                self.assert_quiet(reader)

    def test_a_writer_that_waits_for_room_gets_a_bell(self):
        """Many times through a ring of 1 MiB, with messages of all sizes up to half of it."""
        taken = []
        reader = self.reader(start=True, max_shared_memory=MIB,
                             on_message=lambda message, _connection: taken.append((len(message), message[:1])))
        peer = self.ringing()
        self.assertEqual(peer.size, MIB)
        expected = []
        for number in range(200):
            message = bytes([number]) * (1, 100, 60_000, 300_000, MIB // 2 - 4)[number % 5]
            data = frame(message)
            peer.wait_for_room(len(data))
            peer.publish(data)
            expected.append((len(message), message[:1]))
        self.await_handled(peer)
        self.assertEqual(taken, expected)
        self.assertGreater(peer.head, 20 * MIB)
        self.assert_quiet(reader)

    def test_a_batch_callback(self):
        batches = []
        reader = self.reader(start=True, on_batch=lambda batch, _connection: batches.append(list(batch)))
        peer = self.ringing()
        for number in range(1_000):
            peer.store(frame(b"%d" % number))
        peer.publish()
        self.await_handled(peer)
        self.assertEqual([message for batch in batches for message in batch], [b"%d" % n for n in range(1_000)])
        self.assertLess(len(batches), 100)
        self.assert_quiet(reader)

    def test_two_busy_rings_share_one_thread(self):
        """A turn is bounded: the second one does not wait until the first one is empty."""
        for driver in ("one thread", "host"):
            with self.subTest(driver=driver):
                self.path += "x"
                order = []

                def slow(message, _connection, order=order):
                    order.append(message[:1])
                    time.sleep(0.001)

                self.driven_reader(driver, path=self.path, on_message=slow)
                peers = [self.ringing() for _ in range(2)]
                for peer, name in zip(peers, (b"a", b"b")):
                    peer.publish(frame(name * 100) * 300)
                for peer in peers:
                    self.await_handled(peer)
                self.assertGreater(sum(one != other for one, other in zip(order, order[1:])), 20)

    def test_a_second_request_is_an_empty_frame(self):
        reader = self.reader(start=True)
        peer = self.asking()
        peer.request()
        peer.send(REQUEST * 3 + frame(b"message"))
        wait_until(lambda: peer.handled() == 0)
        self.assertTrue(peer.says_nothing())
        self.assertEqual(reader.messages, [b"message"])

    def test_a_peer_without_a_name_sends_an_empty_frame(self):
        reader = self.reader(start=True)
        client = self.client()
        client.sendall(REQUEST + frame(b"message"))
        wait_until(lambda: reader.messages == [b"message"])
        self.assertIn("rings=0", reader.describe())


    def test_a_writer_of_another_user(self):
        """Its messages are handed out in a copy: across the end of the memory, and larger than the buffer of a turn."""
        if os.geteuid() != 0:
            self.skipTest("only root can become another user")
        taken = []
        path = f"@udsipc-ring-{os.getpid()}"
        reader = self.reader(path, start=True, max_shared_memory=MIB,
                             on_message=lambda message, _connection: taken.append((len(message), message[:1])))
        child = self.child()
        child.run("import os, test_ring")
        child.run("os.setuid(65534)")
        child.run(f"peer = test_ring.RingPeer({path!r})")
        for step in ("open_ledger", "request", "switch"):
            child.run(f"peer.{step}()")
        sizes = (10, 60_000, MIB // 2 - 4, 300_000)
        for size in sizes * 5:
            child.run(f"data = test_ring.frame(b'x' * {size})")
            child.run("peer.wait_for_room(len(data))")
            child.run("peer.publish(data)")
        wait_until(lambda: len(taken) == 20)
        self.assertEqual(taken, [(size, b"x") for size in sizes * 5])
        self.assert_quiet(reader)


class Budget(RingTest):
    def test_rings_are_large_then_small_then_there_are_none(self):
        reader = self.reader(start=True, max_shared_memory=10 * MIB)
        peers = [self.asking() for _ in range(8)]
        sizes = [peer.request() // MIB for peer in peers[:7]]
        self.assertEqual(sizes, [4, 1, 1, 1, 1, 1, 1])
        self.assertIn(f"shared_memory={10 * MIB} rings=7", reader.describe())
        peers[7].send(REQUEST + frame(b"message"))
        wait_until(lambda: reader.messages == [b"message"])
        self.assertTrue(peers[7].says_nothing(), "no ring")
        peers[0].close()
        wait_until(lambda: f"shared_memory={6 * MIB} rings=6" in reader.describe())
        self.assertEqual(peers[7].request(), MIB)

    def test_without_a_budget_there_is_none(self):
        reader = self.reader(start=True, max_shared_memory=0)
        peer = self.asking()
        peer.send(REQUEST + frame(b"message"))
        wait_until(lambda: reader.messages == [b"message"])
        self.assertTrue(peer.says_nothing())


class Ends(RingTest):
    def test_what_a_killed_writer_had_published_arrives(self):
        """The child passes through everything that this file does, and dies behind its last publication: without a bell."""
        def slow(_message, _connection):
            time.sleep(0.0005)

        reader = self.reader(start=True, on_message=slow)
        child = self.child()
        child.run("import test_ring")
        child.run(f"peer = test_ring.RingPeer({self.path!r})")
        child.run("peer.open_ledger()")
        child.run("peer.request()")
        child.run("peer.switch()")
        child.run("peer.publish(test_ring.frame(b'hello') * 500)")
        child.run("peer.store(test_ring.frame(b'hello') * 500)")
        child.run("peer.set(test_ring.PUBLISHED, peer.head)")
        os.kill(child.pid, signal.SIGKILL)
        child.process.wait()
        wait_until(lambda: reader.metrics().active_connections == 0)
        self.assertEqual(reader.metrics().received, 1_000)
        self.assert_quiet(reader)

    def test_a_writer_that_closes(self):
        for switched in (False, True):
            self.path += "x"
            reader = self.reader(self.path, start=True)
            peer = self.asking()
            peer.request()
            if switched:
                peer.switch()
                peer.publish(frame(b"one"))
            peer.socket.shutdown(socket.SHUT_WR)
            position, reason, _value = peer.final()
            self.assertEqual((position - peer.sent, reason), (peer.head, END))
            self.assert_quiet(reader)

    def test_an_idle_connection_is_closed(self):
        reader = self.reader(start=True, inactivity_timeout_ms=300)
        peer = self.ringing()
        begun = time.monotonic()
        while time.monotonic() < begun + 1:
            peer.publish(frame(b"message"))
            elapse(0.02)
        self.assertEqual(reader.metrics().active_connections, 1, "it was not idle")
        position, reason, _value = peer.final()
        self.assertEqual((position - peer.sent, reason), (peer.head, IDLE))
        self.assertTrue(peer.load(FLAGS, HALF) & CLOSING)
        wait_until(lambda: reader.metrics().idle_closed == 1)
        self.assert_unshared(reader)
        self.assert_quiet(reader)

    def test_a_stop_hands_out_what_is_in_the_ring(self):
        for driver in DRIVERS:
            with self.subTest(driver=driver):
                self.path += "x"
                reader = self.driven_reader(driver, path=self.path,
                                            on_message=lambda _message, _connection: time.sleep(0.0005))
                peer = self.ringing()
                peer.publish(frame(b"hello") * 1_000)
                self.assert_status(reader.stop(DEADLINE_MS), OK)
                self.assertEqual(reader.metrics().received, 1_000)
                position, reason, _value = peer.final()
                self.assertEqual((position - peer.sent, reason), (peer.head, STOP))

    def test_a_stop_that_is_cut_short_leaves_the_rest_unread(self):
        reader, gate = self.gated()
        peer = self.ringing()
        peer.publish(frame(b"hello") * 10)
        gate.await_callback(self)
        stopping = InBackground(lambda: reader.stop(100))
        elapse(0.3)
        gate.open.release(1000)
        self.assert_status(stopping.result(), ERR_TIMEOUT)
        position, reason, _value = peer.final()
        self.assertEqual(reason, STOP)
        self.assertIn((position - peer.sent) // 6, range(1, 9))

    def test_a_reader_is_killed_in_the_middle_of_a_ring(self):
        child = self.child()
        child.run(f"reader = Reader({self.path!r}, start=True, "
                  "on_message=lambda m, c: time.sleep(600) if m == b'stay' else None)")
        peer = self.ringing()
        peer.publish(frame(b"one") * 3 + frame(b"stay") + frame(b"behind"))
        self.await_slot(peer, (True, peer.sent + 12, peer.sent + 17))
        os.kill(child.pid, signal.SIGKILL)
        child.process.wait()
        self.assertEqual(peer.slot(), (True, peer.sent + 12, peer.sent + 17))


class Hostile(RingTest):
    def test_published_that_cannot_be(self):
        for published in (0, 5, 6 + 4 * MIB + 1, 1 << 63, (1 << 64) - 1):
            with self.subTest(published=published):
                self.path += "x"
                reader = self.reader(self.path, start=True)
                peer = self.ringing()
                peer.publish(frame(b"hello"))
                self.await_handled(peer)
                peer.set(PUBLISHED, published)
                peer.bell()
                self.assert_malformed(reader, peer, 6)

    def test_a_frame_that_is_cut(self):
        for cut in (b"\x05", b"\x05hell", uvarint(3 * MIB) + b"x", b"\x80", b"\xff" * 10):
            with self.subTest(cut=cut):
                self.path += "x"
                reader = self.reader(self.path, start=True)
                peer = self.ringing()
                peer.publish(frame(b"hello") + cut)
                self.assert_malformed(reader, peer, 6)

    def test_other_bytes_than_bells(self):
        for data in (b"\1", b"\0\0\1", frame(b"hello")):
            with self.subTest(data=data):
                self.path += "x"
                reader = self.reader(self.path, start=True)
                peer = self.ringing()
                peer.publish(frame(b"hello"))
                self.await_handled(peer)
                peer.socket.sendall(data)
                self.assert_malformed(reader, peer, 6)

    def test_a_switch_at_another_position(self):
        for offset in (-4, -1, 1):
            with self.subTest(offset=offset):
                self.path += "x"
                reader = self.reader(self.path, start=True)
                peer = self.asking()
                peer.request()
                wait_until(lambda peer=peer: peer.handled() == 0)
                peer.set(SWITCHED_AT, peer.sent + offset)
                peer.bell()
                self.assert_malformed(reader, peer, 0)

    def hammer(self, attack):
        """Calls `attack` for ever, until the test is over."""
        over = threading.Event()

        def run():
            with contextlib.suppress(OSError, ValueError):
                while not over.is_set():
                    attack()

        running = InBackground(run)
        self.addCleanup(running.result)
        self.addCleanup(over.set)

    def test_lengths_that_change_while_they_are_read(self):
        """No message is longer than the ring, and the reader serves others."""
        longest = [0]

        def on_message(message, _connection):
            longest[0] = max(longest[0], len(message))

        reader = self.reader(start=True, on_message=on_message)
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            peer = self.ringing()
            data = frame(bytes(300)) * 2_000
            peer.store(data)
            begin = mmap.PAGESIZE

            def scribble(peer=peer):
                for at in range(0, 2_000 * 302, 302):
                    peer.ring[begin + at:begin + at + 2] = b"\xff\xff"
                    peer.ring[begin + at:begin + at + 2] = b"\xac\x02"

            scribbling = InBackground(lambda scribble=scribble: [scribble() for _ in range(3)])
            peer.publish()
            scribbling.result()
            wait_until(lambda peer=peer: peer.handled() == peer.head or peer.load(FLAGS, HALF) & CLOSING)
            peer.close()
        self.assertLessEqual(longest[0], 4 * MIB)
        other = self.opened()
        other.send(frame(b"hello"))
        wait_until(lambda: other.slot() == (False, 6, 6))
        self.assert_status(reader.stop(DEADLINE_MS), OK)

    def test_a_flood_of_bells_delays_nobody(self):
        reader = self.reader(start=True, max_handler_threads=1)
        peer, other = self.ringing(), self.opened()
        peer.socket.settimeout(DEADLINE)
        self.hammer(lambda: peer.socket.send(bytes(100_000)))
        for number in range(1, 200):
            other.send(frame(b"hello"))
            wait_until(lambda number=number: other.slot()[1] == 6 * number)
        peer.publish(frame(b"hello"))
        self.await_handled(peer)
        self.assert_status(reader.stop(DEADLINE_MS), OK)
        peer.socket.close()

    def test_a_writer_that_publishes_for_ever_does_not_delay_a_stop(self):
        for driver in DRIVERS:
            with self.subTest(driver=driver):
                self.path += "x"
                reader = self.driven_reader(driver, path=self.path)
                peer = self.ringing()
                peer.store(frame(bytes(127)) * (4 * MIB // 128))
                over = threading.Event()

                def run(peer=peer, over=over):
                    while not over.is_set():
                        peer.set(PUBLISHED, peer.handled() + 128 * 1_000)
                        if peer.load(FLAGS, HALF) == SLEEPS:
                            peer.set(FLAGS, 0, HALF)
                            with contextlib.suppress(OSError):
                                peer.bell()

                running = InBackground(run)
                wait_until(lambda reader=reader: reader.metrics().received > 50_000)
                self.assert_status(reader.stop(DEADLINE_MS), OK)
                over.set()
                running.result()

    def test_a_writer_that_publishes_behind_its_end(self):
        """Half of the socket is shut: the reader takes what is there then, and nothing behind it."""
        reader, gate = self.gated()
        peer = self.ringing()
        peer.publish(frame(b"hello"))
        gate.await_callback(self)
        peer.socket.shutdown(socket.SHUT_WR)
        gate.open.release(1000)
        wait_until(lambda: peer.load(FLAGS, HALF) & CLOSING)
        peer.publish(frame(b"late") * 10)
        position, reason, _value = peer.final()
        self.assertIn((position - peer.sent, reason), ((6, END), (56, END)))
        self.assert_status(reader.stop(DEADLINE_MS), OK)


if __name__ == "__main__":
    unittest.main()
