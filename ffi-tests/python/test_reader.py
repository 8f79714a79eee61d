"""A reader: order and concurrency of callbacks, failing and blocking ones, inactivity, limits, accept errors."""

import errno
import os
import signal
import threading
import time
import unittest

from support import (
    DEADLINE, TestCase, client_has_been_read, fastest, frame, is_closed, threads_of, uvarint, wait_until,
)
from stream import number_of, numbered
from udsipc_capi import (
    ERR_HANDLER_FAILED, ERR_NO_RESOURCES, ERR_PERMISSION_DENIED, ERR_STOPPED, ERR_TIMEOUT, ERR_WOULD_DEADLOCK, OK,
)

HANDLER = "handler failed to process a message"


class Callbacks(TestCase):
    def test_messages_of_a_connection_arrive_in_order_one_at_a_time(self):
        running, overlaps, per_connection = {}, [], {}

        def on_message(message, connection):
            if running.get(connection.id):
                overlaps.append(connection.id)
            running[connection.id] = True
            per_connection.setdefault(connection.id, []).append(number_of(message))
            time.sleep(0.0001)
            running[connection.id] = False

        reader = self.reader(start=True, on_message=on_message)
        clients = [self.client() for _ in range(4)]
        for number in range(200):
            for client in clients:
                client.sendall(frame(numbered(number)))
        wait_until(lambda: reader.metrics().received == 800)
        self.assertEqual(overlaps, [])
        self.assertEqual(len(per_connection), 4, "each connection has an id of its own")
        for numbers in per_connection.values():
            self.assertEqual(numbers, list(range(200)))
        self.assertEqual(reader.metrics().connections, 4)

    def test_callbacks_of_different_connections_run_at_the_same_time(self):
        together = threading.Barrier(4)
        passed = []

        def on_message(_message, _connection):
            together.wait(DEADLINE)
            passed.append(1)

        self.reader(start=True, on_message=on_message)
        for _ in range(4):
            self.client().sendall(frame(b"x"))
        wait_until(lambda: len(passed) == 4)

    def test_a_blocked_callback_delays_no_other_connection(self):
        """The contract: by no more than 200 ms."""
        entered, leave, arrived = threading.Event(), threading.Event(), {}

        def on_message(message, _connection):
            if message == b"block":
                entered.set()
                leave.wait(DEADLINE)
            else:
                arrived[message] = time.monotonic()

        reader = self.reader(start=True, on_message=on_message)
        blocked, other = self.client(), self.client()
        blocked.sendall(frame(b"block") + frame(b"behind the blocked one"))
        self.assertTrue(entered.wait(DEADLINE))
        for number in range(20):
            client = other if number % 2 else self.client()

            def once(client=client):
                message = os.urandom(8)
                sent = time.monotonic()
                client.sendall(frame(message))
                wait_until(lambda: message in arrived)
                return arrived[message] - sent

            fastest(once, 0.2)
        self.assertNotIn(b"behind the blocked one", arrived)
        leave.set()
        wait_until(lambda: b"behind the blocked one" in arrived)
        self.assertEqual(reader.metrics().errors, 0)

    def test_many_blocked_callbacks_delay_no_other_connection(self):
        leave, entered, arrived = threading.Event(), [], []

        def on_message(message, _connection):
            if message == b"block":
                entered.append(1)
                leave.wait(DEADLINE)
            else:
                arrived.append(time.monotonic())

        self.reader(start=True, on_message=on_message)
        self.addCleanup(leave.set)
        for _ in range(20):
            self.client().sendall(frame(b"block"))
        wait_until(lambda: len(entered) == 20)

        def once():
            begun = len(arrived)
            sent = time.monotonic()
            self.client().sendall(frame(b"x"))
            wait_until(lambda: len(arrived) > begun)
            return arrived[-1] - sent

        fastest(once, 0.2)

    def test_one_handler_thread_means_no_overlap(self):
        state = {"running": 0, "most": 0}
        lock = threading.Lock()

        def on_message(_message, _connection):
            with lock:
                state["running"] += 1
                state["most"] = max(state["most"], state["running"])
            time.sleep(0.001)
            with lock:
                state["running"] -= 1

        reader = self.reader(start=True, on_message=on_message, max_handler_threads=1)
        clients = [self.client() for _ in range(8)]
        for _ in range(25):
            for client in clients:
                client.sendall(frame(b"x"))
        wait_until(lambda: reader.metrics().received == 200)
        self.assertEqual(state["most"], 1)

    def test_handler_threads_are_bounded(self):
        entered, leave = [], threading.Event()

        def on_message(_message, _connection):
            entered.append(1)
            leave.wait(DEADLINE)

        reader = self.reader(start=True, on_message=on_message, max_handler_threads=3)
        self.addCleanup(leave.set)
        for _ in range(6):
            self.client().sendall(frame(b"x"))
        wait_until(lambda: len(entered) == 3)
        started = time.monotonic()
        wait_until(lambda: len(entered) > 3 or time.monotonic() - started > 0.3)
        self.assertEqual(len(entered), 3)
        leave.set()
        wait_until(lambda: reader.metrics().received == 6)

    def test_threads_are_few_for_one_busy_connection(self):
        child = self.child()
        child.run(f"reader = Reader({self.path!r}, start=True)")
        idle = [self.client() for _ in range(50)]
        busy = self.client()
        for number in range(2000):
            busy.sendall(frame(numbered(number)))
        wait_until(lambda: child.run("len(reader.messages)") == 2000)
        self.assertEqual(len(idle), 50)
        self.assertLess(threads_of(child.pid), 30, "one thread per connection would be more than fifty")

    def test_a_failing_callback_counts_and_keeps_the_connection(self):
        calls = []

        def on_message(message, _connection):
            calls.append(message)
            return 1 if len(calls) % 2 == 0 else 0

        reader = self.reader(start=True, on_message=on_message)
        client = self.client()
        messages = [b"message %d" % number for number in range(6)]
        client.sendall(b"".join(map(frame, messages)))
        wait_until(lambda: len(calls) == 6)
        wait_until(lambda: reader.metrics().received + reader.metrics().errors == 6)
        wait_until(lambda: len(reader.errors) == 3)
        self.assertEqual(calls, messages)
        self.assertEqual((reader.metrics().received, reader.metrics().errors), (3, 3))
        self.assertEqual([(record.status, record.context) for record in reader.errors],
                         [(ERR_HANDLER_FAILED, HANDLER)] * 3)
        self.assertEqual(reader.metrics().active_connections, 1)

    def test_what_a_callback_returns_is_not_trusted(self):
        answers = iter([-1, 2**31 - 1, -2**31, 0])
        reader = self.reader(start=True, on_message=lambda *_: next(answers))
        client = self.client()
        client.sendall(frame(b"x") * 4)
        wait_until(lambda: reader.metrics().received + reader.metrics().errors == 4)
        self.assertEqual((reader.metrics().received, reader.metrics().errors), (1, 3))

    def test_counters_come_before_callbacks(self):
        seen = []
        reader = self.reader(on_message=lambda *_: 1, on_error=lambda _record: seen.append(reader.metrics().errors))
        reader.start()
        self.client().sendall(frame(b"x"))
        wait_until(lambda: seen)
        self.assertEqual(seen, [1])

    def test_a_batch_says_how_far_it_came(self):
        """The message at the returned index failed, and the call is repeated for what stands behind it."""
        batches, handled = [], []

        def on_batch(messages, _connection):
            batches.append(len(messages))
            for index, message in enumerate(messages):
                if number_of(message) % 10 == 3:
                    return index
                handled.append(number_of(message))
            return len(messages)

        reader = self.reader(start=True, on_batch=on_batch)
        client = self.client()
        client.sendall(b"".join(frame(numbered(number)) for number in range(100)))
        wait_until(lambda: reader.metrics().received + reader.metrics().errors == 100)
        wait_until(lambda: len(reader.errors) == 10)
        self.assertEqual(handled, [number for number in range(100) if number % 10 != 3])
        self.assertEqual((reader.metrics().received, reader.metrics().errors), (90, 10))
        self.assertEqual(reader.statuses(), [ERR_HANDLER_FAILED] * 10)
        self.assertLess(len(batches), 100, "many messages in one call")

    def test_a_batch_answer_out_of_range_is_not_trusted(self):
        reader = self.reader(start=True, on_batch=lambda messages, _connection: len(messages) + 1000)
        client = self.client()
        client.sendall(frame(b"x") * 10)
        wait_until(lambda: client_has_been_read(client))
        client.sendall(frame(b"y"))
        wait_until(lambda: reader.metrics().received + reader.metrics().errors == 11)

    def test_a_batch_holds_one_connection(self):
        def on_batch(messages, connection):
            for message in messages:
                seen.setdefault(connection.id, set()).add(message)

        seen = {}
        reader = self.reader(start=True, on_batch=on_batch)
        clients = [self.client() for _ in range(4)]
        for _ in range(100):
            for number, client in enumerate(clients):
                client.sendall(frame(b"client %d" % number))
        wait_until(lambda: reader.metrics().received == 400)
        self.assertEqual(sorted(map(sorted, seen.values())), [[b"client %d" % number] for number in range(4)])

    def test_credentials_of_the_peer(self):
        seen = []
        self.reader(start=True, on_message=lambda _message, connection: seen.append(connection.credentials()))
        child = self.child()
        child.run(f"writer = Writer({self.path!r}, start=True)\nwriter.write(b'x')")
        wait_until(lambda: seen)
        self.assertEqual(seen, [(child.pid, os.getuid(), os.getgid())])

    def test_stop_inside_a_callback_is_refused_and_changes_nothing(self):
        answers = []
        reader = self.reader(on_message=lambda *_: answers.append(reader.stop(1_000)))
        reader.start()
        client = self.client()
        for count in (1, 2):
            client.sendall(frame(b"x"))
            wait_until(lambda: len(answers) == count)
        self.assertEqual(answers, [ERR_WOULD_DEADLOCK] * 2)
        self.assert_status(reader.stop(5_000), OK)

    def test_a_callback_may_write_and_read_metrics(self):
        """Calls of the library from inside its callbacks, on another handle and on the same one."""
        echo = self.reader(f"{self.directory}/echo", start=True)
        writer = self.writer(f"{self.directory}/echo", start=True)
        reader = self.reader(on_message=lambda message, _: writer.write(message) or bool(reader.metrics().errors))
        reader.start()
        client = self.client()
        client.sendall(b"".join(frame(numbered(number)) for number in range(100)))
        wait_until(lambda: len(echo.messages) == 100)
        self.assertEqual([number_of(message) for message in echo.messages], list(range(100)))

    def test_start_is_idempotent_and_refused_after_stop(self):
        reader = self.reader(start=True)
        self.assert_status(reader.start(), OK)
        client = self.client()
        client.sendall(frame(b"x"))
        wait_until(lambda: reader.messages == [b"x"])
        self.assert_status(reader.stop(5_000), OK)
        self.assert_status(reader.start(), ERR_STOPPED)

    def test_signals_of_the_host_disturb_nothing(self):
        """A timer signal every millisecond in the host: no accept fails, nothing is lost, the host's handler runs."""
        hits = []
        previous = signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
        self.addCleanup(signal.signal, signal.SIGALRM, previous)
        self.addCleanup(signal.setitimer, signal.ITIMER_REAL, 0)
        reader = self.reader(start=True)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        writer = self.writer(start=True)
        for number in range(2000):
            self.assert_status(writer.write_timeout(numbered(number), 20_000), OK)
            if number % 50 == 0:
                client = self.client()
                client.sendall(frame(numbered(0)))
                client.close()
        wait_until(lambda: reader.metrics().received == 2040)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.assertTrue(hits)
        self.assertEqual((reader.metrics().accept_errors, reader.metrics().errors), (0, 0))
        self.assert_quiet(reader, writer)


