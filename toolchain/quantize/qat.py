"""Quantisation-aware training on the graph: fake quantisation at just those places where the int8 graph rounds.

Activation scales are learnt as in "Learned step size quantization" (Esser et al., ICLR 2020): straight-through
gradients, and for the scale the gradient of the rounding itself. Weights use the largest magnitude of their channel.
What is learnt goes into the int8 graph unchanged: scales, zero points and weights. Only the rounding of biases and of
requantisation differs between the two, so judge the final accuracy with the int8 reference, which is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolchain.errors import ConfigurationError, DataError
from toolchain.graph import Graph, Node, Quantization
from toolchain.graph.graph import Array
from toolchain.graph.operator import WEIGHTED
from toolchain.quantize.ptq import (
    Method,
    activation_ranges,
    channel_axes,
    checked_input,
    choose_quantization,
    has_fixed_scale,
    quantize_with_ranges,
    separate_fixed_scales,
    tied_groups,
)
from toolchain.quantize.torch_graph import run_torch

Loss = Callable[[Tensor, Tensor], Tensor]


class FakeQuantizedGraph(nn.Module):
    """A float graph that rounds as its int8 form does, with trainable weights, biases and scales.

    Args:
        graph: float graph as `separate_fixed_scales` returns it.
        qparams: where scales start, and the zero points, which stay; as from `choose_quantization`.
    """

    def __init__(self, graph: Graph, qparams: Mapping[str, Quantization]) -> None:
        super().__init__()
        self.graph = graph
        self._group = tied_groups(graph)
        self._zero_points = {name: q.zero_point[0] for name, q in qparams.items()}
        trained = {n for node in graph.nodes if node.operator.kind in WEIGHTED for n in node.inputs[-2:]}
        fixed = {self._group[node.output] for node in graph.nodes if has_fixed_scale(node)}
        # Scales of groups that hold an activation are learnt; those of constant operands follow from the data.
        learnt = {self._group[name] for name in graph.activations} - fixed
        # Tensor names may hold dots, which parameters' names may not: keep them in lists beside the names.
        self._constant_names = tuple(graph.constants)
        self._constant_values = nn.ParameterList(
            nn.Parameter(torch.from_numpy(data.copy()), requires_grad=name in trained)
            for name, data in graph.constants.items()
        )
        self._roots = tuple(dict.fromkeys(self._group.values()))
        # The logarithm makes steps relative to the scale's size, and keeps scales positive.
        self._log_scales = nn.ParameterList(
            nn.Parameter(torch.tensor(qparams[root].scale[0]).log(), requires_grad=root in learnt)
            for root in self._roots
        )
        # exp(log(s)) need not give s back: what is prescribed or given is used as it is.
        self._given = {root: qparams[root].scale[0] for root in self._roots if root not in learnt}

    def weights(self) -> list[nn.Parameter]:
        """Trainable weights and biases."""
        return [p for p in self._constant_values if p.requires_grad]

    def scales(self) -> list[nn.Parameter]:
        """Trainable logarithms of activation scales, one per group of tied tensors."""
        return [p for p in self._log_scales if p.requires_grad]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Every activation, rounded as in int8, in real units: name -> N x the rest of its shape (NHWC)."""
        scales = self._scales()

        pooled = {n.output for n in self.graph.nodes if n.operator.kind == "average_pool"}

        def rounded(name: str, value: Tensor) -> Tensor:
            round_ = _round_half_away if name in pooled else _round_half_even
            return _fake_quantize(value, scales[self._group[name]], self._zero_points[name], round_)

        constants = dict(zip(self._constant_names, self._constant_values, strict=True))
        operands = {name: rounded(name, constants[name]) for name in self._group if name in constants}
        # The other kinds that tie copy integers: rounding once more would change nothing.
        copied = {
            node.output
            for node in self.graph.nodes
            if node.operator.kind in ("max_pool", "pad", "reshape", "concatenation")
        }
        return run_torch(
            self.graph,
            x,
            {**constants, **operands},
            on_activation=lambda name, value: value if name in copied else rounded(name, value),
            on_weights=_round_weights,
        )

    def quantization(self) -> dict[str, Quantization]:
        """Scales as learnt so far, and zero points, for `quantize_with_ranges`."""
        scales = {root: float(scale.detach()) for root, scale in self._scales().items()}
        return {
            name: Quantization((scales[root],), (self._zero_points[name],))
            for name, root in self._group.items()
        }

    def float_graph(self) -> Graph:
        """The graph with weights and biases as trained so far."""
        values = (p.detach().numpy().copy() for p in self._constant_values)
        return replace(self.graph, constants=dict(zip(self._constant_names, values, strict=True)))

    def int8_graph(self) -> Graph:
        """The int8 graph of what was trained so far."""
        return quantize_with_ranges(self.float_graph(), self.quantization())

    def _scales(self) -> dict[str, Tensor]:
        return {
            root: torch.tensor(self._given[root]) if root in self._given else log_scale.exp()
            for root, log_scale in zip(self._roots, self._log_scales, strict=True)
        }


