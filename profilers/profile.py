"""Measure what a LUT lacks: operators as one-operator model files, and whole networks.

Each row is stored when it arrives, so a run that is killed, interrupted or broken by the device resumes where it
stopped. Model files are written a few at a time: a space can have thousands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from profilers.footprint import ISA
from profilers.lut import Failure, Lut, Network, Row, Subject
from profilers.lut_rows import subject_key
from profilers.single import operator_inputs, operator_model
from targets.session import Described, Job, ModelFormat, Result, Session
from targets.timing import Settings
from toolchain.errors import (
    ConfigurationError,
    DeviceError,
    GraphError,
    ModelFileError,
    UnsupportedError,
    VerificationError,
)
from toolchain.export.native.plan import DIRECT, Plan
from toolchain.export.native.writer import write_program
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph import Graph, Operator
from toolchain.graph.operator import DType
from toolchain.measurement import MEASURED_METRICS

Progress = Callable[[int, int], None]  # (subjects that are final, all that are measured in this run)
_Measure = Callable[[list[Job]], Iterator[Result]]

# One call of `Session.measure` gets at most so many models and bytes.
_BATCH_JOBS: Final = 512
_BATCH_BYTES: Final = 64 * 2**20
# What is wrong with one model; anything else is wrong with the run.
_MODEL_ERRORS: Final = (UnsupportedError, GraphError, ModelFileError, VerificationError)
_CALIBRATION_SAMPLES: Final = 8  # for int8 ONNX files of one operator: scales do not change what they cost


@dataclass(frozen=True)
class ProfileReport:
    """What a run did.

    Attributes:
        measured: subjects that got a measurement, unstable ones included.
        skipped: subjects that had a row already.
        failed: subjects that could not be measured, with the reason: signature or network's name -> reason.
        unstable: measured subjects whose measurement did not meet the protocol's gate.
        seconds: wall time of the run.
    """

    measured: int
    skipped: int
    failed: Mapping[str, str]
    unstable: int
    seconds: float


def profile_operators(
    lut: Lut,
    session: Session,
    operators: Iterable[Operator],
    *,
    retry_failures: bool = False,
    retry_unstable: bool = False,
    again: Iterable[Operator] = (),
    settings: Settings | None = None,
    wait: bool = False,
    progress: Progress | None = None,
) -> ProfileReport:
    """Measure every operator that has no row on the session's stack, and store each row as it arrives.

    Args:
        operators: e.g. `Chain.operators`; duplicates are measured once.
        retry_failures: measure those again that failed before.
        retry_unstable: measure those again whose measurement was unstable.
        again: measure these again although they have a row.
        settings, wait: for `Session.measure`.
        progress: called after each row is stored with (final, all of this run).

    Returns:
        What was done. An operator that cannot be written in the session's format, or that the engine refuses, is a
        failure row with its reason and no error.

    Raises:
        DeviceError, and whatever else the session raises: rows that were stored stay, the next run goes on there.
        ConfigurationError: the package that writes the session's model format is not installed.
    """
    write = operator_writer(session.model_format)
    tasks = [_Task(op, partial(write, op)) for op in dict.fromkeys(operators)]
    done = lut.known(
        session.stack, session_metric(session), "operator",
        retry_failures=retry_failures, retry_unstable=retry_unstable,
    ) - {op.signature for op in again}  # fmt: skip
    return _profile(
        lut, session, tasks, done, partial(session.measure, settings=settings, wait=wait), progress
    )


def profile_networks(
    lut: Lut,
    session: Session,
    networks: Mapping[str, Graph],
    *,
    files: Mapping[str, bytes] | None = None,
    plans: Mapping[str, Plan] | None = None,
    retry_failures: bool = False,
    retry_unstable: bool = False,
    settings: Settings | None = None,
    wait: bool = False,
    progress: Progress | None = None,
) -> ProfileReport:
    """Measure whole networks, e.g. to calibrate sums of operators; otherwise as `profile_operators`.

    Args:
        networks: name -> graph. Name and operators are the network's identity in the LUT.
        files: name -> model file in the session's format, for networks that have one already (int8 ONNX files
            cannot be written from an int8 graph). The others are written from their graphs.
        plans: name -> algorithms of its program, direct by default; of no meaning in other formats.
    """
    write, given = graph_writer(session.model_format), files or {}
    planned = plans or {} if session.model_format in ISA else {}

    def task(name: str, graph: Graph) -> _Task:
        if name in planned:
            plan = planned[name]
            return _Task(
                Network(name, plan.operators(graph)), partial(program, session.model_format, graph, plan)
            )
        data = partial(given.__getitem__, name) if name in given else partial(write, graph)
        return _Task(Network(name, graph.operators), data)

    tasks = [task(name, graph) for name, graph in networks.items()]
    done = lut.known(
        session.stack, session_metric(session), "network",
        retry_failures=retry_failures, retry_unstable=retry_unstable,
    )  # fmt: skip
    return _profile(
        lut, session, tasks, done, partial(session.measure, settings=settings, wait=wait), progress
    )


def session_metric(session: Described) -> str:
    """The metric that a target measures, by its evidence: `latency_us`, `cycles` or `instructions`."""
    if session.evidence not in MEASURED_METRICS:
        raise ConfigurationError(
            f"a session with evidence {session.evidence} does not measure", remedy="use another target"
        )
    return MEASURED_METRICS[session.evidence]


def graph_writer(model_format: ModelFormat) -> Callable[[Graph], bytes]:
    """The function that writes graphs as model files of a format.

    Raises:
        ConfigurationError: the package that it needs is not installed; the message names the extra.
    """
    if model_format == "tflite":
        return write_tflite
    if model_format in ISA:
        return partial(program, model_format)
    try:
        if model_format == "onnx":
            from toolchain.export.onnx_writer import graph_to_onnx

            return graph_to_onnx
        from toolchain.export.torch_writer import write_pt2

        return write_pt2
    except ImportError as error:
        extra = "onnx" if model_format == "onnx" else "train"
        raise ConfigurationError(
            f"{model_format} files need {error.name}, which is not installed",
            remedy=f"pip install 'boardfit[{extra}]'",
        ) from error


def program(model_format: ModelFormat, graph: Graph, plan: Plan = DIRECT) -> bytes:
    """A graph as a program of a board's native runtime, with its algorithms."""
    return write_program(graph, ISA[model_format], plan=plan)


