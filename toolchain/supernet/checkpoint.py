"""Weights on disk: one safetensors file, written whole or not at all, that knows what it holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from toolchain.errors import ConfigurationError
from toolchain.files import write_atomic

FORMAT: Final = "boardfit-checkpoint-1"
KEY: Final = "boardfit"


class Checkpoint(NamedTuple):
    """What a checkpoint file holds.

    Attributes:
        tensors: name -> tensor, on the CPU.
        metadata: what the writer noted (seed, epoch, space, ...); JSON values.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors (a `state_dict`, optimiser moments, ...) and JSON metadata to `path`, atomically.

    A checksum over the tensors goes with them, so that a damaged file is noticed.

    Raises:
        BoardfitError: the disk is full or the folder cannot be written; the old file is untouched.
        ConfigurationError: the metadata is not JSON.
    """
    # Copies: safetensors refuses views that share memory.
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    notes = {"format": FORMAT, "metadata": dict(metadata), "sha256": _digest(whole)}
    try:
        text = json.dumps(notes, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"checkpoint metadata is not JSON: {error}") from error
    # One entry only: safetensors writes several in a random order, and equal content shall give equal bytes.
    write_atomic(path, save_tensors(whole, metadata={KEY: text}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote.

    Raises:
        ConfigurationError: no such file, not a checkpoint of boardfit, or damaged.
    """
    remedy = "delete the file to start afresh, or restore it from a copy"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read checkpoint {path}: {error.strerror}") from error
    try:
        tensors = load_tensors(data)
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(KEY, "{}")
        notes = json.loads(text)
    except (SafetensorError, ValueError, KeyError, RuntimeError, OSError) as error:
        raise ConfigurationError(f"checkpoint {path} is damaged: {error}", remedy=remedy) from error
    if notes.get("format") != FORMAT:
        raise ConfigurationError(
            f"{path} is not a checkpoint of boardfit (format {notes.get('format')!r}, expected {FORMAT!r})"
        )
    if notes.get("sha256") != _digest(tensors):
        raise ConfigurationError(f"checkpoint {path} is damaged: its checksum does not fit", remedy=remedy)
    return Checkpoint(tensors, notes["metadata"])


def restore(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load a checkpoint's tensors into a module; names and shapes must agree.

    Args:
        where: the file, for messages.

    Raises:
        ConfigurationError: they do not; the module is untouched.
    """
    own = module.state_dict()
    wrong = [
        name for name in sorted(own.keys() | tensors.keys())
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape
    ]  # fmt: skip
    if wrong:
        raise ConfigurationError(
            f"{where} does not fit this network: {len(wrong)} tensors differ, first {wrong[0]}",
            remedy="it belongs to another space or other parameters; delete it to start afresh",
        )
    module.load_state_dict(dict(tensors))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
