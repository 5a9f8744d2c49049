"""What torch's convolutions, linear layers, pools and paddings become in a graph. Numpy only.

`lower` calls these functions with `Value`s for tensors that depend on the input, and numpy arrays and Python values
for everything else. They raise `UnsupportedError` or `GraphError` saying what is wrong; `lower` adds where.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from toolchain.errors import GraphError, UnsupportedError
from toolchain.graph.graph import Array
from toolchain.graph.lower_values import (
    NO_PADS,
    Context,
    Pads,
    Pair,
    Value,
    canonical,
    folded,
    new_value,
    pad_node,
    padded,
    settle,
    torch_order,
)
from toolchain.graph.operator import Kind, Padding, Shape, same_padding


def _along(x: Value, number: int | Sequence[int], neutral: int) -> Pair:
    """torch's "int or one per spatial dimension" as (vertical, horizontal), `neutral` vertically in 1-D."""
    dimensions = len(x.shape) - 2
    if dimensions not in (1, 2):
        raise GraphError(f"needs (C, H, W) or (C, L), got {x.shape[1:]}")
    values = (number,) if isinstance(number, int) else tuple(number)
    values = values * dimensions if len(values) == 1 else values
    if len(values) != dimensions:
        raise GraphError(f"{values} does not fit an input of {dimensions} spatial dimensions")
    return (values[0], values[1]) if dimensions == 2 else (neutral, values[0])


def _length(size: int, kernel: int, stride: int, pads: Pair) -> int:
    """Number of windows along one dimension."""
    length = (size + sum(pads) - kernel) // stride + 1
    if length < 1:
        raise GraphError(f"kernel {kernel} is larger than the padded input {size + sum(pads)}")
    return length


def _window_padding(
    base: Shape, kernel: Pair, stride: Pair, pads: tuple[Pair, Pair]
) -> tuple[Padding, Pads | None]:
    """The canonical form of a window's padding: ("valid" | "same", pads of a node before it, or None).

    Padding behind the last window is dropped first, so that equal work has one form.
    """
    trimmed, same = [], []
    for size, k, s, (before, after) in zip(base[2:], kernel, stride, pads, strict=True):
        needed = (_length(size, k, s, (before, after)) - 1) * s + k
        trimmed.append((before, min(after, max(0, needed - size - before))))
        same.append(same_padding(size, k, s))
    if trimmed == [(0, 0), (0, 0)]:
        return "valid", None
    if trimmed == same:
        return "same", None
    return "valid", ((0, 0), trimmed[0], trimmed[1], (0, 0))


def _plus(pads: Pads, more: Pair) -> tuple[Pair, Pair]:
    """Pending spatial padding plus a symmetric one."""
    (top, bottom), (left, right) = pads[1], pads[2]
    return (top + more[0], bottom + more[0]), (left + more[1], right + more[1])


