"""Sessions with a GPU: stack, batches, memory rows, state, errors. The GPU is pretended; a real one in test_gpu.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from profilers import profile
from profilers.lut import Lut
from profilers.profile import profile_operators
from targets.cuda import events, smi
from targets.cuda.session import MEMORY, CudaSession, GpuRunner, open_session, visible
from targets.cuda.torch_gpu import TorchGpu, require_cuda
from targets.runners import OnnxRunner, TorchRunner
from targets.session import Job, Result, list_targets, model_format, open_target
from targets.timing import Settings
from tests.quantize.graphs import everything, normal
from tests.targets.cuda.fake import FakeGpu, FakeRunner
from tests.targets.models import onnx_conv, pt2_conv
from toolchain.errors import ConfigurationError, DeviceError, ModelFileError
from toolchain.export.onnx_writer import graph_to_onnx
from toolchain.export.torch_writer import write_pt2
from toolchain.graph import Graph, GraphBuilder, Operator
from toolchain.measurement import Evidence

QUICK = Settings(samples=20, settle=1, retries=0, pause_s=0)
FACTS = {"gpu": "NVIDIA Fake", "driver": "550.1", "cuda": "12.8", "protocol": events.PROTOCOL}


class FakeWatch(smi.Watch):
    def __init__(self, *states: Mapping[str, str]) -> None:
        super().__init__("0")
        self.states = list(states) or [{"pstate": "P0", "clocks.sm": "1980"}]

    def state(self) -> smi.State:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


def fake(
    tmp_path: Path, *states: Mapping[str, str], batch: int = 1, counts: bool = True
) -> tuple[CudaSession, FakeRunner, FakeGpu]:
    gpu = FakeGpu()
    runner = FakeRunner(gpu, batch)
    session = CudaSession(
        url="cuda:torch", runner=GpuRunner(runner, FACTS, batch, gpu if counts else None),
        sampler=events.event_sampler(gpu), watch=FakeWatch(*states), batch=batch, anchor=b"20", baseline=b"1",
        cache=tmp_path,
    )  # fmt: skip
    return session, runner, gpu


def by_key(results: Any) -> dict[str, Result]:
    return {result.key: result for result in results}


def test_rows_are_latency_and_memory(tmp_path: Path) -> None:
    session, runner, _ = fake(tmp_path)
    with session:
        results = by_key(session.measure([Job("a", b"30"), Job("b", b"rubbish")], settings=QUICK))
    found = results["a"].measurement
    assert found is not None
    assert (found.metric, found.value, found.evidence) == (
        "latency_us",
        pytest.approx(30),
        Evidence.HOST_WALL,
    )
    assert found.details["overhead_us"] == "1"
    assert found.details["power_state"] == "P0"
    assert found.details["clock_mhz"] == "1980"
    assert not found.unstable
    (memory,) = results["a"].others
    assert (memory.metric, memory.value, memory.evidence) == (MEMORY, 300, Evidence.COUNTED)
    assert "weights" in memory.details["meaning"]
    assert results["b"].measurement is None
    assert results["b"].others == ()
    assert "not a number" in results["b"].failure
    assert runner.closed


def test_the_stack_names_the_gpu_and_the_batch(tmp_path: Path) -> None:
    one, other = fake(tmp_path)[0].stack, fake(tmp_path, batch=8)[0].stack
    fields = one.as_dict()
    assert FACTS.items() <= fields.items()
    assert fields["target"] == "cuda:torch"
    assert fields["protocol"] == events.PROTOCOL
    assert (fields["batch"], other.as_dict()["batch"]) == ("1", "8")
    assert one.fingerprint != other.fingerprint


def test_what_holds_the_gpu_back_makes_results_unstable(tmp_path: Path) -> None:
    free = {"pstate": "P0", smi.REASONS[0]: "0x0"}
    capped = {"pstate": "P0", smi.REASONS[0]: "0x4"}
    session, _, _ = fake(tmp_path, free, free, capped, free, free)
    results = session.measure([Job(str(us), b"%d" % us) for us in (10, 11, 12, 13)], settings=QUICK)
    found = [result.measurement for result in results]
    assert [each is not None and each.unstable for each in found] == [False, True, True, False]
    assert [each.details.get("throttling") for each in found if each] == [
        None,
        "power limit",
        "power limit",
        None,
    ]


def test_no_state_is_said_and_no_memory_is_no_row(tmp_path: Path) -> None:
    session, _, _ = fake(tmp_path, {"unknown": "nvidia-smi is not installed"}, counts=False)
    (result,) = session.measure([Job("a", b"30")], settings=QUICK)
    assert result.measurement is not None
    assert result.measurement.details["gpu_state"] == "unknown: nvidia-smi is not installed"
    assert not result.measurement.unstable
    assert result.others == ()


@pytest.mark.parametrize("samples", [1, 3, 4, 5, 8])
def test_the_last_batch_is_filled_up(tmp_path: Path, samples: int) -> None:
    session, runner, _ = fake(tmp_path, batch=4)
    x = np.arange(2 * samples, dtype=np.float32).reshape(samples, 2)
    assert np.array_equal(session.run(b"5", x), x + 1)
    assert runner.seen == [(-(-samples // 4) * 4, 2)]


def test_profiling_stores_both_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "operator_writer", lambda form: lambda op: str(op.inputs[0][1]).encode())
    ops = [Operator.parse(f"fully_connected {n}->2 none float32") for n in (16, 32)]
    session, _, _ = fake(tmp_path, batch=8)
    with session, Lut.in_memory() as lut:
        report = profile_operators(lut, session, ops, settings=QUICK)
        assert (report.measured, report.failed) == (2, {})
        assert lut.table(session.stack, "latency_us").values == pytest.approx({ops[0]: 16, ops[1]: 32})
        assert lut.table(session.stack, MEMORY).values == pytest.approx({ops[0]: 160, ops[1]: 320})
        assert lut.table(session.stack, MEMORY).evidence is Evidence.COUNTED
        assert profile_operators(lut, session, ops, settings=QUICK).skipped == 2


# --- batches in real engines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["torch", "onnx"])
@pytest.mark.parametrize("batch", [4])
def test_files_of_one_sample_run_in_batches(engine: str, batch: int) -> None:
    """On the CPU, where a batch means the same: a network with every kind of operator."""
    graph = everything()
    model = write_pt2(graph) if engine == "torch" else graph_to_onnx(graph)
    runner: Any = TorchRunner if engine == "torch" else OnnxRunner
    x = np.moveaxis(normal(1, 8, 9, 8, 3), 3, 1)
    loaded = runner(batch=batch).load(model)
    loaded.invoke()
    assert loaded.inputs[0].shape == (batch, 3, 9, 8)
    np.testing.assert_allclose(loaded.run(x), runner().load(model).run(x), atol=1e-6)
    with pytest.raises(ConfigurationError, match=f"batches of .{batch}, 3, 9, 8"):
        loaded.run(x[:1])


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_a_model_that_cannot_take_the_batch_is_refused(engine: str) -> None:
    graph = joined_to_a_constant()
    model = write_pt2(graph) if engine == "torch" else graph_to_onnx(graph)
    runner: Any = TorchRunner if engine == "torch" else OnnxRunner
    assert runner().load(model).inputs[0].shape[0] == 1
    with pytest.raises(ModelFileError, match="refuses the model"):
        runner(batch=4).load(model)


def joined_to_a_constant() -> Graph:
    builder = GraphBuilder("float32")
    x = builder.input((1, 4, 4, 2))
    return builder.build(builder.concatenation([x, builder.constant(np.ones((1, 4, 4, 3), np.float32))]))


def test_an_onnx_file_of_another_batch_is_refused() -> None:
    model = graph_to_onnx(everything(), batch=2)
    with pytest.raises(ModelFileError, match="another batch than 1 or 4"):
        OnnxRunner(batch=4).load(model)
    with pytest.raises(ModelFileError, match="onnx refuses"):
        OnnxRunner(batch=4).load(b"rubbish")


def test_a_model_that_is_moved_gives_the_same() -> None:
    """`cpu:0` takes the way of a GPU: the program is moved, inputs go there and outputs come back."""
    x = np.moveaxis(normal(2, 3, 8, 8, 4), 3, 1)
    assert np.array_equal(
        TorchRunner(device="cpu:0").load(pt2_conv()).run(x), TorchRunner().load(pt2_conv()).run(x)
    )
    assert TorchRunner(device="cpu:0").stack["kernels"] == "aten-cuda"


# --- what is not there ---------------------------------------------------------------------------------------------


def test_urls() -> None:
    assert model_format("cuda:torch?batch=8&device=1") == "pt2"
    assert model_format("cuda:onnxruntime") == "onnx"
    for wrong in (
        "cuda:torch?batch=0",
        "cuda:torch?batch=many",
        "cuda:torch?threads=2",
        "cuda:torch?device=-1",
    ):
        with pytest.raises(ConfigurationError, match="has no option"):
            model_format(wrong)
    with pytest.raises(ConfigurationError, match="no target 'cuda:jax'"):
        model_format("cuda:jax")
    assert {"cuda:torch", "cuda:onnxruntime"} <= {target.url for target in list_targets()}


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_a_torch_without_cuda_says_so() -> None:
    with pytest.raises(DeviceError, match="built without CUDA") as seen:
        open_target("cuda:torch?batch=8")
    assert "docs/gpu.md" in seen.value.remedy


def test_an_onnx_runtime_without_cuda_says_so() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(DeviceError, match="has no CUDA provider") as seen:
        open_session("cuda:onnxruntime")
    assert "onnxruntime-gpu" in seen.value.remedy


class Cuda(SimpleNamespace):
    """torch.cuda of a build with CUDA."""

    def is_available(self) -> bool:
        return bool(self.count)

    def device_count(self) -> int:
        return int(self.count)


def torch_with(count: int, **more: Any) -> Any:
    return SimpleNamespace(
        __version__="2.13.0", version=SimpleNamespace(cuda="12.8"), cuda=Cuda(count=count, **more)
    )


def test_no_gpu_and_not_so_many_gpus() -> None:
    with pytest.raises(DeviceError, match="sees no NVIDIA GPU"):
        require_cuda(torch_with(0), 0)
    with pytest.raises(DeviceError, match="no GPU 2: torch sees 2") as seen:
        require_cuda(torch_with(2), 2)
    assert "device=0..1" in seen.value.remedy
    require_cuda(torch_with(2), 1)


@pytest.mark.parametrize(
    ("properties", "smi_id", "waste"),
    [
        ({"uuid": "8fe3a97d", "L2_cache_size": 50}, "GPU-8fe3a97d", 100),
        ({"uuid": "MIG-1a2b", "L2_cache_size": 50}, "MIG-1a2b", 100),
        ({}, "3", 256 << 20),  # an older torch
    ],
)
def test_properties_of_a_gpu(properties: dict[str, Any], smi_id: str, waste: int) -> None:
    made: list[int] = []
    module = torch_with(
        4,
        get_device_properties=lambda device: SimpleNamespace(
            name="NVIDIA Fake", total_memory=8, **properties
        ),
        Stream=lambda device: "stream",
    )
    module.device = lambda kind, index: (kind, index)
    module.int8 = "int8"
    module.empty = lambda size, dtype, device: made.append(size)
    gpu = TorchGpu(module, 3)
    assert gpu.smi_id == smi_id
    assert made == [waste]
    assert gpu.elapsed_us(SimpleNamespace(elapsed_time=lambda end: 0.25), "end") == 250


def test_the_gpu_that_cuda_counts() -> None:
    assert visible(1, {}) == "1"
    assert visible(0, {"CUDA_VISIBLE_DEVICES": "3,1"}) == "3"
    assert visible(1, {"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b"}) == "GPU-b"
    assert visible(2, {"CUDA_VISIBLE_DEVICES": "3,1"}) == "2"


# --- deployment ----------------------------------------------------------------------------------------------------


def test_the_deployed_script_runs_on_the_gpu() -> None:
    from targets.deploy import runner_files

    on_torch = runner_files(pt2_conv(), runtime="torch", runtime_version="2.13.0+cu128", kernels="aten-cuda")
    script = on_torch["run_model.py"].decode()
    compile(script, "run_model.py", "exec")
    assert 'move_to_device_pass(program, "cuda")' in script
    assert '.to("cuda")' in script
    on_onnx = runner_files(
        onnx_conv(), runtime="onnxruntime", runtime_version="1.31.1", kernels="CUDAExecutionProvider"
    )
    compile(on_onnx["run_model.py"], "run_model.py", "exec")
    assert b'providers=["CUDAExecutionProvider", "CPUExecutionProvider"]' in on_onnx["run_model.py"]
    assert b"onnxruntime-gpu==1.31.1" in on_onnx["requirements.txt"]
