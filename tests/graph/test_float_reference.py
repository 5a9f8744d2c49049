"""The float reference against torch, operator by operator. Whole networks: test_lower.py."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tests.nets import nhwc
from toolchain.errors import GraphError
from toolchain.graph import GraphBuilder, Quantization, same_padding
from toolchain.graph.float_reference import run_float, run_float_all
from toolchain.graph.operator import Activation, Padding

F32 = np.float32
TORCH = {"none": lambda y: y, "relu": F.relu, "relu6": F.relu6, "hard_sigmoid": F.hardsigmoid}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(F32)


def close(ours: np.ndarray, torchs: torch.Tensor) -> None:
    expected = nhwc(torchs.numpy())
    assert ours.shape == expected.shape
    assert ours.dtype == F32
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.sampled_from(["same", "valid"]),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    activation=st.sampled_from(["none", "relu", "relu6", "hard_sigmoid"]),
    batch=st.integers(1, 3),
)
def test_convolutions_and_pools(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: Padding,
    channels: tuple[int, int],
    activation: Activation,
    batch: int,
) -> None:
    if padding == "valid":
        kernel = (min(kernel[0], size[0]), min(kernel[1], size[1]))
    (top, bottom), (left, right) = (
        same_padding(*one) if padding == "same" else (0, 0) for one in zip(size, kernel, stride, strict=True)
    )
    cin, factor = channels
    x = normal(0, batch, cin, *size)
    dense, deep = normal(1, factor, cin, *kernel), normal(2, cin * factor, 1, *kernel)
    bias = normal(3, cin * factor)
    padded = F.pad(torch.from_numpy(x), (left, right, top, bottom))
    inside = F.pad(torch.ones(1, 1, *size), (left, right, top, bottom))
    lowest = F.pad(torch.from_numpy(x), (left, right, top, bottom), value=-torch.inf)

    builder = GraphBuilder()
    name = builder.input((1, *size, cin))
    conv = builder.conv2d(
        name,
        dense.transpose(0, 2, 3, 1),
        bias[:factor],
        stride=stride,
        padding=padding,
        activation=activation,
    )
    depthwise = builder.depthwise_conv2d(
        name, deep.transpose(1, 2, 3, 0), bias, stride=stride, padding=padding, activation=activation
    )
    pool: Activation = "none" if activation == "hard_sigmoid" else activation
    average = builder.pool("average_pool", name, kernel, stride=stride, padding=padding, activation=pool)
    largest = builder.pool("max_pool", name, kernel, stride=stride, padding=padding, activation=pool)
    values = run_float_all(builder.build(largest), nhwc(x))

    act = TORCH[activation]
    weights = torch.from_numpy(dense), torch.from_numpy(deep), torch.from_numpy(bias)
    close(values[conv], act(F.conv2d(padded, weights[0], weights[2][:factor], stride)))
    close(values[depthwise], act(F.conv2d(padded, weights[1], weights[2], stride, groups=cin)))
    total = F.avg_pool2d(padded, kernel, stride, divisor_override=1)
    close(values[average], TORCH[pool](total / F.avg_pool2d(inside, kernel, stride, divisor_override=1)))
    close(values[largest], TORCH[pool](F.unfold(lowest, kernel, stride=stride).reshape(
        batch, cin, kernel[0] * kernel[1], *values[largest].shape[1:3]).amax(2)))  # fmt: skip


def test_the_rest() -> None:
    builder = GraphBuilder()
    x = builder.input((1, 4, 6, 3))
    gate = builder.pool("average_pool", x, (4, 6))
    scaled = builder.binary("mul", x, gate, activation="relu")
    shifted = builder.binary("add", scaled, builder.constant(normal(1, 1, 1, 1, 3)), activation="relu6")
    swish = builder.unary("hard_swish", shifted)
    padded = builder.pad(swish, ((0, 0), (1, 2), (0, 1), (2, 0)))
    joined = builder.concatenation([padded, builder.constant(normal(2, 1, 7, 7, 2)), padded])
    soft = builder.unary("softmax", joined)
    flat = builder.reshape(soft, (1, 7 * 7 * 12))
    out = builder.fully_connected(flat, normal(3, 4, 588), normal(4, 4), activation="hard_sigmoid")
    data = normal(5, 5, 4, 6, 3)
    values = run_float_all(builder.build(out), data)

    t = torch.from_numpy(data)
    y = F.relu(t * t.mean((1, 2), keepdim=True))
    y = F.hardswish(F.relu6(y + torch.from_numpy(normal(1, 1, 1, 1, 3))))
    y = F.pad(y, (2, 0, 0, 1, 1, 2))
    y = torch.cat([y, torch.from_numpy(normal(2, 1, 7, 7, 2)).expand(5, -1, -1, -1), y], 3).softmax(3)
    np.testing.assert_allclose(values[soft], y, atol=1e-6)
    y = F.hardsigmoid(
        F.linear(y.flatten(1), torch.from_numpy(normal(3, 4, 588)), torch.from_numpy(normal(4, 4)))
    )
    np.testing.assert_allclose(values[out], y, atol=1e-5)
    assert set(values) == {x, gate, scaled, shifted, swish, padded, joined, soft, flat, out}


def test_a_large_batch_is_a_batch() -> None:
    builder = GraphBuilder()
    x = builder.input((1, 32, 32, 8))
    graph = builder.build(builder.conv2d(x, normal(0, 8, 5, 5, 8), normal(1, 8), padding="same"))
    data = normal(2, 40, 32, 32, 8)  # more windows than one block holds
    whole = run_float(graph, data)
    for i in (0, 20, 39):
        np.testing.assert_allclose(whole[i : i + 1], run_float(graph, data[i : i + 1]), atol=1e-4)


def test_the_input_is_left_alone() -> None:
    builder = GraphBuilder()
    x = builder.input((1, 5))
    graph = builder.build(builder.reshape(x, (1, 5)))
    data = normal(0, 3, 5)
    before = data.copy()
    assert run_float(graph, data).shape == (3, 5)
    assert (data == before).all()


def test_wrong_inputs() -> None:
    builder = GraphBuilder()
    x = builder.input((1, 4, 6, 3))
    graph = builder.build(x)
    with pytest.raises(GraphError, match=r"\(2, 3, 4, 6\), the graph needs N x 4 x 6 x 3"):
        run_float(graph, normal(0, 2, 3, 4, 6))
    builder.input((1, 2))
    two = builder.build(x)
    with pytest.raises(GraphError, match="one input"):
        run_float(two, normal(0, 2, 4, 6, 3))
    int8 = GraphBuilder("int8")
    quantized = int8.build(int8.input((1, 3), Quantization.per_tensor(0.5)))
    with pytest.raises(GraphError, match="run_int8"):
        run_float(quantized, normal(0, 2, 3))
