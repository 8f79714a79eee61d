"""libudsipc for Python: a message pipe between the processes of one machine that accounts for every message.

`Writer` sends, `Reader` receives, `LoggingHandler` sends the records of the logging module. `udsipc.aio` has a Writer and a
Reader for asyncio. Times are seconds everywhere, and None is no limit. Every failure is an `Error`, of a class for its kind.
"""

from ._errors import (
    AddressInUse,
    Backpressure,
    BufferFull,
    ConnectionClosed,
    Error,
    Forked,
    HandlerFailed,
    InvalidArgument,
    InvalidLengthPrefix,
    InvalidPath,
    MessageTooLarge,
    NoConsumer,
    NoResources,
    NotAcknowledged,
    NotConnected,
    Panic,
    PermissionDenied,
    SocketGone,
    Stopped,
    SystemCallFailed,
    SystemdError,
    Timeout,
    Undelivered,
    WouldDeadlock,
    WrongState,
)
from ._library import version as library_version
from ._logging import LoggingHandler
from ._messages import Connection, Message
from ._metrics import ReaderMetrics, WriterMetrics
from ._options import Acknowledge, ReaderOptions, WriterOptions
from ._reader import Reader
from ._writer import Writer

__all__ = [
    "Acknowledge",
    "AddressInUse",
    "Backpressure",
    "BufferFull",
    "Connection",
    "ConnectionClosed",
    "Error",
    "Forked",
    "HandlerFailed",
    "InvalidArgument",
    "InvalidLengthPrefix",
    "InvalidPath",
    "LoggingHandler",
    "Message",
    "MessageTooLarge",
    "NoConsumer",
    "NoResources",
    "NotAcknowledged",
    "NotConnected",
    "Panic",
    "PermissionDenied",
    "Reader",
    "ReaderMetrics",
    "ReaderOptions",
    "SocketGone",
    "Stopped",
    "SystemCallFailed",
    "SystemdError",
    "Timeout",
    "Undelivered",
    "WouldDeadlock",
    "Writer",
    "WriterMetrics",
    "WriterOptions",
    "WrongState",
    "library_version",
]

# Under these names they are imported, and told of in tracebacks.
for _name in __all__:
    if isinstance(_class := globals()[_name], type):
        _class.__module__ = __name__
