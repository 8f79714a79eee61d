"""libudsipc through ctypes: every function of udsipc.h with its types. Private: the package's classes are the interface.

`library.udsipc_...` is a function of C as it is. Without its types ctypes would cut pointers to 32 bits.
"""

from __future__ import annotations

import ctypes
import enum
import os
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

# The oldest library that has all that the package uses.
OLDEST = (0, 1, 0)
SONAME = "libudsipc.so.0"
FOREVER = 2**64 - 1


class Status(enum.IntEnum):
    """udsipc_status: UDSIPC_OK, UDSIPC_ERR_NULL_POINTER and so on."""

    OK = 0
    NULL_POINTER = 1
    INVALID_ARGUMENT = 2
    INVALID_SOCKET_PATH = 3
    INVALID_TIMEOUT = 4
    INVALID_BUFFER_SIZE = 5
    HANDLER_NULL = 6
    MAX_ACCEPT_ERRORS_TOO_LARGE = 7
    WOULD_DEADLOCK = 8
    FORKED = 9
    WRONG_STATE = 10
    BUFFER_FULL = 20
    STOPPED = 21
    MESSAGE_TOO_LARGE = 22
    TIMEOUT = 23
    BACKPRESSURE = 24
    NO_CONSUMER = 25
    NOT_CONNECTED = 26
    CONNECTION_CLOSED = 27
    UNDELIVERED = 28
    NOT_ACKNOWLEDGED = 29
    IO = 40
    INVALID_LENGTH_PREFIX = 41
    HANDLER_FAILED = 42
    ADDRESS_IN_USE = 43
    PERMISSION_DENIED = 44
    SYSTEMD = 45
    NO_RESOURCES = 46
    SOCKET_GONE = 47
    PANIC = 90



class Buffer(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("len", c_size_t)]


class WriterCounters(ctypes.Structure):
    _fields_ = [
        (name, c_uint64)
        for name in (
            "sent dropped failed queue_depth queue_bytes sent_bytes retried abandoned suspected_lost connections "
            "connect_failures acknowledged redelivered ring_bytes"
        ).split()
    ]


class ReaderCounters(ctypes.Structure):
    _fields_ = [
        (name, c_uint64)
        for name in (
            "received connections errors active_connections received_bytes accept_errors idle_closed refused relistened"
        ).split()
    ]


# The array of messages comes as an address: what ctypes makes of a pointer type costs more than reading it.
MessageCallback = CFUNCTYPE(c_int32, c_void_p, c_size_t, c_void_p, c_void_p)
BatchCallback = CFUNCTYPE(c_size_t, c_void_p, c_size_t, c_void_p, c_void_p)
ErrorCallback = CFUNCTYPE(None, c_int32, c_int32, c_char_p, c_void_p)

_handle = c_void_p
_options = c_void_p
_out_handle = POINTER(c_void_p)

