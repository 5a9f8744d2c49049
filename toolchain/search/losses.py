"""Hardware terms in the loss: the three methods that ConNAS is compared with (Table 1 of its paper).

Each adds the *expected* cost under the relaxation to the task's loss, with a weight that nobody knows beforehand:

- summed: L + (w / M) sum_k c'_k (ProxylessNAS),
- multiplied: L prod_k c'_k^w (FBNet, FBNetV2),
- piece-wise: L + (w / M) sum_k h_k with h_k = +c'_k over the bound, -c'_k below it (TAS).

c'_k is c_k brought to 0..1 by the least and the greatest cost of the space. Costs come from the same table as
ConNAS's: `expected_costs` needs no more than the prices of single swaps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from toolchain.errors import ConfigurationError
from toolchain.search.feasibility import Limits
from toolchain.search.protocols import Architecture, CostModel, Floats

Penalty = Literal["summed", "multiplied", "piecewise"]
Enforcement = Literal["direction", "summed", "multiplied", "piecewise"]

_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Term:
    """One budgeted metric inside a loss.

    Attributes:
        cost: expected cost, a scalar tensor that is differentiable in the alphas; in the metric's unit.
        bound: its budget. least, most: over the space.
    """

    cost: Tensor
    bound: float
    least: float
    most: float

    @property
    def normalised(self) -> Tensor:
        """c': 0 at the space's least cost, 1 at its greatest."""
        return (self.cost - self.least) / max(self.most - self.least, _TINY)


def summed(task: Tensor, terms: Sequence[Term], weight: float) -> Tensor:
    """L + (weight / M) sum c'."""
    return task + weight * _mean([term.normalised for term in terms], task)


def multiplied(task: Tensor, terms: Sequence[Term], weight: float) -> Tensor:
    """L prod c'^weight; `task` must not be negative."""
    for term in terms:
        task = task * term.normalised.clamp_min(_TINY) ** weight
    return task


def piecewise(task: Tensor, terms: Sequence[Term], weight: float) -> Tensor:
    """L + (weight / M) sum h, h = c' over the bound, -c' below it, 0 at it."""
    signs = [float(np.sign(float(term.cost.detach()) - term.bound)) for term in terms]
    return task + weight * _mean([s * t.normalised for s, t in zip(signs, terms, strict=True)], task)


PENALTIES: Final[Mapping[Penalty, Callable[[Tensor, Sequence[Term], float], Tensor]]] = {
    "summed": summed,
    "multiplied": multiplied,
    "piecewise": piecewise,
}


@dataclass(frozen=True, slots=True)
class CostRange:
    """What brings costs to 0..1.

    Attributes:
        least, most: (budgets,) least and greatest cost over the space; the greatest as far as swaps find it, which
            is exact for sums over choices.
    """

    least: Floats
    most: Floats

    @classmethod
    def of(cls, cost: CostModel, limits: Limits) -> CostRange:
        """The range of each budgeted metric."""
        least = cost.least()
        most = [
            _ascend(cost, int(column), least[budget.metric][1])
            for budget, column in zip(limits.budgets, limits.columns, strict=True)
        ]
        return cls(np.array([least[b.metric][0] for b in limits.budgets]), np.array(most))


def expected_costs(
    cost: CostModel, limits: Limits, architecture: Architecture, probabilities: Sequence[Tensor]
) -> list[Tensor]:
    """E[c_k] under independent choices, to first order around one architecture A.

    That is c(A) + sum_l sum_j p_lj (c(A_lj) - c(A)). Exact where costs are sums over choices. Where choices interact
    (channels that a neighbour sees, peak memory) it is an approximation, better the sharper the distribution.
    A candidate that is not available in the architecture leaves its share to the others of its choice.

    Args:
        architecture: a valid one, what the alphas stand for now.
        probabilities: per choice (candidates,), differentiable.

    Returns:
        per budget a scalar tensor.

    Raises:
        ConfigurationError: the architecture is not valid.
    """
    here = cost.price(np.array([architecture], dtype=np.int64))[0]
    if not np.isfinite(here).all():
        raise ConfigurationError(f"architecture {architecture} is not valid, its cost has no expectation")
    totals = [torch.tensor(float(here[column])) for column in limits.columns]
    for rows, p in zip(cost.swaps(architecture), probabilities, strict=True):
        swaps = np.asarray(rows, dtype=np.float64)[: len(p)]
        there = np.zeros(len(p), dtype=bool)
        there[: len(swaps)] = np.isfinite(swaps).all(axis=1)
        share = p * torch.as_tensor(there, dtype=p.dtype, device=p.device)
        share = share / share.sum().clamp_min(_TINY)
        for k, column in enumerate(limits.columns):
            change = np.zeros(len(p))
            change[there] = swaps[there[: len(swaps)], column] - here[column]
            totals[k] = totals[k] + (share * torch.as_tensor(change, dtype=p.dtype, device=p.device)).sum()
    return totals


def penalised(
    task: Tensor, costs: Sequence[Tensor], limits: Limits, extent: CostRange, penalty: Penalty, weight: float
) -> Tensor:
    """The task's loss with the hardware terms of one method; without budgets it is the task's loss."""
    if not costs:
        return task
    terms = [
        Term(cost.to(task.device), float(bound), float(least), float(most))
        for cost, bound, least, most in zip(costs, limits.bounds, extent.least, extent.most, strict=True)
    ]
    return PENALTIES[penalty](task, terms, weight)


def _mean(values: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.stack(list(values)).mean() if values else like.new_zeros(())


def _ascend(cost: CostModel, column: int, start: Architecture) -> float:
    """The greatest cost that single swaps reach from `start`, the dearest swap first."""
    current, value = start, -np.inf
    while True:
        tops = []
        for choice, rows in enumerate(cost.swaps(current)):
            prices = np.asarray(rows, dtype=np.float64)
            prices = np.where(np.isfinite(prices).all(axis=1), prices[:, column], -np.inf)
            tops.append((float(prices.max()), choice, int(prices.argmax())))
        best, choice, candidate = max(tops)
        if best <= value:
            return value
        value, current = best, (*current[:choice], candidate, *current[choice + 1 :])
