"""Shapes found without arithmetic are those that torch gives."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from toolchain.errors import ConfigurationError
from toolchain.spaces import load_space
from toolchain.spaces.shapes import output_shape


@settings(max_examples=60, deadline=None)
@given(
    rank=st.sampled_from([1, 2]),
    size=st.integers(1, 9),
    groups=st.sampled_from([1, 2]),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.sampled_from([0, 1, 2, "same"]),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
)
def test_convolutions(
    rank: int, size: int, groups: int, kernel: int, stride: int, padding: int | str, dilation: int, bias: bool
) -> None:
    """Also where the kernel does not fit into the input."""
    make = (nn.Conv1d, nn.Conv2d)[rank - 1]
    try:
        module = make(4, 6, kernel, stride, padding, dilation, groups, bias)
    except ValueError:  # torch has no padding "same" with a stride
        return
    shape = (4, *([size] * rank))
    if isinstance(padding, int) and size + 2 * padding < dilation * (kernel - 1) + 1:
        with pytest.raises(ConfigurationError, match="here: "):
            output_shape(module, shape, "here")
        return
    expected = tuple(module.to_empty(device="cpu")(torch.zeros(1, *shape)).shape[1:])
    assert output_shape(module.to("meta"), shape, "here") == expected


class Gated(nn.Module):
    def __init__(self, size: int, other: bool) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(size)
        self.other = other

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.pool(x)
        result: torch.Tensor = gate * x if self.other else x + gate
        return 2 * result + 1


@pytest.mark.parametrize("other", [False, True])
def test_pools_sums_and_products(other: bool) -> None:
    assert output_shape(Gated(1, other), (3, 5, 4), "here") == (3, 5, 4)
    with pytest.raises(ConfigurationError, match="broadcast"):
        output_shape(Gated(2, other), (3, 5, 4), "here")


class Unusual(nn.Module):
    """Functions called by keyword, and one number of padding for both axes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, 3, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(input=functional.conv2d(x, self.weight, None, (1, 1), (1,), (1, 1)))


def test_unusual_calls_are_left_to_torch() -> None:
    assert output_shape(Unusual().to("meta"), (3, 8, 8), "here") == (4, 8, 8)


def test_a_wrong_number_of_channels_is_said() -> None:
    with pytest.raises(ConfigurationError, match="a convolution of 3 channels gets 4"):
        output_shape(nn.Conv2d(3, 4, 3).to("meta"), (4, 8, 8), "here")


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((13,), "vectors"),
        ((28, 28), "x = x[:, None]"),
        ((3, 128), "connas1d"),
        ((32, 32, 3), "moveaxis"),
        ((1, 2, 2), "image2d"),
        ((1, 1, 32, 32), "own-space.md"),
    ],
)
@pytest.mark.parametrize("name", ["image2d", "mobilenet"])
def test_samples_of_another_kind(name: str, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_space(name, input_shape=shape)
    assert said in caught.value.remedy


def test_a_space_is_made_without_torchs_compiler() -> None:
    """It takes seconds to import, before the first network of every command."""
    program = """
import sys
from toolchain.spaces import load_space
for name in ("connas1d", "image2d", "mobilenet"):
    assert load_space(name).chain() is not None
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
