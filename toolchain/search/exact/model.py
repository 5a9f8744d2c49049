"""A search space as a layered graph in whole numbers: what the exact solver works on.

A path from node 0 to the last node is an architecture. Each arc has a value (accuracy contribution), additive
resources (latency, flash, energy) and bottleneck resources (peak RAM). BINAS's bilinear program (eq. 6) is such a
graph: the nodes (stage, blocks done), one arc per configuration of the next block, and an exit arc per allowed depth,
so that a path's value is eq. 3 and its latency eq. 5. Spaces whose blocks chain with coupled channels are the same
graph with a node per (position, shape).

Everything is an integer, so there is no tolerance anywhere: values are rounded to the nearest step, additive
resources UP to whole steps (ns, bytes, nJ), budgets DOWN. A path within its budget in steps is therefore within it in
real numbers too. The price is that a design may be refused which keeps its budget by less than one step per arc.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from toolchain.errors import ConfigurationError
from toolchain.graph.chain import Arc, Chain
from toolchain.search.protocols import Floats, Ints
from toolchain.units import Budget

Combine = Literal["sum", "max"]

VALUE_UNIT: Final = Fraction(1, 1_000_000)
"""Default step of values: a millionth of whatever the scores are in."""

_UNITS: Final = {"_us": Fraction(1, 1000), "_uj": Fraction(1, 1000), "_ms": Fraction(1, 1_000_000)}
_LIMIT: Final = 2**60  # sums along any path stay below, so int64 never wraps


def step_of(metric: str) -> Fraction:
    """The step a metric is counted in: ns for `_us` and `_ms`, nJ for `_uj`, 1 for bytes and counts."""
    return next((step for suffix, step in _UNITS.items() if metric.endswith(suffix)), Fraction(1))


@dataclass(frozen=True, slots=True)
class Metric:
    """One kind of cost of a path.

    Attributes:
        name: with its unit, e.g. `latency_us`.
        combine: "sum" of base and arcs, or "max" of base and arcs.
        base: what every architecture costs beside its arcs (a calibration's intercept), in the metric's unit.
        unit: the size of one step, in the metric's unit.
    """

    name: str
    combine: Combine = "sum"
    base: float = 0.0
    unit: Fraction = Fraction(1)

    def steps(self, bound: float) -> int:
        """The largest number of steps that arcs may have under `bound`, base taken off; rounded down."""
        if self.combine == "max":
            return math.floor(Fraction(bound) / self.unit) if bound >= self.base else -1
        return math.floor((Fraction(bound) - Fraction(self.base)) / self.unit)

    def amount(self, steps: int) -> float:
        """What a path with that many steps costs, in the metric's unit; base included."""
        if self.combine == "max":
            return max(self.base, float(steps * self.unit))
        return float(Fraction(self.base) + steps * self.unit)


class ArcMetric(Protocol):
    """A metric as a function of a chain's arcs; `profilers.cost.ArcMetric` is one."""

    @property
    def combine(self) -> Combine: ...
    @property
    def value(self) -> Callable[[Arc], float]: ...
    @property
    def base(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Layer:
    """One choice of a space whose blocks chain: states before it x candidates.

    Attributes:
        following: (states, candidates) int, the state after; negative where the candidate is not available.
        value: (states, candidates) float, contribution to the score.
        costs: (metrics, states, candidates) float, in the metrics' units.
        choice: index of this choice in an architecture, or -1 for a forced position.
    """

    following: npt.NDArray[Any]
    value: Floats
    costs: Floats
    choice: int = -1


@dataclass(frozen=True, slots=True)
class Stages:
    """The tables of BINAS (sections 3.2 to 3.4): S stages, up to D blocks, C configurations.

    Attributes:
        contributions: (S, D, C) float, accuracy contribution of configuration c in block b of stage s (the paper's
            Δ^s_{b,c}); NaN where a configuration is not available.
        depths: (S, D) float, contribution of depth b + 1 of stage s (Δ^s_b).
        costs: metric -> (S, D, C) float, in the metric's unit; t^s_{b,c} for a latency.
        min_depth: least number of blocks per stage (the official code's spaces have 2).
        base_value: score beside all contributions (the paper's E[Acc]).
        bases: metric -> cost of everything outside the blocks (stem, head, intercept); 0 where not given.
        maxima: names of the metrics that are maxima over blocks instead of sums (peak RAM).
    """

    contributions: Floats
    depths: Floats
    costs: Mapping[str, Floats]
    min_depth: int = 1
    base_value: float = 0.0
    bases: Mapping[str, float] = field(default_factory=dict)
    maxima: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.contributions.ndim != 3 or self.depths.shape != self.contributions.shape[:2]:
            raise ConfigurationError(
                f"contributions {self.contributions.shape} and depths {self.depths.shape} do not fit: S x D x C, S x D"
            )
        wrong = [name for name, cost in self.costs.items() if cost.shape != self.contributions.shape]
        if wrong:
            raise ConfigurationError(f"costs of {', '.join(wrong)} are not {self.contributions.shape}")
        if not 1 <= self.min_depth <= self.depths.shape[1]:
            raise ConfigurationError(
                f"min_depth is {self.min_depth}; depths go from 1 to {self.depths.shape[1]}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class ArcFlow:
    """A layered graph in integers. Build it with `from_layers`, `from_chain` or `from_stages`.

    Attributes:
        nodes: number of nodes, topologically ordered: start < end for every arc, 0 is the source, nodes - 1 the sink.
        start, end: (arcs,) int64 node indices; arcs are ordered by start.
        value: (arcs,) int64, in steps of `value_unit`.
        costs: (arcs, metrics) int64, in steps of each metric.
        choice, candidate: (arcs,) int64, what the arc decides in an architecture; choice -1: nothing.
        choices: length of an architecture.
        metrics: what the columns of `costs` are.
        value_unit, value_base: score of a path = value_base + value_unit * sum of values.
    """

    nodes: int
    start: Ints
    end: Ints
    value: Ints
    costs: Ints
    choice: Ints
    candidate: Ints
    choices: int
    metrics: tuple[Metric, ...]
    value_unit: Fraction = VALUE_UNIT
    value_base: float = 0.0
    first: Ints = field(init=False, repr=False)
    """(nodes + 1,) the arcs that start at node u are first[u] to first[u + 1]."""

    def __post_init__(self) -> None:
        arcs = len(self.start)
        shapes = {a.shape for a in (self.start, self.end, self.value, self.choice, self.candidate)}
        if shapes != {(arcs,)} or self.costs.shape != (arcs, len(self.metrics)):
            raise ConfigurationError(f"arrays of {arcs} arcs do not fit: {shapes}, costs {self.costs.shape}")
        if arcs and not (
            (self.start >= 0).all()
            and (self.start < self.end).all()
            and (self.end < self.nodes).all()
            and (np.diff(self.start) >= 0).all()
        ):
            raise ConfigurationError(
                "arcs are not ordered by start, or do not lead from lower to higher nodes"
            )
        length = max(1, self.nodes - 1)
        largest = max((int(np.abs(a).max(initial=0)) for a in (self.value, *self.costs.T)), default=0)
        if largest * length >= _LIMIT:
            raise ConfigurationError(
                f"values or costs of {largest} steps are too large to add over {length} arcs"
            )
        object.__setattr__(
            self, "first", np.searchsorted(self.start, np.arange(self.nodes + 1)).astype(np.int64)
        )

    @property
    def arcs(self) -> int:
        """Number of arcs."""
        return len(self.start)

    def column(self, metric: str) -> int:
        """Index of a metric.

        Raises:
            ConfigurationError: the model does not have it.
        """
        for index, known in enumerate(self.metrics):
            if known.name == metric:
                return index
        raise ConfigurationError(
            f"the model has no {metric}; it has {', '.join(m.name for m in self.metrics)}",
            remedy="profile that metric, or remove the budget",
        )

    def bounds(self, budgets: Sequence[Budget]) -> tuple[tuple[int, int], ...]:
        """Budgets as (column, largest number of steps), in the order of the columns.

        Raises:
            ConfigurationError: an unknown metric, or two budgets on one.
        """
        found = sorted((self.column(b.metric), b.bound) for b in budgets)
        if len({column for column, _ in found}) < len(found):
            raise ConfigurationError(
                f"two budgets on one metric: {', '.join(sorted(b.metric for b in budgets))}"
            )
        return tuple((column, self.metrics[column].steps(bound)) for column, bound in found)

    def totals(self, path: Sequence[int]) -> tuple[int, tuple[int, ...]]:
        """Value and costs of a path of arcs, in steps."""
        arcs = np.asarray(path, np.int64)
        costs = self.costs[arcs]
        sums = (
            costs[:, j].max() if metric.combine == "max" else costs[:, j].sum()
            for j, metric in enumerate(self.metrics)
        )
        return int(self.value[arcs].sum()), tuple(int(x) for x in sums)

    def architecture(self, path: Sequence[int]) -> tuple[int, ...]:
        """The candidate of each choice; -1 where the path does not touch the choice (a block beyond the depth)."""
        chosen = [-1] * self.choices
        for arc in path:
            if self.choice[arc] >= 0:
                chosen[int(self.choice[arc])] = int(self.candidate[arc])
        return tuple(chosen)

    def score(self, value: int) -> float:
        """Steps -> score."""
        return self.value_base + float(value * self.value_unit)

    def amounts(self, costs: Sequence[int]) -> dict[str, float]:
        """Metric -> amount in its unit, base included, from a path's steps."""
        return {m.name: m.amount(c) for m, c in zip(self.metrics, costs, strict=True)}

    def digest(self) -> str:
        """SHA-256 over the graph's integers: what a certificate is bound to."""
        found = hashlib.sha256(f"{self.nodes} {[m.combine for m in self.metrics]}".encode())
        for array in (self.start, self.end, self.value, self.costs):
            found.update(np.ascontiguousarray(array, "<i8").tobytes())
        return found.hexdigest()


def from_layers(
    layers: Sequence[Layer],
    metrics: Sequence[Metric],
    *,
    start: int = 0,
    choices: int | None = None,
    value_unit: Fraction = VALUE_UNIT,
    value_base: float = 0.0,
) -> ArcFlow:
    """A model of choices that follow each other, with states (shapes, channel counts) between them.

    Args:
        layers: in order; every state after the last layer is an end.
        metrics: the columns of `Layer.costs`; `unit` decides the steps.
        start: the state before the first layer.
        choices: length of an architecture; the largest `Layer.choice` + 1 when not given.

    Raises:
        ConfigurationError: shapes that do not fit, a state that does not exist, or a number that is not finite.
    """
    if not layers:
        raise ConfigurationError("a model needs at least one layer")
    offsets = np.cumsum([0] + [layer.following.shape[0] for layer in layers])
    sink = int(offsets[-1])
    starts, ends, values, costs, choice, candidate = [], [], [], [], [], []
    for index, layer in enumerate(layers):
        shape = layer.following.shape
        if layer.value.shape != shape or layer.costs.shape != (len(metrics), *shape):
            raise ConfigurationError(
                f"layer {index}: following {shape}, value {layer.value.shape}, costs {layer.costs.shape} do not fit"
            )
        states, candidates = np.nonzero(np.asarray(layer.following) >= 0)
        after = np.asarray(layer.following)[states, candidates]
        last = index == len(layers) - 1
        if not last and after.max(initial=0) >= layers[index + 1].following.shape[0]:
            raise ConfigurationError(
                f"layer {index} leads to state {after.max()}, which the next does not have"
            )
        starts.append(states + offsets[index])
        ends.append(np.full(len(after), sink) if last else after + offsets[index + 1])
        values.append(layer.value[states, candidates])
        costs.append(layer.costs[:, states, candidates].T)
        choice.append(np.full(len(after), layer.choice))
        candidate.append(candidates)
    if not 0 <= start < layers[0].following.shape[0]:
        raise ConfigurationError(f"start state {start}: the first layer has {layers[0].following.shape[0]}")
    begin, finish = np.concatenate(starts), np.concatenate(ends)
    if start:  # node 0 is the source: let the start state and state 0 trade places
        swap = np.arange(sink + 1)
        swap[[0, start]] = start, 0
        begin, finish = swap[begin], swap[finish]
    return _model(
        sink + 1,
        begin,
        finish,
        np.concatenate(values),
        np.concatenate(costs),
        np.concatenate(choice),
        np.concatenate(candidate),
        max(layer.choice for layer in layers) + 1 if choices is None else choices,
        tuple(metrics),
        value_unit,
        value_base,
    )


def from_chain(
    chain: Chain,
    values: Callable[[int, Arc], float] | Sequence[Sequence[float]],
    metrics: Mapping[str, ArcMetric],
    *,
    value_unit: Fraction = VALUE_UNIT,
    value_base: float = 0.0,
) -> ArcFlow:
    """A model of a space's chain.

    Args:
        chain: `Space.chain(...)`.
        values: (position, arc) -> contribution of the arc; or per position, one number for each of its arcs.
        metrics: metric -> how it is made from arcs (`profilers.cost.ArcMetric`s fit).

    Raises:
        ConfigurationError: as `from_layers`.
    """
    offsets = np.cumsum([0] + [len(states) for states in chain.states[:-1]])
    sink = int(offsets[-1])
    begin, end, value, costs, choice, candidate = [], [], [], [], [], []
    number = {position: index for index, position in enumerate(chain.choices)}
    for position, arcs in enumerate(chain.arcs):
        order = sorted(range(len(arcs)), key=lambda i, arcs=arcs: arcs[i].start)  # type: ignore[misc]
        for i in order:
            arc = arcs[i]
            begin.append(offsets[position] + arc.start)
            end.append(sink if position == len(chain.arcs) - 1 else offsets[position + 1] + arc.end)
            value.append(values(position, arc) if callable(values) else values[position][i])
            costs.append([metric.value(arc) for metric in metrics.values()])
            choice.append(number.get(position, -1))
            candidate.append(arc.candidate)
    return _model(
        sink + 1,
        np.array(begin),
        np.array(end),
        np.array(value, np.float64),
        np.array(costs, np.float64).reshape(len(begin), len(metrics)),
        np.array(choice),
        np.array(candidate),
        len(chain.choices),
        tuple(Metric(n, m.combine, float(m.base), step_of(n)) for n, m in metrics.items()),
        value_unit,
        value_base,
    )


def from_stages(stages: Stages, *, value_unit: Fraction = VALUE_UNIT) -> ArcFlow:
    """BINAS's program (eq. 6) as a graph: node (s, b) means "b blocks of stage s are done"; an exit arc carries the
    depth's contribution. An architecture has S * D entries, entry s * D + b the configuration of that block, -1 where
    the stage ends before it.

    Raises:
        ConfigurationError: a number that is not finite where it is needed.
    """
    depth, width = stages.contributions.shape[1:]
    count = len(stages.contributions)
    names = list(stages.costs)
    begin, end, value, costs, choice, candidate = [], [], [], [], [], []
    none = [0.0] * len(names)
    for s in range(count):
        for b in range(depth + 1):
            node = s * (depth + 1) + b
            if b >= stages.min_depth:
                begin.append(node)
                end.append((s + 1) * (depth + 1))
                value.append(stages.depths[s, b - 1])
                costs.append(none)
                choice.append(-1)
                candidate.append(-1)
            for c in range(width) if b < depth else ():
                if not np.isnan(stages.contributions[s, b, c]):
                    begin.append(node)
                    end.append(node + 1)
                    value.append(stages.contributions[s, b, c])
                    costs.append([stages.costs[name][s, b, c] for name in names])
                    choice.append(s * depth + b)
                    candidate.append(c)
    metrics = tuple(
        Metric(name, "max" if name in stages.maxima else "sum", stages.bases.get(name, 0.0), step_of(name))
        for name in names
    )
    return _model(
        count * (depth + 1) + 1,
        np.array(begin),
        np.array(end),
        np.array(value, np.float64),
        np.array(costs, np.float64).reshape(len(begin), len(names)),
        np.array(choice),
        np.array(candidate),
        count * depth,
        metrics,
        value_unit,
        stages.base_value,
    )


def steps_up(amounts: Floats, unit: Fraction) -> Ints:
    """Amounts in whole steps, rounded up, exactly: float rounding never makes a cost smaller than it is.

    Raises:
        ConfigurationError: an amount that is not finite or too large.
    """
    scaled = np.asarray(amounts, np.float64) / float(unit)
    if not (np.abs(scaled) < 2.0**52).all():
        raise ConfigurationError("costs must be finite and below 2^52 steps")
    result = np.ceil(scaled).astype(np.int64)
    # The division may have rounded to a whole number or across one: settle those few exactly.
    near = np.flatnonzero(np.abs(scaled - np.rint(scaled)) <= np.abs(scaled) * 2.0**-50)
    if unit != 1:
        for i in near.tolist():
            result.flat[i] = math.ceil(Fraction(float(amounts.flat[i])) / unit)
    return result


def _model(
    nodes: int,
    start: npt.NDArray[Any],
    end: npt.NDArray[Any],
    value: Floats,
    costs: Floats,
    choice: npt.NDArray[Any],
    candidate: npt.NDArray[Any],
    choices: int,
    metrics: tuple[Metric, ...],
    value_unit: Fraction,
    value_base: float,
) -> ArcFlow:
    scaled = value / float(value_unit)
    if not (np.abs(scaled) < 2.0**52).all():
        raise ConfigurationError("values must be finite and below 2^52 steps")
    steps = [steps_up(np.ascontiguousarray(costs[:, j]), m.unit) for j, m in enumerate(metrics)]
    order = np.argsort(start, kind="stable")
    return ArcFlow(
        nodes=nodes,
        start=start.astype(np.int64)[order],
        end=end.astype(np.int64)[order],
        value=np.rint(scaled).astype(np.int64)[order],
        costs=np.stack(steps, 1)[order] if steps else np.zeros((len(start), 0), np.int64),
        choice=choice.astype(np.int64)[order],
        candidate=candidate.astype(np.int64)[order],
        choices=choices,
        metrics=metrics,
        value_unit=value_unit,
        value_base=value_base,
    )
