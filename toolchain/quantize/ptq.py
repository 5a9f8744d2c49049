"""Post-training quantisation: a float32 graph and calibration data in, an int8 graph out. Numpy only.

The scheme is TFLite's int8 specification: activations asymmetric per tensor, weights symmetric in -127..127 (per
channel for convolutions, per tensor for fully connected layers), int32 biases at input scale times weight scale.
Which operators the int8 graph has depends on the float graph alone, never on the calibration data, so the costs of
an architecture are known before it is trained.

Three steps, each usable alone: `separate_fixed_scales` (float graph -> float graph that can be quantised),
`activation_ranges` and `choose_quantization` (data -> scales), `quantize_with_ranges` (scales -> int8 graph). Training
with fake quantisation replaces the second step and hands its learnt scales to the third unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import DataError, GraphError, UnsupportedError
from toolchain.graph import Graph, Node, Operator, Quantization, Tensor, quantize_array
from toolchain.graph.float_reference import run_float_all
from toolchain.graph.operator import WEIGHTED

Array = NDArray[Any]
Range = tuple[float, float]
Method = Literal["minmax", "percentile", "mse"]

# What TFLite demands of a softmax's output, and what makes int8 saturation the clamp of a folded hard-sigmoid.
UNIT_INTERVAL: Final = Quantization.per_tensor(1 / 256, -128)

# Kernels of these kinds copy or compare integers and never rescale: inputs and output share one scale.
TYING: Final = ("average_pool", "max_pool", "pad", "reshape", "concatenation")

# Histograms for "percentile" and "mse": the resolution is 1/32768 of the observed range.
_BINS: Final = 32768
# "mse" tries each end of the observed range shrunk by these factors, down to about 1/60.
_SHRINK: Final = 0.9 ** np.arange(40)
# Calibration runs in chunks that keep about this many activation values alive.
_CHUNK_VALUES: Final = 32_000_000
# Accumulators start at the bias: keep it a bit below the int32 limit, so that the products have room.
_BIAS_LIMIT: Final = 2**30
# Smallest ratio of an output's scale to the step of what flows in. Finer would say nothing more, and kernels refuse it:
# XNNPACK from 2**-8 on, a hard-swish from 2**-7, an ADD of TFLite Micro from 2**-19.
_LEAST_RATIO: Final = 2.0**-7
_LEAST_HARD_SWISH_RATIO: Final = 2.0**-6
# Limits of TFLite Micro's softmax (2**-26) and of the bound 6 in int32, with a bit to spare.
_LEAST_SOFTMAX_INPUT: Final = 2.0**-25
_LEAST_RELU6: Final = 2.0**-28
# Weight scales and their products with the input scale stay normal float32 values.
_TINY: Final = 1e-30


def quantize(
    graph: Graph, calibration: Array, method: Method = "minmax", *, percentile: float = 99.99
) -> Graph:
    """Quantise a float graph after training.

    Args:
        graph: float32 graph with one input.
        calibration: typical inputs, float NHWC with a batch in front (or batch x features); 100 to 500 samples do.
        method: how a tensor's range follows from what was observed: all of it ("minmax"), without the rarest
            values ("percentile"), or the range with the least squared error of rounding and clipping ("mse").
        percentile: share of the values, in percent, that stays inside each end; for method "percentile".

    Returns:
        The int8 graph. Tensors keep their names. Input and output are int8: convert with `quantize_array` and
        `dequantize_array` and the tensors' `quantization`.

    Raises:
        DataError: calibration data are empty, of a wrong shape, or not finite.
        UnsupportedError: the graph has several inputs or is not float32.
    """
    prepared = separate_fixed_scales(graph)
    ranges = activation_ranges(prepared, calibration, method, percentile=percentile)
    return quantize_with_ranges(prepared, choose_quantization(prepared, ranges))


def separate_fixed_scales(graph: Graph) -> Graph:
    """The same float function with room for every scale that the int8 form prescribes.

    A softmax or a hard-sigmoid prescribes the scale of its output, and a concatenation wants one scale for all
    its inputs. Where the two meet, an identity (a 1x1 depthwise convolution by 1; below four dimensions a
    multiplication by 1) goes between; its int8 form changes the scale. Other graphs come back as they are.

    Raises:
        UnsupportedError: the graph is not float32.
    """
    if graph.dtype != "float32":
        raise UnsupportedError("the graph is int8 already", remedy="quantise the float graph")
    group = tied_groups(graph)
    tied = {node.output for node in graph.nodes if node.operator.kind in TYING}
    fixed = {node.output for node in graph.nodes if has_fixed_scale(node)}
    free_groups = {root for name, root in group.items() if name not in tied and name not in fixed}
    crowded = {name for name in fixed if group[name] in free_groups}
    if not crowded:
        return graph
    nodes: list[Node] = []
    tensors, constants = dict(graph.tensors), dict(graph.constants)
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        if node.operator.kind in TYING:
            node = replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        nodes.append(node)
        if node.output in crowded:
            identity, data = _identity(node.output, tensors)
            nodes.append(identity)
            renamed[node.output] = identity.output
            tensors[identity.output] = Tensor(identity.output, identity.operator.output, "float32")
            for name, values in data.items():
                tensors[name] = Tensor(name, values.shape, "float32")
                constants[name] = values
    return Graph(tuple(nodes), tensors, constants, graph.inputs, graph.outputs)


def activation_ranges(
    graph: Graph, calibration: Array, method: Method = "minmax", *, percentile: float = 99.99
) -> dict[str, Range]:
    """(low, high) of every activation of a float graph, by name, in real units.

    Args: as for `quantize`.

    Raises:
        DataError: calibration data are empty, of a wrong shape, or not finite; or a tensor overflows on them.
        UnsupportedError: the graph has several inputs.
    """
    if method not in get_args(Method):
        raise UnsupportedError(
            f"unknown calibration method {method!r}", remedy=f"one of {', '.join(get_args(Method))}"
        )
    data = checked_input(graph, calibration)
    ranges: dict[str, Range] = {}
    for name, values in _observe(graph, data):
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(f"activation {name!r} overflows on the calibration data")
        before = ranges.get(name, (low, high))
        ranges[name] = (min(low, before[0]), max(high, before[1]))
    if method == "minmax":
        return ranges
    counts = {name: np.zeros(_BINS, np.int64) for name in ranges}
    for name, values in _observe(graph, data):
        low, high = ranges[name]
        if high > low:
            counts[name] += np.histogram(values, bins=_BINS, range=(low, high))[0]
    narrow: Callable[[Range, Array], Range] = (
        _least_squares if method == "mse" else lambda r, c: _percentile(r, c, percentile)
    )
    return {name: narrow(r, counts[name]) if r[1] > r[0] else r for name, r in ranges.items()}


def choose_quantization(graph: Graph, ranges: Mapping[str, Range]) -> dict[str, Quantization]:
    """Scales and zero points of all activations and constant operands, ties and prescribed scales kept.

    Args:
        graph: float graph as `separate_fixed_scales` returns it.
        ranges: (low, high) of every activation, as from `activation_ranges`. Ranges are widened to hold 0,
            tied tensors get the union of theirs.

    Raises:
        GraphError: a range is missing.
    """
    group = tied_groups(graph)
    bounds: dict[str, Range] = {}
    for name, root in group.items():
        if name in graph.constants:
            low, high = float(graph.constants[name].min()), float(graph.constants[name].max())
        elif name in ranges:
            low, high = ranges[name]
        else:
            raise GraphError(f"no range for activation {name!r}")
        before = bounds.get(root, (0.0, 0.0))
        bounds[root] = (min(low, before[0]), max(high, before[1]))
    prescribed = {group[node.output] for node in graph.nodes if has_fixed_scale(node)}
    scales = dict.fromkeys(prescribed, UNIT_INTERVAL.scale[0])
    for root, (low, high) in bounds.items():
        if root not in prescribed:
            scale = float(np.float32((high - low) / 255))
            scales[root] = scale if scale > _TINY else float(np.float32(1 / 255))
    _keep_kernels_content(graph, group, scales, prescribed)
    return {
        name: UNIT_INTERVAL
        if root in prescribed
        else Quantization.per_tensor(scales[root], _zero_point(bounds[root][0], scales[root]))
        for name, root in group.items()
    }


def quantize_with_ranges(graph: Graph, qparams: Mapping[str, Quantization]) -> Graph:
    """The int8 graph of a float graph with given scales, which go in unchanged.

    Weights, biases and constant operands are quantised here; hard-sigmoids are folded into the weights before
    them (weights / 6, bias (b + 3) / 6, no activation).

    Args:
        graph: float graph as `separate_fixed_scales` returns it.
        qparams: quantisation of every activation and constant operand, as from `choose_quantization`.

    Raises:
        GraphError: a scale is missing, tied tensors differ, or a prescribed scale is not kept.
        UnsupportedError: the graph is not float32, or weights are not constants.
    """
    if graph.dtype != "float32":
        raise UnsupportedError("the graph is int8 already", remedy="quantise the float graph")
    _check_scales(graph, qparams)
    tensors: dict[str, Tensor] = {}
    constants: dict[str, Array] = {}
    nodes: list[Node] = []
    names: dict[tuple[str, ...], str] = {}
    group = tied_groups(graph)

    def constant(name: str, use: tuple[str, ...], values: Array, quantization: Quantization) -> str:
        """Add a constant. One that is used in several ways gets a name for each: with which, the structure says."""
        if (name, *use) not in names:
            copies = sum(key[0] == name for key in names)
            fresh = _fresh(f"{name}_{copies + 1}", graph.tensors) if copies else name
            names[name, *use] = fresh
            tensors[fresh] = Tensor(fresh, values.shape, str(values.dtype), quantization)
            constants[fresh] = values
        return names[name, *use]

    def activation(name: str) -> None:
        tensors[name] = Tensor(name, graph.tensors[name].shape, "int8", qparams[name])

    for name in graph.inputs:
        activation(name)
    for node in graph.nodes:
        inputs = []
        for name in node.inputs[: len(node.operator.inputs)]:
            if name in graph.constants:
                integers = quantize_array(graph.constants[name], qparams[name])
                name = constant(name, ("operand",), integers, qparams[name])
            inputs.append(name)
        if node.operator.kind in WEIGHTED:
            weights, bias = quantize_weights(
                node.operator, *_weights_and_bias(graph, node), qparams[node.inputs[0]].scale[0]
            )
            # The bias' scale, and in rare cases that of the weights, depend on the input's.
            use = (node.operator.kind, node.operator.activation, group[node.inputs[0]])
            inputs.append(constant(node.inputs[-2], use, *weights))
            inputs.append(constant(node.inputs[-1], (*use, node.inputs[-2]), *bias))
        activation(node.output)
        operator = replace(
            node.operator,
            dtype="int8",
            activation="none" if node.operator.activation == "hard_sigmoid" else node.operator.activation,
        )
        nodes.append(replace(node, operator=operator, inputs=tuple(inputs)))
    return Graph(tuple(nodes), tensors, constants, graph.inputs, graph.outputs)


def quantize_weights(
    operator: Operator, weights: Array, bias: Array, input_scale: float
) -> tuple[tuple[Array, Quantization], tuple[Array, Quantization]]:
    """((int8 weights, their quantisation), (int32 bias, its quantisation)) of a weighted operator.

    Args:
        operator: the float operator; its kind tells the axis of the channels.
        weights, bias: float, in TFLite's layout, a hard-sigmoid already folded in.
        input_scale: scale of the operator's input.
    """
    axes, axis = channel_axes(operator)
    magnitude = np.abs(weights).astype(np.float64)
    largest = magnitude.max(axis=axes) if axes is not None else magnitude.max(keepdims=True).reshape(1)
    scale = weight_scale(largest, np.abs(bias).astype(np.float64), input_scale)
    shape = [1] * weights.ndim
    shape[axis] = scale.size
    integers = np.clip(np.round(weights / scale.astype(np.float64).reshape(shape)), -127, 127)
    zeros = (0,) * scale.size
    weight_quantization = Quantization(tuple(map(float, scale)), zeros, axis)
    bias_scale = np.float32(input_scale) * scale
    bias_integers = np.clip(np.round(bias / bias_scale.astype(np.float64)), -(2**31), 2**31 - 1)
    bias_quantization = Quantization(tuple(map(float, bias_scale)), zeros, 0)
    return (
        (integers.astype(np.int8), weight_quantization),
        (bias_integers.astype(np.int32), bias_quantization),
    )


def channel_axes(operator: Operator) -> tuple[tuple[int, ...] | None, int]:
    """(axes over which one weight scale reaches, axis of the channels); axes None means the whole tensor."""
    if operator.kind == "fully_connected":
        return None, 0
    return ((0, 1, 2), 3) if operator.kind == "depthwise_conv2d" else ((1, 2, 3), 0)


def weight_scale(
    largest: NDArray[np.float64], bias: NDArray[np.float64], input_scale: float
) -> NDArray[np.float32]:
    """Float32 weight scales from the largest magnitudes of the weights (one, or one per channel).

    The scale grows beyond largest / 127 where the bias would not fit an int32 otherwise: a channel with
    (nearly) dead weights still has a bias.
    """
    room = bias if largest.size == bias.size else bias.max(keepdims=True)
    scale = np.maximum(largest / 127, room / (input_scale * _BIAS_LIMIT))
    least = max(_TINY, _TINY / input_scale)
    return np.maximum(scale, least).astype(np.float32)


def folded(operator: Operator, weights: Array, bias: Array) -> tuple[Array, Array]:
    """Weights and bias with a hard-sigmoid's (x + 3) / 6 folded in; other activations leave them alone."""
    if operator.activation != "hard_sigmoid":
        return weights, bias
    return weights / weights.dtype.type(6), (bias + bias.dtype.type(3)) / bias.dtype.type(6)


