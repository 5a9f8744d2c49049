"""Bytes of programs and of their arenas, without writing them: what a search counts with.

The bytes of a program are a sum: `BASE_BYTES` (of a network with one input and one output), `operator_bytes` of each
operator, and the constant operands of add, mul and concatenation, which an operator does not show. This equals
`len(write_program(graph))` exactly, because every part of a program is padded by itself. What is computed patch by
patch has a descriptor for each patch, and its constants once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from toolchain.export.native import layout
from toolchain.export.native.layout import Isa, padded
from toolchain.export.native.patches import patch_lifetimes, patch_parts
from toolchain.export.native.pieces import extents, paddings
from toolchain.export.native.plan import DIRECT, Plan
from toolchain.export.native.weights import algorithms, weighted_footprint
from toolchain.graph.graph import Graph
from toolchain.graph.liveness import Live, align
from toolchain.graph.memory import NATIVE_ALIGNMENT, MemoryPlan, native_bound, plan_native
from toolchain.graph.operator import WEIGHTED, WINDOWED, Algorithm, Operator

_WINDOW: Final = padded(layout.OPERATOR.size + layout.WINDOW_BODY.size)
_COPY: Final = padded(layout.OPERATOR.size + layout.COPY_BODY.size)
_SOFTMAX: Final = padded(layout.OPERATOR.size + layout.SOFTMAX_BODY.size)
_TABLE: Final = padded(layout.OPERATOR.size + layout.TABLE_BODY.size)


def base_bytes(inputs: int, outputs: int) -> int:
    """Bytes of a program without operators: its header and the places of its inputs and outputs."""
    return layout.HEADER.size + padded((inputs + outputs) * layout.OPERAND.size)


BASE_BYTES: Final = base_bytes(1, 1)


def operator_bytes(op: Operator, isa: Isa = "dsp", algorithm: Algorithm = "direct") -> int:
    """Bytes that an operator adds to a program: its descriptor, weights, channels and tables.

    A reshape adds nothing: its output shares the place of its input.
    """
    return _descriptor_bytes(op) + _constant_bytes(op, isa, algorithm)


def _descriptor_bytes(op: Operator) -> int:
    if op.kind in WINDOWED or op.kind in WEIGHTED:
        return _WINDOW
    if op.kind in ("add", "mul"):
        axes = len(extents(*op.inputs)) * layout.EXTENT.size
        return padded(layout.OPERATOR.size + layout.BINARY_BODY.size + axes)
    if op.kind == "pad":
        axes = len(paddings(op)) * layout.PADDING.size
        return padded(layout.OPERATOR.size + layout.PAD_BODY.size + axes)
    if op.kind == "concatenation":
        return _COPY * len(op.inputs)
    if op.kind == "softmax":
        return _SOFTMAX
    return _TABLE if op.kind == "hard_swish" else 0


def _constant_bytes(op: Operator, isa: Isa, algorithm: Algorithm) -> int:
    if op.kind in WEIGHTED:
        found = weighted_footprint(op, isa, algorithm)
        return padded(found.weight_bytes) + padded(found.channel_bytes)
    return {"softmax": 256 * 4, "hard_swish": 256}.get(op.kind, 0)


def scratch_bytes(op: Operator, isa: Isa = "dsp", algorithm: Algorithm = "direct") -> int:
    """Bytes of arena that the operator's kernel needs while it runs, beside its input and output."""
    return weighted_footprint(op, isa, algorithm).scratch_bytes if op.kind in WEIGHTED else 0


def works_in_place(op: Operator, isa: Isa = "dsp", algorithm: Algorithm = "direct") -> bool:
    """Whether the operator's kernel may write its output over an input that is not needed again."""
    if op.kind in WEIGHTED:
        return weighted_footprint(op, isa, algorithm).in_place
    return op.kind in ("add", "mul", "hard_swish", "softmax")


