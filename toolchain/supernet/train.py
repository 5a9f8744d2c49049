"""Training a plain network, and the small parts that every training loop here shares.

Data are numpy arrays in torch's layout: (N, C, H, W), (N, C, L) or (N, F), labels (N,) integers. Every epoch draws its
randomness from (seed, epoch) alone, so a resumed run needs no generator state to give what an undisturbed one gives.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from toolchain.errors import ConfigurationError, DataError
from toolchain.supernet.checkpoint import load_checkpoint, restore, save_checkpoint

Array: TypeAlias = npt.NDArray[Any]
Progress: TypeAlias = Callable[[int, int, str], None]

_EVALUATION_BATCH: Final = 512


@dataclass(frozen=True, slots=True)
class TrainReport:
    """How a training went; one entry per epoch.

    Attributes:
        train_loss: mean cross-entropy over the epoch's batches (with label smoothing and augmentation, if any).
        val_loss: cross-entropy on the validation set after the epoch.
        val_accuracy: share of right answers on the validation set after the epoch, 0 to 1.
        best_epoch: the epoch with the highest validation accuracy (ties: lower loss, then earlier), from 0.
    """

    train_loss: tuple[float, ...]
    val_loss: tuple[float, ...]
    val_accuracy: tuple[float, ...]
    best_epoch: int


def train_network(
    module: nn.Module,
    x: Array,
    y: Array,
    *,
    x_val: Array,
    y_val: Array,
    epochs: int = 30,
    batch_size: int = 64,
    learning_rate: float = 0.05,
    final_learning_rate: float = 0.0,
    weight_decay: float = 5e-4,
    optimizer: Literal["sgd", "adamw"] = "sgd",
    label_smoothing: float = 0.0,
    shift: int = 0,
    keep: Literal["best", "last"] = "best",
    bfloat16: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> TrainReport:
    """Train `module` in place by SGD (Nesterov, momentum 0.9) or AdamW with a cosine schedule per step.

    Args:
        module: any classifier that gives (batch, classes) logits; trained on the device where its weights are.
        x, y: training data, see above. x_val, y_val: validation data.
        epochs: passes over the training data.
        batch_size: samples per step; a last batch of one sample is left out (batch norm cannot use it).
        learning_rate, final_learning_rate: ends of the cosine schedule.
        weight_decay: on the weights, not on biases and batch norm.
        label_smoothing: 0 to below 1.
        shift: augmentation: samples are moved by up to so many pixels or steps, filled with zeros; 0 for none.
        keep: which weights the module has afterwards, the best epoch's by validation or the last epoch's.
        bfloat16: convolutions and linear layers compute in bfloat16 while training, all else and the weights stay
            float32 (torch's autocast). Wide networks take half the time on GPUs and CPUs with AVX512-BF16 or AMX,
            more time on others.
        seed: the same seed, data and module give the same weights on the same machine.
        progress: called after each epoch.
        checkpoint: file that is rewritten after each epoch (weights, best weights, optimiser, report).
        resume: continue from `checkpoint` where it exists; the result is that of an undisturbed run.

    Returns:
        the report; the module is in eval mode.

    Raises:
        DataError: broken data (shapes, NaN, labels beyond the classes).
        ConfigurationError: bad settings, a loss that is not finite (remedy: lower learning rate), or a checkpoint
            of another training.
    """
    if epochs < 1 or batch_size < 1 or learning_rate <= 0 or shift < 0 or not 0 <= label_smoothing < 1:
        raise ConfigurationError(
            f"training settings out of range: epochs {epochs}, batch_size {batch_size}, learning_rate "
            f"{learning_rate}, shift {shift}, label_smoothing {label_smoothing}",
            remedy="correct [training] or [search] in the project file",
        )
    device = device_of(module)
    inputs, labels = as_tensors(x, y, device, "training data")
    as_tensors(x_val, y_val, device, "validation data")
    check_labels(module, inputs, np.concatenate([y, y_val]))
    optimiser = _optimizer(module, optimizer, learning_rate, weight_decay)
    settings = {
        "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed,
        "final_learning_rate": final_learning_rate, "weight_decay": weight_decay, "optimizer": optimizer,
        "label_smoothing": label_smoothing, "shift": shift, "samples": len(x),
        "bfloat16": bfloat16 or None,  # absent in older checkpoints, which go on
    }  # fmt: skip
    rows: list[tuple[float, float, float]] = []
    best = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    if resume and checkpoint is not None and checkpoint.exists():
        rows, best = _load(checkpoint, module, optimiser, settings)

    steps = math.ceil(len(x) / batch_size)
    if progress is not None and len(rows) < epochs:
        progress(len(rows), epochs, "")  # an epoch may take long
    for epoch in range(len(rows), epochs):
        module.train()
        losses = []
        with seeded(seed, epoch, device) as generator:
            for step, index in enumerate(shuffled_batches(len(x), batch_size, generator)):
                rate = cosine(learning_rate, final_learning_rate, (epoch * steps + step) / (epochs * steps))
                for group in optimiser.param_groups:
                    group["lr"] = rate
                batch = inputs[index]
                if shift:
                    batch = shifted(batch, shift, generator)
                with mixed_precision(device, bfloat16):
                    logits = module(batch).float()
                loss = functional.cross_entropy(logits, labels[index], label_smoothing=label_smoothing)
                losses.append(finite(loss, epoch, step, rate))
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        rows.append((float(np.mean(losses)), *evaluate(module, x_val, y_val)))
        if _best_epoch(rows) == epoch:
            best = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        if checkpoint is not None:
            _save(checkpoint, module, optimiser, settings, rows, best)
        if progress is not None:
            line = f"loss {rows[-1][0]:.4f}, validation accuracy {100 * rows[-1][2]:.2f} %"
            progress(epoch + 1, epochs, line)
    if keep == "best":
        module.load_state_dict(best)
    module.eval()
    return _report(rows)


def evaluate(module: nn.Module, x: Array, y: Array) -> tuple[float, float]:
    """(mean cross-entropy, accuracy from 0 to 1) of a classifier in eval mode; its mode is kept.

    Args:
        module: gives (batch, classes) logits.
        x, y: data in torch's layout and integer labels.

    Raises:
        DataError: broken data.
    """
    device = device_of(module)
    inputs, labels = as_tensors(x, y, device, "evaluation data")
    was_training = module.training
    module.eval()
    loss, right = 0.0, 0
    try:
        with torch.inference_mode():
            for begin in range(0, len(inputs), _EVALUATION_BATCH):
                logits = module(inputs[begin : begin + _EVALUATION_BATCH])
                target = labels[begin : begin + _EVALUATION_BATCH]
                loss += float(functional.cross_entropy(logits, target, reduction="sum"))
                right += int((logits.argmax(1) == target).sum())
    finally:
        module.train(was_training)
    return loss / len(inputs), right / len(inputs)


def accuracy(module: nn.Module, x: Array, y: Array) -> float:
    """Share of right answers, 0 to 1, in eval mode; see `evaluate`."""
    return evaluate(module, x, y)[1]


# --- parts that other training loops share ------------------------------------------------------------------------


def device_of(module: nn.Module) -> torch.device:
    """Where the module's weights are; the CPU for a module without any."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def mixed_precision(device: torch.device, bfloat16: bool) -> torch.autocast:
    """The context in which a forward pass computes in bfloat16 where that is safe; without effect if not asked for."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16)


def as_tensors(x: Array, y: Array, device: torch.device, what: str) -> tuple[Tensor, Tensor]:
    """Samples as float32 and labels as int64 tensors on `device`.

    Raises:
        DataError: no samples, lengths that differ, NaN or inf, labels that are not whole numbers from 0.
    """
    if len(x) == 0 or len(x) != len(y) or np.ndim(y) != 1:
        raise DataError(f"{what}: {len(x)} samples and labels of shape {np.shape(y)}; they must pair up")
    if not np.isfinite(x).all():
        raise DataError(f"{what} holds NaN or inf", remedy="clean or drop these samples")
    if np.asarray(y).dtype.kind not in "iu" or np.min(y) < 0:
        raise DataError(
            f"{what}: labels must be integers from 0, got {np.asarray(y).dtype}, least {np.min(y)}"
        )
    return (
        torch.as_tensor(np.ascontiguousarray(x, dtype=np.float32)).to(device),
        torch.as_tensor(np.asarray(y, dtype=np.int64)).to(device),
    )


def check_labels(module: nn.Module, inputs: Tensor, y: Array) -> None:
    """Raise DataError when `module` does not take `inputs`, or when a label is beyond the classes that it gives."""
    was_training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            classes = module(inputs[:1]).shape[1]
    except RuntimeError as error:
        raise DataError(
            f"samples of shape {tuple(inputs.shape[1:])} do not fit the network: {error}"
        ) from error
    finally:
        module.train(was_training)
    if int(np.max(y)) >= classes:
        raise DataError(f"label {int(np.max(y))} is beyond the network's {classes} classes")


@contextlib.contextmanager
def seeded(seed: int, epoch: int, device: torch.device) -> Iterator[torch.Generator]:
    """A CPU generator, and torch's global ones, seeded by (seed, epoch); the global ones are put back afterwards.

    The global ones matter for dropout. As each epoch starts from its own seed, checkpoints need no generator state.
    """
    number = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(number)
        generator = torch.Generator()
        generator.manual_seed(number)
        yield generator


def shuffled_batches(samples: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Index tensors of one shuffled pass; a last batch of a single sample is left out (batch norm cannot use it)."""
    order = torch.randperm(samples, generator=generator)
    for begin in range(0, samples, batch_size):
        index = order[begin : begin + batch_size]
        if len(index) > 1 or samples == 1 or batch_size == 1:
            yield index


def cosine(first: float, last: float, progress: float) -> float:
    """The cosine schedule: `first` at progress 0, `last` from progress 1 on."""
    return last + 0.5 * (first - last) * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def finite(loss: Tensor, epoch: int, step: int, learning_rate: float) -> float:
    """The loss as a number.

    Raises:
        ConfigurationError: it is NaN or inf.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        raise ConfigurationError(
            f"the training loss is {value} in epoch {epoch + 1}, step {step + 1}, at learning rate "
            f"{learning_rate:g}",
            remedy=f"lower the learning rate, for example to {learning_rate / 10:g}",
        )
    return value


def shifted(batch: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Each sample moved along each spatial axis by a random -shift..shift, filled with zeros; (N, C, ...) -> same."""
    axes = batch.ndim - 2
    result = functional.pad(batch, (shift, shift) * axes)
    for axis in range(2, batch.ndim):
        size = batch.shape[axis]
        offset = torch.randint(0, 2 * shift + 1, (len(batch), 1), generator=generator)
        index = (offset + torch.arange(size)).to(batch.device)
        shape = [len(batch), *(1 for _ in range(batch.ndim - 1))]
        shape[axis] = size
        wide = list(result.shape)
        wide[axis] = size
        result = result.gather(axis, index.view(shape).expand(wide))
    return result


def decayed_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: decay on tensors of two and more axes, none on biases and batch norm."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """An optimiser's state as named tensors for a checkpoint: "<prefix><parameter>.<name>"."""
    return {
        f"{prefix}{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
        if value is not None
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str
) -> None:
    """Put back what `optimizer_tensors` gave; the groups' settings stay those of `optimizer`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(prefix):
            index, name = key.removeprefix(prefix).split(".")
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under longer names."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def check_settings(path: Path, found: object, expected: Mapping[str, Any]) -> None:
    """Raise ConfigurationError when a checkpoint was written with other settings; the message names the first."""
    known = found if isinstance(found, dict) else {}
    for name, value in expected.items():
        if known.get(name) != value:
            raise ConfigurationError(
                f"checkpoint {path} was written with {name} = {known.get(name)}, this run has {value}",
                remedy="use the same settings, or delete the checkpoint to start afresh",
            )


def _optimizer(
    module: nn.Module, kind: str, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    groups = decayed_groups(module, weight_decay)
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True)
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate)
    raise ConfigurationError(f"unknown optimizer {kind!r}", remedy='use "sgd" or "adamw"')


def _best_epoch(rows: list[tuple[float, float, float]]) -> int:
    return max(range(len(rows)), key=lambda i: (rows[i][2], -rows[i][1], -i))


def _report(rows: list[tuple[float, float, float]]) -> TrainReport:
    train, loss, right = zip(*rows, strict=True)
    return TrainReport(train, loss, right, _best_epoch(rows))


def _save(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Mapping[str, Any],
    rows: list[tuple[float, float, float]],
    best: Mapping[str, Tensor],
) -> None:
    tensors = {
        **with_prefix("weights/", module.state_dict()),
        **with_prefix("best/", best),
        **optimizer_tensors(optimizer, "optimizer/"),
    }
    save_checkpoint(path, tensors, {"kind": "train_network", "settings": dict(settings), "rows": rows})


def _load(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
) -> tuple[list[tuple[float, float, float]], dict[str, Tensor]]:
    checkpoint = load_checkpoint(path)
    check_settings(path, checkpoint.metadata, {"kind": "train_network"})
    check_settings(path, checkpoint.metadata["settings"], settings)
    restore(module, without_prefix("weights/", checkpoint.tensors), str(path))
    load_optimizer_tensors(optimizer, checkpoint.tensors, "optimizer/")
    device = device_of(module)
    best = {n: t.to(device) for n, t in without_prefix("best/", checkpoint.tensors).items()}
    rows = [(float(a), float(b), float(c)) for a, b, c in checkpoint.metadata["rows"]]
    return rows, best
