"""The sandwich rule with distillation in place (Yu and Huang, 2019; BigNAS, Yu et al., 2020, section 3.1).

Each step trains the largest network on the labels, and on the same batch the smallest and some random ones on the
largest one's answers. The bounds of what the shared weights must serve improve together, and small networks are shown
what they would find by themselves late or never: single paths drawn at random teach each network alone, from labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from toolchain.errors import ConfigurationError
from toolchain.spaces import Architecture
from toolchain.supernet.single_path import train_paths
from toolchain.supernet.supernet import Supernet
from toolchain.supernet.train import Array, Progress


def train_sandwich(
    supernet: Supernet,
    x: Array,
    y: Array,
    *,
    largest: Architecture,
    smallest: Architecture,
    sample: Callable[[np.random.Generator], Architecture],
    epochs: int,
    paths: int = 4,
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
    """Train a supernet by the sandwich rule (SGD Nesterov, cosine schedule, one update a step).

    Gradients are summed over the paths; those of stem and head, which every path uses, are divided by their number.

    Args:
        supernet: trained in place.
        x, y: training data, numpy in torch's layout.
        largest: learns from the labels and teaches the others; the space does not say which one that is, as more
            channels, larger kernels and more depth need not go together.
        smallest: the other end.
        sample: draws the paths between; `Space.sample` is uniform over all architectures.
        epochs: passes over the data.
        paths: a step, with both ends; at least 2.
        batch_size, learning_rate, final_learning_rate, weight_decay, bfloat16: as `train_network`.
        seed: the same seed and data give the same weights.
        progress: called after each epoch.
        checkpoint: rewritten after each epoch. resume: continue from it where it exists; the result is the same.

    Returns:
        mean training loss of each epoch over all paths.

    Raises:
        DataError: broken data.
        ConfigurationError: a loss that is not finite, bad settings, or a checkpoint of another training.
    """
    if paths < 2 or min(epochs, batch_size) < 1:
        raise ConfigurationError(
            f"paths {paths} must be at least 2 (the two ends), epochs {epochs} and batch_size {batch_size} at least 1"
        )
    for end in (largest, smallest):
        supernet.space.path(end)  # says what is wrong with one that is not valid

    def dealt(rng: np.random.Generator) -> Iterator[Architecture]:
        while True:
            yield largest
            yield smallest
            for _ in range(paths - 2):
                yield sample(rng)

    return train_paths(
        supernet, x, y, kind="train_sandwich", deal=dealt, paths=paths, epochs=epochs, batch_size=batch_size,
        learning_rate=learning_rate, final_learning_rate=final_learning_rate, weight_decay=weight_decay,
        seed=seed, progress=progress, checkpoint=checkpoint, resume=resume, distil=True,
        bfloat16=bfloat16,
        more_settings={"paths": paths, "ends": [list(largest), list(smallest)]},
    )  # fmt: skip
