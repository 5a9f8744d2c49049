"""Building blocks that the spaces share, and that users' own spaces may use."""

from __future__ import annotations

import torch
from torch import nn

from toolchain.graph.operator import same_padding


class Residual(nn.Module):
    """`x + body(x)` where `skip` is True, else `body(x)`.

    A space says with this module that one family adds its input for some shapes and not for others. A supernet
    then knows how much of the sum each candidate wants; an `if` in a user's own forward would stay hidden from it.
    """

    def __init__(self, body: nn.Module, skip: bool) -> None:
        super().__init__()
        self.body = body
        self.skip = skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, C, ...) -> (batch, C', ...); C' = C where `skip` is True."""
        result: torch.Tensor = self.body(x)
        return x + result if self.skip else result


def conv_bn_relu_1d(
    channels_in: int,
    channels_out: int,
    length: int,
    *,
    kernel: int,
    stride: int,
    groups: int = 1,
    bias: bool = False,
) -> nn.Sequential:
    """Conv1d with TensorFlow's SAME padding, BatchNorm1d, ReLU: (N, C, length) -> (N, C', ceil(length / stride)).

    torch pads both sides alike, TensorFlow (and so TFLite) puts the odd one behind. Padded the TFLite way, a
    strided convolution needs no PAD operator on the device.
    """
    before, after = same_padding(length, kernel, stride)
    pad: list[nn.Module] = [] if before == after else [nn.ConstantPad1d((before, after), 0.0)]
    inside = before if before == after else 0
    conv = nn.Conv1d(channels_in, channels_out, kernel, stride, inside, groups=groups, bias=bias)
    return nn.Sequential(*pad, conv, nn.BatchNorm1d(channels_out), nn.ReLU())


def conv_bn_2d(
    channels_in: int,
    channels_out: int,
    size: tuple[int, int],
    *,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    activation: bool = True,
) -> nn.Sequential:
    """Conv2d with TensorFlow's SAME padding, BatchNorm2d, ReLU if `activation`; `size` is the input's (H, W)."""
    top, bottom = same_padding(size[0], kernel, stride)
    left, right = same_padding(size[1], kernel, stride)
    symmetric = top == bottom and left == right
    pad: list[nn.Module] = [] if symmetric else [nn.ZeroPad2d((left, right, top, bottom))]
    inside = (top, left) if symmetric else (0, 0)
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, inside, groups=groups, bias=False)
    last: list[nn.Module] = [nn.ReLU()] if activation else []
    return nn.Sequential(*pad, conv, nn.BatchNorm2d(channels_out), *last)


def pooled_linear(channels: int, classes: int, dimensions: int) -> nn.Sequential:
    """Classification head: global average pool over 1 or 2 dimensions, then a linear layer."""
    pool = nn.AdaptiveAvgPool1d(1) if dimensions == 1 else nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(pool, nn.Flatten(), nn.Linear(channels, classes))
