"""Contributions of made-up accuracies that are known exactly, with and without noise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from toolchain.errors import ConfigurationError
from toolchain.search.estimators import (
    AdditiveEstimator,
    choice_contributions,
    conditioned_contributions,
    paper_conditions,
    rank_quality,
    stage_contributions,
)
from toolchain.search.estimators.paths import PathSamples
from toolchain.spaces import Mobilenet

INPUTS = 10**6  # so many per row that the noise of answers is gone


def space_of(**changes: object) -> Mobilenet:
    settings = {"input_shape": (1, 8, 8), "classes": 3, "widths": (4, 6), "depth": 3, "kernels": (3,)}
    return Mobilenet(**{**settings, **changes})  # type: ignore[arg-type]


def truth_of(space: Mobilenet, seed: int = 0) -> AdditiveEstimator:
    """Additive accuracies with a strong effect of depth."""
    rng = np.random.default_rng(seed)
    values = [rng.normal(0, 0.01, len(choice.candidates)) for choice in space.choices]
    for stage in space.stages:
        for block in range(stage.least, stage.depth):
            values[stage.first + block][stage.none] -= 0.03
    return AdditiveEstimator(0.6, tuple(values))


def answers(space, truth, rows, samplers=None, inputs=INPUTS, seed=1):
    rng = np.random.default_rng(seed)
    samplers = samplers or [space.sample_by_depth]
    table = np.array([samplers[i % len(samplers)](rng) for i in range(rows)])
    right = np.rint(truth.predict(table) * inputs).astype(np.int64)
    if inputs < INPUTS:
        right = rng.binomial(inputs, truth.predict(table))
    return PathSamples(table, right, np.full(rows, inputs), np.arange(rows) % len(samplers))


def test_equation_3_is_right_for_additive_accuracies_where_depth_counts_once():
    space = space_of()
    truth = truth_of(space)
    paths = answers(space, truth, 6000)
    rng = np.random.default_rng(9)
    tested = [space.sample_by_depth(rng) for _ in range(300)]
    measured = truth.predict(tested)
    ours = rank_quality(stage_contributions(paths, space.stages).estimator().predict(tested), measured)
    printed = rank_quality(
        stage_contributions(paths, space.stages, "printed").estimator().predict(tested), measured
    )
    assert ours.kendall > 0.95
    assert ours.mse < printed.mse / 4  # the printed form counts depth twice
    assert ours.mse < 2e-5


def test_errors_cover_the_truth():
    space = space_of()
    truth = truth_of(space)
    exact = stage_contributions(answers(space, truth, 40000), space.stages)
    misses, count = 0.0, 0
    for seed in range(6):
        found = stage_contributions(answers(space, truth, 800, inputs=16, seed=seed + 10), space.stages)
        for a, b, e in (
            *zip(found.depth, exact.depth, found.depth_errors, strict=True),
            *zip(found.blocks, exact.blocks, found.block_errors, strict=True),
        ):
            misses += float((np.abs(a - b) > 2 * e).sum())
            count += len(a)
    assert 0.01 < misses / count < 0.12  # 2 standard errors: about 5 %


def test_depth_and_block_terms_can_be_left_out():
    space = space_of()
    found = stage_contributions(answers(space, truth_of(space), 500), space.stages)
    shallow, deep = space.from_blocks([["e3k3"], ["e3k3"]]), space.from_blocks([["e3k3"] * 3, ["e3k3"] * 3])
    other = space.from_blocks([["e6k3se"] * 3, ["e4k3"] * 3])
    whole, no_depth, no_blocks = (
        found.estimator(),
        found.estimator(depth=False),
        found.estimator(blocks=False),
    )
    expected = found.base + found.depth[0][0] + found.depth[1][0] + found.blocks[0][0] + found.blocks[3][0]
    assert whole.predict([shallow])[0] == pytest.approx(expected)
    expected = found.base + sum(found.blocks[i][0] for i in range(6))
    assert no_depth.predict([deep])[0] == pytest.approx(expected)
    assert no_blocks.predict([deep])[0] == pytest.approx(no_blocks.predict([other])[0])
    assert no_blocks.predict([deep])[0] == pytest.approx(found.base + found.depth[0][2] + found.depth[1][2])


@pytest.mark.parametrize("least", [1, 2])
def test_the_papers_schedule_measures_the_same(least):
    space = space_of(expansions=(3, 6), least_depth=least)
    truth = truth_of(space)
    conditions = paper_conditions(space)
    depths = 3 - least + 1
    assert len(conditions) == 1 + 2 * depths + 2 * 3 * 4
    rng = np.random.default_rng(0)
    for number, draw in enumerate(conditions[1 : 1 + depths], least):
        assert {space.depths(draw(rng))[0] for _ in range(5)} == {number}
    last = conditions[-1](rng)
    assert last[-1] == 3
    paths = answers(space, truth, 100 * len(conditions), conditions)
    forced = conditioned_contributions(paths, space.stages)
    pooled = stage_contributions(answers(space, truth, 5000), space.stages, "printed")
    for a, b in zip(forced.depth + forced.blocks, pooled.depth + pooled.blocks, strict=True):
        np.testing.assert_allclose(a, b, atol=0.035)
    block = conditioned_contributions(paths, space.stages, "block")
    assert abs(float(np.mean(block.blocks[0]))) < 0.02
    with pytest.raises(ConfigurationError, match="several samplers"):
        stage_contributions(paths, space.stages)


def test_any_space_by_choice():
    rng = np.random.default_rng(0)
    truth = AdditiveEstimator(0.5, (np.array([0.1, 0, -0.1]), np.array([0.05, -0.05])))
    table = rng.integers(0, [3, 2], size=(4000, 2))
    right = np.rint(truth.predict(table) * INPUTS).astype(np.int64)
    paths = PathSamples(table, right, np.full(4000, INPUTS), np.zeros(4000, np.int64))
    found = choice_contributions(paths, [3, 3])
    np.testing.assert_allclose(found.values[0], [0.1, 0, -0.1], atol=0.01)
    assert found.values[1][2] == 0  # never drawn
    assert math.isinf(found.errors[1][2])


def test_arc_values_add_up_along_every_path():
    space = space_of(widths=(4,), depth=3)
    estimator = truth_of(space)
    chain = space.chain("int8")
    values = estimator.arc_values(chain)
    assert [len(v) for v in values] == [len(arcs) for arcs in chain.arcs]
    for architecture in (space.sample_by_depth(np.random.default_rng(i)) for i in range(10)):
        state, total = 0, estimator.base
        picks = [0, *architecture, 0]
        for arcs, value, pick in zip(chain.arcs, values, picks, strict=True):
            at = next(i for i, arc in enumerate(arcs) if (arc.start, arc.candidate) == (state, pick))
            total, state = total + value[at], arcs[at].end
        assert total == pytest.approx(estimator.predict([architecture])[0])
    with pytest.raises(ConfigurationError, match="choices"):
        AdditiveEstimator(0.0, (np.zeros(3),)).arc_values(chain)


def test_broken_input_is_refused():
    with pytest.raises(ConfigurationError, match="not finite"):
        AdditiveEstimator(math.nan, ())
    with pytest.raises(ConfigurationError, match="index 2 at choice 0"):
        AdditiveEstimator(0.0, (np.zeros(2),)).predict([(2,)])
    with pytest.raises(ConfigurationError, match="one index per choice"):
        AdditiveEstimator(0.0, (np.zeros(2),)).predict([(0, 1)])
    with pytest.raises(ConfigurationError, match="pair up"):
        AdditiveEstimator(0.0, (np.zeros(2),), (np.zeros(3),))
    nothing = PathSamples(np.zeros((0, 1), np.int64), *(np.zeros(0, np.int64) for _ in range(3)))
    with pytest.raises(ConfigurationError, match="no rows"):
        choice_contributions(nothing, [2])
