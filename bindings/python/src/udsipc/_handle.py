"""What writers and readers have in common: a handle of C, and its end."""

from __future__ import annotations

import atexit
import os
import sys
import warnings
import weakref
from types import TracebackType
from typing import Any, Callable, NoReturn, Optional, TypeVar

from ._errors import Error, Forked, WouldDeadlock, failure, report
from ._library import ErrorCallback
from ._signals import Callbacks, report_exception

ErrorHandler = Callable[[Error], object]
C = TypeVar("C", bound="ClosedByWith")

# Handles to be ended before the interpreter is: afterwards a thread of the library could not call back.
_live: weakref.WeakSet[Handle] = weakref.WeakSet()
# Callbacks that ran when their handle was freed inside one of them.
_retired: list[object] = []
_has_exited = False


class Handle:
    """A pointer of C. It is freed with the object, when no call can be running any more."""

    kind: str
    _c_stop: Any
    _c_free: Any
    _pointer: Any = None
    _is_closed = True

    def _adopt(self, pointer: Any, linger_ms: int, callbacks: Callbacks, c_callbacks: tuple[object, ...]) -> None:
        self._linger_ms = linger_ms
        self._callbacks = callbacks
        self._c_callbacks = c_callbacks  # ctypes frees a callback that nobody refers to
        self._pid = os.getpid()
        self._is_closed = False
        self._pointer = pointer

    def _end_at_exit(self) -> None:
        _live.add(self)
        _register_with_multiprocessing()

    @property
    def closed(self) -> bool:
        """Whether it has been stopped or closed."""
        return self._is_closed

    def _path_of(self, path: Callable[[Any], bytes]) -> str:
        return os.fsdecode(path(self._pointer))

    def _stop_here(self, timeout_ms: int) -> Optional[Error]:
        """Stops it on this thread, and returns what went wrong."""
        status = self._callbacks.call(self._c_stop, self._pointer, timeout_ms)
        return failure(status) if status else None

    def _ended(self, error: Optional[Error]) -> None:
        """Takes note of what a stop has come to."""
        self._is_closed = not isinstance(error, WouldDeadlock)
        if error:
            raise error

    def _end_forgotten(self) -> Optional[Error]:
        """The end of a handle that nobody has closed."""
        error = self._stop_here(self._linger_ms)
        self._is_closed = True
        return error

    def __del__(self) -> None:
        if self._pointer is None:
            return
        if not self._is_closed and self._pid == os.getpid():
            try:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            finally:
                end_loudly(self)
        if self._callbacks.running:
            _retired.append(self._c_callbacks)
        pointer, self._pointer = self._pointer, None
        self._callbacks.call(self._c_free, pointer)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open"
        return f"<{type(self).__module__}.{type(self).__qualname__} {getattr(self, 'path', '?')!r} {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__qualname__} cannot be copied or pickled: another process makes its own")


class ClosedByWith(Handle):
    """A handle that the end of a `with` block closes, without replacing an exception that is on its way."""

    def _stop(self, timeout_ms: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """As `stop` within `linger` seconds, unless it is stopped already. Raises what `stop` raises, and nothing in a forked
        child, whose parent still has the handle."""
        if not self._is_closed:
            try:
                self._stop(self._linger_ms)
            except Forked:
                self._is_closed = True

    def __enter__(self: C) -> C:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        try:
            self.close()
        except Error:
            if kind is None:
                raise


def end_loudly(handle: Handle) -> None:
    """Ends a handle that was forgotten, in a place where an exception would be of no use."""
    error = handle._end_forgotten()  # pyright: ignore[reportPrivateUsage]
    if error and not isinstance(error, (Forked, WouldDeadlock)):
        warnings.warn(f"{handle!r} was not closed: {error}", RuntimeWarning, stacklevel=3)


def refuse_after_exit(kind: str) -> None:
    if _has_exited or sys.is_finalizing():
        raise RuntimeError(f"a {kind} cannot be made at the interpreter's exit")


def _at_exit() -> None:
    global _has_exited
    _has_exited = True
    # Writers first: their reader may be in this process, served by a thread that still runs.
    for handle in sorted(_live, key=lambda handle: handle.kind, reverse=True):
        if not handle.closed:
            end_loudly(handle)


atexit.register(_at_exit)


def is_multiprocessing_child() -> bool:
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None


_registered_in: Optional[int] = None


def _register_with_multiprocessing() -> None:
    """A forked child of multiprocessing ends without the functions of atexit, and has a list of its own."""
    global _registered_in
    if is_multiprocessing_child() and _registered_in != os.getpid():
        _registered_in = os.getpid()
        from multiprocessing.util import Finalize

        Finalize(None, _at_exit, exitpriority=0)


def error_callback(callbacks: Callbacks, on_error: Optional[ErrorHandler], cause: Callable[[], Optional[BaseException]]) -> Any:
    """A callback of C for `on_error`, or NULL if it is None. `cause` is asked for what a message callback has raised."""

    def call(status: int, errno: int, context: bytes, _userdata: object) -> None:
        def give() -> None:
            error = report(status, errno, context.decode())
            error.__cause__ = cause()
            if on_error is not None:
                on_error(error)

        callbacks.run(give, report_exception)

    return ErrorCallback(call) if on_error else ErrorCallback()

