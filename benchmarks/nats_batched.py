"""Many searches on NATS-Bench's table in lock-step: `search_table` for hundreds of runs in a minute.

The same update as `toolchain.search.connas_alphas` with Gumbel-softmax and Adam, written once more for arrays of runs
(float64 instead of float32, gradients by hand instead of autograd); `check` runs both on the same noise and compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.nats_bench import Nats
from toolchain.search.connas_alphas import Alphas, argmax_decoder
from toolchain.search.connas_config import ConnasConfig
from toolchain.search.connas_table import expectation
from toolchain.search.feasibility import Limits
from toolchain.search.losses import CostRange
from toolchain.search.relaxations import first_alphas
from toolchain.units import Budget

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

EDGES, CANDIDATES = 6, 5
STRIDES = CANDIDATES ** np.arange(EDGES - 1, -1, -1)
TINY = 1e-12


@dataclass(frozen=True)
class Run:
    """One search: its budgets and settings (those of `search_table`, Gumbel and Adam only)."""

    budgets: tuple[Budget, ...]
    config: ConnasConfig


@dataclass(frozen=True)
class Found:
    """As `TableOutcome`, without the log."""

    architecture: tuple[int, ...]
    feasible: bool
    kept: float


class Batch:
    """The state of all runs; each line of every array is one run.

    Args:
        nats: the tables. runs: same epochs, betas, decay and temperatures; all else may differ.
    """

    def __init__(self, nats: Nats, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.quality = nats.searched.ravel()
        self.prices = np.moveaxis(nats.cost.values, -1, 0).reshape(len(nats.cost.metrics), -1)
        most = max(len(run.budgets) for run in runs)
        shape = (len(runs), most)
        self.columns, self.bounds = np.zeros(shape, dtype=np.int64), np.full(shape, np.inf)
        self.least, self.range, self.asked = np.zeros(shape), np.ones(shape), np.zeros(shape, dtype=bool)
        extents: dict[tuple[Budget, ...], tuple[Limits, CostRange]] = {}
        for i, run in enumerate(runs):
            if run.budgets not in extents:
                limits = Limits.of(nats.cost, run.budgets)
                extents[run.budgets] = limits, CostRange.of(nats.cost, limits)
            limits, extent = extents[run.budgets]
            k = len(run.budgets)
            self.columns[i, :k], self.bounds[i, :k], self.asked[i, :k] = limits.columns, limits.bounds, True
            self.least[i, :k], self.range[i, :k] = extent.least, extent.most - extent.least

        def each(name: str) -> Floats:
            return np.array([getattr(run.config, name) for run in runs], dtype=np.float64)[:, None, None]

        self.rate, self.rescale, self.epsilon = each("alpha_learning_rate"), each("rescale"), each("epsilon")
        self.weight = each("penalty_weight")[:, :, 0]
        self.enforce = np.array([run.config.enforce for run in runs])
        self.update = np.array([run.config.turn == "update" for run in runs])[:, None, None]
        self.alpha = np.stack([_start(run.config.seed) for run in runs])
        self.m, self.v, self.steps = np.zeros_like(self.alpha), np.zeros_like(self.alpha), 0

    def codes(self) -> Ints:
        """(runs, 6) the architectures that the alphas stand for."""
        return np.asarray(self.alpha.argmax(-1), dtype=np.int64)

    def keeps(self, codes: Ints) -> npt.NDArray[np.bool_]:
        """(runs,) whether every budget is kept."""
        prices = self.prices[self.columns, (codes @ STRIDES)[:, None]]
        return np.asarray((prices <= self.bounds).all(1))

    def directions(self) -> Floats:
        """(runs, 6, 5) unit directions to feasibility, zeros for loss-based runs."""
        codes = self.codes()
        here = codes @ STRIDES
        moved = here[:, None, None] + (np.arange(CANDIDATES) - codes[..., None]) * STRIDES[:, None]
        costs = self.prices[self.columns[:, :, None, None], moved[:, None]]
        violated = self.prices[self.columns, here[:, None]] > self.bounds
        violated &= (self.enforce == "direction")[:, None]
        within = costs <= self.bounds[..., None, None]
        count = within.sum(-1, keepdims=True).astype(np.float64)
        n = float(CANDIDATES)
        with np.errstate(divide="ignore", invalid="ignore"):
            some = np.where(within, np.sqrt((n - count) / (count * n)), -np.sqrt(count / ((n - count) * n)))
        ranks = np.sign(costs[..., None, :] - costs[..., :, None]).sum(-1)
        each = np.where(count == n, 0.0, np.where(count > 0, some, _unit(ranks)))
        return _unit((each * violated[..., None, None]).sum(1))

    def gradient(self, p: Floats) -> Floats:
        """(runs, 6, 5) gradient of the loss, with its hardware terms, in the probabilities."""
        mean, slope = _expected(self.quality, p)
        loss, grad = -np.log(mean), -slope / mean[:, None, None]
        based = np.flatnonzero(self.enforce != "direction")
        if not len(based):
            return grad
        terms = np.zeros(self.bounds.shape)
        slopes = np.zeros((*self.bounds.shape, EDGES, CANDIDATES))
        over = np.zeros(self.bounds.shape)
        for k in range(self.bounds.shape[1]):
            for column in np.unique(self.columns[based, k]):
                rows = based[(self.columns[based, k] == column) & self.asked[based, k]]
                cost, change = _expected(self.prices[column], p[rows])
                over[rows, k] = np.sign(cost - self.bounds[rows, k])
                terms[rows, k] = np.maximum((cost - self.least[rows, k]) / self.range[rows, k], TINY)
                slopes[rows, k] = change / self.range[rows, k][:, None, None]
        share = self.weight / self.asked.sum(1, keepdims=True)
        for name in ("summed", "piecewise"):
            signs = over if name == "piecewise" else self.asked.astype(np.float64)
            added = ((share * signs)[..., None, None] * slopes).sum(1)
            grad = grad + np.where((self.enforce == name)[:, None, None], added, 0.0)
        product = np.where(self.asked, np.maximum(terms, TINY) ** self.weight, 1.0).prod(1)[:, None, None]
        inner = (slopes * (self.weight / np.maximum(terms, TINY) * self.asked)[..., None, None]).sum(1)
        multiplied = product * (grad + loss[:, None, None] * inner)
        return np.where((self.enforce == "multiplied")[:, None, None], multiplied, grad)

    def step(self, noise: Floats, temperature: float) -> None:
        """One alpha step with this Gumbel noise (runs, 6, 5)."""
        p = _softmax((np.log(_softmax(self.alpha)) + noise) / temperature)
        slope = self.gradient(p)
        raw = p * (slope - (p * slope).sum(-1, keepdims=True)) / temperature
        toward = self.directions()
        turned = self._turned(raw, toward)
        update = self._adam(np.where(self.update, raw, turned))
        update = np.where(self.update, self._turned(update, toward), update)
        self.alpha = self.alpha - self.rate * update

    def _turned(self, vectors: Floats, toward: Floats) -> Floats:
        length = np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), self.epsilon)
        return np.asarray(vectors - self.rescale * toward * length)

    def _adam(self, gradient: Floats) -> Floats:
        config = self.runs[0].config
        first, second = config.alpha_betas
        self.steps += 1
        gradient = gradient + config.alpha_weight_decay * self.alpha
        self.m = first * self.m + (1 - first) * gradient
        self.v = second * self.v + (1 - second) * gradient**2
        m, v = self.m / (1 - first**self.steps), self.v / (1 - second**self.steps)
        return np.asarray(m / (np.sqrt(v) + 1e-8))


def search_batch(nats: Nats, runs: Sequence[Run], steps_per_epoch: int = 5) -> list[Found]:
    """As `search_table` for each run; the noise is drawn by each run's seed."""
    batch, config = Batch(nats, runs), runs[0].config
    generators = {seed: np.random.default_rng(seed) for seed in {run.config.seed for run in runs}}
    best = np.full((2, len(runs)), -1.0)  # accuracy of the best candidate: any, within budgets
    picks = np.zeros((2, len(runs), EDGES), dtype=np.int64)
    ends = np.zeros(len(runs))
    for epoch in range(config.epochs):
        for _ in range(steps_per_epoch):
            drawn = {seed: rng.gumbel(size=(EDGES, CANDIDATES)) for seed, rng in generators.items()}
            batch.step(np.stack([drawn[run.config.seed] for run in runs]), config.temperature_at(epoch))
        if epoch >= config.anneal_epochs:
            codes = batch.codes()
            accuracy, kept = batch.quality[codes @ STRIDES], batch.keeps(codes)
            ends += kept
            for row, better in ((0, accuracy > best[0]), (1, kept & (accuracy > best[1]))):
                best[row, better], picks[row, better] = accuracy[better], codes[better]
    feasible = best[1] > 0
    chosen = np.where(feasible[:, None], picks[1], picks[0])
    return [
        Found(tuple(int(i) for i in codes), bool(kept), float(share))
        for codes, kept, share in zip(
            chosen, feasible, ends / (config.epochs - config.anneal_epochs), strict=True
        )
    ]


