"""Who may have a socket path: limits, directories, modes, what lies there already, and starters in the same instant."""

import ctypes
import os
import signal
import socket
import stat
import subprocess
import threading
import time
import unittest

from support import TestCase, address, connect, fill_backlog, frame, refuses, spawn, wait_until
from udsipc_capi import (
    ERR_ADDRESS_IN_USE, ERR_INVALID_ARGUMENT, ERR_INVALID_SOCKET_PATH, OK, Reader, UdsipcError, Writer, byref, c_size_t,
    last_error, lib, resolve_socket_path,
)


class Limits(TestCase):
    def long_path(self, length):
        prefix = self.directory + "/"
        return prefix + "p" * (length - len(prefix))

    def test_the_limit_is_107_bytes(self):
        self.assertEqual(lib.udsipc_max_socket_path_length(), 107)

    def test_107_bytes_work_from_end_to_end(self):
        path = self.long_path(107)
        reader = self.reader(path, start=True)
        writer = self.writer(path, start=True)
        self.assert_status(writer.write(b"x"), OK)
        wait_until(lambda: reader.messages == [b"x"])

    def test_108_bytes_are_refused_with_path_and_limit(self):
        path = self.long_path(108)
        for create in (Reader, Writer):
            text = self.assert_refused(ERR_INVALID_SOCKET_PATH, create, path)
            self.assertIn(path, text)
            self.assertIn("107", text)
        self.assertEqual(os.listdir(self.directory), [])

    def test_bytes_that_are_not_utf8_are_a_path(self):
        path = os.fsencode(self.directory) + b"/\xff\xfe"
        reader = self.reader(path, start=True)
        writer = self.writer(path, start=True)
        writer.write(b"x")
        wait_until(lambda: reader.messages == [b"x"])
        self.assertEqual(os.fsencode(reader.socket_path()), path)

    def test_resolve_says_how_much_room_it_needs(self):
        needed = c_size_t(0)
        buffer = ctypes.create_string_buffer(256)
        path = self.path.encode()
        self.assert_status(lib.udsipc_resolve_socket_path(path, buffer, len(buffer), byref(needed)), OK)
        self.assertEqual(buffer.value, path)
        self.assertIn(needed.value, (len(path), len(path) + 1))
        small = ctypes.create_string_buffer(b"#" * 8, 8)
        lib.udsipc_resolve_socket_path(path, small, 4, byref(needed))
        self.assertEqual(small.raw[4:], b"####", "nothing is written behind the capacity")


class Directories(TestCase):
    def test_missing_parents_are_made_with_mode_0750(self):
        self.addCleanup(os.umask, os.umask(0))
        path = f"{self.directory}/a/b/c/s"
        self.reader(path)
        for made in ("a", "a/b", "a/b/c"):
            mode = stat.S_IMODE(os.stat(f"{self.directory}/{made}").st_mode)
            self.assertEqual(oct(mode), "0o750", made)

    def test_ensure_socket_dir_obeys_the_umask_and_is_idempotent(self):
        self.addCleanup(os.umask, os.umask(0o077))
        path = f"{self.directory}/a/b/s"
        for _ in range(2):
            self.assert_status(lib.udsipc_ensure_socket_dir(path.encode()), OK)
        self.assertEqual(oct(stat.S_IMODE(os.stat(f"{self.directory}/a/b").st_mode)), "0o700")
        self.assertFalse(os.path.exists(path))

    def test_an_existing_directory_is_left_as_it_is(self):
        directory = f"{self.directory}/mine"
        os.mkdir(directory)
        os.chmod(directory, 0o711)
        self.assert_status(lib.udsipc_ensure_socket_dir(f"{directory}/s".encode()), OK)
        self.reader(f"{directory}/s")
        self.assertEqual(oct(stat.S_IMODE(os.stat(directory).st_mode)), "0o711")

    def test_a_parent_that_cannot_be_made_is_an_error(self):
        blocker = f"{self.directory}/file"
        with open(blocker, "wb"):
            pass
        self.assertNotEqual(lib.udsipc_ensure_socket_dir(f"{blocker}/sub/s".encode()), OK)
        self.assertIn(blocker, last_error())
        with self.assertRaises(UdsipcError):
            Reader(f"{blocker}/sub/s")