def step_bytes(op: Operator, live: Live, isa: Isa = "dsp", algorithm: Algorithm = "direct") -> int:
    """Bytes of arena that are needed while an operator runs: what lives then, and its kernel's scratch memory."""
    output = 0 if live.dying and works_in_place(op, isa, algorithm) else live.output
    sizes = (*live.others, output, scratch_bytes(op, isa, algorithm))
    return sum(align(size, NATIVE_ALIGNMENT) for size in sizes)


def program_bytes(graph: Graph, isa: Isa = "dsp", *, plan: Plan = DIRECT) -> int:
    """Bytes of the program that `write_program` makes of an int8 graph, exactly."""
    total = base_bytes(len(graph.inputs), len(graph.outputs))
    for index, node in enumerate(graph.nodes):
        constants = [n for n in node.inputs[: len(node.operator.inputs)] if n in graph.constants]
        total += sum(padded(graph.constants[n].size) for n in constants)
        if node.operator.kind == "reshape" and constants:
            total += _COPY
        parts = plan.parts(graph, index)
        total += sum(_descriptor_bytes(op) for op in parts)
        total += constant_bytes(parts, isa, plan.algorithm(index))
    return total


def constant_bytes(parts: Sequence[Operator], isa: Isa = "dsp", algorithm: Algorithm = "direct") -> int:
    """Bytes of weights, channels and tables of one node, which is run as these operators: one for each patch.

    Patches share them, but for patches so small that another form of the kernel runs them.
    """
    forms = {weighted_footprint(op, isa, algorithm).kernel if op.kind in WEIGHTED else 0: op for op in parts}
    return sum(_constant_bytes(op, isa, algorithm) for op in forms.values())


def memory_plan(
    graph: Graph, isa: Isa = "dsp", *, keep_inputs: bool = False, plan: Plan = DIRECT
) -> MemoryPlan:
    """Where activations and scratch memory lie in the arena of a program. For arguments see `write_program`."""
    scratch = {
        index: max(scratch_bytes(op, isa, plan.algorithm(index)) for op in plan.parts(graph, index))
        for index in range(len(graph.nodes))
    }
    lives = patch_lifetimes(graph, plan.patches) if plan.patches else None
    in_place = _in_place(graph, isa, plan)
    return plan_native(graph, scratch, in_place=in_place, keep_inputs=keep_inputs, lives=lives)


def arena_bound(graph: Graph, isa: Isa = "dsp", *, plan: Plan = DIRECT) -> int:
    """Bytes that no arena falls below, whichever algorithms are chosen for the plan's patches. Quick."""
    scratch = {}
    for index in range(len(graph.nodes)):
        ops = plan.parts(graph, index)
        ways = algorithms(ops[0], isa) if ops[0].kind in WEIGHTED else ("direct",)
        scratch[index] = min(max(scratch_bytes(op, isa, way) for op in ops) for way in ways)
    lives = patch_lifetimes(graph, plan.patches) if plan.patches else None
    return native_bound(graph, scratch, in_place=_in_place(graph, isa, plan), lives=lives)


def _in_place(graph: Graph, isa: Isa, plan: Plan) -> list[int]:
    """Nodes whose kernels write over an input where they may. A part that reads only some rows of what lies there, or
    is put among others, does not.
    """
    apart = set() if plan.patches is None else {plan.patches.nodes - 1}
    if plan.patches is not None:
        apart |= {
            part.node
            for parts in patch_parts(graph, plan.patches)
            for part in parts
            if any(part.skips.values())
        }
    return [
        index
        for index in range(len(graph.nodes))
        if index not in apart
        and all(works_in_place(op, isa, plan.algorithm(index)) for op in plan.parts(graph, index))
    ]


def arena_bytes(graph: Graph, isa: Isa = "dsp", *, keep_inputs: bool = False, plan: Plan = DIRECT) -> int:
    """Bytes of the arena: what a program's header says, and all the RAM that a run takes beside the firmware's own."""
    return memory_plan(graph, isa, keep_inputs=keep_inputs, plan=plan).arena_bytes
