"""Opening a line: what cannot be opened says why, and what was opened is released."""

from __future__ import annotations

import os
import socket
import struct
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from typing import Any

import pytest
import serial
import serial.rfc2217

from targets.mcu.link import BoardLink
from targets.mcu.port import SerialPort, open_port
from toolchain.errors import ConfigurationError, DeviceError


@pytest.fixture
def line() -> Iterator[tuple[int, str]]:
    """The far end of a serial line, and the name of the near one."""
    far, near = os.openpty()
    tty.setraw(near)
    yield far, os.ttyname(near)
    os.close(far)
    os.close(near)


def read_on(port: SerialPort, said: bytearray) -> None:
    for _ in range(20):
        said += port.read()


def test_bytes_go_both_ways(line: tuple[int, str]) -> None:
    far, name = line
    with open_port(name, baud=9600) as port:
        assert port.byte_s == 10 / 9600
        assert port.read() == b""
        port.write(b"there")
        assert os.read(far, 10) == b"there"
        os.write(far, b"back")
        assert port.read() == b"back"


@pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")  # pyserial 3.5's own
def test_a_serial_line_over_the_network() -> None:
    """RFC 2217: telnet with escapes, as ser2net and pyserial's own servers speak it."""
    sent = bytes(range(256)) * 4
    with socket.create_server(("127.0.0.1", 0)) as server:
        echo = threading.Thread(target=_echo_rfc2217, args=(server,))
        echo.start()
        with open_port(f"rfc2217://127.0.0.1:{server.getsockname()[1]}") as port:
            port.write(sent)
            got = bytearray()
            for _ in range(500):
                if len(got) < len(sent):
                    got += port.read()
        echo.join(10)
        assert not echo.is_alive()
    assert got == sent


def _echo_rfc2217(server: socket.socket) -> None:
    connection = server.accept()[0]
    with connection, serial.serial_for_url("loop://", timeout=0) as loop:
        writer = type("Connection", (), {"write": staticmethod(connection.sendall)})
        manager = serial.rfc2217.PortManager(loop, writer)
        while data := connection.recv(4096):
            loop.write(b"".join(manager.filter(data)))
            while loop.in_waiting:
                connection.sendall(b"".join(manager.escape(loop.read(loop.in_waiting))))


def test_an_echo_is_no_answer() -> None:
    """A line whose two wires are joined brings back what was sent."""
    link = BoardLink(open_port("loop://"), reply_s=0.02)
    with link, pytest.raises(DeviceError, match="bytes came and no answer"):
        link.hello()


def test_a_busy_port_is_named_so_and_released_by_its_holder(line: tuple[int, str]) -> None:
    _, name = line
    with open_port(name), pytest.raises(DeviceError, match="is busy: another program has it open"):
        open_port(name)
    open_port(name).close()


def test_a_port_is_released_after_an_error(line: tuple[int, str]) -> None:
    _, name = line
    with pytest.raises(RuntimeError), open_port(name):
        raise RuntimeError
    open_port(name).close()


def test_no_such_port() -> None:
    with pytest.raises(DeviceError, match="there is no port /dev/ttyNONE") as error:
        open_port("/dev/ttyNONE")
    assert "boardfit boards" in error.value.remedy
    assert error.value.exit_code == 5


def test_something_else_than_a_port(tmp_path: Any) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(DeviceError, match="file"):
        open_port(str(file))


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may open everything")
def test_no_right(tmp_path: Any) -> None:
    file = tmp_path / "file"
    file.touch(mode=0)
    with pytest.raises(DeviceError, match="no right") as error:
        open_port(str(file))
    assert "dialout" in error.value.remedy


@pytest.mark.parametrize("url", ["nonsense://x", "socket://nowhere", "socket://127.0.0.1:99999999"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises((ConfigurationError, DeviceError), match=url.split(":")[0]):
        open_port(url)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"socket://127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(DeviceError, match="nobody listens there"):
        open_port(url)


def test_the_far_end_of_a_socket_goes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with open_port(f"socket://127.0.0.1:{server.getsockname()[1]}") as port:
            far = server.accept()[0]
            far.sendall(b"last words")
            far.close()
            said = bytearray()
            with pytest.raises(DeviceError, match="the line was cut"):
                read_on(port, said)
            assert said == b"last words"
        port.close()  # twice is once


def test_a_far_end_that_dies_leaves_no_socket_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = open_port(f"socket://127.0.0.1:{server.getsockname()[1]}")
        far = server.accept()[0]
    line = port._serial._socket
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by RST
    far.close()
    with pytest.raises(DeviceError, match="the line was cut"):
        read_on(port, bytearray())
    port.close()
    assert line.fileno() == -1


def test_a_port_that_is_unplugged() -> None:
    far, near = os.openpty()
    port = open_port(os.ttyname(near))
    os.close(near)
    os.close(far)
    with pytest.raises(DeviceError, match="the line was cut"):
        read_on(port, bytearray())
    port.close()


class Broken:
    """A port of pyserial in trouble."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.in_waiting = 0

    def read(self, size: int) -> bytes:
        raise self._error

    def write(self, data: bytes) -> int:
        raise self._error

    def close(self) -> None:
        raise self._error


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), TypeError("an integer is required"), termios.error(5, "EIO")]
)
def test_whatever_pyserial_raises_is_a_device_error(error: Exception) -> None:
    port = SerialPort("/dev/ttyX", Broken(error))
    with pytest.raises(DeviceError, match="/dev/ttyX: the line was cut"):
        port.read()
    with pytest.raises(DeviceError, match="/dev/ttyX: the line was cut"):
        port.write(b"x")
    port.close()


def test_errors_of_ones_own_pass() -> None:
    port = SerialPort("virtual:x", Broken(ConfigurationError("no compiler")))
    with pytest.raises(ConfigurationError, match="no compiler"):
        port.read()
    with pytest.raises(ConfigurationError, match="no compiler"):
        port.write(b"")


def test_without_pyserial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(ConfigurationError, match="pyserial") as error:
        open_port("/dev/ttyACM0")
    assert "boardfit[boards]" in error.value.remedy


def test_an_unknown_virtual_board() -> None:
    pytest.importorskip("unicorn")
    with pytest.raises(ConfigurationError, match="no-such-board"):
        open_port("virtual:no-such-board")
