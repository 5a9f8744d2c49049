"""Evaluators on a supernet's inherited weights, and uniform single-path training of such a supernet."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from toolchain.errors import ConfigurationError
from toolchain.search.protocols import Architecture, Evaluation, Progress, Sampler
from toolchain.supernet.shared import SharedWeights
from toolchain.supernet.single_path import train_paths
from toolchain.supernet.supernet import Supernet, recalibrate_bn
from toolchain.supernet.train import Array, evaluate

RECALIBRATION_BATCHES: Final = 4
RECALIBRATION_BATCH_SIZE: Final = 128


class SupernetEvaluator:
    """Validation accuracy of sub-networks with inherited weights and re-calibrated batch norm.

    Scores are remembered, so the supernet's weights must not change while an evaluator is in use.

    Args:
        supernet: trained shared weights; not changed.
        x_val, y_val: what is scored on, numpy in torch's layout.
        recalibration: input batches for batch norm, see `recalibration_batches`.
    """

    def __init__(
        self, supernet: Supernet, x_val: Array, y_val: Array, recalibration: Sequence[Tensor]
    ) -> None:
        self.supernet, self.x_val, self.y_val = supernet, x_val, y_val
        self.recalibration = recalibration
        self._known: dict[Architecture, Evaluation] = {}

    def __call__(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """Accuracy from 0 to 1, its binomial standard error, and seconds spent; in order."""
        for architecture in architectures:
            if architecture not in self._known:
                begin = time.perf_counter()
                _, right = evaluate_inherited(
                    self.supernet, architecture, self.x_val, self.y_val, self.recalibration
                )
                error = math.sqrt(right * (1 - right) / len(self.y_val))
                self._known[architecture] = Evaluation(right, error, time.perf_counter() - begin)
        return [self._known[architecture] for architecture in architectures]


def evaluate_inherited(
    supernet: SharedWeights,
    architecture: Architecture,
    x_val: Array,
    y_val: Array,
    recalibration: Sequence[Tensor],
) -> tuple[float, float]:
    """(cross-entropy, accuracy from 0 to 1) of one architecture with a copy of the supernet's weights.

    Batch norm is re-calibrated on the copy, so the supernet does not change.

    Raises:
        ConfigurationError: the architecture is not valid.
        DataError: broken data.
    """
    module = supernet.extract(architecture)
    recalibrate_bn(module, recalibration)
    return evaluate(module.eval(), x_val, y_val)


def recalibration_batches(
    x: Array,
    device: torch.device,
    batches: int = RECALIBRATION_BATCHES,
    batch_size: int = RECALIBRATION_BATCH_SIZE,
    seed: int = 0,
) -> list[Tensor]:
    """A few batches of training inputs, drawn once by seed, for batch norm statistics.

    Args:
        x: (N, ...) training inputs. device: where the supernet is.
        batches, batch_size: at most so many samples are taken.

    Raises:
        ConfigurationError: fewer than two samples.
    """
    if len(x) < 2:
        raise ConfigurationError(f"{len(x)} samples are too few to re-calibrate batch norm; needed: 2")
    order = np.random.default_rng(seed).permutation(len(x))[: batches * batch_size]
    parts = np.array_split(order, max(1, min(batches, len(order) // 2, -(-len(order) // batch_size))))
    return [torch.as_tensor(np.ascontiguousarray(x[p], dtype=np.float32)).to(device) for p in parts]


def train_supernet(
    supernet: Supernet,
    x: Array,
    y: Array,
    *,
    sample: Sampler,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 0.05,
    final_learning_rate: float = 0.0,
    weight_decay: float = 5e-4,
    bfloat16: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> tuple[float, ...]:
    """Single-path training: each step trains one sampled sub-network (SGD Nesterov, cosine schedule).

    Args:
        supernet: trained in place.
        x, y: training data, numpy in torch's layout.
        sample: draws the next sub-network; `Space.sample` is uniform over all architectures.
        epochs, batch_size, learning_rate, final_learning_rate, weight_decay, bfloat16: as `train_network`.
        seed: the same seed and data give the same weights.
        progress: called after each epoch.
        checkpoint: rewritten after each epoch. resume: continue from it where it exists; the result is the same.

    Returns:
        mean training loss of each epoch.

    Raises:
        DataError: broken data.
        ConfigurationError: a loss that is not finite, or a checkpoint of another training.
    """

    def drawn(rng: np.random.Generator) -> Iterator[Architecture]:
        while True:
            yield sample(rng)

    return train_paths(
        supernet, x, y, kind="train_supernet", deal=drawn, paths=1, epochs=epochs, batch_size=batch_size,
        learning_rate=learning_rate, final_learning_rate=final_learning_rate, weight_decay=weight_decay,
        seed=seed, progress=progress, checkpoint=checkpoint, resume=resume, more_settings={}, bfloat16=bfloat16,
    )  # fmt: skip
