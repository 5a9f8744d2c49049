"""The two search spaces of NATS-Bench: topology (NAS-Bench-201), and size; their networks' exact counts.

Sources: Dong and Yang, "NAS-Bench-201" (ICLR 2020), for skeleton and cell; Dong et al., "NATS-Bench" (TPAMI 2021), for
the size space; ConNAS, appendix A, for what counts as a FLOP. Every edge counts, also one that leads nowhere, as
in the benchmark itself. ConNAS's own counts (7984, 7954, 16385, 20480 architectures) come out with one cell per
stage, batch norm counted as two parameters a channel, and ten classes.

Topology: stem convolution, then three stages of cells (16, 32, 64 channels) with a residual block of stride 2 between
them. All cells are alike: four nodes, an operation on each of the six edges, sums at the nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from toolchain.errors import ConfigurationError
from toolchain.spaces.space import Candidate, Choice, Step

Ints = npt.NDArray[np.int64]

EDGES: Final = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""(from node, to node), in the order of an architecture's indices."""

OPERATIONS: Final = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NONE, SKIP, CONV_1X1, CONV_3X3, POOL = range(len(OPERATIONS))

CHANNELS: Final = (16, 32, 64)
SIZE_WIDTHS: Final = (8, 16, 24, 32, 40, 48, 56, 64)
SIZE_LAYERS: Final = 5