def operator_writer(model_format: ModelFormat) -> Callable[[Operator], bytes]:
    """The function that writes one operator as a model file of a format, with random weights, and as a program by the
    operator's own algorithm.

    Raises:
        ConfigurationError: the package that it needs is not installed.
    """
    write = graph_writer(model_format)

    def plain(op: Operator) -> bytes:
        # torch's files have one input.
        graph = operator_model(op, one_input=model_format == "pt2")
        if op.algorithm == "direct":
            return write(graph)
        if model_format not in ISA:
            raise UnsupportedError(f"{model_format} files do not say by which algorithm: {op.signature}")
        return program(model_format, graph, Plan(frozenset({0})))

    def quantized_onnx(op: Operator) -> bytes:
        from toolchain.export.onnx_writer import quantize_onnx

        graph = operator_model(replace(op, dtype="float32"), one_input=True)
        samples = [operator_inputs(graph, seed)[0] for seed in range(_CALIBRATION_SAMPLES)]
        nchw = [np.moveaxis(x, 3, 1) if x.ndim == 4 else x for x in samples]
        return quantize_onnx(write(graph), np.concatenate(nchw))

    return lambda op: quantized_onnx(op) if model_format == "onnx" and op.dtype == "int8" else plain(op)


def anchor_model(model_format: ModelFormat, dtype: DType = "int8") -> bytes:
    """A typical convolution for `open_target(anchor=...)`: the same in every run, so its best time is comparable."""
    return operator_writer(model_format)(
        Operator.parse(f"conv2d 16x16x16->16x16x16 k3x3 s1x1 same relu {dtype}")
    )


def baseline_model(model_format: ModelFormat, dtype: DType = "int8") -> bytes:
    """The smallest operator for `open_target(baseline=...)`: its time is the cost of calling a model at all."""
    return operator_writer(model_format)(Operator.parse(f"fully_connected 1->1 none {dtype}"))


class _Task(NamedTuple):
    subject: Subject
    write: Callable[[], bytes]

    @property
    def key(self) -> str:
        return subject_key(self.subject)[1]

    @property
    def name(self) -> str:
        return self.subject.name if isinstance(self.subject, Network) else self.subject.signature


class _Outcome(NamedTuple):
    """What became of a task: `Session.measure`'s result, or why there was no model to measure."""

    task: _Task
    result: Result
    remedy: str = ""


def _profile(
    lut: Lut,
    session: Session,
    tasks: list[_Task],
    done: set[str],
    measure: _Measure,
    progress: Progress | None,
) -> ProfileReport:
    begin = time.monotonic()
    stack, metric = session.stack, session_metric(session)
    wanted = {task.key: task for task in tasks if task.key not in done}
    failed: dict[str, str] = {}
    measured = unstable = 0
    # Closed whatever happens: when a row cannot be stored, the device must be free before the error travels on.
    with closing(_outcomes(wanted, measure)) as outcomes:
        for task, result, remedy in outcomes:
            found = result.measurement
            if found is None:
                failed[task.name] = result.failure or "the target gave no reason"
                lut.put_many([Row(stack, task.subject, Failure(metric, failed[task.name], remedy))])
            else:
                lut.put_many([Row(stack, task.subject, each) for each in (found, *result.others)])
                measured, unstable = measured + 1, unstable + found.unstable
                if found.metric != metric:  # kept under its own name, but the next run would not find it
                    raise ConfigurationError(
                        f"the target measures {found.metric}, its evidence {session.evidence} stands for {metric}",
                        remedy="report this as a bug of the target",
                    )
            if progress is not None:
                progress(measured + len(failed), len(wanted))
    seconds = time.monotonic() - begin
    return ProfileReport(measured, len(tasks) - len(wanted), failed, unstable, seconds)


def _outcomes(wanted: Mapping[str, _Task], measure: _Measure) -> Generator[_Outcome, None, None]:
    """What becomes of each task, as soon as it is final."""
    jobs: list[Job] = []
    for number, (key, task) in enumerate(wanted.items(), 1):
        try:
            jobs.append(Job(key, task.write()))
        except _MODEL_ERRORS as error:
            yield _Outcome(task, Result(key, None, error.message), error.remedy)
        full = len(jobs) == _BATCH_JOBS or sum(len(job.model) for job in jobs) >= _BATCH_BYTES
        if jobs and (full or number == len(wanted)):
            yield from _measured(wanted, jobs, measure)
            jobs = []


def _measured(
    wanted: Mapping[str, _Task], jobs: list[Job], measure: _Measure
) -> Generator[_Outcome, None, None]:
    unanswered = {job.key for job in jobs}
    results = measure(jobs)
    try:
        for result in results:
            if result.key not in unanswered:
                raise DeviceError(f"the target answered a job that is not open: {result.key!r}")
            unanswered.remove(result.key)
            yield _Outcome(wanted[result.key], result)
    finally:
        if isinstance(results, Generator):
            results.close()
    if unanswered:
        raise DeviceError(
            f"the target stopped after {len(jobs) - len(unanswered)} of {len(jobs)} jobs",
            remedy="check the device and run again: what was measured is kept",
        )
