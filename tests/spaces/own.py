"""Small spaces of the kinds that users write, for tests of spaces and supernets."""

from __future__ import annotations

import torch
from torch import nn

from toolchain.spaces import Candidate, Choice, Residual, Space


class Dense(Space):
    """Flat features, linear layers with biases and without batch norm."""

    def __init__(self) -> None:
        self.input_shape = (12,)
        self.classes = 3
        candidates = tuple(Candidate(f"d{n}", "dense", n) for n in (4, 6, 10))
        self.choices = (Choice("a", candidates), Choice("b", (*candidates, Candidate("id", "id"))))

    def stem(self) -> nn.Module:
        return nn.Identity()

    def block(self, position: int, candidate: Candidate, in_shape: tuple[int, ...]) -> nn.Module | None:
        if candidate.channels is None:
            return nn.Identity()
        return nn.Sequential(nn.Linear(in_shape[0], candidate.channels), nn.ReLU())

    def head(self, in_shape: tuple[int, ...]) -> nn.Module:
        return nn.Linear(in_shape[0], self.classes)


class SqueezeExcite(nn.Module):
    """Gate each channel by what the whole map says; the hidden layer has a quarter of the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, max(1, channels // 4), 1)
        self.excite = nn.Conv2d(max(1, channels // 4), channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = nn.functional.adaptive_avg_pool2d(x, 1)
        gate = nn.functional.relu(self.squeeze(gate))
        return x * nn.functional.hardsigmoid(self.excite(gate))


class Stages(Space):
    """A MobileNet-like space in BINAS's manner: stages of variable depth, squeeze-excite on or off.

    After its first `end` a stage takes nothing but `end`, so that each depth occurs once.
    """

    def __init__(self, widths: tuple[int, ...] = (8, 12), depth: int = 3, least: int = 1) -> None:
        self.input_shape = (1, 8, 8)
        self.classes = 5
        self.widths, self.depth = widths, depth
        blocks = tuple(Candidate(f"{f}", f, None) for f in ("e2", "e2se"))
        self.choices = tuple(
            Choice(
                f"s{s}b{b}",
                self._first(width) if b == 0 else blocks + (Candidate("end", "end"),) * (b >= least),
            )
            for s, width in enumerate(widths)
            for b in range(depth)
        )

    def _first(self, width: int) -> tuple[Candidate, ...]:
        return tuple(Candidate(f"{f}w{w}", f, w) for f in ("e2", "e2se") for w in (width // 2, width))

    def stem(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU6())

    def block(self, position: int, candidate: Candidate, in_shape: tuple[int, ...]) -> nn.Module | None:
        if candidate.family == "end":
            return nn.Identity()
        cin = in_shape[0]
        cout = candidate.channels or cin
        hidden = 2 * cin
        body = nn.Sequential(
            nn.Conv2d(cin, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(),
            *([SqueezeExcite(hidden)] if candidate.family.endswith("se") else []),
            nn.Conv2d(hidden, cout, 1, bias=False),
            nn.BatchNorm2d(cout),
        )
        return Residual(body, skip=cin == cout)

    def head(self, in_shape: tuple[int, ...]) -> nn.Module:
        channels, height, width = in_shape
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, self.classes))

    def memory_after(self, position: int, candidate: Candidate, memory: str) -> str | None:
        if position % self.depth == 0:
            memory = ""
        if memory == "ended" and candidate.family != "end":
            return None
        last = position % self.depth == self.depth - 1
        return "ended" if candidate.family == "end" and not last else ""


class Uneven(Space):
    """Availability by shape, with a dead end: after `c6` in the first choice nothing fits but `odd`, and after
    `odd` nothing at all in the third."""

    def __init__(self) -> None:
        self.input_shape = (2, 8)
        self.classes = 2
        narrow = tuple(Candidate(f"c{n}", "c", n) for n in (2, 4))
        self.choices = (
            Choice("a", (*narrow, Candidate("c6", "c", 6))),
            Choice("b", (*narrow, Candidate("same", "same"), Candidate("odd", "c", 5))),
            Choice("c", (Candidate("c4", "c", 4), Candidate("same", "same"))),
        )

    def stem(self) -> nn.Module:
        return nn.Identity()

    def block(self, position: int, candidate: Candidate, in_shape: tuple[int, ...]) -> nn.Module | None:
        channels = in_shape[0]
        if candidate.family == "same":
            return nn.Sequential(nn.Conv1d(channels, channels, 1), nn.Hardswish()) if channels == 4 else None
        if (channels == 6) != (candidate.name == "odd"):
            return None
        if channels == 5:
            return None
        return nn.Sequential(nn.Conv1d(channels, candidate.channels or 0, 3, padding=1), nn.Hardswish())

    def head(self, in_shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(in_shape[0], self.classes))
