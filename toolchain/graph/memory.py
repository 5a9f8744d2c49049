"""Where each activation lies in RAM: TensorFlow Lite Micro's plan, and the smallest plan there is.

Both plans give every activation one offset for its whole life and never overlap two that live at the same step
(toolchain.graph.liveness has the steps).

The greedy plan is what TensorFlow Lite Micro's interpreter will use on the device: its arena equals the "head" that the
interpreter reports (with reference kernels, which need no scratch memory; CMSIS-NN's do, and that is not in here).
The optimal one is how far greedy is from the limit. `plan_native` is the optimal plan with what our own runtime has
besides: scratch memory of kernels, reshapes that share the place of their input, and kernels that write over theirs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from types import MappingProxyType
from typing import Literal

from toolchain.errors import GraphError
from toolchain.graph.graph import Graph
from toolchain.graph.liveness import Lifetime, Places, align, lifetimes, live_peak_bytes, places

__all__ = [
    "NATIVE_ALIGNMENT",
    "TFLM_ALIGNMENT",
    "Lifetime",
    "MemoryPlan",
    "greedy",
    "lifetimes",
    "live_peak_bytes",
    "native_bound",
    "optimal",
    "plan",
    "plan_greedy",
    "plan_native",
    "plan_optimal",
    "scratch_name",
]

TFLM_ALIGNMENT = 16  # MicroArenaBufferAlignment() of TensorFlow Lite Micro
NATIVE_ALIGNMENT = 8  # of the native runtime: firmware/runtime/program.h
NODE_LIMIT = 50_000  # of the exact search, for each size that it tries; about one second
ROUNDS = 60  # of improving a first-fit order; six orders take up to half a second at 120 tensors
ALTERNATIVES = 81  # choices of what is overwritten that are tried where the first one is not proved the best
LARGEST_SEARCH = 250  # tensors; the search is recursive, and beyond this it would not finish anyway


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets of all activations in one arena.

    Attributes:
        offsets: tensor name -> first byte; a tensor that shares another's place is listed too.
        arena_bytes: size of the arena; every tensor takes its bytes rounded up to `alignment`.
        lower_bound: most bytes that live at one step, or more where the search proved more; no plan is smaller.
        proved: `arena_bytes` is the smallest possible (it equals `lower_bound`).
        method: "greedy" (TensorFlow Lite Micro's) or "optimal".
        alignment: of offsets and sizes, in bytes.
        tensors: the lifetimes that were planned.
    """

    offsets: Mapping[str, int]
    arena_bytes: int
    lower_bound: int
    proved: bool
    method: str
    alignment: int
    tensors: tuple[Lifetime, ...]

    def check(self) -> None:
        """Check that no two tensors that live at the same step overlap, and that all lie in the arena.

        Raises:
            GraphError: naming the tensors.
        """
        for tensor in self.tensors:
            begin = self.offsets[tensor.name]
            if begin < 0 or begin % self.alignment or begin + tensor.size > self.arena_bytes:
                raise GraphError(
                    f"{tensor.name!r} lies at {begin}..{begin + tensor.size}, outside an arena of "
                    f"{self.arena_bytes} bytes or off its alignment of {self.alignment}"
                )
        for index, a in enumerate(self.tensors):
            for b in self.tensors[:index]:
                at, bt = self.offsets[a.name], self.offsets[b.name]
                step = max(a.first, b.first)
                if _meet(a, b) and at < bt + b.size_at(step) and bt < at + a.size_at(step):
                    raise GraphError(f"{a.name!r} at {at} and {b.name!r} at {bt} overlap while both live")


def plan(
    graph: Graph, method: Literal["greedy", "optimal"] = "greedy", alignment: int = TFLM_ALIGNMENT
) -> MemoryPlan:
    """`plan_greedy` or `plan_optimal`, by name."""
    return plan_greedy(graph, alignment) if method == "greedy" else plan_optimal(graph, alignment)


def plan_greedy(graph: Graph, alignment: int = TFLM_ALIGNMENT) -> MemoryPlan:
    """TensorFlow Lite Micro's plan: the same offsets, so the same arena "head", as its interpreter on a device.

    Its tail (interpreter structures, quantisation parameters) is not in it. The plan is that of the file that
    `write_tflite` makes of an int8 graph (it lists activations in the graph's order, and the order breaks ties).
    A float hard-sigmoid is two operators in a file, with a tensor between them that the graph does not have.
    """
    return greedy(lifetimes(graph), alignment)


