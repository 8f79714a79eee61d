"""systemd: activation, notification and directories, each in a child process with an environment of its own."""

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import sys
import unittest

from support import TestCase, connect, fastest, frame, refuses, wait_until
from udsipc_capi import ERR_ADDRESS_IN_USE, ERR_IO, ERR_SYSTEMD, OK, lib

VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "STATE_DIRECTORY")

# The environment as the C library sees it: os.environ is a copy that a change made in C would not reach.
READ_ENVIRONMENT = """
import ctypes
def environment():
    pointer = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
    entries, at = [], 0
    while pointer[at]:
        entries.append(pointer[at].decode())
        at += 1
    return sorted(entries)
"""

TRY_READER = """
def try_reader(path, **options):
    try:
        made = Reader(path, **options)
    except UdsipcError as error:
        return [error.status, error.text]
    globals()["reader"] = made
    return [0, made.socket_path()]
"""


class SystemdCase(TestCase):
    def activated(self, *listeners, names=None, first=3, count=None, pid="self", **env):
        """A child that was given these descriptors as systemd gives them."""
        env = {"LISTEN_FDS": str(len(listeners) if count is None else count), **env}
        if pid is not None:
            env["LISTEN_PID"] = str(pid)
        if names is not None:
            env["LISTEN_FDNAMES"] = names
        child = self.child(env=env, fds={first + i: listener for i, listener in enumerate(listeners)})
        child.run(READ_ENVIRONMENT)
        child.run(TRY_READER)
        return child

    def unit_socket(self, name):
        return self.listener(os.path.join(self.directory, name))

    def notify_socket(self, name):
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(manager.close)
        manager.bind("\0" + name[1:] if name.startswith("@") else name)
        manager.settimeout(30)
        return manager

    def sends_to(self, child, path, message):
        """A message sent to the path reaches the child's reader."""
        client = self.client(path)
        client.sendall(frame(message))
        wait_until(lambda: message.decode() in child.run("[m.decode() for m in reader.messages]"))


