"""The ConNAS space for time series, and the sizes of the paper's tables.

Source: ConNAS, appendices E and F; which reading reproduces every printed figure: the channel 8 is in the set
(with it there are 1,944,810,000 architectures), batch norm is not folded, regular convolutions have no bias and
both convolutions of a depthwise separable block have one.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from toolchain.errors import ConfigurationError
from toolchain.graph.chain import Arc, Chain
from toolchain.graph.operator import Shape
from toolchain.spaces.blocks import conv_bn_relu_1d, pooled_linear
from toolchain.spaces.space import Architecture, Candidate, Choice, Space

KERNEL = 3
CHANNELS = (8, 16, 32, 64, 128, 256, 512)


class ConNAS1d(Space):
    """Eight edges; each a convolution or a depthwise separable one with a number of channels; the 1st, 3rd, ...
    have stride 2, the 2nd, 4th, ... may be an identity. Kernel 3, batch norm, ReLU; pool and linear head.

    Args:
        input_channels, length: shape of a window; the paper's is 8 x 256.
        classes: the paper's 4 kinds of eccentricity.
        channels: numbers of output channels to choose from.
        edges: number of choices.
    """

    def __init__(
        self,
        input_channels: int = 8,
        length: int = 256,
        classes: int = 4,
        channels: Sequence[int] = CHANNELS,
        edges: int = 8,
    ) -> None:
        if min(input_channels, length, classes, edges, *channels) < 1 or not channels:
            raise ConfigurationError("connas1d: channels, length, classes and edges must be positive")
        if len(set(channels)) != len(channels):
            raise ConfigurationError(f"connas1d: channels {tuple(channels)} has a value twice")
        self.input_shape = (input_channels, length)
        self.classes = classes
        weighted = tuple(Candidate(f"{f}{c}", f, c) for f in ("conv", "ds") for c in channels)
        identity = (Candidate("id", "id"),)
        self.choices = tuple(
            Choice(f"edge{edge}", weighted if edge % 2 else weighted + identity)
            for edge in range(1, edges + 1)
        )

    @property
    def name(self) -> str:
        return "connas1d"

    def stem(self) -> nn.Module:
        return nn.Identity()

    def block(self, position: int, candidate: Candidate, in_shape: Shape) -> nn.Module | None:
        channels, length = in_shape
        if candidate.channels is None:
            return nn.Identity()
        stride = _stride(position)
        if candidate.family == "conv":
            return conv_bn_relu_1d(channels, candidate.channels, length, kernel=KERNEL, stride=stride)
        # Separable: both convolutions with a bias, as the paper's parameter counts have it.
        after = -(-length // stride)
        depthwise = conv_bn_relu_1d(
            channels, channels, length, kernel=KERNEL, stride=stride, groups=channels, bias=True
        )
        pointwise = conv_bn_relu_1d(channels, candidate.channels, after, kernel=1, stride=1, bias=True)
        return nn.Sequential(depthwise, pointwise)

    def block_key(self, position: int, candidate: Candidate, in_shape: Shape) -> Hashable:
        return candidate.family, candidate.channels, in_shape, _stride(position)

    def head(self, in_shape: Shape) -> nn.Module:
        return pooled_linear(in_shape[0], self.classes, 1)


def _stride(position: int) -> int:
    return 1 if position % 2 else 2  # positions count from 0, the paper's edges from 1


@dataclass(frozen=True, slots=True)
class PaperSize:
    """Sizes as the paper's Tables 3 and 7 count them (`paper_tables`).

    Attributes:
        params: trainable numbers, batch norm's scale and shift included.
        weight_bytes: `params` in float32.
        peak_bytes: largest sum of a block's float32 input and output maps; a separable block counts as one.
    """

    params: int
    weight_bytes: int
    peak_bytes: int


def paper_tables(space: ConNAS1d, architecture: Sequence[int]) -> PaperSize:
    """Sizes of an architecture in the paper's accounting; for true deployed sizes use graphs and files.

    Formulae per block of Ci to Co channels: conv 3 Ci Co + 2 Co; ds (3 Ci + Ci) + 2 Ci + (Ci Co + Co) + 2 Co;
    identity 0; head (C + 1) classes.

    Raises:
        ConfigurationError: the architecture is not valid.
    """
    states = space.path(architecture)
    params, peak = (states[-1].shape[0] + 1) * space.classes, 0
    for position, index in enumerate(architecture):
        before, after = states[position].shape, states[position + 1].shape
        candidate = space.choices[position].candidates[index]
        params += _block_params(candidate.family, before[0], after[0])
        if candidate.channels is not None:
            peak = max(peak, 4 * (math.prod(before) + math.prod(after)))
    return PaperSize(params, 4 * params, peak)


def count_within(space: ConNAS1d, weight_bytes: int, peak_bytes: int) -> int:
    """Exact number of architectures whose `paper_tables` sizes keep both bounds.

    Dynamic programme over edges: per state, how many paths have exactly so many parameters.
    """
    largest = weight_bytes // 4
    ways = [np.zeros(largest + 1, dtype=np.int64)]
    ways[0][0] = 1
    for position, steps in enumerate(space.steps):
        after = [np.zeros(largest + 1, dtype=np.int64) for _ in space.states[position + 1]]
        for step in steps:
            candidate = space.choices[position].candidates[step.candidate]
            a, b = space.states[position][step.start].shape, space.states[position + 1][step.end].shape
            params = _block_params(candidate.family, a[0], b[0])
            too_large = candidate.channels is not None and 4 * (math.prod(a) + math.prod(b)) > peak_bytes
            if params <= largest and not too_large:
                after[step.end][params:] += ways[step.start][: largest + 1 - params]
        ways = after
    total = 0
    for state, counts in zip(space.states[-1], ways, strict=True):
        room = largest - (state.shape[0] + 1) * space.classes
        if room >= 0:
            total += int(counts[: room + 1].sum())
    return total


def paper_chain(space: ConNAS1d) -> Chain:
    """The space with its `paper_tables` sizes on the arcs, for cost models and exact selection: parameters in float32
    are an arc's `constant_bytes` (they add up), a block's maps its `ram_bytes` (the largest counts)."""
    arcs = []
    for position, steps in enumerate(space.steps):
        layer = []
        for step in steps:
            candidate = space.choices[position].candidates[step.candidate]
            before = space.states[position][step.start].shape
            after = space.states[position + 1][step.end].shape
            maps = 0 if candidate.channels is None else 4 * (math.prod(before) + math.prod(after))
            weights = 4 * _block_params(candidate.family, before[0], after[0])
            layer.append(Arc(step.candidate, step.start, step.end, (), maps, weights))
        arcs.append(tuple(layer))
    heads = tuple(
        Arc(0, index, 0, (), 0, 4 * (state.shape[0] + 1) * space.classes)
        for index, state in enumerate(space.states[-1])
    )
    shapes = tuple(tuple(state.shape for state in states) for states in space.states)
    return Chain((*shapes, ((space.classes,),)), (*arcs, heads), tuple(range(len(space.choices))))


def hand_crafted(space: ConNAS1d) -> dict[str, Architecture]:
    """The six hand-crafted models of Table 7, as architectures of this space.

    The four-block models have stride 2 in every block: identities stand on the even edges.

    Raises:
        ConfigurationError: the space is not the paper's (eight edges, the channels that the models need).
    """
    models = {}
    for family, label in (("conv", "Reg"), ("ds", "DS")):
        four = [f"{family}{c}" for c in (16, 32, 64, 128)]
        models[f"Conv1D-{label}"] = space.decode(" id ".join(four) + " id")
        models[f"Conv1D-{label}-Max"] = space.decode(" ".join([f"{family}512"] * 8))
        models[f"Conv1D-{label}-Min"] = space.decode(" id ".join([f"{family}8"] * 4) + " id")
    return models


def _block_params(family: str, channels_in: int, channels_out: int) -> int:
    if family == "conv":
        return KERNEL * channels_in * channels_out + 2 * channels_out
    if family == "ds":
        depthwise = (KERNEL * channels_in + channels_in) + 2 * channels_in
        return depthwise + (channels_in * channels_out + channels_out) + 2 * channels_out
    return 0
