"""Five small networks that between them use every operator, and deterministic training of them in seconds.

`from tests.nets import NETS, trained`. The shapes are torch's, without a batch. The data are scikit-learn's digits,
drawn to 32 x 32, and two synthetic sets (keyword-spotting-like spectrograms and 3-axis time series).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float32]


def conv(
    cin: int, cout: int, kernel: int | tuple[int, int], stride: int = 1, *, groups: int = 1,
    padding: tuple[int, int] | None = None, act: Callable[[], nn.Module] | None = nn.ReLU,
) -> nn.Sequential:  # fmt: skip
    """Conv2d + BatchNorm2d + activation; torch's symmetric padding of half the kernel unless given."""
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    half = (size[0] // 2, size[1] // 2) if padding is None else padding
    layers = [nn.Conv2d(cin, cout, size, stride, half, groups=groups, bias=False), nn.BatchNorm2d(cout)]
    return nn.Sequential(*layers, *([act()] if act else []))


def conv1d(
    cin: int, cout: int, kernel: int, stride: int = 1, *, groups: int = 1, act: bool = True
) -> nn.Sequential:
    """Conv1d + BatchNorm1d + ReLU."""
    layers = [
        nn.Conv1d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm1d(cout),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if act else []))


class ResidualBlock(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(cin, cout, 3, stride), conv(cout, cout, 3, act=None))
        same = stride == 1 and cin == cout
        self.shortcut = nn.Identity() if same else conv(cin, cout, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(8, channels // 4)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, squeezed, 1), nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1), nn.Hardsigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class InvertedResidual(nn.Module):
    def __init__(
        self, cin: int, cout: int, stride: int, expand: int, kernel: int,
        act: Callable[[], nn.Module], squeeze: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        hidden = cin * expand
        self.body = nn.Sequential(
            *([conv(cin, hidden, 1, act=act)] if expand != 1 else []),
            conv(hidden, hidden, kernel, stride, groups=hidden, act=act),
            *([SqueezeExcite(hidden)] if squeeze else []),
            conv(hidden, cout, 1, act=None),
        )
        self.skip = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skip else self.body(x)


class Classifier(nn.Module):
    """Global average pooling and a linear layer."""

    def __init__(
        self, channels: int, classes: int, pool: Callable[[int], nn.Module] = nn.AdaptiveAvgPool2d
    ) -> None:
        super().__init__()
        self.pool = pool(1)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.flatten(self.pool(x), 1))


def resnet8() -> nn.Module:
    """Three residual blocks, two of them strided, with identity and 1x1 shortcuts; 1x32x32, 10 classes."""
    blocks = [ResidualBlock(16, 16, 1), ResidualBlock(16, 32, 2), ResidualBlock(32, 64, 2)]
    return nn.Sequential(conv(1, 16, 3), *blocks, Classifier(64, 10))


def _mobile(act: Callable[[], nn.Module], squeeze: bool) -> nn.Module:
    settings = [(16, 16, 1, 1, 3), (16, 24, 2, 4, 3), (24, 24, 1, 4, 5), (24, 32, 2, 4, 3), (32, 32, 1, 4, 3)]
    blocks = [InvertedResidual(*setting, act, squeeze) for setting in settings]
    return nn.Sequential(conv(1, 16, 3, 2, act=act), *blocks, conv(32, 64, 1, act=act), Classifier(64, 10))


def mbnet() -> nn.Module:
    """Inverted residuals with ReLU6, 3x3 and 5x5 kernels, skip additions; 1x32x32, 10 classes."""
    return _mobile(nn.ReLU6, squeeze=False)


def mbv3() -> nn.Module:
    """`mbnet` with squeeze-excite (hard-sigmoid) and hard-swish."""
    return _mobile(nn.Hardswish, squeeze=True)


def dscnn() -> nn.Module:
    """Depthwise separable keyword spotting: a 10x4 stride-2 stem and four pairs; 1x49x10, 12 classes."""
    pairs = [m for _ in range(4) for m in (conv(64, 64, 3, groups=64), conv(64, 64, 1))]
    return nn.Sequential(conv(1, 64, (10, 4), 2, padding=(5, 1)), *pairs, Classifier(64, 12))


class Residual1d(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv1d(channels, channels, 5, groups=channels), conv1d(channels, channels, 1, act=False)
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.body(x))


def ts1d() -> nn.Module:
    """1-D time series: Conv1d, depthwise, residual, max pooling; 3x128, 6 classes."""
    return nn.Sequential(
        conv1d(3, 16, 5), conv1d(16, 16, 5, 2, groups=16), conv1d(16, 32, 1), Residual1d(32),
        nn.MaxPool1d(2), conv1d(32, 64, 3), Classifier(64, 6, nn.AdaptiveAvgPool1d),
    )  # fmt: skip


@dataclass(frozen=True)
class Net:
    """How a test net is made.

    Attributes:
        build: makes the module with random weights.
        input_shape: torch's, without batch.
        classes: number of logits.
        data: makes (x, y); x is N x `input_shape`.
        operators: number of operators of the int8 graph (the minimum, with explicit padding).
        epochs: of training.
    """

    build: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    classes: int
    data: Callable[[], tuple[Array, NDArray[np.int64]]]
    operators: int
    epochs: int


@cache
def _digits() -> tuple[Array, NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    # Bilinear 8 -> 32, as one matrix that is applied to rows and columns.
    positions = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    weights = np.maximum(1 - np.abs(positions[:, None] - np.arange(8)), 0)
    large = weights @ (images.reshape(-1, 8, 8) / 8 - 1) @ weights.T
    order = np.random.default_rng(0).permutation(len(large))
    return large[order, None].astype(np.float32), labels[order].astype(np.int64)


def _prototypes(
    shape: tuple[int, ...], classes: int, noise: float, shift: int
) -> tuple[Array, NDArray[np.int64]]:
    """Smooth random prototypes per class, shifted along the time axis (the longest one), under noise."""
    rng = np.random.default_rng(1)
    time = 2 + int(np.argmax(shape[1:]))  # in classes x channels x ...
    walk = np.cumsum(rng.normal(size=(classes, *shape)), axis=time)
    walk -= walk.mean(axis=time, keepdims=True)
    prototypes = walk / walk.std(axis=tuple(range(1, walk.ndim)), keepdims=True)
    labels = rng.integers(0, classes, 1600)
    shifts = rng.integers(-shift, shift + 1, len(labels))
    x = np.stack([np.roll(prototypes[y], s, axis=time - 1) for y, s in zip(labels, shifts, strict=True)])
    return (x + noise * rng.normal(size=x.shape)).astype(np.float32), labels.astype(np.int64)


@cache
def _keywords() -> tuple[Array, NDArray[np.int64]]:
    return _prototypes((1, 49, 10), 12, noise=3.0, shift=4)


@cache
def _series() -> tuple[Array, NDArray[np.int64]]:
    return _prototypes((3, 128), 6, noise=3.0, shift=12)


NETS: dict[str, Net] = {
    "resnet8": Net(resnet8, (1, 32, 32), 10, _digits, 16, 2),
    "mbnet": Net(mbnet, (1, 32, 32), 10, _digits, 24, 4),
    "mbv3": Net(mbv3, (1, 32, 32), 10, _digits, 55, 4),
    "dscnn": Net(dscnn, (1, 49, 10), 12, _keywords, 12, 3),
    "ts1d": Net(ts1d, (3, 128), 6, _series, 11, 4),
}


@cache
def trained(name: str) -> tuple[nn.Module, Array, NDArray[np.int64], Array]:
    """A trained test net, once per process; treat what it returns as read-only.

    Args:
        name: a key of `NETS`.

    Returns:
        (module in eval mode, x_test, y_test, x_calibration); arrays are N x torch's shape (NCHW or NCL), 400 test
        samples and 200 of calibration (a part of the training set). Use `nhwc` for graphs.
    """
    net = NETS[name]
    x, y = net.data()
    test, train = slice(0, 400), slice(400, 1000)
    xs, ys = torch.from_numpy(x[train]), torch.from_numpy(y[train])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = net.build().to(memory_format=torch.channels_last)  # a quarter faster
            optimizer = torch.optim.Adam(module.parameters())
            steps = net.epochs * (len(xs) // 20)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
            for _ in range(net.epochs):
                for batch in torch.randperm(len(xs)).split(20):
                    loss = nn.functional.cross_entropy(module(xs[batch]), ys[batch])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
    finally:
        torch.set_num_threads(threads)
    module.to(memory_format=torch.contiguous_format).eval()
    return module, x[test], y[test], x[400:600]


def nhwc(x: Array) -> Array:
    """torch's N x C x H x W or N x C x L as N x H x W x C (a series has H = 1); N x F stays."""
    if x.ndim == 3:
        x = x[:, :, None]
    return x if x.ndim == 2 else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
