"""Lowering against torch: whole networks, every form of every operation, random modules, and refusals."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.nets import NETS, nhwc, trained
from toolchain.errors import GraphError, UnsupportedError
from toolchain.graph import Graph, same_padding
from toolchain.graph.float_reference import run_float, run_float_all
from toolchain.graph.lower import lower

torch.set_num_threads(1)


class Net(nn.Module):
    """A module from a function and submodules, for one-line tests."""

    def __init__(self, run: Callable[..., Tensor], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics that are neither 0 nor 1, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator) * 0.5
            tensor.data.copy_(values.abs() + 0.5 if name.endswith("var") else values)
    return module.eval()


def check(module: nn.Module, shape: tuple[int, ...], *, batch: int = 3) -> Graph:
    """Lower and compare with torch; returns the graph."""
    randomize(module)
    graph = lower(module, shape)
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1)) * 2
    with torch.no_grad():
        expected = nhwc(module(x.clone()).numpy())
    ours = run_float(graph, nhwc(x.numpy()))
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * max(1.0, float(np.ptp(expected))))
    return graph


def kinds(graph: Graph) -> str:
    return " ".join(op.kind for op in graph.operators)


# --- whole networks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_trained_nets_equal_torch(name: str) -> None:
    module, x, _, _ = trained(name)
    graph = lower(module, NETS[name].input_shape)
    with torch.no_grad():
        expected = module(torch.from_numpy(x[:100])).numpy()
    ours = run_float(graph, nhwc(x[:100]))
    assert np.abs(ours - expected).max() <= 1e-5 * np.ptp(expected)
    assert len(graph.nodes) == NETS[name].operators


def with_tensorflow_padding(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The same network, padding its strided convolutions as TensorFlow does."""
    sizes: dict[nn.Module, torch.Size] = {}
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv1d | nn.Conv2d) and any(m.padding)]
    hooks = [m.register_forward_hook(lambda m, x, y: sizes.update({m: x[0].shape[2:]})) for m in convolutions]
    with torch.no_grad():
        module.eval()(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if child in sizes:
                pads = [
                    same_padding(*a) for a in zip(sizes[child], child.kernel_size, child.stride, strict=True)
                ]
                child.padding = (0,) * len(pads)
                make = nn.ZeroPad2d if len(pads) == 2 else nn.ZeroPad1d
                flat = tuple(p for pair in reversed(pads) for p in pair)
                setattr(parent, name, nn.Sequential(make(flat), child))
    return module


@pytest.mark.parametrize(
    ("name", "count"), [("resnet8", 14), ("mbnet", 21), ("mbv3", 52), ("dscnn", 11), ("ts1d", 10)]
)
def test_tensorflow_padding_costs_no_operator(name: str, count: int) -> None:
    net = NETS[name]
    module = with_tensorflow_padding(net.build(), net.input_shape)
    assert len(check(module, net.input_shape, batch=1).nodes) == count


def test_sources_are_module_paths() -> None:
    graph = lower(NETS["mbnet"].build(), (1, 32, 32))
    assert [n.source for n in graph.nodes[:3]] == ["0.0", "0.0", "1.body.0.0"]
    assert next(n.source for n in graph.nodes if n.operator.kind == "add") == "1"


def test_names_and_constants_are_the_builder_s() -> None:
    first, second = (lower(randomize(NETS["ts1d"].build()), (3, 128)) for _ in range(2))
    assert first.tensors == second.tensors
    assert first.nodes == second.nodes
    assert all((first.constants[n] == second.constants[n]).all() for n in first.constants)


def test_the_module_is_not_changed_nor_shared() -> None:
    module = NETS["mbv3"].build().train()
    next(module.parameters()).grad = torch.ones(16, 1, 3, 3)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    attributes = [set(vars(m)) for m in module.modules()]
    graph = lower(module, (1, 32, 32))
    assert all(m.training for m in module.modules())
    assert attributes == [set(vars(m)) for m in module.modules()]
    assert all((v == before[k]).all() for k, v in module.state_dict().items())
    assert next(module.parameters()).grad is not None
    constants = {n: d.copy() for n, d in graph.constants.items()}
    with torch.no_grad():
        for p in module.parameters():
            p += 1
    assert all((graph.constants[n] == d).all() for n, d in constants.items())


# --- forms of operations -------------------------------------------------------------------------------------

IMAGE = (4, 8, 10)
SERIES = (4, 12)


@pytest.mark.parametrize(
    ("run", "shape", "expected"),
    [
        (lambda s, x: torch.relu(s.c(x)), IMAGE, "conv2d"),
        (lambda s, x: F.relu(s.c(x), inplace=True), IMAGE, "conv2d"),
        (lambda s, x: s.c(x).relu(), IMAGE, "conv2d"),
        (lambda s, x: s.c(x).relu_(), IMAGE, "conv2d"),
        (lambda s, x: F.relu6(s.c(x)), IMAGE, "conv2d"),
        (lambda s, x: F.hardtanh(s.c(x), 0.0, 6.0), IMAGE, "conv2d"),
        (lambda s, x: s.c(x).clamp(0, 6), IMAGE, "conv2d"),
        (lambda s, x: torch.clamp(s.c(x), min=0, max=6), IMAGE, "conv2d"),
        (lambda s, x: s.c(x).clamp(min=0), IMAGE, "conv2d"),
        (lambda s, x: F.hardsigmoid(s.c(x)), IMAGE, "conv2d"),
        (lambda s, x: F.hardswish(s.c(x)), IMAGE, "conv2d hard_swish"),
        (lambda s, x: F.dropout(s.b(s.c(x)), 0.5, s.training), IMAGE, "conv2d"),
        (lambda s, x: torch.relu(F.dropout(s.b(s.c(x)), training=s.training)), IMAGE, "conv2d"),
        (lambda s, x: s.b(s.c(x)) if s.training is False else x, IMAGE, "conv2d"),
        (lambda s, x: s.b(x), IMAGE, "depthwise_conv2d"),
        (lambda s, x: F.relu6(s.b(x)), IMAGE, "depthwise_conv2d"),
        (lambda s, x: F.relu6(s.b(s.b(s.c(x)))), IMAGE, "conv2d"),
        (lambda s, x: torch.relu(x), IMAGE, "depthwise_conv2d"),
        (lambda s, x: torch.relu(torch.relu(x)), IMAGE, "depthwise_conv2d"),
        (lambda s, x: F.hardsigmoid(x), IMAGE, "depthwise_conv2d"),
        (lambda s, x: F.hardsigmoid(x + x), IMAGE, "add depthwise_conv2d"),
        (lambda s, x: F.relu(x), (5,), "reshape depthwise_conv2d reshape"),
        (lambda s, x: x + torch.relu(x), IMAGE, "depthwise_conv2d add"),
        (lambda s, x: torch.add(s.c(x), s.c(x)).relu(), IMAGE, "conv2d conv2d add"),
        (lambda s, x: x + s.v, IMAGE, "add"),
        (lambda s, x: x + s.v[:, :1, :1], IMAGE, "add"),
        (lambda s, x: 2 * x + 1, IMAGE, "mul add"),
        (lambda s, x: (x - 0.5) / 0.25, IMAGE, "add mul"),
        (lambda s, x: x * 2, (5,), "mul"),
        (lambda s, x: x * s.g(x).unsqueeze(-1).unsqueeze(-1), IMAGE, "average_pool fully_connected reshape mul"),
        (lambda s, x: x * s.g(x)[:, :, None, None], IMAGE, "average_pool fully_connected reshape mul"),
        (lambda s, x: x * F.adaptive_avg_pool2d(x, 1).expand_as(x), IMAGE, "average_pool mul"),
        (lambda s, x: torch.cat([x, s.c(x), x], 1), IMAGE, "conv2d concatenation"),
        (lambda s, x: torch.cat((x, x), dim=-1), IMAGE, "concatenation"),
        (lambda s, x: torch.cat((x, x), dim=2), IMAGE, "concatenation"),
        (lambda s, x: torch.cat((x, x), dim=2), SERIES, "concatenation"),
        (lambda s, x: torch.cat((x, x), dim=1), (5,), "concatenation"),
        (lambda s, x: s.l(torch.cat([x.mean((2, 3))] * 2, 1)[:, :]) , IMAGE,
         "average_pool concatenation fully_connected"),
        (lambda s, x: x.mean((2, 3), keepdim=True), IMAGE, "average_pool"),
        (lambda s, x: x.mean(dim=[-1, -2]), IMAGE, "average_pool reshape"),
        (lambda s, x: torch.mean(x, 3), IMAGE, "average_pool reshape"),
        (lambda s, x: x.mean(-1), SERIES, "average_pool reshape"),
        (lambda s, x: x.view(x.size(0), x.shape[1], -1).mean(-1), IMAGE, "average_pool reshape"),
        (lambda s, x: F.adaptive_avg_pool2d(x, (2, 5)), IMAGE, "average_pool"),
        (lambda s, x: F.adaptive_avg_pool2d(x, (None, 1)), IMAGE, "average_pool"),
        (lambda s, x: F.adaptive_avg_pool1d(x, 4), SERIES, "average_pool"),
        (lambda s, x: F.adaptive_avg_pool2d(F.adaptive_avg_pool2d(x, 1), 1), IMAGE, "average_pool"),
        (lambda s, x: F.max_pool2d(x, 2), IMAGE, "max_pool"),
        (lambda s, x: F.max_pool2d(x, 3, 2, ceil_mode=True), (2, 9, 9), "max_pool"),
        (lambda s, x: F.max_pool2d(x, 3, 1, 1), IMAGE, "max_pool"),
        (lambda s, x: F.max_pool2d(F.relu(x), 3, 2, 1), IMAGE, "depthwise_conv2d pad max_pool"),
        (lambda s, x: F.max_pool2d(F.pad(F.relu(x), (0, 1, 0, 1)), 3, 2), IMAGE, "depthwise_conv2d max_pool"),
        (lambda s, x: F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2), IMAGE, "pad max_pool"),
        (lambda s, x: F.max_pool1d(x, 3, 2), SERIES, "max_pool"),
        (lambda s, x: F.avg_pool2d(x, 3, 2, 1), IMAGE, "pad average_pool"),
        (lambda s, x: F.avg_pool2d(x, 3, 1, 1), IMAGE, "pad average_pool"),
        (lambda s, x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), IMAGE, "average_pool"),
        (lambda s, x: F.avg_pool1d(x, 2), SERIES, "average_pool"),
        (lambda s, x: F.relu(F.avg_pool2d(x, 2)), IMAGE, "average_pool"),
        (lambda s, x: s.c(F.pad(x, (0, 1, 0, 1))), IMAGE, "pad conv2d"),
        (lambda s, x: F.pad(x, (1, 0, 2, 3, 1, 2)), IMAGE, "pad"),
        (lambda s, x: F.pad(x, (1, 2)) * 2, SERIES, "pad mul"),
        (lambda s, x: s.f(x.flatten(1)), IMAGE, "fully_connected"),
        (lambda s, x: s.f(F.relu(x.view(-1, 320))), IMAGE, "depthwise_conv2d fully_connected"),
        (lambda s, x: s.f(torch.flatten(x, 1) + torch.flatten(x, 1)), IMAGE, "add fully_connected"),
        (lambda s, x: torch.softmax(s.f(x.reshape(x.shape[0], -1)), -1), IMAGE, "fully_connected softmax"),
        (lambda s, x: F.softmax(x, dim=1), IMAGE, "softmax"),
        (lambda s, x: x.mean((2, 3)).softmax(1), IMAGE, "average_pool softmax reshape"),
        (lambda s, x: x.mean(3, keepdim=True).squeeze(-1).unsqueeze(2), IMAGE, "average_pool reshape"),
        (lambda s, x: x, IMAGE, ""),
        (lambda s, x: x.clone().contiguous(), IMAGE, ""),
    ],
)  # fmt: skip
def test_forms(run: Callable[..., Tensor], shape: tuple[int, ...], expected: str) -> None:
    module = Net(
        run,
        c=nn.Conv2d(4, 4, 3, padding=1),
        b=nn.BatchNorm2d(4),
        v=torch.ones(1, 4, 8, 10),
        g=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)),
        l=nn.Linear(8, 3),
        f=nn.Linear(320, 3),
    )
    assert kinds(check(module, shape)) == expected


