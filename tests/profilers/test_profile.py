"""Profiling runs: what is missing is measured and stored as it arrives; what breaks in the middle loses nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from profilers import profile
from profilers.lut import Failure, Lut, Network
from profilers.profile import anchor_model, baseline_model, profile_networks, profile_operators
from profilers.single import operator_model
from targets.session import Job, ModelFormat, Result, open_target
from targets.timing import Settings
from toolchain.errors import ConfigurationError, DeviceError, LutError, UnsupportedError
from toolchain.graph import Operator
from toolchain.measurement import Evidence, Measurement, Stack

OPS = [Operator.parse(f"fully_connected {n}->4 none int8") for n in range(1, 9)]
STACK = Stack.of({"target": "fake"})
FAST = Settings(samples=4, fewest=2, inner_us=20, group=4, retries=0, pause_s=0, kernel_s=0.05, settle=1)


class FakeSession:
    """Answers `n + 0.5` for the n-th operator; refuses, wavers or breaks where told."""

    def __init__(
        self,
        *,
        model_format: ModelFormat = "tflite",
        evidence: Evidence = Evidence.HOST_WALL,
        refuse: Iterable[Operator] = (),
        waver: Iterable[Operator] = (),
        break_after: int | None = None,
    ) -> None:
        self.stack, self.model_format, self.evidence = STACK, model_format, evidence
        self.refuse = {op.signature for op in refuse}
        self.waver = {op.signature for op in waver}
        self.break_after = break_after
        self.seen: list[str] = []
        self.models: dict[str, bytes] = {}
        self.calls = 0
        self.closed = 0

    def measure(self, jobs: Iterable[Job], **options: Any) -> Iterator[Result]:
        self.calls += 1
        try:
            for job in reversed(list(jobs)):  # not always in the order of the jobs
                if self.break_after is not None and len(self.seen) >= self.break_after:
                    raise DeviceError("the board went away")
                self.seen.append(job.key)
                self.models[job.key] = job.model
                if job.key in self.refuse:
                    yield Result(job.key, None, "the engine refuses it")
                else:
                    yield Result(job.key, self.measurement(job.key))
        finally:
            self.closed += 1

    def measurement(self, key: str) -> Measurement:
        metric = "latency_us" if self.evidence is Evidence.HOST_WALL else "cycles"
        return Measurement(metric, len(key) + 0.5, self.evidence, (1.0,), key in self.waver)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"profiling does not use {name}")


@pytest.fixture
def lut() -> Iterator[Lut]:
    with Lut.in_memory() as made:
        yield made


def run(lut: Lut, session: FakeSession, operators: Iterable[Operator] = OPS, **options: Any) -> Any:
    return profile_operators(lut, session, operators, **options)  # type: ignore[arg-type]


def test_a_first_run_measures_all_a_second_one_nothing(lut: Lut) -> None:
    session, steps = FakeSession(), []
    report = run(lut, session, [*OPS, *OPS], progress=lambda done, total: steps.append((done, total)))
    assert (report.measured, report.skipped, report.failed, report.unstable) == (8, 0, {}, 0)
    assert report.seconds >= 0
    assert steps == [(n, 8) for n in range(1, 9)]
    assert session.models[OPS[2].signature][4:8] == b"TFL3"
    table = lut.table(STACK, "latency_us")
    assert table.values == {op: len(op.signature) + 0.5 for op in OPS}
    again = FakeSession()
    report = run(lut, again)
    assert (report.measured, report.skipped, again.calls) == (0, 8, 0)


def test_a_row_is_stored_when_it_arrives(tmp_path: Path) -> None:
    with Lut.open(tmp_path / "a.lut") as lut, Lut.open(tmp_path / "a.lut") as other:
        seen: list[int] = []
        run(lut, FakeSession(), progress=lambda done, total: seen.append(len(other)))
        assert seen == list(range(1, 9))


def test_a_run_that_breaks_resumes_where_it_stopped(lut: Lut) -> None:
    session = FakeSession(break_after=3)
    with pytest.raises(DeviceError, match="went away"):
        run(lut, session)
    assert len(lut) == 3
    second = FakeSession()
    report = run(lut, second)
    assert (report.measured, report.skipped) == (5, 3)
    assert not set(second.seen) & set(session.seen)


def test_interruption_keeps_what_was_measured_and_frees_the_device(lut: Lut) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    session = FakeSession()
    with pytest.raises(KeyboardInterrupt):
        run(lut, session, progress=interrupt)
    assert len(lut) == 4
    assert session.closed == 1


def test_a_row_that_cannot_be_stored_frees_the_device(lut: Lut) -> None:
    session = FakeSession()
    session.measurement = lambda key: replace(  # type: ignore[method-assign]
        FakeSession.measurement(session, key), value=float("nan")
    )
    with pytest.raises(LutError, match="is nan"):
        run(lut, session)
    assert session.closed == 1


def test_refused_operators_become_failures_and_are_retried_on_request(lut: Lut) -> None:
    report = run(lut, FakeSession(refuse=[OPS[1]]))
    assert (report.measured, report.failed) == (7, {OPS[1].signature: "the engine refuses it"})
    row = lut.get(STACK, OPS[1], "latency_us")
    assert row is not None
    assert isinstance(row.outcome, Failure)
    assert run(lut, FakeSession()).skipped == 8
    report = run(lut, FakeSession(), retry_failures=True)
    assert (report.measured, report.skipped) == (1, 7)
    assert not lut.rows(STACK)[0].failed


def test_unstable_rows_are_flagged_and_retried_on_request(lut: Lut) -> None:
    report = run(lut, FakeSession(waver=OPS[:2]))
    assert (report.measured, report.unstable) == (8, 2)
    assert lut.table(STACK, "latency_us").unstable == set(OPS[:2])
    assert run(lut, FakeSession()).skipped == 8
    report = run(lut, FakeSession(), retry_unstable=True)
    assert (report.measured, report.skipped, report.unstable) == (2, 6, 0)
    assert lut.table(STACK, "latency_us").unstable == set()


def test_an_operator_that_has_no_file_in_the_format_is_a_failure(
    lut: Lut, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(op: Operator) -> bytes:
        raise UnsupportedError("the format knows float32 only", remedy="use cpu:litert")

    monkeypatch.setattr(profile, "operator_writer", lambda model_format: refuse)
    session = FakeSession()
    report = run(lut, session, OPS[:2])
    assert report.measured == 0
    assert report.failed == {op.signature: "the format knows float32 only" for op in OPS[:2]}
    assert session.calls == 0
    row = lut.get(STACK, OPS[0], "latency_us")
    assert row is not None
    assert isinstance(row.outcome, Failure)
    assert row.outcome.remedy == "use cpu:litert"


def test_many_models_are_written_a_few_at_a_time(lut: Lut, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "_BATCH_JOBS", 3)
    session, steps = FakeSession(), []
    run(lut, session, progress=lambda done, total: steps.append(done))
    assert (session.calls, session.closed, steps) == (3, 3, list(range(1, 9)))
    monkeypatch.setattr(profile, "_BATCH_BYTES", 1)
    session = FakeSession()
    with Lut.in_memory() as empty:
        run(empty, session)
    assert session.calls == 8


def test_a_board_that_counts_cycles(lut: Lut) -> None:
    run(lut, FakeSession(evidence=Evidence.CYCLES_ESTIMATED))
    assert lut.table(STACK, "cycles").evidence is Evidence.CYCLES_ESTIMATED
    with pytest.raises(ConfigurationError, match="does not measure"):
        run(lut, FakeSession(evidence=Evidence.PREDICTED))


def test_targets_that_break_their_promises(lut: Lut) -> None:
    short = FakeSession()
    short.measure = lambda jobs, **_: iter(())  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="stopped after 0 of 8"):
        run(lut, short)
    strange = FakeSession()
    strange.measure = lambda jobs, **_: iter([Result("what?", None, "x")])  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match=r"not open: 'what\?'"):
        run(lut, strange)
    wrong = FakeSession()
    wrong.measurement = lambda key: Measurement(  # type: ignore[method-assign]
        "energy_uj", 1.0, Evidence.HOST_WALL
    )
    with pytest.raises(ConfigurationError, match="energy_uj"):
        run(lut, wrong)
    assert len(lut) == 1  # nothing measured is thrown away


def test_networks_are_measured_and_resumed_alike(lut: Lut) -> None:
    graphs = {f"net{i}": operator_model(op) for i, op in enumerate(OPS[:3])}
    session = FakeSession()
    report = profile_networks(lut, session, graphs, files={"net1": b"a file"})  # type: ignore[arg-type]
    assert (report.measured, report.skipped) == (3, 0)
    found = dict(lut.networks(STACK, "latency_us"))
    assert set(found) == {Network(f"net{i}", (op,)) for i, op in enumerate(OPS[:3])}
    assert b"a file" in session.models.values()
    assert lut.table(STACK, "latency_us").values == {}
    again = profile_networks(lut, FakeSession(refuse=()), graphs)  # type: ignore[arg-type]
    assert (again.measured, again.skipped) == (0, 3)


def test_without_onnx_the_extra_is_named(lut: Lut, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "toolchain.export.onnx_writer", None)
    with pytest.raises(ConfigurationError, match=r"boardfit\[onnx\]"):
        run(lut, FakeSession(model_format="onnx"))


# Real engines. Only the machinery is looked at, never a time.

MIXED = [
    "conv2d 8x8x3->4x4x16 k3x3 s2x2 same relu {}",
    "depthwise_conv2d 8x8x16->8x8x16 k3x3 s1x1 same relu6 {}",
    "fully_connected 64->10 none {}",
    "add 4x4x8,4x4x8->4x4x8 relu {}",
    "mul 4x4x8,1x1x8->4x4x8 none {}",
    "average_pool 8x8x8->1x1x8 k8x8 s8x8 valid none {}",
    "max_pool 8x8x8->4x4x8 k2x2 s2x2 valid none {}",
    "pad 4x4x8->6x5x8 p0:0,1:1,0:1,0:0 {}",
    "reshape 4x4x8->128 {}",
    "softmax 10->10 {}",
    "hard_swish 4x4x8->4x4x8 {}",
    "concatenation 4x4x8,4x4x3->4x4x11 axis3 {}",
]


@pytest.mark.parametrize(
    ("url", "dtype", "package"),
    [
        ("cpu:litert", "int8", "ai_edge_litert"),
        ("cpu:litert", "float32", "ai_edge_litert"),
        ("cpu:onnxruntime", "float32", "onnxruntime"),
        pytest.param("cpu:onnxruntime", "int8", "onnxruntime", marks=pytest.mark.slow),
        pytest.param("cpu:torch", "float32", "torch", marks=pytest.mark.slow),
    ],
)
def test_every_kind_is_measured_on_this_machine(
    lut: Lut, tmp_path: Path, url: str, dtype: Any, package: str
) -> None:
    pytest.importorskip(package)
    model_format: ModelFormat = {"cpu:litert": "tflite", "cpu:onnxruntime": "onnx"}.get(url, "pt2")  # type: ignore[assignment]
    anchor, baseline = anchor_model(model_format, dtype), baseline_model(model_format, dtype)
    operators = [Operator.parse(text.format(dtype)) for text in MIXED]
    with open_target(url, anchor=anchor, baseline=baseline, cache=tmp_path) as session:
        assert session.model_format == model_format
        report = profile_operators(lut, session, operators, settings=FAST, wait=True)
        assert report.failed == {}
        assert report.measured == len(operators)
        assert set(lut.table(session.stack, "latency_us").values) == set(operators)
        assert profile_operators(lut, session, operators, settings=FAST).skipped == len(operators)
