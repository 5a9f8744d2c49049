"""Spaces count, sample and name themselves; broken ones say what is wrong."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from tests.spaces.own import Dense, Stages, Uneven
from toolchain.errors import ConfigurationError
from toolchain.spaces import Candidate, Choice, ConNAS1d, Image2d, Space


def _product(space: Space) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(c.candidates)) for c in space.choices)))


@pytest.mark.parametrize("space", [Dense(), Stages(), Uneven()], ids=lambda s: s.name)
def test_counts_and_enumerates_what_brute_force_finds_valid(space: Space) -> None:
    valid = [architecture for architecture in _product(space) if space.valid(architecture)]
    assert list(space) == valid
    assert space.count() == len(valid)


def test_validity_is_what_the_modules_say() -> None:
    space = Uneven()
    for architecture in _product(space):
        if space.valid(architecture):
            assert space.module(architecture).eval()(torch.zeros(3, 2, 8)).shape == (3, 2)
        else:
            with pytest.raises(ConfigurationError, match="not available"):
                space.module(architecture)
    # c6 leads to odd alone, and odd to nothing: both are gone from the structure.
    assert (6, 8) not in [state.shape for state in space.states[1]]
    assert (5, 8) not in [state.shape for state in space.states[2]]


def test_memory_makes_each_depth_of_a_stage_occur_once() -> None:
    # First block: 2 families x 2 widths; then 0, 1 or 2 more of 2 kinds: 4 * (1 + 2 + 4) per stage, 2 stages.
    assert Stages().count() == (4 * 7) ** 2
    assert Stages(least=3).count() == (4 * 4) ** 2
    space = Stages()
    space.decode("e2w8 end end e2sew6 e2 end")
    with pytest.raises(ConfigurationError, match="e2 is not available at s0b2"):
        space.decode("e2w8 end e2 e2sew6 e2 end")


def test_samples_uniformly_although_branches_differ_in_size() -> None:
    space = Stages(widths=(8,))
    rng = np.random.default_rng(0)
    n = 5600
    counts = Counter(space.sample(rng) for _ in range(n))
    assert set(counts) == set(space)
    expected = n / space.count()
    chi2 = sum((c - expected) ** 2 / expected for c in counts.values())
    assert chi2 < 60  # 27 degrees of freedom: the 99.98 % quantile is 58


def test_samples_repeat_with_the_seed() -> None:
    space = Image2d()
    first = [space.sample(np.random.default_rng(7)) for _ in range(3)]
    assert first == [space.sample(np.random.default_rng(7)) for _ in range(3)]


def test_ranks_are_the_lexicographic_order() -> None:
    space = ConNAS1d()
    assert space.architecture_at(0) == (0,) * 8
    assert space.architecture_at(space.count() - 1) == (13, 14) * 4
    with pytest.raises(ConfigurationError, match="rank"):
        space.architecture_at(space.count())


@pytest.mark.parametrize("space", [ConNAS1d(channels=(8, 16)), Image2d(), Stages()], ids=lambda s: s.name)
def test_text_and_json_read_back(space: Space) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        architecture = space.sample(rng)
        assert space.decode(space.encode(architecture)) == architecture
        text = json.dumps(space.to_json(architecture))
        assert space.decode(text) == architecture
        assert space.decode(json.dumps(space.encode(architecture).split())) == architecture


def test_wrong_texts_say_what_is_wrong() -> None:
    space = Uneven()
    for text, message in {
        "c2 c2": "3 choices, got 2 names",
        "c2 c3 c4": r"no candidate 'c3' \(use one of c2, c4, same, odd\)",
        "c2 same c4": r"same is not available at b on \(2, 8\) \(choose one of c2, c4\)",
        "c6 odd c4": "c6 is not available at a",
        "{": "not JSON",
        '{"space": "Other", "architecture": []}': "space 'Other', this space is 'Uneven'",
        '{"space": "Uneven"}': "not a list",
        "[1, 2, 3]": "not a list",
    }.items():
        with pytest.raises(ConfigurationError, match=message):
            space.decode(text)
    with pytest.raises(ConfigurationError, match="3 choices, got 1"):
        space.encode((0,))
    with pytest.raises(ConfigurationError, match="index 9"):
        space.encode((9, 0, 0))
    assert not space.valid((0, -1, 0))


def _candidates(*names: str) -> tuple[Candidate, ...]:
    return tuple(Candidate(name, "dense", 4) for name in names)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ((), "no choices"),
        ((Choice("a", ()),), "no candidates"),
        ((Choice("a", _candidates("x")), Choice("a", _candidates("x"))), "used twice"),
        ((Choice("a.b", _candidates("x")),), "not allowed"),
        ((Choice("head", _candidates("x")),), "not allowed"),
        ((Choice("a", _candidates("x", "x")),), "used twice"),
        ((Choice("a", _candidates("x y")),), "white space"),
    ],
)
def test_broken_choices_are_found(choices: tuple[Choice, ...], message: str) -> None:
    space = Dense()
    space.choices = choices
    with pytest.raises(ConfigurationError, match=message):
        space.count()


class _Wrong(Dense):
    """Dense, with one thing wrong."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        if fault == "unset":
            del self.classes

    def block(self, position: int, candidate: Candidate, in_shape: tuple[int, ...]) -> nn.Module | None:
        if self.fault == "channels" and candidate.name == "d6":
            return nn.Linear(in_shape[0], 7)
        if self.fault == "shape" and candidate.name == "d6":
            return nn.Linear(99, 6)
        if self.fault == "none":
            return None
        return super().block(position, candidate, in_shape)

    def head(self, in_shape: tuple[int, ...]) -> nn.Module:
        return nn.Identity() if self.fault == "head" else super().head(in_shape)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("unset", "does not set classes"),
        ("channels", r"d6 at a gives 7 channels on \(12,\), its candidate says 6"),
        ("shape", r"d6 at a on \(12,\): .*let block\(\) return None"),
        ("none", "no candidate of choice a is available on"),
        ("head", r"head gives \(4,\)"),
    ],
)
def test_broken_modules_are_found(fault: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        _Wrong(fault).count()


def test_structure_needs_no_random_numbers() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    space = Image2d()
    space.count()
    space.describe(space.architecture_at(5))
    assert torch.equal(torch.random.get_rng_state(), before)
