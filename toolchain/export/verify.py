"""Holds every form of a network against the form it was made from, on real data, and says how far each is off.

A form that cannot be checked here (an engine is not installed, a file was not asked for) stays in the list as skipped,
with the reason: what was not compared is never silently taken for equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from targets.runners import LiteRtRunner, OnnxRunner, Runner, TflmRunner
from toolchain.errors import BoardfitError, DataError, DeviceError, VerificationError
from toolchain.graph import Graph, Shape, dequantize_array, quantize_array
from toolchain.graph.float_reference import run_float
from toolchain.graph.graph import Array, Quantization
from toolchain.graph.integer_reference import run_int8
from toolchain.quantize.ptq import checked_input

if TYPE_CHECKING:
    from torch import nn

Status = Literal["passed", "failed", "skipped"]
FloatArray = NDArray[np.float32]

# Samples that run at once: bounds the memory for activations.
_CHUNK = 64
_LOSS = "accuracy is"  # how the reason of a lossy quantisation begins


@dataclass(frozen=True, slots=True)
class Limits:
    """What still counts as the same network.

    Attributes:
        float_error: greatest difference between float outputs, relative to the range of the reference's outputs.
        engine_agreement: least share of samples with the same top-1 when another engine runs the same int8 file
            (engines round differently; TFLite Micro is exact and has no limit but equality).
        int8_agreement: least share of samples with the same top-1 in float and in int8, where there are no labels.
        accuracy_loss: greatest loss of accuracy from float to int8, where there are labels.
        int8_error: greatest difference between float and int8 outputs, relative to their range, where outputs
            are not classes.
    """

    float_error: float = 1e-5
    engine_agreement: float = 0.97
    int8_agreement: float = 0.9
    accuracy_loss: float = 0.03
    int8_error: float = 0.1


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files to verify; None for those that were not written."""

    float_tflite: bytes | None = None
    int8_tflite: bytes | None = None
    float_onnx: bytes | None = None
    int8_onnx: bytes | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One form of the network against another. What does not apply is None.

    Attributes:
        name: "form / reference".
        status: passed, failed or skipped.
        samples: number of inputs compared.
        values: number of output values compared.
        differing: output values that are not equal; for int8 against int8.
        max_error: greatest absolute difference, in units of the network's output.
        max_lsb: greatest difference in steps of the int8 output; for int8 against int8.
        agreement: share of samples with the same top-1; for classes.
        accuracy, reference_accuracy: share of samples whose top-1 is the label; with labels.
        limit: what had to hold, in words.
        reason: why it failed or was skipped; empty when passed.
    """

    name: str
    status: Status
    samples: int = 0
    values: int = 0
    differing: int | None = None
    max_error: float | None = None
    max_lsb: int | None = None
    agreement: float | None = None
    accuracy: float | None = None
    reference_accuracy: float | None = None
    limit: str = ""
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Not failed. A skipped comparison is ok: it says nothing."""
        return self.status != "failed"


@dataclass(frozen=True, slots=True)
class Verification:
    """All comparisons, in a fixed order."""

    rows: tuple[Comparison, ...]

    @property
    def ok(self) -> bool:
        """No comparison failed."""
        return all(row.ok for row in self.rows)

    @property
    def skipped(self) -> tuple[Comparison, ...]:
        """What could not be compared."""
        return tuple(row for row in self.rows if row.status == "skipped")

    @property
    def accuracy(self) -> dict[str, float]:
        """Accuracy of "float" and of "int8" (exact, by the integer reference), 0 to 1; empty without labels."""
        for row in self.rows:
            if row.name.startswith("int8 graph") and row.accuracy is not None:
                return {"float": row.reference_accuracy or 0.0, "int8": row.accuracy}
        floats = [row.reference_accuracy for row in self.rows if row.reference_accuracy is not None]
        return {"float": floats[0]} if floats else {}

    def raise_for_breach(self) -> None:
        """Raise when a comparison failed.

        Raises:
            VerificationError: names every failed comparison with its reason.
        """
        failed = [f"{row.name}: {row.reason}" for row in self.rows if not row.ok]
        if failed:
            remedy = "do not deploy these files"
            lossy = [row for row in self.rows if not row.ok and row.reason.startswith(_LOSS)]
            if lossy:
                remedy += (
                    f"; int8 lost accuracy on {lossy[0].samples} samples (one is {1 / max(1, lossy[0].samples):.3f}): "
                    'try training.quantization = "qat", training.ranges = "mse", or a larger test split'
                )
            raise VerificationError("; ".join(failed), remedy=remedy)


