"""Every virtual board with the real firmware: start-up, serial line, flash driver, a network."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("unicorn")
pytest.importorskip("serial")

import serial

from targets.mcu.board import list_boards, load_board
from targets.mcu.link import BoardLink
from targets.mcu.port import open_port
from targets.mcu.virtual import open_virtual
from targets.mcu.virtual.part import timing
from targets.mcu.virtual.protocol_virtual import VirtualSerial
from tests.targets.mcu.virtual.firmware import M4, any_compiler, compile_firmware, compilers
from toolchain.errors import ConfigurationError, DeviceError
from toolchain.measurement import Evidence


@pytest.mark.slow
@pytest.mark.parametrize("name", list_boards())
def test_the_firmware_of_every_board(name: str) -> None:
    any_compiler()
    port = open_virtual(f"virtual:{name}")
    with BoardLink(open_port_of(port)) as link:
        hello = link.board
        assert (hello.board, hello.ticks_ok, hello.lost_bytes) == (name, True, 0)
        machine = port.machine
        data = np.random.default_rng(0).integers(0, 256, 1920).astype(np.uint8).tobytes()
        last = hello.slot_bytes - hello.page_bytes
        for offset in (0, last):  # the last page lies in the second bank where there are two
            assert link.write_slot(offset, data) > 0
            start = machine.image.symbols["bf_slot_start"] + offset
            assert machine.memory(start, len(data)) == data
        assert link.write_slot(0, data[:960]) == 0  # right already
        assert link.write_slot(0, data[::-1]) > 0
        again = link.reset()
        assert again == hello
        assert machine.memory(machine.image.symbols["bf_slot_start"], len(data)) == data[::-1]


def open_port_of(port: VirtualSerial) -> object:
    from targets.mcu.port import SerialPort

    return SerialPort("virtual", port)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", compilers())
def test_through_pyserials_urls_and_ours(compiler: str) -> None:
    board = "nucleo-g071rb"
    for opened in (
        open_port(f"virtual:{board}?compiler={compiler}"),
        open_port_of(serial.serial_for_url(f"virtual://{board}?compiler={compiler}", timeout=0.02)),
    ):
        with BoardLink(opened) as link:  # type: ignore[arg-type]
            assert link.board.board == board
            assert link.board.tick_source == "systick"


def test_urls_that_are_wrong() -> None:
    with pytest.raises(ConfigurationError, match="nucleo-l4r5zi"):
        open_virtual("virtual:nucleo-l4r5")
    with pytest.raises(ConfigurationError, match="speed"):
        open_virtual("virtual:nucleo-l4r5zi?speed=9")


ECHO = "int main(void) { for (;;) put((uint32_t)wait() + 1); }"


@pytest.fixture
def line(tmp_path_factory: pytest.TempPathFactory) -> VirtualSerial:
    from targets.mcu.virtual.machine import VirtualMachine

    machine = VirtualMachine(M4, compile_firmware(tmp_path_factory.mktemp("line"), ECHO))
    return VirtualSerial("virtual://small", machine=machine, timeout=0.01)


def test_a_port_of_pyserial(line: VirtualSerial) -> None:
    assert isinstance(line, serial.SerialBase)
    assert line.is_open
    assert line.read(1) == b""
    assert line.write(b"HAL") == 3
    assert line.in_waiting == 3
    assert line.out_waiting == 0
    assert line.read(2) == b"IB"
    line.reset_input_buffer()
    assert line.read(1) == b""
    line.write(bytearray(b"`"))
    line.flush()
    line.reset_output_buffer()
    assert line.read_all() == b"a"
    line.write(memoryview(b"\x09xyz"))
    assert line.readline() == b"\n"
    assert line.read_until(b"z") == b"yz{"[:2]


def test_control_lines_do_nothing(line: VirtualSerial) -> None:
    line.dtr = line.rts = False
    line.break_condition = True
    line.baudrate = 9600
    assert (line.cts, line.dsr, line.ri, line.cd) == (True, True, False, False) or line.cd
    line.write(b"a")
    assert line.read(1) == b"b"


def test_a_read_without_a_time_out_that_would_never_end(line: VirtualSerial) -> None:
    line.timeout = None
    line.write(b"a")
    with pytest.raises(DeviceError, match="2 bytes were asked for without a time-out; the firmware sent 1"):
        line.read(2)


def test_a_closed_port(line: VirtualSerial) -> None:
    line.close()
    line.close()
    assert not line.is_open
    for call in (lambda: line.read(1), lambda: line.write(b"a"), lambda: line.in_waiting):
        with pytest.raises(serial.PortNotOpenError):
            call()
    line.open()
    assert line.is_open
    with pytest.raises(serial.SerialException, match="is open"):
        line.open()


@pytest.mark.parametrize("name", list_boards())
def test_what_the_ticks_of_a_board_are(name: str) -> None:
    board = load_board(name)
    evidence, fields = timing(board)
    assert fields["hardware"] == "none was used"
    if board.cycles.kind == "cycles_estimated":
        assert evidence is Evidence.CYCLES_ESTIMATED
        assert board.core == "cortex-m4"
        assert {"cycle_model", "k", "a", "refill", "clock_hz", "wait_states", "band"} <= fields.keys()
        assert fields["cycle_model"] == "m4-flash/2"
    else:
        assert evidence is Evidence.INSTRUCTIONS
        assert "k" not in fields