def tied_groups(graph: Graph) -> dict[str, str]:
    """Activation or constant operand -> representative of the tensors that share its scale."""
    parent = {name: name for name in graph.activations}
    for node in graph.nodes:
        for name in node.inputs[: len(node.operator.inputs)]:
            parent.setdefault(name, name)

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for node in graph.nodes:
        if node.operator.kind in TYING:
            for name in node.inputs:
                parent[root(node.output)] = root(name)
    return {name: root(name) for name in parent}


def has_fixed_scale(node: Node) -> bool:
    """Whether the int8 form of a node prescribes its output's quantisation: `UNIT_INTERVAL`."""
    return node.operator.kind == "softmax" or node.operator.activation == "hard_sigmoid"


def _identity(name: str, tensors: Mapping[str, Tensor]) -> tuple[Node, dict[str, Array]]:
    shape = tensors[name].shape
    output, one, zero = (_fresh(f"{name}_{what}", tensors) for what in ("rescaled", "one", "zero"))
    if len(shape) == 4:
        operator = Operator("depthwise_conv2d", (shape,), shape)
        data = {one: np.ones((1, 1, 1, shape[3]), np.float32), zero: np.zeros(shape[3], np.float32)}
    else:
        operator = Operator("mul", (shape, shape), shape)
        data = {one: np.ones(shape, np.float32)}
    return Node(operator, (name, *data), output, f"rescaling of {name}"), data


