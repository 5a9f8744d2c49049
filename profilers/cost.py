"""Prices of architectures: a space's chain with a cost on every arc, as tables that numpy adds up quickly.

A metric is a sum over the arcs of a path (latency, parameters, MACs, bytes of flash) or a maximum (RAM). Positions
with one candidate (stem, head) are folded into their neighbours, so pricing touches one table per choice.

Sums are exact: every arc's cost is rounded to a grid of powers of two that a float64 adds without error (2^-20 of
the metric's unit, under a trillionth of a second for a latency, coarser only where sums exceed 2^32). So a price does
not depend on the order of addition, and `swaps`, `least` and `price` agree to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from profilers.calibrate import Calibration
from profilers.counts import FlashModel
from toolchain.errors import ConfigurationError, LutError
from toolchain.graph.chain import Arc, Chain
from toolchain.graph.operator import Operator
from toolchain.measurement import Evidence, Measurement, Stack

Floats = NDArray[np.float64]
Combine = Literal["sum", "max"]
Architecture = tuple[int, ...]

_GRID_BITS = 20  # finest step of a cost: 2^-20 of the metric's unit
_BATCH = 16384  # architectures at a time: index, gather and sums stay in a core's second-level cache


@dataclass(frozen=True)
class ArcMetric:
    """How one metric of a path is made from its arcs.

    Attributes:
        combine: "sum" (base + sum over arcs) or "max" (the largest of base and all arcs).
        value: cost of one arc, finite and not negative.
        base: cost of every network beside its arcs.
        evidence: what the sum or maximum is: COMPUTED where it is exact, else PREDICTED.
        origin: for a prediction, the evidence of the numbers below it; for messages and reports.
    """

    combine: Combine
    value: Callable[[Arc], float]
    base: float = 0.0
    evidence: Evidence = Evidence.PREDICTED
    origin: str = ""


def operator_sum(
    metric: str,
    values: Mapping[Operator, float],
    chain: Chain,
    *,
    calibration: Calibration | None = None,
    origin: str = "",
) -> ArcMetric:
    """The metric that sums measured operators, corrected by a calibration where there is one; also of arcs that are not
    the chain's, with the same operators by another algorithm, where these have values.

    An operator costs scale * value + per_operator, but never less than nothing; a network costs the intercept more.

    Raises:
        LutError: an operator of the chain has no value, or one that is negative or not finite.
    """
    missing = [op for op in chain.operators if op not in values]
    if missing:
        first = "; ".join(op.signature for op in missing[:3])
        raise LutError(
            f"{metric}: {len(missing)} of {len(chain.operators)} operators of this space have no row, "
            f"first: {first}",
            remedy="run `boardfit profile` to measure them",
        )
    bad = [op for op, value in values.items() if not 0 <= value < math.inf]
    if bad:
        raise LutError(
            f"{metric} of {bad[0].signature!r} is {values[bad[0]]}; it must be finite and not negative "
            f"({len(bad)} such rows)",
            remedy="measure them again, or correct the table",
        )
    scale, each, base = 1.0, 0.0, 0.0
    if calibration is not None:
        scale, each, base = calibration.scale, calibration.per_operator, calibration.intercept
        origin = origin or calibration.evidence.value
    costs = {op: max(0.0, scale * value + each) for op, value in values.items()}

    def value(arc: Arc) -> float:
        if arc.bands:
            return sum(costs[op] * band.share for op, band in zip(arc.operators, arc.bands, strict=True))
        return sum(costs[op] for op in arc.operators)

    return ArcMetric("sum", value, base, origin=origin)


def flash_bytes(model: FlashModel) -> ArcMetric:
    """Predicted bytes of the model file; `profilers.counts.graph_costs` has the exact figure of one network."""
    return ArcMetric(
        "sum",
        lambda arc: arc.constant_bytes + sum(model.overhead(op) for op in arc.operators),
        model.base,
        origin=model.origin,
    )


PARAMS = ArcMetric("sum", lambda arc: sum(op.params for op in arc.operators), evidence=Evidence.COMPUTED)
MACS = ArcMetric("sum", lambda arc: sum(op.macs for op in arc.operators), evidence=Evidence.COMPUTED)
# A maximum over blocks: a lower bound of every plan, reached by the optimal one where blocks are chains.
RAM_BYTES = ArcMetric("max", lambda arc: arc.ram_bytes, origin=Evidence.COMPUTED.value)


@dataclass(frozen=True, eq=False)
class _Layer:
    """One choice with the forced positions behind it. The last state is dead: it is reached where a candidate is
    not available, and everything from it costs inf.

    Attributes:
        following: states + 1 x candidates, the state after.
        cost: metrics x (states + 1) x candidates.
    """

    following: NDArray[np.intp]
    cost: Floats


@dataclass(frozen=True, eq=False)
class CostTable:
    """Prices the paths of a chain: the `CostModel` of toolchain.search.

    Build with `CostTable.build` (usual metrics) or `CostTable.of` (any metrics). Architectures are arrays of
    candidate indices, n x `length`; where a candidate is not available, every metric is inf.

    Attributes:
        metrics: names, in the order of the columns.
        combines: "sum" or "max" per metric.
        evidence: metric -> evidence of a price.
        origins: metric -> what a predicted price rests on.
        stack: the stack of the measured metrics, or None.
    """

    metrics: tuple[str, ...]
    combines: tuple[Combine, ...]
    evidence: Mapping[str, Evidence]
    origins: Mapping[str, str]
    stack: Stack | None
    _start: int
    _base: Floats
    _layers: tuple[_Layer, ...]
    _states_at_end: int  # with the dead state, the last
    _is_max: NDArray[np.bool_] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_is_max", np.array([c == "max" for c in self.combines], np.bool_))

    @classmethod
    def build(
        cls,
        chain: Chain,
        operator_values: Mapping[str, Mapping[Operator, float]],
        *,
        calibrations: Mapping[str, Calibration] | None = None,
        flash: FlashModel | None = None,
        extra: Mapping[str, ArcMetric] | None = None,
        candidates: Sequence[int] | None = None,
        origin: str = "",
        stack: Stack | None = None,
    ) -> CostTable:
        """A table of measured metrics, then `params`, `macs`, `flash_bytes` (with a flash model) and `ram_bytes`.

        Args:
            operator_values: metric -> operator -> value in the metric's unit; every operator of the chain.
            calibrations: metric -> correction from whole networks (`profilers.calibrate`).
            extra: further metrics, or other readings of the usual ones; they replace those of the same name.
            candidates: candidates per choice, where the chain's arcs do not show them all.
            origin: evidence of the operator values, e.g. "host_wall".
            stack: what they were measured on.

        Raises:
            LutError: a measured metric misses operators of the chain; the message names how many and the first.
            ConfigurationError: a chain that is not one (see `of`).
        """
        calibrations = calibrations or {}
        metrics = {
            name: operator_sum(name, values, chain, calibration=calibrations.get(name), origin=origin)
            for name, values in operator_values.items()
        }
        metrics |= {"params": PARAMS, "macs": MACS}
        if flash is not None:
            metrics["flash_bytes"] = flash_bytes(flash)
        metrics["ram_bytes"] = RAM_BYTES
        return cls.of(chain, {**metrics, **(extra or {})}, candidates=candidates, stack=stack)

    @classmethod
    def of(
        cls,
        chain: Chain,
        metrics: Mapping[str, ArcMetric],
        *,
        candidates: Sequence[int] | None = None,
        stack: Stack | None = None,
    ) -> CostTable:
        """A table of any metrics.

        Raises:
            ConfigurationError: no metric, two arcs for one candidate in one state, an unlisted position with
                several candidates, an arc to a state that does not exist, or a cost that is negative or not finite.
        """
        if not metrics:
            raise ConfigurationError("a cost table needs at least one metric")
        combines: tuple[Combine, ...] = tuple(m.combine for m in metrics.values())
        maxima = np.array([c == "max" for c in combines], np.bool_)
        _check(chain)
        layers = [
            _position_layer(chain, position, tuple(metrics.values()), candidates)
            for position in range(len(chain.arcs))
        ]
        base = np.array([m.base for m in metrics.values()], np.float64)
        if not (np.isfinite(base).all() and (base >= 0).all()):
            raise ConfigurationError(f"the base costs of {', '.join(metrics)} are {base.tolist()}")
        layers, base = _rounded(layers, base, maxima, tuple(metrics))
        start = 0
        folded: list[_Layer] = []
        for position, layer in enumerate(layers):
            if position in chain.choices:
                folded.append(layer)
            elif folded:
                folded[-1] = _fold(folded[-1], layer, maxima)
            else:  # the stem: one start state, so it is a constant
                base = _join(base, layer.cost[:, start, 0], maxima)
                start = int(layer.following[start, 0])
        return cls(
            metrics=tuple(metrics),
            combines=combines,
            evidence=MappingProxyType({name: m.evidence for name, m in metrics.items()}),
            origins=MappingProxyType({name: m.origin for name, m in metrics.items()}),
            stack=stack,
            _start=start,
            _base=base,
            _layers=tuple(folded),
            _states_at_end=len(chain.states[-1]) + 1,
        )

    @property
    def length(self) -> int:
        """Number of choices: the columns of an array of architectures."""
        return len(self._layers)

    @property
    def candidates(self) -> tuple[int, ...]:
        """Number of candidates per choice."""
        return tuple(layer.following.shape[1] for layer in self._layers)

    def price(self, architectures: NDArray[Any] | Sequence[Sequence[int]]) -> Floats:
        """Costs of n architectures: float64, n x metrics; a row of inf where a candidate is not available.

        Raises:
            ConfigurationError: not an n x `length` array of integers, or an index that no candidate has.
        """
        choices = self._checked(architectures)
        count, metrics = len(choices), len(self.metrics)
        result = np.empty((count, metrics))
        size = min(_BATCH, max(count, 1))
        index, offset = np.empty(size, np.intp), np.empty(size, np.intp)
        gathered, total = np.empty(size), np.empty((metrics, size))
        for begin in range(0, count, size):
            codes = choices[begin : begin + size].T.astype(np.intp, order="C")
            n = codes.shape[1]
            self._check_range(codes)
            i, o, g = index[:n], offset[:n], gathered[:n]
            total[:, :n] = self._base[:, None]
            o.fill(self._start)
            for layer, code in zip(self._layers, codes, strict=True):
                # "clip" spares numpy a second check: states and codes are in range
                np.multiply(o, layer.following.shape[1], out=i)
                np.add(i, code, out=i)
                for metric in range(metrics):
                    np.take(layer.cost[metric], i, out=g, mode="clip")
                    join = np.maximum if self._is_max[metric] else np.add
                    join(total[metric, :n], g, out=total[metric, :n])
                np.take(layer.following, i, out=o, mode="clip")
            result[begin : begin + n] = total[:, :n].T
        return result

    def swaps(self, architecture: Sequence[int]) -> list[Floats]:
        """Costs of every architecture that differs in one choice: per choice, candidates x metrics.

        Row j of entry l is what `price` gives for `architecture` with choice l set to j, to the last bit: the
        choices behind l keep their candidates but may stand in another state, or not be available in it (inf).
        One pass forward (costs so far) and one backward (costs to go, from every state) make all L x N swaps.

        Raises:
            ConfigurationError: as `price`.
        """
        codes = self._checked([tuple(architecture)])[0].astype(np.intp)
        self._check_range(codes[:, None])
        # to_go[l]: metrics x states before choice l, for the architecture's candidates from l on
        to_go: list[Floats] = [np.zeros((len(self.metrics), self._states_at_end))]
        for layer, code in zip(reversed(self._layers), codes[::-1], strict=True):
            ahead = to_go[-1][:, layer.following[:, code]]
            to_go.append(_join(layer.cost[:, :, code], ahead, self._is_max))
        to_go.reverse()
        result = []
        so_far, state = self._base, self._start
        for choice, (layer, code) in enumerate(zip(self._layers, codes, strict=True)):
            here = _join(so_far[:, None], layer.cost[:, state, :], self._is_max)
            swapped = _join(here, to_go[choice + 1][:, layer.following[state]], self._is_max)
            result.append(np.ascontiguousarray(swapped.T))
            so_far, state = here[:, code], int(layer.following[state, code])
        return result

    def least(self) -> dict[str, tuple[float, Architecture]]:
        """The least achievable value of each metric alone, with an architecture that has it: metric -> (value,
        architecture). Exact, by dynamic programming backward; ties go to the lowest candidates.

        Raises:
            ConfigurationError: no path leads through the chain.
        """
        return {name: self._least(column) for column, name in enumerate(self.metrics)}

    def predict(self, architecture: Sequence[int]) -> dict[str, Measurement]:
        """One architecture's prices as measurements, each with its evidence and what it rests on."""
        row = self.price([tuple(architecture)])[0]
        stack = {"stack": self.stack.fingerprint} if self.stack else {}
        return {
            name: Measurement(
                name,
                float(value),
                self.evidence[name],
                details={"from": self.origins[name], **stack} if self.origins[name] else {},
            )
            for name, value in zip(self.metrics, row, strict=True)
        }

    def paths(self) -> int:
        """The number of architectures in which every candidate is available."""
        ways = [1] * (self._states_at_end - 1) + [0]
        for layer in reversed(self._layers):
            ways = [sum(ways[t] for t in row) for row in layer.following.tolist()]
        return ways[self._start]

    def _least(self, metric: int) -> tuple[float, Architecture]:
        is_max = self._is_max[metric : metric + 1]
        to_go: list[Floats] = [np.zeros((1, self._states_at_end))]
        choose: list[NDArray[np.intp]] = []
        for layer in reversed(self._layers):
            total = _join(layer.cost[metric : metric + 1], to_go[-1][:, layer.following], is_max)[0]
            choose.append(total.argmin(1))
            to_go.append(total.min(1)[None, :])
        value = float(_join(self._base[metric : metric + 1], to_go[-1][:, self._start], is_max)[0])
        if not math.isfinite(value):
            raise ConfigurationError("no architecture of this space has every candidate available")
        state, architecture = self._start, []
        for layer, best in zip(self._layers, reversed(choose), strict=True):
            architecture.append(int(best[state]))
            state = int(layer.following[state, best[state]])
        return value, tuple(architecture)

    def _checked(self, architectures: NDArray[Any] | Sequence[Sequence[int]]) -> NDArray[Any]:
        choices = np.asarray(architectures)
        if not choices.size:  # numpy calls an empty list float64
            choices = choices.astype(np.int64)
        if choices.ndim != 2 or choices.shape[1] != self.length or choices.dtype.kind not in "iu":
            raise ConfigurationError(
                f"architectures are {choices.dtype} {choices.shape}; needed: integers, n x {self.length}"
            )
        return choices

    def _check_range(self, codes: NDArray[np.intp]) -> None:
        """`codes`: choices x architectures."""
        for choice, (code, count) in enumerate(zip(codes, self.candidates, strict=True)):
            if code.min(initial=0) < 0 or code.max(initial=0) >= count:
                worst = int(code.min()) if code.min() < 0 else int(code.max())
                raise ConfigurationError(f"choice {choice} has candidates 0..{count - 1}; got {worst}")


