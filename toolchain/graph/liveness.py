"""When each activation of a graph is needed, and how many bytes are needed at once.

Times are TensorFlow Lite Micro's: step 0 is before the first node, node i runs at step i + 1. A network input
lives from step 0 to its last use, a node's output from its own step to its last use, and the network's outputs to
the end. A node's inputs and output overlap: no kernel here works in place.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from toolchain.graph.graph import Graph

_ITEM_BYTES = {"float32": 4, "int8": 1, "int32": 4}


class Lifetime(NamedTuple):
    """One activation tensor: its name, its bytes, and the first and last step (both included) at which it is needed."""

    name: str
    size: int
    first: int
    last: int


def lifetimes(graph: Graph) -> list[Lifetime]:
    """Lifetimes of all activations, inputs first and then node outputs in order. Constants need no RAM.

    A tensor that nothing reads lives for the step that makes it (an unused input: for step 0), as in TensorFlow
    Lite Micro's `AllocationInfoBuilder` (tensorflow/lite/micro/micro_allocation_info.cc).
    """
    first: dict[str, int] = dict.fromkeys(graph.inputs, 0)
    for step, node in enumerate(graph.nodes, start=1):
        first[node.output] = step
    last = dict(first)
    for step, node in enumerate(graph.nodes, start=1):
        for name in node.inputs:
            if name in last:
                last[name] = step
    for name in graph.outputs:
        if name in last:
            last[name] = len(graph.nodes)
    return [Lifetime(name, _bytes_of(graph, name), first[name], last[name]) for name in graph.activations]


def live_peak_bytes(graph: Graph, alignment: int = 1) -> int:
    """The largest number of activation bytes that are needed at one step: no memory plan can use less.

    Args:
        alignment: each tensor counts as a multiple of this many bytes.
    """
    steps = [0] * (len(graph.nodes) + 1)
    for tensor in lifetimes(graph):
        size = align(tensor.size, alignment)
        for step in range(tensor.first, tensor.last + 1):
            steps[step] += size
    return max(steps)


def live_places(graph: Graph) -> tuple[tuple[int, ...], ...]:
    """Bytes of every place that is needed while each node runs, for a runtime in which a reshape shares the place of
    its input (`toolchain.graph.memory.plan_native`): per node, in no particular order.
    """
    owner: dict[str, str] = {}
    for node in graph.nodes:
        source = node.inputs[0]
        if node.operator.kind == "reshape" and source not in graph.constants:
            owner[node.output] = owner.get(source, source)
    places: dict[str, Lifetime] = {}
    for tensor in lifetimes(graph):
        name = owner.get(tensor.name, tensor.name)
        known = places.get(name, tensor)
        places[name] = known._replace(last=max(known.last, tensor.last))
    return tuple(
        tuple(p.size for p in places.values() if p.first <= step <= p.last)
        for step in range(1, len(graph.nodes) + 1)
    )


def align(size: int, alignment: int) -> int:
    """`size` rounded up to a multiple of `alignment`."""
    return -(-size // alignment) * alignment


def _bytes_of(graph: Graph, name: str) -> int:
    tensor = graph.tensors[name]
    return math.prod(tensor.shape) * _ITEM_BYTES[tensor.dtype]