class Claiming(TestCase):
    def make_stale(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(self.path)
            listener.listen(1)

    def assert_works(self, reader):
        if reader.start() != OK:
            self.fail(last_error())
        client = self.client(reader.socket_path())
        client.sendall(frame(b"x"))
        wait_until(lambda: reader.messages[-1:] == [b"x"])

    def test_nothing_there(self):
        self.assert_works(self.reader())

    def test_a_stale_socket_is_replaced(self):
        self.make_stale()
        self.assert_works(self.reader())

    def test_a_live_reader_is_left_alone(self):
        first = self.reader(start=True)
        text = self.assert_refused(ERR_ADDRESS_IN_USE, Reader, self.path)
        self.assertIn(self.path, text)
        self.assert_works(first)
        self.assertEqual(first.metrics().errors, 0, "the probe of the second reader is silence")
        self.assert_quiet(first)

    def test_a_reader_that_is_not_started_is_left_alone(self):
        first = self.reader()
        self.assert_refused(ERR_ADDRESS_IN_USE, Reader, self.path)
        self.assert_works(first)

    def test_a_foreign_live_listener_is_left_alone(self):
        listener = self.listener()
        self.assert_refused(ERR_ADDRESS_IN_USE, Reader, self.path)
        connect(self.path).close()
        self.assertEqual(os.stat(self.path).st_ino, os.stat(listener.getsockname()).st_ino)

    def test_a_listener_with_a_full_backlog_is_alive(self):
        fill_backlog(self, self.listener(backlog=0))
        self.assert_refused(ERR_ADDRESS_IN_USE, Reader, self.path)
        self.assertTrue(os.path.exists(self.path))

    def test_a_regular_file_is_left_alone(self):
        with open(self.path, "wb") as file:
            file.write(b"precious")
        self.assert_refused(ERR_ADDRESS_IN_USE, Reader, self.path)
        with open(self.path, "rb") as file:
            self.assertEqual(file.read(), b"precious")

    def test_a_directory_is_left_alone(self):
        os.mkdir(self.path)
        self.assert_refused(ERR_ADDRESS_IN_USE, Reader, self.path)
        self.assertTrue(os.path.isdir(self.path))

    def test_symlinks_are_left_alone(self):
        target = f"{self.directory}/target"
        for kind in ("dangling", "file", "stale socket"):
            with self.subTest(kind):
                if kind == "file":
                    with open(target, "wb") as file:
                        file.write(b"precious")
                if kind == "stale socket":
                    os.unlink(target)
                    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                        listener.bind(target)
                os.symlink(target, self.path)
                self.assert_refused(ERR_ADDRESS_IN_USE, Reader, self.path)
                self.assertEqual(os.readlink(self.path), target)
                self.assertEqual(os.path.lexists(target), kind != "dangling")
                os.unlink(self.path)

    def test_cleanup_takes_a_stale_socket_only(self):
        cleanup = lib.udsipc_cleanup_socket
        path = self.path.encode()
        self.assert_status(cleanup(path), OK, "nothing there is no error")
        self.make_stale()
        self.assert_status(cleanup(path), OK)
        self.assertFalse(os.path.lexists(self.path))

        with open(self.path, "wb"):
            pass
        self.assertNotEqual(cleanup(path), OK)
        self.assertTrue(os.path.exists(self.path))
        os.unlink(self.path)

        os.mkdir(self.path)
        self.assertNotEqual(cleanup(path), OK)
        self.assertTrue(os.path.isdir(self.path))
        os.rmdir(self.path)

        self.listener()
        self.assertNotEqual(cleanup(path), OK)
        self.assertFalse(refuses(self.path))

    def test_stop_removes_the_file(self):
        reader = self.reader(start=True)
        self.assert_status(reader.stop(5_000), OK)
        self.assertFalse(os.path.lexists(self.path))
        self.assertTrue(refuses(self.path))

    def test_free_without_start_removes_the_file(self):
        Reader(self.path).free()
        self.assertFalse(os.path.lexists(self.path))

    def test_stop_leaves_a_file_that_is_not_ours(self):
        reader = self.reader(start=True)
        os.unlink(self.path)
        listener = self.listener()
        inode = os.stat(self.path).st_ino
        self.assert_status(reader.stop(5_000), OK)
        self.assertEqual(os.stat(self.path).st_ino, inode)
        connect(self.path).close()
        self.accept(listener)

    def test_stop_does_not_need_the_path(self):
        """The Go library wakes its accept loop by dialling the path, and hangs when the file is gone."""
        reader = self.reader(start=True)
        os.unlink(self.path)
        self.assert_status(reader.stop(5_000), OK)

    def test_the_path_is_free_at_once_after_stop(self):
        for _ in range(30):
            reader = self.reader(start=True)
            self.assert_status(reader.stop(5_000), OK)

    def test_the_path_works_at_once_after_kill(self):
        for _ in range(3):
            child = self.child()
            child.run(f"reader = Reader({self.path!r}, start=True)")
            self.assert_refused(ERR_ADDRESS_IN_USE, Reader, self.path)
            os.kill(child.pid, signal.SIGKILL)
            child.process.wait()
            reader = self.reader()
            self.assert_works(reader)
            reader.free()


class SameInstant(TestCase):
    ROUNDS = 100

    def test_two_processes(self):
        racers = []
        for _ in range(2):
            racer = spawn("path_racer.py", self.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.addCleanup(racer.stdout.close)
            self.addCleanup(racer.wait)
            self.addCleanup(racer.kill)
            self.addCleanup(racer.stdin.close)
            racers.append(racer)

        def tell(line):
            for racer in racers:
                racer.stdin.write(line + "\n")
                racer.stdin.flush()
            return [racer.stdout.readline().strip() for racer in racers]

        stale = 0
        for number in range(self.ROUNDS):
            if number % 2:
                # Every other round, a stale file lies there: both probe it, one may replace it.
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind:
                    left_behind.bind(self.path)
                stale += 1
            statuses = sorted(map(int, tell(str(time.monotonic() + 0.002))))
            self.assertEqual(statuses, [OK, ERR_ADDRESS_IN_USE], f"round {number}")
            self.assertFalse(refuses(self.path), f"round {number}: the winner can be reached")
            self.assertEqual(tell("free"), ["freed", "freed"])
            self.assertFalse(os.path.lexists(self.path), f"round {number}")
        self.assertEqual(stale, self.ROUNDS // 2)

    def test_two_threads(self):
        for number in range(self.ROUNDS):
            barrier = threading.Barrier(2)
            outcome = [None, None]

            def start(slot, barrier=barrier, outcome=outcome):
                barrier.wait()
                try:
                    outcome[slot] = Reader(self.path)
                except UdsipcError as error:
                    outcome[slot] = error.status

            threads = [threading.Thread(target=start, args=(slot,)) for slot in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            winners = [made for made in outcome if isinstance(made, Reader)]
            self.assertEqual(len(winners), 1, f"round {number}: {outcome}")
            self.assertIn(ERR_ADDRESS_IN_USE, outcome, f"round {number}")
            self.assertFalse(refuses(self.path))
            winners[0].free()


class Modes(TestCase):
    def mode_of(self, path=None):
        return oct(stat.S_IMODE(os.stat(path or self.path).st_mode))

    def test_by_default_the_umask_decides(self):
        self.addCleanup(os.umask, os.umask(0o027))
        self.reader()
        self.assertEqual(self.mode_of(), "0o750")

    def test_socket_mode_is_exact_whatever_the_umask(self):
        for umask in (0, 0o077):
            self.addCleanup(os.umask, os.umask(umask))
            for mode in (0o600, 0o660, 0o666):
                path = f"{self.directory}/s{umask}{mode}"
                reader = self.reader(path, start=True, socket_mode=mode)
                self.assertEqual(self.mode_of(path), oct(mode))
                client = self.client(path)
                client.sendall(frame(b"x"))
                wait_until(lambda: reader.messages == [b"x"])

    def test_socket_mode_survives_a_stale_file_and_is_removed_at_stop(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind:
            left_behind.bind(self.path)
        os.chmod(self.path, 0o777)
        reader = self.reader(start=True, socket_mode=0o600)
        self.assertEqual(self.mode_of(), "0o600")
        self.assert_refused(ERR_ADDRESS_IN_USE, Reader, self.path, socket_mode=0o600)
        self.assert_status(reader.stop(5_000), OK)
        self.assertFalse(os.path.lexists(self.path))

    def test_the_mode_is_never_wider_for_a_moment(self):
        """Another process looks at the path as fast as it can while readers come and go with an open umask."""
        watcher = self.child()
        watcher.send(
            "import stat\n"
            "seen, witnessed = set(), False\n"
            f"open({self.directory + '/begun'!r}, 'wb').close()\n"
            f"while not os.path.exists({self.directory + '/end'!r}):\n"
            "    try:\n"
            f"        seen.add(stat.S_IMODE(os.lstat({self.path!r}).st_mode))\n"
            "        if not witnessed:\n"
            "            witnessed = True\n"
            f"            open({self.directory + '/seen'!r}, 'wb').close()\n"
            "    except FileNotFoundError:\n"
            "        pass\n")
        wait_until(lambda: os.path.exists(f"{self.directory}/begun"))
        self.addCleanup(os.umask, os.umask(0))
        for _ in range(200):
            Reader(self.path, socket_mode=0o600).free()
        # One that gets no processor for so long has seen nothing.
        wait_until(lambda: Reader(self.path, socket_mode=0o600).free() or os.path.exists(f"{self.directory}/seen"))
        with open(f"{self.directory}/end", "wb"):
            pass
        watcher.answer()
        self.assertEqual(watcher.run("[oct(mode) for mode in seen]"), ["0o600"])

    def test_bits_that_are_no_permissions_are_refused(self):
        self.assert_refused(ERR_INVALID_ARGUMENT, Reader, self.path, socket_mode=0o100000)

    def test_socket_group(self):
        gid = os.getgid()
        if os.geteuid() == 0:
            gid = 12345
        else:
            gid = next((group for group in os.getgroups() if group != gid), gid)
        self.reader(socket_group=gid, socket_mode=0o660)
        self.assertEqual(os.stat(self.path).st_gid, gid)
        self.assertEqual(self.mode_of(), "0o660")


class Abstract(TestCase):
    def setUp(self):
        super().setUp()
        self.name = f"@udsipc-test-{os.getpid()}-{time.monotonic_ns()}"

    def test_messages_go_through_without_any_file(self):
        here = os.getcwd()
        os.chdir(self.directory)
        self.addCleanup(os.chdir, here)
        reader = self.reader(self.name, start=True)
        writer = self.writer(self.name, start=True)
        writer.write(b"x")
        wait_until(lambda: reader.messages == [b"x"])
        self.assertEqual(os.listdir(self.directory), [])
        self.assertEqual(reader.socket_path(), self.name)

    def test_a_file_of_that_name_is_left_alone(self):
        here = os.getcwd()
        os.chdir(self.directory)
        self.addCleanup(os.chdir, here)
        with open(self.name, "wb") as file:
            file.write(b"precious")
        reader = self.reader(self.name, start=True)
        self.assert_status(reader.stop(5_000), OK)
        with open(self.name, "rb") as file:
            self.assertEqual(file.read(), b"precious")

    def test_the_length_is_exact(self):
        reader = self.reader(self.name, start=True)
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.addCleanup(client.close)
        with self.assertRaises(ConnectionRefusedError):
            client.connect(address(self.name) + "\0")
        client.connect(address(self.name))
        client.sendall(frame(b"x"))
        wait_until(lambda: reader.messages == [b"x"])

    def test_a_live_owner_keeps_it_and_stop_gives_it_back(self):
        first = self.reader(self.name, start=True)
        self.assert_refused(ERR_ADDRESS_IN_USE, Reader, self.name)
        self.assert_status(first.stop(5_000), OK)
        self.reader(self.name, start=True)


class Resolution(TestCase):
    def test_without_systemd_the_path_stays(self):
        child = self.child()
        self.assertEqual(child.run(f"resolve_socket_path({self.path!r})"), self.path)

    def test_runtime_directory_takes_the_name_of_the_file(self):
        child = self.child(env={"RUNTIME_DIRECTORY": self.directory})
        self.assertEqual(child.run("resolve_socket_path('/somewhere/else/my.sock')"), f"{self.directory}/my.sock")
        child.run("reader = Reader('/somewhere/else/my.sock', start=True)")
        self.assertEqual(child.run("reader.socket_path()"), f"{self.directory}/my.sock")
        self.assertFalse(refuses(f"{self.directory}/my.sock"))

    def test_the_first_of_several_runtime_directories(self):
        child = self.child(env={"RUNTIME_DIRECTORY": f"{self.directory}/a:{self.directory}/b"})
        self.assertEqual(child.run("resolve_socket_path('/x/my.sock')"), f"{self.directory}/a/my.sock")
        child.run("reader = Reader('/x/my.sock')")
        self.assertEqual(sorted(os.listdir(self.directory)), ["a"])

    def test_use_systemd_off_keeps_the_path(self):
        child = self.child(env={"RUNTIME_DIRECTORY": f"{self.directory}/run"})
        child.run(f"reader = Reader({self.path!r}, use_systemd=0)")
        self.assertEqual(child.run("reader.socket_path()"), self.path)
        self.assertFalse(os.path.exists(f"{self.directory}/run"))

    def test_an_abstract_name_is_not_moved(self):
        child = self.child(env={"RUNTIME_DIRECTORY": self.directory})
        self.assertEqual(child.run("resolve_socket_path('@name')"), "@name")

    def test_the_resolved_path_must_fit(self):
        child = self.child(env={"RUNTIME_DIRECTORY": f"{self.directory}/{'r' * 90}"})
        child.run("try:\n    Reader('/x/my.sock')\nexcept UdsipcError as error:\n    refused = error.status")
        self.assertEqual(child.run("refused"), ERR_INVALID_SOCKET_PATH)
        self.assertEqual(os.listdir(self.directory), [])

    def test_this_process_is_not_under_systemd(self):
        self.assertEqual(resolve_socket_path(self.path), self.path)


if __name__ == "__main__":
    unittest.main()