def _join(a: Floats, b: Floats, is_max: NDArray[np.bool_]) -> Floats:
    """a + b for the sum metrics and max(a, b) for the others; the first axis is the metrics'."""
    mask = is_max.reshape(-1, *(1,) * (max(a.ndim, b.ndim) - 1))
    return np.where(mask, np.maximum(a, b), a + b)


def _check(chain: Chain) -> None:
    if len(chain.states) != len(chain.arcs) + 1 or len(chain.states[0]) != 1:
        raise ConfigurationError(
            f"a chain of {len(chain.arcs)} positions needs {len(chain.arcs) + 1} sets of states, one state first; "
            f"it has {[len(s) for s in chain.states]}"
        )
    if list(chain.choices) != sorted(set(chain.choices)) or not set(chain.choices) <= set(
        range(len(chain.arcs))
    ):
        raise ConfigurationError(f"choices {chain.choices} are not ascending positions of the chain")
    for position, arcs in enumerate(chain.arcs):
        seen: set[tuple[int, int]] = set()
        for arc in arcs:
            starts, ends = len(chain.states[position]), len(chain.states[position + 1])
            if not (0 <= arc.start < starts and 0 <= arc.end < ends and arc.candidate >= 0):
                raise ConfigurationError(
                    f"position {position}: arc {arc.start}->{arc.end} leaves the chain's states"
                )
            if (arc.start, arc.candidate) in seen:
                raise ConfigurationError(
                    f"position {position}: candidate {arc.candidate} has two arcs from state {arc.start}"
                )
            seen.add((arc.start, arc.candidate))
        if position not in chain.choices and len({c for _, c in seen}) > 1:
            raise ConfigurationError(f"position {position} is no choice but has several candidates")


