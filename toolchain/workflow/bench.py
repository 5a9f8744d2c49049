"""Costs of any .tflite model on a target: every operator alone, their sum, and the whole network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from profilers.counts import graph_costs
from profilers.profile import operator_writer
from targets.session import Job
from toolchain.errors import ConfigurationError, ModelFileError
from toolchain.graph.tflite_reader import read_tflite
from toolchain.measurement import Measurement, Stack
from toolchain.workflow.project import Progress, silent
from toolchain.workflow.sessions import open_session

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
        computed: flash_bytes (this file), constant_bytes, ram_bytes (TFLite Micro's greedy arena), macs, params.
    """

    model: str
    dtype: str
    stack: Stack
    operators: tuple[OperatorCost, ...]
    whole: Measurement
    computed: Mapping[str, int]

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
    with open_session(url, graph.dtype) as session:
        if session.model_format != "tflite":
            raise ConfigurationError(f"{url} does not run .tflite files", remedy="use --target cpu:litert")
        write = operator_writer(session.model_format)
        distinct = list(dict.fromkeys(graph.operators))
        jobs = [Job(op.signature, write(op)) for op in distinct]
        jobs.append(Job(_WHOLE, data))
        results = {
            result.key: result
            for result in session.measure(
                jobs, progress=lambda done, total: progress("bench", done, total, "operators"), wait=wait
            )
        }
        whole = results[_WHOLE]
        if whole.measurement is None:
            raise ModelFileError(f"{url} cannot run {path.name}: {whole.failure}")
        operators = tuple(
            OperatorCost(
                op.signature, op.macs, results[op.signature].measurement, results[op.signature].failure
            )
            for op in graph.operators
        )
        costs = {**graph_costs(graph), "flash_bytes": len(data)}
        return BenchOutcome(path.name, graph.dtype, session.stack, operators, whole.measurement, costs)
