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
from toolchain.export.native.patches import Patches, patch_choices, patch_parts
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
        patches: the first nodes that are computed patch by patch; None where each node runs once.
    """

    winograd: frozenset[int] = frozenset()
    patches: Patches | None = None

    def algorithm(self, index: int) -> Algorithm:
        """Of the node with this index."""
        return "winograd" if index in self.winograd else "direct"

    def operators(self, graph: Graph) -> tuple[Operator, ...]:
        """The operators that the plan runs: what the program is measured and priced as. A node that is computed patch
        by patch stands there once for each patch, with the patch's shapes.
        """
        inside = 0 if self.patches is None else self.patches.nodes
        parts = () if self.patches is None else patch_parts(graph, self.patches)
        ops = [(part.node, part.operator) for patch in parts for part in patch]
        ops += [(index, node.operator) for index, node in enumerate(graph.nodes) if index >= inside]
        return tuple(replace(op, algorithm=self.algorithm(index)) for index, op in ops)

    def parts(self, graph: Graph, index: int) -> tuple[Operator, ...]:
        """The operators that one node is run as: one for each patch, or its own."""
        if self.patches is None or index >= self.patches.nodes:
            return (graph.nodes[index].operator,)
        return tuple(patch[index].operator for patch in patch_parts(graph, self.patches))

    def as_dict(self) -> dict[str, list[int]]:
        """For a record; `from_dict` reads it."""
        patches = () if self.patches is None else (self.patches.nodes, self.patches.rows)
        return {"winograd": sorted(self.winograd), "patches": list(patches)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Sequence[int]]) -> Plan:
        """The plan that `as_dict` wrote."""
        patches = stored.get("patches")
        return cls(frozenset(stored["winograd"]), Patches(*patches) if patches else None)

    def check(self, graph: Graph, isa: Isa) -> None:
        """Check that each node's kernels offer the algorithm that the plan names, and that its patches can be computed.

        Raises:
            GraphError: naming the first node that has it not.
        """
        if self.patches is not None:
            patch_parts(graph, self.patches)
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
    """Core cycles of an operator on a Cortex-M4 without wait states, from the instructions of its kernels' loops.

    For where nothing was measured. Convolutions from 8 input channels on are within 5 % of the emulator's counts, other
    operators with weights within 12 % (tests/firmware/test_estimated_cycles.py); pools and sums are rough.
    """
    outputs = math.prod(op.output)
    if op.kind == "depthwise_conv2d":
        taps, channels, planes = math.prod(op.kernel), op.output[-1], 4 * math.prod(op.inputs[0])
        if op.kernel == (3, 3) and op.stride in ((1, 1), (2, 2)):
            each = 1.82 if op.stride == (1, 1) else 1.85  # a product with its loads, which squares share
            return outputs * (each * taps - 0.7) + planes + 30 * channels
        return outputs * (1.96 * taps - 0.9) + planes + (140 + 16 * taps) * channels
    if op.kind not in ("conv2d", "fully_connected"):
        taps = math.prod(op.kernel)
        if op.kind == "max_pool":
            return outputs * (1.5 + 6 * max(1, -(-(taps - 1) // 3)))
        beside = {"average_pool": 6 if taps in (1, 2, 4) else 33, "add": 12.5, "mul": 12.5}.get(op.kind, 9)
        return outputs * (1.3 * taps + beside)
    out_h, out_w, out_c = (1, 1, *op.output[1:])[-3:]
    in_c = op.inputs[0][-1] if op.kind == "conv2d" else math.prod(op.inputs[0])
    (height, width), pairs, pixels = op.kernel, -(-out_c // 2), out_h * out_w
    if algorithm == "winograd":
        down, across = -(-out_h // 2), -(-out_w // 2)
        groups, copied = -(-down * across // 4), down * across - max(0, down - 2) * max(0, across - 2)
        steps, turns = in_c // 2, -(-in_c // 32)
        beside = 15 if steps == 8 else 8 * turns + 35  # of a point: 16 channels have a loop of their own
        return groups * (pairs * (16 * (16 * steps + beside) + 670) + 210 * in_c + 700) + 18 * in_c * copied
    taps = height * width * in_c
    steps = 2 * -(-taps // 4)
    if pixels < 4:
        return pixels * (-(-out_c // 4) * (12 * steps + 80) + 2.4 * taps + 235)
    # Rows that are packed one by one, each for its own; four neighbours share theirs, small first layers join theirs.
    shared = width == 3 and op.stride[1] == 1 and in_c % 4 == 0
    rows = 0 if shared else 2 * height if op.kernel == (3, 3) and in_c in (1, 3) else 4 * height
    return -(-pixels // 4) * (pairs * (17 * steps + 7 * -(-steps // 12) + 100) + 14 * steps + 48 * rows + 80)


def choose_plan(
    graph: Graph,
    isa: Isa = "dsp",
    *,
    flash_bytes: int | None = None,
    ram_bytes: int | None = None,
    cycles: Cycles = estimated_cycles,
) -> Plan:
    """The plan with the fewest cycles whose program fits the flash and whose arena fits the RAM.

    Flash adds up over the nodes, so the choice of algorithms is a knapsack, solved exactly. RAM is a matter of each
    node alone: its activations and its kernel's scratch memory, which may be more or less than the other algorithm's.
    Should the memory plan need more than the largest of these, the choices that save least are given up. Patches cost
    cycles, so they are looked at only where nothing else fits the RAM: every number of first nodes, and of rows.

    Args:
        flash_bytes: of the program; None where nothing limits it.
        ram_bytes: of the arena; None where nothing limits it.
        cycles: cost of an operator under an algorithm: from a LUT, or `estimated_cycles`; inf for an algorithm that
            must not be taken, because it was never measured. A patch's operator that was never measured costs its share
            of the whole one.

    Returns:
        `DIRECT` where nothing is gained, or where no plan fits.
    """
    from toolchain.export.native import footprint

    known: dict[tuple[Operator, Algorithm], float] = {}

    def cost(op: Operator, algorithm: Algorithm) -> float:
        if (op, algorithm) not in known:
            known[op, algorithm] = cycles(op, algorithm)
        return known[op, algorithm]

    def cost_of(plan: Plan, index: int, algorithm: Algorithm) -> float:
        whole = graph.nodes[index].operator
        found = 0.0
        for op in plan.parts(graph, index):
            share = math.prod(op.output) / math.prod(whole.output)
            value = cost(op, algorithm)
            found += value if value < math.inf else share * cost(whole, algorithm)
        return found

    def fits(plan: Plan) -> bool:
        flash = flash_bytes is None or footprint.program_bytes(graph, isa, plan=plan) <= flash_bytes
        return flash and (ram_bytes is None or footprint.arena_bytes(graph, isa, plan=plan) <= ram_bytes)

    plan = _choose_algorithms(graph, isa, DIRECT, flash_bytes, ram_bytes, cost_of)
    if ram_bytes is None or fits(plan):
        return plan
    ways: list[tuple[float, Plan]] = []
    for patches in patch_choices(graph):
        way = Plan(patches=patches)
        if footprint.arena_bound(graph, isa, plan=way) <= ram_bytes:
            least = sum(
                min(cost_of(way, index, algorithm) for algorithm in _ways(node.operator, isa))
                for index, node in enumerate(graph.nodes)
            )
            ways.append((least, way))
    best, fewest = plan, math.inf
    for least, way in sorted(ways, key=lambda pair: pair[0]):
        if least >= fewest:
            break
        found = _choose_algorithms(graph, isa, way, flash_bytes, ram_bytes, cost_of)
        total = sum(cost_of(found, index, found.algorithm(index)) for index in range(len(graph.nodes)))
        if total < fewest and fits(found):
            best, fewest = found, total
    return best


def _ways(op: Operator, isa: Isa) -> tuple[Algorithm, ...]:
    return algorithms(op, isa) if op.kind in WEIGHTED else ("direct",)


def _choose_algorithms(
    graph: Graph,
    isa: Isa,
    way: Plan,
    flash_bytes: int | None,
    ram_bytes: int | None,
    cost_of: Callable[[Plan, int, Algorithm], float],
) -> Plan:
    """The best algorithms under a plan's patches; the plan as it is where even that does not fit the flash."""
    from toolchain.export.native import footprint

    def arena(winograd: frozenset[int]) -> int:
        return footprint.arena_bytes(graph, isa, plan=replace(way, winograd=winograd))

    places = footprint.memory_plan(graph, isa, plan=way).tensors
    room = None if flash_bytes is None else flash_bytes - footprint.program_bytes(graph, isa, plan=way)
    items: list[tuple[int, int, float]] = []  # node, bytes more, cycles less
    needed: set[int] = set()  # where the other algorithm has no RAM
    for index, node in enumerate(graph.nodes):
        step = index + 1
        if "winograd" not in _ways(node.operator, isa):
            continue
        parts = way.parts(graph, index)
        direct, winograd = (
            max(align(footprint.scratch_bytes(op, isa, algorithm), NATIVE_ALIGNMENT) for op in parts)
            for algorithm in algorithms(node.operator, isa)
        )
        live = sum(align(t.size_at(step), NATIVE_ALIGNMENT) for t in places if t.first <= step <= t.last)
        live -= direct
        more = footprint.constant_bytes(parts, isa, "winograd") - footprint.constant_bytes(parts, isa)
        less = cost_of(way, index, "direct") - cost_of(way, index, "winograd")
        if less == -math.inf:
            continue
        if ram_bytes is not None and live + winograd > ram_bytes:
            continue
        if ram_bytes is not None and live + direct > ram_bytes:
            needed.add(index)
            room = None if room is None else room - more
        elif less > 0:
            items.append((index, more, less))
    if room is not None and room < 0:
        return way
    chosen = _knapsack(items, room)
    saving = {index: less for index, _, less in items}
    while chosen and ram_bytes is not None and arena(chosen | needed) > ram_bytes:
        chosen -= {min(chosen, key=lambda index: (saving[index], index))}
    return replace(way, winograd=chosen | needed)


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
