"""Winners on microcontrollers of the size that their constraint is about: c2, c3 and c4 of `table.py`.

    python deploy.py motor.npz results            # ConNAS+c2, ConNAS+c3, ConNAS+c4
    python deploy.py motor.npz results --method exact

The parts are virtual: the real firmware in an emulator with exactly so much flash and RAM (docs/virtual-board.md), so
no hardware is used. Everything counts: firmware and network in flash; its data, its stack and the arena in RAM. Answers
must equal the integer reference in every bit, and a network that is too large must be refused.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from table import load, to_nhwc

from targets.mcu.board import Board, load_board
from targets.mcu.build import Firmware, build_firmware
from targets.mcu.link import BoardLink
from targets.mcu.port import SerialPort
from targets.mcu.session import BoardSession, BoardUrl
from targets.mcu.virtual.machine import VirtualMachine
from targets.mcu.virtual.part import part_of
from targets.mcu.virtual.protocol_virtual import VirtualSerial
from toolchain.errors import BoardfitError, VerificationError
from toolchain.export.native.footprint import arena_bytes
from toolchain.export.native.writer import write_program
from toolchain.files import write_json
from toolchain.graph import Graph, quantize_array
from toolchain.graph.integer_reference import run_int8
from toolchain.graph.lower import lower
from toolchain.graph.tflite_reader import read_tflite
from toolchain.quantize import quantize
from toolchain.spaces import ConNAS1d

KIB = 1024


@dataclass(frozen=True)
class PartSize:
    """A board's facts with the memories of a part of the same series.

    Attributes:
        part: its name. board: whose registers it has. flash_kib, ram_kib: its memories.
    """

    part: str
    board: str
    flash_kib: int
    ram_kib: int


# The paper's series (footnote to section 4.2): G49, C09 and G05. The C0 has no board code here; the G0 of that size
# stands for it. Smaller parts of a series have the registers of the larger one (RM0440, RM0444).
PARTS = {
    "c2": PartSize("STM32G491xC", "nucleo-g491re", 256, 112),
    "c3": PartSize("STM32G071xB", "nucleo-g071rb", 128, 36),
    "c4": PartSize("STM32G051x8", "nucleo-g071rb", 64, 18),
}
# Networks that are too much in int8, by their maps (the flash would do) or by their weights. c2's part has the DSP
# extension, with which wide separable blocks work in place and fit: ds512 ds256 takes less than its 112 KiB.
_WIDE = "ds512 id ds8 id ds8 id ds8 id"
TOO_LARGE = {
    "c2": {"weights": " ".join(["ds512"] * 8)},
    "c3": {"maps": _WIDE, "weights": " ".join(["ds512"] * 8)},
    "c4": {"maps": _WIDE, "weights": "conv64 conv64 conv64 conv64 conv64 conv64 conv64 id"},
}
SAMPLES = 64


def board_of(size: PartSize) -> Board:
    """Its facts."""
    board = load_board(size.board)
    return replace(
        board,
        flash=replace(board.flash, bytes=size.flash_kib * KIB),
        ram=replace(board.ram, bytes=size.ram_kib * KIB),
    )


def open_part(size: PartSize) -> tuple[BoardSession, Firmware]:
    """The emulated part with its firmware, open."""
    board = board_of(size)
    firmware = build_firmware(board)
    machine = VirtualMachine(part_of(board), firmware.elf)
    name = f"virtual:{board.name}"
    line = SerialPort(name, VirtualSerial(name, machine=machine, timeout=0.02))
    url = BoardUrl(board, "", "native", "auto", {})
    return BoardSession(url, firmware, BoardLink(line), ExitStack()), firmware


def deploy(graph: Graph, x: NDArray[np.float32], y: NDArray[np.int64], size: PartSize) -> dict[str, Any]:
    """Run samples on the part.

    Raises:
        VerificationError: an answer differs from the integer reference in any bit.
        BoardfitError: the network does not fit.
    """
    isa: Literal["dsp", "plain"] = "dsp" if load_board(size.board).dsp else "plain"
    session, firmware = open_part(size)
    with session:
        quantization = graph.tensors[graph.inputs[0]].quantization
        assert quantization is not None  # an int8 graph has one everywhere
        program, inputs = write_program(graph, isa), quantize_array(to_nhwc(x), quantization)
        answers = session.run(program, inputs).reshape(len(x), -1)
    reference = run_int8(graph, inputs).reshape(len(x), -1)
    differing = int(np.count_nonzero(answers != reference))
    if differing:
        raise VerificationError(f"{differing} of {answers.size} output values are not those of the reference")
    return {
        "part": size.part,
        "flash_bytes": firmware.flash_bytes + len(program),
        "flash_limit": size.flash_kib * KIB,
        "ram_bytes": firmware.ram_bytes + arena_bytes(graph, isa),
        "ram_limit": size.ram_kib * KIB,
        "firmware_flash_bytes": firmware.flash_bytes,
        "stack_bytes": firmware.stack_bytes,
        "samples": len(x),
        "right": int(np.sum(answers.argmax(1) == y)),
    }


def refusal(text: str, x: NDArray[np.float32], y: NDArray[np.int64], size: PartSize) -> str:
    """What the part, or the tool before it writes, says to a network that is too large.

    Raises:
        VerificationError: it was not refused.
    """
    try:
        deploy(untrained(text), x[:1], y[:1], size)
    except VerificationError:
        raise
    except BoardfitError as error:
        return str(error)
    raise VerificationError(f"{size.part} runs {text}, which is to be too large for it")


def untrained(text: str) -> Graph:
    """A network of the space in int8, with random weights: for what does not depend on them."""
    space = ConNAS1d()
    torch.manual_seed(0)
    graph = lower(space.module(space.decode(text)).eval(), space.input_shape)
    samples = np.random.default_rng(0).random((4, *space.input_shape), np.float32)
    return quantize(graph, to_nhwc(samples), "minmax")


def main() -> None:
    """Deploy what `table.py` found, and refuse what is too large."""
    parser = argparse.ArgumentParser(description="The motor example's winners on virtual parts.")
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--normalize", choices=("standard", "minmax"), default="standard")
    parser.add_argument("--method", choices=("ConNAS", "exact"), default="ConNAS")
    options = parser.parse_args()
    data = load(options.data, options.normalize)
    chosen = np.linspace(0, len(data["y_test"]) - 1, SAMPLES).astype(int)
    x, y = data["x_test"][chosen], data["y_test"][chosen]
    print("virtual parts, no hardware; flash: firmware and network; RAM: data, stack and arena")
    found = {}
    for constraint, size in PARTS.items():
        file = options.folder / f"{options.method}+{constraint}.tflite"
        if not file.exists():
            print(f"{constraint}: {file} is not there; run table.py first")
            continue
        row = found[constraint] = deploy(read_tflite(file.read_bytes()), x, y, size)
        text = json.loads(file.with_suffix(".json").read_text())["text"]
        print(f"{constraint} on {size.part}: {text}\n   flash {row['flash_bytes']:,} of {row['flash_limit']:,} B, "
              f"RAM {row['ram_bytes']:,} of {row['ram_limit']:,} B; {row['samples']} samples bit-identical, "
              f"{row['right']} right")  # fmt: skip
        for what, larger in TOO_LARGE[constraint].items():
            refused = refusal(larger, x, y, size)
            row[f"refused_{what}"] = refused
            print(f"   too large in {what}, refused: {refused}")
    write_json(options.folder / f"deployed-{options.method}.json", found)


if __name__ == "__main__":
    main()
