"""Options of a reader that change where it listens, whom it lets in, and how it ends: listen_fd, allow_uid, linger_ms."""

import os
import socket
import subprocess
import sys
import time
import unittest

from support import InBackground, TestCase, connect, fastest, frame, listen, refuses, wait_until
from udsipc_capi import (
    ERR_INVALID_ARGUMENT, ERR_INVALID_BUFFER_SIZE, FOREVER, OK, Reader, last_error, lib,
)


class ListenFd(TestCase):
    def test_messages_come_through_the_hosts_socket(self):
        listener = self.listener()
        reader = self.reader("/nowhere/at/all.sock", start=True, listen_fd=listener.fileno())
        client = self.client()
        client.sendall(frame(b"x"))
        wait_until(lambda: reader.messages == [b"x"])
        self.assertEqual(reader.socket_path(), self.path)
        self.assertFalse(os.path.exists("/nowhere"))

    def test_stop_neither_shuts_the_socket_nor_removes_its_file(self):
        listener = self.listener()
        inode = os.stat(self.path).st_ino
        for round_number in range(3):
            reader = self.reader(start=True, listen_fd=listener.fileno())
            client = self.client()
            client.sendall(frame(b"%d" % round_number))
            wait_until(lambda reader=reader: len(reader.messages) == 1)
            self.assert_status(reader.stop(5_000), OK)
            self.assertEqual(os.stat(self.path).st_ino, inode)
            self.assertFalse(refuses(self.path))
            self.accept(listener).close()  # the probe
            reader.free()
        waiting = self.client()
        waiting.sendall(b"the host's")
        self.assertEqual(self.accept(listener).recv(32), b"the host's")

    def test_the_host_may_close_its_own(self):
        listener = listen(self.path)
        reader = self.reader(listen_fd=listener.fileno())
        listener.close()
        reader.start()
        client = self.client()
        client.sendall(frame(b"x"))
        wait_until(lambda: reader.messages == [b"x"])
        self.assert_status(reader.stop(5_000), OK)
        self.assertTrue(refuses(self.path), "nobody has it any more")

    def test_it_comes_before_what_systemd_passed(self):
        unit, own = self.listener(f"{self.directory}/unit"), self.listener()
        child = self.child(env={"LISTEN_FDS": "1", "LISTEN_PID": "self"}, fds={3: unit, 50: own})
        child.run("reader = Reader('/x/y', start=True, listen_fd=50)")
        self.assertEqual(child.run("reader.socket_path()"), self.path)
        self.assertIn("socket_activation=false", child.run("reader.describe()"))

    def test_what_does_not_listen_is_refused_by_what_it_is(self):
        datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        packets = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        packets.bind(f"{self.directory}/packets")
        packets.listen()
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bound.bind(f"{self.directory}/bound")
        internet = socket.create_server(("127.0.0.1", 0))
        file = open(f"{self.directory}/file", "wb")  # noqa: SIM115 - closed below
        closed = os.dup(file.fileno())
        os.close(closed)
        for each in (datagram, packets, bound, internet, file):
            self.addCleanup(each.close)
        for fd, part in ((datagram.fileno(), "SOCK_STREAM"), (packets.fileno(), "SOCK_STREAM"),
                         (bound.fileno(), "does not listen"), (internet.fileno(), "not a Unix"),
                         (file.fileno(), "socket"), (closed, "file descriptor"), (-1, "file descriptor")):
            with self.subTest(part):
                text = self.assert_refused(ERR_INVALID_ARGUMENT, Reader, self.path, listen_fd=fd)
                self.assertIn(part, text)
                self.assertIn(str(fd), text)
        self.assertFalse(os.path.exists(self.path))

    def test_no_descriptor_is_left(self):
        listener = self.listener()
        count = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            Reader(self.path, listen_fd=listener.fileno(), start=True).free()
        self.assertEqual(len(os.listdir("/proc/self/fd")), count)

    def test_a_full_turn_of_connections_is_accepted_by_two_readers(self):
        """The socket is shared, and non-blocking: a reader that is late for a connection does not wait for the next."""
        listener = self.listener()
        readers = [self.reader(start=True, listen_fd=listener.fileno()) for _ in range(2)]
        for number in range(100):
            client = self.client()
            client.sendall(frame(b"%d" % number))
        wait_until(lambda: sum(len(reader.messages) for reader in readers) == 100)
        for reader in readers:
            self.assert_status(reader.stop(5_000), OK)


def unmapped_ids(code):
    """Runs Python in a user namespace that maps one user; None where there are no user namespaces."""
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-B", "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=os.path.dirname(__file__))
    except FileNotFoundError:
        return None
    if "unshare failed" in done.stderr or "Operation not permitted" in done.stderr:
        return None
    return done.stdout.strip() or done.stderr