def test_activation_with_two_users_is_not_fused_before_them() -> None:
    def run(s: Net, x: Tensor) -> Tensor:
        y = s.c(x)
        return torch.relu(y) + y

    graph = check(Net(run, c=nn.Conv2d(4, 4, 1)), IMAGE)
    assert kinds(graph) == "conv2d depthwise_conv2d add"


def test_in_place_operations_change_what_later_ones_see() -> None:
    def relu(s: Net, x: Tensor) -> Tensor:
        y = s.c(x)
        return s.r(y) * 2 + y

    def iadd(s: Net, x: Tensor) -> Tensor:
        y = s.c(x)
        z = y + 1
        y += x
        return y * z * y

    def statement(s: Net, x: Tensor) -> Tensor:
        y = s.c(x)
        y.relu_()
        return s.c(y)

    def viewed(s: Net, x: Tensor) -> Tensor:
        y = s.c(x)
        z = y.flatten(1)
        y.relu_()
        return z

    parts = {"c": nn.Conv2d(4, 4, 1), "r": nn.ReLU(inplace=True)}
    assert kinds(check(Net(relu, **parts), IMAGE)) == "conv2d mul add"
    check(Net(iadd, **parts), IMAGE)
    assert kinds(check(Net(statement, **parts), IMAGE)) == "conv2d conv2d"
    with pytest.raises(UnsupportedError, match="in place"):
        lower(Net(viewed, **parts), IMAGE)