# (result, arguments). A status is a C enum, which is an int. A callback is declared as c_void_p, which takes an object of the
# callback types above, and None.
FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "udsipc_strerror": (c_char_p, [c_int32]),
    "udsipc_last_error_message": (c_size_t, [c_void_p, c_size_t]),
    "udsipc_version": (c_char_p, []),
    "udsipc_connection_id": (c_uint64, [c_void_p]),
    "udsipc_connection_writer_id": (c_int, [c_void_p, c_void_p]),
    "udsipc_message_sequence": (c_uint64, [c_void_p]),
    "udsipc_connection_credentials": (c_int, [c_void_p, POINTER(c_int32), POINTER(c_uint32), POINTER(c_uint32)]),
    "udsipc_writer_options_new": (c_void_p, []),
    "udsipc_writer_options_free": (None, [_options]),
    "udsipc_writer_options_set_max_buffered_writes": (c_int, [_options, c_uint32]),
    "udsipc_writer_options_set_max_buffered_bytes": (c_int, [_options, c_uint64]),
    "udsipc_writer_options_set_max_message_size": (c_int, [_options, c_uint64]),
    "udsipc_writer_options_set_write_timeout_ms": (c_int, [_options, c_uint64]),
    "udsipc_writer_options_set_dial_timeout_ms": (c_int, [_options, c_uint64]),
    "udsipc_writer_options_set_max_backoff_ms": (c_int, [_options, c_uint64]),
    "udsipc_writer_options_set_write_buffer_size": (c_int, [_options, c_uint32]),
    "udsipc_writer_options_set_max_attempts": (c_int, [_options, c_uint32]),
    "udsipc_writer_options_set_drain_until_deadline": (c_int, [_options, c_int32]),
    "udsipc_writer_options_set_linger_ms": (c_int, [_options, c_uint64]),
    "udsipc_writer_options_set_acknowledge": (c_int, [_options, c_int32]),
    "udsipc_writer_options_set_redeliver": (c_int, [_options, c_int32]),
    "udsipc_writer_options_set_error_callback": (c_int, [_options, c_void_p, c_void_p]),
    "udsipc_writer_new": (c_int, [c_char_p, _options, _out_handle]),
    "udsipc_writer_start": (c_int, [_handle]),
    "udsipc_write_message": (c_int, [_handle, c_char_p, c_size_t]),
    "udsipc_write_message_timeout": (c_int, [_handle, c_char_p, c_size_t, c_uint64]),
    "udsipc_write_messages": (c_int, [_handle, c_void_p, c_size_t, POINTER(c_size_t)]),
    "udsipc_writer_flush": (c_int, [_handle, c_uint64]),
    "udsipc_writer_stop": (c_int, [_handle, c_uint64]),
    "udsipc_writer_get_metrics": (c_int, [_handle, POINTER(WriterCounters), c_size_t]),
    "udsipc_writer_metrics_prometheus": (c_size_t, [_handle, c_char_p, c_void_p, c_size_t]),
    "udsipc_writer_describe": (c_size_t, [_handle, c_void_p, c_size_t]),
    "udsipc_writer_socket_path": (c_char_p, [_handle]),
    "udsipc_writer_is_connected": (c_int32, [_handle]),
    "udsipc_writer_free": (None, [_handle]),
    "udsipc_writer_fd": (c_int32, [_handle]),
    "udsipc_writer_dispatch": (c_int, [_handle, c_uint64]),
    "udsipc_reader_options_new": (c_void_p, []),
    "udsipc_reader_options_free": (None, [_options]),
    "udsipc_reader_options_set_max_message_size": (c_int, [_options, c_uint64]),
    "udsipc_reader_options_set_inactivity_timeout_ms": (c_int, [_options, c_uint64]),
    "udsipc_reader_options_set_max_accept_errors": (c_int, [_options, c_uint32]),
    "udsipc_reader_options_set_read_buffer_size": (c_int, [_options, c_uint32]),
    "udsipc_reader_options_set_max_handler_threads": (c_int, [_options, c_uint32]),
    "udsipc_reader_options_set_callback_stack_size": (c_int, [_options, c_uint64]),
    "udsipc_reader_options_set_max_connections": (c_int, [_options, c_uint32]),
    "udsipc_reader_options_set_max_shared_memory": (c_int, [_options, c_uint64]),
    "udsipc_reader_options_set_socket_mode": (c_int, [_options, c_uint32]),
    "udsipc_reader_options_set_socket_group": (c_int, [_options, c_uint32]),
    "udsipc_reader_options_allow_uid": (c_int, [_options, c_uint32]),
    "udsipc_reader_options_allow_gid": (c_int, [_options, c_uint32]),
    "udsipc_reader_options_set_listen_fd_name": (c_int, [_options, c_char_p]),
    "udsipc_reader_options_set_listen_fd": (c_int, [_options, c_int32]),
    "udsipc_reader_options_set_linger_ms": (c_int, [_options, c_uint64]),
    "udsipc_reader_options_set_use_systemd": (c_int, [_options, c_int32]),
    "udsipc_reader_options_set_error_callback": (c_int, [_options, c_void_p, c_void_p]),
    "udsipc_reader_new": (c_int, [c_char_p, c_void_p, c_void_p, _options, _out_handle]),
    "udsipc_reader_new_batched": (c_int, [c_char_p, c_void_p, c_void_p, _options, _out_handle]),
    "udsipc_reader_start": (c_int, [_handle]),
    "udsipc_reader_stop": (c_int, [_handle, c_uint64]),
    "udsipc_reader_get_metrics": (c_int, [_handle, POINTER(ReaderCounters), c_size_t]),
    "udsipc_reader_metrics_prometheus": (c_size_t, [_handle, c_char_p, c_void_p, c_size_t]),
    "udsipc_reader_socket_path": (c_char_p, [_handle]),
    "udsipc_reader_free": (None, [_handle]),
    "udsipc_reader_fd": (c_int32, [_handle]),
    "udsipc_reader_dispatch": (c_int, [_handle, c_uint64]),
    "udsipc_reader_describe": (c_size_t, [_handle, c_void_p, c_size_t]),
    "udsipc_max_socket_path_length": (c_size_t, []),
    "udsipc_resolve_socket_path": (c_int, [c_char_p, c_void_p, c_size_t, POINTER(c_size_t)]),
    "udsipc_ensure_socket_dir": (c_int, [c_char_p]),
    "udsipc_cleanup_socket": (c_int, [c_char_p]),
    "udsipc_systemd_is_active": (c_int32, []),
    "udsipc_systemd_runtime_dir": (c_char_p, []),
    "udsipc_systemd_state_dir": (c_char_p, []),
    "udsipc_systemd_notify": (c_int, [c_char_p]),
}


def _path() -> str:
    """UDSIPC_LIBRARY, or the library that the wheel has brought along, or an installed one."""
    if given := os.environ.get("UDSIPC_LIBRARY"):
        return given
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libudsipc.so")
    return beside if os.path.exists(beside) else SONAME


def load(path: str) -> tuple[ctypes.CDLL, str]:
    """The library with all types declared, and its version."""
    try:
        loaded = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(
            f"libudsipc cannot be loaded ({error}). Install the wheel of udsipc, which has it, or install libudsipc, or set "
            "UDSIPC_LIBRARY to the path of libudsipc.so"
        ) from error
    try:
        loaded.udsipc_version.restype = c_char_p
        version: str = loaded.udsipc_version().decode()
    except AttributeError:
        raise ImportError(f"{path} is not libudsipc") from None
    oldest = ".".join(map(str, OLDEST))
    if tuple(int(number) for number in version.split("-")[0].split(".")) < OLDEST:
        raise ImportError(f"{path} is libudsipc {version}, which is too old: udsipc for Python needs {oldest} or newer")
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded, version


library, version = load(_path())
