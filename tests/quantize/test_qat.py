"""Training with fake quantisation: what is learnt reaches the file, equals the integers, and pays."""

import numpy as np
import pytest
import tflite
import torch

from tests.nets import NETS, nhwc, trained
from tests.quantize.graphs import accuracy, everything, integer_input, normal
from toolchain.errors import ConfigurationError, DataError
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph import Graph, GraphBuilder, Quantization
from toolchain.graph.integer_reference import run_int8, run_int8_all
from toolchain.graph.lower import lower
from toolchain.quantize.ptq import (
    UNIT_INTERVAL,
    activation_ranges,
    choose_quantization,
    quantize,
    separate_fixed_scales,
)
from toolchain.quantize.qat import FakeQuantizedGraph, train_quantized


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def fake(graph: Graph, x: np.ndarray) -> FakeQuantizedGraph:
    graph = separate_fixed_scales(graph)
    return FakeQuantizedGraph(graph, choose_quantization(graph, activation_ranges(graph, x)))


def small(softmax: bool = False) -> Graph:
    b = GraphBuilder()
    x = b.input((1, 4, 4, 2))
    y = b.conv2d(x, normal(1, 4, 3, 3, 2), normal(2, 4), padding="same", activation="relu")
    y = b.pool("max_pool", y, (2, 2))
    y = b.fully_connected(y, normal(3, 3, 16), normal(4, 3))
    return b.build(b.unary("softmax", y) if softmax else y)


def lsb_errors(graph: Graph, x: np.ndarray) -> np.ndarray:
    """|fake-quantised - int8| of the output, in steps of its scale."""
    model = fake(graph, x)
    with torch.no_grad():
        results = model(torch.from_numpy(x))
    int8 = model.int8_graph()
    output = int8.outputs[0]
    quantization = int8.tensors[output].quantization
    assert quantization is not None
    expected = results[output].numpy() / quantization.scale[0] + quantization.zero_point[0]
    return np.abs(expected - run_int8(int8, integer_input(int8, x)).astype(np.float64))


def test_forward_equals_the_integers_up_to_rounding() -> None:
    errors = lsb_errors(small(), normal(0, 50, 4, 4, 2))
    assert errors.max() <= 1.01
    assert errors.mean() <= 0.1


def test_forward_on_every_kind() -> None:
    x = normal(0, 20, 9, 8, 3)
    model = fake(everything(), x)
    with torch.no_grad():
        results = model(torch.from_numpy(x))
    int8 = model.int8_graph()
    for name, integers in run_int8_all(int8, integer_input(int8, x)).items():
        q = int8.tensors[name].quantization
        assert q is not None
        error = np.abs(results[name].numpy() / q.scale[0] + q.zero_point[0] - integers.astype(np.float64))
        assert error.mean() <= 0.5, name


def test_gradients_are_those_of_the_paper() -> None:
    """One tensor, scale 0.5, zero point 0: values below, inside (twice) and above the range."""
    b = GraphBuilder()
    name = b.input((1, 4))
    graph = b.build(b.reshape(name, (1, 1, 1, 4)))
    model = FakeQuantizedGraph(graph, {n: Quantization.per_tensor(0.5) for n in graph.activations})
    x = torch.tensor([[-100.0, 0.3, 1.2, 70.0]], requires_grad=True)
    model(x)[graph.outputs[0]].sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 1, 1, 0]]
    (log_scale,) = model.scales()
    assert log_scale.grad is not None
    # Rounded - unrounded inside, the bound outside; times the scale, because its logarithm is learnt.
    expected = 0.5 * (-128 + (1 - 0.6) + (2 - 2.4) + 127)
    assert float(log_scale.grad) == pytest.approx(expected, rel=1e-5)


def test_prescribed_and_constant_scales_stay() -> None:
    graph = everything()
    x = normal(0, 32, 9, 8, 3)
    result = train_quantized(graph, x, np.arange(32) % 5, epochs=1, scale_learning_rate=0.1)
    gates = [n.output for n in graph.nodes if n.operator.activation == "hard_sigmoid"]
    for name in (*gates, *graph.outputs):
        assert result.tensors[name].quantization == UNIT_INTERVAL
    before = quantize(graph, x)
    operand = next(name for name in graph.constants if name.startswith("c"))
    assert result.tensors[operand] == before.tensors[operand]
    assert np.array_equal(result.constants[operand], before.constants[operand])
    moved = [n for n in graph.activations if result.tensors[n] != before.tensors[n]]
    assert len(moved) >= len(graph.activations) - 3


