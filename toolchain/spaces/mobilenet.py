"""Stages of inverted residual blocks with a depth per stage: the space of BINAS (section 3.1, section 4.1.1).

A configuration of a block is an expansion ratio, a kernel size, and squeeze-excite on or off. Blocks beyond a stage's
depth are `none`: identities, after which a stage takes nothing but `none`, so each network occurs exactly once.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from toolchain.errors import ConfigurationError
from toolchain.graph.operator import Shape
from toolchain.spaces.blocks import Residual, conv_bn_2d, pooled_linear
from toolchain.spaces.shapes import data_remedy
from toolchain.spaces.space import Architecture, Candidate, Choice, Space

NONE: Final = "none"

PAPER: Final[Mapping[str, object]] = {
    "input_shape": (3, 224, 224), "classes": 1000, "widths": (24, 40, 80, 112, 192), "strides": (2, 2, 2, 1, 2),
    "depth": 4, "least_depth": 1, "stem_channels": 16, "stem_stride": 2, "head_channels": 960,
    "activation": "hard_swish",
}  # fmt: skip
"""Parameters of the paper's ImageNet space, as far as it and HardCoRe-NAS print them; `least_depth` is 2 in the
authors' code. Their fixed separable block behind the stem and their second 1x1 layer are not here."""


@dataclass(frozen=True)
class BlockConfiguration(Candidate):
    """An inverted residual block: 1x1 to `expansion` times the channels, depthwise, squeeze-excite, 1x1 back.

    Attributes:
        expansion: hidden channels per input channel.
        kernel: side of the depthwise window.
        squeeze_excite: whether each hidden channel is gated by what the whole map says.
    """

    expansion: int = 0
    kernel: int = 0
    squeeze_excite: bool = False


class Stage(NamedTuple):
    """Which choices of a space are the blocks of one stage.

    Attributes:
        first: position of the stage's first block among the choices.
        depth: blocks at most; they stand at positions first to first + depth - 1.
        least: blocks at least, 1 or more.
        none: index of the `none` candidate at the blocks that may be left out; the configurations are 0 to
            none - 1 at every block of the stage.
    """

    first: int
    depth: int
    least: int
    none: int


class SqueezeExcite(nn.Module):
    """x * hard_sigmoid(W2 relu(W1 mean(x))): gates each channel by the whole map (Hu et al., 2018)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, C, H, W) -> the same shape."""
        gate = nn.functional.relu(self.squeeze(self.pool(x)))
        return x * nn.functional.hardsigmoid(self.excite(gate))


