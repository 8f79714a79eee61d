"""The contract itself: numbers, texts, the header against this binding, forked children."""

import ctypes
import os
import re
import threading
import unittest

import udsipc_capi as api
from support import HERE, TestCase, frame, is_closed, wait_until
from udsipc_capi import ERR_FORKED, OK, STATUS, lib, strerror

HEADER = os.path.join(HERE, "..", "..", "include", "udsipc.h")


class Header(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with open(HEADER, encoding="utf-8") as file:
            cls.text = re.sub(r"/\*.*?\*/|//[^\n]*", "", file.read(), flags=re.S)

    def test_this_binding_has_every_function_of_the_header(self):
        declared = set(re.findall(r"\b(udsipc_\w+)\s*\(", self.text))
        callbacks = {name for name in declared if name.endswith("_callback") and "_set_" not in name}
        self.assertEqual(declared - callbacks, set(api.FUNCTIONS))

    def test_numbers_are_those_of_the_header(self):
        numbers = {name: int(number) for name, number in re.findall(r"UDSIPC_((?:ERR_)?\w+)\s*=\s*(\d+)", self.text)}
        self.assertEqual({name: numbers.get(name) for name in STATUS}, STATUS)


class Texts(unittest.TestCase):
    def test_every_status_has_a_text_of_its_own(self):
        texts = [strerror(number) for number in STATUS.values()]
        self.assertEqual(len(set(texts)), len(texts))
        self.assertTrue(all(texts))

    def test_last_error_is_this_threads(self):
        handle = ctypes.c_void_p()
        lib.udsipc_writer_new(b"x" * 200, None, ctypes.byref(handle))
        here = api.last_error()
        self.assertIn("107", here)
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(api.last_error()))
        thread.start()
        thread.join()
        self.assertNotEqual(elsewhere, [here])


class Fork(TestCase):
    def test_a_forked_child_is_refused_and_harms_nothing(self):
        """In a child of its own, because forking with threads is what this is about.

        The forked child has no copy of the listener, the connections and the event loops from the beginning.
        """
        child = self.child()
        child.run(f"reader = Reader({self.path!r}, start=True)\nwriter = Writer({self.path!r}, start=True)")
        child.run("writer.write(b'before')")
        wait_until(lambda: child.run("len(reader.messages)") == 1)
        client = self.client()
        client.sendall(frame(b"client"))
        wait_until(lambda: child.run("len(reader.messages)") == 2)
        child.run("""
pipe_in, pipe_out = os.pipe()
forked = os.fork()
if forked == 0:
    try:
        links = [os.path.join('/proc/self/fd', fd) for fd in os.listdir('/proc/self/fd')]
        targets = [os.readlink(link) for link in links if os.path.lexists(link)]
        seen = [target for target in targets if target.startswith(('socket:', 'anon_inode:'))]
        seen += [writer.write(b'x'), writer.stop(100), reader.stop(100), writer.flush(0), reader.start()]
        lib.udsipc_writer_free(writer.handle)
        lib.udsipc_reader_free(reader.handle)
    except BaseException as error:
        seen = [repr(error)]
    os.write(pipe_out, json.dumps(seen).encode())
    os._exit(0)
os.close(pipe_out)
seen = json.loads(os.read(pipe_in, 1000))
os.waitpid(forked, 0)
""")
        self.assertEqual(child.run("seen"), [ERR_FORKED] * 5)
        self.assertTrue(os.path.exists(self.path))
        self.assertFalse(is_closed(client))
        child.run("writer.write(b'after')")
        client.sendall(frame(b"client again"))
        wait_until(lambda: child.run("len(reader.messages)") == 4)
        self.assertEqual(child.run("[writer.stop(5_000), reader.stop(5_000)]"), [OK, OK])


class HandlesInUse(TestCase):
    """Law 3: every call but _free may be made while the handle lives, so also by a callback that _free waits for.

    In a child, because a mistake here ends in a corrupted heap.
    """

    def test_an_error_callback_uses_the_handle_that_is_being_freed(self):
        child = self.child()
        child.run(f"""
seen = []
def on_error(record):
    seen.append(writer.metrics().abandoned)
for _ in range(20):
    writer = Writer({self.path!r}, on_error=on_error, start=True)
    for number in range(5):
        writer.write(b"x")
    writer.free()
""")
        self.assertGreaterEqual(child.run("len(seen)"), 100)
        self.assertEqual(child.end(), 0)

    def test_a_message_callback_uses_the_handle_that_is_being_freed(self):
        child = self.child()
        child.run(f"""
seen = []
def on_message(message, connection):
    entered.set()
    leave.wait(30)
    seen.append(reader.metrics().received)
for _ in range(20):
    entered, leave = threading.Event(), threading.Event()
    reader = Reader({self.path!r}, on_message=on_message, start=True)
    with connect({self.path!r}) as client:
        client.sendall(frame(b"x"))
        entered.wait(30)
        freeing = InBackground(reader.free)
        time.sleep(0.01)
        leave.set()
        freeing.result()
""")
        self.assertEqual(child.run("len(seen)"), 20)
        self.assertEqual(child.end(), 0)

    def test_free_inside_the_handles_own_callback_neither_hangs_nor_breaks(self):
        child = self.child()
        child.run(f"""
done = threading.Event()
def on_error(record):
    if not done.is_set():
        lib.udsipc_writer_free(writer.handle)
        writer.handle = None
        done.set()
writer = Writer({self.path!r}, on_error=on_error)
writer.start()
done.wait(30)
""")
        self.assertTrue(child.run("done.is_set()"))
        child.run(f"""
freed = threading.Event()
def on_message(message, connection):
    lib.udsipc_reader_free(reader.handle)
    reader.handle = None
    freed.set()
reader = Reader({self.path!r}, on_message=on_message)
check(reader.start())
client = connect({self.path!r})
client.sendall(frame(b"x"))
freed.wait(30)
""")
        self.assertTrue(child.run("freed.is_set()"))
        wait_until(lambda: child.run("threads_of()") <= 2, what=lambda: child.run("threads_of()"))
        self.assertEqual(child.end(), 0)


if __name__ == "__main__":
    unittest.main()
