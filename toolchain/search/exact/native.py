"""Compiles core.c once per machine and calls it through ctypes; without a compiler, `reference.py` does the work.

Why so: docs/selection.md. The library is kept in the user's cache folder under a name that holds the hash of source,
flags and platform; it is written beside and renamed, so processes that start together do not see half a file.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from toolchain.search.exact.reference import Raw, Status, pool_size
from toolchain.search.protocols import Ints

SWITCH: Final = "BOARDFIT_NATIVE"
"""Environment variable: "0" keeps to the NumPy path."""

MOST: Final = 8
"""Budgets on sums that the C code takes; more go the NumPy path."""

_FLAGS: Final = ("-std=c11", "-O2", "-shared", "-fPIC", "-fvisibility=hidden")
_SOURCE: Final = Path(__file__).with_name("core.c")
_SECONDS: Final = 120


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled core, or None where it is switched off or cannot be compiled."""
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        path = _built()
        return None if path is None else ctypes.CDLL(str(path))
    except OSError:
        return None


def solve_arrays(
    core: ctypes.CDLL,
    nodes: int,
    start: Ints,
    end: Ints,
    value: Ints,
    costs: Ints,
    limits: Ints,
    alive: np.typing.NDArray[np.bool_],
    *,
    passes: int,
    labels: int,
    beam: int,
) -> Raw:
    """As `reference.solve_arrays`, in C."""
    kinds = len(limits)
    start, end, value, costs, limits = (
        np.ascontiguousarray(x, np.int64) for x in (start, end, value, costs, limits)
    )
    mask = np.array(alive, np.uint8, order="C")
    path = np.empty(nodes, np.int64)
    multipliers = np.zeros((pool_size(kinds), kinds), np.int64)
    info = np.zeros(8, np.int64)
    status = core.bf_solve(
        ctypes.c_int(nodes),
        ctypes.c_int(len(start)),
        ctypes.c_int(kinds),
        *(ctypes.c_void_p(x.ctypes.data) for x in (start, end, value, costs, limits)),
        ctypes.c_int(passes),
        ctypes.c_int64(labels),
        ctypes.c_int(beam),
        *(ctypes.c_void_p(x.ctypes.data) for x in (mask, path, multipliers, info)),
    )
    length, best, bound, walked, left, size, shift = (int(x) for x in info[:7])
    return Raw(
        status=Status(status),
        path=tuple(path[:length].tolist()),
        value=best,
        bound=bound,
        shift=shift,
        multipliers=tuple(tuple(row) for row in multipliers[:size].tolist()),
        labels=walked,
        arcs_left=left,
        alive=mask.astype(np.bool_),
    )


def _compilers() -> Iterator[list[str]]:
    chosen = os.environ.get("CC")
    if chosen:
        yield shlex.split(chosen)
    for name in ("cc", "gcc", "clang"):
        found = shutil.which(name)
        if found:
            yield [found]
    if importlib.util.find_spec("ziglang") is not None:
        yield [sys.executable, "-m", "ziglang", "cc"]


def _built() -> Path | None:
    source = _SOURCE.read_bytes()
    key = hashlib.sha256(source + repr((_FLAGS, platform.machine(), sys.platform)).encode()).hexdigest()[:16]
    suffix = ".dll" if os.name == "nt" else ".so"
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(base) / "boardfit"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _trusted(folder):
        return None
    target = folder / f"selection-{key}{suffix}"
    if target.exists():
        return target if _trusted(target) else None
    for compiler in _compilers():
        handle, name = tempfile.mkstemp(suffix=suffix, dir=folder)
        os.close(handle)
        try:
            done = subprocess.run(
                [*compiler, *_FLAGS, str(_SOURCE), "-o", name],
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
            if done.returncode == 0:
                os.replace(name, target)
                return target
        except (OSError, subprocess.TimeoutExpired):
            pass
        finally:
            if os.path.exists(name):
                os.unlink(name)
    return None


def _trusted(path: Path) -> bool:
    """Code is loaded only from files that nobody else can write."""
    if os.name != "posix":
        return True
    found = path.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
