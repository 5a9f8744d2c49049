"""Views of torch: other shapes of the same elements. They cost nothing until an operator needs another order.

The conventions are those of `lower_windows`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from toolchain.errors import GraphError, UnsupportedError
from toolchain.graph.lower_values import Context, Value, padded
from toolchain.graph.operator import Shape


def _view(ctx: Context, x: Value, shape: Sequence[int]) -> Value:
    """`x` under another shape with the same elements in torch's order."""
    dimensions = [int(n) for n in shape]
    size = math.prod(x.shape)
    if dimensions.count(-1) == 1:
        known = -math.prod(dimensions)
        dimensions[dimensions.index(-1)] = size // known if known > 0 and size % known == 0 else 0
    if math.prod(dimensions) != size or not dimensions:
        raise GraphError(f"cannot view {x.shape} as {tuple(shape)}")
    if dimensions[0] != 1:
        raise UnsupportedError(
            f"viewing {x.shape} as {tuple(shape)} moves the batch dimension",
            remedy="keep the batch first: x.flatten(1) or x.view(x.size(0), -1)",
        )
    target = tuple(dimensions)
    return x if target == x.shape else replace(padded(ctx, x), shape=target)


def view(ctx: Context, x: Value, *shape: Any) -> Value:
    """view and reshape: sizes one by one or as a sequence."""
    sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    return _view(ctx, x, sizes)


def flatten(ctx: Context, x: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    """Joins the dimensions start_dim to end_dim."""
    rank = len(x.shape)
    start, end = start_dim % rank, end_dim % rank
    return _view(ctx, x, (*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :]))


def unflatten(ctx: Context, x: Value, dim: int, sizes: Sequence[int]) -> Value:
    """Splits one dimension."""
    dim %= len(x.shape)
    return _view(ctx, x, (*x.shape[:dim], *sizes, *x.shape[dim + 1 :]))


def squeeze(ctx: Context, x: Value, dim: int | Sequence[int] | None = None) -> Value:
    """Drops dimensions of size 1; without `dim` all of them, the batch included, which is refused."""
    rank = len(x.shape)
    dims = range(rank) if dim is None else [dim] if isinstance(dim, int) else dim
    dropped = {d % rank for d in dims if x.shape[d] == 1}
    if 0 in dropped:
        raise UnsupportedError("squeezing the batch dimension", remedy="name the dimensions: squeeze(-1)")
    return _view(ctx, x, [n for d, n in enumerate(x.shape) if d not in dropped])


def unsqueeze(ctx: Context, x: Value, dim: int) -> Value:
    """Puts in a dimension of size 1."""
    dim %= len(x.shape) + 1
    return _view(ctx, x, (*x.shape[:dim], 1, *x.shape[dim:]))


def getitem(ctx: Context, x: Value, index: Any) -> Value:
    """Indexing that only puts in dimensions: x[:, :, None, None]."""
    entries = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in entries:
        place = entries.index(Ellipsis)
        missing = len(x.shape) - sum(e is not None for e in entries) + 1
        entries[place : place + 1] = [slice(None)] * missing
    if any(e is not None and e != slice(None) for e in entries):
        raise UnsupportedError(f"indexing with {index!r}", remedy="use convolutions and pools to select")
    sizes = iter(x.shape)
    shape = [1 if e is None else next(sizes) for e in entries]
    return _view(ctx, x, [*shape, *sizes])


def size(ctx: Context, x: Value, dim: int | None = None) -> int | Shape:
    """x.size() and x.size(dim), as Python integers."""
    return x.shape if dim is None else x.shape[dim]


def attribute(ctx: Context, x: Value, name: str) -> Any:
    """x.shape and x.ndim, as Python values."""
    if name not in ("shape", "ndim"):
        raise UnsupportedError(f"the attribute {name!r} of a tensor", remedy="use x.shape only")
    return x.shape if name == "shape" else len(x.shape)


def dim(ctx: Context, x: Value) -> int:
    """x.dim(), as a Python integer."""
    return len(x.shape)


def copy(ctx: Context, x: Value) -> Value:
    """x.clone(): values of the graph never change."""
    return x
