"""The bytes on the wire: what a writer puts there, and what a reader makes of good and bad input."""

import socket
import unittest

from support import (
    TestCase, client_has_been_read, frame, is_closed, memory_of, receive_all, receive_exactly, uvarint, wait_until,
)
from udsipc_capi import (
    ERR_CONNECTION_CLOSED, ERR_INVALID_LENGTH_PREFIX, ERR_MESSAGE_TOO_LARGE, FOREVER, OK,
)

PREFIX = "failed to read the length prefix"
PAYLOAD = "failed to read the complete message"
BOUNDARIES = [1, 127, 128, 16383, 16384, 2097151, 2097152]


def content(length, seed):
    """Bytes of every value, different for each seed."""
    block = bytes((seed + i) % 251 for i in range(251 * 16))
    return (block * (length // len(block) + 1))[:length]


class WriterWire(TestCase):
    def test_exact_bytes_at_the_varint_boundaries(self):
        listener = self.listener()
        writer = self.writer(start=True)
        messages = [content(length, seed) for seed, length in enumerate(BOUNDARIES)]
        for message in messages:
            self.assert_status(writer.write(message), OK)
        connection = self.accept(listener)
        expected = b"".join(map(frame, messages))
        self.assertEqual(receive_exactly(connection, len(expected)), expected)
        self.assert_status(writer.stop(10_000), OK)
        self.assertEqual(connection.recv(1), b"", "nothing follows the last frame: no close marker")

    def test_nothing_is_said_before_the_first_message(self):
        listener = self.listener()
        writer = self.writer(start=True)
        connection = self.accept(listener)
        wait_until(writer.is_connected)
        self.assert_status(writer.stop(10_000), OK)
        self.assertEqual(receive_all(connection), b"")

    def test_every_byte_value_goes_through(self):
        listener = self.listener()
        writer = self.writer(start=True)
        connection = self.accept(listener)
        message = bytes(range(256))
        writer.write(message)
        self.assertEqual(receive_exactly(connection, 258), uvarint(256) + message)

    def test_an_empty_message_is_accepted_and_not_sent(self):
        listener = self.listener()
        writer = self.writer(start=True)
        connection = self.accept(listener)
        self.assert_status(writer.write(b""), OK)
        self.assert_status(writer.write(b"x"), OK)
        self.assert_status(writer.stop(10_000), OK)
        self.assertEqual(receive_all(connection), b"\x01x")
        metrics = writer.metrics()
        self.assertEqual((metrics.sent, metrics.dropped, metrics.failed, metrics.queue_depth), (1, 0, 0, 0))

    def test_empty_messages_fill_no_queue(self):
        writer = self.writer(max_buffered_writes=2)
        for message in (b"a", b"", b"b", b""):
            self.assert_status(writer.write(message), OK)
        metrics = writer.metrics()
        self.assertEqual((metrics.queue_depth, metrics.sent, metrics.dropped), (2, 0, 0))


class ReaderFraming(TestCase):
    def receive(self, wire, expected, **options):
        """Sends `wire`, ends the stream, and compares what arrived."""
        reader = self.reader(start=True, **options)
        client = self.client()
        client.sendall(wire)
        wait_until(lambda: len(reader.messages) >= len(expected), what=lambda: reader.metrics())
        client.close()
        wait_until(lambda: reader.metrics().active_connections == 0)
        self.assertEqual(reader.messages, expected)
        return reader

    def test_non_minimal_prefixes_are_accepted(self):
        five = [bytes([0x85]) + b"\x80" * padding + b"\x00" for padding in range(0, 9)]
        empty = [b"\x80" * padding + b"\x00" for padding in range(1, 10)]
        wire = b"".join(prefix + b"abcde" for prefix in five) + b"".join(empty) + frame(b"end")
        reader = self.receive(wire, [b"abcde"] * len(five) + [b"end"])
        self.assert_quiet(reader)
        self.assertEqual(reader.metrics().errors, 0)

    def test_prefixes_at_the_varint_boundaries(self):
        messages = [content(length, length % 97) for length in BOUNDARIES]
        self.assert_quiet(self.receive(b"".join(map(frame, messages)), messages))

    def test_pieces_and_many_in_one_piece(self):
        reader = self.reader(start=True)
        client = self.client()
        message = content(300, 3)
        for byte in frame(message):
            client.sendall(bytes([byte]))
        client.sendall(frame(b"one") + frame(b"two") + frame(b"three")[:3])
        wait_until(lambda: len(reader.messages) == 3)
        client.sendall(frame(b"three")[3:])
        wait_until(lambda: len(reader.messages) == 4)
        self.assertEqual(reader.messages, [message, b"one", b"two", b"three"])
        self.assert_quiet(reader)

    def test_frames_cut_at_every_byte(self):
        """The end of one recv falls into every place of a frame, prefix and payload."""
        reader = self.reader(start=True)
        client = self.client()
        wire = frame(content(200, 1)) + frame(b"tail")
        for cut in range(1, len(wire)):
            client.sendall(wire[:cut])
            wait_until(lambda: client_has_been_read(client))
            client.sendall(wire[cut:])
        wait_until(lambda: len(reader.messages) == 2 * (len(wire) - 1))
        self.assertEqual(reader.messages, [content(200, 1), b"tail"] * (len(wire) - 1))
        self.assert_quiet(reader)

    def test_empty_frames_are_silent(self):
        reader = self.receive(b"\x00\x00" + frame(b"a") + b"\x00" + frame(b"b"), [b"a", b"b"])
        metrics = reader.metrics()
        self.assertEqual((metrics.received, metrics.errors, metrics.received_bytes), (2, 0, 2))
        self.assert_quiet(reader)

    def test_empty_frames_keep_a_connection_alive(self):
        reader = self.reader(start=True, inactivity_timeout_ms=400)
        client = self.client()
        for _ in range(3):
            silent = self.client()
            wait_until(lambda: (client.sendall(b"\x00"), is_closed(silent))[1])
        client.sendall(frame(b"still here"))
        wait_until(lambda: reader.messages == [b"still here"])
        self.assertEqual((reader.metrics().errors, reader.metrics().idle_closed), (0, 3))
        self.assert_quiet(reader)

    def test_the_size_limit_is_inclusive(self):
        reader = self.reader(start=True, max_message_size=1000)
        client = self.client()
        client.sendall(frame(b"x" * 1000))
        wait_until(lambda: reader.messages == [b"x" * 1000])
        client.sendall(frame(b"y" * 1001))
        wait_until(lambda: reader.errors)
        self.assertEqual(len(reader.messages), 1)
        self.assert_status(reader.errors[0].status, ERR_MESSAGE_TOO_LARGE)

    def test_a_limit_of_zero_refuses_every_message_but_not_keep_alives(self):
        reader = self.reader(start=True, max_message_size=0)
        client = self.client()
        client.sendall(b"\x00\x00")
        wait_until(lambda: client_has_been_read(client))
        self.assertEqual(reader.metrics().errors, 0)
        client.sendall(frame(b"x"))
        wait_until(lambda: reader.metrics().errors == 1)
        self.assertEqual(reader.messages, [])

    def test_end_between_frames_is_silent(self):
        reader = self.receive(frame(b"only"), [b"only"])
        self.assertEqual(reader.metrics().errors, 0)
        self.assert_quiet(reader)

    def test_connect_and_close_is_silent(self):
        reader = self.receive(b"", [])
        wait_until(lambda: reader.metrics().connections == 1)
        self.assertEqual(reader.metrics().errors, 0)
        self.assert_quiet(reader)

    def test_payloads_behind_out_of_band_bytes_survive(self):
        """Linux has MSG_OOB on Unix sockets since 5.15; plain reads skip such a byte."""
        reader = self.reader(start=True)
        client = self.client()
        client.sendall(frame(b"before"))
        wait_until(lambda: reader.messages == [b"before"])
        try:
            client.send(b"!", socket.MSG_OOB)
        except OSError as error:
            self.skipTest(f"no MSG_OOB here: {error}")
        client.sendall(frame(b"behind"))
        wait_until(lambda: reader.messages == [b"before", b"behind"])


class BadInput(TestCase):
    """Each fault closes its own connection, counts one error, reports it once; another connection goes on."""

    def fault(self, wire, status, context, finish=True, received=(), **options):
        reader = self.reader(start=True, **options)
        bystander = self.client()
        bystander.sendall(frame(b"first"))
        wait_until(lambda: reader.messages == [b"first"])

        client = self.client()
        client.sendall(wire)
        if finish:
            client.shutdown(socket.SHUT_WR)
        wait_until(lambda: reader.errors, what=lambda: reader.metrics())
        wait_until(lambda: is_closed(client))

        bystander.sendall(frame(b"second"))
        wait_until(lambda: b"second" in reader.messages)
        self.assertEqual(reader.messages, [b"first", *received, b"second"])
        self.assertEqual(len(reader.errors), 1, reader.errors)
        self.assert_status(reader.errors[0].status, status)
        self.assertEqual(reader.errors[0].context, context)
        wait_until(lambda: reader.metrics().received == 2 + len(received))
        wait_until(lambda: reader.metrics().active_connections == 1)
        self.assertEqual(reader.metrics().errors, 1)
        return reader

    def test_tenth_byte_with_continuation(self):
        # The stream stays open: the verdict must not wait for an eleventh byte.
        self.fault(b"\xff" * 9 + b"\x80", ERR_INVALID_LENGTH_PREFIX, PREFIX, finish=False)

    def test_tenth_byte_above_one(self):
        self.fault(b"\xff" * 9 + b"\x02", ERR_INVALID_LENGTH_PREFIX, PREFIX, finish=False)

    def test_largest_prefix_is_too_large_not_malformed(self):
        self.fault(b"\xff" * 9 + b"\x01", ERR_MESSAGE_TOO_LARGE, "message too large", finish=False)

    def test_end_inside_the_prefix(self):
        self.fault(b"\x80", ERR_CONNECTION_CLOSED, PREFIX)

    def test_end_before_the_first_payload_byte(self):
        self.fault(uvarint(500), ERR_CONNECTION_CLOSED, PAYLOAD)

    def test_end_inside_the_payload(self):
        self.fault(frame(b"whole") + uvarint(500) + b"x" * 499, ERR_CONNECTION_CLOSED, PAYLOAD, received=[b"whole"])

    def test_end_inside_a_large_payload(self):
        self.fault(uvarint(2_000_000) + b"x" * 1_500_000, ERR_CONNECTION_CLOSED, PAYLOAD)

    def test_oversize_is_decided_from_the_prefix_alone(self):
        self.fault(uvarint(1001), ERR_MESSAGE_TOO_LARGE, "message too large", finish=False, max_message_size=1000)

    def test_bytes_behind_a_bad_frame_are_discarded(self):
        wire = frame(b"good") + uvarint(1001) + frame(b"never") * 10
        self.fault(wire, ERR_MESSAGE_TOO_LARGE, "message too large", received=[b"good"], finish=False,
                   max_message_size=1000)

    def test_bytes_behind_a_bad_prefix_are_discarded(self):
        wire = frame(b"good") + b"\xff" * 10 + frame(b"never") * 10
        self.fault(wire, ERR_INVALID_LENGTH_PREFIX, PREFIX, received=[b"good"], finish=False)

    def test_oversize_counts_once_whether_or_not_the_client_can_finish(self):
        """Prefix and payload in two calls: the second may fail, depending on how quickly the reader closes."""
        reader = self.reader(start=True, max_message_size=1000)
        client = self.client()
        client.sendall(uvarint(1001))
        try:
            client.sendall(b"x" * 1001)
        except (BrokenPipeError, ConnectionResetError):
            pass
        wait_until(lambda: reader.errors)
        wait_until(lambda: reader.metrics().active_connections == 0)
        self.assertEqual((reader.metrics().errors, reader.metrics().received), (1, 0))

    def test_an_announced_length_reserves_nothing(self):
        """One hundred strangers announce 10 MiB each and send nothing more."""
        child = self.child()
        child.run(f"reader = Reader({self.path!r}, start=True)")
        warm = self.client()
        warm.sendall(frame(b"warm"))
        wait_until(lambda: child.run("len(reader.messages)") == 1)
        before = memory_of(child.pid, "VmData")
        clients = [self.client() for _ in range(100)]
        for client in clients:
            client.sendall(uvarint(10 << 20) + b"x")
        wait_until(lambda: all(client_has_been_read(client) for client in clients))
        grown = memory_of(child.pid, "VmData") - before
        self.assertLess(grown, 200 << 20, "a thousand million bytes were announced")

    def test_a_length_beyond_the_address_space_harms_nobody(self):
        reader = self.reader(start=True, max_message_size=FOREVER)
        for announced in (2**64 - 1, 2**63, 2**47):
            client = self.client()
            client.sendall(uvarint(announced) + b"x" * 1000)
            client.shutdown(socket.SHUT_WR)
            wait_until(lambda: is_closed(client))
        survivor = self.client()
        survivor.sendall(frame(b"alive"))
        wait_until(lambda: reader.messages == [b"alive"])
        self.assertEqual(reader.metrics().errors, 3)

    def test_descriptors_sent_by_a_stranger_do_not_stay(self):
        """SCM_RIGHTS: a reader that asks for no control data must not fill its table with a peer's descriptors."""
        child = self.child()
        child.run(f"reader = Reader({self.path!r}, start=True)")
        client = self.client()
        client.sendall(frame(b"warm"))
        wait_until(lambda: child.run("len(reader.messages)") == 1)
        before = child.run("len(os.listdir('/proc/self/fd'))")
        for _ in range(50):
            try:
                socket.send_fds(client, [frame(b"with a descriptor")], [0])
            except PermissionError:  # the kernel refuses it for the reader (SO_PASSRIGHTS, Linux 6.16)
                client.sendall(frame(b"without a descriptor"))
        wait_until(lambda: child.run("len(reader.messages)") == 51)
        self.assertEqual(child.run("len(os.listdir('/proc/self/fd'))"), before)


if __name__ == "__main__":
    unittest.main()
