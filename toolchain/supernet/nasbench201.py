"""A supernet of NAS-Bench-201: every operation on every edge of every cell, in one set of weights.

Architectures are shared by all cells, so a choice's probabilities act in each of them. The mixture of an edge is
the weighted sum of its operations (ConNAS, eq. 7).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolchain.errors import ConfigurationError
from toolchain.spaces.nasbench201 import CONV_1X1, CONV_3X3, EDGES, NONE, OPERATIONS, POOL, NasBench201
from toolchain.supernet.shared import SharedWeights

_NODES: Final = 4


class NasBench201Supernet(SharedWeights):
    """Shared weights for all 15,625 cells.

    Args:
        space: skeleton and data.
    """

    def __init__(self, space: NasBench201) -> None:
        super().__init__()
        self.space: NasBench201 = space
        self.layers = _skeleton(space, [tuple(range(len(OPERATIONS)))] * len(EDGES))

    def forward_relaxed(self, x: Tensor, probabilities: Sequence[Tensor]) -> Tensor:
        """Logits of the mixture, see `SharedWeights`.

        Raises:
            ConfigurationError: wrong number or length of probabilities.
        """
        given, expected = [p.numel() for p in probabilities], [len(OPERATIONS)] * len(EDGES)
        if given != expected:
            raise ConfigurationError(
                f"probabilities of lengths {given}, the edges have {expected} operations"
            )
        return _run(self.layers, x, probabilities)

    def forward_architecture(self, x: Tensor, architecture: Sequence[int]) -> Tensor:
        """Logits of one cell; only its operations are computed. In training mode their statistics are updated."""
        _check(architecture)
        hot = torch.eye(len(OPERATIONS), dtype=x.dtype, device=x.device)
        return _run(self.layers, x, [hot[operation] for operation in architecture])

    def extract(self, architecture: Sequence[int]) -> nn.Module:
        """The cell's network with a copy of its weights; edges that lead nowhere are kept, as in the benchmark."""
        network = nasbench201_network(self.space, architecture)
        with torch.no_grad():
            for own, shared in zip(network.layers, self.layers, strict=True):
                if isinstance(own, _Cell):
                    for small, large, chosen in zip(
                        own.edges, cast(_Cell, shared).edges, architecture, strict=True
                    ):
                        source = cast(nn.ModuleDict, large)[OPERATIONS[chosen]]
                        cast(nn.ModuleDict, small)[OPERATIONS[chosen]].load_state_dict(source.state_dict())
                else:
                    own.load_state_dict(copy.deepcopy(shared.state_dict()))
        device = next(self.parameters()).device
        return network.to(device).train(self.training)


class Network(nn.Module):
    """One architecture as a module of its own."""

    def __init__(self, layers: nn.ModuleList, architecture: Sequence[int]) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer(
            "_hot",
            functional.one_hot(torch.tensor(tuple(architecture)), len(OPERATIONS)).float(),
            persistent=False,
        )

    _hot: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, classes) logits."""
        return _run(self.layers, x, list(self._hot.to(x.dtype)))


def nasbench201_network(space: NasBench201, architecture: Sequence[int]) -> Network:
    """One architecture with fresh weights, to be trained from scratch.

    Raises:
        ConfigurationError: not six operations.
    """
    _check(architecture)
    return Network(_skeleton(space, [(operation,) for operation in architecture]), architecture)


def _check(architecture: Sequence[int]) -> None:
    if len(architecture) != len(EDGES) or not all(0 <= o < len(OPERATIONS) for o in architecture):
        raise ConfigurationError(
            f"{tuple(architecture)} is no NAS-Bench-201 architecture",
            remedy=f"give {len(EDGES)} operations of 0 to {len(OPERATIONS) - 1}",
        )


def _run(layers: nn.ModuleList, x: Tensor, probabilities: Sequence[Tensor]) -> Tensor:
    for layer in layers:
        x = layer(x, probabilities) if isinstance(layer, _Cell) else layer(x)
    return x


def _skeleton(space: NasBench201, operations: Sequence[tuple[int, ...]]) -> nn.ModuleList:
    first = space.channels[0]
    stem = nn.Sequential(
        nn.Conv2d(space.input_shape[0], first, 3, padding=1, bias=False), nn.BatchNorm2d(first)
    )
    layers: list[nn.Module] = [stem]
    before = first
    for stage, channels in enumerate(space.channels):
        if stage:
            layers.append(_Residual(before, channels))
        layers += [_Cell(channels, operations) for _ in range(space.cells_per_stage)]
        before = channels
    layers.append(
        nn.Sequential(
            nn.BatchNorm2d(before), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(before, space.classes),
        )
    )  # fmt: skip
    return nn.ModuleList(layers)


class _Cell(nn.Module):
    """Four nodes; a node is the sum over the nodes before it of what its edges make of them."""

    def __init__(self, channels: int, operations: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.edges = nn.ModuleList(
            nn.ModuleDict({OPERATIONS[o]: _operation(o, channels) for o in present}) for present in operations
        )

    def forward(self, x: Tensor, probabilities: Sequence[Tensor]) -> Tensor:
        # A node that nothing reaches is zero, and batch norm makes something even of that.
        nodes = [x, *(torch.zeros_like(x) for _ in range(_NODES - 1))]
        for (start, end), edge, p in zip(EDGES, self.edges, probabilities, strict=True):
            made = _mixture(cast(nn.ModuleDict, edge), nodes[start], p)
            if made is not None:
                nodes[end] = nodes[end] + made
        return nodes[-1]


def _mixture(edge: nn.ModuleDict, x: Tensor, p: Tensor) -> Tensor | None:
    """The weighted sum of an edge's operations; None where it gives nothing at all."""
    total: Tensor | None = None
    for index, name in enumerate(OPERATIONS):
        if index == NONE or name not in edge:
            continue
        # What has no part in the sum, not even in the gradient, is not worth a convolution.
        if p.requires_grad or float(p[index]) != 0:
            part = p[index] * edge[name](x)
            total = part if total is None else total + part
    return total


class _Residual(nn.Module):
    """Stride 2: two convolutions beside an average pool with a 1x1 convolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = _relu_conv_bn(before, after, 3, stride=2)
        self.second = _relu_conv_bn(after, after, 3)
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, stride=2, ceil_mode=True), nn.Conv2d(before, after, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.shortcut(x) + self.second(self.first(x))
        return result


def _operation(operation: int, channels: int) -> nn.Module:
    if operation in (CONV_1X1, CONV_3X3):
        return _relu_conv_bn(channels, channels, 1 if operation == CONV_1X1 else 3)
    if operation == POOL:
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return nn.Identity()


def _relu_conv_bn(before: int, after: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(after),
    )
