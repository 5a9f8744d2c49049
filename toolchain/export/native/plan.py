"""Which algorithm computes each convolution of a program: a choice between cycles, flash and RAM.

Winograd's F(2x2, 3x3) takes about half the cycles of a 3x3 convolution with stride 1 and several times its flash; the
results are the same bit for bit. A program without a plan is direct everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from toolchain.errors import GraphError
from toolchain.export.native.layout import Isa
from toolchain.export.native.weights import algorithms
from toolchain.graph.graph import Graph
from toolchain.graph.liveness import align
from toolchain.graph.memory import NATIVE_ALIGNMENT
from toolchain.graph.operator import WEIGHTED, Algorithm, Operator

Cycles = Callable[[Operator, Algorithm], float]


@dataclass(frozen=True)
class Plan:
    """The algorithms of a graph's nodes.

    Attributes:
        winograd: indices of the nodes that are computed by Winograd's algorithm; all others are direct.
    """

    winograd: frozenset[int] = frozenset()

    def algorithm(self, index: int) -> Algorithm:
        """Of the node with this index."""
        return "winograd" if index in self.winograd else "direct"

    def operators(self, graph: Graph) -> tuple[Operator, ...]:
        """The graph's operators as the plan computes them: what the program is measured and priced as."""
        return tuple(
            replace(node.operator, algorithm=self.algorithm(index)) for index, node in enumerate(graph.nodes)
        )

    def as_dict(self) -> dict[str, list[int]]:
        """For a record; `from_dict` reads it."""
        return {"winograd": sorted(self.winograd)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Sequence[int]]) -> Plan:
        """The plan that `as_dict` wrote."""
        return cls(frozenset(stored["winograd"]))

    def check(self, graph: Graph, isa: Isa) -> None:
        """Check that each node's kernels offer the algorithm that the plan names.

        Raises:
            GraphError: naming the first node that has it not.
        """
        for index in sorted(self.winograd):
            op = graph.nodes[index].operator if 0 <= index < len(graph.nodes) else None
            if op is None or op.kind not in WEIGHTED or "winograd" not in algorithms(op, isa):
                name = f"node {index} ({op.signature})" if op else f"node {index}, which the graph has not"
                raise GraphError(
                    f"the plan names winograd for {name}: it is for conv2d 3x3 with stride 1, channels a multiple of "
                    "4, and kernels with the DSP extension",
                    remedy="take the plan from choose_plan, or leave the node out",
                )


DIRECT: Final = Plan()


def estimated_cycles(op: Operator, algorithm: Algorithm) -> float:
    """Core cycles of a convolution on a Cortex-M4 without wait states, from the instructions of its kernels' loops.

    Good for comparing the algorithms of one operator (within 10 % of the emulator's counts from 16 channels on), where
    nothing was measured.
    """
    _, out_h, out_w, out_c = op.output
    (height, width), in_c = op.kernel, op.inputs[0][-1]
    pairs = -(-out_c // 2)
    if algorithm == "winograd":
        groups = -(-(-(-out_h // 2) * -(-out_w // 2)) // 4)  # of four tiles
        steps, turns = in_c // 2, -(-in_c // 32)
        return groups * (pairs * (16 * (16 * steps + 6 * turns + 30) + 700) + 210 * in_c + 900)
    steps = 2 * -(-height * width * in_c // 4)
    groups = -(-out_h * out_w // 4)
    return groups * (pairs * (17 * steps + 7 * -(-steps // 8) + 90) + 14 * steps)


def choose_plan(
    graph: Graph,
    isa: Isa = "dsp",
    *,
    flash_bytes: int | None = None,
    ram_bytes: int | None = None,
    cycles: Cycles = estimated_cycles,
) -> Plan:
    """The plan with the fewest cycles whose program fits the flash and whose arena fits the RAM.

    Flash adds up over the nodes, so the choice is a knapsack, solved exactly. RAM is a matter of each node alone: its
    activations and its kernel's scratch memory, which may be more or less than the other algorithm's. Should the memory
    plan need more than the largest of these, the choices that save least are given up.

    Args:
        flash_bytes: of the program; None where nothing limits it.
        ram_bytes: of the arena; None where nothing limits it.
        cycles: cost of an operator under an algorithm: from a LUT, or `estimated_cycles`; inf for an algorithm that
            must not be taken, because it was never measured.

    Returns:
        `DIRECT` where nothing is gained, or where even that does not fit: a plan makes nothing smaller.
    """
    from toolchain.export.native import footprint

    def arena(winograd: frozenset[int]) -> int:
        return footprint.arena_bytes(graph, isa, plan=Plan(winograd))

    def scratch(op: Operator, algorithm: Algorithm) -> int:
        return align(footprint.scratch_bytes(op, isa, algorithm), NATIVE_ALIGNMENT)

    places = footprint.memory_plan(graph, isa).tensors
    room = None if flash_bytes is None else flash_bytes - footprint.program_bytes(graph, isa)
    items: list[tuple[int, int, float]] = []  # node, bytes more, cycles less
    needed: set[int] = set()  # where the other algorithm has no RAM
    for index, node in enumerate(graph.nodes):
        op, step = node.operator, index + 1
        if op.kind not in WEIGHTED or "winograd" not in algorithms(op, isa):
            continue
        live = sum(align(t.size_at(step), NATIVE_ALIGNMENT) for t in places if t.first <= step <= t.last)
        live -= scratch(op, "direct")
        more = footprint.operator_bytes(op, isa, "winograd") - footprint.operator_bytes(op, isa)
        less = cycles(op, "direct") - cycles(op, "winograd")
        if less == -math.inf:
            continue
        if ram_bytes is not None and live + scratch(op, "winograd") > ram_bytes:
            continue
        if ram_bytes is not None and live + scratch(op, "direct") > ram_bytes:
            needed.add(index)
            room = None if room is None else room - more
        elif less > 0:
            items.append((index, more, less))
    if room is not None and room < 0:
        return DIRECT
    chosen = _knapsack(items, room)
    saving = {index: less for index, _, less in items}
    while chosen and ram_bytes is not None and arena(chosen | needed) > ram_bytes:
        chosen -= {min(chosen, key=lambda index: (saving[index], index))}
    return Plan(chosen | needed)


def _knapsack(items: list[tuple[int, int, float]], room: int | None) -> frozenset[int]:
    """The items (key, size, worth) of the greatest worth within the room; of equal worth the smallest.

    A list of all sums that no other sum beats in size and worth: exact, and short, as networks have few such layers.
    """
    front: list[tuple[int, float, frozenset[int]]] = [(0, 0.0, frozenset())]
    for key, size, worth in items:
        taken = [(s + size, w + worth, keys | {key}) for s, w, keys in front]
        front, every = [], sorted(front + taken, key=lambda entry: (entry[0], -entry[1]))
        for entry in every:
            fits = room is None or entry[0] <= room
            if fits and (not front or entry[1] > front[-1][1]):
                front.append(entry)
    return front[-1][2]
