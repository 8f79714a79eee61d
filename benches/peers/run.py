#!/usr/bin/env python3
"""Compares libudsipc with its peers: the same work, two processes each, in alternating runs.

Each run starts a receiver and a sender of one peer (bench.c with the peer's own file, in C or Rust, or the Go or the Java
program). The receiver counts every message and every byte and checks the order of each stream; the time is from its first
message to its last. Runs alternate peer by peer, and every figure is a median. A run that is not complete ends the bench.

Every message carries a sequence number, and is filled; the receiver looks at its first bytes and its last one, or, for the
figure "sum", reads every byte of it. Every peer waits when its queue is full, and has the same limit of the queue: what fits
into QUEUE_BYTES, at most QUEUE_MESSAGES; Aeron's depends on the length of a term, of which it has the one that suits it best.
How many messages a peer sends is found by a short run first, so that each of its runs lasts about a second.
"""

import argparse
import hashlib
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
GO_MODULE = "github.com/Psiphon-Inc/uds-ipc"
GO_COMMIT = "d1a18f79f503d4dc7095aa935e521e4dde4cdc6d"
MAVEN_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
AERON_JAR = "io.aeron:aeron-all:1.44.1"
AERON_SHA256 = "3bcd1b5a9ec5ea6461de67b5ce7ce97c57c5129bef3158cbe0fac0b7bfb716ad"
JAVA_OPTIONS = ["-XX:+UseSerialGC", "-Xmx128m", "-Dagrona.disable.bounds.checks=true", "--add-opens",
                "java.base/sun.nio.ch=ALL-UNNAMED"]

KIB = 1024
SIZES = [16, 100, KIB, 10 * KIB, 100 * KIB, KIB * KIB]
CONNECTIONS = [1, 4, 64, 1000]
THREADS = [1, 2, 4, 8]
IDLE = [1000, 10000]
CHUNKS = [16 * KIB, 32 * KIB, 64 * KIB]
TERMS = [KIB * KIB, 8 * KIB * KIB, 64 * KIB * KIB]
ENQUEUE_SIZES = [100, KIB]
TIMED_SIZES = [16, 100]
PYTHON_SIZE = 100
PYTHON_PACKAGES = {"zmq": "pyzmq==27.3.0", "nng": "pynng==0.9.0"}
CONNECTIONS_SIZE = KIB
THREADS_SIZE = 100
LATENCY_SIZE = 64
IDLE_SIZE = 64
BURST = 64 * KIB

# A queue that outgrows the cache halves everybody's throughput; every peer has this limit, all connections together.
QUEUE_BYTES = 4 * KIB * KIB
QUEUE_MESSAGES = 10000

US, BATCHED, SOCKET = "libudsipc", "libudsipc, batch callback", "libudsipc, socket only"
RAW, GO, ZMQ, NNG = "raw socket", "Go uds-ipc", "libzmq", "nng"
AERON, ICEORYX2 = "Aeron IPC", "iceoryx2"
# libudsipc in other ways than its plain one.
OUR_WAYS = ("batched", "socket")
PEERS = {"udsipc": US, "batched": BATCHED, "socket": SOCKET, "raw": RAW, "go": GO, "zmq": ZMQ, "nng": NNG, "aeron": AERON,
         "iceoryx2": ICEORYX2}
# Shared memory that the receiver polls, which keeps a processor busy: one stream, and no idle connections.
POLLED = ("aeron", "iceoryx2")
# Where the files of a run are: some are the memory that both sides share.
IN_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
FIGURES = ["throughput", "sum", "latency", "enqueue", "timed", "idle", "connections", "threads", "rest", "python", "cost"]
CFLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-pthread"]


class BadRun(Exception):
    """A run whose figures mean nothing."""


class Missing(Exception):
    """A peer that cannot be built here, and how to get it."""


# Building


