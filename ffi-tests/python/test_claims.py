"""How a reader takes a path and gives it back: locks, modes on kernels that lack something, other users, no litter."""

import errno
import fcntl
import os
import signal
import socket
import stat
import time
import unittest

import kernel
from support import InBackground, TestCase, connect, fastest, frame, refuses, wait_until
from udsipc_capi import (
    ERR_ADDRESS_IN_USE, ERR_INVALID_SOCKET_PATH, ERR_PERMISSION_DENIED, FOREVER, OK, Reader, UdsipcError, Writer, byref,
    c_size_t, last_error, lib,
)

as_root = unittest.skipUnless(os.geteuid() == 0, "only root can change its user and its mounts")
with_filters = unittest.skipUnless(kernel.can_refuse(), "the numbers of the system calls are not known here")


def make_stale(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(1)


def kernel_names():
    """The paths that live sockets are bound to, as the kernel knows them."""
    with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as table:
        return {line.split(" ")[-1].rstrip("\n") for line in table}


class Notation(TestCase):
    MISTAKES = {"unix:///run/x.sock": "unix:", "ipc:///run/x.sock": "ipc:", "~/x.sock": "~", "/run/x.sock\n": "line break",
                "@name\n": "line break", "x.sock\r\n": "line break"}

    def test_a_url_a_tilde_and_a_line_break_are_refused_and_make_no_directory(self):
        here = os.getcwd()
        os.chdir(self.directory)
        self.addCleanup(os.chdir, here)
        for path, part in self.MISTAKES.items():
            with self.subTest(path):
                for create in (Reader, Writer):
                    self.assertIn(part, self.assert_refused(ERR_INVALID_SOCKET_PATH, create, path))
                for call in (lib.udsipc_ensure_socket_dir, lib.udsipc_cleanup_socket):
                    self.assert_status(call(path.encode()), ERR_INVALID_SOCKET_PATH)
                    self.assertIn(part, last_error())
                needed = c_size_t(0)
                resolve = lib.udsipc_resolve_socket_path(path.encode(), None, 0, byref(needed))
                self.assert_status(resolve, ERR_INVALID_SOCKET_PATH)
        self.assertEqual(os.listdir(self.directory), [])

    def test_they_are_refused_under_systemd_too(self):
        child = self.child(env={"RUNTIME_DIRECTORY": self.directory})
        for path in self.MISTAKES:
            child.run(f"try:\n    Reader({path!r})\nexcept UdsipcError as error:\n    refused = error.status")
            self.assertEqual(child.run("refused"), ERR_INVALID_SOCKET_PATH, path)
        self.assertEqual(os.listdir(self.directory), [])


class Name(TestCase):
    def test_the_kernel_knows_the_socket_by_its_final_name(self):
        """By that name systemd-tmpfiles sees that a socket is in use; one that was renamed it deletes."""
        for options in ({}, {"socket_mode": 0o600}, {"socket_mode": 0o666}, {"socket_mode": 0o660, "socket_group": os.getgid()}):
            with self.subTest(options):
                with Reader(self.path, **options):
                    self.assertIn(self.path, kernel_names())
                self.assertNotIn(self.path, kernel_names())

    def test_a_relative_path_is_known_by_its_absolute_name_and_removed_after_a_chdir(self):
        here = os.getcwd()
        os.chdir(self.directory)
        self.addCleanup(os.chdir, here)
        reader = self.reader("sub/s", start=True)
        self.assertIn(f"{self.directory}/sub/s", kernel_names())
        os.chdir("/")
        self.assert_status(reader.stop(5_000), OK)
        self.assertEqual(os.listdir(f"{self.directory}/sub"), [])


class Locks(TestCase):
    def hold_lock(self):
        """Another open file description is another holder, in the same process too (flock(2))."""
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        self.addCleanup(os.close, directory)
        fcntl.flock(directory, fcntl.LOCK_EX)

    def test_no_file_lies_beside_the_path(self):
        make_stale(self.path)
        reader = self.reader(start=True, socket_mode=0o600)
        self.assertEqual(os.listdir(self.directory), ["s"])
        self.assert_refused(ERR_ADDRESS_IN_USE, Reader, self.path)
        self.assertEqual(os.listdir(self.directory), ["s"])
        self.assert_status(reader.stop(5_000), OK)
        self.assertEqual(os.listdir(self.directory), [])

    def test_a_lock_file_of_another_program_is_neither_used_nor_removed(self):
        lock = f"{self.path}.lock"
        for kind in ("empty", "held", "text", "link", "directory"):
            with self.subTest(kind):
                if kind == "link":
                    os.symlink("/nonexistent/elsewhere", lock)
                elif kind == "directory":
                    os.mkdir(lock)
                else:
                    file = open(lock, "w")  # noqa: SIM115 - closed below
                    self.addCleanup(file.close)
                    file.write("a text of somebody" if kind == "text" else "")
                    file.flush()
                    fcntl.flock(file, fcntl.LOCK_EX)
                before = os.lstat(lock)
                reader = self.reader(start=True)
                self.assert_status(reader.stop(5_000), OK)
                self.assertEqual(os.lstat(lock).st_ino, before.st_ino)
                self.assertEqual(os.listdir(self.directory), ["s.lock"])
                os.rmdir(lock) if kind == "directory" else os.unlink(lock)

    def test_stop_and_free_do_not_wait_for_a_lock_that_somebody_holds(self):
        self.hold_lock()
        with open(f"{self.path}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)

            def stop():
                reader = self.reader(start=True)
                started = time.monotonic()
                self.assert_status(reader.stop(0), OK)
                self.assertFalse(os.path.lexists(self.path))
                self.assert_quiet(reader)
                return time.monotonic() - started

            fastest(stop, 0.3)

            def free_in_a_callback():
                taken = []

                def on_message(_data, _connection):
                    started = time.monotonic()
                    reader.free(check=False)
                    taken.append(time.monotonic() - started)

                reader = Reader(self.path, on_message=on_message, start=True)
                callbacks = reader._callbacks[:]  # they outlive the free inside one of them
                client = connect(self.path)
                client.sendall(frame(b"x"))
                wait_until(lambda: taken)
                client.close()
                self.assertFalse(os.path.lexists(self.path))
                del callbacks
                return taken[0]

            fastest(free_in_a_callback, 0.3)

    def test_a_held_lock_delays_a_start_by_a_second_and_does_not_prevent_it(self):
        self.hold_lock()
        for stale in (False, True):
            if stale:
                make_stale(self.path)
            started = time.monotonic()
            reader = self.reader(start=True)
            self.assertGreater(time.monotonic() - started, 0.5, "the lock is waited for")
            client = self.client()
            client.sendall(frame(b"x"))
            wait_until(lambda reader=reader: reader.messages == [b"x"])
            self.assert_refused(ERR_ADDRESS_IN_USE, Reader, self.path)
            self.assert_status(reader.stop(5_000), OK)

    @with_filters
    def test_a_file_system_without_locks_is_no_obstacle(self):
        for refusal in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
            with self.subTest(errno.errorcode[refusal]):
                make_stale(self.path)
                child = self.child()
                child.run(f"import kernel; kernel.refuse(flock={refusal})")
                started = time.monotonic()
                child.run(f"reader = Reader({self.path!r}, start=True)")
                self.assertLess(time.monotonic() - started, 0.9, "there is nothing to wait for")
                self.assertFalse(refuses(self.path))
                self.assertEqual(child.run("reader.stop(5_000)"), OK)
                self.assertEqual(os.listdir(self.directory), [])
                child.kill()

    @as_root
    def test_what_a_killed_starter_of_another_user_left_blocks_nobody(self):
        os.chmod(self.directory, 0o777)
        # What versions that locked a file left behind when they were killed.
        with open(f"{self.path}.lock", "w") as lock:
            os.chown(lock.name, 65_001, 65_001)
            os.chmod(lock.name, 0o600)
        for user in (65_001, 65_002, 65_003):
            child = self.child()
            child.run(f"import os; os.setresgid({user}, {user}, {user}); os.setresuid({user}, {user}, {user})")
            started = time.monotonic()
            # Whether a socket is stale is found out by a connect, for which one has to have the permission.
            child.run(f"reader = Reader({self.path!r}, socket_mode=0o666, start=True)")
            self.assertLess(time.monotonic() - started, 0.9)
            self.assertEqual(os.stat(self.path).st_uid, user)
            os.kill(child.pid, signal.SIGKILL)
            child.process.wait()
        self.assertEqual(sorted(os.listdir(self.directory)), ["s", "s.lock"])

    @as_root
    def test_a_directory_that_may_not_be_read_is_no_obstacle(self):
        os.chmod(self.directory, 0o333)
        make_stale(self.path)
        os.chmod(self.path, 0o666)
        child = self.child()
        child.run("import os; os.setresgid(65001, 65001, 65001); os.setresuid(65001, 65001, 65001)")
        child.run(f"reader = Reader({self.path!r}, start=True)")
        self.assertFalse(refuses(self.path))
        self.assertEqual(child.run("reader.stop(5_000)"), OK)
        self.assertEqual(os.listdir(self.directory), [])


class ModesOnOtherKernels(TestCase):
    def mode(self):
        return oct(stat.S_IMODE(os.lstat(self.path).st_mode))

    def reader_in(self, child, mode):
        child.run(f"try:\n    reader, refused = Reader({self.path!r}, socket_mode={mode}, start=True), None\n"
                  "except UdsipcError as error:\n    refused = [error.status, error.text]")
        return child.run("refused")

    @as_root
    def test_a_mode_and_a_group_need_no_proc(self):
        child = self.child()
        child.run("import kernel; kernel.hide_proc()")
        self.assertEqual(child.run("len(__import__('os').listdir('/proc'))"), 0)
        child.run(f"reader = Reader({self.path!r}, socket_mode=0o666, socket_group=12345)")
        self.assertEqual((self.mode(), os.lstat(self.path).st_gid), ("0o666", 12345))

    @with_filters
    def test_without_fchmodat2_proc_is_enough(self):
        for refusal in (errno.ENOSYS, errno.EPERM):
            child = self.child()
            child.run(f"import kernel; kernel.refuse(fchmodat2={refusal})")
            self.assertIsNone(self.reader_in(child, 0o666))
            self.assertEqual(self.mode(), "0o666")
            self.assertEqual(child.run("reader.stop(5_000)"), OK)

    @as_root
    @with_filters
    def test_without_both_a_directory_of_ones_own_is_enough(self):
        for directory_mode in (0o755, 0o1777):
            os.chmod(self.directory, directory_mode)
            child = self.child()
            child.run(f"import kernel; kernel.hide_proc(); kernel.refuse(fchmodat2={errno.ENOSYS})")
            self.assertIsNone(self.reader_in(child, 0o666))
            self.assertEqual(self.mode(), "0o666")
            self.assertEqual(child.run("reader.stop(5_000)"), OK)

    @as_root
    @with_filters
    def test_without_both_a_shared_directory_is_refused_and_nothing_left(self):
        os.chmod(self.directory, 0o777)
        child = self.child()
        child.run(f"import kernel; kernel.hide_proc(); kernel.refuse(fchmodat2={errno.ENOSYS})")
        status, text = self.reader_in(child, 0o666)
        self.assert_status(status, ERR_PERMISSION_DENIED)
        for part in (self.path, "0666", "/proc", "fchmodat2"):
            self.assertIn(part, text)
        self.assertEqual(os.listdir(self.directory), [])
        # What the umask leaves needs neither.
        self.assertIsNone(self.reader_in(child, 0o600))
        self.assertEqual(self.mode(), "0o600")


class GivingBack(TestCase):
    @as_root
    def test_a_file_that_cannot_be_removed_after_dropping_privileges_is_reported(self):
        os.chmod(self.directory, 0o755)
        child = self.child()
        child.run("import os\ntexts = []")
        child.run(f"reader = Reader({self.path!r}, on_error=lambda record: texts.append(last_error()), start=True)")
        child.run("os.setresgid(65001, 65001, 65001); os.setresuid(65001, 65001, 65001)")
        self.assertEqual(child.run("reader.stop(5_000)"), OK)
        seen = child.run("[[r.status, r.os_errno, r.context] for r in reader.errors]")
        self.assertEqual(seen, [[ERR_PERMISSION_DENIED, errno.EACCES, "socket file"]])
        self.assertIn(self.path, child.run("texts[0]"))
        self.assertTrue(os.path.lexists(self.path))
        self.reader(start=True)  # it is a stale one, and no obstacle

    def test_a_reader_that_was_never_started_gives_its_path_back_too(self):
        reader = self.reader()
        self.assert_status(reader.stop(0), OK)
        self.assertEqual(os.listdir(self.directory), [])

    def test_starters_never_take_a_file_that_is_being_given_back_for_a_stale_one(self):
        """A reader stops and frees while another one starts again and again: whoever has started can be reached."""
        over = []

        def starter():
            wins = 0
            while not over:
                try:
                    other = Reader(self.path)
                except UdsipcError as error:
                    self.assert_status(error.status, ERR_ADDRESS_IN_USE)
                    continue
                wins += 1
                self.assertFalse(refuses(self.path), "the winner can be reached")
                other.free()
            return wins

        background = InBackground(starter)
        for _ in range(200):
            try:
                reader = Reader(self.path, start=True)
            except UdsipcError as error:
                self.assert_status(error.status, ERR_ADDRESS_IN_USE)
                continue
            self.assertFalse(refuses(self.path), "the winner can be reached")
            self.assert_status(reader.stop(FOREVER), OK)
            self.assert_quiet(reader)
            reader.free()
        over.append(True)
        background.result()
        self.assertEqual(os.listdir(self.directory), [])


if __name__ == "__main__":
    unittest.main()
