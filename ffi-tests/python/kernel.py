"""A kernel that lacks something, for the calling process and its later threads: system calls that fail, /proc not mounted.

Both are for good, so they are meant for a child of the test (`import kernel` in it).
"""

import ctypes
import os
import platform
import struct

_NUMBERS = {
    "x86_64": {"inotify_init1": 294, "fchmodat2": 452, "flock": 73},
    "aarch64": {"inotify_init1": 26, "fchmodat2": 452, "flock": 32},
}.get(platform.machine(), {})

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2
_LOAD_NUMBER, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x00020000, 0x4000, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class _Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def can_refuse():
    """Whether the numbers of the system calls are known."""
    return bool(_NUMBERS)


def refuse(**calls):
    """Makes system calls fail: `refuse(flock=errno.ENOLCK)` (seccomp(2))."""
    code = [struct.pack("HBBI", _LOAD_NUMBER, 0, 0, 0)]
    for name, errno in calls.items():
        code.append(struct.pack("HBBI", _JUMP_IF_EQUAL, 0, 1, _NUMBERS[name]))
        code.append(struct.pack("HBBI", _RETURN, 0, 0, _ERRNO | errno))
    code.append(struct.pack("HBBI", _RETURN, 0, 0, _ALLOW))
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    program = _Program(len(code), b"".join(code))
    _check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0))


def hide_proc():
    """Puts an empty directory over /proc (mount_namespaces(7))."""
    _check(_libc.unshare(_CLONE_NEWNS))
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
    _check(_libc.mount(b"none", b"/proc", b"tmpfs", 0, None))