class Inactivity(TestCase):
    def test_a_silent_connection_is_closed_silently(self):
        reader = self.reader(start=True, inactivity_timeout_ms=100)
        client = self.client()
        wait_until(lambda: is_closed(client))
        metrics = reader.metrics()
        self.assertEqual((metrics.idle_closed, metrics.errors), (1, 0))
        wait_until(lambda: reader.metrics().active_connections == 0)
        self.assert_quiet(reader)

    def test_inside_a_prefix_it_is_silent_too(self):
        reader = self.reader(start=True, inactivity_timeout_ms=100)
        client = self.client()
        client.sendall(frame(b"x") + b"\x80")
        wait_until(lambda: is_closed(client))
        self.assertEqual((reader.metrics().idle_closed, reader.metrics().errors), (1, 0))
        self.assert_quiet(reader)

    def test_inside_a_payload_it_is_an_error(self):
        for sent, length in ((0, 100), (50, 100), (700_000, 2_000_000)):
            with self.subTest(sent=sent):
                path = f"{self.directory}/s{sent}"
                reader = self.reader(path, start=True, inactivity_timeout_ms=200)
                client = self.client(path)
                client.sendall(uvarint(length) + b"x" * sent)
                wait_until(lambda: is_closed(client))
                wait_until(lambda: reader.errors)
                self.assertEqual(reader.contexts(), ["failed to read the complete message"])
                self.assertEqual((reader.metrics().errors, reader.metrics().received), (1, 0))

    def test_time_in_the_callback_does_not_count(self):
        reader = self.reader(start=True, inactivity_timeout_ms=1_000,
                             on_message=lambda message, _: time.sleep(1.5 if message == b"x" else 0))
        client = self.client()
        client.sendall(frame(b"x"))
        wait_until(lambda: reader.metrics().received == 1)
        client.sendall(frame(b"y"))
        wait_until(lambda: reader.metrics().received == 2)
        self.assertEqual(reader.metrics().idle_closed, 0)

    def test_each_frame_restarts_it(self):
        reader = self.reader(start=True, inactivity_timeout_ms=500)
        client = self.client()
        started = time.monotonic()
        sent = 0
        while time.monotonic() - started < 1.2:
            client.sendall(frame(b"x"))
            sent += 1
            wait_until(lambda: reader.metrics().received == sent)
            time.sleep(0.02)
        self.assertEqual(reader.metrics().connections, 1)
        self.assertEqual(reader.metrics().idle_closed, 0)

    def test_connections_time_out_on_their_own(self):
        reader = self.reader(start=True, inactivity_timeout_ms=1_000)
        silent = [self.client() for _ in range(20)]
        busy = self.client()

        def silent_are_closed():
            busy.sendall(frame(b"x"))
            return all(is_closed(client) for client in silent)

        wait_until(silent_are_closed)
        self.assertFalse(is_closed(busy))
        self.assertEqual(reader.metrics().idle_closed, 20)


