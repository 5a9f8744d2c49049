"""The operations that `lower` knows, in every form that torch has for them: modules, functions, methods."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import fx, nn

from toolchain.graph import lower_elementwise as elementwise
from toolchain.graph import lower_views as views
from toolchain.graph import lower_windows as windows


@dataclass(frozen=True, slots=True)
class Call:
    """An operation by the name of `HANDLERS` ("identity" for none) with arguments that may be fx nodes."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    in_place: bool = False


def call_of(module: nn.Module, node: fx.Node) -> Call | None:
    """The operation of an fx node under its own name, whatever form of torch it was written in."""
    args, kwargs = tuple(node.args), dict(node.kwargs)
    name, in_place = None, bool(kwargs.pop("inplace", False))
    if not args and "input" in kwargs:
        args = (kwargs.pop("input"),)
    if node.op == "call_module":
        leaf = module.get_submodule(str(node.target))
        make = next((_MODULES[c] for c in type(leaf).__mro__ if c in _MODULES), None)
        if make is not None:
            name, more = make(leaf)
            args += more
            in_place = bool(getattr(leaf, "inplace", False))
    elif node.op == "call_method":
        method = str(node.target)
        in_place = method.endswith("_")
        name = _METHODS.get(method.rstrip("_"))
    elif node.op == "call_function":
        in_place = in_place or node.target in IN_PLACE or node.target is torch.relu_
        name = IN_PLACE.get(node.target) or _FUNCTIONS.get(node.target)
    if name in ("clamp", "hardtanh"):
        name, args, kwargs = _clamp(name, args, kwargs), args[:1], {}
    if name == "expand_as":
        name = "identity" if all(_broadcasts(module, u, args[1]) for u in node.users) else None
    return None if name is None else Call(name, args, kwargs, in_place)


