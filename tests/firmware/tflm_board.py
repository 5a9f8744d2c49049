"""A virtual board whose firmware has the runtime tflm, for tests; skipped where no library is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from targets.mcu import tflm
from targets.mcu.board import load_board
from targets.mcu.build import Firmware, build_firmware
from targets.mcu.link import BoardLink, ModelInfo, RunResult
from targets.mcu.port import SerialPort

BOARD = "nucleo-l4r5zi"
Array = NDArray[Any]


def library_or_skip() -> tflm.TflmLibrary:
    """The library that the environment names."""
    library = tflm.find_library({})
    if library is None:
        pytest.skip(
            f"{tflm.LIBRARY_VARIABLE} and {tflm.INCLUDE_VARIABLE} name no TensorFlow Lite Micro library"
        )
    return library


class TflmBoard:
    """The board with its firmware running. `machine` is the emulator's, for looking inside."""

    def __init__(self, library: tflm.TflmLibrary, cache: Path | None = None, *, core: bool = False) -> None:
        """With `core`, ticks are core cycles at zero wait states instead of the board's."""
        from targets.mcu.virtual.machine import VirtualMachine
        from targets.mcu.virtual.part import part_of
        from targets.mcu.virtual.protocol_virtual import VirtualSerial

        self.firmware: Firmware = build_firmware(BOARD, runtime="tflm", library=library, cache=cache)
        part = part_of(load_board(BOARD))
        if core and part.model is not None:
            part = replace(part, model=replace(part.model, k=1.0, a=0.0))
        self.machine = VirtualMachine(part, self.firmware.elf)
        url = f"virtual:{BOARD}"
        self.link = BoardLink(SerialPort(url, VirtualSerial(url, machine=self.machine, timeout=0.02)))

    def open(self, model: bytes) -> ModelInfo:
        self.link.write_slot(0, model)
        return self.link.open_model(0, len(model))

    def run(self, model: bytes, *inputs: Array) -> list[bytes]:
        """All outputs of each sample of a batch, one behind the other."""
        info = self.open(model)
        answers = []
        for sample in zip(*inputs, strict=True):
            for index, x in enumerate(sample):
                assert len(x.tobytes()) == info.input_bytes[index]
                self.link.set_input(x.tobytes(), index)
            self.link.run(0, 1, timed=False)
            answers.append(b"".join(self.link.outputs()))
        return answers

    def time(self, model: bytes) -> tuple[ModelInfo, RunResult, tuple[int, ...]]:
        """The model, a timed run on noise, and the ticks of its operators."""
        info = self.open(model)
        self.link.fill_input(1)
        result = self.link.run(1, 1, operators=True)
        return info, result, self.link.operator_ticks()


def differing(board: TflmBoard, model: bytes, expected: Array, *inputs: Array) -> tuple[int, int]:
    """(values that differ, the largest difference) between the board's first output and the one that is expected."""
    found = np.stack([np.frombuffer(answer, np.int8) for answer in board.run(model, *inputs)]).astype(int)
    apart = np.abs(found - expected.reshape(found.shape))
    return int((apart > 0).sum()), int(apart.max())
