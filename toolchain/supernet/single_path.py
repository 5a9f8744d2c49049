"""The loop that trains a supernet by single paths; which paths, and how many a step, is the caller's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from toolchain.spaces import Architecture
from toolchain.supernet.checkpoint import load_checkpoint, restore, save_checkpoint
from toolchain.supernet.supernet import Supernet
from toolchain.supernet.train import (
    Array,
    Progress,
    as_tensors,
    check_settings,
    cosine,
    decayed_groups,
    device_of,
    finite,
    load_optimizer_tensors,
    mixed_precision,
    optimizer_tensors,
    seeded,
    shuffled_batches,
    with_prefix,
    without_prefix,
)


def train_paths(
    supernet: Supernet,
    x: Array,
    y: Array,
    *,
    kind: str,
    deal: Callable[[np.random.Generator], Iterator[Architecture]],
    paths: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    final_learning_rate: float,
    weight_decay: float,
    seed: int,
    progress: Progress | None,
    checkpoint: Path | None,
    resume: bool,
    more_settings: Mapping[str, Any],
    bfloat16: bool = False,
) -> tuple[float, ...]:
    """Each step sums the gradients of `paths` sub-networks on one batch (SGD Nesterov, cosine schedule).

    Gradients of stem and head, which every path uses, are divided by the number of paths.

    Args:
        kind: of the checkpoint; one of another kind is refused.
        deal: a generator for one epoch -> endless architectures. It starts afresh with each epoch, so that a
            checkpoint need not hold its state.
        more_settings: beside those here, what a resumed run must share.
        bfloat16: convolutions and linear layers compute in it, see `train_network`.
        The others: as `train_supernet` and `train_fair`, which call this.

    Returns:
        mean training loss of each epoch.

    Raises:
        DataError: broken data.
        ConfigurationError: a loss that is not finite, or a checkpoint of another training.
    """
    device = device_of(supernet)
    inputs, labels = as_tensors(x, y, device, "training data")
    optimizer = torch.optim.SGD(
        decayed_groups(supernet, weight_decay), lr=learning_rate, momentum=0.9, nesterov=True
    )
    settings: dict[str, Any] = {
        "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed,
        "final_learning_rate": final_learning_rate, "weight_decay": weight_decay, "samples": len(x),
        "space": supernet.space.name, "bfloat16": bfloat16 or None, **more_settings,
    }  # fmt: skip
    losses: list[float] = []
    if resume and checkpoint is not None and checkpoint.exists():
        found = load_checkpoint(checkpoint)
        check_settings(checkpoint, found.metadata, {"kind": kind})
        check_settings(checkpoint, found.metadata["settings"], settings)
        restore(supernet, without_prefix("weights/", found.tensors), str(checkpoint))
        load_optimizer_tensors(optimizer, found.tensors, "optimizer/")
        losses = [float(v) for v in found.metadata["losses"]]
    always = [*supernet.stem.parameters(), *supernet.head.parameters()]
    steps = math.ceil(len(x) / batch_size)
    if progress is not None and len(losses) < epochs:
        progress(len(losses), epochs, "")  # an epoch may take long
    for epoch in range(len(losses), epochs):
        supernet.train()
        dealt = deal(np.random.default_rng([seed, epoch]))
        part: list[float] = []
        with seeded(seed, epoch, device) as generator:
            for step, index in enumerate(shuffled_batches(len(x), batch_size, generator)):
                rate = cosine(learning_rate, final_learning_rate, (epoch * steps + step) / (epochs * steps))
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.zero_grad()
                for _ in range(paths):
                    with mixed_precision(device, bfloat16):
                        logits = supernet.forward_architecture(inputs[index], next(dealt)).float()
                    loss = functional.cross_entropy(logits, labels[index])
                    part.append(finite(loss, epoch, step, rate))
                    loss.backward()  # type: ignore[no-untyped-call]
                for parameter in always:
                    if parameter.grad is not None:
                        parameter.grad /= paths
                optimizer.step()
        losses.append(float(np.mean(part)))
        if checkpoint is not None:
            save_checkpoint(
                checkpoint,
                {
                    **with_prefix("weights/", supernet.state_dict()),
                    **optimizer_tensors(optimizer, "optimizer/"),
                },
                {"kind": kind, "settings": settings, "losses": losses},
            )
        if progress is not None:
            progress(epoch + 1, epochs, f"supernet loss {losses[-1]:.4f}")
    supernet.eval()
    return tuple(losses)