def verify(
    module: nn.Module | None,
    float_graph: Graph,
    int8_graph: Graph | None,
    x: Array,
    y: Array | None = None,
    *,
    files: ModelFiles = ModelFiles(),
    input_shape: Shape | None = None,
    limits: Limits = Limits(),
) -> Verification:
    """Compare all forms of a network on test data. Nothing is raised for a form that differs or does not run.

    Args:
        module: where the graph was lowered from; runs in eval mode. Without it the float graph is the reference.
        float_graph: float32, one input and one output.
        int8_graph: its int8 form, or None.
        x: test inputs, float NHWC with a batch in front (batch x features for 2-D inputs); a few hundred do.
        y: class numbers, one per input, when the network is a classifier.
        files: the files written from module and graphs.
        input_shape: the module's, torch's without batch; by default (C, H, W), or (F,). Needed for (C, L).
        limits: what still passes.

    Returns:
        Seven comparisons, in this order: float graph, float TFLite (LiteRT) and float ONNX (ONNX Runtime) with torch;
        int8 graph with torch; int8 TFLite in TFLite Micro (exact) and in LiteRT with the int8 graph; int8 ONNX with
        torch.

    Raises:
        DataError: x or y are empty, not finite, or of the wrong shape.
        GraphError: a graph cannot be run.
    """
    inputs = checked_input(float_graph, x)
    if y is not None and np.shape(y) != (len(inputs),):
        raise DataError(f"{len(inputs)} inputs but labels of shape {np.shape(y)}")
    check = _Checks(y, limits, _has_classes(float_graph, y))
    graph_result = _in_chunks(lambda part: run_float(float_graph, part), inputs)
    rows = []
    if module is None:
        reference, against = graph_result, "float graph"
        rows.append(Comparison("float graph / torch", "skipped", reason="no torch module was given"))
    else:
        reference, against = _run_module(module, inputs, input_shape), "torch"
        rows.append(check.floats("float graph / torch", lambda: graph_result, reference))
    rows.append(
        check.floats(
            f"float TFLite in LiteRT / {against}",
            lambda: _run_file(LiteRtRunner, files.float_tflite, inputs),
            reference,
        )
    )
    rows.append(
        check.floats(
            f"float ONNX in ONNX Runtime / {against}",
            lambda: _run_file(OnnxRunner, files.float_onnx, inputs),
            reference,
        )
    )
    rows.extend(_int8_rows(check, int8_graph, files, inputs, reference, against))
    rows.append(
        check.int8_with_float(
            f"int8 ONNX in ONNX Runtime / {against}",
            lambda: _run_file(OnnxRunner, files.int8_onnx, inputs),
            reference,
        )
    )
    return Verification(tuple(rows))


def _int8_rows(
    check: _Checks,
    graph: Graph | None,
    files: ModelFiles,
    inputs: FloatArray,
    reference: FloatArray,
    against: str,
) -> list[Comparison]:
    names = (
        f"int8 graph / {against}",
        "int8 TFLite in TFLite Micro / int8 graph",
        "int8 TFLite in LiteRT / int8 graph",
    )
    if graph is None:
        return [Comparison(name, "skipped", reason="no int8 graph was given") for name in names]
    integers = quantize_array(inputs, _quantization(graph, graph.inputs[0]))
    scale = _quantization(graph, graph.outputs[0])
    result = _in_chunks(lambda part: run_int8(graph, part), integers)
    return [
        check.int8_with_float(names[0], lambda: dequantize_array(result, scale), reference),
        check.integers(
            names[1], lambda: _run_file(TflmRunner, files.int8_tflite, integers), result, scale, exact=True
        ),
        check.integers(
            names[2], lambda: _run_file(LiteRtRunner, files.int8_tflite, integers), result, scale, exact=False
        ),
    ]


# Says what a row breaches, or nothing; stands beside its limit in words.
Judge = Callable[[Comparison], str]


class _Skipped(Exception):
    """A comparison cannot be made here; the text says why."""


@dataclass(frozen=True, slots=True)
class _Checks:
    """Makes rows. `make` gives the outputs to be compared, or raises; then the row says so."""

    labels: Array | None
    limits: Limits
    classes: bool

    def floats(self, name: str, make: Callable[[], Array], reference: FloatArray) -> Comparison:
        judge, words = _error_within(self.limits.float_error, _range(reference), "output's range")
        return self._row(name, words, make, reference, judge)

    def int8_with_float(self, name: str, make: Callable[[], Array], reference: FloatArray) -> Comparison:
        if not self.classes:
            judge, words = _error_within(self.limits.int8_error, _range(reference), "output's range")
        elif self.labels is None:
            judge, words = _agreement_of(self.limits.int8_agreement)
        else:
            judge, words = _accuracy_within(self.limits.accuracy_loss)
        return self._row(name, words, make, reference, judge)

    def integers(
        self, name: str, make: Callable[[], Array], reference: Array, scale: Quantization, *, exact: bool
    ) -> Comparison:
        step = scale.scale[0]
        if exact:
            judge, words = _equality()
        elif self.classes:
            judge, words = _agreement_of(self.limits.engine_agreement)
        else:
            judge, words = _error_within(self.limits.int8_error, 255 * step, "int8 range")
        return self._row(name, words, make, reference, judge, step)

    def _row(
        self,
        name: str,
        limit: str,
        make: Callable[[], Array],
        reference: Array,
        judge: Judge,
        step: float | None = None,
    ) -> Comparison:
        """One row; with `step` both sides are int8 and it is the output's scale."""
        try:
            result = _flat(make())
        except (_Skipped, DeviceError) as why:  # DeviceError: the engine is not installed
            return Comparison(name, "skipped", limit=limit, reason=str(why))
        except BoardfitError as why:
            return Comparison(name, "failed", limit=limit, reason=str(why))
        wanted = _flat(reference)
        if result.shape != wanted.shape:
            reason = f"outputs are {result.shape}, expected {wanted.shape}"
            return Comparison(name, "failed", limit=limit, reason=reason)
        if not np.isfinite(result).all():
            return Comparison(name, "failed", limit=limit, reason="outputs hold NaN or infinity")
        error = np.abs(result.astype(np.float64) - wanted.astype(np.float64))
        tops = (result.argmax(1), wanted.argmax(1)) if self.classes else None
        accuracies: tuple[float | None, float | None] = (None, None)
        if tops is not None and self.labels is not None:
            accuracies = (_share(tops[0] == self.labels), _share(tops[1] == self.labels))
        row = Comparison(
            name,
            "passed",
            samples=len(wanted),
            values=wanted.size,
            differing=None if step is None else int((error > 0).sum()),
            max_error=float(error.max()) * (step or 1.0),
            max_lsb=None if step is None else int(error.max()),
            agreement=None if tops is None else _share(tops[0] == tops[1]),
            accuracy=accuracies[0],
            reference_accuracy=accuracies[1],
            limit=limit,
        )
        breach = judge(row)
        return replace(row, status="failed", reason=breach) if breach else row


