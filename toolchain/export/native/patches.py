"""Patch-based execution: the first layers of a network piece by piece, so that their large maps never exist whole.

A patch is a band of rows of the last of these layers' output. What its layers read and make is traced back through
their windows; rows that two patches need are computed twice. Rows of an image lie one after the other in memory, so a
band of a map is a piece of it: kernels work on patches as on whole images, with the image's border only where there is
one, and nothing is cut out or pasted. Bands as wide as the image overlap in one dimension only, so they repeat fewer
values than as many squares, until they are as low as their overlap.

Source of the idea: Lin et al., MCUNetV2: Memory-Efficient Patch-based Inference for Tiny Deep Learning (2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from toolchain.errors import GraphError
from toolchain.graph.graph import Graph
from toolchain.graph.liveness import Lifetime, lifetimes
from toolchain.graph.memory import NATIVE_ALIGNMENT
from toolchain.graph.operator import WINDOWED, Operator, window_output, window_pads

_ELEMENTWISE: Final = ("add", "mul", "hard_swish")


@dataclass(frozen=True, slots=True)
class Patches:
    """What is computed patch by patch.

    Attributes:
        nodes: the graph's first nodes, so many of them.
        rows: of the last one's output, in a patch; the last patch may have fewer.
    """

    nodes: int
    rows: int


@dataclass(frozen=True, slots=True)
class Part:
    """One node's work in one patch.

    Attributes:
        node: its index.
        operator: what it computes, and is measured and priced as: of the rows that its windows meet, with the image's
            border where there is one.
        rows: of the node's whole output: first, and one behind the last.
        skips: input -> byte of its place at which the part begins.
        into: byte of the output's place at which it writes.
    """

    node: int
    operator: Operator
    rows: tuple[int, int]
    skips: Mapping[str, int]
    into: int


@lru_cache(maxsize=64)
def patch_parts(graph: Graph, patches: Patches) -> tuple[tuple[Part, ...], ...]:
    """The work of every patch, in order.

    Raises:
        GraphError: these nodes cannot be computed patch by patch.
    """
    _check(graph, patches)
    last = graph.nodes[patches.nodes - 1]
    height = last.operator.output[1]
    return tuple(
        _parts(graph, patches, (begin, min(begin + patches.rows, height)))
        for begin in range(0, height, patches.rows)
    )


def patch_lifetimes(graph: Graph, patches: Patches) -> list[Lifetime]:
    """Lifetimes where the first nodes run once for every patch.

    Their steps stand for all patches: what lies between them has the size of its largest part, and the network's inputs
    and the output of the last of them live through all these steps.
    """
    most: dict[str, int] = {}
    for parts in patch_parts(graph, patches):
        for part in parts[:-1]:
            name = graph.nodes[part.node].output
            size = (part.rows[1] - part.rows[0]) * _row_bytes(graph, name)
            most[name] = max(most.get(name, 0), size)
    read = {name for node in graph.nodes[: patches.nodes] for name in node.inputs}
    found = []
    for tensor in lifetimes(graph):
        if tensor.name in most:
            tensor = tensor._replace(size=most[tensor.name])
        elif tensor.name == graph.nodes[patches.nodes - 1].output:
            tensor = tensor._replace(first=1)
        elif tensor.name in graph.inputs and tensor.name in read:
            tensor = tensor._replace(last=max(tensor.last, patches.nodes))
        found.append(tensor)
    return found


def patch_choices(graph: Graph) -> tuple[Patches, ...]:
    """Every way to compute a graph's first nodes patch by patch; of two numbers of rows that make as many patches, the
    smaller.
    """
    found = []
    for nodes in range(1, len(graph.nodes) + 1):
        try:
            _check(graph, Patches(nodes, 1))
        except GraphError:
            continue
        height = graph.nodes[nodes - 1].operator.output[1]
        for rows in sorted({-(-height // count) for count in range(2, height + 1)}, reverse=True):
            try:
                patch_parts(graph, Patches(nodes, rows))
            except GraphError:
                continue  # no multiple of the alignment
            found.append(Patches(nodes, rows))
    return tuple(found)


def _check(graph: Graph, patches: Patches) -> None:
    def fail(why: str) -> GraphError:
        return GraphError(
            f"the first {patches.nodes} nodes cannot be computed patch by patch: {why}",
            remedy="take the plan from choose_plan",
        )

    if not 1 <= patches.nodes <= len(graph.nodes) or patches.rows < 1:
        raise fail(f"the graph has {len(graph.nodes)}, and a patch has at least one row")
    inside = graph.nodes[: patches.nodes]
    made = {node.output for node in inside[:-1]}
    for node in inside:
        op = node.operator
        data = node.inputs[: len(op.inputs)]
        if op.kind not in (*WINDOWED, *_ELEMENTWISE) or any(len(shape) != 4 for shape in op.inputs):
            raise fail(f"{op.kind} has no rows to go by")
        if any(shape != op.output for shape in op.inputs) and op.kind in _ELEMENTWISE:
            raise fail(f"{op.kind} of unlike shapes")
        if any(name in graph.constants for name in data):
            raise fail(f"{op.kind} of a constant")
    late = {name for node in graph.nodes[patches.nodes :] for name in node.inputs} | set(graph.outputs)
    if made & late:
        raise fail(f"{sorted(made & late)[0]!r} is needed after them")
    used = {name for node in inside for name in node.inputs}
    if made - used:
        raise fail(f"{sorted(made - used)[0]!r} is not needed")


def _row_bytes(graph: Graph, name: str) -> int:
    return math.prod(graph.tensors[name].shape[2:])


def _parts(graph: Graph, patches: Patches, rows: tuple[int, int]) -> tuple[Part, ...]:
    """The work of the patch that makes these rows."""
    inside = graph.nodes[: patches.nodes]
    needed = {inside[-1].output: rows}
    reads: list[tuple[int, int]] = []
    for node in reversed(inside):
        begin, end = _source_rows(node.operator, needed[node.output])
        reads.append((begin, end))
        for name in node.inputs[: len(node.operator.inputs)]:
            low, high = needed.get(name, (begin, end))
            needed[name] = (min(low, begin), max(high, end))
    found = []
    for index, (node, read) in enumerate(zip(inside, reversed(reads), strict=True)):
        op = node.operator
        made = needed[node.output]
        skips = {}
        for name in node.inputs[: len(op.inputs)]:
            first = 0 if name in graph.inputs else needed[name][0]
            skips[name] = (read[0] - first) * _row_bytes(graph, name)
        into = made[0] * _row_bytes(graph, node.output) if index + 1 == len(inside) else 0
        if any(byte % NATIVE_ALIGNMENT for byte in (*skips.values(), into)):
            raise GraphError(
                f"a patch of {patches.rows} rows of {node.output!r} does not begin at a multiple of {NATIVE_ALIGNMENT} "
                "bytes",
                remedy="take the plan from choose_plan",
            )
        found.append(Part(index, _operator(op, made, read), made, skips, into))
    return tuple(found)


def _source_rows(op: Operator, rows: tuple[int, int]) -> tuple[int, int]:
    """The rows of the image that windows of these output rows meet."""
    if op.kind not in WINDOWED:
        return rows
    begin, end = _window_rows(op, rows)
    return max(0, begin), min(op.inputs[0][1], end)


def _window_rows(op: Operator, rows: tuple[int, int]) -> tuple[int, int]:
    """The rows that windows of these output rows span, those of the border counted from the image's first."""
    above = window_pads(op)[0][0]
    begin, last = (row * op.stride[0] - above for row in (rows[0], rows[1] - 1))
    return begin, last + op.kernel[0]


def _operator(op: Operator, rows: tuple[int, int], read: tuple[int, int]) -> Operator:
    """What computes these output rows from those rows of the image."""
    output = (1, rows[1] - rows[0], *op.output[2:])
    if op.kind not in WINDOWED:
        return replace(op, inputs=(output,) * len(op.inputs), output=output)
    begin, end = _window_rows(op, rows)
    pads = ((read[0] - begin, end - read[1]), window_pads(op)[1])
    inputs = ((1, read[1] - read[0], *op.inputs[0][2:]),)
    if not any(p for pair in pads for p in pair):
        return replace(op, inputs=inputs, output=output, padding="valid")
    part = replace(op, inputs=inputs, output=output, padding="explicit", pads=pads)
    # One name for one thing: a patch with the border of a whole image is such an image.
    shape = window_output(inputs[0], op.kernel, op.stride, "same")
    whole = replace(op, inputs=inputs, output=(1, *shape, op.output[3]), padding="same")
    return whole if (whole.output, window_pads(whole)) == (output, pads) else part
