"""What the scenarios use of the C API: the declarations of the Python package, and two classes that hold a handle.

The classes return the library's status numbers unchanged, where those of the package raise: a test says itself which one it
expects.
"""

import atexit
import ctypes
import errno
import os
import sys
import threading
import time
from ctypes import byref, c_int32, c_size_t, c_uint32, c_uint64, c_void_p, sizeof

BINDING = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bindings", "python", "src")
sys.path.append(BINDING)

from udsipc._library import (  # noqa: E402 - its folder is known only now
    FUNCTIONS, BatchCallback, Buffer, ErrorCallback, MessageCallback, ReaderCounters, Status, WriterCounters,
    library as lib,
)

FOREVER = 2**64 - 1

STATUS = {"OK" if status == 0 else f"ERR_{status.name}": int(status) for status in Status}
globals().update(STATUS)
STATUS_NAMES = {number: name for name, number in STATUS.items()}

# Handles that live. They are kept here because their callbacks must outlive them, and are freed before the interpreter
# goes away, because a library thread that calls back into an interpreter that is being torn down never returns.
_live = set()


@atexit.register
def _free_all():
    for holder in list(_live):
        holder.free(check=False)


class _Metrics:
    def as_dict(self):
        return {name: getattr(self, name) for name, _ in self._fields_}

    def __repr__(self):
        return f"{type(self).__name__}({self.as_dict()})"


class WriterMetrics(_Metrics, WriterCounters):
    pass


class ReaderMetrics(_Metrics, ReaderCounters):
    pass


class UdsipcError(Exception):
    """A constructor or setter refused. `text` is udsipc_last_error_message."""

    def __init__(self, status, text=None):
        self.status = status
        self.text = last_error() if text is None else text
        super().__init__(f"{STATUS_NAMES.get(status, status)}: {self.text}")


def check(status):
    """Raises what a call refused."""
    if status != OK:  # noqa: F821
        raise UdsipcError(status)


def last_error():
    """This thread's last failure in full."""
    needed = lib.udsipc_last_error_message(None, 0)
    buffer = ctypes.create_string_buffer(needed + 1)
    lib.udsipc_last_error_message(buffer, needed + 1)
    return buffer.value.decode(errors="replace")


def strerror(status):
    return lib.udsipc_strerror(status).decode()


def resolve_socket_path(path):
    needed = c_size_t()
    buffer = ctypes.create_string_buffer(4096)
    check(lib.udsipc_resolve_socket_path(os.fsencode(path), buffer, len(buffer), byref(needed)))
    return os.fsdecode(buffer.value)


class ErrorRecord:
    """One call of an error callback."""

    def __init__(self, status, os_errno, context):
        self.status, self.os_errno, self.context = status, os_errno, context
        self.at = time.monotonic()

    def __repr__(self):
        name = errno.errorcode.get(self.os_errno, self.os_errno)
        return f"<{STATUS_NAMES.get(self.status, self.status)} {name} {self.context!r}>"