class Admission(TestCase):
    def test_max_connections_refuses_the_next_one(self):
        reader = self.reader(start=True, max_connections=2)
        first, second = self.client(), self.client()
        for client in (first, second):
            client.sendall(frame(b"x"))
        wait_until(lambda: len(reader.messages) == 2)
        third = self.client()
        wait_until(lambda: is_closed(third))
        wait_until(lambda: reader.metrics().refused == 1)
        self.assertEqual(reader.metrics().connections, 2)
        first.close()
        wait_until(lambda: reader.metrics().active_connections == 1)
        fourth = self.client()
        fourth.sendall(frame(b"y"))
        wait_until(lambda: reader.messages[-1] == b"y")

    def test_uid_that_is_not_allowed_is_refused(self):
        reader = self.reader(start=True, allow_uid=os.getuid() + 1)
        client = self.client()
        wait_until(lambda: is_closed(client))
        wait_until(lambda: reader.metrics().refused == 1)
        self.assertEqual((reader.metrics().received, reader.metrics().connections), (0, 0))
        if reader.errors:
            self.assertEqual(reader.statuses(), [ERR_PERMISSION_DENIED])

    def test_uid_or_gid_that_is_allowed_is_served(self):
        for name, options in {
            "uid": {"allow_uid": [os.getuid() + 1, os.getuid()]},
            "gid": {"allow_gid": os.getgid()},
            "either": {"allow_uid": os.getuid() + 1, "allow_gid": os.getgid()},
        }.items():
            with self.subTest(name):
                path = f"{self.directory}/{name}"
                reader = self.reader(path, start=True, **options)
                client = self.client(path)
                client.sendall(frame(b"x"))
                wait_until(lambda: reader.messages == [b"x"])
                self.assertEqual(reader.metrics().refused, 0)

    def test_a_supplementary_group_is_enough(self):
        if os.geteuid() != 0:
            self.skipTest("needs root to give a child another group")
        group = 54321
        reader = self.reader(start=True, allow_gid=group)
        child = self.child()
        child.run(f"os.setgroups([{group}])")
        child.run(f"writer = Writer({self.path!r}, start=True)\nwriter.write(b'x')")
        wait_until(lambda: reader.messages == [b"x"])


