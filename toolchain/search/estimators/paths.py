"""Right answers of random sub-networks, a different one for each few inputs: what contributions are made from.

BINAS (section 3.2, Figure 3) samples a different sub-network for each input. Here each small group of inputs shares
one, because a network is run on a batch; the group is one observation with as many answers as inputs, and standard
errors are computed over groups, so that answers of one group need not be independent.

Batch norm: sub-networks of a supernet need statistics of their own, and re-calibrating each would cost many times the
evaluation. A group is therefore normalised by the statistics of its own batch, in which companions (unlabelled
training inputs, drawn anew for each group) sit beside the group's inputs: with 16 inputs and 48 companions each mean
and variance is over 64 samples times the map. Running statistics are neither used nor changed. With
`statistics="running"` the supernet's running averages are used: those of the mixture that it was trained with.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch

from toolchain.errors import ConfigurationError
from toolchain.files import write_atomic
from toolchain.search.protocols import Ints, Progress, Sampler
from toolchain.supernet.supernet import Supernet
from toolchain.supernet.train import Array, as_tensors, check_settings, device_of

FORMAT: Final = "boardfit-paths-1"
_SAVE_EVERY: Final = 256


@dataclass(frozen=True, slots=True)
class PathSamples:
    """What random sub-networks answered, one row per group of inputs.

    Attributes:
        architectures: (n, choices) int64.
        right: (n,) int64, right answers of the group.
        total: (n,) int64, inputs of the group.
        samplers: (n,) int64, which of the samplers drew the row; 0 where there is one only.
    """

    architectures: Ints
    right: Ints
    total: Ints
    samplers: Ints

    @property
    def samples(self) -> int:
        """Inputs evaluated in all, the unit of the budget."""
        return int(self.total.sum())

    def first(self, samples: int) -> PathSamples:
        """The fewest leading rows that hold so many inputs, or all."""
        rows = int(np.searchsorted(np.cumsum(self.total), samples)) + 1
        return PathSamples(
            self.architectures[:rows], self.right[:rows], self.total[:rows], self.samplers[:rows]
        )


def sample_paths(
    supernet: Supernet,
    x: Array,
    y: Array,
    *,
    samplers: Sequence[Sampler],
    samples: int,
    group: int = 16,
    companions: Array | None = None,
    companion_count: int = 48,
    statistics: Literal["batch", "running"] = "batch",
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> PathSamples:
    """Run a freshly drawn sub-network on each group of inputs, with inherited weights (BINAS, section 3.2).

    Inputs come in a new random order on every pass; groups take the samplers in turn. A group's randomness follows from
    the seed and its number alone, so a resumed run gives what an undisturbed one gives, and a larger budget begins with
    the rows of a smaller one.

    Args:
        supernet: trained shared weights; unchanged afterwards, its running statistics too.
        x, y: (N, ...) validation inputs and (N,) labels, numpy in torch's layout.
        samplers: one for pooled estimates, e.g. `Mobilenet.sample_by_depth`; one per condition for
            `paper_conditions`.
        samples: budget: number of inputs to evaluate, rounded up to whole groups. It may exceed N.
        group: inputs that share a sub-network.
        companions: (M, ...) training inputs to draw companions from; None for none.
        companion_count: companions of a group; at most M are taken.
        statistics: see the module. With "batch", dropout too is in training mode.
        seed: see above.
        checkpoint: `.npz`, rewritten every few hundred groups and at the end. resume: continue from it where it exists.
        progress: called with (inputs done, inputs in all, a line) after each save.

    Raises:
        DataError: broken data.
        ConfigurationError: bad settings, or a checkpoint of other settings or other weights.
    """
    if samples < 1 or group < 1 or companion_count < 0 or not samplers:
        raise ConfigurationError(
            f"samples {samples}, group {group}, companion_count {companion_count}, {len(samplers)} samplers: "
            "the first two and the number of samplers must be positive"
        )
    device = device_of(supernet)
    inputs, labels = as_tensors(x, y, device, "validation data")
    beside = None
    if companions is not None and companion_count and statistics == "batch":
        beside = as_tensors(companions, np.zeros(len(companions), np.int64), device, "companions")[0]
    if statistics == "batch" and group == 1 and beside is None:
        raise ConfigurationError(
            "batch statistics of a single input say nothing", remedy="give companions or larger groups"
        )
    settings: dict[str, Any] = {
        "group": group, "companion_count": companion_count if beside is not None else 0, "seed": seed,
        "statistics": statistics, "samplers": len(samplers), "inputs": len(inputs), "space": supernet.space.name,
        "weights": _weights_digest(supernet),
    }  # fmt: skip
    rows: list[tuple[tuple[int, ...], int, int, int]] = []
    if resume and checkpoint is not None and checkpoint.exists():
        rows = _rows(_load(checkpoint, settings))
    per_pass = -(-len(inputs) // group)
    done = sum(row[2] for row in rows)
    order = torch.zeros(0, dtype=torch.long)
    with _as_it_was(supernet), torch.no_grad():
        supernet.train(statistics == "batch")
        while done < samples:
            number = len(rows)
            turn, place = divmod(number, per_pass)
            if place == 0 or not len(order):
                order = torch.from_numpy(np.random.default_rng([seed, turn]).permutation(len(inputs)))
            index = order[place * group : (place + 1) * group].to(device)
            rng = np.random.default_rng([seed, 1, number])
            architecture = samplers[number % len(samplers)](rng)
            batch = inputs[index]
            if beside is not None:
                drawn = rng.choice(len(beside), min(companion_count, len(beside)), replace=False)
                batch = torch.cat([batch, beside[torch.from_numpy(drawn).to(device)]])
            answers = supernet.forward_architecture(batch, architecture)[: len(index)].argmax(1)
            right = int((answers == labels[index]).sum())
            rows.append((architecture, right, len(index), number % len(samplers)))
            done += len(index)
            if len(rows) % _SAVE_EVERY == 0 or done >= samples:
                if checkpoint is not None:
                    _save(checkpoint, _table(rows), settings)
                if progress is not None:
                    share = sum(row[1] for row in rows) / done
                    progress(min(done, samples), samples, f"mean accuracy {100 * share:.2f} %")
    return _table(rows).first(samples)  # the checkpoint of a larger budget holds more


def _table(rows: Sequence[tuple[tuple[int, ...], int, int, int]]) -> PathSamples:
    columns = [np.array([row[i] for row in rows], dtype=np.int64) for i in range(4)]
    return PathSamples(*columns)


def _rows(paths: PathSamples) -> list[tuple[tuple[int, ...], int, int, int]]:
    return [
        (tuple(a), int(r), int(t), int(s))
        for a, r, t, s in zip(
            paths.architectures.tolist(), paths.right, paths.total, paths.samplers, strict=True
        )
    ]


def _save(path: Path, paths: PathSamples, settings: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    notes = json.dumps({"format": FORMAT, "settings": settings}, sort_keys=True)
    np.savez_compressed(
        buffer, architectures=paths.architectures.astype(np.int32), right=paths.right, total=paths.total,
        samplers=paths.samplers, notes=np.array(notes),
    )  # fmt: skip
    write_atomic(path, buffer.getvalue())


def _load(path: Path, settings: dict[str, Any]) -> PathSamples:
    try:
        # From memory: np.load leaves a damaged file open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            notes = json.loads(str(file["notes"]))
            found = PathSamples(*(file[n].astype(np.int64) for n in PathSamples.__dataclass_fields__))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigurationError(
            f"checkpoint {path} is damaged: {error}", remedy="delete the file to start afresh"
        ) from error
    check_settings(path, notes, {"format": FORMAT})
    check_settings(path, notes["settings"], settings)
    return found


def _weights_digest(supernet: Supernet) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(supernet.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _as_it_was(supernet: Supernet) -> Iterator[None]:
    """Put the buffers (running statistics) and the mode back, whatever happens."""
    kept = {name: buffer.clone() for name, buffer in supernet.named_buffers()}
    training = supernet.training
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in supernet.named_buffers():
                buffer.copy_(kept[name])
        supernet.train(training)
