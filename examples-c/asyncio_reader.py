#!/usr/bin/env python3
"""Prints every message as one line: asyncio_reader.py SOCKET. A reader inside an asyncio loop, without a thread.

The loop watches the reader's descriptor and calls dispatch, in which the callback runs: a message counts as handled when the
callback has returned, so none is lost when this process is killed. `udsipc.aio.Reader` is more convenient, for programs that may
lose what they have taken in and not processed. Runs until SIGINT or SIGTERM. Needs the package: pip install bindings/python
"""

import asyncio
import signal
import sys

import udsipc

PATIENCE = 5.0


def on_batch(messages, _connection):
    # Flushed before it returns: the lines are out of this process before the messages count as handled.
    sys.stdout.buffer.write(b"\n".join(messages) + b"\n")
    sys.stdout.buffer.flush()


def on_error(error):
    print(f"asyncio_reader.py: {error}", file=sys.stderr)


async def main():
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    with udsipc.Reader(sys.argv[1], on_batch=on_batch, on_error=on_error) as reader:
        print(f"asyncio_reader.py: listening on {reader.path}", file=sys.stderr, flush=True)
        loop.add_reader(reader.fileno(), reader.dispatch)
        await ended.wait()
        loop.remove_reader(reader.fileno())
        reader.stop(PATIENCE)
        metrics = reader.metrics()
    print(f"asyncio_reader.py: received={metrics.received} errors={metrics.errors}", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} SOCKET")
    try:
        asyncio.run(main())
    except udsipc.Error as error:
        sys.exit(f"asyncio_reader.py: {error}")