def test_shared_modules_and_sliced_weights() -> None:
    class Sliced(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight[:6, :4], self.bias[:6], padding=1)

    shared = Net(lambda s, x: s.b(s.c(s.c(x))), c=nn.Conv2d(4, 4, 3, padding=1), b=nn.BatchNorm2d(4))
    assert kinds(check(shared, IMAGE)) == "conv2d conv2d"
    graph = check(Net(lambda s, x: F.relu(s.c(x)), c=Sliced(8, 8, 3)), IMAGE)
    assert graph.operators[0].output == (1, 8, 10, 6)


def test_functional_batch_norm_is_folded() -> None:
    def run(s: Net, x: Tensor) -> Tensor:
        return F.relu(F.batch_norm(F.conv2d(x, s.w), s.m, s.var, s.a))

    parts = {"w": torch.ones(5, 4, 1, 1), "m": torch.ones(5), "var": torch.ones(5), "a": torch.ones(5)}
    assert kinds(check(Net(run, **parts), IMAGE)) == "conv2d"


def test_defaults_and_several_outputs() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, scale: float | None = None, n: int = 2) -> tuple[Tensor, ...]:
            return (x * n, x + 1) if scale is None else (x, x)

    graph = lower(Two(), IMAGE)
    values = run_float_all(graph, np.ones((1, 8, 10, 4), np.float32))
    assert [float(values[n].max()) for n in graph.outputs] == [2.0, 2.0]
    assert len(graph.outputs) == 2


