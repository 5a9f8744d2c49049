"""When each activation of a graph is needed, and how many bytes are needed at once.

Times are TensorFlow Lite Micro's: step 0 is before the first node, node i runs at step i + 1. A network input
lives from step 0 to its last use, a node's output from its own step to its last use, and the network's outputs to
the end. TensorFlow Lite Micro's kernels do not work in place, so a node's inputs and output live together.

Our own runtime's kernels can: `places` says what shares a place then, `live_steps` what lives while each node runs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from toolchain.graph.graph import Graph, Node

_ITEM_BYTES = {"float32": 4, "int8": 1, "int32": 4}


class Lifetime(NamedTuple):
    """One activation tensor, or a place that several take one after the other.

    Attributes:
        name: of the tensor; of a place, of the first tensor in it.
        size: bytes, from the first step on.
        first, last: steps (both included) between which it is needed.
        shrinks: (step, bytes from this step on), steps ascending and bytes descending: later tensors of a place may be
            smaller, and leave its end to others.
    """

    name: str
    size: int
    first: int
    last: int
    shrinks: tuple[tuple[int, int], ...] = ()

    def size_at(self, step: int) -> int:
        """Bytes that are needed at a step of its life."""
        size = self.size
        for begin, smaller in self.shrinks:
            if begin <= step:
                size = smaller
        return size


class Live(NamedTuple):
    """What lives while one node runs, where kernels may work in place.

    Attributes:
        output: bytes of the node's output; 0 for a reshape, whose output is its input.
        others: bytes of each other place, in no particular order.
        dying: the output may take the place of one of the others: it is no larger, and that one is not needed again.
            Whether it does is the kernel's matter.
    """

    output: int
    others: tuple[int, ...]
    dying: bool

    def scaled(self, factor: float) -> Live:
        """The same for elements of another size."""
        return Live(int(self.output * factor), tuple(int(size * factor) for size in self.others), self.dying)


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


def live_steps(graph: Graph) -> tuple[Live, ...]:
    """What lives while each node runs, for a runtime in which a reshape's output is its input."""
    owner, groups = _groups(graph, False, lifetimes(graph))
    kept = {owner.get(name, name) for name in graph.outputs}
    found = []
    for index, node in enumerate(graph.nodes):
        own = owner.get(node.output, node.output)
        made = groups[own].first == index + 1
        others = [
            g.size for g in groups.values() if g.first <= index + 1 <= g.last and not (made and g.name == own)
        ]
        dying = bool(_overwritten(node, index, owner, groups, kept))
        found.append(Live(groups[own].size if made else 0, tuple(others), dying))
    return tuple(found)


class Places(NamedTuple):
    """The places of a graph's activations.

    Attributes:
        lifetimes: of each place.
        owner: tensor -> its place, for all tensors whose place has another name.
        choices: node -> the inputs whose place its output could take; where it takes none, its own.
    """

    lifetimes: tuple[Lifetime, ...]
    owner: Mapping[str, str]
    choices: Mapping[int, tuple[str, ...]]


def places(
    graph: Graph,
    in_place: Collection[int] = (),
    *,
    taken: Mapping[int, str | None] = MappingProxyType({}),
    keep_inputs: bool = False,
    lives: Sequence[Lifetime] | None = None,
) -> Places:
    """What needs a place of its own, where a reshape's output is its input and some kernels write over an input.

    Args:
        in_place: nodes whose kernels can: an output takes the place of an input that is not needed again and at least
            as large; of an add or mul, only of one that is not broadcast. The network's outputs are never overwritten.
        taken: node -> the input whose place it takes (one of `choices`), or None to have its own. Default: the first.
        keep_inputs: the network's inputs are never overwritten either.
        lives: of the activations, where they differ from `lifetimes(graph)`.
    """
    owner, groups = _groups(graph, keep_inputs, lifetimes(graph) if lives is None else lives)
    kept = {owner.get(name, name) for name in (*graph.outputs, *(graph.inputs if keep_inputs else ()))}
    choices: dict[int, tuple[str, ...]] = {}
    place_of = {name: name for name in groups}
    found = dict(groups)
    for index in sorted(in_place):
        node = graph.nodes[index]
        names = _overwritten(node, index, owner, groups, kept)
        if not names:
            continue
        choices[index] = names
        name = taken.get(index, names[0])
        if name is None:
            continue
        place, own = place_of[owner.get(name, name)], owner.get(node.output, node.output)
        before, after = found[place], found.pop(own)
        shrinks = before.shrinks
        if after.size < before.size_at(before.last):
            shrinks += ((after.first + 1, after.size),)
        found[place] = before._replace(last=after.last, shrinks=shrinks)
        place_of[own] = place
    shared = {name: place_of[owner.get(name, name)] for name in graph.activations}
    shared = {name: place for name, place in shared.items() if name != place}
    return Places(tuple(found.values()), MappingProxyType(shared), MappingProxyType(choices))


def _groups(
    graph: Graph, keep_inputs: bool, lives: Sequence[Lifetime]
) -> tuple[dict[str, str], dict[str, Lifetime]]:
    """Tensors and their reshapes: (tensor -> the one whose place it shares, that one's name -> life of all of them).

    A reshape of a constant has a place of its own.
    """
    owner: dict[str, str] = {}
    for node in graph.nodes:
        source = node.inputs[0]
        if node.operator.kind == "reshape" and source not in graph.constants:
            owner[node.output] = owner.get(source, source)
    groups: dict[str, Lifetime] = {}
    for tensor in lives:
        name = owner.get(tensor.name, tensor.name)
        last = len(graph.nodes) if keep_inputs and tensor.name in graph.inputs else tensor.last
        known = groups.get(name, tensor)
        groups[name] = known._replace(last=max(known.last, last))
    return owner, groups


def _overwritten(
    node: Node, index: int, owner: Mapping[str, str], groups: Mapping[str, Lifetime], kept: Collection[str]
) -> tuple[str, ...]:
    """The inputs whose place a node's output may take: nothing else needs them, and they are not smaller."""
    op, step = node.operator, index + 1
    if op.kind in ("reshape", "concatenation", "pad"):
        return ()
    names = [
        name
        for name, shape in zip(node.inputs, op.inputs, strict=False)
        if shape == op.output or op.kind not in ("add", "mul")
    ]
    own = groups[owner.get(node.output, node.output)]
    return tuple(
        dict.fromkeys(
            name
            for name in names
            if (place := owner.get(name, name)) in groups
            and place not in kept
            and groups[place].last == step
            and groups[place].size >= own.size
        )
    )


def align(size: int, alignment: int) -> int:
    """`size` rounded up to a multiple of `alignment`."""
    return -(-size // alignment) * alignment


def _bytes_of(graph: Graph, name: str) -> int:
    tensor = graph.tensors[name]
    return math.prod(tensor.shape) * _ITEM_BYTES[tensor.dtype]
