"""Runs a float graph with torch, differentiably, so that its constants can be trained.

4-D activations are held N x C x H x W inside, because torch's convolutions want them so; shapes at the outside, and the
order of elements in reshapes and fully connected layers, are those of the graph (NHWC).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from toolchain.errors import GraphError
from toolchain.graph import Graph, Node, Operator, window_pads
from toolchain.graph.operator import WEIGHTED

# NHWC dimension -> dimension of the tensor held inside.
_INSIDE: Final = {0: 0, 1: 2, 2: 3, 3: 1}


def run_torch(
    graph: Graph,
    x: Tensor,
    constants: Mapping[str, Tensor],
    *,
    on_activation: Callable[[str, Tensor], Tensor] = lambda name, value: value,
    on_weights: Callable[[Node, Tensor], Tensor] = lambda node, weights: weights,
) -> dict[str, Tensor]:
    """Every activation of a float graph: name -> N x the rest of its shape, NHWC.

    Args:
        graph: float graph with one input.
        x: the input, NHWC with a batch in front.
        constants: name -> value for each constant of the graph, in the graph's layouts.
        on_activation: applied to the input and to each node's output (in the layout held inside); what it
            returns goes on.
        on_weights: applied to the weights of each weighted node, in the graph's layout.

    Raises:
        GraphError: an int8 graph, or an input of another shape.
    """
    name = graph.inputs[0]
    if graph.dtype != "float32" or len(graph.inputs) != 1:
        raise GraphError("run_torch needs a float graph with one input")
    if tuple(x.shape[1:]) != graph.tensors[name].shape[1:]:
        raise GraphError(f"input is {tuple(x.shape)}, the graph needs {graph.tensors[name].shape}")
    values = {name: on_activation(name, _inside(x))}
    for node in graph.nodes:
        op = node.operator
        data = [values[n] if n in values else _inside(constants[n]) for n in node.inputs[: len(op.inputs)]]
        if op.kind in WEIGHTED:
            weights, bias = on_weights(node, constants[node.inputs[-2]]), constants[node.inputs[-1]]
            y = _weighted(op, data[0], weights, bias)
        else:
            y = _other(op, data)
        values[node.output] = on_activation(node.output, _activate(y, op))
    return {name: _outside(value) for name, value in values.items()}


def _inside(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


def _outside(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def _activate(y: Tensor, op: Operator) -> Tensor:
    if op.activation == "relu":
        return F.relu(y)
    if op.activation == "relu6":
        return F.relu6(y)
    return F.hardsigmoid(y) if op.activation == "hard_sigmoid" else y


def _padded(op: Operator, x: Tensor, fill: float = 0.0) -> Tensor:
    vertical, horizontal = window_pads(op)
    if not any((*vertical, *horizontal)):
        return x
    return F.pad(x, (*horizontal, *vertical), value=fill)


def _weighted(op: Operator, x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    if op.kind == "fully_connected":
        return F.linear(_outside(x).flatten(1), weights, bias)
    if op.kind == "conv2d":
        return F.conv2d(_padded(op, x), weights.permute(0, 3, 1, 2), bias, op.stride)
    # 1HWC -> C1HW
    return F.conv2d(_padded(op, x), weights.permute(3, 0, 1, 2), bias, op.stride, groups=int(x.shape[1]))


def _other(op: Operator, data: list[Tensor]) -> Tensor:
    x = data[0]
    if op.kind == "add":
        return x + data[1]
    if op.kind == "mul":
        return x * data[1]
    if op.kind == "max_pool":
        return F.max_pool2d(_padded(op, x, -torch.inf), op.kernel, op.stride)
    if op.kind == "average_pool":
        mean = F.avg_pool2d(_padded(op, x), op.kernel, op.stride)
        if op.padding == "valid":
            return mean
        inside = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
        return mean / F.avg_pool2d(_padded(op, inside), op.kernel, op.stride)  # the padding is not counted
    if op.kind == "pad":
        # F.pad counts dimensions from the last.
        return _inside(F.pad(_outside(x), [p for pair in reversed(op.pads) for p in pair]))
    if op.kind == "reshape":
        return _inside(_outside(x).reshape(x.shape[0], *op.output[1:]))
    if op.kind == "softmax":
        return F.softmax(x, dim=1 if x.ndim == 4 else -1)
    if op.kind == "hard_swish":
        return F.hardswish(x)
    batch = max(part.shape[0] for part in data)  # constants have a batch of 1
    parts = [part.expand(batch, *part.shape[1:]) for part in data]
    return torch.cat(parts, dim=_INSIDE[op.axis] if x.ndim == 4 else op.axis)
