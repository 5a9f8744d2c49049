"""A model that is too large for a board fails three times: in the plan, in the linker, and on the part itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("unicorn", reason="the emulator is not installed")
pytest.importorskip("elftools", reason="pyelftools is not installed")

from targets.mcu.board import Board, load_board
from targets.mcu.build import DoesNotFitError, Firmware, board_sources, build_program
from targets.mcu.session import open_session
from targets.mcu.virtual.machine import VirtualMachine
from targets.mcu.virtual.part import part_of
from targets.session import Job
from tests.targets.mcu.virtual.firmware import any_compiler
from toolchain.errors import DeviceError, ModelFileError
from toolchain.export.native.c_project import write_c_project
from toolchain.export.native.footprint import arena_bytes, program_bytes
from toolchain.export.native.writer import write_program
from toolchain.graph import Graph, GraphBuilder, Quantization

NAME = "nucleo-g071rb"  # 36 kB of RAM, 128 kB of flash
SCALE = Quantization.per_tensor(0.05, 3)
MAIN = """
#include "board.h"
#include "model.h"
#include "sample.h"

int main(void)
{
    static int8_t output[MODEL_OUTPUT_BYTES];

    board_init();
    model_run(sample_input, output);
    for (uint32_t i = 0; i < MODEL_OUTPUT_BYTES; i++) {
        uint8_t right = output[i] == expected_output[i] ? 'y' : 'n';
        board_write(&right, 1);
    }
    for (;;)
        board_read();
}
"""


def image(side: int) -> Graph:
    """A net whose memory is nearly all activations: an image of `side` x `side` x 8."""
    b = GraphBuilder("int8")
    x = b.input((1, 4, 4, 8), SCALE)
    x = b.pad(x, ((0, 0), (0, side - 4), (0, side - 4), (0, 0)), quantization=SCALE)
    return b.build(b.pool("max_pool", x, (side, side), quantization=SCALE))


def layer(outputs: int) -> Graph:
    """A net whose memory is nearly all weights: 256 for each output."""
    b = GraphBuilder("int8")
    x = b.input((1, 256), SCALE)
    weights = np.random.default_rng(0).integers(-127, 128, (outputs, 256)).astype(np.int8)
    one = Quantization.per_tensor(0.01)
    return b.build(
        b.fully_connected(
            x, weights, np.zeros(outputs, np.int32), quantization=SCALE, weight_quantization=one,
            bias_quantization=Quantization.per_tensor(SCALE.scale[0] * one.scale[0]),
        )
    )  # fmt: skip


def linked(graph: Graph, board: Board, folder: Path) -> Firmware:
    """The exported C project with the board's files."""
    write_c_project(graph, folder, "plain")
    (folder / "main.c").write_text(MAIN)
    sources = [*sorted(folder.rglob("*.c")), *board_sources(board)]
    return build_program(board, sources, includes=[folder], cache=folder / "cache")


def planned(graph: Graph) -> tuple[str, bool]:
    """What a session with the board says of the model, and whether the plan fits what the board has left."""
    with open_session(f"virtual:{NAME}") as session:
        [result] = session.measure([Job("model", write_program(graph, "plain"))])
        device = session.device
    assert device is not None
    fits = (
        program_bytes(graph, "plain") <= device.slot_bytes
        and arena_bytes(graph, "plain") <= device.arena_bytes
    )
    assert fits == (result.measurement is not None)
    return result.failure, fits


def runs(firmware: Firmware) -> bytes:
    """What the program says on the part as it is, whatever it was linked for."""
    return VirtualMachine(part_of(load_board(NAME)), firmware.elf, wall_limit_s=60).read(4, timeout=0.1)


def test_what_fits_passes_all_three(tmp_path: Path) -> None:
    """A control for the tests below."""
    any_compiler()
    for index, graph in enumerate((image(32), layer(64))):
        assert planned(graph) == ("", True)
        assert runs(linked(graph, load_board(NAME), tmp_path / str(index))) == b"yyyy"


def test_too_much_ram(tmp_path: Path) -> None:
    any_compiler()
    graph, board = image(80), load_board(NAME)
    failure, fits = planned(graph)
    assert not fits
    assert f"at least {arena_bytes(graph, 'plain')} bytes of RAM" in failure
    with pytest.raises(DoesNotFitError) as caught:
        linked(graph, board, tmp_path / "model")
    assert caught.value.region == "ram"
    assert 0 < caught.value.over_bytes < arena_bytes(graph, "plain")
    larger = replace(board, ram=replace(board.ram, bytes=4 * board.ram.bytes))
    with pytest.raises(DeviceError, match="RAM of the part ends at 0x20008fff"):
        runs(linked(graph, larger, tmp_path / "larger"))


def test_too_much_flash(tmp_path: Path) -> None:
    any_compiler()
    graph, board = layer(600), load_board(NAME)
    failure, fits = planned(graph)
    assert not fits
    assert f"takes {program_bytes(graph, 'plain'):,} bytes of flash" in failure
    with pytest.raises(DoesNotFitError) as caught:
        linked(graph, board, tmp_path / "model")
    assert caught.value.region == "flash"
    assert 0 < caught.value.over_bytes < program_bytes(graph, "plain")
    larger = replace(board, flash=replace(board.flash, bytes=4 * board.flash.bytes))
    with pytest.raises(ModelFileError, match="flash of nucleo-g071rb is 0x08000000 to 0x0801ffff"):
        runs(linked(graph, larger, tmp_path / "larger"))
