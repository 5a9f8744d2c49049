"""From an architecture to graphs: with random weights where only the structure counts, with trained ones for real."""

from __future__ import annotations

import numpy as np
import torch

from toolchain.graph import Graph
from toolchain.graph.lower import lower
from toolchain.quantize import quantize
from toolchain.spaces import Architecture
from toolchain.workflow.project import Project


def structural_graph(project: Project, architecture: Architecture) -> Graph:
    """The network's graph at the target's precision, with weights that do not matter.

    Costs (bytes of the file, arena, operators, latency) depend on the structure alone, so a few random samples
    are enough to calibrate it, and every call gives the same graph.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = project.space.module(architecture).eval()
    graph = lower(module, project.space.input_shape)
    if project.config.target.precision == "float32":
        return graph
    shape = graph.tensors[graph.inputs[0]].shape
    samples = np.random.default_rng(0).normal(size=(2, *shape[1:])).astype(np.float32)
    return quantize(graph, samples)
