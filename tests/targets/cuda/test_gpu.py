"""On a real GPU; skipped with the reason where there is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from profilers.profile import anchor_model, baseline_model, operator_writer
from targets.cuda.session import MEMORY, CudaSession, open_session
from targets.session import Job, open_target
from targets.timing import Settings
from tests.quantize.graphs import everything, normal
from toolchain.errors import DeviceError
from toolchain.export.onnx_writer import graph_to_onnx
from toolchain.export.torch_writer import write_pt2
from toolchain.graph import Operator

QUICK = Settings(samples=20, settle=1, retries=0, pause_s=0)
OPERATORS = ["conv2d 16x16x16->16x16x16 k3x3 s1x1 same relu float32", "fully_connected 64->10 none float32"]


@pytest.fixture(params=["cuda:torch", "cuda:torch?batch=8", "cuda:onnxruntime", "cuda:onnxruntime?batch=8"])
def gpu(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CudaSession]:
    form = "pt2" if "torch" in request.param else "onnx"
    try:
        session = open_session(
            request.param,
            anchor=anchor_model(form, "float32"),
            baseline=baseline_model(form, "float32"),
            cache=tmp_path,
        )
    except DeviceError as error:
        pytest.skip(error.message)
    with session:
        yield session


def test_outputs_are_those_of_the_cpu(gpu: CudaSession) -> None:
    """TF32 is on by default in cuDNN: ten bits of mantissa."""
    torch = gpu.model_format == "pt2"
    model = write_pt2(everything()) if torch else graph_to_onnx(everything())
    x = np.moveaxis(normal(1, 11, 9, 8, 3), 3, 1)
    with open_target("cpu:torch" if torch else "cpu:onnxruntime") as cpu:
        np.testing.assert_allclose(gpu.run(model, x), cpu.run(model, x), atol=2e-2)


def test_operators_are_measured(gpu: CudaSession) -> None:
    write = operator_writer(gpu.model_format)
    jobs = [Job(text, write(Operator.parse(text))) for text in OPERATORS]
    results = list(gpu.measure(jobs, settings=QUICK))
    assert sorted(result.key for result in results) == sorted(OPERATORS)
    for result in results:
        assert result.measurement is not None
        assert result.measurement.value > 0
        assert result.measurement.details["batch"] == gpu.stack.as_dict()["batch"]
        weights = 4 * (16 * 16 * 9 if result.key.startswith("conv2d") else 640)
        assert [memory.value >= weights for memory in result.others if memory.metric == MEMORY] == [True] * (
            gpu.model_format == "pt2"
        )


def test_a_deployed_network_runs(gpu: CudaSession, tmp_path: Path) -> None:
    model = write_pt2(everything()) if gpu.model_format == "pt2" else graph_to_onnx(everything())
    x = np.moveaxis(normal(1, 3, 9, 8, 3), 3, 1)
    folder = Path(gpu.deploy(model, tmp_path / "net"))
    np.save(tmp_path / "in.npy", x)
    words = [
        sys.executable,
        str(folder / "run_model.py"),
        str(tmp_path / "in.npy"),
        str(tmp_path / "out.npy"),
    ]
    subprocess.run(words, check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), gpu.run(model, x), atol=2e-2)
