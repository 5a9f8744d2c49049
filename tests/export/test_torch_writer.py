"""Float graphs as .pt2 files: on the torch engine they give what the float reference gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from targets.session import open_target
from toolchain.errors import UnsupportedError
from toolchain.export.torch_writer import write_pt2
from toolchain.graph import Graph, GraphBuilder
from toolchain.graph.float_reference import run_float
from toolchain.graph.lower import lower
from toolchain.quantize import quantize


class Branches(nn.Module):
    """A sum, a product, a concatenation, both pools, and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.head = nn.Linear(8 * 2 * 2, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        y = nn.functional.hardswish(self.depthwise(x)) + x
        z = nn.functional.max_pool2d(y, 2) * nn.functional.avg_pool2d(x, 2)
        both = torch.cat([z, nn.functional.avg_pool2d(y, 2)], dim=1)
        logits: torch.Tensor = self.head(nn.functional.max_pool2d(both, 2).flatten(1))
        return torch.softmax(logits, dim=1)


def conv_pool_fc() -> nn.Module:
    return nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(2, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU6(),
        nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def series() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def keeps_its_map() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, (3, 1), padding=(1, 0)), nn.ReLU())


def graph_of(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> Graph:
    torch.manual_seed(0)
    return lower(make().eval(), shape)


def channels_first(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(np.moveaxis(x, 3, 1)) if x.ndim == 4 else x


CASES: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (conv_pool_fc, (2, 8, 8)),
    (Branches, (2, 8, 8)),
    (series, (2, 16)),
    (dense, (6,)),
    (keeps_its_map, (2, 5, 7)),
]


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_the_engine_gives_what_the_reference_gives(
    tmp_path: Path, make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    graph = graph_of(make, shape)
    size = graph.tensors[graph.inputs[0]].shape[1:]
    x = np.random.default_rng(1).normal(size=(5, *size)).astype(np.float32)
    expected: NDArray[Any] = channels_first(run_float(graph, x))
    with open_target("cpu:torch", cache=tmp_path) as session:
        found: NDArray[Any] = session.run(write_pt2(graph), channels_first(x))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-6, rtol=1e-5)


def test_int8_graphs_are_refused() -> None:
    graph = graph_of(dense, (6,))
    int8 = quantize(graph, np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32))
    with pytest.raises(UnsupportedError, match="float32 graphs with one input and one output"):
        write_pt2(int8)


def test_two_inputs_are_refused() -> None:
    builder = GraphBuilder("float32")
    graph = builder.build(builder.binary("add", builder.input((1, 2)), builder.input((1, 2))))
    with pytest.raises(UnsupportedError, match="one input"):
        write_pt2(graph)
