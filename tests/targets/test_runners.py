"""The real engines, on models of one operator."""

from __future__ import annotations

import importlib
import io
import json
import pickle
import random
import subprocess
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from targets.runners import (
    LiteRtRunner,
    OnnxRunner,
    Runner,
    TensorSpec,
    TflmRunner,
    TorchRunner,
    arena_bytes,
    preset,
)
from tests.targets.models import (
    conv_graph,
    convolution,
    onnx_conv,
    pt2_conv,
    tflite_add,
    tflite_conv,
    tflite_int8_pool,
)
from toolchain.errors import ConfigurationError, DeviceError, ModelFileError
from toolchain.export.onnx_writer import graph_to_onnx

BATCH = np.random.default_rng(7).normal(size=(3, 8, 8, 4)).astype(np.float32)
MODELS = {
    "litert": tflite_conv,
    "reference": tflite_conv,
    "onnx": onnx_conv,
    "torch": pt2_conv,
    "tflm": tflite_conv,
}


@pytest.fixture(params=list(MODELS))
def engine(request: pytest.FixtureRequest) -> Iterator[tuple[str, Runner]]:
    runner: Runner = {
        "litert": LiteRtRunner,
        "reference": lambda: LiteRtRunner(kernels="reference"),
        "onnx": OnnxRunner,
        "torch": TorchRunner,
        "tflm": TflmRunner,
    }[request.param]()
    yield request.param, runner
    runner.close()


def test_outputs_are_the_float_references(engine: tuple[str, Runner]) -> None:
    name, runner = engine
    channels_first = runner.model_format != "tflite"
    loaded = runner.load(MODELS[name]())
    loaded.invoke()
    got = loaded.run(BATCH.transpose(0, 3, 1, 2) if channels_first else BATCH)
    want = convolution(BATCH)
    np.testing.assert_allclose(got.transpose(0, 2, 3, 1) if channels_first else got, want, atol=1e-5)
    loaded.invoke()  # and afterwards both still work
    assert loaded.inputs[0].shape[0] == 1
    assert runner.stack["runtime_version"]


def test_wrong_inputs(engine: tuple[str, Runner]) -> None:
    name, runner = engine
    loaded = runner.load(MODELS[name]())
    shape = loaded.inputs[0].shape
    with pytest.raises(ConfigurationError, match="float64, the model takes float32"):
        loaded.run(np.zeros(shape))
    with pytest.raises(ConfigurationError, match=r"has shape \(1, 5\)"):
        loaded.run(np.zeros((1, 5), np.float32))
    with pytest.raises(ConfigurationError, match="has shape"):
        loaded.run(np.zeros((0, *shape[1:]), np.float32))
    with pytest.raises(ConfigurationError, match="1 inputs, 2 were given"):
        loaded.run(np.zeros(shape, np.float32), np.zeros(shape, np.float32))