class Activation(SystemdCase):
    def test_descriptor_3_is_served_wherever_it_is_bound(self):
        listener = self.unit_socket("unit.sock")
        child = self.activated(listener)
        self.assertEqual(child.run("try_reader('/nowhere/at/all.sock')"), [OK, f"{self.directory}/unit.sock"])
        child.run("check(reader.start())")
        self.sends_to(child, f"{self.directory}/unit.sock", b"hello")
        self.assertFalse(os.path.exists("/nowhere"), "no directory is made for a path that is not used")

    def test_a_message_sent_before_the_service_runs_is_served(self):
        listener = self.unit_socket("unit.sock")
        client = self.client(f"{self.directory}/unit.sock")
        client.sendall(frame(b"activates"))
        client.close()
        child = self.activated(listener)
        child.run(f"try_reader({self.path!r})")
        child.run("check(reader.start())")
        wait_until(lambda: child.run("reader.messages == [b'activates']"))

    def test_file_and_backlog_belong_to_the_next_start(self):
        path = f"{self.directory}/unit.sock"
        listener = self.unit_socket("unit.sock")
        inode = os.stat(path).st_ino
        first = self.activated(listener)
        first.run(f"try_reader({path!r})")
        first.run("check(reader.start())")
        self.sends_to(first, path, b"one")
        self.assertEqual(first.run("reader.stop(10_000)"), OK)
        self.assertEqual(os.stat(path).st_ino, inode, "the file is never unlinked")
        early = self.client(path)
        early.sendall(frame(b"between"))
        early.close()
        first.run("reader.free()")
        self.assertEqual(first.end(), 0)
        late = self.client(path)
        late.sendall(frame(b"after the end"))

        second = self.activated(listener)
        second.run(f"try_reader({path!r})")
        second.run("check(reader.start())")
        wait_until(lambda: second.run("len(reader.messages)") == 2)
        self.assertEqual(second.run("sorted(m.decode() for m in reader.messages)"), ["after the end", "between"])

    def test_a_kill_leaves_the_backlog_too(self):
        path = f"{self.directory}/unit.sock"
        listener = self.unit_socket("unit.sock")
        first = self.activated(listener)
        first.run(f"try_reader({path!r})")
        first.run("check(reader.start())")
        first.kill()
        client = self.client(path)
        client.sendall(frame(b"waits"))
        second = self.activated(listener)
        second.run(f"try_reader({path!r})")
        second.run("check(reader.start())")
        wait_until(lambda: second.run("reader.messages == [b'waits']"))

    def test_several_descriptors_by_name(self):
        listeners = [self.unit_socket(name) for name in ("a.sock", "b.sock", "c.sock")]
        child = self.activated(*listeners, names="first:second:third")
        self.assertEqual(child.run("try_reader('/x/y', listen_fd_name='second')"), [OK, f"{self.directory}/b.sock"])
        child.run("check(reader.start())")
        self.sends_to(child, f"{self.directory}/b.sock", b"to the second")

    def test_several_descriptors_by_path(self):
        listeners = [self.unit_socket(name) for name in ("a.sock", "b.sock")]
        child = self.activated(*listeners)
        self.assertEqual(child.run(f"try_reader({self.directory + '/b.sock'!r})"), [OK, f"{self.directory}/b.sock"])
        child.run("check(reader.start())")
        self.sends_to(child, f"{self.directory}/b.sock", b"to the second")

    def test_two_readers_take_a_descriptor_each(self):
        listeners = [self.unit_socket(name) for name in ("a.sock", "b.sock")]
        child = self.activated(*listeners, names="a:b")
        for name in ("a", "b"):
            self.assertEqual(child.run(f"try_reader('/x/y', listen_fd_name={name!r})")[0], OK)
            child.run("check(reader.start())")
            child.run(f"reader_{name} = reader")
        for name in ("a", "b"):
            client = self.client(f"{self.directory}/{name}.sock")
            client.sendall(frame(name.encode()))
            wait_until(lambda name=name: child.run(f"[m.decode() for m in reader_{name}.messages]") == [name])

    def test_a_descriptor_is_taken_once(self):
        """A second reader in the same process gets a path of its own, or is refused the one in use."""
        listener = self.unit_socket("unit.sock")
        child = self.activated(listener)
        self.assertEqual(child.run(f"try_reader({self.directory + '/unit.sock'!r})")[0], OK)
        child.run("first = reader\ncheck(first.start())")
        status, _text = child.run(f"try_reader({self.directory + '/unit.sock'!r})")
        self.assertNotEqual(status, OK)
        self.assertEqual(child.run(f"try_reader({self.path!r})"), [OK, self.path])
        child.run("second = reader\ncheck(second.start())")
        for path, name in ((f"{self.directory}/unit.sock", "first"), (self.path, "second")):
            client = self.client(path)
            client.sendall(frame(name.encode()))
            wait_until(lambda name=name: child.run(f"[m.decode() for m in {name}.messages]") == [name])

    def test_an_unknown_name_is_an_error(self):
        child = self.activated(self.unit_socket("a.sock"), self.unit_socket("b.sock"), names="a:b")
        status, text = child.run("try_reader('/x/y', listen_fd_name='missing')")
        self.assert_status(status, ERR_SYSTEMD)
        self.assertIn("missing", text)

    def test_another_pid_means_not_for_us(self):
        listener = self.unit_socket("unit.sock")
        child = self.activated(listener, pid=os.getpid())
        self.assertEqual(child.run(f"try_reader({self.path!r})"), [OK, self.path])
        child.run("check(reader.start())")
        self.sends_to(child, self.path, b"own socket")

    def test_a_refusal_because_of_listen_pid_names_it(self):
        """A shell around the service is the usual reason: the socket unit's socket then looks like somebody else's."""
        path = f"{self.directory}/unit.sock"
        for pid, said in ((os.getpid(), str(os.getpid())), (None, "LISTEN_PID is not set")):
            child = self.activated(self.unit_socket("unit.sock"), pid=pid)
            status, text = child.run(f"try_reader({path!r})")
            self.assert_status(status, ERR_ADDRESS_IN_USE)
            for part in (path, "LISTEN_PID", said, str(child.pid)):
                self.assertIn(part, text)
            os.unlink(path)
        # Without LISTEN_FDS there is nothing to explain.
        self.unit_socket("unit.sock")
        child = self.child(env={"LISTEN_PID": str(os.getpid())})
        child.run(TRY_READER)
        self.assertNotIn("LISTEN_PID", child.run(f"try_reader({path!r})")[1])

    def test_no_pid_means_not_for_us(self):
        listener = self.unit_socket("unit.sock")
        child = self.activated(listener, pid=None)
        self.assertEqual(child.run(f"try_reader({self.path!r})"), [OK, self.path])

    def test_no_descriptors_means_none(self):
        child = self.activated(count=0)
        self.assertEqual(child.run(f"try_reader({self.path!r})"), [OK, self.path])

    def test_use_systemd_off_ignores_it(self):
        child = self.activated(self.unit_socket("unit.sock"))
        self.assertEqual(child.run(f"try_reader({self.path!r}, use_systemd=0)"), [OK, self.path])

    def test_malformed_counts_are_an_error(self):
        for count in ("x", "-1", "1x", " ", "99999999999999999999"):
            with self.subTest(count):
                child = self.activated(self.unit_socket(f"unit{abs(hash(count))}.sock"), count=count)
                status, text = child.run(f"try_reader({self.path!r})")
                self.assert_status(status, ERR_SYSTEMD)
                self.assertIn("LISTEN_FDS", text)
                self.assertFalse(os.path.exists(self.path))
                child.kill()

    def test_more_descriptors_than_are_open_is_an_error(self):
        child = self.activated(count=1)
        self.assert_status(child.run(f"try_reader({self.path!r})")[0], ERR_SYSTEMD)

    def wrong_type(self, descriptor):
        child = self.activated(descriptor)
        status, _text = child.run(f"try_reader({self.path!r})")
        self.assert_status(status, ERR_SYSTEMD)
        self.assertFalse(os.path.exists(self.path), "no other socket is made in its stead")

    def test_a_tcp_listener_is_an_error(self):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            self.wrong_type(listener)

    def test_a_datagram_socket_is_an_error(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
            datagram.bind(f"{self.directory}/datagram")
            self.wrong_type(datagram)

    def test_a_file_is_an_error(self):
        with open(f"{self.directory}/file", "wb") as file:
            self.wrong_type(file)

    def test_a_socket_that_does_not_listen_is_an_error(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
            bound.bind(f"{self.directory}/bound")
            self.wrong_type(bound)

    def test_passed_descriptors_do_not_reach_grandchildren(self):
        child = self.activated(self.unit_socket("a.sock"), self.unit_socket("b.sock"), names="a:b")
        self.assertEqual(child.run("try_reader('/x/y', listen_fd_name='a')")[0], OK)
        child.run("import fcntl")
        for descriptor in (3, 4):
            flags = child.run(f"fcntl.fcntl({descriptor}, fcntl.F_GETFD)")
            self.assertEqual(flags & 1, 1, f"FD_CLOEXEC on descriptor {descriptor}")

    def test_the_environment_is_not_modified(self):
        manager_path = f"{self.directory}/notify"
        self.notify_socket(manager_path)
        child = self.activated(self.unit_socket("unit.sock"), names="unit", NOTIFY_SOCKET=manager_path,
                               RUNTIME_DIRECTORY=self.directory, STATE_DIRECTORY="/state")
        before = child.run("environment()")
        self.assertEqual(child.run(f"try_reader({self.path!r})")[0], OK)
        child.run("check(reader.start())")
        child.run("check(reader.stop(5_000))")
        child.run("reader.free()")
        self.assertEqual(child.run("environment()"), before)
        for variable in VARIABLES:
            self.assertTrue(any(entry.startswith(variable + "=") for entry in before), variable)

    def test_stop_does_not_depend_on_the_path(self):
        """The Go library dials its resolved path to wake the accept loop; here that path leads nowhere."""
        child = self.activated(self.unit_socket("unit.sock"))
        child.run("try_reader('/nowhere/at/all.sock')")
        child.run("check(reader.start())")
        self.assertEqual(child.run("reader.stop(5_000)"), OK)
        self.assertEqual(child.run("reader.stop(5_000)"), OK)


class Notification(SystemdCase):
    def notifying(self, name):
        manager = self.notify_socket(name)
        child = self.child(env={"NOTIFY_SOCKET": name})
        child.run(TRY_READER)
        return manager, child

    def received(self, manager):
        return manager.recv(4096).decode().rstrip("\n")

    def test_ready_at_start_and_stopping_when_stop_begins(self):
        for name in (f"{self.directory}/notify", f"@udsipc-notify-{os.getpid()}"):
            with self.subTest(name):
                manager, child = self.notifying(name)
                child.run(f"""
import threading
entered, leave = threading.Event(), threading.Event()
def on_message(data, connection):
    entered.set()
    leave.wait(30)
reader = Reader({self.path!r}, on_message=on_message)
""")
                manager.setblocking(False)
                with self.assertRaises(BlockingIOError):
                    manager.recv(4096)
                manager.settimeout(30)
                child.run("check(reader.start())")
                self.assertEqual(self.received(manager), "READY=1")
                client = self.client()
                client.sendall(frame(b"x"))
                wait_until(lambda: child.run("entered.is_set()"))
                child.run("stopping = InBackground(lambda: reader.stop(30_000))")
                self.assertEqual(self.received(manager), "STOPPING=1", "before the drain has ended")
                self.assertTrue(child.run("stopping.running()"))
                child.run("leave.set()")
                self.assertEqual(child.run("stopping.result()"), OK)
                self.assertFalse(os.path.exists(self.path), "we own what we bound, also under systemd")
                self.assertTrue(refuses(self.path))
                child.kill()

    def test_ready_is_said_once_per_start(self):
        manager, child = self.notifying(f"{self.directory}/notify")
        child.run(f"reader = Reader({self.path!r})")
        child.run("check(reader.start())\ncheck(reader.start())")
        child.run("check(lib.udsipc_systemd_notify(b'STATUS=marker'))")
        self.assertEqual(self.received(manager), "READY=1")
        self.assertEqual(self.received(manager), "STATUS=marker")

    def test_any_text_can_be_sent(self):
        manager, child = self.notifying(f"{self.directory}/notify")
        self.assertEqual(child.run("lib.udsipc_systemd_notify(b'STATUS=42 messages')"), OK)
        self.assertEqual(self.received(manager), "STATUS=42 messages")

    def test_use_systemd_off_says_nothing(self):
        manager, child = self.notifying(f"{self.directory}/notify")
        child.run(f"reader = Reader({self.path!r}, use_systemd=0, start=True)")
        self.assertEqual(child.run("reader.stop(5_000)"), OK)
        child.run("lib.udsipc_systemd_notify(b'STATUS=marker')")
        self.assertEqual(self.received(manager), "STATUS=marker")

    def test_a_failing_notification_is_reported_and_not_fatal(self):
        child = self.child(env={"NOTIFY_SOCKET": f"{self.directory}/nobody"})
        child.run(f"reader = Reader({self.path!r}, start=True)")
        wait_until(lambda: child.run("len(reader.errors)"))
        self.assertNotIn(OK, child.run("reader.statuses()"))
        self.sends_to(child, self.path, b"works all the same")
        self.assertEqual(child.run("reader.stop(5_000)"), OK)
        self.assertFalse(os.path.exists(self.path))

    def test_an_unknown_form_of_address_is_not_fatal(self):
        child = self.child(env={"NOTIFY_SOCKET": "carrier-pigeon:7"})
        child.run(f"reader = Reader({self.path!r}, start=True)")
        self.sends_to(child, self.path, b"works all the same")
        self.assertEqual(child.run("reader.stop(5_000)"), OK)

    def full(self, name):
        """A notification socket without room, and a child that notifies it."""
        manager, child = self.notifying(name)
        # One sender may fill its own buffer before the queue of the socket (net.unix.max_dgram_qlen): the next one goes on.
        sent = 1
        while sent:
            filler = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.addCleanup(filler.close)
            filler.setblocking(False)
            filler.connect(name)
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    filler.send(b"STATUS=noise")
                    sent += 1
        child.run("import time")
        child.run("""
def timed(call):
    started = time.monotonic()
    status = call()
    return [status, time.monotonic() - started]
""")
        return manager, child

    def test_start_dispatch_and_stop_do_not_wait_for_a_full_notification_socket(self):
        _manager, child = self.full(f"{self.directory}/notify")

        def attempt(first):
            child.run(f"reader = Reader({self.path!r})")
            slowest = 0
            for call in (first, "reader.stop(5_000)"):
                status, seconds = child.run(f"timed(lambda: {call})")
                self.assertEqual(status, OK)
                slowest = max(slowest, seconds)
            self.assertEqual(child.run("[[r.os_errno, r.context] for r in reader.errors]"),
                             [[errno.EAGAIN, "failed to notify systemd"]], "READY=1 was not told, so STOPPING=1 is not sent")
            child.run("reader.free()")
            return slowest

        for first in ("reader.start()", "reader.dispatch(0)"):
            fastest(lambda first=first: attempt(first), 0.05)
        status, seconds = child.run("timed(lambda: lib.udsipc_systemd_notify(b'STATUS=x'))")
        self.assert_status(status, ERR_IO)
        self.assertLess(seconds, 5)

    def test_a_reader_serves_although_its_notifications_cannot_be_sent(self):
        manager, child = self.full(f"{self.directory}/notify")
        child.run(f"reader = Reader({self.path!r}, start=True)")
        self.sends_to(child, self.path, b"works all the same")
        self.assertEqual(child.run("reader.stop(5_000)"), OK)
        manager.close()

    def test_a_reader_that_was_never_ready_does_not_announce_its_stop(self):
        manager, child = self.notifying(f"{self.directory}/notify")
        child.run(f"never = Reader({self.path!r})")
        self.assertEqual(child.run("never.stop(5_000)"), OK)
        child.run("never.free()")
        child.run(f"freed = Reader({self.path!r})\nfreed.free()")
        child.run(f"other = Reader({self.path!r}, start=True)")
        self.assertEqual(self.received(manager), "READY=1", "nothing came before")
        self.assertEqual(child.run("other.stop(5_000)"), OK)
        self.assertEqual(self.received(manager), "STOPPING=1")
        self.assertEqual(child.run("other.stop(5_000)"), OK)
        child.run("lib.udsipc_systemd_notify(b'STATUS=marker')")
        self.assertEqual(self.received(manager), "STATUS=marker", "each is said once")

    def test_without_the_variable_nothing_is_sent_and_nothing_fails(self):
        child = self.child()
        self.assertEqual(child.run("lib.udsipc_systemd_notify(b'READY=1')"), OK)


class Environment(SystemdCase):
    def test_what_counts_as_systemd(self):
        cases = [
            ({}, 0),
            ({"STATE_DIRECTORY": "/var/lib/x"}, 0),
            ({"RUNTIME_DIRECTORY": "/run/x"}, 1),
            ({"NOTIFY_SOCKET": "/run/notify"}, 1),
            ({"LISTEN_FDS": "1"}, 1),
            ({"RUNTIME_DIRECTORY": "", "NOTIFY_SOCKET": "", "LISTEN_FDS": ""}, 0),
        ]
        for env, active in cases:
            with self.subTest(env):
                child = self.child(env=env)
                self.assertEqual(bool(child.run("lib.udsipc_systemd_is_active()")), bool(active))
                child.end()

    @unittest.skipUnless(os.geteuid() == 0, "only root can make such a program")
    def test_a_program_with_more_rights_than_its_starter_does_not_believe_it(self):
        program = os.path.join(self.directory, "python")
        shutil.copy(os.path.realpath(sys.executable), program)
        os.chmod(self.directory, 0o755)
        look = f"import ctypes; print(ctypes.CDLL({lib._name!r}).udsipc_systemd_is_active())"
        env = {"PYTHONHOME": sys.base_prefix, "RUNTIME_DIRECTORY": "/run/x", "NOTIFY_SOCKET": "/run/notify", "LISTEN_FDS": "1"}
        for mode, active in (0o755, "1"), (0o4755, "0"):
            os.chmod(program, mode)
            # The set-user-ID one may open the library wherever it lies; the other one need only be started by root.
            user = 65534 if active == "0" else 0
            seen = subprocess.run([program, "-c", look], env=env, user=user, capture_output=True, text=True)
            self.assertEqual(seen.stdout.strip(), active, seen.stderr)

    @unittest.skipUnless(os.geteuid() == 0, "only root can change its user")
    def test_a_service_that_changes_its_user_still_believes_it(self):
        child = self.child(env={"RUNTIME_DIRECTORY": self.directory})
        child.run("import os; os.seteuid(65534)")
        self.assertEqual(child.run("resolve_socket_path('/run/app/s.sock')"), f"{self.directory}/s.sock")

    def test_directories_are_reported(self):
        child = self.child(env={"RUNTIME_DIRECTORY": "/run/a:/run/b", "STATE_DIRECTORY": "/var/lib/x"})
        self.assertEqual(child.run("lib.udsipc_systemd_runtime_dir().decode()"), "/run/a")
        self.assertEqual(child.run("lib.udsipc_systemd_state_dir().decode()"), "/var/lib/x")
        child = self.child()
        self.assertEqual(child.run("lib.udsipc_systemd_runtime_dir().decode()"), "")
        self.assertEqual(child.run("lib.udsipc_systemd_state_dir().decode()"), "")

    def test_describe_standalone(self):
        child = self.child()
        child.run(f"reader = Reader({self.path!r})")
        line = child.run("reader.describe()")
        self.assertIn("standalone", line)
        self.assertIn(self.path, line)
        self.assertNotIn("\n", line)

    def test_describe_under_systemd(self):
        listener = self.unit_socket("unit.sock")
        child = self.activated(listener, RUNTIME_DIRECTORY="/run/mine", STATE_DIRECTORY="/var/lib/mine",
                               NOTIFY_SOCKET=f"{self.directory}/notify")
        child.run(f"try_reader({self.path!r})")
        line = child.run("reader.describe()")
        for part in ("systemd", f"{self.directory}/unit.sock", "/run/mine", "/var/lib/mine"):
            self.assertIn(part, line)
        self.assertNotIn("\n", line)

    def test_a_reader_bound_under_systemd_gives_back_what_it_made(self):
        """RUNTIME_DIRECTORY without activation: Go never closes that listener and never removes the file."""
        child = self.child(env={"RUNTIME_DIRECTORY": self.directory})
        child.run("reader = Reader('/x/own.sock', start=True)")
        path = f"{self.directory}/own.sock"
        connect(path).close()
        self.assertEqual(child.run("reader.stop(5_000)"), OK)
        self.assertTrue(refuses(path))
        self.assertFalse(os.path.exists(path))


if __name__ == "__main__":
    unittest.main()