class _Holder:
    """What Writer and Reader share: callbacks kept alive, exceptions in callbacks kept for `free` to raise."""

    _free_name = None

    def __init__(self):
        self.handle = None
        self.errors = []
        self.exceptions = []
        self._callbacks = []
        self._on_error = None

    def _keep(self, callback):
        self._callbacks.append(callback)
        return ctypes.cast(callback, c_void_p)

    def _error_callback(self):
        def on_error(status, os_errno, context, _userdata):
            try:
                record = ErrorRecord(status, os_errno, context.decode())
                self.errors.append(record)
                if self._on_error is not None:
                    self._on_error(record)
            except BaseException as error:  # noqa: BLE001 - nothing may leave a callback
                self.exceptions.append(error)

        return self._keep(ErrorCallback(on_error))

    def _set_options(self, prefix, options, values):
        for name, value in values.items():
            verb = "" if name.startswith("allow_") else "set_"
            setter = getattr(lib, f"{prefix}{verb}{name}")
            for one in value if isinstance(value, list) else [value]:
                check(setter(options, one.encode() if isinstance(one, str) else one))

    def contexts(self):
        return [record.context for record in self.errors]

    def statuses(self):
        return [record.status for record in self.errors]

    def free(self, check=True):
        if self.handle is not None:
            # Callbacks may run up to the end of this call, and may use the handle.
            getattr(lib, self._free_name)(self.handle)
            self.handle = None
            _live.discard(self)
        self._callbacks.clear()
        if check and self.exceptions:
            raise self.exceptions[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.free()


class Writer(_Holder):
    """A writer handle. Options are the names of the setters: `max_buffered_writes=5`."""

    _free_name = "udsipc_writer_free"

    def __init__(self, path, on_error=None, start=False, **values):
        super().__init__()
        self._on_error = on_error
        options = lib.udsipc_writer_options_new()
        try:
            self._set_options("udsipc_writer_options_", options, values)
            check(lib.udsipc_writer_options_set_error_callback(options, self._error_callback(), None))
            handle = c_void_p()
            check(lib.udsipc_writer_new(os.fsencode(path), options, byref(handle)))
        finally:
            lib.udsipc_writer_options_free(options)
        self.handle = handle
        _live.add(self)
        if start:
            check(self.start())

    def start(self):
        return lib.udsipc_writer_start(self.handle)

    def write(self, data):
        return lib.udsipc_write_message(self.handle, data, len(data))

    def write_timeout(self, data, timeout_ms):
        return lib.udsipc_write_message_timeout(self.handle, data, len(data), timeout_ms)

    def write_many(self, messages):
        """Returns (status, how many were accepted)."""
        array = (Buffer * len(messages))(*[
            Buffer(ctypes.cast(ctypes.c_char_p(message), c_void_p), len(message)) for message in messages
        ])
        accepted = c_size_t(2**63)
        status = lib.udsipc_write_messages(self.handle, array, len(messages), byref(accepted))
        return status, accepted.value

    def flush(self, timeout_ms):
        return lib.udsipc_writer_flush(self.handle, timeout_ms)

    def stop(self, timeout_ms):
        return lib.udsipc_writer_stop(self.handle, timeout_ms)

    def metrics(self):
        out = WriterMetrics()
        check(lib.udsipc_writer_get_metrics(self.handle, byref(out), sizeof(out)))
        return out

    def socket_path(self):
        return os.fsdecode(lib.udsipc_writer_socket_path(self.handle))

    def is_connected(self):
        return bool(lib.udsipc_writer_is_connected(self.handle))

    def fd(self):
        return lib.udsipc_writer_fd(self.handle)

    def dispatch(self, timeout_ms=0):
        return lib.udsipc_writer_dispatch(self.handle, timeout_ms)


class Connection:
    """A udsipc_connection, usable during the callback only."""

    def __init__(self, pointer):
        self._pointer = pointer

    @property
    def id(self):
        return lib.udsipc_connection_id(self._pointer)

    @property
    def sequence(self):
        return lib.udsipc_message_sequence(self._pointer)

    def writer_id(self):
        """16 bytes, or the status of a refusal."""
        id = ctypes.create_string_buffer(16)
        status = lib.udsipc_connection_writer_id(self._pointer, id)
        return id.raw if status == 0 else status

    def credentials(self):
        pid, uid, gid = c_int32(), c_uint32(), c_uint32()
        check(lib.udsipc_connection_credentials(self._pointer, byref(pid), byref(uid), byref(gid)))
        return pid.value, uid.value, gid.value


class Reader(_Holder):
    """A reader handle. Without a callback of its own it keeps what it receives in `messages`.

    on_message(bytes, Connection) returns None or 0 for success, anything else for failure.
    on_batch(list of bytes, Connection) returns how many were handled well, None for all of them.
    on_raw_batch(addresses and lengths as one flat list) is the quick way: nothing is copied.
    """

    _free_name = "udsipc_reader_free"

    def __init__(self, path, on_message=None, on_batch=None, on_raw_batch=None, on_error=None, start=False, **values):
        super().__init__()
        self.messages = []
        self._on_error = on_error
        self._lock = threading.Lock()
        if on_batch is not None or on_raw_batch is not None:
            create, callback = lib.udsipc_reader_new_batched, self._batch_callback(on_batch, on_raw_batch)
        else:
            create, callback = lib.udsipc_reader_new, self._message_callback(on_message)
        options = lib.udsipc_reader_options_new()
        try:
            self._set_options("udsipc_reader_options_", options, values)
            check(lib.udsipc_reader_options_set_error_callback(options, self._error_callback(), None))
            handle = c_void_p()
            check(create(os.fsencode(path), callback, None, options, byref(handle)))
        finally:
            lib.udsipc_reader_options_free(options)
        self.handle = handle
        _live.add(self)
        if start:
            check(self.start())

    def _message_callback(self, on_message):
        def call(data, length, connection, _userdata):
            try:
                message = ctypes.string_at(data, length)
                if on_message is None:
                    self.messages.append(message)
                    return 0
                return on_message(message, Connection(connection)) or 0
            except BaseException as error:  # noqa: BLE001
                self.exceptions.append(error)
                return 1

        return self._keep(MessageCallback(call))

    def _batch_callback(self, on_batch, on_raw_batch):
        def call(messages, count, connection, _userdata):
            try:
                flat = (c_uint64 * (2 * count)).from_address(messages)[:]
                if on_raw_batch is not None:
                    handled = on_raw_batch(flat)
                else:
                    batch = [ctypes.string_at(flat[2 * i], flat[2 * i + 1]) for i in range(count)]
                    handled = on_batch(batch, Connection(connection))
                return count if handled is None else handled
            except BaseException as error:  # noqa: BLE001
                self.exceptions.append(error)
                return 0

        return self._keep(BatchCallback(call))

    def start(self):
        return lib.udsipc_reader_start(self.handle)

    def stop(self, timeout_ms):
        return lib.udsipc_reader_stop(self.handle, timeout_ms)

    def metrics(self):
        out = ReaderMetrics()
        check(lib.udsipc_reader_get_metrics(self.handle, byref(out), sizeof(out)))
        return out

    def socket_path(self):
        return os.fsdecode(lib.udsipc_reader_socket_path(self.handle))

    def describe(self):
        needed = lib.udsipc_reader_describe(self.handle, None, 0)
        buffer = ctypes.create_string_buffer(needed + 1)
        lib.udsipc_reader_describe(self.handle, buffer, needed + 1)
        return buffer.value.decode(errors="replace")

    def fd(self):
        return lib.udsipc_reader_fd(self.handle)

    def dispatch(self, timeout_ms=0):
        return lib.udsipc_reader_dispatch(self.handle, timeout_ms)
