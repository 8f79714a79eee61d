"""libudsipc for Python through ctypes: the part of the C API that reader.py and writer.py use. Copy and extend it.

Every function gets its argument and result types: without them ctypes cuts pointers to 32 bits.
"""

import ctypes
import os
import traceback
import weakref
from ctypes import CFUNCTYPE, POINTER, byref, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p

# By soname, so that the dynamic linker finds the version this file was written for; a path for an uninstalled build.
_library = ctypes.CDLL(os.environ.get("UDSIPC_LIBRARY", "libudsipc.so.0"))


class Buffer(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("len", c_size_t)]


BatchCallback = CFUNCTYPE(c_size_t, POINTER(Buffer), c_size_t, c_void_p, c_void_p)
ErrorCallback = CFUNCTYPE(None, c_int32, c_int32, c_char_p, c_void_p)


class Error(Exception):
    """A status other than UDSIPC_OK, with the library's text of what happened."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class _Metrics(ctypes.Structure):
    def as_dict(self):
        return {name: getattr(self, name) for name, _ in self._fields_}


class WriterMetrics(_Metrics):
    _fields_ = [
        (name, c_uint64)
        for name in (
            "sent dropped failed queue_depth queue_bytes sent_bytes retried abandoned suspected_lost connections "
            "connect_failures"
        ).split()
    ]


class ReaderMetrics(_Metrics):
    _fields_ = [
        (name, c_uint64)
        for name in (
            "received connections errors active_connections received_bytes accept_errors idle_closed refused"
        ).split()
    ]


def _last_error(status):
    """The whole story of this thread's last failure; inside an error callback, of the error that it is told."""
    text = ctypes.create_string_buffer(512)
    told = text.value if _last_error_message(text, len(text)) > 0 else _strerror(status)
    return told.decode(errors="replace")


def _raise_failure(status, function, arguments):
    if status != 0:
        raise Error(status, _last_error(status))
    return status


def _function(name, result, *arguments):
    function = getattr(_library, "udsipc_" + name)
    function.restype = result
    function.argtypes = arguments
    return function


def _checked(name, *arguments):
    """A function that returns a status: ctypes calls errcheck after each call, so that none goes unchecked."""
    function = _function(name, c_int, *arguments)
    function.errcheck = _raise_failure
    return function


_strerror = _function("strerror", c_char_p, c_int32)
_last_error_message = _function("last_error_message", c_size_t, c_char_p, c_size_t)

_writer_options_new = _function("writer_options_new", c_void_p)
_writer_options_free = _function("writer_options_free", None, c_void_p)
_writer_set_drain = _checked("writer_options_set_drain_until_deadline", c_void_p, c_int32)
_writer_set_on_error = _checked("writer_options_set_error_callback", c_void_p, ErrorCallback, c_void_p)
_writer_new = _checked("writer_new", c_char_p, c_void_p, POINTER(c_void_p))
_writer_start = _checked("writer_start", c_void_p)
_write_message_timeout = _checked("write_message_timeout", c_void_p, c_char_p, c_size_t, c_uint64)
_writer_flush = _checked("writer_flush", c_void_p, c_uint64)
_writer_stop = _checked("writer_stop", c_void_p, c_uint64)
_writer_get_metrics = _checked("writer_get_metrics", c_void_p, POINTER(WriterMetrics), c_size_t)
_writer_free = _function("writer_free", None, c_void_p)

_reader_options_new = _function("reader_options_new", c_void_p)
_reader_options_free = _function("reader_options_free", None, c_void_p)
_reader_set_mode = _checked("reader_options_set_socket_mode", c_void_p, c_uint32)
_reader_set_on_error = _checked("reader_options_set_error_callback", c_void_p, ErrorCallback, c_void_p)
_reader_new = _checked("reader_new_batched", c_char_p, BatchCallback, c_void_p, c_void_p, POINTER(c_void_p))
_reader_fd = _function("reader_fd", c_int32, c_void_p)
_reader_dispatch = _checked("reader_dispatch", c_void_p, c_uint64)
_reader_stop = _checked("reader_stop", c_void_p, c_uint64)
_reader_get_metrics = _checked("reader_get_metrics", c_void_p, POINTER(ReaderMetrics), c_size_t)
_reader_socket_path = _function("reader_socket_path", c_char_p, c_void_p)
_reader_free = _function("reader_free", None, c_void_p)