def plan_optimal(graph: Graph, alignment: int = 1, node_limit: int = NODE_LIMIT) -> MemoryPlan:
    """The smallest arena, by branch and bound; see `optimal`."""
    return optimal(lifetimes(graph), alignment, node_limit)


def plan_native(
    graph: Graph,
    scratch: Mapping[int, int] = MappingProxyType({}),
    *,
    in_place: Collection[int] = (),
    keep_inputs: bool = False,
    lives: Sequence[Lifetime] | None = None,
    alignment: int = NATIVE_ALIGNMENT,
    node_limit: int = NODE_LIMIT,
) -> MemoryPlan:
    """The smallest arena for the native runtime: activations, and scratch memory that lives for one step.

    A reshape's output shares its input's place (both stay valid as long as either is needed); only a reshape of a
    constant has a place of its own. Nodes of `in_place` may write over an input (`toolchain.graph.liveness.places`).

    Args:
        scratch: node index -> bytes of scratch memory that its kernel needs; it stands under `scratch_name(index)`.
        in_place: nodes whose kernels write their output over an input where nothing else needs it.
        keep_inputs: network inputs are never overwritten, so the network can run again on the same ones.
        lives: of the activations, where they are not those of a graph whose nodes run once each.
        alignment: of every offset and size; the same for all keeps the search exact.

    Raises:
        GraphError: a tensor has the name of a scratch memory.
    """
    working = []
    for index, size in scratch.items():
        name = scratch_name(index)
        if name in graph.tensors:
            raise GraphError(f"a tensor is named {name!r}, which the memory plan keeps for itself")
        if size:
            working.append(Lifetime(name, size, index + 1, index + 1))

    def plan_of(shared: Places) -> MemoryPlan:
        found = optimal([*shared.lifetimes, *working], alignment, node_limit)
        offsets = {**found.offsets, **{name: found.offsets[place] for name, place in shared.owner.items()}}
        return replace(found, offsets=MappingProxyType(offsets))

    first = places(graph, in_place, keep_inputs=keep_inputs, lives=lives)
    best = plan_of(first)
    # To overwrite whatever can be overwritten leaves the fewest bytes alive at each step. No other choice has a smaller
    # bound, but where the best plan does not reach it, another one's may.
    bound = _live_peak(best.tensors, alignment)
    if best.arena_bytes == bound or not first.choices:
        return best
    least = best.lower_bound
    complete = math.prod(len(names) + 1 for names in first.choices.values()) <= ALTERNATIVES
    for taken in islice(_alternatives(first), ALTERNATIVES):
        found = plan_of(places(graph, in_place, taken=taken, keep_inputs=keep_inputs, lives=lives))
        least = min(least, found.lower_bound)
        if found.arena_bytes < best.arena_bytes:
            best = found
        if best.arena_bytes == bound:
            break
    least = least if complete else bound
    return replace(best, lower_bound=least, proved=best.arena_bytes == least)


def native_bound(
    graph: Graph,
    scratch: Mapping[int, int] = MappingProxyType({}),
    *,
    in_place: Collection[int] = (),
    lives: Sequence[Lifetime] | None = None,
    alignment: int = NATIVE_ALIGNMENT,
) -> int:
    """Bytes that no arena of `plan_native` can fall below: the most that live at one step. Quick."""
    working = [
        Lifetime(scratch_name(index), size, index + 1, index + 1) for index, size in scratch.items() if size
    ]
    return _live_peak([*places(graph, in_place, lives=lives).lifetimes, *working], alignment)


def _alternatives(shared: Places) -> Iterator[dict[int, str | None]]:
    """Every other choice of what is overwritten; those come first that differ from the usual one at the last nodes."""
    options = [(*names, None) for names in shared.choices.values()]
    ways = islice(product(*options), 1, None)
    return (dict(zip(shared.choices, way, strict=True)) for way in ways)


def scratch_name(index: int) -> str:
    """Name of a node's scratch memory in a plan."""
    return f"scratch memory of node {index}"


