"""Bytes of flash and RAM that a search counts arc by arc: those of the whole network, kernels in place included."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from profilers.cost import CostTable
from profilers.footprint import FLASH, RAM, footprint_of
from targets.session import ModelFormat
from toolchain.graph.lower import lower
from toolchain.quantize import quantize
from toolchain.spaces import Space
from toolchain.spaces.connas1d import ConNAS1d
from toolchain.spaces.image2d import Image2d
from toolchain.spaces.mobilenet import Mobilenet

SPACES: tuple[Space, ...] = (
    Mobilenet(input_shape=(3, 32, 32), widths=(16, 24, 40), strides=(2, 2, 2), depth=2, stem_channels=8),
    ConNAS1d(),
    Image2d(),
)


@pytest.mark.parametrize("form", ["native-dsp", "native-plain"])
@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_arcs_count_what_the_network_takes(space: Space, form: ModelFormat) -> None:
    chain, rng = space.chain("int8"), np.random.default_rng(0)
    footprint = footprint_of(form, chain.operators, None)
    table = CostTable.of(
        chain,
        {FLASH: footprint.flash, RAM: footprint.ram},
        candidates=[len(choice.candidates) for choice in space.choices],
    )
    for _ in range(4):
        architecture = space.sample(rng)
        graph = lower(space.module(architecture).eval(), space.input_shape)
        shape = (2, *graph.tensors[graph.inputs[0]].shape[1:])
        exact = footprint.of_graph(quantize(graph, rng.normal(size=shape).astype(np.float32)))
        assert {name: exact[name] for name in (FLASH, RAM)} == dict(
            zip((FLASH, RAM), table.price([architecture])[0], strict=True)
        )
