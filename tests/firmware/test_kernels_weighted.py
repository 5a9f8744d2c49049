"""conv2d, depthwise_conv2d and fully_connected in C: bit-identical to the integer reference, inside their buffers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.firmware.weighted import Host, layer_of
from tests.random_graphs import int8_operators, random_inputs
from toolchain.export.native.layout import Isa
from toolchain.export.native.weights import weighted_footprint
from toolchain.graph.integer_reference import run_int8
from toolchain.graph.operator import WEIGHTED

ISAS: tuple[Isa, ...] = get_args(Isa)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    built = Host(tmp_path_factory.mktemp("kernels"))
    yield built
    built.close()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", WEIGHTED)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_operators(host: Host, kind, isa: Isa, data) -> None:
    graph = data.draw(int8_operators(kind, extreme=data.draw(st.booleans())))
    layer = layer_of(graph)
    laid, footprint = layer.laid_out(isa), weighted_footprint(layer.op, isa)
    assert (len(laid.weights), len(laid.channels)) == (footprint.weight_bytes, footprint.channel_bytes)
    for x in random_inputs(graph, 2, data.draw(st.integers(0, 999)))[0]:
        got = host.run(layer, isa, x, data.draw(st.booleans()))
        np.testing.assert_array_equal(got, run_int8(graph, x[None]))
