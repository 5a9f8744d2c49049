"""Compiles core.c once per machine and calls it through ctypes; without a compiler, `reference.py` does the work.

Why so: docs/selection.md. `toolchain.compiled` keeps the library.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Final

import numpy as np

from toolchain.compiled import shared_library
from toolchain.search.exact.reference import Raw, Status, pool_size
from toolchain.search.protocols import Ints

SWITCH: Final = "BOARDFIT_NATIVE"
"""Environment variable: "0" keeps to the NumPy path."""

MOST: Final = 8
"""Budgets on sums that the C code takes; more go the NumPy path."""

_SOURCE: Final = Path(__file__).with_name("core.c")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled core, or None where it is switched off or cannot be compiled."""
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        path = shared_library("selection", [_SOURCE])
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
