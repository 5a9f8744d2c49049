"""The inverted-residual space: counts, depth, modules, what the paper's parameters give."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from toolchain.errors import ConfigurationError
from toolchain.export import write_tflite
from toolchain.graph.float_reference import run_float
from toolchain.graph.lower import lower
from toolchain.quantize import quantize
from toolchain.spaces import Mobilenet, Residual, load_space
from toolchain.spaces.mobilenet import PAPER
from toolchain.supernet import Supernet


def small(**changes: object) -> Mobilenet:
    """Two stages of 1 to 2 blocks, 4 configurations, 8x8 pixels: 400 networks."""
    settings = {
        "input_shape": (1, 8, 8),
        "classes": 3,
        "widths": (4, 6),
        "depth": 2,
        "expansions": (2, 3),
        "kernels": (3,),
    }
    return Mobilenet(**{**settings, **changes})  # type: ignore[arg-type]


def test_count_is_the_closed_formula_and_every_network_occurs_once():
    space = small()
    assert space.count() == space.closed_count() == (4 + 4**2) ** 2
    everything = list(space)
    assert len(set(everything)) == len(everything) == 400
    built = {
        tuple(c.name for stage in space.blocks_of(a) for c in (*stage, None) if c) + space.depths(a)
        for a in everything
    }
    assert len(built) == 400


@pytest.mark.parametrize(
    ("depth", "least", "expected"),
    [
        (4, 1, (12 + 12**2 + 12**3 + 12**4) ** 5),
        (4, 2, (12**2 + 12**3 + 12**4) ** 5),
        ((1, 2, 3, 2, 1), 1, None),
    ],
)
def test_paper_size_counts(depth, least, expected):
    space = Mobilenet(depth=depth, least_depth=least)
    assert space.count() == space.closed_count()
    if expected is not None:
        assert space.count() == expected


def test_paper_parameters_have_the_paper_shapes():
    space = Mobilenet(**PAPER)  # type: ignore[arg-type]
    architecture = space.from_blocks([["e6k5se"] * 4] * 5)
    shapes = {row.output[-1] for row in space.describe(architecture)[1:-1]}
    assert shapes == {56, 28, 14, 7}
    assert len(space.choices) == 20
    assert {len(choice.candidates) for choice in space.choices} == {12, 13}


def test_nothing_follows_none_within_a_stage():
    space = small()
    assert not space.valid((0, 4, 0, 9))
    deep = small(depth=3)
    ended = (0, deep.stages[0].none, 0, 0, 0, 0)
    with pytest.raises(ConfigurationError, match="not available at stage1_block3"):
        deep.path(ended)
    for architecture in itertools.islice(deep, 500):
        for stage in deep.stages:
            part = architecture[stage.first : stage.first + stage.depth]
            depth = sum(index != stage.none for index in part)
            assert all(index != stage.none for index in part[:depth])
            assert depth >= stage.least


def test_blocks_and_text_come_back():
    space = small(depth=3, kernels=(3, 5))
    rng = np.random.default_rng(0)
    for _ in range(50):
        architecture = space.sample(rng)
        assert space.from_blocks(space.blocks_of(architecture)) == architecture
        assert space.decode(space.encode(architecture)) == architecture
    chosen = space.from_blocks([["e2k3"], ["e3k5se", "e2k3se"]])
    assert space.encode(chosen) == "e2k3 none none e3k5se e2k3se none"
    assert space.depths(chosen) == (1, 2)


def test_sampling_by_depth_is_uniform_over_depths_and_honours_what_is_given():
    space = small(depth=3)
    rng = np.random.default_rng(1)
    depths = np.array([space.depths(space.sample_by_depth(rng)) for _ in range(900)])
    for stage in range(2):
        counts = np.bincount(depths[:, stage], minlength=4)[1:]
        assert np.abs(counts - 300).max() < 60  # 4 standard deviations
    uniform = np.array([space.depths(space.sample(rng)) for _ in range(300)])
    assert (uniform == 3).mean() > 0.6  # most networks are deep
    for _ in range(30):
        given = space.sample_by_depth(rng, depths={1: 2}, configurations={3: 2})
        assert space.depths(given)[1] == 2
        assert given[3] == 2


def test_residual_where_stride_and_channels_allow_and_squeeze_excite_where_chosen():
    space = small(strides=(2, 1), widths=(4, 4))
    module = space.module(space.from_blocks([["e2k3", "e2k3se"], ["e3k3"]]))
    skips = [block.skip for block in module if isinstance(block, Residual)]
    assert skips == [False, True, True]
    names = [name for name, _ in module.named_modules()]
    assert "stage1_block2.body.se" in names
    assert "stage1_block1.body.se" not in names


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("activation", ["relu", "hard_swish"])
def test_supernet_runs_single_paths_and_mixtures(share, activation):
    torch.manual_seed(0)
    space = small(share_expansions=share, activation=activation)
    supernet = Supernet(space).eval()
    x = torch.randn(3, 1, 8, 8)
    rng = np.random.default_rng(2)
    for _ in range(5):
        architecture = space.sample_by_depth(rng)
        single = supernet.forward_architecture(x, architecture)
        torch.testing.assert_close(single, supernet.extract(architecture).eval()(x))
        torch.testing.assert_close(single, supernet.forward_relaxed(x, supernet.one_hot(architecture)))


@pytest.mark.parametrize("activation", ["relu", "relu6", "hard_swish"])
def test_a_network_goes_through_int8_to_a_file(activation):
    torch.manual_seed(0)
    space = small(activation=activation, head_channels=8)
    module = space.module(space.from_blocks([["e2k3se", "e3k3"], ["e3k3se"]])).eval()
    graph = lower(module, space.input_shape)
    x = torch.randn(8, 1, 8, 8)
    reference = run_float(graph, x.permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(reference, module(x).detach().numpy(), atol=1e-4)
    data = write_tflite(quantize(graph, x.permute(0, 2, 3, 1).numpy()))
    assert len(data) > 1000


def test_chain_has_every_path():
    space = small(depth=3)
    chain = space.chain("int8")
    ways = [1]
    for arcs, states in zip(chain.arcs, chain.states[1:], strict=True):
        after = [0] * len(states)
        for arc in arcs:
            after[arc.end] += ways[arc.start]
        ways = after
    assert ways == [space.count()]


def test_strides_need_no_pad_operator_and_blocks_use_the_closed_operator_list():
    space = Mobilenet(input_shape=(1, 32, 32), widths=(4, 6), strides=(2, 2), depth=1)
    kinds = {operator.kind for operator in space.chain("int8").operators}
    assert "pad" not in kinds
    assert {"conv2d", "depthwise_conv2d", "average_pool", "mul", "fully_connected"} <= kinds


@pytest.mark.parametrize(
    "wrong",
    [
        {"least_depth": 0}, {"least_depth": 5}, {"strides": (1,)}, {"kernels": (4,)}, {"expansions": ()},
        {"activation": "tanh"}, {"input_shape": (1, 8)}, {"depth": (1, 2, 3)}, {"widths": ()}, {"expansions": (3, 3)},
    ],
)  # fmt: skip
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(ConfigurationError, match="mobilenet"):
        load_space("mobilenet", **{"input_shape": (1, 8, 8), "widths": (4, 6), "depth": 2, **wrong})


def test_wrong_blocks_are_refused():
    space = small()
    for blocks in ([["e2k3"]], [["e2k3"] * 3, ["e2k3"]], [["e9k3"], ["e2k3"]], [[], ["e2k3"]]):
        with pytest.raises(ConfigurationError, match="stage"):
            space.from_blocks(blocks)
