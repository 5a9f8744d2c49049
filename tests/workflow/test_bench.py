"""Costs of any .tflite file: what is measured, what is computed, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from torch import nn

from profilers.counts import graph_costs
from targets.host import HostSession
from targets.session import Job, Result
from toolchain.cli import main
from toolchain.errors import BoardfitError, ConfigurationError, ModelFileError, UnsupportedError
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph import Graph
from toolchain.graph.lower import lower
from toolchain.measurement import Evidence
from toolchain.quantize import quantize
from toolchain.workflow.bench import bench
from toolchain.workflow.sessions import LATENCY


def network() -> Graph:
    """Five operators, two of them equal."""
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    return lower(module.eval(), (1, 8, 8))


def int8_network() -> Graph:
    return quantize(network(), np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of all jobs that the target was asked to measure."""
    keys: list[str] = []
    real = HostSession.measure

    def measure(self: HostSession, jobs: Sequence[Job], **options: Any) -> Iterator[Result]:
        keys.extend(job.key for job in jobs)
        return real(self, jobs, **options)

    monkeypatch.setattr(HostSession, "measure", measure)
    return keys


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_operators_sum_and_whole(tmp_path: Path, asked: list[str], dtype: str) -> None:
    graph = int8_network() if dtype == "int8" else network()
    path = tmp_path / "net.tflite"
    path.write_bytes(write_tflite(graph))
    seen: list[tuple[int, int]] = []
    outcome = bench(path, "cpu:litert", progress=lambda stage, done, total, note: seen.append((done, total)))
    assert (outcome.model, outcome.dtype) == ("net.tflite", dtype)
    signatures = [cost.signature for cost in outcome.operators]
    assert signatures == [op.signature for op in graph.operators]
    assert asked == [*dict.fromkeys(signatures), "whole network"]
    assert len(asked) == len(signatures)  # one less for the equal ones, one more for the whole
    assert outcome.operators[1].measurement is outcome.operators[2].measurement
    measured = [cost.measurement for cost in outcome.operators]
    assert all(m is not None and m.evidence is Evidence.HOST_WALL and m.metric == LATENCY for m in measured)
    assert outcome.sum == sum(m.value for m in measured if m is not None)
    assert outcome.whole.value > 0
    assert [cost.macs for cost in outcome.operators] == [op.macs for op in graph.operators]
    assert outcome.computed == {**graph_costs(graph), "flash_bytes": path.stat().st_size}
    assert seen[-1] == (len(asked), len(asked))


def test_every_engine_that_takes_no_tflite_says_so(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(write_tflite(network()))
    with pytest.raises(ConfigurationError, match=r"cpu:onnxruntime does not run \.tflite files"):
        bench(path, "cpu:onnxruntime")
    with pytest.raises(ConfigurationError, match="measure on cpu:litert"):
        bench(path, "host:tflm")


def unsupported() -> bytes:
    """The network with its average pool turned into a LOGISTIC."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(write_tflite(network()), 0))
    operator = model.subgraphs[0].operators[3]
    code = model.operatorCodes[operator.opcodeIndex]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.LOGISTIC
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (None, ModelFileError, r"cannot read .*net\.tflite: No such file"),
        (lambda: b"", ModelFileError, "not a TFL3 file"),
        (lambda: b"no model at all", ModelFileError, "not a TFL3 file"),
        (lambda: write_tflite(network())[:-700], ModelFileError, "damaged or cut"),
        (unsupported, UnsupportedError, r"operator 3 \(LOGISTIC\)"),
    ],
    ids=["missing", "empty", "text", "cut", "unsupported"],
)
def test_files_that_are_no_model_of_ours(
    tmp_path: Path, make: Callable[[], bytes] | None, error: type[BoardfitError], message: str
) -> None:
    path = tmp_path / "net.tflite"
    if make is not None:
        path.write_bytes(make())
    with pytest.raises(error, match=message) as caught:
        bench(path, "cpu:litert")
    assert caught.value.exit_code == 3


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The target refuses what is put into this set: keys of jobs."""
    keys: set[str] = set()
    real = HostSession.measure

    def measure(self: HostSession, jobs: Sequence[Job], **options: Any) -> Iterator[Result]:
        for result in real(self, jobs, **options):
            yield Result(result.key, None, "no room") if result.key in keys else result

    monkeypatch.setattr(HostSession, "measure", measure)
    return keys


def test_a_model_that_the_target_refuses(tmp_path: Path, refused: set[str]) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(write_tflite(network()))
    refused.add("whole network")
    with pytest.raises(ModelFileError, match=r"cpu:litert cannot run net\.tflite: no room"):
        bench(path, "cpu:litert")


def test_one_operator_that_the_target_refuses_alone(
    tmp_path: Path, refused: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    graph = network()
    path = tmp_path / "net.tflite"
    path.write_bytes(write_tflite(graph))
    refused.add(graph.operators[0].signature)
    outcome = bench(path, "cpu:litert")
    assert outcome.operators[0].measurement is None
    assert outcome.operators[0].failure == "no room"
    assert outcome.sum is None  # a sum without a part of it would be a lie
    assert outcome.whole.value > 0
    assert main(["bench", str(path)]) == 0
    assert "no room" in capsys.readouterr().out
    assert main(["bench", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sum"] is None
