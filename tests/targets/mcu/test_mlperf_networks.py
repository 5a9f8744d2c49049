"""The published MLPerf Tiny networks on a virtual board, driven as their runners do: times, and results bit for bit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("unicorn", reason="the emulator is not installed")

from targets.mcu.link import BoardLink
from targets.mcu.port import open_port
from tests.targets.mcu.test_mlperf import Runner, results
from tests.targets.mcu.virtual.firmware import any_compiler
from toolchain.export.native.writer import write_program
from toolchain.graph.integer_reference import run_int8
from toolchain.graph.tflite_reader import read_tflite


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "name", "pixels"), [("kws01_dscnn_int8", "kws01", False), ("ic01_resnet8_int8", "ic01", True)]
)
def test_a_published_network_through_the_runners_commands(file: str, name: str, pixels: bool) -> None:
    folder = os.environ.get("BOARDFIT_DATA")
    if not folder:
        pytest.skip("BOARDFIT_DATA is not set: the folder that holds mlperf_tiny_models")
    any_compiler()
    graph = read_tflite((Path(folder) / "mlperf_tiny_models" / f"{file}.tflite").read_bytes())
    shape = graph.tensors[graph.inputs[0]].shape
    loaded = np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)
    [expected] = run_int8(graph, (loaded ^ 0x80 if pixels else loaded).view(np.int8))
    with open_port("virtual:nucleo-l4r5zi") as port:
        link = BoardLink(port)
        link.hello()
        link.write_slot(0, write_program(graph, "dsp"))
        runner = Runner(port)
        assert runner.say("name%") == ["m-name-dut-[nucleo-l4r5zi]"]
        assert runner.say("profile%")[1] == f"m-model-[{name}]"
        assert runner.load(loaded.tobytes()) == ["m-load-done"]
        answer = runner.say("infer 2 1%")
        first, second = (int(line.rpartition("-")[2]) for line in answer if line.startswith("m-lap-us-"))
        assert 10_000 < (second - first) / 2 < 1_000_000
        assert runner.say("results%") == [answer[-1]] == [results(expected.tobytes())]
