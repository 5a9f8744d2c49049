"""Float graphs as .pt2 files (torch.export): what the torch engine of a CPU target runs and times."""

from __future__ import annotations

import io

import torch
from torch import Tensor, nn

from toolchain.errors import UnsupportedError
from toolchain.graph import Graph
from toolchain.quantize.torch_graph import run_torch


class _GraphModule(nn.Module):
    """A float graph as a module with its constants as buffers. Input and output NCHW, as torch's users have them."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.names = {name: f"constant{i}" for i, name in enumerate(graph.constants)}
        for name, buffer in self.names.items():
            self.register_buffer(buffer, torch.tensor(graph.constants[name]))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            x = x.permute(0, 2, 3, 1)
        constants = {name: self.get_buffer(buffer) for name, buffer in self.names.items()}
        y = run_torch(self.graph, x, constants)[self.graph.outputs[0]]
        return y.permute(0, 3, 1, 2) if y.ndim == 4 else y


def write_pt2(graph: Graph) -> bytes:
    """A float graph with one input and one output as a .pt2 file; batch 1, NCHW.

    Raises:
        UnsupportedError: an int8 graph, or several inputs or outputs.
    """
    if graph.dtype != "float32" or len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise UnsupportedError(
            "the torch engine takes float32 graphs with one input and one output",
            remedy='set precision = "float32", or use cpu:litert',
        )
    shape = graph.tensors[graph.inputs[0]].shape
    sample = torch.zeros((1, shape[3], shape[1], shape[2]) if len(shape) == 4 else shape)
    with torch.no_grad():
        program = torch.export.export(_GraphModule(graph).eval(), (sample,))
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()
