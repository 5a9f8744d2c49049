"""Random graphs for property tests: chains and residuals of every kind, and one-operator graphs per kind.

Hypothesis draws the structure (so that a failure shrinks to a small graph); weights, biases and scales come from one
drawn seed. Scales are such that outputs use their range; `extreme` graphs take multipliers from 2^-36 to 2^29.
All graphs keep the limits of TFLite Micro.
"""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from toolchain.graph import Graph, GraphBuilder, Quantization
from toolchain.graph.operator import Activation, DType, Kind, Padding, Shape

FUSED: tuple[Activation, ...] = ("none", "relu", "relu6")
BLOCKS = (
    *("conv2d", "depthwise_conv2d", "average_pool", "max_pool", "pad", "reshape", "hard_swish"),
    *("residual", "squeeze_excite", "concatenation", "add", "mul"),
)
SOFTMAX_SCALE = Quantization.per_tensor(1 / 256, -128)


@st.composite
def int8_operators(draw: st.DrawFn, kind: Kind, extreme: bool = False) -> Graph:
    """An int8 graph of one operator."""
    return _one_operator(_Maker(draw, "int8", extreme), kind)


@st.composite
def float_operators(draw: st.DrawFn, kind: Kind) -> Graph:
    """A float graph of one operator."""
    return _one_operator(_Maker(draw, "float32"), kind)


@st.composite
def int8_graphs(draw: st.DrawFn, max_blocks: int = 4, extreme: bool | None = None) -> Graph:
    """An int8 graph of blocks in a chain; a block is an operator, a residual, a squeeze-excite or a join."""
    extreme = draw(st.booleans()) if extreme is None else extreme
    return _network(_Maker(draw, "int8", extreme), max_blocks)


@st.composite
def float_graphs(draw: st.DrawFn, max_blocks: int = 4) -> Graph:
    """A float graph of blocks in a chain."""
    return _network(_Maker(draw, "float32"), max_blocks)


def random_inputs(graph: Graph, batch: int, seed: int) -> list[NDArray[np.generic]]:
    """Inputs of a graph: int8 over the whole range with its ends, or normal floats."""
    rng = np.random.default_rng(seed)
    inputs: list[NDArray[np.generic]] = []
    for name in graph.inputs:
        shape = (batch, *graph.tensors[name].shape[1:])
        if graph.dtype == "float32":
            inputs.append(rng.normal(0, 2, shape).astype(np.float32))
            continue
        x = rng.integers(-128, 128, shape).astype(np.int8)
        x[rng.random(shape) < 0.05] = -128
        x[rng.random(shape) < 0.05] = 127
        inputs.append(x)
    return inputs


def _one_operator(maker: _Maker, kind: Kind) -> Graph:
    if kind in ("softmax", "concatenation", "reshape", "fully_connected") and maker.flip():
        x = maker.input((1, maker.integer(1, 40)))
    else:
        x = maker.input()
    if kind in ("add", "mul"):
        y = maker.binary(kind, x)
    elif kind == "concatenation":
        axis = maker.integer(1, len(maker.builder.shape(x)) - 1)
        others = [
            maker.input(maker.resized(x, axis), maker.builder.quantization(x))
            for _ in range(maker.integer(0, 3))
        ]
        y = maker.builder.concatenation((x, *others), axis, quantization=maker.builder.quantization(x))
    else:
        y = maker.unary(kind, x)
    return maker.builder.build(y)


def _network(maker: _Maker, max_blocks: int) -> Graph:
    x = maker.input()
    for _ in range(maker.integer(1, max_blocks)):
        x = maker.block(x)
    tail = maker.integer(0, 2)
    if tail:
        x = maker.unary("fully_connected", x)
    if tail == 2:
        x = maker.unary("softmax", x)
    return maker.builder.build(x)


def _scale(value: float, zero_point: int) -> Quantization:
    """A scale; bounded, so that chains do not drift out of what any operator accepts."""
    return Quantization.per_tensor(min(max(value, 2.0**-20), 2.0**20), zero_point)


