"""A search space of one's own: docs/own-space.md explains the rules."""

from __future__ import annotations

from torch import nn

from toolchain.spaces import Candidate, Choice, Residual, Space


class MySpace(Space):
    """Three blocks on small grey images: plain, depthwise separable, residual where channels agree, or nothing."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        # boardfit fills both in from the data; what else stands here comes from [space.parameters].
        self.input_shape = tuple(input_shape)
        self.classes = classes
        weighted = tuple(
            Candidate(f"{family}-{width}", family, width)
            for family in ("plain", "ds")
            for width in (8, 12, 16)
        )
        later = (*weighted, Candidate("residual", "residual"), Candidate("skip", "skip"))
        self.choices = (Choice("first", weighted), Choice("second", later), Choice("third", later))

    def stem(self) -> nn.Module:
        return nn.Sequential(self.conv(self.input_shape[0], 8, 3), nn.MaxPool2d(2))

    def block(self, position: int, candidate: Candidate, in_shape: tuple[int, ...]) -> nn.Module | None:
        channels = in_shape[0]
        if candidate.family == "skip":
            return nn.Identity()
        if candidate.family == "residual":
            return Residual(self.conv(channels, channels, 3), skip=True)
        assert candidate.channels is not None
        if candidate.family == "plain":
            return self.conv(channels, candidate.channels, 3)
        return nn.Sequential(
            self.conv(channels, channels, 3, groups=channels), self.conv(channels, candidate.channels, 1)
        )

    def head(self, in_shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_shape[0], self.classes))

    def conv(self, channels_in: int, channels_out: int, kernel: int, groups: int = 1) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        )
