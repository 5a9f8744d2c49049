"""What torch's activations, norms, arithmetic and concatenation become in a graph. Numpy only.

The conventions are those of `lower_windows`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from toolchain.errors import GraphError, UnsupportedError
from toolchain.graph.graph import Array
from toolchain.graph.lower_values import (
    Context,
    Norm,
    Value,
    canonical,
    folded,
    four_dimensional,
    padded,
    settle,
)
from toolchain.graph.operator import Activation


def norm_of(
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Norm:
    """A batch norm's scale and shift from its running statistics."""
    if running_mean is None or running_var is None or training:
        raise UnsupportedError(
            "a batch norm without running statistics",
            remedy="use track_running_stats=True and training=False",
        )
    scale = 1 / np.sqrt(running_var.astype(np.float64) + eps)
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale
    return Norm(scale, shift if bias is None else shift + bias)


def batch_norm(ctx: Context, x: Value, *statistics: Any, **more: Any) -> Value:
    """A batch norm that no weights could take: a 1x1 depthwise convolution. Arguments as `norm_of`."""
    norm = norm_of(*statistics, **more)
    x = four_dimensional(ctx, x) if len(x.shape) == 2 else settle(ctx, x)
    if len(norm.scale) != x.base[1] or x.base[1] != x.shape[1]:
        raise UnsupportedError(
            f"a batch norm of {len(norm.scale)} features behind a view of {x.base}",
            remedy="put it before the flatten, or behind the linear layer",
        )
    return _per_channel(ctx, x, norm, "none")


def _per_channel(ctx: Context, x: Value, norm: Norm, activation: Activation) -> Value:
    """A 1x1 depthwise convolution on a tensor held in four dimensions."""
    weight, shift = norm.scale.reshape(-1, 1, 1, 1), norm.shift
    if activation == "none":
        weight, shift, activation = folded(ctx, weight, shift)
    name = ctx.builder.depthwise_conv2d(
        x.name,
        np.array(weight.transpose(1, 2, 3, 0), np.float32),
        np.array(shift, np.float32),
        activation=activation,
        source=ctx.source,
    )
    return replace(x, name=name, nonnegative=activation != "none")


def standalone(activation: Activation) -> Callable[[Context, Value], Value]:
    def apply(ctx: Context, x: Value) -> Value:
        """An activation that no operator could take: a 1x1 depthwise identity with it."""
        if activation == "relu" and x.nonnegative:
            return x
        x = four_dimensional(ctx, x)
        channels = x.base[1]
        return _per_channel(ctx, x, Norm(np.ones(channels), np.zeros(channels)), activation)

    return apply


def hard_swish(ctx: Context, x: Value) -> Value:
    """x * relu6(x + 3) / 6."""
    x = padded(ctx, x)
    name = ctx.builder.unary("hard_swish", x.name, source=ctx.source)
    return replace(x, name=name)