@pytest.mark.parametrize(
    ("conv", "size", "expected"),
    [
        (nn.Conv2d(2, 3, 1, stride=2), (8, 8), "k1x1 s2x2 valid"),
        (nn.Conv2d(2, 3, 3, padding=1), (8, 8), "k3x3 s1x1 same"),
        (nn.Conv2d(2, 3, 3, padding="same"), (8, 8), "k3x3 s1x1 same"),
        (nn.Conv2d(2, 3, 4, padding="same"), (8, 8), "k4x4 s1x1 same"),
        (nn.Conv2d(2, 3, 3, padding="valid"), (8, 8), "k3x3 s1x1 valid"),
        (nn.Conv2d(2, 3, 3, stride=2, padding=1), (9, 9), "k3x3 s2x2 same"),
        (nn.Conv2d(2, 3, 4, stride=2, padding=1), (8, 8), "k4x4 s2x2 same"),
        (nn.Conv2d(2, 3, 2, stride=2), (9, 9), "k2x2 s2x2 valid"),
        # The row and column behind the last window are never read.
        (nn.Conv2d(2, 3, 3, stride=2, padding=1), (8, 8), "pad p0:0,1:0,1:0,0:0; k3x3 s2x2 valid"),
        (nn.Conv2d(2, 3, (1, 3), stride=(1, 2), padding=(0, 1)), (1, 9), "k1x3 s1x2 same"),
    ],
)
def test_padding_has_one_form(conv: nn.Conv2d, size: tuple[int, int], expected: str) -> None:
    graph = check(nn.Sequential(conv), (2, *size))
    pads = [op.signature.split(" ")[2] for op in graph.operators[:-1]]
    last = " ".join(graph.operators[-1].signature.split(" ")[2:5])
    assert "".join(f"pad {p}; " for p in pads) + last == expected


