"""A running reader's socket file is removed or replaced: it is noticed, reported once, and the reader listens again."""

import errno
import os
import select
import shutil
import socket
import stat
import threading
import time
import unittest

import kernel
from support import TestCase, connect, frame, listen, refuses, wait_until
from udsipc_capi import ERR_SOCKET_GONE, OK

# What the reader may take for notice, pause and bind, on a machine that is busy.
SOON = 10


class HostLoop:
    """An event loop of the host's in a thread: it waits for the reader's descriptor and dispatches."""

    def __init__(self, reader):
        self.reader, self.over, self.turns = reader, False, 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        descriptor = self.reader.fd()
        while not self.over:
            if select.select([descriptor], [], [], 0.05)[0]:
                self.reader.dispatch(0)
                self.turns += 1

    def end(self):
        self.over = True
        self.thread.join()


class Removed(TestCase):
    def driven(self, how, **options):
        reader = self.reader(start=how == "threads", **options)
        if how == "host":
            self.addCleanup(HostLoop(reader).end)
        return reader

    def assert_receives(self, reader, client, message):
        client.sendall(frame(message))
        wait_until(lambda: message in reader.messages, SOON)

    def assert_lost_and_found(self, reader, times):
        wait_until(lambda: reader.metrics().relistened == times, SOON, reader.metrics)
        wait_until(lambda: len(reader.errors) >= times, SOON)  # another thread may be about to tell
        self.assertEqual(reader.statuses(), [ERR_SOCKET_GONE] * times)
        self.assertEqual(set(reader.contexts()), {"socket file"})

    def test_a_removed_file_comes_back_and_connections_live_on(self):
        for how in ("threads", "host"):
            with self.subTest(how):
                reader = self.driven(how)
                before = self.client()
                self.assert_receives(reader, before, b"before")
                for times in (1, 2, 3):
                    os.unlink(self.path)
                    self.assert_lost_and_found(reader, times)
                    self.assert_receives(reader, self.client(), b"new %d" % times)
                    self.assert_receives(reader, before, b"old %d" % times)
                self.assertEqual(reader.metrics().errors, 0)
                self.assert_status(reader.stop(5_000), OK)
                self.assertEqual(os.listdir(self.directory), [])

    def test_the_report_says_which_file(self):
        texts = []
        from udsipc_capi import last_error
        reader = self.reader(start=True, on_error=lambda _record: texts.append(last_error()))
        os.unlink(self.path)
        self.assert_lost_and_found(reader, 1)
        wait_until(lambda: texts)
        self.assertIn(self.path, texts[0])

    def test_a_writer_finds_the_new_socket(self):
        reader = self.reader(start=True)
        writer = self.writer(start=True)
        writer.write(b"one")
        wait_until(lambda: reader.messages == [b"one"])
        os.unlink(self.path)
        self.assert_lost_and_found(reader, 1)
        second = self.writer(start=True)
        second.write(b"two")
        wait_until(lambda: reader.messages == [b"one", b"two"])
        writer.write(b"three")
        wait_until(lambda: len(reader.messages) == 3)
        self.assertEqual(writer.metrics().connections, 1, "its connection has lived on")

    def test_who_waits_in_the_backlog_of_the_old_socket_is_served(self):
        reader = self.reader()
        early = self.client()
        early.sendall(frame(b"early"))
        os.unlink(self.path)
        reader.start()
        self.assert_lost_and_found(reader, 1)
        wait_until(lambda: reader.messages == [b"early"], SOON)

    def test_mode_and_group_are_as_before(self):
        group = 12345 if os.geteuid() == 0 else os.getgid()
        reader = self.reader(start=True, socket_mode=0o606, socket_group=group)
        os.unlink(self.path)
        self.assert_lost_and_found(reader, 1)
        found = os.stat(self.path)
        self.assertEqual((stat.S_IMODE(found.st_mode), found.st_gid), (0o606, group))

    def test_a_moved_file_and_a_moved_directory_are_losses(self):
        path = f"{self.directory}/d/s"
        reader = self.reader(path, start=True)
        os.rename(path, f"{self.directory}/d/elsewhere")
        self.assert_lost_and_found(reader, 1)
        os.rename(f"{self.directory}/d", f"{self.directory}/e")
        wait_until(lambda: reader.statuses().count(ERR_SOCKET_GONE) == 2, SOON)
        os.mkdir(f"{self.directory}/d")
        wait_until(lambda: reader.metrics().relistened == 2, SOON)
        self.assertFalse(refuses(path))

    def test_a_removed_directory_is_waited_for_and_not_made_again(self):
        path = f"{self.directory}/d/s"
        reader = self.reader(path, start=True)
        shutil.rmtree(f"{self.directory}/d")
        wait_until(lambda: len(reader.errors) == 2, SOON)
        self.assertEqual(reader.errors[0].status, ERR_SOCKET_GONE)
        self.assertEqual((reader.errors[1].os_errno, reader.errors[1].context), (errno.ENOENT, "socket file"))
        time.sleep(0.5)
        self.assertEqual((os.listdir(self.directory), len(reader.errors)), ([], 2))
        os.mkdir(f"{self.directory}/d")
        wait_until(lambda: reader.metrics().relistened == 1, SOON)
        self.assertFalse(refuses(path))

    def test_a_change_of_mode_or_times_is_no_loss(self):
        reader = self.reader(start=True)
        inode = os.stat(self.path).st_ino
        os.chmod(self.path, 0o600)
        os.utime(self.path)
        with open(f"{self.directory}/neighbour", "wb"):
            pass
        os.unlink(f"{self.directory}/neighbour")
        time.sleep(0.3)
        self.assert_quiet(reader)
        self.assertEqual((os.stat(self.path).st_ino, reader.metrics().relistened), (inode, 0))

    def test_nothing_comes_back_after_stop(self):
        reader = self.reader(start=True)
        os.unlink(self.path)
        wait_until(lambda: reader.errors, SOON)
        self.assert_status(reader.stop(5_000), OK)
        time.sleep(0.3)
        if reader.metrics().relistened == 0:
            self.assertFalse(os.path.lexists(self.path))
        self.assertTrue(refuses(self.path))

    def test_a_stop_at_any_moment_of_it_leaves_nothing_behind(self):
        for step in range(30):
            reader = self.reader(start=True)
            os.unlink(self.path)
            time.sleep(0.004 * step)
            self.assert_status(reader.stop(5_000), OK)
            self.assertEqual(os.listdir(self.directory), [], f"after {4 * step} ms")

    def test_the_watch_costs_nothing_while_nothing_happens(self):
        reader = self.reader()
        loop = HostLoop(reader)
        self.addCleanup(loop.end)
        time.sleep(0.2)
        before = loop.turns
        for number in range(50):
            with open(f"{self.directory}/neighbour-{number}", "wb"):
                pass
        time.sleep(0.2)
        self.assertLess(loop.turns - before, 3, "other files in the directory are nobody's business")