def check(nats: Nats, runs: Sequence[Run], steps: int = 40, temperature: float = 2.0) -> float:
    """The largest difference of alphas between this and `Alphas` after some steps on the same noise."""
    batch = Batch(nats, runs)
    noise = np.random.default_rng(0).gumbel(size=(steps, len(runs), EDGES, CANDIDATES))
    for now in noise:
        batch.step(now, temperature)
    quality = torch.from_numpy(nats.searched)
    worst = 0.0
    for i, run in enumerate(runs):
        own = Alphas((CANDIDATES,) * EDGES, argmax_decoder, nats.cost, run.budgets, run.config)
        prices = torch.from_numpy(np.moveaxis(nats.cost.values[..., own.limits.columns], -1, 0).copy())
        for now in noise[:, i]:
            p: list[Tensor] = [
                torch.softmax((torch.log_softmax(a, 0) + torch.from_numpy(g).float()) / temperature, 0)
                for a, g in zip(own.values, now, strict=True)
            ]
            loss = own.penalised(-expectation(quality, p).log(), p, list(expectation(prices, p)))
            own.step(torch.autograd.grad(loss, own.values))
        ended = np.stack([a.detach().double().numpy() for a in own.values])
        worst = max(worst, float(np.abs(ended - batch.alpha[i]).max()))
    return worst