def softmax(ctx: Context, x: Value, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Value:
    """Softmax over the channels (the features of a 2-D tensor)."""
    if dim is None or dim % len(x.shape) != 1:
        raise UnsupportedError(
            f"softmax over dimension {dim} of {x.shape}", remedy="use dim=1, the channels or features"
        )
    features_are_channels = len(x.base) == 4 and x.base == (*x.shape, 1, 1)
    x = x if features_are_channels else settle(ctx, x)
    name = ctx.builder.unary("softmax", x.name, source=ctx.source)
    return replace(x, name=name, nonnegative=True)


def _constant(ctx: Context, array: Array, rank: int) -> Value:
    """A constant operand for a tensor of `rank` dimensions."""
    if array.ndim > rank:
        raise GraphError(f"a constant of shape {array.shape} against a tensor of {rank} dimensions")
    array = np.asarray(array, np.float32).reshape((1,) * (rank - array.ndim) + array.shape)
    if array.shape[0] != 1:
        raise UnsupportedError(f"a constant with a batch of {array.shape[0]}", remedy="use a batch of 1")
    base = canonical(array.shape)
    laid_out = array.reshape(base)
    laid_out = laid_out.transpose(0, 2, 3, 1) if len(base) == 4 else laid_out
    name = ctx.builder.constant(laid_out.copy())
    return Value(name, base, array.shape, nonnegative=bool((array >= 0).all()))


def _binary(ctx: Context, kind: Literal["add", "mul"], a: Value | Array, b: Value | Array) -> Value:
    if isinstance(a, Value) and isinstance(b, Value):
        a, b = padded(ctx, a), padded(ctx, b)
        if (a.base, a.shape) != (b.base, b.shape):
            a, b = settle(ctx, a), settle(ctx, b)
            if len(a.shape) != len(b.shape):
                raise UnsupportedError(f"{a.shape} and {b.shape}", remedy="give both the same rank")
    elif isinstance(a, Value):
        a, b = _with_constant(ctx, a, b)
    elif isinstance(b, Value):
        b, a = _with_constant(ctx, b, a)
    else:
        raise GraphError("two constants")
    try:
        shape = np.broadcast_shapes(a.shape, b.shape)
    except ValueError as error:
        raise GraphError(f"{a.shape} and {b.shape} do not broadcast") from error
    base = np.broadcast_shapes(a.base, b.base)
    _, activation = ctx.epilogue(False)
    name = ctx.builder.binary(kind, a.name, b.name, activation=activation, source=ctx.source)
    nonnegative = activation != "none" or (a.nonnegative and b.nonnegative)
    return Value(name, base, shape, nonnegative=nonnegative)


def _with_constant(ctx: Context, x: Value, array: Any) -> tuple[Value, Value]:
    """Both operands, in layouts that fit. A single number needs no layout of `x`."""
    x, array = padded(ctx, x), np.asarray(array)
    if array.size == 1 and array.ndim <= len(x.shape):
        return x, replace(_constant(ctx, array.reshape(()), len(x.base)), shape=())
    x = settle(ctx, x)
    return x, _constant(ctx, array, len(x.shape))


def add(ctx: Context, a: Any, b: Any, alpha: float = 1) -> Value:
    """a + alpha * b, where one or both are values."""
    if alpha != 1:
        if isinstance(b, Value):
            raise UnsupportedError(f"alpha={alpha}", remedy="multiply before the addition")
        b = np.multiply(b, alpha)
    return _binary(ctx, "add", a, b)


def mul(ctx: Context, a: Any, b: Any) -> Value:
    """a * b, where one or both are values."""
    return _binary(ctx, "mul", a, b)


def sub(ctx: Context, a: Any, b: Any, alpha: float = 1) -> Value:
    """a - alpha * b with a constant b."""
    if isinstance(b, Value):
        raise UnsupportedError(
            "subtracting a tensor", remedy="fold the sign into the layer before it, and add"
        )
    return _binary(ctx, "add", a, -np.multiply(b, alpha, dtype=np.float64))


def div(ctx: Context, a: Any, b: Any, rounding_mode: str | None = None) -> Value:
    """a / b with a constant b."""
    if isinstance(b, Value) or rounding_mode is not None:
        raise UnsupportedError("dividing by a tensor, or rounding", remedy="multiply by a constant")
    return _binary(ctx, "mul", a, np.divide(1, b, dtype=np.float64))


def cat(ctx: Context, tensors: Sequence[Any], dim: int = 0) -> Value:
    """Concatenation along channels, features or a spatial dimension."""
    values = [t for t in tensors if isinstance(t, Value)]
    shape = values[0].shape
    rank = len(shape)
    if not -rank <= dim < rank or dim % rank == 0:
        raise UnsupportedError(f"concatenation along dimension {dim}", remedy="use dim=1, the channels")
    dim %= rank
    parts = [t if isinstance(t, Value) else _constant(ctx, np.asarray(t), rank) for t in tensors]
    if rank == 2 and all(p.base == (*p.shape, 1, 1) for p in parts):
        settled = [padded(ctx, p) for p in parts]  # pooled channels, flattened: still channels
    else:
        settled = [settle(ctx, p) for p in parts]
    if any(len(p.shape) != rank for p in parts):
        raise GraphError(f"ranks differ: {[p.shape for p in parts]}")
    if any(p.shape[:dim] + p.shape[dim + 1 :] != shape[:dim] + shape[dim + 1 :] for p in parts):
        raise GraphError(f"shapes differ outside dimension {dim}: {[p.shape for p in parts]}")
    if len(settled) == 1:
        return settled[0]
    four = len(settled[0].base) == 4
    axis = {1: 3, 2: 2 if rank == 3 else 1, 3: 2}[dim] if four else 1
    name = ctx.builder.concatenation([p.name for p in settled], axis, source=ctx.source)
    joined = tuple(sum(p.shape[dim] for p in parts) if d == dim else n for d, n in enumerate(shape))
    base = (*joined, 1, 1) if rank == 2 and four else canonical(joined)
    return Value(name, base, joined, nonnegative=all(p.nonnegative for p in settled))
