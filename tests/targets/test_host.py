"""The CPU as a target: with a pretended engine and clock for what must be exact, with LiteRT for what must work."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from targets import host
from targets.host import HostSession, cpu_model
from targets.lock import exclusive
from targets.runners import TensorSpec
from targets.session import Array, Job, ModelFormat, Result, list_targets, open_target
from targets.timing import Settings
from tests.targets.models import convolution, onnx_conv, pt2_conv, tflite_add, tflite_conv, tflite_int8_pool
from toolchain.errors import ConfigurationError, DeviceError, ModelFileError
from toolchain.measurement import Evidence

QUICK = Settings(samples=20, settle=1, retries=1, group=4)


class FakeRunner:
    """A model is its time in microseconds as text; the clock moves when it is invoked."""

    model_format: ModelFormat = "tflite"
    stack: Mapping[str, str] = {"runtime": "fake", "runtime_version": "1", "kernels": "", "threads": "1"}

    def __init__(self) -> None:
        self.now = 0
        self.factor = 1.0
        self.loads: list[bytes] = []
        self.closed = 0

    def load(self, model: bytes) -> FakeModel:
        self.loads.append(model)
        if not model.strip().isdigit():
            raise ModelFileError("fake refuses the model: not a number")
        return FakeModel(self, int(model))

    def close(self) -> None:
        self.closed += 1


class FakeModel:
    inputs = (TensorSpec("x", (1,), np.dtype(np.float32)),)

    def __init__(self, runner: FakeRunner, us: int) -> None:
        def invoke() -> None:
            runner.now += round(us * 1000 * runner.factor)

        self.invoke: Callable[[], object] = invoke

    def run(self, *inputs: Array) -> Array:
        return inputs[0]


def fake(tmp_path: Path, runner: FakeRunner, anchor: bytes | None = b"20") -> HostSession:
    def sleep(seconds: float) -> None:
        runner.now += int(seconds * 1e9)

    return HostSession(
        url="cpu:fake", runner=runner, timed=True, threads=1, anchor=anchor, baseline=b"1", cache=tmp_path,
        clock=lambda: runner.now, sleep=sleep,
    )  # fmt: skip


def by_key(results: list[Result]) -> dict[str, Result]:
    return {result.key: result for result in results}


def test_measurements_say_what_they_are_worth(tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    jobs = [Job("a", b"10"), Job("bad", b"x"), Job("b", b"35")]
    with fake(tmp_path, FakeRunner()) as session:
        found = by_key(list(session.measure(jobs, settings=QUICK, progress=lambda *at: progress.append(at))))
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert found["bad"] == Result("bad", None, "fake refuses the model: not a number")
    one = found["b"].measurement
    assert one is not None
    assert (one.metric, one.value, one.evidence, one.unstable) == (
        "latency_us",
        35.0,
        Evidence.HOST_WALL,
        False,
    )
    assert one.samples == (35.0,) * QUICK.samples
    assert one.details["anchor_ratio"] == "1.75"
    assert one.details["overhead_us"] == "1"
    assert datetime.fromisoformat(one.taken_at).tzinfo is not None


def test_the_best_anchor_outlives_the_session(tmp_path: Path) -> None:
    runner = FakeRunner()
    list(fake(tmp_path, runner).measure([Job("a", b"10")], settings=QUICK))
    runner.factor = 1.2
    (slow,) = fake(tmp_path, runner).measure([Job("a", b"10")], settings=QUICK)
    assert slow.measurement is not None
    assert slow.measurement.unstable
    assert slow.measurement.details["best_anchor_us"] == "20"
    # Another anchor is another story: nothing is known about it.
    (other,) = fake(tmp_path, runner, b"30").measure([Job("a", b"10")], settings=QUICK)
    assert other.measurement is not None
    assert not other.measurement.unstable


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"KEY": 3}', '{"KEY": {"us": -1, "at": "NOW"}}', '{"KEY": {}}']
)
def test_a_damaged_memory_of_anchors_is_forgotten(content: str, tmp_path: Path) -> None:
    runner = FakeRunner()
    list(fake(tmp_path, runner).measure([Job("a", b"10")], settings=QUICK))
    (key,) = json.loads((tmp_path / "anchors.json").read_text())
    now = datetime.now(UTC).isoformat()
    (tmp_path / "anchors.json").write_text(content.replace("KEY", key).replace("NOW", now))
    runner.factor = 1.2
    (result,) = fake(tmp_path, runner).measure([Job("a", b"10")], settings=QUICK)
    assert result.measurement is not None
    assert not result.measurement.unstable


def test_an_old_best_anchor_counts_no_more(tmp_path: Path) -> None:
    runner = FakeRunner()
    list(fake(tmp_path, runner).measure([Job("a", b"10")], settings=QUICK))
    path = tmp_path / "anchors.json"
    (key,) = json.loads(path.read_text())
    path.write_text(json.dumps({key: {"us": 1.0, "at": (datetime.now(UTC) - timedelta(days=8)).isoformat()}}))
    (result,) = fake(tmp_path, runner).measure([Job("a", b"10")], settings=QUICK)
    assert result.measurement is not None
    assert not result.measurement.unstable
    assert json.loads(path.read_text())[key]["us"] == 20.0


def test_without_an_anchor_the_first_job_that_loads_is_one(tmp_path: Path) -> None:
    found = by_key(
        list(fake(tmp_path, FakeRunner(), None).measure([Job("bad", b"x"), Job("a", b"10")], settings=QUICK))
    )
    assert found["bad"].failure
    assert found["a"].measurement is not None
    assert found["a"].measurement.details["anchor_ratio"] == "1"


def test_no_job_loads(tmp_path: Path) -> None:
    results = list(fake(tmp_path, FakeRunner(), None).measure([Job("a", b"x"), Job("b", b"y")]))
    assert [result.key for result in results] == ["a", "b"]
    assert all("not a number" in result.failure for result in results)


def test_no_jobs(tmp_path: Path) -> None:
    assert list(fake(tmp_path, FakeRunner()).measure([])) == []


def test_a_key_twice(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="same key"):
        fake(tmp_path, FakeRunner()).measure([Job("a", b"1"), Job("a", b"2")])


def test_a_broken_anchor_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="not a number"):
        list(fake(tmp_path, FakeRunner(), b"x").measure([Job("a", b"1")]))


def test_the_lock_is_held_while_measuring_and_no_longer(tmp_path: Path) -> None:
    iterator = fake(tmp_path, FakeRunner()).measure([Job("a", b"10"), Job("b", b"10")], settings=QUICK)
    next(iterator)
    with pytest.raises(DeviceError, match="is measuring"):
        list(fake(tmp_path, FakeRunner()).measure([Job("a", b"10")], settings=QUICK))
    iterator.close()  # type: ignore[attr-defined]  # it is a generator: leaving a loop early does this
    with exclusive(tmp_path):
        pass


def test_batches_of_one_model_load_it_once(tmp_path: Path) -> None:
    runner = FakeRunner()
    with fake(tmp_path, runner) as session:
        for _ in range(3):
            session.run(b"7", np.zeros(1, np.float32))
        session.run(b"8", np.zeros(1, np.float32))
    assert runner.loads == [b"7", b"8"]
    assert runner.closed == 1


def test_targets_are_listed_with_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {target.url for target in host.find()} == {
        "cpu:litert",
        "cpu:onnxruntime",
        "cpu:torch",
        "host:native",
        "host:tflm",
    }
    assert all(target.available and target.description for target in host.find())
    monkeypatch.setattr(host.importlib.util, "find_spec", lambda name: None)
    assert not any(target.available for target in host.find())
    assert all("pip install" in target.notes for target in host.find())


def test_tflite_runtime_counts_where_there_is_no_litert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        host.importlib.util, "find_spec", lambda name: name if name == "tflite_runtime" else None
    )
    monkeypatch.setattr(host, "version", lambda distribution: f"<{distribution}>")
    litert = next(target for target in list_targets() if target.url == "cpu:litert")
    assert (litert.available, litert.notes) == (True, "")
    assert litert.description.startswith("tflite-runtime <tflite-runtime> on ")


@pytest.mark.parametrize("url", ["", "gpu", "cpu:tensorrt", "host:litert"])
def test_an_unknown_url_lists_the_known_ones(url: str) -> None:
    with pytest.raises(ConfigurationError, match="cpu:litert, cpu:onnxruntime, cpu:torch, host:tflm"):
        open_target(url)


@pytest.mark.parametrize(
    "url",
    [
        "cpu:litert?threads=0",
        "cpu:litert?kernels=fast",
        "cpu:torch?kernels=x",
        "host:tflm?threads=2",
        "cpu:litert?x",
    ],
)
def test_an_unknown_option_lists_the_known_ones(url: str) -> None:
    with pytest.raises(ConfigurationError, match="its options: "):
        open_target(url)


def test_options_are_part_of_the_stack() -> None:
    stacks = [
        open_target(url).stack
        for url in ("cpu", "cpu:litert?threads=2", "cpu:litert?kernels=reference", "host:tflm")
    ]
    assert len({stack.fingerprint for stack in stacks}) == 4
    assert stacks[0] == open_target("cpu:litert").stack
    assert {
        "cpu",
        "cores",
        "architecture",
        "governor",
        "runtime",
        "runtime_version",
        "threads",
        "protocol",
    } <= set(stacks[0].as_dict())


def test_cpu_names(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(
        "processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\n\nprocessor\t: 1\nmodel name\t: Fast CPU @ 3 GHz\n"
    )
    assert cpu_model(path) == "Fast CPU @ 3 GHz"
    path.write_text("processor : 0\nCPU part : 0xd0b\n\nHardware : BCM\nModel : Raspberry Pi 5\n")
    assert cpu_model(path) == "Raspberry Pi 5"
    assert cpu_model(tmp_path / "none")


def test_tflm_gives_no_times(tmp_path: Path) -> None:
    with (
        open_target("host:tflm", cache=tmp_path) as session,
        pytest.raises(ConfigurationError, match="outputs"),
    ):
        session.measure([Job("a", tflite_conv())])


@pytest.mark.parametrize(
    ("url", "models"),
    [
        ("cpu:litert", {"conv": tflite_conv, "add": tflite_add, "int8": tflite_int8_pool}),
        ("cpu:onnxruntime", {"conv": onnx_conv}),
        ("cpu:torch", {"conv": pt2_conv}),
    ],
)
def test_real_engines_measure_and_run(
    url: str, models: dict[str, Callable[[], bytes]], tmp_path: Path
) -> None:
    jobs = [*(Job(key, make()) for key, make in models.items()), Job("nonsense", b"nonsense")]
    settings = Settings(samples=20, inner_us=50, settle=1, retries=0)
    with open_target(url, anchor=jobs[0].model, cache=tmp_path) as session:
        found = by_key(list(session.measure(jobs, settings=settings)))
        x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
        first = session.model_format != "tflite"
        y = session.run(jobs[0].model, x.transpose(0, 3, 1, 2) if first else x)
    assert found.pop("nonsense").failure
    assert set(found) == set(models)
    for result in found.values():
        assert result.measurement is not None
        assert result.measurement.value > 0
        assert len(result.measurement.samples) == 20
    np.testing.assert_allclose(y.transpose(0, 2, 3, 1) if first else y, convolution(x), atol=1e-5)