def test_damaged_models_are_refused(engine: tuple[str, Runner]) -> None:
    name, runner = engine
    model = MODELS[name]()
    for damaged in (b"", b"x" * 200, model[: len(model) // 2], bytes(len(model))):
        with pytest.raises(ModelFileError):
            runner.load(damaged)


def test_several_inputs() -> None:
    a, b = np.full((2, 4, 4, 2), 3, np.float32), np.full((2, 4, 4, 2), 4, np.float32)
    for runner in (LiteRtRunner(), TflmRunner()):
        loaded = runner.load(tflite_add())
        loaded.invoke()
        np.testing.assert_array_equal(loaded.run(a, b), a + b)
        with pytest.raises(ConfigurationError, match="hold 2, 1 samples"):
            loaded.run(a, b[:1])


def test_an_open_batch_runs_at_once() -> None:
    loaded = OnnxRunner().load(graph_to_onnx(conv_graph(), batch=None))
    assert loaded.inputs[0].any_batch
    assert loaded.inputs[0].shape == (1, 4, 8, 8)
    got = loaded.run(BATCH.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(got.transpose(0, 2, 3, 1), convolution(BATCH), atol=1e-5)


@pytest.fixture
def old_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """No ai-edge-litert; a package named tflite-runtime, made of LiteRT's classes."""
    real = importlib.import_module("ai_edge_litert.interpreter")
    module = types.ModuleType("tflite_runtime.interpreter")
    module.Interpreter, module.OpResolverType = real.Interpreter, real.OpResolverType  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tflite_runtime", types.ModuleType("tflite_runtime"))
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", module)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)


@pytest.mark.parametrize("kernels", ["xnnpack", "reference"])
def test_tflite_runtime_where_there_is_no_litert(old_system: None, kernels: str) -> None:
    runner = LiteRtRunner(kernels=kernels)
    assert runner.stack["runtime"] == "tflite-runtime"  # its numbers are not LiteRT's
    np.testing.assert_allclose(runner.load(tflite_conv()).run(BATCH), convolution(BATCH), atol=1e-5)


def test_without_either_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ai_edge_litert", "tflite_runtime"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, f"{name}.interpreter", None)
    with pytest.raises(DeviceError, match="LiteRT is not installed") as caught:
        LiteRtRunner()
    assert "boardfit[tflite]" in caught.value.remedy
    assert "ai-edge-litert" in caught.value.remedy


def test_a_broken_litert_is_said_not_replaced(old_system: None, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ImportError("libstdc++.so.6: cannot open shared object file")
    real = importlib.import_module

    def load(name: str) -> types.ModuleType:
        if name.startswith("ai_edge_litert"):
            raise broken
        return real(name)

    monkeypatch.setattr("targets.runners.litert.importlib.import_module", load)
    with pytest.raises(DeviceError, match=r"libstdc"):
        LiteRtRunner()


def test_int8_goes_in_and_comes_out() -> None:
    x = np.random.default_rng(0).integers(-128, 127, (5, 4, 4, 2), dtype=np.int8)
    want = x.reshape(5, 2, 2, 2, 2, 2).max(axis=(2, 4))
    for runner in (LiteRtRunner(), LiteRtRunner(kernels="reference"), TflmRunner()):
        np.testing.assert_array_equal(runner.load(tflite_int8_pool()).run(x), want)


@pytest.mark.parametrize("threads", [1, 2])
def test_engines_use_the_threads_they_are_told_and_never_spin(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    ort = importlib.import_module("onnxruntime")
    seen: list[Any] = []
    session = ort.InferenceSession

    def spy(model: bytes, options: Any, **others: Any) -> Any:
        seen.append(options)
        return session(model, options, **others)

    monkeypatch.setattr(ort, "InferenceSession", spy)
    OnnxRunner(threads=threads).load(onnx_conv())
    (options,) = seen
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"

    litert = importlib.import_module("ai_edge_litert.interpreter")
    given: list[dict[str, Any]] = []
    interpreter = litert.Interpreter

    def keep(**arguments: Any) -> Any:
        given.append(arguments)
        return interpreter(**arguments)

    monkeypatch.setattr(litert, "Interpreter", keep)
    LiteRtRunner(threads=threads).load(tflite_conv())
    assert given[0]["num_threads"] == threads


def test_torch_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    runner = TorchRunner(threads=1)
    assert torch.get_num_threads() == 1
    runner.close()
    assert torch.get_num_threads() == 2
    runner.close()
    torch.set_num_threads(before)


class _Bomb:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def _archive(change: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(pt2_conv())) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            key = name.partition("/")[2]
            target.writestr(name, change.pop(key, None) or source.read(name))
        for name, content in change.items():
            target.writestr(f"archive/{name}", content)
    return out.getvalue()


def test_pickles_in_a_pt2_file_are_never_loaded(tmp_path: Path) -> None:
    bomb = pickle.dumps(_Bomb(tmp_path / "exploded"))
    runner = TorchRunner()
    try:
        # Sample inputs are left out, whatever they hold.
        runner.load(_archive({"data/sample_inputs/model.pt": bomb}))
        weights = json.dumps({"config": {"w": {"path_name": "weight_0", "use_pickle": True}}}).encode()
        objects = json.dumps({"config": {"c": {"path_name": "opaque_obj_0", "use_pickle": False}}}).encode()
        for change in (
            {"data/weights/model_weights_config.json": weights, "data/weights/weight_0": bomb},
            {"data/constants/model_constants_config.json": objects},
            {"data/weights/model.pt": bomb},
        ):
            with pytest.raises(ModelFileError, match="pickle"):
                runner.load(_archive(change))
        with pytest.raises(ModelFileError, match="not as torch"):
            runner.load(_archive({"data/weights/model_weights_config.json": b"{}"}))
    finally:
        runner.close()
    assert list(tmp_path.iterdir()) == []


def test_arena_of_tflm(capfd: pytest.CaptureFixture[str]) -> None:
    head, tail = arena_bytes(tflite_conv())
    assert head >= 2 * 8 * 8 * 4 * 4  # input and output live at once
    assert head % 16 == 0
    assert tail > 0
    assert arena_bytes(tflite_conv()) == (head, tail)
    assert capfd.readouterr().err == ""  # what the engine prints is read, not shown


def test_tflm_says_why_it_refuses() -> None:
    model = tflite_conv()
    with pytest.raises(ModelFileError, match="refuses the model"):
        TflmRunner().load(model[:8] + bytes(len(model) - 8))


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_kills_the_process(seed: int) -> None:
    """TFLM does not check its file; in a process of its own, because a crash would take the tests along."""
    code = (
        "import sys, random\n"
        "from targets.runners import TflmRunner\n"
        "from toolchain.errors import ModelFileError\n"
        "data, rng, runner = sys.stdin.buffer.read(), random.Random(int(sys.argv[1])), TflmRunner()\n"
        "for _ in range(100):\n"
        "    bad = bytearray(data)\n"
        "    for _ in range(rng.randrange(1, 20)): bad[rng.randrange(8, len(bad))] = rng.randrange(256)\n"
        "    try: runner.load(bytes(bad)).invoke()\n"
        "    except (ModelFileError, RuntimeError): pass\n"
    )
    model = tflite_int8_pool() if random.Random(seed).random() < 0.5 else tflite_conv()
    done = subprocess.run(
        [sys.executable, "-c", code, str(seed)], input=model, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-500:]


def test_preset_inputs_fill_the_dtype_and_repeat() -> None:
    specs = (
        TensorSpec("a", (1, 50, 50), np.dtype(np.int8)),
        TensorSpec("b", (1, 1000), np.dtype(np.float32)),
    )
    first, second = preset(specs), preset(specs)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert (first[0].min(), first[0].max(), first[0].dtype) == (-128, 127, np.int8)
    assert first[1].dtype == np.float32
    assert -1 <= first[1].min() < -0.9
    assert 0.9 < first[1].max() < 1