class Replaced(TestCase):
    def take_the_path(self):
        """Another program's listener takes the path by a rename."""
        other = listen(f"{self.directory}/other")
        self.addCleanup(other.close)
        os.rename(f"{self.directory}/other", self.path)
        return other

    def test_another_listener_is_left_alone_and_succeeded(self):
        reader = self.reader(start=True)
        client = self.client()
        other = self.take_the_path()
        inode = os.stat(self.path).st_ino
        wait_until(lambda: reader.errors, SOON)
        time.sleep(0.5)
        self.assertEqual((os.stat(self.path).st_ino, reader.statuses()), (inode, [ERR_SOCKET_GONE]))
        client.sendall(frame(b"lives on"))
        wait_until(lambda: reader.messages == [b"lives on"])
        self.assertEqual(reader.metrics().relistened, 0)
        other.close()
        wait_until(lambda: reader.metrics().relistened == 1, SOON)
        late = self.client()
        late.sendall(frame(b"again"))
        wait_until(lambda: b"again" in reader.messages)

    def test_whoever_removes_the_file_and_listens_at_once_gets_the_path(self):
        """So do programs that unlink whatever lies at their path, the Go library among them."""
        rounds = attempts = 0
        while rounds < 10:
            attempts += 1
            self.assertLess(attempts, 50, "the path was taken again before anybody could listen")
            reader = self.reader(start=True)
            os.unlink(self.path)
            time.sleep(0.005)
            try:
                other = listen(self.path)
            except OSError:  # the reader gives others 50 ms, which have passed on a busy machine
                reader.free()
                continue
            rounds += 1
            inode = os.stat(self.path).st_ino
            wait_until(lambda reader=reader: reader.errors, SOON)
            time.sleep(0.1)
            self.assertEqual((os.stat(self.path).st_ino, reader.metrics().relistened), (inode, 0))
            self.assert_status(reader.stop(5_000), OK)
            self.assertEqual(os.stat(self.path).st_ino, inode)
            other.close()
            os.unlink(self.path)
            reader.free()

    def test_a_file_that_is_no_socket_stays(self):
        reader = self.reader(start=True)
        with open(f"{self.directory}/file", "wb") as file:
            file.write(b"precious")
        os.rename(f"{self.directory}/file", self.path)
        wait_until(lambda: reader.errors, SOON)
        time.sleep(0.3)
        self.assert_status(reader.stop(5_000), OK)
        self.assertEqual(reader.statuses(), [ERR_SOCKET_GONE])
        with open(self.path, "rb") as file:
            self.assertEqual(file.read(), b"precious")


class NotWatched(TestCase):
    @unittest.skipUnless(kernel.can_refuse(), "the number of the system call is not known here")
    def test_without_inotify_everything_else_works(self):
        child = self.child()
        child.run(f"import kernel; kernel.refuse(inotify_init1={errno.EMFILE})")
        child.run(f"reader = Reader({self.path!r}, start=True)")
        client = self.client()
        client.sendall(frame(b"x"))
        wait_until(lambda: child.run("[m.decode() for m in reader.messages]") == ["x"])
        os.unlink(self.path)
        time.sleep(0.3)
        client.sendall(frame(b"y"))
        wait_until(lambda: child.run("[m.decode() for m in reader.messages]") == ["x", "y"])
        self.assertEqual(child.run("reader.statuses()"), [])
        self.assertEqual(child.run("reader.stop(5_000)"), OK)

    def test_an_abstract_address_has_no_file(self):
        name = f"@udsipc-test-{os.getpid()}-{time.monotonic_ns()}"
        reader = self.reader(name, start=True)
        client = connect(name)
        self.addCleanup(client.close)
        client.sendall(frame(b"x"))
        wait_until(lambda: reader.messages == [b"x"])
        self.assert_quiet(reader)

    def test_a_socket_of_the_hosts_is_the_hosts_business(self):
        listener = self.listener()
        reader = self.reader(start=True, listen_fd=listener.fileno())
        os.unlink(self.path)
        time.sleep(0.2)
        self.assert_quiet(reader)
        self.assertFalse(os.path.lexists(self.path))
        self.assertEqual(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), 1)


if __name__ == "__main__":
    unittest.main()