def _fresh(name: str, taken: Mapping[str, Tensor]) -> str:
    while name in taken:
        name += "_"
    return name


def checked_input(graph: Graph, calibration: Array) -> NDArray[np.float32]:
    """The data as float32, checked against the graph's input and for NaN; errors as for `activation_ranges`."""
    if len(graph.inputs) != 1:
        raise UnsupportedError(f"quantisation needs a graph with one input, this one has {len(graph.inputs)}")
    shape = graph.tensors[graph.inputs[0]].shape[1:]
    data = np.asarray(calibration)
    if data.ndim == 0 or data.shape[1:] != shape:
        raise DataError(f"input data are {data.shape}, the network takes (samples, {shape})")
    if len(data) == 0:
        raise DataError("input data are empty", remedy="give 100 to 500 typical samples")
    if data.dtype.kind not in "fiub":
        raise DataError(f"input data are of type {data.dtype}, not numbers")
    data = data.astype(np.float32)
    if not np.isfinite(data).all():
        bad = int(np.flatnonzero(~np.isfinite(data).reshape(len(data), -1).all(axis=1))[0])
        raise DataError(f"input data hold NaN or infinity, first in sample {bad}")
    return data


def _observe(graph: Graph, data: NDArray[np.float32]) -> Iterator[tuple[str, Array]]:
    """(name, values) of every activation, for chunk after chunk of the data."""
    values = sum(int(np.prod(graph.tensors[name].shape)) for name in graph.activations)
    chunk = max(1, _CHUNK_VALUES // values)
    for start in range(0, len(data), chunk):
        with np.errstate(over="ignore", invalid="ignore"):  # reported with the tensor's name instead
            results = run_float_all(graph, data[start : start + chunk])
        for name in graph.activations:
            yield name, results[name]


def _percentile(bounds: Range, counts: Array, percentile: float) -> Range:
    if not 50 < percentile <= 100:
        raise UnsupportedError(f"percentile {percentile} must lie above 50 and not above 100")
    edges = np.linspace(*bounds, len(counts) + 1)
    outside = counts.sum() * (1 - percentile / 100)
    from_below, from_above = np.cumsum(counts), np.cumsum(counts[::-1])
    low = int(np.searchsorted(from_below, outside, side="right"))
    high = len(counts) - int(np.searchsorted(from_above, outside, side="right"))
    return float(edges[min(low, len(counts) - 1)]), float(edges[max(high, 1)])


def _least_squares(bounds: Range, counts: Array) -> Range:
    """The ends are searched in turns, twice: one outlier must not cost the other side its range."""
    counts = counts.reshape(-1, 4).sum(axis=1)  # coarser is enough here, and faster
    edges = np.linspace(*bounds, len(counts) + 1)
    used = counts > 0
    values, weights = ((edges[:-1] + edges[1:]) / 2)[used], counts[used].astype(np.float64)

    def error(low: float, high: float) -> float:
        scale = (high - low) / 255
        zero_point = _zero_point(low, scale)
        integers = np.clip(np.round(values / scale) + zero_point, -128, 127)
        return float(weights @ np.square((integers - zero_point) * scale - values))

    least, most = min(bounds[0], 0.0), max(bounds[1], 0.0)
    low, high = least, most
    for _ in range(2):
        if most > 0:
            high = min((float(f * most) for f in _SHRINK), key=lambda end: error(low, end))
        if least < 0:
            low = min((float(f * least) for f in _SHRINK), key=lambda end: error(end, high))
    return low, high


def _zero_point(low: float, scale: float) -> int:
    return int(np.clip(round(-128 - low / scale), -128, 127))


def _keep_kernels_content(
    graph: Graph, group: Mapping[str, str], scales: dict[str, float], prescribed: set[str]
) -> None:
    """Raise scales that kernels refuse because they are vanishing, alone or beside what flows in."""

    def raise_to(name: str, least: float) -> None:
        root = group[name]
        if root not in prescribed and scales[root] < least:
            scales[root] = float(np.float32(least))

    for _ in graph.nodes:  # a raised scale may raise others, also earlier ones that are tied to it
        before = dict(scales)
        for node in graph.nodes:
            op = node.operator
            incoming = [scales[group[name]] for name in node.inputs[: len(op.inputs)]]
            if op.kind in WEIGHTED:
                largest = float(np.abs(_weights_and_bias(graph, node)[0]).max(initial=0))
                raise_to(node.output, incoming[0] * largest / 127 * _LEAST_RATIO)
            elif op.kind == "mul":
                raise_to(node.output, incoming[0] * incoming[1] * _LEAST_RATIO)
            elif op.kind == "add":
                raise_to(node.output, max(incoming) * _LEAST_RATIO)
            elif op.kind == "hard_swish":
                raise_to(node.output, incoming[0] * _LEAST_HARD_SWISH_RATIO)
            elif op.kind == "softmax":
                raise_to(node.inputs[0], _LEAST_SOFTMAX_INPUT)
            if op.activation == "relu6":
                raise_to(node.output, _LEAST_RELU6)
        if scales == before:
            return


def _weights_and_bias(graph: Graph, node: Node) -> tuple[Array, Array]:
    for name in node.inputs[-2:]:
        if name not in graph.constants:
            raise UnsupportedError(f"{node.operator.kind} {node.source}: weights {name!r} are not constant")
    return folded(node.operator, graph.constants[node.inputs[-2]], graph.constants[node.inputs[-1]])


def _check_scales(graph: Graph, qparams: Mapping[str, Quantization]) -> None:
    group = tied_groups(graph)
    for name, root in group.items():
        if name not in qparams:
            raise GraphError(f"no scale for tensor {name!r}")
        if qparams[name] != qparams[root]:
            raise GraphError(f"tensors {root!r} and {name!r} must share one scale")
    for node in graph.nodes:
        if has_fixed_scale(node) and qparams[node.output] != UNIT_INTERVAL:
            raise GraphError(
                f"{node.operator.kind} {node.source}: output {node.output!r} needs scale 1/256, zero point -128",
                remedy="call separate_fixed_scales on the float graph first",
            )
