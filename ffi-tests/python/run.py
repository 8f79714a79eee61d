"""Lists and runs the Python scenarios.

    run.py --list                                   every scenario, as module.Class.test
    run.py test_stop.WriterStop.test_a_short_time_is_kept ...

The library is UDSIPC_LIBRARY, or else what `make` has built. Listing needs no library.
"""

import os
import sys
import unittest
from unittest import mock

HERE = os.path.dirname(os.path.abspath(__file__))
BUILT = os.path.join(HERE, "..", "..", "target", "release", "libudsipc.so")


def scenarios():
    """The names that unittest's discovery finds. A module that cannot be imported raises."""
    sys.modules["udsipc_capi"] = mock.MagicMock()  # it loads the library
    loader = unittest.TestLoader()
    suites = [loader.discover(HERE, pattern="test_*.py", top_level_dir=HERE)]
    names = []
    while suites:
        for test in suites.pop():
            if isinstance(test, unittest.TestSuite):
                suites.append(test)
            else:
                names.append(test.id())
    if loader.errors:
        raise ImportError("\n".join(loader.errors))
    return sorted(names)


def main(arguments):
    if arguments == ["--list"]:
        print("\n".join(scenarios()))
        return 0
    if not arguments or any(argument.startswith("-") for argument in arguments):
        print(f"usage: {sys.argv[0]} --list | SCENARIO ...", file=sys.stderr)
        return 2
    os.environ.setdefault("UDSIPC_LIBRARY", os.path.abspath(BUILT))
    result = unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromNames(arguments))
    for _, reason in result.skipped:
        print(f"skipped: {reason}")
    return 0 if result.wasSuccessful() and result.testsRun > 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
