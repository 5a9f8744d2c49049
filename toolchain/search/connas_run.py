"""The training loop of ConNAS: weights and alphas by turns, and how that goes to disk and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from toolchain.search.connas_alphas import Alphas
from toolchain.search.connas_config import ConnasConfig
from toolchain.search.protocols import Architecture, HistoryRow
from toolchain.search.relaxations import Relaxation
from toolchain.supernet.checkpoint import Checkpoint, load_checkpoint, restore, save_checkpoint
from toolchain.supernet.shared import SharedWeights
from toolchain.supernet.train import (
    check_settings,
    cosine,
    finite,
    load_optimizer_tensors,
    optimizer_tensors,
    seeded,
    shuffled_batches,
    with_prefix,
    without_prefix,
)

Augment: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
"""(batch of inputs, generator on the CPU) -> a batch of the same shape."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A candidate: an architecture of one epoch, evaluated with that epoch's weights.

    Attributes:
        epoch: from 0. architecture: what was evaluated.
        loss, accuracy: cross-entropy and share of right answers on the validation data.
    """

    epoch: int
    architecture: Architecture
    loss: float
    accuracy: float


class Run:
    """What changes during a search, and how it goes to disk and back."""

    def __init__(
        self, supernet: SharedWeights, alphas: Alphas, optimizer: torch.optim.Optimizer, config: ConnasConfig
    ) -> None:
        self.supernet, self.alphas, self.optimizer, self.config = supernet, alphas, optimizer, config
        self.epoch = 0
        self.loss = math.nan  # of the latest step on the mixture
        self.recorded: list[Recorded] = []
        self.rows: list[tuple[int, dict[str, float]]] = []

    def train_epoch(
        self,
        epoch: int,
        inputs: Tensor,
        labels: Tensor,
        inputs_val: Tensor,
        labels_val: Tensor,
        relaxation: Relaxation | None,
        augment: Augment | None = None,
    ) -> list[Architecture]:
        """One pass over the training data, or `epoch_steps`; after the warm-up an alpha step follows each weight step.

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
                return self.alphas.probabilities(temperature, generator, relaxation)

            validation: Iterator[Tensor] = iter(())
            batches = shuffled_batches(len(inputs), config.batch_size, generator)
            for step, index in enumerate(islice(batches, config.epoch_steps)):
                mixture = [p.detach() for p in probabilities()]
                batch = inputs[index] if augment is None else augment(inputs[index], generator)
                loss = functional.cross_entropy(self.supernet.forward_relaxed(batch, mixture), labels[index])
                self.loss = finite(loss, epoch, step, rate)
                self._weight_step(loss)
                for _ in range(config.path_steps):
                    logits = self.supernet.forward_architecture(batch, self.alphas.sample(generator))
                    loss = functional.cross_entropy(logits, labels[index])
                    finite(loss, epoch, step, rate)
                    self._weight_step(loss)
                if epoch < config.warmup_epochs:
                    continue
                held_out = next(validation, None)
                if held_out is None:  # the first step, or the validation set is smaller: shuffle it (again)
                    validation = shuffled_batches(len(inputs_val), config.batch_size, generator)
                    held_out = next(validation)
                drawn = probabilities()
                logits = self.supernet.forward_relaxed(inputs_val[held_out], drawn)
                loss = functional.cross_entropy(logits, labels_val[held_out])
                values = {
                    "loss/train": self.loss,
                    "loss/validation": finite(loss, epoch, step, rate),
                    "accuracy/validation": float((logits.argmax(1) == labels_val[held_out]).float().mean()),
                    "temperature": temperature,
                }
                loss = self.alphas.penalised(loss, drawn)
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

    def note_candidate(self, candidate: Recorded) -> None:
        self.recorded.append(candidate)
        self.rows[-1][1].setdefault("candidate/loss", candidate.loss)
        self.rows[-1][1].setdefault("candidate/accuracy", candidate.accuracy)

    def line(self, architecture: Architecture) -> str:
        """One line for people about the epoch that has ended."""
        if not self.rows:
            return f"warm-up, training loss {self.loss:.4f}"
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
        self.recorded = _recorded(found)
        self.rows = _rows(found)


def read_kept(path: Path, supernet: SharedWeights) -> tuple[list[Recorded], tuple[HistoryRow, ...]]:
    """The candidates and the log of a search whose checkpoint was kept; its weights go into the supernet.

    Raises:
        ConfigurationError: no checkpoint of a ConNAS search in this space, or a damaged one.
    """
    found = load_checkpoint(path)
    check_settings(path, found.metadata, {"kind": "connas"})
    restore(supernet, without_prefix("weights/", found.tensors), str(path))
    supernet.eval()
    rows = tuple(HistoryRow(step, epoch, values) for step, (epoch, values) in enumerate(_rows(found)))
    return _recorded(found), rows


def _recorded(found: Checkpoint) -> list[Recorded]:
    return [
        Recorded(int(e), tuple(int(i) for i in a), float(loss), float(right))
        for e, a, loss, right in found.metadata["recorded"]
    ]


def _rows(found: Checkpoint) -> list[tuple[int, dict[str, float]]]:
    columns = found.metadata["columns"]
    return [
        (int(row[0]), {c: v for c, v in zip(columns, row[1:], strict=True) if not math.isnan(v)})
        for row in found.tensors["history"].tolist()
    ]
