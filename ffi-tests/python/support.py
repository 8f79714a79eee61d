"""What the scenario tests share: waiting for a condition, raw sockets that speak the wire format, child processes."""

import array
import faulthandler
import fcntl
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
DEADLINE = 30.0
DEADLINE_MS = 30_000

# A test that hangs says where, in every thread, before the harness's watchdog ends it.
faulthandler.dump_traceback_later(float(os.environ.get("UDSIPC_TEST_TRACE_AFTER", "100")), exit=True)


def wait_until(condition, deadline=DEADLINE, what=None):
    """Waits for `condition()` to be true and returns its value; fails after `deadline` seconds."""
    end = time.monotonic() + deadline
    pause = 0.0005
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            detail = what() if callable(what) else what
            raise AssertionError(f"not within {deadline} s: {detail or condition}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.01)


def fastest(attempt, limit, attempts=5):
    """Runs `attempt()` until one run takes less than `limit` seconds and returns that time.

    A busy machine can delay any single run; a library that breaks the promise is late every time.
    """
    best = float("inf")
    for _ in range(attempts):
        started = time.monotonic()
        measured = attempt()
        taken = time.monotonic() - started if measured is None else measured
        best = min(best, taken)
        if best < limit:
            return best
    raise AssertionError(f"promised within {limit} s, the best of {attempts} runs took {best:.3f} s")


def elapse(seconds):
    """Lets time pass: for what must not happen, or must have been going on for so long."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end)


def median(times):
    return sorted(times)[len(times) // 2]


def uvarint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def frame(payload):
    return uvarint(len(payload)) + payload


class FrameSplitter:
    """Cuts a byte stream into messages; `rest` holds the frame that is not whole yet."""

    def __init__(self):
        self.rest = b""

    def feed(self, data):
        self.rest += data
        messages, position = [], 0
        while True:
            length, shift, at = 0, 0, position
            while at < len(self.rest):
                byte = self.rest[at]
                at += 1
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            else:
                break
            if len(self.rest) - at < length:
                break
            messages.append(self.rest[at:at + length])
            position = at + length
        self.rest = self.rest[position:]
        return messages


def address(path):
    """What Python's socket module calls an abstract address is a NUL in front, not an '@'."""
    return "\0" + path[1:] if path.startswith("@") else path


def connect(path, timeout=DEADLINE):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(timeout)
    try:
        client.connect(address(path))
    except BaseException:
        client.close()
        raise
    return client


def refuses(path):
    """Whether nobody accepts connections at the path."""
    try:
        connect(path).close()
    except (FileNotFoundError, ConnectionRefusedError):
        return True
    return False


def listen(path, backlog=128):
    """A listener of our own, to be the peer of a writer."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address(path))
    listener.listen(backlog)
    listener.settimeout(DEADLINE)
    return listener


def accept(listener, timeout=DEADLINE):
    listener.settimeout(timeout)
    connection, _ = listener.accept()
    connection.settimeout(DEADLINE)
    return connection


def receive_exactly(connection, count):
    data = bytearray()
    while len(data) < count:
        part = connection.recv(min(count - len(data), 1 << 20))
        if not part:
            raise AssertionError(f"end of stream after {len(data)} of {count} bytes")
        data += part
    return bytes(data)


def receive_all(connection):
    """Everything up to the end of the stream."""
    data = bytearray()
    while True:
        part = connection.recv(1 << 20)
        if not part:
            return bytes(data)
        data += part


def socket_descriptors():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found[target] = int(name)
    return found


def fill_backlog(test, listener):
    """Connects until the kernel says that the backlog is full."""
    clients = []
    while True:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        test.addCleanup(client.close)
        client.setblocking(False)
        try:
            client.connect(listener.getsockname())
        except BlockingIOError:
            return clients
        clients.append(client)


def client_has_been_read(client):
    """SIOCOUTQ is 0 once the peer's process has read everything (unix(7))."""
    pending = array.array("i", [0])
    fcntl.ioctl(client, termios.TIOCOUTQ, pending)
    return pending[0] == 0


def is_closed(client):
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    finally:
        client.settimeout(DEADLINE)


def threads_of(pid="self"):
    return len(os.listdir(f"/proc/{pid}/task"))


def memory_of(pid, field):
    """A field of /proc/PID/status in bytes: VmRSS, VmData ..."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field} in /proc/{pid}/status")


def spawn(script, *arguments, env=None, pass_fds=(), **popen):
    """Starts a worker script with the same library; it dies when the test does."""
    environment = {**os.environ, "UDSIPC_TEST_PARENT": str(os.getpid()), **(env or {})}
    environment = {name: value for name, value in environment.items() if value is not None}
    return subprocess.Popen([sys.executable, os.path.join(HERE, script), *map(str, arguments)],
                            env=environment, pass_fds=pass_fds, **popen)


class Child:
    """A child process that runs what it is told (worker.py) with the names of udsipc_capi and support at hand."""

    def __init__(self, env=None, fds=None):
        """`fds` maps the numbers that the child shall see to sockets or descriptors of ours."""
        passed = {target: getattr(source, "fileno", lambda s=source: s)() for target, source in (fds or {}).items()}
        # High numbers, so that no target can fall on a source that is still to be moved.
        high = {target: fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, 100) for target, source in passed.items()}
        moves = ",".join(f"{source}:{target}" for target, source in high.items())
        clean = {name: None for name in (
            "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "STATE_DIRECTORY")}
        self.process = spawn("worker.py", moves, env={**clean, **(env or {})}, pass_fds=tuple(high.values()),
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for descriptor in high.values():
            os.close(descriptor)

    @property
    def pid(self):
        return self.process.pid

    def send(self, code):
        """Hands over code without waiting for its end; `answer` does that."""
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the child ended with {self.process.wait()}")
        result = json.loads(line)
        if "error" in result:
            raise AssertionError("in the child:\n" + result["error"])
        return result["value"]

    def run(self, code):
        """Runs statements, or returns the value of an expression."""
        self.send(code)
        return self.answer()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def end(self):
        """Lets the child end by itself and returns its exit status."""
        self.process.stdin.close()
        status = self.process.wait(DEADLINE)
        self.process.stdout.close()
        return status


class InBackground:
    """Runs a call in a thread and keeps what it returned and how long it took."""

    def __init__(self, call):
        self.value = self.error = self.seconds = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call):
        started = time.monotonic()
        try:
            self.value = call()
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            self.error = error
        self.seconds = time.monotonic() - started

    def running(self):
        return self._thread.is_alive()

    def result(self, timeout=DEADLINE):
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise AssertionError(f"the call did not return within {timeout} s")
        if self.error is not None:
            raise self.error
        return self.value


class EventLoop:
    """A host's event loop in a thread of its own: dispatches a writer or reader whenever its descriptor is readable."""

    def __init__(self, *handles):
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(handles,), daemon=True)
        self._thread.start()

    def _run(self, handles):
        poll = select.poll()
        by_descriptor = {handle.fd(): handle for handle in handles}
        for descriptor in by_descriptor:
            poll.register(descriptor, select.POLLIN)
        while not self._ended.is_set():
            for descriptor, _events in poll.poll(20):
                by_descriptor[descriptor].dispatch(0)

    def end(self):
        self._ended.set()
        self._thread.join(DEADLINE)


