"""The virtual board: how fast it emulates, what a network costs on it by the cycle model, how fast its serial line is,
and whether it counts the instructions that QEMU counts. Needs the extra `virtual`; QEMU where it is installed.

Models are ResNet8 and DS-CNN of MLPerf Tiny from $BOARDFIT_DATA, else the five small networks of the tests.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
from unicorn import arm_const
from unicorn.unicorn_py3.unicorn import uclib

from targets.mcu import qemu
from targets.mcu.board import load_board
from targets.mcu.build import Firmware, build_firmware
from targets.mcu.link import BoardLink
from targets.mcu.port import SerialPort, open_port
from targets.mcu.virtual.machine import VirtualMachine
from targets.mcu.virtual.part import part_of
from targets.mcu.virtual.protocol_virtual import VirtualSerial
from toolchain.export.native.writer import write_program
from toolchain.graph.tflite_reader import read_tflite

BOARD = "nucleo-l4r5zi"


def models() -> dict[str, bytes]:
    """Programs by name."""
    folder = os.environ.get("BOARDFIT_DATA")
    found = sorted(Path(folder).rglob("*_int8.tflite")) if folder else []
    if found:
        return {path.stem: write_program(read_tflite(path.read_bytes()), "dsp") for path in found}
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.targets.mcu.test_qemu import small_nets

    return {name: write_program(graph, "dsp") for name, graph in small_nets().items()}


def machine_of(firmware: Firmware, **options: object) -> tuple[VirtualMachine, BoardLink]:
    """A running board and the link to it."""
    machine = VirtualMachine(part_of(load_board(firmware.board)), firmware.elf, **options)  # type: ignore[arg-type]
    line = VirtualSerial("virtual", machine=machine, timeout=0.02)
    return machine, BoardLink(SerialPort("virtual", line))


def speed(firmware: Firmware, name: str, program: bytes) -> None:
    """Million instructions per second of processor time, with the block counter in C, in Python and without; and what
    the cycle model says."""
    for label, native in (("C hook", True), ("Python hook", False)):
        machine, link = machine_of(firmware, native=native)
        machine.poke(firmware.slot_address, program)
        with link:
            info = link.open_model(0, len(program))
            link.fill_input(1)
            machine_before = machine.core_cycles, machine.instructions
            result = link.run(0, 1)
            cycles, instructions = (
                machine.core_cycles - machine_before[0],
                machine.instructions - machine_before[1],
            )
            if native:
                print(
                    f"{name:20s} {result.min_ticks:,} cycles by the model, {cycles / instructions:.3f} core cycles per "
                    f"instruction, {result.constant_lines:,} lines of constants, {info.operators} operators"
                )
            counted = invoke(machine)
            start = time.process_time()
            counted = invoke(machine)
            taken = time.process_time() - start
            print(f"{name:20s} {label:12s} {counted / taken / 1e6:8.1f} MIPS")
            if native:
                uclib.uc_hook_del(machine._engine._uch, machine._handle)
                machine._engine.ctl_flush_tb()
                invoke(machine)
                start = time.process_time()
                invoke(machine)
                taken = time.process_time() - start
                print(f"{name:20s} {'no hook':12s} {counted / taken / 1e6:8.1f} MIPS")


def invoke(machine: VirtualMachine) -> int:
    """Call the runtime's bf_invoke(-1, 0, 0) without firmware and serial line around it; gives the instructions.

    It returns to the first byte of flash, where no code is: the engine ends there also without a hook.
    """
    engine, state, nowhere = machine._engine, machine._state, machine.part.flash_address
    for register, value in (
        (arm_const.UC_ARM_REG_R0, 0xFFFFFFFF),
        (arm_const.UC_ARM_REG_R1, 0),
        (arm_const.UC_ARM_REG_R2, 0),
        (arm_const.UC_ARM_REG_LR, nowhere | 1),
    ):
        engine.reg_write(register, value)
    state.reason, state.fuel, before = 0, 1 << 40, machine.instructions
    engine.emu_start(machine.image.symbols["bf_invoke"] | 1, nowhere)
    return machine.instructions - before


def line_speed(firmware: Firmware) -> None:
    """Bytes per second into the model slot: frames, checksums, flash driver and all."""
    _, link = machine_of(firmware)
    data = np.random.default_rng(0).integers(0, 256, 512 * 1024).astype(np.uint8).tobytes()
    with link:
        start = time.process_time()
        link.write_slot(0, data)
        taken = time.process_time() - start
    print(
        f"serial line          {len(data) / taken / 1e3:8.0f} kB/s into the slot (11.5 kB/s at 115,200 baud)"
    )


def against_qemu(programs: dict[str, bytes]) -> None:
    """Instructions of one run in both emulators."""
    if not qemu.installed():
        print("QEMU is not installed")
        return
    firmware = build_firmware(qemu.BOARD)
    for name, program in programs.items():
        machine, link = machine_of(firmware)
        machine.poke(firmware.slot_address, program)
        counts = []
        with link:
            link.open_model(0, len(program))
            link.fill_input(1)
            counts.append(link.run(0, 1).min_ticks)
        with (
            qemu.qemu(firmware.elf, program, firmware.slot_address) as url,
            BoardLink(open_port(url)) as other,
        ):
            other.open_model(0, len(program))
            other.fill_input(1)
            counts.append(other.run(0, 1).min_ticks)
        print(f"{name:20s} {counts[0]:,} instructions here, {counts[1]:,} in {qemu.version()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compiler", default="auto", help="gcc or zig")
    given = parser.parse_args()
    firmware = build_firmware(BOARD, compiler=given.compiler)
    print(f"{BOARD}, firmware of {firmware.compiler} {firmware.flags}")
    programs = models()
    for name, program in programs.items():
        speed(firmware, name, program)
    line_speed(firmware)
    against_qemu(programs)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
