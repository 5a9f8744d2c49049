"""Checks answers of the exact solver in plain Python integers, without the solver.

This module imports neither NumPy nor any part of the solver: who trusts these lines and the model's integers need
trust nothing else. What is proved by what:

* that the path is an architecture, its value, its costs and every budget: by adding up integers;
* an upper bound of every architecture within the budgets: by weak duality. For multipliers λ >= 0 no such path has a
  value above max over paths of (value - λ·cost) + λ·budget, which one backward pass over the arcs computes;
* optimality, where that bound equals the value: by the bound alone (`how` = "bound");
* optimality, where there is a duality gap: by exhaustion (`how` = "search"). The checker walks all partial paths itself
  and drops only those that break a budget even with the least costs to go, that no completion lifts above the
  claimed value (by the bounds), or that another partial path at the same node dominates. Nothing may be left;
* where the caller's limit of partial paths is reached first: the bound stands, optimality is not proved here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias

from toolchain.errors import ConfigurationError, VerificationError

Evidence: TypeAlias = Literal["bound", "search", "solver"]

LABELS: Final = 2_000_000
"""Partial paths that `verify` walks by default before it gives up on a proof by exhaustion."""


_WINDOW: Final = 300  # how many others a partial path is compared with; more would only save work


@dataclass(frozen=True, slots=True)
class Certificate:
    """What proves an answer. All numbers are integers, in the model's steps.

    Attributes:
        model: digest of the model (`ArcFlow.digest`).
        path: arc indices.
        value: of the path.
        budgets: (column of the cost, largest number of steps).
        shift: multipliers are in units of 2^-shift value steps per cost step.
        multipliers: sets of multipliers; each has one entry per budget on a sum, in the order of `budgets`.
        bound: the least upper bound that the multipliers give, rounded down.
        evidence: what the solver rests its claim on: "bound", "search" (its own exhaustive one) or "solver" (HiGHS).
    """

    model: str
    path: tuple[int, ...]
    value: int
    budgets: tuple[tuple[int, int], ...]
    shift: int
    multipliers: tuple[tuple[int, ...], ...]
    bound: int
    evidence: Evidence

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Certificate:
        """The inverse of `as_dict`, also after JSON.

        Raises:
            ConfigurationError: an entry is missing or of the wrong kind.
        """
        try:
            return cls(
                model=str(data["model"]),
                path=tuple(int(a) for a in data["path"]),
                value=int(data["value"]),
                budgets=tuple((int(c), int(t)) for c, t in data["budgets"]),
                shift=int(data["shift"]),
                multipliers=tuple(tuple(int(x) for x in row) for row in data["multipliers"]),
                bound=int(data["bound"]),
                evidence=data["evidence"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"not a certificate: {error}") from error


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found; it raises when a claim is false.

    Attributes:
        optimal: True when no architecture within the budgets has a larger value, proved here.
        how: "bound", "search", or "open" when the limit was reached.
        bound: no architecture within the budgets has more; equals the value when `optimal`.
        labels: partial paths walked.
    """

    optimal: bool
    how: Literal["bound", "search", "open"]
    bound: int
    labels: int


class _Combined(Protocol):
    @property
    def combine(self) -> str: ...


class _Array(Protocol):
    def tolist(self) -> Any: ...


class Graph(Protocol):
    """What the checker reads of a model; `ArcFlow` is one."""

    @property
    def nodes(self) -> int: ...
    @property
    def start(self) -> _Array: ...
    @property
    def end(self) -> _Array: ...
    @property
    def value(self) -> _Array: ...
    @property
    def costs(self) -> _Array: ...
    @property
    def metrics(self) -> Sequence[_Combined]: ...
    def digest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class _Arc:
    end: int
    value: int
    costs: tuple[int, ...]