def test_one_pad_for_two_consumers() -> None:
    def run(s: Net, x: Tensor) -> Tensor:
        y = F.pad(x, (1, 0, 1, 0))
        return s.c(y) + s.d(y)

    graph = check(Net(run, c=nn.Conv2d(4, 4, 3, 2), d=nn.Conv2d(4, 4, 3, 2)), IMAGE)
    assert Counter(kinds(graph).split()) == {"pad": 1, "conv2d": 2, "add": 1}


# --- random modules ------------------------------------------------------------------------------------------


@st.composite
def modules(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """A random stack of layers on an image or a series, ending as a map or a classifier."""
    flat = draw(st.booleans())
    channels = first = draw(st.integers(1, 5))
    size = [draw(st.integers(3, 14)) for _ in range(1 if flat else 2)]
    shape = tuple(size)
    layers: list[nn.Module] = []

    def per_dimension(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in size)

    for _ in range(draw(st.integers(1, 4))):
        layer = draw(st.sampled_from(["conv", "depthwise", "max", "average", "norm", "act", "pad"]))
        if layer in ("conv", "depthwise"):
            kernel, stride, padding = per_dimension(1, 4), per_dimension(1, 3), per_dimension(0, 2)
            if any(n + 2 * p < k for n, k, p in zip(size, kernel, padding, strict=True)):
                continue
            out = draw(st.integers(1, 6)) if layer == "conv" else channels * draw(st.integers(1, 2))
            conv = nn.Conv1d if flat else nn.Conv2d
            groups = channels if layer == "depthwise" else 1
            layers.append(
                conv(channels, out, kernel, stride, padding, groups=groups, bias=draw(st.booleans()))
            )
            channels = out
            size = [
                (n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True)
            ]
        elif layer in ("max", "average"):
            kernel, stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
            padding = draw(st.integers(0, kernel // 2))
            if min(size) + 2 * padding < kernel:
                continue
            if layer == "max":
                layers.append(nn.ReLU())
            pool = {("max", True): nn.MaxPool1d, ("max", False): nn.MaxPool2d,
                    ("average", True): nn.AvgPool1d, ("average", False): nn.AvgPool2d}[layer, flat]  # fmt: skip
            layers.append(pool(kernel, stride, padding))
            size = [(n + 2 * padding - kernel) // stride + 1 for n in size]
        elif layer == "norm":
            layers.append((nn.BatchNorm1d if flat else nn.BatchNorm2d)(channels))
        elif layer == "pad":
            amounts = tuple(draw(st.integers(0, 2)) for _ in range(2 * len(size)))
            layers.append((nn.ZeroPad1d if flat else nn.ZeroPad2d)(amounts))
            pairs = list(zip(amounts[::2], amounts[1::2], strict=True))[::-1]
            size = [n + sum(p) for n, p in zip(size, pairs, strict=True)]
        else:
            layers.append(draw(st.sampled_from([nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid]))())
    if draw(st.booleans()):
        layers += [nn.Flatten(), nn.Linear(channels * int(np.prod(size)), 3)]
        if draw(st.booleans()):
            layers += [nn.BatchNorm1d(3), nn.ReLU()]
    return nn.Sequential(*layers), (first, *shape)


@settings(max_examples=100, deadline=None)
@given(modules())
def test_random_modules_equal_torch(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    module, shape = case
    check(module, shape, batch=2)


# --- refusals ------------------------------------------------------------------------------------------------


def line_of(text: str) -> str:
    """file:line of a line of this file."""
    lines = inspect.getsource(inspect.getmodule(line_of)).splitlines()
    return f"test_lower.py:{next(i for i, line in enumerate(lines, 1) if text in line)}"


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Sequential(nn.ReLU(), nn.LeakyReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)  # the leaky one


class Elu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x + 1
        return F.elu(y)  # a function


class Permuting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)  # a method


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # a branch
            return x
        return -x


@pytest.mark.parametrize(
    ("module", "operation", "path", "text"),
    [
        (nn.Sequential(nn.Identity(), Inner()), "LeakyReLU", "1.act.1", "# the leaky one"),
        (nn.Sequential(Elu()), "elu", "0", "# a function"),
        (nn.Sequential(nn.ReLU(), nn.Sequential(Permuting())), ".permute()", "1.0", "# a method"),
    ],
)
def test_unsupported_operations_are_named(module: nn.Module, operation: str, path: str, text: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        lower(module, (3, 6, 6))
    message = str(caught.value)
    assert message.startswith(f"{operation} in module '{path}' at ")
    assert line_of(f"{text}") in message
    assert "hard-swish" in caught.value.remedy


def test_control_flow_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=re.escape(line_of("# a branch"))) as caught:
        lower(Branching(), (3, 6, 6))
    assert "decide in __init__" in caught.value.remedy


def test_shape_errors_say_where() -> None:
    with pytest.raises(
        GraphError, match=r"Conv2d in module 'c' at .*test_lower.py:\d+: needs 5 input channels, got 4"
    ):
        lower(Net(lambda s, x: s.c(x), c=nn.Conv2d(5, 2, 1)), IMAGE)
    with pytest.raises(GraphError, match="larger than the padded input"):
        lower(Net(lambda s, x: s.c(x), c=nn.Conv2d(4, 2, 11)), IMAGE)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda s, x: F.conv2d(x, s.w, groups=2), "groups=2"),
        (lambda s, x: F.conv2d(x, s.v, dilation=2), "dilation"),
        (lambda s, x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), "neither counted nor SAME"),
        (lambda s, x: F.max_pool2d(x, 3, 2, 1), "may be negative"),
        (lambda s, x: F.max_pool2d(x, 3, 2, ceil_mode=True), "ceil_mode"),
        (lambda s, x: F.adaptive_avg_pool2d(x, 3), "adaptive pool"),
        (lambda s, x: F.pad(x, (1, 1), value=1.0), "value 1.0"),
        (lambda s, x: F.pad(x, (1, 1, 1, 1), mode="reflect"), "reflect"),
        (lambda s, x: F.pad(x, (-1, 1)), "negative"),
        (lambda s, x: x.mean(1), "spatial"),
        (lambda s, x: x.softmax(3), "softmax over"),
        (lambda s, x: x.flatten(), "batch"),
        (lambda s, x: x.flatten(1), "transposition"),
        (lambda s, x: x[:, :2], "indexing"),
        (lambda s, x: 1 - x, "subtracting"),
        (lambda s, x: 1 / x, "dividing"),
        (lambda s, x: x.clamp(-1, 1), "clamp.*not supported"),
        (lambda s, x: torch.cat([x, x]), "dimension 0"),
        (lambda s, x: s.dev(x), "Bilinear|Upsample"),
        (lambda s, x: x.T, "attribute 'T'"),
        (lambda s, x: torch.add(x, x, alpha=2), "alpha"),
        (lambda s, x: F.batch_norm(x, None, None, training=True), "running statistics"),
        (lambda s, x: {"y": x}, "tensors"),
    ],
)
def test_refusals(run: Callable[..., Tensor], message: str) -> None:
    module = Net(run, w=torch.ones(4, 2, 1, 1), v=torch.ones(4, 4, 3, 3), dev=nn.Upsample(scale_factor=2))
    with pytest.raises(UnsupportedError, match=message) as caught:
        lower(module, IMAGE)
    assert caught.value.remedy


def test_several_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    with pytest.raises(UnsupportedError, match="second input"):
        lower(Two(), IMAGE)
