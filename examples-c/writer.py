#!/usr/bin/env python3
"""Sends every line of standard input as one message: writer.py SOCKET < FILE. The twin of writer.c.

Ends at the end of the input, or at SIGINT or SIGTERM, and leaves only when the reader has everything or PATIENCE has passed.
Needs the package: pip install bindings/python
"""

import os
import select
import signal
import sys

import udsipc

PATIENCE = 10.0


def catch_signals():
    """A descriptor that becomes readable at SIGINT or SIGTERM.

    Python runs a handler only between two instructions of its own, so a signal just before a blocking read would wait
    for the next input; the descriptor is written at once.
    """
    wakeup, signalled = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(signalled)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    return wakeup


def lines(source, wakeup):
    rest = b""
    while wakeup not in select.select([source, wakeup], [], [])[0]:
        chunk = os.read(source, 65536)
        if not chunk:
            if rest:
                yield rest
            return
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole


def on_error(error):
    print(f"writer.py: {error}", file=sys.stderr)


def main():
    wakeup = catch_signals()
    with udsipc.Writer(sys.argv[1], on_error=on_error, drain_until_deadline=True) as writer:
        try:
            for line in lines(sys.stdin.fileno(), wakeup):
                writer.write(line, PATIENCE)
            try:
                writer.flush(PATIENCE)  # the reader has handled everything, or read it, if it does not acknowledge
            finally:
                writer.stop(PATIENCE)  # everything went out, and the thread is gone
        finally:
            print("writer.py:", *(f"{k}={v}" for k, v in vars(writer.metrics()).items()), file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} SOCKET < FILE")
    try:
        main()
    except udsipc.Error as error:
        sys.exit(f"writer.py: {error}")
