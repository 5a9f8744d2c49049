"""ConNAS with a table of every network in the place of the supernet.

A tabular benchmark knows each network's accuracy and cost. Under independent choices the expectation of either is a
contraction of the table with one probability vector per choice: exact, differentiable and cheap. Gradients of the
expected accuracy then stand in for those of a supernet's loss. What that shows: how the update, the relaxations and the
loss-based methods deal with budgets when the task's signal is as good as the table's. What it does not show: how well
shared weights rank networks, as the table's were each trained alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from toolchain.errors import ConfigurationError
from toolchain.search.connas_alphas import Alphas, argmax_decoder
from toolchain.search.connas_config import ConnasConfig
from toolchain.search.protocols import Architecture, Floats, HistoryRow, Ints
from toolchain.search.relaxations import Relaxation
from toolchain.units import Budget


class TableCost:
    """A cost model that holds every architecture's cost.

    Args:
        columns: metric -> costs with one axis per choice.

    Raises:
        ConfigurationError: no columns, or their shapes differ.
    """

    def __init__(self, columns: Mapping[str, Floats]) -> None:
        shapes = {np.shape(values) for values in columns.values()}
        if len(shapes) != 1:
            raise ConfigurationError(
                f"a table of costs needs columns of one shape, one axis per choice; got {shapes}"
            )
        self.metrics = tuple(columns)
        self.values: Floats = np.stack([np.asarray(v, dtype=np.float64) for v in columns.values()], axis=-1)
        """(candidates of choice 1, ..., metrics)"""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of candidates of each choice."""
        return self.values.shape[:-1]

    def price(self, architectures: Ints) -> Floats:
        codes = np.asarray(architectures)
        return np.asarray(self.values[tuple(codes.T)], dtype=np.float64)

    def swaps(self, architecture: Architecture) -> list[Floats]:
        rows = []
        for i, size in enumerate(self.sizes):
            codes = np.tile(np.array(architecture, dtype=np.int64), (size, 1))
            codes[:, i] = np.arange(size)
            rows.append(self.price(codes))
        return rows

    def least(self) -> dict[str, tuple[float, Architecture]]:
        result = {}
        for k, metric in enumerate(self.metrics):
            column = self.values[..., k]
            where = np.unravel_index(int(column.argmin()), column.shape)
            result[metric] = (float(column[where]), tuple(int(i) for i in where))
        return result


def expectation(table: Tensor, probabilities: Sequence[Tensor]) -> Tensor:
    """The mean of a table under independent choices.

    Args:
        table: (..., candidates of choice 1, ..., of the last choice); axes in front are kept.
        probabilities: per choice (candidates,).

    Returns:
        (...), differentiable in the probabilities.
    """
    for p in reversed(probabilities):
        table = table @ p.to(table.dtype)
    return table


@dataclass(frozen=True, slots=True)
class TableOutcome:
    """What a search on a table ended with.

    Attributes:
        architecture: the most accurate candidate within budgets; where no candidate is, the most accurate of all.
        feasible: whether it keeps every budget.
        accuracy: its accuracy in the table that was searched, 0 to 1.
        kept: share of the epochs' ends behind the annealing that keep every budget.
        history: as `connas_search`'s; `accuracy/validation` is the expectation under the step's probabilities.
    """

    architecture: Architecture
    feasible: bool
    accuracy: float
    kept: float
    history: tuple[HistoryRow, ...] = field(default=(), repr=False)


def search_table(
    cost: TableCost,
    accuracy: Floats,
    budgets: Sequence[Budget],
    *,
    config: ConnasConfig | None = None,
    steps_per_epoch: int = 5,
    relaxation: Relaxation | None = None,
) -> TableOutcome:
    """Search by gradients of -log of the expected accuracy, which stands in for a supernet's cross-entropy.

    As in the paper, the candidates are the architectures at the ends of the epochs behind the annealing (and, with
    `config.candidates` above 1, those within budgets that the steps passed), and the pick is the best of those within
    the budgets. Nothing is repaired: an outcome may break a budget, and says so.
    Loss-based methods get the exact expectation of the costs. Settings about weights and batches are not used.

    Args:
        cost: costs of every architecture.
        accuracy: accuracy of every architecture, 0 to 1, in the shape of the cost's table.
        budgets: at most one per metric.
        config: see `ConnasConfig`.
        steps_per_epoch: alpha steps.
        relaxation: in place of the one that the settings name.

    Raises:
        ConfigurationError: the table of accuracies has another shape, or holds values outside 0 to 1.
    """
    config = config or ConnasConfig()
    if accuracy.shape != cost.sizes or not (accuracy > 0).all() or not (accuracy <= 1).all():
        raise ConfigurationError(
            f"accuracies of shape {accuracy.shape} must have the shape {cost.sizes} and values above 0, at most 1"
        )
    alphas = Alphas(cost.sizes, argmax_decoder, cost, budgets, config)
    quality = torch.from_numpy(np.ascontiguousarray(accuracy))
    prices = torch.from_numpy(
        np.ascontiguousarray(np.moveaxis(cost.values[..., alphas.limits.columns], -1, 0))
    )
    generator = torch.Generator().manual_seed(config.seed)
    rows: list[HistoryRow] = []
    candidates: dict[Architecture, bool] = {}
    ends: list[bool] = []
    for epoch in range(config.epochs):
        temperature = config.temperature_at(epoch)
        passed: dict[Architecture, None] = {}
        for _ in range(steps_per_epoch):
            drawn = alphas.probabilities(temperature, generator, relaxation)
            mean = expectation(quality, drawn)
            costs = [] if config.enforce == "direction" else list(expectation(prices, drawn))
            loss = -mean.log()
            total = alphas.penalised(loss, drawn, costs)
            gradients = torch.autograd.grad(total, alphas.values, allow_unused=True)
            values = {
                "loss/validation": float(loss.detach()),
                "accuracy/validation": float(mean.detach()),
                "temperature": temperature,
            }
            rows.append(HistoryRow(len(rows), epoch, {**values, **alphas.step(gradients)}))
            if alphas.tested[1]:
                passed.pop(alphas.tested[0], None)  # the latest visit counts
                passed[alphas.tested[0]] = None
        if epoch >= config.anneal_epochs:
            architecture = alphas.architecture()
            kept = bool(alphas.limits.keeps(cost.price(np.array([architecture])))[0])
            candidates[architecture] = kept
            ends.append(kept)
            others = [a for a in reversed(passed) if a != architecture]
            candidates.update(dict.fromkeys(others[: config.candidates - 1], True))
            rows[-1] = HistoryRow(
                rows[-1].step,
                epoch,
                {
                    **rows[-1].values,
                    "candidate/accuracy": float(accuracy[architecture]),
                    "candidate/loss": -math.log(accuracy[architecture]),
                },
            )
    feasible = any(candidates.values())
    eligible = [a for a, kept in candidates.items() if kept or not feasible]
    best = max(eligible, key=lambda a: float(accuracy[a]))
    return TableOutcome(best, feasible, float(accuracy[best]), float(np.mean(ends)), tuple(rows))
