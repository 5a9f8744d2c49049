"""The exact solver's inner loops in NumPy: the meaning of core.c, and the path where no C compiler is found.

Same steps: drop arcs by resources; Lagrangian dual (secant for one cost, Polyak's subgradient for more); beam; then
label setting with dominance and completion bounds from a pool of multipliers, above thresholds that fall from the dual
bound until a path is found, so that what was searched is all that could be better.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from toolchain.search.protocols import Ints

Mask = npt.NDArray[np.bool_]

_NONE: Final = -(2**62)  # "no path"; sums of real paths stay above -2^61
_BELOW: Final = -(2**61)
_WINDOW: Final = 50
_CHUNK: Final = 256
_HARD: Final = 50_000
_FIRST: Final = 80


class Status(IntEnum):
    """How a solve ended."""

    PROVED = 0
    INFEASIBLE = 1
    LIMIT = 2
    MEMORY = 3


@dataclass(frozen=True, slots=True)
class Raw:
    """A solve in steps and arc indices.

    Attributes:
        status: PROVED: the path is optimal. LIMIT: best found, not proved.
        path, value: the incumbent; an empty path where there is none.
        bound: upper bound by the pool, rounded down.
        shift, multipliers: the pool, in units of 2^-shift value steps per cost step.
        labels, arcs_left: work done.
        alive: after LIMIT, the arcs of all paths that could beat the incumbent.
    """

    status: Status
    path: tuple[int, ...]
    value: int
    bound: int
    shift: int
    multipliers: tuple[tuple[int, ...], ...]
    labels: int
    arcs_left: int
    alive: Mask


def pool_size(kinds: int) -> int:
    """Sets of multipliers that a solve with that many limits uses, at most."""
    return 2 + 2 * kinds


class _Graph:
    """Arcs that are still alive, grouped by rank: a node's rank is above those of all its predecessors, so the arcs
    that leave one rank are one vectorised step."""

    def __init__(
        self, nodes: int, start: Ints, end: Ints, value: Ints, costs: Ints, ids: Ints, rank: Ints
    ) -> None:
        order = np.lexsort((ids, start, rank[start]))
        self.nodes, self.rank = nodes, rank
        self.start, self.end, self.value, self.ids = start[order], end[order], value[order], ids[order]
        self.costs = costs[order]
        ranks = rank[self.start]
        cuts = np.flatnonzero(np.diff(ranks)) + 1
        edges = [0, *cuts.tolist(), len(order)] if len(order) else []
        self.steps: list[tuple[slice, Ints, Ints]] = []
        for low, high in itertools.pairwise(edges):
            begin = self.start[low:high]
            heads = np.flatnonzero(np.diff(begin, prepend=-1))
            self.steps.append((slice(low, high), heads, begin[heads]))

    @classmethod
    def of(cls, nodes: int, start: Ints, end: Ints, value: Ints, costs: Ints, alive: Mask) -> _Graph:
        rank = np.zeros(nodes, np.int64)
        for a, b in zip(start.tolist(), end.tolist(), strict=True):
            if rank[b] <= rank[a]:
                rank[b] = rank[a] + 1
        ids = np.flatnonzero(alive).astype(np.int64)
        return cls(nodes, start[ids], end[ids], value[ids], costs[ids], ids, rank)

    def only(self, alive: Mask) -> _Graph:
        return _Graph(
            self.nodes,
            self.start[alive],
            self.end[alive],
            self.value[alive],
            self.costs[alive],
            self.ids[alive],
            self.rank,
        )

    def reduced(self, shift: int, multipliers: Ints) -> Ints:
        return (self.value << shift) - self.costs @ multipliers

    def backward(self, weight: Ints) -> Ints:
        """Largest sum of weights from each node to the sink."""
        best = np.full(self.nodes, _NONE)
        best[-1] = 0
        for arcs, heads, nodes in reversed(self.steps):
            through = _plus(weight[arcs], best[self.end[arcs]])
            best[nodes] = np.maximum.reduceat(through, heads)
        return best

    def forward(self, weight: Ints) -> Ints:
        """Largest sum of weights from the source to each node."""
        best = np.full(self.nodes, _NONE)
        best[0] = 0
        for arcs, _, _ in self.steps:
            np.maximum.at(best, self.end[arcs], _plus(weight[arcs], best[self.start[arcs]]))
        return best

    def best_path(self, weight: Ints) -> tuple[int, list[int]]:
        """The largest sum from source to sink and the arcs (positions here) that attain it."""
        best = self.backward(weight)
        if best[0] < _BELOW:
            return _NONE, []
        through = _plus(weight, best[self.end])
        node, path = 0, []
        by_start = self._by_start()
        while node != self.nodes - 1:
            arcs = by_start[node]
            arc = int(arcs[int(np.argmax(through[arcs]))])
            path.append(arc)
            node = int(self.end[arc])
        return int(best[0]), path

    def _by_start(self) -> dict[int, Ints]:
        found: dict[int, Ints] = {}
        for arcs, heads, nodes in self.steps:
            numbers = np.arange(arcs.start, arcs.stop)
            for node, part in zip(nodes.tolist(), np.split(numbers, heads[1:]), strict=True):
                found[node] = part
        return found


def _plus(weight: Ints, ahead: Ints) -> Ints:
    return np.where(ahead < _BELOW, _NONE, weight + ahead)


@dataclass
class _Best:
    value: int = _NONE
    path: tuple[int, ...] = ()

    def offer(self, graph: _Graph, path: list[int], limits: Ints) -> tuple[int, Ints, bool]:
        value, cost = int(graph.value[path].sum()), graph.costs[path].sum(0)
        fits = bool((cost <= limits).all())
        if fits and (not self.path or value > self.value):
            self.value, self.path = value, tuple(graph.ids[path].tolist())
        return value, cost, fits


def solve_arrays(
    nodes: int,
    start: Ints,
    end: Ints,
    value: Ints,
    costs: Ints,
    limits: Ints,
    alive: Mask,
    *,
    passes: int,
    labels: int,
    beam: int,
) -> Raw:
    """The path of the largest value whose costs keep their limits.

    Args:
        nodes: 0 is the source, nodes - 1 the sink; arcs lead upward and are ordered by start.
        start, end, value: (arcs,).
        costs: (arcs, kinds); limits: (kinds,).
        alive: (arcs,) which arcs exist.
        passes: of the dual, at most.
        labels: partial paths per search, at most.
        beam: width of the heuristic; 0 for none.
    """
    kinds = len(limits)
    limits = limits.astype(np.int64).copy()
    graph = _Graph.of(nodes, start, end, value, costs, alive)
    pool: list[Ints] = []
    best, upper, shift, walked = _Best(), _NONE, 0, 0
    nothing = np.zeros(len(start), np.bool_)

    def raw(status: Status, left: int = 0, mask: Mask = nothing) -> Raw:
        pooled = tuple(tuple(int(x) for x in row) for row in pool)
        found = best.value if best.path else 0
        return Raw(status, best.path, found, upper >> shift, shift, pooled, walked, left, mask)

    size = int(graph.backward(np.abs(graph.value))[0])
    if size < _BELOW:
        return raw(Status.INFEASIBLE)
    shift = max(0, min(30, 50 - size.bit_length()))
    top = np.zeros(kinds, np.int64)
    for r in range(kinds):
        most = int(graph.backward(graph.costs[:, r])[0])
        total = int(graph.backward(np.abs(graph.costs[:, r]))[0])
        top[r] = 0 if most <= limits[r] else 2**58 // (total + 1) // kinds
        limits[r] = min(limits[r], most)
        if -total > limits[r]:
            return raw(Status.INFEASIBLE)
    graph = _within(graph, limits)
    high = int(graph.backward(graph.value)[0])
    if high < _BELOW:
        return raw(Status.INFEASIBLE)
    low = -int(graph.backward(-graph.value)[0])
    spread = high - low + 1
    first = min(passes, _FIRST) if kinds > 1 else passes
    upper, multipliers = _dual(graph, limits, np.zeros(kinds, np.int64), top, shift, best, first, spread)
    pool.append(multipliers)
    ceiling = upper >> shift
    if upper >> shift < low:
        return raw(Status.INFEASIBLE)
    if best.path and best.value >= upper >> shift:
        return raw(Status.PROVED)
    if kinds > 1:
        # What is better than the incumbent uses few of the arcs: go on with those. `upper` stays the bound that the
        # first multipliers prove on all arcs (the certificate's); what follows only lowers the ceiling of the search.
        if best.path:
            graph = _fixed(graph, limits, shift, pool, best.value)
            if graph.backward(graph.value)[0] < _BELOW:
                return raw(Status.PROVED)
        _, multipliers = _dual(graph, limits, multipliers, top, shift, best, passes, spread)
        pool.append(multipliers)
    for r in range(kinds) if kinds > 1 else ():
        for sign in (-1, 1):
            near = limits.copy()
            near[r] += sign * (limits[r] // 25)
            pool.append(_dual(graph, near, multipliers, top, shift, _Best(), 60, spread)[1])
    for row in pool[1:]:
        bound = int(graph.backward(graph.reduced(shift, row))[0]) + int(row @ limits)
        ceiling = min(ceiling, bound >> shift)
    if best.path and best.value >= ceiling:
        return raw(Status.PROVED)
    if beam:
        floor = best.value if best.path else low - 1
        _, count = _search(graph, limits, shift, pool, floor, labels, beam, best)
        walked += count
    if best.path and best.value >= ceiling:
        return raw(Status.PROVED)
    floor = best.value if best.path else low - 1
    delta = (ceiling - floor) // 4 + 1 if best.path else spread // 32 + 1
    patience = _HARD if kinds > 1 and beam and labels > _HARD else labels
    while True:
        threshold = max(floor, ceiling - delta)
        part = _fixed(graph, limits, shift, pool, threshold)
        done, count = _search(part, limits, shift, pool, threshold, patience, 0, best)
        walked += count
        if not done and patience < labels:
            # A hard one: a much wider beam first, its better incumbent saves more than it costs.
            patience = labels
            floor = best.value if best.path else low - 1
            walked += _search(graph, limits, shift, pool, floor, labels, beam * 10, best)[1]
            if best.path and best.value >= ceiling:
                return raw(Status.PROVED, len(part.ids))
            floor = best.value if best.path else low - 1
            continue
        if not done:
            part = _fixed(graph, limits, shift, pool, best.value if best.path else low - 1)
            mask = nothing.copy()
            mask[part.ids] = True
            return raw(Status.LIMIT, len(part.ids), mask)
        if best.path and best.value > floor:
            return raw(Status.PROVED, len(part.ids))
        if threshold <= floor:
            return raw(Status.PROVED if best.path else Status.INFEASIBLE, len(part.ids))
        delta *= 2


def _within(graph: _Graph, limits: Ints) -> _Graph:
    """Only arcs that lie on a path within each single limit."""
    for r, limit in enumerate(limits.tolist()):
        cost = graph.costs[:, r]
        before, after = graph.forward(-cost), graph.backward(-cost)
        ends = (before[graph.start] > _BELOW) & (after[graph.end] > _BELOW)
        graph = graph.only(ends & (cost - before[graph.start] - after[graph.end] <= limit))
    return graph


def _fixed(graph: _Graph, limits: Ints, shift: int, pool: list[Ints], floor: int) -> _Graph:
    """Only arcs that may lie on a path of value > floor (reduced-cost fixing)."""
    for row in pool:
        weight = graph.reduced(shift, row)
        before, after = graph.forward(weight)[graph.start], graph.backward(weight)[graph.end]
        need = ((floor + 1) << shift) - int(row @ limits)
        graph = graph.only((before > _BELOW) & (after > _BELOW) & (before + weight + after >= need))
    return _within(graph, limits)


def _dual(
    graph: _Graph, limits: Ints, begin: Ints, top: Ints, shift: int, best: _Best, passes: int, spread: int
) -> tuple[int, Ints]:
    """(bound, scaled; multipliers): the least Lagrangian bound that was found; better paths go to `best`."""
    unit = 1 << shift
    if len(limits) <= 1:
        found = np.zeros(len(limits), np.int64)
        upper, path = graph.best_path(graph.reduced(shift, found))
        v0, cost, fits = best.offer(graph, path, limits)
        if fits:
            return upper, found
        upper += int(found @ limits)
        c0, last = int(cost[0]), int(top[0])
        _, path = graph.best_path(-graph.costs[:, 0])
        v1, cost, _ = best.offer(graph, path, limits)
        c1 = int(cost[0])
        for _ in range(passes):
            if c0 <= c1:
                break
            each = max(0, min(int(top[0]), round((v0 - v1) / (c0 - c1) * unit)))
            if each == last:
                break
            last = each
            row = np.array([each])
            at_source, path = graph.best_path(graph.reduced(shift, row))
            bound = at_source + each * int(limits[0])
            if bound < upper:
                upper, found = bound, row
            value, cost, fits = best.offer(graph, path, limits)
            here = (value, int(cost[0]))
            if here in ((v0, c0), (v1, c1)):
                break
            if fits:
                v1, c1 = here
            else:
                v0, c0 = here
        return upper, found
    at, kept, found = begin.astype(float), begin.astype(float), begin
    bound_found: int | None = None
    theta, stall = 1.0, 0
    scale = np.maximum(limits, 1).astype(float)
    for _ in range(passes):
        row = np.clip(np.rint(at), 0, top.astype(float)).astype(np.int64)
        at_source, path = graph.best_path(graph.reduced(shift, row))
        bound = at_source + int(row @ limits)
        _, cost, _ = best.offer(graph, path, limits)
        if bound_found is None or bound < bound_found:
            stall = 0 if bound_found is None or bound < bound_found - 1e-5 * spread * unit else stall + 1
            bound_found, found, kept = bound, row, row.astype(float)
        else:
            stall += 1
        if best.path and bound_found < (best.value + 1) * unit:
            break
        if stall >= 8:
            theta, stall, at = theta / 2, 0, kept.copy()
            if theta < 1e-4:
                break
            continue
        share = (limits - cost) / scale
        norm = float((share[(row > 0) | (share <= 0)] ** 2).sum())
        if norm < 1e-18:
            break
        goal = best.value * unit if best.path else bound_found - 0.1 * spread * unit
        at = np.maximum(0.0, at - theta * 0.5 * max(0.0, bound - goal) / norm * share / scale)
    assert bound_found is not None
    return bound_found, found


def _search(
    graph: _Graph,
    limits: Ints,
    shift: int,
    pool: list[Ints],
    above: int,
    most: int,
    beam: int,
    best: _Best,
) -> tuple[bool, int]:
    """(nothing was cut short, partial paths): label setting over all partial paths that may end above `above`."""
    weights = [graph.reduced(shift, row) for row in pool]
    potentials = [graph.backward(weight) for weight in weights]
    if not len(graph.ids) or potentials[0][0] < _BELOW:
        return True, 0
    through = np.stack([_plus(w, h[graph.end]) for w, h in zip(weights, potentials, strict=True)])
    rows = np.stack(pool)
    togo = np.zeros((len(graph.ids), len(limits)), np.int64)
    for r in range(len(limits)):
        togo[:, r] = -graph.backward(-graph.costs[:, r])[graph.end]
    goal = (above + 1) << shift
    kinds = len(limits)
    # Where labels came from, in one growing table; per node, blocks of (number, value, costs, bound).
    parents, by = [np.full(1, -1)], [np.full(1, -1)]
    waiting: dict[int, list[tuple[Ints, Ints, Ints, Ints]]] = {
        0: [(np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros((1, kinds), np.int64), np.full(1, 2**62))]
    }
    count, found = 1, -1
    final = above
    for node, arcs in sorted(graph._by_start().items()):
        blocks = waiting.pop(node, None)
        if blocks is None:
            continue
        number, v, c, bound = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        keep = np.flatnonzero(bound >= goal)
        order = np.argsort(-bound[keep], kind="stable")[:beam] if beam else _undominated(v[keep], c[keep])
        keep = keep[order]
        for part in _chunks(keep, max(1, 200_000 // len(arcs))):
            lagrangian = (v[part] << shift)[:, None] + (limits - c[part]) @ rows.T
            ub = np.full((len(part), len(arcs)), 2**62)
            for z in range(len(pool)):
                np.minimum(ub, lagrangian[:, z, None] + through[z, arcs][None, :], out=ub)
            fits = ub >= goal
            for r in range(kinds):
                fits &= c[part, r][:, None] + (graph.costs[arcs, r] + togo[arcs, r])[None, :] <= limits[r]
            i, j = np.nonzero(fits)
            if count + len(i) > most:
                return _finish(False, count, found, final, best, graph, parents, by)
            arc = arcs[j]
            new_v, new_c = v[part][i] + graph.value[arc], c[part][i] + graph.costs[arc]
            numbers = np.arange(count, count + len(i))
            parents.append(number[part][i])
            by.append(arc)
            count += len(i)
            ends = graph.end[arc]
            for end in np.unique(ends).tolist():
                at = np.flatnonzero(ends == end)
                if end == graph.nodes - 1:
                    top = int(at[int(np.argmax(new_v[at]))])
                    if new_v[top] > final:
                        final, found = int(new_v[top]), int(numbers[top])
                        goal = (final + 1) << shift
                else:
                    waiting.setdefault(end, []).append((numbers[at], new_v[at], new_c[at], ub[i[at], j[at]]))
    return _finish(True, count, found, final, best, graph, parents, by)


def _finish(
    done: bool,
    count: int,
    found: int,
    final: int,
    best: _Best,
    graph: _Graph,
    parents: list[Ints],
    by: list[Ints],
) -> tuple[bool, int]:
    if found >= 0:
        parent, arc = np.concatenate(parents), np.concatenate(by)
        path = []
        while parent[found] >= 0:
            path.append(int(graph.ids[arc[found]]))
            found = int(parent[found])
        best.value, best.path = final, tuple(reversed(path))
    return done, count


def _chunks(keep: Ints, size: int) -> Iterator[Ints]:
    for low in range(0, len(keep), size):
        yield keep[low : low + size]


def _undominated(value: Ints, costs: Ints) -> Ints:
    """Positions of labels that no other equals or beats in value and every cost."""
    kinds = costs.shape[1]
    if not len(value):
        return np.zeros(0, np.int64)
    if kinds == 0:
        return np.array([int(np.argmax(value))])
    if kinds == 1:
        order = np.lexsort((-value, costs[:, 0]))
        v = value[order]
        before = np.maximum.accumulate(v)
        single: Ints = order[np.concatenate([[True], v[1:] > before[:-1]])]
        return single
    order = np.lexsort((*costs.T[::-1], -value))
    kept: Ints = np.zeros(0, np.int64)
    for part in _chunks(order, _CHUNK):
        mine = costs[part]
        others = np.concatenate([costs[kept[-_WINDOW:]], mine])
        older = len(others) - len(part)
        beats: Mask = np.logical_and.reduce(others[:, None, :] <= mine[None, :, :], axis=2)
        # Within the chunk only earlier ones count: they have at least the value.
        beats[older:] &= np.arange(len(part))[:, None] < np.arange(len(part))[None, :]
        kept = np.concatenate([kept, part[~beats.any(0)]])
    return kept
