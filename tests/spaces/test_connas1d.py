"""The ConNAS space against every figure that the paper prints (reference: constrained-selection, section 6)."""

from __future__ import annotations

import pytest
import torch

from toolchain.errors import ConfigurationError
from toolchain.spaces import ConNAS1d
from toolchain.spaces.connas1d import count_within, hand_crafted, paper_tables

SPACE = ConNAS1d()


def test_counts_exactly() -> None:
    assert SPACE.count() == 14**4 * 15**4 == 1_944_810_000
    assert ConNAS1d(channels=(16, 32, 64, 256, 512)).count() == 146_410_000


@pytest.mark.parametrize(
    ("name", "params", "peak"),
    [
        ("Conv1D-Reg", 33_636, 16_384),
        ("Conv1D-DS", 12_836, 16_384),
        ("Conv1D-Reg-Max", 5_527_556, 524_288),
        ("Conv1D-DS-Max", 1_874_996, 524_288),
        ("Conv1D-Reg-Min", 868, 12_288),
        ("Conv1D-DS-Min", 580, 12_288),
    ],
)
def test_hand_crafted_models_have_the_papers_sizes(name: str, params: int, peak: int) -> None:
    architecture = hand_crafted(SPACE)[name]
    size = paper_tables(SPACE, architecture)
    assert (size.params, size.weight_bytes, size.peak_bytes) == (params, 4 * params, peak)
    # The formulae count what torch really has.
    assert sum(p.numel() for p in SPACE.module(architecture).parameters()) == params


@pytest.mark.parametrize(
    ("weight_bytes", "peak_bytes", "count"),
    [
        (64_000, 18_000, 5_599_779),
        (128_000, 36_000, 40_543_431),
        (256_000, 112_000, 269_546_268),
        (2_000_000, 640_000, 1_601_756_992),
        (64 * 1024, 18 * 1024, 6_581_787),
    ],
)
def test_counts_what_keeps_the_papers_constraints(weight_bytes: int, peak_bytes: int, count: int) -> None:
    assert count_within(SPACE, weight_bytes, peak_bytes) == count


def test_counts_within_bounds_as_enumeration_does() -> None:
    space = ConNAS1d(input_channels=2, length=16, channels=(2, 3), edges=3)
    sizes = [paper_tables(space, architecture) for architecture in space]
    for weight_bytes, peak_bytes in ((200, 250), (300, 200), (0, 1000), (1000, 1000)):
        kept = sum(s.weight_bytes <= weight_bytes and s.peak_bytes <= peak_bytes for s in sizes)
        assert count_within(space, weight_bytes, peak_bytes) == kept


def test_strides_stand_on_odd_edges_for_any_length() -> None:
    space = ConNAS1d(input_channels=3, length=37, classes=2, channels=(4,), edges=4)
    assert [states[0].shape for states in space.states] == [(3, 37), (4, 19), (4, 19), (4, 10), (4, 10)]
    assert space.module((1, 2, 0, 1))(torch.randn(2, 3, 37)).shape == (2, 2)


def test_rejects_parameters_that_make_no_space() -> None:
    for bad in ({"channels": ()}, {"channels": (8, 8)}, {"length": 0}, {"edges": 0}):
        with pytest.raises(ConfigurationError, match="connas1d"):
            ConNAS1d(**bad)