def _error_callback(on_error):
    def call(status, _os_errno, context, _userdata):
        on_error(Error(status, f"{context.decode()}: {_last_error(status)}"))

    return ErrorCallback(call)


def _batch_callback(on_messages):
    def call(buffers, count, _connection, _userdata):
        # An exception cannot cross the C library. 0 means that the first message failed: it is counted and reported,
        # and the others are given again.
        try:
            on_messages([ctypes.string_at(buffer.data, buffer.len) for buffer in buffers[:count]])
            return count
        except Exception:
            traceback.print_exc()
            return 0

    return BatchCallback(call)


def _free_with(owner, free, handle, *callbacks):
    """Frees the handle when its owner is closed, or at the latest when the interpreter ends: a callback that the library
    makes into an interpreter that is gone ends the process. ctypes frees a callback object that nobody refers to, so they
    live as long as the handle. An owner that is forgotten is freed too, unless its own callback refers to it."""
    return weakref.finalize(owner, lambda *_: free(handle), callbacks)


class Writer:
    """with Writer(path) as writer: writer.write(b"...")"""

    def __init__(self, path, on_error=None):
        self._handle = c_void_p()
        on_error = _error_callback(on_error) if on_error else ErrorCallback()
        options = _writer_options_new()
        try:
            _writer_set_drain(options, 1)
            _writer_set_on_error(options, on_error, None)
            _writer_new(os.fsencode(path), options, byref(self._handle))
        finally:
            _writer_options_free(options)
        self._free = _free_with(self, _writer_free, self._handle, on_error)

    def start(self):
        _writer_start(self._handle)

    def write(self, message, timeout_ms=10_000):
        """Waits while the queue is full, at most timeout_ms; raises Error with status TIMEOUT after that."""
        _write_message_timeout(self._handle, message, len(message), timeout_ms)

    def flush(self, timeout_ms):
        _writer_flush(self._handle, timeout_ms)

    def stop(self, timeout_ms):
        _writer_stop(self._handle, timeout_ms)

    def metrics(self):
        metrics = WriterMetrics()
        _writer_get_metrics(self._handle, byref(metrics), ctypes.sizeof(metrics))
        return metrics.as_dict()

    def close(self):
        self._handle = c_void_p()  # first: no other thread begins a call with what is being freed
        self._free()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.close()


class Reader:
    """A reader without threads of its own: wait until fileno() is readable, then dispatch().

    That suits Python in more than one way: on_messages(list of bytes) runs in the thread that dispatches, so it needs
    no locks; no foreign thread has to become a Python thread for each call, which is slow; and none can call into an
    interpreter that has ended. With asyncio: loop.add_reader(reader.fileno(), reader.dispatch).
    """

    def __init__(self, path, on_messages, on_error=None):
        self._handle = c_void_p()
        on_messages = _batch_callback(on_messages)
        on_error = _error_callback(on_error) if on_error else ErrorCallback()
        options = _reader_options_new()
        try:
            _reader_set_mode(options, 0o600)
            _reader_set_on_error(options, on_error, None)
            _reader_new(os.fsencode(path), on_messages, None, options, byref(self._handle))
        finally:
            _reader_options_free(options)
        self._free = _free_with(self, _reader_free, self._handle, on_messages, on_error)

    @property
    def path(self):
        return os.fsdecode(_reader_socket_path(self._handle))

    def fileno(self):
        return _reader_fd(self._handle)

    def dispatch(self, timeout_ms=0):
        _reader_dispatch(self._handle, timeout_ms)

    def stop(self, timeout_ms):
        """Takes what writers have already sent, and ends; the last callbacks run inside this call."""
        _reader_stop(self._handle, timeout_ms)

    def metrics(self):
        metrics = ReaderMetrics()
        _reader_get_metrics(self._handle, byref(metrics), ctypes.sizeof(metrics))
        return metrics.as_dict()

    def close(self):
        self._handle = c_void_p()  # first: no other thread begins a call with what is being freed
        self._free()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
