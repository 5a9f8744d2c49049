"""What `lower` keeps of a torch tensor while it builds a graph: layouts, views and pending padding. Numpy only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import UnsupportedError
from toolchain.graph.graph import Array, GraphBuilder
from toolchain.graph.operator import Activation, Shape

Pair = tuple[int, int]
Pads = tuple[Pair, Pair, Pair, Pair]
NO_PADS: Final[Pads] = ((0, 0), (0, 0), (0, 0), (0, 0))


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of torch that the graph holds, perhaps under another shape.

    Attributes:
        name: the graph's tensor.
        base: what the graph's tensor is in torch's layout: (1, C, H, W), stored as NHWC, or (1, F).
        shape: what the network sees: `base` as padded, then viewed in torch's order of elements. Views cost
            nothing until an operator needs the elements in another order.
        pads: zero padding (NHWC) that is not emitted yet, because a convolution may take it as SAME. Only where
            `base` is the unpadded `shape`.
        nonnegative: all elements are known to be >= 0.
    """

    name: str
    base: Shape
    shape: Shape
    pads: Pads = NO_PADS
    nonnegative: bool = False


@dataclass(frozen=True, slots=True)
class Norm:
    """A batch normalisation as y = x * scale + shift per channel, in float64."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]


@dataclass
class Context:
    """What the functions below share during one lowering.

    Attributes:
        builder: takes the nodes.
        epilogue: takes the operations that follow the current one and may be fused into it: batch norms (only
            behind weights) and an activation (hard-sigmoid only behind weights).
        source: module path of the current operation.
        made: pads and reshapes that exist already, so that two consumers share one.
    """

    builder: GraphBuilder
    epilogue: Callable[[bool], tuple[list[Norm], Activation]]
    source: str = ""
    made: dict[tuple[Any, ...], str] = field(default_factory=dict)


def new_value(name: str, shape: Shape, *, nonnegative: bool = False) -> Value:
    """The value of a graph's tensor that holds `shape` (torch's, with batch) in its usual layout."""
    return Value(name, canonical(shape), shape, nonnegative=nonnegative)


def canonical(shape: Shape) -> Shape:
    """How the graph holds a tensor of torch: (1, C, L) as (1, C, 1, L); 4-D and 2-D shapes stay."""
    if len(shape) == 3:
        return (shape[0], shape[1], 1, shape[2])
    if len(shape) in (2, 4):
        return shape
    raise UnsupportedError(f"a tensor of {len(shape)} dimensions {shape}", remedy="use 2, 3 or 4 dimensions")


def stored(base: Shape) -> Shape:
    """Shape of the graph's tensor: NCHW -> NHWC; 2-D stays."""
    return (base[0], base[2], base[3], base[1]) if len(base) == 4 else base


def settle(ctx: Context, x: Value) -> Value:
    """`x` with its padding emitted and held in the usual layout of its shape; a RESHAPE where that suffices."""
    x = padded(ctx, x)
    target = canonical(x.shape)
    if x.base == target:
        return x
    if not np.array_equal(torch_order(x.base), torch_order(target)):
        raise UnsupportedError(
            f"viewing {x.base} as {x.shape} would need a transposition",
            remedy="flatten only before a linear layer, and give images as (C, H, W)",
        )
    return replace(x, name=reshaped(ctx, x.name, stored(target)), base=target)


def reshaped(ctx: Context, name: str, shape: Shape) -> str:
    key = (name, "reshape", shape)
    if key not in ctx.made:
        ctx.made[key] = ctx.builder.reshape(name, shape, source=ctx.source)
    return ctx.made[key]


def torch_order(base: Shape) -> NDArray[np.intp]:
    """Indices in torch's order of elements, in the order in which the graph holds them."""
    indices: NDArray[np.intp] = np.arange(math.prod(base)).reshape(base)
    return (indices.transpose(0, 2, 3, 1) if len(base) == 4 else indices).ravel()


def padded(ctx: Context, x: Value) -> Value:
    """`x` with its pending padding emitted."""
    if x.pads == NO_PADS:
        return x
    return replace(x, name=pad_node(ctx, x.name, x.pads), base=canonical(x.shape), pads=NO_PADS)


def pad_node(ctx: Context, name: str, pads: Pads) -> str:
    key = (name, "pad", pads)
    if key not in ctx.made:
        ctx.made[key] = ctx.builder.pad(name, pads, source=ctx.source)
    return ctx.made[key]


def four_dimensional(ctx: Context, x: Value) -> Value:
    """`x` held in four dimensions, its features as channels; the shape that the network sees stays."""
    x = padded(ctx, x)
    if len(x.base) == 4:
        return x
    base = (*x.base, 1, 1)
    return replace(x, name=reshaped(ctx, x.name, stored(base)), base=base)


def folded(ctx: Context, weight: Array, bias: Array | None) -> tuple[Array, Array, Activation]:
    """Weights (output channel first) and bias with the batch norms that follow, and the fused activation."""
    norms, activation = ctx.epilogue(True)
    shift = np.zeros(len(weight), np.float32) if bias is None else bias
    for norm in norms:
        weight = weight * norm.scale.reshape(-1, *[1] * (weight.ndim - 1))
        shift = shift * norm.scale + norm.shift
    # Always a copy: training the module further must not change the graph.
    return np.array(weight, np.float32), np.array(shift, np.float32), activation
