"""From an architecture to graphs: with random weights where only the structure counts, with trained ones for real."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from toolchain.graph import Graph
from toolchain.graph.lower import lower
from toolchain.graph.operator import DType
from toolchain.quantize import quantize
from toolchain.spaces import Architecture
from toolchain.workflow.project import Project


def structural_graph(project: Project, architecture: Architecture, precision: DType) -> Graph:
    """The network's graph at a precision, with weights that do not matter.

    Costs (bytes of the file, arena, operators, latency) depend on the structure alone, so a few random samples
    are enough to calibrate it, and every call gives the same graph.
    """
    graph = _random_graph(project, architecture)
    if precision == "float32":
        return graph
    return quantize(graph, _samples(graph))


def structural_onnx(project: Project, architecture: Architecture) -> bytes:
    """The same network as an int8 ONNX file, which no int8 graph can be written as (docs/architecture.md)."""
    from toolchain.export.onnx_writer import graph_to_onnx, quantize_onnx

    graph = _random_graph(project, architecture)
    samples = _samples(graph)
    channels_first = np.moveaxis(samples, 3, 1) if samples.ndim == 4 else samples
    return quantize_onnx(graph_to_onnx(graph), channels_first)


def _random_graph(project: Project, architecture: Architecture) -> Graph:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = project.space.module(architecture).eval()
    return lower(module, project.space.input_shape)


def _samples(graph: Graph) -> NDArray[np.float32]:
    shape = graph.tensors[graph.inputs[0]].shape
    return np.random.default_rng(0).normal(size=(2, *shape[1:])).astype(np.float32)
