"""The peers in Python, for run.py: python.py PEER recv|send KEY=VALUE ... with the arguments and results of bench.c.

Every message is made before the first is sent, so that only sending is measured, and received messages are counted. The first and
the last are looked at.
"""

import json
import os
import sys
import time


class Udsipc:
    """A loop, and write for each message."""

    def receive(self, options):
        import udsipc

        with udsipc.Reader(options["path"], inactivity_timeout=None) as reader:
            ready()
            yield from reader

    def send(self, options, messages):
        import udsipc

        limits = {"max_buffered_writes": int(options["queue"]), "max_buffered_bytes": int(options["queue_bytes"])}
        self.writer = udsipc.Writer(options["path"], **limits)
        self.write(self.writer, messages)

    def write(self, writer, messages):
        write = writer.write
        for message in messages:
            write(message, None)


class UdsipcMany(Udsipc):
    """A callback for many messages, and write_many."""

    def receive(self, options):
        import udsipc

        batches = []
        on_batch = lambda messages, _connection: batches.append(messages)
        with udsipc.Reader(options["path"], on_batch=on_batch, inactivity_timeout=None) as reader:
            ready()
            while True:
                reader.dispatch(None)
                for batch in batches:
                    yield from batch
                batches.clear()

    def write(self, writer, messages):
        writer.write_many(messages, None)


class Zmq:
    def receive(self, options):
        import zmq

        with zmq.Context() as context, context.socket(zmq.PULL) as socket:
            socket.set(zmq.RCVHWM, int(options["queue"]))
            socket.bind("ipc://" + options["path"])
            ready()
            while True:
                yield socket.recv()

    def send(self, options, messages):
        import zmq

        self.socket = zmq.Context().socket(zmq.PUSH)
        self.socket.set(zmq.SNDHWM, int(options["queue"]))
        self.socket.connect("ipc://" + options["path"])
        send = self.socket.send
        for message in messages:
            send(message)


class Nng:
    LONGEST_QUEUE = 8192

    def receive(self, options):
        import pynng

        with pynng.Pull0(recv_buffer_size=min(int(options["queue"]), self.LONGEST_QUEUE)) as socket:
            socket.listen("ipc://" + options["path"])
            ready()
            while True:
                yield socket.recv()

    def send(self, options, messages):
        import pynng

        self.socket = pynng.Push0(send_buffer_size=min(int(options["queue"]), self.LONGEST_QUEUE))
        self.socket.dial("ipc://" + options["path"], block=True)
        send = self.socket.send
        for message in messages:
            send(message)


def ready():
    print("ready", flush=True)


def receive(peer, options):
    count, size = int(options["count"]), int(options["size"])
    received, first = 0, None
    for message in peer.receive(options):
        if received == 0:
            began, first, thread_began = time.monotonic(), message, time.thread_time()
        received += 1
        if received == count:
            break
    seconds, thread = time.monotonic() - began, time.thread_time() - thread_began
    tags = [int.from_bytes(one[:8], sys.byteorder) for one in (first, message)]
    wrong = int(tags != [0, count - 1])
    print(json.dumps({"complete": not wrong, "received": received, "expected": count, "bytes": received * size,
                      "out_of_order": wrong, "seconds": seconds, "thread_ns": thread / count * 1e9}), flush=True)


def send(peer, options):
    count, rest = int(options["count"]), bytes(i % 256 for i in range(8, int(options["size"])))
    messages = [number.to_bytes(8, sys.byteorder) + rest for number in range(count)]
    began, thread_began = time.monotonic(), time.thread_time()
    peer.send(options, messages)
    seconds, thread = time.monotonic() - began, time.thread_time() - thread_began
    sys.stdin.readline()  # the receiver has everything, and is gone
    print(json.dumps({"sending": seconds, "thread_ns": thread / count * 1e9}), flush=True)
    os._exit(0)  # what comes now is not measured


if __name__ == "__main__":
    kind = {"udsipc": Udsipc, "many": UdsipcMany, "zmq": Zmq, "nng": Nng}[sys.argv[1]]
    arguments = dict(argument.split("=", 1) for argument in sys.argv[3:])
    {"recv": receive, "send": send}[sys.argv[2]](kind(), arguments)
