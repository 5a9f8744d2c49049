"""Whole networks on an emulated board: every tensor, not only the last one, equals the integer reference's.

A program in which every tensor is an output overwrites none of them, so that one run shows them all. The reference is
compared with TensorFlow Lite Micro itself in tests/graph.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from targets.mcu.board import load_board
from targets.mcu.build import build_firmware
from targets.mcu.link import BoardLink
from targets.mcu.port import SerialPort
from targets.mcu.virtual.machine import VirtualMachine
from targets.mcu.virtual.part import part_of
from targets.mcu.virtual.protocol_virtual import VirtualSerial
from tests.firmware.test_native import quantized_net
from toolchain.export.native.plan import DIRECT, choose_plan
from toolchain.export.native.writer import write_program
from toolchain.graph import Graph
from toolchain.graph.integer_reference import run_int8_all
from toolchain.graph.tflite_reader import read_tflite

BOARD = "nucleo-l4r5zi"


@pytest.fixture(scope="module", params=["gcc", "zig"])
def link(request: pytest.FixtureRequest) -> Iterator[BoardLink]:
    if request.param == "gcc" and shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is a Debian package; zig compiles the same kernels")
    machine = VirtualMachine(part_of(load_board(BOARD)), build_firmware(BOARD, compiler=request.param).elf)
    url = f"virtual:{BOARD}"
    with BoardLink(SerialPort(url, VirtualSerial(url, machine=machine, timeout=0.02))) as opened:
        yield opened


def check_every_tensor(link: BoardLink, graph: Graph, samples: list[np.ndarray[Any, Any]]) -> None:
    names = tuple(dict.fromkeys(node.output for node in graph.nodes))
    all_shown = replace(graph, outputs=names)
    plans = {DIRECT, choose_plan(graph, "dsp")}
    for plan in plans:
        program = write_program(all_shown, "dsp", plan=plan)
        link.write_slot(0, program)
        link.open_model(0, len(program))
        for x in samples:
            expected = run_int8_all(graph, x)
            link.set_input(x.tobytes(), 0)
            link.run(0, 1)
            for name, got in zip(names, link.outputs(), strict=True):
                assert got == expected[name].astype(np.int8).tobytes(), (plan, name)


def samples_of(graph: Graph, random: int = 1) -> list[np.ndarray[Any, Any]]:
    """Random values, and each end of the range, alone and mixed."""
    rng = np.random.default_rng(3)
    shape = graph.tensors[graph.inputs[0]].shape
    ends = rng.choice(np.array([-128, 127], np.int8), shape)
    values = [rng.integers(-128, 128, shape).astype(np.int8) for _ in range(random)]
    return [*values, ends, np.full(shape, -128, np.int8), np.full(shape, 127, np.int8)]


@pytest.mark.data
@pytest.mark.parametrize("name", ["ic01_resnet8_int8", "kws01_dscnn_int8"])
def test_mlperf_networks(link: BoardLink, name: str) -> None:
    folder = os.environ.get("BOARDFIT_DATA")
    if not folder:
        pytest.skip("BOARDFIT_DATA is not set")
    [path] = Path(folder).rglob(f"{name}.tflite")
    graph = read_tflite(path.read_bytes())
    check_every_tensor(link, graph, samples_of(graph))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet8", "mbnet", "mbv3", "dscnn", "ts1d"])
def test_networks(link: BoardLink, name: str) -> None:
    graph = quantized_net(name)
    check_every_tensor(link, graph, samples_of(graph, 2))
