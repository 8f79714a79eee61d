"""Messages on their way between Python's memory and C's."""

from __future__ import annotations

import ctypes
import sys
from array import array
from ctypes import POINTER, byref, c_char_p, c_int, c_ssize_t, c_void_p, py_object, string_at
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Callable, Final, NamedTuple, Sequence, TypeVar, Union

from ._library import Buffer, library

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

Message: TypeAlias = "Union[bytes, bytearray, memoryview]"
T = TypeVar("T")

# Of pointers and sizes: unsigned long, on every Linux.
WORD: Final = "L"
# Bytes, of the smallest page of any machine.
PAGE = 4096

# From this mean size on, in bytes, copying the messages of a batch together costs more than a call for each.
LARGE = 4096


class _PyBuffer(ctypes.Structure):
    """Py_buffer of CPython, as it has been since 3.0."""

    _fields_ = [
        ("buf", c_void_p),
        ("obj", c_void_p),
        ("len", c_ssize_t),
        ("itemsize", c_ssize_t),
        ("readonly", c_int),
        ("ndim", c_int),
        ("format", c_void_p),
        ("shape", c_void_p),
        ("strides", c_void_p),
        ("suboffsets", c_void_p),
        ("internal", c_void_p),
    ]


_has_buffers = sys.implementation.name == "cpython"
if _has_buffers:
    _get_buffer = ctypes.pythonapi.PyObject_GetBuffer
    _get_buffer.argtypes, _get_buffer.restype = [py_object, POINTER(_PyBuffer), c_int], c_int
    _release_buffer = ctypes.pythonapi.PyBuffer_Release
    _release_buffer.argtypes, _release_buffer.restype = [POINTER(_PyBuffer)], None


def with_buffer(message: object, call: Callable[[Any, int], T]) -> T:
    """What `call(address, length)` returns. The message is not copied, unless its bytes do not lie in one piece."""
    if isinstance(message, bytes):
        return call(message, len(message))
    try:
        view = memoryview(message)  # type: ignore[arg-type]
    except TypeError:
        raise wrong_type(message) from None
    with view:
        if not (_has_buffers and view.c_contiguous):
            copy = view.tobytes()
            return call(copy, len(copy))
        buffer = _PyBuffer()
        _get_buffer(view, byref(buffer), 0)
        try:
            return call(buffer.buf, buffer.len)
        finally:
            _release_buffer(byref(buffer))


def wrong_type(message: object) -> TypeError:
    hint = ": encode it first, as in text.encode()" if isinstance(message, str) else ""
    return TypeError(f"a message is bytes, bytearray or memoryview, not {type(message).__name__}{hint}")


def sized(messages: list[Any]) -> tuple[list[Any], float]:
    """The messages, and their mean size as far as it matters here."""
    try:
        size = sum(map(len, messages))
    except TypeError:
        messages = [_in_one_piece(message) for message in messages]
        size = sum(map(len, messages))
    return messages, size / len(messages)


def _in_one_piece(message: Any) -> Any:
    if isinstance(message, (bytes, bytearray)):
        return message
    try:
        return memoryview(message).tobytes()
    except TypeError:
        raise wrong_type(message) from None


class Gathered:
    """Many small messages as an array of udsipc_buffer, made without a step of Python for each.

    They are copied together, since that takes a fraction of what it costs to ask each for its address.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        try:
            joined = b"".join(messages)
        except (TypeError, BufferError):
            messages = [_in_one_piece(message) for message in messages]
            joined = b"".join(messages)
        lengths = array(WORD, map(len, messages))
        if sum(lengths) != len(joined):  # a view of larger items, or a bytearray that another thread has just resized
            pieces = [bytes(memoryview(message)) for message in messages]
            joined, lengths = b"".join(pieces), array(WORD, map(len, pieces))
        self._joined = joined
        self.buffers = array(WORD, bytes(ctypes.sizeof(Buffer) * len(lengths)))
        first = ctypes.cast(c_char_p(joined), c_void_p).value or 0
        self.buffers[0::2] = array(WORD, accumulate(lengths[:-1], initial=first))
        self.buffers[1::2] = lengths
        self.count = len(lengths)

    def address(self, index: int) -> int:
        return self.buffers.buffer_info()[0] + index * ctypes.sizeof(Buffer)

    def message(self, index: int) -> tuple[int, int]:
        """Where it lies, and its length."""
        return self.buffers[2 * index], self.buffers[2 * index + 1]


def split(address: int, count: int) -> list[bytes]:
    """The messages of an array of udsipc_buffer."""
    if count == 1:
        one = Buffer.from_address(address)
        return [string_at(one.data, one.len)]
    flat = memoryview(string_at(address, count * ctypes.sizeof(Buffer))).cast(WORD).tolist()
    starts, lengths = flat[0::2], flat[1::2]
    base, last = starts[0], starts[-1]
    span = last + lengths[-1] - base
    # They usually lie in the buffer in which they came, with their length prefixes in between. Then one copy of all of it, cut
    # up here, takes a quarter of the time. Gaps of less than a page altogether have no unmapped page in them.
    if span - sum(lengths) < PAGE and min(starts) == base and max(starts) == last:
        whole = string_at(base, span)
        return [whole[(at := start - base) : at + length] for start, length in zip(starts, lengths)]
    return [string_at(start, length) for start, length in zip(starts, lengths)]


class Connection(NamedTuple):
    """The sender of a message, as it was when it connected."""

    id: int
    """A number that tells the connections of one reader apart."""
    pid: int
    """The process id; 0 if it is in another pid namespace. The process may have ended."""
    uid: int
    """The effective user id. The kernel vouches for it."""
    gid: int
    """The effective group id. The kernel vouches for it."""
    writer_id: bytes
    """16 bytes, the same on each connection of a writer; empty if it does not take part in acknowledged delivery. It proves
    nothing: tell writers apart by uid and writer_id together."""
    sequence: int
    """The number of the message among all that its writer has accepted, from 1 on; of a list of messages the first one's. A
    message that comes again has the same number. 0 if the writer does not take part in acknowledged delivery."""


def describe(connection: int) -> Connection:
    """Inside a callback only."""
    pid, uid, gid = ctypes.c_int32(), ctypes.c_uint32(), ctypes.c_uint32()
    library.udsipc_connection_credentials(connection, byref(pid), byref(uid), byref(gid))
    writer_id = ctypes.create_string_buffer(16)
    is_known = library.udsipc_connection_writer_id(connection, writer_id) == 0
    return Connection(
        library.udsipc_connection_id(connection),
        pid.value,
        uid.value,
        gid.value,
        writer_id.raw if is_known else b"",
        library.udsipc_message_sequence(connection),
    )