def test_learnt_scales_are_those_in_the_file() -> None:
    x = normal(0, 64, 4, 4, 2)
    model = fake(small(), x)
    with torch.no_grad():
        for index, log_scale in enumerate(model.scales()):
            log_scale += 0.1 * index - 0.05
    learnt = [np.float32(s.detach().exp()) for s in model.scales()]
    subgraph = tflite.Model.GetRootAs(write_tflite(model.int8_graph())).Subgraphs(0)
    written = [subgraph.Tensors(i).Quantization() for i in range(subgraph.TensorsLength())]
    scales = {np.float32(q.Scale(0)) for q in written if q is not None and q.ScaleLength() == 1}
    assert set(learnt) <= scales


def test_repeatable_by_seed_and_reports_progress() -> None:
    x, y = normal(0, 50, 4, 4, 2), np.arange(50) % 3
    steps: list[tuple[int, int]] = []
    torch.manual_seed(5)
    first = train_quantized(small(), x, y, epochs=2, seed=1, progress=lambda *s: steps.append(s))
    torch.manual_seed(6)
    again = train_quantized(small(), x, y, epochs=2, seed=1)
    other = train_quantized(small(), x, y, epochs=2, seed=2)
    assert write_tflite(first) == write_tflite(again) != write_tflite(other)
    assert steps == [(n, 4) for n in range(1, 5)]


def test_softmax_at_the_end_is_left_out_of_the_loss() -> None:
    seen = []

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(outputs.detach())
        return torch.nn.functional.cross_entropy(outputs, targets)

    x, y = normal(0, 20, 4, 4, 2), np.arange(20) % 3
    plain = train_quantized(small(), x, y, epochs=1, loss=loss)
    softmax = train_quantized(small(softmax=True), x, y, epochs=1, loss=loss)
    assert torch.equal(seen[0], seen[1])
    for name in plain.constants:
        assert np.array_equal(plain.constants[name], softmax.constants[name])


def test_misuse() -> None:
    x, y = normal(0, 8, 4, 4, 2), np.zeros(8, np.int64)
    with pytest.raises(DataError, match="8 inputs but 7 targets"):
        train_quantized(small(), x, y[:7], epochs=1)
    with pytest.raises(DataError, match="NaN"):
        train_quantized(small(), x * np.nan, y, epochs=1)
    with pytest.raises(ConfigurationError, match="epochs 0"):
        train_quantized(small(), x, y, epochs=0)
    with pytest.raises(ConfigurationError, match="diverged"):
        train_quantized(small(), x, y, epochs=1, loss=lambda a, b: a.sum() * torch.nan)


def test_training_pays_where_quantisation_is_hard() -> None:
    """One output row 60 times larger than the others takes nearly all of a tensor's scale: PTQ loses accuracy."""
    graph, x, y = hard_task()
    train, test = slice(0, 400), slice(400, None)

    before = accuracy(quantize(graph, x[train]), x[test], y[test])
    result = train_quantized(graph, x[train], y[train], epochs=6, learning_rate=2e-3)
    after = accuracy(result, x[test], y[test])
    assert after >= before + 0.05


def hard_task() -> tuple[Graph, np.ndarray, np.ndarray]:
    """A float network that solves its task exactly, with one output row that is 60 times larger than the others."""
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(4, 8)).astype(np.float32)
    x = rng.normal(size=(1200, 8)).astype(np.float32)
    y = (x @ teacher.T).argmax(1)
    b = GraphBuilder()
    name = b.input((1, 8))
    # The last hidden unit is useless and huge; the per-tensor scale of a fully connected layer follows it.
    first = np.concatenate([teacher, 60 * teacher[:1]])
    second = np.concatenate([np.eye(4, dtype=np.float32), np.zeros((4, 1), np.float32)], axis=1)
    y1 = b.fully_connected(name, first, np.zeros(5, np.float32))
    return b.build(b.fully_connected(y1, second, np.zeros(4, np.float32))), x, y


@pytest.mark.slow
@pytest.mark.parametrize("name", list(NETS))
def test_trained_nets(name: str) -> None:
    """Rounding that differs in one value of 300 spreads through the layers: mbv3, the deepest, ends at 0.6 steps."""
    module, x_test, y_test, x_calibration = trained(name)
    graph = lower(module, NETS[name].input_shape)
    assert lsb_errors(graph, nhwc(x_calibration)).mean() <= 0.7
    x_train, y_train = (a[400:1000] for a in NETS[name].data())  # what the net was trained on
    result = train_quantized(graph, nhwc(x_train), y_train, epochs=1)
    x = nhwc(x_test)
    assert accuracy(result, x, y_test) >= accuracy(quantize(graph, nhwc(x_calibration)), x, y_test) - 0.01


def test_average_pools_round_ties_as_their_kernel() -> None:
    """Means of two integers: half of them are ties, and half of those would go the other way as even numbers."""
    b = GraphBuilder()
    x = b.input((1, 1, 2, 1))
    graph = b.build(b.pool("average_pool", x, (1, 2)))
    data = np.random.default_rng(0).integers(-128, 128, (500, 1, 2, 1)).astype(np.float32) / 16
    assert lsb_errors(graph, data).max() < 1e-3