class Mobilenet(Space):
    """S stages of up to D inverted residual blocks; a stage's width is fixed, its depth and each block's
    configuration are chosen (BINAS, section 3.1). The first block of a stage has the stage's stride; the input is
    added where stride is 1 and channels agree. Stem: 3x3 convolution. Head: pool and a linear layer, with a 1x1
    convolution before them where `head_channels` is not 0.

    The number of architectures is the product over stages of the sum over depths d of configurations^d. The default
    is a size for microcontrollers: 32x32 pixels, networks of about 10 to 280 kB in int8.

    Args:
        input_shape: (channels, height, width).
        classes: number of classes.
        widths: output channels of each stage, as many as there are stages.
        strides: stride of each stage, 1 or 2; None: 1 for the first stage, then 2 while at least 2x2 pixels are left.
        depth: most blocks of a stage, for all stages or for each.
        least_depth: fewest blocks of a stage, for all stages or for each; 1 or more.
        expansions, kernels, squeeze_excite: the values that make a block's configurations; kernels are odd.
        stem_channels, stem_stride: of the stem; stride None: 2 from 32 pixels on.
        head_channels: width of a 1x1 convolution before the pool; 0 for none.
        se_reduction: squeeze-excite's hidden layer has so many times fewer channels than the block's hidden map.
        activation: `relu`, `relu6` or `hard_swish`, everywhere but behind a block's last convolution.
        share_expansions: in a supernet, configurations that differ in expansion alone share one set of weights (the
            smaller is the leading part of the larger); otherwise each has its own, as in the paper.

    Raises:
        ConfigurationError: parameters that contradict each other or are out of range.
    """

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 32, 32),
        classes: int = 10,
        widths: Sequence[int] = (8, 12, 16, 24, 32),
        strides: Sequence[int] | None = None,
        depth: int | Sequence[int] = 4,
        least_depth: int | Sequence[int] = 1,
        expansions: Sequence[int] = (3, 4, 6),
        kernels: Sequence[int] = (3, 5),
        squeeze_excite: Sequence[bool] = (False, True),
        stem_channels: int = 8,
        stem_stride: int | None = None,
        head_channels: int = 0,
        se_reduction: int = 4,
        activation: Literal["relu", "relu6", "hard_swish"] = "relu",
        share_expansions: bool = False,
    ) -> None:
        if len(input_shape) != 3 or min(input_shape) < 1 or min(input_shape[1:]) < 4:
            raise ConfigurationError(
                f"mobilenet: input_shape {tuple(input_shape)} is not (channels, height, width) from 4x4 pixels",
                remedy=data_remedy(tuple(input_shape)),
            )
        if not widths or min(classes, stem_channels, se_reduction, *widths) < 1 or head_channels < 0:
            raise ConfigurationError(
                "mobilenet: widths, classes, stem_channels, se_reduction must be positive"
            )
        if activation not in _ACTIVATIONS:
            raise ConfigurationError(
                f"mobilenet: unknown activation {activation!r}",
                remedy="use one of " + ", ".join(_ACTIVATIONS),
            )
        for what, values in (
            ("expansions", expansions),
            ("kernels", kernels),
            ("squeeze_excite", squeeze_excite),
        ):
            if (
                not values
                or len(set(values)) != len(values)
                or (what != "squeeze_excite" and min(values) < 1)
            ):
                raise ConfigurationError(f"mobilenet: {what} {tuple(values)} must be distinct and positive")
        if any(kernel % 2 == 0 for kernel in kernels):
            raise ConfigurationError(f"mobilenet: kernels {tuple(kernels)} must be odd")
        self.input_shape = (int(input_shape[0]), int(input_shape[1]), int(input_shape[2]))
        self.classes = classes
        self.widths = tuple(int(width) for width in widths)
        self.stem_channels, self.head_channels, self.se_reduction = stem_channels, head_channels, se_reduction
        self.activation = activation
        self.stem_stride = stem_stride or (2 if min(self.input_shape[1:]) >= 32 else 1)
        side = -(-min(self.input_shape[1:]) // self.stem_stride)
        self.strides = tuple(strides) if strides is not None else _strides(len(self.widths), side)
        if len(self.strides) != len(self.widths) or not {*self.strides, self.stem_stride} <= {1, 2}:
            raise ConfigurationError(
                f"mobilenet: strides {self.strides} and stem_stride {self.stem_stride} must be 1 or 2, one for each "
                f"of {len(self.widths)} stages"
            )
        self.configurations = tuple(
            BlockConfiguration(
                name := f"e{e}k{k}{'se' * se}", f"k{k}{'se' * se}" if share_expansions else name, None, e, k, bool(se)
            )
            for e in expansions for k in kernels for se in squeeze_excite
        )  # fmt: skip
        depths = _for_each(depth, len(self.widths), "depth")
        least = _for_each(least_depth, len(self.widths), "least_depth")
        if any(not 1 <= low <= high for low, high in zip(least, depths, strict=True)):
            raise ConfigurationError(f"mobilenet: depths from {least} to {depths}; 1 <= least_depth <= depth")
        first = [sum(depths[:s]) for s in range(len(depths))]
        self.stages = tuple(
            Stage(begin, high, low, len(self.configurations))
            for begin, high, low in zip(first, depths, least, strict=True)
        )
        self.choices = tuple(
            Choice(f"stage{1 + s}_block{1 + b}", self._candidates(s, b))
            for s, stage in enumerate(self.stages)
            for b in range(stage.depth)
        )
        self._places = tuple((s, b) for s, stage in enumerate(self.stages) for b in range(stage.depth))

    def _candidates(self, stage: int, block: int) -> tuple[Candidate, ...]:
        wide = tuple(
            BlockConfiguration(c.name, c.family, self.widths[stage], c.expansion, c.kernel, c.squeeze_excite)
            for c in self.configurations
        )
        return (*wide, Candidate(NONE, NONE)) if block >= self.stages[stage].least else wide

    @property
    def name(self) -> str:
        return "mobilenet"

    # --- modules ----------------------------------------------------------------------------------------------

    def stem(self) -> nn.Module:
        channels, height, width = self.input_shape
        conv = conv_bn_2d(
            channels, self.stem_channels, (height, width), kernel=3, stride=self.stem_stride, activation=False
        )
        return nn.Sequential(conv, _ACTIVATIONS[self.activation]())

    def block(self, position: int, candidate: Candidate, in_shape: Shape) -> nn.Module | None:
        if not isinstance(candidate, BlockConfiguration):
            return nn.Identity()
        assert candidate.channels is not None  # _candidates gives every configuration its stage's width
        channels, size, stride = in_shape[0], (in_shape[1], in_shape[2]), self._stride(position)
        hidden, act = channels * candidate.expansion, _ACTIVATIONS[self.activation]
        after = (-(-size[0] // stride), -(-size[1] // stride))
        body = nn.Sequential()
        body.add_module("expand", conv_bn_2d(channels, hidden, size, kernel=1, activation=False))
        body.add_module("expand_act", act())
        depthwise = conv_bn_2d(
            hidden, hidden, size, kernel=candidate.kernel, stride=stride, groups=hidden, activation=False
        )
        body.add_module("depthwise", depthwise)
        body.add_module("depthwise_act", act())
        if candidate.squeeze_excite:
            body.add_module("se", SqueezeExcite(hidden, max(1, hidden // self.se_reduction)))
        body.add_module("project", conv_bn_2d(hidden, candidate.channels, after, kernel=1, activation=False))
        return Residual(body, skip=stride == 1 and channels == candidate.channels)

    def block_key(self, position: int, candidate: Candidate, in_shape: Shape) -> Hashable:
        return candidate.name, candidate.channels, in_shape, self._stride(position)

    def head(self, in_shape: Shape) -> nn.Module:
        channels, height, width = in_shape
        if not self.head_channels:
            return pooled_linear(channels, self.classes, 2)
        conv = conv_bn_2d(channels, self.head_channels, (height, width), kernel=1, activation=False)
        return nn.Sequential(
            conv, _ACTIVATIONS[self.activation](), pooled_linear(self.head_channels, self.classes, 2)
        )

    def memory_after(self, position: int, candidate: Candidate, memory: str) -> str | None:
        stage, block = self._places[position]
        if block == 0:
            memory = ""
        if memory == "ended" and candidate.name != NONE:
            return None
        # Stages start afresh, so the last block of one has nothing to tell.
        last = block == self.stages[stage].depth - 1
        return "ended" if candidate.name == NONE and not last else ""

    def _stride(self, position: int) -> int:
        stage, block = self._places[position]
        return 1 if block else self.strides[stage]

    # --- depths and configurations ----------------------------------------------------------------------------

    def closed_count(self) -> int:
        """prod over stages of sum over depths d of configurations^d: what `count()` must give."""
        each = len(self.configurations)
        return math.prod(sum(each**d for d in range(s.least, s.depth + 1)) for s in self.stages)

    def depths(self, architecture: Sequence[int]) -> tuple[int, ...]:
        """Number of blocks of each stage.

        Raises:
            ConfigurationError: the architecture is not valid.
        """
        return tuple(len(blocks) for blocks in self.blocks_of(architecture))

    def blocks_of(self, architecture: Sequence[int]) -> tuple[tuple[BlockConfiguration, ...], ...]:
        """Per stage, the configurations of its blocks in order, as long as the stage is deep.

        Raises:
            ConfigurationError: the architecture is not valid.
        """
        self.path(architecture)
        return tuple(
            tuple(
                self.configurations[index]
                for index in architecture[s.first : s.first + s.depth]
                if index != s.none
            )
            for s in self.stages
        )

    def from_blocks(self, blocks: Sequence[Sequence[BlockConfiguration | str]]) -> Architecture:
        """The inverse of `blocks_of`: the architecture with these blocks, given as configurations or names (`e3k5se`).

        Raises:
            ConfigurationError: wrong number of stages, a depth out of range, or an unknown configuration.
        """
        if len(blocks) != len(self.stages):
            raise ConfigurationError(f"{self.name}: {len(self.stages)} stages, got blocks for {len(blocks)}")
        known = {configuration.name: i for i, configuration in enumerate(self.configurations)}
        architecture: list[int] = []
        for number, (stage, chosen) in enumerate(zip(self.stages, blocks, strict=True), 1):
            if not stage.least <= len(chosen) <= stage.depth:
                raise ConfigurationError(
                    f"{self.name}: stage {number} has {len(chosen)} blocks; it takes {stage.least} to {stage.depth}"
                )
            names = [block if isinstance(block, str) else block.name for block in chosen]
            unknown = [name for name in names if name not in known]
            if unknown:
                raise ConfigurationError(
                    f"{self.name}: stage {number} has no configuration {unknown[0]!r}",
                    remedy="use one of " + ", ".join(known),
                )
            architecture += [known[name] for name in names]
            architecture += [stage.none] * (stage.depth - len(chosen))
        return tuple(architecture)

    def sample_by_depth(
        self,
        rng: np.random.Generator,
        depths: Mapping[int, int] | None = None,
        configurations: Mapping[int, int] | None = None,
    ) -> Architecture:
        """One architecture, each stage's depth uniform and then each block's configuration uniform.

        This is the paper's distribution (section 3.2: uniform over beta and over alpha). `sample` is uniform over
        networks instead, and so nearly all its stages are deep: there are more deep networks than shallow ones.

        Args:
            rng: decides everything.
            depths: stage -> depth that is given and not drawn; stages from 0.
            configurations: choice -> configuration that is given where the block exists.
        """
        depths, configurations = depths or {}, configurations or {}
        architecture: list[int] = []
        for number, stage in enumerate(self.stages):
            drawn = int(rng.integers(stage.least, stage.depth + 1))
            blocks = rng.integers(len(self.configurations), size=stage.depth)
            depth = depths.get(number, drawn)
            for block in range(stage.depth):
                chosen = configurations.get(stage.first + block, int(blocks[block]))
                architecture.append(chosen if block < depth else stage.none)
        return tuple(architecture)


def stages_of(space: Space) -> tuple[Stage, ...]:
    """The space's stages of variable depth: its attribute `stages` where that is a tuple of `Stage`, else ().

    A user's own space may set that attribute too; it then gets depth contributions and fair depths.
    """
    found = getattr(space, "stages", ())
    return found if isinstance(found, tuple) and all(isinstance(stage, Stage) for stage in found) else ()


_ACTIVATIONS: Final[dict[str, type[nn.Module]]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hard_swish": nn.Hardswish,
}


def _for_each(value: int | Sequence[int], stages: int, what: str) -> tuple[int, ...]:
    values = (value,) * stages if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) != stages:
        raise ConfigurationError(f"mobilenet: {what} {values} for {stages} stages")
    return values


def _strides(stages: int, side: int) -> tuple[int, ...]:
    """1 for the first stage, then 2 while the map keeps 2x2 pixels."""
    strides = [1]
    for _ in range(stages - 1):
        strides.append(2 if -(-side // 2) >= 2 else 1)
        side = -(-side // strides[-1])
    return tuple(strides)