def _position_layer(
    chain: Chain, position: int, metrics: tuple[ArcMetric, ...], candidates: Sequence[int] | None
) -> _Layer:
    arcs = chain.arcs[position]
    forced = position not in chain.choices
    count = 1 if forced else 1 + max((arc.candidate for arc in arcs), default=0)
    if candidates is not None and not forced:
        count = max(count, candidates[chain.choices.index(position)])
    dead, dead_after = len(chain.states[position]), len(chain.states[position + 1])
    following = np.full((dead + 1, count), dead_after, np.intp)
    cost = np.full((len(metrics), dead + 1, count), np.inf)
    for arc in arcs:
        where = (arc.start, 0 if forced else arc.candidate)
        following[where] = arc.end
        for column, metric in enumerate(metrics):
            value = float(metric.value(arc))
            if not 0 <= value < math.inf:
                raise ConfigurationError(
                    f"position {position}, candidate {arc.candidate}: cost {value} must be finite and not negative"
                )
            cost[(column, *where)] = value
    return _Layer(following, cost)


def _rounded(
    layers: list[_Layer], base: Floats, is_max: NDArray[np.bool_], names: tuple[str, ...]
) -> tuple[list[_Layer], Floats]:
    """The same costs on a grid of powers of two, on which float64 sums of a whole path are exact."""
    base, costs = base.copy(), [layer.cost.copy() for layer in layers]
    for column, name in enumerate(names):
        if is_max[column]:
            continue
        largest = float(base[column])
        for cost in costs:
            finite = cost[column][np.isfinite(cost[column])]
            largest += float(finite.max(initial=0.0))
        bits = min(_GRID_BITS, 52 - math.ceil(math.log2(largest + len(layers) + 2)))
        if bits < 0:
            raise ConfigurationError(f"{name}: sums up to {largest:g} are too large to add exactly")
        step = 2.0**bits
        base[column] = np.round(base[column] * step) / step
        for cost in costs:
            cost[column] = np.round(cost[column] * step) / step
    return [_Layer(layer.following, cost) for layer, cost in zip(layers, costs, strict=True)], base


def _fold(layer: _Layer, forced: _Layer, is_max: NDArray[np.bool_]) -> _Layer:
    """A choice and the forced position behind it as one layer."""
    after = layer.following
    return _Layer(forced.following[:, 0][after], _join(layer.cost, forced.cost[:, :, 0][:, after], is_max))
