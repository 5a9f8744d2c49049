"""Any float graph, with weights of any size, quantises to what LiteRT runs and TFLite Micro runs bit for bit."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interpreters import run_litert, run_tflm
from tests.quantize.graphs import integer_input
from tests.random_graphs import float_graphs, random_inputs
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph import Graph
from toolchain.graph.integer_reference import run_int8
from toolchain.quantize.ptq import quantize


def resized(graph: Graph, seed: int) -> Graph:
    """Every constant times a power of ten from -5 to 4, a fifth of the values zero."""
    rng = np.random.default_rng(seed)
    constants = {
        name: (values * 10.0 ** rng.uniform(-5, 4) * (rng.random(values.shape) > 0.2)).astype(np.float32)
        for name, values in graph.constants.items()
    }
    return replace(graph, constants=constants)


@settings(max_examples=60, deadline=None)
@given(float_graphs(), st.integers(0, 1000), st.booleans())
def test_every_quantised_graph_runs_and_is_bit_exact(graph: Graph, seed: int, extreme: bool) -> None:
    graph = resized(graph, seed) if extreme else graph
    (x,) = random_inputs(graph, 4, seed)
    int8 = quantize(graph, x)
    integers, data = integer_input(int8, x), write_tflite(int8)
    expected = run_int8(int8, integers)
    assert np.array_equal(run_tflm(data, integers).reshape(expected.shape), expected)
    assert run_litert(data, integers).size == expected.size
