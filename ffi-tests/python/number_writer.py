"""Writes numbered messages to PATH until its standard input ends, stops, and prints its metrics as JSON.

Usage: number_writer.py PATH PAUSE_SECONDS LENGTH [OPTION=VALUE ...]
A pause is kept between two messages; without one, messages are written as fast as the queue takes them.
"""

import json
import sys
import threading
import time

import orphan  # noqa: F401
import stream
from udsipc_capi import OK, Writer

path, pause, length = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
options = {name: int(value) for name, value in (argument.split("=") for argument in sys.argv[4:])}
told_to_end = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), told_to_end.set()), daemon=True).start()

accepted = 0
with Writer(path, start=True, **options) as writer:
    while not told_to_end.is_set():
        if writer.write_timeout(stream.numbered(accepted, length), 100) == OK:
            accepted += 1
        if pause:
            time.sleep(pause)
    stopped = writer.stop(30_000)
    result = {"accepted": accepted, "stopped": stopped, **writer.metrics().as_dict()}
    result["errors"] = [repr(record) for record in writer.errors[:20]]
print(json.dumps(result), flush=True)
