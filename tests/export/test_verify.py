"""Verification: all forms agree, a broken form is caught and named, what is missing is listed as skipped."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn

from tests.nets import NETS, nhwc, trained
from tests.quantize.graphs import normal
from toolchain.errors import DataError, DeviceError, VerificationError
from toolchain.export import (
    Limits,
    ModelFiles,
    Verification,
    quantize_onnx,
    verify,
    write_onnx,
    write_tflite,
)
from toolchain.export.verify import Comparison
from toolchain.graph import Graph, GraphBuilder
from toolchain.graph.float_reference import run_float
from toolchain.graph.graph import Array
from toolchain.graph.lower import lower
from toolchain.quantize.ptq import quantize


@dataclass(frozen=True)
class Case:
    module: nn.Module
    graph: Graph
    int8: Graph
    files: ModelFiles
    x: Array
    y: Array


@pytest.fixture(scope="module")
def case() -> Case:
    """A small classifier with all its files; labels are its own top-1."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    ).eval()
    x = normal(0, 70, 2, 8, 8)
    with torch.no_grad():
        module[-1].weight *= 20
        module[-1].bias -= module(torch.from_numpy(x)).mean(0)  # so that all classes occur
    graph = lower(module, (2, 8, 8))
    int8 = quantize(graph, nhwc(x))
    float_onnx = write_onnx(module, (2, 8, 8))
    files = ModelFiles(write_tflite(graph), write_tflite(int8), float_onnx, quantize_onnx(float_onnx, x))
    return Case(module, graph, int8, files, nhwc(x), run_float(graph, nhwc(x)).argmax(1))


def check(case: Case, **changes: object) -> Verification:
    c = replace(case, **changes)  # type: ignore[arg-type]
    return verify(c.module, c.graph, c.int8, c.x, c.y, files=c.files)


NAMES = (
    "float graph / torch",
    "float TFLite in LiteRT / torch",
    "float ONNX in ONNX Runtime / torch",
    "int8 graph / torch",
    "int8 TFLite in TFLite Micro / int8 graph",
    "int8 TFLite in LiteRT / int8 graph",
    "int8 ONNX in ONNX Runtime / torch",
)


def test_all_forms_agree(case: Case) -> None:
    result = check(case)
    result.raise_for_breach()
    assert result.ok
    assert not result.skipped
    assert tuple(row.name for row in result.rows) == NAMES
    assert {(row.status, row.samples, row.values) for row in result.rows} == {("passed", 70, 210)}
    tflm = result.rows[4]
    assert (tflm.differing, tflm.max_error, tflm.max_lsb, tflm.agreement) == (0, 0.0, 0, 1.0)
    assert result.rows[0].reference_accuracy == 1.0
    assert result.accuracy.keys() == {"float", "int8"}
    assert result.accuracy["int8"] >= 0.95


def spoiled(graph: Graph, position: int = -1) -> Graph:
    """The same structure with one other weight."""
    name = [node for node in graph.nodes if node.operator.params][position].inputs[-2]
    weights = graph.constants[name].copy()
    weights.reshape(-1)[:4] = -weights.reshape(-1)[:4]
    return replace(graph, constants={**graph.constants, name: weights})


def test_each_broken_form_is_caught_in_its_row(case: Case) -> None:
    files = case.files
    wrong = {
        0: check(case, graph=spoiled(case.graph)),
        1: check(case, files=replace(files, float_tflite=write_tflite(spoiled(case.graph)))),
        2: check(case, files=replace(files, float_onnx=files.int8_onnx)),
        3: check(case, int8=spoiled(case.int8), files=ModelFiles()),
        4: check(case, files=replace(files, int8_tflite=write_tflite(spoiled(case.int8)))),
        5: check(case, files=replace(files, int8_tflite=write_tflite(spoiled(case.int8)))),
        6: check(case, files=replace(files, int8_onnx=shifted_onnx(case))),
    }
    for index, result in wrong.items():
        assert result.rows[index].status == "failed", NAMES[index]
        assert result.rows[index].reason
        assert not result.ok
        expected = {index, 4, 5} if index in (4, 5) else {index}
        assert {i for i, row in enumerate(result.rows) if row.status == "failed"} == expected
    with pytest.raises(VerificationError, match=r"TFLite Micro / int8 graph: .* values differ") as caught:
        wrong[4].raise_for_breach()
    assert caught.value.exit_code == 7


def shifted_onnx(case: Case) -> bytes:
    """The int8 ONNX file of another network."""
    torch.manual_seed(9)
    module = nn.Sequential(nn.Flatten(), nn.Linear(128, 3)).eval()
    return quantize_onnx(write_onnx(module, (2, 8, 8)), case.x.transpose(0, 3, 1, 2))


def test_files_that_do_not_run_fail_with_a_reason(case: Case) -> None:
    junk = ModelFiles(b"junk" * 9, b"", b"junk", case.files.float_tflite)
    result = check(case, files=junk)
    assert [row.status for row in result.rows] == ["passed", "failed", "failed", "passed"] + 3 * ["failed"]
    assert all(row.reason for row in result.rows if row.status == "failed")