def greedy(tensors: Sequence[Lifetime], alignment: int = TFLM_ALIGNMENT) -> MemoryPlan:
    """Place tensors from the largest to the smallest, each in the lowest gap between those that live with it.

    Of equal sizes the later tensor goes first, so the order of `tensors` matters: it is that of the model file.
    Source: tensorflow/lite/micro/memory_planner/greedy_memory_planner.cc (described, not copied).
    """
    later_first = tensors[::-1]
    order = sorted(later_first, key=lambda t: -align(t.size, alignment))
    offsets = _first_fit(order, alignment)
    arena, bound = _arena(tensors, offsets, alignment), _live_peak(tensors, alignment)
    return MemoryPlan(
        MappingProxyType(offsets), arena, bound, arena == bound, "greedy", alignment, tuple(tensors)
    )


def optimal(tensors: Sequence[Lifetime], alignment: int = 1, node_limit: int = NODE_LIMIT) -> MemoryPlan:
    """The smallest arena.

    The bound is the largest sum of live bytes. First fit in a few orders, each improved for a while, mostly
    reaches it; otherwise a search decides whether a plan of some size exists: of the bound itself, then halving
    the interval between bound and best plan.

    Args:
        node_limit: states that each of these searches may visit. When one runs out, only slightly better plans
            are sought; when that runs out too, the best plan so far comes back with `proved=False` and the best
            bound.
    """
    bound = _live_peak(tensors, alignment)
    offsets = _improved(tensors, alignment, bound)
    arena = _arena(tensors, offsets, alignment)
    # Arenas are sums of sizes, so multiples of their common divisor.
    sizes = (size for t in tensors for size in (t.size, *(smaller for _, smaller in t.shrinks)))
    step = math.gcd(*(align(size, alignment) for size in sizes)) or 1
    target, ran_out = bound, False
    while arena > bound and len(tensors) <= LARGEST_SEARCH:
        found, finished = _search(tensors, alignment, target, node_limit)
        if found is not None:
            offsets, arena = found, _arena(tensors, found, alignment)
        elif finished:
            bound = target + step
        elif ran_out:
            break
        else:
            ran_out = True
        target = arena - step if ran_out else bound + (arena - bound) // step // 2 * step
    return MemoryPlan(
        MappingProxyType(offsets), arena, bound, arena == bound, "optimal", alignment, tuple(tensors)
    )


def _meet(a: Lifetime, b: Lifetime) -> bool:
    return a.first <= b.last and b.first <= a.last


def _first_fit(order: Sequence[Lifetime], alignment: int) -> dict[str, int]:
    """Each tensor in the lowest gap that holds it among the placed ones that live with it.

    Bytes only shrink, so two tensors are largest together at the first step that they share.
    """
    placed: list[tuple[int, Lifetime]] = []
    for tensor in order:
        offset = 0
        taken = []
        for begin, other in placed:
            if _meet(other, tensor):
                step = max(tensor.first, other.first)
                room = begin - align(tensor.size_at(step), alignment)
                taken.append((room, begin + align(other.size_at(step), alignment)))
        for room, end in sorted(taken):
            if offset <= room:
                break
            offset = max(offset, end)
        placed.append((offset, tensor))
    return {tensor.name: begin for begin, tensor in placed}


def _orders(tensors: Sequence[Lifetime]) -> list[list[Lifetime]]:
    """Orders that first fit does well with: by size (TensorFlow Lite Micro's), by area, by length, by time."""
    later_first = tensors[::-1]
    return [
        sorted(later_first, key=lambda t: -t.size),
        sorted(tensors, key=lambda t: -t.size),
        sorted(tensors, key=lambda t: -t.size * (t.last - t.first + 1)),
        sorted(tensors, key=lambda t: (t.first - t.last, -t.size)),
        sorted(tensors, key=lambda t: (t.first, -t.size)),
        sorted(tensors, key=lambda t: (-t.last, -t.size)),
    ]


def _improved(tensors: Sequence[Lifetime], alignment: int, target: int) -> dict[str, int]:
    """First fit in several orders; what sticks out above the target goes earlier in the next round.

    That is "squeaky wheel" optimisation (Joslin and Clements, 1999): the trouble is mostly one tensor that found its
    place taken. Repeatable: the random steps have a fixed seed.
    """
    rng = random.Random(0)
    best: dict[str, int] = {}
    best_arena = -1
    for start in _orders(tensors):
        place = {tensor.name: float(index) for index, tensor in enumerate(start)}
        for _ in range(ROUNDS):
            found = _first_fit(sorted(start, key=lambda t: place[t.name]), alignment)
            arena = _arena(tensors, found, alignment)
            if arena < best_arena or not best:
                best, best_arena = found, arena
            if best_arena <= target:
                return best
            for tensor in tensors:
                if found[tensor.name] + align(tensor.size, alignment) > target:
                    place[tensor.name] -= rng.uniform(0.1, 0.5) * len(tensors)
    return best


