"""Writes the messages of stream.plan(COUNT, SEED) to PATH and stops. Usage: pipe_writer.py PATH COUNT SEED"""

import sys

import orphan  # noqa: F401
import stream
from udsipc_capi import OK, STATUS_NAMES, Writer

path, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with Writer(path, start=True) as writer:
    stream.send_all(writer, count, seed)
    status = writer.stop(60_000)
    sys.exit(0 if status == OK else f"stop said {STATUS_NAMES[status]}, errors {writer.errors}")
