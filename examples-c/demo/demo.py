#!/usr/bin/env python3
"""Ships every line of a file from a C writer to a C reader, then to a Python reader; with and without a killed reader.
Nothing may be missing, and nothing may come twice but what was in the callback of the killed reader.

    demo.py --bin DIRECTORY_OF_EXAMPLES --library libudsipc.so [--messages AT_LEAST | --loops N] FILE

Each line travels as "NUMBER<tab>LINE", so that equal lines can be told apart and a message that came twice, too late or
never is seen. Exits 0 only if all that the report says is as it must be.
"""

import argparse
import array
import contextlib
import fcntl
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import termios
import time

DEADLINE = 60.0
HERE = pathlib.Path(__file__).resolve().parent
EXAMPLES = HERE.parent


class Failed(Exception):
    """Something is not as it must be; the text says what."""


def wait_until(condition, what, *processes):
    """Polls a condition; a process that ends meanwhile cannot fulfil it any more."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        for process in processes:
            if process.poll() is not None:
                raise Failed(f"a process ended before {what}: {ending(process)}")
        if time.monotonic() > deadline:
            raise Failed(f"after {DEADLINE:.0f} s still waiting: {what}")
        time.sleep(0.002)


class Output:
    """What one reader process wrote, followed while it grows."""

    def __init__(self, path):
        self.path = path
        self._file = open(path, "rb")
        self._count = 0

    def count(self):
        while chunk := self._file.read(1 << 20):
            self._count += chunk.count(b"\n")
        return self._count

    def lines(self):
        """Whole lines; a reader that was killed may have left a part of one."""
        *whole, _rest = self.path.read_bytes().split(b"\n")
        return whole


class Round:
    """One writer, one socket, and one reader after another."""

    def __init__(self, stack, directory, writer_command, reader_command, environment):
        self._stack = stack
        self._directory = directory
        self._reader_command = reader_command
        self._environment = environment
        self._socket = directory / "demo.sock"
        self.outputs = []
        self.reader = self._start_reader()
        self.writer = self._spawn(
            [*writer_command, self._socket], directory / "writer.log", stdin=subprocess.PIPE, bufsize=0
        )

    def _spawn(self, command, log, **options):
        with open(log, "wb") as stderr:
            process = subprocess.Popen(list(map(str, command)), stderr=stderr, env=self._environment, **options)
        process.log = log
        self._stack.callback(end, process)
        return process

    def _start_reader(self):
        number = len(self.outputs) + 1
        log = self._directory / f"reader-{number}.log"
        path = self._directory / f"arrived-{number}"
        with open(path, "wb") as stdout:
            reader = self._spawn([*self._reader_command, self._socket], log, stdin=subprocess.DEVNULL, stdout=stdout)
        wait_until(lambda: b"listening" in log.read_bytes(), "the reader listens", reader)
        self.outputs.append(Output(path))
        return reader

    def feed(self, data):
        view = memoryview(data)
        try:
            while view:
                view = view[self.writer.stdin.write(view) :]
        except BrokenPipeError:
            self.writer.wait()
            raise Failed(ending(self.writer)) from None

    def wait_for(self, count):
        """Until `count` messages in all are in the readers' outputs, each of them handled."""
        before = sum(output.count() for output in self.outputs[:-1])
        wait_until(
            lambda: before + self.outputs[-1].count() >= count,
            f"{count} messages arrived",
            self.reader,
            self.writer,
        )

    def kill_reader_over(self, data):
        """The reader hangs, `data` goes into the kernel's buffers unread, the reader is killed and started again.

        Stopped first, so that all of `data` is lost with the reader's socket, and has to be sent again.
        """
        os.kill(self.reader.pid, signal.SIGSTOP)
        _pid, status = os.waitpid(self.reader.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            raise Failed("the reader ended when it should have stopped")
        self.feed(data)
        wait_until(self._writer_has_nothing_to_do, "the writer has handed over what it was given", self.writer)
        self.reader.kill()
        self.reader.wait()
        self.reader = self._start_reader()

    def _writer_has_nothing_to_do(self):
        unread = array.array("i", [0])
        fcntl.ioctl(self.writer.stdin.fileno(), termios.FIONREAD, unread)
        return unread[0] == 0 and all(state == "S" for state in thread_states(self.writer.pid))

    def finish_writer(self):
        """At the end of its input it leaves, when the reader has everything. Returns its metrics."""
        self.writer.stdin.close()
        expect_success(self.writer)
        return metrics(self.writer.log.read_text(errors="replace"))

    def finish_reader(self):
        self.reader.send_signal(signal.SIGTERM)
        expect_success(self.reader)


def expect_success(process):
    wait_until(lambda: process.poll() is not None, f"{process.args[0]} ends")
    if process.returncode != 0:
        raise Failed(ending(process))


def ending(process):
    return f"{' '.join(process.args)} ended with {process.returncode}:\n{process.log.read_text(errors='replace')}"


def end(process):
    if process.stdin:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    if process.poll() is None:
        process.kill()
        process.wait()


def thread_states(pid):
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # proc(5): the state follows the name, which is in parentheses and may itself contain some.
            yield (task / "stat").read_text().rpartition(")")[2].split()[0]


def metrics(log):
    found = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", log.splitlines()[-1])}
    expected = "sent sent_bytes acknowledged redelivered dropped abandoned suspected_lost connections"
    if missing := set(expected.split()) - found.keys():
        raise Failed(f"the writer did not report {', '.join(sorted(missing))}:\n{log}")
    return found


def numbered(path, loops, at_least):
    lines = path.read_bytes().split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if not lines:
        raise Failed(f"{path} has no line")
    loops = loops or max(1, -(-at_least // len(lines)))
    if len(lines) * loops < 4:
        raise Failed(f"{path} gives {len(lines) * loops} messages: too few to kill a reader in the middle")
    return len(lines), [b"%d\t%s" % (n, line) for n, line in enumerate(lines * loops, 1)]


def joined(messages):
    return b"".join(message + b"\n" for message in messages)


def pieces(messages):
    """Before the kill, in the socket of the killed reader, after it. 16 KiB fit into the buffer of any socket."""
    first = len(messages) // 2
    size, last = 0, first
    while last < len(messages) - 1 and last < first + 500 and size + len(messages[last]) < 16384:
        size += len(messages[last]) + 1
        last += 1
    return messages[:first], messages[first:last], messages[last:]


def ship(stack, args, reader_command, messages, kill):
    directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="udsipc-demo-")))
    # NOTIFY_SOCKET and its kin are for the service that runs the demo, if one does, not for its children.
    environment = {k: v for k, v in os.environ.items() if k not in ("NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "LISTEN_FDS")}
    environment["UDSIPC_LIBRARY"] = str(args.library)
    environment["PYTHONPATH"] = str(EXAMPLES.parent / "bindings" / "python" / "src")
    round_ = Round(stack, directory, [args.bin / "writer"], reader_command, environment)
    begin = time.monotonic()
    if kill:
        first, second, third = map(joined, pieces(messages))
        before, unread = first.count(b"\n"), second.count(b"\n")
        round_.feed(first)
        round_.wait_for(before)
        round_.kill_reader_over(second)
        round_.feed(third)
    else:
        before, unread = None, 0
        round_.feed(joined(messages))
    found = round_.finish_writer()
    seconds = time.monotonic() - begin
    round_.finish_reader()
    return found, seconds, [output.lines() for output in round_.outputs], before, unread


def ranges(numbers):
    """[3, 4, 5, 9] as "3-5, 9"."""
    spans = []
    for n in numbers:
        if spans and spans[-1][1] == n - 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in spans]
    return ", ".join(texts[:10]) + (f" and {len(texts) - 10} more ranges" if len(texts) > 10 else "")


def compare(sent, outputs):
    """The numbers of the messages that arrived twice, at two readers. Whatever else is not as it was sent is an error: changed,
    missing, out of order, twice at one reader."""
    last, repeated = 0, []
    for lines in outputs:
        before = last
        for at, line in enumerate(lines):
            number = int(line.partition(b"\t")[0]) if re.match(rb"[0-9]+\t", line) else 0
            if not 1 <= number <= len(sent) or sent[number - 1] != line:
                raise Failed(f"arrived but was never sent: {line[:80]!r}")
            if at == 0 and number <= before:
                last = number - 1
            if number != last + 1:
                raise Failed(f"message {number} arrived after message {last}: missing, twice or out of order")
            last = number
            if number <= before:
                repeated.append(number)
    if last != len(sent):
        raise Failed(f"messages {last + 1} to {len(sent)} did not arrive")
    return repeated


def verdict(found, sent, repeated, unread):
    """What the report concludes, after checking that the writer's own account explains it."""
    if found["sent"] != len(sent) or found["acknowledged"] != len(sent):
        raise Failed(f"the writer was given {len(sent)} messages and accounts for others: {found}")
    if found["dropped"] or found["abandoned"] or found["suspected_lost"]:
        raise Failed(f"nothing is missing, but the writer counts otherwise: {found}")
    if unread == 0:
        if repeated or found["redelivered"] or found["connections"] != 1:
            raise Failed(f"something was sent again without a kill: {ranges(repeated)} {found}")
        return f"equal: all {len(sent)} messages arrived once and in order"
    if found["connections"] < 2 or found["redelivered"] < unread:
        raise Failed(f"{unread} messages were in the killed reader's socket, and were not sent again: {found}")
    if repeated:
        return (
            f"equal: all {len(sent)} messages arrived in order, {ranges(repeated)} twice: the reader was killed in the"
            " callback for them"
        )
    return f"equal: all {len(sent)} messages arrived once and in order"


def report(title, found, seconds, messages, before, text):
    print(f"\n{title}")
    if before is not None:
        print(
            f"  killed           after message {before} of {len(messages)} the reader hung (SIGSTOP), was sent some"
            " more, was killed (SIGKILL) and started again"
        )
    size = sum(map(len, messages))
    rate = f"{len(messages) / seconds:,.0f} messages/s, {size / seconds / 1e6:,.1f} MB/s"
    for name, value in (
        ("messages", len(messages)),
        ("bytes", size),
        ("rate", f"{rate} (file to file, {seconds:.2f} s)"),
        ("reconnects", found["connections"] - 1),
        ("sent again", found["redelivered"]),
        ("dropped", found["dropped"]),
        ("abandoned", found["abandoned"]),
        ("suspected lost", found["suspected_lost"]),
        ("arrived", text),
    ):
        print(f"  {name:<16} {value}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="where the compiled examples are")
    parser.add_argument("--library", type=pathlib.Path, required=True, help="libudsipc.so, for the Python reader")
    parser.add_argument("--loops", type=int, default=0, help="send the file this many times")
    parser.add_argument("--messages", type=int, default=500_000, help="send the file often enough for this many")
    parser.add_argument("file", type=pathlib.Path)
    return parser.parse_args()


def main():
    args = arguments()
    line_count, messages = numbered(args.file, args.loops, args.messages)
    print(f"{args.file}: {line_count} lines, {len(messages) // line_count} times: {len(messages)} messages")
    readers = {"C": [args.bin / "epoll_reader"], "Python": [sys.executable, EXAMPLES / "reader.py"]}
    for kill in (False, True):
        for language, command in readers.items():
            title = f"C writer -> {language} reader" + (", killed in the middle" if kill else "")
            try:
                with contextlib.ExitStack() as stack:
                    found, seconds, outputs, before, unread = ship(stack, args, command, messages, kill)
                text = verdict(found, messages, compare(messages, outputs), unread)
            except (Failed, OSError) as error:
                raise Failed(f"{title}: {error}") from error
            report(title, found, seconds, messages, before, text)


if __name__ == "__main__":
    # As an exception, so that processes and files are cleaned up on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("demo: terminated"))
    try:
        main()
    except (Failed, OSError) as failure:
        sys.exit(f"demo: FAILED: {failure}")
    except KeyboardInterrupt:
        sys.exit("demo: interrupted")
