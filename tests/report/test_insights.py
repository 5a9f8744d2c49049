"""Effects of design choices: known contributions in, the same numbers out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from toolchain.report.insights import DEPTH, effects, overall, panels, stage_and_block
from toolchain.spaces import BlockConfiguration, Image2d, Mobilenet


def test_effects_of_known_contributions() -> None:
    """Kernel 5 is worth 0.02, squeeze-excite 0.01, expansion 6 0.04; each block is worth 0.05 on top."""
    space = Mobilenet(widths=(8, 16), depth=2, expansions=(3, 6))
    values = [
        np.array(
            [
                0.05 + 0.02 * (c.kernel == 5) + 0.01 * c.squeeze_excite + 0.04 * (c.expansion == 6)
                if isinstance(c, BlockConfiguration)
                else 0.0
                for c in choice.candidates
            ]
        )
        for choice in space.choices
    ]
    errors = [np.full(len(v), 0.004) for v in values]
    found = effects(space.choices, values, errors)
    by_name = {what: (value, error) for what, value, error in overall(found)}
    assert by_name["kernel 5 instead of 3"][0] == pytest.approx(0.02)
    assert by_name["squeeze excite"][0] == pytest.approx(0.01)
    assert by_name["expansion 6 instead of 3"][0] == pytest.approx(0.04)
    assert by_name[DEPTH][0] == pytest.approx(0.05 + 0.01 + 0.005 + 0.02)
    # Four pairs of independent candidates at each of four choices: sqrt(8) * 0.004 / 4 / sqrt(4).
    assert by_name["squeeze excite"][1] == pytest.approx(math.sqrt(8) * 0.004 / 4 / 2)
    depth, by_stage, by_block = panels(found)
    assert {bar.group for bar in by_stage.bars} == {"1", "2"}
    assert {bar.group for bar in by_block.bars} == {"1", "2"}
    assert [(bar.group, bar.series) for bar in depth.bars] == [("1", "block 2"), ("2", "block 2")]


def test_what_nobody_measured_is_left_out() -> None:
    space = Mobilenet(widths=(8,), depth=1, expansions=(3,), kernels=(3, 5), squeeze_excite=(False,))
    found = effects(space.choices, [np.zeros(2)], [np.array([0.01, math.inf])])
    assert found == ()
    assert overall(found) == ()


def test_a_space_without_properties_has_family_and_channels() -> None:
    space = Image2d(widths=(4, 8), families=("conv3", "ds3"), stages=1, blocks=2)
    values = [np.arange(len(choice.candidates), dtype=float) for choice in space.choices]
    names = {what for what, _, _ in overall(effects(space.choices, values))}
    assert names == {"channels 8 instead of 4", "ds3 instead of conv3", DEPTH}


@pytest.mark.parametrize(("name", "found"), [("stage2_block1", (2, 1)), ("edge3", (None, None))])
def test_stages_and_blocks_from_names(name: str, found: tuple[int | None, int | None]) -> None:
    assert stage_and_block(name) == found
