"""The package against the header, and the wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import run_script

import udsipc
from udsipc import _library, _options

CHECKOUT = Path(__file__).resolve().parents[3]
HEADER = (CHECKOUT / "include" / "udsipc.h").read_text()
DECLARATIONS = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)
VERSION = re.findall(r'UDSIPC_VERSION_STRING "(.*)"', HEADER)[0]


def test_every_function_of_the_header_is_declared_with_as_many_arguments() -> None:
    found = re.findall(r"\b(udsipc_\w+)\(([^()]*)\);", DECLARATIONS)
    counts = {name: 0 if given.strip() == "void" else given.count(",") + 1 for name, given in found}
    assert len(counts) > 60
    assert {name: len(arguments) for name, (_, arguments) in _library.FUNCTIONS.items()} == counts


def test_every_status_of_the_header_has_an_exception() -> None:
    statuses = {int(number) for number in re.findall(r"UDSIPC_(?:OK|ERR_\w+) = (\d+)", DECLARATIONS)}
    assert {int(status) for status in _library.Status} == statuses
    assert set(udsipc._errors.KINDS) == statuses - {0}
    exported = {name for name in udsipc.__all__ if isinstance(getattr(udsipc, name), type)}
    assert {kind.__name__ for kind in udsipc._errors.KINDS.values()} < exported


def test_every_counter_of_the_header_is_in_the_metrics() -> None:
    for kind, metrics in (("writer", udsipc.WriterMetrics), ("reader", udsipc.ReaderMetrics)):
        body = re.findall(rf"typedef struct udsipc_{kind}_metrics \{{(.*?)\}}", DECLARATIONS, flags=re.DOTALL)[0]
        assert re.findall(r"uint64_t (\w+);", body) == list(metrics.__annotations__)


# Of threads, which a reader in Python does not have, and callbacks, which are arguments.
ELSEWHERE = {"error_callback", "max_handler_threads", "callback_stack_size"}


@pytest.mark.parametrize("kind", ["writer", "reader"])
def test_every_option_of_the_header_is_there(kind: str) -> None:
    setters = set(re.findall(rf"udsipc_{kind}_options_(?:set_)?(\w+)\(", DECLARATIONS)) - {"new", "free"} - ELSEWHERE
    names = {re.sub("_ms$", "", setter).replace("allow_uid", "allow_uids").replace("allow_gid", "allow_gids") for setter in setters}
    known = _options.WRITER_OPTIONS if kind == "writer" else _options.READER_OPTIONS
    assert known == names


def test_it_is_typed() -> None:
    assert (Path(udsipc.__file__).parent / "py.typed").exists()
    assert udsipc.library_version == VERSION


def test_the_library_is_looked_for_where_it_is_said(tmp_path: Path) -> None:
    def load(**environment: str) -> str:
        variables = {name: value for name, value in os.environ.items() if name != "UDSIPC_LIBRARY"}
        script = "import udsipc, os; print([l.split()[-1] for l in open('/proc/self/maps') if 'libudsipc' in l][0])"
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env={**variables, "PYTHONPATH": str(tmp_path), **environment}, text=True,
                              capture_output=True)
        return (done.stdout or done.stderr).strip().splitlines()[-1]

    library = Path(subprocess.check_output([sys.executable, "-c", (
        "import udsipc; print([l.split()[-1] for l in open('/proc/self/maps') if 'libudsipc' in l][0])")], text=True,
        env={**os.environ, "PYTHONPATH": str(Path(udsipc.__file__).parents[1])}).strip())
    shutil.copytree(Path(udsipc.__file__).parent, tmp_path / "udsipc", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    assert "libudsipc cannot be loaded" in load() and "UDSIPC_LIBRARY" in load()
    installed = tmp_path / "installed" / "libudsipc.so.0"
    installed.parent.mkdir()
    shutil.copy(library, installed)
    assert load(LD_LIBRARY_PATH=str(installed.parent)) == str(installed)
    beside = tmp_path / "udsipc" / "libudsipc.so"
    shutil.copy(library, beside)
    assert load(LD_LIBRARY_PATH=str(installed.parent)) == str(beside)
    assert load(UDSIPC_LIBRARY=str(installed)) == str(installed)
    assert "is not libudsipc" in load(UDSIPC_LIBRARY="libc.so.6")


def test_a_library_that_is_too_old_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "old.c"
    source.write_text('const char *udsipc_version(void) { return "0.0.9"; }')
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "old.so", source], check=True)
    with pytest.raises(ImportError, match=r"old.so is libudsipc 0.0.9, which is too old: .* needs 0.1.0 or newer"):
        _library.load(str(tmp_path / "old.so"))


def test_import_is_quick_and_silent() -> None:
    assert run_script("import udsipc, sys; assert 'asyncio' not in sys.modules") == ""


WHEEL = os.environ.get("UDSIPC_WHEEL")


@pytest.mark.skipif(WHEEL is None, reason="UDSIPC_WHEEL names no wheel: make python-test")
def test_the_wheel_is_whole_and_runs_where_its_tag_says() -> None:
    assert WHEEL
    names = zipfile.ZipFile(WHEEL).namelist()
    assert {"udsipc/libudsipc.so", "udsipc/py.typed", "udsipc/aio.py"} < set(names)
    assert not [name for name in names if "tests" in name or name.endswith(".pyc")]
    assert Path(WHEEL).stat().st_size < 1_000_000, "the library is stripped"
    file = Path(WHEEL).name
    assert file.startswith(f"udsipc-{VERSION}-py3-none-manylinux_2_")
    shown = subprocess.check_output([sys.executable, "-m", "auditwheel", "show", WHEEL], text=True)
    tag = file.split("-none-")[1].split(".whl")[0]
    assert f'"{tag}"' in shown.replace("\n", " "), shown
