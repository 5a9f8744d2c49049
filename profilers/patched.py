"""Patch-based plans of a space: its first blocks band by band, seen arc by arc.

A network whose first maps are too large for the RAM may fit when its first operators run patch by patch
(`toolchain.export.native.patches`). What a patch reads depends on all operators behind it, so a chain is seen from
above: every block takes as many rows as the widest of the blocks that may follow, the operators of a block are taken
as if one followed the other, and nothing works in place. The exact plan of a network (`choose_plan`) needs no more RAM
and repeats no more rows; where its blocks cannot be cut for another reason, it says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from profilers.cost import ArcMetric
from toolchain.graph.chain import Arc, Band, Chain
from toolchain.graph.liveness import Live
from toolchain.graph.operator import WINDOWED, Operator

COUNTS: Final = (2, 3, 4, 6, 8, 12, 16)  # of patches
_ELEMENTWISE: Final = ("add", "mul", "hard_swish")


@dataclass(frozen=True, slots=True)
class Prefix:
    """What is computed patch by patch.

    Attributes:
        positions: of the chain, the first so many.
        state: index in `Chain.states[positions]` of what they make; its rows are cut into patches.
        patches: their number.
    """

    positions: int
    state: int
    patches: int


def prefixes(chain: Chain, ram: ArcMetric, ram_bytes: float) -> Iterator[Prefix]:
    """Prefixes that may bring a chain's arcs below a bound on RAM: from the first position that has an arc over it to
    the last such position and one more. Few patches first: they repeat least.

    Args:
        ram: of arcs.
    """
    over = [any(ram.value(arc) > ram_bytes for arc in arcs) for arcs in chain.arcs]
    if not any(over):
        return
    first, last = over.index(True), len(over) - over[::-1].index(True)
    longest = next((i for i, arcs in enumerate(chain.arcs) if not any(map(_able, arcs))), len(over))
    for count in COUNTS:
        for positions in range(first + 1, min(last + 1, longest) + 1):
            for state, shape in enumerate(chain.states[positions]):
                whole = math.prod(chain.states[0][0]) + math.prod(shape)  # lives all the time
                if len(shape) == 4 and shape[1] >= count and ram.base + whole <= ram_bytes:
                    yield Prefix(positions, state, count)


def banded(chain: Chain, prefix: Prefix, plan: Callable[[Arc], Arc]) -> dict[int, Arc | None]:
    """The arcs of a prefix's positions, by identity, as they run in patches; None for one that cannot stand there.

    Args:
        plan: gives an arc's operators their algorithms.
    """
    made = chain.states[prefix.positions][prefix.state]
    rows = -(-made[1] // prefix.patches)
    runs = -(-made[1] // rows)
    whole = (math.prod(chain.states[0][0]), math.prod(made))  # these two live through all patches
    found: dict[int, Arc | None] = {}
    for position in reversed(range(prefix.positions)):
        before = 0
        for arc in chain.arcs[position]:
            end = chain.states[position + 1][arc.end]
            ends_there = position < prefix.positions - 1 or arc.end == prefix.state
            if not (ends_there and _able(arc) and len(end) == 4):
                found[id(arc)] = None
                continue
            found[id(arc)], needed = _in_bands(plan(arc), min(rows, end[1]), runs, whole)
            before = max(before, needed)
        rows = before
    return found


def least_ram(chain: Chain, ram: ArcMetric, runs: Callable[[Arc], Arc | None]) -> float:
    """The least RAM of all networks of a chain, in bytes; inf where none leads through it.

    Args:
        ram: of arcs.
        runs: how an arc runs; None for one that cannot.
    """
    needed = [ram.base]
    for arcs, states in zip(chain.arcs, chain.states[1:], strict=True):
        before, needed = needed, [math.inf] * len(states)
        for arc in arcs:
            way = runs(arc) if before[arc.start] < math.inf else None
            if way is not None:
                needed[arc.end] = min(needed[arc.end], max(before[arc.start], ram.value(way)))
    return min(needed)


def _able(arc: Arc) -> bool:
    return all(
        op.kind in (*WINDOWED, *_ELEMENTWISE) and all(len(shape) == 4 for shape in op.inputs)
        for op in arc.operators
    )


def _in_bands(arc: Arc, rows: int, runs: int, whole: tuple[int, ...]) -> tuple[Arc, int]:
    """An arc that runs once for each patch, and the rows of its input that a patch needs."""
    part, bands = 0.0, []
    for op in reversed(arc.operators):
        height, rows = op.output[1], min(rows, op.output[1])
        bands.append(Band(_band(op, rows), runs * rows / height, runs))
        part = max(part, rows / height)
        below = op.inputs[0][1]
        rows = min(below, (rows - 1) * op.stride[0] + op.kernel[0]) if op.kind in WINDOWED else rows
        part = max(part, rows / below)
    live = tuple(
        Live(math.ceil(one.output * part), (*(math.ceil(o * part) for o in one.others), *whole), False)
        for one in arc.live
    )
    return replace(arc, live=live, bands=tuple(reversed(bands))), rows


def _band(op: Operator, rows: int) -> Operator:
    """What computes so many rows of an operator's output."""
    output = (1, rows, *op.output[2:])
    if op.kind not in WINDOWED:
        return replace(op, inputs=tuple((1, min(rows, s[1]), *s[2:]) for s in op.inputs), output=output)
    height, width = (
        (size - 1) * stride + kernel
        for size, stride, kernel in zip(output[1:3], op.stride, op.kernel, strict=True)
    )
    return replace(op, inputs=((1, height, width, op.inputs[0][3]),), output=output, padding="valid")
