#!/usr/bin/env python3
"""How fast the bridge to NATS is, beside programs that publish the same messages themselves.

Every run has a nats-server of its own with an empty store, and lasts from the start of the senders until the stream has
all messages and the senders know it. Runs alternate; every figure is a median of messages per second. A run that is not
complete ends the bench.
"""

import argparse
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CFLAGS = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{ROOT / 'include'}"]
STREAM, SUBJECT = "BENCH", "bench.messages"
SIZES = [100, 1024]
PATIENCE_S = 120


def build(out, library):
    """Compiles the writer and the direct publisher."""
    out.mkdir(parents=True, exist_ok=True)
    system = ["-lutil", "-lrt", "-lpthread", "-lm", "-ldl"]
    subprocess.run(["cc", *CFLAGS, "-o", out / "writer", ROOT / "ffi-tests/nats/writer.c", library, *system], check=True)
    subprocess.run(["cc", *CFLAGS, "-o", out / "direct", ROOT / "benches/nats/direct.c", "-lnats"], check=True)
    subprocess.run(["cc", *CFLAGS, "-o", out / "stream", ROOT / "ffi-tests/nats/stream.c", "-lnats"], check=True)


def wait_for_line(path, text, process):
    deadline = time.monotonic() + PATIENCE_S
    while text not in path.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"no {text!r} in {path.name}:\n{path.read_text()}")
        time.sleep(0.01)


class Run:
    """A server and a stream in a folder of their own."""

    def __init__(self, options):
        self.options = options
        self.processes = []

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="udsipc-nats-"))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.url = f"nats://127.0.0.1:{port}"
        self.start("server", ["nats-server", "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", self.folder / "store"],
                   "Server is ready")
        self.stream("create", SUBJECT, "0")
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
            process.wait(PATIENCE_S)
        shutil.rmtree(self.folder)

    def start(self, name, command, ready):
        log = self.folder / name
        with log.open("w") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream)
        self.processes.append(process)
        wait_for_line(log, ready, process)

    def stream(self, *arguments):
        command = [self.options.out / "stream", self.url, STREAM, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def check(self, count):
        if int(self.stream("count")) != count:
            sys.exit(f"the stream has {self.stream('count').strip()} messages of {count}")


def bridge(run, count, size, writers):
    path = run.folder / "socket"
    run.start("bridge", [run.options.bridge, "--server", run.url, path, SUBJECT], "listening on")
    command = [run.options.out / "writer", path]
    begun = time.monotonic()
    senders = [subprocess.Popen([*command, f"w{n}", str(count // writers), str(size)], stdout=subprocess.DEVNULL)
               for n in range(writers)]
    if any(sender.wait() for sender in senders):
        sys.exit("a writer has failed")
    return time.monotonic() - begun


def direct(run, count, size, mode):
    begun = time.monotonic()
    subprocess.run([run.options.out / "direct", run.url, STREAM, SUBJECT, str(count), str(size), mode], check=True)
    return time.monotonic() - begun


WAYS = {
    "bridge, 1 writer": lambda run, count, size: bridge(run, count, size, 1),
    "bridge, 4 writers": lambda run, count, size: bridge(run, count, size, 4),
    "direct, acknowledged": lambda run, count, size: direct(run, count, size, "acknowledged"),
    "direct, unacknowledged": lambda run, count, size: direct(run, count, size, "unacknowledged"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bridge", type=pathlib.Path, required=True, help="the program udsipc-nats")
    parser.add_argument("--library", type=pathlib.Path, required=True, help="libudsipc.a")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="where programs are built")
    parser.add_argument("--count", type=int, default=200_000, help="messages of a run, a multiple of 4 (%(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each (%(default)s)")
    options = parser.parse_args()
    build(options.out, options.library)

    figures = {(way, size): [] for way in WAYS for size in SIZES}
    for _ in range(options.runs):
        for way, size in figures:
            with Run(options) as run:
                took = WAYS[way](run, options.count, size)
                run.check(options.count)
            figures[way, size].append(options.count / took)

    print(f"| {options.count} messages, thousand a second | " + " | ".join(f"{size} B" for size in SIZES) + " |")
    print("|---|" + "---|" * len(SIZES))
    for way in WAYS:
        print(f"| {way} | " + " | ".join(f"{statistics.median(figures[way, size]) / 1000:.0f}" for size in SIZES) + " |")


if __name__ == "__main__":
    main()
