"""What a program with types sees: checked by mypy --strict and by pyright, never run."""

from __future__ import annotations

import logging
import pathlib
from typing import AsyncIterator, Iterator

from typing_extensions import assert_type

import udsipc
import udsipc.aio


def on_error(error: udsipc.Error) -> None:
    assert_type(error.status, int)
    if isinstance(error, udsipc.PermissionDenied):
        system_error: PermissionError = error
        print(system_error)


def on_message(message: bytes, connection: udsipc.Connection) -> None:
    print(message, connection.uid, connection.sequence)


def write(path: pathlib.Path) -> None:
    with udsipc.Writer(path, on_error=on_error, linger=None, acknowledge=udsipc.Acknowledge.OFF) as writer:
        assert_type(writer, udsipc.Writer)
        for message in (b"bytes", bytearray(b"bytearray"), memoryview(b"view")):
            writer.write(message, timeout=None)
        writer.write_many(message for message in (b"1", bytearray(b"2")))
        writer.write("text")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        assert_type(writer.metrics().sent, int)
    udsipc.Writer(path, max_buffered_write=5)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


def read(path: bytes) -> None:
    with udsipc.Reader(path, socket_mode=0o600, allow_uids=[0]) as reader:
        for message in reader:
            assert_type(message, bytes)
        assert_type(reader.with_connections(), Iterator["tuple[bytes, udsipc.Connection]"])
        assert_type(reader.read(1.5), bytes)
    udsipc.Reader(path, on_message).serve_forever()
    udsipc.Reader(path, lambda message: None)  # type: ignore[arg-type,misc] # pyright: ignore


async def exchange(path: str) -> None:
    async with udsipc.aio.Reader(path) as reader, udsipc.aio.Writer(path, on_error=on_error) as writer:
        await writer.write(memoryview(b"x"))
        await writer.flush()
        async for message in reader:
            assert_type(message, bytes)
        assert_type(reader.with_connections(), AsyncIterator["tuple[bytes, udsipc.Connection]"])
        assert_type(await reader.read(), bytes)
        assert_type(reader.metrics(), udsipc.ReaderMetrics)


handler: logging.Handler = udsipc.LoggingHandler("/x", "INFO", max_buffered_bytes=1 << 20)