def _expected(table: Floats, p: Floats) -> tuple[Floats, Floats]:
    """(runs,) expectations of a table, and their slopes in the probabilities (runs, 6, 5)."""
    matrix = table.reshape(CANDIDATES**3, CANDIDATES**3)
    halves = [np.einsum("ra,rb,rc->rabc", *(p[:, i] for i in part)) for part in ((0, 1, 2), (3, 4, 5))]
    flat = [half.reshape(len(p), CANDIDATES**3) for half in halves]
    slopes = np.empty_like(p)
    for part, values in ((0, flat[1] @ matrix.T), (1, flat[0] @ matrix)):
        cube = values.reshape(-1, *(CANDIDATES,) * 3)
        a, b, c = (p[:, 3 * part + i] for i in range(3))
        slopes[:, 3 * part] = np.einsum("rabc,rb,rc->ra", cube, b, c)
        slopes[:, 3 * part + 1] = np.einsum("rabc,ra,rc->rb", cube, a, c)
        slopes[:, 3 * part + 2] = np.einsum("rabc,ra,rb->rc", cube, a, b)
    return np.asarray((p[:, 0] * slopes[:, 0]).sum(-1)), slopes


def _softmax(values: Floats) -> Floats:
    powers = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _unit(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length < TINY, 0.0, vectors / np.maximum(length, TINY))


def _start(seed: int) -> Floats:
    generator = torch.Generator().manual_seed(seed)
    return np.stack([first_alphas(CANDIDATES, "logits", generator).double().numpy() for _ in range(EDGES)])
