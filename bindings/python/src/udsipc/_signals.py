"""Calls of C that wait or call back, and Python's signal handlers."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what signal wraps in conversions that take ten times as long
import math
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, Callable, Optional

from ._library import FOREVER
from ._options import milliseconds

# A wait returns to Python after this many milliseconds, since Python runs signal handlers only there.
SLICE_MS = 100


class Deadline:
    """The end of a wait that is made in slices."""

    def __init__(self, timeout: Optional[float]) -> None:
        wait_ms = milliseconds(timeout)
        self._end = None if wait_ms == FOREVER else time.monotonic() + wait_ms / 1000

    def slice(self) -> tuple[int, bool]:
        """How many milliseconds to wait next, and whether the time is over then."""
        if self._end is None:
            return SLICE_MS, False
        left_ms = max(0, math.ceil((self._end - time.monotonic()) * 1000))
        return min(left_ms, SLICE_MS), left_ms <= SLICE_MS

    def left(self) -> Optional[float]:
        """Seconds."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


_getsignal: Callable[[int], Any] = _signal.getsignal  # pyright: ignore
_set_signal: Callable[[int, Any], Any] = _signal.signal  # pyright: ignore


class _ThisThread(threading.local):
    lets_handlers_run = True


_this_thread = _ThisThread()


class SignalsHeld:
    """While C runs, and may call back, the Python handlers of signals wait: they run inside callbacks, and at the end.

    Otherwise a handler that raises could do so in the first instruction of a callback, before any `try`: ctypes drops such
    an exception and returns a number that nobody has chosen to C. Handlers run in the main thread only.
    """

    SIGNALS = tuple(
        map(int, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2))
    )

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, Optional[FrameType]], Any]] = {}
        self._arrived: list[tuple[Callable[[int, Optional[FrameType]], Any], int, Optional[FrameType]]] = []

    def __enter__(self) -> None:
        self._before = _this_thread.lets_handlers_run
        _this_thread.lets_handlers_run = False
        if threading.current_thread() is not threading.main_thread():
            return
        try:
            for number in self.SIGNALS:
                handler = _getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    _set_signal(number, self._arrive)
        except BaseException:
            self._restore()
            raise

    def __exit__(self, *_: object) -> None:
        self._restore()
        self._call_arrived()

    def _call_arrived(self) -> None:
        """Each that has arrived, also if an earlier one raises."""
        if self._arrived:
            handler, number, frame = self._arrived.pop(0)
            try:
                handler(number, frame)
            finally:
                self._call_arrived()

    def _restore(self) -> None:
        """A handler that has been put back may raise at once: the others are put back all the same."""
        try:
            _this_thread.lets_handlers_run = self._before
            while self._handlers:
                number, handler = next(iter(self._handlers.items()))
                if _getsignal(number) == self._arrive:
                    _set_signal(number, handler)
                self._handlers.pop(number)
        finally:
            if self._handlers:
                self._restore()

    def _arrive(self, number: int, frame: Optional[FrameType]) -> None:
        if not _this_thread.lets_handlers_run:
            self._arrived.append((self._handlers[number], number, frame))
            return
        _this_thread.lets_handlers_run = False  # if the handler raises, the callback is over
        self._handlers[number](number, frame)
        _this_thread.lets_handlers_run = True


class Callbacks:
    """Runs the callbacks of one handle, and keeps what they raise until the call of C has returned."""

    def __init__(self, are_there: bool) -> None:
        self._are_there = are_there
        self.running: list[object] = []  # one entry for each that runs; a list, since append and pop are atomic
        self.interrupted: Optional[Callable[[], object]] = None  # called when a callback ends with what ends a program
        self._interruption: Optional[BaseException] = None

    def run(self, function: Callable[[], object], failed: Callable[[Exception], object]) -> bool:
        """Whether it returned. Every line that a signal handler can raise in lies inside a `try`."""
        self.running.append(function)
        try:
            try:
                _this_thread.lets_handlers_run = True
                function()
                _this_thread.lets_handlers_run = False
                return True
            except Exception as error:
                _this_thread.lets_handlers_run = False
                failed(error)
        except BaseException as interruption:
            _this_thread.lets_handlers_run = False
            self._interruption = self._interruption or interruption
            if self.interrupted:
                self.interrupted()
        finally:
            self.running.pop()
        return False

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Calls a function of C that may call back."""
        if not self._are_there:
            return function(*arguments)
        try:
            with SignalsHeld():
                return function(*arguments)
        finally:
            if self._interruption is not None:
                interruption, self._interruption = self._interruption, None
                raise interruption


class InThread:
    """A call in another thread; in this one where no thread can be started any more, at the interpreter's end."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self._call: Callable[[], Any] = lambda: function(*arguments)
        self._result: Any = None
        self._error: Optional[BaseException] = None
        self._thread: Optional[threading.Thread] = threading.Thread(target=self._run, name="udsipc-stop", daemon=True)
        try:
            if sys.is_finalizing():
                raise RuntimeError  # older interpreters start a thread even then, and wait for it in vain
            self._thread.start()
        except RuntimeError:
            self._thread = None
            self._run()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._error = error

    def join(self) -> Any:
        while self._thread and self._thread.is_alive():
            self._thread.join(SLICE_MS / 1000)
        if self._error is not None:
            raise self._error
        return self._result


def report_exception(error: BaseException) -> None:
    """What nobody can catch, since the caller is C, goes where exceptions of threads go."""
    arguments: Any = (type(error), error, error.__traceback__, threading.current_thread())
    new_arguments: Any = threading.ExceptHookArgs
    threading.excepthook(new_arguments(arguments))
