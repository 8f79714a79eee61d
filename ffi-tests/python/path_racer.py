"""Creates a reader at PATH each time that it is told to, and says what came of it.

Usage: path_racer.py PATH. Each line on standard input is a round: it names the monotonic time at which to start. The
answer is the status. A reader that was made is freed when the next line comes, so that the round's loser meets it.
"""

import sys
import time

import orphan  # noqa: F401
from udsipc_capi import OK, Reader, UdsipcError

for line in iter(sys.stdin.readline, ""):
    begin = float(line)
    while time.monotonic() < begin:
        pass
    reader, status = None, OK
    try:
        reader = Reader(sys.argv[1])
    except UdsipcError as error:
        status = error.status
    print(status, flush=True)
    sys.stdin.readline()
    if reader is not None:
        reader.free()
    print("freed", flush=True)
