"""A small multi-layer perceptron on alpha and beta: the parameter-heavy predictor of BINAS, section 5.2.2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from toolchain.errors import ConfigurationError
from toolchain.search.estimators.encoding import Encoding
from toolchain.search.estimators.learned import checked_pairs
from toolchain.search.protocols import Architecture, Floats, Ints


@dataclass(frozen=True, slots=True)
class MlpEstimator:
    """A fitted perceptron.

    Attributes:
        module: (n, A + B) -> (n, 1) standardised accuracies, in eval mode.
        encoding: how architectures become its inputs.
        mean, deviation: of the training accuracies.
    """

    module: nn.Module
    encoding: Encoding
    mean: float
    deviation: float

    def predict(self, architectures: Ints | Sequence[Architecture]) -> Floats:
        """(n, choices) candidate indices -> (n,) accuracies, in the unit of the training accuracies."""
        with torch.inference_mode():
            out = self.module(_inputs(self.encoding, architectures))[:, 0].numpy()
        return self.mean + self.deviation * np.asarray(out, dtype=np.float64)


def fit_mlp(
    architectures: Ints | Sequence[Architecture],
    accuracies: Sequence[float] | Floats,
    encoding: Encoding,
    *,
    hidden: Sequence[int] = (128, 128),
    steps: int = 600,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    weight_decay: float = 1e-2,
    validation: float = 0.2,
    patience: int = 10,
    seed: int = 0,
) -> MlpEstimator:
    """Train the perceptron by AdamW on squared error; keep the step with the least error on a held-out part.

    Args:
        architectures, accuracies, encoding: as `fit_ridge`.
        hidden: widths of the hidden layers (ReLU).
        steps: optimiser steps at most.
        batch_size, learning_rate, weight_decay: of AdamW.
        validation: share of the networks that early stopping holds out, at least one network.
        patience: checks (every 20 steps) without improvement after which training ends.
        seed: the same seed and data give the same predictor; the caller's generators are not touched.

    Raises:
        ConfigurationError: as `fit_ridge`; fewer than three networks, or settings out of range.
    """
    table, y = checked_pairs(architectures, accuracies, encoding)
    if len(y) < 3 or steps < 1 or batch_size < 1 or not 0 < validation < 1:
        raise ConfigurationError(
            f"{len(y)} networks (3 are needed), steps {steps}, batch_size {batch_size}, validation {validation}"
        )
    mean, deviation = float(y.mean()), float(y.std()) or 1.0
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    held = max(1, round(validation * len(y)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inputs = _inputs(encoding, table)
        target = torch.as_tensor((y - mean) / deviation, dtype=torch.float32)[:, None]
        module = _perceptron(inputs.shape[1], hidden)
        optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=weight_decay)
        train, test = torch.from_numpy(order[held:]), torch.from_numpy(order[:held])
        best, best_error, waited = module.state_dict(), float("inf"), 0
        for step in range(steps):
            index = train[torch.from_numpy(rng.integers(len(train), size=min(batch_size, len(train))))]
            loss = nn.functional.mse_loss(module(inputs[index]), target[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step % 20 == 19 or step == steps - 1:
                with torch.no_grad():
                    error = float(nn.functional.mse_loss(module(inputs[test]), target[test]))
                waited += 1
                if error < best_error:
                    best = {name: tensor.clone() for name, tensor in module.state_dict().items()}
                    best_error, waited = error, 0
                if waited >= patience:
                    break
        module.load_state_dict(best)
    return MlpEstimator(module.eval(), encoding, mean, deviation)


def _perceptron(inputs: int, hidden: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 1))


def _inputs(encoding: Encoding, architectures: Ints | Sequence[Architecture]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(encoding.encode(architectures), axis=1)).float()