class _Maker:
    """Adds drawn operators to a builder."""

    def __init__(self, draw: st.DrawFn, dtype: DType, extreme: bool = False) -> None:
        self.draw = draw
        self.extreme = extreme
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.builder = GraphBuilder(dtype)

    def integer(self, least: int, greatest: int) -> int:
        return self.draw(st.integers(least, greatest))

    def flip(self) -> bool:
        return self.draw(st.booleans())

    def fused(self) -> Activation:
        return self.draw(st.sampled_from(FUSED))

    # Scales

    def scale(self) -> Quantization | None:
        """One scale and zero point for an activation."""
        if self.builder.dtype == "float32":
            return None
        spread = 6 if self.extreme else 2
        zero_point = self.rng.choice([-128, 127, 0, int(self.rng.integers(-128, 128))])
        return Quantization.per_tensor(2.0 ** self.rng.uniform(-5 - spread, -5 + spread), int(zero_point))

    def scale_of(self, x: str) -> float:
        quantization = self.builder.quantization(x)
        return 1.0 if quantization is None else quantization.scale[0]

    # Operators

    def input(self, shape: Shape | None = None, quantization: Quantization | None = None) -> str:
        shape = shape or (1, self.integer(1, 9), self.integer(1, 9), self.integer(1, 9))
        return self.builder.input(shape, quantization or self.scale())

    def resized(self, x: str, axis: int) -> Shape:
        shape = list(self.builder.shape(x))
        shape[axis] = self.integer(1, 5)
        return tuple(shape)

    def constant(self, shape: Shape) -> str:
        if self.builder.dtype == "float32":
            return self.builder.constant(self.rng.normal(0, 1, shape).astype(np.float32))
        return self.builder.constant(self.rng.integers(-128, 128, shape).astype(np.int8), self.scale())

    def window(self, x: str) -> tuple[tuple[int, int], tuple[int, int], Padding]:
        _, height, width, _ = self.builder.shape(x)
        padding = self.draw(st.sampled_from(("same", "valid")))
        limits = (5, 5) if padding == "same" else (min(5, height), min(5, width))
        kernel = (self.integer(1, limits[0]), self.integer(1, limits[1]))
        return kernel, (self.integer(1, 3), self.integer(1, 3)), padding

    def weighted(
        self, kind: Kind, x: str, channels: int, *, same_shape: bool = False,
        quantization: Quantization | None = None,
    ) -> str:  # fmt: skip
        """A conv2d, depthwise_conv2d (`channels` is then the multiplier) or fully_connected."""
        shape, builder = self.builder.shape(x), self.builder
        if kind == "fully_connected":
            weight_shape, axis = (channels, math.prod(shape)), 0
        else:
            kernel, stride, padding = self.window(x)
            if same_shape:
                stride, padding = (1, 1), "same"
            weight_shape, axis = (channels, *kernel, shape[3]), 0
            if kind == "depthwise_conv2d":
                weight_shape, axis = (1, *kernel, channels * shape[3]), 3
        weights, bias, quantizations = self.weights(x, weight_shape, axis, quantization or self.scale())
        options = {"activation": self.fused(), **quantizations}
        if kind == "fully_connected":
            return builder.fully_connected(x, weights, bias, **options)
        method = builder.conv2d if kind == "conv2d" else builder.depthwise_conv2d
        return method(x, weights, bias, stride=stride, padding=padding, **options)

    def weights(
        self, x: str, shape: Shape, axis: int, output: Quantization | None
    ) -> tuple[NDArray[np.generic], NDArray[np.generic], dict[str, Quantization | None]]:
        """Weights and bias of a shape, with scales per channel or for the whole tensor."""
        channels, depth = shape[axis], math.prod(shape) / shape[axis]
        if output is None:
            weights = self.rng.normal(0, depth**-0.5, shape).astype(np.float32)
            return weights, self.rng.normal(0, 1, channels).astype(np.float32), {}
        scales = 1 if self.flip() else channels
        # Sums have a deviation of about 75 * 75 * sqrt(depth); bring it to about 60.
        multiplier = 2.0 ** self.rng.uniform(-3, 2, scales) / (90 * depth**0.5)
        if self.extreme:
            top = (
                18 if len(shape) == 2 and scales == 1 else 29
            )  # a bias scale is a float32: see the reference
            multiplier = 2.0 ** self.rng.uniform(-36, top, scales)
        source = self.scale_of(x)
        weight_scale = np.float32(multiplier * output.scale[0] / source)
        bias_scale = np.float32(source) * weight_scale
        reach = np.minimum(100 / multiplier, 2**31 - 1)
        return (
            self.rng.integers(-127, 128, shape).astype(np.int8),
            np.round(self.rng.uniform(-1, 1, channels) * reach).astype(np.int32),
            {
                "quantization": output,
                "weight_quantization": Quantization(
                    tuple(map(float, weight_scale)), (0,) * scales, axis if scales > 1 else 0
                ),
                "bias_quantization": Quantization(tuple(map(float, bias_scale)), (0,) * scales),
            },
        )

    def binary(self, kind: Kind, x: str, other: str | None = None) -> str:
        """`add` or `mul`; the other operand is drawn where it is not given, smaller or larger along some axes."""
        if other is None:
            shape = tuple(1 if self.flip() else d for d in self.builder.shape(x))
            other = self.constant(shape) if self.flip() else self.input(shape)
        operands = (x, other) if self.flip() else (other, x)
        output = self.scale()
        if output is not None and kind == "add":
            # An add needs an output scale above 2^-19 of its inputs'.
            larger = max(self.scale_of(x), self.scale_of(other))
            spread = self.rng.uniform(-18.9, 12) if self.extreme else self.rng.uniform(-1, 2)
            output = _scale(larger * 2.0**spread, output.zero_point[0])
        if output is not None and kind == "mul":
            spread = self.rng.uniform(-20, 10) if self.extreme else self.rng.uniform(-3, 1)
            product = self.scale_of(x) * self.scale_of(other)
            output = _scale(product * 64 / 2.0**spread, output.zero_point[0])
        return self.builder.binary(kind, *operands, activation=self.fused(), quantization=output)

    def unary(self, kind: Kind, x: str) -> str:
        builder, source = self.builder, self.builder.quantization(x)
        if kind in ("conv2d", "fully_connected"):
            return self.weighted(kind, x, self.integer(1, 9))
        if kind == "depthwise_conv2d":
            return self.weighted(kind, x, self.integer(1, 3))
        if kind in ("average_pool", "max_pool"):
            kernel, stride, padding = self.window(x)
            return builder.pool(
                kind, x, kernel, stride=stride, padding=padding, activation=self.fused(), quantization=source
            )
        if kind == "pad":
            pads = ((0, 0), *((self.integer(0, 2), self.integer(0, 2)) for _ in builder.shape(x)[1:]))
            return builder.pad(x, pads, quantization=source)
        if kind == "reshape":
            size = math.prod(builder.shape(x))
            factor = math.gcd(size, self.integer(1, 12))
            return builder.reshape(x, (1, factor, 1, size // factor), quantization=source)
        if kind == "softmax":
            return builder.unary(kind, x, quantization=source and SOFTMAX_SCALE)
        # Hard-swish needs an output scale of at least 1/128 of the input's.
        output = self.scale()
        if output is not None:
            spread = self.rng.uniform(-6.9, 24) if self.extreme else self.rng.uniform(-3, 2)
            output = _scale(self.scale_of(x) * 2.0**spread, output.zero_point[0])
        return builder.unary("hard_swish", x, quantization=output)

    def block(self, x: str) -> str:
        """A few operators that take and leave a 4-D tensor."""
        builder = self.builder
        shape, quantization = builder.shape(x), builder.quantization(x)
        kind = self.draw(st.sampled_from(BLOCKS))
        if kind == "residual":
            return self.binary("add", x, self.weighted("conv2d", x, shape[3], same_shape=True))
        if kind == "squeeze_excite":
            mean = builder.pool("average_pool", x, shape[1:3], quantization=quantization)
            return self.binary("mul", x, self.weighted("conv2d", mean, shape[3]))
        if kind == "concatenation":
            branch = self.weighted(
                "conv2d", x, self.integer(1, 4), same_shape=True, quantization=quantization
            )
            return builder.concatenation((x, branch), quantization=quantization)
        if kind in ("add", "mul"):
            broadcast = (1, *(1 if self.flip() else d for d in shape[1:]))
            return self.binary(kind, x, self.constant(broadcast))
        return self.unary(kind, x)
