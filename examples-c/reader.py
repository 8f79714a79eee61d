#!/usr/bin/env python3
"""Prints every message as one line: reader.py SOCKET. The twin of epoll_reader.c: one thread, messages in batches.

Runs until SIGINT or SIGTERM, then takes what writers have already sent and leaves. Needs the package: pip install bindings/python
"""

import os
import select
import signal
import sys

import udsipc

PATIENCE = 5.0


def catch_signals():
    """A descriptor that becomes readable at SIGINT or SIGTERM, to be waited for together with the reader's."""
    wakeup, signalled = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(signalled)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    return wakeup


def on_batch(messages, _connection):
    # Flushed before it returns: the lines are out of this process before the messages count as handled.
    sys.stdout.buffer.write(b"\n".join(messages) + b"\n")
    sys.stdout.buffer.flush()


def on_error(error):
    print(f"reader.py: {error}", file=sys.stderr)


def main():
    wakeup = catch_signals()
    with udsipc.Reader(sys.argv[1], on_batch=on_batch, on_error=on_error, socket_mode=0o600) as reader:
        print(f"reader.py: listening on {reader.path}", file=sys.stderr, flush=True)
        while wakeup not in select.select([reader, wakeup], [], [])[0]:
            reader.dispatch()
        try:
            reader.stop(PATIENCE)
        finally:
            print("reader.py:", *(f"{k}={v}" for k, v in vars(reader.metrics()).items()), file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} SOCKET")
    try:
        main()
    except udsipc.Error as error:
        sys.exit(f"reader.py: {error}")
