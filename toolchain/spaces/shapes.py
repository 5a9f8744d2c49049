"""What shape a module gives, found without weights, arithmetic, or torch's compiler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from toolchain.errors import ConfigurationError
from toolchain.graph.operator import Shape


def output_shape(module: nn.Module, shape: Shape, where: str, device: str = "meta") -> Shape:
    """Shape that a module gives for one sample; on torch's meta device without weights or arithmetic.

    Args:
        shape: of the sample, torch's without the batch; the result is the same kind.
        where: what is being run, for messages.

    Raises:
        ConfigurationError: the module does not take that shape, or gives something else than one tensor.
    """
    try:
        with torch.no_grad(), _ShapesOnly():
            output = module.eval()(torch.zeros((1, *shape), device=device))
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigurationError(
            f"{where}: {reason}", remedy="let block() return None where a candidate is not available"
        ) from error
    if not isinstance(output, torch.Tensor) or output.ndim < 2:
        raise ConfigurationError(f"{where}: a block must give one tensor with a batch and channels")
    return tuple(int(size) for size in output.shape[1:])


def data_remedy(shape: Shape) -> str:
    """What to do with samples of a shape that a built-in space does not take."""
    own = "write a space of your own (docs/own-space.md)"
    if len(shape) == 1:
        return f"samples are vectors, which no built-in space takes: {own}"
    if len(shape) == 2:
        return 'for time series set space.name = "connas1d"; grey images need a channel: x = x[:, None]'
    if len(shape) == 3 and shape[2] <= 4 < shape[0]:
        return "channels come first: x = numpy.moveaxis(x, -1, 1)"
    return f'for images set space.name = "image2d" (8 to 96 pixels a side) or "mobilenet" (from 4), or {own}'


_SAME = (
    functional.batch_norm,
    functional.relu,
    functional.relu6,
    functional.hardswish,
    functional.hardsigmoid,
)
_PAIRWISE = (torch.add, torch.Tensor.add, torch.mul, torch.Tensor.mul)
_POOLS = (functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d)
_CONVOLUTIONS = (torch.conv1d, torch.conv2d)


class _ShapesOnly(TorchFunctionMode):
    """Shapes of the commonest functions without torch's meta kernels.

    Those are written in Python. The first one of a process imports Dynamo and SymPy, which takes longer than finding
    all shapes of a space, and a batch norm takes 10 ms each time. Whatever is not certain here is left to torch, with
    its messages.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _SAME and args:
            return args[0]
        if not kwargs and all(
            isinstance(x, torch.Tensor) and x.is_meta for x in args[: 1 + (func in _PAIRWISE)]
        ):
            shape = None
            if func in _PAIRWISE:
                shape = _broadcast(args[0].shape, args[1].shape)
            elif func in _POOLS:
                shape = func(torch.zeros(args[0].shape), *args[1:]).shape
            elif func in _CONVOLUTIONS and all(isinstance(given, tuple) for given in args[3:6]):
                shape = _convolved(*args)
            if shape is not None:
                return torch.empty(shape, device="meta")
        return func(*args, **(kwargs or {}))


def _broadcast(left: Sequence[int], right: Sequence[int]) -> Sequence[int] | None:
    """The shape of a sum or product; None where torch should say it, or what is wrong."""
    pairs = list(zip(left, right, strict=False))
    fits = len(left) == len(right) and all(a == b or 1 in (a, b) for a, b in pairs)
    return [max(pair) for pair in pairs] if fits else None


def _convolved(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: object = None,
    stride: Sequence[int] = (),
    padding: Sequence[int] = (),
    dilation: Sequence[int] = (),
    groups: int = 1,
) -> Sequence[int] | None:
    """The shape that a convolution gives; None where torch should say it, or what is wrong."""
    if x.ndim != weight.ndim or any(len(given) != x.ndim - 2 for given in (stride, padding, dilation)):
        return None
    if x.shape[1] != weight.shape[1] * groups:
        raise ValueError(f"a convolution of {weight.shape[1] * groups} channels gets {x.shape[1]}")
    sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    left = [
        (size + 2 * pad - dilate * (kernel - 1) - 1) // step + 1 for size, kernel, step, pad, dilate in sizes
    ]
    return (x.shape[0], weight.shape[0], *left) if min(left) > 0 else None
