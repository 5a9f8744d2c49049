"""Architecture weights with their constrained update: the part of ConNAS that knows no supernet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from toolchain.search.connas_config import ConnasConfig
from toolchain.search.direction import aggregate, direction, modified_gradient
from toolchain.search.feasibility import Limits
from toolchain.search.losses import CostRange, expected_costs, penalised
from toolchain.search.protocols import Architecture, CostModel, Floats
from toolchain.search.relaxations import RELAXATIONS, Relaxation, first_alphas, gumbel_noise, logits_of
from toolchain.spaces import Step
from toolchain.supernet.train import load_optimizer_tensors, optimizer_tensors, with_prefix, without_prefix
from toolchain.units import Budget

Decoder: TypeAlias = Callable[[Sequence[Floats]], Architecture]
"""Alphas per choice -> the valid architecture that they stand for."""


def argmax_decoder(scores: Sequence[Floats]) -> Architecture:
    """The highest score of each choice (ties: the lowest index); for spaces where everything is available."""
    return tuple(int(np.argmax(row)) for row in scores)


def path_decoder(steps: Sequence[Sequence[Step]]) -> Decoder:
    """A decoder for shape-dependent spaces: always a valid architecture.

    Choices are decided from left to right. At each, the state (shape) that the decisions so far lead to says which
    candidates are available, and the one with the highest alpha among them is taken (ties: the lowest index). As
    `Space.steps` holds only steps that lead on to the head, there is no dead end. Where each choice's highest
    alpha is available, the result is the plain argmax.

    Args:
        steps: `Space.steps`: per choice, the available (candidate, state before, state after).
    """
    following: list[dict[int, list[Step]]] = []
    for layer in steps:
        by_start: dict[int, list[Step]] = {}
        for step in sorted(layer):
            by_start.setdefault(step.start, []).append(step)
        following.append(by_start)

    def decode(scores: Sequence[Floats]) -> Architecture:
        state, architecture = 0, []
        for layer, row in zip(following, scores, strict=True):
            step = max(layer[state], key=lambda s: (row[s.candidate], -s.candidate))
            architecture.append(step.candidate)
            state = step.end
        return tuple(architecture)

    return decode


class Alphas:
    """The architecture weights with their constrained update: the part of ConNAS that knows no supernet.

    A loop around it gives gradients of any task loss; a table can stand in for the supernet.

    Args:
        sizes: number of candidates of each choice.
        decode: alphas -> valid architecture.
        cost: the cost model.
        budgets: at most one per metric.
        config: see `ConnasConfig`; the first alphas are drawn by its seed.
        device: where the alphas live.

    Attributes:
        values: per choice a float32 tensor; logits, or weights with `alpha_scale="literal"`.
        tested: the architecture that the latest step tested, and whether it keeps the budgets.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        decode: Decoder,
        cost: CostModel,
        budgets: Sequence[Budget],
        config: ConnasConfig,
        device: torch.device | None = None,
    ) -> None:
        self.decode, self.cost, self.config = decode, cost, config
        self.limits = Limits.of(cost, budgets)
        self.tested: tuple[Architecture, bool] = ((), False)
        self._range: CostRange | None = None
        generator = torch.Generator().manual_seed(config.seed)
        self.values = [
            first_alphas(size, config.alpha_scale, generator).to(device).requires_grad_() for size in sizes
        ]
        self.optimizer: torch.optim.Optimizer
        if config.alpha_optimizer == "adam":
            self.optimizer = torch.optim.Adam(
                self.values,
                lr=config.alpha_learning_rate,
                betas=config.alpha_betas,
                weight_decay=config.alpha_weight_decay,
            )
        else:
            self.optimizer = torch.optim.SGD(
                self.values, lr=config.alpha_learning_rate, weight_decay=config.alpha_weight_decay
            )

    def architecture(self) -> Architecture:
        """The valid architecture that the alphas stand for, without noise."""
        return self.decode([alpha.detach().cpu().double().numpy() for alpha in self.values])

    def sample(self, generator: torch.Generator) -> Architecture:
        """A valid architecture drawn from softmax(alpha): decoded from alphas with Gumbel noise."""
        noisy = []
        for logits in self.logits():
            still = logits.detach().cpu()
            noisy.append((still + gumbel_noise(still, generator)).double().numpy())
        return self.decode(noisy)

    def logits(self) -> list[Tensor]:
        """Per choice (candidates,), differentiable in `values`."""
        return [logits_of(alpha, self.config.alpha_scale) for alpha in self.values]

    def probabilities(
        self, temperature: float, generator: torch.Generator, relaxation: Relaxation | None = None
    ) -> list[Tensor]:
        """Per choice (candidates,) probabilities, differentiable in `values`.

        Args:
            relaxation: in place of the one that the settings name.
        """
        relax = relaxation or RELAXATIONS[self.config.relaxation]
        return [relax(logits, temperature, generator) for logits in self.logits()]

    def penalised(
        self, loss: Tensor, probabilities: Sequence[Tensor], costs: Sequence[Tensor] | None = None
    ) -> Tensor:
        """The task's loss with the hardware terms of a loss-based method; as it is with `enforce="direction"`.

        Args:
            loss: scalar. probabilities: those that it was computed with.
            costs: expected cost per budget, where the caller knows them better than `expected_costs`.
        """
        if self.config.enforce == "direction":
            return loss
        if self._range is None:
            self._range = CostRange.of(self.cost, self.limits)
        if costs is None:
            costs = expected_costs(self.cost, self.limits, self.architecture(), probabilities)
        return penalised(
            loss, costs, self.limits, self._range, self.config.enforce, self.config.penalty_weight
        )

    def entropy(self) -> float:
        """Mean over the choices of the entropy of softmax(logits), in nats."""
        total = 0.0
        for logits in self.logits():
            log = functional.log_softmax(logits.detach(), dim=0)
            total -= float((log.exp() * log).sum())
        return total / len(self.values)

    def directions(self) -> tuple[list[Floats], dict[str, float]]:
        """The unit direction to feasibility of each choice at the current architecture, and log values.

        Log values: `cost/<metric>` and `violation/<metric>` (relative, 0 when kept) of each budget, and `opposed`,
        the number of choices on which two violated constraints pull against each other. Two that cancel exactly
        leave no direction; "most_violated" is the way out where that lasts.
        """
        architecture = self.architecture()
        prices = self.cost.price(np.array([architecture], dtype=np.int64))
        self.tested = (architecture, bool(self.limits.keeps(prices)[0]))
        over = self.limits.violations(prices)[0]
        log: dict[str, float] = {"opposed": 0.0}
        for budget, column, violation in zip(self.limits.budgets, self.limits.columns, over, strict=True):
            log[f"cost/{budget.metric}"] = float(prices[0, column])
            log[f"violation/{budget.metric}"] = float(violation)
        violated = [
            (int(column), budget.bound)
            for budget, column in zip(self.limits.budgets, self.limits.columns, strict=True)
            if not budget.keeps(float(prices[0, column]))
        ]
        sizes = [len(alpha) for alpha in self.values]
        if not violated or self.config.enforce != "direction":
            return [np.zeros(size) for size in sizes], log
        worst = max(range(len(violated)), key=lambda i: float(prices[0, violated[i][0]]) / violated[i][1])
        result = []
        for size, rows in zip(sizes, self.cost.swaps(architecture), strict=True):
            swaps = _padded(np.asarray(rows, dtype=np.float64), size)
            each = [direction(swaps[:, column], bound) for column, bound in violated]
            log["opposed"] += any(float(a @ b) < 0 for a, b in combinations(each, 2))
            result.append(
                each[worst] if self.config.constraints == "most_violated" else aggregate(each, size)
            )
        return result, log

    def step(self, gradients: Sequence[Tensor | None]) -> dict[str, float]:
        """One update with the task loss's gradients, turned towards feasibility (eq. 2 as corrected).

        Args:
            gradients: per choice (candidates,); None counts as zero.

        Returns:
            log values: those of `directions`, `gradient/raw` and `gradient/modified` (norms over all choices; with
            `turn="update"` the latter is the norm of the turned update), and `entropy` before the step.
        """
        directions, log = self.directions()
        log["entropy"] = self.entropy()
        raw = [
            np.zeros(len(a)) if g is None else _to_numpy(g)
            for a, g in zip(self.values, gradients, strict=True)
        ]
        if self.config.turn == "update":
            updates = self._updates(raw)
            turned = self._turned(updates, directions)
            with torch.no_grad():
                for alpha, update, new in zip(self.values, updates, turned, strict=True):
                    alpha -= _like(self.config.alpha_learning_rate * (new - update), alpha)
        else:
            turned = self._turned(raw, directions)
            self._updates(turned)
        return {**log, "gradient/raw": _norm(raw), "gradient/modified": _norm(turned)}

    def _turned(self, gradients: Sequence[Floats], directions: Sequence[Floats]) -> list[Floats]:
        """Gradients, or an optimiser's updates, turned towards feasibility."""
        config = self.config
        return [
            modified_gradient(g, d, config.rescale, config.epsilon, config.norm)
            for g, d in zip(gradients, directions, strict=True)
        ]

    def _updates(self, gradients: Sequence[Floats]) -> list[Floats]:
        """Let the optimiser make its step with these gradients; gives what it subtracted, per learning rate."""
        before = [_to_numpy(alpha) for alpha in self.values]
        for alpha, gradient in zip(self.values, gradients, strict=True):
            alpha.grad = _like(gradient, alpha)
        self.optimizer.step()
        rate = self.config.alpha_learning_rate
        return [(old - _to_numpy(alpha)) / rate for old, alpha in zip(before, self.values, strict=True)]

    def tensors(self) -> dict[str, Tensor]:
        """Alphas and their optimiser's state, for a checkpoint."""
        own = {f"{i}": alpha.detach() for i, alpha in enumerate(self.values)}
        return {**with_prefix("alpha/", own), **optimizer_tensors(self.optimizer, "alpha_optimizer/")}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        own = without_prefix("alpha/", tensors)
        with torch.no_grad():
            for i, alpha in enumerate(self.values):
                alpha.copy_(own[f"{i}"])
        load_optimizer_tensors(self.optimizer, tensors, "alpha_optimizer/")


def _to_numpy(tensor: Tensor) -> Floats:
    return np.asarray(tensor.detach().cpu().double().numpy(), dtype=np.float64)


def _like(values: Floats, tensor: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=tensor.dtype).to(tensor.device)


def _norm(vectors: Sequence[Floats]) -> float:
    return math.sqrt(sum(float(v @ v) for v in vectors))


def _padded(rows: Floats, size: int) -> Floats:
    """A cost model need not know candidates that are never available: inf rows stand for them."""
    if len(rows) == size:
        return rows
    return np.concatenate([rows, np.full((size - len(rows), rows.shape[1]), np.inf)])
