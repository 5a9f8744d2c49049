"""The whole way over SSH on an aarch64 board made of files: agent, engines, outputs, rows, deployment.

`make test-arm64` makes the board (tools/arm64_rootfs.py) and runs this. An emulator's times mean nothing: no test
looks at one.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from profilers.lut import Lut
from profilers.profile import anchor_model, baseline_model, operator_writer, profile_operators
from targets.session import open_target
from targets.ssh import session as ssh_session
from targets.ssh.connect import connected, parse_address
from targets.ssh.install import run as run_on_board
from targets.ssh.session import look
from tests.quantize.graphs import everything, integer_input, normal
from tests.targets.ssh.conftest import QUICK
from tests.targets.ssh.sshd import WHY_NOT, Sshd, sshd
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph import Graph, Operator
from toolchain.graph.integer_reference import run_int8
from toolchain.measurement import Evidence
from toolchain.quantize import quantize

FOLDER = os.environ.get("BOARDFIT_ARM64", "")
CORES = ("cortex-a53", "cortex-a72", "cortex-a76")  # of a Raspberry Pi 3, 4 and 5
OPERATORS = [
    Operator.parse(text)
    for text in (
        "conv2d 8x8x4->8x8x8 k3x3 s1x1 same relu int8",
        "depthwise_conv2d 8x8x8->4x4x8 k3x3 s2x2 same relu6 int8",
        "fully_connected 64->10 none int8",
        "hard_swish 4x4x8->4x4x8 int8",
    )
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="needs an aarch64 user land: make test-arm64"),
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "sshd is here"),
]


def url_of(server: Sshd) -> str:
    return f"{server.url}&python={FOLDER}/python"


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("arm64")) as running:
        yield running


@pytest.fixture(scope="module")
def network() -> Graph:
    """One with every kind of operator."""
    return quantize(everything(), normal(0, 32, 9, 8, 3))


def test_the_report_is_of_an_aarch64_machine(board: Sshd) -> None:
    found = look(url_of(board))
    assert found["machine"]["architecture"] == "aarch64"
    assert "/rootfs/" in found["executable"]
    assert {"ai-edge-litert", "onnxruntime", "numpy"} <= set(found["runtimes"])


@pytest.mark.parametrize("core", CORES)
def test_int8_outputs_are_those_of_this_machine(tmp_path: Path, network: Graph, core: str) -> None:
    """Optimised kernels to 1 LSB. Plain ones exactly, so also equal to the integer reference wherever they are here."""
    x = integer_input(network, normal(1, 64, 9, 8, 3))
    model, integers = write_tflite(network), run_int8(network, x)
    with sshd(tmp_path / "sshd", environment={"QEMU_CPU": core}) as server:
        with open_target(url_of(server)) as there, open_target("cpu:litert") as here:
            assert there.stack.as_dict()["architecture"] == "aarch64"
            difference = there.run(model, x).astype(int) - here.run(model, x)
            assert np.abs(difference).max() <= 1
        plain = "kernels=reference"
        with open_target(f"{url_of(server)}&{plain}") as there, open_target(f"cpu:litert?{plain}") as here:
            got, expected = there.run(model, x), here.run(model, x)
            assert np.array_equal(got, expected)
            agree = expected == integers
            assert agree.mean() > 0.9
            assert np.array_equal(got[agree], integers[agree])
            before = convolutions(network)
            assert np.array_equal(there.run(write_tflite(before), x), run_int8(before, x))


def convolutions(network: Graph) -> Graph:
    """The network up to its fully connected layer: TFLite's plain kernels and TFLite Micro round all of that alike."""
    end = next(i for i, node in enumerate(network.nodes) if node.operator.kind == "fully_connected")
    return replace(network, nodes=network.nodes[:end], outputs=(network.nodes[end - 1].output,))


def test_float_outputs_of_onnx_runtime_are_those_of_this_machine(board: Sshd) -> None:
    pytest.importorskip("onnx")
    model = operator_writer("onnx")(Operator.parse("conv2d 8x8x4->8x8x8 k3x3 s1x1 same relu float32"))
    x = np.moveaxis(normal(2, 3, 8, 8, 4), 3, 1)
    with open_target(f"{url_of(board)}&runtime=onnxruntime") as there, open_target("cpu:onnxruntime") as here:
        np.testing.assert_allclose(there.run(model, x), here.run(model, x), rtol=1e-5, atol=1e-5)


def test_rows_are_measured_there(board: Sshd) -> None:
    with (
        open_target(
            url_of(board), anchor=anchor_model("tflite"), baseline=baseline_model("tflite")
        ) as session,
        Lut.in_memory() as lut,
    ):
        report = profile_operators(lut, session, OPERATORS, settings=QUICK)
        assert (report.measured, report.failed) == (len(OPERATORS), {})
        assert lut.missing(session.stack, OPERATORS, "latency_us") == []
        assert lut.table(session.stack, "latency_us").evidence is Evidence.HOST_WALL
        assert [stack.as_dict()["architecture"] for stack in lut.stacks()] == ["aarch64"]


def test_a_deployed_network_runs_there(board: Sshd, network: Graph) -> None:
    url = url_of(board)
    x = integer_input(network, normal(3, 5, 9, 8, 3))
    inputs = io.BytesIO()
    np.save(inputs, x)
    model = write_tflite(network)
    with open_target(url) as session:
        session.deploy(model, "products/net", files={"inputs.npy": inputs.getvalue()})
        expected = session.run(model, x)
    folder = board.home / "products/net"
    requirements = (folder / "requirements.txt").read_text().split()
    with connected(parse_address(url)[0]) as connection:
        names = ("run_model.py", "inputs.npy", "outputs.npy")
        run_on_board(
            connection, (f"{FOLDER}/python", *(str(folder / name) for name in names)), say=lambda line: None
        )
    assert np.array_equal(np.load(folder / "outputs.npy"), expected)
    assert requirements == [f"ai-edge-litert=={session.stack.as_dict()['runtime_version']}", "numpy"]


def test_a_dead_agent_is_started_again(board: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_session, "RECONNECT_S", (0.05, 0.1, 0.2))
    write = operator_writer("tflite")
    jobs = [ssh_session.Job(op.signature, write(op)) for op in OPERATORS]
    with ssh_session.open_session(url_of(board), anchor=anchor_model("tflite")) as session:
        results = session.measure(jobs, settings=QUICK)
        keys = [next(results).key]
        os.kill(session.report["pid"], 9)
        keys += [result.key for result in results]
    assert sorted(keys) == sorted(job.key for job in jobs)