def _arena(tensors: Sequence[Lifetime], offsets: Mapping[str, int], alignment: int) -> int:
    return max((offsets[t.name] + align(t.size, alignment) for t in tensors), default=0)


def _live_peak(tensors: Sequence[Lifetime], alignment: int) -> int:
    return max((sum(size for _, size in live) for live in _live_sets(tensors, alignment)), default=0)


def _live_sets(tensors: Sequence[Lifetime], alignment: int) -> list[list[tuple[int, int]]]:
    """(index, aligned size) of the tensors that live together, at each step at which something begins to live."""
    return [
        [(i, align(t.size_at(step), alignment)) for i, t in enumerate(tensors) if t.first <= step <= t.last]
        for step in sorted({t.first for t in tensors})
    ]


_WALL = 1 << 62  # height of a step at which nothing is left to place


def _search(
    tensors: Sequence[Lifetime], alignment: int, capacity: int, node_limit: int
) -> tuple[dict[str, int] | None, bool]:
    """Offsets within `capacity`, or None; and whether the search was exhaustive.

    Push every tensor of a plan down until it rests on the ground or on another: still a plan. Built from below,
    such a plan always goes on at the lowest stretch of its skyline (height per step): either some tensor whose life
    lies within the stretch rests there, or nothing does, and then the lowest thing above it rests on a neighbour,
    so the stretch can be raised to the lower neighbour. A branch ends when at some step height and bytes left to
    place exceed the capacity.
    """
    steps = sorted({t.first for t in tensors})  # a live set is largest where a life begins
    position = {step: i for i, step in enumerate(steps)}
    first = [position[t.first] for t in tensors]
    last = [max(i for i, step in enumerate(steps) if step <= t.last) for t in tensors]
    size = [[align(t.size_at(step), alignment) for step in steps] for t in tensors]
    left = [
        sum(size[i][s] for i in range(len(tensors)) if first[i] <= s <= last[i]) for s in range(len(steps))
    ]
    # Longer lives and larger tensors first: they fail early, and when they fit the rest is easy.
    order = sorted(range(len(tensors)), key=lambda i: (-(last[i] - first[i] + 1) * size[i][first[i]], i))
    height = [0] * len(steps)
    offsets: dict[int, int] = {}
    seen: set[tuple[int, tuple[int, ...]]] = set()
    budget = node_limit

    def descend(unplaced: int, height: list[int], left: list[int]) -> bool | None:
        """True: placed all. False: there is no way. None: the limit was reached."""
        nonlocal budget
        if not unplaced:
            return True
        key = (unplaced, tuple(height))
        if key in seen:
            return False
        if budget <= 0:
            return None
        budget -= 1
        seen.add(key)
        low = min(height)
        begin = height.index(low)
        end = begin
        while end + 1 < len(height) and height[end + 1] == low:
            end += 1
        complete: bool | None = False
        for i in order:
            if not unplaced >> i & 1 or first[i] < begin or last[i] > end:
                continue
            raised, rest = list(height), list(left)
            for s in range(first[i], last[i] + 1):
                rest[s] -= size[i][s]
                raised[s] = low + size[i][s] if rest[s] else _WALL
            # What is placed here costs height where it is, and nothing elsewhere: the bound still holds.
            offsets[i] = low
            result = descend(unplaced & ~(1 << i), raised, rest)
            if result:
                return True
            complete = None if result is None else complete
        neighbours = [height[s] for s in (begin - 1, end + 1) if 0 <= s < len(height)]
        up = min(neighbours, default=_WALL)
        if up < _WALL and all(up + left[s] <= capacity for s in range(begin, end + 1)):
            result = descend(unplaced, [*height[:begin], *[up] * (end - begin + 1), *height[end + 1 :]], left)
            if result:
                return True
            complete = None if result is None else complete
        return complete

    if any(need > capacity for need in left):
        return None, True
    result = descend((1 << len(tensors)) - 1, height, left)
    if result:
        return {tensors[i].name: offset for i, offset in offsets.items()}, True
    return None, result is False