def test_outputs_of_another_shape_or_not_finite_fail(case: Case) -> None:
    b = GraphBuilder()
    x = b.input(case.graph.tensors[case.graph.inputs[0]].shape)
    other = b.build(b.reshape(x, (1, 128)))
    row = check(case, files=ModelFiles(write_tflite(other))).rows[1]
    assert "(70, 128), expected (70, 3)" in row.reason
    b = GraphBuilder()
    x = b.input(case.graph.tensors[case.graph.inputs[0]].shape)
    nan = b.build(b.fully_connected(x, np.zeros((3, 128), np.float32), np.full(3, np.nan, np.float32)))
    row = check(case, files=ModelFiles(write_tflite(nan))).rows[1]
    assert (row.status, row.reason) == ("failed", "outputs hold NaN or infinity")


def test_what_is_missing_is_skipped_with_a_reason(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    result = verify(None, case.graph, None, case.x)
    assert [row.status for row in result.rows] == ["skipped"] * 7
    assert all(row.reason for row in result.skipped)
    assert result.ok
    result.raise_for_breach()
    assert result.accuracy == {}

    def missing() -> None:
        raise DeviceError("TensorFlow Lite Micro is not installed")

    # The package's function hides the module of the same name.
    monkeypatch.setattr(import_module("toolchain.export.verify"), "TflmRunner", missing)
    row = check(case).rows[4]
    assert (row.status, row.reason) == ("skipped", "TensorFlow Lite Micro is not installed")


def test_without_a_module_the_float_graph_is_the_reference(case: Case) -> None:
    result = verify(None, case.graph, case.int8, case.x, files=case.files)
    assert [row.status for row in result.rows] == ["skipped", *["passed"] * 6]
    assert result.rows[1].name == "float TFLite in LiteRT / float graph"
    assert result.rows[3].limit == "same top-1 in at least 0.9 of the samples"
    assert result.rows[3].accuracy is None


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: nn.Sequential(nn.Conv1d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 2, 1)), (3, 16)),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)), (6,)),
    ],
)
def test_outputs_that_are_not_classes(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    """A series in, a series out; and a single number."""
    torch.manual_seed(0)
    module = build().train()
    graph = lower(module, shape)
    x = nhwc(normal(1, 40, *shape))
    int8 = quantize(graph, x)
    files = ModelFiles(write_tflite(graph), write_tflite(int8), write_onnx(module, shape))
    result = verify(module, graph, int8, x, files=files, input_shape=shape)
    result.raise_for_breach()
    assert module.training
    assert [row.status for row in result.rows] == ["passed"] * 6 + ["skipped"]
    assert all(row.agreement is None for row in result.rows)
    assert result.rows[3].limit == "error at most 0.1 of the output's range"
    strict = Limits(float_error=1e-12, int8_error=1e-6)
    rows = verify(module, graph, int8, x, files=files, input_shape=shape, limits=strict).rows
    assert "of the output's range, limit 1e-06" in rows[3].reason


def test_limits_are_kept(case: Case) -> None:
    strict = Limits(float_error=0, engine_agreement=1.01, accuracy_loss=-0.1)
    rows = verify(case.module, case.graph, case.int8, case.x, case.y, files=case.files, limits=strict).rows
    assert "accuracy is" in rows[3].reason
    assert "limit 1.01" in rows[5].reason
    unlabelled = verify(case.module, case.graph, case.int8, case.x, limits=Limits(int8_agreement=1.01))
    assert "same top-1 in" in unlabelled.rows[3].reason


def test_bad_data(case: Case) -> None:
    with pytest.raises(DataError, match="empty"):
        check(case, x=case.x[:0], y=case.y[:0])
    with pytest.raises(DataError, match="NaN"):
        check(case, x=case.x * np.nan)
    with pytest.raises(DataError, match=r"labels of shape \(69,\)"):
        check(case, y=case.y[1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(NETS))
def test_trained_nets(name: str) -> None:
    module, x, y, calibration = trained(name)
    shape = NETS[name].input_shape
    graph = lower(module, shape)
    int8 = quantize(graph, nhwc(calibration))
    onnx = write_onnx(module, shape)
    files = ModelFiles(write_tflite(graph), write_tflite(int8), onnx, quantize_onnx(onnx, calibration))
    result = verify(module, graph, int8, nhwc(x), y, files=files, input_shape=shape)
    result.raise_for_breach()
    assert not result.skipped


@pytest.mark.parametrize(
    ("reason", "helps"), [("accuracy is 0.037 lower, limit 0.03", True), ("2 differ", False)]
)
def test_lost_accuracy_says_what_to_try_and_what_one_sample_is(reason: str, helps: bool) -> None:
    result = Verification((Comparison("int8 graph / torch", "failed", samples=27, reason=reason),))
    with pytest.raises(VerificationError) as caught:
        result.raise_for_breach()
    assert caught.value.remedy.startswith("do not deploy these files")
    assert ("27 samples (one is 0.037)" in caught.value.remedy) is helps
    assert ('training.quantization = "qat"' in caught.value.remedy) is helps
