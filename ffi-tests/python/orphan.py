"""Imported by every worker script: it ends when the test that started it does, however that ends."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1

# Here and not in a preexec_fn of the parent: between fork and exec of a process with threads, no lock can be trusted.
ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() != int(os.environ["UDSIPC_TEST_PARENT"]):
    os._exit(1)