class UnmappedUsers(TestCase):
    ASK = """
from udsipc_capi import last_error, lib
options = lib.udsipc_reader_options_new()
print([(lib.udsipc_reader_options_allow_{kind}(options, {id}), last_error()) for _ in range(3)])
"""

    def asked(self, kind, number):
        answer = unmapped_ids(self.ASK.format(kind=kind, id=number))
        if answer is None:
            self.skipTest("no user namespaces here")
        return eval(answer)  # noqa: S307 - what our own child has printed

    def test_the_id_of_all_unmapped_users_has_to_be_given_twice(self):
        for kind in ("uid", "gid"):
            with open(f"/proc/sys/kernel/overflow{kind}", encoding="ascii") as file:
                overflow = int(file.read())
            (first, text), (second, _), (third, _) = self.asked(kind, overflow)
            self.assertEqual((first, second, third), (ERR_INVALID_ARGUMENT, OK, OK))
            for part in (f"allow_{kind}", str(overflow), f"{kind}_map", "once more"):
                self.assertIn(part, text)

    def test_any_other_id_is_taken_at_once(self):
        for kind in ("uid", "gid"):
            self.assertEqual([status for status, _ in self.asked(kind, 0)], [OK] * 3)

    def test_where_every_user_is_mapped_nobody_else_has_that_id(self):
        with open("/proc/self/uid_map", encoding="ascii") as file:
            if sum(int(line.split()[2]) for line in file) < 2**32 - 1:
                self.skipTest("this user namespace does not map every user")
        self.reader(allow_uid=65534, allow_gid=65534)


class Linger(TestCase):
    def held_up(self, count, **options):
        """A started reader whose callback is slow, with so many messages in its socket."""
        handled = []

        def on_message(data, _connection):
            handled.append(data)
            time.sleep(0.02)

        reader = Reader(self.path, on_message=on_message, start=True, **options)
        client = self.client()
        client.sendall(b"".join(frame(b"%d" % number) for number in range(count)))
        wait_until(lambda: handled)
        return reader, handled

    def test_free_delivers_what_was_sent_within_a_second_by_default(self):
        reader, handled = self.held_up(10)
        reader.free()
        self.assertEqual(handled, [b"%d" % number for number in range(10)])

    def test_a_time_of_nothing_delivers_nothing_more(self):
        def attempt():
            reader, handled = self.held_up(500, linger_ms=0)
            started = time.monotonic()
            reader.free()
            self.assertLess(len(handled), 500)
            return time.monotonic() - started

        fastest(attempt, 0.2)

    def test_a_short_time_is_kept(self):
        reader = Reader(self.path, on_message=lambda _data, _connection: time.sleep(0.01), start=True, linger_ms=100)
        client = connect(self.path)
        self.addCleanup(client.close)
        sender = InBackground(lambda: client.sendall(frame(b"x" * 10) * 100_000))
        wait_until(lambda: reader.metrics().received > 0)
        started = time.monotonic()
        reader.free()
        self.assertLess(time.monotonic() - started, 3)
        with self.assertRaises(OSError):
            sender.result()

    def test_a_dispatched_reader_is_drained_by_free_too(self):
        reader = Reader(self.path, linger_ms=FOREVER)
        for number in range(3):
            client = self.client()
            client.sendall(frame(b"%d" % number))
        reader.dispatch(0)
        reader.free()
        self.assertEqual(sorted(reader.messages), [b"0", b"1", b"2"])

    def test_free_inside_a_callback_waits_for_nothing(self):
        taken = []

        def on_message(_data, _connection):
            started = time.monotonic()
            lib.udsipc_reader_free(reader.handle)
            taken.append(time.monotonic() - started)

        def attempt():
            nonlocal reader
            taken.clear()
            reader = Reader(self.path, on_message=on_message, start=True, linger_ms=FOREVER)
            self.client().sendall(frame(b"x") * 1000)
            wait_until(lambda: taken)
            reader.handle = None
            self.addCleanup(lambda kept=reader: kept)  # its callbacks outlive the free
            return taken[0]

        reader = None
        fastest(attempt, 0.2)


class StackSize(TestCase):
    def test_range(self):
        for size in (1, 65535, 2**64 - 1):
            text = self.assert_refused(ERR_INVALID_BUFFER_SIZE, Reader, self.path, callback_stack_size=size)
            self.assertIn("callback_stack_size", text)
        for number, size in enumerate((0, 65536, 1 << 20)):
            reader = self.reader(f"{self.path}{number}", start=True, callback_stack_size=size)
            self.assert_status(reader.stop(5_000), OK, last_error())


if __name__ == "__main__":
    unittest.main()