def train_quantized(
    graph: Graph,
    x: Array,
    y: Array,
    *,
    epochs: int = 3,
    learning_rate: float = 2e-4,
    scale_learning_rate: float = 1e-3,
    batch_size: int = 32,
    seed: int = 0,
    method: Method = "minmax",
    loss: Loss = F.cross_entropy,
    progress: Callable[[int, int], None] | None = None,
) -> Graph:
    """Train a float graph with fake quantisation and return its int8 form.

    A float graph that was trained is the place to start. A softmax at the end is left out of the training: the loss
    sees its input (logits), as torch's cross-entropy wants.

    Args:
        graph: float32 graph with one input.
        x: training inputs, float NHWC with a batch in front.
        y: targets, one per input: class numbers for the default loss.
        epochs: passes over the data.
        learning_rate: Adam's for weights and biases; falls to 0 along a half cosine.
        scale_learning_rate: Adam's for the logarithms of the scales: about the relative change per step.
        batch_size: samples per step.
        seed: of the order of samples. The same seed, data and number of threads give the same graph.
        method: how the first scales are found from up to 512 of the inputs; see `quantize`.
        loss: (outputs N x K, targets) -> scalar.
        progress: called with (steps done, steps in all) after each step.

    Raises:
        DataError: empty or non-finite data, wrong shapes.
        ConfigurationError: the training diverged, or a setting makes no sense.
        UnsupportedError: the graph is int8 or has several inputs.
    """
    if epochs < 1 or batch_size < 1 or not (learning_rate >= 0 and scale_learning_rate >= 0):
        raise ConfigurationError(
            f"epochs {epochs} and batch size {batch_size} must be positive, learning rates "
            f"{learning_rate} and {scale_learning_rate} not negative"
        )
    prepared = separate_fixed_scales(graph)
    inputs = torch.from_numpy(checked_input(prepared, x))
    targets = torch.from_numpy(np.array(y))
    if len(targets) != len(inputs):
        raise DataError(f"{len(inputs)} inputs but {len(targets)} targets")
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(inputs), generator=generator)[:512]
    ranges = activation_ranges(prepared, inputs[some].numpy(), method)
    model = FakeQuantizedGraph(prepared, choose_quantization(prepared, ranges))
    logits = _logits(prepared)
    groups = [
        {"params": model.weights(), "lr": learning_rate},
        {"params": model.scales(), "lr": scale_learning_rate},
    ]
    optimizer = torch.optim.Adam(groups)
    steps, done = epochs * -(-len(inputs) // batch_size), 0
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        order = torch.randperm(len(inputs), generator=generator)
        for batch in torch.split(order, batch_size):
            error = loss(model(inputs[batch])[logits].flatten(1), targets[batch])
            if not bool(torch.isfinite(error)):
                raise ConfigurationError(
                    f"training diverged in step {done}: loss {float(error.detach())}",
                    remedy="lower learning_rate",
                )
            optimizer.zero_grad()
            error.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            done += 1
            if progress is not None:
                progress(done, steps)
    return model.int8_graph()


def _logits(graph: Graph) -> str:
    """The tensor that the loss sees."""
    output = graph.outputs[0]
    last = next((node for node in graph.nodes if node.output == output), None)
    return last.inputs[0] if last is not None and last.operator.kind == "softmax" else output


Rounding = Callable[[Tensor, int], Tensor]


def _round_half_even(scaled: Tensor, zero_point: int) -> Tensor:
    return scaled.round()


def _round_half_away(scaled: Tensor, zero_point: int) -> Tensor:
    """As average pools round the mean of their integers: ties are common there, and elsewhere rare."""
    integers = scaled + zero_point
    # The mean comes from real values, so that a tie may miss .5 by an error of float32.
    return integers.sign() * (integers.abs() + 0.5 + 1e-4).floor() - zero_point


def _fake_quantize(x: Tensor, scale: Tensor, zero_point: int, round_: Rounding = _round_half_even) -> Tensor:
    """Round to the int8 grid and saturate, in real units.

    Written so that autograd yields the gradients of the paper (its equations 3 and 5): for `x` 1 inside the range and
    0 outside; for the scale round(x / s) - x / s inside and the bound outside.
    """
    scaled = (x / scale).clamp(-128 - zero_point, 127 - zero_point)
    return (scaled + (round_(scaled, zero_point) - scaled).detach()) * scale


def _round_weights(node: Node, weights: Tensor) -> Tensor:
    """Weights on their int8 grid, with straight-through gradients."""
    axes, _ = channel_axes(node.operator)
    with torch.no_grad():
        largest = weights.abs().amax() if axes is None else weights.abs().amax(axes, keepdim=True)
        scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
        rounding = (weights / scale).round() * scale - weights
    return weights + rounding
