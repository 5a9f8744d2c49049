"""The virtual board against QEMU, instruction by instruction: one firmware, two emulators."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("unicorn")
pytest.importorskip("serial")

from targets.mcu import qemu
from targets.mcu.board import load_board
from targets.mcu.build import Firmware, build_firmware
from targets.mcu.link import BoardLink, RunResult
from targets.mcu.port import Port, SerialPort, open_port
from targets.mcu.virtual.machine import VirtualMachine
from targets.mcu.virtual.part import part_of
from targets.mcu.virtual.protocol_virtual import VirtualSerial
from tests.targets.mcu.virtual.firmware import compilers
from toolchain.errors import ConfigurationError, DeviceError
from toolchain.export.native.writer import write_program
from toolchain.graph import Graph

needs_qemu = pytest.mark.skipif(not qemu.installed(), reason="qemu-system-arm is not installed")


@dataclass(frozen=True)
class Answer:
    run: RunResult
    operators: tuple[int, ...]
    outputs: tuple[bytes, ...]


def small_nets() -> dict[str, Graph]:
    pytest.importorskip("torch")
    from tests import nets
    from toolchain.graph.lower import lower
    from toolchain.quantize import quantize

    found = {}
    for name, net in nets.NETS.items():
        graph = lower(net.build().eval(), net.input_shape)
        shape = (16, *graph.tensors[graph.inputs[0]].shape[1:])
        found[name] = quantize(graph, np.random.default_rng(0).normal(size=shape).astype(np.float32))
    return found


def ask(port: Port, places: dict[str, tuple[int, int]]) -> dict[str, Answer]:
    """Run each model of the slot once; ticks are instructions."""
    found = {}
    with BoardLink(port) as link:
        assert link.board.tick_source == "tim2"
        assert link.board.ticks_ok
        for name, (offset, size) in places.items():
            link.open_model(offset, size)
            link.fill_input(1)
            run = link.run(0, 1, operators=True)
            found[name] = Answer(run, link.operator_ticks(), tuple(link.outputs()))
    return found


def in_unicorn(firmware: Firmware, slot: bytes, places: dict[str, tuple[int, int]]) -> dict[str, Answer]:
    machine = VirtualMachine(part_of(load_board(qemu.BOARD)), firmware.elf)
    machine.poke(firmware.slot_address, slot)
    return ask(SerialPort("virtual", VirtualSerial("virtual", machine=machine, timeout=0.02)), places)


def in_qemu(firmware: Firmware, slot: bytes, places: dict[str, tuple[int, int]]) -> dict[str, Answer]:
    with qemu.qemu(firmware.elf, slot, firmware.slot_address) as url:
        return ask(open_port(url), places)


@needs_qemu
@pytest.mark.slow
@pytest.mark.parametrize("compiler", compilers())
def test_two_emulators_count_the_same_instructions(compiler: str) -> None:
    slot, places = b"", {}
    for name, graph in small_nets().items():
        program = write_program(graph, "dsp")
        places[name] = (len(slot), len(program))
        slot += program + bytes(-len(program) % 16)
    firmware = build_firmware(qemu.BOARD, compiler=compiler)
    ours, theirs = in_unicorn(firmware, slot, places), in_qemu(firmware, slot, places)
    for name in places:
        assert ours[name].outputs == theirs[name].outputs
        [a], [b] = ours[name].run.ticks, theirs[name].run.ticks
        assert a > 10_000
        assert abs(a - b) <= 0.001 * b, (name, a, b)
        for index, (x, y) in enumerate(zip(ours[name].operators, theirs[name].operators, strict=True)):
            assert abs(x - y) <= max(2, 0.001 * y), (name, index, x, y)
        assert ours[name].run.stack_bytes == theirs[name].run.stack_bytes


@needs_qemu
def test_a_firmware_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.elf"), qemu.qemu(tmp_path / "missing.elf"):
        pass


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for QEMU is a shell script")
def test_what_ends_at_once_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = tmp_path / qemu.PROGRAM
    stand_in.write_text("#!/bin/sh\necho unsupported machine type >&2\nexit 1\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="unsupported machine type"), qemu.qemu(stand_in):
        pass


@needs_qemu
def test_version() -> None:
    assert "QEMU" in qemu.version()


def test_without_qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not qemu.installed()
    with pytest.raises(ConfigurationError, match="apt install"), qemu.qemu(tmp_path / "any.elf"):
        pass