def _error_within(limit: float, width: float, of: str) -> tuple[Judge, str]:
    def judge(row: Comparison) -> str:
        share = (row.max_error or 0.0) / width
        return "" if share <= limit else f"error is {share:.2g} of the {of}, limit {limit:g}"

    return judge, f"error at most {limit:g} of the {of}"


def _agreement_of(limit: float) -> tuple[Judge, str]:
    def judge(row: Comparison) -> str:
        agreement = row.agreement or 0.0
        return "" if agreement >= limit else f"same top-1 in {agreement:.3f} of the samples, limit {limit:g}"

    return judge, f"same top-1 in at least {limit:g} of the samples"


def _accuracy_within(limit: float) -> tuple[Judge, str]:
    def judge(row: Comparison) -> str:
        loss = (row.reference_accuracy or 0.0) - (row.accuracy or 0.0)
        return "" if loss <= limit + 1e-9 else f"{_LOSS} {loss:.3f} lower, limit {limit:g}"

    return judge, f"accuracy at most {limit:g} lower"


def _equality() -> tuple[Judge, str]:
    def judge(row: Comparison) -> str:
        return f"{row.differing} of {row.values} values differ" if row.differing else ""

    return judge, "all values equal"


def _range(reference: FloatArray) -> float:
    """Width of the values; 1 where all are equal."""
    return float(np.ptp(reference)) or 1.0


def _share(which: Array) -> float:
    return float(np.mean(which))


def _flat(values: Array) -> Array:
    return values.reshape(len(values), -1)


def _has_classes(graph: Graph, labels: Array | None) -> bool:
    """Whether a top-1 has a meaning: there are labels, or the output is one vector of several values."""
    shape = graph.tensors[graph.outputs[0]].shape
    return labels is not None or (shape[-1] > 1 and int(np.prod(shape)) == shape[-1])


def _quantization(graph: Graph, name: str) -> Quantization:
    quantization = graph.tensors[name].quantization
    if quantization is None:
        raise VerificationError(f"tensor {name!r} of the int8 graph has no scale")
    return quantization


def _in_chunks(run: Callable[[Array], Array], x: Array) -> Array:
    return np.concatenate([run(x[start : start + _CHUNK]) for start in range(0, len(x), _CHUNK)])


def _channels_first(x: Array, shape: Shape) -> Array:
    """NHWC as what a module or an ONNX file takes: its shape without batch decides between C x H x W and C x L."""
    if x.ndim == 4:
        x = x.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x).reshape(len(x), *shape)


def _channels_last(y: Array) -> Array:
    """Outputs N x C x H x W or N x C x L as NHWC; 2-D stays."""
    if y.ndim == 3:
        y = y[:, :, None]
    return y.transpose(0, 2, 3, 1) if y.ndim == 4 else y


def _run_module(module: nn.Module, x: FloatArray, input_shape: Shape | None) -> FloatArray:
    import torch

    if input_shape is None:
        input_shape = (x.shape[3], *x.shape[1:3]) if x.ndim == 4 else x.shape[1:]
    training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            result = _in_chunks(
                lambda part: np.asarray(module(torch.from_numpy(part)).numpy()),
                _channels_first(x, input_shape),
            )
    finally:
        module.train(training)
    return np.ascontiguousarray(_channels_last(result), np.float32)


def _run_file(make: Callable[[], Runner], data: bytes | None, x: Array) -> Array:
    """Outputs (NHWC) of a model file for NHWC inputs."""
    if data is None:
        raise _Skipped("no such file was written")
    runner = make()
    try:
        model = runner.load(data)
        if runner.model_format != "onnx":
            return model.run(x)
        return _channels_last(model.run(_channels_first(x, model.inputs[0].shape[1:])))
    finally:
        runner.close()