@dataclass(frozen=True)
class NasBench201:
    """The topology space: 5 operations on 6 edges, 15,625 cells.

    Attributes:
        input_shape: (channels, height, width).
        classes: number of classes.
        cells_per_stage: 5 in the benchmark; 1 in ConNAS, by its counts.
        channels: of the three stages.
    """

    input_shape: tuple[int, int, int] = (3, 32, 32)
    classes: int = 10
    cells_per_stage: int = 1
    channels: tuple[int, int, int] = CHANNELS

    def __post_init__(self) -> None:
        if min(self.input_shape) < 1 or min(self.input_shape[1:]) < 4:
            raise ConfigurationError(
                f"NAS-Bench-201: images of {self.input_shape} are too small", remedy="use 4x4 or more"
            )
        if min(self.classes, self.cells_per_stage, *self.channels) < 1:
            raise ConfigurationError("NAS-Bench-201: classes, cells_per_stage and channels must be positive")

    @property
    def name(self) -> str:
        """What checkpoints call it."""
        shape = "x".join(map(str, self.input_shape))
        return (
            f"nasbench201-{shape}-{self.classes}-{self.cells_per_stage}-{'-'.join(map(str, self.channels))}"
        )

    @property
    def choices(self) -> tuple[Choice, ...]:
        """One choice per edge."""
        candidates = tuple(Candidate(name, name) for name in OPERATIONS)
        return tuple(Choice(f"edge{start}{end}", candidates) for start, end in EDGES)

    @property
    def steps(self) -> tuple[tuple[Step, ...], ...]:
        """Everything is available everywhere."""
        return tuple(tuple(Step(i, 0, 0) for i in range(len(OPERATIONS))) for _ in EDGES)

    def params(self, architectures: npt.ArrayLike) -> Ints:
        """(n, 6) operations -> (n,) trainable parameters, batch norm as scale and shift."""
        n1, n3, _ = _counts(architectures)
        c0, c1, c2 = self.channels
        skeleton = 9 * self.input_shape[0] * c0 + 2 * c0
        skeleton += _residual_params(c0, c1) + _residual_params(c1, c2) + 2 * c2 + (c2 + 1) * self.classes
        pointwise = sum(c * c + 2 * c for c in self.channels)
        full = sum(9 * c * c + 2 * c for c in self.channels)
        return np.asarray(skeleton + self.cells_per_stage * (n1 * pointwise + n3 * full), dtype=np.int64)

    def flops(self, architectures: npt.ArrayLike) -> Ints:
        """(n, 6) operations -> (n,) FLOPs as ConNAS counts them (its eqs. 11 to 14).

        A convolution: 2 (C_in k^2 + 1) per output, batch norm folded; ReLU and each pooling output count too. So
        average pooling is not free here, as it is in the benchmark's own count of multiply-adds.
        """
        n1, n3, pools = _counts(architectures)
        height, width = self.input_shape[1:]
        sizes = [height * width]
        for _ in range(2):
            height, width = -(-height // 2), -(-width // 2)
            sizes.append(height * width)
        c0, c1, c2 = self.channels
        total = _conv_flops(self.input_shape[0], c0, 3, sizes[0])
        for before, after, size in ((c0, c1, sizes[1]), (c1, c2, sizes[2])):
            total += (
                _conv_flops(before, after, 3, size) + _conv_flops(after, after, 3, size) + 2 * after * size
            )
            total += 5 * before * size + _conv_flops(before, after, 1, size)  # 2x2 average pool and 1x1
        total += c2 * sizes[2] + (sizes[2] + 1) * c2 + 2 * (c2 + 1) * self.classes + self.classes
        cell = np.zeros(len(n1), dtype=np.int64)
        for channels, size in zip(self.channels, sizes, strict=True):
            cell += n1 * (_conv_flops(channels, channels, 1, size) + channels * size)
            cell += n3 * (_conv_flops(channels, channels, 3, size) + channels * size)
            cell += pools * 10 * channels * size
        return np.asarray(total + self.cells_per_stage * cell, dtype=np.int64)


def all_cells() -> Ints:
    """(15625, 6) every architecture of the topology space, in lexicographic order."""
    return np.stack(np.unravel_index(np.arange(5**6), (5,) * 6), axis=1).astype(np.int64)


def all_widths() -> Ints:
    """(32768, 5) every architecture of the size space, in lexicographic order, in channels."""
    return np.array(SIZE_WIDTHS)[np.stack(np.unravel_index(np.arange(8**5), (8,) * 5), axis=1)]


def size_params(widths: npt.ArrayLike, classes: int = 10) -> Ints:
    """(n, 5) channels of the size space -> (n,) trainable parameters.

    Layers: stem to C1, cell, residual block to C2, cell to C3, residual block to C4, cell to C5. The cell is the
    benchmark's best: five 3x3 convolutions and a skip, which is 1x1 where the channels differ.
    """
    c1, c2, c3, c4, c5 = np.asarray(widths, dtype=np.int64).T
    total = 29 * c1 + 2 * c5 + (c5 + 1) * classes
    for before, after in ((c1, c1), (c2, c3), (c4, c5)):
        total = total + 2 * (9 * before * after + 2 * after) + 3 * (9 * after * after + 2 * after)
        total = total + np.where(before != after, before * after + 2 * after, 0)
    return np.asarray(total + _residual_params(c1, c2) + _residual_params(c3, c4), dtype=np.int64)


def size_peak_bytes(widths: npt.ArrayLike) -> Ints:
    """(n, 5) channels -> (n,) peak memory as ConNAS's count implies: four float32 maps of 32x32 with C1 channels."""
    return np.asarray(4 * 4 * 32 * 32 * np.asarray(widths, dtype=np.int64)[:, 0], dtype=np.int64)


def cell_string(architecture: Sequence[int]) -> str:
    """The benchmark's way to write a cell, e.g. `|nor_conv_3x3~0|+|none~0|skip_connect~1|+|...|`."""
    nodes: dict[int, list[str]] = {}
    for (start, end), operation in zip(EDGES, architecture, strict=True):
        nodes.setdefault(end, []).append(f"{OPERATIONS[operation]}~{start}")
    return "+".join("|" + "|".join(edges) + "|" for edges in nodes.values())


def _counts(architectures: npt.ArrayLike) -> tuple[Ints, Ints, Ints]:
    codes = np.asarray(architectures, dtype=np.int64)
    if codes.ndim != 2 or codes.shape[1] != len(EDGES):
        raise ConfigurationError(f"NAS-Bench-201 architectures are (n, {len(EDGES)}), got {codes.shape}")
    n1, n3, pools = ((codes == operation).sum(axis=1) for operation in (CONV_1X1, CONV_3X3, POOL))
    return n1, n3, pools


def _conv_flops(before: int, after: int, kernel: int, outputs: int) -> int:
    return 2 * (before * kernel * kernel + 1) * outputs * after


_Count = TypeVar("_Count", int, Ints)


def _residual_params(before: _Count, after: _Count) -> _Count:
    """Two 3x3 convolutions with batch norm, and a 1x1 shortcut without."""
    return 9 * before * after + 9 * after * after + 4 * after + before * after
