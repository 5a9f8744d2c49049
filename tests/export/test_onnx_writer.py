"""ONNX files: equal to torch and to the graph, the same bytes again, no paths inside, int8 that fuses."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tests.nets import NETS, trained
from tests.quantize.graphs import everything, normal
from toolchain.errors import DataError, ModelFileError, UnsupportedError, VerificationError
from toolchain.export.onnx_writer import (
    check_fused,
    fused_operator_count,
    graph_to_onnx,
    quantize_onnx,
    write_onnx,
)
from toolchain.graph import Graph, GraphBuilder
from toolchain.graph.float_reference import run_float
from toolchain.graph.graph import Array
from toolchain.quantize.ptq import quantize


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def run(data: bytes, x: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def nchw(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x


def assert_same(graph: Graph, x: Array, batch: int | None = 1) -> None:
    data = graph_to_onnx(graph, batch=batch)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    parts = [nchw(x)] if batch is None else [nchw(x[i : i + 1]) for i in range(len(x))]
    result = np.concatenate([run(data, part) for part in parts])
    np.testing.assert_allclose(result, nchw(run_float(graph, x)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [1, None])
def test_graph_with_every_kind_equals_the_reference(batch: int | None) -> None:
    assert_same(everything(), normal(0, 3, 9, 8, 3), batch)
    data = graph_to_onnx(everything(), batch=batch)
    assert data == graph_to_onnx(everything(), batch=batch)


def test_single_operators() -> None:
    """What `everything` leaves out: other layouts of reshape, dense layers on images, joins, 2-D networks."""
    x = normal(0, 2, 3, 4, 6)

    def one(build: str) -> Graph:
        b = GraphBuilder()
        name = b.input((1, 3, 4, 6))
        if build == "dense":
            name = b.fully_connected(name, normal(1, 5, 72), normal(2, 5), activation="hard_sigmoid")
        elif build == "flat":
            name = b.reshape(name, (1, 72))
        elif build == "image":
            name = b.reshape(name, (1, 6, 2, 6))
        elif build == "split":
            name = b.reshape(b.reshape(name, (1, 72)), (1, 2, 3, 12))
        elif build == "rank":
            name = b.reshape(name, (1, 8, 9))
        elif build == "softmax":
            name = b.unary("softmax", name)
        elif build == "rows":
            name = b.concatenation([name, b.constant(normal(1, 1, 2, 4, 6)), name], axis=1)
        elif build == "constant":
            name = b.binary("mul", name, b.constant(normal(1, 1, 3, 4, 1)), activation="relu6")
        else:
            name = b.depthwise_conv2d(
                name, normal(1, 1, 2, 3, 12), normal(2, 12), stride=(2, 1), padding="same"
            )
        return b.build(name)

    for build in ("dense", "flat", "image", "split", "rank", "softmax", "rows", "constant", "depthwise"):
        assert_same(one(build), x)
    b = GraphBuilder()
    name = b.input((1, 6))
    name = b.pad(b.fully_connected(name, normal(1, 4, 6), normal(2, 4), activation="relu6"), ((0, 0), (1, 2)))
    name = b.concatenation([name, b.unary("hard_swish", name)], axis=1)
    assert_same(b.build(name), normal(0, 3, 6), None)
    with pytest.raises(UnsupportedError, match="batch of 1"):
        graph_to_onnx(one("rows"), batch=None)


def test_one_operator_needs_no_transposing() -> None:
    b = GraphBuilder()
    x = b.input((1, 8, 8, 3))
    y = b.conv2d(x, normal(1, 4, 3, 3, 3), normal(2, 4), stride=(2, 2), padding="same", activation="relu")
    assert fused_operator_count(graph_to_onnx(b.build(y))) == {"FusedConv": 1}


def test_int8_graphs_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="float graphs"):
        graph_to_onnx(quantize(everything(), normal(0, 2, 9, 8, 3)))


def small() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 3))


def test_module_equals_torch_and_is_repeatable(capfd: pytest.CaptureFixture[str]) -> None:
    module = small().train()
    data = write_onnx(module, (2, 8, 8))
    assert module.training
    assert data == write_onnx(module, (2, 8, 8))
    assert capfd.readouterr() == ("", "")
    x = normal(0, 5, 2, 8, 8)
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(run(data, x), expected, rtol=1e-5, atol=1e-5)


def test_no_paths_inside() -> None:
    data = write_onnx(small(), (2, 8, 8))
    for text in (b"site-packages", b".py", b"tests", b"stack_trace"):
        assert text not in data


def test_module_that_torch_cannot_export() -> None:
    class Strange(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(UnsupportedError, match="torch cannot export"):
        write_onnx(Strange(), (2,))


def test_quantized_file_fuses_and_is_close() -> None:
    module, x = small().eval(), normal(0, 60, 2, 8, 8)
    data = write_onnx(module, (2, 8, 8))
    int8 = quantize_onnx(data, x)
    assert int8 == quantize_onnx(data, x)
    counts = check_fused(int8)
    assert (counts["QLinearConv"], counts["QGemm"]) == (1, 1)
    expected = run(data, x)
    assert np.abs(run(int8, x) - expected).max() < 0.05 * np.ptp(expected)
    with pytest.raises(VerificationError, match="1 FusedConv"):
        check_fused(data)


def test_activations_are_unsigned_and_weights_signed_per_channel() -> None:
    """U8S8: the only combination that fuses everywhere on x86."""
    int8 = onnx.load_from_string(quantize_onnx(write_onnx(small().eval(), (2, 8, 8)), normal(0, 20, 2, 8, 8)))
    zeros = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    kinds = {node.op_type for node in int8.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    for node in int8.graph.node:
        if node.op_type == "QuantizeLinear":
            assert zeros[node.input[2]].dtype == np.uint8, node.name
    weights = [
        node for node in int8.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in zeros
    ]
    signed = [node for node in weights if zeros[node.input[0]].dtype == np.int8]
    assert len(signed) == 2  # the convolution's and the linear layer's
    assert sorted(zeros[node.input[1]].size for node in signed) == [3, 8]


def test_graph_files_can_be_quantized_too() -> None:
    b = GraphBuilder()
    x = b.input((1, 8, 8, 3))
    y = b.conv2d(x, normal(1, 4, 3, 3, 3), normal(2, 4), padding="same", activation="relu")
    data = graph_to_onnx(b.build(y))
    assert check_fused(quantize_onnx(data, normal(0, 4, 3, 8, 8)))["QLinearConv"] == 1


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((0, 3, 8, 8)), "empty"),
        (np.zeros((4, 8, 8, 3)), r"takes \(batch, \[3, 8, 8\]\)"),
        (np.full((1, 3, 8, 8), np.nan), "NaN"),
    ],
)
def test_bad_calibration_data(samples: Array, message: str) -> None:
    b = GraphBuilder()
    x = b.input((1, 8, 8, 3))
    data = graph_to_onnx(b.build(b.conv2d(x, normal(1, 4, 1, 1, 3), normal(2, 4))))
    with pytest.raises(DataError, match=message):
        quantize_onnx(data, samples)


def test_corrupt_files() -> None:
    x = np.zeros((1, 1), np.float32)
    for data in (b"", b"junk" * 9):
        with pytest.raises(ModelFileError):
            quantize_onnx(data, x)
        with pytest.raises(ModelFileError):
            fused_operator_count(data)
    with pytest.raises(UnsupportedError, match="magic"):
        quantize_onnx(b"", x, method="magic")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(NETS))
def test_trained_nets(name: str) -> None:
    module, x, y, calibration = trained(name)
    data = write_onnx(module, NETS[name].input_shape)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(run(data, x), expected, atol=1e-5 * np.ptp(expected))
    logits = run(quantize_onnx(data, calibration), x)
    assert (logits.argmax(1) == y).mean() >= (expected.argmax(1) == y).mean() - 0.015
