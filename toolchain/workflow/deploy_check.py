"""Whether a target's answers are the reference's: the test split runs there before anything is deployed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from profilers.footprint import ISA
from targets.session import Session
from toolchain.errors import VerificationError
from toolchain.export.verify import Limits
from toolchain.graph import Graph, dequantize_array, quantize_array
from toolchain.graph.float_reference import run_float
from toolchain.graph.integer_reference import run_int8
from toolchain.graph.tflite_reader import read_tflite
from toolchain.workflow.data import to_nhwc
from toolchain.workflow.exported import FLOAT_PT2, FLOAT_TFLITE, INT8_ONNX, INT8_TFLITE
from toolchain.workflow.project import Project

# An engine rounds in its own way (XNNPACK differs from TFLite Micro by a few steps); most answers must stay.
LEAST_AGREEMENT: Final = 0.97
PARTS: Final = 16  # of the test split, each with a report of progress


def read_exported(project: Project, name: str) -> Graph:
    """The graph of an exported .tflite file."""
    return read_tflite((project.model_folder / name).read_bytes())


def _untold(done: int, total: int) -> None:
    """Where nobody wants to know."""


def _in_parts(
    session: Session, model: bytes, inputs: NDArray[Any], tell: Callable[[int, int], None]
) -> NDArray[Any]:
    answers, done = [], 0
    for part in np.array_split(inputs, min(PARTS, len(inputs))):
        answers.append(session.run(model, part))
        done += len(part)
        tell(done, len(inputs))
    return np.concatenate(answers)


def check_outputs(
    project: Project, session: Session, model: bytes, name: str, tell: Callable[[int, int], None] = _untold
) -> tuple[dict[str, Any], NDArray[Any]]:
    """Run the test split on the target, and compare with the reference and with the labels; and the inputs.

    Args:
        tell: told how many of how many samples are done; a board over a wire takes its time.
    """
    integer = name == INT8_TFLITE or session.model_format in ISA
    graph = read_exported(project, INT8_TFLITE if integer else FLOAT_TFLITE)
    data = project.data
    x, y = data.x["test"], data.y["test"]
    feed: NDArray[Any]
    if integer:
        source, result = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
        assert source.quantization is not None  # an int8 graph has them everywhere (Graph's validation)
        assert result.quantization is not None
        feed = inputs = quantize_array(to_nhwc(x), source.quantization)
        answers = _in_parts(session, model, inputs, tell).reshape(len(x), -1)
        reference = run_int8(graph, inputs).reshape(len(x), -1)
        differing: int | None = int(np.count_nonzero(answers != reference))
        difference = float(np.abs(answers.astype(np.int32) - reference.astype(np.int32)).max())
        scores = dequantize_array(answers, result.quantization)
        expected = dequantize_array(reference, result.quantization)
    else:
        inputs_nhwc = to_nhwc(x)
        feed = inputs_nhwc if session.model_format == "tflite" else _channels_first(inputs_nhwc, name, x)
        scores = _in_parts(session, model, feed, tell).reshape(len(x), -1).astype(np.float32)
        expected = run_float(graph, inputs_nhwc).reshape(len(x), -1)
        differing = None
        difference = float(np.abs(scores - expected).max())
    agreement = float(np.mean(scores.argmax(1) == expected.argmax(1)))
    accuracy, wanted = (float(np.mean(values.argmax(1) == y)) for values in (scores, expected))
    if name == INT8_ONNX:
        # Its reference is the float graph: quantised answers may differ, as long as they are as often right.
        if accuracy < wanted - Limits().accuracy_loss:
            raise VerificationError(
                f"on the target {100 * accuracy:.1f} % of {len(x)} answers are right, by the float reference "
                f"{100 * wanted:.1f} %; the limit is {100 * Limits().accuracy_loss:.0f} % less",
                remedy="run `boardfit export --force` and look at its table; do not use this model",
            )
    elif session.device is not None and differing:
        raise VerificationError(
            f"on the board {differing} of {answers.size} output values are not those of TFLite Micro, "
            f"by up to {difference:.0f} steps; all must be equal",
            remedy="run `boardfit flash`, which writes the firmware anew; if it stays, report it as a bug",
        )
    elif agreement < LEAST_AGREEMENT:
        raise VerificationError(
            f"on the target {100 * agreement:.1f} % of {len(x)} answers are the reference's, "
            f"the limit is {100 * LEAST_AGREEMENT:.0f} %",
            remedy="run `boardfit export --force` and look at its table; do not use this model",
        )
    return {
        "samples": len(x),
        "accuracy": accuracy,
        "agreement": agreement,
        "differing": differing,
        "max_difference": difference,
    }, feed


def _channels_first(nhwc: NDArray[np.float32], name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """ONNX files take torch's own layout; .pt2 files are made from the graph and take N x C x 1 x L for series."""
    return np.ascontiguousarray(nhwc.transpose(0, 3, 1, 2)) if name == FLOAT_PT2 and nhwc.ndim == 4 else x
