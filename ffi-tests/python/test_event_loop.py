"""The host's own event loop drives writers and readers: no thread of the library exists."""

import asyncio
import select
import selectors
import threading
import time
import unittest

from stream import number_of, numbered
from support import DEADLINE, TestCase, fastest, frame, is_closed, receive_exactly, threads_of, wait_until
from udsipc_capi import ERR_BACKPRESSURE, ERR_STOPPED, ERR_WRONG_STATE, FOREVER, OK


def readable(descriptor):
    """Level-triggered: what poll(2) says now."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))


class LoopCase(TestCase):
    def turn(self, *handles, until, deadline=DEADLINE):
        """A plain event loop over the handles' descriptors, until the condition holds."""
        with selectors.DefaultSelector() as selector:
            for handle in handles:
                selector.register(handle.fd(), selectors.EVENT_READ, handle)
            end = time.monotonic() + deadline
            while not until():
                self.assertLess(time.monotonic(), end, f"not within {deadline} s")
                for key, _events in selector.select(0.05):
                    self.assert_status(key.data.dispatch(0), OK)


class Selectors(LoopCase):
    def test_messages_go_through_without_any_thread(self):
        threads = threads_of()
        reader, writer = self.reader(), self.writer()
        self.assert_status(reader.dispatch(0), OK)
        self.assert_status(writer.dispatch(0), OK)
        messages = [numbered(number, 8 + number % 5000) for number in range(3000)]
        for message in messages:
            self.assert_status(writer.write(message), OK)
        self.turn(reader, writer, until=lambda: len(reader.messages) == 3000)
        self.assertEqual(reader.messages, messages)
        self.assertEqual(threads_of(), threads)
        self.assertEqual(writer.metrics().sent, 3000)
        self.assert_quiet(reader, writer)

    def test_an_event_is_not_lost_when_a_dispatch_has_served_its_share(self):
        """One call serves 64 events at most; each of them is a connection that is not heard of again unless it is served."""
        reader = self.reader(on_message=lambda message, connection: None)
        self.assert_status(reader.dispatch(0), OK)
        clients = [self.client() for _ in range(200)]
        for sent in range(1, 6):
            for client in clients:
                client.sendall(frame(b"x"))
            self.turn(reader, until=lambda: reader.metrics().received == sent * len(clients), deadline=DEADLINE / 3)

    def test_the_writers_descriptor_says_when_there_is_work(self):
        listener = self.listener()
        writer = self.writer()
        self.turn(writer, until=writer.is_connected)
        connection = self.accept(listener)
        self.drain_events(writer)
        self.assertFalse(readable(writer.fd()), "a connected writer with nothing to do is quiet")
        writer.write(b"x")
        self.drain_events(writer)
        self.assertEqual(receive_exactly(connection, 2), b"\x01x")

        message = numbered(1, 4 << 20)
        writer.write(message)
        self.drain_events(writer)
        self.assertFalse(readable(writer.fd()), "the kernel's buffer is full: nothing can be done")
        data = b""
        while not readable(writer.fd()):
            data += connection.recv(1 << 16)
        self.assertTrue(readable(writer.fd()), "level-triggered: it stays so until it is dispatched")
        connection.setblocking(False)
        while len(data) < len(frame(message)):
            self.assert_status(writer.dispatch(0), OK)
            try:
                data += connection.recv(1 << 20)
            except BlockingIOError:
                pass
        self.assertEqual(data, frame(message))
        self.drain_events(writer)
        connection.close()
        self.assertTrue(readable(writer.fd()), "a peer that went away is work too")

    def test_the_readers_descriptor_says_when_there_is_work(self):
        reader = self.reader()
        self.assert_status(reader.dispatch(0), OK)
        self.assertFalse(readable(reader.fd()))
        client = self.client()
        self.assertTrue(readable(reader.fd()))
        self.drain_events(reader)
        client.sendall(frame(b"x"))
        self.assertTrue(readable(reader.fd()))
        self.assertEqual(reader.messages, [], "callbacks run in dispatch, nowhere else")
        self.drain_events(reader)
        self.assertEqual(reader.messages, [b"x"])
        self.assertFalse(readable(reader.fd()))

    def drain_events(self, handle):
        wait_until(lambda: handle.dispatch(0) == OK and not readable(handle.fd()))

    def test_callbacks_run_in_the_dispatching_thread(self):
        seen = []
        reader = self.reader(on_message=lambda *_: seen.append(threading.get_ident()))
        self.client().sendall(frame(b"x"))
        self.turn(reader, until=lambda: seen)
        self.assertEqual(seen, [threading.get_ident()])

    def test_dispatch_waits_as_long_as_it_is_told(self):
        reader = self.reader()
        started = time.monotonic()
        self.assert_status(reader.dispatch(150), OK)
        self.assertGreaterEqual(time.monotonic() - started, 0.14)
        self.client().sendall(frame(b"x"))
        wait_until(lambda: reader.dispatch(FOREVER) == OK and reader.messages == [b"x"])

    def test_dispatch_of_zero_does_not_wait(self):
        reader, writer = self.reader(), self.writer()

        def once():
            self.assert_status(reader.dispatch(0), OK)
            self.assert_status(writer.dispatch(0), OK)

        fastest(once, 0.05)

    def test_timers_run_in_the_loop_too(self):
        """Backoff, write timeout and inactivity are deadlines of the same descriptor."""
        reader = self.reader(inactivity_timeout_ms=100)
        client = self.client()
        self.turn(reader, until=lambda: reader.metrics().idle_closed == 1)
        self.assertTrue(is_closed(client))

        writer = self.writer(f"{self.directory}/late")
        writer.write(b"x")
        self.turn(writer, until=lambda: writer.metrics().connect_failures >= 4)
        listener = self.listener(f"{self.directory}/late")
        self.turn(writer, until=lambda: writer.metrics().sent == 1)
        self.assertEqual(receive_exactly(self.accept(listener), 2), b"\x01x")

        stuck = self.writer(f"{self.directory}/late", write_timeout_ms=100)
        stuck.write(bytes(4 << 20))
        self.turn(stuck, until=lambda: ERR_BACKPRESSURE in stuck.statuses())

    def test_start_and_dispatch_exclude_each_other(self):
        reader, writer = self.reader(), self.writer()
        reader.dispatch(0)
        writer.dispatch(0)
        self.assert_status(reader.start(), ERR_WRONG_STATE)
        self.assert_status(writer.start(), ERR_WRONG_STATE)
        path = f"{self.directory}/started"
        reader, writer = self.reader(path, start=True), self.writer(path, start=True)
        self.assert_status(reader.dispatch(0), ERR_WRONG_STATE)
        self.assert_status(writer.dispatch(0), ERR_WRONG_STATE)
        writer.write(b"x")
        wait_until(lambda: reader.messages == [b"x"])

    def test_a_descriptor_that_no_loop_drives_is_quiet(self):
        """Whether it was asked for before or after the writer was started, or stopped."""
        self.listener()
        started, asked = self.writer(), self.writer()
        before = asked.fd()
        for writer in (started, asked):
            self.assert_status(writer.start(), OK)
            wait_until(writer.is_connected)
        self.assertFalse(readable(before) or readable(started.fd()), "there is nothing to dispatch")
        stopped = self.writer()
        self.assert_status(stopped.stop(0), OK)
        self.assertFalse(readable(stopped.fd()))

    def test_stop_drains_by_itself(self):
        """The loop has ended; stop does the rest in the calling thread."""
        listener = self.listener()
        writer = self.writer()
        self.turn(writer, until=writer.is_connected)
        connection = self.accept(listener)
        for number in range(100):
            writer.write(numbered(number))
        self.assert_status(writer.stop(20_000), OK)
        self.assertEqual(receive_exactly(connection, 1700), b"".join(frame(numbered(n)) for n in range(100)))

        reader = self.reader(f"{self.directory}/reader")
        client = self.client(f"{self.directory}/reader")
        self.turn(reader, until=lambda: reader.metrics().active_connections == 1)
        client.sendall(frame(b"unread"))
        late = self.client(f"{self.directory}/reader")
        late.sendall(frame(b"in the backlog"))
        self.assert_status(reader.stop(20_000), OK)
        self.assertEqual(sorted(reader.messages), [b"in the backlog", b"unread"])
        self.assert_status(reader.dispatch(0), ERR_STOPPED)

    def test_a_flood_does_not_keep_dispatch_for_ever(self):
        """A busy connection is served in bounded turns, so that the host's other work goes on."""
        reader = self.reader(on_batch=lambda *_: None)
        child = self.child()
        child.send(f"""
writer = Writer({self.path!r}, start=True)
for _ in range(60_000):
    check(writer.write_timeout(b"x" * 1000, 60_000))
writer.stop(0)
""")
        self.turn(reader, until=lambda: reader.metrics().received > 0)
        turns = 0
        while reader.metrics().received < 20_000:
            self.assert_status(reader.dispatch(1000), OK)
            turns += 1
        self.assertGreater(turns, 3)
        self.turn(reader, until=lambda: reader.metrics().active_connections == 0)
        child.answer()

    def test_many_connections_in_one_loop(self):
        reader = self.reader()
        writers = [self.writer() for _ in range(20)]
        for number in range(50):
            for slot, writer in enumerate(writers):
                writer.write(numbered(slot << 32 | number))
        self.turn(reader, *writers, until=lambda: len(reader.messages) == 1000)
        for slot in range(20):
            mine = [number_of(m) & 0xFFFF for m in reader.messages if number_of(m) >> 32 == slot]
            self.assertEqual(mine, list(range(50)))


class Asyncio(LoopCase):
    def test_a_reader_and_a_writer_in_asyncio(self):
        received = []

        async def main():
            loop = asyncio.get_running_loop()
            done = asyncio.Event()

            def on_message(message, _connection):
                received.append(message)
                if len(received) == 200:
                    done.set()

            reader = self.reader(on_message=on_message)
            writer = self.writer()
            for handle in (reader, writer):
                self.assert_status(handle.dispatch(0), OK)
                loop.add_reader(handle.fd(), handle.dispatch, 0)
            for number in range(200):
                self.assert_status(writer.write(numbered(number)), OK)
                if number % 50 == 0:
                    await asyncio.sleep(0)
            await asyncio.wait_for(done.wait(), DEADLINE)
            for handle in (writer, reader):
                loop.remove_reader(handle.fd())
                self.assert_status(handle.stop(10_000), OK)

        asyncio.run(main())
        self.assertEqual([number_of(message) for message in received], list(range(200)))


if __name__ == "__main__":
    unittest.main()
