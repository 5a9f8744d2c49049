"""ConNAS: gradient search on a supernet whose architecture gradients are turned towards feasibility.

Source: ConNAS (under review, ICLR 2026), Algorithm 1 and section 4; the direction is `toolchain.search.direction`.
A constraint is tested on the architecture that the alphas stand for now; a satisfied one changes nothing. For a
violated one, every single swap is priced and each edge's gradient is turned towards the candidates that help. After the
temperature has come down, each epoch's architecture is evaluated with inherited weights; the one with the lowest
validation loss that keeps the budgets, by the cost model and then by the exact checker, is returned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from toolchain.errors import ConfigurationError
from toolchain.search.direction import Norm, aggregate, direction, modified_gradient
from toolchain.search.evaluators import (
    RECALIBRATION_BATCH_SIZE,
    RECALIBRATION_BATCHES,
    evaluate_inherited,
    recalibration_batches,
)
from toolchain.search.feasibility import Limits, price_one, require_feasible
from toolchain.search.protocols import (
    Architecture,
    CostModel,
    ExactChecker,
    Floats,
    HistoryRow,
    Progress,
    SearchResult,
)
from toolchain.search.selection import choose
from toolchain.spaces import Step
from toolchain.supernet.checkpoint import load_checkpoint, restore, save_checkpoint
from toolchain.supernet.supernet import Supernet
from toolchain.supernet.train import (
    Array,
    as_tensors,
    check_settings,
    cosine,
    decayed_groups,
    device_of,
    finite,
    load_optimizer_tensors,
    optimizer_tensors,
    seeded,
    shuffled_batches,
    with_prefix,
    without_prefix,
)
from toolchain.units import Budget

Relaxation: TypeAlias = Callable[[Tensor, float, torch.Generator], Tensor]
"""(alphas of one choice, temperature, generator) -> probabilities of its candidates, differentiable in the alphas."""

Decoder: TypeAlias = Callable[[Sequence[Floats]], Architecture]
"""Alphas per choice -> the valid architecture that they stand for."""

_INITIAL_SPREAD: Final = 1e-3


@dataclass(frozen=True, slots=True)
class ConnasConfig:
    """Settings; the defaults are the paper's (appendix D.2) unless said otherwise.

    Attributes:
        epochs: passes over the training data.
        warmup_epochs: first epochs that train weights only (the paper has none).
        anneal: share of the epochs over which temperature and learning rate come down; at least one epoch follows.
        batch_size: samples per weight step and per alpha step.
        learning_rate, final_learning_rate: cosine schedule of the weights (SGD, Nesterov, momentum 0.9).
        weight_decay: of the weights, not of biases and batch norm.
        alpha_learning_rate, alpha_weight_decay: of the alphas.
        alpha_betas: Adam's.
        alpha_optimizer: "adam" as the paper, or "sgd": plain gradient steps, for which progress along the
            direction is guaranteed when rescale > 1.
        turn: what is turned towards feasibility: the "gradient" before the optimiser, as the paper, or the
            optimiser's "update". At low temperature most gradients vanish, and Adam's memory of the few large ones
            makes the paper's pull (R times the gradient's norm, or epsilon) too small to come back within budgets;
            turning the update keeps the guarantee under Adam too.
        candidates: architectures scored after each epoch behind the annealing: the one at its end, as the paper,
            then those within budgets that its steps passed, latest first.
        rescale: R, how strongly constraints pull; above 1.
        epsilon: the least pull, where the gradient vanishes.
        norm: "edge" (with the guarantee) or "entry" (literal to the paper).
        constraints: "all" violated ones are summed; "most_violated" follows the relatively worst alone, for
            constraints that oppose each other.
        temperature, final_temperature: linear schedule of the relaxation.
        path_steps: weight steps on single architectures, drawn from softmax(alpha), after each step on the mixture.
            The paper has none and needs none in its 24,000 steps. In a few hundred steps a mixture of everything
            does not teach any one architecture to stand alone, and candidates would be compared by chance.
        recalibration_batches, recalibration_batch_size: training inputs for batch norm statistics of candidates.
        seed: makes the run repeatable.
    """

    epochs: int = 150
    warmup_epochs: int = 0
    anneal: float = 2 / 3
    batch_size: int = 128
    learning_rate: float = 0.0025
    final_learning_rate: float = 0.001
    weight_decay: float = 5e-4
    alpha_learning_rate: float = 1e-3
    alpha_weight_decay: float = 1e-3
    alpha_betas: tuple[float, float] = (0.5, 0.999)
    alpha_optimizer: Literal["adam", "sgd"] = "adam"
    turn: Literal["gradient", "update"] = "gradient"
    rescale: float = 1.2
    epsilon: float = 1e-3
    norm: Norm = "edge"
    constraints: Literal["all", "most_violated"] = "all"
    temperature: float = 10.0
    final_temperature: float = 0.1
    path_steps: int = 0
    candidates: int = 1
    recalibration_batches: int = RECALIBRATION_BATCHES
    recalibration_batch_size: int = RECALIBRATION_BATCH_SIZE
    seed: int = 0

    def __post_init__(self) -> None:
        positive = (
            "epochs", "batch_size", "learning_rate", "alpha_learning_rate", "epsilon", "temperature",
            "final_temperature", "candidates", "recalibration_batches", "recalibration_batch_size",
        )  # fmt: skip
        for name in positive:
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"ConNAS: {name} is {getattr(self, name)}; it must be positive")
        if self.path_steps < 0:
            raise ConfigurationError(f"ConNAS: path_steps is {self.path_steps}; it must not be negative")
        if not self.rescale > 1:
            raise ConfigurationError(
                f"ConNAS: rescale is {self.rescale}; it must be above 1",
                remedy="below that the task's gradient can outweigh the constraints; the paper's is 1.2",
            )
        if not 0 < self.anneal <= 1 or not 0 <= self.warmup_epochs < self.epochs:
            raise ConfigurationError(
                f"ConNAS: anneal {self.anneal} must be in (0, 1], warmup_epochs {self.warmup_epochs} below epochs "
                f"{self.epochs}"
            )
        if self.norm not in ("edge", "entry") or self.constraints not in ("all", "most_violated"):
            raise ConfigurationError(
                f"ConNAS: unknown norm {self.norm!r} or constraints {self.constraints!r}"
            )
        if self.turn not in ("gradient", "update"):
            raise ConfigurationError(f"ConNAS: unknown turn {self.turn!r}")
        if self.alpha_optimizer not in ("adam", "sgd"):
            raise ConfigurationError(f"ConNAS: unknown alpha_optimizer {self.alpha_optimizer!r}")

    @classmethod
    def quick(cls, epochs: int = 20, batch_size: int = 64, seed: int = 0) -> ConnasConfig:
        """Settings for a few hundred steps on a small data set instead of the paper's 24,000.

        Alphas move faster and the temperature starts lower, so that the choice has been made before the end; single
        paths are trained beside the mixture (see `path_steps`); constraints turn Adam's update (see `turn`), and
        several candidates are scored per epoch. Checked on 8x8 digits with `Image2d`.
        """
        return cls(
            epochs=epochs, batch_size=batch_size, seed=seed, learning_rate=0.05, final_learning_rate=0.005,
            alpha_learning_rate=0.1, temperature=5.0, path_steps=3, turn="update", epsilon=1.0, candidates=4,
        )  # fmt: skip

    @property
    def anneal_epochs(self) -> int:
        """Epochs until the temperature is at its end; at least one epoch is left for candidates."""
        return max(1, min(round(self.anneal * self.epochs), self.epochs - 1)) if self.epochs > 1 else 0

    def temperature_at(self, epoch: int) -> float:
        """Linear from `temperature` in epoch 0 to `final_temperature` in epoch `anneal_epochs`, then constant."""
        done = min(1.0, epoch / self.anneal_epochs) if self.anneal_epochs else 1.0
        return self.temperature + (self.final_temperature - self.temperature) * done


def gumbel_probabilities(alpha: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Gumbel-softmax: softmax((log_softmax(alpha) + g) / temperature) (eq. 7, with alphas as logits, as in GDAS).

    Args:
        alpha: (candidates,) logits.
        temperature: positive; towards 0 the result is one-hot.
        generator: source of the Gumbel noise g, on the CPU.

    Returns:
        (candidates,) probabilities, differentiable in `alpha`.
    """
    exponential = torch.empty(alpha.shape, dtype=alpha.dtype).exponential_(generator=generator)
    noise = -exponential.clamp_min(1e-20).log().to(alpha.device)
    return functional.softmax((functional.log_softmax(alpha, dim=0) + noise) / temperature, dim=0)


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
        values: per choice a float32 tensor of logits.
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
        generator = torch.Generator().manual_seed(config.seed)
        self.values = [
            (_INITIAL_SPREAD * torch.randn(size, generator=generator)).to(device).requires_grad_()
            for size in sizes
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
        for alpha in self.values:
            exponential = torch.empty(len(alpha)).exponential_(generator=generator)
            noisy.append((alpha.detach().cpu() - exponential.clamp_min(1e-20).log()).double().numpy())
        return self.decode(noisy)

    def entropy(self) -> float:
        """Mean over the choices of the entropy of softmax(alpha), in nats."""
        total = 0.0
        for alpha in self.values:
            log = functional.log_softmax(alpha.detach(), dim=0)
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
        if not violated:
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


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A candidate: the architecture of one epoch, evaluated with that epoch's weights."""

    epoch: int
    architecture: Architecture
    loss: float
    accuracy: float


def connas_search(
    supernet: Supernet,
    cost: CostModel,
    budgets: Sequence[Budget],
    *,
    x: Array,
    y: Array,
    x_val: Array,
    y_val: Array,
    checker: ExactChecker | None = None,
    config: ConnasConfig | None = None,
    relaxation: Relaxation = gumbel_probabilities,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> SearchResult:
    """Search one architecture under budgets by ConNAS; trains the supernet's weights on the way.

    The result's score is validation accuracy with inherited weights. History rows, one per alpha step, hold
    `loss/train`, `loss/validation`, `temperature`, `entropy`, `gradient/raw`, `gradient/modified`, `opposed`, and per
    budget `cost/<metric>` and `violation/<metric>` of the architecture before the step; the last row of each epoch
    after the annealing also `candidate/loss` and `candidate/accuracy`.

    Args:
        supernet: trained in place; on the device where its weights are.
        cost: the cost model of the same space.
        budgets: hard upper bounds on any of its metrics; at most one per metric.
        x, y: data for the weights, numpy in torch's layout. x_val, y_val: data for the alphas and for the choice.
        checker: exact check of the final pick; None accepts the cost model's word.
        config: see `ConnasConfig`.
        relaxation: how alphas become probabilities.
        progress: called after each epoch.
        checkpoint: rewritten atomically after each epoch, so a run may be killed at any moment.
        resume: continue from `checkpoint` where it exists; the result is that of an undisturbed run.

    Raises:
        InfeasibleError: no architecture keeps the budgets (raised before any training), or none passes the exact check.
        ConfigurationError: bad settings, a loss that is not finite, or a checkpoint of another search.
        DataError: broken data.
    """
    config = config or ConnasConfig()
    rng = np.random.default_rng(config.seed)
    require_feasible(cost, budgets, rng)
    device = device_of(supernet)
    inputs, labels = as_tensors(x, y, device, "training data")
    inputs_val, labels_val = as_tensors(x_val, y_val, device, "validation data")
    _check_classes(labels, labels_val, supernet.space.classes)
    recalibration = recalibration_batches(
        x, device, config.recalibration_batches, config.recalibration_batch_size, config.seed
    )
    sizes = [len(choice.candidates) for choice in supernet.space.choices]
    alphas = Alphas(sizes, path_decoder(supernet.space.steps), cost, budgets, config, device)
    optimizer = torch.optim.SGD(
        decayed_groups(supernet, config.weight_decay), lr=config.learning_rate, momentum=0.9, nesterov=True
    )
    run = _Run(supernet, alphas, optimizer, config)
    settings = {
        "config": json.loads(json.dumps(asdict(config))), "space": supernet.space.name, "candidates": sizes,
        "budgets": [[b.metric, b.bound] for b in budgets], "samples": [len(x), len(x_val)],
    }  # fmt: skip
    if resume and checkpoint is not None and checkpoint.exists():
        run.load(checkpoint, settings)

    for epoch in range(run.epoch, config.epochs):
        passed = run.train_epoch(epoch, inputs, labels, inputs_val, labels_val, relaxation)
        architecture = alphas.architecture()
        if epoch >= max(config.anneal_epochs, config.warmup_epochs):
            for candidate in (architecture, *passed)[: config.candidates]:
                loss, right = evaluate_inherited(supernet, candidate, x_val, y_val, recalibration)
                run.note_candidate(_Recorded(epoch, candidate, loss, right))
        run.epoch = epoch + 1
        if checkpoint is not None:
            run.save(checkpoint, settings)
        if progress is not None:
            progress(epoch + 1, config.epochs, run.line(architecture))
    supernet.eval()

    ranked = sorted(run.recorded, key=lambda r: (r.loss, r.epoch))
    chosen = choose(
        cost,
        budgets,
        [r.architecture for r in ranked],
        checker,
        np.random.default_rng(config.seed),
        start=alphas.architecture(),
        score=lambda a: -evaluate_inherited(supernet, a, x_val, y_val, recalibration)[0],
    )
    best = chosen.architecture
    known = next((r.accuracy for r in ranked if r.architecture == best), None)
    others = {r.architecture: r.accuracy for r in reversed(ranked) if r.architecture != best}
    mask = {a: bool(alphas.limits.keeps(cost.price(np.array([a])))[0]) for a in others}
    return SearchResult(
        architecture=best,
        score=evaluate_inherited(supernet, best, x_val, y_val, recalibration)[1] if known is None else known,
        predicted=price_one(cost, best),
        exact=dict(chosen.exact),
        method="connas",
        seed=config.seed,
        evaluations=len({r.architecture for r in ranked}),
        repaired=chosen.repaired,
        history=run.history(),
        alternatives=tuple((a, s) for a, s in reversed(others.items()) if mask[a]),
    )


class _Run:
    """What changes during a search, and how it goes to disk and back."""

    def __init__(
        self, supernet: Supernet, alphas: Alphas, optimizer: torch.optim.Optimizer, config: ConnasConfig
    ) -> None:
        self.supernet, self.alphas, self.optimizer, self.config = supernet, alphas, optimizer, config
        self.epoch = 0
        self.recorded: list[_Recorded] = []
        self.rows: list[tuple[int, dict[str, float]]] = []

    def train_epoch(
        self,
        epoch: int,
        inputs: Tensor,
        labels: Tensor,
        inputs_val: Tensor,
        labels_val: Tensor,
        relaxation: Relaxation,
    ) -> list[Architecture]:
        """One pass over the training data; after the warm-up each weight step is followed by an alpha step.

        Returns:
            the architectures within budgets that the steps passed, latest first, without the one at the end.
        """
        config = self.config
        passed: dict[Architecture, None] = {}
        temperature = config.temperature_at(epoch)
        rate = cosine(config.learning_rate, config.final_learning_rate, epoch / max(1, config.anneal_epochs))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.supernet.train()
        with seeded(config.seed, epoch, inputs.device) as generator:

            def probabilities() -> list[Tensor]:
                return [relaxation(alpha, temperature, generator) for alpha in self.alphas.values]

            validation: Iterator[Tensor] = iter(())
            for step, index in enumerate(shuffled_batches(len(inputs), config.batch_size, generator)):
                mixture = [p.detach() for p in probabilities()]
                loss = functional.cross_entropy(
                    self.supernet.forward_relaxed(inputs[index], mixture), labels[index]
                )
                train_loss = finite(loss, epoch, step, rate)
                self._weight_step(loss)
                for _ in range(config.path_steps):
                    logits = self.supernet.forward_architecture(inputs[index], self.alphas.sample(generator))
                    loss = functional.cross_entropy(logits, labels[index])
                    finite(loss, epoch, step, rate)
                    self._weight_step(loss)
                if epoch < config.warmup_epochs:
                    continue
                held_out = next(validation, None)
                if held_out is None:  # the first step, or the validation set is smaller: shuffle it (again)
                    validation = shuffled_batches(len(inputs_val), config.batch_size, generator)
                    held_out = next(validation)
                logits = self.supernet.forward_relaxed(inputs_val[held_out], probabilities())
                loss = functional.cross_entropy(logits, labels_val[held_out])
                values = {
                    "loss/train": train_loss,
                    "loss/validation": finite(loss, epoch, step, rate),
                    "temperature": temperature,
                }
                # Asking for the alphas alone spares the weights' gradients.
                gradients = torch.autograd.grad(loss, self.alphas.values, allow_unused=True)
                self.rows.append((epoch, {**values, **self.alphas.step(gradients)}))
                architecture, kept = self.alphas.tested
                if kept:
                    passed.pop(architecture, None)  # the latest visit counts
                    passed[architecture] = None
        return [a for a in reversed(passed) if a != self.alphas.architecture()]

    def _weight_step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def note_candidate(self, candidate: _Recorded) -> None:
        self.recorded.append(candidate)
        self.rows[-1][1].setdefault("candidate/loss", candidate.loss)
        self.rows[-1][1].setdefault("candidate/accuracy", candidate.accuracy)

    def line(self, architecture: Architecture) -> str:
        """One line for people about the epoch that has ended."""
        if not self.rows:
            return "warm-up"
        prices = self.alphas.cost.price(np.array([architecture]))
        kept = "within budgets" if self.alphas.limits.keeps(prices)[0] else "over budget"
        return f"validation loss {self.rows[-1][1]['loss/validation']:.4f}, {kept}"

    def history(self) -> tuple[HistoryRow, ...]:
        return tuple(HistoryRow(step, epoch, values) for step, (epoch, values) in enumerate(self.rows))

    def save(self, path: Path, settings: dict[str, Any]) -> None:
        columns = sorted({name for _, values in self.rows for name in values})
        # Tens of thousands of rows: a tensor, not JSON. NaN marks what a row does not have.
        table = torch.tensor(
            [[epoch, *(values.get(c, math.nan) for c in columns)] for epoch, values in self.rows],
            dtype=torch.float64,
        )
        tensors = {
            **with_prefix("weights/", self.supernet.state_dict()),
            **optimizer_tensors(self.optimizer, "optimizer/"),
            **self.alphas.tensors(),
            "history": table,
        }
        metadata = {
            "kind": "connas", "settings": settings, "epoch": self.epoch, "columns": columns,
            "recorded": [[r.epoch, list(r.architecture), r.loss, r.accuracy] for r in self.recorded],
        }  # fmt: skip
        save_checkpoint(path, tensors, metadata)

    def load(self, path: Path, settings: dict[str, Any]) -> None:
        found = load_checkpoint(path)
        check_settings(path, found.metadata, {"kind": "connas"})
        check_settings(path, found.metadata["settings"].get("config"), settings["config"])
        check_settings(path, found.metadata["settings"], settings)
        restore(self.supernet, without_prefix("weights/", found.tensors), str(path))
        load_optimizer_tensors(self.optimizer, found.tensors, "optimizer/")
        self.alphas.load(found.tensors)
        self.epoch = int(found.metadata["epoch"])
        self.recorded = [
            _Recorded(int(e), tuple(int(i) for i in a), float(loss), float(right))
            for e, a, loss, right in found.metadata["recorded"]
        ]
        columns = found.metadata["columns"]
        self.rows = [
            (int(row[0]), {c: v for c, v in zip(columns, row[1:], strict=True) if not math.isnan(v)})
            for row in found.tensors["history"].tolist()
        ]


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


def _check_classes(labels: Tensor, labels_val: Tensor, classes: int) -> None:
    highest = max(int(labels.max()), int(labels_val.max()))
    if highest >= classes:
        raise ConfigurationError(f"label {highest} is beyond the space's {classes} classes")
