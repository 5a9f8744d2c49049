"""Costs of any .tflite model on a target: every operator alone, their sum, and the whole network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from profilers.footprint import footprint_of
from profilers.profile import graph_writer, operator_writer
from targets.session import Job, is_board
from toolchain.errors import ConfigurationError, ModelFileError, VerificationError
from toolchain.graph.tflite_reader import read_tflite
from toolchain.measurement import Measurement, Stack
from toolchain.workflow.project import Progress, silent
from toolchain.workflow.sessions import in_time, open_session

_WHOLE = "whole network"


@dataclass(frozen=True)
class OperatorCost:
    """One operator of the model, in order.

    Attributes:
        signature: what it is.
        macs: its multiply-accumulates.
        measurement: alone on the target; None where the target refused it.
        failure: why.
    """

    signature: str
    macs: int
    measurement: Measurement | None
    failure: str


@dataclass(frozen=True)
class BenchOutcome:
    """What the model costs.

    Attributes:
        model: the file.
        dtype: "int8" or "float32".
        stack: what the measured values belong to.
        operators: in execution order; equal operators were measured once.
        whole: the whole network, measured.
        time: the same as `latency_us`, where a board counts cycles; else None.
        computed: flash_bytes, constant_bytes, ram_bytes, macs, params. On a CPU flash is this file and RAM TFLite
            Micro's greedy arena; on a board both are everything that the part holds, and what the device counts.
        note: what every figure must be read with, e.g. that no hardware was used; may be empty.
    """

    model: str
    dtype: str
    stack: Stack
    operators: tuple[OperatorCost, ...]
    whole: Measurement
    time: Measurement | None
    computed: Mapping[str, int]
    note: str

    @property
    def sum(self) -> float | None:
        """Sum of the operators measured alone; None when one could not be measured."""
        values = [cost.measurement.value for cost in self.operators if cost.measurement is not None]
        return sum(values) if len(values) == len(self.operators) else None


def bench(path: Path, url: str, *, progress: Progress = silent, wait: bool = False) -> BenchOutcome:
    """Cost a .tflite file.

    Raises:
        ModelFileError: the file cannot be read, is corrupt, or the target refuses it.
        UnsupportedError: the model uses an operator outside the list.
        ConfigurationError: the target does not run .tflite files.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror}") from error
    graph = read_tflite(data)
    if graph.dtype != "int8" and is_board(url):
        raise ConfigurationError(
            f"{url} takes no {graph.dtype} model",
            remedy="quantise the model to int8 first, or cost it with --target cpu:litert",
        )
    with open_session(url, graph.dtype) as session:
        if session.model_format in ("onnx", "pt2"):
            raise ConfigurationError(f"{url} does not run .tflite files", remedy="use --target cpu:litert")
        model = data if session.model_format == "tflite" else graph_writer(session.model_format)(graph)
        write = operator_writer(session.model_format)
        distinct = list(dict.fromkeys(graph.operators))
        jobs = [Job(op.signature, write(op)) for op in distinct]
        jobs.append(Job(_WHOLE, model))
        results = {
            result.key: result
            for result in session.measure(
                jobs, progress=lambda done, total: progress("bench", done, total, "operators"), wait=wait
            )
        }
        whole = results[_WHOLE]
        if whole.measurement is None:
            raise ModelFileError(
                f"{url} cannot run {path.name}: {whole.failure}",
                remedy="a smaller model, or a board with more memory (boardfit boards lists them; docs/boards.md)"
                if is_board(url)
                else "",
            )
        operators = tuple(
            OperatorCost(
                op.signature, op.macs, results[op.signature].measurement, results[op.signature].failure
            )
            for op in graph.operators
        )
        found = whole.measurement
        footprint = footprint_of(session.model_format, distinct, session.device)
        costs = {
            "params": graph.params,
            "macs": graph.macs,
            "constant_bytes": graph.constant_bytes,
            **footprint.of_graph(graph),
        }
        if session.device is None:
            costs["flash_bytes"] = len(data)
        for metric in ("flash_bytes", "ram_bytes") if session.device is not None else ():
            counted = int(found.details[metric])
            if footprint.exact and counted != costs[metric]:
                raise VerificationError(
                    f"the device counts {counted:,} {metric}, the plan says {costs[metric]:,}",
                    remedy="report this as a bug",
                )
            costs[metric] = counted
        return BenchOutcome(
            path.name, graph.dtype, session.stack, operators, found, in_time(found, session), costs,
            "" if session.device is None else session.device.note,
        )  # fmt: skip
