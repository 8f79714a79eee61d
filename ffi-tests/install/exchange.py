"""Run against an installed libudsipc, found by its soname: a reader and a writer exchange messages and count them."""

import ctypes
import os
import sys

MESSAGES = 1000
PATIENCE_MS = 60_000

library = ctypes.CDLL("libudsipc.so.0")
library.udsipc_strerror.restype = ctypes.c_char_p
library.udsipc_writer_free.restype = library.udsipc_reader_free.restype = None
OnMessage = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p
)


def check(status):
    if status != 0:
        sys.exit(f"{sys._getframe(1).f_lineno}: {library.udsipc_strerror(status).decode()}")


def main(path):
    sent = [b"%d " % n + bytes([n & 0xFF]) * n for n in range(MESSAGES)]
    arrived = []

    @OnMessage
    def on_message(data, size, _connection, _userdata):
        arrived.append(ctypes.string_at(data, size))
        return 0

    reader, writer, patience = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64(PATIENCE_MS)
    check(library.udsipc_reader_new(os.fsencode(path), on_message, None, None, ctypes.byref(reader)))
    check(library.udsipc_reader_start(reader))
    check(library.udsipc_writer_new(os.fsencode(path), None, ctypes.byref(writer)))
    check(library.udsipc_writer_start(writer))
    for message in sent:
        check(library.udsipc_write_message(writer, message, ctypes.c_size_t(len(message))))
    check(library.udsipc_writer_flush(writer, patience))
    check(library.udsipc_writer_stop(writer, patience))
    check(library.udsipc_reader_stop(reader, patience))
    library.udsipc_writer_free(writer)
    library.udsipc_reader_free(reader)

    if arrived != sent:
        sys.exit(f"Python: {len(arrived)} messages, not as sent")
    print(f"Python: {len(arrived)} messages")


main(sys.argv[1])