class AcceptErrors(TestCase):
    """Accepting fails with EMFILE in a child that may open no further descriptor."""

    def starve(self, child):
        child.run(
            "import resource\n"
            "was = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
            "top = max(map(int, os.listdir('/proc/self/fd')))\n"
            "held = []\n"
            # The gaps below the limit are filled, so that the next descriptor is one too many.
            "resource.setrlimit(resource.RLIMIT_NOFILE, (top + 1, was[1]))\n"
            "try:\n"
            "    while True:\n"
            "        held.append(os.dup(0))\n"
            "except OSError:\n"
            "    pass\n")

    def feed(self, child):
        child.run("resource.setrlimit(resource.RLIMIT_NOFILE, was)\nwhile held:\n    os.close(held.pop())")

    def start(self, **options):
        child = self.child()
        child.run(f"reader = Reader({self.path!r}, start=True, **{options!r})")
        warm = self.client()
        warm.sendall(frame(b"warm"))
        wait_until(lambda: child.run("len(reader.messages)") == 1)
        return child, warm

    def test_a_shortage_below_the_limit_is_counted_and_not_reported(self):
        child, _warm = self.start(max_accept_errors=63)
        self.starve(child)
        client = self.client()
        client.sendall(frame(b"waits"))
        wait_until(lambda: child.run("reader.metrics().accept_errors") >= 1)
        self.feed(child)
        wait_until(lambda: child.run("len(reader.messages)") == 2)
        self.assertEqual(child.run("reader.errors"), [])
        self.assertEqual(child.run("reader.metrics().errors"), 0)

    def test_a_shortage_past_the_limit_is_reported_once_and_survived(self):
        child, warm = self.start(max_accept_errors=3)
        self.starve(child)
        client = self.client()
        client.sendall(frame(b"waits"))
        wait_until(lambda: child.run("reader.metrics().accept_errors") >= 10)
        self.assertEqual(child.run("[[r.status, r.os_errno, r.context] for r in reader.errors]"),
                         [[ERR_NO_RESOURCES, errno.EMFILE, "too many consecutive failures in accept loop"]])
        warm.sendall(frame(b"served meanwhile"))
        wait_until(lambda: child.run("len(reader.messages)") == 2)
        self.feed(child)
        wait_until(lambda: child.run("len(reader.messages)") == 3)
        self.assertEqual(child.run("[m.decode() for m in reader.messages]"), ["warm", "served meanwhile", "waits"])

    def test_a_blocked_report_of_it_delays_no_connection(self):
        child = self.child()
        child.run(
            "import threading\n"
            "leave, blocked = threading.Event(), []\n"
            "def block(*_):\n"
            "    blocked.append(1)\n"
            f"    leave.wait({DEADLINE})\n"
            "def on_message(message, _):\n"
            "    if message == b'block':\n"
            "        block()\n")
        child.run(f"reader = Reader({self.path!r}, start=True, on_message=on_message, on_error=block, max_accept_errors=0)")
        first, second = self.client(), self.client()
        second.sendall(frame(b"warm"))
        wait_until(lambda: child.run("reader.metrics().received") == 1)
        first.sendall(frame(b"block"))
        wait_until(lambda: child.run("len(blocked)") == 1)
        self.starve(child)
        _waits = self.client()
        wait_until(lambda: child.run("len(blocked)") == 2)
        second.sendall(frame(b"served meanwhile"))
        wait_until(lambda: child.run("reader.metrics().received") == 2)
        child.run("leave.set()")
        self.feed(child)

    def test_a_success_starts_the_count_again(self):
        child, _warm = self.start(max_accept_errors=2)
        for round_number in (1, 2):
            self.starve(child)
            client = self.client()
            wait_until(lambda: child.run("len(reader.errors)") == round_number)
            self.feed(child)
            client.sendall(frame(b"x"))
            wait_until(lambda: child.run("len(reader.messages)") == 1 + round_number)

    def test_it_does_not_spin(self):
        child, _warm = self.start(max_accept_errors=63)
        self.starve(child)
        self.client()
        wait_until(lambda: child.run("reader.metrics().accept_errors") >= 10)
        begun, started = child.run("reader.metrics().accept_errors"), time.monotonic()
        wait_until(lambda: time.monotonic() - started > 0.5)
        self.assertLess(child.run("reader.metrics().accept_errors") - begun, 50)
        self.feed(child)

    def test_stop_works_meanwhile(self):
        child, _warm = self.start(max_accept_errors=1)
        self.starve(child)
        self.client()
        wait_until(lambda: child.run("len(reader.errors)") == 1)
        self.assertIn(child.run("reader.stop(2_000)"), (OK, ERR_TIMEOUT))
        self.assertFalse(os.path.exists(self.path))


if __name__ == "__main__":
    unittest.main()
