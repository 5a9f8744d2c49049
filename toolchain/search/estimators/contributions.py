"""Accuracy contributions of design choices as conditional expectations over random sub-networks (BINAS, 3.2 and 3.3).

`choice_contributions` works for any space: what choosing candidate c at choice l adds to the mean.
`stage_contributions` is for spaces of stages with a depth: a delta for each depth of each stage, and one for each
configuration of each block.

The paper's block delta is printed as E[Acc | O_b = c, d = b] - E[Acc]. It contains the depth's effect, which equation
3 then adds a second time with the depth's own delta: even where accuracies do add up, the sum is off. With the
default, baseline="block", a block's delta is E[Acc | O_b = c, d >= b] - E[Acc | d >= b]: where accuracies add up and
choices are drawn independently, equation 3 is then exact up to sampling noise. "printed" gives the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from toolchain.errors import ConfigurationError
from toolchain.search.estimators.additive import AdditiveEstimator, index_table
from toolchain.search.protocols import Architecture, Floats, Ints, Sampler

if TYPE_CHECKING:  # these import torch, which nothing here needs
    from toolchain.search.estimators.paths import PathSamples
    from toolchain.spaces.mobilenet import Mobilenet, Stage

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class StageContributions:
    """Deltas of a space of stages; accuracies from 0 to 1, one standard error each.

    Attributes:
        base: E[Acc], and its standard error `base_error`.
        depth, depth_errors: per stage, (depths,) deltas of depth least, least + 1, ...
        blocks, block_errors: per choice, (configurations,) deltas given that the block exists.
        stages: the structure that they belong to.
        samples: inputs that they were measured on.
    """

    base: float
    base_error: float
    depth: tuple[Floats, ...]
    depth_errors: tuple[Floats, ...]
    blocks: tuple[Floats, ...]
    block_errors: tuple[Floats, ...]
    stages: tuple[Stage, ...]
    samples: int

    def estimator(self, *, depth: bool = True, blocks: bool = True) -> AdditiveEstimator:
        """Equation 3 as a sum over choices; its `none` candidates carry the depth deltas (see `additive`).

        Standard errors of `none` are those of the difference of two depth deltas taken as independent.

        Args:
            depth: False sets the depth terms to zero (q_beta = 0 in Table 2).
            blocks: False sets the block terms to zero (Q_alpha_beta = 0 in Table 2).
        """
        base = self.base
        values: list[Floats] = []
        errors: list[Floats] = []
        for number, stage in enumerate(self.stages):
            deltas, noise = self.depth[number], self.depth_errors[number]
            base += float(deltas[-1]) if depth else 0.0
            for block in range(stage.depth):
                own = self.blocks[stage.first + block] if blocks else np.zeros(stage.none)
                own_errors = self.block_errors[stage.first + block] if blocks else np.zeros(stage.none)
                if block >= stage.least:
                    shorter = block - stage.least  # index of depth `block` among the stage's deltas
                    step = float(deltas[shorter] - deltas[shorter + 1]) if depth else 0.0
                    error = math.hypot(noise[shorter], noise[shorter + 1]) if depth else 0.0
                    own, own_errors = np.append(own, step), np.append(own_errors, error)
                values.append(own)
                errors.append(own_errors)
        return AdditiveEstimator(base, tuple(values), tuple(errors))


def choice_contributions(paths: PathSamples, sizes: Sequence[int]) -> AdditiveEstimator:
    """E[Acc | a_l = c] - E[Acc] for every candidate c of every choice l, as an estimator; for any space.

    Unbiased where accuracies add up and the sampler draws choices independently. A candidate that no row has
    gets the value 0 and an infinite standard error.

    Args:
        paths: rows of one unconditioned sampler.
        sizes: number of candidates of each choice.
    """
    _require_one_sampler(paths)
    table = index_table(paths.architectures, sizes)
    everything = np.ones(len(table), dtype=bool)
    base = _Mean.of(paths, everything)
    values, errors = [], []
    for choice, size in enumerate(sizes):
        deltas = [_delta(paths, table[:, choice] == candidate, everything) for candidate in range(size)]
        values.append(np.array([delta for delta, _ in deltas]))
        errors.append(np.array([error for _, error in deltas]))
    return AdditiveEstimator(base.value, tuple(values), tuple(errors))


def stage_contributions(
    paths: PathSamples, stages: Sequence[Stage], baseline: Literal["block", "printed"] = "block"
) -> StageContributions:
    """Depth and block deltas from one pool of unconditioned random sub-networks.

    Every row informs all conditions that it meets, so a pool of n inputs does the work of many times n inputs spent
    condition by condition (the paper's way: `paper_conditions`). A condition that no row meets has delta 0 and an
    infinite standard error.

    Args:
        paths: rows of one sampler, e.g. `Mobilenet.sample_by_depth`.
        stages: structure of the space.
        baseline: what a block's delta is measured against, see the module.
    """
    _require_one_sampler(paths)
    everything = np.ones(len(paths.total), dtype=bool)
    depths = _depths(paths.architectures, stages)
    base = _Mean.of(paths, everything)
    depth = [
        [_delta(paths, depths[:, s] == d, everything) for d in range(stage.least, stage.depth + 1)]
        for s, stage in enumerate(stages)
    ]
    blocks = []
    for s, stage in enumerate(stages):
        for b in range(1, stage.depth + 1):
            chosen = paths.architectures[:, stage.first + b - 1]
            if baseline == "printed":
                # Blocks that always exist have no depth of their own; the paper's d = b starts at the least depth.
                exists, against = depths[:, s] == max(b, stage.least), everything
            else:
                exists = depths[:, s] >= b
                against = exists
            blocks.append([_delta(paths, exists & (chosen == c), against) for c in range(stage.none)])
    return _collect(base, depth, blocks, stages, paths.samples)


def paper_conditions(space: Mobilenet) -> tuple[Sampler, ...]:
    """The paper's schedule as samplers: unconditioned, then each depth of each stage, then each configuration of
    each block with the depth set to that block (Figures 3, 4, 5). 1 + S D + S D C of them.

    For `sample_paths(samplers=...)`; `conditioned_contributions` reads the result.
    """

    def given(depths: dict[int, int], configurations: dict[int, int]) -> Sampler:
        return lambda rng: space.sample_by_depth(rng, depths, configurations)

    found: list[Sampler] = [space.sample_by_depth]
    for s, stage in enumerate(space.stages):
        found += [given({s: d}, {}) for d in range(stage.least, stage.depth + 1)]
    for s, stage in enumerate(space.stages):
        for b in range(1, stage.depth + 1):
            position = stage.first + b - 1
            found += [given({s: max(b, stage.least)}, {position: c}) for c in range(stage.none)]
    return tuple(found)


def conditioned_contributions(
    paths: PathSamples, stages: Sequence[Stage], baseline: Literal["block", "printed"] = "printed"
) -> StageContributions:
    """Depth and block deltas from the paper's schedule, each condition from its own rows alone.

    Args:
        paths: of `sample_paths` with the samplers of `paper_conditions`.
        stages: structure of the space.
        baseline: "printed" measures blocks against E[Acc]; "block" against the mean of the depth's own rows,
            E[Acc | d = b], so that depth counts once.
    """
    whole = paths.samplers == 0
    base = _Mean.of(paths, whole)
    number = 1
    depth: list[list[tuple[float, float]]] = []
    rows_at: dict[tuple[int, int], Mask] = {}
    for s, stage in enumerate(stages):
        depth.append([])
        for d in range(stage.least, stage.depth + 1):
            rows_at[s, d] = paths.samplers == number
            depth[-1].append(_delta(paths, rows_at[s, d], whole))
            number += 1
    blocks = []
    for s, stage in enumerate(stages):
        for b in range(1, stage.depth + 1):
            against = whole if baseline == "printed" else rows_at[s, max(b, stage.least)]
            blocks.append([_delta(paths, paths.samplers == number + c, against) for c in range(stage.none)])
            number += stage.none
    if len(paths.samplers) and int(paths.samplers.max()) >= number:
        raise ConfigurationError(
            f"rows of {int(paths.samplers.max()) + 1} samplers, the schedule has {number}"
        )
    return _collect(base, depth, blocks, stages, paths.samples)


@dataclass(frozen=True, slots=True)
class _Mean:
    """Share of right answers in some rows, and each row's influence on it (for standard errors over groups)."""

    value: float
    influence: Floats
    rows: int

    @classmethod
    def of(cls, paths: PathSamples, rows: Mask) -> _Mean:
        total = int(paths.total[rows].sum())
        if not total:
            return cls(math.nan, np.zeros(len(rows)), 0)
        value = int(paths.right[rows].sum()) / total
        influence = np.where(rows, (paths.right - value * paths.total) / total, 0.0)
        return cls(value, influence, int(rows.sum()))

    def error(self) -> float:
        """Standard error of the mean over groups; infinite for fewer than two."""
        if self.rows < 2:
            return math.inf
        return math.sqrt(float(self.influence @ self.influence) * self.rows / (self.rows - 1))


def _delta(paths: PathSamples, rows: Mask, against: Mask) -> tuple[float, float]:
    """Difference of two means with its standard error; rows that are in both count once in it."""
    a, b = _Mean.of(paths, rows), _Mean.of(paths, against)
    if a.rows == 0 or b.rows == 0:
        return 0.0, math.inf
    if a.rows < 2:
        return a.value - b.value, math.inf
    influence = a.influence - b.influence
    return a.value - b.value, math.sqrt(float(influence @ influence) * a.rows / (a.rows - 1))


def _depths(architectures: Ints | Sequence[Architecture], stages: Sequence[Stage]) -> Ints:
    """(n, choices) -> (n, stages) number of blocks."""
    table = np.asarray(architectures, dtype=np.int64)
    return np.stack([(table[:, s.first : s.first + s.depth] != s.none).sum(1) for s in stages], axis=1)


def _collect(
    base: _Mean,
    depth: list[list[tuple[float, float]]],
    blocks: list[list[tuple[float, float]]],
    stages: Sequence[Stage],
    samples: int,
) -> StageContributions:
    if not base.rows:
        raise ConfigurationError("no rows to measure the base accuracy from")

    def column(groups: list[list[tuple[float, float]]], which: int) -> tuple[Floats, ...]:
        return tuple(np.array([pair[which] for pair in group]) for group in groups)

    return StageContributions(
        base.value, base.error(), column(depth, 0), column(depth, 1), column(blocks, 0), column(blocks, 1),
        tuple(stages), samples,
    )  # fmt: skip


def _require_one_sampler(paths: PathSamples) -> None:
    if len(paths.samplers) == 0:
        raise ConfigurationError("no rows to measure contributions from")
    if paths.samplers.any():
        raise ConfigurationError(
            "rows of several samplers", remedy="use conditioned_contributions, or one unconditioned sampler"
        )
