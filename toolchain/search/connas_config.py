"""Settings of ConNAS and of the loss-based searches that it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolchain.errors import ConfigurationError
from toolchain.search.direction import Norm
from toolchain.search.evaluators import RECALIBRATION_BATCH_SIZE, RECALIBRATION_BATCHES
from toolchain.search.losses import PENALTIES, Enforcement
from toolchain.search.relaxations import RELAXATIONS, RelaxationName, Scale


@dataclass(frozen=True, slots=True)
class ConnasConfig:
    """Settings; the defaults are the paper's (appendix D.2) unless said otherwise.

    Attributes:
        epochs: passes over the training data.
        warmup_epochs: first epochs that train weights only (the paper has none).
        epoch_steps: weight steps an epoch at most, on a new random part of the training data each time; None: a whole
            pass. On large data it lets the temperature come down in fine steps without many passes.
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
        enforce: how budgets act. "direction": ConNAS. "summed", "multiplied", "piecewise": the loss-based methods of
            the paper's Table 1 (`toolchain.search.losses`), which turn nothing and promise nothing.
        penalty_weight: weight of the hardware term of a loss-based method; not used by "direction".
        relaxation: "gumbel", "darts" or "proxyless" (`toolchain.search.relaxations`).
        alpha_scale: "logits", or "literal": eq. 7 to the letter, the logarithm of alphas clamped at 1e-8.
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
    epoch_steps: int | None = None
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
    enforce: Enforcement = "direction"
    penalty_weight: float = 1.0
    relaxation: RelaxationName = "gumbel"
    alpha_scale: Scale = "logits"
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
        if self.epoch_steps is not None and self.epoch_steps < 1:
            raise ConfigurationError(f"ConNAS: epoch_steps is {self.epoch_steps}; it must be positive")
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
        known = {
            "turn": ("gradient", "update"), "alpha_optimizer": ("adam", "sgd"), "relaxation": tuple(RELAXATIONS),
            "alpha_scale": ("logits", "literal"), "enforce": ("direction", *PENALTIES),
        }  # fmt: skip
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ConfigurationError(
                    f"ConNAS: unknown {name} {getattr(self, name)!r}", remedy=f"use {', '.join(values)}"
                )
        if self.penalty_weight < 0:
            raise ConfigurationError(
                f"ConNAS: penalty_weight is {self.penalty_weight}; it must not be negative"
            )

    @classmethod
    def nats_bench(cls, seed: int = 0) -> ConnasConfig:
        """The paper's settings for NATS-Bench (appendix D.1): those of the class with batches of 64."""
        return cls(batch_size=64, seed=seed)

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
