"""A handler for the logging module."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Union

from ._errors import Error, Forked
from ._handle import is_multiprocessing_child
from ._metrics import WriterMetrics
from ._options import StrPath, WriterOptions
from ._writer import Writer

if TYPE_CHECKING:
    from typing_extensions import Unpack


class _ExitsWithLogging(Writer):
    """logging closes its handlers at the exit, and records may come until then. Nothing of Python is called back, so this may be
    late. A child of multiprocessing ends without it."""

    def _end_at_exit(self) -> None:
        if is_multiprocessing_child():
            super()._end_at_exit()


class LoggingHandler(logging.Handler):
    """Sends each record to the reader at a path, as one message: what the formatter makes of it, in UTF-8.

        logging.getLogger().addHandler(udsipc.LoggingHandler("/run/app/log.sock"))

    It never blocks: a record that finds the queue full is dropped and counted in `dropped`. `close`, which logging calls at the
    interpreter's exit, sends what is queued within `linger` seconds. In a forked child the handler makes a writer of its own;
    what the parent has queued stays the parent's.

    level: records below it are left out. The options are those of `WriterOptions`. Raises what `Writer` raises.
    """

    def __init__(self, path: StrPath, level: Union[int, str] = logging.NOTSET, **options: Unpack[WriterOptions]) -> None:
        super().__init__(level)
        self._path = path
        self._options = options
        self._dropped = 0
        self._writer = self._new_writer()

    def _new_writer(self) -> Writer:
        return _ExitsWithLogging(self._path, **self._options)

    @property
    def dropped(self) -> int:
        """How many records of this process were not accepted, or given up at the end."""
        return self._dropped

    def metrics(self) -> WriterMetrics:
        """The counters of the writer."""
        return self._writer.metrics()

    def emit(self, record: logging.LogRecord) -> None:
        """Queues the record. A failure of the formatter goes to `handleError`, as with other handlers."""
        try:
            message = self.format(record).encode("utf-8", "backslashreplace")
            try:
                self._writer.write(message, timeout=0)
            except Forked:
                self._start_anew()
                self._writer.write(message, timeout=0)
        except Error:
            self._dropped += 1  # under the lock that Handler.handle takes
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)

    def _start_anew(self) -> None:
        """In a forked child."""
        self._writer.close()
        self._dropped = 0
        self._writer = self._new_writer()

    def close(self) -> None:
        """Sends what is queued within `linger` seconds. What was not delivered in that time counts in `dropped`."""
        super().close()
        if not self._writer.closed:
            try:
                self._writer.close()
            except Error:
                metrics = self._writer.metrics()
                self._dropped += metrics.abandoned + metrics.suspected_lost
