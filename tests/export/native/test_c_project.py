"""C projects: they compile without a warning, reproduce the reference's outputs, and hold only what they use."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import firmware
from profilers.single import operator_model
from tests.firmware.test_native import quantized_chain, quantized_net
from tests.random_graphs import int8_graphs
from toolchain.export.native import c_project as module
from toolchain.export.native.c_project import c_project, write_c_project
from toolchain.export.native.footprint import arena_bytes, program_bytes
from toolchain.export.native.layout import ISAS, Isa
from toolchain.graph import Graph, GraphBuilder, Operator, Quantization
from toolchain.graph.integer_reference import run_int8

SCALE = Quantization.per_tensor(0.05, 3)
CORES = [("dsp", "cortex-m4"), ("dsp", "cortex-m33"), ("plain", "cortex-m0plus"), ("plain", "cortex-m3")]


needs_cc = pytest.mark.skipif(
    shutil.which("make") is None or shutil.which("cc") is None, reason="no make or no C compiler (cc) here"
)


def make(folder: Path, *arguments: str) -> str:
    """Standard output of make, whose errors and warnings fail the test."""
    done = subprocess.run(
        ["make", "-s", "-C", str(folder), 'CFLAGS+=-std=c11 -O1 -Wall -Wextra -Werror', *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def outputs_of(said: str) -> list[int]:
    return [int(value) for value in re.findall(r"^output\[\d+\] = (-?\d+)$", said, re.M)]


@needs_cc
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "name",
    ["ts1d", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet8", "mbv3", "dscnn", "mbnet"))],
)
def test_a_network_runs_on_the_host(tmp_path: Path, name: str, isa: Isa) -> None:
    graph = quantized_net(name)
    files = write_c_project(graph, tmp_path / "project", isa, name=name)
    assert {str(path.relative_to(tmp_path / "project")) for path in (tmp_path / "project").rglob("*.*")} == {
        *files
    } - {"Makefile"}
    said = make(tmp_path / "project", "run")
    assert said.endswith("all outputs are right\n")
    x = np.random.default_rng(1).integers(-128, 128, graph.tensors[graph.inputs[0]].shape).astype(np.int8)
    assert outputs_of(said) == run_int8(graph, x).ravel().tolist()
    readme = (tmp_path / "project" / "README.txt").read_text()
    assert f" {program_bytes(graph, isa)} bytes" in readme
    assert f" {arena_bytes(graph, isa)} bytes" in readme


@needs_cc
def test_a_wrong_output_is_noticed(tmp_path: Path) -> None:
    write_c_project(quantized_chain(), tmp_path)
    sample = tmp_path / "sample.h"
    begin, end = sample.read_text().split("expected_output", 1)
    array, numbers = end.split("{\n    ", 1)
    first, rest = numbers.split(",", 1)
    sample.write_text(f"{begin}expected_output{array}{{\n    {(int(first) + 1) % 128},{rest}")
    done = subprocess.run(
        ["make", "-s", "-C", str(tmp_path), "run"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "1 outputs are wrong" in done.stdout


@needs_cc
@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graph=int8_graphs(max_blocks=5), isa=st.sampled_from(ISAS))
def test_random_graphs_run_on_the_host(tmp_path_factory, graph: Graph, isa: Isa) -> None:
    folder = tmp_path_factory.mktemp("project")
    write_c_project(graph, folder, isa)
    assert make(folder, "run").endswith("all outputs are right\n")


@needs_cc
def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    b = GraphBuilder("int8")
    x, y = b.input((1, 3, 3, 2), SCALE), b.input((1, 3, 3, 2), SCALE)
    z = b.binary("add", x, y, quantization=SCALE)
    write_c_project(b.build(b.reshape(z, (1, 18), quantization=SCALE), x), tmp_path)
    assert (
        "const int8_t *input_0, const int8_t *input_1, int8_t *output_0, int8_t *output_1"
        in (tmp_path / "model.h").read_text()
    )
    assert make(tmp_path, "run").endswith("all outputs are right\n")
    b = GraphBuilder("int8")
    x = b.input((1, 3, 3, 2), SCALE)
    write_c_project(b.build(b.reshape(x, (1, 18), quantization=SCALE)), tmp_path / "nothing")
    assert make(tmp_path / "nothing", "run").endswith("all outputs are right\n")


@pytest.mark.parametrize(("isa", "cpu"), CORES)
def test_it_compiles_for_boards(tmp_path: Path, isa: Isa, cpu: str) -> None:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    write_c_project(quantized_net("ts1d"), tmp_path, isa)
    done = subprocess.run(
        ["make", "-s", "-C", str(tmp_path), "CROSS=arm-none-eabi-", f"CPU={cpu}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    library = tmp_path / "build" / cpu / "libmodel.a"
    undefined = subprocess.run(
        ["arm-none-eabi-nm", "-u", str(library)], capture_output=True, text=True, check=True
    ).stdout
    defined = subprocess.run(
        ["arm-none-eabi-nm", "--defined-only", str(library)], capture_output=True, text=True, check=True
    ).stdout
    needed = set(re.findall(r" U (\w+)", undefined)) - set(re.findall(r" [TtDdBbRr] (\w+)", defined))
    # What is left is the compiler's own arithmetic, or memory functions that every C library and start-up code has.
    assert {name for name in needed if not name.startswith("__aeabi_")} <= {"memcpy", "memset", "memmove"}
    other = "plain" if isa == "dsp" else "dsp"
    (tmp_path / "model.c").write_text(c_project(quantized_chain(), other)["model.c"])
    refused = subprocess.run(
        ["make", "-s", "-C", str(tmp_path), "CROSS=arm-none-eabi-", f"CPU={cpu}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "export it again for this core" in refused.stderr


@pytest.mark.parametrize(
    ("isa", "cpu"), [("dsp", "cortex_m4"), ("dsp", "cortex_m33+dsp"), ("plain", "cortex_m0plus")]
)
def test_it_compiles_with_zig(tmp_path: Path, isa: Isa, cpu: str) -> None:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("the ziglang wheel is not installed")
    write_c_project(quantized_net("ts1d"), tmp_path, isa)
    sources = [path for path in tmp_path.rglob("*.c") if path.name != "main.c"]
    for source in sources:
        subprocess.run(
            [
                sys.executable, "-m", "ziglang", "cc", "-target", "thumb-freestanding-eabi", f"-mcpu={cpu}",
                "-std=c11", "-Os", "-Wall", "-Wextra", "-Werror", "-c", str(source), "-o", str(tmp_path / "o.o"),
            ],
            check=True, capture_output=True,
        )  # fmt: skip


def test_only_used_kernels_come_along() -> None:
    files = set(c_project(quantized_chain()))
    assert {name for name in files if name.startswith("kernels/") and name.endswith(".c")} == {
        "kernels/binary.c", "kernels/copy.c", "kernels/pad.c", "kernels/pool.c", "kernels/softmax.c", "kernels/table.c",
    }  # fmt: skip
    assert c_project(quantized_chain()) == c_project(quantized_chain())


@needs_cc
def test_objects_of_one_core_are_not_taken_for_another(tmp_path: Path) -> None:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("no arm-none-eabi-gcc here")
    write_c_project(quantized_chain(), tmp_path, "dsp")
    make(tmp_path, "run")
    for cpu in ("cortex-m4", "cortex-m33"):
        make(tmp_path, "CROSS=arm-none-eabi-", f"CPU={cpu}")
    folders = {path.parent.name: path.read_bytes() for path in tmp_path.glob("build/*/libmodel.a")}
    assert folders.keys() == {"host", "cortex-m4", "cortex-m33"}
    assert len(set(folders.values())) == 3


def test_the_forms_are_those_of_the_header() -> None:
    header = (Path(firmware.__file__).parent / "kernels" / "kernels.h").read_text(encoding="utf-8")
    numbers = {int(n) for n in re.findall(r"^    BF_KERNEL_DSP_\w+ = (\d+)", header, re.M)}
    assert {number for _, number in module._FORMS} == numbers
    for function in module._FORMS.values():
        assert f"void bf_{function}(const struct bf_window *op," in header


def test_a_project_holds_no_form_that_it_does_not_run() -> None:
    graph = operator_model(Operator.parse("conv2d 8x8x8->8x8x8 k3x3 s1x1 same relu int8"))
    files = {name for name in c_project(graph, "dsp") if name.endswith(".c")}
    assert "kernels/conv2d_columns.c" in files
    assert not files & {"kernels/winograd.c", "kernels/pixel.c", "kernels/depthwise_3x3.c"}
    assert "kernels/conv2d_columns.c" not in c_project(graph, "plain")