def build_c(out, program, source, *arguments):
    command = [os.environ.get("CC", "cc"), *CFLAGS, "-o", str(out / program), str(HERE / "bench.c"),
               str(HERE / source), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def build_udsipc(out, library):
    names = out / "lib"
    names.mkdir(exist_ok=True)
    for name in ["libudsipc.so", "libudsipc.so.0"]:
        (names / name).unlink(missing_ok=True)
        (names / name).symlink_to(library)
    return build_c(out, "udsipc", "udsipc.c", f"-I{ROOT / 'include'}", f"-L{names}", "-ludsipc", f"-Wl,-rpath,{names}")


def apt_install(package):
    """True if the package could be installed: root on a Debian system."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    say(f"installing {package}")
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    for command in [["update", "-q"], ["install", "-qy", "--no-install-recommends", package]]:
        if subprocess.run(["apt-get", *command], env=environment, capture_output=True).returncode != 0:
            return False
    return True


def build_packaged(out, program, library, package):
    built = build_c(out, program, f"{program}.c", f"-l{library}")
    if built.returncode != 0 and apt_install(package):
        built = build_c(out, program, f"{program}.c", f"-l{library}")
    if built.returncode != 0:
        raise Missing(f"{PEERS[program]} cannot be built; on Debian and Ubuntu: sudo apt-get install {package}\n"
                      f"{built.stderr.strip()}")


def build_python(out, library, peers):
    """Programs python-PEER that run python.py, and python-many for libudsipc. The packages come from PyPI."""
    environment = out / "python"
    if not (environment / "bin" / "pip").exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    names = [name for name in ("udsipc", "zmq", "nng") if name in peers]
    wanted = [PYTHON_PACKAGES[name] for name in names if name in PYTHON_PACKAGES]
    if wanted:
        got = subprocess.run([str(environment / "bin" / "pip"), "install", "-q", *wanted], capture_output=True, text=True)
        if got.returncode != 0:
            say(f"{' '.join(wanted)} cannot be installed:\n{got.stderr.strip()}")
            names = [name for name in names if name not in PYTHON_PACKAGES]
    for name in [*names, *(["many"] if "udsipc" in names else [])]:
        program = out / f"python-{name}"
        program.write_text(f"#!/bin/sh\nUDSIPC_LIBRARY='{library}' PYTHONPATH='{ROOT / 'bindings' / 'python' / 'src'}' "
                           f"exec '{environment / 'bin' / 'python'}' -B '{HERE / 'python.py'}' {name} \"$@\"\n")
        program.chmod(0o755)
    return names


def build_go(out):
    if shutil.which("go") is None and not apt_install("golang-go"):
        raise Missing(f"{GO} needs Go 1.24 or newer; on Debian and Ubuntu: sudo apt-get install golang-go")
    copy = out / "go-source"
    # The copy keeps its go.mod and go.sum, so that the module is asked for once.
    copy.mkdir(exist_ok=True)
    shutil.copy(HERE / "go" / "main.go", copy)
    if not (copy / "go.mod").exists():
        shutil.copy(HERE / "go" / "go.mod", copy)
    if GO_MODULE not in (copy / "go.mod").read_text():
        got = subprocess.run(["go", "get", f"{GO_MODULE}@{GO_COMMIT}"], cwd=copy, capture_output=True, text=True)
        if got.returncode != 0:
            raise Missing(f"{GO} cannot be fetched; where its module can be had: go get {GO_MODULE}@{GO_COMMIT[:12]}\n"
                          f"{got.stderr.strip()}")
    built = subprocess.run(["go", "build", "-o", str(out / "go"), "."], cwd=copy, capture_output=True, text=True)
    if built.returncode != 0:
        raise Missing(f"{GO} cannot be built:\n{built.stderr.strip()}")


def build_aeron(out):
    """The program runs AeronPeer.java with what Maven fetches into the build folder."""
    for program, package in (("javac", "default-jdk-headless"), ("mvn", "maven")):
        if shutil.which(program) is None and not apt_install(package):
            raise Missing(f"{AERON} needs {program}; on Debian and Ubuntu: sudo apt-get install {package}")
    folder, (_, name, version) = out / "aeron-classes", AERON_JAR.split(":")
    jar = folder / f"{name}-{version}.jar"
    if not jar.exists():
        command = ["mvn", "-B", "-q", "-Dstyle.color=never", MAVEN_COPY, f"-Dartifact={AERON_JAR}",
                   f"-DoutputDirectory={folder}", f"-Dmaven.repo.local={out / 'maven'}"]
        got = subprocess.run(command, cwd=out, capture_output=True, text=True)
        if got.returncode != 0:  # the first line is the error, the others are how to use Maven
            raise Missing(f"{AERON} cannot be fetched:\n{got.stdout.strip().partition(chr(10))[0]}")
    if hashlib.sha256(jar.read_bytes()).hexdigest() != AERON_SHA256:
        raise Missing(f"{AERON}: {jar} is not the file that is expected; remove it to have it fetched again")
    built = subprocess.run(["javac", "-Xlint:all", "-Werror", "-d", str(folder), "-cp", str(jar),
                            str(HERE / "aeron" / "AeronPeer.java")], capture_output=True, text=True)
    if built.returncode != 0:
        raise Missing(f"{AERON}: its program cannot be built:\n{built.stderr.strip()}")
    program = out / "aeron"
    program.write_text(f"#!/bin/sh\nexec java {' '.join(JAVA_OPTIONS)} -cp '{folder}:{jar}' AeronPeer \"$@\"\n")
    program.chmod(0o755)


def build_iceoryx2(out):
    """The engine and its side of bench.h are a library in Rust, with the versions of its Cargo.lock."""
    cargo = os.environ.get("CARGO", "cargo")
    if shutil.which(cargo) is None:
        raise Missing(f"{ICEORYX2} needs cargo, which builds it")
    target = out / "iceoryx2-target"
    environment = {name: value for name, value in os.environ.items() if name != "CARGO_BUILD_TARGET"}
    built = subprocess.run([cargo, "build", "--release", "--locked", "--manifest-path", str(HERE / "iceoryx2" / "Cargo.toml"),
                            "--target-dir", str(target)], env=environment, capture_output=True, text=True)
    if built.returncode == 0:
        built = build_c(out, "iceoryx2", target / "release" / "libbench_iceoryx2.a", "-lm", "-ldl", "-lrt")
    if built.returncode != 0:
        raise Missing(f"{ICEORYX2} cannot be built:\n{built.stderr.strip()}")


def build(out, library, wanted):
    """Builds the programs. Returns the peers that can be run and what is to be said about the others."""
    peers, notes = [], []
    for name in wanted:
        try:
            if name in ("udsipc", *OUR_WAYS):
                check_built(build_udsipc(out, library))
            elif name == "raw":
                check_built(build_c(out, "raw", "raw.c"))
            elif name == "zmq":
                build_packaged(out, "zmq", "zmq", "libzmq3-dev")
            elif name == "nng":
                build_packaged(out, "nng", "nng", "libnng-dev")
            elif name == "aeron":
                build_aeron(out)
            elif name == "iceoryx2":
                build_iceoryx2(out)
            else:
                build_go(out)
            peers.append(name)
        except Missing as missing:
            notes.append(str(missing))
    # It also makes the idle connections to those who speak the uvarint framing, and is the empty program of "rest".
    check_built(build_c(out, "raw", "raw.c"))
    return peers, notes


def check_built(built):
    if built.returncode != 0:
        sys.exit(f"{' '.join(built.args)}:\n{built.stderr}")


def say(text):
    print(text, file=sys.stderr, flush=True)


# Running


class Bench:
    def __init__(self, out, library, quick, runs, seconds):
        self.out = out
        self.library = library
        self.quick = quick
        self.runs = runs
        self.seconds = seconds
        self.patience = 60
        self.rates = {}
        self.best_term = None

    def program(self, peer):
        return str(self.out / ("udsipc" if peer in OUR_WAYS else peer))

    def arguments(self, peer, path, options):
        values = dict(options, path=path, patience=self.patience)
        if peer in OUR_WAYS:
            values[peer] = 1
        if peer == "aeron" and self.best_term is not None:
            values.setdefault("term", self.best_term)
        return [f"{key}={value}" for key, value in values.items()]

    def run(self, peer, sender=None, **options):
        """One run. Returns what the receiver and the sender printed."""
        with tempfile.TemporaryDirectory(prefix="bench-", dir=IN_MEMORY) as folder:
            arguments = self.arguments(peer, os.path.join(folder, "s"), options)
            processes = []

            def start(program, side, extra=()):
                process = subprocess.Popen([program, side, *arguments, *extra], stdin=subprocess.PIPE,
                                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                processes.append(process)
                return process

            def end_all():
                for process in processes:
                    process.kill()

            guard = threading.Timer(self.patience + 20, end_all)
            guard.start()
            try:
                return self.both_sides(peer, sender, options, start)
            finally:
                guard.cancel()
                end_all()
                for process in processes:
                    process.communicate()

    def both_sides(self, peer, sender, options, start):
        what = f"{PEERS.get(peer, peer)}, {options}"
        receiver = start(self.program(peer), "recv")
        if receiver.stdout.readline() != "ready\n":
            raise BadRun(f"{what}: the receiver did not start: {receiver.stderr.read().strip()}")
        sender = start(self.program(sender or peer), "send", ["framed=1"] if sender else [])
        if options.get("mode") == "idle":
            if receiver.stdout.readline() != "warm\n":
                raise BadRun(f"{what}: the receiver did not get the first messages: {receiver.stderr.read().strip()}")
            sender.stdin.write("\n")
            sender.stdin.flush()
        received = self.result(what, "receiver", receiver)
        if not received["complete"]:
            raise BadRun(f"{what}: the receiver got {received['received']} of {received['expected']} messages, "
                         f"{received['out_of_order']} out of order or not as they were sent")
        sender.stdin.close()
        sender.stdin = None
        return received, self.result(what, "sender", sender)

    @staticmethod
    def result(what, side, process):
        line = process.stdout.readline()
        try:
            result = json.loads(line)
            process.wait()  # some tidy up after themselves
            return result
        except ValueError:
            process.kill()
            raise BadRun(f"{what}: the {side} ended without a result: {process.stderr.read().strip()}") from None

    def queue(self, size, connections=1):
        burst = max(BURST // size, 1)
        messages = min(QUEUE_MESSAGES, max(QUEUE_BYTES // connections // size, 2 * burst, 8))
        return {"queue": messages, "queue_bytes": max(QUEUE_BYTES // connections, messages * size, 2 * BURST)}

    def count(self, peer, size, **options):
        """How many messages this peer receives in the time that a run is to last."""
        key = (peer, size, tuple(sorted(options.items())))
        if key not in self.rates:
            count = max(100, min(2000, 8 * KIB * KIB // size))
            while True:
                received, _ = self.run(peer, size=size, count=count, **self.queue(size), **options)
                if received["seconds"] > self.seconds / 10:
                    break
                count *= 4
            self.rates[key] = count / received["seconds"]
        return max(int(self.rates[key] * self.seconds), 100)

    def alternate(self, peers, one_run):
        """The results of all runs, peer by peer."""
        results = {peer: [] for peer in peers}
        for _ in range(self.runs):
            for peer in peers:
                results[peer].append(one_run(peer))
        return results


def median(results, value):
    return {peer: statistics.median(value(received, sent) for received, sent in runs) for peer, runs in results.items()}


def rate(received, _sent):
    return received["received"] / received["seconds"]


def gigabytes(received, _sent):
    return received["bytes"] / received["seconds"] / 1e9


def cpu_seconds(size):
    """Of both sides, for a million messages. By the bytes, since the raw socket has no messages of this size."""
    def value(received, sent):
        total = sum(side[kind] for side in (received, sent) for kind in ("user", "system"))
        return total / received["bytes"] * size * 1e6
    return value


def name_of(size):
    return f"{size} B" if size < KIB else f"{size // KIB} KiB" if size < KIB * KIB else f"{size // KIB // KIB} MiB"


def queueing(peers):
    """Those who have a queue of messages and connections, each once."""
    return [peer for peer in peers if peer not in ("raw", *OUR_WAYS, *POLLED)]


class Table:
    """The figures: rows in the order in which they were measured, a value for each peer."""

    def __init__(self):
        self.rows = {}
        self.best_chunk = None

    def add(self, row, unit, values, better):
        self.rows[row] = {"unit": unit, "better": better, "values": values}

    def value(self, row, peer):
        return self.rows.get(row, {"values": {}})["values"].get(peer)


def measure_throughput(bench, peers, table):
    stream(bench, peers, table, "")


def measure_sum(bench, peers, table):
    stream(bench, peers, table, ", every byte read", sum=1)


def stream(bench, peers, table, how, **options):
    """Throughput, and what it costs."""
    messaging = [peer for peer in peers if peer != "raw"]
    if "raw" in peers and table.best_chunk is None:
        table.best_chunk = best_chunk(bench)
    if "aeron" in peers and bench.best_term is None:
        bench.best_term = best_term(bench)
    costs = {}
    for size in SIZES:
        say(f"throughput, {name_of(size)}{how}")

        def one_run(peer):
            if peer == "raw":  # a stream of bytes has no messages: only its best chunk counts
                chunk = table.best_chunk
                count = bench.count("raw", chunk, chunk=chunk, **options)
                return bench.run("raw", size=chunk, count=count, chunk=chunk, **options)
            return bench.run(peer, size=size, count=bench.count(peer, size, **options), **bench.queue(size), **options)

        costs[size] = bench.alternate(messaging if size < KIB else peers, one_run)
        if size < KIB:
            values, unit = median(costs[size], lambda *both: rate(*both) / 1e6), "M msg/s"
        else:
            values, unit = median(costs[size], gigabytes), "GB/s"
        table.add(f"throughput {name_of(size)}{how}", unit, values, "more")
    for size in ENQUEUE_SIZES:
        table.add(f"CPU of both processes, {name_of(size)}{how}", "s per M msg", median(costs[size], cpu_seconds(size)), "less")
    for side, index in (("sender", 1), ("receiver", 0)):
        table.add(f"peak memory of the {side}, {name_of(KIB)}{how}", "MiB",
                  median(costs[KIB], lambda *both: both[index]["peak_kib"] / KIB), "less")


def best_chunk(bench):
    say("the raw socket's best chunk")
    medians = median(bench.alternate(CHUNKS, lambda chunk: bench.run(
        "raw", size=chunk, count=bench.count("raw", chunk, chunk=chunk), chunk=chunk)), gigabytes)
    return max(medians, key=medians.get)


def best_term(bench):
    """Of those that there is room for: Aeron has three terms, and more."""
    say("Aeron's best term")
    room = shutil.disk_usage(IN_MEMORY or tempfile.gettempdir()).free
    medians = median(bench.alternate([term for term in TERMS if 4 * term < room] or TERMS[:1], lambda term: bench.run(
        "aeron", size=KIB, count=bench.count("aeron", KIB, term=term), term=term)), gigabytes)
    return max(medians, key=medians.get)


def measure_latency(bench, peers, table):
    say("latency")
    count = 600 if bench.quick else 10000
    results = bench.alternate([peer for peer in peers if peer not in OUR_WAYS], lambda peer: bench.run(
        peer, mode="latency", size=LATENCY_SIZE, count=count, **bench.queue(LATENCY_SIZE)))
    for key, name in (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9")):
        table.add(f"one-way latency {name}", "us", median(results, lambda received, _: received[key] / 1e3), "less")


def measure_enqueue(bench, peers, table):
    for size in ENQUEUE_SIZES:
        say(f"caller's time, {name_of(size)}")
        results = bench.alternate(queueing(peers), lambda peer: bench.run(
            peer, size=size, count=bench.count(peer, size), timed=1, **bench.queue(size)))
        timed = {peer: [run for run in runs if "enqueue_ns" in run[1]] for peer, runs in results.items()}
        timed = {peer: runs for peer, runs in timed.items() if runs}
        table.add(f"caller's time for an enqueue, {name_of(size)}", "ns",
                  median(timed, lambda _, sent: sent["enqueue_ns"]), "less")


def measure_timed(bench, peers, table):
    """udsipc_write_message_timeout for every message, against udsipc_write_message and the other only where it is full."""
    if "udsipc" not in peers:
        return
    for size in TIMED_SIZES:
        say(f"timed writes, {name_of(size)}")
        results = bench.alternate(["plain", "timed"], lambda way: bench.run(
            "udsipc", size=size, count=bench.count("udsipc", size), waits=int(way == "timed"), **bench.queue(size)))
        for way, value in median(results, rate).items():
            table.add(f"{way} writes {name_of(size)}", "M msg/s", {"udsipc": value / 1e6}, "more")


def measure_idle(bench, peers, table):
    for connections in [100] if bench.quick else IDLE:
        say(f"{connections} idle connections")
        framed = {"udsipc": "raw", "go": "raw"}
        results = bench.alternate(queueing(peers), lambda peer: bench.run(
            peer, sender=framed.get(peer), mode="idle", size=IDLE_SIZE, connections=connections,
            **bench.queue(IDLE_SIZE)))
        table.add(f"memory per idle connection, {connections}", "B",
                  median(results, lambda received, _: received["growth_kib"] * KIB / (connections - 1)), "less")


def measure_connections(bench, peers, table):
    size, burst = CONNECTIONS_SIZE, BURST // CONNECTIONS_SIZE
    for connections in [1, 16] if bench.quick else CONNECTIONS:
        say(f"{connections} active connections")

        def one_run(peer):
            total = bench.count(peer, size)
            count = max(total // connections // burst, 1) * burst
            return bench.run(peer, size=size, count=count, connections=connections, **bench.queue(size, connections))

        results = bench.alternate([peer for peer in peers if peer not in (*OUR_WAYS, *POLLED)], one_run)
        table.add(f"{connections} active connections, {name_of(size)}", "GB/s",
                  median(results, gigabytes), "more")


def measure_threads(bench, peers, table):
    for threads in [1, 4] if bench.quick else THREADS:
        say(f"{threads} producer threads")
        results = bench.alternate(queueing(peers), lambda peer: bench.run(
            peer, size=THREADS_SIZE, count=max(bench.count(peer, THREADS_SIZE) // threads, 1), threads=threads,
            **bench.queue(THREADS_SIZE)))
        table.add(f"{threads} producer threads, {name_of(THREADS_SIZE)}", "M msg/s",
                  {peer: value / 1e6 for peer, value in median(results, rate).items()}, "more")


def measure_rest(bench, peers, table):
    say("memory at rest")

    def resident(peer):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            command = [bench.program(peer), "rest", f"path={folder}/s", *(f"{k}={v}" for k, v in bench.queue(100).items())]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return json.loads(done.stdout)["rss_kib"]

    values = {}
    for peer in queueing(peers):
        above = [resident(peer) - resident("raw") for _ in range(bench.runs)]
        values[peer] = statistics.median(above) / KIB
    table.add("resident memory of an idle writer and reader above an empty program", "MiB", values, "less")


def measure_python(bench, peers, table):
    """One side in Python, and the other in C. Only libudsipc has a call for many messages."""
    names = build_python(bench.out, bench.library, peers)
    ways = {"reads": lambda name: (f"python-{name}", name), "writes": lambda name: (name, f"python-{name}")}
    if "udsipc" in names:
        ways["reads many at once"] = lambda name: ("python-many", name)
        ways["writes many at once"] = lambda name: (name, "python-many")
    for way, programs in sorted(ways.items()):
        say(f"Python {way}, {name_of(PYTHON_SIZE)}")

        def one_run(name):
            receiver, sender = programs(name)
            count = bench.count(receiver, PYTHON_SIZE, sender=sender)
            return bench.run(receiver, sender, size=PYTHON_SIZE, count=count, **bench.queue(PYTHON_SIZE))

        runs = bench.alternate(["udsipc"] if "many" in way else names, one_run)
        row = f"Python {way}, {name_of(PYTHON_SIZE)}"
        table.add(row, "M msg/s", {name: value / 1e6 for name, value in median(runs, rate).items()}, "more")
        # What a machine that others use as well delays less.
        thread = median(runs, lambda received, sent: (received if way.startswith("reads") else sent)["thread_ns"])
        table.add(f"{row}: its thread's time", "ns per msg", thread, "less")


def measure_cost(bench, peers, table):
    """What repeats exactly is measured by a test, which also holds the limits."""
    if "udsipc" not in peers:
        return
    say("instructions, system calls, allocations")
    command = [os.environ.get("CARGO", "cargo"), "test", "--release", "--locked", "--test", "cost", "--", "--nocapture"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith("cost: "):
            name, value = line.removeprefix("cost: ").rsplit(" ", 1)
            table.add(name, "per msg", {"udsipc": float(value)}, "less")
    if done.returncode != 0:
        say(f"the cost test is red or cannot run:\n{done.stdout}{done.stderr}")


# What comes out


def shown(value):
    if value is None:
        return "-"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def print_figures(table, peers):
    print("\n| figure | unit | " + " | ".join(PEERS[peer] for peer in peers) + " |")
    print("|---|---|" + "---|" * len(peers))
    for row, entry in table.rows.items():
        cells = " | ".join(shown(entry["values"].get(peer)) for peer in peers)
        print(f"| {row} | {entry['unit']} | {cells} |")


def print_ratios(table, peers):
    others = [peer for peer in peers if peer != "udsipc"]
    if not others or "udsipc" not in peers:
        return
    print(f"\n| {US} against (more than 1 is more of the figure) | better is | "
          + " | ".join(PEERS[peer] for peer in others) + " |")
    print("|---|---|" + "---|" * len(others))
    for row, entry in table.rows.items():
        ratios = [ratio(table, row, peer) for peer in others]
        if any(value is not None for value in ratios):
            cells = " | ".join("-" if value is None else f"{value:.3g}x" for value in ratios)
            print(f"| {row} | {entry['better']} | {cells} |")


def ratio(table, row, peer):
    ours, theirs = table.value(row, "udsipc"), table.value(row, peer)
    return ours / theirs if ours is not None and theirs else None


def targets(table):
    """(what, measured value or None, at least, goal, whether more is better)"""
    sizes = [name_of(size) for size in SIZES[:5]]
    for peer, least, goal in (("go", [15, 15, 8, 3, 2], [40, 40, 11, 3.6, 2.5]),
                              ("zmq", [2, 5, 7, 5, 1.6], [5, 12, 9, 6, 2])):
        for size, at_least, wished in zip(sizes, least, goal):
            yield (f"throughput {size} against {PEERS[peer]}", ratio(table, f"throughput {size}", peer), at_least, wished,
                   True)
    for size in [name_of(size) for size in SIZES[2:]]:
        yield f"throughput {size} against the raw socket", ratio(table, f"throughput {size}", "raw"), 0.75, 0.9, True
    for peer, base, least, goal in (("raw", SIZES[2:6], [1.3, 1.6, 1.5, 1.2], [2.5, 3, 3, 2]),
                                    ("socket", SIZES[1:3], [1, 1.8], [2, 3]),
                                    ("aeron", SIZES[:5], [1, 1, 2, 5, 4], [2, 2, 3, 10, 8])):
        for size, at_least, wished in zip([name_of(size) for size in base], least, goal):
            row = f"throughput {size}, every byte read"
            yield f"{row}, against {PEERS[peer]}", ratio(table, row, peer), at_least, wished, True
    row = f"CPU of both processes, {name_of(KIB)}, every byte read"
    yield f"{row}, against the socket alone", ratio(table, row, "socket"), 0.6, 0.3, False
    yield "latency p50 against the raw socket", ratio(table, "one-way latency p50", "raw"), 2, 1.3, False
    yield f"latency p50 against {GO}", ratio(table, "one-way latency p50", "go"), 0.4, 0.2, False
    yield ("caller's time, 100 B, ns", table.value("caller's time for an enqueue, 100 B", "udsipc"), 40, 15, False)
    for side in ("writer", "reader"):
        # A few in two million come with a queue or a buffer that grows once more.
        allocations = table.value(f"allocations, {side}, 100 B", "udsipc")
        yield (f"allocations per message, {side}, to four digits", None if allocations is None else round(allocations, 4),
               0, 0, False)
        yield f"system calls per message, {side}", table.value(f"system calls, {side}, 100 B", "udsipc"), 0.01, 0.003, False
        yield f"instructions per message, {side}", table.value(f"instructions, {side}, 100 B", "udsipc"), 200, 100, False
    for connections in IDLE:
        yield (f"user memory per idle connection, {connections}, B",
               table.value(f"memory per idle connection, {connections}", "udsipc"), 1024, 512, False)
    for size in [name_of(size) for size in TIMED_SIZES]:
        yield (f"timed writes against plain ones, {size}", own_ratio(table, f"timed writes {size}", f"plain writes {size}"),
               0.85, 0.95, True)
    row = f"{{}} active connections, {name_of(CONNECTIONS_SIZE)}"
    yield "1 000 active connections against 1", own_ratio(table, row.format(1000), row.format(1)), 0.7, 0.9, True
    row = f"{{}} producer threads, {name_of(THREADS_SIZE)}"
    yield "8 producer threads against 1", own_ratio(table, row.format(8), row.format(1)), 0.7, 1.0, True
    for way, least, goal in (("reads", 1.5, 2), ("reads many at once", 1.5, 3), ("writes", 0.5, 1), ("writes many at once", 1, 3)):
        row = f"Python {way}, {name_of(PYTHON_SIZE)}"
        yield f"{row}, M messages/s", table.value(row, "udsipc"), least, goal, True
    yield ("resident memory at rest, MiB",
           table.value("resident memory of an idle writer and reader above an empty program", "udsipc"), 2, 1, False)


def own_ratio(table, row, base):
    value, by = table.value(row, "udsipc"), table.value(base, "udsipc")
    return value / by if value is not None and by else None


def print_targets(table):
    print("\n| target | measured | at least | goal | |")
    print("|---|---|---|---|---|")
    met = missed = unknown = 0
    for what, value, least, goal, more in targets(table):
        reaches = lambda limit: value >= limit if more else value <= limit
        if value is None:
            verdict, unknown = "not measured", unknown + 1
        elif reaches(least):
            verdict, met = ("goal reached" if reaches(goal) else "met"), met + 1
        else:
            verdict, missed = "NOT met", missed + 1
        print(f"| {what} | {shown(value)} | {least} | {goal} | {verdict} |")
    print(f"\n{met} targets met, {missed} not met, {unknown} not measured")


def machine():
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return {"cpu": model, "cores": os.cpu_count(), "kernel": os.uname().release}


class Neighbours:
    """How much of the processors others took while the bench ran: what they take, some peer misses."""

    def __init__(self):
        self.before = self.look()

    @staticmethod
    def look():
        fields = [int(field) for field in open("/proc/stat").readline().split()[1:9]]
        own = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
        idle = fields[3] + fields[4]
        busy = (sum(fields) - idle) / os.sysconf("SC_CLK_TCK")
        return busy - sum(usage.ru_utime + usage.ru_stime for usage in own), sum(fields) / os.sysconf("SC_CLK_TCK")

    def share(self):
        (others, total), (others_before, total_before) = self.look(), self.before
        return max(others - others_before, 0) / max(total - total_before, 0.01)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True, type=pathlib.Path, help="libudsipc.so, built with --release")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="where the programs are built")
    parser.add_argument("--quick", action="store_true", help="one short run each: shows that it works, measures nothing")
    parser.add_argument("--runs", type=int, help="runs of each figure and peer (5)")
    parser.add_argument("--seconds", type=float, help="how long a run lasts (1)")
    parser.add_argument("--only", default="", help=f"peers and figures, by comma: {', '.join([*PEERS, *FIGURES])}")
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures there")
    arguments = parser.parse_args()
    names = [name for name in arguments.only.split(",") if name]
    for name in names:
        if name not in PEERS and name not in FIGURES:
            parser.error(f"--only: {name} is neither a peer nor a figure")
    arguments.peers = [name for name in PEERS if name in names] or list(PEERS)
    arguments.figures = [name for name in FIGURES if name in names] or FIGURES
    if not arguments.library.is_file():
        parser.error(f"{arguments.library} is not there: cargo build --release")
    return arguments


def main():
    arguments = parse_arguments()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    peers, notes = build(out, arguments.library.resolve(), arguments.peers)
    bench = Bench(out, arguments.library.resolve(), arguments.quick, arguments.runs or (1 if arguments.quick else 5),
                  arguments.seconds or (0.05 if arguments.quick else 1.0))
    table = Table()
    before = machine()
    neighbours = Neighbours()
    try:
        for figure in arguments.figures:
            globals()[f"measure_{figure}"](bench, peers, table)
    except BadRun as bad:
        print(f"bad run: {bad}", flush=True)
        return 1
    before["taken_by_others"] = neighbours.share()
    print(f"{before['cpu']}, {before['cores']} cores, Linux {before['kernel']}. Medians of {bench.runs} alternating runs of "
          f"{bench.seconds:g} s. Queue: at most {QUEUE_MESSAGES} messages and {QUEUE_BYTES // KIB // KIB} MiB for every peer."
          + (f" Raw socket: writes of {table.best_chunk // KIB} KiB." if table.best_chunk else "")
          + (f" Aeron: terms of {bench.best_term // KIB // KIB} MiB." if bench.best_term else "")
          + f" Other programs took {before['taken_by_others']:.0%} of the processors"
          + (": too much, run it again on a quiet machine." if before["taken_by_others"] > 0.1 else "."))
    print_figures(table, peers)
    print_ratios(table, peers)
    print_targets(table)
    for note in notes:
        print(f"\nnot measured: {note}")
    if arguments.json:
        arguments.json.write_text(json.dumps(
            {"machine": before, "runs": bench.runs, "peers": {peer: PEERS[peer] for peer in peers}, "figures": table.rows,
             "not_measured": notes}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