def _clamp(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """The activation that a clamp or hardtanh is, if any."""
    limits: dict[str, Any] = {"min": None, "max": None} if name == "clamp" else {"min": -1, "max": 1}
    limits |= dict(zip(limits, args[1:], strict=False)) | {
        k.removesuffix("_val"): v for k, v in kwargs.items()
    }
    return {(0, None): "relu", (0, 6): "relu6"}.get((limits["min"], limits["max"]))


def _broadcasts(module: nn.Module, user: fx.Node, other: Any) -> bool:
    """Whether a user of `x.expand_as(other)` would broadcast x to `other` anyway."""
    call = call_of(module, user)
    return call is not None and call.name in ("add", "mul") and other in call.args


def _convolution(m: Any) -> tuple[str, tuple[Any, ...]]:
    return "conv", (m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups, m.padding_mode)


def _batch_norm(m: Any) -> tuple[str, tuple[Any, ...]]:
    return "batch_norm", (m.running_mean, m.running_var, m.weight, m.bias, False, 0.0, m.eps)


def _max_pool(m: Any) -> tuple[str, tuple[Any, ...]]:
    return "max_pool", (m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices)


def _avg_pool(m: Any) -> tuple[str, tuple[Any, ...]]:
    divisor = getattr(m, "divisor_override", None)
    return "avg_pool", (m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, divisor)


# Module -> name and the arguments behind the input. A class stands for its subclasses in torch as well.
_MODULES: Final[dict[type, Callable[[Any], tuple[str, tuple[Any, ...]]]]] = {
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Linear: lambda m: ("linear", (m.weight, m.bias)),
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: lambda m: ("relu", ()),
    nn.ReLU6: lambda m: ("relu6", ()),
    nn.Hardtanh: lambda m: ("hardtanh", (m.min_val, m.max_val)),
    nn.Hardswish: lambda m: ("hard_swish", ()),
    nn.Hardsigmoid: lambda m: ("hard_sigmoid", ()),
    nn.Softmax: lambda m: ("softmax", (m.dim,)),
    nn.Softmax2d: lambda m: ("softmax", (1,)),
    nn.MaxPool1d: _max_pool,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool1d: _avg_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool1d: lambda m: ("adaptive_avg_pool", (m.output_size,)),
    nn.AdaptiveAvgPool2d: lambda m: ("adaptive_avg_pool", (m.output_size,)),
    nn.ConstantPad1d: lambda m: ("pad", (m.padding, "constant", m.value)),
    nn.ConstantPad2d: lambda m: ("pad", (m.padding, "constant", m.value)),
    nn.Flatten: lambda m: ("flatten", (m.start_dim, m.end_dim)),
    nn.Unflatten: lambda m: ("unflatten", (m.dim, m.unflattened_size)),
    nn.Identity: lambda m: ("identity", ()),
    nn.Dropout: lambda m: ("identity", ()),
    nn.Dropout1d: lambda m: ("identity", ()),
    nn.Dropout2d: lambda m: ("identity", ()),
    nn.AlphaDropout: lambda m: ("identity", ()),
}
_FUNCTIONS: Final[dict[Any, str]] = {
    F.conv1d: "conv",
    F.conv2d: "conv",
    F.linear: "linear",
    F.batch_norm: "batch_norm",
    F.relu: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    F.relu6: "relu6",
    F.hardtanh: "hardtanh",
    torch.clamp: "clamp",
    F.hardsigmoid: "hard_sigmoid",
    F.hardswish: "hard_swish",
    F.softmax: "softmax",
    torch.softmax: "softmax",
    operator.add: "add",
    torch.add: "add",
    operator.sub: "sub",
    torch.sub: "sub",
    operator.mul: "mul",
    torch.mul: "mul",
    operator.truediv: "div",
    torch.div: "div",
    torch.cat: "cat",
    torch.concat: "cat",
    torch.concatenate: "cat",
    F.max_pool1d: "max_pool",
    F.max_pool2d: "max_pool",
    F.avg_pool1d: "avg_pool",
    F.avg_pool2d: "avg_pool",
    F.adaptive_avg_pool1d: "adaptive_avg_pool",
    F.adaptive_avg_pool2d: "adaptive_avg_pool",
    torch.mean: "mean",
    F.pad: "pad",
    torch.reshape: "view",
    torch.flatten: "flatten",
    torch.squeeze: "squeeze",
    torch.unsqueeze: "unsqueeze",
    operator.getitem: "getitem",
    getattr: "getattr",
    torch.clone: "copy",
    F.dropout: "identity",
    F.dropout1d: "identity",
    F.dropout2d: "identity",
}
_METHODS: Final[dict[str, str]] = {
    "relu": "relu",
    "clamp": "clamp",
    "softmax": "softmax",
    "add": "add",
    "sub": "sub",
    "mul": "mul",
    "div": "div",
    "mean": "mean",
    "view": "view",
    "reshape": "view",
    "flatten": "flatten",
    "unflatten": "unflatten",
    "squeeze": "squeeze",
    "unsqueeze": "unsqueeze",
    "size": "size",
    "dim": "dim",
    "expand_as": "expand_as",
    "clone": "copy",
    "contiguous": "identity",
    "detach": "identity",
    "float": "identity",
}

IN_PLACE: Final[dict[Any, str]] = {
    operator.iadd: "add",
    operator.isub: "sub",
    operator.imul: "mul",
    operator.itruediv: "div",
}
VIEWS: Final = ("view", "flatten", "unflatten", "squeeze", "unsqueeze", "getitem")
HANDLERS: Final[dict[str, Callable[..., Any]]] = {
    "conv": windows.conv,
    "linear": windows.linear,
    "max_pool": windows.max_pool,
    "avg_pool": windows.avg_pool,
    "adaptive_avg_pool": windows.adaptive_avg_pool,
    "mean": windows.mean,
    "pad": windows.pad,
    "batch_norm": elementwise.batch_norm,
    "relu": elementwise.standalone("relu"),
    "relu6": elementwise.standalone("relu6"),
    "hard_sigmoid": elementwise.standalone("hard_sigmoid"),
    "hard_swish": elementwise.hard_swish,
    "softmax": elementwise.softmax,
    "add": elementwise.add,
    "sub": elementwise.sub,
    "mul": elementwise.mul,
    "div": elementwise.div,
    "cat": elementwise.cat,
    "copy": views.copy,
    "view": views.view,
    "flatten": views.flatten,
    "unflatten": views.unflatten,
    "squeeze": views.squeeze,
    "unsqueeze": views.unsqueeze,
    "getitem": views.getitem,
    "size": views.size,
    "dim": views.dim,
    "getattr": views.attribute,
}