class TestCase(unittest.TestCase):
    """A test with a directory of its own; what it makes through these methods is freed when it ends."""

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="udsipc-")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.path = os.path.join(self.directory, "s")

    def writer(self, path=None, **options):
        from udsipc_capi import Writer
        writer = Writer(path or self.path, **options)
        self.addCleanup(writer.free)
        return writer

    def driven(self, driver, *writers):
        """Sets new writers going: "threads" of the library, or the event loop of a "host"."""
        if driver == "threads":
            for writer in writers:
                self.assert_status(writer.start(), 0)
        else:
            loop = EventLoop(*writers)
            self.addCleanup(loop.end)
        return writers[0]

    def reader(self, path=None, **options):
        from udsipc_capi import Reader
        reader = Reader(path or self.path, **options)
        self.addCleanup(reader.free)
        return reader

    def listener(self, path=None, backlog=128):
        listener = listen(path or self.path, backlog)
        self.addCleanup(listener.close)
        return listener

    def remove_listener(self, listener):
        """What a reader's end leaves behind: nothing at the path, and whoever comes is refused."""
        path = listener.getsockname()
        listener.close()
        if isinstance(path, str):
            os.unlink(path)

    def accept(self, listener, timeout=DEADLINE):
        connection = accept(listener, timeout)
        self.addCleanup(connection.close)
        return connection

    def client(self, path=None):
        client = connect(path or self.path)
        self.addCleanup(client.close)
        return client

    def child(self, **arguments):
        child = Child(**arguments)
        self.addCleanup(child.kill)
        return child

    def assert_status(self, status, expected, note=""):
        from udsipc_capi import STATUS_NAMES, last_error
        name = STATUS_NAMES.get
        self.assertEqual(name(status, status), name(expected, expected), f"{note} {last_error()}".strip())

    def assert_refused(self, expected, call, *arguments, **options):
        """`call` raises UdsipcError with the status `expected`; returns its text."""
        from udsipc_capi import UdsipcError
        with self.assertRaises(UdsipcError) as caught:
            call(*arguments, **options)
        self.assert_status(caught.exception.status, expected)
        return caught.exception.text

    def assert_quiet(self, *handles):
        """No error callback was called."""
        for handle in handles:
            self.assertEqual(handle.errors, [])