def verify(graph: Graph, certificate: Certificate, *, labels: int = LABELS) -> Verdict:
    """Check every claim of a certificate against the model's integers.

    Args:
        graph: the model.
        certificate: of `Solution.certificate`.
        labels: how many partial paths to walk before leaving optimality open.

    Raises:
        VerificationError: a claim is false; the message says which.
    """
    if graph.digest() != certificate.model:
        raise VerificationError("the certificate belongs to another model")
    value, _ = check_path(graph, certificate.path, certificate.budgets)
    if value != certificate.value:
        raise VerificationError(f"the path's value is {value}, the certificate says {certificate.value}")
    out, limits = _reduced(graph, certificate.budgets)
    if any(len(row) != len(limits) or any(x < 0 for x in row) for row in certificate.multipliers):
        raise VerificationError("multipliers must be >= 0, one per budget on a sum")
    scale = 1 << certificate.shift
    potentials = [_to_go(out, scale, row) for row in certificate.multipliers]
    computed = _best_bound(potentials, certificate.multipliers, limits, scale)
    if computed is None or computed > certificate.bound:
        raise VerificationError(
            f"the multipliers prove the bound {computed}, the certificate says {certificate.bound}"
        )
    if computed < value:
        raise VerificationError(
            f"the bound {computed} is below the value {value}: the model is not consistent"
        )
    if computed == value:
        return Verdict(True, "bound", value, 0)
    walked, better = _exhaust(out, limits, scale, certificate.multipliers, potentials, value, labels)
    if better is not None:
        raise VerificationError(
            f"there is a path of value {better}, the certificate says {value} is the largest"
        )
    if walked > labels:
        return Verdict(False, "open", computed, walked)
    return Verdict(True, "search", value, walked)


def check_path(
    graph: Graph, path: Sequence[int], budgets: Sequence[tuple[int, int]]
) -> tuple[int, tuple[int, ...]]:
    """Value and costs of a path, added up; raises unless it leads from source to sink within the budgets.

    Raises:
        VerificationError: not a path, or a budget is broken.
    """
    start, end, values = graph.start.tolist(), graph.end.tolist(), graph.value.tolist()
    costs = graph.costs.tolist()
    node, value = 0, 0
    totals = [0] * len(graph.metrics)
    for position, arc in enumerate(path):
        if not 0 <= arc < len(start) or start[arc] != node:
            raise VerificationError(f"arc {arc} at position {position} does not start at node {node}")
        node = end[arc]
        value += values[arc]
        for j, metric in enumerate(graph.metrics):
            cost = costs[arc][j]
            if metric.combine != "max":
                totals[j] += cost
            else:
                totals[j] = cost if position == 0 else max(totals[j], cost)
    if node != graph.nodes - 1:
        raise VerificationError(f"the path ends at node {node}, the sink is {graph.nodes - 1}")
    for column, limit in budgets:
        if totals[column] > limit:
            raise VerificationError(f"cost {column} is {totals[column]} steps, the budget {limit}")
    return value, tuple(totals)


def verify_front(graph: Graph, column: int, points: Sequence[tuple[int, int]]) -> None:
    """Check that (cost, value) points are the complete Pareto front of one additive cost, by a dynamic program over
    Python integers that keeps every undominated partial path (about a second at the paper's size).

    Raises:
        VerificationError: a point is missing, dominated or not attainable.
    """
    if graph.metrics[column].combine == "max":
        raise VerificationError("a front is over an additive cost")
    start, end, values = graph.start.tolist(), graph.end.tolist(), graph.value.tolist()
    costs = [row[column] for row in graph.costs.tolist()]
    reached: list[dict[int, int]] = [{} for _ in range(graph.nodes)]
    reached[0] = {0: 0}
    arcs: list[list[int]] = [[] for _ in range(graph.nodes)]
    for arc, node in enumerate(start):
        arcs[node].append(arc)
    for node in range(graph.nodes):
        kept, best = [], None
        for cost in sorted(reached[node]):
            if best is None or reached[node][cost] > best:
                best = reached[node][cost]
                kept.append((cost, best))
        if node == graph.nodes - 1:
            if kept != list(points):
                raise VerificationError(
                    f"the front has {len(kept)} points, given are {len(points)}, or they differ"
                )
            return
        reached[node] = {}
        for arc in arcs[node]:
            into = reached[end[arc]]
            for cost, value in kept:
                c, v = cost + costs[arc], value + values[arc]
                if v > into.get(c, v - 1):
                    into[c] = v


