"""Costs of any .tflite model on a target: every operator alone, their sum, and the whole network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from profilers.footprint import FLASH, ISA, RAM, footprint_of, with_algorithms
from profilers.profile import operator_writer, program
from profilers.settle import patch_operators
from targets.session import Job, Result, Session, is_board
from toolchain.errors import ConfigurationError, ModelFileError, VerificationError
from toolchain.export.native.plan import DIRECT, Plan
from toolchain.graph import Graph
from toolchain.graph.operator import Operator
from toolchain.graph.tflite_reader import read_tflite
from toolchain.measurement import Measurement, Stack
from toolchain.workflow.project import Progress, silent
from toolchain.workflow.sessions import in_time, open_session

_WHOLE, _DIRECT = "whole network", "whole network, direct"


@dataclass(frozen=True)
class OperatorCost:
    """One operator of the model, in order.

    Attributes:
        signature: what it is, on a board with the algorithm that the plan chose for it.
        macs: its multiply-accumulates.
        measurement: alone on the target; None where the target refused it.
        failure: why.
        direct: the same computed directly, where the plan chose another algorithm; else None.
    """

    signature: str
    macs: int
    measurement: Measurement | None
    failure: str
    direct: Measurement | None = None


@dataclass(frozen=True)
class DirectCost:
    """The whole network with all convolutions computed directly, beside a plan that is faster.

    Attributes:
        whole: measured; None where the part has no room for it, or refused it.
        flash_bytes, ram_bytes: everything that the part would hold, computed.
    """

    whole: Measurement | None
    flash_bytes: int
    ram_bytes: int


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
        direct: what the plan is compared with, on a board where it chose another algorithm anywhere; else None.
    """

    model: str
    dtype: str
    stack: Stack
    operators: tuple[OperatorCost, ...]
    whole: Measurement
    time: Measurement | None
    computed: Mapping[str, int]
    note: str
    direct: DirectCost | None = None

    @property
    def sum(self) -> float | None:
        """Sum of the operators measured alone; None when one could not be measured."""
        values = [cost.measurement.value for cost in self.operators if cost.measurement is not None]
        return sum(values) if len(values) == len(self.operators) else None


def bench(path: Path, url: str, *, progress: Progress = silent, wait: bool = False) -> BenchOutcome:
    """Cost a .tflite file. On a board whose kernels have several algorithms, by the plan that is fastest among those
    that the part has room for.

    Raises:
        ModelFileError: the file cannot be read, is corrupt, or the target refuses it.
        UnsupportedError: the model uses an operator outside the list.
        ConfigurationError: the target does not run .tflite files.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(
            f"cannot read {path}: {error.strerror}", remedy="check the path; it must be a .tflite file"
        ) from error
    graph = read_tflite(data)
    if graph.dtype != "int8" and is_board(url):
        raise ConfigurationError(
            f"{url} takes no {graph.dtype} model",
            remedy="quantise the model to int8 first, or cost it with --target cpu:litert",
        )
    with open_session(url, graph.dtype, progress) as session:
        form = session.model_format
        if form in ("onnx", "pt2"):
            raise ConfigurationError(f"{url} does not run .tflite files", remedy="use --target cpu:litert")
        write = operator_writer(form)
        distinct = with_algorithms(form, graph.operators)
        jobs = [Job(op.signature, write(op)) for op in distinct]
        footprint = footprint_of(form, distinct, session.device)
        plan = DIRECT
        if form in ISA:  # what is written depends on what is measured
            results = _measure(session, jobs, progress, wait)

            def cost(op: Operator) -> float:
                found = results.get(op.signature)
                return math.inf if found is None or found.measurement is None else found.measurement.value

            plan = footprint.plan(graph, footprint.limits, cost)
            while missing := [op for op in patch_operators(graph, plan) if op.signature not in results]:
                results |= _measure(session, [Job(op.signature, write(op)) for op in missing], progress, wait)
                plan = footprint.plan(graph, footprint.limits, cost)
            jobs = [Job(_WHOLE, program(form, graph, plan))]
            if plan != DIRECT:
                jobs.append(Job(_DIRECT, program(form, graph)))
            results |= _measure(session, jobs, progress, wait)
        else:  # together, so that a noisy machine is in one phase
            results = _measure(session, [*jobs, Job(_WHOLE, data)], progress, wait)
        whole = results[_WHOLE]
        if whole.measurement is None:
            raise ModelFileError(
                f"{url} cannot run {path.name}: {whole.failure}",
                remedy="a smaller model, or a board with more memory (boardfit boards lists them; docs/boards.md)"
                if is_board(url)
                else "",
            )
        direct = None
        if plan != DIRECT:
            usual = footprint.of_graph(graph)
            direct = DirectCost(results[_DIRECT].measurement, usual[FLASH], usual[RAM])
        found = whole.measurement
        costs = {
            "params": graph.params,
            "macs": graph.macs,
            "constant_bytes": graph.constant_bytes,
            **footprint.of_graph(graph, plan),
        }
        if session.model_format == "tflite" and session.device is None:
            costs[FLASH] = len(data)  # this very file, which may hold more than the graph
        for metric in (FLASH, RAM) if session.device is not None else ():
            counted = int(found.details[metric])
            if footprint.exact and counted != costs[metric]:
                raise VerificationError(
                    f"the device counts {counted:,} {metric}, the plan says {costs[metric]:,}",
                    remedy="report this as a bug",
                )
            costs[metric] = counted
        return BenchOutcome(
            path.name, graph.dtype, session.stack, _operators(graph, plan, results), found, in_time(found, session),
            costs, "" if session.device is None else session.device.note, direct,
        )  # fmt: skip


def _operators(graph: Graph, plan: Plan, results: Mapping[str, Result]) -> tuple[OperatorCost, ...]:
    costs = []
    for op in plan.operators(graph):
        result, usual = results[op.signature], replace(op, algorithm="direct").signature
        direct = results[usual].measurement if usual != op.signature and usual in results else None
        costs.append(OperatorCost(op.signature, op.macs, result.measurement, result.failure, direct))
    return tuple(costs)


def _measure(session: Session, jobs: list[Job], progress: Progress, wait: bool) -> dict[str, Result]:
    def tell(done: int, total: int) -> None:
        progress("bench", done, total, "whole network" if jobs[0].key == _WHOLE else "operators")

    return {result.key: result for result in session.measure(jobs, progress=tell, wait=wait)}