def conv(
    ctx: Context,
    x: Value,
    weight: Array,
    bias: Array | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Value:
    """Conv1d and Conv2d, dense or depthwise, with what follows folded in. `weight` is OIHW or OIL."""
    if weight.ndim != len(x.shape):
        raise GraphError(f"weights of {weight.ndim - 2} spatial dimensions, input {x.shape}")
    x = x if x.pads[3] == (0, 0) and x.pads != NO_PADS else settle(ctx, x)
    weight = weight[:, :, None] if weight.ndim == 3 else weight
    kernel = (weight.shape[2], weight.shape[3])
    strides = _along(x, stride, 1)
    if any(d != 1 < k for d, k in zip(_along(x, dilation, 1), kernel, strict=True)):
        raise UnsupportedError(f"dilation {dilation}", remedy="use a larger kernel or a stride")
    if padding_mode != "zeros":
        raise UnsupportedError(f"padding_mode {padding_mode!r}", remedy="use zero padding")
    channels = x.base[1]
    if weight.shape[1] * groups != channels:
        raise GraphError(f"needs {weight.shape[1] * groups} input channels, got {channels}")
    if groups not in (1, channels):
        raise UnsupportedError(f"groups={groups}", remedy="use groups=1, or depthwise groups=in_channels")
    if padding == "same":
        (top, bottom), (left, right) = (same_padding(k, k, 1) for k in kernel)
        around = x.pads[1], x.pads[2]
        pads = ((around[0][0] + top, around[0][1] + bottom), (around[1][0] + left, around[1][1] + right))
    else:
        pads = _plus(x.pads, _along(x, 0 if isinstance(padding, str) else padding, 0))
    mode, before = _window_padding(x.base, kernel, strides, pads)
    name = x.name if before is None else pad_node(ctx, x.name, before)
    weight, shift, activation = folded(ctx, weight, bias)
    builder = ctx.builder
    if groups == 1:
        method, weight = builder.conv2d, weight.transpose(0, 2, 3, 1)
    else:
        method, weight = builder.depthwise_conv2d, weight.transpose(1, 2, 3, 0)
    name = method(
        name, weight, shift, stride=strides, padding=mode, activation=activation, source=ctx.source
    )  # fmt: skip
    return _spatial_value(ctx, name, len(x.shape), nonnegative=activation != "none")


def _spatial_value(ctx: Context, name: str, rank: int, *, nonnegative: bool) -> Value:
    """The value of a 4-D tensor of the graph, seen by the network with `rank` dimensions (3 or 4)."""
    _, height, width, channels = ctx.builder.shape(name)
    shape = (1, channels, height, width) if rank == 4 else (1, channels, width)
    return new_value(name, shape, nonnegative=nonnegative)


def linear(ctx: Context, x: Value, weight: Array, bias: Array | None = None) -> Value:
    """Linear over all features; behind a flattened image its columns are put into NHWC order."""
    x = padded(ctx, x)
    features = math.prod(x.base)
    if x.shape[-1] != features:
        raise UnsupportedError(
            f"a linear layer over the last dimension of {x.shape}",
            remedy="flatten before it, or use a convolution with kernel 1",
        )
    if weight.shape[1] != features:
        raise GraphError(f"needs {weight.shape[1]} features, got {features}")
    if len(x.base) == 4 and 1 not in (x.base[1], x.base[2] * x.base[3]):
        weight = weight[:, torch_order(x.base)]
    weight, shift, activation = folded(ctx, weight, bias)
    name = ctx.builder.fully_connected(x.name, weight, shift, activation=activation, source=ctx.source)
    shape = (*x.shape[:-1], len(weight))
    return Value(name, (1, len(weight)), shape, nonnegative=activation != "none")


def _pool(ctx: Context, kind: Kind, x: Value, kernel: Pair, stride: Pair, pads: tuple[Pair, Pair]) -> Value:
    """A pool over a settled value whose `pads` are either SAME or may be put before it as zeros."""
    mode, before = _window_padding(x.base, kernel, stride, pads)
    if kernel == stride == (1, 1) and before is None:
        return x
    name = x.name if before is None else pad_node(ctx, x.name, before)
    if mode == "valid":
        # A window that does not move has no stride: one form for equal work.
        _, height, width, _ = ctx.builder.shape(name)
        stride = (_resting(height, kernel[0], stride[0]), _resting(width, kernel[1], stride[1]))
    _, activation = ctx.epilogue(False)
    name = ctx.builder.pool(
        kind, name, kernel, stride=stride, padding=mode, activation=activation, source=ctx.source
    )  # fmt: skip
    return _spatial_value(ctx, name, len(x.shape), nonnegative=x.nonnegative or activation != "none")


def _resting(size: int, kernel: int, stride: int) -> int:
    """The stride, or the kernel where neither would move the window."""
    return kernel if size < kernel + min(kernel, stride) else stride


def _check_ceil(base: Shape, kernel: Pair, stride: Pair, padding: Pair) -> None:
    for size, k, s, p in zip(base[2:], kernel, stride, padding, strict=True):
        windows = -(-(size + 2 * p - k) // s) + 1
        windows -= (windows - 1) * s >= size + p  # torch drops a window that starts behind the input
        if windows != _length(size, k, s, (p, p)):
            raise UnsupportedError("ceil_mode=True that adds a window", remedy="pad before the pool")


def max_pool(
    ctx: Context,
    x: Value,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    """MaxPool1d and MaxPool2d. Padding is SAME, or zeros where the input is known to be >= 0."""
    if return_indices or any(d != 1 for d in _along(x, dilation, 1)):
        raise UnsupportedError("max pool with dilation or return_indices", remedy="use a plain max pool")
    # torch pads with -inf, F.pad with zeros: the same thing only where nothing is negative.
    x = x if x.nonnegative and x.pads != NO_PADS and x.pads[3] == (0, 0) else settle(ctx, x)
    kernel = _along(x, kernel_size, 1)
    strides = kernel if stride is None or stride == [] else _along(x, stride, 1)
    around = _along(x, padding, 0)
    pads = _plus(x.pads, around)
    if ceil_mode:
        _check_ceil(canonical(x.shape), kernel, strides, around)
    if not x.nonnegative and _window_padding(x.base, kernel, strides, pads)[1] is not None:
        raise UnsupportedError(
            f"padding {padding} of a max pool that is not SAME, on an input that may be negative",
            remedy="put a ReLU before the pool, or pad so that it equals TensorFlow's SAME",
        )
    return _pool(ctx, "max_pool", replace(x, pads=NO_PADS), kernel, strides, pads)


def avg_pool(
    ctx: Context,
    x: Value,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    """AvgPool1d and AvgPool2d. Counted padding is put before the pool; uncounted padding must equal SAME."""
    if divisor_override is not None:
        raise UnsupportedError("average pool with divisor_override", remedy="multiply by a constant after it")
    x = settle(ctx, x)
    kernel = _along(x, kernel_size, 1)
    strides = kernel if stride is None or stride == [] else _along(x, stride, 1)
    around = _along(x, padding, 0)
    pads = _plus(NO_PADS, around)
    if ceil_mode:
        _check_ceil(x.base, kernel, strides, around)
    mode, before = _window_padding(x.base, kernel, strides, pads)
    if (mode, before) == ("valid", None):
        return _pool(ctx, "average_pool", x, kernel, strides, pads)
    if not count_include_pad:
        if before is not None:
            raise UnsupportedError(
                f"padding {padding} of an average pool that is neither counted nor SAME",
                remedy="use count_include_pad=True, or pad so that it equals TensorFlow's SAME",
            )
        return _pool(ctx, "average_pool", x, kernel, strides, pads)
    if before is None:  # SAME would not count the padding
        before = ((0, 0), *pads, (0, 0))
    name = pad_node(ctx, x.name, before)
    x = _spatial_value(ctx, name, len(x.shape), nonnegative=x.nonnegative)
    return _pool(ctx, "average_pool", x, kernel, strides, ((0, 0), (0, 0)))


def adaptive_avg_pool(ctx: Context, x: Value, output_size: int | Sequence[int | None] | None) -> Value:
    """AdaptiveAvgPool1d and 2d to sizes that divide the input's."""
    x = settle(ctx, x)
    wanted = (output_size,) if output_size is None or isinstance(output_size, int) else tuple(output_size)
    if len(wanted) == 1:
        wanted *= len(x.shape) - 2
    sizes = [size if w is None else w for w, size in zip(wanted, x.shape[2:], strict=True)]
    if any(w < 1 or size % w for w, size in zip(sizes, x.shape[2:], strict=True)):
        raise UnsupportedError(
            f"an adaptive pool from {x.shape[2:]} to {tuple(sizes)}",
            remedy="use a size that divides the input's",
        )
    kernel = _along(x, [size // w for w, size in zip(sizes, x.shape[2:], strict=True)], 1)
    return _pool(ctx, "average_pool", x, kernel, kernel, ((0, 0), (0, 0)))


def mean(
    ctx: Context, x: Value, dim: int | Sequence[int] | None = None, keepdim: bool = False, dtype: Any = None
) -> Value:
    """Mean over spatial dimensions, as an average pool."""
    rank = len(x.shape)
    reduced = {d % rank for d in ((dim,) if isinstance(dim, int) else dim or range(rank))}
    if not reduced or min(reduced) < 2:
        raise UnsupportedError(
            f"mean over dimensions {dim} of {x.shape}", remedy="take the mean over spatial dimensions only"
        )
    shape = tuple(1 if d in reduced else n for d, n in enumerate(x.shape) if keepdim or d not in reduced)
    x = padded(ctx, x)
    if len(reduced) == rank - 2 and len(x.base) == 4 and x.base[1] == x.shape[1]:
        x, reduced = replace(x, shape=x.base), {2, 3}  # also behind flatten(2), without a RESHAPE
    x = settle(ctx, x)
    kernel = _along(x, [n if d in reduced else 1 for d, n in enumerate(x.shape) if d >= 2], 1)
    return replace(_pool(ctx, "average_pool", x, kernel, kernel, ((0, 0), (0, 0))), shape=shape)


def pad(
    ctx: Context, x: Value, pad: Sequence[int] | int, mode: str = "constant", value: float | None = None
) -> Value:
    """F.pad with zeros: kept aside until a consumer takes it as SAME or needs a PAD."""
    if mode != "constant" or value not in (None, 0):
        raise UnsupportedError(f"padding mode {mode!r}, value {value}", remedy="pad with zeros")
    x = settle(ctx, x) if x.pads == NO_PADS else x
    amounts = (pad,) * (2 * (len(x.shape) - 2)) if isinstance(pad, int) else tuple(pad)
    if any(a < 0 for a in amounts):
        raise UnsupportedError(f"negative padding {amounts}", remedy="pad only, do not crop")
    rank = len(x.shape)
    pairs = [(0, 0)] * (rank - len(amounts) // 2) + [
        (amounts[i], amounts[i + 1]) for i in range(len(amounts) - 2, -1, -2)
    ]
    if len(pairs) != rank or pairs[0] != (0, 0) or rank not in (3, 4):
        raise UnsupportedError(f"padding {amounts} of {x.shape}", remedy="pad spatial dimensions or channels")
    shape = tuple(n + sum(pair) for n, pair in zip(x.shape, pairs, strict=True))
    channels, *spatial = pairs[1:]
    vertical, horizontal = spatial if rank == 4 else ((0, 0), *spatial)
    more = ((0, 0), vertical, horizontal, channels)
    pads = tuple((a + c, b + d) for (a, b), (c, d) in zip(x.pads, more, strict=True))
    return replace(x, shape=shape, pads=pads)  # type: ignore[arg-type]