def _reduced(graph: Graph, budgets: Sequence[tuple[int, int]]) -> tuple[list[list[_Arc]], tuple[int, ...]]:
    """Arcs by start node, with their costs only for budgets on sums; without those above a bottleneck budget, and
    without those on no path within each single budget (least costs before + arc + least after)."""
    sums = [(c, t) for c, t in budgets if graph.metrics[c].combine != "max"]
    caps = [(c, t) for c, t in budgets if graph.metrics[c].combine == "max"]
    out: list[list[_Arc]] = [[] for _ in range(graph.nodes)]
    costs = graph.costs.tolist()
    ends, values = graph.end.tolist(), graph.value.tolist()
    for arc, node in enumerate(graph.start.tolist()):
        if all(costs[arc][c] <= t for c, t in caps):
            out[node].append(_Arc(ends[arc], values[arc], tuple(costs[arc][c] for c, _ in sums)))
    for r, (_, limit) in enumerate(sums):
        row = [1 if s == r else 0 for s in range(len(sums))]
        after = _to_go(out, 0, row)
        before: list[int | None] = [None] * graph.nodes
        before[0] = 0
        for node in range(graph.nodes):
            spent = before[node]
            kept = []
            for step in out[node] if spent is not None else ():
                known, ahead = before[step.end], after[step.end]
                assert spent is not None
                if known is None or spent - step.costs[r] > known:
                    before[step.end] = spent - step.costs[r]
                if ahead is not None and step.costs[r] - spent - ahead <= limit:
                    kept.append(step)
            out[node] = kept
    return out, tuple(t for _, t in sums)


def _dot(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _to_go(out: list[list[_Arc]], scale: int, row: Sequence[int]) -> list[int | None]:
    """Largest scale * value - λ·cost from each node to the sink; None where no path leads there."""
    best: list[int | None] = [None] * len(out)
    best[-1] = 0
    for node in range(len(out) - 2, -1, -1):
        for arc in out[node]:
            ahead = best[arc.end]
            if ahead is not None:
                through = scale * arc.value - _dot(row, arc.costs) + ahead
                here = best[node]
                if here is None or through > here:
                    best[node] = through
    return best


def _best_bound(
    potentials: Sequence[list[int | None]],
    multipliers: Sequence[Sequence[int]],
    limits: Sequence[int],
    scale: int,
) -> int | None:
    bounds = [
        (potential[0] + _dot(row, limits)) // scale
        for potential, row in zip(potentials, multipliers, strict=True)
        if potential[0] is not None
    ]
    return min(bounds, default=None)


def _exhaust(
    out: list[list[_Arc]],
    limits: Sequence[int],
    scale: int,
    multipliers: Sequence[Sequence[int]],
    potentials: Sequence[list[int | None]],
    claimed: int,
    most: int,
) -> tuple[int, int | None]:
    """(partial paths walked, a value above `claimed` that some path within the budgets has, or None)."""
    kinds = range(len(limits))
    least = [_to_go(out, 0, [1 if r == s else 0 for s in kinds]) for r in kinds]
    goal = scale * (claimed + 1)
    sink = len(out) - 1
    labels: list[list[tuple[int, tuple[int, ...]]]] = [[] for _ in out]
    labels[0] = [(0, (0,) * len(limits))]
    walked = 0
    for node in range(sink):
        for value, costs in _undominated(labels[node]):
            for arc in out[node]:
                v = value + arc.value
                spent = tuple(costs[r] + arc.costs[r] for r in kinds)
                # least[r] holds minus the least cost to go
                to_go = [least[r][arc.end] for r in kinds]
                if any(g is None or spent[r] - g > limits[r] for r, g in enumerate(to_go)):
                    continue
                left = [limits[r] - spent[r] for r in kinds]
                hopeless = False
                for potential, row in zip(potentials, multipliers, strict=True):
                    ahead = potential[arc.end]
                    if ahead is None or scale * v + ahead + _dot(row, left) < goal:
                        hopeless = True
                        break
                if hopeless:
                    continue
                if arc.end == sink:
                    if v > claimed:
                        return walked, v
                    continue
                walked += 1
                if walked > most:
                    return walked, None
                labels[arc.end].append((v, spent))
        labels[node] = []
    return walked, None


def _undominated(labels: list[tuple[int, tuple[int, ...]]]) -> list[tuple[int, tuple[int, ...]]]:
    """Labels that no other equals or beats in value and every cost."""
    kept: list[tuple[int, tuple[int, ...]]] = []
    for value, costs in sorted(labels, key=lambda label: (-label[0], label[1])):
        if len(costs) == 1:  # by falling value, so only a new least cost is worth keeping
            if not kept or costs[0] < kept[-1][1][0]:
                kept.append((value, costs))
        else:
            recent = (kept[i][1] for i in range(len(kept) - 1, max(-1, len(kept) - 1 - _WINDOW), -1))
            if not any(all(a <= b for a, b in zip(other, costs, strict=True)) for other in recent):
                kept.append((value, costs))
    return kept
