"""Puts libudsipc.so into the wheel, and gives the wheel the tag of the machines that it runs on.

The library is UDSIPC_LIBRARY if that is set, or else what `cargo build --release` makes of this checkout; without cargo, what
`make` has built before.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CHECKOUT = Path(__file__).resolve().parents[2]


class LibraryHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name == "sdist":
            raise RuntimeError(
                "there is no source distribution of this package: its library is built from the whole checkout. "
                "Build a wheel: pip wheel ./bindings/python"
            )
        if version == "editable":
            return  # it finds its library by UDSIPC_LIBRARY, or an installed one
        library = self.stripped(find_library())
        expected: str = self.metadata.version  # pyright: ignore[reportUnknownMemberType]
        check_version(library, expected)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag(library)}"
        build_data["force_include"][str(library)] = "udsipc/libudsipc.so"

    def stripped(self, library: Path) -> Path:
        """A copy without debug information, which would be nine tenths of the wheel."""
        self.scratch = tempfile.TemporaryDirectory(prefix="udsipc-wheel-")
        copy = Path(self.scratch.name, "libudsipc.so")
        shutil.copyfile(library, copy)
        copy.chmod(0o755)
        if shutil.which("strip"):
            subprocess.run(["strip", "--strip-unneeded", copy], check=True)
        return copy

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self.scratch.cleanup()


def find_library() -> Path:
    if given := os.environ.get("UDSIPC_LIBRARY"):
        return Path(given)
    target = Path(os.environ.get("CARGO_TARGET_DIR", "target"), os.environ.get("CARGO_BUILD_TARGET", ""))
    built = CHECKOUT / target / "release" / "libudsipc.so"
    if cargo := shutil.which(os.environ.get("CARGO", "cargo")):
        subprocess.run([cargo, "build", "--release", "--locked"], cwd=CHECKOUT, check=True)
    elif not built.exists():
        raise RuntimeError(
            "libudsipc.so is needed. Install Rust (https://rustup.rs), or set UDSIPC_LIBRARY to the path of a library"
        )
    return built


def check_version(library: Path, expected: str) -> None:
    version = ctypes.CDLL(str(library)).udsipc_version
    version.restype = ctypes.c_char_p
    if version().decode() != expected:
        raise RuntimeError(f"the library is of version {version().decode()}, and the package of {expected}")


def platform_tag(library: Path) -> str:
    """manylinux with the version of glibc that the library's symbols ask for, which `auditwheel show` confirms."""
    machine = platform.machine()
    wanted = re.findall(rb"GLIBC_(\d+)\.(\d+)", library.read_bytes())
    if not wanted:
        return f"linux_{machine}"
    major, minor = max((int(major), int(minor)) for major, minor in wanted)
    return f"manylinux_{major}_{minor}_{machine}"
