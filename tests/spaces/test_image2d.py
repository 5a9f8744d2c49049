"""The image space: sizes, families, and that its defaults can tell digits apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toolchain.errors import ConfigurationError
from toolchain.spaces import Image2d, Residual


def test_default_has_the_documented_count() -> None:
    assert Image2d().count() == (12 * 13 * 13) ** 2 == 4_112_784


@pytest.mark.parametrize("size", [8, 9, 16, 31, 32, 47, 64, 96])
def test_last_map_has_at_least_2x2_pixels(size: int) -> None:
    space = Image2d((3, size, size), widths=(4, 8), blocks=2)
    _, height, width = space.states[-1][0].shape
    assert height == width
    assert 2 <= height <= 6
    assert space.module(space.sample(np.random.default_rng(0)))(torch.zeros(2, 3, size, size)).shape == (
        2,
        10,
    )


def test_a_rectangle_is_halved_by_its_shorter_side() -> None:
    assert Image2d((1, 8, 30)).states[-1][0].shape[1:] == (2, 8)


def test_residual_adds_where_stride_is_1_and_channels_agree() -> None:
    space = Image2d()
    network = space.module(space.decode("ir3-12 ir3-12 ir3-32 ir3-12 id id"))
    skips = [m.skip for m in network.modules() if isinstance(m, Residual)]
    assert skips == [False, True, False, False]


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), pytest.param((3, 96, 96), marks=pytest.mark.slow)], ids=lambda shape: str(shape[1])
)
def test_there_are_few_enough_operators_to_profile(shape: tuple[int, ...]) -> None:
    assert len(Image2d(shape).chain("int8").operators) <= 250


def test_all_families_build() -> None:
    families = ("conv3", "conv5", "ds3", "ds5", "ir3", "ir3k5", "ir6")
    space = Image2d(widths=(4,), families=families, blocks=1)
    for index in range(len(families)):
        assert space.module((index, index)).eval()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"input_shape": (1, 8)}, "not .channels, height, width."),
        ({"input_shape": (1, 7, 8)}, "8 to 96"),
        ({"input_shape": (1, 8, 97)}, "8 to 96"),
        ({"families": ("ir9",)}, "use some of conv3"),
        ({"families": ()}, "families"),
        ({"widths": ()}, "positive"),
        ({"blocks": 0}, "positive"),
        ({"stages": 3}, "use 1 to 2"),
    ],
)
def test_rejects_parameters_that_make_no_space(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Image2d(**parameters)


def _trained_accuracy(text: str) -> float:
    from sklearn.datasets import load_digits

    torch.set_num_threads(1)
    torch.manual_seed(0)
    data, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(data))
    x = torch.tensor(data, dtype=torch.float32).view(-1, 1, 8, 8)[order] / 16
    y = torch.tensor(labels)[order]
    space = Image2d()
    network = space.module(space.decode(text))
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 15 * 22)
    for _ in range(15):
        for batch in torch.randperm(1400).split(64):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
            optimiser.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        return float((network(x[1400:]).argmax(1) == y[1400:]).float().mean())


@pytest.mark.slow
def test_large_networks_read_digits_and_the_smallest_clearly_worse() -> None:
    assert _trained_accuracy("conv3-12 id id conv3-32 id id") > 0.97
    assert _trained_accuracy("ds3-4 id id ds3-4 id id") < 0.92
