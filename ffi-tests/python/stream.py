"""A reproducible stream of messages that two processes agree on without talking about it.

Message i has a random length and is a slice of one random pattern that begins at an offset of its own, so a lost,
repeated, swapped or cut message does not compare equal.
"""

import ctypes
import random
import struct

_SIZE = 1 << 20
_STEP = 7919  # odd, so that 2^20 messages have 2^20 different offsets

MAX_LENGTH = 3000
PATTERN = random.Random(20).randbytes(_SIZE)
PATTERN += PATTERN[:MAX_LENGTH]


def plan(count, seed):
    """A list of (offset, length), lengths 0 to 3 000."""
    draw = random.Random(seed).random
    return [(i * _STEP % _SIZE, int(draw() * (MAX_LENGTH + 1))) for i in range(count)]


class Checker:
    """Compares what arrives with the plan: whole, once and in order. Empty messages never arrive."""

    def __init__(self, count, seed):
        self.expected = [entry for entry in plan(count, seed) if entry[1]]
        self.position = 0
        self.wrong = None

    def take(self, flat):
        """A batch as the raw callback gets it."""
        string_at, position = ctypes.string_at, self.position
        for at in range(0, len(flat), 2):
            if position == len(self.expected):
                self.wrong = self.wrong or f"message {position} is one too many"
                return
            offset, length = self.expected[position]
            if flat[at + 1] != length or string_at(flat[at], length) != PATTERN[offset:offset + length]:
                self.wrong = self.wrong or f"message {position}: {flat[at + 1]} bytes, not the {length} expected"
            position += 1
        self.position = position

    def complete(self):
        return self.wrong or self.position == len(self.expected)


def send_all(writer, count, seed, chunk=2000):
    """Writes the whole plan, waiting for room whenever the queue is full. Returns how many were accepted."""
    import udsipc_capi as api

    pattern = ctypes.create_string_buffer(PATTERN, len(PATTERN))
    base = ctypes.addressof(pattern)
    entries = plan(count, seed)
    done = 0
    accepted = ctypes.c_size_t()
    while done < count:
        part = entries[done:done + chunk]
        flat = struct.pack(f"<{2 * len(part)}Q", *[n for offset, length in part for n in (base + offset, length)])
        status = api.lib.udsipc_write_messages(writer.handle, flat, len(part), ctypes.byref(accepted))
        done += accepted.value
        if status == api.ERR_BUFFER_FULL:
            offset, length = entries[done]
            api.check(writer.write_timeout(PATTERN[offset:offset + length], 60_000))
            done += 1
        else:
            api.check(status)
    return done


def numbered(sequence, length=16):
    """A message that carries its number."""
    return struct.pack("<Q", sequence).ljust(length, b".")


def number_of(message):
    return struct.unpack_from("<Q", message)[0]
