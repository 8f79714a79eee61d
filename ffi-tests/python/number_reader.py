"""Reads numbered messages at PATH and appends to LOG, before the callback returns, which ones it was given.

A record is two 64-bit numbers, first and last of a run, so that a kill never leaves half of one. Ends in order when its
standard input ends. Usage: number_reader.py PATH LOG SECONDS_PER_MESSAGE
"""

import ctypes
import os
import struct
import sys
import time

import orphan  # noqa: F401
import stream
from udsipc_capi import OK, STATUS_NAMES, Reader

path, log, delay = sys.argv[1], sys.argv[2], float(sys.argv[3])
records = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def runs(numbers):
    first = last = numbers[0]
    for number in numbers[1:]:
        if number != last + 1:
            yield first, last
            first = number
        last = number
    yield first, last


def on_raw_batch(flat):
    numbers = [stream.number_of(ctypes.string_at(pointer, 8)) for pointer in flat[::2]]
    for run in runs(numbers):
        os.write(records, struct.pack("<QQ", *run))


def on_message(message, _connection):
    number = stream.number_of(message)
    os.write(records, struct.pack("<QQ", number, number))
    time.sleep(delay)


callback = {"on_message": on_message} if delay else {"on_raw_batch": on_raw_batch}
with Reader(path, start=True, **callback) as reader:
    print("ready", flush=True)
    sys.stdin.read()
    status = reader.stop(30_000)
    sys.exit(0 if status == OK else f"stop said {STATUS_NAMES[status]}")
