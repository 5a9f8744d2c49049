"""A small space for images of 8x8 to 96x96 pixels: plain, depthwise separable and inverted residual blocks."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from torch import nn

from toolchain.errors import ConfigurationError
from toolchain.graph.operator import Shape
from toolchain.spaces.blocks import Residual, conv_bn_2d, pooled_linear
from toolchain.spaces.shapes import data_remedy
from toolchain.spaces.space import Candidate, Choice, Space

# family -> (kernel, expansion); expansion 0: no expanding convolution
FAMILIES = {
    "conv3": (3, 0), "conv5": (5, 0), "ds3": (3, 0), "ds5": (5, 0),
    "ir3": (3, 3), "ir3k5": (5, 3), "ir6": (3, 6),
}  # fmt: skip


class Image2d(Space):
    """A stem convolution, then stages; the first block of a stage has stride 2, the others may be an identity.

    `conv3`: 3x3 convolution. `ds3`, `ds5`: 3x3 or 5x5 depthwise, then 1x1. `ir3`: 1x1 to three times the channels,
    3x3 depthwise, 1x1 back, and the input added where stride is 1 and channels agree. All with batch norm; ReLU
    everywhere but at the end of `ir3`. Head: global average pool and a linear layer.

    The default for 8x8 images has 2 stages of 3 blocks, 4,112,784 architectures.

    Args:
        input_shape: (channels, height, width), height and width 8 to 96.
        classes: number of classes.
        widths: numbers of channels to choose from.
        families: names of `FAMILIES`.
        stages: number of stages, each halving the map; None: as many as leave at least 2x2 pixels, at most 4.
        blocks: blocks per stage.
        stem_channels: channels of the stem; it has stride 2 from 32 pixels on.
    """

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 8, 8),
        classes: int = 10,
        widths: Sequence[int] = (4, 12, 32),
        families: Sequence[str] = ("conv3", "ds3", "ds5", "ir3"),
        stages: int | None = None,
        blocks: int = 3,
        stem_channels: int = 8,
    ) -> None:
        if len(input_shape) != 3 or input_shape[0] < 1 or not all(8 <= s <= 96 for s in input_shape[1:]):
            raise ConfigurationError(
                f"image2d: input_shape {tuple(input_shape)} is not (channels, height, width) with 8 to 96 pixels",
                remedy=data_remedy(tuple(input_shape)),
            )
        unknown = [family for family in families if family not in FAMILIES]
        if unknown or not families:
            raise ConfigurationError(
                f"image2d: unknown families {unknown}", remedy="use some of " + ", ".join(FAMILIES)
            )
        if not widths or min(classes, blocks, stem_channels, *widths) < 1:
            raise ConfigurationError("image2d: classes, widths, blocks and stem_channels must be positive")
        self.input_shape = (int(input_shape[0]), int(input_shape[1]), int(input_shape[2]))
        self.classes = classes
        self.stem_channels = stem_channels
        self.stem_stride = 2 if min(self.input_shape[1:]) >= 32 else 1
        side = -(-min(self.input_shape[1:]) // self.stem_stride)
        room = (side - 1).bit_length() - 1  # halvings (rounded up) that leave at least 2
        if stages is not None and not 1 <= stages <= room:
            raise ConfigurationError(
                f"image2d: {stages} stages do not fit {self.input_shape}", remedy=f"use 1 to {room}"
            )
        weighted = tuple(Candidate(f"{f}-{w}", f, w) for f in families for w in widths)
        identity = (Candidate("id", "id"),)
        self._strides = tuple(
            2 if block == 0 else 1 for _ in range(stages or min(room, 4)) for block in range(blocks)
        )
        self.choices = tuple(
            Choice(
                f"stage{1 + i // blocks}_block{1 + i % blocks}", weighted + (identity if stride == 1 else ())
            )
            for i, stride in enumerate(self._strides)
        )

    @property
    def name(self) -> str:
        return "image2d"

    def stem(self) -> nn.Module:
        channels, height, width = self.input_shape
        return conv_bn_2d(channels, self.stem_channels, (height, width), kernel=3, stride=self.stem_stride)

    def block(self, position: int, candidate: Candidate, in_shape: Shape) -> nn.Module | None:
        channels, size, stride = in_shape[0], (in_shape[1], in_shape[2]), self._strides[position]
        width = candidate.channels
        if width is None:
            return nn.Identity()
        kernel, expansion = FAMILIES[candidate.family]
        if candidate.family.startswith("conv"):
            return conv_bn_2d(channels, width, size, kernel=kernel, stride=stride)
        after = (-(-size[0] // stride), -(-size[1] // stride))
        hidden = channels * (expansion or 1)
        depthwise = conv_bn_2d(hidden, hidden, size, kernel=kernel, stride=stride, groups=hidden)
        pointwise = conv_bn_2d(hidden, width, after, kernel=1, activation=not expansion)
        if not expansion:
            return nn.Sequential(depthwise, pointwise)
        expand = conv_bn_2d(channels, hidden, size, kernel=1)
        body = nn.Sequential(expand, depthwise, pointwise)
        return Residual(body, skip=stride == 1 and width == channels)

    def block_key(self, position: int, candidate: Candidate, in_shape: Shape) -> Hashable:
        return candidate.family, candidate.channels, in_shape, self._strides[position]

    def head(self, in_shape: Shape) -> nn.Module:
        return pooled_linear(in_shape[0], self.classes, 2)
